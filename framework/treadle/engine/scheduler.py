"""What is ready now: a pure function of a step graph and the steps that are committed.

Rules

1. `fold(graph, state, step)` is pure and incremental; folding a journal from its start gives the same state
   as folding it while it was written.
2. The same journal always gives the same answer: ties are broken by declared order.
3. A step has a stable path: `node#visit`, `node#visit/index` where its node expands, and before it
   `frame#visit[n]/` where it belongs to an item or a round; its identity is (run, path, attempt).
4. Nothing here reads a clock, a store or a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, cast

from treadle.engine.activation import Activation, State, activation_of
from treadle.errors import GraphError
from treadle.graph.nodes import END, START, StepGraph
from treadle.objects.run_step import Step


@cache
def _frames() -> Any:
    """Load what only workflows need when the first one is walked."""
    from treadle.engine import frames

    return frames


def start(graph: StepGraph) -> State:
    """Give the state of a run that has done nothing."""
    if graph.is_workflow:
        return cast("State", _frames().begin(graph))
    return _enter(graph, State(), START, None)


def fold(graph: StepGraph, state: State, step: Step) -> State:
    """Give the state after a step.

    Errors: GraphError when the step is not one that could have run: the journal is of another graph.
    """
    if graph.is_workflow:
        return cast("State", _frames().fold(graph, state, step))
    activation = activation_of(state, step)
    path, n = step.path, max(state.n, step.n + 1)
    ready, opened, left = state.ready, state.open, state.left
    if step.edge == "retry":
        if opened and any(o[0].path == path for o in opened):
            opened = tuple([o for o in opened if o[0].path != path])
            ready += (activation,)
    else:
        if len(ready) == 1:
            ready = () if ready[0].path == path else ready
        else:
            ready = tuple([a for a in ready if a.path != path])
        if opened:
            opened = tuple([o for o in opened if o[0].path != path])
    if step.status == "in_progress":
        return state._replace(n=n, ready=ready, open=(*opened, (activation, step)))
    is_left = step.status == "completed"
    if is_left and activation.item is not None:
        left, is_left = _join(left, path.rpartition("/")[0])
    usage = step.usage
    state = State(
        ready,
        opened,
        state.visits,
        left,
        state.is_finished,
        n,
        state.steps + 1,
        state.tool_calls + (step.kind == "tool_call"),
        state.model_calls + (step.kind == "model_call"),
        state.prompt_tokens + (usage.prompt_tokens if usage else 0),
        state.completion_tokens + (usage.completion_tokens if usage else 0),
        state.is_estimated or bool(usage and usage.estimated),
    )
    return _enter(graph, state, step.node, step) if is_left else state


def _join(left: tuple[tuple[str, int], ...], group: str) -> tuple[tuple[tuple[str, int], ...], bool]:
    """Count a group's step as done, and tell whether it was the last."""
    counts = dict(left)
    counts[group] -= 1
    if counts[group]:
        return tuple(counts.items()), False
    del counts[group]
    return tuple(counts.items()), True


def fold_all(graph: StepGraph, steps: Iterable[Step]) -> State:
    """Give the state after a whole journal, in the order in which its steps ended; what is open comes last."""
    state = start(graph)
    if graph.is_workflow:
        steps = sorted(steps, key=lambda s: (s.is_open, s.event_seq or 0, s.n))
    for step in steps:
        state = fold(graph, state, step)
    return state


def _enter(graph: StepGraph, state: State, source: str, step: Step | None) -> State:
    """Follow the edges that leave a node by the label that its step took."""
    label = step.edge if step else None
    ready, visits, left, is_finished = state.ready, state.visits, state.left, state.is_finished
    found = False
    for edge in graph.out_edges.get(source, ()):
        if edge.when is not None and edge.when != label:
            continue
        found = True
        if edge.target == END:
            is_finished = True
            continue
        visit = visits.get(edge.target, 0) + 1
        visits = visits.insert(edge.target, visit)
        group = f"{edge.target}#{visit}"
        cause, reply = (step.path, step.message_seq) if step else (None, None)
        if not graph.node[edge.target].expands:
            ready += (Activation(group, edge.target, visit, None, cause, reply),)
            continue
        assert step is not None
        ready += tuple(
            Activation(f"{group}/{i}", edge.target, visit, i, cause, reply) for i in range(step.fan)
        )
        left += ((group, step.fan),)
    if not found:
        raise GraphError(f"no edge leaves '{source}' by '{label}'", node=source)
    return state._replace(ready=ready, visits=visits, left=left, is_finished=is_finished)
