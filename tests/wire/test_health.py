"""Whether the server says honestly that it lives and is ready, and what its numbers are."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest

from treadle.objects.tool import FunctionTool
from treadle.server import health
from treadle.server.health import KEPT_S, SILENT_S, Health
from treadle.service import Treadle
from treadle.store.sqlite import SqliteStore
from treadle.testing.fakes import FrozenClock, ScriptedProvider
from treadle.testing.served import Served, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """Give a server that asks for a key."""
    with served(f"sqlite:///{tmp_path / 'treadle.db'}", project=tmp_path, no_auth=False) as found:
        yield found


def until(server: Served, is_so: Callable[[httpx2.Response], bool]) -> httpx2.Response:
    """Ask whether it is ready until the answer is such."""
    ends = time.monotonic() + 15
    while True:
        response = httpx2.get(f"{server.url}/readyz", timeout=20)
        if is_so(response):
            return response
        assert time.monotonic() < ends, response.text
        time.sleep(0.05)


def failed(response: httpx2.Response) -> list[str]:
    return [] if response.status_code == 200 else list(response.json()["failed"])


def test_both_are_answered_without_a_key_and_the_numbers_are_not(server: Served) -> None:
    assert httpx2.get(f"{server.url}/healthz").json() == {"status": "ok"}
    assert httpx2.get(f"{server.url}/readyz").json() == {"status": "ready"}
    assert httpx2.get(f"{server.url}/metrics").status_code == 401


def test_a_store_that_was_moved_away_is_not_ready_until_it_is_back(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "treadle.db"
    file.rename(tmp_path / "elsewhere.db")
    response = until(server, lambda r: r.status_code == 503)
    assert failed(response) == ["store"]
    assert response.json()["error"]["code"] == "not_ready"
    assert response.json()["error"]["type"] == "server_error"
    assert str(tmp_path) not in response.text
    assert httpx2.get(f"{server.url}/healthz").status_code == 200
    (tmp_path / "elsewhere.db").rename(file)
    until(server, lambda r: r.status_code == 200)


def test_a_store_of_a_newer_version_is_not_ready(server: Served, tmp_path: Path) -> None:
    other = apsw.Connection(str(tmp_path / "treadle.db"))
    version = other.pragma("user_version")
    other.pragma("user_version", version + 1)
    assert failed(until(server, lambda r: r.status_code == 503)) == ["store"]
    other.pragma("user_version", version)
    until(server, lambda r: r.status_code == 200)
    other.close()


def test_a_store_that_somebody_else_has_locked_is_not_ready(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_S", 0.2)
    other = apsw.Connection(str(tmp_path / "treadle.db"))
    other.execute("BEGIN IMMEDIATE")
    response = until(server, lambda r: r.status_code == 503)
    assert "0.2 seconds" in response.json()["failed"]["store"]
    other.execute("ROLLBACK")
    other.close()
    until(server, lambda r: r.status_code == 200)


def test_a_server_that_shuts_down_says_so_first(server: Served) -> None:
    async def drain() -> None:
        server.server.draining.set()

    server.do(drain())
    assert failed(httpx2.get(f"{server.url}/readyz")) == ["draining"]


class Counting(SqliteStore):
    """A store that counts how often it was tried."""

    tried = 0

    async def probe(self) -> None:
        self.tried += 1
        await super().probe()


async def test_whoever_asks_often_makes_nothing_be_written(tmp_path: Path) -> None:
    clock, store = FrozenClock(), Counting(tmp_path / "treadle.db")
    async with Treadle(store, project=tmp_path, clock=clock) as treadle:
        looks = Health(treadle, draining=asyncio.Event())
        await asyncio.gather(*(looks.look() for _ in range(50)))
        for _ in range(50):
            assert (await looks.look()).is_ready
        assert store.tried == 1
        clock.advance(KEPT_S)
        await looks.look()
        assert store.tried == 2


async def test_a_walker_whose_heart_stopped_is_not_ready(tmp_path: Path) -> None:
    clock = FrozenClock()
    call = {"calls": [{"name": "look", "arguments": {}}]}
    going_on = asyncio.Event()

    async def look() -> str:
        """Look."""
        await going_on.wait()
        return "seen"

    providers: Any = {"scripted": ScriptedProvider([call, "fine"])}
    async with Treadle(
        f"sqlite:///{tmp_path / 'treadle.db'}",
        project=tmp_path,
        clock=clock,
        providers=providers,
        tools=[look],
    ) as treadle:
        looks = Health(treadle, draining=asyncio.Event())
        tool = FunctionTool(name="look", parameters={"type": "object"}, runs="server")
        agent = await treadle.agents.create(model="scripted", tools=[tool])
        run = await treadle.runs.create(None, agent=agent)
        assert (await looks.look()).is_ready
        # As if the machine had slept: time went by, and no heart beat.
        clock.elapsed_s += treadle.executor.lease.seconds + 1
        assert list((await looks.look()).failed) == ["walker"]
        clock.advance(treadle.executor.lease.seconds)
        assert "walker" not in (await looks.look()).failed
        going_on.set()
        await treadle.runs.wait(run.id)


async def test_a_process_that_looks_after_no_runs_any_more_is_not_ready(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with Treadle(
        f"sqlite:///{tmp_path / 'treadle.db'}", project=tmp_path, clock=clock, walk=True
    ) as treadle:
        looks = Health(treadle, draining=asyncio.Event())
        await treadle.recover()
        assert (await looks.look()).is_ready
        clock.elapsed_s += SILENT_S + 1
        assert list((await looks.look()).failed) == ["sweeps"]
        await treadle.recover()
        assert (await looks.look()).is_ready


def test_the_numbers_tell_what_happened_in_words_of_the_code_alone(tmp_path: Path) -> None:
    providers: Any = {"scripted": ScriptedProvider(["fine"])}
    with (
        served(f"sqlite:///{tmp_path / 'treadle.db'}", project=tmp_path, providers=providers) as server,
        httpx2.Client(base_url=server.url) as client,
    ):
        agent = client.post("/assistants", json={"model": "scripted"}).json()["id"]
        run = client.post("/v1/threads/runs", json={"assistant_id": agent, "stream": True})
        assert run.text.endswith("data: [DONE]\n\n")
        client.request("BREW", "/threads/thread_unknown")
        client.get("/canary")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    said = response.text
    for line in (
        'treadle_requests_total{method="POST",route="/assistants",status="200"} 1.0',
        'treadle_requests_total{method="POST",route="/threads/runs",status="200"} 1.0',
        'treadle_requests_total{method="GET",route="none",status="404"} 1.0',
        'treadle_request_seconds_count{method="POST",route="/threads/runs"} 0.0',
        'treadle_runs_ended_total{status="completed"} 1.0',
        'treadle_steps_ended_total{kind="model_call",status="completed"} 1.0',
        "treadle_requests_in_flight 1.0",
        "treadle_streams_open 0.0",
    ):
        assert line in said.splitlines(), line
    assert "process_resident_memory_bytes" in said
    for word in ("asst_", "thread_0", "run_", "canary", "BREW", "default"):
        assert word not in said
