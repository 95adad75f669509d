"""What goes wrong over the wire: the texts that clients look for, the envelope, and the headers that make them repeat."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx2
import openai
import pytest
from azure.ai.agents import AgentsClient
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from openai import OpenAI

from treadle.objects.project import ServeLimits, ServeSpec
from treadle.store.sqlite import SqliteStore
from treadle.testing.storage_faults import Fault, FaultDoor

pytestmark = pytest.mark.filterwarnings(
    "ignore:The Assistants API is deprecated:DeprecationWarning", "ignore:deprecated:DeprecationWarning"
)
PROJECT = "/api/projects/wire"
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
ASK = {"calls": [{"id": "a", "name": "get_weather"}, {"id": "b", "name": "get_weather"}]}
NONE = {
    "assistant": "asst_" + "0" * 24, "thread": "thread_" + "0" * 24, "message": "msg_" + "0" * 24,
    "run": "run_" + "0" * 24, "step": "step_" + "0" * 24,
}  # fmt: skip


def refused(answer: httpx2.Response, status: int = 400) -> dict[str, Any]:
    """Give what an answer says of what went wrong; whatever it is, clients can read it and do not repeat in vain."""
    assert answer.status_code == status, answer.text
    assert answer.status_code != 409
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    body = answer.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    else:
        assert "retry-after" not in answer.headers
    if status < 500 and status != 429:
        assert answer.headers["x-should-retry"] == "false"
        assert error["type"] == "invalid_request_error"
    return error


class Desk:
    """An assistant and a thread of Azure's project, which both clients can reach."""

    def __init__(self, http: httpx2.Client, model: Any) -> None:
        self.http, self.model = http, model
        self.assistant = self.post("/assistants", {"model": "scripted", "tools": [WEATHER]}).json()["id"]
        self.thread = self.post("/threads", {"messages": [{"role": "user", "content": "Hello"}]}).json()["id"]
        self.runs = f"/threads/{self.thread}/runs"

    def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        return self.http.post(f"{PROJECT}{path}", json={} if body is None else body, **more)

    def get(self, path: str, **query: Any) -> httpx2.Response:
        return self.http.get(f"{PROJECT}{path}", params=query)

    def run(self, *script: Any, **fields: Any) -> dict[str, Any]:
        """Run until the run rests."""
        self.model.says(*script)
        stream = self.post(self.runs, {"assistant_id": self.assistant, "stream": True} | fields)
        assert stream.status_code == 200, stream.text
        return self.get(self.runs).json()["data"][0]

    def submit(self, run: dict[str, Any], *ids: str) -> httpx2.Response:
        outputs = [{"tool_call_id": id_, "output": "x"} for id_ in ids]
        return self.post(f"{self.runs}/{run['id']}/submit_tool_outputs", {"tool_outputs": outputs})

    def cancel(self, run: dict[str, Any]) -> httpx2.Response:
        return self.post(f"{self.runs}/{run['id']}/cancel")


@pytest.fixture
def desk(http: httpx2.Client, model: Any) -> Desk:
    return Desk(http, model)


@pytest.fixture(scope="module")
def oai_project(server: Any) -> Iterator[OpenAI]:
    """Give OpenAI's client for the project that Azure's has."""
    with OpenAI(base_url=f"{server.url}{PROJECT}", api_key="any", max_retries=0) as client:
        yield client


def both_say(
    text: str, ask_openai: Callable[[], Any], ask_azure: Callable[[], Any], *, status: int = 400
) -> None:
    """Make sure that both clients raise what their programs catch, with the same words."""
    of_openai, of_azure = {
        400: (openai.BadRequestError, HttpResponseError),
        404: (openai.NotFoundError, ResourceNotFoundError),
    }[status]
    with pytest.raises(of_openai) as first:
        ask_openai()
    assert first.value.body["message"] == text
    assert first.value.type == "invalid_request_error"
    assert first.value.code is None
    with pytest.raises(of_azure) as second:
        ask_azure()
    assert second.value.status_code == status
    assert json.loads(second.value.response.text())["error"]["message"] == text
    assert text in str(second.value)


# -- the thread is busy ----------------------------------------------------------------------------------------------


