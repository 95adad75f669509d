"""Every error that treadle raises, drawn once.

    TreadleError
    ├── DefinitionError        a document: file, line and column of each problem
    ├── ConfigurationError     the command line, the project file or the environment
    │   └── ModelNotConfigured a model name that resolves to no endpoint
    ├── GraphError             a step graph that cannot be walked; names the node
    ├── StateError             a move that the lifecycle tables do not know; names status and event
    │   ├── ThreadBusy         the thread has an active run
    │   └── ToolOutputsError   submitted outputs do not match the calls that wait
    ├── NotFound               no such object in this tenant
    ├── Conflict               another writer was first, or an id or name is taken
    │   ├── LeaseLost          the run is walked by somebody else now
    │   └── Repeated           the client's key was used for the same before
    ├── StreamCut              a reader was too slow; it can go on where it was
    ├── Unauthorized           no key, or a key that does not open this
    ├── RateLimited            come back later
    ├── OutboundError          an address that somebody supplied gave nothing that can be used
    │   └── OutboundRefused    it may not be called at all
    ├── ProviderError          the model endpoint said no
    │   └── ContextLengthError the prompt does not fit the model
    ├── ToolError              a tool failed; the model may be told
    │   └── StatementError     the store refused a statement of a tool
    └── StoreError             the database said no; `retryable` says whether a repeat can help

The docstring of a class is its default message. `wire_code` and `http_status` are what the server sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding of a check, tied to its place.

    Units: line and column count from 1; `end_column` is exclusive. A problem of a graph that was built in
    Python has a node and no file.
    """

    code: str
    message: str
    severity: Severity = "error"
    file: str | None = None
    line: int | None = None
    column: int | None = None
    end_column: int | None = None
    node: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}  " if self.file and self.line else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.severity} {self.code}  {self.message}{hint}"


class TreadleError(Exception):
    """Treadle could not do what was asked."""

    code: ClassVar[str] = "TR000"
    wire_code: ClassVar[str | None] = None
    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str | None = None, *, hint: str | None = None, code: str | None = None
    ) -> None:
        """Take the message (default: the class's docstring) and the way out.

        Shapes: `hint` is one sentence that says what to do; `code` replaces the class's TRnnn.
        """
        default = (type(self).__doc__ or "").strip().splitlines()
        self.message = message or (default[0] if default else type(self).__name__)
        self.hint = hint
        self.error_code = code or type(self).code
        super().__init__(self.message)


class DefinitionError(TreadleError):
    """The document has problems."""

    code = "TR100"
    http_status = 400
    wire_code = "invalid_request_error"

    def __init__(self, problems: list[Problem] | tuple[Problem, ...], message: str | None = None) -> None:
        """Collect every problem that was found, in the order of file, line and column."""
        self.problems = tuple(problems)
        super().__init__(message or "\n".join(str(p) for p in self.problems))
        if self.problems:
            self.error_code = self.problems[0].code


class ConfigurationError(TreadleError):
    """The configuration cannot be used."""

    code = "TR030"
    http_status = 400


class ModelNotConfigured(ConfigurationError):
    """The model is not configured."""

    code = "TR041"


class GraphError(TreadleError):
    """The step graph cannot be walked."""

    code = "TR200"
    http_status = 400

    def __init__(
        self,
        message: str | None = None,
        *,
        node: str | None = None,
        hint: str | None = None,
        problems: list[Problem] | tuple[Problem, ...] = (),
    ) -> None:
        """Name the node at which the graph breaks, and every problem that a check found."""
        self.node = node
        self.problems = tuple(problems)
        super().__init__(message, hint=hint, code=self.problems[0].code if self.problems else None)


class StateError(TreadleError):
    """That move is not possible in this status."""

    code = "TR060"
    http_status = 400

    def __init__(
        self,
        message: str | None = None,
        *,
        status: str | None = None,
        event: str | None = None,
        hint: str | None = None,
        run: object = None,
    ) -> None:
        """Name the status, the event that it refuses, and the run where there is one."""
        self.status = status
        self.event = event
        self.run = run
        super().__init__(message, hint=hint)


class ThreadBusy(StateError):
    """The thread has an active run."""

    code = "TR061"


class ToolOutputsError(StateError):
    """The submitted outputs do not match the calls that wait."""

    code = "TR062"


class NotFound(TreadleError):
    """There is no such object."""

    code = "TR050"
    http_status = 404

    def __init__(self, kind: str, id_: str, *, hint: str | None = None) -> None:
        """Name the kind of object and the id that was asked for."""
        self.kind = kind
        self.id = id_
        super().__init__(f"No {kind} found with id '{id_}'.", hint=hint)


class Conflict(TreadleError):
    """Another writer was first."""

    code = "TR063"
    http_status = 400


