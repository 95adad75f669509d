"""Evaluate the texts of a node: templates, expressions and values, over what the node can see.

Only what a text reads is handed to it: a state that grows costs nothing where nobody looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from treadle.definition import expression, template
from treadle.definition.reads import Kind, reads
from treadle.errors import DefinitionError
from treadle.objects.record import JsonValue

_ROOTS = frozenset({"inputs", "state", "result_of"})


class Results(Protocol):
    """The last results of nodes, as one body sees them."""

    def find(self, name: str) -> tuple[bool, Any]:
        """Tell whether a node of that name has a result, and give it."""
        ...

    def names(self) -> list[str]:
        """List the nodes that have one."""
        ...


class View(NamedTuple):
    """What a node sees.

    Shapes: `more` are the other names: `run`, `now`, the item and the index of a map, `loop`; `result` and `error`
    are added where they exist.
    """

    inputs: Mapping[str, Any]
    state: Mapping[str, Any]
    results: Results
    more: Mapping[str, Any]

    def plus(self, **names: Any) -> View:
        """Give the view with further names."""
        return self._replace(more={**self.more, **names})


class _Needs(NamedTuple):
    """What a source reads of each root; None for all of it."""

    inputs: frozenset[str] | None
    state: frozenset[str] | None
    result_of: frozenset[str] | None


@lru_cache(maxsize=8192)
def _needs(source: str, kind: Kind) -> _Needs:
    found: dict[str, set[str] | None] = {root: set() for root in _ROOTS}
    for read in reads(source, kind=kind, roots=_ROOTS):
        keys = found[read.root]
        if not read.keys:
            found[read.root] = None
        elif keys is not None:
            keys.add(read.keys[0])
    return _Needs(**{root: None if keys is None else frozenset(keys) for root, keys in found.items()})


def _given(source: str, kind: Kind, view: View) -> dict[str, Any]:
    """Give the values by name that a source may read."""
    needs = _needs(source, kind)
    given = dict(view.more)
    for root, keys, values in (("inputs", needs.inputs, view.inputs), ("state", needs.state, view.state)):
        given[root] = dict(values) if keys is None else {k: values[k] for k in keys if k in values}
    results: dict[str, Any] = {}
    for name in view.results.names() if needs.result_of is None else needs.result_of:
        is_there, value = view.results.find(name)
        if is_there:
            results[name] = value
    given["result_of"] = results
    return given


def seen(source: str, kind: Kind, view: View, *, besides: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Give the values by name that a source reads of a view; names `besides` are left out."""
    given = _given(source, kind, view)
    named = {read.root for read in reads(source, kind=kind, roots=frozenset(given) - besides)}
    return {name: value for name, value in given.items() if name in named}


def evaluate(source: str, view: View) -> JsonValue:
    """Give the value of an expression.

    Errors: DefinitionError.
    """
    return expression.evaluate(source, _given(source, "expression", view))


def text(source: str, view: View) -> str:
    """Give the text of a template.

    Errors: DefinitionError.
    """
    if not template.is_template(source):
        return template.render(source, {})
    return template.render(source, _given(source, "template", view))


def fill(value: Any, view: View) -> Any:
    """Give a value with its templates rendered; a text that is one `{{ … }}` gives what its expression gives.

    Errors: DefinitionError.
    """
    if isinstance(value, str):
        inner = _single(value)
        return evaluate(inner, view) if inner is not None else text(value, view)
    if isinstance(value, Mapping):
        return {key: fill(below, view) for key, below in value.items()}  # pyright: ignore[reportUnknownVariableType] - JSON
    if isinstance(value, list | tuple):
        return [fill(below, view) for below in value]  # pyright: ignore[reportUnknownVariableType] - JSON
    return value


@lru_cache(maxsize=8192)
def _single(value: str) -> str | None:
    """Give the expression of a text that is nothing else; None for any other text."""
    said = value.strip()
    if not said.startswith("{{") or not said.endswith("}}"):
        return None
    inner = said[2:-2].strip("-").strip()
    # Two expressions side by side are a text; one that does not stand by itself is one, too.
    problems = expression.check(inner, names=frozenset())
    return None if any(problem.name is None for problem in problems) else inner


def why(error: DefinitionError) -> str:
    """Give what went wrong in a text, in a line."""
    return "; ".join(problem.message for problem in error.problems) or str(error)
