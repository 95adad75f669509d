"""The step graph: frozen nodes and edges that a run walks, hashed by content.

Plain tuples: walking a graph loads no graph library. Cycles are allowed where something bounds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.errors import GraphError
from treadle.objects.run_step import StepKind

if TYPE_CHECKING:
    from networkx import MultiDiGraph

START = "START"
END = "END"


class Edge(NamedTuple):
    """From one node to the next; `when` is the label that the source's step must have taken, None for always."""

    source: str
    target: str
    when: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its id, the step kind that executes it, and what that kind is told.

    Shapes: `params` is JSON. A node that `expands` becomes one parallel step per item that its predecessor
    announces, joined before its successors. Units: `max_visits` counts how often one run may enter it, None
    where only the run's own limits bound it and the node lies on no cycle. `within` is the id of the loop or the map
    around it, whose body it belongs to; a visit then counts within one round or item.
    """

    id: str
    kind: StepKind
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expands: bool = False
    max_visits: int | None = None
    within: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the node as JSON, without what equals its default."""
        out: dict[str, Any] = {"id": self.id, "kind": self.kind}
        if self.params:
            out["params"] = dict(self.params)
        if self.expands:
            out["expands"] = True
        if self.max_visits is not None:
            out["max_visits"] = self.max_visits
        if self.within is not None:
            out["within"] = self.within
        return out


@dataclass(frozen=True)
class StepGraph:
    """A compiled graph; equal content has an equal `digest`.

    Shapes: `params` is JSON, told to whoever walks the graph: what a workflow says beside its nodes.
    """

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def node(self) -> dict[str, Node]:
        """Give the nodes by id."""
        return {n.id: n for n in self.nodes}

    @cached_property
    def out_edges(self) -> dict[str, tuple[Edge, ...]]:
        """Give each node's edges to its successors, in declared order; START included."""
        out: dict[str, list[Edge]] = {}
        for edge in self.edges:
            out.setdefault(edge.source, []).append(edge)
        return {source: tuple(edges) for source, edges in out.items()}

    @cached_property
    def in_edges(self) -> dict[str, tuple[Edge, ...]]:
        """Give each node's edges from its predecessors, in declared order; END included."""
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.target, []).append(edge)
        return {target: tuple(edges) for target, edges in found.items()}

    @property
    def is_workflow(self) -> bool:
        """Tell whether it is the graph of a workflow, whose nodes say their type."""
        return bool(self.nodes) and "type" in self.nodes[0].params

    @cached_property
    def kept(self) -> frozenset[str]:
        """Give the ids of the nodes whose results other nodes, or the outputs, read."""
        from treadle.graph.kept import kept

        return kept(self)

    @cached_property
    def text(self) -> str:
        """Give the canonical JSON that is stored and hashed."""
        return json.dumps(
            {
                "name": self.name,
                "nodes": [n.to_json() for n in self.nodes],
                "edges": [[e.source, e.target, e.when] for e in self.edges],
                **({"params": dict(self.params)} if self.params else {}),
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @cached_property
    def digest(self) -> str:
        """Give the sha256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def successors(self, id_: str) -> list[str]:
        """List the targets of a node's edges."""
        return [e.target for e in self.out_edges.get(id_, ())]

    def predecessors(self, id_: str) -> list[str]:
        """List the sources of the edges into a node."""
        return [e.source for e in self.in_edges.get(id_, ())]

    @cached_property
    def nx(self) -> MultiDiGraph[str]:
        """Give the graph to networkx: a frozen MultiDiGraph, whose `copy()` may be changed.

        Shapes: nodes have `kind`, `params`, `expands`, `max_visits` and `within`, START and END only
        `kind`; edges have `when`, None for always.
        """
        import networkx as nx

        graph: MultiDiGraph[str] = nx.MultiDiGraph(name=self.name)
        graph.add_node(START, kind=START)
        for node in self.nodes:
            graph.add_node(
                node.id,
                kind=node.kind,
                params=dict(node.params),
                expands=node.expands,
                max_visits=node.max_visits,
                within=node.within,
            )
        graph.add_node(END, kind=END)
        for edge in self.edges:
            graph.add_edge(edge.source, edge.target, when=edge.when)
        nx.freeze(graph)  # pyright: ignore[reportUnknownMemberType] - unstubbed
        return graph

    @classmethod
    def load(cls, text: str) -> StepGraph:
        """Read the canonical JSON back.

        Errors: GraphError when the text is not a step graph.
        """
        try:
            data = json.loads(text)
            return cls(
                name=data["name"],
                nodes=tuple(Node(**n) for n in data["nodes"]),
                edges=tuple(Edge(*e) for e in data["edges"]),
                params=data.get("params", {}),
            )
        except (ValueError, KeyError, TypeError) as e:
            raise GraphError(f"the stored step graph cannot be read: {e}") from e
