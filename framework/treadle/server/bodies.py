"""The bodies of requests: what may stand in them, in the wire's words.

A field that the wire does not know is refused by name. Tools are declared here as far as every kind has them in
common: nothing that comes in by this door can name code, files or commands of the machine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from treadle.text import is_sound
from treadle.wire import MAX_KEY, MAX_PAIRS, MAX_VALUE


class Body(BaseModel):
    """The base of every body."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False
    )


def _sound(text: str) -> str:
    if not is_sound(text):
        msg = "the text has half a character (a lone surrogate) or a NUL"
        raise ValueError(msg)
    return text


def _deep(value: Any) -> Any:
    """Hold free JSON to texts that can be stored."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            _sound(one)
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON
        elif isinstance(one, list):
            waiting += one  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON
    return value


def _no_reference(name: str) -> str:
    # Hazard: a model's name in a document may refer to the environment; what comes by this door must not.
    if "${" in name:
        msg = "a name from outside cannot refer to the server's environment"
        raise ValueError(msg)
    return _sound(name)


def _as_whole(number: Any) -> Any:
    # JSON has one kind of number: some clients write 256.0 where they mean 256.
    return int(number) if isinstance(number, float) and number.is_integer() else number


ModelName = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_no_reference)]
Whole = BeforeValidator(_as_whole)
"""Stands behind the bounds of a whole number."""
RunTokens = Annotated[int, Field(ge=256), Whole]
Text = Annotated[str, AfterValidator(_sound)]
Free = Annotated[dict[str, Any], AfterValidator(_deep)]
"""An object whose fields are its owner's."""
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
ShortText = Annotated[str, Field(max_length=MAX_VALUE), AfterValidator(_sound)]
MetadataKey = Annotated[str, Field(max_length=MAX_KEY), AfterValidator(_sound)]
Metadata = Annotated[
    dict[MetadataKey, ShortText], Field(max_length=MAX_PAIRS, description="Notes of your own.")
]
Name = Annotated[str, Field(max_length=256), AfterValidator(_sound)]


class FunctionDefinition(Body):
    """A function that the client runs: its name, and the JSON Schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: Text | None = None
    parameters: Free | None = None
    strict: bool | None = None


class FunctionTool(Body):
    """A function tool."""

    type: Literal["function"]
    function: FunctionDefinition


class OtherTool(Body):
    """A tool of another kind; which of them can run here is up to the server."""

    model_config = Body.model_config | {"extra": "allow"}

    type: str = Field(min_length=1, max_length=64, json_schema_extra={"not": {"const": "function"}})


def _kind_of_tool(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - whatever came
    return "function" if kind == "function" else "other"


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[OtherTool, Tag("other")],
    Discriminator(_kind_of_tool),
]


class ChosenFunction(Body):
    """The name of a function."""

    name: str = Field(min_length=1, max_length=64)


class ChosenTool(Body):
    """The one tool that the model must call."""

    type: str = Field(min_length=1, max_length=64)
    function: ChosenFunction | None = None


class JsonSchemaFormat(Body):
    """The JSON Schema of the answer."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: Text | None = None
    schema_: Free = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The shape of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class TruncationStrategy(Body):
    """How much of the thread the model is sent."""

    type: Literal["auto", "last_messages"]
    last_messages: Annotated[int, Field(ge=1, le=100_000), Whole] | None = None


class TextPart(Body):
    """Text."""

    type: Literal["text"]
    text: Text


class ImageFile(Body):
    """An image among the files."""

    file_id: Id
    detail: Literal["auto", "low", "high"] = "auto"


class ImageFilePart(Body):
    """An image among the files."""

    type: Literal["image_file"]
    image_file: ImageFile


class ImageUrl(Body):
    """An image by address, or as a data URL."""

    url: Text
    detail: Literal["auto", "low", "high"] = "auto"


