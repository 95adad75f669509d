"""What every step kind must do, as tests: subclass `StepContract` and give contexts of your kind.

    class TestMine(StepContract):
        kind = KIND
        labels = frozenset({"yes", "no"})
        def contexts(self):
            return [a_context(path="mine#1", reply=...)]

A step reads its context and returns effects: it is tested without a store, a graph or an executor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from treadle import lifecycle
from treadle.objects.agent import AgentSpec, ModelOptions, ModelSpec
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import Run
from treadle.providers.base import Delta, Provider
from treadle.providers.scripted import ScriptedProvider
from treadle.steps.base import Effects, Intent, Plan, StepContext, StepKindEntry
from treadle.testing.fakes import FrozenClock
from treadle.tools.base import BoundTool

_T = TypeVar("_T")

ENDS = frozenset({"completed", "incomplete", "failed", "expired"})


def a_plan(provider: Provider | None = None, *, tools: Sequence[BoundTool] = (), **fields: Any) -> Plan:
    """Give the plan of an agent that a provider answers; `fields` replace those of the plan."""
    plan = Plan(
        spec=AgentSpec(model=ModelSpec(id="m")),
        instructions="Answer.",
        provider=provider or ScriptedProvider(lambda _: "an answer"),
        model="m",
        options=ModelOptions(),
        context_window=10_000,
        price=None,
        tools={t.spec.name: t for t in tools},
        definitions=tuple(t.definition for t in tools),
        tool_choice="auto",
        output_schema=None,
        output_strict=True,
        output_problems=None,
        keep_last=None,
        timeout_s=None,
        max_prompt_tokens=None,
        max_completion_tokens=None,
        fixed_tokens=10,
    )
    return replace(plan, **fields)


def a_context(
    *,
    path: str,
    plan: Plan | None = None,
    rows: Sequence[Message] = (),
    call: ToolCall | None = None,
    emit: Callable[[Delta], None] | None = None,
    **fields: Any,
) -> StepContext:
    """Give the context of a step of a run that has just begun; `call` makes it that of a tool call."""
    run = Run(
        id="run_contract", tenant="t", thread_id="thread_contract", agent_id="asst_1", graph="g", status="in_progress",
        rev=1, fence=1, walker="w", created_ms=0,
    )  # fmt: skip
    window = tuple(rows) or (
        Message(
            thread_id=run.thread_id, tenant="t", seq=1, role="user", text="Hello", tokens=5, created_ms=0
        ),
    )

    def send(budget: int) -> Sequence[Message]:
        del budget
        return window

    known: dict[str, Any] = {
        "run": run,
        "plan": plan or a_plan(),
        "path": path,
        "visit": 1,
        "clock": FrozenClock(),
        "emit": emit or _ignore,
        "window": send,
        "call": call,
        "reply_seq": None if call is None else 1,
        "call_index": None if call is None else 0,
        "next_seq": 2,
    }
    return StepContext(**known | fields)


def _ignore(delta: Delta) -> None:
    del delta


class StepContract:
    """The tests; `kind` and `contexts` must be given.

    Attributes: `labels` are the edges by which a completed step of the kind may leave.
    """

    kind: ClassVar[StepKindEntry]
    labels: ClassVar[frozenset[str]] = frozenset()

    def contexts(self) -> Sequence[StepContext]:
        """Give contexts of every sort that the kind meets; each call gives new ones that are equal."""
        raise NotImplementedError

    def hanging(self) -> StepContext | None:
        """Give a context with which the step does not end by itself; None for a kind that always ends."""
        return None

    def test_preparing_is_pure(self) -> None:
        """Twice on one context gives the same, and so does an equal context."""
        for one, two in zip(self.contexts(), self.contexts(), strict=True):
            first = self.kind.prepare(one)
            assert self._comparable(first) == self._comparable(self.kind.prepare(one))
            assert self._comparable(first) == self._comparable(self.kind.prepare(two))

    def test_a_kind_without_perform_gives_its_effects_at_once(self) -> None:
        """Else the executor would have nobody to call."""
        for context in self.contexts():
            prepared = self.kind.prepare(context)
            assert isinstance(prepared, (Effects, Intent))
            assert isinstance(prepared, Effects) or self.kind.perform is not None

    def test_effects_are_what_an_executor_can_write(self) -> None:
        """Known statuses, edges of the kind, rows of the run's own thread, ends that a run can have."""
        for context in self.contexts():
            effects = self.effects(context)
            assert effects.status in lifecycle.STEP
            assert (effects.status == "in_progress") == effects.waits
            assert effects.fan >= 0
            if effects.status == "completed" and not effects.waits:
                assert effects.edge is None or effects.edge in self.labels
            if effects.ends is not None:
                assert effects.ends[0] in ENDS
            self._check_row(context, effects)

    def _check_row(self, context: StepContext, effects: Effects) -> None:
        row = effects.message
        if row is None:
            return
        run = context.run
        assert (row.tenant, row.thread_id, row.run_id) == (run.tenant, run.thread_id, run.id)
        assert row.role in ("assistant", "tool")
        assert row.tokens > 0
        assert (row.reply_seq, row.call_index) == (context.reply_seq, context.call_index)
        for text in (row.text or "", *(t for c in row.tool_calls for t in (c.id, c.name, c.arguments))):
            text.encode()
            assert "\x00" not in text
        assert len({c.id for c in row.tool_calls}) == len(row.tool_calls)

    def test_the_same_step_performed_again_gives_the_same(self) -> None:
        """What is outside answers alike, so does the step: a resumed run tells no other story."""
        for one, two in zip(self.contexts(), self.contexts(), strict=True):
            assert self._comparable(self.effects(one)) == self._comparable(self.effects(two))

    def test_a_cancelled_step_stops(self) -> None:
        """It never swallows the cancellation, and gives no effects."""
        context = self.hanging()
        if context is None:
            return
        perform = self.kind.perform
        assert perform is not None
        prepared = self.kind.prepare(context)
        assert isinstance(prepared, Intent)

        async def cancelled() -> bool:
            task = asyncio.ensure_future(_coroutine(perform(context, prepared)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done(), "the step was to hang"
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            return isinstance(ended, asyncio.CancelledError)

        assert _run(cancelled)

    def effects(self, context: StepContext) -> Effects:
        """Prepare a step, perform it where it has to be, and give its effects."""
        prepared = self.kind.prepare(context)
        if isinstance(prepared, Effects):
            return prepared
        perform = self.kind.perform
        assert perform is not None
        return _run(lambda: _coroutine(perform(context, prepared)))

    def _comparable(self, given: Intent | Effects) -> object:
        """Give what of a result must be equal: an intent's tool is bound anew in every context."""
        if isinstance(given, Intent):
            return given.effect, getattr(given.admitted, "arguments", given.admitted)
        return given


async def _coroutine(work: Awaitable[_T]) -> _T:
    return await work


def _run(talk: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return asyncio.run(asyncio.wait_for(talk(), timeout=30))
