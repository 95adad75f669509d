"""Processes over one file, each a real treadle; they go one callback at a time, and only as far as the machine lets them.

Rules

1. Time stands still unless it is moved, for clocks and event loop alike: then deadlines, heartbeats and sweeps happen.
2. A model or a tool answers when its gate is opened.
3. What a process that is silent or dead had to do stays where it is; a silent one may go on later.
4. After each callback that committed something, everything that must hold between two commits is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from treadle.errors import TreadleError
from treadle.lifecycle import RUN, is_terminal
from treadle.objects.event import Event
from treadle.objects.message import Message, ToolCall
from treadle.objects.tool import FunctionTool
from treadle.providers.base import Emit, ModelReply, ModelRequest, TextDelta
from treadle.service import Treadle
from treadle.store.connection import Connection, connect
from treadle.store.sqlite import SqliteStore
from treadle.testing.chance import Chance
from treadle.testing.fakes import CountedIds, FrozenClock
from treadle.testing.history import RunView, StepView, check_steps, check_threads, check_wait
from treadle.testing.simulated_loop import Life, SimulatedLoop
from treadle.testing.trace import Trace

from .reference import Row, Seen, Tool

LEASE_S = 15.0

_RUNS = "SELECT no, id, thread, status, rev, fence, walker, coalesce(waits, 0) FROM runs ORDER BY no"
_STEPS = (
    "SELECT pos & 4294967295, path, attempt, kind, status, fence, edge FROM steps"
    " WHERE pos >= ?1 << 32 AND pos < (?1 + 1) << 32"
)
_STEP = (
    "SELECT s.status, s.edge FROM steps s JOIN runs r ON r.no = s.run WHERE r.id = ? AND s.path = ?"
    " ORDER BY s.attempt DESC"
)
_ROWS = "SELECT t.id, m.pos & 4294967295, m.role, m.text, m.reply, m.call FROM threads t JOIN messages m ON m.pos >> 32 = t.no ORDER BY m.pos"


class StillLoop(SimulatedLoop):
    """An event loop whose time stands still unless it is moved."""

    def __init__(self) -> None:
        super().__init__(Chance(""), Trace(), order="in_turn", step_s=0.0)

    def drain(self) -> None:
        """Run everything that can run now."""
        self.call_soon(self.stop)
        self.run_forever()
        while self._queue:
            self.call_soon(self.stop)
            self.run_forever()

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds
        self.drain()


@dataclass(eq=False)
class Gate:
    """Somebody who waits for an answer: a model (without a path), or a tool."""

    process: Process
    run_id: str
    fence: int
    future: asyncio.Future[Any]
    path: str = ""
    token: str = ""

    @property
    def is_open(self) -> bool:
        """Tell whether an answer is still waited for."""
        return not self.future.done() and not self.process.life.is_over


@dataclass(eq=False)
class Following:
    """A reader of a run's events."""

    process: Process
    run_id: str
    after: int
    events: list[Event] = field(default_factory=list[Event])
    task: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Read to the end."""
        async with aclosing(self.process.treadle.runs.follow(self.run_id, after=self.after)) as events:
            async for event in events:
                self.events.append(event)

    @property
    def numbers(self) -> list[int]:
        return [event.seq for event in self.events if event.seq is not None]


class Process:
    """A process: a treadle, its clock, and the life in which its tasks run."""

    def __init__(self, world: World, name: str, *, walks_all: bool) -> None:
        self.world, self.name, self.walks_all = world, name, walks_all
        self.life = Life(name)
        self.clock = FrozenClock(world.wall_ms, elapsed_s=world.now_s)
        self.was_silent = False
        self.treadle = Treadle(
            SqliteStore(world.path, timer=lambda: 0.0),
            project=world.path.parent,
            tools=[self._tool(tool) for tool in world.tools if not tool.is_client and not tool.is_wrong],
            providers={"scripted": cast("Any", self)},
            clock=self.clock,
            ids=world.ids,
            walk=walks_all,
        )

    @property
    def walker(self) -> str:
        """Give the name under which it walks now."""
        return self.treadle.executor.lease.id

    @property
    def is_awake(self) -> bool:
        return self.life.is_running

    # -- its model and its tools -------------------------------------------------------------------------------

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Wait at the gate for the model's answer; a history that no endpoint would take is a problem."""
        self.world.problems += _not_sendable(request.messages)
        text, calls = await self.world.wait_at_gate(self, thread_id=request.messages[-1].thread_id)
        for word in (text or "").split(" "):
            emit(TextDelta(word if word == (text or "").split(" ", maxsplit=1)[0] else f" {word}"))
        return ModelReply(text=text, tool_calls=calls, finish_reason="tool_calls" if calls else "stop")

    async def close(self) -> None:
        """Do nothing: it is no connection."""

    def _tool(self, tool: Tool) -> Callable[..., Any]:
        async def function(token: str, idempotency_key: str) -> str:
            """Do something."""
            _, run_id, path = idempotency_key.split(":", 2)
            self.world.dispatched(tool, token, run_id, path)
            return await self.world.wait_at_gate(self, run_id=run_id, path=path, token=token)

        function.__name__ = tool.name
        return function


