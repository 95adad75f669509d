"""The wire's JSON of every object: pure functions, shared by `--json`, `--jsonl`, exports and the server.

Rules

1. An absent value is an explicit null; times are whole Unix seconds.
2. A field of the wire is always there; nothing that the wire does not know is added here.
3. The id of a run step is derived from the run and the model call's path, so that every reader and every attempt
   sees the same one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from treadle import ids
from treadle.lifecycle import is_terminal
from treadle.objects.agent import Agent, AgentSpec, OutputSpec, ThreadSpec
from treadle.objects.file import File
from treadle.objects.message import ImageFilePart, Message, TextPart, ToolCall
from treadle.objects.record import JsonValue
from treadle.objects.run import Run, RunError, Usage
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.tool import FunctionTool, ToolSpec
from treadle.objects.vector_store import Chunking, FileBatch, FileCounts, VectorStore, VectorStoreFile

Json = dict[str, JsonValue]
"""A JSON object."""

RunStepType = Literal["message_creation", "tool_calls"]

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
"""What the metadata of an object may hold on the wire: pairs, characters of a key, characters of a value."""

_INVALID_PROMPT = ("context_length", "content_filter", "invalid_prompt", "image")


def assistant(agent: Agent) -> Json:
    """Give an agent.

    Shapes: the instructions are the source of the template where there is one.
    """
    spec = agent.spec
    return {
        "id": agent.id,
        "object": "assistant",
        "created_at": seconds(agent.created_ms),
        "name": agent.name,
        "description": spec.description,
        "model": spec.model.id,
        "instructions": instructions(spec),
        "tools": [tool(t) for t in spec.tools],
        "tool_resources": spec.tool_resources,
        "metadata": metadata(spec.metadata),
        "temperature": spec.model.options.temperature,
        "top_p": spec.model.options.top_p,
        "reasoning_effort": spec.model.options.reasoning_effort,
        "response_format": response_format(spec.output),
    }


def thread(found: Thread) -> Json:
    """Give a thread."""
    return {
        "id": found.id,
        "object": "thread",
        "created_at": seconds(found.created_ms),
        "tool_resources": found.tool_resources,
        "metadata": metadata(found.metadata),
    }


def message(row: Message) -> Json:
    """Give a message: a row of the thread that readers see."""
    is_incomplete = row.status == "incomplete"
    ended = row.completed_ms or row.created_ms
    return {
        "id": row.id,
        "object": "thread.message",
        "created_at": seconds(row.created_ms),
        "thread_id": row.thread_id,
        "status": row.status,
        "incomplete_details": {"reason": row.incomplete_reason} if is_incomplete else None,
        "completed_at": seconds(ended) if row.status == "completed" else None,
        "incomplete_at": seconds(ended) if is_incomplete else None,
        "role": row.role,
        "content": [_text(row.text)] if row.text is not None else [content_part(part) for part in row.parts],
        "assistant_id": row.agent_id,
        "run_id": row.run_id,
        "attachments": [dict(a) for a in row.attachments] if row.attachments else [],
        "metadata": metadata(row.metadata),
    }


def content_part(part: TextPart | ImageFilePart | Any) -> Json:
    """Give one part of a message's content."""
    if isinstance(part, TextPart):
        return _text(part.text, part.annotations)
    return part.model_dump(mode="json")


def _text(text: str, annotations: Sequence[Mapping[str, JsonValue]] = ()) -> Json:
    notes = [dict(a) for a in annotations] if annotations else []
    return {"type": "text", "text": {"value": text, "annotations": notes}}


def run(found: Run, agent: Agent) -> Json:
    """Give a run of an agent, its own overrides laid over the agent's fields.

    Shapes: `found` has the calls that wait where it is at requires_action; `expires_at` is null once it has ended.
    """
    spec, overrides, options = agent.spec, found.overrides, agent.spec.model.options
    output = overrides.output_of(spec.output)
    tools = spec.tools if overrides.tools is None else overrides.tools
    is_incomplete = found.status == "incomplete"

    def ended(status: str) -> int | None:
        return seconds(found.ended_ms) if found.status == status else None

    def first(own: object, agents: object) -> Any:
        return agents if own is None else own

    return {
        "id": found.id,
        "object": "thread.run",
        "created_at": seconds(found.created_ms),
        "thread_id": found.thread_id,
        "assistant_id": found.agent_id,
        "status": found.status,
        "required_action": required_action(found),
        "last_error": last_error(found.last_error),
        "expires_at": None if is_terminal(found.status) else seconds(found.expires_ms),
        "started_at": seconds(found.started_ms),
        "cancelled_at": ended("cancelled"),
        "failed_at": ended("failed"),
        "completed_at": ended("completed"),
        "incomplete_details": {"reason": found.incomplete_reason} if is_incomplete else None,
        "model": found.model or overrides.model or spec.model.id,
        "instructions": _run_instructions(found, spec),
        "tools": [tool(t) for t in tools],
        "tool_resources": first(overrides.tool_resources, spec.tool_resources),
        "metadata": metadata(found.metadata),
        "usage": usage(found.usage),
        "temperature": first(overrides.temperature, options.temperature),
        "top_p": first(overrides.top_p, options.top_p),
        "max_prompt_tokens": overrides.max_prompt_tokens,
        "max_completion_tokens": overrides.max_completion_tokens,
        "truncation_strategy": truncation_strategy(overrides.thread or spec.thread),
        "tool_choice": tool_choice(overrides.tool_choice or spec.tool_choice),
        "parallel_tool_calls": first(
            first(overrides.parallel_tool_calls, options.parallel_tool_calls), agents=True
        ),
        "response_format": response_format(output),
    }


