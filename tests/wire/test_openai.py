"""OpenAI's client against the server: every call of assistants, threads, messages, runs and run steps."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai import AssistantEventHandler, AzureOpenAI, OpenAI
from typing_extensions import override

pytestmark = pytest.mark.filterwarnings(
    "ignore:The Assistants API is deprecated:DeprecationWarning", "ignore:deprecated:DeprecationWarning"
)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": False,
    },
}
TIME = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
ASK = {"calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]}
ASK_TWICE = {
    "calls": [
        {"name": "get_weather", "arguments": {"city": "Paris"}},
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
    ]
}


@pytest.fixture
def assistants(oai: OpenAI) -> Any:
    return oai.beta.assistants


@pytest.fixture
def threads(oai: OpenAI) -> Any:
    return oai.beta.threads


@pytest.fixture
def begin(oai: OpenAI) -> Callable[..., tuple[Any, Any]]:
    """Give a function that makes an assistant and a thread with one message."""

    def make(text: str = "Hello", **fields: Any) -> tuple[Any, Any]:
        assistant = oai.beta.assistants.create(**({"model": "scripted"} | fields))
        return assistant, oai.beta.threads.create(messages=[{"role": "user", "content": text}])

    return make


# -- assistants ------------------------------------------------------------------------------------------------------


def test_an_assistant_comes_back_as_it_was_made(assistants):
    form = {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": {"type": "object"}, "strict": True},
    }
    made = assistants.create(
        model="scripted", name="Wanda", description="Knows the weather.", instructions="Be brief.", tools=[WEATHER],
        metadata={"team": "a"}, temperature=0.3, top_p=0.9, reasoning_effort="low", response_format=form,
    )  # fmt: skip
    assert made == assistants.retrieve(made.id)
    found = made.to_dict()
    assert found["object"] == "assistant"
    assert found["id"].startswith("asst_")
    assert (found["name"], found["description"], found["instructions"]) == (
        "Wanda",
        "Knows the weather.",
        "Be brief.",
    )
    assert found["tools"] == [WEATHER]
    assert found["metadata"] == {"team": "a"}
    assert (found["temperature"], found["top_p"], found["reasoning_effort"]) == (0.3, 0.9, "low")
    assert found["response_format"]["json_schema"]["name"] == "place"


def test_an_update_changes_what_it_names_and_null_sets_a_field_back(assistants):
    made = assistants.create(
        model="scripted", name="Wanda", instructions="Be brief.", tools=[WEATHER], metadata={"team": "a"},
        temperature=0.3, description="Old.",
    )  # fmt: skip
    changed = assistants.update(made.id, name="Walter")
    assert changed.name == "Walter"
    assert changed.to_dict() | {"name": "Wanda"} == made.to_dict()
    emptied = assistants.update(
        made.id,
        description=None,
        instructions=None,
        temperature=None,
        tools=[],
        metadata={},
        response_format="auto",
    )
    assert (emptied.name, emptied.description, emptied.temperature) == ("Walter", None, None)
    assert (emptied.tools, emptied.metadata) == ([], {})
    assert not emptied.instructions
    assert assistants.retrieve(made.id) == emptied


def test_a_deleted_assistant_is_gone_and_its_runs_stay(oai, assistants, begin, model):
    assistant, thread = begin()
    model.says("Hi.")
    run = oai.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    gone = assistants.delete(assistant.id)
    assert (gone.id, gone.object, gone.deleted) == (assistant.id, "assistant.deleted", True)
    assert assistant.id not in [a.id for a in assistants.list()]
    again = oai.beta.threads.runs.retrieve(run.id, thread_id=thread.id)
    assert again.to_dict() == run.to_dict()
    assert again.assistant_id == assistant.id


# -- threads and messages --------------------------------------------------------------------------------------------


def test_a_thread_begins_with_its_messages_in_order(threads):
    thread = threads.create(
        messages=[
            {"role": "user", "content": "One", "metadata": {"n": "1"}},
            {"role": "assistant", "content": "Two"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Three"}, {"type": "text", "text": "Four"}],
            },
        ],
        metadata={"for": "me"},
    )
    assert thread.metadata == {"for": "me"}
    found = list(threads.messages.list(thread.id, order="asc"))
    assert [(m.role, [part.text.value for part in m.content]) for m in found] == [
        ("user", ["One"]), ("assistant", ["Two"]), ("user", ["Three", "Four"]),
    ]  # fmt: skip
    assert found[0].metadata == {"n": "1"}
    assert {m.thread_id for m in found} == {thread.id}
    assert all(m.status == "completed" and m.completed_at for m in found)
    assert [m.id for m in threads.messages.list(thread.id)] == [m.id for m in reversed(found)]


def test_a_threads_metadata_is_replaced_and_kept(threads):
    thread = threads.create(metadata={"a": "1"})
    assert threads.update(thread.id, metadata={"b": "2"}).metadata == {"b": "2"}
    assert threads.update(thread.id).metadata == {"b": "2"}
    assert threads.retrieve(thread.id).metadata == {"b": "2"}
    gone = threads.delete(thread.id)
    assert (gone.object, gone.deleted) == ("thread.deleted", True)


def test_a_message_is_made_changed_read_and_deleted(threads):
    thread = threads.create()
    made = threads.messages.create(thread.id, role="user", content="Hello", metadata={"a": "1"})
    assert made.id.startswith("msg_")
    assert (made.object, made.role, made.assistant_id, made.run_id) == ("thread.message", "user", None, None)
    assert made.content[0].text.annotations == []
    changed = threads.messages.update(made.id, thread_id=thread.id, metadata={"b": "2"})
    assert changed == threads.messages.retrieve(made.id, thread_id=thread.id)
    assert changed.metadata == {"b": "2"}
    gone = threads.messages.delete(made.id, thread_id=thread.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "thread.message.deleted", True)
    assert list(threads.messages.list(thread.id)) == []


def test_images_by_address_come_back_as_they_were_sent(threads):
    thread = threads.create()
    part = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "low"}}
    made = threads.messages.create(thread.id, role="user", content=[{"type": "text", "text": "What?"}, part])
    assert made.content[1].to_dict() == part


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_answers(threads, begin, model):
    assistant, thread = begin(instructions="Be brief.")
    model.says({"text": "Hi there.", "usage": {"prompt_tokens": 12, "completion_tokens": 3}})
    run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, metadata={"a": "1"})
    assert (run.status, run.object, run.assistant_id, run.thread_id) == (
        "completed", "thread.run", assistant.id, thread.id,
    )  # fmt: skip
    assert run.usage.to_dict() == {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    assert run.started_at <= run.completed_at
    assert (run.expires_at, run.required_action, run.last_error, run.incomplete_details) == (None,) * 4
    assert run.metadata == {"a": "1"}
    answer = next(iter(threads.messages.list(thread.id, run_id=run.id)))
    assert (answer.role, answer.assistant_id, answer.run_id) == ("assistant", assistant.id, run.id)
    assert answer.content[0].text.value == "Hi there."
    assert model.requests[0].instructions == "Be brief."
    assert model.sent == [("user", "Hello")]
    changed = threads.runs.update(run.id, thread_id=thread.id, metadata={"b": "2"})
    assert changed.metadata == {"b": "2"}
    assert [r.id for r in threads.runs.list(thread.id)] == [run.id]


def test_a_run_waits_for_its_client_and_goes_on(threads, begin, model):
    assistant, thread = begin(tools=[WEATHER])
    model.says(ASK_TWICE, "Rain and snow.")
    run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "requires_action"
    assert run.required_action.type == "submit_tool_outputs"
    assert (run.usage, run.completed_at) == (None, None)
    assert run.expires_at == run.created_at + 600
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert [json.loads(c.function.arguments)["city"] for c in calls] == ["Paris", "Oslo"]
    outputs = [
        {"tool_call_id": c.id, "output": o} for c, o in zip(reversed(calls), ("snow", "rain"), strict=True)
    ]
    done = threads.runs.submit_tool_outputs_and_poll(run_id=run.id, thread_id=thread.id, tool_outputs=outputs)
    assert done.status == "completed"
    assert done.required_action is None
    assert model.sent[-2:] == [("tool", "rain"), ("tool", "snow")]
    steps = list(threads.runs.steps.list(run.id, thread_id=thread.id, order="asc"))
    assert [(s.type, s.status) for s in steps] == [
        ("tool_calls", "completed"),
        ("message_creation", "completed"),
    ]
    assert [c.function.output for c in steps[0].step_details.tool_calls] == ["rain", "snow"]
    spent = [s.usage.total_tokens for s in steps]
    assert sum(spent) == done.usage.total_tokens
    for step in steps:
        assert threads.runs.steps.retrieve(step.id, thread_id=thread.id, run_id=run.id) == step
        assert (step.object, step.run_id, step.thread_id) == ("thread.run.step", run.id, thread.id)
    assert [s.id for s in threads.runs.steps.list(run.id, thread_id=thread.id)] == [
        s.id for s in reversed(steps)
    ]


def test_a_thread_and_a_run_are_made_at_once(oai, begin, model):
    assistant, _ = begin(tools=[WEATHER])
    model.says("Hello Bo.")
    run = oai.beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "I am Bo"}], "metadata": {"who": "Bo"}},
        instructions="Greet.",
    )
    assert (run.status, run.instructions) == ("completed", "Greet.")
    assert oai.beta.threads.retrieve(run.thread_id).metadata == {"who": "Bo"}
    texts = [m.content[0].text.value for m in oai.beta.threads.messages.list(run.thread_id, order="asc")]
    assert texts == ["I am Bo", "Hello Bo."]


def test_a_run_is_cancelled(threads, begin, model):
    assistant, thread = begin()
    held = model.holds("Let me th", "ink.")
    run = threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)
    held.wait()
    asked = threads.runs.cancel(run.id, thread_id=thread.id)
    assert asked.status == "cancelling"
    assert (asked.required_action, asked.cancelled_at) == (None, None)
    done = threads.runs.poll(run.id, thread_id=thread.id)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    assert (done.completed_at, done.failed_at, done.expires_at) == (None, None, None)


def test_a_run_that_waits_for_its_client_is_cancelled_at_once(threads, begin, model):
    assistant, thread = begin(tools=[WEATHER])
    model.says(ASK, "After all.")
    run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert threads.runs.cancel(run.id, thread_id=thread.id).status == "cancelling"
    done = threads.runs.poll(run.id, thread_id=thread.id)
    assert (done.status, done.required_action) == ("cancelled", None)
    [step] = threads.runs.steps.list(run.id, thread_id=thread.id)
    assert (step.type, step.status) == ("tool_calls", "cancelled")
    assert threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id).status == "completed"


# -- what a run changes of its assistant -----------------------------------------------------------------------------

OVERRIDES: list[tuple[dict[str, Any], Callable[[Any], Any], Any]] = [
    ({"instructions": "Be loud."}, lambda r: r.instructions, "Be loud."),
    ({"additional_instructions": "Rhyme."}, lambda r: r.instructions, "Be brief.\n\nRhyme."),
    ({"instructions": "Be loud.", "additional_instructions": "Rhyme."}, lambda r: r.instructions, "Be loud.\n\nRhyme."),
    ({"temperature": 0.1}, lambda r: r.options.temperature, 0.1),
    ({"top_p": 0.2}, lambda r: r.options.top_p, 0.2),
    ({"reasoning_effort": "high"}, lambda r: r.options.reasoning_effort, "high"),
    ({"parallel_tool_calls": False}, lambda r: r.options.parallel_tool_calls, False),
    ({"max_completion_tokens": 300}, lambda r: r.options.max_output_tokens, 300),
    ({"tools": [TIME]}, lambda r: [t.name for t in r.tools], ["get_time"]),
    ({"tools": []}, lambda r: list(r.tools), []),
    ({"tool_choice": "none"}, lambda r: r.tool_choice, "none"),
    ({"tool_choice": "required"}, lambda r: r.tool_choice, "required"),
    ({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, lambda r: r.tool_choice, "get_weather"),
    ({"response_format": {"type": "json_object"}}, lambda r: bool(r.output_schema), True),
    ({"response_format": {"type": "text"}}, lambda r: r.output_schema, None),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "number"}}}},
        lambda r: r.output_schema, {"type": "number"},
    ),
]  # fmt: skip
SHOWN = {
    "instructions": lambda g, r: (r["instructions"].startswith(g["instructions"]), True),
    "additional_instructions": lambda g, r: (r["instructions"].endswith(g["additional_instructions"]), True),
    "tools": lambda g, r: (
        [t["function"]["name"] for t in r["tools"]], [t["function"]["name"] for t in g["tools"]],
    ),
    "reasoning_effort": lambda g, r: (True, True),
    "response_format": lambda g, r: (
        r["response_format"] if r["response_format"] == "auto" else r["response_format"]["type"],
        "auto" if g["response_format"]["type"] == "text" else g["response_format"]["type"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "seen", "wanted"), OVERRIDES, ids=lambda v: "+".join(v) if isinstance(v, dict) else ""
)
def test_what_a_run_changes_reaches_the_model_and_shows_in_the_run(
    threads, begin, model, given, seen, wanted
):
    assistant, thread = begin(
        instructions="Be brief.", tools=[WEATHER], temperature=1.5, response_format={"type": "json_object"}
    )
    model.says("7" if "json_schema" in str(given) else '{"a": 1}')
    run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, **given)
    assert run.status == "completed", run.last_error
    assert seen(model.requests[0]) == wanted
    found = run.to_dict()
    for name, value in given.items():
        shown, expected = SHOWN.get(name, lambda g, r, n=name: (r[n], g[n]))(given, found)
        assert shown == expected, (name, value)
    assert threads.runs.retrieve(run.id, thread_id=thread.id).to_dict() == found
    assert [r.to_dict() for r in threads.runs.list(thread.id)] == [found]


def test_a_run_without_wishes_of_its_own_shows_the_assistants(threads, begin, model):
    assistant, thread = begin(instructions="Be brief.", tools=[WEATHER], temperature=0.5, top_p=0.6)
    model.says("Hi.")
    run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id).to_dict()
    assert (run["model"], run["instructions"], run["temperature"], run["top_p"]) == (
        "scripted",
        "Be brief.",
        0.5,
        0.6,
    )
    assert run["tools"] == [WEATHER]
    assert (run["tool_choice"], run["parallel_tool_calls"], run["response_format"]) == ("auto", True, "auto")
    assert run["truncation_strategy"] == {"type": "auto", "last_messages": None}
    assert (run["max_prompt_tokens"], run["max_completion_tokens"]) == (None, None)


def test_additional_messages_are_on_the_thread_before_the_run(threads, begin, model):
    assistant, thread = begin("One")
    model.says("Four.")
    more = [
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three", "metadata": {"n": "3"}},
    ]
    run = threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, additional_messages=more
    )
    assert run.status == "completed"
    assert model.sent == [("user", "One"), ("assistant", "Two"), ("user", "Three")]
    found = list(threads.messages.list(thread.id, order="asc"))
    assert [m.content[0].text.value for m in found] == ["One", "Two", "Three", "Four."]
    assert found[2].metadata == {"n": "3"}


def test_only_the_last_messages_are_sent_where_the_run_says_so(threads, begin, model):
    assistant, thread = begin("One")
    for text in ("Two", "Three"):
        threads.messages.create(thread.id, role="user", content=text)
    model.says("Four.")
    strategy = {"type": "last_messages", "last_messages": 2}
    run = threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, truncation_strategy=strategy, max_prompt_tokens=5000
    )
    assert model.sent == [("user", "Two"), ("user", "Three")]
    assert run.truncation_strategy.to_dict() == strategy
    assert run.max_prompt_tokens == 5000


def test_a_run_can_take_another_model(oai, alone):
    from treadle.objects.project import ModelEntry, Project, ProjectSpec

    project = Project(ProjectSpec(models={"parrot": ModelEntry(id="offline")}), None)
    own = alone(project=project)
    with OpenAI(base_url=f"{own.url}/v1", api_key="any") as client:
        assistant = client.beta.assistants.create(model="scripted")
        thread = client.beta.threads.create(messages=[{"role": "user", "content": "Hello"}])
        run = client.beta.threads.runs.create_and_poll(
            thread_id=thread.id, assistant_id=assistant.id, model="offline"
        )
        assert (run.status, run.model) == ("completed", "offline")


def test_a_forced_function_is_forced_once(threads, begin, model):
    assistant, thread = begin(tools=[WEATHER])
    model.says(ASK, "Rain.")
    forced = {"type": "function", "function": {"name": "get_weather"}}
    run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, tool_choice=forced)
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    done = threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": call.id, "output": "rain"}]
    )
    assert done.tool_choice.to_dict() == forced
    assert [r.tool_choice for r in model.requests] == ["get_weather", "auto"]


# -- streams ---------------------------------------------------------------------------------------------------------


class Handler(AssistantEventHandler):
    """Notes every call."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.texts: list[str] = []
        self.arguments = ""

    @override
    def on_event(self, event: Any) -> None:
        self.told.append(event.event)

    @override
    def on_run_step_created(self, run_step: Any) -> None:
        self.told.append("run_step_created")

    @override
    def on_run_step_delta(self, delta: Any, snapshot: Any) -> None:
        self.told.append("run_step_delta")

    @override
    def on_run_step_done(self, run_step: Any) -> None:
        self.told.append(f"run_step_done {run_step.status}")

    @override
    def on_tool_call_created(self, tool_call: Any) -> None:
        self.told.append(f"tool_call_created {tool_call.function.name}")

    @override
    def on_tool_call_delta(self, delta: Any, snapshot: Any) -> None:
        self.arguments += delta.function.arguments or ""

    @override
    def on_tool_call_done(self, tool_call: Any) -> None:
        self.told.append(f"tool_call_done {tool_call.function.arguments}")

    @override
    def on_message_created(self, message: Any) -> None:
        self.told.append("message_created")

    @override
    def on_message_delta(self, delta: Any, snapshot: Any) -> None:
        self.told.append("message_delta")

    @override
    def on_message_done(self, message: Any) -> None:
        self.told.append(f"message_done {message.status}")

    @override
    def on_text_created(self, text: Any) -> None:
        self.told.append("text_created")

    @override
    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.texts.append(delta.value)

    @override
    def on_text_done(self, text: Any) -> None:
        self.told.append(f"text_done {text.value}")

    @override
    def on_end(self) -> None:
        self.told.append("end")

    @override
    def on_exception(self, exception: Exception) -> None:
        self.told.append(f"exception {exception!r}")


