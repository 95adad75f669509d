"""Name functions as documents name them, `package.module:attribute`: a graph is hashed, so it holds names and no code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, cast

from treadle.errors import GraphError, Problem

MAIN = "__main__"


def call_of(function: object, what: str, *, node: str | None = None) -> str:
    """Give the name by which any process can import a function; a text is taken as it is.

    Errors: GraphError for a lambda, a function within a function, a method of an object and whatever else has no name
    of its own in a module.
    """
    if isinstance(function, str):
        return function
    reason = _nameless(function)
    if reason is not None:
        raise GraphError(
            f"{what} must be a function of a module, and this is {reason}: a graph is hashed and stored,"
            " and whoever goes on with a run has to find its functions by name",
            node=node,
            hint="define it with def at the top of a module, or give its name as 'package.module:function'",
        )
    named = cast("Callable[..., Any]", function)
    return f"{_module(named.__module__)}:{named.__qualname__}"


def _nameless(function: object) -> str | None:
    """Say why a function cannot be found by its name; None where it can."""
    name: object = getattr(function, "__qualname__", None)
    module: object = getattr(function, "__module__", None)
    if isinstance(function, functools.partial):
        return "a functools.partial"
    if not callable(function):
        return f"a value of type {type(function).__name__}"
    if isinstance(function, MethodType):
        return f"the bound method '{name}'"
    if not isinstance(name, str) or not isinstance(module, str):
        return f"an object of the class {type(function).__name__}"
    if "<lambda>" in name:
        return "a lambda"
    if "<locals>" in name:
        return f"'{name.rpartition('.')[2]}', which is defined within another function"
    return None


def _module(name: str) -> str:
    """Give the name under which a module can be imported, for one that was started with `python -m` too."""
    spec = getattr(sys.modules.get(name), "__spec__", None) if name == MAIN else None
    found = getattr(spec, "name", None)
    return found if isinstance(found, str) and found != MAIN else name


def check_calls(
    functions: Mapping[str, Callable[..., Any]], nodes: Mapping[str, Mapping[str, Any]]
) -> list[Problem]:
    """Tell the functions that cannot be found again by the name that the nodes have for them."""
    out: list[Problem] = []
    for call, function in functions.items():
        node = next((id_ for id_, fields in nodes.items() if fields.get("call") == call), None)
        module, _, path = call.partition(":")
        if module == MAIN:
            said = (
                f"the function '{path}' belongs to the program itself, so that no other process can find it"
            )
            hint = "move it to a module"
            out.append(Problem(code="TR241", message=said, severity="warning", node=node, hint=hint))
        elif _found(module, path) is not function:
            said = f"'{call}' leads to something else than the function that was given"
            hint = "give the one that its module has under this name, with what its decorators made of it"
            out.append(Problem(code="TR241", message=said, node=node, hint=hint))
    return out


def _found(module: str, path: str) -> object:
    found: object = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
