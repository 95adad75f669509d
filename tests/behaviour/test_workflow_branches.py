"""Branches that run side by side: no barrier between them, joins, losers that are stopped, and what of them is kept."""

import asyncio

from treadle import END, START, Graph

GATHER = """
state:
  told: {type: array, items: {type: string}, default: [], reduce: append}
start: gather
nodes:
  gather: {type: parallel, branches: [a, b], join: after, WAIT}
  a: {type: tool, tool: slow, save: {told: result}, next: after}
  b: {type: tool, tool: fast, save: {told: result}, next: b2}
  b2: {type: tool, tool: more, save: {told: result}, next: after}
  after: {type: set, set: {told: 'joined {{ result_of.gather.a }} {{ result_of.gather.b }}'}, next: end}
outputs: {told: state.told, gather: result_of.gather}
"""


def gather(wait="wait_for: all"):
    return GATHER.replace("WAIT", wait)


class Slow:
    """A tool that answers when it is let go."""

    __name__ = "slow"

    def __init__(self):
        self.begun, self.go, self.stopped = asyncio.Event(), asyncio.Event(), 0

    async def __call__(self) -> str:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return "slow"


async def fast() -> str:
    return "fast"


async def more() -> str:
    return "more"


async def broken() -> str:
    raise ValueError("it broke")


async def test_a_fast_branch_goes_on_while_a_slow_one_works(flow, until):
    slow = Slow()
    it = flow(gather(), slow, fast, more)
    run = await it.start()
    await until(lambda: _has(it, run, "b2#1"))
    assert not slow.go.is_set()
    assert (await it.steps(run))["b2#1"].status == "completed"
    slow.go.set()
    assert (await it.runs.wait(run.id)).status == "completed"


async def _has(it, run, path):
    row = (await it.steps(run)).get(path)
    return row is not None and not row.is_open


async def test_what_branches_write_is_joined_in_declared_order_whoever_was_first(flow, until):
    slow = Slow()
    it = flow(gather(), slow, fast, more)
    run = await it.start()
    await until(lambda: _has(it, run, "b2#1"))
    slow.go.set()
    run = await it.runs.wait(run.id)
    assert run.output["told"] == ["slow", "fast", "more", "joined completed completed"]


async def test_a_join_of_any_goes_on_with_the_first_and_stops_the_others(flow):
    slow = Slow()
    it = flow(gather("wait_for: any"), slow, fast, more)
    run = await it.run()
    assert run.status == "completed"
    assert run.output == {
        "told": ["fast", "more", "joined cancelled completed"],
        "gather": {"a": "cancelled", "b": "completed"},
    }
    assert slow.stopped == 1


async def test_a_join_of_a_number_waits_for_as_many(flow, until):
    one, two, three = Slow(), Slow(), Slow()
    one.__name__, two.__name__, three.__name__ = "one", "two", "three"
    it = flow(
        """
        start: gather
        nodes:
          gather: {type: parallel, branches: [a, b, c], join: after, wait_for: 2}
          a: {type: tool, tool: one, next: after}
          b: {type: tool, tool: two, next: after}
          c: {type: tool, tool: three, next: after}
          after: {type: end, outputs: {gather: '{{ result_of.gather }}'}}
        """,
        one, two, three,
    )  # fmt: skip
    run = await it.start()
    await until(lambda: all(s.begun.is_set() for s in (one, two, three)))
    three.go.set()
    await until(lambda: _has(it, run, "c#1"))
    assert (await it.runs.get(run.id)).status == "in_progress"
    one.go.set()
    run = await it.runs.wait(run.id)
    assert run.output == {"gather": {"a": "completed", "b": "cancelled", "c": "completed"}}
    assert two.stopped == 1


async def test_a_loser_that_may_be_called_once_is_closed_as_of_unknown_outcome(flow):
    slow = Slow()
    it = flow(gather("wait_for: any"), slow, fast, more, declared={"slow": {"effect": "once"}})
    run = await it.run()
    loser = (await it.steps(run))["a#1"]
    assert (run.status, loser.status, loser.ended_ms is not None) == ("completed", "cancelled", True)
    assert "outcome unknown" in loser.note


