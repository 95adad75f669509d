"""Whatever workflow is grown, and wherever its process dies: it ends, as a walk of its graph, and as without the death."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from treadle.definition.load import load_text
from treadle.engine import workflow_walk
from treadle.engine.activation import State
from treadle.engine.scheduler import fold_all
from treadle.engine.workflow_walk import WorkflowWalk
from treadle.errors import StoreError, TreadleError
from treadle.graph.nodes import StepGraph
from treadle.lifecycle import is_terminal
from treadle.objects.project import Project, ProjectSpec
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.objects.workflow import WorkflowSpec
from treadle.service import Treadle
from treadle.store.base import Checkpoint
from treadle.store.check import check
from treadle.store.sqlite import SqliteStore
from treadle.testing.crash_points import READS, step_print
from treadle.testing.crash_verdict import lasting
from treadle.testing.fakes import CountedIds, FrozenClock
from treadle.testing.walk import walk_wrongs

from .workflow_growth import Grown, workflows

SEED = int(os.environ.get("TREADLE_STATEFUL_SEED", "1"))
SHRINKS = "TREADLE_STATEFUL_SHRINK" in os.environ
EXAMPLES = int(os.environ.get("TREADLE_STATEFUL_EXAMPLES", "120"))
LEASE_S = 15.0
MOST_TURNS = 200

counted: Counter[str] = Counter()


class Died(StoreError):
    """The process is gone: nothing it does reaches the store."""


class MortalStore:
    """A store whose process dies at its n-th write, before or after it."""

    def __init__(
        self, path: Path, dies_at: int | None, *, after: bool, ended: dict[tuple[str, int], str]
    ) -> None:
        self.ended = ended
        self._inner = SqliteStore(path, timer=lambda: 0.0)
        self._left = dies_at
        self._after = after
        self.writes = 0
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found) or name == "close":
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            if self.is_dead:
                raise Died("the process is dead")
            if name in READS:
                return await found(*arguments, **options)
            self.writes += 1
            is_last = self.writes == self._left
            if is_last and not self._after:
                self.is_dead = True
                raise Died("the process is dead")
            result = await found(*arguments, **options)
            if name == "commit":
                self._note(arguments[0])
            if is_last:
                self.is_dead = True
                raise Died("the process is dead")
            return result

        return call

    def _note(self, checkpoint: Checkpoint) -> None:
        """Keep what has ended: from here on it reads the same for ever."""
        ended = [s for s in checkpoint.steps if not s.is_open]
        self.ended.update({(s.path, s.attempt): step_print(s) for s in ended})


class Ended(NamedTuple):
    """What came of a run."""

    run: Run
    steps: list[Step]
    graph: StepGraph
    said: list[str | None]

    @property
    def outcome(self) -> Any:
        state = fold_all(self.graph, self.steps)
        return self.run.status, self.run.output, dict(state.values[""].state), self.said

    @property
    def course(self) -> list[Any]:
        return sorted(
            (s.path, s.status, s.edge or "", _told(lasting(s.result)), _told(s.writes))
            for s in self.steps
            if s.edge != "retry"
        )


def _told(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@dataclass
class Machine:
    """One machine: a file, a clock that goes on, and what was called by key."""

    folder: Path
    spec: WorkflowSpec
    now_ms: int = 1_767_225_600_000
    passed_s: float = 0.0
    ids: CountedIds = field(default_factory=CountedIds)
    lives: int = 0
    writes: int = 0
    done: dict[tuple[str, int], str] = field(default_factory=dict)

    def live(self, dies_at: int | None = None, *, after: bool = False) -> Ended | None:
        """Be one process: to the end, or to its death."""
        self.lives += 1
        store = MortalStore(self.folder / "treadle.db", dies_at, after=after, ended=self.done)
        self.passed_s += LEASE_S * 2
        self.now_ms += int(LEASE_S * 2000)
        clock = FrozenClock(self.now_ms, elapsed_s=self.passed_s)
        try:
            return asyncio.run(self._live(store, clock))
        finally:
            self.writes = store.writes
            self.now_ms, self.passed_s = clock.wall_ms, clock.elapsed_s

    async def _live(self, store: MortalStore, clock: FrozenClock) -> Ended | None:
        treadle = Treadle(
            store, project=Project(ProjectSpec.model_construct(), self.folder), clock=clock, ids=self.ids, walk=True
        )  # fmt: skip
        treadle.callables.update({"grown:double": double, "grown:refuse": refuse})
        ended: Ended | None = None
        try:
            await treadle.recover()
            ended = await self._to_the_end(treadle, clock)
        except TreadleError:
            if not store.is_dead:
                raise
        finally:
            with suppress(Died):
                await treadle.close()
            await store._inner.close()
        return ended

    async def _to_the_end(self, treadle: Treadle, clock: FrozenClock) -> Ended:
        threads = await treadle.threads.list(limit=1, order="asc")
        runs = await treadle.runs.list(threads[0].id, limit=1) if threads else []
        run = runs[0] if runs else await treadle.workflows.start(self.spec)
        for _ in range(MOST_TURNS):
            await treadle.runs.settle()
            run = await treadle.runs.get(run.id)
            if is_terminal(run.status):
                break
            # A question that has a deadline is left to it: how long a process was dead must decide nothing.
            if asks := [p for p in run.required_answers if p.until_ms is None]:
                asked = min(asks, key=lambda p: p.path)
                verdict = "approve" if len(asked.path) % 2 else "reject"
                await treadle.runs.answer(run.id, asked.path, decision=verdict)
            elif run.wake_ms is not None:
                clock.advance(max(0.0, (run.wake_ms - clock.now_ms()) / 1000))
                await treadle.recover()
            else:
                await treadle.recover()
                await asyncio.sleep(0)
        steps = await treadle.store.steps(run.tenant, run.id)
        graph = StepGraph.load(await treadle.store.graph(run.tenant, run.graph))
        rows = await treadle.store.rows(run.tenant, run.thread_id, limit=10_000)
        return Ended(run, steps, graph, [row.text for row in rows])


async def double(n: int) -> int:
    """Give something of a number."""
    await asyncio.sleep(0)
    return 2 * n + 1


async def refuse(n: int) -> int:
    """Refuse some numbers."""
    await asyncio.sleep(0)
    if n % 3 == 0:
        raise ValueError(f"not {n}")
    return n


def grown_spec(grown: Grown) -> WorkflowSpec:
    """Read a grown document as a person's is read."""
    loaded = load_text(json.dumps(grown.document), name="grown.workflow.yaml")
    assert [p.message for p in loaded.problems if p.severity == "error"] == []
    return loaded.workflows[0].workflow


