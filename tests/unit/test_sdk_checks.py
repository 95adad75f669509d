"""Checks of client libraries: what passes, what fails, what is absent; and that one client stands for both kinds."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

import treadle
from treadle.testing import sdk_checks
from treadle.testing.sdk_checks import (
    Check,
    Recorder,
    Result,
    Sdk,
    Target,
    Unexpected,
    blocking,
    expect,
    expect_in,
    raises,
    run_checks,
    until,
)

TARGET = Target("http://127.0.0.1:1", "key")


@dataclass
class Desk:
    client: Any


def sdk(*checks: Check, client: Any = None, modes: tuple[str, ...] = ("sync",)) -> Sdk:
    @contextlib.contextmanager
    def opened(target: Target) -> Iterator[Desk]:
        assert target == TARGET
        yield Desk(client if client is not None else SimpleNamespace(call=lambda: 1))

    return Sdk("a library", "pydantic", "pydantic", checks, dict.fromkeys(modes, opened))


def outcome(check: Check, **options: Any) -> tuple[str, str]:
    (result,) = run_checks(sdk(check), TARGET, **options)
    return result.outcome, result.detail


def test_a_check_that_ends_has_passed() -> None:
    assert outcome(Check("call", lambda desk: expect(desk.client.call(), 1, "the number"))) == ("passed", "")


def test_a_check_that_gets_something_else_has_failed_and_says_what() -> None:
    found = outcome(Check("call", lambda desk: expect(desk.client.call(), 2, "the number")))
    assert found == ("failed", "Unexpected: the number: expected 2, got 1")


def test_an_error_of_the_library_is_a_failure() -> None:
    def check(_: Any) -> None:
        raise LookupError("no such\n  thing")

    assert outcome(Check("call", check)) == ("failed", "LookupError: no such thing")


def test_a_client_that_cannot_be_made_is_a_failure() -> None:
    @contextlib.contextmanager
    def broken(_: Target) -> Iterator[Desk]:
        raise OSError("refused")
        yield

    library = Sdk("a library", "pydantic", "pydantic", [Check("call", lambda _: None)], {"sync": broken})
    assert run_checks(library, TARGET)[0].detail == "OSError: refused"


def test_a_call_that_the_version_does_not_have_is_absent_and_not_tried() -> None:
    def check(_: Any) -> None:
        raise AssertionError("it was tried")

    for call in ("nothing", "call.of.nothing"):
        assert outcome(Check(call, check))[0] == "absent"


def test_a_check_that_never_ends_has_failed_and_the_next_one_runs() -> None:
    stuck = threading.Event()
    checks = (Check("call", lambda _: stuck.wait(), "stuck"), Check("call", lambda _: None, "next"))
    results = run_checks(sdk(*checks), TARGET, patience_s=0.05)
    stuck.set()
    assert [(r.outcome, r.detail) for r in results] == [
        ("failed", "it did not end within 0.05 s"),
        ("passed", ""),
    ]


def test_each_way_of_calling_runs_every_check_and_tells_as_it_goes() -> None:
    told: list[Result] = []
    checks = (Check("call", lambda _: None), Check("call", lambda _: None, "twice"))
    results = run_checks(sdk(*checks, modes=("sync", "async")), TARGET, report=told.append)
    assert told == results
    assert [(r.mode, r.name) for r in results] == [
        ("sync", "call"),
        ("sync", "call: twice"),
        ("async", "call"),
        ("async", "call: twice"),
    ]
    assert len(run_checks(sdk(*checks), TARGET, only="twice")) == 1


def test_an_expected_error_must_come_and_must_say_what_it_should() -> None:
    with raises(LookupError, saying="gone"):
        raise KeyError("gone")
    with pytest.raises(Unexpected, match="no error"), raises(LookupError):
        pass
    with pytest.raises(Unexpected, match="gone"), raises(LookupError, saying="gone"):
        raise KeyError("elsewhere")
    with pytest.raises(ValueError, match="other"), raises(LookupError):
        raise ValueError("other")


def test_what_is_waited_for_is_given_and_patience_ends() -> None:
    answers = iter([1, 2, 3])
    assert until(lambda: next(answers), is_over=lambda n: n == 3, what="three") == 3
    with pytest.raises(Unexpected, match="four did not come"):
        until(lambda: 0, is_over=lambda n: n == 4, what="four", patience_s=0)


def test_a_handler_says_what_it_was_not_told() -> None:
    recorder = Recorder()
    recorder.note("run", "queued")
    recorder.told("run queued")
    with pytest.raises(Unexpected, match="run completed"):
        recorder.told("run completed")
    with pytest.raises(Unexpected, match="missing"):
        expect_in("missing", ["there"], "the list")


class Pager:
    """A list that is iterated asynchronously, as both libraries' lists are."""

    def __aiter__(self) -> "Pager":
        self.left = 3
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left


