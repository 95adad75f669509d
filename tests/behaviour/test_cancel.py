"""Cancelling and parking: a run that is stopped leaves a whole thread, wherever it was."""

import asyncio
import subprocess
import threading

import pytest

from treadle.errors import ConfigurationError, NotFound, StateError, StoreError
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool, Retry
from treadle.providers.base import ModelReply
from treadle.store.base import Checkpoint
from treadle.store.sqlite import SqliteStore
from treadle.testing.fakes import FrozenClock, ScriptedProvider


class Stuck(ScriptedProvider):
    """A model that never answers until it is let go."""

    def __init__(self, script=()):
        super().__init__(script, record=True)
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def call(self, request, emit):
        self.asked.set()
        await self.go.wait()
        return await super().call(request, emit)


async def until(treadle, run_id, status):
    while (run := await treadle.runs.get(run_id)).status != status:
        await asyncio.sleep(0)
    return run


async def test_a_run_is_cancelled_during_a_model_call(workshop):
    model = Stuck(["late", "next"])
    scene = await workshop.start(model)
    run = await scene.create()
    await model.asked.wait()
    assert (await scene.runs.cancel(run.id)).status == "cancelling"
    done = await scene.runs.wait(run.id)
    assert (done.status, done.last_error, done.usage.total_tokens) == ("cancelled", None, 0)
    assert await scene.texts() == [("user", "Hello")]
    model.go.set()
    await scene.say("again")
    assert (await scene.run()).status == "completed"


async def test_a_run_is_cancelled_during_its_tools(workshop):
    begun = asyncio.Event()

    async def quick() -> str:
        return "quick"

    async def hang() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    calls = [{"name": n, "arguments": {}} for n in ("quick", "hang", "ask")]
    scene = await workshop.start(
        [{"calls": calls}, "next"], tools=[quick, hang, FunctionTool(name="ask", parameters={})]
    )
    run = await scene.create()
    await begun.wait()
    while not await scene.results():
        await asyncio.sleep(0)
    await scene.runs.cancel(run.id)
    assert (await scene.runs.wait(run.id)).status == "cancelled"
    results = await scene.results()
    assert "quick" in results
    assert any("outcome unknown" in r for r in results)
    assert any("not executed: the run ended cancelled" in r for r in results)
    assert {s.status for s in await scene.runs.steps(run.id)} == {"completed", "cancelled"}
    await scene.say("again")
    assert (await scene.run()).output == "next"


@pytest.mark.parametrize("effect", ["pure", "idempotent", "once"])
async def test_a_call_that_was_under_way_is_never_told_as_not_executed(workshop, effect):
    """Whatever its effect is, and whether the journal says that it began or only its walker knows."""
    begun = asyncio.Event()

    async def hang() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    treadle = workshop.open([{"calls": [{"name": "hang", "arguments": {}}]}], tools=[hang])
    spec = FunctionTool(name="hang", parameters={}, runs="server", effect=effect)
    agent = await treadle.agents.create(model="scripted", tools=[spec])
    thread = await treadle.threads.create(messages=[{"role": "user", "content": "Hello"}])
    run = await treadle.runs.create(thread.id, agent=agent)
    await begun.wait()
    await treadle.runs.cancel(run.id)
    await treadle.runs.wait(run.id, timeout_s=10)
    rows = await treadle.store.rows("default", thread.id)
    assert [r.text for r in rows if r.role == "tool"] == [
        '{"error": "outcome unknown: it was under way when the run ended cancelled"}'
    ]


