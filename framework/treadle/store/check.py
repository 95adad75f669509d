"""Check that a store keeps its promises: the same check after every test and behind `treadle db check`.

The invariants are queries in `sql/check.sql`, each with its sentence; what SQL cannot say (which statuses there
are, whether a content is what its digest names) is asked here. Nothing is changed, whatever is found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import apsw

from treadle import lifecycle
from treadle.errors import Problem, StoreError
from treadle.store.connection import Connection, connect
from treadle.store.queries import checks

CODE = "TR068"

_STATUSES = (
    ("run", lifecycle.RUN, "SELECT id, status FROM runs"),
    ("run step", lifecycle.STEP, "SELECT path, status FROM steps"),
    ("message", lifecycle.MESSAGE, "SELECT 'row ' || pos, status FROM messages"),
)


def check(store: Path | Connection, *, files: Path | None = None) -> list[Problem]:
    """Give everything that is wrong with a store; an empty list says that every invariant holds.

    Shapes: `store` is its file or an open connection; `files` is the folder of large contents, by default the
    one beside the file. A problem's `node` is the id of the thread, run or agent that it is about.

    Errors: StoreError when the file is not there or cannot be read.
    """
    if not isinstance(store, Path):
        return _check(store, files)
    if not store.is_file():
        raise StoreError(f"there is no store at {store}", hint="name the file of a store")
    try:
        connection = connect(store)
        try:
            connection.pragma("query_only", 1)
            return _check(connection, files or store.parent / "files")
        finally:
            connection.close()
    except apsw.Error as e:
        raise StoreError(f"{store} cannot be checked: {e}") from e


def _check(connection: Connection, files: Path | None) -> list[Problem]:
    # Invariant: one snapshot, so that what other processes write meanwhile looks like no contradiction.
    connection.execute("SAVEPOINT checking")
    try:
        return [
            Problem(code=CODE, message=f"{rule}: {what}", node=where)
            for rule, where, what in (
                *_sound(connection),
                *_queried(connection),
                *_contents(connection, files),
            )
        ]
    finally:
        connection.execute("RELEASE checking")


def _sound(connection: Connection) -> Iterator[tuple[str, str, str]]:
    for (said,) in connection.execute("PRAGMA quick_check"):
        if said != "ok":
            yield "the file is sound", "", str(said)


def _queried(connection: Connection) -> Iterator[tuple[str, str, str]]:
    for rule, sql in checks():
        for where, what in connection.execute(sql):
            yield rule, str(where), str(what)
    for noun, table, sql in _STATUSES:
        for where, status in connection.execute(sql):
            if status not in table:
                yield f"a {noun} has one of the known statuses", str(where), str(status)


def _contents(connection: Connection, files: Path | None) -> Iterator[tuple[str, str, str]]:
    for digest, text in connection.execute("SELECT digest, text FROM graphs"):
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            yield "a step graph has the content that its digest names", "", str(digest)
    for tenant, digest, size, body in connection.execute("SELECT tenant, digest, bytes, body FROM blobs"):
        content = body if body is not None else _read(files, tenant, digest)
        if content is None or len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            yield "a large text has the content that its digest names", "", str(digest)


def _read(files: Path | None, tenant: str, digest: str) -> bytes | None:
    if files is None:
        return None
    scope = hashlib.sha256(tenant.encode()).hexdigest()[:16]
    try:
        return (files / scope / digest[:2] / digest).read_bytes()
    except OSError:
        return None
