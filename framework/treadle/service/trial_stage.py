"""The place where one run of a test happens: a store in memory, standing time, and stand-ins for all that is outside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from treadle.definition.document import Document
from treadle.definition.trial import Trial, TrialError
from treadle.engine.scheduler import fold_all
from treadle.errors import StateError, ToolError, TreadleError
from treadle.graph.nodes import StepGraph
from treadle.ids import is_workflow_id
from treadle.lifecycle import is_terminal
from treadle.objects.agent import Agent, AgentSpec
from treadle.objects.message import Message, ToolCall
from treadle.objects.project import Project
from treadle.objects.run import PendingCall, Run
from treadle.objects.run_step import Step
from treadle.objects.workflow import Workflow, WorkflowSpec
from treadle.providers.base import Emit, ModelReply, ModelRequest, Provider
from treadle.service import Treadle
from treadle.service.models import Models
from treadle.service.trial_expect import Observed
from treadle.service.trial_mocks import Given, Mocks
from treadle.service.trial_nodes import mocked_nodes, names_of, node_of, stood_in
from treadle.service.trial_time import NumberedIds, StandingClock
from treadle.settings import Settings
from treadle.steps.base import Plan
from treadle.steps.node import Model, StandIn, WorkflowPlan
from treadle.tools.base import BoundTool, CallContext
from treadle.tools.gate import failure, render

BY = "test"
"""Who answers in the place of a person."""
_PAGE = 1000
_LOOK_S = 0.05
"""How long a run that others of its tree walk is left alone before it is looked at again."""


class Stage(Treadle):
    """A treadle whose tools, nodes and models a test stands in for."""

    def __init__(self, project: Project, models: Models, mocks: Mocks, *, is_live: bool) -> None:
        """Take the project, the models, and what stands in for the rest; live, pure tools without a mock are called."""
        self.time = StandingClock()
        super().__init__(
            "sqlite://:memory:", settings=Settings(), project=project, clock=self.time, ids=NumberedIds()
        )
        self.models = models
        self.mocks = mocks
        self._is_live = is_live

    def plan(self, run: Run, agent: Agent) -> Plan:
        """Work out how a run of an agent is walked, its tools replaced.

        Errors: as those of `Treadle.plan`.
        """
        plan = super().plan(run, agent)
        tools = {name: self.stood_in(tool) for name, tool in plan.tools.items()}
        return replace(plan, tools=tools, provider=_Working(plan.provider, self.time))

    def plan_workflow(
        self, graph: StepGraph, *, stand_in: StandIn | None = None, spares: frozenset[str] = frozenset()
    ) -> WorkflowPlan:
        """Work out how runs of a workflow are walked, its nodes, tools and models replaced.

        Errors: as those of `Treadle.plan_workflow`.
        """
        del stand_in
        plan = super().plan_workflow(graph, spares=spares | mocked_nodes(graph, self.mocks))
        named = plan.model_named
        return replace(
            plan,
            tools={id_: self._of_node(graph, id_, tool) for id_, tool in plan.tools.items()},
            functions={name: self.stood_in(tool) for name, tool in plan.functions.items()},
            models={id_: self._working(model) for id_, model in plan.models.items()},
            model_named=None if named is None else self._named(named),
            stand_in=stood_in(graph, self.mocks),
        )

    def _working(self, model: Model) -> Model:
        return model._replace(provider=_Working(model.provider, self.time))

    def _named(self, named: Callable[[str], Model]) -> Callable[[str], Model]:
        def found(name: str) -> Model:
            return self._working(named(name))

        return found

    def _of_node(self, graph: StepGraph, id_: str, tool: BoundTool) -> BoundTool:
        if graph.node[id_].params["type"] == "tool":
            return self.stood_in(tool)
        invoke = tool.invoke
        if invoke is None:
            return tool

        async def call(arguments: dict[str, Any], context: CallContext) -> Any:
            # What a function asks of its `ctx` is stood in for, so one that does all through it reaches nothing.
            if tool.spec.effect != "pure" and not (tool.spec.effect == "once" and "ctx" in tool.passed):
                happened = f"node {id_} was entered, whose function is not pure"
                self.mocks.miss("nodes", names_of(id_)[-1], happened)
                raise ToolError("the test has no answer for this node", tool=id_)
            with self.time.working():
                return await invoke(arguments, context)

        return replace(tool, invoke=call)

    def stood_in(self, tool: BoundTool) -> BoundTool:
        """Give a tool that answers what the test says; one of the client stays as it is."""
        invoke, name = tool.invoke, tool.spec.name
        if invoke is None:
            return tool

        async def answer(arguments: dict[str, Any], context: CallContext) -> Any:
            if self._is_live and tool.spec.effect == "pure" and not self.mocks.names("tools", name):
                self.mocks.called.append((name, arguments))
                with self.time.working():
                    return await invoke(arguments, context)
            given = self.mocks.tool(name, arguments)
            if given is None:
                raise ToolError("the test has no answer for this call", tool=name)
            if given.error is not None:
                raise raised(given.error, name)
            return given.value

        return replace(tool, invoke=answer)


class _Working:
    """A provider during whose calls no wait passes."""

    def __init__(self, provider: Provider, time: StandingClock) -> None:
        self._provider = provider
        self._time = time

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Ask the model."""
        with self._time.working():
            return await self._provider.call(request, emit)

    async def close(self) -> None:
        """Do nothing: the models close what they made."""


