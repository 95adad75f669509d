"""Compare two step graphs: what was added, removed, renamed and changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from treadle.definition.document import is_list, is_mapping
from treadle.definition.flow import TIMEOUT_WORDS
from treadle.graph.nodes import Edge, Node, StepGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamChange:
    """One thing that a graph or a node is told differently, by its name.

    Shapes: `state.draft: reduce` for a part of a key; `before` or `after` is None where only the other graph has it.
    """

    name: str
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.name} is new: {_short(self.after)}"
        if self.after is None:
            return f"{self.name} is gone"
        return f"{self.name} {_short(self.before)} -> {_short(self.after)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChange:
    """A node that both graphs have, told differently; `fields` names what differs, `params` has its params one by one."""

    before: Node
    after: Node
    fields: tuple[str, ...]
    params: tuple[ParamChange, ...] = ()

    def __str__(self) -> str:
        plain = [
            f"{f} {getattr(self.before, f)!r} -> {getattr(self.after, f)!r}"
            for f in self.fields
            if f != "params"
        ]
        return ", ".join([*plain, *map(str, self.params)])


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDiff:
    """What one graph has to become to be the other; empty when their nodes and edges are the same.

    Shapes: everything in declared order; `renamed` holds (old id, new id); edges are compared under the new
    ids, and `edges_changed` holds (before, after) where only the label differs; `params_changed` has what the graph itself is
    told differently, the state's schemas and reducers key by key.
    """

    added: tuple[Node, ...] = ()
    removed: tuple[Node, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    changed: tuple[NodeChange, ...] = ()
    edges_added: tuple[Edge, ...] = ()
    edges_removed: tuple[Edge, ...] = ()
    edges_changed: tuple[tuple[Edge, Edge], ...] = ()
    params_changed: tuple[ParamChange, ...] = ()

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
            *(f"~ {change}" for change in self.params_changed),
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
        params_changed=tuple(_graph_changes(before.params, after.params)),
    )


def _change(before: Node, after: Node, kept: Mapping[str, str]) -> NodeChange:
    params = tuple(_param_changes(_settled(before, kept), _settled(after, {})))
    fields = tuple(
        name
        for name in ("kind", "params", "expands", "max_visits")
        if (params if name == "params" else getattr(before, name) != getattr(after, name))
    )
    if after.within != (kept.get(before.within, before.within) if before.within else None):
        fields += ("within",)
    return NodeChange(before=before, after=after, fields=fields, params=params)


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
    if node.params:
        told["params"] = _settled(node, {}) | {"join": None}
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


def _settled(node: Node, kept: Mapping[str, str]) -> dict[str, Any]:
    """Give the params of a node without the targets that its edges say as well; a join under its new id.

    Errors keep their codes, a switch its literals, a list of conditions its conditions.
    """
    params = dict(node.params)
    within = f"{node.within}/" if node.within is not None else ""
    if "type" not in params:
        return params
    following = params.pop("next", None)
    if is_list(following):
        params["next"] = [{"when": r["when"]} if "when" in r else {} for r in following]
    if is_mapping(params.get("cases")):
        params["cases"] = list(params["cases"])
    if params["type"] == "switch":
        params.pop("default", None)
    if is_list(params.get("branches")):
        params["branches"] = len(params["branches"])
    if is_list(params.get("on_error")):
        params["on_error"] = [{k: v for k, v in r.items() if k != "to"} for r in params["on_error"]]
    if params["type"] == "human" and params.get("on_timeout") not in (None, *TIMEOUT_WORDS):
        params["on_timeout"] = "a node"
    if "join" in params:
        full = f"{within}{params['join']}"
        params["join"] = kept.get(full, full)
    return params


def _param_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[ParamChange]:
    """Compare what a node is told, name by name."""
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield ParamChange(name=name, before=before.get(name), after=after.get(name))


def _graph_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[ParamChange]:
    """Compare what graphs are told: the state key by key, and each key's schema, default and reducer apart."""
    for change in _param_changes(before, after):
        old: Any = change.before or {}
        new: Any = change.after or {}
        if not (is_mapping(old) and is_mapping(new)):
            yield change
            continue
        for inner in _param_changes(old, new):
            both = inner.before, inner.after
            if change.name == "state" and is_mapping(both[0]) and is_mapping(both[1]):
                for part in _param_changes(_with_reducer(both[0]), _with_reducer(both[1])):
                    yield replace(part, name=f"state.{inner.name}: {part.name}")
            else:
                yield replace(inner, name=f"{change.name}.{inner.name}")


def _with_reducer(key: Mapping[str, Any]) -> dict[str, Any]:
    return {"reduce": "replace", **key}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _unique(looks: Mapping[str, int]) -> dict[int, str]:
    owners: dict[int, list[str]] = {}
    for id_, look in looks.items():
        owners.setdefault(look, []).append(id_)
    return {look: ids[0] for look, ids in owners.items() if len(ids) == 1}


def _told(edge: Edge) -> str:
    return f"{edge.source} -> {edge.target}" + ("" if edge.when is None else f" ('{edge.when}')")