class Stream(Pager):
    """A stream that is entered first."""

    is_open = False

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_open = False


class Client:
    """An asynchronous client."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_closed = False
        self.opened = Stream()
        self.plain = "plain"

    async def get(self, number: int) -> int:
        assert asyncio.get_running_loop() is self.loop
        return number

    def list(self) -> Pager:
        return Pager()

    async def stream(self) -> Stream:
        return self.opened

    async def fail(self) -> None:
        raise LookupError("gone")

    async def close(self) -> None:
        self.is_closed = True


def test_an_asynchronous_client_is_called_as_a_synchronous_one() -> None:
    made: list[Client] = []

    def make() -> Client:
        made.append(Client())
        return made[0]

    with blocking(make) as client:
        assert client.get(7) == 7
        assert client.plain == "plain"
        assert list(client.list()) == [2, 1, 0]
        with client.stream() as stream:
            assert made[0].opened.is_open
            assert next(iter(stream)) == 2
        assert not made[0].opened.is_open
        with pytest.raises(LookupError):
            client.fail()
    assert made[0].is_closed


@pytest.mark.parametrize("module", ["sdk_azure", "sdk_openai", "sdk_checks"])
def test_the_checks_load_nothing_of_treadle_but_their_runner(module: str) -> None:
    code = f"import sys, treadle.testing.{module}; print([m for m in sys.modules if m.split('.')[0] == 'treadle'])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(Path(treadle.__file__).parents[1])!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert set(json.loads(done.stdout.replace("'", '"'))) <= {
        "treadle",
        "treadle.testing",
        "treadle.testing.sdk_checks",
        f"treadle.testing.{module}",
    }


def test_the_command_without_the_library_says_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    library = Sdk("a library", "no-such-distribution", "the-thing", [], {})
    assert sdk_checks.main(library, ["--endpoint", "http://127.0.0.1:1"]) == 2
    assert capsys.readouterr().err == "a library is not installed: pip install 'the-thing'\n"


@pytest.mark.filterwarnings("default")
def test_the_command_gives_lines_or_one_document_and_fails_where_a_check_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = Check("call", lambda _: None), Check("call", lambda _: expect(1, 2, "it"), "bad")

    def command(*checks: Check, words: tuple[str, ...] = ()) -> tuple[int, str]:
        arguments = ["--endpoint", TARGET.endpoint + "/", "--key", TARGET.key, *words]
        return sdk_checks.main(sdk(*checks), arguments), capsys.readouterr().out

    assert command(good) == (0, "ok    sync   call\n")
    assert command(good, bad) == (
        1,
        "ok    sync   call\nFAIL  sync   call: bad  Unexpected: it: expected 2, got 1\n",
    )
    code, out = command(bad, words=("--json",))
    assert code == 1
    document = json.loads(out)
    assert (document["sdk"], [r["outcome"] for r in document["results"]]) == ("a library", ["failed"])
