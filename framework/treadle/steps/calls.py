"""What the function of a code node does through its `ctx`: every call is kept, and a function that begins again gets it back.

A function that takes `ctx` may be called several times: it begins again at its top when the process died, and when a
question that it asked is answered. The calls that it made through `ctx` are not made again then; they give what they
gave before, in the order in which they were made. So what such a function does itself (reading files, computing) may happen
several times; what must not goes through `ctx`, and its code makes the same calls in the same order each time.

Rules

1. The result of a call is kept, durably, before the function gets it.
2. A call of a tool whose effect is `once` is kept before it is made, too; where nobody knows what became of it, it
   fails with the kind outcome_unknown and is not made again.
3. A function whose calls are others than before fails: the code changed under the run.
4. A question stops the function, by an exception that no `except Exception` sees. What it catches all the same
   changes nothing: the run waits.
5. Whatever the function left under way is over before its node is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from treadle.errors import ConfigurationError, ProviderError, StatementError, ToolError
from treadle.ids import derive
from treadle.objects.agent import OutputSpec
from treadle.objects.message import ToolCall
from treadle.objects.record import parse_duration
from treadle.objects.run import Answer, Question, RunError
from treadle.objects.run_step import Decision, Step
from treadle.objects.workflow import PromptMessage
from treadle.steps.node import NodeContext, Recorded
from treadle.steps.prompt import ask
from treadle.tools.base import CallContext
from treadle.tools.gate import Admitted, Outcome, Withheld, admit, digest_of, dispatch, failure
from treadle.tools.schema_check import checker

ANSWERED = "answered"
"""The edge of a step that waited for a person, once the person has answered."""
UNKNOWN = "outcome unknown: the process stopped while this call was under way; it was not repeated"

_T = TypeVar("_T")
_Kind = Literal["tool_call", "model_call", "pause", "function"]


class Stopped(BaseException):
    """The function is left where it stands: it waits, or must not go on. Nobody but treadle catches this."""


class Reply(Generic[_T]):
    """What a call through `ctx` gives: `await` it, or, in a function that is not async, ask for its `result()`."""

    def __init__(self, work: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> None:
        """Take the work, which begins when it is asked for."""
        self._work = work
        self._loop = loop

    def __await__(self) -> Generator[Any, Any, _T]:
        """Do it, and give its result."""
        return self._work.__await__()

    def result(self) -> _T:
        """Do it, and give its result; the thread waits meanwhile.

        Errors: RuntimeError in an async function, which would wait for itself.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not None:
            self._work.close()
            msg = "an async function writes `await ctx.…` in place of `ctx.….result()`"
            raise RuntimeError(msg)
        return asyncio.run_coroutine_threadsafe(self._work, self._loop).result()


