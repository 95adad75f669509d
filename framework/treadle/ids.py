"""Prefixed ids that sort by the time they were made.

An id is a prefix and 24 base-62 characters: 8 of Unix milliseconds, 16 of randomness. Ids made in one
process in the same millisecond still sort in the order they were made.
"""

from __future__ import annotations

import os
import time
from hashlib import blake2b
from typing import Protocol

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_BASE = len(_PAIRS)
_TAIL = 62**16

KINDS = {
    "asst": "assistant",
    "thread": "thread",
    "msg": "message",
    "run": "run",
    "step": "run step",
    "call": "tool call",
    "vs": "vector store",
    "file": "file",
}


def _base62(number: int, pairs: int) -> str:
    parts = [""] * pairs
    for place in range(pairs - 1, -1, -1):
        number, rest = divmod(number, _BASE)
        parts[place] = _PAIRS[rest]
    return "".join(parts)


class Ids(Protocol):
    """Where new ids come from."""

    def new(self, prefix: str) -> str:
        """Make an id that no one has yet: the prefix, an underscore, 24 characters."""
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
        return f"{prefix}_{_base62(self._ms, 4)}{_base62(self._tail, 8)}"


def derive(prefix: str, parent_id: str, path: str) -> str:
    """Make the id that a part of a parent always has, so that a repeated attempt announces the same one.

    Shapes: the parent's time characters, then 16 characters of a hash of parent and path; it sorts with its
    parent.
    """
    head = parent_id.rpartition("_")[2][:8].rjust(8, "0")
    digest = blake2b(f"{parent_id}\x00{path}".encode(), digest_size=12).digest()
    return f"{prefix}_{head}{_base62(int.from_bytes(digest, 'big') % _TAIL, 8)}"


def kind(id_: str) -> str | None:
    """Give the noun that an id's prefix names, or None for a foreign id."""
    return KINDS.get(id_.partition("_")[0])
