"""Check plain data against a record, and say what is wrong in the words of the file.

The records are pydantic models; nothing of pydantic's own wording reaches the user.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from treadle.definition.document import (
    MAX_PROBLEMS,
    Findings,
    KeyPath,
    is_list,
    is_mapping,
    listed,
    nearest,
    shape,
    short,
    suggest,
)
from treadle.objects.tool import FunctionTool

M = TypeVar("M", bound=BaseModel)

UNBUILT: Mapping[str, Mapping[str, str | None]] = {
    "AgentSpec": {
        "extends": None,
        "env": "list the variables in the project file: allow: {env: [NAME]}",
        "id": None,
    },
    "ModelSpec": {
        "api": "leave it out: chat is what is spoken",
        "fallback": None,
        "provider": "name a connection instead",
    },
    "OutputSpec": {"repair": None},
    "ThreadSpec": {"summarize_at_tokens": "use truncation: last with keep_last"},
    "WorkflowSpec": {
        "extends": None,
        "env": "list the variables in the project file: allow: {env: [NAME]}",
        "id": None,
    },
    **{
        frame: dict.fromkeys(("retry", "timeout", "cache"), "write it at the nodes within")
        for frame in ("MapNode", "LoopNode", "ParallelNode")
    },
}
"""Fields that the format knows and that nothing acts on yet, by record, with what to write instead."""

INTERNAL: Mapping[str, frozenset[str]] = {
    "AgentSpec": frozenset({"extensions", "tool_resources"}),
    "WorkflowSpec": frozenset({"extensions"}),
}
"""Fields of a record that no document may write."""

_PATTERNS: Mapping[str, tuple[str, str | None]] = {
    "name": ("may hold letters, digits, '_' and '-'", None),
    "call": ("is not the name of a callable", "write package.module:attribute"),
    "on": (
        "is not an error code",
        (
            "known here: rate_limit, timeout, connection, http_4xx, http_5xx, http_NNN, tool_error, invalid_output, "
            "model_error, content_filter, budget, approval_rejected, code_error, state_type, outcome_unknown, cancelled"
        ),
    ),
    "version": ("is not a version of this format", "write: version: '1.0.0'"),
}
_EXPECTED: Mapping[str, str] = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}
_YES_NO = frozenset({"yes", "no", "on", "off", "y", "n"})


class _Flaw:
    """One of pydantic's errors, with its place in the data and the union it was found in."""

    def __init__(self, error: Mapping[str, Any], data: object) -> None:
        self.type: str = error["type"]
        self.ctx: Mapping[str, Any] = error.get("ctx") or {}
        self.value: object = error["input"]
        self.tag: str | None = None
        self.root: KeyPath = ()
        self.path = self._walk(error["loc"], data)

    def _walk(self, loc: Sequence[str | int], data: object) -> KeyPath:
        """Drop the union tags that pydantic puts between the keys."""
        path: list[str | int] = []
        for n, item in enumerate(loc):
            last = n == len(loc) - 1
            inside = _child(data, item)
            if inside is not _NOTHING:
                path.append(item)
                data = inside
            elif last and self.type == "missing":
                path.append(item)
            elif self.tag is None:
                self.tag, self.root = str(item), tuple(path)
        return tuple(path)

    @property
    def is_shallow(self) -> bool:
        """Tell whether the union's branch did not fit at all."""
        return self.path == self.root and (self.type in _EXPECTED or self.type == "literal_error")


_NOTHING = object()


def _child(data: object, item: str | int) -> object:
    if is_mapping(data):
        return data.get(str(item), _NOTHING)
    if is_list(data) and isinstance(item, int) and item < len(data):
        return data[item]
    return _NOTHING


def validate(model: type[M], data: Mapping[str, Any], findings: Findings, *, path: KeyPath = ()) -> M | None:
    """Give the record, or None after reporting what is wrong with the data that stands at `path`.

    Keys that begin with `x-` are dropped wherever the record has fields.
    """
    text = json.dumps(data)
    try:
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        flaws = [_Flaw(e, data) for e in error.errors(include_url=False)]
    ignored = [f.path for f in flaws if f.type == "extra_forbidden" and str(f.path[-1]).startswith("x-")]
    if ignored:
        return validate(model, _without(json.loads(text), ignored), findings, path=path)
    for flaw in _chosen(flaws[:MAX_PROBLEMS]):
        _report(flaw, model, path, findings)
    return None


