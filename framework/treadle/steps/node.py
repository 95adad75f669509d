"""What a node of a workflow is given when it is executed, and what it gives back: it reads, and writes nothing.

What all nodes have in common (writes to the state, the choice of the next node, error routes, retries) is not here:
`leaving.py` does it with what the node gives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from treadle.clock import Clock
from treadle.graph.nodes import Node
from treadle.objects.agent import Budget, ModelOptions, ModelSpec, OutputSpec, Price
from treadle.objects.message import Message
from treadle.objects.run import Question, Run, RunError, Usage
from treadle.objects.run_step import Step, Used
from treadle.objects.workflow import Pin, StateSpec, WorkflowLimits
from treadle.providers.base import Delta, Provider
from treadle.steps.base import Intent
from treadle.steps.names import View
from treadle.store.base import Statement
from treadle.tools.base import BoundTool

Check = Callable[[Any], list[str]]
"""Lists what is wrong with a value."""


class Model(NamedTuple):
    """A model that a prompt node asks."""

    provider: Provider
    id: str
    options: ModelOptions
    price: Price | None = None


StandIn = Callable[[str, str], "NodeEffects | None"]
"""Give what stands for the execution of a node, by its id and its path; None where it is executed."""


class Earlier(Protocol):
    """What a run takes from the run that it goes on from."""

    def place(self, path: str) -> int | None:
        """Give the place of a step in the order in which the steps of the earlier run ended; None where it is executed here."""
        ...

    def take(self, context: NodeContext) -> tuple[NodeContext, NodeEffects] | None:
        """Give what a step gave then, and the context that it saw; None where it is executed, or computed, here."""
        ...

    def insists(self, context: NodeContext) -> bool:
        """Tell whether a step is to be executed although a result of an earlier visit may be at hand."""
        ...


@dataclass(frozen=True, slots=True)
class WorkflowPlan:
    """What a run of a workflow needs to be walked, worked out once for its graph.

    Shapes: `tools` are the functions of tool and code nodes by node id; `checks` hold a value against the schema of its state
    key; `models` are the models of prompt nodes by node id. `stand_in` is asked before each node.
    """

    limits: WorkflowLimits
    state: Mapping[str, StateSpec]
    outputs: Mapping[str, str]
    tools: Mapping[str, BoundTool]
    functions: Mapping[str, BoundTool]
    """The declared tools by name: what a function may call."""
    checks: Mapping[str, Check]
    models: Mapping[str, Model]
    shapes: Mapping[str, Check]
    """What is wrong with the output of a prompt node, or the answer to a human node, by node id."""
    kept: frozenset[str] = frozenset()
    """The nodes whose results others read."""
    stand_in: StandIn | None = None
    earlier: Earlier | None = None
    """What is kept of an earlier run."""
    model_named: Callable[[str], Model] | None = None
    """Gives the model of a name, for functions that ask one; ConfigurationError where there is none of that name."""


class FrameView(NamedTuple):
    """How a frame stands when it is to go on or to close.

    Shapes: `path` is that of its opening; `total` counts its branches or items, `round` is that of a loop which has ended.
    `ended` has for each branch or item that began, in declared order, its number, its status, its last result, its error,
    and the view from its end.
    """

    path: str
    total: int
    round: int
    ended: Sequence[Lane]
    joined: frozenset[str] = frozenset()
    """The keys of the state to which the writes of several lanes are joined."""


class Lane(NamedTuple):
    """A branch, an item or a round that has ended."""

    number: int
    status: Literal["completed", "failed", "cancelled"]
    result: Any
    error: RunError | None
    view: Callable[[], View]


def _never() -> bool:
    return False


def _ignore(_: Delta) -> None:
    pass


class Recorded(NamedTuple):
    """A call that a function made through its context, to be kept as a step of its own.

    A call may be recorded twice: in_progress first, then its end. Shapes: `ordinal` counts the calls of the function from 0;
    `status` is in_progress for a question that waits, and for a call that is made once only, before it is made.
    `statements` are written with it, or it is refused with a StatementError.
    """

    ordinal: int
    kind: Literal["tool_call", "model_call", "pause", "function"]
    started_ms: int
    status: Literal["completed", "failed", "in_progress"] = "completed"
    tool: str | None = None
    result: Any = None
    error: RunError | None = None
    usage: Usage | None = None
    question: Question | None = None
    used: Used | None = None
    statements: Sequence[Statement] = ()


async def _unkept(_: Recorded) -> None:
    pass


class NodeContext(NamedTuple):
    """The read-only view that a node has of its run.

    Shapes: `view` is what its texts see. `begun` is the journal's row of a step that was begun before and goes on now; `frame` is there
    where a frame goes on or closes. `visit` and `attempt` count from 1. Units: `timeout_s` seconds that the run leaves.
    """

    run: Run
    plan: WorkflowPlan
    node: Node
    path: str
    visit: int
    view: View
    clock: Clock
    attempt: int = 1
    emit: Callable[[Delta], None] = _ignore
    has_spoken: Callable[[], bool] = _never
    timeout_s: float | None = None
    begun: Step | None = None
    frame: FrameView | None = None
    recorded: Mapping[int, Step] = {}
    """The calls that a function made before the process stopped or the run waited, by their ordinals."""
    record: Callable[[Recorded], Awaitable[None]] = _unkept
    """Keep a call, durably, before its result is given to the function."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Give the fields of the node, as JSON."""
        return self.node.params

    @property
    def idempotency_key(self) -> str:
        """Give the key of this step where the node asks for none of its own: the same in every attempt."""
        return f"tdl:{self.run.id}:{self.path}"


