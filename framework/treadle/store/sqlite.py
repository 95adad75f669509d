"""The store in a SQLite file: WAL, one writer connection, commits gathered into groups.

Commits that arrive while the event loop turns are written in one transaction, each inside its own savepoint,
and acknowledged after it: a thousand runs share one fsync. A single walk or client commits at once, since there is
nothing to gather. Where an fsync is slow the group is written on a thread, so that the loop goes on.

Hazard: the writer connection is used by one transaction at a time; while a group is written on the thread,
nothing else touches it. Reads have a connection of their own and see committed data only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import apsw

from treadle.errors import (
    Conflict,
    LeaseLost,
    NotFound,
    Repeated,
    StateError,
    StatementError,
    StoreError,
    ThreadBusy,
)
from treadle.lifecycle import is_terminal
from treadle.objects.agent import Agent
from treadle.objects.event import Event
from treadle.objects.key import Key
from treadle.objects.message import Message, estimate_tokens
from treadle.objects.run import Run, RunStatus, Usage
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.store import rows, statements
from treadle.store.base import (
    Blob,
    Cached,
    Checkpoint,
    Committed,
    Due,
    Graph,
    Order,
    Request,
    Stored,
    StoreStatus,
    T,
    ThreadRows,
)
from treadle.store.connection import Connection, Cursor, connect
from treadle.store.files import (
    close_to_others,
    make_folder,
    make_private,
    place_of_file,
    sync_folder,
    use_wal,
)
from treadle.store.migrate import migrate, newest, refuse_foreign
from treadle.store.queries import load
from treadle.store.sqlite_files import Access, SqliteFiles
from treadle.store.translate import RESTORE, translate

if TYPE_CHECKING:
    from treadle.objects.workflow import Workflow
    from treadle.store.base_files import FileRecord

logger = logging.getLogger("treadle.store")

R = TypeVar("R")
Work = Callable[[], Any]

LARGE_BYTES = 256 * 1024
"""A text longer than this is kept as a blob, once."""
FILE_BYTES = 1024 * 1024
"""A blob longer than this is a file beside the database."""
SLOW_COMMIT_S = 0.003
"""Above this a group is written on the thread: streams would stall otherwise."""
BUSY_MS = 10_000
"""How long another process's lock is waited for."""
IMPATIENT_MS = 50
"""How much of that on the event loop; the rest is waited on the thread, so that everything else goes on."""
CONTENDED_S = 1.0
"""How long the thread is used after somebody else held the lock."""
GATHERED = 100
"""Commits in a row that came alone, after which they are no longer gathered."""
CHECKPOINT_PAGES = {"full": 1000, "normal": 4000}
"""Pages of the log between two checkpoints, by durability.

A longer log copies a page that changes often to the file less often. Where every commit waits for the disk, it
must be short: waiting is cheap only once the log has been as long before, and no longer grows.
"""
POLL_S = 0.1
LOOK_S = 1.0
"""How long a file may have been moved or deleted before a commit notices."""
_LAST = (1 << 62) - 1
_AFTER_ALL = "\U0010ffff"
_Part: TypeAlias = tuple[int, str, int, int]
"""Where rows of a thread lie: the number and the id of the thread, and the first and the last seq."""


def open_url(url: str, *, durability: Literal["full", "normal"] = "full") -> SqliteStore:
    """Open ``sqlite:///PATH`` (four slashes for an absolute path) or ``sqlite://:memory:``."""
    path = url.partition("://")[2]
    if path in (":memory:", "/:memory:"):
        return SqliteStore(None, durability=durability)
    return SqliteStore(Path(path.removeprefix("/")).expanduser(), durability=durability)


