"""Messages of a thread."""

from __future__ import annotations

from typing import Any

from treadle import wire
from treadle.errors import NotFound
from treadle.objects.message import Message
from treadle.server import bodies
from treadle.server.call import Call, paged
from treadle.server.problems import Problem


async def create(call: Call) -> wire.Json:
    """Add a message to a thread."""
    body = call.body(bodies.MessageCreate)
    thread_id = call.id("thread_id")
    await call.check_length(thread_id)
    message = await call.treadle.messages.create(
        thread_id, **fields_of(call, body), key=call.key, on_busy=call.on_busy
    )
    return wire.message(message)


async def list_(call: Call) -> wire.Json:
    """Give a page of a thread's messages, those of one run where `run_id` names it."""
    thread_id, run_id = call.id("thread_id"), call.asked("run_id")
    return await paged(
        call.page(),
        lambda page: call.treadle.messages.list(thread_id, run_id=run_id, **page._asdict()),
        wire.message,
    )


async def get(call: Call) -> wire.Json:
    """Give a message."""
    return wire.message(await found(call))


async def update(call: Call) -> wire.Json:
    """Change a message's metadata."""
    body = call.body(bodies.MetadataUpdate)
    message = await found(call)
    if "metadata" in body.model_fields_set:
        message = await call.treadle.messages.update(message.id, metadata=body.metadata or {})
    return wire.message(message)


async def delete(call: Call) -> wire.Json:
    """Delete a message."""
    message = await found(call)
    await call.treadle.messages.delete(message.id)
    return wire.deleted(message.id, "thread.message")


async def found(call: Call) -> Message:
    """Give the message that the path names.

    Errors: NotFound, also for a message of another thread.
    """
    message_id = call.id("message_id")
    message = await call.treadle.messages.get(message_id)
    if message.thread_id != call.id("thread_id"):
        raise NotFound("message", message_id)
    return message


def fields_of(call: Call, body: bodies.MessageCreate) -> dict[str, Any]:
    """Give what a message is made of, as the verbs take it.

    Errors: Problem for a text that is too long.
    """
    content: Any = body.content
    texts = (
        [content] if isinstance(content, str) else [p.text for p in content if isinstance(p, bodies.TextPart)]
    )
    length, most = sum(map(len, texts)), call.server.spec.limits.message_chars
    if length > most:
        raise Problem(
            400,
            f"Invalid 'content': string too long. Expected at most {most} characters, got {length}.",
            param="content",
            code="string_above_max_length",
        )
    if not isinstance(content, str):
        content = [part.model_dump() for part in content]
    attachments = [a.model_dump(exclude_none=True) for a in body.attachments or ()]
    return {"role": body.role, "content": content, "attachments": attachments, "metadata": body.metadata}
