"""Nodes that compute and choose: set, switch, end, fail. They are instant."""

from __future__ import annotations

import json

from treadle.objects.run import RunError
from treadle.steps.names import evaluate, fill, text
from treadle.steps.node import NodeContext, NodeEffects, NodeKind

FAILED = "failed"


def set_values(context: NodeContext) -> NodeEffects:
    """Give the new values, which are written."""
    values = fill(context.params["set"], context.view)
    return NodeEffects(result=values, writes=values)


def switch(context: NodeContext) -> NodeEffects:
    """Choose the case of a value: the literal that is the same JSON."""
    value = evaluate(context.params["value"], context.view)
    literal = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return NodeEffects(result=value, edge=literal if literal in context.params["cases"] else "default")


def end(context: NodeContext) -> NodeEffects:
    """Give the outputs that stand in place of the workflow's; None where the workflow's own count."""
    outputs = context.params.get("outputs")
    return NodeEffects(result=None if outputs is None else fill(outputs, context.view))


def fail(context: NodeContext) -> NodeEffects:
    """End the run, the branch, the item or the round as failed."""
    message = text(context.params.get("message", ""), context.view)
    code = context.params["error"]
    error = RunError(code=code, message=message or f"the workflow ended with {code}")
    return NodeEffects(status="failed", edge=FAILED, error=error)


SET = NodeKind(set_values)
SWITCH = NodeKind(switch)
END = NodeKind(end)
FAIL = NodeKind(fail)