async def test_a_call_that_is_cancelled_in_its_second_attempt_says_so(workshop):
    attempts, hangs = [], asyncio.Event()

    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("hung up")
        hangs.set()
        await asyncio.Event().wait()
        return "never"

    retry = Retry(max_attempts=3, on=("connection",))
    spec = FunctionTool(name="flaky", parameters={}, runs="server", effect="pure", retry=retry)
    treadle = workshop.open(
        [{"calls": [{"name": "flaky", "arguments": {}}]}], tools=[flaky], clock=FrozenClock()
    )
    agent = await treadle.agents.create(model="scripted", tools=[spec])
    thread = await treadle.threads.create(messages=[{"role": "user", "content": "Hello"}])
    run = await treadle.runs.create(thread.id, agent=agent)
    await hangs.wait()
    await treadle.runs.cancel(run.id)
    await treadle.runs.wait(run.id)
    calls = [s for s in await treadle.runs.steps(run.id) if s.kind == "tool_call"]
    assert [(s.attempt, s.status) for s in calls] == [(1, "failed"), (2, "cancelled")]


async def test_a_cancelled_run_does_not_wait_for_a_tool_in_a_thread(workshop):
    begun, go = threading.Event(), threading.Event()

    def hang() -> str:
        begun.set()
        go.wait(10)
        return "late"

    scene = await workshop.start([{"calls": [{"name": "hang", "arguments": {}}]}, "next"], tools=[hang])
    run = await scene.create()
    await asyncio.to_thread(begun.wait, 10)
    await scene.runs.cancel(run.id)
    assert (await scene.runs.wait(run.id)).status == "cancelled"
    go.set()
    assert "outcome unknown" in (await scene.results())[0]


async def test_a_run_that_waits_for_its_client_is_cancelled_at_once(workshop):
    scene = await workshop.start(
        [{"calls": [{"name": "ask", "arguments": {}, "id": "a"}]}, "next"],
        tools=[FunctionTool(name="ask", parameters={})],
    )
    run = await scene.run()
    assert (await scene.runs.cancel(run.id)).status == "cancelling"
    assert (await scene.runs.get(run.id)).status == "cancelled"
    assert "not executed" in (await scene.results())[0]
    with pytest.raises(StateError, match="cancelled"):
        await scene.runs.submit_tool_outputs(run.id, [{"tool_call_id": "a", "output": "1"}])
    names = [e.name for e in await scene.treadle.store.events("default", run.id)]
    assert names[-3:] == ["thread.run.cancelling", "thread.run.step.cancelled", "thread.run.cancelled"]
    await scene.say("again")
    assert (await scene.run()).output == "next"


async def test_a_run_is_cancelled_before_its_walk_begins(workshop):
    scene = await workshop.start(["never", "next"])
    run = await scene.create()
    await scene.runs.cancel(run.id)
    assert (await scene.runs.wait(run.id)).status == "cancelled"
    assert scene.requests == []
    assert (await scene.run()).output == "never"


async def test_a_parked_run_is_cancelled(workshop):
    model = Stuck()
    scene = await workshop.start(model)
    run = await scene.create()
    await model.asked.wait()
    await scene.treadle.executor.park(0)
    assert (await scene.runs.get(run.id)).status == "queued"
    await scene.runs.cancel(run.id)
    assert (await scene.runs.get(run.id)).status == "cancelled"


@pytest.mark.parametrize("status", ["completed", "cancelled", "failed"])
async def test_a_run_that_has_ended_cannot_be_cancelled(workshop, status):
    scene = await workshop.start([{"error": {"message": "no"}} if status == "failed" else "ok"])
    run = await scene.create()
    if status == "cancelled":
        await scene.runs.cancel(run.id)
    await scene.runs.wait(run.id)
    with pytest.raises(StateError, match=f"'{status}'"):
        await scene.runs.cancel(run.id)


async def test_cancelling_twice_is_cancelling_once(workshop):
    model = Stuck()
    scene = await workshop.start(model)
    run = await scene.create()
    await model.asked.wait()
    replies = await asyncio.gather(*(scene.runs.cancel(run.id) for _ in range(5)))
    assert {r.status for r in replies} == {"cancelling"}
    assert (await scene.runs.wait(run.id)).status == "cancelled"
    with pytest.raises(NotFound):
        await scene.runs.cancel("run_" + "0" * 24)


