"""The application: what all requests share, and the door that every one of them comes through.

The door looks at a request from the outside (is this host served, whose key is it, is there room) before anything
reads its body; then the table of routes finds the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treadle.objects.agent import Agent
from treadle.objects.project import ServeSpec
from treadle.objects.run import Run
from treadle.server.call import Call, json_response
from treadle.server.problems import Problem, problem_of
from treadle.server.routes import ROUTES, Route

if TYPE_CHECKING:
    from treadle.service import Treadle

logger = logging.getLogger("treadle.server")

MOST_AGENTS = 10_000
"""Versions of agents that are kept read: they never change."""


class Server:
    """What all requests share."""

    def __init__(self, treadle: Treadle, spec: ServeSpec | None = None) -> None:
        """Take the open store, and how it is served; without that the project says it."""
        self.treadle = treadle
        self.spec = spec or treadle.project.serve
        self.draining = asyncio.Event()
        self.streams = 0
        self._agents: dict[tuple[str, str, int], Agent] = {}

    async def agent_of(self, run: Run) -> Agent:
        """Give the version of an agent that a run is of."""
        key = (run.tenant, run.agent_id, run.agent_version)
        agent = self._agents.get(key)
        if agent is None:
            agent = await self.treadle.store.get(Agent, run.tenant, run.agent_id, version=run.agent_version)
            if len(self._agents) >= MOST_AGENTS:
                self._agents.clear()
            self._agents[key] = agent
        return agent

    def admit_run(self, key_id: str) -> None:
        """Make sure that there is room for another run.

        Errors: RateLimited.
        """

    async def still_opens(self, call: Call) -> bool:
        """Tell whether the key that opened a stream still opens it."""
        del call
        return True

    @contextlib.asynccontextmanager
    async def counted_stream(self) -> AsyncGenerator[None]:
        """Count a stream as long as it is open."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


class Endpoint:
    """What one path answers, by method."""

    def __init__(self, server: Server, routes: Sequence[Route]) -> None:
        """Take the rows of the path."""
        self._server = server
        self._routes: Mapping[str, Route] = {route.method: route for route in routes}
        self._allow = ", ".join(self._routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; whatever goes wrong is told in the envelope."""
        call: Call = scope["treadle.call"]
        try:
            response = await self._answer(call, scope, receive)
        except Exception as e:  # noqa: BLE001 - every error becomes an answer
            response = failed(e, scope)
        await response(scope, receive, send)

    async def _answer(self, call: Call, scope: Scope, receive: Receive) -> Response:
        route = self._routes.get(scope["method"])
        if route is None:
            said = f"Method {scope['method'][:20]} is not allowed here; allowed: {self._allow}."
            raise Problem(405, said, headers={"allow": self._allow})
        scope["treadle.route"] = route.path
        if route.method == "POST" and not route.multipart:
            call.raw = await read_body(call, receive, self._server.spec.limits.body_bytes)
        found = await route.handler(call)
        return found if isinstance(found, Response) else json_response(found)


def failed(error: Exception, scope: Scope) -> Response:
    """Give the answer for an error; what nobody foresaw goes to the log."""
    problem = problem_of(error)
    if problem.status == 500:
        logger.error("%s %s failed", scope["method"], scope.get("treadle.route", ""), exc_info=error)
    return problem.response()


async def read_body(call: Call, receive: Receive, most: int) -> bytes:
    """Give the whole body.

    Errors: Problem for one that is too long.
    """
    length = call.header("content-length")
    if length is not None and length.isdigit() and int(length) > most:
        raise _too_long(most)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > most:
            raise _too_long(most)
        return body
    pieces = [body]
    size = len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "The request ended before its body did.")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise _too_long(most)
    return b"".join(pieces)


def _too_long(most: int) -> Problem:
    return Problem(413, f"The body is too long: at most {most} bytes are read.", headers={"connection": "close"})


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    said = f"Unknown request URL: {scope['method'][:20]} {scope['path'][:200]}."
    await Problem(404, said, code="unknown_url").response()(scope, receive, send)


def router(server: Server) -> Router:
    """Give the table of routes as an application."""
    by_path: dict[str, list[Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, []).append(route)
    routes = [StarletteRoute(path, Endpoint(server, rows)) for path, rows in by_path.items()]
    return Router(routes, redirect_slashes=False, default=_nowhere)


class Door:
    """The whole application: every request comes through here."""

    def __init__(self, server: Server) -> None:
        """Take what all requests share."""
        self._server = server
        self._router: ASGIApp = router(server)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"this server speaks HTTP only, not {scope['type']}")
        began = time.perf_counter()
        request_id = f"req_{secrets.token_hex(12)}"
        echoed = _echoed(scope)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                taken = int((time.perf_counter() - began) * 1000)
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"openai-version", b"2020-10-01"),
                    (b"openai-processing-ms", str(taken).encode()),
                    *echoed,
                ]
            await send(message)

        try:
            self._enter(scope, receive)
        except Exception as e:  # noqa: BLE001 - every error becomes an answer
            await failed(e, scope)(scope, receive, tell)
            return
        await self._router(scope, receive, tell)

    def _enter(self, scope: Scope, receive: Receive) -> None:
        """Find out whose request it is, and open it."""
        server = self._server
        tenant, rest = mounted(scope["path"])
        treadle = server.treadle.scoped(tenant or server.treadle.tenant)
        scope["path"] = rest
        scope["treadle.call"] = Call(scope, receive, server, treadle)


_MOUNT = re.compile(r"(?:/api/projects/(?P<tenant>[^/]+))?(?:/openai)?(?:/v1)?(?P<rest>/.*)?\Z", re.DOTALL)


def mounted(path: str) -> tuple[str | None, str]:
    """Give the tenant that a path names, None where it names none, and the path behind its mount."""
    found = _MOUNT.match(path)
    if found is None:
        return None, path
    rest = found["rest"] or "/"
    return found["tenant"], rest.rstrip("/") or "/"


def _echoed(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Give the headers that Azure's clients want back."""
    return [(k, v) for k, v in scope["headers"] if k == b"x-ms-client-request-id"]
