"""Walk a run for a command: follow it, stop it on Ctrl-C, ask for what it waits for, say how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import click

from treadle.cli import approvals, family, flow_lines, lines
from treadle.cli import exit as codes
from treadle.cli.ask import ask
from treadle.cli.errors import render
from treadle.cli.output import can_ask, complain, note
from treadle.cli.signals import Signals, Terminated
from treadle.errors import ProviderError, StateError, StreamCut

if TYPE_CHECKING:
    from treadle.objects.event import Event
    from treadle.objects.message import ToolCall
    from treadle.objects.run import Run
    from treadle.service import Treadle


class Sink(Protocol):
    """What shows a run's events: as lines for people, or as lines of JSON."""

    async def take(self, event: Event) -> None:
        """Show an event."""
        ...

    async def close(self, run: Run) -> None:
        """Show that the walk is over: the run ended, or waits."""
        ...


@dataclass(frozen=True, slots=True)
class Walked:
    """A run at rest, and what stopped its walk where that was a signal."""

    run: Run
    signal: int | None = None


async def follow(
    treadle: Treadle, events: AsyncIterator[Event], sink: Sink, *, signals: Signals, detach: bool = False
) -> Walked:
    """Follow a run until it ends or waits for its client.

    The first Ctrl-C cancels it (with `detach` it is parked instead, so that it can be resumed), SIGTERM parks it; a
    second signal leaves at once.

    Errors: those of the stream.
    """
    stop = _Stop(treadle, signals, detach=detach)
    with signals.obeyed_by(stop.begin, words=_DETACHED if detach else _WORDS):
        reading = stop.reading = asyncio.create_task(_read(treadle, events, sink, stop))
        try:
            await reading
        except asyncio.CancelledError:
            if not stop.has_left:
                raise
        await stop.settle()
    assert stop.run_id is not None, "a walk has events"
    run = await treadle.runs.get(stop.run_id)
    await sink.close(run)
    return Walked(run, signals.number)


async def _read(treadle: Treadle, events: AsyncIterator[Event], sink: Sink, stop: _Stop) -> None:
    """Show events as they come; a reader that was cut off goes on where it was."""
    while True:
        try:
            async with aclosing(cast("AsyncGenerator[Event]", events)) as stream:
                async for event in stream:
                    # The first event is one of the run's own, others may be of runs within it.
                    stop.meet(stop.run_id or event.run_id)
                    await sink.take(event)
        except StreamCut as e:
            events = treadle.runs.follow(e.run_id, after=e.after, until_rest=True)
        else:
            return


_PARKING = "\nterminated: parking the run at its next checkpoint (a second SIGTERM leaves at once)\n"
_WORDS: dict[int, str] = {
    signal.SIGINT: "\ninterrupted: cancelling the run (Ctrl-C again leaves at once)\n",
    signal.SIGTERM: _PARKING,
}
_DETACHED: dict[int, str] = {
    signal.SIGINT: "\ninterrupted: parking the run (Ctrl-C again leaves at once)\n",
    signal.SIGTERM: _PARKING,
}


class _Stop:
    """How a walk is stopped: by cancelling its run, or by parking it."""

    def __init__(self, treadle: Treadle, signals: Signals, *, detach: bool) -> None:
        self._treadle = treadle
        self._signals = signals
        self._detach = detach
        self._stopping: asyncio.Task[object] | None = None
        self._is_wanted = False
        self.run_id: str | None = None
        self.reading: asyncio.Task[None] | None = None
        self.has_left = False
        """Whether the reading was given up: the run does not come to rest here, since others walk it."""

    def meet(self, run_id: str) -> None:
        """Take note of the run; a signal that came before it had an id is obeyed now."""
        self.run_id = run_id
        if self._is_wanted:
            self.begin()

    def begin(self) -> None:
        """Begin what the signal asks for, once there is a run."""
        self._is_wanted = True
        if self._stopping is None and self.run_id is not None:
            parks = self._detach or self._signals.number != signal.SIGINT
            stopping = self._park(self.run_id) if parks else self._cancel(self.run_id)
            self._stopping = asyncio.ensure_future(stopping)

    async def _park(self, run_id: str) -> None:
        from treadle.service import GRACE_S

        is_ours = self._treadle.executor.is_walking(run_id)
        self._treadle.keeper.claim_no_more()
        await self._treadle.executor.park(GRACE_S)
        if not is_ours and self.reading is not None:
            self.has_left = True
            self.reading.cancel()

    async def _cancel(self, run_id: str) -> None:
        with contextlib.suppress(StateError):  # It has ended meanwhile.
            await self._treadle.runs.cancel(run_id)

    async def settle(self) -> None:
        """Wait until what a signal began is done."""
        if self._stopping is not None:
            await self._stopping