def declare(tool: Tool) -> FunctionTool:
    """Give a tool as an agent's document has it."""
    approval: dict[str, Any] | str | None = "always" if tool.asks else None
    if tool.waits_ms is not None:
        approval = {"when": "true", "timeout": f"{tool.waits_ms // 1000}s", "on_timeout": "reject"}
    return FunctionTool.model_validate(
        {
            "name": tool.name, "runs": "client" if tool.is_client else "server", "effect": tool.effect,
            "approval": approval, "on_unknown": tool.on_unknown,
            "parameters": {"type": "object", "properties": {"token": {"type": "string"}}, "required": ["token"]},
        }
    )  # fmt: skip


def _not_sendable(rows: Sequence[Message]) -> list[str]:
    """Give what a strict endpoint would refuse: each reply with calls is followed by one result for each, in order."""
    found: list[str] = []
    rest = list(rows)
    while rest:
        row = rest.pop(0)
        if row.role == "tool":
            found.append(f"a model is sent the result of call {row.call_index} of row {row.reply_seq} alone")
        for index in range(len(row.tool_calls)):
            if not rest or (rest[0].reply_seq, rest[0].call_index) != (row.seq, index):
                found.append(f"a model is sent row {row.seq} without the result of its call {index}")
                break
            rest.pop(0)
    return found


