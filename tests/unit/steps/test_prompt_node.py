"""A prompt node asks a model once: what is sent, what comes of the answer, and what its errors are called."""

import asyncio

import pytest

from treadle.errors import ContextLengthError, DefinitionError, ProviderError
from treadle.objects.agent import Price
from treadle.objects.message import ToolCall
from treadle.objects.run import Usage
from treadle.providers.base import ModelReply, TextDelta
from treadle.providers.scripted import ScriptedProvider
from treadle.steps import prompt
from treadle.testing.node_contract import NodeContract, a_model, a_node_context, performed
from treadle.tools.schema_check import checker

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SHAPED = {"type": "prompt", "prompt": "Count.", "output": {"schema": SCHEMA}}


class Hanging(ScriptedProvider):
    async def call(self, request, emit):
        await asyncio.Event().wait()
        return await super().call(request, emit)


def context(params, *replies, provider=None, price=None, **fields):
    params = {"type": "prompt", "model": {"id": "m"}, **params}
    shape = checker(params["output"]["schema"], what="the output") if "output" in params else None
    model = a_model(provider or ScriptedProvider(replies), price=price)
    return a_node_context(params, step="model_call", model=model, shape=shape, **fields)


class TestContract(NodeContract):
    kind = prompt.KIND

    def contexts(self):
        return [
            context({"prompt": "Hello"}, "fine"),
            context({"prompt": "Hello"}, ModelReply(text="\ud800 \x00")),
            context(SHAPED, '{"n": 1}'),
            context(SHAPED, '{"n": "\\ud800"}'),
            context(SHAPED, "no"),
            context({"prompt": "Hello"}, ProviderError("no", kind="http_503", retry_after_s=3)),
            context({"prompt": "Hello"}, ContextLengthError("too long")),
        ]

    def hanging(self):
        return context({"prompt": "Hello"}, provider=Hanging(["x"]))


async def test_what_is_sent_is_rendered_over_what_the_node_sees():
    provider = ScriptedProvider(["hi"], record=True)
    params = {
        "messages": [
            {"role": "system", "content": "Be {{ state.tone }}."},
            {"content": "I am {{ inputs.name }}."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "{{ result_of.first.text }}"},
            {"role": "system", "content": "And brief."},
        ]
    }
    effects = await performed(
        prompt.KIND,
        context(
            params, provider=provider, state={"tone": "kind"}, inputs={"name": "Ada"}, results={"first": {"text": "Why?"}},
        ),
    )  # fmt: skip
    assert effects.result["text"] == "hi"
    (asked,) = provider.requests
    assert asked.instructions == "Be kind.\n\nAnd brief."
    assert [(m.role, m.text) for m in asked.messages] == [
        ("user", "I am Ada."),
        ("assistant", "Hello."),
        ("user", "Why?"),
    ]
    assert asked.tools == ()
    assert asked.output_schema is None


async def test_the_answer_is_its_text_its_output_and_its_usage():
    reply = ModelReply(text="fine", usage=Usage(prompt_tokens=1000, completion_tokens=10))
    effects = await performed(
        prompt.KIND, context({"prompt": "Hello"}, reply, price=Price(input=2, output=5))
    )
    assert effects.result == {
        "text": "fine",
        "output": "fine",
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10},
    }
    assert effects.usage == reply.usage
    assert effects.used.model_calls == 1
    assert effects.used.cost_usd == pytest.approx(0.00205)


async def test_an_output_is_the_json_of_the_answer_held_against_its_schema():
    effects = await performed(prompt.KIND, context(SHAPED, '{"n": 3}'))
    assert effects.result["output"] == {"n": 3}
    for said, why in (('{"n": "x"}', "n: "), ("three", "not JSON"), ('{"n": NaN}', "NaN"), ("", "not JSON")):
        effects = await performed(prompt.KIND, context(SHAPED, said))
        assert effects.status == "failed"
        assert effects.error.code == "invalid_output"
        assert why in effects.error.message
        # What was said has been paid for.
        assert effects.usage.prompt_tokens > 0


async def test_the_schema_of_the_output_is_sent():
    provider = ScriptedProvider(['{"n": 3}'], record=True)
    loose = {"prompt": "x", "output": {"schema": SCHEMA, "strict": False}}
    await performed(prompt.KIND, context(loose, provider=provider))
    assert (provider.requests[0].output_schema, provider.requests[0].output_strict) == (SCHEMA, False)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("rate_limit", 429, "rate_limit"),
        ("timeout", None, "timeout"),
        ("connection", None, "connection"),
        ("http_503", 503, "http_503"),
        ("model_error", None, "model_error"),
        ("content_filter", 400, "content_filter"),
        ("credentials", 401, "http_401"),
        ("credentials", None, "model_error"),
        ("image", 400, "model_error"),
    ],
)
async def test_an_error_of_the_endpoint_has_a_code_that_routes_know(kind, status, code):
    error = ProviderError("no", kind=kind, status=status, retry_after_s=7, hint="try")
    effects = await performed(prompt.KIND, context({"prompt": "x"}, error))
    assert (effects.status, effects.error.code, effects.retry_after_s) == ("failed", code, 7)
    assert effects.error.message == "no (try)"


async def test_an_answer_that_is_none_fails_with_the_reason():
    call = ToolCall(id="c", name="look", arguments="{}")
    for reply, code, why in (
        (ModelReply(text="no", finish_reason="content_filter"), "content_filter", "filter"),
        (ModelReply(text="cut", finish_reason="length"), "budget", "max_output_tokens"),
        (ModelReply(tool_calls=(call,), finish_reason="tool_calls"), "model_error", "look"),
    ):
        effects = await performed(prompt.KIND, context({"prompt": "x"}, reply))
        assert effects.error.code == code
        assert why in effects.error.message


async def test_an_attempt_has_the_time_that_the_node_and_the_run_leave():
    for fields, left_s in (({"timeout": "5ms"}, None), ({}, 0.005), ({"timeout": "1h"}, 0.005)):
        made = context({"prompt": "x", **fields}, provider=Hanging(["x"]), timeout_s=left_s)
        effects = await performed(prompt.KIND, made)
        assert effects.error.code == "timeout"
        assert "0.005 s" in effects.error.message


async def test_readers_hear_the_answer_while_it_comes():
    heard = []
    await performed(prompt.KIND, context({"prompt": "x"}, "one two", emit=heard.append))
    assert heard == [TextDelta("one "), TextDelta("two")]


async def test_the_key_of_the_node_is_kept():
    params = {"prompt": "x", "idempotency_key": "bill-{{ inputs.id }}"}
    assert (await performed(prompt.KIND, context(params, "y", inputs={"id": 4}))).key == "bill-4"
    with pytest.raises(DefinitionError):
        prompt.KIND.prepare(context({"prompt": "{{ inputs.nothing }}"}, "y"))
