"""Run blocking functions in threads that hold up nobody: not each other, and not the end of the process.

The event loop's own executor has a few threads, which calls that hang use up, and a process waits for them when
it ends. Here every call has a thread of its own, a rested one where there is one; what a caller does not wait
for any more runs on alone and ends with the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

_MOST_RESTING = 32

_Work = Callable[[], None]
_resting: list[queue.SimpleQueue[_Work]] = []
# Hazard: a forked process has this list and none of the threads.
os.register_at_fork(after_in_child=_resting.clear)


async def in_thread(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a function in a thread and give what it gives.

    Errors: what the function raises; StopIteration as RuntimeError, since a future cannot carry it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def work() -> None:
        value, error = None, None
        try:
            value = context.run(function, **arguments)
        except StopIteration:
            error = RuntimeError("the function raised StopIteration")
        except BaseException as e:  # noqa: BLE001 - whoever waits is told, whatever it was
            error = e
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            return  # The loop is closed: nobody waits any more.

    _hand_out(work)
    return await future


def _hand_out(work: _Work) -> None:
    try:
        inbox = _resting.pop()
    except IndexError:
        inbox = queue.SimpleQueue[_Work]()
        threading.Thread(target=_serve, args=(inbox,), name="treadle-tool", daemon=True).start()
    inbox.put(work)


def _serve(inbox: queue.SimpleQueue[_Work]) -> None:
    """Do one piece of work after the other, and rest in between; too many do not rest but end."""
    while True:
        inbox.get()()
        if len(_resting) >= _MOST_RESTING:
            return
        _resting.append(inbox)
