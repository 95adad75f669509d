"""What every provider must do, as tests: subclass `ProviderContract` and say how yours is reached.

    class TestMine(ProviderContract):
        @asynccontextmanager
        async def serving(self, replies):
            async with my_server(replies) as url:
                yield MyProvider(Endpoint(base_url=url))

The tests are plain functions that run their own event loop, so they need pytest and no plugin of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from treadle.errors import ProviderError
from treadle.objects.message import Message, ToolCall
from treadle.objects.record import JsonSchema
from treadle.providers.base import (
    Delta,
    ModelReply,
    ModelRequest,
    Provider,
    TextDelta,
    ToolCallDelta,
    ToolDefinition,
)

_T = TypeVar("_T")

WEATHER = ToolDefinition(
    "get_weather",
    "Get the current weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
ANSWER_SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"reply": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["reply", "count"],
    "additionalProperties": False,
}

_TEXT = ModelReply(text="Grüße — the answer is 42. ✓", finish_reason="stop")
_ONE_CALL = ModelReply(
    tool_calls=(ToolCall(id="call_1", name="get_weather", arguments='{"city": "Paris"}'),),
    finish_reason="tool_calls",
)
_TWO_CALLS = ModelReply(
    tool_calls=(
        ToolCall(id="call_1", name="get_weather", arguments='{"city": "Paris"}'),
        ToolCall(id="call_2", name="get_weather", arguments='{"city": "Oslo"}'),
    ),
    finish_reason="tool_calls",
)
_JSON = ModelReply(text='{"reply": "yes", "count": 2}', finish_reason="stop")


def user(text: str, *, seq: int = 1) -> Message:
    """Give a user's row of a thread."""
    return Message(id=f"msg_{seq}", thread_id="thread_1", seq=seq, role="user", text=text, created_ms=0)


def request(
    text: str,
    *,
    tools: Sequence[ToolDefinition] = (),
    tool_choice: str = "auto",
    output_schema: JsonSchema | None = None,
) -> ModelRequest:
    """Give a request with one user message."""
    return ModelRequest(
        model="contract-model",
        instructions="Answer briefly.",
        messages=(user(text),),
        tools=tools,
        tool_choice=tool_choice,
        output_schema=output_schema,
    )


def answered(asked: ModelRequest, reply: ModelReply, results: Sequence[str]) -> ModelRequest:
    """Give the request that follows a reply with tool calls: the calls, and one result for each."""
    seq = len(asked.messages) + 1
    rows = [
        Message(
            id=f"msg_{seq}",
            thread_id="thread_1",
            seq=seq,
            role="assistant",
            text=reply.text,
            tool_calls=reply.tool_calls,
            created_ms=0,
        )
    ]
    rows += [
        Message(
            id=f"msg_{seq + 1 + index}",
            thread_id="thread_1",
            seq=seq + 1 + index,
            role="tool",
            text=text,
            reply_seq=seq,
            call_index=index,
            created_ms=0,
        )
        for index, text in enumerate(results)
    ]
    return ModelRequest(
        model=asked.model,
        instructions=asked.instructions,
        messages=(*asked.messages, *rows),
        tools=asked.tools,
        tool_choice=asked.tool_choice,
        output_schema=asked.output_schema,
    )


def joined_text(deltas: Sequence[Delta]) -> str:
    """Give the text that the deltas carried."""
    return "".join(d.text for d in deltas if isinstance(d, TextDelta))


def joined_calls(deltas: Sequence[Delta]) -> list[ToolCall]:
    """Put the tool calls of the deltas together, in the order of their index."""
    ids: dict[int, str] = {}
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            assert delta.index in ids or delta.id, "the first piece of a call carries its id"
            assert delta.index in names or delta.name, "the first piece of a call carries its name"
            ids.setdefault(delta.index, delta.id or "")
            names.setdefault(delta.index, delta.name or "")
            arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    return [ToolCall(id=ids[i], name=names[i], arguments=arguments[i]) for i in sorted(ids)]


def check_reply(reply: ModelReply, deltas: Sequence[Delta], asked: ModelRequest) -> None:
    """Assert what holds for every reply: it equals its deltas and keeps to the request."""
    assert joined_text(deltas) == (reply.text or "")
    assert joined_calls(deltas) == list(reply.tool_calls)
    assert (reply.finish_reason == "tool_calls") == bool(reply.tool_calls)
    assert reply.text or reply.tool_calls, "a reply says something or asks for a tool"
    ids = [c.id for c in reply.tool_calls]
    assert all(ids), "every call has an id"
    known = [c.id for m in asked.messages for c in m.tool_calls]
    assert len({*ids, *known}) == len(ids) + len(known), "call ids are unique in the window"
    offered = {t.name for t in asked.tools}
    assert {c.name for c in reply.tool_calls} <= offered
    if reply.usage is not None:
        assert reply.usage.prompt_tokens > 0
        assert reply.usage.completion_tokens > 0


