"""Whatever the text, loading gives an answer: documents or problems, never an exception."""

import json
import random

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from treadle.definition.composer import compose
from treadle.definition.document import Source
from treadle.definition.load import load_text
from treadle.definition.report import render

GOOD = (
    """\
version: 1.0.0
kind: agent
name: a
model: {id: '${env:M:x}', connection: c, options: {temperature: 0.2, stop: [a, b]}}
inputs:
  who: string
  n: {type: integer, default: 3}
instructions: |
  Hi {{ who }}, {% if n > 2 %}many{% endif %}.
output: {schema: {type: object, properties: {a: {type: string, enum: [x]}}, required: [a]}}
tools:
  - {type: function, name: f, call: 'm.n:f', effect: pure, retry: {max_attempts: 2, on: [timeout]}}
  - type: function
    name: g
    parameters: &p {type: object, properties: {q: {type: [string, 'null']}}}
    approval: {when: args.q == 'x', message: 'Ok {{ args.q }}?'}
limits: {max_steps: 3, timeout: 1m}
approval: {always: [f]}
connections: {c: {base_url: 'http://x', headers: {x-a: '${secret:S}'}}}
tests: [{name: t, messages: [{user: hi}], expect: {assert: ["output.a == 'x'"]}}]
x-free: [1, *p]
""",
    "version: 1.0.0\nkind: project\npython: {allow_modules: [a]}\nmodels: {m: {id: x, price: {input: 1, output: 2}}}\n",
    (
        "version: 1.0.0\nname: v\nmodel: {id: x, options: {top_p: 1}}\ninstructions: y\n"
        "tools:\n  - {type: openapi, id: o, options: {specification: '{}'}}\n  - {type: mcp, server_label: s}\n"
    ),
    (
        "object: assistant\nmodel: x\ntools: [{type: function, function: {name: f, parameters: {type: object}}}]\n"
        "tool_resources: {file_search: {}}\nresponse_format: {type: json_schema, json_schema: {schema: {type: object}}}\n"
    ),
    (
        "kind: prompt\nname: p\nmodel: {id: x, connection: {kind: key, endpoint: e}, options: {topK: 1}}\n"
        "inputSchema: {properties: [{name: a, kind: string, default: b}]}\ntemplate: {format: jinja2}\ninstructions: '{{ a }}'\n"
        "tools: {f: {kind: function, parameters: {properties: {a: {kind: string}}}}, b: {kind: bing_search}}\n"
    ),
    """\
version: 1.0.0
kind: workflow
name: w
inputs: {who: string, many: {type: array, items: {type: string}, default: [a]}}
state: {n: {type: integer, default: 0}, seen: {type: array, default: [], reduce: append}}
start: ask
nodes:
  ask: {type: prompt, model: offline, prompt: 'Hi {{ inputs.who }}', save: {seen: result.text}, retry: {max_attempts: 2}, next: go}
  go: {type: switch, value: state.n, cases: {0: both, 1: end}, default: fail_it}
  both: {type: parallel, branches: [one, two], join: each, wait_for: any}
  one: {type: set, set: {seen: '{{ state.n + 1 }}'}, next: each}
  two: {type: wait, for: 1s, next: each}
  each: {type: map, over: inputs.many, as: x, node: {type: set, set: {seen: '{{ x }}'}}, collect: result.seen, next: rounds}
  rounds:
    type: loop
    max_iterations: 3
    until: state.n > 2
    start: more
    nodes: {more: {type: set, set: {n: '{{ state.n + loop.iteration }}'}, next: end}}
    next: [{when: state.n > 5, to: person}, {to: say}]
  person: {type: human, kind: choice, ask: Which?, choices: [a, b], timeout: 1h, on_timeout: say, save: {seen: result.choice}, next: say}
  say: {type: message, text: 'Done {{ result_of.ask.text }}', on_error: [{on: [timeout], to: fail_it}], next: end}
  fail_it: {type: fail, error: no, message: 'At {{ state.n }}'}
outputs: {seen: state.seen}
limits: {max_steps: 99}
tests: [{name: t, inputs: {who: x}, mock: {nodes: {ask: {text: y}}}, expect: {path_contains: [ask]}}]
""",
    (
        "kind: Prompt\nname: p\nmodel: {id: =Env.M}\noutputSchema: {properties: {a: {type: string, required: true}}}\n"
        "tools: [{kind: function, name: f, parameters: [{name: a, kind: array, items: {kind: object, properties: {b: 1}}}]}]\n"
    ),
)


