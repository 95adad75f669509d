"""How the nodes of a workflow follow one another: the ways out of a node, the bodies, and what holds on all ways.

Everything here is a pure function over the records; `workflow_checks.py` says in the words of the file what is wrong.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from treadle.definition.document import KeyPath
from treadle.objects.workflow import (
    EndNode,
    ErrorRoute,
    FailNode,
    HumanNode,
    LoopNode,
    MapNode,
    NodeSpec,
    ParallelNode,
    SetNode,
    StepNode,
    SwitchNode,
    WorkflowSpec,
)

DONE, ROUND, ITEM, FAILED, ELSE, DEFAULT, TIMEOUT, ERROR = (
    "done",
    "round",
    "item",
    "failed",
    "else",
    "default",
    "timeout",
    "error",
)
"""The labels that steps take beside conditions and literals."""

TIMEOUT_WORDS = frozenset({"reject", "fail", "default"})
"""What `on_timeout` may say beside the id of a node."""


class Way(NamedTuple):
    """One way out of a node: where it leads, where the node says so, and the label that its step takes.

    Shapes: `path` starts at the node. `label` is None for the way that is taken without a choice.
    """

    target: str
    path: KeyPath
    label: str | None = None
    is_error: bool = False


def condition_label(text: str) -> str:
    """Give the label of a condition: its text on one line."""
    return " ".join(text.split())


def error_label(route: ErrorRoute) -> str:
    """Give the label of an error route: `error: http_404,timeout`, or `error` for one that takes any code."""
    return f"{ERROR}: {','.join(route.on)}" if route.on else ERROR


def ways(node: NodeSpec) -> list[Way]:
    """Give the ways out of a node in declared order; what leads to its join is no way of a parallel node."""
    out = [*_onwards(node)]
    if isinstance(node, HumanNode) and node.on_timeout and node.on_timeout not in TIMEOUT_WORDS:
        out.append(Way(node.on_timeout, ("on_timeout",), TIMEOUT))
    if isinstance(node, StepNode | SwitchNode | ParallelNode):
        out += (
            Way(route.to, ("on_error", n, "to"), error_label(route), is_error=True)
            for n, route in enumerate(node.on_error)
            if route.to is not None
        )
    return out


def _onwards(node: NodeSpec) -> Iterator[Way]:
    if isinstance(node, SwitchNode):
        for literal, target in node.cases.items():
            yield Way(target, ("cases", literal), literal)
        yield Way(node.default, ("default",), DEFAULT)
    elif isinstance(node, ParallelNode):
        for n, target in enumerate(node.branches):
            yield Way(target, ("branches", n))
    elif isinstance(node, StepNode):
        plain = DONE if isinstance(node, MapNode | LoopNode) else None
        if isinstance(node.next, str):
            yield Way(node.next, ("next",), plain)
        for n, route in enumerate(node.next if isinstance(node.next, tuple) else ()):
            label = condition_label(route.when) if route.when is not None else ELSE
            yield Way(route.to, ("next", n, "to"), label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Nodes that follow one another: those of the workflow, or those within a loop or a map.

    Shapes: `path` leads to the mapping of the nodes; `frame` is the loop or map around them. A map whose body is one
    node has it under the id `item`, and its `path` leads to the map.
    """

    path: KeyPath
    start: str
    nodes: Mapping[str, NodeSpec]
    frame: NodeSpec | None = None
    outer: Body | None = None
    frame_id: str = ""

    def at(self, id_: str) -> KeyPath:
        """Give the path of a node."""
        return (*self.path, "node" if self.is_single else id_)

    @property
    def is_single(self) -> bool:
        """Tell whether the body is one node that names no other."""
        return isinstance(self.frame, MapNode) and self.frame.node is not None


SINGLE = "item"
"""The id of the one node that is the body of a map."""


def bodies(spec: WorkflowSpec) -> Iterator[Body]:
    """Give the body of the workflow, then those within its loops and maps, the outer ones first."""
    waiting = [Body(path=("nodes",), start=spec.start, nodes=spec.nodes)]
    while waiting:
        body = waiting.pop(0)
        yield body
        for id_, node in body.nodes.items():
            inner = body_of(node, (*body.at(id_), "nodes"), body, id_)
            if inner is not None:
                waiting.append(inner)


def body_of(frame: NodeSpec, path: KeyPath, outer: Body | None = None, frame_id: str = "") -> Body | None:
    """Give the body of a loop or of a map with nodes of its own; None for any other node."""
    if isinstance(frame, MapNode) and frame.node is not None:
        return Body(
            path=path[:-1],
            start=SINGLE,
            nodes={SINGLE: frame.node},
            frame=frame,
            outer=outer,
            frame_id=frame_id,
        )
    if isinstance(frame, LoopNode) or (isinstance(frame, MapNode) and frame.workflow is None):
        return Body(
            path=path, start=frame.start or "", nodes=frame.nodes, frame=frame, outer=outer, frame_id=frame_id
        )
    return None


