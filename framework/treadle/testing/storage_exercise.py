"""A client that does a bit of everything on a SQLite store, and writes down what it was told.

What it was told is a `Ledger`, to be held against what the store has afterwards. The same seed does the same, so that
a fault can be put at every place of it, and a power loss after every write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

from treadle.errors import StateError, StoreError
from treadle.ids import Ids
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool
from treadle.providers.base import Emit, ModelReply, ModelRequest
from treadle.providers.scripted import ScriptedProvider, ScriptEntry
from treadle.service import Treadle
from treadle.settings import Settings
from treadle.store.connection import Connection, connect
from treadle.store.sqlite import SqliteStore
from treadle.testing.chance import Chance
from treadle.testing.fakes import CountedIds, FrozenClock
from treadle.testing.power_loss import Durability, PowerLoss

R = TypeVar("R")

ASK: Final = FunctionTool(name="ask", runs="client", effect="pure")
LOOK: Final = FunctionTool(name="look", runs="server", effect="pure")
PAY: Final = FunctionTool(name="pay", runs="server")
TRIES: Final = 12
HANG_S: Final = 20.0


@dataclass
class Ledger:
    """What a client was told, to be held against what a store has afterwards."""

    path: Path
    threads: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    ended: dict[str, str] = field(default_factory=dict[str, str])
    payments: dict[str, int] = field(default_factory=dict[str, int])
    errors: list[StoreError] = field(default_factory=list[StoreError])
    problems: list[str] = field(default_factory=list[str])


class _Model(ScriptedProvider):
    """A model whose part follows from the last thing that its user said."""

    def __init__(self, chance: Chance) -> None:
        super().__init__(self._reply)
        self._chance = chance
        self.waits = asyncio.Event()

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        if _said(request).startswith("wait"):
            self.waits.set()
            await asyncio.Event().wait()
        return await super().call(request, emit)

    def _reply(self, request: ModelRequest) -> ScriptEntry:
        said = _said(request)
        rounds = 0
        for row in reversed(request.messages):
            if row.role == "user":
                break
            rounds += row.role == "assistant"
        calls: list[dict[str, Any]] = []
        if said.startswith("ask") and not rounds:
            calls = [{"name": "ask", "arguments": {}}, {"name": "look", "arguments": {"place": said}}]
        elif said.startswith("two") and rounds < 2:
            calls = [{"name": "pay", "arguments": {"what": said}}] if rounds else [
                {"name": "look", "arguments": {"place": f"{said} {i}"}} for i in range(3)
            ]  # fmt: skip
        if calls:
            return {"calls": calls}
        return f"Done: {said} " + "x" * self._chance.below(3000)


def _said(request: ModelRequest) -> str:
    return next((row.text or "" for row in reversed(request.messages) if row.role == "user"), "")


class Exercise:
    """A client that does a bit of everything on a store, and goes on where the store fails.

    Threads, messages, runs with two rounds of tools, a client's outputs, a cancel, a next turn, three runs at once.
    """

    def __init__(
        self,
        path: Path,
        opener: Callable[[Path | None], Connection] = connect,
        *,
        seed: int = 0,
        durability: Durability = "full",
        on_error: Callable[[], None] | None = None,
        is_slow: bool = False,
    ) -> None:
        """Take the store's file and the opener of its connections; `on_error` is called when the store fails.

        Shapes: with `is_slow` the disk seems slow, so that commits are gathered and written on a thread.
        """
        self.ledger = Ledger(path)
        self._opener = opener
        self._chance = Chance(str(seed))
        self._durability: Durability = durability
        self._on_error = on_error
        # What takes how long must not change what is done: the same seed writes the same.
        self._timer: Callable[[], float] = _seconds(count()) if is_slow else float
        self._ids = CountedIds()
        self._model = _Model(self._chance)
        self._treadle: Treadle | None = None

    @property
    def _open(self) -> Treadle:
        assert self._treadle is not None
        return self._treadle

    async def run(self) -> Ledger:
        """Do everything, twice with the store opened anew in between, and give what the client was told."""
        for part in (self._first, self._second):
            self._treadle = await self._attempt(self._enter)
            try:
                await part()
            finally:
                await self._close()
        return self.ledger

    async def _first(self) -> None:
        treadle = self._open
        agent = await self._attempt(lambda: treadle.agents.create(model="scripted", tools=[ASK, LOOK, PAY]))
        self._agent = agent
        thread_id = await self._thread()
        await self._turn(thread_id, "two rounds")
        await self._turn(thread_id, "ask me")
        await self._turn(thread_id, "wait for ever", cancel=True)
        await self._turn(thread_id, "next turn")

    async def _second(self) -> None:
        thread_ids = [await self._thread() for _ in range(3)]
        await asyncio.gather(*(self._turn(id_, f"two rounds for {id_}") for id_ in thread_ids))
        await self._attempt(lambda: self._open.threads.update(thread_ids[0], metadata={"n": "1"}))
        await self._turn(thread_ids[0], "y" * 300_000)
        await self._turn(next(iter(self.ledger.threads)), "last turn")

    async def _enter(self) -> Treadle:
        store = SqliteStore(
            self.ledger.path, durability=self._durability, opener=self._opener, timer=self._timer
        )
        return open_treadle(store, self.ledger, self._model, ids=self._ids)

    async def _close(self) -> None:
        try:
            await asyncio.wait_for(self._open.close(), HANG_S)
        except StoreError as e:
            self._told(e)
        except TimeoutError:
            self.ledger.problems.append("closing hangs")

    async def _thread(self) -> str:
        thread = await self._attempt(self._open.threads.create)
        self.ledger.threads[thread.id] = []
        return thread.id

    async def _turn(self, thread_id: str, text: str, *, cancel: bool = False) -> None:
        treadle = self._open
        await self._attempt(lambda: treadle.messages.create(thread_id, content=text))
        self.ledger.threads[thread_id].append(text)
        run = await self._attempt(lambda: treadle.runs.create(thread_id, agent=self._agent))
        if cancel:
            await self._until_it_waits(run.id)
            await self._attempt(lambda: self._cancel(run.id))
        run = await self._finish(run.id)
        while run.status == "requires_action":
            outputs = [{"tool_call_id": p.call.id, "output": "told"} for p in run.pending if p.call]
            await self._attempt(lambda outputs=outputs, id_=run.id: self._submit(id_, outputs))
            run = await self._finish(run.id)
        self.ledger.ended[run.id] = run.status
        if run.status not in ("completed", "cancelled"):
            self.ledger.problems.append(f"run {run.id} is {run.status}: {run.last_error}")

    async def _until_it_waits(self, run_id: str) -> None:
        treadle = self._open
        while not self._model.waits.is_set() and treadle.executor.is_walking(run_id):  # noqa: ASYNC110 - a walk that breaks before its model is asked sets no event
            await asyncio.sleep(0)
        self._model.waits.clear()

    async def _cancel(self, run_id: str) -> None:
        try:
            await self._open.runs.cancel(run_id)
        except StateError as e:
            if e.status != "cancelled":
                raise

    async def _submit(self, run_id: str, outputs: Sequence[Mapping[str, str]]) -> None:
        """Give the outputs, unless an attempt before this one did."""
        run = await self._open.runs.get(run_id)
        if run.status == "requires_action":
            await self._open.runs.submit_tool_outputs(run_id, outputs)

    async def _finish(self, run_id: str) -> Run:
        """Wait for a run; one that the store's failure has left is taken up again."""
        treadle = self._open
        for _ in range(TRIES):
            try:
                return await treadle.runs.wait(run_id, timeout_s=HANG_S)
            except StoreError as e:
                self._told(e)
            except TimeoutError:
                self.ledger.problems.append(f"run {run_id} hangs")
                break
            try:
                await self._take_up(run_id)
            except StoreError as e:
                self._told(e)
        self.ledger.problems.append(f"run {run_id} does not end")
        return await treadle.runs.get(run_id)

    async def _take_up(self, run_id: str) -> None:
        runs = self._open.runs
        try:
            if (await runs.get(run_id)).status == "cancelling":
                await runs.cancel(run_id)
            else:
                await runs.resume(run_id)
        except StateError:
            return  # It has ended, or is walked.

    async def _attempt(self, verb: Callable[[], Awaitable[R]]) -> R:
        """Do something until the store lets it be done."""
        for _ in range(TRIES):
            try:
                return await asyncio.wait_for(_awaited(verb), HANG_S)
            except StoreError as e:
                self._told(e)
        msg = f"the store keeps failing: {self.ledger.errors[-1]}"
        raise RuntimeError(msg)

    def _told(self, error: StoreError) -> None:
        self.ledger.errors.append(error)
        if self._on_error is not None:
            self._on_error()
        if str(self.ledger.path) not in error.message or not error.hint:
            self.ledger.problems.append(f"an error names no file or no way out: {error!r}")


