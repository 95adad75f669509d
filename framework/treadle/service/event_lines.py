"""A run's events as the wire tells them: lines ``{"event": name, "data": object}``, shared by `--jsonl` and the server.

The last line of a committed event also has its `seq`: whoever has read it can go on after it.

The journal knows model calls and tool calls; the wire knows messages and run steps. What the wire announces
before it changes (a message, a run step) is announced here when its first piece or its end is seen; what was announced
and never came to its end is ended when its run is.

Every line shows its object as it was at the event, however late it is read. The journal is read once, and then as far
as it has grown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treadle import wire
from treadle.errors import NotFound
from treadle.lifecycle import is_terminal
from treadle.objects.run import PendingCall
from treadle.service.journal import Journal, had_ended, run_at

if TYPE_CHECKING:
    from treadle.objects.agent import Agent
    from treadle.objects.event import Event
    from treadle.objects.message import Message
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.service import Treadle

PAGE = 500
"""How many events are read at once."""


class EventLines:
    """What one reader of one run has been told, and what the next event means for it."""

    def __init__(self, treadle: Treadle, agent: Agent) -> None:
        """Take the run's agent, whose fields are the run's where it does not change them."""
        self._treadle = treadle
        self._agent = agent
        self._journal = Journal(treadle)
        self._lines: list[wire.Json] = []
        self._announced: dict[str, wire.Json] = {}
        self._ended: set[str] = set()
        self._told: dict[str, list[str]] = {}
        self._waits: dict[str, str] = {}
        self._reply: str | None = None
        self._reply_ms: int | None = None
        self._has_started = False

    async def of(self, event: Event) -> list[wire.Json]:
        """Give what an event is on the wire: nothing, or one or several lines."""
        await self._take(event)
        lines, self._lines = self._lines, []
        if lines and event.seq is not None:
            lines[-1]["seq"] = event.seq
        return lines

    async def skip(self, run_id: str, after: int) -> None:
        """Go on after an event: what was told up to it is not told again."""
        last = 0
        while last < after:
            found = await self._treadle.store.events(self._treadle.tenant, run_id, after=last, limit=PAGE)
            for event in found:
                last = event.seq or last
                if last <= after:
                    await self._take(event)
            if len(found) < PAGE:
                break
        self._lines.clear()

    async def _take(self, event: Event) -> None:
        name = event.name
        if name.startswith("thread.message."):
            await self._message(event, event.object_id or "")
        elif name == "thread.run.step.delta":
            await self._delta_of_calls(event, event.object_id or "")
        elif not name.startswith("thread.run.step."):
            await self._run(event)
        elif event.seq is not None:
            if "waits" in event.data:
                self._waits[event.object_id or ""] = event.data["waits"]
            await self._steps(event.run_id, event.object_id or "", event.seq)
        elif event.data["kind"] == "model_call":
            self._reply, self._reply_ms = event.object_id, self._treadle.clock.now_ms()

    # -- messages --------------------------------------------------------------------------------------------

    async def _message(self, event: Event, message_id: str) -> None:
        if event.name == "thread.message.delta":
            if self._reply is not None:
                await self._announce_step(
                    event.run_id, self._reply, "message_creation", message_id, now_ms=self._reply_ms
                )
            await self._announce_message(event.run_id, message_id, now_ms=self._treadle.clock.now_ms())
            text = str(event.data["text"])
            self._told.setdefault(message_id, []).append(text)
            self._write(event.name, wire.message_delta(message_id, text))
            return
        try:
            message = await self._treadle.messages.get(message_id)
        except NotFound:
            return  # It was deleted since.
        await self._announce_message(event.run_id, message_id, now_ms=message.created_ms)
        self._told.pop(message_id, None)
        self._ended.add(message_id)
        self._write(event.name, wire.message(message))

    async def _announce_message(self, run_id: str, message_id: str, *, now_ms: int) -> None:
        if message_id in self._announced:
            return
        begun = wire.message_begun(await self._run_now(run_id), message_id, now_ms)
        self._announce("thread.message", begun)

    # -- run steps -------------------------------------------------------------------------------------------

    async def _delta_of_calls(self, event: Event, path: str) -> None:
        await self._announce_step(event.run_id, path, "tool_calls", now_ms=self._reply_ms)
        step_id, piece = wire.run_step_id(event.run_id, path, "tool_calls"), event.data
        index, arguments = int(piece["index"]), piece["arguments"] or ""
        if piece["id"] is not None:
            first = wire.run_step_delta(step_id, index, id_=piece["id"], name=piece["name"], arguments="")
            self._write(event.name, first)
        if arguments or piece["id"] is None:
            more = wire.run_step_delta(step_id, index, id_=None, name=None, arguments=arguments)
            self._write(event.name, more)

    async def _announce_step(
        self,
        run_id: str,
        path: str,
        kind: wire.RunStepType,
        message_id: str | None = None,
        *,
        now_ms: int | None = None,
    ) -> None:
        if wire.run_step_id(run_id, path, kind) in self._announced:
            return
        now_ms = self._treadle.clock.now_ms() if now_ms is None else now_ms
        run = await self._run_now(run_id)
        begun = wire.run_step_begun(run, path, kind, now_ms=now_ms, message_id=message_id)
        self._announce("thread.run.step", begun)

    async def _steps(self, run_id: str, path: str, seq: int) -> None:
        """Write what the end of a journal's step means for the run steps of its model call.

        Invariant: what is written is how the journal was at the event, however late it is read: a reader who goes on
        after it misses nothing and gets nothing twice.
        """
        step = await self._journal.at(run_id, path, seq)
        if step is None:
            return
        reply = path if step.kind == "model_call" else step.cause
        if reply is None:
            return
        group = self._journal.group(reply)
        # The end of a model call is not the end of its answer: that is appended, and then announced.
        is_last = step.kind != "model_call" or all(s.kind != "append_message" for s in group)
        ended = [s for s in group if had_ended(s, seq) or s.kind == "append_message"]
        began = next((s.started_ms for s in ended if s.path == reply), None)
        run = await self._run_now(run_id)
        for found in wire.run_steps(run, ended, await self._treadle.runs.rows(run, ended)):
            details = found["step_details"]
            message_id = details["message_creation"]["message_id"] if "message_creation" in details else None
            await self._announce_step(run_id, reply, found["type"], message_id, now_ms=began)
            if found["status"] != "in_progress" and is_last and found["id"] not in self._ended:
                self._ended.add(found["id"])
                self._write(f"thread.run.step.{found['status']}", found)

    # -- the run ---------------------------------------------------------------------------------------------

    async def _run(self, event: Event) -> None:
        run = await self._run_now(event.run_id)
        status = event.name.rpartition(".")[2]
        if is_terminal(run.status) and status == run.status:
            self._end_what_is_open(run)
            self._write(event.name, wire.run(run, self._agent))
            return
        self._has_started |= status == "in_progress"
        pending = await self._pending(run, event.seq or 0) if status == "requires_action" else ()
        was = run_at(run, event, has_started=self._has_started, pending=pending)
        self._write(event.name, wire.run(was, self._agent))

    async def _pending(self, run: Run, seq: int) -> tuple[PendingCall, ...]:
        """Give the calls that a run waited for at an event: those for a person, and else those for its client."""
        waiting = [s for s in await self._journal.open_at(run.id, seq) if s.path in self._waits]
        rows = await self._treadle.runs.rows(run, waiting)
        found = [_pending(step, rows[step.reply_seq or 0], self._waits[step.path]) for step in waiting]
        asked = tuple(call for call in found if call.action != "output")
        return asked or tuple(found)

    def _end_what_is_open(self, run: Run) -> None:
        """Write the end of what was announced, and came to none because the run did: messages before their steps."""
        left = [begun for id_, begun in self._announced.items() if id_ not in self._ended]
        for begun in left:
            if begun["object"] == "thread.message":
                told = "".join(self._told.get(begun["id"], ()))
                self._write("thread.message.incomplete", wire.message_cut(begun, run, told))
        for begun in left:
            if begun["object"] != "thread.message":
                cut = wire.run_step_cut(begun, run)
                self._write(f"thread.run.step.{cut['status']}", cut)
        self._announced.clear()

    async def _run_now(self, run_id: str) -> Run:
        return await self._treadle.runs.get(run_id, output=False)

    def _announce(self, noun: str, begun: wire.Json) -> None:
        self._announced[begun["id"]] = begun
        for name in ("created", "in_progress"):
            self._write(f"{noun}.{name}", begun)

    def _write(self, name: str, found: wire.Json) -> None:
        self._lines.append({"event": name, "data": found})


def _pending(step: Step, row: Message, waits: str) -> PendingCall:
    call = row.tool_calls[step.call_index or 0]
    decided = step.decision.arguments if step.decision is not None and waits != "approval" else None
    if decided is not None:
        call = call.model_copy(update={"arguments": decided})
    said = {
        "path": step.path,
        "reply_seq": row.seq,
        "call_index": step.call_index,
        "action": waits,
        "call": call,
    }
    return PendingCall.model_validate(said)
