"""`treadle runs tail`: a run is watched from any process, from any of its events on, until it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.testing.chat_server import Call, ChatServer, Reply, error_reply

PATIENCE_S = 30
Captured = pytest.CaptureFixture[str]
Serve = Callable[..., ChatServer]

PROJECT = """\
version: 1.0.0
kind: project
python: {allow_modules: [tools]}
"""

AGENT = """\
version: 1.0.0
kind: agent
name: porter
model: test-model
tools:
  - {type: function, name: carry, call: "tools:carry"}
  - {type: function, name: lift, call: "tools:lift", approval: always}
  - {type: function, name: ask_owner, parameters: {type: object}}
"""

TOOLS = '''\
def carry() -> str:
    """Carry it: say that it has begun, and wait for the word to go on."""
    with open("begun", "w") as begun:
        begun.write("begun")
    with open("go") as go:
        return go.read()


def lift() -> str:
    """Lift it."""
    return "lifted"
'''


@pytest.fixture
def porter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project whose tool waits for a word, and go there."""
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "porter.agent.yaml").write_text(AGENT)
    (tmp_path / "tools.py").write_text(TOOLS)
    for name in ("begun", "go"):
        os.mkfifo(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Running:
    """A treadle command in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "treadle", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def prints(self, text: str) -> list[dict[str, Any]]:
        """Wait for a line on stdout with a text; give all lines up to it, which are JSON."""
        return [json.loads(line) for line in self._until(self.process.stdout, text)]

    def says(self, text: str) -> str:
        """Wait for a line on stderr with a text, and give it."""
        return self._until(self.process.stderr, text)[-1]

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; give the exit code, and what is left of stdout and stderr."""
        out, err = (self._rest(stream) for stream in (self.process.stdout, self.process.stderr))
        assert "Traceback" not in err
        return self.process.wait(timeout=PATIENCE_S), out, err

    def _rest(self, stream: IO[bytes] | None) -> str:
        assert stream is not None
        with stream:
            return stream.read().decode()

    def _until(self, stream: IO[bytes] | None, text: str) -> list[str]:
        assert stream is not None
        lines: list[str] = []
        for line in stream:
            lines.append(line.decode())
            if text in lines[-1]:
                return lines
        raise AssertionError(f"the command ended without {text!r}: {lines}")


def begun() -> None:
    """Wait until the tool has begun."""
    with Path("begun").open() as told:
        assert told.read() == "begun"


def go() -> None:
    """Let the tool go on."""
    with Path("go").open("w") as told:
        told.write("carried")


def tailed(capsys: Captured, *more: str) -> list[dict[str, Any]]:
    """Give the lines of the last run's events."""
    capsys.readouterr()
    invoke(["runs", "tail", "@last", "--jsonl", *more])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def numbers(lines: list[dict[str, Any]]) -> list[int]:
    return [line["seq"] for line in lines if "seq" in line]


def carry() -> Reply:
    return Reply("Let me see.", calls=[Call("carry", "{}")])


# -- a run that has ended ----------------------------------------------------------------------------------------


def test_a_run_that_has_ended_is_shown_as_it_was(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(Reply(calls=[Call("lift", "{}")]), Reply("It is up."))
    assert invoke(["-q", "run", "porter.agent.yaml", "Lift it"]) == codes.REQUIRES_ACTION
    assert invoke(["-q", "runs", "approve", "@last", "--yes"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "tail", "@last"]) == 0
    out, err = capsys.readouterr()
    assert out == "It is up.\n"
    steps = [line.split("   ")[0].split("  ")[1] for line in err.splitlines() if "●" in line]
    assert steps == ["● model call", "● lift", "● model call", "● append message"]
    assert "completed in" in err


def test_its_events_are_numbered_and_end_in_done(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(Reply("Hello."))
    assert invoke(["-q", "run", "porter.agent.yaml", "Hi"]) == 0
    *events, done = tailed(capsys)
    assert events[0]["event"] == "thread.run.created"
    assert events[-1]["event"] == "thread.run.completed"
    assert numbers(events) == sorted(set(numbers(events)))
    assert done["event"] == "done"
    assert done["status"] == "completed"


def test_after_a_number_there_is_what_comes_after_it(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(Reply("Up.", calls=[Call("lift", "{}"), Call("lift", "{}")]), Reply("It is up."))
    assert invoke(["-q", "run", "porter.agent.yaml", "Lift it"]) == codes.REQUIRES_ACTION
    assert invoke(["-q", "runs", "approve", "@last", "--yes"]) == 0
    everything = tailed(capsys)
    names = [line["event"] for line in everything]
    assert names.count("thread.run.step.completed") == 3
    for after in range(numbers(everything)[-1] + 1):
        places = [n for n, line in enumerate(everything) if line.get("seq", 0) > after]
        read = [n for n, line in enumerate(everything) if line.get("seq", after + 1) <= after]
        assert tailed(capsys, "--after", str(after)) == everything[max(read, default=-1) + 1 :]
        assert all(place > max(read, default=-1) for place in places)


def test_as_json_it_is_one_document(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(Reply("Hello."))
    assert invoke(["-q", "run", "porter.agent.yaml", "Hi"]) == 0
    lines = tailed(capsys)
    assert invoke(["runs", "tail", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"object": "list", "data": lines}


@pytest.mark.parametrize("form", [[], ["--jsonl"], ["--json"]])
def test_the_exit_code_is_that_of_the_run(
    porter: Path, serve: Serve, capsys: Captured, form: list[str]
) -> None:
    serve(error_reply(401, "Incorrect API key provided"))
    assert invoke(["-q", "run", "porter.agent.yaml", "Hi"]) == codes.MODEL
    assert invoke(["runs", "tail", "@last", *form]) == codes.MODEL


def test_what_cannot_be_tailed_is_said(porter: Path, capsys: Captured) -> None:
    assert invoke(["runs", "tail", "run_none"]) == codes.NOT_FOUND
    assert invoke(["runs", "tail", "@last", "--json", "--jsonl"]) == codes.USAGE
    assert invoke(["runs", "tail", "@last", "--after", "-1"]) == codes.USAGE


# -- a run that goes on ------------------------------------------------------------------------------------------


def test_a_run_of_another_process_is_followed_to_its_end(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    serve(carry(), Reply("It is up."))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    watching = [Running("runs", "tail", "@last", "--jsonl") for _ in range(2)]
    reader = Running("runs", "tail", "@last")
    lines = [w.prints('"seq": 3') for w in watching]
    reader.says("● model call")
    assert all(w.process.poll() is None for w in watching)
    go()
    assert running.end()[0] == 0
    whole = tailed(capsys)
    for before, w in zip(lines, watching, strict=True):
        code, out, _ = w.end()
        assert code == 0
        assert before + [json.loads(line) for line in out.splitlines()] == whole
    code, out, err = reader.end()
    assert (code, out) == (0, "Let me see.\nIt is up.\n")
    assert "● carry" in err


def test_a_reader_goes_on_when_another_process_takes_the_run_up(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    serve(carry(), Reply("It may be up."))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    watching = Running("runs", "tail", "@last", "--jsonl")
    before = watching.prints('"seq": 3')
    running.process.kill()
    assert running.end()[0] == -signal.SIGKILL
    late = Running("runs", "tail", "@last")
    assert "treadle runs resume run_" in late.says("walker gone")
    assert invoke(["runs", "resume", "@last"]) == 0
    code, out, _ = watching.end()
    assert code == 0
    assert late.end()[:2] == (0, "Let me see.\nIt may be up.\n")
    assert before + [json.loads(line) for line in out.splitlines()] == tailed(capsys)


def test_a_reader_sees_what_the_run_waits_for_and_stays(porter: Path, serve: Serve) -> None:
    serve(Reply(calls=[Call("lift", "{}")]), Reply(calls=[Call("ask_owner", "{}")]), Reply("Done."))
    assert invoke(["-q", "run", "porter.agent.yaml", "Lift it"]) == codes.REQUIRES_ACTION
    watching = Running("runs", "tail", "@last")
    watching.says("◆ lift             wants to run with {}")
    assert invoke(["-q", "runs", "approve", "@last", "--yes"]) == codes.REQUIRES_ACTION
    watching.says("◆ ask_owner        is yours to run with {}")
    assert watching.process.poll() is None
    assert invoke(["-q", "runs", "submit", "@last", "--output", "ask_owner=yes"]) == 0
    code, out, err = watching.end()
    assert (code, out) == (0, "Done.\n")
    assert "completed in" in err


def test_ctrl_c_ends_the_watching_and_not_the_run(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(carry(), Reply("It is up."))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    watching = Running("runs", "tail", "@last", "--jsonl")
    seen = watching.prints('"seq": 3')
    watching.process.send_signal(signal.SIGINT)
    found = re.search(
        r"the run goes on; watch it again: treadle runs tail run_\w{24} --after (\d+)\n",
        watching.says("goes on"),
    )
    code, out, _ = watching.end()
    assert code == codes.INTERRUPTED
    seen += [json.loads(line) for line in out.splitlines()]
    go()
    code, out, _ = running.end()
    assert code == 0
    assert out.endswith("It is up.\n")
    assert found
    assert seen + tailed(capsys, "--after", found[1]) == tailed(capsys)
