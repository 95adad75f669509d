"""Streams of runs, byte by byte: their order, their pieces, their framing, and the transcripts that they must give.

The transcripts stand in `golden/`; ids are numbered by their appearance and times are left out. They are written anew
by `WIRE_GOLDEN=write pytest tests/wire/test_streams.py`: look at the difference before it is committed.
"""

import asyncio
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from treadle.errors import ProviderError
from treadle.objects.project import ServeSpec
from treadle.service.event_lines import EventLines
from treadle.service.runs import Runs
from treadle.testing.event_reader import Heard, read_events

GOLDEN = Path(__file__).parent / "golden"
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Tell the weather."}}
ASK = {"calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}], "usage": None}
ASK_TWICE = {
    "calls": [
        {"name": "get_weather", "arguments": {"city": "Paris"}},
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
    ]
}
ENDS = ("completed", "incomplete", "failed", "cancelled", "expired")


class Talk:
    """A client of one assistant and one thread that keeps every stream as it came."""

    def __init__(self, http: httpx2.Client, **assistant: Any) -> None:
        self.http = http
        made = http.post("/v1/assistants", json={"model": "scripted", "name": "Wanda"} | assistant)
        assert made.status_code == 200, made.text
        self.assistant = made.json()["id"]
        self.thread = http.post(
            "/v1/threads", json={"messages": [{"role": "user", "content": "Hello"}]}
        ).json()["id"]

    @property
    def runs(self) -> str:
        return f"/v1/threads/{self.thread}/runs"

    @property
    def last(self) -> dict[str, Any]:
        """Give the thread's newest run."""
        return self.http.get(self.runs).json()["data"][0]

    def stream(self, **fields: Any) -> bytes:
        """Run to the end of the stream."""
        answer = self.http.post(self.runs, json={"assistant_id": self.assistant, "stream": True} | fields)
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
        return answer.content

    def open(self, **headers: str) -> Any:
        """Open a stream that is read piece by piece."""
        body = {"assistant_id": self.assistant, "stream": True}
        return self.http.stream("POST", self.runs, json=body, headers=headers)

    def submit(
        self, *outputs: str, run: dict[str, Any] | None = None, stream: bool = True
    ) -> httpx2.Response:
        run = run or self.last
        calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        given = [{"tool_call_id": c["id"], "output": o} for c, o in zip(calls, outputs, strict=True)]
        body = {"tool_outputs": given, "stream": stream}
        return self.http.post(f"{self.runs}/{run['id']}/submit_tool_outputs", json=body)

    def replay(self, run_id: str | None = None, after: int = 0) -> bytes:
        return self.http.get(
            f"{self.runs}/{run_id or self.last['id']}/events", params={"after": after}
        ).content


# -- the transcripts -------------------------------------------------------------------------------------------------


def plain(model, http, alone) -> bytes:
    model.says("Hello, how are you?")
    return Talk(http, instructions="Be kind.").stream()


def one_tool(model, http, alone) -> bytes:
    model.says(ASK, "It rains.")
    talk = Talk(http, tools=[WEATHER])
    return talk.stream() + talk.submit("rain").content


def two_tools(model, http, alone) -> bytes:
    model.says(ASK_TWICE, "Rain and snow.")
    talk = Talk(http, tools=[WEATHER])
    return talk.stream() + talk.submit("rain", "snow").content


def text_and_tool(model, http, alone) -> bytes:
    model.says({"text": "Let me see."} | ASK, "It rains.")
    talk = Talk(http, tools=[WEATHER])
    return talk.stream() + talk.submit("rain").content


def thread_and_run(model, http, alone) -> bytes:
    model.says("Hi.")
    talk = Talk(http)
    body = {"assistant_id": talk.assistant, "stream": True, "metadata": {"a": "1"}}
    return http.post("/v1/threads/runs", json=body | {"thread": {"metadata": {"b": "2"}}}).content


def failure(model, http, alone) -> bytes:
    model.says(
        ProviderError("Rate limit is exceeded. Try again in 7 seconds.", kind="rate_limit", status=429)
    )
    return Talk(http).stream()


def failure_while_speaking(model, http, alone) -> bytes:
    held = model.holds("It was a dark and", ProviderError("the endpoint broke", kind="http_500", status=500))
    with Talk(http).open() as response:
        held.wait()
        held.release()
        return response.read()


def cancel(model, http, alone) -> bytes:
    held = model.holds("It was a dark and")
    talk = Talk(http)
    with talk.open() as response:
        held.wait()
        talk.http.post(f"{talk.runs}/{talk.last['id']}/cancel")
        return response.read()


def cancel_while_it_waits(model, http, alone) -> bytes:
    model.says(ASK)
    talk = Talk(http, tools=[WEATHER])
    first = talk.stream()
    talk.http.post(f"{talk.runs}/{talk.last['id']}/cancel")
    return first + talk.replay(after=read_events(first)[-2].id or 0)


def max_tokens(model, http, alone) -> bytes:
    model.says({"text": "It was a dark and", "finish_reason": "length"})
    return Talk(http).stream()


def content_filter(model, http, alone) -> bytes:
    model.says({"text": "It was a", "finish_reason": "content_filter"})
    return Talk(http).stream()


def expiry(model, http, alone) -> bytes:
    held = model.holds("It was a dark and")
    own = alone(model, spec=ServeSpec(run_ttl="400ms"))
    with (
        httpx2.Client(base_url=own.url, trust_env=False, timeout=20) as client,
        Talk(client).open() as response,
    ):
        held.wait()
        return response.read()


def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def functions_of_the_server(model, http, alone) -> bytes:
    model.says(ASK_TWICE, ASK, "It rains everywhere.")
    own = alone(model, tools=[get_weather])
    agent = own.do(own.treadle.agents.create(model="scripted", tools=[get_weather]))
    with httpx2.Client(base_url=own.url, trust_env=False, timeout=20) as client:
        talk = Talk(client)
        return talk.stream(assistant_id=agent.id)


SCENES = (
    plain, one_tool, two_tools, text_and_tool, thread_and_run, failure, failure_while_speaking, cancel,
    cancel_while_it_waits, max_tokens, content_filter, expiry, functions_of_the_server,
)  # fmt: skip


@pytest.fixture(params=SCENES, ids=lambda scene: scene.__name__)
def scene(request: pytest.FixtureRequest, model: Any, http: Any, alone: Any) -> tuple[str, bytes]:
    """Give the name and the bytes of each scene."""
    return request.param.__name__, request.param(model, http, alone)


def test_streams_are_as_their_transcripts_and_keep_order_and_framing(scene):
    name, raw = scene
    events = read_events(raw)
    check_order(events)
    check_pieces(events)
    transcript = normalised(raw.decode())
    path = GOLDEN / f"{name}.sse"
    if os.environ.get("WIRE_GOLDEN") == "write":
        path.write_text(transcript)
    assert transcript == path.read_text()


def normalised(text: str) -> str:
    """Number ids by their appearance, and leave times and counted bytes out."""
    names: dict[str, str] = {}
    counts: dict[str, int] = defaultdict(int)

    def name(found: re.Match[str]) -> str:
        id_ = found[0]
        if id_ not in names:
            counts[found[1]] += 1
            names[id_] = f"{found[1]}_{counts[found[1]]}"
        return names[id_]

    text = re.sub(r"\b(asst|thread|msg|run|step)_[0-9A-Za-z]{24}\b", name, text)
    return re.sub(r'("[a-z]+_at"):\d+', r'\1:"time"', text)


def check_order(events: list[Heard]) -> None:
    """Hold a transcript against the order that clients rely on."""
    names = [e.name for e in events]
    assert names[-1] == "done"
    first = 1 if names[0] == "thread.created" else 0
    assert names[first : first + 3] == ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
    assert names[-2] in {"thread.run.requires_action", *(f"thread.run.{end}" for end in ENDS)}
    state: dict[str, str] = {}
    steps: dict[str, str] = {}
    for event in events:
        noun, _, what = event.name.rpartition(".")
        if noun not in ("thread.message", "thread.run.step"):
            if event.name in {f"thread.run.{end}" for end in ENDS}:
                assert set(state.values()) <= set(ENDS), "the run ended before what it began"
            continue
        before = state.get(event.object_id)
        assert (before, what) in {
            (None, "created"), ("created", "in_progress"), ("in_progress", "delta"), ("delta", "delta"),
            *((b, end) for b in ("in_progress", "delta") for end in ENDS),
        }, (event.name, before)  # fmt: skip
        state[event.object_id] = what
        if noun == "thread.message":
            assert event.object_id in steps, "a message without its step"
        elif event.data.get("type") == "message_creation":
            message = event.data["step_details"]["message_creation"]["message_id"]
            steps[message] = event.object_id
            if what in ENDS:
                assert state[message] in ENDS, "the step ended before its message"
    ids = [e.id for e in events if e.id is not None]
    assert ids == sorted(set(ids))


def check_pieces(events: list[Heard]) -> None:
    """Put the deltas together: they are what the completed objects say."""
    texts: dict[str, str] = defaultdict(str)
    calls: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    spoken = 0
    for event in events:
        if event.name == "thread.message.delta":
            [piece] = event.data["delta"]["content"]
            assert (piece["index"], piece["type"]) == (0, "text")
            assert piece["text"]["annotations"] == []
            texts[event.object_id] += piece["text"]["value"]
        elif event.name in ("thread.message.completed", "thread.message.incomplete"):
            spoken += 1
            assert texts[event.object_id] == "".join(c["text"]["value"] for c in event.data["content"])
        elif event.name == "thread.run.step.delta":
            [piece] = event.data["delta"]["step_details"]["tool_calls"]
            known = calls[event.object_id]
            if piece["index"] not in known:
                assert piece["id"]
                assert piece["function"].keys() == {"name", "arguments", "output"}
                assert (piece["function"]["arguments"], piece["function"]["output"]) == ("", None)
                known[piece["index"]] = {"id": piece["id"], "type": "function", "function": piece["function"]}
            else:
                assert piece.keys() == {"index", "type", "function"}
                assert piece["function"].keys() == {"arguments"}
                known[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        elif event.name == "thread.run.requires_action":
            waiting = event.data["required_action"]["submit_tool_outputs"]["tool_calls"]
            told = [c for known in calls.values() for c in known.values()]
            assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in waiting] == [
                (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in told[-len(waiting) :]
            ]
        elif event.name == "thread.run.step.completed" and event.data["type"] == "tool_calls":
            wanted = [c["function"]["arguments"] for c in event.data["step_details"]["tool_calls"]]
            assert [c["function"]["arguments"] for c in calls[event.object_id].values()] == wanted
    assert spoken == len(texts)


def test_every_object_of_a_stream_shows_its_state_at_the_event(scene):
    _, raw = scene
    has_begun = False
    for event in read_events(raw):
        noun, _, what = event.name.rpartition(".")
        if noun == "thread.run":
            run = event.data
            assert run["status"] == ("queued" if what == "created" else what)
            assert (run["required_action"] is not None) is (what == "requires_action")
            assert (run["usage"] is not None) is (what in ENDS)
            assert (run["expires_at"] is None) is (what in ENDS)
            has_begun |= what == "in_progress"
            assert (run["started_at"] is not None) is has_begun
            assert (run["last_error"] is not None) is (what == "failed")
            assert (run["incomplete_details"] is not None) is (what == "incomplete")
            for end in ("completed", "failed", "cancelled"):
                assert (run[f"{end}_at"] is not None) is (what == end)
        elif noun == "thread.run.step" and what != "delta":
            step = event.data
            assert step["status"] == ("in_progress" if what in ("created", "in_progress") else what)
            for end in ("completed", "failed", "cancelled", "expired"):
                assert (step[f"{end}_at"] is not None) is (what == end)
        elif noun == "thread.message" and what != "delta":
            assert event.data["status"] == ("in_progress" if what in ("created", "in_progress") else what)
            assert (event.data["completed_at"] is not None) is (what == "completed")
            assert (event.data["incomplete_details"] is not None) is (what == "incomplete")


# -- following a run -------------------------------------------------------------------------------------------------


def test_a_replay_shows_what_the_stream_showed_pieces_left_out(http, model):
    model.says(ASK_TWICE, ASK, "It rains.")
    talk = Talk(http, tools=[WEATHER])
    live = read_events(talk.stream())
    live += read_events(talk.submit("rain", "snow").content)
    live += read_events(talk.submit("rain").content)
    replayed = read_events(talk.replay())
    assert told_for_good(replayed) == told_for_good(live)
    assert replayed[-1].name == "done"
    waits = [e.data["required_action"] for e in replayed if e.name == "thread.run.requires_action"]
    assert [len(w["submit_tool_outputs"]["tool_calls"]) for w in waits] == [2, 1]


@pytest.mark.parametrize("most", [1, 2, 1000])
def test_a_stream_is_whole_however_little_of_it_is_made_ahead_of_its_reader(http, model, monkeypatch, most):
    monkeypatch.setattr("treadle.server.sse.MOST_READY", most)
    model.says("word " * 300)
    events = read_events(Talk(http).stream())
    check_order(events)
    check_pieces(events)
    assert len([e for e in events if e.name == "thread.message.delta"]) == 300
    assert events[-1].name == "done"


def told_for_good(events: list[Heard]) -> list[tuple[str, Any]]:
    """Give what a replay gives as well; when something began is known better in the end."""
    lasting = [e for e in events if not e.name.endswith((".delta", "done"))]
    return [(e.name, e.data | {"created_at": 0}) for e in lasting]


def test_following_goes_on_after_the_event_that_is_named(http, model):
    model.says(ASK, "It rains.")
    talk = Talk(http, tools=[WEATHER])
    talk.stream()
    talk.submit("rain")
    run = talk.last["id"]
    whole = read_events(talk.replay(run))
    for place, event in enumerate(whole):
        if event.id is None:
            continue
        rest = read_events(talk.replay(run, after=event.id))
        assert rest == whole[place + 1 :]
        header = {"last-event-id": str(event.id)}
        assert read_events(http.get(f"{talk.runs}/{run}/events", headers=header).content) == rest


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "99999999999999999999"])
def test_a_place_that_is_no_number_is_refused(http, model, after):
    model.says("Hi.")
    talk = Talk(http)
    talk.stream()
    answer = http.get(f"{talk.runs}/{talk.last['id']}/events", params={"after": after})
    assert answer.status_code == 400
    assert "'after'" in answer.json()["error"]["message"]