RACE = """
start: gather
nodes:
  gather: {type: parallel, branches: [a, b], join: after, wait_for: any}
  a: {type: workflow, workflow: '#inner', thread: new, next: after}
  b: {type: tool, tool: fast, next: after}
  after: {type: set, set: {n: 1}, next: end}
state: {n: {type: integer, default: 0}}
---
version: 1.0.0
kind: workflow
name: inner
tools: [{type: function, name: slow, runs: server, effect: pure}]
start: deeper
nodes:
  deeper: {type: workflow, workflow: '#innermost', thread: new, next: end}
---
version: 1.0.0
kind: workflow
name: innermost
tools: [{type: function, name: slow, runs: server, effect: pure}]
start: work
nodes:
  work: {type: tool, tool: slow, next: end}
"""


async def test_the_child_runs_of_a_loser_are_cancelled_and_theirs_too(flow):
    slow = Slow()

    async def fast() -> str:
        await slow.begun.wait()
        return "fast"

    it = flow(RACE, slow, fast)
    run = await it.run()
    (child,) = await it.children(run)
    (grandchild,) = await it.children(child)
    assert run.status == "completed"
    assert (child.status, grandchild.status) == ("cancelled", "cancelled")
    assert slow.stopped == 1
    assert (await it.steps(run))["a#1"].status == "cancelled"
    for one in (run, child, grandchild):
        assert not any(step.is_open for step in (await it.steps(one)).values())


FAILS = """
state:
  told: {type: array, items: {type: string}, default: [], reduce: append}
start: gather
nodes:
  gather: {type: parallel, branches: [a, b, c], join: after, POLICY}
  a: {type: tool, tool: fast, save: {told: result}, next: after}
  b: {type: tool, tool: broken, save: {told: result}, next: after}
  c: {type: tool, tool: more, save: {told: result}, next: after}
  after: {type: set, set: {told: 'after'}, next: end}
RESCUE
outputs: {told: state.told, gather: result_of.gather}
"""
RESCUE = "  rescue: {type: end, outputs: {told: '{{ state.told }}', rescued: true}}"


def fails(policy, rescue=""):
    return FAILS.replace("POLICY", policy).replace("RESCUE", rescue)


async def test_a_failed_branch_fails_the_run_and_what_its_siblings_did_is_kept_in_the_journal(flow):
    it = flow(fails("on_branch_error: fail"), fast, broken, more)
    run = await it.run()
    assert (run.status, run.last_error.code) == ("failed", "tool_error")
    assert "broken" in run.last_error.message
    steps = await it.steps(run)
    assert (steps["a#1"].status, steps["b#1"].status) == ("completed", "failed")
    assert steps["gather#1/end"].status == "failed"


async def test_a_failed_branch_counts_as_ended_where_the_node_says_continue(flow):
    it = flow(fails("on_branch_error: continue"), fast, broken, more)
    run = await it.run()
    assert run.status == "completed"
    assert run.output == {
        "told": ["fast", "more", "after"],
        "gather": {"a": "completed", "b": "failed", "c": "completed"},
    }


async def test_an_error_route_of_the_parallel_node_takes_its_failed_branch_and_keeps_what_others_wrote(flow):
    policy = "on_branch_error: fail, on_error: [{on: [tool_error], to: rescue}]"
    it = flow(fails(policy, RESCUE), fast, broken, more)
    run = await it.run()
    assert (run.status, run.output["rescued"]) == ("completed", True)
    assert "fast" in run.output["told"]


async def test_a_join_of_any_fails_when_no_branch_is_left_to_wait_for(flow):
    it = flow(
        """
        start: gather
        nodes:
          gather: {type: parallel, branches: [a, b], join: after, wait_for: any, on_branch_error: continue}
          a: {type: tool, tool: broken, next: after}
          b: {type: tool, tool: broken, next: after}
          after: {type: end}
        """,
        broken,
    )
    run = await it.run()
    assert (run.status, run.last_error.code) == ("failed", "tool_error")
    assert "0 of 1 branches" in run.last_error.message


async def test_a_join_of_any_takes_the_second_branch_where_the_first_failed_and_may(flow):
    it = flow(
        """
        start: gather
        nodes:
          gather: {type: parallel, branches: [a, b], join: after, wait_for: any, on_branch_error: continue}
          a: {type: tool, tool: broken, next: after}
          b: {type: tool, tool: fast, next: after}
          after: {type: end, outputs: {gather: '{{ result_of.gather }}'}}
        """,
        broken, fast,
    )  # fmt: skip
    run = await it.run()
    assert (run.status, run.output) == ("completed", {"gather": {"a": "failed", "b": "completed"}})


