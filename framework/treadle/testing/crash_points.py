"""The points at which a process can die: found by watching, never listed.

A watched treadle passes a point before and after everything that changes the store, every call of a tool and every
call of a model. A point has a name that says what happened there and counts how often it did in this process:
`commit.model_call#2` is the second checkpoint with a model call. The process kills itself at one of them.

Rules

1. A call of the store is a point unless it is known to only read: what is new is watched without being named here.
   A transaction that no such call explains (a second one within a call, or one outside of all) is a point as well.
2. Watching changes nothing: no waiting, no other order, no other result.
3. What was passed is written to the receiver before the process dies.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from treadle.graph.nodes import Node, StepGraph
from treadle.objects.agent import Agent
from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.tool import Effect
from treadle.objects.workflow import Workflow
from treadle.providers.base import Delta, Emit, ModelReply, ModelRequest, Provider
from treadle.service import Treadle
from treadle.steps.base import Plan
from treadle.steps.node import StandIn, WorkflowPlan
from treadle.store.base import Blob, Cached, Checkpoint, Committed, Graph, Store
from treadle.store.connection import Connection, connect
from treadle.store.sqlite import SqliteStore
from treadle.testing.receiver import Receiver
from treadle.tools.base import BoundTool

Side = Literal["before", "after"]

READS = frozenset(
    {
        "get", "message_id", "find", "agent_named", "list", "rows", "active_run", "steps", "graph", "blob", "events",
        "changed", "status", "close", "asked", "walkers", "due", "workflow_named", "children", "cached",
    }
)  # fmt: skip
"""The calls of a store that change nothing."""


class Point(NamedTuple):
    """A side of a point: where a process dies, or may."""

    name: str
    side: Side


class Points:
    """Name the points that a process passes, write them down, and die at one."""

    def __init__(self, receiver: Receiver, *, kill_at: Point | None = None, deltas: bool = False) -> None:
        """Take the receiver to tell, the point to die at, and whether each piece of a streamed text is one."""
        self.receiver = receiver
        self.deltas = deltas
        self._kill_at = kill_at
        self._passed: Counter[str] = Counter()

    def before(self, name: str) -> str:
        """Pass the near side of a point; give its name with its number."""
        self._passed[name] += 1
        numbered = f"{name}#{self._passed[name]}"
        self._pass(Point(numbered, "before"))
        return numbered

    def after(self, numbered: str) -> None:
        """Pass the far side of a point."""
        self._pass(Point(numbered, "after"))

    def reach(self, name: str) -> None:
        """Pass a point that has one side only: it marks a place between two others."""
        self._passed[name] += 1
        self._pass(Point(f"{name}#{self._passed[name]}", "after"))

    def _pass(self, point: Point) -> None:
        self.receiver.note("point", name=point.name, side=point.side)
        if point == self._kill_at:
            self.receiver.note("killed", name=point.name, side=point.side)
            os.kill(os.getpid(), signal.SIGKILL)


def fingerprint(text: str | None) -> str:
    """Give a few characters that stand for a text."""
    return hashlib.sha256((text or "").encode()).hexdigest()[:12]


# -- the store -------------------------------------------------------------------------------------------------


class Commits:
    """Hear of each transaction of the database, and make a point of those that no call of the store explains."""

    def __init__(self, points: Points) -> None:
        """Take where the points are passed."""
        self._points = points
        self._inside: list[list[str | int]] = []

    def open(self, path: Path | None) -> Connection:
        """Open a connection that is listened to: the `opener` of a store."""
        connection = connect(path)
        cast("Any", connection).set_commit_hook(self._heard)
        return connection

    @contextmanager
    def within(self, name: str) -> Generator[None]:
        """Expect one transaction, and no more, until the call of that name is over."""
        call: list[str | int] = [name, 0]
        self._inside.append(call)
        try:
            yield
        finally:
            self._inside.remove(call)

    def _heard(self) -> bool:
        # Hazard: the hook runs inside of the commit, where true would undo it.
        if not self._inside:
            self._points.reach("commit.alone")
        for call in self._inside:
            call[1] = int(call[1]) + 1
            if call[1] > 1:
                self._points.reach(f"{call[0]}.again")
        return False


class _WatchedStore:
    """A store whose writing calls are points."""

    def __init__(self, store: Store, points: Points, commits: Commits) -> None:
        self._store = store
        self._points = points
        self._commits = commits

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if name.startswith("_") or name in READS or not callable(value):
            return value
        watched = self._watch(name, cast("Callable[..., Any]", value))
        setattr(self, name, watched)
        return watched

    def _watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        points, commits = self._points, self._commits

        async def later(*args: Any, **named: Any) -> Any:
            said = _name_of(name, args)
            _foresee(points.receiver, args)
            point = points.before(said)
            with commits.within(said):
                result = await call(*args, **named)
            _remember(points.receiver, name, args, result)
            points.after(point)
            return result

        def at_once(*args: Any, **named: Any) -> Any:
            point = points.before(name)
            with commits.within(name):
                result = call(*args, **named)
            points.after(point)
            return result

        return later if inspect.iscoroutinefunction(call) else at_once


def watched_store(path: Path, points: Points, *, is_slow: bool = False) -> Store:
    """Open the store of a file; every call of it that writes passes a point before and after.

    Shapes: to the store every commit is quick, or with `is_slow` slow: how quick it really is decides nothing.
    """
    commits = Commits(points)
    point = points.before("open")
    seconds = count()
    with commits.within("open"):
        store = SqliteStore(path, opener=commits.open, timer=lambda: float(next(seconds) if is_slow else 0))
    points.after(point)
    return cast("Store", cast("object", _WatchedStore(store, points, commits)))


def _name_of(call: str, args: tuple[Any, ...]) -> str:
    """Name a call of the store after what it writes."""
    if args and isinstance(args[0], Checkpoint):
        return f"{call}.{_contents(args[0])}"
    nouns = _nouns(args)
    return ".".join((call, "+".join(nouns))) if nouns else call


def _nouns(records: Iterable[Any]) -> list[str]:
    kinds = (Agent, Workflow, Thread, Message, Run, Graph, Blob, Cached)
    return list(dict.fromkeys(type(r).__name__.lower() for r in records if isinstance(r, kinds)))


def _contents(checkpoint: Checkpoint) -> str:
    """Say what a checkpoint holds: `tool_call~dispatched`, `model_call+append_message=completed`."""
    kinds = Counter(s.kind if s.status != "in_progress" else f"{s.kind}~{s.edge}" for s in checkpoint.steps)
    parts = [kind if count == 1 else f"{count}x{kind}" for kind, count in kinds.items()]
    said = "+".join((*parts, *(f"new_{noun}" for noun in _nouns(checkpoint.inserts))))
    if checkpoint.status is not None:
        said = f"{said}={checkpoint.status}" if said else checkpoint.status
    return said or "nothing"


def _foresee(receiver: Receiver, args: tuple[Any, ...]) -> None:
    """Write down which steps may be stored as begun from now on: it may be true before the store says so."""
    for checkpoint in _checkpoints(args):
        opened = [step.path for step in checkpoint.steps if step.is_open]
        if opened:
            receiver.note("begins", run=checkpoint.run.id, paths=opened)


def _remember(receiver: Receiver, call: str, args: tuple[Any, ...], result: Any) -> None:
    """Write down what the store has accepted: from here on nothing may lose it or do it again."""
    if call == "insert":
        rows = [r for r in cast("tuple[Any, ...]", result) if isinstance(r, Message) and r.seq]
        if rows:
            receiver.note("stored", rows=_told(rows))
    checkpoints = _checkpoints(args)
    committed = (cast("Committed", result), *cast("Committed", result).also) if checkpoints else ()
    for checkpoint, done in zip(checkpoints, committed, strict=True):
        receiver.note(
            "stored",
            run=checkpoint.run.id,
            status=checkpoint.status,
            done=[s.path for s in checkpoint.steps if not s.is_open and s.edge != "retry"],
            steps=[[s.path, s.attempt, step_print(s)] for s in checkpoint.steps if not s.is_open],
            events=[[event.seq, event.name] for event in done.events],
            rows=_told((*checkpoint.messages, *(r for r in done.inserted if isinstance(r, Message)))),
        )


def _told(rows: Iterable[Message]) -> list[list[Any]]:
    return [[r.thread_id, r.seq, r.role, fingerprint(r.text)] for r in rows]


def _checkpoints(args: tuple[Any, ...]) -> tuple[Checkpoint, ...]:
    """Give the checkpoints that a call of the store writes at once."""
    return (args[0], *args[0].also) if args and isinstance(args[0], Checkpoint) else ()


def step_print(step: Step) -> str:
    """Give a few characters that stand for how a step ended, and for its place in the journal."""
    said = [step.n, step.status, step.edge, step.result, step.writes, step.child, step.fence]
    return fingerprint(json.dumps(said, sort_keys=True, default=str))


# -- what goes out ---------------------------------------------------------------------------------------------


class WatchedTreadle(Treadle):
    """A treadle whose tools and models are points, and tell the receiver when they are called."""

    def __init__(
        self,
        store: Store,
        *,
        points: Points,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        **options: Any,
    ) -> None:
        """Open it over a store that is watched already.

        Shapes: `functions` are those that code nodes call, by the name that the nodes have for them; `options` are those of
        Treadle.
        """
        self._points = points
        super().__init__(store, **options)
        self.callables.update(functions or {})

    def plan(self, run: Run, agent: Agent) -> Plan:
        """Work out how a run is walked here, and watch what it calls."""
        plan = super().plan(run, agent)
        tools = {name: _watch_tool(tool, self._points) for name, tool in plan.tools.items()}
        return replace(plan, tools=tools, provider=_WatchedProvider(plan.provider, self._points))

    def plan_workflow(
        self, graph: StepGraph, *, stand_in: StandIn | None = None, spares: frozenset[str] = frozenset()
    ) -> WorkflowPlan:
        """Work out how runs of a workflow are walked here, and watch what they call."""
        plan = super().plan_workflow(graph, stand_in=stand_in, spares=spares)
        points = self._points
        tools = {
            id_: _watch_tool(tool, points, attempts=_attempts(graph.node[id_], tool))
            for id_, tool in plan.tools.items()
        }
        functions = {name: _watch_tool(tool, points) for name, tool in plan.functions.items()}
        models = {
            id_: model._replace(provider=_WatchedProvider(model.provider, points))
            for id_, model in plan.models.items()
        }
        return replace(plan, tools=tools, functions=functions, models=models)


_AGAIN = 1000
"""More than a function is ever called from its top."""


def effect_of(tool: BoundTool) -> Effect:
    """Give the effect class that a call is held to: a function that takes `ctx` may begin again."""
    return "pure" if "ctx" in tool.passed and tool.spec.effect == "once" else tool.spec.effect


def _attempts(node: Node, tool: BoundTool) -> int:
    """Give how often one process may call the function of a node for one step."""
    if "ctx" in tool.passed:
        # It begins again whenever a question that it asked is answered.
        return _AGAIN
    return node.params.get("retry", {}).get("max_attempts", 1)


def _watch_tool(tool: BoundTool, points: Points, *, attempts: int | None = None) -> BoundTool:
    invoke = tool.invoke
    if invoke is None:
        return tool
    name, effect = tool.spec.name, effect_of(tool)
    if attempts is None:
        attempts = tool.spec.retry.max_attempts if tool.spec.retry else 1

    async def watched(arguments: dict[str, Any], context: Any, *more: Any) -> Any:
        point = points.before(f"dispatch.{name}")
        points.receiver.note(
            "tool",
            name=name,
            effect=effect,
            attempts=attempts,
            run=context.run_id,
            key=context.idempotency_key,
        )
        try:
            return await invoke(arguments, context, *more)
        finally:
            points.after(point)

    return replace(tool, invoke=watched)


class _WatchedProvider:
    """A provider whose calls are points."""

    def __init__(self, provider: Provider, points: Points) -> None:
        self._provider = provider
        self._points = points

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        points = self._points
        point = points.before("model")
        last = request.messages[-1] if request.messages else None
        points.receiver.note("model", thread=last.thread_id if last else "", seq=last.seq if last else 0)

        def tell(delta: Delta) -> None:
            emit(delta)
            if points.deltas:
                points.reach("delta")

        try:
            return await self._provider.call(request, tell)
        finally:
            points.after(point)

    async def close(self) -> None:
        await self._provider.close()
