"""The verbs on vector stores, their files, and the batches in which those come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from treadle.errors import NotFound, Repeated, StateError
from treadle.objects.vector_store import Chunking, FileBatch, LinkStatus, VectorStore, VectorStoreFile
from treadle.retrieval.extract import NoText, read_text
from treadle.service.ingestion import links_of, present
from treadle.service.requests import request_of
from treadle.store.base import Order
from treadle.store.base_files import Used

if TYPE_CHECKING:
    from treadle.service import Treadle

R = TypeVar("R", VectorStore, Chunking)

CHANGEABLE = frozenset({"name", "description", "metadata", "expires_days"})


class VectorStores:
    """Create, get, list, change and delete vector stores; `files` and `batches` are what is in them."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle
        self.files = VectorStoreFiles(treadle)
        self.batches = FileBatches(treadle)

    async def create(
        self,
        *,
        file_ids: Sequence[str] = (),
        name: str | None = None,
        description: str | None = None,
        expires_days: int | None = None,
        chunking: Chunking | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> VectorStore:
        """Make a vector store, with its first files where some are given.

        Shapes: `chunking` is how those files are cut. `key` is the client's own: the same under the same key gives
        the first vector store again, for a day. Units: `expires_days` days without use, 1 to 365.

        Errors: StateError for a file that is not there, and for fields that do not fit; Conflict for a key that
        stands for something else. Then there is no vector store.
        """
        treadle = self._treadle
        draft, links = await drafted(
            treadle,
            file_ids=file_ids,
            name=name,
            description=description,
            expires_days=expires_days,
            chunking=chunking,
            metadata=metadata,
        )
        asked = {
            "file_ids": file_ids, "name": name, "description": description, "expires_days": expires_days,
            "chunking": chunking.model_dump() if chunking else None, "metadata": metadata or {},
        }  # fmt: skip
        request = request_of(key, "vector_store", asked, now_ms=draft.created_ms, object_id=draft.id)
        try:
            await treadle.store.insert(treadle.tenant, draft, *links, request=request)
        except Repeated as e:
            return await self.get(e.object_id)
        treadle.ingestion.begin_for(treadle, links)
        return await self.get(draft.id)

    async def get(self, store_id: str) -> VectorStore:
        """Give a vector store, expired or not.

        Errors: NotFound.
        """
        treadle = self._treadle
        found = await treadle.store.files.get(VectorStore, treadle.tenant, store_id)
        treadle.ingestion.look(treadle, found)
        return found

    async def list(
        self, *, limit: int = 20, order: Order = "desc", after: str | None = None, before: str | None = None
    ) -> list[VectorStore]:
        """Give a page of vector stores, the newest first."""
        treadle = self._treadle
        found = await treadle.store.files.vector_stores(
            treadle.tenant, limit=limit, order=order, after=after, before=before
        )
        treadle.ingestion.look(treadle, *found)
        return found

    async def update(self, store_id: str, **changes: Any) -> VectorStore:
        """Change a vector store's name, description, metadata or expires_days; what is not named stays.

        Errors: NotFound; StateError for values that do not fit.
        """
        unknown = changes.keys() - CHANGEABLE
        if unknown:
            raise StateError(f"a vector store's {min(unknown)} cannot be changed")
        found = await self.get(store_id)
        changed = _checked(
            VectorStore, {**dict(found), **changes, "metadata": changes.get("metadata", found.metadata) or {}}
        )
        await self._treadle.store.files.replace(self._treadle.tenant, changed)
        return await self.get(store_id)

    async def delete(self, store_id: str) -> VectorStore:
        """Delete a vector store; its files stay.

        Errors: NotFound.
        """
        treadle = self._treadle
        found = await treadle.store.files.get(VectorStore, treadle.tenant, store_id)
        await treadle.store.files.delete_vector_store(treadle.tenant, store_id)
        return found


class VectorStoreFiles:
    """Put files into vector stores, get, list and annotate them there, take them out, and read their text."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    async def add(
        self,
        store_id: str,
        file_id: str,
        *,
        chunking: Chunking | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> VectorStoreFile:
        """Put a file into a vector store; one that is in it is read anew.

        Errors: NotFound for the vector store; StateError for a file that is not there, and for a vector store that has expired or is full.
        """
        treadle = self._treadle
        await usable(treadle, store_id, more=1)
        files = await present(treadle, [file_id])
        links = await links_of(treadle, store_id, files, chunking=chunking, attributes=attributes)
        await treadle.store.insert(treadle.tenant, *links, Used(store_id, treadle.clock.now_ms()))
        treadle.ingestion.begin_for(treadle, links)
        return await treadle.store.files.link(treadle.tenant, store_id, file_id)

    async def get(self, store_id: str, file_id: str) -> VectorStoreFile:
        """Give a file of a vector store.

        Errors: NotFound.
        """
        await self._treadle.vector_stores.get(store_id)
        return await self._treadle.store.files.link(self._treadle.tenant, store_id, file_id)

    async def list(
        self,
        store_id: str,
        *,
        status: LinkStatus | None = None,
        batch_id: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
    ) -> list[VectorStoreFile]:
        """Give a page of a vector store's files, those last that came first, in one status or all.

        Errors: NotFound, also for a bound that is no file of it.
        """
        treadle = self._treadle
        await treadle.vector_stores.get(store_id)
        return await treadle.store.files.links(
            treadle.tenant,
            store_id,
            status=status,
            batch=batch_id,
            limit=limit,
            order=order,
            after=after,
            before=before,
        )

    async def update(self, store_id: str, file_id: str, *, attributes: Mapping[str, Any]) -> VectorStoreFile:
        """Replace the attributes of a file in a vector store.

        Errors: NotFound.
        """
        found = await self.get(store_id, file_id)
        changed = found.model_copy(update={"attributes": dict(attributes)})
        await self._treadle.store.files.annotate(self._treadle.tenant, changed)
        return changed

    async def delete(self, store_id: str, file_id: str) -> VectorStoreFile:
        """Take a file out of a vector store; it stays a file.

        Errors: NotFound.
        """
        found = await self.get(store_id, file_id)
        await self._treadle.store.files.unlink(self._treadle.tenant, store_id, file_id)
        return found

    async def text(self, store_id: str, file_id: str) -> AsyncGenerator[str]:
        """Give the text that is searched, piece by piece.

        Errors: NotFound; StateError for a file that has none.
        """
        treadle = self._treadle
        found = await self.get(store_id, file_id)
        if found.last_error is not None:
            raise StateError(found.last_error.message)
        file = await treadle.files.get(file_id)
        try:
            async with (
                aclosing(treadle.files.pieces(file)) as pieces,
                aclosing(read_text(pieces, file.filename)) as texts,
            ):
                async for text in texts:
                    yield text
        except NoText as e:
            raise StateError(e.message) from e


class FileBatches:
    """Put many files into a vector store in one request."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    async def create(
        self,
        store_id: str,
        file_ids: Sequence[str] = (),
        *,
        files: Sequence[tuple[str, Chunking | None, Mapping[str, Any] | None]] = (),
        chunking: Chunking | None = None,
        attributes: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> FileBatch:
        """Put files into a vector store.

        Shapes: `files` are ids that each have a chunking and attributes of their own; those of the request hold for
        where they say nothing. `key` is the client's own, as for `VectorStores.create`.

        Errors: as `VectorStoreFiles.add`; StateError also for no files at all. Then none of them is put in.
        """
        treadle = self._treadle
        wanted = dict.fromkeys(file_ids, (chunking, attributes))
        wanted |= {id_: (own or chunking, notes or attributes) for id_, own, notes in files}
        if not wanted:
            raise StateError("a batch needs files", hint="name them in file_ids")
        await usable(treadle, store_id, more=len(wanted))
        batch = FileBatch(
            id=treadle.ids.new("vsfb"),
            tenant=treadle.tenant,
            store_id=store_id,
            created_ms=treadle.clock.now_ms(),
        )
        found = await present(treadle, list(wanted))
        links = [
            link.model_copy(
                update={
                    "chunking": wanted[link.file_id][0] or Chunking(),
                    "attributes": dict(wanted[link.file_id][1] or {}),
                }
            )
            for link in await links_of(treadle, store_id, found, batch_id=batch.id)
        ]
        asked = {
            "store": store_id,
            "files": [(link.file_id, link.chunking.model_dump(), link.attributes) for link in links],
        }
        request = request_of(key, "file_batch", asked, now_ms=batch.created_ms, object_id=batch.id)
        try:
            await treadle.store.insert(
                treadle.tenant, batch, *links, Used(store_id, batch.created_ms), request=request
            )
        except Repeated as e:
            return await self.get(store_id, e.object_id)
        treadle.ingestion.begin_for(treadle, links)
        return await self.get(store_id, batch.id)

    async def get(self, store_id: str, batch_id: str) -> FileBatch:
        """Give a batch.

        Errors: NotFound, also for a batch of another vector store.
        """
        treadle = self._treadle
        await treadle.vector_stores.get(store_id)
        found = await treadle.store.files.get(FileBatch, treadle.tenant, batch_id)
        if found.store_id != store_id:
            raise NotFound("file batch", batch_id)
        return found

    async def cancel(self, store_id: str, batch_id: str) -> FileBatch:
        """Leave what is not read yet of a batch unread.

        Errors: NotFound.
        """
        found = await self.get(store_id, batch_id)
        await self._treadle.store.files.cancel(self._treadle.tenant, found)
        return await self.get(store_id, batch_id)


async def drafted(
    treadle: Treadle,
    *,
    file_ids: Sequence[str] = (),
    chunking: Chunking | None = None,
    **fields: Any,
) -> tuple[VectorStore, list[VectorStoreFile]]:
    """Give a vector store that is not stored yet, and the links that put its first files into it.

    Errors: StateError for a file that is not there, and for fields that do not fit.
    """
    now = treadle.clock.now_ms()
    fields["metadata"] = dict(fields.get("metadata") or {})
    made = {"id": treadle.ids.new("vs"), "tenant": treadle.tenant, "created_ms": now, "last_active_ms": now}
    draft = _checked(VectorStore, made | fields)
    files = await present(treadle, file_ids)
    return draft, await links_of(treadle, draft.id, files, chunking=chunking)


async def usable(treadle: Treadle, store_id: str, *, more: int) -> VectorStore:
    """Give a vector store that takes so many files more.

    Errors: NotFound; StateError for one that has expired or is full.
    """
    found = await treadle.vector_stores.get(store_id)
    if found.status(treadle.clock.now_ms()) == "expired":
        raise StateError(
            f"Vector store {store_id} has expired.", hint="make another one, or give it a longer expiry"
        )
    most = treadle.project.serve.limits.vector_store_files
    if found.counts.total + more > most:
        raise StateError(f"Vector store {store_id} has {found.counts.total} files; it takes at most {most}.")
    return found


def chunking_of(strategy: Mapping[str, Any] | None) -> Chunking | None:
    """Read a chunking strategy as the wire has it; None for `auto`.

    Errors: StateError.
    """
    if strategy is None or strategy.get("type") == "auto":
        return None
    given = strategy.get("static")
    if strategy.get("type") != "static" or not isinstance(given, Mapping):
        raise StateError("a chunking_strategy is auto, or static with its numbers")
    numbers: dict[str, Any] = {str(name): value for name, value in given.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - whatever a client gave
    size = numbers.get("max_chunk_size_tokens", 800)
    return _checked(
        Chunking, {"max_tokens": size, "overlap_tokens": numbers.get("chunk_overlap_tokens", 400)}
    )


def _checked(cls: type[R], fields: Mapping[str, Any]) -> R:
    try:
        return cls.model_validate(dict(fields))
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or cls.__name__
        raise StateError(
            f"{_WIRE.get(place, place)} does not fit: {first['msg'].removeprefix('Value error, ')}"
        ) from e


_WIRE = {
    "max_tokens": "max_chunk_size_tokens",
    "overlap_tokens": "chunk_overlap_tokens",
    "Chunking": "chunking_strategy",
    "expires_days": "expires_after.days",
}
