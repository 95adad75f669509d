"""What the tests of behaviour share: a chat server that is the default endpoint, and a workflow with its treadles."""

import asyncio
import inspect
import json
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from treadle.objects.run import Run
from treadle.service import Treadle
from treadle.testing.chat_server import ChatServer, Turn
from treadle.testing.fakes import FrozenClock


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChatServer]]:
    """Give a function that starts a chat server with a script and makes it the default endpoint."""
    started: list[ChatServer] = []

    def start(*turns: Turn) -> ChatServer:
        started.append(ChatServer(turns).start())
        monkeypatch.setenv("OPENAI_BASE_URL", started[-1].base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        return started[-1]

    yield start
    for server in started:
        server.stop()


class Flow:
    """A workflow's document in a folder, and treadles whose tools are the functions that it names.

    The document is given without its header. Its `tools:` are written here: each function once, `pure` where `declared`
    says nothing else. It may name an agent `bot`, whose model is the scripted one.
    """

    def __init__(
        self, workshop: Any, text: str, functions: tuple[Any, ...], script: Any, declared: dict[str, Any]
    ) -> None:
        self.workshop, self.functions, self.script = workshop, functions, script
        self.path = workshop.folder / "flow.workflow.yaml"
        tools = [
            {"type": "function", "name": f.__name__, "runs": "server", "effect": "pure"}
            | declared.get(f.__name__, {})
            for f in functions
        ]
        head = f"version: 1.0.0\nkind: workflow\nname: flow\ntools: {json.dumps(tools)}\n"
        self.path.write_text(head + textwrap.dedent(text) + BOT)
        self.clock = FrozenClock()
        self.treadle = self.open()

    def open(self, script: Any = None, **options: Any) -> Treadle:
        """Open a treadle as another process would: on the same store, with the same functions."""
        given = self.script if script is None else script
        return self.workshop.open(given, **{"tools": self.functions, "clock": self.clock} | options)

    @property
    def runs(self) -> Any:
        return self.treadle.runs

    async def start(self, **inputs: Any) -> Run:
        return await self.treadle.workflows.start(f"{self.path}#flow", inputs=inputs)

    async def run(self, **inputs: Any) -> Run:
        return await self.treadle.workflows.run(f"{self.path}#flow", inputs=inputs)

    async def steps(self, run: Run) -> dict[str, Any]:
        """Give the last row of each path of a run's journal, in the order in which the steps ended."""
        rows = await self.treadle.store.steps(run.tenant, run.id)
        rows.sort(key=lambda s: (s.is_open, s.event_seq or 0, s.n))
        return {row.path: row for row in rows}

    async def children(self, run: Run) -> list[Run]:
        """Give the child runs of a run, the first that was made first."""
        return await self.treadle.store.children(run.tenant, run.id)

    async def die(self) -> None:
        """Let the first process stop as if it was killed: nothing more of it is written, and its heart does not beat."""
        await self.treadle.keeper.stop()
        self.treadle.executor.lose()
        await self.treadle.runs.settle()

    async def reborn(self, script: Any = None, **options: Any) -> Treadle:
        """Open a treadle after the lease of a process that died is over."""
        later = FrozenClock(self.clock.wall_ms + 60_000, elapsed_s=self.clock.elapsed_s + 60)
        self.clock = later
        self.treadle = self.open(script, clock=later, **options)
        return self.treadle


BOT = """
---
version: 1.0.0
kind: agent
name: bot
model: scripted
instructions: '{{ role }}'
inputs: {role: {type: string, default: bot}}
"""


@pytest.fixture
def flow(workshop: Any) -> Callable[..., Flow]:
    """Give a function that writes the document of a workflow and opens a treadle for it."""

    def made(text: str, *functions: Any, script: Any = (), declared: Any = None) -> Flow:
        return Flow(workshop, text, functions, script, declared or {})

    return made


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Give what waits until something holds; a test that would wait for ever ends after ten seconds."""
    return _until


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while True:
            held = condition()
            if inspect.isawaitable(held):
                held = await held
            if held:
                return
            await asyncio.sleep(0)
