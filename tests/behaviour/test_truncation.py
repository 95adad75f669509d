"""What the model is sent of a long thread: the first message and the tail, and never half of a call."""

import pytest

from treadle.objects.agent import ThreadSpec
from treadle.testing.fakes import ScriptedProvider


def small_window(folder, tokens=1000):
    (folder / "treadle.yaml").write_text(
        f"kind: project\nmodels:\n  small: {{id: scripted, context_window: {tokens}}}\n"
    )


def look(n: int) -> str:
    """Look."""
    return f"{n} " * 100


async def talk(workshop, turns, **spec):
    """Hold a conversation with a tool in each turn."""

    def reply(request):
        if request.messages[-1].role == "tool":
            return f"answer {sum(m.role == 'assistant' for m in request.messages)}"
        return {"calls": [{"name": "look", "arguments": {"n": n}} for n in range(2)]}

    scene = await workshop.start(
        ScriptedProvider(reply, record=True), tools=[look], text="The very first", **spec
    )
    for turn in range(turns):
        await scene.run()
        await scene.say(f"turn {turn} " + "x" * 200)
    return scene


def check_whole(messages):
    """Every call has its result right behind it, in order, and every result its call."""
    waiting = []
    for m in messages:
        if m.role == "tool":
            assert waiting, "a result without its call"
            assert waiting.pop(0) == (m.reply_seq, m.call_index)
            continue
        assert not waiting, "a call without its result"
        waiting = [(m.seq, i) for i in range(len(m.tool_calls))]
    assert not waiting


async def test_auto_keeps_the_first_message_and_the_tail_and_never_half_of_a_call(workshop):
    small_window(workshop.folder)
    scene = await talk(workshop, 12, model="small")
    for request in scene.requests:
        check_whole(request.messages)
    last = scene.requests[-1].messages
    assert last[0].plain == "The very first"
    assert last[1].seq > 10
    assert sorted(m.seq for m in last[1:]) == list(range(last[1].seq, len(last) - 1 + last[1].seq))
    assert sum(m.tokens for m in last) <= 1000


async def test_a_thread_that_fits_is_sent_whole(workshop):
    scene = await talk(workshop, 5)
    assert sorted(m.seq for m in scene.requests[-1].messages) == list(
        range(1, len(scene.requests[-1].messages) + 1)
    )


async def test_last_messages_keeps_so_many_units(workshop):
    scene = await talk(workshop, 6, thread=ThreadSpec(truncation="last", keep_last=3))
    for request in scene.requests[4:]:
        check_whole(request.messages)
        assert sum(m.role != "tool" for m in request.messages) == 3
    assert scene.requests[-1].messages[0].plain != "The very first"


async def test_a_run_may_choose_its_own_truncation(workshop):
    scene = await talk(workshop, 3)
    await scene.run(thread=ThreadSpec(truncation="last", keep_last=1))
    assert [m.plain[:6] for m in scene.requests[-2].messages if m.role == "user"] == ["turn 2"]


async def test_the_newest_message_is_sent_even_where_it_does_not_fit(workshop):
    small_window(workshop.folder, 300)
    scene = await workshop.start(ScriptedProvider(["ok"], record=True), model="small", text="y" * 5000)
    assert (await scene.run()).status == "completed"
    assert [m.plain for m in scene.requests[0].messages] == ["y" * 5000]


async def test_a_first_message_that_does_not_fit_beside_the_newest_is_dropped(workshop):
    small_window(workshop.folder, 600)
    scene = await workshop.start(ScriptedProvider(["ok", "ok"], record=True), model="small", text="y" * 1500)
    await scene.run()
    await scene.say("z" * 1500)
    await scene.run()
    assert [m.plain[0] for m in scene.requests[1].messages] == ["z"]


async def test_what_the_model_counted_scales_the_next_estimate(workshop):
    """A model that counts three times as many tokens as estimated is sent a third of the rows."""
    small_window(workshop.folder, 4000)
    counted = []

    def reply(request):
        tokens = 3 * sum(m.tokens for m in request.messages)
        counted.append(len(request.messages))
        done = len(counted) % 3 == 0
        body = {"text": "ok"} if done else {"calls": [{"name": "look", "arguments": {"n": 1}}]}
        return body | {"usage": {"prompt_tokens": tokens, "completion_tokens": 1}}

    scene = await workshop.start(
        ScriptedProvider(reply, record=True), model="small", tools=[look], text="first"
    )
    for n in range(40):
        await scene.treadle.messages.create(scene.thread_id, role="user", content=f"{n} " + "w" * 250)
    await scene.run()
    assert counted[0] >= 39
    assert counted[1] < counted[0] // 2
    check_whole(scene.requests[-1].messages)


async def test_a_greeting_of_the_assistant_is_dropped_before_the_first_user_message(workshop):
    small_window(workshop.folder, 400)
    scene = await workshop.start(ScriptedProvider(["ok"], record=True), model="small")
    thread = await scene.treadle.threads.create(
        messages=[{"role": "assistant", "content": "Welcome! " * 20}, {"content": "The task."}]
        + [{"content": "w" * 200} for _ in range(8)]
    )
    await scene.runs.create_and_wait(thread.id, agent=scene.agent)
    assert scene.requests[0].messages[0].plain == "The task."
    assert len(scene.requests[0].messages) < 9


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 127, 128, 129, 200])
async def test_threads_of_every_length_are_read_right(workshop, count):
    scene = await workshop.start(ScriptedProvider(["ok"], record=True))
    thread = await scene.treadle.threads.create(messages=[{"content": f"m{n}"} for n in range(count)])
    await scene.runs.create_and_wait(thread.id, agent=scene.agent)
    assert [m.plain for m in scene.requests[0].messages] == [f"m{n}" for n in range(count)]
