"""`treadle run`: what is seen of a run, on which stream, and with which exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke
from treadle.testing.chat_server import Call, ChatServer, Raw, Reply, chunk, error_reply, sse

TREADLE = [sys.executable, "-m", "treadle"]
QUESTION = "What's the weather in Paris, in Fahrenheit?"
ANSWER = "Paris: 11 °C, rain. In Fahrenheit: 51.8.\n"
Captured = pytest.CaptureFixture[str]
Serve = Callable[..., ChatServer]

ONCE = b"data: " + json.dumps(chunk({"role": "assistant", "content": "Once "})).encode() + b"\n\n"
"""The beginning of a streamed answer."""

HELLO = """\
version: 1.0.0
kind: agent
name: hello
model: test-model
instructions: Answer.
"""

INPUTS = """\
version: 1.0.0
kind: agent
name: desk
model: offline
inputs:
  name: {type: string}
  days: {type: integer, default: 30}
  vip: {type: boolean, default: false}
instructions: "{{ name }} has {{ days }} days{% if vip %} and is a vip{% endif %}."
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels_agent: str) -> Path:
    """Give an empty folder with three agents, and go there."""
    for name, text in {"hello": HELLO, "desk": INPUTS, "labels": labels_agent}.items():
        (tmp_path / f"{name}.agent.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def normal(text: str) -> str:
    """Replace what varies: ids, times and counts of tokens."""
    text = re.sub(r"\b(thread|run)_[0-9A-Za-z]{24}\b", r"\1_…", text)
    text = re.sub(r" *\b\d+(\.\d+)? (ms|s)\b", " N ms", text)
    return re.sub(r"\d+ in / \d+ out", "N in / N out", text)


# -- what is seen ------------------------------------------------------------------------------------------------


def test_the_first_run_looks_as_it_is_specified(weather: Path) -> None:
    done = subprocess.run(
        [*TREADLE, "run", "weather", QUESTION],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert normal(done.stdout).splitlines() == [
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
    ]
    columns = {line.index(" ms   ") for line in done.stdout.splitlines() if " ms   " in line}
    assert columns == {len("  ● model call        3")}


def test_the_answer_alone_is_on_stdout(weather: Path, capsys: Captured) -> None:
    assert invoke(["run", "weather", QUESTION]) == 0
    out, err = capsys.readouterr()
    assert out == ANSWER
    assert "● get_weather" in err
    assert ANSWER not in err


def test_quiet_leaves_the_answer_alone(weather: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "weather", QUESTION]) == 0
    assert capsys.readouterr() == (ANSWER, "")


def test_quiet_with_usage_still_counts_the_tokens(weather: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "weather", QUESTION, "-u"]) == 0
    out, err = capsys.readouterr()
    assert out == ANSWER
    assert re.fullmatch(r"\d+ in / \d+ out tokens \(estimated\)\n", err)


def test_the_second_turn_sees_the_first(weather: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "weather", QUESTION]) == 0
    assert invoke(["-q", "run", "weather", "-c", "and Oslo?"]) == 0
    assert capsys.readouterr().out == ANSWER + "Oslo: -3 °C, snow. In Fahrenheit: 26.6.\n"


def test_a_thread_is_named_by_a_unique_beginning(weather: Path, capsys: Captured) -> None:
    assert invoke(["-q", "run", "weather", QUESTION]) == 0
    assert invoke(["threads", "list", "--json"]) == 0
    thread = json.loads(capsys.readouterr().out.partition("\n")[2])["data"][0]["id"]
    assert invoke(["run", "weather", "-t", thread[:-4], "and Oslo?"]) == 0
    assert thread in capsys.readouterr().err


def test_a_tool_that_fails_is_marked_and_the_model_goes_on(weather: Path, capsys: Captured) -> None:
    assert invoke(["run", "weather", "What's the weather in Atlantis?"]) == 0
    assert "  ✗ get_weather " in capsys.readouterr().err


