"""A run: what the model says and asks for becomes rows, steps and an end that says why."""

import asyncio
import threading

import pytest

from treadle.errors import ProviderError, StateError, ThreadBusy
from treadle.objects.agent import Instructions
from treadle.objects.message import ToolCall
from treadle.objects.tool import FunctionTool, Retry
from treadle.providers.base import ModelReply, TextDelta
from treadle.service import Treadle
from treadle.store.sqlite import SqliteStore
from treadle.testing.fakes import FrozenClock


def call(name, id_=None, /, **arguments):
    return {"name": name, "arguments": arguments} | ({"id": id_} if id_ else {})


def get_weather(city: str) -> dict:
    """Get the weather of a city."""
    return {"city": city, "celsius": 11}


async def test_a_plain_turn_appends_the_answer_and_completes(workshop):
    scene = await workshop.start(["Good day."])
    run = await scene.run()
    assert (run.status, run.output, run.last_error, run.incomplete_reason) == (
        "completed",
        "Good day.",
        None,
        None,
    )
    assert await scene.texts() == [("user", "Hello"), ("assistant", "Good day.")]
    steps = await scene.runs.steps(run.id)
    assert [(s.path, s.status) for s in steps] == [
        ("model_call#1", "completed"),
        ("append_message#1", "completed"),
    ]
    assert run.usage.total_tokens > 0
    assert run.usage.estimated


async def test_the_second_turn_sees_the_first(workshop):
    scene = await workshop.start(["one", "two"])
    await scene.run()
    await scene.say("And then?")
    await scene.run()
    assert [m.plain for m in scene.requests[1].messages] == ["Hello", "one", "And then?"]


async def test_tool_rounds_go_on_until_the_model_answers(workshop):
    script = [
        {"calls": [call("get_weather", city="Paris")]},
        {"calls": [call("get_weather", city="Oslo")]},
        "Done.",
    ]
    scene = await workshop.start(script, tools=[get_weather])
    run = await scene.run()
    assert run.output == "Done."
    assert [s.path for s in await scene.runs.steps(run.id)] == [
        "model_call#1", "tool_call#1/0", "model_call#2", "tool_call#2/0", "model_call#3", "append_message#1",
    ]  # fmt: skip
    assert await scene.results() == ['{"city": "Paris", "celsius": 11}', '{"city": "Oslo", "celsius": 11}']
    asked = scene.requests[1].messages
    assert [(m.role, m.call_index) for m in asked] == [("user", None), ("assistant", None), ("tool", 0)]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 3, 1)])
async def test_parallel_calls_are_sent_in_order_of_the_calls_whatever_order_they_end_in(workshop, order):
    gates = [asyncio.Event() for _ in range(5)]

    async def wait_for(place: int) -> str:
        await gates[place].wait()
        return f"result {place}"

    async def open_gates(scene):
        for place in order:
            gates[place].set()
            while len(await scene.results()) <= order.index(place):
                await asyncio.sleep(0)

    scene = await workshop.start(
        [{"calls": [call("wait_for", place=i) for i in range(5)]}, "Done."], tools=[wait_for]
    )
    created = await scene.create()
    await open_gates(scene)
    run = await scene.runs.wait(created.id)
    assert run.output == "Done."
    assert await scene.results() == [f"result {place}" for place in order]
    assert [m.text for m in scene.requests[1].messages[2:]] == [f"result {i}" for i in range(5)]


async def test_sync_tools_of_one_reply_run_at_the_same_time(workshop):
    barrier = threading.Barrier(3, timeout=10)

    def meet(name: str) -> str:
        barrier.wait()
        return name

    scene = await workshop.start([{"calls": [call("meet", name=n) for n in "abc"]}, "Met."], tools=[meet])
    assert (await scene.run()).output == "Met."
    assert sorted(await scene.results()) == ["a", "b", "c"]


