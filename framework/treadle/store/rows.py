"""Records to rows and back: one pair of functions per record, shared by the stores.

A row has a column for what is asked for or changes; the rest of a record is JSON in `body`, without what
equals its default. No column repeats what `body` has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from treadle.errors import StateError
from treadle.ids import mark, place_of, placed
from treadle.lifecycle import is_terminal
from treadle.objects.agent import Agent, AgentSpec
from treadle.objects.event import Event
from treadle.objects.key import Key
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import PendingCall, Question, Run, Usage
from treadle.objects.run_step import Step, Used
from treadle.objects.thread import Thread

if TYPE_CHECKING:
    from treadle.objects.workflow import Workflow

Row = Sequence[Any]

_loads = from_json
SEQ_BITS = 32
SEQ_MASK = (1 << SEQ_BITS) - 1


def dump_body(body: dict[str, Any]) -> str | None:
    """Give the JSON of what a record has beside its columns, None where there is nothing.

    Errors: StateError for what JSON cannot say.
    """
    return _json(body).decode() if body else None


def _json(value: Any) -> bytes:
    try:
        text = to_json(value)
        if b"NaN" in text or b"Infinity" in text:
            json.dumps(value, allow_nan=False, default=str)  # Finds out whether they are numbers or words.
    except (ValueError, TypeError) as e:
        raise StateError(
            f"a value cannot be stored: {str(e)[:200]}", hint="store texts, numbers and plain JSON"
        ) from e
    return text


def spec(record: Agent | Workflow) -> str:
    """Give the document of an agent or a workflow, without what equals its default; `agent` and `workflow` read it.

    Invariant: the nodes of a workflow keep their order, which decides ties of a run.
    """
    if isinstance(record, Agent):
        return record.spec.canonical()
    body = record.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if record.pins:
        body["pins"] = record.pins
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def agent(tenant: str, row: Row) -> Agent:
    """Read an agent: id, version, name, origin, created_ms, spec."""
    return Agent(
        id=row[0],
        tenant=tenant,
        version=row[1],
        name=row[2],
        origin=row[3],
        created_ms=row[4],
        spec=AgentSpec.model_validate_json(row[5]),
    )


def workflow(tenant: str, row: Row) -> Workflow:
    """Read a workflow: id, version, name, origin, created_ms, spec."""
    from treadle.objects.workflow import Workflow, WorkflowSpec

    body: dict[str, Any] = _loads(row[5])
    pins = body.pop("pins", {})
    return Workflow(
        id=row[0],
        tenant=tenant,
        version=row[1],
        name=row[2],
        origin=row[3],
        created_ms=row[4],
        spec=WorkflowSpec.model_validate(body),
        pins=pins,
    )


def key_values(record: Key) -> tuple[Any, ...]:
    """Give the columns of the query `insert_key`."""
    return record.id, record.tenant, record.name, record.digest, record.created_ms, record.revoked_ms


def key(row: Row) -> Key:
    """Read a key: id, tenant, name, digest, created_ms, revoked_ms."""
    return Key(id=row[0], tenant=row[1], name=row[2], digest=row[3], created_ms=row[4], revoked_ms=row[5])


def thread_body(record: Thread) -> str | None:
    """Give what a thread has beside its columns."""
    body: dict[str, Any] = {}
    if record.metadata:
        body["metadata"] = record.metadata
    if record.tool_resources:
        body["tool_resources"] = record.tool_resources
    return dump_body(body)


def thread(tenant: str, row: Row) -> Thread:
    """Read a thread: id, created_ms, body, fork_of, forked_at."""
    body: dict[str, Any] = _loads(row[2]) if row[2] else {}
    if row[3] is not None:
        body |= {"forked_from": row[3], "forked_at": row[4] or 0}
    return Thread(id=row[0], tenant=tenant, created_ms=row[1], **body)


def message_body(record: Message) -> str | None:
    """Give what a message has beside its columns."""
    body: dict[str, Any] = {}
    if record.tool_calls:
        body["tool_calls"] = [[c.id, c.name, c.arguments] for c in record.tool_calls]
    if record.parts:
        body["parts"] = [
            p.model_dump(mode="json", exclude_defaults=True) | {"type": p.type} for p in record.parts
        ]
    if record.attachments:
        body["attachments"] = list(record.attachments)
    if record.metadata:
        body["metadata"] = record.metadata
    if record.incomplete_reason:
        body["incomplete_reason"] = record.incomplete_reason
    if record.is_deleted:
        body["is_deleted"] = True
    if record.role == "assistant" and record.run_id is None and record.agent_id:
        body["agent_id"] = record.agent_id
    if record.id and queue_number(record.id) is not None:
        body["id"] = record.id
    return dump_body(body)


def message_id(tenant: str, thread_no: int, thread_id: str, seq: int) -> str:
    """Give the id of a message: it says where the message stands, and needs no index."""
    return placed("msg", thread_no, seq, _mark(tenant, thread_id))


_mark = lru_cache(maxsize=4096)(mark)


def position(tenant: str, id_: str) -> tuple[int, Callable[[str], bool]] | None:
    """Give the position that a message's id names, and whether it is of a thread; None for no message's id."""
    place = place_of(id_, "msg")
    if place is None or place[2] > SEQ_MASK:
        return None
    no, found, seq = place
    return no << SEQ_BITS | seq, lambda thread_id: _mark(tenant, thread_id) == found


def queued_id(tenant: str, thread_no: int, thread_id: str, number: int) -> str:
    """Give the id of a message that waits for a busy thread; it keeps it when it has its place."""
    return placed("msg", thread_no, (1 << SEQ_BITS) + number, _mark(tenant, thread_id))


def queue_number(id_: str) -> tuple[int, Callable[[str, str], bool]] | None:
    """Give the number in the queue that an id names, and whether it is of a tenant's thread; None for any other id."""
    place = place_of(id_, "msg")
    if place is None or place[2] <= SEQ_MASK:
        return None
    _, found, number = place
    return number - (1 << SEQ_BITS), lambda tenant, thread_id: _mark(tenant, thread_id) == found


