"""The verbs on runs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from pydantic import ValidationError

from treadle.engine.executor import Prepared
from treadle.engine.plan import check_inputs
from treadle.engine.scheduler import start
from treadle.engine.stream import Follower
from treadle.errors import (
    ConfigurationError,
    LeaseLost,
    NotFound,
    Repeated,
    StateError,
    StoreError,
    StreamCut,
    ThreadBusy,
)
from treadle.graph.compile import compile_agent
from treadle.graph.nodes import StepGraph
from treadle.lifecycle import ACTIVE, TERMINAL, is_terminal
from treadle.objects.agent import Agent, AgentSpec
from treadle.objects.event import Event
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import UNCHANGED, PendingCall, Run, RunError, RunOverrides
from treadle.objects.run_step import Decision, Step
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.service.answers import (
    answer_checkpoint,
    approved,
    decision_checkpoint,
    find_pending,
    find_question,
    is_named,
    match_outputs,
    outputs_checkpoint,
    own_id,
    parted,
    told_apart,
)
from treadle.service.ids import one_id
from treadle.service.lifetime import lifetime_s
from treadle.service.requests import request_of
from treadle.service.threads import append
from treadle.service.workflows import is_workflow_id
from treadle.steps.pause import fit
from treadle.store.base import Checkpoint, Graph, Order, Request
from treadle.text import clean

if TYPE_CHECKING:
    from treadle.graph.trace import Trace
    from treadle.service import Treadle

logger = logging.getLogger("treadle.service")

_NOTHING = RunOverrides()
UNAVAILABLE = "TR301"
"""The code of the error for a tool that is declared and that nothing here can run."""
PAGE = 500
WATCH_S = 1.0
"""How long a wait for a run of another process sleeps at most before it looks again."""


class _Given(NamedTuple):
    """What the caller of `create` gave beside thread and agent."""

    inputs: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, Any]
    ttl: str | None
    on_busy: Literal["reject", "queue"] | None
    key: str | None
    overrides: Mapping[str, Any]
    new_thread: Mapping[str, Any] | None = None
    fails_late: bool = False


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


class Runs:
    """Create, watch and steer runs."""

    def __init__(self, treadle: Treadle, *, walks: Walks | None = None) -> None:
        """Take the composition root, and the walks of the process where others of it know them already."""
        self._treadle = treadle
        self.walks = walks or Walks()
        self._walks, self._broken = self.walks.tasks, self.walks.broken
        self._shared, self._graphs = self.walks.prepared, self.walks.graphs

    # -- making ----------------------------------------------------------------------------------------------

    async def create(
        self,
        thread_id: str | None,
        *,
        agent: str | Agent,
        inputs: Mapping[str, Any] | None = None,
        additional_messages: Sequence[Mapping[str, Any]] = (),
        metadata: Mapping[str, Any] | None = None,
        ttl: str | None = None,
        on_busy: Literal["reject", "queue"] | None = None,
        key: str | None = None,
        new_thread: Mapping[str, Any] | None = None,
        fails_late: bool = False,
        **overrides: Any,
    ) -> Run:
        """Start a run of an agent on a thread; it is accepted, claimed and durable when this returns.

        Shapes: without a thread a new one is made in the same transaction, with the `metadata` and `tool_resources` of
        `new_thread`. With `fails_late` a run whose tools nothing here can run is accepted, and fails. `agent` is an id, a name or the
        agent. `additional_messages` are appended to the thread before the run. `overrides` are the fields of
        `RunOverrides`: model, instructions, additional_instructions, tools, tool_choice, temperature, top_p,
        max_prompt_tokens, max_completion_tokens, thread, output, parallel_tool_calls, reasoning_effort,
        tool_resources.
        While another run is active this one is refused, or with `on_busy="queue"` waits its turn: it is `queued` and
        `in_line`, and its messages are appended when its turn comes. Without it the project's rule holds. `key` is
        the client's own: the same under the same key gives the first run again, for a day.
        Units: `ttl` is a duration such as 10m, counted from now; 0 means never.

        Errors: NotFound; ThreadBusy while another run is active; StateError for inputs or overrides that do not
        fit; Conflict for a key that stands for something else; ConfigurationError where the model or a tool cannot be
        had here. Then nothing is stored.
        """
        given = _Given(
            inputs or {},
            additional_messages,
            metadata or {},
            ttl,
            on_busy,
            key,
            overrides,
            new_thread,
            fails_late,
        )
        return await self._begin(thread_id, agent, given)

    async def _begin(self, thread_id: str | None, agent: str | Agent, given: _Given) -> Run:
        """Accept a run and walk it, at once or when its turn comes; a key that was used gives the run that it gave."""
        try:
            run, prepared = await self._accept(thread_id, agent, given)
        except Repeated as e:
            return await self.get(e.object_id)
        if isinstance(prepared, ConfigurationError):
            error = RunError(code="server_error", message=prepared.message)
            return await self._treadle.executor.finish(run, "failed", error=error)
        self.walk(run, prepared)
        return run

    async def _accept(
        self, thread_id: str | None, agent: str | Agent, given: _Given
    ) -> tuple[Run, Prepared | ConfigurationError]:
        """Check a run, plan it and store it, claimed."""
        treadle = self._treadle
        if isinstance(agent, str):
            agent = await treadle.agents.get(agent)
        request = _request(thread_id, agent, given, now_ms=treadle.clock.now_ms())
        if request is not None:
            await treadle.store.asked(treadle.tenant, request)
        graph, text = self.graph_of(agent)
        now = treadle.clock.now_ms()
        expires_s = lifetime_s(given.ttl if given.ttl is not None else treadle.project.defaults.run_ttl)
        on_busy = given.on_busy or treadle.project.defaults.on_busy
        thread = (
            None
            if thread_id is not None
            else Thread(
                id=treadle.ids.new("thread"),
                tenant=treadle.tenant,
                created_ms=now,
                **(given.new_thread or {}),
            )
        )
        on = thread.id if thread is not None else cast("str", thread_id)
        overrides = _overrides(given.overrides)
        known = self._shared.get((agent.tenant, agent.id, agent.version)) if overrides is _NOTHING else None
        run = Run(
            id=treadle.ids.new("run"),
            tenant=treadle.tenant,
            thread_id=on,
            agent_id=agent.id,
            agent_version=agent.version,
            graph=graph.digest,
            model=known.agent.model if known else "",
            inputs=check_inputs(agent.spec.inputs, given.inputs) if agent.spec.inputs or given.inputs else {},
            overrides=overrides,
            metadata=dict(given.metadata),
            created_ms=now,
            expires_ms=now + int(expires_s * 1000) if expires_s else None,
            first_seq=len(given.messages) + 1 if thread is not None else 0,
        )
        prepared: Prepared | ConfigurationError | None = known
        if prepared is None:
            try:
                prepared = self.prepared(run, agent, graph)
            except ConfigurationError as e:
                if not given.fails_late or e.error_code != UNAVAILABLE:
                    raise
                prepared = e
            else:
                run = run.model_copy(update={"model": prepared.agent.model})
        first = [treadle.messages.draft(on, **m) for m in given.messages]
        if thread is not None:
            first = [m.model_copy(update={"seq": seq}) for seq, m in enumerate(first, 1)]
        records = [*text, *((thread,) if thread is not None else ()), *first, run]
        try:
            stored = await append(
                treadle,
                on,
                *records,
                claim_by=treadle.executor.lease.walker if isinstance(prepared, Prepared) else None,
                in_line=on_busy == "queue",
                request=request,
            )
        except StoreError:
            # It may have been accepted all the same: then it is this process's to walk.
            treadle.keeper.take(run.id)
            raise
        except ThreadBusy:
            raise await self.busy(on) from None
        self._graphs[agent.tenant, agent.id, agent.version] = (graph, ())
        if thread is not None and isinstance(prepared, Prepared):
            prepared = replace(prepared, rows=tuple(m for m in stored if isinstance(m, Message)))
        return cast("Run", stored[-1]), prepared

    async def busy(self, thread_id: str) -> ThreadBusy:
        """Give the error that says which run of a thread is active."""
        active = await self._treadle.store.active_run(self._treadle.tenant, thread_id)
        return ThreadBusy(
            f"Thread {thread_id} already has an active run {active}.",
            hint="wait for it, or cancel it",
            status="active",
            event="run",
        )

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

    # -- watching --------------------------------------------------------------------------------------------

    async def create_and_wait(self, thread_id: str | None, *, agent: str | Agent, **fields: Any) -> Run:
        """Start a run and wait until it ends or needs its client.

        Errors: those of `create` and `wait`.
        """
        return await self.wait((await self.create(thread_id, agent=agent, **fields)).id)

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

    async def stream(
        self, thread_id: str | None, *, agent: str | Agent, **fields: Any
    ) -> AsyncIterator[Event]:
        """Start a run and give its events while they happen, deltas included, until it ends or needs its client.

        Shapes: the fields are those of `create`. Leaving the iteration early does not stop the run.

        Errors: those of `create` and `follow`.
        """
        run = await self.create(thread_id, agent=agent, **fields)
        async with aclosing(self.follow(run.id, until_rest=True)) as events:
            async for event in events:
                yield event

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

    # -- steering --------------------------------------------------------------------------------------------

    async def submit_tool_outputs(
        self, run_id: str, outputs: Sequence[Mapping[str, Any]], *, key: str | None = None
    ) -> Run:
        """Give the outputs of the calls that a run waits for, all at once, and go on walking it.

        Shapes: ``[{"tool_call_id": …, "output": "text"}, …]``. `key` is the client's own: the same under the same key
        gives the run as it is by then, for a day.

        Errors: StateError unless the run is at requires_action; ToolOutputsError for a wrong, missing or doubled
        id; Conflict for a key that stands for something else. Then nothing is stored.
        """
        try:
            return await self._submit(run_id, outputs, key)
        except Repeated as e:
            return await self.get(e.object_id)

    async def submit_and_stream(
        self, run_id: str, outputs: Sequence[Mapping[str, Any]], *, key: str | None = None
    ) -> AsyncIterator[Event]:
        """Submit outputs as `submit_tool_outputs`, and give the run's further events while they happen.

        Shapes: under a key that was used before, those since the outputs were submitted.
        """
        after = await self.event_before(run_id, outputs)
        run = await self.submit_tool_outputs(run_id, outputs, key=key)
        async with aclosing(self.follow(run.id, after=after, until_rest=True)) as events:
            async for event in events:
                yield event

    async def event_before(self, run_id: str, outputs: Sequence[Mapping[str, Any]]) -> int:
        """Give the number of a run's last event before outputs are, or were, submitted: the steps of their calls end then.

        Errors: NotFound.
        """
        run = await self.get(run_id)
        ids = {output.get("tool_call_id") for output in outputs}
        steps = [
            s for s in await self.steps(run.id) if s.event_seq and s.reply_seq and s.call_index is not None
        ]
        rows = await self.rows(run, steps)
        ended = [
            step.event_seq
            for step in steps
            if step.event_seq and rows[step.reply_seq or 0].tool_calls[step.call_index or 0].id in ids
        ]
        if ended:
            return min(ended) - 1
        return await self._treadle.store.last_event(run.tenant, run.id)

    async def _submit(self, run_id: str, outputs: Sequence[Mapping[str, Any]], key: str | None) -> Run:
        run = await self.get(run_id)
        asked = {"run": run.id, "outputs": outputs}
        request = request_of(key, "outputs", asked, now_ms=self._treadle.clock.now_ms(), object_id=run.id)
        if request is not None:
            await self._treadle.store.asked(run.tenant, request)
        if any(p.run_id and p.action == "output" for p in run.pending):
            return await self._submit_to(run, outputs, request)
        prepared = await self.prepare(run)
        checkpoint = await self._outputs(run, outputs, prepared)
        try:
            return await self._answer(checkpoint._replace(request=request), prepared)
        except LeaseLost:
            match_outputs(await self.get(run_id), outputs)
            raise

    async def _outputs(
        self, run: Run, outputs: Sequence[Mapping[str, Any]], prepared: Prepared
    ) -> Checkpoint:
        texts = match_outputs(run, outputs)
        return outputs_checkpoint(
            run,
            texts,
            steps={s.path: s for s in await self._treadle.store.steps(run.tenant, run.id)},
            last_seq=await self._last_seq(run),
            tools=prepared.agent.tools,
            now_ms=self._treadle.clock.now_ms(),
        )

    async def _submit_to(
        self, run: Run, outputs: Sequence[Mapping[str, Any]], request: Request | None
    ) -> Run:
        """Hand the outputs of calls to the child runs that made them, in one transaction; each gets all of its own."""
        made: list[Checkpoint] = []
        for owner, part in parted(run, outputs).items():
            child = await self.get(owner)
            made.append(await self._outputs(child, part, await self.prepare(child)))
        try:
            await self._answer(made[0]._replace(request=request), more=made[1:])
        except LeaseLost:
            parted(await self.get(run.id), outputs)
            raise
        return await self.get(run.id)

    async def _last_seq(self, run: Run) -> int:
        last = await self._treadle.store.rows(run.tenant, run.thread_id, limit=1, order="desc")
        return last[0].seq

    async def _answer(
        self,
        checkpoint: Checkpoint,
        prepared: Prepared | None = None,
        *,
        claim: bool = True,
        more: Sequence[Checkpoint] = (),
    ) -> Run:
        """Write an answer; with the last one that a run waits for it, or the run whose child it is, is claimed and walked on.

        Shapes: `more` are the answers to other child runs of the same run, written with it.
        Where the run cannot be walked here the answer is kept all the same: it is queued for whoever can.

        Errors: LeaseLost when the run does not wait any more as it did.
        """
        above = await self._above(checkpoint.run)
        if claim and checkpoint.status == "queued" and (above or prepared is None):
            prepared = await self._prepared_here(above[-1] if above else checkpoint.run)
            claim = prepared is not None
        if checkpoint.status == "queued" and claim and not above:
            checkpoint = checkpoint._replace(claim_by=self._treadle.executor.lease.walker)
        while True:
            try:
                run = await self._commit_answer(checkpoint, more, above, prepared, claim=claim)
            except LeaseLost:
                # It may be a run above that has moved, and not the one that is answered.
                if not above or await self._has_moved(checkpoint, *more):
                    raise
                above = await self._above(checkpoint.run)
                continue
            break
        if above:
            for one in (checkpoint, *more):
                await self._wake_above(one.run, prepared, claim=claim)
        return run

    async def _has_moved(self, *answers: Checkpoint) -> bool:
        runs = [await self._treadle.store.get(Run, a.run.tenant, a.run.id) for a in answers]
        return any(now.rev != a.run.rev for now, a in zip(runs, answers, strict=True))

    async def _wake_above(self, run: Run, prepared: Prepared | None, *, claim: bool) -> None:
        """Let the run above go on that came to rest while an answer to its child was written, and had not seen it."""
        treadle = self._treadle
        while True:
            now = await treadle.store.get(Run, run.tenant, run.id)
            above = await self._above(now)
            if now.status != "queued" or above[0].status != "requires_action":
                return
            answered = Checkpoint(now, "queued", now_ms=treadle.clock.now_ms())
            first, *rest = _risen(answered, above, treadle.executor.lease.walker, claim=claim)
            try:
                committed = await treadle.store.commit(first._replace(also=rest))
            except LeaseLost:
                continue  # Somebody else moved one of them: look again.
            for one in (committed, *committed.also):
                treadle.stream.publish(one.run.id, one.events)
                if one.run.parent_id is None and one.run.status == "in_progress":
                    self.walk(one.run, prepared)
            return

    async def _commit_answer(
        self,
        checkpoint: Checkpoint,
        more: Sequence[Checkpoint],
        above: Sequence[Run],
        prepared: Prepared | None,
        *,
        claim: bool,
    ) -> Run:
        treadle = self._treadle
        risen: dict[str, Checkpoint] = {}
        for one, over in [(checkpoint, above), *[(c, await self._above(c.run)) for c in more]]:
            for rises in _risen(one, over, treadle.executor.lease.walker, claim=claim):
                # The run that has no other above it comes last.
                before = risen.pop(rises.run.id, rises)
                risen[rises.run.id] = rises if rises.status == "queued" else before
        checkpoint = checkpoint._replace(also=(*more, *risen.values()))
        root = above[-1] if above else checkpoint.run
        try:
            committed = await treadle.store.commit(checkpoint)
        except StoreError:
            if claim:
                # It may have been written all the same: then the run is this process's to walk.
                treadle.keeper.take(root.id)
            raise
        for one in (committed, *committed.also):
            treadle.stream.publish(one.run.id, one.events)
        run = committed.run
        if not above and run.status == "in_progress":
            self.walk(run, prepared)
        elif committed.also and committed.also[-1].run.status == "in_progress":
            self.walk(committed.also[-1].run, prepared)
        return run

    async def _prepared_here(self, run: Run) -> Prepared | None:
        """Give what a run is walked with; None where something that it needs cannot be had here."""
        try:
            return await self.prepare(run)
        except ConfigurationError as e:
            logger.warning("run %s cannot be walked here: %s", run.id, e.message)
            return None

    async def _above(self, run: Run) -> list[Run]:
        """Give the runs whose child a run is, the nearest first."""
        found: list[Run] = []
        while run.parent_id is not None:
            run = await self._treadle.store.get(Run, run.tenant, run.parent_id)
            found.append(run)
        return found

    async def answer(
        self,
        run_id: str,
        node: str | None = None,
        *,
        decision: Literal["approve", "reject"] | None = None,
        choice: str | None = None,
        value: Any = None,
        comment: str | None = None,
        by: str = "",
    ) -> Run:
        """Answer the question of a node, and let the run go on from there; other questions stay open.

        Shapes: `node` is the id of the node that asks, or the path of its step, with ``RUN:`` before it where several child runs
        ask at the same path; it may be left out where one question waits. An approval
        takes a `decision`, a choice one of its choices, an input or an edit a `value` that fits its form. What a child run asks is
        answered at the run itself, too.

        Errors: NotFound for a node that asks nothing; StateError where no question waits, several do and none is named, the
        answer does not fit or comes too late, or somebody else was first. Then nothing is stored.
        """
        run = await self.get(run_id)
        pending = find_question(run, node)
        owner = run
        if pending.run_id is not None:
            owner = await self._treadle.store.get(Run, run.tenant, pending.run_id)
        steps = await self._treadle.store.steps(owner.tenant, owner.id)
        step = next((s for s in steps if s.path == pending.path and s.is_open), None)
        if step is None or step.question is None or step.edge == "answered":
            raise _moved_on(await self.get(run.id), "answer")
        until_ms = step.question.until_ms
        if until_ms is not None and until_ms <= self._treadle.clock.now_ms():
            raise StateError(
                f"the question of '{step.path}' does not stand any more: nobody answered in time",
                status=run.status,
                event="answer",
                hint="the run goes on as the node says as soon as somebody walks it",
                run=run,
            )
        given = fit(
            step.question,
            decision=decision,
            choice=choice,
            value=value,
            comment=clean(comment) if comment else None,
            by=by,
            at=self._treadle.clock.now_ms() // 1000,
        )
        try:
            await self._answer(answer_checkpoint(owner, step, given, now_ms=self._treadle.clock.now_ms()))
        except LeaseLost:
            raise _moved_on(await self.get(run.id), "answer") from None
        return await self.get(run.id)

    async def approve(
        self,
        run_id: str,
        call_id: str | None = None,
        *,
        arguments: str | Mapping[str, Any] | None = None,
        by: str = "",
        digest: str | None = None,
    ) -> Run:
        """Let a call run that waits for a person, as it is or with other arguments; with the last decision the run goes on.

        Shapes: `call_id` may be left out where one call waits. `arguments` are JSON, as a text or an object, and are
        held against the tool's schema. `digest` is that of the call as the person saw it (`run.required_approvals`):
        the consent counts only if it still is that. For a call whose outcome is unknown it means: make it again.

        Errors: NotFound; StateError when no call waits, several do and none is named, the arguments do not fit, the call
        has changed, or somebody else decided first. Then nothing is stored.
        """
        text = arguments if arguments is None or isinstance(arguments, str) else json.dumps(arguments)
        return await self._decide(run_id, call_id, "approve", by=by, arguments=text, digest=digest)

    async def reject(self, run_id: str, call_id: str | None = None, *, reason: str = "", by: str = "") -> Run:
        """Keep a call from running that waits for a person; the model is told the reason.

        Errors: as `approve`.
        """
        return await self._decide(run_id, call_id, "reject", by=by, reason=reason)

    async def _decide(
        self,
        run_id: str,
        call_id: str | None,
        verdict: Literal["approve", "reject"],
        *,
        by: str,
        reason: str | None = None,
        arguments: str | None = None,
        digest: str | None = None,
    ) -> Run:
        run = await self.get(run_id)
        if run.required_answers and not run.required_approvals:
            return await self.answer(
                run.id, call_id, decision=verdict, comment=reason, by=by,
                value=json.loads(arguments) if arguments is not None else None,
            )  # fmt: skip
        pending = find_pending(run, call_id)
        if pending.run_id is not None:
            await self._decide(
                pending.run_id,
                own_id(pending),
                verdict,
                by=by,
                reason=reason,
                arguments=arguments,
                digest=digest,
            )
            return await self.get(run.id)
        prepared = await self.prepare(run)
        decision = self._decision(
            run, pending, verdict, prepared, by=by, reason=reason, arguments=arguments, digest=digest
        )
        decided = await self._write_decision(run, pending, decision, prepared)
        return decided if decided.status == "in_progress" else await self._whole(decided)

    def _decision(
        self,
        run: Run,
        pending: PendingCall,
        verdict: Literal["approve", "reject"],
        prepared: Prepared,
        *,
        by: str,
        reason: str | None = None,
        arguments: str | None = None,
        digest: str | None = None,
    ) -> Decision:
        binds = pending.digest
        if verdict == "approve":
            binds = approved(run, pending, prepared.agent.tools, arguments=arguments, seen=digest)
        return Decision(
            verdict=verdict,
            by=by,
            at_ms=self._treadle.clock.now_ms(),
            reason=clean(reason) if reason else None,
            arguments=arguments,
            digest=binds,
        )

    async def decide(self, run_id: str, verdicts: Mapping[str, bool], *, by: str = "") -> Run:
        """Decide on all calls that wait for a person, of a run and of its child runs; then it goes on.

        Shapes: `verdicts` says of each id whether the call may run.

        Errors: NotFound; StateError where the run waits for no decision, or for other ones. Then nothing is stored.
        """
        run = await self.get(run_id)
        if run.status != "requires_action":
            raise StateError(f'Runs in status "{run.status}" do not accept tool approvals.', run=run)
        waiting = [p for p in run.required_approvals if p.call is not None]
        named = [[id_ for id_ in verdicts if is_named(p, id_)] for p in waiting]
        if not named or not all(named) or {id_ for ids in named for id_ in ids} != set(verdicts):
            wanted = [p.call.id for p in waiting if p.call is not None]
            raise StateError(f"Expected tool approvals for call_ids {wanted}, got {list(verdicts)}", run=run)
        by_owner: dict[str, list[PendingCall]] = {}
        for pending in waiting:
            by_owner.setdefault(pending.run_id or run.id, []).append(pending)
        said = {id(p): next(v for id_, v in verdicts.items() if is_named(p, id_)) for p in waiting}
        for owner, calls in by_owner.items():
            for pending in calls[:-1]:
                verdict = "approve" if said[id(pending)] else "reject"
                await self._decide(owner, own_id(pending), verdict, by=by, digest=pending.digest)
        # The last decisions let the runs go on: they are written together.
        last = [
            await self._last_decision(o, calls[-1], may=said[id(calls[-1])], by=by)
            for o, calls in by_owner.items()
        ]
        try:
            decided = await self._answer(last[0], more=last[1:])
        except LeaseLost:
            raise _moved_on(await self.get(run.id), "decide") from None
        return decided if decided.id == run.id and decided.status == "in_progress" else await self.get(run.id)

    async def _last_decision(self, owner: str, seen: PendingCall, *, may: bool, by: str) -> Checkpoint:
        run = await self.get(owner)
        pending = find_pending(run, own_id(seen))
        decision = self._decision(
            run, pending, "approve" if may else "reject", await self.prepare(run), by=by, digest=seen.digest
        )
        return await self._deciding(run, pending, decision)

    async def decide_late(self, run: Run) -> Run:
        """Decide, as their rules say, the questions of a run that nobody answered in time; nobody walks it on here.

        Errors: StateError when somebody answers at the same time.
        """
        now = self._treadle.clock.now_ms()
        if is_workflow_id(run.agent_id):
            # Its nodes say what becomes of a question that nobody answered, or of a time that has come.
            event = Event(run.id, "thread.run.queued", run.id)
            changes: dict[str, Any] = {"pending": (), "wake_ms": None}
            return await self._answer(
                Checkpoint(run, "queued", changes, events=[event], now_ms=now), claim=False
            )
        for pending in run.pending:
            if pending.until_ms is None or pending.until_ms > now:
                continue
            decision = Decision(
                verdict=pending.default, by="deadline", at_ms=now, reason="nobody answered in time",
                digest=pending.digest,
            )  # fmt: skip
            run = await self._write_decision(run, pending, decision, claim=False)
        return run

    async def _write_decision(
        self,
        run: Run,
        pending: PendingCall,
        decision: Decision,
        prepared: Prepared | None = None,
        *,
        claim: bool = True,
    ) -> Run:
        checkpoint = await self._deciding(run, pending, decision)
        try:
            return await self._answer(checkpoint, prepared, claim=claim)
        except LeaseLost:
            raise _moved_on(await self.get(run.id), decision.verdict) from None

    async def _deciding(self, run: Run, pending: PendingCall, decision: Decision) -> Checkpoint:
        steps = await self._treadle.store.steps(run.tenant, run.id)
        # Between the two readings somebody else may have decided.
        step = next((s for s in steps if s.path == pending.path and s.is_open), None)
        if step is None:
            raise _moved_on(await self.get(run.id), decision.verdict)
        return decision_checkpoint(run, pending, decision, step=step, last_seq=await self._last_seq(run))

    async def resume(self, run_id: str) -> Run:
        """Claim a run that was parked, or that a process which is gone has left, and walk it on from its last checkpoint.

        Errors: NotFound; StateError when it is neither.
        """
        run, prepared = await self._claim(run_id)
        if not is_terminal(run.status):
            self.walk(run, prepared)
        return run

    async def resume_and_stream(self, run_id: str) -> AsyncIterator[Event]:
        """Go on as `resume`, and give the run's further events while they happen.

        Errors: as `resume`; what broke the walk.
        """
        after = await self._treadle.store.last_event(self._treadle.tenant, (await self.get(run_id)).id)
        run = await self.resume(run_id)
        async with aclosing(self.follow(run.id, after=after, until_rest=True)) as events:
            async for event in events:
                yield event

    async def _claim(self, run_id: str) -> tuple[Run, Prepared]:
        treadle = self._treadle
        run = await self.get(run_id)
        if run.status not in ("queued", "in_progress") or treadle.executor.is_walking(run.id):
            raise _not_resumable(run)
        prepared = await self.prepare(run)
        if run.walker is not None:
            await treadle.keeper.bury()
        try:
            claimed = await treadle.store.claim(
                run.tenant,
                run.id,
                treadle.executor.lease.walker,
                now_ms=treadle.clock.now_ms(),
                rev=run.rev,
            )
        except LeaseLost:
            raise _not_resumable(await self.get(run.id)) from None
        treadle.stream.publish(run.id, claimed.events)
        if await treadle.keeper.is_given_up(claimed.run):
            return await self.get(run.id), prepared
        return claimed.run, prepared

    async def cancel(self, run_id: str) -> Run:
        """Ask for a run's end; it is `cancelling` when this returns, and `cancelled` when its walker has stopped.

        A run that nobody walks, or that a process which is gone has left, is cancelled before this returns.

        Errors: NotFound; StateError when it has ended.
        """
        treadle = self._treadle
        while True:
            run = await treadle.store.get(Run, treadle.tenant, await one_id(treadle, Run, run_id))
            if run.status not in ACTIVE:
                raise StateError(
                    f"Cannot cancel run with status '{run.status}'.",
                    status=run.status,
                    event="cancel",
                    run=run,
                )
            try:
                if run.walker is None:
                    await treadle.executor.finish_cancel(run)
                    await self._rouse_above(run)
                    return run.model_copy(update={"status": "cancelling"})
                is_left = False
                if not treadle.executor.is_walking(run.id) and (left := await self._take_left(run)):
                    run, is_left = left, True
                if run.status != "cancelling":
                    run = await self._ask_to_stop(run)
                if is_left:
                    await treadle.executor.finish_cancel(run)
            except LeaseLost:
                continue
            treadle.executor.cancel(run.id)
            return run

    async def _rouse_above(self, run: Run) -> None:
        """Let the runs go on that rest because of a child run, which has ended."""
        treadle = self._treadle
        above = await self._above(run)
        if not above or any(is_terminal(one.status) or one.walker is not None for one in above):
            return
        now_ms = treadle.clock.now_ms()
        moves = [
            Checkpoint(
                one, "queued", {"pending": (), "wake_ms": None}, now_ms=now_ms,
                events=[Event(one.id, "thread.run.queued", one.id)],
            )
            for one in above
            if one.status != "queued"
        ]  # fmt: skip
        if not moves:
            return
        try:
            committed = await treadle.store.commit(moves[0]._replace(also=tuple(moves[1:])))
        except LeaseLost:
            return  # Whoever moved them on looks at the child as it is.
        for one in (committed, *committed.also):
            treadle.stream.publish(one.run.id, one.events)
        treadle.keeper.take(above[-1].id)

    async def _ask_to_stop(self, run: Run) -> Run:
        treadle = self._treadle
        event = Event(run.id, "thread.run.cancelling", run.id)
        committed = await treadle.store.commit(
            Checkpoint(run, "cancelling", events=[event], now_ms=treadle.clock.now_ms())
        )
        treadle.stream.publish(run.id, committed.events)
        return committed.run

    async def _take_left(self, run: Run) -> Run | None:
        """Take a run whose walker is gone, or whose walk in this process broke; None where somebody walks it."""
        treadle = self._treadle
        await treadle.keeper.bury()
        try:
            claimed = await treadle.store.claim(
                run.tenant,
                run.id,
                treadle.executor.lease.walker,
                now_ms=treadle.clock.now_ms(),
                rev=run.rev,
            )
        except LeaseLost:
            return None
        treadle.stream.publish(run.id, claimed.events)
        return claimed.run

    # -- once more -------------------------------------------------------------------------------------------

    async def fork(self, run: str, *, at: str, edit: Any = UNCHANGED) -> Run:
        """Start a new run that is as this one was before a step: everything before is kept, and the step is executed again.

        Shapes: `at` is the path of a step, or its node where that was visited once. With `edit` the result of the step is that
        JSON instead, and the new run goes on behind it. The new run has `origin`, and a thread that shares the first rows of
        this one's; every step that was not executed says in `kept` whose result it has. A call of an agent keeps the reply
        that made it.

        Errors: NotFound for the run or the step; StateError for what cannot be edited; ConfigurationError where something that
        the run needs cannot be had here. Then nothing is stored.
        """
        from treadle.service import again

        return await again.fork(self._treadle, run, at=at, edit=edit)

    async def rerun(
        self, run: str, *, from_: str, force: Sequence[str] = (), model: str | None = None
    ) -> Run:
        """Start a new run that executes a step of this one again and what came after it, and keeps everything else.

        Shapes: `from_` is named as in `fork`. Every visit of the nodes in `force` is executed, too; what follows these is kept
        where it sees the same values. `model` takes the place of the models of the agents and prompts that are executed.

        Errors: those of `fork`; StateError for a step that has not ended; ModelNotConfigured.
        """
        from treadle.service import again

        return await again.rerun(self._treadle, run, from_=from_, force=force, model=model)

    async def replay(self, run: str) -> Trace:
        """Walk a run once more with what its steps gave, in memory and executing nothing, and give the trace: it is the same.

        Errors: StateError that says what differs first; for a run that neither completed nor failed; ConfigurationError where
        something that the run needs cannot be had here.
        """
        from treadle.service.replay import replay

        return await replay(self._treadle, run)

    async def update(self, run_id: str, *, metadata: Mapping[str, Any]) -> Run:
        """Replace a run's metadata.

        Errors: NotFound.
        """
        changed = (await self.get(run_id)).model_copy(update={"metadata": dict(metadata)})
        await self._treadle.store.replace(self._treadle.tenant, changed)
        return changed


def _is_end(event: Event) -> bool:
    return event.seq is not None and event.name in _ENDS


_ENDS = frozenset(f"thread.run.{status}" for status in TERMINAL)
_WHOLE = (".completed", ".incomplete")


def _risen(
    checkpoint: Checkpoint, above: Sequence[Run], walker: Walker, *, claim: bool
) -> tuple[Checkpoint, ...]:
    """Give what an answer to a child run writes to the runs above it, where those wait for it.

    Invariant: a run above that is walked looks at its child itself, and is not written to.
    """
    made: list[Checkpoint] = []
    for run in above:
        if run.status != "requires_action":
            break
        if checkpoint.status == "queued":
            event = Event(run.id, "thread.run.queued", run.id)
            risen = Checkpoint(
                run, "queued", {"pending": (), "wake_ms": None}, events=[event], now_ms=checkpoint.now_ms,
                claim_by=walker if claim and run.parent_id is None else None,
            )  # fmt: skip
        else:
            child = checkpoint.run.id
            rest: tuple[PendingCall, ...] = checkpoint.changes.get("pending", ())
            kept = [p for p in run.pending if p.run_id != child]
            pending = (*kept, *(p.model_copy(update={"run_id": child}) for p in rest))
            risen = Checkpoint(run, "requires_action", {"pending": pending}, now_ms=checkpoint.now_ms)
        made.append(risen)
    return tuple(made)


def _moved_on(run: Run, event: str) -> StateError:
    return StateError(
        f"run {run.id} has moved on: it is {run.status}",
        status=run.status,
        event=event,
        hint="somebody else decided, or the run ended; look at it again",
        run=run,
    )


def _not_resumable(run: Run) -> StateError:
    held = f", and walker {run.walker} holds it" if run.walker is not None else ""
    return StateError(
        f"run {run.id} is {run.status}{held}: only a run that is queued, or that its walker left, can be resumed",
        status=run.status,
        event="resume",
        run=run,
    )


def _request(thread_id: str | None, agent: Agent, given: _Given, *, now_ms: int) -> Request | None:
    asked = {"thread": thread_id, "agent": agent.id, **given._asdict()}
    for name in ("key", "fails_late"):
        del asked[name]
    return request_of(given.key, "run", asked, now_ms=now_ms)


def _overrides(given: Mapping[str, Any]) -> RunOverrides:
    if not given or all(v is None for v in given.values()):
        return _NOTHING
    try:
        return RunOverrides(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        known = ", ".join(RunOverrides.model_fields)
        raise StateError(
            f"the run's '{place}' does not fit: {first['msg']}", hint=f"a run can change: {known}"
        ) from e


def _is_templated(spec: AgentSpec) -> bool:
    return bool(spec.instructions.template and "{" in spec.instructions.template) or bool(
        spec.additional_instructions
    )
