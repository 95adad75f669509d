"""The vector store: files that are searched together, how each of them got in, and those that came in one request."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from treadle.objects.record import Metadata, Record

DAY_MS = 86_400_000

LinkStatus = Literal["in_progress", "completed", "cancelled", "failed"]
StoreStatus = Literal["expired", "in_progress", "completed"]


class FileCounts(Record):
    """How many files are in which status."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """Give how many there are."""
        return self.in_progress + self.completed + self.failed + self.cancelled


class Chunking(Record):
    """How a file is cut for the search. Units: tokens."""

    max_tokens: int = Field(default=800, ge=100, le=4096)
    overlap_tokens: int = Field(default=400, ge=0)

    @model_validator(mode="after")
    def _overlaps_by_half(self) -> Chunking:
        if self.overlap_tokens * 2 > self.max_tokens:
            msg = f"the overlap is at most half of max_chunk_size_tokens, {self.max_tokens // 2}"
            raise ValueError(msg)
        return self


class VectorStore(Record):
    """Files that are searched together.

    Shapes: the store of records counts the files; `usage_bytes` is the text of all of them. Units: times in Unix
    milliseconds; with `expires_days` it expires so many days after it was last used.
    Wire: ``GET /vector_stores/{id}``.
    """

    id: str
    tenant: str = "default"
    name: str | None = None
    description: str | None = None
    created_ms: int
    last_active_ms: int
    expires_days: int | None = Field(default=None, ge=1, le=365)
    metadata: Metadata = Field(default_factory=dict)
    counts: FileCounts = Field(default_factory=FileCounts)
    usage_bytes: int = 0

    @property
    def expires_ms(self) -> int | None:
        """Give when it expires unless it is used again."""
        return None if self.expires_days is None else self.last_active_ms + self.expires_days * DAY_MS

    def status(self, now_ms: int) -> StoreStatus:
        """Give what it is good for: expired, still taking files in, or all there."""
        if self.expires_ms is not None and now_ms >= self.expires_ms:
            return "expired"
        return "in_progress" if self.counts.in_progress else "completed"


class LinkError(Record):
    """Why a file is not in its vector store."""

    code: Literal["server_error", "invalid_file", "unsupported_file"]
    message: str


class VectorStoreFile(Record):
    """A file in a vector store.

    Units: `usage_bytes` bytes of the text that was read from it.
    Wire: ``GET /vector_stores/{store_id}/files/{file_id}``.
    """

    tenant: str = "default"
    store_id: str
    file_id: str
    batch_id: str | None = None
    status: LinkStatus = "in_progress"
    usage_bytes: int = 0
    created_ms: int
    last_error: LinkError | None = None
    chunking: Chunking = Field(default_factory=Chunking)
    attributes: dict[str, Any] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """Give the id by which its vector store knows it: the file's."""
        return self.file_id


class FileBatch(Record):
    """Files that came into a vector store in one request.

    Wire: ``GET /vector_stores/{store_id}/file_batches/{id}``.
    """

    id: str
    tenant: str = "default"
    store_id: str
    created_ms: int
    is_cancelled: bool = False
    counts: FileCounts = Field(default_factory=FileCounts)

    @property
    def status(self) -> LinkStatus:
        """Give what became of the files: failed only where none could be read."""
        if self.is_cancelled:
            return "cancelled"
        if self.counts.in_progress:
            return "in_progress"
        return "failed" if 0 < self.counts.failed == self.counts.total else "completed"
