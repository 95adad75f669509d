"""The file: what a client uploaded, or a tool made, under its name."""

from __future__ import annotations

from typing import Literal

from treadle.objects.record import Record

FilePurpose = Literal[
    "assistants",
    "assistants_output",
    "vision",
    "batch",
    "batch_output",
    "fine-tune",
    "fine-tune-results",
    "user_data",
    "evals",
]


class File(Record):
    """A file as it is known; its content is kept beside it and never changes.

    Shapes: `filename` is a base name; `sha256` is that of the content, in hexadecimal digits; `media_type` was read
    off the content, never taken from who uploaded it. Units: times in Unix milliseconds; after `expires_ms` nobody finds it.
    Wire: ``GET /files/{id}``.
    """

    id: str
    tenant: str = "default"
    filename: str
    purpose: FilePurpose
    bytes: int
    sha256: str
    media_type: str = "application/octet-stream"
    created_ms: int
    expires_ms: int | None = None

    def is_expired(self, now_ms: int) -> bool:
        """Tell whether its time is over."""
        return self.expires_ms is not None and now_ms >= self.expires_ms
