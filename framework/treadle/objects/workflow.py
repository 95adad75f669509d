"""The workflow: nodes that call agents, models, tools, code and people, and the document that declares it.

There is one record per type of node. Its fields are the words of the document, so the Python API takes the same ones;
a word that Python keeps for itself ends in an underscore (`with_`, `as_`, `for_`, `while_`).

Three kinds of text stand in a node. A *template* becomes text. An *expression* is bare and gives a value. A *value* is a
literal in which each text that is one `{{ … }}` keeps the type of what it gives.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from treadle.objects.agent import Budget, InputSpec, Limits, ModelSpec, OutputSpec
from treadle.objects.record import Duration, JsonSchema, Metadata, Name, Record
from treadle.objects.tool import Effect, FunctionTool, Retry, RetryOn, ToolSpec

Reducer = Literal["replace", "append", "merge", "sum", "max", "min", "union"]

END_TARGET = "end"
"""What a node names as its next one where nothing follows: in a body the item or round is over, else the run."""

NODE_ID = r"^[a-z][a-z0-9_]{0,63}$"
"""What the id of a node looks like; `start` and `end` are taken."""

Call = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
    ),
]

Thread = Annotated[str, Field(min_length=1, max_length=64)]
"""`shared` is the run's own thread, `new` a fresh one for each visit, `fork` one that begins with what the run's own has, any
other word a thread of that name."""


class StateSpec(Record):
    """One key of the state: a JSON Schema, what it starts with, and how a write joins what is there."""

    model_config = Record.model_config | {"extra": "allow"}

    default: Any = Field(default=None, description="What it starts with; null where this is left out.")
    reduce: Reducer = Field(
        default="replace",
        description="How a write joins what is there: `replace`; `append` adds the value to a list as one item; `merge` puts"
        " its keys over a mapping's; `sum`, `max` and `min` of numbers; `union` adds to a list what it does not hold yet.",
    )

    @property
    def json_schema(self) -> JsonSchema:
        """Give the JSON Schema of the value."""
        return dict(self.model_extra or {})


class Route(Record):
    """Where to go on, and when."""

    when: str | None = Field(
        default=None, description="An expression; the last route of a list has none and is always taken."
    )
    to: str = Field(description="The id of the node that follows, or `end`.")


class ErrorRoute(Record):
    """What an error leads to: another node, or a value in place of the result."""

    on: tuple[RetryOn, ...] = Field(default=(), description="The error codes; any where this is left out.")
    to: str | None = Field(default=None, description="The id of the node that follows, or `end`.")
    continue_with: Any = Field(
        default=None, description="A value that stands for the result; the node then counts as completed."
    )


class Cache(Record):
    """Keep a node's result, and take it again where the key is the same."""

    key: str = Field(min_length=1, description="A template: what the result depends on.")
    ttl: Duration = Field(description="How long a result is taken again.")


class WorkflowLimits(Limits):
    """What one run may use, its child runs included; a breach ends it `incomplete` with the limit's name."""

    max_steps: int = Field(
        default=10_000, ge=1, description="Steps of the run, those of loops and maps included."
    )
    max_tool_calls: int = Field(
        default=10_000, ge=0, description="Tool calls of the run and of its child runs."
    )
    max_concurrency: int = Field(default=8, ge=1, le=1024, description="Steps that work at the same time.")
    max_visits: int = Field(
        default=25,
        ge=1,
        description="How often one node that lies on a cycle is entered, where it does not say itself.",
    )


class WorkflowDefaults(Record):
    """What nodes do that do not say otherwise."""

    retry: Retry | None = Field(default=None, description="How failed nodes are tried again.")
    timeout: Duration | None = Field(default=None, description="How long one attempt of a node may take.")


class DefaultRoute(Record):
    """Where every error of a node leads that the node itself does not take."""

    to: str = Field(description="The id of the node that follows, or `end`.")


# -- nodes


class NodeSpec(Record):
    """What every node may say."""

    name: str | None = Field(default=None, max_length=256, description="What people call the node.")
    description: str | None = Field(default=None, description="What the node is for.")


class StepNode(NodeSpec):
    """A node that has a result and goes on to another one."""

    next: str | tuple[Route, ...] | None = Field(
        default=None,
        description="What follows: the id of a node, `end`, or a list of {when, to} of which the first that holds is taken.",
    )
    save: dict[str, str] = Field(
        default_factory=dict, description="Writes to the state: a key to an expression over `result`."
    )
    on_error: tuple[ErrorRoute, ...] = Field(
        default=(), description="What errors lead to; the first route that names the code is taken."
    )
    max_visits: int | None = Field(
        default=None,
        ge=1,
        description="How often a run, or a round of the loop around it, may enter the node.",
    )


