"""Power that is lost, for tests: a door to the SQLite store that builds files as a power loss may leave them.

`PowerLoss` records what is written and synced, and gives the `opener` of a store, so that it works under any agent:

    power = PowerLoss()
    treadle = Treadle(SqliteStore(path, opener=power.open), ...)
    ...
    for image in power.images(Chance("1")): ...

Power loss is modelled for writes, truncations, creations and removals of files; a medium that says it has synced
what it has not is not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

import apsw

from treadle.store.connection import Connection, connect
from treadle.testing.chance import Chance
from treadle.testing.watched import Watched

R = TypeVar("R")
Durability = Literal["full", "normal"]

_numbers = count(1)


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


class _Recorded(Watched):
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
