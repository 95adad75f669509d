"""What a person sees and is asked on a terminal: the command runs on a pseudo-terminal of its own."""

import fcntl
import json
import os
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.testing.chat_server import ChatServer, Raw, Reply, chunk

QUESTION = "What's the weather in Paris, in Fahrenheit?"
PATIENCE_S = 30.0
ESCAPE = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[[\d;?]*[a-zA-Z]")
ON_TERMINAL = (
    "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from treadle.cli import main; main()"
)
"""Makes the pseudo-terminal the one whose Ctrl-C reaches the command, then runs it."""
Captured = pytest.CaptureFixture[str]

CLIENT = """\
version: 1.0.0
kind: agent
name: labels
model: offline
tools:
  - type: function
    name: pick_label_format
    description: Ask which label format a printer takes for a carrier.
    parameters:
      type: object
      properties: {carrier: {type: string, description: The carrier.}}
      required: [carrier]
"""


class Terminal:
    """A command on a pseudo-terminal: type to it, wait for what it writes, look at the screen."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 40) -> None:
        self.written = ""
        self._seen = 0
        self._columns = columns
        self._fd, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ | {"TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until a text is on the way that was not there before."""
        while text not in self.written[self._seen :]:
            assert self._read(), f"the command ended without {text!r}: {self.written!r}"
        self._seen = self.written.index(text, self._seen) + len(text)

    def interrupt(self, text: str) -> None:
        """Type Ctrl-C until a text comes: one that arrives just before the command waits for a key is not seen."""
        self._until(text, lambda: self.type("\x03"))

    def terminate(self, text: str) -> None:
        """Send SIGTERM until a text comes, as `interrupt` does."""
        self._until(text, self._process.terminate)

    def _until(self, text: str, again: Callable[[], None]) -> None:
        place = len(self.written)
        for _ in range(10):
            again()
            while text not in self.written[place:] and select.select([self._fd], [], [], 2.0)[0]:
                assert self._read(), f"the command ended without {text!r}: {self.written!r}"
            if text in self.written[place:]:
                break
        self._seen = self.written.index(text, place) + len(text)

    def end(self) -> int:
        """Read what is left and give the exit code."""
        while self._read():
            pass
        os.close(self._fd)
        return self._process.wait(timeout=PATIENCE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], PATIENCE_S)
        assert ready, f"nothing more came: {self.written!r}"
        try:
            piece = os.read(self._fd, 65536)
        except OSError:
            return False
        self.written += piece.decode(errors="replace")
        return bool(piece)

    @property
    def screen(self) -> list[str]:
        """Give the rows that are left on the screen, colors dropped."""
        rows, row, column = [""], 0, 0
        text, place = self.written, 0
        while place < len(text):
            found = ESCAPE.match(text, place)
            if found:
                place = found.end()
                match found[2]:
                    case "A":
                        row -= int(found[1] or 1)
                    case "K":
                        rows[row] = rows[row][:column]
                    case "J":
                        rows[row:] = [rows[row][:column]]
                    case _:
                        pass
                continue
            character, place = text[place], place + 1
            if character == "\r":
                column = 0
            elif character == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            else:
                if column == self._columns:
                    row, column = row + 1, 0
                    rows += [""] * (row + 1 - len(rows))
                rows[row] = rows[row][:column].ljust(column) + character + rows[row][column + 1 :]
                column += 1
        return rows


