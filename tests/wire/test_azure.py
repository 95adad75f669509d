"""Azure's client against the server: agents, threads, messages, runs with functions called for them, and streams."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from azure.ai.agents import AgentsClient
from azure.ai.agents.models import (
    AgentEventHandler,
    AgentsNamedToolChoice,
    FunctionName,
    FunctionTool,
    ListSortOrder,
    MessageImageUrlParam,
    MessageInputImageUrlBlock,
    MessageInputTextBlock,
    MessageRole,
    ResponseFormatJsonSchema,
    ResponseFormatJsonSchemaType,
    RunStatus,
    ThreadMessageOptions,
    ToolOutput,
    ToolSet,
    TruncationObject,
)
from azure.core.credentials import AzureKeyCredential

from treadle.azure import local_client_kwargs

FAST = 0.02
"""Seconds between two looks of the client at its run."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASK = {"calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]}
ASK_TWICE = {
    "calls": [
        {"name": "get_weather", "arguments": {"city": "Paris"}},
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
    ]
}


def get_weather(city: str) -> str:
    """Tell the weather of a city.

    :param city: The city.
    :return: The weather.
    """
    if city == "Atlantis":
        raise LookupError("it has sunk")
    return json.dumps({"city": city, "weather": "rain"})


@pytest.fixture
def begin(azure: AgentsClient) -> Callable[..., tuple[str, str]]:
    """Give a function that makes an agent and a thread with one message, and gives their ids."""

    def make(text: str = "Hello", **fields: Any) -> tuple[str, str]:
        agent = azure.create_agent(**({"model": "scripted"} | fields))
        thread = azure.threads.create(messages=[ThreadMessageOptions(role="user", content=text)])
        return agent.id, thread.id

    return make


@pytest.fixture
def automatic(server: Any) -> Any:
    """Give a client of its own that calls functions by itself."""
    with AgentsClient(
        endpoint=f"{server.url}/api/projects/wire",
        credential=AzureKeyCredential("any"),
        retry_total=0,
        **local_client_kwargs("any"),
    ) as client:
        client.enable_auto_function_calls({get_weather}, max_retry=2)
        yield client


def texts(azure: AgentsClient, thread_id: str) -> list[tuple[str, str]]:
    found = azure.messages.list(thread_id=thread_id, order=ListSortOrder.ASCENDING)
    return [(m.role.value, part.text.value) for m in found for part in m.content]


def outputs(azure: AgentsClient, run: Any) -> list[Any]:
    steps = azure.run_steps.list(thread_id=run.thread_id, run_id=run.id, order="asc")
    return [
        c["function"]["output"] for s in steps if s.type == "tool_calls" for c in s.step_details.tool_calls
    ]


# -- agents, threads, messages ---------------------------------------------------------------------------------------


def test_an_agent_is_made_changed_listed_and_deleted(azure):
    made = azure.create_agent(
        model="scripted", name="Wanda", description="Knows.", instructions="Be brief.", metadata={"a": "1"},
        temperature=0.4, top_p=0.5, toolset=_toolset(),
    )  # fmt: skip
    assert (made.name, made.description, made.instructions, made.temperature) == (
        "Wanda",
        "Knows.",
        "Be brief.",
        0.4,
    )
    assert made.tools[0].function.name == "get_weather"
    assert azure.get_agent(made.id).as_dict() == made.as_dict()
    changed = azure.update_agent(made.id, name="Walter")
    assert changed.as_dict() == made.as_dict() | {"name": "Walter"}
    emptied = azure.update_agent(
        made.id, body={"description": None, "tools": [], "metadata": {}, "temperature": None}
    )
    assert (emptied.description, emptied.tools, emptied.metadata, emptied.temperature) == (None, [], {}, None)
    assert emptied.instructions == "Be brief."
    assert made.id in [a.id for a in azure.list_agents()]
    azure.delete_agent(made.id)
    assert made.id not in [a.id for a in azure.list_agents()]


def _toolset() -> ToolSet:
    tools = ToolSet()
    tools.add(FunctionTool({get_weather}))
    return tools


