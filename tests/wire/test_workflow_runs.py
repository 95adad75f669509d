"""Workflows over the wire: clients that know only assistants run them, read them, answer them and follow them."""

import json
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from azure.ai.agents import AgentsClient
from azure.ai.agents.models import AgentEventHandler, MessageRole, RunStepToolCallDetails
from azure.core.credentials import AzureKeyCredential
from jsonschema import Draft202012Validator
from openai import AssistantEventHandler, OpenAI
from openai.types.beta.assistant_stream_event import AssistantStreamEvent
from openai.types.beta.threads import Message as OpenAIMessage
from openai.types.beta.threads import Run as OpenAIRun
from openai.types.beta.threads.runs import RunStep as OpenAIRunStep
from pydantic import TypeAdapter
from typing_extensions import override

from treadle.azure import local_client_kwargs
from treadle.server import openapi
from treadle.server.schemas import EVENTS
from treadle.testing.event_reader import Heard, read_events

pytestmark = pytest.mark.filterwarnings(
    "ignore:The Assistants API is deprecated:DeprecationWarning", "ignore:deprecated:DeprecationWarning"
)

FAST = 0.02
ENDS = ("completed", "incomplete", "failed", "cancelled", "expired")
REST = (*ENDS, "requires_action")
BOT = """
---
version: 1.0.0
kind: agent
name: bot
model: scripted
tools: [{type: function, name: look_up, runs: client, parameters: {type: object}}]
---
version: 1.0.0
kind: agent
name: careful
model: scripted
tools: [{type: function, name: pay, runs: server, approval: always, effect: pure, parameters: {type: object}}]
"""
LOOK_UP = {"calls": [{"name": "look_up", "arguments": {"what": "x"}}]}
PAY = {"calls": [{"name": "pay", "arguments": {}}]}


def pay() -> str:
    return "paid"


