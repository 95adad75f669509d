"""What a person sees and is asked on a terminal: the command runs on a pseudo-terminal of its own."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.testing.chat_server import ChatServer, Raw, Reply, chunk

QUESTION = "What's the weather in Paris, in Fahrenheit?"
Launch = Callable[..., Any]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def weather(weather: Path, labels_agent: str) -> Path:
    """Make the project of `treadle init` with an agent whose tool is a client's, and go there."""
    (weather / "labels.agent.yaml").write_text(labels_agent)
    return weather


def normal(row: str) -> str:
    row = re.sub(r"\b(thread|run)_[0-9A-Za-z]{24}\b", r"\1_…", row)
    return re.sub(r"\d+ in / \d+ out", "N in / N out", re.sub(r" *\b\d+(\.\d+)? (ms|s)\b", " N ms", row))


def test_the_screen_ends_up_as_it_is_specified(weather: Path, on_terminal: Launch) -> None:
    terminal = on_terminal("run", "weather", QUESTION, columns=160)
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
    weather: Path, serve: Callable[..., ChatServer], on_terminal: Launch
) -> None:
    first = b"data: " + json.dumps(chunk({"role": "assistant", "content": "Once "})).encode() + b"\n\n"
    serve(Raw([first], end="hang"))
    terminal = on_terminal("run", "weather", "Tell me", "-m", "test-model")
    terminal.wait_for("Once ")
    terminal.interrupt("cancelling the run")
    assert terminal.end() == codes.INTERRUPTED
    assert "cancelled after" in terminal.written
    assert "Go on" not in terminal.written


def test_a_long_answer_stays_where_it_is_and_the_steps_follow(
    weather: Path, serve: Callable[..., ChatServer], on_terminal: Launch
) -> None:
    text = "\n".join(f"line {i}" for i in range(60))
    serve(Reply(text, piece=64))
    terminal = on_terminal("run", "weather", "Tell me", "-m", "test-model", lines=24)
    assert terminal.end() == 0
    screen = [normal(row) for row in terminal.screen]
    assert screen.index("line 59") + 1 == screen.index("  ● model call N ms")
    assert [row for row in screen if row.startswith("line ")] == text.split("\n")


def test_no_color_and_a_dumb_terminal_are_plain(
    weather: Path, monkeypatch: pytest.MonkeyPatch, on_terminal: Launch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = on_terminal("run", "weather", QUESTION)
    assert terminal.end() == 0
    assert not re.search(r"\x1b\[[\d;]*m", terminal.written)


def test_a_model_cannot_write_escape_sequences_to_the_terminal(
    weather: Path, serve: Callable[..., ChatServer], on_terminal: Launch
) -> None:
    serve(Reply("a\x1b]0;title\x07b\x1b[2Jc", piece=1000))
    terminal = on_terminal("run", "weather", "Tell me", "-m", "test-model")
    assert terminal.end() == 0
    assert "a\ufffd]0;title\ufffdb\ufffd[2Jc" in terminal.written
    assert "\x1b]0" not in terminal.written
    assert "\x1b[2J" not in terminal.written


def test_the_output_of_a_client_call_is_asked_for_and_the_run_goes_on(
    weather: Path, on_terminal: Launch
) -> None:
    terminal = on_terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("output of pick_label_format (empty: later): ")
    terminal.type("A4\n")
    terminal.wait_for("completed in")
    assert terminal.end() == 0
    screen = "\n".join(terminal.screen)
    assert '◆ pick_label_format  is yours to run with {"carrier": "UPS"}' in screen
    assert 'carrier="UPS" → A4' in screen


def test_an_empty_output_leaves_the_run_for_later(weather: Path, on_terminal: Launch) -> None:
    terminal = on_terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("(empty: later): ")
    terminal.type("\n")
    terminal.wait_for("treadle runs submit @last --output call_1=…")
    assert terminal.end() == codes.REQUIRES_ACTION
    again = on_terminal("runs", "submit", "@last")
    again.wait_for("(empty: later): ")
    again.type("A5\n")
    assert again.end() == 0
    assert "A5" in again.written


def test_an_interrupt_at_the_question_cancels_the_run(
    weather: Path, capsys: Captured, on_terminal: Launch
) -> None:
    terminal = on_terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("(empty: later): ")
    terminal.interrupt("cancelling the run")
    assert terminal.end() == codes.INTERRUPTED
    assert "Traceback" not in terminal.written
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "cancelled"


def test_with_detach_an_interrupt_at_the_question_leaves_the_run_waiting(
    weather: Path, capsys: Captured, on_terminal: Launch
) -> None:
    terminal = on_terminal("run", "labels", "Which label format for UPS?", "--detach")
    terminal.wait_for("(empty: later): ")
    terminal.interrupt("the run goes on waiting")
    terminal.wait_for("treadle runs submit @last --output call_1=…")
    assert terminal.end() == codes.INTERRUPTED
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "requires_action"


def test_sigterm_at_the_question_leaves_the_run_waiting(
    weather: Path, capsys: Captured, on_terminal: Launch
) -> None:
    terminal = on_terminal("run", "labels", "Which label format for UPS?")
    terminal.wait_for("(empty: later): ")
    terminal.receives(signal.SIGTERM, until="treadle runs submit @last --output call_1=…")
    assert terminal.end() == codes.TERMINATED
    assert invoke(["runs", "show", "@last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "requires_action"


def test_a_conversation_on_a_terminal(weather: Path, on_terminal: Launch) -> None:
    terminal = on_terminal("chat", "weather")
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


def test_the_end_of_input_leaves_a_conversation(weather: Path, on_terminal: Launch) -> None:
    terminal = on_terminal("chat", "weather")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_an_interrupt_at_the_prompt_warns_and_a_second_one_leaves(weather: Path, on_terminal: Launch) -> None:
    terminal = on_terminal("chat", "weather")
    terminal.wait_for("> ")
    terminal.type("half a li")
    terminal.wait_for("half a li")
    terminal.interrupt("(Ctrl-C again leaves; so does /exit)")
    terminal.wait_for("> ")
    terminal.interrupt("\n")
    assert terminal.end() == codes.INTERRUPTED
    assert "Traceback" not in terminal.written


def test_an_interrupted_turn_does_not_end_the_conversation(
    weather: Path, serve: Callable[..., ChatServer], on_terminal: Launch
) -> None:
    first = b"data: " + json.dumps(chunk({"role": "assistant", "content": "Once "})).encode() + b"\n\n"
    serve(Raw([first], end="hang"), Reply("Better."))
    terminal = on_terminal("chat", "weather", "-m", "test-model")
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
def test_a_deletion_is_asked_for(
    weather: Path, capsys: Captured, answer: str, code: int, left: int, on_terminal: Launch
) -> None:
    assert invoke(["-q", "run", "weather", QUESTION]) == 0
    terminal = on_terminal("threads", "delete", "@last")
    terminal.wait_for("with its messages and runs? [y/N]: ")
    terminal.type(f"{answer}\n")
    assert terminal.end() == code
    capsys.readouterr()
    assert invoke(["threads", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["data"]) == left
