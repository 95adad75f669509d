"""Azure's clients with `local_client_kwargs`, over plain http: all that loops and streams goes through."""

import asyncio
from collections.abc import Iterator

import pytest
from azure.ai.agents import AgentsClient
from azure.ai.agents.aio import AgentsClient as AsyncAgentsClient
from azure.core.credentials import AccessToken, AzureKeyCredential
from azure.core.exceptions import ServiceRequestError

from treadle.azure import local_client_kwargs
from treadle.cli import sdk

GREETING = [{"role": "user", "content": "Hello."}]


class Unasked:
    """A credential that nobody may ask for a token."""

    def get_token(self, *scopes: str, **more: object) -> AccessToken:
        raise AssertionError("the credential was asked")


class AsyncUnasked:
    """The same, for the asynchronous client."""

    async def get_token(self, *scopes: str, **more: object) -> AccessToken:
        raise AssertionError("the credential was asked")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """Give the endpoint of a project over http, and a key."""
    with sdk.serving() as (address, key):
        assert address.startswith("http://")
        yield f"{address}/api/projects/default", key


@pytest.mark.parametrize("header", ["api-key", "Authorization"])
def test_the_synchronous_client_goes_through(server: tuple[str, str], header: str) -> None:
    endpoint, key = server
    with AgentsClient(
        endpoint=endpoint, credential=Unasked(), **local_client_kwargs(key, header=header)
    ) as client:
        agent = client.create_agent(model="offline", name="greeter")
        thread = client.threads.create(messages=GREETING)
        run = client.runs.create_and_process(thread_id=thread.id, agent_id=agent.id, polling_interval=0)
        assert run.status == "completed"
        with client.runs.stream(thread_id=thread.id, agent_id=agent.id) as events:
            assert [name for name, *_ in events][-1] == "done"
        assert len(list(client.messages.list(thread_id=thread.id, limit=1))) == 3


async def test_the_asynchronous_client_goes_through(server: tuple[str, str]) -> None:
    endpoint, key = server
    async with AsyncAgentsClient(
        endpoint=endpoint, credential=AsyncUnasked(), **local_client_kwargs(key)
    ) as client:
        agent = await client.create_agent(model="offline", name="greeter")
        thread = await client.threads.create(messages=GREETING)
        run = await client.runs.create_and_process(thread_id=thread.id, agent_id=agent.id, polling_interval=0)
        assert run.status == "completed"
        async with await client.runs.stream(thread_id=thread.id, agent_id=agent.id) as events:
            assert [name async for name, *_ in events][-1] == "done"
        assert len([m async for m in client.messages.list(thread_id=thread.id, limit=1)]) == 3
    await asyncio.sleep(0)  # the connections of the client close in the loop's next turn


def test_without_the_keywords_no_credential_leaves_the_client(server: tuple[str, str]) -> None:
    endpoint, key = server
    for credential in (Unasked(), AzureKeyCredential(key)):
        with (
            AgentsClient(endpoint=endpoint, credential=credential, retry_total=0) as client,  # type: ignore[arg-type]
            pytest.raises(ServiceRequestError, match="non-TLS protected"),
        ):
            client.create_agent(model="offline")


def test_a_credential_must_be_there_though_it_is_not_asked(server: tuple[str, str]) -> None:
    endpoint, key = server
    with pytest.raises(ValueError, match="credential"):
        AgentsClient(endpoint=endpoint, credential=None, **local_client_kwargs(key))  # type: ignore[arg-type]