def test_a_thread_with_an_active_run_takes_no_messages(desk, oai_project, azure):
    run = desk.run(ASK)
    both_say(
        f"Can't add messages to {desk.thread} while a run {run['id']} is active.",
        lambda: oai_project.beta.threads.messages.create(desk.thread, role="user", content="More"),
        lambda: azure.messages.create(desk.thread, role="user", content="More"),
    )
    [first] = desk.get(f"/threads/{desk.thread}/messages").json()["data"]
    refused(desk.http.delete(f"{PROJECT}/threads/{desk.thread}/messages/{first['id']}"))


def test_a_thread_with_an_active_run_takes_no_other(desk, oai_project, azure):
    run = desk.run(ASK)
    both_say(
        f"Thread {desk.thread} already has an active run {run['id']}.",
        lambda: oai_project.beta.threads.runs.create(desk.thread, assistant_id=desk.assistant),
        lambda: azure.runs.create(desk.thread, agent_id=desk.assistant),
    )
    stream = desk.post(desk.runs, {"assistant_id": desk.assistant, "stream": True})
    assert refused(stream)["message"].endswith(f"already has an active run {run['id']}.")


@pytest.mark.parametrize("status", ["in_progress", "requires_action"])
def test_what_changes_no_content_of_a_busy_thread_is_let_in(desk, model, status):
    if status == "requires_action":
        run = desk.run(ASK)
    else:
        held = model.holds("Let me", " think.")
        run = desk.post(desk.runs, {"assistant_id": desk.assistant}).json()
        held.wait()
    [message] = desk.get(f"/threads/{desk.thread}/messages").json()["data"]
    for path in (
        f"/threads/{desk.thread}",
        f"/threads/{desk.thread}/messages/{message['id']}",
        f"{desk.runs}/{run['id']}",
    ):
        changed = desk.post(path, {"metadata": {"a": "1"}})
        assert changed.status_code == 200
        assert changed.json()["metadata"] == {"a": "1"}
        assert desk.get(path).json()["metadata"] == {"a": "1"}
    assert desk.get(f"{desk.runs}/{run['id']}").json()["status"] == status
    if status == "in_progress":
        held.release()


# -- outputs and cancels that come at the wrong time -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("Hi.", "completed"),
        ({"error": {"kind": "http_500"}}, "failed"),
        ({"text": "Hi", "finish_reason": "length"}, "incomplete"),
        (None, "cancelled"),
    ],
)
def test_a_run_that_has_ended_takes_neither_outputs_nor_a_cancel(desk, oai_project, azure, script, status):
    run = desk.run(script or ASK)
    if script is None:
        assert desk.cancel(run).json()["status"] == "cancelling"
    assert desk.get(f"{desk.runs}/{run['id']}").json()["status"] == status
    outputs = [{"tool_call_id": "a", "output": "x"}]
    both_say(
        f'Runs in status "{status}" do not accept tool outputs.',
        lambda: oai_project.beta.threads.runs.submit_tool_outputs(
            run["id"], thread_id=desk.thread, tool_outputs=outputs
        ),
        lambda: azure.runs.submit_tool_outputs(desk.thread, run["id"], tool_outputs=outputs),
    )
    both_say(
        f"Cannot cancel run with status '{status}'.",
        lambda: oai_project.beta.threads.runs.cancel(run["id"], thread_id=desk.thread),
        lambda: azure.runs.cancel(desk.thread, run["id"]),
    )


def test_outputs_are_not_taken_while_the_run_goes_on(desk, model):
    held = model.holds("Let me", " think.")
    run = desk.post(desk.runs, {"assistant_id": desk.assistant}).json()
    held.wait()
    assert (
        refused(desk.submit(run, "a"))["message"]
        == 'Runs in status "in_progress" do not accept tool outputs.'
    )
    held.release()


@pytest.mark.parametrize(("given"), [["a"], ["b"], ["a", "a"], ["a", "b", "c"], ["c"], []])
def test_all_outputs_come_at_once_or_none_is_taken(desk, given):
    run = desk.run(ASK, "Done.")
    said = refused(desk.submit(run, *given))["message"]
    if sorted(set(given)) == sorted(given):
        assert said == f"Expected tool outputs for call_ids ['a', 'b'], got {given}"
    assert desk.get(f"{desk.runs}/{run['id']}").json() == run
    assert desk.submit(run, "b", "a").status_code == 200


def test_a_submission_without_outputs_and_one_that_streams_say_so_in_json(desk):
    run = desk.run(ASK)
    path = f"{desk.runs}/{run['id']}/submit_tool_outputs"
    refused(desk.post(path, {}))
    wrong = {"tool_outputs": [{"tool_call_id": "a", "output": "x"}], "stream": True}
    assert refused(desk.post(path, wrong))["message"].startswith("Expected tool outputs")


