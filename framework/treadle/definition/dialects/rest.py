"""The assistant object of the REST API, written as YAML: what a person gets by dumping an agent of the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.definition.dialects.adapting import (
    Adapted,
    carry_function,
    carry_name,
    carry_tool,
    drop,
    mapping,
    refuse_others,
)
from treadle.definition.document import Findings, KeyPath, is_list, is_mapping, listed, short, suggest
from treadle.definition.validation import expected, missing
from treadle.objects.tool import FUTURE_TOOLS, HOSTED_TOOLS

TITLE = "the REST object"

_TOP = (
    "id",
    "object",
    "created_at",
    "name",
    "description",
    "model",
    "instructions",
    "tools",
    "tool_resources",
    "metadata",
    "temperature",
    "top_p",
    "response_format",
    "reasoning_effort",
)
_READ_ONLY = ("id", "object", "created_at")


def adapt(data: Mapping[str, Any], findings: Findings) -> Adapted:
    """Bring the object to the native shape; fields that are null count as absent."""
    refuse_others(data, (), _TOP, findings, dialect=TITLE)
    drop(data, _READ_ONLY, "the service sets them; here an agent gets its own", findings)
    given = {k: v for k, v in data.items() if v is not None}
    adapted = Adapted({"version": "1.0.0"} | {k: v for k, v in given.items() if k.startswith("x-")})
    for key in ("description", "metadata"):
        if key in given:
            adapted.put((key,), given[key], (key,))
    carry_name(given, adapted, findings)
    _model(given, adapted, findings)
    if "instructions" in given:
        adapted.put(("instructions", "text"), given["instructions"], ("instructions",))
    _response_format(given, adapted, findings)
    _tools(given, adapted, findings)
    return adapted


def _model(data: Mapping[str, Any], adapted: Adapted, findings: Findings) -> None:
    model = data.get("model")
    if isinstance(model, str):
        adapted.put(("model", "id"), model, ("model",))
    elif model is None:
        missing("model", (), findings)
        adapted.put(("model", "id"), "?", ())
    else:
        expected(("model",), "a string", model, findings)
        adapted.put(("model", "id"), "?", ("model",))
    for key in ("temperature", "top_p", "reasoning_effort"):
        if key in data:
            adapted.put(("model", "options", key), data[key], (key,))


def _response_format(data: Mapping[str, Any], adapted: Adapted, findings: Findings) -> None:
    wanted = data.get("response_format")
    path: KeyPath = ("response_format",)
    if wanted in (None, "auto", "text"):
        return
    if not is_mapping(wanted):
        expected(path, "auto or a mapping", wanted, findings)
        return
    kind = wanted.get("type")
    if kind == "json_schema":
        inner = mapping(wanted, path, "json_schema", findings)
        for new, key in (("schema", "schema"), ("strict", "strict")):
            if inner.get(key) is not None:
                adapted.put(("output", new), inner[key], (*path, "json_schema", key))
        if "schema" not in inner:
            missing("schema", (*path, "json_schema"), findings)
    elif kind == "json_object":
        adapted.put(("model", "options", "extra"), {"response_format": {"type": "json_object"}}, path)
    elif kind != "text":
        kinds = ("text", "json_object", "json_schema")
        said = f"response_format.type must be {listed(kinds, 'or')}"
        findings.add(
            "TR103", said, (*path, "type"), hint=suggest(kind, kinds) if isinstance(kind, str) else None
        )


def _tools(data: Mapping[str, Any], adapted: Adapted, findings: Findings) -> None:
    resources = mapping(data, (), "tool_resources", findings)
    tools = data.get("tools", [])
    if not is_list(tools):
        expected(("tools",), "a list", tools, findings)
        return
    for n, tool in enumerate(tools):
        path: KeyPath = ("tools", n)
        if not is_mapping(tool):
            expected(path, "a mapping", tool, findings)
        elif not isinstance(tool.get("type"), str):
            missing("type", path, findings)
        else:
            _tool(tool, path, resources.pop(tool["type"], None), adapted, findings)
    for kind, resource in resources.items():
        if resource not in (None, {}):
            said = f"there is no tool of type '{kind}' for these resources"
            hint = f"add it: tools: [{{type: {kind}}}]"
            findings.add("TR114", said, ("tool_resources", kind), at="key", severity="warning", hint=hint)


def _tool(
    tool: Mapping[str, Any], path: KeyPath, resource: Any, adapted: Adapted, findings: Findings
) -> None:
    kind: str = tool["type"]
    if kind == "function":
        inner = tool.get("function")
        if is_mapping(inner):
            carry_function(adapted, inner, path, (*path, "function"), findings)
        else:
            missing("function", path, findings)
        return
    if kind not in (*FUTURE_TOOLS, *HOSTED_TOOLS) and not kind.startswith("bing_"):
        hint = suggest(kind, ["function", *FUTURE_TOOLS, *HOSTED_TOOLS])
        findings.add("TR103", f"'{short(kind)}' is not a type of tool", (*path, "type"), hint=hint)
        return
    options = {k: v for k, v in tool.items() if k != "type" and not k.startswith("x-")}
    inner = options.pop(kind, None)
    if is_mapping(inner):
        options |= inner
    if is_mapping(resource):
        options |= resource
    names = (options.get("name"), options.get("server_label"))
    name = next((n for n in names if isinstance(n, str) and n), None)
    description = options.get("description")
    text = description if isinstance(description, str) else ""
    carry_tool(adapted, path, kind=kind, name=name, description=text, options=options)
