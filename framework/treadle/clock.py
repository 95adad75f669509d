"""Time, from one place: everything that asks for the time asks a `Clock`.

Order and leases never depend on the wall clock. What has to outlive the machine's present life does: displayed
times, when a run or a question expires, and how long a client's key is remembered.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

Stop = Callable[[], None]


class Clock(Protocol):
    """Where the time comes from."""

    @property
    def boot(self) -> str:
        """Name the life of the machine that `monotonic` is of; its times mean nothing in another one."""
        ...

    def now_ms(self) -> int:
        """Give the wall clock in Unix milliseconds, for display only."""
        ...

    def monotonic(self) -> float:
        """Give a clock that never runs backwards, in seconds; all processes of the machine share it."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds of this clock."""
        ...

    def every(self, seconds: float, function: Callable[[], None]) -> Stop:
        """Call a function every so many seconds, whatever the event loop does, until the result is called."""
        ...


class SystemClock:
    """The machine's own clocks."""

    @property
    def boot(self) -> str:
        """Name this life of the machine."""
        return _boot()

    def now_ms(self) -> int:
        """Give Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Give seconds of a clock that never runs backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def every(self, seconds: float, function: Callable[[], None]) -> Stop:
        """Call a function every so many seconds in a thread of its own, which ends with the process."""
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(seconds):
                function()

        threading.Thread(target=beat, name="treadle-clock", daemon=True).start()
        return is_over.set


@cache
def _boot() -> str:
    """Give the kernel's name of this boot; where it has none, the minute in which the machine came up."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"up since {round((time.time() - time.monotonic()) / 60)}"
