"""What every type of node must do, as tests: subclass `NodeContract` and give contexts of your type.

    class TestMine(NodeContract):
        kind = KIND
        labels = frozenset({"late"})
        def contexts(self):
            return [a_node_context({"type": "mine", "text": "Hello"})]

A node reads its context and returns effects: it is tested without a store, a graph or an executor.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from treadle.clock import Clock
from treadle.graph.nodes import Node
from treadle.objects.agent import ModelOptions, Price
from treadle.objects.run import Run
from treadle.objects.run_step import Step, StepKind
from treadle.objects.workflow import WorkflowLimits
from treadle.providers.base import Provider
from treadle.providers.scripted import ScriptedProvider
from treadle.steps.base import Intent
from treadle.steps.names import View
from treadle.steps.node import Check, Model, NodeContext, NodeEffects, NodeKind, Recorded, WorkflowPlan
from treadle.testing.fakes import FrozenClock
from treadle.tools.base import BoundTool

_T = TypeVar("_T")

CODES = frozenset(
    {
        "rate_limit", "timeout", "connection", "tool_error", "invalid_output", "model_error", "content_filter",
        "budget", "approval_rejected", "code_error", "state_type", "cancelled", "outcome_unknown",
    }
)  # fmt: skip
"""The codes of errors that retries and error routes know, beside http_NNN."""


class NodeResults:
    """The results of other nodes, as a node sees them."""

    def __init__(self, results: Mapping[str, Any] | None = None) -> None:
        """Take the results by node."""
        self._results = dict(results or {})

    def find(self, name: str) -> tuple[bool, Any]:
        """Tell whether a node of that name has a result, and give it."""
        return name in self._results, self._results.get(name)

    def names(self) -> list[str]:
        """List the nodes that have one."""
        return list(self._results)


def a_model(provider: Provider | None = None, *, price: Price | None = None) -> Model:
    """Give a model that a provider answers; by default it says `an answer`."""
    return Model(provider or ScriptedProvider(lambda _: "an answer"), "m", ModelOptions(), price)


def a_node_context(
    params: Mapping[str, Any],
    *,
    id_: str = "here",
    step: StepKind = "function",
    model: Model | None = None,
    tool: BoundTool | None = None,
    functions: Iterable[BoundTool] = (),
    model_named: Callable[[str], Model] | None = None,
    shape: Check | None = None,
    state: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    **fields: Any,
) -> NodeContext:
    """Give the context of a node of a run that has just begun; `params` are its fields, as JSON, `step` the kind of its step."""
    run = Run(
        id="run_contract", tenant="t", thread_id="thread_contract", agent_id="wf_contract", graph="g",
        status="in_progress", rev=1, fence=1, walker="w", created_ms=0,
    )  # fmt: skip
    node = Node(id_, step, json.loads(json.dumps(dict(params))))
    plan = WorkflowPlan(
        limits=WorkflowLimits(),
        state={},
        outputs={},
        tools={} if tool is None else {id_: tool},
        functions={f.spec.name: f for f in functions},
        checks={},
        models={} if model is None else {id_: model},
        shapes={} if shape is None else {id_: shape},
        model_named=model_named,
    )
    known: dict[str, Any] = {
        "run": run,
        "plan": plan,
        "node": node,
        "path": f"{id_}#1",
        "visit": 1,
        "view": View(inputs or {}, state or {}, NodeResults(results), {}),
        "clock": clock or FrozenClock(),
    }
    return NodeContext(**known | fields)


def begun(context: NodeContext, effects: NodeEffects, **fields: Any) -> NodeContext:
    """Give the context of a step that waits and goes on now; `fields` are what became of its row in between."""
    row = _row(
        context, context.path, context.node.kind, status="in_progress", key=effects.key,
        question=effects.question, wake_ms=effects.wake_ms,
    )  # fmt: skip
    return context._replace(begun=row.model_copy(update=fields))


class Journal:
    """Keeps the calls of a function as a store would, so that it can be called again; `kept` has them in order."""

    def __init__(self) -> None:
        """Begin with no call."""
        self.kept: list[Recorded] = []
        self.rows: dict[int, Step] = {}

    def joined(self, context: NodeContext, **fields: Any) -> NodeContext:
        """Give the context of a function whose calls are kept here, and get back what was kept so far."""
        return context._replace(recorded=dict(self.rows), record=self._record(context), **fields)

    def answer(self, ordinal: int, answer: Mapping[str, Any]) -> None:
        """Answer the question that a call asked."""
        self.rows[ordinal] = self.rows[ordinal].model_copy(
            update={"status": "completed", "result": {"at": 1, "by": "", **answer}, "ended_ms": 1}
        )

    def _record(self, context: NodeContext) -> Callable[[Recorded], Coroutine[Any, Any, None]]:
        async def record(call: Recorded) -> None:
            # Keeping takes a moment: what goes on meanwhile must not get the result before.
            await asyncio.sleep(0)
            self.kept.append(call)
            self.rows[call.ordinal] = _row(
                context, f"{context.path}/{call.ordinal}", call.kind, status=call.status, tool=call.tool,
                result=json.loads(json.dumps(call.result)), last_error=call.error, question=call.question,
                attempt=context.attempt,
            )  # fmt: skip

        return record


def _row(context: NodeContext, path: str, kind: Any, **fields: Any) -> Step:
    run = context.run
    return Step(
        run_id=run.id, tenant=run.tenant, n=0, path=path, node=context.node.id, kind=kind, started_ms=0, **fields
    )  # fmt: skip


async def performed(kind: NodeKind, context: NodeContext) -> NodeEffects:
    """Prepare a node, perform it where it has to be, and give its effects."""
    prepared = kind.prepare(context)
    if isinstance(prepared, NodeEffects):
        return prepared
    assert kind.perform is not None
    return await kind.perform(context, prepared)


class NodeContract:
    """The tests; `kind` and `contexts` must be given.

    Attributes: `labels` are the ways out that the type chooses by itself.
    """

    kind: ClassVar[NodeKind]
    labels: ClassVar[frozenset[str]] = frozenset()

    def contexts(self) -> Sequence[NodeContext]:
        """Give contexts of every sort that the type meets; each call gives new ones that are equal."""
        raise NotImplementedError

    def hanging(self) -> NodeContext | None:
        """Give a context with which the node does not end by itself; None for a type that always ends."""
        return None

    def test_preparing_is_pure(self) -> None:
        """Twice on one context gives the same, and so does an equal context."""
        for one, two in zip(self.contexts(), self.contexts(), strict=True):
            first = self._comparable(self.kind.prepare(one))
            assert first == self._comparable(self.kind.prepare(one))
            assert first == self._comparable(self.kind.prepare(two))

    def test_a_type_without_perform_gives_its_effects_at_once(self) -> None:
        """Else nobody would be there to perform it."""
        for context in self.contexts():
            prepared = self.kind.prepare(context)
            assert isinstance(prepared, NodeEffects) or self.kind.perform is not None

    def test_effects_are_what_can_be_written(self) -> None:
        """A status with what belongs to it, a way out that the type has, a result that is JSON, a code that routes know."""
        for context in self.contexts():
            self._check(self._effects(context))

    def _check(self, effects: NodeEffects) -> None:
        waits = effects.question is not None or effects.wake_ms is not None or effects.child is not None
        if effects.status == "in_progress":
            assert waits or effects.suspends
            assert effects.result is None
        else:
            assert not waits
            assert not effects.suspends
        assert (effects.status == "failed") == (effects.error is not None)
        if effects.error is not None:
            code = effects.error.code
            assert code in CODES or (code.startswith("http_") and code[5:].isdigit())
            assert effects.error.message
        assert effects.edge is None or effects.edge in self.labels
        json.dumps(effects.result, allow_nan=False, ensure_ascii=False).encode()
        json.dumps(effects.writes, allow_nan=False, ensure_ascii=False).encode()

    def test_the_same_step_performed_again_gives_the_same(self) -> None:
        """What is outside answers alike, so does the node: a run that goes on elsewhere tells no other story."""
        for one, two in zip(self.contexts(), self.contexts(), strict=True):
            assert self._effects(one) == self._effects(two)

    def test_a_cancelled_node_stops(self) -> None:
        """It never swallows the cancellation, and gives no effects."""
        context = self.hanging()
        if context is None:
            return
        assert _run(lambda: self._is_cancelled(context))

    async def _is_cancelled(self, context: NodeContext) -> bool:
        task = asyncio.ensure_future(performed(self.kind, context))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done(), "the node was to hang"
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        return isinstance(ended, asyncio.CancelledError)

    def _effects(self, context: NodeContext) -> NodeEffects:
        return _run(lambda: performed(self.kind, context))

    def _comparable(self, given: Intent | NodeEffects) -> object:
        """Give what of a result must be equal: an intent's tool is bound anew in every context."""
        if isinstance(given, NodeEffects):
            return given
        admitted = getattr(given.admitted, "admitted", given.admitted)
        return given.effect, getattr(admitted, "arguments", admitted)


def _run(talk: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return asyncio.run(asyncio.wait_for(talk(), timeout=30))
