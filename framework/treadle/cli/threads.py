"""`treadle threads`: the conversations of the store."""

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
    from treadle.objects.message import Message
    from treadle.objects.thread import Thread
    from treadle.service import Treadle

_PAGE = 100


@click.group(cls=Group)
def threads() -> None:
    """List, show and delete threads."""


@threads.command(name="list")
@paged
@click.pass_obj
def list_(invocation: Invocation, *, limit: int, after: str | None, as_json: bool) -> None:
    """List the threads of the store, the newest first, each with its last message."""
    place = opened(invocation)

    async def found() -> list[tuple[Thread, Message | None]]:
        async with place.treadle() as treadle:
            listed = await treadle.threads.list(limit=limit + 1, after=after)
            return [(t, next(iter(await treadle.messages.list(t.id, limit=1)), None)) for t in listed]

    listed, has_more = page(asyncio.run(found()), limit)
    if as_json:
        from treadle import wire

        data_json(wire.listing([wire.thread(t) for t, _ in listed], has_more=has_more))
        return
    rows = [(t.id, lines.when(t.created_ms), f"{m.role}: {m.plain}" if m else "-") for t, m in listed]
    for n, line in enumerate(lines.table(("ID", "CREATED", "LAST MESSAGE"), rows, columns=room())):
        data(line if n else style(line, "dim", stream=sys.stdout))
    if has_more:
        note(f"more:  {place.command(f'threads list --after {listed[-1][0].id}')}", "dim")


@threads.command(name="show")
@click.argument("thread", metavar="THREAD")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the thread with its messages.")
@click.pass_obj
def show(invocation: Invocation, *, thread: str, as_json: bool) -> None:
    """Print the conversation of a thread: by id, a unique beginning of it, or @last."""
    place = opened(invocation)

    async def found() -> tuple[Thread, list[Message]]:
        async with place.treadle() as treadle:
            one = await treadle.threads.get(thread)
            return one, await _messages(treadle, one.id)

    one, messages = asyncio.run(found())
    if as_json:
        from treadle import wire

        data_json(wire.thread(one) | {"messages": [wire.message(m) for m in messages]})
        return
    note(f"{one.id}  {lines.when(one.created_ms)}  {lines.plural(len(messages), 'message')}", "dim")
    for message in messages:
        _print(message)


async def _messages(treadle: Treadle, thread_id: str) -> list[Message]:
    """Give every message of a thread, oldest first."""
    found: list[Message] = []
    while True:
        after = found[-1].id if found else None
        more = await treadle.messages.list(thread_id, limit=_PAGE, order="asc", after=after)
        found += more
        if len(more) < _PAGE:
            return found


def _print(message: Message) -> None:
    from treadle.objects.message import ImageFilePart, TextPart

    color = "cyan" if message.role == "user" else "green"
    head = style(message.role, color, "bold", stream=sys.stdout)
    if message.status == "incomplete":
        head += f" (incomplete: {message.incomplete_reason})"
    data(head)
    for part in message.content:
        if isinstance(part, TextPart):
            data(lines.visible(part.text) if sys.stdout.isatty() else part.text)
        else:
            place = part.image_file.file_id if isinstance(part, ImageFilePart) else part.image_url.url
            data(f"[image {lines.cut(lines.one_line(place), 80)}]")
    data("")


@threads.command(name="delete")
@click.argument("thread", metavar="THREAD")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def delete(invocation: Invocation, *, thread: str, yes: bool, as_json: bool) -> None:
    """Delete a thread with its messages and runs."""
    place = opened(invocation)

    async def remove() -> Thread:
        async with place.treadle() as treadle:
            found = await treadle.threads.get(thread)
            confirm(f"Delete {found.id} with its messages and runs?", yes=yes)
            return await treadle.threads.delete(found.id)

    gone = asyncio.run(remove())
    if as_json:
        from treadle import wire

        data_json(wire.deleted(gone.id, "thread"))
        return
    note(f"deleted {gone.id}")