def _without(data: Any, paths: Sequence[KeyPath]) -> Any:
    for path in paths:
        inside = data
        for item in path[:-1]:
            inside = inside[item]
        inside.pop(path[-1], None)
    return data


def _chosen(flaws: Sequence[_Flaw]) -> list[_Flaw | list[_Flaw]]:
    """Keep one branch of each union: the one that was meant, or all of them merged when none was."""
    out: list[_Flaw | list[_Flaw]] = [f for f in flaws if f.tag is None]
    unions: dict[KeyPath, dict[str, list[_Flaw]]] = {}
    for flaw in flaws:
        if flaw.tag is not None:
            unions.setdefault(flaw.root, {}).setdefault(flaw.tag, []).append(flaw)
    for branches in unions.values():
        meant = [b for b in branches.values() if not any(f.is_shallow for f in b)]
        if meant:
            out.extend(min(meant, key=len))
        else:
            out.append([f for b in branches.values() for f in b])
    return out


def _report(flaw: _Flaw | list[_Flaw], model: type[BaseModel], base: KeyPath, findings: Findings) -> None:
    if not isinstance(flaw, _Flaw):
        _no_branch(flaw, base, findings)
        return
    path = base + flaw.path
    name = findings.where(path)
    if flaw.type == "missing":
        _missing(path, findings)
    elif flaw.type == "extra_forbidden":
        unknown(flaw.path, model, findings, base=base)
    elif flaw.type in _EXPECTED:
        expected(path, _EXPECTED[flaw.type], flaw.value, findings)
    elif flaw.type == "literal_error":
        _options(path, _literals(flaw), flaw.value, findings)
    elif flaw.type in _BOUNDS:
        key, words = _BOUNDS[flaw.type]
        findings.add("TR103", f"{name} is {_quoted(flaw.value)}; it {words} {_number(flaw.ctx[key])}", path)
    elif flaw.type == "string_pattern_mismatch":
        _pattern(path, flaw, model, findings)
    elif flaw.type in ("string_too_short", "too_short"):
        findings.add("TR103", f"{name} may not be empty", path)
    elif flaw.type in ("string_too_long", "too_long"):
        findings.add(
            "TR103", f"{name} may hold at most {flaw.ctx.get('max_length', 'so many')} characters", path
        )
    elif flaw.type == "value_error":
        findings.add("TR103", f"{name}: {flaw.ctx.get('error', 'this value does not fit')}", path)
    else:
        findings.add("TR103", f"{name}: this value does not fit", path)


def _missing(path: KeyPath, findings: Findings) -> None:
    holder = findings.where(path[:-1])
    findings.add(
        "TR101", f"missing field '{path[-1]}'{f' in {holder}' if holder else ''}", path[:-1], at="parent"
    )


def missing(name: str, path: KeyPath, findings: Findings, *, hint: str | None = None) -> None:
    """Report that the mapping at `path` lacks a field, at the key that holds the mapping."""
    holder = findings.where(path)
    findings.add(
        "TR101", f"missing field '{name}'{f' in {holder}' if holder else ''}", path, at="parent", hint=hint
    )


def expected(path: KeyPath, what: str, value: object, findings: Findings) -> None:
    """Report that a value is of the wrong kind."""
    hint = None
    if what == "a string" and isinstance(value, int | float):
        hint = "quote it"
    elif what == "true or false" and isinstance(value, str) and value.lower() in _YES_NO:
        hint = f"YAML 1.2 reads {value} as text: write true or false"
    elif what in ("a number", "a whole number") and isinstance(value, str):
        hint = "write the number without quotes"
    elif what == "a list" and isinstance(value, str):
        hint = f"write: [{value}]" if 0 < len(value) <= 40 and "\n" not in value else None
    got = "left empty" if value is None else f"{shape(value)}"
    said = f"{findings.where(path) or 'the document'} must be {what}, " + (
        "but is left empty" if value is None else f"not {got}"
    )
    findings.add("TR102", said, path, hint=hint)


def unknown(path: KeyPath, model: type[BaseModel], findings: Findings, *, base: KeyPath = ()) -> None:
    """Report a key that the record at `path` of `model` does not have."""
    holder = _model_at(model, path[:-1])
    key = str(path[-1])
    at = base + path
    inside = findings.where(at[:-1])
    if holder is not None and key in UNBUILT.get(holder.__name__, {}):
        name = findings.where(at)
        findings.add(
            "TR302",
            f"'{name}' is known to the format but not built yet",
            at,
            at="key",
            hint=UNBUILT[holder.__name__][key],
        )
        return
    known = fields_of(holder) if holder is not None else []
    findings.add(
        "TR104",
        f"unknown field '{short(key)}'{f' in {inside}' if inside else ''}",
        at,
        at="key",
        hint=suggest(key, known),
    )