def test_several_readers_follow_one_run_and_each_gets_all_of_it(http, model):
    held = model.holds("One two", " three")
    talk = Talk(http)
    with talk.open() as first:
        held.wait()
        url = f"{talk.runs}/{talk.last['id']}/events"
        with http.stream("GET", url) as second, http.stream("GET", url) as third:
            held.release()
            told = [read_events(r.read()) for r in (first, second, third)]
    late = read_events(http.get(url).content)
    wholes = [
        [(e.name, e.object_id) for e in events if not e.name.endswith(".delta")] for events in (*told, late)
    ]
    assert all(whole == wholes[0] for whole in wholes)
    assert [e for e in told[1] if e.name.endswith(".delta")] == []


def test_following_stays_open_while_the_run_waits_for_its_client(http, model):
    model.says(ASK, "It rains.")
    talk = Talk(http, tools=[WEATHER])
    talk.stream()
    with http.stream("GET", f"{talk.runs}/{talk.last['id']}/events") as response:
        heard = b""
        pieces = response.iter_raw()
        while b"thread.run.requires_action" not in heard:
            heard += next(pieces)
        assert b"[DONE]" not in heard
        talk.submit("rain", stream=False)
        for piece in pieces:
            heard += piece
    assert [e.name for e in read_events(heard)][-2:] == ["thread.run.completed", "done"]


