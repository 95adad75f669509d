from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.errors import ConfigurationError
from treadle.graph.drawing import COLOURS, SHAPES, Arrow, Box, Drawing
from treadle.graph.low import StepGraphBuilder
from treadle.graph.nodes import END, START, Edge, Node, StepGraph
from treadle.graph.render import render

FORMATS = ("mermaid", "dot", "svg", "text")
SVG = "{http://www.w3.org/2000/svg}"
NASTY = [
    'say "hi"', "<script>alert(1)</script>", "a & b", "two\nlines", "tab\there", "end", "graph", "subgraph",
    "`code`", "#quot;", "%% comment", "{{x}}", "[/y/]", "a;b", "a|b", "--> c", "&amp;", "\\", "\\N", "日本語",
    "\x1b[31mred", "\x00", "\ud800", "\ufffe", "\u202e", "", " ", "x" * 300, "o", "1", "style", "]]>", "<!--",
]  # fmt: skip

texts = st.sampled_from(NASTY) | st.text(max_size=12)
kinds = st.sampled_from([kind for kind in SHAPES if kind not in {START, END}])


@st.composite
def step_graphs(draw) -> StepGraph:
    ids = draw(st.lists(texts, min_size=1, max_size=9, unique=True))
    nodes = tuple(
        Node(id_, draw(kinds), expands=draw(st.booleans()), max_visits=draw(st.sampled_from([None, 1, 25])))
        for id_ in ids
    )
    ends = st.sampled_from([*ids, START, END, "unknown"])
    edges = draw(st.lists(st.builds(Edge, ends, ends, st.none() | texts), max_size=20))
    return StepGraph(draw(texts), nodes, tuple(edges))


def loop() -> StepGraphBuilder:
    graph = StepGraphBuilder("loop")
    graph.add_node("draft", kind="model_call", max_visits=5)
    graph.add_node("check", kind="function")
    graph.add_node("ask", kind="pause")
    graph.add_path([START, "draft", "check"])
    graph.add_conditional_edges("check", {"good": END, "unsure": "ask", "bad": "draft", "again": "check"})
    graph.add_edge("ask", END)
    return graph


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_graph_of_an_agent_is_drawn_as_it_always_was(agent_graph, golden, fmt):
    golden(f"agent.{fmt}", render(agent_graph, fmt))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_loop_with_a_branch_is_drawn_as_it_always_was(golden, fmt):
    golden(f"loop.{fmt}", loop().draw(fmt))


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_trace_is_drawn_as_it_always_was(trace, golden, fmt):
    golden(f"trace.{fmt}", trace.draw(fmt))


def test_terminal_text_has_a_form_in_ascii(trace, golden):
    text = render(trace, "text", ascii_only=True)
    assert text.isascii()
    golden("trace.ascii.text", text)


def test_ascii_text_keeps_what_it_cannot_write_as_numbers():
    graph = StepGraphBuilder("g")
    graph.add_node("größe", kind="function")
    assert "gr\\xf6\\xdfe" in render(graph.freeze(), "text", ascii_only=True)


def test_a_format_that_does_not_exist_is_refused_with_those_that_do(agent_graph):
    with pytest.raises(ConfigurationError) as caught:
        render(agent_graph, "png")
    assert "png" in str(caught.value)
    assert caught.value.hint == "known: mermaid, dot, svg, text"


@settings(deadline=None)
@given(step_graphs())
def test_every_svg_is_well_formed_and_shows_every_node_and_edge(graph):
    root = ET.fromstring(render(graph, "svg"))
    width, height = (float(n) for n in root.attrib["viewBox"].split()[2:])
    assert width > 0
    assert height > 0
    touched = {e for edge in graph.edges for e in (edge.source, edge.target)} | set(graph.node)
    groups = root.findall(f"{SVG}g")
    assert len([g for g in groups if g.find(f"{SVG}text") is not None]) == len(touched)
    loops = {edge.source for edge in graph.edges if edge.source == edge.target}
    others = [edge for edge in graph.edges if edge.source != edge.target]
    assert len([g for g in groups if g.find(f"{SVG}text") is None]) == len(loops) + len(others)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "rect", "polygon", "g", "path", "text",
    }  # fmt: skip


DOT_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@given(step_graphs())
def test_every_dot_drawing_is_balanced_and_states_every_node_and_edge(graph):
    lines = DOT_STRING.sub("S", render(graph, "dot")).splitlines()
    assert lines[0] == "digraph S {"
    assert lines[-1] == "}"
    touched = {e for edge in graph.edges for e in (edge.source, edge.target)} | set(graph.node)
    statements = lines[4:-1]
    nodes = [
        line
        for line in statements
        if re.fullmatch(r"  S \[label=S, [a-z0-9=, S]*fillcolor=S, color=S\];", line)
    ]
    edges = [line for line in statements if re.fullmatch(r"  S -> S( \[label=S\])?;", line)]
    assert len(nodes) == len(touched)
    assert len(edges) == len(graph.edges)
    assert len(nodes) + len(edges) == len(statements)


MERMAID_TEXT = r'"(?:[^"<>&`{}\[\]|\\;#]|#\d+;|<br/>)+"'
MERMAID_NODE = re.compile(
    rf"  (\w+)(?:\(\[|\(|\[\[|\[/|\[|\{{\{{){MERMAID_TEXT}(?:\]\)|\)|\]\]|/\]|\]|\}}\}})", re.ASCII
)
MERMAID_EDGE = re.compile(rf"  (\w+) -->(?:\|{MERMAID_TEXT}\|)? (\w+)", re.ASCII)


