"""Runs from their first status to their last, approvals, lines of runs, and one store seen from all sides."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from treadle.cli import invoke
from treadle.objects.project import ServeSpec
from treadle.testing.chat_server import ChatServer, Raw, Reply, error_reply
from treadle.testing.event_reader import read_events
from treadle.testing.fakes import FrozenClock

pytestmark = pytest.mark.filterwarnings(
    "ignore:The Assistants API is deprecated:DeprecationWarning", "ignore:deprecated:DeprecationWarning"
)
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
ASK = {"calls": [{"id": "a", "name": "get_weather"}]}
OPEN = ("queued", "in_progress", "requires_action", "cancelling")


class Desk:
    """An assistant and a thread, over HTTP."""

    def __init__(self, http: httpx2.Client, **assistant: Any) -> None:
        self.http = http
        self.assistant = (
            assistant.pop("id", None) or self.post("/assistants", {"model": "scripted"} | assistant)["id"]
        )
        self.thread = self.post("/threads", {"messages": [{"role": "user", "content": "Hello"}]})["id"]
        self.runs = f"/threads/{self.thread}/runs"

    def post(self, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        answer = self.http.post(f"/v1{path}", json=body or {}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def run(self, **fields: Any) -> dict[str, Any]:
        return self.post(self.runs, {"assistant_id": self.assistant} | fields)

    def submit(self, run: dict[str, Any], **body: Any) -> dict[str, Any]:
        return self.post(f"{self.runs}/{run['id']}/submit_tool_outputs", body)

    def until(self, run: dict[str, Any], *statuses: str) -> dict[str, Any]:
        """Wait until the run has one of these statuses, whatever else ends it."""
        end = time.monotonic() + 20
        while (now := self.get(f"{self.runs}/{run['id']}"))["status"] not in statuses:
            assert now["status"] in OPEN, now
            assert time.monotonic() < end, now
        return now

    def texts(self) -> list[str]:
        found = self.get(f"/threads/{self.thread}/messages?order=asc")["data"]
        return [m["content"][0]["text"]["value"] for m in found]


@pytest.fixture
def reach() -> Iterator[Callable[[Any], httpx2.Client]]:
    """Give a function that makes a client for a server of the test's own."""
    made: list[httpx2.Client] = []

    def client(own: Any) -> httpx2.Client:
        made.append(httpx2.Client(base_url=own.url, trust_env=False, timeout=20))
        return made[-1]

    yield client
    for one in made:
        one.close()


# -- statuses --------------------------------------------------------------------------------------------------------


def test_a_run_shows_in_every_status_what_belongs_to_it(http, model):
    desk = Desk(http, tools=[WEATHER])
    held = model.holds("Let me", " see.")
    model.says(ASK, "Rain.")
    run = desk.run()
    held.wait()
    working = desk.until(run, "in_progress")
    assert working["started_at"] is not None
    assert working["expires_at"] == working["created_at"] + 600
    assert (working["usage"], working["required_action"], working["completed_at"]) == (None, None, None)
    held.release()
    desk.until(run, "completed")
    waiting = desk.until(desk.run(), "requires_action")
    assert waiting["required_action"] == {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
            ]
        },
    }
    assert (waiting["usage"], waiting["expires_at"]) == (None, waiting["created_at"] + 600)
    submitted = desk.submit(waiting, tool_outputs=[{"tool_call_id": "a", "output": "rain"}])
    assert submitted["status"] in ("queued", "in_progress", "completed")
    assert submitted["required_action"] is None
    done = desk.until(waiting, "completed")
    assert done["usage"]["total_tokens"] > 0
    assert (done["required_action"], done["expires_at"], done["last_error"]) == (None, None, None)


def test_a_poller_never_sees_the_action_again_that_was_answered(http, model):
    desk = Desk(http, tools=[WEATHER])
    rounds = 8
    model.says(*[{"calls": [{"id": f"call {n}", "name": "get_weather"}]} for n in range(rounds)], "Done.")
    run = desk.run()
    for n in range(rounds):
        waiting = desk.until(run, "requires_action")
        desk.submit(waiting, tool_outputs=[{"tool_call_id": f"call {n}", "output": "rain"}])
        while (now := desk.get(f"{desk.runs}/{run['id']}"))["status"] in ("queued", "in_progress"):
            assert now["required_action"] is None
        assert f"call {n}" not in json.dumps(now["required_action"])
    assert desk.until(run, "completed")["required_action"] is None


