"""Tool and code nodes: what is called with what, what comes of it, and what a function's calls give when it begins again."""

import asyncio
import contextlib
import textwrap
import threading
from dataclasses import replace

import pytest
from pydantic import BaseModel

from treadle.errors import ConfigurationError, LeaseLost, ProviderError, StatementError, ToolError
from treadle.objects.goto import Goto
from treadle.objects.run import Usage
from treadle.objects.tool import FunctionTool
from treadle.providers.base import ModelReply
from treadle.providers.scripted import ScriptedProvider
from treadle.steps import call
from treadle.steps.base import Intent
from treadle.testing.fakes import FrozenClock
from treadle.testing.node_contract import Journal, NodeContract, a_model, a_node_context, begun, performed
from treadle.tools import approval
from treadle.tools.base import Binding
from treadle.tools.function import bind, bind_code


def bound(function, *, asks=None, **fields):
    """Give a function as a declared tool; `asks` is its approval rule."""
    spec = FunctionTool(name=function.__name__, **{"runs": "server"} | fields)
    tool = bind(spec, Binding(callables={function.__name__: function}))
    return tool if asks is None else replace(tool, asks=approval.asks(asks, function.__name__))


def tool_node(function, with_=None, *, asks=None, tool=None, fields=None, **more):
    ready = bound(function, asks=asks, **(tool or {}))
    params = {"type": "tool", "tool": function.__name__, "with": with_ or {}, **(fields or {})}
    return a_node_context(params, step="tool_call", tool=ready, **more)


def code_node(function, with_=None, *, fields=None, **more):
    params = {"type": "code", "call": "its.module:function", "with": with_ or {}, **(fields or {})}
    context = a_node_context(params, **more)
    tool = bind_code(call.function_of(context.node), Binding(callables={"its.module:function": function}))
    return context._replace(plan=_with_tool(context, tool))


def _with_tool(context, tool):
    return replace(context.plan, tools={context.node.id: tool})


def add(a: int, b: int = 1):
    return a + b


async def hang():
    await asyncio.Event().wait()


def broken():
    msg = "no\nluck"
    raise ValueError(msg)


def done(ctx):
    return ctx.call("add", a=1).result()


class TestToolContract(NodeContract):
    kind = call.TOOL

    def contexts(self):
        asked = tool_node(add, {"a": 2}, asks="always")
        question = call.TOOL.prepare(asked)
        return [
            tool_node(add, {"a": "{{ inputs.a }}"}, inputs={"a": 4}),
            tool_node(add, {"a": "x"}),
            tool_node(broken),
            asked,
            begun(asked, question, edge="answered", result={"decision": "approve", "at": 1}),
            begun(asked, question, edge="answered", result={"decision": "reject", "at": 1}),
            begun(asked, question),
        ]

    def hanging(self):
        return tool_node(hang)


class TestCodeContract(NodeContract):
    kind = call.CODE

    def contexts(self):
        return [
            code_node(add, {"a": 4}),
            code_node(broken),
            code_node(lambda state: {"n": state["n"] + 1}, state={"n": 1}),
            code_node(lambda: Goto("there", {"x": 1})),
            code_node(done, functions=[bound(add)]),
            code_node(lambda ctx: ctx.ask("How many?").result()),
        ]

    def hanging(self):
        return code_node(hang)


# -- tool nodes


async def test_a_tool_is_called_with_what_the_node_gives_and_its_value_is_the_result():
    effects = await performed(call.TOOL, tool_node(add, {"a": "{{ inputs.a }}", "b": 3}, inputs={"a": 4}))
    assert (effects.status, effects.result) == ("completed", 7)

    def say(text: str):
        return text

    effects = await performed(call.TOOL, tool_node(say, {"text": "3"}))
    assert effects.result == "3"


async def test_a_result_that_a_model_would_see_cut_is_whole():
    def many():
        return list(range(50))

    effects = await performed(call.TOOL, tool_node(many, tool={"max_result_chars": 10}))
    assert effects.result == list(range(50))