class ProviderContract:
    """The tests; `serving` must be given.

    Attributes: `decides` is true for a provider that makes its replies up itself and so need not give those
    that `serving` was told.
    """

    decides = False

    def serving(self, replies: Sequence[ModelReply]) -> AbstractAsyncContextManager[Provider]:
        """Give a provider that answers its next calls with these replies, and let it go at the end."""
        raise NotImplementedError

    def failing(self) -> AbstractAsyncContextManager[Provider] | None:
        """Give a provider whose next call fails, or None where it cannot fail."""
        return None

    def test_a_text_equals_its_deltas(self) -> None:
        """The deltas of a text make up the reply's text, character by character."""
        reply = self._one(_TEXT, request("Hello there"))
        assert reply.text
        assert not reply.tool_calls
        if not self.decides:
            assert reply.text == _TEXT.text

    def test_a_tool_is_asked_for_with_arguments_that_are_json(self) -> None:
        """A call names an offered tool, and its arguments are an object."""
        reply = self._one(_ONE_CALL, request("What is the weather in Paris?", tools=[WEATHER]))
        assert [c.name for c in reply.tool_calls] == ["get_weather"]
        assert json.loads(reply.tool_calls[0].arguments) == {"city": "Paris"}

    def test_several_calls_come_in_one_reply_in_order(self) -> None:
        """Parallel calls keep their order and have an id each."""
        reply = self._one(_TWO_CALLS, request("What is the weather in Paris and Oslo?", tools=[WEATHER]))
        assert [json.loads(c.arguments)["city"] for c in reply.tool_calls] == ["Paris", "Oslo"]

    def test_a_named_tool_is_called(self) -> None:
        """`tool_choice` with a tool's name asks for that tool."""
        reply = self._one(_ONE_CALL, request("How about Paris?", tools=[WEATHER], tool_choice="get_weather"))
        assert [c.name for c in reply.tool_calls] == ["get_weather"]

    def test_no_tool_is_called_where_none_may_be(self) -> None:
        """`tool_choice: none` gives words."""
        reply = self._one(_TEXT, request("The weather in Paris?", tools=[WEATHER], tool_choice="none"))
        assert not reply.tool_calls

    def test_results_are_taken_up_in_the_next_call(self) -> None:
        """After a result the provider goes on; it does not ask for the same again."""

        async def talk() -> None:
            asked = request("What is the weather in Paris?", tools=[WEATHER])
            final = ModelReply(text="Paris: 11 °C.", finish_reason="stop")
            async with self.serving([_ONE_CALL, final]) as provider:
                first, _ = await _call(provider, asked)
                following = answered(asked, first, ['{"celsius": 11}'])
                second, deltas = await _call(provider, following)
                check_reply(second, deltas, following)
                assert second.text
                assert "11" in second.text

        _run(talk)

    def test_an_output_schema_gives_json_that_fits(self) -> None:
        """With a schema the text is one JSON document of that shape."""
        reply = self._one(_JSON, request("Is it? Count 2.", output_schema=ANSWER_SCHEMA))
        document = json.loads(reply.text or "")
        assert isinstance(document["reply"], str)
        assert isinstance(document["count"], int)
        assert document.keys() == {"reply", "count"}

    def test_many_calls_at_once_keep_their_deltas_apart(self) -> None:
        """A provider serves concurrent runs; what one is told never reaches another."""

        async def talk() -> None:
            async with self.serving([_TEXT] * 16) as provider:
                asked = request("Hello there")
                for reply, deltas in await asyncio.gather(*(_call(provider, asked) for _ in range(16))):
                    check_reply(reply, deltas, asked)

        _run(talk)

    def test_a_failure_is_a_provider_error_that_says_why(self) -> None:
        """Whatever goes wrong below reaches the caller as ProviderError, with words."""
        failing = self.failing()
        if failing is None:
            return

        async def talk() -> ProviderError | None:
            async with failing as provider:
                try:
                    await _call(provider, request("Hello there"))
                except ProviderError as failure:
                    return failure
            return None

        error = _run(talk)
        assert error is not None, "the call must fail"
        assert error.message
        assert error.kind
        assert "Traceback" not in error.message

    def test_closing_twice_is_fine(self) -> None:
        """`close` may be called again."""

        async def talk() -> None:
            async with self.serving([]) as provider:
                await provider.close()
                await provider.close()

        _run(talk)

    def _one(self, reply: ModelReply, asked: ModelRequest) -> ModelReply:
        async def talk() -> ModelReply:
            async with self.serving([reply]) as provider:
                given, deltas = await _call(provider, asked)
                check_reply(given, deltas, asked)
                return given

        return _run(talk)


async def _call(provider: Provider, asked: ModelRequest) -> tuple[ModelReply, list[Delta]]:
    deltas: list[Delta] = []
    return await provider.call(asked, deltas.append), deltas


def _run(talk: Callable[[], Coroutine[None, None, _T]]) -> _T:
    return asyncio.run(asyncio.wait_for(talk(), timeout=30))
