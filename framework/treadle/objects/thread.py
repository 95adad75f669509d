"""The thread: a conversation that stays."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from treadle.objects.record import Metadata, Record


class Thread(Record):
    """A persistent conversation; its messages are the only copy of what was said.

    Wire: ``GET /threads/{id}``.
    """

    id: str
    tenant: str = "default"
    created_ms: int
    metadata: Metadata = Field(default_factory=dict)
    tool_resources: dict[str, Any] = Field(default_factory=dict)
