"""The part of apsw that the store uses, as types.

apsw's own stubs name a type that Python 3.11 does not have, which makes every call partly unknown to a type
checker; these protocols say the same for what is used here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import apsw


class Cursor(Protocol):
    """Rows of one statement."""

    def execute(self, statements: str, bindings: Sequence[Any] | None = None, /) -> Cursor:
        """Run a statement."""
        ...

    def fetchone(self) -> tuple[Any, ...] | None:
        """Give the next row."""
        ...

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Give the rows that are left."""
        ...

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Go through the rows."""
        ...


class Connection(Protocol):
    """One connection to the database."""

    in_transaction: bool

    def execute(self, statements: str, bindings: Sequence[Any] | None = None, /) -> Cursor:
        """Run a statement on a cursor of its own."""
        ...

    def cursor(self) -> Cursor:
        """Make a cursor."""
        ...

    def pragma(self, name: str, value: str | int | None = None, /) -> Any:
        """Ask or set a pragma."""
        ...

    def changes(self) -> int:
        """Give how many rows the last statement changed."""
        ...

    def last_insert_rowid(self) -> int:
        """Give the key of the row that was inserted last."""
        ...

    def set_busy_timeout(self, milliseconds: int, /) -> None:
        """Wait that long for another process's lock."""
        ...

    def close(self) -> None:
        """Let the database go."""
        ...


def connect(path: Path | None, *, cached_statements: int = 128) -> Connection:
    """Open a file, or memory where there is no path."""
    return cast(
        "Connection",
        cast(
            "object", apsw.Connection(str(path) if path else ":memory:", statementcachesize=cached_statements)
        ),
    )
