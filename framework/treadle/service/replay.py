"""Walk a run once more with what its steps gave, executing nothing, and hold the new trace against the one that it has.

The walk happens in a store of its own, in memory; what decides the way (conditions, joins, limits of loops, writes to the state) is
worked out again. A difference says that the graph is walked otherwise by now than it was when the run was made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from treadle.engine.executor import Prepared
from treadle.engine.history import history
from treadle.engine.kept_steps import KEPT, KeptSteps, reads
from treadle.engine.scheduler import start
from treadle.errors import StateError
from treadle.graph.nodes import StepGraph
from treadle.ids import is_workflow_id
from treadle.objects.agent import Agent
from treadle.objects.message import Message
from treadle.objects.project import Project
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.workflow import Workflow
from treadle.providers.base import ModelReply
from treadle.steps.base import Effects, StepContext
from treadle.steps.model_call import reply_row
from treadle.steps.node import NodeContext, NodeEffects, failed
from treadle.steps.tool_call import result_row
from treadle.store.base import Graph
from treadle.tools.gate import Outcome

if TYPE_CHECKING:
    from treadle.graph.trace import Trace
    from treadle.service import Treadle

_COMPARED = ("node", "kind", "status", "cause", "edge", "fan", "result", "writes", "tool")
_UNKNOWN = "not in the run"


async def replay(treadle: Treadle, name: str) -> Trace:
    """Give the trace of a run that was walked again with what its steps gave.

    Errors: as `Runs.replay`.
    """
    from treadle.graph.trace import Trace

    old = await treadle.runs.get(name)
    if old.status not in ("completed", "failed"):
        raise StateError(
            f"run {old.id} is {old.status}: only a run that completed or failed can be replayed",
            status=old.status,
            event="replay",
        )
    graph = StepGraph.load(await treadle.store.graph(old.tenant, old.graph))
    steps = await treadle.store.steps(old.tenant, old.id)
    is_workflow = is_workflow_id(old.agent_id)
    prepared, strange = (
        _workflow(treadle, old, graph, steps) if is_workflow else await _agent(treadle, old, graph, steps)
    )
    run, again = await _walked(treadle, old, prepared)
    if strange:
        raise _differs(old, f"step {strange[0]} would be executed, and was not")
    if (found := _difference(steps, again)) is not None:
        raise _differs(old, found)
    # Outputs that say nothing are not kept.
    if run.status != old.status or (is_workflow and (run.output or None) != (old.output or None)):
        was = f"{old.status} with {_short(old.output)}"
        raise _differs(old, f"it ended {was}, and now {run.status} with {_short(run.output)}")
    return Trace.of(old, graph, again)


async def _walked(treadle: Treadle, old: Run, prepared: Prepared) -> tuple[Run, list[Step]]:
    """Walk a copy of a run in a store of its own; give how it ended, and its journal."""
    root = type(treadle)(
        "sqlite://:memory:",
        project=Project(treadle.project, treadle.root),
        clock=treadle.clock,
        settings=treadle.settings,
    )
    async with root:
        run = Run(
            id=old.id,
            tenant=old.tenant,
            thread_id=old.thread_id,
            agent_id=old.agent_id,
            graph=old.graph,
            model=old.model,
            inputs=old.inputs,
            overrides=old.overrides,
            created_ms=old.created_ms,
        )
        thread = Thread(id=old.thread_id, tenant=old.tenant, created_ms=old.created_ms)
        kept = Graph(prepared.graph.digest, prepared.graph.text)
        # Of several versions only the run's own is there, as the first.
        of = (await _made_by(treadle, old)).model_copy(update={"version": 1})
        walker = root.executor.lease.walker
        stored = await root.store.insert(old.tenant, of, kept, thread, run, claim_by=walker)
        ended = await root.executor.execute(cast("Run", stored[-1]), prepared)
        return ended, await root.store.steps(old.tenant, old.id)


async def _made_by(treadle: Treadle, run: Run) -> Agent | Workflow:
    if is_workflow_id(run.agent_id):
        return await treadle.store.get(Workflow, run.tenant, run.agent_id, version=run.agent_version)
    return await treadle.store.get(Agent, run.tenant, run.agent_id, version=run.agent_version)


# -- workflows ---------------------------------------------------------------------------------------------------


class _Strict(KeptSteps):
    """All steps of a run; a step that it does not have is told, and fails."""

    def __init__(self, graph: StepGraph, run: Run, steps: Sequence[Step]) -> None:
        super().__init__(
            graph, history(graph, run, steps, reads), run_id=run.id, again=(), edits={}, tools={}
        )
        self.strange: list[str] = []

    def take(self, context: NodeContext) -> tuple[NodeContext, NodeEffects] | None:
        found = super().take(context)
        if found is None and context.params["type"] in KEPT:
            self.strange.append(context.path)
            return context, failed("server_error", _UNKNOWN, kept=_UNKNOWN)
        return found


def _workflow(
    treadle: Treadle, old: Run, graph: StepGraph, steps: Sequence[Step]
) -> tuple[Prepared, list[str]]:
    plan = treadle.plan_workflow(graph, spares=frozenset(node.id for node in graph.nodes))
    strict = _Strict(graph, old, steps)
    return Prepared(graph, replace(plan, earlier=strict), start(graph)), strict.strange


# -- agents ------------------------------------------------------------------------------------------------------


async def _agent(
    treadle: Treadle, old: Run, graph: StepGraph, steps: Sequence[Step]
) -> tuple[Prepared, list[str]]:
    prepared = await treadle.runs.prepare(old)
    rows = await treadle.runs.rows(old, steps)
    last = {s.path: s for s in steps}
    answers = {s.cause: s for s in last.values() if s.kind == "append_message"}
    gives: dict[str, Callable[[StepContext], Effects]] = {}
    for step in last.values():
        if step.kind == "model_call":
            gives[step.path] = _model_call(step, rows, answers.get(step.path))
        elif step.kind == "tool_call" and step.status != "cancelled":
            gives[step.path] = _tool_call(step, rows)
    strange: list[str] = []

    def earlier(context: StepContext) -> Effects | None:
        give = gives.get(context.path)
        if give is not None:
            return give(context)
        strange.append(context.path)
        return Effects(status="failed", note=_UNKNOWN, ends=("failed", "server_error"))

    return Prepared(graph, replace(prepared.agent, earlier=earlier), start(graph)), strange


def _model_call(
    step: Step, rows: Mapping[int, Message], answer: Step | None
) -> Callable[[StepContext], Effects]:
    seq = step.message_seq or (answer.message_seq if answer is not None else None)
    row = rows[seq] if seq is not None else None

    def give(context: StepContext) -> Effects:
        if row is None:
            code = step.last_error.code if step.last_error is not None else "server_error"
            return Effects(status="failed", last_error=step.last_error, ends=("failed", code))
        reply = ModelReply(text=row.text, tool_calls=row.tool_calls, usage=step.usage)
        if not reply.tool_calls:
            return Effects(edge=step.edge, usage=step.usage, reply=reply)
        said = reply_row(context, reply)
        return Effects(edge=step.edge, fan=step.fan, message=said, usage=step.usage, reply=reply)

    return give


def _tool_call(step: Step, rows: Mapping[int, Message]) -> Callable[[StepContext], Effects]:
    text = rows[step.message_seq].text if step.message_seq is not None else None

    def give(context: StepContext) -> Effects:
        row = result_row(context, Outcome(text or ""))
        if step.status == "completed":
            return Effects(message=row, last_error=step.last_error)
        code = step.last_error.code if step.last_error is not None else "server_error"
        return Effects(status="failed", message=row, last_error=step.last_error, ends=("failed", code))

    return give


# -- the difference ----------------------------------------------------------------------------------------------


def _difference(old: Sequence[Step], new: Sequence[Step]) -> str | None:
    """Say what the first difference of two journals is; None where they are the same walk."""
    before, now = _ended(old), _ended(new)
    for path, step in before.items():
        other = now.get(path)
        if other is None:
            return f"step {path} is missing"
        for name in _COMPARED:
            was, is_ = _told(step, name), _told(other, name)
            if was != is_:
                return f"step {path}: {name} was {_short(was)}, and now is {_short(is_)}"
    more = [path for path in now if path not in before]
    return f"step {more[0]} is new" if more else None


def _told(step: Step, name: str) -> Any:
    """Give a field of a step; which of the calls of a reply ended last is nothing that a walk decides."""
    value = getattr(step, name)
    return _CALL.sub(r"\1", value) if name == "cause" and value is not None else value


_CALL = re.compile(r"^(tool_call#\d+)/\d+$")


def _ended(steps: Sequence[Step]) -> dict[str, Step]:
    """Give the last attempts of steps that came to their end; calls that functions made are parts of theirs."""
    ordered = sorted(steps, key=lambda s: (s.event_seq or 0, s.n))
    return {
        s.path: s
        for s in ordered
        if s.status in ("completed", "failed")
        and s.edge != "retry"
        and (s.kind in ("frame", "tool_call") or not s.path.rpartition("/")[2].isdigit())
    }


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _differs(run: Run, what: str) -> StateError:
    return StateError(
        f"run {run.id} is not walked again as it was: {what}",
        hint="the graph is the same: what walks it has changed, or a step depends on more than it was given",
    )
