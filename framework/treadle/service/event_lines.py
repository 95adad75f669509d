"""A run's events as the wire tells them: lines ``{"event": name, "data": object}``, shared by `--jsonl` and the server.

The last line of a committed event also has its `seq`: whoever has read it can go on after it.

The journal knows model calls and tool calls; the wire knows messages and run steps. What the wire announces
before it changes (a message, a run step) is announced here when its first piece or its end is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from treadle import wire

if TYPE_CHECKING:
    from treadle.objects.agent import Agent
    from treadle.objects.event import Event
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.service import Treadle

_OPEN = ("queued", "in_progress", "requires_action", "cancelling")


class EventLines:
    """What one reader of one run has been told, and what the next event means for it."""

    def __init__(self, treadle: Treadle, agent: Agent) -> None:
        """Take the run's agent, whose fields are the run's where it does not change them."""
        self._treadle = treadle
        self._agent = agent
        self._lines: list[wire.Json] = []
        self._announced: set[str] = set()
        self._ended: set[str] = set()
        self._reply: str | None = None

    async def of(self, event: Event) -> list[wire.Json]:
        """Give what an event is on the wire: nothing, or one or several lines."""
        await self._take(event)
        lines, self._lines = self._lines, []
        if lines and event.seq is not None:
            lines[-1]["seq"] = event.seq
        return lines

    async def skip(self, run_id: str, after: int) -> None:
        """Go on after an event: what was told up to it is not told again."""
        if not after:
            return
        journal = await self._treadle.runs.steps(run_id)
        for step in journal:
            if step.kind == "model_call" and _had_ended(step, after):
                await self._steps(run_id, step.path, after, journal=journal)
        for line in self._lines:
            created = line["data"]["step_details"].get("message_creation")
            if created is not None:
                self._announced.add(created["message_id"])
        self._lines.clear()

    async def _take(self, event: Event) -> None:
        run_id, name = event.run_id, event.name
        if name.startswith("thread.message.") and event.object_id is not None:
            await self._message(event, event.object_id)
        elif name == "thread.run.step.delta" and event.object_id is not None:
            await self._announce_step(run_id, event.object_id, "tool_calls")
            piece = event.data
            step_id = wire.run_step_id(run_id, event.object_id, "tool_calls")
            self._write(
                name,
                wire.run_step_delta(
                    step_id,
                    int(piece["index"]),
                    id_=piece["id"],
                    name=piece["name"],
                    arguments=piece["arguments"] or "",
                ),
            )
        elif name.startswith("thread.run.step."):
            if event.seq is None:
                if event.data["kind"] == "model_call":
                    self._reply = event.object_id
            elif event.object_id is not None:
                await self._steps(run_id, event.object_id, event.seq)
        else:
            run = await self._treadle.runs.get(run_id)
            self._write(name, self._as_of(run, name.rpartition(".")[2]))

    async def _message(self, event: Event, message_id: str) -> None:
        if event.name == "thread.message.delta":
            if self._reply is not None:
                await self._announce_step(event.run_id, self._reply, "message_creation", message_id)
            await self._announce_message(event.run_id, message_id)
            self._write(event.name, wire.message_delta(message_id, str(event.data["text"])))
            return
        message = await self._treadle.messages.get(message_id)
        await self._announce_message(event.run_id, message_id, now_ms=message.created_ms)
        self._write(event.name, wire.message(message))

    async def _announce_message(self, run_id: str, message_id: str, *, now_ms: int | None = None) -> None:
        if message_id in self._announced:
            return
        self._announced.add(message_id)
        run = await self._treadle.runs.get(run_id)
        begun = wire.message_begun(
            run, message_id, self._treadle.clock.now_ms() if now_ms is None else now_ms
        )
        for name in ("created", "in_progress"):
            self._write(f"thread.message.{name}", begun)

    async def _announce_step(
        self,
        run_id: str,
        path: str,
        kind: wire.RunStepType,
        message_id: str | None = None,
        *,
        now_ms: int | None = None,
    ) -> None:
        step_id = wire.run_step_id(run_id, path, kind)
        if step_id in self._announced:
            return
        self._announced.add(step_id)
        run = await self._treadle.runs.get(run_id)
        now_ms = self._treadle.clock.now_ms() if now_ms is None else now_ms
        begun = wire.run_step_begun(run, path, kind, now_ms=now_ms, message_id=message_id)
        for name in ("created", "in_progress"):
            self._write(f"thread.run.step.{name}", begun)

    async def _steps(
        self, run_id: str, path: str, seq: int, *, journal: Sequence[Step] | None = None
    ) -> None:
        """Write what the end of a journal's step means for the run steps of its model call.

        Invariant: what is written is how the journal was at the event, however late it is read: a reader who goes on
        after it misses nothing and gets nothing twice.
        """
        run = await self._treadle.runs.get(run_id)
        journal = await self._treadle.runs.steps(run_id) if journal is None else journal
        step = next((s for s in journal if s.path == path), None)
        if step is None:
            return
        reply = path if step.kind == "model_call" else step.cause
        if reply is None:
            return
        group = [s for s in journal if reply in (s.path, s.cause)]
        # The end of a model call is not the end of its answer: that is appended, and then announced.
        is_last = step.kind != "model_call" or all(s.kind != "append_message" for s in group)
        ended = [s for s in group if _had_ended(s, seq) or s.kind == "append_message"]
        began = next((s.started_ms for s in ended if s.path == reply), None)
        for found in wire.run_steps(run, ended, await self._treadle.runs.rows(run, ended)):
            details = found["step_details"]
            message_id = details["message_creation"]["message_id"] if "message_creation" in details else None
            await self._announce_step(run_id, reply, found["type"], message_id, now_ms=began)
            if found["status"] != "in_progress" and is_last and found["id"] not in self._ended:
                self._ended.add(found["id"])
                self._write(f"thread.run.step.{found['status']}", found)

    def _as_of(self, run: Run, status: str) -> wire.Json:
        """Give a run as it was when it got a status: the record may have gone on since."""
        found = wire.run(run, self._agent)
        status = "queued" if status == "created" else status
        if status in _OPEN and status != run.status:
            found |= {"status": status, "usage": None, "last_error": None, "incomplete_details": None}
            found |= dict.fromkeys(("cancelled_at", "failed_at", "completed_at", "required_action"))
            if status == "queued":
                found["started_at"] = None
        return found

    def _write(self, name: str, found: wire.Json) -> None:
        self._lines.append({"event": name, "data": found})


def _had_ended(step: Step, seq: int) -> bool:
    """Tell whether a step had ended for good at an event."""
    return step.event_seq is not None and step.event_seq <= seq and step.edge != "retry"
