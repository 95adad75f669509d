"""`treadle graph`: the step graph of an agent or a workflow, or the trace of a run, drawn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import click

from treadle.cli.context import Invocation, command
from treadle.cli.opening import Opened, opened
from treadle.cli.output import data
from treadle.errors import NotFound

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

    An agent or a workflow is a file (FILE#NAME where it declares several), a name or an id, a run an id, a prefix of one,
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


async def _graph(place: Opened, target: str) -> StepGraph:
    """Compile the document of a workflow or an agent, or else what is stored under that name or id."""
    from treadle.graph.compile import compile_agent, compile_workflow
    from treadle.objects.agent import Agent

    unread: NotFound | None = None
    if not target.startswith(("asst_", "wf_")):
        async with place.treadle(store="sqlite://:memory:") as treadle:
            try:
                return compile_workflow(treadle.workflows.read(target))
            except NotFound:
                pass  # An agent, perhaps.
            try:
                spec = treadle.agents.read(target)
            except NotFound as e:
                unread = e
            else:
                name = spec.name or target
                return compile_agent(Agent(id=name, name=name, created_ms=0, spec=spec))
    async with place.treadle() as treadle:
        try:
            return treadle.workflows.graph(await treadle.workflows.get(target))
        except NotFound as e:
            if target.startswith("wf_"):
                raise e from None
        try:
            return compile_agent(await treadle.agents.get(target))
        except NotFound as e:
            raise (unread or e) from None
