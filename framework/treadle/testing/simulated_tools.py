"""The world outside of treadle in a simulation: a model and tools with seeded wits, and the receiver that counts.

Nothing here ends with a process: what reached the receiver stays there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from treadle.errors import ProviderError
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import Usage
from treadle.objects.tool import Effect, FunctionTool, Retry
from treadle.providers.base import Emit, ModelReply, ModelRequest, TextDelta, ToolCallDelta
from treadle.testing.chance import Chance
from treadle.testing.history import Dispatch
from treadle.testing.trace import Trace

_SCHEMA = {
    "type": "object",
    "properties": {"token": {"type": "string"}},
    "required": ["token"],
    "additionalProperties": False,
}
CLIENT_TOOL = "ask_client"
ASKS_AGAIN = "charge_or_ask"
"""Made again after an outcome that nobody knows, if a person says so."""
NEEDS_CONSENT = "charge_if_allowed"
"""Made only if a person agrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wits:
    """How the model and the tools behave.

    Units: seconds; `slow_s` is the mean of the rare long ones.
    """

    model_s: float = 0.3
    tool_s: float = 0.1
    slow: float = 0.03
    slow_s: float = 10.0
    calls: float = 0.5
    most_calls: int = 4
    model_error: float = 0.04
    tool_error: float = 0.1
    odd_reply: float = 0.05


class Outside:
    """The model, the tools and the receiver.

    Shapes: `called` hears the idempotency key of each call that begins, `received` of what reaches the receiver.
    """

    def __init__(self, chance: Chance, trace: Trace, wits: Wits) -> None:
        """Start with nothing asked and nothing received."""
        self.dispatches: list[Dispatch] = []
        self.problems: list[str] = []
        self.called: Callable[[str], None] | None = None
        self.received: Callable[[Dispatch], None] | None = None
        self.model = SimulatedModel(chance.fork("model"), trace, wits, self.problems)
        self._chance = chance.fork("tools")
        self._trace = trace
        self._wits = wits

    @property
    def functions(self) -> list[Callable[..., Awaitable[Any]]]:
        """Give the functions to register, by the names of `tools`."""

        async def look(token: str, idempotency_key: str) -> dict[str, Any]:
            return await self._receive("look", "pure", token, idempotency_key)

        async def put(token: str, idempotency_key: str) -> dict[str, Any]:
            return await self._receive("put", "idempotent", token, idempotency_key)

        async def charge(token: str, idempotency_key: str) -> dict[str, Any]:
            return await self._receive("charge", "once", token, idempotency_key)

        async def charge_or_fail(token: str, idempotency_key: str) -> dict[str, Any]:
            return await self._receive("charge_or_fail", "once", token, idempotency_key)

        async def charge_or_ask(token: str, idempotency_key: str) -> dict[str, Any]:
            return await self._receive(ASKS_AGAIN, "once", token, idempotency_key)

        async def charge_if_allowed(token: str, idempotency_key: str) -> dict[str, Any]:
            return await self._receive(NEEDS_CONSENT, "once", token, idempotency_key)

        return [look, put, charge, charge_or_fail, charge_or_ask, charge_if_allowed]

    async def _receive(self, tool: str, effect: Effect, token: str, key: str) -> dict[str, Any]:
        chance, wits = self._chance, self._wits
        if self.called is not None:
            self.called(key)
        await _take(chance, wits, wits.tool_s / 2)
        dispatch = Dispatch(tool, effect, token, key)
        self._trace.note("dispatch", tool, token)
        self.dispatches.append(dispatch)
        if self.received is not None:
            self.received(dispatch)
        await _take(chance, wits, wits.tool_s / 2)
        if chance.happens(wits.tool_error):
            raise (
                ConnectionError("the receiver hung up")
                if chance.happens(0.5)
                else ValueError("no such thing")
            )
        return {"done": token}


def tools() -> list[FunctionTool]:
    """Give the tools of every effect class, and one that the client runs."""
    retry = Retry(max_attempts=3, on=("connection", "timeout"))

    def tool(name: str, **fields: Any) -> FunctionTool:
        return FunctionTool(name=name, runs="server", parameters=_SCHEMA, **fields)

    return [
        tool("look", effect="pure", retry=retry, timeout="20s"),
        tool("put", effect="idempotent", retry=retry),
        tool("charge", effect="once", timeout="60s"),
        tool("charge_or_fail", effect="once", on_unknown="fail"),
        tool(ASKS_AGAIN, effect="once", on_unknown="ask"),
        tool(NEEDS_CONSENT, effect="once", approval="always"),
        FunctionTool(name=CLIENT_TOOL, runs="client", parameters=_SCHEMA),
    ]