async def test_a_cancel_that_its_process_did_not_finish_is_finished_by_the_next(workshop):
    """The walker is gone, and so is whoever asked it to stop."""
    scene = await workshop.start(["ok"])
    gone = subprocess.Popen(["true"])
    gone.wait()
    run = await scene.create()
    left = scene.treadle.executor.lease.walker._replace(id="gone", pid=gone.pid)
    await scene.treadle.close()
    store = SqliteStore(workshop.path)
    claimed = (await store.claim("default", run.id, left, now_ms=1)).run
    cancelling = (await store.commit(Checkpoint(claimed, "cancelling"))).run
    assert cancelling.walker == claimed.walker
    await store.close()
    again = workshop.open(["ok"])
    await again.runs.cancel(run.id)
    assert (await again.runs.get(run.id)).status == "cancelled"
    assert (await again.runs.create_and_wait(scene.thread_id, agent=scene.agent)).output == "ok"


async def test_a_run_whose_walk_broke_with_the_store_can_be_cancelled(workshop):
    async def fill_the_disk() -> str:
        scene.treadle.store._writer.pragma("max_page_count", 1)
        return "x" * 15_000

    scene = await workshop.start(
        [{"calls": [{"name": "fill_the_disk", "arguments": {}}]}, "ok"], tools=[fill_the_disk]
    )
    run = await scene.create()
    with pytest.raises(StoreError, match="full"):
        await scene.runs.wait(run.id)
    scene.treadle.store._writer.pragma("max_page_count", 1_000_000)
    assert (await scene.runs.get(run.id)).status == "in_progress"
    await scene.runs.cancel(run.id)
    assert (await scene.runs.get(run.id)).status == "cancelled"
    assert "outcome unknown" in (await scene.results())[0]
    assert (await scene.run()).output == "ok"


async def test_cancelling_races_with_the_end_and_one_of_them_wins(workshop):
    scene = await workshop.start(lambda request: "ok")

    async def one(turns: int) -> str:
        thread = await scene.treadle.threads.create(messages=[{"content": "x"}])
        run = await scene.runs.create(thread.id, agent=scene.agent)
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await scene.runs.cancel(run.id)
        except StateError:
            assert (await scene.runs.wait(run.id)).status == "completed"
            return "completed"
        return (await scene.runs.wait(run.id)).status

    ends = await asyncio.gather(*(one(n % 12) for n in range(120)))
    assert set(ends) <= {"completed", "cancelled"}
    assert "cancelled" in ends


async def test_the_stream_of_a_cancelled_run_ends_with_it(workshop):
    model = Stuck()
    scene = await workshop.start(model)
    names = []
    async for event in scene.runs.stream(scene.thread_id, agent=scene.agent):
        names.append(event.name)
        if event.name == "thread.run.step.in_progress":
            await scene.runs.cancel(event.run_id)
    assert names[-2:] == ["thread.run.cancelling", "thread.run.cancelled"]


# -- parking -----------------------------------------------------------------------------------------------------


async def test_closing_parks_a_run_and_the_next_process_goes_on_from_its_last_checkpoint(workshop):
    ran = []

    def work(n: int) -> str:
        ran.append(n)
        return f"worked {n}"

    model = Stuck(["never"])
    script = iter([{"calls": [{"name": "work", "arguments": {"n": 1}}]}])

    class Then(Stuck):
        async def call(self, request, emit):
            entry = next(script, None)
            if entry is None:
                return await model.call(request, emit)
            return await ScriptedProvider([entry]).call(request, emit)

    scene = await workshop.start(Then(), tools=[work])
    run = await scene.create()
    await model.asked.wait()
    await scene.treadle.executor.park(0)
    await scene.treadle.close()
    again = workshop.open(["Done."], tools=[work])
    assert (await again.runs.get(run.id)).status == "queued"
    await again.runs.resume(run.id)
    done = await again.runs.wait(run.id)
    assert (done.output, ran) == ("Done.", [1])
    names = [e.name for e in await again.store.events("default", run.id)]
    assert names.count("thread.run.queued") == 2
    assert names.count("thread.run.in_progress") == 2


