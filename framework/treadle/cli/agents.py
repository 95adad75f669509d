"""`treadle agents`: the agents of the store, and the documents that declare them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import add_delete, page, paged, show_table
from treadle.cli.opening import Opened, opened
from treadle.cli.output import data, data_json, note
from treadle.objects.agent import AgentSpec

if TYPE_CHECKING:
    from treadle import wire
    from treadle.objects.agent import Agent
    from treadle.service import Treadle


@click.group(cls=Group)
def agents() -> None:
    """List, show, apply and delete agents."""


@agents.command(name="list")
@paged
@click.pass_obj
def list_(invocation: Invocation, *, limit: int, after: str | None, as_json: bool) -> None:
    """List the agents of the store, the newest first."""
    place = opened(invocation)

    async def found() -> list[Agent]:
        async with place.treadle() as treadle:
            return await treadle.agents.list(limit=limit + 1, after=after)

    listed, has_more = page(asyncio.run(found()), limit)
    if as_json:
        from treadle import wire

        data_json(wire.listing([wire.assistant(a) for a in listed], has_more=has_more))
        return
    rows = [
        (a.id, a.name or "-", str(a.version), a.spec.model.id, ", ".join(_tools(a)) or "-") for a in listed
    ]
    show_table(("ID", "NAME", "VERSION", "MODEL", "TOOLS"), rows)
    if has_more:
        note(f"more:  {place.command(f'agents list --after {listed[-1].id}')}", "dim")


def _tools(agent: Agent) -> list[str]:
    return [tool.name or tool.type for tool in agent.spec.tools]


@agents.command(name="show")
@click.argument("agent", metavar="AGENT")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Another version than the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(invocation: Invocation, *, agent: str, version: int | None, as_json: bool) -> None:
    """Show a stored agent: by name, id, or a unique beginning of the id."""
    place = opened(invocation)

    async def found() -> Agent:
        async with place.treadle() as treadle:
            newest = await treadle.agents.get(agent)
            return newest if version is None else await treadle.agents.get(newest.id, version=version)

    shown = asyncio.run(found())
    if as_json:
        from treadle import wire

        data_json(wire.assistant(shown))
        return
    for line in _described(shown):
        data(line)


def _described(agent: Agent) -> list[str]:
    """Give an agent as lines of name and value, then its instructions."""
    from treadle.wire import instructions

    spec = agent.spec
    rows = {
        "id": agent.id,
        "name": agent.name or "-",
        "version": str(agent.version),
        "description": spec.description or "-",
        "model": spec.model.id + (f" on {spec.model.connection}" if spec.model.connection else ""),
        "inputs": ", ".join(
            f"{name}{'' if declared.is_required else '?'}" for name, declared in spec.inputs.items()
        ),
        "tools": ", ".join(_tools(agent)),
        "created": lines.when(agent.created_ms),
    }
    found = [f"{name:<12}  {lines.one_line(value)}" for name, value in rows.items() if value]
    text = instructions(spec)
    if text:
        found += ["", *lines.visible(text).rstrip("\n").splitlines()]
    return found


@agents.command(name="apply")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILES…", type=click.Path(exists=True, dir_okay=False)
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the agents as they are now.")
@click.pass_obj
def apply(invocation: Invocation, *, files: tuple[str, ...], as_json: bool) -> None:
    """Bring the stored agents of FILES up to date: a new version only where the content changed.

    All files are checked first; where one has a problem, nothing is stored.
    """
    place = opened(invocation, files[0])
    applied = asyncio.run(_apply(place, files))
    if as_json:
        from treadle import wire

        data_json(wire.listing([wire.assistant(agent) for agent, _ in applied]))
        return
    for agent, what in applied:
        data(f"{agent.name}  {what}  {agent.id}")


async def _apply(place: Opened, files: tuple[str, ...]) -> list[tuple[Agent, str]]:
    async with place.treadle() as treadle:
        targets = _targets(treadle, files)
        for target in targets:
            treadle.agents.read(target)
        applied: list[tuple[Agent, str]] = []
        for target in targets:
            spec = treadle.agents.read(target)
            name = spec.name or Path(target).name.split(".")[0]
            before = await treadle.store.agent_named(treadle.tenant, name)
            agent = await treadle.agents.apply(target)
            if before is None:
                what = "created"
            elif before.version == agent.version:
                what = f"unchanged, version {agent.version}"
            else:
                what = f"version {agent.version}"
            applied.append((agent, what))
        return applied


def _targets(treadle: Treadle, files: tuple[str, ...]) -> list[str]:
    """Give each agent of the files, as a file or as FILE#NAME.

    Errors: DefinitionError with every problem of every file; UsageError for a file without an agent.
    """
    from treadle.definition.load import load

    loaded = load([Path(file) for file in files], project=treadle.project)
    loaded.raise_if_bad()
    targets: list[str] = []
    for file in files:
        names = [
            d.name for d in loaded.documents if d.path == str(Path(file)) and isinstance(d.spec, AgentSpec)
        ]
        if not names:
            raise click.UsageError(f"{file} declares no agent")
        targets += [file] if len(names) == 1 else [f"{file}#{name}" for name in names]
    return targets


def _deleted(agent: Agent) -> wire.Json:
    from treadle import wire

    return wire.deleted(agent.id, "assistant")


add_delete(
    agents,
    "AGENT",
    "Delete an agent; its threads and runs stay readable.",
    find=lambda treadle, given: treadle.agents.get(given),
    question=lambda agent: f"Delete the agent {agent.name or agent.id}?",
    remove=lambda treadle, agent: treadle.agents.delete(agent.id),
    shown=_deleted,
    name=lambda agent: agent.name or agent.id,
)
