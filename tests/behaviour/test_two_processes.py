"""Several processes on one file: they see each other's work and never write into each other's runs."""

import asyncio
import json
import subprocess
import sys
import textwrap

import pytest

from treadle.errors import NotFound, StateError, ThreadBusy
from treadle.objects.tool import FunctionTool
from treadle.settings import Settings
from treadle.store.check import check

ASK = FunctionTool(name="ask", parameters={"type": "object"})


def process(code, *arguments, folder, **options):
    """Start a Python process with a program and arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, **options,
    )  # fmt: skip


def answer(started):
    out, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    return json.loads(out.splitlines()[-1])


OPEN_AND_RUN = """
import asyncio, json, sys
from treadle.service import Treadle
from treadle.testing.fakes import ScriptedProvider

async def main(path, turns):
    provider = ScriptedProvider(lambda request: "ok " + request.messages[-1].plain)
    async with Treadle(f"sqlite:///{path}", providers={"scripted": provider}, project=".") as treadle:
        agent = await treadle.agents.create(model="scripted")
        done = []
        for n in range(int(turns)):
            run = await treadle.runs.create_and_wait(None, agent=agent, additional_messages=[{"content": str(n)}])
            done.append((run.id, run.status, run.output))
    print(json.dumps(done))

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_open_a_fresh_file_at_the_same_time_and_work_side_by_side(tmp_path):
    path = tmp_path / "fresh.db"
    started = [process(OPEN_AND_RUN, path, 15, folder=tmp_path) for _ in range(3)]
    made = [answer(p) for p in started]
    assert [[(s, o) for _, s, o in runs] for runs in made] == [
        [("completed", f"ok {n}") for n in range(15)]
    ] * 3
    assert check(path) == []
    assert len({id_ for runs in made for id_, _, _ in runs}) == 45


async def test_another_process_watches_a_run_and_waits_for_its_end(workshop):
    go = asyncio.Event()

    async def wait() -> str:
        await go.wait()
        return "went"

    scene = await workshop.start([{"calls": [{"name": "wait", "arguments": {}}]}, "Done."], tools=[wait])
    run = await scene.create()
    other = workshop.open()
    watched = asyncio.create_task(other.runs.wait(run.id))
    while not any(s.is_open for s in await other.runs.steps(run.id)):
        await asyncio.sleep(0)
    assert (await other.runs.get(run.id)).status == "in_progress"
    go.set()
    assert (await asyncio.wait_for(watched, 10)).output == "Done."


async def test_waiting_for_a_run_of_another_process_may_take_too_long(workshop):
    scene = await workshop.start([{"calls": [{"name": "ask", "arguments": {}}]}], tools=[ASK])
    run = await scene.create()
    await scene.treadle.close()
    other = workshop.open()
    with pytest.raises(TimeoutError):
        await other.runs.wait(run.id, timeout_s=0.05)


async def test_a_run_of_another_process_is_cancelled_and_stops_at_its_next_checkpoint(workshop):
    begun, go = asyncio.Event(), asyncio.Event()
    paid = []

    async def wait() -> str:
        begun.set()
        await go.wait()
        return "went"

    async def pay() -> str:
        paid.append(1)
        return "paid"

    script = [
        {"calls": [{"name": "wait", "arguments": {}}]},
        {"calls": [{"name": "pay", "arguments": {}}]},
        "no",
    ]
    scene = await workshop.start(script, tools=[wait, pay])
    run = await scene.create()
    await begun.wait()
    other = workshop.open()
    assert (await other.runs.cancel(run.id)).status == "cancelling"
    go.set()
    assert (await scene.runs.wait(run.id)).status == "cancelled"
    assert (await other.runs.wait(run.id)).status == "cancelled"
    assert paid == []
    assert "outcome unknown" in (await scene.results())[0]


async def test_a_cancel_by_another_process_interrupts_the_call_that_is_under_way(workshop):
    begun, interrupted = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()
        return "never"

    scene = await workshop.start([{"calls": [{"name": "wait", "arguments": {}}]}], tools=[wait])
    run = await scene.create()
    await begun.wait()
    other = workshop.open()
    assert (await other.runs.cancel(run.id)).status == "cancelling"
    assert (await other.runs.wait(run.id, timeout_s=10)).status == "cancelled"
    assert interrupted.is_set()


