"""The calls of azure-ai-agents, each against a server: `python -m treadle.testing.sdk_azure --endpoint URL --key KEY`.

Checks are written as the synchronous client is called; `sdk_checks.Blocking` has them call the asynchronous one too.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from treadle.testing.sdk_checks import (
    CITY,
    WEATHER,
    Blocking,
    Check,
    Recorder,
    Sdk,
    Target,
    Unexpected,
    blocking,
    expect,
    expect_in,
    main,
    raises,
    until,
)

POLLING_S = 0.05
QUESTION = f"What is the weather in {CITY}?"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
TERMINAL = ("completed", "failed", "cancelled", "expired", "incomplete")


@dataclass
class Desk:
    """A client, and what of the library differs between its two ways of calling.

    Shapes: `asked` has the arguments of each call of `get_weather`.
    """

    client: Any
    target: Target
    is_async: bool
    asked: list[str] = field(default_factory=list[str])

    def agent(self, **fields: Any) -> Any:
        """Make an agent."""
        named = {"model": self.target.model, "name": "check", "instructions": "Answer briefly."} | fields
        return self.client.create_agent(**named)

    def thread(self, *texts: str) -> Any:
        """Make a thread with user messages."""
        return self.client.threads.create(messages=[{"role": "user", "content": text} for text in texts])

    def function_tool(self, *functions: Callable[..., object]) -> Any:
        """Make the tool whose functions the library calls; by default it has `get_weather`."""
        from azure.ai.agents import models

        chosen = set(functions) or {self.weather}
        return models.AsyncFunctionTool(chosen) if self.is_async else models.FunctionTool(chosen)

    def toolset(self, tool: Any) -> Any:
        """Make the set that holds a tool."""
        from azure.ai.agents import models

        made: Any = models.AsyncToolSet() if self.is_async else models.ToolSet()
        made.add(tool)
        return made

    @property
    def weather(self) -> Callable[..., object]:
        """Give the function that tells the weather, and notes that it was asked."""

        def get_weather(city: str) -> str:
            """Get the weather of a city.

            :param city: The name of the city.
            :return: The weather as JSON.
            """
            self.asked.append(city)
            return json.dumps({"city": city, "weather": WEATHER})

        return get_weather

    def weather_agent(self) -> Any:
        """Make an agent that may ask for the weather."""
        return self.agent(tools=self.function_tool().definitions, instructions="Use the tools.")

    def waiting(self) -> tuple[Any, str]:
        """Make a run that waits for the output of a function; give it and the id of its call."""
        thread = self.thread(QUESTION)
        run = self.client.runs.create(thread_id=thread.id, agent_id=self.weather_agent().id)
        run = self.over(run, "requires_action")
        calls = run.required_action.submit_tool_outputs.tool_calls
        expect([call.function.name for call in calls], ["get_weather"], "the calls that wait")
        return run, calls[0].id

    def over(self, run: Any, *statuses: str) -> Any:
        """Wait until a run is over, or in one of these statuses."""
        wanted = statuses or TERMINAL
        return until(
            lambda: self.client.runs.get(thread_id=run.thread_id, run_id=run.id),
            is_over=lambda found: found.status in wanted,
            what=f"the status {' or '.join(wanted)}",
        )

    def outputs(self, run: Any) -> list[Any]:
        """Give the outputs of a run's calls, as its steps tell them."""
        steps = self.client.run_steps.list(thread_id=run.thread_id, run_id=run.id)
        calls = [s.step_details.tool_calls for s in steps if s.type == "tool_calls"]
        # Some versions have no attribute for the output; the field is there in all of them.
        return [call.function["output"] for some in calls for call in some]

    def recorder(self) -> Any:
        """Make a handler that notes what a stream tells it."""
        return _async_recorder() if self.is_async else _recorder()

    def upload(self, text: str = "A loom has two treadles.", name: str = "loom.txt") -> Any:
        """Upload a text."""
        file = io.BytesIO(text.encode())
        return self.client.files.upload(file=file, purpose="assistants", filename=name)

    def store(self, *file_ids: str, **fields: Any) -> Any:
        """Make a vector store and wait until it has read its files."""
        return self.client.vector_stores.create_and_poll(
            file_ids=list(file_ids), name="check", polling_interval=POLLING_S, **fields
        )