def test_a_run_that_its_client_never_answers_expires_and_frees_its_thread(alone, reach, model):
    clock = FrozenClock()
    own = alone(model, clock=clock)
    desk = Desk(reach(own), tools=[WEATHER])
    model.says(ASK, "At last.")
    run = desk.until(desk.run(), "requires_action")
    assert run["expires_at"] == run["created_at"] + 600

    async def wait(seconds: float) -> None:
        clock.advance(seconds)

    own.do(wait(599))
    assert desk.get(f"{desk.runs}/{run['id']}")["status"] == "requires_action"
    own.do(wait(2))
    expired = desk.until(run, "expired")
    assert (expired["expires_at"], expired["required_action"], expired["completed_at"]) == (None, None, None)
    [step] = desk.get(f"{desk.runs}/{run['id']}/steps")["data"]
    assert step["status"] == "expired"
    assert step["expired_at"] is not None
    names = [e.name for e in read_events(desk.http.get(f"/v1{desk.runs}/{run['id']}/events").content)]
    assert names[-3:] == ["thread.run.step.expired", "thread.run.expired", "done"]
    refused = desk.http.post(f"/v1{desk.runs}/{run['id']}/submit_tool_outputs", json={"tool_outputs": []})
    assert refused.json()["error"]["message"] == 'Runs in status "expired" do not accept tool outputs.'
    desk.until(desk.run(), "completed")


def test_outputs_do_not_make_a_run_live_longer(alone, reach, model):
    clock = FrozenClock()
    own = alone(model, clock=clock)
    desk = Desk(reach(own), tools=[WEATHER])
    model.says(ASK, ASK)
    run = desk.until(desk.run(), "requires_action")

    async def wait(seconds: float) -> None:
        clock.advance(seconds)

    own.do(wait(500))
    desk.submit(run, tool_outputs=[{"tool_call_id": "a", "output": "rain"}])
    again = desk.until(run, "requires_action")
    assert again["expires_at"] == run["expires_at"]
    own.do(wait(101))
    desk.until(run, "expired")


def test_a_server_can_let_runs_live_for_ever(alone, reach, model):
    own = alone(model, spec=ServeSpec(run_ttl="0s"))
    desk = Desk(reach(own), tools=[WEATHER])
    model.says(ASK)
    assert desk.until(desk.run(), "requires_action")["expires_at"] is None


@pytest.mark.parametrize(
    ("turn", "code", "said"),
    [
        (
            error_reply(429, "Rate limit is exceeded. Try again in 7 seconds."),
            "rate_limit_exceeded",
            "Try again",
        ),
        (error_reply(500, "The endpoint is ill."), "server_error", "The endpoint is ill."),
        (error_reply(401, "Incorrect API key provided."), "server_error", ""),
        (error_reply(400, "too long", code="context_length_exceeded"), "invalid_prompt", ""),
        (Raw(b"", end="cut"), "server_error", ""),
        (Raw(b"<html>", content_type="text/html"), "server_error", ""),
    ],
    ids=["429", "500", "401", "too long", "cut", "html"],
)
def test_an_endpoint_that_fails_fails_the_run_and_no_request(alone, reach, monkeypatch, turn, code, said):
    with ChatServer(answer=lambda _: turn) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        desk = Desk(reach(alone()), model="gpt-test")
        run = desk.until(desk.run(), "failed")
    assert run["last_error"]["code"] == code
    assert said in run["last_error"]["message"]
    assert "a-key" not in json.dumps(run)
    assert run["failed_at"] is not None


