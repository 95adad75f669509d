"""What the adapters of all dialects do alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import combining, normalize

from treadle.definition.document import Findings, KeyPath, is_mapping, listed, shape, short, suggest
from treadle.errors import Severity
from treadle.objects.tool import FUTURE_TOOLS, HOSTED_TOOLS

_ODD = re.compile(r"[^A-Za-z0-9_. -]+")


@dataclass(slots=True)
class Adapted:
    """A document in the native shape, and where each part of it was written."""

    data: dict[str, Any] = field(default_factory=dict[str, Any])
    moves: dict[KeyPath, KeyPath] = field(default_factory=dict["KeyPath", "KeyPath"])

    def put(self, new: KeyPath, value: Any, old: KeyPath) -> None:
        """Set a value at a path of the native document, taken from a path of the user's."""
        inside: Any = self.data
        for n, item in enumerate(new[:-1]):
            if isinstance(item, str) and item not in inside:
                inside[item] = {}
                self.moves.setdefault(new[: n + 1], old[: n + 1])
            inside = inside[item]
        inside[new[-1]] = value
        self.moves[new] = old


def mapping(data: Mapping[str, Any], path: KeyPath, key: str, findings: Findings) -> dict[str, Any]:
    """Give the mapping under a key; an empty one, after reporting it, where something else stands."""
    value = data.get(key)
    if value is None:
        return {}
    if is_mapping(value):
        return dict(value)
    findings.add(
        "TR102", f"{findings.where((*path, key))} must be a mapping, not {shape(value)}", (*path, key)
    )
    return {}


def refuse_others(
    data: Mapping[str, Any],
    path: KeyPath,
    known: tuple[str, ...],
    findings: Findings,
    *,
    severity: Severity = "error",
    dialect: str,
) -> None:
    """Report keys that the dialect does not have; x- keys pass."""
    for key in data:
        if key in known or key.startswith("x-") or findings.is_full:
            continue
        inside = f" in {findings.where(path)}" if path else ""
        hint = suggest(key, known)
        said = f"unknown field '{short(key)}'{inside}"
        if severity != "error":
            said = f"{said}: {dialect} does not have it, and it is left out"
        findings.add("TR104", said, (*path, key), at="key", severity=severity, hint=hint)


def drop(data: Mapping[str, Any], keys: tuple[str, ...], reason: str, findings: Findings) -> None:
    """Note, once, the keys that are read and left out."""
    found = [k for k in data if k in keys and data[k] not in (None, "", {}, [])]
    if found:
        are = "is" if len(found) == 1 else "are"
        said = f"{listed([repr(k) for k in found])} {are} left out: {reason}"
        findings.add("TR204", said, (found[0],), at="key", severity="note")


def carry_name(data: Mapping[str, Any], adapted: Adapted, findings: Findings, *, shown: str = "name") -> None:
    """Take the name over; one that the native format cannot hold becomes the display name."""
    name = data.get(shown)
    if name is None:
        return
    if not isinstance(name, str):
        findings.add("TR102", f"name must be a string, not {shape(name)}", (shown,))
        return
    bare = "".join(c for c in normalize("NFKD", name) if not combining(c))
    plain = _ODD.sub("-", bare).strip("-. _")[:256]
    if plain != name or not plain:
        plain = plain or "agent"
        adapted.put(("display_name",), name, (shown,))
        said = f"the name is kept as display_name; here the agent is called '{plain}'"
        findings.add("TR204", said, (shown,), severity="note")
    adapted.put(("name",), plain, (shown,))


def unavailable(kind: str) -> str:
    """Say why a tool of a kind cannot run."""
    if kind in FUTURE_TOOLS:
        return f"tools of type '{kind}' are not built yet"
    if kind in HOSTED_TOOLS or kind.startswith("bing_"):
        return f"tools of type '{kind}' run on the hosted service only"
    return f"nothing here runs tools of type '{kind}'"


def carry_tool(
    adapted: Adapted,
    old: KeyPath,
    *,
    kind: str,
    name: str | None = None,
    description: object = "",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Add a tool that nothing here can run, with all it declares."""
    tool: dict[str, Any] = {"type": kind, "unavailable": unavailable(kind), "options": dict(options or {})}
    if name:
        tool["name"] = name
    if description:
        tool["description"] = description
    append_tool(adapted, tool, old)


def append_tool(adapted: Adapted, tool: Mapping[str, Any], old: KeyPath) -> int:
    """Add a tool at the end of the native list; give its index."""
    tools: list[Any] = adapted.data.setdefault("tools", [])
    adapted.moves.setdefault(("tools",), old[:1])
    adapted.moves["tools", len(tools)] = old
    tools.append(dict(tool))
    return len(tools) - 1


def carry_function(
    adapted: Adapted, declared: Mapping[str, Any], old: KeyPath, inner: KeyPath, findings: Findings
) -> None:
    """Add a function of the REST shape: `function: {name, description, parameters, strict}`.

    `old` is the path of the tool, `inner` the one of the mapping that names the function.
    """
    known = ("name", "description", "parameters", "strict")
    refuse_others(declared, inner, known, findings, dialect="the REST object")
    tool: dict[str, Any] = {"type": "function"}
    n = append_tool(adapted, tool, old)
    for key in known:
        if declared.get(key) is not None:
            adapted.put(("tools", n, key), declared[key], (*inner, key))
    if is_mapping(declared.get("parameters", {})):
        parameters: dict[str, Any] = {"type": "object", "properties": {}}
        parameters |= declared.get("parameters") or {}
        adapted.put(("tools", n, "parameters"), parameters, (*inner, "parameters"))