def test_threads_and_messages(azure):
    thread = azure.threads.create(metadata={"a": "1"})
    assert azure.threads.update(thread.id, metadata={"b": "2"}).metadata == {"b": "2"}
    assert thread.id in [t.id for t in azure.threads.list()]
    made = azure.messages.create(thread.id, role=MessageRole.USER, content="One", metadata={"n": "1"})
    blocks = [
        MessageInputTextBlock(text="Two"),
        MessageInputImageUrlBlock(
            image_url=MessageImageUrlParam(url="https://example.com/a.png", detail="high")
        ),
    ]
    azure.messages.create(thread.id, role="user", content=blocks)
    azure.messages.create(thread.id, role=MessageRole.AGENT, content="Three")
    assert azure.messages.get(thread.id, made.id).content[0].text.value == "One"
    assert azure.messages.update(thread.id, made.id, metadata={"n": "2"}).metadata == {"n": "2"}
    listed = list(azure.messages.list(thread.id, order="asc"))
    assert [m.role for m in listed] == ["user", "user", "assistant"]
    assert listed[1].content[1].as_dict()["image_url"] == {
        "url": "https://example.com/a.png",
        "detail": "high",
    }
    last = azure.messages.get_last_message_by_role(thread.id, role=MessageRole.USER)
    assert last.id == listed[1].id
    assert (
        azure.messages.get_last_message_text_by_role(thread.id, role=MessageRole.AGENT).text.value == "Three"
    )
    azure.threads.delete(thread.id)
    assert thread.id not in [t.id for t in azure.threads.list()]


@pytest.mark.parametrize("limit", [1, 7, 100, None])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_pager_ends_whatever_the_page(azure, limit, order):
    thread = azure.threads.create(
        messages=[ThreadMessageOptions(role="user", content=str(n)) for n in range(21)]
    )
    found = [m.content[0].text.value for m in azure.messages.list(thread.id, limit=limit, order=order)]
    wanted = [str(n) for n in range(21)]
    assert found == (wanted if order == "asc" else wanted[::-1])


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_made_and_processed(azure, begin, model):
    agent, thread = begin(instructions="Be brief.")
    model.says({"text": "Hi there.", "usage": {"prompt_tokens": 12, "completion_tokens": 3}})
    run = azure.runs.create_and_process(thread, agent_id=agent, polling_interval=FAST, metadata={"a": "1"})
    assert (run.status, run.agent_id, run.thread_id) == (RunStatus.COMPLETED, agent, thread)
    assert (run.usage.prompt_tokens, run.usage.total_tokens) == (12, 15)
    assert texts(azure, thread) == [("user", "Hello"), ("assistant", "Hi there.")]
    assert azure.runs.update(thread, run.id, metadata={"b": "2"}).metadata == {"b": "2"}
    assert [r.id for r in azure.runs.list(thread)] == [run.id]
    [step] = azure.run_steps.list(thread, run.id)
    assert azure.run_steps.get(thread, run.id, step.id).as_dict() == step.as_dict()


def test_a_thread_and_a_run_are_made_at_once(azure, automatic, begin, model):
    agent, _ = begin(tools=[WEATHER])
    model.says("Hi.", ASK, "Rain.")
    thread = {"messages": [{"role": "user", "content": "Hello"}]}
    run = azure.create_thread_and_run(agent_id=agent, thread=thread, temperature=0.5)
    assert run.temperature == 0.5
    assert run.status in (RunStatus.QUEUED, RunStatus.IN_PROGRESS)
    done = automatic.create_thread_and_process_run(
        agent_id=agent, thread={"messages": [{"role": "user", "content": "Paris?"}]}, polling_interval=FAST
    )
    assert done.status == RunStatus.COMPLETED
    assert outputs(azure, done) == [get_weather("Paris")]


def test_functions_are_called_for_the_run(automatic, begin, model):
    agent, thread = begin(tools=[WEATHER])
    model.says(ASK_TWICE, ASK, "Rain.")
    run = automatic.runs.create_and_process(thread, agent_id=agent, polling_interval=FAST)
    assert run.status == RunStatus.COMPLETED
    assert outputs(automatic, run) == [get_weather("Paris"), get_weather("Oslo"), get_weather("Paris")]
    assert model.sent[-1] == ("tool", get_weather("Paris"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"name": "get_weather", "arguments": {"city": "Atlantis"}}, "it has sunk"),
        ({"name": "get_lost"}, "get_lost"),
    ],
)
def test_a_function_that_fails_or_that_nobody_knows_is_told_to_the_model(automatic, begin, model, call, said):
    lost = {
        "type": "function",
        "function": {"name": "get_lost", "parameters": {"type": "object", "properties": {}}},
    }
    agent, thread = begin(tools=[WEATHER, lost])
    model.says({"calls": [call]}, "I could not.")
    run = automatic.runs.create_and_process(thread, agent_id=agent, polling_interval=FAST)
    assert run.status == RunStatus.COMPLETED
    [output] = outputs(automatic, run)
    assert said in json.loads(output)["error"]