def message(tenant: str, row: Row, thread_id: str, text: str | None) -> Message:
    """Read a message: pos, listed, role, status, reply, call, tokens, created_ms, text, blob, body, thread, run, agent.

    `text` replaces the column where the content was a blob.
    """
    thread_id = row[11] or thread_id
    seq, status, created_ms = row[0] & SEQ_MASK, row[3], row[7]
    values: dict[str, Any] = {
        "id": message_id(tenant, row[0] >> SEQ_BITS, thread_id, seq) if row[1] else "",
        "tenant": tenant,
        "thread_id": thread_id,
        "seq": seq,
        "role": row[2],
        "status": status,
        "reply_seq": row[4],
        "call_index": row[5],
        "tokens": row[6],
        "created_ms": created_ms,
        "completed_ms": created_ms if status == "completed" else None,
        "text": text,
        "run_id": row[12],
        "agent_id": row[13],
    }
    if not row[10]:
        return Message.trusted(values)
    body: dict[str, Any] = _loads(row[10])
    calls = body.get("tool_calls")
    if calls:
        body["tool_calls"] = tuple(
            ToolCall.trusted({"id": c[0], "name": c[1], "arguments": c[2]}) for c in calls
        )
    if "attachments" in body:
        body["attachments"] = tuple(body["attachments"])
    if "is_deleted" in body:
        values["id"] = message_id(tenant, row[0] >> SEQ_BITS, thread_id, seq)
    values |= body
    # Parts are of several kinds, which only the model tells apart.
    return Message(**values) if "parts" in body else Message.trusted(values)


_RUN_BODY = ("model", "inputs", "incomplete_reason", "output")


_PENDING = (
    "path",
    "reply_seq",
    "call_index",
    "action",
    "digest",
    "question",
    "until_ms",
    "default",
    "arguments",
    "run_id",
)


def _pending(call: PendingCall) -> list[Any]:
    is_short = call.action == "output" and call.arguments is None and call.run_id is None
    most = 3 if is_short else len(_PENDING)
    return [getattr(call, name) for name in _PENDING[:most]]


