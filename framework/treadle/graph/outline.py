"""What a run of a workflow did, as lines one below the other, and as edges: frames opened and closed, items, rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from treadle.graph.drawing import Status
from treadle.graph.nodes import StepGraph
from treadle.graph.places import INNER_EDGES, Place, Places
from treadle.graph.trace import Trace, TraceEdge, TraceLine
from treadle.graph.tree import MARKS
from treadle.objects.run_step import Step


def counted(graph: StepGraph, steps: Sequence[Step]) -> int:
    """Count the steps of a journal; what closes a frame or begins a further round is none."""
    places = Places(graph)
    return sum(places.part(step) not in ("closing", "round") for step in steps)


def flow_edges(graph: StepGraph, steps: Mapping[str, Step]) -> Iterator[TraceEdge]:
    """Give the edges of a workflow's trace, from its steps by id in the order of the journal.

    Invariant: an edge leads to the step that is taken now, from one that was taken before; those to the calls of functions
    come last.
    """
    places = Places(graph)
    places.learn(steps.values())
    latest: dict[str, str] = {}
    calls: list[tuple[str, str]] = []
    last = _LastSteps(places)
    for id_, step in steps.items():
        part = places.part(step)
        if step.path in latest:
            yield TraceEdge(latest[step.path], id_, "retry")
        elif part in ("closing", "round"):
            frame = step.path.rpartition("/")[0]
            for path in last.take(frame) or [frame]:
                if path in latest:
                    yield TraceEdge(latest[path], id_)
        elif part == "call":
            calls.append((step.path.rpartition("/")[0], id_))
        elif step.cause in latest:
            yield TraceEdge(latest[step.cause], id_, _label(steps[latest[step.cause]]))
        latest[step.path] = id_
        if part != "call":
            last.add(step)
    # No edge leaves a call, so that these make no cycle, though the function may have its row after its calls.
    for function, call in calls:
        if function in latest:
            yield TraceEdge(latest[function], call)


def _label(step: Step) -> str | None:
    return None if step.is_open or step.edge in INNER_EDGES else step.edge


class _LastSteps:
    """The steps of each frame that no other step of it followed."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._of: dict[str, dict[str, None]] = {}

    def add(self, step: Step) -> None:
        for name in self._places.of(step.path):
            if name.endswith("]"):
                continue
            found = self._of.setdefault(name, {})
            found.pop(step.cause or "", None)
            found[step.path] = None

    def take(self, frame: str) -> list[str]:
        """Give the last steps of a frame, which a step that follows them all stands for from now on."""
        found = list(self._of.pop(frame, ()))
        for name in self._places.of(frame):
            for path in (frame, *found):
                self._of.get(name, {}).pop(path, None)
        return found


# -- lines -----------------------------------------------------------------------------------------------------


def outline(trace: Trace) -> list[TraceLine]:
    """List what a run of a workflow did, what belongs together below one line."""
    return list(_Outline(trace).lines((), 0))


class _Outline:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._places = Places(trace.graph)
        self._places.learn(trace.steps)
        self._closed: dict[str, Step] = {}
        self._at: dict[Place, list[Step]] = {}
        self._lanes: dict[Place, dict[str, None]] = {}
        self._begun: dict[Place, dict[str, None]] = {}
        """The functions that made calls and have no row yet: they wait, or are called again."""
        self._last: dict[str, Step] = {step.path: step for step in trace.steps}
        for step in trace.steps:
            self._take(step)

    def _take(self, step: Step) -> None:
        part = self._places.part(step)
        if part == "closing":
            self._closed[step.path.rpartition("/")[0]] = step
        elif part != "round":
            place = self._places.of(step.path)
            self._at.setdefault(place, []).append(step)
            for depth, name in enumerate(place):
                if name.endswith("]"):
                    self._lanes.setdefault(place[:depth], {})[name] = None
                elif name not in self._last:
                    self._begun.setdefault(place[:depth], {})[name] = None

    def lines(self, place: Place, indent: int) -> Iterator[TraceLine]:
        """Give what stands at a place: its steps with what is below each, or its items and rounds."""
        for step in self._at.get(place, ()):
            yield from self._step(step, place, indent)
        for name in self._begun.get(place, ()):
            below = list(self.lines((*place, name), indent + 1))
            yield self._around(name, self._places.name_of(name), indent, below)
            yield from below
        for lane in sorted(self._lanes.get(place, ()), key=_number):
            inner = (*place, lane)
            frame = self._last.get(place[-1]) if place else None
            if frame is not None and self._places.is_single(frame.node):
                yield from self.lines(inner, indent)
                continue
            below = list(self.lines(inner, indent + 1))
            yield self._around(lane, self._places.lane_label(lane), indent, below)
            yield from below

    def _step(self, step: Step, place: Place, indent: int) -> Iterator[TraceLine]:
        trace = self._trace
        yield self._line(step, indent)
        inner = (*place, step.path)
        if self._last[step.path] is step and (inner in self._at or inner in self._lanes):
            yield from self.lines(inner, indent + 1)
        child = trace.children.get(step.child or "")
        if child is not None:
            yield from (replace(line, indent=line.indent + indent + 1) for line in child.tree())

    def _line(self, step: Step, indent: int) -> TraceLine:
        """Give the line of a step; that of a frame tells how it ended."""
        label = self._places.label(step)
        if self._places.part(step) != "opening":
            return self._trace.line(step, label=label, indent=indent)
        closed = self._closed.get(step.path)
        if closed is not None:
            end = self._trace.line(closed, label=label, indent=indent)
            ms = None if closed.ended_ms is None else closed.ended_ms - step.started_ms
            return replace(end, path=step.path, duration_ms=ms)
        line = self._trace.line(step, label=label, indent=indent)
        status: Status = "in_progress" if self._is_going else "cancelled"
        return replace(line, status=status, marker=MARKS[status], duration_ms=None)

    @property
    def _is_going(self) -> bool:
        return self._trace.run.ended_ms is None

    def _around(self, name: str, label: str, indent: int, below: Sequence[TraceLine]) -> TraceLine:
        """Give the line of an item, a round or a function without a row, whose status is that of what is below it."""
        found = {line.status for line in below}
        status: Status = below[-1].status if below else "completed"
        if not name.endswith("]") and self._is_going:
            status = "in_progress"
        if "waiting" in found:
            status = "waiting"
        elif "in_progress" in found:
            status = "in_progress"
        return TraceLine(
            indent=indent,
            marker=MARKS[status],
            label=label,
            path=name,
            attempt=1,
            status=status,
            trace=self._trace,
        )


def _number(lane: str) -> int:
    return int(lane.removesuffix("]").rpartition("[")[2])