class World:
    """A server with workflows in two tenants, and every client of it."""

    def __init__(self, up: Any, model: Any, folder: Path) -> None:
        self.up, self.model, self.folder = up, model, folder
        self.http = httpx2.Client(base_url=up.url, trust_env=False, timeout=20)
        self.oai = OpenAI(base_url=f"{up.url}/v1", api_key="any", max_retries=0)
        self.azure = AgentsClient(
            endpoint=f"{up.url}/api/projects/default", credential=AzureKeyCredential("any"), retry_total=0, **local_client_kwargs("any")
        )  # fmt: skip

    def close(self) -> None:
        self.http.close()
        self.oai.close()
        self.azure.close()

    def apply(self, text: str, name: str = "flow", tenant: str = "default") -> Any:
        """Store a workflow that is declared on the server's own disk."""
        path = self.folder / f"{name}.workflow.yaml"
        head = f"version: 1.0.0\nkind: workflow\nname: {name}\n"
        path.write_text(head + textwrap.dedent(text) + BOT)
        return self.up.do(self.up.treadle.scoped(tenant).workflows.apply(f"{path}#{name}"))

    def start(self, workflow: Any, **body: Any) -> Any:
        return self.ok(self.http.post(f"/workflows/{workflow.id}/runs", json=body))

    def stream(self, workflow: Any, **body: Any) -> list[Heard]:
        answer = self.http.post(f"/workflows/{workflow.id}/runs", json=body | {"stream": True})
        assert answer.status_code == 200, answer.text
        return read_events(answer.content)

    def ok(self, answer: httpx2.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()

    def path(self, run: Any) -> str:
        return f"/threads/{run['thread_id']}/runs/{run['id']}"

    def get(self, run: Any) -> Any:
        return self.ok(self.http.get(self.path(run)))

    def rest(self, run: Any, *statuses: str) -> Any:
        """Wait until a run has ended or waits for somebody."""
        ends = time.monotonic() + 20
        while (now := self.get(run))["status"] not in (statuses or REST):
            assert time.monotonic() < ends, now
            time.sleep(0.005)
        return now

    def steps(self, run: Any) -> list[Any]:
        return self.ok(self.http.get(f"{self.path(run)}/steps", params={"order": "asc", "limit": 100}))[
            "data"
        ]

    def texts(self, run: Any) -> list[tuple[str, str]]:
        listed = self.ok(self.http.get(f"/threads/{run['thread_id']}/messages", params={"order": "asc"}))
        return [(m["role"], m["content"][0]["text"]["value"]) for m in listed["data"]]

    def children(self, run: Any) -> list[Any]:
        found = self.up.do(self.up.treadle.store.children("default", run["id"]))
        return [{"id": child.id, "thread_id": child.thread_id} for child in found]

    def replay(self, run: Any, after: Any = None) -> list[Heard]:
        """Follow a run that has ended, from a place on."""
        query = {} if after is None else {"after": after}
        return read_events(self.http.get(f"{self.path(run)}/events", params=query).content)

    def answer(self, run: Any, **body: Any) -> httpx2.Response:
        return self.http.post(f"{self.path(run)}/answers", json=body)

    def submit(self, run: Any, *outputs: tuple[str, str], **more: Any) -> httpx2.Response:
        given = [{"tool_call_id": id_, "output": output} for id_, output in outputs]
        return self.http.post(f"{self.path(run)}/submit_tool_outputs", json={"tool_outputs": given} | more)


@pytest.fixture
def world(alone: Callable[..., Any], model: Any, tmp_path: Path) -> Iterator[World]:
    """Give a server of the test's own; its functions are `pay` alone."""
    found = World(alone(model, tools=[pay]), model, tmp_path)
    yield found
    found.close()


def calls_of(run: Any) -> list[Any]:
    action = run["required_action"]
    return action[action["type"]]["tool_calls"]


CHAT = """
inputs: {question: string}
start: hello
nodes:
  hello: {type: message, text: 'On it.', next: ask}
  ask: {type: agent, agent: bot, message: '{{ inputs.question }}', next: bye}
  bye: {type: message, text: 'Done.', next: end}
outputs: {answer: result_of.ask.text}
"""
SAID = ["On it.", "It rains.", "Done."]
HUMAN = """
start: q
nodes:
  q: {type: human, kind: approval, ask: 'Fine?', next: end}
outputs: {said: result_of.q.decision}
"""
TWO = """
start: all
nodes:
  all: {type: parallel, branches: [a, b], join: after}
  a: {type: agent, agent: bot, thread: new, message: 'A?', next: after}
  b: {type: agent, agent: bot, thread: new, message: 'B?', next: after}
  after: {type: end, outputs: {both: '{{ result_of.a.text }} {{ result_of.b.text }}'}}
"""


def unlike(run: Any, **more: Any) -> list[str]:
    """List what of a run is not as the document says."""
    schema = {"components": openapi.document()["components"], "$ref": "#/components/schemas/run"}
    return [e.message for e in Draft202012Validator(schema).iter_errors(run)]


# -- run like an assistant -------------------------------------------------------------------------------------------


def test_openais_client_runs_a_workflow_like_an_assistant(world):
    workflow = world.apply(CHAT)
    world.model.says("It rains.")
    thread = world.oai.beta.threads.create(messages=[{"role": "user", "content": "What weather?"}])
    run = world.oai.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=workflow.id, metadata={"a": "b"}
    )
    assert (run.status, run.assistant_id, run.metadata) == ("completed", workflow.id, {"a": "b"})
    assert run.to_dict()["output"] == {"answer": "It rains."}
    assert run.to_dict()["inputs"] == {"question": "What weather?"}
    assert (run.required_action, run.last_error, run.expires_at, run.instructions) == (None, None, None, "")
    assert run.usage.total_tokens > 0
    assert world.texts(run.to_dict())[2:] == [
        ("user", "What weather?"),
        ("assistant", "It rains."),
        ("assistant", "Done."),
    ]
    steps = list(world.oai.beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc"))
    assert [s.type for s in steps] == [
        "message_creation",
        "tool_calls",
        "message_creation",
        "message_creation",
    ]
    assert [s.status for s in steps] == ["completed"] * 4
    assert steps[1].step_details.tool_calls[0].function.name == "ask"
    assert json.loads(steps[1].step_details.tool_calls[0].function.output)["text"] == "It rains."
    assert steps[1].usage.total_tokens == run.usage.total_tokens
    assert (
        world.oai.beta.threads.runs.steps.retrieve(steps[0].id, thread_id=thread.id, run_id=run.id)
        == steps[0]
    )
    said = [world.oai.beta.threads.messages.retrieve(s.step_details.message_creation.message_id, thread_id=thread.id) for s in steps if s.type == "message_creation"]  # fmt: skip
    assert [m.content[0].text.value for m in said] == SAID
    (listed, *_) = world.oai.beta.threads.runs.list(thread.id, order="asc").data
    assert listed.id == run.id


def test_azures_client_runs_a_workflow_by_its_name(world):
    workflow = world.apply(CHAT)
    world.model.says("It rains.")
    thread = world.azure.threads.create()
    world.azure.messages.create(thread_id=thread.id, role="user", content="What weather?")
    run = world.azure.runs.create_and_process(thread_id=thread.id, agent_id="flow", polling_interval=FAST)
    assert (run.status.value, run.agent_id, run["output"]) == (
        "completed",
        workflow.id,
        {"answer": "It rains."},
    )
    steps = list(world.azure.run_steps.list(thread_id=thread.id, run_id=run.id, order="asc"))
    assert [s.type.value for s in steps] == [
        "message_creation",
        "tool_calls",
        "message_creation",
        "message_creation",
    ]
    assert isinstance(steps[1].step_details, RunStepToolCallDetails)
    assert steps[1].metadata["node"] == "ask"
    last = world.azure.messages.get_last_message_text_by_role(thread_id=thread.id, role=MessageRole.AGENT)
    assert last.text.value == "Done."
    assert {r.id for r in world.azure.runs.list(thread_id=thread.id)} >= {run.id}


def test_a_thread_and_a_run_of_a_workflow_are_made_at_once(world):
    workflow = world.apply(CHAT)
    world.model.says("It rains.")
    messages = [{"role": "user", "content": "Not this."}, {"role": "user", "content": "What weather?"}]
    run = world.oai.beta.threads.create_and_run_poll(
        assistant_id=workflow.id, thread={"messages": messages, "metadata": {"a": "b"}}
    )
    assert (run.status, run.to_dict()["inputs"]) == ("completed", {"question": "What weather?"})
    assert world.oai.beta.threads.retrieve(run.thread_id).metadata == {"a": "b"}


def test_inputs_that_are_given_count_and_not_what_was_said(world):
    workflow = world.apply(CHAT)
    world.model.says("It rains.")
    thread = world.oai.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])
    run = world.oai.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=workflow.id, extra_body={"inputs": {"question": "Other?"}}
    )
    assert run.to_dict()["inputs"] == {"question": "Other?"}


