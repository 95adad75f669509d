"""Vector stores, the files in them, and the batches in which those came."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast, get_args

from treadle import wire
from treadle.objects.vector_store import FileBatch, LinkStatus, VectorStore, VectorStoreFile
from treadle.server import file_bodies as bodies
from treadle.server.call import Call, Page, paged
from treadle.server.problems import Problem

PIECE_CHARS = 1024 * 1024
"""How much text of a file one page has."""


async def create(call: Call) -> wire.Json:
    """Make a vector store, with its first files where the body names some."""
    body = call.body(bodies.VectorStoreCreate)
    made = await call.treadle.vector_stores.create(
        file_ids=body.file_ids or (),
        name=body.name,
        description=body.description,
        expires_days=body.expires_after.days if body.expires_after else None,
        chunking=body.chunking_strategy.chunking() if body.chunking_strategy else None,
        metadata=body.metadata,
        key=call.key,
    )
    return _store(call, made)


async def list_(call: Call) -> wire.Json:
    """Give a page of vector stores."""
    return await paged(
        call.page(),
        lambda page: call.treadle.vector_stores.list(**page._asdict()),
        lambda found: _store(call, found),
    )


async def get(call: Call) -> wire.Json:
    """Give a vector store."""
    return _store(call, await call.treadle.vector_stores.get(call.id("vector_store_id")))


async def update(call: Call) -> wire.Json:
    """Change a vector store; what the body leaves out stays."""
    body = call.body(bodies.VectorStoreUpdate)
    changes: dict[str, Any] = {
        name: getattr(body, name)
        for name in ("name", "description", "metadata")
        if name in body.model_fields_set
    }
    if "expires_after" in body.model_fields_set:
        changes["expires_days"] = body.expires_after.days if body.expires_after else None
    return _store(call, await call.treadle.vector_stores.update(call.id("vector_store_id"), **changes))


async def delete(call: Call) -> wire.Json:
    """Delete a vector store; its files stay."""
    found = await call.treadle.vector_stores.delete(call.id("vector_store_id"))
    return wire.deleted(found.id, "vector_store")


async def search(call: Call) -> wire.Json:
    """Say that nothing here searches yet.

    Errors: Problem, always.
    """
    call.body(bodies.VectorStoreSearch)
    await call.treadle.vector_stores.get(call.id("vector_store_id"))
    raise Problem(
        400,
        "Vector stores cannot be searched on this server yet: no tool of type 'file_search' runs here. "
        "Their files are kept, and GET /vector_stores/{vector_store_id}/files/{file_id}/content gives the text of each.",
        code="unsupported_operation",
    )


# -- files -----------------------------------------------------------------------------------------------------


async def add_file(call: Call) -> wire.Json:
    """Put a file into a vector store."""
    body = call.body(bodies.VectorStoreFileCreate)
    link = await call.treadle.vector_stores.files.add(
        call.id("vector_store_id"),
        body.file_id,
        chunking=body.chunking_strategy.chunking() if body.chunking_strategy else None,
        attributes=body.attributes,
    )
    return wire.vector_store_file(link)


async def list_files(call: Call) -> wire.Json:
    """Give a page of a vector store's files, in one status where `filter` names it."""
    return await _links(call)


async def get_file(call: Call) -> wire.Json:
    """Give a file of a vector store."""
    return wire.vector_store_file(await _link(call))


async def update_file(call: Call) -> wire.Json:
    """Replace the attributes of a file in a vector store."""
    body = call.body(bodies.VectorStoreFileUpdate)
    link = await call.treadle.vector_stores.files.update(
        call.id("vector_store_id"), call.id("file_id"), attributes=body.attributes or {}
    )
    return wire.vector_store_file(link)


async def delete_file(call: Call) -> wire.Json:
    """Take a file out of a vector store; it stays a file."""
    found = await call.treadle.vector_stores.files.delete(call.id("vector_store_id"), call.id("file_id"))
    return wire.deleted(found.file_id, "vector_store.file")


async def file_content(call: Call) -> wire.Json:
    """Give the text of a file in a vector store, a page of it at a time."""
    asked = call.asked("page") or "1"
    if not (asked.isascii() and asked.isdigit() and 1 <= int(asked[:9]) <= 1_000_000):
        raise Problem(400, "Invalid 'page': expected what `next_page` of the page before said.", param="page")
    number = int(asked)
    first, last = (number - 1) * PIECE_CHARS, number * PIECE_CHARS
    found, place, is_more = list[str](), 0, False
    texts = call.treadle.vector_stores.files.text(call.id("vector_store_id"), call.id("file_id"))
    async with aclosing(texts) as pieces:
        async for piece in pieces:
            found.append(piece[max(first - place, 0) : max(last - place, 0)])
            place += len(piece)
            if place > last:
                is_more = True
                break
    return wire.file_content("".join(found), next_page=str(number + 1) if is_more else None)


# -- batches ---------------------------------------------------------------------------------------------------


async def create_batch(call: Call) -> wire.Json:
    """Put files into a vector store together."""
    body = call.body(bodies.FileBatchCreate)
    if body.file_ids and body.files:
        raise Problem(
            400, "Invalid 'files': name the files there or in 'file_ids', not in both.", param="files"
        )
    batch = await call.treadle.vector_stores.batches.create(
        call.id("vector_store_id"),
        body.file_ids or (),
        files=[
            (f.file_id, f.chunking_strategy.chunking() if f.chunking_strategy else None, f.attributes)
            for f in body.files or ()
        ],
        chunking=body.chunking_strategy.chunking() if body.chunking_strategy else None,
        attributes=body.attributes,
        key=call.key,
    )
    return wire.file_batch(batch)


async def get_batch(call: Call) -> wire.Json:
    """Give a batch."""
    return wire.file_batch(await _batch(call))


async def cancel_batch(call: Call) -> wire.Json:
    """Leave what is not read yet of a batch unread."""
    batch = await call.treadle.vector_stores.batches.cancel(
        call.id("vector_store_id"), call.id("file_batch_id")
    )
    return wire.file_batch(batch)


async def list_batch_files(call: Call) -> wire.Json:
    """Give a page of a batch's files, in one status where `filter` names it."""
    batch = await _batch(call)
    return await _links(call, batch_id=batch.id)


# -- what they share -------------------------------------------------------------------------------------------


def _store(call: Call, found: VectorStore) -> wire.Json:
    return wire.vector_store(found, now_ms=call.treadle.clock.now_ms())


async def _link(call: Call) -> VectorStoreFile:
    return await call.treadle.vector_stores.files.get(call.id("vector_store_id"), call.id("file_id"))


async def _batch(call: Call) -> FileBatch:
    return await call.treadle.vector_stores.batches.get(call.id("vector_store_id"), call.id("file_batch_id"))


async def _links(call: Call, *, batch_id: str | None = None) -> wire.Json:
    store_id, status = call.id("vector_store_id"), call.asked("filter")
    if status is not None and status not in get_args(LinkStatus):
        raise Problem(400, f"Invalid 'filter': expected one of {list(get_args(LinkStatus))}.", param="filter")

    async def fetch(page: Page) -> list[VectorStoreFile]:
        return await call.treadle.vector_stores.files.list(
            store_id, status=cast("LinkStatus | None", status), batch_id=batch_id, **page._asdict()
        )

    return await paged(call.page(), fetch, wire.vector_store_file)
