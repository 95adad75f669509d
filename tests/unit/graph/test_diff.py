from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from treadle.graph.diff import diff
from treadle.graph.low import StepGraphBuilder
from treadle.graph.nodes import END, START, Edge


def base(**names: str) -> StepGraphBuilder:
    """START -> a -> b -> c -> END, with nodes renamed on request."""
    a, b, c = (names.get(name, name) for name in "abc")
    graph = StepGraphBuilder("base")
    graph.add_node(a, kind="function", params={"call": "one"})
    graph.add_node(b, kind="function", params={"call": "two"})
    graph.add_node(c, kind="append_message")
    graph.add_path([START, a, b, c, END])
    return graph


def test_equal_graphs_differ_in_nothing():
    assert not base().diff(base())
    assert base().diff(base().freeze()).lines() == []


def test_an_added_and_a_removed_node_with_their_edges():
    graph = base()
    graph.add_node("extra", kind="wait", params={"for": "1d"})
    graph.add_edge("a", "extra", when="later")
    change = base().diff(graph)
    assert [node.id for node in change.added] == ["extra"]
    assert change.edges_added == (Edge("a", "extra", "later"),)
    assert not change.removed
    back = graph.diff(base())
    assert [node.id for node in back.removed] == ["extra"]
    assert back.edges_removed == (Edge("a", "extra", "later"),)


def test_a_changed_node_names_what_differs():
    graph = StepGraphBuilder("base")
    graph.add_node("a", kind="function", params={"call": "one"}, max_visits=4)
    graph.add_node("b", kind="function", params={"call": "TWO"})
    graph.add_node("c", kind="append_message")
    graph.add_path([START, "a", "b", "c", END])
    change = base().diff(graph)
    assert [(c.after.id, c.fields) for c in change.changed] == [("a", ("max_visits",)), ("b", ("params",))]
    assert change.lines() == [
        "~ node a: max_visits None -> 4",
        "~ node b: call 'two' -> 'TWO'",
    ]


def test_a_new_label_changes_its_edge():
    graph = base()
    before = StepGraphBuilder("base")
    for node in graph.nodes:
        before.add_node(node.id, kind=node.kind, params=node.params)
    before.add_edges_from([*graph.edges[:3], (graph.edges[3].source, END, "done")])
    change = before.diff(graph)
    assert change.edges_changed == ((Edge("c", END, "done"), Edge("c", END, None)),)
    assert not change.edges_added
    assert not change.edges_removed


def test_a_node_under_a_new_name_is_renamed_and_its_edges_are_the_same():
    change = base().diff(base(b="second"))
    assert change.renamed == (("b", "second"),)
    assert change.lines() == ["~ node b is now second"]


def test_neighbours_that_are_renamed_together_are_both_found():
    change = base().diff(base(a="first", b="second", c="third"))
    assert change.renamed == (("a", "first"), ("b", "second"), ("c", "third"))
    assert len(change.lines()) == 3


def test_a_node_of_other_content_at_the_same_place_is_not_a_rename():
    graph = StepGraphBuilder("base")
    graph.add_node("a", kind="function", params={"call": "one"})
    graph.add_node("second", kind="function", params={"call": "other"})
    graph.add_node("c", kind="append_message")
    graph.add_path([START, "a", "second", "c", END])
    change = base().diff(graph)
    assert not change.renamed
    assert [node.id for node in change.removed] == ["b"]
    assert [node.id for node in change.added] == ["second"]


def test_twins_that_cannot_be_told_apart_are_not_guessed():
    def twins(*ids: str) -> StepGraphBuilder:
        graph = StepGraphBuilder("twins")
        graph.add_node("fork", kind="function")
        for i, id_ in enumerate(ids):
            graph.add_node(id_, kind="function")
            graph.add_edge("fork", id_, when=f"{i}" if len(ids) > 2 else None)
            graph.add_edge(id_, END)
        return graph

    assert twins("a", "b").diff(twins("x", "y")).renamed == ()
    assert twins("a", "b", "c").diff(twins("x", "y", "z")).renamed == (("a", "x"), ("b", "y"), ("c", "z"))


@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from([None, "x"])), max_size=20
    ),
    moved=st.sets(st.integers(0, 9), max_size=10),
)
def test_renaming_nodes_of_distinct_content_is_always_recognised(pairs, moved):
    def numbered(names: dict[int, str]) -> StepGraphBuilder:
        graph = StepGraphBuilder("numbered")
        for i in range(10):
            graph.add_node(names.get(i, f"n{i}"), kind="function", params={"i": i})
        graph.add_edges_from([(names.get(u, f"n{u}"), names.get(v, f"n{v}"), when) for u, v, when in pairs])
        return graph

    change = diff(numbered({}).freeze(), numbered({i: f"m{i}" for i in moved}).freeze())
    assert set(change.renamed) == {(f"n{i}", f"m{i}") for i in moved}
    assert len(change.lines()) == len(moved)
