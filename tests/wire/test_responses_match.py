"""Each answer of the real server is what the OpenAPI document says: every route, every error, every event."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator

from treadle.objects.workflow import WorkflowSpec
from treadle.server import openapi
from treadle.server.routes import ROUTES
from treadle.server.schemas import EVENTS
from treadle.testing.served import Served, served

DOCUMENT = openapi.document()
OPERATIONS = {openapi.operation_id(route): route for route in ROUTES}
REST = ("requires_action", "completed", "incomplete", "failed", "cancelled", "expired")

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def misfits(answer: Any, schema: dict[str, Any]) -> list[str]:
    """List what in an answer is not as its schema says."""
    whole = {"components": DOCUMENT["components"], "allOf": [schema]}
    return [f"{e.json_path}: {e.message}" for e in Draft202012Validator(whole).iter_errors(answer)]


def events_of(text: str) -> Iterator[tuple[str, str]]:
    """Give the name and the data of each event of a stream."""
    for block in text.removesuffix("\n\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        yield lines["event"], lines["data"]


@dataclass
class Visit:
    """A client that notes every answer."""

    client: httpx2.Client
    answers: list[tuple[str, httpx2.Response]] = field(default_factory=list)

    def ask(
        self, operation: str, body: Any = None, *, query: Any = None, form: Any = None, **ids: str
    ) -> Any:
        """Call an operation, and give its answer as JSON, or as text."""
        route = OPERATIONS[operation]
        response = self.client.request(
            route.method, route.path.format(**ids), json=body, params=query, **(form or {})
        )
        self.answers.append((operation, response))
        assert response.status_code == 200, (operation, response.text)
        is_json = response.headers["content-type"].startswith("application/json")
        return response.json() if is_json else response.text

    def rest(self, run: Any) -> Any:
        """Wait until a run has ended or waits for its client."""
        ends = time.monotonic() + 20
        while run["status"] not in REST:
            assert time.monotonic() < ends, run
            run = self.ask("runs_get", thread_id=run["thread_id"], run_id=run["id"])
        return run


def speak(visit: Visit) -> None:
    """Make assistants, threads and messages of every shape, list them, change them and delete them."""
    plain = visit.ask("assistants_create", {"model": "offline"})
    full = {
        "model": "offline",
        "name": "Full",
        "description": "Has everything.",
        "instructions": "Be brief.",
        "tools": [WEATHER],
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 1,
        "reasoning_effort": "low",
        "response_format": FORM,
    }
    assistant = visit.ask("assistants_create", full)
    visit.ask("assistants_get", assistant_id=assistant["id"])
    visit.ask("assistants_update", {"response_format": {"type": "json_object"}}, assistant_id=plain["id"])
    visit.ask("assistants_list", query={"limit": 1})
    visit.ask("assistants_list", query={"after": "asst_unknown"})
    visit.ask("assistants_delete", assistant_id=plain["id"])

    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": parts}]
    thread = visit.ask("threads_create", {"messages": messages, "metadata": {"a": "b"}})["id"]
    visit.ask("threads_get", thread_id=thread)
    visit.ask("threads_update", {"metadata": {"c": "d"}}, thread_id=thread)
    visit.ask("threads_list")
    message = visit.ask("messages_create", {"role": "user", "content": parts}, thread_id=thread)["id"]
    visit.ask("messages_get", thread_id=thread, message_id=message)
    visit.ask("messages_update", {"metadata": {"e": "f"}}, thread_id=thread, message_id=message)
    visit.ask("messages_list", thread_id=thread, query={"order": "asc", "limit": 2})
    visit.ask("messages_delete", thread_id=thread, message_id=message)
    visit.ask("threads_delete", thread_id=thread)


def work(visit: Visit) -> None:
    """Let runs end with an answer, by an error and on request, wait for a function, and be streamed."""
    agent = visit.ask("assistants_create", {"model": "offline", "tools": [WEATHER]})["id"]
    asked = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}]}
    run = visit.rest(visit.ask("runs_create_with_thread", {"assistant_id": agent, "thread": asked}))
    assert run["status"] == "requires_action", run
    names = {"thread_id": run["thread_id"], "run_id": run["id"]}
    visit.ask("run_steps_list", **names)
    visit.ask("runs_update", {"metadata": {"a": "b"}}, **names)
    visit.ask("runs_list", thread_id=run["thread_id"])
    [call] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    output = {"tool_call_id": call["id"], "output": "21 degrees"}
    visit.ask("runs_submit", {"tool_outputs": [output]}, **names)
    assert visit.rest(run | {"status": "queued"})["status"] == "completed"
    for step in visit.ask("run_steps_list", **names)["data"]:
        visit.ask("run_steps_get", step_id=step["id"], **names)
    visit.ask("runs_events", **names)
    visit.ask("messages_list", thread_id=run["thread_id"], query={"run_id": run["id"]})

    overrides = {
        "assistant_id": agent,
        "additional_instructions": "Rhyme.",
        "additional_messages": [{"role": "user", "content": "And in Rome?"}],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "truncation_strategy": {"type": "last_messages", "last_messages": 3},
        "max_prompt_tokens": 10_000,
        "max_completion_tokens": 1_000,
        "parallel_tool_calls": False,
        "response_format": FORM,
        "metadata": {"a": "b"},
        "stream": True,
    }
    visit.ask("runs_create", overrides, thread_id=run["thread_id"])
    [waiting] = visit.ask("runs_list", thread_id=run["thread_id"], query={"limit": 1})["data"]
    assert waiting["status"] == "requires_action", waiting
    names["run_id"] = waiting["id"]
    visit.ask("runs_cancel", **names)
    assert visit.rest(waiting | {"status": "cancelling"})["status"] == "cancelled"
    visit.ask("run_steps_list", **names)
    visit.ask("runs_events", **names)
    visit.ask("runs_create_with_thread", {"assistant_id": agent, "thread": asked, "stream": True})


def keep(visit: Visit) -> None:
    """Upload files, attach them, put them into vector stores alone and together, and take them out again."""

    def upload(name: str, content: bytes, **fields: str) -> str:
        form = {"files": {"file": (name, content)}, "data": {"purpose": "assistants", **fields}}
        return visit.ask("files_create", form=form)["id"]

    lasting = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    text, picture = upload("notes.txt", b"It rains in Paris. " * 50), upload("a.bin", b"\0\1\2", **lasting)
    visit.ask("files_get", file_id=text)
    visit.ask("files_list", query={"purpose": "assistants", "limit": 1})
    visit.ask("files_content", file_id=text)

    store = visit.ask("vector_stores_create", {"name": "Notes", "metadata": {"a": "b"}})["id"]
    lasting = {"expires_after": {"anchor": "last_active_at", "days": 3}, "description": "Texts."}
    visit.ask("vector_stores_update", lasting, vector_store_id=store)
    cut = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}}
    link = {
        "file_id": text,
        "chunking_strategy": cut,
        "attributes": {"year": 2026, "kind": "note", "old": False},
    }
    visit.ask("vector_stores_add_file", link, vector_store_id=store)
    batch = visit.ask("vector_stores_create_batch", {"file_ids": [picture]}, vector_store_id=store)["id"]
    ends = time.monotonic() + 20
    while visit.ask("vector_stores_get", vector_store_id=store)["status"] == "in_progress":
        assert time.monotonic() < ends
    visit.ask("vector_stores_get_batch", vector_store_id=store, file_batch_id=batch)
    visit.ask("vector_stores_list_batch_files", vector_store_id=store, file_batch_id=batch)
    visit.ask("vector_stores_cancel_batch", vector_store_id=store, file_batch_id=batch)
    found = visit.ask("vector_stores_list_files", vector_store_id=store)["data"]
    assert {file["id"]: file["status"] for file in found} == {text: "completed", picture: "failed"}
    visit.ask("vector_stores_get_file", vector_store_id=store, file_id=picture)
    visit.ask("vector_stores_update_file", {"attributes": {"a": 1}}, vector_store_id=store, file_id=text)
    page = visit.ask("vector_stores_file_content", vector_store_id=store, file_id=text)
    assert page["data"][0]["text"].startswith("It rains in Paris.")
    visit.ask("vector_stores_list")

    tools = [{"type": "file_search"}, {"type": "code_interpreter"}]
    attached = {"role": "user", "content": "Read it.", "attachments": [{"file_id": text, "tools": tools}]}
    thread = visit.ask("threads_create", {"messages": [attached]})["id"]
    fed = visit.ask("threads_get", thread_id=thread)["tool_resources"]
    assert fed["code_interpreter"]["file_ids"] == [text]
    [of_thread] = fed["file_search"]["vector_store_ids"]
    visit.ask("vector_stores_get", vector_store_id=of_thread)
    visit.ask("messages_list", thread_id=thread)

    visit.ask("vector_stores_delete_file", vector_store_id=store, file_id=picture)
    visit.ask("vector_stores_delete", vector_store_id=store)
    visit.ask("files_delete", file_id=text)


def ask(visit: Visit) -> None:
    """Run a workflow, and answer the person's question that it asks."""
    [workflow] = visit.ask("workflows_list")["data"]
    visit.ask("workflows_get", workflow_id=workflow["name"])
    asked = {"inputs": {"what": "it"}, "metadata": {"a": "b"}}
    run = visit.rest(visit.ask("workflows_create_run", asked, workflow_id=workflow["id"]))
    assert run["required_action"]["type"] == "answer", run
    names = {"thread_id": run["thread_id"], "run_id": run["id"]}
    visit.ask("runs_get", **names)
    visit.ask("run_steps_list", **names)
    visit.ask("runs_answer", {"node": "q", "decision": "approve"}, **names)
    assert visit.rest(run | {"status": "queued"})["output"] == {"said": "approve"}
    visit.ask("run_steps_list", **names)
    visit.ask("runs_events", **names)
    visit.ask("workflows_create_run", asked | {"stream": True}, workflow_id=workflow["id"])


