"""`treadle doctor`: what this machine and this project have, and for each thing that is not right, what to do."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import click

from treadle.cli import exit as codes
from treadle.cli.context import PROJECT_FILE, Configuration, Invocation, command, configure, file_of
from treadle.cli.output import data, data_json, style
from treadle.errors import DefinitionError, TreadleError

if TYPE_CHECKING:
    from treadle.objects.agent import Connection

MINIMUM_PYTHON = (3, 11)
RACE_FREE_SQLITE = (3, 51, 3)
OPENAI_URL = "https://api.openai.com/v1"
PING_TIMEOUT_S = 5.0

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, how it is, and what to do where it is not right."""

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    fix: str | None = None


@command(name="doctor")
@click.option("--ping", is_flag=True, help="Also connect to the default model endpoint.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def doctor(invocation: Invocation, *, ping: bool, as_json: bool) -> int:
    """Check this machine and this project; each line that is not right says how to fix it.

    Touches no network unless --ping asks for it. Exits with 3 when a check fails.
    """
    checks = list(examine(invocation, ping=ping))
    if as_json:
        data_json([asdict(check) for check in checks])
    else:
        for check in checks:
            mark = style(f"{check.status:<4}", _COLORS[check.status], stream=sys.stdout)
            data(f"{mark}  {check.name:<9} {check.message}")
            if check.fix:
                data(f"      {'':<9} fix: {check.fix}")
    return codes.DEFINITION if any(check.status == "fail" for check in checks) else codes.OK


def examine(invocation: Invocation, *, ping: bool = False) -> Iterator[Check]:
    """Give every check, in the order in which one thing needs another."""
    yield python_check(sys.version_info[:3])
    yield _guarded("sqlite", lambda: sqlite_check(_sqlite_library()))
    configuration, project = _project_check(invocation)
    yield project
    if configuration is not None:
        yield _guarded("store", lambda: store_check(configuration.store))
        yield model_check(configuration)
        if ping:
            yield _guarded("ping", lambda: ping_check(configuration))
    yield from extra_checks()


def python_check(version: tuple[int, ...]) -> Check:
    """Check the interpreter's version."""
    shown = ".".join(map(str, version))
    if version < MINIMUM_PYTHON:
        return Check("python", "fail", f"Python {shown}", "install Python 3.11 or newer")
    return Check("python", "ok", f"Python {shown}")


def sqlite_check(library: str) -> Check:
    """Check the SQLite library for the race between two checkpoints that can lose a WAL file's pages."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", library)
    version = tuple(int(part) for part in found.groups()) if found else ()
    if version < RACE_FREE_SQLITE:
        why = "SQLite 3.7.0 to 3.51.2 can corrupt a database that several processes write"
        return Check("sqlite", "warn", f"{library}: {why}", "pip install --upgrade apsw")
    return Check("sqlite", "ok", library)


def store_check(url: str) -> Check:
    """Check that the store can be opened and written; a store that is not there yet is not made."""
    from treadle.store import open_store

    path = file_of(url)
    if path is not None and not path.exists():
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not os.access(folder, os.W_OK):
            return Check(
                "store", "fail", f"{path} cannot be made: {folder} is not writable", f"chmod u+w {folder}"
            )
        return Check("store", "ok", f"{path} (made by the first run)")
    store = open_store(url)
    try:
        status = store.status()
    finally:
        asyncio.run(store.close())
    shown = f"{status.url}, schema version {status.schema_version}"
    if not status.writable:
        return Check(
            "store", "fail", f"{shown}, not writable", f"chmod u+w {status.url}, or name another: --store URL"
        )
    return Check("store", "ok", shown)


def model_check(configuration: Configuration) -> Check:
    """Check that a default connection is configured and that what it refers to is there."""
    connection = _default_connection(configuration)
    if connection is None:
        return Check(
            "model",
            "warn",
            "no default connection: only the offline and scripted models answer",
            f"export OPENAI_API_KEY=…, or name an endpoint under connections: in {PROJECT_FILE}",
        )
    try:
        url = _resolved(connection.base_url or OPENAI_URL, configuration)
        _resolved(connection.api_key or "", configuration)
        for value in connection.headers.values():
            _resolved(value, configuration)
    except TreadleError as e:
        return Check("model", "fail", f"default connection: {e.message}", e.hint)
    return Check("model", "ok", f"default connection: {url}")


def ping_check(configuration: Configuration) -> Check:
    """Connect to the host and port of the default connection; credentials are not tried."""
    connection = _default_connection(configuration)
    if connection is None:
        return Check("ping", "fail", "there is no default connection to reach")
    endpoint = _resolved(connection.base_url or OPENAI_URL, configuration)
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    place = f"{url.hostname}:{port}"
    start = perf_counter()
    try:
        asyncio.run(_connect(url.hostname or "", port, is_tls=url.scheme == "https"))
    except (OSError, TimeoutError, ValueError) as e:
        return Check(
            "ping", "fail", f"{place} does not answer: {e or type(e).__name__}", "check base_url and network"
        )
    return Check("ping", "ok", f"{place} answers in {(perf_counter() - start) * 1000:.0f} ms")


def extra_checks() -> Iterator[Check]:
    """List the extras and whether what they bring is installed."""
    from importlib.metadata import metadata, requires

    extras = [extra for extra in metadata("treadle").get_all("Provides-Extra") or [] if extra != "dev"]
    for extra in extras:
        names = [
            re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
            for line in requires("treadle") or []
            if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", line)
        ]
        if all(_is_installed(name) for name in names):
            yield Check("extra", "ok", f"{extra}: installed")
        else:
            yield Check("extra", "ok", f"{extra}: not installed; pip install 'treadle[{extra}]' brings it")


def _project_check(invocation: Invocation) -> tuple[Configuration | None, Check]:
    try:
        configuration = configure(invocation)
    except DefinitionError as e:
        count = len(e.problems)
        return None, Check(
            "project",
            "fail",
            f"{e.problems[0].file if count else PROJECT_FILE} has {count} problem{'' if count == 1 else 's'}",
            f"treadle validate {e.problems[0].file if count else PROJECT_FILE}",
        )
    except TreadleError as e:
        return None, Check("project", "fail", e.message, e.hint)
    if configuration.file is None:
        return configuration, Check("project", "warn", f"no {PROJECT_FILE} here or above", "treadle init")
    return configuration, Check("project", "ok", str(configuration.file))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except TreadleError as e:
        return Check(name, "fail", e.message, e.hint)


def _sqlite_library() -> str:
    from treadle.store import open_store

    store = open_store("sqlite://:memory:")
    try:
        return store.status().library
    finally:
        asyncio.run(store.close())


def _default_connection(configuration: Configuration) -> Connection | None:
    from treadle.objects.agent import Connection

    if configuration.project is not None and "default" in configuration.project.connections:
        return configuration.project.connections["default"]
    environ = configuration.environ
    if environ.get("OPENAI_BASE_URL") or environ.get("OPENAI_API_KEY"):
        return Connection.model_validate({"base_url": environ.get("OPENAI_BASE_URL") or OPENAI_URL})
    return None


def _resolved(text: str, configuration: Configuration) -> str:
    from treadle.definition.references import resolve

    return resolve(text, environ=configuration.environ, root=configuration.root)


async def _connect(host: str, port: int, *, is_tls: bool) -> None:
    async with asyncio.timeout(PING_TIMEOUT_S):
        _, writer = await asyncio.open_connection(host, port, ssl=is_tls or None)
        writer.close()
        await writer.wait_closed()


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
