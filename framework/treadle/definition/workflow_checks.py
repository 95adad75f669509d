"""What the nodes of a workflow mean together: targets, ways, branches, names, results, and what other documents take.

The fields have been read before (`workflow.py`), so every node here is sound in itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from treadle.definition import expression
from treadle.definition.document import (
    Findings,
    KeyPath,
    is_list,
    is_mapping,
    listed,
    nearest,
    short,
    suggest,
)
from treadle.definition.flow import (
    TIMEOUT_WORDS,
    Body,
    Flow,
    below,
    bodies,
    body_of,
    closure,
    default_route,
    ways,
    writes,
)
from treadle.definition.json_schema import fits
from treadle.definition.node_texts import is_literal
from treadle.definition.workflow import Draft
from treadle.definition.workflow_names import Uses, check_names
from treadle.errors import DefinitionError
from treadle.objects.agent import InputSpec
from treadle.objects.tool import FunctionTool
from treadle.objects.workflow import (
    END_TARGET,
    AgentNode,
    CodeNode,
    EndNode,
    HumanNode,
    MapNode,
    MessageNode,
    NodeSpec,
    ParallelNode,
    SetNode,
    StateSpec,
    StepNode,
    SwitchNode,
    ToolNode,
    WorkflowNode,
    WorkflowSpec,
)

_OWN_THREADS = ("new", "fork")
"""The threads of child runs that nobody else appends to."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Another document that a workflow names, and where; `node` is what the node itself writes."""

    kind: Literal["agent", "workflow"]
    text: str
    path: KeyPath
    node: str
    is_declared: bool = False


def references_of(spec: WorkflowSpec) -> list[Reference]:
    """Give the agents and workflows that a workflow names; each place of `agents:` first."""
    out = [
        Reference("agent", text, ("agents", name), name, is_declared=True)
        for name, text in spec.agents.items()
    ]
    for body in bodies(spec):
        for id_, node in body.nodes.items():
            path = body.at(id_)
            if isinstance(node, AgentNode) and node.agent not in spec.agents:
                out.append(Reference("agent", node.agent, (*path, "agent"), node.agent))
            elif isinstance(node, WorkflowNode | MapNode) and node.workflow is not None:
                out.append(Reference("workflow", node.workflow, (*path, "workflow"), node.workflow))
    return out


def check_workflow(draft: Draft, uses: Uses) -> None:
    """Report what a workflow's nodes have wrong together; nothing is looked at where a node itself could not be read."""
    if draft.spec is not None:
        _Checks(draft, draft.spec, uses).run()


