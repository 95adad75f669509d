"""Answer a client's own repeat of a request with what its first attempt gave, so that one call makes one object.

Rules

1. A request that names itself by `Idempotency-Key` counts once, whatever became of its answer; another request under
   the same name is refused.
2. Azure's clients send one `x-ms-client-request-id` with every attempt of a call. It counts together with method, path
   and body, and until the answer was delivered: a program that sends one id with everything may say a thing twice.
3. OpenAI's clients only count their attempts, in `x-stainless-retry-count`. A first attempt always counts. A repeat
   stands for an earlier attempt that asked for the same under the same key and failed, or whose answer was not
   delivered. That is a guess: it can be turned off, and is counted apart.
4. An answer was delivered when its connection carries another request. Where it is known which connections are open,
   only one that the client closed a moment ago can have lost an answer to a client of OpenAI: it closes what failed,
   keeps what did not, and repeats within seconds. Behind a gateway that closes every connection nothing is guessed.
5. Only successes are kept; a repeat waits for an attempt that is still worked on. Streams and long answers are not
   kept: then, and after a failure that may have left something behind, the request is carried out once more under the
   durable key of the first attempt, under which the store has what that made.
6. What is kept here is this process's, for half an hour. The store knows durable keys for a day: those of the first
   kind are the same in every process, those of the second within half an hour of the wall clock; those of the third
   are found here alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from starlette.responses import Response

from treadle import ids
from treadle.clock import Clock
from treadle.server.problems import Problem, problem_of

Kind = Literal["idempotency_key", "client_request_id", "retry_count"]
Client = tuple[str, int]
Give = Callable[[str | None], Awaitable[Response]]

KEPT_S = 1800.0
"""How long an attempt is remembered."""
CUT_S = 15.0
"""How long after its connection was closed an attempt is looked for: OpenAI's clients wait up to 8 seconds."""
MOST_ATTEMPTS = 10_000
MOST_BYTES = 32 * 1024 * 1024
MOST_ANSWER_BYTES = 256 * 1024
"""How long an answer may be to be kept."""
REPLAYED = (b"idempotent-replayed", b"true")
"""The header by which a repeated answer is told from a new one."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Key:
    """What the attempts of one call have in common.

    Shapes: `identity` is the same for all that may be repeats of each other, `content` for those that ask for the
    same; it is None for a body that was not read yet. `durable` is what the store is asked under, a digest: nothing
    that a client sent can be read from it. `retry` counts the attempts of the call before this one, `is_last` says that
    the connection ends with the answer.
    """

    kind: Kind
    identity: str
    content: str | None
    durable: str
    client: Client | None
    retry: int = 0
    is_last: bool = False


def key_of(
    method: str,
    path: str,
    *,
    headers: Iterable[tuple[bytes, bytes]],
    tenant: str,
    key_id: str,
    body: bytes | None,
    client: Client | None,
    infers: bool = True,
) -> Key | None:
    """Give the identity of a request that may be repeated, None for one that is not told from others.

    Shapes: `headers` are those of ASGI, their names in lower case. `body` is None where the handler reads it piece by
    piece. Without `infers` only a request that names itself is known again.
    """
    if method in _SAFE:
        return None
    named, request_id, attempt, is_last = _names(headers)
    who = f"{tenant}\0{key_id}"
    content = None if body is None else _digest(f"{method}\0{path}\0".encode() + body)
    if named:
        identity = _digest(f"{who}\0".encode() + named)
        return Key("idempotency_key", identity, content, f"i-{identity}", client)
    if not infers:
        return None
    if request_id:
        identity = _digest(f"{who}\0{method}\0{path}\0{content}\0".encode() + request_id)
        return Key("client_request_id", identity, content, f"x-{identity}", client)
    if attempt is None or not attempt.isdigit() or content is None or client is None:
        return None
    identity = _digest(f"{who}\0{content}".encode())
    durable = f"a-{ids.secret(22)}"
    return Key("retry_count", identity, content, durable, client, int(attempt[:9]), is_last)


def durable_of(key: str | None, content: bytes) -> str | None:
    """Give the durable key of a request whose body was read by its handler, by the digest of what was read.

    A request that names itself stands for one content anyway: another one is refused.
    """
    if key is None or key.startswith("i-"):
        return key
    return f"{key}-{_digest(content)}"


def _names(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes, bytes | None, bool]:
    named, request_id, attempt, is_last = b"", b"", None, False
    for name, value in headers:
        if name == b"idempotency-key":
            named = value
        elif name == b"x-ms-client-request-id":
            request_id = value
        elif name == b"x-stainless-retry-count":
            attempt = value
        elif name == b"connection":
            is_last = value.lower() == b"close"
    return named, request_id, attempt, is_last


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Answer(NamedTuple):
    """An answer that can be given again."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def response(self) -> Response:
        """Give it once more, marked as a repeat."""
        response = Response(self.body, self.status)
        response.raw_headers = [*self.headers, REPLAYED]
        return response


