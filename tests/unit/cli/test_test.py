"""`treadle test`: the tests that agents bring along, run without a model, a tool or a person."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]
Write = Callable[..., Path]

PROJECT = """\
version: 1.0.0
kind: project
name: desk
python: {allow_modules: [shop]}
"""

SHOP = '''\
def get_order(order_id: str) -> dict:
    """Look up an order."""
    raise AssertionError("a test never calls the shop")


def refund(order_id: str, amount: float) -> str:
    """Pay back."""
    raise AssertionError("a test never calls the shop")
'''

AGENT = """\
version: 1.0.0
kind: agent
name: desk
model: {id: gpt-that-nobody-has, connection: main}
connections: {main: {type: openai, api_key: '${secret:NOT_THERE}'}}
inputs:
  who: {type: string, default: there}
instructions: Greet {{ who }}.
tools:
  - {type: function, name: get_order, call: 'shop:get_order', effect: pure}
  - {type: function, name: refund, call: 'shop:refund', approval: {when: args.amount > 200, message: 'Pay {{ args.amount }}?'}}
  - type: function
    name: pick_label
    description: Ask the client for its printer.
    parameters: {type: object, properties: {carrier: {type: string}}, required: [carrier]}
tests:
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    """Give what writes the agent with tests; the tests begin in line 17, at column 5."""

    def write(tests: str, *, name: str = "desk.agent.yaml", head: str = AGENT) -> Path:
        path = folder / name
        path.write_text(head + tests)
        return path

    return write


TWO_CALLS = """\
  - name: an order is paid back
    inputs: {who: Ada}
    messages: [{user: 'Order 7 is broken.'}]
    mock:
      model:
        - {call: get_order, arguments: {order_id: '7'}}
        - {call: refund, arguments: {order_id: '7', amount: 35}}
        - text: Done, Ada.
      tools:
        get_order: {returns: {total: 35}}
        refund: {returns: ok}
    expect:
      path: [model_call, get_order, model_call, refund, model_call, append_message]
      tools_called: [get_order, refund]
      never_called: [pick_label]
      text_contains: Ada
      output: Done, Ada.
      assert: ["'Done' in output", steps|length == 6]
      max_steps: 6
"""


