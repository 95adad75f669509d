"""An event loop with virtual time and an order that a seed decides: no threads, no sockets, no waiting.

Rules

1. Time moves only here: a little with each callback, and on to the next timer when nothing is ready.
2. Which of the ready callbacks runs next is drawn from the seed; asyncio promises no order between tasks.
3. Everything that is scheduled belongs to the life in which it was scheduled. What belongs to a life that is
   paused waits for its end; what belongs to one that is over never runs, not even its `finally`.
4. Tasks and futures hash by number, so that a set of them is gone through in the same order each time.
5. What would leave the process (threads, sockets, subprocesses) is refused.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, Literal, NoReturn, TypeVar, TypeVarTuple

from treadle.testing.chance import Chance
from treadle.testing.trace import Trace

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Order = Literal["shuffled", "mostly_in_turn", "in_turn"]

ORDERS: tuple[Order, ...] = ("shuffled", "mostly_in_turn", "in_turn")
MOST_STEPS = 1_000_000
"""A world that takes more callbacks is taken to have no end."""


class SimulationStuck(Exception):
    """The simulation cannot go on."""


class Life:
    """The life of a simulated process: what was scheduled in it runs only while it lasts."""

    def __init__(self, name: str) -> None:
        """Begin it."""
        self.name = name
        self.is_paused = False
        self.is_over = False
        self.held: list[_Ready] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}

    @property
    def is_running(self) -> bool:
        """Tell whether its callbacks run now."""
        return not self.is_paused and not self.is_over


_life: ContextVar[Life | None] = ContextVar("life", default=None)


def current_life() -> Life | None:
    """Give the life in which the caller runs; None is the world around them."""
    return _life.get()


class _Ready(asyncio.Handle):
    """A callback that is to run, and the life it belongs to."""

    def __init__(
        self,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        loop: SimulatedLoop,
        context: Context | None,
    ) -> None:
        context = copy_context() if context is None else context
        super().__init__(callback, arguments, loop, context)
        self.life = context.get(_life)

    def run(self) -> None:
        self._run()


class _Timer(asyncio.TimerHandle):
    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        loop: SimulatedLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, arguments, loop, context)
        self.ready = _Ready(callback, arguments, loop, context)

    def cancel(self) -> None:
        super().cancel()
        self.ready.cancel()


class _Future(asyncio.Future[T]):
    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[T]):
    def __init__(
        self, number: int, work: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
    ) -> None:
        # Invariant: the number is there before the task is made, which puts it into a set.
        self._number = number
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop; `after_step` is called after each callback with the life that it ran in.

    Units: `step_s` seconds of virtual time that a callback takes at most.
    """

    def __init__(
        self,
        chance: Chance,
        trace: Trace,
        *,
        order: Order = "shuffled",
        step_s: float = 0.0005,
        most_steps: int = MOST_STEPS,
    ) -> None:
        """Begin at second 0."""
        super().__init__()
        self.steps = 0
        self.after_step: Callable[[Life | None], None] | None = None
        self._chance = chance
        self._trace = trace
        self._order: Order = order
        self._step_s = step_s
        self._most_steps = most_steps
        self._now_s = 0.0
        self._queue: list[_Ready] = []
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = count(1)
        self.set_task_factory(self._make_task)

    # -- what asyncio asks of a loop ---------------------------------------------------------------------------

    def time(self) -> float:
        """Give the virtual seconds."""
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Let a callback run among those that are ready."""
        ready = _Ready(callback, args, self, context)
        self._push(ready)
        return ready

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Let a callback run after some virtual seconds."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Let a callback run at a virtual second."""
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future that hashes by number."""
        return _Future[Any](next(self._numbers), self)

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, /, **options: Any) -> asyncio.Task[Any]:
        task = _Task[Any](next(self._numbers), work, loop=loop, **options)
        context: Context | None = options.get("context")
        life = _life.get() if context is None else context.get(_life)
        if life is not None:
            life.tasks[task] = None
            task.add_done_callback(lambda done: life.tasks.pop(done, None))
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:
        """Refuse: there are no threads.

        Errors: SimulationStuck.
        """
        del executor, args
        raise SimulationStuck(f"{func!r} asked for a thread: use async functions in a simulation")

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Let a callback run, as `call_soon` does: what would be a thread is a timer here."""
        return self.call_soon(callback, *args, context=context)

    def _run_once(self) -> None:
        """Run one callback; the base class calls this until it is told to stop."""
        ready = self._next()
        if ready.cancelled():
            return
        self.steps += 1
        if self.steps > self._most_steps:
            raise SimulationStuck(f"no end after {self._most_steps} steps, at second {self._now_s:.3f}")
        self._now_s += self._chance.between(0, self._step_s)
        self._trace.step(self._now_s, ready.life.name if ready.life is not None else "")
        ready.run()
        if self.after_step is not None:
            self.after_step(ready.life)

    # -- order and time ----------------------------------------------------------------------------------------

    def _push(self, ready: _Ready) -> None:
        life = ready.life
        if life is None or life.is_running:
            self._queue.append(ready)
        else:
            life.held.append(ready)

    def _next(self) -> _Ready:
        while True:
            self._wake()
            while self._queue:
                ready = self._take()
                if ready.life is None or ready.life.is_running:
                    return ready
                ready.life.held.append(ready)
            if not self._timers:
                raise SimulationStuck(
                    f"everything waits, and nothing will happen, at second {self._now_s:.3f}"
                )
            self._now_s = max(self._now_s, self._timers[0][0])

    def _wake(self) -> None:
        while self._timers and (self._timers[0][0] <= self._now_s or self._timers[0][2].cancelled()):
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self._push(timer.ready)

    def _take(self) -> _Ready:
        queue = self._queue
        if len(queue) == 1 or self._order == "in_turn":
            return queue.pop(0)
        if self._order == "mostly_in_turn" and not self._chance.happens(0.2):
            return queue.pop(0)
        return queue.pop(self._chance.below(len(queue)))

    # -- lives -------------------------------------------------------------------------------------------------

    def start_in(self, life: Life, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that belongs to a life, and so does all that it starts."""
        context = copy_context()
        context.run(_life.set, life)
        return self.create_task(work, context=context)

    def call_in(self, life: Life, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Let a callback of a life run after some virtual seconds."""
        context = copy_context()
        context.run(_life.set, life)
        return self.call_later(delay, callback, context=context)

    def outside(self) -> Context:
        """Give the context of the world around all lives."""
        context = copy_context()
        context.run(_life.set, None)
        return context

    def pause(self, life: Life) -> None:
        """Let nothing of a life run until it is resumed."""
        life.is_paused = True

    def resume(self, life: Life) -> None:
        """Let a paused life go on where it was."""
        life.is_paused = False
        self._release(life)

    def end(self, life: Life) -> None:
        """End a life: its tasks are left where they are and run no clean-up."""
        life.is_over = True

    def bury(self, lives: list[Life]) -> None:
        """Let every task come to an end, once nothing that they do can matter any more."""
        self.set_exception_handler(_ignore)
        self._most_steps = self.steps + MOST_STEPS
        for life in lives:
            life.is_over = life.is_paused = False
            self._release(life)
        for _ in range(3):
            left = asyncio.all_tasks(self)
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.wait(left, timeout=60))

    def _release(self, life: Life) -> None:
        if not life.is_running:
            return
        held, life.held = life.held, []
        self._queue.extend(held)


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    del loop, context
