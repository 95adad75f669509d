"""What a change of a workflow changes: the difference of two graphs, and the runs that stand where the new one has no place.

A run goes on with the graph that it began with, whatever becomes of its workflow. A stranded run is one that could not go on
with the new graph from where it stands: it is the last of its kind, and its answers and its code are still needed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.engine.frames import Frame
from treadle.engine.scheduler import fold_all
from treadle.errors import NotFound
from treadle.graph.compile import compile_workflow
from treadle.graph.nodes import Node, StepGraph
from treadle.lifecycle import is_terminal
from treadle.objects.run import Run
from treadle.objects.workflow import Workflow, WorkflowSpec

if TYPE_CHECKING:
    from treadle.graph.diff import GraphDiff
    from treadle.service import Treadle

Stranded = tuple[Run, list[str]]
"""A run, and why it could not go on: one reason for each node at which it stands."""

BINDING: dict[str, tuple[str, ...]] = {
    "human": ("kind", "choices", "form"),
    "agent": ("agent", "thread"),
    "workflow": ("workflow", "thread"),
    "tool": ("tool",),
    "code": ("call",),
    "map": ("over", "workflow", "as"),
}
"""By the type of a node, the fields that what is under way there was begun with."""
_PAGE = 500
_VERSIONED = re.compile(r"(?P<name>[^@]+)@(?P<version>[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison.

    Shapes: `stored` is the workflow of the store that it is, or that its document would become; `version` is set where a
    person named one; `is_document` says that it was read from a file, which pins no versions.
    """

    label: str
    spec: WorkflowSpec
    stored: Workflow | None
    version: int | None = None
    is_document: bool = False


async def side(treadle: Treadle, target: str) -> Side:
    """Give the workflow that a person names: a file, FILE#NAME, a stored name or id, either with @VERSION, or a name in the project.

    Errors: NotFound; DefinitionError and ConfigurationError for a document.
    """
    if _is_file(target):
        return await _document(treadle, target)
    found = _VERSIONED.fullmatch(target)
    try:
        if found is not None:
            version = int(found["version"])
            workflow = await treadle.workflows.get(found["name"], version=version)
            return Side(target, workflow.spec, workflow, version=version)
        workflow = await treadle.workflows.get(target)
    except NotFound as e:
        if found is not None or target.startswith("wf_"):
            raise
        try:
            return await _document(treadle, target)
        except NotFound:
            raise e from None
    return Side(target, workflow.spec, workflow)


def _is_file(target: str) -> bool:
    path = Path(target.partition("#")[0])
    return path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file()


async def _document(treadle: Treadle, target: str) -> Side:
    spec = treadle.workflows.read(target)
    name = spec.name or Path(target.partition("#")[0]).name.split(".")[0]
    stored = await treadle.store.workflow_named(treadle.tenant, name)
    return Side(target, spec, stored, is_document=True)


def _graphs(before: Side, after: Side) -> tuple[StepGraph, StepGraph]:
    """Give both graphs: with the versions that their references are pinned to, where both have pins."""
    if before.is_document or after.is_document:
        return compile_workflow(before.spec), compile_workflow(after.spec)
    return _pinned(before), _pinned(after)


def _pinned(one: Side) -> StepGraph:
    return compile_workflow(one.spec, one.stored.pins if one.stored is not None else {})


async def diff(treadle: Treadle, before: str, after: str) -> GraphDiff:
    """Compare two workflows, each named as `side` takes it.

    Shapes: the versions of what they refer to are compared where both are of the store.

    Errors: those of `side`.
    """
    from treadle.graph.diff import diff as compare

    return compare(*_graphs(await side(treadle, before), await side(treadle, after)))


async def stranded(treadle: Treadle, before: str, after: str) -> list[Stranded]:
    """Give the runs of a workflow that have not ended and stand where another one has no place for them, the newest first.

    Shapes: of a workflow named with @VERSION the runs of that version, else of all versions; a document stands for
    the stored workflow of its name.

    Errors: those of `side`.
    """
    old, new = await side(treadle, before), await side(treadle, after)
    graph = compile_workflow(new.spec)
    if old.stored is None:
        return []
    found: list[Stranded] = []
    async for run in _unended(treadle, old.stored.id, old.version):
        reasons = await _reasons(treadle, run, graph)
        if reasons:
            found.append((await treadle.runs.get(run.id), reasons))
    return found


async def _unended(treadle: Treadle, workflow_id: str, version: int | None) -> AsyncGenerator[Run]:
    after: str | None = None
    while True:
        page = await treadle.store.list(Run, treadle.tenant, after=after, limit=_PAGE)
        for run in page:
            if (
                run.agent_id == workflow_id
                and version in (None, run.agent_version)
                and not is_terminal(run.status)
            ):
                yield run
        if len(page) < _PAGE:
            return
        after = page[-1].id


async def _reasons(treadle: Treadle, run: Run, after: StepGraph) -> list[str]:
    """Say why a run could not go on with a graph, by the nodes at which it stands; nothing where it could."""
    from treadle.graph.diff import diff as compare

    pinned = StepGraph.load(await treadle.store.graph(run.tenant, run.graph))
    renamed = dict(compare(pinned, after).renamed)
    found: list[str] = []
    for id_ in await _standing(treadle, run, pinned):
        node, now = pinned.node[id_], after.node.get(id_)
        if now is not None:
            reason = _conflict(node, now)
        elif id_ in renamed:
            reason = f"{id_} is called {renamed[id_]} now"
        else:
            reason = f"{id_} is gone"
        if reason is not None:
            found.append(reason)
    return found


async def _standing(treadle: Treadle, run: Run, graph: StepGraph) -> list[str]:
    """Give the ids of the nodes at which a run stands, with the frames around them, in declared order."""
    state = fold_all(graph, await treadle.store.steps(run.tenant, run.id))
    nodes = {a.node for a in state.ready} | {a.node for a, _ in state.open}
    frames: Mapping[str, Frame] = state.frames
    nodes |= {frame.node for frame in frames.values()}
    for id_ in tuple(nodes):
        while (around := graph.node[id_].within if id_ in graph.node else None) is not None:
            nodes.add(around)
            id_ = around  # noqa: PLW2901 - up through the frames
    return [node.id for node in graph.nodes if node.id in nodes]


def _conflict(before: Node, after: Node) -> str | None:
    """Say what of a node is not what a run that stands at it began with; None where it could go on."""
    was, now = before.params.get("type", before.kind), after.params.get("type", after.kind)
    if was != now:
        return f"{before.id} was of the type {was} and is of the type {now}"
    if before.within != after.within:
        return f"{before.id} stood {_around(before)} and stands {_around(after)}"
    changed = [name for name in BINDING.get(was, ()) if before.params.get(name) != after.params.get(name)]
    if changed:
        return f"{before.id} has another {', another '.join(changed)}"
    return None


def _around(node: Node) -> str:
    return f"in {node.within}" if node.within is not None else "in no body"


def described(changes: GraphDiff, strands: list[Stranded]) -> dict[str, Any]:
    """Give a comparison as JSON: the lines of the difference, and the runs with their reasons."""
    return {
        "object": "workflow.diff",
        "differs": bool(changes),
        "lines": changes.lines(),
        "stranded": [
            {"run_id": run.id, "status": run.status, "version": run.agent_version, "reasons": reasons}
            for run, reasons in strands
        ],
    }
