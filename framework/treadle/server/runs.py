"""Runs of assistants on threads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from treadle import wire
from treadle.errors import NotFound
from treadle.ids import is_workflow_id
from treadle.objects.agent import Agent, ThreadSpec
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool
from treadle.objects.workflow import Workflow
from treadle.server import bodies, sse
from treadle.server.agents import checked_instructions, output_of, tools_of
from treadle.server.call import Call, paged
from treadle.server.messages import fields_of
from treadle.server.problems import Problem
from treadle.server.run_objects import run_json, run_response
from treadle.server.workflow_lines import Place, place_of
from treadle.server.workflows import start_like_an_assistant, target_of
from treadle.service.workflows import DEPTH

MOST_DIGITS = 15
"""The most digits that the number of an event can have."""
PLACE = rf"[0-9]{{1,{MOST_DIGITS}}}(\.[0-9]{{1,{MOST_DIGITS}}}){{0,{DEPTH}}}"
"""What the id of an event looks like: a number, and behind it those of the runs within that are under way then."""

_PLACE = re.compile(rf"{PLACE}\Z", re.ASCII)

_AS_GIVEN = (
    "model", "additional_instructions", "temperature", "top_p", "max_prompt_tokens", "max_completion_tokens",
    "parallel_tool_calls", "reasoning_effort", "tool_resources",
)  # fmt: skip


async def create(call: Call) -> Response:
    """Run an assistant, or a workflow, on a thread."""
    body = call.body(bodies.RunCreate)
    thread_id = call.id("thread_id")
    target = await target_of(call, body.assistant_id)
    messages = [fields_of(call, message) for message in body.additional_messages or ()]
    if isinstance(target, Workflow):
        run = await start_like_an_assistant(call, target, thread_id, body, messages=messages)
    else:
        fields = _fields(call, body, target)
        fields["additional_messages"] = messages
        await call.check_length(thread_id, more=len(messages))
        with call.begins_run():
            run = await call.treadle.runs.create(thread_id, agent=target, **fields)
    return await (sse.of_run(call, run) if body.stream else run_response(call, run))


async def create_with_thread(call: Call) -> Response:
    """Make a thread and run an assistant, or a workflow, on it."""
    body = call.body(bodies.ThreadRunCreate)
    target = await target_of(call, body.assistant_id)
    thread = body.thread or bodies.ThreadCreate()
    messages = [fields_of(call, message) for message in thread.messages or ()]
    new = {"metadata": thread.metadata or {}, "tool_resources": thread.tool_resources or {}}
    if isinstance(target, Workflow):
        run = await start_like_an_assistant(call, target, None, body, messages=messages, new_thread=new)
    else:
        fields = _fields(call, body, target)
        fields |= {"additional_messages": messages, "new_thread": new}
        with call.begins_run():
            run = await call.treadle.runs.create(None, agent=target, **fields)
    return await (sse.of_run(call, run, with_thread=True) if body.stream else run_response(call, run))


async def list_(call: Call) -> wire.Json:
    """Give a page of a thread's runs."""
    thread_id = call.id("thread_id")
    page = call.page()

    async def fetch(wanted: Any) -> list[wire.Json]:
        runs = await call.treadle.runs.list(thread_id, **wanted._asdict())
        for place, run in enumerate(runs):
            if run.status == "requires_action":
                runs[place] = await call.treadle.runs.get(run.id)
        return [await run_json(call, run) for run in runs]

    return await paged(page, fetch, lambda run: run)


async def get(call: Call) -> Response:
    """Give a run."""
    return await run_response(call, await found(call))


async def update(call: Call) -> Response:
    """Change a run's metadata."""
    body = call.body(bodies.MetadataUpdate)
    run = await found(call)
    if "metadata" in body.model_fields_set:
        run = await call.treadle.runs.update(run.id, metadata=body.metadata or {})
    return await run_response(call, run)


async def cancel(call: Call) -> Response:
    """Ask for a run's end."""
    return await run_response(call, await call.treadle.runs.cancel((await found(call)).id))


async def submit(call: Call) -> Response:
    """Give a run what it waits for: the outputs of its calls, or people's decisions on them."""
    body = call.body(bodies.SubmitToolOutputs)
    run = await found(call)
    if body.tool_outputs is None and body.tool_approvals is None:
        raise Problem(400, "Missing required parameter: 'tool_outputs'.", param="tool_outputs")
    outputs = [{"tool_call_id": o.tool_call_id, "output": o.output} for o in body.tool_outputs or ()]
    after = await _place_before(call, run, outputs) if body.stream else ()
    if body.tool_approvals is not None:
        verdicts = {approval.tool_call_id: approval.approve for approval in body.tool_approvals}
        if len(verdicts) < len(body.tool_approvals):
            raise Problem(
                400, "Invalid 'tool_approvals': a call is decided on twice.", param="tool_approvals"
            )
        run = await call.treadle.runs.decide(run.id, verdicts, by=call.key_id)
    if body.tool_outputs is not None:
        run = await call.treadle.runs.submit_tool_outputs(run.id, outputs, key=call.key)
    return await (sse.of_run(call, run, after=after) if body.stream else run_response(call, run))


