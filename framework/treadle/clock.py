"""Time, from one place: everything that asks for the time asks a `Clock`.

Nothing but displayed times may depend on the wall clock; order and leases never do.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def now_ms(self) -> int:
        """Give the wall clock in Unix milliseconds, for display only."""
        ...

    def monotonic(self) -> float:
        """Give a clock that never runs backwards, in seconds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds of this clock."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Give Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Give seconds of a clock that never runs backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
