"""What a model's endpoint can do wrong, as a table: each row with what must come of it.

`python tests/faults/endpoint_table.py` prints it. `test_model_endpoint.py` makes each row happen at a real server on
loopback and holds the run, the thread and the thread's next turn against it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal

from treadle.testing.chat_server import Call, Hang, Raw, Reply, Turn, Wire, chunk, error_reply, sse

GREETING = "Grüße 😀!"
HELLO = Reply(GREETING, piece=3)
MOST_ARGUMENT_BYTES = 1024 * 1024
HANG_S = 0.2
"""The time that a request has where the endpoint lets it wait: real time, so rows that need it are few."""

Kind = Literal["completed", "retried", "told", "incomplete", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What must come of a row.

    Shapes: `detail` is the code of the failure or of the tool's error, or the reason; `words` stand in the error;
    `ran` has the arguments of every call that reached the tool, in order.
    """

    kind: Kind
    detail: str = ""
    words: str = ""
    text: str = GREETING
    ran: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        """Say it in a line."""
        ran = f", the tool ran {len(self.ran)} times" if self.ran else ""
        said = {
            "completed": "completed",
            "retried": "retried, then completed",
            "told": f"the model is told: {self.detail}",
            "incomplete": f"incomplete: {self.detail}",
            "failed": f"failed: {self.detail}",
        }
        return said[self.kind] + ran


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: what the endpoint does, and what must come of it.

    Shapes: `turns` are what the endpoint answers, request by request; a row whose tools run, or whose model is told
    something, gets one more answer, `HELLO`. `refused` requests find the port closed before the first turn.
    `spec` has further fields of the agent. `later` rows happen a second time, as the answer to the results of a tool. `stored` has the arguments that the
    thread keeps where they are not those of the `Reply`.
    """

    name: str
    turns: tuple[Turn, ...]
    outcome: Outcome
    later: bool = True
    timeout_s: float | None = 20.0
    max_retries: int = 2
    refused: int = 0
    scheme: str = "http"
    host: str = "127.0.0.1"
    spec: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stored: tuple[str, ...] | None = None


def completed(text: str = GREETING, *ran: Mapping[str, Any]) -> Outcome:
    return Outcome("completed", text=text, ran=ran)


def ran(*arguments: Mapping[str, Any]) -> Outcome:
    return Outcome("completed", ran=arguments)


def told(code: str, words: str, *ran_: Mapping[str, Any]) -> Outcome:
    return Outcome("told", code, words, ran=ran_)


def incomplete(reason: str, text: str = "") -> Outcome:
    return Outcome("incomplete", reason, text=text)


def failed(code: str, words: str = "") -> Outcome:
    return Outcome("failed", code, words)


RETRIED = Outcome("retried")


# -- the connection --------------------------------------------------------------------------------------------

HALF = sse(chunk({"content": "Grü"}), done=False)
ROLE = sse(chunk({"role": "assistant", "content": ""}), done=False)
TLS_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"

CONNECTION = [
    Row("the port is closed, for good", (), failed("connection", "cannot be reached"), refused=9),
    Row("the port is closed and opens again", (HELLO,), RETRIED, refused=2),
    Row("the name has no address", (), failed("connection", "cannot be reached"), host="nowhere.invalid"),
    Row("the resolver fails for now", (), failed("connection", "cannot be reached"), host="later.invalid"),
    Row(
        "the resolver is silent", (), failed("timeout"), host="silent.invalid", timeout_s=HANG_S, later=False
    ),
    Row("a label of the name is too long", (), failed("connection"), host="x" * 70 + ".invalid"),
    Row("TLS is spoken to a server without it", (), failed("connection", "SSL"), scheme="https"),
    Row("TLS is refused with an alert", (), failed("connection", "SSL"), scheme="https", host="alert"),
    Row(
        "the TLS handshake hangs",
        (),
        failed("timeout"),
        scheme="https",
        host="hang",
        timeout_s=HANG_S,
        later=False,
    ),
    Row("the request is dropped", (Wire(), HELLO), RETRIED),
    Row("the connection is reset", (Wire(end="reset"), HELLO), RETRIED),
    Row("the connection is reset every time", (Wire(end="reset"),) * 3, failed("connection")),
    Row("nothing is answered", (Hang(), HELLO), RETRIED, timeout_s=HANG_S, later=False),
    Row(
        "nothing is ever answered",
        (Hang(),) * 3,
        failed("timeout", "did not answer"),
        timeout_s=HANG_S,
        later=False,
    ),
    Row(
        "silence after the status line",
        (Wire(b"HTTP/1.1 200 OK\r\n", "hang"), HELLO),
        RETRIED,
        timeout_s=HANG_S,
        later=False,
    ),
    Row("silence after the headers", (Raw(b"", end="hang"), HELLO), RETRIED, timeout_s=HANG_S, later=False),
    Row(
        "silence in the middle of the reply",
        (Raw(HALF, end="hang"),),
        failed("timeout"),
        timeout_s=HANG_S,
        later=False,
    ),
    Row(
        "silence before the first word",
        (Raw(ROLE, end="hang"), HELLO),
        RETRIED,
        timeout_s=HANG_S,
        later=False,
    ),
    Row(
        "silence in the body of an error",
        (Raw(b'{"error', status=500, end="hang"), HELLO),
        RETRIED,
        timeout_s=HANG_S,
        later=False,
    ),
    Row(
        "a byte now and then, comments only",
        (Raw([b":", b" ", b"\n"] * 200, delay_s=0.01), HELLO),
        RETRIED,
        timeout_s=HANG_S,
        later=False,
    ),
    Row(
        "a byte now and then, after half a word",
        (Raw([HALF, *[b":\n"] * 200], delay_s=0.01),),
        failed("timeout"),
        timeout_s=HANG_S,
        later=False,
    ),
    Row("no HTTP at all", (Wire(b"SSH-2.0-OpenSSH_9.2\r\n"), HELLO), RETRIED),
    Row("bytes that are nothing", (Wire(bytes(range(256)) * 8), HELLO), RETRIED),
    Row(
        "headers without end",
        (Wire([b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"y" * 1000 + b"\r\n"] * 200]), HELLO),
        RETRIED,
    ),
    Row("a hundred interim answers", (Wire([*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 100]), HELLO), RETRIED),
    Row(
        "two lengths that differ",
        (Wire(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"), HELLO),
        RETRIED,
    ),
    Row(
        "a chunk without a size",
        (Wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), HELLO),
        RETRIED,
    ),
]


# -- the status ------------------------------------------------------------------------------------------------


def limited(headers: Mapping[str, str]) -> Turn:
    return error_reply(429, "slow down", headers=headers, type="rate_limit_error")


def date_in(seconds: float) -> dict[str, str]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return {"Retry-After": format_datetime(now + timedelta(seconds=seconds), usegmt=True)}


def azure_filter() -> Turn:
    return error_reply(
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        code="content_filter",
        innererror={"code": "ResponsibleAIPolicyViolation"},
    )


LONG_CONTEXT = error_reply(
    400,
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    code="context_length_exceeded",
)

STATUS = [
    Row("429 with Retry-After in seconds", (limited({"Retry-After": "3"}), HELLO), RETRIED),
    Row("429 with Retry-After 0", (limited({"Retry-After": "0"}), HELLO), RETRIED),
    Row("429 with a negative Retry-After", (limited({"Retry-After": "-5"}), HELLO), RETRIED),
    Row("429 with Retry-After as a date", (limited(date_in(4)), HELLO), RETRIED),
    Row("429 with Retry-After as a date in the past", (limited(date_in(-900)), HELLO), RETRIED),
    Row("429 with Retry-After in milliseconds", (limited({"Retry-After-Ms": "1500"}), HELLO), RETRIED),
    Row("429 without Retry-After", (limited({}), HELLO), RETRIED),
    Row("429 with a Retry-After that is no time", (limited({"Retry-After": "soon"}), HELLO), RETRIED),
    Row("429 with a Retry-After that is no number", (limited({"Retry-After": "nan"}), HELLO), RETRIED),
    Row(
        "429 with a huge Retry-After", (limited({"Retry-After": "86400"}),), failed("rate_limit", "slow down")
    ),
    Row("429 with an endless Retry-After", (limited({"Retry-After": "inf"}),), failed("rate_limit")),
    Row(
        "429 with Retry-After as a date in a thousand years",
        (limited(date_in(3.2e10)),),
        failed("rate_limit"),
    ),
    Row(
        "429 with a Retry-After beyond the timeout",
        (limited({"Retry-After": "50"}),),
        failed("rate_limit"),
        spec={"timeout": "30s"},
    ),
    Row("429 every time", (limited({}),) * 3, failed("rate_limit", "slow down")),
    Row(
        "429 because nothing is paid",
        (error_reply(429, "You exceeded your current quota", code="insufficient_quota"),),
        failed("rate_limit", "quota"),
    ),
    *(
        Row(f"{status} once", (error_reply(status, "the hamster sleeps"), HELLO), RETRIED)
        for status in (408, 409, 500, 502, 503, 504, 529)
    ),
    *(
        Row(
            f"{status} every time",
            (error_reply(status, "the hamster sleeps"),) * 3,
            failed(f"http_{status}", "hamster"),
        )
        for status in (500, 502, 503, 504)
    ),
    Row(
        "503 with a web page",
        (Raw("<html><title>Back soon</title></html>", status=503, content_type="text/html"), HELLO),
        RETRIED,
    ),
    Row("500 with an empty body", (Raw(b"", status=500, framing="length"), HELLO), RETRIED),
    Row("500 whose body is cut", (Raw(b'{"error', status=500, framing="length", end="cut"), HELLO), RETRIED),
    Row("401", (error_reply(401, "Incorrect API key provided"),), failed("credentials", "api_key")),
    Row("403", (error_reply(403, "not for you"),), failed("credentials")),
    Row(
        "404 of the model",
        (error_reply(404, "The model does not exist", code="model_not_found"),),
        failed("http_404"),
    ),
    Row("404 of the address", (error_reply(404, "Not Found"),), failed("http_404", "base_url")),
    Row(
        "302",
        (Raw(status=302, headers={"Location": "/x"}, framing="length"),),
        failed("http_302", "redirect"),
    ),
    Row("204", (Raw(status=204, framing="close", content_type=None), HELLO), RETRIED),
    Row("400", (error_reply(400, "bad temperature"),), failed("http_400", "bad temperature")),
    Row("413", (error_reply(413, "too large"),), failed("http_413")),
    Row("422", (error_reply(422, "no"),), failed("http_422")),
    Row("a status that nobody knows", (error_reply(799, "?"), HELLO), RETRIED),
    Row(
        "400 with a body that is a list",
        (Raw('[{"error": {"message": "odd"}}]', status=400),),
        failed("http_400", "odd"),
    ),
    Row(
        "400 with half a character",
        (Raw(b'{"error": {"message": "\\ud800\\u0000 odd"}}', status=400, content_type="application/json"),),
        failed("http_400", "odd"),
    ),
    Row(
        "400 with a body of 20 MB",
        (Raw([b"oops " * 2**16] * 64, status=400, content_type="text/plain"),),
        failed("http_400", "oops"),
    ),
    Row(
        "400 that says to try again",
        (error_reply(400, "busy", headers={"x-should-retry": "true"}), HELLO),
        RETRIED,
    ),
    Row(
        "500 that says not to try again",
        (error_reply(500, "no", headers={"x-should-retry": "false"}),),
        failed("http_500"),
    ),
    Row("the prompt is too long, half of it is not", (LONG_CONTEXT, HELLO), RETRIED),
    Row(
        "the prompt is too long, and half of it too",
        (LONG_CONTEXT, LONG_CONTEXT),
        failed("context_length", "9000"),
    ),
    Row("the prompt is filtered", (azure_filter(),), failed("content_filter", "filtered")),
    Row(
        "the roles must take turns",
        (error_reply(400, "Conversation roles must alternate user/assistant/user/assistant"), HELLO),
        RETRIED,
    ),
    Row(
        "the name of a field is refused",
        (error_reply(400, "Unrecognized request argument supplied: stream_options"), HELLO),
        RETRIED,
    ),
]


# -- the body --------------------------------------------------------------------------------------------------

PAGE = "<!DOCTYPE html><html><head><title>Welcome to nginx!</title></head><body>It works</body></html>"
SHORT: tuple[dict[str, Any], ...] = (
    {"choices": [{"delta": {"content": "Grüße"}}]},
    {"choices": [{"delta": {"content": " 😀!"}}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
)
RECORDED = sse(*SHORT)
RECORDED_CALL_EVENTS: tuple[dict[str, Any], ...] = (
    {
        "choices": [
            {
                "delta": {
                    "tool_calls": [{"id": "c", "function": {"name": "weather", "arguments": '{"city": "Å'}}]
                }
            }
        ]
    },
    {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": 'lesund"}'}}]}}]},
    {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
)
RECORDED_CALL = sse(*RECORDED_CALL_EVENTS)
BOM = b"\xef\xbb\xbf"


def in_pieces(body: bytes, size: int) -> Raw:
    return Raw([body[at : at + size] for at in range(0, len(body), size)])


def document(body: str) -> Raw:
    return Raw(body, content_type="application/json", framing="length")


def choice(message: Mapping[str, Any], finish: str | None = "stop", **fields: Any) -> Raw:
    return document(
        json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]} | fields)
    )


BODY = [
    Row("a web page", (Raw(PAGE, content_type="text/html"),), failed("model_error", "Welcome to nginx!")),
    Row("a web page that calls itself a stream", (Raw(PAGE),), failed("model_error", "Welcome to nginx!")),
    Row("an empty body", (Raw(b"", framing="length"), HELLO), RETRIED),
    Row("an empty body every time", (Raw(b"", framing="length"),) * 3, failed("connection", "empty")),
    Row("white space only", (document(" \r\n "), HELLO), RETRIED),
    Row("a text", (document("Internal problem"),), failed("model_error", "Internal problem")),
    *(
        Row(f"a document that is {what}", (document(body),), failed("model_error"))
        for what, body in (
            ("an empty object", "{}"),
            ("an empty list", "[]"),
            ("a text", '"text"'),
            ("null", "null"),
            ("a number", "7"),
            ("a completion without choices", '{"choices": []}'),
            ("a completion whose choices are null", '{"choices": null}'),
            ("a completion whose choice is null", '{"choices": [null]}'),
            ("a completion without a message", '{"choices": [{"index": 0, "finish_reason": "stop"}]}'),
            ("an older completion", '{"choices": [{"index": 0, "text": "Hello."}]}'),
        )
    ),
    Row("a truncated document", (document('{"choices": [{"mess'), HELLO), RETRIED),
    Row(
        "a truncated document every time",
        (document('{"choices": [{"mess'),) * 3,
        failed("connection", "no whole JSON"),
    ),
    Row(
        "a document in pieces of a byte",
        (
            Raw(
                [bytes([b]) for b in choice({"content": GREETING}).pieces[0]], content_type="application/json"
            ),
        ),
        completed(),
    ),
    Row("a document instead of a stream", (Reply(GREETING, always_json=True),), completed()),
    Row(
        "a document with a byte order mark",
        (Raw(BOM + choice({"content": GREETING}).pieces[0], content_type="application/json"),),
        completed(),
    ),
    Row("a document of 100 000 brackets", (document("[" * 100_000), HELLO), RETRIED),
    Row(
        "an error with status 200",
        (document('{"error": {"message": "no GPU"}}'),),
        failed("model_error", "no GPU"),
    ),
    Row(
        "a passing error with status 200",
        (document('{"error": {"message": "no GPU", "type": "server_error"}}'), HELLO),
        RETRIED,
    ),
    Row(
        "a body that unpacks to 65 MiB",
        (Raw(gzip.compress(b" " * (65 * 2**20), 1), headers={"Content-Encoding": "gzip"}),),
        failed("model_error", "longer than"),
    ),
    Row(
        "an error that unpacks to 65 MiB",
        (Raw(gzip.compress(b" " * (65 * 2**20), 1), status=400, headers={"Content-Encoding": "gzip"}),),
        failed("http_400"),
    ),
    Row(
        "a packed body that is broken",
        (Raw(b"\x1f\x8b\x08nothing", headers={"Content-Encoding": "gzip"}), HELLO),
        RETRIED,
    ),
    Row(
        "a packed body that is cut",
        (Raw(gzip.compress(RECORDED)[:30], headers={"Content-Encoding": "gzip"}), HELLO),
        RETRIED,
    ),
    Row(
        "a packed body that is whole",
        (Raw(gzip.compress(RECORDED), headers={"Content-Encoding": "gzip"}),),
        completed(),
    ),
    Row("a packing that nobody knows", (Raw(RECORDED, headers={"Content-Encoding": "snappy"}),), completed()),
    Row("a line of 65 MiB", (Raw([b": " + b"x" * 2**20] * 65),), failed("model_error", "longer than")),
    Row(
        "a document of 65 MiB",
        (Raw([b"{" + b" " * 2**20] * 65, content_type="application/json"),),
        failed("model_error", "longer than"),
    ),
    Row(
        "a text of 4 MiB in one line",
        (Raw(sse(chunk({"content": "x" * 2**22}), chunk({}, "stop"))),),
        completed("x" * 2**22),
    ),
]


# -- the stream ------------------------------------------------------------------------------------------------


def cuts(body: bytes) -> Iterator[bytes]:
    """Give every proper start of a recorded stream."""
    return (body[:at] for at in range(len(body)))


FAILED_EVENT = {"error": {"message": "the GPU fell over", "type": "server_error"}}
STREAM = [
    Row("lines end with CRLF", (Raw(RECORDED.replace(b"\n", b"\r\n")),), completed()),
    Row("lines end with CR", (Raw(RECORDED.replace(b"\n", b"\r")),), completed()),
    Row("CRLF, cut after every byte", (in_pieces(RECORDED.replace(b"\n", b"\r\n"), 1),), completed()),
    Row("UTF-8, cut after every byte", (in_pieces(RECORDED, 1),), completed()),
    Row("cut after every third byte", (in_pieces(RECORDED, 3),), completed()),
    Row("a byte order mark", (Raw(BOM + RECORDED),), completed()),
    Row("a byte order mark, cut after every byte", (in_pieces(BOM + RECORDED, 1),), completed()),
    Row(
        "comment lines",
        (Raw(RECORDED.replace(b"data: ", b": ping\nid: 7\nevent: message\nretry: 10\ndata:")),),
        completed(),
    ),
    Row(
        "ten thousand comment lines", (Raw([b": OPENROUTER PROCESSING\n\n" * 10_000, RECORDED]),), completed()
    ),
    Row("events without data", (Raw(b"event: ping\n\ndata:\n\ndata: \n\n" + RECORDED),), completed()),
    Row("an event that is null", (Raw(sse("null", *SHORT)),), completed()),
    Row(
        "unknown events",
        (Raw(sse({"type": "ping"}, "7", *SHORT, {"choices": [], "x": {"y": 1}})),),
        completed(),
    ),
    Row(
        "unknown fields",
        (Raw(sse(*({**c, "x": [1], "system_fingerprint": None} for c in SHORT))),),
        completed(),
    ),
    Row("blank lines in front", (Raw(b"\n\n  \n" + RECORDED),), completed()),
    Row("another content type", (Raw(RECORDED, content_type="text/plain"),), completed()),
    Row("no content type", (Raw(RECORDED, content_type=None),), completed()),
    Row(
        "bytes that are no UTF-8",
        (Raw(RECORDED.replace("ü".encode(), b"\xff")),),
        completed("Gr\ufffdße 😀!"),
    ),
    Row(
        "half a character",
        (Raw(sse(chunk({"content": "a\ud800b\0c"}), chunk({}, "stop"))),),
        completed("a\ufffdb\ufffdc"),
    ),
    Row(
        "a pair of surrogates in two events",
        (
            Raw(
                sse(
                    '{"choices": [{"delta": {"content": "\\ud83d"}}]}',
                    '{"choices": [{"delta": {"content": "\\ude00"}, "finish_reason": "stop"}]}',
                )
            ),
        ),
        completed("😀"),
    ),
    Row("[DONE] is missing", (Raw(sse(*SHORT, done=False)),), completed()),
    Row(
        "[DONE] is missing and the connection is cut", (Raw(sse(*SHORT, done=False), end="cut"),), completed()
    ),
    Row("the connection stays open after [DONE]", (Raw(RECORDED, end="hang"),), completed()),
    Row("[DONE] alone", (Raw(b"data: [DONE]\n\n"), HELLO), RETRIED),
    Row("only a comment", (Raw(b": ping\n\n"), HELLO), RETRIED),
    Row("the role and then the end", (Raw(ROLE), HELLO), RETRIED),
    Row("half a reply and then the end", (Raw(HALF),), failed("connection", "3 characters")),
    Row("half a reply and then a cut", (Raw(HALF, end="cut"),), failed("connection", "3 characters")),
    Row(
        "half a reply and then a cut, and the agent's rule repeats it",
        (Raw(HALF, end="cut"), HELLO),
        RETRIED,
        spec={"retry": {"max_attempts": 2, "initial_delay": "1ms", "on": ["connection"]}},
    ),
    Row(
        "half a reply and then a cut, more often than the agent's rule repeats it",
        (Raw(HALF, end="cut"),) * 2,
        failed("connection", "3 characters"),
        spec={"retry": {"max_attempts": 2, "initial_delay": "1ms", "on": ["connection"]}},
    ),
    Row("half a call and then a cut", (Raw(RECORDED_CALL[:200], end="cut"),), failed("connection")),
    Row("a text event twice", (Raw(sse(SHORT[0], SHORT[0], *SHORT[1:])),), completed("GrüßeGrüße 😀!")),
    Row("the last event twice", (Raw(sse(*SHORT, SHORT[2])),), completed()),
    Row(
        "the usage before the text",
        (Raw(sse(chunk(choices=[], usage={"prompt_tokens": 1}), *SHORT)),),
        completed(),
    ),
    Row("the finish reason before the text", (Raw(sse(SHORT[2], *SHORT[:2])),), completed()),
    Row("events behind [DONE]", (Raw(RECORDED + sse(chunk({"content": "more"}))),), completed()),
    Row("no JSON behind the end", (Raw(RECORDED + b"data: {not json\n\n"),), completed()),
    Row("no JSON before the first word", (Raw(sse("{oops", *SHORT)), HELLO), RETRIED),
    Row("no JSON in the middle", (Raw(sse(SHORT[0], "{oops", *SHORT[1:])),), failed("model_error", "{oops")),
    Row("an event of 100 000 brackets", (Raw(sse("[" * 100_000, *SHORT)), HELLO), RETRIED),
    Row("an error before the first word", (Raw(sse(FAILED_EVENT)), HELLO), RETRIED),
    Row(
        "an error in the middle",
        (Raw(sse(SHORT[0], FAILED_EVENT)),),
        failed("model_error", "the GPU fell over"),
    ),
    Row(
        "an error that is named so",
        (Raw(b'event: error\ndata: {"message": "the GPU fell over"}\n\n'),),
        failed("model_error", "the GPU fell over"),
    ),
    Row("an error after the end", (Raw(sse(*SHORT, FAILED_EVENT)),), completed()),
    Row(
        "a second choice beside the first",
        (Raw(sse({"choices": [{"index": 1, "delta": {"content": "no"}}]}, *SHORT)),),
        completed(),
    ),
    Row(
        "only a second choice",
        (Raw(sse({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]})), HELLO),
        RETRIED,
    ),
    Row(
        "the content as a list of parts",
        (
            Raw(
                sse(
                    {
                        "choices": [
                            {
                                "delta": {"content": [{"type": "text", "text": GREETING}]},
                                "finish_reason": "stop",
                            }
                        ]
                    }
                )
            ),
        ),
        completed(),
    ),
    Row("a refusal", (Reply(refusal="I may not."),), completed("I may not.")),
]


# -- the reply -------------------------------------------------------------------------------------------------

OSLO = {"city": "Oslo"}
OSLO_CALL = Call("weather", json.dumps(OSLO))
ROME_CALL = Call("weather", '{"city": "Rome"}')

REPLY = [
    Row("no word and no call", (Reply(""),), completed("")),
    Row("no finish reason", (Reply(GREETING, finish_reason=None),), completed()),
    Row("an odd finish reason", (Reply(GREETING, finish_reason="eos"),), completed()),
    Row("an empty finish reason", (Reply(GREETING, finish_reason=""),), completed()),
    Row("a finish reason that is a number", (choice({"content": GREETING}, finish=7),), completed()),  # pyright: ignore[reportArgumentType] - the fault
    Row(
        "the finish reason says calls, and there are none",
        (Reply(GREETING, finish_reason="tool_calls"),),
        completed(),
    ),
    Row(
        "the finish reason says stop, and there is a call",
        (Reply(calls=[OSLO_CALL], finish_reason="stop"),),
        ran(OSLO),
        later=False,
    ),
    Row(
        "a call without a finish reason",
        (Reply(calls=[OSLO_CALL], finish_reason=None),),
        ran(OSLO),
        later=False,
    ),
    Row(
        "the reply is too long",
        (Reply("Gr", finish_reason="length"),),
        incomplete("max_completion_tokens", "Gr"),
    ),
    Row(
        "a call is too long",
        (Reply(calls=[Call("weather", '{"city": "Os')], finish_reason="length"),),
        incomplete("max_completion_tokens"),
    ),
    Row(
        "the reply is too long before its first word",
        (Reply("", finish_reason="length"),),
        incomplete("max_completion_tokens"),
    ),
    Row(
        "the model's context is full",
        (Reply("Gr", finish_reason="model_context_window_exceeded"),),
        incomplete("max_completion_tokens", "Gr"),
    ),
    Row(
        "the reply is filtered",
        (Reply("Gr", finish_reason="content_filter"),),
        incomplete("content_filter", "Gr"),
    ),
    Row(
        "a call is filtered",
        (Reply(calls=[OSLO_CALL], finish_reason="content_filter"),),
        incomplete("content_filter"),
    ),
    Row(
        "the reply is filtered, in other words",
        (Reply("Gr", finish_reason="SAFETY"),),
        incomplete("content_filter", "Gr"),
    ),
    *(
        Row(
            f"the gateway gave up: {reason}",
            (Reply("Half", finish_reason=reason),),
            failed("model_error", reason),
        )
        for reason in (
            "error",
            "abort",
            "insufficient_system_resource",
            "network_error",
            "MALFORMED_FUNCTION_CALL",
        )
    ),
    Row("the gateway gave up before the first word", (Reply("", finish_reason="error"), HELLO), RETRIED),
    Row("another model answers", (Reply(GREETING, model="some-other"),), completed()),
    Row("the name of the model is half a character", (Reply(GREETING, model="m\ud800\0"),), completed()),
    Row("usage is missing", (Reply(GREETING, usage=None),), completed()),
    Row("usage is empty", (Reply(GREETING, usage={}),), completed()),
    Row(
        "usage is null",
        (Reply(GREETING, usage={"prompt_tokens": None, "completion_tokens": None}),),
        completed(),
    ),
    Row(
        "usage is negative",
        (Reply(GREETING, usage={"prompt_tokens": -5, "completion_tokens": -1}),),
        completed(),
    ),
    Row(
        "usage is a text",
        (Reply(GREETING, usage={"prompt_tokens": "11", "completion_tokens": "7"}),),
        completed(),
    ),
    Row(
        "usage is beyond every number",
        (Reply(GREETING, usage={"prompt_tokens": 10**30, "completion_tokens": 2**63}),),
        completed(),
    ),
    Row(
        "usage is infinite",
        (
            Raw(
                RECORDED.replace(
                    b"data: [DONE]",
                    b'data: {"choices": [], "usage": {"prompt_tokens": Infinity, "completion_tokens": 1e999}}\n\ndata: [DONE]',
                )
            ),
        ),
        completed(),
    ),
    Row("usage is a list", (Raw(sse(*({**c, "usage": [1]} for c in SHORT))),), completed()),
    Row(
        "usage in every event",
        (
            Raw(
                sse(
                    *(
                        {**c, "usage": {"prompt_tokens": 3, "completion_tokens": n}}
                        for n, c in enumerate(SHORT)
                    )
                )
            ),
        ),
        completed(),
    ),
]


# -- the calls -------------------------------------------------------------------------------------------------


def delta(*pieces: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return chunk({"tool_calls": list(pieces)}, finish)


def piece(
    index: int | None, arguments: Any = None, *, name: str | None = None, id_: str | None = None
) -> dict[str, Any]:
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    return {k: v for k, v in (("index", index), ("id", id_)) if v is not None} | {"function": function}


def streamed(*pieces: Mapping[str, Any]) -> Raw:
    return Raw(sse(*(delta(p) for p in pieces), chunk({}, "tool_calls")))


MANY = [Call("weather", json.dumps({"city": str(n)})) for n in range(200)]
LONG_CITY = json.dumps({"city": "{x}" * 66_000})
WHOLE = piece(0, '{"city": "Oslo"}', name="weather", id_="c")

CALLS = [
    Row(
        "an unknown tool",
        (Reply(calls=[Call("teleport", '{"to": "Oslo"}')]),),
        told("unknown_tool", "there is no tool 'teleport'"),
    ),
    Row(
        "a tool of another agent",
        (Reply(calls=[Call("payroll", '{"who": "me"}')]),),
        told("unknown_tool", "there is no tool 'payroll'"),
    ),
    Row(
        "another case",
        (Reply(calls=[Call("Weather", '{"city": "Oslo"}')]),),
        told("unknown_tool", "there is no tool 'Weather'"),
    ),
    Row(
        "white space around the name",
        (Reply(calls=[Call(" weather", '{"city": "Oslo"}')]),),
        told("unknown_tool", "there is no tool"),
    ),
    Row(
        "a name in two parts",
        (Reply(calls=[Call("functions.weather", '{"city": "Oslo"}')]),),
        told("unknown_tool", "functions.weather"),
    ),
    Row(
        "no name", (Reply(calls=[Call("", '{"city": "Oslo"}')]),), told("unknown_tool", "there is no tool ''")
    ),
    Row(
        "a name of 100 000 characters",
        (Reply(calls=[Call("w" * 100_000)], piece=2**17),),
        told("unknown_tool", "there is no tool 'www"),
    ),
    Row(
        "a name that is half a character",
        (Reply(calls=[Call("we\ud800\0", '{"city": "Oslo"}')]),),
        told("unknown_tool", "there is no tool"),
    ),
    Row(
        "an unknown tool beside a known one",
        (Reply(calls=[Call("teleport"), OSLO_CALL]),),
        told("unknown_tool", "'teleport'", OSLO),
    ),
    Row(
        "a call that is null",
        (Raw(sse(chunk({"tool_calls": [None]}), chunk({}, "tool_calls"))),),
        told("unknown_tool", "there is no tool ''"),
        stored=("",),
    ),
    Row(
        "calls that are no list",
        (Raw(sse(chunk({"content": GREETING, "tool_calls": {"index": 0}}), chunk({}, "stop"))),),
        completed(),
    ),
    Row(
        "one call id twice",
        (
            Reply(
                calls=[
                    Call("weather", '{"city": "Oslo"}', id="x"),
                    Call("weather", '{"city": "Rome"}', id="x"),
                ]
            ),
        ),
        ran(OSLO, {"city": "Rome"}),
    ),
    Row(
        "one call id for 50 calls",
        (Reply(calls=[Call(c.name, c.arguments, id="x") for c in MANY[:50]]),),
        ran(*(json.loads(c.arguments) for c in MANY[:50])),
        later=False,
        spec={"limits": {"max_steps": 900, "max_tool_calls": 900}},
    ),
    Row(
        "no call id",
        (
            Reply(
                calls=[Call("weather", '{"city": "Oslo"}', id=""), Call("weather", '{"city": "Rome"}', id="")]
            ),
        ),
        ran(OSLO, {"city": "Rome"}),
    ),
    Row(
        "the call id of an earlier turn",
        (Reply(calls=[Call("weather", '{"city": "Oslo"}', id="first")]),),
        ran(OSLO),
    ),
    Row(
        "a call id of 100 000 characters",
        (Reply(calls=[Call("weather", '{"city": "Oslo"}', id="x" * 100_000)]),),
        ran(OSLO),
    ),
    Row(
        "a call id that is half a character",
        (Reply(calls=[Call("weather", '{"city": "Oslo"}', id="c\ud800\0")]),),
        ran(OSLO),
    ),
    Row(
        "a call id that is a number",
        (
            Raw(
                sse(
                    delta(
                        {
                            "index": 0,
                            "id": 7,
                            "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                        }
                    ),
                    chunk({}, "tool_calls"),
                )
            ),
        ),
        ran(OSLO),
    ),
    Row(
        "200 calls at once, and 64 are allowed",
        (Reply(calls=MANY),),
        incomplete("max_tool_calls"),
        later=False,
        spec={"limits": {"max_steps": 900}},
    ),
    Row(
        "200 calls at once, and all are allowed",
        (Reply(calls=MANY),),
        ran(*(json.loads(c.arguments) for c in MANY)),
        later=False,
        spec={"limits": {"max_steps": 900, "max_tool_calls": 900}},
    ),
    Row(
        "1 000 calls at once",
        (Reply(calls=[Call("weather", '{"city": "x"}', id="x")] * 1000, piece=64),),
        incomplete("max_steps"),
        later=False,
    ),
    Row(
        "20 000 calls at once",
        (Reply(calls=[Call("weather", '{"city": "x"}', id="x")] * 20_000, piece=64),),
        failed("model_error", "more than 1000 tool calls"),
        later=False,
    ),
    Row("a call and a text", (Reply("Let me see.", [OSLO_CALL]),), ran(OSLO)),
    Row(
        "the text after the call",
        (Raw(sse(delta(WHOLE), chunk({"content": "Let me see."}), chunk({}, "tool_calls"))),),
        ran(OSLO),
    ),
    Row("a whole call twice", (streamed(WHOLE, WHOLE),), ran(OSLO)),
    Row(
        "every piece names the tool again",
        (
            Raw(
                sse(
                    *(delta(piece(0, p, name="weather", id_="c")) for p in ('{"city', '": "Os', 'lo"}')),
                    chunk({}, "tool_calls"),
                )
            ),
        ),
        ran(OSLO),
    ),
    Row(
        "every piece names the tool again, 25 000 times",
        (
            streamed(
                *(
                    piece(0, LONG_CITY[at : at + 8], name="weather", id_="c")
                    for at in range(0, len(LONG_CITY), 8)
                )
            ),
        ),
        ran(json.loads(LONG_CITY)),
        later=False,
    ),
    Row(
        "the arguments before the name",
        (streamed(piece(0, '{"city": "Os'), piece(0, 'lo"}', name="weather", id_="c")),),
        ran(OSLO),
    ),
    Row(
        "the name in pieces",
        (streamed(piece(0, name="wea", id_="c"), piece(0, name="ther"), piece(0, '{"city": "Oslo"}')),),
        ran(OSLO),
    ),
    Row(
        "two calls in turns",
        (
            streamed(
                piece(0, '{"city": ', name="weather", id_="a"),
                piece(1, '{"city": ', name="weather", id_="b"),
                piece(0, '"Oslo"}'),
                piece(1, '"Rome"}'),
            ),
        ),
        ran(OSLO, {"city": "Rome"}),
    ),
    Row(
        "two calls with one index",
        (
            streamed(
                piece(0, '{"city": "Oslo"}', name="weather", id_="a"),
                piece(0, '{"city": "Rome"}', name="weather", id_="b"),
            ),
        ),
        ran(OSLO, {"city": "Rome"}),
    ),
    Row(
        "the second call first",
        (
            streamed(
                piece(1, '{"city": "Oslo"}', name="weather", id_="b"),
                piece(0, '{"city": "Rome"}', name="weather", id_="a"),
            ),
        ),
        ran(OSLO, {"city": "Rome"}),
    ),
    Row(
        "no index",
        (
            streamed(
                piece(None, '{"city": "Os', name="weather", id_="a"),
                piece(None, 'lo"}'),
                piece(None, '{"city": "Rome"}', name="weather", id_="b"),
            ),
        ),
        ran(OSLO, {"city": "Rome"}),
    ),
    Row(
        "an index that is negative, one that is huge, one that is a text",
        (
            streamed(
                piece(-1, '{"city": "Oslo"}', name="weather", id_="a"),
                piece(10**40, '{"city": "Rome"}', name="weather", id_="b"),
                {"index": "2", "id": "c", "function": {"name": "ping", "arguments": "{}"}},
            ),
        ),
        ran(OSLO, {"city": "Rome"}, {}),
    ),
    Row("a call in a document", (Reply(calls=[OSLO_CALL], always_json=True),), ran(OSLO)),
    Row(
        "a call in the older form",
        (
            choice(
                {"content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
                "function_call",
            ),
        ),
        ran(OSLO),
        stored=('{"city": "Oslo"}',),
    ),
    Row(
        "a call in the older form, streamed",
        (
            Raw(
                sse(
                    chunk({"function_call": {"name": "weather", "arguments": ""}}),
                    chunk({"function_call": {"arguments": '{"city": "Os'}}),
                    chunk({"function_call": {"arguments": 'lo"}'}}),
                    chunk({}, "function_call"),
                )
            ),
        ),
        ran(OSLO),
    ),
]


# -- the arguments ---------------------------------------------------------------------------------------------

LONG = json.dumps({"city": "x" * 10_000_000})
BAD = "invalid_arguments"


def given(
    name: str, arguments: str, outcome: Outcome, *, tool: str = "weather", stored: str | None = None
) -> Row:
    """Give the row of a call with these arguments, streamed in pieces."""
    turn = Reply(calls=[Call(tool, arguments)], piece=max(8, len(arguments) // 50))
    return Row(name, (turn,), outcome, later=False, stored=None if stored is None else (stored,))


ARGUMENTS = [
    given("no JSON", "{oops", told(BAD, "are not JSON")),
    given("cut JSON", '{"city": "Os', told(BAD, "are not JSON")),
    given("two objects", '{"city": "Oslo"}{"city": "Rome"}', told(BAD, "are not JSON")),
    given("text around the object", 'Sure: {"city": "Oslo"}', told(BAD, "are not JSON")),
    given("a code fence", '```json\n{"city": "Oslo"}\n```', told(BAD, "are not JSON")),
    given("single quotes", "{'city': 'Oslo'}", told(BAD, "are not JSON")),
    given("a comma too many", '{"city": "Oslo",}', told(BAD, "are not JSON")),
    given("a line end inside a text", '{"city": "Os\nlo"}', told(BAD, "are not JSON")),
    given("null", "null", told(BAD, "must be a JSON object")),
    given("null, of a tool without parameters", "null", told(BAD, "must be a JSON object"), tool="ping"),
    given("a list", '["Oslo"]', told(BAD, "must be a JSON object")),
    given(
        "an empty list, of a tool without parameters", "[]", told(BAD, "must be a JSON object"), tool="ping"
    ),
    given("a text", '"Oslo"', told(BAD, "must be a JSON object")),
    given("an object in a text", json.dumps('{"city": "Oslo"}'), told(BAD, "must be a JSON object")),
    given("a number", "7", told(BAD, "must be a JSON object")),
    given("false", "false", told(BAD, "must be a JSON object")),
    given("one key twice", '{"city": "Oslo", "city": "Rome"}', told(BAD, "stands twice")),
    given("10 MB", LONG, told(BAD, "arguments"), stored="cut"),
    given("10 MB that are no JSON", "[" * 10_000_000, told(BAD, "arguments"), stored="cut"),
    given(
        "a little more than 1 MiB",
        json.dumps({"city": "x" * MOST_ARGUMENT_BYTES}),
        told(BAD, "arguments"),
        stored="cut",
    ),
    given(
        "10 000 levels of lists", '{"city": ' + "[" * 10_000 + "]" * 10_000 + "}", told(BAD, "nest deeper")
    ),
    given("10 000 levels of objects", '{"city": ' * 10_000 + "1" + "}" * 10_000, told(BAD, "nest deeper")),
    given("NaN", '{"city": "Oslo", "days": NaN}', told(BAD, "NaN")),
    given("Infinity", '{"city": "Oslo", "days": -Infinity}', told(BAD, "Infinity")),
    given("1e400", '{"city": "Oslo", "days": 1e400}', told(BAD, "too large")),
    given("an integer of 70 bits", '{"city": "Oslo", "days": 999999999999999999999}', told(BAD, "64 bits")),
    given("an integer of 5 000 digits", '{"city": "Oslo", "days": ' + "9" * 5000 + "}", told(BAD, "digits")),
    given("half a character, escaped", '{"city": "\\ud800"}', told(BAD, "half a character")),
    given("half a character as a key", '{"city": "Oslo", "\\ud800": 1}', told(BAD, "half a character")),
    given("half a character", '{"city": "\ud800"}', ran({"city": "\ufffd"}), stored='{"city": "\ufffd"}'),
    given("a NUL, escaped", '{"city": "a\\u0000b"}', told(BAD, "NUL")),
    given("a pair of surrogates, escaped", '{"city": "\\ud83d\\ude00"}', ran({"city": "😀"})),
    given("a field is missing", '{"days": 2}', told(BAD, "city")),
    given("every field is missing", "{}", told(BAD, "city")),
    given("nothing, of a tool with a required field", "", told(BAD, "city")),
    given("nothing, of a tool without parameters", "", ran({}), tool="ping"),
    given("an unknown field", '{"city": "Oslo", "unit": "C"}', told(BAD, "unit")),
    given(
        "an unknown field of a tool without parameters", '{"city": "Oslo"}', told(BAD, "city"), tool="ping"
    ),
    given("a field of the wrong type", '{"city": 7}', told(BAD, "city")),
    given("a field that is null", '{"city": null}', told(BAD, "city")),
    given("a number as a text", '{"city": "Oslo", "days": "2"}', told(BAD, "days")),
    given("a number that is no integer", '{"city": "Oslo", "days": 2.5}', told(BAD, "days")),
    given("a truth value as a number", '{"city": "Oslo", "days": true}', told(BAD, "days")),
    given("__proto__ and the like", '{"city": "Oslo", "__class__": {}}', told(BAD, "__class__")),
    given("white space around the object", ' \n{"city": "Oslo"}\t', ran(OSLO)),
    Row(
        "an object that is not in a text",
        (streamed(piece(0, {"city": "Oslo"}, name="weather", id_="c")),),
        ran(OSLO),
        stored=('{"city": "Oslo"}',),
    ),
    Row(
        "an object that is not in a text, of a tool without parameters",
        (streamed(piece(0, {"city": "Oslo"}, name="ping", id_="c")),),
        told(BAD, "city"),
        stored=('{"city": "Oslo"}',),
    ),
    Row(
        "a list that is not in a text",
        (streamed(piece(0, ["Oslo"], name="ping", id_="c")),),
        told(BAD, "must be a JSON object"),
        stored=('["Oslo"]',),
    ),
    Row(
        "a number that is not in a text",
        (streamed(piece(0, 7, name="ping", id_="c")),),
        told(BAD, "must be a JSON object"),
        stored=("7",),
    ),
    Row(
        "an object that is not in a text, in a document",
        (
            choice(
                {
                    "content": None,
                    "tool_calls": [
                        {"id": "c", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
                    ],
                },
                "tool_calls",
            ),
        ),
        ran(OSLO),
        stored=('{"city": "Oslo"}',),
    ),
    Row(
        "good ones beside bad ones",
        (Reply(calls=[Call("weather", "{oops"), OSLO_CALL, Call("weather", "null")]),),
        told(BAD, "are not JSON", OSLO),
    ),
]

SECTIONS: Mapping[str, Sequence[Row]] = {
    "connection": CONNECTION,
    "status": STATUS,
    "body": BODY,
    "stream": STREAM,
    "reply": REPLY,
    "calls": CALLS,
    "arguments": ARGUMENTS,
}

Swept = Callable[[bytes], Raw]
SWEEPS: Mapping[str, tuple[bytes, Outcome]] = {
    "a reply, cut at every byte": (RECORDED, completed()),
    "a call, cut at every byte": (RECORDED_CALL, ran({"city": "Ålesund"})),
}
"""Recorded streams that are cut at every byte: the run completes as it must, or fails with `connection`."""


def rows() -> Iterator[tuple[str, Row]]:
    """Give every row with its section."""
    for section, found in SECTIONS.items():
        for row in found:
            yield section, row


def lines() -> Iterator[str]:
    """Give the table as lines: what the endpoint does, and what must come of it."""
    for section, row in rows():
        yield f"{section:<10}  {row.name:<66}  {row.outcome}"
    for name, (_, outcome) in SWEEPS.items():
        yield f"{'sweep':<10}  {name:<66}  {outcome}, or retried, or failed: connection"


if __name__ == "__main__":
    print("\n".join(lines()))
