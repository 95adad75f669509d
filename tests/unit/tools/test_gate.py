"""The gate: one way to a tool, which bounds time and length and repeats only what may be repeated."""

import asyncio
import dataclasses
import inspect
import threading

import pytest
from pydantic import BaseModel

from treadle.objects.message import ToolCall
from treadle.objects.run import Usage
from treadle.objects.tool import FunctionTool, Retry
from treadle.tools.base import Binding, CallContext
from treadle.tools.function import bind
from treadle.tools.gate import Admitted, Outcome, admit, delay_s, digest, dispatch, shorten, wait_s

CONTEXT = CallContext("run_1", "thread_1", "tdl:key")


def tool(function, **fields):
    spec = FunctionTool(name=function.__name__, runs="server", **fields)
    return bind(spec, Binding(callables={function.__name__: function}))


def call(name, arguments="{}"):
    return ToolCall(id="c", name=name, arguments=arguments)


async def dispatched(function, arguments="{}", **fields):
    bound = tool(function, **fields)
    admitted = admit({bound.spec.name: bound}, call(bound.spec.name, arguments))
    assert isinstance(admitted, Admitted)
    return await dispatch(admitted, CONTEXT)


async def test_a_value_is_text_or_json():
    for value, text in [
        ("plain", "plain"),
        ("", ""),
        (None, "null"),
        (3, "3"),
        ({"é": [1]}, '{"é": [1]}'),
        (True, "true"),
        ("\ud800\x00", "��"),
    ]:

        def give(value=value):
            return value

        give.__signature__ = inspect.Signature()
        assert await dispatched(give) == Outcome(text, is_json=not isinstance(value, str))


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"x", float("nan"), [float("inf")], {(1, 2): 3}, lambda: 1]
)
async def test_a_value_that_is_no_json_is_an_error_for_the_model(value):
    def give():
        return value

    outcome = await dispatched(give)
    assert (outcome.code, "not JSON" in outcome.text) == ("tool_error", True)


async def test_a_value_that_contains_itself_or_breaks_is_an_error_too():
    loop = []
    loop.append(loop)

    class Broken:
        def model_dump(self, **_):
            raise RuntimeError("no")

    for value in (loop, Broken()):

        def give():
            return value  # noqa: B023 - called at once

        assert (await dispatched(give)).code == "tool_error"


async def test_records_are_given_as_json():

    def give():
        return Usage(prompt_tokens=3)

    assert '"prompt_tokens": 3' in (await dispatched(give)).text


async def test_an_async_tool_has_its_time():
    async def hang():
        await asyncio.Event().wait()

    outcome = await dispatched(hang, timeout="10ms")
    assert (outcome.code, outcome.message) == ("timeout", "hang did not answer within 0.01 s")


async def test_a_sync_tool_has_its_time():
    go = threading.Event()

    def hang():
        go.wait(10)

    outcome = await dispatched(hang, timeout="10ms")
    go.set()
    assert outcome.code == "timeout"


async def test_a_tool_that_times_out_by_itself_is_a_timeout():
    def slow():
        raise TimeoutError("socket")

    assert (await dispatched(slow)).code == "timeout"


@pytest.mark.parametrize(
    ("raised", "code"),
    [(ConnectionResetError("gone"), "connection"), (ValueError("bad"), "tool_error"), (SystemExit(2), "tool_error"),
     (BaseException("base"), "tool_error"), (StopIteration(), "tool_error"), (KeyError("k\ud800"), "tool_error"),
     (ExceptionGroup("many", [ValueError("x")]), "tool_error")],
)  # fmt: skip
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_tool_raises_is_an_error_in_a_line(raised, code, is_async):
    def fail():
        raise raised

    async def fail_later():
        raise raised

    outcome = await asyncio.wait_for(dispatched(fail_later if is_async else fail), 10)
    assert outcome.code == code
    assert "Traceback" not in outcome.text
    assert "\n" not in outcome.text
    assert len(outcome.text) < 700
    outcome.text.encode()


async def test_an_exception_that_cannot_say_what_it_is_is_an_error_all_the_same():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("mute")

    def fail():
        raise Mute

    assert (await dispatched(fail)).text == '{"error": "fail: Mute"}'


