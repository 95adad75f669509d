"""Calls that wait for a person: what is shown, what is asked on a terminal, and `treadle runs approve`."""

import getpass
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.store.check import check
from treadle.testing.chat_server import Call, ChatServer, Reply

Launch = Callable[..., Any]
Captured = pytest.CaptureFixture[str]
Serve = Callable[..., ChatServer]
ME = getpass.getuser()
PROJECT = """\
version: 1.0.0
kind: project
python: {allow_modules: [tools]}
"""

OPS = """\
version: 1.0.0
kind: agent
name: ops
model: test-model
tools:
  - {type: function, name: delete_backups, call: "tools:delete_backups", approval: always}
  - type: function
    name: send_mail
    call: tools:send_mail
    approval: {when: "args.to != 'me'", message: "Send a mail to {{ args.to }}?", timeout: 1h}
"""

TOOLS = '''\
from pathlib import Path


def _ran(line: str) -> str:
    with Path("ran").open("a") as log:
        log.write(line + "\\n")
    return line


def delete_backups(older_than_days: int) -> str:
    """Delete backups.

    Args:
        older_than_days: How old they are, in days.
    """
    return _ran(f"deleted {older_than_days}")


def send_mail(to: str) -> str:
    """Send a mail.

    Args:
        to: To whom.
    """
    return _ran(f"sent {to}")
'''

LATER = "requires_action.  Later:  treadle runs approve @last"
PROMPT = "approve? [y]es / [e]dit / [n]o + reason / [l]ater:  "


