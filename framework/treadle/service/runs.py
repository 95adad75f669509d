"""The verbs on runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from pydantic import ValidationError

from treadle.engine.executor import Prepared
from treadle.engine.plan import check_inputs
from treadle.errors import (
    ConfigurationError,
    LeaseLost,
    Repeated,
    StateError,
    StoreError,
    ThreadBusy,
)
from treadle.lifecycle import ACTIVE, is_terminal
from treadle.objects.agent import Agent
from treadle.objects.event import Event
from treadle.objects.message import Message
from treadle.objects.run import UNCHANGED, Run, RunError, RunOverrides
from treadle.objects.thread import Thread
from treadle.service.answered_runs import AnsweredRuns
from treadle.service.ids import one_id
from treadle.service.lifetime import lifetime_s
from treadle.service.requests import request_of
from treadle.service.threads import append
from treadle.store.base import Checkpoint, Request

if TYPE_CHECKING:
    from treadle.graph.trace import Trace

_NOTHING = RunOverrides()
UNAVAILABLE = "TR301"
"""The code of the error for a tool that is declared and that nothing here can run."""


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


class Runs(AnsweredRuns):
    """Create, watch and steer runs."""

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

    # -- watching --------------------------------------------------------------------------------------------

    async def create_and_wait(self, thread_id: str | None, *, agent: str | Agent, **fields: Any) -> Run:
        """Start a run and wait until it ends or needs its client.

        Errors: those of `create` and `wait`.
        """
        return await self.wait((await self.create(thread_id, agent=agent, **fields)).id)

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

    # -- steering --------------------------------------------------------------------------------------------

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
