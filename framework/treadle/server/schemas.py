"""The JSON Schemas of what the server answers with: objects, lists, what is gone, errors, events.

Rules

1. Every key of an object is required, and no other key may stand there: what is absent is an explicit null. A key
   that the wire leaves out where it has no value is named as optional.
2. Statuses are those of `lifecycle`, bounds those of `wire`: nothing is said twice.
3. A schema is named as the column `gives` of the routes names it; ``list:thread`` is `thread_list`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, get_args

from treadle import lifecycle, wire
from treadle.objects.file import FilePurpose
from treadle.objects.vector_store import LinkError, LinkStatus, StoreStatus

Schema: TypeAlias = dict[str, Any]
Fields: TypeAlias = Mapping[str, Schema]

PLACE = "#/components/schemas/"
"""Where schemas stand in the document, for what refers to them."""

ID_PATTERN = "^[A-Za-z0-9_-]{1,128}$"
"""What an id can look like."""


def schema_name(gives: str) -> str:
    """Give the name of a schema as `gives` of a route says it."""
    kind, colon, item = gives.partition(":")
    return f"{item}_{kind}" if colon else gives


def ref(name: str) -> Schema:
    """Refer to a schema by its name."""
    return {"$ref": PLACE + name}


def closed(said: str, fields: Fields, *, optional: Iterable[str] = ()) -> Schema:
    """Give an object that has these fields and no others; all of them, but for the optional ones."""
    left_out = frozenset(optional)
    return {
        "type": "object",
        "description": said,
        "properties": dict(fields),
        "required": [name for name in fields if name not in left_out],
        "additionalProperties": False,
    }


def nullable(schema: Schema) -> Schema:
    """Give a schema that null fits as well."""
    if "type" not in schema or schema["type"] == "object":
        said = {"description": schema["description"]} if "description" in schema else {}
        bare = {key: value for key, value in schema.items() if key != "description"}
        return {**said, "anyOf": [bare, {"type": "null"}]}
    words = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **words, "type": [schema["type"], "null"]}


def _told(said: str, schema: Schema) -> Schema:
    """Give a reference, or an alternative of references, with a sentence of its own."""
    return {"description": said, **schema}


def _text(said: str, **bounds: Any) -> Schema:
    return {"type": "string", "description": said, **bounds}


def _whole(said: str, **bounds: Any) -> Schema:
    return {"type": "integer", "description": said, **bounds}


def _number(said: str, least: float, most: float) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most, "description": said}


def _flag(said: str) -> Schema:
    return {"type": "boolean", "description": said}


def _word(words: Iterable[str], said: str) -> Schema:
    return {"type": "string", "enum": list(words), "description": said}


def _is(word: str) -> Schema:
    return {"type": "string", "const": word}


def _listed(items: Schema, said: str, **bounds: Any) -> Schema:
    return {"type": "array", "items": items, "description": said, **bounds}


def _open(said: str) -> Schema:
    """Give an object whose keys are the client's."""
    return {"type": "object", "additionalProperties": True, "description": said}


def _either(said: str, *members: Schema) -> Schema:
    return {"description": said, "anyOf": list(members)}


def _id(said: str) -> Schema:
    return _text(said, pattern=ID_PATTERN)


def _at(said: str) -> Schema:
    """Give a time in whole Unix seconds."""
    return _whole(said, minimum=0)


def _at_or_null(said: str) -> Schema:
    return nullable(_at(f"{said}; null where it did not."))


def _count(said: str) -> Schema:
    return _whole(said, minimum=0)


def _stored(object_: str, said: str, fields: Fields, *, optional: Iterable[str] = ()) -> Schema:
    """Give an object that the store keeps."""
    head = {"id": _id("Its id."), "object": _is(object_), "created_at": _at("When it was made.")}
    return closed(said, head | dict(fields), optional=optional)


def _gone(object_: str, noun: str) -> Schema:
    fields = {
        "id": _id("The id that it had."),
        "object": _is(object_),
        "deleted": {"type": "boolean", "const": True},
    }
    return closed(f"Says that {noun} is gone.", fields)


