from __future__ import annotations

import time

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.graph.render import render
from treadle.graph.trace import Trace
from treadle.objects.run import RunError, Usage


def edges(trace: Trace) -> list[tuple[str, str]]:
    return [(edge.source, edge.target) for edge in trace.edges]


def test_a_trace_has_a_node_for_each_attempt_of_each_step(trace):
    assert list(trace.nx) == [
        "model_call#1",
        "model_call#1@2",
        "tool_call#1/0",
        "tool_call#1/1",
        "tool_call#1/2",
        "model_call#2",
        "tool_call#2/0",
    ]


def test_a_step_after_parallel_calls_was_made_ready_by_all_of_them(trace):
    assert list(trace.nx.predecessors("model_call#2")) == ["tool_call#1/0", "tool_call#1/1", "tool_call#1/2"]


@pytest.mark.parametrize("cause", ["tool_call#1/0", "tool_call#1/1", "tool_call#1"])
def test_the_cause_of_a_join_may_name_any_call_or_the_group(agent_graph, make_step, make_run, cause):
    steps = [
        make_step(1, "model_call#1", None, 0, 1, edge="tool_calls"),
        make_step(2, "tool_call#1/0", "model_call#1", 1, 2),
        make_step(3, "tool_call#1/1", "model_call#1", 1, 2),
        make_step(4, "model_call#2", cause, 2, 3, edge="text"),
        make_step(5, "append_message#1", "model_call#2", 3, 3),
    ]
    trace = Trace.of(make_run(status="completed"), agent_graph, steps)
    assert edges(trace) == [
        ("model_call#1", "tool_call#1/0"),
        ("model_call#1", "tool_call#1/1"),
        ("tool_call#1/0", "model_call#2"),
        ("tool_call#1/1", "model_call#2"),
        ("model_call#2", "append_message#1"),
    ]


def test_a_retry_hangs_on_the_attempt_before_and_the_next_step_on_the_last_attempt(trace):
    assert list(trace.nx.successors("model_call#1")) == ["model_call#1@2"]
    assert trace.nx.edges["model_call#1", "model_call#1@2"]["label"] == "retry"
    assert set(trace.nx.successors("model_call#1@2")) == {"tool_call#1/0", "tool_call#1/1", "tool_call#1/2"}


def test_a_join_takes_the_last_attempt_of_each_call(agent_graph, make_step, make_run):
    steps = [
        make_step(1, "model_call#1", None, 0, 1),
        make_step(2, "tool_call#1/0", "model_call#1", 1, 2, status="failed"),
        make_step(3, "tool_call#1/1", "model_call#1", 1, 2),
        make_step(4, "tool_call#1/0", "model_call#1", 2, 3, attempt=2),
        make_step(5, "model_call#2", "tool_call#1/0", 3, 4),
    ]
    trace = Trace.of(make_run(), agent_graph, steps)
    assert set(trace.nx.predecessors("model_call#2")) == {"tool_call#1/0@2", "tool_call#1/1"}
    assert [line.path for line in trace.tree()] == [
        "model_call#1",
        "tool_call#1/0",
        "tool_call#1/0",
        "tool_call#1/1",
        "model_call#2",
    ]


def test_the_order_of_the_rows_does_not_matter(trace, agent_graph):
    again = Trace.of(trace.run, agent_graph, list(reversed(trace.steps)), price=trace.price)
    assert again == trace
    assert again.edges == trace.edges


def test_networkx_gets_status_times_tokens_and_cost(trace):
    node = trace.nx.nodes["model_call#1@2"]
    assert node == {
        "path": "model_call#1",
        "node": "model_call",
        "kind": "model_call",
        "status": "completed",
        "attempt": 2,
        "started_at": 1_770_000_000.4,
        "duration_s": 1.323,
        "prompt_tokens": 120,
        "completion_tokens": 18,
        "tokens": 138,
        "usd": pytest.approx(192e-6),
    }
    assert trace.nx.nodes["tool_call#1/0"]["tool"] == "get_weather"
    assert "duration_s" not in trace.nx.nodes["tool_call#2/0"]
    assert trace.nx.graph == {"run": "run_1", "status": "requires_action", "digest": trace.graph.digest}
    assert sum(tokens for _, tokens in trace.nx.nodes(data="tokens")) == 478


def test_without_a_price_nothing_has_a_cost(trace, agent_graph):
    free = Trace.of(trace.run, agent_graph, trace.steps)
    assert not any("usd" in attributes for _, attributes in free.nx.nodes(data=True))
    assert "$" not in free.draw("text")
    assert "$0.0002" in trace.draw("text")