def below(node: NodeSpec) -> Iterator[NodeSpec]:
    """Give a node and all nodes within it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        inner = body_of(node, ())
        waiting.extend(inner.nodes.values() if inner else ())


def writes(node: NodeSpec) -> dict[str, KeyPath]:
    """Give the state keys that a node itself writes, with the paths within the node that say so."""
    out: dict[str, KeyPath] = {}
    if isinstance(node, SetNode):
        out |= {key: ("set", key) for key in node.set}
    if isinstance(node, StepNode | SwitchNode | ParallelNode):
        out |= {key: ("save", key) for key in node.save}
    return out


def default_route(spec: WorkflowSpec) -> str | None:
    """Give the node that the workflow's own `on_error` leads to; None where errors fail the run."""
    return None if spec.on_error is None or spec.on_error == "fail" else spec.on_error.to


class Entry(NamedTuple):
    """One way into a node: from where, and whether an error leads there."""

    source: str
    is_error: bool


AN_ERROR = "*error"
"""Stands, among the nodes before another, for an error that led there."""


class Before(NamedTuple):
    """Nodes whose results are there, as bits: a chain of a thousand nodes has a thousand such sets."""

    bits: int
    place: Mapping[str, int]

    def has(self, id_: str) -> bool:
        """Tell whether a node is among them."""
        return bool(self.bits & self.place.get(id_, 0))


NOTHING_BEFORE = Before(0, MappingProxyType({}))


class Flow:
    """What holds in one body: what is reached, what comes before, and what lies between a parallel node and its join."""

    def __init__(self, body: Body, *, default: str | None = None) -> None:
        """Follow the ways; targets that are no node count as the end, since they are told elsewhere.

        Shapes: `default` is where the workflow's own `on_error` leads; see `defaulted`.
        """
        self.body = body
        self.after: dict[str, list[str]] = {id_: [] for id_ in body.nodes}
        self.entries: dict[str, list[Entry]] = {id_: [] for id_ in body.nodes}
        self.leads_to_end: set[str] = set()
        for id_, node in body.nodes.items():
            self._follow(id_, node)
        self.regions = {
            id_: self._regions(node) for id_, node in body.nodes.items() if isinstance(node, ParallelNode)
        }
        self.defaulted = [] if default is None else self._defaulted(default)
        for id_ in self.defaulted:
            if default in self.after:
                self.after[id_].append(default)
                self.entries[default].append(Entry(id_, is_error=True))
        self.reached = closure([body.start] if body.start in body.nodes else [], self.after)

    def _defaulted(self, default: str) -> list[str]:
        """Give the nodes whose other errors lead to the workflow's own route.

        A node that takes any error itself is none of them, nor is the target, nor a node of a branch: its error is its
        parallel node's, which may be one of them.
        """
        branched = {i for regions in self.regions.values() for region in regions.values() for i in region}
        return [
            id_
            for id_, node in self.body.nodes.items()
            if isinstance(node, StepNode | SwitchNode | ParallelNode)
            and id_ not in branched
            and id_ != default
            and all(route.on for route in node.on_error)
        ]

    def _follow(self, id_: str, node: NodeSpec) -> None:
        out = ways(node)
        is_last = isinstance(node, EndNode | FailNode) or (isinstance(node, StepNode) and node.next is None)
        if is_last or self.body.is_single:
            self.leads_to_end.add(id_)
        for way in out:
            if way.target in self.body.nodes:
                self.after[id_].append(way.target)
                self.entries[way.target].append(Entry(id_, way.is_error))
            else:
                self.leads_to_end.add(id_)

    def _regions(self, node: ParallelNode) -> dict[str, list[str]]:
        """Give the nodes of each branch: those that are reached before the join, in declared order."""
        out: dict[str, list[str]] = {}
        for branch in node.branches:
            if branch in self.body.nodes and branch != node.join:
                reached = closure([branch], self.after, without=node.join)
                out[branch] = [id_ for id_ in self.body.nodes if id_ in reached]
        return out

    def lost(self) -> list[list[str]]:
        """Give the nodes from which no way leads to the end: one node, or those of one cycle, at a time."""
        before: dict[str, list[str]] = {id_: [e.source for e in found] for id_, found in self.entries.items()}
        ends = closure([id_ for id_ in self.body.nodes if id_ in self.leads_to_end], before)
        stuck = {id_: self.after[id_] for id_ in self.body.nodes if id_ not in ends}
        return [
            ids
            for ids in components(stuck)
            if not any(target not in ids for id_ in ids for target in stuck[id_])
        ]

    def before(self) -> dict[str, Before]:
        """Give for each reached node what it finds on every way to it.

        A join finds what each of its branches has done, where it waits for all of them and none may fail.
        """
        order = _order(self.body.start, self.after)
        bit = {id_: 1 << n for n, id_ in enumerate(self.body.nodes)}
        error = 1 << len(bit)
        found: dict[str, int] = dict.fromkeys(order, (error << 1) - 1)
        if order:
            found[order[0]] = 0
        joins = self._joins()

        def into(entries: Sequence[Entry]) -> int:
            known = (error << 1) - 1
            for source, is_error in entries:
                if source in found:
                    known &= found[source] | (error if is_error else bit[source])
            return known

        changed = True
        while changed:
            changed = False
            for id_ in order[1:]:
                known = into(self.entries[id_])
                for regions in joins.get(id_, ()):
                    for region in regions:
                        known |= into([e for e in self.entries[id_] if e.source in region]) & ~error
                if known != found[id_]:
                    found[id_], changed = known, True
        place = bit | {AN_ERROR: error}
        return {id_: Before(known, place) for id_, known in found.items()}

    def at_end(self, before: Mapping[str, Before], *, without: Container[str] = ()) -> Before:
        """Give what is found on every way to the end, but for the ways that end at some nodes."""
        last = [
            (i, before[i])
            for i in self.body.nodes
            if i in self.leads_to_end and i in before and i not in without
        ]
        if not last:
            return NOTHING_BEFORE
        place = last[0][1].place
        bits = ~place[AN_ERROR]
        for i, known in last:
            bits &= known.bits | place[i]
        return Before(bits, place)

    def _joins(self) -> dict[str, list[list[frozenset[str]]]]:
        out: dict[str, list[list[frozenset[str]]]] = {}
        for id_, regions in self.regions.items():
            node = self.body.nodes[id_]
            assert isinstance(node, ParallelNode)
            if node.wait_for == "all" and node.on_branch_error == "fail" and id_ in self.reached:
                out.setdefault(node.join, []).append([frozenset(region) for region in regions.values()])
        return out


