"""Flatten a workflow to the step graph that a run of it walks: bodies in the graph, every choice the label of an edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.definition.flow import (
    ERROR,
    FAILED,
    ITEM,
    ROUND,
    SINGLE,
    Body,
    Flow,
    body_of,
    default_route,
    on_cycles,
    ways,
)
from treadle.graph.nodes import END, START, Edge, Node, StepGraph
from treadle.objects.run_step import StepKind
from treadle.objects.workflow import (
    END_TARGET,
    AgentNode,
    CodeNode,
    EndNode,
    FailNode,
    LoopNode,
    MapNode,
    NodeSpec,
    Pin,
    ToolNode,
    WorkflowNode,
    WorkflowSpec,
    WorkNode,
)


def flattened(spec: WorkflowSpec, pins: Mapping[str, Pin]) -> StepGraph:
    """Give the graph of a workflow, as `compile.compile_workflow` says."""
    return _Compiler(spec, pins).graph()


_KINDS: Mapping[str, StepKind] = {
    "agent": "child_run",
    "workflow": "child_run",
    "prompt": "model_call",
    "tool": "tool_call",
    "code": "function",
    "set": "assign",
    "switch": "assign",
    "fail": "assign",
    "end": "assign",
    "message": "append_message",
    "human": "pause",
    "wait": "wait",
    "parallel": "frame",
    "map": "frame",
    "loop": "frame",
}
"""The step kind that executes each type of node."""

_BODY = frozenset({"nodes", "node", "start"})
_UNTOLD = frozenset({"description", "max_visits"})


class _Compiler:
    """Flattens a workflow; one use."""

    def __init__(self, spec: WorkflowSpec, pins: Mapping[str, Pin]) -> None:
        self._spec = spec
        self._pins = pins
        self._default = default_route(spec)
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []

    def graph(self) -> StepGraph:
        spec = self._spec
        body = Body(path=("nodes",), start=spec.start, nodes=spec.nodes)
        self._edges.append(Edge(START, spec.start))
        self._body(body, within=None)
        return StepGraph(spec.name or "workflow", tuple(self._nodes), tuple(self._edges), self._params())

    def _params(self) -> dict[str, Any]:
        """Give what the nodes need to know of the workflow, without what equals its default."""
        fields = {"state", "outputs", "tools", "limits"}
        return self._spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=fields)

    def _body(self, body: Body, *, within: str | None) -> None:
        flow = Flow(body, default=self._default if within is None else None)
        cyclic, defaulted = on_cycles(flow.after), frozenset(flow.defaulted)
        for id_, node in body.nodes.items():
            self._node(id_, node, within=within, is_cyclic=id_ in cyclic, is_defaulted=id_ in defaulted)

    def _node(
        self, id_: str, spec: NodeSpec, *, within: str | None, is_cyclic: bool, is_defaulted: bool
    ) -> None:
        full = _full(id_, within)
        params = self._told(spec)
        if is_defaulted:
            params["on_error"] = [*params.get("on_error", ()), {"to": self._default}]
        self._add(full, spec, params, within=within, is_cyclic=is_cyclic)
        if isinstance(spec, EndNode | FailNode):
            label = FAILED if isinstance(spec, FailNode) else None
            self._edges.append(Edge(full, within or END, label))
        self._inner(full, spec)
        for way in ways(spec):
            target = (within or END) if way.target == END_TARGET else _full(way.target, within)
            self._edges.append(Edge(full, target, way.label))
        if is_defaulted and self._default is not None:
            target = END if self._default == END_TARGET else self._default
            self._edges.append(Edge(full, target, ERROR))

    def _add(
        self, id_: str, spec: NodeSpec, params: dict[str, Any], *, within: str | None, is_cyclic: bool
    ) -> None:
        visits = getattr(spec, "max_visits", None)
        if visits is None and is_cyclic:
            visits = self._spec.limits.max_visits
        self._nodes.append(Node(id_, _KINDS[params["type"]], params, max_visits=visits, within=within))

    def _inner(self, id_: str, spec: NodeSpec) -> None:
        """Add the body of a loop or a map behind its frame."""
        if isinstance(spec, MapNode) and spec.workflow is not None:
            plain = WorkflowNode(type="workflow", workflow=spec.workflow, thread="new")
            inner = plain.model_copy(update={"with_": spec.with_})
            body = Body(path=(), start=SINGLE, nodes={SINGLE: inner}, frame=spec)
        else:
            found = body_of(spec, ())
            if found is None:
                return
            body = found
        label = ITEM if isinstance(spec, MapNode) else ROUND
        self._edges.append(Edge(id_, _full(body.start, id_), label))
        self._body(body, within=id_)
        only = body.nodes.get(SINGLE) if isinstance(spec, MapNode) and not spec.nodes else None
        if only is not None and not isinstance(only, FailNode):
            self._edges.append(Edge(_full(SINGLE, id_), id_))

    def _told(self, spec: NodeSpec) -> dict[str, Any]:
        """Give the fields of a node as JSON, with its pin and with the workflow's defaults put in."""
        left_out = _UNTOLD | _BODY if isinstance(spec, MapNode | LoopNode) else _UNTOLD
        if isinstance(spec, MapNode) and spec.workflow is not None:
            left_out = left_out | {"workflow", "with_"}
        params = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(left_out))
        if isinstance(spec, WorkNode):
            self._defaults(spec, params)
        reference = (
            spec.agent
            if isinstance(spec, AgentNode)
            else spec.workflow
            if isinstance(spec, WorkflowNode)
            else None
        )
        if reference is not None and reference in self._pins:
            params["pin"] = self._pins[reference]
        return params

    def _defaults(self, spec: WorkNode, params: dict[str, Any]) -> None:
        told = self._spec.defaults.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if spec.timeout is None and "timeout" in told:
            params["timeout"] = told["timeout"]
        if spec.retry is None and "retry" in told and self._may_repeat(spec):
            params["retry"] = told["retry"]

    def _may_repeat(self, spec: WorkNode) -> bool:
        """Tell whether a node may be tried again without having said so itself: not where its call is made once only."""
        if spec.idempotency_key is not None:
            return True
        if isinstance(spec, CodeNode):
            return spec.effect != "once"
        if isinstance(spec, ToolNode):
            tool = self._spec.functions.get(spec.tool) if isinstance(spec.tool, str) else spec.tool
            return tool is not None and tool.effect != "once"
        return True


def _full(id_: str, within: str | None) -> str:
    return id_ if within is None else f"{within}/{id_}"
