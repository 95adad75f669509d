"""The agent file of the Foundry extension for VS Code, format 1.0.0.

Five kinds of tool, each with `type`, `id` and `options`. Tools in the shape of the REST API are read too, since
documentation and users write them here.
"""

from __future__ import annotations

import json
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
from treadle.definition.document import Findings, KeyPath, is_list, is_mapping, shape, short, suggest
from treadle.definition.validation import expected, missing
from treadle.objects.tool import FUTURE_TOOLS, HOSTED_TOOLS

TITLE = "Foundry VS Code 1.0.0"
KINDS = ("bing_grounding", "code_interpreter", "openapi", "file_search", "mcp")

_TOP = ("version", "id", "name", "description", "metadata", "model", "instructions", "tools")
_REQUIRED = ("version", "name", "model", "instructions")
_PLAIN = ("type", "id", "name", "description", "options")


def adapt(data: Mapping[str, Any], findings: Findings) -> Adapted:
    """Bring the file to the native shape."""
    refuse_others(data, (), _TOP, findings, dialect=TITLE)
    for key in _REQUIRED:
        if key not in data:
            missing(key, (), findings)
    adapted = Adapted({k: v for k, v in data.items() if k.startswith("x-")})
    for key in ("version", "description", "metadata"):
        if data.get(key) is not None:
            adapted.put((key,), data[key], (key,))
    drop(data, ("id",), "the hosted service gave it; here an agent gets its own", findings)
    carry_name(data, adapted, findings)
    _model(data, adapted, findings)
    if "instructions" in data:
        adapted.put(("instructions", "text"), data["instructions"], ("instructions",))
    _tools(data, adapted, findings)
    return adapted


def _model(data: Mapping[str, Any], adapted: Adapted, findings: Findings) -> None:
    model = data.get("model")
    if isinstance(model, str):
        adapted.put(("model",), model, ("model",))
        return
    if "model" not in data:
        adapted.put(("model",), {"id": "?"}, ())
        return
    if not is_mapping(model):
        expected(("model",), "a mapping", model, findings)
        adapted.put(("model",), {"id": "?"}, ("model",))
        return
    refuse_others(model, ("model",), ("id", "options"), findings, dialect=TITLE)
    options = mapping(model, ("model",), "options", findings)
    refuse_others(options, ("model", "options"), ("temperature", "top_p"), findings, dialect=TITLE)
    kept = {k: v for k, v in options.items() if k in ("temperature", "top_p") and v is not None}
    fields: dict[str, Any] = {"options": kept}
    if "id" in model:
        fields["id"] = model["id"]
    adapted.put(("model",), fields, ("model",))


def _tools(data: Mapping[str, Any], adapted: Adapted, findings: Findings) -> None:
    tools = data.get("tools")
    if tools is None:
        return
    if not is_list(tools):
        expected(("tools",), "a list", tools, findings)
        return
    for n, tool in enumerate(tools):
        path: KeyPath = ("tools", n)
        if not is_mapping(tool):
            expected(path, "a mapping", tool, findings)
        elif not isinstance(tool.get("type"), str):
            missing("type", path, findings, hint=f"one of {', '.join(KINDS)}")
        else:
            _tool(tool, path, adapted, findings)


def _tool(tool: Mapping[str, Any], path: KeyPath, adapted: Adapted, findings: Findings) -> None:
    kind: str = tool["type"]
    if kind == "function":
        _function(tool, path, adapted, findings)
        return
    if kind not in (*KINDS, *FUTURE_TOOLS, *HOSTED_TOOLS):
        said = f"'{short(kind)}' is not a type of tool"
        findings.add("TR103", said, (*path, "type"), hint=suggest(kind, KINDS))
        return
    options = mapping(tool, path, "options", findings)
    rest = {k: v for k, v in tool.items() if k not in _PLAIN and not k.startswith("x-")}
    if rest:
        said = f"this {kind} tool has the shape of the REST API; it is read as such"
        findings.add(
            "TR201", said, path, at="parent", severity="note", hint=f"move {', '.join(rest)} below options"
        )
        inner = rest.pop(kind, None)
        options |= rest | (inner if is_mapping(inner) else {})
    _specification(options, path, findings, is_direct="specification" in rest)
    name = _named(tool, options, path, findings)
    if kind == "openapi" and not name:
        missing("id", path, findings)
    carry_tool(
        adapted, path, kind=kind, name=name, description=tool.get("description") or "", options=options
    )


def _named(
    tool: Mapping[str, Any], options: Mapping[str, Any], path: KeyPath, findings: Findings
) -> str | None:
    for holder, key in ((tool, "id"), (tool, "name"), (options, "server_label"), (options, "name")):
        name = holder.get(key)
        if name in (None, ""):
            continue
        if isinstance(name, str):
            return name
        at = (*path, key) if holder is tool else (*path, "options", key)
        findings.add("TR102", f"{key} must be a string, not {shape(name)}", at)
        return None
    return None


def _specification(options: dict[str, Any], path: KeyPath, findings: Findings, *, is_direct: bool) -> None:
    """Parse the description of an API, which this format keeps as JSON in a string."""
    text = options.get("specification")
    if not isinstance(text, str):
        return
    try:
        options["specification"] = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = (*path, "specification") if is_direct else (*path, "options", "specification")
        findings.add(
            "TR103", f"the specification is not JSON: {error}", at, hint="paste the API's JSON description"
        )


def _function(tool: Mapping[str, Any], path: KeyPath, adapted: Adapted, findings: Findings) -> None:
    inner = tool.get("function")
    if not is_mapping(inner):
        missing(
            "function",
            path,
            findings,
            hint="this format has no functions; write the native format: kind: agent",
        )
        return
    said = "functions are not part of this format; it is read in the shape of the REST API"
    findings.add("TR201", said, path, at="parent", severity="note")
    carry_function(adapted, inner, path, (*path, "function"), findings)