def closure(
    starts: Sequence[str], after: Mapping[str, Sequence[str]], *, without: str | None = None
) -> set[str]:
    """Give what is reached from some nodes, themselves included, on ways that do not enter `without`."""
    found = {id_ for id_ in starts if id_ != without}
    waiting = list(found)
    while waiting:
        for target in after.get(waiting.pop(), ()):
            if target not in found and target != without:
                found.add(target)
                waiting.append(target)
    return found


def _order(start: str, after: Mapping[str, Sequence[str]]) -> list[str]:
    """Give the reached nodes so that each comes after those before it, cycles aside."""
    if start not in after:
        return []
    seen, out = {start}, list[str]()
    stack = [(start, iter(after[start]))]
    while stack:
        id_, rest = stack[-1]
        target = next(rest, None)
        if target is None:
            out.append(id_)
            stack.pop()
        elif target not in seen:
            seen.add(target)
            stack.append((target, iter(after[target])))
    return out[::-1]


def components(after: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Give the strongly connected parts of a graph, each in declared order (Tarjan's walk, on a stack of our own)."""
    place = {id_: n for n, id_ in enumerate(after)}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    open_: set[str] = set()
    out: list[list[str]] = []
    for root in after:
        if root in index:
            continue
        stack = [(root, iter(after[root]))]
        index[root] = low[root] = len(index)
        path.append(root)
        open_.add(root)
        while stack:
            id_, rest = stack[-1]
            target = next((t for t in rest if t in place), None)
            if target is None:
                stack.pop()
                if stack:
                    above = stack[-1][0]
                    low[above] = min(low[above], low[id_])
                if low[id_] == index[id_]:
                    found = [path.pop()]
                    while found[-1] != id_:
                        found.append(path.pop())
                    open_.difference_update(found)
                    out.append(sorted(found, key=place.__getitem__))
            elif target not in index:
                index[target] = low[target] = len(index)
                path.append(target)
                open_.add(target)
                stack.append((target, iter(after[target])))
            elif target in open_:
                low[id_] = min(low[id_], index[target])
    return sorted(out, key=lambda ids: place[ids[0]])


def on_cycles(after: Mapping[str, Sequence[str]]) -> set[str]:
    """Give the nodes that lie on a cycle."""
    return {id_ for ids in components(after) for id_ in ids if len(ids) > 1 or id_ in after[id_]}
