"""Agents: versions that never change, names that documents share, histories that outlive their agent."""

import asyncio

import pytest

from treadle.errors import ConfigurationError, DefinitionError, NotFound, StateError

HELLO = "kind: agent\nname: hello\nmodel: scripted\ninstructions: Say hello.\n"


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


async def test_applying_a_document_makes_a_version_only_when_it_changed(workshop):
    treadle = workshop.open(["ok"] * 3)
    path = write(workshop.folder, "hello.agent.yaml", HELLO)
    first = await treadle.agents.apply(path)
    assert (first.version, first.name, first.origin) == (1, "hello", "file")
    write(workshop.folder, "hello.agent.yaml", "# a comment\n" + HELLO.replace("Say hello.", "'Say hello.'"))
    assert await treadle.agents.apply(path) == first
    write(workshop.folder, "hello.agent.yaml", HELLO.replace("hello.", "good day."))
    second = await treadle.agents.apply(path)
    assert (second.id, second.version) == (first.id, 2)
    assert (await treadle.agents.get("hello")).version == 2
    assert (await treadle.agents.get(first.id, version=1)).spec.instructions.template == "Say hello."
    write(workshop.folder, "hello.agent.yaml", HELLO)
    assert (await treadle.agents.apply(path)).version == 3


async def test_a_run_keeps_the_version_it_began_with(workshop):
    scene = await workshop.start(["never", "ok"])
    agent = await scene.treadle.agents.apply(write(workshop.folder, "hello.agent.yaml", HELLO))
    run = await scene.runs.create(scene.thread_id, agent=agent)
    await scene.treadle.close()
    again = workshop.open(["ok"])
    await again.agents.apply(write(workshop.folder, "hello.agent.yaml", HELLO.replace("hello.", "bye.")))
    await again.runs.resume(run.id)
    done = await again.runs.wait(run.id)
    assert done.agent_version == 1
    assert again.models._given["scripted"].requests[0].instructions == "Say hello."


async def test_two_documents_of_one_name_are_one_agent(workshop):
    treadle = workshop.open()
    one = await treadle.agents.apply(write(workshop.folder, "a.yaml", HELLO))
    two = await treadle.agents.apply(write(workshop.folder, "b.yaml", HELLO.replace("hello.", "bye.")))
    assert (one.id, two.version) == (two.id, 2)


async def test_an_unnamed_document_is_called_by_its_file(workshop):
    treadle = workshop.open()
    agent = await treadle.agents.apply(
        write(workshop.folder, "greeter.agent.yaml", "kind: agent\nmodel: offline\n")
    )
    assert agent.name == "greeter"


async def test_several_documents_in_one_file_are_named_apart(workshop):
    treadle = workshop.open()
    path = write(workshop.folder, "two.yaml", HELLO + "---\n" + HELLO.replace("hello", "bye"))
    with pytest.raises(ConfigurationError, match="several agents"):
        await treadle.agents.apply(path)
    assert (await treadle.agents.apply(f"{path}#bye")).name == "bye"
    assert (await treadle.agents.apply(f"{path}#hello")).name == "hello"
    with pytest.raises(NotFound):
        await treadle.agents.apply(f"{path}#nobody")
    assert len(await treadle.agents.list()) == 2


async def test_a_bad_document_changes_nothing(workshop):
    treadle = workshop.open()
    with pytest.raises(DefinitionError):
        await treadle.agents.apply(write(workshop.folder, "bad.yaml", HELLO + "temprature: 1\n"))
    assert await treadle.agents.list() == []


async def test_applying_the_same_document_at_once_makes_one_agent(workshop):
    path = write(workshop.folder, "hello.agent.yaml", HELLO)
    shops = [workshop.open() for _ in range(3)]
    made = await asyncio.gather(*(t.agents.apply(path) for t in shops for _ in range(5)))
    assert {(a.id, a.version) for a in made} == {(made[0].id, 1)}
    assert len(await shops[0].agents.list()) == 1


async def test_deleting_an_agent_keeps_its_history_readable(workshop):
    scene = await workshop.start([{"json": {"n": 1}}, "more"], output={"schema": {"type": "object"}})
    run = await scene.run()
    deleted = await scene.treadle.agents.delete(scene.agent.id)
    assert deleted.id == scene.agent.id
    with pytest.raises(NotFound):
        await scene.treadle.agents.get(scene.agent.id)
    with pytest.raises(NotFound):
        await scene.treadle.agents.delete(scene.agent.id)
    assert await scene.treadle.agents.list() == []
    assert (await scene.runs.get(run.id)).output == {"n": 1}
    assert (await scene.treadle.messages.list(scene.thread_id))[0].agent_id == scene.agent.id
    assert (await scene.treadle.agents.get(scene.agent.id, version=1)).spec == scene.agent.spec


async def test_a_deleted_agent_takes_no_new_runs(workshop):
    scene = await workshop.start(["ok"])
    await scene.treadle.agents.delete(scene.agent.id)
    for agent in (scene.agent, scene.agent.id):
        with pytest.raises(NotFound):
            await scene.runs.create(scene.thread_id, agent=agent)
    assert await scene.runs.list() == []


async def test_a_deleted_name_can_be_taken_again(workshop):
    treadle = workshop.open()
    path = write(workshop.folder, "hello.agent.yaml", HELLO)
    first = await treadle.agents.apply(path)
    await treadle.agents.delete("hello")
    second = await treadle.agents.apply(path)
    assert (second.id != first.id, second.version) == (True, 1)


async def test_names_of_agents_made_in_python_are_free(workshop):
    treadle = workshop.open()
    made = [await treadle.agents.create(model="offline", name="x") for _ in range(3)]
    assert len({a.id for a in made}) == 3
    with pytest.raises(NotFound):
        await treadle.agents.get("x")


async def test_agents_are_found_by_the_beginning_of_their_id_where_it_is_unique(workshop):
    treadle = workshop.open()
    made = [await treadle.agents.create(model="offline") for _ in range(3)]
    for agent in made:
        assert (await treadle.agents.get(agent.id)).id == agent.id
    assert (await treadle.agents.get("@last")).id == made[-1].id
    with pytest.raises(NotFound, match="No agent") as failure:
        await treadle.agents.get("asst_")
    assert "several begin like that" in failure.value.hint


@pytest.mark.parametrize(
    "fields", [{}, {"model": ""}, {"model": "offline", "tool_choice": ""}, {"model": "offline", "colour": "red"},
               {"model": "offline", "name": "a/b"}]
)  # fmt: skip
async def test_fields_that_no_agent_has_are_refused(workshop, fields):
    treadle = workshop.open()
    with pytest.raises(StateError):
        await treadle.agents.create(**fields)
    assert await treadle.agents.list() == []


async def test_text_given_in_python_is_never_a_template(workshop):
    scene = await workshop.start(["ok"], instructions="Say {{ hello }} and {% raw %}")
    await scene.run()
    assert scene.requests[0].instructions == "Say {{ hello }} and {% raw %}"


async def test_two_functions_cannot_have_one_name(workshop):
    def f() -> str:
        return "1"

    treadle = workshop.open(tools=[f])
    other = lambda: "2"
    other.__name__ = "f"
    with pytest.raises(StateError, match="another function"):
        await treadle.agents.create(model="offline", tools=[other])
