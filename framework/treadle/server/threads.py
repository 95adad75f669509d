"""Threads."""

from __future__ import annotations

from treadle import wire
from treadle.server import bodies
from treadle.server.call import Call, paged
from treadle.server.messages import fields_of


async def create(call: Call) -> wire.Json:
    """Make a thread, with its first messages where the body has some."""
    body = call.body(bodies.ThreadCreate)
    thread = await call.treadle.threads.create(
        messages=[fields_of(call, message) for message in body.messages or ()],
        metadata=body.metadata,
        tool_resources=body.tool_resources,
        key=call.key,
    )
    return wire.thread(thread)


async def list_(call: Call) -> wire.Json:
    """Give a page of threads."""
    return await paged(call.page(), lambda page: call.treadle.threads.list(**page._asdict()), wire.thread)


async def get(call: Call) -> wire.Json:
    """Give a thread."""
    return wire.thread(await call.treadle.threads.get(call.id("thread_id")))


async def update(call: Call) -> wire.Json:
    """Change a thread's metadata or its tool resources; what the body leaves out stays."""
    body = call.body(bodies.ThreadUpdate)
    given = body.model_fields_set
    thread = await call.treadle.threads.update(
        call.id("thread_id"),
        metadata=(body.metadata or {}) if "metadata" in given else None,
        tool_resources=(body.tool_resources or {}) if "tool_resources" in given else None,
    )
    return wire.thread(thread)


async def delete(call: Call) -> wire.Json:
    """Delete a thread with all that is in it."""
    thread = await call.treadle.threads.delete(call.id("thread_id"))
    return wire.deleted(thread.id, "thread")
