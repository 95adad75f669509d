"""The calls of openai's assistants, each against a server: `python -m treadle.testing.sdk_openai --endpoint URL --key KEY`.

Checks are written as the synchronous client is called; `sdk_checks.Blocking` has them call the asynchronous one too.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from treadle.testing.sdk_checks import (
    CITY,
    WEATHER,
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

POLLING_MS = 50
QUESTION = f"What is the weather in {CITY}?"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
TERMINAL = ("completed", "failed", "cancelled", "expired", "incomplete")
GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city."}},
            "required": ["city"],
        },
    },
}


@dataclass
class Desk:
    """A client, and what of the library differs between its two ways of calling."""

    client: Any
    target: Target
    is_async: bool

    @property
    def assistants(self) -> Any:
        """Give the calls of assistants."""
        return self.client.beta.assistants

    @property
    def threads(self) -> Any:
        """Give the calls of threads."""
        return self.client.beta.threads

    @property
    def runs(self) -> Any:
        """Give the calls of runs."""
        return self.client.beta.threads.runs

    def assistant(self, **fields: Any) -> Any:
        """Make an assistant."""
        named = {"model": self.target.model, "name": "check", "instructions": "Answer briefly."} | fields
        return self.assistants.create(**named)

    def weather_assistant(self) -> Any:
        """Make an assistant that may ask for the weather."""
        return self.assistant(tools=[GET_WEATHER], instructions="Use the tools.")

    def thread(self, *texts: str) -> Any:
        """Make a thread with user messages."""
        return self.threads.create(messages=[{"role": "user", "content": text} for text in texts])

    def over(self, run: Any, *statuses: str) -> Any:
        """Wait until a run is over, or in one of these statuses."""
        wanted = statuses or TERMINAL
        return until(
            lambda: self.runs.retrieve(run.id, thread_id=run.thread_id),
            is_over=lambda found: found.status in wanted,
            what=f"the status {' or '.join(wanted)}",
        )

    def ran(self, text: str = "Hello.") -> Any:
        """Make a run and wait until it has completed."""
        run = self.runs.create_and_poll(
            thread_id=self.thread(text).id, assistant_id=self.assistant().id, poll_interval_ms=POLLING_MS
        )
        if run.status != "completed":
            raise Unexpected(f"the run ended {run.status}: {run.last_error}")
        return run

    def waiting(self) -> tuple[Any, str]:
        """Make a run that waits for the output of a function; give it and the id of its call."""
        run = self.runs.create_and_poll(
            thread_id=self.thread(QUESTION).id,
            assistant_id=self.weather_assistant().id,
            poll_interval_ms=POLLING_MS,
        )
        expect(run.status, "requires_action", "the status")
        calls = run.required_action.submit_tool_outputs.tool_calls
        expect(
            [json.loads(call.function.arguments) for call in calls], [{"city": CITY}], "the calls that wait"
        )
        return run, calls[0].id

    def outputs(self, run: Any) -> list[Any]:
        """Give the outputs of a run's calls, as its steps tell them."""
        steps = self.runs.steps.list(run.id, thread_id=run.thread_id)
        calls = [step.step_details.tool_calls for step in steps if step.type == "tool_calls"]
        return [call.function.output for some in calls for call in some]

    def answer(self, thread_id: str) -> str:
        """Give the text of the newest message of a thread."""
        message = next(iter(self.threads.messages.list(thread_id)))
        expect(message.role, "assistant", "who wrote the newest message")
        return message.content[0].text.value

    def recorder(self) -> Any:
        """Make a handler that notes what a stream tells it."""
        return _async_recorder() if self.is_async else _recorder()

    def upload(self, text: str = "A loom has two treadles.", name: str = "loom.txt") -> Any:
        """Upload a text."""
        return self.client.files.create(file=(name, io.BytesIO(text.encode())), purpose="assistants")

    def store(self, *file_ids: str, **fields: Any) -> Any:
        """Make a vector store and wait until it has read its files."""
        store = self.client.vector_stores.create(file_ids=list(file_ids), name="check", **fields)
        return until(
            lambda: self.client.vector_stores.retrieve(store.id),
            is_over=lambda found: found.status != "in_progress",
            what="a store that has read its files",
        )