async def test_a_tools_error_goes_to_the_model_in_a_line(workshop):
    def explode(what: str) -> str:
        raise ValueError(f"no {what}\nreally")

    scene = await workshop.start([{"calls": [call("explode", what="luck")]}, "Sorry."], tools=[explode])
    run = await scene.run()
    assert run.status == "completed"
    assert await scene.results() == ['{"error": "explode: ValueError: no luck really"}']
    step = (await scene.runs.steps(run.id))[1]
    assert (step.status, step.last_error.code) == ("completed", "tool_error")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"name": "get_wether", "arguments": {"city": "Oslo"}},
            "there is no tool 'get_wether'; the tools are: get_weather",
        ),
        ({"name": "get_weather", "arguments": {}}, '"city" is a required property'),
        ({"name": "get_weather", "arguments": {"city": 3}}, "is not of type"),
        ({"name": "get_weather", "arguments": {"city": "Oslo", "day": "today"}}, "Additional properties"),
        ({"name": "get_weather", "arguments": "{'city': 'Oslo'}"}, "not JSON"),
        ({"name": "get_weather", "arguments": "[1]"}, "must be a JSON object"),
        ({"name": "get_weather", "arguments": "null"}, "must be a JSON object"),
        ({"name": "get_weather", "arguments": '{"city": "\\ud800"}'}, "half a character"),
        ({"name": "get_weather", "arguments": '{"city": "A", "city": "B"}'}, "stands twice"),
    ],
)
async def test_what_a_model_gets_wrong_goes_back_to_it_and_nothing_runs(workshop, asked, said):
    ran = []

    def get_weather(city: str) -> str:
        ran.append(city)
        return "fine"

    scene = await workshop.start([{"calls": [asked]}, "I see."], tools=[get_weather])
    run = await scene.run()
    assert run.status == "completed"
    (result,) = await scene.results()
    assert said in result.replace('\\"', '"')
    assert ran == []


async def test_half_characters_of_a_model_are_replaced_where_they_come_in(workshop):
    reply = ModelReply(
        text="a\ud800b\x00c",
        tool_calls=(ToolCall(id="c\ud800", name="get\ud800", arguments='{"a": "\ud800"}'),),
        finish_reason="tool_calls",
    )
    scene = await workshop.start([reply, ModelReply(text="\udfff")], tools=[get_weather])
    run = await scene.run()
    assert run.status == "completed"
    rows = await scene.rows()
    assert rows[1].text == "a�b�c"
    assert rows[1].tool_calls[0] == ToolCall(id="c�", name="get�", arguments='{"a": "�"}')
    assert rows[3].text == "�"


async def test_calls_that_share_an_id_or_have_none_get_their_own(workshop):
    calls = (ToolCall(id="x", name="f", arguments="{}"), ToolCall(id="x", name="f", arguments="{}"),
             ToolCall(id="", name="f", arguments="{}"))  # fmt: skip
    client = FunctionTool(name="f", parameters={"type": "object"})
    scene = await workshop.start(
        [ModelReply(tool_calls=calls, finish_reason="tool_calls"), "ok"], tools=[client]
    )
    run = await scene.run()
    ids = [c.id for c in run.required_action]
    assert len(set(ids)) == 3
    assert ids[0] == "x"
    assert all(ids)
    await scene.runs.submit_tool_outputs(run.id, [{"tool_call_id": i, "output": "1"} for i in ids])
    assert (await scene.runs.wait(run.id)).status == "completed"


async def test_calls_and_text_in_one_reply_are_both_kept(workshop):
    scene = await workshop.start(
        [{"text": "Let me look.", "calls": [call("get_weather", city="Rome")]}, "11."], tools=[get_weather]
    )
    await scene.run()
    assert [m.text for m in await scene.treadle.messages.list(scene.thread_id, order="asc")] == [
        "Hello", "Let me look.", "11.",
    ]  # fmt: skip


async def test_two_hundred_parallel_calls_are_all_answered(workshop):
    script = [{"calls": [call("count", n=i) for i in range(200)]}, "Counted."]

    async def count(n: int) -> int:
        return n

    scene = await workshop.start(script, tools=[count], limits={"max_steps": 300, "max_tool_calls": 200})
    assert (await scene.run()).output == "Counted."
    assert [m.text for m in scene.requests[1].messages[2:]] == [str(i) for i in range(200)]


