"""The process in which an isolated function runs: it calls one function, again and again, as it is told.

It reads a frame per call from the stream that it was started with, says with one byte that the call begins, and
writes a frame with the answer; a frame is its length in four bytes and that much JSON. The function finds an empty standard input, and what it prints goes to
standard error. Started by `isolated`, which is the other side.

Hazard: its start is waited for, so this module imports as little as it can.
"""

from __future__ import annotations

import contextvars
import inspect
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from treadle.errors import ConfigurationError, ToolError
from treadle.tools.importing import import_found, resolve

MOST_BYTES = 64 * 1024 * 1024
"""A longer frame is refused: whoever reads it keeps all of it in memory."""

BEGUN = b"\x06"
"""What is said before the function is called: until then a call has not been made."""

Frame = dict[str, Any]


class _Stopped(BaseException):
    """Somebody asked this process to end."""


def pack(frame: Frame) -> bytes:
    """Give a frame as it is written.

    Errors: ValueError or TypeError for what is not JSON or is too long.
    """
    body = json.dumps(frame, allow_nan=False).encode()
    if len(body) > MOST_BYTES:
        msg = f"{len(body)} bytes are too many to cross, {MOST_BYTES} are possible"
        raise ValueError(msg)
    return len(body).to_bytes(4, "big") + body


def read_frame(stream: BinaryIO) -> Frame | None:
    """Read the next frame; None when the stream has ended, or has something else in it."""
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > MOST_BYTES:
        return None
    body = stream.read(size)
    if len(body) < size:
        return None
    try:
        frame: object = json.loads(body)
    except ValueError:
        return None
    return cast("Frame", frame) if isinstance(frame, dict) else None


def serve(lifeline: int) -> None:
    """Answer calls until whoever started this process closes the stream, or is gone.

    Shapes: `lifeline` is a descriptor that ends with the starting process, -1 where there is none.
    """
    sys.argv = [""]
    requests, replies = _take_streams()
    if lifeline >= 0:
        _end_with(lifeline)
    signal.signal(signal.SIGTERM, _stop)
    inbox: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
    working = threading.Event()
    threading.Thread(target=_listen, args=(requests, inbox, working), daemon=True).start()
    try:
        setup = inbox.get()
        function: _Function | None = None
        while setup is not None and (request := inbox.get()) is not None:
            replies.write(BEGUN)
            replies.flush()
            try:
                function = function or _Function(setup)
                reply = function.call(request)
            except _Stopped:
                raise
            except BaseException as e:  # noqa: BLE001 - whoever waits is told, whatever it was
                reply = _failure(e)
            # Invariant: the next request comes only after the answer, so this is about the one before it.
            working.clear()
            _answer(replies, reply)
    except (_Stopped, BrokenPipeError):
        _end_at_once()


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep the two streams for the frames, out of the function's reach, and give it others."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(nothing, 1)
    os.close(nothing)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)
    if hasattr(os, "register_at_fork"):
        # Hazard: a process that the function forks would hold the stream open when this one is gone.
        os.register_at_fork(after_in_child=lambda: [os.close(kept) for kept in (requests, replies)])
    return os.fdopen(requests, "rb"), os.fdopen(replies, "wb")


def _end_with(lifeline: int) -> None:
    """Have the kernel end this process and what it started when the other end of the lifeline is closed.

    A thread that waits for it would not do alone: a function that holds the interpreter lock lets no thread run.
    """
    import fcntl
    import select

    # A negative owner is a group of processes.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    set_signal = getattr(fcntl, "F_SETSIG", None)
    if set_signal is not None:
        fcntl.fcntl(lifeline, set_signal, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        _end_at_once()  # It was closed before the kernel was told.


def _stop(*_: object) -> NoReturn:
    raise _Stopped


def _listen(requests: BinaryIO, inbox: queue.SimpleQueue[Frame | None], working: threading.Event) -> None:
    """Pass requests on; when nobody sends any more, end: in good order, or at once in the middle of a call."""
    while (request := read_frame(requests)) is not None:
        # The first frame is no call, but nobody closes the stream between it and the next one.
        working.set()
        inbox.put(request)
    if working.is_set():
        _end_at_once()
    inbox.put(None)


def _end_at_once() -> NoReturn:
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _answer(replies: BinaryIO, reply: Frame) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    try:
        packed = pack(reply)
    except (TypeError, ValueError, RecursionError) as e:
        said = f"it gave a {reply.get('type')} that cannot cross as JSON: {type(e).__name__}: {e}"
        packed = pack(_failure(ToolError(said)))
    replies.write(packed)
    replies.flush()


class _Function:
    """The function, found once, and what it takes."""

    def __init__(self, setup: Frame) -> None:
        root = Path(setup["root"]) if setup["root"] is not None else None
        call, file = setup["call"], setup["file"]
        if setup["allow_modules"] is None:
            self._function = import_found(call, Path(file) if file is not None else None)
        else:
            allowed = tuple(setup["allow_modules"])
            self._function = resolve(call, root=root, allow_modules=allowed)
        self._convert: Callable[[Frame], Frame] | None = None
        if setup["converts"]:
            from treadle.tools.function import describe

            self._convert = describe(self._function, hidden=tuple(setup["hidden"]))[2]

    def call(self, request: Frame) -> Frame:
        """Call the function in a context of its own and give the reply."""
        return contextvars.Context().run(self._call, request)

    def _call(self, request: Frame) -> Frame:
        names = getattr(inspect.unwrap(self._function), "__globals__", {})
        for name, value in request["variables"].items():
            names[name].set(value)
        arguments = request["arguments"]
        if self._convert is not None:
            arguments = self._convert(arguments)
        arguments |= request["supplied"]
        tx = None
        if request["writes"]:
            from treadle.tools.transaction import Transaction

            tx = arguments["tx"] = Transaction()
        value = self._function(**arguments)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise ToolError("it is asynchronous, and isolate is for functions that are not")
        dump = getattr(value, "model_dump", None)
        reply: Frame = {
            "value": dump(mode="json") if callable(dump) else value,
            "type": type(value).__name__,
        }
        if tx is not None:
            reply["statements"] = [
                (sql, [{"hex": a.hex()} if isinstance(a, bytes) else a for a in args])
                for sql, args in tx.close()
            ]
        return reply


def _failure(error: BaseException) -> Frame:
    """Give an exception as the other side can raise it again."""
    import traceback

    kind = "other"
    if isinstance(error, (TimeoutError, ConnectionError)):
        kind = "timeout" if isinstance(error, TimeoutError) else "connection"
    elif isinstance(error, (ToolError, ConfigurationError)):
        kind = "tool"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the exception's own __str__ is the tool's code too
        text = ""
    trace = "".join(traceback.format_exception(error))[-4000:]
    is_sound = isinstance(error, Exception) and not isinstance(error, (ConfigurationError, MemoryError))
    return {"kind": kind, "error": type(error).__name__, "text": text, "trace": trace, "is_sound": is_sound}