def test_a_stream_ends_at_requires_action_even_if_the_run_has_gone_on_when_that_is_told(
    http, model, monkeypatch
):
    answered = threading.Event()
    tell = EventLines.of

    async def late(self: Any, event: Any) -> Any:
        if event.name == "thread.run.requires_action":
            await asyncio.to_thread(answered.wait, 20)
        return await tell(self, event)

    monkeypatch.setattr(EventLines, "of", late)
    model.says(ASK, "It rains.")
    talk = Talk(http, tools=[WEATHER])
    with talk.open() as first:
        run = until(lambda: talk.last, lambda run: run["status"] == "requires_action")
        talk.submit("rain", run=run, stream=False)
        until(lambda: talk.last, lambda run: run["status"] == "completed")
        answered.set()
        events = read_events(first.read())
    assert [e.name for e in events][-2:] == ["thread.run.requires_action", "done"]
    assert events[-2].data["required_action"] == run["required_action"]


def test_the_stream_of_outputs_begins_while_the_one_before_is_still_open(http, model):
    model.says(ASK, "It rains.")
    talk = Talk(http, tools=[WEATHER])
    with talk.open() as first:
        run = until(lambda: talk.last, lambda run: run["status"] == "requires_action")
        second = read_events(talk.submit("rain", run=run).content)
        names = [e.name for e in read_events(first.read())]
    assert names[-2:] == ["thread.run.requires_action", "done"]
    assert second[0].name == "thread.run.step.completed"
    assert second[-2].name == "thread.run.completed"