# -- output ------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


async def test_structured_output_is_the_value(workshop):
    scene = await workshop.start([{"json": {"n": 3}}], output={"schema": SCHEMA})
    run = await scene.run()
    assert run.output == {"n": 3}
    assert (await scene.runs.get(run.id)).output == {"n": 3}
    assert scene.requests[0].output_schema == SCHEMA


@pytest.mark.parametrize(
    "text", ['{"n": "three"}', "three", '{"n": NaN}', "[" * 300 + "]" * 300, "[" * 100_000]
)
async def test_an_answer_that_does_not_fit_fails_the_run_as_invalid_output(workshop, text):
    scene = await workshop.start([text, "again"], output={"schema": SCHEMA})
    run = await scene.run()
    assert (run.status, run.last_error.code) == ("failed", "invalid_output")
    assert "does not fit the agent's output schema" in run.last_error.message
    assert (await scene.texts())[-1] == ("assistant", text)


async def test_a_run_may_bring_its_own_output_schema(workshop):
    scene = await workshop.start([{"json": {"n": 3}}])
    assert (await scene.run(output={"schema": SCHEMA})).output == {"n": 3}


@pytest.mark.parametrize("value", [0, False, "", [], None])
async def test_an_empty_value_is_an_output_too(workshop, value):
    scene = await workshop.start([{"json": value}], output={"schema": {}})
    run = await scene.run()
    assert run.status == "completed"
    assert run.output == value
    assert (await scene.runs.get(run.id)).output == value


# -- providers ---------------------------------------------------------------------------------------------------


async def test_a_providers_error_fails_the_run_with_its_text(workshop):
    scene = await workshop.start([{"error": {"kind": "rate_limit", "message": "slow down \ud800"}}, "later"])
    run = await scene.run()
    assert (run.status, run.last_error.code) == ("failed", "rate_limit")
    assert run.last_error.message == "slow down �"
    await scene.say("again")
    assert (await scene.run()).status == "completed"


async def test_a_provider_that_breaks_fails_the_run_all_the_same(workshop):
    def broken(request):
        raise KeyError("choices")

    scene = await workshop.start(broken)
    run = await scene.run()
    assert (run.status, run.last_error.code) == ("failed", "server_error")
    assert run.last_error.message == "KeyError: 'choices'"


async def test_every_failed_attempt_of_a_model_call_is_a_step(workshop):
    clock = FrozenClock()
    down = {"error": {"kind": "http_503", "message": "down"}}
    retry = Retry(max_attempts=3, initial_delay="2s", jitter="none", backoff=3)
    scene = await workshop.start([down, down, "up"], retry=retry, clock=clock)
    run = await scene.run()
    assert run.output == "up"
    steps = await scene.runs.steps(run.id)
    assert [(s.path, s.attempt, s.status, s.edge) for s in steps] == [
        ("model_call#1", 1, "failed", "retry"),
        ("model_call#1", 2, "failed", "retry"),
        ("model_call#1", 3, "completed", "text"),
        ("append_message#1", 1, "completed", None),
    ]
    assert steps[0].last_error.message == "down"
    assert clock.elapsed_s == 2 + 6


async def test_retry_after_is_honoured_and_attempts_end(workshop):
    clock = FrozenClock()
    busy = ProviderError("busy", kind="rate_limit", retry_after_s=30)
    scene = await workshop.start(
        [busy, busy, busy], clock=clock, retry=Retry(max_attempts=3, initial_delay="1s", jitter="none")
    )
    run = await scene.run()
    assert (run.status, run.last_error.code) == ("failed", "rate_limit")
    assert clock.elapsed_s == 60
    assert [s.attempt for s in await scene.runs.steps(run.id)] == [1, 2, 3]


