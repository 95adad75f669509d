"""Threads out of a store and into one: as lines that have everything, or as the wire gives them.

An export has what the next turn of the conversation needs: every row with its calls and results, and once each, by
sha256, the contents of the files that rows and tools name. An import makes a new thread of it, in one transaction:
where one line is wrong, nothing is stored. Ids are new; rows keep their times.

Rules

1. Rows are written and kept as they are read; no part holds all of them in memory. Lists of the wire are read whole.
2. An export of a busy thread ends before the first call that waits: what it has is whole.
3. A reference to a file that neither comes along nor is known here stays as it is, and is told.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, cast

from treadle import wire
from treadle.errors import Conflict, NotFound, StateError
from treadle.objects.agent import Agent
from treadle.objects.file import File
from treadle.objects.message import Message
from treadle.objects.thread import Thread
from treadle.objects.vector_store import VectorStore, VectorStoreFile
from treadle.objects.workflow import Workflow
from treadle.retrieval.extract import media_type_of
from treadle.service.files import Upload, base_name
from treadle.service.transfer_lines import (
    ContentLine,
    Counts,
    EndLine,
    Expected,
    FileHead,
    FileLine,
    Linked,
    Row,
    StoreHead,
    StoreLine,
    ThreadHead,
    file_head,
    is_head,
    message_of,
    needed_files,
    read,
    read_head,
    refuse,
    row_of,
    write,
)
from treadle.service.transfer_wire import Unfit, read_thread, row_of_wire
from treadle.store.base import Stored, ThreadRows

if TYPE_CHECKING:
    from treadle.service import Treadle
    from treadle.store.base_files import Sink

Format = Literal["jsonl", "wire"]
Lines = Iterable[str | bytes] | AsyncIterable[str | bytes]
Progress = Callable[[int, int], None]
"""Hears how many rows are written, and of how many."""
Tell = Callable[[str], None]
"""Hears what a person should know of an export that is not all there is."""

PAGE = 200
PIECE_BYTES = 192 * 1024
"""How much of a content a line has: a multiple of three, so that the pieces' base64 has no padding within."""
SPOOL_BYTES = 16 * 1024 * 1024
"""How much of an import's rows is held in memory, until all of them are known to be good."""


class Imported(NamedTuple):
    """What an import stored, or would store.

    Shapes: `thread` is None where nothing was to be stored; `missing` are the ids of files and vector stores that are
    named and are not to be had; `left_out` counts messages of the wire that say nothing.
    """

    thread: Thread | None
    rows: int
    files: int
    vector_stores: int
    missing: tuple[str, ...]
    left_out: int = 0


# -- export -----------------------------------------------------------------------------------------------------


