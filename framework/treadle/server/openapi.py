"""The OpenAPI document: generated from the table of routes, the models of bodies and the schemas of answers.

It lies in ``schemas/openapi.json``, is served at ``/openapi.json`` and is what ``/docs`` shows. Nothing of it is
written by hand but the words for people in the tables below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast, get_args

from pydantic.json_schema import models_json_schema

from treadle import __version__
from treadle.objects.file import FilePurpose
from treadle.server import bodies, files
from treadle.server.problems import NOUNS
from treadle.server.routes import ROUTES, Body, Route
from treadle.server.runs import PLACE as PLACE_OF_EVENT
from treadle.server.schemas import ID_PATTERN, PLACE, SCHEMAS, Schema, nullable, ref, schema_name

_PARAMETER = re.compile(r"\{(\w+)\}")

ABOUT = """\
Agents, threads, messages and runs, as clients of the OpenAI Assistants API v2 and of Azure AI Foundry Agent Service
speak to them. On the wire an agent is called an assistant.

Every path stands behind each of the servers below; the one with a tenant keeps its objects apart from all others.
Every error has the same form. `api-version` and `OpenAI-Beta` may be sent and change nothing.
An empty parameter behind a path counts as none.
"""

TAGS: Mapping[str, str] = {
    "assistants": "Agents: a model with instructions and tools. Those that are declared in files are listed as well.",
    "threads": "Conversations.",
    "messages": "What was said in a thread.",
    "runs": "Assistants at work on a thread. A thread has one active run at a time.",
    "run_steps": "What a run did, step by step.",
    "workflows": "Graphs of agents, tools and people. They are declared in files or in code, and run here like assistants.",
    "files": "Stored files.",
    "vector_stores": "Files that can be searched.",
}
"""What each group of operations is about, in the order in which people read them."""

NOTES: Mapping[str, str] = {
    "runs_create": "A thread that has an active run already is refused with 400.",
    "runs_submit": (
        "All calls that wait are answered in one request; the run goes on at once. A run of a workflow shows the calls of the runs "
        "within it, and takes their outputs."
    ),
    "runs_answer": (
        "The run shows its questions under `required_action.answer`. An approval takes a `decision`, a choice a `choice`, an input or "
        "an edit a `value`. Other questions stay open."
    ),
    "workflows_create_run": (
        "Without a thread a new one is made. Without `inputs` the last text of a user is the one text that the workflow requires, "
        "where it requires just that. The same is done by a run on a thread whose `assistant_id` is the workflow's id or name."
    ),
    "runs_cancel": "The answer shows the run as `cancelling`; it ends as `cancelled`.",
    "runs_events": (
        "Any number of readers follow a run, and a run that has ended is played from its beginning. Each committed "
        "event has an `id:`; a reader that was cut off sends the last one as `Last-Event-ID`, or as `after`, and "
        "misses nothing. Pieces of text have no id and are sent to those who listen while they are written."
    ),
    "messages_create": "Refused with 400 while a run of the thread is active.",
    "messages_delete": "Refused with 400 while a run of the thread is active.",
}
"""What a person must know beyond the summary, by operation."""

_PAGE: Mapping[str, Schema] = {
    "limit": {
        "description": "How many objects a page has.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    },
    "order": {
        "description": "By the time they were made: the newest or the oldest first.",
        "schema": {"type": "string", "enum": ["desc", "asc"], "default": "desc"},
    },
    "after": {"description": "The id behind which the page begins.", "schema": {"type": "string"}},
    "before": {"description": "The id before which the page ends.", "schema": {"type": "string"}},
}

QUERY: Mapping[str, Schema] = {
    **_PAGE,
    "run_id": {"description": "Only what this run wrote.", "schema": {"type": "string"}},
    "include": {
        "name": "include[]",
        "description": "Parts that are left out unless they are asked for; repeated, or joined by commas.",
        "schema": {"type": "array", "items": {"type": "string"}},
    },
    "page": {
        "description": "Which page: what `next_page` of the page before it said.",
        "schema": {"type": "string"},
    },
    "purpose": {"description": "Only files of this purpose.", "schema": {"type": "string"}},
    "filter": {
        "description": "Only files of this status.",
        "schema": {"type": "string", "enum": ["in_progress", "completed", "failed", "cancelled"]},
    },
}
"""The parameters behind a path, by the name in the table of routes."""

_LIMIT_OF_FILES: Schema = {
    "description": "How many objects a page has.",
    "schema": {"type": "integer", "minimum": 1, "maximum": files.MOST_LISTED, "default": files.MOST_LISTED},
}

HEADERS: Mapping[str, Schema] = {
    "x-treadle-on-busy": {
        "description": "What becomes of this where a run of the thread is active: refused, or it waits its turn.",
        "schema": {"type": "string", "enum": ["reject", "queue"]},
    },
    "x-treadle-on-disconnect": {
        "description": "What becomes of the run when the reader of its events goes away.",
        "schema": {"type": "string", "enum": ["continue", "cancel"]},
    },
}
"""Headers that change what is done."""

_MAY_WAIT = ("messages_create", "runs_create", "workflows_create_run")

_RESUME = (
    {
        "name": "after",
        "in": "query",
        "description": "The id of the last event that was read.",
        "schema": {"type": "string", "pattern": f"^{PLACE_OF_EVENT}$"},
    },
    {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The same, as browsers send it when they come back; it counts before `after`.",
        "schema": {"type": "string", "pattern": f"^({PLACE_OF_EVENT})?$"},
    },
)

FILE_FORM: Schema = {
    "type": "object",
    "description": "A file and what it is for.",
    "properties": {
        "file": {
            "type": "string",
            "description": "The file's bytes.",
            "contentMediaType": "application/octet-stream",
        },
        "purpose": {"type": "string", "enum": list(get_args(FilePurpose)), "description": "What it is for."},
        "filename": {"type": "string", "description": "Its name, where the part of the file has none."},
        "expires_after[anchor]": {
            "type": "string",
            "const": "created_at",
            "description": "From when days are counted.",
        },
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": 3600,
            "maximum": 2_592_000,
            "description": "How long it is kept.",
        },
    },
    "required": ["file", "purpose"],
    "additionalProperties": False,
}

ERRORS: Mapping[str, str] = {
    "400": "The request does not fit, or not now.",
    "401": "No key, or one that is not known.",
    "403": "The host or the page that asks is not allowed.",
    "404": "There is no object of this id.",
    "413": "The body is too long.",
    "415": "The body does not say that it is JSON.",
    "429": "Too many requests; `Retry-After` says when to ask again.",
    "500": "The server failed.",
    "503": "Not now; `Retry-After` says when to ask again.",
}
"""What is answered besides success, always in one form."""

WORDS: Mapping[str, str] = {
    "RunFields.instructions": "Told to the model in place of the assistant's instructions.",
    "RunFields.model": "The model, in place of the assistant's.",
    "RunFields.tools": "What the model may call, in place of the assistant's tools.",
    "RunFields.assistant_id": "The assistant that works, or a workflow, which is run like one.",
    "additional_instructions": "Told to the model behind the instructions.",
    "additional_messages": "Messages that are added to the thread before the run begins.",
    "thread": "The thread to make.",
    "stream": "Whether the answer is the run's events.",
    "messages": "The thread's first messages.",
    "MessageCreate.content": "What it says: a text, or parts.",
    "MessageCreate.attachments": "Files that it brings along.",
    "Attachment.file_id": "The file's id.",
    "Attachment.tools": "Who may read it.",
    "AttachmentTool.type": "What reads it.",
    "TextPart.text": "What it says.",
    "ImageFilePart.image_file": "Which file.",
    "ImageFile.file_id": "The file's id.",
    "ImageUrlPart.image_url": "Which address.",
    "ImageUrl.url": "The address, or the image itself as a data URL.",
    "detail": "How closely the model looks.",
    "FunctionTool.function": "The function as the model is told of it.",
    "FunctionDefinition.name": "Its name.",
    "FunctionDefinition.description": "What it does.",
    "FunctionDefinition.parameters": "The JSON Schema of its arguments.",
    "FunctionDefinition.strict": "Whether the model must keep to the schema.",
    "OtherTool.type": "The kind of tool.",
    "ChosenTool.type": "The kind of tool.",
    "ChosenTool.function": "Which function, where it is one.",
    "ChosenFunction.name": "The function's name.",
    "ResponseFormat.type": "Text, any JSON object, or JSON that fits a schema.",
    "ResponseFormat.json_schema": "The schema and its name.",
    "JsonSchemaFormat.name": "Its name.",
    "JsonSchemaFormat.description": "What it is for.",
    "JsonSchemaFormat.schema": "The JSON Schema.",
    "JsonSchemaFormat.strict": "Whether the answer must fit.",
    "TruncationStrategy.type": "`auto` drops from the middle; `last_messages` keeps the end.",
    "TruncationStrategy.last_messages": "How many messages are kept.",
    "AnswerCreate.node": "The node that asks, or the path of its step; it may be left out where one question waits.",
    "AnswerCreate.decision": "What becomes of an approval.",
    "AnswerCreate.choice": "One of the choices.",
    "AnswerCreate.value": "What fits the form of the question.",
    "AnswerCreate.comment": "A remark; it is kept with the answer.",
    "WorkflowRunCreate.thread_id": "The thread to run on; a new one without it.",
    "WorkflowRunCreate.messages": "Messages that are added to the thread before the run begins.",
    "WorkflowRunCreate.model": "The model, in place of every one that the workflow and its agents name.",
    "tool_outputs": "Outputs of all calls that wait.",
    "tool_approvals": "Decisions on all calls that wait for one.",
    "tool_call_id": "The id of the call.",
    "ToolOutput.output": "What it gave.",
    "ToolOutput.type": "Accepted, and not used.",
    "ToolApproval.approve": "Whether it may be called.",
    "ToolApproval.headers": "Headers for the tool's server.",
}
"""What fields of bodies are for, by model and field, or by field alone."""

_ANSWERS = tuple(SCHEMAS[name] for name in ("run", "assistant", "message", "thread", "vector_store", "file"))

Json = dict[str, Any]


@cache
def document() -> Json:
    """Give the document of every route; it is not to be changed."""
    return document_of(ROUTES)


def document_of(routes: Sequence[Route]) -> Json:
    """Give the document of some routes."""
    found: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "treadle",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": _servers(),
        "security": [{"bearer": []}, {"api_key": []}],
        "tags": _tags(routes),
        "paths": _paths(routes),
        "components": {
            "schemas": {**SCHEMAS, **_bodies(routes)},
            "responses": {f"error_{status}": _error(status, said) for status, said in ERRORS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`Authorization: Bearer <key>`.",
                },
                "api_key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "api-key",
                    "description": "The same key.",
                },
            },
        },
    }
    return found


def text() -> str:
    """Give the document as it is written to its file."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def tag(route: Route) -> str:
    """Give the noun that an operation is about, as the wire says it."""
    if route.tag:
        return route.tag
    module = route.handler.__module__.rpartition(".")[2]
    singular = module.removesuffix("s")
    return f"{NOUNS[singular]}s" if singular in NOUNS else module