def test_a_streams_handler_is_told_everything(threads, begin, model):
    assistant, thread = begin(tools=[WEATHER])
    model.says(ASK, "It rains in Paris today.")
    handler = Handler()
    with threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=handler) as stream:
        stream.until_done()
        run = stream.current_run
    assert run.status == "requires_action"
    assert handler.arguments == '{"city": "Paris"}'
    assert {"run_step_created", "run_step_delta", "tool_call_created get_weather", "end"} <= set(handler.told)
    assert f"tool_call_done {handler.arguments}" in handler.told
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    after = Handler()
    with threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": call.id, "output": "rain"}],
        event_handler=after,
    ) as stream:  # fmt: skip
        stream.until_done()
        [message] = stream.get_final_messages()
    text = message.content[0].text.value
    assert text == "".join(after.texts) == "It rains in Paris today."
    assert len(after.texts) == 5
    wanted = {
        "message_created",
        "text_created",
        "message_delta",
        f"text_done {text}",
        "message_done completed",
        "end",
    }
    assert wanted <= set(after.told)
    assert "run_step_done completed" in after.told
    assert not [t for t in handler.told + after.told if t.startswith("exception")]
    assert message == threads.messages.retrieve(message.id, thread_id=thread.id)


def test_a_stream_is_read_without_a_handler(oai, threads, begin, model):
    assistant, thread = begin()
    model.says("One two three.", "Four five six.")
    with threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        assert "".join(stream.text_deltas) == "One two three."
    events = threads.runs.create(thread_id=thread.id, assistant_id=assistant.id, stream=True)
    names = [event.event for event in events]
    assert names[:3] == ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
    assert names[-1] == "thread.run.completed"


