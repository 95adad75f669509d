"""Run a function in a process of its own, so that stopping the call stops the function.

A call that is cancelled or out of time ends its process: it is asked to, and killed after a moment, with everything
that it started. A function that crashes takes its process along and nothing else. A process that has answered
rests, and serves the next call of the same tool.

Processes are started afresh, by `subprocess`: a fork of a process with threads may hang, and what multiprocessing
starts runs the main script once more. They end with this process, however it ends: its end of a pipe is closed then
(see `worker`).

Hazard: only `_Worker.end` waits for a process. Until then its number, and that of its group, is nobody else's, and
may be signalled.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NoReturn, cast

from treadle.errors import ToolError
from treadle.tools.base import CallContext, Invoke
from treadle.tools.threads import in_thread
from treadle.tools.worker import BEGUN, Frame, pack, read_frame

MOST_WORKERS = min(32, 4 + 2 * (os.cpu_count() or 1))
"""How many processes there are at most; further calls wait for one, and their time runs."""
MOST_RESTING = 4
"""How many of them are kept when they have nothing to do."""
GRACE_S = 0.3
"""How long a process has to end by itself when it is asked to, in seconds."""

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from treadle.tools.worker import serve; serve(int(sys.argv[2]))"
_IS_POSIX = os.name == "posix"


@dataclass(frozen=True, slots=True)
class Target:
    """What a worker calls, and how it finds it: two calls with equal targets may share a worker.

    Shapes: without `allow_modules` the function is one that this process found already, in `file`. `converts` says
    that arguments become the types that the function declares; `hidden` are its parameters that no model sees.
    """

    call: str
    root: str | None
    allow_modules: tuple[str, ...] | None
    file: str | None
    converts: bool
    hidden: tuple[str, ...]


def invoker(
    target: Target,
    supply: Callable[[CallContext], dict[str, Any]],
    variables: Mapping[str, ContextVar[Any]],
) -> Invoke:
    """Give the coroutine function that calls a target in a worker.

    Shapes: `supply` gives the arguments that treadle fills in; `variables` are the context variables that the
    function's module names. Those whose value is plain data have it in the worker too.
    """

    async def invoke(arguments: dict[str, Any], context: CallContext) -> Any:
        set_here = {name: variable.get(None) for name, variable in variables.items()}
        request: Frame = {
            "arguments": arguments,
            "supplied": {name: value for name, value in supply(context).items() if name != "tx"},
            "variables": {name: v for name, v in set_here.items() if v is not None and _is_plain(v)},
            "writes": context.tx is not None,
        }
        reply = await _ask(_Call(target, request))
        if "error" in reply:
            _raise(reply)
        if context.tx is not None:
            for sql, args in reply["statements"]:
                context.tx.execute(sql, [_value(a) for a in args])
        return reply["value"]

    return invoke


def _value(crossed: Any) -> Any:
    """Give a value of a statement as it was: bytes cross as their digits."""
    return bytes.fromhex(cast("str", crossed["hex"])) if isinstance(crossed, dict) else crossed


async def _ask(call: _Call) -> Frame:
    """Make a call; when it is cancelled, return only after its process is gone."""
    work = asyncio.ensure_future(in_thread(call.run, {}))
    # A cancelled call looks at no exception.
    work.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        call.stop()
        if not work.done():
            await asyncio.wait([work])
        raise


def _is_plain(value: object) -> bool:
    """Tell whether a value is the same after it has crossed."""
    try:
        crossed: object = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False
    return type(crossed) is type(value) and crossed == value


def _raise(reply: Frame) -> NoReturn:
    """Raise what the function raised, as far as it can be known here."""
    kind, name, text = reply["kind"], str(reply["error"]), str(reply["text"])
    if kind == "tool":
        error: BaseException = ToolError(text)
    else:
        base = {"timeout": TimeoutError, "connection": ConnectionError}.get(kind, Exception)
        error = cast("BaseException", type(name, (base,), {})(text))
    error.add_note(f"in its process:\n{reply['trace']}")
    raise error


# -- one call --------------------------------------------------------------------------------------------------


class _Call:
    """One call, which a thread makes and the event loop may stop."""

    def __init__(self, target: Target, request: Frame) -> None:
        self.target = target
        self._request = pack(request)
        self._worker: _Worker | None = None
        self.is_stopped = False

    def run(self) -> Frame:
        """Make the call and give the reply.

        Errors: ToolError when the process ended before it answered, or the call was stopped; OSError when no
        process can be started.
        """
        while (worker := _obtain(self)) is not None:
            reply, is_begun = worker.ask(self._request)
            with _free:
                is_kept = reply is not None and reply.get("is_sound", True) and not self.is_stopped
                self._worker = None
            if is_kept:
                _rest(worker)
            else:
                how = _see_off(worker)
                # Invariant: a call that was not begun in a process that has rested may be made in another one.
                if reply is None and (is_begun or not worker.is_used) and not self.is_stopped:
                    raise ToolError(f"its process ended before it answered: {how}")
            if reply is not None:
                return reply
        raise ToolError("the call was stopped")

    def take(self, worker: _Worker) -> bool:
        """Remember who serves the call; False when it has been stopped meanwhile."""
        with _free:
            if not self.is_stopped:
                self._worker = worker
            return not self.is_stopped

    def stop(self) -> None:
        """Ask the process to end, and make it end after a moment; does not wait."""
        with _free:
            self.is_stopped = True
            worker = self._worker
            _free.notify_all()
            if worker is None:
                return
            worker.signal(signal.SIGTERM)
        late = threading.Timer(GRACE_S, worker.signal, [getattr(signal, "SIGKILL", signal.SIGTERM)])
        late.daemon = True
        late.start()


# -- the processes ---------------------------------------------------------------------------------------------


class _Worker:
    """A process that calls one function."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.is_used = False
        self._is_ended = False
        self._lock = threading.Lock()
        self._lifeline = -1
        lifeline = -1
        if _IS_POSIX:
            lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with our own words
                [sys.executable, "-c", _START, json.dumps([str(p) for p in sys.path]), str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=_IS_POSIX,
                pass_fds=(lifeline,) if _IS_POSIX else (),
                creationflags=0 if _IS_POSIX else getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except BaseException:
            self._close_lifeline()
            raise
        finally:
            if lifeline >= 0:
                os.close(lifeline)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = cast("BinaryIO", self._process.stdin)
        self._replies = cast("BinaryIO", self._process.stdout)

    def ask(self, request: bytes) -> tuple[Frame | None, bool]:
        """Send a request and wait for the reply, None when there comes none; tell whether the call was begun."""
        try:
            self._requests.write(request if self.is_used else pack(asdict(self.target)) + request)
            self._requests.flush()
        except OSError:
            return None, False
        if self._replies.read(1) != BEGUN:
            return None, False
        reply = read_frame(self._replies)
        self.is_used = self.is_used or reply is not None
        return reply, True

    def is_alive(self) -> bool:
        """Tell whether a resting process is still there: one that is has nothing to say."""
        if not _IS_POSIX:
            return self._process.poll() is None
        import select

        watched = select.poll()
        watched.register(self._replies, select.POLLIN)
        return not watched.poll(0)

    def signal(self, number: int) -> None:
        """Signal the process and all that it started, if it has not ended."""
        with self._lock:
            if self._is_ended:
                return
            if _IS_POSIX:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)
            else:
                self._process.kill()

    def end(self) -> str:
        """See the process off, and say how it ended; one that rests has a moment to end in good order."""
        with suppress(OSError):
            self._requests.close()
        if _IS_POSIX:
            import select

            watched = select.poll()
            watched.register(self._replies, select.POLLIN)
            watched.poll(GRACE_S * 1000)
        self.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        with self._lock:
            self._is_ended = True
        code = self._process.wait()
        self._replies.close()
        self._close_lifeline()
        if code >= 0:
            return f"it left with status {code}"
        try:
            return f"it was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was ended by signal {-code}"

    def detach(self) -> None:
        """Let go of the process in a fork of this one, which is not its owner."""
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (self._lifeline, self._requests.fileno(), self._replies.fileno()):
            # Hazard: another thread may have held the lock of a stream when the fork was made.
            os.dup2(nothing, descriptor)
        os.close(nothing)

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


