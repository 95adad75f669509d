"""The application: what all requests share, and the door that every one of them comes through.

The door looks at a request from the outside (is this host served, whose key is it, is there room) before anything
reads its body; then the table of routes finds the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treadle.errors import StoreError
from treadle.objects.agent import Agent
from treadle.objects.project import ServeSpec
from treadle.objects.run import Run
from treadle.objects.workflow import Workflow
from treadle.server import door, health, metrics, pages
from treadle.server.admission import Admission
from treadle.server.auth import OPEN, Auth, Principal, Tokens, refuse_open_bind
from treadle.server.call import Call, json_response
from treadle.server.health import ALWAYS, Health
from treadle.server.logs import RequestLine, told
from treadle.server.metrics import Metrics, Numbers
from treadle.server.problems import Problem, problem_of
from treadle.server.replay import Replays, key_of
from treadle.server.routes import PUBLIC, ROUTES, Route

if TYPE_CHECKING:
    from treadle.service import Treadle

logger = logging.getLogger("treadle.server")

SYSTEM = (
    Route("GET", "/openapi.json", pages.document, "Describe the API.", "json"),
    Route("GET", "/docs", pages.page, "Show the API.", "html"),
    Route("GET", health.ALIVE, health.alive, "Answer that the process answers.", "json"),
    Route("GET", health.READY, health.ready, "Answer whether requests should come here.", "json"),
    Route("GET", "/metrics", metrics.text, "Give the server's numbers, as Prometheus reads them.", "text"),
)
"""What is answered beside the API."""

_VERSION = b"2020-10-01"
"""The version of the API that OpenAI's servers name."""
_EVENTS = b"text/event-stream; charset=utf-8"
_NOBODY = Principal(OPEN, None)

MOST_AGENTS = 10_000
"""Versions of agents, and of workflows, that are kept read: they never change."""


class Server:
    """What all requests share."""

    def __init__(
        self,
        treadle: Treadle,
        spec: ServeSpec | None = None,
        *,
        no_auth: bool = False,
        tokens: Tokens | None = None,
    ) -> None:
        """Take the open store, and how it is served; without that the project says it.

        Shapes: with `no_auth` nobody needs a key; `tokens` are what else opens a tenant.

        Errors: ConfigurationError for a bind that is open to others without keys, and for hosts or origins that none
        can be.
        """
        self.treadle = treadle
        self.spec = spec or treadle.project.serve
        refuse_open_bind(self.spec.host, no_auth=no_auth)
        self.gate = door.gate_of(self.spec)
        self.auth = Auth(treadle.store, treadle.settings, no_auth=no_auth, tokens=tokens)
        self.draining = asyncio.Event()
        self.streams = 0
        self.metrics = Metrics(now=self._numbers())
        treadle.executor.on_commit = self.metrics.committed
        self.admission = Admission(
            self.spec.limits,
            clock=treadle.clock,
            walking=lambda: treadle.executor.walking,
            on_refused=self.metrics.refused,
        )
        self.replays = Replays(treadle.clock, on_repeat=self.metrics.repeated)
        self.health = Health(treadle, draining=self.draining)
        self._agents: dict[tuple[str, str, int], Agent] = {}
        self._workflows: dict[tuple[str, str, int], Workflow] = {}

    def _numbers(self) -> Numbers:
        return {
            "requests_in_flight": ("Requests that are answered now.", lambda: self.admission.inside),
            "streams_open": ("Streams that are open.", lambda: self.streams),
            "runs_walking": ("Runs that this process walks now.", lambda: self.treadle.executor.walking),
        }

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

    async def workflow_of(self, run: Run) -> Workflow:
        """Give the version of a workflow that a run is of."""
        key = (run.tenant, run.agent_id, run.agent_version)
        workflow = self._workflows.get(key)
        if workflow is None:
            workflow = await self.treadle.store.get(
                Workflow, run.tenant, run.agent_id, version=run.agent_version
            )
            if len(self._workflows) >= MOST_AGENTS:
                self._workflows.clear()
            self._workflows[key] = workflow
        return workflow

    async def still_opens(self, call: Call) -> bool:
        """Tell whether the key that opened a stream still opens it."""
        return await self.auth.is_valid(call.principal)

    @contextlib.contextmanager
    def counted_stream(self) -> Generator[None]:
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
        method = scope["method"]
        route = self._routes.get(method)
        if route is None:
            said = f"Method {method[:20]} is not allowed here; allowed: {self._allow}."
            raise Problem(405, said, headers={"allow": self._allow})
        scope["treadle.route"] = route.path
        if route.streams != "never":
            _ = call.on_disconnect  # A wish that cannot be is refused before anything is done.
        if method == "GET":
            return _rendered(await route.handler(call))
        if not route.multipart:
            call.raw = await read_body(call, receive, self._server.spec.limits.body_bytes)
            if method == "POST":
                door.check_json(scope["headers"], is_empty=not call.raw)

        async def give(durable: str | None) -> Response:
            call.key = durable
            return _rendered(await route.handler(call))

        key = key_of(
            method,
            scope["path"],
            headers=scope["headers"],
            tenant=call.treadle.tenant,
            key_id=call.key_id,
            body=None if route.multipart else call.raw,
            client=scope["client"],
            infers=self._server.spec.deduplicate_retries,
        )
        return await self._server.replays.answer(key, give)


