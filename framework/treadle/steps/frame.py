"""Open, continue and close frames: parallel nodes, maps and loops. They are instant; their lanes do the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from treadle.definition.flow import ITEM, ROUND
from treadle.objects.run import RunError
from treadle.steps.names import evaluate
from treadle.steps.node import Lane, NodeContext, NodeEffects, NodeKind, failed

UNJOINED = "what was written side by side does not fit together"
"""The note of a frame whose lanes wrote what the state does not take: nothing of it is written."""


def parallel(context: NodeContext) -> NodeEffects:
    """Begin all branches; then give the status of each, by the id of its first node."""
    branches: Sequence[str] = context.params["branches"]
    if context.frame is None:
        return NodeEffects(opens=True, fan=len(branches))
    ended = {lane.number: lane for lane in context.frame.ended}
    result = {
        branch: ended[number].status if number in ended else "cancelled"
        for number, branch in enumerate(branches)
    }
    bad = [lane for lane in context.frame.ended if lane.status == "failed"]
    least = wanted_of(context.params, len(branches))
    met = len(context.frame.ended) - len(bad)
    if bad and context.params.get("on_branch_error", "fail") == "fail" and met < least:
        first = bad[0]
        return _failure(first.error, f"branch {branches[first.number]}", result)
    if context.params.get("wait_for", "all") != "all" and met < least:
        return _failure(bad[0].error if bad else None, f"{met} of {least} branches came to the join", result)
    return NodeEffects(result=result)


def map_items(context: NodeContext) -> NodeEffects:
    """Begin the items of a list; then give what they gave, in the order of the list."""
    frame = context.frame
    if frame is None:
        given: object = evaluate(context.params["over"], context.view)
        if not isinstance(given, list):
            return failed("code_error", f"over gave {type(given).__name__}, and a map goes over a list")
        items = cast("list[Any]", given)
        most = context.params.get("max_items", 1000)
        if len(items) > most:
            return failed("budget", f"over gave {len(items)} items, and max_items is {most}")
        return NodeEffects(opens=True, edge=ITEM, fan=len(items))
    policy = context.params.get("on_item_error", "fail")
    bad = [lane for lane in frame.ended if lane.status == "failed"]
    if len(bad) > tolerated(context.params, frame.total):
        return _failure(bad[0].error, f"item {bad[0].number}")
    collected = [_collected(context, lane) for lane in frame.ended if policy == "collect" or lane not in bad]
    errors = [
        {"index": lane.number, "code": lane.error.code, "message": lane.error.message}
        for lane in bad
        if lane.error is not None
    ]
    merged: dict[str, Any] = {}
    for value in collected:
        if isinstance(value, dict):
            merged |= cast("dict[str, Any]", value)
    return NodeEffects(result={"collected": collected, "errors": errors, "merged": merged})


def _collected(context: NodeContext, lane: Lane) -> Any:
    if lane.status != "completed":
        return None
    source = context.params.get("collect")
    return lane.result if source is None else evaluate(source, lane.view().plus(result=lane.result))


def wanted_of(params: Mapping[str, Any], total: int) -> int:
    """Give how many branches a join waits for."""
    wanted = params.get("wait_for", "all")
    return total if wanted == "all" else 1 if wanted == "any" else min(int(wanted), total)


def tolerated(params: Mapping[str, Any], total: int) -> int:
    """Give how many items of a map may fail."""
    if params.get("on_item_error", "fail") == "fail":
        return 0
    most = params.get("tolerate")
    if most is None:
        return total
    return total * int(most.rstrip("%")) // 100 if isinstance(most, str) else int(most)


def loop(context: NodeContext) -> NodeEffects:
    """Begin a round, or give how many there were."""
    frame = context.frame
    params = context.params
    if frame is None:
        while_ = params.get("while")
        if while_ is not None and not evaluate(while_, context.view.plus(loop={"iteration": 0})):
            return NodeEffects(result={"iterations": 0, "exhausted": False})
        return NodeEffects(opens=True, edge=ROUND, fan=1)
    ended = frame.ended[-1]
    if ended.status == "failed":
        return _failure(ended.error, f"round {frame.round}")
    if _is_over(params, ended):
        return NodeEffects(result={"iterations": frame.round, "exhausted": False})
    most = params["max_iterations"]
    if frame.round < most:
        return NodeEffects(opens=True, edge=ROUND, fan=frame.round + 1)
    if params.get("on_exhausted", "fail") == "fail":
        return failed("budget", f"the loop was not done after {most} rounds")
    return NodeEffects(result={"iterations": frame.round, "exhausted": True})


def _is_over(params: Mapping[str, Any], ended: Lane) -> bool:
    if (until := params.get("until")) is not None:
        return bool(evaluate(until, ended.view()))
    return not evaluate(params["while"], ended.view())


def _failure(error: RunError | None, where: str, result: Any = None) -> NodeEffects:
    code, message = (error.code, error.message) if error is not None else ("code_error", "it failed")
    return failed(code, f"{where}: {message}", result=result)


PARALLEL = NodeKind(parallel)
MAP = NodeKind(map_items)
LOOP = NodeKind(loop)
