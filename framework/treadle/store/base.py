"""The seam to the database.

Rules

1. Every call names a tenant; nothing is found outside of it. The one exception is `key`: a key says which tenant
   its bearer may name.
2. One call is one transaction: all of its records are kept, or none.
3. A call returns when its records are durable (as far as the store's durability setting says).
4. A walker writes by `commit` only, and every commit carries its fence; a stale fence changes nothing and
   raises LeaseLost.
5. What is stored is plain JSON in named columns; nothing that is read builds anything but records.
6. Errors of the database's library end here, as StoreError, Conflict, ThreadBusy or NotFound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from treadle.objects.agent import Agent
from treadle.objects.event import Event
from treadle.objects.key import Key
from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.store.base_files import FileRecord, FileStore

if TYPE_CHECKING:
    from treadle.objects.workflow import Workflow

Order = Literal["asc", "desc"]
Noun: TypeAlias = "Agent | Workflow | Thread | Message | Run"
T = TypeVar("T", Agent, "Workflow", Thread, Message, Run)


@dataclass(frozen=True, slots=True)
class Graph:
    """A step graph as it is stored: its digest and its canonical text."""

    digest: str
    text: str


@dataclass(frozen=True, slots=True)
class Blob:
    """A large text, stored once under its sha256."""

    digest: str
    content: bytes


class Cached(NamedTuple):
    """A result that is taken again where the same is asked for.

    Shapes: `key` names what the result depends on; `result` is JSON text. Units: `until_ms` Unix milliseconds.
    """

    key: str
    result: str
    until_ms: int


class ThreadRows(NamedTuple):
    """The rows of a thread that is made in the same call, read one after the other as they are kept.

    Shapes: `id` is the thread's; `read` gives the rows in order, each with its `seq`, and can be asked again.
    """

    id: str
    read: Callable[[], Iterator[Message]]


Stored: TypeAlias = "Noun | Graph | Blob | FileRecord | Cached | ThreadRows"
"""What one call can keep."""

Value = None | int | float | str | bytes
"""What a column can hold."""


class Statement(NamedTuple):
    """A write that a tool asked for, to be made in the transaction of its step."""

    sql: str
    args: tuple[Value, ...] = ()


class Request(NamedTuple):
    """What a client asks for under a key of its own: asked again, it gets the object that it got.

    Shapes: `digest` is of everything that was asked. `object_id` is what the key stands for; without it that is the
    last record of an insert, the run of a checkpoint.
    """

    key: str
    digest: str
    now_ms: int
    object_id: str | None = None


class Checkpoint(NamedTuple):
    """What one transaction of a run writes.

    Shapes: `run` is the run as the writer knows it; its fence, status and revision must be what the store has.
    `status` is the status it moves to, None where it stays; `changes` are further fields of the run, written
    only with a move. `messages` carry the `seq` that the writer gave them. A step that has ended is its own
    event, and so is the run's end; `events` are those beside them, and all get their numbers here: what came `before`
    first, then the steps', and the end last. `statements` are tools' writes to tables of their own. `claim_by` takes the run for a walker, after a move to `queued`. `is_followed` asks
    for the events in return. `request` is what a client asked for with it. `inserts` are records that are made with it, as
    `Store.insert` makes them, and runs among them are claimed for `insert_by`. With `releases` the run goes on to be in progress, or being
    cancelled, and nobody holds it: `wake_ms` among the changes says when somebody should. `also` are the checkpoints of other runs: all of them are
    written, or none.
    """

    run: Run
    status: str | None = None
    changes: Mapping[str, Any] = MappingProxyType({})
    messages: Sequence[Message] = ()
    steps: Sequence[Step] = ()
    events: Sequence[Event] = ()
    blobs: Sequence[Blob] = ()
    claim_by: Walker | None = None
    now_ms: int = 0
    is_followed: bool = True
    statements: Sequence[Statement] = ()
    request: Request | None = None
    before: Sequence[Event] = ()
    inserts: Sequence[Stored] = ()
    insert_by: Walker | None = None
    releases: bool = False
    also: Sequence[Checkpoint] = ()


class Committed(NamedTuple):
    """What a checkpoint left behind: the run as it is now, and the events with their numbers, if asked for.

    Shapes: `promoted` is the id of the run whose turn it became. `inserted` and `also` are what became of the checkpoint's, in
    their order.
    """

    run: Run
    events: tuple[Event, ...]
    promoted: str | None = None
    inserted: tuple[Stored, ...] = ()
    also: tuple[Committed, ...] = ()


class Due(NamedTuple):
    """A run that needs somebody.

    Shapes: `no` counts the runs of the store; `is_mine` says that the walker who asked holds it, `is_left` that
    its walker is dead, `is_over` that its time is over, `is_late` that nobody answered a question in time.
    """

    no: int
    tenant: str
    id: str
    status: str
    is_mine: bool
    is_left: bool
    is_over: bool
    rev: int
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How a store is: what `doctor` prints."""

    url: str
    library: str
    schema_version: int
    writable: bool
    durability: str


