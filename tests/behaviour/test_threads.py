"""Threads: made whole or not at all, listed in order, deleted with everything in them."""

import pytest

from treadle.errors import NotFound, StateError


async def test_a_thread_is_made_with_its_first_messages_or_not_at_all(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create(
        messages=[{"content": "a"}, {"role": "assistant", "content": "b"}], metadata={"k": "v"}
    )
    assert (await treadle.threads.get(thread.id)) == thread
    assert [m.text for m in await treadle.messages.list(thread.id, order="asc")] == ["a", "b"]
    with pytest.raises(StateError):
        await treadle.threads.create(messages=[{"content": "a"}, {"content": ""}])
    assert [t.id for t in await treadle.threads.list()] == [thread.id]


async def test_metadata_and_resources_are_replaced_apart(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create(metadata={"a": 1}, tool_resources={"r": [1]})
    await treadle.threads.update(thread.id, metadata={"b": 2})
    assert (await treadle.threads.get(thread.id)).tool_resources == {"r": [1]}
    await treadle.threads.update(thread.id, tool_resources={})
    found = await treadle.threads.get(thread.id)
    assert (found.metadata, found.tool_resources) == ({"b": 2}, {})
    with pytest.raises(NotFound):
        await treadle.threads.update("thread_none", metadata={})


@pytest.mark.parametrize(
    "bad", [{"x": "\ud800"}, {"x": object()}, {"\ud800": 1}, {"x": [float("nan")]}, {"x": float("-inf")}]
)
async def test_notes_that_cannot_be_stored_are_refused(workshop, bad):
    treadle = workshop.open()
    thread = await treadle.threads.create()
    with pytest.raises(StateError):
        await treadle.threads.update(thread.id, metadata=bad)
    with pytest.raises(StateError):
        await treadle.threads.create(metadata=bad)
    assert (await treadle.threads.get(thread.id)).metadata == {}


async def test_notes_may_say_nan_in_words(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create(metadata={"x": "NaN and -Infinity"})
    assert (await treadle.threads.get(thread.id)).metadata == {"x": "NaN and -Infinity"}


async def test_deleting_a_thread_deletes_all_that_is_in_it(workshop):
    scene = await workshop.start(["ok", "ok"])
    run = await scene.run()
    (message, _) = await scene.treadle.messages.list(scene.thread_id)
    other = await scene.treadle.threads.create(messages=[{"content": "stays"}])
    kept = await scene.runs.create_and_wait(other.id, agent=scene.agent)
    deleted = await scene.treadle.threads.delete(scene.thread_id)
    assert deleted.id == scene.thread_id
    for gone in (
        scene.treadle.threads.get(scene.thread_id),
        scene.treadle.threads.delete(scene.thread_id),
        scene.treadle.messages.list(scene.thread_id),
        scene.treadle.messages.get(message.id),
        scene.treadle.messages.create(scene.thread_id, content="x"),
        scene.runs.get(run.id),
        scene.runs.steps(run.id),
        scene.runs.list(scene.thread_id),
        scene.treadle.store.events("default", run.id),
        scene.create(),
    ):
        with pytest.raises(NotFound):
            await gone
    assert [r.id for r in await scene.runs.list()] == [kept.id]
    assert len(await scene.treadle.messages.list(other.id)) == 2


async def test_what_another_process_deleted_is_gone_here_too(workshop):
    scene = await workshop.start(["ok"] * 3)
    run = await scene.run()
    other = workshop.open()
    await other.threads.delete(scene.thread_id)
    fresh = await other.threads.create(messages=[{"content": "of somebody else"}])
    for gone in (
        scene.treadle.messages.list(scene.thread_id),
        scene.say("into the void"),
        scene.runs.steps(run.id),
        scene.create(),
        scene.rows(),
    ):
        with pytest.raises(NotFound):
            await gone
    assert [m.text for m in await other.messages.list(fresh.id)] == ["of somebody else"]


async def test_a_thread_is_found_by_the_beginning_of_its_id_and_as_the_last(workshop):
    treadle = workshop.open()
    with pytest.raises(NotFound):
        await treadle.threads.get("@last")
    made = [await treadle.threads.create() for _ in range(3)]
    assert (await treadle.threads.get("@last")).id == made[-1].id
    assert [t.id for t in await treadle.threads.list()] == [t.id for t in reversed(made)]
    with pytest.raises(NotFound) as failure:
        await treadle.threads.get("thread_")
    assert "several" in failure.value.hint
