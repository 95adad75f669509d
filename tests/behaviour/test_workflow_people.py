"""People in a workflow: what they are asked and may answer, in any order and from any process, and what their silence means."""

import asyncio
import json

import pytest

from treadle.errors import NotFound, StateError

ASK = """
start: q
nodes:
  q: {type: human, ask: 'Is {{ inputs.what }} fine?', WORDS, next: end}
inputs: {what: {type: string, default: it}}
outputs: {answer: result_of.q}
"""


NUMBER = "{type: object, properties: {n: {type: integer, minimum: 3}}, required: [n]}"


def ask(words):
    return ASK.replace("WORDS", words)


async def asked(it, **inputs):
    run = await it.run(**inputs)
    assert run.status == "requires_action"
    return run


async def answered(it, run, **words):
    await it.runs.answer(run.id, **words)
    return await it.runs.wait(run.id)


async def test_a_run_that_waits_for_a_person_says_what_it_asks_and_is_held_by_nobody(flow):
    it = flow(ask("kind: approval, assignees: [boss]"))
    run = await asked(it, what="this")
    (question,) = run.required_answers
    assert (question.path, question.asks.kind, question.asks.ask) == ("q#1", "approval", "Is this fine?")
    assert question.asks.assignees == ("boss",)
    assert run.walker is None


@pytest.mark.parametrize(
    ("words", "answer", "gives"),
    [
        ("kind: approval", {"decision": "approve"}, {"decision": "approve"}),
        ("kind: approval", {"decision": "reject", "comment": "no"}, {"decision": "reject", "comment": "no"}),
        ("kind: choice, choices: [red, blue]", {"choice": "blue"}, {"choice": "blue"}),
        (f"kind: input, form: {NUMBER}", {"value": {"n": 4}}, {"value": {"n": 4}}),
        ("kind: edit, value: '{{ inputs.what }}'", {"value": "that"}, {"value": "that"}),
    ],
)
async def test_what_a_person_answered_is_the_result_of_the_node(flow, words, answer, gives):
    it = flow(ask(words))
    run = await asked(it)
    run = await answered(it, run, by="ada", **answer)
    nothing = {"decision": None, "choice": None, "value": None, "comment": None}
    now = it.clock.wall_ms // 1000
    assert run.output == {"answer": nothing | gives | {"by": "ada", "at": now}}


async def test_an_edit_shows_what_is_edited(flow):
    it = flow(ask("kind: edit, value: {a: '{{ inputs.what }}'}, form: {type: object, required: [a]}"))
    run = await asked(it)
    (question,) = run.required_answers
    assert (question.asks.value, question.asks.form) == ({"a": "it"}, {"type": "object", "required": ["a"]})


