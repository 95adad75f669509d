"""The agent: a model with instructions and tools, and the document that declares it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from treadle.objects.record import Duration, JsonSchema, Metadata, Name, Record
from treadle.objects.tool import AgentApproval, FunctionTool, Retry, ToolSpec, UnavailableTool


class ModelOptions(Record):
    """How the model samples."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="Higher is more random.")
    top_p: float | None = Field(
        default=None, ge=0, le=1, description="Sample from the most likely tokens only."
    )
    max_output_tokens: int | None = Field(default=None, ge=1, description="The longest reply, in tokens.")
    seed: int | None = Field(
        default=None, description="Ask the endpoint for the same reply to the same prompt."
    )
    stop: str | tuple[str, ...] | None = Field(default=None, description="Text at which the reply ends.")
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Discourage what was said often."
    )
    presence_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Discourage what was said at all."
    )
    reasoning_effort: str | None = Field(
        default=None, description="How long a reasoning model thinks: low, medium, high."
    )
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether one reply may ask for several tools."
    )
    extra: dict[str, Any] = Field(
        default_factory=dict, description="Fields passed to the endpoint as they are."
    )


class ModelSpec(Record):
    """Which model, on which connection, with which options."""

    id: str = Field(
        min_length=1,
        description="The model's name: one of `models:`, `offline`, `scripted`, or the endpoint's own.",
    )
    connection: str | None = Field(default=None, description="The connection that serves it, by name.")
    options: ModelOptions = Field(default_factory=ModelOptions, description="How it samples.")


class Connection(Record):
    """A model endpoint: where it is and how to be let in."""

    type: Literal["openai", "azure_openai"] = Field(
        default="openai", description="The protocol that the endpoint speaks."
    )
    base_url: str | None = Field(default=None, description="The endpoint's address.")
    api_key: str | None = Field(default=None, description="A reference such as ${secret:LLM_API_KEY}.")
    api_version: str | None = Field(default=None, description="Azure OpenAI: the API version.")
    deployment: str | None = Field(
        default=None, description="Azure OpenAI: the deployment that serves the model."
    )
    headers: dict[str, str] = Field(default_factory=dict, description="Further request headers.")
    organization: str | None = Field(default=None, description="OpenAI: the organization that pays.")
    timeout: Duration | None = Field(default=None, description="How long one request may take.")
    max_retries: int = Field(
        default=2, ge=0, le=10, description="How often a request is repeated on 429, 5xx and timeouts."
    )


class Price(Record):
    """What a model costs."""

    input: float = Field(ge=0, description="USD per million tokens that are sent.")
    output: float = Field(ge=0, description="USD per million tokens that are written.")


class ModelEntry(Record):
    """A model of the project file: a name for an endpoint's model and its options."""

    id: str = Field(
        min_length=1, description="The endpoint's own name of the model, `offline` or `scripted`."
    )
    connection: str | None = Field(
        default=None, description="The connection that serves it; `default` when absent."
    )
    options: ModelOptions = Field(default_factory=ModelOptions, description="How it samples.")
    context_window: int | None = Field(
        default=None, ge=256, description="How many tokens the model reads and writes at once."
    )
    price: Price | None = Field(default=None, description="USD per million tokens, for cost limits.")


class Instructions(Record):
    """What the model is told first: a template, or literal text."""

    template: str | None = Field(default=None, description="A Jinja template over the agent's inputs.")
    text: str | None = Field(default=None, description="Literal text, never a template.")

    @model_validator(mode="after")
    def _one_of(self) -> Instructions:
        if (self.template is None) == (self.text is None):
            msg = "instructions are either a template or a text"
            raise ValueError(msg)
        return self


class InputSpec(Record):
    """One declared input: a JSON Schema, whether it is required, and its default."""

    model_config = Record.model_config | {"extra": "allow"}

    required: bool | None = Field(
        default=None, description="Whether a run must give it; true unless there is a default."
    )
    default: Any = Field(default=None, description="The value where a run gives none.")

    @property
    def has_default(self) -> bool:
        """Tell whether the file gives a default."""
        return "default" in self.model_fields_set

    @property
    def is_required(self) -> bool:
        """Tell whether a run must give a value."""
        return self.required if self.required is not None else not self.has_default

    @property
    def json_schema(self) -> JsonSchema:
        """Give the JSON Schema of the value."""
        return dict(self.model_extra or {})


class OutputSpec(Record):
    """The shape of the final answer."""

    schema_: JsonSchema = Field(alias="schema", description="JSON Schema that the answer must fit.")
    strict: bool = Field(default=True, description="Ask the endpoint to keep to the schema exactly.")
    name: str | None = Field(default=None, max_length=64, description="What clients call the shape.")
    description: str | None = Field(default=None, description="What the shape is for.")

    @property
    def is_any_object(self) -> bool:
        """Tell whether any JSON object will do: what the wire calls `json_object`."""
        return self.schema_ == ANY_OBJECT and not self.strict and self.name is None


