"""What a script written for Azure's agents adds to talk to treadle over plain http.

Azure's clients send the tokens of a credential over https only. A key they also send over http:

    from azure.ai.agents import AgentsClient
    from treadle.azure import local_client_kwargs

    client = AgentsClient(
        endpoint="http://127.0.0.1:8000/api/projects/default",
        credential=credential,
        **local_client_kwargs(),
    )

`credential` is then asked for nothing. It may stay whatever the script has, `DefaultAzureCredential()` also; it
may not be None. The keywords are the same for the synchronous and the asynchronous client, and for
`AIProjectClient`, which hands them on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypedDict

from treadle.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.core.pipeline.policies import AzureKeyCredentialPolicy

KEY = "TREADLE_API_KEY"
NO_KEY = "no-key"
"""What is sent to a server that asks for no key."""


class ClientKwargs(TypedDict):
    """Keywords of a client's constructor."""

    authentication_policy: AzureKeyCredentialPolicy[Any, Any]


def local_client_kwargs(key: str | None = None, *, header: str = "api-key") -> ClientKwargs:
    """Give the constructor keywords with which a client shows a key, over plain http too.

    Shapes: `key` is by default what TREADLE_API_KEY says; a server started with --no-auth takes any.
    With ``header="Authorization"`` the key is sent as ``Bearer <key>``.
    Errors: ConfigurationError without a key, and without Azure's library.
    """
    found = key or os.environ.get(KEY)
    if not found:
        raise ConfigurationError(
            "there is no API key",
            hint=f"set {KEY}, or give local_client_kwargs a key; any text, such as '{NO_KEY}', does for a server "
            "without keys",
        )
    try:
        from azure.core.credentials import AzureKeyCredential
        from azure.core.pipeline.policies import AzureKeyCredentialPolicy
    except ImportError as e:
        raise ConfigurationError(
            "Azure's clients are not installed", hint="install them: pip install 'treadle[azure]'"
        ) from e
    prefix = "Bearer" if header.lower() == "authorization" else None
    return {
        "authentication_policy": AzureKeyCredentialPolicy(AzureKeyCredential(found), header, prefix=prefix)
    }
