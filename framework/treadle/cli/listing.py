"""What lists and deletions share: pages, and the question before something is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from treadle.cli.output import can_ask

T = TypeVar("T")


def paged(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a list."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON document."),
        click.option("--after", metavar="ID", help="Only what comes after this one."),
        click.option(
            "-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N"
        ),
    ):
        command = option(command)
    return command


def page(found: Sequence[T], limit: int) -> tuple[list[T], bool]:
    """Give a page of what was found, and whether there is more; one more than the limit was asked for."""
    return list(found[:limit]), len(found) > limit


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is deleted.

    Errors: UsageError where nobody can be asked; Abort where the answer is no.
    """
    if yes:
        return
    if not can_ask():
        raise click.UsageError("nobody can be asked here; add --yes")
    click.confirm(question, abort=True, err=True)
