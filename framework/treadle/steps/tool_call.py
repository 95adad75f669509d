"""Run one tool call of a reply, through the gate; a client's function suspends the step instead."""

from __future__ import annotations

from treadle.errors import StatementError, ToolError
from treadle.objects.message import Message, estimate_tokens
from treadle.objects.run import RunError
from treadle.steps.base import Effects, Intent, StepContext, StepKindEntry
from treadle.text import utf8_bytes
from treadle.tools.base import CallContext
from treadle.tools.gate import Admitted, Outcome, admit, dispatch, failure

UNKNOWN = "outcome unknown: the process stopped while this call was under way; it was not repeated"


def prepare(context: StepContext) -> Intent | Effects:
    """Let the call in: give the intent, the wait for the client, or the error that the model gets."""
    assert context.call is not None
    admitted = admit(context.plan.tools, context.call)
    if isinstance(admitted, Outcome):
        return effects(context, admitted)
    if admitted.tool.invoke is None:
        return Effects(status="in_progress", edge="client", waits=True)
    return Intent(effect=admitted.tool.spec.effect, admitted=admitted)


async def perform(context: StepContext, intent: Intent) -> Effects:
    """Run it."""
    admitted = intent.admitted
    assert isinstance(admitted, Admitted)
    try:
        outcome = await dispatch(admitted, call_context(context), context.clock)
    except ToolError as e:
        return _fatal(context, e.message)
    return effects(context, outcome)


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
