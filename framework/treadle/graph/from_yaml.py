"""Read a workflow document into a graph, with the documents of its file that it names."""

from __future__ import annotations

from pathlib import Path

from treadle.definition.document import Document, Loaded, listed, suggest
from treadle.definition.load import load, load_text, split_target
from treadle.errors import ConfigurationError, NotFound
from treadle.graph.builder import Graph
from treadle.objects.agent import AgentSpec


def read_graph(source: str | Path, name: str | None) -> Graph:
    """Give the graph of a workflow document, as `Graph.from_yaml` says."""
    if isinstance(source, str) and "\n" in source:
        loaded, folder = load_text(source), Path.cwd()
    else:
        path, named = split_target(str(source))
        name = name or named
        loaded, folder = load([Path(path)]), Path(path).resolve().parent
    loaded.raise_if_bad()
    return graph_of(_picked(loaded, name), loaded, folder)


def graph_of(document: Document, loaded: Loaded, folder: Path) -> Graph:
    """Give the graph of a document that was loaded, with those of its file that it names."""
    return _graph(document, loaded, folder, {})


def _picked(loaded: Loaded, name: str | None) -> Document:
    found = [d for d in loaded.workflows if name is None or d.name == name]
    if len(found) == 1:
        return found[0]
    names = [d.name for d in loaded.workflows if d.name]
    if name is not None:
        raise NotFound("workflow", name, hint=suggest(name, names))
    said = f"several workflows are declared: {listed(names)}" if found else "no workflow is declared"
    raise ConfigurationError(said, hint="name one with name=" if found else "write kind: workflow")


def _graph(document: Document, loaded: Loaded, folder: Path, known: dict[int, Graph]) -> Graph:
    """Give the graph of a document; one that several others name is one graph."""
    if document.line in known:
        return known[document.line]
    graph = Graph.from_spec(document.workflow, folder=folder)
    known[document.line] = graph
    uses = loaded.uses(document, "agent") | loaded.uses(document, "workflow")
    references = document.workflow.agents
    for written, used in uses.items():
        reference = references.get(written, written)
        if used.path != document.path or not _is_beside(reference):
            continue
        if isinstance(used.spec, AgentSpec):
            graph.documents[reference] = used.spec
        else:
            graph.documents[reference] = _graph(used, loaded, folder, known)
    return graph


def _is_beside(reference: str) -> bool:
    """Tell whether a reference means a document of its own file: `#NAME`, or a plain name."""
    return reference.startswith("#") or not ("#" in reference or "/" in reference or "." in reference)
