"""Ending a run of a workflow from outside: cancel and expiry reach everything below it, parking and crashes lose nothing."""

import asyncio
import textwrap

import pytest

from treadle.errors import NotFound, StateError

INNER = """
---
version: 1.0.0
kind: workflow
name: inner
tools: TOOLS
start: deeper
nodes:
  deeper: {type: workflow, workflow: '#innermost', thread: new, next: end}
---
version: 1.0.0
kind: workflow
name: innermost
tools: TOOLS
start: work
nodes:
  work: WORK
"""
TOOLS = "[{type: function, name: slow, runs: server, effect: pure}]"
TREE = """
start: child
nodes:
  child: {type: workflow, workflow: '#inner', thread: new, next: end}
"""
WORKS = {
    "a tool": "{type: tool, tool: slow, next: end}",
    "a person": "{type: human, kind: approval, ask: Fine?, next: end}",
    "a time": "{type: wait, for: 2h, next: end}",
}


def tree(work):
    return TREE + INNER.replace("TOOLS", TOOLS).replace("WORK", WORKS[work])


class Slow:
    __name__ = "slow"

    def __init__(self):
        self.begun, self.go, self.calls, self.stopped = asyncio.Event(), asyncio.Event(), 0, 0

    async def __call__(self) -> str:
        self.calls += 1
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return "slow"


async def all_of(it, run):
    found = [run]
    for one in found:
        found += await it.children(one)
    return found


async def statuses(treadle, it, run):
    return [(await treadle.runs.get(one.id)).status for one in await all_of(it, run)]


async def standing(it, slow, work, until, **fields):
    """Start a run and wait until its grandchild works or rests."""
    run = await it.treadle.workflows.start(f"{it.path}#flow", **fields)
    if work == "a tool":
        await slow.begun.wait()
        return run

    async def rests():
        return (await it.runs.get(run.id)).walker is None

    await until(rests)
    return run


@pytest.mark.parametrize("work", WORKS)
async def test_a_cancel_reaches_children_and_grandchildren(flow, until, work):
    slow = Slow()
    it = flow(tree(work), slow)
    run = await standing(it, slow, work, until)
    assert (await it.runs.cancel(run.id)).status == "cancelling"
    assert (await it.runs.wait(run.id, timeout_s=10)).status == "cancelled"
    assert await statuses(it.treadle, it, run) == ["cancelled"] * 3
    assert slow.stopped == (work == "a tool")


@pytest.mark.parametrize("work", WORKS)
async def test_a_cancel_by_another_process_reaches_them_as_well(flow, until, work):
    slow = Slow()
    it = flow(tree(work), slow)
    run = await standing(it, slow, work, until)
    other = it.open()
    assert (await other.runs.cancel(run.id)).status == "cancelling"
    assert (await other.runs.wait(run.id, timeout_s=10)).status == "cancelled"
    assert await statuses(other, it, run) == ["cancelled"] * 3


@pytest.mark.parametrize("work", WORKS)
async def test_a_run_whose_process_died_is_cancelled_with_all_below_it(flow, until, work):
    slow = Slow()
    it = flow(tree(work), slow)
    run = await standing(it, slow, work, until)
    await it.die()
    other = await it.reborn()
    assert (await other.runs.cancel(run.id)).status == "cancelling"
    assert await statuses(other, it, run) == ["cancelled"] * 3


@pytest.mark.parametrize("work", WORKS)
async def test_a_run_that_expired_takes_all_below_it_along_whoever_walks_it(flow, until, work):
    slow = Slow()
    it = flow(tree(work), slow)
    run = await standing(it, slow, work, until, ttl="30s")
    await it.die()
    other = await it.reborn()
    assert (await other.recover()).expired >= 1
    ends = await statuses(other, it, run)
    assert ends[0] == "expired"
    assert set(ends[1:]) <= {"expired", "cancelled"}


async def test_a_run_that_expires_while_it_is_walked_stops_what_is_under_way(flow, until):
    slow = Slow()
    again = "{type: tool, tool: slow, next: last}\n  last: {type: tool, tool: slow, next: end}"
    it = flow(TREE + INNER.replace("TOOLS", TOOLS).replace("WORK", again), slow)
    run = await standing(it, slow, "a tool", until, ttl="30s")
    it.clock.advance(31)
    slow.go.set()
    run = await it.runs.wait(run.id, timeout_s=10)
    assert run.status == "expired"
    assert "completed" not in await statuses(it.treadle, it, run)
    assert slow.calls == 1


