"""Functions of the client: the run stops with every pending call, and goes on with all outputs at once."""

import asyncio

import pytest

from treadle.errors import ConfigurationError, StateError, ToolOutputsError
from treadle.objects.tool import FunctionTool

ASK = FunctionTool(name="ask", parameters={"type": "object", "properties": {"q": {"type": "string"}}})
MIXED = [
    {
        "calls": [
            {"name": "ask", "arguments": {"q": "1"}, "id": "a"},
            {"name": "look", "arguments": {}, "id": "b"},
            {"name": "ask", "arguments": {"q": "2"}, "id": "c"},
        ]
    },
    "Done.",
]


def output(id_, text="fine"):
    return {"tool_call_id": id_, "output": text}


def look() -> str:
    """Look here."""
    return "seen"


async def waiting(workshop, script=MIXED, tools=(ASK, look)):
    scene = await workshop.start(script, tools=tools)
    return scene, await scene.run()


async def test_a_client_call_stops_the_run_with_its_call(workshop):
    scene, run = await waiting(
        workshop, [{"calls": [{"name": "ask", "arguments": {"q": "1"}, "id": "a"}]}, "ok"]
    )
    assert run.status == "requires_action"
    assert [(c.id, c.name, c.arguments) for c in run.required_action] == [("a", "ask", '{"q": "1"}')]
    assert run.walker is None
    assert [s.status for s in await scene.runs.steps(run.id)] == ["completed", "in_progress"]
    await scene.runs.submit_tool_outputs(run.id, [output("a", "42")])
    run = await scene.runs.wait(run.id)
    assert (run.status, run.required_action) == ("completed", ())
    assert await scene.results() == ["42"]


async def test_server_calls_of_the_same_reply_run_before_the_run_stops(workshop):
    scene, run = await waiting(workshop)
    assert [c.id for c in run.required_action] == ["a", "c"]
    assert await scene.results() == ["seen"]
    await scene.runs.submit_tool_outputs(run.id, [output("c", "two"), output("a", "one")])
    assert (await scene.runs.wait(run.id)).output == "Done."
    assert [m.text for m in scene.requests[1].messages[2:]] == ["one", "seen", "two"]


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [output("a")],
        [output("a"), output("a")],
        [output("a"), output("c"), output("c")],
        [output("a"), output("c"), output("b")],
        [output("a"), output("x")],
        [output("a"), {"tool_call_id": "c"}],
        [output("a"), {"tool_call_id": "c", "output": 3}],
        [output("a"), {"output": "3"}],
        [output("a"), output("c", "\ud800")],
        [output("a"), output("c", "a\x00b")],
    ],
)
async def test_outputs_that_do_not_match_are_refused_and_nothing_is_stored(workshop, outputs):
    scene, run = await waiting(workshop)
    before = (await scene.rows(), await scene.runs.steps(run.id), await scene.runs.get(run.id))
    with pytest.raises(ToolOutputsError):
        await scene.runs.submit_tool_outputs(run.id, outputs)
    assert (await scene.rows(), await scene.runs.steps(run.id), await scene.runs.get(run.id)) == before
    await scene.runs.submit_tool_outputs(run.id, [output("a"), output("c")])
    assert (await scene.runs.wait(run.id)).status == "completed"


async def test_outputs_are_taken_once(workshop):
    scene, run = await waiting(workshop)
    given = [output("a"), output("c")]
    done = await asyncio.gather(
        *(scene.runs.submit_tool_outputs(run.id, given) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(d, StateError) for d in done) == 4
    assert (await scene.runs.wait(run.id)).status == "completed"
    with pytest.raises(StateError, match="completed"):
        await scene.runs.submit_tool_outputs(run.id, given)


async def test_bad_arguments_of_a_client_call_never_reach_the_client(workshop):
    script = [{"calls": [{"name": "ask", "arguments": {"q": 3}}]}, "I see."]
    scene, run = await waiting(workshop, script)
    assert run.output == "I see."
    assert "is not of type" in (await scene.results())[0]


async def test_calls_that_a_run_waits_for_survive_the_process(workshop):
    scene, run = await waiting(workshop)
    await scene.treadle.close()
    again = workshop.open(["Done."], tools=[look])
    assert [c.id for c in (await again.runs.get(run.id)).required_action] == ["a", "c"]
    await again.runs.submit_tool_outputs(run.id, [output("a"), output("c")])
    assert (await again.runs.wait(run.id)).output == "Done."


async def test_a_process_that_lacks_a_tool_takes_no_outputs(workshop):
    scene, run = await waiting(workshop)
    await scene.treadle.close()
    without = workshop.open(["Done."])
    with pytest.raises(ConfigurationError, match="'look'"):
        await without.runs.submit_tool_outputs(run.id, [output("a"), output("c")])
    assert (await without.runs.get(run.id)).status == "requires_action"
    await without.close()
    again = workshop.open(["Done."], tools=[look])
    await again.runs.submit_tool_outputs(run.id, [output("a"), output("c")])
    assert (await again.runs.wait(run.id)).output == "Done."


async def test_several_rounds_of_client_calls_in_one_run(workshop):
    script = [{"calls": [{"name": "ask", "arguments": {}, "id": f"c{i}"}]} for i in range(3)]
    scene, run = await waiting(workshop, [*script, "Done."])
    for i in range(3):
        assert [c.id for c in run.required_action] == [f"c{i}"]
        await scene.runs.submit_tool_outputs(run.id, [output(f"c{i}", str(i))])
        run = await scene.runs.wait(run.id)
    assert run.output == "Done."
    assert await scene.results() == ["0", "1", "2"]


async def test_a_large_output_of_a_client_is_kept_whole(workshop):
    text = "€" * 500_000
    scene, run = await waiting(workshop, [{"calls": [{"name": "ask", "arguments": {}, "id": "a"}]}, "ok"])
    await scene.runs.submit_tool_outputs(run.id, [output("a", text)])
    await scene.runs.wait(run.id)
    assert await scene.results() == [text]


async def test_events_go_on_after_the_outputs_without_a_gap(workshop):
    scene = await workshop.start(MIXED, tools=[ASK, look])
    first = [e async for e in scene.runs.stream(scene.thread_id, agent=scene.agent)]
    run_id = first[0].run_id
    assert first[-1].name == "thread.run.requires_action"
    more = [e async for e in scene.runs.submit_and_stream(run_id, [output("a"), output("c")])]
    assert more[-1].name == "thread.run.completed"
    numbered = [e for e in [*first, *more] if e.seq]
    assert numbered == await scene.treadle.store.events("default", run_id)


async def test_a_call_that_would_wait_is_closed_when_another_call_of_its_reply_fails_the_run(workshop):
    def refuse() -> str:
        """Fail."""
        raise OSError("no")

    tool = FunctionTool(name="refuse", runs="server", on_error="fail")
    script = [
        {
            "calls": [
                {"name": "ask", "arguments": {}, "id": "a"},
                {"name": "refuse", "arguments": {}, "id": "b"},
            ]
        }
    ]
    treadle = workshop.open(script, tools=[refuse])
    agent = await treadle.agents.create(model="scripted", tools=[ASK, tool])
    hello = [{"role": "user", "content": "Hello"}]
    run = await treadle.runs.create_and_wait(None, agent=agent, additional_messages=hello)
    assert (run.status, run.last_error.code) == ("failed", "tool_error")
    rows = await treadle.store.rows("default", run.thread_id)
    results = {row.call_index: row.text for row in rows if row.role == "tool"}
    assert "not executed" in results[0]
    assert "OSError: no" in results[1]
    assert all(not step.is_open for step in await treadle.runs.steps(run.id))
