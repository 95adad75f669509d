"""Read plain YAML scalars by the core schema of YAML 1.2.

`yes`, `no`, `on` and `off` are text, `012` is twelve, `12:30` and dates are text. What JSON cannot hold is
refused.
"""

from __future__ import annotations

import math
import re
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST = 400
"""Digits of the longest number that is worth reading; more overflows both kinds of number."""


class ScalarError(ValueError):
    """The value cannot be kept; the message says why."""


def plain(text: str) -> Scalar:
    """Give the value of an unquoted scalar.

    Errors: ScalarError for infinities, not-a-number, and numbers outside 64 bits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-+.0123456789":
        return checked(text)
    if _NOT_FINITE.fullmatch(text):
        raise ScalarError(f"'{text}' is not a number that JSON can hold")
    if len(text) > _LONGEST:
        return _long(text)
    if _INT.fullmatch(text):
        return _sized(int(text), text)
    if _OCTAL.fullmatch(text):
        return _sized(int(text, 0), text)
    if _HEX.fullmatch(text):
        return _sized(int(text, 0), text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ScalarError(f"the number {_short(text)} is too large")
        return number
    return checked(text)


def checked(text: str) -> str:
    """Give a text back.

    Errors: ScalarError for what no store keeps: NUL and lone surrogates.
    """
    if "\0" in text:
        raise ScalarError("a text may not hold the character NUL")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ScalarError("a text may not hold half of a surrogate pair")
    return text


def _long(text: str) -> str:
    if _FLOAT.fullmatch(text) or _HEX.fullmatch(text) or _OCTAL.fullmatch(text):
        raise ScalarError(f"the number {_short(text)} is too large")
    return checked(text)


def _sized(number: int, text: str) -> int:
    if not -(2**63) <= number < 2**63:
        raise ScalarError(f"the number {_short(text)} does not fit in 64 bits")
    return number


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}…"
