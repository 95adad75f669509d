"""Traces of runs of workflows: acyclic graphs of what was executed, with frames, calls of functions and child runs."""

from pathlib import Path
from typing import Any

import networkx as nx
import pytest

FORMS = ("text", "mermaid", "dot", "svg")

EVERYTHING = """
state: {n: {type: integer, default: 0, reduce: sum}}
start: gather
nodes:
  gather: {type: parallel, branches: [a, b], join: each}
  a: {type: tool, tool: one, save: {n: result}, next: a2}
  a2: {type: set, set: {n: 1}, next: each}
  b: {type: tool, tool: one, next: each}
  each:
    type: map
    over: '[1, 2]'
    start: first
    nodes:
      first: {type: set, set: {n: '{{ item }}'}, next: second}
      second: {type: tool, tool: one, next: end}
    next: rounds
  rounds:
    type: loop
    max_iterations: 3
    until: loop.iteration == 2
    start: inner
    nodes:
      inner: {type: map, over: '[1, 2]', node: {type: tool, tool: one}, next: end}
    next: choose
  choose: {type: switch, value: state.n > 0, cases: {true: calls}, default: end}
  calls: {type: code, call: 'traced_calls:several', next: ask}
  ask: {type: agent, agent: '#bot', message: Hi, next: end}
outputs: {n: state.n}
"""


def one() -> int:
    """Give one."""
    return 1


CALLS = '''\
async def several(ctx):
    """Call a tool twice."""
    return await ctx.call("one") + await ctx.call("one")


async def work(ctx):
    """Call a tool and ask a person."""
    await ctx.call("one")
    return (await ctx.ask("Enough?")).value
'''

PROJECT = "version: 1.0.0\nkind: project\npython: {allow_modules: [traced_calls]}\n"


@pytest.fixture(autouse=True)
def functions(tmp_path: Path) -> None:
    """Make a project whose functions call tools and ask people."""
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "traced_calls.py").write_text(CALLS)


async def traced(it: Any, run: Any) -> Any:
    trace = await it.runs.trace(run.id)
    steps = await it.runs.steps(run.id)
    assert {s.path for s in steps} <= {data["path"] for _, data in trace.nx.nodes(data=True)}
    assert nx.is_directed_acyclic_graph(trace.nx)
    for form in FORMS:
        assert trace.draw(form)
    return trace


def tree(trace: Any) -> list[str]:
    return [f"{'  ' * line.indent}{line.label}" for line in trace.tree()]


async def test_the_trace_of_a_run_has_what_belongs_together_below_one_line(flow: Any) -> None:
    it = flow(EVERYTHING, one, script=["Hello."])
    run = await it.run()
    assert run.status == "completed", run.last_error
    trace = await traced(it, run)
    lines = tree(trace)
    place = lines.index("each")
    assert sorted(lines[1:place]) == ["  a", "  a2", "  b"]
    assert lines[place:] == [
        "each",
        "  each[0]",
        "    first",
        "    second",
        "  each[1]",
        "    first",
        "    second",
        "rounds",
        "  rounds round 1",
        "    inner[0]",
        "    inner[1]",
        "  rounds round 2",
        "    inner[0]",
        "    inner[1]",
        "choose",
        "calls",
        "  one",
        "  one",
        "ask",
        "  model call",
        "  append message",
    ]


async def test_a_frame_is_closed_by_the_last_steps_of_what_it_began(flow: Any) -> None:
    it = flow(EVERYTHING, one, script=["Hello."])
    trace = await traced(it, await it.run())

    def before(id_: str) -> set[str]:
        return set(trace.nx.predecessors(id_))

    assert before("gather#1/end") == {"a2#1", "b#1"}
    assert before("each#1") == {"gather#1/end"}
    assert before("each#1/end") == {"each#1[0]/second#1", "each#1[1]/second#1"}
    assert before("rounds#1/2") == {"rounds#1[1]/inner#1/end"}
    assert before("rounds#1[2]/inner#1") == {"rounds#1/2"}
    assert before("calls#1") == {"choose#1"}
    assert trace.nx.edges["choose#1", "calls#1"]["label"] == "true"
    assert set(trace.nx.successors("calls#1")) == {"calls#1/0", "calls#1/1", "ask#1"}


