"""Let in as many requests, and as many runs, as there is room for; whoever comes on top is told when to come again.

Rules

1. Nothing is written before a request is admitted; what was admitted is never dropped.
2. What is refused says in how many seconds it is worth another try.
3. A key that asks too often is refused for itself alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from treadle.clock import Clock
from treadle.errors import RateLimited
from treadle.objects.project import ServeLimits

CROWDED_S = 1.0
"""When another try is worth it where nobody can know."""
MOST_KEYS = 10_000
"""Keys whose rates are remembered; the one that was idle longest is forgotten first."""


class Rate:
    """How often each key may do a thing: as much at once as in a minute, then evenly.

    A key that is forgotten starts with a full minute; to be forgotten it has to be idle for longer than all others.
    """

    def __init__(self, per_minute: int | None, *, clock: Clock, keys: int = MOST_KEYS) -> None:
        """Take how often in a minute, None for as often as anybody likes."""
        self._per_minute = per_minute
        self._clock = clock
        self._most = keys
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, key_id: str) -> float:
        """Count one more, and give 0; or count nothing, and give in how many seconds there is room for it."""
        if self._per_minute is None:
            return 0.0
        now_s = self._clock.monotonic()
        left, since_s = self._left.pop(key_id, (float(self._per_minute), now_s))
        left = min(self._per_minute, left + (now_s - since_s) * self._per_minute / 60)
        wait_s = 0.0
        if left >= 1:
            left -= 1
        else:
            wait_s = (1 - left) * 60 / self._per_minute
        self._left[key_id] = (left, now_s)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return wait_s


class Admission:
    """Who comes in."""

    def __init__(
        self,
        limits: ServeLimits,
        *,
        clock: Clock,
        walking: Callable[[], int],
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        """Take the limits, and what gives the number of runs that are walked now.

        Shapes: `on_refused` hears why somebody was refused: requests, active_runs, requests_per_minute or
        runs_per_minute.
        """
        self._limits = limits
        self._walking = walking
        self._on_refused = on_refused
        self._requests = Rate(limits.requests_per_minute, clock=clock)
        self._runs = Rate(limits.runs_per_minute, clock=clock)
        self.inside = 0
        """Requests that are answered now."""
        self._beginning = 0

    def enter(self) -> None:
        """Let a request in; whoever calls this calls `leave` in the end.

        Errors: RateLimited where too many are inside.
        """
        if self.inside >= self._limits.requests:
            raise self._refused("requests", "The server is answering as many requests as it can.", CROWDED_S)
        self.inside += 1

    def leave(self) -> None:
        """Let a request out."""
        self.inside -= 1

    @contextmanager
    def request(self, *, is_counted: bool = True) -> Generator[None]:
        """Hold the place of a request; one that is not counted comes in however many are inside.

        Errors: RateLimited as `enter`.
        """
        if not is_counted:
            yield
            return
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def check_rate(self, key_id: str) -> None:
        """Count a request of a key.

        Errors: RateLimited for a key that asks too often.
        """
        if wait_s := self._requests.wait_s(key_id):
            said = _too_often("requests", self._limits.requests_per_minute, wait_s)
            raise self._refused("requests_per_minute", said, wait_s)

    @contextmanager
    def run(self, key_id: str) -> Generator[None]:
        """Hold the place of a run that a key begins, until it is walked.

        Errors: RateLimited where too many runs are under way, or the key begins them too often.
        """
        if self._walking() + self._beginning >= self._limits.active_runs:
            raise self._refused("active_runs", "The server is walking as many runs as it can.", CROWDED_S)
        if wait_s := self._runs.wait_s(key_id):
            said = _too_often("runs", self._limits.runs_per_minute, wait_s)
            raise self._refused("runs_per_minute", said, wait_s)
        self._beginning += 1
        try:
            yield
        finally:
            self._beginning -= 1

    def _refused(self, reason: str, said: str, wait_s: float) -> RateLimited:
        if self._on_refused is not None:
            self._on_refused(reason)
        return RateLimited(said, retry_after_s=wait_s)


def _too_often(what: str, most: int | None, wait_s: float) -> str:
    return f"Rate limit reached for {what}: {most} per minute. Please try again in {math.ceil(wait_s)}s."
