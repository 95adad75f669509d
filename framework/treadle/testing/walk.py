"""Hold the journal of a workflow's run against its step graph: every step was caused, and by a way that the graph has.

It knows paths, causes and labels, and nothing of how a walk decides: what folds a journal is not asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from treadle.definition.flow import ITEM, ROUND
from treadle.graph.nodes import END, START, Node, StepGraph
from treadle.objects.run_step import Step
from treadle.store.rows import node_of

_PLACE = re.compile(r"(?P<prefix>(?:.*\])?/)?(?P<name>[^/#]+)#(?P<visit>\d+)(?:/(?P<turn>end|\d+))?\Z")
_LANE = re.compile(r"(?P<frame>.*)\[(?P<number>\d+)\]/\Z")


class _Place(NamedTuple):
    """A path, taken apart: the lane it begins with, the visit, and what it says of a frame or of a call of a function."""

    prefix: str
    visit: int
    turn: str | None
    base: str


def walk_wrongs(graph: StepGraph, steps: Sequence[Step], status: str) -> list[str]:
    """Give what no walk of a graph could have written, in words; nothing where the journal is a walk of it.

    Shapes: `steps` is a whole journal, attempts that were made again among them; `status` is the run's.
    """
    walk = _Walk(graph, steps)
    found = [wrong for step in walk.ended for wrong in walk.step(step)]
    found += walk.visits()
    found += walk.ways()
    if status == "completed" and not walk.reaches_end():
        found.append("the run is completed, and no step of it leads to the end")
    return found


class _Walk:
    """A journal, by its paths; one use."""

    def __init__(self, graph: StepGraph, steps: Sequence[Step]) -> None:
        self.graph = graph
        self.steps = sorted(steps, key=lambda s: (s.is_open, s.event_seq or 0, s.n))
        self.rank = {id(step): rank for rank, step in enumerate(self.steps)}
        self.last = {step.path: step for step in self.steps if step.edge != "retry"}
        self.ended = [step for step in self.steps if step.edge != "retry"]

    # -- one step --------------------------------------------------------------------------------------------

    def step(self, step: Step) -> Iterator[str]:
        place, node = _place(step.path), self.graph.node.get(step.node)
        if place is None or node is None or node_of(step.path) != step.node:
            yield f"{step.path} is of '{step.node}', which the graph does not have there"
            return
        if self.last[step.path] is not step:
            yield f"{step.path} has ended twice"
        yield from self._lane(step, place, node)
        if place.turn is not None and node.kind != "frame":
            yield from self._call(step, place)
            return
        if step.kind != node.kind:
            yield f"{step.path} is a {step.kind}, and its node a {node.kind}"
        if place.turn is not None:
            yield from self._turn(step, place)
        else:
            yield from self._caused(step, place)

    def _lane(self, step: Step, place: _Place, node: Node) -> Iterator[str]:
        """Hold the item or the round that a step belongs to against the frame around it."""
        lane = _LANE.match(place.prefix)
        if (lane is None) != (node.within is None):
            yield f"{step.path} is not where its node stands: within {node.within}"
            return
        if lane is None:
            return
        opening, number = self.last.get(lane["frame"]), int(lane["number"])
        if opening is None or opening.node != node.within or opening.edge not in (ITEM, ROUND):
            yield f"{step.path} lies in a frame that was not opened"
        elif opening.edge == ITEM and number >= opening.fan:
            yield f"{step.path} is item {number} of {opening.fan}"
        elif opening.edge == ROUND and number != 1 and f"{lane['frame']}/{number}" not in self.last:
            yield f"{step.path} is of a round that did not begin"

    def _call(self, step: Step, place: _Place) -> Iterator[str]:
        if step.cause != place.base:
            yield f"{step.path} is a call of {place.base}, and its cause is {step.cause}"

    def _turn(self, step: Step, place: _Place) -> Iterator[str]:
        """Hold the step that continues or closes a frame against the one that opened it."""
        opening = self.last.get(place.base)
        if opening is None or opening.status != "completed" or not self._before(opening, step):
            yield f"{step.path} continues a frame that was not opened"
        elif place.turn is not None and place.turn.isdecimal():
            before = f"{place.base}/{int(place.turn) - 1}" if place.turn != "2" else place.base
            if before not in self.last:
                yield f"{step.path} is a round without the one before it"

    def _caused(self, step: Step, place: _Place) -> Iterator[str]:
        if step.cause is None:
            starts = [edge.target for edge in self.graph.out_edges.get(START, ())]
            if step.node not in starts or place.visit != 1:
                yield f"{step.path} has no cause, and the run does not begin there"
            return
        cause = self.last.get(step.cause)
        if cause is None or cause.is_open:
            yield f"the cause of {step.path}, {step.cause}, has not ended"
            return
        if not self._before(cause, step):
            yield f"{step.path} stands before its cause, {step.cause}"
        if step.node not in self._targets(cause):
            yield f"no way leads from {cause.path} by '{cause.edge}' to {step.node}"
        if not self._stands_well(cause, place):
            yield f"{step.path} is caused by {cause.path}, which belongs to another item or round"

    def _stands_well(self, cause: Step, place: _Place) -> bool:
        """Tell whether a step stands in the lane of its cause, or in one that its cause began."""
        before = _place(cause.path)
        if before is None:
            return False
        if cause.edge in (ITEM, ROUND) and self._opens(cause):
            return place.prefix.startswith(f"{before.base}[")
        return place.prefix == before.prefix

    # -- ways ------------------------------------------------------------------------------------------------

    def _targets(self, step: Step) -> list[str]:
        """Give the nodes to which a step led."""
        if step.node not in self.graph.node:
            return []
        if step.status == "cancelled" or (
            step.status == "failed" and not (step.edge or "").startswith("error")
        ):
            return []
        label, edges = step.edge, self.graph.out_edges.get(step.node, ())
        if self._is_parallel(step.node) and label is None:
            if step.path.endswith("/end"):
                node = self.graph.node[step.node]
                join = node.params["join"]
                return [join if node.within is None else f"{node.within}/{join}"]
            return [edge.target for edge in edges if edge.when is None]
        if label is not None and label.startswith("to "):
            return [edge.target for edge in edges if edge.target == label.removeprefix("to ")][:1]
        return [edge.target for edge in edges if edge.when == label][:1]

    def ways(self) -> Iterator[str]:
        """Find steps that led nowhere, and steps that led to several where one follows."""
        steps = [s for s in self.ended if s.node in self.graph.node and not self._is_call(s)]
        caused = Counter(s.cause for s in steps if s.cause is not None)
        for step in steps:
            if step.status == "completed" and not self._targets(step):
                yield f"{step.path} took the way '{step.edge}', which the graph does not have"
            if caused[step.path] > 1 and not self._opens(step):
                yield f"{step.path} led to {caused[step.path]} steps"

    def visits(self) -> Iterator[str]:
        """Find visits that were left out; of branches that nothing waited for some never began."""
        if any(self._is_parallel(node.id) for node in self.graph.nodes):
            return
        seen: dict[tuple[str, str], set[int]] = {}
        for step in self.ended:
            place = _place(step.path)
            if place is not None:
                seen.setdefault((place.prefix, step.node), set()).add(place.visit)
        for (prefix, node), visits in seen.items():
            if visits != set(range(1, max(visits) + 1)):
                yield f"{prefix}{node} was visited {sorted(visits)}"

    def reaches_end(self) -> bool:
        """Tell whether a step leads out of the graph."""
        return any(END in self._targets(step) for step in self.ended)

    # -- what steps are --------------------------------------------------------------------------------------

    def _before(self, one: Step, other: Step) -> bool:
        return self.rank[id(one)] < self.rank[id(other)]

    def _is_parallel(self, node: str) -> bool:
        return self.graph.node[node].params.get("type") == "parallel"

    def _is_call(self, step: Step) -> bool:
        """Tell whether a step is a call that a function made."""
        return step.path.rpartition("/")[2].isdecimal() and self.graph.node[step.node].kind != "frame"

    def _opens(self, step: Step) -> bool:
        """Tell whether a step began lanes: the opening of a frame, or a further round."""
        if step.kind != "frame" or step.status != "completed" or step.path.endswith("/end"):
            return False
        return step.edge in (ITEM, ROUND) or (self._is_parallel(step.node) and step.edge is None)


def _place(path: str) -> _Place | None:
    found = _PLACE.match(path)
    if found is None:
        return None
    prefix, turn = found["prefix"] or "", found["turn"]
    base = path if turn is None else path.removesuffix(f"/{turn}")
    return _Place(prefix, int(found["visit"]), turn, base)
