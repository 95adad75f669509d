"""Say what is wrong with a SQLite store after a fault or a power loss.

Each function gives a sentence for each thing that it finds; none is what is wished for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from treadle.errors import StoreError
from treadle.providers.scripted import ScriptedProvider
from treadle.service import Treadle
from treadle.settings import Settings
from treadle.store.check import check
from treadle.store.connection import connect
from treadle.store.sqlite import SqliteStore
from treadle.testing.power_loss import Image, content_of
from treadle.testing.storage_exercise import HANG_S, Exercise, Ledger, open_treadle
from treadle.testing.storage_faults import Fault, FaultDoor


async def hold(ledger: Ledger) -> list[str]:
    """Give what of a ledger is not in its store, and what is wrong with the store itself."""
    problems = list(ledger.problems)
    async with Treadle(
        SqliteStore(ledger.path), providers={"scripted": ScriptedProvider(())}, project=ledger.path.parent,
        settings=Settings(),
    ) as treadle:  # fmt: skip
        threads = [thread.id for thread in await treadle.threads.list(limit=100, order="asc")]
        if threads != list(ledger.threads):
            problems.append(f"threads {threads}, told of {list(ledger.threads)}")
        for thread_id, told in ledger.threads.items():
            if thread_id not in threads:
                continue
            rows = await treadle.store.rows(treadle.tenant, thread_id, limit=10_000)
            said = [row.text for row in rows if row.role == "user"]
            if said != told:
                problems.append(f"thread {thread_id} has {said}, its client was told of {told}")
        runs = {run.id: run.status for run in await treadle.runs.list(limit=100)}
        if runs != ledger.ended:
            problems.append(f"runs {runs}, told of {ledger.ended}")
    problems += [f"payment {what} was made {n} times" for what, n in ledger.payments.items() if n != 1]
    problems += [f"check: {problem.message}" for problem in check(ledger.path)]
    connection = connect(ledger.path)
    said = [row[0] for row in connection.execute("PRAGMA integrity_check").fetchall()]
    connection.close()
    return problems + [f"integrity: {line}" for line in said if line != "ok"]


async def goes_on(path: Path) -> list[str]:
    """Take up every run that a store was left with, take a next turn on every thread, and give what went wrong."""
    problems: list[str] = []
    model = ScriptedProvider(lambda _: "Going on.")
    async with open_treadle(SqliteStore(path), Ledger(path), model, later_s=3600) as treadle:
        await treadle.recover()
        for run in await treadle.runs.list(limit=100):
            if run.status in ("queued", "in_progress"):
                await treadle.runs.resume(run.id)
                run = await treadle.runs.wait(run.id, timeout_s=HANG_S)  # noqa: PLW2901 - the same run, later
            if run.status == "requires_action":
                await treadle.runs.cancel(run.id)
        agents = await treadle.agents.list(limit=1)
        for thread in await treadle.threads.list(limit=100) if agents else ():
            await treadle.messages.create(thread.id, content="And now?")
            run = await treadle.runs.create(thread.id, agent=agents[0])
            run = await treadle.runs.wait(run.id, timeout_s=HANG_S)
            if run.output != "Going on.":
                problems.append(f"the next turn of {thread.id} is {run.status}: {run.last_error}")
    return problems + [f"after going on: {problem.message}" for problem in check(path)]


class Case(NamedTuple):
    """What came of one fault: how often it struck and where, and what was wrong afterwards."""

    fault: Fault
    fired: int
    place: str
    problems: tuple[str, ...]


def try_fault(fault: Fault, folder: Path, *, seed: int = 0) -> Case:
    """Run the exercise on a new store in an empty folder, with one fault, and give what came of it.

    Shapes: for every third `nth` the disk seems slow.
    """
    door = FaultDoor(fault)
    exercise = Exercise(
        folder / "store.db",
        door.open,
        seed=seed,
        on_error=door.lift if fault.lasting else None,
        is_slow=fault.nth % 3 == 0,
    )

    async def both() -> list[str]:
        ledger = await exercise.run()
        door.lift()
        return await hold(ledger)

    try:
        problems = asyncio.run(both())
    except Exception as e:  # noqa: BLE001 - whatever breaks the exercise is a finding
        problems = [*exercise.ledger.problems, f"{type(e).__name__}: {e}"]
    return Case(fault, door.fired, door.place, tuple(problems))


def problems_of(image: Image, states: Sequence[bytes], folder: Path, *, and_go_on: bool = False) -> list[str]:
    """Open an image as a store and give what is wrong with it: nothing, if the store keeps its promise.

    Shapes: the files are left in `folder` as ``image.db`` and its like. With `and_go_on` the runs that were under
    way are taken up again, and every thread takes a next turn.
    """
    path = folder / "image.db"
    for old in folder.glob("image.db*"):
        old.unlink()
    for name, content in image.files.items():
        path.with_name(path.name + name).write_bytes(content)
    found: list[str] = []
    try:
        store = SqliteStore(path)
        asyncio.run(store.close())
        connection = connect(path)
        try:
            said = [row[0] for row in connection.execute("PRAGMA integrity_check").fetchall()]
            content = content_of(connection)
        finally:
            connection.close()
        found += [f"integrity: {line}" for line in said if line != "ok"]
        found += [f"check: {problem.message}" for problem in check(path)]
    except (StoreError, apsw.Error) as e:
        return [f"{image.how}: it does not open: {e}"]
    if content not in states[image.least : image.most + 1]:
        known = [n for n, state in enumerate(states) if state == content]
        where = f"the state after commit {known[-1]}" if known else "a state that never was"
        found.append(f"it holds {where}, expected one after {image.least} to {image.most}")
    if and_go_on and not found:
        try:
            found += asyncio.run(goes_on(path))
        except Exception as e:  # noqa: BLE001 - whatever breaks it is a finding
            found.append(f"it does not go on: {type(e).__name__}: {e}")
    return [f"{image.how}: {line}" for line in found]
