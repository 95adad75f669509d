"""Storage that fails, for tests: a door to the SQLite store that breaks on demand, and one that loses power.

    python -m treadle.testing.storage --faults                  every error at every place, until a run is clean
    python -m treadle.testing.storage --images 20000 --seed 1   what a power loss could leave, image by image

`FaultDoor` fails the Nth statement, the Nth commit or the Nth file operation with one of SQLite's errors.
`PowerLoss` records what is written and synced, and builds files as a power loss may leave them. Both give the
`opener` of a store, so that they work under any agent:

    door = FaultDoor(Fault("full", 40, layer="file"))
    treadle = Treadle(SqliteStore(path, opener=door.open), ...)

Power loss is modelled for writes, truncations, creations and removals of files; a medium that says it has synced
what it has not is not.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

import apsw

from treadle.clock import SystemClock
from treadle.errors import StateError, StoreError
from treadle.ids import Ids
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool
from treadle.providers.base import Emit, ModelReply, ModelRequest
from treadle.providers.scripted import ScriptedProvider, ScriptEntry
from treadle.service import Treadle
from treadle.settings import Settings
from treadle.store.check import check
from treadle.store.connection import Connection, Cursor, connect
from treadle.store.sqlite import SqliteStore
from treadle.testing.chance import Chance
from treadle.testing.fakes import CountedIds, FrozenClock

R = TypeVar("R")
Layer = Literal["statement", "commit", "file"]
Durability = Literal["full", "normal"]

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


class _Watched:
    """A connection that tells of its statements; everything else is the connection's own."""

    def __init__(self, connection: Connection) -> None:
        self.inner = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        own = name == "inner" or name.startswith("_")
        object.__setattr__(self if own else self.inner, name, value)

    @property
    def in_transaction(self) -> bool:
        return self.inner.in_transaction

    def execute(self, statements: str, bindings: Sequence[Any] | None = None, /) -> Cursor:
        return self.carry_out(statements, lambda: self.inner.execute(statements, bindings))

    def cursor(self) -> Cursor:
        return cast("Cursor", _WatchedCursor(self.inner.cursor(), self))

    def pragma(self, name: str, value: str | int | None = None, /) -> Any:
        def ask() -> Any:
            return self.inner.pragma(name) if value is None else self.inner.pragma(name, value)

        return self.carry_out(f"PRAGMA {name}", ask)

    def carry_out(self, statements: str, work: Callable[[], R]) -> R:
        """Run a statement."""
        del statements
        return work()


class _WatchedCursor:
    def __init__(self, cursor: Cursor, connection: _Watched) -> None:
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


class _Faulty(_Watched):
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


# -- power loss ------------------------------------------------------------------------------------------------


class _Write(NamedTuple):
    offset: int
    content: bytes


class _Truncate(NamedTuple):
    size: int


class _Inode:
    """A file as the disk has it, and what was done to it since."""

    def __init__(self) -> None:
        self.durable = b""
        self.pending: list[tuple[int, _Write | _Truncate]] = []


class _Name:
    """What a name leads to on the disk, and what it was made to lead to since; None is no file."""

    def __init__(self, durable: _Inode | None) -> None:
        self.durable = durable
        self.pending: list[_Inode | None] = []


class _Entry(NamedTuple):
    """One thing that happened: an operation on a file, or a commit that was acknowledged.

    Shapes: `kind` is create, delete, write, truncate, sync, folder (all names are durable) or commit; `mark` is for a sync the place in the log
    where it began, for a commit the number of the state that it left.
    """

    kind: str
    name: str = ""
    file: int = 0
    change: _Write | _Truncate | None = None
    mark: int = 0
    is_durable: bool = False


class Image(NamedTuple):
    """Files that a power loss may have left.

    Shapes: `files` has contents by what their names add to the store's (``""``, ``"-wal"`` …); `how` tells where
    the power was lost and what became of the writes; the content is one of the states `least` to `most`.
    """

    files: Mapping[str, bytes]
    how: str
    least: int
    most: int