def operation_id(route: Route) -> str:
    """Give the name by which generated clients call an operation."""
    return f"{tag(route)}_{getattr(route.handler, '__name__', '').rstrip('_')}"


def _servers() -> list[Json]:
    tenant = {"tenant": {"default": "default", "description": "Whose objects are meant."}}
    mounts = {
        "/": "The tenant of the key.",
        "/v1": "The same.",
        "/openai": "The same.",
        "/openai/v1": "The same.",
    }
    plain = [{"url": url, "description": said} for url, said in mounts.items()]
    return [*plain, {"url": "/api/projects/{tenant}", "description": "This tenant.", "variables": tenant}]


def _tags(routes: Iterable[Route]) -> list[Json]:
    used = {tag(route) for route in routes}
    return [{"name": name, "description": said} for name, said in TAGS.items() if name in used]


def _paths(routes: Sequence[Route]) -> Json:
    found: Json = {}
    for route in sorted(routes, key=_place):
        operation = _operation(route)
        links = _links(route, routes)
        if links:
            operation["responses"]["200"]["links"] = links
        found.setdefault(route.path, {})[route.method.lower()] = operation
    return found


def _links(route: Route, routes: Iterable[Route]) -> Json:
    """Tell what can be asked of an object that was made: the operations whose last id is its own."""
    if "create" not in operation_id(route):
        return {}
    own = f"{route.gives}_id"
    links: Json = {}
    for target in routes:
        names = _PARAMETER.findall(target.path)
        if names[-1:] == [own]:
            parameters = {name: _source(name, own, route) for name in names}
            links[operation_id(target)] = {"operationId": operation_id(target), "parameters": parameters}
    return links


