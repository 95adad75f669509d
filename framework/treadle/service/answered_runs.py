"""Answer what runs wait for: the outputs of a client's functions, decisions on calls, questions of nodes."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from treadle.engine.executor import Prepared
from treadle.errors import (
    ConfigurationError,
    LeaseLost,
    Repeated,
    StateError,
    StoreError,
)
from treadle.ids import is_workflow_id
from treadle.objects.event import Event
from treadle.objects.run import PendingCall, Run
from treadle.objects.run_step import Decision
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
)
from treadle.service.requests import request_of
from treadle.service.watched_runs import WatchedRuns
from treadle.store.base import Checkpoint, Request
from treadle.text import clean

logger = logging.getLogger("treadle.service")


class AnsweredRuns(WatchedRuns):
    """Answer runs that wait for somebody, and let them go on."""

    # -- outputs of functions ----------------------------------------------------------------------------------

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

    # -- what people say ---------------------------------------------------------------------------------------

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
        from treadle.steps.pause import fit

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

    # -- writing -----------------------------------------------------------------------------------------------

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