class SqliteStore:
    """A store in one file (or in memory, with `path=None`); several processes may use the file at once."""

    def __init__(
        self,
        path: Path | None,
        *,
        durability: Literal["full", "normal"] = "full",
        opener: Callable[[Path | None], Connection] = connect,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Open the file, making it and its folder for this user only where they are missing.

        Shapes: `opener` opens each of the store's connections.
        Units: `timer` gives the seconds by which commits are measured.

        Errors: StoreError when the file cannot be opened, is newer than this code, or is not a treadle store.
        """
        self._path = path
        self._durability = durability
        self._opener = opener
        self._timer = timer
        self._sql = load()
        self._name = str(path) if path else ":memory:"
        if path:
            make_private(path)
        self._kept = 0
        self._is_stuck = False
        self._places: dict[Path, tuple[int, int]] = {}
        self._look_at = 0.0
        self._writer = self._open_writer()
        if path:
            close_to_others(path)
        self._reader: Connection | None = None
        self._cursor = self._writer.cursor()
        self._runs: dict[tuple[str, str], tuple[int, int]] = {}
        self._last: dict[int, tuple[int, int]] = {}
        self._walked: set[int] = set()
        self._enlisted: set[str] = set()
        self._heart: Connection | None = None
        self._heart_lock = threading.Lock()
        self._queue: list[tuple[Work, asyncio.Future[Any]]] = []
        self._scheduled = False
        self._committing: asyncio.Task[Any] | None = None
        self._gathering = 0
        self._writing = False
        self._commit_s = 0.0
        self._contended_until = 0.0
        self._pool: ThreadPoolExecutor | None = None
        # In the order in which they came, as a set of them would not be.
        self._news: dict[asyncio.Event, None] = {}
        self._closed = False
        self.files = SqliteFiles(
            Access(
                name=self._name,
                folder=path.parent / "files" if path else None,
                write=self._write,
                run=self._run,
                changes=self._changes,
                read=self._read,
            )
        )

    def _connect(self, *, durability: Literal["full", "normal"] | None = None) -> Connection:
        connection: Connection | None = None
        try:
            connection = self._opener(self._path)
            connection.set_busy_timeout(BUSY_MS)
            refuse_foreign(connection, name=self._name)
            if self._path:
                use_wal(connection, wait_ms=BUSY_MS)
            connection.pragma("wal_autocheckpoint", CHECKPOINT_PAGES[self._durability])
            connection.pragma("synchronous", (durability or self._durability).upper())
            connection.pragma("temp_store", "MEMORY")
            migrate(connection, name=self._name)
        except BaseException as e:
            if connection is not None:
                self._let_go(connection)
            translated = translate(e, self._name)
            if translated is not e:
                raise translated from e
            raise
        return connection

    @property
    def is_shared(self) -> bool:
        """Tell whether other processes may use the store as well."""
        return self._path is not None

    # -- the group commit ------------------------------------------------------------------------------------

    async def _write(self, work: Callable[[], R]) -> R:
        """Run the work in a transaction and return when it is durable."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._is_alone(loop) and not self._queue and not self._writing and not self._is_slow:
            try:
                return self._transact(work)
            except _Locked:
                self._contended_until = self._timer() + CONTENDED_S
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.append((work, future))
        if not self._scheduled and not self._writing:
            self._scheduled = True
            loop.call_soon(self._flush)
        return await future

    def _is_alone(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a commit that comes now is likely to be the only one of its turn of the loop."""
        if len(self._walked) > 1 or self._gathering:
            return False
        task = asyncio.current_task(loop)
        if self._committing is None:
            self._committing = task
            loop.call_soon(self._next_turn)
        elif self._committing is not task:
            self._gathering = GATHERED
        return not self._gathering

    def _next_turn(self) -> None:
        self._committing = None

    def _transact(self, work: Callable[[], R]) -> R:
        try:
            self._begin()
            result = work()
            self._end()
        except BaseException as e:
            self._roll_back()
            translated = translate(e, self._name)
            if translated is not e:
                raise translated from e
            raise
        self._announce()
        return result

    def _begin(self) -> None:
        if self._is_stuck:
            self._get_unstuck()
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
        except apsw.BusyError as e:
            if self._path is None or self._writing:
                raise
            raise _Locked from e

    def _end(self) -> None:
        """Commit; an error that arrives although the commit is kept goes to the log alone.

        Invariant: `_kept` counts the commits that SQLite says are kept, so nobody has to guess.
        """
        kept, began = self._kept, self._timer()
        if began >= self._look_at:
            self._refuse_moved()
            self._look_at = began + LOOK_S
        try:
            self._cursor.execute("COMMIT")
        except apsw.Error as e:
            if self._kept == kept:
                raise
            logger.warning("%s: a commit is kept, and after it: %s", self._name, e)
        self._commit_s += (self._timer() - began - self._commit_s) * 0.1

    def _on_kept(self, connection: Connection, _: str, pages: int) -> int:
        """Count a commit, and copy the log into the file once it is long; a copy that fails is made again later."""
        self._kept += 1
        if pages >= CHECKPOINT_PAGES[self._durability]:
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.BusyError:
                pass  # Somebody else copies it.
            except apsw.Error as e:
                logger.warning("%s: its log could not be copied into it, and grows: %s", self._name, e)
        return apsw.SQLITE_OK

    def _refuse_moved(self) -> None:
        """Refuse to write to a file that its path does not lead to any more: nobody would find what is written.

        Errors: StoreError.
        """
        for path, place in self._places.items():
            if place_of_file(path) != place:
                raise StoreError(
                    f"{path} was moved, deleted or replaced while it was open",
                    hint="nothing more is written to it; close this process, then open the store again",
                )

    def _roll_back(self) -> None:
        self._last.clear()
        self._enlisted.clear()
        # A full disk has already rolled back when the exception arrives: ask, do not assume.
        if self._is_stuck or not self._writer.in_transaction:
            return
        try:
            self._cursor.execute("ROLLBACK")
        except apsw.Error as e:
            logger.warning("%s: a transaction could not be undone at once: %s", self._name, e)
            self._is_stuck = True

    def _get_unstuck(self) -> None:
        """Undo what could not be undone before, by letting its connection go; memory has no other one.

        Errors: StoreError, and the library's; then the next call tries again.
        """
        if self._path is None:
            self._cursor.execute("ROLLBACK")
        else:
            self._runs.clear()
            self._writer.close()
            self._writer = self._open_writer()
            self._cursor = self._writer.cursor()
        self._is_stuck = False

    def _open_writer(self) -> Connection:
        writer = self._connect()
        if self._path is not None:
            writer.set_busy_timeout(IMPATIENT_MS)
        writer.set_wal_hook(self._on_kept)
        if self._path is not None:
            paths = (self._path, self._path.with_name(f"{self._path.name}-wal"))
            self._places = {path: place_of_file(path) for path in paths}
        return writer

    def _flush(self) -> None:
        """Write what has gathered: at once, or on the thread where the disk is slow."""
        self._scheduled = False
        group = [piece for piece in self._queue if not piece[1].cancelled()]
        self._queue = []
        if not group:
            return
        self._gathering = GATHERED if len(group) > 1 else max(0, self._gathering - 1)
        if not self._is_slow or self._path is None:
            try:
                results = self._write_group(group)
            except _Locked:
                self._contended_until = self._timer() + CONTENDED_S
            else:
                self._settle(group, results)
                return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="treadle-store")
        self._writing = True
        loop = asyncio.get_running_loop()
        written = loop.run_in_executor(self._pool, self._write_patiently, group)

        def after(done: asyncio.Future[list[Any]]) -> None:
            self._writing = False
            self._settle(group, done.result())
            if self._queue and not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._flush)

        written.add_done_callback(after)

    @property
    def _is_slow(self) -> bool:
        """Tell whether to write on the thread: the disk is slow, or somebody else holds the lock."""
        return self._commit_s >= SLOW_COMMIT_S or self._timer() < self._contended_until

    def _write_patiently(self, group: Sequence[tuple[Work, asyncio.Future[Any]]]) -> list[Any]:
        """Write a group as `_write_group`, waiting for whoever holds the lock."""
        self._writer.set_busy_timeout(BUSY_MS)
        try:
            return self._write_group(group)
        finally:
            self._writer.set_busy_timeout(IMPATIENT_MS)

    def _write_group(self, group: Sequence[tuple[Work, asyncio.Future[Any]]]) -> list[Any]:
        """Write a group in one transaction and give each one's result or exception."""
        results: list[Any] = []
        try:
            self._begin()
            for work, _ in group:
                results.append(self._write_one(work) if len(group) > 1 else work())
            self._end()
        except _Locked:
            raise
        except BaseException as e:  # noqa: BLE001 - every waiter is told, whatever happened
            self._roll_back()
            if isinstance(e, StatementError) and len(group) > 1:
                # A tool's statement rolled the whole transaction back: its neighbours are not to blame.
                return [self._write_group([piece])[0] for piece in group]
            return [translate(e, self._name)] * len(group)
        return results

    def _write_one(self, work: Work) -> Any:
        """Run one piece inside its savepoint: its failure undoes nothing of its neighbours."""
        cursor = self._cursor
        cursor.execute("SAVEPOINT piece")
        try:
            result = work()
        except Exception as e:
            if not self._writer.in_transaction:
                raise
            self._last.clear()
            self._enlisted.clear()
            cursor.execute("ROLLBACK TO piece")
            cursor.execute("RELEASE piece")
            return translate(e, self._name)
        cursor.execute("RELEASE piece")
        return result

    def _settle(self, group: Sequence[tuple[Work, asyncio.Future[Any]]], results: Sequence[Any]) -> None:
        self._announce()
        for (_, future), result in zip(group, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _announce(self) -> None:
        for event in self._news:
            event.set()

    # -- numbers ---------------------------------------------------------------------------------------------

    # Hazard: another process may delete what a number stands for. So numbers are looked up by whoever uses
    # them; only a walk remembers that of its run, since every commit looks at the run first.

    def _one(
        self, cursor: Cursor | Connection, query: str, values: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        try:
            return cursor.execute(self._sql[query], values).fetchone()
        except apsw.Error as e:
            raise translate(e, self._name) from e

    def _thread(self, tenant: str, id_: str, cursor: Cursor | Connection) -> tuple[int, int | None]:
        """Give the number of a thread, and of the rows that it shares where it is a fork."""
        row = self._one(cursor, "number_of_thread", (tenant, id_))
        if row is None:
            raise NotFound("thread", id_)
        return cast("tuple[int, int | None]", row)

    def _thread_no(self, tenant: str, id_: str, cursor: Cursor | Connection) -> int:
        return self._thread(tenant, id_, cursor)[0]

    def _run_no(self, tenant: str, id_: str, cursor: Cursor | Connection) -> tuple[int, int]:
        row = self._one(cursor, "number_of_run", (tenant, id_))
        if row is None:
            raise NotFound("run", id_)
        return cast("int", row[0]), cast("int", row[1])

    def _graph_no(self, tenant: str, digest: str) -> int:
        row = self._cursor.execute(self._sql["number_of_graph"], (tenant, digest)).fetchone()
        if row is None:
            raise NotFound("step graph", digest)
        return cast("int", row[0])

    # -- insert ----------------------------------------------------------------------------------------------

    async def insert(
        self,
        tenant: str,
        *records: Stored,
        claim_by: Walker | None = None,
        in_line: bool = False,
        request: Request | None = None,
    ) -> tuple[Stored, ...]:
        """Keep new records, in order, in one transaction, and give them back as stored."""
        self._prepare_files(tenant, records)
        made: list[tuple[str, str]] = []

        def work() -> tuple[Stored, ...]:
            threads: dict[str, int] = {}
            if request is not None:
                self._refuse_repeated(tenant, request)
            if in_line and (behind := self._behind(tenant, records)) is not None:
                stored = tuple(self._put_in_line(tenant, r, behind, made, threads) for r in records)
            else:
                stored = tuple(self._insert_one(tenant, r, claim_by, made, threads) for r in records)
            if request is not None:
                self._insert_request(tenant, request, _id_of(stored[-1]))
            return stored

        return await self._write_made(work, made)

    async def _write_made(self, work: Callable[[], R], made: Sequence[tuple[str, str]]) -> R:
        """Write, and forget the numbers of the runs that were made where all of it was rolled back."""
        try:
            return await self._write(work)
        except BaseException:
            for key in made:
                self._walked.discard(self._runs.pop(key, (0, 0))[0])
            raise

    async def asked(self, tenant: str, request: Request) -> None:
        """Raise Repeated where the same was asked under that key before."""
        found = self._read_one("get_request", (tenant, request.key))
        if found is not None:
            raise _repeated(request, found)

    def _refuse_repeated(self, tenant: str, request: Request) -> None:
        found = self._cursor.execute(self._sql["get_request"], (tenant, request.key)).fetchone()
        if found is not None:
            raise _repeated(request, found)

    def _insert_request(self, tenant: str, request: Request, object_id: str) -> None:
        stands_for = request.object_id or object_id
        values = (tenant, request.key, request.digest, stands_for, request.now_ms)
        self._cursor.execute(self._sql["insert_request"], values)

    def _insert_one(
        self,
        tenant: str,
        record: Stored,
        claim_by: Walker | None,
        made: list[tuple[str, str]],
        threads: dict[str, int],
    ) -> Stored:
        """Keep one record; `threads` has the numbers of the threads of this transaction."""
        cursor, sql = self._cursor, self._sql
        match record:
            case Message():
                no = threads.get(record.thread_id) or self._thread_no(tenant, record.thread_id, cursor)
                threads[record.thread_id] = no
                return self._insert_message(tenant, no, record, run_no=None)
            case Run():
                no = threads.get(record.thread_id) or self._thread_no(tenant, record.thread_id, cursor)
                return self._insert_run(tenant, record, claim_by, made, no)
            case Thread():
                if record.forked_from is None:
                    values = (tenant, record.id, record.created_ms, rows.thread_body(record))
                    cursor.execute(sql["insert_thread"], values)
                else:
                    self._insert_fork(tenant, record, record.forked_from)
                threads[record.id] = self._writer.last_insert_rowid()
                return record
            case _ if _kind(type(record)) is not None:
                self._insert_agent(tenant, cast("Agent | Workflow", record))
                return record
            case Cached():
                cursor.execute(sql["put_result"], (tenant, *record))
                return record
            case Graph():
                cursor.execute(sql["insert_graph"], (tenant, record.digest, record.text))
                return record
            case Blob():
                self._insert_blob(tenant, record)
                return record
            case ThreadRows():
                for row in record.read():
                    self._insert_message(tenant, threads[record.id], row, run_no=None)
                return record
            case _:
                self.files.insert(tenant, cast("FileRecord", record))
                return record

    def _insert_fork(self, tenant: str, record: Thread, source_id: str) -> None:
        """Keep a thread that begins with the first rows of another one; nothing is copied."""
        cursor, at = self._cursor, record.forked_at
        source_no, _ = self._thread(tenant, source_id, cursor)
        length = self._next_seq(source_no) - 1
        if not 0 <= at <= length:
            raise StateError(
                f"thread {source_id} has {length} rows: it cannot be forked after row {at}",
                hint=f"fork it after a row from 0 to {length}",
            )
        owner = self._owner(source_no, at, cursor) if at else None
        if owner is not None:
            row = cursor.execute(self._sql["results_at"], (owner[0] << rows.SEQ_BITS | at,)).fetchone()
            calls, answered, asked = cast("tuple[int, int, int]", row)
            if answered < calls:
                raise StateError(
                    f"thread {source_id} cannot be forked after row {at}: calls of row {asked} have their results"
                    " after it, or none yet",
                    hint=f"fork it after row {asked - 1}, or after the last result",
                )
        cursor.execute(
            self._sql["insert_fork"],
            (
                tenant, record.id, record.created_ms, rows.thread_body(record), source_id,
                owner and owner[0], at or None,
            ),
        )  # fmt: skip

    def _owner(self, thread_no: int, seq: int, cursor: Cursor | Connection) -> tuple[int, str] | None:
        """Give the number of the thread that has a row of a thread, its own or a shared one, and the thread's id."""
        parts = cast("list[_Part]", cursor.execute(self._sql["parts_of_thread"], (thread_no,)).fetchall())
        found = next((no for no, _, first, last in parts if first <= seq <= last), None)
        return None if found is None else (found, parts[0][1])

    def _insert_agent(self, tenant: str, agent: Agent | Workflow) -> None:
        cursor, sql = self._cursor, self._sql
        kind = _kind(type(agent))
        if agent.version == 1:
            cursor.execute(
                sql["insert_agent"],
                (tenant, kind, agent.id, agent.version, agent.name, agent.origin, agent.created_ms),
            )
        else:
            cursor.execute(
                sql["advance_agent"], (agent.version, agent.name, tenant, kind, agent.id, agent.version - 1)
            )
            if not self._writer.changes():
                raise Conflict(
                    f"{kind} '{agent.id}' is not at version {agent.version - 1} any more",
                    hint="read it again",
                )
        cursor.execute(
            sql["insert_agent_version"],
            (tenant, agent.id, agent.version, agent.spec.digest, agent.created_ms, rows.spec(agent)),
        )

    def _insert_message(self, tenant: str, thread_no: int, record: Message, *, run_no: int | None) -> Message:
        if not record.seq:
            record = record.model_copy(update={"seq": self._next_seq(thread_no)})
        text, digest = record.text, None
        if text is not None and len(text) > LARGE_BYTES // 4:
            content = text.encode()
            if len(content) > LARGE_BYTES:
                digest, text = hashlib.sha256(content).hexdigest(), None
                self._insert_blob(tenant, Blob(digest, content))
        calls = len(record.tool_calls)
        self._cursor.execute(
            self._sql["insert_message"],
            (
                thread_no << rows.SEQ_BITS | record.seq,
                tenant,
                record.role,
                record.status,
                record.is_listed,
                "1" * calls if calls else None,
                record.reply_seq,
                record.call_index,
                record.tokens,
                run_no,
                record.created_ms,
                text,
                digest,
                rows.message_body(record),
            ),
        )
        if run_no is not None or not record.is_listed:
            return record
        id_ = rows.message_id(tenant, thread_no, record.thread_id, record.seq)
        return record.model_copy(update={"id": id_})

    def _insert_run(
        self, tenant: str, run: Run, claim_by: Walker | None, made: list[tuple[str, str]], thread_no: int
    ) -> Run:
        cursor, sql = self._cursor, self._sql
        first_seq = run.first_seq or self._next_seq(thread_no)
        parent = self._run_no(tenant, run.parent_id, cursor)[0] if run.parent_id else None
        if claim_by is not None and not self._enlist(claim_by):
            claim_by = None
        born = 2 if claim_by is None else 3
        row = cursor.execute(
            sql["insert_run"],
            (
                tenant, run.id, thread_no, parent, run.agent_id, run.agent_version, run.graph, run.status, run.rev,
                run.fence, first_seq, born, run.created_ms, run.expires_ms, run.wake_ms, run.walked_ms,
                rows.dump_body(run.metadata), rows.run_body(run), run.in_line or None,
            ),
        ).fetchone()  # fmt: skip
        if row is None:
            self._graph_no(tenant, run.graph)
            raise NotFound("agent", run.agent_id)
        no = cast("int", row[0])
        made.append((tenant, run.id))
        self._runs[tenant, run.id] = (no, thread_no)
        _trim(self._runs)
        if claim_by is None:
            return run.model_copy(update={"first_seq": first_seq})
        cursor.execute(sql["claim_run"], (claim_by.id, run.created_ms, no, tenant))
        self._walked.add(no)
        changes = {
            "status": "in_progress", "rev": run.rev + 1, "fence": run.fence + 1, "walker": claim_by.id,
            "started_ms": run.created_ms, "first_seq": first_seq, "wake_ms": None,
        }  # fmt: skip
        run = run.model_copy(update=changes)
        self._last[no] = (run.rev, born)
        return run

    # -- the line before a busy thread -----------------------------------------------------------------------

    def _behind(self, tenant: str, records: Sequence[Stored]) -> int | None:
        """Give the number of the run behind which records for a busy thread stand, None where it is free."""
        thread_id = next((r.thread_id for r in records if isinstance(r, (Message, Run))), None)
        if thread_id is None or any(isinstance(r, Thread) for r in records):
            return None
        thread_no = self._thread_no(tenant, thread_id, self._cursor)
        row = self._cursor.execute(self._sql["last_in_line"], (tenant, thread_no)).fetchone()
        return cast("int | None", cast("tuple[Any, ...]", row)[0])

    def _put_in_line(
        self,
        tenant: str,
        record: Stored,
        behind: int,
        made: list[tuple[str, str]],
        threads: dict[str, int],
    ) -> Stored:
        """Keep a record that waits for its thread; whatever is no part of a thread is kept at once."""
        if isinstance(record, Message):
            no = threads.get(record.thread_id) or self._thread_no(tenant, record.thread_id, self._cursor)
            threads[record.thread_id] = no
            values = (tenant, no, behind, record.model_dump_json())
            row = self._cursor.execute(self._sql["queue_message"], values).fetchone()
            number = cast("int", cast("tuple[Any, ...]", row)[0])
            return record.model_copy(update={"id": rows.queued_id(tenant, no, record.thread_id, number)})
        if isinstance(record, Run):
            record = record.model_copy(update={"in_line": True, "first_seq": rows.SEQ_MASK})
        return self._insert_one(tenant, record, None, made, threads)

    def _advance_line(self, tenant: str, thread_no: int, thread_id: str) -> str | None:
        """Append what waited for the run that has ended, and give the turn to the next one; give its id."""
        cursor, sql = self._cursor, self._sql
        row = cursor.execute(sql["line_of_thread"], (thread_no,)).fetchone()
        following, has_messages = cast("tuple[int | None, int]", row)
        if has_messages:
            before = _LAST if following is None else following
            for number, body in cursor.execute(sql["queued_messages"], (thread_no, before)).fetchall():
                id_ = rows.queued_id(tenant, thread_no, thread_id, number)
                waited = Message.model_validate_json(body).model_copy(
                    update={"seq": self._next_seq(thread_no), "id": id_}
                )
                self._insert_message(tenant, thread_no, waited, run_no=None)
                cursor.execute(sql["append_queued"], (thread_no << rows.SEQ_BITS | waited.seq, number))
        if following is None:
            return None
        cursor.execute(sql["promote_run"], (self._next_seq(thread_no), following))
        found = cursor.execute(sql["id_of_run"], (following,)).fetchone()
        return cast("str", cast("tuple[Any, ...]", found)[0])

    # -- walkers ---------------------------------------------------------------------------------------------

    def _enlist(self, walker: Walker) -> bool:
        """Make a walker known, and tell whether it may hold runs: who was declared dead may not."""
        cursor = self._cursor
        if walker.id not in self._enlisted:
            values = (walker.id, walker.host, walker.boot, walker.space, walker.pid, walker.until_ms)
            cursor.execute(self._sql["enlist_walker"], values)
            self._enlisted.add(walker.id)
        return cursor.execute(self._sql["living_walker"], (walker.id,)).fetchone() is not None

    def beat(self, walker_id: str, until_ms: int) -> bool:
        """Prolong a walker's lease at once, on a connection of its own; False says that it was declared dead."""
        with self._heart_lock:
            self._check_open()
            if self._path is None:
                connection = self._writer
            else:
                connection = self._heart = self._heart or self._connect(durability="normal")
            try:
                connection.execute(self._sql["beat_of_walker"], (until_ms, walker_id))
                return connection.changes() == 1
            except apsw.Error as e:
                raise translate(e, self._name) from e

    async def walkers(self) -> list[Walker]:
        """Give every walker that the store knows."""
        return [Walker._make((*row[:7], bool(row[7]))) for row in self._read("list_walkers", ())]

    async def bury(self, walker: Walker) -> bool:
        """Declare a walker dead, unless its heart has beaten since it was read."""

        def work() -> bool:
            self._cursor.execute(self._sql["bury_walker"], (walker.id, walker.beat))
            return self._writer.changes() == 1

        return await self._write(work)

    async def retire(self, walker_id: str) -> None:
        """Let a walker go: whatever it still holds is free at once."""

        def work() -> None:
            self._cursor.execute(self._sql["retire_walker"], (walker_id,))
            self._cursor.execute(self._sql["forget_walkers"])

        if self._path is None or self._writing or self._queue:
            await self._write(work)
            return
        self._check_open()
        # Nobody needs to know this after a power loss: it is not worth a wait for the disk.
        # Invariant: nothing else is written until the writer waits again, or another one has been opened.
        try:
            if self._is_stuck:
                self._get_unstuck()
            self._writer.pragma("synchronous", "NORMAL")
            try:
                self._transact(work)
            finally:
                is_stuck, self._is_stuck = self._is_stuck, True
                self._writer.pragma("synchronous", self._durability.upper())
                self._is_stuck = is_stuck
        except apsw.Error as e:
            raise translate(e, self._name) from e

    async def due(
        self,
        walker_id: str,
        *,
        now_ms: int,
        after: int = 0,
        limit: int = 500,
        held: bool = False,
        walkable: bool = True,
    ) -> list[Due]:
        """Give runs that need somebody, in the order they were made."""
        found = self._read("due_runs", (walker_id, now_ms, after, limit, held, walkable))
        late = self._read("due_in_line", (now_ms, after, limit))
        if late:
            found = sorted(found + late)[:limit]
        return [Due._make((*row[:4], *map(bool, row[4:7]), row[7], bool(row[8]))) for row in found]

    async def tidy(self, *, asked_before_ms: int, now_ms: int = 0) -> None:
        """Forget dead walkers that hold nothing, files that have expired, and what is older than a time."""

        def work() -> list[tuple[str, str]]:
            self._cursor.execute(self._sql["forget_walkers"])
            self._cursor.execute(self._sql["forget_requests"], (asked_before_ms,))
            self._cursor.execute(self._sql["forget_results"], (now_ms,))
            return self.files.delete_expired(now_ms)

        await self.files.sweep(await self._write(work), left_before_ms=asked_before_ms)

    def _next_seq(self, thread_no: int) -> int:
        row = self._cursor.execute(self._sql["last_position"], (thread_no,)).fetchone()
        last = cast("tuple[int | None]", row)[0]
        return (last & rows.SEQ_MASK if last else 0) + 1

    def _insert_event(self, tenant: str, run_no: int, seq: int, event: Event) -> None:
        self._cursor.execute(
            self._sql["insert_event"],
            (tenant, run_no, seq, event.name, event.object_id, rows.event_data(event)),
        )

    def _last_event(self, tenant: str, run_no: int, rev: int) -> int:
        """Give the number of a run's last event.

        Invariant: whoever is not the walker of a run writes its events with a move only, which raises the
        revision; so within one revision the number that was left behind here is the last one.
        """
        known = self._last.get(run_no)
        if known is not None and known[0] == rev:
            return known[1]
        row = self._cursor.execute(self._sql["last_event"], (tenant, run_no)).fetchone()
        return cast("int", cast("tuple[Any, ...]", row)[0])

    # -- blobs -----------------------------------------------------------------------------------------------

    def _insert_blob(self, tenant: str, blob: Blob) -> None:
        inline = len(blob.content) <= FILE_BYTES or self._path is None
        if not inline:
            self._write_file(tenant, blob)
        self._cursor.execute(
            self._sql["insert_blob"],
            (tenant, blob.digest, len(blob.content), blob.content if inline else None),
        )

    def _prepare_files(self, tenant: str, records: Sequence[Stored]) -> None:
        """Write large blobs before the transaction, so that it never waits for their fsync."""
        if self._path is None:
            return
        for record in records:
            if isinstance(record, Blob) and len(record.content) > FILE_BYTES:
                self._write_file(tenant, record)

    def _file_of(self, tenant: str, digest: str) -> Path:
        assert self._path is not None
        scope = hashlib.sha256(tenant.encode()).hexdigest()[:16]
        return self._path.parent / "files" / scope / digest[:2] / digest

    def _write_file(self, tenant: str, blob: Blob) -> None:
        target = self._file_of(tenant, blob.digest)
        if target.exists():
            return
        try:
            for folder in (target.parents[2], target.parents[1], target.parent):
                make_folder(folder)
            part = target.with_name(f"{blob.digest}.{os.getpid()}.{threading.get_ident()}.part")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(blob.content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            sync_folder(target.parent)
        except OSError as e:
            raise StoreError(
                f"cannot keep a file of {len(blob.content)} bytes beside {self._name}: {e}"
            ) from e

    async def blob(self, tenant: str, digest: str) -> bytes:
        """Give a large text."""
        return self._blob(tenant, digest)

    def _blob(self, tenant: str, digest: str) -> bytes:
        row = self._read_one("get_blob", (tenant, digest))
        if row is None:
            raise NotFound("blob", digest)
        if row[0] is not None:
            content = bytes(row[0])
        else:
            try:
                content = self._file_of(tenant, digest).read_bytes()
            except OSError as e:
                raise StoreError(f"the file of blob {digest} cannot be read: {e}", hint=RESTORE) from e
        if hashlib.sha256(content).hexdigest() != digest:
            raise StoreError(f"blob {digest} of {self._name} is not what was kept", hint=RESTORE)
        return content

    # -- read ------------------------------------------------------------------------------------------------

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Give the rows of a query, all of them: a half-read one would hold its snapshot.

        Between transactions the writer reads too, since its page cache is warm; while a group is written on the
        thread, a connection of its own reads what is committed.
        """
        try:
            return self._reading().execute(self._sql[query], values).fetchall()
        except (apsw.Error, UnicodeDecodeError) as e:
            raise translate(e, self._name) from e

    def _run(self, query: str, values: tuple[Any, ...]) -> Cursor:
        return self._cursor.execute(self._sql[query], values)

    def _changes(self) -> int:
        return self._writer.changes()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed", hint="open it again")

    def _reading(self) -> Connection:
        self._check_open()
        if not self._writing:
            if self._is_stuck:
                self._get_unstuck()
            return self._writer
        if self._reader is None:
            self._reader = self._connect()
        return self._reader

    def _read_one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        found = self._read(query, values)
        return found[0] if found else None

    async def get(self, cls: type[T], tenant: str, id_: str, *, version: int | None = None) -> T:
        """Give one object; agents at their newest version unless one is named."""
        found: Any = None
        if (kind := _kind(cls)) is not None:
            found = self._agent(kind, tenant, id_, version)
        elif cls is Thread:
            row = self._read_one("get_thread", (tenant, id_))
            found = rows.thread(tenant, row) if row else None
        elif cls is Run:
            row = self._read_one("get_run", (tenant, id_))
            found = rows.run(tenant, row) if row else None
        elif cls is Message:
            found = self._message_at(tenant, id_)
        if found is None:
            raise NotFound(cls.__name__.lower(), id_)
        return cast("T", found)

    def _agent(self, kind: str, tenant: str, id_: str, version: int | None) -> Agent | Workflow | None:
        row = (
            self._read_one("get_agent", (tenant, kind, id_))
            if version is None
            else self._read_one("get_agent_version", (tenant, kind, id_, version))
        )
        return _READERS[kind](tenant, row) if row else None

    def _message_at(self, tenant: str, id_: str) -> Message | None:
        queued = self._queued(tenant, id_)
        if isinstance(queued, Message):
            return queued
        place = rows.position(tenant, id_)
        position = queued if queued is not None else place[0] if place else None
        if position is None:
            return None
        row = self._read_one("get_message", (tenant, position))
        if row is None and place is not None:
            return self._shared_at(tenant, position, place[1])
        if row is None or row[11] is None or (place is not None and not place[1](cast("str", row[11]))):
            return None
        return self._message(tenant, row, "")

    def _shared_at(self, tenant: str, position: int, is_of: Callable[[str], bool]) -> Message | None:
        """Give the message at a place of a fork where it lies in another thread."""
        thread_no, seq = position >> rows.SEQ_BITS, position & rows.SEQ_MASK
        owner = self._owner(thread_no, seq, self._reading())
        if owner is None or not is_of(owner[1]):
            return None
        row = self._read_one("get_message", (tenant, owner[0] << rows.SEQ_BITS | seq))
        return self._shared(tenant, row, thread_no, owner[1]) if row else None

    def _shared(self, tenant: str, row: rows.Row, thread_no: int, thread_id: str) -> Message:
        """Read a row that a thread shares: there it is a message of its own, with an id of its own."""
        found = self._message(tenant, (*row[:11], None, *row[12:]), thread_id)
        if not found.id:
            return found
        return found.model_copy(update={"id": rows.message_id(tenant, thread_no, thread_id, found.seq)})

    def _queued(self, tenant: str, id_: str) -> Message | int | None:
        """Give the message that waits under an id, or its position once it has one; None for any other id."""
        found = rows.queue_number(id_)
        row = self._read_one("get_queued", (tenant, found[0])) if found else None
        if found is None or row is None:
            return None
        owner = self._read_one("id_of_thread", (row[0],))
        if owner is None or not found[1](tenant, cast("str", owner[0])):
            return None
        if row[1] is not None:
            return cast("int", row[1])
        return Message.model_validate_json(cast("str", row[2])).model_copy(update={"id": id_})

    def message_id(self, tenant: str, thread_id: str, seq: int) -> str:
        """Give the id that the message at a place of a thread has, or will have."""
        return rows.message_id(tenant, self._thread_no(tenant, thread_id, self._reading()), thread_id, seq)

    def _message(self, tenant: str, row: rows.Row, thread_id: str) -> Message:
        text = row[8]
        if row[9]:
            text = self._blob(tenant, row[9]).decode()
        return rows.message(tenant, row, thread_id, text)

    async def find(self, cls: type[T], tenant: str, prefix: str) -> list[str]:
        """Give up to three ids that begin with a text, newest first."""
        bounds = (prefix, prefix + _AFTER_ALL)
        if (kind := _kind(cls)) is not None:
            found = self._read("agents_by_prefix", (tenant, kind, *bounds))
        else:
            query = {"Thread": "threads_by_prefix", "Run": "runs_by_prefix"}[cls.__name__]
            found = self._read(query, (tenant, *bounds))
        return [cast("str", row[0]) for row in found]

    async def agent_named(self, tenant: str, name: str) -> Agent | None:
        """Give the agent of a file by its name."""
        row = self._read_one("get_agent_by_name", (tenant, "agent", name))
        return rows.agent(tenant, row) if row else None

    async def workflow_named(self, tenant: str, name: str) -> Workflow | None:
        """Give the workflow of a file by its name."""
        row = self._read_one("get_agent_by_name", (tenant, "workflow", name))
        return rows.workflow(tenant, row) if row else None

    async def children(self, tenant: str, run_id: str) -> list[Run]:
        """Give the child runs of a run in the order they were made."""
        no, _ = self._run_no(tenant, run_id, self._reading())
        return [rows.run(tenant, row) for row in self._read("children_of_run", (tenant, no))]

    async def cached(self, tenant: str, key: str, *, now_ms: int) -> str | None:
        """Give the result that is kept under a key, as JSON text; None where its time is over."""
        row = self._read_one("get_result", (tenant, key, now_ms))
        return cast("str", row[0]) if row else None

    async def list(
        self,
        cls: type[T],
        tenant: str,
        *,
        parent: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        run: str | None = None,
    ) -> list[T]:
        """Give a page of objects in the order they were made."""
        if (kind := _kind(cls)) is not None:
            for id_ in (after, before):
                if id_ is not None and self._read_one("known_agent", (tenant, kind, id_)) is None:
                    return []
            low, high = _span(after, before, order, "", _AFTER_ALL)
            found = self._read(f"list_agents_{order}", (tenant, kind, low, high, limit))
            return cast("list[T]", [_READERS[kind](tenant, row) for row in found])
        if cls is Thread:
            low, high = self._numbers("number_of_thread", tenant, after, before, order)
            found = self._read(f"list_threads_{order}", (tenant, low, high, limit))
            return cast("list[T]", [rows.thread(tenant, row) for row in found])
        if cls is Run:
            low, high = self._numbers("number_of_run", tenant, after, before, order)
            if parent is None:
                found = self._read(f"list_runs_{order}", (tenant, low, high, limit))
            else:
                thread_no = self._thread_no(tenant, parent, self._reading())
                found = self._read(f"list_thread_runs_{order}", (tenant, thread_no, low, high, limit))
            return cast("list[T]", [rows.run(tenant, row) for row in found])
        if parent is None:
            raise StateError("messages are listed thread by thread", hint="name the thread")
        no, shared = self._thread(tenant, parent, self._reading())
        seqs = [self._bound(tenant, parent, id_, no, shared) for id_ in (after, before)]
        low, high = _span(seqs[0], seqs[1], order, 0, 1 << rows.SEQ_BITS)
        of_run = None if run is None else self._read_one("number_of_run", (tenant, run))
        if run is not None and of_run is None:
            return []
        spans = self._spans(no, shared, low, high)
        found = self._page(f"list_messages_{order}", tenant, spans, limit, order, of_run and of_run[0])
        return cast("list[T]", self._messages(tenant, found, no, parent))

    def _spans(self, thread_no: int, shared: int | None, low: int, high: int) -> list[tuple[int, int]]:
        """Give the positions, in order, between which the rows of a thread lie that are between two seqs, all exclusive."""
        base = thread_no << rows.SEQ_BITS
        if shared is None or low >= shared:
            return [(base + low, base + high)]
        parts = cast("list[_Part]", self._read("parts_of_thread", (thread_no,)))
        spans: list[tuple[int, int]] = []
        for no, _, first, last in reversed(parts):
            begin, end, base = max(low, first - 1), min(high, last + 1), no << rows.SEQ_BITS
            if end - begin > 1:
                spans.append((base + begin, base + end))
        return spans

    def _page(
        self,
        query: str,
        tenant: str,
        spans: Sequence[tuple[int, int]],
        limit: int,
        order: Order,
        *more: rows.Row | int | None,
    ) -> list[tuple[Any, ...]]:
        """Give the rows of a page, which may lie in several threads; nearly always they lie in one."""
        if len(spans) == 1:
            return self._read(query, (tenant, *spans[0], limit, *more))
        found: list[tuple[Any, ...]] = []
        for span in spans if order == "asc" else reversed(spans):
            found += self._read(query, (tenant, *span, limit - len(found), *more))
            if len(found) >= limit:
                break
        return found

    def _messages(
        self, tenant: str, found: Sequence[rows.Row], thread_no: int, thread_id: str
    ) -> list[Message]:
        return [
            self._message(tenant, row, thread_id)
            if row[0] >> rows.SEQ_BITS == thread_no
            else self._shared(tenant, row, thread_no, thread_id)
            for row in found
        ]

    def _bound(
        self, tenant: str, thread_id: str, id_: str | None, thread_no: int, shared: int | None
    ) -> int | None:
        """Turn a message's id into a bound of a page of its thread: its seq.

        Shapes: a fork knows the messages that it shares by the ids of the threads they lie in as well.

        Errors: NotFound for an id that is of no message of the thread.
        """
        if id_ is None:
            return None
        queued, place = self._queued(tenant, id_), rows.position(tenant, id_)
        position = queued if isinstance(queued, int) else place[0] if place else 0
        no, seq = position >> rows.SEQ_BITS, position & rows.SEQ_MASK
        if no == thread_no and seq and (place is None or place[1](thread_id)):
            return seq
        for owner, owner_id, first, last in self._read("parts_of_thread", (thread_no,)) if shared else ():
            if no == owner and first <= seq <= last and (place is None or place[1](owner_id)):
                return seq
        raise NotFound("message", id_)

    def _numbers(
        self, query: str, tenant: str, after: str | None, before: str | None, order: Order
    ) -> tuple[int, int]:
        """Turn the ids of a page's bounds into numbers; an id that is not there bounds an empty page."""
        if after is None and before is None:
            return 0, _LAST
        empty = -1 if order == "desc" else _LAST

        def number(id_: str | None, unknown: int) -> int | None:
            if id_ is None:
                return None
            row = self._read_one(query, (tenant, id_))
            return cast("int", row[0]) if row else unknown

        return _span(number(after, empty), number(before, _LAST - empty), order, 0, _LAST)

    async def rows(
        self,
        tenant: str,
        thread_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 64,
        order: Order = "asc",
        role: Literal["user"] | None = None,
    ) -> list[Message]:
        """Give a thread's rows as the model is sent them, between two seqs, exclusive."""
        no, shared = self._thread(tenant, thread_id, self._reading())
        spans = self._spans(no, shared, after, before if before is not None else rows.SEQ_MASK)
        found = (
            self._page("first_user_row", tenant, spans, 1, "asc")
            if role == "user"
            else self._page(f"rows_{order}", tenant, spans, limit, order)
        )
        return self._messages(tenant, found, no, thread_id)

    async def length(self, tenant: str, thread_id: str) -> int:
        """Give how many rows a thread has."""
        no = self._thread_no(tenant, thread_id, self._reading())
        row = self._read_one("last_position", (no,))
        return (row[0] & rows.SEQ_MASK) if row and row[0] else 0

    async def active_run(self, tenant: str, thread_id: str) -> str | None:
        """Give the id of the run that a thread is busy with."""
        no = self._thread_no(tenant, thread_id, self._reading())
        row = self._read_one("active_run", (tenant, no))
        return cast("str", row[0]) if row else None

    async def steps(self, tenant: str, run_id: str, *, first: int = 0) -> list[Step]:
        """Give a run's journal in order, from the row whose `n` is `first` on."""
        no, _ = self._run_no(tenant, run_id, self._reading())
        blob = partial(self._blob, tenant)
        found = self._read("steps_of_run", (tenant, no, first))
        return [rows.step(tenant, run_id, row, blob) for row in found]

    async def graph(self, tenant: str, digest: str) -> str:
        """Give the canonical text of a step graph."""
        row = self._read_one("get_graph", (tenant, digest))
        if row is None:
            raise NotFound("step graph", digest)
        return cast("str", row[0])

    async def events(self, tenant: str, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Give a run's committed events after a number."""
        no, thread_no = self._run_no(tenant, run_id, self._reading())
        thread = self._read_one("id_of_thread", (thread_no,))
        message_id = partial(rows.message_id, tenant, thread_no, thread[0] if thread else "")
        bounds = (tenant, no, after, limit)
        row = self._read_one("get_run", (tenant, run_id))
        numbers = self._read_one("last_event", (tenant, no))
        if row is None or numbers is None:
            raise NotFound("run", run_id)
        found = rows.run_events(rows.run(tenant, row), numbers[1], numbers[0])
        found += [rows.event(run_id, row) for row in self._read("events_after", bounds)]
        for row in self._read("step_events_after", bounds):
            found += rows.step_events(rows.step(tenant, run_id, row), message_id)
        return sorted((e for e in found if e.seq and e.seq > after), key=lambda e: e.seq or 0)[:limit]

    async def last_event(self, tenant: str, run_id: str) -> int:
        """Give the number of a run's last committed event."""
        no, _ = self._run_no(tenant, run_id, self._reading())
        found = self._read_one("last_event", (tenant, no))
        status = self._read_one("head_of_run", (no, tenant))
        if found is None or status is None:
            raise NotFound("run", run_id)
        return cast("int", found[0]) + is_terminal(cast("str", status[1]))

    # -- change ----------------------------------------------------------------------------------------------

    async def replace(self, tenant: str, record: Thread | Message | Run) -> None:
        """Write an object's notes anew; nothing else of it changes."""
        key: str | int = record.id
        match record:
            case Thread():
                query, body = "replace_thread", rows.thread_body(record)
            case Message():
                query, body = "replace_message", rows.message_body(record)
                queued = self._queued(tenant, record.id)
                place = rows.position(tenant, record.id)
                key = place[0] if place and place[1](record.thread_id) else -1
                if isinstance(queued, Message):
                    body = record.model_copy(update={"id": ""}).model_dump_json()
                    query, number = "replace_queued", rows.queue_number(record.id)
                    key = number[0] if number else -1
                elif queued is not None:
                    key = queued
            case Run():
                query, body = "update_run_notes", rows.dump_body(record.metadata)

        def work() -> None:
            self._cursor.execute(self._sql[query], (body, tenant, key))
            if self._writer.changes():
                return
            found = self._lying(tenant, cast("int", key)) if query == "replace_message" else None
            if found is None:
                raise NotFound(type(record).__name__.lower(), record.id)
            kept = found[1].model_copy(update={"metadata": record.metadata})
            self._cursor.execute(self._sql[query], (rows.message_body(kept), tenant, found[0]))

        await self._write(work)

    def _lying(self, tenant: str, position: int) -> tuple[int, Message] | None:
        """Give the position at which a message that a fork shares lies, and what is kept there beside its text."""
        thread_no, seq = position >> rows.SEQ_BITS, position & rows.SEQ_MASK
        owner = self._owner(thread_no, seq, self._cursor)
        if owner is None or owner[0] == thread_no:
            return None
        position = owner[0] << rows.SEQ_BITS | seq
        row = self._cursor.execute(self._sql["get_message"], (tenant, position)).fetchone()
        return (position, rows.message(tenant, row, "", None)) if row else None

    async def delete(self, tenant: str, record: Agent | Workflow | Thread | Message, *, now_ms: int) -> None:
        """Remove an agent or a workflow from sight, a thread with all that is in it, or a message's content."""
        if isinstance(record, Message):
            await self._write(lambda: self._delete_message(tenant, record))
            return

        def agent() -> None:
            kind = _kind(type(record)) or "agent"
            self._cursor.execute(self._sql["delete_agent"], (now_ms, tenant, kind, record.id))
            if not self._writer.changes():
                raise NotFound(kind, record.id)

        def thread() -> None:
            cursor, sql = self._cursor, self._sql
            row = cursor.execute(sql["number_of_thread"], (tenant, record.id)).fetchone()
            if row is None:
                raise NotFound("thread", record.id)
            no = cast("int", row[0])
            active = cursor.execute(sql["run_of_thread"], (tenant, no)).fetchone()
            if active:
                raise ThreadBusy(
                    f"thread {record.id} has the active run {active[0]}",
                    hint="cancel the run first",
                    status="active",
                )
            begins = cursor.execute(sql["get_fork"], (no,)).fetchone()
            cursor.execute(sql["delete_thread"], (tenant, no))
            cursor.execute(sql["delete_thread_queue"], (tenant, no))
            self._drop_rows(tenant, no, record.id, cast("tuple[int | None, int | None]", begins))
            cursor.execute(sql["free_children"], (tenant, no))
            cursor.execute(sql["delete_thread_events"], (tenant, no))
            for (run_no,) in cursor.execute(sql["numbers_of_thread_runs"], (tenant, no)).fetchall():
                cursor.execute(sql["delete_run_steps"], (run_no,))
            cursor.execute(sql["delete_thread_runs"], (tenant, no))

        if _kind(type(record)) is not None:
            await self._write(agent)
            return
        await self._write(thread)

    def _drop_rows(self, tenant: str, no: int, id_: str, begins: tuple[int | None, int | None]) -> None:
        """Delete the rows of a thread that is gone, but for those that forks begin with, which go with the last fork."""
        cursor, sql = self._cursor, self._sql
        if self._shared_of(no):
            cursor.execute(sql["insert_source"], (no, tenant, id_, *begins))
        going, source = no, begins[0]
        while True:
            shared = self._shared_of(going)
            if not shared:
                cursor.execute(sql["delete_source"], (going,))
            cursor.execute(sql["delete_thread_messages"], (going, shared))
            found = (
                None if shared or source is None else cursor.execute(sql["get_source"], (source,)).fetchone()
            )
            if source is None or found is None:
                return
            going, source = source, cast("int | None", found[0])

    def _shared_of(self, thread_no: int) -> int:
        """Give how many rows of a thread forks begin with."""
        row = self._cursor.execute(self._sql["shared_rows"], (thread_no,)).fetchone()
        return cast("int | None", cast("tuple[Any, ...]", row)[0]) or 0

    def _delete_message(self, tenant: str, record: Message) -> None:
        cursor, sql = self._cursor, self._sql
        queued, number = self._queued(tenant, record.id), rows.queue_number(record.id)
        if isinstance(queued, Message) and number is not None:
            cursor.execute(sql["delete_queued"], (tenant, number[0]))
            return
        place = rows.position(tenant, record.id)
        position = queued if isinstance(queued, int) else place[0] if place else -1
        if self._empty(tenant, record.thread_id, record, position):
            return
        found = self._lying(tenant, position)
        if found is None or not self._empty(tenant, record.thread_id, found[1], found[0]):
            raise NotFound("message", record.id)

    def _empty(self, tenant: str, thread_id: str, record: Message, position: int) -> bool:
        """Take the content of the message at a position away, and tell whether there was one."""
        cursor, sql = self._cursor, self._sql
        active = cursor.execute(sql["active_run"], (tenant, position >> rows.SEQ_BITS)).fetchone()
        if active:
            raise ThreadBusy(
                f"Can't delete messages from {thread_id} while a run {active[0]} is active.",
                hint="wait for the run, or cancel it",
                status="active",
            )
        gone = record.model_copy(
            update={"text": None, "parts": (), "attachments": (), "metadata": {}, "is_deleted": True}
        )
        tokens = estimate_tokens(sum(len(c.name) + len(c.arguments) for c in record.tool_calls))
        cursor.execute(sql["delete_message"], (tokens, rows.message_body(gone), tenant, position))
        return self._writer.changes() == 1

    async def claim(
        self, tenant: str, run_id: str, walker: Walker, *, now_ms: int, rev: int | None = None
    ) -> Committed:
        """Take a queued run, or one whose walker is dead, and raise its fence."""

        def work() -> tuple[Event, ...]:
            no, _ = self._run_no(tenant, run_id, self._cursor)
            row = self._cursor.execute(self._sql["head_of_run"], (no, tenant)).fetchone()
            if rev is not None and (row is None or row[2] != rev):
                raise LeaseLost(f"run {run_id} has moved on", hint="read it again")
            if not self._enlist(walker):
                raise LeaseLost(f"walker {walker.id} was declared dead: it takes no runs")
            self._cursor.execute(self._sql["claim_run"], (walker.id, now_ms, no, tenant))
            data: dict[str, Any] = {}
            if not self._writer.changes():
                data = {"resumed": True, "kept": self._take_over(tenant, run_id, no, walker)}
            self._walked.add(no)
            row = self._cursor.execute(self._sql["head_of_run"], (no, tenant)).fetchone()
            _, status, now_rev = cast("tuple[int, str, int]", row)
            if status == "cancelling":
                self._last.pop(no, None)
                return ()
            seq = self._last_event(tenant, no, -1) + 1
            event = Event(run_id, "thread.run.in_progress", run_id, data, seq)
            self._insert_event(tenant, no, seq, event)
            self._last[no] = (now_rev, seq)
            return (event,)

        events = await self._write(work)
        return Committed(await self.get(Run, tenant, run_id), events)

    def _take_over(self, tenant: str, run_id: str, no: int, walker: Walker) -> int:
        """Take a run that its walker was declared dead with; give how many of its steps had ended."""
        row = self._cursor.execute(self._sql["ended_steps"], (no,)).fetchone()
        ended = cast("int", cast("tuple[Any, ...]", row)[0])
        self._cursor.execute(self._sql["take_over_run"], (walker.id, no, tenant, ended))
        if not self._writer.changes():
            raise LeaseLost(
                f"run {run_id} is not to be had: it is neither queued nor left by its walker",
                hint="read it again: somebody else may walk it",
            )
        return ended

    async def commit(self, checkpoint: Checkpoint) -> Committed:
        """Write a checkpoint, if the run still is as the writer knew it."""
        if not checkpoint.inserts and not checkpoint.also:
            return await self._write(lambda: self._commit(checkpoint, []))
        made: list[tuple[str, str]] = []
        for one in (checkpoint, *checkpoint.also):
            self._prepare_files(one.run.tenant, one.inserts)
        return await self._write_made(lambda: self._commit(checkpoint, made), made)

    def _commit(self, cp: Checkpoint, made: list[tuple[str, str]]) -> Committed:
        cursor, run = self._cursor, cp.run
        tenant = run.tenant
        if cp.request is not None:
            # Before the run is looked at: what was asked before has moved it on.
            self._refuse_repeated(tenant, cp.request)
        key = (tenant, run.id)
        no, thread_no = self._runs[key] = self._runs.get(key) or self._run_no(tenant, run.id, cursor)
        _trim(self._runs)
        head = cursor.execute(self._sql["head_of_run"], (no, tenant)).fetchone()
        if head is None or head[0] != run.fence or head[1] != run.status or head[2] != run.rev:
            self._walked.discard(no)
            self._last.pop(no, None)
            now = f"is {head[1]} with fence {head[0]}" if head else "is gone"
            raise LeaseLost(f"run {run.id} {now}; this walker had it {run.status} with fence {run.fence}")
        if is_terminal(run.status) and cp.status in (None, run.status):
            raise StateError(f"run {run.id} has ended, and takes no more", status=run.status, event="commit")
        if cp.statements:
            statements.run(self._writer, cp.statements)
        if cp.request is not None:
            self._insert_request(tenant, cp.request, run.id)
        for blob in cp.blobs:
            self._insert_blob(tenant, blob)
        for message in cp.messages:
            self._insert_message(tenant, thread_no, message, run_no=no)
        inserted: tuple[Stored, ...] = ()
        if cp.inserts:
            threads: dict[str, int] = {}
            inserted = tuple(self._insert_one(tenant, r, cp.insert_by, made, threads) for r in cp.inserts)
        events: list[Event] = []
        last = self._last_event(tenant, no, run.rev)
        for event in cp.before:
            last += 1
            self._insert_event(tenant, no, last, event)
            events.append(event._replace(seq=last))
        for step in cp.steps:
            if step.status == "in_progress":
                self._put_step(step, no, None)
                continue
            last += 2 if step.said else 1
            self._put_step(step, no, last)
            if cp.is_followed:
                ended = step.model_copy(update={"event_seq": last})
                name = partial(rows.message_id, tenant, thread_no, run.thread_id)
                events += rows.step_events(ended, name)
        more = cp.events
        if cp.status is not None or cp.releases:
            run, claimed = self._move(cp, no)
            more = (*more, *claimed)
        for event in more:
            last += 1
            self._insert_event(tenant, no, last, event)
            events.append(event._replace(seq=last))
        self._last[no] = (run.rev, last)
        promoted: str | None = None
        if cp.status is not None and is_terminal(run.status):
            events.append(rows.final_event(run, last + 1))
            if cp.run.in_line:
                self._cursor.execute(self._sql["leave_line"], (no,))
            elif run.parent_id is None:
                promoted = self._advance_line(tenant, thread_no, run.thread_id)
        also = tuple(self._commit(other, made) for other in cp.also) if cp.also else ()
        return Committed(run, tuple(events), promoted, inserted, also)

    def _put_step(self, step: Step, run_no: int, event: int | None) -> None:
        values = rows.step_values(step, run_no, event)
        body: str | None = values[-1]
        if body is not None and len(body) > LARGE_BYTES // 4:
            blobs: dict[str, str] = {}
            for name, content in rows.large_parts(step, LARGE_BYTES).items():
                blobs[name] = hashlib.sha256(content).hexdigest()
                self._insert_blob(step.tenant, Blob(blobs[name], content))
            values = rows.step_values(step, run_no, event, blobs)
        self._cursor.execute(self._sql["put_step"], values)
        if not self._writer.changes():
            raise Conflict(f"place {step.n} of the journal of run {step.run_id} is taken by another step")

    def _move(self, cp: Checkpoint, no: int) -> tuple[Run, tuple[Event, ...]]:
        """Move a run to its next status, or let it rest, and claim it there where that was asked."""
        old = cp.run
        status = cast("RunStatus", cp.status or old.status)
        is_walked = status in ("in_progress", "cancelling")
        if cp.releases and not is_walked:
            raise StateError(
                f"run {old.id} is {status}, where nobody walks it: it cannot be released",
                hint="release a run that is in progress or being cancelled",
                status=status,
                event="commit",
            )
        # A run that is being cancelled is still its walker's, until that has stopped.
        walker = old.walker if is_walked and not cp.releases else None
        new = old.model_copy(update={**cp.changes, "status": status, "rev": old.rev + 1, "walker": walker})
        if status != "in_progress" or cp.releases:
            self._walked.discard(no)
        usage: Usage | None = new.usage
        self._cursor.execute(
            self._sql["update_run"],
            (
                new.status, new.rev, new.fence, new.walker, new.started_ms, new.ended_ms,
                new.expires_ms, new.wake_ms, new.walked_ms,
                usage.prompt_tokens if usage else None, usage.completion_tokens if usage else None,
                rows.run_body(new), no, old.tenant, old.fence, old.status, old.rev,
            ),
        )  # fmt: skip
        if not self._writer.changes():
            raise LeaseLost(f"run {old.id} has moved on")
        if cp.claim_by is None or not self._enlist(cp.claim_by):
            return new, ()
        self._cursor.execute(self._sql["claim_run"], (cp.claim_by.id, cp.now_ms, no, old.tenant))
        self._walked.add(no)
        changes = {
            "status": "in_progress", "rev": new.rev + 1, "fence": new.fence + 1, "walker": cp.claim_by.id,
            "wake_ms": None,
        }  # fmt: skip
        return new.model_copy(update=changes), (Event(old.id, "thread.run.in_progress", old.id),)

    # -- the rest --------------------------------------------------------------------------------------------

    # -- keys ------------------------------------------------------------------------------------------------

    async def add_key(self, key: Key, *, only_first: bool = False) -> bool:
        """Keep a new key, and tell whether it is kept: with `only_first` only where there never was one."""

        def work() -> bool:
            query = "insert_first_key" if only_first else "insert_key"
            self._cursor.execute(self._sql[query], rows.key_values(key))
            return self._writer.changes() == 1

        return await self._write(work)

    async def key(self, id_: str) -> Key | None:
        """Give a key of any tenant, revoked or not."""
        row = self._read_one("get_key", (id_,))
        return rows.key(row) if row else None

    async def keys(self, tenant: str) -> Sequence[Key]:
        """Give the keys of a tenant, the newest first."""
        return [rows.key(row) for row in self._read("list_keys", (tenant,))]

    async def revoke_key(self, tenant: str, id_: str, *, now_ms: int) -> Key:
        """Let a key open nothing any more, for good, and give it."""

        def work() -> None:
            self._cursor.execute(self._sql["revoke_key"], (now_ms, tenant, id_))

        found = await self.key(id_)
        if found is None or found.tenant != tenant:
            raise NotFound("key", id_)
        if not found.is_revoked:
            await self._write(work)
        return await self.key(id_) or found

    async def changed(self, timeout_s: float, *, elsewhere: bool = False) -> None:
        """Wait until something may have been written, or the time is up; with `elsewhere` only by others."""
        news = asyncio.Event()
        seen = self._data_version()
        if not elsewhere:
            self._news[news] = None
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        try:
            while not news.is_set() and self._data_version() == seen:
                left = end - loop.time()
                if left <= 0:
                    return
                try:
                    await asyncio.wait_for(news.wait(), min(left, POLL_S))
                except TimeoutError:
                    continue
        finally:
            self._news.pop(news, None)

    def _data_version(self) -> tuple[int, int]:
        """Give a mark of what others have written; the marks of two connections do not compare."""
        return id(self._reading()), self._ask("data_version")

    def _ask(self, pragma: str) -> int:
        try:
            return cast("int", self._reading().pragma(pragma))
        except apsw.Error as e:
            raise translate(e, self._name) from e

    def status(self) -> StoreStatus:
        """Tell how the store is."""
        version = self._ask("user_version")
        writable = self._path is None or os.access(self._path, os.W_OK)
        library = f"SQLite {apsw.sqlite_lib_version()} (apsw {apsw.apsw_version()})"
        return StoreStatus(self._name, library, version, writable, self._durability)

    async def probe(self) -> None:
        """Write the schema's version as it is: one page and a commit, in the order of everything else."""

        def work() -> None:
            version = refuse_foreign(self._writer, name=self._name)
            if version != newest():
                raise StoreError(
                    f"{self._name} has schema version {version}; this treadle writes {newest()}",
                    hint="it was replaced while it was open: close this process, then open the store again",
                )
            self._writer.pragma("user_version", version)

        await self._write(work)

    async def close(self) -> None:
        """Write what has gathered and let the file go."""
        if self._closed:
            return
        while self._queue or self._writing:
            # Whoever waits for a write that fails is told by it.
            with suppress(StoreError):
                await self._write(lambda: None)
        with self._heart_lock:
            self._closed = True
        if self._pool:
            self._pool.shutdown()
        with self._heart_lock:
            for connection in (self._reader, self._heart, self._writer):
                if connection is not None:
                    self._let_go(connection)

    def _let_go(self, connection: Connection) -> None:
        try:
            connection.close()
        except apsw.Error as e:
            logger.warning(
                "%s: its log stays beside it, to be copied when it is next opened: %s", self._name, e
            )


class _Locked(Exception):
    """Somebody else holds the lock: what was to be written waits for it on the thread."""


def _id_of(record: Stored) -> str:
    if isinstance(record, (Graph, Blob)):
        return record.digest
    return record.key if isinstance(record, Cached) else record.id


_READERS: dict[str, Callable[[str, rows.Row], Any]] = {
    "agent": rows.agent,
    "workflow": rows.workflow,
}


def _kind(cls: type[Any]) -> Literal["agent", "workflow"] | None:
    """Give what a class of versioned documents is kept as; None for any other.

    Invariant: the module of workflows is loaded where there are workflows only.
    """
    return _KINDS.get(cls.__name__)


_KINDS: dict[str, Literal["agent", "workflow"]] = {"Agent": "agent", "Workflow": "workflow"}


def _repeated(request: Request, found: tuple[Any, ...]) -> Conflict:
    if found[0] == request.digest:
        return Repeated(cast("str", found[1]))
    return Conflict(
        f"the key '{request.key}' was used for something else: {found[1]}",
        hint="a key stands for one request; give this one another",
    )


def _span(after: R | None, before: R | None, order: Order, low: R, high: R) -> tuple[R, R]:
    """Give the exclusive bounds of a page, whichever way it is read."""
    if order == "asc":
        return (low if after is None else after, high if before is None else before)
    return (low if before is None else before, high if after is None else after)


def _trim(numbers: dict[tuple[str, str], Any], most: int = 50_000) -> None:
    """Forget the oldest numbers; they can be looked up again."""
    if len(numbers) > most:
        for key in [key for key, _ in zip(numbers, range(most // 2), strict=False)]:
            del numbers[key]