class World:
    """One machine with a file, the processes that use it, and somebody who looks at every commit."""

    def __init__(self, folder: Path, tools: Sequence[Tool]) -> None:
        self.path = folder / "treadle.db"
        self.tools = tools
        self.loop = StillLoop()
        self.ids = CountedIds()
        self.wall_ms, self.now_s = 1_767_225_600_000, 0.0
        self.processes: list[Process] = []
        self.gates: list[Gate] = []
        self.problems: list[str] = []
        self.deleted: set[str] = set()
        self.commits = 0
        self.dispatches: dict[str, int] = {}
        self._runs: dict[int, RunView] = {}
        self._steps: dict[int, dict[tuple[str, int], StepView]] = {}
        self._version = -1
        self._connection: Connection

    # -- processes ---------------------------------------------------------------------------------------------

    def start(self, name: str, *, walks_all: bool) -> Process:
        """Start a process."""
        process = Process(self, name, walks_all=walks_all)
        if not self.processes:
            self._connection = connect(self.path)
            self.loop.after_step = self._look
        self.processes.append(process)
        self.do(process, process.treadle.__aenter__())
        return process

    def begin(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin something in a process."""
        return self.loop.start_in(process.life, work)

    def do(self, process: Process, work: Coroutine[Any, Any, Any]) -> Any:
        """Have a process do something, and give the result or the refusal."""
        task = self.begin(process, work)
        self.loop.drain()
        return outcome(task)

    def advance(self, seconds: float) -> None:
        """Let time pass for everybody who is awake."""
        self.now_s += seconds
        self.wall_ms += round(seconds * 1000)
        for process in self.processes:
            if process.is_awake:
                self.catch_up(process)
        self.loop.move(seconds)

    def catch_up(self, process: Process) -> None:
        """Let a process's clock show the time of the machine."""
        process.clock.advance(self.now_s - process.clock.monotonic())

    def leave(self, process: Process) -> None:
        """Close a process as it should be."""
        task = self.begin(process, process.treadle.close())
        self.loop.drain()
        if not task.done():
            self.advance(5.0)
        outcome(task)
        self.loop.end(process.life)

    def close(self) -> None:
        """Let everything go; what a dead process had begun is never finished."""
        stores = [process.treadle.store for process in self.processes]
        self.loop.after_step = None
        closing = [self.loop.create_task(store.close()) for store in stores]
        self.loop.drain()
        assert all(task.done() for task in closing)
        self.loop.bury([process.life for process in self.processes])
        for gate in self.gates:
            gate.future.cancel()
        self.loop.drain()
        self.loop.close()
        self._connection.close()

    # -- gates -------------------------------------------------------------------------------------------------

    async def wait_at_gate(
        self, process: Process, *, thread_id: str = "", run_id: str = "", path: str = "", token: str = ""
    ) -> Any:
        """Wait until the machine opens the gate."""
        asked = (
            "t.id = ? AND waits IS NULL AND r.status IN ('in_progress', 'cancelling')"
            if thread_id
            else "r.id = ?"
        )
        row = self._connection.execute(
            f"SELECT r.id, r.fence FROM runs r JOIN threads t ON t.no = r.thread WHERE {asked}",
            (thread_id or run_id,),
        ).fetchone()
        if row is None:
            self.problems.append(f"{process.name} walks a run of {thread_id or run_id} that is not active")
            row = ("", -1)
        gate = Gate(process, row[0], row[1], self.loop.create_future(), path, token)
        self.gates.append(gate)
        try:
            return await gate.future
        finally:
            self.gates.remove(gate)

    def open_gates(self, *, is_model: bool, silent: bool = False) -> list[Gate]:
        """Give the gates of processes that are awake, or of those that are silent."""
        return [
            gate
            for gate in self.gates
            if gate.is_open and (not gate.path) == is_model and gate.process.is_awake != silent
        ]

    def dispatched(self, tool: Tool, token: str, run_id: str, path: str) -> None:
        """Take down that a call reached its tool: what the journal says of it must allow that."""
        self.dispatches[token] = self.dispatches.get(token, 0) + 1
        row = self._connection.execute(_STEP, (run_id, path)).fetchone()
        if row is not None and row[0] != "in_progress":
            self.problems.append(f"{tool.name} {token} is called, and {path} of {run_id} is {row[0]}")
        if tool.effect == "once" and (row is None or row[1] != "dispatched"):
            self.problems.append(f"{tool.name} {token} is called before that is committed: {row}")

    # -- what is stored ----------------------------------------------------------------------------------------

    @property
    def runs(self) -> dict[str, RunView]:
        """Give every run as it is now, by its id."""
        return {run.id: run for run in self._runs.values()}

    def seen(self) -> dict[str, Seen]:
        """Give every run as the reference sees it."""
        found: dict[str, Seen] = {}
        for no, run in self._runs.items():
            steps = self._steps.get(no, {}).values() if run.status == "requires_action" else ()
            asked = sum(s.status == "in_progress" and s.edge in ("approval", "unknown") for s in steps)
            found[run.id] = Seen(run.status, run.in_line, run.walker, run.fence, asked)
        return found

    def rows(self) -> dict[str, list[Row]]:
        """Give the rows of every thread, whose seqs must count from one."""
        found: dict[str, list[Row]] = {}
        for thread, seq, role, text, reply, call in self._connection.execute(_ROWS):
            rows = found.setdefault(thread, [])
            rows.append(Row(role, text, reply, call))
            if seq != len(rows):
                self.problems.append(f"row {len(rows)} of {thread} has the seq {seq}")
        return found

    def living(self) -> set[str]:
        """Give the walkers that nobody declared dead."""
        return {row[0] for row in self._connection.execute("SELECT id FROM walkers WHERE NOT dead")}

    def is_lease_over(self, walker: str) -> bool:
        """Tell whether a walker's silence is long enough to declare it dead."""
        row = self._connection.execute(
            "SELECT until_ms, dead FROM walkers WHERE id = ?", (walker,)
        ).fetchone()
        return row is None or bool(row[1]) or self.now_s * 1000 > row[0]

    def waiting(self) -> int:
        """Give how many messages wait in line."""
        row = self._connection.execute("SELECT count(*) FROM queue WHERE pos IS NULL").fetchone()
        return cast("tuple[int]", row)[0]

    def _look(self, _: Life | None) -> None:
        version = cast("int", self._connection.pragma("data_version"))
        if version == self._version:
            return
        self._version = version
        self.commits += 1
        before = self._runs
        self._runs = {
            no: RunView(id_, thread, status, rev, fence, walker, bool(in_line))
            for no, id_, thread, status, rev, fence, walker, in_line in self._connection.execute(_RUNS)
        }
        for no, old in before.items():
            if no not in self._runs and old.id not in self.deleted:
                self.problems.append(f"run {old.id} is gone")
        self.problems += check_threads(self._runs.values())
        for no, run in self._runs.items():
            old = before.get(no)
            if old is not None and old != run:
                self.problems += [f"run {run.id}: {what}" for what in _moved_wrongly(old, run)]
            if old is not None and is_terminal(old.status):
                continue
            steps = [StepView(run.id, *row) for row in self._connection.execute(_STEPS, (no,))]
            seen = self._steps.get(no, {})
            # Between two looks a run may have changed hands more than once: its fence is looked at elsewhere.
            after = [s._replace(fence=run.fence) for s in steps]
            known = {key: s._replace(fence=run.fence) for key, s in seen.items()}
            self.problems += check_steps(known, after, run)
            self.problems += check_wait(run, steps)
            self.problems += [
                f"run {run.id}: step {s.path} has fence {s.fence}, the run {run.fence}"
                for s in steps
                if s.fence > run.fence
            ]
            self._steps[no] = {(s.run, s.n): s for s in steps}


def _moved_wrongly(old: RunView, new: RunView) -> list[str]:
    """Give what is wrong about a run's moves since it was looked at: each is legal, and each raises its revision."""
    found: list[str] = []
    if is_terminal(old.status):
        found.append(f"changed after it had ended: {old} to {new}")
    if new.rev <= old.rev or new.fence < old.fence:
        found.append(f"moved without a new revision: {old} to {new}")
    if new.walker not in (None, old.walker) and new.fence == old.fence:
        found.append(f"changed hands without a new fence: {old} to {new}")
    reached = {old.status}
    for _ in range(new.rev - old.rev):
        # Who takes a run over, and whose turn it becomes, moves to the status that it has.
        reached = {to for status in reached for to in RUN[status]} | (
            reached & {"in_progress", "cancelling", "requires_action", "queued"}
        )
    if new.status not in reached:
        found.append(f"went from {old.status} to {new.status} in {new.rev - old.rev} moves")
    return found


def outcome(task: asyncio.Task[Any]) -> Any:
    """Give a task's result, or the refusal that it ended with."""
    assert task.done(), f"{task} waits for something"
    error = task.exception()
    if error is None or isinstance(error, TreadleError):
        return error if error is not None else task.result()
    raise error


def reply(text: str | None, calls: Sequence[ToolCall] = ()) -> tuple[str | None, tuple[ToolCall, ...]]:
    """Give what a model answers."""
    return text, tuple(calls)
