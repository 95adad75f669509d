"""What a run is of, an agent or a workflow, and how it is shown accordingly."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from treadle.cli import flow_lines, lines
from treadle.cli.family import is_workflow_run
from treadle.cli.live import Live
from treadle.cli.live_tree import LiveTree

if TYPE_CHECKING:
    from treadle.objects.agent import Agent
    from treadle.objects.run import Run
    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle

    Owner = Agent | Workflow


async def owner_of(treadle: Treadle, run: Run) -> Owner:
    """Give the agent or the workflow of a run, in the version that it walks."""
    if is_workflow_run(run):
        return await treadle.workflows.get(run.agent_id, version=run.agent_version)
    return await treadle.agents.get(run.agent_id, version=run.agent_version)


def is_workflow(owner: Owner) -> bool:
    """Tell whether it is a workflow."""
    return owner.id.startswith("wf_")


def labels_of(treadle: Treadle, owner: Owner) -> int:
    """Give the width of the column of step names."""
    if is_workflow(owner):
        return flow_lines.label_width(treadle.workflows.graph(cast("Workflow", owner)))
    return lines.label_width(cast("Agent", owner).spec)


def live_of(treadle: Treadle, owner: Owner) -> Live | LiveTree:
    """Give what shows the events of a run to a person."""
    if is_workflow(owner):
        return LiveTree(treadle, cast("Workflow", owner), labels_of(treadle, owner))
    return Live(treadle, cast("Agent", owner))
