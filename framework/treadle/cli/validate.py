"""`treadle validate`: every problem of every file at once, in a form for people, editors and CI."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle.cli import exit as codes
from treadle.cli.context import PROJECT_FILE, Invocation, command
from treadle.cli.output import data, note, wants_colour

if TYPE_CHECKING:
    from treadle.definition.document import Loaded

DOCUMENTS = ("*.agent.yaml", "*.agent.yml", PROJECT_FILE)
"""What is looked for in a folder; a file that is named outright may be called anything."""


@command(name="validate")
@click.argument("files", nargs=-1, required=True, metavar="FILES…|DIR", type=click.Path(exists=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github", "sarif"]),
    default="text",
    show_default=True,
)
@click.option("--resolve", is_flag=True, help="Also import what `call` names and look up every reference.")
@click.option("--dialect", metavar="NAME", help="Read as this dialect where a document fits several.")
@click.pass_obj
def validate(
    invocation: Invocation, *, files: tuple[str, ...], form: str, resolve: bool, dialect: str | None
) -> int:
    """Check documents and report every problem with its file, line and column.

    Exits with 3 when there is an error; warnings and notes alone exit with 0.
    """
    from treadle.definition import report
    from treadle.definition.load import load

    paths = list(_expand(files))
    loaded = load(paths, project=_project(invocation), dialect=dialect)
    problems = list(loaded.problems)
    rendered = report.render(
        problems, loaded.sources, fmt=form, colour=wants_colour(sys.stdout)
    )
    if rendered:
        data(rendered, end="" if rendered.endswith("\n") else "\n")
    _say_dialects(loaded)
    note(summary(len(paths), [problem.severity for problem in problems]))
    return codes.DEFINITION if any(problem.severity == "error" for problem in problems) else codes.OK


def summary(files: int, severities: Sequence[str]) -> str:
    """Give the closing line: how many files, and how many problems of each severity."""
    counts = Counter(severities)
    found = [_plural(counts[s], s) for s in ("error", "warning", "note") if counts[s]]
    return f"{_plural(files, 'file')}: {', '.join(found) or 'no problems'}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _expand(names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        path = Path(name)
        if path.is_file():
            yield path
            continue
        found = sorted(
            f for pattern in DOCUMENTS for f in path.rglob(pattern) if not _is_hidden(f.relative_to(path))
        )
        if not found:
            raise click.UsageError(f"{name} holds no document; one is called {' or '.join(DOCUMENTS)}")
        yield from found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _say_dialects(loaded: Loaded) -> None:
    for document in loaded.documents:
        if document.dialect is not None:
            note(f"{document.path}:{document.line} reads as: {document.dialect}")


def _project(invocation: Invocation) -> Path | None:
    return Path(invocation.project) / PROJECT_FILE if invocation.project else None