class ChildRequest(NamedTuple):
    """A child run that a node asks for.

    Shapes: `thread` is `shared`, `new`, `fork` (a new one that begins with the rows of the run's own), or the name of a further one. `message` is what the user
    says first. Units: `timeout_s` seconds, after which it is over, whatever it waits for.
    """

    pin: Pin
    inputs: Mapping[str, Any]
    thread: str = "shared"
    message: str | None = None
    output: OutputSpec | None = None
    limits: Budget | None = None
    timeout_s: float | None = None


class NodeEffects(NamedTuple):
    """What a node did, for the executor to write.

    Shapes: `status` is in_progress where the node waits: for a person (`question`), for a time (`wake_ms`), or for a child run. `edge` is the
    label of the way out where the node chooses it itself, `to` the node that it goes on to instead of what its document
    says; else `next` decides. `writes` go to the state, beside those of `save`. `fan` is the number of items, or of the round.
    """

    status: Literal["completed", "failed", "in_progress"] = "completed"
    result: Any = None
    error: RunError | None = None
    edge: str | None = None
    to: str | None = None
    fan: int = 0
    writes: Mapping[str, Any] | None = None
    message: Message | None = None
    usage: Usage | None = None
    used: Used | None = None
    note: str | None = None
    statements: Sequence[Statement] = ()
    question: Question | None = None
    wake_ms: int | None = None
    child: ChildRequest | None = None
    key: str | None = None
    retry_after_s: float | None = None
    opens: bool = False
    """A frame begins lanes; it ends with another step."""
    suspends: bool = False
    """The function waits for the answer to a call that it recorded; it is called again from its top then."""
    kept: str | None = None
    """The step of an earlier run whose effects these are."""


def failed(code: str, message: str, **more: Any) -> NodeEffects:
    """Give the effects of a failure."""
    return NodeEffects(status="failed", error=RunError(code=code, message=message[:2000]), **more)


@dataclass(frozen=True, slots=True)
class NodeKind:
    """How a type of node is executed; without `perform` it is instant: `prepare` gives everything."""

    prepare: Callable[[NodeContext], Intent | NodeEffects]
    perform: Callable[[NodeContext, Intent], Awaitable[NodeEffects]] | None = None


def model_spec(params: Mapping[str, Any]) -> ModelSpec:
    """Give the model that a prompt node names."""
    return ModelSpec.model_validate(params["model"])
