"""Bring a SQLite file to this version's schema; a file of a newer version is refused, untouched."""

from __future__ import annotations

from treadle.errors import StoreError
from treadle.store.connection import Connection
from treadle.store.queries import migrations

APPLICATION_ID = 0x7472646C  # "trdl"


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