def test_a_test_that_holds_passes_with_a_line_of_its_own(write: Write, capsys: Captured) -> None:
    write(TWO_CALLS)
    assert invoke(["test", "desk.agent.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"passed   desk.agent.yaml  an order is paid back  \d+ ms\n1 passed in \d+ ms\n", err)


def test_what_fails_is_told_with_its_place_and_what_was_expected(write: Write, capsys: Captured) -> None:
    write(
        TWO_CALLS.replace("text_contains: Ada", "text_contains: Eve").replace(
            "output: Done, Ada.", "output: No."
        )
    )
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "",
        "FAILED desk.agent.yaml:17:5  an order is paid back",
        "  desk.agent.yaml:33:7  output: it has another value",
        '    expected  "No."',
        '    got       "Done, Ada."',
        "  desk.agent.yaml:32:7  text_contains: the text does not contain it",
        '    expected  "Eve"',
        '    got       "Done, Ada."',
    ]


def test_a_call_without_a_mock_fails_and_the_tool_is_not_called(write: Write, capsys: Captured) -> None:
    write(TWO_CALLS.replace("        get_order: {returns: {total: 35}}\n", ""))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    err = capsys.readouterr().err
    assert (
        'desk.agent.yaml:25:7  mock.tools.get_order: tool get_order was called with {"order_id": "7"},'
        " and mock.tools has no 'get_order'" in err
    )
    assert "a test never calls the shop" not in err


def test_a_model_call_without_a_mock_fails_and_says_what_was_asked(write: Write, capsys: Captured) -> None:
    write(TWO_CALLS.replace("        - text: Done, Ada.\n", ""))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    err = capsys.readouterr().err
    assert "mock.model: model call 3 has no mock: 'gpt-that-nobody-has' was asked" in err
    assert 'the last message is of the tool: "ok"' in err


def test_mocks_that_nobody_asked_for_fail(write: Write, capsys: Captured) -> None:
    write(
        TWO_CALLS.replace(
            "        refund: {returns: ok}\n", "        refund: [{returns: ok}, {returns: ok}]\n"
        ).replace("        - text: Done, Ada.\n", "        - text: Done, Ada.\n        - text: And more.\n")
    )
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    err = capsys.readouterr().err
    assert "desk.agent.yaml:25:11  mock.model[3]: reply 4 was never asked for" in err
    assert "mock.tools.refund[1]: this mock was never used" in err


def test_an_answer_that_is_none_fails_before_anything_runs(write: Write, capsys: Captured) -> None:
    write(TWO_CALLS.replace("{returns: ok}", "ok"))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert "mock.tools.refund: this is a string; an answer is {returns: …}" in capsys.readouterr().err


def test_the_errors_of_tools_and_models_are_as_real_ones(write: Write, capsys: Captured) -> None:
    write("""\
  - name: the tool is slow, and the model says so
    mock:
      model:
        - {call: get_order, arguments: {order_id: '7'}}
        - text: It took too long.
      tools: {get_order: {raises: {type: timeout}}}
    expect: {status: completed, tools_called: [get_order]}
  - name: the endpoint is busy
    mock: {model: [{error: {type: rate_limit, message: come back later}}]}
    expect: {status: failed}
  - name: the endpoint is not expected to be busy
    mock: {model: [{error: {type: rate_limit, message: come back later}}]}
""")
    assert invoke(["test", "desk.agent.yaml"]) == 1
    err = capsys.readouterr().err
    assert err.count("passed   desk") == 2
    assert "got       failed (rate_limit: come back later)" in err


APPROVAL = """\
  - name: a big refund waits for a person
    mock:
      model: [{call: refund, arguments: {order_id: '7', amount: 450}}]
    expect:
      required_action: {type: submit_tool_approval, tool: refund, arguments: {amount: 450}, question: 'Pay 450?'}
      never_called: [refund]
  - name: a person agrees to less
    mock:
      model: [{call: refund, arguments: {order_id: '7', amount: 450}}, {text: Paid.}]
      tools: {refund: {returns: ok}}
      human: {refund: [{decision: approve, arguments: {order_id: '7', amount: 300}}]}
    expect: {tools_called: [refund], text_contains: Paid}
  - name: a person says no
    mock:
      model: [{call: refund, arguments: {order_id: '7', amount: 450}}, {text: Sorry.}]
      human: {refund: {decision: reject, comment: too much}}
    expect: {never_called: [refund], text_matches: ^Sor}
"""


def test_calls_wait_for_a_person_or_are_answered(write: Write, capsys: Captured) -> None:
    write(APPROVAL)
    assert invoke(["test", "desk.agent.yaml"]) == 0
    assert "3 passed" in capsys.readouterr().err


def test_nobody_answers_in_time(write: Write, capsys: Captured) -> None:
    head = AGENT.replace("message: 'Pay {{ args.amount }}?'", "timeout: 3d, on_timeout: reject")
    write(
        """\
  - name: the rule of the tool decides
    mock:
      model: [{call: refund, arguments: {order_id: '7', amount: 450}}, {text: Nobody agreed.}]
      human: {refund: {timeout: true}}
    expect: {never_called: [refund], output: Nobody agreed.}
""",
        head=head,
    )
    assert invoke(["test", "desk.agent.yaml"]) == 0, capsys.readouterr().err


def test_a_person_who_does_not_decide_is_a_mistake_of_the_test(write: Write, capsys: Captured) -> None:
    write(APPROVAL.replace("{decision: reject, comment: too much}", "{comment: too much}"))
    assert invoke(["test", "-q", "desk.agent.yaml", "-k", "says no"]) == 1
    err = capsys.readouterr().err
    assert "mock.human.refund: the answer to an approval says decision: approve, or reject" in err


def test_the_clients_function_waits_or_is_answered(write: Write, capsys: Captured) -> None:
    write("""\
  - name: it waits
    mock: {model: [{call: pick_label, arguments: {carrier: post}}]}
    expect: {required_action: {type: submit_tool_outputs, tool: pick_label, arguments: {carrier: post}}}
  - name: it is answered
    mock:
      model: [{call: pick_label, arguments: {carrier: post}}, {text: As PDF.}]
      tools: {pick_label: {returns: pdf}}
    expect: {tools_called: [pick_label], output: As PDF.}
""")
    assert invoke(["test", "desk.agent.yaml"]) == 0
    assert "2 passed" in capsys.readouterr().err


def test_a_conversation_may_go_before(write: Write, capsys: Captured) -> None:
    write("""\
  - name: only what the run said counts
    messages: [{user: Hi}, {assistant: Hello}, {user: Bye}]
    mock: {model: [{text: See you}]}
    expect: {text_matches: ^See you$}
""")
    assert invoke(["test", "desk.agent.yaml"]) == 0
    assert "1 passed" in capsys.readouterr().err


def test_inputs_that_do_not_fit_fail_the_test(write: Write, capsys: Captured) -> None:
    write("  - {name: nobody, inputs: {whom: Ada}, mock: {model: [{text: Hi}]}}\n")
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert "run: the agent declares no input 'whom' (declared: who)" in capsys.readouterr().err


def test_the_model_that_is_built_in_needs_no_mock(write: Write, capsys: Captured) -> None:
    head = "version: 1.0.0\nkind: agent\nname: desk\nmodel: offline\ninstructions: Say hello.\ntests:\n"
    write("  - {name: it answers, messages: [{user: Hi}], expect: {text_matches: .}}\n", head=head)
    assert invoke(["test", "desk.agent.yaml"]) == 0
    assert "1 passed" in capsys.readouterr().err


def test_a_repeated_test_says_which_run_failed(write: Write, capsys: Captured) -> None:
    write("  - {name: again, repeat: 3, mock: {model: [{text: Hi}]}, expect: {output: Hi}}\n")
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 0
    write("  - {name: again, repeat: 3, mock: {model: [{text: Hi}]}, expect: {output: Ho}}\n")
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert "(run 1 of 3)" in capsys.readouterr().err


SEVERAL = """\
  - {name: first one, tags: [quick], mock: {model: [{text: Hi}]}}
  - {name: second one, tags: [slow, night], mock: {model: [{text: Hi}]}}
  - {name: third, skip: the shop is closed, mock: {model: [{text: Hi}]}}
  - {name: fourth, skip: true}
"""


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["first one", "second one", "third", "fourth"]),
        (["-k", "ONE"], ["first one", "second one"]),
        (["-k", "first", "-k", "third"], ["first one", "third"]),
        (["-k", "desk::first"], ["first one"]),
        (["--tag", "quick", "--tag", "night"], ["first one", "second one"]),
        (["--tag", "night", "-k", "second"], ["second one"]),
    ],
)
def test_tests_are_chosen_by_name_and_tag(
    write: Write, capsys: Captured, options: list[str], names: list[str]
) -> None:
    write(SEVERAL)
    assert invoke(["test", "desk.agent.yaml", "--json", *options]) == 0
    assert [t["test"] for t in json.loads(capsys.readouterr().out)["tests"]] == names