ANY_OBJECT: JsonSchema = {"type": "object"}
"""The schema of any JSON object."""


class ThreadSpec(Record):
    """How much of the thread the model is sent."""

    truncation: Literal["auto", "last"] = Field(
        default="auto", description="`auto` drops from the middle, `last` keeps the tail."
    )
    keep_last: int | None = Field(default=None, ge=1, description="With `last`: how many messages.")


class Limits(Record):
    """What one run may use; a breach ends it `incomplete` with the limit's name."""

    max_steps: int = Field(default=32, ge=1, description="Steps of the run.")
    max_tool_calls: int = Field(default=64, ge=0, description="Tool calls of the run.")
    max_model_calls: int | None = Field(default=None, ge=1, description="Model calls of the run.")
    max_output_bytes: int | None = Field(
        default=None, ge=1, description="Bytes that the tools of the run give, all together."
    )
    max_tokens: int | None = Field(default=None, ge=1, description="Tokens sent and written.")
    max_cost_usd: float | None = Field(default=None, ge=0, description="Money, by the model's `price`.")
    timeout: Duration | None = Field(
        default=None, description="Time spent walking the run; waiting does not count."
    )


ToolChoice = Annotated[str, Field(min_length=1, max_length=64)]


class Budget(Record):
    """What a child run may use, below what its own limits allow."""

    max_steps: int | None = Field(default=None, ge=1, description="Steps of the child run.")
    max_tool_calls: int | None = Field(default=None, ge=0, description="Tool calls of the child run.")
    max_model_calls: int | None = Field(default=None, ge=1, description="Model calls of the child run.")
    max_output_bytes: int | None = Field(
        default=None, ge=1, description="Bytes that the tools of the child run give, all together."
    )
    max_tokens: int | None = Field(default=None, ge=1, description="Tokens sent and written.")
    max_cost_usd: float | None = Field(default=None, ge=0, description="Money, by the model's `price`.")
    timeout: Duration | None = Field(default=None, description="Time spent walking; waiting does not count.")


class AgentSpec(Record):
    """The agent document, as it was declared; what an agent's version is made of."""

    version: str = Field(default="1.0.0", pattern=r"^1\.\d+\.\d+$", description="The version of the format.")
    kind: Literal["agent"] = "agent"
    name: Name | None = Field(default=None, description="Unique in the project.")
    display_name: str | None = None
    description: str | None = Field(
        default=None, description="Shown to models when the agent is used as a tool."
    )
    metadata: Metadata = Field(default_factory=dict)
    model: ModelSpec = Field(description="Which model answers.")
    instructions: Instructions = Field(default_factory=lambda: Instructions(text=""))
    additional_instructions: str | None = Field(
        default=None, description="A template, appended to the instructions."
    )
    inputs: dict[str, InputSpec] = Field(
        default_factory=dict, description="The names that the instructions may use."
    )
    output: OutputSpec | None = Field(default=None, description="The shape of the answer.")
    tools: tuple[ToolSpec, ...] = Field(default=(), description="What the model may call.")
    tool_choice: ToolChoice = Field(
        default="auto", description="auto, none, required, or the name of a tool."
    )
    thread: ThreadSpec = Field(default_factory=ThreadSpec)
    limits: Limits = Field(default_factory=Limits)
    approval: AgentApproval | None = Field(
        default=None, description="Whether a person must agree before tools run."
    )
    retry: Retry | None = Field(default=None, description="How failed model calls are repeated.")
    timeout: Duration | None = Field(default=None, description="How long one model call may take.")
    connections: dict[str, Connection] = Field(default_factory=dict, description="Endpoints, by name.")
    tool_resources: dict[str, Any] = Field(
        default_factory=dict,
        description="The files and vector stores of tools, as a client of the server named them.",
    )
    extensions: dict[str, Any] = Field(default_factory=dict, description="The document's x- keys, untouched.")
    tests: tuple[dict[str, Any], ...] = Field(default=(), description="The document's own tests.")

    @property
    def functions(self) -> dict[str, FunctionTool]:
        """Give the function tools by name."""
        return {t.name: t for t in self.tools if isinstance(t, FunctionTool)}

    @property
    def unavailable(self) -> tuple[UnavailableTool, ...]:
        """Give the declared tools that nothing here can run."""
        return tuple(t for t in self.tools if isinstance(t, UnavailableTool))

    def canonical(self) -> str:
        """Give the document as JSON with sorted keys and without what equals its default."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @property
    def digest(self) -> str:
        """Give the sha256 of the canonical JSON: two specs with one digest are the same agent."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


class Agent(Record):
    """A version of an agent in the store; versions never change."""

    id: str
    tenant: str = "default"
    version: int = 1
    name: str | None = None
    origin: Literal["file", "api"] = "api"
    created_ms: int
    spec: AgentSpec
