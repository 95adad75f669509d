"""Forks and reruns: what is kept is not executed, what is executed sees what it would have seen, no message is copied."""

import asyncio
from typing import Any

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
        def tool(word: Any) -> str:
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


async def ended(it, run, path):
    step = (await it.steps(run)).get(path)
    return step is not None and not step.is_open


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


# -- branches, items, rounds ---------------------------------------------------------------------------------------

FAN = """
state:
  told: {type: array, items: {type: string}, default: [], reduce: append}
start: gather
nodes:
  gather: {type: parallel, branches: [a, x], join: after}
  a: {type: tool, tool: first, with: {word: 'a'}, save: {told: result}, next: b}
  b: {type: tool, tool: second, with: {word: '{{ result_of.a }}'}, save: {told: result}, next: after}
  x: {type: tool, tool: third, with: {word: 'x'}, save: {told: result}, next: after}
  after: {type: tool, tool: last, with: {word: '{{ state.told | length }}'}, next: end}
outputs: {told: state.told, last: result_of.after}
"""


async def test_a_branch_that_is_not_touched_is_kept_and_what_joins_it_is_executed(flow, counted):
    it = flow(FAN, *counted.tools("first", "second", "third", "last"))
    run = await it.run()
    counted.taken()
    again = await finished(it, await it.runs.rerun(run.id, from_="b"))
    assert counted.taken() == ["second", "last"]
    assert sorted(await kept(it, again)) == ["a#1", "x#1"]
    assert again.output == run.output


async def test_an_opened_frame_is_executed_again_as_a_whole(flow, counted):
    it = flow(FAN, *counted.tools("first", "second", "third", "last"))
    run = await it.run()
    counted.taken()
    again = await finished(it, await it.runs.rerun(run.id, from_="gather"))
    assert sorted(counted.taken()) == ["first", "last", "second", "third"]
    assert await kept(it, again) == []
    closed = await finished(it, await it.runs.rerun(run.id, from_="gather#1/end"))
    assert counted.taken() == ["last"]
    assert len(await kept(it, closed)) == 3


async def test_what_lost_against_another_branch_is_not_begun(flow, counted, until):
    begun = []

    async def slow() -> str:
        """Never answer."""
        begun.append("slow")
        await asyncio.Event().wait()
        raise AssertionError

    text = """
    start: gather
    nodes:
      gather: {type: parallel, branches: [a, b], join: after, wait_for: any}
      a: {type: tool, tool: slow, next: after}
      b: {type: tool, tool: first, with: {word: b}, next: b2}
      b2: {type: tool, tool: second, with: {word: b}, next: after}
      after: {type: tool, tool: last, with: {word: '{{ result_of.gather.a }}'}, next: end}
    """
    it = flow(text, slow, *counted.tools("first", "second", "last"))
    run = await it.run()
    assert run.status == "completed"
    counted.taken(), begun.clear()
    await finished(it, await it.runs.rerun(run.id, from_="after"))
    assert (counted.taken(), begun) == (["last"], [])
    await finished(it, await it.runs.rerun(run.id, from_="b2"))
    assert (counted.taken(), begun) == (["second", "last"], ["slow"])


ITEMS = """
start: each
nodes:
  each:
    type: map
    over: '[1, 2, 3, 4]'
    max_concurrency: 2
    start: one
    nodes:
      one: {type: tool, tool: first, with: {word: '{{ item }}'}, next: two}
      two: {type: tool, tool: second, with: {word: '{{ result_of.one }}'}, next: end}
    next: last
  last: {type: tool, tool: last, with: {word: '{{ result_of.each.collected | length }}'}, next: end}
outputs: {all: result_of.each.collected}
"""


