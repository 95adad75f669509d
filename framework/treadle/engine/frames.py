"""What is ready in a workflow: branches that join, items of a map, rounds of a loop, and the state that they write.

Words

A *frame* is a parallel node, a map or a loop that is under way. A *lane* is one of its branches, items or rounds; the
run itself is the lane with the empty name. A step that is ready or open belongs to one lane. A branch and an item write
to a copy of the state, and what they wrote is joined in declared order when the frame closes; a round writes to the
state around it.

Rules

1. Everything here is pure: the same journal gives the same state, whenever it is folded.
2. A frame opens with a step of its own and closes with another one, `…/end`; a loop has one before each further round.
3. An error that no route takes ends the lane as failed; what that means for the frame, its node says. A lane that a
   decided frame does not wait for any more begins nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

from rpds import HashTrieMap

from treadle.definition.flow import ITEM, ROUND
from treadle.engine.activation import Activation, State, activation_of
from treadle.errors import GraphError
from treadle.graph.nodes import END, START, StepGraph
from treadle.objects.run import RunError
from treadle.objects.run_step import Step
from treadle.steps.frame import UNJOINED, tolerated, wanted_of

CLOSING = "/end"
"""What the path of the step that closes a frame ends with."""

ERROR = "error"
"""What the label of an error route begins with."""

TO = "to "
"""What the label begins with where a function chose the next node itself."""


class Values(NamedTuple):
    """What a lane knows: the state by key, the results of nodes by id, and what it wrote, in order."""

    state: HashTrieMap[str, Any] = HashTrieMap()
    results: HashTrieMap[str, Any] = HashTrieMap()
    log: tuple[tuple[str, Any], ...] = ()


class Lane(NamedTuple):
    """A branch, an item or a round that is under way, or the run.

    Shapes: `parent` is the lane in which the frame stands, `prefix` what the paths of the steps begin with; `home` is the lane
    that counts the visits, `values` the one whose values it reads and writes.
    """

    id: str = ""
    frame: str = ""
    number: int = 0
    parent: str = ""
    prefix: str = ""
    home: str = ""
    values: str = ""
    visits: HashTrieMap[str, int] = HashTrieMap()
    last: Any = None


class Ended(NamedTuple):
    """How a lane ended; `values` names what it knew then."""

    status: Literal["completed", "failed"]
    last: Any
    error: RunError | None
    values: str


class Frame(NamedTuple):
    """A parallel node, a map or a loop that is under way.

    Shapes: `started` counts the lanes that began, `total` those that there are; for a loop it is the number of the round.
    """

    path: str
    node: str
    kind: Literal["parallel", "map", "loop"]
    lane: str
    total: int
    seen: Values
    started: int = 0
    completed: int = 0
    ended: HashTrieMap[int, Ended] = HashTrieMap()
    is_closing: bool = False


def begin(graph: StepGraph) -> State:
    """Give the state of a run that has done nothing."""
    declared: Mapping[str, Mapping[str, Any]] = graph.params.get("state", {})
    first = HashTrieMap({key: spec.get("default") for key, spec in declared.items()})
    state = State(
        lanes=HashTrieMap({"": Lane()}), values=HashTrieMap({"": Values(first)}), frames=HashTrieMap()
    )
    for edge in graph.out_edges.get(START, ()):
        state = _enter(graph, state, "", edge.target, None)
    return state


def fold(graph: StepGraph, state: State, step: Step) -> State:
    """Give the state after a step.

    Errors: GraphError when the step is not one that could have run.
    """
    if step.kind != "frame" and (of := _recorded_by(step.path)) is not None:
        return _record(state, of, step)
    if step.status == "cancelled":
        # What nothing waits for any more may be out of sight already.
        return _without(state, step, is_over=True)
    activation = activation_of(state, step)
    if step.status == "in_progress":
        state = _without(state, step, is_over=False)
        return state._replace(open=(*state.open, (activation, step)))
    state = _without(state, step, is_over=True)
    if step.edge == "retry":
        return state._replace(ready=(*state.ready, activation._replace(not_before_ms=step.wake_ms or 0)))
    if state.recorded.get(step.path) is not None:
        state = state._replace(recorded=state.recorded.discard(step.path))
    if step.status in ("cancelled", "expired"):
        return state
    is_routed = step.status == "failed" and (step.edge or "").startswith(ERROR)
    if step.kind == "frame":
        return _turn(graph, state, activation, step, is_routed=is_routed)
    if step.status == "failed" and not is_routed:
        return _fail(graph, state, activation.lane, step)
    state = _keep(graph, state, activation, step)
    return _leave(graph, state, activation.lane, activation.node, step)


# -- the journal's step ------------------------------------------------------------------------------------------


def _recorded_by(path: str) -> str | None:
    """Give the path of the function that made a call, None for any other step."""
    head, _, tail = path.rpartition("/")
    return head if head and tail.isdigit() else None


def _record(state: State, of: str, step: Step) -> State:
    calls: HashTrieMap[int, Step] = state.recorded.get(of) or HashTrieMap()
    ordinal, n = int(step.path.rpartition("/")[2]), max(state.n, step.n + 1)
    before = calls.get(ordinal)
    if not _is_there(state, of):
        # The function is not waited for any more: what it has open is only there to be closed.
        rest = calls.insert(ordinal, step) if step.is_open else calls.discard(ordinal)
        is_left = any(call.is_open for call in rest.values())
        recorded = state.recorded.insert(of, rest) if is_left else state.recorded.discard(of)
        return state._replace(recorded=recorded, n=n)
    state = state._replace(recorded=state.recorded.insert(of, calls.insert(ordinal, step)), n=n)
    is_counted = before is not None and not before.is_open and before.attempt == step.attempt
    return state if step.is_open or is_counted else _counted(state, step)


def forsaken(state: State) -> list[Step]:
    """Give the calls that are open, of functions that are not waited for any more."""
    return [
        call
        for of, calls in state.recorded.items()
        if not _is_there(state, of)
        for call in calls.values()
        if call.is_open
    ]


def _is_there(state: State, path: str) -> bool:
    return any(a.path == path for a in state.ready) or any(o[0].path == path for o in state.open)


def _without(state: State, step: Step, *, is_over: bool) -> State:
    """Give the state where a step neither is ready nor open; one that is over counts."""
    ready, opened, path = state.ready, state.open, step.path
    if len(ready) == 1:
        ready = () if ready[0].path == path else ready
    elif ready:
        ready = tuple([a for a in ready if a.path != path])
    if opened:
        opened = tuple([o for o in opened if o[0].path != path])
    n = max(state.n, step.n + 1)
    if not is_over:
        return state._replace(ready=ready, open=opened, n=n)
    usage, used, is_call = step.usage, step.used, step.kind == "tool_call"
    if usage is None and used is None:
        return state._replace(
            ready=ready, open=opened, n=n, steps=state.steps + 1, tool_calls=state.tool_calls + is_call
        )
    state = state._replace(ready=ready, open=opened, n=n)
    return _counted(state, step)


def _counted(state: State, step: Step) -> State:
    usage, used = step.usage, step.used
    return state._replace(
        steps=state.steps + 1 + (used.steps if used else 0),
        tool_calls=state.tool_calls + (step.kind == "tool_call") + (used.tool_calls if used else 0),
        model_calls=state.model_calls + (used.model_calls if used else step.kind == "model_call"),
        prompt_tokens=state.prompt_tokens + (usage.prompt_tokens if usage else 0),
        completion_tokens=state.completion_tokens + (usage.completion_tokens if usage else 0),
        is_estimated=state.is_estimated or bool(usage and usage.estimated),
        cost_usd=state.cost_usd + (used.cost_usd if used else 0.0),
    )


# -- what lanes know ---------------------------------------------------------------------------------------------


def _keep(graph: StepGraph, state: State, activation: Activation, step: Step) -> State:
    """Take what a step gave and wrote into what its lane knows."""
    lane = cast("Lane", state.lanes[activation.lane])
    if lane.frame and step.status == "completed" and cast("Frame", state.frames[lane.frame]).kind == "map":
        state = state._replace(lanes=state.lanes.insert(lane.id, lane._replace(last=step.result)))
    is_read = activation.node in graph.kept
    if not is_read and not step.writes:
        return state
    values = cast("Values", state.values[lane.values])
    results = values.results.insert(activation.node, step.result) if is_read else values.results
    values = Values(values.state, results, values.log)
    writes = tuple((step.writes or {}).items())
    return state._replace(
        values=state.values.insert(lane.values, _written(graph, values, writes, lane.values))
    )


def _written(graph: StepGraph, values: Values, writes: tuple[tuple[str, Any], ...], owner: str) -> Values:
    declared: Mapping[str, Mapping[str, Any]] = graph.params.get("state", {})
    state = values.state
    for key, value in writes:
        how = declared.get(key, {}).get("reduce", "replace")
        state = state.insert(key, value if how == "replace" else reduced(how, state.get(key), value))
    # The run's own lane is joined to nothing.
    log = values.log + writes if owner and writes else values.log
    return Values(state, values.results, log)


def reduced(how: str, old: Any, new: Any) -> Any:
    """Give what a write makes of the value that is there, None where there is none.

    Errors: TypeError for values that a reducer does not take.
    """
    if how == "replace":
        return new
    if how == "append":
        return [*(old or ()), new]
    if how == "union":
        old = old or ()
    if old is None:
        return new
    if how == "merge":
        return {**old, **new}
    if how == "sum":
        return old + new
    if how in ("max", "min"):
        return max(old, new) if how == "max" else min(old, new)
    return [*old, *(v for n, v in enumerate(new) if v not in old and v not in new[:n])]


def _joined(graph: StepGraph, state: State, frame: Frame) -> State:
    """Take what the lanes of a frame wrote into the lane around it, in declared order; what failed wrote nothing."""
    owner = cast("Lane", state.lanes[frame.lane]).values
    values = cast("Values", state.values[owner])
    for number in sorted(frame.ended):
        ended = frame.ended[number]
        if ended.status != "completed":
            continue
        own = cast("Values", state.values[ended.values])
        values = _written(graph, values, own.log, owner)
        if frame.kind == "parallel":
            results = values.results
            for id_, result in own.results.items():
                if frame.seen.results.get(id_, _NOTHING) is not result:
                    results = results.insert(id_, result)
            values = Values(values.state, results, values.log)
    return state._replace(values=state.values.insert(owner, values))


_NOTHING = object()


def closing(graph: StepGraph, state: State, path: str) -> tuple[Values, frozenset[str]]:
    """Give what the lane around a frame knows when that closes, and the keys to which several writes were joined."""
    frame = cast("Frame", state.frames[path])
    owner = cast("Lane", state.lanes[frame.lane]).values
    if frame.kind == "loop":
        return cast("Values", state.values[owner]), frozenset()
    declared: Mapping[str, Mapping[str, Any]] = graph.params.get("state", {})
    written = {
        key
        for ended in frame.ended.values()
        if ended.status == "completed"
        for key, _ in cast("Values", state.values[ended.values]).log
    }
    joins = frozenset(k for k in written if declared.get(k, {}).get("reduce") in ("sum", "merge", "union"))
    return cast("Values", _joined(graph, state, frame).values[owner]), joins


_NONE_ENDED: HashTrieMap[int, Ended] = HashTrieMap()


# -- where it goes on --------------------------------------------------------------------------------------------


def _leave(graph: StepGraph, state: State, lane: str, node: str, step: Step) -> State:
    """Follow the edges that leave a node by the label that its step took."""
    label = step.edge
    for edge in graph.out_edges.get(node, ()):
        if edge.target == label.removeprefix(TO) if label and label.startswith(TO) else edge.when == label:
            return _enter(graph, state, lane, edge.target, step.path)
    raise GraphError(f"no edge leaves '{node}' by '{label}'", node=node)


def _enter(graph: StepGraph, state: State, lane_id: str, target: str, cause: str | None) -> State:
    lane = cast("Lane", state.lanes[lane_id])
    frame = cast("Frame | None", state.frames.get(lane.frame)) if lane.frame else None
    if frame is not None and target == _gate(graph, frame):
        return _end_lane(graph, state, lane, "completed", None)
    if target == END:
        return state._replace(is_finished=True)
    home = cast("Lane", state.lanes[lane.home])
    visit = (home.visits.get(target) or 0) + 1
    path = f"{lane.prefix}{target.rpartition('/')[2]}#{visit}"
    return state._replace(
        lanes=state.lanes.insert(home.id, home._replace(visits=home.visits.insert(target, visit))),
        ready=(*state.ready, Activation(path, target, visit, None, cause, None, lane_id)),
    )


def _gate(graph: StepGraph, frame: Frame) -> str:
    """Give the node at which the lanes of a frame end: the join, or the frame's own node."""
    node = graph.node[frame.node]
    if frame.kind != "parallel":
        return node.id
    join = node.params["join"]
    return join if node.within is None else f"{node.within}/{join}"