def _recorder() -> Any:
    from azure.ai.agents.models import AgentEventHandler

    class Handler(Recorder, AgentEventHandler[None]):
        def on_message_delta(self, delta: Any) -> None:
            self.text += delta.text
            self.note("message_delta")

        def on_thread_message(self, message: Any) -> None:
            self.note("message", message.status)

        def on_thread_run(self, run: Any) -> None:
            self.note("run", run.status)

        def on_run_step(self, step: Any) -> None:
            self.note("step", step.type, step.status)

        def on_run_step_delta(self, delta: Any) -> None:
            self.note("step_delta", delta.delta.step_details.type)

        def on_error(self, data: str) -> None:
            self.note("error", data)

        def on_done(self) -> None:
            self.note("done")

        def on_unhandled_event(self, event_type: str, event_data: Any) -> None:
            self.note("unhandled", event_type, event_data)

    return Handler()


def _async_recorder() -> Any:
    from azure.ai.agents.models import AsyncAgentEventHandler

    class Handler(Recorder, AsyncAgentEventHandler[None]):
        async def on_message_delta(self, delta: Any) -> None:
            self.text += delta.text
            self.note("message_delta")

        async def on_thread_message(self, message: Any) -> None:
            self.note("message", message.status)

        async def on_thread_run(self, run: Any) -> None:
            self.note("run", run.status)

        async def on_run_step(self, step: Any) -> None:
            self.note("step", step.type, step.status)

        async def on_run_step_delta(self, delta: Any) -> None:
            self.note("step_delta", delta.delta.step_details.type)

        async def on_error(self, data: str) -> None:
            self.note("error", data)

        async def on_done(self) -> None:
            self.note("done")

        async def on_unhandled_event(self, event_type: str, event_data: Any) -> None:
            self.note("unhandled", event_type, event_data)

    return Handler()


def _not_found() -> type[Exception]:
    from azure.core.exceptions import ResourceNotFoundError

    return ResourceNotFoundError


def _refused() -> type[Exception]:
    from azure.core.exceptions import HttpResponseError

    return HttpResponseError


def _ids(found: Any) -> list[str]:
    return [one.id for one in found]


# -- agents ----------------------------------------------------------------------------------------------------------


def _create_agent(desk: Desk) -> None:
    agent = desk.agent(temperature=0.5, top_p=0.9, metadata={"team": "weavers"}, description="For checks.")
    expect(agent.object, "assistant", "object")
    expect((agent.name, agent.model), ("check", desk.target.model), "name and model")
    expect((agent.temperature, agent.top_p), (0.5, 0.9), "temperature and top_p")
    expect(dict(agent.metadata), {"team": "weavers"}, "metadata")


def _create_agent_with_toolset(desk: Desk) -> None:
    agent = desk.agent(toolset=desk.toolset(desk.function_tool()))
    expect([tool.function.name for tool in agent.tools], ["get_weather"], "tools")


def _get_agent(desk: Desk) -> None:
    agent = desk.agent()
    expect(desk.client.get_agent(agent.id).as_dict(), agent.as_dict(), "the agent")


def _get_unknown_agent(desk: Desk) -> None:
    with raises(_not_found(), saying="No assistant found with id 'asst_none'."):
        desk.client.get_agent("asst_none")


def _update_agent(desk: Desk) -> None:
    agent = desk.agent()
    changed = desk.client.update_agent(agent.id, instructions="Be brief.", metadata={"v": "2"})
    expect((changed.id, changed.name), (agent.id, "check"), "what was left out")
    expect((changed.instructions, dict(changed.metadata)), ("Be brief.", {"v": "2"}), "what was changed")


def _list_agents(desk: Desk) -> None:
    made = [desk.agent(name=f"check {n}").id for n in range(3)]
    found = _ids(desk.client.list_agents(limit=2))
    expect(found[:3], made[::-1], "the newest agents")
    expect(len(found), len(set(found)), "how many agents are listed once")


def _delete_agent(desk: Desk) -> None:
    agent = desk.agent()
    desk.client.delete_agent(agent.id)
    with raises(_not_found()):
        desk.client.get_agent(agent.id)


# -- threads and messages --------------------------------------------------------------------------------------------


def _create_thread(desk: Desk) -> None:
    thread = desk.client.threads.create(
        messages=[{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}],
        metadata={"user": "ada"},
    )
    expect((thread.object, dict(thread.metadata)), ("thread", {"user": "ada"}), "the thread")
    found = desk.client.messages.list(thread_id=thread.id, order="asc")
    expect(
        [(m.role, m.content[0].text.value) for m in found],
        [("user", "One."), ("assistant", "Two.")],
        "its messages",
    )


def _create_empty_thread(desk: Desk) -> None:
    expect(list(desk.client.messages.list(thread_id=desk.client.threads.create().id)), [], "its messages")


def _get_thread(desk: Desk) -> None:
    thread = desk.thread()
    expect(desk.client.threads.get(thread.id).as_dict(), thread.as_dict(), "the thread")