@pytest.fixture
def weather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Path:
    assert invoke(["-q", "init", str(tmp_path)]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.agent.yaml").write_text(CLIENT)
    return tmp_path


def normal(row: str) -> str:
    row = re.sub(r"\b(thread|run)_[0-9A-Za-z]{24}\b", r"\1_…", row)
    return re.sub(r"\d+ in / \d+ out", "N in / N out", re.sub(r" *\b\d+(\.\d+)? (ms|s)\b", " N ms", row))


def test_the_screen_ends_up_as_it_is_specified(weather: Path) -> None:
    terminal = Terminal("run", "weather", QUESTION, columns=160)
    assert terminal.end() == 0
    assert [normal(row) for row in terminal.screen] == [
        "thread_…  run_…  model offline (stand-in: picks tools by word overlap, it does not think)",
        "  ● model call N ms   → get_weather",
        '  ● get_weather N ms   city="Paris" → {"celsius": 11, "sky": "rain"}',
        "  ● model call N ms   → to_fahrenheit",
        "  ● to_fahrenheit N ms   celsius=11 → 51.8",
        "  ● model call N ms",
        "  ● append message N ms",
        "Paris: 11 °C, rain. In Fahrenheit: 51.8.",
        "completed in N ms · 6 steps · N in / N out tokens (estimated)",
        'Look again:  treadle runs show @last      Ask on:  treadle run weather -c "…"',
        "",
    ]
    assert "\x1b[32m●\x1b[0m" in terminal.written


def test_an_answer_is_on_the_screen_while_it_is_written(
    weather: Path, serve: Callable[..., ChatServer]
) -> None:
    first = b"data: " + json.dumps(chunk({"role": "assistant", "content": "Once "})).encode() + b"\n\n"
    serve(Raw([first], end="hang"))
    terminal = Terminal("run", "weather", "Tell me", "-m", "test-model")
    terminal.wait_for("Once ")
    terminal.interrupt("cancelling the run")
    assert terminal.end() == codes.INTERRUPTED
    assert "cancelled after" in terminal.written
    assert "Go on" not in terminal.written


def test_a_long_answer_stays_where_it_is_and_the_steps_follow(
    weather: Path, serve: Callable[..., ChatServer]
) -> None:
    text = "\n".join(f"line {i}" for i in range(60))
    serve(Reply(text, piece=64))
    terminal = Terminal("run", "weather", "Tell me", "-m", "test-model", lines=24)
    assert terminal.end() == 0
    screen = [normal(row) for row in terminal.screen]
    assert screen.index("line 59") + 1 == screen.index("  ● model call N ms")
    assert [row for row in screen if row.startswith("line ")] == text.split("\n")


def test_no_color_and_a_dumb_terminal_are_plain(weather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal("run", "weather", QUESTION)
    assert terminal.end() == 0
    assert not re.search(r"\x1b\[[\d;]*m", terminal.written)


def test_a_model_cannot_write_escape_sequences_to_the_terminal(
    weather: Path, serve: Callable[..., ChatServer]
) -> None:
    serve(Reply("a\x1b]0;title\x07b\x1b[2Jc", piece=1000))
    terminal = Terminal("run", "weather", "Tell me", "-m", "test-model")
    assert terminal.end() == 0
    assert "a\ufffd]0;title\ufffdb\ufffd[2Jc" in terminal.written
    assert "\x1b]0" not in terminal.written
    assert "\x1b[2J" not in terminal.written


def test_the_output_of_a_client_call_is_asked_for_and_the_run_goes_on(weather: Path) -> None:
    terminal = Terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("output of pick_label_format (empty: later): ")
    terminal.type("A4\n")
    terminal.wait_for("completed in")
    assert terminal.end() == 0
    screen = "\n".join(terminal.screen)
    assert '◆ pick_label_format  is yours to run with {"carrier": "UPS"}' in screen
    assert 'carrier="UPS" → A4' in screen


def test_an_empty_output_leaves_the_run_for_later(weather: Path) -> None:
    terminal = Terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("(empty: later): ")
    terminal.type("\n")
    terminal.wait_for("treadle runs submit @last --output call_1=…")
    assert terminal.end() == codes.REQUIRES_ACTION
    again = Terminal("runs", "submit", "@last")
    again.wait_for("(empty: later): ")
    again.type("A5\n")
    assert again.end() == 0
    assert "A5" in again.written


def test_an_interrupt_at_the_question_cancels_the_run(weather: Path, capsys: Captured) -> None:
    terminal = Terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("(empty: later): ")
    terminal.interrupt("cancelling the run")
    assert terminal.end() == codes.INTERRUPTED
    assert "Traceback" not in terminal.written
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "cancelled"


def test_with_detach_an_interrupt_at_the_question_leaves_the_run_waiting(
    weather: Path, capsys: Captured
) -> None:
    terminal = Terminal("run", "labels", "Which label format for UPS?", "--detach")
    terminal.wait_for("(empty: later): ")
    terminal.interrupt("the run goes on waiting")
    terminal.wait_for("treadle runs submit @last --output call_1=…")
    assert terminal.end() == codes.INTERRUPTED
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "requires_action"


def test_sigterm_at_the_question_leaves_the_run_waiting(weather: Path, capsys: Captured) -> None:
    terminal = Terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("(empty: later): ")
    terminal.terminate("treadle runs submit @last --output call_1=…")
    assert terminal.end() == codes.TERMINATED
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "requires_action"


def test_a_conversation_on_a_terminal(weather: Path) -> None:
    terminal = Terminal("chat", "weather")
    terminal.wait_for("> ")
    terminal.type("What's the weather in Paris?\n")
    terminal.wait_for("completed in")
    terminal.wait_for("> ")
    terminal.type("and Osl\x7flo?\n")
    terminal.wait_for("Oslo: -3 °C, snow.")
    terminal.wait_for("> ")
    terminal.type("/exit\n")
    terminal.wait_for("Go on:  treadle chat weather -t thread_")
    assert terminal.end() == 0


def test_the_end_of_input_leaves_a_conversation(weather: Path) -> None:
    terminal = Terminal("chat", "weather")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_an_interrupt_at_the_prompt_warns_and_a_second_one_leaves(weather: Path) -> None:
    terminal = Terminal("chat", "weather")
    terminal.wait_for("> ")
    terminal.type("half a li")
    terminal.wait_for("half a li")
    terminal.interrupt("(Ctrl-C again leaves; so does /exit)")
    terminal.wait_for("> ")
    terminal.interrupt("\n")
    assert terminal.end() == codes.INTERRUPTED
    assert "Traceback" not in terminal.written


def test_an_interrupted_turn_does_not_end_the_conversation(
    weather: Path, serve: Callable[..., ChatServer]
) -> None:
    first = b"data: " + json.dumps(chunk({"role": "assistant", "content": "Once "})).encode() + b"\n\n"
    serve(Raw([first], end="hang"), Reply("Better."))
    terminal = Terminal("chat", "weather", "-m", "test-model")
    terminal.wait_for("> ")
    terminal.type("Tell me a story\n")
    terminal.wait_for("Once ")
    terminal.interrupt("cancelling the run")
    terminal.wait_for("cancelled after")
    terminal.wait_for("> ")
    terminal.type("A shorter one\n")
    terminal.wait_for("Better.")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", codes.INTERRUPTED, 1)])
def test_a_deletion_is_asked_for(weather: Path, capsys: Captured, answer: str, code: int, left: int) -> None:
    assert invoke(["-q", "run", "weather", QUESTION]) == 0
    terminal = Terminal("threads", "delete", "@last")
    terminal.wait_for("with its messages and runs? [y/N]: ")
    terminal.type(f"{answer}\n")
    assert terminal.end() == code
    capsys.readouterr()
    assert invoke(["threads", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["data"]) == left
