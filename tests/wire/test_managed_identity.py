"""Scripts written for Azure run as they are, with nothing but the variables that `treadle serve --tls-dev` prints."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 30

SYNC = '''\
import json
import os

from azure.ai.agents import AgentsClient
from azure.ai.agents.models import AgentEventHandler
from azure.identity import DefaultAzureCredential


def get_weather(city: str) -> str:
    """Get the weather of a city.

    :param city: The name of the city.
    :return: The weather as JSON.
    """
    return json.dumps({"city": city, "weather": "sunny"})


class Printer(AgentEventHandler):
    def on_message_delta(self, delta):
        print(delta.text, end="")

    def on_done(self):
        print("\\ndone")


client = AgentsClient(endpoint=os.environ["PROJECT_ENDPOINT"], credential=DefaultAzureCredential())
with client:
    client.enable_auto_function_calls({get_weather})
    agent = client.create_agent(
        model="offline", name="weather", instructions="Use the tools.", tools=client._function_tool.definitions
    )
    thread = client.threads.create()
    client.messages.create(thread_id=thread.id, role="user", content="What is the weather in Paris?")
    run = client.runs.create_and_process(thread_id=thread.id, agent_id=agent.id, polling_interval=0.05)
    print(run.status.value)
    client.messages.create(thread_id=thread.id, role="user", content="Thank you.")
    with client.runs.stream(thread_id=thread.id, agent_id=agent.id, event_handler=Printer()) as stream:
        stream.until_done()
    print(len(list(client.messages.list(thread_id=thread.id))), "messages")
    client.delete_agent(agent.id)
'''

ASYNC = """\
import asyncio
import os

from azure.ai.agents.aio import AgentsClient
from azure.identity.aio import DefaultAzureCredential


async def main():
    async with (
        DefaultAzureCredential() as credential,
        AgentsClient(endpoint=os.environ["PROJECT_ENDPOINT"], credential=credential) as client,
    ):
        agent = await client.create_agent(model="offline", name="greeter", instructions="Greet.")
        thread = await client.threads.create()
        await client.messages.create(thread_id=thread.id, role="user", content="Hello.")
        run = await client.runs.create_and_process(thread_id=thread.id, agent_id=agent.id, polling_interval=0.05)
        print(run.status.value)
        async with await client.runs.stream(thread_id=thread.id, agent_id=agent.id) as stream:
            names = [name async for name, *_ in stream]
        print(names[-1])
        print(len([m async for m in client.messages.list(thread_id=thread.id)]), "messages")
        await client.delete_agent(agent.id)


asyncio.run(main())
"""


@contextmanager
def serving_in(folder: Path) -> Iterator[dict[str, str]]:
    """Run `treadle serve --tls-dev`; give the variables that it prints for a shell."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "TREADLE_STORE": f"sqlite:///{folder}/t.db"}
    words = [sys.executable, "-m", "treadle", "--project", str(folder), "serve", "--port", "0", "--tls-dev"]
    log = folder / "log"
    with (
        log.open("w") as written,
        subprocess.Popen(
            words, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=written, text=True
        ) as process,
    ):
        try:
            yield printed(process, log)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def printed(process: "subprocess.Popen[str]", log: Path) -> dict[str, str]:
    """Read the lines for a shell, to the last of them."""
    found: dict[str, str] = {}
    assert process.stdout is not None
    while "SSL_CERT_FILE" not in found:
        line = process.stdout.readline()
        assert line, log.read_text()
        words = shlex.split(line)
        if words[:1] == ["export"]:
            name, _, value = words[1].partition("=")
            found[name] = value
    return found


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the variables of a server that runs."""
    with serving_in(tmp_path) as found:
        yield found


def run(script: str, environ: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script with these variables, and what a process cannot be without."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)} | environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_synchronous_script_runs_unchanged(variables: dict[str, str], tmp_path: Path) -> None:
    assert set(variables) == {
        "PROJECT_ENDPOINT",
        "IDENTITY_ENDPOINT",
        "IDENTITY_HEADER",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
    }
    assert variables["PROJECT_ENDPOINT"].startswith("https://localhost:")
    done = run(SYNC, variables, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "completed"
    assert lines[-2:] == ["done", "4 messages"]
    assert len(lines[1]) > 10


def test_an_asynchronous_script_runs_unchanged(variables: dict[str, str], tmp_path: Path) -> None:
    done = run(ASYNC, variables, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["completed", "done", "3 messages"]


def test_a_client_that_does_not_trust_the_authority_gets_no_answer(
    variables: dict[str, str], tmp_path: Path
) -> None:
    environ = {k: v for k, v in variables.items() if k not in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")}
    done = run(SYNC, environ, tmp_path)
    assert done.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def test_a_script_of_an_earlier_start_is_refused_and_trusts_the_server_still(tmp_path: Path) -> None:
    with serving_in(tmp_path) as first:
        pass
    with serving_in(tmp_path) as again:
        names = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
        assert [again[name] for name in names] == [first[name] for name in names]
        assert again["IDENTITY_HEADER"] != first["IDENTITY_HEADER"]
        stale = again | {
            "IDENTITY_HEADER": first["IDENTITY_HEADER"],
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }
        done = run(SYNC, stale, tmp_path)
        assert done.returncode != 0
        assert "ClientAuthenticationError" in done.stderr, done.stderr
        assert run(ASYNC, again, tmp_path).returncode == 0


def test_a_token_opens_no_other_tenant(variables: dict[str, str], tmp_path: Path) -> None:
    other = variables["PROJECT_ENDPOINT"].rpartition("/")[0] + "/somebody"
    done = run(SYNC, variables | {"PROJECT_ENDPOINT": other}, tmp_path)
    assert done.returncode != 0
    assert "ClientAuthenticationError: (invalid_api_key)" in done.stderr, done.stderr
