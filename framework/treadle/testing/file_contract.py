"""What every store must do about files and vector stores, as tests: subclass `FileContract` as `StoreContract`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, cast

import pytest

from treadle.errors import Conflict, NotFound, Repeated, StateError
from treadle.objects.file import File
from treadle.objects.thread import Thread
from treadle.objects.vector_store import (
    DAY_MS,
    Chunking,
    FileBatch,
    FileCounts,
    LinkError,
    VectorStore,
    VectorStoreFile,
)
from treadle.store.base import Request, Store
from treadle.store.base_files import Resources, Used
from treadle.testing.store_contract import TENANT, TEXTS, Walked, a_message, a_thread, fresh, on_a_store

SIZES = (0, 1, 4096, 1024 * 1024, 1024 * 1024 + 1, 3_000_000)
"""Around every border that a store may draw between contents."""


def a_file(content: bytes = b"text", *, tenant: str = TENANT, **fields: Any) -> File:
    """Give a file of a content, as a store keeps it."""
    known: dict[str, Any] = {
        "id": fresh("file"), "tenant": tenant, "filename": "a.txt", "purpose": "assistants", "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(), "media_type": "text/plain", "created_ms": 1,
    }  # fmt: skip
    return File(**known | fields)


def a_vector_store(*, tenant: str = TENANT, **fields: Any) -> VectorStore:
    """Give a vector store without files."""
    known: dict[str, Any] = {"id": fresh("vs"), "tenant": tenant, "created_ms": 2, "last_active_ms": 2}
    return VectorStore(**known | fields)


def a_link(store: VectorStore, file: File, **fields: Any) -> VectorStoreFile:
    """Give a file of a vector store."""
    known: dict[str, Any] = {
        "tenant": store.tenant,
        "store_id": store.id,
        "file_id": file.id,
        "created_ms": 3,
    }
    return VectorStoreFile(**known | fields)


async def upload(
    store: Store,
    content: bytes = b"text",
    *,
    pieces: int = 100_000,
    most_total: int | None = None,
    request: Request | None = None,
    **fields: Any,
) -> File:
    """Keep a file, written in pieces."""
    file = a_file(content, **fields)
    async with store.files.sink(file.tenant, file.id) as sink:
        for start in range(0, len(content), pieces):
            await sink.write(content[start : start + pieces])
        received = await sink.finish()
        assert (received.bytes, received.sha256) == (file.bytes, file.sha256)
        assert received.head == content[: len(received.head)]
        await store.insert(file.tenant, sink.record(file, most_total=most_total), request=request)
        sink.release()
    return file


async def content_of(store: Store, file: File) -> bytes:
    """Give a whole content."""
    return b"".join([piece async for piece in store.files.content(file)])


class FileContract:
    """The tests; `open` must be given."""

    def open(self) -> Store:
        """Give a store that is empty and shares nothing with another one."""
        raise NotImplementedError

    # -- files -----------------------------------------------------------------------------------------------

    @on_a_store
    async def test_a_file_of_any_size_is_kept_as_it_is(self, store: Store) -> None:
        """Byte for byte, with all that is known of it."""
        for size in SIZES:
            content = bytes(i % 251 for i in range(min(size, 5000))) * (size // 5000 + 1)
            file = await upload(store, content[:size], purpose="user_data", expires_ms=99)
            assert await store.files.get(File, TENANT, file.id) == file
            assert await content_of(store, file) == content[:size]

    @on_a_store
    async def test_names_come_back_as_they_are(self, store: Store) -> None:
        """Whatever script, width or combination."""
        for name in TEXTS:
            file = await upload(store, filename=name)
            assert (await store.files.get(File, TENANT, file.id)).filename == name

    @on_a_store
    async def test_a_content_that_is_not_kept_is_not_there(self, store: Store) -> None:
        """Leaving a sink, by itself or by an error, leaves nothing; the id is free."""
        for size in (10, 3_000_000):
            file = a_file(bytes(size))

            async def broken_off(file: File = file, size: int = size) -> None:
                async with store.files.sink(TENANT, file.id) as sink:
                    await sink.write(bytes(size))
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await broken_off()
            async with store.files.sink(TENANT, file.id) as sink:
                await sink.write(bytes(size))
                await sink.finish()
            with pytest.raises(NotFound):
                await store.files.get(File, TENANT, file.id)
            with pytest.raises(NotFound):
                await content_of(store, file)
            async with store.files.sink(TENANT, file.id) as sink:
                await sink.write(bytes(size))
                await sink.finish()
                await store.insert(TENANT, sink.record(file))
                sink.release()
            assert await content_of(store, file) == bytes(size)

    @on_a_store
    async def test_files_that_arrive_at_once_do_not_meet(self, store: Store) -> None:
        """Each has its own content, also while runs are walked."""
        await Walked.begin(store)
        await Walked.begin(store)
        contents = [bytes([n]) * (n * 200_000) for n in range(12)]
        files = await asyncio.gather(*(upload(store, content, pieces=50_000) for content in contents))
        assert await asyncio.gather(*(content_of(store, file) for file in files)) == contents

    @on_a_store
    async def test_files_are_listed_page_by_page(self, store: Store) -> None:
        """By purpose or all, either way, between two of them; expired ones are left out."""
        files = [await upload(store, purpose=("assistants", "vision")[n % 2]) for n in range(6)]
        await upload(store, expires_ms=50)
        ids = [f.id for f in files]

        async def listed(**asked: Any) -> list[str]:
            return [f.id for f in await store.files.files(TENANT, now_ms=50, **asked)]

        assert await listed() == ids[::-1]
        assert await listed(order="asc", limit=2) == ids[:2]
        assert await listed(order="asc", after=ids[1], before=ids[4]) == ids[2:4]
        assert await listed(after=ids[4], before=ids[1]) == ids[3:1:-1]
        assert await listed(purpose="vision") == ids[5::-2]
        assert await listed(purpose="batch") == []
        assert len(await store.files.files(TENANT, now_ms=49)) == 7

    @on_a_store
    async def test_a_deleted_file_is_gone_with_its_content_and_from_every_vector_store(
        self, store: Store
    ) -> None:
        """The others stay."""
        for size in (10, 2_000_000):
            file, other = await upload(store, bytes(size)), await upload(store, bytes(size))
            here, there = a_vector_store(), a_vector_store()
            links = [
                a_link(s, f, status="completed", usage_bytes=7) for s in (here, there) for f in (file, other)
            ]
            await store.insert(TENANT, here, there, *links)
            await store.files.delete_file(TENANT, file.id)
            for gone in (
                store.files.get(File, TENANT, file.id),
                content_of(store, file),
                store.files.delete_file(TENANT, file.id),
                store.files.link(TENANT, here.id, file.id),
            ):
                with pytest.raises(NotFound):
                    await gone
            for vector_store in (here, there):
                assert [link.file_id for link in await store.files.links(TENANT, vector_store.id)] == [
                    other.id
                ]
                found = await store.files.get(VectorStore, TENANT, vector_store.id)
                assert (found.counts, found.usage_bytes) == (FileCounts(completed=1), 7)
            assert await content_of(store, other) == bytes(size)

    @on_a_store
    async def test_all_files_together_have_a_limit(self, store: Store) -> None:
        """What would go beyond it leaves nothing; other tenants' files do not count."""
        await upload(store, bytes(600))
        await upload(store, bytes(600), tenant="other")
        with pytest.raises(StateError, match="1000"):
            await upload(store, bytes(401), most_total=1000)
        await upload(store, bytes(400), most_total=1000)
        assert len(await store.files.files(TENANT, now_ms=1)) == 2

    @on_a_store
    async def test_a_clients_key_stands_for_the_file_that_it_gave(self, store: Store) -> None:
        """The same upload again gives the first file, and keeps nothing."""
        first = await upload(store, bytes(2_000_000), request=Request("k", "d", 1))
        with pytest.raises(Repeated) as again:
            await upload(store, bytes(2_000_000), request=Request("k", "d", 2))
        assert again.value.object_id == first.id
        assert [f.id for f in await store.files.files(TENANT, now_ms=1)] == [first.id]

    @on_a_store
    async def test_tidying_removes_what_has_expired_and_nothing_else(self, store: Store) -> None:
        """With its content and its links."""
        expired = [await upload(store, bytes(size), expires_ms=50) for size in (10, 2_000_000)]
        kept = [await upload(store, bytes(size), expires_ms=e) for size, e in ((10, 51), (2_000_000, None))]
        vector_store = a_vector_store()
        await store.insert(TENANT, vector_store, *(a_link(vector_store, f) for f in (*expired, *kept)))
        await store.tidy(asked_before_ms=0, now_ms=50)
        for file in expired:
            with pytest.raises(NotFound):
                await store.files.get(File, TENANT, file.id)
        for file in kept:
            assert await content_of(store, file) == bytes(file.bytes)
        assert (await store.files.get(VectorStore, TENANT, vector_store.id)).counts == FileCounts(
            in_progress=2
        )

    # -- vector stores -----------------------------------------------------------------------------------------

    @on_a_store
    async def test_a_vector_store_is_kept_and_its_notes_are_replaced(self, store: Store) -> None:
        """Its name, notes and expiry change; it is never less recently used than it was."""
        made = a_vector_store(name="n", description="d", expires_days=3, metadata={"k": "é"})
        await store.insert(TENANT, made)
        assert await store.files.get(VectorStore, TENANT, made.id) == made
        changed = made.model_copy(
            update={"name": None, "metadata": {}, "expires_days": None, "last_active_ms": 9, "created_ms": 77}
        )
        await store.files.replace(TENANT, changed)
        assert await store.files.get(VectorStore, TENANT, made.id) == changed.model_copy(
            update={"created_ms": 2}
        )
        await store.files.replace(TENANT, changed.model_copy(update={"last_active_ms": 4}))
        await store.insert(TENANT, Used(made.id, 5))
        assert (await store.files.get(VectorStore, TENANT, made.id)).last_active_ms == 9
        await store.insert(TENANT, Used(made.id, 10))
        assert (await store.files.get(VectorStore, TENANT, made.id)).last_active_ms == 10
        with pytest.raises(Conflict):
            await store.insert(TENANT, made)
        for missing in (
            store.files.replace(TENANT, a_vector_store()),
            store.insert(TENANT, Used("vs_none", 1)),
            store.files.get(VectorStore, TENANT, "vs_none"),
        ):
            with pytest.raises(NotFound):
                await missing

    @on_a_store
    async def test_vector_stores_are_listed_page_by_page(self, store: Store) -> None:
        """Either way, between two of them."""
        made = [a_vector_store() for _ in range(4)]
        await store.insert(TENANT, *made)
        ids = [s.id for s in made]

        async def listed(**asked: Any) -> list[str]:
            return [s.id for s in await store.files.vector_stores(TENANT, **asked)]

        assert await listed() == ids[::-1]
        assert await listed(order="asc", after=ids[0], limit=2) == ids[1:3]
        assert await listed(before=ids[2]) == ids[:2:-1]

    @on_a_store
    async def test_a_vector_store_counts_its_files_whatever_becomes_of_them(self, store: Store) -> None:
        """Put in, read, put in anew, taken out."""
        files = [await upload(store) for _ in range(4)]
        vector_store = a_vector_store()
        links = [a_link(vector_store, file) for file in files]
        await store.insert(TENANT, vector_store, *links)

        async def counted() -> tuple[FileCounts, int]:
            found = await store.files.get(VectorStore, TENANT, vector_store.id)
            return found.counts, found.usage_bytes

        assert await counted() == (FileCounts(in_progress=4), 0)
        assert await store.files.settle(
            TENANT, links[0].model_copy(update={"status": "completed", "usage_bytes": 5})
        )
        error = LinkError(code="unsupported_file", message="é")
        failed = links[1].model_copy(update={"status": "failed", "last_error": error})
        assert await store.files.settle(TENANT, failed)
        assert await counted() == (FileCounts(in_progress=2, completed=1, failed=1), 5)
        assert await store.files.link(TENANT, vector_store.id, files[1].id) == failed
        # What has ended is not ended again.
        assert not await store.files.settle(TENANT, links[0].model_copy(update={"status": "failed"}))
        assert [w.file_id for w in await store.files.waiting(TENANT, vector_store.id)] == [
            f.id for f in files[2:]
        ]
        await store.insert(TENANT, a_link(vector_store, files[1], status="completed", usage_bytes=2))
        assert await counted() == (FileCounts(in_progress=2, completed=2), 7)
        await store.files.unlink(TENANT, vector_store.id, files[0].id)
        assert await counted() == (FileCounts(in_progress=2, completed=1), 2)
        with pytest.raises(NotFound):
            await store.files.unlink(TENANT, vector_store.id, files[0].id)

    @on_a_store
    async def test_the_files_of_a_vector_store_are_listed_in_the_order_in_which_they_came(
        self, store: Store
    ) -> None:
        """Page by page, by status, by batch; an id of no file of it is refused."""
        files = [await upload(store) for _ in range(5)]
        vector_store = a_vector_store()
        batch = FileBatch(id=fresh("vsfb"), store_id=vector_store.id, created_ms=3)
        came = [files[n] for n in (3, 0, 4, 1)]
        await store.insert(
            TENANT,
            vector_store,
            batch,
            *(
                a_link(
                    vector_store,
                    f,
                    status=("completed", "failed")[n % 2],
                    batch_id=batch.id if n > 1 else None,
                )
                for n, f in enumerate(came)
            ),
        )
        ids = [f.id for f in came]

        async def listed(**asked: Any) -> list[str]:
            return [link.id for link in await store.files.links(TENANT, vector_store.id, **asked)]

        assert await listed() == ids[::-1]
        assert await listed(order="asc", limit=2) == ids[:2]
        assert await listed(order="asc", after=ids[0], before=ids[3]) == ids[1:3]
        assert await listed(after=ids[3], before=ids[0]) == ids[2:0:-1]
        assert await listed(status="failed", order="asc") == [ids[1], ids[3]]
        assert await listed(batch=batch.id, order="asc") == ids[2:]
        assert await listed(batch=batch.id, status="failed") == [ids[3]]
        with pytest.raises(NotFound):
            await listed(after=files[2].id)
        # Put in anew it keeps its place.
        await store.insert(
            TENANT, a_link(vector_store, came[0], chunking=Chunking(max_tokens=100, overlap_tokens=5))
        )
        assert (await listed(order="asc"))[0] == ids[0]

    @on_a_store
    async def test_only_what_is_there_goes_into_a_vector_store_that_is_there(self, store: Store) -> None:
        """Otherwise nothing of the call is kept."""
        file, vector_store = await upload(store), a_vector_store()
        await store.insert(TENANT, vector_store)
        other = a_vector_store()
        for records in (
            (a_link(vector_store, file), a_link(vector_store, a_file())),
            (other, a_link(a_vector_store(), file)),
            (other, FileBatch(id=fresh("vsfb"), store_id="vs_none", created_ms=1)),
        ):
            with pytest.raises(NotFound):
                await store.insert(TENANT, *cast("Sequence[Any]", records))
        assert await store.files.links(TENANT, vector_store.id) == []
        assert [s.id for s in await store.files.vector_stores(TENANT)] == [vector_store.id]

    @on_a_store
    async def test_attributes_are_written_anew(self, store: Store) -> None:
        """Nothing else of the link changes."""
        file, vector_store = await upload(store), a_vector_store()
        link = a_link(vector_store, file, status="completed", usage_bytes=3, attributes={"a": 1})
        await store.insert(TENANT, vector_store, link)
        changed = link.model_copy(update={"attributes": {"b": True, "c": "é"}})
        await store.files.annotate(TENANT, changed)
        assert await store.files.link(TENANT, vector_store.id, file.id) == changed
        with pytest.raises(NotFound):
            await store.files.annotate(TENANT, a_link(vector_store, a_file()))

    @on_a_store
    async def test_a_batch_counts_its_files_and_cancels_what_is_not_read(self, store: Store) -> None:
        """What is read stays; a batch that is all read cannot be cancelled any more."""
        files = [await upload(store) for _ in range(3)]
        vector_store = a_vector_store()
        batch = FileBatch(id=fresh("vsfb"), store_id=vector_store.id, created_ms=3)
        links = [a_link(vector_store, file, batch_id=batch.id) for file in files[:2]]
        await store.insert(TENANT, vector_store, batch, *links, a_link(vector_store, files[2]))
        assert await store.files.get(FileBatch, TENANT, batch.id) == batch.model_copy(
            update={"counts": FileCounts(in_progress=2)}
        )
        await store.files.settle(TENANT, links[0].model_copy(update={"status": "completed"}))
        await store.files.cancel(TENANT, batch)
        cancelled = await store.files.get(FileBatch, TENANT, batch.id)
        assert cancelled.status == "cancelled"
        assert cancelled.counts == FileCounts(completed=1, cancelled=1)
        counts = (await store.files.get(VectorStore, TENANT, vector_store.id)).counts
        assert counts == FileCounts(in_progress=1, completed=1, cancelled=1)
        whole = FileBatch(id=fresh("vsfb"), store_id=vector_store.id, created_ms=4)
        await store.insert(TENANT, whole, a_link(vector_store, files[2], batch_id=whole.id, status="failed"))
        await store.files.cancel(TENANT, whole)
        assert (await store.files.get(FileBatch, TENANT, whole.id)).status == "failed"

    @on_a_store
    async def test_a_deleted_vector_store_leaves_its_files(self, store: Store) -> None:
        """Its batches go with it."""
        file, vector_store = await upload(store), a_vector_store()
        batch = FileBatch(id=fresh("vsfb"), store_id=vector_store.id, created_ms=3)
        await store.insert(TENANT, vector_store, batch, a_link(vector_store, file, batch_id=batch.id))
        await store.files.delete_vector_store(TENANT, vector_store.id)
        for gone in (
            store.files.get(VectorStore, TENANT, vector_store.id),
            store.files.get(FileBatch, TENANT, batch.id),
            store.files.link(TENANT, vector_store.id, file.id),
            store.files.delete_vector_store(TENANT, vector_store.id),
        ):
            with pytest.raises(NotFound):
                await gone
        assert await content_of(store, file) == b"text"

    # -- together with threads ---------------------------------------------------------------------------------

    @on_a_store
    async def test_a_message_and_what_it_feeds_are_one_transaction(self, store: Store) -> None:
        """The thread's resources change with it or not at all, and only from what the writer saw."""
        file, thread, vector_store = await upload(store), a_thread(), a_vector_store()
        await store.insert(TENANT, thread)
        now = {"file_search": {"vector_store_ids": [vector_store.id]}}
        with pytest.raises(NotFound):
            await store.insert(
                TENANT,
                vector_store,
                a_link(vector_store, a_file()),
                Resources(thread.id, now, {}),
                a_message(thread),
            )
        assert await store.get(Thread, TENANT, thread.id) == thread
        assert await store.rows(TENANT, thread.id) == []
        await store.insert(
            TENANT, vector_store, a_link(vector_store, file), Resources(thread.id, now, {}), a_message(thread)
        )
        assert (await store.get(Thread, TENANT, thread.id)).tool_resources == now
        with pytest.raises(Conflict):
            await store.insert(TENANT, Resources(thread.id, {}, {}), a_message(thread))
        assert len(await store.rows(TENANT, thread.id)) == 1
        with pytest.raises(NotFound):
            await store.insert(TENANT, Resources("thread_none", {}, {}))

    # -- tenants -----------------------------------------------------------------------------------------------

    @on_a_store
    async def test_tenants_never_see_each_others_files(self, store: Store) -> None:
        """Nor use, change or remove them."""
        file = await upload(store, bytes(2_000_000))
        vector_store = a_vector_store(expires_days=1)
        batch = FileBatch(id=fresh("vsfb"), store_id=vector_store.id, created_ms=3)
        link = a_link(vector_store, file, batch_id=batch.id)
        await store.insert(TENANT, vector_store, batch, link)
        foreign = await upload(store, tenant="other")
        files = store.files
        theirs = a_vector_store(tenant="other")
        await store.insert("other", theirs)
        for refused in (
            files.get(File, "other", file.id),
            files.get(VectorStore, "other", vector_store.id),
            files.get(FileBatch, "other", batch.id),
            files.delete_file("other", file.id),
            files.replace("other", vector_store),
            files.delete_vector_store("other", vector_store.id),
            files.link("other", vector_store.id, file.id),
            files.annotate("other", link),
            files.unlink("other", vector_store.id, file.id),
            content_of(store, file.model_copy(update={"tenant": "other"})),
            store.insert("other", a_link(theirs, file)),
            store.insert("other", a_link(vector_store, foreign)),
            store.insert("other", Used(vector_store.id, DAY_MS)),
        ):
            with pytest.raises(NotFound):
                await refused
        assert [f.id for f in await files.files("other", now_ms=1)] == [foreign.id]
        assert await files.links("other", vector_store.id) == []
        assert await files.waiting("other", vector_store.id) == []
        assert not await files.settle("other", link.model_copy(update={"status": "completed"}))
        await files.cancel("other", batch)
        assert (await files.get(FileBatch, TENANT, batch.id)).counts == FileCounts(in_progress=1)
        assert await content_of(store, file) == bytes(2_000_000)