async def test_an_error_that_no_rule_repeats_is_not_repeated(workshop):
    wrong = {"error": {"kind": "http_400", "message": "bad request"}}
    scene = await workshop.start([wrong, "never"], retry=Retry(max_attempts=5))
    assert (await scene.run()).last_error.code == "http_400"
    assert len(scene.requests) == 1


async def test_waiting_for_an_endpoint_ends_with_the_runs_time(workshop):
    clock = FrozenClock()
    busy = ProviderError("busy", kind="rate_limit", retry_after_s=3600)
    scene = await workshop.start(
        [busy, "late"], clock=clock, retry=Retry(max_attempts=3), limits={"timeout": "10s"}
    )
    run = await scene.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "timeout")
    assert clock.elapsed_s == 10


async def test_a_prompt_that_is_too_long_is_halved_once(workshop):
    too_long = {"error": {"kind": "context_length", "message": "too long"}}
    scene = await workshop.start([*["fine"] * 9, too_long, "short enough"])
    for _ in range(9):
        await scene.run()
        await scene.say("x" * 4000)
    run = await scene.run()
    assert run.output == "short enough"
    sent = [len(r.messages) for r in scene.requests[-2:]]
    assert sent[0] == 19
    assert sent[1] < 12
    assert scene.requests[-1].messages[0].plain == "Hello"
    assert (await scene.runs.steps(run.id))[0].note == "the prompt did not fit; the window was halved"


async def test_a_prompt_that_does_not_fit_halved_fails(workshop):
    too_long = {"error": {"kind": "context_length", "message": "too long"}}
    scene = await workshop.start([too_long, too_long, "never"])
    run = await scene.run()
    assert (run.status, run.last_error.code) == ("failed", "context_length")
    assert len(scene.requests) == 2


@pytest.mark.parametrize(
    ("reply", "reason", "message_reason"),
    [
        ({"text": "It is", "finish_reason": "length"}, "max_completion_tokens", "max_tokens"),
        ({"text": "", "calls": [{"name": "get_weather", "arguments": '{"ci'}], "finish_reason": "length"}, "max_completion_tokens", "max_tokens"),
        ({"text": "I must", "finish_reason": "content_filter"}, "content_filter", "content_filter"),
        ({"text": "", "calls": [call("get_weather", city="Rome")], "finish_reason": "content_filter"}, "content_filter", "content_filter"),
    ],
)  # fmt: skip
async def test_a_reply_that_is_cut_short_leaves_an_incomplete_message(
    workshop, reply, reason, message_reason
):
    scene = await workshop.start([reply, "more"], tools=[get_weather])
    run = await scene.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", reason)
    (message, *_) = await scene.treadle.messages.list(scene.thread_id)
    assert (message.status, message.incomplete_reason, message.tool_calls) == (
        "incomplete",
        message_reason,
        (),
    )
    await scene.say("go on")
    assert (await scene.run()).output == "more"


async def test_a_model_that_says_nothing_still_answers(workshop):
    scene = await workshop.start([ModelReply(text=None), ModelReply(text="")])
    for _ in range(2):
        assert (await scene.run()).output == ""


# -- tools and the journal ---------------------------------------------------------------------------------------


async def test_the_intent_of_a_call_is_committed_before_it_is_dispatched(workshop):
    seen = []

    async def observe() -> str:
        other = SqliteStore(workshop.path)
        (run,) = await other.list(__import__("treadle.objects.run").objects.run.Run, "default")
        seen.extend((s.path, s.status, s.edge) for s in await other.steps("default", run.id))
        await other.close()
        return "seen"

    scene = await workshop.start([{"calls": [call("observe")]}, "ok"], tools=[observe])
    await scene.run()
    assert seen == [
        ("model_call#1", "completed", "tool_calls"),
        ("tool_call#1/0", "in_progress", "dispatched"),
    ]


async def test_a_pure_tool_needs_no_commit_before_it(workshop):
    seen = []

    async def observe() -> str:
        (run,) = await scene.runs.list()
        seen.extend(s.path for s in await scene.runs.steps(run.id))
        return "seen"

    declared = FunctionTool(name="observe", runs="server", effect="pure")
    scene = await workshop.start([{"calls": [call("observe")]}, "ok"], tools=[declared])
    scene.treadle.callables["observe"] = observe
    await scene.run()
    assert seen == ["model_call#1"]


