"""Foreign dialects: which one a document is written in, and the adapter that brings it to the native shape.

A dialect is recognised by its keys, never by the name of its file. An adapter gives data in the native shape
and a map from each new path to the path the user wrote, so that problems stand where the user made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

from treadle.definition.dialects.adapting import Adapted
from treadle.definition.document import Findings, is_list, is_mapping, listed

Adapter: TypeAlias = Callable[[Mapping[str, Any], Findings], Adapted]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a document is read; no adapter means the native format."""

    name: str
    title: str
    adapt: Adapter | None = None


TITLES: Mapping[str, str] = {
    "native": "treadle 1.0.0",
    "foundry-vscode": "Foundry VS Code 1.0.0",
    "rest": "REST object (assistant)",
    "agentschema": "AgentSchema prompt",
    "agent-framework": "Agent Framework prompt",
}
NAMES = tuple(TITLES)

_MODULES = {
    "foundry-vscode": "treadle.definition.dialects.foundry_vscode",
    "rest": "treadle.definition.dialects.rest",
    "agentschema": "treadle.definition.dialects.agentschema",
    "agent-framework": "treadle.definition.dialects.agent_framework",
}
_NATIVE_KINDS = frozenset({"agent", "workflow", "project"})
_NATIVE_ONLY = frozenset(
    [
        "inputs",
        "output",
        "limits",
        "thread",
        "approval",
        "tests",
        "tool_choice",
        "retry",
        "timeout",
        "connections",
        "additional_instructions",
        "extends",
        "env",
        "python",
        "allow",
        "models",
        "templates",
        "defaults",
        "store",
        "nodes",
    ]
)
_REST_ONLY = frozenset(["tool_resources", "response_format", "temperature", "top_p", "created_at"])
_SCHEMA_ONLY = frozenset(["displayName", "inputSchema", "outputSchema", "additionalInstructions", "template"])
_KERNEL = frozenset(
    [
        "foundry_agent",
        "chat_completion_agent",
        "openai_assistant",
        "azure_assistant",
        "openai_responses",
        "azure_responses",
        "azureai_agent",
    ]
)


def recognise(data: Mapping[str, Any], findings: Findings, *, wanted: str | None = None) -> Reading | None:
    """Tell how a document is read, or report why it cannot be and give None.

    `wanted` is the user's own word; a document that names a native kind is native all the same.
    """
    kind = data.get("kind")
    if not isinstance(kind, str | None):
        return Reading("native", TITLES["native"])
    if kind in _NATIVE_KINDS or (kind == "prompt" and "version" in data and wanted in (None, "native")):
        return Reading("native", TITLES["native"])
    if wanted is not None:
        return _reading(wanted)
    refused = _refused(data)
    if refused is not None:
        key, what, hint = refused
        findings.add("TR302", what, (key,), at="key", hint=hint)
        return None
    if kind in ("Prompt", "Agent"):
        return _reading("agent-framework")
    if kind == "prompt":
        return _reading("agentschema")
    if "kind" in data or _is_native(data):
        return Reading("native", TITLES["native"])
    if data.get("object") == "assistant":
        return _reading("rest")
    return _by_signs(data, findings)


def _reading(name: str) -> Reading:
    if name == "native":
        return Reading(name, TITLES[name])
    return Reading(name, TITLES[name], import_module(_MODULES[name]).adapt)


def _is_native(data: Mapping[str, Any]) -> bool:
    """Tell whether a document without `kind` is a native one whose author forgot it."""
    if "version" not in data or _agentschema(data) > 1:
        return False
    tools = data.get("tools")
    has_functions = is_list(tools) and any(
        is_mapping(t) and t.get("type") == "function" and "function" not in t and "options" not in t
        for t in tools
    )
    return has_functions or bool(_NATIVE_ONLY & set(data))


def _by_signs(data: Mapping[str, Any], findings: Findings) -> Reading | None:
    signs = {"foundry-vscode": _vscode(data), "rest": _rest(data), "agentschema": _agentschema(data)}
    most = max(signs.values())
    best = [name for name, count in signs.items() if count == most]
    if most == 0:
        return Reading("native", TITLES["native"])
    if len(best) > 1:
        names = listed([TITLES[b] for b in best], "or")
        hint = f"say which: --dialect {best[0]}"
        findings.add("TR107", f"this document may be {names}", (), at="parent", hint=hint)
        return None
    return _reading(best[0])


def _vscode(data: Mapping[str, Any]) -> int:
    return int("version" in data) + int(any("options" in t and "type" in t for t in _tools(data)))


def _rest(data: Mapping[str, Any]) -> int:
    return len(_REST_ONLY & set(data)) and 1 + int(isinstance(data.get("model"), str))


def _agentschema(data: Mapping[str, Any]) -> int:
    model = data.get("model")
    keys = set(model) if is_mapping(model) else set[str]()
    signs = bool(_SCHEMA_ONLY & set(data)) or bool({"apiType", "publisher"} & keys)
    signs |= "version" not in data and bool({"provider", "api", "connection"} & keys)
    signs |= any("kind" in t and "type" not in t for t in _tools(data))
    return 2 * int(signs) or int("version" not in data and isinstance(data.get("inputs"), dict | list))


def _tools(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = data.get("tools")
    if is_mapping(tools):
        tools = list(tools.values())
    return [t for t in tools if is_mapping(t)] if is_list(tools) else []


def _refused(data: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Give the key, the words and the way out for formats that are known by name and not loaded."""
    kind = data.get("kind")
    if not isinstance(kind, str):
        kind = ""
    wait = "declare the agent in the native format"
    if kind == "hosted":
        return "kind", "an agent of kind 'hosted' is a container and needs a host for it", wait
    if kind == "Workflow" or is_mapping(data.get("trigger")):
        return ("kind" if kind else "trigger"), "this is a Foundry workflow; those are not read yet", wait
    if kind == "AdaptiveDialog":
        return (
            "kind",
            "this is a Copilot Studio topic; it needs intents and connectors that are not here",
            wait,
        )
    if data.get("object") == "agent.version":
        return (
            "object",
            "this is an agent version of the portal; those are not read yet",
            "paste its definition",
        )
    if isinstance(data.get("type"), str) and data["type"] in _KERNEL:
        return "type", "this is a Semantic Kernel agent; those are not read yet", wait
    if is_mapping(data.get("template")) and (
        {"parameters", "resources"} & set(data) or "kind" in data["template"]
    ):
        return "template", "this is an AgentSchema manifest; those are not read yet", "fill in its template"
    if kind:
        return None
    for key, what in (
        ("actions", "an Agent Framework workflow"),
        ("apiVersion", "a Kubernetes resource"),
        ("agentspec_version", "an Open Agent Spec document"),
        ("agent_class", "an ADK agent"),
        ("prompty", "a prompty file"),
    ):
        if key in data:
            return key, f"this is {what}; those are not read yet", wait
    if is_mapping(data.get("document")) and "dsl" in data["document"]:
        return "document", "this is a Serverless Workflow; those are not read yet", wait
    return None
