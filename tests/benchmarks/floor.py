"""The floor: a loop written by hand over an append-only table, one transaction a step.

It does what no framework can do less than: keep about 1 KB of text per step, durably, in order.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import apsw

TEXT = "x" * 1000


def open_log(path: Path, durability: str) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    connection.pragma("journal_mode", "WAL")
    connection.pragma("synchronous", durability)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS log (no INTEGER PRIMARY KEY, run TEXT, kind TEXT, body TEXT)"
    )
    return connection


def append(connection: apsw.Connection, run: str, kind: str, text: str = TEXT) -> None:
    body = json.dumps({"text": text})
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO log (run, kind, body) VALUES (?, ?, ?)", (run, kind, body))
    connection.execute("COMMIT")


async def one_run(connection: apsw.Connection, turns: int) -> None:
    """K tool turns: K + 1 model calls and K tool calls."""
    for _ in range(turns):
        append(connection, "run_1", "model_call")
        append(connection, "run_1", "tool_call")
    append(connection, "run_1", "model_call")


async def crowd(connection: apsw.Connection, runs: int, delay_s: float) -> list[float]:
    """Many runs at once with a slow model: two transactions each; gives each one's seconds."""
    loop = asyncio.get_running_loop()

    async def one(i: int) -> float:
        began = loop.time()
        append(connection, f"run_{i}", "user")
        await asyncio.sleep(delay_s)
        append(connection, f"run_{i}", "model_call")
        return loop.time() - began

    return list(await asyncio.gather(*(one(i) for i in range(runs))))