async def left(treadle: Treadle, runs: Sequence[Run]) -> set[str]:
    """Give the ids of those runs whose walker is gone: `runs resume` goes on with them."""
    held = [run for run in runs if run.walker is not None]
    if not held:
        return set()
    from treadle.engine.lease import Watch

    watch = Watch(treadle.clock, seconds=treadle.settings.lease_s)
    known = await treadle.store.walkers()
    alive = {walker.id for walker in known if not walker.is_dead and not watch.is_dead(walker)}
    return {run.id for run in held if run.walker not in alive}


async def attend(
    treadle: Treadle,
    events: AsyncIterator[Event],
    sink: Sink,
    *,
    signals: Signals,
    labels: int = lines.LABELS + 1,
    detach: bool = False,
    asks: bool = True,
) -> Walked:
    """Follow a run; where a person is there, ask for the consent or the outputs that it waits for, and go on.

    Units: `labels` is the width of the column of step names.

    Errors: those of the stream.
    """
    walked = await follow(treadle, events, sink, signals=signals, detach=detach)
    while asks and walked.run.status == "requires_action" and walked.signal is None:
        if not can_ask():
            show_waiting(walked.run, labels=labels)
            break
        try:
            more = await _ask(treadle, walked.run, signals=signals, labels=labels)
        except Terminated:
            return Walked(await treadle.runs.get(walked.run.id), signal.SIGTERM)
        except (KeyboardInterrupt, click.Abort):
            return await _give_up(treadle, walked.run, detach=detach)
        if more is None:
            return Walked(await treadle.runs.get(walked.run.id))
        walked = await follow(treadle, more, sink, signals=signals, detach=detach)
    if walked.run.parent_id is not None and walked.signal is None:
        # The run above was taken up with it, and goes on: it is this process's to bring to rest.
        await treadle.runs.settle()
    return walked


async def _ask(treadle: Treadle, run: Run, *, signals: Signals, labels: int) -> AsyncIterator[Event] | None:
    """Ask for what a run waits for; give its further events, None where something is left for later."""
    if run.required_approvals:
        return await approvals.ask_all(treadle, run, signals=signals, labels=labels)
    if run.required_answers:
        from treadle.cli import questions

        return await questions.ask_all(treadle, run, signals=signals, labels=labels)
    outputs = ask_outputs(run.required_action, signals=signals)
    return None if outputs is None else await submitted(treadle, run, outputs)


async def submitted(treadle: Treadle, run: Run, outputs: Sequence[Mapping[str, str]]) -> AsyncIterator[Event]:
    """Submit outputs, and give the further events of the run, those of the runs within it among them."""
    if not family.is_workflow_run(run):
        return treadle.runs.submit_and_stream(run.id, outputs)
    marks = await family.marks(treadle, run)
    await treadle.runs.submit_tool_outputs(run.id, outputs)
    return family.follow(treadle, run, after=marks)


def show_waiting(run: Run, *, labels: int) -> None:
    """List what a run waits for that people decide or answer, also where all else is quiet."""
    approvals.show(run.required_approvals, labels=labels)
    if run.required_answers:
        from treadle.cli import questions

        questions.show(run.required_answers, labels=labels)