class Store(Protocol):
    """Where everything is kept."""

    @property
    def is_shared(self) -> bool:
        """Tell whether other processes may use the store as well."""
        ...

    @property
    def files(self) -> FileStore:
        """Give what the store does for files and vector stores."""
        ...

    async def insert(
        self,
        tenant: str,
        *records: Stored,
        claim_by: Walker | None = None,
        in_line: bool = False,
        request: Request | None = None,
    ) -> tuple[Stored, ...]:
        """Keep new records, in order, and give them back as stored.

        Shapes: a message gets its id here; one whose `seq` is 0 gets the next one of its thread, a run whose `first_seq` is 0 begins
        there; a run of the same call is claimed for `claim_by`, and stays queued where that walker is dead; an agent whose version is greater than 1 follows the version before it.
        With `in_line` messages and runs for a thread that is busy wait for it: the message's seq stays 0, the run's
        `in_line` is set and nobody claims it. With a `request` its key stands for what was made.
        A thread that is `forked_from` another one shares that one's first rows, where they lie: in the fork they are messages
        with ids of its own, whose content, notes and run are those of the other thread. A `Cached` stands in place of the one
        before it under its key.

        Errors: Conflict for a taken id or name, or for a key that stands for something else; Repeated for a key that stands for this;
        ThreadBusy; NotFound for a thread that is not there; StateError for a fork after more rows than there are, or between
        calls and their results.
        """
        ...

    async def asked(self, tenant: str, request: Request) -> None:
        """Do nothing where nobody asked under that key before.

        Errors: Repeated, with the object; Conflict for a key that stands for something else.
        """
        ...

    async def get(self, cls: type[T], tenant: str, id_: str, *, version: int | None = None) -> T:
        """Give one object; agents at their newest version unless one is named.

        Errors: NotFound.
        """
        ...

    def message_id(self, tenant: str, thread_id: str, seq: int) -> str:
        """Give the id that the message at a place of a thread has, or will have: it is known before it is kept.

        Errors: NotFound for the thread.
        """
        ...

    async def find(self, cls: type[T], tenant: str, prefix: str) -> list[str]:
        """Give up to three ids that begin with a text, newest first."""
        ...

    async def agent_named(self, tenant: str, name: str) -> Agent | None:
        """Give the agent of a file by its name."""
        ...

    async def workflow_named(self, tenant: str, name: str) -> Workflow | None:
        """Give the workflow of a file by its name."""
        ...

    async def children(self, tenant: str, run_id: str) -> list[Run]:
        """Give the child runs of a run in the order they were made, those that have ended among them.

        Errors: NotFound.
        """
        ...

    async def cached(self, tenant: str, key: str, *, now_ms: int) -> str | None:
        """Give the result that is kept under a key, as JSON text; None where there is none, or its time is over."""
        ...

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
        """Give a page of objects in the order they were made.

        Shapes: `parent` is the thread of messages or runs; `after` and `before` are ids, exclusive, in the
        direction of `order`. Messages are those that readers see, with a `run` those that it wrote.
        """
        ...

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
        """Give a thread's rows as the model is sent them, between two seqs, exclusive.

        Shapes: with `role="user"` only the first user row after `after`.
        """
        ...

    async def length(self, tenant: str, thread_id: str) -> int:
        """Give how many rows a thread has.

        Errors: NotFound.
        """
        ...

    async def active_run(self, tenant: str, thread_id: str) -> str | None:
        """Give the id of the run that a thread is busy with."""
        ...

    async def steps(self, tenant: str, run_id: str, *, first: int = 0) -> list[Step]:
        """Give a run's journal in order, from the row whose `n` is `first` on."""
        ...

    async def graph(self, tenant: str, digest: str) -> str:
        """Give the canonical text of a step graph.

        Errors: NotFound.
        """
        ...

    async def blob(self, tenant: str, digest: str) -> bytes:
        """Give a large text.

        Errors: NotFound.
        """
        ...

    async def events(self, tenant: str, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Give a run's committed events after a number."""
        ...

    async def last_event(self, tenant: str, run_id: str) -> int:
        """Give the number of a run's last committed event.

        Errors: NotFound.
        """
        ...

    async def replace(self, tenant: str, record: Thread | Message | Run) -> None:
        """Write an object's notes (metadata, tool resources) anew; nothing else of it changes.

        Errors: NotFound.
        """
        ...

    async def delete(self, tenant: str, record: Agent | Workflow | Thread | Message, *, now_ms: int) -> None:
        """Remove an agent or a workflow from sight, a thread with all that is in it, or the content of a message.

        Shapes: the rows that forks of a thread begin with stay for them, and go with the last of them. A message has one
        content: once that is removed, no thread that shares the message has it any more.

        Errors: NotFound; ThreadBusy while a run is active.
        """
        ...

    async def claim(
        self, tenant: str, run_id: str, walker: Walker, *, now_ms: int, rev: int | None = None
    ) -> Committed:
        """Take a queued run for a walker, or one that its walker was declared dead with, and raise its fence.

        Shapes: with a `rev` only at that revision; a walker may take its own run anew, and must not do so by mistake.

        Errors: NotFound; LeaseLost when it is neither, or at another revision.
        """
        ...

    def beat(self, walker_id: str, until_ms: int) -> bool:
        """Prolong a walker's lease at once; False says that it was declared dead. May be called in any thread.

        Errors: StoreError.
        """
        ...

    async def walkers(self) -> list[Walker]:
        """Give every walker that the store knows."""
        ...

    async def bury(self, walker: Walker) -> bool:
        """Declare a walker dead, unless its heart has beaten since it was read; tell whether it is dead now."""
        ...

    async def retire(self, walker_id: str) -> None:
        """Let a walker go: whatever it still holds is free at once."""
        ...

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
        """Give runs of every tenant that need somebody, in the order they were made.

        Shapes: `after` is the `no` of the last one of the page before. Of the runs that the walker holds those are
        given which are being cancelled, with `held` all. Without `walkable` those are left out that need nothing but
        to be walked.
        """
        ...

    async def tidy(self, *, asked_before_ms: int, now_ms: int = 0) -> None:
        """Forget dead walkers that hold nothing, files that have expired, and what is older than a time: clients' keys,
        and contents of files that were never kept, or whose file is gone.
        """
        ...

    async def commit(self, checkpoint: Checkpoint) -> Committed:
        """Write a checkpoint: what it inserts after its messages, and those of other runs after it, in their order.

        Errors: LeaseLost when fence, status or revision are not what the writer knew; StatementError for a tool's
        statement, which leaves all of the checkpoint unwritten; Repeated and Conflict as `insert` for a `request`;
        those of `insert` for `inserts`; StateError where a run is released that is not walked.
        """
        ...

    async def add_key(self, key: Key, *, only_first: bool = False) -> bool:
        """Keep a new key, and tell whether it is kept.

        Shapes: with `only_first` it is kept only where the store never had a key, of any tenant; of several processes
        that ask for that at once one succeeds.

        Errors: Conflict for a taken id.
        """
        ...

    async def key(self, id_: str) -> Key | None:
        """Give a key of any tenant, revoked or not: the one thing that is asked for before a tenant is known."""
        ...

    async def keys(self, tenant: str) -> Sequence[Key]:
        """Give the keys of a tenant, the newest first, those that were revoked among them."""
        ...

    async def revoke_key(self, tenant: str, id_: str, *, now_ms: int) -> Key:
        """Let a key open nothing any more, for good, and give it; one that was revoked before stays as it is.

        Errors: NotFound.
        """
        ...

    async def changed(self, timeout_s: float, *, elsewhere: bool = False) -> None:
        """Wait until something may have been written, or the time is up; with `elsewhere` only by another process."""
        ...

    def status(self) -> StoreStatus:
        """Tell how the store is."""
        ...

    async def probe(self) -> None:
        """Write something that changes nothing, as durably as everything else is written.

        Errors: StoreError when nothing can be kept now, or the store is not of this version any more.
        """
        ...

    async def close(self) -> None:
        """Let the database go; what was accepted stays."""
        ...
