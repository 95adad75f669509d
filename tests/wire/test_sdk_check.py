"""`treadle sdk check`: the official clients against a real server, call by call."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import exit as codes
from treadle.cli import invoke, sdk

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """Give the address and a key of a server of its own."""
    with sdk.serving() as found:
        yield found


def check(server: tuple[str, str], *words: str) -> int:
    endpoint, key = server
    return invoke(["sdk", "check", "--endpoint", endpoint, "--key", key, *words])


@pytest.mark.slow
@pytest.mark.parametrize("library", ["azure", "openai"])
def test_every_call_of_the_installed_library_gets_what_it_should(
    server: tuple[str, str], library: str, capsys: Captured
) -> None:
    code = check(server, f"--{library}", "--json")
    (document,) = json.loads(capsys.readouterr().out)
    failed = [
        f"{r['mode']} {r['name']}: {r['detail']}" for r in document["results"] if r["outcome"] == "failed"
    ]
    assert failed == []
    assert code == codes.OK
    assert {r["mode"] for r in document["results"]} == {"sync", "async"}
    assert len(document["results"]) > 120


def test_without_an_address_it_starts_a_server_and_tells_of_each_call(
    capsys: Captured, tmp_path: Path
) -> None:
    assert invoke(["sdk", "check", "--only", "threads.create: empty"]) == codes.OK
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "ok    sync   threads.create: empty",
        "ok    async  threads.create: empty",
        "ok    sync   beta.threads.create: empty",
        "ok    async  beta.threads.create: empty",
    ]
    heads = [line for line in err.splitlines() if "http://127.0.0.1:" in line]
    assert [head.split()[0] for head in heads] == ["azure-ai-agents", "openai"]
    assert "2 passed, 0 failed" in err
    assert list(tmp_path.iterdir()) == []


def test_a_call_that_fails_is_told_with_its_reason(server: tuple[str, str], capsys: Captured) -> None:
    code = check((server[0], "a-wrong-key"), "--openai", "--only", "beta.threads.create: empty")
    out = capsys.readouterr().out
    assert code == codes.FAILED
    assert out.count("FAIL") == 2
    assert "AuthenticationError" in out


def test_the_key_may_come_from_the_environment(
    server: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("TREADLE_API_KEY", server[1])
    words = ["--endpoint", server[0] + "/", "--azure", "--only", "threads.create: empty", "-q"]
    assert invoke(["sdk", "check", *words]) == codes.OK
    assert capsys.readouterr().err == ""


def test_a_server_that_is_not_there_fails_every_call(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = check((f"http://127.0.0.1:{port}", "k"), "--openai", "--only", "beta.threads.create: empty")
    assert found == codes.FAILED
    assert "Connection error" in capsys.readouterr().out


def test_a_table_gets_the_column_of_the_installed_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: tuple[str, str], capsys: Captured
) -> None:
    from treadle.testing import sdk_openai

    monkeypatch.setattr(sdk_openai, "SDK", replaced(sdk_openai.SDK, "beta.threads.create: empty"))
    page = tmp_path / "compatibility.md"
    assert check(server, "--openai", "--table", str(page)) == codes.OK
    version = sdk_openai.SDK.version
    assert f"| call | {version} |\n|---|:-:|\n| `beta.threads.create: empty` | ✓ |\n" in page.read_text()
    assert check(server, "--openai", "--table", str(page), "--only", "files") == codes.USAGE
    capsys.readouterr()


def replaced(library: Any, name: str) -> Any:
    """Give a library with one of its checks."""
    from dataclasses import replace

    return replace(library, checks=[check for check in library.checks if check.name == name])


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_a_mistake_on_the_command_line(address: str, capsys: Captured) -> None:
    assert invoke(["sdk", "check", "--endpoint", address]) == codes.USAGE
    assert "no address such as" in capsys.readouterr().err


def test_a_library_that_is_not_installed_is_one_line_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, server: tuple[str, str], capsys: Captured
) -> None:
    from dataclasses import replace

    from treadle.testing import sdk_azure

    monkeypatch.setattr(sdk_azure, "SDK", replace(sdk_azure.SDK, distribution="no-such-distribution"))
    assert check(server, "--azure") == codes.DEFINITION
    assert "pip install 'treadle[azure]'" in capsys.readouterr().err
    assert check(server, "--only", "threads.create: empty") == codes.OK
    out, err = capsys.readouterr()
    assert "azure-ai-agents is not installed" in err
    assert out.count("ok") == 2


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert invoke(["sdk", "check"]) == codes.DEFINITION
    assert "the server did not start" in capsys.readouterr().err
