"""`treadle agents`, `threads`, `runs` and `graph`: what is in the store, for people and as JSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke

TREADLE = [sys.executable, "-m", "treadle"]
QUESTION = "What's the weather in Paris, in Fahrenheit?"
ANSWER = "Paris: 11 °C, rain. In Fahrenheit: 51.8."
Captured = pytest.CaptureFixture[str]

AGENT = "version: 1.0.0\nkind: agent\nname: {name}\nmodel: offline\ninstructions: {text}\n"


def shown(capsys: Captured, *arguments: str, code: int = 0) -> str:
    """Give what a command writes to stdout."""
    assert invoke(arguments) == code
    return capsys.readouterr().out


def document(capsys: Captured, *arguments: str, code: int = 0) -> Any:
    """Give the one JSON document that a command writes."""
    return json.loads(shown(capsys, *arguments, "--json", code=code))


# -- runs --------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_as_a_tree_with_times_and_tokens(asked_weather: Path, capsys: Captured) -> None:
    lines = shown(capsys, "runs", "show", "@last").splitlines()
    assert lines[0].endswith("  completed")
    assert lines[2] == "model   offline (stand-in: picks tools by word overlap, it does not think)"
    steps = [line for line in lines if "●" in line]
    assert [line.index("●") for line in steps] == [2, 4, 2, 4, 2, 2]
    assert all(" ms" in line for line in steps)
    assert [" in / " in line for line in steps] == [True, False, True, False, True, False]
    assert steps[1].endswith('city="Paris" → {"celsius": 11, "sky": "rain"}')
    assert any("6 steps · " in line and "(estimated)" in line for line in lines)
    assert lines[-1] == ANSWER


def test_a_run_as_json_has_its_steps(asked_weather: Path, capsys: Captured) -> None:
    run = document(capsys, "runs", "show", "@last")
    assert run["object"] == "thread.run"
    assert [step["type"] for step in run["steps"]] == ["tool_calls", "tool_calls", "message_creation"]
    assert run["usage"]["total_tokens"] == sum(step["usage"]["total_tokens"] for step in run["steps"])


def test_a_run_is_found_by_the_beginning_of_its_id(asked_weather: Path, capsys: Captured) -> None:
    id_ = document(capsys, "runs", "show", "@last")["id"]
    assert shown(capsys, "runs", "show", id_[:-3]).startswith(id_)
    assert shown(capsys, "runs", "show", id_).startswith(id_)


def test_a_list_is_a_page_in_the_wires_envelope(asked_weather: Path, capsys: Captured) -> None:
    for text in ("and Oslo?", "and Lima?"):
        assert invoke(["-q", "run", "weather", "-c", text]) == 0
    capsys.readouterr()
    first = document(capsys, "runs", "list", "-n", "2")
    assert (first["object"], len(first["data"]), first["has_more"]) == ("list", 2, True)
    second = document(capsys, "runs", "list", "-n", "2", "--after", first["last_id"])
    assert (len(second["data"]), second["has_more"]) == (1, False)
    thread = first["data"][0]["thread_id"]
    assert document(capsys, "runs", "list", "-t", thread)["data"] == first["data"] + second["data"]


def test_the_list_of_runs_has_a_row_each(asked_weather: Path, capsys: Captured) -> None:
    head, row = shown(capsys, "runs", "list").splitlines()
    assert head.split() == ["ID", "STATUS", "AGENT", "MODEL", "CREATED", "TIME", "TOKENS", "THREAD"]
    assert row.split()[1:4] == ["completed", "weather", "offline"]


def test_an_empty_store_has_empty_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    for noun in ("runs", "threads", "agents"):
        empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        assert document(capsys, noun, "list") == empty
        assert len(shown(capsys, noun, "list").splitlines()) == 1
        assert invoke([noun, "show", "@last"]) == codes.NOT_FOUND
        capsys.readouterr()


def test_outputs_are_checked_before_a_run_goes_on(
    asked_weather: Path, capsys: Captured, labels_agent: str
) -> None:
    (asked_weather / "labels.agent.yaml").write_text(labels_agent)
    assert invoke(["run", "labels", "Which label format for UPS?"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    waiting = shown(capsys, "runs", "show", "@last")
    assert "◆ pick_label_format" in waiting
    assert "waits   for the output of call_1: pick_label_format" in waiting
    assert invoke(["runs", "submit", "@last", "-o", "call_9=A4"]) == codes.FAILED
    assert "error[TR062]" in capsys.readouterr().err
    assert document(capsys, "runs", "show", "@last")["status"] == "requires_action"
    assert invoke(["runs", "submit", "@last", "-o", "pick_label_format=A4"]) == 0
    assert "A4" in capsys.readouterr().out
    assert invoke(["runs", "submit", "@last", "-o", "call_1=A4"]) == codes.FAILED
    assert 'Runs in status "completed" do not accept tool outputs.' in capsys.readouterr().err


def test_outputs_are_asked_for_only_on_a_terminal(
    asked_weather: Path, capsys: Captured, labels_agent: str
) -> None:
    (asked_weather / "labels.agent.yaml").write_text(labels_agent)
    assert invoke(["run", "labels", "Which label format for UPS?"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    done = subprocess.run(
        [*TREADLE, "runs", "submit", "@last"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == codes.USAGE
    assert "--output call_1=…" in done.stderr


def test_a_run_that_waits_is_cancelled(asked_weather: Path, capsys: Captured, labels_agent: str) -> None:
    (asked_weather / "labels.agent.yaml").write_text(labels_agent)
    assert invoke(["run", "labels", "Which label format for UPS?"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    assert document(capsys, "runs", "cancel", "@last")["status"] == "cancelling"
    assert document(capsys, "runs", "show", "@last")["status"] == "cancelled"
    assert invoke(["runs", "cancel", "@last"]) == codes.FAILED
    assert "Cannot cancel run with status 'cancelled'." in capsys.readouterr().err


def test_only_a_parked_run_is_resumed(asked_weather: Path, capsys: Captured) -> None:
    assert invoke(["runs", "resume", "@last"]) == codes.FAILED
    assert "only a run that is queued, or that its walker left, can be resumed" in capsys.readouterr().err


# -- threads -----------------------------------------------------------------------------------------------------


def test_a_thread_is_shown_as_a_conversation(asked_weather: Path, capsys: Captured) -> None:
    assert invoke(["threads", "show", "@last"]) == 0
    out, err = capsys.readouterr()
    assert out == f"user\n{QUESTION}\n\nassistant\n{ANSWER}\n\n"
    assert "2 messages" in err


def test_a_long_thread_is_shown_whole(asked_weather: Path, capsys: Captured) -> None:
    import asyncio

    from treadle import Treadle

    async def fill() -> str:
        async with Treadle() as treadle:
            messages = [{"role": "user", "content": f"line {i}"} for i in range(230)]
            return (await treadle.threads.create(messages=messages)).id

    thread = asyncio.run(fill())
    shown_messages = document(capsys, "threads", "show", thread)["messages"]
    assert [m["content"][0]["text"]["value"] for m in shown_messages] == [f"line {i}" for i in range(230)]


def test_the_list_of_threads_has_the_last_message(asked_weather: Path, capsys: Captured) -> None:
    _, row = shown(capsys, "threads", "list").splitlines()
    assert row.startswith("thread_")
    assert "assistant: Paris: 11 °C, rain." in row


def test_nothing_is_deleted_where_nobody_can_be_asked(asked_weather: Path, capsys: Captured) -> None:
    for noun in ("threads", "agents"):
        name = "@last" if noun == "threads" else "weather"
        done = subprocess.run(
            [*TREADLE, noun, "delete", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == codes.USAGE
        assert "add --yes" in done.stderr
        assert len(document(capsys, noun, "list")["data"]) == 1


def test_a_thread_is_deleted_with_its_runs(asked_weather: Path, capsys: Captured) -> None:
    thread = document(capsys, "threads", "show", "@last")["id"]
    gone = document(capsys, "threads", "delete", "@last", "--yes")
    assert gone == {"id": thread, "object": "thread.deleted", "deleted": True}
    assert document(capsys, "runs", "list")["data"] == []
    assert invoke(["threads", "show", thread]) == codes.NOT_FOUND


# -- agents ------------------------------------------------------------------------------------------------------


def test_applying_says_what_became_of_each_agent(asked_weather: Path, capsys: Captured) -> None:
    file = asked_weather / "two.yaml"
    file.write_text(AGENT.format(name="a", text="A.") + "---\n" + AGENT.format(name="b", text="B."))
    words = [line.split("  ")[:2] for line in shown(capsys, "agents", "apply", "two.yaml").splitlines()]
    assert words == [["a", "created"], ["b", "created"]]
    file.write_text(AGENT.format(name="a", text="A.") + "---\n" + AGENT.format(name="b", text="New."))
    again = [
        line.split("  ")[:2]
        for line in shown(capsys, "agents", "apply", "two.yaml", "agents/weather.agent.yaml").splitlines()
    ]
    assert again == [["a", "unchanged, version 1"], ["b", "version 2"], ["weather", "unchanged, version 1"]]


def test_nothing_is_applied_where_one_file_has_a_problem(asked_weather: Path, capsys: Captured) -> None:
    (asked_weather / "good.yaml").write_text(AGENT.format(name="good", text="A."))
    (asked_weather / "bad.yaml").write_text("version: 1.0.0\nkind: agent\nname: bad\nmodle: offline\n")
    assert invoke(["agents", "apply", "good.yaml", "bad.yaml"]) == codes.DEFINITION
    out, err = capsys.readouterr()
    assert out == ""
    assert "bad.yaml:4:1" in err
    assert [agent["name"] for agent in document(capsys, "agents", "list")["data"]] == ["weather"]


def test_an_agent_is_shown_by_name_and_version(asked_weather: Path, capsys: Captured) -> None:
    text = shown(capsys, "agents", "show", "weather")
    assert "tools         get_weather, to_fahrenheit" in text
    assert "Look the weather up with `get_weather`; never guess it." in text
    agent = document(capsys, "agents", "show", "weather", "--version", "1")
    assert (agent["object"], agent["name"]) == ("assistant", "weather")
    assert invoke(["agents", "show", "weather", "--version", "7"]) == codes.NOT_FOUND


def test_a_deleted_agent_leaves_its_runs(asked_weather: Path, capsys: Captured) -> None:
    gone = document(capsys, "agents", "delete", "weather", "--yes")
    assert gone["object"] == "assistant.deleted"
    assert document(capsys, "agents", "list")["data"] == []
    assert shown(capsys, "runs", "show", "@last").splitlines()[-1] == ANSWER


# -- graphs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["weather", "agents/weather.agent.yaml"])
def test_the_graph_of_an_agent_is_drawn(asked_weather: Path, capsys: Captured, target: str) -> None:
    text = shown(capsys, "graph", target)
    assert text.splitlines()[0] == "START"
    assert "tool_calls → tool_call" in text
    assert shown(capsys, "graph", target, "-o", "mermaid").startswith("flowchart")
    assert shown(capsys, "graph", target, "-o", "dot").startswith("digraph")
    assert shown(capsys, "graph", target, "-o", "svg").startswith("<svg")


def test_a_graph_needs_neither_store_nor_tools_nor_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [absent]}\n"
    )
    (tmp_path / "a.yaml").write_text(
        "version: 1.0.0\nkind: agent\nname: a\nmodel: not-configured\ntools:\n"
        "  - {type: function, name: f, call: 'absent:f'}\n"
    )
    assert "model_call" in shown(capsys, "graph", "a.yaml")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.yaml", "treadle.yaml"]


def test_the_trace_of_a_run_is_drawn(asked_weather: Path, capsys: Captured) -> None:
    run = document(capsys, "runs", "show", "@last")["id"]
    for target in ("@last", run, run[:12]):
        assert "get_weather" in shown(capsys, "graph", target, "-o", "mermaid")


def test_a_stored_agent_is_drawn_where_no_file_declares_it(asked_weather: Path, capsys: Captured) -> None:
    agent = document(capsys, "agents", "show", "weather")["id"]
    (asked_weather / "agents/weather.agent.yaml").unlink()
    assert shown(capsys, "graph", "weather") == shown(capsys, "graph", agent)
    assert invoke(["graph", "absent"]) == codes.NOT_FOUND


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "show", "run_absent"],
        ["runs", "cancel", "run_absent"],
        ["runs", "resume", "run_absent"],
        ["runs", "submit", "run_absent", "-o", "a=b"],
        ["runs", "list", "-t", "thread_absent"],
        ["threads", "show", "thread_absent"],
        ["threads", "delete", "thread_absent", "--yes"],
        ["agents", "show", "absent"],
        ["agents", "delete", "absent", "--yes"],
        ["graph", "run_absent"],
        ["chat", "absent"],
    ],
)
def test_what_is_not_there_is_exit_code_6(
    asked_weather: Path, capsys: Captured, arguments: list[str]
) -> None:
    assert invoke(arguments) == codes.NOT_FOUND
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error[TR050]: No ")
