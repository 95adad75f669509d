"""The verbs on threads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from treadle.errors import Conflict, Repeated, ThreadBusy
from treadle.objects.message import Message
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.service.ids import one_id
from treadle.service.requests import request_of
from treadle.service.resources import completed, resolve_tool_resources
from treadle.store.base import Order, Request, Stored

if TYPE_CHECKING:
    from treadle.service import Treadle
    from treadle.service.transfer import Format, Imported, Lines, Progress, Tell

_RACES = 5


async def append(
    treadle: Treadle,
    thread_id: str,
    *records: Stored,
    claim_by: Walker | None = None,
    in_line: bool = False,
    request: Request | None = None,
) -> tuple[Stored, ...]:
    """Keep records of a thread; a run that only looks active, since its time is over, does not stand in the way.

    Shapes: what messages bring along for the tools of their thread is kept with them. The records come back as stored.

    Errors: those of the store's `insert`, and of `resources.completed`.
    """

    async def insert() -> tuple[Stored, ...]:
        before, completed_ = await completed(treadle, thread_id, records)
        stored = await treadle.store.insert(
            treadle.tenant, *before, *completed_, claim_by=claim_by, in_line=in_line, request=request
        )
        treadle.ingestion.begin_for(treadle, before)
        return stored[len(before) :]

    for _ in range(_RACES):
        try:
            return await insert()
        except ThreadBusy:
            if not await treadle.keeper.is_freed(treadle.tenant, thread_id):
                raise
        except Repeated:
            raise
        except Conflict:
            # Somebody else fed the thread meanwhile: look at what it has now.
            if not any(isinstance(r, Message) and r.attachments for r in records):
                raise
    return await insert()


class Threads:
    """Create, get, list, update and delete threads."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    async def create(
        self,
        *,
        messages: Sequence[Mapping[str, Any]] = (),
        metadata: Mapping[str, Any] | None = None,
        tool_resources: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Thread:
        """Make a thread, with its first messages where some are given (`role`, `content` …).

        Shapes: `key` is the client's own: the same under the same key gives the first thread again, for a day.

        Errors: StateError for a message that cannot be kept; then there is no thread either. Conflict for a key that
        stands for something else.
        """
        treadle = self._treadle
        thread = Thread(
            id=treadle.ids.new("thread"),
            tenant=treadle.tenant,
            created_ms=treadle.clock.now_ms(),
            metadata=dict(metadata or {}),
            tool_resources=dict(tool_resources or {}),
        )
        first = [treadle.messages.draft(thread.id, **m) for m in messages]
        asked = {"messages": messages, "metadata": metadata or {}, "tool_resources": tool_resources or {}}
        request = request_of(key, "thread", asked, now_ms=thread.created_ms, object_id=thread.id)
        try:
            if request is not None:
                await treadle.store.asked(treadle.tenant, request)
            before, kept = await completed(treadle, thread.id, (thread, *first))
            await treadle.store.insert(treadle.tenant, *before, *kept, request=request)
        except Repeated as e:
            return await self.get(e.object_id)
        treadle.ingestion.begin_for(treadle, before)
        return cast("Thread", kept[0])

    async def get(self, thread: str) -> Thread:
        """Give a thread by its id, a unique beginning of it, or ``@last``.

        Errors: NotFound.
        """
        treadle = self._treadle
        return await treadle.store.get(Thread, treadle.tenant, await one_id(treadle, Thread, thread))

    async def length(self, thread_id: str) -> int:
        """Give how many rows a thread has, those of tools among them.

        Errors: NotFound.
        """
        return await self._treadle.store.length(self._treadle.tenant, thread_id)

    async def list(
        self, *, limit: int = 20, order: Order = "desc", after: str | None = None, before: str | None = None
    ) -> list[Thread]:
        """Give a page of threads, the newest first."""
        treadle = self._treadle
        return await treadle.store.list(
            Thread, treadle.tenant, limit=limit, order=order, after=after, before=before
        )

    async def update(
        self,
        thread: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        tool_resources: Mapping[str, Any] | None = None,
    ) -> Thread:
        """Replace a thread's metadata or tool resources; what is None stays.

        Errors: NotFound.
        """
        found = await self.get(thread)
        changes: dict[str, Any] = {}
        if metadata is not None:
            changes["metadata"] = dict(metadata)
        if tool_resources is not None:
            treadle = self._treadle
            changes["tool_resources"], made = await resolve_tool_resources(treadle, tool_resources)
            if made:
                await treadle.store.insert(treadle.tenant, *made)
                treadle.ingestion.begin_for(treadle, made)
        changed = found.model_copy(update=changes)
        await self._treadle.store.replace(self._treadle.tenant, changed)
        return changed

    async def delete(self, thread: str) -> Thread:
        """Delete a thread with its messages and runs.

        Errors: NotFound; ThreadBusy while one of its runs is active.
        """
        found = await self.get(thread)
        await self._treadle.store.delete(self._treadle.tenant, found, now_ms=self._treadle.clock.now_ms())
        return found

    def export(
        self,
        thread: str,
        *,
        format: Format = "jsonl",  # noqa: A002 - it is what it is called on the command line, too
        files: bool = True,
        progress: Progress | None = None,
        tell: Tell | None = None,
    ) -> AsyncGenerator[str]:
        """Give a thread as text, line by line, with all that its next turn needs; `import_` makes a thread of it.

        Shapes: `jsonl` has every row, and the contents of files unless `files` says no; `wire` is one document, the
        messages as a client is given them. `progress` hears how many rows are written, and of how many; `tell` what
        to know of the export of a thread whose run is not at its end: it has the rows before the first call that waits.

        Errors: NotFound; StoreError for a content that is damaged.
        """
        from treadle.service.transfer import export

        return export(self._treadle, thread, format=format, files=files, progress=progress, tell=tell)

    async def import_(self, lines: Lines, *, source: str = "lines") -> Thread:
        """Make a thread of what `export` gave, or of messages as the wire lists them, and give it.

        Shapes: lines are text or bytes, in any iterable. `source` is what errors call them.

        Errors: ConfigurationError that names the first line that is wrong; then nothing is stored.
        """
        return cast("Thread", (await self.take_in(lines, source=source)).thread)

    async def take_in(self, lines: Lines, *, source: str = "lines", dry_run: bool = False) -> Imported:
        """Do as `import_`, and tell what was stored and what is missing; with `dry_run` all is checked, and nothing stored.

        Errors: those of `import_`.
        """
        from treadle.service.transfer import take_in

        return await take_in(self._treadle, lines, source=source, dry_run=dry_run)
