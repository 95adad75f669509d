"""Walk a run for a command: follow it, stop it on Ctrl-C, ask for what it waits for, say how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import click

from treadle.cli import exit as codes
from treadle.cli import lines
from treadle.cli.errors import render
from treadle.cli.output import can_ask, complain, note
from treadle.errors import ProviderError, StateError

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
    treadle: Treadle, events: AsyncIterator[Event], sink: Sink, *, detach: bool = False
) -> Walked:
    """Follow a run until it ends or waits for its client.

    The first Ctrl-C cancels it (with `detach` it is parked instead, so that it can be resumed), a second one
    leaves at once; SIGTERM parks it.

    Errors: those of the stream.
    """
    interrupts = _Interrupts(treadle, detach=detach)
    async with aclosing(cast("AsyncGenerator[Event]", events)) as stream:
        with interrupts.listening():
            async for event in stream:
                interrupts.meet(event.run_id)
                await sink.take(event)
    await interrupts.settle()
    assert interrupts.run_id is not None, "a walk has events"
    run = await treadle.runs.get(interrupts.run_id)
    await sink.close(run)
    return Walked(run, interrupts.signal)


class _Interrupts:
    """What signals do while a run is walked."""

    def __init__(self, treadle: Treadle, *, detach: bool) -> None:
        self._treadle = treadle
        self._detach = detach
        self._stopping: asyncio.Task[object] | None = None
        self.run_id: str | None = None
        self.signal: int | None = None

    def meet(self, run_id: str) -> None:
        """Take note of the run; a signal that came before it had an id is obeyed now."""
        self.run_id = run_id
        if self.signal is not None:
            self._stop()

    @contextmanager
    def listening(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        wanted = {signal.SIGINT: self._interrupt, signal.SIGTERM: self._terminate}
        installed: list[signal.Signals] = []
        before = {number: signal.getsignal(number) for number in wanted}
        # Loops without signal handlers (Windows) keep Python's own: the interrupt is an exception there.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for number, handle in wanted.items():
                loop.add_signal_handler(number, handle)
                installed.append(number)
        try:
            yield
        finally:
            for number in installed:
                loop.remove_signal_handler(number)
                signal.signal(number, before[number])

    def _interrupt(self) -> None:
        if self.signal is not None:
            complain("")
            os._exit(codes.INTERRUPTED)
        self.signal = signal.SIGINT
        what = "parking" if self._detach else "cancelling"
        complain(f"\ninterrupted: {what} the run (Ctrl-C again leaves at once)")
        self._stop()

    def _terminate(self) -> None:
        self.signal = self.signal or signal.SIGTERM
        self._stop()

    def _stop(self) -> None:
        """Begin what the signal asks for, once there is a run."""
        if self._stopping is None and self.run_id is not None:
            parks = self._detach or self.signal != signal.SIGINT
            self._stopping = asyncio.ensure_future(self._park() if parks else self._cancel(self.run_id))

    async def _park(self) -> None:
        from treadle.service import GRACE_S

        await self._treadle.executor.park(GRACE_S)

    async def _cancel(self, run_id: str) -> None:
        with contextlib.suppress(StateError):  # It has ended meanwhile.
            await self._treadle.runs.cancel(run_id)

    async def settle(self) -> None:
        """Wait until what a signal began is done."""
        if self._stopping is not None:
            await self._stopping


async def attend(
    treadle: Treadle, events: AsyncIterator[Event], sink: Sink, *, detach: bool = False, asks: bool = True
) -> Walked:
    """Follow a run; where a person is there, ask for the outputs that it waits for and go on.

    Errors: those of the stream.
    """
    walked = await follow(treadle, events, sink, detach=detach)
    while asks and walked.run.status == "requires_action" and walked.signal is None and can_ask():
        try:
            outputs = ask_outputs(walked.run.required_action)
        except (KeyboardInterrupt, click.Abort):
            complain("\ninterrupted: cancelling the run")
            await treadle.runs.cancel(walked.run.id)
            return Walked(await treadle.runs.get(walked.run.id), signal.SIGINT)
        if outputs is None:
            break
        events = treadle.runs.submit_and_stream(walked.run.id, outputs)
        walked = await follow(treadle, events, sink, detach=detach)
    return walked


def ask_outputs(calls: Sequence[ToolCall]) -> list[dict[str, str]] | None:
    """Ask for the output of each call; None where one of them is left for later.

    Errors: KeyboardInterrupt.
    """
    outputs: list[dict[str, str]] = []
    for call in calls:
        output = ask(f"    output of {lines.one_line(call.name)} (empty: later): ")
        if not output:
            return None
        outputs.append({"tool_call_id": call.id, "output": output})
    return outputs


def ask(prompt: str) -> str | None:
    """Ask a person for a line, with line editing; None at the end of input.

    Errors: KeyboardInterrupt.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # For what it does to input().

    # Hazard: the event loop's own handler would only take note of the interrupt, and the line would go on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if sys.stdout.isatty():
            return input(prompt)
        sys.stderr.write(prompt)
        sys.stderr.flush()
        return input()
    except EOFError:
        complain("")
        return None
    finally:
        signal.signal(signal.SIGINT, before)


def die_of(walked: Walked) -> None:
    """End this process by the signal that ended the walk, where it was no interrupt: its parent wants to know."""
    if walked.signal is not None and walked.signal != signal.SIGINT:
        sys.stdout.flush()
        signal.signal(walked.signal, signal.SIG_DFL)
        os.kill(os.getpid(), walked.signal)


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
        given = "".join(f" --output {call.id}=…" for call in run.required_action)
        note(f"requires_action.  Later:  {command(f'runs submit {name}{given}')}", "yellow")
    elif run.status == "queued":
        note(f"parked.  Go on:  {command(f'runs resume {name}')}", "yellow")
    else:
        steps = await treadle.runs.steps(run.id)
        color = "dim" if run.status == "completed" else "yellow"
        note(lines.ended_line(run, len(steps)), color)
        _say_error(run)
        if hints:
            note("      ".join(hints), "dim")
    return exit_code(walked)


def _say_error(run: Run) -> None:
    error = run.last_error
    if error is None:
        return
    if codes.is_provider_error(error.code):
        render(ProviderError.code, f"{error.code}: {error.message}")
    elif error.code.startswith("TR"):
        render(error.code, error.message)
    else:
        complain(f"failed: {error.code}: {error.message}", "red")


def exit_code(walked: Walked) -> int:
    """Give the exit code of a run at rest."""
    if walked.signal == signal.SIGINT:
        return codes.INTERRUPTED
    if walked.signal is not None:
        return 128 + walked.signal
    error = walked.run.last_error
    return codes.of_run(walked.run.status, error_code=error.code if error else None)
