"""The offline model: what it calls, with what, and what it says; each turn played to its end."""

import asyncio
import json
import os
import subprocess
import sys

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.objects.agent import ModelOptions
from treadle.objects.message import ImageFile, ImageFilePart, Message, TextPart, ToolCall
from treadle.providers.base import Delta, ModelRequest, TextDelta, ToolCallDelta, ToolDefinition
from treadle.providers.offline import DESCRIPTION, OfflineProvider, decide

STRING = {"type": "string"}
NUMBER = {"type": "number"}


def tool(name_, description="", *, optional=(), **properties):
    schema = {
        "type": "object",
        "properties": properties,
        "required": [p for p in properties if p not in optional],
        "additionalProperties": False,
    }
    return ToolDefinition(name_, description, schema)


class Conversation:
    """Plays a thread against the model, running the tools as Python functions."""

    def __init__(self, tools=(), functions=None, **fields):
        self.tools = tools
        self.functions = functions or {}
        self.fields = {"instructions": "", **fields}
        self.rows = []
        self.calls = []
        self.replies = []

    def add(self, role, **fields):
        seq = len(self.rows) + 1
        self.rows.append(
            Message(id=f"msg_{seq}", thread_id="thread_1", seq=seq, role=role, created_ms=0, **fields)
        )
        return seq

    def request(self):
        return ModelRequest(model="offline", messages=tuple(self.rows), tools=self.tools, **self.fields)

    def request_for(self, text):
        self.add("user", text=text)
        return self.request()

    def say(self, text, **fields):
        """Send a message, play the turn, give the final text; `calls` has what was called in it."""
        self.add("user", text=text, **fields)
        self.calls, self.replies = [], []
        for _ in range(20):
            reply = decide(self.request())
            self.replies.append(reply)
            seq = self.add("assistant", text=reply.text, tool_calls=reply.tool_calls)
            if not reply.tool_calls:
                return reply.text
            for index, call in enumerate(reply.tool_calls):
                arguments = json.loads(call.arguments)
                self.calls.append((call.name, arguments))
                self.add("tool", text=self._result(call.name, arguments), reply_seq=seq, call_index=index)
        raise AssertionError(f"the turn does not end: {self.calls}")

    def _result(self, name, arguments):
        try:
            value = self.functions[name](**arguments)
        except LookupError as error:
            return json.dumps({"error": {"type": "tool_error", "message": str(error.args[0])}})
        return value if isinstance(value, str) else json.dumps(value)


PLACES = {"Paris": (11, "rain"), "Oslo": (3, "snow"), "New York": (20, "sun"), "oslo": (3, "snow")}


def get_weather(city):
    if city not in PLACES:
        raise LookupError(f"no station in {city}")
    celsius, sky = PLACES[city]
    return {"celsius": celsius, "sky": sky}


WEATHER = [
    tool("get_weather", "Get the current weather of a city.", city=STRING),
    tool("to_fahrenheit", "Convert a temperature from Celsius to Fahrenheit.", celsius=NUMBER),
]
FUNCTIONS = {"get_weather": get_weather, "to_fahrenheit": lambda celsius: round(celsius * 9 / 5 + 32, 1)}


@pytest.fixture
def weather():
    return Conversation(WEATHER, FUNCTIONS)


# Tools in a chain


def test_a_result_feeds_the_next_tool_and_the_answer_puts_both_in_words(weather):
    text = weather.say("What's the weather in Paris, in Fahrenheit?")

    assert weather.calls == [("get_weather", {"city": "Paris"}), ("to_fahrenheit", {"celsius": 11})]
    assert text == "Paris: 11 °C, rain. In Fahrenheit: 51.8."


def test_several_subjects_are_called_for_in_one_reply(weather):
    text = weather.say("What is the weather in Paris and Oslo?")

    assert [c.name for c in weather.replies[0].tool_calls] == ["get_weather", "get_weather"]
    assert text == "Paris: 11 °C, rain. Oslo: 3 °C, snow."


