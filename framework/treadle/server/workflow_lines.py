"""The events of a workflow's run as streams tell them, with the messages that runs within it write to its thread.

Rules

1. What both SDKs can read is told: the run, its run steps, and the messages of its thread; a message that no piece was told
   of comes as one piece, for readers that show pieces only.
2. Runs within that are on another thread are told of as steps; those on this thread also by what they say, while they say it.
   Only one of these is under way at a time.
3. A reader's place is the number of the run's event that was told last, and behind it the place in the run within that
   is under way then: 12.5 is the fifth event of that one. Whoever goes on from a place misses nothing, and gets nothing twice.
4. What a run within committed before an event of the run is told before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from treadle import wire
from treadle.engine.stream import Follower
from treadle.errors import NotFound, StreamCut
from treadle.ids import is_workflow_id
from treadle.lifecycle import RESTS, is_terminal
from treadle.objects.run import Run
from treadle.server import workflow_objects as told_as
from treadle.service.event_lines import EventLines
from treadle.service.journal import Journal, run_at

if TYPE_CHECKING:
    from treadle.objects.event import Event
    from treadle.objects.workflow import Workflow
    from treadle.server.app import Server
    from treadle.service import Treadle

PAGE = 500
"""How many events are read at once."""
STEP, MESSAGE = "thread.run.step.", "thread.message."

_ENDS = frozenset(f"{STEP}{status}" for status in ("completed", "failed", "cancelled", "expired"))

Place = tuple[int, ...]
Json = wire.Json


class Told(NamedTuple):
    """What an event is on the wire: its name where it is one of the run itself, its lines, and the place behind it."""

    name: str
    lines: list[Json]
    place: Place | None


async def of_run(
    treadle: Treadle, server: Server, run: Run, *, after: Place, until_rest: bool, follower: Follower
) -> AsyncGenerator[Told]:
    """Give the events of any run after a place, as `Runs.follow` gives them."""
    if is_workflow_id(run.agent_id):
        reader = _Reader(treadle, server, run, await server.workflow_of(run), follower)
        following = reader.told(after, until_rest=until_rest)
    else:
        following = _of_agent(treadle, server, run, after, until_rest=until_rest, follower=follower)
    async with aclosing(following) as events:
        async for one in events:
            if one.place is not None and one.lines:
                one.lines[-1]["seq"] = ".".join(map(str, one.place))
            yield one


async def _of_agent(
    treadle: Treadle, server: Server, run: Run, after: Place, *, until_rest: bool, follower: Follower
) -> AsyncGenerator[Told]:
    lines = EventLines(treadle, await server.agent_of(run))
    first = after[0] if after else 0
    await lines.skip(run.id, first)
    following = treadle.runs.follow(run.id, after=first, until_rest=until_rest, follower=follower)
    async with aclosing(following) as events:
        async for event in events:
            place = None if event.seq is None else (event.seq,)
            yield Told(event.name, await lines.of(event), place)


async def place_of(treadle: Treadle, run: Run) -> Place:
    """Give the place of a reader who has read all that there is."""
    last = await treadle.store.last_event(run.tenant, run.id)
    if not is_workflow_id(run.agent_id):
        return (last,)
    children = await treadle.store.children(run.tenant, run.id)
    newest = next((c for c in reversed(children) if c.thread_id == run.thread_id), None)
    # Where its step has ended as well, its place says nothing.
    return (last,) if newest is None else (last, *await place_of(treadle, newest))


class _Reader:
    """One reader of one run of a workflow; one use."""

    def __init__(
        self, treadle: Treadle, server: Server, run: Run, workflow: Workflow, follower: Follower
    ) -> None:
        self._treadle = treadle
        self._server = server
        self._run = run
        self._follower = follower
        self._lines = _Lines(treadle, run, workflow)
        self._inner: _Inner | None = None
        self._last = 0

    async def told(self, after: Place, *, until_rest: bool) -> AsyncGenerator[Told]:
        await self._skip(after)
        following = self._treadle.runs.follow(
            self._run.id, after=self._last, until_rest=until_rest, follower=self._follower
        )
        async with aclosing(following) as events:
            coming = asyncio.ensure_future(anext(events))
            try:
                while True:
                    inner = self._inner
                    if inner is not None:
                        await asyncio.wait((coming, inner.coming), return_when=asyncio.FIRST_COMPLETED)
                        if inner.coming.done():
                            if (one := await self._take_inner(inner)) is not None:
                                yield one
                            continue
                    try:
                        event = await coming
                    except StopAsyncIteration:
                        return
                    async for one in self._before(event):
                        yield one
                    yield await self._take(event)
                    coming = asyncio.ensure_future(anext(events))
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
                await self._leave_inner()

    # -- the run itself --------------------------------------------------------------------------------------

    async def _skip(self, after: Place) -> None:
        """Go on at a place: with the run within that was under way there."""
        first = after[0] if after else 0
        begun: dict[str, Run] = {}
        while self._last < first:
            page = await self._treadle.store.events(
                self._run.tenant, self._run.id, after=self._last, limit=PAGE
            )
            for event in page:
                if (event.seq or 0) > first:
                    break
                self._last = event.seq or 0
                if (child := await self._begins(event)) is not None:
                    begun = {event.object_id or "": child}
                elif event.name in _ENDS:
                    begun.pop(event.object_id or "", None)
                await self._lines.of(event)
            if len(page) < PAGE:
                break
        self._last = max(self._last, first)
        for path, child in begun.items():
            self._enter(path, child, after[1:])

    async def _begins(self, event: Event) -> Run | None:
        """Give the run within that an event begins, where it is on the thread of the run."""
        if event.name != f"{STEP}in_progress" or "child" not in event.data:
            return None
        child = await self._lines.child(str(event.data["child"]))
        if child is not None and child.thread_id == self._run.thread_id:
            return child
        if child is not None and self._follower.within is not None:
            within = self._follower.within.pop(child.id, None)
            if within is not None:
                self._treadle.runs.leave(child, within)
        return None

    async def _take(self, event: Event) -> Told:
        lines = await self._lines.of(event)
        if event.seq is None:
            return Told(event.name, lines, None)
        self._last = event.seq
        if self._inner is not None and event.name in _ENDS and event.object_id == self._inner.path:
            await self._leave_inner()
        if (child := await self._begins(event)) is not None:
            await self._leave_inner()
            self._enter(event.object_id or "", child, ())
        return Told(event.name, lines, self._place)

    async def _before(self, event: Event) -> AsyncGenerator[Told]:
        """Give what is told before an event: all that the run within has committed, where the event is about it."""
        inner = self._inner
        if inner is None or event.seq is None:
            return
        if event.name not in RESTS and (event.name not in _ENDS or event.object_id != inner.path):
            return
        last = await self._treadle.store.last_event(self._run.tenant, inner.run.id)
        while not inner.is_over and inner.last < last:
            await asyncio.wait((inner.coming,))
            if (one := await self._take_inner(inner)) is not None:
                yield one

    @property
    def _place(self) -> Place:
        return (self._last, *(self._inner.place if self._inner is not None else ()))

    # -- the run within --------------------------------------------------------------------------------------

    def _enter(self, path: str, child: Run, after: Place) -> None:
        within = self._follower.within.pop(child.id, None) if self._follower.within is not None else None
        follower = within or self._treadle.runs.followed(child)
        self._inner = _Inner(self._treadle, self._server, path, child, after=after, follower=follower)

    async def _take_inner(self, inner: _Inner) -> Told | None:
        try:
            one = inner.coming.result()
        except StopAsyncIteration:
            # It has ended; its place is kept until its step has ended, too.
            inner.rest()
            return None
        except StreamCut:
            await inner.again()
            return None
        if one.place is not None:
            inner.place = one.place
        inner.go_on()
        said = [line for line in one.lines if line["event"].startswith(MESSAGE)]
        lines = self._lines.said_within(inner.path, said)
        return Told("", lines, None if one.place is None else self._place)

    async def _leave_inner(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.close()


class _Inner:
    """A run within, while it is followed; `place` is the place that was told of it last."""

    def __init__(
        self, treadle: Treadle, server: Server, path: str, run: Run, *, after: Place, follower: Follower
    ) -> None:
        self._treadle = treadle
        self._server = server
        self.path = path
        self.run = run
        self.place = after
        self.is_over = False
        self._follow(follower)

    @property
    def last(self) -> int:
        return self.place[0] if self.place else 0

    def _follow(self, follower: Follower) -> None:
        self._follower = follower
        self._events = of_run(
            self._treadle, self._server, self.run, after=self.place, until_rest=False, follower=follower
        )
        self.coming = asyncio.ensure_future(anext(self._events))

    def go_on(self) -> None:
        """Wait for its next event."""
        self.coming = asyncio.ensure_future(anext(self._events))

    def rest(self) -> None:
        """Wait for nothing more."""
        self.is_over = True
        self.coming = asyncio.get_running_loop().create_future()

    async def again(self) -> None:
        """Go on at its place: it told more than could wait."""
        await self.close()
        self._follow(self._treadle.runs.followed(self.run))

    async def close(self) -> None:
        """Follow it no more."""
        self.coming.cancel()
        await asyncio.gather(self.coming, return_exceptions=True)
        await self._events.aclose()
        self._treadle.runs.leave(self.run, self._follower)


def _as_begun(ended: Json) -> Json:
    """Give a run step as it was when it had begun."""
    times = dict.fromkeys(("expired_at", "cancelled_at", "failed_at", "completed_at"))
    details = ended["step_details"]
    if details["type"] == "tool_calls":
        calls = [c | {"function": c["function"] | {"output": None}} for c in details["tool_calls"]]
        details = details | {"tool_calls": calls}
    return (
        ended | times | {"status": "in_progress", "step_details": details, "last_error": None, "usage": None}
    )


class _Lines:
    """What a reader was told of a run of a workflow, and what the next event means for it."""

    def __init__(self, treadle: Treadle, run: Run, workflow: Workflow) -> None:
        self._treadle = treadle
        self._id = run.id
        self._tenant = run.tenant
        self._run = run
        self._workflow = workflow
        self._journal = Journal(treadle)
        self._children: dict[str, Run] = {}
        self._announced: dict[str, Json] = {}
        self._has_started = False
        self._lines: list[Json] = []

    async def of(self, event: Event) -> list[Json]:
        """Give what an event is on the wire: nothing, or one or several lines."""
        if event.name.startswith(MESSAGE):
            if event.seq is not None:
                await self._message(event)
        elif event.name == f"{STEP}in_progress":
            await self._step_begins(event)
        elif event.name in _ENDS:
            await self._step_ends(event)
        elif not event.name.startswith(STEP):
            await self._run_moves(event)
        return self._taken()

    def said_within(self, path: str, lines: list[Json]) -> list[Json]:
        """Give the lines of messages that a run within tells, each message within a step of this run."""
        for line in lines:
            message, name = line["data"], line["event"]
            if name == f"{MESSAGE}created":
                self._announce(
                    told_as.message_step_begun(
                        self._run, message["id"], path, now_ms=message["created_at"] * 1000
                    )
                )
            self._write(name, message)
            if name in (f"{MESSAGE}completed", f"{MESSAGE}incomplete"):
                begun = told_as.message_step_begun(
                    self._run, message["id"], path, now_ms=message["created_at"] * 1000
                )
                self._end(told_as.message_step_ended(begun, message))
        return self._taken()

    async def child(self, run_id: str) -> Run | None:
        """Give a run within, as it was when it was first asked for."""
        if run_id not in self._children:
            try:
                self._children[run_id] = await self._treadle.store.get(Run, self._tenant, run_id)
            except NotFound:
                return None  # Its thread was deleted since.
        return self._children[run_id]

    def _taken(self) -> list[Json]:
        lines, self._lines = self._lines, []
        return lines

    # -- messages --------------------------------------------------------------------------------------------

    async def _message(self, event: Event) -> None:
        message_id = event.object_id or ""
        try:
            message = await self._treadle.messages.get(message_id)
        except NotFound:
            return  # It was deleted since.
        if message.role != "assistant":
            return
        # The step that wrote it is the event after it.
        step = await self._journal.ended(self._id, (event.seq or 0) + 1)
        if step is not None and (told := told_as.node_step(self._run, step)) is not None:
            self._announce(_as_begun(told))
        begun = wire.message_begun(self._run, message_id, message.created_ms)
        for name in ("created", "in_progress"):
            self._write(f"{MESSAGE}{name}", begun)
        if message.text:
            self._write(f"{MESSAGE}delta", wire.message_delta(message_id, message.text))
        self._write(f"{MESSAGE}{message.status}", wire.message(message))

    # -- steps -----------------------------------------------------------------------------------------------

    async def _step_begins(self, event: Event) -> None:
        path = event.object_id or ""
        if event.data.get("kind") not in told_as.CALLED:
            return
        child = await self.child(str(event.data["child"])) if "child" in event.data else None
        step = await self._journal.first(self._id, path) if event.seq is not None else None
        if step is not None and (told := told_as.node_step(self._run, step, child)) is not None:
            self._announce(_as_begun(told))
            return
        now_ms = self._treadle.clock.now_ms()
        self._announce(told_as.step_begun(self._run, path, event.data, now_ms=now_ms, child=child))

    async def _step_ends(self, event: Event) -> None:
        step = await self._journal.ended(self._id, event.seq or 0)
        if step is None or step.edge == "retry":
            return
        child = await self.child(step.child) if step.child is not None else None
        told = told_as.node_step(self._run, step, child)
        if told is None:
            return
        self._announce(_as_begun(told))
        self._end(told)

    # -- the run ---------------------------------------------------------------------------------------------

    async def _run_moves(self, event: Event) -> None:
        run = await self._treadle.runs.get(self._id)
        status = event.name.rpartition(".")[2]
        if is_terminal(run.status) and status == run.status:
            self._end_what_is_open(run)
            self._write(event.name, told_as.workflow_run(run, self._workflow))
            return
        self._has_started |= status == "in_progress"
        shown = told_as.workflow_run(run_at(run, event, has_started=self._has_started), self._workflow)
        if status == "requires_action" and not await self._still_waits(run, event):
            # What it waited for then was given since: nobody is asked for it again.
            shown["required_action"] = None
        self._write(event.name, shown)

    async def _still_waits(self, run: Run, event: Event) -> bool:
        """Tell whether a run still waits for what it began to wait for at an event."""
        if run.status != "requires_action" or event.seq is None:
            return False
        later = await self._treadle.store.events(self._tenant, self._id, after=event.seq, limit=PAGE)
        return all(one.name.startswith((STEP, MESSAGE)) for one in later)

    def _end_what_is_open(self, run: Run) -> None:
        """Write the end of the steps that were announced, and came to none because the run did."""
        for begun in list(self._announced.values()):
            cut = wire.run_step_cut(begun, run)
            self._write(f"{STEP}{cut['status']}", cut)
        self._announced.clear()

    # -- lines -----------------------------------------------------------------------------------------------

    def _announce(self, begun: Json) -> None:
        if begun["id"] in self._announced:
            return
        self._announced[begun["id"]] = begun
        for name in ("created", "in_progress"):
            self._write(f"{STEP}{name}", begun)

    def _end(self, ended: Json) -> None:
        self._announced.pop(ended["id"], None)
        self._write(f"{STEP}{ended['status']}", ended)

    def _write(self, name: str, found: Json) -> None:
        self._lines.append({"event": name, "data": found})
