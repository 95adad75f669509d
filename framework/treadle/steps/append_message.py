"""Append the model's answer to the thread; it commits with the model call that gave it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Never

from treadle.objects.run import RunError
from treadle.steps.base import Effects, Intent, StepContext, StepKindEntry
from treadle.steps.model_call import reply_row


def prepare(context: StepContext) -> Intent | Effects:
    """Give the assistant row; where an output schema is declared, hold the answer against it."""
    reply = context.reply
    assert reply is not None, "append_message follows a model call in the same checkpoint"
    # A reply that was cut short may hold calls that nobody will answer: the answer is its text alone.
    row = reply_row(context, replace(reply, tool_calls=()))
    if row.text is None:
        row = row.model_copy(update={"text": ""})
    if reply.finish_reason in ("length", "content_filter"):
        reason = "max_tokens" if reply.finish_reason == "length" else "content_filter"
        row = row.model_copy(
            update={"status": "incomplete", "incomplete_reason": reason, "completed_ms": None}
        )
        return Effects(edge="incomplete", message=row)
    if context.plan.output_schema is None:
        return Effects(message=row, output=row.text)
    value, problem = structured(row.text or "", context.plan.output_problems)
    if problem is None:
        return Effects(message=row, output=value)
    error = RunError(
        code="invalid_output", message=f"the answer does not fit the agent's output schema: {problem}"
    )
    return Effects(message=row, last_error=error, note=problem, ends=("failed", "invalid_output"))


def structured(text: str, check: Callable[[Any], list[str]] | None) -> tuple[Any, str | None]:
    """Give an answer as JSON, and what is wrong with it."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:
        return None, f"it is not JSON: {e}"
    problems = check(value) if check else []
    return value, "; ".join(problems) or None


def _no_number(name: str) -> Never:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


KIND = StepKindEntry(prepare)
