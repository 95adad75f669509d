"""Storage that fails, for tests: a door to the SQLite store that breaks on demand.

`FaultDoor` fails the Nth statement, the Nth commit or the Nth file operation with one of SQLite's errors. It gives
the `opener` of a store, so that it works under any agent:

    door = FaultDoor(Fault("full", 40, layer="file"))
    treadle = Treadle(SqliteStore(path, opener=door.open), ...)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

import apsw

from treadle.store.connection import Connection, connect
from treadle.testing.watched import Watched

R = TypeVar("R")
Layer = Literal["statement", "commit", "file"]

ERRORS: Final[Mapping[str, int]] = {
    "busy": apsw.SQLITE_BUSY,
    "busy-snapshot": apsw.SQLITE_BUSY_SNAPSHOT,
    "locked": apsw.SQLITE_LOCKED,
    "full": apsw.SQLITE_FULL,
    "io": apsw.SQLITE_IOERR,
    "read-only": apsw.SQLITE_READONLY,
    "corrupt": apsw.SQLITE_CORRUPT,
    "not-a-database": apsw.SQLITE_NOTADB,
    "cannot-open": apsw.SQLITE_CANTOPEN,
    "no-memory": apsw.SQLITE_NOMEM,
}
"""The errors that storage gives, by name."""

LAYERS: Final[tuple[Layer, ...]] = ("statement", "commit", "file")

_IO: Final[Mapping[str, int]] = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "size": apsw.SQLITE_IOERR_FSTAT,
    "lock": apsw.SQLITE_IOERR_LOCK,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "access": apsw.SQLITE_IOERR_ACCESS,
}
_CHANGES: Final = frozenset({"write", "sync", "truncate", "delete"})
_LOCKING: Final = frozenset({"busy", "busy-snapshot", "locked"})
"""What only a lock may answer: SQLite takes a busy answer to a write for none at all."""
_ENDING: Final = frozenset({"full", "io", "no-memory"})
"""Errors after which SQLite may have rolled the transaction back by itself."""

_numbers = count(1)


class Fault(NamedTuple):
    """What fails, and when.

    Shapes: `error` is a key of `ERRORS`; `nth` counts from 1 what the layer sees: statements; COMMITs, which are
    carried out and then fail; or operations on files. A fault that is `lasting` goes on until it is lifted; at
    the file layer it then strikes what changes a file, as a full disk does.
    """

    error: str
    nth: int
    layer: Layer = "statement"
    lasting: bool = False

    def __str__(self) -> str:
        """Give the fault as one argument of the command line."""
        return f"{self.layer}:{self.error}:{self.nth}{':lasting' if self.lasting else ''}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Give the fault that a text names, as `str` writes it.

        Errors: ValueError for a text that names none.
        """
        layer, error, nth, *rest = text.split(":")
        if layer not in LAYERS or error not in ERRORS or rest not in ([], ["lasting"]):
            msg = f"'{text}' is no fault: LAYER:ERROR:N, with a layer of {', '.join(LAYERS)} and an error of {', '.join(ERRORS)}"
            raise ValueError(msg)
        return cls(error, int(nth), layer, bool(rest))


class FaultDoor:
    """Opens a store's connections, and fails where its fault says.

    Attributes: `seen` counts what the fault's layer saw, `fired` how often it failed, `place` is the last place.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        """Take the fault; without one nothing fails and everything is counted."""
        self.fault = fault
        self.seen = 0
        self.fired = 0
        self.place = ""
        self._files = _FaultyFiles(self) if fault is not None and fault.layer == "file" else None

    def open(self, path: Path | None) -> Connection:
        """Open a connection: the `opener` of a store."""
        inner = connect(path, vfs=self._files.name if self._files else None)
        return cast("Connection", _Faulty(inner, self))

    def lift(self) -> None:
        """Let nothing fail any more."""
        self.fault = None

    def meet(self, layer: Layer, place: str) -> BaseException | None:
        """Count one thing that the layer sees, and give the error with which it fails, if it does."""
        fault = self.fault
        if fault is None or fault.layer != layer:
            return None
        if layer == "file" and fault.error in _LOCKING and place != "lock":
            return None
        self.seen += 1
        if self.seen < fault.nth or not (fault.lasting or self.seen == fault.nth):
            return None
        spares = layer == "file" and place not in _CHANGES and fault.error not in _LOCKING
        if fault.lasting and spares and self.seen > fault.nth:
            return None
        self.fired += 1
        self.place = " ".join(place.split())[:60]
        code = ERRORS[fault.error]
        if layer == "file" and fault.error == "io":
            code = _IO.get(place, code)
        return apsw.exception_for(code)


class _Faulty(Watched):
    """A connection whose statements fail as its door says."""

    def __init__(self, connection: Connection, door: FaultDoor) -> None:
        super().__init__(connection)
        self._door = door

    def carry_out(self, statements: str, work: Callable[[], R]) -> R:
        fault = self._door.fault
        error = self._door.meet("statement", statements)
        if error is not None:
            if fault is not None and fault.error in _ENDING and self.inner.in_transaction:
                self.inner.execute("ROLLBACK")
            raise error
        if statements != "COMMIT":
            return work()
        error = self._door.meet("commit", statements)
        done = work()
        if error is not None:
            raise error
        return done


class _FaultyFiles(apsw.VFS):
    """The file layer of a door: every operation may fail."""

    def __init__(self, door: FaultDoor) -> None:
        self.name = f"treadle-faults-{os.getpid()}-{next(_numbers)}"
        self._door = door
        super().__init__(self.name, "")

    def excepthook(self, etype: object, evalue: object, etraceback: object) -> bool:
        del etype, evalue, etraceback
        return True

    def meet(self, place: str) -> None:
        error = self._door.meet("file", place)
        if error is not None:
            raise error

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        self.meet("open")
        return _FaultyFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - SQLite's name and order
        self.meet("delete")
        super().xDelete(filename, syncdir)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802 - SQLite's name
        self.meet("access")
        return super().xAccess(pathname, flags)


class _FaultyFile(apsw.VFSFile):
    def __init__(self, files: _FaultyFiles, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._meet = files.meet
        super().__init__("", name, flags)

    def excepthook(self, etype: object, evalue: object, etraceback: object) -> bool:
        del etype, evalue, etraceback
        return True

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        self._meet("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._meet("write")
        super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType] - its stub names a type of 3.12

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._meet("sync")
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._meet("truncate")
        super().xTruncate(newsize)

    def xFileSize(self) -> int:  # noqa: N802 - SQLite's name
        self._meet("size")
        return super().xFileSize()

    def xLock(self, level: int) -> None:  # noqa: N802 - SQLite's name
        self._meet("lock")
        super().xLock(level)
