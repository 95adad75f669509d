"""Read threads as the wire gives them: lists of messages, of treadle's own server and of the hosted ones.

A document is a page (``{"object": "list", "data": […]}``), a thread with its ``messages``, a bare list of messages, or a
message; several may follow each other. Every value is read with its place in the text, so that a message which does not
fit is told by its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

from pydantic import ValidationError

from treadle.ids import place_of
from treadle.service.transfer_lines import Expected, Row, ThreadHead

_BLANK = re.compile(r"[ \t\r\n]*")
_decoder = json.JSONDecoder()
_LISTS = ("data", "messages")
_LAST_SEQ = (1 << 32) - 1


class Located(NamedTuple):
    """A message, and where it stands. Units: lines count from 1."""

    line: int
    message: Mapping[str, Any]


class WireThread(NamedTuple):
    """What a text has: the thread where it is told, and its messages from the first one on."""

    head: ThreadHead
    messages: tuple[Located, ...]


class Unfit(Expected):
    """The text is not what the wire gives; `line` says where. Units: lines count from 1."""

    def __init__(self, line: int, expected: str) -> None:
        """Say what was expected at a line."""
        self.line = line
        super().__init__(expected)


class _Found:
    """What was read so far."""

    def __init__(self) -> None:
        self.thread: Mapping[str, Any] = {}
        self.messages: list[Located] = []
        self.form: Literal["thread", "page", "list"] = "list"
        self.has_more = False


def read_thread(text: str) -> WireThread:
    """Read a whole text.

    Errors: Unfit.
    """
    lines, found, at = _Lines(text), _Found(), 0
    at = _skip(text, 0)
    if at == len(text):
        raise Unfit(1, "expected a thread, and there is nothing")
    while at < len(text):
        at = _skip(text, _document(text, at, lines, found))
    if found.has_more:
        raise Unfit(lines.of(len(text)), "expected the thread's last page: this one says has_more")
    known = {k: found.thread.get(k) for k in ("id", "metadata", "tool_resources")}
    try:
        head = ThreadHead.model_validate({k: v for k, v in known.items() if v is not None})
    except ValidationError as e:
        raise Unfit(1, f"the thread does not fit: {_said(e)}") from e
    return WireThread(head, tuple(_in_order(found)))


class _Lines:
    """Tells the line of a place; places are asked for in rising order."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at, self._line = 0, 1

    def of(self, at: int) -> int:
        self._line += self._text.count("\n", self._at, at)
        self._at = at
        return self._line


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _document(text: str, at: int, lines: _Lines, found: _Found) -> int:
    """Read one value of the top; give where it ends."""
    if text.startswith("[", at):
        return _messages(text, at, lines, found)
    if not text.startswith("{", at):
        raise Unfit(lines.of(at), "expected an object or a list of messages")
    line, members, listed = lines.of(at), dict[str, Any](), None
    at = _skip(text, at + 1)
    while not text.startswith("}", at):
        key, at = _key(text, at, lines)
        if key in _LISTS and text.startswith("[", at):
            listed, at = key, _messages(text, at, lines, found)
        else:
            members[key], at = _value(text, at, lines)
        at = _next(text, at, "}", lines)
    if listed is None and "role" in members:
        found.messages.append(Located(line, members))
    elif listed is None:
        raise Unfit(line, "expected a list of messages: {'object': 'list', 'data': […]}")
    else:
        _take_page(members, listed, found)
    return at + 1


def _take_page(members: Mapping[str, Any], listed: str, found: _Found) -> None:
    """Remember what stands beside a list of messages."""
    thread: object = members.get("thread") if listed == "data" else members
    if isinstance(thread, Mapping):
        found.thread, found.form = cast("Mapping[str, Any]", thread), "thread"
    elif found.form == "list":
        found.form = "page"
    found.has_more = members.get("has_more") is True


def _messages(text: str, at: int, lines: _Lines, found: _Found) -> int:
    """Read a list of messages; give where it ends."""
    at = _skip(text, at + 1)
    while not text.startswith("]", at):
        line = lines.of(at)
        message, at = _value(text, at, lines)
        if not isinstance(message, dict):
            raise Unfit(line, "expected a message, an object")
        found.messages.append(Located(line, cast("dict[str, Any]", message)))
        at = _next(text, at, "]", lines)
    return at + 1


def _key(text: str, at: int, lines: _Lines) -> tuple[str, int]:
    if not text.startswith('"', at):
        raise Unfit(lines.of(at), "expected JSON: a name in double quotes")
    key, at = _value(text, at, lines)
    at = _skip(text, at)
    if not text.startswith(":", at):
        raise Unfit(lines.of(at), "expected JSON: a colon after the name")
    return key, _skip(text, at + 1)


