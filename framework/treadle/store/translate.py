"""Turn the errors of SQLite and of its library into ours: each says what is wrong with which file, and what to do."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from treadle.errors import Conflict, StateError, StoreError, ThreadBusy, TreadleError

_TRIGGERS: dict[str, Callable[[str], TreadleError]] = {
    "busy": ThreadBusy,
    "gap": Conflict,
    "unpaired": Conflict,
    "status": StateError,
    "revision": StateError,
    "whole": StateError,
    "frozen": Conflict,
}


RESTORE = "run: treadle db check; then restore it from a backup"
"""What to do about a store that is damaged."""

_FAILURES: tuple[tuple[tuple[type[apsw.Error], ...], str, bool, str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        "is locked by another process",
        True,
        "try again; if it lasts, look for a backup or a shell that holds the file",
    ),
    ((apsw.FullError,), "cannot grow: the disk is full", False, "make room; nothing was half-written"),
    ((apsw.ReadOnlyError,), "is read-only", False, "change the file's permissions, or name another store"),
    (
        (apsw.NotADBError, apsw.CorruptError),
        "is not a sound SQLite file: …",
        False,
        RESTORE,
    ),
    (
        (apsw.IOError,),
        "cannot be read or written: …",
        True,
        "try again; if it goes on, look at the disk and at the system's log",
    ),
    (
        (apsw.CantOpenError,),
        "cannot be opened: …",
        True,
        "look whether its folder is there and writable, and how many files this process has open",
    ),
    ((apsw.NoMemError,), "met a lack of memory", True, "free memory, or walk fewer runs at once"),
)
"""What the library's errors are told as: classes, text (… is the library's own), whether to try again, what to do."""


def translate(error: BaseException, name: str) -> BaseException:
    """Turn the library's error, or that of a value which no column can hold, into ours; others stay."""
    text = str(error)
    if isinstance(error, UnicodeDecodeError):
        error = apsw.CorruptError(text)
    if isinstance(error, (UnicodeError, ValueError, TypeError, OverflowError)):
        return StateError(
            f"a value cannot be stored: {text[:200]}", hint="store texts, numbers and plain JSON"
        )
    if not isinstance(error, apsw.Error):
        return error
    if isinstance(error, apsw.ConstraintError):
        _, found, rest = text.partition("treadle:")
        if found:
            kind, _, message = rest.partition(" ")
            return _TRIGGERS[kind](message)
        if "runs.tenant, runs.thread" in text or "runs_active" in text:
            return ThreadBusy("the thread has an active run")
        if "agents.tenant, agents.kind, agents.name" in text or "agents_named" in text:
            return Conflict("an agent or a workflow of that name exists")
        if "messages.pos" in text:
            return Conflict("another writer appended to the thread")
        return Conflict(f"the store refused a row: {text}")
    for kinds, said, retryable, hint in _FAILURES:
        if isinstance(error, kinds):
            message = f"{name} {said}".replace("…", text or type(error).__name__)
            return StoreError(message, retryable=retryable, hint=hint)
    return StoreError(f"{name}: {text}", hint="try again; if it goes on, run: treadle db check")
