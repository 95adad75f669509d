"""Compare two step graphs: what was added, removed, renamed and changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from treadle.graph.nodes import Edge, Node, StepGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChange:
    """A node that both graphs have, told differently; `fields` names what differs."""

    before: Node
    after: Node
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(
            f"{f} {getattr(self.before, f)!r} -> {getattr(self.after, f)!r}" for f in self.fields
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDiff:
    """What one graph has to become to be the other; empty when their nodes and edges are the same.

    Shapes: everything in declared order; `renamed` holds (old id, new id); edges are compared under the new
    ids, and `edges_changed` holds (before, after) where only the label differs; `params_changed` names what the graph
    itself is told differently.
    """

    added: tuple[Node, ...] = ()
    removed: tuple[Node, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    changed: tuple[NodeChange, ...] = ()
    edges_added: tuple[Edge, ...] = ()
    edges_removed: tuple[Edge, ...] = ()
    edges_changed: tuple[tuple[Edge, Edge], ...] = ()
    params_changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether anything differs."""
        return bool(self.lines())

    def lines(self) -> list[str]:
        """List the differences, one a line: ``+`` added, ``-`` removed, ``~`` renamed or changed."""
        return [
            *(f"- node {n.id} ({n.kind})" for n in self.removed),
            *(f"+ node {n.id} ({n.kind})" for n in self.added),
            *(f"~ node {old} is now {new}" for old, new in self.renamed),
            *(f"~ node {change.after.id}: {change}" for change in self.changed),
            *(f"- edge {_told(e)}" for e in self.edges_removed),
            *(f"+ edge {_told(e)}" for e in self.edges_added),
            *(f"~ edge {_told(a)} is now {_told(b)}" for a, b in self.edges_changed),
            *(f"~ {name} of the graph" for name in self.params_changed),
        ]


def diff(before: StepGraph, after: StepGraph) -> GraphDiff:
    """Compare two graphs by id, and by kind, content and neighbours where the id is not in both.

    A node counts as renamed when exactly one lost and one new node have the same content and the same place
    in their graphs; renamed neighbours do not hide each other.
    """
    renamed = _renamed(before, after)
    kept = {id_: id_ for id_ in before.node if id_ in after.node} | renamed
    gone = [n for n in before.node.values() if n.id not in kept]
    new_ids = set(kept.values())
    changes = [_change(before.node[old], after.node[new], kept) for old, new in kept.items()]
    edges = _edges(before, after, kept)
    return GraphDiff(
        added=tuple(n for n in after.node.values() if n.id not in new_ids),
        removed=tuple(gone),
        renamed=tuple((old, renamed[old]) for old in before.node if old in renamed),
        changed=tuple(change for change in changes if change.fields),
        edges_added=edges[0],
        edges_removed=edges[1],
        edges_changed=edges[2],
        params_changed=tuple(
            name
            for name in dict.fromkeys((*before.params, *after.params))
            if before.params.get(name) != after.params.get(name)
        ),
    )


def _change(before: Node, after: Node, kept: Mapping[str, str]) -> NodeChange:
    fields = tuple(
        name
        for name in ("kind", "params", "expands", "max_visits")
        if getattr(before, name) != getattr(after, name)
    )
    if after.within != (kept.get(before.within, before.within) if before.within else None):
        fields += ("within",)
    return NodeChange(before=before, after=after, fields=fields)


def _edges(
    before: StepGraph, after: StepGraph, kept: Mapping[str, str]
) -> tuple[tuple[Edge, ...], tuple[Edge, ...], tuple[tuple[Edge, Edge], ...]]:
    old = dict.fromkeys(
        Edge(kept.get(e.source, e.source), kept.get(e.target, e.target), e.when) for e in before.edges
    )
    new = dict.fromkeys(after.edges)
    lost = [e for e in old if e not in new]
    found = [e for e in new if e not in old]
    olds, news = _by_ends(lost), _by_ends(found)
    changed = [
        (olds[ends][0], news[ends][0]) for ends in olds if len(olds[ends]) == len(news.get(ends, ())) == 1
    ]
    relabelled = {edge for pair in changed for edge in pair}
    return (
        tuple(e for e in found if e not in relabelled),
        tuple(e for e in lost if e not in relabelled),
        tuple(changed),
    )


def _by_ends(edges: list[Edge]) -> dict[tuple[str, str], list[Edge]]:
    grouped: dict[tuple[str, str], list[Edge]] = {}
    for edge in edges:
        grouped.setdefault((edge.source, edge.target), []).append(edge)
    return grouped


def _renamed(before: StepGraph, after: StepGraph) -> dict[str, str]:
    """Match lost with new ids by refining what each looks like, until its neighbours tell no more."""
    lost = [id_ for id_ in before.node if id_ not in after.node]
    new = [id_ for id_ in after.node if id_ not in before.node]
    if not lost or not new:
        return {}
    looks: dict[object, int] = {}
    old_looks = {id_: looks.setdefault(_content(before.node[id_]), len(looks)) for id_ in lost}
    new_looks = {id_: looks.setdefault(_content(after.node[id_]), len(looks)) for id_ in new}
    distinct = 0
    while distinct < (distinct := len({*old_looks.values(), *new_looks.values()})):
        old_looks, new_looks = _refined(before, old_looks, looks), _refined(after, new_looks, looks)
    by_old, by_new = _unique(old_looks), _unique(new_looks)
    return {by_old[look]: by_new[look] for look in by_old if look in by_new}


def _content(node: Node) -> str:
    told = node.to_json()
    del told["id"]
    told.pop("within", None)  # a frame may have another name itself
    return json.dumps(told, sort_keys=True, default=repr)


def _refined(graph: StepGraph, own: Mapping[str, int], looks: dict[object, int]) -> dict[str, int]:
    def neighbour(id_: str, when: str | None) -> tuple[str, str, int]:
        return (repr(when), "", own[id_]) if id_ in own else (repr(when), id_, -1)

    refined: dict[str, int] = {}
    for id_, look in own.items():
        before = sorted(neighbour(e.source, e.when) for e in graph.in_edges.get(id_, ()))
        after = sorted(neighbour(e.target, e.when) for e in graph.out_edges.get(id_, ()))
        refined[id_] = looks.setdefault((look, *before, "", *after), len(looks))
    return refined


def _unique(looks: Mapping[str, int]) -> dict[int, str]:
    owners: dict[int, list[str]] = {}
    for id_, look in looks.items():
        owners.setdefault(look, []).append(id_)
    return {look: ids[0] for look, ids in owners.items() if len(ids) == 1}


def _told(edge: Edge) -> str:
    return f"{edge.source} -> {edge.target}" + ("" if edge.when is None else f" ('{edge.when}')")
