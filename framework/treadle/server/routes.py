"""The one table of what the server answers: method, path, handler, and what goes in and comes out.

Paths stand behind every mount: ``/``, ``/v1``, ``/openai``, ``/openai/v1``, each also behind
``/api/projects/<tenant>``. The OpenAPI document, the check of who may ask, and the tests walk this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from treadle.server import (
    agents,
    bodies,
    file_bodies,
    files,
    messages,
    run_steps,
    runs,
    threads,
    vector_stores,
    workflows,
)
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
    Route("POST", "/threads/{thread_id}/runs/{run_id}/answers", runs.answer, "Answer a question that a run asks a person.", "run", bodies.AnswerCreate, streams="asked"),
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
    Route("GET", "/workflows", workflows.list_, "List the workflows.", "list:workflow", query=PAGE),
    Route("GET", "/workflows/{workflow_id}", workflows.get, "Get a workflow, by its id or its name.", "workflow"),
    Route("POST", "/workflows/{workflow_id}/runs", workflows.create_run, "Run a workflow.", "run", bodies.WorkflowRunCreate, streams="asked"),
    Route("POST", "/files", files.create, "Upload a file.", "file", multipart=True),
    Route("GET", "/files", files.list_, "List the files.", "list:file", query=("purpose", *PAGE)),
    Route("GET", "/files/{file_id}", files.get, "Get what is known of a file.", "file"),
    Route("DELETE", "/files/{file_id}", files.delete, "Delete a file, and take it out of every vector store.", "file_deleted"),
    Route("GET", "/files/{file_id}/content", files.content, "Get the content of a file.", "bytes"),
    Route("POST", "/vector_stores", vector_stores.create, "Make a vector store.", "vector_store", file_bodies.VectorStoreCreate),
    Route("GET", "/vector_stores", vector_stores.list_, "List the vector stores.", "list:vector_store", query=PAGE),
    Route("GET", "/vector_stores/{vector_store_id}", vector_stores.get, "Get a vector store.", "vector_store"),
    Route("POST", "/vector_stores/{vector_store_id}", vector_stores.update, "Change a vector store: what is left out stays.", "vector_store", file_bodies.VectorStoreUpdate),
    Route("DELETE", "/vector_stores/{vector_store_id}", vector_stores.delete, "Delete a vector store; its files stay.", "vector_store_deleted"),
    Route("POST", "/vector_stores/{vector_store_id}/search", vector_stores.search, "Search a vector store: not possible here yet.", "vector_store_search_results", file_bodies.VectorStoreSearch),
    Route("POST", "/vector_stores/{vector_store_id}/files", vector_stores.add_file, "Put a file into a vector store.", "vector_store_file", file_bodies.VectorStoreFileCreate),
    Route("GET", "/vector_stores/{vector_store_id}/files", vector_stores.list_files, "List the files of a vector store.", "list:vector_store_file", query=(*PAGE, "filter")),
    Route("GET", "/vector_stores/{vector_store_id}/files/{file_id}", vector_stores.get_file, "Get a file of a vector store.", "vector_store_file"),
    Route("POST", "/vector_stores/{vector_store_id}/files/{file_id}", vector_stores.update_file, "Change the attributes of a file in a vector store.", "vector_store_file", file_bodies.VectorStoreFileUpdate),
    Route("DELETE", "/vector_stores/{vector_store_id}/files/{file_id}", vector_stores.delete_file, "Take a file out of a vector store; it stays a file.", "vector_store_file_deleted"),
    Route("GET", "/vector_stores/{vector_store_id}/files/{file_id}/content", vector_stores.file_content, "Get the text of a file in a vector store.", "vector_store_file_content", query=("page",)),
    Route("POST", "/vector_stores/{vector_store_id}/file_batches", vector_stores.create_batch, "Put files into a vector store together.", "file_batch", file_bodies.FileBatchCreate),
    Route("GET", "/vector_stores/{vector_store_id}/file_batches/{file_batch_id}", vector_stores.get_batch, "Get a batch.", "file_batch"),
    Route("POST", "/vector_stores/{vector_store_id}/file_batches/{file_batch_id}/cancel", vector_stores.cancel_batch, "Leave what is not read yet of a batch unread.", "file_batch"),
    Route("GET", "/vector_stores/{vector_store_id}/file_batches/{file_batch_id}/files", vector_stores.list_batch_files, "List the files of a batch.", "list:vector_store_file", query=(*PAGE, "filter")),
)  # fmt: skip

PUBLIC = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
"""What is answered without a key; everything else needs one."""
