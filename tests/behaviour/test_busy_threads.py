"""A second run, or a message, for a thread that is busy: refused, or in line for its turn."""

import asyncio

import pytest

from treadle.errors import Conflict, StateError, ThreadBusy
from treadle.objects.project import Project, ProjectDefaults, ProjectSpec
from treadle.objects.tool import FunctionTool
from treadle.testing.fakes import FrozenClock


class Gate:
    """A tool that waits until it is let go."""

    def __init__(self):
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    def tool(self):
        async def wait() -> str:
            """Wait."""
            self.begun.set()
            await self.go.wait()
            return "waited"

        return wait


async def busy(workshop, *, clock=None, script=None, **options):
    """Give a scene whose thread has a run that is under way."""
    gate = Gate()
    script = script or [{"calls": [{"name": "wait", "arguments": {}}]}, "first", "second", "third", "fourth"]
    scene = await workshop.start(script, tools=[gate.tool()], clock=clock or FrozenClock(), **options)
    run = await scene.create()
    await gate.begun.wait()
    return scene, run, gate


async def test_a_second_run_is_refused_unless_it_may_wait(workshop):
    scene, run, gate = await busy(workshop)
    with pytest.raises(ThreadBusy, match=run.id):
        await scene.create()
    with pytest.raises(ThreadBusy, match=run.id):
        await scene.say("More.")
    gate.go.set()
    await scene.runs.wait(run.id)


async def test_runs_in_line_have_their_turn_in_order(workshop):
    scene, first, gate = await busy(workshop)
    second = await scene.create(on_busy="queue", additional_messages=[{"role": "user", "content": "two"}])
    third = await scene.create(on_busy="queue", additional_messages=[{"role": "user", "content": "three"}])
    assert [(r.status, r.in_line, r.walker) for r in (second, third)] == [("queued", True, None)] * 2
    assert [text for role, text in await scene.texts() if role == "user"] == ["Hello"]
    gate.go.set()
    ended = [await scene.runs.wait(r.id, timeout_s=10) for r in (first, second, third)]
    assert [(r.status, r.output) for r in ended] == [
        ("completed", "first"), ("completed", "second"), ("completed", "third"),
    ]  # fmt: skip
    assert [(role, text) for role, text in await scene.texts() if role != "tool" and text] == [
        ("user", "Hello"), ("assistant", "first"), ("user", "two"), ("assistant", "second"), ("user", "three"),
        ("assistant", "third"),
    ]  # fmt: skip
    assert ended[1].first_seq == 6


async def test_messages_in_line_keep_their_id_and_their_order(workshop):
    scene, first, gate = await busy(workshop)
    messages = scene.treadle.messages
    early = await messages.create(scene.thread_id, content="early", on_busy="queue")
    second = await scene.create(on_busy="queue")
    late = await messages.create(scene.thread_id, content="late", on_busy="queue", metadata={"a": "b"})
    assert [(m.seq, m.id != "") for m in (early, late)] == [(0, True), (0, True)]
    assert (await messages.get(late.id)).plain == "late"
    await messages.update(late.id, metadata={"a": "c"})
    gate.go.set()
    await scene.runs.wait(second.id, timeout_s=10)
    assert [(role, text) for role, text in await scene.texts() if role != "tool" and text] == [
        ("user", "Hello"), ("assistant", "first"), ("user", "early"), ("assistant", "second"), ("user", "late"),
    ]  # fmt: skip
    kept = await messages.get(late.id)
    assert (kept.id, kept.seq, kept.metadata) == (late.id, 7, {"a": "c"})
    listed = await messages.list(scene.thread_id, order="asc")
    assert [m.id for m in listed][2::2] == [early.id, late.id]
    after = await messages.list(scene.thread_id, order="asc", after=early.id)
    assert [m.plain for m in after] == ["second", "late"]
    await messages.update(late.id, metadata={"a": "d"})
    assert (await messages.get(late.id)).metadata == {"a": "d"}
    assert first.id != second.id


async def test_a_free_thread_takes_what_may_wait_at_once(workshop):
    scene = await workshop.start(["ok"])
    message = await scene.treadle.messages.create(scene.thread_id, content="x", on_busy="queue")
    assert message.seq == 2
    run = await scene.create(on_busy="queue")
    assert (run.status, run.in_line) == ("in_progress", False)
    await scene.runs.wait(run.id)


async def test_the_project_says_what_a_busy_thread_does(workshop, tmp_path):
    spec = ProjectSpec(defaults=ProjectDefaults(on_busy="queue"))
    scene, first, gate = await busy(workshop, project=Project(spec, tmp_path))
    second = await scene.create()
    assert second.in_line
    with pytest.raises(ThreadBusy):
        await scene.create(on_busy="reject")
    gate.go.set()
    assert (await scene.runs.wait(second.id, timeout_s=10)).status == "completed"
    assert (await scene.runs.wait(first.id)).status == "completed"


async def test_a_run_in_line_can_be_cancelled_and_the_next_moves_up(workshop):
    scene, _, gate = await busy(workshop)
    second = await scene.create(on_busy="queue", additional_messages=[{"role": "user", "content": "two"}])
    third = await scene.create(on_busy="queue")
    await scene.runs.cancel(second.id)
    assert (await scene.runs.get(second.id)).status == "cancelled"
    with pytest.raises(StateError, match="queued"):
        await scene.runs.resume(third.id)
    gate.go.set()
    assert (await scene.runs.wait(third.id, timeout_s=10)).output == "second"
    assert ("user", "two") in await scene.texts()


