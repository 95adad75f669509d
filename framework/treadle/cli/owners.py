"""What a run is of, an agent or a workflow, and how it is shown accordingly."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from treadle.cli import flow_lines, lines
from treadle.cli.family import is_workflow_run
from treadle.cli.live import Live
from treadle.cli.live_tree import LiveTree
from treadle.errors import NotFound

if TYPE_CHECKING:
    from treadle.objects.agent import Agent
    from treadle.objects.run import Run
    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle

    Owner = Agent | Workflow
    Rooms = dict[tuple[str, int], int]


async def owner_of(treadle: Treadle, run: Run) -> Owner:
    """Give the agent or the workflow of a run, in the version that it walks."""
    if is_workflow_run(run):
        return await treadle.workflows.get(run.agent_id, version=run.agent_version)
    return await treadle.agents.get(run.agent_id, version=run.agent_version)


def is_workflow(owner: Owner) -> bool:
    """Tell whether it is a workflow."""
    return owner.id.startswith("wf_")


async def labels_of(treadle: Treadle, owner: Owner) -> int:
    """Give the width of the column of step names."""
    if is_workflow(owner):
        workflow = cast("Workflow", owner)
        within = await _within(treadle, workflow, {}, 1)
        return flow_lines.label_width(treadle.workflows.graph(workflow), within)
    return lines.label_width(cast("Agent", owner).spec)


async def _within(treadle: Treadle, workflow: Workflow, known: Rooms, depth: int) -> dict[str, int]:
    """Give the room that the workflows within a workflow need, by the node that runs them; `known` is that of each version."""
    if 2 * depth > flow_lines.WIDEST:
        return {}  # What is deeper changes nothing.
    found: dict[str, int] = {}
    for node in treadle.workflows.graph(workflow).nodes:
        pin = node.params.get("pin")
        if node.kind != "child_run" or not pin or "workflow" not in pin:
            continue
        key = (pin["workflow"], pin["version"])
        if key not in known:
            try:
                used = await treadle.workflows.get(key[0], version=key[1])
            except NotFound:
                continue  # It was deleted since.
            rooms = await _within(treadle, used, known, depth + 1)
            known[key] = flow_lines.room_for(treadle.workflows.graph(used), rooms)
        found[node.id] = known[key]
    return found


def live_of(treadle: Treadle, owner: Owner, labels: int) -> Live | LiveTree:
    """Give what shows the events of a run to a person; `labels` are those of the owner."""
    if is_workflow(owner):
        return LiveTree(treadle, cast("Workflow", owner), labels)
    return Live(treadle, cast("Agent", owner))
