"""What all nodes have in common: what they write to the state, where they go on, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

from treadle.definition.flow import DONE, ELSE, condition_label, error_label
from treadle.errors import DefinitionError
from treadle.objects.run import RunError
from treadle.objects.tool import Retry
from treadle.objects.workflow import ErrorRoute
from treadle.steps.frame import UNJOINED
from treadle.steps.names import View, evaluate, fill, why
from treadle.steps.node import NodeContext, NodeEffects
from treadle.tools.gate import delay_s, is_repeated

Reduce = Callable[[str, Any, Any], Any]
"""Join a write to what is there: how, the old value, the new one."""


class Left(NamedTuple):
    """How a step ended: its status, its result, what it writes, and the label of the way that it takes.

    Shapes: `again_s` says that another attempt is made after so many seconds. `error` is set for a failure that a route took, too.
    """

    status: str
    result: Any = None
    writes: Mapping[str, Any] | None = None
    edge: str | None = None
    error: RunError | None = None
    note: str | None = None
    again_s: float | None = None


def leave(context: NodeContext, effects: NodeEffects, *, reduce: Reduce) -> Left:
    """Give how a step ends that did its work, or failed to."""
    if effects.status == "failed":
        return _failed(context, effects, reduce)
    if effects.opens:
        return Left("completed", edge=effects.edge)
    try:
        writes, edge = _onward(context, effects, reduce)
    except DefinitionError as e:
        return _error(context, effects, RunError(code="code_error", message=why(e)), reduce)
    except _Unjoined as e:
        error = RunError(code="state_type", message=str(e))
        return _error(context, effects._replace(note=UNJOINED), error, reduce)
    except _Unfit as e:
        return _error(context, effects, RunError(code="state_type", message=str(e)), reduce)
    return Left("completed", effects.result, writes, edge, effects.error, effects.note)


class _Unfit(Exception):
    pass


class _Unjoined(_Unfit):
    pass


def _onward(
    context: NodeContext, effects: NodeEffects, reduce: Reduce
) -> tuple[Mapping[str, Any] | None, str | None]:
    """Give what is written, and the label of the way out.

    Errors: DefinitionError for a text that fails; _Unfit for a value that does not fit the state.
    """
    params = context.params
    if context.frame is not None and effects.note != UNJOINED:
        _check_joined(context, context.frame.joined)
    save: Mapping[str, str] = params.get("save", {})
    following = params.get("next")
    needs_view = save or isinstance(following, list)
    view = context.view.plus(result=effects.result) if needs_view else context.view
    writes: dict[str, Any] | None = dict(effects.writes) if effects.writes else None
    if save:
        writes = {**(writes or {}), **{key: evaluate(source, view) for key, source in save.items()}}
    if writes:
        after = {key: _written(context, key, value, reduce) for key, value in writes.items()}
        view = view._replace(state=_Over(after, view.state))
    if effects.to is not None:
        return writes, f"to {_target(context, effects.to)}"
    if effects.edge is not None:
        return writes, effects.edge
    return writes, _chosen(following, view, plain=DONE if params["type"] in ("map", "loop") else None)


def _check_joined(context: NodeContext, keys: frozenset[str]) -> None:
    """Hold what branches or items wrote together against the state.

    Errors: _Unjoined.
    """
    for key in sorted(keys):
        value = context.view.state.get(key)
        check = context.plan.checks.get(key)
        if check is not None and (problems := check(value)):
            msg = f"{_told(value)}, written side by side, does not fit state.{key}: {'; '.join(problems)}"
            raise _Unjoined(msg)


def _written(context: NodeContext, key: str, value: Any, reduce: Reduce) -> Any:
    """Give what a key has after a write.

    Errors: _Unfit.
    """
    declared = context.plan.state.get(key)
    if declared is None:
        known = ", ".join(context.plan.state) or "none"
        msg = f"the state has no key '{key}'; its keys are: {known}"
        raise _Unfit(msg)
    how = declared.reduce
    try:
        after = reduce(how, context.view.state.get(key), value)
    except TypeError:
        msg = f"'{how}' of state.{key} does not take {_told(value)}"
        raise _Unfit(msg) from None
    check = context.plan.checks.get(key)
    problems = check([value] if how == "append" else after) if check is not None else []
    if problems:
        msg = f"{_told(value)} does not fit state.{key}: {'; '.join(problems)}"
        raise _Unfit(msg)
    return after


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


class _Over(Mapping[str, Any]):
    """A state with some keys written over it."""

    def __init__(self, over: Mapping[str, Any], below: Mapping[str, Any]) -> None:
        self._over, self._below = over, below

    def __getitem__(self, key: str) -> Any:
        return self._over[key] if key in self._over else self._below[key]

    def __iter__(self) -> Any:
        return iter({**dict(self._below), **self._over})

    def __len__(self) -> int:
        return len({**dict(self._below), **self._over})


def _target(context: NodeContext, name: str) -> str:
    within = context.node.within
    if name in ("end", "END"):
        return within or "END"
    return f"{within}/{name}" if within is not None else name


def _chosen(following: Any, view: View, *, plain: str | None) -> str | None:
    if not isinstance(following, list):
        return plain
    routes = cast("list[dict[str, Any]]", following)
    for route in routes:
        if "when" not in route:
            return ELSE
        if evaluate(route["when"], view):
            return condition_label(route["when"])
    return ELSE


# -- errors ------------------------------------------------------------------------------------------------------


def _failed(context: NodeContext, effects: NodeEffects, reduce: Reduce) -> Left:
    error = effects.error or RunError(code="code_error", message="the node failed")
    if effects.edge is not None:
        # A fail node says that this is how it ends.
        return Left("failed", edge=effects.edge, error=error)
    told = context.params.get("retry")
    if told is not None and effects.kept is None:
        retry = _retry(_frozen(told))
        if (
            context.attempt < retry.max_attempts
            and is_repeated(retry, error.code)
            and not context.has_spoken()
        ):
            wait_s = delay_s(retry, context.attempt, of=f"{context.run.id} {context.path}")
            return Left(
                "failed", edge="retry", error=error, again_s=max(wait_s, effects.retry_after_s or 0.0)
            )
    return _error(context, effects, error, reduce)


def _error(context: NodeContext, effects: NodeEffects, error: RunError, reduce: Reduce) -> Left:
    """Give where an error leads: to a node, to a value in place of the result, or nowhere."""
    for told in context.params.get("on_error", ()):
        on = tuple(told.get("on", ()))
        if (
            on
            and error.code not in on
            and not (error.code.startswith("http_") and f"{error.code[:6]}xx" in on)
        ):
            continue
        if (to := told.get("to")) is not None:
            return Left("failed", edge=error_label(ErrorRoute(on=on, to=to)), error=error, note=effects.note)
        return _continued(context, effects, error, told.get("continue_with"), reduce)
    return Left("failed", error=error, note=effects.note)


def _continued(
    context: NodeContext, effects: NodeEffects, error: RunError, value: Any, reduce: Reduce
) -> Left:
    said = {"code": error.code, "message": error.message, "node": context.node.id.rpartition("/")[2]}
    try:
        result = fill(value, context.view.plus(error=said))
        going = effects._replace(result=result, writes=None, edge=None, to=None)
        writes, edge = _onward(context, going, reduce)
    except DefinitionError as e:
        return Left("failed", error=RunError(code="code_error", message=why(e)))
    except _Unfit as e:
        return Left("failed", error=RunError(code="state_type", message=str(e)))
    note = UNJOINED if effects.note == UNJOINED else f"continued after {error.code}"
    return Left("completed", result, writes, edge, error, note)


def _frozen(told: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (key, tuple(cast("list[Any]", value)) if isinstance(value, list) else value)
        for key, value in told.items()
    )


@lru_cache(maxsize=1024)
def _retry(told: tuple[tuple[str, Any], ...]) -> Retry:
    return Retry.model_validate(dict(told))
