"""Whatever clients, models, tools, people, clocks and dying processes do: what is stored is what a small model says."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from treadle.errors import Conflict, NotFound, StateError, ThreadBusy, ToolOutputsError, TreadleError
from treadle.objects.event import Event
from treadle.objects.message import ToolCall
from treadle.store.base import Order
from treadle.store.check import check
from treadle.testing.history import check_numbers

from .reference import Call, Reference, Row, Run, Seen, Thread, Tool, differences
from .world import Following, Gate, Process, World, declare, outcome, reply

SEED = os.environ.get("TREADLE_STATEFUL_SEED")
SHRINKS = "TREADLE_STATEFUL_SHRINK" in os.environ
EXAMPLES = int(os.environ.get("TREADLE_STATEFUL_EXAMPLES", "120"))
STEPS = int(os.environ.get("TREADLE_STATEFUL_STEPS", "40"))

TOOLS = {tool.name: tool for tool in (
    Tool("look", "pure"),
    Tool("put", "idempotent"),
    Tool("send"),
    Tool("wire", on_unknown="fail"),
    Tool("ship", on_unknown="ask"),
    Tool("pay", asks=True),
    Tool("sign", "idempotent", asks=True, waits_ms=60_000),
    Tool("ask", is_client=True),
    Tool("confess", is_client=True, asks=True),
    Tool("nothing", is_wrong=True),
)}  # fmt: skip
AT_LIMIT = {f"{i:02}" + "ä" * 62: "\N{SNOWMAN}" * 512 for i in range(16)}
NOTES: Mapping[str, Mapping[str, str]] = {
    "none": {}, "one": {"a": "b"}, "two": {"a": "", "b": "x" * 512}, "at limit": AT_LIMIT,
}  # fmt: skip

picks = st.integers(min_value=0, max_value=11)
flags = st.booleans()
notes = st.sampled_from(sorted(NOTES))
manners = st.sampled_from(["reject", "queue", "queue"])
replies = st.lists(st.sampled_from(sorted(TOOLS)), min_size=1, max_size=3)
verdicts = st.sampled_from(["approve", "approve", "edit", "reject"])
lifetimes = st.sampled_from([None, None, None, "30s", "90s", "0"])

counted: Counter[str] = Counter()


class Reader(NamedTuple):
    """Somebody who reads a thread's messages page by page, while others append."""

    thread: str
    texts: list[str]
    last: list[str]


