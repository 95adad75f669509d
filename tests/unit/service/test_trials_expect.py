"""What a run did, held against what its test expects."""

from typing import Any

import pytest

from treadle.definition.trial import TrialExpect
from treadle.service.trial_expect import Observed, flaws, is_equal


def check(expect: dict[str, Any], **seen: Any) -> list[str]:
    found = flaws(TrialExpect.model_validate(expect), Observed(**{"status": "completed"} | seen))
    return [f"{f.what}: {f.expected} / {f.got}" if f.expected else f"{f.what}: {f.message}" for f in found]


def test_a_run_is_to_complete_where_nothing_is_said() -> None:
    assert flaws(None, Observed(status="completed")) == []
    assert check({}) == []
    assert check({}, status="failed", reason="timeout: too slow") == [
        "status: completed / failed (timeout: too slow)"
    ]
    assert check({"status": "failed"}) == ["status: failed / completed"]


def test_a_run_that_waits_says_for_what() -> None:
    waits = {"type": "submit_tool_approval", "tool": "pay"}
    assert check({}, status="requires_action", required=[waits]) == [
        "status: completed / requires_action (it waits for pay)"
    ]
    assert check({"required_action": {"tool": "pay"}}, status="requires_action", required=[waits]) == []


@pytest.mark.parametrize(
    ("wanted", "got", "found"),
    [
        ({"a": 1}, {"a": 1.0, "b": 2}, []),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 2, "d": 3}], "e": 4}}, []),
        ({"a": 1}, {"b": 1}, ["output.a: 1 / nothing"]),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["output.a.b: 1 / 2"]),
        ([1, 2], [1, 2, 3], ["output: [1, 2] / [1, 2, 3]"]),
        ([1, {"a": 2}], [1, {"a": 3}], ["output[1].a: 2 / 3"]),
        ({"a": True}, {"a": 1}, ["output.a: true / 1"]),
        ({"a": 1}, None, ['output: {"a": 1} / null']),
        ("Hello", "Hello", []),
        (None, None, []),
        (None, 1, ["output: null / 1"]),
    ],
)
def test_of_the_output_only_what_is_named_counts(wanted: Any, got: Any, found: list[str]) -> None:
    assert check({"output": wanted}, output=got) == found


def test_an_output_that_is_not_expected_is_not_looked_at() -> None:
    assert check({}, output={"anything": 1}) == []


def test_the_path_is_exact_and_a_node_in_a_body_may_go_by_its_own_name() -> None:
    path = ["start", "refine/draft", "refine"]
    assert check({"path": ["start", "draft", "refine"]}, path=path) == []
    assert check({"path": ["start", "refine/draft", "refine"]}, path=path) == []
    assert check({"path": ["start", "refine"]}, path=path) == [
        'path: ["start", "refine"] / ["start", "refine/draft", "refine"]'
    ]
    assert check({"path": []}, path=path) != []


def test_a_part_of_the_path_comes_in_order() -> None:
    path = ["a", "b", "a", "c"]
    assert check({"path_contains": ["a", "a", "c"]}, path=path) == []
    assert check({"path_contains": ["b", "b"]}, path=path) != []
    (flaw,) = flaws(
        TrialExpect.model_validate({"path_contains": ["c", "a"]}), Observed(status="completed", path=path)
    )
    assert flaw.message == "'a' is not on the path, or not in this order"


def test_the_text_contains_one_or_all() -> None:
    assert check({"text_contains": "lo"}, text="Hello") == []
    assert check({"text_contains": ["He", "xx", "lo"]}, text="Hello") == ['text_contains: "xx" / "Hello"']
    assert check({"text_matches": "^H.*o$"}, text="Hello") == []
    assert check({"text_matches": "^e"}, text="Hello") == ['text_matches: "^e" / "Hello"']
    assert check({"text_matches": "("}, text="Hello")[0].startswith("text_matches: this is not a regular")


def test_tools_are_called_in_order_and_others_never() -> None:
    tools = ["find", "pay", "mail"]
    assert check({"tools_called": ["find", "mail"]}, tools=tools) == []
    assert check({"tools_called": ["mail", "find"]}, tools=tools) != []
    assert check({"tools_called": []}) == []
    assert check({"tools_called": []}, tools=tools) == ['tools_called: [] / ["find", "pay", "mail"]']
    assert check({"never_called": ["refund"]}, tools=tools) == []
    assert check({"never_called": ["refund", "pay"]}, tools=tools) == [
        'never_called: no pay / ["find", "pay", "mail"]'
    ]


def test_what_a_run_waits_for_is_one_of_several() -> None:
    waiting = [{"type": "submit_tool_approval", "tool": t, "arguments": {"n": t}} for t in ("a", "b")]
    seen = {"status": "requires_action", "required": waiting}
    assert check({"required_action": {"tool": "b", "arguments": {"n": "b"}}}, **seen) == []
    assert len(check({"required_action": {"tool": "c"}}, **seen)) == 1
    alone = {"status": "requires_action", "required": waiting[:1]}
    assert check({"required_action": {"tool": "b"}}, **alone) == ['required_action.tool: "b" / "a"']
    assert check({"required_action": {"tool": "b"}, "status": "completed"}) == [
        'required_action: {"tool": "b"} / nothing'
    ]


def test_assertions_are_expressions_over_what_the_run_gave() -> None:
    seen = {
        "output": {"n": 3},
        "text": "Hi",
        "state": {"k": [1]},
        "journal": [{"node": "a", "status": "completed"}],
    }
    good = ["output.n > 2", "text|lower == 'hi'", "state.k|length == 1", "steps[0].node == 'a'"]
    assert check({"assert": good}, **seen) == []
    assert check({"assert": ["output.n > 3"]}, **seen) == ["assert: true / false"]
    (flaw,) = flaws(
        TrialExpect.model_validate({"assert": ["output.n", "output.missing.x"]}),
        Observed(**{"status": "completed"} | seen),
    )
    assert flaw.path == ("expect", "assert", 1)
    assert flaw.message.startswith("output.missing.x: ")


def test_a_run_may_take_no_more_steps_and_tokens() -> None:
    seen = {"journal": [{}] * 3, "tokens": 50}
    assert check({"max_steps": 3, "max_tokens": 50}, **seen) == []
    assert check({"max_steps": 2, "max_tokens": 49}, **seen) == [
        "max_steps: at most 2 / 3",
        "max_tokens: at most 49 / 50",
    ]


def test_numbers_are_equal_by_value_and_truth_values_are_no_numbers() -> None:
    assert is_equal([1, {"a": 2.0}], [1.0, {"a": 2}])
    assert not is_equal({"a": 1}, {"a": 1, "b": 2})
    assert not is_equal(0, False)
    assert not is_equal([1], [1, 2])