async def test_a_call_has_the_key_of_its_node_or_of_its_step():
    def charge(idempotency_key):
        return idempotency_key

    effects = await performed(call.TOOL, tool_node(charge))
    assert (effects.result, effects.key) == ("tdl:run_contract:here#1", None)
    own = {"idempotency_key": "bill-{{ inputs.id }}"}
    effects = await performed(call.TOOL, tool_node(charge, fields=own, inputs={"id": 7}))
    assert (effects.result, effects.key) == ("bill-7", "bill-7")


async def test_errors_of_a_tool_have_codes_that_routes_know():
    def late():
        raise TimeoutError

    def cut():
        raise ConnectionError

    for function, with_, code in (
        (broken, {}, "tool_error"),
        (late, {}, "timeout"),
        (cut, {}, "connection"),
        (add, {"a": "x"}, "tool_error"),
        (add, {"c": 1}, "tool_error"),
    ):
        effects = await performed(call.TOOL, tool_node(function, with_))
        assert (effects.status, effects.error.code) == ("failed", code)
        assert "\n" not in effects.error.message


async def test_an_attempt_has_the_time_that_the_node_leaves():
    effects = await performed(call.TOOL, tool_node(hang, fields={"timeout": "5ms"}))
    assert effects.error.code == "timeout"


@pytest.mark.parametrize("effect", ["pure", "idempotent", "once", "transactional"])
def test_what_a_call_does_to_the_outside_is_known_before_it_is_made(effect):
    def write(tx):
        del tx

    def plain():
        pass

    function = write if effect == "transactional" else plain
    prepared = call.TOOL.prepare(tool_node(function, tool={"effect": effect}))
    assert isinstance(prepared, Intent)
    assert prepared.effect == effect


async def test_statements_of_a_tool_are_written_with_its_step_and_refused_with_it():
    def write(n: int, tx):
        tx.execute("INSERT INTO t VALUES (?)", [n])

    made = tool_node(write, {"n": 3}, tool={"effect": "transactional"})
    effects = await performed(call.TOOL, made)
    assert [(s.sql, s.args) for s in effects.statements] == [("INSERT INTO t VALUES (?)", (3,))]
    refused = call.refused(made, StatementError("INSERT", "no such table"))
    assert refused.error.code == "tool_error"
    assert "no such table" in refused.error.message


# -- what a person agrees to


async def test_a_call_that_needs_a_person_asks_with_its_arguments():
    rule = approval.ApprovalWhen(when="args.a > 1", message="Add {{ args.a }}?", timeout="1h")
    clock = FrozenClock()
    made = tool_node(add, {"a": 5}, asks=rule, clock=clock)
    question = call.TOOL.prepare(made).question
    assert (question.kind, question.ask, question.value) == ("approval", "Add 5?", {"a": 5})
    assert question.until_ms == clock.now_ms() + 3_600_000
    assert question.form["required"] == ["a"]
    assert isinstance(call.TOOL.prepare(tool_node(add, {"a": 1}, asks=rule)), Intent)


async def answered(made, effects, **answer):
    given = {"by": "ada", "at": 1, **answer}
    return await performed(call.TOOL, begun(made, effects, edge="answered", result=given))


async def test_what_a_person_agreed_to_is_called_and_nothing_else():
    made = tool_node(add, {"a": "{{ state.a }}"}, asks="always", state={"a": 5})
    effects = call.TOOL.prepare(made)
    assert call.TOOL.prepare(begun(made, effects)).question == effects.question
    # The state may be another one when the answer comes; the person saw the arguments as they were.
    later = made._replace(view=made.view._replace(state={"a": 600}))
    assert (await answered(later, effects, decision="approve")).result == 6
    assert (await answered(later, effects, decision="approve", value={"a": 7, "b": 2})).result == 9
    wrong = await answered(later, effects, decision="approve", value={"a": "x"})
    assert wrong.error.code == "tool_error"


async def test_what_a_person_rejects_is_not_called():
    called = []

    def send():
        called.append(1)

    made = tool_node(send, asks="always")
    effects = await answered(made, call.TOOL.prepare(made), decision="reject", comment="not today")
    assert (effects.status, effects.error.code) == ("failed", "approval_rejected")
    assert "rejected by ada (not today)" in effects.error.message
    assert called == []