@dataclass(eq=False, slots=True)
class _Attempt:
    """A request that is or was worked on, and may come again.

    Shapes: `is_over` says that its answer was delivered; `cut_s` is when its connection was closed, None while that is
    open. `retry` is that of the request that was taken for it last.
    """

    number: int
    kind: Kind
    identity: str
    content: str | None
    durable: str
    client: Client | None
    until_s: float
    status: Literal["working", "answered", "unkept", "failed"] = "working"
    answer: Answer | None = None
    turn: int = 0
    retry: int = 0
    is_last: bool = False
    is_over: bool = False
    cut_s: float | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Replays:
    """The requests of the last half hour that may come again, and their answers."""

    def __init__(
        self,
        clock: Clock,
        *,
        attempts: int = MOST_ATTEMPTS,
        answer_bytes: int = MOST_BYTES,
        sees_connections: bool = False,
        on_repeat: Callable[[Kind], None] | None = None,
    ) -> None:
        """Take the clock, and how much is kept.

        Shapes: with `sees_connections` somebody calls `closed` for every connection that ends. `on_repeat` hears of
        every request that is taken for a repeat.
        Units: `answer_bytes` counts the bodies of all answers.
        """
        self._clock = clock
        self._most = attempts
        self._most_bytes = answer_bytes
        self.sees_connections = sees_connections
        self._on_repeat = on_repeat
        self._number = 0
        self._bytes = 0
        self._all: OrderedDict[int, _Attempt] = OrderedDict()
        self._answered: OrderedDict[int, _Attempt] = OrderedDict()
        self._named: dict[str, _Attempt] = {}
        self._tried: dict[str, list[_Attempt]] = {}
        self._on: dict[Client, _Attempt] = {}

    def heard(self, client: Client | None) -> None:
        """Hear that a connection carries another request: what it was answered before has arrived."""
        attempt = self._on.pop(client, None) if client is not None else None
        if attempt is None or attempt.status in ("working", "failed"):
            return
        attempt.is_over = True
        if attempt.kind == "retry_count":
            self._forget(attempt)

    def closed(self, client: Client | None) -> None:
        """Hear that a connection was closed: what it was answered last may be lost."""
        attempt = self._on.pop(client, None) if client is not None else None
        if attempt is not None:
            attempt.cut_s = self._clock.monotonic()

    async def answer(self, key: Key | None, give: Give) -> Response:
        """Give the answer to a request: a new one, or the one that the first attempt of the same call got.

        Shapes: `give` carries the request out, under the durable key that it is given, None where it has none.

        Errors: Problem for a name that stands for another request; what `give` raises.
        """
        if key is None or key.content is None:
            return await give(self._durable(key) if key is not None else None)
        self._make_room()
        attempt = self._match(key)
        if attempt is None:
            attempt = self._remember(key)
            return await self._carry_out(attempt, give)
        self._bind(attempt, key)
        if self._on_repeat is not None:
            self._on_repeat(key.kind)
        while attempt.status == "working":
            await attempt.settled.wait()
        if attempt.answer is not None:
            return attempt.answer.response()
        attempt.status = "working"
        attempt.settled = asyncio.Event()
        return await self._carry_out(attempt, give)

    async def _carry_out(self, attempt: _Attempt, give: Give) -> Response:
        try:
            response = await give(attempt.durable)
        except BaseException as e:
            self._failed(attempt, problem_of(e).status if isinstance(e, Exception) else 500)
            raise
        finally:
            attempt.settled.set()
        self._succeeded(attempt, response)
        return response

    def _succeeded(self, attempt: _Attempt, response: Response) -> None:
        if not 200 <= response.status_code < 300:
            self._failed(attempt, response.status_code)
            return
        attempt.status = "unkept"
        body: object = getattr(response, "body", None)
        if not isinstance(body, bytes) or response.media_type == "text/event-stream":
            return
        if len(body) > MOST_ANSWER_BYTES:
            return
        attempt.status = "answered"
        if attempt.number not in self._all:
            return
        attempt.answer = Answer(response.status_code, tuple(response.raw_headers), body)
        self._answered[attempt.number] = attempt
        self._bytes += len(body)
        while self._bytes > self._most_bytes:
            self._drop_answer(next(iter(self._answered.values())))

    def _failed(self, attempt: _Attempt, status: int) -> None:
        """Remember a failure only where something may have been written all the same."""
        attempt.status = "failed"
        if status < 500:
            self._forget(attempt)

    # -- who is whose repeat ---------------------------------------------------------------------------------

    def _match(self, key: Key) -> _Attempt | None:
        """Give the attempt that a request repeats."""
        if key.kind == "retry_count":
            return self._tried_before(key) if key.retry else None
        attempt = self._named.get(key.identity)
        if attempt is None:
            return None
        if key.kind == "idempotency_key":
            if attempt.content != key.content:
                raise Problem(
                    400,
                    "This Idempotency-Key was used for another request before; give this one another key.",
                    code="idempotency_key_reused",
                    param="Idempotency-Key",
                )
            return attempt
        return None if attempt.is_over else attempt

    def _tried_before(self, key: Key) -> _Attempt | None:
        """Give the attempt that most likely was lost: one that failed, or whose connection was closed; the newest of them."""
        found = self._tried.get(key.identity, ())
        ranked = [
            (rank, key.retry - a.retry, -a.number, a)
            for a in found
            if a.retry < key.retry and (rank := self._doubt(a, key)) is not None
        ]
        return min(ranked)[3] if ranked else None

    def _doubt(self, attempt: _Attempt, key: Key) -> int | None:
        """Rank an attempt, the likeliest lowest; None for one whose answer arrived, as far as one can know."""
        if attempt.status == "failed":
            return 0
        if not self.sees_connections:
            return 1 if attempt.client != key.client else None
        if attempt.cut_s is None or attempt.is_last:
            return None
        return 1 if self._clock.monotonic() - attempt.cut_s <= CUT_S else None

    def _remember(self, key: Key) -> _Attempt:
        self._number += 1
        until_s = self._clock.monotonic() + KEPT_S
        durable = self._durable(key)
        attempt = _Attempt(self._number, key.kind, key.identity, key.content, durable, key.client, until_s)
        if key.kind == "retry_count":
            self._tried.setdefault(key.identity, []).append(attempt)
        else:
            before = self._named.get(key.identity)
            if before is not None:
                # What was said before has arrived, so this is something new: it needs a name of its own.
                self._forget(before)
                attempt.turn = before.turn + 1
                attempt.durable = f"{durable}-{attempt.turn}"
            self._named[key.identity] = attempt
        self._all[attempt.number] = attempt
        self._bind(attempt, key)
        return attempt

    def _durable(self, key: Key) -> str:
        """Give what the store is asked under.

        An id that a program sends with everything it ever asks must not stand for what it asked long ago.
        """
        if key.kind != "client_request_id":
            return key.durable
        return f"{key.durable}-{self._clock.now_ms() // int(KEPT_S * 1000)}"

    def _bind(self, attempt: _Attempt, key: Key) -> None:
        """Let an attempt be answered to a request: on the connection of that one alone its answer can arrive."""
        client = key.client
        if attempt.client is not None and self._on.get(attempt.client) is attempt:
            del self._on[attempt.client]
        attempt.client = client
        attempt.retry, attempt.is_last = key.retry, key.is_last
        attempt.is_over, attempt.cut_s = False, None
        if client is not None:
            self._on[client] = attempt

    # -- what is kept ----------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Forget what is too old or too much; what is still worked on stays."""
        now_s = self._clock.monotonic()
        for _ in range(len(self._all)):
            oldest = next(iter(self._all.values()))
            if oldest.until_s > now_s and len(self._all) < self._most:
                return
            if oldest.status == "working":
                self._all.move_to_end(oldest.number)
            else:
                self._forget(oldest)

    def _forget(self, attempt: _Attempt) -> None:
        self._drop_answer(attempt)
        self._all.pop(attempt.number, None)
        if attempt.client is not None and self._on.get(attempt.client) is attempt:
            del self._on[attempt.client]
        if attempt.kind != "retry_count":
            if self._named.get(attempt.identity) is attempt:
                del self._named[attempt.identity]
            return
        tried = self._tried.get(attempt.identity, [])
        if attempt in tried:
            tried.remove(attempt)
        if not tried:
            self._tried.pop(attempt.identity, None)

    def _drop_answer(self, attempt: _Attempt) -> None:
        if attempt.answer is not None:
            self._bytes -= len(attempt.answer.body)
            attempt.answer = None
            attempt.status = "unkept"
            del self._answered[attempt.number]
