"""The checker of walks takes the journals of runs, and refuses those that no walk of their graph could have written."""

from collections.abc import Callable
from typing import Any

import pytest

from treadle.graph.nodes import StepGraph
from treadle.objects.run_step import Step
from treadle.objects.workflow import WorkflowSpec
from treadle.service import Treadle
from treadle.steps.calls import Ctx
from treadle.testing.walk import walk_wrongs

DOCUMENT: dict[str, Any] = {
    "name": "walked",
    "state": {"n": {"type": "integer", "default": 0, "reduce": "sum"}},
    "start": "begin",
    "nodes": {
        "begin": {"type": "set", "set": {"n": 1}, "next": "choose"},
        "choose": {"type": "switch", "value": "state.n", "cases": {"1": "part"}, "default": "other"},
        "other": {"type": "set", "set": {"n": 9}, "next": "end"},
        "part": {"type": "parallel", "branches": ["left", "right"], "join": "meet"},
        "left": {"type": "set", "set": {"n": 1}, "next": "meet"},
        "right": {"type": "code", "call": "walked:fail", "effect": "pure", "on_error": [{"to": "mend"}], "next": "meet"},
        "mend": {"type": "set", "set": {"n": 1}, "next": "meet"},
        "meet": {"type": "code", "call": "walked:go", "next": "each"},
        "each": {
            "type": "map", "over": "[1, 2]", "start": "one", "next": "again",
            "nodes": {"one": {"type": "set", "set": {"n": 1}, "next": "two"}, "two": {"type": "set", "set": {"n": 1}, "next": "end"}},
        },
        "again": {
            "type": "loop", "start": "add", "until": "state.n > 9", "max_iterations": 9, "next": "end",
            "nodes": {"add": {"type": "set", "set": {"n": 1}, "next": "end"}},
        },
    },
}  # fmt: skip


async def fail() -> None:
    """Fail."""
    raise ValueError("no")


async def go(ctx: Ctx) -> float:
    """Draw a number."""
    return await ctx.random()


@pytest.fixture
async def walked(tmp_path) -> tuple[StepGraph, list[Step], str]:
    async with Treadle(f"sqlite:///{tmp_path / 'treadle.db'}", project=tmp_path) as treadle:
        treadle.callables.update({"walked:fail": fail, "walked:go": go})
        run = await treadle.workflows.run(WorkflowSpec.model_validate(DOCUMENT))
        graph = StepGraph.load(await treadle.store.graph(run.tenant, run.graph))
        return graph, await treadle.runs.steps(run.id), run.status


def changed(path: str, /, **fields: Any) -> Callable[[list[Step]], list[Step]]:
    """Say what one step has instead of what it has."""
    return lambda steps: [s.model_copy(update=fields) if s.path == path else s for s in steps]


def without(path: str) -> Callable[[list[Step]], list[Step]]:
    """Leave a step out."""
    return lambda steps: [s for s in steps if s.path != path]


def twice(path: str) -> Callable[[list[Step]], list[Step]]:
    """Have a step a second time, at the end."""
    return lambda steps: [
        *steps,
        next(s for s in steps if s.path == path).model_copy(update={"event_seq": 999}),
    ]


def moved(path: str, to: str) -> Callable[[list[Step]], list[Step]]:
    """Give a step another path."""
    return changed(path, path=to)


BAD = {
    "a way that the graph does not have": (changed("begin#1", edge="sideways"), "which the graph does not have"),
    "another way than was taken": (changed("choose#1", edge="default"), "no way leads from choose#1 by 'default' to part"),
    "a step without its cause": (without("begin#1"), "the cause of choose#1, begin#1, has not ended"),
    "a step that nothing caused": (changed("choose#1", cause=None), "has no cause, and the run does not begin there"),
    "a cause that leads elsewhere": (changed("meet#1", cause="begin#1"), "no way leads from begin#1"),
    "a step before its cause": (changed("begin#1", event_seq=998), "stands before its cause"),
    "a step that ended twice": (twice("meet#1"), "has ended twice"),
    "a failed step that went on as if it had not": (changed("right#1", edge=None), "no way leads from right#1"),
    "a node of another kind": (changed("begin#1", kind="tool_call"), "and its node a assign"),
    "a node that is not there": (changed("begin#1", node="nowhere"), "which the graph does not have there"),
    "an item too many": (moved("each#1[1]/one#1", "each#1[2]/one#1"), "is item 2 of 2"),
    "an item caused by another": (changed("each#1[1]/two#1", cause="each#1[0]/one#1"), "belongs to another item or round"),
    "a frame that was not opened": (without("each#1"), "a frame that was not opened"),
    "a round that was left out": (without("again#1/2"), "is of a round that did not begin"),
    "a call of another function": (changed("meet#1/0", cause="left#1"), "is a call of meet#1"),
    "an end that was not reached": (lambda steps: steps[:-1], "no step of it leads to the end"),
}  # fmt: skip


async def test_the_journal_of_a_run_is_a_walk_of_its_graph(walked) -> None:
    graph, steps, status = walked
    assert status == "completed"
    assert {"meet#1/0", "each#1[1]/two#1", "again#1/2", "part#1/end", "mend#1"} <= {s.path for s in steps}
    assert walk_wrongs(graph, steps, status) == []


@pytest.mark.parametrize("case", BAD)
async def test_a_journal_that_no_walk_could_have_written_is_refused(case, walked) -> None:
    graph, steps, status = walked
    change, said = BAD[case]
    found = walk_wrongs(graph, change(sorted(steps, key=lambda s: s.event_seq or 0)), status)
    assert any(said in wrong for wrong in found), found