def _update_thread(desk: Desk) -> None:
    thread = desk.thread()
    changed = desk.client.threads.update(thread.id, metadata={"state": "open"})
    expect(dict(changed.metadata), {"state": "open"}, "metadata")


def _list_threads(desk: Desk) -> None:
    made = [desk.thread().id for _ in range(3)]
    found = _ids(desk.client.threads.list(limit=2))
    expect(found[:3], made[::-1], "the newest threads")


def _delete_thread(desk: Desk) -> None:
    thread = desk.thread("One.")
    desk.client.threads.delete(thread.id)
    with raises(_not_found()):
        desk.client.threads.get(thread.id)


def _create_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.client.messages.create(
        thread_id=thread.id, role="user", content="Hello.", metadata={"n": "1"}
    )
    expect(
        (message.object, message.role, message.status), ("thread.message", "user", "completed"), "the message"
    )
    expect(message.content[0].text.value, "Hello.", "its text")
    expect((message.thread_id, dict(message.metadata)), (thread.id, {"n": "1"}), "its thread and metadata")


def _create_message_of_blocks(desk: Desk) -> None:
    from azure.ai.agents.models import MessageImageUrlParam, MessageInputImageUrlBlock, MessageInputTextBlock

    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    blocks: list[Any] = [
        MessageInputTextBlock(text="What is this?"),
        MessageInputImageUrlBlock(image_url=MessageImageUrlParam(url=url, detail="low")),
    ]
    message = desk.client.messages.create(thread_id=desk.thread().id, role="user", content=blocks)
    expect([part.type for part in message.content], ["text", "image_url"], "its parts")
    expect(message.content[0].text.value, "What is this?", "its text")


def _create_message_with_image_file(desk: Desk) -> None:
    from azure.ai.agents.models import MessageImageFileParam, MessageInputImageFileBlock

    image = desk.client.files.upload(file=io.BytesIO(PIXEL), purpose="vision", filename="pixel.png")
    block = MessageInputImageFileBlock(image_file=MessageImageFileParam(file_id=image.id, detail="low"))
    message = desk.client.messages.create(thread_id=desk.thread().id, role="user", content=[block])
    expect(message.content[0].image_file.file_id, image.id, "its image")


def _create_message_with_attachment(desk: Desk) -> None:
    from azure.ai.agents.models import FileSearchToolDefinition, MessageAttachment

    thread, file = desk.thread(), desk.upload()
    attachment = MessageAttachment(file_id=file.id, tools=[FileSearchToolDefinition()])
    message = desk.client.messages.create(
        thread_id=thread.id, role="user", content="Read this.", attachments=[attachment]
    )
    expect([a.file_id for a in message.attachments], [file.id], "its attachments")
    stores = desk.client.threads.get(thread.id).tool_resources.file_search.vector_store_ids
    expect(len(stores), 1, "how many vector stores the thread has")
    expect(_ids(desk.client.vector_store_files.list(vector_store_id=stores[0])), [file.id], "the files in it")


def _get_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.client.messages.create(thread_id=thread.id, role="user", content="Hello.")
    found = desk.client.messages.get(thread_id=thread.id, message_id=message.id)
    expect(found.as_dict(), message.as_dict(), "the message")


def _update_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.client.messages.create(thread_id=thread.id, role="user", content="Hello.")
    changed = desk.client.messages.update(
        thread_id=thread.id, message_id=message.id, metadata={"read": "yes"}
    )
    expect(dict(changed.metadata), {"read": "yes"}, "metadata")


def _list_messages(desk: Desk) -> None:
    texts = [f"Number {n}." for n in range(5)]
    thread = desk.thread(*texts)
    found = desk.client.messages.list(thread_id=thread.id, limit=2, order="asc")
    expect([message.content[0].text.value for message in found], texts, "all messages, over several pages")


def _list_messages_of_run(desk: Desk) -> None:
    run = _processed(desk, "Hello.")
    found = list(desk.client.messages.list(thread_id=run.thread_id, run_id=run.id))
    expect([message.role for message in found], ["assistant"], "the messages of the run")


def _last_message(desk: Desk) -> None:
    thread = desk.thread("First.", "Second.")
    found = desk.client.messages.get_last_message_by_role(thread_id=thread.id, role="user")
    expect(found.content[0].text.value, "Second.", "the last message")


def _last_message_text(desk: Desk) -> None:
    thread = desk.thread("First.", "Second.")
    found = desk.client.messages.get_last_message_text_by_role(thread_id=thread.id, role="user")
    expect(found.text.value, "Second.", "the last text")


def _delete_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.client.messages.create(thread_id=thread.id, role="user", content="Hello.")
    desk.client.messages.delete(thread_id=thread.id, message_id=message.id)
    expect(list(desk.client.messages.list(thread_id=thread.id)), [], "the messages that are left")


