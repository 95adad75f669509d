"""The steps of a run, as the wire reads its journal."""

from __future__ import annotations

from treadle import wire
from treadle.errors import NotFound
from treadle.ids import is_workflow_id
from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.server import workflow_objects
from treadle.server.call import MOST_LISTED, Call, Page
from treadle.server.runs import found


async def list_(call: Call) -> wire.Json:
    """Give a page of a run's steps."""
    page = call.page()
    steps = _cut(await _all(call), page)
    return wire.listing(steps[: page.limit], has_more=len(steps) > page.limit)


async def get(call: Call) -> wire.Json:
    """Give a step of a run."""
    step_id = call.id("step_id")
    step = next((s for s in await _all(call) if s["id"] == step_id), None)
    if step is None:
        raise NotFound("run step", step_id)
    return step


async def _all(call: Call) -> list[wire.Json]:
    """Give the steps of the run that the path names, oldest first."""
    run = await found(call)
    journal = await call.treadle.runs.steps(run.id)
    if is_workflow_id(run.agent_id):
        return workflow_objects.run_steps(run, journal, await _children(call, run))
    return wire.run_steps(run, journal, await call.treadle.runs.rows(run, journal))


async def _children(call: Call, run: Run) -> dict[str, workflow_objects.Child]:
    """Give the runs within a run, by their ids, those on its thread with what they wrote there."""
    return {
        child.id: workflow_objects.Child(child, await _written(call, child, run.thread_id))
        for child in await call.treadle.store.children(run.tenant, run.id)
    }


async def _written(call: Call, run: Run, thread_id: str) -> list[Message]:
    """Give what a run, or one within it, wrote to a thread, oldest first."""
    if run.thread_id != thread_id:
        return []
    if is_workflow_id(run.agent_id):
        parts = [
            await _written(call, child, thread_id)
            for child in await call.treadle.store.children(run.tenant, run.id)
        ]
        own = await _own(call, run)
        return sorted([*own, *(message for part in parts for message in part)], key=lambda m: m.seq)
    return await _own(call, run)


async def _own(call: Call, run: Run) -> list[Message]:
    found: list[Message] = []
    while True:
        after = found[-1].id if found else None
        page = await call.treadle.messages.list(
            run.thread_id, limit=MOST_LISTED, order="asc", after=after, run_id=run.id
        )
        found += page
        if len(page) < MOST_LISTED:
            return [message for message in found if message.role == "assistant"]


def _cut(steps: list[wire.Json], page: Page) -> list[wire.Json]:
    """Give the steps between the bounds of a page, in its order; a bound that names none gives nothing."""
    if page.order == "desc":
        steps.reverse()
    places = {step["id"]: place for place, step in enumerate(steps)}
    if any(bound is not None and bound not in places for bound in (page.after, page.before)):
        return []
    first = places[page.after] + 1 if page.after is not None else 0
    return steps[first : places[page.before] if page.before is not None else None]
