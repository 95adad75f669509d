"""`treadle threads export` and `import`: whole threads through files and pipes."""

import io
import json
import sys
from pathlib import Path

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]
QUESTION = "What's the weather in Paris, in Fahrenheit?"


def shown(capsys: Captured, *arguments: str, code: int = 0) -> str:
    assert invoke(arguments) == code
    return capsys.readouterr().out


def test_a_thread_goes_to_another_project_and_the_conversation_goes_on(
    asked_weather: Path, capsys: Captured
) -> None:
    assert shown(capsys, "threads", "export", "@last", "-o", "chat.jsonl") == ""
    assert invoke(["threads", "import", "chat.jsonl", "--store", "other.db"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("thread_")
    assert err == "imported 6 rows\n"
    said = shown(capsys, "threads", "show", out.strip(), "--store", "other.db")
    assert said.splitlines()[:2] == ["user", QUESTION]
    assert invoke(["-q", "run", "weather", "-c", "and Oslo?", "--store", "other.db"]) == 0
    assert "Oslo" in capsys.readouterr().out
    assert invoke(["db", "check", "--store", "other.db"]) == 0


def test_lines_go_through_pipes(
    asked_weather: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in ("jsonl", "wire"):
        text = shown(capsys, "threads", "export", "@last", "--format", form)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        id_ = shown(capsys, "threads", "import", "-").strip()
        assert "Paris: 11" in shown(capsys, "threads", "show", id_)


def test_as_json_an_import_is_the_thread_and_its_numbers(asked_weather: Path, capsys: Captured) -> None:
    shown(capsys, "threads", "export", "@last", "-o", "chat.jsonl")
    dry = json.loads(shown(capsys, "threads", "import", "chat.jsonl", "--dry-run", "--json"))
    assert dry == {
        "object": "thread",
        "rows": 6,
        "files": 0,
        "vector_stores": 0,
        "missing": [],
        "dry_run": True,
    }
    done = json.loads(shown(capsys, "threads", "import", "chat.jsonl", "--json"))
    assert done["rows"] == 6
    listed = json.loads(shown(capsys, "threads", "list", "--json"))
    assert listed["data"][0]["id"] == done["id"]
    assert len(listed["data"]) == 2


def test_a_wrong_line_exits_with_3_and_names_file_and_line(asked_weather: Path, capsys: Captured) -> None:
    shown(capsys, "threads", "export", "@last", "-o", "chat.jsonl")
    lines = (asked_weather / "chat.jsonl").read_text().splitlines(keepends=True)
    (asked_weather / "chat.jsonl").write_text("".join(lines[:3] + lines[4:]))
    assert invoke(["threads", "import", "chat.jsonl"]) == codes.DEFINITION
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "error[TR074]: chat.jsonl:4: expected the row with seq 3, not 4\n  nothing is stored"
    )
    assert len(json.loads(shown(capsys, "threads", "list", "--json"))["data"]) == 1


def test_a_file_that_is_not_there_is_a_mistake_of_the_command_line(
    asked_weather: Path, capsys: Captured
) -> None:
    assert invoke(["threads", "import", "nowhere.jsonl"]) == codes.USAGE
    assert "cannot read nowhere.jsonl: No such file" in capsys.readouterr().err
    assert invoke(["threads", "export", "@last", "-o", "no/where.jsonl"]) == codes.USAGE
    assert "cannot write no/where.jsonl" in capsys.readouterr().err


def test_an_export_that_fails_leaves_the_file_as_it_was(asked_weather: Path, capsys: Captured) -> None:
    (asked_weather / "chat.jsonl").write_text("old")
    assert invoke(["threads", "export", "thread_nobody", "-o", "chat.jsonl"]) == codes.NOT_FOUND
    assert (asked_weather / "chat.jsonl").read_text() == "old"
    assert [p.name for p in asked_weather.iterdir() if p.name.endswith(".part")] == []


def test_an_export_while_a_run_waits_says_where_it_ends(
    asked_weather: Path, capsys: Captured, labels_agent: str
) -> None:
    (asked_weather / "labels.agent.yaml").write_text(labels_agent)
    assert invoke(["run", "labels", "Which label format for UPS?"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    assert invoke(["threads", "export", "@last"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "is active: exported are rows 1 to 1; what follows, up to row 2, waits for results" in err


def test_what_does_not_come_along_is_told(asked_weather: Path, capsys: Captured) -> None:
    message = {"role": "user", "content": "Read", "attachments": [{"file_id": "file-away", "tools": []}]}
    (asked_weather / "m.json").write_text(json.dumps([message]))
    assert invoke(["threads", "import", "m.json"]) == 0
    assert "not to be had, the references stay: file-away" in capsys.readouterr().err
    shown(capsys, "threads", "export", "@last", "--no-files", "-o", "chat.jsonl")
    assert "file-away" in (asked_weather / "chat.jsonl").read_text()
