"""Ask an HTTP server as fast as it answers: prepared requests over connections that stay open, on one thread.

It does as little as it can for each answer, so that the server is what is measured: it looks for the length of the
body and for the status, and sends the next request. Streams are kept as they come and read after the measurement.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Address = tuple[str, int]
_MOST_READ = 1 << 20


def request(
    method: str, path: str, body: object = None, *, key: str | None = None, headers: Sequence[str] = ()
) -> bytes:
    """Give the bytes of a request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines.append("Content-Type: application/json")
    if method != "GET":
        lines.append(f"Content-Length: {len(content)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


@dataclass(slots=True)
class Load:
    """What came of a load.

    Units: seconds; `cpu_s` is the generator's own, `latencies_s` from a request to the whole of its answer.
    """

    count: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    last: bytes = b""

    @property
    def share(self) -> float:
        """Give how much of its core the generator used."""
        return self.cpu_s / self.seconds

    def latency(self, share: float) -> float:
        """Give the time within which that share of the answers came."""
        return sorted(self.latencies_s)[min(self.count - 1, int(self.count * share))]


def whole(answer: bytes) -> int | None:
    """Give where the body begins, once the whole answer is there."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    at = answer.find(b"content-length: ", 0, end)
    if at < 0:
        raise ValueError(f"an answer does not say how long it is: {answer[:end]!r}")
    length = int(answer[at + 16 : answer.find(b"\r\n", at)])
    return end + 4 if len(answer) >= end + 4 + length else None


@contextmanager
def connected(address: Address, count: int) -> Iterator[tuple[select.epoll, dict[int, socket.socket]]]:
    """Open that many connections, and something that tells which of them can be read."""
    ready = select.epoll()
    sockets: dict[int, socket.socket] = {}
    try:
        for _ in range(count):
            one = socket.create_connection(address, timeout=30)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[one.fileno()] = one
            ready.register(one.fileno(), select.EPOLLIN)
        yield ready, sockets
    finally:
        ready.close()
        for one in sockets.values():
            one.close()


def drive(
    address: Address, requests: Sequence[bytes], *, seconds: float = 1e9, count: int | None = None
) -> Load:
    """Send each request again and again, one connection for each of them, until the time is over or it is enough."""
    load = Load()
    waiting: dict[int, bytes] = {}
    with connected(address, len(requests)) as (ready, sockets):
        said = dict(zip(sockets, requests, strict=True))
        began, cpu = time.perf_counter(), time.process_time()
        sent = dict.fromkeys(sockets, began)
        for number, one in sockets.items():
            one.sendall(said[number])
        open_ = len(sockets)
        started = open_
        end = began + seconds
        while open_:
            for number, _ in ready.poll():
                one = sockets[number]
                found = one.recv(_MOST_READ)
                if not found:
                    raise ConnectionError("the server closed a connection")
                if number in waiting:
                    found = waiting.pop(number) + found
                body = whole(found)
                if body is None:
                    waiting[number] = found
                    continue
                now = time.perf_counter()
                load.latencies_s.append(now - sent[number])
                if not found.startswith(b"HTTP/1.1 200"):
                    load.refused.append(found)
                load.last = found[body:]
                if now >= end or (count is not None and started >= count):
                    open_ -= 1
                    continue
                started += 1
                sent[number] = now
                one.send(said[number])
        load.seconds, load.cpu_s = time.perf_counter() - began, time.process_time() - cpu
    load.count = len(load.latencies_s)
    return load


def ask(address: Address, asked: bytes) -> Any:
    """Send one request and give its answer.

    Errors: RuntimeError for an answer that is no success.
    """
    load = drive(address, [asked], count=1)
    if load.refused:
        raise RuntimeError(load.refused[0].decode(errors="replace"))
    return json.loads(load.last)


def ask_all(address: Address, asked: Sequence[bytes], *, connections: int = 16) -> list[bytes]:
    """Send every request once, over some connections, and give the bodies of the answers in the order of the requests.

    Errors: RuntimeError for an answer that is no success.
    """
    bodies = [b""] * len(asked)
    left = iter(enumerate(asked))
    waiting: dict[int, bytes] = {}
    with connected(address, min(connections, len(asked))) as (ready, sockets):
        doing: dict[int, int] = {}

        def go_on(number: int) -> None:
            at, bytes_ = next(left, (None, b""))
            if at is None:
                doing.pop(number, None)
                return
            doing[number] = at
            sockets[number].sendall(bytes_)

        for number in sockets:
            go_on(number)
        while doing:
            for number, _ in ready.poll():
                found = waiting.pop(number, b"") + sockets[number].recv(_MOST_READ)
                body = whole(found)
                if body is None:
                    waiting[number] = found
                    continue
                if not found.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(found.decode(errors="replace"))
                bodies[doing[number]] = found[body:]
                go_on(number)
    return bodies


@dataclass(slots=True)
class Stream:
    """One stream: what came, and after how long it ended (seconds); None where it did not."""

    content: bytes = b""
    first_s: float | None = None
    ended_s: float | None = None


def stream(
    address: Address,
    requests: Sequence[bytes],
    *,
    within_s: float,
    meanwhile: Callable[[], None] = lambda: None,
    quiet_s: float | None = None,
) -> tuple[list[Stream], float]:
    """Open every stream at once, and read each to its end; gives them, and the seconds that all of them took.

    With `quiet_s`, streams need not end: once nothing has come for that long, `meanwhile` is called while they are open.
    """
    with connected(address, len(requests)) as (ready, sockets):
        pieces: dict[int, list[bytes]] = {number: [] for number in sockets}
        streams = {number: Stream() for number in sockets}
        began = time.perf_counter()
        for one, asked in zip(sockets.values(), requests, strict=True):
            one.sendall(asked)
        open_ = len(sockets)
        while open_ and time.perf_counter() - began < within_s:
            found = ready.poll(timeout=1.0 if quiet_s is None else quiet_s)
            if not found and quiet_s is not None:
                break
            for number, _ in found:
                piece = sockets[number].recv(_MOST_READ)
                now = time.perf_counter() - began
                one = streams[number]
                if one.first_s is None:
                    one.first_s = now
                pieces[number].append(piece)
                if not piece or piece.endswith(b"0\r\n\r\n"):
                    one.ended_s = now
                    ready.unregister(number)
                    open_ -= 1
        took = time.perf_counter() - began
        meanwhile()
    for number, one in streams.items():
        one.content = b"".join(pieces[number])
    return list(streams.values()), took


def events(content: bytes) -> list[tuple[str, str]]:
    """Give the events of a chunked answer: name and data of each."""
    head, _, rest = content.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return [("refused", content.decode(errors="replace"))]
    text = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        text += rest[:length]
        rest = rest[length + 2 :]
    found: list[tuple[str, str]] = []
    name = data = ""
    for line in text.decode().split("\n"):
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and name:
            found.append((name, data))
            name = data = ""
    return found
