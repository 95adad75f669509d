"""How long a run may take."""

from __future__ import annotations

from treadle.errors import StateError
from treadle.objects.record import parse_duration


def lifetime_s(ttl: str | None) -> float:
    """Give how long a run may take, 0 for ever.

    Errors: StateError.
    """
    if ttl is None or ttl == "0":
        return 0.0
    try:
        return parse_duration(ttl)
    except ValueError as e:
        raise StateError(f"the run's ttl does not fit: {e}", hint="write 10m, 2h, or 0 for never") from e