def _recorder() -> Any:
    from openai import AssistantEventHandler

    class Handler(Recorder, AssistantEventHandler):
        def on_event(self, event: Any) -> None:
            self.note(event.event)

        def on_text_delta(self, delta: Any, snapshot: Any) -> None:
            self.note("text delta")
            self.text += delta.value or ""
            expect(snapshot.value, self.text, "the text so far")

        def on_message_done(self, message: Any) -> None:
            self.note("message done", message.status)

        def on_tool_call_created(self, tool_call: Any) -> None:
            self.note("tool call", tool_call.function.name)

        def on_tool_call_done(self, tool_call: Any) -> None:
            self.note("tool call done", tool_call.function.arguments)

        def on_run_step_done(self, run_step: Any) -> None:
            self.note("step done", run_step.type)

        def on_end(self) -> None:
            self.note("end")

    return Handler()


def _async_recorder() -> Any:
    from openai import AsyncAssistantEventHandler

    class Handler(Recorder, AsyncAssistantEventHandler):
        async def on_event(self, event: Any) -> None:
            self.note(event.event)

        async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
            self.note("text delta")
            self.text += delta.value or ""
            expect(snapshot.value, self.text, "the text so far")

        async def on_message_done(self, message: Any) -> None:
            self.note("message done", message.status)

        async def on_tool_call_created(self, tool_call: Any) -> None:
            self.note("tool call", tool_call.function.name)

        async def on_tool_call_done(self, tool_call: Any) -> None:
            self.note("tool call done", tool_call.function.arguments)

        async def on_run_step_done(self, run_step: Any) -> None:
            self.note("step done", run_step.type)

        async def on_end(self) -> None:
            self.note("end")

    return Handler()


def _not_found() -> type[Exception]:
    from openai import NotFoundError

    return NotFoundError


def _bad_request() -> type[Exception]:
    from openai import BadRequestError

    return BadRequestError


def _ids(found: Any) -> list[str]:
    return [one.id for one in found]


# -- assistants ------------------------------------------------------------------------------------------------------


def _create_assistant(desk: Desk) -> None:
    assistant = desk.assistant(
        description="For checks.",
        tools=[GET_WEATHER],
        temperature=0.5,
        top_p=0.9,
        metadata={"team": "weavers"},
        response_format="auto",
    )
    expect((assistant.object, assistant.name), ("assistant", "check"), "the assistant")
    expect((assistant.temperature, assistant.top_p), (0.5, 0.9), "temperature and top_p")
    expect(assistant.metadata, {"team": "weavers"}, "metadata")
    expect([tool.function.name for tool in assistant.tools], ["get_weather"], "tools")


def _create_assistant_wrongly(desk: Desk) -> None:
    with raises(_bad_request(), saying="temperature"):
        desk.assistant(temperature=7)


def _retrieve_assistant(desk: Desk) -> None:
    assistant = desk.assistant()
    expect(desk.assistants.retrieve(assistant.id), assistant, "the assistant")


def _retrieve_unknown_assistant(desk: Desk) -> None:
    with raises(_not_found(), saying="No assistant found with id 'asst_none'."):
        desk.assistants.retrieve("asst_none")


def _update_assistant(desk: Desk) -> None:
    assistant = desk.assistant()
    changed = desk.assistants.update(assistant.id, instructions="Be brief.", metadata={"v": "2"})
    expect((changed.id, changed.name), (assistant.id, "check"), "what was left out")
    expect((changed.instructions, changed.metadata), ("Be brief.", {"v": "2"}), "what was changed")


def _list_assistants(desk: Desk) -> None:
    made = [desk.assistant(name=f"check {n}").id for n in range(3)]
    found = _ids(desk.assistants.list(limit=2))
    expect(found[:3], made[::-1], "the newest assistants")
    expect(len(found), len(set(found)), "how many assistants are listed once")


def _delete_assistant(desk: Desk) -> None:
    assistant = desk.assistant()
    gone = desk.assistants.delete(assistant.id)
    expect((gone.id, gone.object, gone.deleted), (assistant.id, "assistant.deleted", True), "the answer")
    with raises(_not_found()):
        desk.assistants.retrieve(assistant.id)


# -- threads and messages --------------------------------------------------------------------------------------------


def _create_thread(desk: Desk) -> None:
    thread = desk.threads.create(
        messages=[{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}],
        metadata={"user": "ada"},
    )
    expect((thread.object, thread.metadata), ("thread", {"user": "ada"}), "the thread")
    found = desk.threads.messages.list(thread.id, order="asc")
    expect(
        [(m.role, m.content[0].text.value) for m in found],
        [("user", "One."), ("assistant", "Two.")],
        "its messages",
    )


def _create_empty_thread(desk: Desk) -> None:
    expect(list(desk.threads.messages.list(desk.threads.create().id)), [], "its messages")


def _retrieve_thread(desk: Desk) -> None:
    thread = desk.thread()
    expect(desk.threads.retrieve(thread.id), thread, "the thread")


