"""Compile a validated spec to the step graph that a run of it walks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from treadle.graph.low import StepGraphBuilder
from treadle.graph.nodes import END, START, StepGraph
from treadle.objects.agent import Agent

if TYPE_CHECKING:
    from treadle.objects.workflow import Pin, WorkflowSpec


def compile_agent(agent: Agent) -> StepGraph:
    """Give the graph of an agent: ask the model, run the tools it asks for, ask again, append the answer.

    The graph names node kinds and the agent's id and version, nothing of a single run; two agents that differ
    have different digests.
    """
    spec = agent.spec
    graph = StepGraphBuilder(agent.name or agent.id)
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


def compile_workflow(spec: WorkflowSpec, pins: Mapping[str, Pin] | None = None) -> StepGraph:
    """Give the graph of a workflow; equal specs with equal pins have equal digests.

    Pure: nothing is read, looked up or asked. The spec is one that the loader or the builder has checked.

    Shapes: `pins` say which version a reference means, by the reference as the nodes write it (`agent:` of an agent node,
    `workflow:` of a workflow node or a map): {"agent": id, "version": n} or {"workflow": id, "version": n}. A node has
    its pin in its params, under `pin`; without pins the graph can be drawn and compared, and not be walked.

    The nodes stand in declared order, those of a body behind their frame, with the ids `frame/node` and `within` the
    frame. A map whose body is one node or a workflow has one inner node, `frame/item`. The `params` of a node are its
    fields as JSON, texts as texts: without `description`, without its body, with the workflow's defaults (retry, timeout,
    the route of any error) put in. The `params` of the graph are what the nodes need to know of the workflow: state, outputs, tools, limits.

    Edges carry the label that the source's step takes:

    ======================  ==================================================================================
    agent, code, set, …     None; for a list in `next` the text of the condition, `else` for the last one
    switch                  the literal as JSON text, and `default`
    parallel                None to the first node of every branch; the branches lead to the join by themselves
    loop                    `round` to the first node of its body, then `done` or the conditions of its `next`
    map                     `item` to the first node of its body, then `done` or the conditions of its `next`
    human                   as agent, and `timeout` where `on_timeout` names a node
    any with `on_error`     `error: code,code`, or `error` for any code; a route with `continue_with` has no edge
    fail                    `failed`
    ======================  ==================================================================================

    What ends leads to END, within a body back to its frame.
    """
    from treadle.graph.workflow import flattened

    return flattened(spec, pins or {})