# -- runs ------------------------------------------------------------------------------------------------------------


def _processed(desk: Desk, text: str, **fields: Any) -> Any:
    agent = fields.pop("agent", None) or desk.agent()
    run = desk.client.runs.create_and_process(
        thread_id=desk.thread(text).id, agent_id=agent.id, polling_interval=POLLING_S, **fields
    )
    if run.status != "completed":
        raise Unexpected(f"the run ended {run.status}: {run.last_error}")
    return run


def _create_run(desk: Desk) -> None:
    agent, thread = desk.agent(), desk.thread("Hello.")
    run = desk.client.runs.create(
        thread_id=thread.id,
        agent_id=agent.id,
        additional_instructions="Be kind.",
        additional_messages=[{"role": "user", "content": "And how are you?"}],
        temperature=0.2,
        max_completion_tokens=500,
        metadata={"why": "check"},
    )
    expect((run.object, run.thread_id, run.agent_id), ("thread.run", thread.id, agent.id), "the run")
    expect_in(run.status, ("queued", "in_progress"), "its status")
    done = desk.over(run)
    expect((done.status, dict(done.metadata)), ("completed", {"why": "check"}), "how it ended")
    expect(done.usage.total_tokens > 0, wanted=True, what="whether it tells its usage")


def _get_run(desk: Desk) -> None:
    run = _processed(desk, "Hello.")
    found = desk.client.runs.get(thread_id=run.thread_id, run_id=run.id)
    expect(found.as_dict(), run.as_dict(), "the run")


def _update_run(desk: Desk) -> None:
    run = _processed(desk, "Hello.")
    changed = desk.client.runs.update(thread_id=run.thread_id, run_id=run.id, metadata={"kept": "yes"})
    expect(dict(changed.metadata), {"kept": "yes"}, "metadata")


def _list_runs(desk: Desk) -> None:
    agent, thread = desk.agent(), desk.thread("Hello.")
    made: list[str] = []
    for _ in range(3):
        run = desk.client.runs.create(thread_id=thread.id, agent_id=agent.id)
        made.append(desk.over(run).id)
    expect(_ids(desk.client.runs.list(thread_id=thread.id, limit=2)), made[::-1], "the runs of the thread")


def _create_and_process(desk: Desk) -> None:
    run = _processed(desk, "Hello.")
    answer = desk.client.messages.get_last_message_text_by_role(thread_id=run.thread_id, role="assistant")
    expect(bool(answer.text.value), wanted=True, what="whether there is an answer")


def _auto_functions(desk: Desk) -> None:
    desk.client.enable_auto_function_calls({desk.weather})
    run = _processed(desk, QUESTION, agent=desk.weather_agent())
    expect(desk.asked, [CITY], "what the function was asked")
    expect_in(WEATHER, str(desk.outputs(run)), "the output in the run's steps")


def _auto_functions_of_toolset(desk: Desk) -> None:
    toolset = desk.toolset(desk.function_tool())
    desk.client.enable_auto_function_calls(toolset)
    run = _processed(desk, QUESTION, agent=desk.agent(toolset=toolset))
    expect(desk.asked, [CITY], "what the function was asked")
    expect(len(desk.outputs(run)), 1, "how many calls the steps tell")


def _auto_function_that_fails(desk: Desk) -> None:
    def get_weather(city: str) -> str:
        """Get the weather of a city.

        :param city: The name of the city.
        :return: The weather as JSON.
        """
        desk.asked.append(city)
        raise RuntimeError("the thermometer is broken")

    tool = desk.function_tool(get_weather)
    desk.client.enable_auto_function_calls(tool)
    run = _processed(desk, QUESTION, agent=desk.agent(tools=tool.definitions))
    expect_in("thermometer", str(desk.outputs(run)), "the error in the run's steps")


def _process_with_toolset(desk: Desk) -> None:
    toolset = desk.toolset(desk.function_tool())
    desk.client.enable_auto_function_calls(toolset)
    _processed(desk, QUESTION, toolset=toolset)
    expect(desk.asked, [CITY], "what the function was asked")


def _submit_tool_outputs(desk: Desk) -> None:
    run, call_id = desk.waiting()
    desk.client.runs.submit_tool_outputs(
        thread_id=run.thread_id, run_id=run.id, tool_outputs=[{"tool_call_id": call_id, "output": WEATHER}]
    )
    expect(desk.over(run).status, "completed", "how the run ended")
    expect(desk.outputs(run), [WEATHER], "the output in the run's steps")