def _list_of(name: str) -> Schema:
    fields = {
        "object": _is("list"),
        "data": _listed(ref(name), "The objects of this page."),
        "first_id": nullable(_text("The id of the first of them.")),
        "last_id": nullable(
            _text("The id of the last of them: `after` for the next page; null on an empty page.")
        ),
        "has_more": _flag("Whether there are more behind this page."),
    }
    return closed("A page of a list.", fields)


METADATA: Schema = {
    "type": "object",
    "description": "Notes of the client: names and texts.",
    "maxProperties": wire.MAX_PAIRS,
    "propertyNames": {"maxLength": wire.MAX_KEY},
    "additionalProperties": {"type": "string", "maxLength": wire.MAX_VALUE},
}

_FILE_IDS = _listed(_text("An id of a file."), "Ids of files.")
_STORE_IDS = _listed(_text("An id of a vector store."), "Ids of vector stores.")

TOOL_RESOURCES: Schema = {
    "type": "object",
    "description": "What its tools may reach; those of other kinds are kept as they were given.",
    "properties": {
        "code_interpreter": closed("Files for code.", {"file_ids": _FILE_IDS}),
        "file_search": closed("Stores to search.", {"vector_store_ids": _STORE_IDS}),
    },
    "additionalProperties": True,
}

_FUNCTION_CALL: Fields = {
    "name": _text("The function's name."),
    "arguments": _text("The arguments as the model wrote them: usually a JSON object, as text."),
}

TOOL: Schema = _either(
    "A tool that the model may call.",
    closed(
        "A function.",
        {
            "type": _is("function"),
            "function": closed(
                "The function as the model is told of it.",
                {
                    "name": _text("Its name."),
                    "description": nullable(_text("What it does.")),
                    "parameters": nullable(_open("The JSON Schema of its arguments.")),
                    "strict": nullable(_flag("Whether the model must keep to the schema.")),
                },
            ),
        },
    ),
    {
        "type": "object",
        "description": "A tool of another kind, as it was declared.",
        "properties": {"type": _text("The kind of tool.", **{"not": {"const": "function"}})},
        "required": ["type"],
        "additionalProperties": True,
    },
)

RESPONSE_FORMAT: Schema = _either(
    "The shape of the answer.",
    _word(("auto", "none"), "The model decides."),
    closed("Text, or any JSON object.", {"type": _word(("text", "json_object"), "Which.")}),
    closed(
        "JSON that fits a schema.",
        {
            "type": _is("json_schema"),
            "json_schema": closed(
                "The schema and its name.",
                {
                    "name": _text("Its name."),
                    "description": nullable(_text("What it is for.")),
                    "schema": _open("The JSON Schema."),
                    "strict": nullable(_flag("Whether the answer must fit.")),
                },
            ),
        },
    ),
)

TOOL_CHOICE: Schema = _either(
    "Which tools the model may, or must, call.",
    _word(("auto", "none", "required"), "Any, none, or at least one."),
    closed(
        "This function.",
        {"type": _is("function"), "function": closed("Which.", {"name": _text("Its name.")})},
    ),
    closed("A tool of this kind.", {"type": _text("The kind of tool.", **{"not": {"const": "function"}})}),
)

TRUNCATION: Schema = closed(
    "How much of the thread the model is sent.",
    {
        "type": _word(
            ("auto", "last_messages"), "`auto` drops from the middle; `last_messages` keeps the end."
        ),
        "last_messages": nullable(_whole("How many messages are kept.", minimum=1)),
    },
)

_SAMPLING: Fields = {
    "temperature": nullable(_number("How random the answer is; null leaves it to the model.", 0, 2)),
    "top_p": nullable(_number("The share of likely tokens to draw from; null leaves it to the model.", 0, 1)),
    "response_format": RESPONSE_FORMAT,
}

