"""The verbs on messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from treadle.errors import Repeated, StateError, ThreadBusy
from treadle.objects.message import ContentPart, Message, TextPart, estimate_tokens
from treadle.service.requests import request_of
from treadle.service.threads import append
from treadle.store.base import Order
from treadle.text import is_sound

if TYPE_CHECKING:
    from treadle.service import Treadle

_parts: TypeAdapter[tuple[ContentPart, ...]] | None = None


class Messages:
    """Create, get, list and annotate messages."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    def draft(
        self,
        thread_id: str,
        *,
        role: Literal["user", "assistant"] = "user",
        content: str | Sequence[Mapping[str, Any]],
        attachments: Sequence[Mapping[str, Any]] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Message:
        """Make a message that is not stored yet.

        Shapes: content is a text, or parts: ``{"type": "text", "text": …}``, ``{"type": "image_url",
        "image_url": {"url": …}}``, ``{"type": "image_file", "image_file": {"file_id": …}}``.

        Errors: StateError for an empty message, another role, or content that is none of these.
        """
        treadle = self._treadle
        if role not in ("user", "assistant"):
            raise StateError(f"a message's role is user or assistant, not '{role}'")
        text, parts = _content(content)
        treadle.images.check(parts)
        now = treadle.clock.now_ms()
        size = (
            len(text.encode())
            if text is not None
            else sum(len(p.text.encode()) for p in parts if isinstance(p, TextPart))
        )
        return Message(
            tenant=treadle.tenant,
            thread_id=thread_id,
            role=role,
            text=text,
            parts=parts,
            tokens=estimate_tokens(size, images=sum(not isinstance(p, TextPart) for p in parts)),
            created_ms=now,
            completed_ms=now,
            attachments=tuple(dict(a) for a in attachments),
            metadata=dict(metadata or {}),
        )

    async def create(
        self,
        thread_id: str,
        *,
        role: Literal["user", "assistant"] = "user",
        content: str | Sequence[Mapping[str, Any]],
        attachments: Sequence[Mapping[str, Any]] = (),
        metadata: Mapping[str, Any] | None = None,
        on_busy: Literal["reject", "queue"] | None = None,
        key: str | None = None,
    ) -> Message:
        """Append a message to a thread; it is durable when this returns.

        Shapes: while a run is active the message is refused, or with `on_busy="queue"` waits: its `seq` is 0 until
        the runs before it have ended, its id stays. Without it the project's rule holds. `key` is the client's own:
        the same under the same key gives the first message again, for a day.

        Errors: NotFound for the thread; ThreadBusy while a run is active; StateError as `draft`; Conflict for a key that
        stands for something else.
        """
        treadle = self._treadle
        draft = self.draft(thread_id, role=role, content=content, attachments=attachments, metadata=metadata)
        asked = {
            "thread": thread_id, "role": role, "content": content, "attachments": attachments,
            "metadata": metadata or {},
        }  # fmt: skip
        request = request_of(key, "message", asked, now_ms=treadle.clock.now_ms())
        in_line = (on_busy or treadle.project.defaults.on_busy) == "queue"
        try:
            if request is not None:
                await treadle.store.asked(treadle.tenant, request)
            (stored,) = await append(treadle, thread_id, draft, in_line=in_line, request=request)
        except Repeated as e:
            return await self.get(e.object_id)
        except ThreadBusy:
            run_id = await treadle.store.active_run(treadle.tenant, thread_id)
            raise ThreadBusy(
                f"Can't add messages to {thread_id} while a run {run_id} is active.",
                hint="wait for the run, or cancel it",
                status="active",
                event="message",
            ) from None
        assert isinstance(stored, Message)
        return stored

    async def get(self, message_id: str) -> Message:
        """Give a message.

        Errors: NotFound.
        """
        return await self._treadle.store.get(Message, self._treadle.tenant, message_id)

    async def list(
        self,
        thread_id: str,
        *,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
        run_id: str | None = None,
    ) -> list[Message]:
        """Give a page of a thread's messages, the newest first: user and assistant rows that say something.

        Errors: NotFound for the thread.
        """
        treadle = self._treadle
        return await treadle.store.list(
            Message,
            treadle.tenant,
            parent=thread_id,
            limit=limit,
            order=order,
            after=after,
            before=before,
            run=run_id,
        )

    async def delete(self, message_id: str) -> Message:
        """Take a message away: no list shows it and no model is sent it any more.

        Errors: NotFound; ThreadBusy while a run of its thread is active.
        """
        treadle = self._treadle
        found = await self.get(message_id)
        try:
            await treadle.store.delete(treadle.tenant, found, now_ms=treadle.clock.now_ms())
        except ThreadBusy:
            if not await treadle.keeper.is_freed(treadle.tenant, found.thread_id):
                raise
            await treadle.store.delete(treadle.tenant, found, now_ms=treadle.clock.now_ms())
        return found

    async def update(self, message_id: str, *, metadata: Mapping[str, Any]) -> Message:
        """Replace a message's metadata.

        Errors: NotFound.
        """
        changed = (await self.get(message_id)).model_copy(update={"metadata": dict(metadata)})
        await self._treadle.store.replace(self._treadle.tenant, changed)
        return changed


def _content(content: str | Sequence[Mapping[str, Any]]) -> tuple[str | None, tuple[ContentPart, ...]]:
    """Give the text of a plain message, or its parts.

    Errors: StateError.
    """
    if isinstance(content, str):
        text, parts = content, ()
    else:
        text, parts = None, _read_parts(content)
        if len(parts) == 1 and isinstance(parts[0], TextPart) and not parts[0].annotations:
            text, parts = parts[0].text, ()
    texts = [text] if text is not None else [p.text for p in parts if isinstance(p, TextPart)]
    if not parts and not (text and text.strip()):
        raise StateError("a message needs content", hint="give a text, or a list of content parts")
    if not all(is_sound(t) for t in texts):
        raise StateError(
            "a message's text has half a character (a lone surrogate) or a NUL", hint="clean the text first"
        )
    return text, parts


def _read_parts(content: Sequence[Mapping[str, Any]]) -> tuple[ContentPart, ...]:
    global _parts
    if _parts is None:
        _parts = TypeAdapter(tuple[ContentPart, ...])
    try:
        return _parts.validate_python([dict(p) for p in content])
    except (ValidationError, TypeError, ValueError) as e:
        said = e.errors()[0]["msg"] if isinstance(e, ValidationError) else str(e)
        raise StateError(
            f"a content part does not fit: {said}", hint="types: text, image_url, image_file"
        ) from e
