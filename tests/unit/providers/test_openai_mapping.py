"""Requests as chat completions take them, replies as they give them: the mapping, without a connection."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import ContextLengthError, ProviderError
from treadle.objects.agent import ModelOptions
from treadle.objects.message import (
    ImageFile,
    ImageFilePart,
    ImageUrl,
    ImageUrlPart,
    Message,
    TextPart,
    ToolCall,
)
from treadle.objects.run import Usage
from treadle.providers.base import Delta, Endpoint, ModelRequest, TextDelta, ToolCallDelta, ToolDefinition
from treadle.providers.chat_errors import Scene, retry_after_s, secrets_of, status_failure, stream_failure
from treadle.providers.chat_reply import MAX_ARGUMENT_CHARACTERS, MAX_CALLS, EventParser, ReplyAssembler
from treadle.providers.chat_request import (
    OPENAI_DIALECT,
    Dialect,
    adapted,
    call_ids,
    chat_body,
    clean_text,
    estimate_prompt_tokens,
)
from treadle.testing.chat_server import chunk, sse

NEW, OLD = Dialect("max_completion_tokens"), Dialect("max_tokens")
WEATHER = ToolDefinition(
    "weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


def row(seq, role, text=None, **fields):
    return Message(
        id=f"msg_{seq}", thread_id="thread_1", seq=seq, role=role, text=text, created_ms=0, **fields
    )


def asks(seq, *calls, text=None):
    return row(
        seq, "assistant", text, tool_calls=tuple(ToolCall(id=i, name=n, arguments=a) for i, n, a in calls)
    )


def result(seq, reply_seq, index, text):
    return row(seq, "tool", text, reply_seq=reply_seq, call_index=index)


def body_of(*messages, dialect=NEW, instructions="", **fields):
    return chat_body(ModelRequest("gpt", instructions, messages, **fields), dialect)


def assembled(*chunks):
    deltas: list[Delta] = []
    assembler = ReplyAssembler(deltas.append)
    for each in chunks:
        assembler.feed(each)
    return assembler.reply(lambda: 99), deltas, assembler


def piece(index=None, id_=None, name=None, arguments=None):
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    call = {"index": index, "id": id_, "function": function}
    return {k: v for k, v in call.items() if v is not None}


def calls(*pieces):
    return chunk({"tool_calls": list(pieces)})


def parsed_as(*chunks: bytes):
    parser = EventParser()
    return [data for c in chunks for data in parser.feed(c)] + parser.end()


# Requests


def test_a_conversation_with_tools_has_the_whole_golden_body():
    body = body_of(
        row(1, "user", "Weather in Oslo and Rome?"),
        asks(2, ("call_a", "weather", '{"city": "Oslo"}'), ("call_b", "weather", '{"city": "Rome"}')),
        result(3, 2, 0, "rain"),
        result(4, 2, 1, "sun"),
        row(5, "assistant", "Rain and sun."),
        instructions="Be brief.",
        tools=(WEATHER,),
    )
    function = {"name": "weather", "parameters": WEATHER.parameters, "description": "Tell the weather."}
    assert body == {
        "model": "gpt",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Oslo and Rome?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_a",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                    },
                    {
                        "id": "call_b",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_b", "content": "sun"},
            {"role": "assistant", "content": "Rain and sun."},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": function}],
    }


def test_no_instructions_means_no_system_message():
    assert [m["role"] for m in body_of(row(1, "user", "hi"))["messages"]] == ["user"]


def test_images_are_sent_as_parts_and_as_data_urls():
    message = row(
        1,
        "user",
        parts=(
            TextPart(text="What is this?"),
            ImageUrlPart(image_url=ImageUrl(url="data:image/png;base64,AA==")),
            ImageUrlPart(image_url=ImageUrl(url="https://example.com/cat.png", detail="low")),
            ImageFilePart(image_file=ImageFile(file_id="file_1", detail="high")),
        ),
    )
    files = {"file_1": ("image/jpeg", b"\xff\xd8"), "https://example.com/cat.png": ("image/gif", b"GIF")}
    assert body_of(message, files=files)["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lG", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9g=", "detail": "high"}},
    ]


def test_the_address_of_an_image_is_never_handed_on():
    message = row(1, "user", parts=(ImageUrlPart(image_url=ImageUrl(url="https://example.com/cat.png")),))
    with pytest.raises(ProviderError, match=r"msg_1.*https://example\.com/cat\.png.*missing"):
        body_of(message)


def test_an_image_whose_content_is_missing_is_an_error_that_names_message_and_file():
    message = row(1, "user", parts=(ImageFilePart(image_file=ImageFile(file_id="file_9")),))
    with pytest.raises(ProviderError, match=r"msg_1.*file_9"):
        body_of(message)


def test_several_text_parts_are_one_string_since_many_endpoints_take_no_parts():
    message = row(1, "user", parts=(TextPart(text="a"), TextPart(text="b")))
    assert body_of(message)["messages"] == [{"role": "user", "content": "a\nb"}]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", None),
        ("none", "none"),
        ("required", "required"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_the_tool_choice_is_sent_unless_it_is_the_default(choice, sent):
    assert body_of(row(1, "user", "x"), tools=(WEATHER,), tool_choice=choice).get("tool_choice") == sent


def test_what_speaks_of_tools_is_left_out_where_there_are_none():
    body = body_of(
        row(1, "user", "x"), tool_choice="required", options=ModelOptions(parallel_tool_calls=False)
    )
    assert {"tools", "tool_choice", "parallel_tool_calls"} & set(body) == set()


def test_a_strict_tool_says_so():
    strict = ToolDefinition("f", "", {"type": "object"}, strict=True)
    assert body_of(row(1, "user", "x"), tools=(strict,))["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    ]


def test_any_object_is_asked_for_in_the_way_that_more_endpoints_know():
    body = body_of(row(1, "user", "x"), output_schema={"type": "object"}, output_strict=False)
    assert body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("title", "name"),
    [(None, "answer"), ("A Weather Report!", "A_Weather_Report"), ("ü", "answer"), (7, "answer")],
)
def test_an_output_schema_is_asked_for_under_a_name_that_endpoints_accept(title, name):
    schema = {"type": "object", "properties": {}} | ({} if title is None else {"title": title})
    body = body_of(row(1, "user", "x"), output_schema=schema, output_strict=False)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": False},
    }


def test_every_option_has_its_wire_name_and_extra_fields_win():
    options = ModelOptions(
        temperature=0.0,
        top_p=0.5,
        max_output_tokens=100,
        seed=7,
        stop=("a", "b"),
        frequency_penalty=0.1,
        presence_penalty=0.2,
        reasoning_effort="low",
        parallel_tool_calls=True,
        extra={"top_k": 5, "top_p": 0.9},
    )
    body = body_of(row(1, "user", "x"), options=options, tools=(WEATHER,))
    for field in ("model", "messages", "stream", "stream_options", "tools"):
        del body[field]
    assert body == {
        "temperature": 0.0,
        "top_p": 0.9,
        "max_completion_tokens": 100,
        "seed": 7,
        "stop": ["a", "b"],
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "reasoning_effort": "low",
        "parallel_tool_calls": True,
        "top_k": 5,
    }


def test_older_endpoints_get_the_older_name_of_the_limit():
    body = body_of(row(1, "user", "x"), options=ModelOptions(max_output_tokens=5), dialect=OLD)
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize(
    ("dialect", "body", "refusal", "other"),
    [
        (
            OLD,
            {"max_tokens": 5},
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            NEW,
        ),
        (NEW, {"max_completion_tokens": 5}, "Unrecognized request argument: max_completion_tokens", OLD),
        (OLD, {"max_tokens": 5}, "max_tokens is too large: 5. This model has at most 4.", None),
        (OLD, {}, "Unsupported parameter: 'max_tokens'", None),
        (
            NEW,
            {"stream_options": {}},
            "Extra inputs are not permitted: stream_options",
            Dialect(stream_usage=False),
        ),
        (NEW, {"stream_options": {}}, "Unsupported value: temperature", None),
        (
            NEW,
            {},
            "Conversation roles must alternate user/assistant/user/assistant/...",
            Dialect(alternates=True),
        ),
        (Dialect(alternates=True), {}, "roles must alternate", None),
    ],
)
def test_a_refused_field_is_said_the_other_way(dialect, body, refusal, other):
    assert adapted(dialect, body, refusal) == other


def test_empty_and_repeated_call_ids_become_unique_and_results_follow_them():
    body = body_of(
        asks(1, ("", "f", "{}"), ("same", "f", "{}"), ("same", "f", "{}")),
        result(2, 1, 0, "a"),
        result(3, 1, 1, "b"),
        result(4, 1, 2, "c"),
        asks(5, ("same", "f", "{}"), ("", "f", "{}")),
        result(6, 5, 0, "d"),
        result(7, 5, 1, "e"),
    )
    asked = [call["id"] for m in body["messages"] for call in m.get("tool_calls", ())]
    answered = [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"]
    assert asked == answered == ["call_1_0", "same", "call_1_2", "call_5_0", "call_5_1"]


@given(st.lists(st.lists(st.sampled_from(["", "a", "b", "call_0_0", "call_1_0"]), max_size=4), max_size=4))
def test_call_ids_are_unique_whatever_the_model_called_them(rows):
    messages = [asks(seq, *((id_, "f", "{}") for id_ in ids)) for seq, ids in enumerate(rows)]
    ids = call_ids(messages)
    assert len(set(ids.values())) == len(ids) == sum(map(len, rows))
    assert "" not in ids.values()


def test_a_result_whose_call_is_not_sent_is_an_error_that_names_both():
    with pytest.raises(ProviderError, match=r"msg_3.*call 0 of row 2"):
        body_of(result(3, 2, 0, "x"))


def sent_calls(*calls, dialect=NEW, **fields):
    results = [result(2 + place, 1, place, "x") for place in range(len(calls))]
    body = body_of(asks(1, *calls), *results, dialect=dialect, **fields)
    return body["messages"][0]["tool_calls"]


@pytest.mark.parametrize(
    "arguments", ["{}", '{"city": "Oslo"}', ' {"a": [1, {"b": null}]}\n', '{"a": 1, "a": 2}']
)
def test_arguments_that_are_an_object_go_back_as_the_model_wrote_them(arguments):
    [call] = sent_calls(("a", "f", arguments))
    assert call["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    "arguments",
    [
        "{broken",
        "null",
        "[1]",
        '"text"',
        "7",
        '{"a": NaN}',
        '{"a": 1}{"b": 2}',
        '{"a":' * 100 + "1" + "}" * 100,
    ],
)
def test_malformed_arguments_go_back_quoted_in_an_object_that_every_endpoint_can_read(arguments):
    [call] = sent_calls(("a", "f", arguments))
    assert json.loads(call["function"]["arguments"]) == {"malformed_arguments": arguments}


def test_a_long_quote_of_malformed_arguments_is_cut_and_says_so():
    for arguments in ("[" * 100_000, "x" * 100_000, '{"a": "\ud800' + "x" * 100_000):
        [call] = sent_calls(("a", "f", arguments))
        quoted = json.loads(call["function"]["arguments"])["malformed_arguments"]
        assert quoted.endswith(f"… [{len(arguments)} characters]")
        assert len(quoted) < 2100


def test_arguments_that_are_nothing_go_back_as_the_empty_object_that_the_tool_was_given():
    for arguments in ("", " \n"):
        [call] = sent_calls(("a", "f", arguments))
        assert call["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("weather", "weather"),
        ("functions.weather", "functions_weather"),
        ("", "_"),
        ("wörld news!", "w_rld_news_"),
        ("x" * 100, "x" * 64),
        ("weather\n", "weather_"),
    ],
)
def test_a_name_that_no_tool_can_have_goes_back_as_one_that_endpoints_take(name, sent):
    [call] = sent_calls(("a", name, "{}"))
    assert call["function"]["name"] == sent


def test_the_name_of_a_tool_that_is_told_goes_back_as_it_is():
    tool = ToolDefinition("server.weather", "", {})
    [call] = sent_calls(("a", "server.weather", "{}"), tools=(tool,))
    assert call["function"]["name"] == "server.weather"


def test_a_call_id_that_is_too_long_for_the_endpoint_is_replaced_in_the_call_and_its_result():
    long = "call_" + "x" * 50
    for dialect, sent in ((OPENAI_DIALECT, "call_1_0"), (OLD, long)):
        body = body_of(asks(1, (long, "f", "{}")), result(2, 1, 0, "x"), dialect=dialect)
        assert body["messages"][0]["tool_calls"][0]["id"] == body["messages"][1]["tool_call_id"] == sent


def test_an_answer_that_says_nothing_is_left_out_of_the_history():
    body = body_of(
        row(1, "user", "Hi."), row(2, "assistant", ""), row(3, "assistant", " \n"), row(4, "user", "And?")
    )
    assert [m["content"] for m in body["messages"]] == ["Hi.", "And?"]


def test_an_endpoint_that_insists_on_turns_gets_neighbours_of_one_role_as_one_message():
    picture = ImageUrlPart(image_url=ImageUrl(url="data:x"))
    body = body_of(
        row(1, "user", "Hi."),
        row(2, "user", "Are you there?"),
        asks(3, ("a", "f", "{}")),
        result(4, 3, 0, "x"),
        row(5, "assistant", "Half"),
        row(6, "assistant", "and half."),
        row(7, "user", "What is it?"),
        row(8, "user", parts=(picture,)),
        dialect=Dialect(alternates=True),
    )
    assert [(m["role"], m.get("content")) for m in body["messages"]] == [
        ("user", "Hi.\n\nAre you there?"),
        ("assistant", None),
        ("tool", "x"),
        ("assistant", "Half\n\nand half."),
        (
            "user",
            [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:x"}}],
        ),
    ]


def test_text_that_json_cannot_carry_is_replaced_before_it_is_sent():
    body = body_of(row(1, "user", "a\ud800b\0c"), instructions="\udfff")
    assert [m["content"] for m in body["messages"]] == ["\ufffd", "a\ufffdb\ufffdc"]


@given(st.text(st.characters(exclude_categories=[])))
def test_cleaned_text_can_be_stored_and_sound_text_is_untouched(text):
    cleaned = clean_text(text)
    cleaned.encode()
    assert "\0" not in cleaned
    if not any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
        assert cleaned == text


def test_the_estimate_counts_instructions_messages_calls_images_and_tools():
    bare = estimate_prompt_tokens(ModelRequest("m", "", ()))
    image = row(1, "user", parts=(ImageUrlPart(image_url=ImageUrl(url="data:,")),))
    assert estimate_prompt_tokens(ModelRequest("m", "x" * 400, ())) == bare + 100
    assert estimate_prompt_tokens(ModelRequest("m", "", (row(1, "user", "ä" * 200),))) == bare + 104
    assert estimate_prompt_tokens(ModelRequest("m", "", (asks(1, ("i", "f" * 4, "a" * 36)),))) == bare + 14
    assert estimate_prompt_tokens(ModelRequest("m", "", (image,))) == bare + 1004
    assert estimate_prompt_tokens(ModelRequest("m", "", (), tools=(WEATHER,))) > bare + 20


# Server-sent events

STREAM = 'data: {"a": "ü€😀"}\r\n\r\n: comment\nevent: x\nid: 1\ndata:two\ndata: lines\r\rdata: [DONE]\n\n'.encode()
EVENTS = ['{"a": "ü€😀"}', "two\nlines", "[DONE]"]


def test_events_are_read_with_every_line_end_comments_and_other_fields():
    assert parsed_as(STREAM) == EVENTS
    assert parsed_as(b"\xef\xbb\xbf" + STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parsed_as(*(STREAM[a:b] for a, b in itertools.pairwise(edges))) == EVENTS


def test_events_come_byte_by_byte():
    assert parsed_as(*(bytes([b]) for b in STREAM)) == EVENTS


def test_an_event_that_the_end_cuts_is_given_as_far_as_it_came():
    assert parsed_as(b"data: one\n\ndata: tw") == ["one", "tw"]


def test_bytes_that_are_no_utf8_are_replaced():
    assert parsed_as(b"data: a\xffb\n\n") == ["a\ufffdb"]


def test_an_event_is_given_as_soon_as_it_is_complete():
    parser = EventParser()
    assert parser.feed(b"data: x\r\n\r") == []
    assert parser.feed(b"\n") == ["x"]
    assert EventParser().feed(b"data: x\n\n") == ["x"]


# Replies


def test_text_is_put_together_and_emitted_as_it_comes():
    reply, deltas, assembler = assembled(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({}, "stop"),
        chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2}),
    )
    assert (reply.text, reply.finish_reason, reply.model) == ("Hello", "stop", "test-model")
    assert reply.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert deltas == [TextDelta("Hel"), TextDelta("lo")]
    assert assembler.is_whole


def test_calls_are_put_together_by_index_with_id_and_name_in_the_first_piece_only():
    reply, deltas, _ = assembled(
        calls(piece(0, "c0", "f", "")),
        calls(piece(0, None, None, '{"a"')),
        calls(piece(1, "c1", "g", '{"b": 2}')),
        calls(piece(0, None, None, ": 1}")),
        chunk({}, "tool_calls"),
    )
    assert [(c.id, c.name, c.arguments) for c in reply.tool_calls] == [
        ("c0", "f", '{"a": 1}'),
        ("c1", "g", '{"b": 2}'),
    ]
    assert deltas == [
        ToolCallDelta(0, "c0", "f", ""),
        ToolCallDelta(0, None, None, '{"a"'),
        ToolCallDelta(1, "c1", "g", '{"b": 2}'),
        ToolCallDelta(0, None, None, ": 1}"),
    ]
    assert (reply.text, reply.finish_reason) == (None, "tool_calls")


def names_and_arguments(*chunks):
    reply, deltas, _ = assembled(*chunks)
    ids = [c.id for c in reply.tool_calls]
    assert len(set(ids)) == len(ids)
    assert "" not in ids
    joined: dict[int, str] = {}
    for delta in deltas:
        assert isinstance(delta, ToolCallDelta)
        joined[delta.index] = joined.get(delta.index, "") + delta.arguments
        assert delta.id in (None, ids[delta.index])
    assert list(joined.values()) == [c.arguments for c in reply.tool_calls]
    return [(c.name, c.arguments) for c in reply.tool_calls]


F1, G2 = ("f", '{"x":1}'), ("g", '{"y":2}')


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([calls(piece(0, "a", *F1), piece(1, "b", *G2))], [F1, G2], id="several in one chunk"),
        pytest.param([calls(piece(None, "a", *F1)), calls(piece(None, "b", *G2))], [F1, G2], id="no index"),
        pytest.param(
            [calls(piece(None, None, *F1)), calls(piece(None, None, *G2))], [F1, G2], id="no index, no id"
        ),
        pytest.param(
            [calls(piece(None, "", *F1)), calls(piece(None, "", *F1))], [F1, F1], id="twice the same, no id"
        ),
        pytest.param([calls(piece(0, "a", *F1)), calls(piece(0, "b", *G2))], [F1, G2], id="all numbered 0"),
        pytest.param(
            [calls(piece(0, "", *F1)), calls(piece(0, "", *G2))], [F1, G2], id="all numbered 0, no id"
        ),
        pytest.param(
            [calls(piece(0, "a", *F1)), calls(piece(1, "a", *G2))], [F1, G2], id="the same id twice"
        ),
        pytest.param(
            [calls(piece(None, "a", *F1)), calls(piece(None, "a", *G2))], [F1, G2], id="same id, no index"
        ),
        pytest.param([calls(piece(0, "a", *F1)), calls(piece(0, "a", *F1))], [F1], id="chunk sent twice"),
        pytest.param(
            [calls(piece(1, "b", *G2)), calls(piece(0, "a", *F1))], [G2, F1], id="order of appearance"
        ),
        pytest.param(
            [calls(piece(5, "b", *G2)), calls(piece(9, "a", *F1))], [G2, F1], id="gaps in the numbers"
        ),
        pytest.param(
            [calls(piece("0", "a", "f", '{"x"')), calls(piece("0", "", "", ":1}"))],
            [F1],
            id="index as a string",
        ),
        pytest.param(
            [calls(piece(0, "a", "f", '{"x"')), calls(piece(0, "a", "f", ":1}"))],
            [F1],
            id="id and name repeated",
        ),
        pytest.param(
            [calls(piece(None, "a", "f", '{"x"')), calls(piece(None, None, None, ":1}"))],
            [F1],
            id="no index, pieces",
        ),
        pytest.param(
            [calls(piece(0, "a", "get_")), calls(piece(0, None, "weather", "{}"))],
            [("get_weather", "{}")],
            id="name in pieces",
        ),
        pytest.param(
            [calls(piece(0, None, None, '{"x"')), calls(piece(0, "a", "f", ":1}"))],
            [F1],
            id="id and name late",
        ),
        pytest.param(
            [calls(piece(0, "a", "f", "{not json"))], [("f", "{not json")], id="malformed arguments"
        ),
        pytest.param([calls(piece(0, "a", "f"))], [("f", "")], id="no arguments"),
        pytest.param([calls(piece(0, 7, 8), "x", None)], [("", "")], id="wrong types"),
    ],
)
def test_odd_tool_calls_are_put_together(chunks, expected):
    assert names_and_arguments(*chunks) == expected


def test_arguments_that_are_not_in_a_text_are_written_as_the_text_that_they_should_have_been():
    for arguments in ({"city": "Å"}, ["Oslo"], 7, False):
        [(_, text)] = names_and_arguments(calls(piece(0, "a", "f", arguments)))
        assert json.loads(text) == arguments


def test_arguments_that_no_tool_takes_are_kept_in_part_and_are_no_json():
    for head in ("[", '{"a": "', "{} ", " " * 40_000, "1"):
        text = head + "x" * MAX_ARGUMENT_CHARACTERS
        reply, _, _ = assembled(
            *(calls(piece(0, "a", "f", text[at : at + 2**16])) for at in range(0, len(text), 2**16))
        )
        [call] = reply.tool_calls
        assert len(call.arguments) < 20_000
        assert call.arguments.endswith(f"… [cut: {len(text)} characters]")
        with pytest.raises(ValueError, match=r"."):
            json.loads(call.arguments)


def test_a_reply_with_more_calls_than_anybody_wants_is_refused():
    each = [calls(piece(n, "same", "f", "{}")) for n in range(MAX_CALLS)]
    reply, _, assembler = assembled(*each)
    assert len({c.id for c in reply.tool_calls}) == MAX_CALLS
    with pytest.raises(ProviderError, match="more than 1000 tool calls"):
        assembler.feed(calls(piece(MAX_CALLS, "same", "f", "{}")))


@pytest.mark.parametrize("part", ["delta", "message"])
def test_a_call_in_the_older_form_is_a_call(part):
    said = {"choices": [{part: {"function_call": {"name": "f", "arguments": '{"x":1}'}}}]}
    reply, _, _ = assembled(said, chunk({}, "function_call"))
    assert [(c.name, c.arguments) for c in reply.tool_calls] == [("f", '{"x":1}')]


@pytest.mark.parametrize("reason", ["error", "abort", "network_error", "MALFORMED_FUNCTION_CALL"])
def test_a_finish_reason_by_which_the_endpoint_gave_up_makes_no_reply(reason):
    _, _, assembler = assembled(chunk({"content": "Half"}), chunk({}, reason))
    assert assembler.is_failed
    assert not assembler.is_whole


def test_a_choice_that_is_nothing_is_no_reply():
    for nothing in ({"choices": [None]}, {"choices": [{}]}, {"choices": [{"index": 0, "text": "older"}]}):
        _, _, assembler = assembled(nothing)
        assembler.is_done = True
        assert not assembler.is_whole


def test_a_made_up_id_is_the_same_each_time():
    first, _, _ = assembled(calls(piece(0, "", "f", "{}")))
    second, _, _ = assembled(calls(piece(0, None, "f", "{}")))
    other, _, _ = assembled({**calls(piece(0, "", "f", "{}")), "id": "chatcmpl-2"})
    assert first.tool_calls == second.tool_calls != other.tool_calls
    assert first.tool_calls[0].id.startswith("call_")


def test_a_reply_may_have_text_and_calls():
    reply, _, _ = assembled(chunk({"content": "I look."}), calls(piece(0, "a", "f", "{}")), chunk({}, "stop"))
    assert (reply.text, len(reply.tool_calls), reply.finish_reason) == ("I look.", 1, "tool_calls")


def test_a_refusal_is_text():
    reply, deltas, _ = assembled(chunk({"refusal": "I will "}), chunk({"refusal": "not."}), chunk({}, "stop"))
    assert reply.text == "I will not."
    assert deltas == [TextDelta("I will "), TextDelta("not.")]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "stop"),
        ("eos", "stop"),
        ("", "stop"),
        (None, "stop"),
        (3, "stop"),
    ],
)
def test_every_finish_reason_becomes_one_of_ours(finish, expected):
    reply, _, _ = assembled(chunk({"content": "x"}, finish))
    assert reply.finish_reason == expected


def test_a_call_that_the_limit_cut_keeps_the_reason():
    reply, _, _ = assembled(calls(piece(0, "a", "f", '{"x')), chunk({}, "length"))
    assert reply.finish_reason == "length"
    assert reply.tool_calls[0].arguments == '{"x'


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 0}, Usage(prompt_tokens=5, completion_tokens=0)),
        (None, Usage(prompt_tokens=99, completion_tokens=2, estimated=True)),
        ({}, Usage(prompt_tokens=99, completion_tokens=2, estimated=True)),
        ([1], Usage(prompt_tokens=99, completion_tokens=2, estimated=True)),
        (
            {"prompt_tokens": -1, "completion_tokens": -1},
            Usage(prompt_tokens=99, completion_tokens=2, estimated=True),
        ),
        ({"prompt_tokens": 5}, Usage(prompt_tokens=5, completion_tokens=2, estimated=True)),
        ({"completion_tokens": 5}, Usage(prompt_tokens=99, completion_tokens=5, estimated=True)),
        (
            {"prompt_tokens": True, "completion_tokens": "5"},
            Usage(prompt_tokens=99, completion_tokens=2, estimated=True),
        ),
        (
            {"prompt_tokens": 10**30, "completion_tokens": 1.5},
            Usage(prompt_tokens=99, completion_tokens=2, estimated=True),
        ),
    ],
)
def test_usage_that_is_missing_or_impossible_is_estimated_and_says_so(usage, expected):
    reply, _, _ = assembled(chunk({"content": "12345678"}, "stop"), chunk(choices=[], usage=usage))
    assert reply.usage == expected


def test_of_several_usages_the_last_one_counts():
    first = {"prompt_tokens": 5, "completion_tokens": 1}
    last = {"prompt_tokens": 5, "completion_tokens": 2}
    reply, _, _ = assembled(chunk({"content": "a"}, usage=first), chunk({"content": "b"}, "stop", usage=last))
    assert reply.usage == Usage(prompt_tokens=5, completion_tokens=2)


def test_half_characters_are_joined_over_pieces_and_replaced_when_they_stay_alone():
    reply, deltas, _ = assembled(
        chunk({"content": "a\ud83d"}),
        chunk({"content": "\ude00b\udc00\0"}),
        chunk({"content": "\ud83d"}, "stop"),
    )
    assert reply.text == "a😀b\ufffd\ufffd\ufffd"
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == reply.text


def test_a_whole_reply_is_read_like_a_stream():
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "Hi.", "tool_calls": [call, call]}
    reply, deltas, _ = assembled({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    assert reply.text == "Hi."
    assert [c.name for c in reply.tool_calls] == ["f", "f"]
    assert len({c.id for c in reply.tool_calls}) == 2
    assert deltas[0] == TextDelta("Hi.")


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "thinking"}, "x", {"type": "text", "text": "b"}]
    reply, _, _ = assembled(chunk({"content": parts}, "stop"))
    assert reply.text == "ab"


def test_only_the_first_choice_counts():
    second = {"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}
    reply, _, assembler = assembled(chunk({"content": "yes"}), chunk(choices=[second]))
    assert reply.text == "yes"
    assert not assembler.is_whole


def test_an_empty_reply_is_an_empty_text():
    reply, deltas, assembler = assembled(chunk({}, "stop"))
    assert (reply.text, reply.tool_calls, deltas) == ("", (), [])
    assert assembler.is_whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "tool_calls",
                    "index",
                    "id",
                    "function",
                    "name",
                    "arguments",
                    "usage",
                    "finish_reason",
                    "refusal",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(st.lists(JSON, max_size=4))
def test_no_json_breaks_the_assembler_and_the_text_is_what_was_emitted(chunks):
    reply, deltas, _ = assembled(*chunks)
    assert (reply.text or "") == "".join(d.text for d in deltas if isinstance(d, TextDelta))
    assert json.loads(json.dumps([c.id for c in reply.tool_calls])) == [c.id for c in reply.tool_calls]


def test_the_stream_of_the_test_server_has_the_shape_that_is_read():
    data = parsed_as(sse(chunk({"content": "x"}), chunk({}, "stop")))
    assert data[-1] == "[DONE]"
    assert assembled(*map(json.loads, data[:-1]))[0].text == "x"


# Errors

KEY = "sk-canary-1234567890"
SCENE = Scene("http://user:hunter22@host:1/v1?x=1", "gpt-9", secrets_of(Endpoint(api_key=KEY)))


def failed(status, body, **headers):
    return status_failure(SCENE, status, body, headers, now_ms=lambda: 0)


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (400, {"message": "no", "code": "bad"}, "http_400", False),
        (401, {"message": "Incorrect API key"}, "credentials", False),
        (403, {"message": "no access"}, "credentials", False),
        (404, {"message": "nothing here"}, "http_404", False),
        (408, "", "timeout", True),
        (409, "", "http_409", True),
        (422, {"detail": "no"}, "http_422", False),
        (429, {"message": "slow down"}, "rate_limit", True),
        (429, {"message": "pay", "code": "insufficient_quota"}, "rate_limit", False),
        (500, {"message": "oops"}, "http_500", True),
        (503, "<html><title>Busy</title></html>", "http_503", True),
        (529, {"error": {"type": "overloaded_error"}}, "http_529", True),
        (307, "", "http_307", False),
        (400, {"message": "too long", "code": "context_length_exceeded"}, "context_length", False),
        (400, {"message": "This model's maximum context length is 8192 tokens."}, "context_length", False),
        (400, {"error": "prompt is too long: 9000 tokens > 8000 maximum"}, "context_length", False),
        (500, {"error": "the request exceeds the available context size"}, "context_length", False),
        (429, {"message": "Rate limit: maximum context"}, "rate_limit", True),
        (400, {"message": "filtered", "code": "content_filter"}, "content_filter", False),
        (
            400,
            {"message": "f", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
            "content_filter",
            False,
        ),
    ],
)
def test_every_status_has_its_kind(status, body, kind, retryable):
    error = failed(status, body)
    assert (error.kind, error.retryable, error.status) == (kind, retryable, status)
    assert isinstance(error, ContextLengthError) == (kind == "context_length")
    assert str(error).startswith(f"http://host:1/v1 answered {status}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "in error"}, "in error"),
        ({"error": {"message": "nested"}}, "nested"),
        ({"error": "a string"}, "a string"),
        ({"detail": "fastapi"}, "fastapi"),
        ({"detail": [{"msg": "field required"}]}, "field required"),
        ([{"error": {"message": "in a list"}}], "in a list"),
        ("plain text\nof two lines", "plain text of two lines"),
        ("<html><head><title> Bad  Gateway</title></head><body>x</body></html>", "Bad Gateway"),
    ],
)
def test_the_endpoints_own_words_are_found(body, words):
    assert words in str(failed(500, body))


def test_a_message_is_bounded_on_one_line_and_without_control_characters():
    error = failed(500, "a\x1b[31mb\r\n\u202ec" + "x" * 100_000)
    assert len(str(error)) < 1100
    assert "a [31mb c" in str(error)


def test_a_secret_is_redacted_even_where_the_message_is_cut():
    for offset in range(940, 1000):
        text = str(failed(500, "x" * offset + KEY + "y" * 100))
        assert "sk-canary"[:4] not in text


def test_secrets_are_keys_header_values_and_the_password_of_the_address():
    endpoint = Endpoint(
        "https://u:p%40ssword@h/v1", KEY, headers={"Authorization": "Bearer abcdefgh", "X-Env": "dev"}
    )
    assert set(secrets_of(endpoint)) == {KEY, "Bearer abcdefgh", "abcdefgh", "p@ssword", "p%40ssword"}


def test_an_endpoint_says_itself_whether_to_retry():
    assert failed(400, "", **{"x-should-retry": "true"}).retryable
    assert not failed(500, "", **{"x-should-retry": "false"}).retryable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "1e400"}, 86_400),
        ({"retry-after": "9" * 50}, 86_400),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 GMT"}, 30),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 GMT", "date": "Thu, 01 Jan 1970 00:00:25 GMT"}, 5),
        ({"retry-after": "Mon, 01 Jan 1900 00:00:00 GMT"}, 0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400),
        ({"retry-after": "Thu, 99 Foo 1970"}, None),
    ],
)
def test_retry_after_is_read_in_every_spelling_and_bounded(headers, seconds):
    assert retry_after_s(headers, now_ms=lambda: 0) == seconds


@pytest.mark.parametrize(
    ("error", "kind", "retryable", "status"),
    [
        ({"message": "x", "type": "server_error"}, "model_error", True, None),
        ({"message": "x"}, "model_error", False, None),
        ("just words", "model_error", False, None),
        ({"message": "x", "code": "rate_limit_exceeded"}, "rate_limit", True, None),
        ({"message": "x", "code": 502}, "http_502", True, 502),
        ({"message": "x", "code": 429}, "rate_limit", True, 429),
        ({"message": "x", "code": "context_length_exceeded"}, "context_length", False, None),
    ],
)
def test_an_error_inside_a_stream_has_its_kind(error, kind, retryable, status):
    failure = stream_failure(SCENE, error)
    assert (failure.kind, failure.retryable, failure.status) == (kind, retryable, status)


def test_hints_say_the_way_out():
    assert "api_key" in (failed(401, "").hint or "")
    assert "gpt-9" in (failed(404, {"message": "The model `gpt-9` does not exist"}).hint or "")
    assert "gpt-9" in (failed(404, {"message": "x", "code": "DeploymentNotFound"}).hint or "")
    assert "quota" in (failed(429, {"code": "insufficient_quota"}).hint or "")
    without = Scene("http://host:1")
    assert "http://host:1/v1" in (status_failure(without, 404, "", {}, now_ms=lambda: 0).hint or "")