def _no_branch(flaws: Sequence[_Flaw], base: KeyPath, findings: Findings) -> None:
    path = base + flaws[0].root
    options = [o for f in flaws if f.type == "literal_error" for o in _literals(f)]
    kinds = [_EXPECTED[f.type] for f in flaws if f.type in _EXPECTED]
    value = flaws[0].value
    words = [*options, *dict.fromkeys(kinds)]
    if isinstance(value, str) and options:
        near = nearest(value, options)
        hint = f"did you mean '{near}'?" if near else None
        findings.add(
            "TR103",
            f"{findings.where(path)} is {_quoted(value)}; expected {listed(words, 'or')}",
            path,
            hint=hint,
        )
    else:
        findings.add(
            "TR102", f"{findings.where(path)} must be {listed(words, 'or')}, not {shape(value)}", path
        )


def _options(path: KeyPath, options: Sequence[str], value: object, findings: Findings) -> None:
    near = nearest(value, options) if isinstance(value, str) else None
    findings.add(
        "TR103" if isinstance(value, str) else "TR102",
        f"{findings.where(path)} is {_quoted(value)}; expected {listed(options, 'or')}",
        path,
        hint=f"did you mean '{near}'?" if near else None,
    )


def _literals(flaw: _Flaw) -> list[str]:
    import re

    return re.findall(r"'([^']*)'", str(flaw.ctx.get("expected", "")))


def _pattern(path: KeyPath, flaw: _Flaw, model: type[BaseModel], findings: Findings) -> None:
    key = next((str(i) for i in reversed(path) if isinstance(i, str)), "")
    said, hint = _PATTERNS.get(key, ("is not written as it must be", None))
    if key == "name" and not issubclass(model, FunctionTool):
        said = "must start with a letter or digit and may hold letters, digits, spaces, '_', '-' and '.'"
    if key == "on" and isinstance(flaw.value, str):
        codes = [
            "rate_limit",
            "timeout",
            "connection",
            "http_4xx",
            "http_5xx",
            "tool_error",
            "invalid_output",
        ]
        near = nearest(
            flaw.value,
            [*codes, "model_error", "content_filter", "budget", "code_error", "outcome_unknown", "cancelled"],
        )
        hint = f"did you mean '{near}'?" if near else hint
    findings.add("TR103", f"{findings.where(path)}: {_quoted(flaw.value)} {said}", path, hint=hint)


def _quoted(value: object) -> str:
    if isinstance(value, str):
        return f"'{short(value)}'"
    if isinstance(value, int | float | bool) or value is None:
        return json.dumps(value) if value is not None else "empty"
    return shape(value)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@lru_cache(maxsize=64)
def _known(model: type[BaseModel]) -> tuple[str, ...]:
    hidden = INTERNAL.get(model.__name__, frozenset())
    return tuple(f.alias or n for n, f in model.model_fields.items() if n not in hidden)


def fields_of(model: type[BaseModel]) -> list[str]:
    """Give the keys that a document may write for a record, in the record's order."""
    return list(_known(model))


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Give the record that a path inside a record leads to."""
    here: Any = model
    for item in path:
        here = _step(here, item)
    return _record(here)


def _step(here: Any, item: str | int) -> Any:
    record = _record(here)
    if record is not None:
        found = (f for n, f in record.model_fields.items() if (f.alias or n) == item)
        field = next(found, None)
        return field.annotation if field is not None else None
    for option in _branches(here):
        args = get_args(option)
        origin = get_origin(option)
        if origin is dict and isinstance(item, str):
            return args[1]
        if origin in (tuple, list) and isinstance(item, int):
            return args[0]
    return None


def _record(here: Any) -> type[BaseModel] | None:
    found = [o for o in _branches(here) if isinstance(o, type) and issubclass(o, BaseModel)]
    return found[0] if found else None


def _branches(here: Any) -> list[Any]:
    origin = get_origin(here)
    if origin is Annotated:
        return _branches(get_args(here)[0])
    if origin is Union or origin is types.UnionType:
        return [b for a in get_args(here) for b in _branches(a)]
    return [] if here is None or origin is Literal else [here]