async def export(
    treadle: Treadle,
    thread: str,
    *,
    format: Format = "jsonl",  # noqa: A002 - it is what it is called on the command line, too
    files: bool = True,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> AsyncGenerator[str]:
    """Give a thread as text, line by line.

    Shapes: `jsonl` are the lines of `transfer_lines`, `wire` is one document: a page of all messages, the oldest
    first, with the thread beside them. Without `files` no contents come along, and references stay.

    Errors: NotFound; StoreError for a content that is damaged.
    """
    found = await treadle.threads.get(thread)
    taken = _Taken(treadle, found.id, await treadle.threads.length(found.id), progress)
    lines = _as_wire(taken, found) if format == "wire" else _as_lines(taken, found, files=files)
    async with aclosing(lines):
        async for line in lines:
            yield line
    run = await treadle.store.active_run(treadle.tenant, found.id)
    if tell is not None and (taken.left or run is not None):
        tell(_unfinished(taken, run))


def _unfinished(taken: _Taken, run: str | None) -> str:
    said = f"run {run} is active: " if run is not None else ""
    if not taken.left:
        return f"{said}exported are the {taken.written} rows that are there now"
    last = taken.written + taken.left
    return (
        f"{said}exported are rows 1 to {taken.written}; what follows, up to row {last}, waits for results"
        if taken.written
        else f"{said}no row is exported, since the first one waits for results"
    )


class _Taken:
    """The rows of a thread that are exported: as many as there were, up to the first call that waits."""

    def __init__(self, treadle: Treadle, thread_id: str, last: int, progress: Progress | None) -> None:
        self.treadle = treadle
        self.thread_id = thread_id
        self.last = last
        self.written = 0
        self.left = 0
        self._progress = progress

    async def rows(self) -> AsyncGenerator[Message]:
        """Give the rows in order; a reply comes once all of its results are there."""
        waiting: list[Message] = []
        calls = 0
        async for row in self._stored():
            if row.status == "in_progress":
                break
            waiting.append(row)
            calls += len(row.tool_calls) if row.role == "assistant" else 0
            calls -= row.role == "tool"
            if calls:
                continue
            for whole in waiting:
                self.written += 1
                yield whole
            waiting.clear()
            if self._progress is not None:
                self._progress(self.written, self.last)
        self.left = self.last - self.written

    async def _stored(self) -> AsyncGenerator[Message]:
        """Give the rows as they are stored; those that readers see with their run and agent."""
        treadle, after, listed_after = self.treadle, 0, None
        while after < self.last:
            page = await treadle.store.rows(
                treadle.tenant, self.thread_id, after=after, before=self.last + 1, limit=PAGE
            )
            if not page:
                return
            after = page[-1].seq
            listed = [row for row in page if row.is_listed]
            known: dict[int, Message] = {}
            if any(row.role == "assistant" for row in listed):
                told = await treadle.messages.list(
                    self.thread_id, limit=len(listed), order="asc", after=listed_after
                )
                known = {row.seq: row for row in told}
            listed_after = listed[-1].id if listed else listed_after
            for row in page:
                yield known.get(row.seq, row)


async def _as_wire(taken: _Taken, thread: Thread) -> AsyncGenerator[str]:
    head = json.dumps(wire.thread(thread), ensure_ascii=False)
    yield f'{{"object": "list", "thread": {head},\n"data": ['
    first = last = None
    async with aclosing(taken.rows()) as rows:
        async for row in rows:
            if not row.is_listed:
                continue
            yield f"{',' if first else ''}\n{json.dumps(wire.message(row), ensure_ascii=False)}"
            first, last = first or row.id, row.id
    ends = json.dumps({"first_id": first, "last_id": last, "has_more": False})
    yield f"\n],\n{ends[1:]}\n"


async def _as_lines(taken: _Taken, thread: Thread, *, files: bool) -> AsyncGenerator[str]:
    treadle = taken.treadle
    yield write(
        ThreadHead(
            id=thread.id,
            created_at=thread.created_ms / 1000,
            metadata=thread.metadata,
            tool_resources=thread.tool_resources,
        )
    )
    needed = dict.fromkeys(_code_files(thread.tool_resources))
    names: dict[str, str | None] = {}
    async with aclosing(taken.rows()) as rows:
        async for message in rows:
            name = await _agent_name(treadle, message.agent_id, names) if message.agent_id else None
            row = row_of(message, agent_name=name)
            needed |= dict.fromkeys(needed_files(row))
            yield write(row)
    counts = Counts(rows=taken.written)
    if files:
        stores = [s for id_ in _stores(thread.tool_resources) if (s := await _store_head(treadle, id_))]
        for store in stores:
            needed |= dict.fromkeys(link.id for link in store.files)
            yield write(StoreLine(vector_store=store))
        number = 0
        async with aclosing(_file_lines(treadle, list(needed))) as contents:
            async for line in contents:
                number += isinstance(line, FileLine)
                yield write(line)
        counts = counts.model_copy(update={"files": number, "vector_stores": len(stores)})
    yield write(EndLine(end=counts))


def _code_files(resources: Mapping[str, Any]) -> list[str]:
    return _ids(resources, "code_interpreter", "file_ids")


def _stores(resources: Mapping[str, Any]) -> list[str]:
    return _ids(resources, "file_search", "vector_store_ids")


def _ids(resources: Mapping[str, Any], tool: str, name: str) -> list[str]:
    of_tool = resources.get(tool)
    found = cast("Mapping[str, Any]", of_tool).get(name) if isinstance(of_tool, Mapping) else None
    return (
        [id_ for id_ in cast("list[Any]", found) if isinstance(id_, str)] if isinstance(found, list) else []
    )


async def _agent_name(treadle: Treadle, id_: str, names: dict[str, str | None]) -> str | None:
    if id_ not in names:
        try:
            found = (
                await treadle.store.get(Workflow, treadle.tenant, id_)
                if id_.startswith("wf_")
                else await treadle.store.get(Agent, treadle.tenant, id_)
            )
            names[id_] = found.name
        except NotFound:
            names[id_] = None
    return names[id_]


async def _store_head(treadle: Treadle, id_: str) -> StoreHead | None:
    """Give a vector store with what is in it; None for one that is gone."""
    try:
        found = await treadle.store.files.get(VectorStore, treadle.tenant, id_)
        links: list[VectorStoreFile] = []
        while True:
            after = links[-1].file_id if links else None
            page = await treadle.store.files.links(treadle.tenant, id_, after=after, limit=PAGE, order="asc")
            links += page
            if len(page) < PAGE:
                break
    except NotFound:
        return None
    return StoreHead(
        id=found.id,
        name=found.name,
        description=found.description,
        expires_days=found.expires_days,
        metadata=found.metadata,
        files=tuple(Linked(id=k.file_id, chunking=k.chunking, attributes=k.attributes) for k in links),
    )


async def _file_lines(treadle: Treadle, ids: Sequence[str]) -> AsyncGenerator[FileLine | ContentLine]:
    """Give files that are there, those of one content together, and after them the content."""
    of_content: dict[str, list[File]] = {}
    for id_ in ids:
        try:
            file = await treadle.files.get(id_)
        except NotFound:
            continue
        of_content.setdefault(file.sha256, []).append(file)
    for sha256, same in of_content.items():
        for file in same:
            yield FileLine(file=file_head(file))
        async with aclosing(_full_pieces(treadle, same[0])) as pieces:
            async for piece in pieces:
                yield ContentLine(content=sha256, base64=base64.b64encode(piece).decode())


async def _full_pieces(treadle: Treadle, file: File) -> AsyncGenerator[bytes]:
    """Give a content in pieces of one length, however the store reads it: the same content gives the same lines."""
    held = bytearray()
    async with aclosing(treadle.files.pieces(file)) as pieces:
        async for piece in pieces:
            held += piece
            while len(held) >= PIECE_BYTES:
                yield bytes(held[:PIECE_BYTES])
                del held[:PIECE_BYTES]
    if held:
        yield bytes(held)


# -- import -----------------------------------------------------------------------------------------------------


async def take_in(
    treadle: Treadle, lines: Lines, *, source: str = "lines", dry_run: bool = False
) -> Imported:
    """Make a thread of what was exported, here or elsewhere, or of messages as the wire lists them.

    Shapes: `source` is what errors call the lines; with `dry_run` all is checked and nothing stored.

    Errors: ConfigurationError that names the first line that is wrong, and what was expected; StateError where the
    files are more than the tenant may have. Then nothing is stored.
    """
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        async with AsyncExitStack() as stack:
            arrival = _Arrival(treadle, source, cast("IO[bytes]", spool), None if dry_run else stack)
            await arrival.read(lines)
            return await arrival.finish()


@dataclass
class _Content:
    """A content that arrives, and the files that have it."""

    files: list[_Arriving]
    digest: Any = field(default_factory=hashlib.sha256)
    bytes: int = 0


@dataclass
class _Arriving:
    """A file that arrives, on its line; without a sink nothing is stored."""

    head: FileHead
    line: int
    id: str
    sink: Sink | None
    upload: Upload | None


class _Arrival:
    """An import: what was read so far, and whether it can go on like this."""

    def __init__(self, treadle: Treadle, source: str, spool: IO[bytes], stack: AsyncExitStack | None) -> None:
        """Take where rows wait, and what closes what is opened; without it nothing is stored."""
        self._treadle = treadle
        self._source = source
        self._spool = spool
        self._stack = stack
        self._line = 0
        self._head: ThreadHead | None = None
        self._rows = 0
        self._reply: Row | None = None
        self._open: set[int] = set()
        self._needed: dict[str, None] = {}
        self._contents: dict[str, _Content] = {}
        self._files: dict[str, _Arriving] = {}
        self._stores: dict[str, StoreHead] = {}
        self._end: Counts | None = None
        self._left_out = 0

    async def read(self, lines: Lines) -> None:
        """Take all lines."""
        text: list[bytes] = []
        async for raw in _each(lines):
            self._line += 1
            line = raw.strip()
            if self._head is not None:
                if line:
                    await self._take(line)
                continue
            if line and not text and self._begins(line):
                continue
            text.append(raw)
        if self._head is None:
            self._take_wire(b"".join(text))
        elif self._end is None:
            raise self._wrong("expected the line that ends the export; the lines break off here")

    def _wrong(self, expected: str, *, line: int | None = None) -> Exception:
        return refuse(self._source, self._line if line is None else line, expected)

    def _begins(self, line: bytes) -> bool:
        """Take the first line of an exported thread; False says that the text is something else."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not is_head(found):
            return False
        try:
            self._head = read_head(line)
        except Expected as e:
            raise self._wrong(str(e)) from e
        return True

    async def _take(self, text: bytes) -> None:
        if self._end is not None:
            raise self._wrong("expected nothing after the line that ends the export")
        try:
            line = read(text)
            match line:
                case Row():
                    self._take_row(line, text)
                case FileLine():
                    await self._take_file(line.file)
                case ContentLine():
                    await self._take_content(line)
                case StoreLine():
                    self._take_store(line.vector_store)
                case EndLine():
                    self._take_end(line.end)
        except Expected as e:
            raise self._wrong(str(e)) from e
        except StateError as e:
            raise self._wrong(e.message) from e

    def _take_row(self, row: Row, text: bytes) -> None:
        if row.seq != self._rows + 1:
            raise Expected(f"expected the row with seq {self._rows + 1}, not {row.seq}")
        _check_row(row)
        if row.role == "tool":
            self._answer(row)
        else:
            self._refuse_open()
            self._reply, self._open = row, set(range(len(row.tool_calls)))
        self._treadle.images.check(row.parts)
        self._needed |= dict.fromkeys(needed_files(row))
        self._spool.write(text + b"\n")
        self._rows += 1

    def _answer(self, row: Row) -> None:
        """Pair a result with its call.

        Errors: Expected for a result without a call that waits.
        """
        reply = self._reply
        if reply is None or reply.seq != row.reply or row.call not in self._open:
            raise Expected(
                f"expected a result of a call that waits, and call {row.call} of row {row.reply} does not"
            )
        self._open.remove(row.call)

    def _refuse_open(self) -> None:
        if self._open and self._reply is not None:
            call = self._reply.tool_calls[min(self._open)]
            raise Expected(f"expected the result of the call '{call.id}' of row {self._reply.seq}")

    async def _take_file(self, head: FileHead) -> None:
        if head.id in self._files:
            raise Expected(f"expected each file once; '{head.id}' was told before")
        content = self._contents.setdefault(head.sha256, _Content([]))
        if content.bytes:
            raise Expected("expected all files of one content before the content")
        treadle = self._treadle
        id_, sink, upload = treadle.ids.new("file"), None, None
        if self._stack is not None:
            sink = await self._stack.enter_async_context(treadle.store.files.sink(treadle.tenant, id_))
            upload = Upload(treadle, id_, sink)
        arriving = _Arriving(head, self._line, id_, sink, upload)
        content.files.append(arriving)
        self._files[head.id] = arriving

    async def _take_content(self, line: ContentLine) -> None:
        content = self._contents.get(line.content)
        if content is None:
            raise Expected("expected the content of a file that was told before")
        try:
            piece = base64.b64decode(line.base64, validate=True)
        except (binascii.Error, ValueError) as e:
            raise Expected(f"expected base64: {e}") from e
        content.bytes += len(piece)
        if content.bytes > max(arriving.head.bytes for arriving in content.files):
            raise Expected(f"expected a content of {content.files[0].head.bytes} bytes, and this is more")
        content.digest.update(piece)
        for arriving in content.files:
            if arriving.upload is not None:
                await arriving.upload.write(piece)

    def _take_store(self, head: StoreHead) -> None:
        if head.id in self._stores:
            raise Expected(f"expected each vector store once; '{head.id}' was told before")
        if head.id not in _stores(cast("ThreadHead", self._head).tool_resources):
            raise Expected(f"expected a vector store of the thread; '{head.id}' is none")
        if len({link.id for link in head.files}) < len(head.files):
            raise Expected(f"expected each file of '{head.id}' once")
        self._stores[head.id] = head
        self._needed |= dict.fromkeys(link.id for link in head.files)

    def _take_end(self, counts: Counts) -> None:
        self._refuse_open()
        told = Counts(rows=self._rows, files=len(self._files), vector_stores=len(self._stores))
        if counts != told:
            raise Expected(
                f"expected {_counted(counts)}, and there are {_counted(told)}: lines were lost or added"
            )
        self._end = counts
        for sha256, content in self._contents.items():
            for arriving in content.files:
                if content.bytes != arriving.head.bytes or content.digest.hexdigest() != sha256:
                    raise self._wrong(
                        f"expected the content of '{arriving.head.id}' with that sha256 and that length; "
                        f"what came is another one, {content.bytes} bytes",
                        line=arriving.line,
                    )

    def _take_wire(self, raw: bytes) -> None:
        try:
            found = read_thread(raw.decode("utf-8-sig"))
        except UnicodeDecodeError as e:
            line = raw.count(b"\n", 0, e.start) + 1
            raise self._wrong("expected UTF-8 text", line=line) from e
        except Unfit as e:
            raise self._wrong(str(e), line=e.line) from e
        self._head = found.head
        now_s = self._treadle.clock.now_ms() / 1000
        for line, message in found.messages:
            if message.get("role") == "assistant" and message.get("content") in ([], "", None):
                self._left_out += 1
                continue
            try:
                row = row_of_wire(message, seq=self._rows + 1, now_s=now_s)
                self._take_row(row, write(row).encode().strip())
            except Expected as e:
                raise self._wrong(str(e), line=line) from e
            except StateError as e:
                raise self._wrong(e.message, line=line) from e

    # -- what is stored ------------------------------------------------------------------------------------------

    async def finish(self) -> Imported:
        """Store what was read, in one transaction, and tell what it was."""
        head = cast("ThreadHead", self._head)
        missing = await self._missing(head)
        counted = (self._rows, len(self._kept_files()), len(self._stores), missing, self._left_out)
        if self._stack is None:
            return Imported(None, *counted)
        treadle = self._treadle
        stores = {id_: treadle.ids.new("vs") for id_ in self._stores}
        ids = {arriving.head.id: arriving.id for arriving in self._kept_files()}
        thread = Thread(
            id=treadle.ids.new("thread"),
            tenant=treadle.tenant,
            created_ms=treadle.clock.now_ms(),
            metadata=head.metadata,
            tool_resources=_with_ids(head.tool_resources, ids | stores),
        )
        records: list[Stored] = [await self._new_file(arriving) for arriving in self._kept_files()]
        links = await self._links(stores, ids)
        records += [self._new_store(head, stores[head.id]) for head in self._stores.values()]
        records += links
        rows = ThreadRows(thread.id, lambda: self._messages(thread.id, ids))
        await self._keep(*records, thread, rows)
        treadle.ingestion.begin_for(treadle, links)
        return Imported(thread, *counted)

    async def _keep(self, *records: Stored) -> None:
        sinks = [arriving.sink for arriving in self._kept_files() if arriving.sink is not None]
        try:
            await self._treadle.store.insert(self._treadle.tenant, *records)
        except (Conflict, StateError):
            raise
        except BaseException:
            # Whether they are kept nobody can say: then the contents must stay. What is not kept is swept later.
            for sink in sinks:
                sink.release()
            raise
        for sink in sinks:
            sink.release()

    def _kept_files(self) -> list[_Arriving]:
        """Give the files that come along and whose time is not over."""
        now = self._treadle.clock.now_ms()
        return [f for f in self._files.values() if (until := _ms(f.head.expires_at)) is None or until > now]

    async def _missing(self, head: ThreadHead) -> tuple[str, ...]:
        """Give the ids that are named, and stand for nothing that comes along or is here."""
        here = {arriving.head.id for arriving in self._kept_files()} | self._stores.keys()
        needed = dict.fromkeys((*_stores(head.tool_resources), *_code_files(head.tool_resources)))
        return tuple(
            [id_ for id_ in needed | self._needed if id_ not in here and not await self._is_known(id_)]
        )

    async def _is_known(self, id_: str) -> bool:
        treadle = self._treadle
        try:
            if id_.startswith("vs_"):
                await treadle.store.files.get(VectorStore, treadle.tenant, id_)
            else:
                await treadle.files.get(id_)
        except NotFound:
            return False
        return True

    async def _new_file(self, arriving: _Arriving) -> Stored:
        assert arriving.sink is not None
        assert arriving.upload is not None
        treadle, head = self._treadle, arriving.head
        received = await arriving.upload.finish()
        file = File(
            id=arriving.id,
            tenant=treadle.tenant,
            filename=base_name(head.filename),
            purpose=head.purpose,
            bytes=received.bytes,
            sha256=received.sha256,
            media_type=media_type_of(received.head),
            created_ms=treadle.clock.now_ms(),
            expires_ms=_ms(head.expires_at),
        )
        return arriving.sink.record(file, most_total=treadle.project.serve.limits.total_file_bytes)

    def _new_store(self, head: StoreHead, id_: str) -> VectorStore:
        now = self._treadle.clock.now_ms()
        return VectorStore(
            id=id_,
            tenant=self._treadle.tenant,
            name=head.name,
            description=head.description,
            created_ms=now,
            last_active_ms=now,
            expires_days=head.expires_days,
            metadata=head.metadata,
        )

    async def _links(self, stores: Mapping[str, str], ids: Mapping[str, str]) -> list[VectorStoreFile]:
        """Give what puts files into the new vector stores; they are read anew, once they are kept."""
        now = self._treadle.clock.now_ms()
        found: list[VectorStoreFile] = []
        for head in self._stores.values():
            for link in head.files:
                if link.id not in ids and not await self._is_known(link.id):
                    continue
                found.append(
                    VectorStoreFile(
                        tenant=self._treadle.tenant,
                        store_id=stores[head.id],
                        file_id=ids.get(link.id, link.id),
                        created_ms=now,
                        chunking=link.chunking,
                        attributes=link.attributes,
                    )
                )
        return found

    def _messages(self, thread_id: str, ids: Mapping[str, str]) -> Iterator[Message]:
        """Give the rows as they are kept, from the first one on, however often they are asked for."""
        self._spool.seek(0)
        for line in self._spool:
            row = Row.model_validate_json(line)
            yield message_of(row, tenant=self._treadle.tenant, thread_id=thread_id, ids=ids)


async def _each(lines: Lines) -> AsyncGenerator[bytes]:
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line.encode() if isinstance(line, str) else line
        return
    for line in lines:
        yield line.encode() if isinstance(line, str) else line


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _counted(counts: Counts) -> str:
    return f"{counts.rows} rows, {counts.files} files and {counts.vector_stores} vector stores"


def _check_row(row: Row) -> None:
    """Make sure that a row is one that a thread can have.

    Errors: Expected, which says what was expected.
    """
    if row.text is not None and row.parts:
        raise Expected("expected a text or parts, not both")
    if row.role != "assistant" and row.tool_calls:
        raise Expected(f"expected calls in rows of the assistant alone, and this one is of the {row.role}")
    if row.role == "tool":
        if row.text is None or row.reply is None or row.call is None or row.deleted:
            raise Expected("expected a row of a tool to have text, reply and call")
        return
    if row.reply is not None or row.call is not None:
        raise Expected(f"expected reply and call in rows of tools alone, and this one is of the {row.role}")
    has_content = row.text is not None or bool(row.parts)
    if row.deleted and (has_content or row.attachments or row.metadata):
        raise Expected("expected a deleted row to say nothing")
    if row.role == "user" and not (has_content or row.deleted):
        raise Expected("expected a row of the user to say something")
    if not all(call.id and call.name for call in row.tool_calls):
        raise Expected("expected a call to have an id and a name")
    for attachment in row.attachments:
        _check_attachment(attachment)


def _check_attachment(attachment: Mapping[str, Any]) -> None:
    tools = attachment.get("tools") or ()
    fits = isinstance(attachment.get("file_id"), str) and isinstance(tools, list | tuple)
    for tool in cast("Iterable[object]", tools if fits else ()):
        kind = cast("Mapping[str, Any]", tool).get("type") if isinstance(tool, Mapping) else None
        fits = fits and kind in ("file_search", "code_interpreter")
    if not fits:
        raise Expected("expected an attachment to be {'file_id': …, 'tools': [{'type': 'file_search'}]}")


def _with_ids(resources: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """Give resources of tools with the ids that files and vector stores have now."""
    renamed = dict(resources)
    for tool, name in (("code_interpreter", "file_ids"), ("file_search", "vector_store_ids")):
        if found := _ids(resources, tool, name):
            renamed[tool] = {**resources[tool], name: [ids.get(id_, id_) for id_ in found]}
    return renamed
