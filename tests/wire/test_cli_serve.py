"""`treadle serve` as an operator sees it: where it serves, its first key, and how it stops."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from treadle.cli import exit as codes

SERVE = [sys.executable, "-m", "treadle", "serve"]
LAST = "Ctrl-C stops"


class Operator:
    """A server that was started from the command line, and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        assert process.stderr is not None
        for line in process.stderr:
            self.said += line
            if line.startswith(LAST):
                break

    @property
    def url(self) -> str:
        return self.said.partition(" at ")[2].partition("\n")[0]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Generator[Operator]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TREADLE_", "OPENAI_"))}
    process = subprocess.Popen(
        [*SERVE, "--port", "0", *options],
        cwd=folder,
        env=environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield Operator(process)
    finally:
        process.kill()
        process.communicate()


def test_the_first_start_shows_a_key_once_and_the_next_one_none(tmp_path: Path) -> None:
    with serving(tmp_path) as operator:
        url = operator.url
        assert httpx2.get(f"{url}/v1/threads").status_code == 401
        code, key, _ = operator.end()
    assert code == 128 + signal.SIGTERM
    key = key.strip()
    with serving(tmp_path) as operator:
        assert "key  " not in operator.said
        assert httpx2.get(f"{operator.url}/v1/threads", headers={"api-key": key}).status_code == 200
        assert operator.end()[1] == ""


def test_the_key_of_the_environment_opens_and_none_is_made(tmp_path: Path) -> None:
    with serving(tmp_path, TREADLE_API_KEY="a-key-of-the-process") as operator:
        headers = {"authorization": "Bearer a-key-of-the-process"}
        assert httpx2.get(f"{operator.url}/v1/threads", headers=headers).status_code == 200
        assert operator.end()[1] == ""


def test_serving_without_keys_says_so_and_is_refused_where_others_could_come(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-auth") as operator:
        assert "no key is asked for" in operator.said
        assert httpx2.get(f"{operator.url}/v1/threads").status_code == 200
    with serving(tmp_path, "--no-auth", "--host", "0.0.0.0") as operator:
        assert "TR070" in operator.said
        assert operator.process.wait(10) == codes.DEFINITION


def test_a_port_that_is_taken_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-auth") as first:
        port = first.url.rpartition(":")[2]
        with serving(tmp_path, "--no-auth", "--port", port) as second:
            assert "--port 0" in second.said
            assert second.process.wait(10) == codes.DEFINITION


def test_requests_are_logged_as_json_without_what_they_say(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-auth", "--log", "json") as operator:
        body = {"metadata": {"note": "confidential"}}
        made = httpx2.post(f"{operator.url}/v1/threads?who=secret", json=body).json()
        _, _, err = operator.end(signal.SIGINT)
    (line,) = [json.loads(text) for text in err.splitlines() if text.startswith("{")]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/threads", 200)
    assert "confidential" not in err
    assert "secret" not in err
    assert made["id"] not in err


def test_agents_of_files_are_assistants_and_one_model_answers_for_all(tmp_path: Path) -> None:
    file = tmp_path / "greeter.agent.yaml"
    file.write_text(
        "version: 1.0.0\nkind: agent\nname: greeter\nmodel: gpt-of-somebody\ninstructions: Greet.\n"
    )
    with serving(tmp_path, "--no-auth", "-m", "offline", str(file)) as operator:
        with httpx2.Client(base_url=f"{operator.url}/v1") as client:
            (assistant,) = client.get("/assistants").json()["data"]
            assert assistant["name"] == "greeter"
            body = {
                "assistant_id": "greeter",
                "thread": {"messages": [{"role": "user", "content": "Hello!"}]},
            }
            with client.stream("POST", "/threads/runs", json=body | {"stream": True}) as answer:
                events = [
                    line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")
                ]
        assert events[-2:] == ["thread.run.completed", "done"]


def test_what_is_under_way_is_ended_and_streams_are_told_when_it_stops(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "ask_person", "description": "Ask a person anything."}}
    with (
        serving(tmp_path, "--no-auth", "-m", "offline") as operator,
        httpx2.Client(base_url=operator.url) as client,
    ):
        agent = client.post("/assistants", json={"model": "m", "tools": [tool]}).json()
        said = {"messages": [{"role": "user", "content": "Please ask person anything"}]}
        body = {"assistant_id": agent["id"], "thread": said, "tool_choice": "required", "stream": True}
        events = client.post("/threads/runs", json=body).text
        run = next(
            json.loads(t[6:]) for t in events.splitlines() if t.startswith("data: {") and '"thread.run"' in t
        )
        place = f"/threads/{run['thread_id']}/runs/{run['id']}/events"
        with client.stream("GET", place) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "id: 1"
            operator.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert "event: error" in rest
        assert operator.process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("command", [["serve"], ["files"], ["vector-stores"], ["keys"]])
def test_the_commands_of_the_server_explain_themselves(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "treadle", *command, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: treadle")