def required_action(found: Run) -> Json | None:
    """Give the calls that wait for the client, or before them those that wait for a person's consent.

    Shapes: null in every status but requires_action.
    """
    if found.status != "requires_action":
        return None
    if found.required_approvals:
        asked = [function_call(p.call) for p in found.required_approvals if p.call is not None]
        return {"type": "submit_tool_approval", "submit_tool_approval": {"tool_calls": asked}}
    calls = [function_call(call) for call in found.required_action]
    return {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}


def function_call(call: ToolCall) -> Json:
    """Give a call of a function, without its output."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def run_steps(found: Run, steps: Sequence[Step], rows: Mapping[int, Message]) -> list[Json]:
    """Give the run steps that a journal reads as, oldest first.

    A model call is up to two of them: `message_creation` where it has text, `tool_calls` where it asks for tools;
    the latter ends with the last of its calls.

    Shapes: `rows` are the rows of the thread that the journal refers to, by seq.
    """
    latest = {step.path: step for step in sorted(steps, key=lambda s: (s.n, s.attempt))}
    below: dict[str, list[Step]] = {}
    for step in latest.values():
        below.setdefault(step.cause or "", []).append(step)
    listed: list[Json] = []
    for step in latest.values():
        if step.kind == "model_call":
            listed += _steps_of_reply(found, step, below.get(step.path, []), rows)
    return listed


def run_step_id(run_id: str, path: str, kind: RunStepType) -> str:
    """Give the id of a run step that a model call's row in the journal reads as."""
    return ids.derive("step", run_id, f"{path}:{kind}")


def _steps_of_reply(
    found: Run, step: Step, after: Sequence[Step], rows: Mapping[int, Message]
) -> Iterator[Json]:
    """Give the run steps of one model call; `after` are the journal's steps that it made ready."""
    appended = next((s for s in after if s.kind == "append_message"), None)
    row = rows.get((appended or step).message_seq or 0)
    if row is None:
        return
    calls = row.tool_calls
    if row.is_listed or row.is_deleted:
        yield _message_creation(found, step, appended or step, row, counts_usage=not calls)
    if calls:
        yield _tool_calls(found, step, [s for s in after if s.kind == "tool_call"], row, rows)


def _message_creation(found: Run, step: Step, written: Step, row: Message, *, counts_usage: bool) -> Json:
    status = "failed" if written.last_error is not None else written.status
    details = {"type": "message_creation", "message_creation": {"message_id": row.id}}
    return run_step(
        found,
        step,
        details,
        status=status,
        ended_ms=written.ended_ms,
        error=written.last_error,
        spent=(step.usage if counts_usage else None) or Usage(),
    )


def _tool_calls(
    found: Run, step: Step, members: Sequence[Step], row: Message, rows: Mapping[int, Message]
) -> Json:
    of_call = {member.call_index: member for member in members}
    entries: list[Json] = []
    for index, call in enumerate(row.tool_calls):
        member = of_call.get(index)
        result = rows.get(member.message_seq or 0) if member is not None else None
        entry = function_call(call)
        entry["function"]["output"] = result.text if result is not None else None
        entries.append(entry)
    status, ended = _status_of_calls(found, row, members)
    return run_step(
        found,
        step,
        {"type": "tool_calls", "tool_calls": entries},
        status=status,
        ended_ms=ended,
        error=next((m.last_error for m in members if m.status == "failed"), None),
        spent=None if status == "in_progress" else step.usage,
    )


