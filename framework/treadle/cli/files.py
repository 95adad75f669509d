"""`treadle files`: the files of the store, which clients of the server upload and messages refer to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import add_delete, page, paged, show_table
from treadle.cli.opening import opened
from treadle.cli.output import data, data_json, note

if TYPE_CHECKING:
    from treadle import wire
    from treadle.objects.file import File


@click.group(cls=Group)
def files() -> None:
    """List, show, add, get and delete files."""


@files.command(name="list")
@paged
@click.option("--purpose", metavar="PURPOSE", help="Only files of this purpose, such as assistants.")
@click.pass_obj
def list_(
    invocation: Invocation, *, limit: int, after: str | None, purpose: str | None, as_json: bool
) -> None:
    """List the files of the store, the newest first."""
    place = opened(invocation)

    async def found() -> list[File]:
        async with place.treadle() as treadle:
            return await treadle.files.list(purpose=purpose, limit=limit + 1, after=after)

    listed, has_more = page(asyncio.run(found()), limit)
    if as_json:
        from treadle import wire

        data_json(wire.listing([wire.file(f) for f in listed], has_more=has_more))
        return
    rows = [(f.id, lines.when(f.created_ms), f.purpose, str(f.bytes), f.filename) for f in listed]
    heads = ("ID", "CREATED", "PURPOSE", "BYTES", "NAME")
    show_table(heads, rows)
    if has_more:
        note(f"more:  {place.command(f'files list --after {listed[-1].id}')}", "dim")


@files.command(name="show")
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(invocation: Invocation, *, file: str, as_json: bool) -> None:
    """Say what is known of a file."""
    place = opened(invocation)

    async def found() -> File:
        async with place.treadle() as treadle:
            return await treadle.files.get(file)

    one = asyncio.run(found())
    if as_json:
        from treadle import wire

        data_json(wire.file(one))
        return
    expires = lines.when(one.expires_ms) if one.expires_ms is not None else "never"
    for name, value in (
        ("file", one.id),
        ("name", lines.visible(one.filename)),
        ("purpose", one.purpose),
        ("type", one.media_type),
        ("bytes", str(one.bytes)),
        ("sha256", one.sha256),
        ("made", lines.when(one.created_ms)),
        ("expires", expires),
    ):
        data(f"{name:<8} {value}")


@files.command(name="add")
@click.argument("path", metavar="PATH", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--purpose", default="assistants", show_default=True, metavar="PURPOSE", help="What it is for.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def add(invocation: Invocation, *, path: Path, purpose: str, as_json: bool) -> None:
    """Keep a copy of a file in the store and print its id."""
    place = opened(invocation)

    async def keep() -> File:
        async with place.treadle() as treadle:
            return await treadle.files.create(path, purpose=purpose)

    kept = asyncio.run(keep())
    if as_json:
        from treadle import wire

        data_json(wire.file(kept))
        return
    data(kept.id)


@files.command(name="get")
@click.argument("file", metavar="FILE")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to; else stdout."
)
@click.pass_obj
def get(invocation: Invocation, *, file: str, output: Path | None) -> None:
    """Write the content of a file to a path or to stdout."""
    place = opened(invocation)

    async def write() -> None:
        async with place.treadle() as treadle:
            found = await treadle.files.get(file)
            async with aclosing(treadle.files.pieces(found)) as pieces:
                with open_output(output) as target:
                    async for piece in pieces:
                        target.write(piece)

    asyncio.run(write())


@contextmanager
def open_output(path: Path | None) -> Generator[BinaryIO]:
    """Give what bytes are written to: a file, or stdout where none is named."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with path.open("wb") as file:
        yield file


def _deleted(file: File) -> wire.Json:
    from treadle import wire

    return wire.deleted(file.id, "file") | {"object": "file"}


add_delete(
    files,
    "FILE",
    "Delete a file, also from the vector stores that have it.",
    find=lambda treadle, given: treadle.files.get(given),
    question=lambda file: f"Delete {file.id} ({lines.visible(file.filename)})?",
    remove=lambda treadle, file: treadle.files.delete(file.id),
    shown=_deleted,
    name=lambda file: file.id,
)
