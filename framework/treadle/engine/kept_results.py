"""Take the result of an earlier visit again, where a node says that the same key gives the same result."""

from __future__ import annotations

import hashlib
import json

from treadle.objects.record import parse_duration
from treadle.steps.leaving import Left
from treadle.steps.names import text
from treadle.steps.node import NodeContext, NodeEffects
from treadle.store.base import Cached, Store

NOTE = "kept from an earlier visit"


async def earlier(store: Store, context: NodeContext) -> NodeEffects | None:
    """Give the result of an earlier visit; None where there is none, or the node keeps none.

    Errors: StoreError; DefinitionError for a key that cannot be rendered.
    """
    if context.begun is not None or (key := _key(context)) is None:
        return None
    found = await store.cached(context.run.tenant, key, now_ms=context.clock.now_ms())
    return None if found is None else NodeEffects(result=json.loads(found), note=NOTE)


def to_keep(context: NodeContext, left: Left) -> Cached | None:
    """Give what is kept of a result for later visits; None where nothing is."""
    if left.error is not None or left.note is not None or (key := _key(context)) is None:
        return None
    until_ms = context.clock.now_ms() + int(parse_duration(context.params["cache"]["ttl"]) * 1000)
    return Cached(key, json.dumps(left.result), until_ms)


def _key(context: NodeContext) -> str | None:
    cache = context.params.get("cache")
    if cache is None:
        return None
    # The node as it is declared counts: a changed node gives other results.
    said = [context.run.agent_id, context.node.to_json(), text(cache["key"], context.view)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
