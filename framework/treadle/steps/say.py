"""Append a message to the thread, for a message node."""

from __future__ import annotations

from treadle.objects.message import Message, estimate_tokens
from treadle.steps.child import further_thread
from treadle.steps.names import text
from treadle.steps.node import NodeContext, NodeEffects, NodeKind
from treadle.text import clean, utf8_bytes


def prepare(context: NodeContext) -> NodeEffects:
    """Give the row; its place in the thread is the executor's to say."""
    said = clean(text(context.params["text"], context.view))
    now = context.clock.now_ms()
    run, name = context.run, context.params.get("thread", "shared")
    on = run.thread_id if name == "shared" else further_thread(run.id, name)
    row = Message(
        tenant=run.tenant,
        thread_id=on,
        role=context.params.get("role", "assistant"),
        text=said,
        tokens=estimate_tokens(utf8_bytes(said)),
        # A further thread is the user's as well: what stands there is nobody's run.
        run_id=run.id if name == "shared" else None,
        created_ms=now,
        completed_ms=now,
    )
    return NodeEffects(result={"text": said}, message=row)


KIND = NodeKind(prepare)