class LeaseLost(Conflict):
    """This process does not walk the run any more."""

    code = "TR064"


class Repeated(Conflict):
    """The same was asked under that key before."""

    code = "TR069"

    def __init__(self, object_id: str) -> None:
        """Carry the id of what was given then."""
        self.object_id = object_id
        super().__init__(f"the same was asked under that key before; it gave {object_id}")


class StreamCut(TreadleError):
    """The reader of a stream was too slow."""

    code = "TR071"
    http_status = 429

    def __init__(self, run_id: str, after: int) -> None:
        """Carry the run, and the number of the last event that was read."""
        self.run_id = run_id
        self.after = after
        super().__init__(
            f"the reader of run {run_id} was too slow and is cut off after event {after}",
            hint=f"follow the run again with after={after}: nothing is missed",
        )


class Unauthorized(TreadleError):
    """The key does not open this."""

    code = "TR065"
    wire_code = "invalid_api_key"
    http_status = 401


class RateLimited(TreadleError):
    """Too many requests; come back later."""

    code = "TR066"
    wire_code = "rate_limit_exceeded"
    http_status = 429

    def __init__(
        self, message: str | None = None, *, retry_after_s: float | None = None, hint: str | None = None
    ) -> None:
        """Say in how many seconds it is worth another try, where that is known."""
        self.retry_after_s = retry_after_s
        super().__init__(message, hint=hint)


class ProviderError(TreadleError):
    """The model endpoint did not answer as it should."""

    code = "TR042"
    wire_code = "server_error"
    http_status = 502

    def __init__(
        self,
        message: str | None = None,
        *,
        kind: str = "model_error",
        status: int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        hint: str | None = None,
    ) -> None:
        """Carry what the endpoint said.

        Shapes: `kind` is one of rate_limit, timeout, connection, http_NNN, model_error, content_filter,
        credentials, context_length, image. Units: `retry_after_s` seconds, as the endpoint asked.
        """
        self.kind = kind
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        super().__init__(message, hint=hint)


class ContextLengthError(ProviderError):
    """The prompt does not fit the model's context."""

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        """Carry what the endpoint said."""
        super().__init__(message, kind="context_length", status=status)


class OutboundError(TreadleError):
    """The address gave nothing that can be used."""

    code = "TR072"
    http_status = 502

    def __init__(
        self,
        host: str | None = None,
        reason: str | None = None,
        *,
        hint: str | None = None,
        retryable: bool = False,
    ) -> None:
        """Name the host of the address, never its path or query, which may be secret, and what it did.

        Shapes: `reason` goes on after the host: "answered 404". `retryable` says whether a repeat can help.
        """
        self.host = host
        self.reason = reason
        self.retryable = retryable
        who = f"'{host}'" if host is not None else "the address"
        super().__init__(f"{who} {reason}" if reason is not None else None, hint=hint)


class OutboundRefused(OutboundError):
    """The address may not be called."""

    code = "TR073"
    http_status = 400

    def __init__(
        self, host: str | None = None, reason: str | None = None, *, hint: str | None = None
    ) -> None:
        """Name the host, where it could be read, and what speaks against it."""
        told = f"{reason}, and is not called" if reason is not None else None
        super().__init__(host, told, hint=hint)
        self.reason = reason


class ToolError(TreadleError):
    """The tool failed."""

    code = "TR067"

    def __init__(
        self,
        message: str | None = None,
        *,
        tool: str | None = None,
        retryable: bool = False,
        kind: str = "tool_error",
    ) -> None:
        """Name the tool; `retryable` says whether its own retry rule may repeat it.

        Shapes: `kind` is one of tool_error, invalid_arguments, unknown_tool, approval_rejected, outcome_unknown.
        """
        self.tool = tool
        self.retryable = retryable
        self.kind = kind
        super().__init__(message)


class StatementError(ToolError):
    """The store refused a statement of a tool."""

    def __init__(self, sql: str | None = None, reason: str | None = None, *, index: int = 0) -> None:
        """Name the statement and what SQLite, or treadle, has against it.

        Shapes: `index` is its place among the statements of the checkpoint, from 0.
        """
        self.index = index
        said = " ".join((sql or "").split())
        short = said if len(said) <= 200 else f"{said[:200]}…"
        super().__init__(f"the statement '{short}' was refused: {reason}" if sql is not None else None)


class StoreError(TreadleError):
    """The store could not keep or give what was asked."""

    code = "TR068"
    http_status = 503

    def __init__(
        self, message: str | None = None, *, retryable: bool = False, hint: str | None = None
    ) -> None:
        """Say whether repeating the same call can help."""
        self.retryable = retryable
        super().__init__(message, hint=hint)
