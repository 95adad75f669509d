"""Run the checks of client libraries in several of their versions, each in an environment of its own.

    python -m treadle.testing.wire_matrix              run them all against one server and print what failed
    python -m treadle.testing.wire_matrix --write      put each version's column into `docs/compatibility.md` as well
    python -m treadle.testing.wire_matrix --renew      ask for newer versions where a row takes the newest

Run it in a clone. An environment has a client library and nothing of treadle's: the checks import nothing else. It
ends with 1 where a call did not do what it should.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from treadle.cli.sdk import counts, serving, write_table

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "compatibility.md"
FOLDER = ROOT / ".venv-wire"
TIMEOUT_S = 900


class Row(NamedTuple):
    """A version: the name of its environment, what is installed there, and the module with its checks."""

    name: str
    requirements: tuple[str, ...]
    checks: str

    @property
    def is_fixed(self) -> bool:
        """Tell whether the row is always of the same version."""
        return "==" in self.requirements[0]


AZURE, OPENAI = "treadle.testing.sdk_azure", "treadle.testing.sdk_openai"

ROWS = (
    Row("azure-ai-agents-1.0.2", ("azure-ai-agents==1.0.2", "aiohttp"), AZURE),
    Row("azure-ai-agents-1.1.0", ("azure-ai-agents==1.1.0", "aiohttp"), AZURE),
    Row("azure-ai-agents-beta", ("azure-ai-agents>=1.2.0b1", "aiohttp"), AZURE),
    Row("openai-1.109.1", ("openai==1.109.1",), OPENAI),
    Row("openai-2", ("openai>=2,<3",), OPENAI),
    Row("openai-3", ("openai>=3,<4",), OPENAI),
)


def environment(row: Row, folder: Path = FOLDER, *, renew: bool = False) -> Path:
    """Give the interpreter of a row's environment; make the environment where it is not there.

    Errors: CalledProcessError where the library cannot be installed.
    """
    place = folder / row.name
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = place / ".installed"
    wanted = "\n".join(row.requirements)
    is_there = stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted
    if is_there and (row.is_fixed or not renew):
        return python
    if not is_there:
        venv.create(place, clear=True, with_pip=True)
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*words, *row.requirements], check=True)  # noqa: S603 - the table's own words
    stamp.write_text(wanted, encoding="utf-8")
    return python


def checked(row: Row, python: Path, *, endpoint: str, key: str) -> dict[str, Any]:
    """Run a row's checks against a server and give the results as a document.

    Errors: RuntimeError where they could not be run at all.
    """
    words = [python, "-m", row.checks, "--json", "--endpoint", endpoint, "--key", key]
    environ = _clean(os.environ) | {"PYTHONPATH": str(ROOT / "framework")}
    done = subprocess.run(  # noqa: S603 - the table's own words
        words, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    try:
        return cast("dict[str, Any]", json.loads(done.stdout))
    except ValueError:
        raise RuntimeError(f"{row.name} gave no results: {done.stderr.strip()[-2000:]}") from None


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Give an environment without what would change a client: addresses, keys, proxies of its own."""
    foreign = ("TREADLE_", "OPENAI_", "AZURE_", "PYTHON")
    return {name: value for name, value in environ.items() if not name.startswith(foreign)}


def run(rows: Sequence[Row], *, page: Path | None = None, renew: bool = False) -> int:
    """Run rows against one server, tell of each, and give 1 where a call failed; `page` gets their columns."""
    failures = 0
    with serving() as (endpoint, key):
        for row in rows:
            document = checked(row, environment(row, renew=renew), endpoint=endpoint, key=key)
            of = counts(document)
            failures += of["failed"]
            sys.stdout.write(
                f"{document['sdk']} {document['version']}: {of['passed']} passed, {of['failed']} failed, "
                f"{of['absent']} not in this version\n"
            )
            for result in document["results"]:
                if result["outcome"] == "failed":
                    sys.stdout.write(f"  {result['mode']:<5}  {result['name']}  {result['detail']}\n")
            sys.stdout.flush()
            if page is not None:
                write_table(page, document)
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the columns into docs/compatibility.md")
    parser.add_argument(
        "--renew", action="store_true", help="install newer versions where a row takes the newest"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows whose name has this text")
    given = parser.parse_args(arguments)
    rows = [row for row in ROWS if given.only in row.name]
    return run(rows, page=PAGE if given.write else None, renew=given.renew)


if __name__ == "__main__":
    sys.exit(main())