def _status_of_calls(found: Run, row: Message, members: Sequence[Step]) -> tuple[str, int | None]:
    """Give the status of a group of calls, and when the last of them ended."""
    statuses = {member.status for member in members}
    if len(members) < len(row.tool_calls) or "in_progress" in statuses:
        return "in_progress", None
    ended = max((member.ended_ms or 0 for member in members), default=0)
    if "failed" in statuses:
        return "failed", ended
    if "cancelled" in statuses:
        return "expired" if found.status == "expired" else "cancelled", ended
    return "completed", ended


def run_step(
    found: Run,
    step: Step,
    details: Json,
    *,
    status: str,
    ended_ms: int | None,
    error: RunError | None,
    spent: Usage | None,
) -> Json:
    """Give a run step with these details; its id is that of the step of the journal and of the details' type."""

    def at(wanted: str) -> int | None:
        return seconds(ended_ms) if status == wanted else None

    return {
        "id": run_step_id(found.id, step.path, details["type"]),
        "object": "thread.run.step",
        "created_at": seconds(step.started_ms),
        "assistant_id": found.agent_id,
        "thread_id": found.thread_id,
        "run_id": found.id,
        "type": details["type"],
        "status": status,
        "step_details": details,
        "last_error": last_error(error),
        "expired_at": at("expired"),
        "cancelled_at": at("cancelled"),
        "failed_at": at("failed"),
        "completed_at": at("completed"),
        "metadata": {},
        "usage": usage(spent),
    }


def message_begun(found: Run, message_id: str, now_ms: int) -> Json:
    """Give a message that is being written: announced, and empty."""
    begun = Message(
        id=message_id,
        thread_id=found.thread_id,
        role="assistant",
        status="in_progress",
        run_id=found.id,
        agent_id=found.agent_id,
        created_ms=now_ms,
    )
    return message(begun)


def run_step_begun(
    found: Run, path: str, kind: RunStepType, *, now_ms: int, message_id: str | None = None
) -> Json:
    """Give a run step that has begun: without its calls, or with the id that its message will have."""
    step = Step(run_id=found.id, n=0, path=path, node="model_call", kind="model_call", started_ms=now_ms)
    details: Json = {"type": kind, "tool_calls": []}
    if kind == "message_creation":
        details = {"type": kind, kind: {"message_id": message_id}}
    return run_step(found, step, details, status="in_progress", ended_ms=None, error=None, spent=None)


def message_cut(begun: Json, found: Run, text: str) -> Json:
    """Give a message that was begun, and that ends unfinished as its run ends: with what of it was told."""
    return begun | {
        "status": "incomplete",
        "incomplete_details": {"reason": f"run_{_how_cut(found)}"},
        "incomplete_at": seconds(found.ended_ms),
        "content": [_text(text)] if text else [],
    }


def run_step_cut(begun: Json, found: Run) -> Json:
    """Give a run step that was begun, and that ends as its run ends."""
    status = _how_cut(found)
    return begun | {
        "status": status,
        f"{status}_at": seconds(found.ended_ms),
        "last_error": last_error(found.last_error),
    }


def _how_cut(found: Run) -> str:
    return found.status if found.status in ("expired", "cancelled") else "failed"


def message_delta(message_id: str, text: str) -> Json:
    """Give a piece of a message's text."""
    piece: Json = {"value": text, "annotations": []}
    content = [{"index": 0, "type": "text", "text": piece}]
    return {"id": message_id, "object": "thread.message.delta", "delta": {"content": content}}


def run_step_delta(step_id: str, index: int, *, id_: str | None, name: str | None, arguments: str) -> Json:
    """Give a piece of a function call; its id and name come with the first piece."""
    function: Json = {"arguments": arguments}
    entry: Json = {"index": index, "type": "function", "function": function}
    if id_ is not None:
        entry["id"] = id_
        function |= {"name": name, "output": None}
    details = {"type": "tool_calls", "tool_calls": [entry]}
    return {"id": step_id, "object": "thread.run.step.delta", "delta": {"step_details": details}}