async def test_the_other_items_of_a_map_are_kept(flow, counted):
    it = flow(ITEMS, *counted.tools("first", "second", "last"))
    run = await it.run()
    assert run.status == "completed", run.last_error
    counted.taken()
    again = await finished(it, await it.runs.rerun(run.id, from_="each#1[2]/two#1"))
    assert counted.taken() == ["second", "last"]
    assert again.output == run.output
    assert len(await kept(it, again)) == 7


async def test_rounds_before_the_step_are_kept_and_those_after_it_are_executed(flow, counted):
    text = """
    state: {n: {type: integer, default: 0}}
    start: again
    nodes:
      again:
        type: loop
        until: state.n >= 4
        max_iterations: 10
        start: one
        nodes:
          one: {type: tool, tool: first, with: {word: '{{ state.n }}'}, next: two}
          two: {type: set, set: {n: '{{ state.n + 1 }}'}, next: end}
        next: end
    outputs: {n: state.n}
    """
    it = flow(text, *counted.tools("first"))
    run = await it.run()
    assert len(counted.taken()) == 4
    again = await finished(it, await it.runs.rerun(run.id, from_="again#1[3]/one#1"))
    assert len(counted.taken()) == 2
    assert again.output == {"n": 4}
    steps = await kept(it, again)
    assert steps == ["again#1[1]/one#1", "again#1[1]/two#1", "again#1[2]/one#1", "again#1[2]/two#1"]


# -- forced nodes --------------------------------------------------------------------------------------------------


async def test_what_follows_a_forced_node_is_kept_where_it_sees_the_same(flow, counted):
    it = flow(LINE, *counted.tools("first", "second", "third"))
    run = await it.run(word="x")
    counted.taken()
    again = await finished(it, await it.runs.rerun(run.id, from_="c", force=["a"]))
    assert counted.taken() == ["first", "third"]
    assert await kept(it, again) == ["b#1"]


async def test_what_follows_a_forced_node_is_executed_where_it_sees_something_else(flow, counted):
    it = flow(LINE, *counted.tools("first", "second", "third"))
    run = await it.run(word="x")
    counted.taken()
    counted.suffix = "!"
    again = await finished(it, await it.runs.rerun(run.id, from_="c", force=["a"]))
    assert counted.taken() == ["first", "second", "third"]
    assert again.output == {"said": ["first(x)!", "second(first(x)!)!", "third(second(first(x)!)!)!"]}
    assert await kept(it, again) == []


async def test_a_function_that_takes_the_state_sees_all_of_it(flow, counted, workshop):
    (workshop.folder / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [tests]}\n"
    )

    def whole(state) -> dict:
        counted.calls.append("whole")
        return {"n": len(state["said"][0])}

    text = """
    state:
      said: {type: array, items: {type: string}, default: [], reduce: append}
      n: {type: integer, default: 0}
    start: a
    nodes:
      a: {type: tool, tool: first, with: {word: x}, save: {said: result}, next: b}
      b: {type: code, call: 'CALL', next: c}
      c: {type: tool, tool: third, with: {word: '{{ state.n }}'}, next: end}
    outputs: {n: state.n}
    """
    text = text.replace("CALL", f"{whole.__module__}:whole")
    whole.__qualname__ = "whole"
    it = flow(text, *counted.tools("first", "third"))
    it.treadle.callables[f"{whole.__module__}:whole"] = whole
    run = await it.run()
    assert run.output == {"n": 8}, run.last_error
    counted.taken()
    assert (await finished(it, await it.runs.rerun(run.id, from_="c", force=["a"]))).output == {"n": 8}
    assert counted.taken() == ["first", "third"]
    counted.suffix = "!"
    assert (await finished(it, await it.runs.rerun(run.id, from_="c", force=["a"]))).output == {"n": 9}
    assert counted.taken() == ["first", "whole", "third"]