@pytest.mark.parametrize(
    ("inputs", "said", "problem"),
    [
        ("{a: string, b: string}", "Hello", "the input 'a' is missing"),
        ("{a: integer}", "Hello", "the input 'a' is missing"),
        ("{a: string}", None, "the input 'a' is missing"),
        ("{a: {type: string, maxLength: 3}}", "Hello", "input 'a' does not fit"),
    ],
)
def test_what_was_said_is_no_input_where_it_is_not_clear_which(world, inputs, said, problem):
    workflow = world.apply(HUMAN + f"inputs: {inputs}\n")
    messages = [{"role": "user", "content": said}] if said else []
    thread = world.ok(world.http.post("/threads", json={"messages": messages}))["id"]
    answer = world.http.post(f"/threads/{thread}/runs", json={"assistant_id": workflow.id})
    assert answer.status_code == 400
    assert problem in answer.json()["error"]["message"]
    assert world.ok(world.http.get(f"/threads/{thread}/runs"))["data"] == []


@pytest.mark.parametrize(
    "field",
    [
        {"instructions": "Rhyme."}, {"additional_instructions": "Rhyme."}, {"tools": []}, {"temperature": 1}, {"top_p": 1},
        {"max_prompt_tokens": 300}, {"max_completion_tokens": 300}, {"tool_choice": "none"}, {"parallel_tool_calls": False},
        {"response_format": "auto"}, {"reasoning_effort": "low"}, {"tool_resources": {}}, {"truncation_strategy": {"type": "auto"}},
    ],
)  # fmt: skip
def test_what_only_assistants_have_is_refused_for_a_workflow(world, field):
    workflow = world.apply(HUMAN)
    thread = world.ok(world.http.post("/threads", json={}))["id"]
    answer = world.http.post(f"/threads/{thread}/runs", json={"assistant_id": workflow.id} | field)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(field))


def test_a_model_stands_in_the_place_of_every_other(world):
    workflow = world.apply(CHAT.replace("Done", "Bye"))
    world.model.says("It rains.")
    run = world.rest(world.start(workflow, inputs={"question": "?"}, model="scripted"))
    assert (run["status"], run["model"]) == ("completed", "scripted")


def test_a_workflow_is_no_assistant(world):
    workflow = world.apply(CHAT)
    listed = world.ok(world.http.get("/assistants"))["data"]
    assert sorted(a["name"] for a in listed) == ["bot"]
    for method, body in [("GET", None), ("POST", {"instructions": "x"}), ("DELETE", None)]:
        for name in (workflow.id, "flow"):
            answer = world.http.request(method, f"/assistants/{name}", json=body)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"No assistant found with id '{name}'."
    assert world.ok(world.http.get("/workflows"))["data"][0]["id"] == workflow.id


def test_a_run_of_what_is_neither_assistant_nor_workflow_is_told_as_of_an_assistant(world):
    thread = world.ok(world.http.post("/threads", json={}))["id"]
    for name in ("nobody", f"wf_{'0' * 24}", f"asst_{'0' * 24}"):
        answer = world.http.post(f"/threads/{thread}/runs", json={"assistant_id": name})
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            404,
            f"No assistant found with id '{name}'.",
        )


# -- our own routes --------------------------------------------------------------------------------------------------


def test_workflows_are_listed_and_got_by_id_and_name(world):
    first, second = world.apply(CHAT), world.apply(HUMAN + "description: Asks.\n", "other")
    world.apply(HUMAN, "hidden", tenant="elsewhere")
    listed = world.ok(world.http.get("/workflows"))
    assert [w["id"] for w in listed["data"]] == [second.id, first.id]
    page = world.ok(world.http.get("/workflows", params={"order": "asc", "limit": 1}))
    assert ([w["id"] for w in page["data"]], page["has_more"]) == ([first.id], True)
    for name in (first.id, "flow"):
        found = world.ok(world.http.get(f"/workflows/{name}"))
        assert found == listed["data"][1]
    assert found["inputs"] == {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"], "additionalProperties": False}  # fmt: skip
    assert (found["outputs"], found["version"]) == (["answer"], 1)
    for name in ("hidden", "nobody", first.id[:8]):
        answer = world.http.get(f"/workflows/{name}")
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            404,
            f"No workflow found with id '{name}'.",
        )


