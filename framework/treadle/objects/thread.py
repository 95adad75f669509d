"""The thread: a conversation that stays."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from treadle.objects.record import Metadata, Record


class Thread(Record):
    """A persistent conversation; its messages are the only copy of what was said.

    A fork begins with the first `forked_at` rows of the thread `forked_from`: they are shared by their places, and never copied.

    Wire: ``GET /threads/{id}``.
    """

    id: str
    tenant: str = "default"
    created_ms: int
    metadata: Metadata = Field(default_factory=dict)
    tool_resources: dict[str, Any] = Field(default_factory=dict)
    forked_from: str | None = None
    forked_at: int = 0