USAGE: Schema = closed(
    "Tokens that were spent.",
    {
        "prompt_tokens": _count("Tokens that were sent."),
        "completion_tokens": _count("Tokens that were written."),
        "total_tokens": _count("Both together."),
    },
)

LAST_ERROR: Schema = closed(
    "Why it failed.",
    {
        "code": _word(("server_error", "rate_limit_exceeded", "invalid_prompt"), "What kind of error."),
        "message": _text("What happened."),
    },
)

_FUNCTION = closed(
    "A call that waits.",
    {
        "id": _text("The id of the call: `tool_call_id` of what answers it."),
        "type": _is("function"),
        "function": closed("What is called.", _FUNCTION_CALL),
    },
)

_QUESTION = closed(
    "A question of a node of a workflow.",
    {
        "step": _text("The path of the step that asks: `node` of the answer."),
        "run_id": nullable(_text("The run within that asks; null for the run itself.")),
        "kind": _word(("approval", "choice", "input", "edit"), "What kind of answer it takes."),
        "ask": _text("What is asked."),
        "choices": _listed(_text("A choice."), "What can be chosen."),
        "form": nullable(_open("The JSON Schema of the value.")),
        "value": {"description": "What is approved or edited, any JSON."},
        "assignees": _listed(_text("A person."), "Who is asked."),
        "until": nullable(_at("Until when it can be answered; null for ever.")),
    },
    optional=("kind", "ask", "choices", "form", "value", "assignees"),
)
_ANSWER: Fields = {
    "answer": closed("What people are asked.", {"questions": _listed(_QUESTION, "The questions.")})
}

REQUIRED_ACTION: Schema = _either(
    "What the run waits for. `answer` stands beside the calls where a run of a workflow waits for people, too.",
    closed(
        "Outputs of functions, all of them in one request.",
        {
            "type": _is("submit_tool_outputs"),
            "submit_tool_outputs": closed(
                "The calls.", {"tool_calls": _listed(_FUNCTION, "In the model's order.")}
            ),
            **_ANSWER,
        },
        optional=("answer",),
    ),
    closed("Answers of people.", {"type": _is("answer"), **_ANSWER}),
    closed(
        "Approvals.",
        {
            "type": _is("submit_tool_approval"),
            "submit_tool_approval": closed(
                "The calls.", {"tool_calls": _listed(_FUNCTION, "In the model's order.")}
            ),
            **_ANSWER,
        },
        optional=("answer",),
    ),
)

_DETAIL = _word(("auto", "low", "high"), "How closely the model looks.")
_IMAGE_FILE = closed("Which file.", {"file_id": _text("The file's id."), "detail": _DETAIL})
_IMAGE_URL = closed(
    "Which address.", {"url": _text("An address, or the image itself as a data URL."), "detail": _DETAIL}
)


def _annotation(kind: str, said: str, fields: Fields, *, optional: Iterable[str] = ()) -> Schema:
    place = {
        "text": _text("The piece of the text that it stands for."),
        "start_index": _count("Where the piece begins, in characters."),
        "end_index": _count("Where it ends, exclusive."),
    }
    return closed(
        said, {"type": _is(kind), **place, kind: closed("What is pointed at.", fields, optional=optional)}
    )


ANNOTATION: Schema = _either(
    "A note that points into the text.",
    _annotation(
        "file_citation",
        "A citation.",
        {"file_id": _text("A file."), "quote": _text("The words.")},
        optional=("quote",),
    ),
    _annotation("file_path", "A file that was made.", {"file_id": _text("The file.")}),
    _annotation(
        "url_citation",
        "A web page.",
        {"url": _text("Its address."), "title": _text("Its title.")},
        optional=("title",),
    ),
)


def _part(kind: str, said: str, schema: Schema) -> Schema:
    return closed(said, {"type": _is(kind), kind: schema})


_ANNOTATIONS = _listed(ref("annotation"), "Notes that point into the text.")