MODES: Final = ("none", "all", "first", "some", "torn 512", "torn 4096", "garbage")
"""What becomes of writes that were not synced: none or all of them reach the disk, the first ones, any of them,
any blocks of them; or blocks of them, with garbage where a file has grown."""


class PowerLoss:
    """Records what a store writes and syncs, and builds what a power loss could leave of it.

    Attributes: `states` has what the database held, a digest for each commit, the first being that of an empty
    one.
    """

    def __init__(self, *, durability: Durability = "full", log_scale: int = 40) -> None:
        """Hold commits against what the store promises: with `full` they are there after a power loss.

        Shapes: the log is made to look `log_scale` times as long as it is, so that it is copied into the file often.
        """
        self.states = [_EMPTY]
        self._durability = durability
        self._scale = log_scale
        self._log: list[_Entry] = []
        self._files = _RecordedFiles(self)

    def open(self, path: Path | None) -> Connection:
        """Open a connection: the `opener` of a store."""
        inner = connect(path, vfs=self._files.name)
        return cast("Connection", _Recorded(inner, self, self._scale, is_durable=self._durability == "full"))

    @property
    def boundaries(self) -> int:
        """Give how many syncs were seen."""
        return sum(entry.kind == "sync" for entry in self._log)

    def note(self, entry: _Entry) -> None:
        """Add to the log."""
        self._log.append(entry)

    def mark(self) -> int:
        """Give the place where the log ends."""
        return len(self._log)

    def acknowledge(self, state: bytes, *, is_durable: bool) -> None:
        """Keep what the database holds after a commit that its caller is now told of."""
        self.states.append(state)
        self._log.append(_Entry("commit", mark=len(self.states) - 1, is_durable=is_durable))

    def images(self, chance: Chance, *, each: int = len(MODES)) -> Iterator[Image]:
        """Give images of every boundary: just before a sync, and at the end; `each` is how many of one boundary."""
        inodes: dict[int, _Inode] = {}
        names: dict[str, _Name] = {"": _Name(None)}
        least = most = 0
        for place, entry in enumerate((*self._log, _Entry("end"))):
            if entry.kind in ("sync", "end"):
                modes = _some(MODES, each, chance)
                for mode in modes:
                    files = {
                        name: content
                        for name, link in names.items()
                        if (content := _left(link, mode, chance)) is not None
                    }
                    how = (
                        f"power lost at {place} of {len(self._log)} ({entry.kind} of '{entry.name}'), {mode}"
                    )
                    yield Image(files, how, least, min(most + 1, len(self.states) - 1))
            if entry.kind == "commit":
                most = entry.mark
                least = entry.mark if entry.is_durable else least
            else:
                _apply(entry, place, inodes, names)


def _apply(entry: _Entry, place: int, inodes: dict[int, _Inode], names: dict[str, _Name]) -> None:
    """Carry out an entry of the log."""
    inode = inodes.setdefault(entry.file, _Inode())
    name = names.setdefault(entry.name, _Name(None))
    if entry.kind == "create":
        name.pending.append(inode)
    elif entry.kind == "delete":
        name.pending.append(None)
        if entry.is_durable:
            name.durable, name.pending = None, []
    elif entry.change is not None:
        inode.pending.append((place, entry.change))
    elif entry.kind == "sync":
        done = [change for at, change in inode.pending if at < entry.mark]
        inode.pending = [piece for piece in inode.pending if piece[0] >= entry.mark]
        inode.durable = _changed(inode.durable, done)
    elif entry.kind == "folder":
        for link in names.values():
            link.durable, link.pending = [link.durable, *link.pending][-1], []


def _left(name: _Name, mode: str, chance: Chance) -> bytes | None:
    """Give what a name leads to after the power is back, None where there is no file."""
    links = [name.durable, *name.pending]
    cut = {"none": 0, "all": len(links) - 1}.get(mode)
    inode = links[chance.below(len(links)) if cut is None else cut]
    if inode is None:
        return None
    changes = [change for _, change in inode.pending]
    if mode == "none":
        changes = []
    elif mode == "first":
        changes = changes[: chance.below(len(changes) + 1)]
    elif mode == "some":
        changes = [change for change in changes if chance.happens(0.5)]
    elif mode != "all":
        block = 512 if mode == "torn 512" else 4096
        odds = chance.pick((0.1, 0.5, 0.9))
        changes = [piece for change in changes for piece in _torn(change, block) if chance.happens(odds)]
    return _changed(inode.durable, changes, chance if mode == "garbage" else None)


