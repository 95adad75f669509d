from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.graph.check import check
from treadle.graph.low import StepGraphBuilder
from treadle.graph.nodes import END, START, Edge, Node, StepGraph


def sound() -> StepGraphBuilder:
    """START -> a -> b -> END, of a kind that may take any label, with one label on each edge."""
    graph = StepGraphBuilder("sound")
    graph.add_node("a", kind="function")
    graph.add_node("b", kind="function")
    graph.add_edges_from([(START, "a"), ("a", "b", "on"), ("b", END, "done")])
    return graph


def codes(graph: StepGraphBuilder) -> list[tuple[str, str | None]]:
    return [(problem.code, problem.node) for problem in graph.check()]


def only(graph: StepGraphBuilder) -> str:
    """The one problem of a graph, as text."""
    (problem,) = graph.check()
    assert problem.severity == "error"
    return str(problem)


def test_a_sound_graph_has_no_problems():
    assert sound().check() == []


def test_a_node_that_nothing_leads_to():
    graph = sound()
    graph.add_node("lost", kind="assign")
    graph.add_edge("lost", "b")
    assert codes(graph) == [("TR220", "lost")]
    assert "no way leads from START to 'lost'" in only(graph)


def test_a_node_that_leads_nowhere_is_a_dead_end_named_once_with_what_leads_into_it():
    graph = sound()
    for id_ in ("x", "y", "z"):
        graph.add_node(id_, kind="assign")
    graph.add_edge("a", "x", when="off")
    graph.add_path(["x", "y", "z"])
    assert codes(graph) == [("TR221", "z")]
    assert "from 'z' to END, nor from 'x', 'y', which lead only there" in only(graph)


def test_a_cycle_that_no_edge_leaves_is_a_dead_end():
    graph = sound()
    graph.add_node("x", kind="assign", max_visits=2)
    graph.add_node("y", kind="assign")
    graph.add_edge("a", "x", when="off")
    graph.add_path(["x", "y", "x"])
    assert codes(graph) == [("TR221", "x")]
    assert "the cycle of 'x', 'y'" in only(graph)


def test_a_cycle_needs_a_bound_on_one_of_its_nodes():
    graph = sound()
    graph.add_edge("b", "a", when="again")
    assert codes(graph) == [("TR222", "a")]
    assert "nothing bounds the cycle a -> b -> a" in only(graph)
    bounded = StepGraphBuilder("bounded")
    bounded.add_node("a", kind="function")
    bounded.add_node("b", kind="function", max_visits=5)
    bounded.add_edges_from([(START, "a"), ("a", "b"), ("b", END, "done")])
    bounded.add_edge("b", "a", when="again")
    assert bounded.check() == []


def test_a_node_that_leads_to_itself_is_a_cycle():
    graph = sound()
    graph.add_edge("b", "b", when="again")
    assert "nothing bounds the cycle b -> b" in only(graph)


def test_a_bound_on_one_cycle_does_not_excuse_another_through_the_same_node():
    graph = StepGraphBuilder("two cycles")
    for id_, bound in (("a", None), ("b", None), ("c", 3)):
        graph.add_node(id_, kind="function", max_visits=bound)
    graph.add_edges_from(
        [(START, "a"), ("a", "b"), ("b", END, "done"), ("b", "a", "short"), ("b", "c", "long"), ("c", "a")]
    )
    assert "nothing bounds the cycle a -> b -> a" in only(graph)


def test_an_edge_to_an_unknown_node_suggests_the_one_that_was_meant():
    graph = sound()
    graph.add_node("translate", kind="function")
    graph.add_path(["translate", END])
    graph.add_edge("a", "tranlsate", when="t")
    graph.add_edge("a", "translate", when="u")
    assert codes(graph) == [("TR223", "tranlsate")]
    assert "did you mean 'translate'?" in only(graph)