def test_a_workflow_runs_on_a_new_thread_or_on_one_that_is_there(world):
    workflow = world.apply(CHAT)
    world.model.says("It rains.", "It snows.")
    run = world.rest(world.start(workflow, inputs={"question": "What?"}, metadata={"a": "b"}))
    assert (run["status"], run["output"], run["metadata"]) == (
        "completed",
        {"answer": "It rains."},
        {"a": "b"},
    )
    again = world.start(
        workflow, thread_id=run["thread_id"], messages=[{"role": "user", "content": "And now?"}]
    )
    again = world.rest(again)
    assert (again["thread_id"], again["inputs"]) == (run["thread_id"], {"question": "And now?"})
    assert [text for role, text in world.texts(run) if role == "assistant"] == [
        *SAID,
        "On it.",
        "It snows.",
        "Done.",
    ]
    assert unlike(again) == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"inputs": {"question": 3}}, 400, "input 'question' does not fit"),
        ({"inputs": {}}, 400, "the input 'question' is missing"),
        ({"inputs": {"question": "x", "other": 1}}, 400, "declares no input 'other'"),
        ({"inputs": {"question": "x"}, "thread_id": f"thread_{'0' * 24}"}, 404, "No thread found"),
        ({"inputs": {"question": "x"}, "nodes": {}}, 400, "`nodes` is not supported"),
        ({"inputs": {"question": "x"}, "metadata": {"a": 1}}, 400, "metadata"),
    ],
)
def test_a_run_of_a_workflow_that_does_not_fit_is_refused(world, body, status, said):
    workflow = world.apply(CHAT)
    answer = world.http.post(f"/workflows/{workflow.id}/runs", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_a_busy_thread_refuses_a_run_of_a_workflow_or_lets_it_wait_its_turn(world):
    workflow = world.apply(HUMAN)
    first = world.rest(world.start(workflow))
    body, path = {"thread_id": first["thread_id"]}, f"/workflows/{workflow.id}/runs"
    answer = world.http.post(path, json=body)
    said = f"Thread {first['thread_id']} already has an active run {first['id']}."
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)
    queued = world.ok(world.http.post(path, json=body, headers={"x-treadle-on-busy": "queue"}))
    assert queued["status"] == "queued"
    world.ok(world.answer(first, decision="approve"))
    world.rest(first, "completed")
    assert world.rest(queued)["required_action"]["type"] == "answer"


def test_a_run_that_is_asked_for_twice_under_one_key_is_one(world):
    workflow = world.apply(HUMAN)
    headers = {"idempotency-key": "one"}
    path = f"/workflows/{workflow.id}/runs"
    runs = [world.ok(world.http.post(path, json={}, headers=headers))["id"] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(world.up.do(world.up.treadle.scoped("default").runs.list())) == 1


def test_runs_of_workflows_never_expire_unless_that_is_said(world):
    run = world.start(world.apply(HUMAN))
    thread = world.ok(world.http.post("/threads", json={}))["id"]
    other = world.ok(world.http.post(f"/threads/{thread}/runs", json={"assistant_id": "flow"}))
    assert (run["expires_at"], other["expires_at"]) == (None, None)


# -- people ----------------------------------------------------------------------------------------------------------


def test_a_question_is_shown_and_answered_over_http(world):
    run = world.rest(world.start(world.apply(HUMAN)))
    assert run["status"] == "requires_action"
    assert run["required_action"]["type"] == "answer"
    (question,) = run["required_action"]["answer"]["questions"]
    assert (question["step"], question["kind"], question["ask"]) == ("q#1", "approval", "Fine?")
    assert unlike(run) == []
    (step,) = world.steps(run)
    assert (step["type"], step["status"]) == ("tool_calls", "in_progress")
    assert world.answer(run, choice="x").status_code == 400
    assert world.answer(run, node="nobody", decision="approve").status_code == 404
    world.ok(world.answer(run, node="q", decision="reject", comment="no"))
    run = world.rest(run)
    assert (run["status"], run["output"], run["required_action"]) == ("completed", {"said": "reject"}, None)
    (step,) = world.steps(run)
    given = json.loads(step["step_details"]["tool_calls"][0]["function"]["output"])
    assert (step["status"], given["decision"], given["comment"]) == ("completed", "reject", "no")
    answer = world.answer(run, decision="approve")
    assert (answer.status_code, "completed" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("outputs", [[], [{"tool_call_id": "q#1", "output": "yes"}]])
def test_tool_outputs_do_not_answer_a_question(world, outputs):
    run = world.rest(world.start(world.apply(HUMAN)))
    for body in (
        {"tool_outputs": outputs},
        {"tool_outputs": outputs, "stream": True},
        {"tool_approvals": []},
    ):
        answer = world.http.post(f"{world.path(run)}/submit_tool_outputs", json=body)
        assert answer.status_code == 400, answer.text
    assert world.get(run) == run


def test_azures_automatic_calls_leave_a_question_alone_and_see_its_answer(world):
    workflow = world.apply(HUMAN)
    world.azure.enable_auto_function_calls({pay})
    thread = world.azure.threads.create()

    seen: list[str] = []
    get = world.azure.runs.get

    def look(**names: Any) -> Any:
        run = get(**names)
        seen.append(run.status.value)
        if seen.count("requires_action") == 3 and run.status == "requires_action":
            world.ok(world.answer({"thread_id": thread.id, "id": run.id}, decision="approve"))
        return run

    world.azure.runs.get = look
    run = world.azure.runs.create_and_process(
        thread_id=thread.id, agent_id=workflow.id, polling_interval=FAST
    )
    assert (run.status.value, run["output"]) == ("completed", {"said": "approve"})
    assert seen.count("requires_action") >= 3


def test_azures_stream_ends_at_a_question_and_answers_nothing(world):
    workflow = world.apply(HUMAN)
    world.azure.enable_auto_function_calls({pay})
    thread = world.azure.threads.create()
    with world.azure.runs.stream(
        thread_id=thread.id, agent_id=workflow.id, event_handler=AgentEventHandler()
    ) as stream:
        names = [name for name, _, _ in stream]
    assert names[-2:] == ["thread.run.requires_action", "done"]
    (run,) = world.azure.runs.list(thread_id=thread.id)
    assert (run.status.value, run.required_action.type) == ("requires_action", "answer")


def test_openais_poll_and_stream_give_a_question_back(world):
    workflow = world.apply(HUMAN)
    thread = world.oai.beta.threads.create()
    run = world.oai.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=workflow.id)
    assert (run.status, run.required_action.type) == ("requires_action", "answer")
    world.ok(world.answer(run.to_dict(), decision="approve"))
    world.rest(run.to_dict())
    with world.oai.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=workflow.id, event_handler=AssistantEventHandler()
    ) as stream:
        stream.until_done()
        assert stream.current_run.status == "requires_action"


