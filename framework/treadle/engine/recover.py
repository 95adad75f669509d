"""Look after runs that nobody looks after: left by a dead walker, expired, cancelled, or waiting for their turn.

Rules

1. Whoever has the store open makes the moves that need no agent: expired and cancelled.
2. A run is walked only by a process that was told to walk every run, or that knows this one by name; and only
   where everything that the run needs can be had here.
3. Every write repeats what it was decided by: a walker is buried if its heart has not beaten since, a run is
   claimed if it still is what it was, and moved if its revision is the same.
4. A run whose walkers die three times at the same place is not walked again: it fails, and names the place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from treadle.clock import Clock
from treadle.engine.executor import Executor, Prepared
from treadle.engine.lease import Lease, Watch
from treadle.errors import LeaseLost, NotFound, StateError, StoreError, TreadleError
from treadle.objects.run import Run, RunError
from treadle.store.base import Due, Store

logger = logging.getLogger("treadle.engine")

SWEEP_S = 1.0
"""The longest time between two sweeps."""
PACE_S = 0.05
"""The shortest."""
SHARE = 0.1
"""The share of its time that a process spends on looking at most; what it finds to do is no part of it."""
PAGE = 500
BROKEN_S = 5.0
"""After this a run that this process holds and does not walk counts as left."""
UNABLE_S = 30.0
"""How long a run that cannot be walked here is not looked at again."""
KEEP_REQUESTS_MS = 24 * 3600 * 1000
"""How long a client's key is remembered."""
TIDY_S = 600.0
MOST_DEATHS = 3
MOST_WALKS = 2000


@dataclass(slots=True)
class Swept:
    """What a sweep did: runs by what became of them, and walkers that were declared dead."""

    resumed: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    decided: int = 0
    buried: int = 0


