"""Find what a graph names: the agents and graphs that it holds itself, and those of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from treadle.definition.links import is_file
from treadle.definition.load import load, split_target
from treadle.definition.workflow_checks import Reference, references_of
from treadle.errors import NotFound
from treadle.objects.agent import AgentSpec

if TYPE_CHECKING:
    from treadle.definition.document import Document, Loaded
    from treadle.graph.builder import Graph


class Used(NamedTuple):
    """An agent or a graph that another graph names, and what it is called where it has no name itself."""

    name: str
    document: AgentSpec | Graph


def uses(graph: Graph) -> dict[str, Used]:
    """Give what a graph names, by the reference that its nodes write; what only a store has is not among it.

    Errors: GraphError as `Graph.spec` has them; DefinitionError with the problems of a file; NotFound.
    """
    files: dict[Path, Loaded] = {}
    out: dict[str, Used] = {}
    for reference in references_of(graph.spec):
        found = _held(graph.documents, reference) or _of_file(graph, reference, files)
        if found is not None:
            out[reference.node] = found
    return out


def _held(documents: Mapping[str, AgentSpec | Graph], reference: Reference) -> Used | None:
    document = documents.get(reference.text)
    if document is None:
        return None
    return Used(document.name or reference.text.removeprefix("#"), document)


def _of_file(graph: Graph, reference: Reference, files: dict[Path, Loaded]) -> Used | None:
    from treadle.graph.from_yaml import graph_of

    path, name = split_target(reference.text)
    if not path or not (is_file(path) or name):
        return None
    file = (graph.folder / path).resolve()
    if file not in files:
        files[file] = load([file])
        files[file].raise_if_bad()
    loaded = files[file]
    document = _picked(loaded, reference, name)
    stem = file.name.partition(".")[0]
    if isinstance(document.spec, AgentSpec):
        return Used(document.name or stem, document.spec)
    return Used(document.name or stem, graph_of(document, loaded, file.parent))


def _picked(loaded: Loaded, reference: Reference, name: str | None) -> Document:
    documents = loaded.agents if reference.kind == "agent" else loaded.workflows
    for document in documents:
        if name is None or document.name == name:
            return document
    raise NotFound(reference.kind, reference.text)