def _fail(graph: StepGraph, state: State, lane_id: str, step: Step) -> State:
    lane = cast("Lane", state.lanes[lane_id])
    if not lane.frame:
        return state._replace(failed=step)
    return _end_lane(graph, state, lane, "failed", step.last_error)


# -- frames ------------------------------------------------------------------------------------------------------


def _turn(graph: StepGraph, state: State, activation: Activation, step: Step, *, is_routed: bool) -> State:
    """Open a frame, begin the next round of a loop, or close it."""
    frame = cast("Frame | None", state.frames.get(activation.frame)) if activation.frame else None
    if frame is None and step.status == "completed" and (step.edge is None or step.edge in (ROUND, ITEM)):
        return _open(graph, state, activation, step)
    if frame is not None and step.edge == ROUND and step.status == "completed":
        state = state._replace(frames=state.frames.insert(frame.path, frame._replace(total=step.fan)))
        return _begin_lane(graph, state, frame.path, step.fan, step.path)
    if frame is not None:
        if frame.kind != "loop" and step.note != UNJOINED:
            state = _joined(graph, state, frame)
        state = _closed(state, frame)
    if step.status == "failed" and not is_routed:
        return _fail(graph, state, activation.lane, step)
    state = _keep(graph, state, activation, step)
    if frame is not None and frame.kind == "parallel" and not is_routed:
        return _enter(graph, state, activation.lane, _gate(graph, frame), step.path)
    return _leave(graph, state, activation.lane, activation.node, step)


