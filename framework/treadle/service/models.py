"""Resolve a model's name to the endpoint that serves it.

The order: a name under `models:` of the project; `offline` or `scripted`; else the name as it is on the
connection that the agent names, or on the one called `default`. Where no document declares a default
connection, OPENAI_API_KEY or OPENAI_BASE_URL in the environment make one. One rule for documents, the command
line and the wire.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from treadle import registry
from treadle.definition import references
from treadle.engine.plan import ResolvedModel
from treadle.errors import ConfigurationError, ModelNotConfigured, TreadleError
from treadle.objects.agent import AgentSpec, Connection, ModelOptions, Price
from treadle.objects.project import ProjectSpec
from treadle.objects.record import parse_duration
from treadle.providers import PROVIDERS
from treadle.providers.base import Endpoint, Provider

EMBEDDED = ("offline", "scripted")
DEFAULT = "default"
_FREE = Price(input=0, output=0)


class Models:
    """The models that a project can name, and the providers that serve them, made when first asked for."""

    def __init__(
        self,
        project: ProjectSpec,
        root: Path,
        *,
        providers: Mapping[str, Provider] | None = None,
        environ: Mapping[str, str] | None = None,
        base_url: str | None = None,
    ) -> None:
        """Take the project; `providers` replaces those of a type, `base_url` the default connection's address."""
        self._project = project
        self._root = root
        self._given = dict(providers or {})
        self._environ = os.environ if environ is None else environ
        self._base_url = base_url
        self._made: dict[object, Provider] = {}

    def resolve(self, spec: AgentSpec, override: str | None = None) -> ResolvedModel:
        """Give the model of an agent, or of the name that a run puts in its place.

        Errors: ModelNotConfigured, which lists what is known; ConfigurationError for a reference that leads
        nowhere.
        """
        name = override or self._text(spec.model.id)
        connection = None if override or spec.model.connection is None else self._text(spec.model.connection)
        entry = self._project.models.get(name) if connection is None else None
        options = spec.model.options
        if entry is not None:
            options = _merge(entry.options, options)
        model = self._text(entry.id) if entry else name
        where = entry.connection if entry else connection
        if where is None and model in EMBEDDED:
            provider = self._embedded(model)
        else:
            provider = self._connected(spec, name, self._text(where) if where else DEFAULT)
        return ResolvedModel(
            name=name,
            provider=provider,
            id=model,
            options=options,
            context_window=entry.context_window if entry else None,
            price=entry.price if entry else _FREE if where is None and model in EMBEDDED else None,
        )

    def known(self) -> list[str]:
        """List the names that documents and the command line can use for sure."""
        return sorted({*EMBEDDED, *self._project.models})

    def default_endpoint(self) -> str | None:
        """Tell where the default connection leads, None where there is none."""
        connection = self._default()
        if connection is None:
            return None
        return self._text(connection.base_url) if connection.base_url else "https://api.openai.com/v1"

    def secrets(self) -> tuple[str, ...]:
        """Give the values that must be printed nowhere, of every connection that can be had here."""
        from treadle.providers.chat_errors import secrets_of

        found: list[str] = []
        for connection in (self._default(), *self._project.connections.values()):
            if connection is not None:
                with suppress(TreadleError):
                    found += secrets_of(self._endpoint(connection))
        return tuple(found)

    def _default(self) -> Connection | None:
        declared = self._project.connections.get(DEFAULT)
        if self._base_url is not None:
            return (declared or Connection(api_key=self._key())).model_copy(
                update={"base_url": self._base_url}
            )
        if declared is not None:
            return declared
        base_url = self._variable("OPENAI_BASE_URL")
        if self._key() is None and base_url is None:
            return None
        return Connection(base_url=base_url, api_key=self._key())

    def _key(self) -> str | None:
        return self._variable("OPENAI_API_KEY")

    def _variable(self, name: str) -> str | None:
        return self._environ.get(name) or references.read_dotenv(self._root).get(name) or None

    def _text(self, text: str) -> str:
        if "${" not in text:
            return text
        allowed = self._project.allow.env
        return references.resolve(
            text, environ=self._environ, root=self._root, allow_env=frozenset(allowed) if allowed else None
        )

    def _embedded(self, kind: str) -> Provider:
        return self._given.get(kind) or self._make(kind, Endpoint())

    def _connected(self, spec: AgentSpec, model: str, name: str) -> Provider:
        connection = spec.connections.get(name) or (
            self._default() if name == DEFAULT else self._project.connections.get(name)
        )
        if connection is None:
            raise self._unknown(spec, model, name)
        given = self._given.get(connection.type)
        return given or self._make(connection.type, self._endpoint(connection))

    def _unknown(self, spec: AgentSpec, model: str, connection: str) -> ConfigurationError:
        if connection == DEFAULT:
            return ModelNotConfigured(
                f'model "{model}" is not configured',
                hint=f"known: {', '.join(self.known())}        add one: connections: in treadle.yaml, "
                "or set OPENAI_API_KEY",
            )
        known = sorted({*spec.connections, *self._project.connections}) or ["none"]
        return ModelNotConfigured(
            f'model "{model}" names the connection "{connection}", which no document declares',
            hint=f"declared: {', '.join(known)}        add one: connections: in treadle.yaml",
        )

    def _endpoint(self, connection: Connection) -> Endpoint:
        def text(value: str | None) -> str | None:
            return self._text(value) if value is not None else None

        return Endpoint(
            base_url=text(connection.base_url),
            api_key=text(connection.api_key),
            api_version=text(connection.api_version),
            deployment=text(connection.deployment),
            headers={name: self._text(value) for name, value in connection.headers.items()},
            organization=text(connection.organization),
            timeout_s=parse_duration(connection.timeout) if connection.timeout else None,
            max_retries=connection.max_retries,
        )

    def _make(self, kind: str, endpoint: Endpoint) -> Provider:
        key = (
            kind, endpoint.base_url, endpoint.api_key, endpoint.api_version, endpoint.deployment,
            tuple(sorted(endpoint.headers.items())), endpoint.organization, endpoint.timeout_s, endpoint.max_retries,
        )  # fmt: skip
        made = self._made.get(key)
        if made is None:
            cls = cast("Callable[[Endpoint], Provider]", registry.lookup("providers", PROVIDERS, kind))
            made = self._made[key] = cls(endpoint)
        return made

    async def close(self) -> None:
        """Let the providers' connections go."""
        for provider in self._made.values():
            await provider.close()


def _merge(entry: ModelOptions, own: ModelOptions) -> ModelOptions:
    """Lay an agent's own options over those of the project's model."""
    given: dict[str, Any] = {name: getattr(own, name) for name in own.model_fields_set if name != "extra"}
    return entry.model_copy(update={**given, "extra": {**entry.extra, **own.extra}})
