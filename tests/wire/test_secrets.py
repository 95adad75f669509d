"""Canaries: secrets that are planted wherever the server gets some, and where they must not come to light."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from treadle.testing.chat_server import ChatServer, Request, error_reply

PROJECT = """\
kind: project
connections:
  default:
    base_url: {url}
    api_key: ${{secret:LLM_KEY}}
    headers:
      x-team: ${{secret:TEAM}}
    max_retries: 0
"""

PROCESS_KEY = "canary-of-the-process-0123456789"
LLM_KEY = "sk-canary-of-the-model"
TEAM = "canary-of-the-header"
WRONG_KEY = "canary-that-opens-nothing-0123"
NAME = "canary-idempotency-key"
QUERY = "canary-query-value"
CONTENT = "canary-content"

SECRETS = (PROCESS_KEY, LLM_KEY, TEAM, WRONG_KEY, NAME)


def echo(request: Request) -> Any:
    """Refuse as an endpoint does that says what it was given."""
    shown = request.headers.get("authorization"), request.headers.get("x-team")
    return error_reply(401, f"Incorrect API key provided: {shown}")


class Visit:
    """A client that keeps what it was refused with."""

    def __init__(self, url: str) -> None:
        self.client = httpx2.Client(base_url=url, headers={"api-key": PROCESS_KEY})
        self.refusals: list[str] = []

    def ask(self, method: str, path: str, **fields: Any) -> httpx2.Response:
        response = self.client.request(method, path, **fields)
        if response.status_code != 200:
            self.refusals.append(f"{response.headers}\n{response.text}")
        return response

    def everything(self) -> str:
        """Ask for what works and for what does not; give what /metrics and /readyz say."""
        named = {"idempotency-key": NAME}
        agent = self.ask("POST", "/v1/assistants", json={"model": "gpt", "instructions": CONTENT}).json()[
            "id"
        ]
        thread = self.ask("POST", "/threads", json={"metadata": {"a": "1"}}, headers=named).json()["id"]
        self.ask("POST", "/threads", json={"metadata": {"a": "2"}}, headers=named)
        self.ask("POST", f"/threads/{thread}/messages", json={"role": "user", "content": CONTENT}, headers={"idempotency-key": f"{NAME}-2"})  # fmt: skip
        self.ask("POST", f"/threads/{thread}/messages", json={"role": CONTENT, "content": CONTENT})
        streamed = self.ask("POST", f"/threads/{thread}/runs", json={"assistant_id": agent, "stream": True})
        assert "event: thread.run.failed" in streamed.text
        self.refusals.append(streamed.text)
        self.ask("GET", f"/threads?limit=7&order={QUERY}")
        self.ask("GET", f"/threads/{thread}", headers={"api-key": WRONG_KEY})
        self.ask("GET", f"/threads/{thread}", headers={"authorization": f"Bearer {PROCESS_KEY}{WRONG_KEY}"})
        self.ask("GET", "/nowhere", params={"key": QUERY})
        self.ask("POST", "/threads", content=b'{"metadata": ' + CONTENT.encode())
        return self.ask("GET", "/metrics").text + self.ask("GET", "/readyz").text


@pytest.fixture
def model() -> Any:
    """Give a model endpoint that refuses every call and says what it was given."""
    server = ChatServer(answer=echo).start()
    yield server
    server.stop()


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_comes_to_light(tmp_path: Path, model: ChatServer, form: str) -> None:
    (tmp_path / "treadle.yaml").write_text(PROJECT.format(url=model.base_url))
    (tmp_path / ".env").write_text(f"LLM_KEY={LLM_KEY}\nTEAM={TEAM}\n")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TREADLE_", "OPENAI_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "treadle", "serve", "--port", "0", "--log", form],
        cwd=tmp_path,
        env=environ | {"TREADLE_API_KEY": PROCESS_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    said = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if line.startswith("Ctrl-C stops"):
                break
        visit = Visit(said.partition(" at ")[2].partition("\n")[0])
        numbers = visit.everything()
        visit.client.close()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    stored = b"".join(p.read_bytes() for p in (tmp_path / ".treadle").rglob("*") if p.is_file())
    assert model.requests
    assert model.requests[0].headers["authorization"] == f"Bearer {LLM_KEY}"
    assert len(visit.refusals) >= 8
    assert CONTENT.encode() in stored
    for secret in SECRETS:
        assert secret.encode() not in stored, secret
        for place, text in {"out": out, "log": said + err, "numbers": numbers}.items():
            assert secret not in text, (place, secret)
        assert not [text for text in visit.refusals if secret in text], secret
    for word in (CONTENT, QUERY):
        assert word not in err
        assert word not in numbers
    lines = [line for line in err.splitlines() if "/threads/{thread_id}/runs" in line]
    assert lines
    if form == "json":
        found = json.loads(lines[0])
        assert (found["status"], found["method"], found["key_id"]) == (200, "POST", "TREADLE_API_KEY")
