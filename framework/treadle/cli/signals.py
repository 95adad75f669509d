"""What Ctrl-C and SIGTERM do to a command that walks runs.

The first of them is obeyed: whoever is at work says how, else the command is given up. The second one leaves at
once, whatever is going on; what is committed by then is kept, and the run can be taken up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Self

HEEDED = (signal.SIGINT, signal.SIGTERM)


class Terminated(BaseException):
    """SIGTERM came while a person was asked."""


class Signals:
    """The signals of one command, from its start to its end."""

    def __init__(self) -> None:
        """Start without a signal."""
        self.number: int | None = None
        """The signal that came, None while none did."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._command: asyncio.Task[Any] | None = None
        self._stop: Callable[[], None] | None = None
        self._words: Mapping[int, str] = {}
        self._is_obeyed = False
        self._asks = False

    def run(self, command: Coroutine[Any, Any, int]) -> int:
        """Run a command and give its exit code; 128 and the signal's number where one made an end of it.

        Errors: those of the command; KeyboardInterrupt out of a question.
        """
        with self._listening():
            try:
                return asyncio.run(self._hold(command))
            except asyncio.CancelledError:
                if self.number is None:
                    raise
                return 128 + self.number
            except Terminated:
                return 128 + signal.SIGTERM

    async def _hold(self, command: Coroutine[Any, Any, int]) -> int:
        self._loop = asyncio.get_running_loop()
        self._command = asyncio.current_task()
        try:
            return await command
        finally:
            self._loop = None

    @contextmanager
    def obeyed_by(self, stop: Callable[[], None], *, words: Mapping[int, str]) -> Generator[Self]:
        """Let `stop` obey a signal that comes meanwhile; it is called on the event loop.

        Shapes: `words` is what is said at once, by the number of the signal.
        """
        self._stop, self._words = stop, words
        try:
            yield self
        finally:
            self._stop, self._words = None, {}
            self._is_obeyed = self.number is not None

    @contextmanager
    def asking(self) -> Generator[None]:
        """Let a signal end what blocks until a person, or a pipe, says something.

        Errors: KeyboardInterrupt, Terminated.
        """
        self._asks = True
        try:
            # Hazard: one that came just before waits for the event loop, which stands still from here on.
            if self.number is not None and not self._is_obeyed:
                self._break_off(self.number)
            yield
        finally:
            self._asks = False

    def forget(self) -> None:
        """Go on after a signal that was obeyed: the next one is a first one."""
        self.number, self._is_obeyed = None, False

    @contextmanager
    def _listening(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Only the main thread may listen.
            return
        before = {number: signal.signal(number, self._receive) for number in HEEDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        """Take a signal, wherever the main thread is: no file object may be touched here."""
        if self.number is not None:
            _say("\n")
            os._exit(128 + number)
        if self._asks or self._loop is None:
            self._break_off(number)
        else:
            self.number = number
            _say(self._words.get(number, ""))
            self._loop.call_soon_threadsafe(self._obey)

    def _break_off(self, number: int) -> NoReturn:
        """Leave what blocks; a question may be asked again after Ctrl-C."""
        self._asks = False
        if number == signal.SIGINT:
            self.forget()
            raise KeyboardInterrupt
        self.number, self._is_obeyed = number, True
        raise Terminated

    def _obey(self) -> None:
        if self.number is None or self._is_obeyed:
            return
        self._is_obeyed = True
        if self._stop is not None:
            self._stop()
        elif self._command is not None:
            self._command.cancel()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
