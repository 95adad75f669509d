"""Publish a run's events to whoever follows it in this process.

Rules

1. Committed events have a number; deltas have none. Nothing is published before it is committed, but deltas.
2. A follower is never waited for: one that does not read in time is cut off, and told where to go on.
3. A follower gets the deltas of the steps whose beginning it was told, so that what it has of a text is whole.
4. A follower of a family follows each run within its run from before that one's first step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from treadle.errors import StoreError
from treadle.objects.event import Event

MOST = 10_000
"""Events that may wait for a reader."""
FIRST_LOOK_S, LOOK_S = 0.1, 5.0
"""After how long a store in which nothing seems to happen is looked at all the same: at first, and later."""
SPACED_S = 0.0005
"""The pause after a look, for each follower that was told."""


class Follower:
    """One reader of one run."""

    def __init__(self, *, family: bool = False) -> None:
        """Start with nothing to read; of a `family` the followers of runs within are `within`, by the run's id."""
        self.within: dict[str, Follower] | None = {} if family else None
        self._waiting: deque[Event | None] = deque()
        self._news = asyncio.Event()
        self._begun: set[str] = set()
        self.is_cut = False

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to read now."""
        return not self._waiting

    @property
    def first_seq(self) -> int | None:
        """Give the number of the first committed event that waits to be read; None where none waits."""
        return next((e.seq for e in self._waiting if e is not None and e.seq is not None), None)

    def put(self, event: Event | None, *, path: str | None = None) -> None:
        """Hand on an event, or None where the walk comes to rest; `path` is the step that a delta is of."""
        if self.is_cut:
            return
        if path is not None and path not in self._begun:
            return
        if len(self._waiting) >= MOST:
            self._waiting.clear()
            self.is_cut = True
            event = None
        if event is not None and event.seq is None and event.name == "thread.run.step.in_progress":
            self._begun.add(event.object_id or "")
        self._waiting.append(event)
        self._news.set()

    async def get(self) -> Event | None:
        """Wait for the next event; None says that the walk came to rest, or that the reader is cut off."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


class Stream:
    """Who follows which run."""

    def __init__(self, changed: Callable[[float], Awaitable[None]]) -> None:
        """Start without followers; `changed` waits until others may have written, or that many seconds."""
        self._followers: dict[str, list[Follower]] = {}
        self._changed = changed
        self._watching: set[Follower] = set()
        self._watch: asyncio.Task[None] | None = None
        self.looks = 0
        """How often the store was looked at anew; whoever reads it notes this before."""

    def follow(self, run_id: str, *, family: bool = False) -> Follower:
        """Follow a run from now on, and with its `family` the runs that begin within it, too."""
        follower = Follower(family=family)
        self._followers.setdefault(run_id, []).append(follower)
        return follower

    def leave(self, run_id: str, follower: Follower) -> None:
        """Stop following."""
        followers = self._followers.get(run_id, [])
        if follower in followers:
            followers.remove(follower)
        if not followers:
            self._followers.pop(run_id, None)
        for child_id, within in (follower.within or {}).items():
            self.leave(child_id, within)

    def is_followed(self, run_id: str) -> bool:
        """Tell whether anybody follows a run: otherwise its deltas need not be made."""
        return run_id in self._followers

    def publish(self, run_id: str, events: Sequence[Event], *, path: str | None = None) -> None:
        """Hand on events, in order; `path` is the step that they are deltas of."""
        for follower in self._followers.get(run_id, ()):
            for event in events:
                follower.put(event, path=path)
                if follower.within is not None and "child" in event.data:
                    child_id = str(event.data["child"])
                    follower.within[child_id] = self.follow(child_id, family=True)

    async def watched(self, follower: Follower, *, since: int) -> Event | None:
        """Wait for the next event of a run that nobody walks here; None says that others may have written of it.

        Shapes: `since` is what `looks` was before the store was read. One task looks for all followers together.
        """
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())
        if since != self.looks:
            return None
        self._watching.add(follower)
        try:
            return await follower.get()
        finally:
            self._watching.discard(follower)

    async def _look(self) -> None:
        """Tell those who wait whenever others have written, as long as there are any."""
        # What was written before this began is looked for soon.
        watching = asyncio.ensure_future(self._changed(FIRST_LOOK_S))
        try:
            while self._followers:
                try:
                    await watching
                except StoreError:
                    # Whoever reads is told by the read.
                    await asyncio.sleep(LOOK_S)
                # Invariant: what is written after somebody was told is watched for already.
                watching = asyncio.ensure_future(self._changed(LOOK_S))
                await asyncio.sleep(0)
                self.looks += 1
                told = len(self._watching)
                for follower in self._watching:
                    follower.put(None)
                # Each reads the store: where others write all the time, that must not be all that is done here.
                await asyncio.sleep(told * SPACED_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def close(self) -> None:
        """Look no more; who waits is told."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        for follower in self._watching:
            follower.put(None)

    def end(self, run_id: str) -> None:
        """Tell the followers that the walk has ended: the run is over, or waits for somebody."""
        for follower in self._followers.get(run_id, ()):
            follower.put(None)
