"""OpenAI's asynchronous client against the server: the loops that it has of its own, and many of them at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncAssistantEventHandler, AsyncOpenAI

pytestmark = pytest.mark.filterwarnings(
    "ignore:The Assistants API is deprecated:DeprecationWarning", "ignore:deprecated:DeprecationWarning"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASK = {"calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]}


@pytest.fixture
async def client(server: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


async def begin(client: AsyncOpenAI, text: str = "Hello", **fields: Any) -> tuple[str, str]:
    """Make an assistant and a thread with one message, and give their ids."""
    assistant = await client.beta.assistants.create(model="scripted", **fields)
    thread = await client.beta.threads.create(messages=[{"role": "user", "content": text}])
    return assistant.id, thread.id


def answers(run: Any, *outputs: str) -> list[Any]:
    calls = run.required_action.submit_tool_outputs.tool_calls
    return [{"tool_call_id": c.id, "output": o} for c, o in zip(calls, outputs, strict=True)]


async def test_a_run_waits_for_its_client_and_goes_on(client, model):
    assistant, thread = await begin(client, tools=[WEATHER])
    model.says(ASK, "Rain.")
    run = await client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)
    assert run.status == "requires_action"
    done = await client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread, tool_outputs=answers(run, "wet")
    )
    assert done.status == "completed"
    texts = [m.content[0].text.value async for m in client.beta.threads.messages.list(thread)]
    assert texts == ["Rain.", "Hello"]
    steps = [
        s async for s in client.beta.threads.runs.steps.list(run.id, thread_id=thread, limit=1, order="asc")
    ]
    assert [s.type for s in steps] == ["tool_calls", "message_creation"]


async def test_a_thread_and_a_run_are_made_and_polled_at_once(client, model):
    assistant, _ = await begin(client)
    model.says("Hi.")
    run = await client.beta.threads.create_and_run_poll(
        assistant_id=assistant, thread={"messages": [{"role": "user", "content": "Hello"}]}
    )
    assert run.status == "completed"


class Handler(AsyncAssistantEventHandler):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.text = ""
        self.arguments = ""

    async def on_event(self, event: Any) -> None:
        self.told.append(event.event)

    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.text += delta.value
        assert snapshot.value == self.text

    async def on_tool_call_delta(self, delta: Any, snapshot: Any) -> None:
        self.arguments += delta.function.arguments
        assert snapshot.function.arguments == self.arguments

    async def on_message_done(self, message: Any) -> None:
        self.told.append(f"message_done {message.status}")

    async def on_run_step_done(self, run_step: Any) -> None:
        self.told.append(f"run_step_done {run_step.status}")

    async def on_end(self) -> None:
        self.told.append("end")

    async def on_exception(self, exception: Exception) -> None:
        self.told.append(f"exception {exception!r}")


async def test_a_streams_handler_is_told_everything(client, model):
    runs = client.beta.threads.runs
    assistant, thread = await begin(client, tools=[WEATHER])
    model.says(ASK, "It rains in Paris.")
    first, second = Handler(), Handler()
    async with runs.stream(thread_id=thread, assistant_id=assistant, event_handler=first) as stream:
        await stream.until_done()
        run = stream.current_run
    assert first.arguments == '{"city": "Paris"}'
    assert first.told[-2:] == ["thread.run.requires_action", "end"]
    async with runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread, tool_outputs=answers(run, "wet"), event_handler=second
    ) as stream:
        await stream.until_done()
        [message] = await stream.get_final_messages()
    assert message.content[0].text.value == second.text == "It rains in Paris."
    assert {"message_done completed", "run_step_done completed", "end"} <= set(second.told)
    assert [t for t in first.told + second.told if t.startswith("exception")] == []


async def test_a_stream_is_read_without_a_handler(client, model):
    assistant, thread = await begin(client)
    model.says("One two.", "Three four.")
    events = await client.beta.threads.runs.create(thread_id=thread, assistant_id=assistant, stream=True)
    assert [e.event async for e in events][-1] == "thread.run.completed"
    async with client.beta.threads.create_and_run_stream(assistant_id=assistant) as stream:
        assert [t async for t in stream.text_deltas] == ["Three ", "four."]


async def test_signs_of_life_between_events_are_taken_for_nothing(client, http, model, monkeypatch):
    monkeypatch.setattr("treadle.server.sse.KEEP_ALIVE_S", 0.01)
    assistant, thread = await begin(client)
    held = model.holds("One", " two")
    handler = Handler()
    async with client.beta.threads.runs.stream(
        thread_id=thread, assistant_id=assistant, event_handler=handler
    ) as stream:
        async for event in stream:
            if event.event == "thread.message.delta" and handler.text == "One":
                run = stream.current_run
                await asyncio.to_thread(_silence, http, f"/v1/threads/{thread}/runs/{run.id}/events")
                held.release()
    assert handler.text == "One two"
    assert [t for t in handler.told if t.startswith("exception")] == []


def _silence(http: Any, events: str) -> None:
    """Follow the run beside the client until it was silent for some signs of life."""
    with http.stream("GET", events) as response:
        seen = b""
        for piece in response.iter_raw():
            seen += piece
            if seen.count(b": keepalive\n") >= 3:
                return


async def test_a_run_is_cancelled_while_it_speaks(client, model):
    runs = client.beta.threads.runs
    assistant, thread = await begin(client)
    held = model.holds("Let me th", "ink.")
    handler = Handler()
    async with runs.stream(thread_id=thread, assistant_id=assistant, event_handler=handler) as stream:
        await asyncio.to_thread(held.wait)
        [run] = [r async for r in runs.list(thread)]
        assert (await runs.cancel(run.id, thread_id=thread)).status == "cancelling"
        await stream.until_done()
    assert handler.told[-7:] == [
        "thread.run.cancelling", "thread.message.incomplete", "message_done incomplete",
        "thread.run.step.cancelled", "run_step_done cancelled", "thread.run.cancelled", "end",
    ]  # fmt: skip


async def test_many_runs_go_on_at_once(client, model):
    made = [await begin(client) for _ in range(20)]
    model.says(*["Hi."] * 20)
    runs = await asyncio.gather(
        *(client.beta.threads.runs.create_and_poll(thread_id=t, assistant_id=a) for a, t in made)
    )
    assert {r.status for r in runs} == {"completed"}


async def test_of_many_runs_begun_at_once_on_one_thread_one_is_taken(client, model):
    from openai import BadRequestError

    assistant, thread = await begin(client, tools=[WEATHER])
    model.says(ASK)
    results = await asyncio.gather(
        *(client.beta.threads.runs.create(thread_id=thread, assistant_id=assistant) for _ in range(10)),
        return_exceptions=True,
    )
    taken = [r for r in results if not isinstance(r, BaseException)]
    assert len(taken) == 1
    wanted = f"Thread {thread} already has an active run {taken[0].id}."
    refused = [r for r in results if isinstance(r, BaseException)]
    assert all(isinstance(r, BadRequestError) and r.body["message"] == wanted for r in refused)
