"""The wire's JSON of objects: its own rules, and the openai SDK's types as a second opinion."""

from typing import Any

import pytest

from treadle import wire
from treadle.objects.agent import (
    Agent,
    AgentSpec,
    Instructions,
    ModelOptions,
    ModelSpec,
    OutputSpec,
    ThreadSpec,
)
from treadle.objects.message import ImageUrl, ImageUrlPart, Message, TextPart, ToolCall
from treadle.objects.run import PendingCall, Run, RunError, RunOverrides, Usage
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.tool import FunctionTool, UnavailableTool

CALLS = (
    ToolCall(id="call_1", name="get_weather", arguments='{"city": "Paris"}'),
    ToolCall(id="call_2", name="get_weather", arguments='{"city": "Oslo"}'),
)


def agent(**fields: Any) -> Agent:
    spec = AgentSpec(model=ModelSpec(id="gpt", options=ModelOptions(temperature=0.2)), **fields)
    return Agent(id="asst_1", name="weather", created_ms=1_999, spec=spec)


def run(**fields: Any) -> Run:
    return Run(
        **{"id": "run_1", "thread_id": "thread_1", "agent_id": "asst_1", "graph": "d", "created_ms": 2_999}
        | fields
    )


def step(path: str, **fields: Any) -> Step:
    node = path.partition("#")[0]
    return Step(
        **{
            "run_id": "run_1",
            "n": 0,
            "path": path,
            "node": node,
            "kind": node,
            "started_ms": 3_999,
            "ended_ms": 4_999,
        }
        | fields
    )


def row(seq: int, role: str, text: str | None = None, **fields: Any) -> Message:
    return Message(
        **{
            "id": f"msg_{seq}",
            "thread_id": "thread_1",
            "seq": seq,
            "role": role,
            "text": text,
            "created_ms": 5_999,
            "completed_ms": 6_999,
        }
        | fields
    )


# -- objects -----------------------------------------------------------------------------------------------------


def test_an_agent_is_an_assistant_with_every_field() -> None:
    found = wire.assistant(agent(description="d", instructions=Instructions(template="Hi {{ name }}")))
    assert found == {
        "id": "asst_1",
        "object": "assistant",
        "created_at": 1,
        "name": "weather",
        "description": "d",
        "model": "gpt",
        "instructions": "Hi {{ name }}",
        "tools": [],
        "tool_resources": {},
        "metadata": {},
        "temperature": 0.2,
        "top_p": None,
        "reasoning_effort": None,
        "response_format": "auto",
    }


def test_tools_keep_their_kind() -> None:
    tools = (
        FunctionTool(name="f", description="d", parameters={"type": "object"}),
        UnavailableTool(
            type="bing_grounding", unavailable="hosted", options={"bing_grounding": {"count": 3}}
        ),
    )
    assert wire.assistant(agent(tools=tools))["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False},
        },
        {"bing_grounding": {"count": 3}, "type": "bing_grounding"},
    ]


def test_metadata_stays_within_the_bounds_of_the_wire() -> None:
    notes = {f"k{i}": "v" for i in range(20)} | {"k0": "x" * 600, "k1": ["a", 1]}
    found = wire.metadata(notes)
    assert len(found) == 16
    assert len(found["k0"]) == 512
    assert found["k1"] == '["a", 1]'


def test_a_message_has_parts_and_times() -> None:
    parts = (TextPart(text="look"), ImageUrlPart(image_url=ImageUrl(url="https://example.org/a.png")))
    found = wire.message(row(1, "user", None, parts=parts))
    assert found["content"] == [
        {"type": "text", "text": {"value": "look", "annotations": []}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "auto"}},
    ]
    assert (found["created_at"], found["completed_at"], found["incomplete_at"]) == (5, 6, None)


def test_an_incomplete_message_says_why() -> None:
    cut = row(2, "assistant", "Once", status="incomplete", incomplete_reason="max_tokens", completed_ms=None)
    found = wire.message(cut)
    assert found["incomplete_details"] == {"reason": "max_tokens"}
    assert (found["completed_at"], found["incomplete_at"]) == (None, 5)


@pytest.mark.parametrize(
    ("status", "times"),
    [
        ("completed", {"completed_at": 7}),
        ("failed", {"failed_at": 7}),
        ("cancelled", {"cancelled_at": 7}),
        ("incomplete", {}),
        ("expired", {}),
    ],
)
def test_a_run_that_ended_has_its_time_and_expires_no_more(status: str, times: dict[str, int]) -> None:
    found = wire.run(
        run(status=status, ended_ms=7_999, expires_ms=600_000, usage=Usage(prompt_tokens=3)), agent()
    )
    all_times = {"completed_at": None, "failed_at": None, "cancelled_at": None} | times
    assert {name: found[name] for name in all_times} == all_times
    assert found["expires_at"] is None
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}


def test_a_run_that_goes_on_has_no_usage_and_expires() -> None:
    found = wire.run(run(status="in_progress", expires_ms=602_000), agent())
    assert (found["usage"], found["expires_at"]) == (None, 602)


