"""Runs as they are read, watched and walked: what all the verbs on runs stand on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from treadle.engine.executor import Prepared
from treadle.engine.scheduler import start
from treadle.engine.stream import Follower
from treadle.errors import (
    NotFound,
    StreamCut,
)
from treadle.graph.compile import compile_agent
from treadle.graph.nodes import StepGraph
from treadle.ids import is_workflow_id
from treadle.lifecycle import TERMINAL, is_terminal
from treadle.objects.agent import Agent, AgentSpec
from treadle.objects.event import Event
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import PendingCall, Run, RunOverrides
from treadle.objects.run_step import Step
from treadle.service.answers import (
    told_apart,
)
from treadle.service.ids import one_id
from treadle.store.base import Graph, Order

if TYPE_CHECKING:
    from treadle.graph.trace import Trace
    from treadle.service import Treadle

_NOTHING = RunOverrides()
PAGE = 500
WATCH_S = 1.0
"""How long a wait for a run of another process sleeps at most before it looks again."""


@dataclass(frozen=True, slots=True)
class StepDetail:
    """What a step says beside its journal's row: a tool call's arguments and result, or a reply's calls."""

    calls: tuple[ToolCall, ...] = ()
    output: str | None = None
    text: str | None = None


class Walks:
    """What a process knows of the runs that it walks, of whatever tenant."""

    def __init__(self) -> None:
        """Start with none."""
        self.tasks: dict[str, asyncio.Task[Run]] = {}
        self.broken: dict[str, BaseException] = {}
        self.prepared: dict[tuple[str, str, int], Prepared] = {}
        self.graphs: dict[tuple[str, str, int], tuple[StepGraph, tuple[Graph, ...]]] = {}
        self.plans: dict[str, Prepared] = {}


