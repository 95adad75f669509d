"""The step graph of a workflow: its nodes, the labels of its edges, its bodies, and how it is drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from treadle.definition.load import load, load_text
from treadle.graph.check import check
from treadle.graph.compile import compile_workflow
from treadle.graph.diff import diff
from treadle.graph.low import StepGraphBuilder
from treadle.graph.nodes import END, START, Edge, StepGraph
from treadle.graph.render import render

CORPUS = Path(__file__).parents[1] / "definition" / "corpus"
HEAD = "version: 1.0.0\nkind: workflow\nname: w\nstate: {n: {type: integer, default: 0}}\n"

WHOLE = """\
version: 1.0.0
kind: workflow
name: whole
inputs: {items: {type: array, default: []}}
state:
  n: {type: integer, default: 0, reduce: sum}
  seen: {type: array, default: [], reduce: append}
agents: {writer: asst_1}
tools: [{type: function, name: search, call: 'm:search', effect: pure}]
defaults: {retry: {max_attempts: 3}, timeout: 5s}
on_error: {to: sorry}
limits: {max_visits: 7}
start: ask
nodes:
  ask: {type: agent, agent: writer, message: Hi, next: choose}
  choose:
    type: switch
    value: state.n
    cases: {0: both, 'a': each, true: end}
    default: again
  both: {type: parallel, branches: [left, right], join: each}
  left: {type: code, call: 'm:left', effect: pure, next: each}
  right: {type: tool, tool: search, on_error: [{on: [timeout, http_404], continue_with: 1}], next: each}
  each:
    type: map
    over: inputs.items
    as: one
    start: first
    nodes:
      first:
        type: code
        call: m:first
        with: {one: '{{ one }}'}
        next: [{when: "result\\n  > 1", to: second}, {to: end}]
        on_error: [{on: [timeout], to: second}, {to: end}]
      second: {type: fail, error: bad}
    next: again
  again:
    type: loop
    until: state.n > 3
    max_iterations: 5
    start: work
    nodes:
      work: {type: set, set: {n: 1}, next: inner}
      inner:
        type: map
        over: '[1, 2]'
        node: {type: message, text: Hi, thread: notes}
        max_concurrency: 1
        next: end
    next: person
  person:
    type: human
    kind: approval
    ask: Good?
    timeout: 1h
    on_timeout: sorry
    next: [{when: result.decision == 'approve', to: end}, {to: ask}]
  sorry: {type: message, text: Sorry, next: stop}
  stop: {type: end, outputs: {n: 0}}
