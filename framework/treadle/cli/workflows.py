"""`treadle workflows`: the workflows of the store, the documents that declare them, and what a change of one changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import exit as codes
from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import add_delete, page, paged, show_table
from treadle.cli.opening import Opened, is_file, opened
from treadle.cli.output import complain, data, data_json, note

if TYPE_CHECKING:
    from treadle import wire
    from treadle.graph.diff import GraphDiff
    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle
    from treadle.service.workflow_diff import Stranded


@click.group(cls=Group)
def workflows() -> None:
    """List, show, apply, compare and delete workflows."""


@workflows.command(name="list")
@paged
@click.pass_obj
def list_(invocation: Invocation, *, limit: int, after: str | None, as_json: bool) -> None:
    """List the workflows of the store, the newest first."""
    place = opened(invocation)

    async def found() -> list[Workflow]:
        async with place.treadle() as treadle:
            return await treadle.workflows.list(limit=limit + 1, after=after)

    listed, has_more = page(asyncio.run(found()), limit)
    if as_json:
        from treadle import wire

        data_json(wire.listing([_json(w) for w in listed], has_more=has_more))
        return
    rows = [
        (
            w.id,
            w.name or "-",
            str(w.version),
            str(len(w.spec.nodes)),
            lines.one_line(w.spec.description or "-"),
        )
        for w in listed
    ]
    show_table(("ID", "NAME", "VERSION", "NODES", "DESCRIPTION"), rows)
    if has_more:
        note(f"more:  {place.command(f'workflows list --after {listed[-1].id}')}", "dim")


def _json(workflow: Workflow) -> wire.Json:
    """Give a workflow as JSON: its record, and its document as it was declared."""
    return {
        "id": workflow.id,
        "object": "workflow",
        "created_at": workflow.created_ms // 1000,
        "name": workflow.name,
        "version": workflow.version,
        "origin": workflow.origin,
        "pins": workflow.pins,
        "spec": workflow.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }


@workflows.command(name="show")
@click.argument("workflow", metavar="WORKFLOW")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Another version than the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with the whole workflow.")
@click.pass_obj
def show(invocation: Invocation, *, workflow: str, version: int | None, as_json: bool) -> None:
    """Show a stored workflow: by name, id, or a unique beginning of the id."""
    place = opened(invocation)

    async def found() -> Workflow:
        async with place.treadle() as treadle:
            return await treadle.workflows.get(workflow, version=version)

    shown = asyncio.run(found())
    if as_json:
        data_json(_json(shown))
        return
    for line in _described(shown):
        data(line)


def _described(workflow: Workflow) -> list[str]:
    """Give a workflow as lines of name and value, then its nodes."""
    spec = workflow.spec
    rows = {
        "id": workflow.id,
        "name": workflow.name or "-",
        "version": str(workflow.version),
        "description": spec.description or "-",
        "inputs": ", ".join(
            f"{name}{'' if declared.is_required else '?'}" for name, declared in spec.inputs.items()
        ),
        "state": ", ".join(spec.state),
        "outputs": ", ".join(spec.outputs),
        "uses": ", ".join(f"{name} → {_pin(pin)}" for name, pin in workflow.pins.items()),
        "created": lines.when(workflow.created_ms),
    }
    found = [f"{name:<12}  {lines.one_line(value)}" for name, value in rows.items() if value]
    table = [(id_, node.type, lines.one_line(node.description or "")) for id_, node in spec.nodes.items()]
    return [*found, "", *lines.table(("NODE", "TYPE", ""), table, columns=10_000)]


def _pin(pin: dict[str, Any]) -> str:
    return f"{pin.get('agent') or pin.get('workflow')} version {pin.get('version')}"


@workflows.command(name="apply")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILES…", type=click.Path(exists=True, dir_okay=False)
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the workflows as they are now.")
@click.pass_obj
def apply(invocation: Invocation, *, files: tuple[str, ...], as_json: bool) -> None:
    """Bring the stored workflows of FILES up to date, with the agents and workflows that they name.

    A new version is made only where the content, or what it names, changed. All files are checked first; where one has a
    problem, nothing is stored.
    """
    place = opened(invocation, files[0])
    applied = asyncio.run(_apply(place, files))
    if as_json:
        from treadle import wire

        data_json(wire.listing([_json(workflow) for workflow, _ in applied]))
        return
    for workflow, what in applied:
        data(f"{workflow.name}  {what}  {workflow.id}")


async def _apply(place: Opened, files: tuple[str, ...]) -> list[tuple[Workflow, str]]:
    async with place.treadle() as treadle:
        targets = _targets(treadle, files)
        applied: list[tuple[Workflow, str]] = []
        for target in targets:
            spec = treadle.workflows.read(target)
            name = spec.name or Path(target).name.split(".")[0]
            before = await treadle.store.workflow_named(treadle.tenant, name)
            workflow = await treadle.workflows.apply(target)
            if before is None:
                what = "created"
            elif before.version == workflow.version:
                what = f"unchanged, version {workflow.version}"
            else:
                what = f"version {workflow.version}"
            applied.append((workflow, what))
        return applied


def _targets(treadle: Treadle, files: tuple[str, ...]) -> list[str]:
    """Give each workflow of the files, as a file or as FILE#NAME.

    Errors: DefinitionError with every problem of every file; UsageError for a file without a workflow.
    """
    from treadle.definition.load import load

    loaded = load([Path(file) for file in files], project=treadle.project)
    loaded.raise_if_bad()
    targets: list[str] = []
    for file in files:
        names = [d.name for d in loaded.workflows if d.path == str(Path(file))]
        if not names:
            raise click.UsageError(f"{file} declares no workflow")
        targets += [file] if len(names) == 1 else [f"{file}#{name}" for name in names]
    for target in targets:
        treadle.workflows.read(target)
    return targets


@workflows.command(name="diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--exit-code", is_flag=True, help="Exit with 1 where they differ.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def diff(invocation: Invocation, *, before: str, after: str, exit_code: bool, as_json: bool) -> int:
    """Say what of workflow A has to change for it to be B, and which of A's runs B has no place for.

    A and B are files, FILE#NAME, or stored names or ids, these with @VERSION where another version than the newest is meant.
    A file stands for the stored workflow of its name as far as runs are concerned. Runs go on with the graph that they began
    with; those that are listed could not go on with B.
    """
    from treadle.service.workflow_diff import described

    place = opened(invocation, next((target for target in (before, after) if is_file(target)), None))
    changes, strands = asyncio.run(_compare(place, before, after))
    if as_json:
        data_json(described(changes, strands))
    else:
        _tell(changes, strands)
    return codes.FAILED if exit_code and changes else codes.OK


async def _compare(place: Opened, before: str, after: str) -> tuple[GraphDiff, list[Stranded]]:
    from treadle.service.workflow_diff import diff as compare
    from treadle.service.workflow_diff import stranded

    async with place.treadle() as treadle:
        return await compare(treadle, before, after), await stranded(treadle, before, after)


def _tell(changes: GraphDiff, strands: list[Stranded]) -> None:
    for line in changes.lines():
        data(lines.visible(line))
    if not changes:
        note("no difference", "dim")
    if strands:
        waiting = lines.plural(len(strands), "run")
        complain(f"{waiting} could not go on with it, and must end with the graph they began with:", "yellow")
    for run, reasons in strands:
        data(f"! {run.id}  {run.status}  version {run.agent_version}  {'; '.join(reasons)}")


def _deleted(workflow: Workflow) -> wire.Json:
    from treadle import wire

    return wire.deleted(workflow.id, "workflow")


add_delete(
    workflows,
    "WORKFLOW",
    "Delete a workflow; its threads and runs stay readable.",
    find=lambda treadle, given: treadle.workflows.get(given),
    question=lambda workflow: f"Delete the workflow {workflow.name or workflow.id}?",
    remove=lambda treadle, workflow: treadle.workflows.delete(workflow.id),
    shown=_deleted,
    name=lambda workflow: workflow.name or workflow.id,
)