async def test_closing_right_after_creating_leaves_the_run_queued(workshop):
    scene = await workshop.start(["never"])
    run = await scene.create()
    await scene.treadle.close()
    assert scene.requests == []
    again = workshop.open(["Done."])
    assert (await again.runs.get(run.id)).status == "queued"
    await again.runs.resume(run.id)
    assert (await again.runs.wait(run.id)).output == "Done."


async def test_a_call_that_was_interrupted_is_told_as_unknown_and_not_repeated(workshop):
    ran = []
    begun = asyncio.Event()

    async def pay() -> str:
        ran.append("pay")
        begun.set()
        await asyncio.Event().wait()
        return "never"

    scene = await workshop.start([{"calls": [{"name": "pay", "arguments": {}}]}], tools=[pay])
    run = await scene.create()
    await begun.wait()
    await scene.treadle.executor.park(0)
    await scene.treadle.close()
    again = workshop.open(["I do not know."], tools=[pay])
    await again.runs.resume(run.id)
    assert (await again.runs.wait(run.id)).output == "I do not know."
    assert ran == ["pay"]
    rows = await again.store.rows("default", scene.thread_id)
    assert "outcome unknown" in rows[2].text
    step = (await again.runs.steps(run.id))[1]
    assert (step.status, step.last_error.code) == ("completed", "outcome_unknown")


@pytest.mark.parametrize(("effect", "times"), [("pure", 2), ("idempotent", 2), ("once", 1)])
async def test_an_interrupted_call_is_repeated_as_its_effect_allows(workshop, effect, times):
    keys = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def work(idempotency_key: str) -> str:
        keys.append(idempotency_key)
        begun.set()
        await go.wait()
        return "worked"

    tool = FunctionTool(name="work", runs="server", effect=effect)
    scene = await workshop.start([{"calls": [{"name": "work", "arguments": {}}]}], tools=[tool])
    scene.treadle.callables["work"] = work
    run = await scene.create()
    await begun.wait()
    await scene.treadle.executor.park(0)
    await scene.treadle.close()
    go.set()
    again = workshop.open(["ok"], tools=[work])
    await again.runs.resume(run.id)
    assert (await again.runs.wait(run.id)).status == "completed"
    assert len(keys) == times
    assert len(set(keys)) == 1


async def test_on_unknown_fail_ends_the_run(workshop):
    begun = asyncio.Event()

    async def pay() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    tool = FunctionTool(name="pay", runs="server", on_unknown="fail")
    scene = await workshop.start([{"calls": [{"name": "pay", "arguments": {}}]}], tools=[tool])
    scene.treadle.callables["pay"] = pay
    run = await scene.create()
    await begun.wait()
    await scene.treadle.executor.park(0)
    await scene.treadle.close()
    again = workshop.open(["next"], tools=[pay])
    await again.runs.resume(run.id)
    done = await again.runs.wait(run.id)
    assert (done.status, done.last_error.code) == ("failed", "outcome_unknown")


async def test_a_group_that_was_parked_half_way_is_finished(workshop):
    ended = []
    go = asyncio.Event()
    wait_for_one = asyncio.Event()

    async def work(n: int) -> str:
        if n == 1:
            ended.append(n)
            wait_for_one.set()
            return "one"
        await go.wait()
        ended.append(n)
        return f"work {n}"

    tool = FunctionTool(name="work", runs="server", effect="pure")
    calls = [{"name": "work", "arguments": {"n": n}} for n in range(3)]
    scene = await workshop.start([{"calls": calls}], tools=[tool])
    scene.treadle.callables["work"] = work
    run = await scene.create()
    await wait_for_one.wait()
    while len(await scene.results()) < 1:
        await asyncio.sleep(0)
    await scene.treadle.executor.park(0)
    await scene.treadle.close()
    go.set()
    model = ScriptedProvider(["ok"], record=True)
    again = workshop.open(model, tools=[work])
    await again.runs.resume(run.id)
    assert (await again.runs.wait(run.id)).status == "completed"
    assert sorted(ended) == [0, 1, 2]
    assert [m.text for m in model.requests[0].messages[2:]] == ["work 0", "one", "work 2"]


