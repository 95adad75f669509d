"""The place where one run of a test happens: a store in memory, standing time, and stand-ins for all that is outside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from treadle.definition.document import Document
from treadle.definition.trial import Trial, TrialError
from treadle.errors import ToolError, TreadleError
from treadle.objects.agent import Agent, AgentSpec
from treadle.objects.message import Message, ToolCall
from treadle.objects.project import Project
from treadle.objects.run import PendingCall, Run
from treadle.objects.run_step import Step
from treadle.service import Treadle
from treadle.service.models import Models
from treadle.service.trial_expect import Observed
from treadle.service.trial_mocks import Flaw, Given, Mocks
from treadle.service.trial_time import NumberedIds, StandingClock
from treadle.settings import Settings
from treadle.steps.base import Plan
from treadle.tools.base import BoundTool, CallContext
from treadle.tools.gate import failure, render

BY = "test"
"""Who answers in the place of a person."""
_PAGE = 1000


class Stage(Treadle):
    """A treadle whose tools and models a test stands in for."""

    def __init__(self, project: Project, models: Models, mocks: Mocks, *, is_live: bool) -> None:
        """Take the project, the models, and what stands in for the rest; live, pure tools without a mock are called."""
        super().__init__(
            "sqlite://:memory:",
            settings=Settings(),
            project=project,
            clock=StandingClock(),
            ids=NumberedIds(),
        )
        self.models = models
        self._mocks = mocks
        self._is_live = is_live

    def plan(self, run: Run, agent: Agent) -> Plan:
        """Work out how a run of an agent is walked, its tools replaced.

        Errors: as those of `Treadle.plan`.
        """
        plan = super().plan(run, agent)
        return replace(plan, tools={name: self.stood_in(tool) for name, tool in plan.tools.items()})

    def stood_in(self, tool: BoundTool) -> BoundTool:
        """Give a tool that answers what the test says; one of the client stays as it is."""
        invoke, name = tool.invoke, tool.spec.name
        if invoke is None:
            return tool

        async def answer(arguments: dict[str, Any], context: CallContext) -> Any:
            if self._is_live and tool.spec.effect == "pure" and not self._mocks.names("tools", name):
                self._mocks.called.append((name, arguments))
                return await invoke(arguments, context)
            given = self._mocks.tool(name, arguments)
            if given is None:
                raise ToolError("the test has no answer for this call", tool=name)
            if given.error is not None:
                raise raised(given.error, name)
            return given.value

        return replace(tool, invoke=answer)


def raised(error: TrialError, tool: str) -> BaseException:
    """Give what a function raises so that its call fails with that code."""
    message = error.message or "the test says no"
    if error.type == "timeout":
        return TimeoutError(message)
    if error.type == "connection":
        return ConnectionError(message)
    return ToolError(message if error.type == "tool_error" else f"{error.type}: {message}", tool=tool)


async def perform(stage: Stage, document: Document, trial: Trial, mocks: Mocks) -> Run:
    """Run a document as its test says, answer what the test answers, and give the run when it rests.

    Errors: TreadleError for a run that cannot begin.
    """
    spec = document.spec
    assert isinstance(spec, AgentSpec)
    agent = await stage.agents.apply(spec)
    thread = await stage.threads.create(messages=messages_of(trial))
    run = await stage.runs.create(thread.id, agent=agent, inputs=trial.inputs)
    while True:
        run = await stage.runs.wait(run.id)
        if run.status != "requires_action" or not await _answer(stage, run, mocks):
            return run


def messages_of(trial: Trial) -> list[dict[str, str]]:
    """Give the messages that the thread begins with."""
    said: list[dict[str, str]] = []
    for message in trial.messages:
        if message.user is not None:
            said.append({"role": "user", "content": message.user})
        if message.assistant is not None:
            said.append({"role": "assistant", "content": message.assistant})
    return said


async def _answer(stage: Stage, run: Run, mocks: Mocks) -> bool:
    """Answer one thing that a run waits for; tell whether it goes on."""
    for pending in run.required_approvals:
        assert pending.call is not None
        answer = mocks.human(pending.call.name)
        if answer is not None:
            return await _decide(stage, run, pending.call, answer, mocks)
    calls = run.required_action
    if run.required_approvals or not any(mocks.has("tools", call.name) for call in calls):
        return False
    outputs = [
        {
            "tool_call_id": call.id,
            "output": _output(call.name, mocks.tool(call.name, decoded(call.arguments))),
        }
        for call in calls
    ]
    await stage.runs.submit_tool_outputs(run.id, outputs)
    return True


async def _decide(stage: Stage, run: Run, call: ToolCall, answer: Mapping[str, Any], mocks: Mocks) -> bool:
    comment, by = answer.get("comment") or "", answer.get("by") or BY
    try:
        if answer.get("decision") == "approve":
            await stage.runs.approve(run.id, call.id, arguments=answer.get("arguments"), by=by)
        elif answer.get("decision") == "reject":
            await stage.runs.reject(run.id, call.id, reason=comment, by=by)
        else:
            raise ToolError("the answer to an approval says decision: approve, or reject")
    except TreadleError as e:
        path = ("mock", "human", call.name)
        mocks.flaws.append(Flaw(what=f"mock.human.{call.name}", message=e.message, path=path))
        return False
    return True


def _output(name: str, given: Given | None) -> str:
    if given is None:
        return failure("tool_error", "the test has no answer for this call").text
    if given.error is not None:
        return failure(given.error.type, given.error.message or given.error.type).text
    return render(name, given.value).text


def decoded(arguments: str) -> Any:
    """Give a call's arguments as JSON, or as the text that they are."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


