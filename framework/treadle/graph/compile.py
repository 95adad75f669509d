"""Compile a validated spec to the step graph that a run of it walks."""

from __future__ import annotations

from treadle.graph.builder import Graph
from treadle.graph.nodes import END, START, StepGraph
from treadle.objects.agent import Agent


def compile_agent(agent: Agent) -> StepGraph:
    """Give the graph of an agent: ask the model, run the tools it asks for, ask again, append the answer.

    The graph names node kinds and the agent's id and version, nothing of a single run; two agents that differ
    have different digests.
    """
    spec = agent.spec
    graph = Graph(agent.name or agent.id)
    graph.add_node(
        "model_call",
        kind="model_call",
        params={"agent": agent.id, "version": agent.version},
        max_visits=spec.limits.max_steps,
    )
    graph.add_node("tool_call", kind="tool_call", expands=True, max_visits=spec.limits.max_steps)
    graph.add_node("append_message", kind="append_message")
    graph.add_edges_from(
        (
            (START, "model_call"),
            ("model_call", "tool_call", "tool_calls"),
            ("tool_call", "model_call"),
            ("model_call", "append_message", "text"),
            ("append_message", END),
        )
    )
    return graph.freeze()