def test_long_results_are_cut_to_the_width(
    weather: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert invoke(["run", "weather", "What's the weather in Paris?"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "● get_weather" in line]
    assert len(line) == 60
    assert line.endswith("…")


def test_the_text_is_read_from_a_pipe(weather: Path) -> None:
    for arguments in (["run", "weather"], ["run", "weather", "-"]):
        done = subprocess.run(
            [*TREADLE, "-q", *arguments], input=QUESTION, capture_output=True, text=True, check=False
        )
        assert done.stdout == ANSWER
        assert done.returncode == 0


def test_nothing_to_say_is_a_usage_error(weather: Path) -> None:
    done = subprocess.run(
        [*TREADLE, "run", "weather"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == codes.USAGE
    assert "nothing to say" in done.stderr
    assert not (weather / ".treadle/treadle.db").exists()


def test_a_file_runs_in_its_own_project_and_the_hints_lead_there(
    weather: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(weather.parent)
    agent = f"{weather.name}/agents/weather.agent.yaml"
    assert invoke(["run", agent, QUESTION]) == 0
    out, err = capsys.readouterr()
    assert out == ANSWER
    assert f"treadle runs show @last --project {weather.name}" in err
    assert (weather / ".treadle/treadle.db").exists()
    assert not (weather.parent / ".treadle").exists()
    assert invoke(["runs", "show", "@last", "--project", weather.name]) == 0


def test_one_of_several_documents_is_named_behind_the_file(
    folder: Path, capsys: Captured, labels_agent: str
) -> None:
    (folder / "two.yaml").write_text(
        INPUTS.replace("{type: string}", "{type: string, default: Bo}") + "---\n" + labels_agent
    )
    assert invoke(["-q", "run", "two.yaml#desk", "How many days?"]) == 0
    assert "30 days" in capsys.readouterr().out
    assert invoke(["run", "two.yaml", "How many days?"]) == codes.DEFINITION
    assert "two.yaml#desk" in capsys.readouterr().err


# -- inputs and options ------------------------------------------------------------------------------------------


def test_inputs_are_read_by_their_declared_type(folder: Path, capsys: Captured) -> None:
    arguments = ["-q", "run", "desk", "-i", "name=007", "-i", "days=14", "-i", "vip=true", "How many days?"]
    assert invoke(arguments) == 0
    assert "007 has 14 days and is a vip" in capsys.readouterr().out


def test_an_input_may_be_the_content_of_a_file(folder: Path, capsys: Captured) -> None:
    (folder / "name.txt").write_text("Ada")
    assert invoke(["-q", "run", "desk", "-i", "name=@name.txt", "How many days?"]) == 0
    assert "Ada has 30 days" in capsys.readouterr().out
    assert invoke(["-q", "run", "desk", "-i", "name=@@ada", "How many days?"]) == 0
    assert "@ada has 30 days" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the input 'name' is missing"),
        (["-i", "name=Bo", "-i", "days=soon"], "input 'days' does not fit"),
        (["-i", "name=Bo", "-i", "nmae=x"], "no input 'nmae'"),
        (["-i", "name"], "'name' is not name=value"),
        (["-i", "name=@absent.txt"], "absent.txt cannot be read"),
        (["-i", "name=Bo", "--option", "temprature=1"], "a run has no 'temprature'"),
        (["-i", "name=Bo", "-T", "absent"], "the agent has no tool 'absent'"),
        (["-t", "thread_x", "-c"], "exclude each other"),
        (["--json", "--jsonl"], "exclude each other"),
    ],
)
def test_what_does_not_fit_is_a_mistake_on_the_command_line(
    folder: Path, capsys: Captured, given: list[str], said: str
) -> None:
    assert invoke(["run", "desk", *given, "How many days?"]) == codes.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("error[TR070]")
    assert invoke(["threads", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == []


def test_options_of_the_model_reach_the_endpoint(folder: Path, serve: Serve, capsys: Captured) -> None:
    server = serve(Reply("Ahoy."))
    given = ["-m", "another", "-s", "Talk like a pirate.", "--option", "temperature=0.2"]
    assert invoke(["run", "hello", "Hi", *given]) == 0
    sent = server.requests[0]
    assert sent.body["model"] == "another"
    assert sent.body["temperature"] == 0.2
    assert sent.messages[0]["content"] == "Talk like a pirate."
    assert sent.messages[-1]["content"] == "Hi"
    out, err = capsys.readouterr()
    assert out == "Ahoy.\n"
    assert "model another" in err
    assert "11 in / 7 out tokens\n" in err


def test_the_environment_names_a_model_and_a_flag_wins_over_it(
    folder: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(Reply("a"), Reply("b"))
    monkeypatch.setenv("TREADLE_MODEL", "from-environment")
    assert invoke(["-q", "run", "hello", "Hi"]) == 0
    assert invoke(["-q", "run", "hello", "Hi", "-m", "from-flag"]) == 0
    assert [r.body["model"] for r in server.requests] == ["from-environment", "from-flag"]


def test_only_the_named_tools_are_offered(weather: Path, serve: Serve) -> None:
    server = serve(Reply("Warm."))
    assert invoke(["-q", "run", "weather", "Hi", "-m", "test-model", "-T", "get_weather"]) == 0
    assert [tool["function"]["name"] for tool in server.requests[0].body["tools"]] == ["get_weather"]


# -- an endpoint -------------------------------------------------------------------------------------------------


def test_an_agent_with_two_tools_runs_against_an_endpoint(
    weather: Path, serve: Serve, capsys: Captured
) -> None:
    server = serve(
        Reply(
            "Let me see.",
            calls=[Call("get_weather", '{"city": "Paris"}'), Call("get_weather", '{"city": "Oslo"}')],
        ),
        Reply(calls=[Call("to_fahrenheit", '{"celsius": 11}')]),
        Reply("11 °C is 51.8 °F."),
    )
    assert invoke(["run", "weather", QUESTION, "-m", "test-model"]) == 0
    out, err = capsys.readouterr()
    assert out == "Let me see.\n11 °C is 51.8 °F.\n"
    assert "→ get_weather ×2" in err
    assert err.count("● get_weather") == 2
    roles = [m["role"] for m in server.requests[-1].messages]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant", "tool"]


def test_the_answer_is_streamed_while_it_is_written(folder: Path, serve: Serve) -> None:
    serve(Raw([ONCE], end="hang"))
    with subprocess.Popen(
        [*TREADLE, "run", "hello", "Tell me a story"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"Once "
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == codes.INTERRUPTED
    assert out == b"\n"
    assert b"cancelling the run" in err
    assert b"cancelled after" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (error_reply(401, "Incorrect API key provided"), "Incorrect API key"),
        (error_reply(400, "context too long", code="context_length_exceeded"), "context"),
        (error_reply(404, "no such model"), "no such model"),
        (Raw("<html>proxy</html>", status=418, content_type="text/html", framing="length"), "418"),
    ],
)
def test_a_failure_of_the_endpoint_is_exit_code_4_with_its_text(
    folder: Path, serve: Serve, capsys: Captured, turn: Raw, said: str
) -> None:
    serve(turn, turn)
    assert invoke(["run", "hello", "Hi"]) == codes.MODEL
    out, err = capsys.readouterr()
    assert out == ""
    assert "failed after" in err
    assert "error[TR042]: " in err
    assert said in err
    assert "Traceback" not in err


def test_an_endpoint_that_is_not_there_is_exit_code_4(folder: Path, capsys: Captured) -> None:
    with ChatServer() as gone:
        address = gone.base_url
    connection = f"{{type: openai, base_url: '{address}', max_retries: 0}}"
    project = f"version: 1.0.0\nkind: project\nconnections:\n  default: {connection}\n"
    (folder / "treadle.yaml").write_text(project)
    assert invoke(["run", "hello", "Hi"]) == codes.MODEL
    assert "error[TR042]: connection" in capsys.readouterr().err


def test_a_model_that_is_not_configured_is_exit_code_4_and_leaves_nothing(
    weather: Path, capsys: Captured
) -> None:
    assert invoke(["run", "weather", "-m", "nope", "hi"]) == codes.MODEL
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == 'error[TR041]: model "nope" is not configured'
    assert err.splitlines()[1].startswith(
        "  known: offline, scripted        add one: connections: in treadle.yaml"
    )
    assert invoke(["threads", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == []


def test_base_url_names_the_endpoint(folder: Path, capsys: Captured) -> None:
    with ChatServer([Reply("Hello.")]) as server:
        assert invoke(["-q", "run", "hello", "Hi", "--base-url", server.base_url]) == 0
    assert capsys.readouterr().out == "Hello.\n"


def test_a_limit_is_exit_code_7(folder: Path, serve: Serve, capsys: Captured, labels_agent: str) -> None:
    (folder / "short.agent.yaml").write_text(
        labels_agent.replace("labels", "short").replace("tools:", "limits: {max_steps: 1}\ntools:")
    )
    assert invoke(["run", "short", "Which label format for UPS?"]) == codes.INCOMPLETE
    assert "incomplete (max_steps) after" in capsys.readouterr().err


def test_what_an_endpoint_says_cannot_move_the_cursor(folder: Path, serve: Serve, capsys: Captured) -> None:
    serve(error_reply(404, "no \x1b[2J such\nmodel"))
    assert invoke(["run", "hello", "Hi"]) == codes.MODEL
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "wether", "hi"], codes.NOT_FOUND),
        (["run", "agents/absent.agent.yaml", "hi"], codes.NOT_FOUND),
        (["run", "weather", "-c", "hi"], codes.NOT_FOUND),
        (["run", "weather", "-t", "thread_absent", "hi"], codes.NOT_FOUND),
        (["run", "asst_absent", "hi"], codes.NOT_FOUND),
        (["run", "broken.yaml", "hi"], codes.DEFINITION),
    ],
)
def test_what_is_not_there_or_broken_has_its_exit_code(
    weather: Path, capsys: Captured, arguments: list[str], code: int
) -> None:
    (weather / "broken.yaml").write_text("version: 1.0.0\nkind: agent\nname: broken\nmodle: offline\n")
    assert invoke(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(("error[TR", "broken.yaml:"))


# -- calls that the client answers -------------------------------------------------------------------------------


def test_a_run_that_waits_says_how_to_go_on_and_goes_on(folder: Path, capsys: Captured) -> None:
    assert invoke(["run", "labels", "Which label format for UPS?"]) == codes.REQUIRES_ACTION
    out, err = capsys.readouterr()
    assert out == ""
    assert '  ◆ pick_label_format  is yours to run with {"carrier": "UPS"}' in err
    assert "requires_action.  Later:  treadle runs submit @last --output call_1=…" in err
    assert invoke(["runs", "submit", "@last", "--output", "call_1=A4"]) == 0
    out, err = capsys.readouterr()
    assert "A4" in out
    assert 'carrier="UPS" → A4' in err


def test_a_busy_thread_says_what_it_waits_for(folder: Path, capsys: Captured) -> None:
    assert invoke(["run", "labels", "Which label format for UPS?"]) == codes.REQUIRES_ACTION
    capsys.readouterr()
    assert invoke(["run", "labels", "-c", "Hello?"]) == codes.FAILED
    err = capsys.readouterr().err
    assert "error[TR061]" in err
    assert "treadle runs submit run_" in err
    assert "treadle runs cancel run_" in err
    assert invoke(["runs", "cancel", "@last"]) == 0
    assert invoke(["-q", "run", "labels", "-c", "Hello?"]) == 0


# -- JSON --------------------------------------------------------------------------------------------------------


def test_json_is_one_document_the_wires_run(weather: Path, capsys: Captured) -> None:
    assert invoke(["run", "weather", QUESTION, "--json"]) == 0
    out, err = capsys.readouterr()
    run = json.loads(out)
    assert run["object"] == "thread.run"
    assert run["status"] == "completed"
    assert run["usage"]["total_tokens"] > 0
    assert err == ""


def test_json_of_a_run_that_waits_has_the_calls(folder: Path, capsys: Captured) -> None:
    assert invoke(["run", "labels", "Which label format for UPS?", "--json"]) == codes.REQUIRES_ACTION
    out, err = capsys.readouterr()
    (call,) = json.loads(out)["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert call["function"]["name"] == "pick_label_format"
    assert "treadle runs submit" in err


def test_jsonl_is_one_event_per_line_and_ends_in_done(weather: Path, capsys: Captured) -> None:
    assert invoke(["run", "weather", QUESTION, "--jsonl"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    *events, done = [json.loads(line) for line in out.splitlines()]
    names = [event["event"] for event in events]
    assert names[:3] == ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
    assert [event["data"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert names[-3:] == ["thread.message.completed", "thread.run.step.completed", "thread.run.completed"]
    assert done.keys() == {"event", "id", "status", "usage"}
    assert (done["event"], done["status"]) == ("done", "completed")
    assert done["id"] == events[0]["data"]["id"]
    text = "".join(
        event["data"]["delta"]["content"][0]["text"]["value"]
        for event in events
        if event["event"] == "thread.message.delta"
    )
    assert text == ANSWER.strip()
    assert events[-3]["data"]["content"][0]["text"]["value"] == text


def test_jsonl_announces_each_object_before_it_changes(weather: Path, capsys: Captured) -> None:
    assert invoke(["run", "weather", QUESTION, "--jsonl"]) == 0
    created: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines()[:-1]:
        event = json.loads(line)
        noun, _, what = event["event"].rpartition(".")
        if what == "created":
            assert event["data"]["id"] not in created
            created[event["data"]["id"]] = noun
        else:
            assert created[event["data"]["id"]] == noun
    assert sorted(created.values()) == ["thread.message", "thread.run", *["thread.run.step"] * 3]


# -- processes ---------------------------------------------------------------------------------------------------


def test_a_process_killed_between_turns_loses_nothing(weather: Path, serve: Serve, capsys: Captured) -> None:
    assert invoke(["-q", "run", "weather", QUESTION]) == 0
    with subprocess.Popen(
        [*TREADLE, "chat", "weather", "-c"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"and Oslo?\n")
        process.stdin.flush()
        assert process.stdout.readline() == "Oslo: -3 °C, snow. In Fahrenheit: 26.6.\n".encode()
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"completed"):
                break
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert invoke(["-q", "run", "weather", "-c", "and Lima?"]) == 0
    capsys.readouterr()
    assert invoke(["threads", "show", "@last", "--json"]) == 0
    said = [m["content"][0]["text"]["value"] for m in json.loads(capsys.readouterr().out)["messages"]]
    assert said == [
        QUESTION,
        ANSWER.strip(),
        "and Oslo?",
        "Oslo: -3 °C, snow. In Fahrenheit: 26.6.",
        "and Lima?",
        "Lima: 19 °C, fog. In Fahrenheit: 66.2.",
    ]


def test_what_a_process_killed_in_a_turn_left_is_cancelled_and_the_thread_goes_on(
    folder: Path, serve: Serve, capsys: Captured
) -> None:
    serve(Raw([ONCE], end="hang"), Reply("Here I am."))
    with subprocess.Popen(
        [*TREADLE, "-q", "run", "hello", "Hi"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"Once "
        process.kill()
    assert invoke(["run", "hello", "-c", "And?"]) == codes.FAILED
    assert "treadle runs cancel run_" in capsys.readouterr().err
    assert invoke(["runs", "cancel", "@last"]) == 0
    assert invoke(["-q", "run", "hello", "-c", "And?"]) == 0
    assert capsys.readouterr().out == "Here I am.\n"


def test_what_is_piped_in_must_be_text(weather: Path) -> None:
    done = subprocess.run(
        [*TREADLE, "run", "weather"],
        input=b"\xff\xfe",
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == codes.USAGE
    assert b"is not text" in done.stderr


def test_another_process_lists_the_runs_while_one_goes_on(
    folder: Path, serve: Serve, capsys: Captured
) -> None:
    serve(Raw([ONCE], end="hang"))
    with subprocess.Popen(
        [*TREADLE, "-q", "run", "hello", "Tell me"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"Once "
        assert invoke(["runs", "list"]) == 0
        assert "in_progress" in capsys.readouterr().out
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == codes.INTERRUPTED
    assert invoke(["runs", "list"]) == 0
    assert "cancelled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "number", "code"),
    [(["--detach"], signal.SIGINT, codes.INTERRUPTED), ([], signal.SIGTERM, codes.TERMINATED)],
)
def test_a_parked_run_is_resumed(
    folder: Path, serve: Serve, capsys: Captured, more: list[str], number: int, code: int
) -> None:
    server = serve(Raw([ONCE], end="hang"), Reply("Here I am."))
    with subprocess.Popen(
        [*TREADLE, "run", "hello", "Hi", *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"Once "
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == b"\n"
    assert re.search(rb"parked (run_\w{24}); go on: treadle runs resume \1\n", err)
    assert invoke(["runs", "resume", "@last"]) == 0
    assert capsys.readouterr().out == "Here I am.\n"
    assert len(server.requests) == 2


def test_a_reader_that_goes_away_does_not_stop_the_run(folder: Path, serve: Serve, capsys: Captured) -> None:
    serve(Raw([sse(*[chunk({"content": f"word {i} "}) for i in range(50)])]))
    with subprocess.Popen(
        [*TREADLE, "run", "hello", "Hi"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(timeout=20) == codes.BROKEN_PIPE
    assert "Traceback" not in err
    assert invoke(["threads", "show", "@last", "--json"]) == 0
    messages = json.loads(capsys.readouterr().out)["messages"]
    assert messages[-1]["content"][0]["text"]["value"].startswith("word 0 word 1")


def test_a_run_of_an_agent_loads_neither_rich_nor_networkx_nor_openai(weather: Path) -> None:
    code = (
        "import json, sys, treadle.cli\n"
        f"treadle.cli.invoke(['-q', 'run', 'weather', {QUESTION!r}])\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"rich", "networkx", "openai", "httpx2"}