def _some(modes: Sequence[str], number: int, chance: Chance) -> list[str]:
    left = list(modes)
    while len(left) > number:
        left.pop(chance.below(len(left)))
    return left


def _torn(change: _Write | _Truncate, block: int) -> Iterator[_Write | _Truncate]:
    """Part a write where blocks of the medium end."""
    if isinstance(change, _Truncate):
        yield change
        return
    at, end = change.offset, change.offset + len(change.content)
    while at < end:
        to = min(end, (at // block + 1) * block)
        yield _Write(at, change.content[at - change.offset : to - change.offset])
        at = to


def _changed(content: bytes, changes: Sequence[_Write | _Truncate], chance: Chance | None = None) -> bytes:
    """Give a file's content after changes; where it grows over a gap that holds zeros, or garbage by chance."""
    if not changes:
        return content
    grown = bytearray(content)
    for change in changes:
        size = change.size if isinstance(change, _Truncate) else change.offset + len(change.content)
        if size > len(grown):
            gap = size - len(grown)
            grown += bytes(gap) if chance is None else chance.number(8 * gap).to_bytes(gap, "big")
        if isinstance(change, _Truncate):
            del grown[change.size :]
        else:
            grown[change.offset : size] = change.content
    return bytes(grown)


class _Recorded(_Watched):
    """A connection whose commits are noted once their caller is told.

    Shapes: a write without a transaction of its own is a heartbeat, and promises nothing; nor does a commit after
    the store has asked, later than at its opening, for less than it promises.
    """

    def __init__(self, connection: Connection, record: PowerLoss, scale: int, *, is_durable: bool) -> None:
        super().__init__(connection)
        self._record = record
        self._scale = scale
        self._is_durable = is_durable
        self._is_relaxed: bool | None = None

    def pragma(self, name: str, value: str | int | None = None, /) -> Any:
        if name == "synchronous" and value is not None:
            self._is_relaxed = False if self._is_relaxed is None else value != "FULL"
        return super().pragma(name, value)

    def carry_out(self, statements: str, work: Callable[[], R]) -> R:
        done = work()
        verb = statements.split(None, 1)[0]
        if verb in _WRITES and not self.inner.in_transaction:
            is_durable = self._is_durable and verb == "COMMIT" and not self._is_relaxed
            self._record.acknowledge(content_of(self.inner), is_durable=is_durable)
        return done

    def set_wal_hook(self, hook: Callable[[Any, str, int], int] | None, /) -> None:
        scale = self._scale
        self.inner.set_wal_hook(
            None if hook is None else lambda db, name, pages: hook(db, name, pages * scale)
        )


_WRITES: Final = frozenset({"COMMIT", "INSERT", "UPDATE", "DELETE", "REPLACE"})


class _RecordedFiles(apsw.VFS):
    """The file layer that a recording sees."""

    def __init__(self, record: PowerLoss) -> None:
        self.name = f"treadle-power-{os.getpid()}-{next(_numbers)}"
        self._record = record
        self._numbers: dict[str, int] = {}
        self._stem = ""
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return apsw.VFSFile("", name, flags)
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            self._stem = path
        label = path.removeprefix(self._stem)
        is_new = label not in self._numbers or not Path(path).exists()
        file = _RecordedFile(self._record, name, flags)
        if is_new:
            self._numbers[label] = next(_numbers)
            self._record.note(_Entry("create", label, self._numbers[label]))
        file.label, file.number = label, self._numbers[label]
        # SQLite syncs the folder when it first syncs a log or a journal that it has opened.
        file.syncs_folder = not flags[0] & apsw.SQLITE_OPEN_MAIN_DB
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - SQLite's name and order
        super().xDelete(filename, syncdir)
        self._record.note(_Entry("delete", filename.removeprefix(self._stem), is_durable=bool(syncdir)))


class _RecordedFile(apsw.VFSFile):
    def __init__(self, record: PowerLoss, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self.label = ""
        self.number = 0
        self.syncs_folder = False
        self._record = record
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._record.note(_Entry("write", self.label, self.number, _Write(offset, bytes(data))))
        super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType] - its stub names a type of 3.12

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._record.note(_Entry("truncate", self.label, self.number, _Truncate(newsize)))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        mark = self._record.mark()
        super().xSync(flags)
        self._record.note(_Entry("sync", self.label, self.number, mark=mark))
        if self.syncs_folder:
            self.syncs_folder = False
            self._record.note(_Entry("folder"))


def content_of(connection: Connection) -> bytes:
    """Give a digest of every row of a database."""
    told = hashlib.sha256()
    names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    for (name,) in connection.execute(names).fetchall():
        found = connection.execute(f'SELECT * FROM "{name}"').fetchall()  # noqa: S608 - the schema's own name
        if found:
            told.update(repr((name, found)).encode())
    return told.digest()


_EMPTY: Final = hashlib.sha256().digest()


def problems_of(image: Image, states: Sequence[bytes], folder: Path, *, and_go_on: bool = False) -> list[str]:
    """Open an image as a store and give what is wrong with it: nothing, if the store keeps its promise.

    Shapes: the files are left in `folder` as ``image.db`` and its like. With `and_go_on` the runs that were under
    way are taken up again, and every thread takes a next turn.
    """
    path = folder / "image.db"
    for old in folder.glob("image.db*"):
        old.unlink()
    for name, content in image.files.items():
        path.with_name(path.name + name).write_bytes(content)
    found: list[str] = []
    try:
        store = SqliteStore(path)
        asyncio.run(store.close())
        connection = connect(path)
        try:
            said = [row[0] for row in connection.execute("PRAGMA integrity_check").fetchall()]
            content = content_of(connection)
        finally:
            connection.close()
        found += [f"integrity: {line}" for line in said if line != "ok"]
        found += [f"check: {problem.message}" for problem in check(path)]
    except (StoreError, apsw.Error) as e:
        return [f"{image.how}: it does not open: {e}"]
    if content not in states[image.least : image.most + 1]:
        known = [n for n, state in enumerate(states) if state == content]
        where = f"the state after commit {known[-1]}" if known else "a state that never was"
        found.append(f"it holds {where}, expected one after {image.least} to {image.most}")
    if and_go_on and not found:
        try:
            found += asyncio.run(goes_on(path))
        except Exception as e:  # noqa: BLE001 - whatever breaks it is a finding
            found.append(f"it does not go on: {type(e).__name__}: {e}")
    return [f"{image.how}: {line}" for line in found]


# -- the exercise ----------------------------------------------------------------------------------------------

ASK: Final = FunctionTool(name="ask", runs="client", effect="pure")
LOOK: Final = FunctionTool(name="look", runs="server", effect="pure")
PAY: Final = FunctionTool(name="pay", runs="server")
TRIES: Final = 12
HANG_S: Final = 20.0


@dataclass
class Ledger:
    """What a client was told, to be held against what a store has afterwards."""

    path: Path
    threads: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    ended: dict[str, str] = field(default_factory=dict[str, str])
    payments: dict[str, int] = field(default_factory=dict[str, int])
    errors: list[StoreError] = field(default_factory=list[StoreError])
    problems: list[str] = field(default_factory=list[str])


class _Model(ScriptedProvider):
    """A model whose part follows from the last thing that its user said."""

    def __init__(self, chance: Chance) -> None:
        super().__init__(self._reply)
        self._chance = chance
        self.waits = asyncio.Event()

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        if _said(request).startswith("wait"):
            self.waits.set()
            await asyncio.Event().wait()
        return await super().call(request, emit)

    def _reply(self, request: ModelRequest) -> ScriptEntry:
        said = _said(request)
        rounds = 0
        for row in reversed(request.messages):
            if row.role == "user":
                break
            rounds += row.role == "assistant"
        calls: list[dict[str, Any]] = []
        if said.startswith("ask") and not rounds:
            calls = [{"name": "ask", "arguments": {}}, {"name": "look", "arguments": {"place": said}}]
        elif said.startswith("two") and rounds < 2:
            calls = [{"name": "pay", "arguments": {"what": said}}] if rounds else [
                {"name": "look", "arguments": {"place": f"{said} {i}"}} for i in range(3)
            ]  # fmt: skip
        if calls:
            return {"calls": calls}
        return f"Done: {said} " + "x" * self._chance.below(3000)


def _said(request: ModelRequest) -> str:
    return next((row.text or "" for row in reversed(request.messages) if row.role == "user"), "")


class Exercise:
    """A client that does a bit of everything on a store, and goes on where the store fails.

    Threads, messages, runs with two rounds of tools, a client's outputs, a cancel, a next turn, three runs at once.
    """

    def __init__(
        self,
        path: Path,
        opener: Callable[[Path | None], Connection] = connect,
        *,
        seed: int = 0,
        durability: Durability = "full",
        on_error: Callable[[], None] | None = None,
        is_slow: bool = False,
    ) -> None:
        """Take the store's file and the opener of its connections; `on_error` is called when the store fails.

        Shapes: with `is_slow` the disk seems slow, so that commits are gathered and written on a thread.
        """
        self.ledger = Ledger(path)
        self._opener = opener
        self._chance = Chance(str(seed))
        self._durability: Durability = durability
        self._on_error = on_error
        # What takes how long must not change what is done: the same seed writes the same.
        self._timer: Callable[[], float] = _seconds(count()) if is_slow else float
        self._ids = CountedIds()
        self._model = _Model(self._chance)
        self._treadle: Treadle | None = None

    @property
    def _open(self) -> Treadle:
        assert self._treadle is not None
        return self._treadle

    async def run(self) -> Ledger:
        """Do everything, twice with the store opened anew in between, and give what the client was told."""
        for part in (self._first, self._second):
            self._treadle = await self._attempt(self._enter)
            try:
                await part()
            finally:
                await self._close()
        return self.ledger

    async def _first(self) -> None:
        treadle = self._open
        agent = await self._attempt(lambda: treadle.agents.create(model="scripted", tools=[ASK, LOOK, PAY]))
        self._agent = agent
        thread_id = await self._thread()
        await self._turn(thread_id, "two rounds")
        await self._turn(thread_id, "ask me")
        await self._turn(thread_id, "wait for ever", cancel=True)
        await self._turn(thread_id, "next turn")

    async def _second(self) -> None:
        thread_ids = [await self._thread() for _ in range(3)]
        await asyncio.gather(*(self._turn(id_, f"two rounds for {id_}") for id_ in thread_ids))
        await self._attempt(lambda: self._open.threads.update(thread_ids[0], metadata={"n": "1"}))
        await self._turn(thread_ids[0], "y" * 300_000)
        await self._turn(next(iter(self.ledger.threads)), "last turn")

    async def _enter(self) -> Treadle:
        store = SqliteStore(
            self.ledger.path, durability=self._durability, opener=self._opener, timer=self._timer
        )
        return _treadle(store, self.ledger, self._model, ids=self._ids)

    async def _close(self) -> None:
        try:
            await asyncio.wait_for(self._open.close(), HANG_S)
        except StoreError as e:
            self._told(e)
        except TimeoutError:
            self.ledger.problems.append("closing hangs")

    async def _thread(self) -> str:
        thread = await self._attempt(self._open.threads.create)
        self.ledger.threads[thread.id] = []
        return thread.id

    async def _turn(self, thread_id: str, text: str, *, cancel: bool = False) -> None:
        treadle = self._open
        await self._attempt(lambda: treadle.messages.create(thread_id, content=text))
        self.ledger.threads[thread_id].append(text)
        run = await self._attempt(lambda: treadle.runs.create(thread_id, agent=self._agent))
        if cancel:
            await self._until_it_waits(run.id)
            await self._attempt(lambda: self._cancel(run.id))
        run = await self._finish(run.id)
        while run.status == "requires_action":
            outputs = [{"tool_call_id": p.call.id, "output": "told"} for p in run.pending if p.call]
            await self._attempt(lambda outputs=outputs, id_=run.id: self._submit(id_, outputs))
            run = await self._finish(run.id)
        self.ledger.ended[run.id] = run.status
        if run.status not in ("completed", "cancelled"):
            self.ledger.problems.append(f"run {run.id} is {run.status}: {run.last_error}")

    async def _until_it_waits(self, run_id: str) -> None:
        treadle = self._open
        while not self._model.waits.is_set() and treadle.executor.is_walking(run_id):  # noqa: ASYNC110 - a walk that breaks before its model is asked sets no event
            await asyncio.sleep(0)
        self._model.waits.clear()

    async def _cancel(self, run_id: str) -> None:
        try:
            await self._open.runs.cancel(run_id)
        except StateError as e:
            if e.status != "cancelled":
                raise

    async def _submit(self, run_id: str, outputs: Sequence[Mapping[str, str]]) -> None:
        """Give the outputs, unless an attempt before this one did."""
        run = await self._open.runs.get(run_id)
        if run.status == "requires_action":
            await self._open.runs.submit_tool_outputs(run_id, outputs)

    async def _finish(self, run_id: str) -> Run:
        """Wait for a run; one that the store's failure has left is taken up again."""
        treadle = self._open
        for _ in range(TRIES):
            try:
                return await treadle.runs.wait(run_id, timeout_s=HANG_S)
            except StoreError as e:
                self._told(e)
            except TimeoutError:
                self.ledger.problems.append(f"run {run_id} hangs")
                break
            try:
                await self._take_up(run_id)
            except StoreError as e:
                self._told(e)
        self.ledger.problems.append(f"run {run_id} does not end")
        return await treadle.runs.get(run_id)

    async def _take_up(self, run_id: str) -> None:
        runs = self._open.runs
        try:
            if (await runs.get(run_id)).status == "cancelling":
                await runs.cancel(run_id)
            else:
                await runs.resume(run_id)
        except StateError:
            return  # It has ended, or is walked.

    async def _attempt(self, verb: Callable[[], Awaitable[R]]) -> R:
        """Do something until the store lets it be done."""
        for _ in range(TRIES):
            try:
                return await asyncio.wait_for(_awaited(verb), HANG_S)
            except StoreError as e:
                self._told(e)
        msg = f"the store keeps failing: {self.ledger.errors[-1]}"
        raise RuntimeError(msg)

    def _told(self, error: StoreError) -> None:
        self.ledger.errors.append(error)
        if self._on_error is not None:
            self._on_error()
        if str(self.ledger.path) not in error.message or not error.hint:
            self.ledger.problems.append(f"an error names no file or no way out: {error!r}")


def _seconds(numbers: Iterator[int]) -> Callable[[], float]:
    return lambda: float(next(numbers))


def _treadle(
    store: SqliteStore, ledger: Ledger, model: ScriptedProvider, *, ids: Ids | None = None, later_s: float = 0
) -> Treadle:
    payments = ledger.payments

    async def look(place: str) -> str:
        """Look at a place."""
        return f"seen: {place}"

    async def pay(what: str) -> str:
        """Pay once."""
        payments[what] = payments.get(what, 0) + 1
        return f"paid {what}"

    return Treadle(
        store,
        tools=[look, pay],
        providers={"scripted": model},
        clock=FrozenClock(elapsed_s=later_s),
        ids=ids,
        settings=Settings(),
        project=ledger.path.parent,
    )


async def goes_on(path: Path) -> list[str]:
    """Take up every run that a store was left with, take a next turn on every thread, and give what went wrong."""
    problems: list[str] = []
    model = ScriptedProvider(lambda _: "Going on.")
    async with _treadle(SqliteStore(path), Ledger(path), model, later_s=3600) as treadle:
        await treadle.recover()
        for run in await treadle.runs.list(limit=100):
            if run.status in ("queued", "in_progress"):
                await treadle.runs.resume(run.id)
                run = await treadle.runs.wait(run.id, timeout_s=HANG_S)  # noqa: PLW2901 - the same run, later
            if run.status == "requires_action":
                await treadle.runs.cancel(run.id)
        agents = await treadle.agents.list(limit=1)
        for thread in await treadle.threads.list(limit=100) if agents else ():
            await treadle.messages.create(thread.id, content="And now?")
            run = await treadle.runs.create(thread.id, agent=agents[0])
            run = await treadle.runs.wait(run.id, timeout_s=HANG_S)
            if run.output != "Going on.":
                problems.append(f"the next turn of {thread.id} is {run.status}: {run.last_error}")
    return problems + [f"after going on: {problem.message}" for problem in check(path)]


async def _awaited(verb: Callable[[], Awaitable[R]]) -> R:
    return await verb()


async def hold(ledger: Ledger) -> list[str]:
    """Give what of a ledger is not in its store, and what is wrong with the store itself."""
    problems = list(ledger.problems)
    async with Treadle(
        SqliteStore(ledger.path), providers={"scripted": ScriptedProvider(())}, project=ledger.path.parent,
        settings=Settings(),
    ) as treadle:  # fmt: skip
        threads = [thread.id for thread in await treadle.threads.list(limit=100, order="asc")]
        if threads != list(ledger.threads):
            problems.append(f"threads {threads}, told of {list(ledger.threads)}")
        for thread_id, told in ledger.threads.items():
            if thread_id not in threads:
                continue
            rows = await treadle.store.rows(treadle.tenant, thread_id, limit=10_000)
            said = [row.text for row in rows if row.role == "user"]
            if said != told:
                problems.append(f"thread {thread_id} has {said}, its client was told of {told}")
        runs = {run.id: run.status for run in await treadle.runs.list(limit=100)}
        if runs != ledger.ended:
            problems.append(f"runs {runs}, told of {ledger.ended}")
    problems += [f"payment {what} was made {n} times" for what, n in ledger.payments.items() if n != 1]
    problems += [f"check: {problem.message}" for problem in check(ledger.path)]
    connection = connect(ledger.path)
    said = [row[0] for row in connection.execute("PRAGMA integrity_check").fetchall()]
    connection.close()
    return problems + [f"integrity: {line}" for line in said if line != "ok"]


class Case(NamedTuple):
    """What came of one fault: how often it struck and where, and what was wrong afterwards."""

    fault: Fault
    fired: int
    place: str
    problems: tuple[str, ...]


def try_fault(fault: Fault, folder: Path, *, seed: int = 0) -> Case:
    """Run the exercise on a new store in an empty folder, with one fault, and give what came of it.

    Shapes: for every third `nth` the disk seems slow.
    """
    door = FaultDoor(fault)
    exercise = Exercise(
        folder / "store.db",
        door.open,
        seed=seed,
        on_error=door.lift if fault.lasting else None,
        is_slow=fault.nth % 3 == 0,
    )

    async def both() -> list[str]:
        ledger = await exercise.run()
        door.lift()
        return await hold(ledger)

    try:
        problems = asyncio.run(both())
    except Exception as e:  # noqa: BLE001 - whatever breaks the exercise is a finding
        problems = [*exercise.ledger.problems, f"{type(e).__name__}: {e}"]
    return Case(fault, door.fired, door.place, tuple(problems))


def record(path: Path, *, seed: int = 0, durability: Durability = "full") -> PowerLoss:
    """Run the exercise on a new store and give what it wrote.

    Errors: AssertionError where the exercise itself went wrong.
    """
    power = PowerLoss(durability=durability)
    ledger = asyncio.run(Exercise(path, power.open, seed=seed, durability=durability).run())
    assert not ledger.problems, ledger.problems
    return power


# -- the command -----------------------------------------------------------------------------------------------


class Tally:
    """Counts what was tried, and keeps what was wrong."""

    def __init__(self, write: Callable[[str], None] = print) -> None:
        """Take what writes a line for each violation."""
        self.tried = 0
        self.violations = 0
        self._write = write

    def add(self, what: str, problems: Sequence[str]) -> None:
        """Count one case."""
        self.tried += 1
        if problems:
            self.violations += 1
            self._write(f"VIOLATION {what}: {'; '.join(problems)[:2000]}")


def try_faults(
    tally: Tally,
    *,
    layers: Sequence[Layer] = LAYERS,
    errors: Sequence[str] = tuple(ERRORS),
    lasting: bool = False,
    step: int = 1,
    first: int = 1,
) -> None:
    """Try each error at each layer for N = first, first + step …, until a run of the exercise meets no fault."""
    for layer in layers:
        for error in errors:
            for nth in count(first, step):
                with tempfile.TemporaryDirectory(dir=_volume()) as folder:
                    case = try_fault(Fault(error, nth, layer, lasting), Path(folder))
                tally.add(f"{case.fault} at {case.place!r}", case.problems)
                if not case.fired:
                    break


def try_images(tally: Tally, number: int, *, seed: int = 0, each: int = len(MODES)) -> None:
    """Look at that many images of power losses, of as many recordings as it takes; every fourth is of durability normal."""
    for place in count():
        chance = Chance(f"{seed}/{place}")
        durability: Durability = "normal" if place % 4 == 3 else "full"
        with tempfile.TemporaryDirectory(dir=_volume()) as name:
            folder = Path(name)
            power = record(folder / "store.db", seed=chance.number(30), durability=durability)
            for image in power.images(chance, each=each):
                if tally.tried >= number:
                    return
                problems = problems_of(image, power.states, folder, and_go_on=tally.tried % 25 == 24)
                tally.add(f"seed {seed}, recording {place}", problems)


def _volume() -> str | None:
    """Give a folder in memory where the machine has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of its own is made in it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code: 1 where a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m treadle.testing.storage",
        description="Try storage faults and power losses on a store.",
    )
    parser.add_argument(
        "--faults", action="store_true", help="fail every operation in turn, with every error"
    )
    parser.add_argument("--layer", choices=LAYERS, action="append", help="only these layers")
    parser.add_argument("--error", choices=list(ERRORS), action="append", help="only these errors")
    parser.add_argument("--step", type=int, default=1, help="fail every STEP-th operation (default: each)")
    parser.add_argument(
        "--fault", type=Fault.parse, action="append", default=[], help="one fault, as a violation names it"
    )
    parser.add_argument("--images", type=int, default=0, help="how many images of power losses to look at")
    parser.add_argument("--seed", type=int, default=0, help="what the images are drawn by")
    given = parser.parse_args(arguments)
    if not (given.faults or given.images or given.fault):
        parser.error("name --faults, --fault or --images")
    logger = logging.getLogger("treadle")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return int(_carry_out(given))
    finally:
        logger.setLevel(level)


def _carry_out(given: argparse.Namespace) -> bool:
    """Try what was asked for, print the counts, and tell whether a promise was broken."""
    clock, failed = SystemClock(), False
    began = clock.monotonic()
    if given.faults or given.fault:
        tally = Tally()
        for fault in given.fault:
            with tempfile.TemporaryDirectory(dir=_volume()) as folder:
                case = try_fault(fault, Path(folder))
            tally.add(f"{fault} at {case.place!r}", case.problems)
        if given.faults:
            for lasting in (False, True):
                try_faults(
                    tally, layers=given.layer or LAYERS, errors=given.error or tuple(ERRORS), lasting=lasting,
                    step=given.step,
                )  # fmt: skip
        print(f"storage faults: {tally.tried} cases, violations {tally.violations}")  # noqa: T201 - a command
        failed |= bool(tally.violations)
    if given.images:
        tally = Tally()
        try_images(tally, given.images, seed=given.seed)
        print(f"power-loss images: {tally.tried}, violations {tally.violations}")  # noqa: T201 - a command
        failed |= bool(tally.violations)
    print(f"{clock.monotonic() - began:.0f} s")  # noqa: T201 - a command
    return failed


if __name__ == "__main__":
    sys.exit(main())
