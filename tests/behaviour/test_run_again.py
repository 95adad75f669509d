"""Forks and reruns: what is kept is not executed, what is executed sees what it would have seen, no message is copied."""

import apsw
import pytest

from treadle.errors import NotFound, StateError

LINE = """
inputs: {word: {type: string}}
state:
  said: {type: array, items: {type: string}, default: [], reduce: append}
start: a
nodes:
  a: {type: tool, tool: first, with: {word: '{{ inputs.word }}'}, save: {said: result}, next: b}
  b: {type: tool, tool: second, with: {word: '{{ result_of.a }}'}, save: {said: result}, next: c}
  c: {type: tool, tool: third, with: {word: '{{ result_of.b }}'}, save: {said: result}, next: end}
outputs: {said: state.said}
"""


class Counted:
    """Tools that say what they were given, and count who was called."""

    def __init__(self):
        self.calls = []
        self.suffix = ""

    def tools(self, *names):
        return tuple(self._tool(name) for name in names)

    def _tool(self, name):
        def tool(word: str) -> str:
            self.calls.append(name)
            return f"{name}({word}){self.suffix}"

        tool.__name__ = tool.__qualname__ = name
        return tool

    def taken(self):
        taken, self.calls = self.calls, []
        return taken


@pytest.fixture
def counted():
    return Counted()


async def kept(it, run):
    """Give the paths of the steps that a run kept."""
    return [path for path, step in (await it.steps(run)).items() if step.kept is not None]


async def finished(it, run):
    run = await it.runs.wait(run.id)
    assert run.status == "completed", run.last_error
    return run


def stored_messages(it):
    return apsw.Connection(str(it.workshop.path)).execute("SELECT count(*) FROM messages").fetchone()[0]


async def test_a_rerun_executes_the_step_and_what_came_after_it(flow, counted):
    it = flow(LINE, *counted.tools("first", "second", "third"))
    run = await it.run(word="x")
    assert counted.taken() == ["first", "second", "third"]
    again = await finished(it, await it.runs.rerun(run.id, from_="b"))
    assert counted.taken() == ["second", "third"]
    assert again.id != run.id
    assert again.output == run.output
    assert again.origin.run == run.id
    assert again.origin.step == "b#1"
    assert again.origin.kind == "rerun"
    assert await kept(it, again) == ["a#1"]
    assert (await it.steps(again))["a#1"].kept == f"{run.id} a#1"
    assert (await it.steps(again))["a#1"].writes == {"said": "first(x)"}
    assert (await it.runs.get(run.id)).origin is None


async def test_a_fork_with_an_edited_result_goes_on_behind_the_step(flow, counted):
    it = flow(LINE, *counted.tools("first", "second", "third"))
    run = await it.run(word="x")
    counted.taken()
    fork = await finished(it, await it.runs.fork(run.id, at="b#1", edit="mine"))
    assert counted.taken() == ["third"]
    assert fork.output == {"said": ["first(x)", "mine", "third(mine)"]}
    assert (await it.steps(fork))["b#1"].kept == f"{run.id} b#1 edited"
    assert fork.origin.kind == "fork"
    null = await it.runs.fork(run.id, at="c", edit=None)
    assert (await it.runs.wait(null.id)).last_error.code == "state_type"


async def test_a_fork_of_a_fork_names_who_executed_a_step(flow, counted):
    it = flow(LINE, *counted.tools("first", "second", "third"))
    run = await it.run(word="x")
    fork = await finished(it, await it.runs.fork(run.id, at="b", edit="mine"))
    counted.taken()
    last = await finished(it, await it.runs.rerun(fork.id, from_="c"))
    assert counted.taken() == ["third"]
    assert last.output == fork.output
    steps = await it.steps(last)
    assert steps["a#1"].kept == f"{run.id} a#1"
    assert steps["b#1"].kept == f"{run.id} b#1 edited"
    assert last.origin.run == fork.id
