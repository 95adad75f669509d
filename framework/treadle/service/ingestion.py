"""Files into vector stores: small ones are read at once, large ones in the background.

What is to be read stands in the store as `in_progress`, so nothing is lost with a process: whoever looks at a vector
store that is not all read takes up what is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from treadle.errors import NotFound, StateError, StoreError
from treadle.objects.file import File
from treadle.objects.vector_store import Chunking, LinkError, VectorStore, VectorStoreFile
from treadle.retrieval.extract import NoText, measure

if TYPE_CHECKING:
    from treadle.service import Treadle

logger = logging.getLogger("treadle.ingestion")

AT_ONCE_BYTES = 4 * 1024 * 1024
"""How much is read before the answer, of all files of a request together."""
AT_ONCE_FILES = 2
"""Vector stores whose files are read at the same time, by one process."""


class Ingestion:
    """Reads what vector stores wait for, in the background of one process."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(AT_ONCE_FILES)
        self._is_stopping = False

    def look(self, treadle: Treadle, *found: VectorStore) -> None:
        """Take up what is not read of vector stores, unless this process is at it."""
        for one in found:
            if one.counts.in_progress:
                self.begin(treadle, one.id)

    def begin(self, treadle: Treadle, store_id: str) -> None:
        """Read what a vector store waits for."""
        key = (treadle.tenant, store_id)
        if self._is_stopping or key in self._tasks:
            return
        task = asyncio.create_task(self._read_all(treadle, store_id), name=f"ingestion of {store_id}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def begin_for(self, treadle: Treadle, records: Iterable[object]) -> None:
        """Read what was just kept unread."""
        for store_id in {
            r.store_id for r in records if isinstance(r, VectorStoreFile) and r.status == "in_progress"
        }:
            self.begin(treadle, store_id)

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # It is taken up again when somebody looks.
            logger.warning("the files of vector store %s could not be read: %s", key[1], error)

    async def _read_all(self, treadle: Treadle, store_id: str) -> None:
        tried: set[str] = set()
        async with self._room:
            while True:
                waiting = await treadle.store.files.waiting(treadle.tenant, store_id)
                left = [link for link in waiting if link.file_id not in tried]
                if not left:
                    return
                for link in left:
                    tried.add(link.file_id)
                    await treadle.store.files.settle(treadle.tenant, await _read(treadle, link))

    async def settled(self) -> None:
        """Wait until this process has read what it is at."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def stop(self) -> None:
        """Read no more; what is left stays `in_progress` until somebody looks."""
        self._is_stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def links_of(
    treadle: Treadle,
    store_id: str,
    files: Sequence[File],
    *,
    chunking: Chunking | None = None,
    attributes: Mapping[str, Any] | None = None,
    batch_id: str | None = None,
) -> list[VectorStoreFile]:
    """Give the links that put files into a vector store: with their outcome where all of them are quickly read.

    Errors: StoreError.
    """
    now = treadle.clock.now_ms()
    links = [
        VectorStoreFile(
            tenant=treadle.tenant,
            store_id=store_id,
            file_id=file.id,
            batch_id=batch_id,
            created_ms=now,
            chunking=chunking or Chunking(),
            attributes=dict(attributes or {}),
        )
        for file in files
    ]
    if sum(file.bytes for file in files) > AT_ONCE_BYTES:
        return links
    return [await _read_file(treadle, link, file) for link, file in zip(links, files, strict=True)]


async def _read(treadle: Treadle, link: VectorStoreFile) -> VectorStoreFile:
    try:
        file = await treadle.files.get(link.file_id)
    except NotFound:
        return _failed(link, LinkError(code="invalid_file", message=f"The file {link.file_id} was deleted."))
    return await _read_file(treadle, link, file)


async def _read_file(treadle: Treadle, link: VectorStoreFile, file: File) -> VectorStoreFile:
    """Read a file's text, and give the link with what became of it."""
    try:
        async with aclosing(treadle.files.pieces(file)) as pieces:
            size = await measure(pieces, file.filename)
    except NoText as e:
        return _failed(link, LinkError(code=e.code, message=e.message))
    except NotFound:
        return _failed(link, LinkError(code="invalid_file", message=f"The file {link.file_id} was deleted."))
    except StoreError as e:
        logger.warning("file %s cannot be read: %s", file.id, e)
        said = f"The content of file {file.id} cannot be read."
        return _failed(link, LinkError(code="server_error", message=said))
    return link.model_copy(update={"status": "completed", "usage_bytes": size, "last_error": None})


def _failed(link: VectorStoreFile, error: LinkError) -> VectorStoreFile:
    return link.model_copy(update={"status": "failed", "usage_bytes": 0, "last_error": error})


async def present(treadle: Treadle, file_ids: Sequence[str]) -> list[File]:
    """Give the files of a request, each once.

    Errors: StateError for one that is not there, since it is the request that is wrong, and for too many.
    """
    most = treadle.project.serve.limits.batch_files
    distinct = list(dict.fromkeys(file_ids))
    if len(distinct) > most:
        raise StateError(f"{len(distinct)} files are too many: a request names at most {most}")
    found: list[File] = []
    for id_ in distinct:
        try:
            found.append(await treadle.files.get(id_))
        except NotFound as e:
            raise StateError(f"No file found with id '{id_}'.", hint="upload it first") from e
    return found