CONTENT: Schema = _either(
    "One part of a message.",
    _part(
        "text", "Text.", closed("The text.", {"value": _text("What it says."), "annotations": _ANNOTATIONS})
    ),
    _part("image_file", "A stored image.", _IMAGE_FILE),
    _part("image_url", "An image elsewhere.", _IMAGE_URL),
)

ATTACHMENT: Schema = closed(
    "A file that a message brings along.",
    {
        "file_id": _id("The file's id."),
        "tools": _listed(
            closed("A kind of tool.", {"type": _word(("file_search", "code_interpreter"), "Which.")}),
            "What reads it.",
        ),
    },
    optional=("tools",),
)

ASSISTANT: Schema = _stored(
    "assistant",
    "An agent: a model with instructions and tools.",
    {
        "name": nullable(_text("Its name.")),
        "description": nullable(_text("What it is for.")),
        "model": _text("The model that it speaks with."),
        "instructions": nullable(_text("What the model is told first.")),
        "tools": _listed(ref("tool"), "What the model may call."),
        "tool_resources": TOOL_RESOURCES,
        "metadata": METADATA,
        "reasoning_effort": nullable(_text("How long a reasoning model thinks.")),
        **_SAMPLING,
    },
)

THREAD: Schema = _stored(
    "thread", "A conversation.", {"tool_resources": TOOL_RESOURCES, "metadata": METADATA}
)

MESSAGE: Schema = _stored(
    "thread.message",
    "What was said in a thread.",
    {
        "thread_id": _id("Its thread."),
        "status": _word(lifecycle.MESSAGE, "How far it is."),
        "incomplete_details": nullable(
            closed(
                "Why it is not whole.",
                {
                    "reason": _word(
                        ("content_filter", "max_tokens", "run_cancelled", "run_expired", "run_failed"),
                        "The reason.",
                    )
                },
            )
        ),
        "completed_at": _at_or_null("When it became whole"),
        "incomplete_at": _at_or_null("When it ended before it was whole"),
        "role": _word(("user", "assistant"), "Who says it."),
        "content": _listed(ref("content"), "What it says, in parts."),
        "assistant_id": nullable(_text("The assistant that wrote it.")),
        "run_id": nullable(_text("The run that wrote it.")),
        "attachments": nullable(_listed(ATTACHMENT, "Files that it brings along.")),
        "metadata": METADATA,
    },
)

_OF_WORKFLOWS: Fields = {
    "workflow_id": _id("The workflow that the run is of; `assistant_id` says the same."),
    "workflow": _text("The workflow's name."),
    "version": _whole("The version of the workflow.", minimum=1),
    "parent_run_id": nullable(_id("The run that it is within.")),
    "resumes_at": nullable(_at("When it goes on; null where it waits for no time.")),
    "inputs": _open("What it was given."),
    "output": {"description": "What it gave, any JSON; null until it is completed."},
}
"""What only a run of a workflow has."""

RUN: Schema = _stored(
    "thread.run",
    "An assistant at work on a thread.",
    {
        "thread_id": _id("Its thread."),
        "assistant_id": _id("Its assistant."),
        "status": _word(lifecycle.RUN, "How far it is."),
        "required_action": _told("What it waits for; null unless it does.", nullable(ref("required_action"))),
        "last_error": nullable(LAST_ERROR),
        "expires_at": nullable(_at("When it expires; null where it has ended, or never expires.")),
        "started_at": _at_or_null("When it began"),
        "cancelled_at": _at_or_null("When it was cancelled"),
        "failed_at": _at_or_null("When it failed"),
        "completed_at": _at_or_null("When it was completed"),
        "incomplete_details": nullable(
            closed("Which limit ended it.", {"reason": nullable(_text("The limit's name."))})
        ),
        "model": _text("The model that it speaks with."),
        "instructions": _text("What the model is told first; an empty text where there is nothing."),
        "tools": _listed(ref("tool"), "What the model may call."),
        "tool_resources": TOOL_RESOURCES,
        "metadata": METADATA,
        "usage": nullable(USAGE),
        "max_prompt_tokens": nullable(_whole("The most tokens that it may send.", minimum=1)),
        "max_completion_tokens": nullable(_whole("The most tokens that it may have written.", minimum=1)),
        "truncation_strategy": TRUNCATION,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": _flag("Whether one reply may ask for several tools."),
        **_SAMPLING,
        **_OF_WORKFLOWS,
    },
    optional=_OF_WORKFLOWS,
)

