"""Answers to child runs, whatever the run above them does at the same moment."""

import asyncio

import pytest

TWO = """
start: all
nodes:
  all: {type: parallel, branches: [a, b], join: after}
  a: {type: agent, agent: bot, thread: new, message: 'A?', next: after}
  b: {type: agent, agent: bot, thread: new, message: 'B?', next: after}
  after: {type: end}
"""
LOOK_UP = {"calls": [{"name": "look_up", "arguments": {}}]}
TOOLS = "tools: [{type: function, name: look_up, runs: client, parameters: {type: object}}]\n"


class Held:
    """A store of which one commit waits: that of an answer to a run."""

    def __init__(self, store):
        self._store = store
        self.run_id = None
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def commit(self, checkpoint):
        if checkpoint.run.id == self.run_id:
            self.run_id = None
            self.reached.set()
            await self.go.wait()
        return await self._store.commit(checkpoint)


@pytest.fixture
def two(flow):
    """Give a function that runs until both child runs wait for their client."""

    async def begin():
        it = flow(TWO, script=[LOOK_UP, LOOK_UP, "one", "two"])
        it.path.write_text(it.path.read_text() + TOOLS)
        run = await it.run()
        assert run.status == "requires_action"
        return it, run, await it.children(run)

    return begin


async def submit(treadle, run):
    calls = (await treadle.runs.get(run.id)).required_action
    outputs = [{"tool_call_id": call.id, "output": "yes"} for call in calls]
    return await treadle.runs.submit_tool_outputs(run.id, outputs)


async def test_an_answer_that_is_written_as_the_run_above_comes_to_rest_lets_it_go_on(two):
    it, run, (first, second) = await two()
    held = it.treadle.store = Held(it.treadle.store)
    await submit(it.treadle, first)
    held.run_id = second.id
    late = asyncio.ensure_future(submit(it.treadle, second))
    await held.reached.wait()
    assert (await it.runs.wait(run.id)).status == "requires_action"
    held.go.set()
    await late
    async with asyncio.timeout(10):
        while (await it.runs.wait(run.id)).status == "requires_action":
            await asyncio.sleep(0)
    assert (await it.runs.get(run.id)).status == "completed"


async def test_answers_to_two_child_runs_at_once_are_both_taken(two):
    it, run, (first, second) = await two()
    held = it.treadle.store = Held(it.treadle.store)
    held.run_id = second.id
    late = asyncio.ensure_future(submit(it.treadle, second))
    await held.reached.wait()
    await submit(it.treadle, first)
    held.go.set()
    await late
    async with asyncio.timeout(10):
        while (await it.runs.wait(run.id)).status == "requires_action":
            await asyncio.sleep(0)
    assert (await it.runs.get(run.id)).status == "completed"


async def test_the_calls_of_two_child_runs_have_ids_of_their_own_at_the_run_above(two):
    it, run, children = await two()
    told = {call.id for call in run.required_action}
    own = {call.id for child in children for call in (await it.runs.get(child.id)).required_action}
    assert (len(told), len(own)) == (2, 1)
    await submit(it.treadle, run)
    assert (await it.runs.wait(run.id)).status == "completed"
