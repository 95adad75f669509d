"""Turn what Python hands a graph into the plain data that a document would hold: JSON, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel

from treadle.definition.scalars import ScalarError, checked
from treadle.errors import GraphError
from treadle.graph.callables import call_of
from treadle.graph.document import node_document, record_document
from treadle.objects.record import Record
from treadle.objects.workflow import NodeSpec, Reducer


def plain(value: object, what: str, *, node: str | None = None) -> Any:
    """Give a value as plain data; records, model classes (as their JSON Schema), paths and lengths of time included.

    Errors: GraphError for what no document can hold; `what` says which value it is.
    """
    match value:
        case None | bool():
            return value
        case str():
            return _text(value, what, node)
        case int():
            return _whole(value, what, node)
        case float():
            if not math.isfinite(value):
                raise _refused(f"{value} is not a number that JSON can hold", what, node)
            return value
        case NodeSpec():
            return node_document(value)
        case Record():
            return record_document(value)
        case Path():
            return value.as_posix()
        case timedelta():
            return f"{value.total_seconds():g}s"
        case type() if issubclass(value, BaseModel):
            return schema_of(value)
        case _:
            return _inner(value, what, node)


def _inner(value: object, what: str, node: str | None) -> Any:
    if isinstance(value, Mapping):
        out: dict[str, Any] = {}
        for key, inner in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise _refused(f"the key {key!r} is no text", what, node)
            out[_text(key, what, node)] = plain(inner, f"{what}.{key}", node=node)
        return out
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        return [plain(item, f"{what}[{n}]", node=node) for n, item in enumerate(items)]
    raise _refused(f"a value of type {type(value).__name__} cannot stand in a document", what, node)


def _text(value: str, what: str, node: str | None) -> str:
    try:
        return checked(str(value))
    except ScalarError as error:
        raise _refused(str(error), what, node) from error


def _whole(value: int, what: str, node: str | None) -> int:
    if not -(2**63) <= value < 2**63:
        raise _refused("the number does not fit in 64 bits", what, node)
    return int(value)


def _refused(said: str, what: str, node: str | None) -> GraphError:
    where = f"{what} of node '{node}'" if node else what
    hint = "give text, numbers, true or false, None, and lists and mappings of these"
    return GraphError(f"{where}: {said}", node=node, hint=hint)


def declared(value: object, what: str, *, has_reducers: bool = False) -> dict[str, Any]:
    """Give what inputs or a state declare: a mapping of names to schemas, or a pydantic model class with a field for each.

    A field of a model that declares a state says its reducer in its annotation: `Annotated[list[str], "append"]`.
    """
    if not (isinstance(value, type) and issubclass(value, BaseModel)):
        found = plain(cast("object", value), what)
        if not isinstance(found, dict):
            raise _refused("it is neither a mapping nor a pydantic model class", what, None)
        return cast("dict[str, Any]", found)
    whole = schema_of(value)
    shared = whole.get("$defs")
    out: dict[str, Any] = {}
    for name, field in value.model_fields.items():
        schema = dict(whole["properties"][field.alias or name])
        schema.pop("default", None)
        if shared and "$ref" in str(schema):
            schema["$defs"] = shared
        if not field.is_required():
            default = field.get_default(call_default_factory=True, validated_data={})
            schema["default"] = _as_json(default, f"{what}.{name}")
        for word in field.metadata:
            if has_reducers and isinstance(word, str) and word in get_args(Reducer):
                schema["reduce"] = word
        out[field.alias or name] = schema
    return out


def _as_json(value: object, what: str) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else plain(value, what)


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Give the JSON Schema of a pydantic model, without what says nothing: titles that are names, "anything further goes"."""
    return _bare(model.model_json_schema())


def _bare(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bare(s) for s in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", schema).items():
        if (key == "title" and isinstance(value, str)) or (key == "additionalProperties" and value is True):
            continue
        if key in ("default", "const", "enum", "examples"):
            out[key] = value
        elif key in ("properties", "$defs", "patternProperties", "dependentSchemas"):
            out[key] = {name: _bare(inner) for name, inner in value.items()}
        else:
            out[key] = _bare(value)
    return out


def tool_document(tool: object, functions: dict[str, Callable[..., Any]], *, node: str | None = None) -> Any:
    """Give a tool as a document declares it: a record, a mapping, the name of one, or a function of a module."""
    if callable(tool) and not isinstance(tool, type):
        call = call_of(tool, "a tool", node=node)
        functions[call] = tool
        return {"type": "function", "name": call.rpartition(":")[2].rpartition(".")[2], "call": call}
    return plain(tool, "tool", node=node)
