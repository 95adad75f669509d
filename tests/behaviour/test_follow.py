"""Following a run: what is committed and what happens, without gap or repeat, for any number of readers."""

import asyncio
from contextlib import aclosing

import pytest

from treadle.engine import stream as streams
from treadle.errors import NotFound, StreamCut
from treadle.objects.event import Event
from treadle.objects.tool import FunctionTool
from treadle.testing.fakes import FrozenClock

CALL = {"calls": [{"name": "step", "arguments": {}}]}
SCRIPT = [CALL, CALL, "The long answer, in several pieces."]


async def step() -> str:
    """Do a step."""
    await asyncio.sleep(0)
    return "done"


async def read(events):
    async with aclosing(events) as given:
        return [event async for event in given]


def committed(events):
    return [event.seq for event in events if event.seq is not None]


async def test_a_finished_run_is_replayed_from_any_place(workshop):
    scene = await workshop.start(SCRIPT, tools=[step])
    run = await scene.run()
    whole = await read(scene.runs.follow(run.id))
    assert committed(whole) == list(range(1, len(whole) + 1))
    assert whole[-1].name == "thread.run.completed"
    for after in range(len(whole) + 1):
        assert await read(scene.runs.follow(run.id, after=after)) == whole[after:]
    with pytest.raises(NotFound):
        await read(scene.runs.follow("run_" + "0" * 24))


async def test_readers_who_join_at_any_time_get_every_event_once(workshop):
    scene = await workshop.start(SCRIPT, tools=[step])
    run = await scene.create()
    readers = []
    while not (await scene.runs.get(run.id)).ended_ms:
        readers.append(asyncio.ensure_future(read(scene.runs.follow(run.id))))
        await asyncio.sleep(0)
    given = await asyncio.gather(*readers)
    assert len(given) > 3
    for events in given:
        assert committed(events) == list(range(1, len(committed(events)) + 1))
        assert events[-1].name == "thread.run.completed"


@pytest.mark.parametrize("page", [1, 2, 3, 500])
async def test_what_a_reader_found_in_the_store_is_not_told_again_when_it_goes_on_live(
    workshop, monkeypatch, page
):
    """A slow reader: what happens while it reads is in the store, and was published as well."""
    monkeypatch.setattr("treadle.service.watched_runs.PAGE", page)
    times, follows, begun, gate = [], asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def twice() -> str:
        times.append(1)
        await follows.wait()
        if len(times) == 2:
            begun.set()
            await gate.wait()
        return "done"

    twice.__name__ = "step"
    scene = await workshop.start(SCRIPT, tools=[twice])
    run = await scene.create()
    numbers = []

    async def read_slowly():
        async with aclosing(scene.runs.follow(run.id)) as given:
            async for event in given:
                if event.seq is not None:
                    numbers.append(event.seq)
                if event.seq == 1:
                    follows.set()
                    await begun.wait()

    reading = asyncio.ensure_future(read_slowly())
    async with asyncio.timeout(10):
        await begun.wait()
        while len(numbers) < await scene.treadle.store.last_event("default", run.id):
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        gate.set()
        await reading
    assert numbers == list(range(1, len(numbers) + 1))


async def test_the_deltas_make_up_the_text_for_whoever_was_there(workshop):
    scene = await workshop.start(SCRIPT, tools=[step])
    events = await read(scene.runs.stream(scene.thread_id, agent=scene.agent))
    text = "".join(e.data["text"] for e in events if e.name == "thread.message.delta")
    assert text == "The long answer, in several pieces."


async def test_a_reader_who_comes_in_the_middle_of_a_text_gets_no_part_of_it():
    """Half a text is worse than none: the message that is committed has the whole."""
    stream = streams.Stream(asyncio.sleep)
    early = stream.follow("run")
    begins = Event("run", "thread.run.step.in_progress", "model_call#1", {"kind": "model_call"})
    delta = Event("run", "thread.message.delta", "msg", {"text": "half"})
    stream.publish("run", [begins])
    late = stream.follow("run")
    stream.publish("run", [delta], path="model_call#1")
    stream.end("run")
    assert [await early.get() for _ in range(3)] == [begins, delta, None]
    assert await late.get() is None