async def test_a_node_with_a_cache_is_executed_where_that_is_asked_for(flow, counted):
    text = """
    start: a
    nodes:
      a: {type: tool, tool: first, with: {word: x}, cache: {key: x, ttl: 1h}, next: b}
      b: {type: tool, tool: second, with: {word: x}, cache: {key: x, ttl: 1h}, next: end}
    outputs: {a: result_of.a}
    """
    it = flow(text, *counted.tools("first", "second"))
    run = await it.run()
    counted.taken()
    await finished(it, await it.runs.rerun(run.id, from_="b"))
    assert counted.taken() == ["second"]
    await finished(it, await it.runs.rerun(run.id, from_="b", force=["a"]))
    assert counted.taken() == ["first", "second"]


# -- edited results ------------------------------------------------------------------------------------------------

ROUTED = """
state: {way: {type: string, default: none}}
start: a
nodes:
  a:
    type: tool
    tool: first
    with: {word: x}
    save: {way: "'left' if 'left' in result else 'right'"}
    next: [{when: "state.way == 'left'", to: left}, {to: right}]
  left: {type: tool, tool: second, with: {word: l}, next: end}
  right: {type: tool, tool: third, with: {word: r}, next: end}
outputs: {way: state.way}
"""


async def test_an_edited_result_takes_another_way(flow, counted):
    it = flow(ROUTED, *counted.tools("first", "second", "third"))
    run = await it.run()
    assert (run.output, counted.taken()) == ({"way": "right"}, ["first", "third"])
    fork = await finished(it, await it.runs.fork(run.id, at="a", edit="to the left"))
    assert (fork.output, counted.taken()) == ({"way": "left"}, ["second"])
    back = await finished(it, await it.runs.fork(fork.id, at="a"))
    assert (back.output, counted.taken()) == ({"way": "right"}, ["first", "third"])


async def test_the_answer_of_a_person_can_be_edited_and_an_open_question_answered_so(flow):
    text = """
    start: q
    nodes:
      q: {type: human, kind: approval, ask: 'Fine?', next: end}
    outputs: {said: result_of.q.decision}
    """
    it = flow(text)
    run = await it.run()
    assert run.status == "requires_action"
    fork = await finished(it, await it.runs.fork(run.id, at="q", edit={"decision": "reject"}))
    assert fork.output == {"said": "reject"}
    assert (await it.runs.get(run.id)).status == "requires_action"
    asked = await it.runs.wait((await it.runs.fork(run.id, at="q")).id)
    assert asked.status == "requires_action"
    with pytest.raises(StateError, match="does not fit"):
        await it.runs.fork(run.id, at="q", edit="yes")


# -- what cannot be done -------------------------------------------------------------------------------------------


async def test_an_unknown_step_names_those_that_there_are(flow, counted):
    it = flow(ITEMS, *counted.tools("first", "second", "last"))
    run = await it.run()
    with pytest.raises(NotFound) as found:
        await it.runs.fork(run.id, at="nope#1")
    assert "last#1" in found.value.hint
    with pytest.raises(StateError, match="visited 4 times") as several:
        await it.runs.rerun(run.id, from_="each/one")
    assert "each#1[3]/one#1" in several.value.hint
    with pytest.raises(NotFound) as node:
        await it.runs.rerun(run.id, from_="last", force=["nope"])
    assert "each/one" in node.value.hint
    with pytest.raises(StateError, match="cannot be edited"):
        await it.runs.fork(run.id, at="each", edit=1)
    assert len(await it.runs.list()) == 1


async def test_a_step_that_has_not_ended_cannot_be_run_again(flow, counted):
    text = """
    start: a
    nodes:
      a: {type: tool, tool: first, with: {word: x}, next: q}
      q: {type: human, kind: approval, ask: 'Fine?', next: end}
    """
    it = flow(text, *counted.tools("first"))
    run = await it.run()
    with pytest.raises(StateError, match="q#1 has not ended") as open_:
        await it.runs.rerun(run.id, from_="q")
    assert "a#1" in open_.value.hint
    again = await it.runs.wait((await it.runs.rerun(run.id, from_="a")).id)
    assert again.status == "requires_action"


