"""Say whether the server lives, and whether it is ready: honestly, by trying what it would have to do."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from starlette.responses import Response

from treadle.errors import StoreError
from treadle.server.call import Call, json_response
from treadle.service import Treadle

logger = logging.getLogger("treadle.server")

ALIVE, READY = "/healthz", "/readyz"
ALWAYS = frozenset({ALIVE, READY})
"""What is answered however crowded the server is."""

PROBE_S = 2.0
"""How long the store may take to write."""
KEPT_S = 1.0
"""How long what was found counts: whoever asks more often makes nothing be written."""
SILENT_S = 30.0
"""How long ago the last sweep for runs may have ended."""


class Findings(NamedTuple):
    """What was found.

    Shapes: `failed` names the checks that failed, each with what is wrong in words without secrets or paths.
    """

    failed: dict[str, str]

    @property
    def is_ready(self) -> bool:
        """Tell whether all is well."""
        return not self.failed


class Health:
    """Looks after this process, at most once a second."""

    def __init__(self, treadle: Treadle, *, draining: asyncio.Event) -> None:
        """Take what is looked at, and what says that the server shuts down."""
        self._treadle = treadle
        self._draining = draining
        self._found: Findings | None = None
        self._until_s = 0.0
        self._looking: asyncio.Task[dict[str, str]] | None = None

    async def look(self) -> Findings:
        """Give what is wrong now: with the store, with the walker's heart, with the sweeps, or that the server shuts down."""
        treadle = self._treadle
        now_s = treadle.clock.monotonic()
        if self._found is None or now_s >= self._until_s:
            self._found = Findings(await self._store())
            self._until_s = treadle.clock.monotonic() + KEPT_S
        failed = dict(self._found.failed)
        if not treadle.executor.lease.is_alive:
            failed["walker"] = "its heart does not beat: others may take its runs"
        idle_s = treadle.keeper.idle_s
        if idle_s is not None and idle_s > SILENT_S:
            failed["sweeps"] = f"nobody looked after the runs for {int(idle_s)} seconds"
        if self._draining.is_set():
            failed["draining"] = "the server is shutting down"
        return Findings(failed)

    async def _store(self) -> dict[str, str]:
        """Try to write; those who ask while somebody tries share what is found."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._probe())
        return await asyncio.shield(self._looking)

    async def _probe(self) -> dict[str, str]:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._treadle.store.probe()
        except TimeoutError:
            return {"store": f"nothing could be written for {PROBE_S:g} seconds"}
        except StoreError as e:
            logger.warning("the store cannot be written to: %s", e.message)
            return {"store": "it cannot be written to; the log says why"}
        return {}


async def alive(_call: Call) -> Response:
    """Answer that the process answers.

    Wire: ``GET /healthz``.
    """
    return json_response({"status": "ok"})


async def ready(call: Call) -> Response:
    """Answer whether requests should come here: 200, or 503 with the checks that failed.

    Wire: ``GET /readyz``.
    """
    found = await call.server.health.look()
    if found.is_ready:
        return json_response({"status": "ready"})
    said = "; ".join(f"{name}: {what}" for name, what in found.failed.items())
    error = {
        "message": f"The server is not ready: {said}.", "type": "server_error", "param": None, "code": "not_ready",
    }  # fmt: skip
    return json_response({"error": error, "failed": found.failed}, status=503, headers={"retry-after": "1"})