def test_the_calls_that_wait_are_there_in_one_status_only() -> None:
    pending = (PendingCall(path="tool_call#1/0", reply_seq=2, call_index=0, call=CALLS[0]),)
    waiting = wire.run(run(status="requires_action", pending=pending), agent())
    assert waiting["required_action"] == {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                }
            ]
        },
    }
    assert wire.run(run(status="queued", pending=pending), agent())["required_action"] is None


def test_the_overrides_of_a_run_are_laid_over_its_agent() -> None:
    own = RunOverrides(
        model="other",
        additional_instructions="More.",
        temperature=0,
        tool_choice="f",
        thread=ThreadSpec(truncation="last", keep_last=4),
        parallel_tool_calls=False,
        output={"schema": {"type": "object"}},
    )
    base = agent(instructions=Instructions(text="Base."), tools=(FunctionTool(name="f"),))
    found = wire.run(run(overrides=own), base)
    assert found["model"] == "other"
    assert found["instructions"] == "Base.\n\nMore."
    assert found["temperature"] == 0
    assert found["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert found["truncation_strategy"] == {"type": "last_messages", "last_messages": 4}
    assert found["parallel_tool_calls"] is False
    assert found["response_format"]["json_schema"]["schema"] == {"type": "object"}
    plain = wire.run(run(), agent())
    assert (plain["instructions"], plain["parallel_tool_calls"], plain["tool_choice"]) == ("", True, "auto")


@pytest.mark.parametrize(
    ("code", "on_the_wire"),
    [
        ("rate_limit", "rate_limit_exceeded"),
        ("context_length", "invalid_prompt"),
        ("http_500", "server_error"),
        ("tool_error", "server_error"),
    ],
)
def test_an_error_has_one_of_the_codes_of_the_wire(code: str, on_the_wire: str) -> None:
    assert wire.last_error(RunError(code=code, message="text")) == {"code": on_the_wire, "message": "text"}


def test_a_page_names_its_first_and_last() -> None:
    assert wire.listing([{"id": "a"}, {"id": "b"}], has_more=True) == {
        "object": "list",
        "data": [{"id": "a"}, {"id": "b"}],
        "first_id": "a",
        "last_id": "b",
        "has_more": True,
    }
    assert wire.listing([])["last_id"] is None


# -- run steps ---------------------------------------------------------------------------------------------------

TOOL_ROUND = {
    2: row(2, "assistant", None, tool_calls=CALLS),
    3: row(3, "tool", "rain", reply_seq=2, call_index=0),
    4: row(4, "tool", "snow", reply_seq=2, call_index=1),
    5: row(5, "assistant", "Rain and snow."),
}


def tool_round(*calls: Step) -> list[Step]:
    return [
        step("model_call#1", edge="tool_calls", fan=2, message_seq=2, usage=Usage(prompt_tokens=9)),
        *calls,
    ]


def called(index: int, **fields: Any) -> Step:
    more = {
        "n": index + 1,
        "cause": "model_call#1",
        "reply_seq": 2,
        "call_index": index,
        "message_seq": 3 + index,
        "tool": "get_weather",
    }
    return step(f"tool_call#1/{index}", **more | fields)


def test_a_reply_and_its_calls_are_one_step_and_the_answer_another() -> None:
    journal = [
        *tool_round(called(0), called(1, ended_ms=9_999)),
        step("model_call#2", n=3, cause="tool_call#1/1", edge="text", usage=Usage(completion_tokens=4)),
        step("append_message#1", n=4, cause="model_call#2", message_seq=5, ended_ms=11_000),
    ]
    calls, answer = wire.run_steps(run(status="completed"), journal, TOOL_ROUND)
    assert (calls["type"], calls["status"], calls["completed_at"]) == ("tool_calls", "completed", 9)
    assert [c["function"]["output"] for c in calls["step_details"]["tool_calls"]] == ["rain", "snow"]
    assert calls["usage"]["total_tokens"] == 9
    assert (answer["type"], answer["status"], answer["completed_at"]) == ("message_creation", "completed", 11)
    assert answer["step_details"]["message_creation"] == {"message_id": "msg_5"}
    assert answer["usage"]["total_tokens"] == 4


def test_a_group_of_calls_is_in_progress_until_the_last_has_ended() -> None:
    waiting = called(1, status="in_progress", ended_ms=None, message_seq=None)
    for journal in (tool_round(), tool_round(called(0)), tool_round(called(0), waiting)):
        (calls,) = wire.run_steps(run(status="in_progress"), journal, TOOL_ROUND)
        assert (calls["status"], calls["usage"], calls["completed_at"]) == ("in_progress", None, None)
    outputs = [c["function"]["output"] for c in calls["step_details"]["tool_calls"]]
    assert outputs == ["rain", None]


@pytest.mark.parametrize(
    ("run_status", "step_status", "shown"),
    [
        ("cancelled", "cancelled", "cancelled"),
        ("expired", "cancelled", "expired"),
        ("failed", "failed", "failed"),
    ],
)
def test_calls_that_did_not_run_end_as_their_run_does(run_status: str, step_status: str, shown: str) -> None:
    error = RunError(code="tool_error", message="no") if step_status == "failed" else None
    journal = tool_round(called(0), called(1, status=step_status, last_error=error))
    (calls,) = wire.run_steps(run(status=run_status), journal, TOOL_ROUND)
    assert calls["status"] == shown
    assert calls[f"{shown}_at"] == 4
    assert (calls["last_error"] is None) == (error is None)


def test_a_tool_error_that_went_back_to_the_model_is_no_failure_of_the_step() -> None:
    wrong = called(0, last_error=RunError(code="tool_error", message="no such city"))
    (calls,) = wire.run_steps(run(), tool_round(wrong, called(1)), TOOL_ROUND)
    assert (calls["status"], calls["last_error"]) == ("completed", None)


def test_text_beside_calls_is_a_step_of_its_own_and_tokens_count_once() -> None:
    rows = TOOL_ROUND | {2: row(2, "assistant", "Let me see.", tool_calls=CALLS)}
    said, calls = wire.run_steps(run(), tool_round(called(0), called(1)), rows)
    assert (said["type"], calls["type"]) == ("message_creation", "tool_calls")
    assert said["id"] != calls["id"]
    assert said["usage"]["total_tokens"] + calls["usage"]["total_tokens"] == 9


def test_every_attempt_of_a_model_call_has_the_same_id() -> None:
    failed = step(
        "model_call#1", status="failed", edge="retry", last_error=RunError(code="timeout", message="no")
    )
    again = [s.model_copy(update={"attempt": 2, "n": s.n + 1}) for s in tool_round()]
    once = wire.run_steps(run(), tool_round(called(0), called(1)), TOOL_ROUND)
    twice = wire.run_steps(run(), [failed, *again, called(0, n=5), called(1, n=6)], TOOL_ROUND)
    assert [s["id"] for s in once] == [s["id"] for s in twice]
    assert once[0]["id"] == wire.run_step_id("run_1", "model_call#1", "tool_calls")


def test_an_answer_that_does_not_fit_its_schema_failed() -> None:
    journal = [
        step("model_call#1", edge="text"),
        step(
            "append_message#1",
            n=1,
            cause="model_call#1",
            message_seq=5,
            last_error=RunError(code="invalid_output", message="no JSON"),
        ),
    ]
    (answer,) = wire.run_steps(run(status="failed"), journal, TOOL_ROUND)
    assert (answer["status"], answer["failed_at"]) == ("failed", 4)
    assert answer["last_error"] == {"code": "server_error", "message": "no JSON"}


def test_a_model_call_that_gave_nothing_is_no_step_of_the_wire() -> None:
    failed = step("model_call#1", status="failed", last_error=RunError(code="http_500", message="no"))
    assert wire.run_steps(run(status="failed"), [failed], {}) == []


# -- a second opinion --------------------------------------------------------------------------------------------


def test_the_openai_sdk_reads_every_object() -> None:
    from openai.types import beta
    from openai.types.beta import threads
    from openai.types.beta.threads import runs

    tools = (FunctionTool(name="f", parameters={"type": "object", "properties": {}}),)
    declared = agent(
        tools=tools,
        output=OutputSpec(schema={"type": "object"}),
        thread=ThreadSpec(truncation="last", keep_last=2),
    )
    pending = (PendingCall(path="tool_call#1/0", reply_seq=2, call_index=0, call=CALLS[0]),)
    beta.Assistant.model_validate(wire.assistant(declared))
    beta.Thread.model_validate(wire.thread(Thread(id="thread_1", created_ms=1_000, metadata={"a": "b"})))
    for message in (
        row(1, "user", "Hi"),
        row(2, "assistant", "x", status="incomplete", incomplete_reason="max_tokens"),
    ):
        threads.Message.model_validate(wire.message(message))
    for found in (
        run(status="queued"),
        run(status="requires_action", pending=pending),
        run(status="failed", ended_ms=9, last_error=RunError(code="http_500", message="no"), usage=Usage()),
    ):
        threads.Run.model_validate(wire.run(found, declared))
    journal = [
        *tool_round(called(0), called(1)),
        step("model_call#2", n=3, edge="text", usage=Usage()),
        step("append_message#1", n=4, cause="model_call#2", message_seq=5),
    ]
    steps = wire.run_steps(run(), journal, TOOL_ROUND)
    steps.append(wire.run_step_begun(run(), "model_call#3", "tool_calls", now_ms=1))
    for found_step in steps:
        runs.RunStep.model_validate(found_step)
    threads.MessageDeltaEvent.model_validate(wire.message_delta("msg_1", "a"))
    delta = wire.run_step_delta("step_1", 0, id_="call_1", name="f", arguments="")
    runs.RunStepDeltaEvent.model_validate(delta)
