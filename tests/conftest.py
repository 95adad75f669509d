"""What every test may ask for; and a clean environment, so that a developer's settings change no test."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine.scheduler import fold_all
from treadle.graph.nodes import StepGraph
from treadle.objects.agent import Agent
from treadle.objects.run import Run
from treadle.service import Treadle
from treadle.store.check import check
from treadle.testing.fakes import CountedIds, FrozenClock, ScriptedProvider

FOREIGN = ("TREADLE_", "OPENAI_", "AZURE_OPENAI_")
TERMINAL = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "CLICOLOR", "CLICOLOR_FORCE", "_TREADLE_COMPLETE")


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Remove our own variables, model keys and terminal wishes for the whole session."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(FOREIGN) or name in TERMINAL:
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def clock() -> FrozenClock:
    """Give a clock that moves only when it is told."""
    return FrozenClock()


@pytest.fixture
def ids() -> CountedIds:
    """Give ids that count up."""
    return CountedIds()


class Workshop:
    """Treadles over one file, with a scripted model; whatever a test did, the store is checked after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "treadle.db"
        self.opened: list[Treadle] = []

    def open(self, script: Any = (), **options: Any) -> Treadle:
        """Open a treadle whose model `scripted` gives these replies; `options` are those of Treadle."""
        provider = script if isinstance(script, ScriptedProvider) else ScriptedProvider(script, record=True)
        options = {"project": self.folder, "providers": {"scripted": provider}} | options
        treadle = Treadle(f"sqlite:///{self.path}", **options)
        self.opened.append(treadle)
        return treadle

    async def start(self, script: Any = (), *, tools: Any = (), text: str = "Hello", **spec: Any) -> "Scene":
        """Open a treadle with an agent and a thread that has one message."""
        names = ("clock", "ids", "settings", "project", "providers")
        treadle = self.open(script, **{n: spec.pop(n) for n in names if n in spec})
        agent = await treadle.agents.create(**{"model": "scripted", "tools": tools} | spec)
        thread = await treadle.threads.create(messages=[{"role": "user", "content": text}])
        return Scene(treadle, agent, thread.id)

    async def close(self) -> None:
        for treadle in self.opened:
            await treadle.close()


class Scene:
    """A treadle, an agent and a thread."""

    def __init__(self, treadle: Treadle, agent: Agent, thread_id: str) -> None:
        self.treadle, self.agent, self.thread_id = treadle, agent, thread_id

    @property
    def runs(self) -> Any:
        return self.treadle.runs

    @property
    def requests(self) -> Any:
        """Give what the model was asked, call by call."""
        return self.treadle.models._given["scripted"].requests

    async def create(self, **fields: Any) -> Run:
        return await self.treadle.runs.create(self.thread_id, agent=self.agent, **fields)

    async def run(self, **fields: Any) -> Run:
        return await self.treadle.runs.create_and_wait(self.thread_id, agent=self.agent, **fields)

    async def say(self, text: str) -> None:
        await self.treadle.messages.create(self.thread_id, role="user", content=text)

    async def rows(self) -> list[Any]:
        return await self.treadle.store.rows(self.treadle.tenant, self.thread_id, limit=10_000)

    async def texts(self) -> list[tuple[str, str | None]]:
        return [(row.role, row.text) for row in await self.rows()]

    async def results(self) -> list[str | None]:
        return [row.text for row in await self.rows() if row.role == "tool"]


async def check_journals(treadle: Treadle) -> None:
    """Fold the journal of every run: each is one that its step graph could have made."""
    for run in await treadle.runs.list(limit=10_000):
        graph = StepGraph.load(await treadle.store.graph(run.tenant, run.graph))
        steps = await treadle.store.steps(run.tenant, run.id)
        fold_all(graph, steps)
        events = await treadle.store.events(run.tenant, run.id, limit=10_000)
        assert [e.seq for e in events] == list(range(1, len(events) + 1))


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    """Give a place to open treadles in; the store keeps every invariant at the end of the test."""
    shop = Workshop(tmp_path)
    yield shop
    await shop.close()
    if shop.path.exists():
        assert check(shop.path) == []
        async with Treadle(f"sqlite:///{shop.path}", project=tmp_path) as treadle:
            await check_journals(treadle)
