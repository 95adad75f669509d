"""What YAML itself may say, and where a problem with it stands."""

import time

import pytest
import yaml

from treadle.definition.composer import compose
from treadle.definition.document import Source
from treadle.definition.load import load_text

HEAD = "version: 1.0.0\nkind: agent\nmodel: offline\n"


def data(text):
    trees, problems = compose(Source("t", text))
    assert problems == []
    return trees[0].data


def found(text):
    """Give code, line and column of every error."""
    return [(p.code, p.line, p.column) for p in load_text(text).errors]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nUll", "nUll"),
        ("012", 12),
        ("-7", -7),
        ("+7", 7),
        ("0o14", 12),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("12:30:45", "12:30:45"),
        ("2026-11-24", "2026-11-24"),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e-3", -0.0015),
        ("1.0.0", "1.0.0"),
        ("=", "="),
        ("'012'", "012"),
        ('"true"', "true"),
        ("0o9", "0o9"),
        ("+.5", 0.5),
        (".", "."),
        ("-", None),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(written, value):
    if written == "-":
        assert data("a:\n  -") == {"a": [None]}
        return
    got = data(f"a: {written}")["a"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "written",
    [
        ".inf",
        "-.Inf",
        ".nan",
        "1e999",
        "9223372036854775808",
        "-9223372036854775809",
        "9" * 5000,
        "0x" + "F" * 500,
        '"a\\0b"',
    ],
)
def test_what_json_and_the_store_cannot_hold_is_refused_at_its_place(written):
    assert found(f"{HEAD}x-a: {written}\n") == [("TR009", 4, 6)]


def test_a_lone_surrogate_is_refused_by_both_loaders():
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        _, problems = compose(Source("t", 'a: "\\ud800"\n'), loader=loader)
        assert [(p.code in ("TR009", "TR002"), p.line) for p in problems] == [(True, 1)]
    assert load_text("a: \ud800").errors[0].code == "TR009"


def test_a_duplicate_key_is_an_error_at_the_second_one():
    problem = load_text(f"{HEAD}name: a\ndescription: b\nname: c\n").errors[0]
    assert (problem.code, problem.line, problem.column, problem.end_column) == ("TR004", 6, 1, 5)
    assert problem.hint == "the first one is on line 4"


def test_a_tag_is_refused():
    assert found(f"{HEAD}name: !!str a\n") == [("TR005", 4, 7)]
    assert found(f"{HEAD}name: !python/object:os.system a\n") == [("TR005", 4, 7)]


def test_a_merge_key_is_refused_with_the_way_out():
    text = f"{HEAD}x-base: &b {{max_steps: 3}}\nlimits:\n  <<: *b\n"
    problem = load_text(text).errors[0]
    assert (problem.code, problem.line, problem.column) == ("TR006", 6, 3)
    assert "alias" in problem.hint


def test_an_alias_stands_for_the_whole_value():
    text = f"{HEAD}inputs:\n  a: &s {{type: string, default: x}}\n  b: *s\n"
    loaded = load_text(text)
    assert loaded.errors == ()
    assert loaded.documents[0].agent.inputs["b"].default == "x"


def test_a_mistake_in_an_anchored_value_is_reported_where_it_is_written():
    text = f"{HEAD}inputs:\n  a: &s\n    type: strng\n  b: *s\n"
    assert set(found(text)) == {("TR111", 6, 11)}


def test_an_alias_without_an_anchor_is_an_error_at_the_alias():
    assert found(f"{HEAD}name: *nobody\n")[0] == ("TR007", 4, 7)


def test_an_alias_inside_its_own_value_is_refused():
    assert ("TR007", 4, 13) in found(f"{HEAD}x-a: &x [1, *x]\n")


@pytest.mark.parametrize(
    ("key", "column"), [("1", 3), ("true", 3), ("~", 3), ("1.5", 3), ("[a]", 3), ("? {a: 1}\n  ", 5)]
)
def test_a_key_that_is_not_text_is_refused(key, column):
    assert found(f"{HEAD}metadata:\n  {key}: x\n") == [("TR008", 5, column)]


def test_keys_under_cases_may_be_numbers():
    assert data("cases:\n  0: a\n  1: b\n") == {"cases": {"0": "a", "1": "b"}}


