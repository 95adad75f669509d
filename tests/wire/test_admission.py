"""Who comes in when the server is crowded, and what the others are told; nothing is written for them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI, RateLimitError

from treadle.objects.project import ServeLimits, ServeSpec
from treadle.testing.fakes import ScriptedProvider
from treadle.testing.served import Served, served

Serve = Callable[..., Served]
CALL = {"calls": [{"name": "weather", "arguments": {}}]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Serve]:
    """Give a function that serves with these limits."""
    with ExitStack() as stack:

        def start(*script: Any, **limits: Any) -> Served:
            return stack.enter_context(
                served(
                    f"sqlite:///{tmp_path / 'treadle.db'}",
                    project=tmp_path,
                    providers={"scripted": ScriptedProvider(list(script))},
                    spec=ServeSpec(limits=ServeLimits(**limits)),
                )
            )

        yield start


def refused(response: httpx2.Response) -> int:
    """Check a refusal, and give in how many seconds another try is worth it."""
    assert response.status_code == 429, response.text
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert "x-should-retry" not in response.headers
    return int(response.headers["retry-after"])


def test_a_crowded_server_answers_whether_it_lives_and_refuses_the_rest(limited: Serve) -> None:
    server = limited(CALL, requests=1)
    with httpx2.Client(base_url=server.url) as client:
        agent = client.post("/assistants", json={"model": "scripted", "tools": [TOOL]}).json()["id"]
        run = client.post("/threads/runs", json={"assistant_id": agent}).json()
        path = f"/threads/{run['thread_id']}/runs/{run['id']}/events"
        with client.stream("GET", path) as stream:
            lines = stream.iter_lines()  # Held: an iterator that is let go closes the stream.
            next(lines)
            assert refused(client.post("/threads")) == 1
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 200
        server.do(server.treadle.runs.cancel(run["id"]))
    assert len(server.do(server.treadle.threads.list())) == 1


def test_a_key_that_asks_too_often_is_told_when_it_may_again(limited: Serve) -> None:
    server = limited(requests_per_minute=3)
    with httpx2.Client(base_url=server.url) as client:
        assert [client.get("/threads").status_code for _ in range(3)] == [200, 200, 200]
        assert 1 <= refused(client.get("/threads")) <= 20
        assert client.get("/healthz").status_code == 200


def test_a_run_too_many_leaves_nothing_behind(limited: Serve) -> None:
    server = limited("fine", "fine", runs_per_minute=1)
    with httpx2.Client(base_url=server.url) as client:
        agent = client.post("/assistants", json={"model": "scripted"}).json()["id"]
        assert client.post("/threads/runs", json={"assistant_id": agent}).status_code == 200
        assert 1 <= refused(client.post("/threads/runs", json={"assistant_id": agent})) <= 60
        thread = client.get("/threads").json()["data"]
        assert len(thread) == 1
        body = {"assistant_id": agent, "additional_messages": [{"role": "user", "content": "x"}]}
        refused(client.post(f"/threads/{thread[0]['id']}/runs", json=body))
        said = client.get(f"/threads/{thread[0]['id']}/messages").json()["data"]
        assert all(message["role"] == "assistant" for message in said)
        assert 'treadle_refused_total{reason="runs_per_minute"} 2.0' in client.get("/metrics").text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_sdk_sees_a_rate_limit(limited: Serve) -> None:
    server = limited(runs_per_minute=1)
    with OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        agent = client.beta.assistants.create(model="offline").id
        client.beta.threads.create_and_run(assistant_id=agent)
        with pytest.raises(RateLimitError) as caught:
            client.beta.threads.create_and_run(assistant_id=agent)
    assert caught.value.code == "rate_limit_exceeded"