_free = threading.Condition()
_resting: list[_Worker] = []
_live: set[_Worker] = set()
_starting = 0


def _obtain(call: _Call) -> _Worker | None:
    """Give a process for a call: one that rests, or a new one; wait while there are too many. None: it was stopped."""
    global _starting
    replaced: _Worker | None = None
    with _free:
        while (worker := _rested(call.target)) is None:
            if call.is_stopped:
                return None
            if len(_live) + _starting < MOST_WORKERS:
                break
            if _resting:
                replaced = _resting.pop(0)
                break
            _free.wait()
        if worker is None:
            _starting += 1
    if replaced is not None:
        _see_off(replaced)
    if worker is None:
        worker = _start(call.target)
    if call.take(worker):
        return worker
    _rest(worker)
    return None


def _start(target: Target) -> _Worker:
    global _starting
    try:
        worker = _Worker(target)
        with _free:
            _live.add(worker)
    finally:
        with _free:
            _starting -= 1
            _free.notify_all()
    return worker


def _rested(target: Target) -> _Worker | None:
    """Take a process for a target from those that rest, the one that rested last."""
    for worker in reversed(_resting):
        if worker.target == target:
            _resting.remove(worker)
            if worker.is_alive():
                return worker
            _see_off(worker)
            return _rested(target)
    return None


def _rest(worker: _Worker) -> None:
    """Keep a process for the next call, and let the oldest go where too many rest."""
    with _free:
        _resting.append(worker)
        oldest = _resting.pop(0) if len(_resting) > MOST_RESTING else None
        _free.notify_all()
    if oldest is not None:
        _see_off(oldest)


def _see_off(worker: _Worker) -> str:
    """End a process and make room for another one; say how it ended."""
    how = worker.end()
    with _free:
        _live.discard(worker)
        _free.notify_all()
    return how


def _end_all() -> None:
    """End every process: this one ends."""
    with _free:
        resting, working = list(_resting), [w for w in _live if w not in _resting]
        _resting.clear()
    for worker in working:
        worker.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    for worker in resting:
        _see_off(worker)


def _begin_anew() -> None:
    """Own no process in a fork: they are its parent's."""
    global _free, _starting
    _free = threading.Condition()
    _starting = 0
    for worker in _live:
        worker.detach()
    _detached.extend(_live)
    _live.clear()
    _resting.clear()


_detached: list[_Worker] = []
atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
