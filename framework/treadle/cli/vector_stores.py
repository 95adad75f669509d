"""`treadle vector-stores`: collections of files whose text was read, made by clients of the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import add_delete, page, paged, show_table
from treadle.cli.opening import opened
from treadle.cli.output import data_json, note

if TYPE_CHECKING:
    from treadle import wire
    from treadle.objects.vector_store import VectorStore, VectorStoreFile

_PAGE = 100


@click.group(cls=Group)
def vector_stores() -> None:
    """List, show and delete vector stores."""


@vector_stores.command(name="list")
@paged
@click.pass_obj
def list_(invocation: Invocation, *, limit: int, after: str | None, as_json: bool) -> None:
    """List the vector stores, the newest first."""
    place = opened(invocation)

    async def found() -> tuple[list[VectorStore], int]:
        async with place.treadle() as treadle:
            return await treadle.vector_stores.list(limit=limit + 1, after=after), treadle.clock.now_ms()

    listed, now_ms = asyncio.run(found())
    listed, has_more = page(listed, limit)
    if as_json:
        from treadle import wire

        data_json(wire.listing([wire.vector_store(v, now_ms=now_ms) for v in listed], has_more=has_more))
        return
    rows = [
        (
            v.id,
            lines.when(v.created_ms),
            v.status(now_ms),
            str(v.counts.total),
            str(v.usage_bytes),
            v.name or "-",
        )
        for v in listed
    ]
    heads = ("ID", "CREATED", "STATUS", "FILES", "BYTES", "NAME")
    show_table(heads, rows)
    if has_more:
        note(f"more:  {place.command(f'vector-stores list --after {listed[-1].id}')}", "dim")


@vector_stores.command(name="show")
@click.argument("vector_store", metavar="VECTOR_STORE")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the vector store with its files.")
@click.pass_obj
def show(invocation: Invocation, *, vector_store: str, as_json: bool) -> None:
    """Show a vector store and what became of each of its files."""
    place = opened(invocation)

    async def found() -> tuple[VectorStore, list[VectorStoreFile], int]:
        async with place.treadle() as treadle:
            one = await treadle.vector_stores.get(vector_store)
            links: list[VectorStoreFile] = []
            while True:
                after = links[-1].file_id if links else None
                more = await treadle.vector_stores.files.list(one.id, limit=_PAGE, order="asc", after=after)
                links += more
                if len(more) < _PAGE:
                    return one, links, treadle.clock.now_ms()

    one, links, now_ms = asyncio.run(found())
    if as_json:
        from treadle import wire

        files = [wire.vector_store_file(link) for link in links]
        data_json(wire.vector_store(one, now_ms=now_ms) | {"files": files})
        return
    note(f"{one.id}  {one.status(now_ms)}  {lines.plural(len(links), 'file')}", "dim")
    rows = [
        (
            link.file_id,
            link.status,
            str(link.usage_bytes),
            link.last_error.message if link.last_error else "-",
        )
        for link in links
    ]
    show_table(("FILE", "STATUS", "BYTES", "ERROR"), rows)


def _deleted(found: VectorStore) -> wire.Json:
    from treadle import wire

    return wire.deleted(found.id, "vector_store")


add_delete(
    vector_stores,
    "VECTOR_STORE",
    "Delete a vector store; its files stay.",
    find=lambda treadle, given: treadle.vector_stores.get(given),
    question=lambda found: f"Delete {found.id}? Its files stay.",
    remove=lambda treadle, found: treadle.vector_stores.delete(found.id),
    shown=_deleted,
    name=lambda found: found.id,
)
