"""What happened in a run of a workflow, and what of it depends on what: read from its journal, pure.

Words

A step is *after* another one where that one made it ready, or one of the steps that did; the step that closes a frame, or begins
the next round of a loop, is after every step within. A failure that no route took is *fatal* where the run failed by it: through
all frames around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from treadle.definition.flow import ROUND
from treadle.engine import frames, scheduler
from treadle.engine.activation import Activation, State
from treadle.engine.sight import Sight
from treadle.graph.nodes import Node, StepGraph
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.steps.names import View


class Past(NamedTuple):
    """A step as it was.

    Shapes: `place` counts the rows in the order in which they ended; `within` are the frames around it, by their paths, the inner
    ones first; `turns` is the frame that it closes, or goes on with, empty for any other step. `inputs` names what it read, and
    `said` has the names of the run as it saw them; both are empty for what has not ended.
    """

    step: Step
    place: int
    within: tuple[str, ...]
    turns: str
    inputs: str = ""
    said: Mapping[str, Any] = {}


Reads = Callable[[Node, View], str]
"""Names what a node reads of a view."""
SAID = ("run", "now")
"""The names that are of a run itself, and no input of its steps."""


def history(graph: StepGraph, run: Run, steps: Sequence[Step], reads: Reads | None = None) -> dict[str, Past]:
    """Give what became of each step, by its path, in the order in which they ended; what is open comes last.

    Calls that functions made are parts of their steps, and are left out.

    Errors: GraphError for the journal of another graph.
    """
    found: dict[str, Past] = {}
    state, sight = scheduler.start(graph), Sight(graph)
    for place, step in enumerate(sorted(steps, key=lambda s: (s.is_open, s.event_seq or 0, s.n))):
        activation = _activation(state, step)
        if activation is not None:
            past = Past(step, place, _within(state, activation), activation.frame)
            if reads is not None and step.status in ("completed", "failed") and not activation.frame:
                view = sight.view(run, state, activation.lane, graph.node[step.node])
                said = {name: view.more[name] for name in SAID}
                past = past._replace(inputs=reads(graph.node[step.node], view), said=said)
            found.pop(step.path, None)
            found[step.path] = past
        state = scheduler.fold(graph, state, step)
    return found


def _activation(state: State, step: Step) -> Activation | None:
    opened = (activation for activation, _ in state.open)
    return next((a for a in (*state.ready, *opened) if a.path == step.path), None)


def _within(state: State, activation: Activation) -> tuple[str, ...]:
    return tuple(frame.path for _, frame in frames.lanes_of(state, activation.lane))


def after(past: Mapping[str, Past], first: Iterable[str]) -> set[str]:
    """Give the paths of steps, and of all that are after one of them."""
    chosen = set(first)
    found: set[str] = set()
    touched: set[str] = set()
    for path, was in past.items():
        if path in chosen or was.step.cause in found or (was.turns and was.turns in touched):
            found.add(path)
            touched.update(was.within)
    return found


def unsettled(past: Mapping[str, Past], again: set[str]) -> set[str]:
    """Give the steps that gave nothing that could be kept: open ones, fatal failures, and those that were stopped.

    Shapes: `again` are the steps that are executed again: what was stopped because of one of them may be waited for this time.
    """
    closings = {
        was.turns: path
        for path, was in past.items()
        if was.turns and not (was.step.status == "completed" and was.step.edge == ROUND)
    }
    found: set[str] = set()
    for path, was in past.items():
        if was.step.status == "completed":
            continue
        if was.step.is_open or (was.step.status == "failed" and _is_fatal(past, closings, path)):
            found.add(path)
        elif was.step.status in ("cancelled", "expired"):
            closed_by = [closings.get(frame) for frame in was.within]
            if all(closing is None or closing in again for closing in closed_by):
                found.add(path)
    return found


def _is_fatal(past: Mapping[str, Past], closings: Mapping[str, str], path: str) -> bool:
    """Tell whether the run failed by the failure of a step."""
    was = past[path]
    if was.step.status != "failed" or (was.step.edge or "").startswith(frames.ERROR):
        return False
    if not was.within:
        return True
    closing = closings.get(was.within[0])
    return closing is None or _is_fatal(past, closings, closing)