# -- failures ------------------------------------------------------------------------------------------------------


class Moody:
    """A tool that fails as long as it is told to."""

    __name__ = __qualname__ = "moody"

    def __init__(self):
        self.fails, self.calls = True, 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, word: str) -> str:
        """Work."""
        await self.go.wait()
        self.calls += 1
        if self.fails:
            raise ValueError("not today")
        return f"moody({word})"


async def test_a_run_that_failed_goes_on_at_the_step_that_failed_it(flow, counted, until):
    moody = Moody()
    moody.go.clear()
    text = """
    start: gather
    nodes:
      gather: {type: parallel, branches: [a, b], join: after}
      a: {type: tool, tool: first, with: {word: a}, next: b0}
      b0: {type: tool, tool: second, with: {word: a}, next: after}
      b: {type: tool, tool: moody, with: {word: b}, next: after}
      after: {type: tool, tool: last, with: {word: z}, next: end}
    outputs: {b: result_of.b}
    """
    it = flow(text, moody, *counted.tools("first", "second", "last"))
    run = await it.start()
    await until(lambda: ended(it, run, "b0#1"))
    moody.go.set()
    assert (await it.runs.wait(run.id)).status == "failed"
    moody.fails = False
    counted.taken()
    again = await finished(it, await it.runs.rerun(run.id, from_="b"))
    assert again.output == {"b": "moody(b)"}
    assert counted.taken() == ["last"]
    assert await kept(it, again) == ["a#1", "b0#1"]
    other = await finished(it, await it.runs.rerun(run.id, from_="a"))
    assert other.output == {"b": "moody(b)"}


async def test_a_failure_that_was_taken_care_of_is_kept(flow, counted):
    moody = Moody()
    text = """
    start: a
    nodes:
      a:
        type: tool
        tool: moody
        with: {word: a}
        retry: {max_attempts: 2, initial_delay: 0s, jitter: none, on: [tool_error]}
        on_error: [{to: b}]
        next: c
      b: {type: tool, tool: moody, with: {word: b}, on_error: [{continue_with: 'went on'}], next: c}
      c: {type: tool, tool: last, with: {word: "{{ result_of.b | default('nothing') }}"}, next: end}
    outputs: {c: result_of.c}
    """
    it = flow(text, moody, *counted.tools("last"))
    run = await it.run()
    assert run.output == {"c": "last(went on)"}, run.last_error
    calls, moody.fails = moody.calls, False
    again = await finished(it, await it.runs.rerun(run.id, from_="c"))
    assert again.output == run.output
    assert moody.calls == calls
    assert await kept(it, again) == ["a#1", "b#1"]
    b = (await it.steps(again))["b#1"]
    assert (b.note, b.last_error.code) == ("continued after tool_error", "tool_error")


# -- threads -------------------------------------------------------------------------------------------------------

TALK = """
start: hello
nodes:
  hello: {type: message, text: 'Hello', next: ask}
  ask: {type: agent, agent: bot, message: 'One?', next: mid}
  mid: {type: tool, tool: first, with: {word: '{{ result_of.ask.text }}'}, next: more}
  more: {type: agent, agent: bot, message: 'Two?', next: bye}
  bye: {type: message, text: 'Bye', next: last}
  last: {type: tool, tool: last, with: {word: '{{ result_of.more.text }}'}, next: end}
outputs: {last: result_of.last}
"""


async def texts(it, run):
    return [m.text for m in await it.treadle.store.rows(run.tenant, run.thread_id, limit=1000)]


