"""A managed identity for development: the loopback endpoint where Azure's credentials fetch their token.

`DefaultAzureCredential` asks the address of `IDENTITY_ENDPOINT` and shows what `IDENTITY_HEADER` says. Ours
answers with a token of one tenant, so that a script written for the hosted service runs with nothing but a few
environment variables. The endpoint has a port of its own: it must answer plain http, the API must not.

Rules

1. Loopback only: the address of the caller, and the name that it calls.
2. The secret is made at each start and compared in constant time.
3. Tokens are kept as hashes, in memory only; an hour after it was given none opens anything.
4. Tokens are given for this service alone: what a script wants elsewhere it must not get from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import shlex
import socket
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, quote

from starlette.types import ASGIApp, Receive, Scope, Send

from treadle import ids
from treadle.clock import Clock, SystemClock
from treadle.server.call import json_response
from treadle.server.problems import Problem

if TYPE_CHECKING:
    import uvicorn

PATH = "/msi/token"
LIFE_S = 3600
MOST_TOKENS = 10_000
"""So many tokens are good at a time; with one more the oldest is not."""

RESOURCES = frozenset({"https://ai.azure.com", "https://cognitiveservices.azure.com"})
"""What a token may be asked for: the agents' clients ask for the first, AzureOpenAI's for the second."""

_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?\Z", re.IGNORECASE)


class Tokens:
    """Short-lived tokens, each of one tenant."""

    def __init__(self, *, clock: Clock | None = None, life_s: int = LIFE_S) -> None:
        """Take the clock; units: `life_s` seconds that a token is good for."""
        self._clock = clock or SystemClock()
        self._life_s = life_s
        self._kept: dict[bytes, tuple[str, float]] = {}

    def issue(self, tenant: str) -> tuple[str, int]:
        """Make a token of a tenant; units: the second is when it ends, in Unix seconds."""
        self._forget()
        token = ids.secret(43)
        self._kept[_digest(token)] = (tenant, self._clock.monotonic() + self._life_s)
        return token, self._clock.now_ms() // 1000 + self._life_s

    def tenant_of(self, token: str) -> str | None:
        """Give the tenant that a token opens; None for one that opens nothing, or no more."""
        tenant, ends = self._kept.get(_digest(token), ("", 0.0))
        return tenant if self._clock.monotonic() < ends else None

    def _forget(self) -> None:
        # Invariant: tokens stand in the order of their ends, for all live equally long.
        now = self._clock.monotonic()
        while self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest][1] > now and len(self._kept) < MOST_TOKENS:
                return
            del self._kept[oldest]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def identity_app(tokens: Tokens, *, tenant: str, secret: str) -> ASGIApp:
    """Make the endpoint that gives tokens of a tenant to whoever shows the secret."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        try:
            _check(scope, secret)
            resource = _resource(scope)
        except Problem as e:
            await e.response()(scope, receive, send)
            return
        token, expires_on = tokens.issue(tenant)
        # The hosted endpoint gives the time as a text, and clients read it as one.
        found = {
            "access_token": token,
            "expires_on": str(expires_on),
            "resource": resource,
            "token_type": "Bearer",
        }
        await json_response(found, headers={"cache-control": "no-store"})(scope, receive, send)

    return answer


def _check(scope: Scope, secret: str) -> None:
    """Let nobody through but who calls from this machine, by its loopback's name, with the secret.

    Errors: Problem.
    """
    client = cast("tuple[str, int] | None", scope.get("client"))
    if client is None or not _is_loopback(client[0]):
        raise Problem(403, "The identity endpoint answers this machine only.", code="forbidden")
    hosts = _headers(scope, b"host")
    if len(hosts) != 1 or not _HOST.match(hosts[0]):
        raise Problem(
            403, "The identity endpoint answers to the names of the loopback only.", code="forbidden"
        )
    if scope["path"] != PATH:
        raise Problem(404, f"Invalid URL (GET {PATH} gives a token).")
    if scope["method"] != "GET":
        raise Problem(405, f"Not allowed: GET {PATH} gives a token.", headers={"allow": "GET"})
    shown = _headers(scope, b"x-identity-header")
    if len(shown) != 1 or not hmac.compare_digest(shown[0].encode(), secret.encode()):
        raise Problem(
            401,
            "The X-IDENTITY-HEADER is not the one of this server: each start prints a new IDENTITY_HEADER.",
            code="invalid_identity_header",
        )


def _resource(scope: Scope) -> str:
    query = parse_qs(cast("bytes", scope["query_string"]).decode("latin-1"))
    asked = query.get("resource", [""])[-1]
    if asked.rstrip("/").removesuffix("/.default") not in RESOURCES:
        raise Problem(
            400,
            f"Invalid 'resource': tokens are given for {' and '.join(sorted(RESOURCES))}, got '{asked[:200]}'.",
            param="resource",
        )
    return asked


def _headers(scope: Scope, name: bytes) -> list[str]:
    found = cast("list[tuple[bytes, bytes]]", scope["headers"])
    return [value.decode("latin-1") for key, value in found if key == name]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Identity:
    """A running identity endpoint: what `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` are to say."""

    endpoint: str
    secret: str


@contextlib.asynccontextmanager
async def identity_endpoint(tokens: Tokens, *, tenant: str, port: int = 0) -> AsyncGenerator[Identity]:
    """Answer on a loopback port until the context is left; 0 takes a free one.

    Errors: OSError for a port that is taken.
    """
    secret = ids.secret(43)
    with contextlib.closing(socket.create_server(("127.0.0.1", port))) as bound:
        server = _server(identity_app(tokens, tenant=tenant, secret=secret))
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            yield Identity(f"http://127.0.0.1:{bound.getsockname()[1]}{PATH}", secret)
        finally:
            server.should_exit = True
            await serving


def _server(app: ASGIApp) -> uvicorn.Server:
    import uvicorn

    from treadle.server.serving import QuietServer

    return QuietServer(
        uvicorn.Config(
            app,
            lifespan="off",
            # Hazard: headers that tell of a proxy would say who the caller is.
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
    )


def client_environment(
    *, port: int, tenant: str, identity: Identity, trusted: Path, host: str = "localhost"
) -> Mapping[str, str]:
    """Give the variables with which a script written for the hosted service finds this server, and trusts it.

    Shapes: `trusted` is the file of authorities; synchronous clients read its name from REQUESTS_CA_BUNDLE,
    asynchronous ones from SSL_CERT_FILE.
    """
    return {
        "PROJECT_ENDPOINT": f"https://{host}:{port}/api/projects/{quote(tenant, safe='')}",
        "IDENTITY_ENDPOINT": identity.endpoint,
        "IDENTITY_HEADER": identity.secret,
        "REQUESTS_CA_BUNDLE": str(trusted),
        "SSL_CERT_FILE": str(trusted),
    }


def environment_lines(variables: Mapping[str, str]) -> str:
    """Give variables as lines for a shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
