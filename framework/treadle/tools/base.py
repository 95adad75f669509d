"""What a tool is to the gate: what the model is told, and what is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.objects.tool import FunctionTool
from treadle.providers.base import ToolDefinition
from treadle.tools.approval import Asks
from treadle.tools.transaction import Transaction


@dataclass(frozen=True, slots=True)
class CallContext:
    """Who calls: what a tool may be told about its run.

    Shapes: `idempotency_key` is the same in every attempt of one call and no other call has it; `tx` is there
    where the tool's effect is `transactional`, and every attempt has its own. `ctx` and `state` are there for the function
    of a code node: what it makes further calls with, and a copy of the state.
    """

    run_id: str
    thread_id: str
    idempotency_key: str
    tx: Transaction | None = None
    ctx: Any = None
    state: dict[str, Any] | None = None


Invoke = Callable[[dict[str, Any], CallContext], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A declared tool, ready to be called; without `invoke` its output is the client's to give.

    Units: `timeout_s` seconds for one attempt, None without bound.
    """

    spec: FunctionTool
    definition: ToolDefinition
    invoke: Invoke | None
    timeout_s: float | None = None
    problems_of: Callable[[Any], list[str]] | None = None
    """Says what is wrong with decoded arguments; None where any object will do."""
    asks: Asks | None = None
    """Says what a person is asked before a call runs; None where nobody is."""
    passed: frozenset[str] = frozenset()
    """The parameters of its function that treadle fills in."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a tool is bound with: the code that it may reach."""

    root: Path | None = None
    allow_modules: tuple[str, ...] = ()
    callables: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Callable[..., Any]])
