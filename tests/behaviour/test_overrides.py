"""What one run changes of its agent, and that it changes nothing else."""

import pytest

from treadle.errors import ConfigurationError, ModelNotConfigured, NotFound, StateError
from treadle.objects.tool import FunctionTool
from treadle.testing.fakes import ScriptedProvider


def first() -> str:
    """First."""
    return "1"


async def test_every_override_reaches_the_model_and_stays_on_the_run(workshop):
    scene = await workshop.start(["ok", "ok"], instructions="Be kind.", tools=[first])
    other = FunctionTool(name="other", parameters={"type": "object", "properties": {}})
    changes = {
        "instructions": "Be {{ literal }}.", "additional_instructions": "Be brief.", "tools": [other], "tool_choice": "none",
        "temperature": 0.5, "top_p": 0.9, "parallel_tool_calls": False, "reasoning_effort": "low",
    }  # fmt: skip
    run = await scene.run(**changes)
    asked = scene.requests[0]
    assert asked.instructions == "Be {{ literal }}.\n\nBe brief."
    assert [t.name for t in asked.tools] == ["other"]
    assert (asked.tool_choice, asked.options.temperature, asked.options.top_p) == ("none", 0.5, 0.9)
    assert (asked.options.parallel_tool_calls, asked.options.reasoning_effort) == (False, "low")
    stored = (await scene.runs.get(run.id)).overrides
    assert (stored.instructions, stored.temperature, stored.tools) == ("Be {{ literal }}.", 0.5, (other,))
    await scene.run()
    asked = scene.requests[1]
    assert (asked.instructions, [t.name for t in asked.tools], asked.options.temperature) == (
        "Be kind.",
        ["first"],
        None,
    )


async def test_a_run_may_take_another_model(workshop):
    (workshop.folder / "treadle.yaml").write_text(
        "kind: project\nmodels:\n  fast: {id: scripted, options: {temperature: 0.1, max_output_tokens: 50}}\n"
    )
    scene = await workshop.start(["ok", "ok"])
    run = await scene.run(model="fast")
    assert run.model == "scripted"
    assert (scene.requests[0].options.temperature, scene.requests[0].options.max_output_tokens) == (0.1, 50)


async def test_no_tools_may_be_left(workshop):
    scene = await workshop.start(["ok"], tools=[first])
    await scene.run(tools=[])
    assert scene.requests[0].tools == ()


async def test_a_forced_tool_is_forced_in_the_first_call_only(workshop):
    scene = await workshop.start([{"calls": [{"name": "first", "arguments": {}}]}, "ok"], tools=[first])
    assert (await scene.run(tool_choice="first")).status == "completed"
    assert [r.tool_choice for r in scene.requests] == ["first", "auto"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens"),
        ({"temprature": 1}, "temprature"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"thread": {"truncation": "middle"}}, "thread"),
    ],
)
async def test_overrides_that_do_not_fit_are_refused_and_nothing_is_stored(workshop, changes, said):
    scene = await workshop.start(["ok"])
    with pytest.raises(StateError, match=said):
        await scene.create(additional_messages=[{"content": "more"}], **changes)
    assert await scene.runs.list() == []
    assert len(await scene.rows()) == 1


async def test_what_cannot_be_had_here_is_refused_before_anything_is_stored(workshop):
    scene = await workshop.start(["ok"])
    with pytest.raises(ModelNotConfigured):
        await scene.create(model="gpt-nope")
    with pytest.raises(ConfigurationError, match="absent"):
        await scene.create(tools=[FunctionTool(name="absent", runs="server")])
    with pytest.raises(NotFound):
        await scene.runs.create(scene.thread_id, agent="asst_" + "0" * 24)
    with pytest.raises(NotFound):
        await scene.runs.create("thread_" + "0" * 24, agent=scene.agent)
    assert await scene.runs.list() == []


async def test_additional_messages_come_before_the_run_in_its_thread(workshop):
    scene = await workshop.start(["ok"])
    run = await scene.run(
        additional_messages=[{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    )
    assert await scene.texts() == [
        ("user", "Hello"),
        ("user", "one"),
        ("assistant", "two"),
        ("assistant", "ok"),
    ]
    assert run.first_seq == 4
    assert [m.run_id for m in await scene.treadle.messages.list(scene.thread_id, order="asc")] == [
        None
    ] * 3 + [run.id]


async def test_overrides_hold_when_a_run_is_resumed(workshop):
    scene = await workshop.start(["never"])
    run = await scene.create(instructions="Mine.", temperature=0.7)
    await scene.treadle.close()
    model = ScriptedProvider(["ok"], record=True)
    again = workshop.open(model)
    await again.runs.resume(run.id)
    await again.runs.wait(run.id)
    assert (model.requests[0].instructions, model.requests[0].options.temperature) == ("Mine.", 0.7)