async def test_a_thread_is_shared_up_to_what_is_written_again_and_no_message_is_copied(flow, counted):
    it = flow(TALK, *counted.tools("first", "last"), script=["one", "two", "three", "four"])
    run = await it.run()
    assert run.output == {"last": "last(two)"}
    assert await texts(it, run) == ["Hello", "One?", "one", "Two?", "two", "Bye"]
    before = stored_messages(it)
    again = await finished(it, await it.runs.rerun(run.id, from_="more"))
    assert again.output == {"last": "last(three)"}
    assert await texts(it, again) == ["Hello", "One?", "one", "Two?", "three", "Bye"]
    assert await texts(it, run) == ["Hello", "One?", "one", "Two?", "two", "Bye"]
    assert stored_messages(it) == before + 3
    thread = await it.treadle.threads.get(again.thread_id)
    assert (thread.forked_from, thread.forked_at) == (run.thread_id, 3)
    assert await kept(it, again) == ["hello#1", "ask#1", "mid#1"]
    assert [c.id for c in await it.children(again)] == [(await it.steps(again))["more#1"].child]
    last = await finished(it, await it.runs.rerun(again.id, from_="last"))
    assert last.output == {"last": "last(three)"}
    assert stored_messages(it) == before + 3
    assert await texts(it, last) == await texts(it, again)
    assert len(await kept(it, last)) == 5
    mid = await finished(it, await it.runs.fork(last.id, at="mid", edit="mine"))
    assert await texts(it, mid) == ["Hello", "One?", "one", "Two?", "four", "Bye"]
    assert stored_messages(it) == before + 6


async def test_what_spoke_after_a_forced_node_in_the_same_thread_speaks_again(flow, counted):
    it = flow(TALK, *counted.tools("first", "last"), script=["one", "two", "three"])
    run = await it.run()
    counted.taken()
    again = await finished(it, await it.runs.rerun(run.id, from_="last", force=["mid"]))
    assert counted.taken() == ["first", "last"]
    assert again.origin.again == ("more#1", "bye#1")
    assert await texts(it, again) == ["Hello", "One?", "one", "Two?", "three", "Bye"]


async def test_a_further_thread_of_a_run_is_shared_as_well(flow, counted):
    text = """
    start: a
    nodes:
      a: {type: agent, agent: bot, message: 'One?', thread: side, next: b}
      b: {type: agent, agent: bot, message: 'Two?', thread: side, next: end}
    outputs: {b: result_of.b.text}
    """
    it = flow(text, script=["one", "two", "three"])
    run = await it.run()
    before = stored_messages(it)
    again = await finished(it, await it.runs.rerun(run.id, from_="b"))
    assert again.output == {"b": "three"}
    (child,) = await it.children(again)
    assert await texts(it, child) == ["One?", "one", "Two?", "three"]
    assert stored_messages(it) == before + 2
    assert await kept(it, again) == ["a#1"]


async def test_later_runs_on_the_thread_are_no_part_of_it(flow, counted):
    it = flow(TALK, *counted.tools("first", "last"), script=["one", "two", "three", "four"])
    run = await it.run()
    await it.treadle.messages.create(run.thread_id, role="user", content="Later")
    again = await finished(it, await it.runs.rerun(run.id, from_="last"))
    assert await texts(it, again) == ["Hello", "One?", "one", "Two?", "two", "Bye"]


async def test_another_model_reaches_the_prompts_and_agents_that_are_executed(flow, counted):
    text = """
    start: a
    nodes:
      a: {type: prompt, model: scripted, prompt: 'One?', next: b}
      b: {type: prompt, model: scripted, prompt: 'Two?', next: c}
      c: {type: agent, agent: bot, message: 'Three?', next: end}
    outputs: {a: result_of.a.text, b: result_of.b.text, c: result_of.c.text}
    """
    it = flow(text, script=["one", "two", "three"])
    run = await it.run()
    assert run.output == {"a": "one", "b": "two", "c": "three"}
    again = await finished(it, await it.runs.rerun(run.id, from_="b", model="offline"))
    assert again.output["a"] == "one"
    assert again.output["b"] not in ("two", None)
    (child,) = await it.children(again)
    assert (child.model, child.overrides.model) == ("offline", "offline")
    assert (await it.steps(run))["a#1"].kept is None


