"""Files and vector stores in a SQLite store: rows in the database, and beside it the contents that are large.

A large content is written to a `.part` file, synced and renamed before its row is committed, and unlinked after its
row is gone. So a row always has its content; a content without a row is what a crash left, and `sweep` removes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, TypeVar, cast

from treadle.errors import Conflict, NotFound, StateError, StoreError
from treadle.objects.file import File
from treadle.objects.vector_store import FileBatch, LinkStatus, VectorStore, VectorStoreFile
from treadle.store import rows, rows_files
from treadle.store.base_files import (
    F,
    FileRecord,
    NewFile,
    Order,
    Received,
    Resources,
    Used,
)
from treadle.store.connection import Cursor
from treadle.store.files import make_folder, path_of_content, sync_folder, tenant_folder
from treadle.store.translate import RESTORE

R = TypeVar("R")

INLINE_BYTES = 1024 * 1024
"""A content that is longer is a file beside the database."""
PIECE_BYTES = 256 * 1024
"""How much of a content is read at once."""
HEAD_BYTES = 4096
"""How much of a content's beginning is kept for whoever wants to know what it is."""
HASH_AT_ONCE = 128 * 1024
"""Up to this a content is hashed on the event loop: going to a thread takes as long."""
_LAST = (1 << 62) - 1
_AFTER_ALL = "\U0010ffff"