def until(ask: Callable[[], Any], is_over: Callable[[Any], bool]) -> Any:
    """Ask until the answer is as it should be."""
    end = time.monotonic() + 20
    while not is_over(found := ask()):
        assert time.monotonic() < end, found
    return found


# -- framing, silence and readers who leave --------------------------------------------------------------------------


def test_a_silent_stream_gives_signs_of_life_that_clients_take_for_nothing(
    http, model, monkeypatch, oai, azure
):
    monkeypatch.setattr("treadle.server.sse.KEEP_ALIVE_S", 0.03)
    held = model.holds("One", " two")
    talk = Talk(http)
    with talk.open() as response:
        held.wait()
        pieces = response.iter_raw()
        heard = b""
        while heard.count(b": keepalive\n") < 3:
            heard += next(pieces)
        held.release()
        heard += b"".join(pieces)
    assert b": keepalive\n\n" not in heard
    events = read_events(heard)
    assert sum(len(e.comments) for e in events) >= 3
    check_order(events)


def test_a_reader_who_leaves_costs_the_run_nothing(http, model):
    held = model.holds("One", " two")
    talk = Talk(http)
    with talk.open():
        held.wait()
    held.release()
    run = until(lambda: talk.last, lambda run: run["status"] == "completed")
    assert run["cancelled_at"] is None