@pytest.mark.parametrize("first", ["careful", "free"])
async def test_calls_of_different_effects_are_run_together_in_any_order(workshop, first):
    done = {name: asyncio.Event() for name in ("careful", "free")}

    async def work(name: str) -> str:
        other = "free" if name == "careful" else "careful"
        if name != first:
            await done[other].wait()
            while len(await scene.results()) < 1:
                await asyncio.sleep(0)
        done[name].set()
        return name

    async def careful() -> str:
        return await work("careful")

    async def free() -> str:
        return await work("free")

    tools = [
        FunctionTool(name="careful", runs="server"),
        FunctionTool(name="free", runs="server", effect="pure"),
    ]
    scene = await workshop.start([{"calls": [call("careful"), call("free")]}, "ok"], tools=tools)
    scene.treadle.callables.update(careful=careful, free=free)
    assert (await scene.run()).output == "ok"
    assert await scene.results() == [first, "free" if first == "careful" else "careful"]


async def test_a_tool_learns_its_key_and_never_shows_it_to_the_model(workshop):
    keys = []

    def pay(amount: int, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        return "paid"

    scene = await workshop.start(
        [{"calls": [call("pay", amount=1), call("pay", amount=2)]}, "ok"], tools=[pay]
    )
    run = await scene.run()
    assert sorted(keys) == [f"tdl:{run.id}:tool_call#1/0", f"tdl:{run.id}:tool_call#1/1"]
    assert list(scene.requests[0].tools[0].parameters["properties"]) == ["amount"]


async def test_on_error_fail_ends_the_run_with_a_whole_thread(workshop):
    def refund() -> str:
        raise RuntimeError("no money")

    async def wait() -> str:
        await asyncio.Event().wait()
        return "never"

    tools = [
        FunctionTool(name="refund", runs="server", on_error="fail"),
        FunctionTool(name="wait", runs="server"),
    ]
    scene = await workshop.start([{"calls": [call("wait"), call("refund")]}, "ok"], tools=tools)
    scene.treadle.callables.update(refund=refund, wait=wait)
    run = await scene.run()
    assert (run.status, run.last_error.code) == ("failed", "tool_error")
    assert "no money" in run.last_error.message
    assert ["no money" in (r or "") for r in await scene.results()].count(True) == 1
    assert any("outcome unknown" in (r or "") for r in await scene.results())
    await scene.say("and now?")
    assert (await scene.run()).output == "ok"


async def test_the_whole_of_a_cut_result_is_kept(workshop):
    scene = await workshop.start(
        [{"calls": [call("shout")]}, "ok"],
        tools=[FunctionTool(name="shout", runs="server", max_result_chars=100)],
    )
    scene.treadle.callables["shout"] = lambda: "é" * 5000
    run = await scene.run()
    (result,) = await scene.results()
    assert len(result) == 100
    assert result.endswith("[cut: 100 of 5000 characters]")
    step = (await scene.runs.steps(run.id))[1]
    assert await scene.treadle.store.blob("default", step.full_output) == ("é" * 5000).encode()


@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), StopIteration(), asyncio.CancelledError(), RecursionError(), Exception("\ud800")],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_nothing_that_a_tool_raises_stops_the_run(workshop, raised, is_async):
    def fail() -> str:
        raise raised

    async def fail_later() -> str:
        raise raised

    declared = FunctionTool(name="fail", runs="server")
    scene = await workshop.start([{"calls": [call("fail")]}, "Moving on."], tools=[declared])
    scene.treadle.callables["fail"] = fail_later if is_async else fail
    run = await scene.runs.wait((await scene.create()).id, timeout_s=10)
    assert run.output == "Moving on."
    assert "error" in (await scene.results())[0]


