"""Check that a mapping is a JSON Schema, keyword by keyword, so that each mistake has a place.

Small on purpose: it knows the keywords that models and people use, in the common ground of draft-07 and
2020-12, and lets unknown keywords pass. Loading the validator itself would cost every start more than the
whole of loading does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.definition.document import Findings, KeyPath, is_list, is_mapping, listed, nearest, shape, short

TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_SCHEMAS = (
    "additionalProperties",
    "items",
    "additionalItems",
    "not",
    "contains",
    "propertyNames",
    "if",
    "then",
    "else",
)
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def check_schema(schema: Any, path: KeyPath, findings: Findings, *, is_object: bool = False) -> bool:
    """Report what is not JSON Schema in the value at `path`; tell whether it is sound.

    `is_object` asks for a schema of an object, as the parameters of a function and structured answers need it.
    """
    before = len(findings.problems)
    if is_mapping(schema) and is_object and schema.get("type") != "object":
        got = schema.get("type")
        if got is None:
            findings.add(
                "TR111",
                f"{findings.where(path)} must be a schema of an object",
                path,
                at="key",
                hint="write: type: object",
            )
        else:
            said = f"{findings.where(path)}.type must be 'object'"
            findings.add(
                "TR111",
                said,
                (*path, "type"),
                hint="an object holds the values by their names: write type: object, with properties",
            )
    _schema(schema, path, findings)
    return len(findings.problems) == before


def _schema(schema: Any, path: KeyPath, findings: Findings) -> None:
    if isinstance(schema, bool) or findings.is_full:
        return
    if not is_mapping(schema):
        findings.add("TR111", f"{findings.where(path)} must be a JSON Schema, not {shape(schema)}", path)
        return
    for key, value in schema.items():
        _keyword(key, value, (*path, key), findings)


def _keyword(key: str, value: Any, path: KeyPath, findings: Findings) -> None:
    if key == "type":
        _type(value, path, findings)
    elif key in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            findings.add("TR111", f"{findings.where(path)} must be a whole number of at least 0", path)
    elif key in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            findings.add("TR111", f"{findings.where(path)} must be a number", path)
    elif key == "required":
        _names(value, path, findings)
    elif key == "enum":
        if not is_list(value):
            findings.add("TR111", f"{findings.where(path)} must be a list of values", path)
    elif key == "pattern":
        _pattern(value, path, findings)
    elif key == "$ref":
        if not isinstance(value, str) or not value.startswith("#"):
            findings.add(
                "TR111",
                f"{findings.where(path)} must point into this schema",
                path,
                hint="write: '#/$defs/name'",
            )
    else:
        _inner(key, value, path, findings)


def _inner(key: str, value: Any, path: KeyPath, findings: Findings) -> None:
    if key in _LISTS or (key == "items" and is_list(value)):
        if not is_list(value) or not value:
            findings.add("TR111", f"{findings.where(path)} must be a list of schemas", path)
            return
        for n, item in enumerate(value):
            _schema(item, (*path, n), findings)
    elif key in _SCHEMAS:
        _schema(value, path, findings)
    elif key in _MAPS:
        if not is_mapping(value):
            findings.add("TR111", f"{findings.where(path)} must be a mapping of names to schemas", path)
            return
        for name, item in value.items():
            _schema(item, (*path, name), findings)


def _type(value: Any, path: KeyPath, findings: Findings) -> None:
    values: Sequence[Any] = value if is_list(value) else [value]
    if not values:
        findings.add("TR111", f"{findings.where(path)} must name a type", path)
    for n, item in enumerate(values):
        if isinstance(item, str) and item in TYPES:
            continue
        at = (*path, n) if is_list(value) else path
        if item is None:
            hint = "quote it: 'null'"
        else:
            near = nearest(item, TYPES) if isinstance(item, str) else None
            hint = f"did you mean '{near}'?" if near else f"known: {listed(TYPES, 'or')}"
        shown = f"'{short(item)}'" if isinstance(item, str) else shape(item)
        findings.add(
            "TR111", f"{findings.where(at)} is {shown}, which is no type of JSON Schema", at, hint=hint
        )


def _names(value: Any, path: KeyPath, findings: Findings) -> None:
    if not is_list(value) or not all(isinstance(v, str) for v in value):
        findings.add("TR111", f"{findings.where(path)} must be a list of property names", path)


def _pattern(value: Any, path: KeyPath, findings: Findings) -> None:
    if not isinstance(value, str):
        findings.add("TR111", f"{findings.where(path)} must be a regular expression", path)
        return
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        findings.add("TR111", f"{findings.where(path)} is not a regular expression: {error}", path)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Tell whether a default is of the schema's type and among its values; deeper rules are left to the run."""
    enum = schema.get("enum")
    if is_list(enum) and not any(type(v) is type(value) and v == value for v in enum):
        return False
    named = schema.get("type")
    names: Sequence[Any] = named if is_list(named) else [named] if isinstance(named, str) else []
    return not names or any(_is(value, n) for n in names)


def _is(value: Any, name: Any) -> bool:
    match name:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return is_list(value)
        case "object":
            return is_mapping(value)
        case _:
            return value is None
