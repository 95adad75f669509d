"""A model request as the JSON body of chat completions. Pure: it knows no library and opens no connection."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Never, cast

from treadle.errors import ProviderError
from treadle.objects.agent import ANY_OBJECT, ModelOptions
from treadle.objects.image import detail_of, is_data_url, source_of
from treadle.objects.message import ImageFilePart, ImageUrlPart, Message, TextPart, estimate_tokens
from treadle.objects.record import JsonSchema, JsonValue
from treadle.providers.base import ModelRequest, ToolDefinition
from treadle.text import clean

Json = dict[str, JsonValue]
CallIds = Mapping[tuple[int, int], str]

OTHERS_ID_CHARACTERS = 16 * 1024
"""Some gateways keep what a model needs again in the id of its call, so a long id is not yet a broken one."""
QUOTED_CHARACTERS = 2000
_MAX_DEPTH = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_STRANGE = re.compile(r"[^A-Za-z0-9_-]+")
_ALTERNATE = re.compile(r"\balternat", re.IGNORECASE)

_SURROGATE = re.compile("[\ud800-\udfff]")
_REFUSED = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|not (?:supported|permitted|allowed)|extra", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where endpoints of the same protocol differ.

    `max_tokens_field` is the name of the limit, `stream_usage` says whether a stream counts tokens, `alternates`
    whether user and assistant must take turns; a longer call id than `max_id_characters` is not taken.
    """

    max_tokens_field: str = "max_completion_tokens"
    stream_usage: bool = True
    alternates: bool = False
    max_id_characters: int = OTHERS_ID_CHARACTERS


OPENAI_DIALECT = Dialect("max_completion_tokens", max_id_characters=40)


def clean_text(text: str) -> str:
    """Give the text with lone surrogates and NUL replaced by U+FFFD, and surrogate pairs joined."""
    if text.isascii():
        return clean(text)
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return clean(text)


def chat_body(request: ModelRequest, dialect: Dialect) -> Json:
    """Give the body of a streaming chat completion.

    Shapes: `request.options.extra` is laid over the rest, key by key.
    Errors: ProviderError where a message shows an image without content, or a result whose call is missing.
    """
    body: Json = {"model": request.model, "messages": chat_messages(request, dialect), "stream": True}
    if dialect.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body |= _tools_body(request)
    if request.output_schema is not None:
        body["response_format"] = response_format(request.output_schema, strict=request.output_strict)
    return body | sampling(request.options, dialect) | request.options.extra


def chat_messages(request: ModelRequest, dialect: Dialect | None = None) -> list[Json]:
    """Give the instructions and the window as chat messages that every endpoint takes.

    An endpoint that refuses a part of the history refuses every later turn of the thread. So what a model once
    wrote is sent again in a form that can be read: names as names, arguments as an object; and an assistant row
    that says nothing is left out.
    """
    dialect = dialect or Dialect()
    ids = call_ids(request.messages, most=dialect.max_id_characters)
    known = {tool.name for tool in request.tools}
    rows = [
        _row(message, ids, known, request.files) for message in request.messages if not _is_empty(message)
    ]
    if dialect.alternates:
        rows = _alternating(rows)
    if not request.instructions:
        return rows
    return [{"role": "system", "content": clean_text(request.instructions)}, *rows]


