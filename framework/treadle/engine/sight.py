"""What the nodes of a workflow see: inputs, state, results, the item of a map, the round of a loop."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from treadle.engine import frames
from treadle.engine.activation import State
from treadle.graph.nodes import Node, StepGraph
from treadle.objects.run import Run
from treadle.steps.names import View, evaluate
from treadle.steps.node import FrameView, Lane


class _Results:
    """The last results of nodes, as the body of a node sees them: its own, then those around it."""

    def __init__(self, graph: StepGraph, node: Node, found: Mapping[str, Any]) -> None:
        self._graph, self._node, self._found = graph, node, found

    def _bodies(self) -> list[str]:
        bodies: list[str] = []
        within = self._node.within
        while within is not None:
            bodies.append(f"{within}/")
            within = self._graph.node[within].within
        return [*bodies, ""]

    def find(self, name: str) -> tuple[bool, Any]:
        for body in self._bodies():
            if body + name in self._found:
                return True, self._found[body + name]
        return False, None

    def names(self) -> list[str]:
        bodies = self._bodies()
        names = {
            id_.rpartition("/")[2]: None for id_ in self._found if id_.rpartition("/")[0] + "/" in bodies
        }
        return [*names, *(id_ for id_ in self._found if "/" not in id_)]


class Sight:
    """Gives nodes what they see; the lists that maps go over are worked out once."""

    def __init__(self, graph: StepGraph) -> None:
        """Take the graph that is walked."""
        self._graph = graph
        self._items: dict[str, list[Any]] = {}
        self._now: str | None = None

    def view(self, run: Run, state: State, lane: str, node: Node) -> View:
        """Give what a node sees in a lane."""
        values = frames.values_of(state, lane)
        return View(
            inputs=run.inputs,
            state=values.state,
            results=_Results(self._graph, node, values.results),
            more=self._more(run, state, lane),
        )

    def outermost(self, run: Run, state: State) -> View:
        """Give what the outputs of the workflow see."""
        return self.view(run, state, "", Node("", "assign", {"type": "end"}))

    def _more(self, run: Run, state: State, lane: str) -> dict[str, Any]:
        """Give the names that a lane sees beside inputs, state and results."""
        if self._now is None:
            self._now = datetime.fromtimestamp(run.created_ms // 1000, UTC).isoformat()
        usage = {"prompt_tokens": state.prompt_tokens, "completion_tokens": state.completion_tokens}
        started = (run.started_ms or run.created_ms) // 1000
        more: dict[str, Any] = {
            "run": {"id": run.id, "thread_id": run.thread_id, "started_at": started, "usage": usage},
            "now": self._now,
        }
        for inner, frame in frames.lanes_of(state, lane):
            self._add(more, run, state, frame, inner.number)
        return more

    def _add(self, more: dict[str, Any], run: Run, state: State, frame: frames.Frame, number: int) -> None:
        """Add the names of a frame's lane, where no inner one has them already."""
        if frame.kind == "loop":
            more.setdefault("loop", {"iteration": number})
        elif frame.kind == "map":
            params = self._graph.node[frame.node].params
            more.setdefault(params.get("as", "item"), self._items_of(run, state, frame)[number])
            more.setdefault(params.get("index_as", "index"), number)

    def _items_of(self, run: Run, state: State, frame: frames.Frame) -> list[Any]:
        """Give the list that a map goes over, as it was when the map began."""
        items = self._items.get(frame.path)
        if items is None:
            node = self._graph.node[frame.node]
            results = _Results(self._graph, node, frame.seen.results)
            view = View(run.inputs, frame.seen.state, results, self._more(run, state, frame.lane))
            items = self._items[frame.path] = cast("list[Any]", evaluate(node.params["over"], view))
        return items

    def forget(self, path: str) -> None:
        """Forget the list of a map that has closed, and those of the maps within it."""
        for known in [k for k in self._items if k == path or k.startswith(f"{path}[")]:
            del self._items[known]

    def frame(self, run: Run, state: State, path: str) -> FrameView:
        """Give how a frame stands that is to go on or to close."""
        frame = cast("frames.Frame", state.frames[path])
        ended = [
            Lane(n, e.status, e.last, e.error, partial(self._ended, run, state, frame, (n, e)))
            for n, e in sorted(frame.ended.items())
        ]
        _, joined = frames.closing(self._graph, state, path)
        return FrameView(path, frame.total, frame.total if frame.kind == "loop" else 0, ended, joined)

    def closing(self, run: Run, state: State, lane: str, node: Node, path: str) -> View:
        """Give what a frame sees when it goes on or closes: what its lanes wrote included."""
        values, _ = frames.closing(self._graph, state, path)
        results = _Results(self._graph, node, values.results)
        return View(run.inputs, values.state, results, self._more(run, state, lane))

    def _ended(self, run: Run, state: State, frame: frames.Frame, lane: tuple[int, frames.Ended]) -> View:
        """Give what a lane saw when it ended."""
        number, ended = lane
        values = cast("frames.Values", state.values[ended.values])
        more: dict[str, Any] = {}
        self._add(more, run, state, frame, number)
        inner = Node(f"{frame.node}/", "frame", within=frame.node)
        more = {**self._more(run, state, frame.lane), **more}
        return View(run.inputs, values.state, _Results(self._graph, inner, values.results), more)
