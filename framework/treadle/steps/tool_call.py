"""Run one tool call of a reply, through the gate; a client's function suspends the step instead."""

from __future__ import annotations

from dataclasses import replace

from treadle.errors import StatementError
from treadle.objects.message import Message, estimate_tokens
from treadle.objects.run import RunError
from treadle.objects.run_step import Asked
from treadle.steps.base import Effects, Intent, StepContext, StepKindEntry
from treadle.text import utf8_bytes
from treadle.tools.base import CallContext
from treadle.tools.gate import Admitted, Outcome, Withheld, admit, digest_of, dispatch, failure, wait_s

UNKNOWN = "outcome unknown: the process stopped while this call was under way; it was not repeated"


def prepare(context: StepContext) -> Intent | Effects:
    """Let the call in: give the intent, the wait for the client, or the error that the model gets."""
    assert context.call is not None
    admitted = admit(
        context.plan.tools,
        context.call,
        run_id=context.run.id,
        path=context.path,
        decision=context.decision,
    )
    if isinstance(admitted, Outcome):
        return effects(context, admitted)
    if isinstance(admitted, Withheld):
        return withheld(context, admitted)
    if admitted.tool.invoke is None:
        return Effects(status="in_progress", edge="client", waits=True)
    return Intent(effect=admitted.tool.spec.effect, admitted=admitted)


async def perform(context: StepContext, intent: Intent) -> Effects:
    """Run it."""
    admitted = intent.admitted
    assert isinstance(admitted, Admitted)
    called = call_context(context)
    outcome = await dispatch(admitted, called)
    if outcome.code is None:
        return effects(context, outcome)
    again_s = wait_s(admitted.tool, outcome.code, context.attempt, of=called.idempotency_key)
    if again_s is not None:
        error = RunError(code=outcome.code, message=outcome.message or "")
        return Effects(status="failed", edge="retry", last_error=error, again_s=again_s)
    if admitted.tool.spec.on_error == "fail":
        return _fatal(context, f"tool {admitted.tool.spec.name}: {outcome.message}")
    return effects(context, outcome)


def withheld(context: StepContext, call: Withheld) -> Effects:
    """Give what is written for a call that waits for a person."""
    text, timeout_s, default = call.question
    until_ms = context.clock.now_ms() + int(timeout_s * 1000) if timeout_s is not None else None
    asked = Asked(action="approval", question=text, digest=call.digest, until_ms=until_ms, default=default)
    return Effects(status="in_progress", edge="approval", waits=True, asked=asked)


def unsettled(context: StepContext) -> Effects:
    """Give what is written for a call of which nobody knows whether it was made: its tool says who is to tell."""
    assert context.call is not None
    tool = context.plan.tools.get(context.call.name)
    rule = tool.spec.on_unknown if tool is not None else "tell"
    if rule == "ask" and tool is not None:
        admitted = admit({context.call.name: replace(tool, asks=None)}, context.call)
        arguments = admitted.arguments if isinstance(admitted, Admitted) else {}
        binding = digest_of(tool, arguments, run_id=context.run.id, path=context.path)
        asked = Asked(action="unknown", question=UNKNOWN, digest=binding)
        return Effects(status="in_progress", edge="unknown", waits=True, asked=asked)
    return Effects(
        status="failed" if rule == "fail" else "completed",
        message=result_row(context, failure("outcome_unknown", UNKNOWN)),
        last_error=RunError(code="outcome_unknown", message=UNKNOWN),
        note="outcome unknown",
        ends=("failed", "outcome_unknown") if rule == "fail" else None,
    )


def refused(context: StepContext, error: StatementError) -> Effects:
    """Give what is written instead of a call whose statements were refused: its failure, and none of them."""
    assert context.call is not None
    name = context.call.name
    if context.plan.tools[name].spec.on_error == "fail":
        return _fatal(context, f"tool {name}: {error.message}")
    return effects(context, failure("tool_error", f"{name}: {error.message}"))


def _fatal(context: StepContext, message: str) -> Effects:
    """Give the effects of a failure that fails the run."""
    row = result_row(context, Outcome(message, "tool_error", message))
    error = RunError(code="tool_error", message=message)
    return Effects(status="failed", message=row, last_error=error, ends=("failed", "tool_error"))


def call_context(context: StepContext) -> CallContext:
    """Give what the tool may know of its run."""
    run = context.run
    return CallContext(run.id, run.thread_id, f"tdl:{run.id}:{context.path}")


def effects(context: StepContext, outcome: Outcome) -> Effects:
    """Turn an outcome into what is written: the tool row, and the error beside it where there is one."""
    error = RunError(code=outcome.code, message=outcome.message or "") if outcome.code else None
    return Effects(
        message=result_row(context, outcome),
        last_error=error,
        whole=outcome.whole,
        statements=outcome.statements,
    )


def result_row(context: StepContext, outcome: Outcome) -> Message:
    """Give the tool row of an outcome."""
    return Message(
        tenant=context.run.tenant,
        thread_id=context.run.thread_id,
        seq=context.next_seq,
        role="tool",
        text=outcome.text,
        reply_seq=context.reply_seq,
        call_index=context.call_index,
        tokens=estimate_tokens(utf8_bytes(outcome.text)),
        run_id=context.run.id,
        created_ms=context.clock.now_ms(),
    )


KIND = StepKindEntry(prepare, perform)
