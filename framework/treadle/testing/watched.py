"""A connection to the SQLite store that tells of its statements, for doors that fail or record them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from treadle.store.connection import Connection, Cursor

R = TypeVar("R")


class Watched:
    """A connection that tells of its statements; everything else is the connection's own."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection: `inner`."""
        self.inner = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        own = name == "inner" or name.startswith("_")
        object.__setattr__(self if own else self.inner, name, value)

    @property
    def in_transaction(self) -> bool:
        """Tell whether a transaction is open."""
        return self.inner.in_transaction

    def execute(self, statements: str, bindings: Sequence[Any] | None = None, /) -> Cursor:
        """Run a statement on a cursor of its own."""
        return self.carry_out(statements, lambda: self.inner.execute(statements, bindings))

    def cursor(self) -> Cursor:
        """Give a cursor whose statements are told of as well."""
        return cast("Cursor", _WatchedCursor(self.inner.cursor(), self))

    def pragma(self, name: str, value: str | int | None = None, /) -> Any:
        """Ask for a setting, or make it."""

        def ask() -> Any:
            return self.inner.pragma(name) if value is None else self.inner.pragma(name, value)

        return self.carry_out(f"PRAGMA {name}", ask)

    def carry_out(self, statements: str, work: Callable[[], R]) -> R:
        """Run a statement: what a subclass does about it, before and after `work`."""
        del statements
        return work()


class _WatchedCursor:
    def __init__(self, cursor: Cursor, connection: Watched) -> None:
        self._cursor = cursor
        self._connection = connection

    def execute(self, statements: str, bindings: Sequence[Any] | None = None, /) -> Cursor:
        return self._connection.carry_out(statements, lambda: self._cursor.execute(statements, bindings))

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._cursor.fetchone()

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._cursor.fetchall()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._cursor)