class Ctx:
    """What a function of a workflow may know of its run, and what it makes further calls with.

    A function takes it as its parameter `ctx`. Every method gives a `Reply`: an async function writes `await ctx.call(…)`, any
    other one `ctx.call(…).result()`. Calls are numbered in the order in which they are written down, so
    `await asyncio.gather(ctx.call(…), ctx.call(…))` is sound; tasks that each make several calls are not, since
    their order may be another one next time.

    Units: `deadline` Unix seconds at which this attempt is out of time, None without bound.
    """

    def __init__(self, calls: Calls, *, idempotency_key: str, deadline: float | None) -> None:
        """Take what keeps the calls; only treadle makes one."""
        context = calls.context
        self._calls = calls
        self.run_id = context.run.id
        self.thread_id = context.run.thread_id
        self.path = context.path
        self.attempt = context.attempt
        self.idempotency_key = idempotency_key
        self.deadline = deadline

    @property
    def time_left_s(self) -> float | None:
        """Give the seconds that this attempt still has, None without bound; the run's own limit counts, too."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._calls.context.clock.now_ms() / 1000)

    def now(self) -> Reply[float]:
        """Give the time, in Unix seconds: the same one whenever the function begins again."""
        return self._calls.noted("now", lambda _: self._calls.context.clock.now_ms() / 1000)

    def random(self) -> Reply[float]:
        """Give a number from 0 up to 1: the same one whenever the function begins again. It is no secret."""
        name = f"{self.run_id}\x00{self.path}"
        return self._calls.noted("random", lambda ordinal: _chance(f"{name}\x00{ordinal}"))

    def call(self, tool: str, /, **arguments: Any) -> Reply[Any]:
        """Call a tool of the workflow's `tools:`, and give its value.

        Errors: ToolError, whose `kind` says why; TimeoutError and ConnectionError.
        """
        return self._calls.tool(tool, arguments, key=self.idempotency_key)

    def model(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[PromptMessage | Mapping[str, str]] = (),
        output: OutputSpec | Mapping[str, Any] | None = None,
    ) -> Reply[Any]:
        """Ask a model once, without tools, and give its text; with a JSON Schema in `output`, the value that fits it.

        Errors: ProviderError, whose `kind` says why (invalid_output for one that does not fit); ConfigurationError for a
        model that nothing configures.
        """
        told = [PromptMessage(content=prompt)] if prompt is not None else []
        told += [
            m if isinstance(m, PromptMessage) else PromptMessage.model_validate(dict(m)) for m in messages
        ]
        if not told:
            msg = "ctx.model takes a prompt, or messages"
            raise TypeError(msg)
        if output is not None and not isinstance(output, OutputSpec):
            output = OutputSpec(schema=dict(output))
        return self._calls.model(model, told, output, time_left_s=self.time_left_s)

    def ask(
        self,
        question: str,
        *,
        kind: Literal["approval", "choice", "input", "edit"] = "input",
        choices: Sequence[str] = (),
        form: Mapping[str, Any] | None = None,
        value: Any = None,
        assignees: Sequence[str] = (),
        timeout: str | None = None,
    ) -> Reply[Answer]:
        """Ask a person, and give the answer; the run waits meanwhile and no process is held.

        Shapes: `kind`, `choices`, `form` and `value` are those of a human node. `timeout` is a length of time (`2h`).

        Errors: TimeoutError where nobody answered in time.
        """
        asked = Question(
            kind=kind,
            ask=question,
            choices=tuple(choices),
            form=dict(form) if form is not None else None,
            value=value,
            assignees=tuple(assignees),
        )
        return self._calls.person(asked, None if timeout is None else parse_duration(timeout))


class _Ended(NamedTuple):
    """How a call ended: what it gave, or its error."""

    result: Any = None
    error: RunError | None = None


class Calls:
    """Keeps the calls of one attempt of a function, and knows those of the attempts that were cut off.

    Attributes: `waits` tells that a person is asked, until `wake_ms` where that is bounded; `changed` says in words that the calls
    are others than before; `lost` is why nothing could be kept any more.
    """

    def __init__(self, context: NodeContext) -> None:
        """Begin with no call; a loop must be running."""
        self.context = context
        self.waits = False
        self.wake_ms: int | None = None
        self.changed: str | None = None
        self.lost: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._is_closed = False
        self._under_way: dict[asyncio.Future[None], asyncio.Task[Any]] = {}
        self._raised: list[tuple[BaseException, str]] = []

    @property
    def must_stop(self) -> bool:
        """Tell whether the function must not go on."""
        return self._is_closed or self.waits or self.changed is not None or self.lost is not None

    def code_of(self, error: BaseException) -> str | None:
        """Give the code of an error that a call of the function raised, None for one of its own."""
        return next((code for raised, code in self._raised if raised is error), None)

    async def settle(self, *, cancel: bool) -> None:
        """Take no more calls, and wait for those that are under way; `cancel` stops them."""
        self._is_closed = True
        mine = asyncio.current_task()
        while others := {ended: t for ended, t in self._under_way.items() if t is not mine}:
            for task in others.values() if cancel else ():
                task.cancel()
            await asyncio.wait(others)

    # -- the sorts of calls

    def noted(self, name: str, make: Callable[[int], float]) -> Reply[float]:
        """Give a value that no outside world gives."""
        ordinal = self._next()
        started_ms = self.context.clock.now_ms()

        async def work() -> Recorded:
            return Recorded(ordinal, "function", started_ms, tool=name, result=make(ordinal))

        async def given() -> float:
            return self._given(await self._kept(ordinal, "function", name, work), "function", name)

        return Reply(given(), self._loop)

    def tool(self, name: str, arguments: Mapping[str, Any], *, key: str) -> Reply[Any]:
        """Call a tool; where a person must agree first, the question is a call of its own before it."""
        ordinal = self._next()
        admitted = self._admit(name, arguments, ordinal)
        if isinstance(admitted, Withheld):
            return Reply(self._approved(admitted, ordinal, self._next(), key=key), self._loop)
        return Reply(self._called(name, admitted, ordinal, key=key), self._loop)

    def model(
        self,
        name: str,
        messages: Sequence[PromptMessage],
        output: OutputSpec | None,
        *,
        time_left_s: float | None,
    ) -> Reply[Any]:
        """Ask a model.

        Errors: ConfigurationError for one that nothing configures.
        """
        named = self.context.plan.model_named
        if named is None:
            raise ConfigurationError(
                f"model '{name}' cannot be asked here: nothing says which models there are"
            )
        found = named(name)
        check = checker(output.schema_, what="the output") if output is not None else None
        ordinal = self._next()

        async def work() -> Recorded:
            context = self.context
            started_ms = context.clock.now_ms()
            said = await ask(
                context, found, messages, output=output, check=check, emit=context.emit, timeout_s=time_left_s
            )
            return Recorded(
                ordinal, "model_call", started_ms, "completed" if said.error is None else "failed",
                result=said.output, error=said.error, usage=said.usage, used=said.used,
            )  # fmt: skip

        async def given() -> Any:
            return self._given(await self._kept(ordinal, "model_call", None, work), "model_call", None)

        return Reply(given(), self._loop)

    def person(self, question: Question, timeout_s: float | None) -> Reply[Answer]:
        """Ask a person."""
        return Reply(self._asked(self._next(), question, timeout_s), self._loop)

    # -- tools

    def _admit(self, name: str, arguments: Mapping[str, Any], ordinal: int) -> Admitted | Withheld | Outcome:
        context = self.context
        try:
            text = json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as e:
            return failure("invalid_arguments", f"{name}: the arguments are not JSON: {e}")
        path = f"{context.path}/{ordinal}"
        call = ToolCall(id=derive("call", context.run.id, path), name=name, arguments=text)
        return admit(context.plan.functions, call, run_id=context.run.id, path=path)

    async def _approved(self, held: Withheld, ordinal: int, following: int, *, key: str) -> Any:
        """Ask whether a call may be made, and make it."""
        name, run = held.tool.spec.name, self.context.run
        question = held.question
        asked = Question(
            kind="approval", ask=question.text, value=held.arguments, form=held.tool.definition.parameters,
            digest=held.digest,
        )  # fmt: skip
        answer = await self._asked(ordinal, asked, question.timeout_s, tool=name, by_default=question.default)
        if answer.decision != "approve":
            raise self._error(
                "pause", name, RunError(code="approval_rejected", message=rejected(name, answer))
            )
        arguments = held.arguments if answer.value is None else answer.value
        path = f"{self.context.path}/{ordinal}"
        binding = digest_of(held.tool, arguments, run_id=run.id, path=path)
        decision = Decision(verdict="approve", by=answer.by, at_ms=answer.at * 1000, digest=binding)
        text = json.dumps(arguments, ensure_ascii=False)
        call = held.call.model_copy(update={"arguments": text})
        admitted = admit({name: held.tool}, call, run_id=run.id, path=path, decision=decision)
        if isinstance(admitted, Withheld):
            admitted = failure("approval_rejected", f"{name}: {admitted.question.text}")
        return await self._called(name, admitted, following, key=key)

    async def _called(self, name: str, admitted: Admitted | Outcome, ordinal: int, *, key: str) -> Any:
        started_ms = self.context.clock.now_ms()

        async def work() -> Recorded:
            run = self.context.run
            if isinstance(admitted, Outcome):
                outcome = admitted
            elif admitted.tool.invoke is None:
                outcome = failure(
                    "tool_error", f"{name} is run by the client, and a function cannot wait for it"
                )
            else:
                outcome = await dispatch(admitted, CallContext(run.id, run.thread_id, f"{key}/{ordinal}"))
            if outcome.code is not None:
                error = RunError(code=outcome.code, message=outcome.message or "")
                return Recorded(ordinal, "tool_call", started_ms, "failed", name, error=error)
            return Recorded(
                ordinal, "tool_call", started_ms, tool=name, result=value_of(outcome),
                statements=outcome.statements,
            )  # fmt: skip

        once = isinstance(admitted, Admitted) and admitted.tool.spec.effect == "once"
        return self._given(await self._kept(ordinal, "tool_call", name, work, once=once), "tool_call", name)

    # -- keeping

    def _next(self) -> int:
        """Give the number of the next call.

        Errors: Stopped once the function must not go on.
        """
        if self.must_stop:
            raise Stopped
        ordinal = self._count
        self._count += 1
        return ordinal

    def _before(self, ordinal: int, kind: _Kind, tool: str | None) -> Step | None:
        """Give a call as it was made before; one that failed in an earlier attempt is made again in this one.

        Invariant: where nobody knows what became of it, it is not made again in any attempt.
        """
        known = self._known(ordinal, kind, tool)
        if known is None or known.attempt == self.context.attempt or known.status != "failed":
            return known
        error = known.last_error
        return known if error is not None and error.code == "outcome_unknown" else None

    async def _kept(
        self,
        ordinal: int,
        kind: _Kind,
        tool: str | None,
        work: Callable[[], Awaitable[Recorded]],
        *,
        once: bool = False,
    ) -> _Ended:
        """Give how a call ended before; else make it, and keep how it ended."""
        ended = self._enter()
        try:
            known = self._before(ordinal, kind, tool)
            if known is not None and not known.is_open:
                return _Ended(known.result, known.last_error)
            now_ms = self.context.clock.now_ms()
            if known is not None and once:
                error = RunError(code="outcome_unknown", message=UNKNOWN)
                made = Recorded(ordinal, kind, known.started_ms, "failed", tool, error=error)
            else:
                if once:
                    await self._record(Recorded(ordinal, kind, now_ms, "in_progress", tool))
                made = await work()
            try:
                await self._record(made)
            except StatementError as e:
                error = RunError(code="tool_error", message=f"{tool}: {e.message}")
                made = Recorded(ordinal, kind, made.started_ms, "failed", tool, error=error)
                await self._record(made)
            return _Ended(made.result, made.error)
        finally:
            self._leave(ended)

    async def _asked(
        self,
        ordinal: int,
        question: Question,
        timeout_s: float | None,
        *,
        tool: str | None = None,
        by_default: Literal["approve", "reject"] | None = None,
    ) -> Answer:
        """Give the answer to a question, or stop the function until there is one."""
        ended = self._enter()
        try:
            known = self._before(ordinal, "pause", tool)
            now_ms = self.context.clock.now_ms()
            if known is None:
                until_ms = now_ms + int(timeout_s * 1000) if timeout_s is not None else None
                question = question.model_copy(update={"until_ms": until_ms})
                await self._record(Recorded(ordinal, "pause", now_ms, "in_progress", tool, question=question))
                raise self._waiting(until_ms)
            stood = known.question
            if question.digest is not None and stood is not None and stood.digest != question.digest:
                raise self._changed(f"call {ordinal} was another call of {tool}")
            if known.is_open:
                known = await self._answered(known, ordinal, now_ms, by_default)
        finally:
            self._leave(ended)
        if known.last_error is not None:
            raise self._error("pause", tool, known.last_error)
        return Answer.model_validate(known.result)

    async def _answered(
        self, known: Step, ordinal: int, now_ms: int, by_default: Literal["approve", "reject"] | None
    ) -> Step:
        """Give the end of a question that stood open: its answer, or that its time is over; else the function waits."""
        until_ms = known.question.until_ms if known.question is not None else None
        answer = answer_of(known)
        error: RunError | None = None
        if answer is None and (until_ms is None or now_ms < until_ms):
            raise self._waiting(until_ms)
        if answer is None and by_default is not None:
            answer = Answer(decision=by_default, by="deadline", at=now_ms // 1000)
        if answer is None:
            error = RunError(code="timeout", message="nobody answered in time")
        result = None if answer is None else answer.model_dump(mode="json")
        status = "completed" if error is None else "failed"
        made = Recorded(
            ordinal, "pause", known.started_ms, status, known.tool, result=result, error=error,
            question=known.question,
        )  # fmt: skip
        await self._record(made)
        return known.model_copy(update={"status": status, "result": result, "last_error": error})

    def _enter(self) -> asyncio.Future[None]:
        if self.changed is not None or self.lost is not None:
            raise Stopped
        task = asyncio.current_task()
        assert task is not None
        ended: asyncio.Future[None] = self._loop.create_future()
        self._under_way[ended] = task
        return ended

    def _leave(self, ended: asyncio.Future[None]) -> None:
        del self._under_way[ended]
        ended.set_result(None)

    def _known(self, ordinal: int, kind: _Kind, tool: str | None) -> Step | None:
        """Give the call of that number as it was made before.

        Errors: Stopped where it was another one.
        """
        known = self.context.recorded.get(ordinal)
        if known is None or (known.kind, known.tool) == (kind, tool):
            return known
        raise self._changed(
            f"call {ordinal} was {_told(known.kind, known.tool)}, and is {_told(kind, tool)} now"
        )

    def _changed(self, said: str) -> Stopped:
        self.changed = f"the code changed under the run: {said}"
        return Stopped(self.changed)

    def _waiting(self, until_ms: int | None) -> Stopped:
        self.waits = True
        if until_ms is not None:
            self.wake_ms = until_ms if self.wake_ms is None else min(self.wake_ms, until_ms)
        return Stopped("a person is asked")

    async def _record(self, made: Recorded) -> None:
        try:
            await self.context.record(made)
        except StatementError:
            raise
        except Exception as e:
            # Hazard: the function may catch what it is told; its node must not end as if this had been kept.
            self.lost = e
            raise Stopped from e

    def _given(self, ended: _Ended, kind: _Kind, tool: str | None) -> Any:
        if ended.error is not None:
            raise self._error(kind, tool, ended.error)
        return ended.result

    def _error(self, kind: _Kind, tool: str | None, error: RunError) -> Exception:
        """Give an error as the function gets it: the same class each time."""
        made: Exception
        if kind == "model_call":
            made = ProviderError(error.message, kind=error.code)
        elif error.code == "timeout":
            made = TimeoutError(error.message)
        elif error.code == "connection":
            made = ConnectionError(error.message)
        else:
            made = ToolError(error.message, tool=tool, kind=error.code)
        self._raised.append((made, error.code))
        return made


def answer_of(step: Step) -> Answer | None:
    """Give what a person answered to the question of a step, None as long as nobody did."""
    if step.edge != ANSWERED or step.question is None:
        return None
    return Answer.model_validate(step.result)


def rejected(name: str, answer: Answer) -> str:
    """Say in words who did not want a call to be made."""
    if answer.by == "deadline":
        return f"{name} was not run: nobody answered in time"
    by = f" by {answer.by}" if answer.by else ""
    return f"{name} was not run: rejected{by}" + (f" ({answer.comment})" if answer.comment else "")


def value_of(outcome: Outcome) -> Any:
    """Give the value of a call that ended well, whole."""
    text = outcome.text if outcome.whole is None else outcome.whole
    return json.loads(text) if outcome.is_json else text


def _told(kind: str, tool: str | None) -> str:
    return f"a {kind} of {tool}" if tool is not None else f"a {kind}"


def _chance(name: str) -> float:
    share = hashlib.blake2b(name.encode(), digest_size=7).digest()
    return (int.from_bytes(share, "big") >> 3) / 2**53
