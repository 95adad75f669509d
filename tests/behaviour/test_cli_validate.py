"""`treadle validate`: every problem with its place, in four forms, and an exit code that CI can use."""

import json
from pathlib import Path

import pytest

from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]

GOOD = """\
version: 1.0.0
kind: agent
name: greeter
model: offline
instructions: Say hello.
"""

BAD = """\
version: 1.0.0
kind: agent
name: broken
model: offline
instrutions: Say hello.
tools:
  - type: function
    nam: x
"""

FOUNDRY = """\
version: 1.0.0
name: from-the-editor
description: An agent of the VS Code extension.
id: ''
model:
  id: gpt-4.1-mini
  options:
    temperature: 0.5
instructions: Say hello.
tools: []
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sound_file_is_silent_on_stdout_and_exits_with_0(folder: Path, capsys: Captured) -> None:
    (folder / "good.agent.yaml").write_text(GOOD)
    assert invoke(["validate", "good.agent.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "1 file: no problems\n"


def test_quiet_leaves_out_the_closing_line(folder: Path, capsys: Captured) -> None:
    (folder / "good.agent.yaml").write_text(GOOD)
    assert invoke(["validate", "-q", "good.agent.yaml"]) == 0
    assert capsys.readouterr() == ("", "")


def test_every_problem_of_every_file_is_reported_at_its_place(folder: Path, capsys: Captured) -> None:
    (folder / "a.agent.yaml").write_text(BAD)
    (folder / "b.agent.yaml").write_text(GOOD.replace("greeter", "other").replace("model: offline\n", ""))
    assert invoke(["validate", "a.agent.yaml", "b.agent.yaml"]) == 3
    out, err = capsys.readouterr()
    heads = [line for line in out.splitlines() if "  error " in line]
    assert [head.split()[0] for head in heads] == [
        "a.agent.yaml:5:1",
        "a.agent.yaml:7:5",
        "a.agent.yaml:8:5",
        "b.agent.yaml:1:1",
    ]
    assert "did you mean 'instructions'?" in out
    assert "    5 | instrutions: Say hello.\n" in out
    assert err == "2 files: 4 errors\n"


def test_a_folder_stands_for_the_documents_in_it_but_for_hidden_ones(folder: Path, capsys: Captured) -> None:
    for name in ("agents/a.agent.yaml", "deep/er/b.agent.yml", ".venv/c.agent.yaml", "notes.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(GOOD.replace("greeter", f"agent-{name[0]}"))
    (folder / "treadle.yaml").write_text("version: 1.0.0\nkind: project\n")
    assert invoke(["validate", "."]) == 0
    assert capsys.readouterr().err == "3 files: no problems\n"


def test_a_folder_without_documents_is_a_usage_error(folder: Path, capsys: Captured) -> None:
    (folder / "empty").mkdir()
    assert invoke(["validate", "empty"]) == 2
    assert "empty holds no document" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_a_usage_error(capsys: Captured) -> None:
    assert invoke(["validate", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_the_project_file_above_is_checked_with_the_documents(folder: Path, capsys: Captured) -> None:
    (folder / "treadle.yaml").write_text("version: 1.0.0\nkind: project\npythn: {}\n")
    (folder / "agents").mkdir()
    (folder / "agents/good.agent.yaml").write_text(GOOD)
    assert invoke(["validate", "agents/good.agent.yaml"]) == 3
    out, err = capsys.readouterr()
    assert out.startswith("treadle.yaml:3:1  error TR104")
    assert err == "2 files: 1 error\n"


def test_a_callable_of_a_module_that_the_project_does_not_allow_is_an_error(
    folder: Path, capsys: Captured
) -> None:
    tools = "tools:\n  - type: function\n    name: ls\n    call: os:listdir\n"
    (folder / "a.agent.yaml").write_text(GOOD + tools)
    (folder / "treadle.yaml").write_text("version: 1.0.0\nkind: project\npython: {allow_modules: [tools]}\n")
    assert invoke(["validate", "a.agent.yaml"]) == 3
    assert "the module 'os' is not on the project's allow-list" in capsys.readouterr().out


def test_the_project_option_names_the_rules_that_hold(folder: Path, capsys: Captured) -> None:
    (folder / "a.agent.yaml").write_text(GOOD + "tools:\n  - {type: function, name: f, call: 'tools:f'}\n")
    for name, modules in (("strict", "[]"), ("open", "[tools]")):
        (folder / name).mkdir()
        (folder / name / "treadle.yaml").write_text(
            f"version: 1.0.0\nkind: project\npython: {{allow_modules: {modules}}}\n"
        )
    assert invoke(["validate", "a.agent.yaml", "--project", "strict"]) == 3
    assert invoke(["validate", "a.agent.yaml", "--project", "open"]) == 0
    capsys.readouterr()


def test_a_foreign_document_says_as_what_it_was_read(folder: Path, capsys: Captured) -> None:
    (folder / "foundry.yaml").write_text(FOUNDRY)
    assert invoke(["validate", "foundry.yaml"]) == 0
    out, err = capsys.readouterr()
    assert "reads as: Foundry VS Code 1.0.0" in out
    assert "1 note" in err


def test_json_is_one_document_with_every_problem(folder: Path, capsys: Captured) -> None:
    (folder / "a.agent.yaml").write_text(BAD)
    assert invoke(["validate", "a.agent.yaml", "--format", "json"]) == 3
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [(p["code"], p["line"], p["column"]) for p in problems] == [
        ("TR104", 5, 1),
        ("TR101", 7, 5),
        ("TR104", 8, 5),
    ]
    assert {p["file"] for p in problems} == {"a.agent.yaml"}


def test_github_annotations_are_one_line_each(folder: Path, capsys: Captured) -> None:
    (folder / "a.agent.yaml").write_text(BAD)
    assert invoke(["validate", "a.agent.yaml", "--format", "github"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("::error file=a.agent.yaml,line=") for line in lines)


def test_sarif_names_the_rule_and_the_region(folder: Path, capsys: Captured) -> None:
    (folder / "a.agent.yaml").write_text(BAD)
    assert invoke(["validate", "a.agent.yaml", "--format", "sarif"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == "2.1.0"
    first = report["runs"][0]["results"][0]
    assert first["ruleId"] == "TR104"
    assert first["locations"][0]["physicalLocation"]["region"]["startLine"] == 5


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_a_sound_file_is_an_empty_report_in_the_forms_that_are_documents(
    form: str, folder: Path, capsys: Captured
) -> None:
    (folder / "good.agent.yaml").write_text(GOOD)
    assert invoke(["validate", "good.agent.yaml", "--format", form]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_an_unknown_dialect_is_refused_with_the_nearest_name(folder: Path, capsys: Captured) -> None:
    (folder / "good.agent.yaml").write_text(GOOD)
    assert invoke(["validate", "good.agent.yaml", "--dialect", "foundri"]) == 3
    assert "error[TR107]: 'foundri' is not a dialect" in capsys.readouterr().err


RESOLVABLE = """\
version: 1.0.0
kind: agent
name: resolving
model:
  id: ${env:MODEL_OF_THE_TEST}