def test_a_test_that_is_left_out_says_why(write: Write, capsys: Captured) -> None:
    write(SEVERAL)
    assert invoke(["test", "desk.agent.yaml"]) == 0
    err = capsys.readouterr().err
    assert "skipped  desk.agent.yaml  third  (the shop is closed)\n" in err
    assert "skipped  desk.agent.yaml  fourth\n" in err
    assert "2 passed, 2 skipped in" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["desk.agent.yaml", "-k", "nothing"], "none of the 4 tests is meant"),
        (["desk.agent.yaml", "--record", "--live"], "--record and --live exclude each other"),
        (["desk.agent.yaml", "--junit", "no/such/folder/j.xml"], "there is no folder"),
        (["bare.agent.yaml"], "there is no test in bare.agent.yaml"),
        (["gone.agent.yaml"], "gone.agent.yaml"),
        ([], "FILES"),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    write: Write, capsys: Captured, arguments: list[str], said: str
) -> None:
    write(SEVERAL)
    bare = "version: 1.0.0\nkind: agent\nname: bare\nmodel: offline\ninstructions: Hi.\n"
    write("", name="bare.agent.yaml", head=bare)
    assert invoke(["test", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_wrong_document_exits_with_3_and_nothing_runs(write: Write, capsys: Captured) -> None:
    write(TWO_CALLS.replace("expect:", "expects:"))
    assert invoke(["test", "desk.agent.yaml"]) == 3
    err = capsys.readouterr().err
    assert "unknown field 'expects'" in err
    assert "desk.agent.yaml:28:5" in err
    assert "passed" not in err


def test_a_folder_and_several_documents_of_one_file(write: Write, folder: Path, capsys: Captured) -> None:
    head = "version: 1.0.0\nkind: agent\nname: {}\nmodel: m\ninstructions: Hi.\ntests:\n"
    one = f"{head.format('a')}  - {{name: t, mock: {{model: [{{text: A}}]}}, expect: {{output: A}}}}\n"
    two = f"{head.format('b')}  - {{name: t, mock: {{model: [{{text: A}}]}}, expect: {{output: B}}}}\n"
    (folder / "sub").mkdir()
    write(f"{one}---\n{two}", name="sub/both.agent.yaml", head="")
    write(TWO_CALLS)
    assert invoke(["test", ".", "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["passed"], found["failed"], found["skipped"]) == (2, 1, 0)
    places = {(t["file"], t["document"]): (t["line"], t["column"]) for t in found["tests"]}
    assert places["sub/both.agent.yaml", "b"] == (15, 5)
    assert "FAILED" not in err


def test_the_json_document_has_every_failure_with_its_place(write: Write, capsys: Captured) -> None:
    write(TWO_CALLS.replace("output: Done, Ada.", "output: No."))
    assert invoke(["test", "desk.agent.yaml", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["tests"]
    assert found["status"] == "failed"
    assert found["failures"] == [
        {
            "what": "output",
            "message": "it has another value",
            "expected": '"No."',
            "got": '"Done, Ada."',
            "line": 33,
            "column": 7,
        }
    ]


def test_junit_holds_whatever_texts_say(write: Write, folder: Path, capsys: Captured) -> None:
    write("""\
  - {name: 'a "quoted" <name> & more', mock: {model: [{text: "x\\x01<&]]>\\ty"}]}, expect: {output: z}}
  - {name: fine, mock: {model: [{text: z}]}, expect: {output: z}}
  - {name: later, skip: not <now>}
""")
    assert invoke(["test", "-q", "desk.agent.yaml", "--junit", "report.xml"]) == 1
    root = ET.fromstring((folder / "report.xml").read_text())
    assert {k: root.get(k) for k in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    failed, fine, later = root.iter("testcase")
    assert (failed.get("name"), failed.get("line")) == ('a "quoted" <name> & more', "17")
    failure = failed.find("failure")
    assert failure is not None
    assert failure.text is not None
    assert failure.text.startswith("desk.agent.yaml:17:")
    assert len(list(fine)) == 0
    skipped = later.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "not <now>"
    assert "\x01" not in capsys.readouterr().err


def test_waits_between_attempts_take_no_time(write: Write, capsys: Captured) -> None:
    head = AGENT.replace(
        "tools:\n", "retry: {max_attempts: 3, initial_delay: 10m, max_delay: 30m, jitter: none}\ntools:\n", 1
    )
    write(
        """\
  - name: the third attempt is answered
    mock: {model: [{error: {type: rate_limit}}, {error: {type: connection}}, {text: Hi}]}
    expect: {output: Hi}
""",
        head=head,
    )
    assert invoke(["test", "desk.agent.yaml"]) == 0
    assert re.search(r"answered  \d+ ms", capsys.readouterr().err)


def test_nothing_is_left_behind(write: Write, folder: Path) -> None:
    write(TWO_CALLS)
    before = {p.name for p in folder.iterdir()} | {"__pycache__"}
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 0
    assert {p.name for p in folder.iterdir()} | {"__pycache__"} == before


def test_the_rules_of_the_project_hold(write: Write, folder: Path, capsys: Captured) -> None:
    (folder / "treadle.yaml").write_text(PROJECT.replace("[shop]", "[other]"))
    write(TWO_CALLS)
    assert invoke(["test", "desk.agent.yaml"]) == 3
    assert "the module 'shop' is not on the project's allow-list" in capsys.readouterr().err
