"""Questions of workflows: how they are shown, asked on a terminal, and answered with `treadle runs answer`."""

import getpass
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.store.check import check

Launch = Callable[..., Any]
Captured = pytest.CaptureFixture[str]
ME = getpass.getuser()
PROJECT = """\
version: 1.0.0
kind: project
python: {allow_modules: [flow_steps]}
"""

STEPS = '''\
async def work(ctx, n: int) -> int:
    """Call a tool and ask a person."""
    found = await ctx.call("twice", n=n)
    said = await ctx.ask("Is it enough?")
    return found if said.value else 0


def twice(n: int) -> int:
    """Double it."""
    return 2 * n


def delete_backups(older_than_days: int) -> str:
    """Delete backups.

    Args:
        older_than_days: How old they are, in days.
    """
    return "deleted"
'''

CONSENT = """\
version: 1.0.0
kind: workflow
name: consent
inputs: {text: string}
start: ask
nodes:
  ask:
    type: human
    kind: approval
    ask: |
      Publish this?

      {{ inputs.text }}
    assignees: [editor]
    next:
      - when: result.decision == 'approve'
        to: say
      - to: stop
  say: {type: message, text: 'Published.', next: end}
  stop: {type: fail, error: refused, message: 'No: {{ result_of.ask.comment }}'}
outputs: {by: result_of.ask.by}
"""

SEVERAL = """\
version: 1.0.0
kind: workflow
name: several
start: all
nodes:
  all: {type: parallel, branches: [pick, form, change], join: over}
  pick: {type: human, kind: choice, ask: Which way?, choices: [left, right], next: over}
  form:
    type: human
    kind: input
    ask: Who is it?
    form:
      type: object
      properties: {name: {type: string}, age: {type: integer}, tags: {type: array, items: {type: string}}}
      required: [name]
    next: over
  change: {type: human, kind: edit, ask: Better words?, value: Hello, next: over}
  over: {type: end}
outputs: {way: result_of.pick.choice, who: result_of.form.value, text: result_of.change.value}
"""

CALLS = """\
version: 1.0.0
kind: workflow
name: calls
start: work
tools: [{type: function, name: twice, call: 'flow_steps:twice', approval: never}]
nodes:
  work: {type: code, call: 'flow_steps:work', with: {n: 4}, next: end}
outputs: {n: result_of.work}
"""

ITEMS = """\
version: 1.0.0
kind: workflow
name: items
start: each
nodes:
  each: {type: map, over: '[1, 2]', workflow: ./consent.workflow.yaml, with: {text: 'Number {{ item }}'}, next: end}
"""

AGENTS = """\
version: 1.0.0
kind: workflow
name: cleaning
agents: {ops: ./ops.agent.yaml, labels: ./labels.agent.yaml}
start: both
nodes:
  both:
    type: map
    over: '[1, 2]'
    node: {type: agent, agent: ops, thread: new, message: delete backups older than 90 days}
    next: label
  label: {type: agent, agent: labels, message: 'Pick the label format for carrier "DHL"', next: end}
"""