tools:
  - type: function
    name: there
    call: validated_tools:there
"""


def test_resolve_imports_callables_and_looks_up_references(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [validated_tools]}\n"
    )
    (folder / "validated_tools.py").write_text(
        'def there(x: int) -> int:\n    """Give it back."""\n    return x\n'
    )
    (folder / "a.agent.yaml").write_text(RESOLVABLE)
    away = "  - type: function\n    name: away\n    call: validated_tools:away\n"
    (folder / "b.agent.yaml").write_text(RESOLVABLE.replace("resolving", "other") + away)
    assert invoke(["validate", "a.agent.yaml", "b.agent.yaml"]) == 0
    capsys.readouterr()

    assert invoke(["validate", "a.agent.yaml", "--resolve"]) == 3
    out = capsys.readouterr().out
    assert out.startswith(
        "a.agent.yaml:5:7  error TR303  the environment variable MODEL_OF_THE_TEST is not set"
    )

    monkeypatch.setenv("MODEL_OF_THE_TEST", "offline")
    assert invoke(["validate", "a.agent.yaml", "--resolve"]) == 0
    assert invoke(["validate", "b.agent.yaml", "--resolve"]) == 3
    out = capsys.readouterr().out
    assert out.startswith("b.agent.yaml:12:11  error TR303  module 'validated_tools' has no 'away'")