def test_a_function_that_goes_on_failing_makes_the_client_cancel(automatic, begin, model):
    agent, thread = begin(tools=[WEATHER])
    model.says(*[{"calls": [{"name": "get_weather", "arguments": {"city": "Atlantis"}}]}] * 4)
    run = automatic.runs.create_and_process(thread, agent_id=agent, polling_interval=FAST)
    assert run.status == RunStatus.CANCELLING
    assert automatic.runs.get(thread, run.id).status == RunStatus.CANCELLED


def test_outputs_are_submitted_by_hand(azure, begin, model):
    agent, thread = begin(tools=[WEATHER])
    model.says(ASK, "Rain.")
    run = waiting(azure, azure.runs.create(thread, agent_id=agent))
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function", "get_weather", {"city": "Paris"},
    )  # fmt: skip
    after = azure.runs.submit_tool_outputs(
        thread, run.id, tool_outputs=[ToolOutput(tool_call_id=call.id, output="wet")]
    )
    # A client that polls must never see the old action again: it would answer it twice.
    assert after.status != RunStatus.REQUIRES_ACTION
    assert azure.runs.get(thread, run.id).required_action is None
    done = ended(azure, after)
    assert done.status == RunStatus.COMPLETED
    assert outputs(azure, done) == ["wet"]


def test_a_run_is_cancelled(azure, begin, model):
    agent, thread = begin()
    held = model.holds("Let me th", "ink.")
    run = azure.runs.create(thread, agent_id=agent)
    held.wait()
    asked = azure.runs.cancel(thread, run.id)
    assert asked.status == RunStatus.CANCELLING
    done = ended(azure, asked)
    assert done.status == RunStatus.CANCELLED
    assert done.cancelled_at is not None


def waiting(azure: AgentsClient, run: Any) -> Any:
    return _polled(azure, run, lambda found: found.status == RunStatus.REQUIRES_ACTION)


def ended(azure: AgentsClient, run: Any) -> Any:
    open_ = (RunStatus.QUEUED, RunStatus.IN_PROGRESS, RunStatus.CANCELLING)
    return _polled(azure, run, lambda found: found.status not in open_)


def _polled(azure: AgentsClient, run: Any, is_over: Callable[[Any], bool]) -> Any:
    for _ in range(2000):
        run = azure.runs.get(run.thread_id, run.id)
        if is_over(run):
            return run
    raise AssertionError(run.as_dict())


# -- what a run changes of its agent ---------------------------------------------------------------------------------

