"""Templates: what they print, what a check finds, and where."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.definition import template
from treadle.errors import DefinitionError, NotFound, TreadleError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def names(*words):
    return frozenset(words)


def test_text_without_a_tag_is_its_own_rendering_to_the_last_newline():
    assert template.render("Use { and } freely.\n", {}) == "Use { and } freely.\n"


def test_text_without_a_tag_does_not_load_jinja():
    code = (
        "import sys; from treadle.definition import template\n"
        "template.render('plain', {}); template.check('plain', names=frozenset()); template.includes('plain')\n"
        "assert 'jinja2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n"])
def test_line_ends_come_out_alike_with_and_without_a_tag(ending):
    assert (
        template.render(f"a{ending}b", {}) == template.render(f"a{ending}{{{{ x }}}}", {"x": "b"}) == "a\nb"
    )


def test_a_template_prints_values_conditions_and_loops():
    source = (
        "Hello {{ name|title }}.{% if vip %} You are a VIP.{% endif %}\n"
        "{% for term in glossary %}{{ loop.index }}. {{ term }}{% if not loop.last %}, {% endif %}{% endfor %}\n"
    )
    values = {"name": "ada lovelace", "vip": True, "glossary": ["runner", "step graph"]}
    assert template.render(source, values) == "Hello Ada Lovelace. You are a VIP.\n1. runner, 2. step graph\n"


def test_the_newline_after_a_closing_tag_stays():
    assert template.render("{% if a %}yes{% endif %}\nnext", {"a": True}) == "yes\nnext"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ m.items }}", "a key"),
        ("{{ m['keys'] }}", "another"),
        ("{% for k, v in m|items %}{{ k }}={{ v }};{% endfor %}", "items=a key;keys=another;"),
        ("{{ m|keys|join(',') }}", "items,keys"),
        ("{{ rows|map(attribute='n')|join('+') }}", "2+1"),
        ("{{ rows|sort(attribute='n')|map(attribute='n')|join }}", "12"),
        ("{{ rows|selectattr('n', 'gt', 1)|map(attribute='n')|list }}", "[2]"),
        ("{{ rows|rejectattr('n', 'gt', 1)|length }}", "1"),
        ("{{ rows|sum(attribute='n') }}", "3"),
        ("{{ rows|max(attribute='n')|tojson }}", '{"n": 2}'),
        ("{{ [3, 1, 2]|sort(reverse=true) }}", "[3, 2, 1]"),
        ("{{ ['a', 'A', 'b']|unique|list }}", "['a', 'b']"),
        ("{{ [1, 1.0, true, '1', none, none]|unique|list }}", "[1, '1', None]"),
        ("{{ ['a', 'b']|map('upper')|join }}", "AB"),
        ("{{ [0, 1, 2]|select('odd')|first }}", "1"),
        ("{{ [0, 1, 2]|reject|list }}", "[0]"),
        ("{{ 'a/b c?'|urlencode }}", "a%2Fb%20c%3F"),
        ("{{ {'q': 'a b', 'n': 1}|urlencode }}", "q=a+b&n=1"),
        ("{{ 'one two three'|truncate(9, leeway=0) }}", "one..."),
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ 'a,b'|split(',')|last }}", "b"),
        ("{{ 'hello world'|capitalize }}", "Hello world"),
        ("{{ '  x '|trim }}", "x"),
        ("{{ 'a-b'|replace('-', '+') }}", "a+b"),
        ("{{ 'x y z'|wordcount }}", "3"),
        ("{{ '12'|int + 1 }}", "13"),
        ("{{ '1.5'|float * 2 }}", "3.0"),
        ("{{ 2.567|round(1) }} {{ 2.1|round(0, 'ceil') }}", "2.6 3.0"),
        ("{{ -3|abs }}", "3"),
        ("{{ (-3)|abs }}", "3"),
        ("{{ {'b': 1, 'a': 2}|dictsort }}", "[['a', 2], ['b', 1]]"),
        ("{{ 'abc'|reverse }}{{ [1, 2]|reverse }}", "cba[2, 1]"),
        ("{{ 'abcd'[1:3] }}{{ [1, 2, 3][::-1] }}{{ 'abc'[-1] }}", "bc[3, 2, 1]c"),
        ("{{ '-' * 3 }}{{ [1] + [2] }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 1 / 2 }}", "---[1, 2]330.5"),
        ("{{ 1 < 2 <= 2 }}{{ 'a' in 'cat' }}{{ 3 not in [1] }}{{ 'items' in m }}", "TrueTrueTrueTrue"),
        ("{{ 'path/x' is startswith('path') and 'a.md' is endswith('.md') }}", "True"),
        ("{{ m.none|default('-') }}{{ none|default('-', true) }}", "--"),
        ("{{ m.nothing is defined }}{{ m.items is defined }}", "FalseTrue"),
        ("{% set total = 1 + 1 %}{{ total }}", "2"),
        ("{% set a, b = [1, 2] %}{{ b }}{{ a }}", "21"),
        ("{% with a = 1 %}{{ a }}{% endwith %}", "1"),
        ("{% for i in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for i in [1, 2, 3] if i is odd %}{{ i }}{% endfor %}", "13"),
        ("{% for i in [1, 2] %}{{ loop.length }}{{ loop.previtem|default('-') }}{% endfor %}", "2-21"),
        ("{% raw %}{{ not me }}{% endraw %}", "{{ not me }}"),
        ("{# a note #}x", "x"),
        ("{{ 'é'|upper }}{{ {'a': 'é'}|tojson }}", 'É{"a": "é"}'),
        ("{{ [1, {'a': none}]|tojson(1) }}", '[\n 1,\n {\n  "a": null\n }\n]'),
        ("{{ 1 if true }}x", "1x"),
        ("{{ 'b'|d('c') ~ 1 ~ none }}", "b1None"),
    ],
)
def test_the_filters_tests_and_operators_do_what_jinja_users_expect(source, expected):
    values = {"m": {"items": "a key", "keys": "another"}, "rows": [{"n": 2}, {"n": 1}]}
    assert template.check(source, names=frozenset(values)) == []
    assert template.render(source, values) == expected


def test_an_undeclared_name_is_found_with_its_place_and_a_suggestion():
    [problem] = template.check("Dear name,\n\nWrite in {{ langage|upper }}.", names=names("language"))
    assert (problem.name, problem.line, problem.column) == ("langage", 3, 13)
    assert problem.hint == "did you mean 'language'?"


def test_every_undeclared_name_is_found_at_once_in_the_order_of_lines():
    found = template.check("{{ a }}{{ b }}\n{% if c %}{{ d.e|default(f) }}{% endif %}", names=names())
    assert [(p.name, p.line, p.column) for p in found] == [
        ("a", 1, 4),
        ("b", 1, 11),
        ("c", 2, 7),
        ("d", 2, 14),
        ("f", 2, 26),
    ]


def test_the_place_is_that_of_the_name_and_not_of_a_key_or_a_filter_of_that_name():
    [problem] = template.check("{{ a.upper|upper ~ upper }}", names=names("a"))
    assert (problem.name, problem.column) == ("upper", 20)


def test_names_that_a_template_sets_itself_are_declared_where_they_are_in_scope():
    fine = "{% set a = 1 %}{{ a }}{% for k, v in m|items %}{{ k ~ v ~ loop.index }}{% endfor %}"
    assert template.check(fine, names=names("m")) == []
    leaked = "{% for k in m %}{% set inner = k %}{% endfor %}\n{{ inner }}{{ k }}{{ loop }}"
    assert [p.name for p in template.check(leaked, names=names("m"))] == ["inner", "k", "loop"]
    assert [p.name for p in template.check("{{ a }}{% set a = 1 %}", names=names())] == ["a"]
    assert [
        p.name for p in template.check("{% with a = b %}{{ a }}{% endwith %}{{ a }}", names=names("b"))
    ] == ["a"]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("{{ env.HOME }}", "declare an input"),
        ("{{ inputs.topic }}", "write topic"),
        ("{{ topic.upper() }}", "write |upper"),
        ("{{ topic.items() }}", "write |items"),
        ("{{ topic|uper }}", "did you mean 'upper'?"),
        ("{{ topic is defind }}", "did you mean 'defined'?"),
        ("{{ topic|attr('x') }}", "write .name"),
        ("{% macro a() %}{% endmacro %}", "include it"),
        ("{% do topic %}", "tags are if, for"),
    ],
)
def test_a_mistake_comes_with_what_to_write_instead(source, hint):
    found = template.check(source, names=names("topic"))
    assert any(hint in (p.hint or "") for p in found), found


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("a\n{{ b", 2, None),
        ("a\n\n{% if %}", 3, None),
        ("x\n{% if a %}\n", 2, None),
        ("x\n{{ a ? b }}", 2, 6),
        ("{{ '" + "x" * 10, 1, 4),
    ],
)
def test_a_syntax_error_has_its_line(source, line, column):
    [problem] = template.check(source, names=names("a", "b"))
    assert (problem.line, problem.column) == (line, column)


def test_wrong_arguments_of_a_filter_are_found_before_it_runs():
    found = template.check(
        "{{ a|truncate(1, 2, 3, 4, 5, 6) }}{{ a|replace('x') }}{{ a|upper(x=1) }}", names=names("a")
    )
    assert len(found) == 3


def test_a_missing_name_and_a_missing_key_are_errors_with_the_line():
    with pytest.raises(DefinitionError) as caught:
        template.render("\n{{ nobody }}", {})
    assert (caught.value.problems[0].line, caught.value.problems[0].code) == (2, "TR117")
    with pytest.raises(DefinitionError, match="no key 'b'"):
        template.render("{{ a.b }}", {"a": {}})


def test_a_template_that_is_not_sound_is_refused_when_it_is_rendered_too():
    with pytest.raises(DefinitionError) as caught:
        template.render("{{ a.b() }}\n{{ a|eval }}", {"a": 1})
    assert [p.line for p in caught.value.problems] == [1, 2]


@pytest.mark.parametrize(
    "value",
    [
        object(),
        (1,),
        {1},
        b"x",
        {1: 2},
        float("nan"),
        float("inf"),
        2**300,
        type,
        len,
        [[object()]],
        {"a": {"b": ()}},
    ],
)
def test_only_json_values_come_in(value):
    with pytest.raises(DefinitionError, match="'a'"):
        template.render("{{ a }}", {"a": value})


def test_a_subclass_of_a_json_type_is_not_a_json_value():
    class Sly(str):
        __slots__ = ()

    with pytest.raises(DefinitionError, match="Sly"):
        template.render("{{ a }}", {"a": Sly("x")})


def test_a_cycle_and_a_deep_value_are_refused():
    ring: list = []
    ring.append(ring)
    with pytest.raises(DefinitionError, match="deeper"):
        template.render("{{ a }}", {"a": ring})


def test_a_value_that_the_template_does_not_read_is_not_looked_at():
    assert template.render("{{ a }}", {"a": 1, "b": object()}) == "1"


def test_user_text_is_data_and_never_a_template():
    assert template.render("{{ a }}", {"a": "{{ b }}{% include 'x' %}"}) == "{{ b }}{% include 'x' %}"


def test_an_include_sees_the_names_around_it_and_is_opened_once():
    opened = []

    def open_text(name):
        opened.append(name)
        return "<{{ who }}{{ i }}>\n"

    source = "{% for i in [1, 2] %}{% include 'shared/tone.md' %}{% endfor %}\nend"
    assert template.render(source, {"who": "Ada"}, include=open_text) == "<Ada1><Ada2>\nend"
    assert opened == ["shared/tone.md"]
    assert template.includes(source) == [("shared/tone.md", 1)]


def test_includes_of_a_template_that_does_not_parse_are_none():
    assert template.includes("{% include 'a' %}{% if %}") == []


def test_texts_that_include_each_other_in_a_ring_are_refused():
    with pytest.raises(DefinitionError, match="ring"):
        template.render("{% include 'a' %}", {}, include=lambda _: "{% include 'a' %}")


def test_many_includes_stop():
    with pytest.raises(DefinitionError, match="more than 256"):
        template.render(
            "{% for i in a %}{% include 'a' %}{% endfor %}", {"a": [1] * 300}, include=lambda _: ""
        )


def test_a_problem_in_an_included_text_names_it():
    with pytest.raises(DefinitionError, match="included 'tone'"):
        template.render("{% include 'tone' %}", {}, include=lambda _: "\n{{ a.b() }}")


def test_an_include_that_is_not_there_passes_on_what_the_opener_says():
    def open_text(name):
        raise NotFound("template", name)

    with pytest.raises(NotFound):
        template.render("{% include 'a' %}", {}, include=open_text)

    def broken(name):
        raise OSError(name)

    with pytest.raises(DefinitionError):
        template.render("{% include 'a' %}", {}, include=broken)


def test_an_include_from_within_an_opener_keeps_its_own_budget():
    def open_text(_):
        return template.render("{{ a }}", {"a": "inner"})

    assert template.render("{% include 'x' %}{{ a }}", {"a": "outer"}, include=open_text) == "innerouter"


def test_plain_text_over_the_limit_is_refused_like_a_rendered_one():
    long = "é" * 200_000
    assert template.check(long, names=names())
    with pytest.raises(DefinitionError):
        template.render(long, {})


PIECES = st.sampled_from(
    [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "if",
        "else",
        "elif",
        "endif",
        "for",
        "in",
        "endfor",
        "set",
        "with",
        "endwith",
        "include",
        "raw",
        "endraw",
        "a",
        "b",
        "m",
        "xs",
        "loop",
        "self",
        "not",
        "and",
        "or",
        "is",
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
        "=",
        "'a'",
        '"b"',
        "1",
        "2.5",
        "true",
        "none",
        "upper",
        "default",
        "join",
        "map",
        "sort",
        "tojson",
        "defined",
        "attribute=",
        "'name'",
        "\\n",
        "\n",
        "-%}",
        "{%-",
        ".items",
        ".__class__",
        "['__class__']",
        "|length",
        "recursive",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PIECES, max_size=24).map(" ".join), st.dictionaries(st.sampled_from(["a", "b", "m", "xs"]), JSON)
)
def test_whatever_is_written_only_typed_errors_come_out(source, values):
    try:
        problems = template.check(source, names=frozenset(values))
        text = template.render(source, values)
    except TreadleError:
        return
    assert isinstance(text, str)
    assert problems == [] or all(p.line >= 1 for p in problems)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_checked_and_rendered_without_a_crash(source):
    for text in (source, "{{" + source + "}}", "{%" + source + "%}"):
        template.check(text, names=frozenset({"a"}))
        try:
            template.render(text, {"a": 1})
        except TreadleError:
            continue


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="{\r"), max_size=200))
def test_text_is_the_same_through_jinja_and_past_it(text):
    assert template.render(text, {}) == template.render(text + "{# #}", {})
