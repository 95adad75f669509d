"""The events of a workflow's run as lines of JSON: ``{"event": name, "data": object}``, as those of an agent's run.

Its steps are told as they are in the journal, those that take time also when they begin. Every line shows its object as it
was at the event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treadle import wire
from treadle.errors import NotFound
from treadle.lifecycle import is_terminal
from treadle.service.journal import Journal, run_at
from treadle.service.workflow_wire import step_begun, workflow_run, workflow_step

if TYPE_CHECKING:
    from treadle.objects.event import Event
    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle


class WorkflowEventLines:
    """What one reader of one run of a workflow is told."""

    def __init__(self, treadle: Treadle, workflow: Workflow) -> None:
        """Take the run's workflow."""
        self._treadle = treadle
        self._workflow = workflow
        self._journal = Journal(treadle)
        self._has_started = False

    async def of(self, event: Event) -> list[wire.Json]:
        """Give what an event is as JSON: nothing, or one line."""
        data = await self._data(event)
        if data is None:
            return []
        line: wire.Json = {"event": event.name, "data": data}
        if event.seq is not None:
            line["seq"] = event.seq
        return [line]

    async def skip(self, run_id: str, after: int) -> None:
        """Go on after an event."""
        if after:
            started = await self._treadle.store.events(self._treadle.tenant, run_id, after=0, limit=after)
            self._has_started = any(e.name == "thread.run.in_progress" for e in started)

    async def _data(self, event: Event) -> wire.Json | None:
        id_ = event.object_id or ""
        if event.name == "thread.message.delta":
            return wire.message_delta(id_, str(event.data["text"]))
        if event.name.startswith("thread.message."):
            try:
                return wire.message(await self._treadle.messages.get(id_))
            except NotFound:
                return None  # It was deleted since.
        if not event.name.startswith("thread.run.step."):
            return await self._run(event)
        run = await self._treadle.runs.get(event.run_id, output=False)
        if event.name.endswith(".in_progress"):
            return step_begun(run, id_, event.data, now_ms=self._treadle.clock.now_ms())
        step = None if event.seq is None else await self._journal.ended(event.run_id, event.seq)
        return None if step is None else workflow_step(run, step)

    async def _run(self, event: Event) -> wire.Json:
        run = await self._treadle.runs.get(event.run_id)
        status = event.name.rpartition(".")[2]
        if is_terminal(run.status) and status == run.status:
            return workflow_run(run, self._workflow)
        self._has_started |= status == "in_progress"
        pending = run.pending if status == run.status else ()
        was = run_at(run, event, has_started=self._has_started, pending=pending)
        return workflow_run(was, self._workflow)