async def test_a_process_that_lacks_a_tool_leaves_the_run(workshop):
    async def pay() -> str:
        return "paid"

    scene = await workshop.start([ModelReply(text="x")], tools=[pay])
    run = await scene.create()
    await scene.treadle.close()
    without = workshop.open(["never"])
    with pytest.raises(ConfigurationError, match="'pay'"):
        await without.runs.resume(run.id)
    assert (await without.runs.get(run.id)).status == "queued"
    await without.close()
    again = workshop.open(["ok"], tools=[pay])
    await again.runs.resume(run.id)
    assert (await again.runs.wait(run.id)).output == "ok"


async def test_only_a_queued_run_can_be_resumed(workshop):
    scene = await workshop.start(["ok"])
    run = await scene.run()
    with pytest.raises(StateError, match="only a run that is queued"):
        await scene.runs.resume(run.id)
    with pytest.raises(NotFound):
        await scene.runs.resume("run_nothing")


async def test_a_run_that_was_parked_before_it_began_is_walked_by_whoever_resumes_it(workshop):
    scene = await workshop.start(["x"])
    run = await scene.create()
    await scene.treadle.close()
    again = workshop.open(["ok"])
    resumed = await again.runs.resume(run.id)
    assert (resumed.status, resumed.fence) == ("in_progress", 2)
    assert isinstance(resumed, Run)
    assert (await again.runs.wait(run.id)).status == "completed"


# -- at every turn of the loop -----------------------------------------------------------------------------------

SCRIPT = [
    {"text": "Working.", "calls": [{"name": n, "arguments": {}} for n in ("once", "pure", "once")]},
    {"calls": [{"name": "once", "arguments": {}}]},
    "Done.",
]


def two_tools(ran):
    async def once() -> str:
        ran.append("once")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "once"

    async def pure() -> str:
        await asyncio.sleep(0)
        return "pure"

    return {"once": once, "pure": pure}


DECLARED = [FunctionTool(name="once", runs="server"), FunctionTool(name="pure", runs="server", effect="pure")]


def by_turn(request):
    """Give the reply for what the thread has: the same whoever asks."""
    since = len(request.messages) - [m.role for m in reversed(request.messages)].index("user")
    return SCRIPT[sum(m.role == "assistant" for m in request.messages[since:])]


@pytest.mark.parametrize("turns", range(36))
async def test_a_run_is_cancelled_at_any_moment_and_its_thread_goes_on(workshop, turns):
    ran = []
    scene = await workshop.start(by_turn, tools=DECLARED)
    scene.treadle.callables.update(two_tools(ran))
    run = await scene.create()
    for _ in range(turns):
        await asyncio.sleep(0)
    try:
        await scene.runs.cancel(run.id)
    except StateError:
        assert (await scene.runs.get(run.id)).status == "completed"
    assert (await scene.runs.wait(run.id, timeout_s=10)).status in ("cancelled", "completed")
    await scene.say("Again.")
    assert (await scene.run()).output == "Done."


@pytest.mark.parametrize("turns", range(36))
async def test_a_run_is_parked_at_any_moment_and_resumed_to_the_same_end(workshop, turns):
    ran = []
    scene = await workshop.start(by_turn, tools=DECLARED)
    tools = two_tools(ran)
    scene.treadle.callables.update(tools)
    run = await scene.create()
    for _ in range(turns):
        await asyncio.sleep(0)
    await scene.treadle.executor.park(0)
    await scene.treadle.close()
    again = workshop.open(by_turn, tools=list(tools.values()))
    if (await again.runs.get(run.id)).status == "queued":
        await again.runs.resume(run.id)
    done = await again.runs.wait(run.id, timeout_s=10)
    assert done.output == "Done."
    assert len(ran) <= 3
    rows = await again.store.rows("default", scene.thread_id)
    texts = [r.text for r in rows if r.role == "tool"]
    assert len(texts) == 4
    assert texts.count("once") + sum("outcome unknown" in t for t in texts) == 3
    assert texts.count("pure") == 1