SCHEMA = ResponseFormatJsonSchemaType(
    json_schema=ResponseFormatJsonSchema(name="n", schema={"type": "number"})
)
OVERRIDES: list[tuple[dict[str, Any], Callable[[Any], Any], Any, Callable[[Any], Any], Any]] = [
    ({"instructions": "Be loud."}, lambda r: r.instructions, "Be loud.", lambda r: r.instructions, "Be loud."),
    (
        {"additional_instructions": "Rhyme."}, lambda r: r.instructions, "Be brief.\n\nRhyme.",
        lambda r: r.instructions, "Be brief.\n\nRhyme.",
    ),
    ({"temperature": 0.1}, lambda r: r.options.temperature, 0.1, lambda r: r.temperature, 0.1),
    ({"top_p": 0.2}, lambda r: r.options.top_p, 0.2, lambda r: r.top_p, 0.2),
    (
        {"parallel_tool_calls": False}, lambda r: r.options.parallel_tool_calls, False,
        lambda r: r.parallel_tool_calls, False,
    ),
    ({"max_completion_tokens": 300}, lambda r: r.options.max_output_tokens, 300, lambda r: r.max_completion_tokens, 300),
    ({"max_prompt_tokens": 900}, lambda r: len(r.messages), 1, lambda r: r.max_prompt_tokens, 900),
    ({"tools": []}, lambda r: list(r.tools), [], lambda r: r.tools, []),
    ({"tool_choice": "none"}, lambda r: r.tool_choice, "none", lambda r: r.tool_choice, "none"),
    (
        {"tool_choice": AgentsNamedToolChoice(type="function", function=FunctionName(name="get_weather"))},
        lambda r: r.tool_choice, "get_weather", lambda r: r.tool_choice["function"]["name"], "get_weather",
    ),
    (
        {"response_format": SCHEMA}, lambda r: r.output_schema, {"type": "number"},
        lambda r: r.response_format["json_schema"]["schema"], {"type": "number"},
    ),
    (
        {"truncation_strategy": TruncationObject(type="last_messages", last_messages=1)},
        lambda r: [m.plain for m in r.messages], ["More"], lambda r: r.truncation_strategy.last_messages, 1,
    ),
    ({"metadata": {"a": "1"}}, lambda r: r.model, "scripted", lambda r: r.metadata, {"a": "1"}),
    (
        {"additional_messages": [ThreadMessageOptions(role="user", content="Even more")]},
        lambda r: [m.plain for m in r.messages][-1], "Even more", lambda r: r.model, "scripted",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "sent", "wanted", "shown", "is_shown"), OVERRIDES, ids=["+".join(row[0]) for row in OVERRIDES]
)
def test_what_a_run_changes_reaches_the_model_and_shows_in_the_run(
    azure, begin, model, given, sent, wanted, shown, is_shown
):
    agent, thread = begin("More", instructions="Be brief.", tools=[WEATHER], temperature=1.5)
    if "truncation_strategy" in given:
        azure.messages.create(thread, role="assistant", content="What?")
        azure.messages.create(thread, role="user", content="More")
    model.says("7")
    run = azure.runs.create_and_process(thread, agent_id=agent, polling_interval=FAST, **_with_toolset(given))
    assert run.status == RunStatus.COMPLETED, run.last_error
    assert sent(model.requests[0]) == wanted
    assert shown(run) == is_shown


def _with_toolset(given: dict[str, Any]) -> dict[str, Any]:
    """Say with a toolset, as that call wants it, that there are no tools."""
    if "tools" not in given:
        return given
    return {"toolset": ToolSet()} | {k: v for k, v in given.items() if k != "tools"}


# -- streams ---------------------------------------------------------------------------------------------------------


