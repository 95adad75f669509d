"""Streaming: events while they happen, deltas that make up the text, numbers without a gap."""

import asyncio
import contextlib

import pytest

from treadle.errors import StateError, ThreadBusy
from treadle.objects.tool import FunctionTool
from treadle.testing.fakes import ScriptedProvider

TEXT = "Grüße aus Köln — 12 °C, 👩‍🚀 und später Regen."


def look(n: int) -> str:
    """Look."""
    return f"seen {n}"


async def collect(scene, **fields):
    return [e async for e in scene.runs.stream(scene.thread_id, agent=scene.agent, **fields)]


async def test_the_deltas_make_up_the_message(workshop):
    scene = await workshop.start([TEXT])
    events = await collect(scene)
    deltas = [e for e in events if e.name == "thread.message.delta"]
    assert "".join(e.data["text"] for e in deltas) == TEXT
    assert len(deltas) > 3
    (message, _) = await scene.treadle.messages.list(scene.thread_id)
    assert {e.object_id for e in deltas} == {message.id}
    assert [e.object_id for e in events if e.name == "thread.message.completed"] == [message.id]
    assert message.text == TEXT


async def test_a_message_id_is_announced_before_the_message_and_stays_in_every_turn(workshop):
    scene = await workshop.start(
        [{"text": "Looking.", "calls": [{"name": "look", "arguments": {"n": n}} for n in range(3)]}, "Seen."],
        tools=[look],
    )
    events = await collect(scene)
    ids = list(dict.fromkeys(e.object_id for e in events if e.name == "thread.message.delta"))
    listed = await scene.treadle.messages.list(scene.thread_id, order="asc")
    assert ids == [m.id for m in listed[1:]]
    for id_ in ids:
        assert (await scene.treadle.messages.get(id_)).id == id_


async def test_numbered_events_are_those_of_the_store_without_a_gap(workshop):
    calls = [{"name": "look", "arguments": {"n": n}} for n in range(4)]
    scene = await workshop.start([{"calls": calls}, {"text": "More.", "calls": calls}, "Done."], tools=[look])
    events = await collect(scene)
    numbered = [e for e in events if e.seq is not None]
    assert [e.seq for e in numbered] == list(range(1, len(numbered) + 1))
    assert numbered == await scene.treadle.store.events("default", numbered[0].run_id)
    assert numbered[0].name == "thread.run.created"
    assert numbered[-1].name == "thread.run.completed"
    assert all(e.name.endswith(("delta", "step.in_progress")) for e in events if e.seq is None)


async def test_stored_events_are_read_in_pages(workshop):
    calls = [{"name": "look", "arguments": {"n": n}} for n in range(4)]
    scene = await workshop.start([{"calls": calls}, {"text": "More.", "calls": calls}, "Done."], tools=[look])
    run = await scene.run()
    whole = await scene.treadle.store.events("default", run.id)
    for size in (1, 2, 3, 7):
        paged = []
        while page := await scene.treadle.store.events(
            "default", run.id, after=paged[-1].seq if paged else 0, limit=size
        ):
            assert len(page) <= size
            paged += page
        assert paged == whole


async def test_a_run_that_nobody_follows_has_the_same_events(workshop):
    calls = [{"name": "look", "arguments": {"n": n}} for n in range(2)]
    scene = await workshop.start([{"calls": calls}, "Done."] * 2, tools=[look])
    followed = [(e.seq, e.name) for e in await collect(scene) if e.seq]
    run = await scene.run()
    assert [(e.seq, e.name) for e in await scene.treadle.store.events("default", run.id)] == followed


async def test_tool_calls_are_streamed_piece_by_piece(workshop):
    scene = await workshop.start(
        [{"calls": [{"name": "look", "arguments": {"n": 12345}}]}, "ok"], tools=[look]
    )
    pieces = [e.data for e in await collect(scene) if e.name == "thread.run.step.delta"]
    assert pieces[0]["name"] == "look"
    assert "".join(p["arguments"] for p in pieces) == '{"n": 12345}'


async def test_events_arrive_while_they_happen(workshop):
    go = asyncio.Event()

    async def wait() -> str:
        await go.wait()
        return "went"

    scene = await workshop.start([{"calls": [{"name": "wait", "arguments": {}}]}, "ok"], tools=[wait])
    async for event in scene.runs.stream(scene.thread_id, agent=scene.agent):
        if event.name == "thread.run.step.in_progress" and event.data["kind"] == "tool_call":
            assert event.data["tool"] == "wait"
            go.set()
    assert go.is_set()
    assert event.name == "thread.run.completed"


@pytest.mark.parametrize("leave_after", [1, 2, 3, 4, 5, 8])
async def test_leaving_the_stream_early_does_not_stop_the_run(workshop, leave_after):
    scene = await workshop.start([TEXT])
    seen = []
    async with contextlib.aclosing(scene.runs.stream(scene.thread_id, agent=scene.agent)) as stream:
        async for event in stream:
            seen.append(event.run_id)
            if len(seen) == leave_after:
                break
    run = await scene.runs.wait(seen[0], timeout_s=10)
    assert run.output == TEXT
    assert not scene.treadle.stream.is_followed(run.id)


async def test_a_slow_reader_does_not_hold_the_run(workshop):
    scene = await workshop.start([TEXT])
    stream = scene.runs.stream(scene.thread_id, agent=scene.agent)
    first = await anext(stream)
    assert (await scene.runs.wait(first.run_id, timeout_s=10)).status == "completed"
    rest = [e async for e in stream]
    assert rest[-1].name == "thread.run.completed"
    assert "".join(e.data["text"] for e in rest if e.name == "thread.message.delta") == TEXT


async def test_errors_of_creating_come_before_the_first_event(workshop):
    scene = await workshop.start(
        [{"calls": [{"name": "ask", "arguments": {}}]}], tools=[FunctionTool(name="ask", parameters={})]
    )
    with pytest.raises(StateError):
        await collect(scene, inputs={"x": 1})
    with pytest.raises(StateError, match="temperature"):
        await collect(scene, temperature=9)
    await collect(scene)
    with pytest.raises(ThreadBusy):
        await collect(scene)


async def test_a_failed_run_ends_its_stream_with_the_error(workshop):
    scene = await workshop.start([{"error": {"kind": "http_500", "message": "boom"}}])
    events = await collect(scene)
    assert events[-1].name == "thread.run.failed"
    assert events[-1].data["last_error"] == {"code": "http_500", "message": "boom"}


async def test_streams_of_many_runs_are_kept_apart(workshop):
    scene = await workshop.start(lambda request: f"echo {request.messages[-1].plain}")

    async def one(n):
        thread = await scene.treadle.threads.create(messages=[{"content": f"{n}"}])
        events = [e async for e in scene.runs.stream(thread.id, agent=scene.agent)]
        assert len({e.run_id for e in events}) == 1
        return "".join(e.data["text"] for e in events if e.name == "thread.message.delta")

    assert await asyncio.gather(*(one(n) for n in range(50))) == [f"echo {n}" for n in range(50)]


async def test_a_resumed_run_streams_on(workshop):
    scene = await workshop.start(["never"])
    run = await scene.create()
    await scene.treadle.close()
    again = workshop.open(ScriptedProvider([TEXT]))
    events = [e async for e in again.runs.resume_and_stream(run.id)]
    assert "".join(e.data["text"] for e in events if e.name == "thread.message.delta") == TEXT
    numbered = [e for e in events if e.seq]
    stored = await again.store.events("default", run.id)
    assert numbered == stored[-len(numbered) :]
    assert numbered[0].name == "thread.run.in_progress"
