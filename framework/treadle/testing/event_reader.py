"""Read server-sent events as the strictest of the clients do, so that what passes here passes with all of them.

Azure's client cuts at empty lines and wants an event's name in every piece; OpenAI's joins data lines and reads JSON
as soon as there is an id. So: lines end with a single line feed, an event has one `event:` and one `data:` line, a
comment stands in no piece of its own, and what comes after the last empty line is no event yet.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Heard(NamedTuple):
    """An event as a client got it; `data` is its JSON, or the text where it is none; `comments` stood before it.

    Shapes: `id` is a number, or numbers with points between them where a run tells of the runs within it.
    """

    name: str
    data: Any
    id: int | str | None = None
    comments: tuple[str, ...] = ()

    @property
    def object_id(self) -> str | None:
        """Give the id of the event's object, None where it has none."""
        return self.data.get("id") if isinstance(self.data, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - JSON


def read_events(stream: bytes, *, is_whole: bool = True) -> list[Heard]:
    """Give the events of a stream, or of the beginning of one that was cut.

    Errors: ValueError for what some client cannot read, and, of a whole stream, for bytes behind the last event.
    """
    if b"\r" in stream:
        raise ValueError("a line of the stream ends with a carriage return")
    *blocks, rest = stream.split(b"\n\n")
    if rest and is_whole:
        raise ValueError(f"the stream ends within an event: {rest[:80]!r}")
    return [_read(block.decode()) for block in blocks]


def _read(block: str) -> Heard:
    found: dict[str, str] = {}
    comments: list[str] = []
    for line in block.split("\n"):
        field, colon, value = line.partition(":")
        if not field and colon:
            comments.append(value.strip())
        elif field not in ("id", "event", "data") or field in found:
            raise ValueError(f"the event has a line that some client does not read: {line[:80]!r}")
        else:
            found[field] = value.removeprefix(" ")
    if "event" not in found or "data" not in found:
        raise ValueError(f"the event lacks its name or its data: {block[:80]!r}")
    text = found.get("id")
    id_ = int(text) if text is not None and "." not in text else text
    return Heard(found["event"], _json(found["data"]), id_, tuple(comments))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
