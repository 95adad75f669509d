"""A process that is simulated: a life on the loop, the clocks of its machine, and a treadle of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

from treadle.ids import derive
from treadle.objects.project import Project, ProjectSpec
from treadle.service import Treadle
from treadle.settings import Settings
from treadle.store.base import Store
from treadle.testing.chance import Chance
from treadle.testing.simulated_loop import Life, SimulatedLoop
from treadle.testing.simulated_store import FaultyStore, SimulatedSqlite
from treadle.testing.simulated_tools import Outside
from treadle.testing.trace import Trace

T = TypeVar("T")
START_MS = 1_767_225_600_000


class ProcessDied(Exception):
    """The process that was asked ended before it answered."""


class Machine:
    """A machine that processes run on: its clocks and the name of its boot.

    Units: `ahead_ms` is how far its wall clock is ahead of the true time; `up_s` how long it was up at the start.
    """

    def __init__(self, loop: SimulatedLoop, boot: str, *, up_s: float = 0.0) -> None:
        """Take the loop whose time it shows."""
        self.boot = boot
        self.ahead_ms = 0
        self._loop = loop
        self._up_s = up_s

    def now_ms(self) -> int:
        """Give what its wall clock shows."""
        return START_MS + int(self._loop.time() * 1000) + self.ahead_ms

    def monotonic(self) -> float:
        """Give the seconds for which it has been up."""
        return self._up_s + self._loop.time()


class SimulatedClock:
    """The clock of a process on a machine."""

    def __init__(self, loop: SimulatedLoop, machine: Machine, life: Life, chance: Chance) -> None:
        """Take the loop that moves it."""
        self._loop = loop
        self._machine = machine
        self._life = life
        self._chance = chance

    @property
    def boot(self) -> str:
        """Name the life of the machine."""
        return self._machine.boot

    def now_ms(self) -> int:
        """Give what the machine's wall clock shows."""
        return self._machine.now_ms()

    def monotonic(self) -> float:
        """Give the seconds of the machine's own clock."""
        return self._machine.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait virtual seconds."""
        await asyncio.sleep(seconds)

    def every(self, seconds: float, function: Callable[[], None]) -> Callable[[], None]:
        """Call a function every so many virtual seconds, a little late as threads are, while the process lives."""
        is_over = False

        def beat() -> None:
            if is_over:
                return
            wait()
            function()

        def wait() -> None:
            self._loop.call_in(self._life, seconds + self._chance.around(seconds / 50), beat)

        def stop() -> None:
            nonlocal is_over
            is_over = True

        wait()
        return stop


class SeededIds:
    """Ids that follow from a name: the same in each repeat, and no two processes make the same."""

    def __init__(self, name: str, on_walker: Callable[[str], None]) -> None:
        """Start at one; `on_walker` is told each name that a walker gets."""
        self._name = name
        self._numbers = count(1)
        self._on_walker = on_walker

    def new(self, prefix: str) -> str:
        """Give the next id."""
        made = derive(prefix, "00000000", f"{self._name}/{next(self._numbers)}")
        if prefix == "walker":
            self._on_walker(made[-8:])
        return made


class Process:
    """One life of a process: a treadle over the shared file, which can be paused, killed and asked."""

    def __init__(
        self,
        loop: SimulatedLoop,
        path: Path,
        *,
        name: str,
        machine: Machine,
        chance: Chance,
        trace: Trace,
        outside: Outside,
        on_walker: Callable[[str, Life], None],
        on_commit: Callable[[Life], None],
        walk: bool,
        lease_s: float,
    ) -> None:
        """Open a treadle on the file."""
        self.life = Life(name)
        self.machine = machine
        self.walks = walk
        self.is_closed = False
        self.awake_since_s = loop.time()
        self._loop = loop
        self._trace = trace
        self._waiting: dict[asyncio.Future[Any], None] = {}
        self._sqlite = SimulatedSqlite(path, durability="normal", timer=loop.time)
        self._sqlite.on_commit = lambda: on_commit(self.life)
        self.store = FaultyStore(self._sqlite, chance=chance.fork("store"), trace=trace, crash=self.kill)
        self.walkers: list[str] = []
        clock = SimulatedClock(loop, machine, self.life, chance.fork("clock"))

        def named(walker: str) -> None:
            self.walkers.append(walker)
            on_walker(walker, self.life)

        async def opened() -> Treadle:
            treadle = Treadle(
                cast("Store", cast("object", self.store)),
                tools=outside.functions,
                providers={"scripted": outside.model},
                clock=clock,
                ids=SeededIds(name, named),
                settings=Settings(lease_s=lease_s),
                project=Project(ProjectSpec.model_construct(), Path("nowhere")),
                walk=walk,
            )
            return await treadle.__aenter__()

        self._opening = loop.start_in(self.life, opened())
        self._treadle: Treadle | None = None

    async def open(self) -> None:
        """Wait until it is open."""
        self._treadle = await self.ask(self._opened)

    async def _opened(self, _: object = None) -> Treadle:
        return await self._opening

    @property
    def name(self) -> str:
        """Give its name."""
        return self.life.name

    @property
    def is_up(self) -> bool:
        """Tell whether it lives, paused or not."""
        return not self.life.is_over

    @property
    def treadle(self) -> Treadle:
        """Give its treadle."""
        assert self._treadle is not None
        return self._treadle

    async def ask(self, work: Callable[[Treadle], Coroutine[Any, Any, T]]) -> T:
        """Let the process do something and give what came of it.

        Errors: ProcessDied when it ends first; what the work raises.
        """
        if self.life.is_over:
            raise ProcessDied(self.name)
        answer: asyncio.Future[T] = self._loop.create_future()
        self._waiting[answer] = None

        def told(task: asyncio.Task[T]) -> None:
            self._waiting.pop(answer, None)
            if answer.done():
                return
            if task.cancelled():
                answer.set_exception(ProcessDied(self.name))
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        task = self._loop.start_in(self.life, work(cast("Treadle", self._treadle)))
        task.add_done_callback(told, context=self._loop.outside())
        return await answer

    def pause(self) -> None:
        """Stop it, as a signal does, heartbeat and all."""
        self._trace.note("pause", self.name)
        self._loop.pause(self.life)

    def resume(self) -> None:
        """Let it go on: it does not know that time has passed."""
        self._trace.note("resume", self.name)
        self.awake_since_s = self._loop.time()
        self._loop.resume(self.life)

    def kill(self) -> None:
        """End it: nothing that it was about to do happens."""
        if self.life.is_over:
            return
        self._trace.note("kill", self.name)
        self._loop.end(self.life)
        self._sqlite.cut()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting:
            if not answer.done():
                answer.set_exception(ProcessDied(self.name))
