"""What a run of a workflow has used and may still use, its child runs included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from treadle.engine.activation import State
from treadle.objects.run_step import Used
from treadle.objects.workflow import WorkflowLimits

if TYPE_CHECKING:
    from treadle.engine.executor import Handle


def used(state: State, children: Iterable[Handle], held: Iterable[tuple[Used, int]] = ()) -> tuple[Used, int]:
    """Give what a run has used, child runs that are under way or rest included, and its tokens.

    Shapes: `held` is what those have used that rest.
    """
    total = Used(
        steps=state.steps,
        tool_calls=state.tool_calls,
        model_calls=state.model_calls,
        cost_usd=state.cost_usd,
    )
    tokens = state.prompt_tokens + state.completion_tokens
    for more, more_tokens in (*(h.spent() for h in children if h.spent is not None), *held):
        tokens += more_tokens
        total = plus(total, more)
    return total, tokens


def plus(one: Used, other: Used) -> Used:
    """Give what two runs have used together."""
    return Used(
        steps=one.steps + other.steps,
        tool_calls=one.tool_calls + other.tool_calls,
        model_calls=one.model_calls + other.model_calls,
        cost_usd=one.cost_usd + other.cost_usd,
    )


def breach(limits: WorkflowLimits, spent: tuple[Used, int]) -> str | None:
    """Give the name of a limit that is reached."""
    total, tokens = spent
    if total.steps > limits.max_steps:
        return "max_steps"
    if total.tool_calls > limits.max_tool_calls:
        return "max_tool_calls"
    if limits.max_model_calls is not None and total.model_calls > limits.max_model_calls:
        return "max_model_calls"
    # What costs is known when it is spent: the run stops at the limit, and not beyond it.
    if limits.max_tokens is not None and tokens >= limits.max_tokens:
        return "max_tokens"
    if limits.max_cost_usd is not None and total.cost_usd >= limits.max_cost_usd > 0:
        return "max_cost_usd"
    return None


def exhausted(limits: WorkflowLimits, spent: tuple[Used, int]) -> str | None:
    """Give the name of a limit that leaves nothing: a child run that was stopped was stopped by it."""
    total, _ = spent
    if total.steps >= limits.max_steps:
        return "max_steps"
    if total.tool_calls >= limits.max_tool_calls:
        return "max_tool_calls"
    if limits.max_model_calls is not None and total.model_calls >= limits.max_model_calls:
        return "max_model_calls"
    return breach(limits, spent)


def left(limits: WorkflowLimits, spent: tuple[Used, int]) -> dict[str, Any]:
    """Give what the limits leave, by their names, for a child run."""
    total, tokens = spent
    found: dict[str, Any] = {"max_tool_calls": max(0, limits.max_tool_calls - total.tool_calls)}
    if limits.max_tokens is not None:
        found["max_tokens"] = max(1, limits.max_tokens - tokens)
    if limits.max_model_calls is not None:
        found["max_model_calls"] = max(1, limits.max_model_calls - total.model_calls)
    if limits.max_cost_usd is not None:
        found["max_cost_usd"] = max(0.0, limits.max_cost_usd - total.cost_usd)
    return found
