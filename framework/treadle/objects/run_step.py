"""The step: one executed node of a step graph, and the checkpoint."""

from __future__ import annotations

from typing import Any, Literal

from treadle.objects.record import Record
from treadle.objects.run import Question, RunError, Usage

StepKind = Literal[
    "model_call", "tool_call", "append_message", "assign", "pause", "wait", "child_run", "function", "frame"
]
StepStatus = Literal["in_progress", "completed", "failed", "cancelled", "expired"]


class Asked(Record):
    """What a person is asked about a call: whether it may run, or what became of it.

    Shapes: `digest` names what the answer binds to: tool, arguments, run and step. Units: `until_ms` Unix
    milliseconds, when `default` counts as decided.
    """

    action: Literal["approval", "unknown"]
    question: str
    digest: str
    until_ms: int | None = None
    default: Literal["approve", "reject"] = "reject"


class Decision(Record):
    """What a person decided on a call, once.

    Shapes: `digest` names what was decided on: tool, arguments, run and step. `arguments` are what the person
    made of the model's, as JSON text. Units: `at_ms` Unix milliseconds.
    """

    verdict: Literal["approve", "reject"]
    by: str = ""
    at_ms: int
    reason: str | None = None
    arguments: str | None = None
    digest: str | None = None


class Used(Record):
    """What a child run used, its own children included."""

    steps: int = 0
    tool_calls: int = 0
    model_calls: int = 0
    cost_usd: float = 0.0


class Step(Record):
    """A step of a run's journal; it refers to messages by position and never copies them.

    A step's identity is (run, path, attempt). `n` is its place in the journal, `cause` the path of the step
    that made it ready. A model call has the `message_seq` of the reply; a tool call has the row that asked
    (`reply_seq`, `call_index`) and the `message_seq` of its result. `edge` is the label of the edge that was
    taken, `fan` how many steps the successor expands to: the items of a map, the number of the round of a loop.

    A step of a workflow has its `result`, and the `writes` that it makes to the state, by key; `child` is the id of the run
    that it waits for, or had; `used` is what that run used, beside its tokens. `question` is what a person is asked. `wake_ms` is when a
    timer, or a pause before the next attempt, is over. `kept` names the step of an earlier run whose result this is:
    it was not executed again.

    Wire: a model call and its tool calls read as the run steps message_creation and tool_calls.
    """

    run_id: str
    tenant: str = "default"
    n: int
    path: str
    node: str
    kind: StepKind
    attempt: int = 1
    status: StepStatus = "completed"
    fence: int = 0
    cause: str | None = None
    started_ms: int
    ended_ms: int | None = None
    edge: str | None = None
    fan: int = 0
    reply_seq: int | None = None
    call_index: int | None = None
    message_seq: int | None = None
    tool: str | None = None
    usage: Usage | None = None
    last_error: RunError | None = None
    note: str | None = None
    event_seq: int | None = None
    """The number of the event that the step's end is; the store gives it."""
    said: bool = False
    """Whether the step appended a message that readers see: its event is the number before."""
    asked: Asked | None = None
    decision: Decision | None = None
    """What a person decided on the call; `asked` is what they were asked."""
    result: Any = None
    writes: dict[str, Any] | None = None
    child: str | None = None
    used: Used | None = None
    question: Question | None = None
    wake_ms: int | None = None
    key: str | None = None
    """The idempotency key that the node asked for."""
    kept: str | None = None
    full_output: str | None = None
    """The digest of the blob that has the whole output, where the stored result is cut."""

    @property
    def is_open(self) -> bool:
        """Tell whether the step still waits or works."""
        return self.status == "in_progress"
