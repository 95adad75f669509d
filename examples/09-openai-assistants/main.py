"""A script for the OpenAI Assistants API: only its base_url is treadle's."""

import json
import os
import warnings

from openai import AssistantEventHandler, OpenAI
from typing_extensions import override

warnings.filterwarnings("ignore", category=DeprecationWarning)  # What the hosted service no longer answers.

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8109/v1"),
    api_key=os.environ.get("TREADLE_API_KEY", "no key is asked for"),
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Give the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def outputs_of(run: object) -> list[dict[str, str]]:
    """Run the functions that a run waits for."""
    calls = run.required_action.submit_tool_outputs.tool_calls
    skies = {"Paris": "rain"}
    cities = [(call.id, json.loads(call.function.arguments)["city"]) for call in calls]
    return [
        {"tool_call_id": id_, "output": json.dumps({"city": city, "sky": skies.get(city, "snow")})}
        for id_, city in cities
    ]


class Printer(AssistantEventHandler):
    """Prints what a stream says."""

    @override
    def on_event(self, event: object) -> None:
        if event.event == "thread.run.requires_action":
            run = event.data
            with client.beta.threads.runs.submit_tool_outputs_stream(
                run_id=run.id, thread_id=run.thread_id, tool_outputs=outputs_of(run), event_handler=Printer()
            ) as more:
                more.until_done()

    @override
    def on_text_delta(self, delta: object, snapshot: object) -> None:
        print(f"  {delta.value!r}")


assistant = client.beta.assistants.create(
    model="gpt-4o-mini", name="weather, over HTTP", instructions="Say what the weather is.", tools=[WEATHER]
)
thread = client.beta.threads.create(messages=[{"role": "user", "content": "What is the weather in Paris?"}])

print("a run that is polled:")
run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
print(f"  {run.status}")
run = client.beta.threads.runs.submit_tool_outputs_and_poll(
    run_id=run.id, thread_id=thread.id, tool_outputs=outputs_of(run)
)
print(f"  {run.status}")
for message in client.beta.threads.messages.list(thread.id, order="asc"):
    print(f"  {message.role}: {message.content[0].text.value}")
for step in client.beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc"):
    print(f"  step {step.type}: {step.status}")

print("a run that is streamed:")
client.beta.threads.messages.create(thread.id, role="user", content="And the weather in Oslo?")
with client.beta.threads.runs.stream(
    thread_id=thread.id, assistant_id=assistant.id, event_handler=Printer()
) as stream:
    stream.until_done()

print("a file:")
file = client.files.create(file=("note.txt", b"In Oslo it snows from November on."), purpose="assistants")
client.beta.threads.messages.create(
    thread.id,
    role="user",
    content="See this note.",
    attachments=[{"file_id": file.id, "tools": [{"type": "file_search"}]}],
)
resources = client.beta.threads.retrieve(thread.id).tool_resources
print(f"  {file.filename}: {file.bytes} bytes, {len(resources.file_search.vector_store_ids)} vector store")

client.files.delete(file.id)
client.beta.assistants.delete(assistant.id)
print("the assistant is gone, its thread stays")
