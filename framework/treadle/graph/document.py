"""Write records back as documents: plain data that the loader reads to equal records.

What equals its default is left out, but where its presence says something.
"""

from __future__ import annotations

from typing import Any

from treadle.definition import template
from treadle.errors import GraphError
from treadle.objects.agent import AgentSpec, InputSpec
from treadle.objects.record import Record
from treadle.objects.tool import FunctionTool
from treadle.objects.workflow import (
    ErrorRoute,
    HumanNode,
    LoopNode,
    MapNode,
    NodeSpec,
    ParallelNode,
    PromptNode,
    StepNode,
    SwitchNode,
    ToolNode,
    WorkflowSpec,
)


def record_document(record: Record) -> dict[str, Any]:
    """Give a record as a document writes it."""
    if isinstance(record, FunctionTool):
        return {"type": "function", **_dumped(record)}
    if isinstance(record, InputSpec):
        return _dumped(record) | ({"default": record.default} if record.has_default else {})
    if isinstance(record, ErrorRoute):
        return _error_route(record)
    return _dumped(record)


def workflow_document(spec: WorkflowSpec) -> dict[str, Any]:
    """Give a workflow as its document; the cases of switches stay JSON texts."""
    nested = {"inputs", "tools", "nodes", "extensions"}
    out = {"kind": "workflow", **_dumped(spec, without=nested)}
    if spec.inputs:
        out["inputs"] = {name: record_document(one) for name, one in spec.inputs.items()}
    if spec.tools:
        out["tools"] = [record_document(tool) for tool in spec.tools]
    out["nodes"] = {id_: node_document(node) for id_, node in spec.nodes.items()}
    return out | spec.extensions


def node_document(node: NodeSpec) -> dict[str, Any]:
    """Give a node as its document, with its body."""
    out = _dumped(node, without={"nodes", "node", "on_error", "tool"})
    if isinstance(node, StepNode | SwitchNode | ParallelNode) and node.on_error:
        out["on_error"] = [_error_route(route) for route in node.on_error]
    match node:
        case ToolNode():
            out["tool"] = node.tool if isinstance(node.tool, str) else record_document(node.tool)
        case PromptNode() if node.prompt is None:
            out.setdefault("messages", [])
        case HumanNode():
            _human(node, out)
        case LoopNode():
            out["nodes"] = {id_: node_document(inner) for id_, inner in node.nodes.items()}
        case MapNode() if node.node is not None:
            out["node"] = node_document(node.node)
        case MapNode() if node.workflow is None:
            out["nodes"] = {id_: node_document(inner) for id_, inner in node.nodes.items()}
        case _:
            pass
    return out


def _human(node: HumanNode, out: dict[str, Any]) -> None:
    if node.kind == "choice":
        out["choices"] = list(node.choices)
    if node.kind == "edit":
        out["value"] = node.value
    if node.on_timeout == "default":
        out["default"] = node.default


def _error_route(route: ErrorRoute) -> dict[str, Any]:
    out = _dumped(route)
    return out if route.to is not None else out | {"continue_with": route.continue_with}


def _dumped(record: Record, *, without: set[str] | None = None) -> dict[str, Any]:
    return record.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=without)


def agent_document(spec: AgentSpec, name: str) -> dict[str, Any]:
    """Give an agent as its document, under a name.

    Instructions that are literal text become a template that gives that text.

    Errors: GraphError for an agent with files or vector stores of its own, which no document can name.
    """
    if spec.tool_resources:
        said = f"the agent '{name}' has tool_resources, which no document can hold"
        raise GraphError(said, hint="name a stored agent by its id instead")
    nested = {"inputs", "tools", "extensions", "instructions", "name"}
    out: dict[str, Any] = {"kind": "agent", "name": name, **_dumped(spec, without=nested)}
    out["model"] = record_document(spec.model)
    told = spec.instructions
    text = told.template if told.template is not None else _literal(told.text or "")
    if text:
        out["instructions"] = text
    if spec.inputs:
        out["inputs"] = {key: record_document(one) for key, one in spec.inputs.items()}
    if spec.tools:
        out["tools"] = [record_document(t) if isinstance(t, FunctionTool) else _dumped(t) for t in spec.tools]
    return out | spec.extensions


def _literal(text: str) -> str:
    """Give a template that gives a text."""
    if not template.is_template(text):
        return text
    quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "{{ '" + quoted + "' }}"
