"""The HTTP server: the wire of the OpenAI Assistants API v2 and of Azure AI Foundry Agent Service, over the service's verbs."""
