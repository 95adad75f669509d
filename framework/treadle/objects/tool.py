"""What a model may call: the tool kinds of the agent document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from treadle.objects.record import Duration, JsonSchema, Record, ToolName

Effect = Literal["pure", "idempotent", "once", "transactional"]

RetryOn = Annotated[
    str,
    Field(
        pattern=r"^(rate_limit|timeout|connection|http_(?:[45]xx|\d{3})|tool_error|invalid_output|model_error"
        r"|content_filter|budget|approval_rejected|code_error|state_type|outcome_unknown|cancelled)$"
    ),
]


class Retry(Record):
    """How often to try again, and how long to wait in between."""

    max_attempts: int = Field(default=1, ge=1, le=100, description="Attempts in all; 1 means no retry.")
    initial_delay: Duration = Field(default="1s", description="The wait before the second attempt.")
    backoff: float = Field(default=2, ge=1, description="What each wait is multiplied by.")
    max_delay: Duration = Field(default="60s", description="The longest wait.")
    jitter: Literal["full", "none"] = Field(
        default="full", description="Whether the wait is drawn at random below its length."
    )
    on: tuple[RetryOn, ...] = Field(
        default=("rate_limit", "connection", "http_5xx"), description="The error codes that are tried again."
    )


class ApprovalWhen(Record):
    """Ask a person when an expression over `args` and `tool` is true."""

    when: str = Field(default="true", description="An expression over `args` and `tool`.")
    message: str | None = Field(default=None, description="The question, a template over `args` and `tool`.")
    timeout: Duration | None = Field(default=None, description="How long the question stands.")
    on_timeout: Literal["reject", "approve"] = Field(
        default="reject", description="What counts as decided when nobody answered in time."
    )


class ApprovalNames(Record):
    """Ask a person for some tools and not for others, by name."""

    always: tuple[str, ...] = Field(default=(), description="Tools that always ask.")
    never: tuple[str, ...] = Field(default=(), description="Tools that never ask.")


ToolApproval = Literal["never", "always"] | ApprovalWhen
AgentApproval = Literal["never", "always"] | ApprovalNames


class FunctionTool(Record):
    """A function: run here when it names a `call` or a registered callable, else by the client."""

    type: Literal["function"] = "function"
    name: ToolName = Field(description="The name by which the model calls it.")
    description: str = Field(default="", description="What it does, told to the model.")
    call: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$",
        description="The Python callable, as package.module:attribute; its module must be on the project's allow-list.",
    )
    runs: Literal["client", "server"] | None = Field(
        default=None,
        description="Who runs it: `client` stops the run at requires_action, `server` runs it here.",
    )
    parameters: JsonSchema | None = Field(
        default=None,
        description="JSON Schema of the arguments; derived from the callable's signature when absent.",
    )
    strict: bool = Field(default=False, description="Ask the model to keep to the schema exactly.")
    effect: Effect = Field(default="once", description="What a repeated call does to the outside world.")
    pass_: tuple[Literal["run", "thread", "idempotency_key"], ...] = Field(
        default=(), alias="pass", description="Arguments that treadle supplies and the model never sees."
    )
    approval: ToolApproval | None = Field(
        default=None, description="Whether a person must agree before it runs."
    )
    timeout: Duration | None = Field(default=None, description="How long one call may take.")
    isolate: bool = Field(
        default=False,
        description="Run it in a process of its own, which a cancel or a timeout ends; not for async functions.",
    )
    retry: Retry | None = Field(
        default=None, description="How failed calls are repeated; not for effect `once`."
    )
    max_result_chars: int = Field(default=20_000, ge=1, description="Longer results are cut, with a mark.")
    on_error: Literal["return", "fail"] = Field(
        default="return", description="Whether an error goes back to the model or fails the run."
    )
    on_unknown: Literal["tell", "ask", "fail"] = Field(
        default="tell", description="What happens when a crash leaves it unknown whether a call was made."
    )

    @property
    def is_client_side(self) -> bool:
        """Tell whether the client gives this function's output."""
        return self.runs == "client" or (self.runs is None and self.call is None)


class UnavailableTool(Record):
    """A tool that a foreign document declares and that nothing here can run; kept as it was read."""

    type: str = Field(description="The kind as the foreign document names it.")
    name: str | None = None
    description: str = ""
    unavailable: str = Field(description="Why it cannot run.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="The rest of the declaration, untouched."
    )


ToolSpec = FunctionTool | UnavailableTool

FUTURE_TOOLS = (
    "openapi",
    "mcp",
    "code_interpreter",
    "file_search",
    "connected_agent",
    "http",
    "workflow",
    "ask_human",
)
"""Kinds that the format knows and that no part of treadle runs yet: refused by name in a native document."""

HOSTED_TOOLS = (
    "bing_grounding",
    "bing_custom_search",
    "azure_ai_search",
    "azure_function",
    "web_search",
    "sharepoint_grounding",
    "fabric_dataagent",
    "deep_research",
    "browser_automation",
    "computer_use_preview",
)
"""Kinds that only the hosted service runs."""