@pytest.fixture
def ops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project whose tools need a person's consent, and go there."""
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/ops.agent.yaml").write_text(OPS)
    (tmp_path / "tools.py").write_text(TOOLS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def delete(days: object = 90, id_: str = "call_1") -> Call:
    return Call("delete_backups", json.dumps({"older_than_days": days}), id=id_)


def waiting(serve: Serve, capsys: Captured, *calls: Call, then: str = "Done.") -> ChatServer:
    """Run the agent until it waits for a person."""
    server = serve(Reply(calls=list(calls)), Reply(then))
    assert invoke(["-q", "run", "ops", "Clean up"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    return server


def ran() -> list[str]:
    """Give what the tools did."""
    return Path("ran").read_text().splitlines() if Path("ran").exists() else []


def status(capsys: Captured) -> Any:
    capsys.readouterr()
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["status"]


def results(server: ChatServer) -> list[str]:
    """Give what the model was told of its calls."""
    return [m["content"] for m in server.requests[-1].messages if m["role"] == "tool"]


# -- without a terminal ------------------------------------------------------------------------------------------


def test_nobody_is_asked_where_nobody_is_and_the_way_on_is_said(
    ops: Path, serve: Serve, capsys: Captured
) -> None:
    serve(Reply(calls=[delete()]))
    done = subprocess.run(
        [sys.executable, "-m", "treadle", "run", "ops", "delete backups older than 90 days"],
        input="y\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == codes.REQUIRES_ACTION
    assert done.stdout == ""
    *_, asked, later = done.stderr.splitlines()
    assert asked == '  ◆ delete_backups   wants to run with {"older_than_days": 90}'
    assert later == LATER
    assert ran() == []
    assert invoke(["runs", "show", "@last"]) == 0
    assert 'wants to run with {"older_than_days": 90}' in capsys.readouterr().out
    assert invoke(["run", "ops", "-c", "And?"]) == codes.FAILED
    assert re.search(r"treadle runs approve run_\w{24}", capsys.readouterr().err)


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_for_a_program_the_run_stops_as_well(ops: Path, serve: Serve, capsys: Captured, form: str) -> None:
    serve(Reply(calls=[delete()]))
    assert invoke(["run", "ops", "Clean up", form]) == codes.REQUIRES_ACTION
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1] if form == "--jsonl" else out)["status"] == "requires_action"
    assert err == f"{LATER}\n"
    assert ran() == []


def test_an_approved_call_runs_once_and_the_run_goes_on(ops: Path, serve: Serve, capsys: Captured) -> None:
    server = waiting(serve, capsys, delete())
    assert invoke(["runs", "approve", "@last", "--yes"]) == 0
    out, err = capsys.readouterr()
    assert out == "Done.\n"
    assert "● delete_backups" in err
    assert "completed in" in err
    assert ran() == ["deleted 90"]
    assert results(server) == ["deleted 90"]
    assert invoke(["runs", "show", "@last"]) == 0
    assert f"→ deleted 90 · approved by {ME}\n" in capsys.readouterr().out
    assert check(Path(".treadle/treadle.db")) == []


def test_other_arguments_are_the_ones_that_it_runs_with(ops: Path, serve: Serve, capsys: Captured) -> None:
    server = waiting(serve, capsys, delete())
    (ops / "given.json").write_text('{"older_than_days": 365}')
    assert invoke(["runs", "approve", "@last", "call_1", "--arguments", "@given.json"]) == 0
    assert ran() == ["deleted 365"]
    assert results(server)[0].startswith("deleted 365\n")
    capsys.readouterr()
    assert invoke(["runs", "show", "@last"]) == 0
    assert f"approved with other arguments by {ME}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("{", codes.USAGE, "is not JSON"),
        ("[90]", codes.USAGE, "arguments are a JSON object"),
        ('{"older_than_days": "old"}', codes.FAILED, "older_than_days"),
    ],
)
def test_arguments_that_do_not_fit_decide_nothing(
    ops: Path, serve: Serve, capsys: Captured, arguments: str, code: int, said: str
) -> None:
    waiting(serve, capsys, delete())
    assert invoke(["runs", "approve", "@last", "--arguments", arguments]) == code
    assert said in capsys.readouterr().err
    assert status(capsys) == "requires_action"
    assert ran() == []


def test_a_rejected_call_does_not_run_and_the_model_is_told_why(
    ops: Path, serve: Serve, capsys: Captured
) -> None:
    server = waiting(serve, capsys, delete())
    assert invoke(["runs", "approve", "@last", "--reject", "--reason", "ask Ada first"]) == 0
    assert capsys.readouterr().out == "Done.\n"
    assert ran() == []
    (told,) = results(server)
    assert "ask Ada first" in told
    assert invoke(["runs", "show", "@last"]) == 0
    assert f"rejected by {ME}" in capsys.readouterr().out


def test_calls_are_decided_one_by_one_and_the_last_one_lets_the_run_go_on(
    ops: Path, serve: Serve, capsys: Captured
) -> None:
    server = waiting(serve, capsys, delete(30, "a"), delete(60, "b"), delete(90, "c"))
    assert invoke(["runs", "approve", "@last", "delete_backups", "--yes"]) == codes.FAILED
    assert "3 calls of delete_backups wait" in capsys.readouterr().err
    assert invoke(["runs", "approve", "@last", "--arguments", "{}"]) == codes.USAGE
    assert invoke(["runs", "approve", "@last", "d", "--yes"]) == codes.NOT_FOUND
    capsys.readouterr()
    assert invoke(["runs", "approve", "@last", "b", "--yes"]) == codes.REQUIRES_ACTION
    assert LATER in capsys.readouterr().err
    assert invoke(["runs", "approve", "@last", "b", "--yes"]) == codes.NOT_FOUND
    assert invoke(["runs", "approve", "@last", "a", "--reject"]) == codes.REQUIRES_ACTION
    assert ran() == []
    assert invoke(["runs", "approve", "@last", "delete_backups", "--yes"]) == 0
    assert sorted(ran()) == ["deleted 60", "deleted 90"]
    assert len(results(server)) == 3


def test_all_calls_are_meant_where_none_is_named(ops: Path, serve: Serve, capsys: Captured) -> None:
    waiting(serve, capsys, delete(30, "a"), delete(60, "b"))
    assert invoke(["runs", "approve", "@last", "--yes"]) == 0
    assert sorted(ran()) == ["deleted 30", "deleted 60"]


def test_a_decision_is_made_once(ops: Path, serve: Serve, capsys: Captured) -> None:
    waiting(serve, capsys, delete())
    assert invoke(["runs", "approve", "@last", "--yes"]) == 0
    assert invoke(["runs", "approve", "@last", "--yes"]) == codes.FAILED
    assert "no call of it waits for a person" in capsys.readouterr().err
    assert ran() == ["deleted 90"]


@pytest.mark.parametrize(
    "options",
    [["--reason", "x"], ["--reject", "--yes"], ["--reject", "--arguments", "{}"], []],
)
def test_options_that_decide_nothing_or_two_things_are_refused(
    ops: Path, serve: Serve, capsys: Captured, options: list[str]
) -> None:
    waiting(serve, capsys, delete())
    assert invoke(["runs", "approve", "@last", *options]) == codes.USAGE
    assert status(capsys) == "requires_action"


def test_the_question_and_its_deadline_are_shown_and_only_the_calls_that_need_it_wait(
    ops: Path, serve: Serve, capsys: Captured
) -> None:
    calls = [Call("send_mail", json.dumps({"to": to})) for to in ("me", "everybody")]
    serve(Reply(calls=calls), Reply("Sent."))
    assert invoke(["run", "ops", "Write"]) == codes.REQUIRES_ACTION
    err = capsys.readouterr().err
    assert '◆ send_mail        wants to run with {"to": "everybody"}' in err
    assert "    Send a mail to everybody?\n" in err
    assert "counts as rejected when nobody answers until 20" in err
    assert invoke(["runs", "approve", "@last", "send_mail", "--yes"]) == 0
    assert ran() == ["sent me", "sent everybody"]


def test_what_is_agreed_to_is_shown_whole_and_does_nothing_to_the_terminal(
    ops: Path, serve: Serve, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    to = "a" * 200 + "  b\u202e\x1b[2Jend"
    serve(Reply(calls=[Call("send_mail", json.dumps({"to": to}))]))
    assert invoke(["run", "ops", "Write"]) == codes.REQUIRES_ACTION
    err = capsys.readouterr().err
    assert "a" * 200 + "  b\ufffd\\u001b[2Jend" in err
    assert "\x1b[2J" not in err


# -- on a terminal -----------------------------------------------------------------------------------------------


def test_a_person_is_asked_and_may_leave_it_for_later(
    ops: Path, serve: Serve, capsys: Captured, on_plain_terminal: Launch
) -> None:
    serve(Reply(calls=[delete()]), Reply("Done."))
    terminal = on_plain_terminal("run", "ops", "delete backups older than 90 days")
    terminal.wait_for('  ◆ delete_backups   wants to run with {"older_than_days": 90}')
    terminal.wait_for(f"    {PROMPT}")
    terminal.type("l\n")
    terminal.wait_for(LATER)
    assert terminal.end() == codes.REQUIRES_ACTION
    assert ran() == []
    again = on_plain_terminal("runs", "approve", "@last")
    again.wait_for("◆ delete_backups")
    again.wait_for(PROMPT)
    again.type("perhaps\n")
    again.wait_for("answer y, e, n or l")
    again.wait_for(PROMPT)
    again.type("y\n")
    again.wait_for("Done.")
    assert again.end() == 0
    assert ran() == ["deleted 90"]


def test_a_person_may_change_the_arguments(ops: Path, serve: Serve, on_plain_terminal: Launch) -> None:
    server = serve(Reply(calls=[delete()]), Reply("Done."))
    terminal = on_plain_terminal("run", "ops", "Clean up")
    terminal.wait_for(PROMPT)
    terminal.type("e\n")
    terminal.wait_for('arguments: {"older_than_days": 90}')
    terminal.type("\x7f\x7f\x7f\n")
    terminal.wait_for("is not JSON")
    terminal.wait_for("arguments: ")
    terminal.type('"old"}\n')
    terminal.wait_for("the edited arguments cannot be used")
    terminal.wait_for(PROMPT)
    terminal.type("e\n")
    terminal.wait_for('arguments: {"older_than_days": 90}')
    terminal.type("\x7f5}\n")
    terminal.wait_for("Done.")
    assert terminal.end() == 0
    assert ran() == ["deleted 905"]
    assert results(server)[0].startswith("deleted 905\n")


@pytest.mark.parametrize("words", [["n ask Ada first"], ["no", "ask Ada first"]])
def test_a_person_may_say_no_and_why(
    ops: Path, serve: Serve, words: list[str], on_plain_terminal: Launch
) -> None:
    server = serve(Reply(calls=[delete()]), Reply("Then not."))
    terminal = on_plain_terminal("run", "ops", "Clean up")
    terminal.wait_for(PROMPT)
    terminal.type(f"{words[0]}\n")
    for word in words[1:]:
        terminal.wait_for("reason (empty: none): ")
        terminal.type(f"{word}\n")
    terminal.wait_for("Then not.")
    assert terminal.end() == 0
    assert ran() == []
    assert "ask Ada first" in results(server)[0]


def test_every_call_is_asked_about(ops: Path, serve: Serve, on_plain_terminal: Launch) -> None:
    serve(Reply(calls=[delete(30, "a"), delete(60, "b")]), Reply("Done."))
    terminal = on_plain_terminal("run", "ops", "Clean up")
    for days, answer in ((30, "n no"), (60, "y")):
        terminal.wait_for(f'wants to run with {{"older_than_days": {days}}}')
        terminal.wait_for(PROMPT)
        terminal.type(f"{answer}\n")
    terminal.wait_for("Done.")
    assert terminal.end() == 0
    assert ran() == ["deleted 60"]


def test_a_conversation_asks_too(ops: Path, serve: Serve, on_plain_terminal: Launch) -> None:
    serve(Reply(calls=[delete()]), Reply("Done."))
    terminal = on_plain_terminal("chat", "ops")
    terminal.wait_for("> ")
    terminal.type("Clean up\n")
    terminal.wait_for(PROMPT)
    terminal.type("y\n")
    terminal.wait_for("Done.")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert ran() == ["deleted 90"]


def test_ctrl_c_at_the_question_cancels_the_run(
    ops: Path, serve: Serve, capsys: Captured, on_plain_terminal: Launch
) -> None:
    serve(Reply(calls=[delete()]))
    terminal = on_plain_terminal("run", "ops", "Clean up")
    terminal.wait_for(PROMPT)
    terminal.receives(signal.SIGINT, until="cancelling the run")
    assert terminal.end() == codes.INTERRUPTED
    assert status(capsys) == "cancelled"
    assert ran() == []
    assert check(Path(".treadle/treadle.db")) == []


@pytest.mark.parametrize(
    ("more", "number", "code"),
    [([], signal.SIGTERM, codes.TERMINATED), (["--detach"], signal.SIGINT, codes.INTERRUPTED)],
)
def test_the_run_goes_on_waiting_for_its_answer(
    ops: Path,
    serve: Serve,
    capsys: Captured,
    more: list[str],
    number: int,
    code: int,
    on_plain_terminal: Launch,
) -> None:
    serve(Reply(calls=[delete()]), Reply("Done."))
    terminal = on_plain_terminal("run", "ops", "Clean up", *more)
    terminal.wait_for(PROMPT)
    terminal.receives(number, until=LATER)
    assert terminal.end() == code
    assert status(capsys) == "requires_action"
    assert invoke(["runs", "approve", "@last", "--yes"]) == 0
    assert ran() == ["deleted 90"]
