"""Limits end a run `incomplete` with their name, and leave a thread that takes the next turn."""

import asyncio

import pytest

from treadle.errors import ConfigurationError
from treadle.objects.tool import FunctionTool
from treadle.testing.fakes import FrozenClock, ScriptedProvider

USAGE = {"prompt_tokens": 100, "completion_tokens": 20}


def work(n: int) -> str:
    """Work."""
    return f"worked {n}"


def asking(*numbers, usage=None):
    reply = {"calls": [{"name": "work", "arguments": {"n": n}} for n in numbers]}
    return reply | ({"usage": usage} if usage else {})


async def ends(workshop, limits, script, reason, **fields):
    scene = await workshop.start([*script, *["next"] * 3], tools=[work], limits=limits)
    run = await scene.run(**fields)
    assert (run.status, run.incomplete_reason) == ("incomplete", reason)
    await scene.say("What now?")
    following = await scene.runs.create_and_wait(scene.thread_id, agent=scene.agent)
    assert following.status in ("completed", "incomplete")
    return scene, run


async def test_max_steps_counts_every_step(workshop):
    scene, run = await ends(workshop, {"max_steps": 3}, [asking(1), asking(2)], "max_steps")
    assert len([s for s in await scene.runs.steps(run.id) if s.status == "completed"]) == 3
    assert "not executed: the run ended incomplete: max_steps" in (await scene.results())[1]


async def test_max_steps_is_not_a_limit_that_the_answer_meets(workshop):
    scene = await workshop.start([asking(1), "done"], tools=[work], limits={"max_steps": 4})
    assert (await scene.run()).status == "completed"


async def test_max_tool_calls(workshop):
    scene, _ = await ends(workshop, {"max_tool_calls": 2}, [asking(1), asking(2, 3)], "max_tool_calls")
    results = await scene.results()
    assert results[0] == "worked 1"
    assert all("max_tool_calls" in r for r in results[1:3])


async def test_no_tool_calls_at_all_may_be_allowed(workshop):
    await ends(workshop, {"max_tool_calls": 0}, [asking(1)], "max_tool_calls")


async def test_max_tokens(workshop):
    scene, run = await ends(
        workshop, {"max_tokens": 240}, [asking(1, usage=USAGE), asking(2, usage=USAGE)], "max_tokens"
    )
    assert run.usage.total_tokens == 240
    assert not run.usage.estimated
    assert "max_tokens" in (await scene.results())[1]


async def test_max_prompt_tokens(workshop):
    await ends(
        workshop,
        {},
        [asking(1, usage=USAGE), asking(2, usage=USAGE)],
        "max_prompt_tokens",
        max_prompt_tokens=150,
    )


async def test_max_completion_tokens(workshop):
    scene, _ = await ends(
        workshop, {}, [asking(1, usage=USAGE)], "max_completion_tokens", max_completion_tokens=20
    )
    assert scene.requests[0].options.max_output_tokens == 20


async def test_what_is_left_of_the_completion_tokens_bounds_the_next_reply(workshop):
    scene = await workshop.start([asking(1, usage=USAGE), "ok"], tools=[work])
    await scene.run(max_completion_tokens=50)
    assert [r.options.max_output_tokens for r in scene.requests] == [50, 30]


async def test_the_limit_on_time_interrupts_a_tool(workshop):
    async def hang() -> str:
        await asyncio.Event().wait()
        return "never"

    script = [{"calls": [{"name": "hang", "arguments": {}}, {"name": "hang", "arguments": {}}]}, "next"]
    scene = await workshop.start(script, tools=[hang], limits={"timeout": "50ms"})
    run = await scene.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "timeout")
    assert len(await scene.results()) == 2
    await scene.say("?")
    assert (await scene.run()).output == "next"


async def test_time_spent_waiting_does_not_count(workshop):
    clock = FrozenClock()
    script = [{"calls": [{"name": "ask", "arguments": {}, "id": "a"}]}, "ok"]
    scene = await workshop.start(
        script, tools=[FunctionTool(name="ask", parameters={})], clock=clock, limits={"timeout": "10s"}
    )
    run = await scene.run()
    clock.advance(3600)
    await scene.runs.submit_tool_outputs(run.id, [{"tool_call_id": "a", "output": ""}])
    assert (await scene.runs.wait(run.id)).status == "completed"


async def test_time_is_counted_over_the_tools(workshop):
    clock = FrozenClock()

    def spend(n: int) -> str:
        clock.advance(n)
        return "spent"

    script = [
        {"calls": [{"name": "spend", "arguments": {"n": 6}}]},
        {"calls": [{"name": "spend", "arguments": {"n": 6}}]},
        "no",
    ]
    scene = await workshop.start(script, tools=[spend], clock=clock, limits={"timeout": "10s"})
    run = await scene.run()
    assert (run.status, run.incomplete_reason, run.walked_ms) == ("incomplete", "timeout", 12_000)


def priced(folder):
    (folder / "treadle.yaml").write_text(
        "kind: project\nmodels:\n  dear:\n    id: scripted\n    price: {input: 1000000, output: 2000000}\n"
    )