@contextmanager
def machine(spec: WorkflowSpec) -> Iterator[Machine]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Machine(Path(folder), spec)


def seen(state: State) -> Mapping[str, Any]:
    """Give what a state means."""
    return {
        "ready": [a.path for a in state.ready],
        "open": sorted(a.path for a, _ in state.open),
        "values": {lane: dict(values.state) for lane, values in state.values.items()},
        "finished": state.is_finished,
        "failed": state.failed.path if state.failed is not None else None,
        "counts": (state.steps, state.tool_calls),
    }


class LookedAt(WorkflowWalk):
    """A walk that is held against its journal whenever it has written all that it knows."""

    async def advance(self) -> bool:
        is_over = await super().advance()
        if not self._draft.steps and not is_terminal(self.run.status):
            steps = await self._store.steps(self.run.tenant, self.run.id)
            assert seen(fold_all(self.graph, steps)) == seen(self.state)
            counted["states"] += 1
        return is_over


def hold(ended: Ended) -> None:
    """Hold what must be true of every run that has ended."""
    run, steps, graph, _ = ended
    assert is_terminal(run.status), f"{run.status} rests, and asks nobody"
    assert not (run.last_error is not None and run.last_error.code == "server_error"), run.last_error
    assert walk_wrongs(graph, steps, run.status) == []
    rows = sorted(steps, key=lambda s: (s.event_seq or 0, s.n))
    for length in range(len(rows) + 1):
        fold_all(graph, rows[:length])
    assert run.status != "completed" or fold_all(graph, steps).is_finished
    counted["steps"] += len(steps)


def grow(*more: st.SearchStrategy[Any]) -> Any:
    """Give the examples of a test: always the same ones, unless the environment says otherwise."""

    def decorate(test: Any) -> Any:
        phases = (Phase.generate, Phase.shrink) if SHRINKS else (Phase.generate,)
        made = settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=phases,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        return seed(SEED)(made(given(workflows(), *more)(test)))

    return decorate


def tell(capsys: Any) -> None:
    """Say what was counted."""
    with capsys.disabled():
        said = ", ".join(f"{count} {what}" for what, count in sorted(counted.items()))
        print(f"\ngrown workflows: {said}")


def test_every_workflow_ends_as_a_walk_of_its_graph(capsys: Any, monkeypatch: Any) -> None:
    counted.clear()
    monkeypatch.setattr(workflow_walk, "WorkflowWalk", LookedAt)

    @grow()
    def walk(grown: Grown) -> None:
        spec = grown_spec(grown)
        with machine(spec) as one:
            ended = one.live()
        assert ended is not None
        hold(ended)
        counted["runs"] += 1
        counted[f"runs {ended.run.status}"] += 1

    walk()
    tell(capsys)
    assert counted["states"] > EXAMPLES
    assert counted["runs completed"] > EXAMPLES // 4
    assert counted["runs failed"] > 0 or EXAMPLES < 100


def test_a_process_that_dies_anywhere_changes_nothing_of_what_comes(capsys: Any) -> None:
    """Where it decides what comes which branch is quicker, only what holds for every run is held."""
    counted.clear()

    @grow(st.integers(min_value=1, max_value=60), st.booleans(), st.integers(min_value=0, max_value=12))
    def die(grown: Grown, at: int, after: bool, again: int) -> None:
        spec = grown_spec(grown)
        with machine(spec) as undisturbed:
            reference = undisturbed.live()
            at = 1 + at % max(1, undisturbed.writes)
        assert reference is not None
        with machine(spec) as killed:
            ended = killed.live(at, after=after)
            if ended is None and again:
                ended = killed.live(again)
            if ended is None:
                ended = killed.live()
            assert ended is not None
            hold(ended)
            assert {(s.path, s.attempt): step_print(s) for s in ended.steps} == killed.done
            assert check(killed.folder / "treadle.db") == []
        counted["runs"] += 1
        counted["deaths"] += killed.lives - 1
        if not grown.is_racy:
            assert ended.outcome == reference.outcome
            assert ended.course == reference.course
            counted["runs held against one without a death"] += 1

    die()
    tell(capsys)
    assert counted["deaths"] > EXAMPLES // 2
    assert counted["runs held against one without a death"] > EXAMPLES // 4