class WatchedRuns:
    """Read, watch and walk runs."""

    def __init__(self, treadle: Treadle, *, walks: Walks | None = None) -> None:
        """Take the composition root, and the walks of the process where others of it know them already."""
        self._treadle = treadle
        self.walks = walks or Walks()
        self._walks, self._broken = self.walks.tasks, self.walks.broken
        self._shared, self._graphs = self.walks.prepared, self.walks.graphs

    # -- walking -----------------------------------------------------------------------------------------------

    def graph_of(self, agent: Agent) -> tuple[StepGraph, tuple[Graph, ...]]:
        """Give an agent's step graph, and what of it the store may not have yet."""
        known = self._graphs.get((agent.tenant, agent.id, agent.version))
        if known is not None:
            return known
        graph = compile_agent(agent)
        return graph, (Graph(graph.digest, graph.text),)

    def prepared(self, run: Run, agent: Agent, graph: StepGraph) -> Prepared:
        """Plan a run; runs of one agent that change nothing of it share a plan."""
        prepared = Prepared(graph, self._treadle.plan(run, agent), start(graph))
        if run.overrides == _NOTHING and not _is_templated(agent.spec):
            self._shared[agent.tenant, agent.id, agent.version] = prepared
        return prepared

    async def prepare(self, run: Run) -> Prepared:
        """Give what a run is walked with, if everything that it needs can be had here.

        Errors: ConfigurationError; NotFound.
        """
        treadle = self._treadle
        if is_workflow_id(run.agent_id):
            return await treadle.scoped(run.tenant).workflows.prepare(run)
        key = (run.tenant, run.agent_id, run.agent_version)
        known = self._shared.get(key)
        if known is not None and run.overrides == _NOTHING and run.origin is None:
            return known
        agent = await treadle.store.get(Agent, run.tenant, run.agent_id, version=run.agent_version)
        graph, _ = self._graphs.get(key, (None, ()))
        if graph is None or graph.digest != run.graph:
            graph = StepGraph.load(await treadle.store.graph(run.tenant, run.graph))
            self._graphs[key] = (graph, ())
        prepared = self.prepared(run, agent, graph)
        if run.origin is None:
            return prepared
        from treadle.service.earlier import earlier_calls

        earlier = await earlier_calls(treadle.scoped(run.tenant), run.origin)
        return replace(prepared, plan=replace(prepared.agent, earlier=earlier))

    def walk(self, run: Run, prepared: Prepared | None) -> None:
        """Walk a run that this process has claimed, in the background.

        One that could not be claimed, or that was claimed under a name which this process does not have any more, is
        walked as soon as it can be had.
        """
        if run.status != "in_progress" or not self._treadle.executor.lease.hold(run.walker):
            self._treadle.keeper.take(run.id)
            return
        task = self._treadle.executor.begin(run, prepared)
        self._broken.pop(run.id, None)
        self._walks[run.id] = task
        task.add_done_callback(lambda done: self._ended(run.id, done))
        self._treadle.keeper.start()

    def _ended(self, run_id: str, task: asyncio.Task[Run]) -> None:
        if self._walks.get(run_id) is task:
            del self._walks[run_id]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            # It is told to whoever waits, and the run is taken up again once the store lets it.
            self._broken[run_id] = error
            self._treadle.keeper.take(run_id)
            return
        if task.result().status == "in_progress":
            # Its lease was lost; whoever has it now may die as well.
            self._treadle.keeper.take(run_id)

    async def settle(self) -> None:
        """Wait for the walks of this process to come to rest."""
        if self._walks:
            await asyncio.gather(*self._walks.values(), return_exceptions=True)

    # -- watching ----------------------------------------------------------------------------------------------

    async def wait(self, run_id: str, *, timeout_s: float | None = None) -> Run:
        """Wait until a run ends or stops at requires_action, whoever walks it.

        Errors: NotFound; TimeoutError after `timeout_s` seconds; what broke a walk of this process.
        """
        async with asyncio.timeout(timeout_s) if timeout_s is not None else nullcontext():
            task = self._walks.get(run_id)
            if task is not None:
                run = await asyncio.shield(task)
                # A run that is still under way was taken over by another process.
                if run.status not in ("in_progress", "cancelling"):
                    return await self._whole(run)
            while True:
                run = await self.get(run_id)
                if is_terminal(run.status) or run.status == "requires_action":
                    return run
                if run.walker == self._treadle.executor.lease.id and (error := self._broken.get(run_id)):
                    raise error
                await self._treadle.store.changed(WATCH_S)

    def followed(self, run: Run) -> Follower:
        """Follow a run of this process from now on, before its next step begins; whoever asked hands it to `follow`."""
        return self._treadle.stream.follow(run.id, family=is_workflow_id(run.agent_id))

    def leave(self, run: Run, follower: Follower) -> None:
        """Stop following; doing so twice is doing so once."""
        self._treadle.stream.leave(run.id, follower)

    async def follow(
        self, run_id: str, *, after: int = 0, until_rest: bool = False, follower: Follower | None = None
    ) -> AsyncGenerator[Event]:
        """Give a run's events after a number: those that are committed, then what happens, until the run ends.

        Any number of readers may follow a run, in any process. Committed events come in the order of their `seq`,
        each once. Deltas have none: they are given while they happen, of the steps that begin while this process walks
        the run and somebody follows. With `until_rest` it ends as well when the run needs its client or is parked.

        Errors: NotFound; StreamCut for a reader that is too slow, with the number to go on after; what broke a walk of
        this process.
        """
        treadle = self._treadle
        run_id = (await treadle.store.get(Run, treadle.tenant, await one_id(treadle, Run, run_id))).id
        follower = follower or treadle.stream.follow(run_id)
        last = after
        ended: set[str | None] = set()
        try:
            while True:
                looks = treadle.stream.looks
                page = await treadle.store.events(treadle.tenant, run_id, after=last, limit=PAGE)
                for event in page:
                    waiting = follower.first_seq
                    if waiting is not None and cast("int", event.seq) >= waiting:
                        # What waits for the reader comes in its place, between the deltas that led to it.
                        page = []
                        break
                    last = cast("int", event.seq)
                    if event.name.endswith(_WHOLE):
                        ended.add(event.object_id)
                    yield event
                    if _is_end(event):
                        return
                if len(page) == PAGE:
                    continue
                if await self._is_resting(run_id, last, until_rest=until_rest):
                    return
                async for event in self._live(run_id, follower, looks):
                    if event.seq is None:
                        # Hazard: what the store has may be published only now, after what led to it.
                        if event.object_id not in ended:
                            yield event
                        continue
                    if event.seq <= last:
                        continue
                    if event.seq > last + 1:
                        break  # Somebody else has written: the store has what is missing.
                    last = event.seq
                    yield event
                    if _is_end(event):
                        return
                if follower.is_cut:
                    raise StreamCut(run_id, last)
        finally:
            treadle.stream.leave(run_id, follower)

    async def _is_resting(self, run_id: str, last: int, *, until_rest: bool) -> bool:
        """Tell whether nothing more is to come for a reader who has read as far as that."""
        treadle = self._treadle
        if treadle.executor.is_walking(run_id):
            return False
        now = await treadle.store.get(Run, treadle.tenant, run_id)
        is_read = last >= await treadle.store.last_event(treadle.tenant, run_id)
        if is_terminal(now.status):
            return is_read
        if now.walker == treadle.executor.lease.id and (error := self._broken.get(run_id)):
            raise error
        is_parked = now.status == "queued" and not now.in_line and now.fence > 0
        return until_rest and is_read and (now.status == "requires_action" or is_parked)

    async def _live(self, run_id: str, follower: Follower, looks: int) -> AsyncGenerator[Event]:
        """Give what is published here until the walk rests or, where others walk it, something may be written.

        Shapes: `looks` is how often the store was looked at before it was read.
        """
        treadle = self._treadle
        while True:
            if treadle.executor.is_walking(run_id) or not follower.is_empty:
                event = await follower.get()
            else:
                event = await treadle.stream.watched(follower, since=looks)
            if event is None:
                return
            yield event

    # -- reading -----------------------------------------------------------------------------------------------

    async def get(self, run: str, *, output: bool = True) -> Run:
        """Give a run by its id, a unique beginning of it, or ``@last``; without its `output` where nobody needs that.

        Errors: NotFound.
        """
        treadle = self._treadle
        found = await treadle.store.get(Run, treadle.tenant, await one_id(treadle, Run, run))
        return await self._whole(found) if output or found.status == "requires_action" else found

    async def last_event(self, run_id: str) -> int:
        """Give the number of a run's last event.

        Errors: NotFound.
        """
        return await self._treadle.store.last_event(self._treadle.tenant, run_id)

    async def _whole(self, run: Run) -> Run:
        """Give the run with what its thread holds for it: the calls that wait, and the answer."""
        if run.status == "requires_action":
            return run.model_copy(update={"pending": await self._told(run)})
        if is_workflow_id(run.agent_id):
            return run
        if run.status == "completed" and run.output is None:
            return run.model_copy(update={"output": await self._output(run)})
        return run

    async def _told(self, run: Run) -> tuple[PendingCall, ...]:
        """Give what a run waits for with the calls and the questions themselves, those of its child runs included."""
        owners: dict[str, Run] = {run.id: run}
        steps: dict[str, dict[str, Step]] = {}
        told: list[PendingCall] = []
        for pending in run.pending:
            id_ = pending.run_id or run.id
            if id_ not in owners:
                owners[id_] = await self._treadle.store.get(Run, run.tenant, id_)
            if pending.action != "answer":
                told.append(pending.model_copy(update={"call": await self._call(owners[id_], pending)}))
                continue
            if id_ not in steps:
                steps[id_] = {
                    s.path: s for s in await self._treadle.store.steps(run.tenant, id_) if s.is_open
                }
            step = steps[id_].get(pending.path)
            told.append(pending.model_copy(update={"asks": step.question if step is not None else None}))
        return told_apart(told)

    async def _call(self, run: Run, pending: PendingCall) -> ToolCall:
        call = (await self._row(run, pending.reply_seq)).tool_calls[pending.call_index]
        if pending.arguments is None:
            return call
        return call.model_copy(update={"arguments": pending.arguments})

    async def _row(self, run: Run, seq: int) -> Message:
        rows = await self._treadle.store.rows(
            run.tenant, run.thread_id, after=seq - 1, before=seq + 1, limit=1
        )
        if not rows:
            raise NotFound("message", f"{run.thread_id}, row {seq}")
        return rows[0]

    async def _output(self, run: Run) -> Any:
        treadle = self._treadle
        steps = await treadle.store.steps(run.tenant, run.id)
        answer = next((s for s in reversed(steps) if s.kind == "append_message" and s.message_seq), None)
        if answer is None or answer.message_seq is None:
            return None
        text = (await self._row(run, answer.message_seq)).plain
        agent = await treadle.store.get(Agent, run.tenant, run.agent_id, version=run.agent_version)
        if run.overrides.output_of(agent.spec.output) is None or not text:
            return text or None
        return json.loads(text)

    async def list(
        self,
        thread_id: str | None = None,
        *,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
    ) -> list[Run]:
        """Give a page of runs, the newest first: of one thread, or of all.

        Errors: NotFound for the thread.
        """
        treadle = self._treadle
        return await treadle.store.list(
            Run, treadle.tenant, parent=thread_id, limit=limit, order=order, after=after, before=before
        )

    async def steps(self, run_id: str, *, first: int = 0) -> list[Step]:
        """Give a run's journal in order, from the row `first` on.

        Errors: NotFound.
        """
        return await self._treadle.store.steps(self._treadle.tenant, run_id, first=first)

    async def detail(self, run: Run, step: Step) -> StepDetail:
        """Give what a step says beside its journal's row, read from the thread."""
        if step.kind == "tool_call" and step.reply_seq is not None and step.call_index is not None:
            call = (await self._row(run, step.reply_seq)).tool_calls[step.call_index]
            if step.decision is not None and step.decision.arguments is not None:
                call = call.model_copy(update={"arguments": step.decision.arguments})
            output = (await self._row(run, step.message_seq)).text if step.message_seq else None
            return StepDetail((call,), output)
        if step.message_seq is None:
            return StepDetail()
        row = await self._row(run, step.message_seq)
        return StepDetail(row.tool_calls, None, row.text)

    async def rows(self, run: Run, steps: Sequence[Step]) -> dict[int, Message]:
        """Give the rows of the thread that steps of a run refer to, by their seq."""
        seqs = [seq for step in steps for seq in (step.reply_seq, step.message_seq) if seq is not None]
        if not seqs:
            return {}
        first, last = min(seqs), max(seqs)
        found = await self._treadle.store.rows(
            run.tenant, run.thread_id, after=first - 1, before=last + 1, limit=last - first + 1
        )
        return {row.seq: row for row in found}

    async def trace(self, run_id: str) -> Trace:
        """Give what a run did, as a graph of its executed steps, those of its child runs within it.

        Errors: NotFound.
        """
        return await self._trace(await self.get(run_id))

    async def _trace(self, run: Run) -> Trace:
        from treadle.graph.trace import Trace

        treadle = self._treadle
        graph = StepGraph.load(await treadle.store.graph(run.tenant, run.graph))
        steps = await treadle.store.steps(run.tenant, run.id)
        entry = next((m for m in treadle.project.models.values() if m.id == run.model), None)
        made = [s.child for s in steps if s.child is not None]
        runs = {child.id: child for child in await treadle.store.children(run.tenant, run.id)} if made else {}
        children = {id_: await self._trace(runs[id_]) for id_ in made if id_ in runs}
        return Trace.of(run, graph, steps, price=entry.price if entry else None, children=children)


def _is_end(event: Event) -> bool:
    return event.seq is not None and event.name in _ENDS


_ENDS = frozenset(f"thread.run.{status}" for status in TERMINAL)
_WHOLE = (".completed", ".incomplete")


def _is_templated(spec: AgentSpec) -> bool:
    return bool(spec.instructions.template and "{" in spec.instructions.template) or bool(
        spec.additional_instructions
    )
