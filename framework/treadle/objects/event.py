"""The event: one item of a run's stream."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Event(NamedTuple):
    """Something that happened in a run.

    Committed events have a `seq` that counts from 1 in each run, without gaps. Token deltas and the notice
    that a step has begun are published only while they happen and have no `seq`.

    Shapes: `name` is a wire event name (thread.run.completed, thread.message.delta …); `data` has the changed
    fields, rendered over the record by whoever shows it.
    """

    run_id: str
    name: str
    object_id: str | None = None
    data: Mapping[str, Any] = _NOTHING
    seq: int | None = None
