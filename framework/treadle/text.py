"""Text at the boundary: what the stores and the wire cannot carry never gets in."""

from __future__ import annotations

import re

_BROKEN = re.compile("[\ud800-\udfff\x00]")


def clean(text: str) -> str:
    """Replace half characters (lone surrogates) and NULs by U+FFFD: for text of models and tools."""
    return text if is_sound(text) else _BROKEN.sub("\ufffd", text)


def is_sound(text: str) -> bool:
    """Tell whether the text has neither half characters nor NULs."""
    return "\x00" not in text if text.isascii() else _BROKEN.search(text) is None


def utf8_bytes(text: str) -> int:
    """Give how many bytes a text takes; half characters count as one."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
