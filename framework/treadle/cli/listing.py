"""What lists and deletions share: pages, tables, and the question before something is gone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from treadle.cli import lines
from treadle.cli.opening import opened
from treadle.cli.output import can_ask, data, data_json, note, room, style

if TYPE_CHECKING:
    from treadle import wire
    from treadle.cli.context import Invocation
    from treadle.service import Treadle

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


def show_table(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows below their heads to stdout."""
    for n, line in enumerate(lines.table(heads, rows, columns=room())):
        data(line if n else style(line, "dim", stream=sys.stdout))


def add_delete(
    group: click.Group,
    metavar: str,
    said: str,
    *,
    find: Callable[[Treadle, str], Awaitable[T]],
    question: Callable[[T], str],
    remove: Callable[[Treadle, T], Awaitable[Any]],
    shown: Callable[[T], wire.Json],
    name: Callable[[T], str],
) -> None:
    """Add the command of a group that deletes one of its objects, after a question.

    Shapes: `said` is the command's help; `shown` gives what is left of the object as JSON, `name` what a person calls
    it.
    """

    @group.command(name="delete", help=said)
    @click.argument("given", metavar=metavar)
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document.")
    @click.pass_obj
    def delete(invocation: Invocation, *, given: str, yes: bool, as_json: bool) -> None:
        place = opened(invocation)

        async def gone() -> T:
            async with place.treadle() as treadle:
                found = await find(treadle, given)
                confirm(question(found), yes=yes)
                await remove(treadle, found)
                return found

        found = asyncio.run(gone())
        if as_json:
            data_json(shown(found))
        else:
            note(f"deleted {name(found)}")

    del delete  # It is the group's.