WORKFLOW: Schema = _stored(
    "workflow",
    "A graph of agents, tools and people.",
    {
        "name": _text("Its name."),
        "version": _whole("How often it was changed.", minimum=1),
        "description": nullable(_text("What it is for.")),
        "inputs": _open("The JSON Schema of what a run of it is given."),
        "outputs": _listed(_text("A name."), "The names of what a run of it gives."),
        "metadata": METADATA,
    },
)

_CALL = closed(
    "A call of a function.",
    {
        "id": _text("The id of the call."),
        "type": _is("function"),
        "function": closed(
            "What was called.",
            {**_FUNCTION_CALL, "output": nullable(_text("What it gave; null until that is known."))},
        ),
    },
)

STEP_DETAILS: Schema = _either(
    "What the step did.",
    _part(
        "message_creation",
        "It wrote a message.",
        closed("Which.", {"message_id": _id("The message's id.")}),
    ),
    _part("tool_calls", "It called tools.", _listed(_CALL, "The calls, in the model's order.")),
)

RUN_STEP: Schema = _stored(
    "thread.run.step",
    "One step of a run: a message that was written, or tools that were called.",
    {
        "assistant_id": _id("The run's assistant."),
        "thread_id": _id("The run's thread."),
        "run_id": _id("The run."),
        "type": _word(("message_creation", "tool_calls"), "What kind of step."),
        "status": _word(lifecycle.STEP, "How far it is."),
        "step_details": _told("What it did.", ref("step_details")),
        "last_error": nullable(LAST_ERROR),
        "expired_at": _at_or_null("When its run expired"),
        "cancelled_at": _at_or_null("When it was cancelled"),
        "failed_at": _at_or_null("When it failed"),
        "completed_at": _at_or_null("When it was completed"),
        "metadata": METADATA,
        "usage": nullable(USAGE),
    },
)

FILE: Schema = _stored(
    "file",
    "A stored file.",
    {
        "bytes": _count("Its size."),
        "filename": _text("Its name."),
        "purpose": _word(get_args(FilePurpose), "What it is for."),
        "status": _word(("uploaded", "processed", "error"), "Whether it can be used."),
        "status_details": nullable(_text("What went wrong.")),
        "expires_at": nullable(_at("When it is deleted; null for never.")),
    },
)

_FILE_COUNTS = closed(
    "How many of its files are how far.",
    {
        **{word: _count(f"Files that are {word}.") for word in get_args(LinkStatus)},
        "total": _count("All of them."),
    },
)

_EXPIRES_AFTER = closed(
    "When it expires.",
    {
        "anchor": _is("last_active_at"),
        "days": _whole("Days after it was last used.", minimum=1, maximum=365),
    },
)

_CHUNKING = _either(
    "How its text is cut into pieces.",
    closed(
        "Pieces of one size.",
        {
            "type": _is("static"),
            "static": closed(
                "The size.",
                {
                    "max_chunk_size_tokens": _whole("Tokens of a piece.", minimum=100, maximum=4096),
                    "chunk_overlap_tokens": _count("Tokens that two neighbours share."),
                },
            ),
        },
    ),
    closed("Otherwise.", {"type": _is("other")}),
)

_ATTRIBUTES = {
    "type": "object",
    "description": "Notes of the client that a search can filter by.",
    "maxProperties": wire.MAX_PAIRS,
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}

_LINK_STATUS = _word(get_args(LinkStatus), "How far it is.")

