"""What a function of effect `transactional` is given: a list of writes that are made when its step is committed.

The function reads nothing through it and sees no result: the statements run later, all of them in the one
transaction that keeps the step, or none where that transaction is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from treadle.errors import ToolError
from treadle.store.base import Statement, Value

MOST_STATEMENTS = 10_000
_INTEGERS = range(-(1 << 63), 1 << 63)


class Transaction:
    """Collects the writes of one call; it is closed when the function has returned."""

    def __init__(self) -> None:
        """Begin with no statement."""
        self._statements: list[Statement] = []
        self._is_open = True

    def execute(self, sql: str, args: Sequence[object] = ()) -> None:
        """Add one statement that writes, with the values of its question marks.

        Shapes: values are None, bool, int, float, str and bytes. The tables are those of the store's own file,
        except treadle's; INSERT, UPDATE, DELETE, CREATE TABLE and CREATE INDEX are possible.

        Errors: ToolError for a value that no column can hold, and once the call is over.
        """
        if not self._is_open:
            raise ToolError("the call is over: tx.execute adds to it no more")
        if not isinstance(cast("object", sql), str):
            raise ToolError(f"tx.execute takes a text, not a {type(sql).__name__}")
        if isinstance(args, (str, bytes, bytearray)) or not isinstance(cast("object", args), Sequence):
            raise ToolError(f"tx.execute takes the values as a tuple or a list, not as {type(args).__name__}")
        if len(self._statements) >= MOST_STATEMENTS:
            raise ToolError(f"tx.execute takes at most {MOST_STATEMENTS} statements in one call")
        self._statements.append(Statement(sql, tuple(_value(n, value) for n, value in enumerate(args, 1))))

    def close(self) -> tuple[Statement, ...]:
        """Take no more statements, and give those that were added."""
        self._is_open = False
        return tuple(self._statements)


def _value(place: int, value: object) -> Value:
    """Give a value as it is bound; a copy of one that could change."""
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        if value in _INTEGERS:
            return int(value)
        raise ToolError(f"value {place} of tx.execute has more than 64 bits")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as e:
            raise ToolError(f"value {place} of tx.execute is not well-formed text") from e
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise ToolError(
        f"value {place} of tx.execute is a {type(value).__name__}: give None, a number, a text or bytes"
    )