async def test_a_broken_schema_of_a_tool_fails_the_run_and_frees_the_thread(workshop):
    broken = FunctionTool(name="f", parameters={"type": "objekt"})
    scene = await workshop.start([{"calls": [call("f")]}, "ok"], tools=[broken])
    run = await scene.run()
    assert run.status == "failed"
    assert "not a JSON Schema" in run.last_error.message
    await scene.say("again")
    assert (await scene.run()).output == "ok"


# -- inputs ------------------------------------------------------------------------------------------------------

INPUTS = {"city": {"type": "string"}, "days": {"type": "integer", "default": 3}}
SAYS = Instructions(template="Weather of {{ city }} for {{ days }} days.")


async def inputs_scene(workshop):
    scene = await workshop.start(["ok"] * 9)
    spec = scene.agent.spec.model_copy(update={"instructions": SAYS})
    spec = type(spec).model_validate(spec.model_dump(by_alias=True) | {"inputs": INPUTS, "name": "weather"})
    scene.agent = await scene.treadle.agents.apply(spec)
    return scene


async def test_inputs_fill_the_instructions_and_defaults_fill_inputs(workshop):
    scene = await inputs_scene(workshop)
    run = await scene.run(inputs={"city": "Oslo"})
    assert run.inputs == {"city": "Oslo", "days": 3}
    assert scene.requests[0].instructions == "Weather of Oslo for 3 days."
    await scene.run(inputs={"city": "{{ days }}", "days": 1})
    assert scene.requests[1].instructions == "Weather of {{ days }} for 1 days."


@pytest.mark.parametrize(
    ("inputs", "said"),
    [({}, "'city' is missing"), ({"city": 3}, "does not fit"), ({"city": "x", "town": 1}, "no input 'town'"),
     ({"city": "x", "days": "3"}, "'days' does not fit")],
)  # fmt: skip
async def test_inputs_that_do_not_fit_are_refused_and_nothing_is_stored(workshop, inputs, said):
    scene = await inputs_scene(workshop)
    with pytest.raises(StateError, match=said):
        await scene.create(inputs=inputs)
    assert await scene.runs.list() == []
    assert (await scene.run(inputs={"city": "Oslo"})).status == "completed"


async def test_the_first_run_of_an_agent_may_be_refused_without_harm(workshop):
    """The graph is stored with the first run that is accepted, not with the first that is tried."""
    scene = await workshop.start(["ok"])
    with pytest.raises(StateError):
        await scene.create(inputs={"unknown": 1})
    assert (await scene.run()).status == "completed"


# -- the thread --------------------------------------------------------------------------------------------------


async def test_a_thread_has_one_active_run_and_takes_no_messages_meanwhile(workshop):
    client = FunctionTool(name="ask", parameters={"type": "object"})
    scene = await workshop.start([{"calls": [call("ask")]}], tools=[client])
    run = await scene.run()
    with pytest.raises(ThreadBusy, match=run.id):
        await scene.create()
    with pytest.raises(ThreadBusy, match=run.id):
        await scene.create(additional_messages=[{"content": "more"}])
    with pytest.raises(ThreadBusy, match=run.id):
        await scene.say("more")
    with pytest.raises(ThreadBusy):
        await scene.treadle.threads.delete(scene.thread_id)
    assert len(await scene.rows()) == 2


