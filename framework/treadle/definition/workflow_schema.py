"""The published JSON Schema of the workflow document; `schema.py` has what it shares with the agent's.

A node is chosen by its `type`, and a body of nodes holds nodes again, so that nodes are definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.definition.document import is_list
from treadle.definition.schema import (
    DRAFT,
    EXTENSION,
    OBJECT_SCHEMA,
    TOOLS,
    Node,
    Records,
    chosen_tool,
    declared,
    declared_inputs,
    described_tool,
    enumerated,
    json_schema,
    object_schema,
    referring,
)
from treadle.definition.trial import Trial
from treadle.definition.validation import INTERNAL
from treadle.definition.workflow import NOT_NULL, RESERVED_IDS
from treadle.objects.workflow import NODE_ID, NODES, StateSpec, StepNode, WorkflowSpec

_NODE: Node = {"$ref": "#/definitions/node"}
_TOOL: Node = {"$ref": "#/definitions/tool"}
_STEPS = [kind for kind, model in NODES.items() if issubclass(model, StepNode)]
"""The types that say what follows with `next`."""

_TYPE_SAID = "The kind of node."


def workflow_schema() -> Node:
    """Give the JSON Schema of a workflow document, as it is written in YAML."""
    records = Records(WorkflowSpec, StateSpec, Trial, *TOOLS.values(), *NODES.values())
    top = records.shaped("WorkflowSpec")
    fields = top["properties"]
    for name in INTERNAL["WorkflowSpec"]:
        del fields[name]
    fields["kind"] = enumerated(fields["kind"], enum=["workflow"])
    fields["inputs"] = declared_inputs(fields["inputs"], reserved=())
    fields["state"] = _state(fields["state"], records)
    fields["nodes"] = _nodes(fields["nodes"]["description"])
    fields["tools"]["items"] = _TOOL
    fields["tests"]["items"] = records.shaped("Trial")
    top["required"] = ["kind", "start", "nodes"]
    tools = {kind: described_tool(kind, records) for kind in TOOLS}
    nodes = {kind: _node(kind, records) for kind in NODES}
    return {
        "$schema": DRAFT,
        "title": "treadle workflow document",
        **top,
        "defaultSnippets": [_SNIPPET],
        "definitions": {
            "node": _chosen(nodes),
            **{f"{kind}Node": node for kind, node in nodes.items()},
            "tool": chosen_tool(tools),
            **{f"{kind}Tool": tool for kind, tool in tools.items()},
            "objectSchema": object_schema(),
            "jsonSchema": json_schema(),
        },
    }


def _state(node: Node, records: Records) -> Node:
    reduce: Node = records.shaped("StateSpec")["properties"]["reduce"]
    one = declared(
        "One key of the state: the name of a type, or a JSON Schema with default and reduce.",
        {"reduce": reduce},
        default="What it starts with; null where this is left out.",
    )
    return {
        "description": node["description"],
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": one,
    }


def _nodes(said: str) -> Node:
    follows: Node = {"if": _is_one_of(*_STEPS), "then": {"required": ["next"]}}
    return {
        "description": said,
        "type": "object",
        "propertyNames": {"pattern": NODE_ID, "not": {"enum": sorted(RESERVED_IDS)}},
        "additionalProperties": {"allOf": [_NODE, follows]},
    }


def _is_one_of(*kinds: str) -> Node:
    return {"properties": {"type": {"enum": list(kinds)}}, "required": ["type"]}


def _chosen(nodes: Mapping[str, Node]) -> Node:
    """Choose the fields by the type; a node whose type is missing may have the fields of any."""
    known = {key: True for node in nodes.values() for key in node["properties"]}
    untyped = {"additionalProperties": False, "properties": known, "patternProperties": EXTENSION}
    return {
        "description": "One node.",
        "type": "object",
        "properties": {"type": {"description": _TYPE_SAID, "type": "string", "enum": list(nodes)}},
        "required": ["type"],
        "allOf": [
            {"if": {"required": ["type"]}, "else": untyped},
            *({"if": _is_one_of(kind), "then": {"$ref": f"#/definitions/{kind}Node"}} for kind in nodes),
        ],
        "defaultSnippets": _NODE_SNIPPETS,
    }


def _node(kind: str, records: Records) -> Node:
    node = records.shaped(NODES[kind].__name__)
    fields: dict[str, Any] = node["properties"]
    type_ = enumerated({"description": _TYPE_SAID}, enum=[kind])
    fields = {"type": type_, **{key: field for key, field in fields.items() if key != "type"}}
    for name in (*NOT_NULL.get(kind, ()), *(("next",) if kind in _STEPS else ())):
        fields[name] = _without_null(fields[name])
    if "on_error" in fields:
        fields["on_error"]["items"] = _error_route(fields["on_error"]["items"])
    if "output" in fields:
        inner = fields["output"]["properties"]
        inner["schema"] = referring(inner["schema"], OBJECT_SCHEMA)
    if kind == "prompt":
        fields["model"] = {**fields["model"], "type": ["string", "object"], "minLength": 1}
    elif kind == "tool":
        said = fields["tool"]["description"]
        either: Node = {"if": {"type": "object"}, "then": _TOOL}
        fields["tool"] = {"description": said, "type": ["string", "object"], "allOf": [either]}
    elif kind == "human":
        fields["form"] = referring(fields["form"], OBJECT_SCHEMA)
    elif kind in ("loop", "map"):
        fields["nodes"] = _nodes(fields["nodes"]["description"])
    if kind == "map":
        said = fields["node"]["description"]
        fields["node"] = {"description": said, "allOf": [_NODE, {"properties": {"next": False}}]}
    rules = _RULES.get(kind, [])
    return {**node, "properties": fields, **({"allOf": rules} if rules else {})}


def _without_null(field: Node) -> Node:
    types = field["type"]
    if not is_list(types):
        return field
    kept = [t for t in types if t != "null"]
    return {**field, "type": kept[0] if len(kept) == 1 else kept}


def _error_route(route: Node) -> Node:
    fields = {**route["properties"], "to": _without_null(route["properties"]["to"])}
    return {**route, "properties": fields, "allOf": [_one_of("to", "continue_with")]}


def _one_of(first: str, second: str) -> Node:
    """Say that exactly one of two fields is given."""
    return {
        "if": {"required": [second]},
        "then": {"properties": {first: False}},
        "else": {"required": [first]},
    }


def _where(field: str, *values: str) -> Node:
    return {"properties": {field: {"enum": list(values)}}, "required": [field]}


_RULES: Mapping[str, list[Node]] = {
    "prompt": [_one_of("prompt", "messages")],
    "loop": [_one_of("until", "while")],
    "wait": [_one_of("for", "until")],
    "map": [
        {
            "if": {"required": ["workflow"]},
            "then": {"properties": {"node": False, "start": False, "nodes": False}},
            "else": {
                "properties": {"with": False},
                "if": {"required": ["node"]},
                "then": {"properties": {"start": False, "nodes": False}},
                "else": {"required": ["start", "nodes"]},
            },
        },
        {"if": _where("on_item_error", "skip", "collect"), "else": {"properties": {"tolerate": False}}},
    ],
    "human": [
        {
            "if": _where("kind", "choice"),
            "then": {"required": ["choices"]},
            "else": {"properties": {"choices": False}},
        },
        {"if": _where("kind", "input"), "then": {"required": ["form"]}},
        {"if": _where("kind", "approval", "choice"), "then": {"properties": {"form": False}}},
        {
            "if": _where("kind", "edit"),
            "then": {"required": ["value"]},
            "else": {"properties": {"value": False}},
        },
        {"if": {"required": ["on_timeout"]}, "then": {"required": ["timeout"]}},
        {
            "if": _where("kind", "choice", "input", "edit"),
            "then": {"properties": {"on_timeout": {"not": {"const": "reject"}}}},
        },
        {
            "if": _where("on_timeout", "default"),
            "then": {"required": ["default"]},
            "else": {"properties": {"default": False}},
        },
    ],
}
"""Which fields of a node go together."""

_SNIPPET: Node = {
    "label": "a workflow",
    "description": "A workflow with one agent",
    "body": {
        "version": "1.0.0",
        "kind": "workflow",
        "name": "${1:name}",
        "inputs": {"text": "string"},
        "agents": {"${2:writer}": "./${2:writer}.agent.yaml"},
        "start": "${3:write}",
        "nodes": {
            "${3:write}": {
                "type": "agent",
                "agent": "${2:writer}",
                "message": "{{ inputs.text }}",
                "next": "end",
            }
        },
    },
}
_NODE_SNIPPETS: list[Node] = [
    {
        "label": "ask an agent",
        "description": "A child run",
        "body": {
            "type": "agent",
            "agent": "${1:name}",
            "message": "${2:{{ inputs.text }}}",
            "next": "${3:end}",
        },
    },
    {
        "label": "call a Python function",
        "description": "Its module must be on the project's allow-list",
        "body": {
            "type": "code",
            "call": "${1:tools}:${2:function}",
            "save": {"${3:key}": "result"},
            "next": "${4:end}",
        },
    },
    {
        "label": "ask a person",
        "description": "The run waits; no process is held",
        "body": {
            "type": "human",
            "kind": "approval",
            "ask": "${1:Go on?}",
            "next": [{"when": "result.decision == 'approve'", "to": "${2:node}"}, {"to": "end"}],
        },
    },
]
