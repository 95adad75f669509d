"""Start a server as an operator does: keys, address, certificate, log; then serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.server import logs
from treadle.server.app import Server
from treadle.server.auth import Tokens, first_key, refuse_open_bind
from treadle.server.serving import Tls, bind, serve

if TYPE_CHECKING:
    from treadle.objects.project import ServeSpec
    from treadle.service import Treadle


@dataclass(frozen=True, slots=True)
class Started:
    """A server that answers.

    Shapes: `key` is the one that was made for this first start, to be shown once; `environment` are lines for a shell
    that set the variables with which a script finds the server that shows a token of Azure's.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    environment: str = field(default="", repr=False)


class _Secured(NamedTuple):
    """What a server with TLS has beside one without."""

    tls: Tls | None = None
    tokens: Tokens | None = None
    environment: str = ""


async def run(
    treadle: Treadle,
    spec: ServeSpec,
    *,
    stop: asyncio.Event,
    store_file: Path | None = None,
    no_auth: bool = False,
    tls_dev: bool = False,
    log: logs.Form | None = None,
    on_started: Callable[[Started], None] | None = None,
) -> None:
    """Serve an open treadle until `stop` is set.

    Shapes: `store_file` says beside which file a development certificate is kept.

    Errors: ConfigurationError for an address that cannot be had, or that is open to others without keys.
    """
    refuse_open_bind(spec.host, no_auth=no_auth)
    logs.configure(log, secrets=(*treadle.models.secrets(), treadle.settings.api_key or ""))
    listening = bind(spec.host, spec.port)
    host, port = listening.getsockname()[:2]
    key = None if no_auth else await first_key(treadle)
    async with _secured(treadle, spec, port, store_file) if tls_dev else _plain() as secured:
        server = Server(treadle, spec, no_auth=no_auth, tokens=secured.tokens)

        def started() -> None:
            if on_started is not None:
                on_started(Started(_url(host, port, has_tls=tls_dev), key, secured.environment))

        await serve(server, listening, stop=stop, tls=secured.tls, on_started=started)


@contextlib.asynccontextmanager
async def _plain() -> AsyncGenerator[_Secured]:
    yield _Secured()


@contextlib.asynccontextmanager
async def _secured(
    treadle: Treadle, spec: ServeSpec, port: int, store_file: Path | None
) -> AsyncGenerator[_Secured]:
    """Give certificate, tokens and the client's environment, while the identity endpoint answers."""
    from treadle.server import identity, tls

    folder = tls.folder_of(store_file, treadle.root)
    certificate = tls.development_certificate(folder, spec.allow_hosts)
    tokens = identity.Tokens(clock=treadle.clock)
    async with identity.identity_endpoint(tokens, tenant=treadle.tenant) as found:
        environment = identity.client_environment(
            port=port, tenant=treadle.tenant, identity=found, trusted=certificate.trusted
        )
        files = Tls(certificate.certfile, certificate.keyfile)
        yield _Secured(files, tokens, identity.environment_lines(environment))


def _url(host: Any, port: int, *, has_tls: bool) -> str:
    name = "localhost" if has_tls else f"[{host}]" if ":" in host else host
    return f"{'https' if has_tls else 'http'}://{name}:{port}"