class _Checks:
    """The checks of one workflow."""

    def __init__(self, draft: Draft, spec: WorkflowSpec, uses: Uses) -> None:
        self.draft = draft
        self.spec = spec
        self.uses = uses
        self.findings: Findings = draft.findings
        self.tools = draft.tools
        self.bodies = list(bodies(spec))
        default = default_route(spec)
        self.flows = [Flow(b, default=None if b.frame else default) for b in self.bodies]

    def run(self) -> None:
        sound = [self._targets(body) for body in self.bodies]
        is_sound = all(sound)
        self._default_route()
        for body, flow in zip(self.bodies, self.flows, strict=True):
            self._nodes(body)
            if is_sound:
                self._ways(body, flow)
                self._branches(body, flow)
        self._maps()
        check_names(self.draft, self.bodies, self.flows, uses=self.uses, is_sound=is_sound)

    # -- targets

    def _targets(self, body: Body) -> bool:
        """Report targets that are no node of the body."""
        before = len(self.findings.problems)
        if not body.is_single:
            at: KeyPath = (*body.path[:-1], "start")
            self._target(body.start, at, body, may_end=False, what="start")
        for id_, node in body.nodes.items():
            for way in ways(node):
                is_branch = isinstance(node, ParallelNode) and way.path[0] == "branches"
                path = (*body.at(id_), *way.path)
                if way.path == ("on_timeout",) and way.target not in (END_TARGET, *body.nodes):
                    known = sorted(TIMEOUT_WORDS) + list(body.nodes)
                    said = f"on_timeout is '{short(way.target)}', which is none of its words and no node"
                    self.findings.add("TR223", said, path, hint=suggest(way.target, known))
                    continue
                self._target(way.target, path, body, may_end=not is_branch, what="a branch")
            if isinstance(node, ParallelNode):
                self._target(node.join, (*body.at(id_), "join"), body, may_end=False, what="a join")
            if isinstance(node, EndNode) and body.frame is not None:
                said = "a node of type 'end' ends the whole run and cannot stand in a body"
                hint = "write next: end at the node before, which ends the item or the round"
                self.findings.add("TR236", said, (*body.at(id_), "type"), hint=hint)
            self._conditions(node, body.at(id_))
            self._error_order(node, body.at(id_))
            if body.outer is not None:
                self._shadows(id_, body)
        return len(self.findings.problems) == before

    def _target(self, target: str, path: KeyPath, body: Body, *, may_end: bool, what: str) -> None:
        if target in body.nodes and not body.is_single:
            return
        if target == END_TARGET:
            if not may_end:
                said = f"'end' cannot be {what}: that is a node"
                self.findings.add("TR236", said, path, hint="name one of the nodes")
            return
        known = [] if body.is_single else list(body.nodes)
        if target == "start":
            said = "'start' is where the nodes begin, not a node"
            self.findings.add(
                "TR236", said, path, hint=f"write '{body.start}'" if body.start in known else None
            )
            return
        where = f" in {self.findings.where(body.path[:-1])}" if body.frame else ""
        elsewhere = [b for b in self.bodies if target in b.nodes and not b.is_single]
        hint = suggest(target, [*known, *([END_TARGET] if may_end else [])])
        if elsewhere:
            hint = "it belongs to another body: no way leads into or out of one but through its loop or map"
        self.findings.add("TR223", f"there is no node '{short(target)}'{where}", path, hint=hint)

    def _conditions(self, node: NodeSpec, path: KeyPath) -> None:
        routes = node.next if isinstance(node, StepNode) and isinstance(node.next, tuple) else None
        if routes is None:
            return
        if not routes:
            self.findings.add(
                "TR232", f"{self.findings.where((*path, 'next'))} leads nowhere", (*path, "next")
            )
        for n, route in enumerate(routes):
            is_last = n == len(routes) - 1
            if is_last and route.when is not None:
                said, hint = (
                    "nothing follows where no condition holds",
                    "add a last item: {to: …} without when",
                )
                self.findings.add("TR232", said, (*path, "next", n, "when"), at="key", hint=hint)
            elif not is_last and route.when is None:
                said = "what stands behind an item without when is never reached"
                self.findings.add(
                    "TR232", said, (*path, "next", n), at="parent", hint="add when, or move it to the end"
                )
        seen: dict[str, int] = {}
        for n, route in enumerate(routes):
            text = " ".join((route.when or "").split())
            if text and text in seen:
                said = "this condition is the same as one before it"
                self.findings.add("TR232", said, (*path, "next", n, "when"), hint="remove one of them")
            seen.setdefault(text, n)

    def _error_order(self, node: NodeSpec, path: KeyPath) -> None:
        routes = node.on_error if isinstance(node, StepNode | SwitchNode | ParallelNode) else ()
        for n, route in enumerate(routes[:-1]):
            if not route.on:
                said = "what stands behind a route for any error is never taken"
                self.findings.add(
                    "TR232", said, (*path, "on_error", n), at="parent", hint="move it to the end"
                )

    def _shadows(self, id_: str, body: Body) -> None:
        outer = body.outer
        while outer is not None and not body.is_single:
            if id_ in outer.nodes and not outer.is_single:
                said = f"a node around this one is called '{id_}' too"
                other = outer.at(id_)
                hint = f"the other one is {self.findings.where(other)}{self.findings.line_note(other)}"
                self.findings.add("TR224", said, body.at(id_), at="key", hint=hint)
                return
            outer = outer.outer

    def _default_route(self) -> None:
        route = default_route(self.spec)
        if route is not None:
            self._target(route, ("on_error", "to"), self.bodies[0], may_end=True, what="a target")

    # -- ways

    def _ways(self, body: Body, flow: Flow) -> None:
        reached = flow.reached
        for id_ in body.nodes:
            if id_ not in reached:
                said = f"no way leads from the start to '{id_}'"
                self.findings.add(
                    "TR220", said, body.at(id_), at="key", hint="name it as a next, or remove it"
                )
        for ids in flow.lost():
            if ids[0] in reached:
                quoted = [f"'{i}'" for i in ids]
                what = quoted[0] if len(ids) == 1 else f"the cycle of {listed(quoted)}"
                self.findings.add("TR221", f"no way leads from {what} to the end", body.at(ids[0]), at="key")

    def _branches(self, body: Body, flow: Flow) -> None:
        for id_, regions in flow.regions.items():
            node = body.nodes[id_]
            assert isinstance(node, ParallelNode)
            before = len(self.findings.problems)
            self._shape(id_, node, body, flow)
            if len(self.findings.problems) > before:
                continue
            named = {branch: [(i, body.nodes[i]) for i in region] for branch, region in regions.items()}
            self._double_writes(id_, named, body)
            self._double_threads(id_, named, body)

    def _shape(self, id_: str, node: ParallelNode, body: Body, flow: Flow) -> None:
        """Report branches that are left, entered, shared, or that never reach the join."""
        path, regions = body.at(id_), flow.regions[id_]
        if isinstance(node.wait_for, int) and not 1 <= node.wait_for <= len(node.branches):
            said = f"wait_for is {node.wait_for}, and there are {len(node.branches)} branches"
            self.findings.add("TR233", said, (*path, "wait_for"))
        seen: dict[str, str] = {}
        entered = _entered(id_, flow)
        for n, branch in enumerate(node.branches):
            at = (*path, "branches", n)
            if branch == node.join or branch in node.branches[:n]:
                said = f"'{branch}' is the join" if branch == node.join else f"'{branch}' is named twice"
                self.findings.add("TR233", said, at, hint="name the first node of each branch once")
                continue
            region = regions[branch]
            if id_ in region:
                said = f"the branch '{branch}' leads back to '{id_}' before it reaches '{node.join}'"
                self.findings.add("TR233", said, at)
            elif not any(node.join in flow.after[i] for i in region):
                said = f"the branch '{branch}' never reaches the join '{node.join}'"
                self.findings.add("TR233", said, at, hint=f"write next: {node.join} at its last node")
            else:
                self._leaves(branch, region, node.join, body)
            for i in region:
                if i in seen and i != id_:
                    said = f"'{i}' lies on two branches of '{id_}': {seen[i]} and {branch}"
                    self.findings.add(
                        "TR233", said, body.at(i), at="key", hint="a branch has its own nodes up to the join"
                    )
                elif i in entered and i != id_:
                    said = f"'{i}' lies on a branch of '{id_}' and is entered from elsewhere"
                    self.findings.add("TR233", said, body.at(i), at="key")
                seen.setdefault(i, branch)

    def _leaves(self, branch: str, region: list[str], join: str, body: Body) -> None:
        for i in region:
            node = body.nodes[i]
            if isinstance(node, EndNode):
                said = f"the branch '{branch}' ends the run before the others are done"
                self.findings.add("TR233", said, (*body.at(i), "type"), hint=f"lead it to '{join}'")
            for way in ways(node):
                if way.target == END_TARGET:
                    said = f"the branch '{branch}' ends here instead of reaching '{join}'"
                    self.findings.add("TR233", said, (*body.at(i), *way.path), hint=f"write '{join}'")

    def _double_writes(self, id_: str, named: Mapping[str, list[tuple[str, NodeSpec]]], body: Body) -> None:
        first: dict[str, str] = {}
        for branch, nodes in named.items():
            for i, node in nodes:
                for key, path in _all_writes(node, body.at(i)):
                    if not self._is_replaced(key):
                        continue
                    other = first.setdefault(key, branch)
                    if other != branch:
                        said = f"the branches '{other}' and '{branch}' of '{id_}' both write state.{key}"
                        hint = (
                            f"write it after the join, or say under state: {key}: how writes join (reduce: …)"
                        )
                        self.findings.add("TR234", said, path, at="key", hint=hint)

    def _is_replaced(self, key: str) -> bool:
        declared = self.spec.state.get(key)
        return declared is not None and declared.reduce == "replace"

    def _double_threads(self, id_: str, named: Mapping[str, list[tuple[str, NodeSpec]]], body: Body) -> None:
        first: dict[str, str] = {}
        for branch, nodes in named.items():
            for i, node in nodes:
                for thread in self._threads(node):
                    other = first.setdefault(thread, branch)
                    if other != branch:
                        said = f"the branches '{other}' and '{branch}' of '{id_}' both append to the {_thread(thread)}"
                        hint = "write thread: new, or give each branch a thread of its own name"
                        self.findings.add("TR235", said, (*body.at(i), "thread"), at="key", hint=hint)

    def _threads(self, node: NodeSpec) -> set[str]:
        """Give the threads that a node and what is within it append to."""
        out: set[str] = set()
        for inner in below(node):
            if isinstance(inner, AgentNode | WorkflowNode) and inner.thread in _OWN_THREADS:
                continue
            if isinstance(inner, AgentNode | MessageNode):
                out.add(inner.thread)
            elif isinstance(inner, WorkflowNode):
                used = self.uses.workflows.get(inner.workflow)
                if used is not None and _appends(used):
                    out.add(inner.thread)
        return out

    def _maps(self) -> None:
        for body in self.bodies:
            for id_, node in body.nodes.items():
                inner = body_of(node, (*body.at(id_), "nodes")) if isinstance(node, MapNode) else None
                if inner is None or not isinstance(node, MapNode) or node.max_concurrency == 1:
                    continue
                hint = f"say under state: how writes join (reduce: …), or max_concurrency: 1 at '{id_}'"
                for i, below_ in inner.nodes.items():
                    for key, path in _all_writes(below_, inner.at(i)):
                        if self._is_replaced(key):
                            said = f"the items of '{id_}' are worked on at once and all write state.{key}"
                            self.findings.add("TR234", said, path, at="key", hint=hint)
                    for thread in sorted(self._threads(below_)):
                        said = f"the items of '{id_}' are worked on at once and all append to the {_thread(thread)}"
                        more = f"write thread: new, or max_concurrency: 1 at '{id_}'"
                        self.findings.add("TR235", said, (*inner.at(i), "thread"), at="key", hint=more)

    # -- single nodes

    def _nodes(self, body: Body) -> None:
        for id_, node in body.nodes.items():
            if self.findings.is_full:
                return
            path = body.at(id_)
            self._state_writes(node, path)
            if isinstance(node, ToolNode):
                self._tool(node, path)
            elif isinstance(node, CodeNode):
                self._once(node, node.effect, path, hint="say effect: pure or effect: idempotent")
            elif isinstance(node, AgentNode):
                used = self.uses.agents.get(node.agent)
                if used is not None:
                    self._given(
                        f"the agent '{node.agent}'", used.inputs, node.inputs, (*path, "inputs"), path
                    )
            elif isinstance(node, WorkflowNode | MapNode) and node.workflow is not None:
                flow = self.uses.workflows.get(node.workflow)
                if flow is not None:
                    self._given(
                        f"the workflow '{node.workflow}'", flow.inputs, node.with_, (*path, "with"), path
                    )
            elif isinstance(node, HumanNode):
                self._human_default(node, path)

    def _tool(self, node: ToolNode, path: KeyPath) -> None:
        if not isinstance(node.tool, str):
            self._once(
                node, node.tool.effect, path, hint="say effect: pure or effect: idempotent at the tool"
            )
            self._arguments(node.tool, node, path)
            return
        tool = next((t for t in self.spec.tools if t.name == node.tool), None)
        known = [t.name for t in self.spec.tools if t.name]
        if tool is None:
            if None not in self.tools:
                hint = suggest(node.tool, known) or "declare it under tools:"
                self.findings.add(
                    "TR212", f"there is no tool '{short(node.tool)}'", (*path, "tool"), hint=hint
                )
        elif isinstance(tool, FunctionTool):
            self._once(node, tool.effect, path, hint="say effect: pure or effect: idempotent at the tool")
            self._arguments(tool, node, path)

    def _arguments(self, tool: FunctionTool, node: ToolNode, path: KeyPath) -> None:
        """Report arguments that the tool's own schema does not have, or that it needs."""
        schema = tool.parameters
        properties = schema.get("properties") if schema else None
        if schema is None or not is_mapping(properties):
            return
        for name, value in node.with_.items():
            at = (*path, "with", name)
            if name not in properties:
                if schema.get("additionalProperties") is not True:
                    said = f"the tool '{tool.name}' has no argument '{short(name)}'"
                    self.findings.add("TR218", said, at, at="key", hint=suggest(name, list(properties)))
            elif is_literal(value) and is_mapping(properties[name]) and not fits(value, properties[name]):
                said = f"{self.findings.where(at)} is not what the tool '{tool.name}' takes"
                self.findings.add("TR219", said, at)
        required = schema.get("required")
        for name in required if is_list(required) else ():
            if name not in node.with_:
                said = f"the tool '{tool.name}' needs the argument '{name}'"
                self.findings.add("TR218", said, (*path, "with"), at="parent")

    def _once(self, node: ToolNode | CodeNode, effect: str, path: KeyPath, *, hint: str) -> None:
        if node.retry is not None and effect == "once" and node.idempotency_key is None:
            said = "retry is not possible: the effect of the call is 'once'"
            self.findings.add(
                "TR239", said, (*path, "retry"), at="key", hint=f"{hint}, or give an idempotency_key"
            )

    def _given(
        self, what: str, wanted: Mapping[str, InputSpec], given: Mapping[str, Any], at: KeyPath, node: KeyPath
    ) -> None:
        """Compare what a node gives with the inputs that an agent or a workflow declares."""
        for name, value in given.items():
            if name not in wanted:
                said = f"{what} has no input '{short(name)}'"
                self.findings.add("TR218", said, (*at, name), at="key", hint=suggest(name, list(wanted)))
            elif is_literal(value) and not fits(value, wanted[name].json_schema):
                self.findings.add("TR219", f"the value is not what the input '{name}' takes", (*at, name))
        short_of = [n for n, spec in wanted.items() if spec.is_required and n not in given]
        if short_of:
            names = listed([f"'{n}'" for n in short_of])
            said = f"{what} needs the input{'s' if len(short_of) > 1 else ''} {names}"
            self.findings.add(
                "TR218", said, at if given else node, at="parent", hint=f"give it under {at[-1]}:"
            )

    def _human_default(self, node: HumanNode, path: KeyPath) -> None:
        if node.on_timeout != "default" or not is_literal(node.default):
            return
        allowed = ("approve", "reject") if node.kind == "approval" else node.choices
        if node.kind in ("approval", "choice") and node.default not in allowed:
            said = f"default is none of what can be answered: {listed(allowed, 'or')}"
            self.findings.add("TR219", said, (*path, "default"))

    def _state_writes(self, node: NodeSpec, path: KeyPath) -> None:
        for key, at in writes(node).items():
            declared = self.spec.state.get(key)
            if declared is None:
                said = f"'state.{short(key)}' is not declared"
                hint = self._near_state(key) or "declare it under state:"
                self.findings.add("TR210", said, (*path, *at), at="key", hint=hint)
                continue
            value, is_known = _known_value(node, at)
            if is_known and not _joins(value, declared):
                kind = declared.json_schema.get("type")
                wanted = f" of type {kind}" if isinstance(kind, str) and declared.reduce == "replace" else ""
                said = f"this value does not fit state.{key}{wanted}"
                hint = f"it is declared as state.{key}{self.findings.line_note(('state', key))}"
                self.findings.add("TR219", said, (*path, *at), hint=hint)

    def _near_state(self, key: str) -> str | None:
        near = nearest(key, list(self.spec.state))
        if near is None:
            return suggest(key, list(self.spec.state))
        return f"did you mean 'state.{near}'{self.findings.line_note(('state', near))}?"