def _open(graph: StepGraph, state: State, activation: Activation, step: Step) -> State:
    node = graph.node[activation.node]
    kind = cast("Literal['parallel', 'map', 'loop']", node.params["type"])
    around = cast("Lane", state.lanes[activation.lane])
    seen = cast("Values", state.values[around.values])
    frame = Frame(activation.path, node.id, kind, activation.lane, step.fan, seen)
    state = state._replace(frames=state.frames.insert(frame.path, frame))
    if kind == "loop":
        return _begin_lane(graph, state, frame.path, 1, step.path)
    if not step.fan:
        return _close(graph, state, frame, step.path)
    most = step.fan if kind == "parallel" else node.params.get("max_concurrency") or step.fan
    limit = graph.params.get("limits", {}).get("max_concurrency", 8)
    if kind == "map":
        most = min(most, limit)
    for number in range(min(most, step.fan)):
        state = _begin_lane(graph, state, frame.path, number, step.path)
        if cast("Frame", state.frames[frame.path]).is_closing:
            break
    return state


def _begin_lane(graph: StepGraph, state: State, path: str, number: int, cause: str) -> State:
    frame = cast("Frame", state.frames[path])
    around = cast("Lane", state.lanes[frame.lane])
    starts = [
        edge.target
        for edge in graph.out_edges[frame.node]
        if edge.when == {"parallel": None, "map": ITEM, "loop": ROUND}[frame.kind]
    ]
    if frame.kind == "parallel":
        id_, prefix, home, start = f"{path}<{number}>", around.prefix, around.home, starts[number]
    else:
        id_, start = f"{path}[{number}]", starts[0]
        prefix, home = f"{id_}/", id_
    owner = around.values if frame.kind == "loop" else id_
    lane = Lane(id_, path, number, frame.lane, prefix, home, owner)
    state = state._replace(
        lanes=state.lanes.insert(id_, lane),
        frames=state.frames.insert(path, frame._replace(started=frame.started + 1)),
    )
    if owner == id_:
        state = state._replace(values=state.values.insert(id_, frame.seen._replace(log=())))
    return _enter(graph, state, id_, start, cause)


