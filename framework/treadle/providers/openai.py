"""Models behind OpenAI's chat completions: OpenAI itself, and the many endpoints that speak the same protocol.

The SDK makes the connection: addresses, credentials, headers. Requests, replies and errors are read and written
by the `chat_*` modules of this folder, which know no library. Whatever the SDK and its HTTP library raise is
translated here, in one table.

Rules
1. One loop repeats failed attempts; the SDK repeats nothing. All attempts together keep to the request's timeout.
2. An attempt that has emitted a delta is never repeated: its caller would see the start of the reply twice.
3. An error is raised outside every handler, so that no foreign exception, which may quote a key, hangs on it.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from treadle.clock import Clock, SystemClock
from treadle.errors import ConfigurationError, ProviderError
from treadle.providers.base import Emit, Endpoint, ModelReply, ModelRequest
from treadle.providers.chat_errors import (
    Scene,
    cut_failure,
    foreign_failure,
    secrets_of,
    status_failure,
    stream_failure,
)
from treadle.providers.chat_reply import DONE, EventParser, ReplyAssembler, mapping, sequence
from treadle.providers.chat_request import (
    OPENAI_DIALECT,
    Dialect,
    Json,
    adapted,
    chat_body,
    estimate_prompt_tokens,
)

if TYPE_CHECKING:
    import httpx2
    import openai

OPENAI_URL = "https://api.openai.com/v1"
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 8.0
LONGEST_WAIT_S = 60.0
"""A longer wait is not slept through: the error carries what the endpoint asked for, and the caller decides."""
TAIL_S = 5.0
"""How long the usage may follow the end of the text."""
LONGEST_ATTEMPT_S = 3600.0
"""How long an attempt may take where neither the request nor the connection bounds it: no reply takes an hour."""
CONNECTING = 0.9
"""The part of an attempt's time that connecting may take."""
DRAIN_S = 0.05
"""How long the end of the connection's body may follow the end of the stream, for the connection to be kept."""

UNUSED_KEY = "unused"
"""What the SDK, which insists on a key, is given where there is none; it is never sent."""

NOT_JSON = object()
"""What a text that is no JSON reads as: None is what `null` reads as."""

_SDK_HEADERS = ("accept", "content-type", "user-agent", "x-stainless-")
_CREDENTIALS = ("Authorization", "api-key", "OpenAI-Organization", "OpenAI-Project")
_EVENT_STARTS = (b"data", b"event", b"id", b"retry", b":")


