"""What chat completions answer, put together again: server-sent events, deltas, tool calls, usage.

Pure: bytes and parsed JSON in, a `ModelReply` out. Endpoints differ a lot in what they leave out and repeat;
nothing here trusts a type that it has not looked at. Arguments of tool calls are passed on unread, but for their
length: what no tool takes is kept in part only.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import cast

from treadle.errors import ProviderError
from treadle.objects.message import ToolCall
from treadle.objects.run import Usage
from treadle.providers.base import Emit, FinishReason, ModelReply, TextDelta, ToolCallDelta
from treadle.providers.chat_request import clean_text

DONE = "[DONE]"
MAX_ARGUMENT_CHARACTERS = 1024 * 1024
"""Longer arguments are refused by whoever reads them, so their start is enough."""
MAX_CALLS = 1000
KEPT_CHARACTERS = 16 * 1024

_CONTENTS = frozenset({"delta", "message"})
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
_MAX_COUNT = 2**53
_FINISH: Mapping[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
}
_GAVE_UP = frozenset(
    {
        "error",
        "abort",
        "aborted",
        "cancelled",
        "network_error",
        "insufficient_system_resource",
        "malformed_function_call",
    }
)
"""How gateways and engines say, as a finish reason, that there will be no whole reply."""


def mapping(value: object) -> Mapping[str, object]:
    """Give the value if it is a JSON object, else an empty one."""
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def sequence(value: object) -> Sequence[object]:
    """Give the value if it is a JSON array, else an empty one."""
    return cast("Sequence[object]", value) if isinstance(value, list) else ()


def string(value: object) -> str:
    """Give the value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


class EventParser:
    """Read the data of server-sent events from bytes, wherever these are cut.

    Comments and other fields are left out. Lines end with CR, LF or CRLF; bytes that are no UTF-8 become U+FFFD;
    a byte order mark at the start is dropped.
    """

    def __init__(self) -> None:
        """Start at the head of a stream."""
        self._pending: list[bytes] = []
        self._data: list[str] = []
        self._is_first = True

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes; give the data of the events that they complete."""
        # A CR at the very end waits for the next chunk, which may begin with its LF.
        if not _LINE_END.search(chunk) and not (self._pending and self._pending[-1].endswith(b"\r")):
            self._pending.append(chunk)
            return []
        *whole, rest = _LINE_END.split(b"".join((*self._pending, chunk)))
        self._pending = [rest] if rest else []
        return [data for line in whole for data in self._line(line)]

    def end(self) -> list[str]:
        """Give the event that the end of the stream cut, as far as it came: JSON that is cut does not parse."""
        last = b"".join(self._pending).removesuffix(b"\r")
        return [data for line in (last, b"") for data in self._line(line)]

    def _line(self, line: bytes) -> list[str]:
        if self._is_first:
            line, self._is_first = line.removeprefix(codecs.BOM_UTF8), False
        if not line:
            whole, self._data = self._data, []
            return ["\n".join(whole)] if whole else []
        name, _, value = line.decode("utf-8", "replace").partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return []


class _Text:
    """Text that arrives in pieces: a surrogate pair may be cut between two of them."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._held = ""

    def add(self, piece: str) -> str:
        piece = self._held + piece
        self._held = ""
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            piece, self._held = piece[:-1], piece[-1]
        piece = clean_text(piece)
        self._pieces.append(piece)
        return piece

    def flush(self) -> str:
        rest = clean_text(self._held)
        self._held = ""
        self._pieces.append(rest)
        return rest

    def __str__(self) -> str:
        return "".join(self._pieces)


