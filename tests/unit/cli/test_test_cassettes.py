"""`treadle test --record`: live tests ask an endpoint once, and their cassettes are replayed without it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from treadle.cli import invoke
from treadle.testing.chat_server import Call, ChatServer, Reply, error_reply

Captured = pytest.CaptureFixture[str]

KEY = "sk-a-key-that-nobody-may-see"

AGENT = """\
version: 1.0.0
kind: agent
name: desk
model: {{id: gpt-test, connection: main}}
connections: {{main: {{type: openai, base_url: '{url}', api_key: '${{secret:DESK_KEY}}', max_retries: 0, headers: {{x-team: '${{secret:DESK_KEY}}'}}}}}}
instructions: It is {{{{ now }}}} in {{{{ run.id }}}}. Be kind.
tools:
  - {{type: function, name: look, call: 'shop:look', effect: pure}}
  - {{type: function, name: pay, call: 'shop:pay'}}
tests:
"""

LIVE = """\
  - name: it looks & answers
    live: true
    messages: [{user: 'Where is order 7?'}]
    expect: {tools_called: [look], text_contains: road}
"""

SHOP = '''\
def look(order: str) -> str:
    """Look up an order."""
    return "on the road"


def pay(amount: float) -> str:
    """Pay."""
    raise AssertionError("a test never pays")
'''

TURNS = (Reply(calls=[Call("look", '{"order": "7"}')]), Reply(text="It is on the road."))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DESK_KEY", KEY)
    (tmp_path / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\nname: desk\npython: {allow_modules: [shop]}\n"
    )
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def serve() -> Iterator[Callable[..., ChatServer]]:
    """Give what starts an endpoint that replies so, and writes an agent that asks it."""
    servers: list[ChatServer] = []

    def start(*turns: object, tests: str = LIVE, **options: object) -> ChatServer:
        server = ChatServer(turns, **options).start()
        servers.append(server)
        write(tests, server.base_url)
        return server

    yield start
    for server in servers:
        server.stop()


def write(tests: str = LIVE, url: str = "http://127.0.0.1:9/v1") -> None:
    Path("desk.agent.yaml").write_text(AGENT.format(url=url) + tests)


def cassettes() -> list[Path]:
    return sorted(Path("desk.agent.yaml.cassettes").glob("*"))


def test_a_live_test_without_a_cassette_is_left_out_and_says_so(capsys: Captured) -> None:
    write()
    assert invoke(["test", "desk.agent.yaml"]) == 0
    err = capsys.readouterr().err
    assert "skipped  desk.agent.yaml  it looks & answers  (it needs a model: --record asks it once" in err


def test_what_was_recorded_is_replayed_without_the_endpoint_and_its_key(
    serve: Callable[..., ChatServer], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    server = serve(*TURNS)
    assert invoke(["test", "desk.agent.yaml", "--record"]) == 0, capsys.readouterr().err
    assert len(server.requests) == 2
    (cassette,) = cassettes()
    assert cassette.name.startswith("it-looks-answers-")
    monkeypatch.delenv("DESK_KEY")
    write()
    capsys.readouterr()
    assert invoke(["test", "desk.agent.yaml", "--json"]) == 0, capsys.readouterr().err
    (found,) = json.loads(capsys.readouterr().out)["tests"]
    assert (found["status"], found["replies"]) == ("passed", "replay")
    assert len(server.requests) == 2


def test_a_cassette_has_no_key_no_address_and_no_prompt(serve: Callable[..., ChatServer]) -> None:
    server = serve(*TURNS)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    text = cassettes()[0].read_text()
    for secret in (KEY, str(server.port), "Be kind", "Where is order 7", "x-team", "authorization"):
        assert secret.lower() not in text.lower()
    kept = json.loads(text)
    assert kept["test"] == "it looks & answers"
    assert [e["reply"].get("text") for e in kept["conversations"][0]] == [None, "It is on the road."]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "Be kind",
            "Be rude",
            "model call 1 is not the one of the cassette: its instructions are other ones",
        ),
        (
            "order 7?",
            "order 8?",
            "model call 1 is not the one of the cassette: message 1 (user) is another one",
        ),
        ("name: pay, call: 'shop:pay'", "name: pay, description: Pay it, call: 'shop:pay'", "its tools are"),
        ("gpt-test, connection: main", "gpt-test, connection: main, options: {seed: 1}", "its settings are"),
    ],
)
def test_another_conversation_fails_and_says_where_it_differs(
    serve: Callable[..., ChatServer], capsys: Captured, old: str, new: str, said: str
) -> None:
    serve(*TURNS)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    document = Path("desk.agent.yaml")
    document.write_text(document.read_text().replace(old, new))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "record it again: treadle test --record" in err


def test_a_tool_that_gives_something_else_makes_another_conversation(
    serve: Callable[..., ChatServer], capsys: Captured
) -> None:
    tests = LIVE.replace("    expect", "    mock: {tools: {look: {returns: on the road}}}\n    expect")
    serve(*TURNS, tests=tests)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    document = Path("desk.agent.yaml")
    document.write_text(document.read_text().replace("returns: on the road", "returns: lost"))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert (
        "model call 2 is not the one of the cassette: message 3 (tool) is another one"
        in capsys.readouterr().err
    )


def test_a_conversation_that_ends_before_the_cassette_fails(
    serve: Callable[..., ChatServer], capsys: Captured
) -> None:
    serve(*TURNS)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    (cassette,) = cassettes()
    kept = json.loads(cassette.read_text())
    kept["conversations"][0].append(kept["conversations"][0][1])
    cassette.write_text(json.dumps(kept))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert "cassette: the cassette has 1 more replies that nobody asked for" in capsys.readouterr().err


def test_live_asks_every_time_and_keeps_nothing(serve: Callable[..., ChatServer]) -> None:
    server = serve(*TURNS, *TURNS)
    assert invoke(["test", "-q", "desk.agent.yaml", "--live"]) == 0
    assert invoke(["test", "-q", "desk.agent.yaml", "--live"]) == 0
    assert len(server.requests) == 4
    assert cassettes() == []


def test_a_tool_that_is_not_pure_is_never_called_live(
    serve: Callable[..., ChatServer], capsys: Captured
) -> None:
    serve(Reply(calls=[Call("pay", '{"amount": 1}')]), Reply(text="It is on the road."))
    assert invoke(["test", "-q", "desk.agent.yaml", "--live"]) == 1
    err = capsys.readouterr().err
    assert 'tool pay was called with {"amount": 1}' in err
    assert "never pays" not in err


def test_a_test_that_is_not_live_asks_nobody_when_others_are_recorded(
    serve: Callable[..., ChatServer], capsys: Captured
) -> None:
    tests = "  - {name: scripted, mock: {model: [{text: Hi}]}, expect: {output: Hi}}\n"
    server = serve(*TURNS, tests=LIVE + tests)
    assert invoke(["test", "desk.agent.yaml", "--record"]) == 0
    assert len(server.requests) == 2
    assert len(cassettes()) == 1
    assert "recorded" in capsys.readouterr().err


def test_what_was_replied_is_kept_though_the_test_fails(
    serve: Callable[..., ChatServer], capsys: Captured
) -> None:
    serve(*TURNS, tests=LIVE.replace("text_contains: road", "text_contains: sea"))
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 1
    document = Path("desk.agent.yaml")
    document.write_text(document.read_text().replace("text_contains: sea", "text_contains: road"))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 0, capsys.readouterr().err


def test_an_endpoint_that_breaks_leaves_the_older_cassette(
    serve: Callable[..., ChatServer], capsys: Captured
) -> None:
    serve(*TURNS)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    before = cassettes()[0].read_text()
    serve(TURNS[0], error_reply(500, "it broke"))
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 1
    assert cassettes()[0].read_text() == before
    assert "it broke" in capsys.readouterr().err


def test_a_reply_that_repeats_the_key_is_not_kept(serve: Callable[..., ChatServer], capsys: Captured) -> None:
    serve(TURNS[0], Reply(text=f"The road is {KEY}."))
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 1
    assert cassettes() == []
    assert "a reply of the model repeats a key or a header of its connection" in capsys.readouterr().err


def test_each_repetition_has_a_conversation_of_its_own(
    serve: Callable[..., ChatServer], capsys: Captured
) -> None:
    tests = LIVE.replace("live: true", "live: true\n    repeat: 2")
    server = serve(*TURNS, *TURNS, tests=tests)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 0
    assert len(server.requests) == 4
    document = Path("desk.agent.yaml")
    document.write_text(document.read_text().replace("repeat: 2", "repeat: 3"))
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert "the cassette has 2 of 3 conversations: record it again" in capsys.readouterr().err


def test_a_broken_cassette_is_told(serve: Callable[..., ChatServer], capsys: Captured) -> None:
    serve(*TURNS)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    (cassette,) = cassettes()
    cassette.write_text("{}")
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert "is no cassette" in capsys.readouterr().err
    cassette.write_text('{"format": 9, "test": "x", "conversations": [[]]}')
    assert invoke(["test", "-q", "desk.agent.yaml"]) == 1
    assert "has the format 9, not 1" in capsys.readouterr().err


def test_tests_of_one_name_have_cassettes_of_their_own(serve: Callable[..., ChatServer]) -> None:
    server = serve(*TURNS, *TURNS, tests=LIVE + LIVE)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == 0
    assert len(cassettes()) == 2
    assert len(server.requests) == 4


JUDGED = """\
    judge: {rubric: It names the place., min_score: 0.7}