def test_each_subject_keeps_what_was_made_of_its_result(weather):
    text = weather.say("weather in Paris, Oslo and New York, in fahrenheit please")

    assert text == (
        "Paris: 11 °C, rain. In Fahrenheit: 51.8. Oslo: 3 °C, snow. In Fahrenheit: 37.4. "
        "New York: 20 °C, sun. In Fahrenheit: 68."
    )


def test_without_parallel_calls_the_same_is_asked_for_one_by_one():
    talk = Conversation(WEATHER, FUNCTIONS, options=ModelOptions(parallel_tool_calls=False))

    text = talk.say("weather in Paris and Oslo")

    assert [len(r.tool_calls) for r in talk.replies] == [1, 1, 0]
    assert text == "Paris: 11 °C, rain. Oslo: 3 °C, snow."


def test_the_chain_does_not_hang_on_these_names():
    tools = [
        tool("lookup_stock", "Price of a share.", symbol={"type": "string", "pattern": "^[A-Z]{2,5}$"}),
        tool("to_euro", "Convert dollars to euro.", price_usd=NUMBER),
    ]
    talk = Conversation(
        tools,
        {"lookup_stock": lambda symbol: {"price_usd": 200.5}, "to_euro": lambda price_usd: price_usd / 2},
    )

    text = talk.say("What is the stock of ACME, in euro?")

    assert talk.calls == [("lookup_stock", {"symbol": "ACME"}), ("to_euro", {"price_usd": 200.5})]
    assert text == "ACME: price 200.5 USD. In Euro: 100.25."


def test_a_look_up_that_nobody_named_is_made_where_it_has_what_is_missing():
    tools = [
        tool(
            "get_forecast",
            "Weather forecast for a place.",
            optional=["days"],
            latitude=NUMBER,
            longitude=NUMBER,
            days={"type": "integer", "minimum": 1},
        ),
        tool("geocode", "Find latitude and longitude of a place by name.", name=STRING),
    ]
    functions = {
        "geocode": lambda name: {"latitude": 48.85, "longitude": 2.35},
        "get_forecast": lambda **given: {"rain_mm": 3},
    }
    talk = Conversation(tools, functions)

    talk.say("What's the forecast for Paris for the next 3 days?")

    assert talk.calls == [
        ("geocode", {"name": "Paris"}),
        ("get_forecast", {"latitude": 48.85, "longitude": 2.35, "days": 3}),
    ]


def test_a_tool_that_changes_things_is_never_called_as_a_mere_look_up():
    tools = [
        tool("restore_backup", "Restore a backup.", backup_id=STRING),
        tool("delete_backup", "Delete a backup and give its backup id.", name=STRING),
    ]
    talk = Conversation(tools)

    text = talk.say("Restore the one of Monday for Ada")

    assert talk.calls == []
    assert "backup" in text


def test_results_become_the_body_of_what_is_sent():
    tools = [
        WEATHER[0],
        tool("send_email", "Send an email.", to={"type": "string", "format": "email"}, body=STRING),
    ]
    talk = Conversation(tools, {"get_weather": get_weather, "send_email": lambda to, body: "ok"})

    talk.say("Email ada@example.org the weather in Paris")

    assert talk.calls[1] == ("send_email", {"to": "ada@example.org", "body": "Paris: 11 °C, rain."})


def test_each_tool_takes_its_own_part_of_the_message():
    tools = [WEATHER[0], tool("get_population", "Population of a city.", city=STRING)]
    talk = Conversation(tools, {"get_weather": get_weather, "get_population": lambda city: 700_000})

    talk.say("Weather in Paris and population of Oslo?")

    assert talk.calls == [("get_weather", {"city": "Paris"}), ("get_population", {"city": "Oslo"})]