def _is_empty(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls and not message.plain.strip()


def _alternating(rows: Sequence[Json]) -> list[Json]:
    """Join neighbours of one role: a run that failed leaves a question behind, and the next one follows it."""
    joined: list[Json] = []
    for row in rows:
        last: Json = joined[-1] if joined else {}
        if row["role"] == "tool" or last.get("role") != row["role"] or "tool_calls" in (*last, *row):
            joined.append(row)
        else:
            joined[-1] = last | {"content": _joined(last["content"], row["content"])}
    return joined


def _joined(first: str | list[Json], second: str | list[Json]) -> str | list[Json]:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    parts = [[{"type": "text", "text": c}] if isinstance(c, str) else c for c in (first, second)]
    return [*parts[0], *parts[1]]


def call_ids(messages: Iterable[Message], *, most: int = OTHERS_ID_CHARACTERS) -> CallIds:
    """Give each call of the window the id that it is sent with: its own, unless that is empty, taken or too long.

    Shapes: (seq of the assistant row, index of the call) to id.
    """
    ids: dict[tuple[int, int], str] = {}
    taken: set[str] = set()
    for message in messages:
        for index, call in enumerate(message.tool_calls):
            id_ = clean_text(call.id)
            if not id_ or id_ in taken or len(id_) > most:
                id_ = free_id(f"call_{message.seq}_{index}", taken)
            taken.add(id_)
            ids[message.seq, index] = id_
    return ids


def free_id(wanted: str, taken: set[str]) -> str:
    """Give the wanted id, with the first number appended that makes it free."""
    id_, number = wanted, 1
    while id_ in taken:
        number += 1
        id_ = f"{wanted}_{number}"
    return id_


def _row(
    message: Message, ids: CallIds, known: Container[str], files: Mapping[str, tuple[str, bytes]]
) -> Json:
    if message.role == "user":
        return {"role": "user", "content": _user_content(message, files)}
    if message.role == "assistant":
        return _assistant_row(message, ids, known)
    return _tool_row(message, ids)


def _user_content(message: Message, files: Mapping[str, tuple[str, bytes]]) -> str | list[Json]:
    # Many endpoints take only a string, so parts are sent as parts only where there is an image among them.
    if all(isinstance(part, TextPart) for part in message.content):
        return clean_text(message.plain)
    return [_part(part, message, files) for part in message.content]


def _part(
    part: TextPart | ImageFilePart | ImageUrlPart, message: Message, files: Mapping[str, tuple[str, bytes]]
) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": clean_text(part.text)}
    source = source_of(part)
    file = files.get(source)
    if file is not None:
        media_type, content = file
        return _image(f"data:{media_type};base64,{base64.b64encode(content).decode()}", detail_of(part))
    if is_data_url(source):
        return _image(source, detail_of(part))
    what = "file" if isinstance(part, ImageFilePart) else "image"
    raise ProviderError(f"message '{message.id}' shows {what} '{source[:200]}', whose content is missing")


def _image(url: str, detail: str) -> Json:
    image = {"url": url} if detail == "auto" else {"url": url, "detail": detail}
    return {"type": "image_url", "image_url": image}


def _assistant_row(message: Message, ids: CallIds, known: Container[str]) -> Json:
    if not message.tool_calls:
        return {"role": "assistant", "content": clean_text(message.plain)}
    calls = [
        {
            "id": ids[message.seq, index],
            "type": "function",
            "function": {"name": sent_name(call.name, known), "arguments": sent_arguments(call.arguments)},
        }
        for index, call in enumerate(message.tool_calls)
    ]
    return {"role": "assistant", "content": clean_text(message.plain) or None, "tool_calls": calls}


def sent_name(name: str, known: Container[str] = ()) -> str:
    """Give the name of a call as an endpoint takes it; a model may have called a tool that cannot exist."""
    if name in known or _NAME.match(name):
        return name
    return _STRANGE.sub("_", name)[:64] or "_"


def sent_arguments(arguments: str) -> str:
    """Give the arguments of a call as an endpoint takes them: the text of a JSON object.

    Malformed ones are quoted in an object, bounded, so that the model sees what it wrote beside the error that it
    got: many endpoints read the arguments of the whole history and refuse it for good where they cannot. An empty
    text is an empty object, as it was for the tool.
    """
    text = clean_text(arguments)
    if not text.strip():
        return "{}"
    if _is_object(text):
        return text
    quoted = (
        text if len(text) <= QUOTED_CHARACTERS else f"{text[:QUOTED_CHARACTERS]}… [{len(text)} characters]"
    )
    return json.dumps({"malformed_arguments": quoted}, ensure_ascii=False)


def _is_object(text: str) -> bool:
    try:
        value: object = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    deep = text.count("{") + text.count("[") > _MAX_DEPTH
    return isinstance(value, dict) and not (deep and _is_deeper(cast("object", value), _MAX_DEPTH))


def _no_number(name: str) -> Never:
    msg = f"{name} is not a number of JSON"
    raise ValueError(msg)


def _is_deeper(value: object, depth: int) -> bool:
    """Tell whether containers nest deeper than that; the recursion ends there too."""
    if isinstance(value, dict):
        inner = cast("Iterable[object]", value.values())
    elif isinstance(value, list):
        inner = cast("Iterable[object]", value)
    else:
        return False
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in inner)