OPS = """\
version: 1.0.0
kind: agent
name: ops
model: offline
tools:
  - {type: function, name: delete_backups, call: "flow_steps:delete_backups", approval: always}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels_agent: str) -> Path:
    """Make a project whose workflows ask people, and go there."""
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "flow_steps.py").write_text(STEPS)
    (tmp_path / "ops.agent.yaml").write_text(OPS)
    (tmp_path / "labels.agent.yaml").write_text(labels_agent)
    workflows = {
        "consent": CONSENT, "several": SEVERAL, "calls": CALLS, "items": ITEMS, "cleaning": AGENTS,
    }  # fmt: skip
    for name, text in workflows.items():
        (tmp_path / f"{name}.workflow.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def waiting(capsys: Captured, *arguments: str) -> str:
    """Run a workflow until it waits, and give what was said."""
    assert invoke(["run", *arguments]) == codes.REQUIRES_ACTION
    return capsys.readouterr().err


def shown(capsys: Captured) -> Any:
    """Give the last run as JSON."""
    capsys.readouterr()
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# -- without a terminal ------------------------------------------------------------------------------------------


def test_what_is_asked_is_shown_whole_with_the_command_that_answers(folder: Path, capsys: Captured) -> None:
    said = waiting(capsys, "consent", "First line\nsecond line").splitlines()
    place = said.index("  ◆ ask#1            asks for consent: Publish this?")
    assert said[place + 1 :] == [
        "",
        "    First line",
        "    second line",
        "    for editor",
        "requires_action.  Later:  treadle runs answer @last ask --approve|--reject",
    ]


def test_an_answer_lets_the_run_go_on_and_is_shown_with_who_gave_it(folder: Path, capsys: Captured) -> None:
    waiting(capsys, "consent", "Words")
    assert invoke(["runs", "answer", "@last", "--approve", "--comment", "Fine"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"by": ME}
    assert f"approved by {ME}: Fine · then say" in err
    assert "Published." in err
    assert invoke(["runs", "show", "@last"]) == 0
    assert f"approved by {ME}: Fine · then say" in capsys.readouterr().out
    assert check(Path(".treadle/treadle.db")) == []


def test_a_rejection_takes_its_way_and_its_exit_code(folder: Path, capsys: Captured) -> None:
    waiting(capsys, "consent", "Words")
    answer = ["runs", "answer", "@last", "ask", "--reject", "--comment", "Too long", "--by", "ada"]
    assert invoke(answer) == codes.FAILED
    err = capsys.readouterr().err
    assert "rejected by ada: Too long · then stop" in err
    assert "failed: refused: stop: No: Too long" in err


@pytest.mark.parametrize(
    ("command", "code"),
    [(["approve", "@last", "--yes"], 0), (["approve", "@last", "ask", "--reject", "--reason", "Bad"], 1)],
)
def test_consent_of_a_node_may_be_given_as_that_of_a_call(
    folder: Path, capsys: Captured, command: list[str], code: int
) -> None:
    waiting(capsys, "consent", "Words")
    assert invoke(["runs", *command]) == code


def test_several_questions_are_answered_in_any_order(folder: Path, capsys: Captured) -> None:
    said = waiting(capsys, "several").splitlines()
    assert said[-3:] == [
        "requires_action.  Later:  treadle runs answer @last pick --choice left|right",
        "                   or:  treadle runs answer @last form --value JSON",
        "                   or:  treadle runs answer @last change --value JSON",
    ]
    Path("who.json").write_text('{"name": "Ann", "age": 3}')
    assert invoke(["runs", "answer", "@last", "form", "--value", "@who.json"]) == codes.REQUIRES_ACTION
    assert invoke(["runs", "answer", "@last", "change#1", "--value", "Bye"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    assert invoke(["runs", "answer", "@last", "--choice", "right"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "way": "right",
        "who": {"name": "Ann", "age": 3},
        "text": "Bye",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--choice", "left"], codes.FAILED, "3 questions of run"),
        (["nobody", "--approve"], codes.NOT_FOUND, "open: treadle runs answer run_"),
        (["pick", "--choice", "up"], codes.FAILED, "one of left, right was expected"),
        (["pick", "--approve"], codes.FAILED, "it takes a choice"),
        (["form", "--value", '{"age": 3}'], codes.FAILED, '"name" is a required property'),
        (["form", "--value", "{"], codes.USAGE, "that is not JSON"),
        (["pick", "--approve", "--reject"], codes.USAGE, "exclude each other"),
        (["pick"], codes.USAGE, "nobody can be asked here"),
    ],
)
def test_what_does_not_fit_answers_nothing_and_names_what_is_open(
    folder: Path, capsys: Captured, arguments: list[str], code: int, says: str
) -> None:
    waiting(capsys, "several")
    assert invoke(["runs", "answer", "@last", *arguments]) == code
    assert says in " ".join(capsys.readouterr().err.split())
    assert len(shown(capsys)["required_action"]["answer"]["questions"]) == 3


def test_the_way_to_answer_names_the_project_and_the_store_that_were_given(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    place = ["--project", "..", "--store", "other.db"]
    assert invoke(["run", "several", *place]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    for arguments in (["pick"], []):
        assert invoke(["runs", "answer", "@last", *arguments, *place]) != 0
        said = " ".join(capsys.readouterr().err.split())
        ways = re.findall(r"treadle (runs answer .*?--choice) left\|right([^;]*);", said)
        assert len(ways) == 1
        command = [*ways[0][0].split(), "left", *ways[0][1].split()]
        assert set(place) <= set(command)
    assert invoke(command) == codes.REQUIRES_ACTION


def test_a_question_is_answered_once(folder: Path, capsys: Captured) -> None:
    waiting(capsys, "consent", "Words")
    assert invoke(["runs", "answer", "@last", "--approve"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "answer", "@last", "--approve"]) == codes.FAILED
    assert "no question of it is open" in capsys.readouterr().err


def test_questions_of_one_name_in_several_child_runs_are_answered_there(
    folder: Path, capsys: Captured
) -> None:
    said = waiting(capsys, "items")
    ways = [line.split("treadle ")[1].split() for line in said.splitlines() if " runs answer " in line]
    assert [way[3] for way in ways] == ["ask#1", "ask#1"]
    runs = [way[2] for way in ways]
    assert len(set(runs)) == 2
    assert invoke(["runs", "answer", "@last", "ask", "--approve"]) == codes.FAILED
    assert runs[0] in capsys.readouterr().err
    for run in runs:
        assert invoke(["runs", "answer", run, "--approve"]) in (0, codes.REQUIRES_ACTION)
    assert shown(capsys)["status"] == "completed"


def test_what_a_function_asks_is_answered_at_its_node(folder: Path, capsys: Captured) -> None:
    said = waiting(capsys, "calls")
    assert "● twice" in said
    assert "treadle runs answer @last work --value JSON" in said
    assert invoke(["runs", "show", "@last"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("  ◆ work"))
    assert [line.split()[:2] for line in lines[place : place + 3]] == [
        ["◆", "work"],
        ["●", "twice"],
        ["◆", "pause"],
    ]
    assert invoke(["runs", "answer", "@last", "work", "--value", "true"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 8}
    assert invoke(["graph", "@last"]) == 0
    drawn = [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert drawn == ["● work#1", "├─ ● twice", "└─ ● work#1/1"]


def test_calls_of_agents_within_are_approved_and_submitted_at_the_run(folder: Path, capsys: Captured) -> None:
    said = waiting(capsys, "cleaning")
    assert said.count("◆ delete_backups") == 2
    assert said.splitlines()[-1] == "requires_action.  Later:  treadle runs approve @last"
    assert invoke(["runs", "approve", "@last", "--yes"]) == codes.REQUIRES_ACTION
    said = capsys.readouterr().err
    assert said.count("● delete_backups") == 2
    assert "Later:  treadle runs submit @last --output call_1=…" in said
    assert invoke(["runs", "submit", "@last", "--output", "pick_label_format=A6"]) == 0
    out, err = capsys.readouterr()
    assert out == "DHL: pick label format A6.\n"
    assert "● label" in err
    assert check(Path(".treadle/treadle.db")) == []


# -- on a terminal -----------------------------------------------------------------------------------------------


def test_a_person_is_asked_for_consent_with_a_comment(
    folder: Path, capsys: Captured, on_plain_terminal: Launch
) -> None:
    terminal = on_plain_terminal("run", "consent", "Words")
    terminal.wait_for("approve? [y]es / [n]o, + comment / [l]ater:  ")
    terminal.type("perhaps\n")
    terminal.wait_for("answer y, n or l")
    terminal.type("y well done\n")
    assert terminal.end() == 0
    assert f"approved by {ME}: well done" in terminal.written
    assert shown(capsys)["output"] == {"by": ME}


def test_a_person_fills_in_choices_forms_and_texts(
    folder: Path, capsys: Captured, on_plain_terminal: Launch
) -> None:
    terminal = on_plain_terminal("run", "several")
    terminal.wait_for("choice, by number or text (empty: later):  ")
    terminal.type("3\n")
    terminal.wait_for("answer with 1 to 2")
    terminal.type("2\n")
    terminal.wait_for("name (string, empty: later):  ")
    terminal.type("Ann\n")
    terminal.wait_for("age (integer, may be empty):  ")
    terminal.type("three\n")
    terminal.wait_for("that is not JSON")
    terminal.type("3\n")
    terminal.wait_for("tags (array, may be empty):  ")
    terminal.type("\n")
    terminal.wait_for("value, or @FILE (empty: later):  ")
    terminal.type("\x15Bye\n")
    assert terminal.end() == 0
    assert shown(capsys)["output"] == {"way": "right", "who": {"name": "Ann", "age": 3}, "text": "Bye"}


def test_what_is_left_for_later_is_asked_again_by_the_command(
    folder: Path, capsys: Captured, on_plain_terminal: Launch
) -> None:
    terminal = on_plain_terminal("run", "several")
    for prompt in ("choice, by", "name (string", "value, or @FILE"):
        terminal.wait_for(prompt)
        terminal.type("\x15\n")
    assert terminal.end() == codes.REQUIRES_ACTION
    assert "Later:  treadle runs answer @last pick" in terminal.written
    terminal = on_plain_terminal("runs", "answer", "@last", "pick")
    terminal.wait_for("choice, by number or text (empty: later):  ")
    terminal.type("left\n")
    terminal.wait_for("name (string")
    terminal.type("\n")
    terminal.wait_for("value, or @FILE")
    terminal.type("\x15\n")
    assert terminal.end() == codes.REQUIRES_ACTION
    questions = shown(capsys)["required_action"]["answer"]["questions"]
    assert [question["step"] for question in questions] == ["form#1", "change#1"]


def test_ctrl_c_at_a_question_cancels_the_run(
    folder: Path, capsys: Captured, on_plain_terminal: Launch
) -> None:
    terminal = on_plain_terminal("run", "consent", "Words")
    terminal.wait_for("[l]ater:  ")
    terminal.interrupt("cancelling")
    assert terminal.end() == codes.INTERRUPTED
    assert shown(capsys)["status"] == "cancelled"