def test_a_converter_does_not_convert_back():
    tools = [
        WEATHER[1],
        tool("to_celsius", "Convert a temperature from Fahrenheit to Celsius.", fahrenheit=NUMBER),
    ]
    talk = Conversation(tools, {**FUNCTIONS, "to_celsius": lambda fahrenheit: (fahrenheit - 32) * 5 / 9})

    text = talk.say("What is 20 celsius in Fahrenheit?")

    assert talk.calls == [("to_fahrenheit", {"celsius": 20})]
    assert text == "20 °C in Fahrenheit: 68."


def test_a_tool_never_feeds_itself():
    pages = tool("list_pages", "List pages.", optional=["cursor"], cursor=STRING)
    talk = Conversation([pages], {"list_pages": lambda cursor=None: {"cursor": f"{cursor}x"}})

    talk.say("list the pages")

    assert talk.calls == [("list_pages", {})]


# Turns


def test_an_elliptic_message_goes_on_from_the_last_one_that_named_a_tool(weather):
    weather.say("What's the weather in Paris, in Fahrenheit?")
    weather.say("My name is Ada.")

    text = weather.say("and Oslo?")

    assert weather.calls == [("get_weather", {"city": "Oslo"}), ("to_fahrenheit", {"celsius": 3})]
    assert text == "Oslo: 3 °C, snow. In Fahrenheit: 37.4."


def test_an_opened_message_goes_on_although_it_names_a_tool(weather):
    weather.say("What's the weather in Paris?")

    text = weather.say("and Oslo, in Fahrenheit?")

    assert text == "Oslo: 3 °C, snow. In Fahrenheit: 37.4."


def test_an_opened_message_that_is_whole_stands_alone():
    tools = [WEATHER[0], tool("delete_backups", "Delete backups.", older_than_days={"type": "integer"})]
    talk = Conversation(
        tools, {"get_weather": get_weather, "delete_backups": lambda older_than_days: {"deleted": 3}}
    )
    talk.say("weather in Paris")

    talk.say("Also delete backups older than 90 days")

    assert talk.calls == [("delete_backups", {"older_than_days": 90})]


def test_a_question_about_one_thing_is_not_answered_with_another(weather):
    weather.say("weather in Paris")

    assert "Paris" not in weather.say("Is it raining in Lima?")


def test_a_missing_argument_is_asked_for_and_the_answer_is_used(weather):
    question = weather.say("What is the weather?")

    assert weather.calls == []
    assert question == "To call get_weather I need the city: please tell me."
    assert weather.say("Oslo") == "Oslo: 3 °C, snow."


def test_a_follow_up_uses_the_result_of_the_turn_before(weather):
    weather.say("weather in Paris")

    weather.say("What is that in Fahrenheit?")

    assert weather.calls == [("to_fahrenheit", {"celsius": 11})]


def test_after_a_failure_the_result_of_an_older_turn_is_not_used(weather):
    weather.say("weather in Paris")

    text = weather.say("weather in Atlantis, in Fahrenheit")

    assert weather.calls == [("get_weather", {"city": "Atlantis"})]
    assert text == "get_weather failed for Atlantis: no station in Atlantis."


def test_a_later_question_is_answered_with_what_was_said_earlier():
    talk = Conversation()
    talk.say("My name is Ada.")
    talk.say("I like tea.")

    assert talk.say("What is my name?") == 'You told me: "My name is Ada".'


def test_a_question_is_answered_from_the_instructions():
    talk = Conversation(instructions="You work at a returns desk.\nGoods may be returned for 30 days.")

    assert (
        talk.say("How many days for returns?") == 'My instructions say: "Goods may be returned for 30 days".'
    )


def test_what_it_does_not_know_it_says(weather):
    text = weather.say("What is the capital of France?")

    assert "found no tool for it" in text
    assert "get_weather" in text


def test_it_says_what_it_is(weather):
    assert "I do not think" in weather.say("Hello")
    assert "does not think" in DESCRIPTION