async def test_an_answer_to_another_tool_of_that_name_asks_again():
    made = tool_node(add, {"a": 5}, asks="always")
    effects = call.TOOL.prepare(made)
    changed = tool_node(add, {"a": 5}, asks="always", tool={"description": "It does something else now."})
    again = await answered(changed, effects, decision="approve")
    assert again.status == "in_progress"
    assert again.question.digest != effects.question.digest


@pytest.mark.parametrize(("default", "status"), [("approve", "completed"), ("reject", "failed")])
async def test_the_rule_says_what_counts_when_nobody_answers_in_time(default, status):
    clock = FrozenClock()
    rule = approval.ApprovalWhen(timeout="1h", on_timeout=default)
    made = tool_node(add, {"a": 5}, asks=rule, clock=clock)
    effects = call.TOOL.prepare(made)
    clock.advance(3600)
    ended = await performed(call.TOOL, begun(made, effects))
    assert ended.status == status
    if status == "failed":
        assert ended.error.code == "approval_rejected"
        assert "nobody answered in time" in ended.error.message


# -- calls of which nobody knows


async def test_a_call_of_which_nobody_knows_fails_where_nothing_else_is_said():
    effects = call.unsettled(tool_node(add, {"a": 1}))
    assert (effects.status, effects.error.code) == ("failed", "outcome_unknown")


async def test_a_person_may_have_a_call_made_again_of_which_nobody_knows():
    for asks in (None, "always"):
        made = tool_node(add, {"a": 1}, fields={"on_unknown": "ask"}, asks=asks)
        effects = call.unsettled(made)
        assert effects.status == "in_progress"
        assert "Run it again?" in effects.question.ask
        assert (await answered(made, effects, decision="approve")).result == 2
        no = await answered(made, effects, decision="reject")
        assert no.error.code == "outcome_unknown"


async def test_what_is_asked_about_is_what_was_called_with_the_changes_of_a_person():
    made = tool_node(add, {"a": 1}, fields={"on_unknown": "ask"}, asks="always")
    effects = call.TOOL.prepare(made)
    changed = {"decision": "approve", "value": {"a": 9}, "at": 1}
    again = call.unsettled(begun(made, effects, edge="dispatched", result=changed))
    assert again.question.value == {"a": 9}


# -- code nodes


class Point(BaseModel):
    x: int


async def test_a_function_gets_what_the_node_gives_as_the_types_that_it_declares():
    def move(point: Point, by: int = 1):
        return Point(x=point.x + by)

    effects = await performed(call.CODE, code_node(move, {"point": {"x": "{{ inputs.x }}"}}, inputs={"x": 4}))
    assert effects.result == {"x": 5}
    assert effects.writes is None


async def test_a_function_that_takes_any_keyword_gets_what_the_node_gives():
    given = {"text": "one two three", "width": 7, "initial_indent": "- "}
    assert (await performed(call.CODE, code_node(textwrap.fill, given))).result == "- one\ntwo\nthree"
    effects = await performed(call.CODE, code_node(textwrap.fill, {"txt": "one"}))
    assert (effects.status, effects.error.code) == ("failed", "code_error")


async def test_types_that_only_a_type_checker_imports_do_not_matter_where_treadle_fills_in():
    namespace = {}
    source = "def f(ctx: 'Ctx', state: 'Never', n: 'int') -> 'Nothing':\n    return n + state['n']"
    exec(source, namespace)
    effects = await performed(call.CODE, code_node(namespace["f"], {"n": 1}, state={"n": 2}))
    assert effects.result == 3


async def test_a_function_that_takes_the_state_writes_the_mapping_that_it_gives():
    def count(state, by):
        state["list"].append("changed")
        return {"n": state["n"] + by}

    state = {"n": 1, "list": []}
    effects = await performed(call.CODE, code_node(count, {"by": 2}, state=state))
    assert effects.result == {"n": 3}
    assert effects.writes == {"n": 3}
    # What a function does to its copy writes nothing.
    assert state == {"n": 1, "list": []}
    effects = await performed(call.CODE, code_node(lambda state: state["n"] + 1, state=state))
    assert (effects.result, effects.writes) == (2, None)