@pytest.mark.parametrize(
    ("words", "answer", "says"),
    [
        ("kind: approval", {}, "no decision"),
        ("kind: approval", {"decision": "maybe"}, "'maybe' is no decision"),
        ("kind: approval", {"choice": "approve"}, "not a choice"),
        ("kind: choice, choices: [red, blue]", {"choice": "green"}, "none of the choices"),
        ("kind: choice, choices: [red, blue]", {"decision": "approve"}, "not a decision"),
        (f"kind: input, form: {NUMBER}", {"value": {"n": 2}}, "does not fit the form"),
        (f"kind: input, form: {NUMBER}", {"value": 4}, "does not fit the form"),
        (f"kind: input, form: {NUMBER}", {}, "no value was given"),
        ("kind: edit, value: {a: 1}, form: {type: object, required: [a]}", {"value": {}}, "does not fit"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_nothing_is_stored(flow, words, answer, says):
    it = flow(ask(words))
    run = await asked(it)
    before = await it.steps(run)
    with pytest.raises(StateError, match=says):
        await it.runs.answer(run.id, **answer)
    assert await it.runs.get(run.id) == run
    assert await it.steps(run) == before


async def test_a_second_answer_is_refused(flow):
    it = flow(ask("kind: approval"))
    run = await answered(it, await asked(it), decision="approve")
    with pytest.raises(StateError, match="completed"):
        await it.runs.answer(run.id, decision="reject")
    assert run.output["answer"]["decision"] == "approve"


async def test_of_two_answers_at_once_one_counts_and_the_other_is_refused(flow):
    it = flow(ask("kind: approval"))
    run = await asked(it)
    other = it.open()
    both = await asyncio.gather(
        it.runs.answer(run.id, decision="approve", by="a"),
        other.runs.answer(run.id, decision="reject", by="b"),
        return_exceptions=True,
    )
    refused = [e for e in both if isinstance(e, Exception)]
    assert [type(e) for e in refused] == [StateError]
    run = await it.runs.wait(run.id)
    won = "b" if isinstance(both[0], StateError) else "a"
    assert run.output["answer"]["by"] == won


SEVERAL = """
state: {told: {type: array, default: [], reduce: append}}
start: all
nodes:
  all: {type: parallel, branches: [one, two, three], join: after}
  one: {type: human, kind: approval, ask: One?, save: {told: result.decision}, next: after}
  two: {type: human, kind: choice, choices: [x, y], ask: Two?, save: {told: result.choice}, next: after}
  three: {type: human, kind: input, form: {type: object}, ask: Three?, save: {told: result.value}, next: after}
  after: {type: end}
outputs: {told: state.told}
"""


async def test_several_open_questions_are_answered_in_any_order(flow):
    it = flow(SEVERAL)
    run = await asked(it)
    assert [q.path for q in run.required_answers] == ["one#1", "two#1", "three#1"]
    with pytest.raises(StateError, match="asks 3 questions"):
        await it.runs.answer(run.id, decision="approve")
    with pytest.raises(NotFound):
        await it.runs.answer(run.id, "four", decision="approve")
    run = await answered(it, run, node="three", value={"n": 3})
    assert [q.path for q in run.required_answers] == ["one#1", "two#1"]
    assert run.walker is None
    run = await answered(it, run, node="one#1", decision="reject")
    run = await answered(it, run, choice="y")
    assert (run.status, run.output) == ("completed", {"told": ["reject", "y", {"n": 3}]})


async def test_a_question_is_answered_from_another_process_which_walks_the_run_on(flow):
    it = flow(SEVERAL)
    run = await asked(it)
    await it.treadle.close()
    for node, words in [
        ("two", {"choice": "x"}),
        ("one", {"decision": "approve"}),
        ("three", {"value": {"n": 1}}),
    ]:
        other = it.open()
        await other.runs.answer(run.id, node, **words)
        last = await other.runs.wait(run.id)
        await other.close()
    assert (last.status, last.output) == ("completed", {"told": ["approve", "x", {"n": 1}]})


async def test_questions_of_a_branch_are_asked_when_nothing_else_goes_on_and_then_the_rest(flow, until):
    go, ended = asyncio.Event(), []

    async def slow() -> str:
        await go.wait()
        ended.append(1)
        return "slow"

    it = flow(
        """
        start: all
        nodes:
          all: {type: parallel, branches: [one, work], join: after}
          one: {type: human, kind: approval, ask: One?, next: after}
          work: {type: tool, tool: slow, next: after}
          after: {type: end, outputs: {said: '{{ result_of.one.decision }} {{ result_of.work }}'}}
        """,
        slow,
    )
    run = await it.start()
    await until(lambda: _is_open(it, run, "one#1"))
    assert (await it.runs.get(run.id)).status == "in_progress"
    with pytest.raises(StateError, match="asks when nothing else of it goes on"):
        await it.runs.answer(run.id, decision="approve")
    go.set()
    run = await it.runs.wait(run.id)
    assert (run.status, run.walker) == ("requires_action", None)
    run = await answered(it, run, decision="approve")
    assert run.output == {"said": "approve slow"}
    assert ended == [1]


async def _is_open(it, run, path):
    row = (await it.steps(run)).get(path)
    return row is not None and row.is_open


LATE = "timeout: 15m, on_timeout: "


@pytest.mark.parametrize(
    ("words", "gives"),
    [
        (f"kind: approval, {LATE}reject", {"decision": "reject"}),
        (f"kind: approval, {LATE}default, default: approve", {"decision": "approve"}),
        (f"kind: choice, choices: [a, b], {LATE}default, default: b", {"choice": "b"}),
        (f"kind: input, form: {NUMBER}, {LATE}default, default: {{n: 7}}", {"value": {"n": 7}}),
    ],
)
async def test_what_counts_when_nobody_answered_in_time(flow, words, gives):
    it = flow(ask(words))
    run = await asked(it)
    assert run.required_answers[0].until_ms == it.clock.wall_ms + 900_000
    assert run.wake_ms == it.clock.wall_ms + 900_000
    it.clock.advance(899)
    assert (await it.treadle.recover()).decided == 0
    run = await late(it, run, 1)
    assert (run.status, {k: run.output["answer"][k] for k in gives}) == ("completed", gives)
    assert run.output["answer"]["by"] == "deadline"


@pytest.mark.parametrize("words", [f"{LATE}fail", "timeout: 15m"])
async def test_a_question_that_nobody_answered_in_time_fails_where_it_says_so_or_nothing(flow, words):
    it = flow(ask(f"kind: approval, {words}"))
    run = await late(it, await asked(it))
    assert (run.status, run.last_error.code) == ("failed", "timeout")


async def late(it, run, seconds=900):
    """Let a deadline pass while nobody holds the run, and let a process that walks every run find it."""
    it.clock.advance(seconds)
    other = it.open(walk=True)
    async with asyncio.timeout(10):
        while True:
            await other.recover()
            found = await other.runs.get(run.id)
            if found.status not in ("queued", "in_progress") and found.rev != run.rev:
                return found
            await asyncio.sleep(0)


async def test_a_question_may_lead_to_a_node_when_nobody_answered_in_time(flow):
    it = flow(
        """
        start: q
        nodes:
          q: {type: human, kind: approval, ask: Fine?, timeout: 15m, on_timeout: escalate, next: end}
          escalate: {type: human, kind: approval, ask: And you?, next: end}
        outputs: {by: "(result_of.escalate|default({'by': 'nobody'})).by"}
        """
    )
    run = await late(it, await asked(it))
    assert (run.status, [q.path for q in run.required_answers]) == ("requires_action", ["escalate#1"])
    run = await answered(it, run, decision="approve", by="chief")
    assert run.output == {"by": "chief"}


async def test_an_answer_after_the_deadline_is_too_late(flow):
    it = flow(ask(f"kind: approval, {LATE}reject"))
    run = await asked(it)
    it.clock.advance(901)
    with pytest.raises(StateError):
        await it.runs.answer(run.id, decision="approve")
    run = await late(it, run, 0)
    assert run.output["answer"]["decision"] == "reject"


async def test_one_of_several_deadlines_leaves_the_other_questions_open(flow):
    it = flow(SEVERAL.replace("kind: approval,", "kind: approval, timeout: 1m, on_timeout: reject,"))
    run = await asked(it)
    run = await late(it, run, 60)
    assert (run.status, [q.path for q in run.required_answers]) == ("requires_action", ["two#1", "three#1"])
    assert (run.walker, run.wake_ms) == (None, None)


TOOL = """
start: pay
nodes:
  pay: {type: tool, tool: pay, with: {amount: 5}, next: end, on_error: [{on: [approval_rejected], to: no}]}
  no: {type: end, outputs: {paid: no}}
outputs: {paid: result_of.pay}
"""


def payments():
    paid = []

    def pay(amount: int) -> str:
        paid.append(amount)
        return f"paid {amount}"

    return paid, pay


async def test_a_tool_of_a_node_may_ask_before_it_is_called(flow):
    paid, pay = payments()
    it = flow(TOOL, pay, declared={"pay": {"effect": "once", "approval": "always"}})
    run = await asked(it)
    (question,) = run.required_answers
    assert (question.path, question.asks.kind, question.asks.value) == ("pay#1", "approval", {"amount": 5})
    assert paid == []
    run = await answered(it, run, decision="approve")
    assert (run.output, paid) == ({"paid": "paid 5"}, [5])


async def test_a_person_may_change_what_a_tool_is_called_with(flow):
    paid, pay = payments()
    it = flow(TOOL, pay, declared={"pay": {"effect": "once", "approval": "always"}})
    run = await asked(it)
    with pytest.raises(StateError):
        await it.runs.answer(run.id, decision="approve", value={"amount": "much"})
    run = await answered(it, run, decision="approve", value={"amount": 4})
    assert (run.output, paid) == ({"paid": "paid 4"}, [4])


async def test_a_tool_that_a_person_refused_is_not_called_and_its_error_can_be_routed(flow):
    paid, pay = payments()
    it = flow(TOOL, pay, declared={"pay": {"approval": "always"}})
    run = await answered(it, await asked(it), decision="reject", comment="too much")
    assert (run.status, run.output, paid) == ("completed", {"paid": "no"}, [])
    assert "too much" in (await it.steps(run))["pay#1"].last_error.message


async def test_approve_and_reject_answer_questions_as_well(flow):
    paid, pay = payments()
    it = flow(TOOL, pay, declared={"pay": {"approval": "always"}})
    run = await asked(it)
    await it.runs.approve(run.id)
    assert (await it.runs.wait(run.id)).output == {"paid": "paid 5"}
    run = await asked(it)
    await it.runs.reject(run.id, reason="no")
    assert (await it.runs.wait(run.id)).output == {"paid": "no"}
    assert paid == [5]


async def test_an_approval_may_depend_on_the_arguments(flow):
    paid, pay = payments()
    rule = {"when": "args.amount > 100", "message": "Pay {{ args.amount }}?"}
    it = flow(
        TOOL.replace("amount: 5", "amount: '{{ inputs.n }}'") + "inputs: {n: integer}\n",
        pay,
        declared={"pay": {"approval": rule}},
    )
    assert (await it.run(n=5)).output == {"paid": "paid 5"}
    run = await asked(it, n=500)
    assert run.required_answers[0].asks.ask == "Pay 500?"
    assert paid == [5]


async def test_each_item_of_a_map_asks_for_itself(flow):
    it = flow(
        """
        start: each
        nodes:
          each:
            type: map
            over: "['a', 'b', 'c']"
            node: {type: human, kind: approval, ask: 'Take {{ item }}?'}
            collect: result.decision
            next: end
        outputs: {said: result_of.each.collected}
        """
    )
    run = await asked(it)
    assert [(q.path, q.asks.ask) for q in run.required_answers] == [
        (f"each#1[{n}]/item#1", f"Take {item}?") for n, item in enumerate("abc")
    ]
    with pytest.raises(StateError, match="asks 3 questions"):
        await it.runs.answer(run.id, "each/item", decision="approve")
    await answered(it, run, node="each#1[2]/item#1", decision="reject")
    await answered(it, run, node="each#1[0]/item#1", decision="approve")
    run = await answered(it, run, node="each#1[1]/item#1", decision="approve")
    assert run.output == {"said": ["approve", "approve", "reject"]}


async def test_an_approval_loop_asks_anew_in_each_round(flow):
    it = flow(
        """
        state: {rounds: {type: integer, default: 0}}
        start: draft
        nodes:
          draft: {type: set, set: {rounds: '{{ state.rounds + 1 }}'}, next: approve}
          approve:
            type: human
            kind: approval
            ask: 'Draft {{ state.rounds }}?'
            next: [{when: result.decision == 'approve', to: end}, {when: state.rounds < 3, to: draft}, {to: give_up}]
          give_up: {type: fail, error: not_approved, message: 'after {{ state.rounds }}'}
        outputs: {rounds: state.rounds}
        """
    )
    run = await asked(it)
    run = await answered(it, run, decision="reject", comment="shorter")
    assert [(q.path, q.asks.ask) for q in run.required_answers] == [("approve#2", "Draft 2?")]
    run = await answered(it, run, decision="approve")
    assert (run.status, run.output) == ("completed", {"rounds": 2})
    run = await asked(it)
    for _ in range(3):
        run = await answered(it, run, decision="reject")
    assert (run.status, run.last_error.code) == ("failed", "not_approved")


async def test_an_answer_given_when_the_process_dies_before_it_goes_on_is_kept(flow):
    it = flow(SEVERAL)
    run = await asked(it)
    await it.runs.answer(run.id, "one", decision="approve")
    await it.die()
    await it.reborn(walk=True)
    await it.treadle.recover()
    run = await it.runs.wait(run.id)
    assert [q.path for q in run.required_answers] == ["two#1", "three#1"]


async def test_the_answer_of_a_person_stands_in_the_journal_as_json(flow):
    it = flow(ask("kind: input, form: {type: object}"))
    run = await answered(it, await asked(it), value={"deep": [1, None, True, "ü"]}, by="ada")
    step = (await it.steps(run))["q#1"]
    assert (step.kind, step.status) == ("pause", "completed")
    assert json.loads(json.dumps(step.result))["value"] == {"deep": [1, None, True, "ü"]}


TWICE = """
start: each
nodes:
  each: {type: map, over: '[1, 2]', as: n, workflow: '#asks', with: {n: '{{ n }}'}, collect: result.said, next: end}
outputs: {said: result_of.each.collected}
---
version: 1.0.0
kind: workflow
name: asks
inputs: {n: integer}
state: {said: {type: string, default: ''}}
start: ask
nodes:
  ask: {type: human, kind: input, ask: 'Number {{ inputs.n }}?', form: {type: object}, save: {said: result.value.a}, next: end}
outputs: {said: state.said}
"""


async def test_two_child_runs_that_ask_at_the_same_path_are_told_apart_by_their_runs(flow):
    it = flow(TWICE)
    run = await it.run()
    first, second = run.required_answers
    assert (first.path, first.asks.ask) == (second.path, "Number 1?")
    with pytest.raises(StateError) as refused:
        await it.runs.answer(run.id, "ask", value={"a": "x"})
    assert f"{first.run_id}:ask#1, {second.run_id}:ask#1" in refused.value.hint
    await it.runs.answer(run.id, f"{second.run_id}:ask#1", value={"a": "two"})
    await it.runs.wait(run.id)
    await it.runs.answer(run.id, "ask", value={"a": "one"})
    assert (await it.runs.wait(run.id)).output == {"said": ["one", "two"]}
