"""`treadle sdk`: whether clients written for Azure's agents and OpenAI's assistants work against a server.

The checks themselves lie in `treadle.testing` and are found by their import strings.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import click

from treadle import registry
from treadle.cli import exit as codes
from treadle.cli.context import Group
from treadle.cli.output import complain, data, data_json, note, style
from treadle.errors import ConfigurationError
from treadle.ids import secret

SDKS: dict[str, str] = {"azure": "treadle.testing.sdk_azure:SDK", "openai": "treadle.testing.sdk_openai:SDK"}
"""Name to import string of each library's checks."""

START_TIMEOUT_S = 30.0
LOOK_S = 0.02
STOP_TIMEOUT_S = 15.0

_MARKS = {"passed": ("ok", "green"), "failed": ("FAIL", "red"), "absent": ("-", "dim")}
_CELLS = {"passed": "✓", "failed": "✗", "absent": "–"}
_FOREIGN = ("TREADLE_", "OPENAI_", "AZURE_")
_ADDRESS = re.compile(r" at (https?://\S+)$", re.MULTILINE)


@click.group(cls=Group)
def sdk() -> None:
    """Check what the client libraries of Azure's agents and OpenAI's assistants get from a server."""


@sdk.command(name="check")
@click.option(
    "--azure", is_flag=True, help="The calls of azure-ai-agents; without either option both libraries'."
)
@click.option("--openai", is_flag=True, help="The calls of openai's assistants.")
@click.option(
    "--endpoint", metavar="URL", help="A server that runs; else one is started, with a store of its own."
)
@click.option("--key", metavar="KEY", help="A key of that server; else TREADLE_API_KEY.")
@click.option(
    "--model", metavar="MODEL", default="offline", show_default=True, help="The model of the agents."
)
@click.option("--only", metavar="TEXT", default="", help="The calls whose name has this text.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option(
    "--table",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the version's column there.",
)
def check(
    *,
    azure: bool,
    openai: bool,
    endpoint: str | None,
    key: str | None,
    model: str,
    only: str,
    as_json: bool,
    table: Path | None,
) -> int:
    """Run the calls of the installed client libraries, synchronous and asynchronous, and tell of each.

    It makes agents, threads, runs, files and vector stores and leaves most of them where it made them. Exits with 1
    when a call did not do what it should.
    """
    if table is not None and only:
        raise click.UsageError("a table is of all calls; leave out --only")
    chosen = _installed([name for name, asked in (("azure", azure), ("openai", openai)) if asked])
    with contextlib.ExitStack() as stack:
        if endpoint is None:
            endpoint, key = stack.enter_context(serving())
        place, shown = _endpoint(endpoint), key or os.environ.get("TREADLE_API_KEY") or "no-key"
        documents = [_checked(one, place, shown, model, only, as_json=as_json) for one in chosen]
    if as_json:
        data_json(documents)
    for document in documents:
        if table is not None:
            write_table(table, document)
    is_well = all(counts(document)["failed"] == 0 for document in documents)
    return codes.OK if is_well else codes.FAILED


def _installed(asked: Sequence[str]) -> list[Any]:
    """Give the libraries that are asked for; where none is, those that are installed.

    Errors: ConfigurationError for one that is not there.
    """
    found: list[Any] = []
    for name in asked or SDKS:
        one = cast("Any", registry.load(SDKS[name]))
        if one.version is not None:
            found.append(one)
            continue
        hint = f"install it: pip install '{one.install}'"
        if asked:
            raise ConfigurationError(f"{one.name} is not installed", hint=hint)
        complain(f"{one.name} is not installed; {hint}", "yellow")
    if not found:
        raise ConfigurationError(
            "no client library is installed", hint="pip install 'treadle[azure]' brings both"
        )
    return found


def _endpoint(text: str) -> str:
    place = urlsplit(text)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise click.BadParameter(
            f"'{text}' is no address such as http://127.0.0.1:8000", param_hint="--endpoint"
        )
    return text.rstrip("/")


def _checked(one: Any, endpoint: str, key: str, model: str, only: str, *, as_json: bool) -> dict[str, Any]:
    """Run the checks of a library, tell of each, and give the results as a document."""
    door = cast("Any", registry.load("treadle.testing.sdk_checks:run_checks"))
    target = cast("Any", registry.load("treadle.testing.sdk_checks:Target"))(endpoint, key, model)
    document = cast("Any", registry.load("treadle.testing.sdk_checks:document"))
    cast("Any", registry.load("treadle.testing.sdk_checks:silence"))()
    if not as_json:
        note(f"{one.name} {one.version}, Python {platform.python_version()}, {endpoint}", "bold")
    found = document(one, door(one, target, only=only, report=_say_nothing if as_json else _tell))
    if not as_json:
        of = counts(found)
        said = f"{of['passed']} passed, {of['failed']} failed"
        note(f"{said}, {of['absent']} not in this version" if of["absent"] else said)
    return found


