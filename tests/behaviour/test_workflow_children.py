"""Child runs: agents and workflows that a node runs, on whose thread they speak, and how what they ask is answered."""

import asyncio
import textwrap

import pytest

from treadle.errors import DefinitionError, NotFound, StateError, ToolOutputsError


def echo(request):
    """Say what was said, and how much of it there was."""
    return f"{len(request.messages)}: {request.messages[-1].plain}"


async def rows(it, thread_id):
    return [(r.role, r.text) for r in await it.treadle.store.rows("default", thread_id, limit=100)]


TWO = """
start: a
nodes:
  a: {type: agent, agent: bot, THREAD message: 'One', next: b}
  b: {type: agent, agent: bot, THREAD message: 'Two', next: end}
outputs: {said: "[result_of.a.text, result_of.b.text]"}
"""


async def test_agents_share_the_thread_of_the_run_where_they_say_nothing(flow):
    it = flow(TWO.replace("THREAD", ""), script=echo)
    run = await it.run()
    assert run.output == {"said": ["1: One", "3: Two"]}
    assert await rows(it, run.thread_id) == [
        ("user", "One"), ("assistant", "1: One"), ("user", "Two"), ("assistant", "3: Two")
    ]  # fmt: skip
    assert {c.thread_id for c in await it.children(run)} == {run.thread_id}


async def test_agents_may_have_a_new_thread_for_each_visit(flow):
    it = flow(TWO.replace("THREAD", "thread: new,"), script=echo)
    run = await it.run()
    assert run.output == {"said": ["1: One", "1: Two"]}
    assert await rows(it, run.thread_id) == []
    assert len({c.thread_id for c in await it.children(run)}) == 2


async def test_agents_may_share_a_further_thread_by_its_name(flow):
    it = flow(TWO.replace("THREAD", "thread: talk,"), script=echo)
    run = await it.run()
    assert run.output == {"said": ["1: One", "3: Two"]}
    assert await rows(it, run.thread_id) == []
    (thread,) = {c.thread_id for c in await it.children(run)}
    assert [role for role, _ in await rows(it, thread)] == ["user", "assistant"] * 2


async def test_a_fork_begins_with_what_was_said_and_says_nothing_to_the_others(flow):
    text = TWO.replace("THREAD message: 'One'", "message: 'One'").replace("THREAD", "thread: fork,")
    it = flow(text, script=echo)
    run = await it.run()
    assert run.output == {"said": ["1: One", "3: Two"]}
    assert await rows(it, run.thread_id) == [("user", "One"), ("assistant", "1: One")]


async def test_parallel_branches_each_work_on_a_fork(flow):
    it = flow(
        """
        start: a
        nodes:
          a: {type: agent, agent: bot, message: One, next: both}
          both: {type: parallel, branches: [b, c], join: after}
          b: {type: agent, agent: bot, thread: fork, message: B, next: after}
          c: {type: agent, agent: bot, thread: fork, message: C, next: after}
          after: {type: agent, agent: bot, message: Last, next: end}
        outputs: {said: "[result_of.b.text, result_of.c.text, result_of.after.text]"}
        """,
        script=echo,
    )
    assert (await it.run()).output == {"said": ["3: B", "3: C", "3: Last"]}


async def test_a_message_node_speaks_on_the_thread_and_its_result_names_the_message(flow):
    it = flow(
        """
        start: say
        nodes:
          say: {type: message, text: 'Hello {{ inputs.who }}', next: ask}
          ask: {type: agent, agent: bot, message: More?, next: end}
        inputs: {who: string}
        outputs: {id: result_of.say.message_id, said: result_of.ask.text}
        """,
        script=echo,
    )
    run = await it.run(who="Ada")
    assert run.output["said"] == "2: More?"
    listed = await it.treadle.messages.list(run.thread_id, order="asc")
    assert (listed[0].plain, listed[0].role) == ("Hello Ada", "assistant")
    assert run.output["id"] == listed[0].id


