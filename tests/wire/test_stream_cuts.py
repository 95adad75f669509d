"""A stream is cut at every byte; a reader who goes on after the last event it has misses nothing and gets nothing twice."""

from collections import Counter
from typing import Any

import httpx2
import pytest

from treadle.testing.event_reader import Heard, read_events

WEATHER = {"type": "function", "function": {"name": "get_weather"}}
ASK = {
    "text": "Let me see…",
    "calls": [
        {"name": "get_weather", "arguments": {"city": "Zürich"}},
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
    ],
}
ENDS = ("completed", "incomplete", "failed", "cancelled", "expired", "requires_action", "cancelling")


class Followed:
    """A run over HTTP: its streams as they came, and its events from any place on."""

    def __init__(self, http: httpx2.Client, model: Any, *script: Any) -> None:
        self.http = http
        assistant = http.post("/v1/assistants", json={"model": "scripted", "tools": [WEATHER]}).json()["id"]
        model.says(*script)
        thread = http.post("/v1/threads", json={"messages": [{"role": "user", "content": "Hello"}]}).json()[
            "id"
        ]
        runs = f"/v1/threads/{thread}/runs"
        streams = [http.post(runs, json={"assistant_id": assistant, "stream": True}).content]
        while (run := http.get(runs).json()["data"][0])["status"] == "requires_action":
            calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
            outputs = [{"tool_call_id": c["id"], "output": "rain ☂"} for c in calls]
            body = {"tool_outputs": outputs, "stream": True}
            streams.append(http.post(f"{runs}/{run['id']}/submit_tool_outputs", json=body).content)
        self.streams = streams
        self.url = f"{runs}/{run['id']}/events"
        self._rests: dict[int, list[Heard]] = {}

    def rest(self, after: int) -> list[Heard]:
        """Give the events after one, asked for once."""
        if after not in self._rests:
            answer = self.http.get(self.url, headers={"last-event-id": str(after)} if after else {})
            self._rests[after] = read_events(answer.content)
        return self._rests[after]


def lasting(events: list[Heard]) -> Counter[tuple[str, str | None]]:
    """Count what happened for good: what is numbered, and the ends that a number comes with."""
    return Counter((e.name, e.object_id) for e in events if e.name.rpartition(".")[2] in ENDS)


SCRIPTS = (
    ("It is a fine day, …",),
    (ASK, "It rains in both."),
    (ASK, ASK, {"text": "Cut", "finish_reason": "length"}),
)


@pytest.mark.parametrize("script", SCRIPTS, ids=["answer", "tools", "two rounds, incomplete"])
def test_a_reader_who_goes_on_after_a_cut_at_any_byte_has_every_event_once(http, model, script):
    run = Followed(http, model, *script)
    whole = lasting(run.rest(0))
    # What the run said before the stream began, a reader of an earlier stream has.
    known: list[Heard] = []
    cuts = 0
    for stream in run.streams:
        for position in range(len(stream) + 1):
            heard = known + read_events(stream[:position], is_whole=False)
            last = max((place for place, e in enumerate(heard) if e.id is not None), default=-1)
            kept = heard[: last + 1]
            after = kept[-1].id if kept else 0
            rest = run.rest(after)
            assert lasting(kept) + lasting(rest) == whole, f"cut at byte {position}"
            assert all(e.id is None or e.id > after for e in rest)
            assert rest == [] or rest[-1].name == "done"
            cuts += 1
        known += [e for e in read_events(stream) if e.name != "done"]
    assert cuts > sum(map(len, run.streams))


def test_a_cut_within_a_number_is_no_number(http, model):
    run = Followed(http, model, ASK, ASK, "Done.")
    stream = run.streams[-1]
    at = stream.index(b"id: 2") + len(b"id: 2")
    assert read_events(stream[:at], is_whole=False)[-1].id != 2
    assert {e.id for e in read_events(stream) if e.id} & {20, 21, 22, 23, 24}
