"""Bring a SQLite file to this version's schema; a file of a newer version is refused, untouched."""

from __future__ import annotations

from treadle.errors import StoreError
from treadle.store.connection import Connection
from treadle.store.queries import migrations

APPLICATION_ID = 0x7472646C  # "trdl"


def newest() -> int:
    """Give the schema version that this code writes."""
    return migrations()[-1][0]


def migrate(connection: Connection, *, name: str) -> int:
    """Apply the migrations that a file lacks, all in one transaction, and give its version.

    Errors: StoreError when the file is newer than this code, or is somebody else's database.
    """
    version = int(connection.pragma("user_version"))
    owner = int(connection.pragma("application_id"))
    if version > newest():
        raise StoreError(
            f"{name} has schema version {version}; this treadle knows {newest()}",
            hint="install the newer treadle that wrote it, or name another store",
        )
    if version == newest():
        return version
    if version == 0 and owner == 0:
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        if tables[0][0]:
            raise StoreError(f"{name} is a SQLite database of something else", hint="name another store")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for the lock.
        version = int(connection.pragma("user_version"))
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
