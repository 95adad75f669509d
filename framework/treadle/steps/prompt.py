"""Ask a model once, for prompt nodes and for functions: no tools, no thread, one reply."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from treadle.errors import ProviderError
from treadle.objects.agent import OutputSpec
from treadle.objects.message import Message, estimate_tokens
from treadle.objects.record import parse_duration
from treadle.objects.run import RunError, Usage
from treadle.objects.run_step import Used
from treadle.objects.workflow import PromptMessage
from treadle.providers.base import Delta, ModelReply, ModelRequest
from treadle.steps.append_message import structured
from treadle.steps.base import Intent
from treadle.steps.model_call import error_of
from treadle.steps.names import text
from treadle.steps.node import Check, Model, NodeContext, NodeEffects, NodeKind
from treadle.text import clean, utf8_bytes

_CODE = re.compile(r"rate_limit|timeout|connection|http_\d{3}|model_error|content_filter")
"""The kinds of a provider's error that are codes of a node's error, too."""


class Said(NamedTuple):
    """What a model said to one prompt, or why it said nothing that counts.

    Shapes: `output` is the JSON of the text where a shape was asked for, else the text. Units: `retry_after_s` seconds, as the endpoint
    asked.
    """

    text: str = ""
    output: Any = None
    usage: Usage | None = None
    used: Used | None = None
    error: RunError | None = None
    retry_after_s: float | None = None


class _Asks(NamedTuple):
    """What is asked, rendered, and the idempotency key of the node's own."""

    messages: Sequence[PromptMessage]
    key: str | None


def prepare(context: NodeContext) -> Intent:
    """Give the messages, rendered.

    Errors: DefinitionError for a text that fails.
    """
    params = context.params
    told: list[dict[str, str]] = params.get("messages") or [{"content": params.get("prompt", "")}]
    messages = [
        PromptMessage(role=m.get("role", "user"), content=text(m["content"], context.view))  # pyright: ignore[reportArgumentType] - the document was checked
        for m in told
    ]
    return Intent(admitted=_Asks(messages, key_of(context)))


async def perform(context: NodeContext, intent: Intent) -> NodeEffects:
    """Call the model."""
    asks = intent.admitted
    assert isinstance(asks, _Asks)
    declared = context.params.get("output")
    said = await ask(
        context,
        context.plan.models[context.node.id],
        asks.messages,
        output=None if declared is None else OutputSpec.model_validate(declared),
        check=context.plan.shapes.get(context.node.id),
        emit=context.emit,
        timeout_s=time_left_s(context),
    )
    if said.error is not None:
        return NodeEffects(
            status="failed", error=said.error, usage=said.usage, used=said.used, key=asks.key,
            retry_after_s=said.retry_after_s,
        )  # fmt: skip
    usage = said.usage or Usage(estimated=True)
    result = {
        "text": said.text,
        "output": said.output,
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
    }
    return NodeEffects(result=result, usage=usage, used=said.used, key=asks.key)


def key_of(context: NodeContext) -> str | None:
    """Give the idempotency key that the node asks for, None where it asks for none.

    Errors: DefinitionError for a text that fails.
    """
    key = context.params.get("idempotency_key")
    return None if key is None else text(key, context.view)


def time_left_s(context: NodeContext) -> float | None:
    """Give the seconds that one attempt may take: what the node says, and no more than the run leaves."""
    declared = context.params.get("timeout")
    bounds = [parse_duration(declared)] if declared is not None else []
    return min([*bounds, *([context.timeout_s] if context.timeout_s is not None else [])], default=None)


async def ask(
    context: NodeContext,
    model: Model,
    messages: Sequence[PromptMessage],
    *,
    output: OutputSpec | None,
    check: Check | None,
    emit: Callable[[Delta], None],
    timeout_s: float | None,
) -> Said:
    """Send messages to a model and give what it said; an error is given, not raised.

    Shapes: those of the role system are its instructions; `check` says what is wrong with an output.
    """
    request = ModelRequest(
        model=model.id,
        instructions="\n\n".join(m.content for m in messages if m.role == "system"),
        messages=_rows(context, messages),
        options=model.options,
        output_schema=output.schema_ if output is not None else None,
        output_strict=output.strict if output is not None else True,
        timeout_s=timeout_s,
    )
    try:
        async with asyncio.timeout(timeout_s):
            reply = await model.provider.call(request, emit)
    except TimeoutError:
        message = f"the model did not answer within {timeout_s:g} s" if timeout_s else "the model timed out"
        return Said(error=RunError(code="timeout", message=message), used=Used(model_calls=1))
    except ProviderError as e:
        return Said(error=_error(e), used=Used(model_calls=1), retry_after_s=e.retry_after_s)
    return _said(model, reply, check if output is not None else None, is_structured=output is not None)


def _rows(context: NodeContext, messages: Sequence[PromptMessage]) -> list[Message]:
    now = context.clock.now_ms()
    rows: list[Message] = []
    for message in messages:
        if message.role == "system":
            continue
        said = clean(message.content)
        row = Message(
            seq=len(rows) + 1,
            tenant=context.run.tenant,
            thread_id=context.run.thread_id,
            role=message.role,
            text=said,
            tokens=estimate_tokens(utf8_bytes(said)),
            run_id=context.run.id,
            created_ms=now,
        )
        rows.append(row)
    return rows


def _error(error: ProviderError) -> RunError:
    """Give a provider's error with a code that retries and error routes know."""
    code = error.kind
    if _CODE.fullmatch(code) is None:
        is_refused = code == "credentials" and error.status is not None
        code = f"http_{error.status}" if is_refused else "model_error"
    return error_of(error).model_copy(update={"code": code})


def _said(model: Model, reply: ModelReply, check: Check | None, *, is_structured: bool) -> Said:
    usage = reply.usage or Usage(estimated=True)
    used = Used(model_calls=1, cost_usd=_cost_usd(model, usage))
    spoken = clean(reply.text or "")
    output, error = spoken, _unusable(reply)
    if error is None and is_structured:
        output, problem = structured(spoken, check)
        if problem is not None:
            said = f"the answer does not fit the output schema: {problem}"
            error = RunError(code="invalid_output", message=said[:2000])
        elif "\\u" in spoken:
            # Half a character may stand in a text of the answer as an escape.
            output = json.loads(clean(json.dumps(output, ensure_ascii=False)))
    if error is not None:
        return Said(spoken, usage=usage, used=used, error=error)
    return Said(spoken, output, usage, used)


def _unusable(reply: ModelReply) -> RunError | None:
    """Say why a reply is none, None for one that was said to its end."""
    if reply.finish_reason == "content_filter":
        return RunError(code="content_filter", message="the endpoint's filter stopped the answer")
    if reply.finish_reason == "length":
        said = "the answer was cut: it reached the most tokens that a reply may have (max_output_tokens)"
        return RunError(code="budget", message=said)
    if reply.tool_calls and not reply.text:
        names = ", ".join(call.name for call in reply.tool_calls)[:200]
        return RunError(code="model_error", message=f"the model called {names}, and a prompt has no tools")
    return None


def _cost_usd(model: Model, usage: Usage) -> float:
    if model.price is None:
        return 0.0
    return (usage.prompt_tokens * model.price.input + usage.completion_tokens * model.price.output) / 1e6


KIND = NodeKind(prepare, perform)
