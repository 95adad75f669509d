"""The scripted model: what each form of an entry gives, and how a script that is wrong says so."""

import asyncio
import dataclasses
import json
import time

import pytest

from treadle.errors import ContextLengthError, ProviderError
from treadle.objects.agent import ModelOptions
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import Usage
from treadle.providers.base import Delta, Endpoint, ModelReply, ModelRequest, TextDelta, ToolCallDelta
from treadle.providers.scripted import ScriptedProvider


def row(role, seq, text=None, **more):
    return Message(id=f"msg_{seq}", thread_id="thread_1", seq=seq, role=role, text=text, created_ms=0, **more)


def ask(*rows, replies=None):
    options = ModelOptions(extra={} if replies is None else {"replies": replies})
    rows = rows or (row("user", 1, "Hello"),)
    return ModelRequest(model="scripted", instructions="Be brief.", messages=rows, options=options)


def reply_to(entry, request=None):
    return asyncio.run(ScriptedProvider([entry]).call(request or ask(), lambda delta: None))


def test_a_text_is_the_reply():
    reply = reply_to("Good day.")

    assert reply.text == "Good day."
    assert reply.finish_reason == "stop"
    assert reply.model == "scripted"


def test_a_text_is_streamed_in_pieces_that_join_to_it():
    deltas: list[Delta] = []

    asyncio.run(ScriptedProvider(["  One two,\nthree. "]).call(ask(), deltas.append))

    assert len(deltas) > 1
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == "  One two,\nthree. "


def test_usage_is_estimated_where_the_entry_has_none():
    assert reply_to("12345678").usage == Usage(prompt_tokens=4, completion_tokens=2, estimated=True)


def test_usage_of_the_entry_is_given_as_counted():
    reply = reply_to({"text": "Yes.", "usage": {"prompt_tokens": 90, "completion_tokens": 5}})

    assert reply.usage == Usage(prompt_tokens=90, completion_tokens=5)


def test_a_usage_of_null_is_a_reply_without_usage():
    assert reply_to({"text": "Yes.", "usage": None}).usage is None


def test_json_is_written_as_text():
    assert json.loads(reply_to({"json": {"city": "Zürich", "n": [1, None]}}).text) == {
        "city": "Zürich",
        "n": [1, None],
    }


def test_calls_are_asked_for_with_arguments_as_json_and_ids_that_count():
    reply = reply_to({"calls": [{"name": "a", "arguments": {"x": 1}}, {"name": "b"}]})

    assert reply.tool_calls == (
        ToolCall(id="call_1", name="a", arguments='{"x": 1}'),
        ToolCall(id="call_2", name="b", arguments="{}"),
    )
    assert reply.finish_reason == "tool_calls"


def test_ids_go_on_from_the_calls_of_the_window():
    request = ask(
        row("user", 1, "Go"),
        row("assistant", 2, tool_calls=(ToolCall(id="call_1", name="a", arguments="{}"),)),
        row("tool", 3, "1", reply_seq=2, call_index=0),
    )

    assert reply_to({"calls": [{"name": "a"}]}, request).tool_calls[0].id == "call_2"


def test_arguments_may_be_text_that_is_no_json():
    deltas: list[Delta] = []
    provider = ScriptedProvider(
        [{"calls": [{"name": "a", "arguments": '{"x": ', "id": "call_x"}], "text": "Wait."}]
    )

    reply = asyncio.run(provider.call(ask(), deltas.append))

    assert reply.tool_calls[0].arguments == '{"x": '
    assert reply.text == "Wait."
    pieces = [d for d in deltas if isinstance(d, ToolCallDelta)]
    assert pieces[0].id == "call_x"
    assert "".join(d.arguments for d in pieces) == '{"x": '


def test_a_finish_reason_can_be_said():
    assert reply_to({"text": "Half a", "finish_reason": "length"}).finish_reason == "length"


@pytest.mark.parametrize(
    ("kind", "is_retryable"),
    [
        ("rate_limit", True),
        ("timeout", True),
        ("http_503", True),
        ("http_400", False),
        ("model_error", False),
    ],
)
def test_an_error_entry_raises_with_its_kind(kind, is_retryable):
    with pytest.raises(ProviderError, match="too much") as caught:
        reply_to({"error": {"kind": kind, "message": "too much", "retry_after_s": 3}})

    assert caught.value.kind == kind
    assert caught.value.retryable is is_retryable
    assert caught.value.retry_after_s == 3


def test_a_context_length_error_is_of_its_own_class():
    with pytest.raises(ContextLengthError):
        reply_to({"error": {"kind": "context_length", "message": "too long"}})