async def observe(stage: Stage, run: Run, mocks: Mocks, *, first: int) -> Observed:
    """Give what a run did; the thread had `first` messages when it began."""
    steps = await stage.runs.steps(run.id)
    said = [m for m in await _rows(stage, run, after=first) if m.role == "assistant" and m.is_listed]
    return Observed(
        status=run.status,
        reason=_reason(run),
        output=run.output,
        text=said[-1].plain if said else "",
        path=[name_of(step) for step in steps if step.status == "completed"],
        tools=[name for name, _ in mocks.called],
        required=[required(pending) for pending in run.pending] if run.status == "requires_action" else [],
        journal=[_entry(step) for step in steps],
        tokens=run.usage.total_tokens if run.usage is not None else 0,
    )


async def conversation(stage: Stage, run: Run) -> list[tuple[str, str]]:
    """Give what was said on a run's thread, as (role, text)."""
    return [(m.role, m.plain) for m in await _rows(stage, run) if m.is_listed]


async def _rows(stage: Stage, run: Run, *, after: int = 0) -> Sequence[Message]:
    rows: list[Message] = []
    while page := await stage.store.rows(run.tenant, run.thread_id, after=after, limit=_PAGE):
        rows += page
        after = page[-1].seq
    return rows


def _reason(run: Run) -> str | None:
    if run.last_error is not None:
        return f"{run.last_error.code}: {run.last_error.message}"
    return run.incomplete_reason


def name_of(step: Step) -> str:
    """Give what a test calls a step: the tool that it called, else its node."""
    return step.tool if step.kind == "tool_call" and step.tool else step.node


def _entry(step: Step) -> dict[str, Any]:
    return {
        "node": step.node,
        "kind": step.kind,
        "status": step.status,
        "tool": step.tool,
        "path": step.path,
        "attempt": step.attempt,
        "error": step.last_error.code if step.last_error is not None else None,
    }


def required(pending: PendingCall) -> dict[str, Any]:
    """Give one thing that a run waits for, as tests name it."""
    if pending.call is None:
        return {"type": "submit_answer"}
    action = {
        "type": "submit_tool_outputs" if pending.action == "output" else "submit_tool_approval",
        "tool": pending.call.name,
        "arguments": decoded(pending.call.arguments),
    }
    return action if pending.question is None else {**action, "question": pending.question}
