"""Runs as streams of server-sent events, in the framing that both SDKs read.

Rules

1. An event is a line `event:`, a line `data:` of JSON, and an empty line, all ended by a single line feed; the last
   line of a committed event comes with `id:`, the place to go on after.
2. What keeps a silent connection open is a comment with one line feed and no empty line: readers take it for the
   beginning of the next event.
3. A stream ends with `done`, or with `error` where the stream itself broke. A run that fails is no broken stream.
4. A stream whose key was revoked ends with `error`, at the next sign of life at the latest.
5. A reader who goes away, or is too slow, costs the run nothing: it goes on, and can be followed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from treadle import wire
from treadle.engine.stream import Follower
from treadle.errors import StateError, TreadleError
from treadle.lifecycle import is_terminal
from treadle.objects.run import Run
from treadle.server import workflow_lines
from treadle.server.auth import refused
from treadle.server.problems import problem_of

if TYPE_CHECKING:
    from treadle.server.call import Call
    from treadle.server.workflow_lines import Place, Told

logger = logging.getLogger("treadle.server")

KEEP_ALIVE_S = 15.0
"""How long a stream is silent at most."""
KEEP_ALIVE = b": keepalive\n"
MOST_READY = 100
"""Frames that are made before the reader has taken those before them."""
DONE = b"event: done\ndata: [DONE]\n\n"


def frame(line: wire.Json) -> bytes:
    """Give an event as it stands in the stream."""
    seq = line.get("seq")
    head = f"event: {line['event']}\n" if seq is None else f"id: {seq}\nevent: {line['event']}\n"
    return head.encode() + b"data: " + to_json(line["data"]) + b"\n\n"


def broken(error: Exception) -> bytes:
    """Give the event that says that the stream broke, its last one."""
    problem = problem_of(error)
    found = {"code": problem.code, "message": problem.message, "param": problem.param, "type": "server_error"}
    return b"event: error\ndata: " + to_json(found) + b"\n\n"


async def of_run(
    call: Call, run: Run, *, after: Place = (), until_rest: bool = True, with_thread: bool = False
) -> Response:
    """Give a run's events after a place as an answer.

    Shapes: with `with_thread` the making of its thread, which was made for the run, comes first. Without `until_rest`
    a run that waits for its client goes on being followed.
    """
    # Hazard: the deltas of a step are told to those who followed when it began, so following begins at once.
    follower = call.treadle.runs.followed(run)
    events = workflow_lines.of_run(
        call.treadle, call.server, run, after=after, until_rest=until_rest, follower=follower
    )
    told = _told(call, run, events, until_rest=until_rest, with_thread=with_thread)
    return EventStream(call, run, follower, told)


async def _told(
    call: Call, run: Run, events: AsyncGenerator[Told], *, until_rest: bool, with_thread: bool
) -> AsyncGenerator[bytes]:
    """Give the frames of a run's events, to the end of the stream."""
    try:
        if with_thread:
            thread = await call.treadle.threads.get(run.thread_id)
            yield frame({"event": "thread.created", "data": wire.thread(thread)})
        async with aclosing(events):
            async for event in events:
                if event.lines:
                    yield b"".join([frame(line) for line in event.lines])
                # Invariant: the stream is over here even if the outputs are there already: another one tells the rest.
                if until_rest and event.name == "thread.run.requires_action":
                    yield DONE
                    return
        now = await call.treadle.runs.get(run.id, output=False)
        if is_terminal(now.status) or now.status == "requires_action":
            yield DONE
        else:
            yield broken(_stopping())
    except TreadleError as e:
        yield broken(e)
    except Exception as e:
        logger.exception("the stream of run %s broke", run.id)
        yield broken(e)


def _stopping() -> StateError:
    return StateError("The server is shutting down; follow the run again.")


class EventStream(Response):
    """An answer that goes on as long as there is something to tell."""

    media_type = "text/event-stream"

    def __init__(self, call: Call, run: Run, follower: Follower, frames: AsyncGenerator[bytes]) -> None:
        """Take the frames of a run's events, and who follows them."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._call = call
        self._run = run
        self._follower = follower
        self._frames = frames
        self._room: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send frames until the stream ends, the reader goes away, or the server shuts down."""
        server = self._call.server
        gone = asyncio.ensure_future(_gone(receive))
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            with server.counted_stream():
                async with aclosing(self._pieces(gone)) as pieces:
                    async for piece in pieces:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                        del piece  # A stream that waits keeps nothing of what it sent.
                if not gone.done():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._frames.aclose()
            self._call.treadle.runs.leave(self._run, self._follower)
            is_gone = gone.done()
            gone.cancel()
        if is_gone and self._cancels:
            await self._cancel()

    async def _pieces(self, gone: asyncio.Future[None]) -> AsyncGenerator[bytes]:
        """Give frames while they come, and signs of life where they do not."""
        server, clock = self._call.server, self._call.treadle.clock
        asked_s = clock.monotonic()
        ready, news = list[bytes](), asyncio.Event()
        reading = asyncio.ensure_future(self._read(ready, news))
        draining = asyncio.ensure_future(server.draining.wait())
        ends = (reading, gone, draining)
        for end in ends:
            end.add_done_callback(lambda _: news.set())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        await news.wait()
                news.clear()
                if gone.done():
                    return
                # What came in one turn of the loop is sent in one piece.
                piece = b"".join(ready)
                ready.clear()
                if self._room is not None and not self._room.done():
                    self._room.set_result(None)
                if not piece and reading.done():
                    reading.result()
                    return
                if not piece and draining.done():
                    yield broken(_stopping())
                    return
                # A stream that is never silent is asked about as often as one that is.
                if not piece or clock.monotonic() - asked_s >= KEEP_ALIVE_S:
                    if not await server.still_opens(self._call):
                        yield broken(refused())
                        return
                    asked_s = clock.monotonic()
                yield piece or KEEP_ALIVE
                del piece
                if any(end.done() for end in ends):
                    news.set()
        finally:
            draining.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, ready: list[bytes], news: asyncio.Event) -> None:
        """Read frames as long as there is room for them."""
        async for piece in self._frames:
            ready.append(piece)
            news.set()
            if len(ready) >= MOST_READY:
                self._room = asyncio.get_running_loop().create_future()
                await self._room

    @property
    def _cancels(self) -> bool:
        """Tell whether the run ends with its reader."""
        return self._call.on_disconnect == "cancel"

    async def _cancel(self) -> None:
        try:
            await self._call.treadle.runs.cancel(self._run.id)
        except StateError:
            return  # It had ended.


async def _gone(receive: Receive) -> None:
    """Wait until the reader has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