def _entered(id_: str, flow: Flow) -> set[str]:
    """Give what is reached from the start on ways that avoid a parallel node."""
    return closure([flow.body.start], flow.after, without=id_)


def _all_writes(node: NodeSpec, path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    """Give the state keys that a node and what is within it write, with where they are written."""
    for key, at in writes(node).items():
        yield key, (*path, *at)
    inner = body_of(node, (*path, "nodes"))
    for id_, below_ in inner.nodes.items() if inner else ():
        yield from _all_writes(below_, inner.at(id_) if inner else path)


def _appends(spec: WorkflowSpec) -> bool:
    """Tell whether a workflow appends to the thread that it runs on; one that runs others counts as doing so."""
    return any(
        (isinstance(n, AgentNode | MessageNode | WorkflowNode) and n.thread == "shared")
        for node in spec.nodes.values()
        for n in below(node)
    )


def _thread(name: str) -> str:
    return "thread of the run" if name == "shared" else f"thread '{name}'"


def _known_value(node: NodeSpec, at: KeyPath) -> tuple[Any, bool]:
    """Give the value that a node writes, where the document says it outright."""
    key = str(at[1])
    if isinstance(node, SetNode) and at[0] == "set":
        return node.set[key], is_literal(node.set[key])
    source = node.save[key] if isinstance(node, StepNode | SwitchNode | ParallelNode) else ""
    if not _is_constant(source):
        return None, False
    try:
        return expression.evaluate(source, {}), True
    except DefinitionError:
        return None, False


_CONSTANTS = frozenset({"true", "false", "none", "True", "False", "None"})


def _is_constant(source: str) -> bool:
    from treadle.definition import sandbox

    words = sandbox.words(source, "expression")
    return bool(words) and all(
        kind in ("integer", "float", "string")
        or text in _CONSTANTS
        or (kind == "operator" and text in "-[]{}:,")
        for kind, text, *_ in words
    )


def _joins(value: Any, declared: StateSpec) -> bool:
    """Tell whether a value can be written to a key as its reducer joins it."""
    schema = declared.json_schema
    items = schema.get("items")
    one = items if is_mapping(items) else {}
    match declared.reduce:
        case "append":
            return fits(value, one)
        case "union":
            return all(fits(v, one) for v in value) if is_list(value) else fits(value, one)
        case "merge":
            return is_mapping(value)
        case _:
            return fits(value, schema)