def _tool_row(message: Message, ids: CallIds) -> Json:
    id_ = ids.get((message.reply_seq or 0, message.call_index or 0))
    if id_ is None:
        raise ProviderError(
            f"message '{message.id}' is the result of call {message.call_index} of row {message.reply_seq}, "
            "which is not among the messages that are sent"
        )
    return {"role": "tool", "tool_call_id": id_, "content": clean_text(message.plain)}


def _tools_body(request: ModelRequest) -> Json:
    body: Json = {"tools": [tool_body(tool) for tool in request.tools]}
    # `auto` is what endpoints do by default, and some refuse to be told so.
    if request.tool_choice in ("none", "required"):
        body["tool_choice"] = request.tool_choice
    elif request.tool_choice != "auto":
        body["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
    if request.options.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.options.parallel_tool_calls
    return body


def tool_body(tool: ToolDefinition) -> Json:
    """Give a tool as chat completions take it."""
    function: Json = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = clean_text(tool.description)
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def response_format(schema: JsonSchema, *, strict: bool) -> Json:
    """Give the demand that the answer fits a JSON Schema; its name comes from the schema's title.

    Any object is asked for in the older way, which more endpoints know.
    """
    if schema == ANY_OBJECT and not strict:
        return {"type": "json_object"}
    title: object = schema.get("title")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_")[:64] if isinstance(title, str) else ""
    return {
        "type": "json_schema",
        "json_schema": {"name": name or "answer", "schema": schema, "strict": strict},
    }


def sampling(options: ModelOptions, dialect: Dialect) -> Json:
    """Give the options that are set, under the endpoint's names."""
    named: Json = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        dialect.max_tokens_field: options.max_output_tokens,
        "seed": options.seed,
        "stop": list(options.stop) if isinstance(options.stop, tuple) else options.stop,
        "frequency_penalty": options.frequency_penalty,
        "presence_penalty": options.presence_penalty,
        "reasoning_effort": options.reasoning_effort,
    }
    return {name: value for name, value in named.items() if value is not None}


def adapted(dialect: Dialect, body: Mapping[str, JsonValue], refusal: str) -> Dialect | None:
    """Give the dialect to ask again in after an endpoint refused a field that has another spelling, or None."""
    if _ALTERNATE.search(refusal) and not dialect.alternates:
        return replace(dialect, alternates=True)
    if not _REFUSED.search(refusal):
        return None
    if "stream_options" in body and "stream_options" in refusal:
        return replace(dialect, stream_usage=False)
    sent = dialect.max_tokens_field
    if sent in body and re.search(rf"\b{sent}\b", refusal):
        other = "max_completion_tokens" if sent == "max_tokens" else "max_tokens"
        return replace(dialect, max_tokens_field=other)
    return None


def estimate_prompt_tokens(request: ModelRequest) -> int:
    """Estimate what the request costs, for endpoints that do not count."""
    tokens = estimate_tokens(_bytes([request.instructions]))
    for message in request.messages:
        calls = [piece for call in message.tool_calls for piece in (call.name, call.arguments)]
        images = sum(not isinstance(part, TextPart) for part in message.content)
        tokens += estimate_tokens(_bytes([message.plain, *calls]), images)
    if request.tools:
        tokens += _bytes([json.dumps([tool_body(tool) for tool in request.tools])]) // 4
    return tokens


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