def _update_thread(desk: Desk) -> None:
    changed = desk.threads.update(desk.thread().id, metadata={"state": "open"})
    expect(changed.metadata, {"state": "open"}, "metadata")


def _delete_thread(desk: Desk) -> None:
    thread = desk.thread("One.")
    expect(desk.threads.delete(thread.id).deleted, wanted=True, what="whether it is deleted")
    with raises(_not_found()):
        desk.threads.retrieve(thread.id)


def _create_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.threads.messages.create(thread.id, role="user", content="Hello.", metadata={"n": "1"})
    expect(
        (message.object, message.role, message.status), ("thread.message", "user", "completed"), "the message"
    )
    expect(message.content[0].text.value, "Hello.", "its text")
    expect(len(message.content[0].text.annotations), 0, "how many annotations it has")
    expect((message.thread_id, message.metadata), (thread.id, {"n": "1"}), "its thread and metadata")


def _create_message_of_blocks(desk: Desk) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    message = desk.threads.messages.create(
        desk.thread().id,
        role="user",
        content=[
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        ],
    )
    expect([part.type for part in message.content], ["text", "image_url"], "its parts")


def _create_message_with_image_file(desk: Desk) -> None:
    image = desk.client.files.create(file=("pixel.png", PIXEL), purpose="vision")
    block = {"type": "image_file", "image_file": {"file_id": image.id}}
    message = desk.threads.messages.create(desk.thread().id, role="user", content=[block])
    expect(message.content[0].image_file.file_id, image.id, "its image")


def _create_message_with_attachment(desk: Desk) -> None:
    thread, file = desk.thread(), desk.upload()
    attachment = {"file_id": file.id, "tools": [{"type": "file_search"}]}
    message = desk.threads.messages.create(
        thread.id, role="user", content="Read this.", attachments=[attachment]
    )
    expect([one.file_id for one in message.attachments], [file.id], "its attachments")
    stores = desk.threads.retrieve(thread.id).tool_resources.file_search.vector_store_ids
    expect(len(stores), 1, "how many vector stores the thread has")
    expect(_ids(desk.client.vector_stores.files.list(stores[0])), [file.id], "the files in it")


def _retrieve_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.threads.messages.create(thread.id, role="user", content="Hello.")
    expect(desk.threads.messages.retrieve(message.id, thread_id=thread.id), message, "the message")


def _update_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.threads.messages.create(thread.id, role="user", content="Hello.")
    changed = desk.threads.messages.update(message.id, thread_id=thread.id, metadata={"read": "yes"})
    expect(changed.metadata, {"read": "yes"}, "metadata")


def _list_messages(desk: Desk) -> None:
    texts = [f"Number {n}." for n in range(5)]
    found = desk.threads.messages.list(desk.thread(*texts).id, limit=2, order="asc")
    expect([message.content[0].text.value for message in found], texts, "all messages, over several pages")


def _list_messages_of_run(desk: Desk) -> None:
    run = desk.ran()
    found = list(desk.threads.messages.list(run.thread_id, run_id=run.id))
    expect(
        [(m.role, m.run_id, m.assistant_id) for m in found],
        [("assistant", run.id, run.assistant_id)],
        "its messages",
    )


def _delete_message(desk: Desk) -> None:
    thread = desk.thread()
    message = desk.threads.messages.create(thread.id, role="user", content="Hello.")
    gone = desk.threads.messages.delete(message.id, thread_id=thread.id)
    expect((gone.object, gone.deleted), ("thread.message.deleted", True), "the answer")
    expect(list(desk.threads.messages.list(thread.id)), [], "the messages that are left")


# -- runs ------------------------------------------------------------------------------------------------------------


def _create_run(desk: Desk) -> None:
    assistant, thread = desk.assistant(), desk.thread("Hello.")
    run = desk.runs.create(
        thread.id,
        assistant_id=assistant.id,
        additional_instructions="Be kind.",
        additional_messages=[{"role": "user", "content": "And how are you?"}],
        temperature=0.2,
        max_completion_tokens=500,
        truncation_strategy={"type": "last_messages", "last_messages": 5},
        metadata={"why": "check"},
    )
    expect((run.object, run.thread_id, run.assistant_id), ("thread.run", thread.id, assistant.id), "the run")
    expect_in(run.status, ("queued", "in_progress"), "its status")
    expect(run.expires_at - run.created_at, 600, "after how many seconds it expires")
    done = desk.over(run)
    expect(
        (done.status, done.metadata, done.expires_at), ("completed", {"why": "check"}, None), "how it ended"
    )
    expect(done.usage.total_tokens > 0, wanted=True, what="whether it tells its usage")


