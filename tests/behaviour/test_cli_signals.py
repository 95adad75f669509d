"""Ctrl-C and SIGTERM, sent to real processes: what becomes of the run, what is said, with which exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.store.check import check
from treadle.testing.chat_server import Call, ChatServer, Raw, Reply, chunk, sse

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
  - {type: function, name: cling, call: "tools:cling"}
  - {type: function, name: choke, call: "tools:choke"}
  - {type: function, name: lug, call: "tools:carry", on_unknown: ask}
  - {type: function, name: hold, call: "tools:hold", isolate: true}
"""

TOOLS = '''\
import asyncio
import os


def carry(what: str) -> str:
    """Carry something: say that it has begun, and wait for the word to go on.

    Args:
        what: What to carry.
    """
    with open("begun", "w") as begun:
        begun.write(what + "\\n")
    with open("go") as go:
        return go.read()


def hold(what: str) -> str:
    """Begin, say in which process, and wait for a word that never comes.

    Args:
        what: What to hold.
    """
    with open("begun", "w") as begun:
        begun.write(str(os.getpid()))
    with open("go") as go:
        return go.read()


async def cling(what: str) -> str:
    """Begin, and never let go.

    Args:
        what: What to cling to.
    """
    with open("begun", "w") as begun:
        begun.write(what + "\\n")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def choke(what: str) -> str:
    """Begin, and block everything.

    Args:
        what: What to choke on.
    """
    with open("begun", "w") as begun:
        begun.write(what + "\\n")
    with open("go") as go:
        return go.read()
'''

ONCE = Raw([sse(chunk({"role": "assistant", "content": "Once "}), done=False)], end="hang")
"""The beginning of an answer that does not go on."""