def test_an_answer_may_be_followed(world):
    run = world.rest(world.start(world.apply(HUMAN)))
    answer = world.answer(run, decision="approve", stream=True)
    told = read_events(answer.content)
    assert [e.name for e in told] == ["thread.run.queued", "thread.run.in_progress", "thread.run.step.completed", "thread.run.completed", "done"]  # fmt: skip


# -- calls of runs within --------------------------------------------------------------------------------------------


def test_the_calls_of_all_runs_within_are_answered_at_the_run(world):
    world.model.says(LOOK_UP, LOOK_UP, "one", "two")
    run = world.rest(world.start(world.apply(TWO)))
    assert run["required_action"]["type"] == "submit_tool_outputs"
    calls = calls_of(run)
    assert len({call["id"] for call in calls}) == 2
    children = world.children(run)
    assert [world.get(child)["status"] for child in children] == ["requires_action"] * 2
    wrong = world.submit(run, (calls[0]["id"], "x"), ("nobody", "y"))
    assert (wrong.status_code, "Expected tool outputs" in wrong.json()["error"]["message"]) == (400, True)
    assert world.submit(run).status_code == 400
    after = world.ok(world.submit(run, *((call["id"], "yes") for call in calls)))
    assert after["required_action"] is None
    run = world.rest(run)
    assert (run["status"], sorted(run["output"]["both"].split())) == ("completed", ["one", "two"])
    assert [world.get(child)["status"] for child in children] == ["completed"] * 2


def test_the_calls_of_a_run_within_are_answered_there_and_both_go_on(world):
    world.model.says(LOOK_UP, LOOK_UP, "one", "two")
    run = world.rest(world.start(world.apply(TWO)))
    first, second = world.children(run)
    (call,) = calls_of(world.get(first))
    world.ok(world.submit(first, (call["id"], "yes")))
    world.rest(first, "completed")
    run = world.rest(run)
    assert run["status"] == "requires_action"
    assert len(calls_of(run)) == 1
    world.ok(world.submit(second, (calls_of(world.get(second))[0]["id"], "yes")))
    assert world.rest(run)["status"] == "completed"
    assert world.get(second)["status"] == "completed"


def test_azures_automatic_calls_answer_for_runs_within(world):
    def look_up(what: str) -> str:
        """Look up.

        :param what: What.
        :return: It.
        """
        return f"seen {what}"

    workflow = world.apply(TWO)
    world.model.says(LOOK_UP, LOOK_UP, "one", "two")
    world.azure.enable_auto_function_calls({look_up})
    thread = world.azure.threads.create()
    run = world.azure.runs.create_and_process(
        thread_id=thread.id, agent_id=workflow.id, polling_interval=FAST
    )
    assert (run.status.value, sorted(run["output"]["both"].split())) == ("completed", ["one", "two"])
    world.model.says(LOOK_UP, LOOK_UP, "one", "two")
    with world.azure.runs.stream(
        thread_id=thread.id, agent_id=workflow.id, event_handler=AgentEventHandler()
    ) as stream:
        names = [name for name, _, _ in stream]
    assert names.count("thread.run.requires_action") == 1
    assert names[-2:] == ["thread.run.completed", "done"]