def _submit_incomplete(desk: Desk) -> None:
    run, call_id = desk.waiting()
    with raises(_refused(), saying=f"Expected tool outputs for call_ids ['{call_id}'], got ['call_none']"):
        desk.client.runs.submit_tool_outputs(
            thread_id=run.thread_id,
            run_id=run.id,
            tool_outputs=[{"tool_call_id": "call_none", "output": WEATHER}],
        )
    desk.client.runs.cancel(thread_id=run.thread_id, run_id=run.id)


def _cancel_run(desk: Desk) -> None:
    run, _ = desk.waiting()
    cancelled = desk.client.runs.cancel(thread_id=run.thread_id, run_id=run.id)
    expect_in(cancelled.status, ("cancelling", "cancelled"), "the status")
    expect(desk.over(run).status, "cancelled", "how the run ended")
    with raises(_refused(), saying="Cannot cancel run with status 'cancelled'."):
        desk.client.runs.cancel(thread_id=run.thread_id, run_id=run.id)


def _busy_thread(desk: Desk) -> None:
    run, _ = desk.waiting()
    with raises(_refused(), saying=f"Thread {run.thread_id} already has an active run {run.id}."):
        desk.client.runs.create(thread_id=run.thread_id, agent_id=run.agent_id)
    desk.client.runs.cancel(thread_id=run.thread_id, run_id=run.id)


def _busy_thread_message(desk: Desk) -> None:
    run, _ = desk.waiting()
    said = f"Can't add messages to {run.thread_id} while a run {run.id} is active."
    with raises(_refused(), saying=said):
        desk.client.messages.create(thread_id=run.thread_id, role="user", content="Hurry.")
    desk.client.runs.cancel(thread_id=run.thread_id, run_id=run.id)


def _create_thread_and_run(desk: Desk) -> None:
    from azure.ai.agents.models import AgentThreadCreationOptions, ThreadMessageOptions

    options = AgentThreadCreationOptions(messages=[ThreadMessageOptions(role="user", content="Hello.")])
    run = desk.client.create_thread_and_run(agent_id=desk.agent().id, thread=options)
    expect(desk.over(run).status, "completed", "how the run ended")


def _create_thread_and_process_run(desk: Desk) -> None:
    from azure.ai.agents.models import AgentThreadCreationOptions, ThreadMessageOptions

    toolset = desk.toolset(desk.function_tool())
    desk.client.enable_auto_function_calls(toolset)
    run = desk.client.create_thread_and_process_run(
        agent_id=desk.agent().id,
        thread=AgentThreadCreationOptions(messages=[ThreadMessageOptions(role="user", content=QUESTION)]),
        toolset=toolset,
        polling_interval=POLLING_S,
    )
    expect((run.status, desk.asked), ("completed", [CITY]), "how the run ended")


# -- streams ---------------------------------------------------------------------------------------------------------


def _stream(desk: Desk) -> None:
    with desk.client.runs.stream(thread_id=desk.thread("Hello.").id, agent_id=desk.agent().id) as events:
        names = [cast("str", event[0]) for event in events]
    expect(names[0], "thread.run.created", "the first event")
    expect(names[-2:], ["thread.run.completed", "done"], "the last events")
    for name in ("thread.run.step.created", "thread.message.created", "thread.message.delta"):
        expect_in(name, names, "the events")


def _stream_with_handler(desk: Desk) -> None:
    handler = desk.recorder()
    thread = desk.thread("Hello.")
    with desk.client.runs.stream(
        thread_id=thread.id, agent_id=desk.agent().id, event_handler=handler
    ) as events:
        events.until_done()
    handler.told(
        "run queued", "run completed", "step message_creation completed", "message completed", "done"
    )
    answer = desk.client.messages.get_last_message_text_by_role(thread_id=thread.id, role="assistant")
    expect(handler.text, answer.text.value, "the text of the deltas")


def _stream_with_auto_functions(desk: Desk) -> None:
    desk.client.enable_auto_function_calls({desk.weather})
    handler = desk.recorder()
    with desk.client.runs.stream(
        thread_id=desk.thread(QUESTION).id, agent_id=desk.weather_agent().id, event_handler=handler
    ) as events:
        events.until_done()
    expect(desk.asked, [CITY], "what the function was asked")
    handler.told(
        "run requires_action",
        "step_delta tool_calls",
        "step tool_calls completed",
        "run completed",
        "message_delta",
    )


def _stream_of_submission(desk: Desk) -> None:
    run, call_id = desk.waiting()
    handler = desk.recorder()
    desk.client.runs.submit_tool_outputs_stream(
        thread_id=run.thread_id,
        run_id=run.id,
        tool_outputs=[{"tool_call_id": call_id, "output": WEATHER}],
        event_handler=handler,
    )
    (Blocking(handler, desk.client._loop) if desk.is_async else handler).until_done()  # noqa: SLF001 - the loop of the client is what the handler was given to
    handler.told("step tool_calls completed", "run completed", "done")


