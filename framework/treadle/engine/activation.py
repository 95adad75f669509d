"""Where a run stands: the steps that may start, those that are open, and what has been used."""

from __future__ import annotations

from typing import Any, NamedTuple

from rpds import HashTrieMap

from treadle.errors import GraphError
from treadle.objects.run_step import Step

DISPATCHED, CHILD, PERSON, TIMER, ANSWERED = "dispatched", "child", "person", "timer", "answered"
"""What the edge of an open step of a workflow says it is open for."""


class Activation(NamedTuple):
    """A step that may start: where it stands in the graph, and which step made it ready.

    Shapes: `lane` is the branch, the item or the round of a workflow that it belongs to; `frame` is the path of the frame that it
    continues or closes. Units: `not_before_ms` Unix milliseconds.
    """

    path: str
    node: str
    visit: int
    item: int | None = None
    cause: str | None = None
    reply_seq: int | None = None
    lane: str = ""
    frame: str = ""
    not_before_ms: int = 0


class State(NamedTuple):
    """Where a run stands.

    Shapes: `ready` in the order in which steps start; `open` has the steps that were begun and wait or may have
    been interrupted; `left` counts what a join still waits for, by the group's path; `visits` counts the
    entries into each node. `lanes`, `frames` and `values` are those of a workflow (`frames.py`), `recorded` the calls of its functions; `failed` is the
    step that failed it. Units: tokens, and steps and tool calls as the limits count them.
    """

    ready: tuple[Activation, ...] = ()
    open: tuple[tuple[Activation, Step], ...] = ()
    visits: HashTrieMap[str, int] = HashTrieMap()
    left: tuple[tuple[str, int], ...] = ()
    is_finished: bool = False
    n: int = 0
    steps: int = 0
    tool_calls: int = 0
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimated: bool = False
    cost_usd: float = 0.0
    failed: Step | None = None
    lanes: HashTrieMap[str, Any] = HashTrieMap()
    frames: HashTrieMap[str, Any] = HashTrieMap()
    values: HashTrieMap[str, Any] = HashTrieMap()
    recorded: HashTrieMap[str, HashTrieMap[int, Step]] = HashTrieMap()


def activation_of(state: State, step: Step) -> Activation:
    """Give what made a step ready or open.

    Errors: GraphError when the step is not one that could have run.
    """
    for activation in state.ready:
        if activation.path == step.path:
            return activation
    for activation, _ in state.open:
        if activation.path == step.path:
            return activation
    raise GraphError(
        f"step '{step.path}' could not have run here: the journal is of another graph", node=step.node
    )
