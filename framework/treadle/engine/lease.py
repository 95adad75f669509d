"""The lease under which this process holds its runs: one walker, one heartbeat.

Rules

1. The heart beats apart from the event loop: a tool that blocks the loop loses nothing.
2. Time is the machine's monotonic clock; the times of another life of the machine, or of another machine, are
   never compared: such a walker is watched for a lease by our own clock.
3. A walker that was declared dead, or could not say for a whole lease that it lives, stops what it does at once
   and goes on, if at all, under another name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path

from treadle.clock import Clock, Stop
from treadle.errors import StoreError
from treadle.ids import Ids
from treadle.objects.walker import Walker
from treadle.store.base import Store

logger = logging.getLogger("treadle.engine")

BEATS = 3
"""Heartbeats in the time of a lease."""


class Lease:
    """Who this process is to the store, and that it lives.

    Units: `seconds` of silence after which its runs are anybody's.
    """

    def __init__(self, store: Store, *, clock: Clock, ids: Ids, seconds: float) -> None:
        """Take a name; nothing is written before the first claim."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self.seconds = seconds
        self._name = self._new_name()
        self._until_s = 0.0
        self._stop: Stop | None = None
        self._has_held = False
        self._on_lost: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _new_name(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:{self._ids.new('walker')[-8:]}"

    @property
    def id(self) -> str:
        """Give the walker's name."""
        return self._name

    @property
    def walker(self) -> Walker:
        """Give the walker to claim with; from the first time on its heart beats."""
        until_s = self._clock.monotonic() + self.seconds
        if self._stop is None and self._store.is_shared:
            self._loop = asyncio.get_running_loop()
            self._until_s = until_s
            self._stop = self._clock.every(self.seconds / BEATS, self.beat)
        host, space, pid = socket.gethostname(), _space(), os.getpid()
        return Walker(self._name, host, self._clock.boot, space, pid, 0, int(until_s * 1000))

    @property
    def is_alive(self) -> bool:
        """Tell whether this process may still hold what it holds; one that holds nothing lives."""
        return not self._has_held or self._stop is None or self._clock.monotonic() < self._until_s

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Take what is called, in the event loop, when the lease is lost."""
        self._on_lost = on_lost

    def beat(self) -> None:
        """Say that this process lives; find out whether anybody thinks otherwise."""
        until_s = self._clock.monotonic() + self.seconds
        try:
            is_alive = self._store.beat(self._name, int(until_s * 1000))
        except StoreError as e:
            if self._stop is None:
                return
            logger.warning("a heartbeat of %s was not written: %s", self._name, e.message)
            is_alive = self._clock.monotonic() < self._until_s
        else:
            if is_alive:
                self._until_s = until_s
        # A name under which nothing was held yet need not be in the store.
        if not is_alive and self._has_held:
            self._lose()

    def hold(self, walker: str | None) -> bool:
        """Tell whether a run that was claimed for a walker is this process's, under the name that it has now."""
        if walker != self._name:
            return False
        self._has_held = True
        return True

    def _lose(self) -> None:
        logger.warning("walker %s lost its lease: what it did is stopped", self._name)
        self._name = self._new_name()
        self._has_held = False
        self._until_s = self._clock.monotonic() + self.seconds
        if self._loop is None or self._on_lost is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._on_lost)
        except RuntimeError:
            return  # The loop is closed: there is nothing left to stop.

    async def release(self) -> None:
        """Let everything go that is still held, so that others need not wait."""
        if self._stop is None:
            return
        self._stop()
        self._stop = None
        try:
            await self._store.retire(self._name)
        except StoreError as e:
            logger.warning("what %s holds is free only when its lease is over: %s", self._name, e.message)


class Watch:
    """Who of the other walkers is dead."""

    def __init__(self, clock: Clock, *, seconds: float) -> None:
        """Take the clock to watch by, and how long a walker may be silent."""
        self._clock = clock
        self._seconds = seconds
        self._seen: dict[str, tuple[int, float]] = {}

    def is_dead(self, walker: Walker) -> bool:
        """Tell whether a walker's lease is over, or its process is gone."""
        now_s = self._clock.monotonic()
        if walker.boot == self._clock.boot:
            return now_s * 1000 > walker.until_ms or _is_gone(walker)
        if walker.host == socket.gethostname():
            return True  # This machine has come up anew since.
        beat, since_s = self._seen.get(walker.id, (-1, now_s))
        if beat != walker.beat:
            self._seen[walker.id] = (walker.beat, now_s)
            return False
        return now_s - since_s > self._seconds

    def forget(self, known: set[str]) -> None:
        """Forget walkers that are none of these."""
        for name in [name for name in self._seen if name not in known]:
            del self._seen[name]


def _is_gone(walker: Walker) -> bool:
    """Tell whether a walker was a process of this machine that does not exist any more."""
    if walker.host != socket.gethostname() or walker.space != _space() or walker.pid == os.getpid():
        return False
    try:
        os.kill(walker.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _is_unreaped(walker.pid)


def _is_unreaped(pid: int) -> bool:
    """Tell whether a process has ended and only its parent has not asked how; False where nobody can tell."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[:1] == ["Z"]


@cache
def _space() -> str:
    """Name the space that process numbers are of: a container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