async def test_a_reader_of_another_process_sees_the_run_to_its_end(workshop):
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "x"

    scene = await workshop.start([{"calls": [{"name": "wait", "arguments": {}}]}, "ok"], tools=[wait])
    run = await scene.create()
    other = workshop.open(["never"])
    reading = asyncio.ensure_future(read(other.runs.follow(run.id)))
    await asyncio.sleep(0.05)
    gate.set()
    events = await asyncio.wait_for(reading, 10)
    assert committed(events) == list(range(1, len(events) + 1))
    assert events[-1].name == "thread.run.completed"


async def test_what_another_process_writes_is_no_gap(workshop):
    begun = asyncio.Event()

    async def wait() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "x"

    scene = await workshop.start([{"calls": [{"name": "wait", "arguments": {}}]}, "ok"], tools=[wait])
    run = await scene.create()
    reading = asyncio.ensure_future(read(scene.runs.follow(run.id)))
    await begun.wait()
    other = workshop.open(["never"])
    await other.runs.cancel(run.id)
    events = await asyncio.wait_for(reading, 10)
    assert committed(events) == list(range(1, len(committed(events)) + 1))
    assert [e.name for e in events][-1] == "thread.run.cancelled"
    assert "thread.run.cancelling" in [e.name for e in events]


async def test_following_goes_on_over_a_wait_for_the_client(workshop):
    ask = FunctionTool(name="ask", runs="client")
    scene = await workshop.start(
        [{"calls": [{"name": "ask", "id": "a", "arguments": {}}]}, "ok"], tools=[ask]
    )
    run = await scene.create()
    reading = asyncio.ensure_future(read(scene.runs.follow(run.id)))
    rest = await asyncio.wait_for(read(scene.runs.follow(run.id, until_rest=True)), 10)
    assert rest[-1].name == "thread.run.requires_action"
    await scene.runs.submit_tool_outputs(run.id, [{"tool_call_id": "a", "output": "x"}])
    events = await asyncio.wait_for(reading, 10)
    assert [e.name for e in events][-1] == "thread.run.completed"
    assert committed(events) == list(range(1, len(committed(events)) + 1))


async def test_readers_who_wait_cost_nothing_while_others_are_served(workshop, monkeypatch):
    """They are told of their own run; only what another process writes makes them look."""
    ask = FunctionTool(name="ask", runs="client")
    scene = await workshop.start(
        [{"calls": [{"name": "ask", "id": "a", "arguments": {}}]}, "ok"], tools=[ask]
    )
    run = await scene.create()
    await read(scene.runs.follow(run.id, until_rest=True))
    store = scene.treadle.store
    looks = 0
    events = store.events

    async def counted(*given, **named):
        nonlocal looks
        looks += 1
        return await events(*given, **named)

    monkeypatch.setattr(store, "events", counted)
    readers = [asyncio.ensure_future(read(scene.runs.follow(run.id))) for _ in range(20)]
    while looks < 2 * len(readers):  # The second time is the first look, which comes soon.
        await asyncio.sleep(0.01)
    for _ in range(20):
        await scene.treadle.threads.create()
        await asyncio.sleep(0)

    assert looks == 2 * len(readers)

    await workshop.open(["never"]).threads.create()
    while looks < 3 * len(readers):
        await asyncio.sleep(0.01)
    await scene.runs.submit_tool_outputs(run.id, [{"tool_call_id": "a", "output": "x"}])
    for given in await asyncio.wait_for(asyncio.gather(*readers), 10):
        assert committed(given) == list(range(1, len(committed(given)) + 1))
        assert given[-1].name == "thread.run.completed"


async def test_a_reader_who_is_too_slow_is_cut_off_and_can_go_on(workshop, monkeypatch):
    monkeypatch.setattr(streams, "MOST", 5)
    scene = await workshop.start([CALL] * 6 + ["the end"], tools=[step])
    run = await scene.create()
    got = []

    async def read_slowly():
        async with aclosing(scene.runs.follow(run.id)) as events:
            async for event in events:
                got.append(event)
                await scene.runs.wait(run.id)

    with pytest.raises(StreamCut) as cut:
        await read_slowly()
    assert (await scene.runs.get(run.id)).status == "completed"
    assert cut.value.after == committed(got)[-1]
    rest = await read(scene.runs.follow(run.id, after=cut.value.after))
    assert committed(got + rest) == list(range(1, len(committed(got + rest)) + 1))
    assert rest[-1].name == "thread.run.completed"


