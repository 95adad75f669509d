"""A real HTTP server on 127.0.0.1 that speaks chat completions, for tests: scripted replies, and faults.

It answers `POST …/chat/completions` at any base address, with and without server-sent events, so also Azure's
`/openai/deployments/{deployment}/chat/completions`. Each request takes the next turn of the script, or asks a
function for it:

    async with ChatServer([Reply("Hello."), Raw(status=503)]) as server:
        provider = OpenAIProvider(Endpoint(base_url=server.base_url))

`with ChatServer(…) as server:` runs it in a thread, for tests that start processes. A test that uses it runs
against sockets, so what it shows holds for the wire and not for a stand-in.

With `strict=True` it refuses, as the strictest endpoints do, a request whose history is not whole; `objections`
says what is wrong with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Never, Self, cast

from treadle.objects.record import JsonValue

Json = dict[str, JsonValue]
_MAX_HEAD_BYTES = 64 * 1024
_DEFAULT_USAGE: Mapping[str, object] = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a scripted reply; `arguments` is sent as it is, malformed or not."""

    name: str
    arguments: str = "{}"
    id: str | None = None
    """None numbers the calls of a reply: call_0, call_1, …"""

    @property
    def function(self) -> Json:
        """Give the call as the wire has it, without its id."""
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn that answers, streamed where the request asks for it.

    Units: `piece` characters of text or of arguments go into each chunk.
    """

    text: str | None = None
    calls: Sequence[Call] = ()
    usage: Mapping[str, object] | None = field(default_factory=lambda: _DEFAULT_USAGE)
    finish_reason: str | None = "default"
    """`default` is tool_calls or stop, as fits; None leaves it out."""
    piece: int = 8
    refusal: str | None = None
    always_json: bool = False
    """Answer without server-sent events, even where the request asks for them."""
    model: str | None = None
    """The name that the reply gives itself; None repeats the request's."""

    @property
    def finish(self) -> str | None:
        """Give the finish reason that is sent."""
        if self.finish_reason != "default":
            return self.finish_reason
        return "tool_calls" if self.calls else "stop"


@dataclass(frozen=True, slots=True)
class Raw:
    """A turn of exact bytes: every fault that a status, headers, a body and the end of a connection can make.

    Shapes: a body of several pieces is sent piece by piece, `delay_s` apart.
    `framing` says how the client learns where the body ends: by its length, by chunks, or by the end of the
    connection. `end` is what happens after the last piece: the body ends properly, it is cut (the connection
    closes before the end that the framing promised), or the server says nothing more (`hang`).
    """

    body: bytes | str | Sequence[bytes] = b""
    status: int = 200
    content_type: str | None = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    framing: Literal["length", "chunked", "close"] = "chunked"
    end: Literal["whole", "cut", "hang"] = "whole"
    delay_s: float = 0.0

    @property
    def pieces(self) -> Sequence[bytes]:
        """Give the body as the pieces that are sent."""
        if isinstance(self.body, str):
            return (self.body.encode(),)
        return (self.body,) if isinstance(self.body, bytes) else self.body


@dataclass(frozen=True, slots=True)
class Hang:
    """A turn that takes the request and never answers."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A turn of exact bytes in the place of an HTTP answer, from the status line on; none are a dropped request.

    `end` is what happens after the last piece: the connection is closed, reset, or silent (`hang`).
    """

    body: bytes | Sequence[bytes] = b""
    end: Literal["close", "reset", "hang"] = "close"

    @property
    def pieces(self) -> Sequence[bytes]:
        """Give the bytes as the pieces that are sent."""
        return (self.body,) if isinstance(self.body, bytes) else self.body


Turn = Reply | Raw | Wire | Hang


@dataclass(frozen=True, slots=True)
class Request:
    """What the server was sent; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> Json:
        """Give the JSON of the content, or an empty object where it is none."""
        try:
            body: object = json.loads(self.content)
        except ValueError:
            return {}
        return cast("Json", body) if isinstance(body, dict) else {}

    @property
    def messages(self) -> list[Json]:
        """Give the messages that the model is sent."""
        return self.body.get("messages", [])

    @property
    def deployment(self) -> str | None:
        """Give Azure's deployment out of the path, or None."""
        before, _, name = self.path.removesuffix("/chat/completions").rpartition("/deployments/")
        return name if before else None


