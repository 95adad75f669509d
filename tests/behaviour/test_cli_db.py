"""`treadle db`: the check of a whole store, and the upgrade of its schema."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.store.migrate import APPLICATION_ID, newest
from treadle.store.queries import migrations
from treadle.testing.chat_server import ChatServer, Raw, chunk, sse

TREADLE = [sys.executable, "-m", "treadle"]
STORE = Path(".treadle/treadle.db")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def weather(weather: Path, capsys: Captured) -> Path:
    """Make a project in which two runs were made on one thread, and go there."""
    assert invoke(["-q", "run", "weather", "What's the weather in Paris?"]) == 0
    assert invoke(["-q", "run", "weather", "-c", "and in Oslo?"]) == 0
    capsys.readouterr()
    return weather


def change(path: Path, sql: str) -> None:
    """Change a store behind its own back."""
    connection = apsw.Connection(str(path))
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(sql)
    assert connection.total_changes()
    connection.close()


def version_of(path: Path) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.pragma("user_version")
    finally:
        connection.close()


def make_version(path: Path, version: int) -> None:
    """Make an empty store as a treadle of that schema version made it."""
    connection = apsw.Connection(str(path))
    for number, sql in migrations():
        if number <= version:
            connection.execute(sql)
    connection.pragma("user_version", version)
    connection.pragma("application_id", APPLICATION_ID)
    connection.close()


# -- check -------------------------------------------------------------------------------------------------------


def test_a_sound_store_is_said_to_be_sound_and_how_much_was_looked_at(
    weather: Path, capsys: Captured
) -> None:
    assert invoke(["db", "check"]) == 0
    assert capsys.readouterr() == ("checked 1 thread, 8 messages, 2 runs: every invariant holds\n", "")


def test_every_finding_has_its_rule_its_place_and_what_is_there(weather: Path, capsys: Captured) -> None:
    change(STORE, "UPDATE runs SET prompt_tokens = NULL")
    change(STORE, "UPDATE agents SET version = 2")
    assert invoke(["db", "check"]) == codes.FAILED
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if line.startswith("✗ run_")]) == 2
    assert "a run that has ended has its time, its usage and no walker" in out[0]
    assert out[0].endswith(": completed")
    assert (
        "an agent or a workflow points to the last of its versions, which count from 1: version 2" in out[2]
    )
    assert out[3:] == ["checked 1 thread, 8 messages, 2 runs: 3 findings"]


def test_the_check_as_json_is_one_document(weather: Path, capsys: Captured) -> None:
    assert invoke(["db", "check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"] == []
    assert (found["threads"], found["messages"], found["runs"]) == (1, 8, 2)
    change(STORE, "UPDATE agents SET version = 2")
    assert invoke(["db", "check", "--json"]) == codes.FAILED
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert sorted(finding) == ["rule", "what", "where"]
    assert finding["what"] == "version 2"


def test_the_store_is_named_by_file_by_url_and_by_option(weather: Path, capsys: Captured) -> None:
    Path("other").mkdir()
    shutil.copy(STORE, "other/store.db")
    change(Path("other/store.db"), "UPDATE agents SET version = 2")
    assert invoke(["db", "check"]) == 0
    assert invoke(["db", "check", "other/store.db"]) == codes.FAILED
    assert invoke(["db", "check", "sqlite:///other/store.db"]) == codes.FAILED
    assert invoke(["db", "check", "--store", "sqlite:///other/store.db"]) == codes.FAILED
    capsys.readouterr()


@pytest.mark.parametrize("command", ["check", "upgrade"])
def test_a_store_that_is_not_there_is_not_made(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["db", command]) == codes.NOT_FOUND
    assert invoke(["db", command, "none.db"]) == codes.NOT_FOUND
    out, err = capsys.readouterr()
    assert out == ""
    assert "error[TR050]: there is no store at none.db" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["check", "upgrade"])
def test_what_is_no_store_is_refused_and_left_alone(command: str, tmp_path: Path, capsys: Captured) -> None:
    text, other = tmp_path / "a.txt", tmp_path / "other.db"
    text.write_text("no database at all " * 100)
    connection = apsw.Connection(str(other))
    connection.execute("CREATE TABLE things (a)")
    connection.close()
    before = other.read_bytes()
    assert invoke(["db", command, str(text)]) == codes.FAILED
    assert invoke(["db", command, str(other)]) == codes.FAILED
    err = capsys.readouterr().err
    assert err.count("error[TR068]") == 2
    assert "something else" in err
    assert other.read_bytes() == before
    assert invoke(["db", command, "sqlite://:memory:"]) == codes.USAGE


def test_a_store_is_checked_while_another_process_walks_a_run_in_it(
    weather: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    once = sse(chunk({"role": "assistant", "content": "Once "}), done=False)
    server = ChatServer([Raw([once], end="hang")]).start()
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    try:
        with subprocess.Popen(
            [*TREADLE, "-q", "run", "weather", "-m", "test-model", "Tell me"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(5) == b"Once "
            assert invoke(["db", "check"]) == 0
            assert capsys.readouterr().out.startswith("checked 2 threads, 9 messages, 3 runs: every")
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == codes.INTERRUPTED
    finally:
        server.stop()
    assert invoke(["db", "check"]) == 0


# -- upgrade -----------------------------------------------------------------------------------------------------


def test_a_store_of_this_version_has_nothing_to_upgrade(weather: Path, capsys: Captured) -> None:
    before = STORE.read_bytes()
    assert invoke(["db", "upgrade"]) == 0
    assert capsys.readouterr().out.endswith(f": schema version {newest()}, nothing to do\n")
    assert STORE.read_bytes() == before


@pytest.mark.parametrize("version", range(newest()))
def test_an_older_store_is_upgraded_and_the_check_asks_for_it(
    version: int, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "old.db"
    path.touch() if version == 0 else make_version(path, version)
    assert invoke(["db", "check", str(path)]) == codes.FAILED
    assert "treadle db upgrade" in capsys.readouterr().err
    assert invoke(["db", "upgrade", str(path), "--dry-run"]) == 0
    assert f": would be upgraded from schema version {version} to {newest()}\n" in capsys.readouterr().out
    assert version_of(path) == version
    assert invoke(["db", "upgrade", str(path)]) == 0
    assert f": upgraded from schema version {version} to {newest()}\n" in capsys.readouterr().out
    assert version_of(path) == newest()
    assert invoke(["db", "check", str(path)]) == 0
    assert capsys.readouterr().out == "checked 0 threads, 0 messages, 0 runs: every invariant holds\n"


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_the_store_of_a_newer_treadle_is_refused_untouched(
    more: list[str], weather: Path, capsys: Captured
) -> None:
    connection = apsw.Connection(str(STORE))
    connection.pragma("user_version", newest() + 1)
    connection.close()
    before = STORE.read_bytes()
    assert invoke(["db", "upgrade", *more]) == codes.FAILED
    assert "install the newer treadle" in capsys.readouterr().err
    assert STORE.read_bytes() == before


def test_the_upgrade_as_json_is_one_document(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "old.db"
    make_version(path, 1)
    assert invoke(["db", "upgrade", "--json", "--dry-run", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "store": str(path),
        "from": 1,
        "to": newest(),
        "dry_run": True,
    }
