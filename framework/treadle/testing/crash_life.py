"""One process of a scenario: open what the last one left, take over what it abandoned, let the client go on.

The process kills itself at the point that it is told, or lives to the end and reports what is left.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from treadle.ids import is_workflow_id
from treadle.objects.agent import Agent
from treadle.objects.project import Project, ProjectSpec
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool
from treadle.settings import Settings
from treadle.steps.node import WorkflowPlan
from treadle.testing.crash_points import Point, Points, WatchedTreadle, effect_of, watched_store
from treadle.testing.crash_scenario import Conversation, Lived, Outcome, Place, Scenario
from treadle.testing.crash_verdict import (
    Reading,
    journal_wrongs,
    left_wrongs,
    reading,
    store_wrongs,
    wrongs,
)
from treadle.testing.receiver import Receiver

LIFETIME_S = 40.0
"""After that a process that neither dies nor comes to an end is stuck: it says where it stands, and goes."""
LOG = "world.jsonl"
"""The receiver's file in a place's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What one process is told.

    Shapes: `number` counts the processes of a place from 1; `kill_at` is where this one dies. With `reference` the
    threads must read like that.
    """

    scenario: Scenario
    folder: Path
    seed: int
    number: int = 1
    kill_at: Point | None = None
    reference: Reading | None = None


def report_of(folder: Path, number: int) -> Path:
    """Give the file in which a process that came to its end says how."""
    return folder / f"life-{number}.json"


def live(life: Life) -> None:
    """Live a scenario in this process, to the end or to the point where it dies.

    Shapes: at the end there is a report: `wrongs` (sentences), `reading`, and of the life that is the reference
    `modules`, what it imported.
    """
    logging.getLogger().addHandler(logging.FileHandler(life.folder / "log.txt", delay=True))
    with (life.folder / f"stuck-{life.number}.txt").open("w") as stuck:
        faulthandler.dump_traceback_later(LIFETIME_S, exit=True, file=stuck)
        try:
            report = asyncio.run(_live(life))
        except Exception:  # noqa: BLE001 - whatever it was, it is what the report says
            report = {"wrongs": [f"the process broke:\n{traceback.format_exc()}"], "reading": []}
        faulthandler.cancel_dump_traceback_later()
    if life.reference is None:
        report["modules"] = list(sys.modules)
    report_of(life.folder, life.number).write_text(json.dumps(report, ensure_ascii=False))


async def _live(life: Life) -> dict[str, Any]:
    scenario = life.scenario
    receiver = Receiver(life.folder / LOG, life=life.number)
    points = Points(receiver, kill_at=life.kill_at, deltas=scenario.deltas)
    place = Place(
        scenario=scenario.name, folder=life.folder, seed=life.seed, receiver=receiver, life=life.number
    )
    options: dict[str, Any] = {
        "settings": Settings(), "project": Project(ProjectSpec.model_construct(), life.folder), "clock": place.clock,
        "walk": True, **scenario.setup(place),
    }  # fmt: skip
    path = life.folder / "treadle.db"
    store = watched_store(path, points, is_slow=place.is_slow)
    others: dict[str, Any] = {**options, "walk": False}
    place.opener = lambda: WatchedTreadle(
        watched_store(path, points, is_slow=place.is_slow), points=points, **others
    )
    found = left_wrongs(path) if life.number > 1 else []
    async with WatchedTreadle(store, points=points, **options) as treadle:
        place.opened = treadle
        await treadle.recover()
        await scenario.drive(place)
        await treadle.runs.settle()
        outcome = await _look(place)
        found += await journal_wrongs(outcome, store)
    compared = life.reference if scenario.compares else None
    found += [*wrongs(outcome, compared), *store_wrongs(outcome), *scenario.holds(outcome)]
    return {"wrongs": found, "reading": reading(outcome)}


async def _look(place: Place) -> Outcome:
    """Read everything that is left."""
    treadle = place.treadle
    threads: list[Conversation] = []
    for thread in await treadle.threads.list(limit=1000, order="asc"):
        runs = await treadle.runs.list(thread.id, limit=1000, order="asc")
        rows = await treadle.store.rows(thread.tenant, thread.id, limit=10_000)
        threads.append(Conversation(thread, rows, [await _lived(place, run) for run in runs]))
    return Outcome(place, threads, place.receiver.notes())


async def _lived(place: Place, run: Run) -> Lived:
    store = place.treadle.store
    if is_workflow_id(run.agent_id):
        plan = cast("WorkflowPlan", (await place.treadle.workflows.prepare(run)).plan)
        return Lived(
            run.model_copy(update={"output": (await place.treadle.runs.get(run.id)).output}),
            await store.steps(run.tenant, run.id),
            await store.events(run.tenant, run.id, limit=10_000),
            {name: tool.spec for name, tool in plan.functions.items()},
            {
                id_: tool.spec.model_copy(update={"effect": effect_of(tool)})
                for id_, tool in plan.tools.items()
            },
        )
    agent = await store.get(Agent, run.tenant, run.agent_id, version=run.agent_version)
    tools = agent.spec.tools if run.overrides.tools is None else run.overrides.tools
    return Lived(
        run,
        await store.steps(run.tenant, run.id),
        await store.events(run.tenant, run.id, limit=10_000),
        {tool.name: tool for tool in tools if isinstance(tool, FunctionTool)},
    )
