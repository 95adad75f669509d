"""Publish a run's events to whoever follows it in this process.

Committed events have a number; deltas have none. A follower that does not read is never waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from treadle.objects.event import Event


class Follower:
    """One reader of one run."""

    def __init__(self) -> None:
        """Start with nothing to read."""
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(self, event: Event | None) -> None:
        """Hand on an event; None ends the stream."""
        self._queue.put_nowait(event)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Go through the events until the stream ends."""
        while True:
            event = await self._queue.get()
            if event is None:
                return
            yield event


class Stream:
    """Who follows which run."""

    def __init__(self) -> None:
        """Start without followers."""
        self._followers: dict[str, list[Follower]] = {}

    def follow(self, run_id: str) -> Follower:
        """Follow a run from now on."""
        follower = Follower()
        self._followers.setdefault(run_id, []).append(follower)
        return follower

    def leave(self, run_id: str, follower: Follower) -> None:
        """Stop following."""
        followers = self._followers.get(run_id, [])
        if follower in followers:
            followers.remove(follower)
        if not followers:
            self._followers.pop(run_id, None)

    def is_followed(self, run_id: str) -> bool:
        """Tell whether anybody follows a run: otherwise its deltas need not be made."""
        return run_id in self._followers

    def publish(self, run_id: str, events: Sequence[Event]) -> None:
        """Hand on events, in order."""
        for follower in self._followers.get(run_id, ()):
            for event in events:
                follower.put(event)

    def end(self, run_id: str) -> None:
        """Tell the followers that the walk has ended: the run is over, or waits for somebody."""
        for follower in self._followers.get(run_id, ()):
            follower.put(None)
