"""What the tests of the wire share: one real server, a model that says what a test tells it, and every client."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from azure.ai.agents import AgentsClient
from azure.core.credentials import AzureKeyCredential
from openai import OpenAI

from treadle.azure import local_client_kwargs
from treadle.errors import ProviderError
from treadle.providers.base import Emit, ModelReply, ModelRequest, TextDelta
from treadle.providers.scripted import ScriptedProvider
from treadle.testing.served import Served, served

PATIENCE_S = 20


class Held:
    """A reply that says its beginning and then waits until the test lets it go on."""

    def __init__(self, text: str, then: str | ProviderError) -> None:
        self._text, self._then = text, then
        self._said = threading.Event()
        self._go: Callable[[], Any] = lambda: None

    async def reply(self, request: ModelRequest, emit: Emit) -> ModelReply:
        loop, gone_on = asyncio.get_running_loop(), asyncio.Event()
        self._go = lambda: loop.call_soon_threadsafe(gone_on.set)
        emit(TextDelta(self._text))
        self._said.set()
        await gone_on.wait()
        if isinstance(self._then, ProviderError):
            raise self._then
        emit(TextDelta(self._then))
        return ModelReply(text=self._text + self._then, model=request.model)

    def wait(self) -> None:
        """Wait until the beginning was said."""
        assert self._said.wait(PATIENCE_S), "the model was not asked"

    def release(self) -> None:
        """Let the reply go on."""
        self._go()


class Model:
    """A model that says what it was told to say, in order, and remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []
        self._entries: deque[Any] = deque()

    def says(self, *entries: Any) -> None:
        """Say these next: texts, calls, errors as the scripted model has them, or what is held."""
        self._entries.extend(entries)

    def holds(self, text: str, then: str | ProviderError = "") -> Held:
        """Say this next, the rest of it when the test says so."""
        held = Held(text, then)
        self.says(held)
        return held

    def forget(self) -> None:
        self.requests.clear()
        self._entries.clear()

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        self.requests.append(request)
        entry = self._entries.popleft()
        if isinstance(entry, Held):
            return await entry.reply(request, emit)
        return await ScriptedProvider([entry]).call(request, emit)

    async def close(self) -> None:
        pass

    @property
    def sent(self) -> list[tuple[str, str | None]]:
        """Give role and text of what the last call was sent."""
        return [(row.role, row.plain) for row in self.requests[-1].messages]


@pytest.fixture(scope="session")
def talker() -> Model:
    """Give the model of the session's server."""
    return Model()


@pytest.fixture(scope="session")
def server(talker: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give the server of the session; tests make their own agents and threads on it."""
    folder = tmp_path_factory.mktemp("wire")
    with served(f"sqlite:///{folder / 'treadle.db'}", project=folder, providers={"scripted": talker}) as up:
        yield up


@pytest.fixture
def model(talker: Model) -> Iterator[Model]:
    """Give the model, with nothing to say."""
    talker.forget()
    yield talker
    talker.forget()


@pytest.fixture
def http(server: Served) -> Iterator[httpx2.Client]:
    """Give a client that knows nothing of the wire."""
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="session")
def oai(server: Served) -> Iterator[OpenAI]:
    """Give OpenAI's client."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def azure(server: Served) -> Iterator[AgentsClient]:
    """Give Azure's client, as it comes for a project; it repeats nothing, so that a failure is seen at once."""
    with AgentsClient(
        endpoint=f"{server.url}/api/projects/wire",
        credential=AzureKeyCredential("any"),
        retry_total=0,
        **local_client_kwargs("any"),
    ) as client:
        yield client


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Give a function that starts a server of the test's own; further words are those of `served`."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(model: Any = None, **more: Any) -> Served:
            providers = {"scripted": model} if model is not None else None
            more = {"project": tmp_path, "providers": providers} | more
            store = more.pop("store", f"sqlite:///{tmp_path / 'treadle.db'}")
            return stack.enter_context(served(store, **more))

        yield start
