"""Where the steps of a workflow stand within one another: in branches, items, rounds, and the calls of a function.

Pure: from the rows of a journal and the step graph. The place of a step is the names of what is around it, outermost
first: the path of a frame (`gather#1`), of an item or a round of it (`each#1[0]`), or of a function that made the call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from treadle.graph.nodes import StepGraph
from treadle.objects.run_step import Step

Place = tuple[str, ...]
Part = Literal["step", "opening", "round", "closing", "call"]
"""What a row of the journal is: a step of its own, a part of a frame, or a call that a function made."""

INNER_EDGES = frozenset({"item", "round", "done", "retry", "failed"})
"""The labels of edges that no condition chose."""


@dataclass(frozen=True, slots=True)
class _Kept:
    place: Place
    part: Part
    step: Step


@dataclass
class Places:
    """The places of a run's steps, as far as its journal is known."""

    graph: StepGraph
    _kept: dict[str, _Kept] = field(default_factory=dict[str, _Kept])

    def learn(self, steps: Iterable[Step]) -> None:
        """Take rows of the journal; what was taken before may come again."""
        for step in sorted(steps, key=lambda s: (s.n, s.attempt)):
            known = self._kept.get(step.path)
            part = self.part(step)
            place = known.place if known is not None else self._find(step, part)
            self._kept[step.path] = _Kept(place, part, step)

    def of(self, path: str) -> Place:
        """Give the place of a step; the outermost one for a step that is not known."""
        known = self._kept.get(path)
        if known is None:
            return self._guess(path)
        if known.part == "call":
            # Where its function stands is known for sure when that has a row.
            owner = path.rpartition("/")[0]
            return (*self.of(owner), owner)
        return known.place

    def part(self, step: Step) -> Part:
        """Tell what a row is."""
        tail = self._tail(step.path)
        if step.kind != "frame":
            return "call" if tail else "step"
        if not tail:
            is_opening = step.status == "completed" and step.result is None and step.last_error is None
            return "opening" if is_opening else "step"
        if step.edge == "round" and step.status == "completed":
            return "round"
        return "closing"

    def is_single(self, frame: str) -> bool:
        """Tell whether the body of a frame is one node: its items or rounds are then the node's steps."""
        return self._bodies.get(frame, 0) == 1

    def label(self, step: Step) -> str:
        """Give what a step is called among its neighbours."""
        place = self.of(step.path)
        around = place[-1] if place else ""
        part = self._kept[step.path].part if step.path in self._kept else self.part(step)
        if part == "call":
            return step.tool or step.kind.replace("_", " ")
        if around.endswith("]") and self.is_single(step.node.rpartition("/")[0]):
            return self.lane_label(around)
        return local(step.node)

    def lane_label(self, lane: str) -> str:
        """Give what an item or a round is called."""
        frame, _, number = lane.removesuffix("]").rpartition("[")
        known = self._kept.get(frame)
        name = local(known.step.node) if known is not None else local(frame.partition("#")[0])
        is_loop = known is not None and self._type(known.step.node) == "loop"
        return f"{name} round {number}" if is_loop else f"{name}[{number}]"

    def name_of(self, path: str) -> str:
        """Give what the step of a path is called that has no row yet."""
        around = _lane(path)
        node = self._kept.get(around.rpartition("[")[0])
        if node is not None and self.is_single(node.step.node):
            return self.lane_label(around)
        return path.rpartition("#")[0].rpartition("/")[2]

    def target(self, step: Step) -> str | None:
        """Give the node that a step chose to go on to; None where it had no choice."""
        label = step.edge
        if label is None or label in INNER_EDGES or step.is_open:
            return None
        if label.startswith("to "):
            return local(label.removeprefix("to "))
        ways = self.graph.out_edges.get(step.node, ())
        if len({way.when for way in ways}) < 2:
            return None
        taken = next((way.target for way in ways if way.when == label), None)
        if taken is None:
            return None
        return "end" if taken == "END" or taken == self._within(step.node) else local(taken)

    # -- how places are found ------------------------------------------------------------------------------------

    @cached_property
    def _bodies(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for node in self.graph.nodes:
            if node.within is not None:
                counts[node.within] = counts.get(node.within, 0) + 1
        return counts

    def _within(self, node: str) -> str | None:
        found = self.graph.node.get(node)
        return found.within if found is not None else None

    def _type(self, node: str) -> str:
        found = self.graph.node.get(node)
        return str(found.params.get("type", "")) if found is not None else ""

    @staticmethod
    def _tail(path: str) -> str:
        """Give what follows the visit in a path: the number of a call or a round, or that a frame ends."""
        return path.rpartition("#")[2].partition("/")[2]

    def _find(self, step: Step, part: Part) -> Place:
        path = step.path
        if part in ("round", "closing"):
            return self.of(path.rpartition("/")[0])
        if part == "call":
            return ()
        cause = self._kept.get(step.cause or "")
        lane = _lane(path)
        if cause is None or _lane(cause.step.path) != lane:
            return self._around(path)
        if cause.part == "opening" and self._type(cause.step.node) == "parallel":
            return (*cause.place, cause.step.path)
        return cause.place

    def _guess(self, path: str) -> Place:
        """Give the place of a step without a row, which is under way: below the branches that lead to it."""
        place, lane = self._around(path), _lane(path)
        node = _VISITS.sub("", path)
        for known in self._kept.values():
            frame = known.step
            if known.part != "opening" or self._type(frame.node) != "parallel" or _lane(frame.path) != lane:
                continue
            is_closed = f"{frame.path}/end" in self._kept
            if not is_closed and len(known.place) >= len(place) and self._leads(frame.node, node):
                place = (*known.place, frame.path)
        return place

    def _leads(self, source: str, target: str) -> bool:
        """Tell whether a way of the graph leads from a node to another one."""
        seen, todo = {target}, [target]
        while todo:
            for edge in self.graph.in_edges.get(todo.pop(), ()):
                if edge.source == source:
                    return True
                if edge.source not in seen:
                    seen.add(edge.source)
                    todo.append(edge.source)
        return False

    def _around(self, path: str) -> Place:
        """Give the place of a first step: what its path alone says."""
        lane = _lane(path)
        if not lane:
            return ()
        frame = lane.rpartition("[")[0]
        return (*self.of(frame), frame, lane)


_VISITS = re.compile(r"#\d+(\[\d+\])?")


def _lane(path: str) -> str:
    """Give the item or the round that a path begins with, empty for none."""
    return path[: path.rfind("]/") + 1]


def local(node: str) -> str:
    """Give the name of a node without the frames around it."""
    return node.rpartition("/")[2]