def _rendered(found: Any) -> Response:
    return found if isinstance(found, Response) else json_response(found)


def failed(error: Exception, scope: Scope) -> Response:
    """Give the answer for an error; what nobody foresaw goes to the log."""
    problem = problem_of(error)
    if problem.status == 500 or isinstance(error, StoreError):
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
    return Problem(
        413, f"The body is too long: at most {most} bytes are read.", headers={"connection": "close"}
    )


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    said = f"Unknown request URL: {scope['method'][:20]} {scope['path'][:200]}."
    await Problem(404, said, code="unknown_url").response()(scope, receive, send)


class Table(Router):
    """Routes of which the first segment of a path finds the few that it can be of; they are tried from the top."""

    def __init__(self, routes: Sequence[StarletteRoute]) -> None:
        """Take the routes, those that are asked for most first."""
        super().__init__(routes, redirect_slashes=False, default=_nowhere)
        by_segment: dict[str, list[StarletteRoute]] = {}
        for route in routes:
            by_segment.setdefault(_segment(route.path), []).append(route)
        self._tables: dict[str, ASGIApp] = {
            segment: Router(found, redirect_slashes=False, default=_nowhere)
            for segment, found in by_segment.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._tables.get(_segment(scope["path"]), _nowhere)(scope, receive, send)


def _segment(path: str) -> str:
    return path[1:].partition("/")[0]


def router(server: Server) -> Table:
    """Give the tables of routes as an application."""
    by_path: dict[str, list[Route]] = {}
    for route in (*ROUTES, *SYSTEM):
        by_path.setdefault(route.path, []).append(route)
    return Table([StarletteRoute(path, Endpoint(server, rows)) for path, rows in by_path.items()])


class Door:
    """The whole application: every request comes through here."""

    def __init__(self, server: Server) -> None:
        """Take what all requests share."""
        self._server = server
        self._router = router(server)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"this server speaks HTTP only, not {scope['type']}")
        seen = _Seen(self._server, scope)
        telling = seen.through(send)
        self._server.replays.heard(scope["client"])
        try:
            with self._server.admission.request(is_counted=scope["path"] not in ALWAYS):
                scope["treadle.call"] = await self._enter(scope, receive)
                await self._router(scope, receive, telling)
        except Exception as e:
            if seen.has_begun:
                raise  # An answer that broke in the middle ends its connection: it has no second head.
            await failed(e, scope)(scope, receive, telling)
        finally:
            seen.end()

    async def _enter(self, scope: Scope, receive: Receive) -> Call:
        """Find out whose request it is, and open it.

        Errors: Problem; RateLimited.
        """
        server = self._server
        found = door.check(server.gate, scope)
        scope["path"] = found.path
        principal = _NOBODY
        tenant = server.treadle.tenant
        if found.path not in PUBLIC:
            principal = await server.auth.principal(scope["headers"])
            tenant = server.auth.tenant(principal, found.tenant)
            server.admission.check_rate(principal.key_id)
        return Call(scope, receive, server, server.treadle.scoped(tenant), principal)


class _Seen:
    """What is seen of a request from the outside: it is told in the answer's headers, in the log and in metrics."""

    __slots__ = ("_at_ms", "_began", "_bytes", "_clock", "_id", "_is_stream", "_scope", "_server", "_status")

    def __init__(self, server: Server, scope: Scope) -> None:
        self._server = server
        self._scope = scope
        self._clock = server.treadle.clock
        self._began = self._clock.monotonic()
        self._at_ms = server.treadle.clock.now_ms()
        self._id = server.treadle.ids.new("req")
        self._status = 0
        self._bytes = 0
        self._is_stream = False

    @property
    def has_begun(self) -> bool:
        """Tell whether the head of an answer was sent."""
        return self._status != 0

    def through(self, send: Send) -> Send:
        """Give what an answer is sent through."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
                self._is_stream = (b"content-type", _EVENTS) in message["headers"]
                message["headers"] = [*message["headers"], *self._headers()]
            else:
                self._bytes += len(message.get("body", b""))
            await send(message)

        return tell

    def _headers(self) -> list[tuple[bytes, bytes]]:
        taken_ms = int((self._clock.monotonic() - self._began) * 1000)
        return [
            (b"x-request-id", self._id.encode()),
            (b"openai-version", _VERSION),
            (b"openai-processing-ms", str(taken_ms).encode()),
            # Azure's clients want their own name of the request back.
            *((name, value) for name, value in self._scope["headers"] if name == b"x-ms-client-request-id"),
        ]

    def end(self) -> None:
        """Tell how it went."""
        scope = self._scope
        call: Call | None = scope.get("treadle.call")
        client = scope["client"]
        method, route = scope["method"][:20], scope.get("treadle.route", "")
        taken_s = self._clock.monotonic() - self._began
        self._server.metrics.answered(
            method, route, self._status, seconds=taken_s, bytes_out=self._bytes, streamed=self._is_stream
        )
        told(
            RequestLine(
                at_ms=self._at_ms,
                id=self._id,
                method=method,
                route=route,
                status=self._status,
                taken_ms=taken_s * 1000,
                tenant=call.treadle.tenant if call is not None else "",
                key_id=call.key_id if call is not None else "",
                bytes_out=self._bytes,
                client=client[0] if client else "",
            )
        )