def check(text):
    """Load a text, and hold that each problem has a place inside it."""
    loaded = load_text(text)
    assert loaded.problems or loaded.documents
    for p in loaded.problems:
        assert p.message
        source = loaded.sources.get(p.file)
        if p.line is not None and source is not None:
            assert 1 <= p.line <= len(source.starts)
            assert 1 <= p.column <= len(source.line(p.line)) + 1
            assert p.end_column > p.column
    for format_ in ("text", "json", "github", "sarif"):
        render(loaded.problems, loaded.sources, fmt=format_)
    render(loaded.problems, loaded.sources, color=True)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400))
@example("\ud800")
@example("a: \0")
@example("? ? ?")
@example("{{{{")
@example("'\\")
@example("&a *a")
@example("---\n...\n---\n---")
@example("\r\r\n\n\x85\u2028")
@example("kind: agent\nmodel: &x [*x]")
def test_any_text_is_answered(text):
    check(text)


YAMLISH = st.text(alphabet="ab:- \n[]{},'\"|>&*!%#?x1{}$~<=\t", max_size=120)


@settings(max_examples=300, deadline=None)
@given(YAMLISH)
def test_text_that_looks_like_yaml_is_answered(text):
    check(text)


@settings(max_examples=200, deadline=None)
@given(YAMLISH)
def test_both_loaders_agree_on_what_is_sound(text):
    fast, slow = (compose(Source("t", text), loader=loader) for loader in (yaml.CSafeLoader, yaml.SafeLoader))
    if not fast[1] and not slow[1]:
        assert [t.data for t in fast[0]] == [t.data for t in slow[0]]


def test_the_good_documents_are_good():
    for text in GOOD:
        assert [str(p) for p in load_text(text).errors] == []


SNIPPETS = (
    "\n",
    " ",
    ":",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "'",
    '"',
    "{{ x }}",
    "*p",
    "&q ",
    "!t ",
    "null",
    "12",
    "${env:X}",
    "=f",
    "x-a: 1\n",
    "|\n",
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(GOOD), st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_good_document_with_text_put_in_or_cut_out_is_answered(text, rng: random.Random, times):
    for _ in range(times):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(SNIPPETS) + text[at + rng.choice((0, 0, 1, 3, 12)) :]
    check(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(["function", "string", "agent"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        yield from paths(inside, (*path, key))


@pytest.mark.parametrize("text", GOOD)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_good_document_with_any_value_replaced_is_answered(text, data):
    whole = compose(Source("t", text))[0][0].data
    path = data.draw(st.sampled_from([p for p in paths(whole) if p]))
    copy = json.loads(json.dumps(whole))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = data.draw(VALUES)
    check(json.dumps(copy, ensure_ascii=False))


@pytest.mark.parametrize("text", GOOD[:1])
def test_every_key_doubled_is_an_error_at_the_second_one(text):
    lines = text.splitlines(keepends=True)
    for n, line in enumerate(lines):
        key = line.partition(":")[0]
        if line.startswith((" ", "-")) or not line.endswith("\n") or line.rstrip().endswith((":", "|")):
            continue
        doubled = "".join(lines[: n + 1]) + line + "".join(lines[n + 1 :])
        found = [(p.code, p.line, p.column, p.end_column) for p in load_text(doubled).errors]
        assert ("TR004", n + 2, 1, len(key) + 1) in found
