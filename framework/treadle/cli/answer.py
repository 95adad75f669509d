"""The answer of a run on stdout, while it is written, in the order in which a reader expects it.

Where stdout and stderr are different places, the text goes out piece by piece and the lines of the steps when
they end. Where both are one file, the text is written whole, after the lines of its steps. On one terminal it
is streamed, and when it is complete the lines of its steps are put above it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TextIO

from treadle.cli.lines import screen_rows, visible
from treadle.text import clean

ERASE_BELOW = "\x1b[J"
Say = Callable[[str], None]


class Answer:
    """The text of one message after the other."""

    def __init__(self, out: TextIO, err: TextIO, *, say: Say) -> None:
        """Take where the text goes, where the lines go, and what writes a line."""
        self._out = out
        self._say = say
        shared = _is_one_place(out, err)
        self._is_terminal = out.isatty()
        self._waits = shared and not self._is_terminal
        self._redraws = shared and self._is_terminal and os.environ.get("TERM", "dumb") != "dumb"
        self._holds = shared and self._is_terminal
        self._shown = ""
        self._lines: list[str] = []
        self.is_broken = False
        """Whether the reader of stdout went away."""

    @property
    def is_open(self) -> bool:
        """Tell whether the cursor stands behind text that is not complete yet."""
        return bool(self._shown)

    def write(self, piece: str) -> None:
        """Take the next piece of the message."""
        if not self._waits:
            piece = clean(piece)
            self._shown += piece
            self._put(piece)

    def line(self, text: str) -> None:
        """Write the line of a step; it waits while a message is open on the same terminal."""
        if self._holds and self._shown:
            self._lines.append(text)
        else:
            self._say(text)

    def settle(self, text: str) -> None:
        """Complete the message: `text` is what it is, whatever has been streamed of it."""
        streamed, lines = self._shown, self._lines
        self._shown, self._lines = "", []
        if lines and self._redraws and self._erase(streamed):
            streamed = ""
            self._say_all(lines)
            lines = []
        if streamed != text:
            self._put(f"\n{text}" if streamed else text)
        if not text.endswith("\n"):
            self._put("\n")
        self._say_all(lines)

    def abandon(self) -> None:
        """Leave a message that will not be completed."""
        if self._shown:
            self._put("\n")
        self._shown = ""
        lines, self._lines = self._lines, []
        self._say_all(lines)

    def _say_all(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._say(line)

    def _erase(self, text: str) -> bool:
        """Take streamed text off the screen again; tell whether that was possible."""
        columns, lines = _size(self._out)
        rows = screen_rows(visible(text), columns)
        if rows is None or rows >= lines:
            return False
        self._put("\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + ERASE_BELOW, raw=True)
        return True

    def _put(self, text: str, *, raw: bool = False) -> None:
        if self.is_broken:
            return
        try:
            self._out.write(visible(text) if self._is_terminal and not raw else text)
            self._out.flush()
        except BrokenPipeError:
            self.is_broken = True


def _is_one_place(out: TextIO, err: TextIO) -> bool:
    try:
        a, b = os.fstat(out.fileno()), os.fstat(err.fileno())
    except (OSError, ValueError):
        return False
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def _size(out: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 0, 0
    return size.columns, size.lines
