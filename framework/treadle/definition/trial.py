"""The shape of a document's own tests, which `treadle test` runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from treadle.objects.record import Record


class TrialError(Record):
    """An error that stands in for an answer; `type` is its code."""

    type: str = Field("tool_error", min_length=1)
    message: str = ""


class TrialModelReply(Record):
    """What the scripted model answers: a text, a JSON value, a call or an error."""

    text: str | None = None
    json_: Any = Field(None, alias="json")
    call: str | None = None
    arguments: dict[str, Any] | None = None
    error: TrialError | None = None


class TrialMock(Record):
    """What stands in for the outside world."""

    model: tuple[TrialModelReply, ...] = ()
    tools: dict[str, Any] = Field(default_factory=dict)
    nodes: dict[str, Any] = Field(default_factory=dict)
    http: dict[str, Any] = Field(default_factory=dict)
    human: dict[str, Any] = Field(default_factory=dict)


class TrialExpect(Record):
    """What must hold when the run ends."""

    status: Literal["completed", "incomplete", "failed", "requires_action", "cancelled", "expired"] | None = (
        None
    )
    path: tuple[str, ...] | None = None
    path_contains: tuple[str, ...] | None = None
    output: Any = None
    text_contains: str | tuple[str, ...] | None = None
    text_matches: str | None = None
    tools_called: tuple[str, ...] | None = None
    never_called: tuple[str, ...] | None = None
    required_action: dict[str, Any] | None = None
    assert_: tuple[str, ...] = Field((), alias="assert")
    max_steps: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)


class TrialJudge(Record):
    """A model that reads the answer and gives marks."""

    rubric: str
    model: str | None = None
    min_score: float | None = None


class TrialMessage(Record):
    """One message of the conversation: who said it is the key."""

    user: str | None = None
    assistant: str | None = None


class Trial(Record):
    """One test of a document."""

    name: str = Field(min_length=1)
    inputs: dict[str, Any] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)
    messages: tuple[TrialMessage, ...] = ()
    mock: TrialMock | None = None
    expect: TrialExpect | None = None
    repeat: int = Field(1, ge=1)
    skip: bool | str = False
    tags: tuple[str, ...] = ()
    live: bool = False
    judge: TrialJudge | None = None
