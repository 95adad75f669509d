"""A provider that answers from a list: for tests, load tests and examples that show one certain course.

The list is given in Python, or, in a document, as `replies` among the model's extra options, where `delay` (``50ms``)
says how long each of them takes. It invents nothing: where the list ends, or an entry has another form, the call
fails and says which entry it was.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from treadle.errors import ContextLengthError, ProviderError
from treadle.objects.image import images_of
from treadle.objects.message import ToolCall
from treadle.objects.record import parse_duration
from treadle.objects.run import Usage
from treadle.providers.base import (
    Emit,
    Endpoint,
    FinishReason,
    ModelReply,
    ModelRequest,
    TextDelta,
    ToolCallDelta,
)

DESCRIPTION: Final = "scripted: answers from a list"

ScriptEntry: TypeAlias = ModelReply | str | Mapping[str, Any] | ProviderError
"""One reply of a script.

Shapes: a ready reply; a text; an error to raise; or a mapping with one of `text`, `json`, `calls`
(`calls` may come with `text`), `error`, and optionally `usage` and `finish_reason`.
"""

Script: TypeAlias = Sequence[ScriptEntry] | Callable[[ModelRequest], ScriptEntry]
"""Replies in order, or a function that gives the reply to a request."""

_FORMS = (
    "a text, {text: …}, {json: …}, {calls: [{name: …, arguments: {…}}]} or {error: {kind: …, message: …}}"
)
_KEYS = ("text", "json", "calls", "error", "usage", "finish_reason")
_CALL_KEYS = ("name", "arguments", "id")
_ERROR_KEYS = ("kind", "message", "status", "retryable", "retry_after_s")
_USAGE_KEYS = ("prompt_tokens", "completion_tokens")
_FINISH_REASONS = ("stop", "tool_calls", "length", "content_filter")
_RETRYABLE = re.compile(r"rate_limit|timeout|connection|http_5\w\w|http_429")
_IMAGE_BYTES = 4000
"""An image costs as much as so many bytes of text."""
_PIECE = re.compile(r"\s*\S+\s*|\s+")


class ScriptedProvider:
    """Answer every call with the next entry of a list."""

    def __init__(
        self, source: Endpoint | Script | None = None, *, delay_s: float = 0, record: bool = False
    ) -> None:
        """Take the script, or none: then each request brings it as `options.extra["replies"]`.

        Shapes: a list is used up over the provider's life, whoever calls; the replies of a request are
        indexed by the assistant rows of its window. With `record`, `requests` keeps what was asked.
        Units: `delay_s` seconds that every call takes.
        """
        script = None if source is None or isinstance(source, Endpoint) else source
        self._decide = script if callable(script) else None
        self._left = None if script is None or callable(script) else deque(script)
        self._count = 0 if self._left is None else len(self._left)
        self._delay_s = delay_s
        self._record = record
        self.requests: list[ModelRequest] = []

    @property
    def remaining(self) -> int | None:
        """Give how many replies of the list are left; None where there is no list."""
        return None if self._left is None else len(self._left)

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Give the next reply.

        Errors: ProviderError where the script says so, is used up, or has an entry of another form.
        """
        if self._record:
            self.requests.append(request)
        # Invariant: the entry is taken before the wait, so that concurrent calls get them in calling order.
        entry, place = self._next(request)
        delay_s = self._delay_s or _delay_of(request)
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        if isinstance(entry, ModelReply):
            _emit_whole(entry, emit)
            return entry
        reply = _read(entry, place, request)
        _emit_pieces(reply, emit)
        return reply

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def _next(self, request: ModelRequest) -> tuple[ScriptEntry, str]:
        if self._decide is not None:
            return self._decide(request), "the script's reply"
        if self._left is not None:
            try:
                entry = self._left.popleft()
            except IndexError:
                raise _used_up(self._count, self._count + 1) from None
            if isinstance(entry, ModelReply):
                return entry, ""
            return entry, f"replies[{self._count - len(self._left) - 1}]"
        return _from_options(request)


def _from_options(request: ModelRequest) -> tuple[ScriptEntry, str]:
    replies = request.options.extra.get("replies")
    if replies is None:
        raise ProviderError(
            "the scripted model has no script",
            hint="give model.options.extra.replies in the document, or ScriptedProvider([...]) in Python",
        )
    if not isinstance(replies, (list, tuple)):
        raise _malformed("replies", "a list", cast("object", replies))
    entries = cast("Sequence[ScriptEntry]", replies)
    index = sum(1 for m in request.messages if m.role == "assistant")
    if index >= len(entries):
        raise _used_up(len(entries), index + 1)
    return entries[index], f"replies[{index}]"


def _delay_of(request: ModelRequest) -> float:
    """Give the seconds that a reply of a document's script takes."""
    delay: object = request.options.extra.get("delay")
    if delay is None:
        return 0.0
    try:
        return parse_duration(delay)
    except ValueError as e:
        raise ProviderError(
            f"delay of the script: {e}", hint="options.extra.delay is a time such as 50ms"
        ) from e


def _used_up(count: int, asked: int) -> ProviderError:
    have = {0: "no reply", 1: "1 reply"}.get(count, f"{count} replies")
    return ProviderError(
        f"the script has {have} and call {asked} was made",
        hint="add a reply, or find out why the model is asked again",
    )


def _malformed(place: str, expected: str, found: object) -> ProviderError:
    shown = repr(found)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    return ProviderError(
        f"{place} of the script must be {expected}, not {shown}", hint=f"a reply is {_FORMS}"
    )


