"""Azure's asynchronous client against the server: the loops that it has of its own, and many of them at once."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.ai.agents.aio import AgentsClient
from azure.ai.agents.models import (
    AsyncAgentEventHandler,
    AsyncFunctionTool,
    AsyncToolSet,
    RunStatus,
    ThreadMessageOptions,
    ToolOutput,
)
from azure.core.credentials import AzureKeyCredential

from treadle.azure import local_client_kwargs

FAST = 0.02
ASK = {"calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]}


async def get_weather(city: str) -> str:
    """Tell the weather of a city.

    :param city: The city.
    :return: The weather.
    """
    await asyncio.sleep(0)
    if city == "Atlantis":
        raise LookupError("it has sunk")
    return json.dumps({"city": city, "weather": "rain"})


def tools() -> AsyncToolSet:
    found = AsyncToolSet()
    found.add(AsyncFunctionTool({get_weather}))
    return found


@pytest.fixture
async def client(server: Any) -> AsyncIterator[AgentsClient]:
    async with AgentsClient(
        endpoint=f"{server.url}/api/projects/wire",
        credential=AzureKeyCredential("any"),
        retry_total=0,
        **local_client_kwargs("any"),
    ) as made:
        yield made


async def begin(client: AgentsClient, text: str = "Hello", **fields: Any) -> tuple[str, str]:
    """Make an agent and a thread with one message, and give their ids."""
    agent = await client.create_agent(model="scripted", **fields)
    thread = await client.threads.create(messages=[ThreadMessageOptions(role="user", content=text)])
    return agent.id, thread.id


async def outputs(client: AgentsClient, run: Any) -> list[Any]:
    steps = [s async for s in client.run_steps.list(thread_id=run.thread_id, run_id=run.id, order="asc")]
    return [
        c["function"]["output"] for s in steps if s.type == "tool_calls" for c in s.step_details.tool_calls
    ]


async def test_a_run_is_processed_and_its_functions_are_called(client, model):
    client.enable_auto_function_calls(tools())
    agent, thread = await begin(client, toolset=tools())
    model.says(ASK, {"calls": [{"name": "get_weather", "arguments": {"city": "Atlantis"}}]}, "Rain.")
    run = await client.runs.create_and_process(thread, agent_id=agent, polling_interval=FAST)
    assert run.status == RunStatus.COMPLETED
    first, second = await outputs(client, run)
    assert json.loads(first) == {"city": "Paris", "weather": "rain"}
    assert "it has sunk" in json.loads(second)["error"]
    last = await client.messages.get_last_message_text_by_role(thread, role="assistant")
    assert last.text.value == "Rain."


async def test_a_thread_and_a_run_are_made_and_processed_at_once(client, model):
    client.enable_auto_function_calls(tools())
    agent, _ = await begin(client, toolset=tools())
    model.says(ASK, "Rain.")
    run = await client.create_thread_and_process_run(
        agent_id=agent, thread={"messages": [{"role": "user", "content": "Paris?"}]}, polling_interval=FAST
    )
    assert run.status == RunStatus.COMPLETED
    assert len(await outputs(client, run)) == 1


class Handler(AsyncAgentEventHandler[str]):
    """Notes every call."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.text = ""

    async def on_message_delta(self, delta: Any) -> None:
        self.text += delta.text
        self.told.append("message_delta")

    async def on_thread_message(self, message: Any) -> None:
        self.told.append(f"message {message.status.value}")

    async def on_thread_run(self, run: Any) -> None:
        self.told.append(f"run {run.status.value}")

    async def on_run_step(self, step: Any) -> None:
        self.told.append(f"step {step.type.value} {step.status.value}")

    async def on_run_step_delta(self, delta: Any) -> None:
        self.told.append("step_delta")

    async def on_error(self, data: str) -> None:
        self.told.append(f"error {data}")

    async def on_done(self) -> None:
        self.told.append("done")

    async def on_unhandled_event(self, event_type: str, event_data: Any) -> None:
        self.told.append(f"unhandled {event_type}")


async def test_a_streams_handler_is_told_everything_and_functions_are_called(client, model):
    client.enable_auto_function_calls(tools())
    agent, thread = await begin(client, toolset=tools())
    model.says(ASK, "It rains.")
    handler = Handler()
    async with await client.runs.stream(thread, agent_id=agent, event_handler=handler) as stream:
        await stream.until_done()
    assert handler.text == "It rains."
    assert handler.told.count("done") == 2
    kinds = {t.split()[0] for t in handler.told}
    assert kinds == {"run", "step", "step_delta", "message", "message_delta", "done"}
    assert handler.told[-2:] == ["run completed", "done"]


async def test_a_stream_is_read_without_a_handler(client, model):
    agent, thread = await begin(client, toolset=tools())
    model.says(ASK, "It rains.")
    async with await client.runs.stream(thread, agent_id=agent) as stream:
        events = [(name, data) async for name, data, _ in stream]
    assert [name for name, _ in events][-2:] == ["thread.run.requires_action", "done"]
    run = events[-2][1]
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    handler = Handler()
    await client.runs.submit_tool_outputs_stream(
        thread, run.id, tool_outputs=[ToolOutput(tool_call_id=call.id, output="wet")], event_handler=handler
    )
    await handler.until_done()
    assert handler.text == "It rains."


async def test_a_run_is_cancelled_while_it_speaks(client, model):
    agent, thread = await begin(client)
    held = model.holds("Let me th", "ink.")
    handler = Handler()
    async with await client.runs.stream(thread, agent_id=agent, event_handler=handler) as stream:
        await asyncio.to_thread(held.wait)
        [run] = [r async for r in client.runs.list(thread)]
        assert (await client.runs.cancel(thread, run.id)).status == RunStatus.CANCELLING
        await stream.until_done()
    assert handler.told[-5:] == [
        "run cancelling", "message incomplete", "step message_creation cancelled", "run cancelled", "done",
    ]  # fmt: skip


async def test_pagers_end(client):
    thread = await client.threads.create(
        messages=[ThreadMessageOptions(role="user", content=str(n)) for n in range(12)]
    )
    for limit in (1, 5, 12, 100):
        found = [
            m.content[0].text.value async for m in client.messages.list(thread.id, limit=limit, order="asc")
        ]
        assert found == [str(n) for n in range(12)]


async def test_many_streams_are_served_at_once(client, model):
    agents = [await begin(client) for _ in range(20)]
    model.says(*["One two three four."] * 20)

    async def follow(agent: str, thread: str) -> Handler:
        handler = Handler()
        async with await client.runs.stream(thread, agent_id=agent, event_handler=handler) as stream:
            await stream.until_done()
        return handler

    handlers = await asyncio.gather(*(follow(*ids) for ids in agents))
    assert {h.text for h in handlers} == {"One two three four."}
    assert {tuple(h.told) for h in handlers} == {tuple(handlers[0].told)}
