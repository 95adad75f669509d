"""Hold what a run did against what its test expects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.definition import expression
from treadle.definition.document import KeyPath, is_list, is_mapping, where
from treadle.definition.trial import TrialExpect
from treadle.errors import DefinitionError
from treadle.service.trial_mocks import Flaw, shown

MISSING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a run did.

    Shapes: `path` has the nodes in the order in which they completed, in a body with the node around them
    (`refine/draft`); `tools` the tools that were called, in order; `required` what the run waits for, each as
    {type, tool or node, …}; `journal` the steps as {node, kind, status, tool, path, attempt, error}. `reason` says why the run
    ended as it did.
    """

    status: str
    reason: str | None = None
    output: Any = None
    text: str = ""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    path: Sequence[str] = ()
    tools: Sequence[str] = ()
    required: Sequence[Mapping[str, Any]] = ()
    journal: Sequence[Mapping[str, Any]] = ()
    tokens: int = 0


def flaws(expect: TrialExpect | None, seen: Observed) -> list[Flaw]:
    """Give everything in which a run is not what is expected of it; a run is to complete where nothing else is said."""
    return list(_flaws(expect or TrialExpect.model_validate({}), seen))


def _flaws(expect: TrialExpect, seen: Observed) -> Iterator[Flaw]:
    yield from _status(expect, seen)
    if expect.path is not None and not _is_path(expect.path, seen.path):
        yield _flaw("path", "the run took another path", shown(list(expect.path)), _nodes(seen.path))
    if expect.path_contains is not None:
        missing = _first_missing(expect.path_contains, seen.path)
        if missing is not None:
            message = f"'{missing}' is not on the path, or not in this order"
            yield _flaw("path_contains", message, shown(list(expect.path_contains)), _nodes(seen.path))
    if "output" in expect.model_fields_set:
        yield from _subset(expect.output, seen.output, ("output",))
    yield from _text(expect, seen)
    yield from _tools(expect, seen)
    if expect.required_action is not None:
        yield from _required(expect.required_action, seen)
    yield from _assertions(expect.assert_, seen)
    if expect.max_steps is not None and len(seen.journal) > expect.max_steps:
        yield _flaw("max_steps", "too many steps", f"at most {expect.max_steps}", str(len(seen.journal)))
    if expect.max_tokens is not None and seen.tokens > expect.max_tokens:
        yield _flaw("max_tokens", "too many tokens", f"at most {expect.max_tokens}", str(seen.tokens))


def _status(expect: TrialExpect, seen: Observed) -> Iterator[Flaw]:
    wanted = expect.status or ("requires_action" if expect.required_action is not None else "completed")
    if seen.status == wanted:
        return
    why = seen.reason or (_waiting(seen.required) if seen.required else None)
    got = f"{seen.status} ({why})" if why else seen.status
    path: KeyPath = ("expect", "status") if expect.status else ("expect",)
    yield Flaw(what="status", message="the run ended in another status", path=path, expected=wanted, got=got)


def _waiting(required: Sequence[Mapping[str, Any]]) -> str:
    names = [str(action.get("tool") or action.get("node") or action["type"]) for action in required]
    return f"it waits for {', '.join(names)}"


def _text(expect: TrialExpect, seen: Observed) -> Iterator[Flaw]:
    wanted = expect.text_contains
    for n, part in enumerate((wanted,) if isinstance(wanted, str) else wanted or ()):
        if part not in seen.text:
            path: KeyPath = () if isinstance(wanted, str) else (n,)
            yield _flaw("text_contains", "the text does not contain it", shown(part), shown(seen.text), *path)
    if expect.text_matches is not None:
        try:
            is_match = re.search(expect.text_matches, seen.text) is not None
        except re.error as e:
            yield _flaw("text_matches", f"this is not a regular expression: {e}", None, None)
            return
        if not is_match:
            yield _flaw(
                "text_matches", "the text does not match", shown(expect.text_matches), shown(seen.text)
            )


