"""Find what a run keeps of the run that it goes on from; it is read from the store whenever the run is taken up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from treadle.engine.history import Past, after, history, unsettled
from treadle.engine.kept_steps import KeptSteps, name_of, reads
from treadle.graph.nodes import Node, StepGraph
from treadle.objects.run import Origin, Run
from treadle.objects.run_step import Step
from treadle.providers.base import ModelReply
from treadle.steps.base import Effects, StepContext
from treadle.steps.model_call import reply_row
from treadle.steps.names import View
from treadle.steps.node import WorkflowPlan
from treadle.steps.tool_call import result_row
from treadle.tools.gate import Outcome

if TYPE_CHECKING:
    from treadle.service import Treadle


async def earlier_steps(treadle: Treadle, origin: Origin, graph: StepGraph, plan: WorkflowPlan) -> KeptSteps:
    """Give the steps that a run of a workflow keeps.

    Errors: NotFound where the earlier run is gone.
    """
    run = await treadle.store.get(Run, treadle.tenant, origin.run)
    steps = await treadle.store.steps(treadle.tenant, run.id)
    # What was open then may have ended since: it is not kept either way.
    known = [s for s in steps if not s.is_open and (s.event_seq or 0) <= origin.until]

    def read(node: Node, view: View) -> str:
        return reads(node, view, plan.tools.get(node.id))

    past = history(graph, run, known, read)
    again = after(past, [origin.step]) | forced(past, origin.force) | set(origin.again) | {origin.step}
    again |= unsettled(past, again)
    edits = {origin.step: origin.edit} if origin.edit is not None else {}
    return KeptSteps(graph, past, run_id=run.id, again=again, edits=edits, tools=plan.tools)


def forced(past: Mapping[str, Past], nodes: Iterable[str]) -> set[str]:
    """Give the steps of nodes, and those within them where they are frames."""
    wanted = set(nodes)
    frames = {path for path, was in past.items() if was.step.node in wanted}
    return frames | {path for path, was in past.items() if not frames.isdisjoint(was.within)}


Call = Callable[[StepContext], Effects]


async def earlier_calls(treadle: Treadle, origin: Origin) -> Callable[[StepContext], Effects | None] | None:
    """Give what a run of an agent keeps that goes on at a call: the reply that made it, and the results beside it.

    They are the first steps of the run, and their rows are its own: no thread can begin between a call and its result.

    Errors: NotFound where the earlier run is gone.
    """
    run = await treadle.store.get(Run, treadle.tenant, origin.run)
    steps = {s.path: s for s in await treadle.store.steps(treadle.tenant, run.id)}
    step = steps[origin.step]
    if step.kind != "tool_call" or step.reply_seq is None:
        return None
    asked = steps[step.cause or ""]
    siblings = [s for s in steps.values() if s.kind == "tool_call" and s.reply_seq == step.reply_seq]
    rows = await treadle.runs.rows(run, [*siblings, asked])
    reply = ModelReply(text=rows[step.reply_seq].text or "", tool_calls=rows[step.reply_seq].tool_calls)
    kept: dict[str, Call] = {f"{asked.node}#1": _reply(reply, name_of(run.id, asked.path))}
    for one in siblings:
        path = f"{one.node}#1/{one.call_index}"
        if one.path == origin.step:
            if origin.edit is not None:
                kept[path] = _result(str(origin.edit.value), one, name_of(run.id, one.path, edited=True))
        elif one.status == "completed" and (one.event_seq or 0) <= origin.until:
            text = rows[one.message_seq].text if one.message_seq is not None else None
            kept[path] = _result(text or "", one, one.kept or name_of(run.id, one.path))

    def take(context: StepContext) -> Effects | None:
        found = kept.get(context.path)
        return None if found is None else found(context)

    return take


def _reply(reply: ModelReply, kept: str) -> Call:
    def give(context: StepContext) -> Effects:
        row = reply_row(context, reply)
        return Effects(edge="tool_calls", fan=len(row.tool_calls), message=row, reply=reply, kept=kept)

    return give


def _result(text: str, step: Step, kept: str) -> Call:
    def give(context: StepContext) -> Effects:
        error = None if kept.endswith("edited") else step.last_error
        return Effects(message=result_row(context, Outcome(text)), last_error=error, kept=kept)

    return give