VECTOR_STORE: Schema = _stored(
    "vector_store",
    "Files that can be searched.",
    {
        "name": _text("Its name; an empty text where it has none."),
        "description": nullable(_text("What it is for.")),
        "usage_bytes": _count("What it takes."),
        "file_counts": _FILE_COUNTS,
        "status": _word(get_args(StoreStatus), "Whether it can be searched."),
        "expires_after": nullable(_EXPIRES_AFTER),
        "expires_at": nullable(_at("When it expires; null for never.")),
        "last_active_at": nullable(_at("When it was last used.")),
        "metadata": METADATA,
    },
)

VECTOR_STORE_FILE: Schema = _stored(
    "vector_store.file",
    "A file in a vector store; its id is the file's.",
    {
        "usage_bytes": _count("What it takes in the store."),
        "vector_store_id": _id("The store."),
        "status": _LINK_STATUS,
        "last_error": nullable(
            closed(
                "Why it cannot be searched.",
                {
                    "code": _word(get_args(LinkError.model_fields["code"].annotation), "What kind of error."),
                    "message": _text("What happened."),
                },
            )
        ),
        "chunking_strategy": _CHUNKING,
        "attributes": nullable(_ATTRIBUTES),
    },
)

FILE_BATCH: Schema = _stored(
    "vector_store.files_batch",
    "Files that were put into a vector store together.",
    {"vector_store_id": _id("The store."), "status": _LINK_STATUS, "file_counts": _FILE_COUNTS},
)

_PIECE = closed("A piece of text.", {"type": _is("text"), "text": _text("What it says.")})
_PAGED: Fields = {
    "has_more": _flag("Whether there is more."),
    "next_page": nullable(_text("What asks for the next page.")),
}

FILE_CONTENT: Schema = closed(
    "The text of a file in a vector store.",
    {
        "object": _is("vector_store.file_content.page"),
        "data": _listed(_PIECE, "The text, in pieces."),
        **_PAGED,
    },
)

SEARCH_RESULTS: Schema = closed(
    "What a search found, the best first.",
    {
        "object": _is("vector_store.search_results.page"),
        "search_query": _listed(_text("A query."), "What was searched for."),
        "data": _listed(
            closed(
                "A piece that fits.",
                {
                    "file_id": _id("The file."),
                    "filename": _text("Its name."),
                    "score": _number("How well it fits.", 0, 1),
                    "attributes": nullable(_ATTRIBUTES),
                    "content": _listed(_PIECE, "The text."),
                },
            ),
            "The pieces.",
        ),
        **_PAGED,
    },
)

_PROBLEM: Fields = {
    "message": _text("What is wrong, for people."),
    "type": _word(("invalid_request_error", "rate_limit_error", "server_error"), "Whose fault it is."),
    "param": nullable(_text("The field at fault.")),
    "code": nullable(_text("A word that programs look for.")),
}

ERROR: Schema = closed("Every answer that is no success.", {"error": closed("What went wrong.", _PROBLEM)})
STREAM_ERROR: Schema = closed("What the data of an `error` event is: the stream ends with it.", _PROBLEM)

_DELTA_TEXT = {
    "index": _count("Which part of the content."),
    "type": _is("text"),
    "text": closed("The next piece.", {"value": _text("The piece."), "annotations": _ANNOTATIONS}),
}

MESSAGE_DELTA: Schema = closed(
    "The next piece of a message's text.",
    {
        "id": _id("The message."),
        "object": _is("thread.message.delta"),
        "delta": closed(
            "What is new.",
            {
                "role": _is("assistant"),
                "content": _listed(closed("A piece of a part.", _DELTA_TEXT), "Pieces, by the part's index."),
            },
            optional=("role",),
        ),
    },
)

_DELTA_CALL = closed(
    "A piece of a call.",
    {
        "index": _count("Which call."),
        "id": _text("The call's id: with the first piece only."),
        "type": _is("function"),
        "function": closed(
            "What is called.",
            {
                "name": _text("The function's name: with the first piece only."),
                "arguments": _text("The next piece of the arguments."),
                "output": nullable(_text("Null: the output comes with the step.")),
            },
            optional=("name", "output"),
        ),
    },
    optional=("id",),
)