@given(step_graphs())
def test_every_line_of_a_mermaid_drawing_is_a_node_or_an_edge_between_nodes(graph):
    first, *lines = render(graph, "mermaid").splitlines()
    assert first == "flowchart TB"
    nodes = [found[1] for line in lines if (found := MERMAID_NODE.fullmatch(line))]
    edges = [found for line in lines if (found := MERMAID_EDGE.fullmatch(line))]
    assert len(nodes) + len(edges) == len(lines)
    assert len(edges) == len(graph.edges)
    assert len(set(nodes)) == len(nodes)
    assert "end" not in nodes
    assert {end for edge in edges for end in edge.groups()} <= set(nodes)


@given(step_graphs(), st.booleans())
def test_terminal_text_writes_every_node_once_and_nothing_a_terminal_acts_on(graph, ascii_only):
    drawing = Drawing(
        "t",
        tuple(
            Box(id=node.id, label=f"label {i}", lines=(f"only {i}.",)) for i, node in enumerate(graph.nodes)
        ),
        tuple(
            Arrow(source=edge.source, target=edge.target, label="l" * (edge.when is not None))
            for edge in graph.edges
            if edge.source in graph.node and edge.target in graph.node
        ),
    )
    text = render(drawing, "text", ascii_only=ascii_only)
    assert all(text.count(f"only {i}.") == 1 for i in range(len(graph.nodes)))
    assert all(
        c.isprintable() for line in render(graph, "text", ascii_only=ascii_only).split("\n") for c in line
    )
    assert not ascii_only or text.isascii()


@given(step_graphs())
def test_terminal_text_tells_every_labelled_or_returning_edge(graph):
    text = render(graph, "text")
    assert text.count("↩") >= sum(edge.source == edge.target for edge in graph.edges)


@given(step_graphs())
def test_drawing_twice_gives_the_same(graph):
    assert [render(graph, fmt) for fmt in FORMATS] == [render(graph, fmt) for fmt in FORMATS]


def test_text_writes_parallel_branches_behind_a_rail_and_goes_on_where_they_meet():
    graph = StepGraphBuilder("fork")
    for id_ in ("fork", "left", "right", "join"):
        graph.add_node(id_, kind="function")
    graph.add_edges_from([("fork", "left"), ("fork", "right"), ("left", "join"), ("right", "join")])
    assert [line.split("  ")[0] for line in graph.draw("text").splitlines()] == [
        "fork",
        "├─ left",
        "└─ right",
        "join",
    ]


def test_text_of_a_long_chain_stays_flat_and_of_deep_nesting_does_not_overflow():
    chain = StepGraphBuilder("chain")
    nest = StepGraphBuilder("nest")
    for i in range(3000):
        chain.add_node(f"n{i}", kind="function")
    chain.add_path([*chain])
    assert all(line.startswith("n") for line in chain.draw("text").splitlines())
    for i in range(1500):
        nest.add_node(f"n{i}", kind="function")
        nest.add_edges_from([(f"n{i}", f"n{i + 1}", "a"), (f"n{i}", END, "b")])
    assert nest.draw("text").count("\n") > 1500


def test_a_long_label_is_cut_in_the_box_and_whole_in_the_tooltip():
    graph = StepGraph("long", (Node("x" * 300, "function"),), ())
    root = ET.fromstring(render(graph, "svg"))
    (group,) = root.findall(f"{SVG}g")
    assert group.findtext(f"{SVG}title", "").startswith("x" * 300)
    shown = group.findtext(f"{SVG}text", "")
    assert shown.endswith("…")
    assert len(shown) < 60


def test_status_colours_the_boxes_of_a_trace(trace):
    groups = ET.fromstring(trace.draw("svg")).findall(f"{SVG}g")
    fills = [group.attrib["fill"] for group in groups if group.find(f"{SVG}text") is not None]
    statuses = ["failed", "completed", "completed", "failed", "completed", "completed", "waiting"]
    assert fills == [COLOURS[status][0] for status in statuses]


def test_two_loops_of_one_node_are_drawn_as_one_with_both_labels():
    graph = StepGraph(
        "g", (Node("a", "function"),), (Edge("a", "a", "x"), Edge("a", "a", "y"), Edge("a", "a"))
    )
    root = ET.fromstring(render(graph, "svg"))
    assert [text.text for text in root.findall(f"{SVG}text")] == ["x, y"]


def test_every_edge_that_returns_is_dashed():
    paths = ET.fromstring(loop().draw("svg")).iter(f"{SVG}path")
    assert sum("stroke-dasharray" in path.attrib for path in paths) == 2


def test_a_large_graph_is_drawn_in_every_format():
    rnd = random.Random(5)
    ids = [f"n{i}" for i in range(1000)]
    edges = tuple(Edge(rnd.choice(ids), rnd.choice(ids), rnd.choice([None, "yes"])) for _ in range(2000))
    graph = StepGraph("large", tuple(Node(id_, "function") for id_ in ids), edges)
    assert all(len(render(graph, fmt)) > 10_000 for fmt in FORMATS)


def test_the_documented_drawings_are_the_drawn_ones():
    root = Path(__file__).parents[3]
    page = (root / "docs" / "step-graph.md").read_text(encoding="utf-8")
    golden = root / "tests" / "unit" / "graph" / "golden"
    for name, language in (
        ("agent.mermaid", "mermaid"),
        ("trace.mermaid", "mermaid"),
        ("trace.text", "text"),
        ("agent.text", "text"),
    ):
        assert f"```{language}\n{(golden / name).read_text(encoding='utf-8')}```" in page, name


def test_the_documented_python_runs():
    page = (Path(__file__).parents[3] / "docs" / "step-graph.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "step-graph.md", "exec"), names)
