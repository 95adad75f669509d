"""The OpenAI provider against a real server on loopback: what it sends, what it understands, what it survives."""

import asyncio
import base64
import gzip
import json
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from treadle.errors import ConfigurationError, ContextLengthError, ProviderError
from treadle.objects.agent import ModelOptions
from treadle.objects.message import ImageFile, ImageFilePart, Message, TextPart, ToolCall
from treadle.objects.run import Usage
from treadle.providers.azure import AzureOpenAIProvider
from treadle.providers.base import Delta, Endpoint, ModelReply, ModelRequest, TextDelta, ToolDefinition
from treadle.providers.openai import OpenAIProvider
from treadle.testing.chat_server import Call, ChatServer, Hang, Raw, Reply, chunk, error_reply, sse
from treadle.testing.fakes import FrozenClock

KEY = "sk-canary-0123456789abcdef"
HELLO = Reply("Hello.")
TOOL = ToolDefinition(
    "weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


class Waits(FrozenClock):
    """A clock that remembers how long it was asked to wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    async def sleep(self, seconds):
        self.waits.append(seconds)
        await super().sleep(seconds)


def row(seq, role, text=None, **fields):
    return Message(
        id=f"msg_{seq}", thread_id="thread_1", seq=seq, role=role, text=text, created_ms=0, **fields
    )


def request_of(*, timeout_s=5.0, messages=None, **fields):
    return ModelRequest(
        "gpt-x", "Be brief.", messages or (row(1, "user", "Hi."),), timeout_s=timeout_s, **fields
    )


class Asked:
    """What came of one call: the reply or the error, the deltas, and the waits between attempts."""

    def __init__(self):
        self.deltas: list[Delta] = []
        self.clock = Waits()
        self.reply: ModelReply | None = None
        self.error: ProviderError | None = None

    @property
    def text(self):
        return "".join(d.text for d in self.deltas if isinstance(d, TextDelta))


async def ask(server, request=None, *, provider=OpenAIProvider, jitter=1.0, **endpoint):
    asked = Asked()
    endpoint = {"base_url": server.base_url, "api_key": KEY} | endpoint
    model = provider(Endpoint(**endpoint), clock=asked.clock, jitter=lambda: jitter)
    try:
        asked.reply = await model.call(request or request_of(), asked.deltas.append)
    except ProviderError as error:
        asked.error = error
    finally:
        await model.close()
    assert asked.error is None or KEY not in "".join(traceback.format_exception(asked.error))
    return asked


async def asked_of(*turns, request=None, **endpoint):
    async with ChatServer(turns) as server:
        asked = await ask(server, request, **endpoint)
        return asked, server


# What is sent and understood


@pytest.mark.parametrize("always_json", [False, True])
async def test_a_reply_streams_and_a_plain_json_reply_is_read_as_well(always_json):
    asked, server = await asked_of(Reply("Hello, wörld €😀.", piece=3, always_json=always_json))
    assert asked.reply == ModelReply(
        text="Hello, wörld €😀.", usage=Usage(prompt_tokens=11, completion_tokens=7), model="gpt-x"
    )
    assert asked.text == "Hello, wörld €😀."
    assert (len(asked.deltas) == 1) == always_json
    [sent] = server.requests
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body == {
        "model": "gpt-x",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_deltas_arrive_while_the_server_still_writes():
    arrived = asyncio.Event()
    pieces = (sse(chunk({"content": "first"}), done=False), b"")
    async with ChatServer([Raw(pieces, end="hang")]) as server:
        provider = OpenAIProvider(Endpoint(server.base_url))
        task = asyncio.create_task(provider.call(request_of(), lambda _: arrived.set()))
        await asyncio.wait_for(arrived.wait(), 5)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await provider.close()


@pytest.mark.parametrize("always_json", [False, True])
async def test_parallel_tool_calls_and_their_results_make_the_round_trip(always_json):
    turn = Reply(
        "Let me see.",
        [Call("weather", '{"city": "Oslo"}'), Call("weather", "{oops")],
        always_json=always_json,
    )
    async with ChatServer([turn, HELLO]) as server:
        first = await ask(server, request_of(tools=(TOOL,)))
        assert first.reply is not None
        assert first.reply.finish_reason == "tool_calls"
        assert first.reply.text == "Let me see."
        assert first.reply.tool_calls == (
            ToolCall(id="call_0", name="weather", arguments='{"city": "Oslo"}'),
            ToolCall(id="call_1", name="weather", arguments="{oops"),
        )
        messages = (
            row(1, "user", "Hi."),
            row(2, "assistant", first.reply.text, tool_calls=first.reply.tool_calls),
            row(3, "tool", "rain", reply_seq=2, call_index=0),
            row(4, "tool", "no", reply_seq=2, call_index=1),
        )
        await ask(server, request_of(messages=messages, tools=(TOOL,)))
    roles = [(m["role"], m.get("tool_call_id")) for m in server.requests[1].messages]
    assert roles == [
        ("system", None),
        ("user", None),
        ("assistant", None),
        ("tool", "call_0"),
        ("tool", "call_1"),
    ]


async def test_an_image_arrives_as_a_data_url():
    picture = b"\x89PNG\r\n"
    parts = (TextPart(text="What?"), ImageFilePart(image_file=ImageFile(file_id="file_1")))
    request = request_of(messages=(row(1, "user", parts=parts),), files={"file_1": ("image/png", picture)})
    _, server = await asked_of(HELLO, request=request)
    url = server.requests[0].messages[1]["content"][1]["image_url"]["url"]
    assert url == "data:image/png;base64," + base64.b64encode(picture).decode()


async def test_extra_options_and_headers_reach_the_endpoint():
    request = request_of(options=ModelOptions(max_output_tokens=9, extra={"top_k": 3}))
    _, server = await asked_of(HELLO, request=request, headers={"X-Team": "blue"}, organization="org-1")
    [sent] = server.requests
    assert (sent.body["max_tokens"], sent.body["top_k"]) == (9, 3)
    assert (sent.headers["x-team"], sent.headers["openai-organization"]) == ("blue", "org-1")


async def test_an_endpoint_without_key_is_sent_none_even_if_the_environment_has_one(monkeypatch):
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_ADMIN_KEY",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "AZURE_OPENAI_API_KEY",
    ):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "from-the-environment")
    monkeypatch.setenv(
        "OPENAI_CUSTOM_HEADERS", "Authorization: from-the-environment\nX-Mine: from-the-environment"
    )
    for provider in (OpenAIProvider, AzureOpenAIProvider):
        asked, server = await asked_of(HELLO, api_key=None, provider=provider)
        assert asked.reply is not None
        assert "from-the-environment" not in str(server.requests[0].headers)
        assert {"authorization", "api-key"} & set(server.requests[0].headers) == set()
        _, server = await asked_of(HELLO, provider=provider)
        assert "from-the-environment" not in str(server.requests[0].headers)
        assert KEY in str(server.requests[0].headers)


@pytest.mark.parametrize("provider", [OpenAIProvider, AzureOpenAIProvider])
async def test_a_connection_may_give_the_authorization_header_itself(provider):
    _, server = await asked_of(
        HELLO, api_key=None, headers={"Authorization": "Bearer mine-alone"}, provider=provider
    )
    assert server.requests[0].headers["authorization"] == "Bearer mine-alone"
    assert "api-key" not in server.requests[0].headers


async def test_proxies_of_the_environment_are_ignored(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    asked, _ = await asked_of(HELLO)
    assert asked.text == "Hello."


async def test_one_connection_serves_one_call_after_another():
    async with ChatServer([HELLO] * 3) as server:
        provider = OpenAIProvider(Endpoint(server.base_url))
        for _ in range(3):
            await provider.call(request_of(), lambda _: None)
        assert server.connections == 1
        await provider.close()


async def test_two_hundred_calls_at_once_get_each_its_own_reply():
    async with ChatServer(answer=lambda request: Reply(request.messages[-1]["content"])) as server:
        provider = OpenAIProvider(Endpoint(server.base_url))
        requests = [request_of(messages=(row(1, "user", f"number {n}"),), timeout_s=20) for n in range(200)]
        replies = await asyncio.gather(*(provider.call(r, lambda _: None) for r in requests))
        await provider.close()
    assert [r.text for r in replies] == [f"number {n}" for n in range(200)]


async def test_two_hundred_tool_calls_in_one_reply_are_all_there():
    asked, _ = await asked_of(Reply(None, [Call("f", json.dumps({"n": n})) for n in range(200)]))
    assert asked.reply is not None
    assert [json.loads(c.arguments)["n"] for c in asked.reply.tool_calls] == list(range(200))
    assert len({c.id for c in asked.reply.tool_calls}) == 200


async def test_repeated_and_empty_call_ids_become_unique_in_the_reply_and_in_its_deltas():
    asked, _ = await asked_of(
        Reply(None, [Call("f", "{}", id="x"), Call("g", "{}", id="x"), Call("h", "{}", id="")])
    )
    assert asked.reply is not None
    ids = [c.id for c in asked.reply.tool_calls]
    assert len(set(ids)) == 3
    assert [d.id for d in asked.deltas if not isinstance(d, TextDelta) and d.id] == ids


async def test_a_field_that_the_endpoint_refuses_is_said_the_other_way_and_remembered():
    refusal = error_reply(
        400,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    )
    async with ChatServer([refusal, HELLO, HELLO]) as server:
        provider = OpenAIProvider(Endpoint(server.base_url, max_retries=0))
        request = request_of(options=ModelOptions(max_output_tokens=9))
        for _ in range(2):
            assert (await provider.call(request, lambda _: None)).text == "Hello."
        await provider.close()
    sent = [{"max_tokens", "max_completion_tokens"} & set(r.body) for r in server.requests]
    assert sent == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]


async def test_an_endpoint_that_refuses_both_spellings_is_asked_twice():
    refusal = error_reply(400, "unsupported: max_tokens and max_completion_tokens")
    asked, server = await asked_of(
        refusal, refusal, HELLO, request=request_of(options=ModelOptions(max_output_tokens=9))
    )
    assert asked.error is not None
    assert len(server.requests) == 2


# Azure


async def test_azure_is_asked_at_the_deployment_with_its_version_and_its_own_header():
    async with ChatServer([HELLO]) as server:
        request = request_of(options=ModelOptions(max_output_tokens=9))
        asked = await ask(
            server,
            request,
            provider=AzureOpenAIProvider,
            base_url=server.url,
            deployment="dep",
            api_version="2025-01-01",
        )
    [sent] = server.requests
    assert asked.text == "Hello."
    assert (sent.path, sent.query) == ("/openai/deployments/dep/chat/completions", "api-version=2025-01-01")
    assert (sent.headers["api-key"], sent.deployment) == (KEY, "dep")
    assert "authorization" not in sent.headers
    assert sent.body["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("path", "deployment", "sent_path", "model"),
    [
        ("", None, "/openai/deployments/gpt-x/chat/completions", "gpt-x"),
        ("/openai/", None, "/openai/deployments/gpt-x/chat/completions", "gpt-x"),
        (
            "/openai/deployments/d%201/chat/completions?api-version=2024-06-01",
            None,
            "/openai/deployments/d%201/chat/completions",
            "gpt-x",
        ),
        ("/openai/v1/", None, "/openai/v1/chat/completions", "gpt-x"),
        ("/openai/v1", "dep", "/openai/v1/chat/completions", "dep"),
    ],
)
async def test_every_address_that_the_portal_shows_is_understood(path, deployment, sent_path, model):
    async with ChatServer([HELLO]) as server:
        asked = await ask(
            server, provider=AzureOpenAIProvider, base_url=server.url + path, deployment=deployment
        )
    assert asked.text == "Hello."
    assert (server.requests[0].path, server.requests[0].body["model"]) == (sent_path, model)
    if "?" in path:
        assert server.requests[0].query == "api-version=2024-06-01"


async def test_a_model_name_cannot_leave_the_deployments_of_a_resource():
    async with ChatServer([HELLO]) as server:
        request = ModelRequest("../../secrets?x=", "", (row(1, "user", "Hi."),), timeout_s=5)
        asked = await ask(server, request, provider=AzureOpenAIProvider, base_url=server.url)
    paths = [r.path for r in server.requests]
    assert asked.error is not None or all(p.startswith("/openai/deployments/..%2F") for p in paths)


def test_azure_without_an_address_is_refused():
    with pytest.raises(ConfigurationError, match="base_url"):
        AzureOpenAIProvider(Endpoint(api_key=KEY))


async def test_an_unknown_deployment_names_itself():
    fault = Raw(
        json.dumps(
            {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}
        ),
        status=404,
        content_type="application/json",
    )
    async with ChatServer([fault]) as server:
        asked = await ask(server, provider=AzureOpenAIProvider, base_url=server.url)
    assert asked.error is not None
    assert "gpt-x" in (asked.error.hint or "")


# Errors by status


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_a_passing_failure_is_repeated(status):
    asked, server = await asked_of(error_reply(status, "wait"), HELLO)
    assert asked.text == "Hello."
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate_limit"), (500, "http_500"), (503, "http_503"), (408, "timeout")]
)
async def test_what_does_not_pass_becomes_an_error_with_the_endpoints_words(status, kind):
    asked, server = await asked_of(*[error_reply(status, "the hamster sleeps")] * 9, max_retries=3)
    assert asked.error is not None
    assert (asked.error.kind, asked.error.status, asked.error.retryable) == (kind, status, True)
    assert "the hamster sleeps" in str(asked.error)
    assert len(server.requests) == 4
    assert asked.clock.waits == [0.5, 1.0, 2.0]


async def test_the_backoff_is_the_jittered_part_of_its_bound():
    asked, _ = await asked_of(
        *[error_reply(500, "x")] * 9, request=request_of(timeout_s=60), max_retries=6, jitter=0.5
    )
    assert asked.clock.waits == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("turn", "kind", "hint"),
    [
        (error_reply(400, "bad temperature"), "http_400", None),
        (error_reply(401, "Incorrect API key", code="invalid_api_key"), "credentials", "api_key"),
        (error_reply(403, "not for you"), "credentials", "api_key"),
        (error_reply(404, "The model 'gpt-x' does not exist", code="model_not_found"), "http_404", "gpt-x"),
        (error_reply(404, "Not Found"), "http_404", "base_url"),
        (error_reply(429, "You exceeded your quota", code="insufficient_quota"), "rate_limit", "quota"),
        (error_reply(400, "filtered", code="content_filter"), "content_filter", None),
        (Raw(status=302, headers={"Location": "/elsewhere"}, framing="length"), "http_302", "redirect"),
    ],
)
async def test_what_no_repeat_can_help_is_not_repeated(turn, kind, hint):
    asked, server = await asked_of(turn, HELLO)
    assert asked.error is not None
    assert (asked.error.kind, asked.error.retryable) == (kind, False)
    assert len(server.requests) == 1
    assert (hint or "") in (asked.error.hint or "")
    assert (asked.error.hint is None) == (hint is None)


async def test_a_prompt_that_does_not_fit_has_its_own_error():
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
    )
    asked, server = await asked_of(error_reply(400, message, code="context_length_exceeded"))
    assert isinstance(asked.error, ContextLengthError)
    assert "9000 tokens" in str(asked.error)
    assert len(server.requests) == 1


async def test_an_address_without_v1_gets_a_hint_that_has_it():
    async with ChatServer([error_reply(404, "404 page not found")]) as server:
        asked = await ask(server, base_url=server.url)
    assert asked.error is not None
    assert f"{server.url}/v1" in (asked.error.hint or "")


# Retry-After


def in_seconds(seconds):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return {"Retry-After": format_datetime(now + timedelta(seconds=seconds), usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After-Ms": "1500", "Retry-After": "9"}, 1.5),
        (in_seconds(4), 4.0),
        (in_seconds(-100), 0.0),
        ({"Retry-After": "soon"}, 0.5),
        ({}, 0.5),
    ],
)
async def test_the_wait_is_what_the_endpoint_asks_for(headers, wait):
    asked, _ = await asked_of(
        error_reply(429, "slow down", headers=headers), HELLO, request=request_of(timeout_s=20)
    )
    assert asked.text == "Hello."
    assert asked.clock.waits == [wait]


@pytest.mark.parametrize(("after", "carried"), [("61", 61.0), ("3600", 3600.0), ("9" * 40, 86_400.0)])
async def test_a_long_wait_is_not_slept_through_but_carried_by_the_error(after, carried):
    asked, server = await asked_of(
        error_reply(429, "slow down", headers={"Retry-After": after}),
        HELLO,
        request=request_of(timeout_s=None),
    )
    assert asked.error is not None
    assert (asked.error.retryable, asked.error.retry_after_s) == (True, carried)
    assert (asked.clock.waits, len(server.requests)) == ([], 1)


async def test_a_wait_that_the_timeout_does_not_allow_is_not_begun():
    asked, server = await asked_of(
        error_reply(503, "later", headers={"Retry-After": "6"}), HELLO, request=request_of(timeout_s=5)
    )
    assert asked.error is not None
    assert (asked.error.kind, asked.clock.waits, len(server.requests)) == ("http_503", [], 1)


async def test_all_attempts_together_keep_to_the_timeout():
    asked, server = await asked_of(
        *[error_reply(503, "later", headers={"Retry-After": "2"})] * 9,
        request=request_of(timeout_s=5),
        max_retries=9,
    )
    assert asked.error is not None
    assert (asked.clock.waits, len(server.requests)) == ([2.0, 2.0], 3)


# Answers that are none

PAGE = "<!DOCTYPE html><html><head><title>Welcome to nginx!</title></head><body><p>It works</p></body></html>"


@pytest.mark.parametrize(
    "content_type", ["text/html; charset=utf-8", "text/event-stream", "application/json", None]
)
async def test_a_web_page_is_an_error_with_its_title_and_a_hint(content_type):
    async with ChatServer([Raw(PAGE, content_type=content_type)]) as server:
        asked = await ask(server, base_url=server.url)
    assert asked.error is not None
    assert "Welcome to nginx!" in str(asked.error)
    assert "<" not in str(asked.error)
    assert f"{server.url}/v1" in (asked.error.hint or "")
    assert not asked.error.retryable


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (Raw(b"", framing="length"), "empty"),
        (Raw(b"", framing="chunked"), "empty"),
        (Raw(b"", framing="close", content_type="application/json"), "empty"),
        (Raw(b"", end="cut"), "ended too early"),
        (Raw('{"choices": [{"mess', content_type="application/json"), "no whole JSON"),
        (
            Raw('{"choices": [{"mess', content_type="application/json", framing="length", end="cut"),
            "ended too early",
        ),
        (Raw(sse(chunk({}, None), done=False)), "no finish_reason"),
        (Raw(b"data: [DONE]\n\n"), "nothing of the reply"),
        (Raw(b": ping\n\n"), "nothing of the reply"),
    ],
)
async def test_an_answer_without_a_reply_is_a_lost_connection_and_is_repeated(turn, words):
    asked, _ = await asked_of(turn, HELLO)
    assert asked.text == "Hello."
    asked, server = await asked_of(turn, turn, turn, HELLO)
    assert asked.error is not None
    assert (asked.error.kind, asked.error.retryable) == ("connection", True)
    assert words in str(asked.error)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "body",
    ["Internal problem", "{}", "[]", '"text"', '{"choices": []}', '{"choices": null}', '{"object": "list"}'],
)
async def test_json_or_text_that_is_no_completion_is_an_error_that_shows_it(body):
    asked, server = await asked_of(Raw(body, content_type="application/json"))
    assert asked.error is not None
    assert asked.error.kind == "model_error"
    assert body in str(asked.error)
    assert len(server.requests) == 1


async def test_an_error_in_place_of_the_reply_has_the_endpoints_words():
    for body in (
        '{"error": {"message": "no GPU"}}',
        '{"error": "no GPU"}',
        '{"object": "error", "message": "no GPU"}',
    ):
        asked, _ = await asked_of(Raw(body, content_type="application/json"))
        assert asked.error is not None
        assert "no GPU" in str(asked.error)


@pytest.mark.parametrize(
    "turn",
    [
        Raw([b": " + b"x" * 2**20] * 65, headers={}),
        Raw([b"{" + b" " * 2**20] * 65, content_type="application/json"),
        Raw(gzip.compress(b" " * (65 * 2**20)), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["a line without end", "a document without end", "a small body that unpacks to a large one"],
)
async def test_a_reply_without_end_is_refused_and_not_repeated(turn):
    asked, server = await asked_of(turn, HELLO)
    assert asked.error is not None
    assert "longer than 67108864 bytes" in str(asked.error)
    assert len(server.requests) == 1


async def test_the_body_of_an_error_is_read_in_part_only():
    asked, _ = await asked_of(Raw([b"oops " * 2**16] * 200, status=400, content_type="text/plain"))
    assert asked.error is not None
    assert "oops oops" in str(asked.error)
    assert len(str(asked.error)) < 1200


# Streams that are cut, late or odd

SHORT: tuple[dict, ...] = (
    {"choices": [{"delta": {"content": "Grüße"}}]},
    {"choices": [{"delta": {"content": " 😀!"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
)
RECORDED = sse(*SHORT)
TEXT = "Grüße 😀!"
LAST_TEXT_BYTE = RECORDED.index(b'"finish_reason": "stop"') + len(b'"finish_reason": "stop"')


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
async def test_a_stream_cut_at_any_byte_is_whole_or_an_error_and_never_hangs(framing):
    async with ChatServer(
        Raw(RECORDED[:at], framing=framing, end="cut") for at in range(len(RECORDED))
    ) as server:
        provider = OpenAIProvider(Endpoint(server.base_url, max_retries=0))
        for at in range(len(RECORDED)):
            deltas: list[Delta] = []
            [outcome] = await asyncio.gather(
                provider.call(request_of(), deltas.append), return_exceptions=True
            )
            if isinstance(outcome, ModelReply):
                assert (outcome.text, outcome.finish_reason) == (TEXT, "stop"), at
                assert at > LAST_TEXT_BYTE, at
            else:
                assert isinstance(outcome, ProviderError), (at, outcome)
                assert (outcome.kind, outcome.retryable) == ("connection", True), (at, outcome)
                assert at < LAST_TEXT_BYTE + 40, at
            assert TEXT.startswith("".join(d.text for d in deltas if isinstance(d, TextDelta)))
        assert len(server.requests) == len(RECORDED)
        await provider.close()


@pytest.mark.parametrize("always_json", [False, True])
async def test_cut_arguments_are_never_a_call(always_json):
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": '}}
    cut = sse(chunk({"tool_calls": [call]}), done=False)
    whole = json.dumps(
        {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    ).encode()
    turn = (
        Raw(whole[:-30], content_type="application/json", end="cut") if always_json else Raw(cut, end="cut")
    )
    asked, _ = await asked_of(turn, max_retries=0)
    assert asked.reply is None
    assert asked.error is not None


async def test_a_stream_that_was_cut_after_its_first_delta_is_not_repeated_behind_the_callers_back():
    for end in ("cut", "whole"):
        asked, server = await asked_of(Raw(sse(chunk({"content": "Half a"}), done=False), end=end), HELLO)
        assert asked.error is not None
        assert (asked.error.kind, asked.error.retryable) == ("connection", True)
        assert "6 characters" in str(asked.error)
        assert (asked.text, len(server.requests)) == ("Half a", 1)


async def test_a_stream_that_was_cut_before_its_first_delta_is_repeated():
    asked, server = await asked_of(Raw(sse(chunk({"role": "assistant"}), done=False), end="cut"), HELLO)
    assert (asked.text, len(server.requests)) == ("Hello.", 2)


@pytest.mark.parametrize("end", ["whole", "cut"])
async def test_done_may_be_missing_where_the_finish_reason_was_given(end):
    asked, _ = await asked_of(Raw(sse(*SHORT, done=False), end=end))
    assert asked.reply is not None
    assert asked.reply.text == TEXT


async def test_the_finish_reason_may_be_missing_where_the_stream_says_that_it_is_done():
    asked, _ = await asked_of(Reply("Hello.", finish_reason=None))
    assert asked.reply is not None
    assert (asked.reply.text, asked.reply.finish_reason) == ("Hello.", "stop")


async def test_a_connection_that_stays_open_after_the_end_does_not_hold_the_reply():
    for body in (RECORDED, sse(*SHORT, done=False)):
        asked, _ = await asked_of(Raw(body, end="hang"), request=request_of(timeout_s=0.15))
        assert asked.reply is not None
        assert asked.reply.text == TEXT


@pytest.mark.parametrize(
    "body",
    [
        RECORDED.replace(b"\n", b"\r\n"),
        RECORDED.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + RECORDED,
        b": hello\n\n" + RECORDED.replace(b"data: ", b": ping\nid: 7\nevent: message\nretry: 10\ndata:"),
        sse({"unknown": True}, *SHORT, "null", "7", {"choices": [], "x": {"y": 1}}),
        sse(*({**c, "system_fingerprint": None, "x": [1]} for c in SHORT)),
        sse(SHORT[0], SHORT[1], SHORT[2], SHORT[2]),
        b"\n\n  \n" + RECORDED,
        RECORDED + b"data: {not json after the end\n\n",
    ],
    ids=[
        "CRLF",
        "CR",
        "byte order mark",
        "comments",
        "unknown events",
        "unknown fields",
        "finish twice",
        "blank",
        "rest",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_odd_but_legal_streams_are_understood_wherever_they_are_cut(body, size):
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    asked, _ = await asked_of(Raw(pieces))
    assert asked.reply is not None, asked.error
    assert asked.reply.text == asked.text == TEXT


async def test_a_text_chunk_that_comes_twice_is_text_that_was_said_twice():
    asked, _ = await asked_of(Raw(sse(chunk({"content": "ha"}), chunk({"content": "ha"}), chunk({}, "stop"))))
    assert asked.text == "haha"


async def test_a_call_whose_chunk_comes_twice_is_one_call():
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}
    said = chunk({"tool_calls": [call]})
    asked, _ = await asked_of(Raw(sse(said, said, chunk({}, "tool_calls"))))
    assert asked.reply is not None
    assert asked.reply.tool_calls == (ToolCall(id="c", name="f", arguments='{"a": 1}'),)


async def test_an_event_stream_under_another_content_type_is_understood():
    for content_type in ("text/plain", "application/json", None):
        asked, _ = await asked_of(Raw(RECORDED, content_type=content_type))
        assert asked.text == TEXT


async def test_an_error_inside_the_stream_has_its_words_and_is_repeated_only_where_nothing_was_said():
    failed = {"error": {"message": "the GPU fell over", "type": "server_error"}}
    asked, server = await asked_of(Raw(sse(failed)), HELLO)
    assert (asked.text, len(server.requests)) == ("Hello.", 2)
    asked, server = await asked_of(Raw(sse(chunk({"content": "Half"}), failed)), HELLO)
    assert asked.error is not None
    assert "the GPU fell over" in str(asked.error)
    assert (asked.text, len(server.requests)) == ("Half", 1)


async def test_an_event_that_is_no_json_is_an_error():
    asked, _ = await asked_of(Raw(sse(chunk({"content": "Half"}), "{oops", chunk({}, "stop"))))
    assert asked.error is not None
    assert "{oops" in str(asked.error)


async def test_a_reply_that_the_gateway_gave_up_is_an_error():
    asked, _ = await asked_of(Reply("Half", finish_reason="error"))
    assert asked.error is not None
    assert asked.reply is None


@pytest.mark.parametrize(
    "arguments",
    ["", "null", "[1]", '{"a": 1, "a": 2}', "{", "NaN", '{"a": 1e999}', '"\\ud800"', "[" * 10_000],
)
async def test_malformed_arguments_are_passed_on_unread(arguments):
    asked, _ = await asked_of(Reply(None, [Call("weather", arguments)], piece=1000))
    assert asked.reply is not None
    assert asked.reply.tool_calls[0].arguments == arguments


async def test_half_characters_and_nul_are_replaced():
    asked, _ = await asked_of(Reply("a\ud800b\0c", piece=100))
    assert asked.reply is not None
    assert asked.reply.text == asked.text == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": -5, "completion_tokens": -1},
    ],
)
@pytest.mark.parametrize("always_json", [False, True])
async def test_usage_that_is_missing_null_or_negative_is_estimated(usage, always_json):
    asked, _ = await asked_of(Reply("x" * 40, usage=usage, always_json=always_json))
    assert asked.reply is not None
    assert asked.reply.usage is not None
    assert asked.reply.usage.estimated
    assert asked.reply.usage.completion_tokens == 10
    assert 4 <= asked.reply.usage.prompt_tokens <= 20


# Time and connections


async def test_a_server_that_never_answers_is_left_at_the_timeout():
    asked, _ = await asked_of(Hang(), HELLO, request=request_of(timeout_s=0.1), max_retries=0)
    assert asked.error is not None
    assert (asked.error.kind, asked.error.retryable) == ("timeout", True)
    assert "0.1 s" in str(asked.error)


async def test_one_attempt_keeps_to_the_connections_timeout_and_the_next_may_succeed():
    asked, server = await asked_of(Hang(), HELLO, timeout_s=0.1)
    assert (asked.text, len(server.requests)) == ("Hello.", 2)


@pytest.mark.parametrize(
    "turn",
    [
        Raw(sse(chunk({"content": "Half"}), done=False), end="hang"),
        Raw([sse(chunk({"content": "Half"}), done=False), *[b":\n"] * 500], delay_s=0.01),
    ],
    ids=["silence", "slow drip"],
)
async def test_a_stream_that_stalls_is_left_at_the_timeout(turn):
    async with ChatServer([turn, HELLO]) as server:
        asked = await ask(server, request_of(timeout_s=0.15))
        assert asked.error is not None
        assert asked.error.kind == "timeout"
        assert (asked.text, len(server.requests)) == ("Half", 1)
        await left(server)


async def test_a_refused_connection_says_where_and_is_repeated():
    async with ChatServer() as server:
        pass
    asked = await ask(server, max_retries=2)
    assert asked.error is not None
    assert (asked.error.kind, asked.error.retryable) == ("connection", True)
    assert server.base_url in str(asked.error)
    assert "running" in (asked.error.hint or "")
    assert len(asked.clock.waits) == 2


async def test_a_server_without_tls_is_no_https_endpoint():
    async with ChatServer([HELLO]) as server:
        asked = await ask(server, base_url=server.base_url.replace("http:", "https:"), max_retries=0)
    assert asked.error is not None
    assert asked.error.kind == "connection"
    assert "SSL" in str(asked.error).upper()


async def test_cancelling_the_call_closes_the_connection_at_once():
    for turn in (Hang(), Raw(sse(chunk({"content": "Half"}), done=False), end="hang")):
        async with ChatServer([turn]) as server:
            provider = OpenAIProvider(Endpoint(server.base_url))
            task = asyncio.create_task(provider.call(request_of(), lambda _: None))
            while not server.requests:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await left(server)
            await provider.close()


async def left(server):
    """Wait until the server has seen its client leave."""
    async with asyncio.timeout(2):
        while not server.abandoned:
            await asyncio.sleep(0.001)


async def test_what_the_caller_raises_in_emit_comes_back_as_it_is():
    def emit(_):
        raise TimeoutError("mine")

    async with ChatServer([HELLO]) as server:
        provider = OpenAIProvider(Endpoint(server.base_url))
        with pytest.raises(TimeoutError, match="mine"):
            await provider.call(request_of(), emit)
        await provider.close()


async def test_a_request_that_is_no_json_is_an_error_of_the_provider():
    asked, _ = await asked_of(HELLO, request=request_of(options=ModelOptions(extra={"x": object()})))
    assert asked.error is not None
    assert "cannot be sent" in str(asked.error)


async def test_a_closed_provider_closes_its_connections():
    async with ChatServer([HELLO]) as server:
        provider = OpenAIProvider(Endpoint(server.base_url))
        await provider.call(request_of(), lambda _: None)
        await provider.close()
        with pytest.raises(ProviderError, match="closed"):
            await provider.call(request_of(), lambda _: None)


# Secrets


def echoing(status):
    def answer(request):
        seen = request.headers.get("authorization", "") + " " + request.headers.get("api-key", "")
        body = json.dumps({"error": {"message": f"you sent {seen}", "headers": dict(request.headers)}})
        if status == "html":
            return Raw(f"<html><title>{seen}</title>{seen}</html>", content_type="text/html")
        if status == "text":
            return Raw(f"what is {seen}?", content_type="text/plain")
        if status == "event":
            return Raw(sse(f"{{{seen}"))
        if status == "stream":
            return Raw(sse(json.loads(body)))
        return Raw(body, status=status, content_type="application/json")

    return answer


@pytest.mark.parametrize("provider", [OpenAIProvider, AzureOpenAIProvider])
@pytest.mark.parametrize(
    "status", [200, 302, 400, 401, 403, 404, 418, 429, 500, 503, "html", "text", "event", "stream"]
)
async def test_no_error_repeats_the_key_that_the_endpoint_echoes(status, provider):
    async with ChatServer(answer=echoing(status)) as server:
        asked = await ask(server, provider=provider, max_retries=1)
    assert asked.error is not None
    for text in (str(asked.error), repr(asked.error), asked.error.hint or "", repr(asked.error.__dict__)):
        assert KEY not in text
        assert "canary" not in text
    assert "[redacted]" in str(asked.error)
    assert "Traceback" not in str(asked.error)


async def test_no_error_repeats_the_password_of_the_address_or_a_secret_header():
    def answer(request):
        return error_reply(400, f"{request.headers['authorization']} {request.headers['x-token']}")

    async with ChatServer(answer=answer) as server:
        address = server.base_url.replace("//", "//user:hunter2222@")
        asked = await ask(server, base_url=address, headers={"X-Token": "tok-canary-1"})
    assert asked.error is not None
    assert "hunter2222" not in str(asked.error)
    assert "canary" not in str(asked.error)


@pytest.mark.parametrize("bad", ["sk-canary\nX-Evil: 1", "sk-canary\x00", "sk-canary-ключ"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(bad):
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        OpenAIProvider(Endpoint("http://127.0.0.1:1/v1", bad))
    assert "canary" not in str(caught.value)


async def test_a_line_end_after_the_key_is_no_part_of_it():
    _, server = await asked_of(HELLO, api_key=f"{KEY}\n")
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://host/v1", "https://", "/v1"])
def test_an_address_that_is_none_is_refused_with_an_example(address):
    with pytest.raises(ConfigurationError) as caught:
        OpenAIProvider(Endpoint(address))
    assert "http://" in (caught.value.hint or "")


@pytest.mark.parametrize("provider", [OpenAIProvider, AzureOpenAIProvider])
@pytest.mark.parametrize(
    "address",
    [
        "http://[::1/v1",
        "http://me:hunter2222",
        "http://host:0/v1",
        "http://me:hunter2222@host:abc/v1",
        "http://me:hunter2222@host:99999999/v1",
        "http://me:hunter2222@\x00/v1",
        "http://me:hunter2222@e\u0301\u200b/v1",
        "http://host/\ud800",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(address, provider):
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        provider(Endpoint(address))
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


def test_an_endpoint_is_printed_without_its_secrets():
    assert "canary" not in repr(Endpoint("http://h/v1", KEY, headers={"X": "canary"}))


# The server and the house


async def test_the_test_server_refuses_other_keys_and_ends_its_script_loudly():
    async with ChatServer([HELLO], api_key=KEY) as server:
        assert (await ask(server)).text == "Hello."
        other = await ask(server, api_key="sk-another-key")
        ended = await ask(server)
    assert other.error is not None
    assert other.error.kind == "credentials"
    assert ended.error is not None
    assert "no further turn" in str(ended.error)


def test_the_test_server_serves_from_a_thread():
    import http.client

    with ChatServer([Reply("Hello.", always_json=True)]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": []}))
        answer = json.loads(connection.getresponse().read())
        connection.close()
    assert answer["choices"][0]["message"]["content"] == "Hello."
    assert server.requests[0].body["model"] == "m"


def test_importing_the_provider_loads_neither_the_sdk_nor_the_http_library():
    code = (
        "import sys, treadle.providers.azure, treadle.providers.openai;"
        "print(sorted({'openai', 'httpx2', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
