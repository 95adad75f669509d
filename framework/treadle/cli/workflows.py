"""`treadle workflows`: the workflows of the store, the documents that declare them, and what a change of one changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import exit as codes
from treadle.cli import lines
from treadle.cli.context import Group, Invocation
from treadle.cli.opening import Opened, is_file, opened
from treadle.cli.output import complain, data, data_json, note
from treadle.cli.stored import Shown, add_commands
from treadle.objects.workflow import Workflow

if TYPE_CHECKING:
    from treadle import wire
    from treadle.graph.diff import GraphDiff
    from treadle.service.workflow_diff import Stranded


@click.group(cls=Group)
def workflows() -> None:
    """List, show, apply, compare and delete workflows."""


def _row(workflow: Workflow) -> tuple[str, ...]:
    spec = workflow.spec
    described = lines.one_line(spec.description or "-")
    return (workflow.id, workflow.name or "-", str(workflow.version), str(len(spec.nodes)), described)


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


add_commands(
    workflows,
    Shown(
        Workflow,
        heads=("ID", "NAME", "VERSION", "NODES", "DESCRIPTION"),
        row=_row,
        lines=_described,
        json=_json,
        wire_noun="workflow",
        declared=lambda loaded: loaded.workflows,
    ),
    said_of_json="One JSON document, with the whole workflow.",
    said_of_apply="""Bring the stored workflows of FILES up to date, with the agents and workflows that they name.

A new version is made only where the content, or what it names, changed. All files are checked first; where one has a
problem, nothing is stored.""",
)


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
