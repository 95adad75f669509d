"""Arguments are decoded strictly: what is not sound goes back to the model, in words, and is never repaired."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.tools.arguments import MOST_BYTES, ArgumentsError, decode


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ("", {}),
        (" \n", {}),
        (' {"a": 1} ', {"a": 1}),
        (
            '{"a": [1, 2.5, -3e2, true, false, null, "é", {"b": {}}]}',
            {"a": [1, 2.5, -300.0, True, False, None, "é", {"b": {}}]},
        ),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": 9223372036854775807, "b": -9223372036854775808}', {"a": 2**63 - 1, "b": -(2**63)}),
        ('{"a": "[[[[{{{{"}', {"a": "[[[[{{{{"}),
        ('{"a": "\\"[\\\\"}', {"a": '"[\\'}),
        ("{" + '"a": {' * 62 + '"z": 1' + "}" * 63, None),
    ],
)
def test_sound_arguments_are_an_object(text, value):
    assert decode(text) == (json.loads(text) if value is None else value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("null", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ('"x"', "must be a JSON object"),
        ("3", "must be a JSON object"),
        ("true", "must be a JSON object"),
        ("{", "not JSON"),
        ('{"a": 1', "not JSON"),
        ('{"a": 1}}', "not JSON"),
        ('{"a": 1} {"b": 2}', "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("{a: 1}", "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ('{"a": 01}', "not JSON"),
        ('{"a": +1}', "not JSON"),
        ('{"a": .5}', "not JSON"),
        ('{"a": "x\ny"}', "not JSON"),
        ('{"a": "\x01"}', "not JSON"),
        ('{"a": "\\x"}', "not JSON"),
        ("```json\n{}\n```", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("<html>", "not JSON"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": Infinity}', "Infinity is not a JSON number"),
        ('{"a": [-Infinity]}', "-Infinity is not a JSON number"),
        ('{"a": 1e400}', "too large"),
        ('{"a": -1e999}', "too large"),
        ('{"a": 9223372036854775808}', "does not fit 64 bits"),
        ('{"a": -9223372036854775809}', "does not fit 64 bits"),
        ('{"a": 1' + "0" * 5000 + "}", "5001 digits"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"x": {"a": 1, "b": 2, "a": 3}}', "'a' stands twice"),
        ('{"a": 1, "\\u0061": 2}', "'a' stands twice"),
        ('{"a": "\\ud800"}', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        ('{"a": ["\\ude00\\ud83d"]}', "half a character"),
        ('{"a": "\ud800"}', "half a character"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"a": "\\uD800"}', "half a character"),
        ('{"a":' * 65 + "1" + "}" * 65, "deeper than 64"),
        ('{"a":' + "[" * 10_000 + "]" * 10_000 + "}", "deeper than 64"),
        ("[" * 100_000, "deeper than 64"),
        ('{"a": "' + "x" * MOST_BYTES + '"}', "longer than"),
        ('{"a": "' + "é" * (MOST_BYTES // 2) + '"}', "longer than"),
    ],
    ids=range(43),
)
def test_unsound_arguments_are_an_error_in_a_line(text, said):
    with pytest.raises(ArgumentsError, match=said) as failure:
        decode(text)
    assert len(str(failure.value)) < 400
    assert "\n" not in str(failure.value)


def test_an_error_quotes_no_more_than_a_bit_of_what_was_sent():
    for text in (
        '{"' + "k" * 10_000 + '": 1, "' + "k" * 10_000 + '": 2}',
        '{"a": ' + "9" * 299 + "}",
        '{"a": 1e' + "9" * 5000 + "}",
    ):
        with pytest.raises(ArgumentsError) as failure:
            decode(text)
        assert len(str(failure.value)) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.text(alphabet="abcé😀", max_size=5), json_values, max_size=5), st.booleans())
def test_what_json_can_say_is_read_back(value, ascii_only):
    assert decode(json.dumps(value, ensure_ascii=ascii_only)) == value


@settings(deadline=None)
@given(st.text(max_size=200) | st.from_regex(r'[\[\]{}",:0-9eE+\-.tfnul \\]{0,80}', fullmatch=True))
def test_any_text_is_an_object_or_an_error(text):
    try:
        assert isinstance(decode(text), dict)
    except ArgumentsError:
        return
