"""A step that is tried again shows each attempt, and counts them over the death of its process."""

import asyncio

from treadle.objects.tool import FunctionTool, Retry
from treadle.testing.fakes import FrozenClock

CALL = {"calls": [{"name": "fetch", "arguments": {}, "id": "c"}]}
RETRY = Retry(max_attempts=3, initial_delay="1s", backoff=2, jitter="none")


def failing(times):
    """Give a tool that fails so often before it works."""
    made = []

    def fetch(idempotency_key: str) -> str:
        made.append(idempotency_key)
        if len(made) <= times:
            raise ConnectionError("down")
        return "fetched"

    return made, fetch


async def attempts(runs, run):
    steps = [s for s in await runs.steps(run.id) if s.kind == "tool_call"]
    return [(s.attempt, s.status, s.last_error.code if s.last_error else None) for s in steps]


async def test_every_attempt_is_a_step_with_the_same_key(workshop):
    made, fetch = failing(2)
    clock = FrozenClock()
    tool = FunctionTool(name="fetch", runs="server", effect="idempotent", retry=RETRY)
    treadle = workshop.open([CALL, "ok"], tools=[fetch], clock=clock)
    agent = await treadle.agents.create(model="scripted", tools=[tool])
    start = clock.monotonic()
    run = await treadle.runs.create_and_wait(
        None, agent=agent, additional_messages=[{"role": "user", "content": "x"}]
    )
    assert run.status == "completed"
    assert await attempts(treadle.runs, run) == [
        (1, "failed", "connection"), (2, "failed", "connection"), (3, "completed", None),
    ]  # fmt: skip
    assert len(set(made)) == 1
    assert len(made) == 3
    assert clock.monotonic() - start >= 3
    events = await treadle.store.events("default", run.id)
    assert [e.name for e in events].count("thread.run.step.failed") == 2


async def test_the_last_attempt_is_what_the_model_is_told(workshop):
    made, fetch = failing(9)
    tool = FunctionTool(name="fetch", runs="server", effect="pure", retry=RETRY)
    scene = await workshop.start([CALL, "ok"], clock=FrozenClock())
    scene.treadle.callables["fetch"] = fetch
    agent = await scene.treadle.agents.create(model="scripted", tools=[tool])
    run = await scene.treadle.runs.create_and_wait(scene.thread_id, agent=agent)
    assert (run.status, len(made)) == ("completed", 3)
    assert [a for a, _, _ in await attempts(scene.runs, run)] == [1, 2, 3]
    assert "down" in (await scene.results())[0]


async def test_attempts_of_calls_that_run_side_by_side_do_not_mix(workshop):
    made = []

    async def fetch(name: str) -> str:
        made.append(name)
        await asyncio.sleep(0)
        if made.count(name) < 3:
            raise ConnectionError(name)
        return name

    calls = [{"name": "fetch", "arguments": {"name": n}, "id": n} for n in "abc"]
    tool = FunctionTool(name="fetch", runs="server", effect="pure", retry=RETRY)
    treadle = workshop.open([{"calls": calls}, "ok"], tools=[fetch], clock=FrozenClock())
    agent = await treadle.agents.create(model="scripted", tools=[tool])
    run = await treadle.runs.create_and_wait(
        None, agent=agent, additional_messages=[{"role": "user", "content": "x"}]
    )
    assert run.status == "completed"
    steps = [s for s in await treadle.runs.steps(run.id) if s.kind == "tool_call"]
    for path in {s.path for s in steps}:
        assert [s.attempt for s in steps if s.path == path] == [1, 2, 3]
    assert len({s.n for s in steps}) == 9


async def test_attempts_count_on_after_the_process_died(workshop):
    mine, other = FrozenClock(), FrozenClock()
    made, begun = [], asyncio.Event()

    async def fetch() -> str:
        made.append(1)
        if len(made) == 2:
            begun.set()
            await asyncio.Event().wait()
        raise ConnectionError("down")

    tool = FunctionTool(name="fetch", runs="server", effect="pure", retry=RETRY)
    first = workshop.open([CALL], tools=[fetch], clock=mine)
    agent = await first.agents.create(model="scripted", tools=[tool])
    run = await first.runs.create(None, agent=agent, additional_messages=[{"role": "user", "content": "x"}])
    await begun.wait()
    other.advance(30)
    second = workshop.open(["ok"], tools=[fetch], clock=other)
    await second.runs.resume(run.id)
    assert (await second.runs.wait(run.id, timeout_s=10)).status == "completed"
    # The attempt that was interrupted left no trace: it is made again.
    assert len(made) == 4
    assert [a for a, _, _ in await attempts(second.runs, run)] == [1, 2, 3]
