"""A script for Azure AI Foundry Agent Service: only its endpoint, and how it shows its key, are treadle's."""

import json
import os
import tempfile
from pathlib import Path

from azure.ai.agents import AgentsClient
from azure.ai.agents.models import (
    AgentEventHandler,
    FilePurpose,
    FunctionTool,
    ListSortOrder,
    MessageAttachment,
    MessageDeltaChunk,
    ThreadRun,
    ToolSet,
)
from azure.identity import DefaultAzureCredential

from treadle.azure import local_client_kwargs

endpoint = os.environ.get("PROJECT_ENDPOINT", "http://127.0.0.1:8108/api/projects/default")
client = AgentsClient(
    endpoint,
    credential=DefaultAzureCredential(),
    **local_client_kwargs(os.environ.get("TREADLE_API_KEY", "none")),
)


def get_weather(city: str) -> str:
    """Give the weather of a city.

    :param city: The city.
    """
    return json.dumps({"city": city, "sky": "rain" if city == "Paris" else "snow"})


class Printer(AgentEventHandler):
    """Prints what a stream says."""

    def on_thread_run(self, run: ThreadRun) -> None:
        print(f"  run {run.status}")

    def on_message_delta(self, delta: MessageDeltaChunk) -> None:
        print(f"  {delta.text!r}")


with client:
    toolset = ToolSet()
    toolset.add(FunctionTool({get_weather}))
    client.enable_auto_function_calls(toolset)
    agent = client.create_agent(
        model="gpt-4o-mini",
        name="weather, over HTTP",
        instructions="Say what the weather is.",
        toolset=toolset,
    )
    thread = client.threads.create()

    print("a run that is processed:")
    client.messages.create(thread_id=thread.id, role="user", content="What is the weather in Paris?")
    run = client.runs.create_and_process(thread_id=thread.id, agent_id=agent.id, polling_interval=0.05)
    print(f"  {run.status}")
    for message in client.messages.list(thread_id=thread.id, order=ListSortOrder.ASCENDING):
        print(f"  {message.role}: {message.text_messages[-1].text.value}")
    for step in client.run_steps.list(thread_id=thread.id, run_id=run.id, order=ListSortOrder.ASCENDING):
        print(f"  step {step.type}: {step.status}")

    print("a run that is streamed:")
    client.messages.create(thread_id=thread.id, role="user", content="And the weather in Oslo?")
    with client.runs.stream(thread_id=thread.id, agent_id=agent.id, event_handler=Printer()) as stream:
        stream.until_done()

    print("a file:")
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note.txt"
        note.write_text("In Oslo it snows from November on.", encoding="utf-8")
        file = client.files.upload_and_poll(file_path=str(note), purpose=FilePurpose.AGENTS)
    attachment = MessageAttachment(file_id=file.id, tools=[{"type": "file_search"}])
    client.messages.create(
        thread_id=thread.id, role="user", content="See this note.", attachments=[attachment]
    )
    resources = client.threads.get(thread.id).tool_resources
    print(
        f"  {file.filename}: {file.bytes} bytes, {len(resources.file_search.vector_store_ids)} vector store"
    )

    client.files.delete(file.id)
    client.delete_agent(agent.id)
    print("the agent is gone, its thread stays")
