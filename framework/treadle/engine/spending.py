"""What a run of a workflow has used and may still use, its child runs included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.engine.activation import State
from treadle.objects.run import Usage
from treadle.objects.run_step import Used

if TYPE_CHECKING:
    from treadle.engine.executor import Handle
    from treadle.objects.workflow import WorkflowLimits


class Spent(NamedTuple):
    """What a run has used: steps, calls and money, and its tokens."""

    used: Used
    usage: Usage


def together(one: Spent, other: Spent) -> Spent:
    """Give what two runs have used together."""
    used = Used(
        steps=one.used.steps + other.used.steps,
        tool_calls=one.used.tool_calls + other.used.tool_calls,
        model_calls=one.used.model_calls + other.used.model_calls,
        cost_usd=one.used.cost_usd + other.used.cost_usd,
    )
    usage = Usage(
        prompt_tokens=one.usage.prompt_tokens + other.usage.prompt_tokens,
        completion_tokens=one.usage.completion_tokens + other.usage.completion_tokens,
        estimated=one.usage.estimated or other.usage.estimated,
    )
    return Spent(used, usage)


def spent_by(state: State, *, cost_usd: float | None = None) -> Spent:
    """Give what a run itself has used, with the child runs that have ended; `cost_usd` replaces what its steps say."""
    used = Used(
        steps=state.steps,
        tool_calls=state.tool_calls,
        model_calls=state.model_calls,
        cost_usd=state.cost_usd if cost_usd is None else cost_usd,
    )
    usage = Usage(
        prompt_tokens=state.prompt_tokens,
        completion_tokens=state.completion_tokens,
        estimated=state.is_estimated,
    )
    return Spent(used, usage)


def total(state: State, children: Iterable[Handle], held: Iterable[Spent] = ()) -> Spent:
    """Give what a run has used, child runs that are under way or rest included.

    Shapes: `held` is what those have used that rest.
    """
    found = spent_by(state)
    for more in (*(h.spent() for h in children if h.spent is not None), *held):
        found = together(found, more)
    return found


def breach(limits: WorkflowLimits, spent: Spent) -> str | None:
    """Give the name of a limit that is reached."""
    used, tokens = spent.used, spent.usage.total_tokens
    if used.steps > limits.max_steps:
        return "max_steps"
    if used.tool_calls > limits.max_tool_calls:
        return "max_tool_calls"
    if limits.max_model_calls is not None and used.model_calls > limits.max_model_calls:
        return "max_model_calls"
    # What costs is known when it is spent: the run stops at the limit, and not beyond it.
    if limits.max_tokens is not None and tokens >= limits.max_tokens:
        return "max_tokens"
    if limits.max_cost_usd is not None and used.cost_usd >= limits.max_cost_usd > 0:
        return "max_cost_usd"
    return None


def exhausted(limits: WorkflowLimits, spent: Spent) -> str | None:
    """Give the name of a limit that leaves nothing: a child run that was stopped was stopped by it."""
    used = spent.used
    if used.steps >= limits.max_steps:
        return "max_steps"
    if used.tool_calls >= limits.max_tool_calls:
        return "max_tool_calls"
    if limits.max_model_calls is not None and used.model_calls >= limits.max_model_calls:
        return "max_model_calls"
    return breach(limits, spent)


def left(limits: WorkflowLimits, spent: Spent) -> dict[str, Any]:
    """Give what the limits leave, by their names, for a child run."""
    used, tokens = spent.used, spent.usage.total_tokens
    found: dict[str, Any] = {"max_tool_calls": max(0, limits.max_tool_calls - used.tool_calls)}
    if limits.max_tokens is not None:
        found["max_tokens"] = max(1, limits.max_tokens - tokens)
    if limits.max_model_calls is not None:
        found["max_model_calls"] = max(1, limits.max_model_calls - used.model_calls)
    if limits.max_cost_usd is not None:
        found["max_cost_usd"] = max(0.0, limits.max_cost_usd - used.cost_usd)
    return found
