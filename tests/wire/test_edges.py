"""What never becomes a request: broken heads, endless heads, and names that would reach into the server."""

import json
import socket
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from treadle.testing.served import Served, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder: Path = tmp_path_factory.mktemp("edges")
    with served(folder / "treadle.db", project=folder) as found:
        yield found


def answered(server: Served, *pieces: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes as they are, and give the status and the error of what comes back before the connection ends."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:
            pass  # The server has closed it already.
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def test_what_is_no_http_is_told_so_in_the_envelope(server: Served) -> None:
    status, error = answered(server, b"HELLO\r\n\r\n")
    assert status == 400
    assert error["type"] == "invalid_request_error"


def test_a_head_that_does_not_end_is_cut_off(server: Served) -> None:
    begun = b"GET /v1/threads HTTP/1.1\r\nhost: localhost\r\n"
    status, error = answered(server, begun, *[b"x-more: " + b"y" * 8000 + b"\r\n"] * 20)
    assert status == 431
    assert "65536" in error["message"]


def test_one_header_that_does_not_end_is_cut_off(server: Served) -> None:
    status, _ = answered(server, b"GET /v1/threads HTTP/1.1\r\nx-endless: ", *[b"y" * 8000] * 20)
    assert status == 431


def test_a_long_head_within_the_limit_is_a_request(server: Served) -> None:
    found = httpx2.get(f"{server.url}/v1/threads", headers={"x-long": "y" * 30_000})
    assert found.status_code == 200


@pytest.mark.parametrize("name", ["${env:HOME}", "x-${secret:KEY}", "${file:/etc/passwd}"])
def test_a_model_from_outside_cannot_refer_to_the_servers_environment(server: Served, name: str) -> None:
    with httpx2.Client(base_url=f"{server.url}/v1") as client:
        refused = client.post("/assistants", json={"model": name})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "model"
        agent = client.post("/assistants", json={"model": "offline"}).json()
        assert client.post(f"/assistants/{agent['id']}", json={"model": name}).status_code == 400
        body = {"assistant_id": agent["id"], "model": name}
        assert client.post("/threads/runs", json=body).status_code == 400


def test_instructions_from_outside_are_never_a_template(server: Served) -> None:
    text = "{{ 7 * 7 }} {% include '/etc/passwd' %} ${env:HOME}"
    with httpx2.Client(base_url=f"{server.url}/v1") as client:
        agent = client.post("/assistants", json={"model": "offline", "instructions": text}).json()
        assert agent["instructions"] == text
        run = client.post("/threads/runs", json={"assistant_id": agent["id"]}).json()
        assert run["instructions"] == text
