"""`treadle doctor`: one line per thing, and a fix for what is not right."""

import json
import os
import socket
from pathlib import Path

import pytest

from treadle.cli import doctor, invoke
from treadle.store import open_store

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examined(capsys: Captured, *arguments: str, code: int = 0) -> dict[str, dict[str, str]]:
    assert invoke(["doctor", "--json", *arguments]) == code
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)}


def test_a_machine_without_a_project_is_told_how_to_begin(folder: Path, capsys: Captured) -> None:
    checks = examined(capsys)
    assert checks["python"]["status"] == "ok"
    assert checks["sqlite"]["status"] == "ok"
    assert checks["project"] == {
        "name": "project",
        "status": "warn",
        "message": "no treadle.yaml here or above",
        "fix": "treadle init",
    }
    assert checks["model"]["status"] == "warn"
    assert "OPENAI_API_KEY" in checks["model"]["fix"]


def test_looking_makes_no_store(folder: Path, capsys: Captured) -> None:
    assert examined(capsys)["store"]["status"] == "ok"
    assert list(folder.iterdir()) == []


async def test_an_existing_store_is_opened_and_tells_its_schema_version(folder: Path) -> None:
    store = open_store(f"sqlite:///{folder}/kept.db")
    version = store.status().schema_version
    await store.close()
    import asyncio

    check = await asyncio.to_thread(doctor.store_check, f"sqlite:///{folder}/kept.db")
    assert check.status == "ok"
    assert check.message.endswith(f"kept.db, schema version {version}")


def test_a_file_that_is_no_store_fails_with_the_reason(folder: Path, capsys: Captured) -> None:
    (folder / "letter.db").write_text("Dear Sir or Madam, " * 100)
    check = examined(capsys, "--store", "letter.db", code=3)["store"]
    assert check["status"] == "fail"
    assert "letter.db" in check["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_fails_with_a_fix(folder: Path, capsys: Captured) -> None:
    (folder / "locked").mkdir(mode=0o500)
    check = examined(capsys, "--store", "sqlite:///locked/x.db", code=3)["store"]
    assert check["status"] == "fail"
    assert check["fix"].startswith("chmod u+w")


def test_a_project_file_with_problems_fails_and_names_the_command_that_shows_them(
    folder: Path, capsys: Captured
) -> None:
    (folder / "treadle.yaml").write_text("version: 1.0.0\nkind: project\nstroe: x\n")
    check = examined(capsys, code=3)["project"]
    assert check["status"] == "fail"
    assert check["fix"] == f"treadle validate {folder / 'treadle.yaml'}"


def test_a_reference_of_the_default_connection_that_stands_for_nothing_fails(
    folder: Path, capsys: Captured
) -> None:
    (folder / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\nconnections: {default: {api_key: '${secret:NOT_THERE}'}}\n"
    )
    check = examined(capsys, code=3)["model"]
    assert check["message"] == "default connection: the secret NOT_THERE is not set"


def test_ping_connects_to_the_default_endpoint(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        assert examined(capsys, "--ping")["ping"]["message"].startswith(f"127.0.0.1:{port} answers in ")
    assert examined(capsys, "--ping", code=3)["ping"]["status"] == "fail"


def test_a_sqlite_with_the_wal_race_is_a_warning_with_a_fix() -> None:
    assert doctor.sqlite_check("SQLite 3.51.3 (apsw 3.51.3.0)").status == "ok"
    old = doctor.sqlite_check("SQLite 3.40.1 (apsw 3.40.1.0)")
    assert (old.status, old.fix) == ("warn", "pip install --upgrade apsw")


def test_an_old_python_fails() -> None:
    assert doctor.python_check((3, 10, 12)).status == "fail"
    assert doctor.python_check((3, 11, 0)).status == "ok"


def test_people_get_a_line_per_check_and_the_fix_below_it(capsys: Captured) -> None:
    assert invoke(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    python    Python 3.")
    place = lines.index("warn  project   no treadle.yaml here or above")
    assert lines[place + 1].strip() == "fix: treadle init"
