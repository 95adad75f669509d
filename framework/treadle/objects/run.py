"""The run: one invocation of an agent on a thread."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from treadle.objects.agent import Budget, OutputSpec, ThreadSpec
from treadle.objects.message import ToolCall
from treadle.objects.record import Metadata, Record
from treadle.objects.tool import ToolSpec

RunStatus = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "completed",
    "incomplete",
    "failed",
    "expired",
]


class Usage(Record):
    """Tokens; `estimated` where the endpoint did not count them itself."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Give what was sent and written together."""
        return self.prompt_tokens + self.completion_tokens


class RunError(Record):
    """Why a run or a step failed; `code` is server_error, rate_limit_exceeded, invalid_prompt or a tool's code."""

    code: str
    message: str


class RunOverrides(Record):
    """What one run changes of its agent; it stays on the run's record."""

    model: str | None = None
    instructions: str | None = None
    additional_instructions: str | None = None
    tools: tuple[ToolSpec, ...] | None = None
    tool_choice: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    thread: ThreadSpec | None = None
    output: OutputSpec | Literal["text"] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    tool_resources: dict[str, Any] | None = None
    limits: Budget | None = None

    def output_of(self, agents: OutputSpec | None) -> OutputSpec | None:
        """Give the shape of the answer, None for plain text; `agents` is the agent's own."""
        if self.output is None:
            return agents
        return None if self.output == "text" else self.output


class Question(Record):
    """What a node asks a person.

    Shapes: `form` is the JSON Schema of the answer, `value` what the person makes changes to; of an approval of a call, they are its
    arguments and the schema of these, and `digest` names exactly what would run. Units: `until_ms` Unix milliseconds, when the
    question does not stand any more.
    """

    kind: Literal["approval", "choice", "input", "edit"]
    ask: str
    choices: tuple[str, ...] = ()
    form: dict[str, Any] | None = None
    value: Any = None
    assignees: tuple[str, ...] = ()
    until_ms: int | None = None
    digest: str | None = None


class Answer(Record):
    """What a person answered, once; the result of the node that asked.

    Shapes: `decision` of an approval is approve or reject; `choice` is one of the choices; `value` is what fits the form.
    Units: `at` Unix seconds.
    """

    decision: Literal["approve", "reject"] | None = None
    choice: str | None = None
    value: Any = None
    comment: str | None = None
    by: str = ""
    at: int


class PendingCall(Record):
    """A call that waits: the row that asked, and the place of the call in it.

    Shapes: `action` says for what: for the `output` of a client's function, for a person's `approval`, or for a
    person who knows what became of a call whose outcome is `unknown`. `question` is what the person is asked,
    `digest` names exactly what would run; `arguments` are what a person made of the model's. With the action `answer` a node of
    a workflow asks a person: `asks` has the whole question. `run_id` is the child run whose call
    it is, None for the run's own. Units: `until_ms` Unix milliseconds, when `default` is decided.
    """

    path: str
    reply_seq: int
    call_index: int
    action: Literal["output", "approval", "unknown", "answer"] = "output"
    digest: str | None = None
    question: str | None = None
    until_ms: int | None = None
    default: Literal["approve", "reject"] = "reject"
    arguments: str | None = None
    run_id: str | None = None
    call: ToolCall | None = None
    asks: Question | None = None


class Edit(Record):
    """What a person made of the result of a step, any JSON."""

    value: Any = None


UNCHANGED: Final = object()
"""Stands for no edit: every JSON value, null among them, is one."""


class Origin(Record):
    """The earlier run that a run goes on from, and from which step on it is another one.

    Shapes: `step` is the path of the step that is executed again, or whose result is the `edit`; every visit of the nodes in `force`
    is executed, too, and so are the steps `again`, whose rows the thread of the run does not begin with. `until` is the number of the
    earlier run's last event that counts: what it did later is not known here.
    """

    run: str
    step: str
    kind: Literal["fork", "rerun"]
    force: tuple[str, ...] = ()
    edit: Edit | None = None
    until: int = 0
    again: tuple[str, ...] = ()


class Run(Record):
    """One walk of a step graph over a thread.

    Shapes: `first_seq` is the seq of the first row that the run can append; 0 lets the store find it. `in_line`
    says that it waits for the run that its thread has; `deaths` counts the walkers that died at the place
    where it stands, one after the other.
    Units: times in Unix milliseconds; `walked_ms` is the time spent walking, waiting left out.
    Wire: ``GET /threads/{thread_id}/runs/{id}``.
    """

    id: str
    tenant: str = "default"
    thread_id: str
    agent_id: str
    agent_version: int = 1
    graph: str
    parent_id: str | None = None
    status: RunStatus = "queued"
    rev: int = 0
    fence: int = 0
    walker: str | None = None
    in_line: bool = False
    deaths: int = 0
    model: str = ""
    inputs: dict[str, Any] = Field(default_factory=dict)
    overrides: RunOverrides = Field(default_factory=RunOverrides)
    metadata: Metadata = Field(default_factory=dict)
    created_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None
    expires_ms: int | None = None
    wake_ms: int | None = None
    walked_ms: int = 0
    first_seq: int = 0
    usage: Usage | None = None
    last_error: RunError | None = None
    incomplete_reason: str | None = None
    pending: tuple[PendingCall, ...] = ()
    output: Any = None
    origin: Origin | None = None

    @property
    def required_action(self) -> tuple[ToolCall, ...]:
        """Give the calls that wait for the client; empty in every status but requires_action."""
        if self.status != "requires_action":
            return ()
        return tuple(p.call for p in self.pending if p.call is not None and p.action == "output")

    @property
    def required_approvals(self) -> tuple[PendingCall, ...]:
        """Give the calls that wait for a person; empty in every status but requires_action."""
        if self.status != "requires_action":
            return ()
        return tuple(p for p in self.pending if p.action in ("approval", "unknown"))

    @property
    def required_answers(self) -> tuple[PendingCall, ...]:
        """Give the questions of nodes that wait for a person; empty in every status but requires_action."""
        if self.status != "requires_action":
            return ()
        return tuple(p for p in self.pending if p.action == "answer")
