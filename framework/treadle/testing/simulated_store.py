"""The real store in a file, behind a connection that a simulation can slow down, break and cut.

Faults come before the work (it is not done), after it (it is done, and the caller is told that it failed), or as
the end of the process that asked, so that nobody is told anything.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from treadle.errors import StoreError
from treadle.store.sqlite import SqliteStore
from treadle.testing.chance import Chance
from treadle.testing.trace import Trace

READS = frozenset(
    {
        "active_run", "agent_named", "asked", "blob", "cached", "children", "due", "events", "find", "get", "graph", "key",
        "keys", "last_event", "list", "probe", "rows", "steps", "walkers", "workflow_named",
    }
)  # fmt: skip
"""What writes nothing: an answer that is lost means nothing there."""
QUIET = frozenset({"close", "changed"})
"""What no fault is put around: it waits, and asks for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How likely each fault of a call is.

    Units: `wait_s` and `long_s` are mean seconds of the usual and the rare delay.
    """

    slow: float = 0.0
    wait_s: float = 0.0
    long: float = 0.0
    long_s: float = 0.0
    busy: float = 0.0
    before: float = 0.0
    after: float = 0.0
    crash: float = 0.0


CALM = Faults()


class SimulatedSqlite(SqliteStore):
    """The store as it is; `on_commit` hears of each commit, `cut` drops it as the end of a process does."""

    on_commit: Callable[[], None] | None = None

    def _announce(self) -> None:
        super()._announce()
        if self.on_commit is not None:
            self.on_commit()

    def cut(self) -> None:
        """Let the file go without writing what has gathered."""
        self._closed = True
        for connection in (self._reader, self._heart, self._writer):
            if connection is not None:
                connection.close()


class FaultyStore:
    """Passes every call on to a store, with the faults that the seed draws."""

    def __init__(
        self, inner: SimulatedSqlite, *, chance: Chance, trace: Trace, crash: Callable[[], None]
    ) -> None:
        """Take the store, and what ends the process that uses it."""
        self._inner = inner
        self._chance = chance
        self._trace = trace
        self._crash = crash
        self.faults = CALM

    def __getattr__(self, name: str) -> Any:
        """Give the store's own attribute, or its method with faults around it."""
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found):
            return found
        if name in QUIET:
            return found

        async def call(*arguments: Any, **options: Any) -> Any:
            return await self._call(name, found, arguments, options)

        return call

    async def _call(
        self,
        name: str,
        method: Callable[..., Coroutine[Any, Any, Any]],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        faults, chance = self.faults, self._chance
        await self._delay()
        if chance.happens(faults.busy):
            self._trace.note("store", name, "busy")
            raise StoreError("the store is locked by another process", retryable=True, hint="try again")
        if chance.happens(faults.before):
            self._trace.note("store", name, "fails")
            raise StoreError("the disk said no", hint="nothing was written")
        if name not in READS and chance.happens(faults.crash):
            await self._end(name, "before")
        try:
            result = await method(*arguments, **options)
        except BaseException as e:
            self._trace.note("store", name, type(e).__name__)
            raise
        if name in READS:
            return result
        self._trace.note("store", name)
        if chance.happens(faults.crash):
            await self._end(name, "after")
        await self._delay()
        if chance.happens(faults.after):
            self._trace.note("store", name, "answer lost")
            raise StoreError("the answer was lost", hint="it may have been written")
        return result

    async def _delay(self) -> None:
        faults, chance = self.faults, self._chance
        wait_s = chance.around(faults.wait_s) if chance.happens(faults.slow) else 0.0
        wait_s += chance.around(faults.long_s) if chance.happens(faults.long) else 0.0
        while wait_s > 0 and self.faults is not CALM:
            await asyncio.sleep(min(wait_s, 1.0))
            wait_s -= 1.0

    async def _end(self, name: str, when: str) -> None:
        self._trace.note("crash", when, name)
        self._crash()
        await asyncio.get_running_loop().create_future()