def test_an_image_is_not_claimed_to_be_seen():
    talk = Conversation()
    talk.add(
        "user",
        parts=(
            TextPart(text="What is in the picture?"),
            ImageFilePart(image_file=ImageFile(file_id="file_1")),
        ),
    )

    assert "cannot see the image" in decide(talk.request()).text


def test_a_thread_without_a_message_is_no_error():
    assert decide(ModelRequest(model="offline", instructions="", messages=())).text


# Arguments


ARGUMENTS = [
    (
        tool("get_order", "Look up an order.", order_id=STRING),
        "Order 1007 arrived broken",
        {"order_id": "1007"},
    ),
    (
        tool("get_order", "Look up an order.", order_id=STRING),
        "Where is my order #A-17?",
        {"order_id": "A-17"},
    ),
    (
        tool("delete_backups", "Delete old backups.", older_than_days={"type": "integer"}),
        "delete backups older than 90 days",
        {"older_than_days": 90},
    ),
    (tool("add", "Add two numbers.", a=NUMBER, b=NUMBER), "Add 2 and 3.5", {"a": 2, "b": 3.5}),
    (
        tool("sum_numbers", "Sum numbers.", numbers={"type": "array", "items": NUMBER}),
        "Sum the numbers 1, 2 and -3",
        {"numbers": [1, 2, -3]},
    ),
    (
        tool(
            "rate",
            "Exchange rate between currencies.",
            base={"type": "string", "pattern": "^[A-Z]{3}$"},
            quote={"type": "string", "pattern": "^[A-Z]{3}$"},
        ),
        "What is the rate from usd to eur?",
        {"base": "USD", "quote": "EUR"},
    ),
    (
        tool("search_flights", "Search flights.", origin=STRING, destination=STRING),
        "flights to Oslo from New York",
        {"origin": "New York", "destination": "Oslo"},
    ),
    (
        tool(
            "book_table",
            "Book a table.",
            optional=["outdoor"],
            restaurant=STRING,
            people={"type": "integer"},
            date={"type": "string", "format": "date"},
            outdoor={"type": "boolean"},
        ),
        "Book a table at Chez Nous for four people on 12 March 2026, not outdoor",
        {"restaurant": "Chez Nous", "people": 4, "date": "2026-03-12", "outdoor": False},
    ),
    (
        tool("set_light", "Switch a light.", room=STRING, state={"type": "string", "enum": ["on", "off"]}),
        'Light off in the "Blue Room"',
        {"room": "Blue Room", "state": "off"},
    ),
    (
        tool("send_note", "Send a note.", to={"type": "string", "format": "email"}, text=STRING),
        'Send a note to ada@example.org: "Lunch at one"',
        {"to": "ada@example.org", "text": "Lunch at one"},
    ),
    (
        tool("open_page", "Open a page.", url=STRING),
        "Open https://example.com/a?b=1.",
        {"url": "https://example.com/a?b=1"},
    ),
    (tool("calculate", "Evaluate.", expression=STRING), "Calculate 2*(3+4)", {"expression": "2*(3+4)"}),
    (
        tool("search", "Search documents.", query=STRING),
        "search for durable execution",
        {"query": "durable execution"},
    ),
    (tool("define", "Define a word.", word=STRING), "define serendipity", {"word": "serendipity"}),
    (
        tool("tag_note", "Tag a note.", note_id=STRING, tags={"type": "array", "items": STRING}),
        "Tag note N-12 with tags: red, blue and green",
        {"note_id": "N-12", "tags": ["red", "blue", "green"]},
    ),
    (
        tool(
            "add_contact",
            "Add a contact.",
            contact={
                "type": "object",
                "properties": {"name": STRING, "email": {"type": "string", "format": "email"}},
                "required": ["name", "email"],
            },
        ),
        "Add a contact named Ada Lovelace, ada@example.org",
        {"contact": {"name": "Ada Lovelace", "email": "ada@example.org"}},
    ),
    (
        tool(
            "pay", "Pay an invoice.", optional=["currency"], amount=NUMBER, currency={"enum": ["EUR", "USD"]}
        ),
        "Pay 1,250.50 EUR",
        {"amount": 1250.5, "currency": "EUR"},
    ),
]