def _value(text: str, at: int, lines: _Lines) -> tuple[Any, int]:
    try:
        return _decoder.raw_decode(text, at)
    except json.JSONDecodeError as e:
        raise Unfit(e.lineno, f"expected JSON: {e.msg}") from e
    except RecursionError as e:
        raise Unfit(lines.of(at), "expected a message, not so many brackets within each other") from e


def _next(text: str, at: int, closing: str, lines: _Lines) -> int:
    """Give the place of the next member or element, or of the closing bracket."""
    at = _skip(text, at)
    if text.startswith(",", at):
        at = _skip(text, at + 1)
        if text.startswith(closing, at):
            raise Unfit(lines.of(at), "expected JSON: nothing follows the comma")
        return at
    if text.startswith(closing, at):
        return at
    raise Unfit(lines.of(at), f"expected JSON: a comma or {closing}")


def _in_order(found: _Found) -> Sequence[Located]:
    """Give the messages from the first one on.

    A thread with its messages tells them from the first one on; other lists may be the newest first. The times tell;
    where they are all the same, ids that treadle made do; else a page counts as the newest first, and a list without an
    envelope as it stands.
    """
    located = found.messages
    times = [_time(m.message) for m in located]
    is_rising = all(a <= b for a, b in pairwise(times))
    is_falling = all(a >= b for a, b in pairwise(times))
    if is_rising and (not is_falling or found.form == "thread"):
        return located
    if is_falling and not is_rising:
        return located[::-1]
    places = [_place(m.message) for m in located]
    if None not in places:
        known = cast("list[int]", places)
        return [located[i] for i in sorted(range(len(located)), key=known.__getitem__)]
    order = range(len(located) - 1, -1, -1) if found.form == "page" else range(len(located))
    return [located[i] for i in sorted(order, key=times.__getitem__)]


def _time(message: Mapping[str, Any]) -> float:
    found = message.get("created_at")
    return float(found) if isinstance(found, int | float) else 0.0


def _place(message: Mapping[str, Any]) -> int | None:
    id_ = message.get("id")
    place = place_of(id_, "msg") if isinstance(id_, str) else None
    # A message that once waited for its thread has an id that does not say where it stands.
    return None if place is None or place[2] > _LAST_SEQ else place[2]


def row_of_wire(message: Mapping[str, Any], *, seq: int, now_s: float) -> Row:
    """Give the row that a message of the wire is.

    Shapes: what the wire has and a row has not, is left out. Units: `now_s` Unix seconds, for a message without a time.

    Errors: Expected, which says what was expected.
    """
    role = message.get("role")
    if role not in ("user", "assistant"):
        raise Expected(f"expected the role user or assistant, not {json.dumps(role)[:50]}")
    status = message.get("status") or "completed"
    if status not in ("completed", "incomplete"):
        raise Expected(f"expected a message that is completed or incomplete, not {json.dumps(status)[:50]}")
    reason = message.get("incomplete_details")
    created = message.get("created_at")
    values: dict[str, Any] = {
        "seq": seq,
        "role": role,
        **_content(message.get("content")),
        "status": status,
        "incomplete_reason": cast("Mapping[str, Any]", reason).get("reason")
        if isinstance(reason, Mapping)
        else None,
        "created_at": now_s if created is None else created,
        "run_id": message.get("run_id"),
        "agent_id": message.get("assistant_id"),
        "attachments": message.get("attachments") or (),
        "metadata": message.get("metadata") or {},
    }
    try:
        return Row.model_validate(values)
    except ValidationError as e:
        raise Expected(_said(e)) from e


def _content(given: object) -> dict[str, Any]:
    if isinstance(given, str):
        return {"text": given}
    if not isinstance(given, list):
        raise Expected("expected 'content' to be a text or a list of parts")
    parts = list(_parts(cast("list[object]", given)))
    if len(parts) == 1 and parts[0]["type"] == "text" and not parts[0].get("annotations"):
        return {"text": parts[0]["text"]}
    return {"parts": tuple(parts)}


def _parts(given: Sequence[object]) -> Iterator[dict[str, Any]]:
    for part in given:
        if not isinstance(part, Mapping):
            raise Expected("expected a part of 'content' to be an object")
        told = cast("Mapping[str, Any]", part)
        kind = told.get("type")
        if kind == "text":
            text = told.get("text")
            within = cast("Mapping[str, Any]", text) if isinstance(text, Mapping) else {"value": text}
            yield {
                "type": "text",
                "text": within.get("value"),
                "annotations": within.get("annotations") or (),
            }
        elif kind == "refusal":
            yield {"type": "text", "text": told.get("refusal")}
        elif kind in ("image_file", "image_url"):
            yield {"type": kind, kind: told.get(kind)}
        else:
            raise Expected(
                f"expected a part of the type text, image_file or image_url, not {json.dumps(kind)[:50]}"
            )


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"'{place}' does not fit: {first['msg']}"