"""


def spec_of(text):
    loaded = load_text(text)
    assert [str(p) for p in loaded.errors] == []
    return loaded.documents[0].workflow


def graph_of(text, **pins):
    return compile_workflow(spec_of(text), pins)


def edges_from(graph, source):
    return [(edge.target, edge.when) for edge in graph.out_edges[source]]


@pytest.fixture(scope="module")
def whole():
    return graph_of(WHOLE, writer={"agent": "asst_1", "version": 2})


def test_each_type_of_node_becomes_a_node_of_its_step_kind(whole):
    assert {node.id: node.kind for node in whole.nodes} == {
        "ask": "child_run",
        "choose": "assign",
        "both": "frame",
        "left": "function",
        "right": "tool_call",
        "each": "frame",
        "each/first": "function",
        "each/second": "assign",
        "again": "frame",
        "again/work": "assign",
        "again/inner": "frame",
        "again/inner/item": "append_message",
        "person": "pause",
        "sorry": "append_message",
        "stop": "assign",
    }


def test_a_body_stands_behind_its_frame_and_lies_within_it(whole):
    within = {node.id: node.within for node in whole.nodes if node.within}
    assert within == {
        "each/first": "each",
        "each/second": "each",
        "again/work": "again",
        "again/inner": "again",
        "again/inner/item": "again/inner",
    }


def test_edges_carry_the_labels_that_their_steps_take(whole):
    assert edges_from(whole, START) == [("ask", None)]
    assert edges_from(whole, "ask") == [("choose", None), ("sorry", "error")]
    assert edges_from(whole, "choose") == [
        ("both", "0"),
        ("each", '"a"'),
        (END, "true"),
        ("again", "default"),
        ("sorry", "error"),
    ]
    assert edges_from(whole, "both") == [("left", None), ("right", None), ("sorry", "error")]
    assert edges_from(whole, "person") == [
        (END, "result.decision == 'approve'"),
        ("ask", "else"),
        ("sorry", "timeout"),
        ("sorry", "error"),
    ]
    assert edges_from(whole, "stop") == [(END, None)]


def test_the_edges_of_a_body_begin_at_its_frame_and_lead_back_to_it(whole):
    assert edges_from(whole, "each") == [("each/first", "item"), ("again", "done"), ("sorry", "error")]
    assert edges_from(whole, "each/first") == [
        ("each/second", "result > 1"),
        ("each", "else"),
        ("each/second", "error: timeout"),
        ("each", "error"),
    ]
    assert edges_from(whole, "each/second") == [("each", "failed")]
    assert edges_from(whole, "again") == [("again/work", "round"), ("person", "done"), ("sorry", "error")]
    assert edges_from(whole, "again/inner") == [("again/inner/item", "item"), ("again", "done")]
    assert edges_from(whole, "again/inner/item") == [("again/inner", None)]


def test_an_error_that_continues_with_a_value_is_no_edge_but_told(whole):
    assert edges_from(whole, "right") == [("each", None)]
    assert whole.node["right"].params["on_error"] == [{"on": ["timeout", "http_404"], "continue_with": 1}]


def test_a_node_of_a_branch_leaves_its_other_errors_to_its_parallel_node(whole):
    assert ("sorry", "error") not in edges_from(whole, "left")
    assert whole.node["both"].params["on_error"] == [{"to": "sorry"}]


def test_the_target_of_the_default_route_does_not_lead_to_itself(whole):
    assert edges_from(whole, "sorry") == [("stop", None)]


def test_what_the_workflow_says_for_all_its_nodes_is_put_into_each(whole):
    assert whole.node["ask"].params["retry"] == {"max_attempts": 3}
    assert whole.node["right"].params["timeout"] == "5s"
    assert "retry" not in whole.node["each/first"].params, "its effect is 'once'"
    assert "retry" not in whole.node["choose"].params


def test_a_node_has_the_version_of_the_agent_that_it_names(whole):
    assert whole.node["ask"].params["pin"] == {"agent": "asst_1", "version": 2}
    assert "pin" not in graph_of(WHOLE).node["ask"].params


def test_the_graph_is_told_what_its_nodes_need_to_know_of_the_workflow(whole):
    assert whole.params["state"]["seen"] == {"type": "array", "default": [], "reduce": "append"}
    assert [tool["name"] for tool in whole.params["tools"]] == ["search"]
    assert whole.params["limits"] == {"max_visits": 7}


def test_only_nodes_on_a_cycle_have_a_bound_of_visits(whole):
    bounds = {node.id: node.max_visits for node in whole.nodes}
    assert bounds["ask"] == bounds["person"] == bounds["again"] == 7
    assert bounds["sorry"] is bounds["stop"] is None
    assert bounds["each/first"] is bounds["again/work"] is None, "a frame bounds its body itself"


def test_a_node_may_say_its_own_bound():
    nodes = "start: a\nnodes:\n  a: {type: set, set: {n: 1}, max_visits: 2, next: [{when: state.n > 1, to: end}, {to: a}]}\n"
    assert graph_of(HEAD + nodes).node["a"].max_visits == 2


def test_a_map_over_a_workflow_has_it_as_its_one_inner_node():
    other = "version: 1.0.0\nkind: workflow\nname: other\ninputs: {x: integer}\nstart: e\nnodes: {e: {type: end}}\n"
    nodes = "start: m\nnodes:\n  m: {type: map, over: '[1]', workflow: '#other', with: {x: '{{ item }}'}, next: end}\n"
    loaded = load_text(f"{HEAD}{nodes}---\n{other}")
    pin = {"workflow": "wf_1", "version": 3}
    graph = compile_workflow(loaded.documents[0].workflow, {"#other": pin})
    assert graph.node["m/item"].kind == "child_run"
    assert graph.node["m/item"].params == {
        "type": "workflow",
        "workflow": "#other",
        "with": {"x": "{{ item }}"},
        "thread": "new",
        "pin": pin,
    }
    assert "workflow" not in graph.node["m"].params
    assert "with" not in graph.node["m"].params


def test_a_graph_of_a_workflow_is_read_back_as_it_was_and_can_be_walked(whole):
    assert StepGraph.load(whole.text) == whole
    assert check(whole) == []


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("workflow-*.yaml")))
def test_every_sound_document_compiles_to_a_graph_that_can_be_walked(name):
    graph = compile_workflow(load([CORPUS / name]).documents[0].workflow)
    assert check(graph) == []
    assert StepGraph.load(graph.text) == graph


def test_equal_documents_have_equal_digests_and_pins_are_part_of_them(whole):
    again = compile_workflow(spec_of(WHOLE), {"writer": {"agent": "asst_1", "version": 2}})
    assert again.digest == whole.digest
    assert graph_of(WHOLE).digest != whole.digest
    assert (
        graph_of(WHOLE.replace("default: 0, reduce: sum", "default: 1, reduce: sum")).digest != whole.digest
    )


def test_a_description_changes_no_digest(whole):
    told = WHOLE.replace("message: Hi, next", "message: Hi, description: Says hi., next")
    assert graph_of(told, writer={"agent": "asst_1", "version": 2}).digest == whole.digest


def test_the_graph_of_an_agent_is_written_as_before(agent_graph):
    written = json.loads(agent_graph.text)
    assert set(written) == {"name", "nodes", "edges"}
    assert not any("within" in node for node in written["nodes"])


@pytest.mark.parametrize("fmt", ["mermaid", "dot", "svg", "text"])
def test_a_workflow_is_drawn_as_it_always_was(whole, golden, fmt):
    golden(f"workflow.{fmt}", render(whole, fmt))


# -- checks


def framed():
    graph = StepGraphBuilder("framed")
    graph.add_node("round", kind="frame", params={"type": "loop", "max_iterations": 3})
    graph.add_node("round/a", kind="function", within="round")
    graph.add_edges_from(
        [(START, "round"), ("round", "round/a", "round"), ("round/a", "round"), ("round", END, "done")]
    )
    return graph


def codes(graph):
    return [problem.code for problem in graph.check()]


def test_a_frame_bounds_its_body_and_its_inner_ids_are_sound():
    assert codes(framed()) == []


def test_an_edge_into_the_body_of_another_frame_is_a_problem():
    graph = framed()
    graph.add_node("other", kind="function")
    graph.add_edges_from([("round/a", "other", "out"), ("other", END)])
    assert "TR240" in codes(graph)


def test_a_frame_without_a_body_is_a_problem():
    graph = StepGraphBuilder("empty")
    graph.add_node("each", kind="frame", params={"type": "map"})
    graph.add_edges_from([(START, "each"), ("each", END, "done")])
    assert codes(graph) == ["TR229"]


def test_a_node_within_something_that_is_no_frame_is_a_problem():
    graph = StepGraphBuilder("odd")
    graph.add_node("a", kind="function")
    graph.add_node("a/b", kind="function", within="a")
    graph.add_edges_from([(START, "a"), ("a", "a/b"), ("a/b", END)])
    assert "TR231" in codes(graph)


def test_an_error_route_stands_beside_the_edge_without_a_label_and_a_second_choice_does_not():
    graph = StepGraphBuilder("errors")
    graph.add_node("a", kind="function")
    graph.add_edges_from([(START, "a"), ("a", END), ("a", END, "error: timeout"), ("a", END, "error")])
    assert codes(graph) == []
    graph.add_edge("a", END, when="x > 1")
    assert codes(graph) == ["TR228"]


def test_a_cycle_through_frames_that_nothing_bounds_is_a_problem():
    graph = framed()
    graph.add_node("back", kind="function")
    graph.add_edges_from([("round", "back", "x"), ("back", "round")])
    assert codes(graph) == ["TR222"]


# -- what differs


def test_a_diff_names_what_the_graph_is_told_and_sees_a_renamed_frame():
    before = graph_of(WHOLE)
    after = graph_of(WHOLE.replace("limits: {max_visits: 7}", "limits: {max_visits: 7, max_steps: 9}"))
    assert diff(before, after).lines() == ["~ limits.max_steps is new: 9"]
    body = "start: {0}\nnodes:\n  {0}: {{type: map, over: '[1]', node: {{type: code, call: 'm:f'}}, next: end}}\n"
    renamed = diff(graph_of(HEAD + body.format("each")), graph_of(HEAD + body.format("every")))
    assert set(renamed.renamed) == {("each", "every"), ("each/item", "every/item")}
    assert not renamed.changed


def test_a_diff_tells_the_state_key_by_key_with_its_schemas_and_reducers():
    before = graph_of(WHOLE)
    text = WHOLE.replace(
        "n: {type: integer, default: 0, reduce: sum}", "n: {type: number, default: 0, reduce: max}"
    )
    text = text.replace(
        "seen: {type: array, default: [], reduce: append}", "known: {type: array, reduce: union}"
    )
    text = text.replace("  n: {type: n", "  m: string\n  n: {type: n")
    assert diff(before, graph_of(text)).lines() == [
        "~ state.n: reduce 'sum' -> 'max'",
        "~ state.n: type 'integer' -> 'number'",
        "~ state.seen is gone",
        "~ state.m is new: {'type': 'string'}",
        "~ state.known is new: {'reduce': 'union', 'type': 'array'}",
    ]


def test_renamed_neighbours_of_a_workflow_do_not_hide_each_other():
    text = """