def test_openais_client_streams_what_the_outputs_of_runs_within_lead_to(world):
    workflow = world.apply(TWO)
    world.model.says(LOOK_UP, LOOK_UP, "one", "two")
    run = world.oai.beta.threads.create_and_run_poll(assistant_id=workflow.id)
    outputs = [
        {"tool_call_id": c.id, "output": "yes"} for c in run.required_action.submit_tool_outputs.tool_calls
    ]
    with world.oai.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=run.thread_id, tool_outputs=outputs, event_handler=AssistantEventHandler()
    ) as stream:
        stream.until_done()
        assert stream.current_run.status == "completed"


PAYING = TWO.replace("agent: bot", "agent: careful")


def test_approvals_of_all_runs_within_are_given_at_the_run(world):
    world.model.says(PAY, PAY, "one", "two")
    run = world.rest(world.start(world.apply(PAYING)))
    assert run["required_action"]["type"] == "submit_tool_approval"
    calls = calls_of(run)
    given = [{"tool_call_id": calls[0]["id"], "approve": True}]
    path = f"{world.path(run)}/submit_tool_outputs"
    assert world.http.post(path, json={"tool_approvals": given}).status_code == 400
    given.append({"tool_call_id": calls[1]["id"], "approve": False})
    answer = world.http.post(path, json={"tool_approvals": given, "stream": True})
    told = read_events(answer.content)
    assert [e.name for e in told][-2:] == ["thread.run.completed", "done"]
    assert [e.name for e in told].count("thread.run.requires_action") == 0
    assert world.get(run)["status"] == "completed"


def test_an_approval_of_a_run_within_is_given_there(world):
    world.model.says(PAY, PAY, "one", "two")
    run = world.rest(world.start(world.apply(PAYING)))
    for child in world.children(run):
        (call,) = calls_of(world.get(child))
        given = [{"tool_call_id": call["id"], "approve": True}]
        world.ok(world.http.post(f"{world.path(child)}/submit_tool_outputs", json={"tool_approvals": given}))
        world.rest(child, "completed")
    assert world.rest(run)["status"] == "completed"


MIXED = """
start: all
nodes:
  all: {type: parallel, branches: [a, q], join: after}
  a: {type: agent, agent: bot, thread: new, message: 'A?', next: after}
  q: {type: human, kind: choice, choices: [x, y], ask: Which?, next: after}
  after: {type: end, outputs: {both: '{{ result_of.a.text }} {{ result_of.q.choice }}'}}
"""


@pytest.mark.parametrize("first", ["outputs", "answer"])
def test_calls_and_questions_are_shown_together_and_answered_in_any_order(world, first):
    world.model.says(LOOK_UP, "one")
    run = world.rest(world.start(world.apply(MIXED)))
    assert run["required_action"]["type"] == "submit_tool_outputs"
    assert [q["step"] for q in run["required_action"]["answer"]["questions"]] == ["q#1"]
    assert unlike(run) == []
    outputs = [(call["id"], "yes") for call in calls_of(run)]

    def give(what: str) -> None:
        world.ok(
            world.submit(run, *outputs) if what == "outputs" else world.answer(run, node="q", choice="y")
        )

    give(first)
    between = world.rest(run)
    assert between["required_action"]["type"] == ("answer" if first == "outputs" else "submit_tool_outputs")
    give("answer" if first == "outputs" else "outputs")
    assert world.rest(run)["output"] == {"both": "one y"}


# -- streams ---------------------------------------------------------------------------------------------------------


def said_in(told: list[Heard]) -> list[str]:
    """Give the text of each message that was told to its end, after checking that its pieces give it."""
    pieces: dict[str, str] = {}
    texts = []
    for event in told:
        if event.name == "thread.message.created":
            assert event.data["id"] not in pieces
            pieces[event.data["id"]] = ""
        elif event.name == "thread.message.delta":
            pieces[event.data["id"]] += event.data["delta"]["content"][0]["text"]["value"]
        elif event.name == "thread.message.completed":
            texts.append(event.data["content"][0]["text"]["value"])
            assert pieces[event.data["id"]] in ("", texts[-1])
    return texts


def test_a_stream_tells_what_the_run_and_the_runs_within_say_on_its_thread(world):
    workflow = world.apply(CHAT)
    world.model.says("It rains.")
    told = world.stream(workflow, inputs={"question": "What?"})
    names = [e.name for e in told]
    assert names[:4] == [
        "thread.created",
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
    ]
    assert names[-2:] == ["thread.run.completed", "done"]
    assert said_in(told) == SAID
    deltas = [e for e in told if e.name == "thread.message.delta"]
    assert "".join(d.data["delta"]["content"][0]["text"]["value"] for d in deltas) == "".join(SAID)
    assert told[-2].data["output"] == {"answer": "It rains."}
    for event in told[:-1]:
        schema = {
            "components": openapi.document()["components"],
            "$ref": f"#/components/schemas/{EVENTS[event.name]}",
        }
        assert [e.message for e in Draft202012Validator(schema).iter_errors(event.data)] == [], event.name
    steps = world.steps(told[-2].data)
    assert [e.data for e in told if e.name == "thread.run.step.completed"] == sorted(
        steps,
        key=lambda s: [e.data["id"] for e in told if e.name == "thread.run.step.completed"].index(s["id"]),
    )