class ImageUrlPart(Body):
    """An image by address."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImageFilePart | ImageUrlPart, Field(discriminator="type")]
Content = Annotated[str, AfterValidator(_sound)] | list[Part]


class AttachmentTool(Body):
    """What reads an attachment."""

    type: Literal["file_search", "code_interpreter"]


class Attachment(Body):
    """A file that comes with a message."""

    file_id: Id
    tools: list[AttachmentTool] | None = None


class MessageCreate(Body):
    """A message."""

    role: Literal["user", "assistant"]
    content: Content
    attachments: list[Attachment] | None = None
    metadata: Metadata | None = None


class MetadataUpdate(Body):
    """New metadata; where it is left out, what there is stays."""

    metadata: Metadata | None = None


class ThreadCreate(Body):
    """A thread, with its first messages."""

    messages: list[MessageCreate] | None = None
    tool_resources: Free | None = None
    metadata: Metadata | None = None


class ThreadUpdate(Body):
    """What changes of a thread; what is left out stays."""

    tool_resources: Free | None = None
    metadata: Metadata | None = None


Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
Effort = Annotated[str, Field(max_length=32)]
Format = Literal["auto", "none"] | ResponseFormat
Choice = Literal["none", "auto", "required"] | ChosenTool


class AgentUpdate(Body):
    """What changes of an assistant; what is left out stays."""

    model: ModelName | None = None
    name: Name | None = None
    description: ShortText | None = None
    instructions: Text | None = None
    tools: list[Tool] | None = None
    tool_resources: Free | None = None
    metadata: Metadata | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    reasoning_effort: Effort | None = None
    response_format: Format | None = None


class AgentCreate(AgentUpdate):
    """An assistant."""

    model: ModelName  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride] - an update may leave it out


class _RunFields(Body):
    """What a run may change of its assistant."""

    assistant_id: str = Field(min_length=1, max_length=256)
    model: ModelName | None = None
    instructions: Text | None = None
    tools: list[Tool] | None = None
    tool_resources: Free | None = None
    metadata: Metadata | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    max_prompt_tokens: RunTokens | None = None
    max_completion_tokens: RunTokens | None = None
    truncation_strategy: TruncationStrategy | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    reasoning_effort: Effort | None = None
    inputs: Free | None = Field(
        default=None, description="Values for the inputs that the assistant declares."
    )


class RunCreate(_RunFields):
    """A run of an assistant on a thread."""

    additional_instructions: Text | None = None
    additional_messages: list[MessageCreate] | None = None


class ThreadRunCreate(_RunFields):
    """A thread, and a run of an assistant on it."""

    thread: ThreadCreate | None = None


def _as_text(value: Any) -> Any:
    return "" if value is None else value


class ToolOutput(Body):
    """The output of one call."""

    tool_call_id: str = Field(max_length=256)
    output: Annotated[Text, BeforeValidator(_as_text)] = ""
    type: str | None = Field(default=None, max_length=64)


class ToolApproval(Body):
    """The decision on one call."""

    tool_call_id: str = Field(max_length=256)
    approve: bool
    headers: dict[str, str] | None = None


class AnswerCreate(Body):
    """What a person answers to a question of a run."""

    node: Annotated[Text, Field(max_length=512)] | None = None
    decision: Literal["approve", "reject"] | None = None
    choice: Text | None = None
    value: Annotated[Any, AfterValidator(_deep)] = None
    comment: Text | None = None
    stream: bool | None = None


class WorkflowRunCreate(Body):
    """A run of a workflow."""

    inputs: Free | None = Field(default=None, description="Values for the inputs that the workflow declares.")
    thread_id: Id | None = None
    messages: list[MessageCreate] | None = None
    metadata: Metadata | None = None
    model: ModelName | None = None
    stream: bool | None = None


class SubmitToolOutputs(Body):
    """What a run waits for."""

    tool_outputs: list[ToolOutput] | None = None
    tool_approvals: list[ToolApproval] | None = None
    stream: bool | None = None
