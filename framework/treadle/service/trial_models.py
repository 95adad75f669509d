"""The models of a test: scripted, replayed, recorded or the endpoint itself; the resolving is the project's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from treadle.engine.plan import ResolvedModel
from treadle.errors import ConfigurationError, ProviderError, TreadleError
from treadle.objects.agent import AgentSpec, Price
from treadle.objects.project import ProjectSpec
from treadle.providers import PROVIDERS
from treadle.providers.base import Emit, ModelReply, ModelRequest, Provider
from treadle.providers.scripted import ScriptedProvider
from treadle.service.models import EMBEDDED, Models
from treadle.service.trial_cassettes import Answered, Asked, Exchange, Player
from treadle.service.trial_mocks import Mocks, shown

_FREE = Price(input=0, output=0)


class _Answering:
    """A provider that takes each reply from a function, and says it in pieces."""

    def __init__(self, reply: Callable[[ModelRequest], ModelReply | Mapping[str, Any]]) -> None:
        self._script = ScriptedProvider(reply)

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Give the reply."""
        return await self._script.call(request, emit)

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def mocked(mocks: Mocks) -> Provider:
    """Give the provider of a test that says what models reply."""

    def reply(request: ModelRequest) -> Mapping[str, Any]:
        try:
            return mocks.reply(_words(request))
        except IndexError:
            raise ProviderError("the test has no reply for this call") from None

    return _Answering(reply)


def replayed(player: Player, on_difference: Callable[[ProviderError], None]) -> Provider:
    """Give the provider of a test that has a cassette; what was not recorded is told to `on_difference`."""

    def reply(request: ModelRequest) -> ModelReply:
        try:
            return player.reply(request)
        except ProviderError as e:
            on_difference(e)
            raise

    return _Answering(reply)


class Tape:
    """What is recorded: the exchanges so far, and whether the last call failed, so that the conversation is not whole."""

    def __init__(self) -> None:
        """Start with an empty one."""
        self.exchanges: list[Exchange] = []
        self.is_torn = False


class _Recording:
    """A provider whose replies are kept; calls that failed are not."""

    def __init__(self, provider: Provider, tape: Tape) -> None:
        self._provider = provider
        self._tape = tape

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Ask the model, and keep what it replied."""
        self._tape.is_torn = True
        reply = await self._provider.call(request, emit)
        self._tape.is_torn = False
        self._tape.exchanges.append(Exchange(asked=Asked.of(request), reply=Answered.of(reply)))
        return reply

    async def close(self) -> None:
        """Do nothing: the models close what they made."""


class StandInModels(Models):
    """Models that a test stands in for: nothing that an endpoint needs has to be there."""

    def __init__(self, project: ProjectSpec, root: Path, provider: Provider, *, is_for_all: bool) -> None:
        """Take what answers; with `is_for_all` it also answers for the models that are built in."""
        kinds = PROVIDERS if is_for_all else [kind for kind in PROVIDERS if kind not in EMBEDDED]
        super().__init__(project, root, providers=dict.fromkeys(kinds, provider))
        self._spec = project
        self._provider = provider

    def resolve(self, spec: AgentSpec, override: str | None = None) -> ResolvedModel:
        """Give the model, with its options, window and price where the project declares them; else it costs nothing."""
        try:
            found = super().resolve(spec, override)
        except ConfigurationError:
            # No endpoint is asked, so it may be one that cannot be had here.
            name = override or spec.model.id
            found = ResolvedModel(name, self._provider, name, spec.model.options)
        if found.price is not None:
            return found
        return ResolvedModel(found.name, found.provider, found.id, found.options, found.context_window, _FREE)


class LiveModels(Models):
    """The project's models as they are; with a tape every reply is kept on it."""

    def __init__(self, project: ProjectSpec, root: Path, tape: Tape | None = None) -> None:
        """Take the tape, None where nothing is kept."""
        super().__init__(project, root)
        self._tape = tape
        self._seen: dict[str, AgentSpec] = {}

    def resolve(self, spec: AgentSpec, override: str | None = None) -> ResolvedModel:
        """Give the model.

        Errors: as those of the project's models.
        """
        found = super().resolve(spec, override)
        self._seen[spec.digest] = spec
        if self._tape is None:
            return found
        provider = _Recording(found.provider, self._tape)
        return ResolvedModel(found.name, provider, found.id, found.options, found.context_window, found.price)

    def secrets(self) -> tuple[str, ...]:
        """Give the values that must be kept nowhere: of the project's connections, and of those of its agents."""
        from treadle.providers.chat_errors import secrets_of

        found = list(super().secrets())
        for spec in self._seen.values():
            for connection in spec.connections.values():
                with suppress(TreadleError):
                    found += secrets_of(self._endpoint(connection))
        return tuple(found)


def _words(request: ModelRequest) -> str:
    """Say in a line what a model is asked."""
    if not request.messages:
        return f"'{request.model}' was asked to begin"
    last = request.messages[-1]
    return f"'{request.model}' was asked, the last message is of the {last.role}: {shown(last.plain)}"
