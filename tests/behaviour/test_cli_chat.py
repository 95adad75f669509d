"""`treadle chat` with lines that are piped in: each is a turn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke

TREADLE = [sys.executable, "-m", "treadle"]
Captured = pytest.CaptureFixture[str]


def chat(*arguments: str, lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TREADLE, "chat", *arguments], input=lines, capture_output=True, text=True, check=False
    )


def thread_ids(capsys: Captured) -> list[str]:
    assert invoke(["threads", "list", "--json"]) == 0
    return [thread["id"] for thread in json.loads(capsys.readouterr().out)["data"]]


def test_each_line_is_a_turn_on_one_thread(weather: Path, capsys: Captured) -> None:
    done = chat("weather", lines="What's the weather in Paris?\n\nand Oslo?")
    assert done.returncode == 0
    assert done.stdout == "Paris: 11 °C, rain.\nOslo: -3 °C, snow.\n"
    (thread,) = thread_ids(capsys)
    assert f"Go on:  treadle chat weather -t {thread}" in done.stderr


def test_a_conversation_goes_on_in_the_newest_thread(weather: Path, capsys: Captured) -> None:
    assert chat("weather", lines="What's the weather in Paris?\n").returncode == 0
    done = chat("weather", "-c", lines="and Oslo?\n")
    assert done.stdout == "Oslo: -3 °C, snow.\n"
    assert len(thread_ids(capsys)) == 1


def test_the_words_with_a_slash_are_not_said(weather: Path, capsys: Captured) -> None:
    done = chat(
        "-q",
        "weather",
        lines="/thread\n/helo\nWeather in Paris?\n/new\nWeather in Oslo?\n/exit\nWeather in Lima?\n",
    )
    assert done.returncode == 0
    assert done.stdout == "Paris: 11 °C, rain.\nOslo: -3 °C, snow.\n"
    assert done.stderr == "/helo is not known; /help says what there is\n"
    assert len(thread_ids(capsys)) == 2


def test_help_and_thread_are_told(weather: Path, capsys: Captured) -> None:
    done = chat("weather", lines="/help\n/thread\nWeather in Paris?\n/thread\n")
    assert "/new      begin a new thread" in done.stderr
    assert "no thread yet" in done.stderr
    (thread,) = thread_ids(capsys)
    assert thread in done.stderr.splitlines()


def test_a_call_that_waits_ends_the_conversation_where_nobody_can_be_asked(weather: Path) -> None:
    (weather / "labels.agent.yaml").write_text(
        "version: 1.0.0\nkind: agent\nname: labels\nmodel: offline\ntools:\n"
        "  - {type: function, name: pick_label_format, description: Ask which label format a printer takes.,\n"
        "     parameters: {type: object, properties: {}}}\n"
    )
    done = chat("labels", lines="Which label format?\nAnd now?\n")
    assert done.returncode == codes.REQUIRES_ACTION
    assert "treadle runs submit run_" in done.stderr
    assert done.stdout == ""


def test_the_code_is_that_of_the_first_run_that_did_not_complete(weather: Path) -> None:
    done = chat("weather", "-m", "nope", lines="Weather in Paris?\n")
    assert done.returncode == codes.MODEL
    assert "error[TR041]" in done.stderr


def test_nothing_said_leaves_no_thread(weather: Path, capsys: Captured) -> None:
    assert chat("weather", lines="").returncode == 0
    assert thread_ids(capsys) == []
