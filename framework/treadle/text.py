"""Text at the boundary: what the stores and the wire cannot carry never gets in."""

from __future__ import annotations

import re

_BROKEN = re.compile("[\ud800-\udfff\x00]")


def clean(text: str) -> str:
    """Replace half characters (lone surrogates) and NULs by U+FFFD: for text of models and tools."""
    return _BROKEN.sub("\ufffd", text) if _BROKEN.search(text) else text


def is_sound(text: str) -> bool:
    """Tell whether the text has neither half characters nor NULs."""
    return _BROKEN.search(text) is None
