"""Append a message to the thread, for a message node."""

from __future__ import annotations

from treadle.objects.message import Message, estimate_tokens
from treadle.steps.names import text
from treadle.steps.node import NodeContext, NodeEffects, NodeKind
from treadle.text import clean, utf8_bytes


def prepare(context: NodeContext) -> NodeEffects:
    """Give the row; its place in the thread is the executor's to say."""
    said = clean(text(context.params["text"], context.view))
    now = context.clock.now_ms()
    row = Message(
        tenant=context.run.tenant,
        thread_id=context.run.thread_id,
        role=context.params.get("role", "assistant"),
        text=said,
        tokens=estimate_tokens(utf8_bytes(said)),
        run_id=context.run.id,
        created_ms=now,
        completed_ms=now,
    )
    return NodeEffects(result={"text": said}, message=row)


KIND = NodeKind(prepare)