class WorkNode(StepNode):
    """A node that does work which can fail, last too long, or be done before."""

    retry: Retry | None = Field(default=None, description="How a failed attempt is repeated.")
    timeout: Duration | None = Field(default=None, description="How long one attempt may take.")
    cache: Cache | None = Field(
        default=None, description="Take the result of an earlier visit with the same key."
    )
    idempotency_key: str | None = Field(
        default=None,
        description="A template; the key is stored and handed on, so that what is done once is not done again.",
    )


class AgentNode(WorkNode):
    """Ask an agent: a child run.

    Its result: text, output, messages, usage, run_id, status.
    """

    type: Literal["agent"]
    agent: str = Field(
        min_length=1, description="A name of `agents:`, an agent of this file, a file, or FILE#NAME."
    )
    message: str | None = Field(
        default=None,
        description="A template: what the user says; left out, the agent goes on with the thread.",
    )
    inputs: dict[str, Any] = Field(default_factory=dict, description="Values of the agent's inputs.")
    thread: Thread = Field(
        default="shared",
        description="`shared` (the run's own), `new`, `fork` (a new one that begins with the run's own), or the name of a further thread.",
    )
    output: OutputSpec | None = Field(
        default=None, description="The shape of the answer, in place of the agent's."
    )
    limits: Budget | None = Field(default=None, description="What the child run may use.")


class PromptMessage(Record):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"] = Field(default="user", description="Who says it.")
    content: str = Field(description="A template.")


class PromptNode(WorkNode):
    """Ask a model once, without tools and without a thread.

    Its result: text, output, usage.
    """

    type: Literal["prompt"]
    model: ModelSpec = Field(description="Which model answers.")
    prompt: str | None = Field(default=None, description="A template: the one message of the user.")
    messages: tuple[PromptMessage, ...] = Field(default=(), description="The messages, in place of `prompt`.")
    output: OutputSpec | None = Field(default=None, description="The shape of the answer.")


class ToolNode(WorkNode):
    """Call a tool.

    Its result: the tool's value.
    """

    type: Literal["tool"]
    tool: str | FunctionTool = Field(description="A name of `tools:`, or a tool declared in place.")
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="Values of the tool's arguments."
    )
    on_unknown: Literal["ask", "fail"] = Field(
        default="fail", description="What happens when a crash leaves it unknown whether the call was made."
    )


class CodeNode(WorkNode):
    """Call a Python function.

    Its result: what the function returns.
    """

    type: Literal["code"]
    call: Call = Field(
        description="The Python callable, as package.module:attribute; its module must be on the project's allow-list."
    )
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="Values of its arguments.")
    effect: Effect = Field(default="once", description="What a repeated call does to the outside world.")
    on_unknown: Literal["ask", "fail"] = Field(
        default="fail", description="What happens when a crash leaves it unknown whether the call was made."
    )


class SetNode(StepNode):
    """Write values to the state.

    Its result: the new values by key.
    """

    type: Literal["set"]
    set: dict[str, Any] = Field(min_length=1, description="Values by key of the state.")


class MessageNode(StepNode):
    """Append a message to the thread.

    Its result: text, message_id.
    """

    type: Literal["message"]
    text: str = Field(description="A template.")
    role: Literal["assistant", "user"] = Field(default="assistant", description="Who says it.")
    thread: Thread = Field(
        default="shared", description="`shared` (the run's own), or the name of a further thread."
    )


class SwitchNode(NodeSpec):
    """Go on by a value.

    Its result: the value. Shapes: a case is the literal as JSON text, so that 0 and "0" differ.
    """

    type: Literal["switch"]
    value: str = Field(description="An expression.")
    cases: dict[str, str] = Field(description="The literal to the id of the node that follows, or `end`.")
    default: str = Field(description="What follows for any other value.")
    save: dict[str, str] = Field(
        default_factory=dict, description="Writes to the state: a key to an expression over `result`."
    )
    on_error: tuple[ErrorRoute, ...] = Field(default=(), description="What errors lead to.")
    max_visits: int | None = Field(
        default=None,
        ge=1,
        description="How often a run, or a round of the loop around it, may enter the node.",
    )


class ParallelNode(NodeSpec):
    """Walk several branches at once, each from its first node to the join.

    Its result: the status of each branch, by the id of its first node.
    """

    type: Literal["parallel"]
    branches: tuple[str, ...] = Field(min_length=1, description="The first node of each branch.")
    join: str = Field(description="The node where all branches meet.")
    wait_for: Literal["all", "any"] | int = Field(
        default="all", description="How many branches the join waits for; the others are cancelled."
    )
    on_branch_error: Literal["fail", "continue"] = Field(
        default="fail", description="Whether a failed branch fails the node, or counts as ended."
    )
    save: dict[str, str] = Field(
        default_factory=dict, description="Writes to the state: a key to an expression over `result`."
    )
    on_error: tuple[ErrorRoute, ...] = Field(default=(), description="What errors lead to.")
    max_visits: int | None = Field(
        default=None,
        ge=1,
        description="How often a run, or a round of the loop around it, may enter the node.",
    )