"""


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        ('{"score": 0.9, "reason": "it does"}', 0, ""),
        ('{"score": 0.4, "reason": "it is vague"}', 1, "judge: it is vague"),
        ("Well, 10 of 10!", 1, "judge: the judge gave no score from 0 to 1"),
        ('{"score": 7, "reason": "great"}', 1, "judge: the judge gave no score from 0 to 1"),
    ],
)
def test_a_judge_gives_marks_and_is_replayed(
    serve: Callable[..., ChatServer], capsys: Captured, reply: str, code: int, said: str
) -> None:
    server = serve(*TURNS, Reply(text=reply), tests=LIVE + JUDGED)
    assert invoke(["test", "-q", "desk.agent.yaml", "--record"]) == code
    asked = json.dumps(server.requests[2].messages)
    assert "It names the place." in asked
    assert "It is on the road." in asked
    assert said in capsys.readouterr().err
    assert invoke(["test", "-q", "desk.agent.yaml"]) == code
    assert said in capsys.readouterr().err
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (
            LIVE.replace("    expect", "    mock: {model: [{text: x}]}\n    expect"),
            "a live test asks the model itself",
        ),
        (
            "  - {name: t, mock: {model: [{text: x}]}, judge: {rubric: x}}\n",
            "a judge is a model: say live: true",
        ),
    ],
)
def test_a_test_that_contradicts_itself_fails(
    serve: Callable[..., ChatServer], capsys: Captured, tests: str, said: str
) -> None:
    serve(tests=tests)
    assert invoke(["test", "-q", "desk.agent.yaml", "--live"]) == 1
    assert said in capsys.readouterr().err
