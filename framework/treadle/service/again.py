"""Go on from a step of an earlier run: fork it there, or run from there on once more.

The new run has a thread of its own that begins with the rows of the earlier one, as far as they were written before anything
that is executed again; they are shared by their places. What the earlier run did beside that and before is not executed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pydantic import ValidationError

from treadle.engine.history import Past, after, history, unsettled
from treadle.engine.kept_steps import KEPT
from treadle.errors import NotFound, StateError
from treadle.graph.nodes import StepGraph
from treadle.ids import is_workflow_id
from treadle.objects.agent import AgentSpec, ModelSpec
from treadle.objects.run import UNCHANGED, Answer, Edit, Origin, Run
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.service.earlier import forced
from treadle.service.lifetime import lifetime_s
from treadle.service.threads import append
from treadle.service.written import SHARED, Rows, thread_named, written
from treadle.store.base import Stored
from treadle.text import clean

if TYPE_CHECKING:
    from treadle.service import Treadle

_EDITABLE = KEPT - {"set", "switch"}


async def fork(treadle: Treadle, run: str, *, at: str, edit: Any = UNCHANGED) -> Run:
    """Give a new run that is as the earlier one was before a step, and executes it again, or takes an edited result.

    Errors: as `Runs.fork`.
    """
    return await _begin(treadle, run, at, kind="fork", edit=edit)


async def rerun(
    treadle: Treadle, run: str, *, from_: str, force: Sequence[str] = (), model: str | None = None
) -> Run:
    """Give a new run that executes a step of an earlier one again, and what came after it.

    Errors: as `Runs.rerun`.
    """
    return await _begin(treadle, run, from_, kind="rerun", force=force, model=model)


class _Start(NamedTuple):
    """Where a new run goes on: what it says of that, and the threads that it begins with."""

    origin: Origin
    at: int
    threads: Mapping[str, int]
    graph: StepGraph


async def _begin(
    treadle: Treadle,
    name: str,
    step: str,
    *,
    kind: str,
    edit: Any = UNCHANGED,
    force: Sequence[str] = (),
    model: str | None = None,
) -> Run:
    old = await treadle.runs.get(name, output=False)
    graph = StepGraph.load(await treadle.store.graph(old.tenant, old.graph))
    origin = Origin(run=old.id, step=step, kind=cast("Any", kind), force=tuple(dict.fromkeys(force)))
    if model is not None:
        treadle.models.resolve(AgentSpec(model=ModelSpec(id=model)), None)
    of = _of_workflow if is_workflow_id(old.agent_id) else _of_agent
    start = await of(treadle, old, graph, origin, edit)
    return await _accept(treadle, old, start, model)


async def _accept(treadle: Treadle, old: Run, start: _Start, model: str | None) -> Run:
    """Keep the new run with its threads, claimed, and walk it."""
    now = treadle.clock.now_ms()
    shared = await treadle.store.get(Thread, old.tenant, old.thread_id)
    thread = Thread(
        id=treadle.ids.new("thread"),
        tenant=treadle.tenant,
        created_ms=now,
        tool_resources=shared.tool_resources,
        forked_from=old.thread_id,
        forked_at=start.at,
    )
    overrides = old.overrides if model is None else old.overrides.model_copy(update={"model": model})
    lasts_s = lifetime_s(treadle.project.defaults.run_ttl)
    is_agents = not is_workflow_id(old.agent_id)
    run = Run(
        id=treadle.ids.new("run"),
        tenant=treadle.tenant,
        thread_id=thread.id,
        agent_id=old.agent_id,
        agent_version=old.agent_version,
        graph=old.graph,
        model=old.model,
        inputs=old.inputs,
        overrides=overrides,
        metadata=old.metadata,
        created_ms=now,
        expires_ms=now + int(lasts_s * 1000) if lasts_s else None,
        origin=start.origin,
    )
    prepared = await treadle.runs.prepare(run)
    if is_agents:
        run = run.model_copy(update={"model": prepared.agent.model})
    further = [
        Thread(
            id=thread_named(run, name),
            tenant=treadle.tenant,
            created_ms=now,
            forked_from=thread_named(old, name),
            forked_at=at,
        )
        for name, at in start.threads.items()
    ]
    records: list[Stored] = [thread, *further, run]
    stored = await append(treadle, thread.id, *records, claim_by=treadle.executor.lease.walker)
    run = cast("Run", stored[-1])
    treadle.runs.walk(run, prepared)
    return run


# -- workflows ---------------------------------------------------------------------------------------------------


async def _of_workflow(treadle: Treadle, old: Run, graph: StepGraph, origin: Origin, edit: Any) -> _Start:
    steps = await treadle.store.steps(old.tenant, old.id)
    past = history(graph, old, steps)
    path = _path(past, origin.step)
    _refuse_open(past, path, origin)
    for node in origin.force:
        if node not in graph.node:
            raise NotFound("node", node, hint=f"the workflow has: {', '.join(graph.node)}")
    until = max((s.event_seq or 0 for s in steps), default=0)
    origin = origin.model_copy(
        update={"step": path, "until": until, "edit": _edit(graph, past[path].step, edit)}
    )
    rows = await written(treadle, old, graph, past)
    chosen = after(past, [path])
    again = chosen | forced(past, origin.force)
    again |= unsettled(past, again)
    beyond, cuts = _cut(past, rows, again)
    origin = origin.model_copy(update={"again": tuple(p for p in past if p in beyond - again)})
    at = cuts.pop(SHARED, old.first_seq - 1)
    return _Start(origin, at, cuts, graph)


def _cut(
    past: Mapping[str, Past], rows: Mapping[str, Sequence[Rows]], again: Collection[str]
) -> tuple[set[str], dict[str, int]]:
    """Give the steps that are executed because of their rows, and how many rows of each thread are shared.

    Invariant: a thread is shared up to the first row of whatever may be executed again, and a step whose rows, or whose
    thread, lie beyond that is executed, too.
    """
    beyond = set(again)
    while True:
        touched = after(past, beyond)
        cuts: dict[str, int] = {}
        for path, written_ in rows.items():
            for one in written_:
                if path not in touched and one.first is not None:
                    cuts[one.thread] = max(cuts.get(one.thread, 0), one.last)
        for path in touched:
            for one in rows.get(path, ()):
                if one.first is not None:
                    cuts[one.thread] = min(cuts.get(one.thread, one.first - 1), one.first - 1)
        more = {
            path
            for path, written_ in rows.items()
            if path not in beyond
            and any(one.thread in cuts and one.last > cuts[one.thread] for one in written_)
        }
        if not more:
            return beyond, cuts
        beyond |= more


def _path(past: Mapping[str, Past], name: str) -> str:
    """Give the path of the step that a person names: its path, or its node where that was visited once.

    Errors: NotFound that lists the steps; StateError for a node with several visits.
    """
    if name in past:
        return name
    visits = [path for path, was in past.items() if was.step.node == name and not was.turns]
    if len(visits) == 1:
        return visits[0]
    if visits:
        raise StateError(f"'{name}' was visited {len(visits)} times", hint=f"name one: {', '.join(visits)}")
    raise NotFound("step", name, hint=f"the run has: {', '.join(past) or 'none yet'}")


def _refuse_open(past: Mapping[str, Past], path: str, origin: Origin) -> None:
    if origin.kind == "fork" or not past[path].step.is_open:
        return
    ended = [p for p, was in past.items() if not was.step.is_open]
    raise StateError(
        f"step {path} has not ended: there is nothing to run again",
        hint=f"fork the run there (runs fork … --at '{path}'), or name one of: {', '.join(ended) or 'none yet'}",
    )


def _edit(graph: StepGraph, step: Step, value: Any) -> Edit | None:
    """Give the edited result of a step, None where it is not edited.

    Errors: StateError for a step whose result nobody can change.
    """
    if value is UNCHANGED:
        return None
    type_ = graph.node[step.node].params["type"]
    if type_ not in _EDITABLE or step.kind == "frame":
        raise StateError(
            f"the result of {step.path} cannot be edited: it is a {type_}, and follows from other steps",
            hint=f"edit a step of: {', '.join(sorted(_EDITABLE))}",
        )
    try:
        json.dumps(value, allow_nan=False)
        if type_ == "human":
            at = {"at": (step.ended_ms or step.started_ms) // 1000}
            value = Answer.model_validate({**at, **value}).model_dump(mode="json")
    except (TypeError, ValueError, ValidationError) as e:
        shape = 'an answer such as {"decision": "approve"}' if type_ == "human" else "JSON"
        raise StateError(f"the edited result of {step.path} does not fit", hint=f"give {shape}") from e
    return Edit(value=value)


# -- agents ------------------------------------------------------------------------------------------------------


async def _of_agent(treadle: Treadle, old: Run, graph: StepGraph, origin: Origin, edit: Any) -> _Start:
    steps = await treadle.store.steps(old.tenant, old.id)
    past = {s.path: Past(s, n, (), "") for n, s in enumerate(steps)}
    path = _path(past, origin.step)
    _refuse_open(past, path, origin)
    step = past[path].step
    possible = ", ".join(p for p, was in past.items() if was.step.kind in ("model_call", "tool_call"))
    if origin.force:
        raise StateError(
            "--force is for workflows: a run of an agent has no branches that could be kept",
            hint=f"name the step to go on from: {possible}",
        )
    if step.kind not in ("model_call", "tool_call"):
        raise StateError(f"step {path} only writes down what the model said", hint=f"name one of: {possible}")
    if edit is not UNCHANGED and step.kind != "tool_call":
        raise StateError(
            f"what the model said in {path} cannot be edited", hint="edit the result of a call of a tool"
        )
    until = max((s.event_seq or 0 for s in steps), default=0)
    text = (
        None if edit is UNCHANGED else edit if isinstance(edit, str) else json.dumps(edit, ensure_ascii=False)
    )
    origin = origin.model_copy(
        update={"step": path, "until": until, "edit": None if text is None else Edit(value=clean(text))}
    )
    return _Start(origin, _before(old, steps, step), {}, graph)


def _before(run: Run, steps: Sequence[Step], step: Step) -> int:
    """Give how many rows a thread has before those of a step; the reply that made a call is one of the call's."""
    if step.reply_seq is not None:
        return step.reply_seq - 1
    reply = [s.message_seq for s in steps if s.message_seq and step.path in (s.path, s.cause)]
    if reply:
        return min(reply) - 1
    before = [s.message_seq for s in steps if s.message_seq and s.n < step.n]
    return max(before, default=run.first_seq - 1)