async def test_two_branches_that_speak_on_one_thread_are_an_error_of_the_document(flow):
    it = flow(
        """
        start: both
        nodes:
          both: {type: parallel, branches: [a, b], join: after}
          a: {type: agent, agent: bot, message: A, next: after}
          b: {type: agent, agent: bot, message: B, next: after}
          after: {type: end}
        """
    )
    with pytest.raises(DefinitionError):
        await it.run()


async def test_the_result_of_an_agent_says_what_it_said_used_and_was(flow):
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    it = flow(
        """
        start: a
        nodes:
          a: {type: agent, agent: bot, thread: new, message: Hi, inputs: {role: judge}, next: end, output: {schema: {type: object, properties: {n: {type: integer}}, required: [n]}}}
        outputs: {a: result_of.a}
        """,
        script=[{"json": {"n": 3}, "usage": usage}],
    )
    run = await it.run()
    (child,) = await it.children(run)
    a = run.output["a"]
    assert (a["output"], a["usage"], a["run_id"], a["status"]) == ({"n": 3}, usage, child.id, "completed")
    assert [m["role"] for m in a["messages"]] == ["assistant"]
    assert (child.parent_id, child.inputs["role"]) == (run.id, "judge")


SUB = """
start: a
nodes:
  a: {type: workflow, workflow: '#sub', with: {n: '{{ inputs.n }}'}, thread: new, next: end}
inputs: {n: {type: integer, default: 1}}
outputs: {got: result_of.a}
---
version: 1.0.0
kind: workflow
name: sub
inputs: {n: {type: integer, maximum: 5}}
state: {n: {type: integer, default: 0, reduce: sum}}
start: a
nodes:
  a: {type: set, set: {n: '{{ inputs.n * 2 }}'}, next: end}
outputs: {double: state.n}
"""


async def test_the_outputs_of_a_child_workflow_are_the_result_and_its_state_is_its_own(flow):
    run = await flow(SUB).run(n=4)
    assert run.output == {"got": {"double": 8}}


async def test_inputs_that_do_not_fit_a_child_fail_its_node(flow):
    it = flow(SUB)
    run = await it.run(n=9)
    assert run.status == "failed"
    assert await it.children(run) == []


# -- what children ask --------------------------------------------------------------------------------------------------

AGENT = """
---
version: 1.0.0
kind: agent
name: clerk
model: scripted
tools:
  - {type: function, name: ask, runs: client, parameters: {type: object}}
  - {type: function, name: pay, runs: server, effect: once, approval: always}
"""
NESTED = (
    """
start: child
nodes:
  child: {type: workflow, workflow: '#middle', thread: new, next: end}
outputs: {said: result_of.child.said}
---
version: 1.0.0
kind: workflow
name: middle
start: talk
nodes:
  talk: {type: agent, agent: '#clerk', thread: new, message: Go, next: end}
outputs: {said: result_of.talk.text}
"""
    + AGENT
)


def wants(name):
    def script(request):
        last = request.messages[-1]
        if last.role == "tool":
            return f"it said {last.plain}"
        return {"calls": [{"name": name, "arguments": {}}]}

    return script


def pay() -> str:
    return "paid"


async def tree(it, run):
    (middle,) = await it.children(run)
    (agent,) = await it.children(middle)
    return middle, agent


async def test_a_call_of_a_client_in_a_grandchild_is_shown_at_the_root_and_answered_there(flow):
    it = flow(NESTED, pay, script=wants("ask"))
    run = await it.run()
    middle, agent = await tree(it, run)
    assert [one.status for one in (run, middle, agent)] == ["requires_action"] * 3
    assert [one.walker for one in (run, middle, agent)] == [None] * 3
    (call,) = run.required_action
    assert (call.name, run.pending[0].run_id) == ("ask", agent.id)
    with pytest.raises(ToolOutputsError):
        await it.runs.submit_tool_outputs(run.id, [{"tool_call_id": "call_9", "output": "x"}])
    await it.runs.submit_tool_outputs(run.id, [{"tool_call_id": call.id, "output": "blue"}])
    run = await it.runs.wait(run.id, timeout_s=10)
    assert (run.status, run.output) == ("completed", {"said": "it said blue"})