# -- agents --------------------------------------------------------------------------------------------------------

CALLS = [
    {"calls": [{"name": "look", "arguments": {"at": "a"}}, {"name": "look", "arguments": {"at": "b"}}]},
    "Done.",
    "Done again.",
    "Done thrice.",
]


async def agents_run(workshop, script=CALLS):
    looked = []

    def look(at: str) -> str:
        """Look."""
        looked.append(at)
        return f"saw {at}"

    scene = await workshop.start(script, tools=[look])
    return scene, await scene.run(), looked


async def thread_of(scene, run):
    return [(r.role, r.text) for r in await scene.treadle.store.rows(run.tenant, run.thread_id, limit=100)]


async def test_a_run_of_an_agent_asks_its_model_again_at_a_model_call(workshop):
    scene, run, looked = await agents_run(workshop)
    fork = await scene.runs.wait((await scene.runs.fork(run.id, at="model_call#2")).id)
    assert (fork.status, fork.output) == ("completed", "Done again.")
    assert sorted(looked) == ["a", "b"]
    assert await thread_of(scene, fork) == [*(await thread_of(scene, run))[:-1], ("assistant", "Done again.")]
    thread = await scene.treadle.threads.get(fork.thread_id)
    assert (thread.forked_from, thread.forked_at) == (run.thread_id, 4)
    assert len(scene.requests[-1].messages) == 4


async def test_a_call_of_an_agent_is_made_again_with_what_was_beside_it_kept(workshop):
    scene, run, looked = await agents_run(workshop)
    fork = await scene.runs.wait((await scene.runs.rerun(run.id, from_="tool_call#1/1")).id)
    assert (fork.status, fork.output) == ("completed", "Done again.")
    assert sorted(looked) == ["a", "b", "b"]
    # Results stand in the order in which the calls ended.
    assert sorted((await thread_of(scene, fork))[1:4]) == sorted((await thread_of(scene, run))[1:4])
    steps = {s.path: s.kept for s in await scene.runs.steps(fork.id)}
    assert steps == {
        "model_call#1": f"{run.id} model_call#1",
        "tool_call#1/0": f"{run.id} tool_call#1/0",
        "tool_call#1/1": None,
        "model_call#2": None,
        "append_message#1": None,
    }


async def test_the_result_of_a_call_of_an_agent_can_be_edited(workshop):
    scene, run, looked = await agents_run(workshop)
    fork = await scene.runs.wait((await scene.runs.fork(run.id, at="tool_call#1/0", edit={"sky": "red"})).id)
    assert sorted(looked) == ["a", "b"]
    assert [t for r, t in await thread_of(scene, fork) if r == "tool"] == ['{"sky": "red"}', "saw b"]
    twice = await scene.runs.wait((await scene.runs.fork(fork.id, at="tool_call#1/1")).id)
    assert sorted(looked) == ["a", "b", "b"]
    assert [t for r, t in await thread_of(scene, twice) if r == "tool"] == ['{"sky": "red"}', "saw b"]
    assert twice.output == "Done thrice."


async def test_what_an_agent_cannot_do_is_refused(workshop):
    scene, run, _ = await agents_run(workshop)
    with pytest.raises(StateError, match="only writes down"):
        await scene.runs.fork(run.id, at="append_message")
    with pytest.raises(StateError, match="cannot be edited"):
        await scene.runs.fork(run.id, at="model_call#1", edit="no")
    with pytest.raises(StateError, match="for workflows"):
        await scene.runs.rerun(run.id, from_="model_call#1", force=["tool_call"])
    assert len(await scene.runs.list()) == 1


# -- crashes -------------------------------------------------------------------------------------------------------


