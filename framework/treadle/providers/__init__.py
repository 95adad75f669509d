"""The model endpoints: a table from the type of a connection to the class that speaks its protocol.

A provider class is called with an `Endpoint` and gives a `Provider`.
"""

from __future__ import annotations

PROVIDERS = {
    "azure_openai": "treadle.providers.azure:AzureOpenAIProvider",
    "offline": "treadle.providers.offline:OfflineProvider",
    "openai": "treadle.providers.openai:OpenAIProvider",
    "scripted": "treadle.providers.scripted:ScriptedProvider",
}