async def test_it_may_be_answered_at_the_child_as_well(flow):
    it = flow(NESTED, pay, script=wants("ask"))
    run = await it.run()
    _, agent = await tree(it, run)
    (call,) = (await it.runs.get(agent.id)).required_action
    await it.treadle.close()
    other = it.open()
    await other.runs.submit_tool_outputs(agent.id, [{"tool_call_id": call.id, "output": "red"}])
    run = await other.runs.wait(run.id, timeout_s=10)
    assert run.output == {"said": "it said red"}


@pytest.mark.parametrize("at", ["root", "child"])
@pytest.mark.parametrize("verdict", ["approve", "reject"])
async def test_an_approval_in_a_grandchild_is_given_at_the_root_or_at_the_child(flow, at, verdict):
    it = flow(NESTED, pay, script=wants("pay"))
    run = await it.run()
    _, agent = await tree(it, run)
    (asked,) = run.required_approvals
    assert (asked.call.name, asked.run_id) == ("pay", agent.id)
    await getattr(it.runs, verdict)(run.id if at == "root" else agent.id)
    run = await it.runs.wait(run.id, timeout_s=10)
    assert run.status == "completed"
    assert ("paid" in run.output["said"]) is (verdict == "approve")


ASKS = """
start: both
nodes:
  both: {type: parallel, branches: [a, b, own], join: after}
  a: {type: workflow, workflow: '#asks', thread: new, with: {what: A}, next: after}
  b: {type: workflow, workflow: '#asks', thread: new, with: {what: B}, next: after}
  own: {type: human, kind: approval, ask: Own?, next: after}
  after: {type: end}
outputs: {said: "[(result_of.a|default({})).said, (result_of.b|default({})).said, (result_of.own|default({})).decision]"}
---
version: 1.0.0
kind: workflow
name: asks
inputs: {what: string}
start: q
nodes:
  q: {type: human, kind: choice, choices: [x, y], ask: '{{ inputs.what }}?', next: r}
  r: {type: human, kind: choice, choices: [x, y], ask: 'Sure, {{ inputs.what }}?', next: end}
outputs: {said: result_of.q.choice ~ result_of.r.choice}
"""


async def test_questions_of_several_children_are_answered_in_any_order_at_the_root_or_at_them(flow):
    it = flow(ASKS)
    run = await it.run()
    asked = {q.asks.ask: q for q in run.required_answers}
    assert set(asked) == {"A?", "B?", "Own?"}
    b = asked["B?"].run_id
    assert (await it.runs.get(b)).required_answers[0].asks.ask == "B?"
    with pytest.raises(StateError):
        await it.runs.answer(run.id, "q", choice="x")
    await it.runs.answer(b, choice="y")
    run = await it.runs.wait(run.id, timeout_s=10)
    assert [q.asks.ask for q in run.required_answers] == ["A?", "Sure, B?", "Own?"]
    await it.runs.answer(run.id, "own", decision="approve")
    run = await it.runs.wait(run.id, timeout_s=10)
    await it.runs.answer(run.id, "r", choice="x")
    run = await it.runs.wait(run.id, timeout_s=10)
    await it.runs.answer(run.id, "q", choice="x")
    run = await it.runs.wait(run.id, timeout_s=10)
    await it.runs.answer(run.id, choice="y")
    run = await it.runs.wait(run.id, timeout_s=10)
    assert (run.status, run.output) == ("completed", {"said": ["xy", "yx", "approve"]})


async def test_a_child_that_is_answered_while_its_parent_works_goes_on(flow, until):
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        begun.set()
        await go.wait()
        return "slow"

    it = flow(
        ASKS.replace(
            "own: {type: human, kind: approval, ask: Own?,", "own: {type: tool, tool: slow,"
        ).replace("(result_of.own|default({})).decision", "result_of.own|default('')"),
        slow,
    )
    run = await it.start()
    await begun.wait()

    async def asks():
        return [c.status for c in await it.children(run)] == ["requires_action"] * 2

    await until(asks)
    a, b = await it.children(run)
    await it.runs.answer(a.id, choice="x")

    async def asks_again():
        found = await it.runs.get(a.id)
        return found.required_answers and found.required_answers[0].asks.ask == "Sure, A?"

    await until(asks_again)
    assert (await it.runs.get(run.id)).status == "in_progress"
    go.set()
    run = await it.runs.wait(run.id, timeout_s=10)
    assert [q.asks.ask for q in run.required_answers] == ["Sure, A?", "B?"]
    assert b.id in {q.run_id for q in run.required_answers}


