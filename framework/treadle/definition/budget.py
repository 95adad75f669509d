"""What one rendering may use, and the JSON values that it may touch.

**Rules**

1. Everything that a template can reach is a JSON value: dict with string keys, list, str, int, float, bool, None,
   each of exactly that type. It comes in as a copy.
2. Every operation whose cost depends on data pays before it works: in units of work for the cells it visits, in
   characters for the text it makes.
3. Both purses only shrink, and a rendering whose purse is empty stops. So its time and its memory are bounded,
   whatever the template says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import cast

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

from treadle.objects.record import JsonValue

MAX_OUTPUT_BYTES = 262_144
MAX_TEXT_CHARS = 1_048_576
MAX_INT_BITS = 256
MAX_DATA_DEPTH = 64
MAX_DATA_CELLS = 250_000
MAX_INCLUDE_DEPTH = 8
MAX_INCLUDES = 256

_WORK = 2_000_000
_LOOPS = 100_000
_CHARS = 8_388_608
_CHARS_PER_UNIT = 16
_SCALARS = frozenset((str, int, float, bool, type(None)))


class Budget:
    """The purses of one rendering, and what it has opened so far."""

    __slots__ = ("_chars", "_loops", "_texts", "_work", "depth", "include", "included", "result")

    def __init__(self, include: Callable[[str], str] | None = None) -> None:
        """Start with full purses; `include` opens texts by name."""
        self._work = _WORK
        self._loops = _LOOPS
        self._chars = _CHARS
        self._texts: dict[str, str] = {}
        self.include = include
        self.included = 0
        self.depth = 0
        self.result: JsonValue = None

    def spend(self, units: int) -> None:
        """Pay for work that is about to be done."""
        self._work -= units
        if self._work < 0:
            raise SecurityError("this takes too much work: the budget of one rendering is used up")

    def rounds(self, count: int) -> None:
        """Pay for the rounds of a loop that is about to start."""
        self._loops -= count
        if self._loops < 0:
            msg = f"too many loop rounds: all loops of one rendering together may take {_LOOPS:,}"
            raise SecurityError(msg)

    def make(self, chars: int) -> None:
        """Pay for a text that is about to be made."""
        if chars > MAX_TEXT_CHARS:
            msg = f"this makes a text that is too long: the limit is {MAX_TEXT_CHARS:,} characters"
            raise SecurityError(msg)
        self._chars -= chars
        if self._chars < 0:
            raise SecurityError("too much text is made: the budget of one rendering is used up")
        self.spend(chars // _CHARS_PER_UNIT)

    def text_behind(self, name: str) -> str:
        """Give the text of an include, asking for it once."""
        if name not in self._texts:
            if self.include is None:
                msg = f"'{name}' cannot be included: nothing here opens other texts"
                raise SecurityError(msg)
            self._texts[name] = self.include(name)
        return self._texts[name]

    def measure(self, value: object) -> tuple[int, int, int]:
        """Give the cells, characters and depth of a value as if nothing in it were shared, and pay for the walk.

        Hazard: `[a, a]` thirty times over is thirty small lists whose walk takes 2**30 steps. Whatever walks a
        value in C (str, ==, json) must come here first.
        """
        if type(value) is str:
            self.spend(len(value) // _CHARS_PER_UNIT)
            return 1, len(value), 0
        cells = chars = deepest = 0
        stack: list[tuple[object, int]] = [(value, 0)]
        while stack:
            item, depth = stack.pop()
            cells += 1
            if type(item) is str:
                chars += len(item)
                continue
            if type(item) in _SCALARS:
                chars += 8
                continue
            deepest = max(deepest, depth + 1)
            if deepest > MAX_DATA_DEPTH * 2:
                raise SecurityError("this value is nested too deeply")
            inner = _children(item)
            self.spend(2 * len(inner) + 1)
            stack.extend((child, depth + 1) for child in inner)
            if type(item) is dict:
                self.spend(4 * len(inner))
                chars += sum(map(len, cast("dict[str, object]", item)))
        self.spend(1 + chars // _CHARS_PER_UNIT)
        return cells, chars, deepest


BUDGET: ContextVar[Budget] = ContextVar("treadle_template_budget")
"""The budget of the rendering that goes on here; filters and operators find it without being handed it."""


def _children(item: object) -> list[object]:
    if type(item) is list:
        return cast("list[object]", item)
    if type(item) is dict:
        return list(cast("dict[str, object]", item).values())
    refuse_undefined(item)
    msg = f"a {type(item).__name__} is not a value that can be used here"
    raise SecurityError(msg)


def refuse_undefined(value: object) -> None:
    """Raise the error that an undefined value carries."""
    if isinstance(value, Undefined):
        str(value)  # StrictUndefined raises its own error, which names what is missing


def bounded(number: float) -> int | float:
    """Give the number back if it is one that JSON and the store can hold.

    Errors: SecurityError for more than 256 bits, and for what is not finite.
    """
    if isinstance(number, float):
        if not math.isfinite(number):
            raise SecurityError("the result is not a finite number")
    elif number.bit_length() > MAX_INT_BITS:
        msg = f"the result is too large: integers have at most {MAX_INT_BITS} bits"
        raise SecurityError(msg)
    return number


def as_text(budget: Budget, value: object) -> str:
    """Give a value as text, the way `{{ }}` prints it."""
    if type(value) is str:
        return value
    refuse_undefined(value)
    if type(value) not in _SCALARS:
        cells, chars, _ = budget.measure(value)
        budget.make(chars + 4 * cells)
    return str(value)


def admit(values: Mapping[str, object]) -> dict[str, JsonValue]:
    """Give a deep copy of named JSON values.

    Errors: SecurityError, with the name, for a value of any other type, for a cycle, and for what is too large.
    """
    intake = _Intake()
    return {name: intake.take(name, value) for name, value in values.items()}


def copied(value: object, *, what: str) -> JsonValue:
    """Give a deep copy of one JSON value; as `admit`."""
    return _Intake().take(what, value)


class _Intake:
    """Copies values and counts their cells together."""

    __slots__ = ("_cells", "_what")

    def __init__(self) -> None:
        self._cells = 0
        self._what = ""

    def take(self, what: str, value: object) -> JsonValue:
        self._what = what
        return self._copy(value, 0)

    def _copy(self, value: object, depth: int) -> JsonValue:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            return value
        if kind is int or kind is float:
            return self._number(cast("int | float", value))
        if depth >= MAX_DATA_DEPTH:
            raise self._refusal(f"is nested deeper than {MAX_DATA_DEPTH} levels")
        if kind is list:
            items = cast("list[object]", value)
            self._count(len(items))
            return [self._copy(item, depth + 1) for item in items]
        if kind is dict:
            pairs = cast("dict[object, object]", value)
            self._count(len(pairs))
            return {self._key(key): self._copy(item, depth + 1) for key, item in pairs.items()}
        raise self._refusal(f"holds a {kind.__name__}; only JSON values can be used")

    def _number(self, value: float) -> int | float:
        try:
            return bounded(value)
        except SecurityError:
            raise self._refusal("holds a number that is not finite or too large") from None

    def _key(self, key: object) -> str:
        if type(key) is str:
            return key
        raise self._refusal(f"has a key of type {type(key).__name__}; keys are strings")

    def _count(self, cells: int) -> None:
        self._cells += cells
        if self._cells > MAX_DATA_CELLS:
            raise self._refusal(f"has more than {MAX_DATA_CELLS:,} cells")

    def _refusal(self, why: str) -> SecurityError:
        return SecurityError(f"the value of '{self._what}' {why}")
