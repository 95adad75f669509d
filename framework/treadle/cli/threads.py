"""`treadle threads`: the conversations of the store."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import add_delete, page, paged, show_table
from treadle.cli.opening import opened
from treadle.cli.output import complain, console, data, data_json, is_quiet, note, style

if TYPE_CHECKING:
    from treadle import wire
    from treadle.objects.message import Message
    from treadle.objects.thread import Thread
    from treadle.service import Treadle
    from treadle.service.transfer import Imported

_PAGE = 100
_LONG_ROWS, _LONG_BYTES = 2000, 4 * 1024 * 1024
"""From which length on somebody at a terminal sees how far an export or an import is."""


@click.group(cls=Group)
def threads() -> None:
    """List, show, export, import and delete threads."""


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


@threads.command(name="export")
@click.argument("thread", metavar="THREAD")
@click.option("-o", "--output", metavar="FILE", default="-", help="Where to; - is stdout, as without it.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "wire"]),
    default="jsonl",
    show_default=True,
    help="jsonl: all that the next turn needs, a line a row. wire: the messages, as a client of the server gets them.",
)
@click.option("--no-files", is_flag=True, help="Leave the contents of files out; references stay.")
@click.pass_obj
def export(
    invocation: Invocation, *, thread: str, output: str, form: Literal["jsonl", "wire"], no_files: bool
) -> None:
    """Write a thread so that it can be imported elsewhere: rows with calls and results, and the files they name."""
    place = opened(invocation)
    remarks: list[str] = []

    async def write() -> None:
        async with place.treadle() as treadle:
            with _progress("rows", _LONG_ROWS) as seen:
                found = treadle.threads.export(
                    thread, format=form, files=not no_files, progress=seen, tell=remarks.append
                )
                async with aclosing(found) as exported:
                    # Only once there is something to write: a thread that is not there leaves a file as it was.
                    first = await anext(exported)
                    with _written(output) as target:
                        target.write(first.encode())
                        async for line in exported:
                            target.write(line.encode())

    asyncio.run(write())
    for remark in remarks:
        complain(remark, "yellow")


@contextmanager
def _written(output: str) -> Generator[BinaryIO]:
    """Give what is written to: stdout, or a file that has its name once all of it is there."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as e:
        raise click.UsageError(f"cannot write {output}: {e.strerror or e}") from e
    finally:
        part.unlink(missing_ok=True)


@threads.command(name="import")
@click.argument("file", metavar="FILE")
@click.option("--dry-run", is_flag=True, help="Check every line, and store nothing.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON document: the new thread, and what was stored."
)
@click.pass_obj
def import_(invocation: Invocation, *, file: str, dry_run: bool, as_json: bool) -> None:
    """Make a thread of FILE (- is stdin) and print its id.

    FILE is what `threads export` wrote, or messages as the server, OpenAI or Azure list them. Where one line is wrong,
    nothing is stored.
    """
    place = opened(invocation)

    async def take() -> Imported:
        async with place.treadle() as treadle:
            with _lines_of(file) as found:
                imported = await treadle.threads.take_in(found, source=file, dry_run=dry_run)
            # What a vector store waits for is read now, and not when somebody asks.
            await treadle.ingestion.settled()
            return imported

    imported = asyncio.run(take())
    counts = {"rows": imported.rows, "files": imported.files, "vector_stores": imported.vector_stores}
    if as_json:
        from treadle import wire

        shown = {"object": "thread"} if imported.thread is None else wire.thread(imported.thread)
        data_json(shown | counts | {"missing": list(imported.missing), "dry_run": dry_run})
    elif imported.thread is not None:
        data(imported.thread.id)
    told = ", ".join(
        lines.plural(n, name.removesuffix("s").replace("_", " ")) for name, n in counts.items() if n
    )
    note(f"{'would import' if dry_run else 'imported'} {told or 'no rows'}", "dim")
    if imported.left_out:
        complain(
            f"{lines.plural(imported.left_out, 'message')} of the assistant without content left out",
            "yellow",
        )
    if imported.missing:
        complain(f"not to be had, the references stay: {', '.join(imported.missing)}", "yellow")


@contextmanager
def _lines_of(file: str) -> Generator[Iterator[bytes]]:
    """Give the lines of a file or of stdin, and show how far they are read."""
    if file == "-":
        yield iter(sys.stdin.buffer)
        return
    path = Path(file)
    try:
        with path.open("rb") as opened_file, _progress("bytes", _LONG_BYTES) as seen:
            yield _counted(opened_file, path.stat().st_size, seen)
    except OSError as e:
        raise click.UsageError(f"cannot read {file}: {e.strerror or e}") from e


def _counted(file: BinaryIO, total: int, seen: Callable[[int, int], None]) -> Iterator[bytes]:
    done = 0
    for line in file:
        done += len(line)
        yield line
        seen(done, total)


@contextmanager
def _progress(what: str, long: int) -> Generator[Callable[[int, int], None]]:
    """Give what is told how much is done, and of how much; a person at a terminal sees it where that is long."""
    if is_quiet() or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=total >= long)


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