def _source(name: str, own: str, route: Route) -> str:
    """Say where a parameter is found once an object was made."""
    if name == own:
        return "$response.body#/id"
    return f"$request.path.{name}" if f"{{{name}}}" in route.path else f"$response.body#/{name}"


def _place(route: Route) -> tuple[int, int, str]:
    return list(TAGS).index(tag(route)), route.path.count("/"), route.path


def _operation(route: Route) -> Json:
    name = operation_id(route)
    found: Json = {"operationId": name, "tags": [tag(route)], "summary": route.summary}
    if name in NOTES:
        found["description"] = NOTES[name]
    parameters = [*_of_path(route), *_of_query(route), *_of_headers(route)]
    if parameters:
        found["parameters"] = parameters
    body = _body(route)
    if body:
        found["requestBody"] = body
    found["responses"] = _responses(route)
    return found


def _of_path(route: Route) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": f"The id of the {name.removesuffix('_id').replace('_', ' ')}.",
            "schema": {"type": "string", "pattern": ID_PATTERN},
        }
        for name in _PARAMETER.findall(route.path)
    ]


def _of_query(route: Route) -> list[Json]:
    if route.streams == "always":
        return [_of_text(parameter) for parameter in _RESUME]
    known = QUERY if operation_id(route) != "files_list" else {**QUERY, "limit": _LIMIT_OF_FILES}
    return [_of_text({"name": name, "in": "query", **known[name]}) for name in route.query]


