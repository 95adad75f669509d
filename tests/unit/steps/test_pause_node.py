"""A human node asks a person: the question, the answer, and what counts as one when nobody gives it."""

import pytest

from treadle.errors import StateError
from treadle.objects.run import Question
from treadle.steps import pause
from treadle.steps.pause import fit
from treadle.testing.fakes import FrozenClock
from treadle.testing.node_contract import NodeContract, a_node_context, begun

FORM = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}  # fmt: skip
BASE = {"type": "human", "kind": "approval", "ask": "Send {{ inputs.what }}?"}


def context(params=None, **fields):
    made = {"inputs": {"what": "it"}, **fields}
    return a_node_context({**BASE, **(params or {})}, step="pause", **made)


def asked(params=None, **fields):
    made = context(params, **fields)
    effects = pause.KIND.prepare(made)
    assert effects.status == "in_progress"
    return made, effects


def late(params):
    """Give what comes of a question that nobody answered within an hour."""
    clock = FrozenClock()
    made, effects = asked({"timeout": "1h", **params}, clock=clock)
    clock.advance(3599.999)
    assert pause.KIND.prepare(begun(made, effects)).question == effects.question
    clock.advance(0.001)
    return pause.KIND.prepare(begun(made, effects)), clock


class TestContract(NodeContract):
    kind = pause.KIND
    labels = frozenset({"timeout"})

    def contexts(self):
        clock = FrozenClock()
        made, effects = asked({"timeout": "1h", "on_timeout": "elsewhere"}, clock=clock)
        over = FrozenClock()
        over.advance(7200)
        return [
            context(),
            context({"kind": "edit", "value": {"city": "{{ inputs.what }}"}, "form": FORM}),
            begun(made, effects),
            begun(made._replace(clock=over), effects),
            begun(made, effects, edge="answered", result={"decision": "approve", "by": "ada", "at": 3}),
        ]


def test_a_question_says_all_that_a_person_needs():
    clock = FrozenClock()
    _, effects = asked(
        {
            "kind": "edit", "value": {"text": "{{ state.draft }}", "n": "{{ state.n }}"}, "form": {"type": "object"},
            "assignees": ["ada"], "timeout": "2h",
        },
        state={"draft": "Dear all", "n": 3}, clock=clock,
    )  # fmt: skip
    assert effects.question == Question(
        kind="edit", ask="Send it?", value={"text": "Dear all", "n": 3}, form={"type": "object"}, assignees=("ada",),
        until_ms=clock.now_ms() + 7_200_000,
    )  # fmt: skip
    _, effects = asked({"kind": "choice", "choices": ["red", "blue"]})
    assert effects.question.choices == ("red", "blue")
    assert effects.question.until_ms is None


def test_a_question_stands_until_it_is_answered():
    made, effects = asked()
    assert pause.KIND.prepare(begun(made, effects)) == effects
    answer = {"decision": "reject", "comment": "not now", "by": "ada", "at": 12}
    ended = pause.KIND.prepare(begun(made, effects, edge="answered", result=answer))
    assert ended.status == "completed"
    assert ended.result == {"choice": None, "value": None, **answer}


def test_an_answer_that_came_in_time_counts_although_it_is_read_later():
    clock = FrozenClock()
    made, effects = asked({"timeout": "1h", "on_timeout": "reject"}, clock=clock)
    clock.advance(7200)
    answer = {"decision": "approve", "by": "ada", "at": 12}
    assert pause.KIND.prepare(begun(made, effects, edge="answered", result=answer)).result["by"] == "ada"


def test_nobody_in_time_is_a_failure_where_nothing_else_is_said():
    for params in ({}, {"on_timeout": "fail"}):
        ended, _ = late(params)
        assert (ended.status, ended.error.code) == ("failed", "timeout")
        assert "Send it?" in ended.error.message