def _create_run_streamed(desk: Desk) -> None:
    events = desk.runs.create(desk.thread("Hello.").id, assistant_id=desk.assistant().id, stream=True)
    names = [event.event for event in events]
    expect(
        (names[0], names[-1]), ("thread.run.created", "thread.run.completed"), "the first event and the last"
    )
    expect_in("thread.message.delta", names, "the events")


def _retrieve_run(desk: Desk) -> None:
    run = desk.ran()
    expect(desk.runs.retrieve(run.id, thread_id=run.thread_id), run, "the run")


def _update_run(desk: Desk) -> None:
    run = desk.ran()
    changed = desk.runs.update(run.id, thread_id=run.thread_id, metadata={"kept": "yes"})
    expect(changed.metadata, {"kept": "yes"}, "metadata")


def _list_runs(desk: Desk) -> None:
    assistant, thread = desk.assistant(), desk.thread("Hello.")
    made = [desk.over(desk.runs.create(thread.id, assistant_id=assistant.id)).id for _ in range(3)]
    expect(_ids(desk.runs.list(thread.id, limit=2)), made[::-1], "the runs of the thread")


def _create_and_poll(desk: Desk) -> None:
    run = desk.ran()
    expect(bool(desk.answer(run.thread_id)), wanted=True, what="whether there is an answer")


def _poll(desk: Desk) -> None:
    run = desk.runs.create(desk.thread("Hello.").id, assistant_id=desk.assistant().id)
    done = desk.runs.poll(run.id, thread_id=run.thread_id)
    expect(done.status, "completed", "how the run ended")


def _forced_tool(desk: Desk) -> None:
    run = desk.runs.create_and_poll(
        thread_id=desk.thread(QUESTION).id,
        assistant_id=desk.weather_assistant().id,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        poll_interval_ms=POLLING_MS,
    )
    expect(run.status, "requires_action", "the status")
    call = run.required_action.submit_tool_outputs.tool_calls[0]
    done = desk.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call.id, "output": WEATHER}],
        poll_interval_ms=POLLING_MS,
    )
    expect(done.status, "completed", "how the run ended")


def _submit(desk: Desk) -> None:
    run, call_id = desk.waiting()
    outputs = [{"tool_call_id": call_id, "output": WEATHER}]
    submitted = desk.runs.submit_tool_outputs(run.id, thread_id=run.thread_id, tool_outputs=outputs)
    expect(submitted.required_action, None, "what the run still waits for")
    expect(desk.over(run).status, "completed", "how the run ended")


def _submit_too_late(desk: Desk) -> None:
    run = desk.ran()
    with raises(_bad_request(), saying='Runs in status "completed" do not accept tool outputs.'):
        desk.runs.submit_tool_outputs(
            run.id, thread_id=run.thread_id, tool_outputs=[{"tool_call_id": "call_none", "output": ""}]
        )


def _submit_and_poll(desk: Desk) -> None:
    run, call_id = desk.waiting()
    done = desk.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call_id, "output": WEATHER}],
        poll_interval_ms=POLLING_MS,
    )
    expect(done.status, "completed", "how the run ended")
    expect(desk.outputs(done), [WEATHER], "the output in the run's steps")


def _cancel(desk: Desk) -> None:
    run, _ = desk.waiting()
    expect_in(
        desk.runs.cancel(run.id, thread_id=run.thread_id).status, ("cancelling", "cancelled"), "the status"
    )
    expect(desk.over(run).status, "cancelled", "how the run ended")
    with raises(_bad_request(), saying="Cannot cancel run with status 'cancelled'."):
        desk.runs.cancel(run.id, thread_id=run.thread_id)


def _busy_thread(desk: Desk) -> None:
    run, _ = desk.waiting()
    with raises(_bad_request(), saying=f"Thread {run.thread_id} already has an active run {run.id}."):
        desk.runs.create(run.thread_id, assistant_id=run.assistant_id)
    desk.runs.cancel(run.id, thread_id=run.thread_id)


def _busy_thread_message(desk: Desk) -> None:
    run, _ = desk.waiting()
    said = f"Can't add messages to {run.thread_id} while a run {run.id} is active."
    with raises(_bad_request(), saying=said):
        desk.threads.messages.create(run.thread_id, role="user", content="Hurry.")
    desk.runs.cancel(run.id, thread_id=run.thread_id)