def _of_text(parameter: Mapping[str, Any]) -> Json:
    """Give a parameter; an empty text counts as none, also where it would not fit."""
    schema = parameter["schema"]
    fits = schema["type"] == "array" or not {"enum", "pattern", "minimum"} & schema.keys()
    return dict(parameter) if fits or parameter["in"] != "query" else {**parameter, "allowEmptyValue": True}


def _of_headers(route: Route) -> list[Json]:
    wanted = ["x-treadle-on-busy"] if operation_id(route) in _MAY_WAIT else []
    wanted += ["x-treadle-on-disconnect"] if route.streams != "never" else []
    return [{"name": name, "in": "header", **HEADERS[name]} for name in wanted]


def _body(route: Route) -> Json | None:
    if route.multipart:
        return {"required": True, "content": {"multipart/form-data": {"schema": FILE_FORM}}}
    if route.body is None:
        return None
    is_required = any(field.is_required() for field in route.body.model_fields.values())
    return {"required": is_required, "content": {"application/json": {"schema": ref(route.body.__name__)}}}


def _responses(route: Route) -> Json:
    found: Json = {"200": {"description": _given(route), "content": _content(route)}}
    for status in ERRORS:
        if _can_be(status, route):
            found[status] = {"$ref": f"#/components/responses/error_{status}"}
    return found


def _can_be(status: str, route: Route) -> bool:
    match status:
        case "404":
            return "{" in route.path or route.body is not None
        case "413":
            return route.method != "GET"
        case "415":
            return route.method == "POST"
        case _:
            return True


def _given(route: Route) -> str:
    if route.streams == "always":
        return "The events."
    if route.streams == "asked":
        return f'The {route.gives}, or its events where the body says `"stream": true`.'
    return "What was asked for."


def _content(route: Route) -> Json:
    stream = {"text/event-stream": {"schema": ref("event")}}
    match route.gives:
        case "events":
            return stream
        case "bytes":
            return {"application/octet-stream": {}}
        case "text":
            return {"text/plain": {"schema": {"type": "string"}}}
        case _:
            found: Json = {"application/json": {"schema": ref(schema_name(route.gives))}}
            return found if route.streams == "never" else {**found, **stream}


def _error(status: str, said: str) -> Json:
    found: Json = {"description": said, "content": {"application/json": {"schema": ref("error")}}}
    if status in ("429", "503"):
        waits = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}
        found["headers"] = {"Retry-After": {"required": True, **waits}}
    return found


def _bodies(routes: Iterable[Route]) -> Json:
    """Give the schemas of the bodies and of what they are made of."""
    models = {route.body.__name__: route.body for route in routes if route.body is not None}
    wanted = [(models[name], "validation") for name in sorted(models)]
    _, found = models_json_schema(cast("Any", wanted), ref_template=PLACE + "{model}")
    known = {model.__name__: model for model in _below(bodies.Body)}
    return {name: _described(known[name], _tidy(schema)) for name, schema in found.get("$defs", {}).items()}


def _below(model: Body) -> list[Body]:
    return [model, *(lower for direct in model.__subclasses__() for lower in _below(direct))]


def _tidy(node: Any) -> Any:
    """Write null beside a type, and leave out what says a field's name again or that null is its default."""
    if isinstance(node, list):
        return [_tidy(item) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    found = {
        key: _tidy(value)
        for key, value in cast("Json", node).items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    members: Any = found.get("anyOf")
    if isinstance(members, list) and members[1:] == [{"type": "null"}]:
        del found["anyOf"]
        return nullable({**members[0], **found})
    return found


def _described(model: Body, schema: Json) -> Json:
    """Give the schema of a body with a sentence at each field."""
    for name, field in schema.get("properties", {}).items():
        if "const" not in field:
            field.setdefault("description", _said(model, name))
    return schema


def _said(model: Body, name: str) -> str:
    """Say what a field is for: in its own words, else in those of the answers that have a field of this name."""
    own = (f"{base.__name__.lstrip('_')}.{name}" for base in model.__mro__)
    told = next((WORDS[key] for key in (*own, name) if key in WORDS), None)
    answered = (answer["properties"].get(name, {}).get("description") for answer in _ANSWERS)
    return told or next((said for said in answered if said), "")
