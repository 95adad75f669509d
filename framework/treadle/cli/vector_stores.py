"""`treadle vector-stores`: collections of files whose text was read, made by clients of the server."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import confirm, page, paged
from treadle.cli.opening import opened
from treadle.cli.output import data, data_json, note, room, style

if TYPE_CHECKING:
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
    for n, line in enumerate(lines.table(heads, rows, columns=room())):
        data(line if n else style(line, "dim", stream=sys.stdout))
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
    for n, line in enumerate(lines.table(("FILE", "STATUS", "BYTES", "ERROR"), rows, columns=room())):
        data(line if n else style(line, "dim", stream=sys.stdout))


@vector_stores.command(name="delete")
@click.argument("vector_store", metavar="VECTOR_STORE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def delete(invocation: Invocation, *, vector_store: str, yes: bool, as_json: bool) -> None:
    """Delete a vector store; its files stay."""
    place = opened(invocation)

    async def remove() -> VectorStore:
        async with place.treadle() as treadle:
            found = await treadle.vector_stores.get(vector_store)
            confirm(f"Delete {found.id}? Its files stay.", yes=yes)
            return await treadle.vector_stores.delete(found.id)

    gone = asyncio.run(remove())
    if as_json:
        from treadle import wire

        data_json(wire.deleted(gone.id, "vector_store"))
        return
    note(f"deleted {gone.id}")