@pytest.mark.parametrize(("definition", "message", "arguments"), ARGUMENTS, ids=[m for _, m, _ in ARGUMENTS])
def test_arguments_are_taken_from_the_message(definition, message, arguments):
    talk = Conversation([definition], {definition.name: lambda **given: "ok"})

    talk.say(message)

    assert talk.calls == [(definition.name, arguments)]
    jsonschema_rs.validator_for(definition.parameters).validate(arguments)


def test_a_value_that_does_not_fit_the_schema_is_not_taken():
    talk = Conversation(
        [tool("set_volume", "Set the volume.", level={"type": "integer", "minimum": 0, "maximum": 10})]
    )

    assert "I need the level" in talk.say("set the volume level to 90")


def test_an_optional_argument_is_not_guessed():
    definition = tool(
        "get_weather", "Weather of a city.", optional=["days"], city=STRING, days={"type": "integer"}
    )
    talk = Conversation([definition], {"get_weather": lambda city: {"celsius": 1}})

    talk.say("weather in Paris for flight 4711")

    assert talk.calls == [("get_weather", {"city": "Paris"})]


def test_references_within_a_schema_are_followed():
    definition = ToolDefinition(
        "move",
        "Move a robot.",
        {
            "type": "object",
            "properties": {"direction": {"$ref": "#/$defs/Direction"}},
            "required": ["direction"],
            "$defs": {"Direction": {"type": "string", "enum": ["north", "south"]}},
        },
    )
    talk = Conversation([definition], {"move": lambda direction: None})

    talk.say("Move the robot south")

    assert talk.calls == [("move", {"direction": "south"})]


def test_a_pattern_that_would_run_for_ever_is_not_run():
    definition = tool("check_code", "Check a code.", code={"type": "string", "pattern": "^(a+)+$"})
    talk = Conversation([definition], {"check_code": lambda code: True})

    talk.say("check the code " + "a" * 60 + "1")

    assert [name for name, _ in talk.calls] == ["check_code"]


# Choice


def test_tool_choice_none_gives_words():
    talk = Conversation(WEATHER, FUNCTIONS, tool_choice="none")

    talk.say("What's the weather in Paris?")

    assert talk.calls == []


def test_tool_choice_required_calls_what_fits_best_and_then_answers():
    talk = Conversation(WEATHER, FUNCTIONS, tool_choice="required")

    assert talk.say("Tell me about Paris") == "Paris: 11 °C, rain."


def test_a_named_tool_is_called_and_no_other():
    talk = Conversation(WEATHER, FUNCTIONS, tool_choice="to_fahrenheit")

    talk.say("The weather in Paris at 20")

    assert talk.calls == [("to_fahrenheit", {"celsius": 20})]


def test_a_forced_tool_without_its_argument_is_not_called_with_an_invented_one():
    talk = Conversation(WEATHER, FUNCTIONS, tool_choice="to_fahrenheit")

    assert "celsius" in talk.say("Go ahead")
    assert talk.calls == []


def test_the_tool_that_is_named_more_fully_is_preferred():
    tools = [WEATHER[0], tool("get_weather_alerts", "Weather alerts of a city.", city=STRING)]
    talk = Conversation(tools, {"get_weather_alerts": lambda city: []})

    text = talk.say("weather alerts in Paris")

    assert [name for name, _ in talk.calls] == ["get_weather_alerts"]
    assert text == "Weather alerts (Paris): nothing found."


# Words