def raised(error: TrialError, tool: str) -> BaseException:
    """Give what a function raises so that its call fails with that code."""
    message = error.message or "the test says no"
    if error.type == "timeout":
        return TimeoutError(message)
    if error.type == "connection":
        return ConnectionError(message)
    return ToolError(message if error.type == "tool_error" else f"{error.type}: {message}", tool=tool)


# -- running -------------------------------------------------------------------------------------------------


async def perform(stage: Stage, document: Document, trial: Trial) -> Run:
    """Run a document as its test says, answer what the test answers, and give the run when it rests.

    Errors: TreadleError for a run that cannot begin.
    """
    begun = await _begin(stage, document, trial)
    while True:
        run = await _at_rest(stage, begun.id)
        if run.status != "requires_action" or not await _answer(stage, run):
            return run


async def _begin(stage: Stage, document: Document, trial: Trial) -> Run:
    if isinstance(document.spec, AgentSpec):
        if trial.state:
            raise StateError("an agent has no state", hint="take `state` away from the test")
        agent = await stage.agents.apply(document.spec)
        thread = await stage.threads.create(messages=messages_of(trial))
        return await stage.runs.create(thread.id, agent=agent, inputs=trial.inputs)
    target = f"{document.path}#{document.name}" if document.name else document.path
    workflow = await stage.workflows.apply(target)
    return await stage.workflows.start(
        _with_state(workflow, trial.state), inputs=trial.inputs, messages=messages_of(trial)
    )


def _with_state(workflow: Workflow, state: Mapping[str, Any]) -> Workflow:
    """Give a workflow whose state begins with other values.

    Errors: StateError for a key that it does not declare.
    """
    if not state:
        return workflow
    declared = dict(workflow.spec.state)
    for key, value in state.items():
        if key not in declared:
            known = ", ".join(declared) or "none"
            raise StateError(f"the workflow declares no state '{key}'", hint=f"declared: {known}")
        declared[key] = declared[key].model_copy(update={"default": value})
    spec: WorkflowSpec = workflow.spec.model_copy(update={"state": declared})
    return workflow.model_copy(update={"spec": spec})


def messages_of(trial: Trial) -> list[dict[str, str]]:
    """Give the messages that the thread begins with."""
    said: list[dict[str, str]] = []
    for message in trial.messages:
        if message.user is not None:
            said.append({"role": "user", "content": message.user})
        if message.assistant is not None:
            said.append({"role": "assistant", "content": message.assistant})
    return said


async def _at_rest(stage: Stage, run_id: str) -> Run:
    """Give a run when it has ended or needs somebody; where it only waits for a time, that time comes at once."""
    while True:
        task = stage.runs.walks.tasks.get(run_id)
        if task is not None:
            await asyncio.shield(task)
        run = await stage.runs.get(run_id)
        if is_terminal(run.status) or run.status == "requires_action":
            return run
        if run.walker is None and run.wake_ms is not None:
            await _wake(stage, run_id, run.wake_ms)
        else:
            await stage.store.changed(_LOOK_S)


async def _wake(stage: Stage, run_id: str, ms: int) -> None:
    stage.time.move_to(ms)
    stage.keeper.take(run_id)
    await stage.recover()


# -- answering -----------------------------------------------------------------------------------------------


async def _answer(stage: Stage, run: Run) -> bool:
    """Answer one thing that a run waits for; tell whether it goes on."""
    mocks = stage.mocks
    for pending in (*run.required_approvals, *run.required_answers):
        for name in asked_by(pending):
            answer = mocks.human(name)
            if answer is not None:
                return await _say(stage, run, pending, name, answer)
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


