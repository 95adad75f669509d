"""Stand-ins for the outside world, for tests: a model, a clock and ids that do what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from treadle.ids import begin
from treadle.providers.scripted import ScriptedProvider

__all__ = ["CountedIds", "FrozenClock", "ScriptedProvider"]


class _Beat:
    """What is called whenever its time has come."""

    def __init__(self, seconds: float, due_s: float, function: Callable[[], None]) -> None:
        self.seconds = seconds
        self.due_s = due_s
        self.function = function


class FrozenClock:
    """A clock that stands still until it is moved; waiting on it moves it and takes no time.

    Units: `wall_ms` Unix milliseconds, `elapsed_s` seconds; both may be set.
    """

    def __init__(self, wall_ms: int = 1_767_225_600_000, *, elapsed_s: float = 0.0) -> None:
        """Stop the clock, by default at the first second of 2026 (UTC)."""
        self.wall_ms = wall_ms
        self.elapsed_s = elapsed_s
        self.boot = "frozen"
        self._beats: list[_Beat] = []

    def now_ms(self) -> int:
        """Give the Unix milliseconds at which the clock stands."""
        return self.wall_ms

    def monotonic(self) -> float:
        """Give the seconds that were let pass."""
        return self.elapsed_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Errors: ValueError for negative seconds; set `wall_ms` to turn the wall clock back.
        """
        if seconds < 0:
            msg = f"time does not run backwards: {seconds} s; set wall_ms to turn the wall clock back"
            raise ValueError(msg)
        end, wall = self.elapsed_s + seconds, self.wall_ms
        start = self.elapsed_s
        while (due := min(self._beats, key=lambda b: b.due_s, default=None)) and due.due_s <= end:
            self.elapsed_s = max(self.elapsed_s, due.due_s)
            self.wall_ms = wall + round((self.elapsed_s - start) * 1000)
            due.due_s += due.seconds
            due.function()
        self.elapsed_s = end
        self.wall_ms = wall + round(seconds * 1000)

    def every(self, seconds: float, function: Callable[[], None]) -> Callable[[], None]:
        """Call a function whenever that many seconds were let pass, until the result is called."""
        beat = _Beat(seconds, self.elapsed_s + seconds, function)
        self._beats.append(beat)

        def stop() -> None:
            if beat in self._beats:
                self._beats.remove(beat)

        return stop

    async def sleep(self, seconds: float) -> None:
        """Move on by that many seconds and let other tasks run once."""
        self.advance(max(seconds, 0.0))
        await asyncio.sleep(0)


class CountedIds:
    """Ids that count up, each prefix for itself: run_000000000000000000000001, run_…2, msg_…1."""

    def __init__(self) -> None:
        """Start at one."""
        self._counters: dict[str, count[int]] = {}

    def new(self, prefix: str) -> str:
        """Give the next id of a prefix."""
        return f"{begin(prefix)}{next(self._counters.setdefault(prefix, count(1))):024d}"