def error_reply(
    status: int, message: str, *, headers: Mapping[str, str] | None = None, **fields: object
) -> Raw:
    """Give a turn that answers with an error as OpenAI words it; `fields` are code, type and param."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None} | fields
    body = json.dumps({"error": error})
    return Raw(body, status=status, content_type="application/json", headers=headers or {}, framing="length")


def sse(*events: object, done: bool = True) -> bytes:
    """Give events as server-sent bytes: objects as JSON, strings as they are, and [DONE] at the end."""
    data = [event if isinstance(event, str) else _json(event) for event in events]
    return "".join(f"data: {text}\n\n" for text in (*data, *(["[DONE]"] if done else []))).encode()


def _json(value: object) -> str:
    """Write characters as themselves, so that their bytes can be cut, but for those that have no bytes."""
    text = json.dumps(value, ensure_ascii=False)
    return text if not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(value)


def chunk(
    delta: Mapping[str, object] | None = None, finish_reason: str | None = None, **fields: object
) -> Json:
    """Give one chunk of a streamed completion; `fields` are laid over it."""
    choice = {"index": 0, "delta": dict(delta or {}), "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "test-model",
        "choices": [choice],
    } | fields


_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_LONGEST_ID = 16 * 1024


def objections(body: Mapping[str, JsonValue]) -> list[str]:
    """Give what a strict endpoint has against the messages of a request; an empty list says that it takes them.

    Every call of an assistant message has exactly one result, at once after it, and every result a call; ids are
    unique; names are names; arguments are the text of a JSON object; no message says nothing. Each is what some
    endpoint in use answers 400 to, for good: the next request has the same history.
    """
    found: list[str] = []
    open_ids: list[str] = []
    seen: set[str] = set()
    messages: list[Json] = body.get("messages", [])
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.get("role") == "tool":
            id_ = str(message.get("tool_call_id"))
            if id_ not in open_ids:
                found.append(
                    f"{where}: a tool message must answer a call of the preceding message, not '{id_}'"
                )
            else:
                open_ids.remove(id_)
            if not isinstance(message.get("content"), str):
                found.append(f"{where}: the content of a tool message is a text")
            continue
        found += _unanswered(where, open_ids)
        calls: list[Json] = message.get("tool_calls") or []
        open_ids = [str(call.get("id")) for call in calls]
        found += [problem for call in calls for problem in _call_objections(where, call, seen)]
        if not calls and not message.get("content"):
            found.append(f"{where}: a message with role {message.get('role')} must not be empty")
    return found + _unanswered("the end", open_ids)


def _unanswered(where: str, ids: Sequence[str]) -> list[str]:
    return [f"{where}: these tool_call_ids have no tool message: {', '.join(ids)[:400]}"] if ids else []


def _call_objections(where: str, call: Json, seen: set[str]) -> Iterator[str]:
    id_, function = str(call.get("id") or ""), cast("Json", call.get("function") or {})
    if not 0 < len(id_) <= _LONGEST_ID or id_ in seen:
        yield f"{where}: the tool call id '{id_[:80]}' is empty, too long or not unique"
    seen.add(id_)
    if not _NAME.match(str(function.get("name"))):
        yield f"{where}: the function name {str(function.get('name'))[:80]!r} is none"
    try:
        arguments: object = json.loads(str(function.get("arguments")), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        yield f"{where}: the arguments of a call are not JSON: {error}"
    else:
        if not isinstance(arguments, dict):
            yield f"{where}: the arguments of a call are not a JSON object"


def _no_number(name: str) -> Never:
    msg = f"{name} is not a number of JSON"
    raise ValueError(msg)


class ChatServer:
    """Serve a script of turns, or a function's answers, on a free port of 127.0.0.1.

    Shapes: `requests` has every request in the order of its arrival; `objections` what a strict server had against
    them; `abandoned` counts those whose client went
    away before it had the whole answer; `connections` counts accepted connections.
    """

    def __init__(
        self,
        turns: Iterable[Turn] = (),
        *,
        answer: Callable[[Request], Turn] | None = None,
        api_key: str | None = None,
        strict: bool = False,
    ) -> None:
        """Take the script, or the function that decides instead; with `api_key`, other keys are answered 401.

        With `strict`, a request that has `objections` is answered 400 and takes no turn.

        A request past the end of the script is answered 400, so that nothing repeats it.
        """
        self._turns: Iterator[Turn] = iter(tuple(turns))
        self._answer = answer
        self._api_key = api_key
        self._strict = strict
        self._server: asyncio.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._ids = 0
        self.port = 0
        self.requests: list[Request] = []
        self.objections: list[str] = []
        self.abandoned = 0
        self.connections = 0

    @property
    def url(self) -> str:
        """Give the address of the server itself, which is what Azure's resource would be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """Give the address that a connection has as its `base_url`."""
        return f"{self.url}/v1"

    async def __aenter__(self) -> Self:
        """Serve on the running loop."""
        await self.listen()
        return self

    async def listen(self) -> None:
        """Take connections, at the port that was served before `refuse`."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, limit=_MAX_HEAD_BYTES
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the port and whatever is open: connections are refused until `listen`."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for writer in self._open.values():
            writer.transport.abort()
        await asyncio.gather(*self._open, return_exceptions=True)
        await server.wait_closed()

    async def __aexit__(self, *_: object) -> None:
        """Stop, whatever is still being answered."""
        await self.refuse()

    def start(self) -> Self:
        """Serve on a thread of its own, until `stop`."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the chat server did not start within 10 s")
        return self

    def stop(self) -> None:
        """Stop the thread that `start` began."""
        assert self._thread is not None
        assert self._loop is not None
        assert self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def __enter__(self) -> Self:
        """Serve on a thread of its own."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self.stop()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with self:
            ready.set()
            await self._stopping.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                if not await self._respond(request, reader, writer):
                    break
        except ConnectionError:
            self.abandoned += 1
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            del self._open[task]

    async def _respond(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer; tell whether the connection stays open."""
        turn = self._turn(request)
        if isinstance(turn, Reply):
            turn = self._rendered(turn, request.body)
        if isinstance(turn, Hang):
            await self._wait_for_leaving(reader)
            return False
        if isinstance(turn, Wire):
            await self._send(turn, reader, writer)
            return False
        writer.write(_head(turn))
        for piece in turn.pieces:
            if piece:
                writer.write(_framed(piece) if turn.framing == "chunked" else piece)
                await writer.drain()
            if turn.delay_s and await self._left_within(turn.delay_s, reader):
                self.abandoned += 1
                return False
        if turn.end == "hang":
            await self._wait_for_leaving(reader)
        if turn.end != "whole":
            return False
        if turn.framing == "chunked":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return turn.framing != "close"

    async def _send(self, turn: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in turn.pieces:
            writer.write(piece)
            await writer.drain()
        if turn.end == "reset":
            # An aborted connection whose lingering is off sends RST; bytes that were not read do the same.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif turn.end == "hang":
            await self._wait_for_leaving(reader)

    async def _wait_for_leaving(self, reader: asyncio.StreamReader) -> None:
        await reader.read()
        self.abandoned += 1

    @staticmethod
    async def _left_within(seconds: float, reader: asyncio.StreamReader) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await reader.read(1) == b""
        return False

    def _turn(self, request: Request) -> Turn:
        if request.method != "POST" or not request.path.endswith("/chat/completions"):
            return error_reply(404, f"Invalid URL ({request.method} {request.path})", code="unknown_url")
        if self._api_key is not None and not _has_key(request, self._api_key):
            return error_reply(401, "Incorrect API key provided.", code="invalid_api_key")
        if self._strict and (found := objections(request.body)):
            self.objections += found
            return error_reply(400, f"Invalid messages: {found[0]}")
        if self._answer is not None:
            return self._answer(request)
        return next(self._turns, None) or error_reply(
            400, "the script of the chat server has no further turn"
        )

    def _rendered(self, reply: Reply, body: Json) -> Raw:
        self._ids += 1
        model = reply.model or str(body.get("model", ""))
        head: Json = {"id": f"chatcmpl-{self._ids}", "created": 0, "model": model}
        if reply.always_json or not body.get("stream"):
            whole = json.dumps(head | {"object": "chat.completion"} | _completion(reply))
            return Raw(whole, content_type="application/json", framing="length")
        options: object = body.get("stream_options")
        has_usage = isinstance(options, dict) and bool(cast("Json", options).get("include_usage"))
        events = [sse(event | head, done=False) for event in _events(reply, has_usage=has_usage)]
        return Raw((*events, sse()))


def _completion(reply: Reply) -> Json:
    message: Json = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    if reply.calls:
        message["tool_calls"] = [
            {"id": _id(call, index), "type": "function", "function": call.function}
            for index, call in enumerate(reply.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": reply.finish}
    return {"choices": [choice]} | ({} if reply.usage is None else {"usage": reply.usage})


def _events(reply: Reply, *, has_usage: bool) -> Iterator[Json]:
    yield chunk({"role": "assistant", "content": None if reply.calls else ""})
    for key, text in (("content", reply.text or ""), ("refusal", reply.refusal or "")):
        for piece in _pieces(text, reply.piece):
            yield chunk({key: piece})
    for index, call in enumerate(reply.calls):
        function: Json = {"name": call.name, "arguments": ""}
        yield _call_chunk({"index": index, "id": _id(call, index), "type": "function", "function": function})
        for piece in _pieces(call.arguments, reply.piece):
            yield _call_chunk({"index": index, "function": {"arguments": piece}})
    if reply.finish is not None:
        yield chunk({}, reply.finish)
    if has_usage and reply.usage is not None:
        yield chunk(choices=[], usage=reply.usage)


def _call_chunk(piece: Json) -> Json:
    return chunk({"tool_calls": [piece]})


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def _id(call: Call, index: int) -> str:
    return f"call_{index}" if call.id is None else call.id


def _has_key(request: Request, api_key: str) -> bool:
    return f"Bearer {api_key}" == request.headers.get("authorization") or api_key == request.headers.get(
        "api-key"
    )


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read the next request of a connection; None where the client sends no more."""
    try:
        start = await reader.read(1)
        if not start.isalpha():
            return None  # The end of the connection, or a client that speaks TLS.
        head = start + await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    path, _, query = target.partition("?")
    try:
        content = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return Request(method, path, query, headers, content)


def _head(turn: Raw) -> bytes:
    headers = dict(turn.headers)
    if turn.content_type is not None:
        headers["Content-Type"] = turn.content_type
    if turn.framing == "length":
        headers["Content-Length"] = str(sum(map(len, turn.pieces)) + (turn.end != "whole"))
    elif turn.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Connection"] = "close"
    phrase = HTTPStatus(turn.status).phrase if turn.status in list(HTTPStatus) else "Unknown"
    lines = [f"HTTP/1.1 {turn.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