async def test_a_cancelled_caller_is_not_answered_but_cancelled():
    begun = asyncio.Event()

    async def hang():
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(dispatched(hang))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_interrupts_are_not_swallowed():
    def stop():
        raise KeyboardInterrupt

    bound = tool(stop)
    admitted = admit({"stop": bound}, call("stop"))

    async def raised():
        try:
            await dispatch(
                dataclasses.replace(admitted, tool=dataclasses.replace(bound, invoke=interrupted)),
                CONTEXT,
            )
        except KeyboardInterrupt:
            return True
        return False

    async def interrupted(arguments, context):
        raise KeyboardInterrupt

    assert await raised()


def work():
    """Do nothing: these tests ask about rules, not about results."""


@pytest.mark.parametrize(("effect", "may"), [("pure", True), ("idempotent", True), ("once", False)])
def test_only_what_may_be_repeated_is_repeated(effect, may):
    retry = Retry(max_attempts=3, initial_delay="1s", backoff=2, jitter="none")
    bound = tool(work, effect=effect, retry=retry)
    waits = [wait_s(bound, "connection", attempt, of="x") for attempt in (1, 2, 3)]
    assert waits == ([1, 2, None] if may else [None, None, None])


def test_an_error_that_the_rule_does_not_name_is_not_repeated():
    assert wait_s(tool(work, effect="pure", retry=Retry(max_attempts=5)), "tool_error", 1, of="x") is None
    named = Retry(max_attempts=5, on=("tool_error",))
    assert wait_s(tool(work, effect="pure", retry=named), "tool_error", 1, of="x") is not None
    assert wait_s(tool(work, effect="pure"), "connection", 1, of="x") is None


def test_waits_grow_up_to_the_longest():
    retry = Retry(max_attempts=9, initial_delay="1s", backoff=3, max_delay="20s", jitter="none")
    assert [delay_s(retry, n) for n in range(1, 6)] == [1, 3, 9, 20, 20]
    spread = Retry(max_attempts=9, initial_delay="8s", backoff=1)
    waits = [delay_s(spread, 1, of=f"run {n}") for n in range(100)]
    assert all(0 <= wait <= 8 for wait in waits)
    assert len(set(waits)) == 100
    assert waits[7] == delay_s(spread, 1, of="run 7")


async def test_a_long_result_is_cut_with_a_mark_and_kept_whole():
    def shout():
        return "é" * 1000

    outcome = await dispatched(shout, max_result_chars=200)
    assert len(outcome.text) == 200
    assert outcome.text.endswith("\n[cut: 200 of 1000 characters]")
    assert outcome.whole == "é" * 1000
    assert len(digest(outcome.whole)) == 64


@pytest.mark.parametrize("most", [1, 10, 999, 1000, 1001])
def test_cutting_is_exact(most):
    outcome = shorten(Outcome("x" * 1000), most)
    assert (outcome.whole is None) == (most >= 1000)
    assert len(outcome.text) <= max(most, len(f"\n[cut: {most} of 1000 characters]"))


@pytest.mark.parametrize("name", ["", "Work", "work ", "wor\ud800k", "x" * 10_000])
def test_an_unknown_tool_is_told_what_there_is(name):
    def work():
        return "x"

    outcome = admit({"work": tool(work)}, call(name))
    assert isinstance(outcome, Outcome)
    assert (outcome.code, "the tools are: work" in outcome.text, len(outcome.text) < 400) == (
        "unknown_tool",
        True,
        True,
    )
    outcome.text.encode()


def test_schema_problems_are_listed_up_to_five_and_short():
    def work(a: int, b: int, c: int, d: int, e: int, f: int, g: int):
        return "x"

    bound = tool(work)
    outcome = admit({"work": bound}, call("work"))
    assert outcome.code == "invalid_arguments"
    assert outcome.message.count("required property") == 5
    outcome = admit({"work": bound}, call("work", '{"' + "k" * 100_000 + '": {"' + "z" * 100_000 + '": 1}}'))
    assert len(outcome.message) < 3000


async def test_a_function_without_an_own_schema_gets_its_types():

    class Point(BaseModel):
        x: int
        y: int = 2

    def add(p: Point, scale: float = 1.0):
        return (p.x + p.y) * scale

    assert (await dispatched(add, '{"p": {"x": 1}}')).text == "3.0"
    bad = admit({"add": tool(add)}, call("add", '{"p": {"x": "one"}}'))
    assert bad.code == "invalid_arguments"