async def test_a_run_in_line_expires_on_its_own_time(workshop):
    clock = FrozenClock()
    scene, first, gate = await busy(workshop, clock=clock)
    second = await scene.create(on_busy="queue", ttl="10s")
    clock.advance(11)
    assert (await scene.treadle.recover()).expired == 1
    assert (await scene.runs.get(second.id)).status == "expired"
    gate.go.set()
    assert (await scene.runs.wait(first.id)).status == "completed"


async def test_a_cancelled_run_gives_the_turn_on(workshop):
    scene, first, _ = await busy(workshop, script=_by_turn)
    second = await scene.create(on_busy="queue")
    await scene.runs.cancel(first.id)
    assert (await scene.runs.wait(second.id, timeout_s=10)).status == "completed"


def _by_turn(request):
    answered = any(row.role == "tool" for row in request.messages)
    return "ok" if answered else {"calls": [{"name": "wait", "arguments": {}}]}


async def test_a_line_survives_its_process(workshop):
    clock, other = FrozenClock(), FrozenClock()
    scene, _, _ = await busy(workshop, clock=clock)
    second = await scene.create(on_busy="queue", additional_messages=[{"role": "user", "content": "two"}])
    other.advance(16)

    async def wait() -> str:
        return "x"

    async with workshop.open(["one", "two"], clock=other, tools=[wait], walk=True) as worker:
        ended = await worker.runs.wait(second.id, timeout_s=10)
    assert (ended.status, ended.output) == ("completed", "two")


async def test_the_same_key_gives_the_same_message(workshop):
    scene = await workshop.start(["ok"])
    create = scene.treadle.messages.create
    first = await create(scene.thread_id, content="x", key="k", metadata={"a": "1", "b": "2"})
    again = await create(scene.thread_id, content="x", key="k", metadata={"b": "2", "a": "1"})
    assert first.id == again.id
    assert len(await scene.rows()) == 2
    with pytest.raises(Conflict, match="'k' was used for something else"):
        await create(scene.thread_id, content="y", key="k")
    other = await create(scene.thread_id, content="x", key="other")
    assert other.id != first.id


async def test_the_same_key_gives_the_same_run(workshop):
    scene = await workshop.start(["ok", "again"])
    runs = await asyncio.gather(*(scene.create(key="k") for _ in range(4)))
    assert len({r.id for r in runs}) == 1
    await scene.runs.wait(runs[0].id)
    later = await scene.create(key="k")
    assert (later.id, later.status, later.output) == (runs[0].id, "completed", "ok")
    with pytest.raises(Conflict, match="something else"):
        await scene.create(key="k", model="scripted")
    with pytest.raises(StateError, match="256"):
        await scene.create(key="")
    assert len(await scene.runs.list()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"additional_messages": [{"content": "b"}]},
        {"additional_messages": []},
        {"metadata": {"a": "2"}},
        {"inputs": {"name": "Bea"}},
        {"ttl": "2m"},
        {"on_busy": "reject"},
        {"temperature": 0.5},
        {"thread_id": None},
        {"agent": "another"},
    ],
)
async def test_a_key_stands_for_all_that_was_asked(workshop, other):
    scene = await workshop.start(["ok"], inputs={"name": {"type": "string", "default": "Ada"}})
    another = await scene.treadle.agents.create(model="scripted", inputs=scene.agent.spec.inputs)
    asked = {
        "thread_id": scene.thread_id, "agent": scene.agent.id, "additional_messages": [{"content": "a"}],
        "metadata": {"a": "1"}, "inputs": {"name": "Ada"}, "ttl": "1m", "on_busy": "queue", "temperature": 0.1,
    }  # fmt: skip
    first = await scene.runs.create(**asked, key="k")
    assert (await scene.runs.create(**asked, key="k")).id == first.id
    changed = other if "agent" not in other else {"agent": another.id}
    with pytest.raises(Conflict, match="something else"):
        await scene.runs.create(**(asked | changed), key="k")
    await scene.runs.wait(first.id)
    assert len(await scene.runs.list()) == 1


async def test_a_key_that_failed_was_not_used(workshop):
    scene, run, gate = await busy(workshop)
    with pytest.raises(ThreadBusy):
        await scene.create(key="k")
    gate.go.set()
    await scene.runs.wait(run.id)
    assert (await scene.create(key="k")).id != run.id
    await scene.treadle.runs.settle()


async def test_keys_are_forgotten_after_a_day(workshop):
    clock = FrozenClock()
    scene = await workshop.start(["ok"], clock=clock)
    first = await scene.treadle.messages.create(scene.thread_id, content="x", key="k")
    clock.advance(25 * 3600)
    await scene.treadle.recover()
    again = await scene.treadle.messages.create(scene.thread_id, content="x", key="k")
    assert again.id != first.id


async def test_a_run_that_may_take_for_ever(workshop, tmp_path):
    spec = ProjectSpec(defaults=ProjectDefaults(run_ttl="10m"))
    scene = await workshop.start(["a", "b", "c"], project=Project(spec, tmp_path))
    assert (await scene.run()).expires_ms is not None
    assert (await scene.run(ttl="0")).expires_ms is None
    with pytest.raises(StateError, match="ttl"):
        await scene.run(ttl="soon")


async def test_a_run_whose_time_is_over_holds_no_thread(workshop):
    clock = FrozenClock()
    ask = FunctionTool(name="ask", runs="client")
    scene = await workshop.start(
        [{"calls": [{"name": "ask", "arguments": {}}]}, "ok"], tools=[ask], clock=clock
    )
    run = await scene.run(ttl="10m")
    assert run.status == "requires_action"
    clock.advance(599)
    with pytest.raises(ThreadBusy):
        await scene.say("Still there?")
    clock.advance(2)
    await scene.say("Still there?")
    assert (await scene.runs.get(run.id)).status == "expired"
    assert (await scene.run()).output == "ok"