async def test_of_many_runs_created_at_once_one_is_accepted(workshop):
    client = FunctionTool(name="ask", parameters={"type": "object"})
    scene = await workshop.start([{"calls": [call("ask")]}], tools=[client])
    made = await asyncio.gather(*(scene.create() for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(m, ThreadBusy) for m in made) == 19
    (run,) = [m for m in made if not isinstance(m, BaseException)]
    assert (await scene.runs.wait(run.id)).status == "requires_action"


async def test_many_threads_are_walked_at_once(workshop):
    scene = await workshop.start(lambda request: request.messages[-1].plain.upper(), text="x")

    async def one(n: int) -> str:
        thread = await scene.treadle.threads.create(messages=[{"content": f"thread {n}"}])
        return (await scene.runs.create_and_wait(thread.id, agent=scene.agent)).output

    assert await asyncio.gather(*(one(n) for n in range(100))) == [f"THREAD {n}" for n in range(100)]


async def test_an_empty_thread_can_be_run_and_a_thread_can_be_made_with_its_run(workshop):
    scene = await workshop.start(["a", "b", "c"])
    thread = await scene.treadle.threads.create()
    assert (await scene.runs.create_and_wait(thread.id, agent=scene.agent)).output == "a"
    run = await scene.runs.create_and_wait(
        None, agent=scene.agent, additional_messages=[{"content": "Hi"}, {"content": "Ho"}]
    )
    assert run.output == "b"
    assert [m.plain for m in scene.requests[-1].messages] == ["Hi", "Ho"]
    assert (await scene.runs.create_and_wait(run.thread_id, agent=scene.agent)).output == "c"
    assert [m.plain for m in scene.requests[-1].messages] == ["Hi", "Ho", "b"]


async def test_metadata_written_during_a_walk_survives_its_end(workshop):
    go = asyncio.Event()

    async def wait() -> str:
        await go.wait()
        return "went"

    scene = await workshop.start([{"calls": [call("wait")]}, "ok"], tools=[wait])
    run = await scene.create(metadata={"a": 1})
    await asyncio.sleep(0)
    await scene.runs.update(run.id, metadata={"b": 2})
    go.set()
    done = await scene.runs.wait(run.id)
    assert done.status == "completed"
    assert (await scene.runs.get(run.id)).metadata == {"b": 2}


async def test_metadata_written_while_a_run_waits_leaves_its_calls(workshop):
    scene = await workshop.start(
        [{"calls": [call("ask", "c1")]}, "ok"], tools=[FunctionTool(name="ask", parameters={})]
    )
    run = await scene.run()
    await scene.runs.update(run.id, metadata={"b": 2})
    waiting = await scene.runs.get(run.id)
    assert (waiting.metadata, [c.id for c in waiting.required_action]) == ({"b": 2}, ["c1"])


class BreaksOnce:
    """A model that says half a word, breaks, and answers when it is asked again."""

    def __init__(self):
        self.calls = 0

    async def call(self, request, emit):
        self.calls += 1
        emit(TextDelta("Hal"))
        if self.calls == 1:
            raise ProviderError("the stream was cut", kind="connection", retryable=True)
        emit(TextDelta("lo"))
        return ModelReply(text="Hallo", finish_reason="stop")

    async def close(self):
        """Nothing is open."""


@pytest.mark.parametrize("is_followed", [True, False])
async def test_what_a_reader_has_seen_of_a_reply_is_not_said_again(tmp_path, is_followed):
    model = BreaksOnce()
    providers = {"scripted": model}
    async with Treadle(
        "sqlite://:memory:", project=tmp_path, clock=FrozenClock(), providers=providers
    ) as treadle:
        agent = await treadle.agents.create(model="scripted", retry=Retry(max_attempts=3))
        hello = [{"role": "user", "content": "Hello"}]
        if is_followed:
            events = [e async for e in treadle.runs.stream(None, agent=agent, additional_messages=hello)]
            assert [e.data["text"] for e in events if e.name == "thread.message.delta"] == ["Hal"]
            assert events[-1].name == "thread.run.failed"
            assert model.calls == 1
        else:
            run = await treadle.runs.create_and_wait(None, agent=agent, additional_messages=hello)
            assert (run.status, run.output, model.calls) == ("completed", "Hallo", 2)


async def test_a_rule_for_all_server_errors_covers_each(workshop):
    down = {"error": {"kind": "http_503", "message": "down"}}
    rule = Retry(max_attempts=2, on=("http_5xx",))
    scene = await workshop.start([down, "up"], retry=rule, clock=FrozenClock())
    assert (await scene.run()).output == "up"
    scene = await workshop.start(
        [down, "up"], retry=Retry(max_attempts=2, on=("http_4xx",)), clock=FrozenClock()
    )
    assert (await scene.run()).last_error.code == "http_503"
