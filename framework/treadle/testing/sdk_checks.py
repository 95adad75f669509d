"""Run the calls of a client library against a server, one by one, and say of each whether it did what it should.

This file and the two that have the calls (`sdk_azure`, `sdk_openai`) import nothing of treadle, so they also run
in an environment that has only the client library:

    PYTHONPATH=framework python -m treadle.testing.sdk_azure --endpoint http://127.0.0.1:8000 --key KEY

Calls are written once, as a synchronous script has them; `Blocking` lets them call an asynchronous client too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import inspect
import json
import logging
import platform
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, NamedTuple, Protocol, Self

PATIENCE_S = 60.0
"""How long a call may take; one that never ends, such as a pager that goes round, has failed."""

MODEL = "offline"
CITY, WEATHER = "Paris", "21 degrees and sunny"

Outcome = Literal["passed", "failed", "absent"]


class Unexpected(Exception):
    """A call gave something else than it should."""


class Check(NamedTuple):
    """A call of the library.

    Shapes: `call` is where it stands on the client, such as runs.create; a version that has nothing there is not
    asked. `about` says what of it is tried, where several checks try the same call.
    """

    call: str
    run: Callable[[Any], None]
    about: str = ""

    @property
    def name(self) -> str:
        """Give the check's name."""
        return f"{self.call}: {self.about}" if self.about else self.call


class Target(NamedTuple):
    """The server: its address without a mount of one library, a key, and a model that it knows."""

    endpoint: str
    key: str
    model: str = MODEL


class Desk(Protocol):
    """What a check works with."""

    client: Any


@dataclass(frozen=True, slots=True)
class Sdk:
    """A library: its checks, and how its clients are made, by the way in which they are called."""

    name: str
    distribution: str
    install: str
    checks: Sequence[Check]
    modes: Mapping[str, Callable[[Target], AbstractContextManager[Desk]]]

    @property
    def version(self) -> str | None:
        """Give the installed version; None where there is none."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a check; `detail` says why it failed. Units: `ms` milliseconds."""

    name: str
    mode: str
    outcome: Outcome
    detail: str
    ms: int


def run_checks(
    sdk: Sdk,
    target: Target,
    *,
    only: str = "",
    report: Callable[[Result], None] = lambda _: None,
    patience_s: float = PATIENCE_S,
) -> list[Result]:
    """Run each check with each way of calling, and tell of each as it ends.

    Shapes: with `only`, checks whose name has that text.
    """
    results: list[Result] = []
    for mode, open_desk in sdk.modes.items():
        for check in sdk.checks:
            if only not in check.name:
                continue
            start = time.perf_counter()
            outcome, detail = _run(check, lambda open_desk=open_desk: open_desk(target), patience_s)
            ms = round((time.perf_counter() - start) * 1000)
            results.append(Result(check.name, mode, outcome, detail, ms))
            report(results[-1])
    return results


def _run(
    check: Check, open_desk: Callable[[], AbstractContextManager[Desk]], patience_s: float
) -> tuple[Outcome, str]:
    """Run a check in a thread: one that never ends is left behind."""
    found: list[tuple[Outcome, str]] = []

    def work() -> None:
        try:
            with open_desk() as desk:
                if not _has(desk.client, check.call):
                    found.append(("absent", "this version has no such call"))
                    return
                check.run(desk)
        except Exception as e:  # noqa: BLE001 - whatever a library raises is what is looked for
            found.append(("failed", _told(e)))
        else:
            found.append(("passed", ""))

    worker = threading.Thread(target=work, name=f"check {check.name}", daemon=True)
    worker.start()
    worker.join(patience_s)
    return found[0] if found else ("failed", f"it did not end within {patience_s:g} s")


def _has(client: object, call: str) -> bool:
    try:
        for name in call.split("."):
            client = getattr(client, name)
    except AttributeError:
        return False
    return True


def _told(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}"[:400] if said else type(error).__name__


# -- what checks say of what they got --------------------------------------------------------------------------------


def expect(found: object, wanted: object, what: str) -> None:
    """Compare what was got with what it should be.

    Errors: Unexpected.
    """
    if found != wanted:
        raise Unexpected(f"{what}: expected {wanted!r}, got {found!r}")


def expect_in(part: object, whole: Any, what: str) -> None:
    """Look for a part in what was got.

    Errors: Unexpected.
    """
    if part not in whole:
        raise Unexpected(f"{what}: expected {part!r} in {whole!r}")


@contextlib.contextmanager
def raises(kind: type[Exception], *, saying: str = "") -> Generator[None]:
    """Expect an error of a kind, with a text in it.

    Errors: Unexpected where there is none, or one that says something else.
    """
    try:
        yield
    except kind as e:
        expect_in(saying, str(e), f"the text of {kind.__name__}")
        return
    raise Unexpected(f"expected {kind.__name__}, and there was no error")