async def test_a_failed_child_fails_its_node_with_its_code_and_can_be_tried_again(flow):
    calls = []

    def work() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no")
        return "done"

    text = """
        start: child
        nodes:
          child: {type: workflow, workflow: '#sub', thread: new, RETRY next: end}
        outputs: {said: result_of.child.said}
        ---
        version: 1.0.0
        kind: workflow
        name: sub
        tools: [{type: function, name: work, runs: server, effect: pure}]
        start: work
        nodes:
          work: {type: tool, tool: work, next: end}
        outputs: {said: result_of.work}
        """
    it = flow(text.replace("RETRY", ""), work)
    run = await it.run()
    assert (run.status, run.last_error.code) == ("failed", "tool_error")
    calls.clear()
    it = flow(text.replace("RETRY", "retry: {max_attempts: 2, initial_delay: 1ms, on: [tool_error]},"), work)
    run = await it.run()
    assert (run.status, run.output) == ("completed", {"said": "done"})
    assert [c.status for c in await it.children(run)] == ["failed", "completed"]


async def test_the_rows_of_a_child_on_a_shared_thread_come_before_what_follows_though_the_process_died(
    flow, until
):
    go, begun = asyncio.Event(), asyncio.Event()

    async def pay() -> str:
        begun.set()
        await go.wait()
        return "paid"

    it = flow(
        """
        start: say
        nodes:
          say: {type: message, text: Before, next: talk}
          talk: {type: agent, agent: '#clerk', message: Go, next: after}
          after: {type: message, text: After, next: end}
        """
        + textwrap.indent(
            AGENT.replace("approval: always", "approval: never").replace("effect: once", "effect: pure"),
            " " * 8,
        ),
        pay,
        script=wants("pay"),
    )
    run = await it.start()
    await begun.wait()
    await it.die()
    go.set()
    other = await it.reborn(wants("pay"), walk=True)
    await other.recover()
    run = await other.runs.wait(run.id, timeout_s=10)
    assert run.status == "completed"
    assert [text for _, text in await rows(it, run.thread_id)] == [
        "Before",
        "Go",
        None,
        "paid",
        "it said paid",
        "After",
    ]


async def test_the_threads_of_children_can_be_deleted_when_they_are_done_and_not_before(flow):
    it = flow(ASKS)
    run = await it.run()
    threads = [c.thread_id for c in await it.children(run)]
    with pytest.raises(StateError):
        await it.treadle.threads.delete(threads[0])
    await it.runs.cancel(run.id)
    for thread in (*threads, run.thread_id):
        await it.treadle.threads.delete(thread)
        with pytest.raises(NotFound):
            await it.treadle.threads.get(thread)


@pytest.mark.parametrize("thread", ["new", "mine", "fork"])
async def test_the_last_thread_is_that_of_the_run_and_none_of_its_children(flow, thread):
    it = flow(TWO.replace("THREAD", f"thread: {thread},"), script=echo)
    run = await it.run()
    assert run.status == "completed"
    assert (await it.treadle.threads.get("@last")).id == run.thread_id


async def test_inputs_that_an_agent_does_not_take_fail_the_node_and_make_no_run(flow):
    it = flow(
        """
        start: a
        nodes:
          a: {type: agent, agent: bot, inputs: {role: '{{ 2 + 3 }}'}, message: Hi, next: end}
        """
    )
    run = await it.run()
    assert (run.status, run.last_error.code) == ("failed", "code_error")
    assert "input 'role' does not fit" in run.last_error.message
    assert await it.children(run) == []
