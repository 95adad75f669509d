"""A server for tests: the real one, on a free port of the loopback, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from treadle.objects.project import Project, ServeSpec
    from treadle.providers.base import Provider
    from treadle.server.app import Server
    from treadle.service import Treadle
    from treadle.store.base import Store

R = TypeVar("R")


class Served:
    """A server that runs.

    Shapes: `url` is its address without a path; `treadle` is what it serves, to be used through `do` only.
    """

    def __init__(self, url: str, treadle: Treadle, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        """Take the parts of a server that runs."""
        self.url = url
        self.treadle = treadle
        self.server = server
        self._loop = loop

    def do(self, coroutine: Coroutine[Any, Any, R], *, timeout_s: float = 30) -> R:
        """Run a coroutine on the server's event loop and give its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)


@contextmanager
def served(
    store: str | Store | Path,
    *,
    project: Project | Path | None = None,
    providers: Mapping[str, Provider] | None = None,
    spec: ServeSpec | None = None,
    no_auth: bool = True,
    **more: Any,
) -> Generator[Served]:
    """Serve a store while the block runs.

    Shapes: further keywords are those of `Treadle`; without a `spec` the project's `serve` counts. A key is asked
    for with `no_auth=False` only.
    """
    is_up: threading.Event = threading.Event()
    found: list[Served] = []
    failed: list[BaseException] = []
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        from treadle.server.app import Server
        from treadle.server.serving import bind, serve
        from treadle.service import Treadle

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.append((loop, stop))
        async with Treadle(
            str(store) if isinstance(store, Path) else store,
            project=project,
            providers=providers,
            walk=True,
            **more,
        ) as treadle:
            listening = bind("127.0.0.1", 0)
            port = listening.getsockname()[1]
            server = Server(treadle, spec, no_auth=no_auth)
            found.append(Served(f"http://127.0.0.1:{port}", treadle, server, loop))
            await serve(server, listening, stop=stop, on_started=is_up.set)

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as e:  # noqa: BLE001 - told to whoever waits for the server
            failed.append(e)
        finally:
            is_up.set()

    thread = threading.Thread(target=main, name="treadle-served", daemon=True)
    thread.start()
    is_up.wait(30)
    if failed:
        raise failed[0]
    try:
        yield found[0]
    finally:
        loop, stop = stops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
    if failed:
        raise failed[0]
