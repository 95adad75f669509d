"""Ask the model: send the window, take the reply, leave by `tool_calls` or by `text`."""

from __future__ import annotations

from collections.abc import Sequence

from treadle.errors import ContextLengthError, ProviderError
from treadle.ids import derive
from treadle.objects.message import Message, ToolCall, estimate_tokens
from treadle.objects.run import RunError, Usage
from treadle.providers.base import ModelReply, ModelRequest
from treadle.steps.base import Effects, Intent, Plan, StepContext, StepKindEntry
from treadle.steps.images import with_images
from treadle.text import clean, utf8_bytes
from treadle.tools.gate import delay_s, is_repeated

RESERVE = 4
"""The part of a context window that is kept for the reply where nothing says how long it may be: a quarter."""


def prepare(context: StepContext) -> Intent | Effects:
    """Give the intent; a run whose own token budget is spent ends here."""
    if context.completion_left is not None and context.completion_left <= 0:
        return Effects(
            status="failed", note="max_completion_tokens", ends=("incomplete", "max_completion_tokens")
        )
    if context.prompt_left is not None and context.prompt_left <= context.plan.fixed_tokens:
        return Effects(status="failed", note="max_prompt_tokens", ends=("incomplete", "max_prompt_tokens"))
    return Intent()


async def perform(context: StepContext, intent: Intent) -> Effects:
    """Call the model; a failure is tried again where the agent's rule says so, and else fails the run.

    What a reader has seen of a reply is never taken back: a call that has spoken is not repeated.
    """
    del intent
    try:
        return await _ask(context)
    except ProviderError as e:
        error, retry = error_of(e), context.plan.spec.retry
        is_last = retry is None or context.attempt >= retry.max_attempts
        if retry is None or is_last or context.has_spoken() or not is_repeated(retry, e.kind):
            return Effects(status="failed", last_error=error, ends=("failed", e.kind))
        wait_s = delay_s(retry, context.attempt, of=f"{context.run.id} {context.path}")
        again_s = max(e.retry_after_s or 0.0, wait_s)
        return Effects(status="failed", edge="retry", last_error=error, again_s=again_s)


async def _ask(context: StepContext) -> Effects:
    """Call the model; a prompt that is too long for it is halved once.

    Errors: ProviderError.
    """
    asked = await with_images(context, request(context, window_budget(context)))
    try:
        reply = await context.plan.provider.call(asked, context.emit)
    except ContextLengthError:
        # Half of what was sent, not of what might have been: else the same prompt would be sent again.
        half = sum(row.tokens for row in asked.messages) // 2
        halved = await with_images(context, request(context, half))
        reply = await context.plan.provider.call(halved, context.emit)
        return effects(context, reply, note="the prompt did not fit; the window was halved")
    return effects(context, reply)


def window_budget(context: StepContext) -> int:
    """Give how many tokens of the thread may be sent in this call."""
    budget = thread_tokens(context.plan)
    if context.prompt_left is not None:
        budget = min(budget, context.prompt_left - context.plan.fixed_tokens)
    return max(0, budget)


def thread_tokens(plan: Plan) -> int:
    """Give how many tokens of a thread a model can be sent: its window without the reply and what is always sent."""
    reply = plan.options.max_output_tokens or plan.context_window // RESERVE
    return max(0, plan.context_window - min(reply, plan.context_window // 2) - plan.fixed_tokens)


def request(context: StepContext, budget: int) -> ModelRequest:
    """Give what the model is sent.

    A forced tool choice holds for the first call of a run only: after it the run could never end.
    """
    plan = context.plan
    options = plan.options
    if context.completion_left is not None:
        most = min(options.max_output_tokens or context.completion_left, context.completion_left)
        options = options.model_copy(update={"max_output_tokens": most})
    choice = plan.tool_choice
    if context.visit > 1 and choice not in ("auto", "none"):
        choice = "auto"
    return ModelRequest(
        model=plan.model,
        instructions=plan.instructions,
        messages=context.window(budget),
        tools=plan.definitions,
        tool_choice=choice,
        options=options,
        output_schema=dict(plan.output_schema) if plan.output_schema is not None else None,
        output_strict=plan.output_strict,
        timeout_s=context.timeout_s,
    )


def effects(context: StepContext, reply: ModelReply, *, note: str | None = None) -> Effects:
    """Turn a reply into what is written."""
    usage = reply.usage or Usage(estimated=True)
    if reply.finish_reason == "content_filter":
        return Effects(
            edge="text", usage=usage, note=note, reply=reply, ends=("incomplete", "content_filter")
        )
    if reply.tool_calls and reply.finish_reason != "length":
        row = reply_row(context, reply)
        return Effects(
            edge="tool_calls", fan=len(reply.tool_calls), message=row, usage=usage, note=note, reply=reply
        )
    if reply.finish_reason == "length":
        return Effects(
            edge="text", usage=usage, note=note, reply=reply, ends=("incomplete", "max_completion_tokens")
        )
    return Effects(edge="text", usage=usage, note=note, reply=reply)


def reply_row(context: StepContext, reply: ModelReply) -> Message:
    """Give the assistant row of a reply, calls included."""
    now = context.clock.now_ms()
    text = clean(reply.text) if reply.text else None
    size = utf8_bytes(text) if text else 0
    size += sum(len(c.name) + utf8_bytes(c.arguments) for c in reply.tool_calls)
    calls = _sound(context, reply.tool_calls) if reply.tool_calls else ()
    return Message(
        seq=context.next_seq,
        tenant=context.run.tenant,
        thread_id=context.run.thread_id,
        role="assistant",
        text=text,
        tool_calls=calls,
        tokens=estimate_tokens(size),
        run_id=context.run.id,
        agent_id=context.run.agent_id,
        created_ms=now,
        completed_ms=now,
    )


def _sound(context: StepContext, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    """Give the calls with texts that can be stored, and an id each: a client answers calls by their ids."""
    sound: list[ToolCall] = []
    taken: set[str] = set()
    for place, call in enumerate(calls):
        id_, name, arguments = clean(call.id), clean(call.name), clean(call.arguments)
        if not id_ or id_ in taken:
            id_ = derive("call", context.run.id, f"{context.path}/{place}")
        taken.add(id_)
        if (id_, name, arguments) != (call.id, call.name, call.arguments):
            call = ToolCall(id=id_, name=name, arguments=arguments)  # noqa: PLW2901 - the same call, made sound
        sound.append(call)
    return tuple(sound)


def error_of(error: ProviderError) -> RunError:
    """Give a provider's error as a run keeps it: its kind and its text, never a stack trace."""
    message = error.message if not error.hint else f"{error.message} ({error.hint})"
    return RunError(code=error.kind, message=clean(message))


KIND = StepKindEntry(prepare, perform)
