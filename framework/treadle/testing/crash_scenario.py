"""What a crash test is told: a scenario, and the place in which one process of it lives.

A scenario is a client and the agents that it talks to. It is lived through several times, each time in a new
process over what the last one left in the store, until its client has nothing more to do. So the client asks the
store what has been done already, and goes on from there: what a client does that had to start again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.clock import SystemClock
from treadle.objects.agent import Agent
from treadle.objects.event import Event
from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.tool import FunctionTool
from treadle.objects.workflow import WorkflowSpec
from treadle.service import Treadle
from treadle.testing.receiver import Note, Receiver


class ShiftedClock(SystemClock):
    """The machine's clock, put forward by whoever does not want to wait; leases go by the machine's own.

    Units: `shift_s` seconds.
    """

    def __init__(self) -> None:
        """Start with the machine's time."""
        self.shift_s = 0.0

    def now_ms(self) -> int:
        """Give Unix milliseconds."""
        return super().now_ms() + round(self.shift_s * 1000)

    def advance(self, seconds: float) -> None:
        """Put the wall clock forward."""
        self.shift_s += seconds


@dataclass(slots=True, kw_only=True)
class Place:
    """Where one process of a scenario lives.

    Shapes: `folder` is the project's folder and has the store; `life` counts the processes from 1. `treadle` is
    open while the client acts.
    """

    scenario: str
    folder: Path
    seed: int
    receiver: Receiver
    life: int = 1
    clock: ShiftedClock = field(default_factory=ShiftedClock)
    opened: Treadle | None = None
    opener: Callable[[], Treadle] | None = None

    @property
    def treadle(self) -> Treadle:
        """Give the open treadle."""
        assert self.opened is not None, "the treadle is opened after `setup`"
        return self.opened

    def another(self) -> Treadle:
        """Open a second treadle over the same store, as another process has one; it walks what it is told to, and no more."""
        assert self.opener is not None, "the store is opened after `setup`"
        return self.opener()

    @property
    def is_slow(self) -> bool:
        """Tell whether the disk is a slow one in this seed: commits are then gathered and written on a thread."""
        return self.seed % SLOW_SEEDS == SLOW_SEEDS - 1

    def draw(self, below: int, *what: object) -> int:
        """Give a number from 0 to below `below`: by chance from seed to seed, the same in each process of one."""
        said = "\x00".join(map(str, (self.scenario, self.seed, *what)))
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big") % below

    def words(self, *what: object) -> str:
        """Give a short text that the seed decides."""
        return " ".join(_WORDS[self.draw(len(_WORDS), *what, n)] for n in range(2 + self.draw(3, *what)))

    async def turns(self, *what: object, most: int = 4) -> None:
        """Let other tasks go first, as often as the seed says."""
        for _ in range(self.draw(most, *what)):
            await asyncio.sleep(0)

    async def agent(self, **spec: Any) -> Agent:
        """Give the scenario's agent, made where there is none; `spec` are the fields of `agents.create`."""
        found = await self.treadle.agents.list(limit=1)
        return found[0] if found else await self.treadle.agents.create(**spec)

    async def thread(self, text: str) -> Thread:
        """Give the scenario's thread, made with a message of its user where there is none."""
        found = await self.treadle.threads.list(limit=1)
        return found[0] if found else await self.treadle.threads.create(messages=[{"content": text}])

    async def first_run(self, thread: Thread, agent: Agent, **fields: Any) -> Run:
        """Give the thread's first run, made where there is none."""
        found = await self.treadle.runs.list(thread.id, limit=1, order="asc")
        return found[0] if found else await self.treadle.runs.create(thread.id, agent=agent, **fields)

    async def workflow_run(self, workflow: WorkflowSpec, **fields: Any) -> Run:
        """Give the scenario's run of a workflow, made where there is none; its thread is the first one there is."""
        threads = await self.treadle.threads.list(limit=1, order="asc")
        runs = await self.treadle.runs.list(threads[0].id, limit=1, order="asc") if threads else []
        return runs[0] if runs else await self.treadle.workflows.start(workflow, **fields)

    async def another_turn(self, thread: Thread, agent: Agent, text: str) -> Run:
        """Say something more when all is over, once, and give the finished run: the thread takes another turn."""
        said = await self.treadle.messages.list(thread.id, limit=100)
        if not any(message.plain == text for message in said):
            await self.treadle.messages.create(thread.id, content=text)
        runs = await self.treadle.runs.list(thread.id, limit=2)
        run = runs[0] if len(runs) == 2 else await self.treadle.runs.create(thread.id, agent=agent)
        return await self.finish(run)

    async def finish(self, run: Run, output: Callable[[str, str], str] | None = None) -> Run:
        """Wait until a run has ended; `output` gives what a client's function gives, by its name and arguments."""
        runs = self.treadle.runs
        while True:
            run = await runs.wait(run.id, timeout_s=WAIT_S)
            if run.status != "requires_action" or output is None:
                return run
            given = [
                {"tool_call_id": c.id, "output": output(c.name, c.arguments)} for c in run.required_action
            ]
            await runs.submit_tool_outputs(run.id, given)


SLOW_SEEDS = 4
"""One seed of so many has a slow disk."""
WAIT_S = 20.0
"""How long a client waits for a run before it gives up: then the run is stuck."""

_WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "inlet",
    "juniper",
    "kelp",
    "lärche",
)


@dataclass(frozen=True, slots=True)
class Lived:
    """A run at the end: its record, its journal, its events, and what it may have called.

    Shapes: `tools` by name; `nodes` are the functions of a workflow's nodes, by the node's id.
    """

    run: Run
    steps: Sequence[Step]
    events: Sequence[Event]
    tools: Mapping[str, FunctionTool]
    nodes: Mapping[str, FunctionTool] = field(default_factory=dict[str, FunctionTool])

    def called_by(self, step: Step) -> FunctionTool | None:
        """Give what a step called, None for one that calls nothing, or that nobody knows."""
        if step.kind == "tool_call":
            return self.tools.get(step.tool or "") or self.nodes.get(step.node)
        is_node = step.kind == "function" and not step.path.rpartition("/")[2].isdecimal()
        return self.nodes.get(step.node) if is_node else None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A thread at the end: all of its rows, and its runs in the order they were made."""

    thread: Thread
    rows: Sequence[Message]
    runs: Sequence[Lived]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left when a scenario has come to its end: every thread, and what reached the outside world."""

    place: Place
    threads: Sequence[Conversation]
    notes: Sequence[Note]


def nothing_more(_: Outcome) -> Iterable[str]:
    """Ask for nothing beside what holds for every scenario."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A client and its agents, to be killed at every point and to come to the same end.

    Shapes: `setup` gives the keywords of `Treadle` (tools, providers, settings …); without `project` the project is
    an empty folder. `drive` is the client; it is called in each process, and returns when it has nothing more to do.
    `holds` gives a sentence for each thing that is wrong at the end, beside what is wrong in every scenario.
    `compares` says that the threads must read as if nobody had been killed; `deltas` that each piece of a streamed
    text is a point as well.
    """

    name: str
    setup: Callable[[Place], Mapping[str, Any]]
    drive: Callable[[Place], Awaitable[None]]
    holds: Callable[[Outcome], Iterable[str]] = nothing_more
    compares: bool = True
    deltas: bool = False