def _end_lane(
    graph: StepGraph, state: State, lane: Lane, status: Literal["completed", "failed"], error: RunError | None
) -> State:
    frame = cast("Frame", state.frames[lane.frame])
    if frame.is_closing:
        return state
    ended = Ended(status, lane.last, error, lane.values)
    # Of a loop only the last round is of interest, and there may be very many.
    before = frame.ended if frame.kind != "loop" else _NONE_ENDED
    frame = frame._replace(
        ended=before.insert(lane.number, ended), completed=frame.completed + (status == "completed")
    )
    state = state._replace(frames=state.frames.insert(frame.path, frame), lanes=state.lanes.discard(lane.id))
    if frame.kind == "loop":
        turn = Activation(
            f"{frame.path}/{lane.number + 1}", frame.node, _visit(frame.path), None, None, None, frame.lane,
            frame.path,
        )  # fmt: skip
        return state._replace(ready=(*state.ready, turn))
    if _is_decided(graph, frame):
        return _close(graph, state, frame, None)
    if frame.kind == "map" and frame.started < frame.total:
        return _begin_lane(graph, state, frame.path, frame.started, frame.path)
    return state


def _is_decided(graph: StepGraph, frame: Frame) -> bool:
    params = graph.node[frame.node].params
    failed = len(frame.ended) - frame.completed
    if len(frame.ended) == frame.total:
        return True
    if frame.kind == "map":
        return failed > tolerated(params, frame.total)
    if failed and params.get("on_branch_error", "fail") == "fail":
        return True
    wanted = wanted_of(params, frame.total)
    # Where all are waited for, and may fail, each of them comes to its end.
    is_lost = params.get("wait_for", "all") != "all" and frame.total - failed < wanted
    return frame.completed >= wanted or is_lost


