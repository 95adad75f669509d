"""Compile a validated spec to the step graph that a run of it walks."""

from __future__ import annotations

from treadle.graph.nodes import END, START, Edge, Node, StepGraph
from treadle.objects.agent import Agent


def compile_agent(agent: Agent) -> StepGraph:
    """Give the graph of an agent: ask the model, run the tools it asks for, ask again, append the answer.

    The graph names node kinds and the agent's id and version, nothing of a single run; two agents that differ
    have different digests.
    """
    return StepGraph(
        name=agent.name or agent.id,
        nodes=(
            Node(
                "model_call",
                "model_call",
                {"agent": agent.id, "version": agent.version},
                max_visits=agent.spec.limits.max_steps,
            ),
            Node("tool_call", "tool_call", expands=True, max_visits=agent.spec.limits.max_steps),
            Node("append_message", "append_message"),
        ),
        edges=(
            Edge(START, "model_call"),
            Edge("model_call", "tool_call", "tool_calls"),
            Edge("tool_call", "model_call"),
            Edge("model_call", "append_message", "text"),
            Edge("append_message", END),
        ),
    )
