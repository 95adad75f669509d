"""Build a step graph out of step kinds and labels: what compiles an agent, and what the checks of any graph are tried on.

A workflow is built by `builder.Graph`, in the words of its document. Building collects and never refuses, so that
`check` can tell every problem at once. Nothing here loads a graph library before a check or a view is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from treadle.errors import GraphError, Problem
from treadle.graph.nodes import Edge, Node, StepGraph
from treadle.objects.run_step import StepKind

if TYPE_CHECKING:
    from networkx import MultiDiGraph

    from treadle.graph.diff import GraphDiff
    from treadle.graph.render import Format


class StepGraphBuilder:
    """A step graph while it is built; networkx users know the mutators, LangGraph users the edges."""

    def __init__(self, name: str) -> None:
        """Start with nothing but the name."""
        self.name = name
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []

    def add_node(
        self,
        id_: str,
        *,
        kind: StepKind,
        params: Mapping[str, Any] | None = None,
        expands: bool = False,
        max_visits: int | None = None,
        within: str | None = None,
    ) -> None:
        """Add a node that a step of this kind executes.

        Shapes: `params` is JSON, told to the step kind. A node that `expands` becomes one parallel step per
        item that its predecessor announces. `within` is the id of the loop or the map whose body it belongs to.
        Units: `max_visits` counts how often one run may enter it.
        """
        self._nodes.append(Node(id_, kind, dict(params or {}), expands, max_visits, within))

    def add_edge(self, source: str, target: str, *, when: str | None = None) -> None:
        """Add an edge, taken always, or when the source's step takes the label `when`."""
        self._edges.append(Edge(source, target, when))

    def add_edges_from(self, edges: Iterable[tuple[str, str] | tuple[str, str, str | None]]) -> None:
        """Add edges given as (source, target) or (source, target, label)."""
        self._edges.extend(Edge(source, target, *label) for source, target, *label in edges)

    def add_path(self, ids: Iterable[str]) -> None:
        """Add an edge from each node to the next one."""
        self._edges.extend(Edge(source, target) for source, target in pairwise(ids))

    def add_conditional_edges(self, source: str, labels: Mapping[str, str]) -> None:
        """Add one edge per label that the source's step may take, given as label to target."""
        self._edges.extend(Edge(source, target, label) for label, target in labels.items())

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Give the nodes in declared order."""
        return tuple(self._nodes)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Give the edges in declared order."""
        return tuple(self._edges)

    def __contains__(self, id_: object) -> bool:
        """Tell whether a node of that id was added."""
        return any(node.id == id_ for node in self._nodes)

    def __iter__(self) -> Iterator[str]:
        """Go through the ids in declared order."""
        return (node.id for node in self._nodes)

    def __len__(self) -> int:
        """Count the nodes."""
        return len(self._nodes)

    def successors(self, id_: str) -> list[str]:
        """List the targets of a node's edges."""
        return [edge.target for edge in self._edges if edge.source == id_]

    def predecessors(self, id_: str) -> list[str]:
        """List the sources of the edges into a node."""
        return [edge.source for edge in self._edges if edge.target == id_]

    def check(self) -> list[Problem]:
        """List everything that would keep a run from walking this graph to its END."""
        from treadle.graph.check import check

        return check(self.freeze())

    def compile(self) -> StepGraph:
        """Give the checked step graph that a run can pin.

        Errors: GraphError that carries every problem when `check` finds one.
        """
        problems = [problem for problem in self.check() if problem.severity == "error"]
        if problems:
            found = "\n".join(f"  {problem}" for problem in problems)
            raise GraphError(
                f"the graph '{self.name}' cannot be walked:\n{found}",
                node=problems[0].node,
                problems=problems,
            )
        return self.freeze()

    def freeze(self) -> StepGraph:
        """Give the step graph as it stands, unchecked: for a shape that is known to be sound."""
        return StepGraph(self.name, tuple(self._nodes), tuple(self._edges))

    @property
    def nx(self) -> MultiDiGraph[str]:
        """Give a networkx view of the graph as it stands; see `StepGraph.nx`."""
        return self.freeze().nx

    def diff(self, other: StepGraphBuilder | StepGraph) -> GraphDiff:
        """Give what `other` changes of this graph."""
        from treadle.graph.diff import diff

        return diff(self.freeze(), other.freeze() if isinstance(other, StepGraphBuilder) else other)

    def draw(self, fmt: Format = "text") -> str:
        """Draw the graph as Mermaid, DOT, SVG or terminal text."""
        from treadle.graph.render import render

        return render(self.freeze(), fmt)