def test_an_unquoted_template_gets_its_own_message_and_the_line_to_paste():
    problem = load_text(f"{HEAD}description: {{{{ inputs.text }}}}\n").errors[0]
    assert (problem.code, problem.line, problem.column) == ("TR011", 4, 14)
    assert problem.message == "this value starts with '{{' and is not quoted, so YAML reads it as a mapping"
    assert problem.hint == "write: description: '{{ inputs.text }}'"


@pytest.mark.parametrize(
    ("line", "column", "hint"),
    [
        ("description: {{ a }} and more", 14, "write: description: '{{ a }} and more'"),
        ("description: {% if a %}b{% endif %}", 14, "write: description: '{% if a %}b{% endif %}'"),
        ("description: {{ a|default('x') }}", 14, "write: description: \"{{ a|default('x') }}\""),
        ("x-list: [1]\nx-items:\n  - {{ a }}", 5, "write: - '{{ a }}'"),
        ("x-items:\n  - {{ a }} b", 5, "write: - '{{ a }} b'"),
    ],
)
def test_every_form_of_an_unquoted_template_is_seen(line, column, hint):
    problems = [p for p in load_text(HEAD + line + "\n").errors if p.code == "TR011"]
    assert [(p.column, p.hint) for p in problems] == [(column, hint)]


def test_a_tab_as_indent_says_so():
    problem = load_text(f"{HEAD}limits:\n\tmax_steps: 3\n").errors[0]
    assert (problem.code, problem.line, problem.message) == ("TR002", 5, "a tab cannot indent YAML")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1,\nb: 2", None),
        ('a: "x', 1),
        ("a:\n  - b\n c: 1", 3),
        ("a: @x", 1),
        ("a: 'b' c", 1),
        ("a: b: c", 1),
        ('a: "\\q"', 1),
        ("%YAML 3.0\n---\na: 1", 1),
        ("- a\nb: 1", 2),
        ("!foo!bar x", 1),
    ],
)
def test_broken_yaml_is_one_problem_with_a_place(text, line):
    problems = load_text(text).errors
    assert [p.code for p in problems][:1] == ["TR002"]
    assert problems[0].line == (line or problems[0].line)
    assert problems[0].column


def test_a_document_that_breaks_off_does_not_hide_the_others():
    text = f"{HEAD}name: one\n---\nname: [1,\n---\n{HEAD}name: two\nnme: x\n---\n{HEAD}name: three\n"
    loaded = load_text(text)
    assert [(p.code, p.line) for p in loaded.errors] == [("TR002", 7), ("TR104", 12)]
    assert [d.name for d in loaded.documents] == ["one", "three"]


def test_several_documents_are_told_apart_by_name():
    loaded = load_text(f"{HEAD}name: one\n---\n{HEAD}name: two\n")
    assert [(d.name, d.line) for d in loaded.documents] == [("one", 1), ("two", 6)]
    assert loaded.pick("two").name == "two"


def test_an_empty_file_is_an_error():
    for text in ("", "\n\n", "# only a comment\n", "---\n"):
        assert [p.code for p in load_text(text).errors] == ["TR010"]


def test_a_document_that_is_no_mapping_is_an_error():
    for text in ("just text", "- a\n- b\n", "42"):
        assert [p.code for p in load_text(text).errors] == ["TR010"]


def test_a_byte_order_mark_moves_nothing():
    loaded = load_text("\ufeffversion: 1.0.0\nkind: agent\nmodel: offline\nnme: x\n")
    assert [(p.code, p.line, p.column) for p in loaded.errors] == [("TR104", 4, 1)]


def test_lines_are_counted_as_editors_count_them():
    text = "version: 1.0.0\r\nkind: agent\r\nmodel: offline\r\nx-a: 'one\u2028two'\r\nnme: x\r\n"
    assert found(text) == [("TR104", 5, 1)]


ALIAS_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)
DEEP_ALIASES = "a0: &a0 " + "[" * 40 + "]" * 40 + "\na1: " + "[" * 40 + "*a0" + "]" * 40