RESULTS = [
    (
        {"total": 35, "days_ago": 4, "shipped": True, "note": None},
        "Order 1007: total 35, 4 days ago, shipped, no note.",
    ),
    ({"wind_kmh": 12.5, "humidity_percent": 80}, "Order 1007: wind 12.5 km/h, humidity 80 %."),
    ({"status": "open", "in_stock": False}, "Order 1007: status open, not in stock."),
    ({"address": {"street": "Rue 1", "zip": 75001}}, "Order 1007: address (street Rue 1, zip 75001)."),
    ({"items": ["lamp", "desk", "chair"]}, "Order 1007: items: lamp, desk and chair."),
    ("Delivered to the neighbour on Friday.", "Order 1007: Delivered to the neighbour on Friday."),
    (True, "Order (order 1007): done."),
    (12, "Order 1007: order 12."),
    ([{"item": "lamp", "price_eur": 3}], "Order (order 1007): lamp, price 3 EUR."),
]


@pytest.mark.parametrize(("result", "text"), RESULTS, ids=[t for _, t in RESULTS])
def test_results_are_put_in_words(result, text):
    talk = Conversation(
        [tool("get_order", "An order.", order_id=STRING)], {"get_order": lambda order_id: result}
    )

    assert talk.say("order 1007") == text


@pytest.mark.parametrize(
    "result",
    [
        '{"error": "no such order"}',
        "Error: no such order",
        '{"error": {"type": "x", "message": "no such order"}}',
    ],
)
def test_errors_are_reported_in_words(result):
    talk = Conversation(
        [tool("get_order", "An order.", order_id=STRING)], {"get_order": lambda order_id: result}
    )

    assert talk.say("order 1007") == "get_order failed for order 1007: no such order."


# The output schema


def shaped(schema, text, **fields):
    talk = Conversation(output_schema=schema, **fields)
    document = json.loads(talk.say(text))
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(document)
    return document


def object_of(*, optional=(), **properties):
    return tool("x", optional=optional, **properties).parameters


def test_an_output_is_filled_from_the_message_by_key_name():
    schema = object_of(
        order_id=STRING,
        email={"type": "string", "format": "email"},
        amount=NUMBER,
        currency={"type": "string", "enum": ["EUR", "USD"]},
        urgent={"type": "boolean"},
        category={"type": "string", "enum": ["billing", "other"]},
        due={"type": ["string", "null"], "format": "date"},
        summary=STRING,
    )

    document = shaped(schema, "Order 1007 broke. Please refund 35 EUR to ada@example.org. It is urgent!")

    assert document == {
        "order_id": "1007",
        "email": "ada@example.org",
        "amount": 35,
        "currency": "EUR",
        "urgent": True,
        "category": "other",
        "due": None,
        "summary": "Order 1007 broke.",
    }


def test_an_output_is_filled_from_results():
    talk = Conversation(
        WEATHER,
        FUNCTIONS,
        output_schema=object_of(city=STRING, celsius=NUMBER, sky=STRING, fahrenheit=NUMBER, answer=STRING),
    )

    document = json.loads(talk.say("What's the weather in Paris, in Fahrenheit?"))

    assert document == {
        "city": "Paris",
        "celsius": 11,
        "sky": "rain",
        "fahrenheit": 51.8,
        "answer": "Paris: 11 °C, rain. In Fahrenheit: 51.8.",
    }


def test_a_list_of_objects_has_one_for_each_that_the_message_lists():
    schema = object_of(people={"type": "array", "items": object_of(name=STRING)})

    assert shaped(schema, "Ada and Bob") == {"people": [{"name": "Ada"}, {"name": "Bob"}]}


def test_an_output_remembers_earlier_messages():
    talk = Conversation(output_schema=object_of(name=STRING))
    talk.say("My name is Ada.")

    assert json.loads(talk.say("Fill in the form."))["name"] == "Ada"


