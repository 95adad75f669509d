"""Clients of a simulation: they ask any process for anything, and take down what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from itertools import count
from typing import Any, NamedTuple, TypeVar, cast

from treadle.errors import StoreError, TreadleError
from treadle.objects.event import Event
from treadle.service import Treadle
from treadle.testing.chance import Chance
from treadle.testing.history import Append, Outcome, RunView, check_numbers
from treadle.testing.simulated_process import Process, ProcessDied
from treadle.testing.trace import Trace

T = TypeVar("T")
Work = Callable[[Treadle], Coroutine[Any, Any, T]]


PATIENCE_S = 60.0
"""How long a client waits for a run."""


class Answer(NamedTuple):
    """What a client knows after a request.

    Units: `began` and `ended` are virtual seconds; `ended` is infinite where nobody answered.
    """

    outcome: Outcome
    value: Any
    began: float
    ended: float


class Deadline(NamedTuple):
    """A run that a client wanted to end in time.

    Units: virtual seconds.
    """

    run_id: str
    asked_s: float
    accepted_s: float
    ttl_s: float


class Clients:
    """What all clients know together.

    Shapes: `cancelled` has the second at which the cancel of a run was accepted; `keys_may_be_forgotten` says that the
    wall clock was turned, by which the age of a key is told.
    """

    def __init__(
        self,
        chance: Chance,
        trace: Trace,
        *,
        processes: Callable[[], list[Process]],
        runs: Callable[[], list[RunView]],
        agents: list[str],
        think_s: float,
    ) -> None:
        """Start knowing the agents."""
        self.appends: list[Append] = []
        self.problems: list[str] = []
        self.cancelled: dict[str, float] = {}
        self.deadlines: list[Deadline] = []
        self.keys_may_be_forgotten = False
        self._chance = chance
        self._trace = trace
        self._processes = processes
        self._runs = runs
        self._agents = agents
        self._think_s = think_s
        self._threads: list[str] = []
        self._texts = count(1)

    async def live(self, requests: int) -> None:
        """Make that many requests, one after the other."""
        kinds = (
            [self.create_thread] + [self.say] * 2 + [self.start] * 4 + [self.start_and_stream] * 2
            + [self.start_and_wait] * 2 + [self.cancel] * 2 + [self.submit] * 2 + [self.decide] * 3 + [self.resume]
            + [self.follow] * 2
        )  # fmt: skip
        await self.create_thread()
        for _ in range(requests):
            await asyncio.sleep(self._chance.around(self._think_s))
            await self._chance.pick(kinds)()

    # -- requests ----------------------------------------------------------------------------------------------

    async def create_thread(self) -> None:
        """Make a thread with a message."""
        text = self._text()
        answer = await self._ask(
            "create thread", lambda t: t.threads.create(messages=[{"role": "user", "content": text}])
        )
        thread = answer.value.id if answer.outcome == "ok" else ""
        if thread:
            self._threads.append(thread)
        self._took(thread, text, answer)

    async def say(self) -> None:
        """Append a message to a thread, busy or not."""
        if not self._threads:
            return
        thread, text = self._chance.pick(self._threads), self._text()
        fields = self._wishes()

        async def work(t: Treadle) -> object:
            return await t.messages.create(thread, content=text, **fields)

        self._took(thread, text, await self._insist("say", work, fields))

    async def start(self) -> None:
        """Start a run, on a thread that may be busy, perhaps with a message or a deadline."""

        async def work(t: Treadle, thread: str, fields: dict[str, Any]) -> object:
            return await t.runs.create(thread, **fields)

        ttl_s = self._chance.pick([5, 30, 600]) if self._chance.happens(0.4) else 0
        answer = await self._start("start", work, **({"ttl": f"{ttl_s}s"} if ttl_s else {}))
        if ttl_s and answer is not None and answer.outcome == "ok":
            self.deadlines.append(Deadline(answer.value.id, answer.began, answer.ended, ttl_s))

    async def start_and_wait(self) -> None:
        """Start a run and wait for it, not forever."""

        async def work(t: Treadle, thread: str, fields: dict[str, Any]) -> object:
            run = await t.runs.create(thread, **fields)
            try:
                return await t.runs.wait(run.id, timeout_s=PATIENCE_S)
            except TimeoutError:
                return run
            except StoreError:
                return run

        await self._start("start and wait", work)

    async def start_and_stream(self) -> None:
        """Start a run and read its events; some readers leave early."""
        patience = 1 + self._chance.below(40)
        heard: list[list[int]] = []

        async def work(t: Treadle, thread: str, fields: dict[str, Any]) -> object:
            numbers: list[int] = []
            heard.append(numbers)
            left = patience
            try:
                stream = cast("AsyncGenerator[Event]", t.runs.stream(thread, **fields))
                async with aclosing(stream) as events, asyncio.timeout(PATIENCE_S):
                    async for event in events:
                        _count(event, numbers)
                        left -= 1
                        if left == 0:
                            break
            except (StoreError, TimeoutError):
                if not numbers:
                    raise
            return None

        await self._start("stream", work)
        for numbers in heard:
            self.problems += check_numbers("a stream", numbers)

    async def _start(
        self,
        what: str,
        work: Callable[[Treadle, str, dict[str, Any]], Coroutine[Any, Any, object]],
        **more: Any,
    ) -> Answer | None:
        if not self._threads:
            return None
        chance = self._chance
        thread, text = chance.pick(self._threads), self._text() if chance.happens(0.5) else None
        fields: dict[str, Any] = {"agent": chance.pick(self._agents), **self._wishes(), **more}
        if text is not None:
            fields["additional_messages"] = [{"role": "user", "content": text}]
        answer = await self._insist(what, lambda t: work(t, thread, fields), fields)
        if text is not None:
            self._took(thread, text, answer)
        return answer

    async def cancel(self) -> None:
        """Cancel some run."""
        run = self._some_run("queued", "in_progress", "requires_action", "cancelling")
        if run is None:
            return
        answer = await self._ask("cancel", lambda t: t.runs.cancel(run.id))
        if answer.outcome == "ok":
            self.cancelled.setdefault(run.id, answer.ended)

    async def submit(self) -> None:
        """Give the outputs that some run waits for."""
        run = self._some_run("requires_action")
        if run is None:
            return

        async def work(t: Treadle) -> object:
            found = await t.runs.get(run.id)
            outputs = [
                {"tool_call_id": call.id, "output": f"told {call.id}"} for call in found.required_action
            ]
            return await t.runs.submit_tool_outputs(run.id, outputs)

        await self._ask("submit", work)

    async def decide(self) -> None:
        """Let a call run that waits for a person, change it, or refuse it."""
        run = self._some_run("requires_action")
        if run is None:
            return
        chance, person = self._chance, f"person {next(self._texts)}"
        verdict = chance.pick(["approve", "edit", "reject"])

        async def work(t: Treadle) -> object:
            found = await t.runs.get(run.id)
            waiting = found.required_approvals
            if not waiting:
                return None
            asked = waiting[0]
            call_id = asked.call.id if asked.call is not None else None
            if verdict == "reject":
                return await t.runs.reject(run.id, call_id, reason="not today", by=person)
            edited = {"token": person} if verdict == "edit" and asked.action == "approval" else None
            return await t.runs.approve(run.id, call_id, arguments=edited, by=person, digest=asked.digest)

        await self._ask(f"decide: {verdict}", work)

    async def resume(self) -> None:
        """Ask for some run to be walked on."""
        run = self._some_run("queued", "in_progress")
        if run is not None:
            await self._ask("resume", lambda t: t.runs.resume(run.id))

    async def follow(self) -> None:
        """Read the events of some run, going on at another process wherever the reader was left."""
        run = self._some_run("queued", "in_progress", "requires_action", "cancelling", "completed", "failed")
        if run is None:
            return
        numbers: list[int] = []

        async def read(t: Treadle) -> object:
            async with aclosing(t.runs.follow(run.id, after=numbers[-1] if numbers else 0)) as events:
                async with asyncio.timeout(patience_s):
                    async for event in events:
                        _count(event, numbers)
            return None

        for _ in range(1 + self._chance.below(3)):
            patience_s = self._chance.around(5.0)
            await self._ask("follow", read)
        self.problems += check_numbers(f"a reader of run {run.id}", numbers)

    # -- asking ------------------------------------------------------------------------------------------------

    def _some_run(self, *statuses: str) -> RunView | None:
        found = [run for run in self._runs() if run.status in statuses]
        return self._chance.pick(found) if found else None

    def _wishes(self) -> dict[str, Any]:
        """Give what a client may say beside what it wants: to wait in line, and a key to ask again by."""
        fields: dict[str, Any] = {}
        if self._chance.happens(0.4):
            fields["on_busy"] = "queue"
        if self._chance.happens(0.4):
            fields["key"] = f"key {next(self._texts)}"
        return fields

    async def _insist(self, what: str, work: Work[Any], fields: dict[str, Any]) -> Answer:
        """Ask, and with a key of its own ask again until somebody answers: it is done once all the same."""
        first = answer = await self._ask(what, work)
        if "key" not in fields:
            return answer
        for _ in range(5):
            if answer.outcome != "unknown" or not self._up() or self.keys_may_be_forgotten:
                break
            answer = await self._ask(f"{what} again", work)
        is_asked_twice = self._chance.happens(0.3) and not self.keys_may_be_forgotten
        if answer.outcome == "ok" and answer.value is not None and self._up() and is_asked_twice:
            second = await self._ask(f"{what} twice", work)
            if second.outcome == "refused" or (second.outcome == "ok" and second.value.id != answer.value.id):
                if self.keys_may_be_forgotten:
                    return answer._replace(began=first.began)
                self.problems.append(f"{fields['key']} gave {answer.value.id}, and then {second.value}")
        return answer._replace(began=first.began)

    def _up(self) -> list[Process]:
        return [process for process in self._processes() if process.is_up]

    def _text(self) -> str:
        return f"u{next(self._texts)}"

    def _took(self, thread: str, text: str, answer: Answer) -> None:
        self.appends.append(Append(thread, text, answer.outcome, answer.began, answer.ended))

    async def _ask(self, what: str, work: Work[Any]) -> Answer:
        """Ask some process."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        up = self._up()
        if not up:
            return Answer("refused", None, began, began)
        process = self._chance.pick(up)
        self._trace.note("ask", process.name, what)
        outcome: Outcome = "ok"
        value: Any = None
        try:
            value = await process.ask(work)
        except (ProcessDied, StoreError) as e:
            outcome, value = "unknown", e
        except TimeoutError as e:
            outcome, value = "unknown", e
        except TreadleError as e:
            outcome, value = "refused", e
        said = type(value).__name__ if outcome != "ok" else ""
        self._trace.note("answer", process.name, what, outcome, said)
        return Answer(outcome, value, began, float("inf") if outcome == "unknown" else loop.time())


def _count(event: Event, numbers: list[int]) -> None:
    if event.seq is not None:
        numbers.append(event.seq)
