"""Models of Azure OpenAI: the same requests and replies as OpenAI's, at a deployment's own address."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from random import random
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from treadle.clock import Clock
from treadle.errors import ConfigurationError
from treadle.providers.base import Emit, Endpoint, ModelReply, ModelRequest
from treadle.providers.chat_request import OPENAI_DIALECT
from treadle.providers.openai import UNUSED_KEY, OpenAIProvider, check_endpoint

if TYPE_CHECKING:
    import openai

DEFAULT_API_VERSION = "2024-10-21"
"""The latest dated version of the data plane that is generally available; a connection may name another."""

_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)")


class AzureOpenAIProvider(OpenAIProvider):
    """Answer model calls from an Azure OpenAI resource.

    The deployment is the connection's, else the model's name. A key is sent as `api-key`; where the
    connection has none, its headers may carry an Entra token as `Authorization`.
    """

    _key_header = "api-key"
    _key_prefix = ""
    _address_hint = "check the connection's base_url, deployment and api_version"

    def __init__(
        self, endpoint: Endpoint, *, clock: Clock | None = None, jitter: Callable[[], float] = random
    ) -> None:
        """Open nothing yet: the first call connects.

        Errors: ConfigurationError where the address of the resource is missing or none.
        """
        super().__init__(resource(endpoint), clock=clock, jitter=jitter)
        self._dialect = OPENAI_DIALECT

    @property
    def _is_v1(self) -> bool:
        """Tell whether the address is that of the newer interface, which is OpenAI's own."""
        return urlsplit(self._base_url).path.endswith("/openai/v1")

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Ask the deployment; see `OpenAIProvider.call`."""
        if self._is_v1 and self._endpoint.deployment:
            request = replace(request, model=self._endpoint.deployment)
        return await super().call(request, emit)

    def _connect(self) -> openai.AsyncOpenAI:
        from openai import AsyncAzureOpenAI

        endpoint = self._endpoint
        if self._is_v1:
            return super()._connect()
        return AsyncAzureOpenAI(
            api_key=endpoint.api_key or UNUSED_KEY,
            azure_endpoint=self._base_url,
            azure_deployment=endpoint.deployment,
            api_version=endpoint.api_version or DEFAULT_API_VERSION,
            max_retries=0,
            http_client=self._http_client(),
        )


def resource(endpoint: Endpoint) -> Endpoint:
    """Give the endpoint with the address of its resource alone.

    The portal's "target URI" may stand as `base_url`: its deployment and its `api-version` are taken from it
    where the connection does not name them.
    Errors: ConfigurationError where there is no address.
    """
    if not endpoint.base_url:
        hint = "write it like https://my-resource.openai.azure.com"
        raise ConfigurationError("a connection of type azure_openai needs a base_url", hint=hint)
    check_endpoint(endpoint, endpoint.base_url)
    url = urlsplit(endpoint.base_url)
    named = _DEPLOYMENT.search(url.path)
    version = parse_qs(url.query).get("api-version", [None])[0]
    path = url.path.rstrip("/").removesuffix("/chat/completions")
    if not path.endswith("/openai/v1"):
        path = re.sub(r"/openai(?:/deployments/.*)?$", "", path)
    return replace(
        endpoint,
        base_url=urlunsplit((url.scheme, url.netloc, path, "", "")),
        deployment=endpoint.deployment or (unquote(named.group(1)) if named else None),
        api_version=endpoint.api_version or version,
    )