def test_both_clients_read_every_event_of_a_workflow(world):
    workflow = world.apply(CHAT)
    world.model.says("It rains.", "It rains.", "It rains.")
    reads: TypeAdapter[Any] = TypeAdapter(AssistantStreamEvent)
    for event in world.stream(workflow, inputs={"question": "What?"})[:-1]:
        read = reads.validate_python({"event": event.name, "data": event.data})
        assert read.event == event.name
        for model in (OpenAIRun, OpenAIRunStep, OpenAIMessage):
            if isinstance(read.data, model):
                model.model_validate(event.data, strict=True)

    class Heard_(AssistantEventHandler):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        @override
        def on_text_done(self, text: Any) -> None:
            self.texts.append(text.value)

    thread = world.oai.beta.threads.create(messages=[{"role": "user", "content": "What?"}])
    handler = Heard_()
    with world.oai.beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=workflow.id, event_handler=handler
    ) as stream:
        stream.until_done()
        assert [m.content[0].text.value for m in stream.get_final_messages()] == SAID
        assert [s.type for s in stream.get_final_run_steps()] == [
            "message_creation", "tool_calls", "message_creation", "message_creation",
        ]  # fmt: skip
    assert handler.texts == SAID

    class Azures(AgentEventHandler):
        def __init__(self) -> None:
            super().__init__()
            self.text = ""
            self.other: list[Any] = []

        @override
        def on_message_delta(self, delta: Any) -> None:
            self.text += delta.text

        @override
        def on_unhandled_event(self, event_type: str, event_data: Any) -> None:
            self.other.append(event_type)

        @override
        def on_error(self, data: str) -> None:
            self.other.append(data)

    heard = Azures()
    azures = world.azure.threads.create(messages=[{"role": "user", "content": "What?"}])
    with world.azure.runs.stream(thread_id=azures.id, agent_id=workflow.id, event_handler=heard) as stream:
        stream.until_done()
    assert (heard.text, heard.other) == ("".join(SAID), [])


def test_a_reader_goes_on_exactly_after_every_event(world):
    workflow = world.apply(
        """
        start: hello
        nodes:
          hello: {type: message, text: 'On it.', next: all}
          all: {type: parallel, branches: [ask, other, aside], join: q}
          ask: {type: agent, agent: bot, message: 'One?', next: q}
          other: {type: agent, agent: bot, thread: new, message: 'Two?', next: q}
          aside: {type: agent, agent: bot, thread: new, message: 'Three?', next: q}
          q: {type: human, kind: approval, ask: 'Fine?', next: again}
          again: {type: agent, agent: bot, message: 'Four?', next: end}
        """
    )
    look = {"text": "Let me see."} | LOOK_UP
    world.model.says(look, look, look, "It rains.", "It rains.", "It rains.", "It snows.")
    run = world.rest(world.start(workflow))
    world.ok(world.submit(run, *((c["id"], "yes") for c in calls_of(run))))
    run = world.rest(run)
    told = read_events(world.answer(run, decision="approve", stream=True).content)
    assert said_in(told) == ["It snows."]
    whole = world.replay(run)
    assert said_in(whole) == ["On it.", "Let me see.", "It rains.", "It snows."]
    assert any(isinstance(e.id, str) for e in whole)
    for place, event in enumerate(whole):
        if event.id is None:
            continue
        assert world.replay(run, event.id) == whole[place + 1 :], event
        header = {"last-event-id": str(event.id)}
        rest = world.http.get(f"{world.path(run)}/events", headers=header)
        assert read_events(rest.content) == whole[place + 1 :]


def test_runs_within_runs_within_say_what_they_say_on_the_thread(world):
    workflow = world.apply(
        """
        start: one
        nodes:
          one: {type: message, text: 'One.', next: inner}
          inner: {type: workflow, workflow: '#within', thread: shared, next: four}
          four: {type: message, text: 'Four.', next: end}
        ---
        version: 1.0.0
        kind: workflow
        name: within
        start: two
        nodes:
          two: {type: message, text: 'Two.', next: three}
          three: {type: agent, agent: bot, message: 'Three?', next: end}
        """
    )
    world.model.says(LOOK_UP, "Three.")
    told = world.stream(workflow)
    assert told[-2].name == "thread.run.requires_action"
    run = told[-2].data
    rest = read_events(world.submit(run, *((c["id"], "yes") for c in calls_of(run)), stream=True).content)
    assert said_in(told) + said_in(rest) == ["One.", "Two.", "Three.", "Four."]
    whole = world.replay(run)
    assert said_in(whole) == ["One.", "Two.", "Three.", "Four."]
    for place, event in enumerate(whole):
        if event.id is not None:
            assert world.replay(run, event.id) == whole[place + 1 :], event
    assert [
        s["step_details"]["message_creation"]["message_id"]
        for s in world.steps(run)
        if s["type"] == "message_creation"
    ] == [e.data["id"] for e in whole if e.name == "thread.message.completed"]