async def test_a_run_that_was_taken_over_is_not_written_to_by_its_old_walker(workshop):
    """A walker that was held up, while its run was given away, changes nothing when it goes on."""
    begun, go = asyncio.Event(), asyncio.Event()
    first = True

    async def wait() -> str:
        nonlocal first
        if first:
            first = False
            begun.set()
            await go.wait()
            return "from the old walker"
        return "from the new walker"

    tool = FunctionTool(name="wait", runs="server", effect="pure")
    scene = await workshop.start([{"calls": [{"name": "wait", "arguments": {}}]}, "old"], tools=[tool])
    scene.treadle.callables["wait"] = wait
    run = await scene.create()
    await begun.wait()
    other = workshop.open(["new"], tools=[wait])
    held = await other.runs.get(run.id)
    await other.executor._park(held, other.clock.monotonic())
    await other.runs.resume(run.id)
    assert (await other.runs.wait(run.id)).output == "new"
    before = (await other.runs.get(run.id), await scene.rows(), await other.runs.steps(run.id))
    go.set()
    assert (await scene.runs.wait(run.id)).output == "new"
    assert (await other.runs.get(run.id), await scene.rows(), await other.runs.steps(run.id)) == before


async def test_waiting_for_a_run_that_is_taken_over_goes_on_until_it_ends(workshop):
    begun, go, go_new = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        if not begun.is_set():
            begun.set()
            await go.wait()
            return "old"
        await go_new.wait()
        return "new"

    tool = FunctionTool(name="wait", runs="server", effect="pure")
    scene = await workshop.start([{"calls": [{"name": "wait", "arguments": {}}]}, "old"], tools=[tool])
    scene.treadle.callables["wait"] = wait
    run = await scene.create()
    await begun.wait()
    other = workshop.open(["new"], tools=[wait])
    await other.executor._park(await other.runs.get(run.id), other.clock.monotonic())
    await other.runs.resume(run.id)
    waiting = asyncio.create_task(scene.runs.wait(run.id))
    go.set()
    while scene.treadle.executor.is_walking(run.id):
        await asyncio.sleep(0)
    assert not waiting.done()
    go_new.set()
    assert (await asyncio.wait_for(waiting, 10)).output == "new"


async def test_a_run_is_resumed_by_one_of_many(workshop):
    scene = await workshop.start(["never"])
    run = await scene.create()
    await scene.treadle.close()
    others = [workshop.open(["done"]) for _ in range(4)]
    got = await asyncio.gather(*(o.runs.resume(run.id) for o in others), return_exceptions=True)
    assert sum(isinstance(g, StateError) for g in got) == 3
    (winner,) = [o for o, g in zip(others, got, strict=True) if not isinstance(g, StateError)]
    assert (await winner.runs.wait(run.id)).output == "done"


async def test_a_thread_is_locked_for_every_process(workshop):
    scene = await workshop.start(
        [{"calls": [{"name": "ask", "arguments": {}, "id": "a"}]}, "ok"], tools=[ASK]
    )
    run = await scene.run()
    other = workshop.open(["ok"])
    with pytest.raises(ThreadBusy):
        await other.messages.create(scene.thread_id, content="x")
    with pytest.raises(ThreadBusy):
        await other.runs.create(scene.thread_id, agent=scene.agent)
    await other.runs.submit_tool_outputs(run.id, [{"tool_call_id": "a", "output": "from the other"}])
    assert (await scene.runs.wait(run.id, timeout_s=10)).status == "completed"


async def test_tenants_of_one_file_do_not_see_each_other(workshop):
    scene = await workshop.start(["ok"])
    run = await scene.run()
    (message, _) = await scene.treadle.messages.list(scene.thread_id)
    other = workshop.open(["ok"], settings=Settings(tenant="other"))
    for hidden in (
        other.threads.get(scene.thread_id), other.messages.get(message.id), other.runs.get(run.id),
        other.agents.get(scene.agent.id), other.messages.create(scene.thread_id, content="x"),
        other.runs.steps(run.id), other.runs.cancel(run.id), other.runs.list(scene.thread_id),
        other.threads.delete(scene.thread_id), other.messages.update(message.id, metadata={}),
        other.runs.update(run.id, metadata={}), other.agents.delete(scene.agent.id), other.runs.trace(run.id),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await hidden
    assert (await other.threads.list(), await other.runs.list(), await other.agents.list()) == ([], [], [])
    own = await other.agents.create(model="scripted")
    thread = await other.threads.create(messages=[{"content": "mine"}])
    assert (await other.runs.create_and_wait(thread.id, agent=own)).output == "ok"
    with pytest.raises(NotFound):
        await other.runs.create(thread.id, agent=scene.agent)
