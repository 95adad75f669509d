"""`treadle test` of workflows: nodes, tools and people are what the test says, and time takes none."""

import re
from pathlib import Path

import pytest

from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]

PROJECT = "version: 1.0.0\nkind: project\nname: desk\npython: {allow_modules: [work, nowhere]}\n"

WORK = '''\
from treadle import Ctx


def double(n: int) -> int:
    """Double a number."""
    return n * 2


def spend(ctx: Ctx, item: str) -> str:
    """Buy, if somebody agrees."""
    if ctx.ask(f"Buy {item}?", kind="approval").result().decision != "approve":
        return ctx.model("gpt-nowhere", "Say why not.").result()
    return ctx.call("mail", to=item).result()


def mail(to: str) -> str:
    """Send a mail."""
    raise AssertionError("a test never sends anything")
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def run(body: str, *options: str, before: str = "") -> int:
    """Test a workflow of this body."""
    head = "version: 1.0.0\nkind: workflow\nname: flow\n"
    Path("flow.workflow.yaml").write_text(before + head + body)
    return invoke(["test", "flow.workflow.yaml", *options])


STRAIGHT = """\
inputs: {n: integer}
state: {seen: {type: array, default: [], reduce: append}, total: {type: integer, default: 0}}
start: first
nodes:
  first: {type: code, call: 'work:double', with: {n: '{{ inputs.n }}'}, effect: pure, save: {total: result}, next: second}
  second: {type: tool, tool: mail, with: {to: Ada}, save: {seen: result}, next: end}
tools: [{type: function, name: mail, call: 'work:mail'}]
outputs: {total: state.total}
tests:
"""


def test_pure_functions_run_and_everything_else_is_mocked(capsys: Captured) -> None:
    code = run(f"""{STRAIGHT}
  - name: it is doubled and mailed
    inputs: {{n: 4}}
    mock: {{tools: {{mail: {{returns: sent}}}}}}
    expect:
      path: [first, second]
      output: {{total: 8}}
      tools_called: [mail]
      assert: ["state.seen == ['sent']", "steps[0].node == 'first'"]
""")
    assert code == 0, capsys.readouterr().err


def test_a_tool_without_a_mock_fails_and_is_not_called(capsys: Captured) -> None:
    assert run(f"{STRAIGHT}  - {{name: t, inputs: {{n: 4}}}}\n", "-q") == 1
    err = capsys.readouterr().err
    assert """mock.tools.mail: tool mail was called with {"to": "Ada"}, and mock.tools has no 'mail'""" in err
    assert "never sends" not in err


def test_a_function_that_is_not_pure_needs_a_mock(capsys: Captured) -> None:
    body = STRAIGHT.replace(", effect: pure", "")
    mail = "tools: {mail: {returns: sent}}"
    assert run(f"{body}  - {{name: t, inputs: {{n: 4}}, mock: {{{mail}}}}}\n", "-q") == 1
    err = capsys.readouterr().err
    assert (
        "mock.nodes.first: node first was entered, whose function is not pure, and mock.nodes has no" in err
    )
    mocked = f"{mail}, nodes: {{first: 5}}"
    assert (
        run(
            f"{body}  - {{name: t, inputs: {{n: 4}}, mock: {{{mocked}}}, expect: {{output: {{total: 5}}}}}}\n"
        )
        == 0
    )


def test_the_function_of_a_mocked_node_need_not_be_there(capsys: Captured) -> None:
    body = STRAIGHT.replace("work:double", "nowhere:double")
    mock = "{tools: {mail: {returns: sent}}, nodes: {first: {returns: 5}}}"
    assert run(f"{body}  - {{name: t, inputs: {{n: 4}}, mock: {mock}}}\n") == 0, capsys.readouterr().err


def test_a_test_may_begin_with_another_state(capsys: Captured) -> None:
    body = STRAIGHT.replace("save: {total: result}, ", "")
    mock = "mock: {tools: {mail: {returns: sent}}}"
    assert (
        run(
            f"{body}  - {{name: t, inputs: {{n: 1}}, state: {{total: 9}}, {mock}, expect: {{output: {{total: 9}}}}}}\n"
        )
        == 0
    ), capsys.readouterr().err
    assert run(f"{body}  - {{name: t, inputs: {{n: 1}}, state: {{sum: 9}}, {mock}}}\n", "-q") == 1
    assert "the workflow declares no state 'sum' (declared: seen, total)" in capsys.readouterr().err


AGENT = "version: 1.0.0\nkind: agent\nname: writer\nmodel: gpt-nowhere\ninstructions: Write.\n---\n"

LOOP = """\
state: {text: {type: string, default: ''}, rounds: {type: integer, default: 0}}
start: refine
nodes:
  refine:
    type: loop
    max_iterations: 3
    until: state.text == 'good'
    start: draft
    nodes:
      draft: {type: agent, agent: writer, thread: new, message: Go, save: {text: result.text}, next: end}
    on_exhausted: continue
    next: end
outputs: {text: state.text}
tests:
"""


def test_the_model_of_a_child_run_is_mocked_too(capsys: Captured) -> None:
    code = run(
        f"""{LOOP}
  - name: twice
    mock: {{model: [{{text: bad}}, {{text: good}}]}}
    expect: {{path: [draft, refine/draft, refine], output: {{text: good}}}}
  - name: the rounds are used up
    mock: {{nodes: {{refine/draft: {{text: bad}}}}}}
    expect: {{path: [draft, draft, draft, refine], output: {{text: bad}}}}
  - name: the loop itself is mocked
    mock: {{nodes: {{refine: {{iterations: 1, exhausted: false}}}}}}
    expect: {{path: [refine]}}
""",
        before=AGENT,
    )
    assert code == 0, capsys.readouterr().err


def test_answers_of_a_node_are_used_up_one_for_each_visit(capsys: Captured) -> None:
    tests = "  - {name: t, mock: {nodes: {draft: [{text: bad}, {text: bad}]}}}\n"
    assert run(LOOP + tests, "-q", before=AGENT) == 1
    err = capsys.readouterr().err
    assert (
        "mock.nodes.draft: node refine/draft was entered (refine#1[3]/draft#1), and its answers are used up"
        in err
    )
    tests = "  - {name: t, mock: {nodes: {draft: [{text: good}, {text: bad}]}}}\n"
    assert run(LOOP + tests, "-q", before=AGENT) == 1
    assert "mock.nodes.draft[1]: this mock was never used" in capsys.readouterr().err


def test_a_model_that_nobody_mocked_fails_the_test(capsys: Captured) -> None:
    assert run(f"{LOOP}  - {{name: t}}\n", "-q", before=AGENT) == 1
    assert "mock.model: model call 1 has no mock: 'gpt-nowhere' was asked" in capsys.readouterr().err


ASKING = """\
state: {how: {type: string, default: ''}}
start: approve
nodes:
  approve:
    type: human
    kind: approval
    ask: Publish?
    timeout: 2d
    on_timeout: reject
    next: [{when: result.decision == 'approve', to: pick}, {to: give_up}]
  pick: {type: human, kind: choice, ask: How?, choices: [mail, post], save: {how: result.choice}, next: pause}
  pause: {type: wait, for: 30d, next: end}
  give_up: {type: fail, error: not_approved, message: 'Nobody wanted it.'}
outputs: {how: state.how}
tests:
"""


def test_people_are_answered_and_timers_take_no_time(capsys: Captured) -> None:
    code = run(f"""{ASKING}
  - name: all is answered
    mock: {{human: {{approve: {{decision: approve}}, pick: [{{choice: post}}]}}}}
    expect: {{path: [approve, pick, pause], output: {{how: post}}}}
  - name: somebody says no
    mock: {{human: {{approve: {{decision: reject, comment: too long}}}}}}
    expect: {{status: failed, path_contains: [approve, give_up]}}
  - name: nobody answers in time
    mock: {{human: {{approve: {{timeout: true}}}}}}
    expect: {{status: failed, path: [approve, give_up]}}
  - name: it waits
    mock: {{human: {{approve: {{decision: approve}}}}}}
    expect: {{required_action: {{type: submit_answer, node: pick, kind: choice, choices: [mail, post], ask: 'How?'}}}}
""")
    err = capsys.readouterr().err
    assert code == 0, err
    assert re.search(r"4 passed in (\d+ ms|\d\.\d s)", err)


def test_an_answer_that_does_not_fit_the_question_is_told(capsys: Captured) -> None:
    tests = "  - {name: t, mock: {human: {approve: {decision: approve}, pick: {choice: pigeon}}}}\n"
    assert run(ASKING + tests, "-q") == 1
    assert "mock.human.pick: 'pigeon' is none of the choices: one of mail, post" in capsys.readouterr().err
    tests = "  - {name: t, mock: {human: {approve: {decision: approve}, pick: {timeout: true}}}}\n"
    assert run(ASKING + tests, "-q") == 1
    assert "mock.human.pick: nothing happens when nobody answers" in capsys.readouterr().err


BRANCHES = """\
state: {found: {type: array, default: [], reduce: append}}
start: gather
nodes:
  gather: {type: parallel, branches: [left, right], join: join, on_branch_error: continue}
  left: {type: tool, tool: look, with: {at: left}, save: {found: result}, next: join}
  right: {type: human, kind: input, ask: What?, form: {type: object, properties: {said: {type: string}}, required: [said]}, timeout: 1h, save: {found: result.value.said}, next: join}
  join: {type: set, set: {found: joined}, next: each}
  each: {type: map, over: state.found, as: it, node: {type: tool, tool: look, with: {at: '{{ it }}'}}, next: end}
tools: [{type: function, name: look, call: 'work:mail', parameters: {type: object, properties: {at: {type: string}}}}]
outputs: {found: state.found}
tests:
"""


def test_frames_stand_on_the_path_where_they_close(capsys: Captured) -> None:
    code = run(f"""{BRANCHES}
  - name: a single answer of a tool stands for all calls
    mock:
      tools: {{look: {{returns: seen}}}}
      human: {{right: {{value: {{said: told}}}}}}
    expect:
      path_contains: [left, right, gather, join, each]
      output: {{found: [seen, told, joined]}}
      tools_called: [look, look, look, look]
      assert: ["state.found|length == 3"]
  - name: a branch that fails does not stand in the way
    mock:
      tools: {{look: [{{raises: timeout}}, {{returns: a}}, {{returns: b}}]}}
      human: {{right: {{value: {{said: told}}}}}}
    expect: {{path_contains: [left, right, gather, join, each], output: {{found: [told, joined]}}}}
  - name: the map is mocked
    mock:
      tools: {{look: [{{returns: seen}}]}}
      human: {{right: {{value: {{said: told}}}}}}
      nodes: {{each: {{collected: [1]}}}}
    expect: {{path_contains: [gather, join, each]}}
""")
    assert code == 0, capsys.readouterr().err


def test_what_reaches_nothing_outside_cannot_be_mocked(capsys: Captured) -> None:
    mock = (
        "{tools: {look: {returns: seen}}, human: {right: {value: {said: told}}}, nodes: {join: {found: 1}}}"
    )
    assert run(f"{BRANCHES}  - {{name: t, mock: {mock}}}\n", "-q") == 1
    err = capsys.readouterr().err
    assert "mock.nodes.join: node join is a set: it reaches nothing outside" in err


def test_errors_of_nodes_take_their_routes_and_attempts_are_answered_in_order(capsys: Captured) -> None:
    code = run("""\
state: {text: {type: string, default: ''}}
start: ask
nodes:
  ask:
    type: prompt
    model: gpt-nowhere
    prompt: Hi
    retry: {max_attempts: 2, initial_delay: 1h, on: [rate_limit]}
    on_error: [{on: [rate_limit], to: calm}]
    save: {text: result.text}
    next: end
  calm: {type: set, set: {text: calm}, next: end}
outputs: {text: state.text}
tests:
  - name: the second attempt is answered
    mock: {nodes: {ask: [{raises: rate_limit}, {text: fine}]}}
    expect: {path: [ask], output: {text: fine}}
  - name: both fail
    mock: {nodes: {ask: [{raises: rate_limit}, {raises: {type: rate_limit, message: no}}]}}
    expect: {path: [ask, calm], output: {text: calm}}
  - name: its model is mocked
    mock: {model: [{error: {type: rate_limit}}, {text: fine}]}
    expect: {path: [ask], output: {text: fine}}
""")
    assert code == 0, capsys.readouterr().err


def test_a_sub_workflow_is_walked_with_the_same_mocks(capsys: Captured) -> None:
    inner = """\
version: 1.0.0
kind: workflow
name: inner
inputs: {q: string}
start: ask
nodes:
  ask: {type: human, kind: input, ask: '{{ inputs.q }}', form: {type: object, properties: {said: {type: string}}, required: [said]}, next: say}
  say: {type: tool, tool: mail, with: {to: '{{ result_of.ask.value.said }}'}, next: end}
tools: [{type: function, name: mail, call: 'work:mail'}]
outputs: {sent: result_of.say}
---
"""
    code = run(
        """\
start: call
nodes:
  call: {type: workflow, workflow: '#inner', with: {q: Who?}, thread: new, next: end}
outputs: {sent: result_of.call.sent}
tests:
  - name: what a child asks is answered
    mock: {human: {ask: {value: {said: Ada}}}, tools: {mail: {returns: to Ada}}}
    expect: {path: [call], output: {sent: to Ada}, tools_called: [mail]}
  - name: what a child asks waits
    expect: {required_action: {type: submit_answer, node: ask, ask: 'Who?'}}
""",
        before=inner,
    )
    assert code == 0, capsys.readouterr().err


def test_a_tool_node_that_needs_a_person_is_answered_by_the_nodes_name(capsys: Captured) -> None:
    body = STRAIGHT.replace("call: 'work:mail'}", "call: 'work:mail', approval: always}")
    mock = "{tools: {mail: {returns: sent}}, human: {second: {decision: approve}}}"
    assert (
        run(f"{body}  - {{name: t, inputs: {{n: 4}}, mock: {mock}, expect: {{path: [first, second]}}}}\n")
        == 0
    )
    tests = "  - {name: t, inputs: {n: 4}, mock: {human: {second: {decision: reject}}}, expect: {status: failed, never_called: [mail]}}\n"
    assert run(body + tests) == 0, capsys.readouterr().err


def test_what_a_function_does_through_its_ctx_is_mocked(capsys: Captured) -> None:
    code = run("""\
start: buy
nodes: {buy: {type: code, call: 'work:spend', with: {item: tea}, next: end}}
tools: [{type: function, name: mail, call: 'work:mail'}]
outputs: {bought: result_of.buy}
tests:
  - name: somebody agrees
    mock: {human: {buy: {decision: approve}}, tools: {mail: {returns: sent}}}
    expect: {path: [buy], output: {bought: sent}, tools_called: [mail]}
  - name: nobody does
    mock: {human: {buy: {decision: reject}}, model: [{text: kept}]}
    expect: {output: {bought: kept}, tools_called: []}
""")
    assert code == 0, capsys.readouterr().err


def test_a_mock_of_http_is_never_used(capsys: Captured) -> None:
    mock = "{tools: {mail: {returns: sent}}, http: {deploys: {status: 404}}}"
    assert run(f"{STRAIGHT}  - {{name: t, inputs: {{n: 4}}, mock: {mock}}}\n", "-q") == 1
    err = capsys.readouterr().err
    assert "mock.http.deploys: this mock was never used: no node of this document speaks HTTP" in err


def test_the_tests_of_the_examples_pass(capsys: Captured) -> None:
    examples = Path(__file__).parents[3] / "examples"
    assert invoke(["test", str(examples / "10-incident-triage"), str(examples / "11-release-notes")]) == 0
    assert "5 passed" in capsys.readouterr().err
