"""The walker: a process that walks runs, as the store knows it."""

from __future__ import annotations

from typing import NamedTuple


class Walker(NamedTuple):
    """Who holds runs, and until when.

    A walker is one life of one process: `boot` names the life of its machine, `space` the space that its process
    number is of. `beat` counts its heartbeats. Who was declared dead never lives again under its name.

    Units: `until_ms` milliseconds of the machine's monotonic clock, which says nothing in another life of it.
    """

    id: str
    host: str = ""
    boot: str = ""
    space: str = ""
    pid: int = 0
    beat: int = 0
    until_ms: int = 0
    is_dead: bool = False
