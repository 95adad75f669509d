"""What a step is given and what it gives back: it reads a context, returns effects, and writes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from treadle.clock import Clock
from treadle.objects.agent import AgentSpec, ModelOptions, Price
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import Run, RunError, Usage
from treadle.objects.run_step import Asked, Decision, StepStatus
from treadle.objects.tool import Effect
from treadle.providers.base import Delta, ModelReply, Provider, ToolDefinition
from treadle.store.base import Statement
from treadle.tools.base import BoundTool


def _never() -> bool:
    return False


class LoadedImages(NamedTuple):
    """Images of a window, by where they come from.

    Shapes: `files` are source (the id of a file, or a URL) to (media type, bytes); `missing` are those that cannot be
    had, source to the reason in words.
    """

    files: Mapping[str, tuple[str, bytes]]
    missing: Mapping[str, str]


LoadImages = Callable[[str, Sequence[str], Sequence[str]], Awaitable[LoadedImages]]
"""Give images of a tenant: those that a call cannot do without, and those of earlier turns, the newest first.

Where one of the first is missing, the others need not be looked for.
"""


async def no_images(tenant: str, needed: Sequence[str], earlier: Sequence[str]) -> LoadedImages:
    """Give no image, where nothing loads any."""
    del tenant
    return LoadedImages({}, dict.fromkeys([*needed, *earlier], "nothing here loads images"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run needs to be walked, worked out once from its agent and its own overrides.

    Units: `context_window` tokens; `timeout_s` seconds for one model call.
    """

    spec: AgentSpec
    instructions: str
    provider: Provider
    model: str
    options: ModelOptions
    context_window: int
    price: Price | None
    tools: Mapping[str, BoundTool]
    definitions: Sequence[ToolDefinition]
    tool_choice: str
    output_schema: Mapping[str, Any] | None
    output_strict: bool
    output_problems: Callable[[Any], list[str]] | None
    keep_last: int | None
    timeout_s: float | None
    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    fixed_tokens: int
    """What instructions and tool definitions cost in every call, estimated."""
    images: LoadImages = no_images
    earlier: Callable[[StepContext], Effects | None] | None = None
    """Gives what a step gave in the run that this one goes on from; None where it is executed."""


class StepContext(NamedTuple):
    """The read-only view that a step has of its run.

    Shapes: `window` gives the rows to send for a budget of tokens; `call` and `reply_seq` are a tool call's
    own; `reply` is the model's answer that an `append_message` appends. `next_seq` is the seq of the thread's next row, as long as no sibling is quicker. `visit` counts the entries into the
    node from 1. `attempt` counts the attempts of the step from 1; `decision` is what a person decided on it;
    `has_spoken` tells whether a reader has seen something of this attempt. `prompt_left` and `completion_left` are what the run's own budgets leave, None without one.
    """

    run: Run
    plan: Plan
    path: str
    visit: int
    clock: Clock
    emit: Callable[[Delta], None]
    window: Callable[[int], Sequence[Message]]
    timeout_s: float | None = None
    prompt_left: int | None = None
    completion_left: int | None = None
    reply_seq: int | None = None
    call_index: int | None = None
    call: ToolCall | None = None
    reply: ModelReply | None = None
    next_seq: int = 0
    attempt: int = 1
    decision: Decision | None = None
    has_spoken: Callable[[], bool] = _never


class Intent(NamedTuple):
    """The step may be performed; `effect` says whether that must be committed before it begins."""

    effect: Effect = "pure"
    admitted: Any = None


End = tuple[Literal["completed", "incomplete", "failed", "expired"], str | None]
"""How a run ends: its status, and the reason where there is one."""


class Effects(NamedTuple):
    """What a step did, for the executor to write.

    Shapes: `edge` is the label to leave by; `fan` how many steps the successor expands to; `message` is a row
    for the thread; its `seq` is what the context said, and the executor's to change. `waits` suspends the step until its client answers. `ends`
    ends the run: a status, and the reason or None. `statements` are written with the step, or the step is refused.
    `asked` is what a person is asked before it goes on. `again_s` says that this attempt failed and another is made
    after so many seconds.
    """

    status: StepStatus = "completed"
    edge: str | None = None
    fan: int = 0
    message: Message | None = None
    usage: Usage | None = None
    last_error: RunError | None = None
    note: str | None = None
    whole: str | None = None
    reply: ModelReply | None = None
    output: Any = None
    waits: bool = False
    ends: End | None = None
    statements: Sequence[Statement] = ()
    asked: Asked | None = None
    again_s: float | None = None
    kept: str | None = None
    """The step of an earlier run whose effects these are."""


@dataclass(frozen=True, slots=True)
class StepKindEntry:
    """A step kind, as the table names it; without `perform` it is instant: `prepare` gives everything."""

    prepare: Callable[[StepContext], Intent | Effects]
    perform: Callable[[StepContext, Intent], Awaitable[Effects]] | None = None
