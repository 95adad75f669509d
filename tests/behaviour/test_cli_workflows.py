"""Workflows on the command line: checked and drawn; what runs of a file with agents and workflows."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]
EXAMPLES = Path(__file__).parents[2] / "examples"
NOTES = EXAMPLES / "11-release-notes" / "release-notes.workflow.yaml"

SMALL = """\
version: 1.0.0
kind: workflow
name: small
start: ask
nodes:
  ask: {type: prompt, model: '${env:WORKFLOW_MODEL}', prompt: Hi, next: count}
  count: {type: code, call: 'absent_module:count', next: end}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.workflow.yaml").write_text(SMALL)
    (tmp_path / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [absent_module]}\n"
    )
    return tmp_path


def test_a_folder_stands_for_its_workflows_too(folder: Path, capsys: Captured) -> None:
    (folder / "small.workflow.yaml").write_text(SMALL.replace("next: count", "next: cuont"))
    assert invoke(["validate", "."]) == 3
    out, err = capsys.readouterr()
    assert "small.workflow.yaml:6:73  error TR223" in out
    assert "did you mean 'count'?" in out
    assert "2 files: 1 error" in err


def test_resolve_looks_up_what_the_nodes_of_a_workflow_name(folder: Path, capsys: Captured) -> None:
    assert invoke(["validate", "small.workflow.yaml"]) == 0
    assert invoke(["validate", "small.workflow.yaml", "--resolve"]) == 3
    lines = [line for line in capsys.readouterr().out.splitlines() if "error" in line]
    assert [line.partition("  ")[0] for line in lines] == [
        "small.workflow.yaml:6:31",
        "small.workflow.yaml:7:30",
    ]
    assert all("TR303" in line for line in lines)


@pytest.mark.parametrize(
    ("form", "begins"), [("text", "START"), ("mermaid", "flowchart"), ("dot", "digraph"), ("svg", "<svg")]
)
def test_a_workflow_is_drawn_without_its_code_or_a_store(
    folder: Path, capsys: Captured, form: str, begins: str
) -> None:
    assert invoke(["graph", "small.workflow.yaml", "-o", form]) == 0
    out = capsys.readouterr().out
    assert out.startswith(begins)
    assert "absent_module:count" in out.replace("&#58;", ":")
    assert sorted(f.name for f in folder.iterdir()) == ["small.workflow.yaml", "treadle.yaml"]


def test_a_file_stands_for_the_workflow_that_no_other_of_it_names(capsys: Captured) -> None:
    assert invoke(["graph", str(NOTES)]) == 0
    assert "translate_all/item" in capsys.readouterr().out
    assert invoke(["graph", f"{NOTES}#polish"]) == 0
    assert "refine/draft" in capsys.readouterr().out
    assert invoke(["graph", f"{NOTES}#translator"]) == 0
    assert "model_call" in capsys.readouterr().out


def test_one_of_several_workflows_of_a_file_is_named(folder: Path, capsys: Captured) -> None:
    two = SMALL + "---\n" + SMALL.replace("name: small", "name: other")
    (folder / "two.workflow.yaml").write_text(two)
    assert invoke(["graph", "two.workflow.yaml"]) == 3
    assert "name one: two.workflow.yaml#small, two.workflow.yaml#other" in capsys.readouterr().err
    assert invoke(["graph", "two.workflow.yaml#other"]) == 0


def test_a_workflow_with_problems_is_told_and_not_drawn(folder: Path, capsys: Captured) -> None:
    (folder / "small.workflow.yaml").write_text(SMALL.replace("type: code", "type: cod"))
    assert invoke(["graph", "small.workflow.yaml"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "TR103" in err


def test_a_workflow_whose_code_cannot_be_had_is_not_run(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_MODEL", "offline")
    assert invoke(["run", "small.workflow.yaml"]) == 3
    assert "absent_module" in capsys.readouterr().err
    assert invoke(["runs", "list", "--json"]) == 0
    assert '"data": []' in capsys.readouterr().out


def test_the_agent_of_a_file_with_workflows_is_run_by_its_name(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_STORE", f"sqlite:///{folder}/t.db")
    agent = "---\nversion: 1.0.0\nkind: agent\nname: helper\nmodel: offline\n"
    (folder / "small.workflow.yaml").write_text(SMALL + agent)
    assert invoke(["run", "small.workflow.yaml", "hello"]) == 2
    assert "the workflow takes no text" in capsys.readouterr().err
    assert invoke(["run", "small.workflow.yaml#helper", "hello"]) == 0
    assert (folder / "t.db").exists()
