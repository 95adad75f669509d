"""A run's events as lines of JSON, on stdout, where nothing else is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from treadle import wire
from treadle.cli.output import data
from treadle.service.event_lines import EventLines

if TYPE_CHECKING:
    from treadle.objects.agent import Agent
    from treadle.objects.event import Event
    from treadle.objects.run import Run
    from treadle.service import Treadle


def print_line(line: wire.Json) -> None:
    """Write a line of JSON to stdout."""
    data(json.dumps(line, ensure_ascii=False))


class JsonLines:
    """A sink that gives one event after the other, as JSON."""

    def __init__(
        self, treadle: Treadle, agent: Agent, *, put: Callable[[wire.Json], None] = print_line
    ) -> None:
        """Take the run's agent, and where the lines go."""
        self._lines = EventLines(treadle, agent)
        self._put = put

    async def take(self, event: Event) -> None:
        """Write what an event is on the wire; some are nothing, some are several lines."""
        for line in await self._lines.of(event):
            self._put(line)

    async def skip(self, run_id: str, after: int) -> None:
        """Go on after an event that the reader has seen already."""
        await self._lines.skip(run_id, after)

    async def close(self, run: Run) -> None:
        """Write the last line: how the run is now."""
        self._put({"event": "done", "id": run.id, "status": run.status, "usage": wire.usage(run.usage)})