class Keeper:
    """Sweeps over the store for as long as this process walks."""

    def __init__(
        self,
        store: Store,
        *,
        executor: Executor,
        clock: Clock,
        prepare: Callable[[Run], Awaitable[Prepared]],
        walk: Callable[[Run, Prepared], object],
        decide: Callable[[Run], Awaitable[object]],
        walks_all: bool,
    ) -> None:
        """Take what plans a run, walks it, and decides questions that nobody answered in time.

        Shapes: with `walks_all` every run is this process's business.
        """
        self._store = store
        self._executor = executor
        self._lease: Lease = executor.lease
        self._clock = clock
        self._prepare = prepare
        self._walk = walk
        self._decide = decide
        self._walks_all = walks_all
        self._names: set[str] = set()
        self._watch = Watch(clock, seconds=self._lease.seconds)
        self._unable: dict[str, float] = {}
        self._idle: dict[str, tuple[int, float]] = {}
        self._tidied_s = clock.monotonic()
        self._looked_s = clock.monotonic()
        self._swept_s = clock.monotonic()
        self._spent_s = 0.0
        self._is_full = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    # -- the loop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Sweep from now on, in the background."""
        if self._task is None and not self._is_stopping:
            self._task = asyncio.create_task(self._run(), name="keeper")

    @property
    def idle_s(self) -> float | None:
        """Give how long ago a sweep ended well, None where this process does not sweep.

        Units: seconds.
        """
        if self._task is None:
            return None
        return self._clock.monotonic() - self._swept_s

    def claim_no_more(self) -> None:
        """Leave every run to others from now on."""
        self._is_stopping = True

    async def stop(self) -> None:
        """Sweep no more."""
        self._is_stopping = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def take(self, run_id: str) -> None:
        """Walk a run as soon as it can be had."""
        self._names.add(run_id)
        self.start()
        self._wake.set()

    def promoted(self, run_id: str) -> None:
        """Hear that it is a run's turn."""
        if self._walks_all or run_id in self._names:
            self._wake.set()

    async def _run(self) -> None:
        if not self._walks_all:
            await self._rest(self._listen())
        while True:
            # Before it looks: what others write from then on is news, be it written during the sweep or the pause.
            news = self._listen()
            await asyncio.sleep(0)
            try:
                await self._sweep_and_pause()
                await self._rest(news)
            finally:
                news.cancel()

    async def _sweep_and_pause(self) -> None:
        self._spent_s = 0.0
        try:
            await self.sweep()
        except StoreError as e:
            logger.warning("a sweep was given up: %s", e.message)
        except Exception:
            # Whatever broke it: without sweeps nothing would be recovered any more.
            logger.exception("a sweep broke")
        # A process that was stopped in the middle of a sweep must not rest for it.
        await asyncio.sleep(min(SWEEP_S, max(PACE_S, self._spent_s / SHARE)))

    def _listen(self) -> asyncio.Future[None]:
        """Give what is done when somebody else has written since it began, or it is time."""
        return asyncio.ensure_future(self._store.changed(SWEEP_S, elsewhere=True))

    async def _rest(self, news: asyncio.Future[None]) -> None:
        """Wait for news, or until a run's turn has come."""
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({news, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            woken.cancel()
            await asyncio.gather(news, woken, return_exceptions=True)
        self._wake.clear()

    # -- one sweep -------------------------------------------------------------------------------------------

    async def sweep(self) -> Swept:
        """Do everything that is due now.

        Errors: StoreError.
        """
        began_s = self._clock.monotonic()
        # Invariant: a sweep that had to pass a run over takes none that came after it.
        self._is_full = False
        swept = Swept(buried=await self.bury())
        now_s = self._clock.monotonic()
        self._spent_s += now_s - began_s
        held = now_s - self._looked_s >= BROKEN_S
        if held:
            self._looked_s = now_s
        after = 0
        while page := await self._look(after, held=held):
            after = page[-1].no
            outcomes = await asyncio.gather(
                *(self._settle(due, swept) for due in page), return_exceptions=True
            )
            for failed in outcomes:
                if isinstance(failed, BaseException):
                    raise failed
            if len(page) < PAGE:
                break
        if now_s - self._tidied_s >= TIDY_S or swept.buried:
            self._tidied_s = now_s
            now_ms = self._clock.now_ms()
            await self._store.tidy(asked_before_ms=now_ms - KEEP_REQUESTS_MS, now_ms=now_ms)
        self._swept_s = self._clock.monotonic()
        return swept

    async def _look(self, after: int, *, held: bool) -> list[Due]:
        """Give the next runs that need somebody."""
        began_s, now_ms = self._clock.monotonic(), self._clock.now_ms()
        page = await self._store.due(
            self._lease.id, now_ms=now_ms, after=after, limit=PAGE, held=held, walkable=self._may_walk()
        )
        self._spent_s += self._clock.monotonic() - began_s
        return page

    async def is_freed(self, tenant: str, thread_id: str) -> bool:
        """End the run that a thread is busy with, if its time is over or its cancel was left; tell whether that freed it.

        Errors: StoreError.
        """
        active = await self._store.active_run(tenant, thread_id)
        if active is None:
            return True
        run = await self._store.get(Run, tenant, active)
        is_over = run.expires_ms is not None and run.expires_ms <= self._clock.now_ms()
        if not is_over and run.status != "cancelling":
            return False
        await self.sweep()
        return await self._store.active_run(tenant, thread_id) != active

    async def bury(self) -> int:
        """Declare dead every walker that is; give how many."""
        known: set[str] = set()
        buried = 0
        for walker in await self._store.walkers():
            known.add(walker.id)
            if walker.id == self._lease.id or walker.is_dead or not self._watch.is_dead(walker):
                continue
            if await self._store.bury(walker):
                logger.warning("walker %s is gone: its runs are free", walker.id)
                buried += 1
        self._watch.forget(known)
        return buried

    async def _settle(self, due: Due, swept: Swept) -> None:
        """Do what a run needs, if it still needs it."""
        if due.is_mine and not self._is_broken(due):
            return
        try:
            if due.status == "cancelling":
                await self._executor.finish_cancel(await self._hold(due))
                swept.cancelled += 1
            elif due.is_over:
                await self._executor.finish(await self._hold(due), "expired")
                swept.expired += 1
            elif due.is_late:
                await self._decide(await self._store.get(Run, due.tenant, due.id))
                swept.decided += 1
            elif due.status in ("queued", "in_progress") and self._is_wanted(due):
                await self._resume(due, swept)
        except (LeaseLost, NotFound, StateError):
            return  # Somebody else was quicker.

    def _is_broken(self, due: Due) -> bool:
        """Tell whether a run that this process holds is walked by nobody; pass a cancel on to its walk."""
        if self._executor.is_walking(due.id):
            self._idle.pop(due.id, None)
            if due.status == "cancelling":
                self._executor.cancel(due.id)
            return False
        now_s = self._clock.monotonic()
        rev, since_s = self._idle.get(due.id, (-1, now_s))
        if rev != due.rev:
            # It may be on its way into a walk.
            self._idle[due.id] = (due.rev, now_s)
            return False
        return now_s - since_s >= BROKEN_S

    async def _hold(self, due: Due) -> Run:
        """Give a run that nobody else writes to: what a walker left is fenced off first."""
        run = await self._store.get(Run, due.tenant, due.id)
        if run.rev != due.rev:
            raise LeaseLost(f"run {run.id} has moved on")
        if run.walker is None:
            return run
        return await self._claim(due)

    def _may_walk(self) -> bool:
        """Tell whether this process takes runs at all, now."""
        if self._is_stopping or not (self._walks_all or self._names):
            return False
        self._is_full = self._is_full or self._executor.walking >= MOST_WALKS
        return not self._is_full

    def _is_wanted(self, due: Due) -> bool:
        if not self._may_walk() or not (self._walks_all or due.id in self._names):
            return False
        return self._clock.monotonic() - self._unable.get(due.id, -UNABLE_S) >= UNABLE_S

    async def _resume(self, due: Due, swept: Swept) -> None:
        """Walk a run on, if everything it needs can be had here."""
        run = await self._store.get(Run, due.tenant, due.id)
        try:
            prepared = await self._prepare(run)
        except StoreError:
            raise
        except TreadleError as e:
            logger.warning("run %s cannot be walked here: %s", run.id, e.message)
            self._unable[due.id] = self._clock.monotonic()
            return
        run = await self._claim(due)
        self._names.discard(run.id)
        if await self.is_given_up(run):
            swept.failed += 1
            return
        swept.resumed += 1
        self._walk(run, prepared)

    async def _claim(self, due: Due) -> Run:
        """Take a run as it was found: another sweep of this process, or its client, may have taken it meanwhile."""
        now_ms = self._clock.now_ms()
        claimed = await self._store.claim(due.tenant, due.id, self._lease.walker, now_ms=now_ms, rev=due.rev)
        self._executor.tell(due.id, claimed.events)
        return claimed.run

    async def is_given_up(self, run: Run) -> bool:
        """End a claimed run whose walkers died too often at the same place; tell whether it was one."""
        if run.deaths < MOST_DEATHS:
            return False
        paths = await self._executor.standing_at(run)
        where = ", ".join(paths) or "its start"
        message = f"its walker died {run.deaths} times at {where}; it is not tried again"
        await self._executor.finish(run, "failed", error=RunError(code="server_error", message=message))
        return True
