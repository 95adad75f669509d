"""Prefixed ids that sort by the time they were made.

An id is a prefix, a mark (an underscore; a dash for files) and 24 base-62 characters: 8 of Unix milliseconds, 16 of
randomness. Ids made in one process in the same millisecond still sort in the order they were made.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_BASE = len(_PAIRS)
_TAIL = 62**16

KINDS = {
    "asst": "assistant",
    "wf": "workflow",
    "thread": "thread",
    "msg": "message",
    "run": "run",
    "step": "run step",
    "call": "tool call",
    "vs": "vector store",
    "vsfb": "file batch",
    "file": "file",
    "key": "key",
}


def begin(prefix: str) -> str:
    """Give what ids of a prefix begin with, the mark after it included: ``run_``, ``file-``."""
    return f"{prefix}-" if prefix == "file" else f"{prefix}_"


def _base62(number: int, pairs: int) -> str:
    parts = [""] * pairs
    for place in range(pairs - 1, -1, -1):
        number, rest = divmod(number, _BASE)
        parts[place] = _PAIRS[rest]
    return "".join(parts)


class Ids(Protocol):
    """Where new ids come from."""

    def new(self, prefix: str) -> str:
        """Make an id that no one has yet: the prefix, its mark, 24 characters."""
        ...


class SortableIds:
    """Ids from the clock and the system's randomness."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._ms = 0
        self._tail = 0

    def new(self, prefix: str) -> str:
        """Make an id, greater than every id made before in this process."""
        ms = time.time_ns() // 1_000_000
        if ms > self._ms:
            self._ms = ms
            # The top bit stays free, so that counting up in one millisecond never overflows.
            self._tail = int.from_bytes(os.urandom(12), "big") % (_TAIL // 2)
        else:
            self._tail += 1
        return f"{begin(prefix)}{_base62(self._ms, 4)}{_base62(self._tail, 8)}"


def secret(characters: int) -> str:
    """Make a text that nobody can guess: that many base-62 characters of the system's randomness.

    Shapes: 43 characters are 256 bits.
    """
    pairs = (characters + 1) // 2
    # A byte a character is two bits more than it holds, so that the remainder is as good as even.
    chance = int.from_bytes(os.urandom(2 * pairs), "big") % _BASE**pairs
    return _base62(chance, pairs)[:characters]


def derive(prefix: str, parent_id: str, path: str) -> str:
    """Make the id that a part of a parent always has, so that a repeated attempt announces the same one.

    Shapes: the parent's time characters, then 16 characters of a hash of parent and path; it sorts with its
    parent.
    """
    head = parent_id.rpartition("_")[2][:8].rjust(8, "0")
    digest = blake2b(f"{parent_id}\x00{path}".encode(), digest_size=12).digest()
    return f"{begin(prefix)}{head}{_base62(int.from_bytes(digest, 'big') % _TAIL, 8)}"


def is_workflow_id(id_: str) -> bool:
    """Tell whether an id is that of a workflow."""
    return id_.startswith("wf_")


def mark(*parts: str) -> str:
    """Give nine characters of a hash: what makes ids of one parent unlike those of another."""
    digest = blake2b("\x00".join(parts).encode(), digest_size=8).digest()
    return _base62(int.from_bytes(digest, "big") % 62**10, 5)[1:]


def placed(prefix: str, number: int, place: int, mark_: str) -> str:
    """Make the id of the part that has a place in a numbered parent; `place_of` reads it back.

    Shapes: five characters of the parent's number, nine of its mark, ten of the place: ids of one parent sort
    by place. A place always has the same id, so a repeated attempt announces the same one.
    """
    tail = f"00000000{_PAIRS[place]}" if place < _BASE else _base62(place, 5)
    return _head(prefix, number, mark_) + tail


@lru_cache(maxsize=4096)
def _head(prefix: str, number: int, mark_: str) -> str:
    """Give what the ids of one parent begin with."""
    return f"{prefix}_{_base62(number, 3)[1:]}{mark_}"


_VALUES = {character: value for value, character in enumerate(_ALPHABET)}


def place_of(id_: str, prefix: str) -> tuple[int, str, int] | None:
    """Read a placed id back: the parent's number, its mark, the place; None for any other text."""
    head, found, tail = id_.partition("_")
    if not found or head != prefix or len(tail) != 24 or any(c not in _VALUES for c in tail):
        return None
    return _number(tail[:5]), tail[5:14], _number(tail[14:])


def _number(text: str) -> int:
    number = 0
    for character in text:
        number = number * 62 + _VALUES[character]
    return number


def kind(id_: str) -> str | None:
    """Give the noun that an id's prefix names, or None for a foreign id."""
    prefix = id_.partition("-" if id_.startswith("file") else "_")[0]
    return KINDS.get(prefix)