def _create_and_run(desk: Desk) -> None:
    thread: Any = {"messages": [{"role": "user", "content": "Hello."}], "metadata": {"user": "ada"}}
    run = desk.threads.create_and_run(assistant_id=desk.assistant().id, thread=thread)
    expect(desk.over(run).status, "completed", "how the run ended")
    expect(desk.threads.retrieve(run.thread_id).metadata, {"user": "ada"}, "the thread's metadata")


def _create_and_run_poll(desk: Desk) -> None:
    run = desk.threads.create_and_run_poll(
        assistant_id=desk.assistant().id,
        thread={"messages": [{"role": "user", "content": "Hello."}]},
        poll_interval_ms=POLLING_MS,
    )
    expect(run.status, "completed", "how the run ended")


# -- streams ---------------------------------------------------------------------------------------------------------


def _stream(desk: Desk) -> None:
    thread = desk.thread("Hello.")
    with desk.runs.stream(thread_id=thread.id, assistant_id=desk.assistant().id) as stream:
        text = "".join(stream.text_deltas)
    expect(text, desk.answer(thread.id), "the text of the deltas")


def _stream_with_handler(desk: Desk) -> None:
    handler = desk.recorder()
    thread = desk.thread("Hello.")
    with desk.runs.stream(
        thread_id=thread.id, assistant_id=desk.assistant().id, event_handler=handler
    ) as stream:
        stream.until_done()
        expect(stream.get_final_run().status, "completed", "the final run")
        expect(len(stream.get_final_messages()), 1, "how many messages it wrote")
        expect([step.type for step in stream.get_final_run_steps()], ["message_creation"], "its steps")
    handler.told(
        "thread.run.created", "text delta", "message done completed", "step done message_creation", "end"
    )
    expect(handler.text, desk.answer(thread.id), "the text of the deltas")


def _stream_of_tool_calls(desk: Desk) -> None:
    handler = desk.recorder()
    with desk.runs.stream(
        thread_id=desk.thread(QUESTION).id, assistant_id=desk.weather_assistant().id, event_handler=handler
    ) as stream:
        stream.until_done()
        run = stream.get_final_run()
    expect(run.status, "requires_action", "the status")
    handler.told("thread.run.step.delta", "tool call get_weather", "thread.run.requires_action", "end")
    desk.runs.cancel(run.id, thread_id=run.thread_id)


def _stream_of_submission(desk: Desk) -> None:
    run, call_id = desk.waiting()
    handler = desk.recorder()
    with desk.runs.submit_tool_outputs_stream(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call_id, "output": WEATHER}],
        event_handler=handler,
    ) as stream:
        stream.until_done()
        expect(len(stream.get_final_messages()), 1, "how many messages it wrote")
    handler.told("thread.run.step.completed", "text delta", "thread.run.completed", "end")
    expect(handler.text, desk.answer(run.thread_id), "the text of the deltas")


def _stream_of_thread_and_run(desk: Desk) -> None:
    with desk.threads.create_and_run_stream(
        assistant_id=desk.assistant().id, thread={"messages": [{"role": "user", "content": "Hello."}]}
    ) as stream:
        names = [event.event for event in stream]
    expect(names[:2], ["thread.created", "thread.run.created"], "the first events")
    expect(names[-1], "thread.run.completed", "the last event")


# -- run steps -------------------------------------------------------------------------------------------------------


def _list_steps(desk: Desk) -> None:
    run, call_id = desk.waiting()
    done = desk.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call_id, "output": WEATHER}],
        poll_interval_ms=POLLING_MS,
    )
    steps = list(desk.runs.steps.list(run.id, thread_id=run.thread_id, limit=1, order="asc"))
    expect(
        [(s.type, s.status) for s in steps],
        [("tool_calls", "completed"), ("message_creation", "completed")],
        "the steps",
    )
    expect(sum(step.usage.total_tokens for step in steps), done.usage.total_tokens, "their usage")


def _retrieve_step(desk: Desk) -> None:
    run = desk.ran()
    step = next(iter(desk.runs.steps.list(run.id, thread_id=run.thread_id)))
    expect(desk.runs.steps.retrieve(step.id, thread_id=run.thread_id, run_id=run.id), step, "the step")


# -- files and vector stores -----------------------------------------------------------------------------------------


def _create_file(desk: Desk) -> None:
    file = desk.upload("A loom.", "loom.txt")
    expect((file.object, file.filename, file.bytes), ("file", "loom.txt", 7), "the file")
    expect((file.purpose, file.status), ("assistants", "processed"), "its purpose and status")