def _seconds(numbers: Iterator[int]) -> Callable[[], float]:
    return lambda: float(next(numbers))


def open_treadle(
    store: SqliteStore, ledger: Ledger, model: ScriptedProvider, *, ids: Ids | None = None, later_s: float = 0
) -> Treadle:
    """Open a store with the tools of the exercise, which pay into the ledger, `later_s` seconds after it began."""
    payments = ledger.payments

    async def look(place: str) -> str:
        """Look at a place."""
        return f"seen: {place}"

    async def pay(what: str) -> str:
        """Pay once."""
        payments[what] = payments.get(what, 0) + 1
        return f"paid {what}"

    return Treadle(
        store,
        tools=[look, pay],
        providers={"scripted": model},
        clock=FrozenClock(elapsed_s=later_s),
        ids=ids,
        settings=Settings(),
        project=ledger.path.parent,
    )


async def _awaited(verb: Callable[[], Awaitable[R]]) -> R:
    return await verb()


def record(path: Path, *, seed: int = 0, durability: Durability = "full") -> PowerLoss:
    """Run the exercise on a new store and give what it wrote.

    Errors: AssertionError where the exercise itself went wrong.
    """
    power = PowerLoss(durability=durability)
    ledger = asyncio.run(Exercise(path, power.open, seed=seed, durability=durability).run())
    assert not ledger.problems, ledger.problems
    return power
