"""Check that a store keeps its promises: the same check after every test and behind `treadle db check`.

The invariants are queries in `sql/check.sql`, each with its sentence; what SQL cannot say (which statuses there
are, whether a content is what its digest names) is asked here. Nothing is changed, whatever is found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from treadle import lifecycle
from treadle.errors import Problem, StoreError
from treadle.store.connection import Connection, connect
from treadle.store.files import path_of_content
from treadle.store.migrate import BUSY_MS, newest, refuse_foreign
from treadle.store.queries import checks

CODE = "TR068"

_COUNTED = """
SELECT (SELECT count(*) FROM threads), (SELECT count(*) FROM messages), (SELECT count(*) FROM runs)
"""

_FILES = """
SELECT f.tenant, f.id, f.bytes, f.sha256, c.body FROM files f
LEFT JOIN file_contents c ON c.tenant = f.tenant AND c.id = f.id
"""

_STATUSES = (
    ("run", lifecycle.RUN, "SELECT id, status FROM runs"),
    ("run step", lifecycle.STEP, "SELECT path, status FROM steps"),
    ("message", lifecycle.MESSAGE, "SELECT 'row ' || pos, status FROM messages"),
)


class Finding(NamedTuple):
    """A rule that does not hold: where (the id of a thread, run or agent, or nothing), and what is there instead."""

    rule: str
    where: str
    what: str


class Checked(NamedTuple):
    """What a check looked at, of every tenant, and what it found."""

    threads: int
    messages: int
    runs: int
    findings: tuple[Finding, ...]


def check(store: Path | Connection, *, files: Path | None = None) -> list[Problem]:
    """Give everything that is wrong with a store; an empty list says that every invariant holds.

    Shapes: as `examine`. A problem's `node` is the id of the thread, run or agent that it is about.

    Errors: those of `examine`.
    """
    return [
        Problem(code=CODE, message=f"{found.rule}: {found.what}", node=found.where)
        for found in examine(store, files=files).findings
    ]


def examine(store: Path | Connection, *, files: Path | None = None) -> Checked:
    """Check a whole store and tell how much it looked at and what it found.

    Shapes: `store` is its file or an open connection; `files` is the folder of large contents, by default the
    one beside the file.

    Errors: StoreError when the file is not there, cannot be read, is no store, or has another version's schema.
    """
    if not isinstance(store, Path):
        return _examine(store, files)
    if not store.is_file():
        raise StoreError(f"there is no store at {store}", hint="name the file of a store")
    try:
        connection = connect(store)
        try:
            connection.set_busy_timeout(BUSY_MS)
            connection.pragma("query_only", 1)
            _refuse_older(connection, name=str(store))
            return _examine(connection, files or store.parent / "files")
        finally:
            connection.close()
    except (apsw.Error, UnicodeDecodeError) as e:
        raise StoreError(f"{store} cannot be checked: {e}", hint="restore it from a backup") from e


def _refuse_older(connection: Connection, *, name: str) -> None:
    """Make sure that a file has the schema which the rules are about.

    Errors: StoreError.
    """
    version = refuse_foreign(connection, name=name)
    if version < newest():
        raise StoreError(
            f"{name} has schema version {version}; this treadle checks version {newest()}",
            hint="upgrade it first: treadle db upgrade",
        )


def _examine(connection: Connection, files: Path | None) -> Checked:
    # Invariant: one snapshot, so that what other processes write meanwhile looks like no contradiction.
    connection.execute("SAVEPOINT checking")
    try:
        ((threads, messages, runs),) = connection.execute(_COUNTED).fetchall()
        found = (*_sound(connection), *_queried(connection), *_contents(connection, files))
        return Checked(threads, messages, runs, tuple(Finding(*one) for one in found))
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

    for row in connection.execute(_FILES):
        if not _is_whole(files, row):
            yield "a file has the content that was uploaded", str(row[1]), f"tenant {row[0]}"


def _is_whole(files: Path | None, row: Sequence[Any]) -> bool:
    tenant, id_, size, sha256, body = row
    if body is not None:
        return len(body) == size and hashlib.sha256(body).hexdigest() == sha256
    if files is None:
        return False
    try:
        with path_of_content(files, tenant, id_).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == str(sha256)
    except OSError:
        return False


def _read(files: Path | None, tenant: str, digest: str) -> bytes | None:
    if files is None:
        return None
    scope = hashlib.sha256(tenant.encode()).hexdigest()[:16]
    try:
        return (files / scope / digest[:2] / digest).read_bytes()
    except OSError:
        return None
