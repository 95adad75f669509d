"""What stands in for the nodes of a workflow while it is tested."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from treadle.definition.document import is_mapping
from treadle.graph.nodes import StepGraph
from treadle.service.trial_mocks import Given, Mocks
from treadle.steps.node import NodeEffects, StandIn, failed

OUTSIDE: Final = ("agent", "prompt", "tool", "code", "map", "loop", "wait", "workflow", "human")
"""The types of nodes that a test may stand in for: those that reach outside, take time, or hold such nodes."""

_PLACE = re.compile(r"#\d+|\[\d+\]|/\d+$")


def names_of(node: str) -> tuple[str, ...]:
    """Give the names by which a test may call a node: its id, and for one in a body its id there."""
    short = node.rpartition("/")[2]
    return (node,) if short == node else (node, short)


def node_of(path: str) -> str:
    """Give the id of the node whose step, or whose function's call, has a path."""
    return _PLACE.sub("", path)


def mocked_nodes(graph: StepGraph, mocks: Mocks) -> frozenset[str]:
    """Give the nodes of a graph that a test stands in for."""
    return frozenset(
        node.id for node in graph.nodes if any(mocks.names("nodes", name) for name in names_of(node.id))
    )


def stood_in(graph: StepGraph, mocks: Mocks) -> StandIn:
    """Give what is asked before each node of a graph is executed."""
    types = {node.id: str(node.params["type"]) for node in graph.nodes}

    def effects(node: str, path: str) -> NodeEffects | None:
        name = next((n for n in names_of(node) if mocks.names("nodes", n)), None)
        if name is None:
            return None
        type_ = types[node]
        if type_ not in OUTSIDE:
            message = f"node {node} is a {type_}: it reaches nothing outside, so nothing can stand for it"
            return _refused(mocks, name, message)
        given = mocks.node(name)
        if given is None:
            mocks.miss("nodes", name, f"node {node} was entered ({path})")
            return failed("code_error", "the test has no answer for this node")
        return _effects(type_, given)

    return effects


def _refused(mocks: Mocks, name: str, message: str) -> NodeEffects:
    mocks.refuse("nodes", name, message)
    return failed("code_error", message)


def _effects(type_: str, given: Given) -> NodeEffects:
    if given.error is not None:
        return failed(given.error.type, given.error.message or "the test says no")
    return NodeEffects(result=completed(type_, given.value))


def completed(type_: str, value: Any) -> Any:
    """Give a result with the parts that every node of its type gives, and that the test left out."""
    if not is_mapping(value):
        return value
    if type_ in ("agent", "prompt"):
        return _said(type_, value)
    if type_ == "human":
        return {
            "decision": None,
            "choice": None,
            "value": None,
            "comment": None,
            "by": "test",
            "at": 0,
        } | value
    if type_ == "map":
        collected: dict[str, Any] = {"collected": [], "errors": [], "merged": {}}
        return collected | value
    return value


def _said(type_: str, value: Mapping[str, Any]) -> dict[str, Any]:
    text, output = value.get("text"), value.get("output")
    if text is None:
        text = "" if output is None else output if isinstance(output, str) else json.dumps(output)
    said: dict[str, Any] = {
        "text": text,
        "output": text,
        "usage": {"prompt_tokens": 0, "completion_tokens": 0},
    }
    if type_ == "agent":
        said |= {
            "messages": [{"role": "assistant", "content": text}],
            "run_id": "",
            "status": "completed",
        }
    return said | dict(value)