class SimulatedModel:
    """A model that draws what it says, and refuses a thread that a strict endpoint would refuse.

    Shapes: `is_fenced_out` tells whether who asks has lost the run of a thread: what it asks for comes to nothing.
    """

    def __init__(self, chance: Chance, trace: Trace, wits: Wits, problems: list[str]) -> None:
        """Start with the first token."""
        self._chance = chance
        self._trace = trace
        self._wits = wits
        self._problems = problems
        self.is_fenced_out: Callable[[str], bool] | None = None
        self._tokens = count(1)

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Give a reply, in pieces.

        Errors: ProviderError, as the seed draws.
        """
        chance, wits = self._chance, self._wits
        found = unpaired(request.messages)
        if found and self.is_fenced_out is not None and not self.is_fenced_out(request.messages[0].thread_id):
            self._problems += found
        self._trace.note("model", len(request.messages))
        await _take(chance, wits, wits.model_s)
        if chance.happens(wits.model_error):
            raise chance.pick(
                [
                    ProviderError("too many requests", kind="rate_limit", status=429, retryable=True),
                    ProviderError("the endpoint hung up", kind="connection", retryable=True),
                    ProviderError("the endpoint is not well", kind="http_503", status=503, retryable=True),
                    ProviderError("the endpoint says no", kind="model_error", status=400),
                ]
            )
        reply = self._reply(request)
        for piece in (reply.text or "").split():
            emit(TextDelta(f"{piece} "))
            if chance.happens(0.3):
                await asyncio.sleep(chance.around(0.02))
        for index, call in enumerate(reply.tool_calls):
            emit(ToolCallDelta(index, call.id, call.name, call.arguments))
        return reply

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def _reply(self, request: ModelRequest) -> ModelReply:
        chance, wits = self._chance, self._wits
        number = next(self._tokens)
        usage = Usage(prompt_tokens=10 * len(request.messages), completion_tokens=5)
        if chance.happens(wits.odd_reply):
            text = f"odd {number} "
            return chance.pick(
                [
                    ModelReply(text, usage=usage, finish_reason="length"),
                    ModelReply(text, usage=usage, finish_reason="content_filter"),
                    ModelReply(
                        None,
                        (ToolCall(id=f"c{number}", name="nothing", arguments="{}"),),
                        usage,
                        "tool_calls",
                    ),
                    ModelReply(
                        None, (ToolCall(id=f"c{number}", name="look", arguments="{]"),), usage, "tool_calls"
                    ),
                ]
            )
        if not request.tools or request.tool_choice == "none" or not chance.happens(wits.calls):
            return ModelReply(f"answer {number} ", usage=usage)
        calls = tuple(self._call(request) for _ in range(1 + chance.below(wits.most_calls)))
        return ModelReply("let me see " if chance.happens(0.3) else None, calls, usage, "tool_calls")

    def _call(self, request: ModelRequest) -> ToolCall:
        number = next(self._tokens)
        arguments = json.dumps({"token": f"t{number}"})
        return ToolCall(id=f"c{number}", name=self._chance.pick(request.tools).name, arguments=arguments)


async def _take(chance: Chance, wits: Wits, mean_s: float) -> None:
    """Let the time of an answer pass: around the mean, now and then much more."""
    await asyncio.sleep(chance.around(wits.slow_s if chance.happens(wits.slow) else mean_s))


def unpaired(window: Sequence[Message]) -> list[str]:
    """Say why a strict endpoint would refuse these rows: each reply's calls have their results right after it."""
    found: list[str] = []
    rows = list(window)
    while rows:
        row = rows.pop(0)
        if row.role == "tool":
            found.append(f"a model was sent the result in row {row.seq} of {row.thread_id} without its call")
        for index in range(len(row.tool_calls)):
            result = rows.pop(0) if rows and rows[0].role == "tool" else None
            if result is None or (result.reply_seq, result.call_index) != (row.seq, index):
                found.append(
                    f"a model was sent row {row.seq} of {row.thread_id} without the result of call {index}"
                )
    return found