def test_a_real_endpoint_is_sent_what_the_assistant_is(alone, reach, monkeypatch):
    with ChatServer([Reply("Hi.")]) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        desk = Desk(
            reach(alone()), model="gpt-test", instructions="Be brief.", tools=[WEATHER], temperature=0.5,
        )  # fmt: skip
        desk.until(desk.run(max_completion_tokens=500, tool_choice="required"), "completed")
        [request] = endpoint.requests
    assert request.messages[0] == {"role": "system", "content": "Be brief."}
    assert request.body["tools"][0]["function"]["name"] == "get_weather"
    assert (request.body["temperature"], request.body["tool_choice"]) == (0.5, "required")


# -- approvals -------------------------------------------------------------------------------------------------------

DANGER = {
    "type": "function",
    "function": {"name": "drop", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def dangerous(alone, reach, model, tmp_path) -> tuple[Desk, list[str]]:
    """Give a desk whose agent, a document's, has a function that needs approval, and what the function did."""
    dropped: list[str] = []

    def drop(table: str) -> str:
        """Drop a table."""
        dropped.append(table)
        return f"dropped {table}"

    own = alone(model, tools=[drop])
    document = tmp_path / "cleaner.yaml"
    document.write_text(
        "version: 1.0.0\nkind: agent\nname: cleaner\nmodel: scripted\n"
        "tools: [{type: function, name: drop, runs: server, approval: always,\n"
        "  parameters: {type: object, properties: {table: {type: string}}, required: [table]}}]\n"
    )
    agent = own.do(own.treadle.agents.open(str(document)))
    return Desk(reach(own), id=agent.id), dropped


DROPS = {
    "calls": [
        {"id": "a", "name": "drop", "arguments": {"table": "old"}},
        {"id": "b", "name": "drop", "arguments": {"table": "new"}},
    ]
}


def test_calls_that_need_consent_run_as_a_person_decides(dangerous, model):
    desk, dropped = dangerous
    model.says(DROPS, "Done.")
    run = desk.until(desk.run(), "requires_action")
    action = run["required_action"]
    assert action["type"] == "submit_tool_approval"
    assert "submit_tool_outputs" not in action
    calls = action["submit_tool_approval"]["tool_calls"]
    assert [(c["id"], json.loads(c["function"]["arguments"])["table"]) for c in calls] == [
        ("a", "old"),
        ("b", "new"),
    ]
    assert dropped == []
    decisions = [{"tool_call_id": "a", "approve": True}, {"tool_call_id": "b", "approve": False}]
    after = desk.submit(run, tool_approvals=decisions)
    assert after["required_action"] is None
    desk.until(run, "completed")
    assert dropped == ["old"]
    results = [row.plain for row in model.requests[-1].messages if row.role == "tool"]
    assert results[0] == "dropped old"
    assert "rejected" in results[1]
    replayed = read_events(desk.http.get(f"/v1{desk.runs}/{run['id']}/events").content)
    [asked] = [e.data["required_action"] for e in replayed if e.name == "thread.run.requires_action"]
    assert asked == action


def test_consent_is_streamed_on(dangerous, model):
    desk, dropped = dangerous
    model.says(DROPS, "Done.")
    first = desk.http.post(f"/v1{desk.runs}", json={"assistant_id": desk.assistant, "stream": True})
    events = read_events(first.content)
    assert events[-2].data["required_action"]["type"] == "submit_tool_approval"
    run = events[-2].data
    body = {"tool_approvals": [{"tool_call_id": i, "approve": True} for i in "ab"], "stream": True}
    second = read_events(desk.http.post(f"/v1{desk.runs}/{run['id']}/submit_tool_outputs", json=body).content)
    assert [e.name for e in second if e.name.startswith("thread.run.") and "delta" not in e.name][
        -1
    ] == "thread.run.completed"
    assert sorted(dropped) == ["new", "old"]


@pytest.mark.parametrize(
    "body",
    [
        {"tool_approvals": [{"tool_call_id": "a", "approve": True}]},
        {"tool_approvals": [{"tool_call_id": "a", "approve": True}, {"tool_call_id": "c", "approve": True}]},
        {"tool_approvals": []},
        {"tool_outputs": [{"tool_call_id": "a", "output": "x"}, {"tool_call_id": "b", "output": "x"}]},
    ],
)
def test_nothing_else_is_taken_for_consent(dangerous, model, body):
    desk, dropped = dangerous
    model.says(DROPS, "Done.")
    run = desk.until(desk.run(), "requires_action")
    answer = desk.http.post(f"/v1{desk.runs}/{run['id']}/submit_tool_outputs", json=body)
    assert answer.status_code == 400, answer.text
    assert desk.get(f"{desk.runs}/{run['id']}") == run
    assert dropped == []


def test_consent_to_a_run_that_waits_for_none_is_refused(http, model):
    desk = Desk(http, tools=[WEATHER])
    model.says(ASK)
    run = desk.until(desk.run(), "requires_action")
    body = {"tool_approvals": [{"tool_call_id": "a", "approve": True}]}
    answer = http.post(f"/v1{desk.runs}/{run['id']}/submit_tool_outputs", json=body)
    assert answer.status_code == 400
    desk.post(f"{desk.runs}/{run['id']}/cancel")
    again = http.post(f"/v1{desk.runs}/{run['id']}/submit_tool_outputs", json=body)
    assert again.json()["error"]["message"] == 'Runs in status "cancelled" do not accept tool approvals.'


# -- lines -----------------------------------------------------------------------------------------------------------

QUEUE = {"x-treadle-on-busy": "queue"}


def test_a_run_can_wait_for_its_turn(http, model):
    desk = Desk(http)
    held = model.holds("First", ".")
    model.says("Second.")
    first = desk.run()
    held.wait()
    body = {"assistant_id": desk.assistant, "additional_messages": [{"role": "user", "content": "And then?"}]}
    second = desk.post(desk.runs, body, **QUEUE)
    assert (second["status"], second["started_at"]) == ("queued", None)
    assert desk.texts() == ["Hello"]
    held.release()
    desk.until(first, "completed")
    desk.until(second, "completed")
    assert desk.texts() == ["Hello", "First.", "And then?", "Second."]


def test_a_run_in_line_is_streamed_from_its_making_to_its_end(http, model):
    desk = Desk(http)
    held = model.holds("First", ".")
    model.says("Second one.")
    desk.run()
    held.wait()
    body = {"assistant_id": desk.assistant, "stream": True}
    with http.stream("POST", f"/v1{desk.runs}", json=body, headers=QUEUE) as response:
        pieces = response.iter_raw()
        heard = next(pieces)
        assert b"thread.run.in_progress" not in heard
        held.release()
        heard += b"".join(pieces)
    events = read_events(heard)
    assert [e.name for e in events][:3] == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
    ]
    assert [e.name for e in events][-2:] == ["thread.run.completed", "done"]
    assert (
        "".join(
            e.data["delta"]["content"][0]["text"]["value"] for e in events if e.name == "thread.message.delta"
        )
        == "Second one."
    )


def test_a_line_is_for_those_who_ask_for_it(http, model):
    desk = Desk(http, tools=[WEATHER])
    model.says(ASK)
    desk.until(desk.run(), "requires_action")
    url = f"/v1{desk.runs}"
    assert http.post(url, json={"assistant_id": desk.assistant}).status_code == 400
    assert (
        http.post(
            url, json={"assistant_id": desk.assistant}, headers={"x-treadle-on-busy": "reject"}
        ).status_code
        == 400
    )
    odd = http.post(url, json={"assistant_id": desk.assistant}, headers={"x-treadle-on-busy": "maybe"})
    assert "x-treadle-on-busy" in odd.json()["error"]["message"]
    waiting = desk.post(desk.runs, {"assistant_id": desk.assistant}, **QUEUE)
    assert desk.post(f"{desk.runs}/{waiting['id']}/cancel")["status"] == "cancelling"
    assert desk.get(f"{desk.runs}/{waiting['id']}")["status"] == "cancelled"


# -- one store, many faces -------------------------------------------------------------------------------------------

DESK = """\
version: 1.0.0
kind: agent
name: desk
model: offline
inputs: {who: {type: string, default: you}}
instructions: "Help {{ who }}."
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Make a project with an agent and go there; the command line and the server then have one store."""
    (tmp_path / "desk.yaml").write_text(DESK)
    (tmp_path / "treadle.yaml").write_text("version: 1.0.0\nkind: project\nstore: sqlite:///treadle.db\n")
    monkeypatch.chdir(tmp_path)
    assert invoke(["-q", "run", "desk.yaml", "Hello"]) == 0
    capsys.readouterr()
    return tmp_path


def test_an_agent_made_over_http_is_the_command_lines_too(folder, alone, reach, capsys):
    desk = Desk(reach(alone()), model="offline", name="From afar", instructions="Be {{ brief }}.")
    assert invoke(["agents", "list", "--json"]) == 0
    listed = {a["id"]: a for a in json.loads(capsys.readouterr().out)["data"]}
    assert listed[desk.assistant]["name"] == "From afar"
    assert invoke(["agents", "show", desk.assistant]) == 0
    assert "Be {{ brief }}." in capsys.readouterr().out
    assert invoke(["run", desk.assistant, "Hello", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["status"] == "completed"
    assert desk.get(f"/threads/{run['thread_id']}/runs/{run['id']}")["assistant_id"] == desk.assistant


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_documents_agent_is_run_over_http(folder, alone, reach, by):
    http = reach(alone())
    [agent] = http.get("/v1/assistants").json()["data"]
    assert (agent["name"], agent["instructions"]) == ("desk", "Help {{ who }}.")
    desk = Desk(http, id=agent[by])
    run = desk.until(desk.run(inputs={"who": "me"}), "completed")
    assert run["assistant_id"] == agent["id"]
    assert desk.texts()[-1]
    wrong = http.post(f"/v1{desk.runs}", json={"assistant_id": agent[by], "inputs": {"whom": "me"}})
    assert wrong.status_code == 400


def test_a_run_over_http_is_followed_and_shown_on_the_command_line(folder, alone, reach, capsys):
    desk = Desk(reach(alone()), model="offline")
    run = desk.until(desk.run(), "completed")
    assert invoke(["runs", "show", run["id"]]) == 0
    assert "completed" in capsys.readouterr().out
    assert invoke(["threads", "show", desk.thread]) == 0
    assert "Hello" in capsys.readouterr().out


def test_instructions_over_http_are_no_template(http, model):
    text = "Say {{ 7 * 6 }} and {% raw %} as it is: {{ config }}, ${env:HOME}."
    desk = Desk(http, instructions=text)
    assert desk.get(f"/assistants/{desk.assistant}")["instructions"] == text
    model.says("Yes.", "Yes.")
    desk.until(desk.run(), "completed")
    assert model.requests[-1].instructions == text
    more = "And {{ this }}."
    run = desk.until(desk.run(instructions=text, additional_instructions=more), "completed")
    assert run["instructions"] == f"{text}\n\n{more}"
    assert model.requests[-1].instructions == f"{text}\n\n{more}"


def test_a_document_that_was_changed_over_http_keeps_what_http_cannot_say(folder, alone, reach):
    http = reach(alone())
    [agent] = http.get("/v1/assistants").json()["data"]
    changed = http.post(f"/v1/assistants/{agent['id']}", json={"metadata": {"a": "1"}}).json()
    assert changed == agent | {"metadata": {"a": "1"}}
    desk = Desk(http, id=agent["id"])
    desk.until(desk.run(inputs={"who": "me"}), "completed")


def test_objects_over_http_survive_the_server(alone, reach, model, tmp_path):
    from treadle.testing.served import served

    store = f"sqlite:///{tmp_path / 'kept.db'}"
    with served(store, project=tmp_path, providers={"scripted": model}) as first:
        desk = Desk(reach(first), tools=[WEATHER], name="Wanda")
        model.says(ASK, "Rain.")
        run = desk.until(desk.run(), "requires_action")
    with served(store, project=tmp_path, providers={"scripted": model}) as second:
        desk.http = reach(second)
        assert desk.get(f"{desk.runs}/{run['id']}") == run
        desk.submit(run, tool_outputs=[{"tool_call_id": "a", "output": "rain"}])
        desk.until(run, "completed")
        with OpenAI(base_url=f"{second.url}/v1", api_key="any") as client:
            assert client.beta.assistants.retrieve(desk.assistant).name == "Wanda"