def until(
    ask: Callable[[], Any], *, is_over: Callable[[Any], bool], what: str, patience_s: float = 20.0
) -> Any:
    """Ask until the answer is as it should be, and give it.

    Errors: Unexpected when the patience is over.
    """
    end = time.monotonic() + patience_s
    while not is_over(found := ask()):
        if time.monotonic() > end:
            raise Unexpected(f"{what} did not come within {patience_s:g} s")
        time.sleep(0.02)
    return found


# -- one way to call both kinds of client ----------------------------------------------------------------------------


class Blocking:
    """An asynchronous client, or what hangs on it, called as if it were synchronous.

    A coroutine is awaited, what is iterated or entered asynchronously is so synchronously; all else is as it was.
    """

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Take the object and the loop in which it lives."""
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        """Give an attribute of the object."""
        found: Any = getattr(self._inner, name)
        if inspect.isclass(found):
            return found
        if callable(found):

            def call(*given: Any, **named: Any) -> Any:
                return self._settled(found(*given, **named))

            return call
        module = type(found).__module__
        is_wrapped = ".operations" in module or ".resources" in module or hasattr(found, "__aiter__")
        return Blocking(found, self._loop) if is_wrapped else found

    def __iter__(self) -> Iterator[Any]:
        """Iterate to the end."""
        items = aiter(self._inner)
        while True:
            try:
                item = self._loop.run_until_complete(_next(items))
            except StopAsyncIteration:
                return
            yield item

    def __enter__(self) -> Any:
        """Enter the object's own context."""
        return self._settled(self._loop.run_until_complete(self._inner.__aenter__()))

    def __exit__(self, *error: object) -> None:
        """Leave it."""
        self._loop.run_until_complete(self._inner.__aexit__(*error))

    def _settled(self, found: Any) -> Any:
        if not hasattr(found, "__aiter__") and inspect.isawaitable(found):
            found = self._loop.run_until_complete(_awaited(found))
        if hasattr(found, "__aiter__") or hasattr(found, "__aenter__"):
            return Blocking(found, self._loop)
        return found


async def _awaited(found: Any) -> Any:
    return await found


async def _next(items: Any) -> Any:
    return await anext(items)


@contextlib.contextmanager
def blocking(make: Callable[[], Any]) -> Generator[Blocking]:
    """Make an asynchronous client in a loop of its own, and close both in the end."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def made() -> Any:
            return make()

        client = Blocking(loop.run_until_complete(made()), loop)
        try:
            yield client
        finally:
            client.close()


class Recorder:
    """What a stream told its handler, in order; a mixin, so that each library's handler can be one."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.seen: list[str] = []
        self.text = ""

    def note(self, *words: object) -> None:
        """Write down a call in words; members of enumerations stand for their values."""
        self.seen.append(" ".join(str(getattr(word, "value", word)) for word in words))

    def told(self, *words: str) -> Self:
        """Say that each of these was told at least once.

        Errors: Unexpected.
        """
        for word in words:
            expect_in(word, self.seen, "what the handler was told")
        return self


# -- the command of one library --------------------------------------------------------------------------------------


def document(sdk: Sdk, results: Sequence[Result]) -> dict[str, Any]:
    """Give the results as one JSON document."""
    return {
        "sdk": sdk.name,
        "version": sdk.version,
        "python": platform.python_version(),
        "results": [dataclasses.asdict(result) for result in results],
    }


def line(result: Result) -> str:
    """Give a result as a line."""
    mark = {"passed": "ok", "failed": "FAIL", "absent": "-"}[result.outcome]
    return f"{mark:<4}  {result.mode:<5}  {result.name}{'  ' + result.detail if result.detail else ''}"


def silence() -> None:
    """Keep the libraries from saying, at every call, that it is on its way out, and from telling of errors twice."""
    warnings.simplefilter("ignore", DeprecationWarning)
    for name in ("azure", "openai"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def main(sdk: Sdk, arguments: Sequence[str] | None = None) -> int:
    """Run the checks of a library as a command of its own; 1 where one failed, 2 without the library."""
    parser = argparse.ArgumentParser(description=f"Run the calls of {sdk.name} against a server.")
    parser.add_argument("--endpoint", required=True, help="where the server is: http://127.0.0.1:8000")
    parser.add_argument("--key", default="no-key", help="an API key of the server")
    parser.add_argument("--model", default=MODEL, help="a model that the server knows")
    parser.add_argument("--only", default="", metavar="TEXT", help="the checks whose name has this text")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args(arguments)
    if sdk.version is None:
        sys.stderr.write(f"{sdk.name} is not installed: pip install '{sdk.install}'\n")
        return 2
    silence()

    def report(result: Result) -> None:
        if not given.json:
            sys.stdout.write(line(result) + "\n")
            sys.stdout.flush()

    target = Target(given.endpoint.rstrip("/"), given.key, given.model)
    results = run_checks(sdk, target, only=given.only, report=report)
    if given.json:
        sys.stdout.write(json.dumps(document(sdk, results)) + "\n")
    return 1 if any(result.outcome == "failed" for result in results) else 0
