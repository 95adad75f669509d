"""The message: one row of a thread, whoever wrote it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from treadle.objects.record import Metadata, Record

Role = Literal["user", "assistant", "tool"]
MessageStatus = Literal["in_progress", "incomplete", "completed"]


class TextPart(Record):
    """Text, with the notes that point into it."""

    type: Literal["text"] = "text"
    text: str
    annotations: tuple[dict[str, Any], ...] = ()


class ImageFile(Record):
    """An image among the stored files."""

    file_id: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImageFilePart(Record):
    """An image of the store."""

    type: Literal["image_file"] = "image_file"
    image_file: ImageFile


class ImageUrl(Record):
    """An image by address; data URLs carry it along."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImageUrlPart(Record):
    """An image by address."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImageFilePart | ImageUrlPart, Field(discriminator="type")]


class ToolCall(Record):
    """A call that an assistant row asks for; `arguments` is the model's text, unread."""

    id: str
    name: str
    arguments: str


class Message(Record):
    """One row of a thread.

    A row has the role user, assistant or tool. An assistant row may ask for tools; a tool row carries the one
    result of one call: `reply_seq` is the row that asked and `call_index` the place of the call in it.

    Shapes: the store gives the id, made from thread and seq; rows that no list shows have none. `text` is the
    content where it is a single text part without annotations, else `parts` has it.
    Units: `tokens` is an estimate of what the row costs when it is sent.
    Wire: ``GET /threads/{thread_id}/messages/{id}``.
    """

    id: str = ""
    tenant: str = "default"
    thread_id: str
    seq: int = 0
    role: Role
    text: str | None = None
    parts: tuple[ContentPart, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reply_seq: int | None = None
    call_index: int | None = None
    status: MessageStatus = "completed"
    incomplete_reason: str | None = None
    tokens: int = 0
    run_id: str | None = None
    agent_id: str | None = None
    created_ms: int
    completed_ms: int | None = None
    attachments: tuple[dict[str, Any], ...] = ()
    metadata: Metadata = Field(default_factory=dict)
    is_deleted: bool = False
    """Whether it was deleted: its place and the calls that it asked for stay, its content is gone."""

    @property
    def content(self) -> tuple[TextPart | ImageFilePart | ImageUrlPart, ...]:
        """Give the content as parts."""
        if self.text is not None:
            return (TextPart(text=self.text),)
        return self.parts

    @property
    def plain(self) -> str:
        """Give the text of the content; other parts are left out."""
        if self.text is not None:
            return self.text
        return "\n".join(p.text for p in self.parts if isinstance(p, TextPart))

    @property
    def is_listed(self) -> bool:
        """Tell whether lists of the thread show the row: user and assistant rows that say something."""
        return self.role != "tool" and (self.text is not None or bool(self.parts))


def estimate_tokens(text_bytes: int, images: int = 0) -> int:
    """Estimate what a row costs: a token per four bytes of UTF-8, four per message, a thousand per image."""
    return text_bytes // 4 + 4 + 1000 * images
