"""`treadle runs fork` and `treadle runs rerun`: a new run, which of its steps were executed, and exit codes as those of `run`."""

import json
import sys
from pathlib import Path

import pytest

from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]

FLOW = """\
version: 1.0.0
kind: workflow
name: flow
start: a
nodes:
  a: {type: code, call: 'again_steps:say', with: {word: x}, effect: pure, next: b}
  b: {type: code, call: 'again_steps:say', with: {word: '{{ result_of.a }}'}, effect: pure, next: c}
  c: {type: prompt, model: offline, prompt: 'Say {{ result_of.b }}', next: end}
outputs: {b: result_of.b}
"""

STEPS = '''\
def say(word: str) -> str:
    """Say it."""
    with open("said", "a") as said:
        said.write(f"{word}\\n")
    return f"<{word}>"
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with a workflow that has run once, and go there."""
    (tmp_path / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [again_steps]}\n"
    )
    (tmp_path / "again_steps.py").write_text(STEPS)
    (tmp_path / "flow.workflow.yaml").write_text(FLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "again_steps", raising=False)
    assert invoke(["run", "flow"]) == 0
    return tmp_path


def said(folder: Path) -> list[str]:
    return (folder / "said").read_text().split()


def test_a_rerun_says_what_it_executed_and_what_it_kept(folder: Path, capsys: Captured) -> None:
    capsys.readouterr()
    assert invoke(["runs", "rerun", "@last", "--from", "b"]) == 0
    shown = capsys.readouterr().err
    assert "kept      a#1\n" in shown
    assert "executed  b#1, c#1\n" in shown
    assert said(folder) == ["x", "<x>", "<x>"]


def test_a_fork_takes_an_edited_result_and_shows_itself_as_json(folder: Path, capsys: Captured) -> None:
    (folder / "result.json").write_text('"from a file"')
    capsys.readouterr()
    assert invoke(["runs", "fork", "@last", "--at", "b#1", "--edit", "@result.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] == {"b": "from a file"}
    assert told["origin"]["kind"] == "fork"
    assert [(s["path"], (s["kept"] or "").rpartition(" ")[2]) for s in told["steps"]] == [
        ("a#1", "a#1"),
        ("b#1", "edited"),
        ("c#1", ""),
    ]
    assert said(folder) == ["x", "<x>"]


def test_what_is_wrong_on_the_command_line_is_said_and_makes_no_run(folder: Path, capsys: Captured) -> None:
    del folder
    assert invoke(["runs", "fork", "@last", "--at", "nope"]) == 6
    assert "the run has: a#1, b#1, c#1" in capsys.readouterr().err
    assert invoke(["runs", "fork", "@last", "--at", "b", "--edit", "bare words"]) == 2
    assert "a text is written in quotes" in capsys.readouterr().err
    assert invoke(["runs", "fork", "@last", "--at", "b", "--edit"]) == 2
    assert "no editor" in capsys.readouterr().err
    assert invoke(["runs", "rerun", "@last", "--from", "b", "--force", "nope"]) == 6
    assert invoke(["runs", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["data"]) == 1


def test_a_rerun_that_fails_has_the_exit_code_of_a_run_that_does(folder: Path) -> None:
    (folder / "flow.workflow.yaml").unlink()
    assert invoke(["runs", "fork", "@last", "--at", "a", "--edit", "{}"]) == 1
