"""Runs of workflows as JSON: a run as the wire tells it, with what only workflows have; steps, and questions to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle import ids, wire
from treadle.lifecycle import is_terminal
from treadle.objects.agent import Agent
from treadle.objects.run import PendingCall, Run, RunError
from treadle.objects.run_step import Step
from treadle.objects.workflow import Workflow


def any_run(found: Run, of: Agent | Workflow) -> wire.Json:
    """Give a run of an agent as the wire tells it, or a run of a workflow."""
    return wire.run(found, of) if isinstance(of, Agent) else workflow_run(found, of)


def workflow_run(found: Run, workflow: Workflow) -> wire.Json:
    """Give a run of a workflow: the keys of the wire's runs that mean something for it, and its own.

    Shapes: `required_action` is what waits: calls as on the wire, or the type `answer` with questions.
    """

    def ended(status: str) -> int | None:
        return wire.seconds(found.ended_ms) if found.status == status else None

    return {
        "id": found.id,
        "object": "thread.run",
        "created_at": wire.seconds(found.created_ms),
        "thread_id": found.thread_id,
        "workflow_id": found.agent_id,
        "workflow": workflow.name,
        "version": found.agent_version,
        "parent_run_id": found.parent_id,
        "status": found.status,
        "required_action": _required_action(found),
        "last_error": _error(found.last_error),
        "expires_at": None if is_terminal(found.status) else wire.seconds(found.expires_ms),
        "resumes_at": wire.seconds(found.wake_ms),
        "started_at": wire.seconds(found.started_ms),
        "cancelled_at": ended("cancelled"),
        "failed_at": ended("failed"),
        "completed_at": ended("completed"),
        "incomplete_details": ({"reason": found.incomplete_reason} if found.status == "incomplete" else None),
        "inputs": found.inputs,
        "output": found.output,
        "metadata": wire.metadata(found.metadata),
        "usage": wire.usage(found.usage),
    }


def _error(error: RunError | None) -> wire.Json | None:
    return None if error is None else error.model_dump(mode="json")


def _required_action(found: Run) -> wire.Json | None:
    if not found.required_answers:
        return wire.required_action(found)
    asked = [question(pending) for pending in found.required_answers]
    calls = [wire.function_call(p.call) for p in found.pending if p.call is not None]
    return {"type": "answer", "answer": {"questions": asked, **({"tool_calls": calls} if calls else {})}}


def question(pending: PendingCall) -> wire.Json:
    """Give what a node asks a person, and where the answer goes."""
    asks = pending.asks
    told: dict[str, Any] = (
        {} if asks is None else asks.model_dump(mode="json", exclude={"until_ms", "digest"})
    )
    until = asks.until_ms if asks is not None else pending.until_ms
    return {"step": pending.path, "run_id": pending.run_id, **told, "until": wire.seconds(until)}


def step_id(run_id: str, path: str) -> str:
    """Give the id of a step of a workflow's run."""
    return ids.derive("step", run_id, path)


def workflow_step(found: Run, step: Step) -> wire.Json:
    """Give a step of a workflow's run."""

    def ended(status: str) -> int | None:
        return wire.seconds(step.ended_ms) if step.status == status else None

    return {
        "id": step_id(found.id, step.path),
        "object": "thread.run.step",
        "created_at": wire.seconds(step.started_ms),
        "workflow_id": found.agent_id,
        "thread_id": found.thread_id,
        "run_id": found.id,
        "type": step.kind,
        "path": step.path,
        "node": step.node,
        "attempt": step.attempt,
        "status": step.status,
        "tool": step.tool,
        "edge": None if step.is_open else step.edge,
        "result": step.result,
        "writes": step.writes,
        "child_run_id": step.child,
        "kept_from": step.kept,
        "last_error": _error(step.last_error),
        "expired_at": ended("expired"),
        "cancelled_at": ended("cancelled"),
        "failed_at": ended("failed"),
        "completed_at": ended("completed"),
        "usage": wire.usage(step.usage),
    }


def step_begun(found: Run, path: str, told: Mapping[str, Any], *, now_ms: int) -> wire.Json:
    """Give a step of a workflow's run that has begun, as the event of it tells."""
    more = {"waits_for": told["waits"]} if "waits" in told else {}
    return {
        "id": step_id(found.id, path),
        "object": "thread.run.step",
        "created_at": wire.seconds(now_ms),
        "workflow_id": found.agent_id,
        "thread_id": found.thread_id,
        "run_id": found.id,
        "type": told.get("kind"),
        "path": path,
        "status": "in_progress",
        "child_run_id": told.get("child"),
        "tool": told.get("tool"),
        **more,
    }
