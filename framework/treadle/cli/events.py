"""A run's events as lines of JSON, on stdout, where nothing else is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from treadle import wire
from treadle.cli.output import data
from treadle.cli.owners import is_workflow, owner_of
from treadle.service.event_lines import EventLines

if TYPE_CHECKING:
    from treadle.cli.owners import Owner
    from treadle.objects.agent import Agent
    from treadle.objects.event import Event
    from treadle.objects.run import Run
    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle
    from treadle.service.workflow_events import WorkflowEventLines


def print_line(line: wire.Json) -> None:
    """Write a line of JSON to stdout."""
    data(json.dumps(line, ensure_ascii=False))


class JsonLines:
    """A sink that gives one event after the other, as JSON; those of runs within a workflow's run among them."""

    def __init__(
        self, treadle: Treadle, owner: Owner, *, put: Callable[[wire.Json], None] = print_line
    ) -> None:
        """Take what the run is of, and where the lines go."""
        self._treadle = treadle
        self._owner = owner
        self._put = put
        self._root: str | None = None
        self._lines: dict[str, EventLines | WorkflowEventLines] = {}

    async def take(self, event: Event) -> None:
        """Write what an event is on the wire; some are nothing, some are several lines."""
        self._root = self._root or event.run_id
        for line in await (await self._of(event.run_id)).of(event):
            if event.run_id != self._root:
                # Whoever goes on after a number means one of the run's own events.
                line.pop("seq", None)
            self._put(line)

    async def skip(self, run_id: str, after: int) -> None:
        """Go on after an event that the reader has seen already."""
        self._root = run_id
        await (await self._of(run_id)).skip(run_id, after)

    async def _of(self, run_id: str) -> EventLines | WorkflowEventLines:
        known = self._lines.get(run_id)
        if known is None:
            owner = self._owner
            if run_id != self._root:
                owner = await owner_of(self._treadle, await self._treadle.runs.get(run_id, output=False))
            known = self._lines[run_id] = _lines_of(self._treadle, owner)
        return known

    async def close(self, run: Run) -> None:
        """Write the last line: how the run is now."""
        self._put({"event": "done", "id": run.id, "status": run.status, "usage": wire.usage(run.usage)})


def _lines_of(treadle: Treadle, owner: Owner) -> EventLines | WorkflowEventLines:
    if not is_workflow(owner):
        return EventLines(treadle, cast("Agent", owner))
    from treadle.service.workflow_events import WorkflowEventLines

    return WorkflowEventLines(treadle, cast("Workflow", owner))