def _create_file_that_expires(desk: Desk) -> None:
    file = desk.client.files.create(
        file=("a.txt", b"A loom."),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    expect(file.expires_at - file.created_at, 3600, "after how many seconds it expires")


def _retrieve_file(desk: Desk) -> None:
    file = desk.upload()
    expect(desk.client.files.retrieve(file.id), file, "the file")


def _list_files(desk: Desk) -> None:
    made = [desk.upload(name=f"{n}.txt").id for n in range(3)]
    found = _ids(desk.client.files.list(purpose="assistants", limit=2))
    expect(found[:3], made[::-1], "the newest files")


def _file_content(desk: Desk) -> None:
    file = desk.upload("A loom has two treadles.")
    expect(desk.client.files.content(file.id).content, b"A loom has two treadles.", "the content")


def _wait_for_processing(desk: Desk) -> None:
    file = desk.client.files.wait_for_processing(desk.upload().id, poll_interval=0.05)
    expect(file.status, "processed", "its status")


def _delete_file(desk: Desk) -> None:
    file = desk.upload()
    expect(desk.client.files.delete(file.id).deleted, wanted=True, what="whether it is deleted")
    with raises(_not_found()):
        desk.client.files.retrieve(file.id)


def _create_store(desk: Desk) -> None:
    store = desk.client.vector_stores.create(
        name="check", metadata={"n": "1"}, expires_after={"anchor": "last_active_at", "days": 3}
    )
    expect((store.object, store.name, store.metadata), ("vector_store", "check", {"n": "1"}), "the store")
    expect((store.expires_after.days, store.status), (3, "completed"), "when it expires")


def _create_store_of_files(desk: Desk) -> None:
    store = desk.store(
        desk.upload().id,
        chunking_strategy={
            "type": "static",
            "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50},
        },
    )
    expect((store.status, store.file_counts.completed), ("completed", 1), "its status and files")


def _retrieve_store(desk: Desk) -> None:
    store = desk.store()
    expect(desk.client.vector_stores.retrieve(store.id).id, store.id, "the store")


def _update_store(desk: Desk) -> None:
    changed = desk.client.vector_stores.update(desk.store().id, name="renamed", metadata={"v": "2"})
    expect((changed.name, changed.metadata), ("renamed", {"v": "2"}), "the store")


def _list_stores(desk: Desk) -> None:
    made = [desk.client.vector_stores.create(name=f"check {n}").id for n in range(3)]
    expect(_ids(desk.client.vector_stores.list(limit=2))[:3], made[::-1], "the newest stores")


def _delete_store(desk: Desk) -> None:
    store = desk.store()
    expect(desk.client.vector_stores.delete(store.id).deleted, wanted=True, what="whether it is deleted")
    with raises(_not_found()):
        desk.client.vector_stores.retrieve(store.id)


def _add_store_file(desk: Desk) -> None:
    store, file = desk.store(), desk.upload()
    link = desk.client.vector_stores.files.create(store.id, file_id=file.id, attributes={"year": 1801})
    expect((link.id, link.object), (file.id, "vector_store.file"), "the file in the store")
    expect((link.vector_store_id, link.attributes), (store.id, {"year": 1801}), "its store and attributes")


def _add_store_file_and_poll(desk: Desk) -> None:
    store, file = desk.store(), desk.upload()
    link = desk.client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store.id, poll_interval_ms=POLLING_MS
    )
    expect((link.id, link.status), (file.id, "completed"), "the file in the store")


def _upload_store_file(desk: Desk) -> None:
    link = desk.client.vector_stores.files.upload_and_poll(
        vector_store_id=desk.store().id, file=("a.txt", b"A loom."), poll_interval_ms=POLLING_MS
    )
    expect(link.status, "completed", "the status of the file in the store")


def _upload_unreadable(desk: Desk) -> None:
    link = desk.client.vector_stores.files.upload_and_poll(
        vector_store_id=desk.store().id, file=("a.bin", b"\x00\x01\x02"), poll_interval_ms=POLLING_MS
    )
    expect((link.status, link.last_error.code), ("failed", "unsupported_file"), "the file in the store")


def _retrieve_store_file(desk: Desk) -> None:
    file = desk.upload()
    store = desk.store(file.id)
    found = desk.client.vector_stores.files.retrieve(file.id, vector_store_id=store.id)
    expect((found.id, found.status), (file.id, "completed"), "the file in the store")


def _update_store_file(desk: Desk) -> None:
    file = desk.upload()
    store = desk.store(file.id)
    changed = desk.client.vector_stores.files.update(
        file.id, vector_store_id=store.id, attributes={"kind": "loom"}
    )
    expect(changed.attributes, {"kind": "loom"}, "its attributes")