class _Arguments(_Text):
    """The arguments of a call, kept whole up to a length that no tool takes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._is_closed = False

    def add(self, piece: str) -> str:
        self.size += len(piece)
        if piece and not piece.isspace():
            self._is_closed = piece.rstrip().endswith("}")
        return super().add(piece) if self.size <= MAX_ARGUMENT_CHARACTERS else ""

    @property
    def is_object(self) -> bool:
        """Tell whether what has come is a whole object already; most pieces are told apart by their last character."""
        return self._is_closed and self.size <= MAX_ARGUMENT_CHARACTERS and _is_whole(str(self))

    def __str__(self) -> str:
        if self.size <= MAX_ARGUMENT_CHARACTERS:
            return super().__str__()
        # Invariant: with the mark behind it the text is no JSON, whatever it was: nothing can take it for arguments.
        return f"{super().__str__()[:KEPT_CHARACTERS]}… [cut: {self.size} characters]"


@dataclass(slots=True)
class _Call:
    id: str
    wire_id: str
    name: str = ""
    arguments: _Arguments = field(default_factory=_Arguments)


@dataclass(frozen=True, slots=True)
class _Piece:
    index: int | None
    id: str
    name: str
    arguments: str


class ReplyAssembler:
    """Put one reply together from its chunks, and emit each delta as it comes.

    Rules
    1. The text of the reply is the concatenation of the emitted text deltas.
    2. Calls are numbered in the order in which they first appear, whatever index the endpoint gives them.
    3. A reply has at most 1000 calls; more are no reply that anybody wants carried out (ProviderError).
    4. A stream is whole when it named a finish reason or said that it is done; otherwise it was cut.
    """

    def __init__(self, emit: Emit) -> None:
        """Start with nothing."""
        self._emit = emit
        self._text = _Text()
        self._has_choice = False
        self._calls: list[_Call] = []
        self._places: dict[int, int] = {}
        self._places_by_id: dict[str, int] = {}
        self._taken: set[str] = set()
        self._repeats: dict[str, int] = {}
        self._finish = ""
        self._usage: Mapping[str, object] = {}
        self._model = ""
        self._reply_id = ""
        self.has_emitted = False
        self.is_done = False

    @property
    def is_whole(self) -> bool:
        """Tell whether all of the reply's text has come; the usage may still follow."""
        return self._has_choice and not self.is_failed and (self.is_done or bool(self._finish))

    @property
    def is_failed(self) -> bool:
        """Tell whether the endpoint gave up: some gateways say so in the finish reason."""
        return self._finish.lower() in _GAVE_UP

    @property
    def finish_reason(self) -> str:
        """Give the endpoint's own word for the end, empty where there was none."""
        return self._finish

    @property
    def progress(self) -> str:
        """Say how far the reply has come, for messages."""
        if not self._has_choice:
            return "nothing of the reply had come"
        calls = f" and {len(self._calls)} tool calls" if self._calls else ""
        return f"{len(str(self._text))} characters{calls} had come, and no finish_reason"

    def feed(self, chunk: object) -> None:
        """Take one chunk of a stream, or the whole reply of an endpoint that does not stream."""
        body = mapping(chunk)
        self._model = self._model or string(body.get("model"))
        self._reply_id = self._reply_id or string(body.get("id"))
        self._usage = mapping(body.get("usage")) or self._usage
        for choice in map(mapping, sequence(body.get("choices"))):
            if choice.get("index") in (None, 0):
                self._feed_choice(choice)

    def _feed_choice(self, choice: Mapping[str, object]) -> None:
        delta, message = mapping(choice.get("delta")), mapping(choice.get("message"))
        finish = string(choice.get("finish_reason"))
        self._has_choice = self._has_choice or bool(finish) or not choice.keys().isdisjoint(_CONTENTS)
        for part in (delta, message):
            self._add_content(part.get("content"))
            self._add_text(string(part.get("refusal")))
        for piece in sequence(delta.get("tool_calls")):
            self._add_call(_piece(piece, None))
        for place, piece in enumerate(sequence(message.get("tool_calls"))):
            self._add_call(_piece(piece, place))
        for part in (delta, message):
            if isinstance(part.get("function_call"), dict):
                self._add_call(_piece({"function": part["function_call"]}, 0))
        self._finish = finish or self._finish

    def _add_content(self, content: object) -> None:
        self._add_text(string(content))
        for part in map(mapping, sequence(content)):
            self._add_text(string(part.get("text")))

    def _add_text(self, piece: str) -> None:
        if piece and (text := self._text.add(piece)):
            self._send(TextDelta(text))

    def _send(self, delta: TextDelta | ToolCallDelta) -> None:
        self.has_emitted = True
        self._emit(delta)

    def _add_call(self, piece: _Piece) -> None:
        place = self._known_place(piece)
        is_new = place is None
        if place is None:
            place = self._new_place(piece)
        call = self._calls[place]
        if not is_new and piece.name and _repeats(piece, call):
            return  # The endpoint said the whole call twice.
        if piece.id:
            call.wire_id = call.wire_id or piece.id
            self._places_by_id[call.wire_id] = place
        has_name = _take_name(call, piece.name)
        arguments = call.arguments.add(piece.arguments)
        if is_new or has_name or arguments:
            id_, name = (call.id if is_new else None), (call.name if has_name else None)
            self._send(ToolCallDelta(place, id=id_, name=name, arguments=arguments))

    def _known_place(self, piece: _Piece) -> int | None:
        """Find the call that a piece continues; None where it begins one."""
        if piece.index is not None:
            place = self._places.get(piece.index)
            return place if place is None or not self._is_other(piece, self._calls[place]) else None
        if piece.id:
            place = self._places_by_id.get(piece.id)
            return place if place is None or not self._is_other(piece, self._calls[place]) else None
        return len(self._calls) - 1 if self._calls and not piece.name else None

    @staticmethod
    def _is_other(piece: _Piece, call: _Call) -> bool:
        """Tell whether a piece begins another call, although its index or id is that of this one.

        Some endpoints number every parallel call 0, and some give them all the same id or none.
        """
        if not piece.name:
            return False
        if piece.id and call.wire_id and piece.id != call.wire_id:
            return True
        return (
            piece.arguments.lstrip().startswith("{")
            and not _repeats(piece, call)
            and call.arguments.is_object
        )

    def _new_place(self, piece: _Piece) -> int:
        place = len(self._calls)
        if place >= MAX_CALLS:
            raise ProviderError(f"the reply asks for more than {MAX_CALLS} tool calls at once")
        if piece.index is not None:
            self._places[piece.index] = place
        self._calls.append(_Call(self._free_id(piece.id, place, piece.name), piece.id))
        return place

    def _free_id(self, id_: str, place: int, name: str) -> str:
        wanted = id_
        if not wanted:
            digest = blake2b(f"{self._reply_id}\x00{place}\x00{name}".encode(), digest_size=12).hexdigest()
            wanted = f"call_{digest}"
        number = self._repeats.get(wanted, 1)
        while (free := wanted if number == 1 else f"{wanted}_{number}") in self._taken:
            number += 1
        self._repeats[wanted] = number + 1
        self._taken.add(free)
        return free

    def reply(self, prompt_tokens: Callable[[], int]) -> ModelReply:
        """Give the reply; `prompt_tokens` estimates the prompt where the endpoint did not count it."""
        self._flush()
        text = str(self._text)
        calls = tuple(ToolCall(id=c.id, name=c.name, arguments=str(c.arguments)) for c in self._calls)
        written = [text, *(piece for call in calls for piece in (call.name, call.arguments))]
        return ModelReply(
            text=text if text or not calls else None,
            tool_calls=calls,
            usage=read_usage(self._usage, prompt_tokens, lambda: sum(len(t.encode()) for t in written) // 4),
            finish_reason=_FINISH.get(self._finish.lower(), "tool_calls" if calls else "stop"),
            model=clean_text(self._model) or None,
        )

    def _flush(self) -> None:
        if rest := self._text.flush():
            self._send(TextDelta(rest))
        for place, call in enumerate(self._calls):
            if rest := call.arguments.flush():
                self._send(ToolCallDelta(place, arguments=rest))


def read_usage(raw: Mapping[str, object], prompt: Callable[[], int], completion: Callable[[], int]) -> Usage:
    """Give the usage that the endpoint reported; what is missing or impossible is estimated and marked so."""
    prompt_tokens, completion_tokens = (
        _count(raw.get("prompt_tokens"), 1),
        _count(raw.get("completion_tokens"), 0),
    )
    return Usage(
        prompt_tokens=prompt() if prompt_tokens is None else prompt_tokens,
        completion_tokens=completion() if completion_tokens is None else completion_tokens,
        estimated=prompt_tokens is None or completion_tokens is None,
    )


def _count(value: object, least: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if least <= value <= _MAX_COUNT else None


def _index(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 9:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _piece(value: object, default_index: int | None) -> _Piece:
    piece = mapping(value)
    function = mapping(piece.get("function"))
    index = _index(piece.get("index"))
    return _Piece(
        index=default_index if index is None else index,
        id=clean_text(string(piece.get("id"))),
        name=clean_text(string(function.get("name"))),
        arguments=_written(function.get("arguments")),
    )


def _written(arguments: object) -> str:
    """Give arguments as the text that they should have been: some endpoints send the object itself."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (ValueError, RecursionError):
        return str(type(arguments))


def _repeats(piece: _Piece, call: _Call) -> bool:
    """Tell whether a piece says all that has come of a call once more."""
    return (
        len(piece.arguments) == call.arguments.size
        and piece.arguments == str(call.arguments)
        and _is_whole(piece.arguments)
    )


def _take_name(call: _Call, piece: str) -> bool:
    """Take a piece of a name: the whole name again, the name so far, or its next piece."""
    if not piece or piece == call.name:
        return False
    call.name = piece if piece.startswith(call.name) else call.name + piece
    return True


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False
