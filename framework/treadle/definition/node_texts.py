"""Where the templates, expressions and values of a node stand, and which names each may use.

A *value* is a literal of any shape; every text in it that holds a tag is a template, and one that is a single
`{{ … }}` keeps the type of what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from treadle.definition import template
from treadle.definition.document import KeyPath, is_list, is_mapping

NAMES = frozenset({"inputs", "state", "result_of", "run", "now"})
"""Names that every text of a workflow may use."""

Kind = Literal["template", "expression", "value"]


class Field(NamedTuple):
    """A field of a node that holds text: its path (`*` for each key or item), its kind, the names it adds.

    A field that `is_inside` belongs to the body of its node: it sees the item of the map, or the loop, and the results
    of the body's nodes.
    """

    path: tuple[str, ...]
    kind: Kind
    adds: frozenset[str] = frozenset()
    is_inside: bool = False


_RESULT = frozenset({"result"})
_ERROR = frozenset({"error"})

COMMON = (
    Field(("next", "*", "when"), "expression", _RESULT),
    Field(("save", "*"), "expression", _RESULT),
    Field(("on_error", "*", "continue_with"), "value", _ERROR),
    Field(("cache", "key"), "template"),
    Field(("idempotency_key",), "template"),
)
"""Fields that nodes of several types have."""

FIELDS: Mapping[str, tuple[Field, ...]] = {
    "agent": (Field(("message",), "template"), Field(("inputs", "*"), "value")),
    "prompt": (Field(("prompt",), "template"), Field(("messages", "*", "content"), "template")),
    "tool": (Field(("with", "*"), "value"),),
    "code": (Field(("with", "*"), "value"),),
    "set": (Field(("set", "*"), "value"),),
    "message": (Field(("text",), "template"),),
    "switch": (Field(("value",), "expression"),),
    "map": (
        Field(("over",), "expression"),
        Field(("with", "*"), "value", is_inside=True),
        Field(("collect",), "expression", _RESULT, is_inside=True),
    ),
    "loop": (
        Field(("until",), "expression", is_inside=True),
        Field(("while",), "expression", is_inside=True),
    ),
    "human": (Field(("ask",), "template"), Field(("value",), "value"), Field(("default",), "value")),
    "wait": (Field(("until",), "expression"),),
    "workflow": (Field(("with", "*"), "value"),),
    "end": (Field(("outputs", "*"), "value"),),
    "fail": (Field(("message",), "template"),),
}
"""The fields of each type that hold text, beside the common ones."""


def texts(node: Mapping[str, Any], kind: str) -> Iterator[tuple[Field, KeyPath, str]]:
    """Give each text of a node as the document writes it, with its field and its path within the node."""
    for field in (*COMMON, *FIELDS.get(kind, ())):
        for path, value in _at(node, field.path, ()):
            for below, text in _strings(value, path) if field.kind == "value" else ((path, value),):
                if isinstance(text, str):
                    yield field, below, text


def _at(value: Any, pattern: tuple[str, ...], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if not pattern:
        yield path, value
    elif pattern[0] == "*":
        for key, inner in _items(value):
            yield from _at(inner, pattern[1:], (*path, key))
    elif is_mapping(value) and pattern[0] in value:
        yield from _at(value[pattern[0]], pattern[1:], (*path, pattern[0]))


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if is_mapping(value):
        yield from value.items()
    elif is_list(value):
        yield from enumerate(value)


def _strings(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, str):
        if template.is_template(value):
            yield path, value
    else:
        for key, inner in _items(value):
            yield from _strings(inner, (*path, key))


def is_literal(value: Any) -> bool:
    """Tell whether a value holds no tag, so that it is known before a run."""
    return not any(True for _ in _strings(value, ()))


def replaced(value: Any, path: KeyPath, new: Any) -> Any:
    """Give a copy of plain data in which another value stands at a path."""
    if not path:
        return new
    key = path[0]
    if is_mapping(value):
        return {**value, str(key): replaced(value.get(str(key)), path[1:], new)}
    if is_list(value) and isinstance(key, int):
        return [*value[:key], replaced(value[key], path[1:], new), *value[key + 1 :]]
    return value


def raw_at(value: Any, path: KeyPath) -> Any:
    """Give what stands at a path of plain data that is known to have it."""
    for key in path:
        value = value[key]
    return value
