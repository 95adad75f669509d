from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

import networkx as nx
import pytest

from treadle.errors import GraphError
from treadle.graph.check import check
from treadle.graph.compile import compile_agent
from treadle.graph.low import StepGraphBuilder
from treadle.graph.nodes import END, START, Edge, StepGraph


def small() -> StepGraphBuilder:
    graph = StepGraphBuilder("small")
    graph.add_node("ask", kind="model_call", params={"model": "m"}, max_visits=3)
    graph.add_node("tools", kind="tool_call", expands=True)
    graph.add_node("say", kind="append_message")
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", {"tool_calls": "tools", "text": "say"})
    graph.add_path(["tools", "ask"])
    graph.add_edges_from([("say", END)])
    return graph


def test_every_way_of_adding_edges_gives_plain_edges_in_declared_order():
    assert small().edges == (
        Edge("START", "ask"),
        Edge("ask", "tools", "tool_calls"),
        Edge("ask", "say", "text"),
        Edge("tools", "ask"),
        Edge("say", "END"),
    )
    graph = StepGraphBuilder("more")
    graph.add_edges_from([("a", "b"), ("a", "c", "left")])
    graph.add_edge("c", "d", when="right")
    assert graph.edges == (Edge("a", "b"), Edge("a", "c", "left"), Edge("c", "d", "right"))


def test_a_graph_is_read_like_a_networkx_graph():
    graph = small()
    assert list(graph) == ["ask", "tools", "say"]
    assert len(graph) == 3
    assert "ask" in graph
    assert "nobody" not in graph
    assert graph.successors("ask") == ["tools", "say"]
    assert graph.predecessors("ask") == ["START", "tools"]
    assert [node.id for node in graph.nodes] == ["ask", "tools", "say"]


def test_a_step_graph_knows_its_neighbours_too():
    graph = small().compile()
    assert graph.successors("ask") == ["tools", "say"]
    assert graph.predecessors("ask") == ["START", "tools"]
    assert graph.predecessors("START") == []
    assert graph.in_edges["END"] == (Edge("say", "END"),)


def test_what_is_added_later_does_not_reach_a_compiled_graph():
    graph = small()
    params = {"model": "m"}
    graph.add_node("late", kind="assign", params=params)
    frozen = graph.freeze()
    params["model"] = "other"
    graph.add_node("later", kind="assign")
    assert len(frozen.nodes) == 4
    assert frozen.node["late"].params == {"model": "m"}


def test_a_graph_with_problems_does_not_compile_and_tells_all_of_them():
    graph = small()
    graph.add_node("lost", kind="assign")
    graph.add_edge("lost", "sey")
    with pytest.raises(GraphError) as caught:
        graph.compile()
    assert [problem.code for problem in caught.value.problems] == ["TR223", "TR220"]
    assert caught.value.error_code == "TR223"
    assert caught.value.node == "sey"
    assert "did you mean 'say'?" in str(caught.value)


def test_equal_content_has_an_equal_digest_and_any_difference_another_one():
    assert small().compile().digest == small().compile().digest
    assert StepGraph.load(small().compile().text).digest == small().compile().digest
    digests = {small().compile().digest}
    for change in (
        lambda g: g.add_node("x", kind="assign"),
        lambda g: g.add_edge("ask", "say", when="more"),
        lambda g: setattr(g, "name", "other"),
    ):
        graph = small()
        change(graph)
        digests.add(graph.freeze().digest)
    assert len(digests) == 4


def test_networkx_gets_nodes_and_edges_with_their_attributes():
    graph = small().compile().nx
    assert isinstance(graph, nx.MultiDiGraph)
    assert list(graph) == ["START", "ask", "tools", "say", "END"]
    assert graph.nodes["ask"] == {
        "kind": "model_call",
        "params": {"model": "m"},
        "expands": False,
        "max_visits": 3,
        "within": None,
    }
    assert graph.nodes["tools"]["expands"] is True
    assert graph.nodes["END"] == {"kind": "END"}
    assert [(u, v, when) for u, v, when in graph.edges(data="when")] == [tuple(e) for e in small().edges]
    assert nx.is_frozen(graph)
    assert nx.has_path(graph, "START", "END")


def test_two_edges_between_the_same_nodes_stay_two_in_networkx():
    graph = small()
    graph.add_edge("ask", "say", when="more")
    assert graph.nx.number_of_edges("ask", "say") == 2


def test_the_graph_of_an_agent_passes_every_check(agent):
    assert check(compile_agent(agent)) == []


def test_the_graph_of_an_agent_bounds_its_cycle_by_the_agents_own_limit(agent):
    spec = agent.spec.model_copy(update={"limits": agent.spec.limits.model_copy(update={"max_steps": 7})})
    graph = compile_agent(agent.model_copy(update={"spec": spec}))
    assert graph.node["model_call"].max_visits == 7
    assert graph.digest != compile_agent(agent).digest


PROGRAM = """
import hashlib, sys
from treadle.graph.compile import compile_agent
from treadle.graph.render import render
from treadle.objects.agent import Agent, AgentSpec, ModelSpec
agent = Agent(id="asst_1", name="weather", created_ms=0, spec=AgentSpec(model=ModelSpec(id="offline")))
graph = compile_agent(agent)
print(graph.digest, graph.successors("model_call"))
for fmt in ("text", "mermaid", "dot", "svg"):
    print(hashlib.sha256(render(graph, fmt).encode()).hexdigest())
assert "networkx" not in sys.modules, "compiling, walking and drawing must not load networkx"
from treadle.graph.low import StepGraphBuilder
broken = StepGraphBuilder("broken")
for i in range(9):
    broken.add_node(f"n{i}", kind="function")
    broken.add_edge(f"n{i}", f"n{(i * 4) % 9}")
    broken.add_edge(f"n{i}", f"n{(i + 3) % 9}", when="x")
print(*broken.check(), sep="\\n")
"""


def test_digest_drawings_and_checks_are_the_same_for_every_hash_seed_and_compiling_loads_no_graph_library():
    said = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(said) == 1
    assert "TR22" in said.pop()


def _build_and_walk(n: int) -> None:
    graph = StepGraphBuilder("chain")
    for i in range(n):
        graph.add_node(f"n{i}", kind="function")
    graph.add_path(["START", *graph, "END"])
    compiled = graph.freeze()
    assert compiled.digest
    at, steps = "START", 0
    while at != "END":
        at = compiled.successors(at)[0]
        assert compiled.predecessors(at)
        steps += 1
    assert steps == n + 1


def _instructions(work: Callable[[], object]) -> int:
    """Count the bytecode instructions that a call executes, which no other process can disturb."""
    count = 0

    def follow(frame: FrameType, event: str, _arg: object) -> object:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_building_hashing_and_walking_cost_grow_linearly():
    _build_and_walk(10)
    assert _instructions(lambda: _build_and_walk(500)) < 11 * _instructions(lambda: _build_and_walk(50))


def test_compiling_an_agent_costs_microseconds(agent):
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(1000):
            compile_agent(agent)
        best = min(best, time.process_time() - start)
    assert best < 0.05