def test_an_error_object_is_raised_as_it_is():
    error = ProviderError("down", kind="connection")

    with pytest.raises(ProviderError) as caught:
        reply_to(error)

    assert caught.value is error


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        (7, r"replies\[0\]"),
        ({}, r"replies\[0\]"),
        ({"txt": "a"}, r"replies\[0\].txt"),
        ({"text": 1}, r"replies\[0\].text"),
        ({"text": "a", "json": 1}, r"replies\[0\]"),
        ({"calls": {"name": "a"}}, r"replies\[0\].calls"),
        ({"calls": [{"nam": "a"}]}, r"replies\[0\].calls\[0\].nam"),
        ({"calls": [{"arguments": {}}]}, r"replies\[0\].calls\[0\].name"),
        ({"text": "a", "usage": {"prompt_tokens": "x"}}, r"replies\[0\].usage.prompt_tokens"),
        ({"text": "a", "finish_reason": "done"}, r"replies\[0\].finish_reason"),
        ({"error": "down"}, r"replies\[0\].error"),
        ({"error": {"code": 1}}, r"replies\[0\].error.code"),
    ],
)
def test_a_malformed_entry_is_named_with_what_is_expected(entry, place):
    with pytest.raises(ProviderError, match=place) as caught:
        reply_to(entry)

    assert "must be" in caught.value.message
    assert "{calls: " in caught.value.hint


def test_a_used_up_script_says_how_many_replies_it_had():
    provider = ScriptedProvider(["one", "two"])

    async def talk():
        for _ in range(3):
            await provider.call(ask(), lambda delta: None)

    with pytest.raises(ProviderError, match="2 replies and call 3"):
        asyncio.run(talk())
    assert provider.remaining == 0


def test_replies_of_a_document_are_indexed_by_the_assistant_rows():
    provider = ScriptedProvider(Endpoint())
    replies = ["first", {"text": "second"}]
    later = ask(row("user", 1, "a"), row("assistant", 2, "first"), row("user", 3, "b"), replies=replies)

    async def talk():
        return [(await provider.call(r, lambda d: None)).text for r in (ask(replies=replies), later, later)]

    assert asyncio.run(talk()) == ["first", "second", "second"]


def test_a_document_without_replies_is_told_where_to_put_them():
    with pytest.raises(ProviderError) as caught:
        asyncio.run(ScriptedProvider().call(ask(), lambda delta: None))

    assert "options.extra.replies" in caught.value.hint


def test_a_document_says_how_long_its_replies_take():
    options = ModelOptions(extra={"replies": ["Late."], "delay": "40ms"})
    request = dataclasses.replace(ask(), options=options)

    began = time.monotonic()
    reply = asyncio.run(ScriptedProvider().call(request, lambda delta: None))

    assert reply.text == "Late."
    assert time.monotonic() - began >= 0.04


@pytest.mark.parametrize("delay", [50, "50", "soon", True])
def test_a_delay_without_a_unit_is_refused(delay):
    request = dataclasses.replace(ask(), options=ModelOptions(extra={"replies": ["Late."], "delay": delay}))

    with pytest.raises(ProviderError, match="delay of the script") as caught:
        asyncio.run(ScriptedProvider().call(request, lambda delta: None))

    assert "50ms" in caught.value.hint


def test_a_document_whose_replies_are_used_up_says_so():
    with pytest.raises(ProviderError, match="1 reply and call 2"):
        asyncio.run(ScriptedProvider().call(ask(row("assistant", 1, "a"), replies=["a"]), lambda delta: None))


def test_a_function_decides_on_the_reply():
    provider = ScriptedProvider(lambda request: request.messages[-1].plain.upper())

    assert asyncio.run(provider.call(ask(), lambda delta: None)).text == "HELLO"


def test_requests_are_kept_when_asked_for():
    provider = ScriptedProvider(["a", "b"], record=True)
    silent = ScriptedProvider(["a"])

    async def talk():
        await provider.call(ask(), lambda delta: None)
        await provider.call(ask(row("user", 1, "again")), lambda delta: None)
        await silent.call(ask(), lambda delta: None)

    asyncio.run(talk())
    assert [r.messages[0].text for r in provider.requests] == ["Hello", "again"]
    assert silent.requests == []


def test_concurrent_calls_share_the_list_and_none_gets_a_reply_twice():
    provider = ScriptedProvider([str(n) for n in range(50)], delay_s=0.001)

    async def talk():
        return await asyncio.gather(*(provider.call(ask(), lambda d: None) for _ in range(50)))

    assert [r.text for r in asyncio.run(talk())] == [str(n) for n in range(50)]


def test_the_delay_can_be_cancelled():
    async def talk():
        async with asyncio.timeout(0.01):
            await ScriptedProvider(["late"], delay_s=60).call(ask(), lambda delta: None)

    with pytest.raises(TimeoutError):
        asyncio.run(talk())


def test_a_ready_reply_is_given_as_the_very_object_and_quickly():
    reply = ModelReply(text="ready")
    provider = ScriptedProvider([reply] * 2000)
    request = ask()

    async def talk():
        started = time.perf_counter()
        for _ in range(2000):
            assert await provider.call(request, lambda delta: None) is reply
        return (time.perf_counter() - started) / 2000

    # Ten times what load tests count on, so that a busy machine does not fail it.
    assert asyncio.run(talk()) < 100e-6