# -- what is not there -----------------------------------------------------------------------------------------------


def test_an_id_that_names_nothing_is_not_found(desk, oai_project, azure):
    beta = oai_project.beta
    run = desk.run("Hi.")["id"]
    for noun, text, first, second in (
        ("assistant", "assistant", beta.assistants.retrieve, azure.get_agent),
        ("assistant", "assistant", lambda i: beta.assistants.update(i, name="x"), lambda i: azure.update_agent(i, name="x")),
        ("assistant", "assistant", beta.assistants.delete, azure.delete_agent),
        ("assistant", "assistant", lambda i: beta.threads.runs.create(desk.thread, assistant_id=i),
         lambda i: azure.runs.create(desk.thread, agent_id=i)),
        ("assistant", "assistant", lambda i: beta.threads.create_and_run(assistant_id=i),
         lambda i: azure.create_thread_and_run(agent_id=i)),
        ("thread", "thread", beta.threads.retrieve, azure.threads.get),
        ("thread", "thread", lambda i: beta.threads.update(i, metadata={}), lambda i: azure.threads.update(i, metadata={})),
        ("thread", "thread", beta.threads.delete, azure.threads.delete),
        ("thread", "thread", lambda i: list(beta.threads.messages.list(i)), lambda i: list(azure.messages.list(i))),
        ("thread", "thread", lambda i: beta.threads.messages.create(i, role="user", content="x"),
         lambda i: azure.messages.create(i, role="user", content="x")),
        ("thread", "thread", lambda i: beta.threads.runs.create(i, assistant_id=desk.assistant),
         lambda i: azure.runs.create(i, agent_id=desk.assistant)),
        ("thread", "thread", lambda i: list(beta.threads.runs.list(i)), lambda i: list(azure.runs.list(i))),
        ("message", "message", lambda i: beta.threads.messages.retrieve(i, thread_id=desk.thread),
         lambda i: azure.messages.get(desk.thread, i)),
        ("message", "message", lambda i: beta.threads.messages.update(i, thread_id=desk.thread, metadata={}),
         lambda i: azure.messages.update(desk.thread, i, metadata={})),
        ("run", "run", lambda i: beta.threads.runs.retrieve(i, thread_id=desk.thread), lambda i: azure.runs.get(desk.thread, i)),
        ("run", "run", lambda i: beta.threads.runs.cancel(i, thread_id=desk.thread), lambda i: azure.runs.cancel(desk.thread, i)),
        ("run", "run", lambda i: list(beta.threads.runs.steps.list(i, thread_id=desk.thread)),
         lambda i: list(azure.run_steps.list(desk.thread, i))),
        ("step", "run step", lambda i: beta.threads.runs.steps.retrieve(i, thread_id=desk.thread, run_id=run),
         lambda i: azure.run_steps.get(desk.thread, run, i)),
    ):  # fmt: skip
        id_ = NONE[noun]
        both_say(f"No {text} found with id '{id_}'.", partial(first, id_), partial(second, id_), status=404)


def test_what_belongs_to_another_thread_is_not_found(desk):
    run = desk.run("Hi.")
    [answer, *_] = desk.get(f"/threads/{desk.thread}/messages").json()["data"]
    [step] = desk.get(f"{desk.runs}/{run['id']}/steps").json()["data"]
    other = desk.post("/threads").json()["id"]
    here = f"/threads/{other}"
    for path in (
        f"{here}/messages/{answer['id']}", f"{here}/runs/{run['id']}", f"{here}/runs/{run['id']}/steps",
        f"{here}/runs/{run['id']}/steps/{step['id']}", f"{here}/runs/{run['id']}/events",
    ):  # fmt: skip
        refused(desk.get(path), 404)
    for path in (
        f"{here}/runs/{run['id']}/cancel",
        f"{here}/messages/{answer['id']}",
        f"{here}/runs/{run['id']}",
    ):
        refused(desk.post(path, {}), 404)
    refused(desk.http.delete(f"{PROJECT}{here}/messages/{answer['id']}"), 404)


@pytest.mark.parametrize(
    "id_", ["thread_x", "x", "%00", "a%2Fb", "..", "thread_" + "a" * 500, "ünknown", "@last", "thread_%"]
)
def test_a_text_that_is_no_id_is_not_found(http, id_):
    refused(http.get(f"/v1/threads/{id_}"), 404)