async def test_a_run_in_line_can_be_followed_before_its_turn(workshop):
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "x"

    scene = await workshop.start(
        [{"calls": [{"name": "wait", "arguments": {}}]}, "one", "two"], tools=[wait], clock=FrozenClock()
    )
    await scene.create()
    reading = asyncio.ensure_future(
        read(scene.runs.stream(scene.thread_id, agent=scene.agent, on_busy="queue"))
    )
    await asyncio.sleep(0.05)
    assert not reading.done()
    gate.set()
    events = await asyncio.wait_for(reading, 10)
    assert events[-1].name == "thread.run.completed"


async def test_a_reader_who_is_slower_than_the_run_gets_pieces_in_their_places(workshop):
    """What was committed meanwhile is in the store; it is told where it was published, after the pieces that led to it."""
    scene = await workshop.start([CALL, "One two three."], tools=[step])
    run = await scene.create()
    follower = scene.runs.followed(run)
    await scene.runs.wait(run.id)
    events = await read(scene.runs.follow(run.id, follower=follower))
    assert committed(events) == list(range(1, len(committed(events)) + 1))
    names = [event.name for event in events]
    assert names.count("thread.message.delta") == 3
    whole = names.index("thread.message.completed")
    assert names[whole - 4 : whole] == ["thread.message.delta"] * 3 + ["thread.run.step.completed"]
    assert names[-1] == "thread.run.completed"


async def test_a_reader_with_more_waiting_than_one_page_comes_to_an_end(workshop, monkeypatch):
    monkeypatch.setattr("treadle.service.watched_runs.PAGE", 1)
    scene = await workshop.start([CALL, "One."], tools=[step])
    run = await scene.create()
    follower = scene.runs.followed(run)
    await scene.runs.wait(run.id)
    async with asyncio.timeout(10):
        events = await read(scene.runs.follow(run.id, follower=follower))
    assert committed(events) == list(range(1, len(committed(events)) + 1))


async def test_a_piece_of_a_message_that_the_reader_has_whole_is_not_told(workshop):
    """Between a commit and its publication a reader can find it in the store, with its pieces still to come."""
    ask = {"text": "Let me see.", "calls": [{"name": "ask", "arguments": {}, "id": "a"}]}
    scene = await workshop.start([ask, "Done."], tools=[FunctionTool(name="ask", parameters={})])
    run = await scene.run()
    stored = await scene.treadle.store.events("default", run.id)
    message = next(e.object_id for e in stored if e.name == "thread.message.completed")
    follower = scene.runs.followed(run)
    late = [
        Event(run.id, "thread.run.step.in_progress", "late", {"kind": "model_call"}),
        Event(run.id, "thread.message.delta", message, {"index": 0, "text": "Let me"}),
    ]
    scene.treadle.stream.publish(run.id, late[:1])
    scene.treadle.stream.publish(run.id, late[1:], path="late")
    reading = asyncio.ensure_future(read(scene.runs.follow(run.id, follower=follower)))
    await scene.runs.submit_tool_outputs(run.id, [{"tool_call_id": "a", "output": "1"}])
    events = await reading
    assert events[-1].name == "thread.run.completed"
    assert [e for e in events if e.name == "thread.message.delta" and e.object_id == message] == []


async def test_what_is_published_after_a_reader_had_it_from_the_store_is_not_told_again(workshop):
    """A commit is in the store before it is published: a reader may come in between."""
    gate = asyncio.Event()

    async def step() -> str:
        await gate.wait()
        return "done"

    scene = await workshop.start(SCRIPT, tools=[step])
    run = await scene.create()
    numbers = []

    async def read():
        async with aclosing(scene.runs.follow(run.id)) as given:
            async for event in given:
                numbers.extend([event.seq] if event.seq is not None else [])

    reading = asyncio.ensure_future(read())
    async with asyncio.timeout(10):
        while not numbers or numbers[-1] < await scene.treadle.store.last_event("default", run.id):
            await asyncio.sleep(0)
        late = await scene.treadle.store.events("default", run.id)
        scene.treadle.stream.publish(run.id, late[-1:])
        gate.set()
        await reading
    assert numbers == list(range(1, len(numbers) + 1))