class MapNode(StepNode):
    """Do the same for each item of a list: a workflow, one node, or a body of nodes.

    Its result: collected (in the order of the items), errors, and merged (the collected mappings in one).
    """

    type: Literal["map"]
    over: str = Field(description="An expression that gives the list.")
    as_: str = Field(default="item", alias="as", description="What the item is called in the body.")
    index_as: str = Field(default="index", description="What its place in the list, from 0, is called.")
    workflow: str | None = Field(
        default=None, min_length=1, description="A workflow of this file (#NAME), or a file."
    )
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="Values of the workflow's inputs."
    )
    node: AnyNode | None = Field(default=None, description="The one node that is the body; it has no `next`.")
    start: str | None = Field(default=None, description="The body's first node.")
    nodes: dict[str, AnyNode] = Field(
        default_factory=dict, description="The body's nodes; `end` ends the item."
    )
    collect: str | None = Field(
        default=None,
        description="An expression over `result` and the body's nodes; the item's result where it is left out.",
    )
    max_concurrency: int | None = Field(
        default=None, ge=1, le=1024, description="Items that are worked on at once."
    )
    max_items: int = Field(default=1_000, ge=1, description="The longest list; a longer one fails the node.")
    on_item_error: Literal["fail", "skip", "collect"] = Field(
        default="fail",
        description="What a failed item does: it fails the node, is left out, or is null among the collected.",
    )
    tolerate: Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(100|\d{1,2})%$")] | None = Field(
        default=None, description="With skip or collect: how many items may fail, as a number or as '10%'."
    )


class LoopNode(StepNode):
    """Repeat a body of nodes.

    Its result: iterations, exhausted.
    """

    type: Literal["loop"]
    start: str = Field(description="The body's first node.")
    nodes: dict[str, AnyNode] = Field(description="The body's nodes; `end` ends the round.")
    until: str | None = Field(default=None, description="An expression that is asked after each round.")
    while_: str | None = Field(
        default=None, alias="while", description="An expression that is asked before each round."
    )
    max_iterations: int = Field(ge=1, le=1_000_000, description="The most rounds.")
    on_exhausted: Literal["fail", "continue"] = Field(
        default="fail", description="What happens when the rounds are used up."
    )


class HumanNode(StepNode):
    """Ask a person; the run waits and no process is held.

    Its result: decision, choice, value, comment, by, at.
    """

    type: Literal["human"]
    kind: Literal["approval", "choice", "input", "edit"] = Field(description="What is asked for.")
    ask: str = Field(description="A template: the question.")
    choices: tuple[str, ...] = Field(default=(), description="With choice: what can be chosen.")
    form: JsonSchema | None = Field(
        default=None, description="With input and edit: the JSON Schema of the answer."
    )
    value: Any = Field(default=None, description="With edit: the value that the person makes changes to.")
    assignees: tuple[str, ...] = Field(
        default=(), description="Who is asked; anybody where this is left out."
    )
    timeout: Duration | None = Field(default=None, description="How long the question stands.")
    on_timeout: str | None = Field(
        default=None,
        description="What follows then: `reject`, `fail`, `default`, or the id of a node; `fail` where it is left out.",
    )
    default: Any = Field(
        default=None,
        description="With on_timeout default: the decision, the choice or the value that counts as given.",
    )


class WaitNode(StepNode):
    """Wait for a length of time, or until a time.

    Its result: at.
    """

    type: Literal["wait"]
    for_: Duration | None = Field(default=None, alias="for", description="How long.")
    until: str | None = Field(
        default=None, description="An expression: Unix seconds, or an ISO 8601 time with its zone."
    )


class WorkflowNode(WorkNode):
    """Run another workflow: a child run.

    Its result: that workflow's outputs.
    """

    type: Literal["workflow"]
    workflow: str = Field(min_length=1, description="A workflow of this file (#NAME), or a file.")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="Values of its inputs.")
    thread: Thread = Field(
        default="shared",
        description="`shared` (the run's own), `new`, `fork` (a new one that begins with the run's own), or the name of a further thread.",
    )
    limits: Budget | None = Field(default=None, description="What the child run may use.")


