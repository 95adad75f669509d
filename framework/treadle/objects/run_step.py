"""The step: one executed node of a step graph, and the checkpoint."""

from __future__ import annotations

from typing import Literal

from treadle.objects.record import Record
from treadle.objects.run import RunError, Usage

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


class Step(Record):
    """A step of a run's journal; it refers to messages by position and never copies them.

    A step's identity is (run, path, attempt). `n` is its place in the journal, `cause` the path of the step
    that made it ready. A model call has the `message_seq` of the reply; a tool call has the row that asked
    (`reply_seq`, `call_index`) and the `message_seq` of its result. `edge` is the label of the edge that was
    taken, `fan` how many steps the successor expands to.

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
    full_output: str | None = None
    """The digest of the blob that has the whole output, where the stored result is cut."""

    @property
    def is_open(self) -> bool:
        """Tell whether the step still waits or works."""
        return self.status == "in_progress"