# -- run steps -------------------------------------------------------------------------------------------------------


def _list_steps(desk: Desk) -> None:
    desk.client.enable_auto_function_calls({desk.weather})
    run = _processed(desk, QUESTION, agent=desk.weather_agent())
    steps = list(desk.client.run_steps.list(thread_id=run.thread_id, run_id=run.id, limit=1, order="asc"))
    expect([step.type for step in steps], ["tool_calls", "message_creation"], "the steps")
    expect({step.status for step in steps}, {"completed"}, "their statuses")
    expect(sum(step.usage.total_tokens for step in steps), run.usage.total_tokens, "their usage")


def _get_step(desk: Desk) -> None:
    run = _processed(desk, "Hello.")
    step = next(iter(desk.client.run_steps.list(thread_id=run.thread_id, run_id=run.id)))
    found = desk.client.run_steps.get(thread_id=run.thread_id, run_id=run.id, step_id=step.id)
    expect(found.as_dict(), step.as_dict(), "the step")


# -- files and vector stores -----------------------------------------------------------------------------------------


def _upload(desk: Desk) -> None:
    file = desk.upload("A loom.", "loom.txt")
    expect((file.object, file.filename, file.bytes), ("file", "loom.txt", 7), "the file")
    expect(file.purpose, "assistants", "its purpose")


def _upload_path(desk: Desk) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loom.md"
        path.write_text("# Looms\n", encoding="utf-8")
        file = desk.client.files.upload(file_path=str(path), purpose="assistants")
    expect((file.filename, file.bytes), ("loom.md", 8), "the file")


def _upload_and_poll(desk: Desk) -> None:
    file = desk.client.files.upload_and_poll(
        file=io.BytesIO(b"A loom."), purpose="assistants", filename="loom.txt", polling_interval=POLLING_S
    )
    expect(file.status, "processed", "its status")


def _get_file(desk: Desk) -> None:
    file = desk.upload()
    expect(desk.client.files.get(file.id).as_dict(), file.as_dict(), "the file")


def _list_files(desk: Desk) -> None:
    file = desk.upload()
    expect_in(file.id, _ids(desk.client.files.list(purpose="assistants").data), "the files")
    expect(
        _ids(desk.client.files.list(purpose="vision").data).count(file.id), 0, "the files for another purpose"
    )


def _get_content(desk: Desk) -> None:
    file = desk.upload("A loom has two treadles.")
    found = b"".join(desk.client.files.get_content(file.id))
    expect(found, b"A loom has two treadles.", "the content")


def _save_file(desk: Desk) -> None:
    file = desk.upload("A loom.")
    with tempfile.TemporaryDirectory() as folder:
        desk.client.files.save(file_id=file.id, file_name="saved.txt", target_dir=folder)
        expect((Path(folder) / "saved.txt").read_text(encoding="utf-8"), "A loom.", "the saved content")


def _delete_file(desk: Desk) -> None:
    file = desk.upload()
    desk.client.files.delete(file.id)
    with raises(_not_found()):
        desk.client.files.get(file.id)


def _create_store(desk: Desk) -> None:
    store = desk.client.vector_stores.create(name="check", metadata={"n": "1"})
    expect((store.object, store.name), ("vector_store", "check"), "the store")
    expect(dict(store.metadata), {"n": "1"}, "its metadata")


def _create_store_and_poll(desk: Desk) -> None:
    store = desk.store(desk.upload().id)
    expect((store.status, store.file_counts.total), ("completed", 1), "its status and files")


def _create_store_that_expires(desk: Desk) -> None:
    from azure.ai.agents.models import VectorStoreExpirationPolicy

    policy = VectorStoreExpirationPolicy(anchor="last_active_at", days=3)
    store = desk.client.vector_stores.create(name="check", expires_after=policy)
    expect(store.expires_after.days, 3, "after how many days it expires")
    expect(store.expires_at is None, wanted=False, what="whether it never expires")


def _get_store(desk: Desk) -> None:
    store = desk.store()
    found = desk.client.vector_stores.get(store.id)
    expect((found.id, found.name), (store.id, "check"), "the store")


def _modify_store(desk: Desk) -> None:
    store = desk.store()
    changed = desk.client.vector_stores.modify(store.id, name="renamed", metadata={"v": "2"})
    expect((changed.name, dict(changed.metadata)), ("renamed", {"v": "2"}), "the store")