SCHEMAS = [
    object_of(
        code={"type": "string", "pattern": "^[A-Z]{3}-\\d{4}(x|y)$"}, level={"type": "integer", "minimum": 3}
    ),
    object_of(ratio={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, version={"const": "1"}),
    object_of(
        n={"type": "integer", "multipleOf": 5, "minimum": 12, "maximum": 18},
        below={"type": "number", "maximum": -4},
    ),
    object_of(
        text={"type": "string", "minLength": 5, "maxLength": 6}, id={"type": "string", "minLength": 12}
    ),
    object_of(tags={"type": "array", "items": STRING, "minItems": 3, "uniqueItems": True}),
    object_of(
        picks={"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 2, "uniqueItems": True}
    ),
    object_of(
        steps={"type": "array", "items": object_of(n={"type": "integer"}), "minItems": 2, "maxItems": 2}
    ),
    object_of(when={"type": "string", "format": "date-time"}, id={"type": "string", "format": "uuid"}),
    object_of(
        either={"anyOf": [{"type": "integer"}, {"type": "null"}]}, both={"allOf": [STRING, {"minLength": 3}]}
    ),
    object_of(optional=["next"], value=STRING, next={"$ref": "#"}),
    {"type": "array", "items": NUMBER},
    {"type": "integer", "minimum": 7},
    {"type": "string", "minLength": 1},
    {"type": "boolean"},
]


@pytest.mark.parametrize("text", ["", "nothing to see", "Ada, 12 and 13.5, 2026-01-02, x@example.org, yes"])
@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_an_output_fits_its_schema_whatever_is_said(schema, text):
    shaped(schema, text)


scalars = st.one_of(
    st.builds(lambda n: {"type": "string", "minLength": n, "maxLength": n + 9}, st.integers(0, 20)),
    st.builds(lambda n: {"type": "integer", "minimum": n, "maximum": n + 50}, st.integers(-100, 100)),
    st.builds(lambda n: {"type": "number", "minimum": n}, st.integers(-9, 9)),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=8), min_size=1, unique=True)),
    st.sampled_from([{"type": "boolean"}, {"type": ["string", "null"]}, {"type": "null"}, {"const": 3}]),
    st.sampled_from(["date", "date-time", "email", "uuid", "uri"]).map(
        lambda f: {"type": "string", "format": f}
    ),
)
names = st.sampled_from(
    [
        "name",
        "city",
        "amount",
        "total_days",
        "is_open",
        "reply",
        "summary",
        "email",
        "url",
        "tags",
        "date",
        "note",
        "id",
    ]
)


def nested(inner):
    return st.one_of(
        st.builds(
            lambda items, n: {"type": "array", "items": items, "minItems": n}, inner, st.integers(0, 3)
        ),
        st.builds(
            lambda properties, wanted: {
                "type": "object",
                "properties": properties,
                "required": [n for n in properties if n in wanted],
                "additionalProperties": False,
            },
            st.dictionaries(names, inner, max_size=5),
            st.sets(names),
        ),
    )


@settings(max_examples=150, deadline=None)
@given(
    schema=st.recursive(scalars, nested, max_leaves=12),
    text=st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                [
                    "Ada",
                    "in",
                    "Oslo",
                    "and",
                    "12",
                    "13.5",
                    "€",
                    "“x",
                    "y”",
                    "a@example.org",
                    "2026-02-30",
                    "name",
                    "is",
                    "no",
                    "tags:",
                    "?",
                ]
            )
        ).map(" ".join),
    ),
)
def test_any_output_fits_any_schema(schema, text):
    reply = decide(Conversation(output_schema=schema, instructions="").request_for(text))

    jsonschema_rs.validator_for(schema, validate_formats=True).validate(json.loads(reply.text))


@settings(max_examples=150, deadline=None)
@given(
    schema=st.recursive(scalars, nested, max_leaves=8).map(
        lambda s: {"type": "object", "properties": {"name": s}}
    ),
    text=st.text(max_size=60),
)
def test_arguments_always_fit_the_parameters(schema, text):
    definition = ToolDefinition("open_file", "Open a file by name.", schema | {"required": ["name"]})
    reply = decide(Conversation([definition], instructions="").request_for(f"open the file {text}"))

    for call in reply.tool_calls:
        jsonschema_rs.validator_for(definition.parameters).validate(json.loads(call.arguments))


