"""The workflow document: what it becomes, and what each mistake in it says, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.definition.load import load, load_text
from treadle.definition.report import render
from treadle.errors import ConfigurationError
from treadle.objects.workflow import AgentNode, FailNode, LoopNode, MapNode, SwitchNode

EXAMPLES = Path(__file__).parents[3] / "examples"
HEAD = """\
version: 1.0.0
kind: workflow
name: w
inputs: {text: string, size: {type: integer, default: 1}}
state: {n: {type: integer, default: 0}, seen: {type: array, items: {type: string}, default: [], reduce: append}}
agents: {writer: asst_1}
start: a
nodes:
"""
"""Eight lines; what follows begins on line 9."""


def flow(*lines, head=HEAD):
    return head + "".join(f"  {line}\n" for line in lines)


def errors(text, **more):
    loaded = load_text(text, **more)
    assert loaded.errors == () or not any(d.name == "w" for d in loaded.documents)
    return loaded.errors


def problem(*lines, head=HEAD, **more):
    """Give the only error of a workflow."""
    found = errors(flow(*lines, head=head), **more)
    assert len(found) == 1, [str(p) for p in found]
    return found[0]


def at(p):
    return p.code, p.line, p.column


def sound(*lines, head=HEAD):
    loaded = load_text(flow(*lines, head=head))
    assert [str(p) for p in loaded.errors] == []
    return loaded.documents[0].workflow


A = "a: {type: set, set: {n: 1}, next: end}"


# -- what it becomes


def test_the_documents_of_the_examples_load_without_a_problem():
    files = sorted(EXAMPLES.glob("1*/*.workflow.yaml"))
    assert len(files) >= 3
    loaded = load(files)
    assert [str(p) for p in loaded.problems] == []
    names = {d.name for d in loaded.workflows}
    assert {"incident-triage", "release-notes", "polish", "publish"} <= names


def test_a_workflow_says_what_it_uses_by_the_words_of_its_nodes():
    loaded = load([EXAMPLES / "11-release-notes" / "release-notes.workflow.yaml"])
    notes, polish = loaded.workflows
    assert {name: d.name for name, d in loaded.uses(notes, "workflow").items()} == {
        "#polish": "polish",
        "./publish.workflow.yaml": "publish",
    }
    assert [d.name for d in loaded.uses(polish, "agent").values()] == ["translator"]
    assert [d.name for d in loaded.documents] == ["translator", "release-notes", "polish"]


def test_a_node_is_a_record_of_its_type():
    spec = sound(
        "a: {type: agent, agent: writer, message: 'Hi {{ inputs.text }}', next: b}",
        "b: {type: fail, error: bad}",
    )
    a, b = spec.nodes.values()
    assert isinstance(a, AgentNode)
    assert (a.agent, a.thread, a.next) == ("writer", "shared", "b")
    assert isinstance(b, FailNode)


def test_cases_keep_the_type_of_their_literals():
    spec = sound(
        "a:",
        "  type: switch",
        "  value: state.n",
        "  cases: {0: end, '1': end, true: end, null: end, red: end, 1.5: end}",
        "  default: end",
    )
    node = spec.nodes["a"]
    assert isinstance(node, SwitchNode)
    assert list(node.cases) == ["0", '"1"', "true", "null", '"red"', "1.5"]


def test_bodies_hold_nodes_again():
    spec = sound(
        "a:",
        "  type: loop",
        "  until: state.n > 2",
        "  max_iterations: 3",
        "  start: b",
        "  nodes:",
        "    b: {type: map, over: '[1]', node: {type: set, set: {seen: '{{ item }}'}}, next: end}",
        "  next: end",
    )
    loop = spec.nodes["a"]
    assert isinstance(loop, LoopNode)
    inner = loop.nodes["b"]
    assert isinstance(inner, MapNode)
    assert inner.node.set == {"seen": "{{ item }}"}


def test_an_included_text_becomes_part_of_the_document(tmp_path):
    (tmp_path / "tone.md").write_text("Be kind.")
    (tmp_path / "w.workflow.yaml").write_text(
        flow("a: {type: message, text: \"{% include 'tone.md' %} {{ state.n }}\", next: end}")
    )
    loaded = load([tmp_path / "w.workflow.yaml"])
    assert loaded.documents[0].workflow.nodes["a"].text == "Be kind. {{ state.n }}"


def test_specs_of_equal_documents_have_one_digest_and_the_order_of_nodes_counts():
    b = "b: {type: fail, error: x}"
    first = "a: {type: set, set: {n: 1}, next: [{when: state.n, to: b}, {to: end}]}"
    assert sound(first, b).digest == sound(first, b).digest
    assert sound(first, b).digest != sound(b, first).digest


def test_a_document_is_asked_for_what_it_is():
    document = load_text(flow(A)).documents[0]
    assert document.workflow.name == "w"
    with pytest.raises(ConfigurationError, match="declares a workflow, not an agent"):
        _ = document.agent


# -- fields


FIELDS = [
    ("a: {type: set, set: {n: 1}}", ("TR101", 9, 3), "missing field 'next' in nodes.a"),
    ("a: {type: setx, set: {n: 1}, next: end}", ("TR103", 9, 13), "'setx' is not a type of node"),
    ("a: {type: http, url: x, next: end}", ("TR302", 9, 13), "known to the format but not built yet"),
    ("a: {tpye: set, set: {n: 1}, next: end}", ("TR104", 9, 7), "unknown field 'tpye'"),
    ("a: 7", ("TR102", 9, 6), "nodes.a must be a mapping"),
    ("a: {type: set, set: {n: 1}, next: end, retry: {}}", ("TR104", 9, 42), "unknown field 'retry'"),
    ("a: {type: switch, value: '1', cases: {}, default: end, next: end}", ("TR104", 9, 58), "'next'"),
    ("a: {type: code, call: nothing, next: end}", ("TR103", 9, 25), "is not the name of a callable"),
    ("a: {type: wait, next: end}", ("TR101", 9, 3), "missing field 'for'"),
    ("a: {type: wait, for: 1s, until: '1', next: end}", ("TR114", 9, 28), "exclude each other"),
    ("a: {type: wait, for: 5, next: end}", ("TR103", 9, 24), "nodes.a.for"),
    ("a: {type: prompt, model: offline, next: end}", ("TR101", 9, 3), "missing field 'prompt'"),
    ("a: {type: map, over: '[]', next: end, workflow: '#x', node: {type: fail, error: x}}", ("TR114", 9, 57), "one body"),
    ("a: {type: map, over: '[]', node: {type: set, set: {seen: x}, next: end}, next: end}", ("TR114", 9, 64), "nothing after"),
    ("a: {type: loop, until: '1', start: b, nodes: {b: {type: fail, error: x}}, next: end}", ("TR101", 9, 3), "max_iterations"),
    ("a: {type: human, kind: choice, ask: Which?, next: end}", ("TR101", 9, 3), "missing field 'choices'"),
    ("a: {type: human, kind: approval, ask: Q, choices: [x], next: end}", ("TR114", 9, 44), "of no use"),
    ("a: {type: human, kind: approval, ask: Q, on_timeout: fail, next: end}", ("TR101", 9, 3), "'timeout'"),
    ("a: {type: set, set: {n: 1}, on_error: [{on: [timeout]}], next: end}", ("TR101", 9, 42), "missing field 'to'"),
    ("a: {type: set, set: {n: 1}, on_error: [{on: [tmeout], to: end}], next: end}", ("TR103", 9, 48), "'tmeout'"),
    ("A: {type: set, set: {n: 1}, next: end}", ("TR226", 9, 3), "cannot be the id of a node"),
    ("end: {type: set, set: {n: 1}, next: end}", ("TR226", 9, 3), "is taken by treadle"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "place", "said"), FIELDS, ids=[line for line, *_ in FIELDS])
def test_a_mistake_in_a_field_is_told_at_its_place(line, place, said):
    found = errors(flow(line))
    hit = [p for p in found if at(p) == place]
    assert hit, [str(p) for p in found]
    assert said in hit[0].message


def test_a_retry_on_a_frame_is_known_and_not_built():
    p = problem(
        "a: {type: map, over: '[]', node: {type: fail, error: x}, retry: {max_attempts: 2}, next: end}"
    )
    assert (p.code, p.hint) == ("TR302", "write it at the nodes within")


def test_a_reference_to_the_environment_stands_in_a_model_alone():
    assert sound("a: {type: prompt, model: '${env:M:offline}', prompt: Hi, next: end}")
    p = problem("a: {type: message, text: 'Hi ${env:NAME}', next: end}")
    assert at(p) == ("TR108", 9, 32)


# -- targets and ways


TARGETS = [
    (["a: {type: set, set: {n: 1}, next: bb}", "b: {type: fail, error: x}"], ("TR223", 9, 37), "did you mean 'b'?"),
    (["a: {type: set, set: {n: 1}, next: start}"], ("TR236", 9, 37), "write 'a'"),
    (["a: {type: parallel, branches: [end, b], join: c}", "b: {type: set, set: {n: 1}, next: c}", "c: {type: fail, error: x}"], ("TR236", 9, 34), "name one of the nodes"),
    (["a: {type: parallel, branches: [b], join: end}", "b: {type: set, set: {n: 1}, next: end}"], ("TR236", 9, 44), "name one of the nodes"),
    ([A, "b: {type: fail, error: x}"], ("TR220", 10, 3), "name it as a next, or remove it"),
    (["a: {type: set, set: {n: 1}, next: b}", "b: {type: set, set: {n: 1}, next: a}"], ("TR221", 9, 3), None),
    (["a: {type: set, set: {n: 1}, next: [{when: state.n, to: end}]}"], ("TR232", 9, 39), "add a last item: {to: …} without when"),
    (["a: {type: set, set: {n: 1}, next: [{to: end}, {to: end}]}"], ("TR232", 9, 38), "add when, or move it to the end"),
    (["a: {type: set, set: {n: 1}, next: []}"], ("TR232", 9, 37), None),
    (["a: {type: set, set: {n: 1}, next: [{when: state.n, to: end}, {when: state.n, to: end}, {to: end}]}"], ("TR232", 9, 71), "remove one of them"),
    (["a: {type: set, set: {n: 1}, on_error: [{to: end}, {on: [timeout], to: end}], next: end}"], ("TR232", 9, 42), "move it to the end"),
    (["a: {type: human, kind: approval, ask: Q, timeout: 1h, on_timeout: rejct, next: end}"], ("TR223", 9, 69), "did you mean 'reject'?"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "place", "hint"), TARGETS, ids=[lines[0] for lines, *_ in TARGETS])
def test_a_way_that_leads_nowhere_is_told_at_its_place(lines, place, hint):
    found = errors(flow(*lines))
    hit = [p for p in found if at(p) == place]
    assert hit, [str(p) for p in found]
    assert hit[0].hint == hint


def test_the_start_must_be_a_node():
    assert at(problem(A, head=HEAD.replace("start: a", "start: aa"))) == ("TR223", 7, 8)
    assert at(problem(A, head=HEAD.replace("start: a", "start: end"))) == ("TR236", 7, 8)


LOOP = "a: {type: loop, until: state.n > 2, max_iterations: 3, start: b, nodes: {%s}, next: end}"


def test_no_way_leads_into_a_body_or_out_of_it():
    p = problem(LOOP % "b: {type: set, set: {n: 1}, next: c}", "c: {type: fail, error: x}")
    assert p.code == "TR223"
    assert "another body" in p.hint


def test_a_node_that_ends_the_run_cannot_stand_in_a_body():
    assert problem(LOOP % "b: {type: end}").code == "TR236"


def test_a_body_has_nodes():
    assert problem(LOOP % "").code == "TR223"
    assert problem("a: {type: map, over: '[1]', start: b, nodes: {}, next: end}").code == "TR223"


def test_a_node_of_a_body_has_an_id_of_its_own():
    assert problem(LOOP % "b: {type: set, set: {n: 1}, next: a}, a: {type: fail, error: x}").code == "TR224"


# -- branches


def branches(left, right, *more, parallel="a: {type: parallel, branches: [b, c], join: d}"):
    return [parallel, left, right, "d: {type: set, set: {n: 1}, next: end}", *more]


CODE = "{type: code, call: 'm:f', next: %s}"


def test_branches_that_meet_are_sound():
    sound(*branches(f"b: {CODE % 'd'}", f"c: {CODE % 'd'}"))


BRANCHES = [
    (branches(f"b: {CODE % 'end'}", f"c: {CODE % 'd'}"), ("TR233", 9, 34), "the branch 'b' never reaches the join 'd'"),
    (branches(f"b: {CODE % 'd'}", "c: {type: set, set: {n: 1}, next: [{when: state.n, to: end}, {to: d}]}"), ("TR233", 11, 58), "the branch 'c' ends here instead of reaching 'd'"),
    (branches(f"b: {CODE % 'e'}", f"c: {CODE % 'e'}", f"e: {CODE % 'd'}"), ("TR233", 13, 3), "'e' lies on two branches of 'a': b and c"),
    (branches(f"b: {CODE % 'd'}", f"c: {CODE % 'd'}", parallel="a: {type: parallel, branches: [b, c, b], join: d}"), ("TR233", 9, 40), "'b' is named twice"),
    (branches(f"b: {CODE % 'd'}", f"c: {CODE % 'd'}", parallel="a: {type: parallel, branches: [b, c], join: d, wait_for: 3}"), ("TR233", 9, 60), "wait_for is 3, and there are 2 branches"),
    (branches(f"b: {CODE % 'a'}", f"c: {CODE % 'd'}"), ("TR233", 9, 34), "the branch 'b' leads back to 'a' before it reaches 'd'"),
    (branches("b: {type: set, set: {n: 1}, next: d}", "c: {type: set, set: {n: 2}, next: d}"), ("TR234", 11, 24), "the branches 'b' and 'c' of 'a' both write state.n"),
    (branches("b: {type: message, text: x, next: d}", "c: {type: message, text: y, next: d}"), ("TR235", 11, 3), "the branches 'b' and 'c' of 'a' both append to the thread of the run"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "place", "said"), BRANCHES, ids=[said for *_, said in BRANCHES])
def test_branches_that_do_not_hold_together_are_told_at_their_place(lines, place, said):
    found = errors(flow(*lines))
    assert (place, said) in [(at(p), p.message) for p in found], [str(p) for p in found]


def test_a_branch_that_is_entered_from_elsewhere_is_told():
    lines = branches(f"b: {CODE % 'd'}", f"c: {CODE % 'd'}")
    lines.append("s: {type: switch, value: '1', cases: {1: a}, default: c}")
    p = problem(*lines, head=HEAD.replace("start: a", "start: s"))
    assert at(p) == ("TR233", 11, 3)


def test_two_branches_may_write_a_key_whose_writes_join():
    sound(*branches("b: {type: set, set: {seen: x}, next: d}", "c: {type: set, set: {seen: y}, next: d}"))


def test_the_items_of_a_map_write_a_replaced_key_one_by_one_or_not_at_all():
    item = "a: {type: map, over: '[1]', node: {type: set, set: {n: 1}}, %snext: end}"
    assert at(problem(item % "")) == ("TR234", 9, 55)
    sound(item % "max_concurrency: 1, ")


def test_the_items_of_a_map_do_not_append_to_one_thread_at_once():
    item = "a: {type: map, over: '[1]', node: {type: agent, agent: writer, %smessage: x}, next: end}"
    assert problem(item % "").code == "TR235"
    sound(item % "thread: new, ")


# -- names


NAMES = [
    ("{type: message, text: 'Hi {{ state.m }}', next: end}", ("TR210", 9, 35), "'state.m' is not declared"),
    ("{type: message, text: 'Hi {{ inputs.txt }}', next: end}", ("TR210", 9, 35), "'inputs.txt' is not declared"),
    ("{type: message, text: 'Hi {{ text }}', next: end}", ("TR210", 9, 35), "'text' is not declared"),
    ("{type: message, text: 'Hi {{ result }}', next: end}", ("TR210", 9, 35), "'result' is not declared"),
    ("{type: message, text: 'Hi {{ run.name }}', next: end}", ("TR210", 9, 35), "there is no 'run.name'"),
    ("{type: message, text: 'Hi {{ error.code }}', next: end}", ("TR210", 9, 35), "no error leads here on every way"),
    ("{type: message, text: 'Hi {{ result_of.b }}', next: end}", ("TR210", 9, 35), "'result_of.b' is the result of no node here"),
    ("{type: message, text: 'Hi {{ result_of.a.text }}', next: end}", ("TR217", 9, 35), "'a' may not have run when this is read"),
    ("{type: set, set: {m: 1}, next: end}", ("TR210", 9, 24), "'state.m' is not declared"),
    ("{type: set, set: {n: x}, next: end}", ("TR219", 9, 27), "this value does not fit state.n of type integer"),
    ("{type: set, set: {n: 1}, save: {n: \"'x'\"}, next: end}", ("TR219", 9, 41), "this value does not fit state.n of type integer"),
    ("{type: set, set: {seen: 1}, next: end}", ("TR219", 9, 30), "this value does not fit state.seen"),
    ("{type: set, set: {n: 1}, save: {n: result.m}, next: end}", ("TR210", 9, 41), "there is no 'result.m'"),
    ("{type: agent, agent: writer, save: {n: result.txt}, next: end}", ("TR210", 9, 45), "there is no 'result.txt'"),
    ("{type: agent, agent: wrter, next: end}", ("TR216", 9, 27), "there is no agent 'wrter'"),
    ("{type: tool, tool: look, next: end}", ("TR212", 9, 25), "there is no tool 'look'"),
    ("{type: workflow, workflow: other, next: end}", ("TR216", 9, 33), "there is no workflow 'other'"),
    ("{type: workflow, workflow: '#other', next: end}", ("TR216", 9, 33), "this file declares no workflow 'other'"),
    ("{type: workflow, workflow: '#w', next: end}", ("TR237", 9, 33), "this workflow runs itself through '#w'"),
    ("{type: code, call: 'm:f', retry: {max_attempts: 2}, next: end}", ("TR239", 9, 32), "retry is not possible: the effect of the call is 'once'"),
    ("{type: map, over: '[1]', as: state, node: {type: fail, error: x}, next: end}", ("TR211", 9, 35), "the name 'state' is taken"),
    ("{type: human, kind: choice, ask: Q, choices: [x], timeout: 1h, on_timeout: default, default: y, next: end}", ("TR219", 9, 99), "default is none of what can be answered: x"),
]  # fmt: skip


@pytest.mark.parametrize(("node", "place", "said"), NAMES, ids=[node for node, *_ in NAMES])
def test_a_name_that_is_not_there_is_told_at_its_place(node, place, said):
    found = errors(flow(f"a: {node}"))
    assert (place, said) in [(at(p), p.message) for p in found], [str(p) for p in found]


def test_a_misspelt_name_is_suggested_with_the_line_where_it_is_declared():
    p = problem("a: {type: message, text: 'Hi {{ inputs.txt }}', next: end}")
    assert p.hint == "did you mean 'inputs.text' (line 4)?"
    p = problem("a: {type: message, text: 'Hi {{ text }}', next: end}")
    assert p.hint == "write inputs.text"


READS_B = "c: {type: message, text: '{{ result_of.b.text }}', next: end}"


def test_a_result_is_there_where_every_way_leads_through_its_node():
    b = "b: {type: message, text: x, next: c}"
    sound("a: {type: set, set: {n: 1}, next: b}", b, READS_B)
    p = problem("a: {type: set, set: {n: 1}, next: [{when: state.n, to: b}, {to: c}]}", b, READS_B)
    assert at(p) == ("TR217", 11, 32)


@pytest.mark.parametrize(
    "text",
    [
        "{{ (result_of.b|default({})).text|default('') }}",
        "{% if result_of.b is defined %}{{ result_of.b.text }}{% endif %}",
    ],
)
def test_a_result_that_may_be_missing_is_read_with_care(text):
    sound(
        "a: {type: set, set: {n: 1}, next: [{when: state.n, to: b}, {to: c}]}",
        "b: {type: message, text: x, next: c}",
        f'c: {{type: message, text: "{text}", next: end}}',
    )


def test_the_result_of_a_node_that_failed_is_not_there():
    assert problem(
        "a: {type: set, set: {n: 1}, next: b}",
        "b: {type: message, text: x, next: end, on_error: [{to: c}]}",
        READS_B,
    ).code == "TR217"  # fmt: skip


JOINED = "d: {type: code, call: 'm:f', with: {x: '{{ result_of.b }}'}, next: end}"


@pytest.mark.parametrize(
    ("more", "is_there"), [("", True), (", wait_for: any", False), (", on_branch_error: continue", False)]
)
def test_a_join_finds_what_its_branches_gave_where_it_waits_for_all_of_them(more, is_there):
    parallel = f"a: {{type: parallel, branches: [b, c], join: d{more}}}"
    found = errors(flow(parallel, f"b: {CODE % 'd'}", f"c: {CODE % 'd'}", JOINED))
    assert [p.code for p in found] == ([] if is_there else ["TR217"])


def test_an_error_is_known_where_it_leads():
    fails = "a: {type: code, call: 'm:f', next: end, on_error: [{to: b}]}"
    sound(
        fails,
        "b: {type: message, text: '{{ error.code }}: {{ error.message }} at {{ error.node }}', next: end}",
    )
    assert problem(fails, "b: {type: message, text: '{{ error.reason }}', next: end}").code == "TR210"


def test_the_workflows_own_route_takes_the_errors_that_no_node_takes():
    head = HEAD.replace("start: a", "on_error: {to: b}\nstart: a")
    sound(A, "b: {type: message, text: '{{ error.code }}', next: end}", head=head)
    assert at(problem(A, head=head.replace("to: b", "to: bb"))) == ("TR223", 7, 16)


def test_an_item_and_a_loop_are_known_within():
    sound("a: {type: map, over: '[1]', as: one, collect: '[one, index]', node: {type: code, call: 'm:f', with: {x: '{{ one }}'}}, next: end}")  # fmt: skip
    sound(LOOP % "b: {type: set, set: {n: '{{ loop.iteration }}'}, next: end}")
    assert problem(LOOP % "b: {type: set, set: {n: '{{ loop.round }}'}, next: end}").code == "TR210"
    assert problem("a: {type: set, set: {n: '{{ item }}'}, next: end}").code == "TR210"


def test_until_and_collect_read_the_results_of_the_body():
    sound("a: {type: loop, until: result_of.b.at, max_iterations: 3, start: b, nodes: {b: {type: wait, for: 1s, next: end}}, next: end}")  # fmt: skip
    p = problem("a: {type: loop, until: result_of.b.ta, max_iterations: 3, start: b, nodes: {b: {type: wait, for: 1s, next: end}}, next: end}")  # fmt: skip
    assert (p.code, p.hint) == ("TR210", "known here: at")


def test_a_body_reads_results_from_around_it_and_nobody_reads_into_it():
    sound("a: {type: message, text: x, next: b}", "b: {type: map, over: '[1]', node: {type: code, call: 'm:f', with: {x: '{{ result_of.a.text }}'}}, next: end}")  # fmt: skip
    p = problem((LOOP % "b: {type: wait, for: 1s, next: end}").replace("next: end}", "next: c}", 2).replace("for: 1s, next: c", "for: 1s, next: end"), "c: {type: code, call: 'm:f', with: {x: '{{ result_of.b }}'}, next: end}")  # fmt: skip
    assert p.message == "'result_of.b' is the result of no node here"


def test_outputs_read_what_is_there_at_every_end():
    assert sound(A, head=HEAD.replace("start: a", "outputs: {n: result_of.a.n}\nstart: a"))
    head = HEAD.replace("start: a", "outputs: {n: result_of.b}\nstart: a")
    lines = ["a: {type: set, set: {n: 1}, next: [{when: state.n, to: b}, {to: end}]}", f"b: {CODE % 'end'}"]
    assert at(problem(*lines, head=head)) == ("TR217", 7, 14)


def test_a_closed_schema_says_which_keys_there_are():
    head = HEAD.replace(
        "state: {",
        "state: {o: {type: object, properties: {x: {type: string}}, additionalProperties: false}, ",
    )
    sound("a: {type: message, text: '{{ state.o.x }}', next: end}", head=head)
    p = problem("a: {type: message, text: '{{ state.o.y }}', next: end}", head=head)
    assert p.message == "'state.o.y' is not declared: there is no 'y'"


# -- state


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("{type: string, reduce: sum}", "TR238"),
        ("{type: integer, reduce: append}", "TR238"),
        ("{type: integer, default: x}", "TR103"),
        ("{type: integr}", "TR111"),
        ("{type: integer, reduce: add}", "TR103"),
    ],
)
def test_a_key_of_the_state_says_something_that_holds_together(declared, code):
    head = HEAD.replace("n: {type: integer, default: 0}", f"n: {declared}")
    assert errors(flow("a: {type: fail, error: x}", head=head))[0].code == code


# -- other documents


AGENT = """\
---
version: 1.0.0
kind: agent
name: helper
model: offline
inputs: {topic: string, tone: {type: string, default: kind}}
output: {schema: {type: object, properties: {text: {type: string}}, required: [text], additionalProperties: false}}
"""
OTHER = """\
---
version: 1.0.0
kind: workflow
name: other
inputs: {x: integer}
start: e
nodes: {e: {type: message, text: '{{ inputs.x }}', next: end}}
outputs: {x: inputs.x}
"""


def test_an_agent_of_the_same_file_is_named_by_its_name():
    for name in ("helper", "'#helper'"):
        assert (
            errors(flow(f"a: {{type: agent, agent: {name}, inputs: {{topic: x}}, next: end}}") + AGENT) == ()
        )


GIVEN = [
    ("{type: agent, agent: helper, next: end}", ("TR218", 9, 3), "the agent 'helper' needs the input 'topic'"),
    ("{type: agent, agent: helper, inputs: {topic: x, tpic: y}, next: end}", ("TR218", 9, 54), "the agent 'helper' has no input 'tpic'"),
    ("{type: agent, agent: helper, inputs: {topic: 7}, next: end}", ("TR219", 9, 51), "the value is not what the input 'topic' takes"),
    ("{type: agent, agent: helper, inputs: {topic: x}, save: {n: result.output.txt}, next: end}", ("TR210", 9, 65), "'result.output.txt' is not declared: there is no 'txt'"),
    ("{type: workflow, workflow: other, next: end}", ("TR218", 9, 3), "the workflow 'other' needs the input 'x'"),
    ("{type: workflow, workflow: '#other', with: {x: 1}, save: {n: result.y}, next: end}", ("TR210", 9, 67), "there is no 'result.y'"),
]  # fmt: skip


@pytest.mark.parametrize(("node", "place", "said"), GIVEN, ids=[node for node, *_ in GIVEN])
def test_what_a_node_gives_to_others_and_takes_from_them_fits(node, place, said):
    found = errors(flow(f"a: {node}") + AGENT + OTHER)
    assert [(at(p), p.message) for p in found] == [(place, said)]


def test_two_branches_that_run_a_workflow_on_one_thread_are_told():
    run = "{type: workflow, workflow: other, with: {x: 1}, next: d}"
    found = errors(flow(*branches(f"b: {run}", f"c: {run}")) + OTHER)
    assert [p.code for p in found] == ["TR235"]


def test_workflows_that_run_each_other_are_told():
    text = flow("a: {type: workflow, workflow: '#other', next: end}") + OTHER.replace(
        "inputs: {x: integer}", ""
    ).replace(
        "{type: message, text: '{{ inputs.x }}', next: end}", "{type: workflow, workflow: '#w', next: end}"
    ).replace("outputs: {x: inputs.x}", "")
    found = [p for p in errors(text) if p.code == "TR237"]
    assert len(found) == 2


def test_a_file_that_is_named_is_read_and_its_problems_are_told_in_it(tmp_path):
    (tmp_path / "w.workflow.yaml").write_text(flow("a: {type: agent, agent: ./x.agent.yaml, next: end}"))
    p = load([tmp_path / "w.workflow.yaml"]).errors
    assert [(at(e), Path(e.file).name) for e in p] == [(("TR115", 9, 27), "w.workflow.yaml")]
    (tmp_path / "x.agent.yaml").write_text("version: 1.0.0\nkind: agent\nmodel: offline\ninstructons: Hi\n")
    p = load([tmp_path / "w.workflow.yaml"]).errors
    assert [(at(e), Path(e.file).name) for e in p] == [(("TR104", 4, 1), "x.agent.yaml")]
    (tmp_path / "x.agent.yaml").write_text("version: 1.0.0\nkind: agent\nmodel: offline\ninstructions: Hi\n")
    loaded = load([tmp_path / "w.workflow.yaml"])
    assert loaded.errors == ()
    assert [d.kind for d in loaded.documents] == ["workflow"]
    assert list(loaded.uses(loaded.documents[0], "agent")) == ["./x.agent.yaml"]


def test_a_file_outside_the_project_is_not_read(tmp_path):
    (tmp_path / "x.agent.yaml").write_text("version: 1.0.0\nkind: agent\nmodel: offline\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "w.workflow.yaml").write_text(
        flow("a: {type: agent, agent: ../x.agent.yaml, next: end}")
    )
    p = load([tmp_path / "in" / "w.workflow.yaml"], root=tmp_path / "in").errors
    assert [e.code for e in p] == ["TR115"]
    assert "outside the project" in p[0].message


# -- how it is shown


def test_problems_are_shown_with_their_lines():
    text = flow(
        "a:",
        "  type: agent",
        "  agent: writer",
        "  message: |",
        "    Hello {{ inputs.txt }}",
        "  save: {n: result.output.size}",
        "  next:",
        "    - when: state.m > 2",
        "      to: b",
        "    - to: end",
    )
    loaded = load_text(text, name="w.workflow.yaml")
    assert (
        render(loaded.problems, loaded.sources)
        == """\
w.workflow.yaml:13:16  error TR210  'inputs.txt' is not declared
   13 |       Hello {{ inputs.txt }}
      |                ^^^^^^^^^^ did you mean 'inputs.text' (line 4)?

w.workflow.yaml:16:15  error TR210  'state.m' is not declared
   16 |       - when: state.m > 2
      |               ^^^^^^^ known here: n, seen

w.workflow.yaml:17:13  error TR223  there is no node 'b'
   17 |         to: b
      |             ^ known here: a, end"""
    )