async def test_the_steps_of_a_child_run_hang_on_the_step_that_waited_for_it(flow: Any) -> None:
    it = flow(EVERYTHING, one, script=["Hello."])
    run = await it.run()
    trace = await traced(it, run)
    (child,) = await it.children(run)
    assert set(trace.nx.successors("ask#1")) == {"ask#1>model_call#1"}
    assert trace.nx.nodes["ask#1>model_call#1"]["run"] == child.id
    assert set(trace.nx.successors("ask#1>model_call#1")) == {"ask#1>append_message#1"}
    counted = sum(data.get("tokens", 0) for _, data in trace.nx.nodes(data=True))
    assert counted == run.usage.total_tokens == child.usage.total_tokens > 0
    assert trace.total == len(tree(trace)) - 2  # An item of several steps is none itself.


async def test_branches_that_nobody_waits_for_any_more_are_in_the_trace_as_cancelled(flow: Any) -> None:
    it = flow("""
        start: race
        nodes:
          race: {type: parallel, branches: [quick, slow], join: after, wait_for: any}
          quick: {type: tool, tool: one, next: after}
          slow: {type: wait, for: 1h, next: after}
          after: {type: tool, tool: one, next: end}
    """, one)  # fmt: skip
    run = await it.run()
    assert run.status == "completed"
    trace = await traced(it, run)
    statuses = {line.label: line.status for line in trace.tree()}
    assert statuses == {"race": "completed", "quick": "completed", "slow": "cancelled", "after": "completed"}


async def test_attempts_hang_on_one_another(flow: Any) -> None:
    tried: list[int] = []

    def shaky() -> int:
        """Fail the first time."""
        tried.append(1)
        if len(tried) == 1:
            raise ValueError
        return 1

    it = flow("""
        start: try
        nodes:
          try: {type: tool, tool: shaky, retry: {max_attempts: 2, initial_delay: 10ms, on: [tool_error]}, next: end}
    """, shaky)  # fmt: skip
    run = await it.start()
    it.clock.advance(1)
    run = await it.runs.wait(run.id)
    assert run.status == "completed", run.last_error
    trace = await traced(it, run)
    assert [(e.source, e.target, e.label) for e in trace.edges] == [("try#1", "try#1@2", "retry")]
    assert [line.attempt for line in trace.tree()] == [1, 2]


@pytest.mark.parametrize("policy", ["fail", "skip"])
async def test_a_frame_tells_how_it_ended(flow: Any, policy: str) -> None:
    def odd(n: int) -> int:
        """Take odd numbers."""
        if n % 2 == 0:
            raise ValueError
        return n

    it = flow(f"""
        start: each
        nodes:
          each:
            type: map
            over: '[1, 2]'
            on_item_error: {policy}
            node: {{type: tool, tool: odd, with: {{n: '{{{{ item }}}}'}}}}
            next: end
    """, odd)  # fmt: skip
    run = await it.run()
    trace = await traced(it, run)
    first = trace.tree()[0]
    assert (first.label, first.status) == ("each", "failed" if policy == "fail" else "completed")


async def test_a_run_that_waits_is_traced_as_far_as_it_is(flow: Any) -> None:
    it = flow("""
        start: both
        nodes:
          both: {type: parallel, branches: [work, ask], join: done}
          work: {type: code, call: 'traced_calls:work', next: done}
          ask: {type: human, kind: approval, ask: Fine?, next: done}
          done: {type: end}
    """, one)  # fmt: skip
    run = await it.run()
    assert run.status == "requires_action"
    trace = await traced(it, run)
    found = {line.label: (line.indent, line.status) for line in trace.tree()}
    assert found == {
        "both": (0, "in_progress"),
        "ask": (1, "waiting"),
        "work": (1, "waiting"),
        "one": (2, "completed"),
        "pause": (2, "waiting"),
    }
