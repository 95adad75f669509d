"""What is ready now: a pure function of a step graph and the steps that are committed.

Rules

1. `fold(graph, state, step)` is pure and incremental; folding a journal from its start gives the same state
   as folding it while it was written.
2. The same journal always gives the same answer: ties are broken by declared order.
3. A step has a stable path, `node#visit`, and `node#visit/index` where its node expands; its identity is
   (run, path, attempt).
4. Nothing here reads a clock, a store or a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from treadle.errors import GraphError
from treadle.graph.nodes import END, START, StepGraph
from treadle.objects.run_step import Step


class Activation(NamedTuple):
    """A step that may start: where it stands in the graph, and which step made it ready."""

    path: str
    node: str
    visit: int
    item: int | None = None
    cause: str | None = None
    reply_seq: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands.

    Shapes: `ready` in the order in which steps start; `open` has the steps that were begun and wait or may have
    been interrupted, by path; `left` counts what a join still waits for, by the group's path; `visits` counts
    the entries into each node. Units: tokens, and steps and tool calls as the limits count them.
    """

    ready: tuple[Activation, ...] = ()
    open: tuple[tuple[Activation, Step], ...] = ()
    visits: tuple[tuple[str, int], ...] = ()
    left: tuple[tuple[str, int], ...] = ()
    is_finished: bool = False
    n: int = 0
    steps: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimated: bool = False


def start(graph: StepGraph) -> State:
    """Give the state of a run that has done nothing."""
    return _enter(graph, State(), START, None, None)


def fold(graph: StepGraph, state: State, step: Step) -> State:
    """Give the state after a step.

    Errors: GraphError when the step is not one that could have run: the journal is of another graph.
    """
    activation = _find(state, step)
    n = max(state.n, step.n + 1)
    if step.status == "in_progress":
        others = tuple(o for o in state.open if o[0].path != step.path)
        ready = tuple(a for a in state.ready if a.path != step.path)
        return replace(state, n=n, ready=ready, open=(*others, (activation, step)))
    usage = step.usage
    state = replace(
        state,
        n=n,
        steps=state.steps + 1,
        tool_calls=state.tool_calls + (step.kind == "tool_call"),
        prompt_tokens=state.prompt_tokens + (usage.prompt_tokens if usage else 0),
        completion_tokens=state.completion_tokens + (usage.completion_tokens if usage else 0),
        is_estimated=state.is_estimated or bool(usage and usage.estimated),
    )
    if step.edge == "retry":
        return state
    state = replace(
        state,
        ready=tuple(a for a in state.ready if a.path != step.path),
        open=tuple(o for o in state.open if o[0].path != step.path) if state.open else (),
    )
    if step.status != "completed":
        return state
    if activation.item is None:
        return _leave(graph, state, step)
    group = step.path.rpartition("/")[0]
    left = dict(state.left)
    left[group] -= 1
    if left[group]:
        return replace(state, left=tuple(left.items()))
    del left[group]
    return _leave(graph, replace(state, left=tuple(left.items())), step)


def fold_all(graph: StepGraph, steps: Iterable[Step]) -> State:
    """Give the state after a whole journal."""
    state = start(graph)
    for step in steps:
        state = fold(graph, state, step)
    return state


def _find(state: State, step: Step) -> Activation:
    for activation in state.ready:
        if activation.path == step.path:
            return activation
    for activation, _ in state.open:
        if activation.path == step.path:
            return activation
    raise GraphError(
        f"step '{step.path}' could not have run here: the journal is of another graph", node=step.node
    )


def _leave(graph: StepGraph, state: State, step: Step) -> State:
    """Follow the edges that a completed step takes."""
    return _enter(graph, state, step.node, step, step.edge)


def _enter(graph: StepGraph, state: State, source: str, step: Step | None, label: str | None) -> State:
    taken = [e for e in graph.out_edges.get(source, ()) if e.when is None or e.when == label]
    if not taken:
        raise GraphError(f"no edge leaves '{source}' by '{label}'", node=source)
    for edge in taken:
        if edge.target == END:
            state = replace(state, is_finished=True)
            continue
        visits = dict(state.visits)
        visit = visits[edge.target] = visits.get(edge.target, 0) + 1
        group = f"{edge.target}#{visit}"
        cause = step.path if step else None
        reply = step.message_seq if step else None
        if graph.node[edge.target].expands:
            assert step is not None
            new = tuple(
                Activation(f"{group}/{i}", edge.target, visit, i, cause, reply) for i in range(step.fan)
            )
            left = (*state.left, (group, step.fan))
            state = replace(state, ready=state.ready + new, visits=tuple(visits.items()), left=left)
        else:
            new = (Activation(group, edge.target, visit, None, cause, reply),)
            state = replace(state, ready=state.ready + new, visits=tuple(visits.items()))
    return state
