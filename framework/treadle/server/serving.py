"""Serve an open treadle over HTTP until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from treadle.errors import ConfigurationError
from treadle.server.app import Door, Server
from treadle.server.problems import Problem

logger = logging.getLogger("treadle.server")

GRACE_S = 10
"""How long requests that are under way may take after the server was told to stop."""
IDLE_S = 75
"""How long a connection without a request stays open."""
BACKLOG = 2048
LINGER_S = 1.0
"""How long a connection that was refused is still read from, for nothing."""
GATHERED_BYTES = 64 * 1024
"""How much is written in one turn of the loop before it is sent at once."""
HEAD_BYTES = 64 * 1024
"""How long the head of a request can be."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a certificate and of its key."""

    certificate: Path
    key: Path


class _Gathering(asyncio.Transport):
    """A connection that sends in one piece what is written in one turn of the loop: head and body, frames of a stream."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(bytes(data))
        self._bytes += len(data)
        if self._bytes >= GATHERED_BYTES:
            # The connection itself says when there is too much for its reader.
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


class _Protocol(HttpToolsProtocol):
    """HTTP as uvicorn reads it, but for what is refused before there is a request, and for targets that are whole addresses."""

    _head_bytes: int | None = None
    """Bytes of the head that is being read; None where none is."""
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - uvicorn's own type
        """Take a connection."""
        super().connection_made(_Gathering(transport, self.loop))

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head has come to its limit without an end."""
        if self._is_refused:
            return
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(
                    Problem(431, f"The head of the request is too long: at most {HEAD_BYTES} bytes are read.")
                )
                return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the envelope as everything else."""
        self._refuse(Problem(400, msg))

    def _refuse(self, problem: Problem) -> None:
        body = problem.body
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "x-should-retry: false\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        # Hazard: closing while more arrives makes the kernel take back what was written.
        self._is_refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        super().on_message_begin()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Hand on a target that is more than a path as it was sent."""
        self._head_bytes = None
        super().on_headers_complete()
        if not self.url.startswith(b"/"):
            self.scope["raw_path"] = self.url


def _protocol(server: Server) -> type[_Protocol]:
    """Give the protocol, which says as well when a connection has ended: its last answer may be lost then."""
    server.replays.sees_connections = True

    class Seen(_Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            server.replays.closed(self.client)

    return Seen


class QuietServer(uvicorn.Server):
    """uvicorn without hands of its own on the process's signals: whoever runs it has them."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None] | None = None) -> None:
        """Take how it serves, and who is told that it does."""
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Give a listening socket.

    Errors: ConfigurationError for an address that cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Hazard: where the protocol is not named, asyncio takes connections for no TCP and lets the kernel hold answers back.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as e:
        listening.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {e.strerror or e}",
            hint="take another port: --port 0 takes a free one",
        ) from e
    return listening


async def serve(
    server: Server,
    listening: socket.socket,
    *,
    stop: asyncio.Event,
    tls: Tls | None = None,
    on_started: Callable[[], None] | None = None,
) -> None:
    """Answer requests until `stop` is set; then let those that are under way end, and close the streams."""
    config = uvicorn.Config(
        Door(server),
        http=_protocol(server),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=str(tls.certificate) if tls else None,
        ssl_keyfile=str(tls.key) if tls else None,
    )
    serving = QuietServer(config, on_started)
    task = asyncio.create_task(serving.serve(sockets=[listening]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.draining.set()
        stopping.cancel()
        serving.should_exit = True
        await task