def _read(entry: object, place: str, request: ModelRequest) -> ModelReply:
    if isinstance(entry, ModelReply):
        return entry
    if isinstance(entry, ProviderError):
        raise entry
    if isinstance(entry, str):
        return _with_usage(ModelReply(text=entry), request)
    if not isinstance(entry, Mapping):
        raise _malformed(place, _FORMS, entry)
    fields = _fields(cast("object", entry), place, _KEYS)
    if "error" in fields:
        raise _error(fields["error"], f"{place}.error")
    if not fields.keys() & {"text", "json", "calls"} or {"text", "json"} <= fields.keys():
        raise _malformed(place, "one of text, json, calls (with or without text) or error", dict(fields))
    text = json.dumps(fields["json"], ensure_ascii=False) if "json" in fields else fields.get("text")
    if text is not None and not isinstance(text, str):
        raise _malformed(f"{place}.text", "a string", text)
    calls = _calls(fields.get("calls", ()), f"{place}.calls", request)
    reply = ModelReply(
        text=text,
        tool_calls=calls,
        finish_reason=_finish(fields, place, has_calls=bool(calls)),
        model=request.model,
    )
    if "usage" not in fields:
        return _with_usage(reply, request)
    return ModelReply(
        text=text,
        tool_calls=calls,
        usage=_usage(fields["usage"], f"{place}.usage"),
        finish_reason=reply.finish_reason,
        model=reply.model,
    )


def _fields(value: object, place: str, allowed: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _malformed(place, f"a mapping with {', '.join(allowed)}", value)
    fields = cast("Mapping[str, Any]", value)
    for key in fields:
        if key not in allowed:
            raise _malformed(f"{place}.{key}", f"one of {', '.join(allowed)}", key)
    return fields


def _calls(value: object, place: str, request: ModelRequest) -> tuple[ToolCall, ...]:
    if not isinstance(value, (list, tuple)):
        raise _malformed(place, "a list of {name, arguments}", value)
    made = sum(len(m.tool_calls) for m in request.messages)
    calls: list[ToolCall] = []
    for index, item in enumerate(cast("Sequence[object]", value)):
        fields = _fields(item, f"{place}[{index}]", _CALL_KEYS)
        name, arguments = fields.get("name"), fields.get("arguments", {})
        if not isinstance(name, str) or not name:
            raise _malformed(f"{place}[{index}].name", "the name of a tool", name)
        # A text is sent as it is, so that a script can show arguments that are no JSON.
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(
            ToolCall(id=str(fields.get("id", f"call_{made + index + 1}")), name=name, arguments=text)
        )
    return tuple(calls)


def _finish(fields: Mapping[str, Any], place: str, *, has_calls: bool) -> FinishReason:
    reason = fields.get("finish_reason", "tool_calls" if has_calls else "stop")
    if reason not in _FINISH_REASONS:
        raise _malformed(f"{place}.finish_reason", f"one of {', '.join(_FINISH_REASONS)}", reason)
    return reason


def _usage(value: object, place: str) -> Usage | None:
    if value is None:
        return None
    fields = _fields(value, place, _USAGE_KEYS)
    for key, number in fields.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise _malformed(f"{place}.{key}", "a number of tokens", number)
    return Usage(
        prompt_tokens=fields.get("prompt_tokens", 0), completion_tokens=fields.get("completion_tokens", 0)
    )


def _error(value: object, place: str) -> ProviderError:
    fields = _fields(value, place, _ERROR_KEYS)
    kind, message = str(fields.get("kind", "model_error")), str(fields.get("message", "the script says no"))
    status = fields.get("status")
    if kind == "context_length":
        return ContextLengthError(message, status=status)
    return ProviderError(
        message,
        kind=kind,
        status=status,
        retryable=bool(fields.get("retryable", _RETRYABLE.fullmatch(kind) is not None)),
        retry_after_s=fields.get("retry_after_s"),
    )


def _with_usage(reply: ModelReply, request: ModelRequest) -> ModelReply:
    sent = len(request.instructions.encode(errors="replace"))
    sent += sum(len(m.plain.encode(errors="replace")) for m in request.messages)
    sent += sum(_IMAGE_BYTES for m in request.messages for _ in images_of(m))
    written = len((reply.text or "").encode(errors="replace"))
    written += sum(len(c.name) + len(c.arguments.encode(errors="replace")) for c in reply.tool_calls)
    return ModelReply(
        text=reply.text,
        tool_calls=reply.tool_calls,
        usage=Usage(prompt_tokens=-(-sent // 4), completion_tokens=-(-written // 4), estimated=True),
        finish_reason=reply.finish_reason,
        model=request.model,
    )


def _emit_whole(reply: ModelReply, emit: Emit) -> None:
    if reply.text:
        emit(TextDelta(reply.text))
    for index, call in enumerate(reply.tool_calls):
        emit(ToolCallDelta(index, call.id, call.name, call.arguments))


def _emit_pieces(reply: ModelReply, emit: Emit) -> None:
    for piece in _PIECE.findall(reply.text or ""):
        emit(TextDelta(piece))
    for index, call in enumerate(reply.tool_calls):
        half = len(call.arguments) // 2
        emit(ToolCallDelta(index, call.id, call.name, call.arguments[:half]))
        emit(ToolCallDelta(index, arguments=call.arguments[half:]))
