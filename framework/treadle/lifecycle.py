"""Which status may follow which: the tables, and nothing that touches a store.

Rules

1. A status changes only through `advance`; a move that is missing from a table is an error that names both.
2. A terminal status is never left.
3. `cancelling` leads only to `cancelled`.
4. The store's triggers and the diagrams in the docs are generated from these tables, never written by hand.
5. A move to the same status is no move: `advance` refuses it.

A run is *queued* when it is accepted and nobody walks it, *in_progress* when a walker holds it or it waits
for a timer, *requires_action* when it waits for its client, *cancelling* when a cancel was accepted and its
walker has not stopped yet. It ends *completed* with an answer, *incomplete* at a limit, *failed* by an error,
*expired* by its deadline, *cancelled* on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from treadle.errors import StateError

Table = Mapping[str, frozenset[str]]

_ENDS = frozenset({"cancelled", "completed", "incomplete", "failed", "expired"})

RUN: Table = {
    "queued": frozenset({"in_progress", "cancelling", "cancelled", "failed", "expired"}),
    "in_progress": frozenset(
        {"requires_action", "cancelling", "completed", "incomplete", "failed", "expired", "queued"}
    ),
    "requires_action": frozenset({"queued", "in_progress", "cancelling", "cancelled", "failed", "expired"}),
    "cancelling": frozenset({"cancelled"}),
    **{end: frozenset[str]() for end in sorted(_ENDS)},
}
"""The run. `in_progress` to `queued` is a walker that parks and gives its run back."""

STEP: Table = {
    "in_progress": frozenset({"completed", "failed", "cancelled", "expired"}),
    "completed": frozenset[str](),
    "failed": frozenset[str](),
    "cancelled": frozenset[str](),
    "expired": frozenset[str](),
}
"""The run step."""

MESSAGE: Table = {
    "in_progress": frozenset({"completed", "incomplete"}),
    "completed": frozenset[str](),
    "incomplete": frozenset[str](),
}
"""The message."""

TABLES: Mapping[Literal["run", "run step", "message"], Table] = {
    "run": RUN,
    "run step": STEP,
    "message": MESSAGE,
}

START: Mapping[str, str] = {"run": "queued"}
"""The one status in which an object of the table may be made; others may be stored in any of theirs."""

TERMINAL = _ENDS
ACTIVE = frozenset(RUN) - TERMINAL
RESTS = frozenset(f"thread.run.{status}" for status in (*TERMINAL, "requires_action"))
"""The names of the events behind which nothing follows unless somebody outside does something."""


def is_terminal(status: str) -> bool:
    """Tell whether a run in this status has ended."""
    return status in TERMINAL


def advance(table: Table, current: str, to: str, *, what: str = "run") -> str:
    """Give the new status.

    Errors: StateError when the table has no such move; it names both and what would be possible.
    """
    allowed = table.get(current)
    if allowed is None:
        raise StateError(f"'{current}' is not a status of a {what}", status=current, event=to)
    if to not in allowed:
        after = ", ".join(sorted(allowed)) or "nothing: it has ended"
        raise StateError(
            f"a {what} that is {current} cannot become {to}",
            status=current,
            event=to,
            hint=f"possible: {after}",
        )
    return to


def moves(table: Table) -> list[tuple[str, str]]:
    """List every legal move of a table, in order."""
    return [(a, b) for a in table for b in sorted(table[a])]
