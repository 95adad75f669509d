"""`treadle graph`: the step graph of an agent or a workflow, or the trace of a run, drawn."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from treadle.cli.context import Invocation, command
from treadle.cli.opening import Opened, is_file, opened
from treadle.cli.output import data
from treadle.errors import ConfigurationError, NotFound

if TYPE_CHECKING:
    from treadle.graph.nodes import StepGraph

Form = Literal["text", "mermaid", "dot", "svg"]


@command(name="graph")
@click.argument("target", metavar="FILE|NAME|RUN")
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "mermaid", "dot", "svg"]),
    default="text",
    show_default=True,
    help="The form of the drawing.",
)
@click.pass_obj
def graph(invocation: Invocation, *, target: str, form: Form) -> None:
    """Draw the step graph of an agent or a workflow, or what a run did.

    An agent is a file or a name, a workflow a file (FILE#NAME where it declares several), a run an id, a prefix of one,
    or @last.

    A graph is drawn without a model and without the code that its tools call.
    """
    from treadle.graph.render import render

    place = opened(invocation, target)
    drawn = asyncio.run(_drawing(place, target, form) if _is_run(target) else _graph(place, target))
    data(drawn if isinstance(drawn, str) else render(drawn, form), end="")


def _is_run(target: str) -> bool:
    return target == "@last" or target.startswith("run_")


async def _drawing(place: Opened, run: str, form: Form) -> str:
    async with place.treadle() as treadle:
        return (await treadle.runs.trace(run)).draw(form)


def _workflow(place: Opened, target: str) -> StepGraph | None:
    """Compile a workflow of a file; None where the file, or the name in it, is of agents.

    Errors: DefinitionError with every problem; ConfigurationError where the file declares several workflows.
    """
    from treadle.definition.load import load, split_target
    from treadle.graph.compile import compile_workflow

    path, name = split_target(target)
    if not Path(path).is_file():
        return None
    configuration = place.configuration
    loaded = load([Path(path)], project=configuration.project)
    workflows = [d for d in loaded.workflows if name is None or d.name == name]
    if not workflows and (loaded.agents or not loaded.errors):
        return None
    loaded.raise_if_bad()
    if len(workflows) > 1:
        names = ", ".join(f"{path}#{d.name}" for d in workflows)
        raise ConfigurationError(f"{path} declares several workflows", hint=f"name one: {names}")
    return compile_workflow(workflows[0].workflow)


async def _graph(place: Opened, target: str) -> StepGraph:
    """Compile the document of a workflow or an agent, or else the stored agent of that name or id."""
    from treadle.graph.compile import compile_agent
    from treadle.objects.agent import Agent

    workflow = _workflow(place, target) if is_file(target) else None
    if workflow is not None:
        return workflow
    if not target.startswith("asst_"):
        async with place.treadle(store="sqlite://:memory:") as treadle:
            try:
                spec = treadle.agents.read(target)
            except NotFound as e:
                unread = e
            else:
                name = spec.name or target
                return compile_agent(Agent(id=name, name=name, created_ms=0, spec=spec))
    else:
        unread = None
    async with place.treadle() as treadle:
        try:
            return compile_agent(await treadle.agents.get(target))
        except NotFound as e:
            raise (unread or e) from None
