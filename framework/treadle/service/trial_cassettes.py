"""Cassettes: conversations with a model that were recorded once, to be replayed without it.

A cassette has the replies, and of each request digests that tell whether it is the same again, and where it differs. It
never has an address, a header, a key, or the request itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, ValidationError

from treadle.errors import ConfigurationError, ProviderError
from treadle.objects.message import Message, ToolCall
from treadle.objects.record import Record
from treadle.objects.run import Usage
from treadle.providers.base import FinishReason, ModelReply, ModelRequest

FORMAT: Final = 1
_PLAIN = re.compile(r"[^A-Za-z0-9_.-]+")
_MOST_CHARS = 80
_DIGEST_CHARS = 16


class Asked(Record):
    """What a model was asked, as digests: of its instructions, tools and settings, and of each message."""

    instructions: str
    tools: str
    settings: str
    messages: tuple[str, ...]

    @classmethod
    def of(cls, request: ModelRequest) -> Self:
        """Give the digests of a request; the model's name and ids are no part of it."""
        options = request.options.model_dump(mode="json", exclude_defaults=True)
        tools = [[t.name, t.description, t.parameters, t.strict] for t in request.tools]
        settings = [request.tool_choice, options, request.output_schema, request.output_strict]
        return cls(
            instructions=_digest(request.instructions),
            tools=_digest(tools),
            settings=_digest(settings),
            messages=tuple(f"{m.role} {_digest(_said(m))}" for m in request.messages),
        )

    def difference(self, other: Asked) -> str:
        """Say in words where another request is not this one."""
        for part in ("instructions", "tools", "settings"):
            if getattr(self, part) != getattr(other, part):
                return f"its {part} are other ones"
        for n, (mine, others) in enumerate(zip(self.messages, other.messages, strict=False), 1):
            if mine != others:
                return f"message {n} ({others.partition(' ')[0]}) is another one"
        return f"it has {len(other.messages)} messages and had {len(self.messages)}"


class Answered(Record):
    """What a model replied."""

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    finish_reason: FinishReason = "stop"
    model: str | None = None

    @classmethod
    def of(cls, reply: ModelReply) -> Self:
        """Take what a provider gave."""
        return cls(
            text=reply.text,
            tool_calls=reply.tool_calls,
            usage=reply.usage,
            finish_reason=reply.finish_reason,
            model=reply.model,
        )

    @property
    def reply(self) -> ModelReply:
        """Give it as a provider does."""
        return ModelReply(self.text, self.tool_calls, self.usage, self.finish_reason, self.model)


class Exchange(Record):
    """One call of a model."""

    asked: Asked
    reply: Answered


class Cassette(Record):
    """The conversations of one test: one for each time that it is repeated."""

    format: int = FORMAT
    document: str | None = None
    test: str
    conversations: tuple[tuple[Exchange, ...], ...] = Field(min_length=1)


def path_of(document: Path, *, name: str | None, test: str, nth: int = 1) -> Path:
    """Give the file of a test's cassette, beside its document.

    Shapes: `name` is that of the document, for a file that declares several; `nth` counts the tests of that name.
    """
    words = f"{name}.{test}" if name else test
    plain = _PLAIN.sub("-", words).strip("-.")[:_MOST_CHARS] or "test"
    if plain != words.replace(" ", "-"):
        plain = f"{plain}-{_digest(words)[:8]}"
    number = f"-{nth}" if nth > 1 else ""
    return document.with_name(f"{document.name}.cassettes") / f"{plain}{number}.json"


def load(path: Path) -> Cassette:
    """Read a cassette.

    Errors: ConfigurationError for a file that is none.
    """
    hint = "record it again: treadle test --record"
    try:
        found = Cassette.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as e:
        first = e.errors()[0]["msg"] if isinstance(e, ValidationError) else str(e)
        raise ConfigurationError(f"{path} is no cassette: {first}", hint=hint) from e
    if found.format != FORMAT:
        raise ConfigurationError(f"{path} has the format {found.format}, not {FORMAT}", hint=hint)
    return found


def keep(cassette: Cassette, path: Path, *, secrets: Iterable[str]) -> None:
    """Write a cassette, whole or not at all.

    Errors: ConfigurationError where a reply says a secret, and where it cannot be written.
    """
    text = f"{cassette.model_dump_json(exclude_defaults=True, indent=2)}\n"
    if any(secret in text or json.dumps(secret)[1:-1] in text for secret in secrets):
        raise ConfigurationError(
            "a reply of the model repeats a key or a header of its connection: it is not kept",
            hint="find out how the model came to know it",
        )
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as e:
        raise ConfigurationError(f"the cassette {path} cannot be written: {e.strerror or e}") from e


class Player:
    """Replays a conversation: each request gets the reply that the same request got."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        """Take what was recorded."""
        self._left = list(exchanges)
        self._count = len(exchanges)

    def reply(self, request: ModelRequest) -> ModelReply:
        """Give the reply to a request; of equal ones the first, so that branches may ask in any order.

        Errors: ProviderError for a request that was not recorded.
        """
        asked = Asked.of(request)
        for place, exchange in enumerate(self._left):
            if exchange.asked == asked:
                return self._left.pop(place).reply.reply
        hint = "where the change is meant, record it again: treadle test --record"
        if not self._left:
            raise ProviderError(f"the cassette has {self._count} replies, and more are asked for", hint=hint)
        number = self._count - len(self._left) + 1
        difference = self._left[0].asked.difference(asked)
        raise ProviderError(f"model call {number} is not the one of the cassette: {difference}", hint=hint)

    @property
    def left(self) -> int:
        """Give how many replies nobody asked for."""
        return len(self._left)


def _said(message: Message) -> Mapping[str, Any]:
    return {
        "text": message.text,
        "parts": [p.model_dump(mode="json") for p in message.parts],
        "calls": [[c.name, c.arguments] for c in message.tool_calls],
        "index": message.call_index,
    }


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_CHARS]
