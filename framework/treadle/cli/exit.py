"""What the process's exit code says: one table for every command.

| code | says |
|---|---|
| 0 | done; a run completed |
| 1 | a run failed or was cancelled, a check found something, or treadle itself broke |
| 2 | the command line is wrong |
| 3 | a document or the configuration is wrong |
| 4 | the model endpoint or its credentials |
| 5 | a run waits for its client (`requires_action`) |
| 6 | there is no such object |
| 7 | a run expired, ran out of time or hit a limit |
| 130 | interrupted |
| 141 | the reader of the output went away |
| 143 | terminated (SIGTERM) |
"""

from __future__ import annotations

from treadle.errors import (
    ConfigurationError,
    DefinitionError,
    GraphError,
    ModelNotConfigured,
    NotFound,
    ProviderError,
    TreadleError,
)

OK = 0
FAILED = 1
USAGE = 2
DEFINITION = 3
MODEL = 4
REQUIRES_ACTION = 5
NOT_FOUND = 6
INCOMPLETE = 7
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

OF_RUN = {
    "completed": OK,
    "failed": FAILED,
    "cancelled": FAILED,
    "cancelling": FAILED,
    "requires_action": REQUIRES_ACTION,
    "incomplete": INCOMPLETE,
    "expired": INCOMPLETE,
}
"""The exit code of a run's status; a run that goes on elsewhere (`queued`, `in_progress`) is 0."""


PROVIDER_ERRORS = (
    "rate_limit", "timeout", "connection", "model_error", "content_filter", "credentials", "context_length",
)  # fmt: skip
"""The codes of runs that fail by their model endpoint; `http_NNN` are the others."""


def of_error(error: TreadleError) -> int:
    """Give the exit code of an error, by its class."""
    match error:
        case ModelNotConfigured() | ProviderError():
            return MODEL
        case DefinitionError() | ConfigurationError() | GraphError():
            return DEFINITION
        case NotFound():
            return NOT_FOUND
        case _:
            return FAILED


def of_run(status: str, *, error_code: str | None = None) -> int:
    """Give the exit code of a run's status; `error_code` says why it failed."""
    if status == "failed" and error_code is not None:
        if error_code == ModelNotConfigured.code or is_provider_error(error_code):
            return MODEL
        if error_code.startswith("TR"):
            return DEFINITION
    return OF_RUN.get(status, OK)


def is_provider_error(error_code: str) -> bool:
    """Tell whether the code of a run's error is one of a model endpoint."""
    return error_code in PROVIDER_ERRORS or error_code.startswith("http_")