class Handler(AgentEventHandler[str]):
    """Notes every call; each gives what the stream's iterator then gives."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.text = ""

    def on_message_delta(self, delta: Any) -> str:
        self.text += delta.text
        return self._note("message_delta")

    def on_thread_message(self, message: Any) -> str:
        return self._note(f"message {message.status.value}")

    def on_thread_run(self, run: Any) -> str:
        return self._note(f"run {run.status.value}")

    def on_run_step(self, step: Any) -> str:
        return self._note(f"step {step.type.value} {step.status.value}")

    def on_run_step_delta(self, delta: Any) -> str:
        return self._note(f"step_delta {delta.delta.step_details.type}")

    def on_error(self, data: str) -> str:
        return self._note(f"error {data}")

    def on_done(self) -> str:
        return self._note("done")

    def on_unhandled_event(self, event_type: str, event_data: Any) -> str:
        return self._note(f"unhandled {event_type} {event_data}")

    def _note(self, what: str) -> str:
        self.told.append(what)
        return what


RUNS = ["run queued", "run queued", "run in_progress"]
STEP = ["step tool_calls in_progress", "step tool_calls in_progress"]
SPEECH = ["step message_creation in_progress"] * 2 + ["message in_progress"] * 2
SPOKEN = ["message completed", "step message_creation completed", "run completed", "done"]


def test_a_streams_handler_is_told_everything(azure, begin, model):
    agent, thread = begin()
    model.says("It rains today.")
    handler = Handler()
    with azure.runs.stream(thread, agent_id=agent, event_handler=handler) as stream:
        stream.until_done()
    assert handler.text == "It rains today."
    assert handler.told == [*RUNS, *SPEECH, *["message_delta"] * 3, *SPOKEN]


def test_functions_are_called_for_a_stream(automatic, begin, model):
    agent, thread = begin(tools=[WEATHER])
    model.says(ASK_TWICE, ASK, "It rains.")
    handler = Handler()
    with automatic.runs.stream(thread, agent_id=agent, event_handler=handler) as stream:
        stream.until_done()
    assert handler.text == "It rains."
    assert [t for t in handler.told if t.startswith(("error", "unhandled"))] == []
    assert handler.told.count("done") == 3
    assert handler.told.count("run requires_action") == 2
    assert [t for t in handler.told if t.startswith("step tool_calls")] == [
        *STEP,
        "step tool_calls completed",
    ] * 2
    assert handler.told[-4:] == SPOKEN
    [run] = automatic.runs.list(thread)
    assert run.status == RunStatus.COMPLETED
    assert len(outputs(automatic, run)) == 3


def test_a_stream_without_functions_leaves_the_run_waiting_for_outputs(azure, begin, model):
    agent, thread = begin(tools=[WEATHER])
    model.says(ASK, "It rains.")
    with azure.runs.stream(thread, agent_id=agent) as stream:
        events = [(name, data) for name, data, _ in stream]
    assert [name for name, _ in events][-2:] == ["thread.run.requires_action", "done"]
    run = events[-2][1]
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    handler = Handler()
    azure.runs.submit_tool_outputs_stream(
        thread, run.id, tool_outputs=[ToolOutput(tool_call_id=call.id, output="wet")], event_handler=handler
    )
    handler.until_done()
    assert handler.text == "It rains."
    assert handler.told[:3] == ["step tool_calls completed", "run queued", "run in_progress"]


def test_a_failed_run_ends_its_stream_and_is_no_error_of_it(azure, begin, model):
    agent, thread = begin()
    model.says(
        {"error": {"kind": "rate_limit", "message": "Rate limit is exceeded. Try again in 7 seconds."}}
    )
    handler = Handler()
    with azure.runs.stream(thread, agent_id=agent, event_handler=handler) as stream:
        stream.until_done()
    assert handler.told[-2:] == ["run failed", "done"]
    [run] = azure.runs.list(thread)
    assert run.last_error.code == "rate_limit_exceeded"
    assert "Try again in 7 seconds." in run.last_error.message


def test_signs_of_life_between_events_reach_no_handler(azure, http, begin, model, monkeypatch):
    monkeypatch.setattr("treadle.server.sse.KEEP_ALIVE_S", 0.02)
    agent, thread = begin()
    held = model.holds("One", " two")
    handler = Handler()
    with azure.runs.stream(thread, agent_id=agent, event_handler=handler) as stream:
        for event in stream:
            if event[2] == "message_delta" and handler.text == "One":
                _wait_for_signs(http, f"/api/projects/wire/threads/{thread}/runs")
                held.release()
    assert handler.text == "One two"
    assert [t for t in handler.told if t.startswith(("error", "unhandled"))] == []


def _wait_for_signs(http: Any, runs: str) -> None:
    """Follow the run beside the client until it was silent for some signs of life."""
    run = http.get(runs).json()["data"][0]["id"]
    with http.stream("GET", f"{runs}/{run}/events") as response:
        seen = b""
        for piece in response.iter_raw():
            seen += piece
            if seen.count(b": keepalive\n") >= 3:
                return


# -- mounts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mount", ["", "/", "/v1", "/openai", "/openai/v1", "/api/projects/other", "/api/projects/other/v1"]
)
@pytest.mark.parametrize("api_version", ["v1", "2025-05-01", "2025-05-15-preview", "anything"])
def test_every_mount_and_version_is_served(server, model, mount, api_version):
    with AgentsClient(
        endpoint=f"{server.url}{mount}", credential=AzureKeyCredential("any"), api_version=api_version,
        **local_client_kwargs("any", header="Authorization"),
    ) as client:  # fmt: skip
        agent = client.create_agent(model="scripted")
        model.says("Hi.")
        run = client.create_thread_and_process_run(
            agent_id=agent.id,
            thread={"messages": [{"role": "user", "content": "Hello"}]},
            polling_interval=FAST,
        )
        assert run.status == RunStatus.COMPLETED


def test_objects_of_one_project_are_not_there_in_another(server, azure):
    agent = azure.create_agent(model="scripted")
    with AgentsClient(
        endpoint=f"{server.url}/api/projects/elsewhere", credential=AzureKeyCredential("any"),
        **local_client_kwargs("any"),
    ) as client:  # fmt: skip
        assert [a.id for a in client.list_agents()] == []
        with pytest.raises(Exception, match=f"No assistant found with id '{agent.id}'"):
            client.get_agent(agent.id)
