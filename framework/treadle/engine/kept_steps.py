"""Take the results of an earlier run's steps instead of executing them, where they saw the same values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from treadle.definition.node_texts import texts
from treadle.engine.history import SAID, Past
from treadle.graph.nodes import Node, StepGraph
from treadle.objects.run import Edit
from treadle.objects.run_step import Step
from treadle.steps.names import View, seen
from treadle.steps.node import NodeContext, NodeEffects, failed
from treadle.steps.pause import TIMEOUT
from treadle.tools.base import BoundTool

KEPT = frozenset(("agent", "workflow", "prompt", "tool", "code", "message", "human", "wait", "set", "switch"))
"""The types of nodes whose results are kept. What opens and closes frames is worked out anew from them."""
EDITED = "edited"
"""What the name of a step ends with whose result somebody changed."""
_TO = "to "
_CONTINUED = "continued after "
_LEAVING = ("next", "save", "on_error")
_NO_INPUT = frozenset(SAID)


def name_of(run_id: str, path: str, *, edited: bool = False) -> str:
    """Give how a step of a run is named by the one that keeps its result."""
    return f"{run_id} {path} {EDITED}" if edited else f"{run_id} {path}"


def source_of(name: str) -> tuple[str, str, bool]:
    """Give the run and the path that a name of a kept step says, and whether its result was edited."""
    run_id, path, *rest = name.split(" ")
    return run_id, path, rest == [EDITED]


def reads(node: Node, view: View, tool: BoundTool | None = None) -> str:
    """Name what a node is told and what its texts read, those left out that only say where it goes on.

    Shapes: a function that takes the state reads all of it. Of a run itself (`run`, `now`) nothing counts.
    """
    told = {**node.to_json(), "params": {k: v for k, v in node.params.items() if k not in _LEAVING}}
    found: list[Any] = [told]
    for field, path, source in texts(node.params, node.params["type"]):
        if path[0] not in _LEAVING and not field.is_inside:
            kind = "expression" if field.kind == "expression" else "template"
            found.append([[str(key) for key in path], seen(source, kind, view, besides=_NO_INPUT)])
    if tool is not None and "state" in tool.passed:
        found.append(dict(view.state))
    text = json.dumps(found, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class KeptSteps:
    """What one run keeps of an earlier one; made anew whenever the run is taken up."""

    def __init__(
        self,
        graph: StepGraph,
        past: Mapping[str, Past],
        *,
        run_id: str,
        again: Collection[str],
        edits: Mapping[str, Edit],
        tools: Mapping[str, BoundTool],
    ) -> None:
        """Take the earlier run's graph and history; `again` are the steps that are executed, `edits` results by path."""
        self._past = past
        self._edits = edits
        self._tools = tools
        self._run_id = run_id
        self._again = frozenset(again) - frozenset(edits)
        self._kept = {
            path
            for path, was in past.items()
            if path not in again
            and not was.turns
            and graph.node[was.step.node].params["type"] in KEPT
            and was.step.status in ("completed", "failed")
        }
        works = {n.id for n in graph.nodes if n.params["type"] in KEPT}
        self._places = {
            path: was.place
            for path, was in past.items()
            if path in self._kept or (was.step.node not in works and path not in again)
        } | {path: len(past) for path in edits}

    def place(self, path: str) -> int | None:
        """Give the place of a step in the order in which the steps of the earlier run ended; None where it is executed here."""
        return self._places.get(path)

    def insists(self, context: NodeContext) -> bool:
        """Tell whether a step is to be executed although a result of an earlier visit may be at hand."""
        return context.path in self._again

    def take(self, context: NodeContext) -> tuple[NodeContext, NodeEffects] | None:
        """Give what a step gave then, with the run and the time that it saw; None where it saw other values."""
        edit = self._edits.get(context.path)
        if edit is not None:
            kept = name_of(self._run_id, context.path, edited=True)
            return context, NodeEffects(result=edit.value, kept=kept)
        if context.path not in self._kept:
            return None
        was = self._past[context.path]
        if reads(context.node, context.view, self._tools.get(context.node.id)) != was.inputs:
            self._kept.discard(context.path)
            self._places.pop(context.path, None)
            return None
        kept = was.step.kept or name_of(self._run_id, context.path)
        told = context._replace(view=context.view.plus(**was.said))
        return told, _effects(context.node, was.step, kept)


def _effects(node: Node, step: Step, kept: str) -> NodeEffects:
    """Give what a step gave, without what follows from it."""
    error = step.last_error
    if step.status == "failed" or (error is not None and (step.note or "").startswith(_CONTINUED)):
        code, message = (error.code, error.message) if error is not None else ("code_error", "it failed")
        return failed(code, message, kept=kept)
    saved = node.params.get("save", {})
    writes = {key: value for key, value in (step.writes or {}).items() if key not in saved}
    edge, to = step.edge, None
    if edge is not None and edge.startswith(_TO):
        target = edge.removeprefix(_TO)
        to = "end" if target in ("END", node.within) else target.rpartition("/")[2]
    chooses = node.params["type"] == "switch" or edge == TIMEOUT
    return NodeEffects(
        result=step.result,
        writes=writes or None,
        edge=edge if chooses else None,
        to=to,
        error=error,
        note=step.note,
        kept=kept,
    )
