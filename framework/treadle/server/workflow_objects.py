"""Workflows, their runs and the steps of these, as clients that know only assistants can read them.

Rules

1. A run of a workflow has every field of a run: its assistant is the workflow. What only workflows have (inputs, output,
   the run above) stands beside them.
2. A message that the run, or a run within it, writes to the run's thread is a step `message_creation`. Any other node that takes
   time or waits is a step `tool_calls` with one call: of the node, by its name. What only computes is no step.
3. Questions to people are never calls: clients that answer calls by themselves leave them alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from treadle import ids, wire
from treadle.objects.message import Message
from treadle.objects.run import Run, Usage
from treadle.objects.run_step import Step
from treadle.objects.workflow import Workflow
from treadle.service import workflow_wire
from treadle.store.rows import node_of

CALLED = frozenset({"child_run", "model_call", "tool_call", "function", "pause", "wait"})
"""The kinds of steps that read as a call of their node."""

Json = wire.Json


class Child(NamedTuple):
    """A run within a run, and what it wrote to the thread of that one, the runs within it included."""

    run: Run
    messages: Sequence[Message] = ()


def workflow(found: Workflow) -> Json:
    """Give a workflow.

    Shapes: `inputs` is the JSON Schema of a run's inputs; `outputs` are the names of what a run gives.
    """
    spec = found.spec
    properties = {
        name: {**declared.json_schema, **({"default": declared.default} if declared.has_default else {})}
        for name, declared in spec.inputs.items()
    }
    required = [name for name, declared in spec.inputs.items() if declared.is_required]
    inputs = {"type": "object", "properties": properties, "required": required}
    return {
        "id": found.id,
        "object": "workflow",
        "created_at": wire.seconds(found.created_ms),
        "name": found.name,
        "version": found.version,
        "description": spec.description,
        "inputs": {**inputs, "additionalProperties": False},
        "outputs": list(spec.outputs),
        "metadata": wire.metadata(spec.metadata),
    }


def workflow_run(found: Run, of: Workflow) -> Json:
    """Give a run of a workflow."""
    own = workflow_wire.workflow_run(found, of)
    return {
        **own,
        "assistant_id": found.agent_id,
        "required_action": required_action(found),
        "last_error": wire.last_error(found.last_error),
        "model": found.overrides.model or "",
        "instructions": "",
        "tools": [],
        "tool_resources": {},
        "temperature": None,
        "top_p": None,
        "max_prompt_tokens": None,
        "max_completion_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": "auto",
    }


def required_action(found: Run) -> Json | None:
    """Give what a run of a workflow waits for: approvals, else outputs of calls, else the answers of people.

    Shapes: open questions stand under `answer` whatever else is waited for.
    """
    if not found.required_answers:
        return wire.required_action(found)
    told: Json = {"answer": {"questions": [workflow_wire.question(p) for p in found.required_answers]}}
    if found.required_approvals or found.required_action:
        return {**(wire.required_action(found) or {}), **told}
    return {"type": "answer", **told}


def run_steps(found: Run, journal: Sequence[Step], children: Mapping[str, Child]) -> list[Json]:
    """Give the run steps that the journal of a workflow's run reads as, oldest first."""
    latest = {step.path: step for step in sorted(journal, key=lambda s: (s.n, s.attempt))}
    listed: list[Json] = []
    for step in latest.values():
        child = children.get(step.child or "")
        if (told := node_step(found, step, child.run if child is not None else None)) is not None:
            listed.append(told)
        for message in child.messages if child is not None else ():
            listed.append(message_step(found, message, step.path))  # noqa: PERF401 - two kinds in their order
    return listed


def node_step(found: Run, step: Step, child: Run | None = None) -> Json | None:
    """Give the run step that a step of the journal reads as; None for one that only computes."""
    if step.kind == "append_message" and step.said:
        details: Json = {
            "type": "message_creation",
            "message_creation": {"message_id": step.result["message_id"]},
        }
    elif step.kind in CALLED or step.kind == "append_message":
        details = {"type": "tool_calls", "tool_calls": [_call(found, step, child)]}
    else:
        return None
    goes_on = step.is_open or step.edge == "retry"
    told = wire.run_step(
        found,
        step,
        details,
        status="in_progress" if goes_on else step.status,
        ended_ms=step.ended_ms,
        error=None if goes_on else step.last_error,
        spent=None if goes_on else step.usage or Usage(),
    )
    return told | {"metadata": _notes(step, child)}


def _call(found: Run, step: Step, child: Run | None) -> Json:
    given: Any = child.inputs if child is not None else {}
    if step.question is not None and step.kind != "pause" and step.question.value is not None:
        given = step.question.value  # What a person is asked about is the call itself.
    elif step.question is not None:
        given = step.question.model_dump(mode="json", exclude_none=True, exclude={"digest", "until_ms"})
    output = None if step.is_open or step.result is None else _text(step.result)
    function = {"name": step.tool or step.node, "arguments": _text(given), "output": output}
    return {"id": ids.derive("call", found.id, step.path), "type": "function", "function": function}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _notes(step: Step, child: Run | None) -> Json:
    notes: dict[str, Any] = {
        "node": step.node,
        "kind": step.kind,
        "path": step.path,
        "attempt": str(step.attempt),
    }
    if step.child is not None:
        notes["child_run_id"] = step.child
    if child is not None:
        notes["child_thread_id"] = child.thread_id
    if step.kept is not None:
        notes["kept_from"] = step.kept
    return wire.metadata(notes)


def step_begun(found: Run, path: str, told: Mapping[str, Any], *, now_ms: int, child: Run | None) -> Json:
    """Give the run step of a node that has begun, as the event of it tells; its kind is one of `CALLED`."""
    node = node_of(path)
    step = Step(
        run_id=found.id, n=0, path=path, node=node, kind=told["kind"], status="in_progress", started_ms=now_ms
    )
    begun = step.model_copy(update={"tool": told.get("tool"), "child": told.get("child")})
    shown = node_step(found, begun, child)
    assert shown is not None
    return shown


def message_step(found: Run, message: Message, path: str) -> Json:
    """Give the run step of a message that a run within wrote to the thread of a run."""
    begun = message_step_begun(found, message.id, path, now_ms=message.created_ms)
    return message_step_ended(begun, wire.message(message))


def message_step_begun(found: Run, message_id: str, path: str, *, now_ms: int) -> Json:
    """Give the run step of a message that is being written; `path` is the step of the run that writes it."""
    step = Step(run_id=found.id, n=0, path=path, node=node_of(path), kind="child_run", started_ms=now_ms)
    details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
    begun = wire.run_step(found, step, details, status="in_progress", ended_ms=None, error=None, spent=None)
    notes: Json = {"node": step.node, "kind": "append_message", "path": path}
    return begun | {"id": ids.derive("step", found.id, f"{message_id}:message"), "metadata": notes}


def message_step_ended(begun: Json, message: Json) -> Json:
    """Give the run step of a message that is whole, or that ended before; the tokens count at the step that wrote it."""
    cut: Json = message["incomplete_details"] or {}
    reason = str(cut.get("reason"))
    ends = {"run_cancelled": "cancelled", "run_expired": "expired", "run_failed": "failed"}
    status = "in_progress" if message["status"] == "in_progress" else ends.get(reason, "completed")
    ended = message["completed_at"] or message["incomplete_at"]
    usage = None if status == "in_progress" else wire.usage(Usage())
    at = {} if status == "in_progress" else {f"{status}_at": ended}
    return begun | {"status": status, **at, "usage": usage}
