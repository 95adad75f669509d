"""`treadle serve`: the HTTP server, with which clients of Azure's agents and of OpenAI's assistants go on working."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import exit as codes
from treadle.cli.context import Invocation, command
from treadle.cli.opening import Opened, opened
from treadle.cli.output import complain, data, note
from treadle.cli.signals import Signals

if TYPE_CHECKING:
    from treadle.objects.project import ServeSpec
    from treadle.server.app import Server
    from treadle.server.logs import Form
    from treadle.server.serving import Tls
    from treadle.service import Treadle

_WORDS: dict[int, str] = dict.fromkeys(
    (signal.SIGINT, signal.SIGTERM), "\nstopping …  (again: quit at once)\n"
)


@command(name="serve")
@click.argument("files", metavar="[FILES]...", nargs=-1)
@click.option("--host", metavar="ADDRESS", help="The address to listen on; else 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port; else 8000. 0 takes a free one.")
@click.option(
    "--allow-host", "allow_hosts", metavar="NAME", multiple=True, help="A name by which it may be called."
)
@click.option("-m", "--model", metavar="MODEL", help="The model of every run, whatever it asks for.")
@click.option("--base-url", metavar="URL", help="The address of the default connection's model endpoint.")
@click.option("--no-auth", is_flag=True, help="Ask for no key; on this machine's loopback only.")
@click.option(
    "--tls-dev", is_flag=True, help="Serve https with a development certificate, and a managed identity."
)
@click.option("--log", type=click.Choice(["text", "json", "none"]), help="How requests are logged on stderr.")
@click.pass_obj
def serve(invocation: Invocation, *, files: tuple[str, ...], base_url: str | None, **given: Any) -> int:
    """Serve agents, threads and runs over HTTP to the clients azure-ai-agents and openai.

    FILES are agents to apply first. The first start makes a key and shows it once; make others with
    `treadle keys create`.
    """
    place = opened(invocation, base_url=base_url)
    signals = Signals()
    return signals.run(_serve(place, signals, files=files, **given))


async def _serve(
    place: Opened,
    signals: Signals,
    *,
    files: tuple[str, ...],
    no_auth: bool,
    tls_dev: bool,
    log: Form | None,
    **given: Any,
) -> int:
    from treadle.server import logs
    from treadle.server.app import Server
    from treadle.server.auth import first_key, refuse_open_bind
    from treadle.server.serving import bind, serve

    async with place.treadle(walk=True) as treadle:
        spec = _spec(treadle.project.serve, **given)
        refuse_open_bind(spec.host, no_auth=no_auth)
        for file in files:
            agent = await treadle.agents.apply(file)
            note(f"{agent.name}  {agent.id}  version {agent.version}")
        logs.configure(log, secrets=(*treadle.models.secrets(), treadle.settings.api_key or ""))
        listening = bind(spec.host, spec.port)
        host, port = listening.getsockname()[:2]
        key = None if no_auth else await first_key(treadle)
        stop = asyncio.Event()
        async with (
            _tls(treadle, spec, port) if tls_dev else contextlib.nullcontext((None, None, "")) as found
        ):
            tls, tokens, environment = found
            server = Server(treadle, spec, no_auth=no_auth, tokens=tokens)

            def started() -> None:
                _greet(place, treadle, url=_url(host, port, has_tls=tls_dev), key=key, no_auth=no_auth)
                if environment:
                    note("for a script that was written for Azure, with DefaultAzureCredential:")
                    data(environment, end="")

            with signals.obeyed_by(lambda: _stop(server, stop), words=_WORDS):
                await serve(server, listening, stop=stop, tls=tls, on_started=started)
    return codes.OK if signals.number is None else 128 + signals.number


def _stop(server: Server, stop: asyncio.Event) -> None:
    server.draining.set()
    stop.set()


def _spec(
    spec: ServeSpec, *, host: str | None, port: int | None, allow_hosts: tuple[str, ...], model: str | None
) -> ServeSpec:
    """Give how it is served: what the command line says, else the project."""
    given = {"host": host, "port": port, "model": model, "allow_hosts": (*spec.allow_hosts, *allow_hosts)}
    return spec.model_copy(update={name: value for name, value in given.items() if value is not None})


@contextlib.asynccontextmanager
async def _tls(treadle: Treadle, spec: ServeSpec, port: int) -> AsyncGenerator[tuple[Tls, Any, str]]:
    """Give certificate, tokens and the lines for the client's environment, while the identity endpoint answers."""
    from treadle.cli.context import file_of
    from treadle.server import identity, tls
    from treadle.server.serving import Tls

    folder = tls.folder_of(file_of(treadle.store.status().url), treadle.root)
    certificate = tls.development_certificate(folder, spec.allow_hosts)
    tokens = identity.Tokens(clock=treadle.clock)
    async with identity.identity_endpoint(tokens, tenant=treadle.tenant) as found:
        variables = identity.client_environment(
            port=port, tenant=treadle.tenant, identity=found, trusted=certificate.trusted
        )
        files = Tls(certificate.certfile, certificate.keyfile)
        yield files, tokens, identity.environment_lines(variables)


def _url(host: str, port: int, *, has_tls: bool) -> str:
    name = "localhost" if has_tls else f"[{host}]" if ":" in host else host
    return f"{'https' if has_tls else 'http'}://{name}:{port}"


def _greet(place: Opened, treadle: Treadle, *, url: str, key: str | None, no_auth: bool) -> None:
    """Say where it serves, and with which key."""
    note(f"treadle serves {treadle.store.status().url} at {url}", "bold")
    note(f"  azure-ai-agents  endpoint  {url}/api/projects/{treadle.tenant}")
    note(f"  openai           base_url  {url}/v1")
    note(f"  API              {url}/docs")
    if no_auth:
        complain("  no key is asked for (--no-auth): whoever reaches this port may do everything", "yellow")
    elif key is not None:
        note("  key              (shown this once; more: " + place.command("keys create") + ")")
        data(key)
    note("Ctrl-C stops; what runs is kept, and goes on with the next start.", "dim")