def test_a_thread_and_a_run_are_made_and_streamed_at_once(oai, begin, model):
    assistant, _ = begin()
    model.says("One two three.")
    names = []
    text = ""
    with oai.beta.threads.create_and_run_stream(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Count"}]}
    ) as stream:
        for event in stream:
            names.append(event.event)
            if event.event == "thread.message.delta":
                text += event.data.delta.content[0].text.value
    assert names[0] == "thread.created"
    assert text == "One two three."


def test_outputs_are_submitted_for_a_stream_of_events(threads, begin, model):
    assistant, thread = begin(tools=[WEATHER])
    model.says(ASK, "Rain.")
    run = threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    events = list(
        threads.runs.submit_tool_outputs(
            run.id,
            thread_id=thread.id,
            tool_outputs=[{"tool_call_id": call.id, "output": "rain"}],
            stream=True,
        )
    )
    assert [e.event for e in events][:3] == [
        "thread.run.step.completed", "thread.run.queued", "thread.run.in_progress",
    ]  # fmt: skip
    assert events[-1].data.status == "completed"


# -- mounts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["", "/api/projects/mounts"])
@pytest.mark.parametrize("mount", ["", "/v1", "/openai", "/openai/v1"])
def test_every_mount_leads_to_the_same_objects_of_its_project(server, model, tenant, mount):
    with OpenAI(base_url=f"{server.url}{tenant}{mount}", api_key="any", max_retries=0) as client:
        assistant = client.beta.assistants.create(model="scripted", name=mount or "bare")
        model.says("Hi.")
        run = client.beta.threads.create_and_run_poll(
            assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Hello"}]}
        )
        assert run.status == "completed"
    for other in ("", "/v1", "/openai", "/openai/v1"):
        with OpenAI(base_url=f"{server.url}{tenant}{other}", api_key="any", max_retries=0) as client:
            assert client.beta.assistants.retrieve(assistant.id) == assistant
            assert (
                client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id).to_dict() == run.to_dict()
            )


@pytest.mark.parametrize("api_version", ["2024-05-01-preview", "v1", "anything"])
def test_azures_edition_of_the_client_is_served_whatever_version_it_names(server, model, api_version):
    with AzureOpenAI(
        azure_endpoint=server.url, api_key="any", api_version=api_version, max_retries=0
    ) as client:
        assistant = client.beta.assistants.create(model="scripted")
        model.says("Hi there.")
        with client.beta.threads.create_and_run_stream(
            assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Hello"}]}
        ) as stream:
            assert "".join(stream.text_deltas) == "Hi there."


def test_answers_name_their_request_and_say_when_to_ask_again(oai, begin, model):
    assistant, thread = begin()
    model.says("Hi.")
    raw = oai.beta.threads.runs.with_raw_response.create(thread_id=thread.id, assistant_id=assistant.id)
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-version"]
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert 0 < int(raw.headers["openai-poll-after-ms"]) <= 1000
    assert assistant._request_id.startswith("req_")
    oai.beta.threads.runs.poll(raw.parse().id, thread_id=thread.id)
