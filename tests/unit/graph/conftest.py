"""The agent's graph, the trace of a run of it, and the files that their drawings are compared with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.graph.compile import compile_agent
from treadle.graph.nodes import StepGraph
from treadle.graph.trace import Trace
from treadle.objects.agent import Agent, AgentSpec, ModelSpec, Price
from treadle.objects.run import PendingCall, Run, RunError, Usage
from treadle.objects.run_step import Step

GOLDEN = Path(__file__).parent / "golden"
T0 = 1_770_000_000_000


@pytest.fixture
def agent() -> Agent:
    return Agent(id="asst_1", name="weather", created_ms=T0, spec=AgentSpec(model=ModelSpec(id="offline")))


@pytest.fixture
def agent_graph(agent: Agent) -> StepGraph:
    return compile_agent(agent)


@pytest.fixture
def make_step() -> Callable[..., Step]:
    """Give a maker of steps: journal number, path, cause, start and end in ms after the run's start."""

    def step(n: int, path: str, cause: str | None, start: int, end: int | None, **more: object) -> Step:
        node = path.partition("#")[0]
        ended_ms = None if end is None else T0 + end
        return Step(
            run_id="run_1",
            n=n,
            path=path,
            node=node,
            kind=node,
            cause=cause,
            started_ms=T0 + start,
            ended_ms=ended_ms,
            **more,
        )

    return step


@pytest.fixture
def make_run(agent_graph: StepGraph) -> Callable[..., Run]:
    def run(**more: object) -> Run:
        return Run(
            id="run_1",
            thread_id="thread_1",
            agent_id="asst_1",
            graph=agent_graph.digest,
            created_ms=T0,
            **more,
        )

    return run


@pytest.fixture
def trace(agent_graph: StepGraph, make_step: Callable[..., Step], make_run: Callable[..., Run]) -> Trace:
    """A run that tried its first model call twice, made three calls at once, and waits for its client."""
    limit = RunError(code="rate_limit", message='429 <slow down> & "wait"\nplease')
    zone = RunError(code="tool_error", message="no such zone")
    steps = [
        make_step(1, "model_call#1", None, 0, 120, status="failed", last_error=limit),
        make_step(
            2, "model_call#1", None, 400, 1723, attempt=2, edge="tool_calls", fan=3,
            usage=Usage(prompt_tokens=120, completion_tokens=18),
        ),
        make_step(3, "tool_call#1/0", "model_call#1", 1723, 1800, tool="get_weather", call_index=0),
        make_step(4, "tool_call#1/1", "model_call#1", 1723, 1750, tool="get_time", call_index=1, status="failed", last_error=zone),
        make_step(5, "tool_call#1/2", "model_call#1", 1723, 63_750, tool="to_fahrenheit", call_index=2),
        make_step(
            6, "model_call#2", "tool_call#1/2", 63_750, 64_750, edge="tool_calls", fan=1,
            usage=Usage(prompt_tokens=300, completion_tokens=40, estimated=True),
        ),
        make_step(7, "tool_call#2/0", "model_call#2", 64_750, None, tool="ask_client", call_index=0, status="in_progress"),
    ]  # fmt: skip
    pending = (PendingCall(path="tool_call#2/0", reply_seq=3, call_index=0),)
    return Trace.of(
        make_run(status="requires_action", pending=pending),
        agent_graph,
        steps,
        price=Price(input=1, output=4),
    )


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Give the comparison with a golden file; UPDATE_GOLDEN=1 in the environment writes the file instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text

    return compare