start: a
nodes:
  a: {type: code, call: 'm:a', next: [{when: result, to: b}, {to: both}]}
  b: {type: code, call: 'm:b', on_error: [{to: a}], next: end}
  both: {type: parallel, branches: [l, r], join: j}
  l: {type: code, call: 'm:l', next: j}
  r: {type: code, call: 'm:r', next: j}
  j: {type: switch, value: '1', cases: {1: a, 2: b}, default: end}
"""
    renamed = text
    for old in ("a", "b", "both", "l", "r", "j"):
        renamed = re.sub(rf"(?<![\w:']){old}(?=[:,}}\]\n])", f"{old}_new", renamed)
    change = diff(graph_of(HEAD + text), graph_of(HEAD + renamed))
    assert {old for old, _ in change.renamed} == {"a", "b", "both", "l", "r", "j"}
    assert all(line.endswith("_new") for line in change.lines())


def test_a_diff_tells_a_changed_node_field_by_field():
    text = "start: a\nnodes:\n  a: {type: message, text: Hi, next: end}\n"
    changed = text.replace("text: Hi", "text: Ho, role: user")
    lines = diff(graph_of(HEAD + text), graph_of(HEAD + changed)).lines()
    assert lines == ["~ node a: text 'Hi' -> 'Ho', role is new: 'user'"]


def test_an_edge_is_a_plain_tuple(whole):
    assert Edge("ask", "choose") in whole.edges