def _list_store_files(desk: Desk) -> None:
    files = [desk.upload(name=f"{n}.txt").id for n in range(3)]
    store = desk.store(*files)
    found = _ids(desk.client.vector_stores.files.list(store.id, limit=2, filter="completed"))
    expect(sorted(found), sorted(files), "the files in the store")


def _store_file_content(desk: Desk) -> None:
    file = desk.upload("A loom has two treadles.")
    store = desk.store(file.id)
    found = desk.client.vector_stores.files.content(file.id, vector_store_id=store.id)
    expect_in("two treadles", "".join(part.text for part in found), "the text")


def _delete_store_file(desk: Desk) -> None:
    file = desk.upload()
    store = desk.store(file.id)
    gone = desk.client.vector_stores.files.delete(file.id, vector_store_id=store.id)
    expect((gone.object, gone.deleted), ("vector_store.file.deleted", True), "the answer")
    expect(desk.client.files.retrieve(file.id).id, file.id, "the file itself")


def _batch(desk: Desk) -> tuple[Any, list[str]]:
    store = desk.store()
    files = [desk.upload(name=f"{n}.txt").id for n in range(2)]
    batch = desk.client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=files, poll_interval_ms=POLLING_MS
    )
    return batch, files


def _batch_and_poll(desk: Desk) -> None:
    batch, _ = _batch(desk)
    expect((batch.object, batch.status), ("vector_store.files_batch", "completed"), "the batch")
    expect(batch.file_counts.completed, 2, "how many files it has read")


def _upload_batch(desk: Desk) -> None:
    batch = desk.client.vector_stores.file_batches.upload_and_poll(
        desk.store().id, files=[("a.txt", b"A loom."), ("b.txt", b"A shuttle.")], poll_interval_ms=POLLING_MS
    )
    expect((batch.status, batch.file_counts.completed), ("completed", 2), "the batch")


def _retrieve_batch(desk: Desk) -> None:
    batch, _ = _batch(desk)
    found = desk.client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=batch.vector_store_id)
    expect(found.id, batch.id, "the batch")


def _list_batch_files(desk: Desk) -> None:
    batch, files = _batch(desk)
    found = desk.client.vector_stores.file_batches.list_files(
        batch.id, vector_store_id=batch.vector_store_id, limit=1
    )
    expect(sorted(_ids(found)), sorted(files), "the files of the batch")


# -- who may ask -----------------------------------------------------------------------------------------------------


def _wrong_key(desk: Desk) -> None:
    from openai import AuthenticationError

    if desk.target.key == "no-key":
        return
    with (
        _open(desk.target._replace(key="wrong"), is_async=desk.is_async) as stranger,
        raises(AuthenticationError),
    ):
        next(iter(stranger.assistants.list()), None)


def _azure_openai(desk: Desk) -> None:
    """Ask as the client of Azure's own deployments does: another mount, another header."""
    import openai

    place = urlsplit(desk.target.endpoint)
    named: dict[str, Any] = {
        "azure_endpoint": f"{place.scheme}://{place.netloc}",
        "api_key": desk.target.key,
        "api_version": "2024-05-01-preview",
    }
    if desk.is_async:
        with blocking(lambda: openai.AsyncAzureOpenAI(**named)) as client:
            assistant = client.beta.assistants.create(model=desk.target.model)
            expect(client.beta.assistants.retrieve(assistant.id), assistant, "the assistant")
        return
    with openai.AzureOpenAI(**named) as opened:
        plain: Any = opened
        made = plain.beta.assistants.create(model=desk.target.model)
        expect(plain.beta.assistants.retrieve(made.id), made, "the assistant")