async def test_a_goto_says_what_follows():
    effects = await performed(call.CODE, code_node(lambda: Goto("review")))
    assert (effects.to, effects.result, effects.writes) == ("review", None, None)
    effects = await performed(call.CODE, code_node(lambda state: Goto("review", {"n": len(state)}), state={}))
    assert (effects.to, effects.result, effects.writes) == ("review", {"n": 0}, {"n": 0})


async def test_errors_of_a_function_are_code_errors():
    def set_():
        return {1, 2}

    for function, with_ in ((broken, {}), (set_, {}), (add, {"a": "x"})):
        effects = await performed(call.CODE, code_node(function, with_))
        assert (effects.status, effects.error.code) == ("failed", "code_error")

    def late():
        raise TimeoutError

    assert (await performed(call.CODE, code_node(late))).error.code == "timeout"


def test_a_function_that_takes_ctx_may_begin_again():
    assert call.CODE.prepare(code_node(add, {"a": 1})).effect == "once"
    assert call.CODE.prepare(code_node(done)).effect == "pure"
    idempotent = code_node(done, fields={"effect": "idempotent"})
    assert call.CODE.prepare(idempotent).effect == "idempotent"


# -- ctx


class World:
    """What the tools of a function did, call by call."""

    def __init__(self):
        self.calls = []

    def tools(self):
        def pay(amount: int, idempotency_key):
            self.calls.append(("pay", amount, idempotency_key))
            return {"paid": amount}

        async def look(name: str):
            self.calls.append(("look", name))
            if name == "gone":
                msg = "it is not there"
                raise ToolError(msg)
            return name.upper()

        async def slow():
            await asyncio.Event().wait()

        return [bound(pay), bound(look, effect="pure"), bound(slow, effect="pure")]


async def called(function, journal, world=None, **fields):
    made = code_node(function, functions=(world or World()).tools(), **fields)
    return await performed(call.CODE, journal.joined(made))


async def test_what_a_function_calls_is_kept_before_it_gets_it_and_not_made_again():
    journal, world = Journal(), World()

    async def buy(ctx):
        seen = await ctx.call("look", name="shoe")
        assert journal.rows[0].result == "SHOE"
        paid = await ctx.call("pay", amount=3)
        return [seen, paid, await ctx.now(), await ctx.random()]

    clock = FrozenClock()
    first = await called(buy, journal, world, clock=clock)
    assert first.result[:2] == ["SHOE", {"paid": 3}]
    assert first.result[2] == clock.now_ms() / 1000
    assert 0 <= first.result[3] < 1
    assert world.calls == [("look", "shoe"), ("pay", 3, "tdl:run_contract:here#1/1")]
    kept = [(r.ordinal, r.kind, r.tool, r.status) for r in journal.kept]
    assert kept == [
        (0, "tool_call", "look", "completed"),
        (1, "tool_call", "pay", "in_progress"),
        (1, "tool_call", "pay", "completed"),
        (2, "function", "now", "completed"),
        (3, "function", "random", "completed"),
    ]
    clock.advance(60)
    again = await called(buy, journal, world, clock=clock)
    assert again.result == first.result
    assert len(world.calls) == 2
    assert len(journal.kept) == 5


async def test_a_function_that_is_not_async_asks_for_the_result():
    world, main = World(), threading.get_ident()

    def buy(ctx):
        assert threading.get_ident() != main
        return [ctx.call("look", name="shoe").result(), ctx.now().result()]

    assert (await called(buy, Journal(), world)).result[0] == "SHOE"

    async def wrong(ctx):
        return ctx.now().result()

    effects = await called(wrong, Journal())
    assert "await ctx" in effects.error.message