def test_a_beginning_of_an_id_names_nothing_over_the_wire(desk):
    assert refused(desk.get(f"/threads/{desk.thread[:-1]}"), 404)["message"].startswith("No thread found")


# -- what does not fit -----------------------------------------------------------------------------------------------

MANY = {str(n): "x" for n in range(17)}
BAD_BODIES = [
    ("/assistants", {}, "Missing required parameter: 'model'.", "model"),
    ("/assistants", {"model": "scripted", "data_sources": []}, "Invalid request. Parameter `data_sources` is not supported.", "data_sources"),
    ("/assistants", {"model": "scripted", "name": "x" * 257}, None, "name"),
    ("/assistants", {"model": "scripted", "description": "x" * 513}, None, "description"),
    ("/assistants", {"model": "scripted", "instructions": "x" * 256_001}, None, "instructions"),
    ("/assistants", {"model": "scripted", "metadata": MANY}, None, "metadata"),
    ("/assistants", {"model": "scripted", "metadata": {"x" * 65: "y"}}, None, None),
    ("/assistants", {"model": "scripted", "metadata": {"x": "y" * 513}}, None, None),
    ("/assistants", {"model": "scripted", "metadata": {"x": 1}}, None, None),
    ("/assistants", {"model": "scripted", "temperature": 2.1}, None, "temperature"),
    ("/assistants", {"model": "scripted", "top_p": -0.1}, None, "top_p"),
    ("/assistants", {"model": "scripted", "tools": [WEATHER] * 129}, None, "tools"),
    ("/assistants", {"model": "scripted", "tools": [{"type": "teleport"}]}, None, "tools[0].type"),
    ("/assistants", {"model": "scripted", "tools": [{"type": "function", "function": {"name": "no good"}}]}, None, None),
    ("/assistants", [], None, None),
    ("/assistants", "x", None, None),
    ("/assistants", None, "Missing required parameter: 'model'.", "model"),
    ("/threads", {"messages": [{"role": "user"}]}, "Missing required parameter: 'messages.0.content'.", None),
    ("/threads", {"messages": [{"role": "system", "content": "x"}]}, None, None),
    ("/threads/{t}/messages", {"role": "user", "content": "x" * 1_500_001}, None, "content"),
    ("/threads/{t}/messages", {"role": "user", "content": [{"type": "video"}]}, None, None),
    ("/threads/{t}/messages", {"role": "user", "content": 7}, None, None),
    ("/threads/{t}/messages", {"role": "user", "content": "a\u0000b"}, None, None),
    ("/threads/{t}/runs", {}, "Missing required parameter: 'assistant_id'.", "assistant_id"),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "max_prompt_tokens": 255}, None, "max_prompt_tokens"),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "max_completion_tokens": 1}, None, "max_completion_tokens"),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "tools": [WEATHER] * 21}, None, "tools"),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "tool_choice": {"type": "function", "function": {"name": "none"}}}, None, "tool_choice"),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "truncation_strategy": {"type": "last_messages"}}, None, "truncation_strategy.last_messages"),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "model": "nobody-has-it"}, None, None),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "response_format": {"type": "json_schema"}}, None, None),
    ("/threads/{t}/runs", {"assistant_id": "{a}", "inputs": {"x": 1}}, None, None),
    ("/threads/runs", {"assistant_id": "{a}", "additional_messages": []}, None, "additional_messages"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "said", "param"), BAD_BODIES)
def test_a_body_that_does_not_fit_is_refused_by_the_field(desk, path, body, said, param):
    whole = json.loads(json.dumps(body).replace("{a}", desk.assistant))
    error = refused(desk.http.post(f"{PROJECT}{path.format(t=desk.thread)}", json=whole))
    if said is not None:
        assert error["message"] == said
    if param is not None:
        assert error["param"] == param
    assert len(error["message"]) < 1000
    assert "pydantic" not in error["message"].lower()
    assert desk.get(desk.runs).json()["data"] == []


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{'a': 1}",
        b"\xff\xfe",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"model": "\\ud800"}',
        b"null",
        b"1e999",
    ],
)
def test_bytes_that_are_no_json_are_refused(http, raw):
    refused(http.post("/v1/assistants", content=raw, headers={"content-type": "application/json"}))


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"), ({"limit": "-1"}, "limit"), ({"limit": "101"}, "limit"), ({"limit": "ten"}, "limit"),
        ({"limit": "1.5"}, "limit"), ({"limit": "9" * 30}, "limit"), ({"order": "up"}, "order"),
    ],
)  # fmt: skip
def test_a_page_that_cannot_be_had_is_refused(desk, query, param):
    for path in ("/assistants", "/threads", f"/threads/{desk.thread}/messages", desk.runs):
        assert refused(desk.get(path, **query))["param"] == param