class Write(Protocol):
    """Runs a piece of work in a transaction, and returns when it is durable."""

    async def __call__(self, work: Callable[[], R]) -> R:
        """Give the work's result."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """What the store lends: its transaction, its statements by name, and the folder of its files.

    Shapes: `run` is for within a transaction, `read` for outside of one; `folder` is None in memory.
    """

    name: str
    folder: Path | None
    write: Write
    run: Callable[[str, tuple[Any, ...]], Cursor]
    changes: Callable[[], int]
    read: Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]]


class SqliteFiles:
    """The files and vector stores of one SQLite store."""

    def __init__(self, access: Access) -> None:
        """Take what the store lends."""
        self._access = access
        self._arriving: set[Path] = set()

    # -- files -----------------------------------------------------------------------------------------------

    def sink(self, tenant: str, id_: str) -> FileSink:
        """Give where the content of a new file is written."""
        folder = self._access.folder
        target = None if folder is None else path_of_content(folder, tenant, id_)
        return FileSink(self._access.name, target, self._arriving)

    def insert(self, tenant: str, record: FileRecord) -> None:
        """Keep one record, in the transaction that is open.

        Errors: NotFound for what it refers to; StateError for a file too many; Conflict for resources that moved on.
        """
        run = self._access.run
        match record:
            case NewFile():
                self._insert_file(tenant, record)
            case VectorStore():
                values = (record.created_ms, record.last_active_ms, record.expires_days)
                run(
                    "insert_vector_store",
                    (tenant, record.id, *values, rows_files.vector_store_body(record)),
                )
            case VectorStoreFile():
                run("put_vector_store_file", rows_files.link_values(tenant, record))
                if not self._access.changes():
                    self._need("get_file", "file", tenant, record.file_id)
                    raise NotFound("vector store", record.store_id)
            case FileBatch():
                run("insert_file_batch", (tenant, record.store_id, record.id, record.created_ms))
                if not self._access.changes():
                    raise NotFound("vector store", record.store_id)
            case Resources():
                self._replace_resources(tenant, record)
            case Used():
                run("touch_vector_store", (record.now_ms, tenant, record.id))
                if not self._access.changes():
                    raise NotFound("vector store", record.id)

    def _insert_file(self, tenant: str, new: NewFile) -> None:
        run, record = self._access.run, new.file
        if new.most_total is not None:
            ((held,),) = run("bytes_of_files", (tenant,)).fetchall()
            if cast("int", held) + record.bytes > new.most_total:
                raise StateError(
                    f"the files of this project have {held} bytes; with this one they would have more than "
                    f"{new.most_total}",
                    hint="delete files that are not needed",
                )
        run("insert_file", rows_files.file_values(record.model_copy(update={"tenant": tenant})))
        if new.body is not None:
            run("insert_file_content", (tenant, record.id, new.body))

    def _replace_resources(self, tenant: str, new: Resources) -> None:
        row = self._access.run("get_thread", (tenant, new.id)).fetchone()
        if row is None:
            raise NotFound("thread", new.id)
        thread = rows.thread(tenant, row)
        if thread.tool_resources != new.was:
            raise Conflict(f"the tool resources of thread {new.id} have changed meanwhile", hint="try again")
        changed = thread.model_copy(update={"tool_resources": dict(new.tool_resources)})
        self._access.run("replace_thread", (rows.thread_body(changed), tenant, new.id))

    def _need(self, query: str, noun: str, tenant: str, id_: str) -> None:
        if self._access.run(query, (tenant, id_)).fetchone() is None:
            raise NotFound(noun, id_)

    async def get(self, cls: type[F], tenant: str, id_: str) -> F:
        """Give a file, a vector store or a batch."""
        query, noun, read = _NOUNS[cls]
        found = self._access.read(query, (tenant, id_))
        if not found:
            raise NotFound(noun, id_)
        return cast("F", read(tenant, found[0]))

    async def files(
        self,
        tenant: str,
        *,
        now_ms: int,
        purpose: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> list[File]:
        """Give a page of the files that have not expired."""
        low, high = _between(after, before, order)
        found = self._access.read(f"list_files_{order}", (tenant, low, high, purpose, now_ms, limit))
        return [rows_files.file(tenant, row) for row in found]

    async def content(self, file: File) -> AsyncGenerator[bytes]:
        """Give the content, piece by piece, the last one once all of them are known to be right."""
        found = self._access.read("get_file_content", (file.tenant, file.id))
        if found:
            body = bytes(cast("bytes", found[0][0]))
            if await _hashed(body) != file.sha256:
                raise self._spoilt(file)
            for start in range(0, len(body), PIECE_BYTES):
                yield body[start : start + PIECE_BYTES]
            return
        opened = await self._open(file)
        with opened:
            digest, last = hashlib.sha256(), b""
            while piece := await self._next(opened, file):
                await _feed(digest.update, piece)
                if last:
                    yield last
                last = piece
            if digest.hexdigest() != file.sha256:
                raise self._spoilt(file)
            yield last

    async def _open(self, file: File) -> BinaryIO:
        """Open a content that is beside the database.

        Errors: NotFound where the file is gone by now; StoreError.
        """
        try:
            if self._access.folder is None:
                raise FileNotFoundError(file.id)
            return await asyncio.to_thread(
                path_of_content(self._access.folder, file.tenant, file.id).open, "rb"
            )
        except OSError as e:
            if not self._access.read("get_file", (file.tenant, file.id)):
                raise NotFound("file", file.id) from e
            raise self._unreadable(file, e) from e

    async def _next(self, opened: BinaryIO, file: File) -> bytes:
        try:
            return await asyncio.to_thread(opened.read, PIECE_BYTES)
        except OSError as e:
            raise self._unreadable(file, e) from e

    def _unreadable(self, file: File, error: OSError) -> StoreError:
        return StoreError(f"the content of file {file.id} cannot be read: {error}", hint=RESTORE)

    def _spoilt(self, file: File) -> StoreError:
        return StoreError(f"the content of file {file.id} is not what was kept", hint=RESTORE)

    async def delete_file(self, tenant: str, id_: str) -> None:
        """Remove a file with its content, and from every vector store."""

        def work() -> None:
            if not self._delete(tenant, id_):
                raise NotFound("file", id_)

        await self._access.write(work)
        if self._access.folder is not None:
            await asyncio.to_thread(_remove, path_of_content(self._access.folder, tenant, id_))

    def _delete(self, tenant: str, id_: str) -> bool:
        run = self._access.run
        run("delete_file", (tenant, id_))
        is_gone = self._access.changes() == 1
        run("delete_file_content", (tenant, id_))
        run("delete_file_links", (tenant, id_))
        return is_gone

    # -- what time and crashes leave ---------------------------------------------------------------------------

    def delete_expired(self, now_ms: int) -> list[tuple[str, str]]:
        """Remove the rows of files whose time is over, in the transaction that is open; give tenants and ids."""
        found = [
            (cast("str", r[0]), cast("str", r[1]))
            for r in self._access.run("expired_files", (now_ms,)).fetchall()
        ]
        for tenant, id_ in found:
            self._delete(tenant, id_)
        return found

    async def sweep(self, gone: list[tuple[str, str]], *, left_before_ms: int) -> None:
        """Remove the contents of files that are gone, and those that a crash left without a row before a time.

        Units: Unix milliseconds, by the clock of the disk.
        """
        folder = self._access.folder
        if folder is None or not folder.exists():
            return
        old = await asyncio.to_thread(self._old_contents, folder, left_before_ms)
        # Invariant: a row is committed right after its content has its name; no row now means no row ever.
        tenants = [cast("str", row[0]) for row in self._access.read("tenants_with_files", ())] if old else []
        owners = {tenant_folder(folder, tenant): tenant for tenant in tenants}
        orphans = [path for path in old if not self._is_owned(path, owners)]
        contents = [path_of_content(folder, tenant, id_) for tenant, id_ in gone]
        await asyncio.to_thread(_remove_all, [*contents, *orphans])

    def _is_owned(self, path: Path, owners: dict[Path, str]) -> bool:
        tenant = owners.get(path.parents[1])
        return tenant is not None and bool(self._access.read("get_file", (tenant, path.name)))

    def _old_contents(self, folder: Path, left_before_ms: int) -> list[Path]:
        return [p for p in _contents(folder) if p not in self._arriving and _age_ms(p) < left_before_ms]

    # -- vector stores -----------------------------------------------------------------------------------------

    async def vector_stores(
        self,
        tenant: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> list[VectorStore]:
        """Give a page of vector stores."""
        low, high = _between(after, before, order)
        found = self._access.read(f"list_vector_stores_{order}", (tenant, low, high, limit))
        return [rows_files.vector_store(tenant, row) for row in found]

    async def replace(self, tenant: str, record: VectorStore) -> None:
        """Write a vector store's name, notes and expiry anew."""
        body = rows_files.vector_store_body(record)
        values = (record.last_active_ms, record.expires_days, body, tenant, record.id)
        await self._change("replace_vector_store", values, NotFound("vector store", record.id))

    async def delete_vector_store(self, tenant: str, id_: str) -> None:
        """Remove a vector store and its batches; the files stay files."""

        def work() -> None:
            run = self._access.run
            run("delete_vector_store", (tenant, id_))
            if not self._access.changes():
                raise NotFound("vector store", id_)
            run("delete_vector_store_batches", (tenant, id_))
            run("delete_vector_store_files", (tenant, id_))

        await self._access.write(work)

    async def link(self, tenant: str, store_id: str, file_id: str) -> VectorStoreFile:
        """Give a file of a vector store."""
        found = self._access.read("get_vector_store_file", (tenant, store_id, file_id))
        if not found:
            raise NotFound("vector store file", file_id)
        return rows_files.link(tenant, found[0])

    async def links(
        self,
        tenant: str,
        store_id: str,
        *,
        batch: str | None = None,
        status: LinkStatus | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> list[VectorStoreFile]:
        """Give a page of a vector store's files in the order in which they came."""
        bounds = [self._place(tenant, store_id, id_) for id_ in (after, before)]
        first, last = bounds if order == "asc" else reversed(bounds)
        low, high = 0 if first is None else first, _LAST if last is None else last
        values = (tenant, store_id, low, high, batch, status, limit)
        found = self._access.read(f"list_vector_store_files_{order}", values)
        return [rows_files.link(tenant, row) for row in found]

    def _place(self, tenant: str, store_id: str, file_id: str | None) -> int | None:
        if file_id is None:
            return None
        found = self._access.read("number_of_vector_store_file", (tenant, store_id, file_id))
        if not found:
            raise NotFound("vector store file", file_id)
        return cast("int", found[0][0])

    async def waiting(self, tenant: str, store_id: str, *, limit: int = 500) -> list[VectorStoreFile]:
        """Give the files of a vector store that nobody has read yet."""
        found = self._access.read("waiting_vector_store_files", (tenant, store_id, limit))
        return [rows_files.link(tenant, row) for row in found]

    async def settle(self, tenant: str, link: VectorStoreFile) -> bool:
        """Write what became of a file that was in progress."""
        values = (
            link.status,
            link.usage_bytes,
            rows_files.link_body(link),
            tenant,
            link.store_id,
            link.file_id,
        )

        def work() -> bool:
            self._access.run("settle_vector_store_file", values)
            return self._access.changes() == 1

        return await self._access.write(work)

    async def annotate(self, tenant: str, link: VectorStoreFile) -> None:
        """Write a link's attributes anew."""
        values = (rows_files.link_body(link), tenant, link.store_id, link.file_id)
        await self._change("annotate_vector_store_file", values, NotFound("vector store file", link.file_id))

    async def unlink(self, tenant: str, store_id: str, file_id: str) -> None:
        """Take a file out of a vector store."""
        missing = NotFound("vector store file", file_id)
        await self._change("delete_vector_store_file", (tenant, store_id, file_id), missing)

    async def cancel(self, tenant: str, batch: FileBatch) -> None:
        """Cancel what is not read of a batch."""

        def work() -> None:
            self._access.run("cancel_file_batch", (tenant, batch.id))
            if self._access.changes():
                self._access.run("cancel_batch_files", (tenant, batch.store_id, batch.id))

        await self._access.write(work)

    async def _change(self, query: str, values: tuple[Any, ...], missing: NotFound) -> None:
        def work() -> None:
            self._access.run(query, values)
            if not self._access.changes():
                raise missing

        await self._access.write(work)


_NOUNS: dict[type[Any], tuple[str, str, Callable[[str, rows.Row], Any]]] = {
    File: ("get_file", "file", rows_files.file),
    VectorStore: ("get_vector_store", "vector store", rows_files.vector_store),
    FileBatch: ("get_file_batch", "file batch", rows_files.batch),
}


class FileSink:
    """Where one content is written; small ones stay in memory until they are kept."""

    def __init__(self, name: str, target: Path | None, arriving: set[Path]) -> None:
        """Take the store's name, the file to write (None: memory has none), and what else is being written."""
        self._name = name
        self._target = target
        self._arriving = arriving
        self._part: Path | None = None
        self._out: BinaryIO | None = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._bytes = 0
        self._head = b""
        self._digest = hashlib.sha256()
        self._is_released = False

    async def __aenter__(self) -> Self:
        """Give the sink."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drop what is not kept."""
        out, self._out = self._out, None
        if out is not None:
            out.close()
        if self._part is None or self._target is None:
            return
        if not self._is_released:
            await asyncio.shield(asyncio.to_thread(_remove_all, [self._part, self._target]))
        self._arriving.difference_update((self._part, self._target))

    async def write(self, chunk: bytes) -> None:
        """Take the next piece."""
        if len(self._head) < HEAD_BYTES:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        self._bytes += len(chunk)
        if self._waiting_bytes > INLINE_BYTES and self._target is not None:
            await asyncio.to_thread(self._spill)

    async def finish(self) -> Received:
        """Make what was written outlast a power loss, and tell what it is."""
        if self._part is not None:
            await asyncio.to_thread(self._complete)
        elif self._bytes > HASH_AT_ONCE:
            await asyncio.to_thread(self._hash)
        else:
            self._hash()
        return Received(self._bytes, self._digest.hexdigest(), self._head)

    def record(self, file: File, *, most_total: int | None = None) -> NewFile:
        """Give what the store keeps."""
        return NewFile(file, b"".join(self._waiting) if self._part is None else None, most_total)

    def release(self) -> None:
        """Leave the content alone from now on."""
        self._is_released = True

    def _hash(self) -> None:
        for chunk in self._waiting:
            self._digest.update(chunk)

    def _spill(self) -> None:
        with self._told():
            if self._out is None:
                self._out = self._begin()
            for chunk in self._waiting:
                self._digest.update(chunk)
                self._out.write(chunk)
        self._waiting, self._waiting_bytes = [], 0

    def _begin(self) -> BinaryIO:
        assert self._target is not None
        self._part = self._target.with_name(f"{self._target.name}.part")
        self._arriving.update((self._part, self._target))
        make_folder(self._target.parent)
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return os.fdopen(descriptor, "wb")

    def _complete(self) -> None:
        self._spill()
        out, self._out = self._out, None
        assert out is not None
        assert self._part is not None
        assert self._target is not None
        with self._told(), out:
            out.flush()
            os.fsync(out.fileno())
        with self._told():
            self._part.replace(self._target)
            sync_folder(self._target.parent)

    def _told(self) -> _Told:
        return _Told(f"a file of {self._bytes} bytes cannot be kept beside {self._name}")


class _Told:
    """Turns an error of the disk into ours."""

    def __init__(self, said: str) -> None:
        self._said = said

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Say what could not be done."""
        if isinstance(error, OSError):
            raise StoreError(f"{self._said}: {error}", hint="look at the disk: is it full?") from error


async def _hashed(body: bytes) -> str:
    if len(body) <= HASH_AT_ONCE:
        return hashlib.sha256(body).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()


async def _feed(update: Callable[[bytes], None], piece: bytes) -> None:
    if len(piece) <= HASH_AT_ONCE:
        update(piece)
        return
    await asyncio.to_thread(update, piece)


def _between(after: str | None, before: str | None, order: Order) -> tuple[str, str]:
    """Give the exclusive bounds of a page of ids, whichever way it is read."""
    first, last = (after, before) if order == "asc" else (before, after)
    return first or "", last or _AFTER_ALL


def _contents(folder: Path) -> Iterator[Path]:
    """Give the contents beside the database, whole ones and parts; texts that are named by digest are none."""
    return folder.glob("*/*/file-*")


def _age_ms(path: Path) -> float:
    try:
        return path.stat().st_mtime * 1000
    except OSError:
        return float("inf")  # It is gone by now, or nobody may look at it.


def _remove_all(paths: list[Path]) -> None:
    for path in paths:
        _remove(path)


def _remove(path: Path) -> None:
    # What cannot be removed now is swept later.
    with suppress(OSError):
        path.unlink(missing_ok=True)
