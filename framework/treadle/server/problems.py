"""Errors as clients see them: always this envelope, always JSON, whatever went wrong.

Rules

1. Every answer that is no success has ``{"error": {"message", "type", "param", "code"}}`` as its body.
2. `Retry-After` stands only where a repeat is right and nothing was written: on 429 and 503. Clients repeat
   whatever carries it.
3. What a repeat cannot change says `x-should-retry: false`. There is no 409, which clients repeat.
4. What the code did not foresee is a 500 that says nothing of its inside; the log has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.responses import Response

from treadle.errors import (
    ConfigurationError,
    DefinitionError,
    NotFound,
    RateLimited,
    StoreError,
    StreamCut,
    TreadleError,
)

RETRY_S = 1
"""What `Retry-After` says where nothing better is known."""

NOUNS = {"agent": "assistant", "step": "run step"}
"""Nouns that the wire calls otherwise."""


class Problem(Exception):
    """A request that cannot be answered as it was asked.

    Shapes: `param` is the field at fault, `code` a word that programs look for; None stands on the wire as null.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the HTTP status and what is said."""
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        super().__init__(message)

    @property
    def body(self) -> bytes:
        """Give the envelope."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        found = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return to_json({"error": found})

    def response(self) -> Response:
        """Give the answer."""
        headers = self.headers
        if self.status in (429, 503):
            headers.setdefault("retry-after", str(RETRY_S))
        elif self.status < 500:
            headers.setdefault("x-should-retry", "false")
        return Response(self.body, self.status, headers, "application/json")


def problem_of(error: Exception) -> Problem:
    """Give what a client is told of an error; 500 for one that nobody foresaw."""
    match error:
        case Problem():
            return error
        case ValidationError():
            return _of_fields(error)
        case NotFound():
            noun = NOUNS.get(error.kind, error.kind)
            return Problem(404, f"No {noun} found with id '{error.id}'.")
        case StoreError():
            # What the store says names files of the machine: it is for the log.
            if error.retryable:
                return Problem(503, "The store could not do it just now; try again.", code="server_error")
            return Problem(500, "The store could not do it; the server's log says why.", code="server_error")
        case StreamCut():
            return Problem(400, error.message, code="stream_cut")
        case RateLimited():
            headers = {"retry-after": str(max(RETRY_S, math.ceil(error.retry_after_s or 0)))}
            return Problem(429, _told(error), code="rate_limit_exceeded", headers=headers)
        case ConfigurationError() | DefinitionError():
            return Problem(400, _told(error), code=_word(error))
        case TreadleError() if type(error).http_status < 500:
            return Problem(type(error).http_status, error.message, code=type(error).wire_code)
        case _:
            return Problem(
                500, "The server had an error while it processed your request.", code="server_error"
            )


def _told(error: TreadleError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _word(error: TreadleError) -> str | None:
    """Give the code of an error that names no wire code: a model that nobody configured has a word of its own."""
    return "model_not_found" if error.error_code == "TR041" else None


def _of_fields(error: ValidationError) -> Problem:
    """Give the first field that does not fit, in the wire's words."""
    first: Any = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(p) for p in first["loc"] if not _is_tag(p))
    kind = first["type"]
    if kind == "json_invalid":
        return Problem(400, f"We could not parse the JSON body of your request: {first['msg']}.")
    if kind == "extra_forbidden":
        return Problem(400, f"Invalid request. Parameter `{place}` is not supported.", param=place)
    if kind == "missing":
        return Problem(
            400, f"Missing required parameter: '{place}'.", param=place, code="missing_required_parameter"
        )
    said = str(first["msg"]).removeprefix("Value error, ")
    return Problem(
        400, f"Invalid '{place}': {said}." if place else f"Invalid body: {said}.", param=place or None
    )


def _is_tag(part: object) -> bool:
    """Tell whether a part of a field's place is no field: pydantic names the member of a union in it."""
    return isinstance(part, str) and ("[" in part or "(" in part or part in _TAGS)


_TAGS = frozenset({"str", "dict", "list", "function-plain", "function-after", "constrained-str"})