def asked_by(pending: PendingCall) -> tuple[str, ...]:
    """Give the names by which a test may call what asks: a tool, or a node."""
    return (pending.call.name,) if pending.call is not None else names_of(node_of(pending.path))


async def _say(stage: Stage, run: Run, pending: PendingCall, name: str, answer: Mapping[str, Any]) -> bool:
    try:
        if answer.get("timeout"):
            await _let_pass(stage, run, pending)
        elif pending.call is not None:
            await _decide(stage, run, pending.call, answer)
        else:
            said: dict[str, Any] = {"by": BY, **answer}
            said.pop("arguments", None)
            await stage.runs.answer(pending.run_id or run.id, pending.path, **said)
    except TreadleError as e:
        stage.mocks.refuse("human", name, e.message)
        return False
    return True


async def _let_pass(stage: Stage, run: Run, pending: PendingCall) -> None:
    until_ms = pending.until_ms
    if until_ms is None and pending.asks is not None:
        until_ms = pending.asks.until_ms
    if until_ms is None:
        raise StateError("nothing happens when nobody answers: the question has no timeout")
    await _wake(stage, run.id, until_ms)


async def _decide(stage: Stage, run: Run, call: ToolCall, answer: Mapping[str, Any]) -> None:
    comment, by = answer.get("comment") or "", answer.get("by") or BY
    if answer.get("decision") == "approve":
        await stage.runs.approve(run.id, call.id, arguments=answer.get("arguments"), by=by)
    elif answer.get("decision") == "reject":
        await stage.runs.reject(run.id, call.id, reason=comment, by=by)
    else:
        raise StateError("the answer to an approval says decision: approve, or reject")


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


# -- looking -------------------------------------------------------------------------------------------------


async def observe(stage: Stage, run: Run, *, first: int) -> Observed:
    """Give what a run did; the thread had `first` messages when it began."""
    steps = await stage.runs.steps(run.id)
    said = [m for m in await _rows(stage, run, after=first) if m.role == "assistant" and m.is_listed]
    return Observed(
        status=run.status,
        reason=_reason(run),
        output=run.output,
        text=said[-1].plain if said else "",
        state=await _state(stage, run, steps),
        path=path_of(steps, is_workflow=is_workflow_id(run.agent_id)),
        tools=[name for name, _ in stage.mocks.called],
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


async def _state(stage: Stage, run: Run, steps: Sequence[Step]) -> dict[str, Any]:
    """Give the state of a workflow's run as it is at the end; an agent has none."""
    if not is_workflow_id(run.agent_id):
        return {}
    graph = StepGraph.load(await stage.store.graph(run.tenant, run.graph))
    values = fold_all(graph, steps).values.get("")
    return dict(values.state) if values is not None else {}


def _reason(run: Run) -> str | None:
    if run.last_error is not None:
        return f"{run.last_error.code}: {run.last_error.message}"
    return run.incomplete_reason


def path_of(steps: Sequence[Step], *, is_workflow: bool) -> list[str]:
    """Give what a run went through, in the order in which it was done.

    Shapes: for an agent the kinds of its steps, with the tools by their names; for a workflow the ids of its nodes, those of
    a parallel node, a map or a loop where it closes. What failed and led on is among them.
    """
    if not is_workflow:
        return [_tool_or_node(step) for step in steps if step.status == "completed"]
    ended = [s for s in steps if s.status in ("completed", "failed") and s.edge != "retry"]
    ended.sort(key=lambda s: (s.event_seq or 0, s.n))
    closed = {s.path.removesuffix("/end") for s in ended if s.path.endswith("/end")}
    return [s.node for s in ended if not _is_opening(s, closed) and not _is_recorded(s)]


def _is_opening(step: Step, closed: set[str]) -> bool:
    """Tell whether a step only begins lanes of its frame."""
    if step.kind != "frame" or step.path.endswith("/end"):
        return False
    return step.fan > 0 or step.path in closed


def _is_recorded(step: Step) -> bool:
    """Tell whether a step is a call that a function made."""
    return step.kind != "frame" and step.path.rpartition("/")[2].isdigit()


def _tool_or_node(step: Step) -> str:
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
        asks = pending.asks
        told = asks.model_dump(mode="json", exclude_defaults=True) if asks is not None else {}
        return {"type": "submit_answer", "node": node_of(pending.path), **told}
    action = {
        "type": "submit_tool_outputs" if pending.action == "output" else "submit_tool_approval",
        "tool": pending.call.name,
        "arguments": decoded(pending.call.arguments),
    }
    return action if pending.question is None else {**action, "question": pending.question}