def run_body(record: Run) -> str | None:
    """Give what a run has beside its columns; its metadata is one of them, since others write it during a walk."""
    body: dict[str, Any] = {
        name: value for name in _RUN_BODY if (value := getattr(record, name)) not in (None, "", {})
    }
    overrides = record.overrides.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if overrides:
        body["overrides"] = overrides
    if record.origin:
        body["origin"] = record.origin.model_dump(mode="json", exclude_defaults=True)
    if record.last_error:
        body["last_error"] = record.last_error.model_dump()
    if record.pending:
        body["pending"] = [_pending(p) for p in record.pending]
    if record.usage and record.usage.estimated:
        body["estimated"] = True
    return dump_body(body)


def run(tenant: str, row: Row) -> Run:
    """Read a run: the columns of the query `get_run`."""
    body: dict[str, Any] = _loads(row[20]) if row[20] else {}
    if row[19]:
        body["metadata"] = _loads(row[19])
    estimated = body.pop("estimated", False)
    if row[17] is not None:
        body["usage"] = Usage(prompt_tokens=row[17], completion_tokens=row[18], estimated=estimated)
    pending = body.pop("pending", None)
    if pending:
        body["pending"] = tuple(PendingCall.trusted(dict(zip(_PENDING, p, strict=False))) for p in pending)
    values: dict[str, Any] = {
        "id": row[0],
        "tenant": tenant,
        "thread_id": row[1],
        "parent_id": row[2],
        "agent_id": row[3],
        "agent_version": row[4],
        "graph": row[5],
        "status": row[6],
        "rev": row[7],
        "fence": row[8],
        "walker": row[9],
        "first_seq": row[10],
        "created_ms": row[11],
        "started_ms": row[12],
        "ended_ms": row[13],
        "expires_ms": row[14],
        "wake_ms": row[15],
        "walked_ms": row[16],
        "in_line": bool(row[21]),
        "deaths": row[22],
        **body,
    }
    is_nested = "overrides" in body or "last_error" in body or "origin" in body
    return Run(**values) if is_nested else Run.trusted(values)


def large_parts(step: Step, most: int) -> dict[str, bytes]:
    """Give what a step has that is too large for its row, as JSON by the name of its field.

    Units: `most` bytes of one field.
    """
    found = {
        name: _json(value) for name in ("result", "writes") if (value := getattr(step, name)) is not None
    }
    return {name: text for name, text in found.items() if len(text) > most}


def step_values(
    step: Step, run_no: int, event_seq: int | None, blobs: Mapping[str, str] = MappingProxyType({})
) -> tuple[Any, ...]:
    """Give the columns of the query `put_step`, the body last.

    Shapes: `blobs` has the digests of the fields that are kept elsewhere.
    """
    usage = step.usage
    body: dict[str, Any] = {}
    if step.last_error:
        body["last_error"] = step.last_error.model_dump()
    if step.note:
        body["note"] = step.note
    if step.full_output:
        body["full_output"] = step.full_output
    if step.asked:
        body["asked"] = step.asked.model_dump(exclude_defaults=True)
    if step.decision:
        body["decision"] = step.decision.model_dump(exclude_defaults=True)
    if usage and usage.estimated:
        body["estimated"] = True
    work = _work_of(step)
    if work != _NO_WORK:
        body |= {name: value for name, value in zip(_WORK, work, strict=True) if value is not None}
        if step.question:
            body["question"] = step.question.model_dump(mode="json", exclude_defaults=True)
        if step.used:
            body["used"] = step.used.model_dump(exclude_defaults=True)
    if blobs:
        body = {name: value for name, value in body.items() if name not in blobs} | {"blobs": blobs}
    return (
        run_no << SEQ_BITS | step.n,
        step.tenant,
        step.path,
        step.attempt,
        step.kind,
        step.status,
        step.fence,
        step.cause,
        step.edge,
        step.fan or None,
        step.reply_seq,
        step.call_index,
        step.message_seq,
        step.tool,
        step.started_ms,
        step.ended_ms,
        usage.prompt_tokens if usage else None,
        usage.completion_tokens if usage else None,
        event_seq,
        step.said,
        dump_body(body),
    )


