"""Walk a run: ask the scheduler what is ready, run it, commit, publish, until the run ends or waits.

Rules

1. Only the walker that holds a run writes to it, and only by `commit`, with the fence of its claim.
2. A checkpoint is one transaction: the steps, their messages, the events, and the run's move if it makes one.
3. A call that may have an outside effect is committed as started before it is dispatched.
4. However a run ends, every call that the thread holds has a result in the same transaction.
5. A walk that loses its run writes nothing more and says so by returning the run as it is.
6. Nothing is published that is not committed, but deltas and the notice that a step began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Never, cast

from treadle import registry
from treadle.clock import Clock
from treadle.engine import scheduler
from treadle.engine.activation import Activation, State
from treadle.engine.lease import Lease
from treadle.engine.spending import Spent, spent_by, together
from treadle.engine.stream import Stream
from treadle.engine.window import Window
from treadle.engine.workflow_end import end_workflow
from treadle.errors import GraphError, LeaseLost, StatementError, StoreError, TreadleError
from treadle.graph.nodes import StepGraph
from treadle.lifecycle import is_terminal
from treadle.objects.agent import Agent, Price
from treadle.objects.event import Event
from treadle.objects.message import Message, ToolCall, estimate_tokens
from treadle.objects.record import parse_duration
from treadle.objects.run import PendingCall, Run, RunError, RunStatus, Usage
from treadle.objects.run_step import Decision, Step, StepKind, Used
from treadle.providers.base import Delta, TextDelta
from treadle.steps import STEPS
from treadle.steps.base import Effects, End, Intent, Plan, StepContext, StepKindEntry
from treadle.steps.model_call import thread_tokens
from treadle.steps.tool_call import refused, result_row, unsettled
from treadle.store.base import Blob, Checkpoint, Committed, Statement, Store
from treadle.text import clean, utf8_bytes
from treadle.tools.gate import digest, failure

if TYPE_CHECKING:
    from treadle.engine.child_runs import Children
    from treadle.steps.node import WorkflowPlan

logger = logging.getLogger("treadle.engine")

MakePlan = Callable[[Run, Agent], Plan]

_RACES = 5
RETRIES_S = (0.05, 0.3, 1.5)
"""How long a walk waits before it tries a checkpoint again that the store could not write."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run is walked with: the graph that it pinned, and its plan.

    Shapes: `start` is the state of a run that has done nothing; `rows` are all rows of a thread that was made
    with the run, None where the thread has to be read.
    """

    graph: StepGraph
    plan: Plan | WorkflowPlan
    start: State
    rows: tuple[Message, ...] | None = None

    @property
    def agent(self) -> Plan:
        """Give the plan of a run of an agent."""
        assert isinstance(self.plan, Plan)
        return self.plan


_kinds: dict[str, StepKindEntry] = {}


def kind_of(name: str) -> StepKindEntry:
    """Give the step kind of a name.

    Errors: ConfigurationError for a kind that no table has.
    """
    found = _kinds.get(name)
    if found is None:
        found = _kinds[name] = cast("StepKindEntry", registry.lookup("steps", STEPS, name))
    return found


def _ignore(_: Delta) -> None:
    pass


@dataclass(slots=True)
class _Position:
    """Where a run stands, as far as ending it needs to know."""

    run: Run
    graph: StepGraph
    window: Window
    state: State
    began: float
    begun: set[str] = field(default_factory=set[str])
    n: int = 0
    calls: dict[int, tuple[ToolCall, ...]] = field(default_factory=dict[int, tuple[ToolCall, ...]])
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    decisions: dict[str, Decision] = field(default_factory=dict[str, Decision])

    def take_n(self) -> int:
        """Give the next place in the journal."""
        n = max(self.n, self.state.n)
        self.n = n + 1
        return n


@dataclass(slots=True, kw_only=True)
class _Walk(_Position):
    """One run, while it is walked."""

    plan: Plan
    output: Any = None
    output_bytes: int = 0
    outer: Callable[[], str | None] | None = None

    def fit(self, budget_tokens: int) -> Sequence[Message]:
        """Give the rows to send."""
        return self.window.fit(budget_tokens, self.plan.keep_last)


@dataclass(slots=True)
class Handle:
    """What the outside may do to a walk: ask it to stop, bound what it uses, and ask what it has used.

    Shapes: `outer` names the limit of a run around it that is reached; `spent` gives what the run has used. `children` are those of
    the child runs that are under way, by their ids; `orphans` are child runs that nothing waits for any more.
    """

    task: asyncio.Task[Any] | None = None
    begun: set[str] = field(default_factory=set[str])
    is_cancelled: bool = False
    is_parking: bool = False
    is_lost: bool = False
    outer: Callable[[], str | None] | None = None
    spent: Callable[[], Spent] | None = None
    children: dict[str, Handle] = field(default_factory=dict[str, "Handle"])
    orphans: list[str] = field(default_factory=list[str])

    @property
    def is_stopping(self) -> bool:
        """Tell whether the walk must not begin another step."""
        return self.is_cancelled or self.is_parking or self.is_lost


@dataclass(slots=True)
class _Started:
    """A step that is being run."""

    activation: Activation
    context: StepContext
    started_ms: int
    n: int
    begun: Step | None = None


class _Teller:
    """Hands a step's deltas on to the readers of its run."""

    def __init__(self, stream: Stream, run_id: str, path: str, message_id: str) -> None:
        self._stream = stream
        self._run_id = run_id
        self._path = path
        self._message_id = message_id
        self.has_spoken = False

    def __call__(self, delta: Delta) -> None:
        self.has_spoken = True
        if isinstance(delta, TextDelta):
            event = Event(
                self._run_id, "thread.message.delta", self._message_id, {"index": 0, "text": delta.text}
            )
        else:
            part = {"index": delta.index, "id": delta.id, "name": delta.name, "arguments": delta.arguments}
            event = Event(self._run_id, "thread.run.step.delta", self._path, part)
        self._stream.publish(self._run_id, [event], path=self._path)