def _list_stores(desk: Desk) -> None:
    made = [desk.client.vector_stores.create(name=f"check {n}").id for n in range(3)]
    expect(_ids(desk.client.vector_stores.list(limit=2))[:3], made[::-1], "the newest stores")


def _delete_store(desk: Desk) -> None:
    store = desk.store()
    desk.client.vector_stores.delete(store.id)
    with raises(_not_found()):
        desk.client.vector_stores.get(store.id)


def _add_store_file(desk: Desk) -> None:
    store, file = desk.store(), desk.upload()
    link = desk.client.vector_store_files.create(vector_store_id=store.id, file_id=file.id)
    expect((link.id, link.vector_store_id), (file.id, store.id), "the file in the store")


def _add_store_file_and_poll(desk: Desk) -> None:
    store, file = desk.store(), desk.upload()
    link = desk.client.vector_store_files.create_and_poll(
        vector_store_id=store.id, file_id=file.id, polling_interval=POLLING_S
    )
    expect((link.id, link.status), (file.id, "completed"), "the file in the store")


def _add_unreadable_store_file(desk: Desk) -> None:
    store = desk.store()
    file = desk.client.files.upload(file=io.BytesIO(b"\x00\x01\x02"), purpose="assistants", filename="a.bin")
    link = desk.client.vector_store_files.create_and_poll(
        vector_store_id=store.id, file_id=file.id, polling_interval=POLLING_S
    )
    expect((link.status, link.last_error.code), ("failed", "unsupported_file"), "the file in the store")


def _get_store_file(desk: Desk) -> None:
    file = desk.upload()
    store = desk.store(file.id)
    found = desk.client.vector_store_files.get(vector_store_id=store.id, file_id=file.id)
    expect((found.id, found.status), (file.id, "completed"), "the file in the store")


def _list_store_files(desk: Desk) -> None:
    files = [desk.upload(name=f"{n}.txt").id for n in range(3)]
    store = desk.store(*files)
    found = _ids(desk.client.vector_store_files.list(vector_store_id=store.id, limit=2))
    expect(sorted(found), sorted(files), "the files in the store")


def _delete_store_file(desk: Desk) -> None:
    file = desk.upload()
    store = desk.store(file.id)
    desk.client.vector_store_files.delete(vector_store_id=store.id, file_id=file.id)
    expect(_ids(desk.client.vector_store_files.list(vector_store_id=store.id)), [], "the files in the store")
    expect(desk.client.files.get(file.id).id, file.id, "the file itself")


def _batch(desk: Desk) -> tuple[Any, list[str]]:
    store = desk.store()
    files = [desk.upload(name=f"{n}.txt").id for n in range(2)]
    batch = desk.client.vector_store_file_batches.create_and_poll(
        vector_store_id=store.id, file_ids=files, polling_interval=POLLING_S
    )
    return batch, files


def _batch_and_poll(desk: Desk) -> None:
    batch, _ = _batch(desk)
    expect((batch.object, batch.status), ("vector_store.files_batch", "completed"), "the batch")
    expect(batch.file_counts.completed, 2, "how many files it has read")


def _get_batch(desk: Desk) -> None:
    batch, _ = _batch(desk)
    found = desk.client.vector_store_file_batches.get(
        vector_store_id=batch.vector_store_id, batch_id=batch.id
    )
    expect(found.id, batch.id, "the batch")


def _list_batch_files(desk: Desk) -> None:
    batch, files = _batch(desk)
    found = desk.client.vector_store_file_batches.list_files(
        vector_store_id=batch.vector_store_id, batch_id=batch.id, limit=1
    )
    expect(sorted(_ids(found)), sorted(files), "the files of the batch")


# -- who may ask -----------------------------------------------------------------------------------------------------


def _wrong_key(desk: Desk) -> None:
    from azure.core.exceptions import ClientAuthenticationError

    if desk.target.key == "no-key":
        return
    with (
        _open(desk.target._replace(key="wrong"), is_async=desk.is_async) as stranger,
        raises(ClientAuthenticationError),
    ):
        next(iter(stranger.client.list_agents()), None)


