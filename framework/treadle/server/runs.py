"""Runs of assistants on threads."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from treadle import wire
from treadle.errors import NotFound, StateError
from treadle.objects.agent import Agent, ThreadSpec
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool
from treadle.server import bodies, sse
from treadle.server.agents import checked_instructions, output_of, tools_of
from treadle.server.call import Call, json_response, paged
from treadle.server.messages import fields_of
from treadle.server.problems import Problem

POLL_MS = 50
"""What clients that poll are told to wait: this server is near."""

MOST_EVENTS = 10**15 - 1
"""The greatest number that an event can have."""

_AS_GIVEN = (
    "model", "additional_instructions", "temperature", "top_p", "max_prompt_tokens", "max_completion_tokens",
    "parallel_tool_calls", "reasoning_effort", "tool_resources",
)  # fmt: skip


async def create(call: Call) -> Response:
    """Run an assistant on a thread."""
    body = call.body(bodies.RunCreate)
    thread_id = call.id("thread_id")
    agent = await call.treadle.agents.get(body.assistant_id)
    fields = _fields(call, body, agent)
    fields["additional_messages"] = [fields_of(call, message) for message in body.additional_messages or ()]
    await call.check_length(thread_id, more=len(fields["additional_messages"]))
    with call.begins_run():
        run = await call.treadle.runs.create(thread_id, agent=agent, **fields)
    return await (sse.of_run(call, run) if body.stream else _answer(call, run))


async def create_with_thread(call: Call) -> Response:
    """Make a thread and run an assistant on it."""
    body = call.body(bodies.ThreadRunCreate)
    agent = await call.treadle.agents.get(body.assistant_id)
    fields = _fields(call, body, agent)
    thread = body.thread or bodies.ThreadCreate()
    fields["additional_messages"] = [fields_of(call, message) for message in thread.messages or ()]
    fields["new_thread"] = {
        "metadata": thread.metadata or {},
        "tool_resources": thread.tool_resources or {},
    }
    with call.begins_run():
        run = await call.treadle.runs.create(None, agent=agent, **fields)
    return await (sse.of_run(call, run, with_thread=True) if body.stream else _answer(call, run))


async def list_(call: Call) -> wire.Json:
    """Give a page of a thread's runs."""
    thread_id = call.id("thread_id")
    page = call.page()
    agents: dict[str, Agent] = {}

    async def fetch(wanted: Any) -> list[Run]:
        runs = await call.treadle.runs.list(thread_id, **wanted._asdict())
        for place, run in enumerate(runs):
            agents[run.id] = await call.server.agent_of(run)
            if run.status == "requires_action":
                runs[place] = await call.treadle.runs.get(run.id)
        return runs

    return await paged(page, fetch, lambda run: wire.run(run, agents[run.id]))


async def get(call: Call) -> Response:
    """Give a run."""
    return await _answer(call, await found(call))


async def update(call: Call) -> Response:
    """Change a run's metadata."""
    body = call.body(bodies.MetadataUpdate)
    run = await found(call)
    if "metadata" in body.model_fields_set:
        run = await call.treadle.runs.update(run.id, metadata=body.metadata or {})
    return await _answer(call, run)


async def cancel(call: Call) -> Response:
    """Ask for a run's end."""
    return await _answer(call, await call.treadle.runs.cancel((await found(call)).id))


async def submit(call: Call) -> Response:
    """Give a run what it waits for: the outputs of its calls, or people's decisions on them."""
    body = call.body(bodies.SubmitToolOutputs)
    run = await found(call)
    if body.tool_outputs is None and body.tool_approvals is None:
        raise Problem(400, "Missing required parameter: 'tool_outputs'.", param="tool_outputs")
    outputs = [{"tool_call_id": o.tool_call_id, "output": o.output} for o in body.tool_outputs or ()]
    after = await call.treadle.runs.event_before(run.id, outputs) if body.stream else 0
    if body.tool_approvals is not None:
        run = await _decide(call, run, body.tool_approvals)
    if body.tool_outputs is not None:
        run = await call.treadle.runs.submit_tool_outputs(run.id, outputs, key=call.key)
    return await (sse.of_run(call, run, after=after) if body.stream else _answer(call, run))


async def events(call: Call) -> Response:
    """Follow a run, from its beginning or after the event that a reader has seen last."""
    run = await found(call)
    # A browser that comes back asks at its first address, and says in the header how far it has come since.
    given = (call.header("last-event-id"), call.asked("after"))
    numbers = [_event_number(text) for text in given if text]
    return await sse.of_run(call, run, after=numbers[0] if numbers else 0, until_rest=False)


def _event_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST_EVENTS))):
        raise Problem(
            400, f"Invalid 'after': expected the number of an event, got '{text[:50]}'.", param="after"
        )
    return int(text)


async def found(call: Call) -> Run:
    """Give the run that the path names.

    Errors: NotFound, also for a run of another thread.
    """
    run_id = call.id("run_id")
    run = await call.treadle.runs.get(run_id, output=False)
    if run.thread_id != call.id("thread_id"):
        raise NotFound("run", run_id)
    return run


async def _answer(call: Call, run: Run) -> Response:
    headers = {"openai-poll-after-ms": str(POLL_MS)}
    return json_response(wire.run(run, await call.server.agent_of(run)), headers=headers)


async def _decide(call: Call, run: Run, given: list[bodies.ToolApproval]) -> Run:
    """Write people's decisions on the calls of a run, all that it waits for at once.

    Errors: StateError for a run that waits for none, or for other ones.
    """
    if run.status != "requires_action":
        raise StateError(f'Runs in status "{run.status}" do not accept tool approvals.')
    waiting = {p.call.id: p for p in run.required_approvals if p.call is not None}
    named = [approval.tool_call_id for approval in given]
    if sorted(named) != sorted(waiting):
        raise StateError(f"Expected tool approvals for call_ids {list(waiting)}, got {named}")
    for approval in given:
        if approval.approve:
            digest = waiting[approval.tool_call_id].digest
            run = await call.treadle.runs.approve(
                run.id, approval.tool_call_id, by=call.key_id, digest=digest
            )
        else:
            run = await call.treadle.runs.reject(run.id, approval.tool_call_id, by=call.key_id)
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
