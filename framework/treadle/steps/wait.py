"""Wait for a length of time, or until a time; no process is held meanwhile."""

from __future__ import annotations

from datetime import datetime

from treadle.objects.record import parse_duration
from treadle.steps.names import evaluate
from treadle.steps.node import NodeContext, NodeEffects, NodeKind, failed

_LATEST_S = 253_402_300_799  # The last second of the year 9999.


def prepare(context: NodeContext) -> NodeEffects:
    """Give when the wait is over; a time that has come is no wait at all."""
    now_ms = context.clock.now_ms()
    begun = context.begun
    if begun is not None and begun.wake_ms is not None:
        until_ms = begun.wake_ms
    elif (length := context.params.get("for")) is not None:
        until_ms = now_ms + int(parse_duration(length) * 1000)
    else:
        value = evaluate(context.params["until"], context.view)
        found = _moment_ms(value)
        if found is None:
            return failed(
                "code_error", f"until gave {value!r}: write Unix seconds, or an ISO 8601 time with its zone"
            )
        until_ms = found
    if until_ms <= now_ms:
        return NodeEffects(result={"at": until_ms // 1000})
    return NodeEffects(status="in_progress", wake_ms=until_ms)


def _moment_ms(value: object) -> int | None:
    """Give a moment in Unix milliseconds; None where the value names none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value * 1000) if 0 <= value <= _LATEST_S else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return int(moment.timestamp() * 1000) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


KIND = NodeKind(prepare)
