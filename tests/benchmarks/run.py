"""Measure treadle against the floor and print a table: ``python tests/benchmarks/run.py [NAME …]``.

Each figure is measured in turns with its floor, in one process, and the median of the turns is printed; the
ratio is what to compare between machines. Units: us of CPU (user and system, all threads) unless a row says
otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import floor
import workloads

ROUNDS = 5


def say(name: str, ours: float, base: float | None, unit: str, target: str = "") -> None:
    ratio = f"{ours / base:8.1f}" if base else " " * 8
    shown = f"{base:12.1f}" if base is not None else " " * 12
    print(f"{name:<52}{ours:12.1f}{shown}{ratio}  {unit:<10}{target}", flush=True)


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="treadle-bench-", dir=Path(__file__).parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def written_bytes() -> int:
    """What this process handed to write calls so far."""
    text = Path("/proc/self/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("wchar")))


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    await work()
    return time.process_time() - cpu, time.perf_counter() - wall


async def steps(durability: str, turns: int, *, effect: str = "pure", tool: str = "work") -> None:
    """CPU and wall per durable step."""
    with folder() as path:
        provider = workloads.ScriptedProvider(workloads.script(turns))
        log = floor.open_log(path / "floor.db", durability.upper())
        tools = (workloads.work, workloads.work_in_thread)
        async with workloads.open_treadle(
            path / "treadle.db", durability=durability, provider=provider, tools=tools
        ) as treadle:
            agent = await workloads.make_agent(treadle, effect=effect, tool=tool)
            await workloads.one_run(treadle, agent)
            repeat = max(1, 60 // turns)
            count = repeat * (2 * turns + 1)
            ours: list[tuple[float, float]] = []
            base: list[tuple[float, float]] = []

            async def treadles() -> None:
                for _ in range(repeat):
                    await workloads.one_run(treadle, agent)

            async def floors() -> None:
                for _ in range(repeat):
                    await floor.one_run(log, turns)

            for _ in range(ROUNDS):
                base.append(await timed(floors))
                ours.append(await timed(treadles))
        label = (
            f"{durability} K={turns}"
            + (f" {effect}" if effect != "pure" else "")
            + (" sync tool" if tool != "work" else "")
        )
        target = (
            {"normal": "<= 5 floors", "full": "<= 2 floors"}[durability]
            if effect == "pure" and tool == "work"
            else ""
        )
        for i, what in enumerate(("CPU", "wall")):
            mine = statistics.median(o[i] for o in ours) / count * 1e6
            least = statistics.median(b[i] for b in base) / count * 1e6
            say(f"step {what}, {label}", mine, least, "us/step", target if i == 0 else "")


async def bench_steps() -> None:
    for durability in ("normal", "full"):
        for turns in (1, 10, 100):
            await steps(durability, turns)
    await steps("normal", 10, effect="once")
    await steps("full", 10, effect="once")
    await steps("normal", 10, tool="work_in_thread")


async def bench_bytes() -> None:
    """Bytes written per step, and on disk after many turns."""
    for turns in (10, 100):
        with folder() as path:
            provider = workloads.ScriptedProvider(workloads.script(turns))
            log = floor.open_log(path / "floor.db", "NORMAL")
            began = written_bytes()
            for _ in range(200 // turns):
                await floor.one_run(log, turns)
            count = 200 // turns * (2 * turns + 1)
            base = (written_bytes() - began) / count
            async with workloads.open_treadle(path / "treadle.db", provider=provider) as treadle:
                agent = await workloads.make_agent(treadle)
                began = written_bytes()
                for _ in range(200 // turns):
                    await workloads.one_run(treadle, agent)
            say(
                f"written per step, K={turns}",
                (written_bytes() - began) / count / 1000,
                base / 1000,
                "KB",
                "<= 15 KB",
            )
    for turns in (250, 400):
        with folder() as path:
            log = floor.open_log(path / "floor.db", "NORMAL")
            for _ in range(turns):
                floor.append(log, "run", "user")
                floor.append(log, "run", "model_call")
            log.close()
            await many_turns(path / "treadle.db", turns)
            size = (path / "treadle.db").stat().st_size
            least = (path / "floor.db").stat().st_size
            say(f"on disk after {turns} turns of 2 x 1 KB", size / 1e6, least / 1e6, "MB", "<= 1.5 MB at 400")


async def many_turns(path: Path, turns: int) -> None:
    async with workloads.open_treadle(
        path, provider=workloads.ScriptedProvider(lambda _: workloads.ANSWER)
    ) as treadle:
        agent = await workloads.make_agent(treadle, has_tool=False)
        thread = await treadle.threads.create()
        for _ in range(turns):
            await treadle.messages.create(thread.id, content=floor.TEXT)
            await treadle.runs.create_and_wait(thread.id, agent=agent)


async def bench_turns() -> None:
    """One more turn on a long thread."""
    with folder() as path:
        provider = workloads.ScriptedProvider(lambda _: workloads.ANSWER)
        async with workloads.open_treadle(path / "treadle.db", provider=provider) as treadle:
            agent = await workloads.make_agent(treadle, has_tool=False)
            for length in (100, 1000, 5000):
                messages = [
                    {"role": "user" if i % 2 == 0 else "assistant", "content": floor.TEXT}
                    for i in range(length)
                ]
                thread = await treadle.threads.create(messages=messages)

                async def turn(thread_id: str = thread.id) -> None:
                    await treadle.messages.create(thread_id, content=floor.TEXT)
                    await treadle.runs.create_and_wait(thread_id, agent=agent)

                await turn()
                times = [await timed(turn) for _ in range(15)]
                say(
                    f"one more turn at {length} messages, CPU",
                    statistics.median(t[0] for t in times) * 1e3,
                    None,
                    "ms",
                    "flat",
                )


async def bench_crowd() -> None:
    """A thousand runs at once, a model of 50 ms, durability FULL."""
    runs, delay_s = 1000, 0.05
    with folder() as path:
        log = floor.open_log(path / "floor.db", "FULL")
        began = time.perf_counter()
        await floor.crowd(log, runs, delay_s)
        base = runs / (time.perf_counter() - began)
        async with workloads.open_treadle(
            path / "treadle.db", durability="full", provider=workloads.slow_model(delay_s)
        ) as treadle:
            agent = await workloads.make_agent(treadle, has_tool=False)
            await workloads.crowd(treadle, agent, 10)
            rates: list[float] = []
            late: list[float] = []
            for _ in range(3):
                began = time.perf_counter()
                each = sorted(await workloads.crowd(treadle, agent, runs))
                rates.append(runs / (time.perf_counter() - began))
                late.append(each[int(runs * 0.99)] - delay_s)
        say("1 000 runs at once, FULL", statistics.median(rates), base, "runs/s", ">= 2 000")
        say("  p99 over ideal", statistics.median(late), None, "s", "<= 0.5")
        say(
            "  peak memory",
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            None,
            "MB",
            "<= 100 (run alone)",
        )


async def bench_process() -> None:
    """Whole processes: the first run and the help."""
    with folder() as path:
        (path / "hello.agent.yaml").write_text(
            "version: 1.0.0\nkind: agent\nname: hello\nmodel: offline\ninstructions: Be brief.\n"
        )
        python = [sys.executable, "-m", "treadle"]
        hello = [*python, "run", str(path / "hello.agent.yaml"), "hi"]
        commands = {
            "hello run": (hello, "<= 200 ms"),
            "--help": ([*python, "--help"], "<= 150 ms"),
            "python -c pass": ([sys.executable, "-c", "pass"], ""),
        }
        base_imports = [sys.executable, "-c", "import pydantic, jinja2, yaml, click, apsw, asyncio"]
        commands["imports of the libraries alone"] = (base_imports, "")
        for name, (command, target) in commands.items():
            times: list[float] = []
            for _ in range(11):
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, cwd=path)
                times.append(time.perf_counter() - began)
            say(f"{name}, whole process", statistics.median(times) * 1e3, None, "ms", target)


async def bench_graphs() -> None:
    """Compile and walk a graph in memory."""
    from treadle.engine import scheduler
    from treadle.graph.low import StepGraphBuilder
    from treadle.objects.run_step import Step

    for n in (10, 100, 1000, 10_000):
        graph = StepGraphBuilder("chain")
        for i in range(n):
            graph.add_node(f"n{i}", kind="model_call")
        graph.add_path(["START", *(f"n{i}" for i in range(n)), "END"])
        began = time.process_time()
        compiled = graph.freeze()
        compile_us = (time.process_time() - began) / n * 1e6
        began = time.process_time()
        state = scheduler.start(compiled)
        for i in range(n):
            (ready,) = state.ready
            step = Step(
                run_id="r", n=i, path=ready.path, node=ready.node, kind="model_call", started_ms=0, ended_ms=0
            )
            state = scheduler.fold(compiled, state, step)
        assert state.is_finished
        say(f"compile, {n} nodes", compile_us, None, "us/node", "linear")
        say(f"walk, {n} nodes", (time.process_time() - began) / n * 1e6, None, "us/node", "<= 40")


BENCHES: dict[str, Callable[[], Awaitable[None]]] = {
    "crowd": bench_crowd,
    "steps": bench_steps,
    "bytes": bench_bytes,
    "turns": bench_turns,
    "process": bench_process,
    "graphs": bench_graphs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure treadle against the floor.")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which (default: all)")
    names = parser.parse_args().names or list(BENCHES)
    print(f"{'':<52}{'treadle':>12}{'floor':>12}{'ratio':>8}  {'unit':<10}target")
    for name in names:
        asyncio.run(BENCHES[name]())


if __name__ == "__main__":
    main()