class OpenAIProvider:
    """Answer model calls from an endpoint that speaks OpenAI's chat completions."""

    _key_header = "Authorization"
    _key_prefix = "Bearer "
    _address_hint = ""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Open nothing yet: the first call connects.

        Units: `jitter` gives the part, from 0 to 1, of the backoff that is waited.
        Errors: ConfigurationError where the address is none, or the key cannot be sent in a header.
        """
        self._endpoint = replace(endpoint, api_key=(endpoint.api_key or "").strip() or None)
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._base_url = endpoint.base_url or OPENAI_URL
        check_endpoint(endpoint, self._base_url)
        self._secrets = secrets_of(endpoint)
        self._dialect = _dialect(self._base_url)
        self._client = self._connected()
        self._headers = self._request_headers()

    def _connected(self) -> openai.AsyncOpenAI:
        import httpx2

        # Hazard: the library quotes the address that it refuses, and that may have a password.
        with contextlib.suppress(httpx2.InvalidURL):
            return self._connect()
        raise no_address()

    def _connect(self) -> openai.AsyncOpenAI:
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._endpoint.api_key or UNUSED_KEY,
            base_url=self._base_url,
            max_retries=0,
            http_client=self._http_client(),
        )

    def _http_client(self) -> httpx2.AsyncClient:
        from treadle.outbound import http_client

        return http_client(has_tls=self._base_url.startswith("https:"))

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Ask the model, and again where that can help; see `Provider.call`.

        Errors: ProviderError, whose `retry_after_s` is the wait that the endpoint asked for.
        """
        if self._client.is_closed():
            raise ProviderError(f"the connection to {Scene(self._base_url).where} is closed")
        deadline = None if request.timeout_s is None else self._clock.monotonic() + request.timeout_s
        for retries in itertools.count():
            outcome = await self._in_some_dialect(request, emit, deadline)
            if isinstance(outcome, ModelReply):
                return outcome
            wait = self._wait(outcome, retries, self._left(deadline))
            if wait is None:
                raise outcome.error
            await self._clock.sleep(wait)
        raise AssertionError  # pragma: no cover - count() does not end

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    def _left(self, deadline: float | None) -> float | None:
        return None if deadline is None else deadline - self._clock.monotonic()

    def _wait(self, failed: _Failed, retries: int, left: float | None) -> float | None:
        """Give the seconds to wait before the next attempt, or None where there is to be none."""
        error = failed.error
        if not error.retryable or failed.has_emitted or retries >= self._endpoint.max_retries:
            return None
        wait = error.retry_after_s
        if wait is None:
            wait = min(FIRST_BACKOFF_S * 2**retries, LONGEST_BACKOFF_S) * self._jitter()
        return None if wait > LONGEST_WAIT_S or (left is not None and wait >= left) else wait

    async def _in_some_dialect(
        self, request: ModelRequest, emit: Emit, deadline: float | None
    ) -> ModelReply | _Failed:
        """Make one attempt; where the endpoint refuses a field, say it the other way, and remember that."""
        tried: set[Dialect] = set()
        while True:
            dialect = self._dialect
            outcome = await self._attempt(request, emit, dialect, self._left(deadline))
            if (
                isinstance(outcome, ModelReply)
                or outcome.has_emitted
                or outcome.error.status not in (400, 422)
            ):
                return outcome
            tried.add(dialect)
            other = adapted(dialect, outcome.body, outcome.error.message)
            if other is None or other in tried:
                return outcome
            self._dialect = other

    async def _attempt(
        self, request: ModelRequest, emit: Emit, dialect: Dialect, left: float | None
    ) -> ModelReply | _Failed:
        import httpx2
        import openai

        scene = Scene(self._base_url, request.model, self._secrets, address_hint=self._address_hint)
        reply = ReplyAssembler(emit)
        bounds = (s for s in (left, self._endpoint.timeout_s) if s is not None)
        limit = min(bounds, default=LONGEST_ATTEMPT_S)
        body: Json = {}
        timer = asyncio.timeout(limit)
        try:
            body = chat_body(request, dialect)
            async with timer:
                await self._exchange(body, reply, timer, scene, limit)
            failure = None
        except ProviderError as error:
            failure = error
        except TimeoutError:
            if not timer.expired():
                raise
            failure = None if reply.is_whole else _timeout(scene, limit, reply)
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            failure = None if reply.is_whole else _translated(error, scene, reply, self._clock)
        if failure is not None:
            return _Failed(failure, body, has_emitted=reply.has_emitted)
        return reply.reply(lambda: estimate_prompt_tokens(request))

    async def _exchange(
        self, body: Json, reply: ReplyAssembler, timer: asyncio.Timeout, scene: Scene, limit: float
    ) -> None:
        """Send the request and read the answer, whether it streams or not, into `reply`."""
        response = await self._post(body, limit)
        try:
            content_type = response.headers.get("content-type", "").lower()
            async with contextlib.aclosing(response.aiter_bytes()) as chunks:
                document = await _read_events(chunks, content_type, _Taker(reply, timer, scene))
            if document is not None:
                _take_document(document, content_type, reply, scene)
        finally:
            await response.aclose()
        if reply.is_failed:
            words = f"it ended the reply with '{reply.finish_reason}'"
            raise stream_failure(scene, {"message": words, "code": "server_error"})
        if not reply.is_whole:
            raise cut_failure(scene, reply.progress)

    def _request_headers(self) -> dict[str, str | openai.Omit]:
        """Say every header that matters: keys, organization and headers of the environment are not the endpoint's."""
        from openai import Omit

        endpoint = self._endpoint
        strange = [n for n in self._client.default_headers if not n.lower().startswith(_SDK_HEADERS)]
        headers: dict[str, str | Omit] = dict.fromkeys((*strange, *_CREDENTIALS), Omit())
        if endpoint.organization:
            headers["OpenAI-Organization"] = endpoint.organization
        if endpoint.api_key:
            headers[self._key_header] = self._key_prefix + endpoint.api_key
        given = {name.lower() for name in endpoint.headers}
        return {n: v for n, v in headers.items() if n.lower() not in given} | dict(endpoint.headers)

    async def _post(self, body: Json, limit: float) -> httpx2.Response:
        import httpx2
        import openai

        from treadle.outbound import CONNECT_TIMEOUT_S, SILENCE_TIMEOUT_S

        # Hazard: the HTTP library forgets a connection whose TLS handshake is cancelled, so its own clock runs out first.
        connect_s = min(CONNECT_TIMEOUT_S, limit * CONNECTING)
        try:
            # The SDK's typed method walks every message with reflection: 150 ms for a thousand of them.
            answer: object = await self._client.post(
                "/chat/completions",
                cast_to=httpx2.Response,
                body=body,
                options={
                    "headers": self._headers,
                    "timeout": httpx2.Timeout(SILENCE_TIMEOUT_S, connect=connect_s, pool=None),
                },
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
        except (TypeError, ValueError) as error:
            raise ProviderError(f"the request cannot be sent: {error}") from None
        return cast("httpx2.Response", answer)


@dataclass(frozen=True, slots=True)
class _Failed:
    error: ProviderError
    body: Json
    has_emitted: bool


@dataclass(frozen=True, slots=True)
class _Taker:
    """Take the events of a stream, one by one."""

    reply: ReplyAssembler
    timer: asyncio.Timeout
    scene: Scene

    def take(self, data: str, *, is_last: bool = False) -> None:
        if self.reply.is_done:
            return
        if data.strip() == DONE:
            self.reply.is_done = True
        elif (chunk := _parsed(data)) is not NOT_JSON:
            self._feed(chunk)
        elif data.strip() and not is_last and not self.reply.is_whole:
            raise ProviderError(
                f"{self.scene.where} sent an event that is not JSON: {self.scene.quote(data)}", retryable=True
            )
        if self.reply.is_whole:
            _tighten(self.timer, DRAIN_S if self.reply.is_done else TAIL_S)

    def _feed(self, chunk: object) -> None:
        error = _error_of(chunk)
        if error is not None and not self.reply.is_whole:
            raise stream_failure(self.scene, error)
        self.reply.feed(chunk)


async def _read_events(chunks: AsyncIterator[bytes], content_type: str, taker: _Taker) -> bytes | None:
    """Read a stream of events to its end; give the bytes instead where the answer is no such stream."""
    from treadle.outbound import MAX_REPLY_BYTES, ReplyTooLarge

    head = bytearray()
    events: EventParser | None = None
    size = 0
    async for chunk in chunks:
        # Hazard: the client bounds what arrives, and this what it unpacks to, should it be compressed after all.
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            raise ReplyTooLarge(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        fresh = chunk
        if events is None:
            head += chunk
            if not _is_stream(bytes(head[:64]), content_type):
                continue
            events, fresh = EventParser(), bytes(head)
        for data in events.feed(fresh):
            taker.take(data)
    if events is None:
        return bytes(head)
    for data in events.end():
        taker.take(data, is_last=True)
    return None


def _is_stream(head: bytes, content_type: str) -> bool:
    """Tell by its first bytes whether an answer is a stream of events, whatever its header says."""
    head = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not head or head[:1] in (b"{", b"[", b"<"):
        return False
    return "event-stream" in content_type or head.startswith(_EVENT_STARTS)


def _take_document(document: bytes, content_type: str, reply: ReplyAssembler, scene: Scene) -> None:
    text = document.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").strip()
    if not text:
        raise cut_failure(scene, "its body is empty")
    chunk = _parsed(text)
    if chunk is NOT_JSON and text.startswith(("{", "[")):
        raise cut_failure(scene, f"its {len(document)} bytes are no whole JSON")
    if chunk is NOT_JSON:
        raise foreign_failure(scene, content_type, text)
    error = _error_of(chunk)
    if error is not None:
        raise stream_failure(scene, error)
    choices = map(mapping, sequence(mapping(chunk).get("choices")))
    if not any(isinstance(c.get("message") or c.get("delta"), dict) for c in choices):
        raise foreign_failure(scene, content_type, text)
    reply.feed(chunk)
    reply.is_done = True


def _parsed(data: str) -> object:
    """Give the JSON, or NOT_JSON where it is none."""
    try:
        return cast("object", json.loads(data))
    except (ValueError, RecursionError):
        return NOT_JSON


def _error_of(chunk: object) -> object:
    """Give the error that a chunk reports, or None."""
    body = mapping(chunk)
    if body.get("error"):
        return body["error"]
    is_bare = "choices" not in body and isinstance(body.get("message"), str)
    return body if is_bare else None


def _tighten(timer: asyncio.Timeout, seconds: float) -> None:
    latest = asyncio.get_running_loop().time() + seconds
    until = timer.when()
    if until is None or until > latest:
        timer.reschedule(latest)


def _timeout(scene: Scene, limit: float | None, reply: ReplyAssembler) -> ProviderError:
    took = "in time" if limit is None else f"within {max(limit, 0):.3g} s"
    return ProviderError(
        f"{scene.where} did not answer {took}: {reply.progress}", kind="timeout", retryable=True
    )


def _translated(error: Exception, scene: Scene, reply: ReplyAssembler, clock: Clock) -> ProviderError:
    """Give our error for one of the SDK or of its HTTP library: the one table."""
    import httpx2
    import openai

    from treadle.outbound import ReplyTooLarge

    match error:
        case openai.APIStatusError():
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            return status_failure(scene, error.status_code, error.body, headers, now_ms=clock.now_ms)
        case ReplyTooLarge():
            return ProviderError(f"{scene.where}: {error}")
        case openai.APITimeoutError() | httpx2.TimeoutException():
            return _timeout(scene, None, reply)
        case openai.APIConnectionError():
            return _unreachable(scene, error.__cause__)
        case httpx2.RequestError():
            return cut_failure(scene, f"{reply.progress} ({scene.quote(_deepest(error))})")
        case _:
            return ProviderError(f"the request to {scene.where} failed: {scene.quote(str(error))}")


def _unreachable(scene: Scene, cause: BaseException | None) -> ProviderError:
    import httpx2

    if isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
        # Hazard: the library quotes the header that it refuses, and that may be the key.
        return ProviderError(f"the request to {scene.where} is no valid HTTP", kind="connection")
    words = scene.quote(_deepest(cause)) if cause else "the connection failed"
    hint = None
    if isinstance(cause, httpx2.ConnectError):
        hint = "is the server running, and is base_url its address?"
    return ProviderError(
        f"{scene.where} cannot be reached: {words}", kind="connection", retryable=True, hint=hint
    )


def _deepest(error: BaseException) -> str:
    """Give the words of the first cause: what the system said."""
    words = type(error).__name__
    seen: BaseException | None = error
    while seen is not None:
        words = str(seen) or words
        seen = seen.__cause__ or seen.__context__
    return words


def _dialect(base_url: str) -> Dialect:
    """Guess how an endpoint calls the limit of a reply, and which ids it takes: OpenAI and Azure have their own ways."""
    host = urlsplit(base_url).hostname or ""
    return OPENAI_DIALECT if host.endswith((".openai.com", ".azure.com")) else Dialect("max_tokens")


def no_address(quoted: str = "") -> ConfigurationError:
    """Give the error of an address that is none; it is quoted only where it is known what in it is secret."""
    which = f" '{quoted}'" if quoted else ""
    return ConfigurationError(
        f"base_url{which} is no address of a server", hint="write it like http://localhost:11434/v1"
    )


def check_endpoint(endpoint: Endpoint, base_url: str) -> None:
    """Refuse an address that is none, and keys and headers that HTTP cannot carry.

    Errors: ConfigurationError.
    """
    try:
        url = urlsplit(base_url)
        is_address = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        base_url.encode()
    except ValueError:
        url, is_address = None, False
    if url is None:
        raise no_address()
    if not is_address:
        raise no_address(Scene(base_url, secrets=secrets_of(endpoint)).quote(base_url))
    for name, value in (("api_key", endpoint.api_key or ""), *endpoint.headers.items()):
        if not (value.isascii() and value.strip().isprintable()):
            raise ConfigurationError(
                f"the connection's {name} has characters that an HTTP header cannot carry"
            )
