"""How often the SDKs send a POST that went wrong: what the server's rules on status codes and headers rest on.

A row that changes with a new version of an SDK is news: look at the rules of `server/problems.py` and
`server/replay.py` before the number here is changed.
"""

import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from azure.ai.agents import AgentsClient
from azure.core.credentials import AzureKeyCredential
from openai import OpenAI

from treadle.azure import local_client_kwargs

BODY = b'{"error": {"message": "no", "type": "server_error", "param": null, "code": null}}'


class Row(NamedTuple):
    """What is answered to every POST, and how many each SDK sends."""

    name: str
    answer: bytes
    openai: int
    azure: int


def _answer(status: int, *headers: str, body: bytes = BODY, length: int | None = None) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Said",
        "content-type: application/json",
        f"content-length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join((*lines, "", "")).encode() + body


AGAIN = "retry-after: 0"
"""Azure's library only looks whether it is there; with a longer time the tests would take it."""

ROWS = (
    Row("400", _answer(400), 1, 1),
    Row("404", _answer(404), 1, 1),
    Row("400 with Retry-After", _answer(400, AGAIN), 1, 4),
    Row("408", _answer(408), 3, 1),
    Row("409", _answer(409), 3, 1),
    Row("409 with Retry-After", _answer(409, AGAIN), 3, 4),
    Row("409 with x-should-retry: false", _answer(409, "x-should-retry: false"), 1, 1),
    Row("429", _answer(429), 3, 1),
    Row("429 with Retry-After", _answer(429, AGAIN), 3, 4),
    Row("500", _answer(500), 3, 4),
    Row("502", _answer(502), 3, 1),
    Row("503", _answer(503), 3, 4),
    Row("504", _answer(504), 3, 4),
    Row("no answer", b"", 3, 1),
    Row("200, cut", _answer(200, body=b'{"id": "thr', length=1000), 3, 1),
)


class Recorder(socketserver.ThreadingTCPServer):
    """Answers every request with the same bytes, and notes the heads of the requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Recorded)
        self.answer = answer
        self.heads: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Recorded(socketserver.StreamRequestHandler):
    server: Recorder

    def handle(self) -> None:
        while line := self.rfile.readline():
            assert line.startswith(b"POST "), line
            head: dict[str, str] = {}
            while (header := self.rfile.readline()).strip():
                name, _, value = header.decode().partition(":")
                head[name.lower()] = value.strip()
            self.rfile.read(int(head.get("content-length", "0")))
            self.server.heads.append(head)
            self.wfile.write(self.server.answer)
            if b"200 Said" in self.server.answer or not self.server.answer:
                return


@pytest.fixture
def recorder() -> Iterator[Callable[[bytes], Recorder]]:
    """Give a function that starts a server which answers everything with the same bytes."""
    started: list[Recorder] = []

    def start(answer: bytes) -> Recorder:
        started.append(Recorder(answer))
        threading.Thread(target=started[-1].serve_forever, args=(0.01,), daemon=True).start()
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def sends_openai(monkeypatch: pytest.MonkeyPatch, recorder: Any) -> Callable[[bytes], list[dict[str, str]]]:
    """Give a function that creates a message by the openai SDK and gives the heads of what it sent."""
    # The waits between attempts, not their number.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)

    def send(answer: bytes) -> list[dict[str, str]]:
        server = recorder(answer)
        with OpenAI(base_url=f"{server.url}/v1", api_key="k") as client, pytest.raises(Exception):  # noqa: B017 - which one is told by the row
            client.beta.threads.messages.create("thread_1", role="user", content="x")
        return server.heads

    return send


@pytest.fixture
def sends_azure(recorder: Any) -> Callable[[bytes], list[dict[str, str]]]:
    """Give a function that creates a message by azure-ai-agents and gives the heads of what it sent."""

    def send(answer: bytes) -> list[dict[str, str]]:
        server = recorder(answer)
        client: Any = AgentsClient(
            f"{server.url}/api/projects/p",
            AzureKeyCredential("k"),  # pyright: ignore[reportArgumentType] - it is not asked
            retry_backoff_factor=0,
            **local_client_kwargs("k"),
        )
        with client, pytest.raises(Exception):  # noqa: B017 - which one is told by the row
            client.messages.create("thread_1", role="user", content="x")
        return server.heads

    return send


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_openai_sends_a_failed_post_so_often(row: Row, sends_openai: Any) -> None:
    heads = sends_openai(row.answer)
    assert len(heads) == row.openai


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_azure_sends_a_failed_post_so_often(row: Row, sends_azure: Any) -> None:
    heads = sends_azure(row.answer)
    assert len(heads) == row.azure


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openai_counts_its_attempts_and_names_nothing_else(sends_openai: Any) -> None:
    heads = sends_openai(_answer(503))
    assert [head["x-stainless-retry-count"] for head in heads] == ["0", "1", "2"]
    assert not any("idempotency-key" in head for head in heads)


def test_azure_gives_all_attempts_of_a_call_one_id(sends_azure: Any) -> None:
    first, second = sends_azure(_answer(503)), sends_azure(_answer(503))
    ids = [{head["x-ms-client-request-id"] for head in heads} for heads in (first, second)]
    assert [len(found) for found in ids] == [1, 1]
    assert ids[0] != ids[1]
    assert all(re.fullmatch(r"[0-9a-f-]{36}", id_) for found in ids for id_ in found)