async def test_errors_of_calls_are_the_same_when_the_function_begins_again():
    async def careful(ctx):
        told = []
        for name, arguments in (
            ("look", {"name": "gone"}),
            ("look", {"nam": 1}),
            ("nothing", {}),
            ("look", {"name": {1}}),
        ):
            try:
                await ctx.call(name, **arguments)
            except ToolError as e:
                told.append([e.kind, e.tool, e.message])
        return told

    journal, world = Journal(), World()
    first = await called(careful, journal, world)
    assert [kind for kind, _, _ in first.result] == [
        "tool_error",
        "invalid_arguments",
        "unknown_tool",
        "invalid_arguments",
    ]
    assert (await called(careful, journal, world)).result == first.result
    assert world.calls == [("look", "gone")]


async def test_an_error_that_the_function_does_not_catch_keeps_its_code():
    async def careless(ctx):
        await ctx.call("look", name="gone")

    assert (await called(careless, Journal())).error.code == "tool_error"

    async def own(ctx):
        del ctx
        msg = "mine"
        raise ToolError(msg)

    assert (await called(own, Journal())).error.code == "code_error"


async def test_a_failed_call_is_made_again_in_the_next_attempt_of_the_node():
    journal, world = Journal(), World()

    async def careless(ctx):
        return await ctx.call("look", name="gone")

    for attempt in (1, 2):
        made = code_node(careless, functions=world.tools(), attempt=attempt)
        assert (await performed(call.CODE, journal.joined(made))).status == "failed"
    assert len(world.calls) == 2


async def test_a_call_of_which_nobody_knows_is_told_to_the_function_and_never_made_again():
    journal, world = Journal(), World()

    async def buy(ctx):
        try:
            return await ctx.call("pay", amount=3)
        except ToolError as e:
            return e.kind

    await called(buy, journal, world)
    # The process stops when the call is begun in the journal, and not ended.
    journal.rows[0] = journal.rows[0].model_copy(
        update={"status": "in_progress", "edge": "dispatched", "result": None}
    )
    for attempt in (1, 1, 2):
        made = code_node(buy, functions=world.tools(), attempt=attempt)
        assert (await performed(call.CODE, journal.joined(made))).result == "outcome_unknown"
    assert len(world.calls) == 1


async def test_other_calls_than_before_fail_the_node():
    journal = Journal()

    async def before(ctx):
        await ctx.call("look", name="shoe")
        await ctx.ask("Well?")

    async def other_kind(ctx):
        try:
            await ctx.now()
        except BaseException:
            return "fine"

    async def other_tool(ctx):
        await ctx.call("pay", amount=1)

    await called(before, journal)
    for changed in (other_kind, other_tool):
        world = World()
        effects = await called(changed, journal, world)
        assert (effects.status, effects.error.code) == ("failed", "code_error")
        assert effects.error.message.startswith(
            "the code changed under the run: call 0 was a tool_call of look"
        )
        assert world.calls == []


async def test_calls_that_are_made_at_once_are_numbered_as_they_are_written():
    journal, world = Journal(), World()

    async def both(ctx):
        return await asyncio.gather(ctx.call("look", name="a"), ctx.call("look", name="b"), ctx.now())

    first = await called(both, journal, world)
    assert first.result[:2] == ["A", "B"]
    assert (await called(both, journal, world)).result == first.result
    assert len(world.calls) == 2


async def test_what_cannot_be_kept_stops_the_function_and_is_raised():
    async def record(_):
        msg = "somebody else walks it"
        raise LeaseLost(msg)

    async def stubborn(ctx):
        try:
            await ctx.call("look", name="a")
        except Exception:
            return "fine"

    made = code_node(stubborn, functions=World().tools())._replace(record=record)
    with pytest.raises(LeaseLost):
        await performed(call.CODE, made)


async def test_statements_of_a_call_are_kept_with_it_and_refused_with_it():
    def write(n: int, tx):
        tx.execute("INSERT INTO t VALUES (?)", [n])

    async def store(ctx):
        try:
            await ctx.call("write", n=3)
        except ToolError as e:
            return e.message

    tools = [bound(write, effect="transactional")]
    journal = Journal()
    await performed(call.CODE, journal.joined(code_node(store, functions=tools)))
    assert [s.args for s in journal.kept[0].statements] == [(3,)]

    kept = []

    async def record(made):
        if made.statements:
            raise StatementError("INSERT", "no such table")
        kept.append(made)

    effects = await performed(call.CODE, code_node(store, functions=tools)._replace(record=record))
    assert "no such table" in effects.result
    assert [(r.status, r.ordinal) for r in kept] == [("failed", 0)]


