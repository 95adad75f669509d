"""Run an agent or another workflow as a child run, for agent and workflow nodes; its end is the node's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from treadle.ids import derive
from treadle.objects.agent import Budget, OutputSpec
from treadle.objects.message import Message
from treadle.objects.record import parse_duration
from treadle.objects.run import Run
from treadle.objects.run_step import Used
from treadle.steps.names import fill, text
from treadle.steps.node import ChildRequest, NodeContext, NodeEffects, NodeKind, failed


def further_thread(run_id: str, name: str) -> str:
    """Give the id of the thread that a run's nodes call by a name."""
    return derive("thread", run_id, f"thread {name}")


def agent(context: NodeContext) -> NodeEffects:
    """Ask for a run of the agent."""
    params = context.params
    message = params.get("message")
    output = params.get("output")
    return _asked(
        context,
        ChildRequest(
            pin=params.get("pin", {}),
            inputs=fill(params.get("inputs", {}), context.view),
            thread=params.get("thread", "shared"),
            message=None if message is None else text(message, context.view),
            output=None if output is None else OutputSpec.model_validate(output),
            limits=_limits(params),
        ),
    )


def workflow(context: NodeContext) -> NodeEffects:
    """Ask for a run of the workflow."""
    params = context.params
    return _asked(
        context,
        ChildRequest(
            pin=params.get("pin", {}),
            inputs=fill(params.get("with", {}), context.view),
            thread=params.get("thread", "shared"),
            limits=_limits(params),
        ),
    )


def _limits(params: Any) -> Budget | None:
    limits = params.get("limits")
    return None if limits is None else Budget.model_validate(limits)


def _asked(context: NodeContext, request: ChildRequest) -> NodeEffects:
    key = context.params.get("idempotency_key")
    timeout = context.params.get("timeout")
    if timeout is not None:
        request = request._replace(timeout_s=parse_duration(timeout))
    return NodeEffects(
        status="in_progress", child=request, key=None if key is None else text(key, context.view)
    )


def outcome(
    context: NodeContext, run: Run, messages: Sequence[Message], used: Used, *, is_structured: bool
) -> NodeEffects:
    """Give what a child run that has ended means for its node.

    Shapes: `messages` are what the run said, in order; where it `is_structured` the last one is JSON.
    """
    more: dict[str, Any] = {"usage": run.usage, "used": used}
    if run.status != "completed":
        return failed(*_why(run), **more)
    if context.params["type"] == "workflow":
        return NodeEffects(result=run.output, **more)
    last = messages[-1].text or "" if messages else ""
    usage = run.usage
    result = {
        "text": last,
        "output": _parsed(last) if is_structured else last,
        "messages": [{"role": m.role, "content": m.text or ""} for m in messages],
        "usage": {
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": usage.completion_tokens if usage else 0,
        },
        "run_id": run.id,
        "status": run.status,
    }
    return NodeEffects(result=result, **more)


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _why(run: Run) -> tuple[str, str]:
    if run.status == "failed" and run.last_error is not None:
        return run.last_error.code, f"run {run.id}: {run.last_error.message}"
    if run.status == "incomplete":
        reason = run.incomplete_reason or "a limit"
        code = "content_filter" if reason == "content_filter" else "budget"
        return code, f"run {run.id} ended incomplete: {reason}"
    if run.status == "expired":
        return "timeout", f"run {run.id} expired"
    return "cancelled" if run.status == "cancelled" else "model_error", f"run {run.id} is {run.status}"


AGENT = NodeKind(agent)
WORKFLOW = NodeKind(workflow)