async def test_a_run_that_has_ended_is_not_cancelled(flow):
    run = await flow("start: a\nnodes:\n  a: {type: end}\n").run()
    it = flow("start: a\nnodes:\n  a: {type: end}\n")
    with pytest.raises(StateError, match="Cannot cancel"):
        await it.runs.cancel(run.id)


async def test_a_child_that_is_cancelled_by_itself_fails_its_node_which_can_be_routed(flow, until):
    slow = Slow()
    it = flow(
        """
        start: child
        nodes:
          child: {type: workflow, workflow: '#inner', thread: new, next: end, on_error: [{on: [cancelled], to: rescue}]}
          rescue: {type: end, outputs: {rescued: true}}
        """
        + textwrap.indent(INNER.replace("TOOLS", TOOLS).replace("WORK", WORKS["a person"]), " " * 8),
        slow,
    )
    run = await standing(it, slow, "a person", until)
    (child,) = await it.children(run)
    await it.runs.cancel(child.id)
    await until(lambda: _has_ended(it, run))
    run = await it.runs.get(run.id)
    assert (run.status, run.output) == ("completed", {"rescued": True})


async def _has_ended(it, run):
    return (await it.runs.get(run.id)).status in ("completed", "failed")


async def test_a_child_that_is_cancelled_while_it_works_fails_its_node(flow, until):
    slow = Slow()
    it = flow(tree("a tool"), slow)
    run = await standing(it, slow, "a tool", until)
    (child,) = await it.children(run)
    await it.runs.cancel(child.id)
    run = await it.runs.wait(run.id, timeout_s=10)
    assert (run.status, run.last_error.code) == ("failed", "cancelled")
    assert await statuses(it.treadle, it, run) == ["failed", "cancelled", "cancelled"]


async def test_cancelling_closes_every_step_and_question(flow):
    it = flow(
        """
        start: all
        nodes:
          all: {type: parallel, branches: [a, b, c], join: after}
          a: {type: human, kind: approval, ask: A?, next: after}
          b: {type: wait, for: 1h, next: after}
          c: {type: map, over: '[1, 2]', node: {type: human, kind: approval, ask: C?}, next: after}
          after: {type: end}
        """
    )
    run = await it.run()
    assert len(run.required_answers) == 3
    await it.runs.cancel(run.id)
    run = await it.runs.get(run.id)
    assert (run.status, run.pending, run.wake_ms) == ("cancelled", (), None)
    ends = {path: step.status for path, step in (await it.steps(run)).items()}
    assert {ends[p] for p in ("a#1", "b#1", "c#1[0]/item#1", "c#1[1]/item#1")} == {"cancelled"}
    with pytest.raises(StateError):
        await it.runs.answer(run.id, "a", decision="approve")


async def test_a_call_that_may_be_made_once_and_was_under_way_is_of_unknown_outcome(flow):
    slow = Slow()
    it = flow(
        "start: work\nnodes:\n  work: {type: tool, tool: slow, next: end}\n",
        slow, declared={"slow": {"effect": "once"}},
    )  # fmt: skip
    run = await it.start()
    await slow.begun.wait()
    await it.runs.cancel(run.id)
    run = await it.runs.wait(run.id)
    step = (await it.steps(run))["work#1"]
    assert (run.status, step.status) == ("cancelled", "cancelled")
    assert "outcome unknown" in step.note


# -- parking and crashes ------------------------------------------------------------------------------------------------

BUSY = """
state: {told: {type: array, default: [], reduce: append}}
start: all
nodes:
  all: {type: parallel, branches: [a, b, c], join: after}
  a: {type: tool, tool: step, with: {name: a1}, save: {told: result}, next: a2}
  a2: {type: tool, tool: step, with: {name: a2}, save: {told: result}, next: after}
  b:
    type: map
    over: "['x', 'y', 'z']"
    max_concurrency: 2
    node: {type: tool, tool: step, with: {name: 'b{{ item }}'}}
    save: {told: result.collected}
    next: after
  c:
    type: loop
    max_iterations: 3
    until: loop.iteration >= 2
    start: turn
    nodes:
      turn: {type: workflow, workflow: '#child', thread: new, with: {name: 'c{{ loop.iteration }}'}, next: keep}
      keep: {type: set, set: {told: '{{ result_of.turn.said }}'}, next: end}
    next: after
  after: {type: set, set: {told: end}, next: end}
outputs: {told: state.told}
---
version: 1.0.0
kind: workflow
name: child
inputs: {name: string}
tools: [{type: function, name: step, runs: server, effect: pure}]
start: work
nodes:
  work: {type: tool, tool: step, with: {name: '{{ inputs.name }}'}, next: end}
outputs: {said: result_of.work}
"""
TOLD = ["a1", "a2", ["bx", "by", "bz"], "c1", "c2", "end"]


