"""Read a directed networkx graph into a graph that can be run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from treadle.definition.document import suggest
from treadle.errors import GraphError
from treadle.graph.builder import Graph
from treadle.graph.edges import spelled
from treadle.graph.nodes import END, START
from treadle.objects.workflow import NODES

if TYPE_CHECKING:
    from networkx import DiGraph

Attributes = Mapping[str, Any]


def read_networkx(nxg: DiGraph[Any], name: str | None, resolve: Mapping[str, Any]) -> Graph:
    """Give the graph, as `Graph.from_networkx` says."""
    if not nxg.is_directed():
        raise GraphError("the networkx graph has no directions", hint="give a DiGraph or a MultiDiGraph")
    graph = Graph(name or str(cast("Any", nxg).name) or None)
    for node, attributes in cast("list[tuple[object, Attributes]]", list(nxg.nodes(data=True))):
        id_ = _id(node)
        if spelled(id_) not in (START, END):
            _add(graph, id_, attributes, resolve)
    edges = cast("list[tuple[object, object, Attributes]]", list(nxg.edges(data=True)))
    for source, target, attributes in edges:
        graph.add_edge(_id(source), _id(target), when=attributes.get("when"))
    _close(graph)
    return graph


def _id(node: object) -> str:
    if not isinstance(node, str):
        raise GraphError(f"the node {node!r} of the networkx graph is no text", hint="relabel the nodes")
    return node


def _add(graph: Graph, id_: str, attributes: Attributes, resolve: Mapping[str, Any]) -> None:
    run = attributes.get("run", resolve.get(id_))
    kind = attributes.get("type")
    if run is not None:
        graph.add_node(id_, run, **{k: v for k, v in attributes.items() if k not in ("run", "type")})
    elif isinstance(kind, str) and kind in NODES:
        graph.add_fields(id_, attributes)
    else:
        said = f"nothing says what the node '{id_}' does"
        hint = "give it the attribute type with the fields of that type, or a function in resolve="
        if isinstance(kind, str):
            said = f"'{kind}', which node '{id_}' has as its type, is not a type of node"
            hint = suggest(kind, list(NODES)) or f"known: {', '.join(NODES)}"
        raise GraphError(said, node=id_, hint=hint)


def _close(graph: Graph) -> None:
    """Let the one node that nothing leads to be the first, and let nodes that lead nowhere be the last.

    An algorithm's graph has seldom START and END; one that names them is taken at its word.
    """
    if not graph.successors(START):
        first = [id_ for id_ in graph if not graph.predecessors(id_)]
        if len(first) == 1:
            graph.set_entry_point(first[0])
    if not graph.predecessors(END):
        for id_ in graph:
            if not graph.successors(id_) and graph.nodes[id_]["type"] not in ("end", "fail"):
                graph.add_edge(id_, END)