@pytest.mark.parametrize(
    "text",
    [
        ALIAS_BOMB,
        DEEP_ALIASES,
        "[" * 100_000,
        "{" * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "a: " + "[" * 65 + "]" * 65,
        "x" * (1 << 20) + "y",
        "a: '" + "é" * (1 << 19) + "'",
        "a: &a 1\nb: [" + "*a, " * 1001 + "]",
        "a: [" + "1, " * 100_001 + "]",
        "---\n" * 200_000,
        "- &a b\n" * 120_000,
    ],
    ids=[
        "aliases",
        "deep-aliases",
        "brackets",
        "braces",
        "dashes",
        "keys",
        "65",
        "size",
        "bytes",
        "1001",
        "nodes",
        "docs",
        "anchors",
    ],
)
def test_a_bomb_is_refused_in_under_a_second(text):
    begun = time.process_time()
    codes = [p.code for p in load_text(text).errors]
    assert "TR003" in codes
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("text", ["[" * 100_000, ALIAS_BOMB, DEEP_ALIASES, "? " * 50_000])
def test_the_pure_loader_refuses_the_same_bombs(text):
    begun = time.process_time()
    _, problems = compose(Source("t", text), loader=yaml.SafeLoader)
    assert [p.code for p in problems] == ["TR003"]
    assert time.process_time() - begun < 1


CORPUS = [
    f"{HEAD}name: a\n",
    "a: &x [1, 'two', \"three\", {four: 4}]\nb: *x\nc: &y text\nd: *y\n",
    "a: |\n  one\n   two\n\n  three\nb: >-\n  folded\n  text\nc: |+2\n   x\n\nd: end\n",
    "a:\n- b\n- - c\n  - d\n-\n  e: f\n",
    "# comment\n---\na: 1 # trailing\n...\n---\nb: {c: [d, e,], f: }\n",
    "ключ: значение\n日本: [語, '𝒳', \"\\u263a\"]\nemoji: 😀 # 😀\nlast: x\n",
    "a: 'it''s'\nb: \"line\\\n  continued\"\nc: plain\n  over lines\nd:\n",
    "? complex\n: value\n? [a, b]\n: c\n",
    "a: !!str x\nb: &n !t y\nc: ! z\n",
    "a: {{ x }}\nb: {1: 2, true: 3}\n<<: {a: 1}\n",
    "a: 1\r\nb:\r\n  - 2\r\n  - |\r\n    text\r\n",
    "a: 1\na: 2\n",
    "\n\n  \na: \n  b: \n    c:\n",
    "%YAML 1.2\n---\na: b\n",
    "a: x\u2028y\nb: 'q\u0085r'\nc: d\n",
]


def spread(place):
    yield place.start, place.end, place.style, sorted(place.keys.values())
    for key in place.children:
        yield from spread(place.children[key])


@pytest.mark.parametrize("text", CORPUS)
def test_both_loaders_give_the_same_values_places_and_problems(text):
    fast, slow = (compose(Source("t", text), loader=loader) for loader in (yaml.CSafeLoader, yaml.SafeLoader))
    assert [t.data for t in fast[0]] == [t.data for t in slow[0]]
    assert [list(spread(t.place)) for t in fast[0]] == [list(spread(t.place)) for t in slow[0]]
    assert fast[1] == slow[1]
    assert fast[0] or fast[1]


LONG_ALIASES = f"a: &a '{'x' * 100_000}'\nb: [{', '.join(['*a'] * 900)}]\n"
MISTAKES = {
    "keys": HEAD + "".join(f"k{n}: 1\n" for n in range(30_000)),
    "tools": f"{HEAD}tools:\n" + "- {type: function, nme: 1}\n" * 20_000,
    "schemas": f"{HEAD}inputs:\n" + "".join(f"  k{n}: strng\n" for n in range(30_000)),
    "braces": "model: '" + "{{" * 400_000 + "'\nversion: 1.0.0\nkind: agent\n",
    "dashes": "[\n" + "- " * 400_000,
    "formulas": "kind: Prompt\nmodel: x\nmetadata: [" + "'=f', " * 40_000 + "]",
    "duplicates": HEAD + "name: a\n" * 40_000,
    "names": f"{HEAD}approval: {{always: [" + "x, " * 90_000 + "]}\n",
    "references": f"{HEAD}description: '" + "${env:" * 150_000 + "X}'\n",
    "documents": "a: [\n---\n" * 50_000,
    "choices": f"{HEAD}tools: [{{type: function, name: f, call: 'a:b'}}]\ntool_choice: '"
    + "x" * 900_000
    + "'\n",
}


def test_a_long_text_behind_many_aliases_is_refused():
    begun = time.process_time()
    assert [p.code for p in load_text(LONG_ALIASES).errors] == ["TR003"]
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_a_text_made_of_mistakes_costs_no_more_than_others(text):
    begun = time.process_time()
    problems = load_text(text).problems
    assert 0 < len(problems) <= 250
    assert time.process_time() - begun < 3