async def test_max_cost_usd_follows_the_price_of_the_model(workshop):
    priced(workshop.folder)
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    scene = await workshop.start(
        [asking(1, usage=usage), asking(2, usage=usage), "next"],
        tools=[work],
        model="dear",
        limits={"max_cost_usd": 5.0},
    )
    run = await scene.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_cost_usd")
    assert run.usage.total_tokens == 4


async def test_a_limit_on_cost_without_a_price_is_refused(workshop):
    scene = await workshop.start(["ok"], limits={"max_cost_usd": 5.0})
    assert (await scene.run()).status == "completed", "the embedded models cost nothing"
    priced(workshop.folder)
    dear = workshop.open(base_url="http://127.0.0.1:9/v1", providers={"openai": ScriptedProvider(["ok"])})
    with pytest.raises(ConfigurationError, match="'gpt' has no price"):
        await dear.runs.create(scene.thread_id, agent=scene.agent, model="gpt")


async def test_a_run_expires_between_its_steps(workshop):
    clock = FrozenClock()

    def spend() -> str:
        clock.advance(30)
        return "spent"

    scene = await workshop.start(
        [{"calls": [{"name": "spend", "arguments": {}}]}, "no", "yes"], tools=[spend], clock=clock
    )
    run = await scene.run(ttl="20s")
    assert (run.status, run.incomplete_reason, run.last_error) == ("expired", None, None)
    assert run.usage is not None
    await scene.say("again")
    assert (await scene.run(ttl="20s")).output == "no"


async def test_a_run_expires_during_a_tool(workshop):
    async def hang() -> str:
        await asyncio.Event().wait()
        return "never"

    scene = await workshop.start([{"calls": [{"name": "hang", "arguments": {}}]}, "yes"], tools=[hang])
    run = await scene.run(ttl="100ms")
    assert run.status == "expired"
    assert "the run expired" in (await scene.results())[0]
    await scene.say("again")
    assert (await scene.run()).output == "yes"


async def test_a_run_that_waits_too_long_for_its_client_expires_when_it_goes_on(workshop):
    clock = FrozenClock()
    script = [{"calls": [{"name": "ask", "arguments": {}, "id": "a"}]}, "ok"]
    scene = await workshop.start(script, tools=[FunctionTool(name="ask", parameters={})], clock=clock)
    run = await scene.run(ttl="1m")
    clock.advance(61)
    await scene.runs.submit_tool_outputs(run.id, [{"tool_call_id": "a", "output": "late"}])
    assert (await scene.runs.wait(run.id)).status == "expired"


async def test_a_run_that_waits_for_its_client_expires_though_nobody_walks_it(workshop):
    clock = FrozenClock()
    script = [{"calls": [{"name": "ask", "arguments": {}, "id": "a"}]}, "ok"]
    scene = await workshop.start(script, tools=[FunctionTool(name="ask", parameters={})], clock=clock)
    run = await scene.run(ttl="1m")
    clock.advance(59)
    await scene.treadle.recover()
    assert (await scene.runs.get(run.id)).status == "requires_action"
    clock.advance(2)
    await scene.treadle.recover()
    assert (await scene.runs.get(run.id)).status == "expired"
    assert "not executed" in (await scene.results())[0]
    await scene.say("again")
    assert (await scene.run()).output == "ok"


async def test_the_projects_default_gives_a_run_its_lifetime(workshop):
    (workshop.folder / "treadle.yaml").write_text("kind: project\ndefaults: {run_ttl: 10m}\n")
    scene = await workshop.start(["ok", "ok"])
    run = await scene.create()
    assert run.expires_ms == run.created_ms + 600_000
    await scene.runs.wait(run.id)
    run = await scene.create(ttl="5s")
    assert run.expires_ms == run.created_ms + 5_000
    await scene.runs.wait(run.id)


async def test_model_calls_may_be_limited(workshop):
    scene, _ = await ends(workshop, {"max_model_calls": 2}, [asking(1), asking(2)], "max_model_calls")
    assert "not executed" not in (await scene.results())[-1]


async def give() -> str:
    """Give much."""
    return "x" * 1000


GIVING = {"calls": [{"name": "give", "arguments": {}}]}


async def test_what_tools_give_may_be_limited_all_together(workshop):
    scene = await workshop.start([GIVING] * 4, tools=[give], limits={"max_output_bytes": 1500})
    run = await scene.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_output_bytes")
    assert len(await scene.results()) == 2


async def test_what_tools_gave_before_a_stop_counts_after_it(workshop):
    parking = []

    async def stops() -> str:
        parking.append(asyncio.create_task(first.treadle.executor.park(5)))
        await asyncio.sleep(0)
        return await give()

    stops.__name__ = "give"
    first = await workshop.start([GIVING, GIVING], tools=[stops], limits={"max_output_bytes": 1500})
    run = await first.create()
    await first.runs.settle()
    await asyncio.gather(*parking)
    assert (await first.runs.get(run.id)).status == "queued"
    rows = await first.rows()
    await first.treadle.close()
    given = sum(r.role == "tool" for r in rows)
    second = workshop.open([GIVING, GIVING, "never"], tools=[give])
    await second.runs.resume(run.id)
    ended = await second.runs.wait(run.id, timeout_s=10)
    assert (given, ended.status, ended.incomplete_reason) == (1, "incomplete", "max_output_bytes")
    rows = await second.store.rows("default", first.thread_id)
    assert sum(r.role == "tool" for r in rows) == 2
