"""The prompt agent of AgentSchema v1, with or without `kind: prompt`.

Its keys are in camel case. Only keys that the format defines are renamed; names that people chose (of inputs,
properties, metadata) are left alone. Its own examples use keys that its schema lacks, so unknown ones are a
warning here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from treadle.definition.dialects.adapting import (
    Adapted,
    append_tool,
    carry_name,
    carry_tool,
    drop,
    mapping,
    refuse_others,
)
from treadle.definition.document import Findings, KeyPath, is_list, is_mapping, shape, short, suggest
from treadle.definition.json_schema import TYPES
from treadle.definition.validation import expected, missing
from treadle.errors import Severity

TITLE = "AgentSchema"

_TOP = [
    "kind",
    "version",
    "id",
    "name",
    "displayName",
    "description",
    "metadata",
    "inputSchema",
    "outputSchema",
    "inputs",
    "outputs",
    "model",
    "tools",
    "template",
    "instructions",
    "additionalInstructions",
]
_MODEL = ("id", "provider", "publisher", "apiType", "api", "connection", "options")
_OPTIONS: Mapping[str, KeyPath] = {
    "frequencyPenalty": ("frequency_penalty",),
    "maxOutputTokens": ("max_output_tokens",),
    "presencePenalty": ("presence_penalty",),
    "seed": ("seed",),
    "temperature": ("temperature",),
    "topK": ("extra", "top_k"),
    "topP": ("top_p",),
    "stopSequences": ("stop",),
    "allowMultipleToolCalls": ("parallel_tool_calls",),
}
_PROPERTY = frozenset(
    [
        "name",
        "kind",
        "type",
        "description",
        "required",
        "default",
        "example",
        "enumValues",
        "enum",
        "items",
        "properties",
        "title",
        "strict",
    ]
)
_KINDS = {
    "float": "number",
    "int": "integer",
    "bool": "boolean",
    "str": "string",
    "list": "array",
    "dictionary": "object",
}
_SECTION = re.compile(r"\{\{\{|\{\{\s*[#/^>&!=]")
_ROLE = re.compile(r"^\s*(system|user|assistant)\s*:\s*$", re.MULTILINE)


def adapt(data: Mapping[str, Any], findings: Findings) -> Adapted:
    """Bring the document to the native shape."""
    return adapt_as(data, findings, dialect=TITLE, severity="warning")


def adapt_as(data: Mapping[str, Any], findings: Findings, *, dialect: str, severity: Severity) -> Adapted:
    """Bring a document of this family to the native shape; unknown keys weigh what `severity` says."""
    adapted = Adapted({"version": "1.0.0"} | {k: v for k, v in data.items() if k.startswith("x-")})
    reader = _Reader(adapted, findings, dialect, severity)
    reader.read({k: v for k, v in data.items() if v is not None})
    return adapted


class _Reader:
    def __init__(self, adapted: Adapted, findings: Findings, dialect: str, severity: Severity) -> None:
        self.adapted = adapted
        self.findings = findings
        self.dialect = dialect
        self.severity: Severity = severity

    def read(self, data: Mapping[str, Any]) -> None:
        self._others(data, (), tuple(_TOP))
        drop(data, ("id", "version"), "here an agent gets its own", self.findings)
        carry_name(data, self.adapted, self.findings)
        for key, new in (
            ("description", "description"),
            ("metadata", "metadata"),
            ("displayName", "display_name"),
        ):
            if key in data:
                self.adapted.put((new,), data[key], (key,))
        self._model(data)
        self._inputs(data)
        self._output(data)
        self._instructions(data)
        self._tools(data.get("tools"))

    def _others(self, data: Mapping[str, Any], path: KeyPath, known: tuple[str, ...]) -> None:
        refuse_others(data, path, known, self.findings, severity=self.severity, dialect=self.dialect)

    def _model(self, data: Mapping[str, Any]) -> None:
        model = data.get("model")
        if isinstance(model, str):
            self.adapted.put(("model", "id"), model, ("model",))
        elif model is None:
            missing("model", (), self.findings)
            self.adapted.put(("model", "id"), "?", ())
        elif not is_mapping(model):
            expected(("model",), "a string or a mapping", model, self.findings)
            self.adapted.put(("model", "id"), "?", ("model",))
        else:
            self._others(model, ("model",), _MODEL)
            self.adapted.put(("model",), {}, ("model",))
            if "id" in model:
                self.adapted.put(("model", "id"), model["id"], ("model", "id"))
            for key in ("publisher", "apiType", "api"):
                if model.get(key) not in (None, "chat", "Chat"):
                    said = f"model.{key} is left out: chat is what is spoken"
                    self.findings.add("TR204", said, ("model", key), at="key", severity="note")
            self._connection(model)
            self._options(mapping(model, ("model",), "options", self.findings))

    def _connection(self, model: Mapping[str, Any]) -> None:
        path: KeyPath = ("model", "connection")
        connection, provider = model.get("connection"), model.get("provider")
        is_azure = isinstance(provider, str) and provider.lower().startswith("azure")
        if not is_mapping(connection):
            if connection is not None:
                self.adapted.put(path, connection, path)
            if provider is not None:
                said = "model.provider is left out: the connection says which endpoint answers"
                self.findings.add("TR204", said, ("model", "provider"), at="key", severity="note")
            return
        kind = str(connection.get("kind", "reference")).lower()
        if kind == "reference":
            name = next((connection[k] for k in ("name", "target") if connection.get(k)), None)
            if name is None:
                missing("name", path, self.findings)
            else:
                key = "name" if connection.get("name") else "target"
                self.adapted.put(path, name, (*path, key))
            return
        if kind not in ("key", "apikey", "remote", "anonymous"):
            said = f"a connection of kind '{short(kind)}' needs the hosted service"
            self.findings.add(
                "TR302", said, (*path, "kind"), hint="name a connection of treadle.yaml instead"
            )
            return
        self.adapted.put(path, "model", path)
        self.adapted.put(("connections", "model", "type"), "azure_openai" if is_azure else "openai", path)
        for key, new in (("endpoint", "base_url"), ("apiKey", "api_key"), ("key", "api_key")):
            if connection.get(key) is not None:
                self.adapted.put(("connections", "model", new), connection[key], (*path, key))
        known = (
            "kind",
            "name",
            "target",
            "endpoint",
            "apiKey",
            "key",
            "authenticationMode",
            "usageDescription",
        )
        self._others(connection, path, known)

    def _options(self, options: Mapping[str, Any]) -> None:
        path: KeyPath = ("model", "options")
        self._others(options, path, (*_OPTIONS, "additionalProperties"))
        for key, new in _OPTIONS.items():
            if options.get(key) is not None:
                self.adapted.put((*path, *new), options[key], (*path, key))
        for key, value in mapping(options, path, "additionalProperties", self.findings).items():
            self.adapted.put((*path, "extra", key), value, (*path, "additionalProperties", key))

    def _inputs(self, data: Mapping[str, Any]) -> None:
        key = "inputSchema" if "inputSchema" in data else "inputs"
        for name, declared, old in self._properties(data.get(key), (key,)):
            schema, required = self._property(declared, old, ("inputs", name))
            if is_mapping(declared) and "default" in declared:
                schema["default"] = declared["default"]
            schema["required"] = required
            self.adapted.data.setdefault("inputs", {})[name] = schema
            self.adapted.moves["inputs", name] = old
        self.adapted.moves.setdefault(("inputs",), (key,))

    def _output(self, data: Mapping[str, Any]) -> None:
        key = "outputSchema" if "outputSchema" in data else "outputs"
        if key not in data:
            return
        schema = self._object(data[key], (key,), ("output", "schema"))
        self.adapted.put(("output",), {"schema": schema | {"additionalProperties": False}}, (key,))
        self.adapted.moves["output", "schema"] = (key,)

    def _object(self, declared: Any, old: KeyPath, new: KeyPath) -> dict[str, Any]:
        """Give the JSON Schema of an object from a set of properties."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        listed_ = declared.get("required") if is_mapping(declared) else None
        for name, inner, path in self._properties(declared, old):
            at = (*new, "properties", name)
            properties[name], needed = self._property(inner, path, at)
            self.adapted.moves[at] = path
            if needed or (is_list(listed_) and name in listed_):
                required.append(name)
        return {"type": "object", "properties": properties, "required": required}

    def _properties(self, declared: Any, path: KeyPath) -> list[tuple[str, Any, KeyPath]]:
        """Give name, declaration and path of each property: from a map, from a list, or from below `properties`."""
        if declared is None:
            return []
        if is_mapping(declared) and isinstance(declared.get("properties"), dict | list):
            return self._properties(declared["properties"], (*path, "properties"))
        if is_mapping(declared):
            return [(k, v, (*path, k)) for k, v in declared.items() if k != "strict" or is_mapping(v)]
        if not is_list(declared):
            expected(path, "a mapping or a list", declared, self.findings)
            return []
        out: list[tuple[str, Any, KeyPath]] = []
        for n, item in enumerate(declared):
            at = (*path, n)
            if not is_mapping(item):
                expected(at, "a mapping", item, self.findings)
            elif not isinstance(item.get("name"), str):
                missing("name", at, self.findings)
            else:
                out.append((item["name"], item, at))
        return out

    def _property(self, declared: Any, old: KeyPath, new: KeyPath) -> tuple[dict[str, Any], bool]:
        """Give a property's JSON Schema and whether it is required; a bare value is an example."""
        if not is_mapping(declared):
            return self._example(declared, old), False
        schema: dict[str, Any] = {}
        for key in declared:
            if key not in _PROPERTY and not key.startswith("x-"):
                schema[key] = declared[key]
        key = "kind" if "kind" in declared else "type"
        if key in declared:
            schema["type"] = self._kind(declared[key], (*old, key))
            self.adapted.moves[*new, "type"] = (*old, key)
        for source, name in (("description", "description"), ("title", "title")):
            if source in declared:
                schema[name] = declared[source]
        if "default" in declared:
            schema["default"] = declared["default"]
        if "example" in declared:
            schema["examples"] = [declared["example"]]
        for source in ("enumValues", "enum"):
            if source in declared:
                schema["enum"] = declared[source]
                self.adapted.moves[*new, "enum"] = (*old, source)
        self._inside(declared, schema, old, new)
        return schema, declared.get("required") is True

    def _inside(
        self, declared: Mapping[str, Any], schema: dict[str, Any], old: KeyPath, new: KeyPath
    ) -> None:
        if "items" in declared:
            schema["items"] = self._property(declared["items"], (*old, "items"), (*new, "items"))[0]
        if "properties" in declared:
            inner = self._object({"properties": declared["properties"]}, old, new)
            named = declared.get("required")
            inner["required"] = named if is_list(named) else inner["required"]
            schema |= inner

    def _kind(self, kind: Any, path: KeyPath) -> Any:
        if not isinstance(kind, str):
            return kind
        plain = _KINDS.get(kind, kind)
        if plain not in TYPES:
            said = f"'{short(kind)}' is not a kind of property"
            self.findings.add("TR103", said, path, hint=suggest(kind, list(TYPES)))
            return "string"
        return plain

    def _example(self, value: Any, path: KeyPath) -> dict[str, Any]:
        if isinstance(value, bool):
            return {"type": "boolean", "examples": [value]}
        if isinstance(value, int | float):
            return {"type": "number", "examples": [value]}
        if isinstance(value, str):
            return {"type": "string", "examples": [value]}
        self.findings.add(
            "TR102", f"a property must be a mapping or an example value, not {shape(value)}", path
        )
        return {}

    def _instructions(self, data: Mapping[str, Any]) -> None:
        template = data.get("template")
        format_ = template.get("format") if is_mapping(template) else template
        if is_mapping(format_):
            format_ = format_.get("kind")
        parser = template.get("parser") if is_mapping(template) else None
        told, more = data.get("instructions"), data.get("additionalInstructions")
        is_template = format_ is not None or bool(self.adapted.data.get("inputs"))
        for key, text in (("instructions", told), ("additionalInstructions", more)):
            if isinstance(text, str) and is_template:
                self._check_text(text, (key,), format_, parser)
        if told is not None:
            self.adapted.put(("instructions", "template" if is_template else "text"), told, ("instructions",))
        if more is not None:
            self.adapted.put(("additional_instructions",), more, ("additionalInstructions",))
            if isinstance(more, str) and not is_template and ("{{" in more or "{%" in more or "{#" in more):
                self.adapted.data["additional_instructions"] = "{% raw %}" + more + "{% endraw %}"

    def _check_text(self, text: str, path: KeyPath, format_: Any, parser: Any) -> None:
        """Refuse what another template language or a chat markup would mean by the same text."""
        if isinstance(format_, str) and format_.lower() not in (
            "jinja2",
            "jinja",
            "mustache",
            "handlebars",
            "liquid",
        ):
            said = f"'{short(format_)}' is not a template format that is read here"
            self.findings.add("TR302", said, ("template", "format"), hint="write Jinja: format: jinja2")
        if isinstance(format_, str) and format_.lower() in ("mustache", "handlebars"):
            found = _SECTION.search(text)
            if found:
                self._at(path, text, found, f"sections of {format_} are not read", "write Jinja: {% if … %}")
        role = _ROLE.search(text) if parser is not None else None
        if role:
            self._at(
                path, text, role, "roles inside the instructions are not read", "keep the system text only"
            )

    def _at(self, path: KeyPath, text: str, found: re.Match[str], said: str, hint: str) -> None:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - (text.rfind("\n", 0, found.start()) + 1) + 1
        self.findings.add_within("TR302", said, path, line=line, column=column, name=found.group(), hint=hint)

    def _tools(self, tools: Any) -> None:
        if tools is None:
            return
        if is_mapping(tools):
            pairs: list[tuple[KeyPath, str | None, Any]] = [(("tools", k), k, v) for k, v in tools.items()]
        elif is_list(tools):
            pairs = [(("tools", n), None, v) for n, v in enumerate(tools)]
        else:
            expected(("tools",), "a list or a mapping", tools, self.findings)
            return
        for path, name, tool in pairs:
            if not is_mapping(tool):
                expected(path, "a mapping", tool, self.findings)
                continue
            key = "kind" if "kind" in tool else "type"
            if not isinstance(tool.get(key), str):
                missing("kind", path, self.findings)
                continue
            self._tool(tool, path, tool[key], name)

    def _tool(self, tool: Mapping[str, Any], path: KeyPath, kind: str, key: str | None) -> None:
        named = tool.get("name", key)
        name = named if isinstance(named, str) else key
        if kind != "function":
            options = {k: v for k, v in tool.items() if k not in ("kind", "type", "name", "description")}
            text = tool.get("description")
            described = text if isinstance(text, str) else ""
            carry_tool(self.adapted, path, kind=kind, name=name, description=described, options=options)
            return
        self._others(tool, path, ("kind", "type", "name", "description", "parameters", "strict", "bindings"))
        if tool.get("bindings"):
            said = "bindings of a function are known to the format but not built yet"
            self.findings.add(
                "TR302", said, (*path, "bindings"), at="key", hint="let the model give the arguments"
            )
        n = append_tool(self.adapted, {"type": "function"}, path)
        new: KeyPath = ("tools", n)
        if name is not None:
            self.adapted.put((*new, "name"), name, (*path, "name") if "name" in tool else path)
        for field in ("description", "strict"):
            if tool.get(field) is not None:
                self.adapted.put((*new, field), tool[field], (*path, field))
        old = (*path, "parameters")
        self.adapted.put(
            (*new, "parameters"), self._object(tool.get("parameters"), old, (*new, "parameters")), old
        )
