"""Files and vector stores to rows and back: one pair of functions per record, shared by the stores."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from treadle.objects.file import File
from treadle.objects.vector_store import (
    Chunking,
    FileBatch,
    FileCounts,
    LinkError,
    VectorStore,
    VectorStoreFile,
)
from treadle.store.rows import Row, dump_body


def file_values(record: File) -> tuple[Any, ...]:
    """Give the columns of the query `insert_file`."""
    return (
        record.tenant, record.id, record.filename, record.purpose, record.bytes, record.sha256, record.media_type,
        record.created_ms, record.expires_ms,
    )  # fmt: skip


def file(tenant: str, row: Row) -> File:
    """Read a file: the columns of the query `get_file`."""
    return File(
        id=row[0],
        tenant=tenant,
        filename=row[1],
        purpose=row[2],
        bytes=row[3],
        sha256=row[4],
        media_type=row[5],
        created_ms=row[6],
        expires_ms=row[7],
    )


def vector_store_body(record: VectorStore) -> str | None:
    """Give what a vector store has beside its columns."""
    body: dict[str, Any] = {
        name: value for name in ("name", "description", "metadata") if (value := getattr(record, name))
    }
    return dump_body(body)


def vector_store(tenant: str, row: Row) -> VectorStore:
    """Read a vector store: the columns of the query `get_vector_store`."""
    body: dict[str, Any] = from_json(row[4]) if row[4] else {}
    return VectorStore(
        id=row[0],
        tenant=tenant,
        created_ms=row[1],
        last_active_ms=row[2],
        expires_days=row[3],
        counts=_counts(row[5:9]),
        usage_bytes=row[9],
        **body,
    )


def link_body(record: VectorStoreFile) -> str | None:
    """Give what a file of a vector store has beside its columns."""
    body: dict[str, Any] = {}
    if record.last_error is not None:
        body["last_error"] = record.last_error.model_dump()
    if record.chunking != Chunking():
        body["chunking"] = record.chunking.model_dump()
    if record.attributes:
        body["attributes"] = record.attributes
    return dump_body(body)


def link_values(tenant: str, record: VectorStoreFile) -> tuple[Any, ...]:
    """Give the columns of the query `put_vector_store_file`."""
    return (
        tenant, record.store_id, record.file_id, record.batch_id, record.status, record.usage_bytes, record.created_ms,
        link_body(record),
    )  # fmt: skip


def link(tenant: str, row: Row) -> VectorStoreFile:
    """Read a file of a vector store: the columns of the query `get_vector_store_file`."""
    body: dict[str, Any] = from_json(row[6]) if row[6] else {}
    error = body.pop("last_error", None)
    return VectorStoreFile(
        tenant=tenant,
        store_id=row[0],
        file_id=row[1],
        batch_id=row[2],
        status=row[3],
        usage_bytes=row[4],
        created_ms=row[5],
        last_error=LinkError(**error) if error else None,
        **body,
    )


def batch(tenant: str, row: Row) -> FileBatch:
    """Read a batch: the columns of the query `get_file_batch`."""
    return FileBatch(
        id=row[0],
        tenant=tenant,
        store_id=row[1],
        created_ms=row[2],
        is_cancelled=bool(row[3]),
        counts=_counts(row[4:8]),
    )


def _counts(numbers: Row) -> FileCounts:
    in_progress, completed, failed, cancelled = numbers
    return FileCounts(in_progress=in_progress, completed=completed, failed=failed, cancelled=cancelled)
