"""What the tests of behaviour share: a chat server that is the default endpoint."""

from collections.abc import Callable, Iterator

import pytest

from treadle.testing.chat_server import ChatServer, Turn


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
