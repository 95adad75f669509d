"""The files of a SQLite store: made for their user only, found again, and there after a power loss."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path

import apsw

from treadle.errors import StoreError
from treadle.store.connection import Connection


def make_private(path: Path) -> None:
    """Make the folder and the file, where they are missing, for this user only.

    Errors: StoreError when that is not possible.
    """
    try:
        make_folder(path.parent)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        elif path.is_dir():
            raise StoreError(f"the store {path} is a folder", hint="name a file")
    except OSError as e:
        raise StoreError(
            f"cannot open the store {path}: {e.strerror or e}", hint="name another with --store"
        ) from e


def make_folder(path: Path) -> None:
    """Make a folder for this user only, where it is missing, so that it is there after a power loss, too."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in missing:
        sync_folder(folder.parent)


def tenant_folder(folder: Path, tenant: str) -> Path:
    """Give where the files of a tenant are, below the folder of a store's files."""
    return folder / hashlib.sha256(tenant.encode()).hexdigest()[:16]


def path_of_content(folder: Path, tenant: str, id_: str) -> Path:
    """Give where the content of an uploaded file is, where it is beside the database."""
    return tenant_folder(folder, tenant) / id_[-2:] / id_


def sync_folder(path: Path) -> None:
    """Make what was made or removed in a folder outlast a power loss."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # One may make files in it and not look into it: then it cannot be synced.
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_of_file(path: Path) -> tuple[int, int]:
    """Give which file a path leads to, zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def close_to_others(path: Path) -> None:
    """Take an existing store of this user away from everybody else; called once it is known to be a store."""
    found = path.stat()
    if found.st_mode & (stat.S_IWOTH | stat.S_IROTH) and found.st_uid == os.getuid():
        path.chmod(0o600)


def use_wal(connection: Connection, *, wait_ms: int) -> None:
    """Turn write-ahead logging on; where others open the same new file, they are waited for.

    Units: `wait_ms` milliseconds at most.

    Hazard: SQLite does not wait by itself for the lock that changing the journal mode takes.
    """
    end = time.monotonic() + wait_ms / 1000
    while True:
        try:
            connection.pragma("journal_mode", "WAL")
        except apsw.BusyError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return