async def answer(call: Call) -> Response:
    """Answer a question that a run, or a run within it, asks a person."""
    body = call.body(bodies.AnswerCreate)
    run = await found(call)
    after = await _place_before(call, run, ()) if body.stream else ()
    run = await call.treadle.runs.answer(
        run.id,
        body.node,
        decision=body.decision,
        choice=body.choice,
        value=body.value,
        comment=body.comment,
        by=call.key_id,
    )
    return await (sse.of_run(call, run, after=after) if body.stream else run_response(call, run))


async def _place_before(call: Call, run: Run, outputs: Sequence[dict[str, Any]]) -> Place:
    """Give the place behind which stands what an answer to a run leads to."""
    if is_workflow_id(run.agent_id):
        return await place_of(call.treadle, run)
    return (await call.treadle.runs.event_before(run.id, outputs),)


async def events(call: Call) -> Response:
    """Follow a run, from its beginning or after the event that a reader has seen last."""
    run = await found(call)
    # A browser that comes back asks at its first address, and says in the header how far it has come since.
    given = (call.header("last-event-id"), call.asked("after"))
    places = [_place(text, run) for text in given if text]
    return await sse.of_run(call, run, after=places[0] if places else (), until_rest=False)


def _place(text: str, run: Run) -> Place:
    if not _PLACE.match(text) or ("." in text and not is_workflow_id(run.agent_id)):
        raise Problem(400, f"Invalid 'after': expected the id of an event, got '{text[:50]}'.", param="after")
    return tuple(map(int, text.split(".")))


async def found(call: Call) -> Run:
    """Give the run that the path names.

    Errors: NotFound, also for a run of another thread.
    """
    run_id = call.id("run_id")
    run = await call.treadle.runs.get(run_id, output=False)
    if run.thread_id != call.id("thread_id"):
        raise NotFound("run", run_id)
    return run


def _fields(call: Call, body: bodies.RunCreate | bodies.ThreadRunCreate, agent: Agent) -> dict[str, Any]:
    """Give what a body says of a run, as the verbs take it.

    Errors: Problem.
    """
    serve = call.server.spec
    fields: dict[str, Any] = {name: getattr(body, name, None) for name in _AS_GIVEN}
    if body.instructions is not None:
        fields["instructions"] = checked_instructions(body.instructions, serve)
    if body.tools is not None:
        fields["tools"] = tools_of(body.tools, serve, most=serve.limits.run_tools)
    if body.tool_choice is not None:
        fields["tool_choice"] = _choice(body.tool_choice, fields.get("tools", agent.spec.tools))
    if body.truncation_strategy is not None:
        fields["thread"] = _truncation(body.truncation_strategy)
    if isinstance(body.response_format, bodies.ResponseFormat):
        fields["output"] = output_of(body.response_format) or "text"
    elif body.response_format == "none":
        fields["output"] = "text"
    if serve.model is not None:
        fields["model"] = serve.model
    return {
        **fields,
        "inputs": body.inputs,
        "metadata": body.metadata,
        "ttl": serve.run_ttl,
        "key": call.key,
        "on_busy": call.on_busy,
        "fails_late": serve.unavailable_tools == "accept",
    }


def _choice(choice: bodies.ChosenTool | str, tools: Any) -> str:
    if isinstance(choice, str):
        return choice
    if choice.type != "function" or choice.function is None:
        kinds = {tool.type for tool in tools}
        if choice.type in kinds:
            return choice.type
        raise Problem(
            400, f"Invalid 'tool_choice': the run has no tool of type '{choice.type}'.", param="tool_choice"
        )
    name = choice.function.name
    if name not in {tool.name for tool in tools if isinstance(tool, FunctionTool)}:
        raise Problem(400, f"Invalid 'tool_choice': the run has no function '{name}'.", param="tool_choice")
    return name


def _truncation(strategy: bodies.TruncationStrategy) -> ThreadSpec:
    if strategy.type == "auto":
        return ThreadSpec()
    if strategy.last_messages is None:
        param = "truncation_strategy.last_messages"
        raise Problem(400, f"Missing required parameter: '{param}'.", param=param)
    return ThreadSpec(truncation="last", keep_last=strategy.last_messages)
