"""The seam to models: one request in, one reply out, deltas on the way.

A provider knows no thread, run or store. It raises `ProviderError` and nothing else; whatever its library
raises is translated where the library is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from treadle.objects.agent import ModelOptions
from treadle.objects.message import Message, ToolCall
from treadle.objects.record import JsonSchema
from treadle.objects.run import Usage

FinishReason = Literal["stop", "tool_calls", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool as the model is told of it; `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: JsonSchema
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Everything that one model call is given.

    Shapes: `messages` is the window of the thread, oldest first; each assistant row with `tool_calls` is
    followed by exactly one tool row per call, in the order of the calls (`call_index`). A tool row's
    `text` is the result; the id of its call is that of the assistant row's `tool_calls[call_index]`.
    `tool_choice` is auto, none, required or a tool's name.

    Units: `timeout_s` seconds that the call may take, retries included; None is without bound.
    """

    model: str
    instructions: str
    messages: Sequence[Message]
    tools: Sequence[ToolDefinition] = ()
    tool_choice: str = "auto"
    options: ModelOptions = field(default_factory=ModelOptions)
    output_schema: JsonSchema | None = None
    output_strict: bool = True
    timeout_s: float | None = None
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict[str, tuple[str, bytes]])
    """Contents of the images in `messages`, by where they come from: file id or URL to (media type, bytes).

    A data URL that is not among them is sent as it is; any other image that is not is an error, and no address is
    handed on to an endpoint.
    """


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call; id and name come with the first piece of their index."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Delta = TextDelta | ToolCallDelta
Emit = Callable[[Delta], None]


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What the model answered; the text equals the concatenated text deltas."""

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    finish_reason: FinishReason = "stop"
    model: str | None = None


class Provider(Protocol):
    """An endpoint that answers model calls."""

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Ask the model; call `emit` with each delta as it arrives, then give the whole reply.

        Errors: ProviderError (ContextLengthError where the prompt is too long).
        """
        ...

    async def close(self) -> None:
        """Let connections go."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A connection whose references are resolved: what a provider is built from.

    Hazard: `api_key` and the values of `headers` are secrets; nothing prints an endpoint.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_version: str | None = None
    deployment: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    organization: str | None = None
    timeout_s: float | None = None
    max_retries: int = 2