def test_the_pieces_of_a_run_within_are_told_while_it_speaks(world):
    workflow = world.apply(CHAT)
    held = world.model.holds("It ", "rains.")
    body = {"inputs": {"question": "What?"}, "stream": True}
    heard = b""
    with world.http.stream("POST", f"/workflows/{workflow.id}/runs", json=body) as answer:
        pieces = answer.iter_bytes()
        while b'"It "' not in heard:
            heard += next(pieces)
        held.release()
        heard += b"".join(pieces)
    assert said_in(read_events(heard)) == SAID


def test_a_reader_who_comes_while_a_run_within_speaks_hears_the_whole_message(world):
    workflow = world.apply(CHAT)
    held = world.model.holds("It ", "rains.")
    run = world.start(workflow, inputs={"question": "What?"})
    held.wait()
    with world.http.stream("GET", f"{world.path(run)}/events") as answer:
        pieces = answer.iter_bytes()
        heard = next(pieces)
        held.release()
        heard += b"".join(pieces)
    assert said_in(read_events(heard)) == SAID


# -- other ends ------------------------------------------------------------------------------------------------------


def test_a_run_of_a_workflow_is_cancelled_with_the_runs_within(world):
    world.model.says(LOOK_UP, LOOK_UP)
    run = world.rest(world.start(world.apply(TWO)))
    cancelled = world.oai.beta.threads.runs.cancel(run["id"], thread_id=run["thread_id"])
    assert cancelled.status == "cancelling"
    assert world.rest(run, *ENDS)["status"] == "cancelled"
    assert [world.get(child)["status"] for child in world.children(run)] == ["cancelled"] * 2
    assert {s["status"] for s in world.steps(run)} == {"cancelled"}
    told = [e.name for e in world.replay(run)]
    assert told[-2:] == ["thread.run.cancelled", "done"]
    assert told.count("thread.run.step.cancelled") == told.count("thread.run.step.created") == 2


FAILING = """
start: bad
nodes:
  bad: {type: fail, error: no_luck, message: 'Not today.'}
"""


def test_a_run_of_a_workflow_that_fails_says_why_in_the_words_of_the_wire(world):
    workflow = world.apply(FAILING)
    run = world.rest(world.start(workflow))
    assert (run["status"], run["last_error"]["code"]) == ("failed", "server_error")
    assert "Not today." in run["last_error"]["message"]
    assert unlike(run) == []
    assert (
        world.azure.runs.get(thread_id=run["thread_id"], run_id=run["id"]).last_error.code == "server_error"
    )


def test_a_limit_ends_a_run_of_a_workflow_as_incomplete(world):
    text = """
    limits: {max_steps: 5}
    start: a
    nodes:
      a: {type: set, set: {n: '{{ state.n + 1 }}'}, max_visits: 100, next: b}
      b: {type: set, set: {n: '{{ state.n + 1 }}'}, max_visits: 100, next: [{when: state.n < 0, to: end}, {to: a}]}
    state: {n: {type: integer, default: 0}}
    """
    run = world.rest(world.start(world.apply(text)))
    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_steps"})
    assert world.steps(run) == []
    assert unlike(run) == []
    assert world.replay(run)[-2].name == "thread.run.incomplete"


def test_a_thread_goes_with_its_runs_once_they_have_ended_and_not_before(world):
    world.model.says(LOOK_UP, LOOK_UP, "one", "two")
    run = world.rest(world.start(world.apply(TWO)))
    children = world.children(run)
    for thread in (run["thread_id"], *(child["thread_id"] for child in children)):
        answer = world.http.delete(f"/threads/{thread}")
        assert (answer.status_code, "active" in answer.json()["error"]["message"]) == (400, True)
    world.ok(world.submit(run, *((c["id"], "yes") for c in calls_of(run))))
    world.rest(run, "completed")
    world.ok(world.http.delete(f"/threads/{children[0]['thread_id']}"))
    assert len(world.steps(run)) == 2
    assert world.replay(run)[-1].name == "done"
    world.ok(world.http.delete(f"/threads/{run['thread_id']}"))
    assert world.http.get(world.path(run)).status_code == 404
    assert world.get(children[1])["status"] == "completed"


def test_a_run_that_another_process_began_is_read_answered_and_followed(world, tmp_path):
    import asyncio

    from treadle.service import Treadle

    workflow = world.apply(HUMAN)

    async def begin() -> Any:
        async with Treadle(f"sqlite:///{tmp_path / 'treadle.db'}", project=tmp_path) as other:
            return await other.workflows.run(workflow.id)

    found = asyncio.run(begin())
    run = world.get({"id": found.id, "thread_id": found.thread_id})
    assert (run["status"], run["assistant_id"]) == ("requires_action", workflow.id)
    told = read_events(world.answer(run, decision="approve", stream=True).content)
    assert told[-2].name == "thread.run.completed"
    assert world.replay(run)[1].name == "thread.run.queued"
