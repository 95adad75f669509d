"""Chance from a seed: the only source of randomness of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """Draws that are the same for the same seed, on every machine."""

    def __init__(self, seed: str) -> None:
        """Begin the sequence of draws that belongs to a seed."""
        self._seed = seed
        # Invariant: a text seeds by its own digest, never by its hash, which differs from process to process.
        self._random = Random(seed)  # noqa: S311 - repeats a course of events, guards nothing

    def fork(self, name: str) -> Chance:
        """Give a sequence of its own, which no draw of this one moves."""
        return Chance(f"{self._seed}/{name}")

    def happens(self, probability: float) -> bool:
        """Tell whether something of that probability happens now."""
        return self._random.random() < probability

    def below(self, end: int) -> int:
        """Give a whole number from 0 to below `end`."""
        return self._random.randrange(end)

    def between(self, low: float, high: float) -> float:
        """Give a number from a range."""
        return low + (high - low) * self._random.random()

    def around(self, mean: float) -> float:
        """Give a wait whose mean this is: mostly shorter, now and then much longer."""
        return self._random.expovariate(1 / mean) if mean > 0 else 0.0

    def pick(self, choices: Sequence[T]) -> T:
        """Give one of several."""
        return choices[self._random.randrange(len(choices))]

    def number(self, bits: int) -> int:
        """Give a whole number of that many random bits."""
        return self._random.getrandbits(bits)
