"""The one table of what the server answers: method, path, handler, and what goes in and comes out.

Paths stand behind every mount: ``/``, ``/v1``, ``/openai``, ``/openai/v1``, each also behind
``/api/projects/<tenant>``. The OpenAPI document, the check of who may ask, and the tests walk this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from treadle.server import agents, bodies, messages, run_steps, runs, threads
from treadle.server.call import Handler

Body = type[bodies.Body]
PAGE = ("limit", "order", "after", "before")


@dataclass(frozen=True, slots=True)
class Route:
    """One row.

    Shapes: `gives` names the schema of the answer: an object such as `thread`, ``list:thread`` for a page of them,
    `text` or `bytes`. `query` are the parameters behind the path. A route that `streams` answers with server-sent
    events where the body says ``"stream": true``, or always. One that is `multipart` reads its body itself.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    summary: str
    gives: str
    body: Body | None = None
    query: tuple[str, ...] = ()
    streams: Literal["never", "asked", "always"] = "never"
    multipart: bool = False
    tag: str = field(default="")


ROUTES: tuple[Route, ...] = (
    # The first rows are those that are asked for most: the router looks from the top.
    Route("POST", "/threads/{thread_id}/messages", messages.create, "Add a message to a thread.", "message", bodies.MessageCreate),
    Route("GET", "/threads/{thread_id}/messages", messages.list_, "List the messages of a thread.", "list:message", query=(*PAGE, "run_id")),
    Route("GET", "/threads/{thread_id}/runs/{run_id}", runs.get, "Get a run.", "run"),
    Route("POST", "/threads/{thread_id}/runs/{run_id}", runs.update, "Change the metadata of a run.", "run", bodies.MetadataUpdate),
    Route("POST", "/threads/runs", runs.create_with_thread, "Make a thread and run an assistant on it.", "run", bodies.ThreadRunCreate, streams="asked"),
    Route("POST", "/threads/{thread_id}/runs", runs.create, "Run an assistant on a thread.", "run", bodies.RunCreate, query=("include",), streams="asked"),
    Route("GET", "/threads/{thread_id}/runs", runs.list_, "List the runs of a thread.", "list:run", query=PAGE),
    Route("POST", "/threads/{thread_id}/runs/{run_id}/submit_tool_outputs", runs.submit, "Give the outputs, or the approvals, that a run waits for.", "run", bodies.SubmitToolOutputs, streams="asked"),
    Route("POST", "/threads/{thread_id}/runs/{run_id}/cancel", runs.cancel, "Cancel a run.", "run"),
    Route("GET", "/threads/{thread_id}/runs/{run_id}/events", runs.events, "Follow the events of a run, from its beginning or after one of them.", "events", query=("after",), streams="always"),
    Route("GET", "/threads/{thread_id}/runs/{run_id}/steps", run_steps.list_, "List the steps of a run.", "list:run_step", query=(*PAGE, "include")),
    Route("GET", "/threads/{thread_id}/runs/{run_id}/steps/{step_id}", run_steps.get, "Get a step of a run.", "run_step", query=("include",)),
    Route("GET", "/threads/{thread_id}/messages/{message_id}", messages.get, "Get a message.", "message"),
    Route("POST", "/threads/{thread_id}/messages/{message_id}", messages.update, "Change the metadata of a message.", "message", bodies.MetadataUpdate),
    Route("DELETE", "/threads/{thread_id}/messages/{message_id}", messages.delete, "Delete a message.", "message_deleted"),
    Route("POST", "/threads", threads.create, "Make a thread.", "thread", bodies.ThreadCreate),
    Route("GET", "/threads", threads.list_, "List the threads.", "list:thread", query=PAGE),
    Route("GET", "/threads/{thread_id}", threads.get, "Get a thread.", "thread"),
    Route("POST", "/threads/{thread_id}", threads.update, "Change a thread.", "thread", bodies.ThreadUpdate),
    Route("DELETE", "/threads/{thread_id}", threads.delete, "Delete a thread with all that is in it.", "thread_deleted"),
    Route("POST", "/assistants", agents.create, "Make an assistant.", "assistant", bodies.AgentCreate),
    Route("GET", "/assistants", agents.list_, "List the assistants.", "list:assistant", query=PAGE),
    Route("GET", "/assistants/{assistant_id}", agents.get, "Get an assistant.", "assistant"),
    Route("POST", "/assistants/{assistant_id}", agents.update, "Change an assistant: what is left out stays.", "assistant", bodies.AgentUpdate),
    Route("DELETE", "/assistants/{assistant_id}", agents.delete, "Delete an assistant; its threads and runs stay.", "assistant_deleted"),
)  # fmt: skip

PUBLIC = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
"""What is answered without a key; everything else needs one."""
