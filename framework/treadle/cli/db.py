"""`treadle db`: the file of a store, checked as the tests check it, and brought to this version's schema."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from treadle.cli import exit as codes
from treadle.cli import lines
from treadle.cli.context import Group, Invocation, configure, file_of
from treadle.cli.errors import render
from treadle.cli.output import data, data_json, style
from treadle.errors import NotFound


@click.group(cls=Group)
def db() -> None:
    """Check a store against every promise that treadle makes, and upgrade its schema.

    STORE is a file or a URL; without it the project's store is meant, or the one that --store names.
    """


def _on_store(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON document."),
        click.argument("file", required=False, type=click.Path(), metavar="[STORE]"),
    ):
        command = option(command)
    return command


def _found(invocation: Invocation, named: str | None) -> Path | None:
    """Give the file that is meant; None, and an error on stderr, where there is none.

    Errors: UsageError for a store that is no file; those of `configure`.
    """
    url = named or configure(invocation).store
    path = file_of(url)
    if path is None:
        raise click.UsageError(f"the store {url} is no file")
    if path.is_file():
        return path
    render(NotFound.code, f"there is no store at {path}", hint="name its file; the first run makes a store")
    return None


@db.command(name="check")
@_on_store
@click.pass_obj
def check(invocation: Invocation, *, file: str | None, as_json: bool) -> int:
    """Check every invariant over a whole store.

    It covers every tenant and changes nothing. The store may be in use: what is checked is one moment of it. Exits with 1 when something is found, with 6
    where there is no store.
    """
    from treadle.store.check import examine

    path = _found(invocation, file)
    if path is None:
        return codes.NOT_FOUND
    checked = examine(path)
    if as_json:
        data_json(
            {
                "store": str(path),
                "threads": checked.threads,
                "messages": checked.messages,
                "runs": checked.runs,
                "findings": [found._asdict() for found in checked.findings],
            }
        )
        return codes.FAILED if checked.findings else codes.OK
    for found in checked.findings:
        mark = style(lines.FAILED, "red", stream=sys.stdout)
        data(f"{mark} {lines.one_line(found.where or str(path))}  {found.rule}: {lines.one_line(found.what)}")
    counted = (
        lines.plural(checked.threads, "thread"),
        lines.plural(checked.messages, "message"),
        lines.plural(checked.runs, "run"),
    )
    outcome = lines.plural(len(checked.findings), "finding") if checked.findings else "every invariant holds"
    data(f"checked {', '.join(counted)}: {outcome}")
    return codes.FAILED if checked.findings else codes.OK


@db.command(name="upgrade")
@_on_store
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.pass_obj
def upgrade(invocation: Invocation, *, file: str | None, as_json: bool, dry_run: bool) -> int:
    """Bring a store to this version's schema.

    Every command that opens a store does the same before anything else; this one does nothing but that, and says
    what it was. It is one transaction: a failure leaves the store as it was. A store of a newer treadle is refused, untouched. Exits with 6 where there is no store.
    """
    from treadle.store.migrate import upgrade as bring_up

    path = _found(invocation, file)
    if path is None:
        return codes.NOT_FOUND
    before, after = bring_up(path, changes_nothing=dry_run)
    if as_json:
        data_json({"store": str(path), "from": before, "to": after, "dry_run": dry_run})
    elif before == after:
        data(f"{path}: schema version {after}, nothing to do")
    else:
        done = "would be upgraded" if dry_run else "upgraded"
        data(f"{path}: {done} from schema version {before} to {after}")
    return codes.OK
