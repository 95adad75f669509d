"""The course of a simulation: what happened when, and one hash over all of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b


class Trace:
    """Takes down what happens; two courses are the same when their hashes are."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        """Start empty; `tell` is given each line as it is made."""
        self._hash = blake2b(digest_size=16)
        self._tell = tell
        self._now_s = 0.0
        self._life = ""

    def step(self, now_s: float, life: str) -> None:
        """Take down that a callback of a life runs."""
        self._now_s, self._life = now_s, life
        self._hash.update(struct.pack("<d", now_s))
        self._hash.update(life.encode())

    def note(self, *words: object) -> None:
        """Take down what happened, in words."""
        line = " ".join(str(word) for word in words)
        self._hash.update(line.encode(errors="surrogatepass"))
        if self._tell is not None:
            self._tell(f"{self._now_s:12.6f}  {self._life:<10} {line}")

    @property
    def hash(self) -> str:
        """Give the hash of everything so far."""
        return self._hash.hexdigest()