async def test_a_rerun_whose_process_dies_goes_on_with_what_it_keeps(flow, counted, until):
    moody = Moody()
    moody.fails = False
    text = """
    start: gather
    nodes:
      gather: {type: parallel, branches: [a, x], join: after}
      a: {type: tool, tool: first, with: {word: a}, next: b}
      b: {type: tool, tool: moody, with: {word: b}, next: c}
      c: {type: tool, tool: second, with: {word: c}, next: after}
      x: {type: tool, tool: third, with: {word: x}, next: after}
      after: {type: tool, tool: last, with: {word: '{{ result_of.c }}'}, next: end}
    outputs: {last: result_of.after}
    """
    it = flow(text, moody, *counted.tools("first", "second", "third", "last"))
    run = await it.run()
    assert sorted(counted.taken()) == ["first", "last", "second", "third"]
    moody.go.clear()
    again = await it.runs.rerun(run.id, from_="b", force=["a"])
    await until(lambda: ended(it, again, "a#1"))
    assert counted.taken() == ["first"]
    await it.die()
    assert (await it.steps(again))["x#1"].kept == f"{run.id} x#1"
    moody.go.set()
    treadle = await it.reborn()
    await treadle.runs.resume(again.id)
    again = await finished(it, again)
    assert again.output == run.output
    assert counted.taken() == ["second", "last"]
    assert await kept(it, again) == ["x#1"]


async def test_what_becomes_ready_after_a_crash_is_kept_all_the_same(flow, counted, until):
    moody = Moody()
    moody.fails = False
    text = """
    start: a
    nodes:
      a: {type: tool, tool: moody, with: {word: a}, next: b}
      b: {type: tool, tool: first, with: {word: b}, next: c}
      c: {type: tool, tool: last, with: {word: c}, next: end}
    """
    it = flow(text, moody, *counted.tools("first", "last"))
    run = await it.run()
    counted.taken()
    moody.go.clear()
    again = await it.runs.rerun(run.id, from_="c", force=["a"])
    await until(lambda: it.treadle.executor.is_walking(again.id))
    await it.die()
    moody.go.set()
    treadle = await it.reborn()
    await treadle.runs.resume(again.id)
    await finished(it, again)
    assert counted.taken() == ["last"]
    assert await kept(it, again) == ["b#1"]


# -- replay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LINE, FAN, ITEMS, ROUTED])
async def test_a_run_that_is_replayed_has_the_same_trace_and_nothing_is_executed(flow, counted, text):
    it = flow(text, *counted.tools("first", "second", "third", "last"))
    run = await it.run(**({"word": "x"} if "word: {type" in text else {}))
    counted.taken()
    trace = await it.runs.replay(run.id)
    assert counted.taken() == []
    assert {s.path for s in trace.steps} == set(await it.steps(run))
    assert len(await it.runs.list()) == 1


async def test_a_run_of_an_agent_is_replayed_as_well(workshop):
    scene, run, looked = await agents_run(workshop)
    trace = await scene.runs.replay(run.id)
    assert [s.path for s in trace.steps] == [s.path for s in await scene.runs.steps(run.id)]
    assert len(looked) == 2
    assert len(scene.requests) == 2


def damage(path, was, is_):
    """Change a result that is kept, which nothing else may do."""
    with apsw.Connection(str(path)) as db:
        guards = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'steps'"
        )
        guards = guards.fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE steps SET body = replace(body, ?, ?) WHERE body LIKE ?", (was, is_, f"%{was}%"))
        assert db.changes() == 1
        for _, sql in guards:
            db.execute(sql)
    db.close()


async def test_a_replay_says_what_differs_first(flow, counted):
    it = flow(ROUTED, *counted.tools("first", "second", "third"))
    run = await it.run()
    damage(it.workshop.path, "first(x)", "left")
    with pytest.raises(StateError, match=r"left#1 would be executed|a#1: edge|a#1: writes"):
        await it.runs.replay(run.id)


