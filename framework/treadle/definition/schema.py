"""The published JSON Schemas of the documents, draft-07, shaped for editors.

They describe what is written in YAML, which is more than the records hold: `model: name` for a mapping with an id,
`instructions: {file: …}`, inputs in short form, `x-` keys wherever there are fields. They come from the records, so a
new field is published with no more to write. What the loader knows beyond them: duplicate keys, references, names.

A union is never written as `anyOf`, whose errors in editors say nothing. Alternatives of different types become one
schema with several types; alternatives of one type become `if type … then …`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from treadle.definition.json_schema import TYPES
from treadle.definition.trial import Trial
from treadle.definition.validation import INTERNAL
from treadle.objects.agent import AgentSpec
from treadle.objects.project import ProjectSpec
from treadle.objects.tool import FunctionTool

Kind = Literal["agent", "project", "workflow"]
Node: TypeAlias = dict[str, Any]

TOOLS: Mapping[str, type[BaseModel]] = {"function": FunctionTool}
"""The tools that a document may declare, by their type."""

DRAFT = "http://json-schema.org/draft-07/schema#"
EXTENSION = {"^x-": {"description": "Yours: treadle ignores keys that begin with x-."}}
_ANY_SCHEMA: Node = {"$ref": "#/definitions/jsonSchema"}
OBJECT_SCHEMA: Node = {"$ref": "#/definitions/objectSchema"}
TYPE_NAMES = list(TYPES)

_SAID: Mapping[str, str] = {
    "AgentSpec.kind": "What the document declares: an agent.",
    "AgentSpec.display_name": "The name that people see.",
    "AgentSpec.metadata": "Notes of the author; up to 16 keys of text or lists go to the API object.",
    "AgentSpec.instructions": "What the model is told first: a template over the inputs, or {file: path} to one.",
    "AgentSpec.thread": "How much of the thread the model is sent.",
    "AgentSpec.limits": "What one run may use; a breach ends it incomplete with the limit's name.",
    "AgentSpec.tests": "Tests of this agent, run offline.",
    "FunctionTool.type": "The kind of tool.",
    "ProjectSpec.kind": "What the document declares: the project.",
    "ProjectSpec.name": "The project's name.",
    "ProjectSpec.description": "What the project is for.",
    "ProjectSpec.python": "Which Python code documents may name.",
    "ProjectSpec.allow": "What documents may reach outside themselves.",
    "ProjectSpec.defaults": "What runs get where nothing else says so.",
    "WorkflowSpec.kind": "What the document declares: a workflow.",
    "WorkflowSpec.display_name": "The name that people see.",
    "WorkflowSpec.metadata": "Notes of the author.",
    "WorkflowSpec.limits": "What one run may use; a breach ends it incomplete with the limit's name.",
    "WorkflowSpec.defaults": "What nodes do that do not say otherwise.",
    "WorkflowSpec.tests": "Tests of this workflow, run offline.",
    "Trial.name": "What the test shows.",
    "Trial.inputs": "Values of the document's inputs.",
    "Trial.state": "The state that the run starts with.",
    "Trial.messages": "The thread that the run starts with.",
    "Trial.mock": "What stands in for the outside world.",
    "Trial.expect": "What must hold when the run ends.",
    "Trial.repeat": "How often the test is run.",
    "Trial.skip": "Whether, or why, the test is left out.",
    "Trial.tags": "Words to choose tests by.",
    "Trial.live": "Whether the test needs a real model.",
    "Trial.judge": "A model that reads the answer and gives marks; live tests only.",
    "TrialMessage.user": "What the user says.",
    "TrialMessage.assistant": "What the assistant has said.",
    "TrialMock.model": "The model's replies, in order.",
    "TrialMock.tools": "What tools give, by name.",
    "TrialMock.nodes": "What nodes give, by id.",
    "TrialMock.http": "What HTTP nodes give, by id.",
    "TrialMock.human": "What people answer, by node.",
    "TrialModelReply.text": "A reply of text.",
    "TrialModelReply.json": "A reply of a JSON value.",
    "TrialModelReply.call": "A reply that calls this tool.",
    "TrialModelReply.arguments": "The arguments of the call.",
    "TrialModelReply.error": "The call of the model fails.",
    "TrialError.type": "The code of the error: rate_limit, timeout, connection, http_503, tool_error …",
    "TrialError.message": "What it says.",
    "TrialExpect.status": "The run's last status.",
    "TrialExpect.path": "The nodes that were walked, in order.",
    "TrialExpect.path_contains": "Nodes that were walked in this order, others between them.",
    "TrialExpect.output": "What the output holds at least.",
    "TrialExpect.text_contains": "Text, or texts, that the answer contains.",
    "TrialExpect.text_matches": "A regular expression that the answer matches.",
    "TrialExpect.tools_called": "Tools that were called.",
    "TrialExpect.never_called": "Tools that were not called.",
    "TrialExpect.required_action": "What the run waits for.",
    "TrialExpect.assert": "Expressions over output, text, state and steps that are true.",
    "TrialExpect.max_steps": "The most steps that the run may take.",
    "TrialExpect.max_tokens": "The most tokens that the run may use.",
    "TrialJudge.rubric": "What the judge looks for.",
    "TrialJudge.model": "The model that judges.",
    "TrialJudge.min_score": "The least mark that passes.",
}
"""What fields are for, by record and key, where the record itself does not say."""

_EXAMPLES: Mapping[str, list[Any]] = {
    "AgentSpec.version": ["1.0.0"],
    "AgentSpec.model": ["offline", "gpt-4.1-mini", "${env:CHAT_MODEL:gpt-4.1-mini}"],
    "AgentSpec.tool_choice": ["auto", "none", "required"],
    "ModelSpec.id": ["offline", "gpt-4.1-mini", "${env:CHAT_MODEL:gpt-4.1-mini}"],
    "ModelEntry.id": ["offline", "gpt-4.1-mini"],
    "ModelOptions.reasoning_effort": ["low", "medium", "high"],
    "Connection.base_url": ["http://127.0.0.1:8000/v1", "${env:LLM_BASE_URL}"],
    "Connection.api_key": ["${secret:LLM_API_KEY}"],
    "FunctionTool.call": ["shop_tools.orders:get_order"],
    "ProjectSpec.version": ["1.0.0"],
    "WorkflowSpec.version": ["1.0.0"],
    "AgentNode.thread": ["shared", "new", "fork"],
    "WorkflowNode.thread": ["shared", "new", "fork"],
    "SwitchNode.value": ["state.severity"],
    "MapNode.over": ["inputs.documents"],
    "LoopNode.until": ["not state.problems"],
    "CodeNode.call": ["checks.markdown:same_structure"],
    "ApprovalWhen.when": ["args.amount > 200"],
}
_RETRY_CODES = [
    *("rate_limit", "timeout", "connection", "http_4xx", "http_5xx", "tool_error", "invalid_output"),
    *(
        "model_error",
        "content_filter",
        "budget",
        "approval_rejected",
        "code_error",
        "state_type",
        "outcome_unknown",
        "cancelled",
    ),
]


def schema(kind: Kind) -> Node:
    """Give the JSON Schema of a kind of document, as it is written in YAML."""
    if kind == "workflow":
        from treadle.definition.workflow_schema import workflow_schema

        return workflow_schema()
    return _agent() if kind == "agent" else _project()


def _agent() -> Node:
    records = Records(AgentSpec, Trial, *TOOLS.values())
    top = records.shaped("AgentSpec")
    fields = top["properties"]
    for name in INTERNAL["AgentSpec"]:
        del fields[name]
    fields["kind"] = enumerated(fields["kind"], enum=["agent", "prompt"])
    fields["model"] = {**fields["model"], "type": ["string", "object"], "minLength": 1}
    fields["instructions"] = _instructions(fields["instructions"])
    fields["inputs"] = declared_inputs(fields["inputs"])
    fields["output"]["properties"]["schema"] = referring(
        fields["output"]["properties"]["schema"], OBJECT_SCHEMA
    )
    tools = {kind: described_tool(kind, records) for kind in TOOLS}
    fields["tools"]["items"] = chosen_tool(tools)
    fields["thread"]["allOf"] = _keeping()
    fields["tests"]["items"] = records.shaped("Trial")
    top["required"] = ["kind", "model"]
    return {
        "$schema": DRAFT,
        "title": "treadle agent document",
        **top,
        "defaultSnippets": [_AGENT_SNIPPET],
        "definitions": {
            **{f"{kind}Tool": tool for kind, tool in tools.items()},
            "objectSchema": object_schema(),
            "jsonSchema": json_schema(),
        },
    }


def _project() -> Node:
    top = Records(ProjectSpec).shaped("ProjectSpec")
    del top["properties"]["extensions"]
    top["properties"]["kind"] = enumerated(top["properties"]["kind"], enum=["project"])
    top["required"] = ["kind"]
    return {"$schema": DRAFT, "title": "treadle project file", **top, "defaultSnippets": [_PROJECT_SNIPPET]}


class Records:
    """The records as pydantic describes them, and the way to shape them for editors."""

    def __init__(self, *models: type[BaseModel]) -> None:
        self._raw: dict[str, Node] = {}
        for model in models:
            raw = model.model_json_schema(by_alias=True)
            self._raw.update(raw.pop("$defs", {}))
            if "$ref" not in raw:  # a record that holds itself is among the definitions
                self._raw[model.__name__] = raw

    def shaped(self, name: str) -> Node:
        """Give a record with everything that it refers to put in, and with `x-` keys allowed."""
        raw = self._raw[name]
        fields = {key: self._property(name, key, value) for key, value in raw.get("properties", {}).items()}
        out: Node = {"type": "object", "description": raw.get("description", "")}
        if raw.get("additionalProperties") is not False:
            return {**out, "properties": fields}
        required = {"required": raw["required"]} if "required" in raw else {}
        return {
            **out,
            "properties": fields,
            **required,
            "additionalProperties": False,
            "patternProperties": EXTENSION,
        }

    def _property(self, record: str, key: str, raw: Node) -> Node:
        node = self._node(raw)
        said = _SAID.get(f"{record}.{key}") or raw.get("description") or node.get("description", "")
        examples = _EXAMPLES.get(f"{record}.{key}") or node.get("examples")
        node = {"description": said, **{k: v for k, v in node.items() if k != "description"}}
        if examples:
            node["examples"] = examples
        if raw.get("default") not in (None, "", [], {}):
            node["default"] = raw["default"]
            node["markdownDescription"] = f"{said}\n\nDefault: `{_inline(raw['default'])}`"
        return node

    def _node(self, raw: Node) -> Node:
        if "$ref" in raw:
            return self.shaped(raw["$ref"].rpartition("/")[2])
        if "oneOf" in raw:
            return {"type": "object"}  # a node of a workflow: what it may hold is put in by hand
        if "anyOf" in raw:
            return _merged([self._node(branch) for branch in raw["anyOf"]])
        node = {k: v for k, v in raw.items() if k not in ("title", "default", "description")}
        if "const" in node:
            node["enum"] = [node.pop("const")]
        if "items" in node:
            node["items"] = self._node(node["items"])
        if node.get("additionalProperties") is True:
            del node["additionalProperties"]
        elif "additionalProperties" in node:
            node["additionalProperties"] = self._node(node["additionalProperties"])
        if str(node.get("pattern", "")).startswith("^(rate_limit"):
            node["examples"] = _RETRY_CODES
        return node


def _merged(branches: Sequence[Node]) -> Node:
    """Make one schema of alternatives that differ in their type: a keyword speaks of its own type only."""
    types = [branch["type"] for branch in branches]
    out: Node = {"type": types}
    for branch in branches:
        rest = {k: v for k, v in branch.items() if k not in ("type", "enum")}
        out.update(rest)
        if "enum" not in branch:
            continue
        if set(types) <= {"string", "null"}:
            out["enum"] = [*branch["enum"], *([None] if "null" in types else [])]
        else:
            out["allOf"] = [{"if": {"type": "string"}, "then": {"enum": branch["enum"]}}]
    return out


def enumerated(node: Node, *, enum: list[str]) -> Node:
    """Give a field of text that is one of a few words."""
    return {"description": node["description"], "type": "string", "enum": enum}


def referring(node: Node, reference: Node) -> Node:
    """Point to a definition; draft-07 ignores what stands beside `$ref`, so it goes into `allOf`."""
    return {"description": node["description"], "allOf": [reference]}


def _inline(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# -- what a document writes otherwise than the record holds it


def _instructions(node: Node) -> Node:
    file = {"description": "The file that holds the template, from the document's folder.", "type": "string"}
    return {
        "description": node["description"],
        "type": ["string", "object"],
        "properties": {"file": file},
        "required": ["file"],
        "additionalProperties": False,
        "patternProperties": EXTENSION,
        "defaultSnippets": [
            {
                "label": "a file",
                "description": "Keep the text in a file",
                "body": {"file": "${1:instructions.md}"},
            }
        ],
    }


def declared_inputs(node: Node, *, reserved: Sequence[str] = ("run", "agent", "now")) -> Node:
    """Give the schema of declared inputs, in short form and in long."""
    required: Node = {
        "description": "Whether a run must give it; true unless there is a default.",
        "type": ["boolean", "null"],
    }
    one = declared(
        "One input: the name of a type, or a JSON Schema with required and default.",
        {"required": required},
        default="The value where a run gives none.",
    )
    taken: Node = {"not": {"enum": list(reserved)}} if reserved else {}
    return {
        "description": node["description"],
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", **taken},
        "additionalProperties": one,
    }


def declared(said: str, more: Node, *, default: str) -> Node:
    """Give the schema of one declared value: the name of a type, or a JSON Schema with a default and `more` fields."""
    keywords = {**schema_keywords(), **more}
    del keywords["default"]
    return {
        "description": said,
        "type": ["string", "object"],
        "properties": {
            "type": keywords.pop("type"),
            **{key: keywords.pop(key) for key in more},
            "default": {"description": default},
            **keywords,
        },
        "allOf": [
            {"if": {"type": "string"}, "then": {"enum": TYPE_NAMES}},
            *(
                {"if": default_of(kind), "then": {"properties": {"default": {"type": kind}}}}
                for kind in TYPE_NAMES
            ),
        ],
        "defaultSnippets": [
            {
                "label": "a type with a default",
                "description": "A JSON Schema with a default",
                "body": {"type": "${1|string,integer,number,boolean,array,object|}", "default": "$2"},
            }
        ],
    }


def default_of(kind: str) -> Node:
    """Give the condition that a default is given for a type."""
    return {"type": "object", "properties": {"type": {"const": kind}}, "required": ["type", "default"]}


def _keeping() -> list[Node]:
    """Tie `keep_last` to `truncation: last`."""
    last = {"properties": {"truncation": {"const": "last"}}, "required": ["truncation"]}
    return [{"if": last, "then": {"required": ["keep_last"]}, "else": {"properties": {"keep_last": False}}}]


def chosen_tool(tools: Mapping[str, Node]) -> Node:
    """Choose the fields by the type; a tool whose type is missing may have the fields of any."""
    known = {key: True for tool in tools.values() for key in tool["properties"]}
    untyped = {"additionalProperties": False, "properties": known, "patternProperties": EXTENSION}
    return {
        "description": "One tool.",
        "type": "object",
        "properties": {"type": {"description": "The kind of tool.", "type": "string", "enum": list(TOOLS)}},
        "required": ["type"],
        "allOf": [
            {"if": {"required": ["type"]}, "else": untyped},
            *(
                {
                    "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                    "then": {"$ref": f"#/definitions/{kind}Tool"},
                }
                for kind in tools
            ),
        ],
        "defaultSnippets": _TOOL_SNIPPETS,
    }


def described_tool(kind: str, records: Records) -> Node:
    """Give the schema of a tool of one kind."""
    node = records.shaped(TOOLS[kind].__name__)
    if kind == "function":
        fields = node["properties"]
        fields["parameters"] = {
            "description": fields["parameters"]["description"],
            "type": ["object", "null"],
            "allOf": [{"if": {"type": "object"}, "then": OBJECT_SCHEMA}],
        }
        node["allOf"] = _function_rules()
    return node


def _function_rules() -> list[Node]:
    """Say which fields of a function go together."""
    absent = {"type": "null"}
    by_the_client = {"properties": {"call": absent, "runs": {"enum": ["client", None]}}}
    only_once = {"properties": {"effect": {"const": "once"}}}
    has_call = {"properties": {"call": {"type": "string"}}, "required": ["call"]}
    return [
        {
            "if": by_the_client,
            "then": {
                "required": ["parameters"],
                "properties": {"parameters": {"type": "object"}, "pass": {"maxItems": 0}},
            },
        },
        {"if": has_call, "then": {"properties": {"runs": {"enum": ["server", None]}}}},
        {"if": only_once, "then": {"properties": {"retry": absent}}},
    ]


# -- the JSON Schema that inputs, parameters and answers are written in


def object_schema() -> Node:
    """Give the definition of a JSON Schema of an object."""
    return {
        "description": "A JSON Schema of an object.",
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"description": "An object, always.", "enum": ["object"]}},
        "allOf": [_ANY_SCHEMA],
    }


def json_schema() -> Node:
    """Give the definition of any JSON Schema."""
    return {
        "description": "A JSON Schema.",
        "type": ["object", "boolean"],
        "properties": schema_keywords(),
    }


def schema_keywords() -> Node:
    """Give the keywords that are checked; others pass."""
    count = {"type": "integer", "minimum": 0}
    number = {"type": "number"}
    many = {"type": "array", "minItems": 1, "items": _ANY_SCHEMA}
    named = {"type": "object", "additionalProperties": _ANY_SCHEMA}
    texts: list[tuple[str, str, Node]] = [
        ("description", "What the value means; models read it.", {}),
        ("title", "A short name.", {}),
        ("default", "The value where none is given.", {}),
        ("const", "The only value.", {}),
        ("enum", "The values that are possible.", {"type": "array"}),
        ("examples", "Some values.", {}),
        ("format", "A known form of text, such as date or email.", {}),
        ("pattern", "A regular expression that the text matches.", {"type": "string", "format": "regex"}),
        ("minLength", "The least characters.", count),
        ("maxLength", "The most characters.", count),
        ("minimum", "The least number.", number),
        ("maximum", "The largest number.", number),
        ("exclusiveMinimum", "Numbers are larger than this.", number),
        ("exclusiveMaximum", "Numbers are smaller than this.", number),
        ("multipleOf", "Numbers are multiples of this.", number),
        ("minItems", "The least items.", count),
        ("maxItems", "The most items.", count),
        ("additionalItems", "What items after a list of schemas must be.", _ANY_SCHEMA),
        ("prefixItems", "What the first items must be, in turn.", many),
        ("contains", "What at least one item must be.", _ANY_SCHEMA),
        ("properties", "The fields, by name.", named),
        ("required", "The fields that must be there.", {"type": "array", "items": {"type": "string"}}),
        ("additionalProperties", "Whether there may be other fields, or what they must be.", _ANY_SCHEMA),
        ("patternProperties", "Fields by a pattern of their names.", named),
        ("propertyNames", "What the names of fields must be.", _ANY_SCHEMA),
        ("minProperties", "The least fields.", count),
        ("maxProperties", "The most fields.", count),
        ("dependentSchemas", "Schemas that hold when a field is there.", named),
        ("anyOf", "At least one of these fits.", many),
        ("oneOf", "Exactly one of these fits.", many),
        ("allOf", "All of these fit.", many),
        ("not", "This does not fit.", _ANY_SCHEMA),
        ("if", "A condition.", _ANY_SCHEMA),
        ("then", "What holds when `if` fits.", _ANY_SCHEMA),
        ("else", "What holds when `if` does not fit.", _ANY_SCHEMA),
        ("$ref", "A schema within this one.", {"type": "string", "pattern": "^#"}),
        ("$defs", "Schemas to refer to, by name.", named),
        ("definitions", "Schemas to refer to, by name.", named),
    ]
    described = {key: _keyword(said, rule) for key, said, rule in texts}
    return {"type": _type_keyword(), "items": _items_keyword(), **described}


def _keyword(said: str, rule: Node) -> Node:
    return {"description": said, **({"allOf": [rule]} if "$ref" in rule else rule)}


def _type_keyword() -> Node:
    return {
        "description": "The type of the value, or a list of types.",
        "type": ["string", "array"],
        "minItems": 1,
        "items": {"type": "string", "enum": TYPE_NAMES},
        "allOf": [{"if": {"type": "string"}, "then": {"enum": TYPE_NAMES}}],
    }


def _items_keyword() -> Node:
    return {
        "description": "What each item of a list must be.",
        "type": ["object", "boolean", "array"],
        "minItems": 1,
        "items": _ANY_SCHEMA,
        "allOf": [{"if": {"type": "object"}, "then": _ANY_SCHEMA}],
    }


_AGENT_SNIPPET: Node = {
    "label": "an agent",
    "description": "An agent with one tool",
    "body": {
        "version": "1.0.0",
        "kind": "agent",
        "name": "${1:name}",
        "model": "${2:offline}",
        "instructions": "${3:You help with one thing.}",
    },
}
_PROJECT_SNIPPET: Node = {
    "label": "a project",
    "description": "The project file of a folder",
    "body": {"version": "1.0.0", "kind": "project", "python": {"allow_modules": ["${1:tools}"]}},
}
_TOOL_SNIPPETS: list[Node] = [
    {
        "label": "a Python function",
        "description": "Runs here; its module must be on the project's allow-list",
        "body": {
            "type": "function",
            "name": "${1:name}",
            "description": "${2:What it does.}",
            "call": "${3:tools}:${1:name}",
        },
    },
    {
        "label": "a function of the client",
        "description": "The run stops and waits for its output",
        "body": {
            "type": "function",
            "name": "${1:name}",
            "description": "${2:What it does.}",
            "parameters": {
                "type": "object",
                "properties": {"${3:argument}": {"type": "string"}},
                "required": ["${3:argument}"],
            },
        },
    },
]
