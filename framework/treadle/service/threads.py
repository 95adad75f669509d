"""The verbs on threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treadle.errors import Repeated, ThreadBusy
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.service.ids import one_id
from treadle.service.requests import request_of
from treadle.store.base import Blob, Graph, Noun, Order, Request

if TYPE_CHECKING:
    from treadle.service import Treadle


async def append(
    treadle: Treadle,
    thread_id: str,
    *records: Noun | Graph | Blob,
    claim_by: Walker | None = None,
    in_line: bool = False,
    request: Request | None = None,
) -> tuple[Noun | Graph | Blob, ...]:
    """Keep records of a thread; a run that only looks active, since its time is over, does not stand in the way.

    Errors: those of the store's `insert`.
    """

    async def insert() -> tuple[Noun | Graph | Blob, ...]:
        return await treadle.store.insert(
            treadle.tenant, *records, claim_by=claim_by, in_line=in_line, request=request
        )

    try:
        return await insert()
    except ThreadBusy:
        if not await treadle.keeper.is_freed(treadle.tenant, thread_id):
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
            await treadle.store.insert(treadle.tenant, thread, *first, request=request)
        except Repeated as e:
            return await self.get(e.object_id)
        return thread

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
            changes["tool_resources"] = dict(tool_resources)
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