def calls(tool: str) -> Reply:
    return Reply(calls=[Call(tool, '{"what": "a trunk"}')])


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

    def __init__(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "treadle", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.err = ""

    def writes(self, text: str) -> None:
        """Wait until the answer says a text."""
        assert self._stream(self.process.stdout).read(len(text)) == text.encode()

    def says(self, text: str) -> str:
        """Wait for a line on stderr with a text, and give it."""
        for line in self._stream(self.process.stderr):
            self.err += line.decode()
            if text in line.decode():
                return line.decode()
        raise AssertionError(f"the command ended without {text!r}: {self.err}")

    def receives(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end, and give the exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        # What was read ahead is in the streams, not in the pipes: `communicate` would lose it.
        with self._stream(self.process.stdout) as out, self._stream(self.process.stderr) as err:
            out.read()
            self.err += err.read().decode()
        assert "Traceback" not in self.err
        return self.process.wait(timeout=PATIENCE_S)

    def _stream(self, stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None
        return stream


def begun() -> None:
    """Wait until the tool has begun."""
    with Path("begun").open() as told:
        assert told.read() == "a trunk\n"


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def go() -> None:
    """Let the tool go on."""
    with Path("go").open("w") as told:
        told.write("carried")


def parked() -> None:
    """Run the agent as far as the end of its first tool call."""
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    running.receives(signal.SIGTERM)
    running.says("terminated")
    go()
    assert running.end() == codes.TERMINATED


def shown(capsys: Captured) -> dict:
    """Give the last run as it is now."""
    capsys.readouterr()
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# -- SIGTERM -----------------------------------------------------------------------------------------------------


def test_sigterm_parks_the_run_at_its_next_checkpoint_and_says_how_to_go_on(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    server = serve(calls("carry"), Reply("It is up there."))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    running.receives(signal.SIGTERM)
    running.says("terminated: parking the run at its next checkpoint")
    go()
    said = running.says("parked run_")
    assert running.end() == codes.TERMINATED
    run = shown(capsys)
    assert said == f"parked {run['id']}; go on: treadle runs resume {run['id']}\n"
    assert run["status"] == "queued"
    assert [step["status"] for step in run["steps"]] == ["completed"]
    assert len(server.requests) == 1
    assert invoke(["runs", "resume", run["id"]]) == 0
    assert capsys.readouterr().out == "It is up there.\n"
    assert server.requests[-1].messages[-1]["content"] == "carried"
    assert check(Path(".treadle/treadle.db")) == []


def test_sigterm_interrupts_a_step_that_does_not_end_and_the_step_is_repeated(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    server = serve(ONCE, Reply("Here I am."))
    running = Running("run", "porter.agent.yaml", "Hello")
    running.writes("Once ")
    running.receives(signal.SIGTERM)
    running.says("parked run_")
    assert running.end() == codes.TERMINATED
    assert invoke(["runs", "resume", "@last"]) == 0
    assert capsys.readouterr().out == "Here I am.\n"
    assert len(server.requests) == 2


def test_a_second_sigterm_leaves_at_once(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(calls("carry"))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    running.receives(signal.SIGTERM)
    running.says("a second SIGTERM leaves at once")
    running.receives(signal.SIGTERM)
    assert running.end() == codes.TERMINATED
    assert "parked" not in running.err
    assert shown(capsys)["status"] == "in_progress"


def test_sigterm_parks_what_goes_on_again(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(calls("carry"), calls("carry"), Reply("Done."))
    parked()
    second = Running("runs", "resume", "@last")
    begun()
    second.receives(signal.SIGTERM)
    second.says("terminated")
    go()
    second.says("parked run_")
    assert second.end() == codes.TERMINATED
    assert invoke(["runs", "resume", "@last"]) == 0
    assert capsys.readouterr().out == "Done.\n"


def test_sigterm_ends_a_conversation_in_a_turn(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(calls("carry"), Reply("Here I am."))
    talk = Running("chat", "porter.agent.yaml", stdin=subprocess.PIPE)
    assert talk.process.stdin is not None
    talk.process.stdin.write(b"Hello\nand again\n")
    talk.process.stdin.flush()
    begun()
    talk.receives(signal.SIGTERM)
    talk.says("terminated")
    go()
    talk.says("parked run_")
    talk.says("Go on:  treadle chat porter.agent.yaml -t thread_")
    assert talk.end() == codes.TERMINATED
    assert invoke(["runs", "resume", "@last"]) == 0
    assert capsys.readouterr().out == "Here I am.\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, codes.TERMINATED), (signal.SIGINT, codes.INTERRUPTED)]
)
def test_a_signal_between_two_turns_ends_the_conversation(
    porter: Path, serve: Serve, number: int, code: int
) -> None:
    serve(Reply("Here I am."))
    talk = Running("chat", "porter.agent.yaml", stdin=subprocess.PIPE)
    assert talk.process.stdin is not None
    talk.process.stdin.write(b"Hello\n")
    talk.process.stdin.flush()
    talk.writes("Here I am.\n")
    talk.says("completed in")
    talk.receives(number)
    assert re.search(r"treadle chat porter.agent.yaml -t thread_\w{24}$", talk.says("Go on:").rstrip())
    assert talk.end() == code


# -- Ctrl-C ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["-q"], ["--json"], ["--jsonl"]])
def test_ctrl_c_cancels_the_run_and_says_how_to_go_on(
    porter: Path, serve: Serve, capsys: Captured, form: list[str]
) -> None:
    serve(calls("carry"))
    running = Running("run", "porter.agent.yaml", "Carry it", *form)
    begun()
    running.receives(signal.SIGINT)
    assert running.end() == codes.INTERRUPTED
    assert "interrupted: cancelling the run (Ctrl-C again leaves at once)" in running.err
    if "-q" not in form:
        assert "Ask on:  treadle run porter.agent.yaml -c" in running.err
    run = shown(capsys)
    assert run["status"] == "cancelled"
    assert check(Path(".treadle/treadle.db")) == []


def test_the_thread_of_an_interrupted_run_takes_a_next_turn(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    serve(calls("carry"), Reply("Then not."))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    running.receives(signal.SIGINT)
    assert running.end() == codes.INTERRUPTED
    assert invoke(["run", "porter.agent.yaml", "-c", "Leave it"]) == 0
    assert capsys.readouterr().out == "Then not.\n"


@pytest.mark.parametrize("tool", ["cling", "choke"])
def test_a_second_ctrl_c_leaves_at_once(porter: Path, serve: Serve, tool: str) -> None:
    serve(calls(tool))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    running.receives(signal.SIGINT)
    running.says("Ctrl-C again leaves at once")
    assert running.process.poll() is None
    running.receives(signal.SIGINT)
    assert running.end() == codes.INTERRUPTED
    assert "cancelled after" not in running.err


@pytest.mark.parametrize("command", [["run", "porter.agent.yaml", "Hello"], ["runs", "resume", "@last"]])
def test_with_detach_ctrl_c_leaves_the_run_resumable(
    porter: Path, serve: Serve, capsys: Captured, command: list[str]
) -> None:
    if command[0] == "runs":
        serve(calls("carry"))
        parked()
    serve(calls("carry"), Reply("Done."))
    running = Running(*command, "--detach")
    begun()
    running.receives(signal.SIGINT)
    running.says("interrupted: parking the run (Ctrl-C again leaves at once)")
    go()
    assert re.fullmatch(r"parked (run_\w{24}); go on: treadle runs resume \1\n", running.says("parked run_"))
    assert running.end() == codes.INTERRUPTED
    assert shown(capsys)["status"] == "queued"
    assert invoke(["runs", "resume", "@last"]) == 0
    assert capsys.readouterr().out == "Done.\n"


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGINT,), codes.INTERRUPTED),
        ((signal.SIGTERM, signal.SIGTERM), codes.TERMINATED),
        ((signal.SIGKILL,), -signal.SIGKILL),
    ],
)
def test_no_process_of_an_isolated_tool_is_left_behind(
    porter: Path, serve: Serve, numbers: tuple[int, ...], code: int
) -> None:
    serve(calls("hold"))
    running = Running("run", "porter.agent.yaml", "Carry it")
    with Path("begun").open() as told:
        worker = int(told.read())
    for last, number in enumerate(numbers, 1):
        running.receives(number)
        if last < len(numbers):
            running.says("leaves at once")
    assert running.end() == code
    deadline = time.monotonic() + PATIENCE_S
    while is_alive(worker):
        assert time.monotonic() < deadline


def test_detached_twice_ctrl_c_still_leaves_at_once(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(calls("carry"))
    running = Running("run", "porter.agent.yaml", "Carry it", "--detach")
    begun()
    running.receives(signal.SIGINT)
    running.says("parking the run")
    running.receives(signal.SIGINT)
    assert running.end() == codes.INTERRUPTED
    assert shown(capsys)["status"] == "in_progress"


def test_the_hint_finds_the_store_that_the_options_name(porter: Path, serve: Serve) -> None:
    serve(calls("carry"))
    options = ["--store", "sqlite:///else.db", "--tenant", "acme"]
    running = Running("-q", "run", "porter.agent.yaml", "Hello", *options)
    begun()
    running.receives(signal.SIGTERM)
    running.says("terminated")
    go()
    assert running.says("parked run_").endswith(" --store sqlite:///else.db --tenant acme\n")
    assert running.end() == codes.TERMINATED


# -- a run in line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "said", "status", "code"),
    [
        (signal.SIGTERM, "stays in line; go on when its turn has come: ", "queued", codes.TERMINATED),
        (signal.SIGINT, "cancelled after", "cancelled", codes.INTERRUPTED),
    ],
)
def test_a_signal_reaches_a_run_that_waits_for_its_turn(
    porter: Path, serve: Serve, capsys: Captured, number: int, said: str, status: str, code: int
) -> None:
    serve(calls("carry"), Reply("First."), Reply("Second."))
    first = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    second = Running("run", "porter.agent.yaml", "-c", "And that", "--on-busy", "queue")
    second.says("in line: the thread is busy with another run")
    capsys.readouterr()
    assert invoke(["runs", "list"]) == 0
    assert "queued (in line)" in capsys.readouterr().out
    second.receives(number)
    second.says(said)
    assert second.end() == code
    assert shown(capsys)["status"] == status
    go()
    assert first.end() == 0
    if status == "queued":
        assert invoke(["runs", "resume", "@last"]) == 0
        assert capsys.readouterr().out == "Second.\n"
    assert check(Path(".treadle/treadle.db")) == []


def test_a_run_in_line_goes_on_when_its_turn_comes(porter: Path, serve: Serve) -> None:
    serve(calls("carry"), Reply("First."), Reply("Second."))
    first = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    second = Running("run", "porter.agent.yaml", "-c", "And that", "--on-busy", "queue")
    second.says("in line")
    go()
    first.writes("First.\n")
    assert first.end() == 0
    second.writes("Second.\n")
    assert second.end() == 0


# -- what a killed process leaves --------------------------------------------------------------------------------


def killed(*command: str) -> None:
    """Start a command and kill it in the middle of a tool."""
    running = Running(*command)
    begun()
    running.receives(signal.SIGKILL)
    assert running.end() == -signal.SIGKILL


def test_a_run_whose_process_was_killed_is_marked_and_goes_on(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    server = serve(calls("carry"), Reply("It may be up there."))
    killed("run", "porter.agent.yaml", "Carry it")
    assert invoke(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert "in_progress (walker gone)" in out
    assert "treadle runs resume RUN" in err
    assert invoke(["runs", "show", "@last"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].endswith("  in_progress (walker gone)")
    assert "resumed" not in out
    assert err == "Go on:  treadle runs resume @last\n"
    assert invoke(["run", "porter.agent.yaml", "-c", "And?"]) == codes.FAILED
    assert re.search(r"it is in_progress: treadle runs resume run_\w{24}, or", capsys.readouterr().err)

    assert invoke(["runs", "resume", "@last"]) == 0
    assert capsys.readouterr().out == "It may be up there.\n"
    assert len(server.requests) == 2
    assert "outcome" in server.requests[-1].messages[-1]["content"]
    assert invoke(["runs", "show", "@last"]) == 0
    assert " · resumed 1×, 1 step kept\n" in capsys.readouterr().out
    assert invoke(["runs", "list"]) == 0
    assert "walker gone" not in capsys.readouterr().out
    assert check(Path(".treadle/treadle.db")) == []


def test_every_time_that_a_run_was_taken_up_is_counted(porter: Path, serve: Serve, capsys: Captured) -> None:
    serve(calls("carry"), calls("carry"), Reply("Done."))
    killed("run", "porter.agent.yaml", "Carry it")
    killed("runs", "resume", "@last")
    assert invoke(["runs", "resume", "@last"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "show", "@last"]) == 0
    assert " · resumed 2×, 3 steps kept\n" in capsys.readouterr().out


def test_a_person_is_asked_what_became_of_a_call_where_its_tool_wants_that(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    server = serve(calls("lug"), Reply("Thank you."))
    killed("run", "porter.agent.yaml", "Carry it")
    assert invoke(["runs", "resume", "@last"]) == codes.REQUIRES_ACTION
    err = capsys.readouterr().err
    assert '◆ lug              was interrupted and may have run with {"what": "a trunk"}\n' in err
    assert "Later:  treadle runs approve @last" in err
    assert invoke(["runs", "approve", "@last", "--reject", "--reason", "it is up there"]) == 0
    assert capsys.readouterr().out == "Thank you.\n"
    told = server.requests[-1].messages[-1]["content"]
    assert "it was not repeated" in told
    assert "it is up there" in told


def test_an_interrupted_call_is_made_again_when_a_person_says_so(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    server = serve(calls("lug"), Reply("Thank you."))
    killed("run", "porter.agent.yaml", "Carry it")
    assert invoke(["-q", "runs", "resume", "@last"]) == codes.REQUIRES_ACTION
    again = Running("runs", "approve", "@last", "lug", "--yes")
    begun()
    go()
    assert again.end() == 0
    assert server.requests[-1].messages[-1]["content"] == "carried"
    assert check(Path(".treadle/treadle.db")) == []


def test_a_run_that_is_walked_is_neither_marked_nor_to_be_had(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    serve(calls("carry"), Reply("Done."))
    running = Running("run", "porter.agent.yaml", "Carry it")
    begun()
    assert invoke(["runs", "list"]) == 0
    assert "walker gone" not in capsys.readouterr().out
    assert invoke(["runs", "resume", "@last"]) == codes.FAILED
    assert "error[TR060]" in capsys.readouterr().err
    go()
    assert running.end() == 0


def test_a_run_that_was_parked_is_not_said_to_be_resumed_after_a_crash(
    porter: Path, serve: Serve, capsys: Captured
) -> None:
    serve(calls("carry"), Reply("Done."))
    parked()
    assert invoke(["runs", "show", "@last"]) == 0
    assert capsys.readouterr().err == "Go on:  treadle runs resume @last\n"
    assert invoke(["runs", "resume", "@last"]) == 0
    capsys.readouterr()
    assert invoke(["runs", "show", "@last"]) == 0
    assert "resumed" not in capsys.readouterr().out