class Executor:
    """Walks runs that this process has claimed."""

    def __init__(
        self, store: Store, *, clock: Clock, stream: Stream, make_plan: MakePlan, lease: Lease
    ) -> None:
        """Take the store to write to, the way to plan a run, and the lease under which runs are held."""
        self.store = self._store = store
        self.clock = self._clock = clock
        self.stream = self._stream = stream
        self._make_plan = make_plan
        self.lease = lease
        self.on_promoted: Callable[[str], None] | None = None
        self.on_commit: Callable[[Checkpoint], None] | None = None
        self.find_children: Callable[[], Children] = _NoChildren
        self._spent: dict[str, Spent] = {}
        self._handles: dict[str, Handle] = {}
        lease.watch(self.lose)

    @property
    def children(self) -> Children:
        """Give what makes and plans child runs."""
        return self.find_children()

    # -- control ---------------------------------------------------------------------------------------------

    def is_walking(self, run_id: str) -> bool:
        """Tell whether this process walks a run."""
        return run_id in self._handles

    @property
    def walking(self) -> int:
        """Give how many runs this process walks."""
        return len(self._handles)

    def tell(self, run_id: str, events: Sequence[Event]) -> None:
        """Hand on what was committed before a walk, so that its readers have it before what the walk gives."""
        self._stream.publish(run_id, events)

    def lose(self) -> None:
        """Stop every walk at once and write nothing more: somebody else may hold the runs by now."""
        for handle in self._handles.values():
            handle.is_lost = True
            if handle.task is not None:
                handle.task.cancel()

    def cancel(self, run_id: str) -> bool:
        """Interrupt a walk whose run is `cancelling`; tell whether it is walked here."""
        handle = self._handles.get(run_id)
        if handle is None:
            return False
        # Once is enough: a second interruption would reach the walk while it writes how it ended.
        if not handle.is_cancelled and handle.task is not None:
            handle.task.cancel()
        handle.is_cancelled = True
        return True

    async def park(self, grace_s: float) -> None:
        """Ask every walk to stop at its next checkpoint; interrupt those that have not after `grace_s` seconds."""
        for handle in self._handles.values():
            handle.is_parking = True
        tasks = [h.task for h in self._handles.values() if h.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    # -- the walk --------------------------------------------------------------------------------------------

    def begin(self, run: Run, prepared: Prepared | None = None) -> asyncio.Task[Run]:
        """Walk a claimed run, as `execute` does, in a task of its own.

        Invariant: from here on the walk can be cancelled and parked, even before its task has its first turn.
        """
        self._handles[run.id] = Handle()
        return asyncio.create_task(self.execute(run, prepared), name=f"walk {run.id}")

    async def execute(self, run: Run, prepared: Prepared | None = None) -> Run:
        """Walk a claimed run until it ends, waits for its client, or is parked; give it as it is then.

        Shapes: `prepared` is what the caller worked out already; without it the run's own pins are read.

        Errors: StoreError when the store fails; whatever a model or a tool does ends the run instead.
        """
        handle = self._handles.setdefault(run.id, Handle())
        handle.task = asyncio.current_task()
        try:
            return await self._execute(run, handle, prepared)
        except LeaseLost:
            return await self._after_loss(run, handle.begun)
        finally:
            if handle.spent is not None and run.parent_id is not None:
                self._spent[run.id] = handle.spent()
            self._handles.pop(run.id, None)
            self._stream.end(run.id)

    async def _execute(self, run: Run, handle: Handle, prepared: Prepared | None) -> Run:
        if prepared is not None and prepared.graph.is_workflow:
            return await self._execute_workflow(run, handle, prepared)
        began = self._clock.monotonic()
        walk: _Walk | None = None
        try:
            if not handle.is_stopping:
                walk = await self._open(run, began, prepared)
                walk.begun, walk.outer = handle.begun, handle.outer
                handle.spent = partial(self._spent_by, walk)
                while not handle.is_stopping:
                    if await self._advance(walk):
                        return _with_output(walk)
        except asyncio.CancelledError:
            if not handle.is_stopping:
                raise
            _uncancel()
        except (LeaseLost, StoreError):
            raise
        except Exception as e:  # noqa: BLE001 - whatever breaks a walk ends its run: nothing else would
            return await self._fail(walk.run if walk else run, e)
        if handle.is_cancelled or handle.is_lost:
            raise LeaseLost(f"run {run.id} is being cancelled, or its walker lost it")
        return await self._park(walk.run if walk else run, began)

    async def _execute_workflow(self, run: Run, handle: Handle, prepared: Prepared) -> Run:
        """Walk a run of a workflow."""
        from treadle.engine.workflow_walk import WorkflowWalk

        began = self._clock.monotonic()
        walk = WorkflowWalk(self, run, prepared, handle, began)
        handle.spent = walk.spent
        try:
            if not handle.is_stopping:
                await walk.open()
                while not handle.is_stopping:
                    if await walk.advance():
                        return walk.run
                if handle.is_parking and not (handle.is_cancelled or handle.is_lost):
                    await walk.land()
        except asyncio.CancelledError:
            if not handle.is_stopping:
                raise
            _uncancel()
        except (LeaseLost, StoreError):
            raise
        except Exception as e:  # noqa: BLE001 - whatever breaks a walk ends its run: nothing else would
            await walk.stop()
            return await self._fail(walk.run, e)
        finally:
            await walk.stop()
        if handle.is_cancelled or handle.is_lost:
            raise LeaseLost(f"run {run.id} is being cancelled, or its walker lost it")
        return await self._park(walk.run, began)

    # -- what the walk of a workflow needs -------------------------------------------------------------------

    def handle(self, run_id: str) -> Handle:
        """Give the handle of a run that is about to be walked."""
        return self._handles.setdefault(run_id, Handle())

    def teller(self, run: Run, path: str) -> _Teller | None:
        """Give what hands a step's deltas on; None where nobody follows the run."""
        if not self._stream.is_followed(run.id):
            return None
        return _Teller(self._stream, run.id, path, path)

    async def commit(self, run: Run, checkpoint: Checkpoint) -> Committed:
        """Write a checkpoint of a run, and publish what it says.

        Errors: LeaseLost; StoreError; StatementError, with nothing written.
        """
        is_followed = self._stream.is_followed(run.id)
        committed = await self._keep(checkpoint._replace(is_followed=is_followed))
        if self.on_commit is not None:
            self.on_commit(checkpoint)
        if is_followed:
            self._stream.publish(run.id, committed.events)
        if committed.promoted is not None and self.on_promoted is not None:
            self.on_promoted(committed.promoted)
        return committed

    async def used(self, run: Run) -> Used:
        """Give what a child run has used that has ended, its own child runs included."""
        known = self._spent.pop(run.id, None)
        if known is not None:
            return known.used
        return (await self.spent(run)).used

    async def spent(self, run: Run) -> Spent:
        """Give what the journal of a run says that it has used, its child runs included.

        Invariant: what was known of a run that rested is forgotten; another process may walk it on.
        """
        self._spent.pop(run.id, None)
        steps = await self._store.steps(run.tenant, run.id)
        ended = [s for s in steps if not s.is_open]
        usages = [s.usage for s in ended if s.usage is not None]
        usage = Usage(
            prompt_tokens=sum(u.prompt_tokens for u in usages),
            completion_tokens=sum(u.completion_tokens for u in usages),
            estimated=any(u.estimated for u in usages),
        )
        price = await self._price_of(run)
        cost = sum(s.used.cost_usd for s in ended if s.used is not None)
        if price is not None:
            cost += (usage.prompt_tokens * price.input + usage.completion_tokens * price.output) / 1e6
        used = Used(
            steps=sum(1 + (s.used.steps if s.used else 0) for s in ended),
            tool_calls=sum((s.kind == "tool_call") + (s.used.tool_calls if s.used else 0) for s in ended),
            model_calls=sum(s.used.model_calls if s.used else s.kind == "model_call" for s in ended),
            cost_usd=cost,
        )
        found = Spent(used, usage)
        for step in steps:
            if step.is_open and step.child is not None:
                child = await self._store.get(Run, run.tenant, step.child)
                found = together(found, await self.spent(child))
        return found

    async def _price_of(self, run: Run) -> Price | None:
        try:
            plan = (await self.children.prepare(run)).plan
        except (StoreError, LeaseLost):
            raise
        except TreadleError:
            return None
        return plan.price if isinstance(plan, Plan) else None

    async def end_children(self, run: Run, only: list[str] | None = None) -> None:
        """Cancel the child runs of a run that have not ended; of those named, where some are, which are forgotten then.

        Errors: StoreError; LeaseLost where somebody else holds one.
        """
        for child in await self._store.children(run.tenant, run.id):
            if is_terminal(child.status) or (only is not None and child.id not in only):
                continue
            await self._end_child(child)
            self._spent.pop(child.id, None)
        if only is not None:
            only.clear()

    async def _end_child(self, child: Run) -> None:
        """Cancel a child run that may still be written to by the walk that was stopped.

        Errors: LeaseLost where somebody else holds it.
        """
        for last in range(_RACES + 1):
            try:
                if child.walker is not None:
                    now_ms = self._clock.now_ms()
                    claimed = await self._store.claim(
                        child.tenant, child.id, self.lease.walker, now_ms=now_ms, rev=child.rev
                    )
                    child = claimed.run
                await self.finish_cancel(child)
            except LeaseLost:
                child = await self._store.get(Run, child.tenant, child.id)
                if is_terminal(child.status):
                    return
                if last == _RACES:
                    raise
            else:
                return

    async def _open(self, run: Run, began: float, prepared: Prepared | None) -> _Walk:
        """Load what a walk needs: the agent and the graph that the run pinned, its journal, the thread's tail."""
        if prepared is None:
            agent = await self._store.get(Agent, run.tenant, run.agent_id, version=run.agent_version)
            graph = StepGraph.load(await self._store.graph(run.tenant, run.graph))
            prepared = Prepared(graph, self._make_plan(run, agent), scheduler.start(graph))
        graph, plan, state = prepared.graph, prepared.agent, prepared.start
        steps: list[Step] = []
        if run.rev > 1:
            steps = await self._store.steps(run.tenant, run.id)
            state = scheduler.fold_all(graph, steps)
        if prepared.rows is not None:
            window = Window(None, prepared.rows, next_seq=len(prepared.rows) + 1)
        else:
            window = await Window.load(
                self._store,
                run.tenant,
                run.thread_id,
                budget_tokens=thread_tokens(plan),
                keep_last=plan.keep_last,
            )
        walk = _Walk(run, graph, window, state, began, plan=plan, attempts=_failed_attempts(steps))
        walk.decisions = {s.path: s.decision for s in steps if s.edge == "retry" and s.decision is not None}
        if steps and plan.spec.limits.max_output_bytes is not None:
            walk.output_bytes = await self._given_bytes(run, steps)
        return walk

    async def _given_bytes(self, run: Run, steps: Sequence[Step]) -> int:
        """Give how much the run's tools have given so far."""
        total = 0
        for step in steps:
            if step.kind == "tool_call" and (seq := step.message_seq) is not None:
                rows = await self._store.rows(
                    run.tenant, run.thread_id, after=seq - 1, before=seq + 1, limit=1
                )
                total += utf8_bytes(rows[0].text or "")
        return total

    async def _advance(self, walk: _Walk) -> bool:
        """Run what is ready and commit it; tell whether the walk is over."""
        state = walk.state
        granted: list[tuple[Activation, Step]] = []
        if state.open:
            interrupted = [o for o in state.open if o[1].edge == "dispatched"]
            if interrupted:
                return await self._settle_unknown(walk, interrupted)
            granted = [o for o in state.open if o[1].edge == "approved"]
        if not state.ready and not granted:
            return await self._wait(walk) if state.open else await self._end(walk, "completed")
        breach = self._breach(walk)
        if breach == "expires_at":
            return await self._end(walk, "expired")
        if breach is not None:
            return await self._end(walk, "incomplete", reason=breach)
        ready: list[tuple[Activation, Step | None]] = [*((a, None) for a in state.ready), *granted]
        started = [await self._start(walk, a, i, begun) for i, (a, begun) in enumerate(ready)]
        done: list[tuple[_Started, Effects]] = []
        intents: list[tuple[_Started, Intent]] = []
        for step in started:
            prepared = walk.plan.earlier(step.context) if walk.plan.earlier is not None else None
            if prepared is None:
                prepared = kind_of(walk.graph.node[step.activation.node].kind).prepare(step.context)
            if isinstance(prepared, Effects):
                done.append((step, prepared))
            else:
                intents.append((step, prepared))
        if once := [s for s, i in intents if i.effect == "once"]:
            await self._commit_intents(walk, once)
        if len(intents) <= 1:
            for step, intent in intents:
                done.append((step, await self._perform(walk, step, intent)))
            return await self._checkpoint(walk, done)
        return await self._perform_all(walk, done, intents)

    async def _perform_all(
        self, walk: _Walk, done: list[tuple[_Started, Effects]], intents: Sequence[tuple[_Started, Intent]]
    ) -> bool:
        """Perform several steps at the same time, committing each when it ends."""
        if done and await self._checkpoint(walk, done):
            return True
        tasks = {
            asyncio.ensure_future(self._perform(walk, step, intent)): (order, step)
            for order, (step, intent) in enumerate(intents)
        }
        pending = set(tasks)
        try:
            while pending:
                ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                wave = sorted(ended, key=lambda t: tasks[t][0])
                if await self._checkpoint(walk, [(tasks[t][1], t.result()) for t in wave]):
                    return True
        finally:
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.gather(*pending, return_exceptions=True)
        return False

    # -- one step --------------------------------------------------------------------------------------------

    async def _start(
        self, walk: _Walk, activation: Activation, place: int, begun: Step | None = None
    ) -> _Started:
        run = walk.run
        node = walk.graph.node[activation.node]
        call = await self._call_of(walk, activation) if node.kind == "tool_call" else None
        emit = _ignore
        if self._stream.is_followed(run.id):
            emit = self._announce(walk, activation, node.kind, call)
        context = StepContext(
            run=run,
            plan=walk.plan,
            path=activation.path,
            visit=activation.visit,
            clock=self._clock,
            emit=emit,
            window=walk.fit,
            timeout_s=self._timeout_s(walk),
            prompt_left=_left(walk.plan.max_prompt_tokens, walk.state.prompt_tokens),
            completion_left=_left(walk.plan.max_completion_tokens, walk.state.completion_tokens),
            reply_seq=activation.reply_seq,
            call_index=activation.item,
            call=call,
            next_seq=walk.window.next_seq + place,
            attempt=walk.attempts.get(activation.path, 0) + 1,
            decision=begun.decision if begun is not None else walk.decisions.get(activation.path),
            has_spoken=lambda: isinstance(emit, _Teller) and emit.has_spoken,
        )
        if begun is not None:
            return _Started(activation, context, begun.started_ms, begun.n, begun)
        return _Started(activation, context, self._clock.now_ms(), walk.take_n())

    def _announce(
        self, walk: _Walk, activation: Activation, kind: StepKind, call: ToolCall | None
    ) -> Callable[[Delta], None]:
        """Publish that a step began, and give the function that publishes its deltas."""
        run_id = walk.run.id
        data: dict[str, Any] = {"kind": kind}
        if call is not None:
            data["tool"] = call.name
        self._stream.publish(run_id, [Event(run_id, "thread.run.step.in_progress", activation.path, data)])
        message_id = self._store.message_id(walk.run.tenant, walk.run.thread_id, walk.window.next_seq)
        return _Teller(self._stream, run_id, activation.path, message_id)

    async def _call_of(self, walk: _Position, activation: Activation) -> ToolCall:
        seq = activation.reply_seq
        assert seq is not None
        assert activation.item is not None
        calls = walk.calls.get(seq)
        if calls is None:
            rows = await self._store.rows(
                walk.run.tenant, walk.run.thread_id, after=seq - 1, before=seq + 1, limit=1
            )
            calls = walk.calls[seq] = rows[0].tool_calls
        return calls[activation.item]

    def _timeout_s(self, walk: _Walk) -> float | None:
        """Give the seconds that a step may take: the model's own bound and what the run's limit leaves."""
        left = self._left(walk)
        if left is None:
            return walk.plan.timeout_s
        left_s = max(0.001, left[0])
        return left_s if walk.plan.timeout_s is None else min(left_s, walk.plan.timeout_s)

    def _left(self, walk: _Walk) -> tuple[float, End] | None:
        """Give the seconds that the run has, and how it ends when they are over; None where nothing bounds it."""
        limit, expires_ms = walk.plan.spec.limits.timeout, walk.run.expires_ms
        if limit is None and expires_ms is None:
            return None
        bounds: list[tuple[float, End]] = []
        if limit is not None:
            bounds.append((parse_duration(limit) - self._walked_s(walk), ("incomplete", "timeout")))
        if expires_ms is not None:
            bounds.append(((expires_ms - self._clock.now_ms()) / 1000, ("expired", None)))
        return min(bounds, key=lambda bound: bound[0])

    def _walked_s(self, walk: _Position) -> float:
        return walk.run.walked_ms / 1000 + self._clock.monotonic() - walk.began

    async def _perform(self, walk: _Walk, step: _Started, intent: Intent) -> Effects:
        """Perform a step, again where its retry rule says so; a model's failure fails the run."""
        perform = kind_of(walk.graph.node[step.activation.node].kind).perform
        assert perform is not None
        left = self._left(walk)
        if left is not None and left[0] <= 0:
            return _out_of_time(step, left[1])
        bound = asyncio.timeout(left[0]) if left is not None else None
        walk.begun.add(step.activation.path)
        try:
            if bound is None:
                effects = await perform(step.context, intent)
            else:
                async with bound:
                    effects = await perform(step.context, intent)
        except Exception as e:
            if left is not None and bound is not None and bound.expired():
                return _out_of_time(step, left[1])
            logger.exception("step %s of run %s broke", step.activation.path, walk.run.id)
            error = _error_of(e)
            return _broken(step, error, ("failed", error.code))
        if effects.again_s is None:
            return effects
        return await self._again(walk, step, intent, effects)

    async def _again(self, walk: _Walk, step: _Started, intent: Intent, failed: Effects) -> Effects:
        """Write down a failed attempt, wait, and make the next one."""
        path = step.activation.path
        row = _step(walk, step, failed, None, ended_ms=self._clock.now_ms())
        await self._commit(walk, Checkpoint(walk.run, steps=[row]))
        walk.state = scheduler.fold(walk.graph, walk.state, row)
        walk.attempts[path] = row.attempt
        walk.begun.discard(path)
        left = self._left(walk)
        wait_s = failed.again_s or 0.0
        await self._clock.sleep(wait_s if left is None else max(0.0, min(wait_s, left[0])))
        step.started_ms = self._clock.now_ms()
        step.n = walk.take_n()
        step.begun = None
        step.context = step.context._replace(attempt=row.attempt + 1)
        return await self._perform(walk, step, intent)

    # -- writing ---------------------------------------------------------------------------------------------

    async def _commit_intents(self, walk: _Walk, started: Sequence[_Started]) -> None:
        """Commit that calls are about to be dispatched, before they are."""
        steps = [_step(walk, s, Effects(status="in_progress", edge="dispatched"), None) for s in started]
        await self._commit(walk, Checkpoint(walk.run, steps=steps))
        for step in steps:
            walk.state = scheduler.fold(walk.graph, walk.state, step)

    async def _checkpoint(self, walk: _Walk, done: Sequence[tuple[_Started, Effects]]) -> bool:
        """Write what steps gave; where a tool's own statements are refused, write that it failed instead."""
        while True:
            state, output, given = walk.state, walk.output, walk.output_bytes
            try:
                return await self._write(walk, done)
            except StatementError as e:
                walk.state, walk.output, walk.output_bytes = state, output, given
                done = _without_statement(done, e)

    async def _write(self, walk: _Walk, done: Sequence[tuple[_Started, Effects]]) -> bool:
        """Write what steps gave, and what follows from it at once; tell whether the walk is over.

        Errors: StatementError, with nothing written.
        """
        steps: list[Step] = []
        messages: list[Message] = []
        events: list[Event] = []
        blobs: list[Blob] = []
        statements: list[Statement] = []
        ends: End | None = None
        error: RunError | None = None
        state = walk.state
        is_followed = self._stream.is_followed(walk.run.id)
        todo = list(done)
        while todo:
            started, effects = todo.pop(0)
            if effects.statements:
                statements += effects.statements
            row = effects.message
            if row is not None:
                if row.seq != walk.window.next_seq + len(messages):
                    row = row.model_copy(update={"seq": walk.window.next_seq + len(messages)})
                messages.append(row)
                if row.role == "tool" and walk.plan.spec.limits.max_output_bytes is not None:
                    walk.output_bytes += utf8_bytes(row.text or "")
            if effects.whole is not None:
                blobs.append(Blob(digest(effects.whole), effects.whole.encode()))
            step = _step(walk, started, effects, row, ended_ms=self._clock.now_ms())
            steps.append(step)
            if effects.waits:
                data = {"waits": effects.asked.action if effects.asked is not None else "output"}
                events.append(Event(walk.run.id, "thread.run.step.in_progress", step.path, data))
            if effects.usage is not None and not effects.usage.estimated:
                walk.window.learn(effects.usage.prompt_tokens, walk.plan.fixed_tokens)
            if effects.output is not None:
                walk.output = effects.output
            before = state
            state = scheduler.fold(walk.graph, state, step)
            todo += self._instant(
                walk, before, state, step, effects, next_seq=walk.window.next_seq + len(messages)
            )
            if effects.ends is not None and ends is None:
                ends, error = effects.ends, effects.last_error
        walk.state = state
        if ends is None and state.is_finished:
            ends = ("completed", None)
        draft = Checkpoint(
            walk.run,
            messages=messages,
            steps=steps,
            events=events,
            blobs=blobs,
            statements=statements,
            is_followed=is_followed,
        )
        if ends is None:
            await self._commit(walk, draft)
            self._take(walk, messages)
            if is_followed:
                await asyncio.sleep(0)
            return False
        status, reason = ends
        error = error if status == "failed" else None
        return await self._end(walk, status, reason=reason, error=error, draft=draft)

    def _instant(
        self, walk: _Walk, before: State, state: State, step: Step, effects: Effects, *, next_seq: int
    ) -> list[tuple[_Started, Effects]]:
        """Prepare the steps that became ready and only write: they belong to this checkpoint."""
        if step.status != "completed":
            return []
        known = {a.path for a in before.ready}
        made: list[tuple[_Started, Effects]] = []
        for activation in state.ready:
            kind = kind_of(walk.graph.node[activation.node].kind)
            if kind.perform is not None or activation.path in known:
                continue
            context = StepContext(
                run=walk.run,
                plan=walk.plan,
                path=activation.path,
                visit=activation.visit,
                clock=self._clock,
                emit=_ignore,
                window=walk.fit,
                reply=effects.reply,
                next_seq=next_seq,
            )
            prepared = kind.prepare(context)
            assert isinstance(prepared, Effects)
            walk.n = max(walk.n, state.n)
            made.append((_Started(activation, context, self._clock.now_ms(), walk.take_n()), prepared))
        return made

    def _take(self, walk: _Walk, messages: Sequence[Message]) -> None:
        for row in messages:
            walk.window.append(row)
            if row.tool_calls:
                walk.calls[row.seq] = row.tool_calls

    async def _commit(self, walk: _Position, checkpoint: Checkpoint) -> None:
        is_followed = self._stream.is_followed(walk.run.id)
        if checkpoint.is_followed != is_followed:
            checkpoint = checkpoint._replace(is_followed=is_followed)
        committed = await self._keep(checkpoint)
        walk.run = committed.run
        if self.on_commit is not None:
            self.on_commit(checkpoint)
        if is_followed:
            self._stream.publish(walk.run.id, committed.events)
        if committed.promoted is not None and self.on_promoted is not None:
            self.on_promoted(committed.promoted)

    async def _keep(self, checkpoint: Checkpoint) -> Committed:
        """Write a checkpoint, again where the store failed for a moment: a commit that failed has not happened."""
        for wait_s in RETRIES_S:
            try:
                return await self._store.commit(checkpoint)
            except StoreError as e:
                if not e.retryable:
                    raise
                logger.warning("a checkpoint of run %s is tried again: %s", checkpoint.run.id, e.message)
            await self._clock.sleep(wait_s)
        return await self._store.commit(checkpoint)

    async def _wait(self, walk: _Walk) -> bool:
        """Stop at `requires_action`: the calls that are left are a person's or the client's, a person's first."""
        calls = [
            _pending(a, step)
            for a, step in sorted(walk.state.open, key=lambda o: (o[0].reply_seq or 0, o[0].item or 0))
        ]
        asked = tuple(call for call in calls if call.action != "output")
        until = [call.until_ms for call in asked if call.until_ms is not None]
        changes = {
            "pending": asked or tuple(calls),
            "walked_ms": int(self._walked_s(walk) * 1000),
            "wake_ms": min(until, default=None),
        }
        event = Event(walk.run.id, "thread.run.requires_action", walk.run.id)
        await self._commit(walk, Checkpoint(walk.run, "requires_action", changes, events=[event]))
        return True

    async def _end(
        self,
        walk: _Position,
        status: RunStatus,
        *,
        reason: str | None = None,
        error: RunError | None = None,
        draft: Checkpoint | None = None,
    ) -> bool:
        """End the run: close what is open in the thread and the journal, and move it, in one transaction."""
        now = self._clock.now_ms()
        draft = draft or Checkpoint(walk.run)
        closing = await self._close_open(
            walk, status if reason is None else f"{status}: {reason}", draft, now
        )
        state = walk.state
        usage = Usage(
            prompt_tokens=state.prompt_tokens,
            completion_tokens=state.completion_tokens,
            estimated=state.is_estimated,
        )
        changes: dict[str, Any] = {
            "ended_ms": now,
            "walked_ms": int(self._walked_s(walk) * 1000),
            "usage": usage,
            "pending": (),
            "last_error": error,
            "incomplete_reason": reason if status == "incomplete" else None,
        }
        await self._commit(walk, closing._replace(status=status, changes=changes, now_ms=now))
        return True

    async def _close_open(self, walk: _Position, why: str, draft: Checkpoint, now: int) -> Checkpoint:
        """Give every open call a result and every open step an end."""
        messages = list(draft.messages)
        # A step of this checkpoint that would wait is closed instead.
        steps = [s for s in draft.steps if not s.is_open]
        written = {s.path for s in steps}
        unfinished = [(a, None) for a in walk.state.ready] + list(walk.state.open)
        for activation, begun in unfinished:
            if walk.graph.node[activation.node].kind != "tool_call" or activation.path in written:
                continue
            call = await self._call_of_draft(walk, activation, messages)
            dispatched = (begun is not None and begun.edge == "dispatched") or activation.path in walk.begun
            said = "outcome unknown: it was under way when" if dispatched else "not executed:"
            outcome = failure(
                "outcome_unknown" if dispatched else "not_executed", f"{said} the run ended {why}"
            )
            seq = walk.window.next_seq + len(messages)
            row = _result(walk, activation, outcome.text, now, seq)
            messages.append(row)
            step = Step(
                run_id=walk.run.id,
                tenant=walk.run.tenant,
                n=begun.n if begun else walk.take_n(),
                path=activation.path,
                node=activation.node,
                kind="tool_call",
                attempt=begun.attempt if begun else walk.attempts.get(activation.path, 0) + 1,
                status="cancelled",
                fence=walk.run.fence,
                cause=activation.cause,
                started_ms=begun.started_ms if begun else now,
                ended_ms=now,
                reply_seq=activation.reply_seq,
                call_index=activation.item,
                message_seq=seq,
                tool=call.name,
                note=outcome.message,
                asked=begun.asked if begun else None,
                decision=begun.decision if begun else None,
            )
            steps.append(step)
        return draft._replace(messages=messages, steps=steps)

    async def _call_of_draft(
        self, walk: _Position, activation: Activation, drafts: Sequence[Message]
    ) -> ToolCall:
        for row in drafts:
            if row.seq == activation.reply_seq and row.tool_calls:
                return row.tool_calls[activation.item or 0]
        return await self._call_of(walk, activation)

    # -- the other ends --------------------------------------------------------------------------------------

    def _breach(self, walk: _Walk) -> str | None:
        """Give the name of the limit that the next step would break."""
        limits, state, ready = walk.plan.spec.limits, walk.state, walk.state.ready
        run = walk.run
        if walk.outer is not None and (outer := walk.outer()) is not None:
            return outer
        if run.expires_ms is not None and self._clock.now_ms() >= run.expires_ms:
            return "expires_at"
        if state.steps + len(ready) > limits.max_steps:
            return "max_steps"
        kinds = [walk.graph.node[a.node].kind for a in ready]
        calls = kinds.count("tool_call")
        if calls and state.tool_calls + len(state.open) + calls > limits.max_tool_calls:
            return "max_tool_calls"
        most = limits.max_model_calls
        if most is not None and state.model_calls + kinds.count("model_call") > most:
            return "max_model_calls"
        if limits.max_output_bytes is not None and walk.output_bytes > limits.max_output_bytes:
            return "max_output_bytes"
        if (
            limits.max_tokens is not None
            and state.prompt_tokens + state.completion_tokens >= limits.max_tokens
        ):
            return "max_tokens"
        if limits.max_cost_usd is not None and self._cost_usd(walk) >= limits.max_cost_usd:
            return "max_cost_usd"
        if limits.timeout is not None and self._walked_s(walk) >= parse_duration(limits.timeout):
            return "timeout"
        return None

    def _spent_by(self, walk: _Walk) -> Spent:
        return spent_by(walk.state, cost_usd=self._cost_usd(walk))

    def _cost_usd(self, walk: _Walk) -> float:
        price = walk.plan.price
        if price is None:
            return 0.0
        state = walk.state
        return (state.prompt_tokens * price.input + state.completion_tokens * price.output) / 1e6

    async def _settle_unknown(self, walk: _Walk, interrupted: Sequence[tuple[Activation, Step]]) -> bool:
        """Do what the tools of interrupted calls say: tell the model, ask a person, or fail the run."""
        done: list[tuple[_Started, Effects]] = []
        for place, (activation, step) in enumerate(interrupted):
            started = await self._start(walk, activation, place, step)
            started.context = started.context._replace(attempt=step.attempt)
            done.append((started, unsettled(started.context)))
        return await self._checkpoint(walk, done)

    async def _fail(self, run: Run, error: Exception) -> Run:
        """End a run that cannot be walked: its agent, graph or model cannot be had here, or something broke."""
        if not isinstance(error, TreadleError):
            logger.error("the walk of run %s broke", run.id, exc_info=error)
        return await self._finish(run, "failed", error=_error_of(error))

    async def _finish(
        self,
        run: Run,
        status: RunStatus,
        *,
        error: RunError | None = None,
        begun: set[str] | None = None,
        before: Sequence[Event] = (),
    ) -> Run:
        """End a run from what is stored of it, whatever its graph is."""
        graph = StepGraph.load(await self._store.graph(run.tenant, run.graph))
        if graph.is_workflow:
            steps = await self._store.steps(run.tenant, run.id)
            return await end_workflow(
                self,
                run,
                scheduler.fold_all(graph, steps),
                status,
                checkpoint=Checkpoint(run, before=before),
                walked_ms=run.walked_ms,
                error=error,
            )
        position = await self._locate(run)
        position.begun |= begun or set()
        await self._end(position, status, error=error, draft=Checkpoint(run, before=before))
        return position.run

    async def _locate(self, run: Run) -> _Position:
        """Find where a run stands, without its model and its tools."""
        graph = StepGraph.load(await self._store.graph(run.tenant, run.graph))
        steps = await self._store.steps(run.tenant, run.id)
        window = await Window.load(self._store, run.tenant, run.thread_id, budget_tokens=0, keep_last=1)
        state, attempts = scheduler.fold_all(graph, steps), _failed_attempts(steps)
        return _Position(run, graph, window, state, self._clock.monotonic(), attempts=attempts)

    async def _park(self, run: Run, began: float) -> Run:
        """Give the run back, so that whoever claims it next goes on from the last checkpoint."""
        changes = {"walked_ms": run.walked_ms + int((self._clock.monotonic() - began) * 1000)}
        event = Event(run.id, "thread.run.queued", run.id, {"parked": True})
        committed = await self._keep(Checkpoint(run, "queued", changes, events=[event]))
        self._stream.publish(run.id, committed.events)
        return committed.run

    async def _after_loss(self, run: Run, begun: set[str]) -> Run:
        """Find out why the run was lost: a cancel is carried out, anything else leaves it to its new walker."""
        now = await self._store.get(Run, run.tenant, run.id)
        if now.status != "cancelling" or now.fence != run.fence:
            return now
        return await self.finish_cancel(now, begun=begun)

    async def finish(self, run: Run, status: RunStatus, *, error: RunError | None = None) -> Run:
        """End a run that nobody walks, closing what its thread has open, in one transaction.

        Errors: LeaseLost when it has moved on meanwhile.
        """
        ended = await self._finish(run, status, error=error)
        self._stream.end(run.id)
        return ended

    async def standing_at(self, run: Run) -> list[str]:
        """Give the paths of the steps at which a run stands."""
        state = (await self._locate(run)).state
        return [a.path for a, _ in state.open] + [a.path for a in state.ready]

    async def finish_cancel(self, run: Run, *, begun: set[str] | None = None) -> Run:
        """Move a run that nobody walks to `cancelled`, closing what its thread has open, in one transaction; one that is `in_progress` is marked first.

        Shapes: `begun` has the paths of the steps that were under way when their walker stopped.

        Errors: LeaseLost when somebody walks it after all.
        """
        asked = () if run.status == "cancelling" else (Event(run.id, "thread.run.cancelling", run.id),)
        if run.status == "in_progress":
            # It waits for a time, or its walk was stopped: it is left by way of `cancelling` only.
            now_ms = self._clock.now_ms()
            run = (await self.commit(run, Checkpoint(run, "cancelling", events=asked, now_ms=now_ms))).run
            asked = ()
        return await self._finish(run, "cancelled", begun=begun, before=asked)


class _NoChildren:
    """Stands where nothing here runs workflows."""

    async def make(self, *_: Any, **__: Any) -> Never:
        raise GraphError("nothing here runs child runs")

    async def prepare(self, run: Run) -> Never:
        raise GraphError(f"nothing here prepares the child run {run.id}")

    async def wake(self, run: Run) -> Never:
        raise GraphError(f"nothing here wakes the child run {run.id}")

    async def said(self, run: Run) -> Never:
        raise GraphError(f"nothing here reads the child run {run.id}")


# -- records ---------------------------------------------------------------------------------------------------


def _step(
    walk: _Walk, started: _Started, effects: Effects, row: Message | None, *, ended_ms: int | None = None
) -> Step:
    """Give the journal's row of a step."""
    activation, context = started.activation, started.context
    return Step(
        run_id=walk.run.id,
        tenant=walk.run.tenant,
        n=started.n,
        path=activation.path,
        node=activation.node,
        kind=walk.graph.node[activation.node].kind,
        attempt=context.attempt,
        status=effects.status,
        fence=walk.run.fence,
        cause=activation.cause,
        started_ms=started.started_ms,
        ended_ms=ended_ms if effects.status != "in_progress" else None,
        edge=effects.edge,
        fan=effects.fan,
        reply_seq=activation.reply_seq if activation.item is not None else None,
        call_index=activation.item,
        message_seq=row.seq if row is not None else None,
        tool=context.call.name if context.call is not None else None,
        usage=effects.usage,
        last_error=effects.last_error,
        note=effects.note,
        full_output=digest(effects.whole) if effects.whole is not None else None,
        said=row is not None and row.is_listed,
        asked=effects.asked or (started.begun.asked if started.begun is not None else None),
        decision=context.decision,
        kept=effects.kept,
    )


def _pending(activation: Activation, step: Step) -> PendingCall:
    call = PendingCall(path=step.path, reply_seq=activation.reply_seq or 0, call_index=activation.item or 0)
    if step.decision is not None and step.decision.arguments is not None:
        call = call.model_copy(update={"arguments": step.decision.arguments})
    asked = step.asked
    if asked is None or step.edge not in ("approval", "unknown"):
        return call
    said = {
        "action": asked.action, "digest": asked.digest, "question": asked.question, "until_ms": asked.until_ms,
        "default": asked.default,
    }  # fmt: skip
    return call.model_copy(update=said)


def _failed_attempts(steps: Sequence[Step]) -> dict[str, int]:
    """Give, by path, the number of the last attempt that was to be made again."""
    return {step.path: step.attempt for step in steps if step.status == "failed" and step.edge == "retry"}


def _with_output(walk: _Walk) -> Run:
    return walk.run if walk.output is None else walk.run.model_copy(update={"output": walk.output})


def _broken(step: _Started, error: RunError, ends: End) -> Effects:
    """Give the effects of a step that did not come to its end: a call has a result all the same."""
    call = step.context.call
    row = result_row(step.context, failure(error.code, error.message)) if call is not None else None
    return Effects(status="failed", message=row, last_error=error, ends=ends)


def _without_statement(
    done: Sequence[tuple[_Started, Effects]], error: StatementError
) -> list[tuple[_Started, Effects]]:
    """Give what steps gave, with the failure of the one that the refused statement belongs to in its place."""
    at = error.index
    made = list(done)
    for place, (step, effects) in enumerate(made):
        if at < len(effects.statements):
            made[place] = (step, refused(step.context, error))
            return made
        at -= len(effects.statements)
    raise error


def _out_of_time(step: _Started, ends: End) -> Effects:
    what = "the run expired" if ends[0] == "expired" else "the run's time limit was reached"
    return _broken(step, RunError(code="timeout", message=what), ends)


def _error_of(error: Exception) -> RunError:
    """Give what broke a step or a walk as a run keeps it: its text, never a stack trace."""
    if isinstance(error, TreadleError):
        message = error.message if not error.hint else f"{error.message} ({error.hint})"
        return RunError(code=error.error_code, message=clean(message))
    text = " ".join(str(error).split())[:500]
    return RunError(code="server_error", message=clean(f"{type(error).__name__}: {text}"))


def _result(walk: _Position, activation: Activation, text: str, now: int, seq: int) -> Message:
    return Message(
        tenant=walk.run.tenant,
        thread_id=walk.run.thread_id,
        seq=seq,
        role="tool",
        text=text,
        reply_seq=activation.reply_seq,
        call_index=activation.item,
        tokens=estimate_tokens(len(text)),
        run_id=walk.run.id,
        created_ms=now,
    )


def _left(most: int | None, used: int) -> int | None:
    return None if most is None else most - used


def _uncancel() -> None:
    """Forget the cancellation that interrupted this task: what follows must be able to wait."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