class EndNode(NodeSpec):
    """End the run successfully."""

    type: Literal["end"]
    outputs: dict[str, Any] | None = Field(
        default=None, description="Values in place of the workflow's outputs."
    )


class FailNode(NodeSpec):
    """End the run as failed; in a body, the item or the round."""

    type: Literal["fail"]
    error: str = Field(min_length=1, max_length=64, description="The code of the error.")
    message: str = Field(default="", description="A template: what went wrong.")


AnyNode = Annotated[
    AgentNode
    | PromptNode
    | ToolNode
    | CodeNode
    | SetNode
    | MessageNode
    | SwitchNode
    | ParallelNode
    | MapNode
    | LoopNode
    | HumanNode
    | WaitNode
    | WorkflowNode
    | EndNode
    | FailNode,
    Field(discriminator="type"),
]
"""A node of any type."""

NODES: dict[str, type[NodeSpec]] = {
    "agent": AgentNode,
    "prompt": PromptNode,
    "tool": ToolNode,
    "code": CodeNode,
    "set": SetNode,
    "message": MessageNode,
    "switch": SwitchNode,
    "parallel": ParallelNode,
    "map": MapNode,
    "loop": LoopNode,
    "human": HumanNode,
    "wait": WaitNode,
    "workflow": WorkflowNode,
    "end": EndNode,
    "fail": FailNode,
}
"""The types of nodes, in the order in which they are told."""

FUTURE_NODES = ("http",)
"""Types that the format knows and that no part of treadle runs yet: refused by name."""

Pin: TypeAlias = dict[str, Any]
"""What a reference means for a run: {"agent": id, "version": n} or {"workflow": id, "version": n}."""


class WorkflowSpec(Record):
    """The workflow document, as it was declared; what a workflow's version is made of."""

    version: str = Field(default="1.0.0", pattern=r"^1\.\d+\.\d+$", description="The version of the format.")
    kind: Literal["workflow"] = "workflow"
    name: Name | None = Field(default=None, description="Unique in the project.")
    display_name: str | None = None
    description: str | None = Field(default=None, description="What the workflow does.")
    metadata: Metadata = Field(default_factory=dict)
    inputs: dict[str, InputSpec] = Field(default_factory=dict, description="What a run is given.")
    state: dict[str, StateSpec] = Field(default_factory=dict, description="What nodes read and write.")
    outputs: dict[str, str] = Field(
        default_factory=dict, description="What a run gives: a name to an expression."
    )
    agents: dict[str, str] = Field(
        default_factory=dict,
        description="Agents by the name that nodes use: a file, FILE#NAME, #NAME, or the id or name of a stored agent.",
    )
    tools: tuple[ToolSpec, ...] = Field(default=(), description="Tools that nodes call by name.")
    start: str = Field(description="The first node.")
    nodes: dict[str, AnyNode] = Field(description="The nodes by id.")
    limits: WorkflowLimits = Field(default_factory=WorkflowLimits)
    on_error: Literal["fail"] | DefaultRoute | None = Field(
        default=None, description="Where errors lead that no node takes: {to: node}, or `fail`."
    )
    defaults: WorkflowDefaults = Field(default_factory=WorkflowDefaults)
    tests: tuple[dict[str, Any], ...] = Field(default=(), description="The document's own tests.")
    extensions: dict[str, Any] = Field(default_factory=dict, description="The document's x- keys, untouched.")

    @property
    def functions(self) -> dict[str, FunctionTool]:
        """Give the function tools that nodes call by name."""
        return {t.name: t for t in self.tools if isinstance(t, FunctionTool)}

    def canonical(self) -> str:
        """Give the document as JSON with sorted keys and without what equals its default.

        Invariant: the order of nodes decides ties of a run, so it is kept beside the sorted keys.
        """
        return json.dumps(
            {
                **self.model_dump(mode="json", by_alias=True, exclude_defaults=True),
                "order": _order(self.nodes),
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @property
    def digest(self) -> str:
        """Give the sha256 of the canonical JSON: two specs with one digest are the same workflow."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _order(nodes: dict[str, AnyNode]) -> list[Any]:
    """Give the ids of nodes in order, each with those of its body."""
    return [
        [id_, *([_order(node.nodes)] if isinstance(node, MapNode | LoopNode) and node.nodes else [])]
        for id_, node in nodes.items()
    ]


class Workflow(Record):
    """A version of a workflow in the store; versions never change.

    Shapes: `pins` say which version of an agent or a workflow each reference of its nodes means.
    """

    id: str
    tenant: str = "default"
    version: int = 1
    name: str | None = None
    origin: Literal["file", "api"] = "api"
    created_ms: int
    spec: WorkflowSpec
    pins: dict[str, Pin] = Field(default_factory=dict)