CHECKS: Sequence[Check] = (
    Check("create_agent", _create_agent),
    Check("create_agent", _create_agent_with_toolset, "toolset"),
    Check("get_agent", _get_agent),
    Check("get_agent", _get_unknown_agent, "an unknown id"),
    Check("update_agent", _update_agent),
    Check("list_agents", _list_agents),
    Check("list_agents", _wrong_key, "a wrong key"),
    Check("delete_agent", _delete_agent),
    Check("threads.create", _create_thread),
    Check("threads.create", _create_empty_thread, "empty"),
    Check("threads.get", _get_thread),
    Check("threads.update", _update_thread),
    Check("threads.list", _list_threads),
    Check("threads.delete", _delete_thread),
    Check("messages.create", _create_message),
    Check("messages.create", _create_message_of_blocks, "text and image blocks"),
    Check("messages.create", _create_message_with_image_file, "an image file"),
    Check("messages.create", _create_message_with_attachment, "an attachment"),
    Check("messages.create", _busy_thread_message, "a busy thread"),
    Check("messages.get", _get_message),
    Check("messages.update", _update_message),
    Check("messages.list", _list_messages),
    Check("messages.list", _list_messages_of_run, "of a run"),
    Check("messages.get_last_message_by_role", _last_message),
    Check("messages.get_last_message_text_by_role", _last_message_text),
    Check("messages.delete", _delete_message),
    Check("runs.create", _create_run),
    Check("runs.create", _busy_thread, "a busy thread"),
    Check("runs.get", _get_run),
    Check("runs.update", _update_run),
    Check("runs.list", _list_runs),
    Check("runs.create_and_process", _create_and_process),
    Check("runs.create_and_process", _auto_functions, "functions called by the client"),
    Check("runs.create_and_process", _process_with_toolset, "toolset of the run"),
    Check("enable_auto_function_calls", _auto_functions_of_toolset, "toolset"),
    Check("enable_auto_function_calls", _auto_function_that_fails, "a function that fails"),
    Check("runs.submit_tool_outputs", _submit_tool_outputs),
    Check("runs.submit_tool_outputs", _submit_incomplete, "another call's output"),
    Check("runs.cancel", _cancel_run),
    Check("create_thread_and_run", _create_thread_and_run),
    Check("create_thread_and_process_run", _create_thread_and_process_run),
    Check("runs.stream", _stream),
    Check("runs.stream", _stream_with_handler, "event handler"),
    Check("runs.stream", _stream_with_auto_functions, "functions called by the client"),
    Check("runs.submit_tool_outputs_stream", _stream_of_submission),
    Check("run_steps.list", _list_steps),
    Check("run_steps.get", _get_step),
    Check("files.upload", _upload),
    Check("files.upload", _upload_path, "a path"),
    Check("files.upload_and_poll", _upload_and_poll),
    Check("files.get", _get_file),
    Check("files.list", _list_files),
    Check("files.get_content", _get_content),
    Check("files.save", _save_file),
    Check("files.delete", _delete_file),
    Check("vector_stores.create", _create_store),
    Check("vector_stores.create", _create_store_that_expires, "expires_after"),
    Check("vector_stores.create_and_poll", _create_store_and_poll),
    Check("vector_stores.get", _get_store),
    Check("vector_stores.modify", _modify_store),
    Check("vector_stores.list", _list_stores),
    Check("vector_stores.delete", _delete_store),
    Check("vector_store_files.create", _add_store_file),
    Check("vector_store_files.create_and_poll", _add_store_file_and_poll),
    Check("vector_store_files.create_and_poll", _add_unreadable_store_file, "no text"),
    Check("vector_store_files.get", _get_store_file),
    Check("vector_store_files.list", _list_store_files),
    Check("vector_store_files.delete", _delete_store_file),
    Check("vector_store_file_batches.create_and_poll", _batch_and_poll),
    Check("vector_store_file_batches.get", _get_batch),
    Check("vector_store_file_batches.list_files", _list_batch_files),
)
"""Every check, in the order in which a script would come to the calls."""


def _kwargs(target: Target) -> dict[str, Any]:
    """Give the constructor's keywords; the key goes in a header of its own, which plain http may carry."""
    from azure.core.credentials import AzureKeyCredential
    from azure.core.pipeline.policies import AzureKeyCredentialPolicy

    credential = AzureKeyCredential(target.key)
    return {
        "endpoint": target.endpoint,
        "credential": credential,
        "authentication_policy": AzureKeyCredentialPolicy(credential, "api-key"),
    }


@contextlib.contextmanager
def _open(target: Target, *, is_async: bool) -> Generator[Desk]:
    if is_async:
        from azure.ai.agents.aio import AgentsClient as AsyncAgentsClient

        with blocking(lambda: AsyncAgentsClient(**_kwargs(target))) as client:
            yield Desk(client, target, is_async=True)
        return
    from azure.ai.agents import AgentsClient

    with AgentsClient(**_kwargs(target)) as client:
        yield Desk(client, target, is_async=False)


SDK = Sdk(
    name="azure-ai-agents",
    distribution="azure-ai-agents",
    install="treadle[azure]",
    checks=CHECKS,
    modes={
        "sync": lambda target: _open(target, is_async=False),
        "async": lambda target: _open(target, is_async=True),
    },
)

if __name__ == "__main__":
    sys.exit(main(SDK))