def _tools(expect: TrialExpect, seen: Observed) -> Iterator[Flaw]:
    if expect.tools_called is not None:
        missing = _first_missing(expect.tools_called, seen.tools, exact=True)
        if missing is not None or (seen.tools and not expect.tools_called):
            message = f"'{missing}' was not called, or not in this order" if missing else "tools were called"
            yield _flaw("tools_called", message, shown(list(expect.tools_called)), shown(list(seen.tools)))
    for n, name in enumerate(expect.never_called or ()):
        if name in seen.tools:
            yield _flaw("never_called", f"'{name}' was called", f"no {name}", shown(list(seen.tools)), n)


def _required(wanted: Mapping[str, Any], seen: Observed) -> Iterator[Flaw]:
    found = [list(_subset(wanted, action, ("required_action",))) for action in seen.required]
    if any(not flaws_ for flaws_ in found):
        return
    if len(found) == 1:
        yield from found[0]
        return
    got = shown([dict(action) for action in seen.required]) if found else MISSING
    yield _flaw("required_action", "the run does not wait for this", shown(dict(wanted)), got)


def _assertions(sources: Sequence[str], seen: Observed) -> Iterator[Flaw]:
    values = {
        "output": seen.output,
        "text": seen.text,
        "state": dict(seen.state),
        "steps": [dict(step) for step in seen.journal],
    }
    for n, source in enumerate(sources):
        try:
            value = expression.evaluate(source, values)
        except DefinitionError as e:
            said = e.problems[0].message if e.problems else e.message
            yield _flaw("assert", f"{source}: {said}", None, None, n)
            continue
        if not value:
            yield _flaw("assert", source, "true", shown(value), n)


def _subset(wanted: Any, got: Any, path: KeyPath) -> Iterator[Flaw]:
    """Give where a value is not what is wanted: of mappings only the keys that are named count, at any depth."""
    if is_mapping(wanted) and is_mapping(got):
        for key, value in wanted.items():
            if key in got:
                yield from _subset(value, got[key], (*path, key))
            else:
                yield _differs((*path, key), shown(value), MISSING)
    elif is_list(wanted) and is_list(got) and len(wanted) == len(got):
        for n, (value, item) in enumerate(zip(wanted, got, strict=True)):
            yield from _subset(value, item, (*path, n))
    elif not is_equal(wanted, got):
        yield _differs(path, shown(wanted), shown(got))


def is_equal(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are equal: 1 and 1.0 are, true and 1 are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if is_mapping(one) and is_mapping(other):
        return one.keys() == other.keys() and all(is_equal(v, other[k]) for k, v in one.items())
    if is_list(one) and is_list(other):
        return len(one) == len(other) and all(is_equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _differs(path: KeyPath, wanted: str, got: str) -> Flaw:
    return Flaw(
        what=where(path), message="it has another value", path=("expect", *path), expected=wanted, got=got
    )


def _is_path(wanted: Sequence[str], path: Sequence[str]) -> bool:
    return len(wanted) == len(path) and all(
        _is_node(name, node) for name, node in zip(wanted, path, strict=True)
    )


def _first_missing(wanted: Sequence[str], path: Sequence[str], *, exact: bool = False) -> str | None:
    """Give the first of the names that does not come after those before it; None where all do."""
    left = iter(path)
    for name in wanted:
        if not any(name == node if exact else _is_node(name, node) for node in left):
            return name
    return None


def _is_node(name: str, node: str) -> bool:
    """Tell whether a name means a node; one in a body may be named without the node around it."""
    return node == name or node.rpartition("/")[2] == name


def _nodes(path: Sequence[str]) -> str:
    return shown(list(path), 600)


def _flaw(key: str, message: str, wanted: str | None, got: str | None, *below: str | int) -> Flaw:
    return Flaw(what=key, message=message, path=("expect", key, *below), expected=wanted, got=got)