async def test_branches_within_branches_join_from_the_inside_out(flow):
    it = flow(
        """
        state:
          told: {type: array, items: {type: string}, default: [], reduce: append}
        start: outer
        nodes:
          outer: {type: parallel, branches: [x, inner], join: last}
          x: {type: set, set: {told: x}, next: last}
          inner: {type: parallel, branches: [p, q], join: both}
          p: {type: set, set: {told: p}, next: both}
          q: {type: set, set: {told: q}, next: both}
          both: {type: set, set: {told: '{{ state.told|join(",") }}'}, next: last}
          last: {type: set, set: {told: last}, next: end}
        outputs: {told: state.told}
        """
    )
    run = await it.run()
    assert run.output == {"told": ["x", "p", "q", "p,q", "last"]}


async def test_a_branch_does_not_see_what_another_one_wrote_before_the_join(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 1, reduce: sum}, seen: {type: array, default: [], reduce: append}}
        start: gather
        nodes:
          gather: {type: parallel, branches: [a, b], join: after}
          a: {type: set, set: {n: 10}, next: after}
          b: {type: set, set: {seen: '{{ state.n }}'}, next: after}
          after: {type: end}
        outputs: {n: state.n, seen: state.seen}
        """
    )
    assert (await it.run()).output == {"n": 11, "seen": [1]}


async def test_results_of_all_branches_are_seen_behind_the_join(flow):
    it = flow(
        """
        start: gather
        nodes:
          gather: {type: parallel, branches: [a, b], join: after}
          a: {type: tool, tool: fast, next: after}
          b: {type: tool, tool: more, next: after}
          after: {type: end, outputs: {both: '{{ result_of.a }} {{ result_of.b }}'}}
        """,
        fast, more,
    )  # fmt: skip
    assert (await it.run()).output == {"both": "fast more"}


async def test_no_more_steps_work_at_once_than_the_workflow_says(flow, until):
    under_way, most, go = set(), [0], asyncio.Event()

    async def work(name: str) -> str:
        under_way.add(name)
        most[0] = max(most[0], len(under_way))
        await go.wait()
        under_way.discard(name)
        return name

    names = [f"b{n}" for n in range(6)]
    nodes = "\n".join(f"  {n}: {{type: tool, tool: work, with: {{name: {n}}}, next: after}}" for n in names)
    it = flow(
        "limits: {max_concurrency: 3}\nstart: gather\nnodes:\n"
        f"  gather: {{type: parallel, branches: [{', '.join(names)}], join: after}}\n{nodes}\n"
        "  after: {type: end}\n",
        work,
    )  # fmt: skip
    run = await it.start()
    await until(lambda: len(under_way) == 3)
    go.set()
    assert (await it.runs.wait(run.id)).status == "completed"
    assert most == [3]


async def test_branches_whose_process_died_go_on_where_each_of_them_stood(flow, until):
    slow, calls = Slow(), []

    def fast() -> str:
        calls.append("fast")
        return "fast"

    it = flow(gather(), slow, fast, more)
    run = await it.start()
    await until(lambda: _has(it, run, "b2#1"))
    await it.die()
    slow.go.set()
    await it.reborn(walk=True)
    await it.treadle.recover()
    run = await it.runs.wait(run.id)
    assert run.output["told"] == ["slow", "fast", "more", "joined completed completed"]
    assert calls == ["fast"]


async def asks(ctx):
    return await ctx.ask("Which?", kind="choice", choices=["x", "y"])


async def test_what_a_function_of_a_branch_asked_is_asked_no_more_when_the_join_is_met_without_it(workshop):
    graph = Graph("lost")
    graph.add_parallel("gather", ["a", "b"], join="after", wait_for="any")
    graph.add_node("a", asks)
    graph.add_pause("b", kind="approval", ask="Is b done?")
    graph.add_pause("after", kind="approval", ask="Go on?")
    graph.add_edges_from([(START, "gather"), ("a", "after"), ("b", "after"), ("after", END)])
    treadle = workshop.open([])
    run = await treadle.workflows.run(graph)
    assert sorted(p.asks.ask for p in run.required_answers) == ["Is b done?", "Which?"]
    await treadle.runs.answer(run.id, "b", decision="approve")
    run = await treadle.runs.wait(run.id)
    assert [p.asks.ask for p in run.required_answers] == ["Go on?"]
    await treadle.runs.answer(run.id, decision="approve")
    assert (await treadle.runs.wait(run.id)).status == "completed"
    steps = {step.path: step.status for step in await treadle.runs.steps(run.id)}
    assert steps["a#1/0"] == "cancelled"
