"""Show a run while it is walked: a line for each step when it ends, one that moves for what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from treadle.cli import lines
from treadle.cli.answer import Answer
from treadle.cli.output import is_quiet, note, style, width
from treadle.errors import TreadleError

if TYPE_CHECKING:
    from treadle.objects.agent import Agent, AgentSpec
    from treadle.objects.event import Event
    from treadle.objects.message import ToolCall
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.service import Treadle

TICK_S = 0.25
ERASE_LINE = "\r\x1b[K"


class Moving:
    """The line that moves on a terminal: what is under way, and for how long."""

    def __init__(self, treadle: Treadle, *, labels: int) -> None:
        """Take the width of the column of step names."""
        self._clock = treadle.clock
        self._labels = labels
        self._moves = not is_quiet() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._under_way: dict[str, tuple[str, float]] = {}
        self._is_drawn = False
        self._ticker: asyncio.Task[None] | None = None

    def begin(self, key: str, label: str) -> None:
        """Take a step that is under way."""
        self._under_way[key] = (lines.one_line(label), self._clock.monotonic())

    def end(self, key: str) -> None:
        """Forget a step."""
        self._under_way.pop(key, None)

    def start(self, draw: Callable[[], None]) -> None:
        """Let the line move by itself from now on; `draw` draws it where there is room for it."""
        if self._moves and self._ticker is None:
            self._ticker = asyncio.create_task(self._tick(draw))

    def stop(self) -> None:
        """Take the line away for good."""
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self._under_way.clear()
        self.clear()

    async def _tick(self, draw: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            draw()

    def draw(self) -> None:
        """Draw the line, where a terminal shows it."""
        if not self._moves or not self._under_way:
            return
        names = [name for name, _ in self._under_way.values()]
        label = names[0] if len(set(names)) == 1 else ", ".join(dict.fromkeys(names))
        if len(names) > 1:
            label += f" ×{len(names)}"
        began = min(start for _, start in self._under_way.values())
        ms = int((self._clock.monotonic() - began) * 1000)
        text = lines.step_line("◐", label, ms=ms, note="", labels=self._labels, columns=width())
        sys.stderr.write(ERASE_LINE + style(lines.cut(text, width() - 1), "dim", stream=sys.stderr))
        sys.stderr.flush()
        self._is_drawn = True

    def clear(self) -> None:
        """Take the line away until it is drawn again."""
        if self._is_drawn:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
            self._is_drawn = False


class Screen:
    """Where a person watches runs: lines, one that moves, and the pieces of messages on a stream of their own."""

    def __init__(self, treadle: Treadle, *, labels: int, out: TextIO) -> None:
        """Take the width of the column of step names, and the stream of the messages."""
        self._labels = labels
        self._moving = Moving(treadle, labels=labels)
        self._answer = Answer(out, sys.stderr, say=self.say)

    @property
    def is_broken(self) -> bool:
        """Tell whether the reader of the messages went away."""
        return self._answer.is_broken

    def say(self, text: str, *styles: str) -> None:
        """Write a line about the run."""
        self._moving.clear()
        note(text, *styles)

    def show_waiting(self, run: Run) -> None:
        """List the calls whose outputs the run waits for."""
        for call in run.required_action:
            self.say(lines.waiting_line(call, labels=self._labels, columns=width()), "yellow")

    def _draw(self) -> None:
        """Draw the line that moves, where no message is being written."""
        if not self._answer.is_open:
            self._moving.draw()


class Live(Screen):
    """What a person sees of runs: header and steps on stderr, the answer on stdout.

    The header is written again when a run is on another thread than the one before.
    """

    def __init__(self, treadle: Treadle, agent: Agent) -> None:
        """Take the agent of the runs."""
        super().__init__(treadle, labels=lines.label_width(agent.spec), out=sys.stdout)
        self._treadle = treadle
        self._spec = agent.spec
        self._run: Run | None = None
        self._journal: dict[str, list[Step]] = {}
        self._told: set[tuple[str, int]] = set()

    async def take(self, event: Event) -> None:
        """Show what an event says."""
        if self._run is None or self._run.id != event.run_id:
            await self._open(event.run_id)
        step = event.name.removeprefix("thread.run.step.")
        if event.name == "thread.message.delta":
            self._moving.clear()
            self._answer.write(str(event.data["text"]))
        elif step == "in_progress" and event.seq is None:
            self._began(event)
        elif step in ("completed", "failed", "cancelled", "expired") and event.object_id is not None:
            self._moving.end(event.object_id)
            await self._ended(event.object_id)
        self._draw()

    async def close(self, run: Run) -> None:
        """End what is open, and list the calls that wait."""
        self._moving.stop()
        self._answer.abandon()
        self.show_waiting(run)

    async def _open(self, run_id: str) -> None:
        before, run = self._run, await self._treadle.runs.get(run_id)
        self._run, self._journal, self._told = run, {}, set()
        if before is None or before.thread_id != run.thread_id:
            model = describe(self._treadle, self._spec, run)
            self.say(f"{run.thread_id}  {run.id}  model {model}", "dim")
        if run.in_line:
            self.say("  in line: the thread is busy with another run", "yellow")
        self._moving.start(self._draw)

    def _began(self, event: Event) -> None:
        label = str(event.data.get("tool") or event.data["kind"]).replace("_", " ")
        if event.data.get("tool"):
            label = str(event.data["tool"])
        self._moving.begin(event.object_id or "", label)

    async def _ended(self, path: str) -> None:
        for step in await self._closed(path):
            if (path, step.attempt) not in self._told:
                self._told.add((path, step.attempt))
                await self._tell(step)

    async def _closed(self, path: str) -> list[Step]:
        """Give the attempts of a step that have ended; the journal is read again only for what it lacked."""
        assert self._run is not None
        known = [s for s in self._journal.get(path, ()) if not s.is_open]
        if known and (path, known[-1].attempt) not in self._told:
            return known
        self._journal = {}
        for step in await self._treadle.runs.steps(self._run.id):
            self._journal.setdefault(step.path, []).append(step)
        return [s for s in self._journal.get(path, ()) if not s.is_open]

    async def _tell(self, step: Step) -> None:
        assert self._run is not None
        detail = await self._treadle.runs.detail(self._run, step)
        self._answer.line(step_text(step, detail.calls, detail.output, labels=self._labels))
        if detail.text is not None:
            self._moving.clear()
            self._answer.settle(detail.text)


def step_text(
    step: Step, calls: tuple[ToolCall, ...], output: str | None, *, labels: int, indent: int = 0
) -> str:
    """Give the line of a step, in color where stderr takes color.

    Shapes: `indent` counts what the step stands in.
    """
    mark, columns = lines.mark_of(step), width() - 2 * indent
    ms = None if step.ended_ms is None else step.ended_ms - step.started_ms
    room = max(16, columns - labels - 13)
    text = lines.step_line(
        mark,
        lines.label_of(step),
        ms=ms,
        note=lines.note_of(step, calls, output, room=room),
        labels=labels,
        columns=columns,
    )
    color = "red" if mark == lines.FAILED else "green"
    return "  " * indent + text.replace(mark, style(mark, color, stream=sys.stderr), 1)


def describe(treadle: Treadle, spec: AgentSpec, run: Run) -> str:
    """Give the model of a run, and for one that is embedded what it is."""
    from treadle.service.models import EMBEDDED

    if run.model in EMBEDDED:
        with contextlib.suppress(TreadleError):  # What the name stood for is not configured any more.
            resolved = treadle.models.resolve(spec, run.overrides.model)
            said = getattr(sys.modules[type(resolved.provider).__module__], "DESCRIPTION", None)
            if isinstance(said, str):
                return f"{run.model} ({said.removeprefix(f'{run.model}: ')})"
    return lines.one_line(run.model)
