"""Run a tool's own statements inside the transaction of its checkpoint, and nothing else that they might try.

What a statement may do is decided by SQLite's authorizer, which is asked about every table that a statement
reaches, through views and triggers too: it may read and write tables that are not treadle's, and make such tables
and their indexes. Whatever goes wrong with a statement is its author's to hear, and the checkpoint is not written.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache

import apsw

from treadle.errors import StatementError
from treadle.store.base import Statement
from treadle.store.connection import Connection, connect
from treadle.store.queries import migrations

MOST_STEPS = 100_000_000
"""Everybody who writes waits for a statement, so it may do no more work than this, in SQLite's own steps."""
_STRIDE = 10_000

_FAULTS = (
    apsw.SQLError,
    apsw.ConstraintError,
    apsw.AuthError,
    apsw.BindingsError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.RangeError,
    apsw.InterruptError,
)
"""What a statement itself can be to blame for; a full disk or a locked file is the store's own trouble."""

_ON_A_TABLE = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE, apsw.SQLITE_READ})
_HARMLESS = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE})
_SCHEMA = frozenset({"sqlite_master", "sqlite_schema"})
_ACTIONS = {
    apsw.SQLITE_TRANSACTION: "a transaction of its own",
    apsw.SQLITE_SAVEPOINT: "a savepoint",
    apsw.SQLITE_ATTACH: "another database",
    apsw.SQLITE_DETACH: "another database",
    apsw.SQLITE_PRAGMA: "a pragma",
    apsw.SQLITE_ALTER_TABLE: "a change of a table",
    apsw.SQLITE_CREATE_TRIGGER: "a trigger",
    apsw.SQLITE_CREATE_VIEW: "a view",
    apsw.SQLITE_CREATE_VTABLE: "a virtual table",
}


def run(connection: Connection, statements: Sequence[Statement]) -> None:
    """Run statements in order, in the transaction that is open.

    Errors: StatementError for the first one that cannot be run or is not allowed. The transaction has to be
    rolled back then; the statement may have done that itself (``INSERT OR ROLLBACK``).
    """
    guard = _Guard()
    connection.authorizer = guard.allows
    connection.set_progress_handler(guard.is_too_much, _STRIDE)
    try:
        for index, statement in enumerate(statements):
            _run_one(connection, guard, index, statement)
    finally:
        connection.set_progress_handler(None)
        connection.authorizer = None


def _run_one(connection: Connection, guard: _Guard, index: int, statement: Statement) -> None:
    guard.begin()
    cursor = connection.cursor()
    found = 0

    def before(_cursor: object, _sql: str, _bindings: object) -> bool:
        nonlocal found
        if not cursor.has_vdbe:
            return True  # A comment, or nothing at all.
        found += 1
        if found > 1:
            guard.reason = "it is more than one statement: write one at a time"
        elif cursor.is_readonly or cursor.is_explain:
            guard.reason = "it writes nothing, and what it reads comes to nobody"
        return guard.reason is None

    cursor.exec_trace = before
    try:
        # Hazard: a statement of the same text that treadle prepared for itself was not held against the authorizer.
        cursor.execute(statement.sql, statement.args, can_cache=False).fetchall()
    except (*_FAULTS, apsw.ExecTraceAbort) as e:
        raise StatementError(statement.sql, guard.reason or _words(e), index=index) from e
    except (UnicodeError, ValueError, TypeError, OverflowError) as e:
        raise StatementError(statement.sql, str(e), index=index) from e
    if not found:
        raise StatementError(statement.sql, "it is no statement", index=index)


def _words(error: Exception) -> str:
    if isinstance(error, apsw.InterruptError):
        return f"it took more than {MOST_STEPS} steps, and everybody who writes waits for it"
    return str(error)


class _Guard:
    """Says what a statement may do, and remembers why it was stopped."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._own = own_names()
        self._thread = threading.get_ident()
        self._steps = 0

    def begin(self) -> None:
        self._steps = 0

    def is_too_much(self) -> bool:
        """Answer SQLite, which asks after each stride of steps."""
        self._steps += _STRIDE
        return self._steps > MOST_STEPS

    def allows(
        self, action: int, first: str | None, second: str | None, database: str | None, _inner: str | None
    ) -> int:
        """Answer SQLite, which asks while it prepares a statement."""
        # Invariant: another thread that uses this connection is treadle itself.
        if threading.get_ident() != self._thread or self._why_not(action, first, second, database) is None:
            return apsw.SQLITE_OK
        self.reason = self.reason or self._why_not(action, first, second, database)
        return apsw.SQLITE_DENY

    def _why_not(
        self, action: int, first: str | None, second: str | None, database: str | None
    ) -> str | None:
        name, other = (first or "").lower(), (second or "").lower()
        if database not in (None, "main"):
            return f"it reaches the database '{database}'"
        if action in _HARMLESS:
            return None
        if action == apsw.SQLITE_FUNCTION:
            return "it loads an extension" if other == "load_extension" else None
        if action in _ON_A_TABLE:
            # Making a table writes to the schema; nobody else can, since SQLite itself refuses it.
            return None if name in _SCHEMA else self._whose(name)
        if action in (apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_REINDEX):
            # Beside the first table with AUTOINCREMENT SQLite makes one for itself; no statement can name it.
            return None if name == "sqlite_sequence" else self._whose(name)
        if action == apsw.SQLITE_CREATE_INDEX:
            return self._whose(other)
        return f"it asks for {_ACTIONS.get(action, 'what no statement of a tool may do')}"

    def _whose(self, name: str) -> str | None:
        if name.startswith("sqlite_") and not name.startswith("sqlite_autoindex_"):
            return f"'{name}' is SQLite's own"
        return f"'{name}' is treadle's own" if name in self._own else None


@cache
def own_names() -> frozenset[str]:
    """Give the names of everything that treadle's schema has, in lower case."""
    connection = connect(None)
    try:
        for _, sql in migrations():
            connection.execute(sql)
        found = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    finally:
        connection.close()
    return frozenset(str(name).lower() for (name,) in found)