def _say_nothing(_: Any) -> None:
    """Take a result that is told later, with all the others."""


def _tell(result: Any) -> None:
    mark, color = _MARKS[result.outcome]
    data(f"{style(f'{mark:<4}', color, stream=sys.stdout)}  {result.mode:<5}  {result.name}")
    if result.detail and result.outcome == "failed":
        data(f"             {result.detail}")


def counts(document: Mapping[str, Any]) -> dict[str, int]:
    """Count a document's results by how they came out."""
    found = dict.fromkeys(_MARKS, 0)
    for result in document["results"]:
        found[result["outcome"]] += 1
    return found


# -- a server to ask -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving() -> Generator[tuple[str, str]]:
    """Start a server of its own on a free port, with an empty store; give its address and a key, and stop it in the end.

    Errors: ConfigurationError where it does not start.
    """
    key = f"check-{secret(43)}"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    with (
        tempfile.TemporaryDirectory(prefix="treadle-sdk-") as folder,
        (Path(folder) / "log").open("wb") as log,
    ):
        environ |= {
            "TREADLE_API_KEY": key,
            "TREADLE_STORE": f"sqlite:///{folder}/treadle.db",
            "TREADLE_DURABILITY": "normal",
            "NO_COLOR": "1",
        }
        words = [sys.executable, "-m", "treadle", "--project", folder, "serve", "--port", "0"]
        process = subprocess.Popen(words, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603 - this interpreter, with words of ours
        try:
            yield _started(process, Path(folder) / "log"), key
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the server says where it is."""
    for _ in range(int(START_TIMEOUT_S / LOOK_S)):
        found = _ADDRESS.search(log.read_text(encoding="utf-8", errors="replace"))
        if found is not None:
            return found[1]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
            break
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    raise ConfigurationError("the server did not start", hint=said[-2000:] or None)


# -- the table -------------------------------------------------------------------------------------------------------


def write_table(file: Path, document: Mapping[str, Any]) -> None:
    """Write a version's column into the table of its library; the other versions' columns stay.

    Shapes: `file` is Markdown; where it has no table of that library yet, one is added at its end.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else "# Compatibility\n"
    begin = f"<!-- {document['sdk']}: written by `treadle sdk check --table`, never by hand -->\n"
    end = f"<!-- end of {document['sdk']} -->\n"
    before, found, rest = text.partition(begin)
    inner, closed, after = rest.partition(end)
    if found and not closed:
        raise ConfigurationError(
            f"{file} has no line '{end.strip()}'", hint="put it back, or delete the table"
        )
    if not found:
        before = f"{text.rstrip()}\n\n## {document['sdk']}\n\n"
    table = _merged(_columns(inner), document)
    file.write_text(before + begin + "\n" + table + "\n" + end + after, encoding="utf-8")


def _columns(table: str) -> dict[str, dict[str, str]]:
    """Give the cells of a table by version and call."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.split("\n")
        if line.startswith("|")
    ]
    if not rows:
        return {}
    versions = rows[0][1:]
    return {
        version: {row[0].strip("`"): row[place] for row in rows[2:] if len(row) > place}
        for place, version in enumerate(versions, start=1)
    }


def _merged(columns: dict[str, dict[str, str]], document: Mapping[str, Any]) -> str:
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for result in document["results"]:
        cells.setdefault(result["name"], []).append(result)
    columns = columns | {document["version"]: {name: _cell(results) for name, results in cells.items()}}
    versions = sorted(columns, key=_order)
    lines = [f"| call | {' | '.join(versions)} |", "|---|" + ":-:|" * len(versions)]
    lines += [
        f"| `{name}` | {' | '.join(columns[version].get(name, '') for version in versions)} |"
        for name in cells
    ]
    return "\n".join(lines) + "\n"


def _cell(results: Sequence[Mapping[str, Any]]) -> str:
    """Give one cell: what became of a call in each way of calling, said once where it is the same."""
    outcomes = {result["outcome"] for result in results}
    if len(outcomes) == 1:
        return _CELLS[outcomes.pop()]
    return ", ".join(f"{result['mode']} {_CELLS[result['outcome']]}" for result in results)


def _order(version: str) -> tuple[Sequence[int], bool, Sequence[int]]:
    """Put versions in order; a beta comes before what it becomes."""
    found = re.match(r"[0-9.]*", version)
    plain = found[0] if found else ""
    more = version[len(plain) :]
    numbers = [int(piece) for piece in plain.split(".") if piece]
    return numbers, not more, [int(piece) for piece in re.findall(r"[0-9]+", more)]
