"""`treadle serve`: the HTTP server, with which clients of Azure's agents and of OpenAI's assistants go on working."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import click

from treadle import registry
from treadle.cli import exit as codes
from treadle.cli.context import Invocation, command, file_of
from treadle.cli.opening import Opened, opened
from treadle.cli.output import complain, data, note
from treadle.cli.signals import Signals

if TYPE_CHECKING:
    from treadle.objects.project import ServeSpec
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
    """Serve agents, workflows, threads and runs over HTTP to the clients azure-ai-agents and openai.

    FILES are agents and workflows to apply first. The first start makes a key and shows it once; make others with
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
    log: str | None,
    **given: Any,
) -> int:
    from treadle.definition.load import kinds_of

    run = cast("Callable[..., Awaitable[None]]", registry.load("treadle.server.starting:run"))
    async with place.treadle(walk=True) as treadle:

        def started(found: Any) -> None:
            _greet(place, treadle, found, no_auth=no_auth)

        spec = _spec(treadle.project.serve, **given)
        for file in files:
            kinds = kinds_of(file, project_root=treadle.root)
            verbs = treadle.workflows if "workflow" in kinds else treadle.agents
            applied = await verbs.apply(file)
            note(f"{applied.name}  {applied.id}  version {applied.version}")
        stop = asyncio.Event()
        with signals.obeyed_by(stop.set, words=_WORDS):
            await run(
                treadle,
                spec,
                stop=stop,
                store_file=file_of(place.configuration.store),
                no_auth=no_auth,
                tls_dev=tls_dev,
                log=log,
                on_started=started,
            )
    return codes.OK if signals.number is None else 128 + signals.number


def _spec(
    spec: ServeSpec, *, host: str | None, port: int | None, allow_hosts: tuple[str, ...], model: str | None
) -> ServeSpec:
    """Give how it is served: what the command line says, else the project."""
    given = {"host": host, "port": port, "model": model, "allow_hosts": (*spec.allow_hosts, *allow_hosts)}
    return spec.model_copy(update={name: value for name, value in given.items() if value is not None})


def _greet(place: Opened, treadle: Treadle, started: Any, *, no_auth: bool) -> None:
    """Say where it serves, and with which key; `started` is what the server says of itself."""
    url = started.url
    note(f"treadle serves {treadle.store.status().url} at {url}", "bold")
    note(f"  azure-ai-agents  endpoint  {url}/api/projects/{treadle.tenant}")
    note(f"  openai           base_url  {url}/v1")
    note(f"  API              {url}/docs")
    if no_auth:
        complain("  no key is asked for (--no-auth): whoever reaches this port may do everything", "yellow")
    elif started.key is not None:
        note(f"  key              (shown this once; more: {place.command('keys create')})")
        data(started.key)
    if started.environment:
        note("for a script that was written for Azure, with DefaultAzureCredential:")
        data(started.environment, end="")
    note("Ctrl-C stops; what runs is kept, and goes on with the next start.", "dim")
