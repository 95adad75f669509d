"""Bring a SQLite file to this version's schema; a file of a newer version is refused, untouched."""

from __future__ import annotations

from pathlib import Path

import apsw

from treadle.errors import StoreError
from treadle.store.connection import Connection, connect
from treadle.store.queries import migrations

APPLICATION_ID = 0x7472646C  # "trdl"
BUSY_MS = 10_000


def newest() -> int:
    """Give the schema version that this code writes."""
    return migrations()[-1][0]


def refuse_foreign(connection: Connection, *, name: str) -> int:
    """Give the version of a file that may be opened, 0 for an empty one; nothing is written.

    Errors: StoreError when the file is newer than this code, or is somebody else's database.
    """
    # Invariant: one snapshot; another process may be making the store meanwhile.
    connection.execute("SAVEPOINT looking")
    try:
        version = int(connection.pragma("user_version"))
        owner = int(connection.pragma("application_id"))
        is_empty = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    finally:
        connection.execute("RELEASE looking")
    if owner != APPLICATION_ID and (owner or version or not is_empty):
        raise StoreError(f"{name} is a SQLite database of something else", hint="name another store")
    if version > newest():
        raise StoreError(
            f"{name} has schema version {version}; this treadle knows {newest()}",
            hint="install the newer treadle that wrote it, or name another store",
        )
    return version


def migrate(connection: Connection, *, name: str) -> int:
    """Apply the migrations that a file lacks, all in one transaction, and give its version.

    Errors: those of `refuse_foreign`.
    """
    version = refuse_foreign(connection, name=name)
    if version == newest():
        return version
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for the lock.
        version = refuse_foreign(connection, name=name)
        for number, sql in migrations():
            if number > version:
                connection.execute(sql)
                version = number
        connection.pragma("user_version", version)
        connection.pragma("application_id", APPLICATION_ID)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return version


def upgrade(file: Path, *, changes_nothing: bool = False) -> tuple[int, int]:
    """Bring a file that is there to this version's schema, and give its version before and after.

    Shapes: with `changes_nothing` the version after is the one that it would get.

    Errors: those of `refuse_foreign`; StoreError when there is no such file, or it cannot be read or written.
    """
    if not file.is_file():
        raise StoreError(f"there is no store at {file}", hint="name the file of a store")
    try:
        connection = connect(file)
        try:
            connection.set_busy_timeout(BUSY_MS)
            if changes_nothing:
                connection.pragma("query_only", 1)
                return refuse_foreign(connection, name=str(file)), newest()
            # Hazard: between the two looks another process may migrate; then this one had nothing to do.
            before = refuse_foreign(connection, name=str(file))
            return before, migrate(connection, name=str(file))
        finally:
            connection.close()
    except apsw.Error as e:
        raise StoreError(f"{file} cannot be upgraded: {e}") from e