async def test_what_a_function_leaves_under_way_is_over_before_its_node_is():
    journal, world = Journal(), World()

    async def hasty(ctx):
        asyncio.ensure_future(ctx.call("look", name="a"))  # noqa: RUF006 - nobody waits for it
        await asyncio.sleep(0)
        return "done"

    assert (await called(hasty, journal, world)).result == "done"
    assert journal.rows[0].result == "A"


async def test_a_function_that_is_out_of_time_makes_no_more_calls():
    world, is_over, told = World(), threading.Event(), []

    def stubborn(ctx):
        try:
            ctx.call("slow").result()
        except BaseException:
            told.append("stopped")
        try:
            ctx.call("pay", amount=3)
        finally:
            is_over.set()

    effects = await called(stubborn, Journal(), world, fields={"timeout": "20ms"})
    assert effects.error.code == "timeout"
    assert await asyncio.to_thread(is_over.wait, 10)
    assert told == ["stopped"]
    assert world.calls == []


async def test_ctx_says_where_the_function_stands():
    clock = FrozenClock()

    async def look(ctx):
        return [
            ctx.run_id,
            ctx.thread_id,
            ctx.path,
            ctx.attempt,
            ctx.idempotency_key,
            ctx.deadline,
            ctx.time_left_s,
        ]

    effects = await called(look, Journal(), fields={"timeout": "1m"}, timeout_s=5, attempt=2, clock=clock)
    now_s = clock.now_ms() / 1000
    assert effects.result == [
        *("run_contract", "thread_contract", "here#1", 2, "tdl:run_contract:here#1"),
        *(now_s + 5, 5),
    ]
    assert (await called(look, Journal())).result[-2:] == [None, None]


# -- asking


async def test_a_question_stops_the_function_until_it_is_answered():
    journal, world = Journal(), World()

    async def buy(ctx):
        await ctx.call("look", name="shoe")
        try:
            answer = await ctx.ask("Buy it?", kind="choice", choices=["yes", "no"], assignees=["ada"])
        except Exception:
            return "caught"
        return [answer.choice, answer.by]

    effects = await called(buy, journal, world)
    assert (effects.status, effects.suspends) == ("in_progress", True)
    asked = journal.kept[-1]
    assert (asked.kind, asked.status) == ("pause", "in_progress")
    assert (asked.question.ask, asked.question.choices) == ("Buy it?", ("yes", "no"))
    # Nothing is answered yet: it waits, and asks nobody again.
    assert (await called(buy, journal, world)).suspends
    assert len(journal.kept) == 2
    journal.answer(1, {"choice": "yes", "by": "ada"})
    assert (await called(buy, journal, world)).result == ["yes", "ada"]
    assert world.calls == [("look", "shoe")]


async def test_a_function_that_catches_everything_waits_all_the_same():
    journal, world = Journal(), World()

    def stubborn(ctx):
        with contextlib.suppress(BaseException):
            ctx.ask("Well?").result()
        try:
            ctx.call("pay", amount=1).result()
        except BaseException:
            return "fine"

    assert (await called(stubborn, journal, world)).suspends
    assert world.calls == []


async def test_a_question_that_nobody_answers_in_time_is_a_timeout():
    journal, clock = Journal(), FrozenClock()

    async def wait(ctx):
        try:
            return (await ctx.ask("Well?", timeout="1h")).value
        except TimeoutError:
            return "nobody"

    effects = await called(wait, journal, clock=clock)
    assert effects.wake_ms == clock.now_ms() + 3_600_000
    clock.advance(3600)
    for _ in range(2):
        assert (await called(wait, journal, clock=clock)).result == "nobody"
    assert [r.status for r in journal.kept] == ["in_progress", "failed"]


