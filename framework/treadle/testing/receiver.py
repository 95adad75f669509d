"""The outside world of a crash test: a record of everything that reached it, kept by nobody who is ever killed.

It is a file that is only appended to, one JSON line for each thing that happened. A line is one write, so a process
that kills itself right after it has written it all, and the next process reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

Note = Mapping[str, Any]


class Receiver:
    """Write down what happened, and read what has happened so far."""

    def __init__(self, path: Path, *, life: int = 1) -> None:
        """Go on with a file, made where there is none; `life` says which process writes, counted from 1."""
        self._path = path
        self.life = life
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, **said: Any) -> None:
        """Write down one thing: what it is, and what is said of it as plain JSON."""
        line = json.dumps({"what": what, "life": self.life, **said}, ensure_ascii=False)
        os.write(self._file, line.encode() + b"\n")

    def notes(self, *whats: str) -> list[Note]:
        """Give what was written, in order: everything, or what is of one of the kinds."""
        lines = self._path.read_bytes().splitlines()
        found = cast("list[Note]", [json.loads(line) for line in lines])
        return [note for note in found if not whats or note["what"] in whats]

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)
