"""What the texts of a workflow name: inputs, state, results of nodes, the run, an error; each exists, and is known there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.definition.document import Findings, KeyPath, is_mapping, nearest, short, suggest
from treadle.definition.flow import AN_ERROR, NOTHING_BEFORE, Before, Body, Flow, body_of
from treadle.definition.node_texts import Field, raw_at, texts
from treadle.definition.reads import Read, reads
from treadle.definition.workflow import Draft
from treadle.objects.agent import AgentSpec
from treadle.objects.workflow import (
    AgentNode,
    EndNode,
    FailNode,
    HumanNode,
    LoopNode,
    MapNode,
    MessageNode,
    NodeSpec,
    ParallelNode,
    PromptNode,
    SetNode,
    WaitNode,
    WorkflowNode,
    WorkflowSpec,
)

ROOTS = frozenset({"inputs", "state", "result_of", "result", "run", "loop", "error"})

_RUN = ("id", "thread_id", "started_at", "usage")
_ERROR = ("code", "message", "node")
_LOOP = ("iteration",)
_RESULTS: Mapping[type[NodeSpec], tuple[str, ...]] = {
    AgentNode: ("text", "output", "messages", "usage", "run_id", "status"),
    PromptNode: ("text", "output", "usage"),
    MapNode: ("collected", "errors", "merged"),
    LoopNode: ("iterations", "exhausted"),
    HumanNode: ("decision", "choice", "value", "comment", "by", "at"),
    MessageNode: ("text", "message_id"),
    WaitNode: ("at",),
}


@dataclass(frozen=True, kw_only=True)
class Uses:
    """The documents that a workflow names, by the reference that its nodes write; those that only a store has are away."""

    agents: Mapping[str, AgentSpec] = field(default_factory=dict[str, AgentSpec])
    workflows: Mapping[str, WorkflowSpec] = field(default_factory=dict[str, WorkflowSpec])


def check_names(
    draft: Draft, bodies: Sequence[Body], flows: Sequence[Flow], *, uses: Uses, is_sound: bool
) -> None:
    """Report what the texts of a workflow name and what is not there.

    Shapes: `flows` are those of the bodies, one by one. Whether a result is there on every way is looked at where the
    ways themselves are sound.
    """
    if draft.spec is not None:
        _Names(draft, draft.spec, bodies, flows, uses).run(is_sound=is_sound)


class _Names:
    """The names in the texts of one workflow."""

    def __init__(
        self, draft: Draft, spec: WorkflowSpec, bodies: Sequence[Body], flows: Sequence[Flow], uses: Uses
    ) -> None:
        self.spec = spec
        self.uses = uses
        self.findings: Findings = draft.findings
        self.data = draft.data
        self.bodies = bodies
        self.flows = flows

    def run(self, *, is_sound: bool) -> None:
        """Look at every text of every node, then at the outputs."""
        known = {b.path: f.before() if is_sound else {} for b, f in zip(self.bodies, self.flows, strict=True)}
        flows = {flow.body.path: flow for flow in self.flows}
        for body in self.bodies:
            around = _around(body, known)
            for id_, node in body.nodes.items():
                if self.findings.is_full:
                    return
                raw = raw_at(self.data, body.at(id_))
                if not is_mapping(raw):
                    continue
                before = known[body.path].get(id_, NOTHING_BEFORE)
                inner = body_of(node, (*body.at(id_), "nodes"), body, id_)
                for spot, at, text in texts(raw, str(raw.get("type"))):
                    is_inside = spot.is_inside and inner is not None
                    found = (before, *around)
                    if is_inside and inner is not None and not inner.is_single:
                        found = (*found, flows[inner.path].at_end(known[inner.path]))
                    place = _Place(
                        path=(*body.at(id_), *at),
                        body=inner if is_inside and inner is not None else body,
                        node=node,
                        found=found,
                        is_checked=is_sound and id_ in known[body.path],
                        field=spot,
                    )
                    self._reads(text, place)
        self._outputs(known[self.bodies[0].path], is_sound=is_sound)

    def _outputs(self, known: Mapping[str, Before], *, is_sound: bool) -> None:
        """Check the document's outputs: a result counts as found where every way to the end has it."""
        top, flow = self.bodies[0], self.flows[0]
        others = [i for i, node in top.nodes.items() if not _completes(node)]
        found = flow.at_end(known, without=frozenset(others))
        spot = Field(("outputs", "*"), "expression")
        for name, text in self.spec.outputs.items():
            place = _Place(
                path=("outputs", name), body=top, node=None, found=(found,), is_checked=is_sound, field=spot
            )
            self._reads(text, place)

    def _reads(self, text: str, place: _Place) -> None:
        kind = "expression" if place.field.kind == "expression" else "template"
        for read in reads(text, kind=kind, roots=ROOTS):
            match read.root:
                case "inputs":
                    self._declared(read, place, {n: s.json_schema for n, s in self.spec.inputs.items()})
                case "state":
                    self._declared(read, place, {n: s.json_schema for n, s in self.spec.state.items()})
                case "result_of":
                    self._result_of(read, place)
                case "result":
                    if place.node is not None and not (place.field.is_inside):
                        self._result(read, place, place.node, read.keys)
                case "run":
                    self._one_of_fields(read, place, _RUN)
                case "loop":
                    if place.field.kind == "expression" or "{%" not in text:
                        self._one_of_fields(read, place, _LOOP)
                case _:
                    self._error(read, place)

    def _report(
        self, read: Read, place: _Place, said: str, *, code: str = "TR210", hint: str | None = None
    ) -> None:
        self.findings.add_within(
            code, said, place.path, line=read.line, column=read.column, name=read.text, hint=hint
        )

    def _one_of_fields(self, read: Read, place: _Place, fields: tuple[str, ...]) -> None:
        if read.keys and read.keys[0] not in fields:
            first = f"{read.root}.{read.keys[0]}"
            self._report(read, place, f"there is no '{first}'", hint=suggest(read.keys[0], fields))

    def _declared(self, read: Read, place: _Place, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        if not read.keys:
            return
        name = read.keys[0]
        if name not in schemas:
            near = nearest(name, list(schemas))
            hint = suggest(name, list(schemas))
            if near:
                line = self.findings.line_note((read.root, near))
                hint = f"did you mean '{read.root}.{near}'{line}?"
            shown = f"{read.root}.{name}"
            self._report(read._replace(text=shown), place, f"'{shown}' is not declared", hint=hint)
            return
        self._closed(read, place, schemas[name], read.keys[1:])

    def _closed(self, read: Read, place: _Place, schema: Any, keys: tuple[str, ...]) -> None:
        """Report a key that a schema with a closed set of properties does not have."""
        for key in keys:
            properties = schema.get("properties") if is_mapping(schema) else None
            if not is_mapping(schema) or not is_mapping(properties):
                return
            if key not in properties:
                if schema.get("additionalProperties") is False:
                    said = f"'{read.text}' is not declared: there is no '{key}'"
                    self._report(read, place, said, hint=suggest(key, list(properties)))
                return
            schema = properties[key]

    def _result_of(self, read: Read, place: _Place) -> None:
        if not read.keys:
            return
        name = read.keys[0]
        visible = _visible(place.body)
        node = visible.get(name)
        if node is None:
            said = f"'result_of.{short(name)}' is the result of no node here"
            self._report(
                read._replace(text=f"result_of.{name}"), place, said, hint=suggest(name, list(visible))
            )
            return
        if place.is_checked and not place.has(name) and not read.is_guarded:
            said = f"'{name}' may not have run when this is read"
            hint = f"write (result_of.{name}|default({{}})), or lead every way to here through '{name}'"
            self._report(read._replace(text=f"result_of.{name}"), place, said, code="TR217", hint=hint)
        self._result(read, place, node, read.keys[1:])

    def _result(self, read: Read, place: _Place, node: NodeSpec, keys: tuple[str, ...]) -> None:
        """Check the keys of a result, as far as its node says which it has."""
        fields = self._fields(node)
        if not keys or fields is None:
            return
        if keys[0] not in fields:
            said = f"there is no '{read.text}'"
            self._report(read, place, said, hint=suggest(keys[0], fields))
        elif keys[0] == "output" and isinstance(node, AgentNode | PromptNode):
            used = self.uses.agents.get(node.agent) if isinstance(node, AgentNode) else None
            shape = node.output or (used.output if used is not None else None)
            if shape is not None:
                self._closed(read, place, shape.schema_, keys[1:])

    def _fields(self, node: NodeSpec) -> list[str] | None:
        if isinstance(node, ParallelNode):
            return list(node.branches)
        if isinstance(node, SetNode):
            return list(node.set)
        if isinstance(node, WorkflowNode):
            used = self.uses.workflows.get(node.workflow)
            ends = used is not None and not any(
                isinstance(n, EndNode) and n.outputs for n in used.nodes.values()
            )
            return list(used.outputs) if used is not None and ends else None
        fields = _RESULTS.get(type(node))
        return list(fields) if fields is not None else None

    def _error(self, read: Read, place: _Place) -> None:
        """Check that an error led here: `error` is known in on_error and behind the routes of errors."""
        if not (read.is_guarded or place.field.adds & {"error"} or place.has(AN_ERROR)):
            said = "no error leads here on every way"
            hint = "write (error|default({})), or lead only errors here"
            if place.is_checked:
                self._report(read._replace(text="error"), place, said, hint=hint)
            return
        self._one_of_fields(read, place, _ERROR)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a text stands, and what is known there."""

    path: KeyPath
    body: Body
    node: NodeSpec | None
    found: tuple[Before, ...]
    is_checked: bool
    field: Field

    def has(self, id_: str) -> bool:
        """Tell whether a node's result is there."""
        return any(before.has(id_) for before in self.found)


def _completes(node: NodeSpec) -> bool:
    """Tell whether the document's outputs are read behind a node."""
    return not (isinstance(node, EndNode) and node.outputs is not None) and not isinstance(node, FailNode)


def _visible(body: Body | None) -> dict[str, NodeSpec]:
    """Give the nodes whose results can be named in a body: its own and those of the bodies around it."""
    out: dict[str, NodeSpec] = {}
    while body is not None:
        if not body.is_single:
            out = {**body.nodes, **out}
        body = body.outer
    return out


def _around(body: Body, known: Mapping[KeyPath, Mapping[str, Before]]) -> tuple[Before, ...]:
    """Give what is there when a body begins: what its frame and the frames around that one find."""
    out: list[Before] = []
    outer, frame = body.outer, body.frame_id
    while outer is not None:
        out.append(known[outer.path].get(frame, NOTHING_BEFORE))
        outer, frame = outer.outer, outer.frame_id
    return tuple(out)
