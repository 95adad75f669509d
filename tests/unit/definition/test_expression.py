"""Expressions: values with their types, and what a check finds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.definition import expression
from treadle.errors import DefinitionError, TreadleError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)

VALUES = {
    "inputs": {"amount": 250, "tags": ["a", "b"]},
    "state": {"rounds": 2, "draft": "", "problems": [], "items": "a key"},
    "result": {"text": "123", "collected": [1, 2]},
    "result_of": {},
    "args": {"amount": 250, "path": "/tmp/x"},
    "tool": {"operation": "open_return", "name": "returns"},
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("result.text", "123"),
        ("state.rounds + 1", 3),
        ("1 / 2", 0.5),
        ("7 // 2", 3),
        ("true", True),
        ("none", None),
        ("1.0", 1.0),
        ("'[1,2]'", "[1,2]"),
        ("state.items", "a key"),
        ("tool.operation == 'open_return' and args.amount > 200", True),
        ("state.text|default('') and not state.problems", ""),
        ("not state.problems", True),
        ("inputs.tags|length", 2),
        ("{'source': 'similar', 'found': result.collected}", {"source": "similar", "found": [1, 2]}),
        ("(result_of.approve|default({})).comment|default('')", ""),
        ("[1, (2, 3)]", [1, [2, 3]]),
        ("inputs.tags[-1]", "b"),
        ("inputs.tags[:1]", ["a"]),
        ("'yes' if args.amount > 1000 else 'no'", "no"),
        ("'a' ~ 1", "a1"),
        ("-state.rounds", -2),
        ("args.path is startswith('/tmp')", True),
        ("result.collected|sum", 3),
        ("{'a': {'b': [none, true, 1.5]}}", {"a": {"b": [None, True, 1.5]}}),
        ("\n state.rounds \n", 2),
    ],
)
def test_an_expression_gives_a_value_of_its_own_type(source, expected):
    assert expression.check(source, names=frozenset(VALUES)) == []
    value = expression.evaluate(source, VALUES)
    assert value == expected
    assert type(value) is type(expected)


def test_the_result_shares_nothing_with_the_values():
    values = {"a": [[1]]}
    result = expression.evaluate("a", values)
    result[0].append(2)
    assert values == {"a": [[1]]}


def test_a_shared_part_of_a_result_is_copied_out():
    result = expression.evaluate("[a, a]", {"a": [1]})
    result[0].append(2)
    assert result == [[1, 2], [1]]


def test_an_undeclared_name_is_found_with_its_place_and_a_suggestion():
    [problem] = expression.check("state.rounds < 3 and\n stat.draft", names=frozenset(VALUES))
    assert (problem.name, problem.line, problem.column, problem.hint) == (
        "stat",
        2,
        2,
        "did you mean 'state'?",
    )


@pytest.mark.parametrize("source", ["{{ state.rounds }}", "${env:X}", "{% if state %}"])
def test_braces_around_an_expression_are_refused_with_the_way_to_write_it(source):
    [problem] = expression.check(source, names=frozenset(VALUES))
    assert "without braces" in (problem.hint or "")


@pytest.mark.parametrize(
    "source",
    [
        "state.items()",
        "2 ** 3",
        "range(3)",
        "+1",
        "state",
        "a b",
        "",
        "loop.index",
        "state is nothing",
        "1 +",
        "'",
    ],
)
def test_what_is_no_expression_is_an_error(source):
    assert expression.check(source, names=frozenset({"a"}))


def test_a_name_without_a_value_is_an_error_that_names_it():
    with pytest.raises(DefinitionError, match="'nobody' is undefined"):
        expression.evaluate("nobody", {})


def test_division_by_zero_is_a_typed_error():
    with pytest.raises(DefinitionError):
        expression.evaluate("1 // 0", {})


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_a_value_comes_out_as_it_went_in(value):
    assert json.dumps(expression.evaluate("a", {"a": value})) == json.dumps(value)
    assert json.dumps(expression.evaluate("[a, {'k': a}]", {"a": value})) == json.dumps([value, {"k": value}])


PIECES = st.sampled_from(
    [
        "a",
        "b",
        "m",
        "xs",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        ":",
        "|",
        "~",
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "**",
        "==",
        "!=",
        "<",
        ">",
        "<=",
        ">=",
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "else",
        "'a'",
        "1",
        "2.5",
        "-1",
        "true",
        "none",
        "default",
        "upper",
        "join",
        "map",
        "sort",
        "int",
        "tojson",
        "list",
        "first",
        "sum",
        "defined",
        "odd",
        "self",
        "loop",
        ".a",
        "['a']",
        "[0]",
        "[1:]",
        "|length",
        "()",
        ".keys()",
    ]
)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(PIECES, max_size=14).map(" ".join), st.dictionaries(st.sampled_from(["a", "b", "m", "xs"]), JSON)
)
def test_whatever_is_written_gives_json_or_a_typed_error(source, values):
    try:
        problems = expression.check(source, names=frozenset(values))
        value = expression.evaluate(source, values)
    except TreadleError:
        return
    assert problems == []
    json.dumps(value, allow_nan=False)


def test_a_word_of_the_grammar_is_no_name():
    assert expression.check("xs or and", names=frozenset({"xs"}))
    with pytest.raises(TreadleError, match="'and' cannot be used here"):
        expression.evaluate("xs or and", {"xs": 1})