CHECKS: Sequence[Check] = (
    Check("beta.assistants.create", _create_assistant),
    Check("beta.assistants.create", _create_assistant_wrongly, "a value out of range"),
    Check("beta.assistants.create", _azure_openai, "AzureOpenAI"),
    Check("beta.assistants.retrieve", _retrieve_assistant),
    Check("beta.assistants.retrieve", _retrieve_unknown_assistant, "an unknown id"),
    Check("beta.assistants.update", _update_assistant),
    Check("beta.assistants.list", _list_assistants),
    Check("beta.assistants.list", _wrong_key, "a wrong key"),
    Check("beta.assistants.delete", _delete_assistant),
    Check("beta.threads.create", _create_thread),
    Check("beta.threads.create", _create_empty_thread, "empty"),
    Check("beta.threads.retrieve", _retrieve_thread),
    Check("beta.threads.update", _update_thread),
    Check("beta.threads.delete", _delete_thread),
    Check("beta.threads.messages.create", _create_message),
    Check("beta.threads.messages.create", _create_message_of_blocks, "text and image blocks"),
    Check("beta.threads.messages.create", _create_message_with_image_file, "an image file"),
    Check("beta.threads.messages.create", _create_message_with_attachment, "an attachment"),
    Check("beta.threads.messages.create", _busy_thread_message, "a busy thread"),
    Check("beta.threads.messages.retrieve", _retrieve_message),
    Check("beta.threads.messages.update", _update_message),
    Check("beta.threads.messages.list", _list_messages),
    Check("beta.threads.messages.list", _list_messages_of_run, "of a run"),
    Check("beta.threads.messages.delete", _delete_message),
    Check("beta.threads.runs.create", _create_run),
    Check("beta.threads.runs.create", _create_run_streamed, "stream=True"),
    Check("beta.threads.runs.create", _busy_thread, "a busy thread"),
    Check("beta.threads.runs.retrieve", _retrieve_run),
    Check("beta.threads.runs.update", _update_run),
    Check("beta.threads.runs.list", _list_runs),
    Check("beta.threads.runs.create_and_poll", _create_and_poll),
    Check("beta.threads.runs.create_and_poll", _forced_tool, "tool_choice"),
    Check("beta.threads.runs.poll", _poll),
    Check("beta.threads.runs.submit_tool_outputs", _submit),
    Check("beta.threads.runs.submit_tool_outputs", _submit_too_late, "too late"),
    Check("beta.threads.runs.submit_tool_outputs_and_poll", _submit_and_poll),
    Check("beta.threads.runs.cancel", _cancel),
    Check("beta.threads.create_and_run", _create_and_run),
    Check("beta.threads.create_and_run_poll", _create_and_run_poll),
    Check("beta.threads.runs.stream", _stream),
    Check("beta.threads.runs.stream", _stream_with_handler, "event handler"),
    Check("beta.threads.runs.stream", _stream_of_tool_calls, "tool calls"),
    Check("beta.threads.runs.submit_tool_outputs_stream", _stream_of_submission),
    Check("beta.threads.create_and_run_stream", _stream_of_thread_and_run),
    Check("beta.threads.runs.steps.list", _list_steps),
    Check("beta.threads.runs.steps.retrieve", _retrieve_step),
    Check("files.create", _create_file),
    Check("files.create", _create_file_that_expires, "expires_after"),
    Check("files.retrieve", _retrieve_file),
    Check("files.list", _list_files),
    Check("files.content", _file_content),
    Check("files.wait_for_processing", _wait_for_processing),
    Check("files.delete", _delete_file),
    Check("vector_stores.create", _create_store),
    Check("vector_stores.create", _create_store_of_files, "files and chunks"),
    Check("vector_stores.retrieve", _retrieve_store),
    Check("vector_stores.update", _update_store),
    Check("vector_stores.list", _list_stores),
    Check("vector_stores.delete", _delete_store),
    Check("vector_stores.files.create", _add_store_file),
    Check("vector_stores.files.create_and_poll", _add_store_file_and_poll),
    Check("vector_stores.files.upload_and_poll", _upload_store_file),
    Check("vector_stores.files.upload_and_poll", _upload_unreadable, "no text"),
    Check("vector_stores.files.retrieve", _retrieve_store_file),
    Check("vector_stores.files.update", _update_store_file),
    Check("vector_stores.files.list", _list_store_files),
    Check("vector_stores.files.content", _store_file_content),
    Check("vector_stores.files.delete", _delete_store_file),
    Check("vector_stores.file_batches.create_and_poll", _batch_and_poll),
    Check("vector_stores.file_batches.upload_and_poll", _upload_batch),
    Check("vector_stores.file_batches.retrieve", _retrieve_batch),
    Check("vector_stores.file_batches.list_files", _list_batch_files),
)
"""Every check, in the order in which a script would come to the calls."""


@contextlib.contextmanager
def _open(target: Target, *, is_async: bool) -> Generator[Desk]:
    import openai

    endpoint = target.endpoint
    base_url = endpoint if endpoint.endswith("/v1") else f"{endpoint}/v1"
    if is_async:
        with blocking(lambda: openai.AsyncOpenAI(base_url=base_url, api_key=target.key)) as client:
            yield Desk(client, target, is_async=True)
        return
    with openai.OpenAI(base_url=base_url, api_key=target.key) as client:
        yield Desk(client, target, is_async=False)


SDK = Sdk(
    name="openai",
    distribution="openai",
    install="openai",
    checks=CHECKS,
    modes={
        "sync": lambda target: _open(target, is_async=False),
        "async": lambda target: _open(target, is_async=True),
    },
)

if __name__ == "__main__":
    sys.exit(main(SDK))