def test_a_reader_who_wants_it_so_cancels_the_run_by_leaving(http, model):
    held = model.holds("One", " two")
    talk = Talk(http)
    with talk.open(**{"x-treadle-on-disconnect": "cancel"}):
        held.wait()
    run = until(lambda: talk.last, lambda run: run["status"] in ENDS)
    assert run["status"] == "cancelled"


def test_the_server_can_be_told_that_readers_who_leave_cancel(alone, model):
    own = alone(model, spec=ServeSpec(on_disconnect="cancel"))
    with httpx2.Client(base_url=own.url, trust_env=False, timeout=20) as client:
        talk = Talk(client)
        for header, ending in (({}, "cancelled"), ({"x-treadle-on-disconnect": "continue"}, "completed")):
            held = model.holds("One", " two")
            with talk.open(**header):
                held.wait()
            if ending == "completed":
                held.release()
            assert until(lambda: talk.last, lambda run: run["status"] in ENDS)["status"] == ending


def test_a_message_that_was_deleted_is_left_out_of_a_replay(http, model):
    model.says("One two.")
    talk = Talk(http)
    talk.stream()
    [answer] = [
        m for m in http.get(f"/v1/threads/{talk.thread}/messages").json()["data"] if m["role"] == "assistant"
    ]
    assert http.delete(f"/v1/threads/{talk.thread}/messages/{answer['id']}").status_code == 200
    names = [e.name for e in read_events(talk.replay())]
    assert "thread.message.completed" not in names
    assert names[-2:] == ["thread.run.completed", "done"]


def test_the_journal_is_not_read_again_for_every_event(alone, model, monkeypatch):
    """Following a long run costs rows as it has them, not their square."""
    rounds = 30
    model.says(*[ASK] * rounds, "Done.")
    own = alone(model, tools=[get_weather])
    agent = own.do(
        own.treadle.agents.create(model="scripted", tools=[get_weather], limits={"max_steps": 500})
    )
    read: list[int] = []
    steps = Runs.steps

    async def counted(self: Any, run_id: str, *, first: int = 0) -> Any:
        found = await steps(self, run_id, first=first)
        read.append(len(found))
        return found

    monkeypatch.setattr(Runs, "steps", counted)
    with httpx2.Client(base_url=own.url, trust_env=False, timeout=20) as client:
        talk = Talk(client)
        live = read_events(talk.stream(assistant_id=agent.id))
        assert live[-2].name == "thread.run.completed"
        rows = 2 * rounds + 2
        assert sum(read) < 4 * rows, read
        read.clear()
        replayed = read_events(talk.replay())
        assert [e.name for e in replayed] == [e.name for e in live if not e.name.endswith(".delta")]
        assert sum(read) < 2 * rows
