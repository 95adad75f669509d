"""Many runs are taken over as surely as one, in turn, and at no price to those who take none."""

import asyncio
import inspect

import pytest

from treadle.engine import recover
from treadle.testing.fakes import FrozenClock


class Gate:
    """A tool that is an object: it answers once it is opened, and counts its calls and the looks at what it takes."""

    __name__ = "gate"

    def __init__(self, *, is_open=True):
        self.looks = self.begun = self.under_way = self.most = 0
        self.opened = asyncio.Event()
        if is_open:
            self.opened.set()

    @property
    def __signature__(self):
        self.looks += 1
        return inspect.Signature()

    async def __call__(self):
        self.begun += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.opened.wait()
        await asyncio.sleep(0)
        self.under_way -= 1
        return "open"


def script(asked):
    """Ask for the tool once a run, then answer; `asked` has the first text of each thread, in order."""

    def decide(request):
        asked.append(request.messages[0].text)
        if request.messages[-1].role == "tool":
            return "done"
        return {"calls": [{"name": "gate", "arguments": {}}]}

    return decide


async def create(scene, text, **options):
    messages = [{"role": "user", "content": text}]
    run = await scene.runs.create(None, agent=scene.agent, additional_messages=messages, **options)
    return run.id


@pytest.fixture
def leave(workshop):
    """Leave runs in the middle of a tool, by a walker that gives no sign of life any more; give their ids."""
    gates = []

    async def leave(count):
        gate = Gate(is_open=False)
        gates.append(gate)
        scene = await workshop.start(script([]), tools=[gate], clock=FrozenClock())
        ids = [await create(scene, f"{n}") for n in range(count)]
        while gate.begun < count:
            await asyncio.sleep(0)
        return scene, ids

    yield leave
    for gate in gates:
        gate.opened.set()


async def all_ended(treadle, ids):
    async with asyncio.timeout(20):
        return [(await treadle.runs.wait(id_)).status for id_ in ids]


async def test_more_runs_than_are_looked_at_at_once_are_taken_over_by_one_sweep(workshop, leave, monkeypatch):
    monkeypatch.setattr(recover, "PAGE", 4)
    monkeypatch.setattr(recover, "PACE_S", 3600.0)
    monkeypatch.setattr(recover, "SWEEP_S", 3600.0)
    _, ids = await leave(10)
    second = workshop.open(script([]), clock=FrozenClock(elapsed_s=16), tools=[Gate()], walk=True)
    assert (await second.recover()).buried == 1
    assert await all_ended(second, ids) == ["completed"] * 10


async def test_runs_that_are_too_many_at_once_have_their_turn_the_oldest_first(workshop, leave, monkeypatch):
    monkeypatch.setattr(recover, "MOST_WALKS", 3)
    monkeypatch.setattr(recover, "PAGE", 2)
    first, ids = await leave(9)
    await first.treadle.executor.park(0)
    asked, gate = [], Gate()
    second = workshop.open(script(asked), clock=FrozenClock(), tools=[gate], walk=True)
    await second.recover()
    assert await all_ended(second, ids) == ["completed"] * 9
    assert list(dict.fromkeys(asked)) == [f"{n}" for n in range(9)]
    assert gate.most < 3 + 2


async def test_runs_that_are_taken_over_look_at_their_tool_once(workshop, leave):
    _, ids = await leave(6)
    gate = Gate()
    second = workshop.open(script([]), clock=FrozenClock(elapsed_s=16), tools=[gate], walk=True)
    assert gate.looks == 0
    await second.recover()
    await all_ended(second, ids[:1])
    looks = gate.looks
    assert looks > 0
    await all_ended(second, ids)
    assert gate.looks == looks
    assert looks < len(ids)


@pytest.mark.parametrize("walks", [True, False])
async def test_who_walks_nothing_is_told_only_of_what_needs_no_walk(workshop, leave, walks):
    scene, (queued,) = await leave(1)
    await scene.treadle.executor.park(0)
    left, over = await create(scene, "left"), await create(scene, "over", ttl="10s")
    clock = FrozenClock(elapsed_s=16)
    clock.wall_ms += 16_000
    second = workshop.open(clock=clock, tools=[Gate()])
    await second.keeper.bury()
    due = await second.store.due("nobody", now_ms=clock.now_ms(), walkable=walks)
    assert [d.id for d in due] == ([queued, left, over] if walks else [over])
    await second.recover()
    statuses = [(await second.runs.get(id_)).status for id_ in (queued, left, over)]
    assert statuses == ["queued", "in_progress", "expired"]


async def test_what_others_write_while_a_process_pauses_between_sweeps_is_seen(workshop, leave, monkeypatch):
    monkeypatch.setattr(recover, "SWEEP_S", 3600.0)
    monkeypatch.setattr(recover, "PACE_S", 0.5)
    swept = asyncio.Event()
    sweep = recover.Keeper.sweep

    async def told(keeper):
        found = await sweep(keeper)
        swept.set()
        return found

    monkeypatch.setattr(recover.Keeper, "sweep", told)
    first, (id_,) = await leave(1)
    second = workshop.open(script([]), clock=FrozenClock())
    while not swept.is_set():
        await second.threads.create()
        await asyncio.sleep(0.01)
    await second.runs.cancel(id_)
    assert (await first.runs.wait(id_, timeout_s=20)).status == "cancelled"
