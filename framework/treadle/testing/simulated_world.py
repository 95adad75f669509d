"""A world in one loop: processes over one file, clients, and a nemesis; all of it follows from a seed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.errors import StoreError
from treadle.lifecycle import is_terminal
from treadle.objects.tool import Retry
from treadle.service import Treadle
from treadle.testing.chance import Chance
from treadle.testing.history import Dispatch, check_appends, check_deadline, check_dispatches
from treadle.testing.observer import Observer
from treadle.testing.simulated_clients import Clients
from treadle.testing.simulated_loop import ORDERS, Life, Order, SimulatedLoop, current_life
from treadle.testing.simulated_process import Machine, Process, ProcessDied
from treadle.testing.simulated_store import CALM, Faults
from treadle.testing.simulated_tools import ASKS_AGAIN, NEEDS_CONSENT, Outside, Wits, tools
from treadle.testing.trace import Trace

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
CANCEL_S = 1.0
"""After an accepted cancel no new call begins, this much later at most."""
LATE_S = 5.0
"""So much after its deadline at most a run ends, where nothing disturbs."""
TAKEN_S = 10.0
"""So long after the lease of its walker at most a run is taken, where nothing disturbs."""
CLOSE_S = 120.0
SETTLE_S = 900.0
"""Virtual seconds within which every run ends once nothing disturbs any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What kind of world a seed makes.

    Units: seconds; `trouble_s` is the mean time between two strikes of the nemesis, 0 for none.
    """

    order: Order = "shuffled"
    walkers: int = 1
    others: int = 0
    clients: int = 2
    requests: int = 8
    think_s: float = 1.0
    lease_s: float = 15.0
    trouble_s: float = 0.0
    faults: Faults = CALM
    wits: Wits = field(default_factory=Wits)


def weather(chance: Chance) -> Weather:
    """Draw the kind of world: each seed leaves some troubles out, so that others are seen alone."""
    faults = CALM
    if chance.happens(0.7):
        faults = Faults(
            slow=chance.pick([0.0, 0.2, 0.6]),
            wait_s=chance.pick([0.002, 0.05]),
            long=chance.pick([0.0, 0.0, 0.01]),
            long_s=chance.pick([2.0, 20.0]),
            busy=chance.pick([0.0, 0.0, 0.01]),
            before=chance.pick([0.0, 0.0, 0.01]),
            after=chance.pick([0.0, 0.0, 0.01]),
            crash=chance.pick([0.0, 0.0, 0.01, 0.03]),
        )
    return Weather(
        order=chance.pick(ORDERS),
        walkers=1 + chance.below(3),
        others=chance.below(2),
        clients=1 + chance.below(4),
        requests=4 + chance.below(10),
        think_s=chance.pick([0.1, 1.0, 5.0]),
        lease_s=chance.pick([3.0, 15.0]),
        trouble_s=chance.pick([0.0, 5.0, 15.0]),
        faults=faults,
        wits=Wits(
            slow=chance.pick([0.0, 0.05]),
            slow_s=chance.pick([5.0, 40.0]),
            tool_s=chance.pick([0.05, 1.0]),
            model_error=chance.pick([0.0, 0.1]),
            tool_error=chance.pick([0.0, 0.2]),
        ),
    )


class World:
    """Everything that a seed makes happen."""

    def __init__(self, path: Path, loop: SimulatedLoop, chance: Chance, trace: Trace, kind: Weather) -> None:
        """Take the file that the processes share; nothing runs yet."""
        self.kills = 0
        self.pauses = 0
        self._path = path
        self._loop = loop
        self._chance = chance
        self._trace = trace
        self._kind = kind
        self._outside = Outside(chance, trace, kind.wits)
        self._outside.called = self._called
        self._outside.model.is_fenced_out = self._is_fenced_out
        self._outside.received = self._received
        self._machine = Machine(loop, "boot-1", up_s=1000.0)
        self._faults = CALM
        self._up: list[Process] = []
        self._ever: list[Process] = []
        self._observer: Observer | None = None
        self._problems: list[str] = []
        self._is_turned = False
        self._is_enough = asyncio.Event()
        self._clients: Clients | None = None

    @property
    def commits(self) -> int:
        """Give how many commits were seen."""
        return self._observer.commits if self._observer is not None else 0

    @property
    def runs(self) -> int:
        """Give how many runs were made."""
        return len(self._observer.runs) if self._observer is not None else 0

    @property
    def dispatches(self) -> int:
        """Give how many calls reached the tools."""
        return len(self._outside.dispatches)

    def problems(self) -> list[str]:
        """Give everything that was wrong so far."""
        return list(dict.fromkeys(self._all_problems()))

    def _all_problems(self) -> Iterator[str]:
        yield from self._problems
        yield from self._outside.problems
        if self._observer is not None:
            yield from self._observer.problems
        if self._clients is not None:
            yield from self._clients.problems

    # -- the course ----------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Let it all happen: open, trouble, calm, close, and check what is left."""
        kind = self._kind
        first = await self._open("w1", walk=True)
        self._observer = observer = Observer(
            self._path, self._chance.fork("observer"), self._trace, now=self._loop.time
        )
        for process in self._ever:
            for walker in process.walkers:
                observer.knows(walker, process.life)
        self._loop.after_step = self._after_step
        agents = [await first.ask(_make_agent), await first.ask(_make_plain_agent)]
        for number in range(2, kind.walkers + 1):
            await self._open(f"w{number}", walk=True)
        for number in range(1, kind.others + 1):
            await self._open(f"c{number}", walk=False)
        self._clients = clients = Clients(
            self._chance.fork("clients"),
            self._trace,
            processes=lambda: self._up,
            runs=lambda: list(observer.runs.values()),
            agents=agents,
            think_s=kind.think_s,
        )
        self._set_faults(kind.faults)
        nemesis = asyncio.create_task(self._trouble()) if kind.trouble_s else None
        await asyncio.gather(*(clients.live(kind.requests) for _ in range(kind.clients)))
        self._is_enough.set()
        if nemesis is not None:
            await nemesis
        await self._calm()
        await self._settle(clients)
        for process in self._up:
            await self._close(process)
        observer.check_all()
        self._problems += check_appends(clients.appends, observer.texts())
        self._problems += check_dispatches(self._outside.dispatches)
        self._check_deadlines(clients, observer)
        observer.take_down()

    def bury(self) -> None:
        """Let everything go."""
        if self._observer is not None:
            self._observer.close()
        for process in self._ever:
            process.kill()
        self._loop.bury([process.life for process in self._ever])

    async def _open(self, name: str, *, walk: bool) -> Process:
        process = Process(
            self._loop,
            self._path,
            name=name,
            machine=self._machine,
            chance=self._chance.fork(name),
            trace=self._trace,
            outside=self._outside,
            on_walker=self._knows,
            on_commit=self._after_step,
            walk=walk,
            lease_s=self._kind.lease_s,
        )
        self._ever.append(process)
        await process.open()
        process.store.faults = self._faults
        self._up.append(process)
        self._trace.note("open", name)
        return process

    def _knows(self, walker: str, life: Life) -> None:
        if self._observer is not None:
            self._observer.knows(walker, life)

    def _after_step(self, life: Life | None) -> None:
        if self._observer is not None:
            self._observer.look(life)

    def _received(self, dispatch: Dispatch) -> None:
        """Hold a call that reached its receiver against the journal: what may be repeated by nobody stands there."""
        observer = self._observer
        assert observer is not None
        if dispatch.effect == "once" and not observer.is_dispatched(dispatch.key):
            life = current_life()
            self._problems.append(
                f"the once call {dispatch.key} was dispatched by {life and life.name} before it was in the journal"
            )
        before = sum(d.key == dispatch.key for d in self._outside.dispatches[:-1])
        if dispatch.tool == NEEDS_CONSENT and not observer.approvals(dispatch.key):
            self._problems.append(f"call {dispatch.key} was dispatched, and nobody had agreed to it")
        if dispatch.tool == ASKS_AGAIN and before and observer.approvals(dispatch.key) >= before:
            self._outside.dispatches[-1] = dispatch._replace(again=True)

    def _is_fenced_out(self, thread_id: str) -> bool:
        life, observer = current_life(), self._observer
        return life is None or observer is None or not observer.is_walked_by(life, thread_id)

    def _called(self, key: str) -> None:
        """Hold the beginning of a call against the cancels that were accepted, where nothing delays the news of one."""
        run_id = key.split(":", 2)[1]
        faults, life, now_s = self._kind.faults, current_life(), self._loop.time()
        since_s = self._clients.cancelled.get(run_id, now_s) if self._clients is not None else now_s
        process = next((p for p in self._ever if p.life is life), None)
        if process is None or faults.slow or faults.long:
            return
        late_s = now_s - max(since_s, process.awake_since_s)
        if since_s < now_s and late_s > CANCEL_S:
            self._problems.append(f"run {run_id}: a call began {late_s:.3f} s after its cancel was accepted")

    def _check_deadlines(self, clients: Clients, observer: Observer) -> None:
        """Hold the ends of runs against their deadlines, where nobody turned the clock."""
        if self._is_turned:
            return
        kind, status = self._kind, {run.id: run.status for run in observer.runs.values()}
        is_calm = not kind.trouble_s and kind.faults == CALM
        for d in clients.deadlines:
            self._problems += check_deadline(
                d.run_id,
                status[d.run_id],
                asked_s=d.asked_s,
                accepted_s=d.accepted_s,
                ttl_s=d.ttl_s,
                ended_s=observer.ended_s.get(d.run_id, float("inf")),
                late_s=LATE_S if is_calm else None,
            )

    def _set_faults(self, faults: Faults) -> None:
        self._faults = faults
        for process in self._up:
            process.store.faults = faults

    # -- the nemesis -----------------------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        chance = self._chance.fork("nemesis")
        strikes = (
            [self._kill] * 3 + [self._pause] * 3 + [self._drain] * 2 + [self._turn_the_clock, self._restart_machine]
        )  # fmt: skip
        while not self._is_enough.is_set():
            try:
                async with asyncio.timeout(chance.around(self._kind.trouble_s)):
                    await self._is_enough.wait()
            except TimeoutError:
                await chance.pick(strikes)(chance)

    async def _kill(self, chance: Chance) -> None:
        up = [process for process in self._up if process.is_up]
        if up:
            chance.pick(up).kill()
        await asyncio.sleep(chance.around(self._kind.lease_s / 2))
        await self._replace()

    async def _pause(self, chance: Chance) -> None:
        up = [process for process in self._up if process.is_up]
        if not up:
            await self._replace()
            return
        process = chance.pick(up)
        self.pauses += 1
        process.pause()
        await asyncio.sleep(chance.between(0.2, 2.5) * self._kind.lease_s)
        process.resume()

    async def _drain(self, chance: Chance) -> None:
        """Replace a process as an upgrade does: it is asked to close first."""
        up = [process for process in self._up if process.is_up]
        if up:
            process = chance.pick(up)
            self._trace.note("drain", process.name)
            await self._close(process)
        await self._replace()

    async def _turn_the_clock(self, chance: Chance) -> None:
        self._is_turned = True
        if self._clients is not None:
            self._clients.keys_may_be_forgotten = True
        ahead = chance.pick([HOUR_MS, -HOUR_MS, 10 * YEAR_MS, -10 * YEAR_MS, 0])
        self._trace.note("clock", ahead)
        self._machine.ahead_ms = ahead

    async def _restart_machine(self, chance: Chance) -> None:
        self._trace.note("machine restarts")
        for process in self._up:
            process.kill()
        await asyncio.sleep(chance.around(5.0))
        number = int(self._machine.boot.rpartition("-")[2]) + 1
        self._machine = Machine(self._loop, f"boot-{number}", up_s=-self._loop.time())
        await self._replace()

    async def _replace(self) -> None:
        """Start a process anew for each that is gone."""
        for gone in [process for process in self._up if not process.is_up]:
            self.kills += not gone.is_closed
            self._up.remove(gone)
            name, _, life = gone.name.partition("-")
            await self._open(f"{name}-{int(life or 1) + 1}", walk=gone.walks)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        """Stop all trouble; what was paused goes on, what is gone is started anew."""
        self._trace.note("calm")
        self._set_faults(CALM)
        self._machine.ahead_ms = 0
        for process in self._up:
            if process.is_up:
                process.resume()
        await self._replace()
        self._set_faults(CALM)

    async def _settle(self, clients: Clients) -> None:
        """Serve what waits for a client, until every run has ended."""
        observer = self._observer
        assert observer is not None
        end = self._loop.time() + SETTLE_S
        since: dict[str, float] = {}
        while left := [run for run in observer.runs.values() if not is_terminal(run.status)]:
            if self._loop.time() > end:
                self._problems += [
                    f"run {r.id} is {r.status}, walked by {r.walker}: it does not end" for r in left
                ]
                return
            self._check_left(observer, since)
            await clients.decide()
            await clients.submit()
            await asyncio.sleep(1.0)

    def _check_left(self, observer: Observer, since: dict[str, float]) -> None:
        """Check that a run which nobody walks is taken soon; `since` is when each was first seen so."""
        now_s = self._loop.time()
        left = observer.left()
        for run_id in [run_id for run_id in since if run_id not in left]:
            del since[run_id]
        for run_id in left:
            if now_s - since.setdefault(run_id, now_s) > self._kind.lease_s + TAKEN_S:
                self._problems.append(f"run {run_id} is left to nobody")

    async def _close(self, process: Process) -> None:
        """Ask a process to close, which lets go of what it walks."""
        assert self._observer is not None
        held: list[str] = []
        try:
            async with asyncio.timeout(CLOSE_S):
                await process.ask(Treadle.close)
            process.is_closed = True
            held = self._observer.held_by(process.life) if self._faults == CALM else []
        except TimeoutError:
            if not process.life.is_paused:
                self._problems.append(f"process {process.name} does not close")
        except (ProcessDied, StoreError):
            self._trace.note("closed badly", process.name)
        self._problems += [
            f"process {process.name} is closed and still holds run {run_id}" for run_id in held
        ]
        process.kill()


async def _make_agent(treadle: Treadle) -> str:
    retry = Retry(max_attempts=4, initial_delay="1s", on=("rate_limit", "connection", "http_5xx"))
    made = await treadle.agents.create(model="scripted", tools=tools(), retry=retry)
    return made.id


async def _make_plain_agent(treadle: Treadle) -> str:
    fields: dict[str, Any] = {"limits": {"max_steps": 6}}
    made = await treadle.agents.create(model="scripted", tools=tools()[:1], **fields)
    return made.id