class Machine(RuleBasedStateMachine):
    """Clients, models, tools, people and processes in any order, over one file."""

    def __init__(self) -> None:
        super().__init__()
        ram = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="treadle-", dir=ram if ram.is_dir() else None))
        self.world = World(self.folder, list(TOOLS.values()))
        self.ref = Reference()
        self.tokens = 0
        self.readers: list[Reader] = []
        self.followings: list[Following] = []
        self.events: dict[str, list[Event]] = {}
        self.read: set[str] = set()

    @initialize(first=flags, second=flags, tools=replies, in_line=picks)
    def begin(self, first: bool, second: bool, tools: list[str], in_line: int) -> None:
        self.names = iter(f"p{n}" for n in range(1, 1000))
        one = self.start_process(first)
        self.start_process(second)
        self.agent = self.do(
            one,
            one.treadle.agents.create(
                model="scripted",
                tools=[declare(t) for t in TOOLS.values() if not t.is_wrong],
                limits={"max_steps": 1000},
            ),
        )
        self.new_thread(0, True, "none")
        self.create_run(0, 0, "reject", False, False, None, "none")
        for _ in range(in_line % 3):
            self.create_run(in_line, 0, "queue", True, False, None, "none")
        self.model_calls(0, tools)

    # -- at hand -----------------------------------------------------------------------------------------------

    def do(self, process: Process, work: Any) -> Any:
        return self.world.do(process, work)

    def token(self) -> str:
        self.tokens += 1
        return f"t{self.tokens}"

    @property
    def awake(self) -> list[Process]:
        return [p for p in self.world.processes if p.is_awake]

    @property
    def silent(self) -> list[Process]:
        return [p for p in self.world.processes if p.life.is_paused and not p.life.is_over]

    def process(self, pick: int) -> Process:
        return self.awake[pick % len(self.awake)]

    def thread(self, pick: int) -> Thread:
        return list(self.ref.threads.values())[-1 - pick % len(self.ref.threads)]

    def run(self, pick: int) -> Run:
        """Give a run, mostly one that has not ended."""
        runs = list(self.ref.runs.values())
        active = [r for r in runs if r.is_active]
        return active[pick % len(active)] if active and pick < 10 else runs[-1 - pick % len(runs)]

    def is_gone(self, walker: str) -> bool:
        return walker not in self.living

    def refused(self, result: Any, error: type[Exception]) -> None:
        assert isinstance(result, error), f"{result!r} instead of {error.__name__}"
        counted["refused"] += 1

    def start_process(self, walks_all: bool) -> Process:
        process = self.world.start(next(self.names), walks_all=walks_all)
        self.reconcile()
        return process

    # -- what must hold after each step ------------------------------------------------------------------------

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        counted["steps"] += 1
        self.reconcile()
        self.hold_rows()
        self.hold_events()
        self.hold_waits()
        assert not self.world.problems, self.world.problems

    def reconcile(self) -> None:
        """Both have the same runs, once the reference has made the moves that treadle made by itself."""
        seen = self.follow_moves()
        mine = {run.id: run.seen for run in self.ref.runs.values()}
        wrong = [
            f"{id_}: {seen.get(id_)} instead of {mine.get(id_)}"
            for id_ in {**seen, **mine}
            if seen.get(id_) != mine.get(id_)
        ]
        assert not wrong, wrong

    def follow_moves(self) -> Mapping[str, Seen]:
        """Let the reference make the moves that treadle made by itself; give what was seen."""
        self.ref.now_ms = self.world.wall_ms
        self.living = self.world.living()
        seen = self.world.seen()
        moved = True
        while moved:
            moved = False
            for run in list(self.ref.runs.values()):
                found = seen.get(run.id)
                if found is None or run.seen == found:
                    continue
                before = run.seen
                if self.ref.explain(run, found, self.is_gone):
                    moved = True
                    counted[f"from {before.status} by itself"] += 1
        return seen

    def ask_for_thread(
        self, process: Process, thread: Thread, work: Any, *, may_wait: bool
    ) -> tuple[Any, bool]:
        """Ask for something that a busy thread refuses or puts in line; give the answer and whether it was busy.

        A run that is over or being cancelled may be brought to its end first; one that nobody walks must be.
        """
        active = self.ref.runs[thread.active] if thread.active is not None else None
        is_over = active is not None and self.ref.is_over(active)
        is_unheld = active is not None and active.walker is None
        is_ending = active is not None and (is_over or active.status == "cancelling")
        is_alone = not any(isinstance(item, Run) for item in thread.line)
        result = self.do(process, work)
        if active is None or not is_ending or may_wait:
            return result, active is not None
        self.follow_moves()
        is_busy = isinstance(result, ThreadBusy)
        assert not (is_busy and is_over and is_unheld and is_alone), active
        counted["freed"] += not is_busy
        return result, is_busy

    def hold_rows(self) -> None:
        stored = self.world.rows()
        for thread in self.ref.threads.values():
            wrong = list(differences(thread.rows, stored.get(thread.id, [])))
            assert not wrong, (thread.id, wrong)
            assert thread.active is None or self.ref.runs[thread.active].is_active, thread
            waiting = [item for item in thread.line if isinstance(item, Run)]
            assert all(r.in_line and r.status == "queued" for r in waiting)
            given = Counter((r.reply, r.call) for r in stored.get(thread.id, []) if r.role == "tool")
            assert all(n == 1 for n in given.values()), given
        assert not set(stored) - set(self.ref.threads), "rows of a thread that is not there"
        assert self.world.waiting() == sum(
            isinstance(item, Row) for t in self.ref.threads.values() for item in t.line
        )

    def hold_events(self) -> None:
        """A run's events count from one, and those that were there stay."""
        if not self.awake:
            return
        process = self.awake[0]
        for run in self.ref.runs.values():
            before = self.events.get(run.id, [])
            if run.id in self.read:
                continue
            events = self.do(process, process.treadle.store.events("default", run.id, limit=10_000))
            assert check_numbers(run.id, [e.seq for e in events]) == []
            assert events[: len(before)] == before, run.id
            self.events[run.id] = events
            if not run.is_active:
                self.read.add(run.id)

    def hold_waits(self) -> None:
        """What a run waits for is what its client is told."""
        for run in self.ref.runs.values():
            if run.status != "requires_action" or not self.awake:
                continue
            told = self.do(self.awake[0], self.awake[0].treadle.runs.get(run.id))
            assert [p.call.id for p in told.required_approvals] == [c.id for c in run.asked]
            assert [c.id for c in told.required_action] == [c.id for c in run.wanted]

    # -- threads and messages ----------------------------------------------------------------------------------

    @precondition(lambda self: self.awake and len(self.ref.threads) < 4)
    @rule(pick=picks, has_message=flags, note=notes)
    def new_thread(self, pick: int, has_message: bool, note: str) -> None:
        text = self.token()
        messages = [{"role": "user", "content": text}] if has_message else []
        process = self.process(pick)
        made = self.do(process, process.treadle.threads.create(messages=messages, metadata=NOTES[note]))
        thread = self.ref.threads[made.id] = Thread(made.id, NOTES[note])
        if has_message:
            thread.rows.append(Row("user", text))

    @precondition(lambda self: self.tokens % 3 == 1 and self.awake and self.ref.threads)
    @rule(pick=picks, which=picks, note=notes)
    def note_thread(self, pick: int, which: int, note: str) -> None:
        process, thread = self.process(pick), self.thread(which)
        self.do(process, process.treadle.threads.update(thread.id, metadata=NOTES[note]))
        thread.metadata = NOTES[note]
        other = self.process(pick + 1)
        assert self.do(other, other.treadle.threads.get(thread.id)).metadata == NOTES[note]

    @precondition(lambda self: self.tokens % 3 == 1 and self.awake and len(self.ref.threads) > 1)
    @rule(pick=picks, which=picks)
    def delete_thread(self, pick: int, which: int) -> None:
        process, thread = self.process(pick), self.thread(which)
        doomed = {r.id for r in self.ref.runs.values() if r.thread == thread.id}
        if thread.active is None:
            self.world.deleted |= doomed
        result = self.do(process, process.treadle.threads.delete(thread.id))
        if thread.active is not None:
            self.refused(result, ThreadBusy)
            return
        assert result.id == thread.id
        self.ref.delete(thread)
        self.readers = [r for r in self.readers if r.thread != thread.id]
        other = self.process(pick + 1)
        self.refused(self.do(other, other.treadle.threads.get(thread.id)), NotFound)
        self.refused(self.do(other, other.treadle.messages.create(thread.id, content="x")), NotFound)

    @precondition(lambda self: self.awake and self.ref.threads)
    @rule(pick=picks, which=picks, on_busy=manners, note=notes, has_key=flags)
    def append(self, pick: int, which: int, on_busy: str, note: str, has_key: bool) -> None:
        process, thread, text = self.process(pick), self.thread(which), self.token()
        key = f"key {text}" if has_key else None
        asked: dict[str, Any] = {"content": text, "metadata": NOTES[note]}
        made, is_busy = self.ask_for_thread(
            process,
            thread,
            process.treadle.messages.create(thread.id, **asked, on_busy=cast("Any", on_busy), key=key),
            may_wait=on_busy == "queue",
        )
        if is_busy and on_busy == "reject":
            self.refused(made, ThreadBusy)
            return
        row = Row("user", text, id=made.id, metadata=NOTES[note])
        assert made.seq == (0 if is_busy else len(thread.rows) + 1)
        self.ref.append(thread, row)
        if key is not None:
            self.ref.keys[key] = (("message", thread.id, asked), made.id)

    def acknowledged(self) -> list[Row]:
        return [
            item
            for t in self.ref.threads.values()
            for item in (*t.rows, *t.line)
            if isinstance(item, Row) and item.id
        ]

    @precondition(lambda self: self.tokens % 3 == 1 and self.awake and self.acknowledged())
    @rule(pick=picks, which=picks, note=notes)
    def note_message(self, pick: int, which: int, note: str) -> None:
        process, found = self.process(pick), self.acknowledged()
        row = found[-1 - which % len(found)]
        before = self.do(process, process.treadle.messages.get(row.id))
        assert (before.text, before.metadata) == (row.text, row.metadata)
        self.do(process, process.treadle.messages.update(row.id, metadata=NOTES[note]))
        row.metadata = NOTES[note]
        other = self.process(pick + 1)
        assert self.do(other, other.treadle.messages.get(row.id)).metadata == NOTES[note]

    @precondition(lambda self: self.awake and self.ref.keys)
    @rule(pick=picks, which=picks, is_other=flags)
    def use_key_again(self, pick: int, which: int, is_other: bool) -> None:
        """The same under a key gives the same again, from any process and at any time; something else is refused."""
        process = self.process(pick)
        key, (asked, id_) = list(self.ref.keys.items())[-1 - which % len(self.ref.keys)]
        kind, thread_id, fields = asked
        verbs: Any = process.treadle.messages if kind == "message" else process.treadle.runs
        if is_other:
            fields = {**fields, "metadata": {"other": "x"}}
        result = self.do(process, verbs.create(thread_id, **fields, key=key))
        if is_other:
            self.refused(result, Conflict)
        elif thread_id not in self.ref.threads:
            self.refused(result, NotFound)
        else:
            assert result.id == id_

    # -- runs --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.awake and self.ref.threads)
    @rule(
        pick=picks,
        which=picks,
        on_busy=manners,
        has_message=flags,
        has_key=flags,
        ttl=lifetimes,
        note=notes,
    )
    def create_run(
        self,
        pick: int,
        which: int,
        on_busy: str,
        has_message: bool,
        has_key: bool,
        ttl: str | None,
        note: str,
    ) -> None:
        process, thread = self.process(pick), self.thread(which)
        first = [Row("user", self.token())] if has_message or not thread.rows else []
        key = f"key {self.token()}" if has_key else None
        asked: dict[str, Any] = {
            "agent": self.agent, "on_busy": on_busy, "ttl": ttl, "metadata": NOTES[note],
            "additional_messages": [{"role": "user", "content": row.text} for row in first],
        }  # fmt: skip
        work = process.treadle.runs.create(thread.id, **asked, key=key)
        made, in_line = self.ask_for_thread(process, thread, work, may_wait=on_busy == "queue")
        if in_line and on_busy == "reject":
            self.refused(made, ThreadBusy)
            return
        expires_ms = self.world.wall_ms + int(ttl[:-1]) * 1000 if ttl not in (None, "0") else None
        run = Run(made.id, thread.id, "queued", in_line, expires_ms=expires_ms, metadata=NOTES[note])
        if not in_line:
            run.status, run.walker, run.fence = "in_progress", process.walker, 1
        assert (made.status, made.in_line, made.walker, made.fence) == run.seen[:4]
        self.ref.create(thread, run, first)
        if key is not None:
            self.ref.keys[key] = (("run", thread.id, asked), run.id)

    @precondition(lambda self: self.tokens % 3 == 1 and self.awake and self.ref.runs)
    @rule(pick=picks, which=picks, note=notes)
    def note_run(self, pick: int, which: int, note: str) -> None:
        process, run = self.process(pick), self.run(which)
        self.do(process, process.treadle.runs.update(run.id, metadata=NOTES[note]))
        run.metadata = NOTES[note]
        other = self.process(pick + 1)
        assert self.do(other, other.treadle.runs.get(run.id)).metadata == NOTES[note]

    @precondition(lambda self: self.awake and self.ref.runs and self.tokens % 3 == 0)
    @rule(pick=picks, which=picks, elsewhere=flags)
    def cancel(self, pick: int, which: int, elsewhere: bool) -> None:
        run = self.run(which)
        others = [p for p in self.awake if p.walker != run.walker]
        process = others[pick % len(others)] if elsewhere and others else self.process(pick)
        walker, fence = run.walker, run.fence
        result = self.do(process, process.treadle.runs.cancel(run.id))
        if not run.is_active:
            self.refused(result, StateError)
            return
        assert (result.id, result.status) == (run.id, "cancelling")
        if walker is None or walker == process.walker:
            self.ref.end(run, "cancelled")
        elif self.world.is_lease_over(walker):
            run.fence = fence + 1
            self.ref.end(run, "cancelled", by_others=True)
        else:
            run.status = "cancelling"
            self.answer_late(run)
        counted["cancelled"] += 1

    def answer_late(self, run: Run) -> None:
        """Answer a walk that does not know yet that its run is being cancelled."""
        self.all_is_as_it_must_be()
        for gate in self.world.open_gates(is_model=False):
            if gate.run_id == run.id and run.status == "cancelling":
                self.open(gate, "too late", lambda _: None)
                counted["too late"] += 1

    @precondition(lambda self: self.awake and self.ref.runs)
    @rule(pick=picks, which=picks)
    def resume(self, pick: int, which: int) -> None:
        self.take(self.process(pick), self.run(which))

    def take(self, process: Process, run: Run) -> None:
        """Have a process resume a run."""
        is_left = run.walker is not None and self.world.is_lease_over(run.walker)
        result = self.do(process, process.treadle.runs.resume(run.id))
        if run.status == "queued" and not run.in_line:
            self.ref.claim(run, process.walker)
        elif run.status == "in_progress" and is_left:
            self.ref.take_over(run, process.walker)
            counted["taken over"] += 1
        else:
            self.refused(result, StateError)
            return
        assert result.id == run.id

    # -- models and tools --------------------------------------------------------------------------------------

    def open(self, gate: Gate, answer: Any, move: Callable[[Run], None]) -> None:
        """Open a gate; only the walk that still has its run changes anything."""
        run = self.ref.runs.get(gate.run_id)
        if isinstance(answer, Exception):
            gate.future.set_exception(answer)
        else:
            gate.future.set_result(answer)
        self.world.loop.drain()
        if run is None or run.fence != gate.fence or not run.is_active:
            counted["stale answers"] += 1
        elif run.status == "cancelling":
            self.ref.end(run, "cancelled", by_others=True)
        else:
            move(run)

    @precondition(lambda self: self.world.open_gates(is_model=True))
    @rule(pick=picks)
    def model_answers(self, pick: int) -> None:
        gates = self.world.open_gates(is_model=True)
        text = f"{self.token()} is the answer"
        self.open(gates[pick % len(gates)], reply(text), lambda run: self.ref.say(run, text))

    @precondition(lambda self: self.world.open_gates(is_model=True))
    @rule(pick=picks, tools=replies)
    def model_calls(self, pick: int, tools: list[str]) -> None:
        gates = self.world.open_gates(is_model=True)
        calls = [Call(TOOLS[name], self.token(), index) for index, name in enumerate(tools)]
        made = [ToolCall(id=c.id, name=c.tool.name, arguments=json.dumps({"token": c.token})) for c in calls]
        self.open(gates[pick % len(gates)], reply(None, made), lambda run: self.ref.call(run, calls))
        counted["calls"] += len(calls)

    @precondition(lambda self: self.world.open_gates(is_model=False))
    @rule(pick=picks, fails=flags)
    def tool_ends(self, pick: int, fails: bool) -> None:
        gates = self.world.open_gates(is_model=False)
        gate = gates[pick % len(gates)]
        said = f"{gate.token} is done"

        def move(run: Run) -> None:
            call = run.calls[int(gate.path.rpartition("/")[2])]
            assert gate.path.startswith(f"tool_call#{run.turns}/")
            assert gate.token == (call.edited or call.token)
            changed = (
                f"\n[a person changed the arguments to {_arguments(call.edited)}]" if call.edited else ""
            )
            failed = json.dumps({"error": f"{call.tool.name}: OSError: {said}"})
            self.ref.finish_call(run, call, (failed if fails else said) + changed)

        self.open(gate, OSError(said) if fails else said, move)

    @precondition(lambda self: self.awake and self.ref.runs)
    @rule(
        pick=picks,
        tools=replies,
        verdict=verdicts,
        ends=picks,
    )
    def go_on(self, pick: int, tools: list[str], verdict: str, ends: int) -> None:
        """Answer something that waits, whatever it is."""
        waiting = [r for r in self.ref.runs.values() if r.status == "requires_action"]
        if self.world.open_gates(is_model=False):
            self.tool_ends(pick, ends == 0)
        elif self.world.open_gates(is_model=True) and ends < 4:
            self.model_answers(pick)
        elif self.world.open_gates(is_model=True):
            self.model_calls(pick, tools)
        elif any(r.asked for r in waiting):
            self.decide(pick, pick % 11, ends, verdict, "plain")
        elif waiting:
            self.give_outputs(pick, pick % 11, "all")
        else:
            self.create_run(pick, ends, "queue", False, False, None, "none")

    # -- clients and people ------------------------------------------------------------------------------------

    @precondition(lambda self: self.awake and self.ref.runs)
    @rule(
        pick=picks, which=picks, how=st.sampled_from(["all", "all", "all", "part", "other", "twice", "race"])
    )
    def give_outputs(self, pick: int, which: int, how: str) -> None:
        process, run = self.process(pick), self.waiting(which, lambda r: bool(r.wanted))
        wanted = run.wanted if run.status == "requires_action" else []
        given = [{"tool_call_id": c.id, "output": f"{c.token} from the client"} for c in reversed(wanted)]
        if how == "part":
            given = given[1:]
        elif how == "other":
            given = [*given[1:], {"tool_call_id": "c0", "output": "x"}]
        elif how == "twice":
            given = [*given, *given[:1]]
        others = [self.process(pick + 1)] if how == "race" else []
        tasks = [
            (p, self.world.begin(p, p.treadle.runs.submit_tool_outputs(run.id, given)))
            for p in [process, *others]
        ]
        self.world.loop.drain()
        results = [(p, outcome(task)) for p, task in tasks]
        if not wanted:
            for _, result in results:
                self.refused(result, StateError)
            return
        if how not in ("all", "race"):
            self.refused(results[0][1], ToolOutputsError)
            return
        taken = [p for p, result in results if not isinstance(result, TreadleError)]
        assert len(taken) == 1, results
        self.ref.give_outputs(run, {o["tool_call_id"]: o["output"] for o in given}, taken[0].walker)
        counted["outputs"] += len(given)

    def waiting(self, pick: int, waits: Callable[[Run], bool]) -> Run:
        """Give a run that waits, if there is one; now and then another."""
        found = [r for r in self.ref.runs.values() if r.status == "requires_action" and waits(r)]
        return found[pick % len(found)] if found and pick < 11 else self.run(pick)

    @precondition(lambda self: self.awake and self.ref.runs)
    @rule(
        pick=picks,
        which=picks,
        call=picks,
        verdict=verdicts,
        how=st.sampled_from(["plain", "plain", "digest", "other digest", "other call", "race"]),
    )
    def decide(self, pick: int, which: int, call: int, verdict: str, how: str) -> None:
        process, run = self.process(pick), self.waiting(which, lambda r: bool(r.asked))
        asked = run.asked if run.status == "requires_action" else []
        chosen = asked[call % len(asked)] if asked else None
        edited = self.token() if verdict == "edit" else None
        id_ = chosen.id if chosen is not None and how != "other call" else "c0"
        seen: str | None = None
        if chosen is not None and how in ("digest", "other digest"):
            told = self.do(process, process.treadle.runs.get(run.id))
            seen = next(p.digest for p in told.required_approvals if p.call.id == chosen.id)
            seen = seen if how == "digest" else "0" * 64

        def work(p: Process) -> Any:
            if verdict == "reject":
                return p.treadle.runs.reject(run.id, id_, reason="no", by=p.name)
            changed = {"token": edited} if edited else None
            return p.treadle.runs.approve(run.id, id_, arguments=changed, digest=seen, by=p.name)

        others = [self.process(pick + 1)] if how == "race" else []
        tasks = [(p, self.world.begin(p, work(p))) for p in [process, *others]]
        self.world.loop.drain()
        results = [(p, outcome(task)) for p, task in tasks]
        if chosen is None or how == "other call":
            self.refused(results[0][1], StateError if chosen is None else NotFound)
            return
        if how == "other digest" and verdict != "reject":
            self.refused(results[0][1], StateError)
            return
        taken = [p for p, result in results if not isinstance(result, TreadleError)]
        assert len(taken) == 1, results
        self.ref.decide(run, chosen, approve=verdict != "reject", edited=edited, walker=taken[0].walker)
        counted["decided"] += 1

    # -- time and processes ------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 4, 9, 16, 31, 61]))
    def advance(self, seconds: int) -> None:
        self.world.advance(float(seconds))
        self.ref.now_ms = self.world.wall_ms
        self.cut_off()

    def cut_off(self) -> None:
        """End what is made by those who are awake and whose run is over: they know when."""
        awake = {p.walker for p in self.awake}
        for run in self.ref.runs.values():
            if run.status == "in_progress" and run.walker in awake and self.ref.is_over(run):
                self.ref.end(run, "expired", is_cut=True)

    @precondition(lambda self: self.awake)
    @rule(pick=picks)
    def sweep(self, pick: int) -> None:
        """After its sweeps a process has left nothing that it can see to."""
        process = self.process(pick)
        for _ in range(20):
            swept = self.do(process, process.treadle.recover())
            if not any(
                (swept.resumed, swept.expired, swept.cancelled, swept.failed, swept.decided, swept.buried)
            ):
                break
        else:
            raise AssertionError("sweeps find something for ever")
        self.reconcile()
        left = list(self.ref.due(self.world.is_lease_over, walks_all=process.walks_all))
        assert not left, left
        mine = [
            r.id for r in self.ref.runs.values() if r.status == "cancelling" and r.walker == process.walker
        ]
        assert not mine, mine

    @precondition(lambda self: len(self.awake) > 1 or (self.awake and self.silent))
    @rule(pick=picks)
    def die(self, pick: int) -> None:
        found = [*self.awake, *self.silent]
        self.world.loop.end(found[pick % len(found)].life)
        counted["died"] += 1

    @precondition(lambda self: len(self.awake) > 1)
    @rule(pick=picks, walks_all=flags)
    def crash(self, pick: int, walks_all: bool) -> None:
        """A process that holds runs dies; its lease runs out, and another process comes up."""
        holders = {r.walker for r in self.ref.runs.values()}
        process = next((p for p in self.awake if p.walker in holders), self.process(pick))
        self.world.loop.end(process.life)
        self.advance(16)
        self.reconcile()
        self.start_process(walks_all)
        counted["crashed"] += 1

    @precondition(lambda self: len(self.awake) > 1)
    @rule(pick=picks)
    def fall_silent(self, pick: int) -> None:
        process = self.process(pick)
        process.was_silent = True
        self.world.loop.pause(process.life)
        counted["fell silent"] += 1

    @precondition(lambda self: self.silent)
    @rule(pick=picks, heart_first=flags, says=flags)
    def wake_up(self, pick: int, heart_first: bool, says: bool) -> None:
        """A process goes on where it was; where it lost its runs meanwhile, what it does changes nothing."""
        process = self.silent[pick % len(self.silent)]
        held = [r for r in self.ref.runs.values() if r.walker == process.walker]
        if not held and says:
            for gate in self.world.open_gates(is_model=True, silent=True):
                if gate.process is process:
                    gate.future.set_result(reply("nobody must see this"))
            for gate in self.world.open_gates(is_model=False, silent=True):
                if gate.process is process:
                    gate.future.set_result("nobody must see this")
            counted["stale walks"] += 1
        if heart_first or held:
            self.world.catch_up(process)
        self.world.loop.resume(process.life)
        self.world.loop.drain()
        self.world.catch_up(process)
        self.world.loop.drain()
        self.cut_off()

    @precondition(
        lambda self: self.awake and any(c.until_ms for r in self.ref.runs.values() for c in r.asked)
    )
    @rule(pick=picks)
    def let_questions_lapse(self, pick: int) -> None:
        """Nobody answers in time: what the rule of the tool says counts as decided."""
        self.advance(61)
        self.reconcile()
        self.sweep(pick)

    @precondition(lambda self: any(r.status == "in_progress" and r.walker for r in self.ref.runs.values()))
    @rule(times=st.integers(2, 4), which=picks)
    def crash_again_and_again(self, times: int, which: int) -> None:
        """Every process that takes a run dies; one that kills them at the same place is given up."""
        held = [r for r in self.ref.runs.values() if r.status == "in_progress"]
        run = held[which % len(held)]
        for _ in range(times):
            for process in [p for p in self.world.processes if p.walker == run.walker]:
                self.world.loop.end(process.life)
            self.advance(16)
            self.reconcile()
            if run.status != "in_progress":
                return
            if self.world.is_lease_over(run.walker or ""):
                self.take(self.start_process(False), run)
                self.reconcile()
        counted["crashed again"] += 1

    @precondition(lambda self: len(self.awake) > 1 and self.world.gates)
    @rule(pick=picks, goes_on=flags, ends=picks)
    def lose_run(self, pick: int, goes_on: bool, ends: int) -> None:
        """A process falls silent, another takes its runs, and then it goes on as if nothing had happened."""
        process = next(
            (p for p in self.awake if any(g.process is p for g in self.world.gates)), self.awake[0]
        )
        other = next(p for p in self.awake if p is not process)
        walker = process.walker
        process.was_silent = True
        self.world.loop.pause(process.life)
        self.advance(16)
        self.reconcile()
        runs = list(self.ref.runs.values())
        for run in runs:
            if run.walker == walker and run.status == "in_progress":
                self.take(other, run)
        self.reconcile()
        if goes_on:
            self.go_on(pick, ["look"], "approve", ends)
            self.reconcile()
        self.wake_up(self.silent.index(process), False, True)
        counted["lost"] += 1

    @precondition(lambda self: len(self.awake) + len(self.silent) < 2)
    @rule(walks_all=flags)
    def come_up(self, walks_all: bool) -> None:
        self.start_process(walks_all)

    @precondition(lambda self: len(self.awake) > 1)
    @rule(pick=picks)
    def leave(self, pick: int) -> None:
        """A process is closed: what it walks is parked at its last checkpoint, and free at once."""
        process = self.process(pick)
        walker = process.walker
        self.world.leave(process)
        self.ref.now_ms = self.world.wall_ms
        self.cut_off()
        for run in self.ref.runs.values():
            if run.walker != walker:
                continue
            if run.status == "in_progress" and self.ref.is_over(run):
                self.ref.end(run, "expired", is_cut=True)
            elif run.status == "in_progress":
                self.ref.park(run)
        counted["left"] += 1

    # -- readers -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.awake and self.ref.runs and len(self.followings) < 8)
    @rule(pick=picks, which=picks, after=picks)
    def follow(self, pick: int, which: int, after: int) -> None:
        process, run = self.process(pick), self.run(which)
        last = self.do(process, process.treadle.store.last_event("default", run.id))
        following = Following(process, run.id, min(after, last))
        following.task = self.world.begin(process, following.read())
        self.world.loop.drain()
        self.followings.append(following)

    @precondition(lambda self: self.awake and self.ref.threads)
    @rule(pick=picks, which=picks, limit=st.integers(1, 4))
    def read_on(self, pick: int, which: int, limit: int) -> None:
        """A reader who goes on from its last message gets what follows, whatever was appended meanwhile."""
        process, thread = self.process(pick), self.thread(which)
        found = [r for r in self.readers if r.thread == thread.id]
        if not found:
            found = [Reader(thread.id, [], [])]
            self.readers += found
        reader = found[0]
        page = self.do(
            process,
            process.treadle.messages.list(
                thread.id, order="asc", limit=limit, after=reader.last[0] if reader.last else None
            ),
        )
        reader.texts.extend(m.plain for m in page)
        reader.last[:] = [m.id for m in page[-1:]] or reader.last
        listed = _listed(thread)
        assert reader.texts == listed[: len(reader.texts)]
        assert len(page) == limit or len(reader.texts) == len(listed)

    @precondition(lambda self: self.awake and self.ref.threads)
    @rule(pick=picks, which=picks, limit=st.integers(1, 4), after=picks, is_back=flags)
    def read_page(self, pick: int, which: int, limit: int, after: int, is_back: bool) -> None:
        process, thread = self.process(pick), self.thread(which)
        list_ = process.treadle.messages.list
        whole = self.do(process, list_(thread.id, order="asc", limit=1000))
        assert [m.plain for m in whole] == _listed(thread)
        if not whole:
            return
        place = after % len(whole)
        order, cut = ("desc", whole[:place][::-1]) if is_back else ("asc", whole[place + 1 :])
        assert (
            self.do(process, list_(thread.id, order=order, limit=limit, after=whole[place].id)) == cut[:limit]
        )
        before = whole[place + 1 :][::-1] if is_back else whole[:place]
        assert (
            self.do(process, list_(thread.id, order=order, limit=limit, before=whole[place].id))
            == before[:limit]
        )

    @precondition(lambda self: self.tokens % 3 == 1 and self.awake)
    @rule(pick=picks, limit=st.integers(1, 3), order=st.sampled_from(["asc", "desc"]), of_runs=flags)
    def list_all(self, pick: int, limit: int, order: Order, of_runs: bool) -> None:
        process = self.process(pick)
        verbs = process.treadle.runs if of_runs else process.treadle.threads
        expected = list(self.ref.runs if of_runs else self.ref.threads)
        found: list[str] = []
        while page := self.do(
            process, verbs.list(limit=limit, order=order, after=found[-1] if found else None)
        ):
            found += [item.id for item in page]
        assert found == (expected if order == "asc" else expected[::-1])

    # -- the end -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if hasattr(self, "agent"):
                self.bring_to_an_end()
        finally:
            self.world.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def bring_to_an_end(self) -> None:
        """Whoever was silent is dead now; a process that walks every run brings each to its end."""
        for process in self.silent:
            self.world.loop.end(process.life)
        last = self.start_process(True)
        self.world.advance(LEASE_AND_MORE_S)
        self.cut_off_now()
        for _ in range(200):
            self.sweep(self.awake.index(last))
            if not any(r.is_active for r in self.ref.runs.values()):
                break
            self.answer_everybody()
        else:
            raise AssertionError("runs do not come to an end")
        self.all_is_as_it_must_be()
        assert self.world.waiting() == 0
        self.world.advance(3.0)
        self.hold_followings()
        assert check(self.world.path) == []
        counted["examples"] += 1
        counted["commits"] += self.world.commits
        counted["runs"] += len(self.ref.runs)

    def cut_off_now(self) -> None:
        self.ref.now_ms = self.world.wall_ms
        self.cut_off()
        self.reconcile()

    def answer_everybody(self) -> None:
        """Answer what waits now, once."""
        if self.world.open_gates(is_model=True):
            self.model_answers(0)
        elif self.world.open_gates(is_model=False):
            self.tool_ends(0, False)
        elif any(r.status == "requires_action" and r.asked for r in self.ref.runs.values()):
            self.decide(0, 0, 0, "approve", "plain")
        else:
            self.give_outputs(0, 0, "all")
        self.all_is_as_it_must_be()

    def hold_followings(self) -> None:
        """Every reader got every event once and in order; of a process that lives, to the end."""
        for following in self.followings:
            events = self.events.get(following.run_id)
            if following.run_id not in self.ref.runs or events is None:
                continue
            assert check_numbers(following.run_id, following.numbers, after=following.after) == []
            numbered = [e for e in following.events if e.seq is not None]
            assert numbered == events[following.after :][: len(numbered)]
            if following.process.is_awake:
                assert following.task is not None
                assert following.task.done(), f"a reader of {following.run_id} waits at its end"
                assert outcome(following.task) is None
                assert len(numbered) == len(events) - following.after


LEASE_AND_MORE_S = 16.0


def _listed(thread: Thread) -> list[str]:
    return [str(row.text) for row in thread.rows if row.role != "tool" and row.text is not None]


def _arguments(token: str) -> str:
    return json.dumps({"token": token})


def test_what_is_stored_is_what_the_model_says(capsys: Any) -> None:
    counted.clear()
    run_state_machine_as_test(
        seed(int(SEED))(Machine) if SEED else Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=SEED is None,
            database=None,
            deadline=None,
            # A course that fails takes minutes to shrink: it is done when asked for.
            phases=(Phase.generate, Phase.shrink) if SHRINKS else (Phase.generate,),
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.filter_too_much,
                HealthCheck.data_too_large,
            ],
        ),
    )
    with capsys.disabled():
        print("\n" + ", ".join(f"{n} {what}" for what, n in counted.items()))
    assert counted["steps"] > EXAMPLES