_WORK = ("result", "writes", "child", "used", "question", "wake_ms", "key", "kept")
"""What a step of a workflow has in its body; an agent's steps have none of it."""
_work_of = attrgetter(*_WORK)
_NO_WORK = (None,) * len(_WORK)
_PLACES = re.compile(r"#\d+(?:\[\d+\])?")
_MARKS = re.compile(r"/(?:\d+|end)$")


def node_of(path: str) -> str:
    """Give the node of a step's path: without visits, items and rounds, and the mark of what the step is of it."""
    node, _, rest = path.partition("#")
    if "#" not in rest:
        return node
    return _MARKS.sub("", _PLACES.sub("", path))


def step(tenant: str, run_id: str, row: Row, blob: Callable[[str], bytes] | None = None) -> Step:
    """Read a step: the columns of the query `steps_of_run`.

    Shapes: `blob` reads what is kept elsewhere; without it that is left out.
    """
    body: dict[str, Any] = _loads(row[19]) if row[19] else {}
    if "blobs" in body:
        elsewhere: dict[str, str] = body.pop("blobs")
        if blob is not None:
            body |= {name: _loads(blob(digest)) for name, digest in elsewhere.items()}
    if "question" in body:
        body["question"] = Question.model_validate(body["question"])
    if "used" in body:
        body["used"] = Used.trusted(body["used"])
    estimated = body.pop("estimated", False)
    if row[15] is not None:
        body["usage"] = Usage(prompt_tokens=row[15], completion_tokens=row[16], estimated=estimated)
    values: dict[str, Any] = {
        "run_id": run_id,
        "tenant": tenant,
        "n": row[0],
        "path": row[1],
        "node": node_of(row[1]),
        "attempt": row[2],
        "kind": row[3],
        "status": row[4],
        "fence": row[5],
        "cause": row[6],
        "edge": row[7],
        "fan": row[8] or 0,
        "reply_seq": row[9],
        "call_index": row[10],
        "message_seq": row[11],
        "tool": row[12],
        "started_ms": row[13],
        "ended_ms": row[14],
        "event_seq": row[17],
        "said": bool(row[18]),
        **body,
    }
    return Step(**values) if _STEP_RECORDS & body.keys() else Step.trusted(values)


_STEP_RECORDS = frozenset({"last_error", "asked", "decision"})
"""What a step's body has that are records of their own."""


def step_events(step: Step, message_id: Callable[[int], str]) -> tuple[Event, ...]:
    """Give the events that a step's end is: its message, where readers see one, then itself."""
    ended = Event(step.run_id, f"thread.run.step.{step.status}", step.path, {}, step.event_seq)
    if not step.said or step.message_seq is None:
        return (ended,)
    status = "incomplete" if step.edge == "incomplete" else "completed"
    seq = step.event_seq - 1 if step.event_seq else None
    return (Event(step.run_id, f"thread.message.{status}", message_id(step.message_seq), {}, seq), ended)


def run_events(record: Run, born: int, last: int) -> list[Event]:
    """Give the events that a run's row is: its birth, and its end where it has ended.

    Shapes: `born` counts the events of its birth; `last` is the number before that of its end.
    """
    names = ("thread.run.created", "thread.run.queued", "thread.run.in_progress")[:born]
    events = [Event(record.id, name, record.id, seq=seq) for seq, name in enumerate(names, 1)]
    if is_terminal(record.status):
        events.append(final_event(record, last + 1))
    return events


def final_event(record: Run, seq: int) -> Event:
    """Give the event that a run's end is, with the reason or the error that its row has."""
    data: dict[str, Any] = {}
    if record.incomplete_reason is not None:
        data["reason"] = record.incomplete_reason
    if record.last_error is not None:
        data["last_error"] = record.last_error.model_dump()
    return Event(record.id, f"thread.run.{record.status}", record.id, data, seq)


def event(run_id: str, row: Row) -> Event:
    """Read an event: seq, name, object, data."""
    return Event(run_id, row[1], row[2], _loads(row[3]) if row[3] else {}, row[0])


def event_data(record: Event) -> str | None:
    """Give what an event says beside its name."""
    return dump_body(dict(record.data)) if record.data else None
