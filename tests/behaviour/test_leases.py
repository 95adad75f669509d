"""Who walks a run, and what happens when its walker is gone: leases, fences, recovery."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress

import apsw
import pytest

from treadle.errors import LeaseLost, StateError
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool, Retry
from treadle.settings import Settings
from treadle.store.base import Checkpoint
from treadle.store.sqlite import SqliteStore
from treadle.testing.fakes import FrozenClock


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    """Do not wait long, at the end of a test, for tools that never end."""
    monkeypatch.setattr("treadle.service.GRACE_S", 0.05)


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.01)
        return found


async def wait() -> str:
    """Stand for the tool that the first walker never came back from."""
    return "x"


def frozen_pair():
    """Give two clocks of one machine."""
    return FrozenClock(), FrozenClock()


async def left_behind(workshop, clock):
    """Leave a run in the middle of a tool: its walker goes on, but gives no sign of life any more."""
    begun = asyncio.Event()

    async def never() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    never.__name__ = "wait"
    calls = [{"name": "wait", "arguments": {}}]
    scene = await workshop.start([{"calls": calls}, "ok"], tools=[never], clock=clock)
    run = await scene.create()
    await begun.wait()
    return scene, run


async def test_a_run_that_its_walker_left_goes_on_in_another_process(workshop):
    mine, other = frozen_pair()
    scene, run = await left_behind(workshop, mine)

    other.advance(16)
    second = workshop.open(["the end"], clock=other, tools=[wait])
    resumed = await second.runs.resume(run.id)
    assert (resumed.fence, resumed.deaths) == (2, 1)
    ended = await second.runs.wait(run.id)
    assert (ended.status, ended.output) == ("completed", "the end")
    assert "outcome unknown" in (await scene.results())[0]
    events = await second.store.events("default", run.id)
    assert [e.data for e in events if e.data.get("resumed")] == [{"resumed": True, "kept": 1}]


async def test_a_run_that_is_walked_is_not_to_be_had(workshop):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    other.advance(14)
    second = workshop.open(["x"], clock=other, tools=[wait])
    with pytest.raises(StateError, match="holds it"):
        await second.runs.resume(run.id)
    assert (await second.recover()).buried == 0


async def test_a_heartbeat_prolongs_the_lease(workshop):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    for _ in range(5):
        mine.advance(10)
        other.advance(10)
        second = workshop.open(["x"], clock=other, tools=[wait])
        with pytest.raises(StateError, match="holds it"):
            await second.runs.resume(run.id)


async def test_a_walker_that_was_declared_dead_stops_and_changes_nothing(workshop):
    mine, other = frozen_pair()
    scene, run = await left_behind(workshop, mine)
    waiting = asyncio.ensure_future(scene.runs.wait(run.id, timeout_s=10))
    other.advance(16)

    second = workshop.open(["the end"], clock=other, tools=[wait])
    await second.runs.resume(run.id)
    await second.runs.wait(run.id)
    before = await scene.rows()
    name = scene.treadle.executor.lease.id
    mine.advance(6)
    await asyncio.sleep(0)
    assert (await waiting).output == "the end"
    assert not scene.treadle.executor.is_walking(run.id)
    assert scene.treadle.executor.lease.id != name
    assert await scene.rows() == before
    assert (await scene.run()).status == "completed"


async def test_a_stale_fence_writes_nothing(workshop):
    clock = FrozenClock()
    scene, run = await left_behind(workshop, clock)
    store = SqliteStore(workshop.path)
    (walker,) = await store.walkers()
    assert await store.bury(walker)
    taken = await store.claim("default", run.id, walker._replace(id="new"), now_ms=1)
    with pytest.raises(LeaseLost):
        await store.commit(Checkpoint(await scene.runs.get(run.id) and run))
    with pytest.raises(LeaseLost):
        await store.claim("default", run.id, walker._replace(id="third"), now_ms=1)
    await store.commit(Checkpoint(taken.run, "queued"))
    await store.close()


async def test_a_walker_whose_heart_beats_again_is_not_buried(workshop):
    clock = FrozenClock()
    scene, _ = await left_behind(workshop, clock)
    (seen,) = await scene.treadle.store.walkers()
    clock.advance(5)
    assert not await scene.treadle.store.bury(seen)
    (now,) = await scene.treadle.store.walkers()
    assert now.beat == seen.beat + 1
    assert await scene.treadle.store.bury(now)
    assert not scene.treadle.store.beat(now.id, 10**9)


async def test_the_times_of_another_boot_are_not_compared(workshop):
    """A walker of another machine is watched for a lease by the own clock, whatever its times say."""
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    store = SqliteStore(workshop.path)
    (walker,) = await store.walkers()
    store._writer.execute("UPDATE walkers SET boot = 'another', host = 'elsewhere', until_ms = -5")
    await store.close()
    second = workshop.open(["x"], clock=other, tools=[wait])
    assert (await second.recover()).buried == 0
    other.advance(14)
    assert (await second.recover()).buried == 0
    mine.advance(5)
    other.advance(14)
    assert (await second.recover()).buried == 0
    other.advance(16)
    assert (await second.recover()).buried == 1
    assert run.walker == walker.id


@pytest.mark.parametrize("is_reaped", [True, pytest.param(False, marks=LINUX)])
async def test_a_walker_whose_process_is_gone_need_not_be_waited_for(workshop, is_reaped):
    """Nor one whose parent has not yet asked how it ended."""
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    if is_reaped:
        gone.wait()
    store = SqliteStore(workshop.path)
    store._writer.execute("UPDATE walkers SET pid = ?", (gone.pid,))
    await store.close()
    assert gone.pid != os.getpid()

    second = workshop.open(["the end"], clock=other, tools=[wait])
    await second.runs.resume(run.id)
    assert (await second.runs.wait(run.id)).output == "the end"
    gone.wait()


async def test_a_process_that_walks_every_run_takes_what_was_left_and_what_is_queued(workshop):
    mine, other = frozen_pair()
    _, left = await left_behind(workshop, mine)
    parked = workshop.open(["never"])
    agent = await parked.agents.create(model="scripted")
    thread = await parked.threads.create(messages=[{"role": "user", "content": "x"}])
    queued = await parked.runs.create(thread.id, agent=agent)
    await parked.close()
    other.advance(16)

    async with workshop.open(["one", "two"], clock=other, tools=[wait], walk=True) as worker:
        for run in (left, queued):
            await until(lambda run=run: _is(worker, run, "completed"))


async def _is(treadle, run, status):
    return (await treadle.runs.get(run.id)).status == status


async def test_what_cannot_be_walked_here_is_left_to_others(workshop):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    other.advance(16)
    async with workshop.open(["x"], clock=other, walk=True) as worker:
        swept = await worker.recover()
        assert (swept.resumed, swept.failed) == (0, 0)
        left = await worker.runs.get(run.id)
        assert (left.status, left.fence) == ("in_progress", 1)


async def test_a_run_that_kills_its_walker_three_times_fails_and_names_the_step(workshop):
    mine, other = frozen_pair()
    scene, run = await left_behind(workshop, mine)
    store = SqliteStore(workshop.path)
    for death in range(3):
        for walker in await store.walkers():
            await store.bury(walker)
        taken = (
            await store.claim(
                "default", run.id, (await store.walkers())[0]._replace(id=f"w{death}"), now_ms=1
            )
        ).run
        assert taken.deaths == death + 1
        assert taken.status == "in_progress"
        if death < 2:
            continue
        for walker in await store.walkers():
            await store.bury(walker)
    await store.close()
    other.advance(16)

    async with workshop.open(["x"], clock=other, tools=[wait], walk=True) as worker:
        await until(lambda: _is(worker, run, "failed"))
        ended = await worker.runs.get(run.id)
    assert ended.last_error.code == "server_error"
    assert "tool_call#1/0" in ended.last_error.message
    assert "outcome unknown" in (await scene.results())[0]


async def test_deaths_at_other_steps_do_not_add_up(workshop):
    """Every process gets one call further before it is gone."""
    _, run = await left_behind(workshop, FrozenClock())
    reached = asyncio.Queue()

    async def never() -> str:
        reached.put_nowait(None)
        await asyncio.Event().wait()
        return "never"

    never.__name__ = "wait"
    lives = 4
    replies = [{"calls": [{"name": "wait", "arguments": {}}]}] * (lives + 1) + ["the end"]
    for life in range(1, lives + 1):
        clock = FrozenClock(elapsed_s=16 * life)
        resumed = await workshop.open(replies, clock=clock, tools=[never]).runs.resume(run.id)
        assert (resumed.deaths, resumed.fence) == (1, life + 1)
        await reached.get()
    last = workshop.open(replies, clock=FrozenClock(elapsed_s=100), tools=[wait])
    assert (await last.runs.resume(run.id)).deaths == 1
    assert (await last.runs.wait(run.id, timeout_s=10)).output == "the end"


async def test_a_run_that_is_being_cancelled_by_a_dead_walker_ends_cancelled(workshop):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    store = SqliteStore(workshop.path)
    await store.commit(Checkpoint(run, "cancelling"))
    await store.close()
    other.advance(16)
    async with workshop.open(["x"], clock=other) as second:
        assert (await second.recover()).cancelled == 1
        assert (await second.runs.get(run.id)).status == "cancelled"


async def test_two_sweeps_of_one_process_end_a_run_once(workshop):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    store = SqliteStore(workshop.path)
    await store.commit(Checkpoint(run, "cancelling"))
    await store.close()
    other.advance(16)
    second = workshop.open(["x"], clock=other)
    swept = await asyncio.gather(second.recover(), second.recover())
    assert sum(s.cancelled for s in swept) == 1
    names = [event.name for event in await second.store.events("default", run.id)]
    assert names.count("thread.run.cancelled") == 1
    assert names[-1] == "thread.run.cancelled"


async def test_an_expired_run_ends_expired_whoever_looks(workshop):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    store = SqliteStore(workshop.path)
    store._writer.execute("UPDATE runs SET expires_ms = created_ms + 10000")
    await store.close()
    other.advance(12)
    second = workshop.open(["x"], clock=other, tools=[wait])
    assert (await second.recover()).expired == 0
    other.advance(12)
    assert (await second.recover()).expired == 1
    ended = await second.runs.get(run.id)
    assert ended.status == "expired"
    events = await second.store.events("default", run.id)
    assert [e.name for e in events][-1] == "thread.run.expired"


async def test_two_sweeps_of_one_process_take_a_run_once(workshop):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)

    other.advance(16)
    second = workshop.open(["the end"], clock=other, tools=[wait], walk=True)
    swept = await asyncio.gather(second.recover(), second.recover())
    assert sum(s.resumed for s in swept) == 1
    ended = await second.runs.wait(run.id)
    assert (ended.output, ended.fence, ended.deaths) == ("the end", 2, 1)


async def test_a_walker_that_was_declared_dead_takes_no_runs(workshop):
    """What is created meanwhile waits until the process goes on under another name."""
    clock = FrozenClock()
    scene = await workshop.start(["ok", "then"], clock=clock)
    await scene.run()
    store = SqliteStore(workshop.path)
    (walker,) = await store.walkers()
    assert await store.bury(walker)
    await store.close()
    run = await scene.create()
    assert (run.status, run.walker) == ("queued", None)
    clock.advance(6)
    await asyncio.sleep(0)
    assert (await scene.runs.wait(run.id, timeout_s=10)).output == "then"


async def test_a_walker_that_was_declared_dead_takes_over_nothing(workshop):
    """It may not know yet; a run that is queued, or that another one left, is not its any more."""
    scene, left = await left_behind(workshop, FrozenClock())
    thread = await scene.treadle.threads.create(messages=[{"role": "user", "content": "Hello"}])
    store = SqliteStore(workshop.path)
    (dead,) = await store.walkers()
    await store.bury(dead)
    queued = await scene.treadle.runs.create(thread.id, agent=scene.agent)
    assert queued.status == "queued"
    for run in (left, queued):
        with pytest.raises(LeaseLost, match="declared dead"):
            await store.claim("default", run.id, dead, now_ms=1)
        assert (await store.get(Run, "default", run.id)).fence == run.fence
    await store.close()


async def test_a_walker_that_lost_its_run_leaves_a_cancel_to_the_one_that_walks_it(workshop):
    mine, other = frozen_pair()
    scene, run = await left_behind(workshop, mine)
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow_to_stop() -> str:
        begun.set()
        while not go.is_set():
            with suppress(asyncio.CancelledError):
                await go.wait()
        return "stopped"

    slow_to_stop.__name__ = "wait"
    other.advance(16)
    second = workshop.open(
        [{"calls": [{"name": "wait", "arguments": {}}]}], clock=other, tools=[slow_to_stop]
    )
    await second.runs.resume(run.id)
    await begun.wait()
    third = workshop.open(clock=other)
    assert (await third.runs.cancel(run.id)).status == "cancelling"

    mine.advance(6)
    await scene.runs.settle()
    left = await third.runs.get(run.id)
    go.set()
    assert left.status == "cancelling"
    assert (await third.runs.wait(run.id, timeout_s=10)).status == "cancelled"
    assert all("outcome unknown" in result for result in await scene.results())


@pytest.mark.parametrize("hours", [-87_600, -1, 1, 87_600])
async def test_whoever_turns_the_wall_clock_takes_no_run_from_its_walker(workshop, hours):
    mine, other = frozen_pair()
    _, run = await left_behind(workshop, mine)
    other.wall_ms += hours * 3_600_000
    other.advance(14)
    second = workshop.open(["x"], clock=other, tools=[wait])
    assert (await second.recover()).buried == 0
    with pytest.raises(StateError, match="holds it"):
        await second.runs.resume(run.id)


@pytest.mark.parametrize("hours", [-87_600, -1, 1])
async def test_a_wall_clock_that_was_turned_keeps_no_walker_alive(workshop, hours):
    mine, other = frozen_pair()
    mine.wall_ms -= hours * 3_600_000
    _, run = await left_behind(workshop, mine)
    other.advance(16)
    second = workshop.open(["the end"], clock=other, tools=[wait])
    assert (await second.runs.resume(run.id)).fence == 2
    assert (await second.runs.wait(run.id, timeout_s=10)).output == "the end"


async def test_a_process_that_holds_nothing_keeps_its_name(workshop):
    clock = FrozenClock()
    scene = await workshop.start(["ok"], clock=clock)
    name = scene.treadle.executor.lease.walker.id
    clock.advance(60)
    assert scene.treadle.executor.lease.id == name
    assert (await scene.run()).status == "completed"


async def test_a_consent_holds_for_the_attempts_of_its_call(workshop):
    """The first attempt fails, the process dies: the next one makes the second attempt without asking again."""
    mine, other = frozen_pair()
    made, begun = [], asyncio.Event()

    async def send() -> str:
        made.append(1)
        if len(made) == 1:
            raise ConnectionError("down")
        if len(made) == 2:
            begun.set()
            await asyncio.Event().wait()
        return "sent"

    retry = Retry(max_attempts=5, on=("connection",))
    tool = FunctionTool(name="send", runs="server", effect="idempotent", retry=retry, approval="always")
    first = workshop.open(
        [{"calls": [{"name": "send", "id": "c", "arguments": {}}]}], tools=[send], clock=mine
    )
    agent = await first.agents.create(model="scripted", tools=[tool])
    run = await first.runs.create_and_wait(
        None, agent=agent, additional_messages=[{"role": "user", "content": "x"}]
    )
    await first.runs.approve(run.id)
    await begun.wait()
    other.advance(20)
    second = workshop.open(["Done."], tools=[send], clock=other)
    await second.runs.resume(run.id)
    assert (await second.runs.wait(run.id, timeout_s=10)).status == "completed"
    assert len(made) == 3
    calls = [s for s in await second.runs.steps(run.id) if s.kind == "tool_call"]
    assert [(s.attempt, s.status, s.edge) for s in calls] == [(1, "failed", "retry"), (2, "completed", None)]


async def test_a_tool_that_blocks_the_loop_loses_no_lease(workshop):
    """The heart beats in a thread: it is seen beating while nothing else of the process can run."""
    beats = []

    async def block() -> str:
        connection = apsw.Connection(str(workshop.path))
        end = time.monotonic() + 20
        while len(set(beats)) < 3 and time.monotonic() < end:
            beats.append(connection.execute("SELECT beat FROM walkers").fetchall()[0][0])
        connection.close()
        return "blocked"

    scene = await workshop.start(
        [{"calls": [{"name": "block", "arguments": {}}]}, "ok"], tools=[block], settings=Settings(lease_s=1)
    )
    assert (await scene.run()).status == "completed"
    assert len(set(beats)) == 3