async def _give_up(treadle: Treadle, run: Run, *, detach: bool) -> Walked:
    """Cancel a run at whose question somebody pressed Ctrl-C; with `detach` it goes on waiting."""
    if detach:
        complain("\ninterrupted: the run goes on waiting")
        return Walked(run, signal.SIGINT)
    complain("\ninterrupted: cancelling the run")
    await treadle.runs.cancel(run.id)
    return Walked(await treadle.runs.get(run.id), signal.SIGINT)


def ask_outputs(calls: Sequence[ToolCall], *, signals: Signals) -> list[dict[str, str]] | None:
    """Ask for the output of each call; None where one of them is left for later.

    Errors: KeyboardInterrupt, Terminated.
    """
    outputs: list[dict[str, str]] = []
    for call in calls:
        output = ask(f"    output of {lines.one_line(call.name)} (empty: later): ", signals=signals)
        if not output:
            return None
        outputs.append({"tool_call_id": call.id, "output": output})
    return outputs


Command = Callable[[str], str]


async def report(
    treadle: Treadle, walked: Walked, *, command: Command, name: str | None = None, hints: Sequence[str] = ()
) -> int:
    """Say how a run ended and how to go on, and give the exit code.

    Shapes: `command` completes a treadle command, so that it finds this store from here; `name` is what the run is
    called in it, its id where it is None; `hints` are what to do once the run is over.
    """
    run = walked.run
    name = name or run.id
    if run.status == "requires_action":
        first, *more = [command(way) for way in _ways(run, name)]
        note(f"requires_action.  Later:  {first}", "yellow")
        for way in more:
            note(f"                   or:  {way}", "yellow")
    elif run.in_line:
        again = command(f"runs resume {run.id}")
        complain(f"{run.id} stays in line; go on when its turn has come: {again}", "yellow")
    elif run.status == "queued":
        complain(f"parked {run.id}; go on: {command(f'runs resume {run.id}')}", "yellow")
    elif run.status == "in_progress" and run.walker is None and run.wake_ms is not None:
        again = command(f"runs resume {run.id}")
        complain(f"{run.id} {flow_lines.rest_text(run.wake_ms)}; go on then: {again}", "yellow")
    elif run.status == "in_progress":
        complain(f"{run.id} goes on in another process; look: {command(f'runs show {run.id}')}", "yellow")
    else:
        count = await _count(treadle, run)
        color = "dim" if run.status == "completed" else "yellow"
        note(lines.ended_line(run, count), color)
        _say_error(run)
        if hints:
            note("      ".join(hints), "dim")
    return exit_code(walked)


def _ways(run: Run, name: str) -> list[str]:
    """Give the commands that go on with a run which waits."""
    found = [f"runs approve {name}"] if run.required_approvals else []
    if run.required_answers:
        from treadle.cli import questions

        found += questions.commands(run, name)
    if found:
        return found
    given = "".join(f" --output {call.id}=…" for call in run.required_action)
    return [f"runs submit {name}{given}"]


async def _count(treadle: Treadle, run: Run) -> int:
    """Count the steps of a run, those of the runs within it included."""
    if not family.is_workflow_run(run):
        return len(await treadle.runs.steps(run.id))
    return (await treadle.runs.trace(run.id)).total


def _say_error(run: Run) -> None:
    error = run.last_error
    if error is None:
        return
    if family.is_workflow_run(run):
        complain(f"failed: {error.code}: {lines.visible(error.message)}", "red")
    elif codes.is_provider_error(error.code):
        render(ProviderError.code, f"{error.code}: {error.message}")
    elif error.code.startswith("TR"):
        render(error.code, error.message)
    else:
        complain(f"failed: {error.code}: {error.message}", "red")


def exit_code(walked: Walked) -> int:
    """Give the exit code of a run at rest."""
    if walked.signal is not None:
        return 128 + walked.signal
    error = walked.run.last_error
    # The codes of a workflow's errors are its nodes': a person may have been late, not a model.
    if family.is_workflow_run(walked.run):
        error = None
    return codes.of_run(walked.run.status, error_code=error.code if error else None)