def test_paths_and_methods_that_nothing_answers(http):
    assert "/nothing" in refused(http.get("/v1/nothing"), 404)["message"]
    refused(http.post("/v1/threads/thread_x/runs/run_x/nothing", json={}), 404)
    refused(http.get("/"), 404)
    answer = http.put("/v1/threads", json={})
    refused(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}
    refused(http.patch("/v1/assistants", json={}), 405)


def test_a_body_that_is_too_long_is_refused_before_it_is_read(alone, model):
    own = alone(model, spec=ServeSpec(limits=ServeLimits(body_bytes=2000)))
    with httpx2.Client(base_url=own.url, trust_env=False, timeout=20) as client:
        refused(client.post("/v1/threads", json={"metadata": {"a": "x" * 3000}}), 413)

        def pieces() -> Iterator[bytes]:
            yield b'{"metadata": {"a": "'
            for _ in range(30):
                yield b"x" * 100
            yield b'"}}'

        refused(
            client.post("/v1/threads", content=pieces(), headers={"content-type": "application/json"}), 413
        )
        assert client.post("/v1/threads", json={"metadata": {"a": "x" * 300}}).status_code == 200


def test_a_thread_that_is_full_takes_no_more(alone, model):
    own = alone(model, spec=ServeSpec(limits=ServeLimits(thread_messages=3)))
    with httpx2.Client(base_url=own.url, trust_env=False, timeout=20) as client:
        thread = client.post("/v1/threads", json={"messages": [{"role": "user", "content": "x"}] * 3}).json()[
            "id"
        ]
        answer = client.post(f"/v1/threads/{thread}/messages", json={"role": "user", "content": "x"})
        assert "is full" in refused(answer)["message"]


# -- what breaks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "status"), [("io", 503), ("full", 500), ("busy", 503), ("corrupt", 500)])
def test_a_store_that_fails_is_told_in_the_envelope_and_is_no_end(alone, model, tmp_path, error, status):
    door = FaultDoor()
    own = alone(model, store=SqliteStore(tmp_path / "own.db", opener=door.open))
    with httpx2.Client(base_url=own.url, trust_env=False, timeout=20) as client:
        thread = client.post("/v1/threads", json={}).json()["id"]
        door.fault = Fault(error, 1, lasting=True)
        door.seen = 0
        answers = [
            client.post("/v1/threads", json={}), client.get(f"/v1/threads/{thread}"), client.get("/v1/assistants"),
            client.post(f"/v1/threads/{thread}/messages", json={"role": "user", "content": "x"}),
        ]  # fmt: skip
        door.lift()
        assert any(a.status_code >= 500 for a in answers)
        for answer in answers:
            if answer.status_code >= 400:
                found = refused(answer, status)
                assert found["type"] == "server_error"
                assert str(tmp_path) not in found["message"]
        assert client.get(f"/v1/threads/{thread}").status_code == 200


def test_what_nobody_foresaw_says_nothing_of_its_inside(server, http, monkeypatch, caplog):
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr("treadle.service.threads.Threads.list", broken)
    error = refused(http.get("/v1/threads"), 500)
    assert error["type"] == "server_error"
    assert "secret" not in json.dumps(error)
    assert "the secret inside" in caplog.text


def test_azures_client_reads_every_error_of_the_server(azure: AgentsClient):
    """It reads JSON from every error, and raises another one where there is none."""
    for path in ("/nothing", "/threads/x/runs/y/nothing"):
        with pytest.raises(HttpResponseError) as raised:
            azure.threads.get(path)
        assert raised.value.status_code == 404


def test_a_model_that_cannot_be_had_is_refused_when_the_run_is_asked_for(desk):
    assistant = desk.post("/assistants", {"model": "nobody-has-it"}).json()["id"]
    error = refused(desk.post(desk.runs, {"assistant_id": assistant}))
    assert error["code"] == "model_not_found"
    assert "nobody-has-it" in error["message"]