def listing(data: Sequence[Json], *, has_more: bool = False) -> Json:
    """Give a page of objects in its envelope."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def deleted(id_: str, noun: str) -> Json:
    """Say that an object is gone; `noun` is assistant or thread."""
    return {"id": id_, "object": f"{noun}.deleted", "deleted": True}


def file(found: File) -> Json:
    """Give a file; whoever asks may use it."""
    return {
        "id": found.id,
        "object": "file",
        "bytes": found.bytes,
        "created_at": seconds(found.created_ms),
        "filename": found.filename,
        "purpose": found.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": seconds(found.expires_ms),
    }


def vector_store(found: VectorStore, *, now_ms: int) -> Json:
    """Give a vector store as it is at a time."""
    expires_after = {"anchor": "last_active_at", "days": found.expires_days} if found.expires_days else None
    return {
        "id": found.id,
        "object": "vector_store",
        "created_at": seconds(found.created_ms),
        "name": found.name or "",
        "description": found.description,
        "usage_bytes": found.usage_bytes,
        "file_counts": file_counts(found.counts),
        "status": found.status(now_ms),
        "expires_after": expires_after,
        "expires_at": seconds(found.expires_ms),
        "last_active_at": seconds(found.last_active_ms),
        "metadata": metadata(found.metadata),
    }


def file_counts(counts: FileCounts) -> Json:
    """Give how many files are in which status."""
    return {**counts.model_dump(), "total": counts.total}


def vector_store_file(link: VectorStoreFile) -> Json:
    """Give a file of a vector store; its id is the file's."""
    return {
        "id": link.file_id,
        "object": "vector_store.file",
        "created_at": seconds(link.created_ms),
        "usage_bytes": link.usage_bytes,
        "vector_store_id": link.store_id,
        "status": link.status,
        "last_error": link.last_error.model_dump() if link.last_error is not None else None,
        "chunking_strategy": chunking_strategy(link.chunking),
        "attributes": link.attributes,
    }


def chunking_strategy(chunking: Chunking) -> Json:
    """Give how a file is cut, always in numbers."""
    numbers = {
        "max_chunk_size_tokens": chunking.max_tokens,
        "chunk_overlap_tokens": chunking.overlap_tokens,
    }
    return {"type": "static", "static": numbers}


def file_batch(batch: FileBatch) -> Json:
    """Give the files that came into a vector store together."""
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": seconds(batch.created_ms),
        "vector_store_id": batch.store_id,
        "status": batch.status,
        "file_counts": file_counts(batch.counts),
    }


def file_content(text: str, *, next_page: str | None = None) -> Json:
    """Give a page of the text of a file in a vector store."""
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": text}] if text else [],
        "has_more": next_page is not None,
        "next_page": next_page,
    }


def tool(spec: ToolSpec) -> Json:
    """Give a tool's definition."""
    if isinstance(spec, FunctionTool):
        function = {
            "name": spec.name,
            "description": spec.description,
            "parameters": spec.parameters,
            "strict": spec.strict,
        }
        return {"type": "function", "function": function}
    return {**spec.options, "type": spec.type}


def tool_choice(choice: str) -> str | Json:
    """Give the choice of tools: a word, or the one function."""
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def response_format(output: OutputSpec | None) -> str | Json:
    """Give the shape of the answer."""
    if output is None:
        return "auto"
    if output.is_any_object:
        return {"type": "json_object"}
    form = {
        "name": output.name or "answer",
        "description": output.description,
        "schema": output.schema_,
        "strict": output.strict,
    }
    return {"type": "json_schema", "json_schema": form}


def truncation_strategy(spec: ThreadSpec) -> Json:
    """Give how much of the thread is sent."""
    is_last = spec.truncation == "last"
    return {
        "type": "last_messages" if is_last else "auto",
        "last_messages": spec.keep_last if is_last else None,
    }


def instructions(spec: AgentSpec) -> str:
    """Give the agent's instructions, a template as its source."""
    found = spec.instructions.text if spec.instructions.text is not None else spec.instructions.template
    return found or ""


def _run_instructions(found: Run, spec: AgentSpec) -> str:
    own = found.overrides.instructions
    parts = [
        instructions(spec) if own is None else own,
        spec.additional_instructions,
        found.overrides.additional_instructions,
    ]
    return "\n\n".join(part for part in parts if part)


def usage(spent: Usage | None) -> Json | None:
    """Give the tokens; null while they are not known."""
    if spent is None:
        return None
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.total_tokens,
    }


def last_error(error: RunError | None) -> Json | None:
    """Give an error in the three codes of the wire, with its whole text."""
    if error is None:
        return None
    code = "server_error"
    if error.code in ("rate_limit", "rate_limit_exceeded"):
        code = "rate_limit_exceeded"
    elif error.code in _INVALID_PROMPT:
        code = "invalid_prompt"
    return {"code": code, "message": error.message}


def metadata(notes: Mapping[str, JsonValue]) -> Json:
    """Give metadata within the wire's bounds: texts, and whatever else was noted as JSON."""
    if not notes:
        return {}
    pairs = list(notes.items())[:MAX_PAIRS]
    return {
        key[:MAX_KEY]: (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[
            :MAX_VALUE
        ]
        for key, value in pairs
    }


def seconds(ms: int | None) -> int | None:
    """Give Unix seconds of Unix milliseconds."""
    return None if ms is None else ms // 1000
