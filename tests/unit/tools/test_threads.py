"""Blocking functions hold up nobody: not each other, not the loop, not the end of the process."""

import asyncio
import contextvars
import subprocess
import sys
import textwrap
import threading

import pytest

from treadle.tools.threads import in_thread


def run_alone(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=False
    )


async def test_a_value_or_an_exception_comes_back():
    assert await in_thread(lambda x: x + 1, {"x": 1}) == 2
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 / 0, {})
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(lambda: next(iter([])), {})


async def test_as_many_run_at_once_as_are_called():
    barrier = threading.Barrier(60, timeout=10)
    assert sorted(
        await asyncio.gather(*(in_thread(lambda n: barrier.wait() >= 0 and n, {"n": n}) for n in range(60)))
    ) == list(range(60))


async def test_calls_that_hang_hold_up_no_others():
    go = threading.Event()
    hanging = [asyncio.create_task(in_thread(go.wait, {"timeout": 10})) for _ in range(50)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(in_thread(lambda: "quick", {}), 5) == "quick"
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    go.set()
    assert await in_thread(lambda: "still fine", {}) == "still fine"


async def test_threads_are_used_again():
    names = {await in_thread(lambda: threading.current_thread().ident, {}) for _ in range(200)}
    assert len(names) < 40


async def test_the_context_of_the_caller_is_there():
    variable = contextvars.ContextVar("variable")
    variable.set("caller")
    assert await in_thread(variable.get, {}) == "caller"


def test_a_hanging_call_does_not_keep_the_process():
    done = run_alone("""
        import asyncio, threading
        from treadle.tools.threads import in_thread
        async def main():
            try:
                async with asyncio.timeout(0.05):
                    await in_thread(threading.Event().wait, {})
            except TimeoutError:
                print("out of time")
        asyncio.run(main())
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out of time\n", "")


def test_a_forked_process_has_threads_of_its_own():
    done = run_alone("""
        import asyncio, os
        from treadle.tools.threads import in_thread
        def call():
            return asyncio.run(asyncio.wait_for(in_thread(lambda: "called", {}), 5))
        print(call(), flush=True)
        if os.fork() == 0:
            print(call(), flush=True)
            os._exit(0)
        os.wait()
    """)
    assert (done.returncode, done.stdout) == (0, "called\ncalled\n")
