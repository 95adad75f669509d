"""Which results of a workflow's nodes are read again: the others need not be kept in memory."""

from __future__ import annotations

from treadle.definition.node_texts import texts
from treadle.definition.reads import Kind, reads
from treadle.graph.nodes import StepGraph

_ROOT = frozenset({"result_of"})


def kept(graph: StepGraph) -> frozenset[str]:
    """Give the ids of the nodes that some text names behind `result_of`; all of them where one does not say which."""
    sources: list[tuple[str, Kind]] = [
        (text, "expression") for text in graph.params.get("outputs", {}).values()
    ]
    for node in graph.nodes:
        for field, _, text in texts(node.params, node.params["type"]):
            sources.append((text, "expression" if field.kind == "expression" else "template"))
    names: set[str] = set()
    for text, kind in sources:
        if "result_of" not in text:
            continue
        for read in reads(text, kind=kind, roots=_ROOT):
            if not read.keys:
                return frozenset(graph.node)
            names.add(read.keys[0])
    return frozenset(node.id for node in graph.nodes if node.id.rpartition("/")[2] in names)