async def test_only_a_run_that_came_to_its_end_is_replayed(flow):
    it = flow("start: q\nnodes:\n  q: {type: human, kind: approval, ask: 'Fine?', next: end}\n")
    run = await it.run()
    with pytest.raises(StateError, match="requires_action"):
        await it.runs.replay(run.id)


async def test_a_run_that_failed_and_one_that_kept_steps_are_replayed(flow, counted, until):
    moody = Moody()
    text = """
    start: a
    nodes:
      a: {type: tool, tool: first, with: {word: a}, next: b}
      b: {type: tool, tool: moody, with: {word: b}, next: end}
    """
    it = flow(text, moody, *counted.tools("first"))
    run = await it.run()
    assert run.status == "failed"
    await it.runs.replay(run.id)
    moody.fails = False
    again = await finished(it, await it.runs.rerun(run.id, from_="b"))
    await it.runs.replay(again.id)
    assert moody.calls == 2


async def test_a_branch_that_only_computes_may_decide_a_join_before_another_one_begins(flow, counted):
    text = """
    start: gather
    nodes:
      gather: {type: parallel, branches: [a, b], join: after, wait_for: any}
      a: {type: tool, tool: first, with: {word: a}, next: after}
      b: {type: message, text: 'Here.', next: after}
      after: {type: tool, tool: last, with: {word: z}, next: end}
    """
    it = flow(text, *counted.tools("first", "last"), declared={"first": {"effect": "once"}})
    await finished(it, await it.start())
    assert counted.taken() == ["last"]


async def test_a_run_that_is_under_way_is_forked_from_what_is_committed_and_both_go_on(flow, counted, until):
    moody = Moody()
    moody.fails = False
    moody.go.clear()
    text = """
    start: a
    nodes:
      a: {type: tool, tool: first, with: {word: a}, next: b}
      b: {type: tool, tool: second, with: {word: '{{ result_of.a }}'}, next: c}
      c: {type: tool, tool: moody, with: {word: '{{ result_of.b }}'}, next: end}
    outputs: {c: result_of.c}
    """
    it = flow(text, moody, *counted.tools("first", "second"))
    run = await it.start()
    await until(lambda: ended(it, run, "b#1"))
    fork = await it.runs.fork(run.id, at="b", edit="mine")
    moody.go.set()
    assert (await finished(it, fork)).output == {"c": "moody(mine)"}
    assert (await finished(it, run)).output == {"c": "moody(second(first(a)))"}
    assert counted.taken() == ["first", "second"]


async def test_a_child_run_is_forked_by_itself(flow):
    it = flow(
        TALK.replace("tool: first", "tool: last"), *Counted().tools("last"), script=["one", "two", "three"]
    )
    run = await it.run()
    child = (await it.children(run))[1]
    fork = await it.runs.wait((await it.runs.fork(child.id, at="model_call")).id)
    assert (fork.status, fork.output, fork.parent_id) == ("completed", "three", None)
    assert await texts(it, fork) == ["Hello", "One?", "one", "Two?", "three"]
    assert await texts(it, run) == ["Hello", "One?", "one", "Two?", "two", "Bye"]


async def test_without_the_earlier_run_nothing_is_executed_by_mistake(flow, counted, until):
    moody = Moody()
    moody.fails = False
    text = LINE.replace("tool: third", "tool: moody")
    declared = {"moody": {"effect": "once"}}
    it = flow(text, moody, *counted.tools("first", "second"), declared=declared)
    run = await it.run(word="x")
    moody.go.clear()
    again = await it.runs.rerun(run.id, from_="c")
    await until(lambda: ended(it, again, "b#1"))
    await it.die()
    counted.taken()
    treadle = await it.reborn()
    await treadle.threads.delete(run.thread_id)
    moody.go.set()
    with pytest.raises(NotFound, match=run.id):
        await treadle.runs.resume(again.id)
    assert counted.taken() == []
