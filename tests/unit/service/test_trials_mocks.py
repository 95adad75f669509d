"""What stands in for the outside world: answers in order, unused ones, and calls without one."""

from typing import Any

import pytest

from treadle.definition.trial import TrialMock
from treadle.service.trial_mocks import Mocks, shown


def mocks(**said: Any) -> Mocks:
    return Mocks(TrialMock.model_validate(said))


def test_replies_of_the_model_come_in_order_and_each_once() -> None:
    given = mocks(
        model=[{"text": "one"}, {"json": {"a": None}}, {"call": "f", "arguments": {"x": 1}}, {"call": "g"}]
    )
    assert [given.reply("?") for _ in range(4)] == [
        {"text": "one"},
        {"json": {"a": None}},
        {"calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"calls": [{"name": "g", "arguments": {}}]},
    ]
    assert given.unused() == []
    with pytest.raises(IndexError):
        given.reply("'m' was asked")
    assert [f.message for f in given.unmocked] == ["model call 5 has no mock: 'm' was asked"]


def test_a_reply_may_be_an_error_or_the_json_null() -> None:
    given = mocks(model=[{"error": {"type": "rate_limit"}}, {"json": None}])
    assert given.reply("?") == {"error": {"kind": "rate_limit", "message": "the test says no"}}
    assert given.reply("?") == {"json": None}
    assert given.flaws == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({}, "a reply says one of text, json, call (with arguments) or error"),
        ({"text": "a", "json": 1}, "a reply says one of text, json, call (with arguments) or error"),
        ({"arguments": {}}, "arguments need a call"),
        ({"call": "f", "json": 1}, "a reply that calls a tool may say a text besides, and no json"),
        ({"text": "a", "error": {"type": "timeout"}}, "an error is said alone"),
    ],
)
def test_a_reply_that_says_nothing_or_two_things_is_a_flaw(reply: dict[str, Any], said: str) -> None:
    (flaw,) = mocks(model=[{"text": "fine"}, reply]).flaws
    assert (flaw.message, flaw.path) == (said, ("mock", "model", 1))


def test_a_single_answer_of_a_tool_stands_for_every_call() -> None:
    given = mocks(tools={"f": {"returns": 1}})
    answers = [given.tool("f", {"n": n}) for n in range(3)]
    assert [a.value for a in answers if a] == [1, 1, 1]
    assert given.called == [("f", {"n": 0}), ("f", {"n": 1}), ("f", {"n": 2})]
    assert given.unused() == given.unmocked == []


def test_a_list_of_answers_is_used_up() -> None:
    given = mocks(tools={"f": [{"returns": 1}, {"raises": {"type": "timeout", "message": "slow"}}]})
    first, second, third = (given.tool("f", {}) for _ in range(3))
    assert first is not None
    assert first.value == 1
    assert second is not None
    assert second.error is not None
    assert second.error.type == "timeout"
    assert third is None
    (flaw,) = given.unmocked
    assert flaw.message == "tool f was called with {}, and its answers are used up"
    assert flaw.path == ("mock", "tools", "f")


def test_a_call_that_the_test_does_not_name_is_told_with_its_arguments() -> None:
    given = mocks(tools={"f": {"returns": 1}})
    assert given.tool("g", {"to": "Ada"}) is None
    assert given.unmocked[0].message == """tool g was called with {"to": "Ada"}, and mock.tools has no 'g'"""


def test_what_nobody_asked_for_is_told_with_its_place() -> None:
    given = mocks(
        model=[{"text": "a"}, {"text": "b"}],
        tools={"f": {"returns": 1}, "g": [{"returns": 1}, {"returns": 2}]},
        nodes={"n": {"text": "x"}},
        human={"h": [{"decision": "approve"}]},
        http={"u": {"status": 404}},
    )
    given.reply("?")
    given.tool("g", {})
    assert [(f.what, f.path) for f in given.unused()] == [
        ("mock.model[1]", ("mock", "model", 1)),
        ("mock.tools.f", ("mock", "tools", "f")),
        ("mock.tools.g[1]", ("mock", "tools", "g", 1)),
        ("mock.nodes.n", ("mock", "nodes", "n")),
        ("mock.http.u", ("mock", "http", "u")),
        ("mock.human.h[0]", ("mock", "human", "h", 0)),
    ]
    assert "the model was called once" in given.unused()[0].message


@pytest.mark.parametrize("answer", [1, "text", {}, {"return": 1}, {"returns": 1, "raises": "timeout"}, None])
def test_an_answer_of_a_tool_that_is_none_is_a_flaw(answer: Any) -> None:
    (flaw,) = mocks(tools={"f": [{"returns": 1}, answer]}).flaws
    assert flaw.path == ("mock", "tools", "f", 1)
    assert "an answer is {returns: …} or {raises: {type: …, message: …}}" in flaw.message


def test_an_error_may_be_a_word() -> None:
    given = mocks(tools={"f": {"raises": "connection"}}).tool("f", {})
    assert given is not None
    assert given.error is not None
    assert given.error.type == "connection"


def test_an_error_with_a_wrong_field_is_a_flaw() -> None:
    (flaw,) = mocks(tools={"f": {"raises": {"kind": "timeout"}}}).flaws
    assert "raises.kind does not fit" in flaw.message


def test_an_answer_of_a_node_is_its_result_or_says_so() -> None:
    given = mocks(nodes={"a": {"text": "x"}, "b": {"returns": [1]}, "c": {"raises": "timeout"}, "d": [3, 4]})
    a, b, c = given.node("a"), given.node("b"), given.node("c")
    assert a is not None
    assert b is not None
    assert c is not None
    assert (a.value, b.value, c.error is not None) == ({"text": "x"}, [1], True)
    assert [d.value for d in (given.node("d"), given.node("d")) if d] == [3, 4]
    assert given.node("d") is None
    assert given.node("e") is None


def test_an_answer_of_a_person_has_no_other_words() -> None:
    (flaw,) = mocks(human={"h": {"decission": "approve"}}).flaws
    assert "an answer has no 'decission'; it has decision, choice, value" in flaw.message


def test_an_empty_list_answers_nothing_and_is_used_up() -> None:
    given = mocks(tools={"f": []})
    assert not given.has("tools", "f")
    assert given.names("tools", "f")
    assert given.unused() == []


def test_a_long_value_is_cut() -> None:
    assert shown("a" * 500, 10) == '"aaaaaaaa…'
    assert shown({1}, 10) == "{1}"
