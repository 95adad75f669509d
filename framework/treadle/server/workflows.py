"""Workflows: what the store has of them, and runs of them. Nothing that comes by this door makes or changes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from treadle import wire
from treadle.errors import NotFound
from treadle.ids import is_workflow_id
from treadle.objects.agent import Agent
from treadle.objects.run import Run
from treadle.objects.workflow import Workflow
from treadle.server import bodies, sse, workflow_objects
from treadle.server.call import Call, paged
from treadle.server.messages import fields_of
from treadle.server.problems import Problem
from treadle.server.run_objects import run_response

MOST_LOOKED_AT = 100
"""In how many messages of a thread the last one of a user is looked for."""

_ONLY_OF_ASSISTANTS = (
    "instructions", "additional_instructions", "tools", "tool_resources", "temperature", "top_p", "max_prompt_tokens",
    "max_completion_tokens", "truncation_strategy", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort",
)  # fmt: skip
"""What a run may change of an assistant, and has no meaning for a workflow, whose nodes say it."""


async def list_(call: Call) -> wire.Json:
    """Give a page of workflows."""
    return await paged(
        call.page(),
        lambda page: call.treadle.workflows.list(**page._asdict()),
        workflow_objects.workflow,
    )


async def get(call: Call) -> wire.Json:
    """Give a workflow, by its id or its name."""
    return workflow_objects.workflow(await call.treadle.workflows.get(call.id("workflow_id")))


async def create_run(call: Call) -> Response:
    """Run a workflow, on a thread or on a new one."""
    body = call.body(bodies.WorkflowRunCreate)
    workflow = await call.treadle.workflows.get(call.id("workflow_id"))
    run = await start(
        call,
        workflow,
        body.thread_id,
        inputs=body.inputs,
        messages=[fields_of(call, message) for message in body.messages or ()],
        metadata=body.metadata,
        model=body.model,
    )
    if body.stream:
        return await sse.of_run(call, run, with_thread=body.thread_id is None)
    return await run_response(call, run)


async def start(
    call: Call,
    workflow: Workflow,
    thread_id: str | None,
    *,
    inputs: Mapping[str, Any] | None,
    messages: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any] | None,
    model: str | None = None,
    new_thread: Mapping[str, Any] | None = None,
) -> Run:
    """Start a run of a workflow, without a thread on a new one.

    Shapes: without `inputs` the last text of a user goes to the one text that the workflow requires, where it requires just that.

    Errors: Problem; those of `Workflows.start`.
    """
    if thread_id is not None:
        await call.check_length(thread_id, more=len(messages))
    if inputs is None:
        inputs = await _from_what_was_said(call, workflow, thread_id, messages)
    with call.begins_run():
        return await call.treadle.workflows.start(
            workflow,
            inputs=inputs,
            thread=thread_id,
            messages=messages,
            metadata=metadata,
            model=call.server.spec.model or model,
            key=call.key,
            on_busy=call.on_busy,
            new_thread=new_thread,
        )


async def target_of(call: Call, name: str) -> Agent | Workflow:
    """Give the assistant that a run is of, or the workflow that is run like one: by its id or its name.

    Errors: NotFound.
    """
    if not is_workflow_id(name):
        try:
            return await call.treadle.agents.get(name)
        except NotFound as e:
            missing = e
    else:
        missing = NotFound("agent", name)
    try:
        return await call.treadle.workflows.get(name)
    except NotFound:
        raise missing from None


async def start_like_an_assistant(
    call: Call,
    workflow: Workflow,
    thread_id: str | None,
    body: bodies.RunCreate | bodies.ThreadRunCreate,
    *,
    messages: Sequence[Mapping[str, Any]],
    new_thread: Mapping[str, Any] | None = None,
) -> Run:
    """Start a run of a workflow by the body of a run of an assistant.

    Errors: Problem for a field that has no meaning for a workflow; those of `start`.
    """
    for name in _ONLY_OF_ASSISTANTS:
        if getattr(body, name, None) is not None:
            said = f"Invalid request. Parameter `{name}` is not supported for a workflow: its nodes say it."
            raise Problem(400, said, param=name)
    return await start(
        call,
        workflow,
        thread_id,
        inputs=body.inputs,
        messages=messages,
        metadata=body.metadata,
        model=body.model,
        new_thread=new_thread,
    )


async def _from_what_was_said(
    call: Call, workflow: Workflow, thread_id: str | None, messages: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    required = [(name, one) for name, one in workflow.spec.inputs.items() if one.is_required]
    if len(required) != 1 or required[0][1].json_schema.get("type") != "string":
        return {}
    drafts = [call.treadle.messages.draft(thread_id or "", **fields) for fields in reversed(messages)]
    said = next((m for m in drafts if m.role == "user"), None)
    if said is None and thread_id is not None:
        listed = await call.treadle.messages.list(thread_id, limit=MOST_LOOKED_AT)
        said = next((m for m in listed if m.role == "user"), None)
    return {required[0][0]: said.plain} if said is not None and said.plain else {}
