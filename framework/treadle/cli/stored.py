"""What the commands on agents and on workflows share: the lists, looks and applications of what the store has by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from treadle.cli.listing import add_delete, page, paged, show_table
from treadle.cli.opening import Opened, opened
from treadle.cli.output import data, data_json, note
from treadle.objects.agent import Agent
from treadle.objects.workflow import Workflow

if TYPE_CHECKING:
    from treadle import wire
    from treadle.cli.context import Invocation
    from treadle.definition.load import Document, Loaded
    from treadle.service import Treadle
    from treadle.service.agents import Agents
    from treadle.service.workflows import Workflows

Declared = TypeVar("Declared", Agent, Workflow)


@dataclass(frozen=True)
class Shown(Generic[Declared]):
    """How things of a kind are shown.

    Shapes: `heads` and `row` make the table of a list; `lines` are what `show` writes; `json` is the object, and `wire_noun`
    what is said of one that was deleted. `declared` gives the documents of a file's kind.
    """

    cls: type[Declared]
    heads: Sequence[str]
    row: Callable[[Declared], tuple[str, ...]]
    lines: Callable[[Declared], Sequence[str]]
    json: Callable[[Declared], wire.Json]
    wire_noun: str
    declared: Callable[[Loaded], Sequence[Document]]

    @property
    def noun(self) -> str:
        """What a person calls one."""
        return self.cls.__name__.lower()

    def verbs(self, treadle: Treadle) -> Any:
        """Give the verbs on the kind."""
        verbs: Agents | Workflows = treadle.agents if self.cls is Agent else treadle.workflows
        return verbs


def add_commands(
    group: click.Group, shown: Shown[Declared], *, said_of_apply: str, said_of_json: str
) -> None:
    """Add the commands of a group that list, show, apply and delete."""
    _add_list(group, shown)
    _add_show(group, shown, said_of_json)
    _add_apply(group, shown, said_of_apply)
    noun = shown.noun

    def deleted(found: Declared) -> wire.Json:
        from treadle import wire

        return wire.deleted(found.id, shown.wire_noun)

    add_delete(
        group,
        noun.upper(),
        f"Delete {_a(noun)}; its threads and runs stay readable.",
        find=lambda treadle, given: shown.verbs(treadle).get(given),
        question=lambda found: f"Delete the {noun} {found.name or found.id}?",
        remove=lambda treadle, found: shown.verbs(treadle).delete(found.id),
        shown=deleted,
        name=lambda found: found.name or found.id,
    )


def _a(noun: str) -> str:
    return f"an {noun}" if noun == "agent" else f"a {noun}"


def _add_list(group: click.Group, shown: Shown[Declared]) -> None:
    @group.command(name="list", help=f"List the {shown.noun}s of the store, the newest first.")
    @paged
    @click.pass_obj
    def list_(invocation: Invocation, *, limit: int, after: str | None, as_json: bool) -> None:
        place = opened(invocation)

        async def found() -> list[Declared]:
            async with place.treadle() as treadle:
                return await shown.verbs(treadle).list(limit=limit + 1, after=after)

        listed, has_more = page(asyncio.run(found()), limit)
        if as_json:
            from treadle import wire

            data_json(wire.listing([shown.json(one) for one in listed], has_more=has_more))
            return
        show_table(shown.heads, [shown.row(one) for one in listed])
        if has_more:
            note(f"more:  {place.command(f'{group.name} list --after {listed[-1].id}')}", "dim")

    del list_  # It is the group's.


def _add_show(group: click.Group, shown: Shown[Declared], said_of_json: str) -> None:
    noun = shown.noun

    @group.command(name="show", help=f"Show a stored {noun}: by name, id, or a unique beginning of the id.")
    @click.argument("given", metavar=noun.upper())
    @click.option(
        "--version", type=click.IntRange(min=1), metavar="N", help="Another version than the newest."
    )
    @click.option("--json", "as_json", is_flag=True, help=said_of_json)
    @click.pass_obj
    def show(invocation: Invocation, *, given: str, version: int | None, as_json: bool) -> None:
        place = opened(invocation)

        async def found() -> Declared:
            async with place.treadle() as treadle:
                return await shown.verbs(treadle).get(given, version=version)

        one = asyncio.run(found())
        if as_json:
            data_json(shown.json(one))
            return
        for line in shown.lines(one):
            data(line)

    del show  # It is the group's.


def _add_apply(group: click.Group, shown: Shown[Declared], said: str) -> None:
    @group.command(name="apply", help=said)
    @click.argument(
        "files", nargs=-1, required=True, metavar="FILES…", type=click.Path(exists=True, dir_okay=False)
    )
    @click.option(
        "--json", "as_json", is_flag=True, help=f"One JSON document: the {shown.noun}s as they are now."
    )
    @click.pass_obj
    def apply(invocation: Invocation, *, files: tuple[str, ...], as_json: bool) -> None:
        place = opened(invocation, files[0])
        applied = asyncio.run(_applied(place, shown, files))
        if as_json:
            from treadle import wire

            data_json(wire.listing([shown.json(one) for one, _ in applied]))
            return
        for one, what in applied:
            data(f"{one.name}  {what}  {one.id}")

    del apply  # It is the group's.


async def _applied(
    place: Opened, shown: Shown[Declared], files: tuple[str, ...]
) -> list[tuple[Declared, str]]:
    from treadle.service.documents import stored_as

    async with place.treadle() as treadle:
        verbs = shown.verbs(treadle)
        targets = _targets(treadle, shown, files)
        names = [verbs.read(target).name or Path(target).name.split(".")[0] for target in targets]
        applied: list[tuple[Declared, str]] = []
        for target, name in zip(targets, names, strict=True):
            before = await stored_as(treadle, shown.cls, name)
            one: Declared = await verbs.apply(target)
            if before is None:
                what = "created"
            elif before.version == one.version:
                what = f"unchanged, version {one.version}"
            else:
                what = f"version {one.version}"
            applied.append((one, what))
        return applied


def _targets(treadle: Treadle, shown: Shown[Declared], files: tuple[str, ...]) -> list[str]:
    """Give each document of the kind that the files declare, as a file or as FILE#NAME.

    Errors: DefinitionError with every problem of every file; UsageError for a file without one.
    """
    from treadle.definition.load import load

    loaded = load([Path(file) for file in files], project=treadle.project)
    loaded.raise_if_bad()
    targets: list[str] = []
    for file in files:
        names = [d.name for d in shown.declared(loaded) if d.path == str(Path(file))]
        if not names:
            raise click.UsageError(f"{file} declares no {shown.noun}")
        targets += [file] if len(names) == 1 else [f"{file}#{name}" for name in names]
    return targets