def test_the_ends_in_small_letters_are_suggested_in_capitals():
    graph = sound()
    graph.add_edge("a", "end", when="stop")
    assert "did you mean END?" in only(graph)
    graph = sound()
    graph.add_edge("start", "b")
    assert "did you mean START?" in only(graph)


def test_two_nodes_of_one_id():
    graph = sound()
    graph.add_node("a", kind="function")
    assert codes(graph) == [("TR224", "a")]


def test_the_same_edge_twice_is_one_problem():
    graph = sound()
    graph.add_edge("a", "b", when="on")
    graph.add_edge("a", "b", when="on")
    assert codes(graph) == [("TR225", "a")]
    assert "declared 3 times" in only(graph)


@pytest.mark.parametrize("id_", ["START", "END", "", "a#1", "a/b", "1a", "two words", "a" * 65, "\ud800"])
def test_ids_that_are_reserved_or_would_break_a_path(id_):
    graph = sound()
    graph.add_node(id_, kind="function")
    assert ("TR226", id_) in codes(graph)


@pytest.mark.parametrize("label", ["", "two\nlines", "\ud800"])
def test_labels_that_cannot_be_printed(label):
    graph = sound()
    graph.add_edge("a", END, when=label)
    assert codes(graph) == [("TR226", "a")]


def test_a_graph_needs_a_name():
    assert [problem.code for problem in StepGraphBuilder("").check()] == ["TR226", "TR227"]


def test_no_edge_may_enter_start_or_leave_end():
    graph = sound()
    graph.add_edge("b", START, when="again")
    assert ("TR226", "b") in codes(graph)
    graph = sound()
    graph.add_edge(END, "b")
    assert ("TR226", "b") in codes(graph)


def test_nothing_after_start_is_told_once_and_not_for_every_node():
    graph = StepGraphBuilder("headless")
    graph.add_node("a", kind="function")
    graph.add_edge("a", END)
    assert codes(graph) == [("TR227", "START")]
    assert "add_edge(START, 'a')" in only(graph)


@pytest.mark.parametrize("label", [None, "left"])
def test_two_edges_for_one_label(label):
    graph = StepGraphBuilder("fork")
    for id_ in ("a", "b", "c"):
        graph.add_node(id_, kind="function")
    graph.add_path([START, "a"])
    graph.add_edges_from([("a", "b", label), ("a", "c", label), ("b", END), ("c", END)])
    assert codes(graph) == [("TR228", "a")]
    assert "to b, c" in only(graph)


def model_call(*edges: tuple[str, str, str | None]) -> StepGraphBuilder:
    graph = StepGraphBuilder("model")
    graph.add_node("ask", kind="model_call", max_visits=2)
    graph.add_node("say", kind="append_message")
    graph.add_edge(START, "ask")
    graph.add_edges_from([*edges, ("say", END)])
    return graph


def test_a_label_that_a_model_call_may_take_needs_an_edge():
    graph = model_call(("ask", "say", "text"))
    assert codes(graph) == [("TR229", "ask")]
    assert "'tool_calls'" in only(graph)


def test_an_edge_without_a_label_serves_every_label():
    assert model_call(("ask", "say", None)).check() == []


def test_an_edge_without_a_label_beside_labelled_ones_would_be_taken_with_them():
    graph = model_call(("ask", "say", "text"), ("ask", END, None))
    assert codes(graph) == [("TR228", "ask")]
    assert "from 'ask' to 'END' would be taken beside 'text'" in only(graph)


def test_a_label_that_a_kind_never_takes():
    graph = model_call(("ask", "say", "txt"), ("ask", "say", "text"), ("ask", END, "tool_calls"))
    assert codes(graph) == [("TR230", "ask")]
    assert "did you mean 'text'?" in only(graph)


@pytest.mark.parametrize("source", ["START", "say"])
def test_a_label_where_none_is_taken(source):
    graph = StepGraphBuilder("labelled")
    graph.add_node("say", kind="append_message")
    graph.add_edge(START, "say", when="x" if source == "START" else None)
    graph.add_edge("say", END, when="x" if source == "say" else None)
    assert codes(graph) == [("TR230", source)]


