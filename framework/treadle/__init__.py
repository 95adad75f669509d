"""Durable agents, threads and runs on your own machine.

The public names are resolved when they are first used, so that ``import treadle`` loads neither pydantic
nor any model SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "Agent": "treadle.objects.agent",
    "AgentSpec": "treadle.objects.agent",
    "Ctx": "treadle.steps.calls",
    "END": "treadle.graph.nodes",
    "Event": "treadle.objects.event",
    "Goto": "treadle.objects.goto",
    "Graph": "treadle.graph.builder",
    "Message": "treadle.objects.message",
    "Run": "treadle.objects.run",
    "START": "treadle.graph.nodes",
    "Step": "treadle.objects.run_step",
    "StepGraph": "treadle.graph.nodes",
    "Thread": "treadle.objects.thread",
    "Treadle": "treadle.service",
    "TreadleError": "treadle.errors",
    "run": "treadle.service",
}

__all__ = [
    "END",
    "START",
    "Agent",
    "AgentSpec",
    "Ctx",
    "Event",
    "Goto",
    "Graph",
    "Message",
    "Run",
    "Step",
    "StepGraph",
    "Thread",
    "Treadle",
    "TreadleError",
    "__version__",
    "run",
]

if TYPE_CHECKING:
    from treadle.errors import TreadleError
    from treadle.graph.builder import Graph
    from treadle.graph.nodes import END, START, StepGraph
    from treadle.objects.agent import Agent, AgentSpec
    from treadle.objects.event import Event
    from treadle.objects.goto import Goto
    from treadle.objects.message import Message
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.objects.thread import Thread
    from treadle.service import Treadle, run
    from treadle.steps.calls import Ctx


def __getattr__(name: str) -> object:
    """Import a public name on first use.

    Errors: AttributeError for a name that treadle does not export.
    """
    module = _PUBLIC.get(name)
    if module is None:
        msg = f"module 'treadle' has no attribute {name!r}; it exports {', '.join(sorted(_PUBLIC))}"
        raise AttributeError(msg)
    import importlib

    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
