"""The events of a run and of the runs within it, as one stream; those of an agent's run are its own alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from treadle.errors import StreamCut
from treadle.ids import is_workflow_id
from treadle.lifecycle import RESTS, is_terminal

if TYPE_CHECKING:
    from treadle.objects.event import Event
    from treadle.objects.run import Run
    from treadle.service import Treadle

AHEAD = 1000
"""How many events are read before somebody takes them."""
PAGE = 500
STEP = "thread.run.step."

Marks = Mapping[str, int]
"""How far each run of a family was read: the number of its last event, by the run's id."""


def is_workflow_run(run: Run) -> bool:
    """Tell whether a run is of a workflow."""
    return is_workflow_id(run.agent_id)


async def marks(treadle: Treadle, run: Run) -> dict[str, int]:
    """Give how far the events of a run and of the runs within it that have not ended go now."""
    found = {run.id: await treadle.store.last_event(run.tenant, run.id)}
    if is_workflow_run(run):
        for child in await treadle.store.children(run.tenant, run.id):
            if not is_terminal(child.status):
                found |= await marks(treadle, child)
    return found


def follow(
    treadle: Treadle, run: Run, *, after: Marks | None = None, until_rest: bool = True
) -> AsyncGenerator[Event]:
    """Give the events of a run after some marks, those of the runs within it among them, as `Runs.follow` does.

    All events of a run within it come before the step that waits for it ends.

    Errors: those of `Runs.follow`.
    """
    seen = after or {}
    if not is_workflow_run(run):
        return treadle.runs.follow(run.id, after=seen.get(run.id, 0), until_rest=until_rest)
    return _Family(treadle, run, seen, until_rest=until_rest).events()


class _End:
    """What says that a stream is over; `error` is what broke it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error: Final = error


class _Family:
    """One reader of a run and of what is within it; one use."""

    def __init__(self, treadle: Treadle, root: Run, after: Marks, *, until_rest: bool) -> None:
        self._treadle = treadle
        self._root = root
        self._seen = dict(after)
        self._until_rest = until_rest
        self._queue: asyncio.Queue[Event | _End] = asyncio.Queue(AHEAD)
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._child_at: dict[tuple[str, str], str] = {}

    async def events(self) -> AsyncGenerator[Event]:
        root = asyncio.create_task(self._run_root())
        try:
            while True:
                found = await self._queue.get()
                if not isinstance(found, _End):
                    yield found
                elif found.error is not None:
                    raise found.error
                else:
                    return
        finally:
            tasks = [root, *self._pumps.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_root(self) -> None:
        try:
            for id_ in [id_ for id_ in self._seen if id_ != self._root.id]:
                await self._know(id_)
            await self._pump(self._root.id)
            await self._settle_all()
        except Exception as e:  # noqa: BLE001 - whoever reads the stream is told
            await self._queue.put(_End(e))
        else:
            await self._queue.put(_End())

    async def _know(self, child_id: str) -> None:
        """Go on with a run within that began before."""
        child = await self._treadle.runs.get(child_id, output=False)
        for step in await self._treadle.runs.steps(child.parent_id or ""):
            if step.child == child_id:
                self._child_at[step.run_id, step.path] = child_id
        self._begin(child_id)

    def _begin(self, child_id: str) -> None:
        if child_id not in self._pumps:
            self._pumps[child_id] = asyncio.create_task(self._pump(child_id))

    async def _pump(self, run_id: str) -> None:
        while True:
            after = self._seen.get(run_id, 0)
            following = self._treadle.runs.follow(run_id, after=after, until_rest=self._until_rest)
            try:
                async with aclosing(following) as events:
                    async for event in events:
                        await self._take(event)
            except StreamCut:
                continue
            return

    async def _take(self, event: Event) -> None:
        if event.name == f"{STEP}in_progress" and "child" in event.data:
            child = str(event.data["child"])
            self._child_at[event.run_id, event.object_id or ""] = child
            self._begin(child)
        elif event.name in (f"{STEP}completed", f"{STEP}failed"):
            await self._finish(event)
        elif event.run_id == self._root.id and event.name in RESTS:
            await self._settle_all()
        await self._put(event)

    async def _put(self, event: Event) -> None:
        await self._queue.put(event)
        if event.seq is not None:
            self._seen[event.run_id] = event.seq

    async def _finish(self, event: Event) -> None:
        """Let the run that a step waited for be told to its end, before the step ends."""
        child = self._child_at.pop((event.run_id, event.object_id or ""), None)
        while child is not None and child in self._pumps:
            pump = self._pumps[child]
            if pump.done():
                if not pump.cancelled():
                    pump.result()
                return
            # Hazard: what waits here may be cancelled, and the pump is others' as well.
            await asyncio.wait([pump])

    async def _settle_all(self) -> None:
        """Tell what is committed of the runs within, whatever their followers have seen of it."""
        done: set[str] = set()
        while left := [id_ for id_ in self._pumps if id_ not in done]:
            for id_ in left:
                await self._settle(id_)
                done.add(id_)

    async def _settle(self, run_id: str) -> None:
        pump = self._pumps[run_id]
        if pump.done() and not pump.cancelled():
            pump.result()
            return
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        while True:
            page = await self._treadle.store.events(
                self._root.tenant, run_id, after=self._seen.get(run_id, 0), limit=PAGE
            )
            for event in page:
                await self._take(event)
            if len(page) < PAGE:
                break
        self._pumps[run_id] = asyncio.create_task(self._pump(run_id))