def test_kinds_whose_labels_are_their_own_business_are_left_alone():
    graph = sound()
    graph.add_edge("a", END, when="anything")
    assert graph.check() == []


def test_a_kind_that_does_not_exist():
    graph = sound()
    graph.add_node("c", kind="modelcall")  # type: ignore[arg-type]
    graph.add_path(["b", "c"])
    assert ("TR231", "c") in codes(graph)
    assert "did you mean 'model_call'?" in "\n".join(map(str, graph.check()))


@pytest.mark.parametrize("params", [{"f": print}, {"x": float("nan")}, {"x": {1, 2}}, {"x": "\ud800"}])
def test_params_that_are_not_json(params):
    graph = StepGraphBuilder("params")
    graph.add_node("a", kind="function", params=params)
    graph.add_path([START, "a", END])
    assert codes(graph) == [("TR231", "a")]


def test_a_node_that_may_never_be_visited():
    graph = StepGraphBuilder("never")
    graph.add_node("a", kind="function", max_visits=0)
    graph.add_path([START, "a", END])
    assert codes(graph) == [("TR231", "a")]


def test_problems_of_different_kinds_are_all_told_at_once():
    graph = StepGraphBuilder("many")
    graph.add_node("a", kind="function")
    graph.add_node("a", kind="function")
    graph.add_node("b", kind="function")
    graph.add_node("c", kind="function")
    graph.add_edges_from([(START, "a"), ("a", "nowhere"), ("b", "b")])
    assert {code for code, _ in codes(graph)} == {"TR224", "TR223", "TR220", "TR221", "TR222"}


@given(
    bounds=st.lists(st.sampled_from([None, 3]), min_size=1, max_size=6),
    pairs=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=16),
)
def test_reachability_and_cycles_agree_with_counting_every_way(bounds, pairs):
    """Compare with a transitive closure, the slow and obvious way."""
    ids = [START, *(f"n{i}" for i in range(len(bounds))), END]
    edges = {(ids[i], ids[j]) for i, j in pairs if i < len(ids) - 1 and 0 < j < len(ids)}
    nodes = tuple(Node(f"n{i}", "function", max_visits=bound) for i, bound in enumerate(bounds))
    labelled = tuple(Edge(u, v, f"l{k}") for k, (u, v) in enumerate(sorted(edges)))
    graph = StepGraphBuilder("any")
    for node in nodes:
        graph.add_node(node.id, kind=node.kind, max_visits=node.max_visits)
    graph.add_edges_from(labelled)
    found = graph.check()

    def closure(over: set[tuple[str, str]]) -> set[tuple[str, str]]:
        reach = set(over)
        while more := {(u, y) for u, v in reach for x, y in over if v == x} - reach:
            reach |= more
        return reach

    reach = closure(edges)
    if any(u == START for u, _ in edges):
        lost = {node.id for node in nodes if (START, node.id) not in reach}
        assert {p.node for p in found if p.code == "TR220"} == lost
    stuck = [node.id for node in nodes if (node.id, END) not in reach]
    assert bool(stuck) == any(p.code == "TR221" for p in found)
    unbounded = {node.id for node in nodes if node.max_visits is None}
    free = closure({(u, v) for u, v in edges if u in unbounded and v in unbounded})
    assert any(u == v for u, v in free) == any(p.code == "TR222" for p in found)


def test_a_graph_of_ten_thousand_nodes_is_checked_in_seconds():
    names = [f"n{i}" for i in range(10_000)]
    nodes = tuple(Node(name, "function", max_visits=9) for name in names)
    edges = [Edge(START, names[0]), Edge(names[-1], END, "on")]
    edges += [Edge(u, v, "on") for u, v in pairwise(names)]
    edges += [Edge(names[i], names[i - 7], "back") for i in range(7, 10_000)]
    assert check(StepGraph("large", nodes, tuple(edges))) == []