SCENES: list[Callable[[Visit], None]] = [speak, work, keep, ask]
"""What a client does, together every operation but those that are not possible yet."""

UNBUILT = {"vector_stores_search": {"query": "rain"}}
"""Operations that are refused, whatever they are asked, and a body that would be right."""


ASKING = {
    "name": "ask",
    "inputs": {"what": {"type": "string"}},
    "start": "q",
    "nodes": {"q": {"type": "human", "kind": "approval", "ask": "Is {{ inputs.what }} fine?", "next": "end"}},
    "outputs": {"said": "result_of.q.decision"},
}


def apply(server: Served) -> None:
    """Keep a workflow, as an operator does."""
    spec = WorkflowSpec.model_validate(ASKING)
    server.do(server.treadle.scoped("default").workflows.apply(spec))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a store that has a workflow and nothing else."""
    folder = tmp_path_factory.mktemp("served")
    with served(f"sqlite:///{folder}/treadle.db", project=folder) as server:
        apply(server)
        yield server.url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx2.Client]:
    """Give a client of the server."""
    with httpx2.Client(base_url=url, timeout=30) as found:
        yield found


@pytest.fixture(scope="module")
def answers(client: httpx2.Client) -> list[tuple[str, httpx2.Response]]:
    """Give every answer of every scene, with its operation."""
    visit = Visit(client)
    for scene in SCENES:
        scene(visit)
    return visit.answers


@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - UNBUILT))
def test_answers_fit_their_schema(operation: str, answers: list[tuple[str, httpx2.Response]]) -> None:
    content = DOCUMENT["paths"][OPERATIONS[operation].path][OPERATIONS[operation].method.lower()][
        "responses"
    ]["200"]["content"]
    given = [response for name, response in answers if name == operation]
    assert given, "no scene calls it"
    for response in given:
        media = response.headers["content-type"].partition(";")[0]
        assert media in content
        if media == "application/json":
            assert misfits(response.json(), content[media]["schema"]) == []


@pytest.mark.parametrize("operation", UNBUILT)
def test_what_is_not_possible_says_so(operation: str, client: httpx2.Client) -> None:
    store = client.post("/vector_stores", json={}).json()["id"]
    route = OPERATIONS[operation]
    response = client.post(route.path.format(vector_store_id=store), json=UNBUILT[operation])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_operation"


def test_events_fit_their_schema(answers: list[tuple[str, httpx2.Response]]) -> None:
    streams = [r.text for _, r in answers if r.headers["content-type"].startswith("text/event-stream")]
    seen = set()
    for stream in streams:
        told = list(events_of(stream))
        assert told.pop() == ("done", "[DONE]")
        for name, data in told:
            seen.add(name)
            schema = {"$ref": f"#/components/schemas/{EVENTS[name]}"}
            assert misfits(json.loads(data), schema) == [], (name, data)
    assert {
        "thread.created",
        "thread.run.requires_action",
        "thread.run.completed",
        "thread.run.step.delta",
        "thread.run.step.completed",
        "thread.message.completed",
    } <= seen


@pytest.mark.parametrize("route", ROUTES, ids=openapi.operation_id)
def test_errors_have_one_form(route: Any, client: httpx2.Client) -> None:
    names = dict.fromkeys(("thread_id", "run_id", "message_id", "step_id", "assistant_id"), "nobody")
    names |= dict.fromkeys(("file_id", "vector_store_id", "file_batch_id", "workflow_id"), "nobody")
    path = route.path.format(**names)
    wrong = client.request("PATCH", path)
    assert wrong.status_code == 405
    answers = [wrong]
    if "{" in route.path:
        body = {"role": "user", "content": "x"} if route.path.endswith("/messages") else None
        unknown = client.request(route.method, path, json=body if route.method == "POST" else None)
        assert unknown.status_code in (400, 404)
        answers.append(unknown)
    if route.body is not None:
        answers += [
            client.post(path, json={"unknown_field": 1}),
            client.post(path, content=b"{", headers={"content-type": "application/json"}),
            client.post(path, content=b"[]", headers={"content-type": "application/json"}),
        ]
        assert {r.status_code for r in answers[-3:]} == {400}
        answers.append(client.post(path, content=b"{}", headers={"content-type": "text/plain"}))
        assert answers[-1].status_code == 415
    for answer in answers:
        assert answer.headers["content-type"] == "application/json"
        assert misfits(answer.json(), {"$ref": "#/components/schemas/error"}) == []
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers


def test_without_a_key_only_the_document_and_its_page_are_shown(tmp_path: Path) -> None:
    with (
        served(f"sqlite:///{tmp_path}/treadle.db", project=tmp_path, no_auth=False) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        assert client.get("/openapi.json").json() == DOCUMENT
        page = client.get("/v1/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        for route in ROUTES:
            refused = client.request(route.method, route.path.replace("{", "").replace("}", ""))
            assert refused.status_code == 401
            assert misfits(refused.json(), {"$ref": "#/components/schemas/error"}) == []


def test_a_wish_that_cannot_be_is_refused_before_anything_is_made(client: httpx2.Client) -> None:
    agent = client.post("/assistants", json={"model": "offline"}).json()["id"]
    thread = client.post("/threads", json={}).json()["id"]
    for name, word in (("x-treadle-on-disconnect", "Cancel"), ("x-treadle-on-busy", "wait")):
        response = client.post(
            f"/threads/{thread}/runs", json={"assistant_id": agent, "stream": True}, headers={name: word}
        )
        assert response.status_code == 400
        assert name in response.json()["error"]["message"]
    assert client.get(f"/threads/{thread}/runs").json()["data"] == []


def test_a_reader_that_comes_back_goes_on_after_the_header_and_not_after_its_first_address(
    client: httpx2.Client,
) -> None:
    agent = client.post("/assistants", json={"model": "offline"}).json()["id"]
    asked = {"messages": [{"role": "user", "content": "Hello"}]}
    body = {"assistant_id": agent, "thread": asked, "stream": True}
    told = list(events_of(client.post("/threads/runs", json=body).text))
    run = json.loads(next(data for name, data in told if name == "thread.run.completed"))
    where = f"/threads/{run['thread_id']}/runs/{run['id']}/events"
    whole = client.get(where).text
    behind = {number: whole.partition(f"id: {number}\n")[2].partition("\n\n")[2] for number in (2, 4)}
    assert client.get(where, params={"after": 2}).text == behind[2]
    back = client.get(where, params={"after": 2}, headers={"last-event-id": "4"})
    assert back.text == behind[4] != behind[2]
    for wrong in ({"after": "-1"}, {"after": "x"}, {"after": "9" * 30}):
        assert client.get(where, params=wrong).status_code == 400
    assert client.get(where, params={"after": 2}, headers={"last-event-id": "x"}).status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"max_prompt_tokens": 300.0}, 200),
        ({"max_prompt_tokens": 300.5}, 400),
        ({"max_prompt_tokens": 255}, 400),
        ({"max_prompt_tokens": "300"}, 400),
        ({"parallel_tool_calls": 0}, 400),
        ({"temperature": 1}, 200),
        ({"temperature": "1"}, 400),
    ],
)
def test_a_value_counts_as_its_json_says(body: dict[str, Any], status: int, client: httpx2.Client) -> None:
    agent = client.post("/assistants", json={"model": "offline"}).json()["id"]
    thread = client.post("/threads", json={"messages": [{"role": "user", "content": "Hello"}]}).json()["id"]
    response = client.post(f"/threads/{thread}/runs", json={"assistant_id": agent, **body})
    assert response.status_code == status, response.text