def test_the_tree_lists_calls_below_the_model_call_with_what_it_asked_for(trace):
    rows = [
        (line.indent, line.marker, line.label, line.duration_ms, line.tokens, line.status, line.note)
        for line in trace.tree()
    ]
    assert rows == [
        (0, "✗", "model call", 120, None, "failed", 'rate_limit: 429 <slow down> & "wait" please'),
        (0, "●", "model call", 1323, 138, "completed", "attempt 2 · → get_weather, get_time, to_fahrenheit"),
        (1, "●", "get_weather", 77, None, "completed", None),
        (1, "✗", "get_time", 27, None, "failed", "tool_error: no such zone"),
        (1, "●", "to_fahrenheit", 62_027, None, "completed", None),
        (0, "●", "model call", 1000, 340, "completed", "→ ask_client"),
        (1, "◆", "ask_client", None, None, "waiting", None),
    ]


def test_an_open_step_waits_only_when_its_run_waits_for_it(agent_graph, make_step, make_run):
    steps = [make_step(1, "model_call#1", None, 0, None, status="in_progress")]
    (line,) = Trace.of(make_run(status="in_progress"), agent_graph, steps).tree()
    assert (line.status, line.marker) == ("in_progress", "◐")


def test_a_note_of_the_step_stands_before_what_is_derived(agent_graph, make_step, make_run):
    steps = [
        make_step(1, "model_call#1", None, 0, 1, note="resumed"),
        make_step(2, "tool_call#1/0", "model_call#1", 1, 2, tool="t"),
    ]
    assert Trace.of(make_run(), agent_graph, steps).tree()[0].note == "resumed"


def test_texts_of_tools_and_errors_cannot_act_on_a_terminal(agent_graph, make_step, make_run):
    error = RunError(code="tool_error", message="\x1b[2Jgone\r\nnext")
    steps = [
        make_step(1, "tool_call#1/0", None, 0, 1, tool="a\x1b]0;x\x07", status="failed", last_error=error)
    ]
    trace = Trace.of(make_run(), agent_graph, steps)
    (line,) = trace.tree()
    assert (line.label, line.note) == ("a�]0;x�", "tool_error: �[2Jgone next")
    assert trace.draw("text").rstrip("\n").isprintable()


def test_a_run_without_steps_is_drawn_empty(agent_graph, make_run):
    trace = Trace.of(make_run(), agent_graph, [])
    assert trace.tree() == []
    assert len(trace.nx) == 0
    assert all(isinstance(render(trace, fmt), str) for fmt in ("text", "mermaid", "dot", "svg"))


def test_a_cause_that_is_missing_or_later_gives_no_edge(agent_graph, make_step, make_run):
    steps = [
        make_step(1, "model_call#1", "model_call#2", 0, 1),
        make_step(2, "model_call#2", "nothing", 1, 2),
    ]
    assert Trace.of(make_run(), agent_graph, steps).edges == ()


def journal(make_step, turns: list[list[int]]) -> list:
    """Steps of a run whose every turn makes calls, each with so many failed attempts before it succeeds."""
    steps: list = []
    cause, at = None, 0
    for turn, calls in enumerate(turns, start=1):
        steps.append(
            make_step(len(steps) + 1, f"model_call#{turn}", cause, at, at + 5, usage=Usage(prompt_tokens=3))
        )
        for attempt in range(1, max(calls) + 2):
            for index, failures in enumerate(calls):
                if attempt <= failures + 1:
                    is_last = attempt == failures + 1
                    steps.append(
                        make_step(
                            len(steps) + 1, f"tool_call#{turn}/{index}", f"model_call#{turn}", at + 5, at + 6,
                            attempt=attempt, call_index=index, tool=f"t{index}", status="completed" if is_last else "failed",
                        )
                    )  # fmt: skip
        cause, at = f"tool_call#{turn}/{len(calls) - 1}", at + 10
    steps.append(make_step(len(steps) + 1, f"model_call#{len(turns) + 1}", cause, at, at + 5))
    steps.append(
        make_step(len(steps) + 1, "append_message#1", f"model_call#{len(turns) + 1}", at + 5, at + 5)
    )
    return steps


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=6), random=st.randoms())
def test_every_trace_is_one_acyclic_graph_from_the_first_step_to_the_last(
    agent_graph, make_step, make_run, turns, random
):
    steps = journal(make_step, turns)
    shuffled = list(steps)
    random.shuffle(shuffled)
    trace = Trace.of(make_run(), agent_graph, shuffled)
    graph = trace.nx
    assert len(graph) == len(steps)
    assert nx.is_directed_acyclic_graph(graph)
    assert [node for node, degree in graph.in_degree() if not degree] == ["model_call#1"]
    assert [node for node, degree in graph.out_degree() if not degree] == ["append_message#1"]
    for turn, calls in enumerate(turns, start=1):
        assert graph.in_degree(f"model_call#{turn + 1}") == len(calls)
    assert len(trace.tree()) == len(steps)
    text = trace.draw("text")
    assert text.count("\n") == len(steps)


def test_the_trace_of_two_hundred_steps_is_flat_and_quick(agent_graph, make_step, make_run):
    trace = Trace.of(make_run(), agent_graph, journal(make_step, [[0, 0, 0]] * 50))
    start = time.process_time()
    text = trace.draw("text")
    assert time.process_time() - start < 0.5
    assert max(len(line) for line in text.splitlines()) < 100
    assert text.splitlines()[1].startswith("├─ ")