async def test_two_questions_may_stand_at_once():
    journal = Journal()

    async def both(ctx):
        one, two = await asyncio.gather(ctx.ask("One?"), ctx.ask("Two?"))
        return [one.value, two.value]

    assert (await called(both, journal)).suspends
    assert [r.question.ask for r in journal.kept] == ["One?", "Two?"]
    journal.answer(1, {"value": 2})
    assert (await called(both, journal)).suspends
    journal.answer(0, {"value": 1})
    assert (await called(both, journal)).result == [1, 2]


async def test_a_call_that_needs_a_person_asks_first():
    paid = []

    def pay(amount: int):
        paid.append(amount)
        return amount

    async def buy(ctx):
        await ctx.now()
        try:
            return await ctx.call("pay", amount=3)
        except ToolError as e:
            return [e.kind, e.message]

    tools = [bound(pay, asks="always")]

    async def go(journal):
        return await performed(call.CODE, journal.joined(code_node(buy, functions=tools)))

    journal = Journal()
    assert (await go(journal)).suspends
    asked = journal.kept[-1]
    assert (asked.kind, asked.tool, asked.question.value) == ("pause", "pay", {"amount": 3})
    journal.answer(1, {"decision": "approve", "value": {"amount": 2}})
    assert (await go(journal)).result == 2
    assert (await go(journal)).result == 2
    assert paid == [2]

    journal = Journal()
    await go(journal)
    journal.answer(1, {"decision": "reject", "by": "ada"})
    for _ in range(2):
        assert (await go(journal)).result == ["approval_rejected", "pay was not run: rejected by ada"]
    assert paid == [2]


async def test_an_approval_holds_for_the_arguments_that_the_person_saw():
    amounts, paid = iter((3, 4)), []

    def pay(amount: int):
        paid.append(amount)

    async def shifty(ctx):
        await ctx.call("pay", amount=next(amounts))

    tools, journal = [bound(pay, asks="always")], Journal()
    await performed(call.CODE, journal.joined(code_node(shifty, functions=tools)))
    journal.answer(0, {"decision": "approve"})
    effects = await performed(call.CODE, journal.joined(code_node(shifty, functions=tools)))
    assert "the code changed under the run" in effects.error.message
    assert paid == []


# -- models


async def test_a_function_asks_a_model_and_pays_once():
    provider = ScriptedProvider(
        [
            ModelReply(text="hi", usage=Usage(prompt_tokens=5)),
            '{"n": 3}',
            "no",
            ProviderError("busy", kind="rate_limit"),
        ],
        record=True,
    )
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    async def think(ctx):
        out = [await ctx.model("m", "Hello")]
        told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count"}]
        out.append(await ctx.model("m", messages=told, output=schema))
        for _ in range(2):
            try:
                await ctx.model("m", "Count", output=schema)
            except ProviderError as e:
                out.append(e.kind)
        return out

    journal = Journal()
    made = code_node(think, model_named=lambda _: a_model(provider))
    for _ in range(2):
        effects = await performed(call.CODE, journal.joined(made))
        assert effects.result == ["hi", {"n": 3}, "invalid_output", "rate_limit"]
    assert len(provider.requests) == 4
    assert provider.requests[1].instructions == "Be brief."
    assert [r.kind for r in journal.kept] == ["model_call"] * 4
    assert journal.kept[0].usage == Usage(prompt_tokens=5)
    assert journal.kept[0].used.model_calls == 1


async def test_the_error_of_a_model_keeps_its_code_so_that_the_node_can_be_tried_again():
    provider = ScriptedProvider([ProviderError("busy", kind="http_503", status=503)])

    async def think(ctx):
        await ctx.model("m", "Hello")

    effects = await performed(call.CODE, code_node(think, model_named=lambda _: a_model(provider)))
    assert effects.error.code == "http_503"


async def test_a_model_that_nothing_configures_is_said_so():
    async def think(ctx):
        try:
            await ctx.model("m", "Hello")
        except ConfigurationError as e:
            return e.message

    assert "'m'" in (await performed(call.CODE, code_node(think))).result
