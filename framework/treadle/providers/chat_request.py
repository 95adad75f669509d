"""A model request as the JSON body of chat completions. Pure: it knows no library and opens no connection."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from treadle.errors import ProviderError
from treadle.objects.agent import ModelOptions
from treadle.objects.message import ImageFilePart, ImageUrlPart, Message, TextPart, estimate_tokens
from treadle.objects.record import JsonSchema, JsonValue
from treadle.providers.base import ModelRequest, ToolDefinition
from treadle.text import clean

Json = dict[str, JsonValue]
CallIds = Mapping[tuple[int, int], str]

_SURROGATE = re.compile("[\ud800-\udfff]")
_REFUSED = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|not (?:supported|permitted|allowed)|extra", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where endpoints of the same protocol differ: the name of the limit, and whether a stream counts tokens."""

    max_tokens_field: str = "max_completion_tokens"
    stream_usage: bool = True


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
    body: Json = {"model": request.model, "messages": chat_messages(request), "stream": True}
    if dialect.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body |= _tools_body(request)
    if request.output_schema is not None:
        body["response_format"] = response_format(request.output_schema, strict=request.output_strict)
    return body | sampling(request.options, dialect) | request.options.extra


def chat_messages(request: ModelRequest) -> list[Json]:
    """Give the instructions and the window as chat messages."""
    ids = call_ids(request.messages)
    rows = [_row(message, ids, request.files) for message in request.messages]
    if not request.instructions:
        return rows
    return [{"role": "system", "content": clean_text(request.instructions)}, *rows]


def call_ids(messages: Iterable[Message]) -> CallIds:
    """Give each call of the window the id that it is sent with: its own, unless that is empty or taken.

    Shapes: (seq of the assistant row, index of the call) to id.
    """
    ids: dict[tuple[int, int], str] = {}
    taken: set[str] = set()
    for message in messages:
        for index, call in enumerate(message.tool_calls):
            id_ = clean_text(call.id)
            if not id_ or id_ in taken:
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


def _row(message: Message, ids: CallIds, files: Mapping[str, tuple[str, bytes]]) -> Json:
    if message.role == "user":
        return {"role": "user", "content": _user_content(message, files)}
    if message.role == "assistant":
        return _assistant_row(message, ids)
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
    if isinstance(part, ImageUrlPart):
        return _image(part.image_url.url, part.image_url.detail)
    file = files.get(part.image_file.file_id)
    if file is None:
        raise ProviderError(
            f"message '{message.id}' shows file '{part.image_file.file_id}', whose content is missing"
        )
    media_type, content = file
    return _image(f"data:{media_type};base64,{base64.b64encode(content).decode()}", part.image_file.detail)


def _image(url: str, detail: str) -> Json:
    image = {"url": url} if detail == "auto" else {"url": url, "detail": detail}
    return {"type": "image_url", "image_url": image}


def _assistant_row(message: Message, ids: CallIds) -> Json:
    if not message.tool_calls:
        return {"role": "assistant", "content": clean_text(message.plain)}
    calls = [
        {
            "id": ids[message.seq, index],
            "type": "function",
            "function": {"name": clean_text(call.name), "arguments": clean_text(call.arguments)},
        }
        for index, call in enumerate(message.tool_calls)
    ]
    return {"role": "assistant", "content": clean_text(message.plain) or None, "tool_calls": calls}


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
    """Give the demand that the answer fits a JSON Schema; its name comes from the schema's title."""
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
