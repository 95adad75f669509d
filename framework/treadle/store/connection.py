"""The part of apsw that the store uses, as types.

apsw's own stubs name a type that Python 3.11 does not have, which makes every call partly unknown to a type
checker; these protocols say the same for what is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import apsw


class Cursor(Protocol):
    """Rows of one statement."""

    exec_trace: Callable[[Any, str, Any], bool] | None
    has_vdbe: bool
    is_readonly: bool
    is_explain: int

    def execute(
        self, statements: str, bindings: Sequence[Any] | None = None, /, *, can_cache: bool = True
    ) -> Cursor:
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

    authorizer: Callable[[int, str | None, str | None, str | None, str | None], int] | None

    @property
    def in_transaction(self) -> bool:
        """Tell whether a transaction is open."""
        ...

    def set_progress_handler(self, callable: Callable[[], bool] | None, nsteps: int = 100) -> None:  # noqa: A002 - apsw's own name
        """Ask a function now and then whether to interrupt what is running."""
        ...

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

    def set_wal_hook(self, hook: Callable[[Any, str, int], int] | None, /) -> None:
        """Call a function when a commit is kept, with the database's name and the pages of its log."""
        ...

    def wal_checkpoint(self, *, mode: int) -> tuple[int, int]:
        """Copy the log into the file; give the pages of the log, and how many of them are copied."""
        ...

    def close(self) -> None:
        """Let the database go."""
        ...


def connect(path: Path | None, *, cached_statements: int = 128, vfs: str | None = None) -> Connection:
    """Open a file, or memory where there is no path; `vfs` names a registered file layer other than SQLite's own."""
    name = str(path) if path else ":memory:"
    connection = apsw.Connection(name, statementcachesize=cached_statements, vfs=vfs)
    # Hazard: otherwise a statement whose plan looked at its values is planned anew whenever they are bound, which
    # takes many times as long as the statement does.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return cast("Connection", cast("object", connection))