def _close(graph: StepGraph, state: State, frame: Frame, cause: str | None) -> State:
    """Let a frame close: what its lanes have not begun is not begun any more."""
    del graph
    state = state._replace(frames=state.frames.insert(frame.path, frame._replace(is_closing=True)))
    if state.ready:
        state = state._replace(
            ready=tuple([a for a in state.ready if not is_within(state, a.lane, frame.path)])
        )
    turn = Activation(
        frame.path + CLOSING,
        frame.node,
        _visit(frame.path),
        None,
        cause or frame.path,
        None,
        frame.lane,
        frame.path,
    )
    return state._replace(ready=(*state.ready, turn))


def _closed(state: State, frame: Frame) -> State:
    """Forget a frame and everything within it."""
    gone = [
        lane.id
        for lane in cast("list[Lane]", list(state.lanes.values()))
        if is_within(state, lane.id, frame.path)
    ]
    inner = [
        f.path
        for f in cast("list[Frame]", list(state.frames.values()))
        if is_within(state, f.lane, frame.path)
    ]
    opened = tuple([o for o in state.open if not is_within(state, o[0].lane, frame.path)])
    lanes, frames, values = state.lanes, state.frames.discard(frame.path), state.values
    for number in frame.ended:
        values = values.discard(frame.ended[number].values) if frame.kind != "loop" else values
    for path in inner:
        within = cast("Frame", frames[path])
        frames = frames.discard(path)
        for number in within.ended:
            values = values.discard(within.ended[number].values) if within.kind != "loop" else values
    for id_ in gone:
        lanes, values = lanes.discard(id_), values.discard(id_)
    return state._replace(open=opened, lanes=lanes, frames=frames, values=values)


def is_within(state: State, lane_id: str, frame_path: str) -> bool:
    """Tell whether a lane is one of a frame's, or lies within one."""
    while lane_id:
        lane = cast("Lane | None", state.lanes.get(lane_id))
        if lane is None or lane.frame == frame_path:
            return lane is not None
        lane_id = lane.parent
    return False


def lanes_of(state: State, lane_id: str) -> Iterator[tuple[Lane, Frame]]:
    """Give a lane and those around it, with their frames, the inner ones first."""
    while lane_id:
        lane = cast("Lane", state.lanes[lane_id])
        yield lane, cast("Frame", state.frames[lane.frame])
        lane_id = lane.parent


def values_of(state: State, lane_id: str) -> Values:
    """Give what a lane knows."""
    return cast("Values", state.values[cast("Lane", state.lanes[lane_id]).values])


def _visit(path: str) -> int:
    return int(path.rpartition("#")[2])