def test_nobody_in_time_is_a_rejection_a_default_or_another_way():
    ended, clock = late({"on_timeout": "reject"})
    assert ended.result["decision"] == "reject"
    assert (ended.result["by"], ended.result["at"]) == ("deadline", clock.now_ms() // 1000)
    ended, _ = late({"on_timeout": "default", "default": "approve"})
    assert ended.result["decision"] == "approve"
    ended, _ = late({"kind": "choice", "choices": ["it", "blue"], "on_timeout": "default", "default": "{{ inputs.what }}"})  # fmt: skip
    assert ended.result["choice"] == "it"
    ended, _ = late({"kind": "input", "form": FORM, "on_timeout": "default", "default": {"city": "{{ inputs.what }}"}})  # fmt: skip
    assert ended.result["value"] == {"city": "it"}
    ended, _ = late({"on_timeout": "escalate"})
    assert (ended.status, ended.edge) == ("completed", "timeout")
    assert (ended.result["decision"], ended.result["by"]) == (None, "deadline")


def test_a_default_that_is_no_answer_fails():
    ended, _ = late({"kind": "input", "form": FORM, "on_timeout": "default", "default": {"town": "x"}})
    assert (ended.status, ended.error.code) == ("failed", "code_error")
    assert "the default is no answer" in ended.error.message


APPROVAL = Question(kind="approval", ask="?")
CALL = Question(kind="approval", ask="?", value={"city": "x"}, form=FORM)
CHOICE = Question(kind="choice", ask="?", choices=("red", "blue"))
INPUT = Question(kind="input", ask="?", form=FORM)
FREE = Question(kind="input", ask="?")
EDIT = Question(kind="edit", ask="?", value={"city": "x"}, form=FORM)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (APPROVAL, {"decision": "approve"}),
        (APPROVAL, {"decision": "reject", "comment": "no"}),
        (CALL, {"decision": "approve", "value": {"city": "y"}}),
        (CALL, {"decision": "reject"}),
        (CHOICE, {"choice": "blue"}),
        (INPUT, {"value": {"city": "y"}}),
        (FREE, {"value": "any"}),
        (FREE, {"value": 0}),
        (EDIT, {"value": {"city": "y"}}),
        (Question(kind="input", ask="?", form={"type": "null"}), {"value": None}),
    ],
)
def test_an_answer_that_fits_is_kept(question, words):
    answer = fit(question, **words, by="ada", at=5)
    assert (answer.by, answer.at) == ("ada", 5)
    assert {k: getattr(answer, k) for k in words} == words


@pytest.mark.parametrize(
    ("question", "words", "expected"),
    [
        (APPROVAL, {}, "approve or reject was expected"),
        (APPROVAL, {"decision": "yes"}, "approve or reject was expected"),
        (APPROVAL, {"choice": "red"}, "takes a decision, not a choice"),
        (APPROVAL, {"decision": "approve", "value": 3}, "takes a decision, not a value"),
        (CALL, {"decision": "approve", "value": {"city": 3}}, "does not fit the form: city"),
        (CALL, {"decision": "reject", "value": {"city": "y"}}, "with approve only"),
        (CHOICE, {}, "one of red, blue was expected"),
        (CHOICE, {"choice": "green"}, "one of red, blue was expected"),
        (CHOICE, {"decision": "approve"}, "takes a choice, not a decision"),
        (INPUT, {}, "no value was given"),
        (INPUT, {"value": {"town": "y"}}, "does not fit the form"),
        (INPUT, {"value": {"city": "y"}, "choice": "red"}, "takes a value, not a choice"),
        (FREE, {}, "no value was given"),
        (EDIT, {"value": "y"}, "does not fit the form"),
    ],
)
def test_an_answer_that_does_not_fit_is_told_what_was_expected(question, words, expected):
    with pytest.raises(StateError) as caught:
        fit(question, **words, at=5)
    assert expected in caught.value.message
    assert caught.value.hint


def test_a_comment_and_a_name_can_be_stored():
    answer = fit(APPROVAL, decision="approve", comment="\ud800", by="\x00", at=5)
    assert (answer.comment, answer.by) == ("\ufffd", "\ufffd")
