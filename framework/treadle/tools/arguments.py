"""Read what a model wrote as arguments, strictly: what is not sound goes back to it as an error.

Malformed text is never repaired and never taken for an empty object.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Never

MOST_BYTES = 1024 * 1024
MOST_DEPTH = 64
MOST_DIGITS = 300
LARGEST_INTEGER = 2**63


class ArgumentsError(ValueError):
    """The arguments are not a JSON object that a tool can be given."""


def _constant(name: str) -> Never:
    raise ArgumentsError(f"{name} is not a JSON number")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ArgumentsError(f"a number has {len(text)} digits; {MOST_DIGITS} are allowed")
    number = int(text)
    if not -LARGEST_INTEGER <= number < LARGEST_INTEGER:
        raise ArgumentsError(f"the integer {text} does not fit 64 bits")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ArgumentsError(f"the number {text[:40]} is too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ArgumentsError(f"the key '{key[:80]}' stands twice in one object")
            seen.add(key)
    return found


_DECODER = json.JSONDecoder(
    parse_constant=_constant, parse_int=_integer, parse_float=_number, object_pairs_hook=_object, strict=True
)
_SURROGATE_OR_NUL = re.compile("[\ud800-\udfff\x00]")
_ESCAPED = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


def _depth(text: str) -> int:
    """Give how deep brackets nest outside of strings, without building anything."""
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def decode(text: str) -> dict[str, Any]:
    """Give the arguments as an object; an empty text is an empty object, as models write it.

    Errors: ArgumentsError, in words that a model can act on.
    """
    if len(text) > MOST_BYTES // 4 and len(text.encode(errors="replace")) > MOST_BYTES:
        raise ArgumentsError(f"the arguments are longer than {MOST_BYTES} bytes")
    if not text.strip():
        return {}
    if text.count("{") + text.count("[") > MOST_DEPTH and _depth(text) > MOST_DEPTH:
        raise ArgumentsError(f"the arguments nest deeper than {MOST_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as e:
        raise ArgumentsError(f"the arguments are not JSON: {e.msg} at character {e.pos}") from None
    if not isinstance(value, dict):
        raise ArgumentsError("the arguments must be a JSON object")
    if _SURROGATE_OR_NUL.search(text) or (_ESCAPED.search(text) and _has_broken_text(value)):
        raise ArgumentsError("a text in the arguments has half a character or a NUL")
    return value  # pyright: ignore[reportUnknownVariableType] - JSON objects have text keys


def _has_broken_text(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE_OR_NUL.search(value) is not None
    if isinstance(value, dict):
        return any(_has_broken_text(k) or _has_broken_text(v) for k, v in value.items())  # pyright: ignore[reportUnknownVariableType] - JSON
    if isinstance(value, list):
        return any(_has_broken_text(v) for v in value)  # pyright: ignore[reportUnknownVariableType] - JSON
    return False
