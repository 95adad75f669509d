"""Every provider keeps the contract: the stand-in, the script, and real HTTP on loopback."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from treadle.errors import ProviderError
from treadle.providers.base import Endpoint, ModelReply, Provider
from treadle.providers.offline import OfflineProvider
from treadle.providers.openai import OpenAIProvider
from treadle.providers.scripted import ScriptedProvider
from treadle.testing.chat_server import Call, ChatServer, Reply, error_reply
from treadle.testing.provider_contract import ProviderContract


@asynccontextmanager
async def open_for_a_while(provider: Provider) -> AsyncIterator[Provider]:
    yield provider
    await provider.close()


@asynccontextmanager
async def over_http(server: ChatServer) -> AsyncIterator[Provider]:
    async with server:
        provider = OpenAIProvider(Endpoint(base_url=server.base_url, api_key="sk-contract", max_retries=0))
        yield provider
        await provider.close()


class TestOffline(ProviderContract):
    decides = True

    def serving(self, replies: Sequence[ModelReply]) -> AbstractAsyncContextManager[Provider]:
        return open_for_a_while(OfflineProvider(Endpoint()))


class TestScripted(ProviderContract):
    def serving(self, replies: Sequence[ModelReply]) -> AbstractAsyncContextManager[Provider]:
        return open_for_a_while(ScriptedProvider(replies))

    def failing(self) -> AbstractAsyncContextManager[Provider]:
        return open_for_a_while(ScriptedProvider([ProviderError("the model is down")]))


class TestScriptedEntries(ProviderContract):
    """The same from entries as a document writes them."""

    def serving(self, replies: Sequence[ModelReply]) -> AbstractAsyncContextManager[Provider]:
        entries = [
            {
                "text": r.text,
                "calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in r.tool_calls],
            }
            for r in replies
        ]
        return open_for_a_while(ScriptedProvider(entries))

    def failing(self) -> AbstractAsyncContextManager[Provider]:
        return open_for_a_while(ScriptedProvider([{"error": {"kind": "timeout", "message": "too slow"}}]))


class TestOpenAI(ProviderContract):
    def serving(self, replies: Sequence[ModelReply]) -> AbstractAsyncContextManager[Provider]:
        turns = [
            Reply(r.text, [Call(c.name, c.arguments, c.id) for c in r.tool_calls], piece=3) for r in replies
        ]
        return over_http(ChatServer(turns))

    def failing(self) -> AbstractAsyncContextManager[Provider]:
        return over_http(ChatServer([error_reply(500, "the model is down")]))