RUN_STEP_DELTA: Schema = closed(
    "The next piece of a step's calls.",
    {
        "id": _id("The step."),
        "object": _is("thread.run.step.delta"),
        "delta": closed(
            "What is new.",
            {
                "step_details": _part(
                    "tool_calls", "The calls.", _listed(_DELTA_CALL, "Pieces, by the call's index.")
                )
            },
        ),
    },
)

EVENTS: Mapping[str, str] = {
    "thread.created": "thread",
    "thread.run.created": "run",
    **{f"thread.run.{status}": "run" for status in lifecycle.RUN},
    "thread.run.step.created": "run_step",
    **{f"thread.run.step.{status}": "run_step" for status in lifecycle.STEP},
    "thread.run.step.delta": "run_step_delta",
    "thread.message.created": "message",
    **{f"thread.message.{status}": "message" for status in lifecycle.MESSAGE},
    "thread.message.delta": "message_delta",
    "error": "stream_error",
}
"""The events of a stream, to the schema of their data."""

_OF_EVENTS: Mapping[str, Schema] = {
    "thread": THREAD,
    "run": RUN,
    "run_step": RUN_STEP,
    "run_step_delta": RUN_STEP_DELTA,
    "message": MESSAGE,
    "message_delta": MESSAGE_DELTA,
    "stream_error": STREAM_ERROR,
}


def _event(names: Iterable[str], data: Schema) -> Schema:
    """Give an event as its lines say it, each a field."""
    fields = {
        "event": _word(names, "What happened."),
        "data": data,
        "id": _text("The place to go on after; committed events have one.", pattern=r"^[0-9]+(\.[0-9]+)*$"),
    }
    return closed(data["description"], fields, optional=("id",))


def _data(name: str) -> Schema:
    said = _OF_EVENTS[name]["description"]
    return _text(said, contentMediaType="application/json", contentSchema=ref(name))


EVENT: Schema = _either(
    "A server-sent event: a line `event: <name>`, a line `data: <JSON>`, perhaps a line `id: <number>`, and an empty "
    "line. `done` is the last one. Lines `: keepalive` mean nothing.",
    *(_event([event for event in EVENTS if EVENTS[event] == name], _data(name)) for name in _OF_EVENTS),
    _event(["done"], {"type": "string", "const": "[DONE]", "description": "The stream ends."}),
)

_SINGLE: Mapping[str, Schema] = {
    "assistant": ASSISTANT,
    "thread": THREAD,
    "message": MESSAGE,
    "run": RUN,
    "run_step": RUN_STEP,
    "file": FILE,
    "vector_store": VECTOR_STORE,
    "vector_store_file": VECTOR_STORE_FILE,
    "workflow": WORKFLOW,
}
"""What is listed as well."""

SCHEMAS: Mapping[str, Schema] = {
    **_SINGLE,
    **{f"{name}_list": _list_of(name) for name in _SINGLE},
    "file_batch": FILE_BATCH,
    "vector_store_file_content": FILE_CONTENT,
    "vector_store_search_results": SEARCH_RESULTS,
    "assistant_deleted": _gone("assistant.deleted", "an assistant"),
    "thread_deleted": _gone("thread.deleted", "a thread"),
    "message_deleted": _gone("thread.message.deleted", "a message"),
    "file_deleted": _gone("file", "a file"),
    "vector_store_deleted": _gone("vector_store.deleted", "a vector store"),
    "vector_store_file_deleted": _gone("vector_store.file.deleted", "a file's place in a vector store"),
    "tool": TOOL,
    "content": CONTENT,
    "annotation": ANNOTATION,
    "required_action": REQUIRED_ACTION,
    "step_details": STEP_DETAILS,
    "message_delta": MESSAGE_DELTA,
    "run_step_delta": RUN_STEP_DELTA,
    "event": EVENT,
    "error": ERROR,
    "stream_error": STREAM_ERROR,
}
"""Every schema, by the name that refers to it."""
