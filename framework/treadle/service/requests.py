"""What a client asks for under a key of its own: asked again, it gets what it got the first time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from treadle.errors import StateError
from treadle.store.base import Request

MOST_CHARACTERS = 256


def request_of(
    key: str | None, verb: str, asked: Mapping[str, Any], *, now_ms: int, object_id: str | None = None
) -> Request | None:
    """Give the request that a key stands for, None where no key is given; `object_id` as the store's `Request` has it.

    Errors: StateError for a key that is empty or too long.
    """
    if key is None:
        return None
    if not key or len(key) > MOST_CHARACTERS:
        raise StateError(f"a key has 1 to {MOST_CHARACTERS} characters, this one {len(key)}")
    text = to_json([verb, _sorted(asked)], fallback=str)
    return Request(key, hashlib.sha256(text).hexdigest(), now_ms, object_id)


def _sorted(value: Any) -> Any:
    """Give mappings in the order of their keys: the order in which a client writes them says nothing."""
    if isinstance(value, Mapping):
        items: list[tuple[str, Any]] = [(str(k), _sorted(v)) for k, v in value.items()]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - whatever a client gave
        return dict(sorted(items))
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]  # pyright: ignore[reportUnknownVariableType] - whatever a client gave
    return value
