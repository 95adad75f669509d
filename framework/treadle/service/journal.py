"""How a run and its steps were at an event: what a reader is told of it, however late it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from treadle.objects.event import Event
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.service import Treadle


class Journal:
    """A run's journal as far as it is known: rows that have ended do not change, so only what follows is read again."""

    def __init__(self, treadle: Treadle) -> None:
        """Know nothing yet."""
        self._treadle = treadle
        self._rows: dict[int, Step] = {}
        self._by_seq: dict[int, Step] = {}
        self._by_path: dict[str, Step] = {}
        self._firsts: dict[str, Step] = {}
        self._groups: dict[str, dict[int, Step]] = {}
        self._known = 0

    async def ended(self, run_id: str, seq: int) -> Step | None:
        """Give the step that ended with an event; None where the journal has none."""
        if seq not in self._by_seq:
            await self._read(run_id)
        return self._by_seq.get(seq)

    async def at(self, run_id: str, path: str, seq: int) -> Step | None:
        """Give the step that an event is of, with the journal known up to it; None where the journal has none."""
        return await self.ended(run_id, seq) or self._by_path.get(path)

    async def first(self, run_id: str, path: str) -> Step | None:
        """Give the first attempt of a step whose beginning is written down."""
        if path not in self._firsts:
            await self._read(run_id)
        return self._firsts.get(path)

    def group(self, reply: str) -> list[Step]:
        """Give the steps that a model call is and made ready, in order."""
        found = self._groups.get(reply, {})
        return [found[n] for n in sorted(found)]

    async def open_at(self, run_id: str, seq: int) -> list[Step]:
        """Give the calls that had begun and not ended at an event, in the order in which they were asked for."""
        await self._read(run_id)
        found = [s for s in self._by_path.values() if s.call_index is not None and not had_ended(s, seq)]
        return sorted(found, key=lambda s: (s.reply_seq or 0, s.call_index or 0))

    async def _read(self, run_id: str) -> None:
        """Read the rows from the first one on that is not known to have ended."""
        for step in await self._treadle.runs.steps(run_id, first=self._known):
            self._rows[step.n] = self._by_path[step.path] = step
            if step.event_seq is not None:
                self._by_seq[step.event_seq] = step
            if step.path not in self._firsts or step.attempt <= self._firsts[step.path].attempt:
                self._firsts[step.path] = step
            reply = step.path if step.kind == "model_call" else step.cause
            if reply is not None:
                self._groups.setdefault(reply, {})[step.n] = step
        while (known := self._rows.get(self._known)) is not None and not known.is_open:
            self._known += 1


def had_ended(step: Step, seq: int) -> bool:
    """Tell whether a step had ended for good at an event."""
    return step.event_seq is not None and step.event_seq <= seq and step.edge != "retry"


def run_at(run: Run, event: Event, *, has_started: bool, **fields: object) -> Run:
    """Give a run as it was at an event that did not end it, with further fields as they are given."""
    status = event.name.rpartition(".")[2]
    until = event.data.get("until")
    was: dict[str, object] = {
        "status": "queued" if status == "created" else status,
        "started_ms": run.started_ms if has_started else None,
        "wake_ms": None if until is None else int(until) * 1000,
        "ended_ms": None,
        "usage": None,
        "last_error": None,
        "incomplete_reason": None,
        "output": None,
    }
    return run.model_copy(update=was | fields)
