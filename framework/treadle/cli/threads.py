"""`treadle threads`: the conversations of the store."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import add_delete, page, paged, show_table
from treadle.cli.opening import opened
from treadle.cli.output import data, data_json, note, style

if TYPE_CHECKING:
    from treadle import wire
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
    show_table(("ID", "CREATED", "LAST MESSAGE"), rows)
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


def _deleted(thread: Thread) -> wire.Json:
    from treadle import wire

    return wire.deleted(thread.id, "thread")


add_delete(
    threads,
    "THREAD",
    "Delete a thread with its messages and runs.",
    find=lambda treadle, given: treadle.threads.get(given),
    question=lambda thread: f"Delete {thread.id} with its messages and runs?",
    remove=lambda treadle, thread: treadle.threads.delete(thread.id),
    shown=_deleted,
    name=lambda thread: thread.id,
)
