"""Every step kind keeps the contract."""

import asyncio

from treadle import registry
from treadle.errors import ContextLengthError
from treadle.objects.agent import ModelOptions
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import Usage
from treadle.objects.tool import FunctionTool
from treadle.providers.base import ModelReply
from treadle.providers.scripted import ScriptedProvider
from treadle.steps import STEPS, append_message, model_call, tool_call
from treadle.steps.base import StepKindEntry
from treadle.testing.step_contract import StepContract, a_context, a_plan
from treadle.tools.base import Binding
from treadle.tools.function import bind
from treadle.tools.schema_check import checker


def bound(function, **fields):
    spec = FunctionTool(name=function.__name__, **{"runs": "server"} | fields)
    return bind(spec, Binding(callables={function.__name__: function}))


def call(name, arguments="{}"):
    return ToolCall(id="c", name=name, arguments=arguments)


CALLS = ModelReply(
    text="Looking.", tool_calls=(call("a"), call("b\ud800", "{\x00")), finish_reason="tool_calls"
)
REPLIES = [
    ModelReply(text="fine"),
    ModelReply(text=None),
    ModelReply(text="\ud800 and \x00", usage=Usage(prompt_tokens=3, completion_tokens=1)),
    CALLS,
    ModelReply(text="cut", finish_reason="length"),
    ModelReply(text="cut", tool_calls=(call("a", "{"),), finish_reason="length"),
    ModelReply(text="no", finish_reason="content_filter"),
]


class Hanging(ScriptedProvider):
    async def call(self, request, emit):
        await asyncio.Event().wait()
        return await super().call(request, emit)


class TestModelCall(StepContract):
    kind = model_call.KIND
    labels = frozenset({"tool_calls", "text"})

    def contexts(self):
        too_long = [ContextLengthError("too long"), "short"]
        scripts = [[r] for r in REPLIES] + [too_long]
        made = [a_context(path="model_call#1", plan=a_plan(ScriptedProvider(s))) for s in scripts]
        return [
            *made,
            a_context(path="model_call#1", prompt_left=10),
            a_context(path="model_call#1", prompt_left=5_000),
            a_context(path="model_call#2", completion_left=0),
            a_context(path="model_call#2", visit=2, completion_left=5, plan=a_plan(tool_choice="required")),
        ]

    def hanging(self):
        return a_context(path="model_call#1", plan=a_plan(Hanging([])))

    def test_a_spent_budget_asks_nobody(self):
        for left in ({"prompt_left": 10}, {"completion_left": 0}, {"completion_left": -3}):
            provider = ScriptedProvider([], record=True)
            effects = self.effects(a_context(path="model_call#1", plan=a_plan(provider), **left))
            assert effects.ends[0] == "incomplete"
            assert provider.requests == []

    def test_room_is_kept_for_the_reply(self):
        for most, window, expected in ((None, 10_000, 7_490), (100, 10_000, 9_890), (9_999, 10_000, 4_990)):
            plan = a_plan(options=ModelOptions(max_output_tokens=most), context_window=window)
            assert model_call.window_budget(a_context(path="model_call#1", plan=plan)) == expected

    def test_a_prompt_budget_bounds_the_window(self):
        assert model_call.window_budget(a_context(path="m#1", prompt_left=500)) == 490

    def test_deltas_are_emitted(self):
        heard = []
        self.effects(
            a_context(path="model_call#1", plan=a_plan(ScriptedProvider(["a b"])), emit=heard.append)
        )
        assert "".join(d.text for d in heard) == "a b"


class TestToolCall(StepContract):
    kind = tool_call.KIND
    labels = frozenset()

    def tools(self):
        def work(x: int = 1) -> str:
            return "é" * x

        def fail() -> str:
            raise ValueError("no")

        async def hang() -> str:
            await asyncio.Event().wait()
            return ""

        strict = bound(fail, on_error="fail")
        client = bind(FunctionTool(name="ask", parameters={"type": "object"}), Binding())
        return [bound(work, max_result_chars=50), strict, bound(hang, effect="pure"), client]

    def contexts(self):
        calls = [
            call("work"), call("work", '{"x": 500}'), call("work", '{"x": "1"}'), call("work", "nonsense"),
            call("nobody"), call("fail"), call("ask"), call("ask", "[]"),
        ]  # fmt: skip
        return [a_context(path="tool_call#1/0", plan=a_plan(tools=self.tools()), call=c) for c in calls]

    def hanging(self):
        return a_context(path="tool_call#1/0", plan=a_plan(tools=self.tools()), call=call("hang"))

    def test_the_intent_carries_the_tools_effect(self):
        for name, effect in (("work", "once"), ("hang", "pure")):
            context = a_context(path="tool_call#1/0", plan=a_plan(tools=self.tools()), call=call(name))
            assert self.kind.prepare(context).effect == effect

    def test_a_clients_call_waits(self):
        effects = self.effects(
            a_context(path="tool_call#1/0", plan=a_plan(tools=self.tools()), call=call("ask"))
        )
        assert (effects.status, effects.edge, effects.waits, effects.message) == (
            "in_progress",
            "client",
            True,
            None,
        )


class TestAppendMessage(StepContract):
    kind = append_message.KIND
    labels = frozenset({"incomplete"})

    def contexts(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        shaped = a_plan(output_schema=schema, output_problems=checker(schema, what="the output"))
        texts = ['{"n": 1}', '{"n": "1"}', "words", "", "[" * 5000]
        return [a_context(path="append_message#1", reply=r) for r in REPLIES] + [
            a_context(path="append_message#1", plan=shaped, reply=ModelReply(text=t)) for t in texts
        ]

    def test_an_answer_never_asks_for_tools(self):
        for context in self.contexts():
            row = self.effects(context).message
            assert isinstance(row, Message)
            assert row.tool_calls == ()
            assert row.is_listed


def test_every_kind_of_the_table_is_held_to_the_contract():
    held = {TestModelCall.kind, TestToolCall.kind, TestAppendMessage.kind}
    assert {registry.load(target) for target in STEPS.values()} == held
    assert all(isinstance(kind, StepKindEntry) for kind in held)