class Steps:
    """A tool that stops at one of its calls until it is let go."""

    __name__ = "step"

    def __init__(self, stops_at):
        self.stops_at, self.done, self.reached, self.go = stops_at, [], asyncio.Event(), asyncio.Event()

    async def __call__(self, name: str) -> str:
        if name == self.stops_at:
            self.reached.set()
            await self.go.wait()
        self.done.append(name)
        return name


NAMES = ["a1", "a2", "bx", "by", "bz", "c1", "c2"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_run_that_is_parked_anywhere_goes_on_in_another_process(flow, name):
    step = Steps(name)
    it = flow(BUSY, step)
    run = await it.start()
    await step.reached.wait()
    closing = asyncio.create_task(it.treadle.close())
    await asyncio.sleep(0)
    step.go.set()
    await closing
    other = it.open()
    found = await other.runs.get(run.id)
    assert (found.status, found.walker) == ("queued", None)
    await other.runs.resume(run.id)
    run = await other.runs.wait(run.id, timeout_s=10)
    assert (run.status, run.output) == ("completed", {"told": TOLD})
    assert sorted(step.done) == NAMES


@pytest.mark.parametrize("name", NAMES)
async def test_a_run_whose_process_died_anywhere_repeats_at_most_what_was_under_way(flow, name):
    step = Steps(name)
    it = flow(BUSY, step)
    run = await it.start()
    await step.reached.wait()
    before = list(step.done)
    ended = {
        s.result for one in await all_of(it, run) for s in (await it.steps(one)).values()
        if s.kind == "tool_call" and not s.is_open
    }  # fmt: skip
    await it.die()
    step.go.set()
    other = await it.reborn(walk=True)
    await other.recover()
    run = await other.runs.wait(run.id, timeout_s=10)
    assert (run.status, run.output) == ("completed", {"told": TOLD})
    assert not [name for name in step.done[len(before) :] if name in ended]
    assert set(step.done) == set(NAMES)


async def test_two_keepers_do_not_walk_one_run_twice(flow, until):
    calls = []

    def work(n: int) -> int:
        calls.append(n)
        return n

    it = flow(
        """
        start: nap
        nodes:
          nap: {type: wait, for: 1h, next: each}
          each: {type: map, over: '[1, 2, 3, 4]', node: {type: tool, tool: work, with: {n: '{{ item }}'}}, next: end}
        outputs: {said: result_of.each.collected}
        """,
        work,
    )
    run = await it.start()

    async def rests():
        return (await it.runs.get(run.id)).walker is None

    await until(rests)
    await it.treadle.close()
    one, two = it.open(walk=True), it.open(walk=True)
    it.clock.advance(3600)
    swept = await asyncio.gather(one.recover(), two.recover())
    assert sum(s.resumed for s in swept) == 1
    run = await one.runs.wait(run.id, timeout_s=10)
    assert (run.output, sorted(calls)) == ({"said": [1, 2, 3, 4]}, [1, 2, 3, 4])


async def test_keepers_leave_child_runs_to_the_walk_of_their_parent(flow, until):
    slow = Slow()
    it = flow(tree("a tool"), slow)
    run = await standing(it, slow, "a tool", until)
    await it.die()
    other = await it.reborn(walk=True)
    await other.recover()
    walking = [one.id for one in await all_of(it, run) if other.executor.is_walking(one.id)]
    assert run.id in walking
    slow.go.set()
    assert (await other.runs.wait(run.id, timeout_s=10)).status == "completed"
    assert await statuses(other, it, run) == ["completed"] * 3


async def test_the_thread_of_a_workflow_that_goes_on_cannot_be_deleted_and_afterwards_it_can(flow):
    it = flow(
        """
        start: say
        nodes:
          say: {type: message, text: Hello, next: ask}
          ask: {type: human, kind: approval, ask: Fine?, next: end}
        """
    )
    run = await it.run()
    with pytest.raises(StateError):
        await it.treadle.threads.delete(run.thread_id)
    await it.runs.answer(run.id, decision="approve")
    await it.runs.wait(run.id, timeout_s=10)
    await it.treadle.threads.delete(run.thread_id)
    with pytest.raises(NotFound):
        await it.treadle.threads.get(run.thread_id)
