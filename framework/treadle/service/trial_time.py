"""Time and ids of a test: the same in every run of it, so that what a model is sent is the same, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count

from treadle.clock import Stop
from treadle.ids import begin

BEGIN_MS = 1_767_225_600_000
"""The first second of 2026 (UTC), in Unix milliseconds."""

PAUSE_S = 0.005
"""Real time in which others may come to rest before a wait is let pass."""


class StandingClock:
    """A clock that stands still but for waits, which move it on and take no time."""

    def __init__(self) -> None:
        """Stand at the first second of 2026."""
        self._elapsed_s = 0.0
        self._at_work = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def boot(self) -> str:
        """Name the only life of this clock."""
        return "test"

    def now_ms(self) -> int:
        """Give Unix milliseconds."""
        return BEGIN_MS + round(self._elapsed_s * 1000)

    def monotonic(self) -> float:
        """Give the seconds that were waited for."""
        return self._elapsed_s

    def move_to(self, ms: int) -> None:
        """Move on to a time, unless it is past already."""
        self._elapsed_s = max(self._elapsed_s, (ms - BEGIN_MS) / 1000)

    @contextmanager
    def working(self) -> Generator[None]:
        """Let no wait pass as long as something is at work that takes real time."""
        self._at_work += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    async def sleep(self, seconds: float) -> None:
        """Move on by that many seconds, once all else has come to rest; whoever is quicker has no need to wait."""
        due_s = self._elapsed_s + max(seconds, 0.0)
        await asyncio.sleep(PAUSE_S)
        await self._idle.wait()
        self._elapsed_s = max(self._elapsed_s, due_s)

    def every(self, seconds: float, function: Callable[[], None]) -> Stop:
        """Call nothing: a store in memory has no other process to tell that this one lives."""
        del seconds, function
        return _nothing


class NumberedIds:
    """Ids that count up, each prefix for itself."""

    def __init__(self) -> None:
        """Start at one."""
        self._counters: dict[str, count[int]] = {}

    def new(self, prefix: str) -> str:
        """Give the next id of a prefix."""
        return f"{begin(prefix)}{next(self._counters.setdefault(prefix, count(1))):024d}"


def _nothing() -> None:
    pass