# The reply


def test_text_is_streamed_word_by_word():
    deltas: list[Delta] = []
    talk = Conversation()
    talk.add("user", text="My name is Ada.")

    reply = asyncio.run(OfflineProvider().call(talk.request(), deltas.append))

    texts = [d.text for d in deltas if isinstance(d, TextDelta)]
    assert "".join(texts) == reply.text
    assert len(texts) == len(reply.text.split())


def test_calls_are_streamed_in_pieces():
    deltas: list[Delta] = []
    talk = Conversation(WEATHER)
    talk.add("user", text="weather in Paris and Oslo")

    reply = asyncio.run(OfflineProvider().call(talk.request(), deltas.append))

    pieces = [d for d in deltas if isinstance(d, ToolCallDelta)]
    assert [p.id for p in pieces if p.id] == ["call_1", "call_2"]
    assert "".join(p.arguments for p in pieces if p.index == 1) == reply.tool_calls[1].arguments


def test_ids_go_on_where_the_window_ends_even_where_it_was_cut():
    talk = Conversation(WEATHER)
    talk.add("user", text="weather in Oslo")
    talk.add(
        "assistant", tool_calls=(ToolCall(id="call_7", name="get_weather", arguments='{"city": "Oslo"}'),)
    )
    talk.add("tool", text="{}", reply_seq=2, call_index=0)
    talk.add("user", text="weather in Paris")

    assert [c.id for c in decide(talk.request()).tool_calls] == ["call_8"]


def test_usage_is_estimated_from_bytes():
    talk = Conversation(instructions="1234")
    talk.add("user", text="My name is Ada.")

    reply = decide(talk.request())

    assert reply.usage.estimated
    assert reply.usage.prompt_tokens == 5
    assert reply.usage.completion_tokens == -(-len(reply.text.encode()) // 4)


def test_a_reply_longer_than_allowed_is_cut_and_says_so():
    talk = Conversation(options=ModelOptions(max_output_tokens=3))
    talk.add("user", text="My name is Ada.")

    reply = decide(talk.request())

    assert reply.finish_reason == "length"
    assert reply.text == 'Noted: "My n'
    assert reply.usage.completion_tokens == 3


def test_a_cut_never_splits_a_character():
    talk = Conversation(options=ModelOptions(max_output_tokens=3))
    talk.add("user", text="ÄÖÜß")

    assert decide(talk.request()).text == 'Noted: "ÄÖ'


def test_a_reply_that_fits_is_not_cut():
    talk = Conversation(options=ModelOptions(max_output_tokens=100))
    talk.add("user", text="My name is Ada.")

    assert decide(talk.request()).finish_reason == "stop"


def test_a_stop_text_ends_the_reply():
    talk = Conversation(options=ModelOptions(stop="name"))
    talk.add("user", text="My name is Ada.")

    assert decide(talk.request()).text == 'Noted: "My '


def test_the_same_request_gives_the_same_reply_in_every_process():
    script = (
        "from treadle.objects.message import Message\n"
        "from treadle.providers.base import ModelRequest, ToolDefinition\n"
        "from treadle.providers.offline import decide\n"
        "props = {n: {'type': 'string'} for n in ('city', 'origin', 'name', 'topic')}\n"
        "tools = [ToolDefinition(f'{v}_weather', 'Weather of a city', {'type': 'object', 'properties': props,"
        " 'required': ['city']}) for v in ('get', 'show', 'find')]\n"
        "row = Message(id='m', thread_id='t', role='user', text='Weather in Paris and Oslo for Ada, 3 days',"
        " created_ms=0)\n"
        "print(decide(ModelRequest(model='offline', instructions='', messages=(row,), tools=tools)))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(outputs) == 1


def test_it_needs_nothing_but_the_standard_library():
    script = (
        "import sys, treadle.providers.base\n"
        "before = set(sys.modules)\n"
        "import treadle.providers.offline\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'treadle'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
