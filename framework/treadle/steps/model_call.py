"""Ask the model: send the window, take the reply, leave by `tool_calls` or by `text`."""

from __future__ import annotations

from treadle.errors import ContextLengthError, ProviderError
from treadle.objects.message import Message, estimate_tokens
from treadle.objects.run import RunError, Usage
from treadle.providers.base import ModelReply, ModelRequest
from treadle.steps.base import Effects, Intent, StepContext, StepKindEntry
from treadle.text import clean, is_sound

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
    """Call the model; a prompt that is too long for it is halved once.

    Errors: ProviderError.
    """
    del intent
    budget = window_budget(context)
    try:
        reply = await context.plan.provider.call(request(context, budget), context.emit)
    except ContextLengthError:
        reply = await context.plan.provider.call(request(context, budget // 2), context.emit)
        return effects(context, reply, note="the prompt did not fit; the window was halved")
    return effects(context, reply)


def window_budget(context: StepContext) -> int:
    """Give how many tokens of the thread may be sent."""
    plan = context.plan
    reply = plan.options.max_output_tokens or plan.context_window // RESERVE
    budget = plan.context_window - min(reply, plan.context_window // 2)
    if context.prompt_left is not None:
        budget = min(budget, context.prompt_left)
    return max(0, budget - plan.fixed_tokens)


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
    size = len(text.encode()) if text else 0
    size += sum(len(c.name) + len(c.arguments.encode(errors="replace")) for c in reply.tool_calls)
    calls = reply.tool_calls
    if any(not is_sound(c.arguments) or not is_sound(c.name) for c in calls):
        calls = tuple(
            c.model_copy(update={"arguments": clean(c.arguments), "name": clean(c.name)})
            for c in reply.tool_calls
        )
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


def error_of(error: ProviderError) -> RunError:
    """Give a provider's error as a run keeps it: its kind and its text, never a stack trace."""
    return RunError(
        code=error.kind, message=error.message if not error.hint else f"{error.message} ({error.hint})"
    )


KIND = StepKindEntry(prepare, perform)
