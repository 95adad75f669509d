"""The steps of a run, as the wire reads its journal."""

from __future__ import annotations

from treadle import wire
from treadle.errors import NotFound
from treadle.server.call import Call, Page
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
    return wire.run_steps(run, journal, await call.treadle.runs.rows(run, journal))


def _cut(steps: list[wire.Json], page: Page) -> list[wire.Json]:
    """Give the steps between the bounds of a page, in its order; a bound that names none gives nothing."""
    if page.order == "desc":
        steps.reverse()
    places = {step["id"]: place for place, step in enumerate(steps)}
    if any(bound is not None and bound not in places for bound in (page.after, page.before)):
        return []
    first = places[page.after] + 1 if page.after is not None else 0
    return steps[first : places[page.before] if page.before is not None else None]
