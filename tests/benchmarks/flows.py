"""Measure workflows: chains, maps, loops, code nodes, and what a run that waits leaves behind.

``python tests/benchmarks/flows.py``; the floor is a hand-written loop over an append-only table, one transaction a step.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import floor
from run import ROUNDS, folder, say, timed

from treadle.engine import scheduler
from treadle.graph.compile import compile_workflow
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.objects.workflow import Workflow, WorkflowSpec
from treadle.service import Treadle
from treadle.settings import Settings

MANY = 10_000_000


async def work(n: int) -> int:
    """Do nothing, as a function of a node."""
    return n


def spec(name: str, nodes: dict[str, Any], **fields: Any) -> WorkflowSpec:
    count = {"count": {"type": "integer", "default": 0}}
    limits = {"max_steps": MANY, "max_tool_calls": MANY, "max_concurrency": 8}
    document = {"name": name, "state": count, "start": next(iter(nodes)), "nodes": nodes, "limits": limits}
    return WorkflowSpec.model_validate({**document, "outputs": {"count": "state.count"}, **fields})


def chain(n: int) -> WorkflowSpec:
    """Nodes one after the other, each with an expression and a write to the state."""
    return spec(
        f"chain-{n}",
        {
            f"n{i}": {
                "type": "set",
                "set": {"count": "{{ state.count + 1 }}"},
                "next": f"n{i + 1}" if i + 1 < n else "end",
            }
            for i in range(n)
        },
    )


def coded(n: int) -> WorkflowSpec:
    """Code nodes one after the other: each is a commit of its own."""
    return spec(
        f"code-{n}",
        {
            f"n{i}": {
                "type": "code",
                "call": f"{work.__module__}:work",
                "effect": "pure",
                "with": {"n": "{{ state.count + 1 }}"},
                "save": {"count": "result"},
                "next": f"n{i + 1}" if i + 1 < n else "end",
            }
            for i in range(n)
        },
    )


def mapped() -> WorkflowSpec:
    item = {"type": "set", "set": {"count": "{{ item }}"}}
    node = {
        "type": "map",
        "over": "inputs.items",
        "max_items": 100_000,
        "node": item,
        "collect": "result.count",
        "next": "end",
    }
    return spec("map", {"m": node}, inputs={"items": {"type": "array"}})


def looped() -> WorkflowSpec:
    one = {"type": "set", "set": {"count": "{{ state.count + 1 }}"}, "next": "end"}
    node = {
        "type": "loop", "max_iterations": 1_000_000, "until": "state.count >= inputs.rounds", "start": "one",
        "nodes": {"one": one}, "next": "end",
    }  # fmt: skip
    return spec("loop", {"l": node}, inputs={"rounds": {"type": "integer"}})


def asking() -> WorkflowSpec:
    return spec("ask", {"ask": {"type": "human", "kind": "approval", "ask": "Go on?", "next": "end"}})


def open_treadle(store: str, durability: str = "full") -> Treadle:
    return Treadle(store, tools=[work], settings=Settings(durability=durability))


def walk_alone(n: int) -> float:
    """Give the CPU of the scheduler for a chain: nothing is executed, and nothing kept."""
    import time

    graph = compile_workflow(chain(n))
    began = time.process_time()
    state = scheduler.start(graph)
    for i in range(n):
        (ready,) = state.ready
        row = {
            "run_id": "r", "n": i, "path": ready.path, "node": ready.node, "kind": "assign", "started_ms": 0,
            "ended_ms": 0, "event_seq": i + 4, "writes": {"count": i}, "result": {"count": i},
        }  # fmt: skip
        state = scheduler.fold(graph, state, Step.trusted(row))
    assert state.is_finished
    return time.process_time() - began


async def measured(
    treadle: Treadle, workflow: Workflow, n: int, inputs: dict[str, Any] | None = None
) -> float:
    """Give the CPU of a run in us per node, the median of several."""

    async def once() -> None:
        run = await treadle.workflows.run(workflow, inputs=inputs)
        assert run.status == "completed", run.last_error

    await once()
    rounds = ROUNDS if n < 10_000 else 1
    return statistics.median([(await timed(once))[0] for _ in range(rounds)]) / n * 1e6


async def in_memory() -> None:
    for n in (10, 100, 1000, 10_000):
        alone = statistics.median(walk_alone(n) for _ in range(ROUNDS)) / n * 1e6
        say(f"workflow scheduler, chain of {n}", alone, None, "us/node", "<= 40, linear")
    async with open_treadle("sqlite:///:memory:") as treadle:
        for n in (10, 100, 1000, 10_000):
            workflow = await treadle.workflows.apply(chain(n))
            say(
                f"run in memory, chain of {n}",
                await measured(treadle, workflow, n),
                None,
                "us/node",
                "linear",
            )
        workflow = await treadle.workflows.apply(mapped())
        for n in (10, 100, 1000):
            items = {"items": list(range(n))}
            say(
                f"run in memory, map of {n}",
                await measured(treadle, workflow, n, items),
                None,
                "us/item",
                "linear",
            )
        workflow = await treadle.workflows.apply(looped())
        for n in (100, 1000, 10_000, 50_000):
            cpu = await measured(treadle, workflow, 2 * n, {"rounds": n})
            say(f"run in memory, loop of {2 * n} steps", cpu, None, "us/step", "linear")


async def durable(durability: str) -> None:
    """Runs on disk beside the floor, in turns."""
    with folder() as path:
        log = floor.open_log(path / "floor.db", durability.upper())
        async with open_treadle(f"sqlite:///{path / 'treadle.db'}", durability) as treadle:
            kinds: Sequence[tuple[str, WorkflowSpec, int]] = [("set", chain(n), n) for n in (10, 1000)] + [
                ("code", coded(n), n) for n in (10, 1000)
            ]
            for kind, made, n in kinds:
                workflow = await treadle.workflows.apply(made)
                await treadle.workflows.run(workflow)
                repeat = max(1, 100 // n)

                async def ours(workflow: Workflow = workflow, repeat: int = repeat) -> None:
                    for _ in range(repeat):
                        await treadle.workflows.run(workflow)

                async def base(n: int = n, repeat: int = repeat) -> None:
                    for _ in range(n * repeat):
                        floor.append(log, "run_1", "node")

                mine, least = [], []
                for _ in range(ROUNDS):
                    least.append((await timed(base))[0])
                    mine.append((await timed(ours))[0])
                count = n * repeat
                say(
                    f"{durability}, {n} {kind} nodes",
                    statistics.median(mine) / count * 1e6,
                    statistics.median(least) / count * 1e6,
                    "us/node",
                    "<= 5 floors",
                )


async def parked() -> None:
    """What runs that wait for a person leave in memory and on disk."""
    runs = 500
    with folder() as path:
        async with open_treadle(f"sqlite:///{path / 'treadle.db'}") as treadle:
            workflow = await treadle.workflows.apply(asking())
            for _ in range(20):
                await treadle.workflows.run(workflow)
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            size = on_disk(path)
            last: Run | None = None
            for _ in range(runs):
                last = await treadle.workflows.run(workflow)
            assert last is not None
            assert last.status == "requires_action"
            assert last.walker is None
            gc.collect()
            held = (tracemalloc.get_traced_memory()[0] - before) / runs
            tracemalloc.stop()
        say("a run that waits, in memory", held / 1024, None, "KB", "0")
        say("a run that waits, on disk", (on_disk(path) - size) / runs / 1024, None, "KB", "<= 4")


def on_disk(path: Path) -> int:
    """Give the bytes of the database, without what its log still holds."""
    import apsw

    connection = apsw.Connection(str(path / "treadle.db"))
    try:
        pages = connection.pragma("page_count")
        return pages * connection.pragma("page_size")
    finally:
        connection.close()


async def main() -> None:
    print(f"{'':<52}{'treadle':>12}{'floor':>12}{'ratio':>8}  {'unit':<10}target")
    await in_memory()
    for durability in ("normal", "full"):
        await durable(durability)
    await parked()


if __name__ == "__main__":
    asyncio.run(main())
