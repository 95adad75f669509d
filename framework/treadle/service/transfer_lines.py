"""The lines of an exported thread: one JSON object each, and what makes a line wrong.

    {"treadle": "thread", "version": 1, …}      the thread, first
    {"seq": 1, "role": "user", …}               a row, one line each, in order
    {"vector_store": {…}}                       a vector store of the thread, with the ids of its files
    {"file": {…}}                               a file that rows or vector stores name
    {"content": "<sha256>", "base64": "…"}      the next piece of a content: once, whoever has it
    {"end": {"rows": 2, …}}                     what there was, last: an export that was cut off has none

Times are Unix seconds with milliseconds behind the point. What equals its default is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from pydantic import Field, ValidationError
from pydantic_core import from_json, to_json

from treadle.errors import ConfigurationError
from treadle.objects.file import File, FilePurpose
from treadle.objects.message import ContentPart, Message, TextPart, ToolCall, estimate_tokens
from treadle.objects.record import Record
from treadle.objects.vector_store import Chunking
from treadle.text import is_sound, utf8_bytes

VERSION = 1
"""The version of the format that is written, and the newest one that is read."""
CODE = "TR074"
_SHA256 = r"^[0-9a-f]{64}$"
_NUL = b"\\u0000"


class Expected(Exception):
    """A line is not what it should be; the message says what was expected."""


class ThreadHead(Record):
    """The first line: the thread that was exported."""

    treadle: Literal["thread"] = "thread"
    version: int = VERSION
    id: str = ""
    created_at: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    tool_resources: dict[str, Any] = Field(default_factory=dict)


class Row(Record):
    """A row of the thread.

    Shapes: `reply` and `call` of a tool's row are the seq of the row that asked, and the place of the call in it. The
    run and the agent are told for readers; the rows of tools and deleted rows have none.
    """

    seq: int = Field(ge=1)
    role: Literal["user", "assistant", "tool"]
    text: str | None = None
    parts: tuple[ContentPart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reply: int | None = None
    call: int | None = None
    status: Literal["completed", "incomplete"] = "completed"
    incomplete_reason: str | None = None
    deleted: bool = False
    created_at: float = Field(ge=0)
    run_id: str | None = None
    agent_id: str | None = None
    agent_name: str | None = None
    attachments: tuple[dict[str, Any], ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)


class FileHead(Record):
    """A file; its content follows it."""

    id: str
    filename: str
    purpose: FilePurpose
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)
    created_at: float | None = None
    expires_at: float | None = None


class Linked(Record):
    """A file of a vector store, and how it was put in."""

    id: str
    chunking: Chunking = Field(default_factory=Chunking)
    attributes: dict[str, Any] = Field(default_factory=dict)


class StoreHead(Record):
    """A vector store of the thread."""

    id: str
    name: str | None = None
    description: str | None = None
    expires_days: int | None = Field(default=None, ge=1, le=365)
    metadata: dict[str, Any] = Field(default_factory=dict)
    files: tuple[Linked, ...] = ()


class FileLine(Record):
    """The line of a file."""

    file: FileHead


class StoreLine(Record):
    """The line of a vector store."""

    vector_store: StoreHead


class ContentLine(Record):
    """The next piece of a content."""

    content: str = Field(pattern=_SHA256)
    base64: str


class Counts(Record):
    """How many lines there were of each kind."""

    rows: int = 0
    files: int = 0
    vector_stores: int = 0


class EndLine(Record):
    """The last line."""

    end: Counts


Line = Row | FileLine | StoreLine | ContentLine | EndLine

_KINDS: tuple[tuple[str, type[Line]], ...] = (
    ("seq", Row),
    ("content", ContentLine),
    ("file", FileLine),
    ("vector_store", StoreLine),
    ("end", EndLine),
)


def refuse(source: str, line: int, expected: str, *, hint: str | None = None) -> ConfigurationError:
    """Give the error of a line.

    Units: lines count from 1.
    """
    return ConfigurationError(f"{source}:{line}: {expected}", hint=hint or "nothing is stored", code=CODE)


def write(line: Record) -> str:
    """Give a line as it is written, its end included."""
    dumped = line.model_dump(exclude_defaults=True)
    told = {name: dumped[name] for name in type(line).model_fields if name in dumped}
    if isinstance(line, Row) and line.parts:
        told["parts"] = [p.model_dump(exclude_defaults=True) | {"type": p.type} for p in line.parts]
    elif isinstance(line, ThreadHead):
        told = {"treadle": line.treadle, "version": line.version, **told}
    return to_json(told).decode() + "\n"


def is_head(found: object) -> bool:
    """Tell whether a JSON value is the first line of an exported thread."""
    return isinstance(found, Mapping) and "treadle" in cast("Mapping[str, Any]", found)


def read_head(text: bytes) -> ThreadHead:
    """Read the first line.

    Errors: Expected, which says what was expected.
    """
    found: dict[str, Any] = from_json(text)
    version = found.get("version")
    if isinstance(version, int) and version > VERSION:
        raise Expected(f"expected version {VERSION} of the format, not {version}: a newer treadle wrote it")
    head = _checked(ThreadHead, text)
    if head.version < 1:
        raise Expected(f"expected a version of the format from 1 on, not {head.version}")
    return head


def read(text: bytes) -> Line:
    """Read any line but the first.

    Errors: Expected, which says what was expected.
    """
    # Nearly every line is a row, and begins like one: it is read once then.
    if text.startswith(b'{"seq":'):
        return _checked(Row, text)
    try:
        found = from_json(text)
    except ValueError as e:
        raise Expected(_said(e)) from e
    if not isinstance(found, dict):
        raise Expected(f"expected a JSON object, not {_kind_of(found)}")
    for key, cls in _KINDS:
        if key in found:
            return _checked(cls, text)
    raise Expected(f"expected a line with one of the keys {', '.join(key for key, _ in _KINDS)}")


def _checked(cls: type[Any], text: bytes) -> Any:
    try:
        found = cls.model_validate_json(text, strict=True)
    except ValidationError as e:
        raise Expected(_said(e)) from e
    if _NUL in text and not all(is_sound(t) for t in _texts(from_json(text))):
        raise Expected("expected text without NUL characters")
    return found


def _said(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return f"expected a JSON object: {error}"
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"expected a JSON object: {first['msg'].removeprefix('Invalid JSON: ')}"
    place = ".".join(str(part) for part in first["loc"])
    return f"'{place}' does not fit: {first['msg']}" if place else first["msg"]


def _kind_of(found: object) -> str:
    names = {"list": "a list", "str": "a text", "bool": "true or false", "NoneType": "null"}
    return names.get(type(found).__name__, "a number")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, below in cast("Mapping[str, object]", value).items():
            yield key
            yield from _texts(below)
    elif isinstance(value, list):
        for below in cast("list[object]", value):
            yield from _texts(below)


def row_of(message: Message, *, agent_name: str | None = None) -> Row:
    """Give the line of a row of a thread."""
    return Row.trusted(
        {
            "seq": message.seq,
            "role": message.role,
            "text": message.text,
            "parts": message.parts,
            "tool_calls": message.tool_calls,
            "reply": message.reply_seq,
            "call": message.call_index,
            "status": message.status,
            "incomplete_reason": message.incomplete_reason,
            "deleted": message.is_deleted,
            "created_at": message.created_ms / 1000,
            "run_id": message.run_id,
            "agent_id": message.agent_id,
            "agent_name": agent_name,
            "attachments": message.attachments,
            "metadata": message.metadata,
        }
    )


def message_of(row: Row, *, tenant: str, thread_id: str, ids: Mapping[str, str]) -> Message:
    """Give the row of a thread that a line tells of.

    Shapes: `ids` maps ids of files to those that they have now. A run is not one of this store, so it is left out.
    """
    created = round(row.created_at * 1000)
    return Message.trusted(
        {
            "tenant": tenant,
            "thread_id": thread_id,
            "seq": row.seq,
            "role": row.role,
            "text": row.text,
            "parts": tuple(_renamed(part, ids) for part in row.parts) if ids else row.parts,
            "tool_calls": row.tool_calls,
            "reply_seq": row.reply,
            "call_index": row.call,
            "status": row.status,
            "incomplete_reason": row.incomplete_reason,
            "tokens": _tokens(row),
            "agent_id": row.agent_id if row.role == "assistant" else None,
            "created_ms": created,
            "completed_ms": created if row.status == "completed" else None,
            "attachments": tuple(_with_id(a, ids) for a in row.attachments),
            "metadata": row.metadata,
            "is_deleted": row.deleted,
        }
    )


def _tokens(row: Row) -> int:
    texts = [row.text or "", *(p.text for p in row.parts if isinstance(p, TextPart))]
    size = sum(map(utf8_bytes, texts)) + sum(len(c.name) + utf8_bytes(c.arguments) for c in row.tool_calls)
    return estimate_tokens(size, images=sum(not isinstance(p, TextPart) for p in row.parts))


def _renamed(part: Any, ids: Mapping[str, str]) -> Any:
    """Give a part of a content with the ids that its files have now."""
    if part.type == "image_file":
        image = part.image_file
        return part.model_copy(
            update={"image_file": image.model_copy(update={"file_id": ids.get(image.file_id, image.file_id)})}
        )
    if part.type == "text" and part.annotations:
        return part.model_copy(update={"annotations": tuple(_noted(note, ids) for note in part.annotations)})
    return part


def _noted(note: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: _with_id(cast("Mapping[str, Any]", value), ids) if isinstance(value, Mapping) else value
        for key, value in note.items()
    }


def _with_id(named: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    id_ = named.get("file_id")
    return {**named, "file_id": ids.get(id_, id_)} if isinstance(id_, str) else dict(named)


def needed_files(row: Row) -> Iterator[str]:
    """Give the ids of the files that a row cannot do without: its images and attachments, and what a tool made."""
    for part in row.parts:
        if part.type == "image_file":
            yield part.image_file.file_id
        elif part.type == "text":
            for note in part.annotations:
                made = note.get("file_path")
                if isinstance(made, Mapping) and isinstance(id_ := cast("Any", made).get("file_id"), str):
                    yield id_
    for attachment in row.attachments:
        if isinstance(id_ := attachment.get("file_id"), str):
            yield id_


def file_head(file: File) -> FileHead:
    """Give a file as its line has it."""
    return FileHead(
        id=file.id,
        filename=file.filename,
        purpose=file.purpose,
        bytes=file.bytes,
        sha256=file.sha256,
        created_at=file.created_ms / 1000,
        expires_at=None if file.expires_ms is None else file.expires_ms / 1000,
    )
