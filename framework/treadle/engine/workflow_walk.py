"""Walk a run of a workflow: start what is ready, whatever else is still under way, until it ends or only waits.

Rules

1. There is no barrier: a step starts when it is ready and there is room, and is folded when it ends.
2. What only computes and chooses is written with the next thing that takes time; what it wrote is folded at once.
3. A child run is walked by the walk of its parent and under its lease; nobody else claims it.
4. A step of a lane that nothing waits for any more is stopped, and is cancelled where the journal has it open.
5. Where nothing can start and nothing is under way, the run rests: the journal says what it waits for, no process is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from treadle import registry
from treadle.engine import frames, kept_results, scheduler, spending
from treadle.engine.activation import ANSWERED, CHILD, DISPATCHED, PERSON, TIMER, Activation, State
from treadle.engine.sight import Sight
from treadle.engine.spending import Spent
from treadle.engine.workflow_end import end_workflow, error_of
from treadle.errors import (
    Conflict,
    DefinitionError,
    LeaseLost,
    NotFound,
    StatementError,
    StoreError,
    TreadleError,
)
from treadle.lifecycle import is_terminal
from treadle.objects.event import Event
from treadle.objects.message import Message
from treadle.objects.record import parse_duration
from treadle.objects.run import PendingCall, Run, RunError, RunStatus
from treadle.objects.run_step import Step, StepKind
from treadle.objects.thread import Thread
from treadle.steps import NODES
from treadle.steps import call as call_steps
from treadle.steps import child as child_steps
from treadle.steps.base import Intent
from treadle.steps.leaving import Left, leave
from treadle.steps.names import evaluate, why
from treadle.steps.node import (
    NodeContext,
    NodeEffects,
    NodeKind,
    Recorded,
    WorkflowPlan,
    failed,
)
from treadle.store.base import Checkpoint, Statement, Stored

if TYPE_CHECKING:
    from treadle.engine.executor import Executor, Handle, Prepared
    from treadle.graph.nodes import Node

logger = logging.getLogger("treadle.engine")

GATHERED = 200
"""How many steps that only compute are gathered before they are written."""
SHORT_MS = 2_000
"""A wait that is not worth letting the run go for."""
LOOK_S = 1.0
"""How long a walk that is busy does not look at its child runs at rest, where nothing seems to be written."""


_kinds: dict[str, NodeKind] = {}


def kind_of(type_: str) -> NodeKind:
    """Give how a type of node is executed."""
    found = _kinds.get(type_)
    if found is None:
        found = _kinds[type_] = cast("NodeKind", registry.lookup("nodes", NODES, type_))
    return found


@dataclass(slots=True)
class _Flight:
    """A step that is under way."""

    activation: Activation
    context: NodeContext
    started_ms: int
    n: int
    task: asyncio.Future[Any] = field(default_factory=asyncio.Future[Any])
    child: str | None = None


@dataclass(slots=True)
class _Draft:
    """What is folded and not written yet."""

    steps: list[Step] = field(default_factory=list[Step])
    rows: list[Message] = field(default_factory=list[Message])
    events: list[Event] = field(default_factory=list[Event])
    statements: list[Statement] = field(default_factory=list[Statement])
    inserts: list[Stored] = field(default_factory=list[Stored])


class WorkflowWalk:
    """One run of a workflow, while it is walked; one use."""

    def __init__(
        self, executor: Executor, run: Run, prepared: Prepared, handle: Handle, began: float
    ) -> None:
        """Take what writes and publishes, the claimed run, and what it is walked with."""
        self._executor = executor
        self._store, self._clock, self._stream = executor.store, executor.clock, executor.stream
        self.run = run
        self.graph = prepared.graph
        self.plan = cast("WorkflowPlan", prepared.plan)
        self.state = prepared.start
        self.handle = handle
        self.began = began
        self._flights: dict[str, _Flight] = {}
        self._resting: dict[str, Run] = {}
        self._held: dict[str, Spent] = {}
        self._draft = _Draft()
        self._attempts: dict[str, int] = {}
        self._sight = Sight(prepared.graph)
        self._n = 0
        self._result: Any = None
        self._breached: str | None = None
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Read the journal of a run that was begun before."""
        if self.run.rev > 1:
            steps = await self._store.steps(self.run.tenant, self.run.id)
            self.state = scheduler.fold_all(self.graph, steps)
            self._attempts = {s.path: s.attempt for s in steps if s.edge == "retry"}
            self._n = max((s.n + 1 for s in steps), default=0)
            ends = [s for s in steps if s.status == "completed" and self._type(s.node) == "end"]
            self._result = ends[-1].result if ends else None

    # -- the loop --------------------------------------------------------------------------------------------

    async def advance(self) -> bool:
        """Start what can start, and take what has ended; tell whether the walk is over."""
        state = self.state
        if self.handle.orphans:
            await self._executor.end_children(self.run, self.handle.orphans)
        if self._breached is not None:
            return await self._end("incomplete", reason=self._breached)
        limit = None if state.failed is None else self._limit_behind(state.failed)
        if state.failed is not None and limit is None:
            return await self._end("failed", error=error_of(state.failed))
        if state.is_finished and limit is None:
            return await self._complete()
        if (limit := limit or self.breach()) is not None:
            status: RunStatus = "expired" if limit == "expires_at" else "incomplete"
            return await self._end(status, reason=limit)
        if await self._start():
            return False
        await self._flush()
        if self._flights:
            await self._take()
            return False
        return await self._rest()

    def _limit_behind(self, step: Step) -> str | None:
        """Give the limit of the run itself that stopped a child run, so that a step failed; None for any other failure."""
        if step.last_error is None or step.last_error.code not in ("budget", "timeout"):
            return None
        return self.breach() or spending.exhausted(self.plan.limits, self.spent())

    async def stop(self) -> None:
        """Stop what is under way; nothing of it is written."""
        flights, self._flights = list(self._flights.values()), {}
        for flight in flights:
            flight.task.cancel()
        if flights:
            await asyncio.gather(*(f.task for f in flights), return_exceptions=True)

    async def land(self) -> None:
        """Let what is under way come to its end and write it, before the run is given back."""
        while self._flights and self.state.failed is None and not self.state.is_finished:
            await self._take()
        await self._flush()

    async def _start(self) -> bool:
        """Start what is ready or can go on; tell whether something was folded, so that more may be ready."""
        folded = False
        once: list[tuple[Activation, NodeContext, Intent]] = []
        now = self._clock.now_ms()
        begun = [(a, s) for a, s in self.state.open if self._goes_on(a, s, now)]
        todo: list[tuple[Activation, Step | None]] = [*begun, *((a, None) for a in self.state.ready)]
        for activation, step in self._in_order(todo, now):
            if activation.path in self._flights or activation.not_before_ms > now:
                continue
            if self._is_suspended(activation.path) or not self._is_there(activation.path):
                continue
            if step is not None and step.child is not None:
                folded |= await self._look_at_child(activation, step)
                continue
            node = self.graph.node[activation.node]
            kind = kind_of(node.params["type"])
            is_new = step is None and not activation.frame
            if is_new and node.max_visits is not None and activation.visit > node.max_visits:
                self._breached = "max_visits"
                return True
            if step is None and (limit := self._beyond(node, [a for a, _, _ in once])) is not None:
                self._breached = limit
                return True
            if (kind.perform is not None or node.kind == "child_run") and not self._has_room(once):
                continue
            context = self._context(activation, step)
            taken = None
            if is_new and (earlier := self.plan.earlier) is not None:
                was = earlier.place(activation.path)
                taken = earlier.take(context)
                if earlier.place(activation.path) != was:
                    # It sees other values than then: it begins beside whatever else is executed.
                    return True
            context, effects = taken or (context, self._prepared(kind, context))
            if isinstance(effects, NodeEffects):
                await self._finish(activation, context, effects, started_ms=self._clock.now_ms(), begun=step)
                folded = True
            elif (kept := await self._earlier(context)) is not None:
                await self._finish(activation, context, kept, started_ms=self._clock.now_ms(), begun=step)
                folded = True
            else:
                once.append((activation, context, effects))
            if len(self._draft.steps) >= GATHERED:
                await self._flush()
            if self.state.failed is not None or self.state.is_finished or self.handle.is_stopping:
                break
        # What was folded meanwhile may have decided a join: what it leaves behind does not begin.
        return await self._launch([one for one in once if self._is_there(one[0].path)]) or folded

    def _in_order(
        self, todo: list[tuple[Activation, Step | None]], now: int
    ) -> list[tuple[Activation, Step | None]]:
        """Give what can start; of a run that keeps steps of an earlier one only the next of these, as long as there is one.

        Invariant: what they decide (a join, a lane that fails) is decided before anything begins that it leaves behind.
        """
        earlier = self.plan.earlier
        if earlier is None:
            return todo
        known = [
            (place, one)
            for one in todo
            if one[1] is None
            and one[0].path not in self._flights
            and one[0].not_before_ms <= now
            and (place := earlier.place(one[0].path)) is not None
        ]
        return [min(known, key=lambda k: k[0])[1]] if known else todo

    def _beyond(self, node: Node, chosen: Sequence[Activation]) -> str | None:
        """Give the name of the limit that one more step would break, what is under way counted as done."""
        limits, state = self.plan.limits, self.state
        steps, calls, asked = state.steps, state.tool_calls, state.model_calls
        if self.handle.children or self._held:
            total = self.spent().used
            steps, calls, asked = total.steps, total.tool_calls, total.model_calls
        if steps + len(self._flights) + len(chosen) >= limits.max_steps:
            return "max_steps"
        begun = [*(f.activation for f in self._flights.values()), *chosen]
        if node.kind == "tool_call":
            calls += sum(self.graph.node[a.node].kind == "tool_call" for a in begun)
            return "max_tool_calls" if calls >= limits.max_tool_calls else None
        most = limits.max_model_calls
        if most is not None and (node.kind == "model_call" or node.params["type"] == "agent"):
            asked += sum(self.graph.node[a.node].kind == "model_call" for a in begun)
            return "max_model_calls" if asked >= most else None
        return None

    def _goes_on(self, activation: Activation, step: Step, now: int) -> bool:
        """Tell whether an open step has what it waited for."""
        if activation.path in self._flights:
            return False
        if step.child is not None:
            resting = self._resting.get(activation.path)
            due = None if resting is None else _due_of(resting)
            return resting is None or (due is not None and due <= now)
        if step.edge in (ANSWERED, DISPATCHED):
            return True
        due = step.wake_ms or (step.question.until_ms if step.question is not None else None)
        return due is not None and due <= now

    def _is_there(self, path: str) -> bool:
        """Tell whether a step may still start: what was folded meanwhile may have closed its frame."""
        state = self.state
        return any(a.path == path for a in state.ready) or any(o[0].path == path for o in state.open)

    def _is_suspended(self, path: str) -> bool:
        """Tell whether a function waits for the answer to a call of its own."""
        calls = self.state.recorded.get(path)
        if calls is None:
            return False
        until = [call.question.until_ms for call in calls.values() if call.is_open and call.question]
        now = self._clock.now_ms()
        return bool(until) and not any(u is not None and u <= now for u in until)

    def _has_room(self, more: Sequence[object]) -> bool:
        return len(self._flights) + len(more) < self.plan.limits.max_concurrency

    def _prepared(self, kind: NodeKind, context: NodeContext) -> Intent | NodeEffects:
        stand_in = self.plan.stand_in
        if stand_in is not None and context.frame is None:
            effects = stand_in(context.node.id, context.path)
            if effects is not None:
                return effects
        try:
            if context.begun is not None and context.begun.edge == DISPATCHED:
                return call_steps.unsettled(context)
            return kind.prepare(context)
        except DefinitionError as e:
            return failed("code_error", why(e))

    async def _earlier(self, context: NodeContext) -> NodeEffects | None:
        if self.plan.earlier is not None and self.plan.earlier.insists(context):
            return None
        try:
            return await kept_results.earlier(self._store, context)
        except DefinitionError as e:
            return failed("code_error", why(e))

    async def _launch(self, chosen: Sequence[tuple[Activation, NodeContext, Intent]]) -> bool:
        """Perform steps in the background; one that may be made once only is written down before it is.

        A step that is all there is to do is performed at once: the result tells whether it was folded.
        """
        if not chosen:
            return False
        places = {activation.path: self._take_n(context.begun) for activation, context, _ in chosen}
        now = self._clock.now_ms()
        is_once = False
        for activation, context, intent in chosen:
            self._announce(activation, context)
            if intent.effect == "once":
                is_once = True
                row = self._row(activation, context, places[activation.path], now, edge=DISPATCHED)
                self._fold(row)
        is_alone = (
            len(chosen) == 1 and not self._flights and len(self.state.ready) + len(self.state.open) == 1
        )
        if is_once or is_alone:
            await self._flush()
        for activation, context, intent in chosen:
            n = places[activation.path]
            self.handle.begun.add(activation.path)
            if is_alone:
                effects = await self._perform(context, intent)
                self.handle.begun.discard(activation.path)
                await self._land(_Flight(activation, context, now, n), effects)
                await self._flush_unless_over()
                return True
            task = asyncio.ensure_future(self._perform(context, intent))
            self._flights[activation.path] = _Flight(activation, context, now, n, task)
        return False

    async def _perform(self, context: NodeContext, intent: Intent) -> NodeEffects:
        perform = kind_of(context.params["type"]).perform
        assert perform is not None
        own = context.params.get("timeout")
        limit_s = parse_duration(own) if own is not None else None
        left_s = self._left_s()
        bounds = [s for s in (limit_s, left_s) if s is not None]
        bound = asyncio.timeout(max(0.0, min(bounds))) if bounds else None
        try:
            if bound is None:
                return await perform(context, intent)
            async with bound:
                return await perform(context, intent)
        except DefinitionError as e:
            return failed("code_error", why(e))
        except (LeaseLost, StoreError):
            raise
        except Exception as e:
            if bound is not None and bound.expired():
                return failed("timeout", f"it took longer than {min(bounds):g} s")
            logger.exception("node %s of run %s broke", context.path, self.run.id)
            said = " ".join(str(e).split())[:500]
            return failed("code_error", f"{type(e).__name__}: {said}" if said else type(e).__name__)

    async def _take(self) -> None:
        """Wait until something has ended, and take all that has; a step that comes due meanwhile starts, too."""
        tasks: dict[asyncio.Future[Any], _Flight] = {f.task: f for f in self._flights.values()}
        due_ms = self._due_ms()
        wait_s = None if due_ms is None else max(0.0, (due_ms - self._clock.now_ms()) / 1000)
        others: list[asyncio.Future[Any]] = []
        if wait_s is not None:
            others.append(asyncio.ensure_future(self._clock.sleep(wait_s)))
        if self._resting:
            others.append(asyncio.ensure_future(self._store.changed(LOOK_S)))
        try:
            await asyncio.wait([*tasks, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for other in others:
                other.cancel()
        if self._resting:
            await self._look_at_resting()
        ended = [f for f in tasks.values() if f.task.done()]
        for flight in ended:
            path = flight.activation.path
            if self._flights.pop(path, None) is None:
                continue
            self.handle.begun.discard(path)
            if flight.child is not None:
                await self._child_ended(flight, cast("Run", flight.task.result()))
                continue
            effects = cast("NodeEffects", flight.task.result())
            if not self._is_there(path):
                continue
            await self._land(flight, effects)
        await self._flush_unless_over()

    async def _flush_unless_over(self) -> None:
        """Write what is folded, but for what ends the run: that is written with its end."""
        if self.state.failed is None and not self.state.is_finished:
            await self._flush()

    async def _land(self, flight: _Flight, effects: NodeEffects) -> None:
        """Fold what a step gave; where the statements of a tool are refused, that it failed instead."""
        activation, context = flight.activation, flight.context
        begun = self._begun(activation.path)
        if not effects.statements:
            await self._finish(
                activation, context, effects, started_ms=flight.started_ms, begun=begun, n=flight.n
            )
            return
        await self._flush()
        before = self.state
        try:
            await self._finish(
                activation, context, effects, started_ms=flight.started_ms, begun=begun, n=flight.n
            )
            await self._flush()
        except StatementError as e:
            self.state, self._draft = before, _Draft()
            refused = call_steps.refused(context, e)
            await self._finish(
                activation, context, refused, started_ms=flight.started_ms, begun=begun, n=flight.n
            )

    async def _look_at_resting(self) -> bool:
        """Forget child runs at rest that somebody has moved on; tell whether there were any."""
        moved = False
        for path, child in list(self._resting.items()):
            now = await self._store.get(Run, child.tenant, child.id)
            if now.rev != child.rev:
                del self._resting[path]
                moved = True
        return moved

    def _begun(self, path: str) -> Step | None:
        return next((step for a, step in self.state.open if a.path == path), None)

    def _due_ms(self) -> int | None:
        """Give when the next step comes due that waits for a time."""
        now = self._clock.now_ms()
        times = [a.not_before_ms for a in self.state.ready if a.not_before_ms > now]
        for activation, step in self.state.open:
            if activation.path in self._flights:
                continue
            if step.child is not None:
                resting = self._resting.get(activation.path)
                due = None if resting is None else _due_of(resting)
                times += [due] if due is not None else []
                continue
            due = step.wake_ms or (step.question.until_ms if step.question is not None else None)
            times += [due] if due is not None else []
        for calls in self.state.recorded.values():
            times += [
                c.question.until_ms
                for c in calls.values()
                if c.is_open and c.question and c.question.until_ms
            ]
        return min(times, default=None)

    # -- what nodes see --------------------------------------------------------------------------------------

    def _type(self, node: str) -> str:
        return self.graph.node[node].params["type"]

    def _context(self, activation: Activation, begun: Step | None) -> NodeContext:
        node = self.graph.node[activation.node]
        calls = self.state.recorded.get(activation.path)
        teller = self._executor.teller(self.run, activation.path)
        attempt = begun.attempt if begun is not None else self._attempts.get(activation.path, 0) + 1
        return NodeContext(
            run=self.run,
            plan=self.plan,
            node=node,
            path=activation.path,
            visit=activation.visit,
            view=self._sight.closing(self.run, self.state, activation.lane, node, activation.frame)
            if activation.frame
            else self._sight.view(self.run, self.state, activation.lane, node),
            clock=self._clock,
            attempt=attempt,
            emit=teller or _ignore,
            has_spoken=(lambda: teller.has_spoken) if teller is not None else _never,
            timeout_s=self._left_s(),
            begun=begun,
            frame=self._sight.frame(self.run, self.state, activation.frame) if activation.frame else None,
            recorded=dict(calls.items()) if calls is not None else {},
            record=partial(self._record, activation, attempt),
        )

    # -- how steps end ---------------------------------------------------------------------------------------

    async def _finish(
        self,
        activation: Activation,
        context: NodeContext,
        effects: NodeEffects,
        *,
        started_ms: int,
        begun: Step | None,
        n: int | None = None,
    ) -> None:
        """Fold what a node gave: the step has ended, waits, or is made again."""
        if n is None:
            n = self._take_n(begun)
        if effects.suspends:
            # The calls that the function made are in the journal; the function itself begins anew.
            return
        if effects.status == "in_progress":
            await self._wait_for(activation, context, effects, n, started_ms)
            return
        effects = self._on_its_way(activation, effects)
        if effects.message is not None:
            effects = await self._placed(effects, effects.message)
        left = leave(context, effects, reduce=frames.reduced)
        now = self._clock.now_ms()
        row = self._row(activation, context, n, started_ms, left=left, effects=effects, ended_ms=now)
        if left.again_s is not None:
            self._attempts[activation.path] = row.attempt
            row = row.model_copy(update={"wake_ms": now + int(left.again_s * 1000)})
        if left.status == "completed":
            if effects.kept is None and (kept := kept_results.to_keep(context, left)) is not None:
                self._draft.inserts.append(kept)
            if self._type(activation.node) == "end":
                self._result = left.result
        if (said := effects.message) is not None:
            self._draft.rows.append(said)
            if said.thread_id == self.run.thread_id:
                row = row.model_copy(update={"message_seq": said.seq, "said": said.is_listed})
        self._draft.statements += effects.statements
        self._doom(self._fold(row))
        if activation.frame and activation.frame not in self.state.frames:
            self._sight.forget(activation.frame)

    async def _placed(self, effects: NodeEffects, row: Message) -> NodeEffects:
        """Give the effects with the place of their message in its thread, and with its id in the result."""
        row = row.model_copy(update={"seq": await self._next_seq(row.thread_id)})
        id_ = self._store.message_id(row.tenant, row.thread_id, row.seq)
        result = {**cast("dict[str, Any]", effects.result or {}), "message_id": id_}
        return effects._replace(message=row, result=result)

    async def _next_seq(self, thread_id: str) -> int:
        """Give the place of the next row of a thread; a further thread of the run is made where it is not there yet.

        Invariant: of the steps that are under way only one appends to a thread.
        """
        tenant = self.run.tenant
        drafted = sum(row.thread_id == thread_id for row in self._draft.rows)
        try:
            return await self._store.length(tenant, thread_id) + drafted + 1
        except NotFound:
            thread = Thread(id=thread_id, tenant=tenant, created_ms=self._clock.now_ms())
            with contextlib.suppress(Conflict):
                await self._store.insert(tenant, thread)
            return drafted + 1

    def _on_its_way(self, activation: Activation, effects: NodeEffects) -> NodeEffects:
        """Give the effects, or a failure where a function chose a node to which no edge leads."""
        if effects.to is None or effects.to in ("end", "END"):
            return effects
        within = self.graph.node[activation.node].within
        target = f"{within}/{effects.to}" if within is not None else effects.to
        targets = self.graph.successors(activation.node)
        if target in targets:
            return effects
        known = ", ".join(t.rpartition("/")[2] for t in targets)
        return failed("code_error", f"it went to '{effects.to}', and its edges lead to: {known}")

    def _fold(self, row: Step) -> State:
        """Take a row into the state and the draft; give the state before."""
        before = self.state
        self._draft.steps.append(row)
        self.state = scheduler.fold(self.graph, before, row)
        return before

    def _doom(self, before: State) -> None:
        """Stop what nothing waits for any more, and close it in the journal where that has it open."""
        if before.frames is self.state.frames:
            return
        alive = {a.path for a in self.state.ready}
        closing = [f for f in self.state.frames.values() if f.is_closing]
        lost = [
            (a, s)
            for a, s in self.state.open
            if any(frames.is_within(self.state, a.lane, f.path) for f in closing)
        ]
        alive |= {a.path for a, _ in self.state.open} - {a.path for a, _ in lost}
        for path in [p for p in self._flights if p not in alive]:
            flight = self._flights.pop(path)
            flight.task.cancel()
            self.handle.begun.discard(path)
        for activation, step in lost:
            self._resting.pop(activation.path, None)
            spent = self._held.pop(activation.path, None)
            if step.child is not None:
                self.handle.orphans.append(step.child)
                handle = self.handle.children.pop(step.child, None)
                spent = handle.spent() if handle is not None and handle.spent is not None else spent
            self._give_up(step, spent)
        for call in frames.forsaken(self.state):
            self._give_up(call)

    def _give_up(self, step: Step, spent: Spent | None = None) -> None:
        """Close an open step that nothing waits for any more."""
        changes = {
            "status": "cancelled",
            "edge": None,
            "ended_ms": self._clock.now_ms(),
            "note": "outcome unknown: it was under way" if step.edge == DISPATCHED else None,
            "used": spent.used if spent is not None else step.used,
            "usage": spent.usage if spent is not None else step.usage,
        }
        self._fold(step.model_copy(update=changes))

    async def _wait_for(
        self, activation: Activation, context: NodeContext, effects: NodeEffects, n: int, started_ms: int
    ) -> None:
        """Write that a step is open, and what it waits for."""
        if effects.child is not None:
            await self._begin_child(activation, context, effects, n, started_ms)
            return
        edge = PERSON if effects.question is not None else TIMER
        row = self._row(activation, context, n, started_ms, edge=edge, effects=effects)
        self._fold(row)
        data: dict[str, Any] = {"kind": row.kind, "waits": edge}
        self._draft.events.append(Event(self.run.id, "thread.run.step.in_progress", activation.path, data))

    def _row(
        self,
        activation: Activation,
        context: NodeContext,
        n: int,
        started_ms: int,
        *,
        edge: str | None = None,
        left: Left | None = None,
        effects: NodeEffects | None = None,
        ended_ms: int | None = None,
        child: str | None = None,
    ) -> Step:
        """Give the journal's row of a step: ended as `left` says, or open."""
        begun = context.begun
        more: dict[str, Any] = {}
        if effects is not None:
            more = {
                "fan": effects.fan, "usage": effects.usage, "used": effects.used, "question": effects.question,
                "wake_ms": effects.wake_ms, "key": effects.key, "kept": effects.kept,
            }  # fmt: skip
        if left is not None:
            more |= {
                "status": left.status, "edge": left.edge, "result": left.result,
                "writes": dict(left.writes) if left.writes else None, "last_error": left.error, "note": left.note,
                "wake_ms": None,
            }  # fmt: skip
        else:
            more |= {"status": "in_progress", "edge": edge}
        if begun is not None:
            more["question"] = more.get("question") or begun.question
            more["key"] = more.get("key") or begun.key
            if edge == DISPATCHED:
                # What a person made of the arguments is what is called.
                more["result"] = begun.result
            child = child or begun.child
        return Step.trusted(
            {
                "run_id": self.run.id,
                "tenant": self.run.tenant,
                "n": n,
                "path": activation.path,
                "node": activation.node,
                "kind": self.graph.node[activation.node].kind,
                "attempt": context.attempt,
                "fence": self.run.fence,
                "cause": activation.cause,
                "started_ms": begun.started_ms if begun is not None else started_ms,
                "ended_ms": ended_ms,
                "tool": _tool(context),
                "child": child,
                **more,
            }
        )

    def _take_n(self, begun: Step | None = None) -> int:
        if begun is not None:
            return begun.n
        n = max(self._n, self.state.n)
        self._n = n + 1
        return n

    def _announce(self, activation: Activation, context: NodeContext) -> None:
        """Tell readers that a step began."""
        run_id = self.run.id
        if not self._stream.is_followed(run_id):
            return
        data: dict[str, Any] = {"kind": self.graph.node[activation.node].kind}
        if (tool := _tool(context)) is not None:
            data["tool"] = tool
        self._stream.publish(run_id, [Event(run_id, "thread.run.step.in_progress", activation.path, data)])

    async def _record(self, activation: Activation, attempt: int, call: Recorded) -> None:
        """Keep a call that a function made.

        Errors: StatementError where the store refuses its statements; nothing of it is kept then.
        """
        path = f"{activation.path}/{call.ordinal}"
        calls = self.state.recorded.get(activation.path)
        known = calls.get(call.ordinal) if calls is not None else None
        if known is not None and known.attempt != attempt:
            known = None
        now = self._clock.now_ms()
        kind: StepKind = call.kind
        waits_for = PERSON if call.question is not None else DISPATCHED
        row = Step.trusted(
            {
                "run_id": self.run.id,
                "tenant": self.run.tenant,
                "n": self._take_n(known),
                "path": path,
                "node": activation.node,
                "kind": kind,
                "attempt": attempt,
                "status": call.status,
                "fence": self.run.fence,
                "cause": activation.path,
                "started_ms": call.started_ms,
                "ended_ms": None if call.status == "in_progress" else now,
                "edge": waits_for if call.status == "in_progress" else None,
                "tool": call.tool,
                "result": call.result,
                "last_error": call.error,
                "usage": call.usage,
                "used": call.used,
                "question": call.question,
            }
        )
        if call.statements:
            await self._record_alone(row, call.statements)
            return
        self._fold(row)
        await self._flush()

    async def _record_alone(self, row: Step, statements: Sequence[Statement]) -> None:
        """Write a call with its statements, and nothing else: where they are refused, no other step is lost."""
        await self._flush()
        async with self._writing:
            checkpoint = self._checkpoint(_Draft(steps=[row], statements=list(statements)))
            self.run = (await self._executor.commit(self.run, checkpoint)).run
        self.state = scheduler.fold(self.graph, self.state, row)

    # -- children --------------------------------------------------------------------------------------------

    async def _begin_child(
        self, activation: Activation, context: NodeContext, effects: NodeEffects, n: int, started_ms: int
    ) -> None:
        """Make a child run, written with the step that waits for it, and walk it."""
        request = effects.child
        assert request is not None
        children = self._executor.children
        try:
            made = await children.make(
                self.run,
                request,
                path=activation.path,
                attempt=context.attempt,
                limits=spending.left(self.plan.limits, self.spent()),
            )
        except (LeaseLost, StoreError):
            raise
        except Exception as e:  # noqa: BLE001 - whatever keeps a child from being made is the node's failure
            await self._finish(
                activation, context, failed("code_error", _words(e)), started_ms=started_ms, begun=None, n=n
            )
            return
        row = self._row(activation, context, n, started_ms, edge=CHILD, effects=effects, child=made.run.id)
        if made.message is not None:
            seq = await self._next_seq(made.message.thread_id)
            self._draft.rows.append(made.message.model_copy(update={"seq": seq}))
        self._fold(row)
        data = {"kind": "child_run", "child": made.run.id}
        self._draft.events.append(Event(self.run.id, "thread.run.step.in_progress", activation.path, data))
        inserted = await self._flush(also=made.records)
        child = next((r for r in reversed(inserted) if isinstance(r, Run)), made.run)
        self._walk_child(activation, context, child, made.prepared, row)

    def _walk_child(
        self, activation: Activation, context: NodeContext, child: Run, prepared: Prepared, begun: Step
    ) -> None:
        handle = self._executor.handle(child.id)
        handle.outer = self.breach
        self.handle.children[child.id] = handle
        task = asyncio.ensure_future(self._executor.execute(child, prepared))
        self._flights[activation.path] = _Flight(
            activation, context, begun.started_ms, begun.n, task, child.id
        )
        self._resting.pop(activation.path, None)
        self._held.pop(activation.path, None)

    async def _look_at_child(self, activation: Activation, step: Step) -> bool:
        """Go on with a child run as it is now; tell whether its step has ended."""
        assert step.child is not None
        context = self._context(activation, step)
        child = await self._store.get(Run, self.run.tenant, step.child)
        now = self._clock.now_ms()
        is_over = child.expires_ms is not None and child.expires_ms <= now
        if is_over and child.walker is None and not is_terminal(child.status):
            child = await self._executor.finish(child, "expired")
        elif child.status == "requires_action" and child.wake_ms is not None and child.wake_ms <= now:
            child = await self._executor.children.wake(child)
        if is_terminal(child.status):
            await self._conclude(activation, context, child, step)
            return True
        if child.status == "requires_action":
            await self._hold(activation.path, child)
            return False
        if child.status == "in_progress" and child.walker is None and (child.wake_ms or 0) > now:
            await self._hold(activation.path, child)
            return False
        if not self._has_room(()):
            return False
        prepared = await self._executor.children.prepare(child)
        claimed = await self._store.claim(
            child.tenant, child.id, self._executor.lease.walker, now_ms=now, rev=child.rev
        )
        self._walk_child(activation, context, claimed.run, prepared, step)
        return False

    async def _child_ended(self, flight: _Flight, child: Run) -> None:
        path = flight.activation.path
        has_walked = self.handle.children.pop(child.id, None) is not None
        begun = self._begun(path)
        if begun is None:
            return
        if is_terminal(child.status):
            await self._conclude(flight.activation, flight.context, child, begun)
        else:
            await self._hold(path, child, has_walked=has_walked)

    async def _hold(self, path: str, child: Run, *, has_walked: bool = False) -> None:
        """Remember a child run that rests, and what it has used."""
        self._resting[path] = child
        if has_walked or path not in self._held:
            self._held[path] = await self._executor.spent(child)

    async def _conclude(self, activation: Activation, context: NodeContext, child: Run, begun: Step) -> None:
        """End the step of a child run that has ended."""
        self._resting.pop(activation.path, None)
        self._held.pop(activation.path, None)
        messages, is_structured = await self._executor.children.said(child)
        used = await self._executor.used(child)
        context = context._replace(
            begun=begun, view=self._sight.view(self.run, self.state, activation.lane, context.node)
        )
        effects = child_steps.outcome(context, child, messages, used, is_structured=is_structured)
        await self._finish(activation, context, effects, started_ms=begun.started_ms, begun=begun, n=begun.n)

    # -- limits ----------------------------------------------------------------------------------------------

    def breach(self) -> str | None:
        """Give the name of a limit that the run, or one around it, has reached."""
        if self.handle.outer is not None and (outer := self.handle.outer()) is not None:
            return outer
        if self.run.expires_ms is not None and self._clock.now_ms() >= self.run.expires_ms:
            return "expires_at"
        limits = self.plan.limits
        if (found := spending.breach(limits, self.spent())) is not None:
            return found
        if limits.timeout is not None and self._walked_s() >= parse_duration(limits.timeout):
            return "timeout"
        return None

    def spent(self) -> Spent:
        """Give what the run has used so far, its child runs included."""
        return spending.total(self.state, self.handle.children.values(), self._held.values())

    def _walked_s(self) -> float:
        return self.run.walked_ms / 1000 + self._clock.monotonic() - self.began

    def _left_s(self) -> float | None:
        """Give the seconds that the run has left."""
        bounds: list[float] = []
        if self.plan.limits.timeout is not None:
            bounds.append(parse_duration(self.plan.limits.timeout) - self._walked_s())
        if self.run.expires_ms is not None:
            bounds.append((self.run.expires_ms - self._clock.now_ms()) / 1000)
        return min(bounds, default=None)

    # -- writing ---------------------------------------------------------------------------------------------

    async def _flush(self, *, also: Sequence[Stored] = ()) -> tuple[Stored, ...]:
        """Write what is folded; give the records that were made with it."""
        async with self._writing:
            draft, self._draft = self._draft, _Draft()
            if not draft.steps and not draft.inserts and not also:
                return ()
            checkpoint = self._checkpoint(draft, also)
            committed = await self._executor.commit(self.run, checkpoint)
            self.run = committed.run
            return committed.inserted[len(committed.inserted) - len(also) :]

    def _checkpoint(self, draft: _Draft, also: Sequence[Stored] = ()) -> Checkpoint:
        """Give a draft as a checkpoint."""
        own: list[Message] = []
        further: list[Message] = []
        for row in draft.rows:
            (own if row.thread_id == self.run.thread_id else further).append(row)
        return Checkpoint(
            self.run,
            messages=own,
            steps=draft.steps,
            events=draft.events,
            statements=draft.statements,
            inserts=(*further, *draft.inserts, *also),
            insert_by=self._executor.lease.walker if also else None,
            is_followed=self._stream.is_followed(self.run.id),
        )

    async def _rest(self) -> bool:
        """Let the run rest until somebody answers or a time comes; tell whether the walk is over."""
        if await self._look_at_resting():
            return False
        pending = self._pending()
        due_ms = self._due_ms()
        now = self._clock.now_ms()
        if any(a.not_before_ms and a.not_before_ms <= now for a in self.state.ready):
            # A pause before another attempt ended since this was looked at.
            return False
        if not pending and due_ms is None:
            stuck = (
                ", ".join([a.path for a in self.state.ready] + [a.path for a, _ in self.state.open])
                or "nothing"
            )
            return await self._end(
                "failed",
                error=RunError(
                    code="server_error", message=f"nothing is left to do, and it is not over: {stuck}"
                ),
            )
        if not pending and due_ms is not None and due_ms - now <= SHORT_MS:
            await self._clock.sleep(max(0.0, (due_ms - now) / 1000))
            return False
        changes = {
            "pending": pending,
            "walked_ms": int(self._walked_s() * 1000),
            "wake_ms": due_ms,
        }
        checkpoint = self._checkpoint(self._draft)
        self._draft = _Draft()
        if pending:
            event = Event(self.run.id, "thread.run.requires_action", self.run.id)
            checkpoint = checkpoint._replace(
                status="requires_action", changes=changes, events=[*checkpoint.events, event]
            )
        else:
            data = {"until": (due_ms or 0) // 1000}
            event = Event(self.run.id, "thread.run.in_progress", self.run.id, data)
            checkpoint = checkpoint._replace(
                status="in_progress", changes=changes, releases=True, events=[*checkpoint.events, event]
            )
        self.run = (await self._executor.commit(self.run, checkpoint)).run
        if not await self._look_at_resting():
            return True
        # Somebody answered a child run in between, and left this one to its walker.
        again = Checkpoint(
            self.run,
            "queued",
            {"pending": (), "wake_ms": None},
            events=[Event(self.run.id, "thread.run.queued", self.run.id)],
            claim_by=self._executor.lease.walker,
            now_ms=now,
        )
        self.run = (await self._executor.commit(self.run, again)).run
        return self.run.status != "in_progress"

    def _pending(self) -> tuple[PendingCall, ...]:
        """Give what the run waits for somebody to do: its own questions, and what its child runs wait for."""
        found: list[PendingCall] = []
        for activation, step in self.state.open:
            if step.child is not None:
                resting = self._resting.get(activation.path)
                if resting is not None and resting.status == "requires_action":
                    found += [
                        p.model_copy(update={"run_id": p.run_id or resting.id}) for p in resting.pending
                    ]
            elif step.question is not None and step.edge == PERSON:
                found.append(_asks(step))
        for calls in self.state.recorded.values():
            found += [_asks(call) for call in calls.values() if call.is_open and call.edge == PERSON]
        return tuple(found)

    async def _complete(self) -> bool:
        outputs = self._result
        if outputs is None:
            view = self._sight.outermost(self.run, self.state)
            try:
                outputs = {name: evaluate(source, view) for name, source in self.plan.outputs.items()}
            except DefinitionError as e:
                return await self._end(
                    "failed", error=RunError(code="invalid_output", message=f"the outputs: {why(e)}")
                )
        return await self._end("completed", output=outputs)

    async def _end(
        self,
        status: RunStatus,
        *,
        reason: str | None = None,
        error: RunError | None = None,
        output: Any = None,
    ) -> bool:
        """End the run: stop what is under way, end the child runs, and close the journal, in one transaction."""
        await self.stop()
        draft, self._draft = self._draft, _Draft()
        checkpoint = self._checkpoint(draft)
        self.run = await end_workflow(
            self._executor,
            self.run,
            self.state,
            status,
            checkpoint=checkpoint,
            walked_ms=int(self._walked_s() * 1000),
            reason=reason,
            error=error,
            output=output,
        )
        return True


def _due_of(child: Run) -> int | None:
    """Give when a child run that rests needs somebody: its time to go on, or its end."""
    return min([t for t in (child.wake_ms, child.expires_ms) if t is not None], default=None)


def _asks(step: Step) -> PendingCall:
    until = step.question.until_ms if step.question is not None else None
    return PendingCall(path=step.path, reply_seq=0, call_index=0, action="answer", until_ms=until)


def _tool(context: NodeContext) -> str | None:
    tool = context.params.get("tool")
    if tool is None:
        return None
    return tool if isinstance(tool, str) else cast("dict[str, Any]", tool).get("name")


def _words(error: Exception) -> str:
    """Give what kept a child run from being made, in a line."""
    if isinstance(error, TreadleError):
        return error.message if not error.hint else f"{error.message} ({error.hint})"
    return f"{type(error).__name__}: {error}"


def _ignore(_: object) -> None:
    pass


def _never() -> bool:
    return False
