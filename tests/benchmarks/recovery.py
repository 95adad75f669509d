"""Kill, cancel and drain processes that walk many runs, and print how long it took: ``recovery.py [NAME …]``.

Everything is durable (FULL), every process is a real one, and times are taken on the clock that they share. A
dispatch is a model call or a tool that begins; the model and the tool do nothing, for as long as a row says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from recovery_child import Child, Workload

from treadle.objects.run import Run
from treadle.service import Treadle
from treadle.settings import Settings

CHILD = Path(__file__).with_name("recovery_child.py")


def say(name: str, value: float, unit: str, most: float | None = None) -> None:
    target = "" if most is None else f"<= {most:g}"
    met = "" if most is None else "met" if value <= most else "MISSED"
    print(f"{name:<68}{value:12.2f}  {unit:<8}{target:<10}{met:<8}", flush=True)


@contextmanager
def store() -> Generator[Path]:
    path = Path(tempfile.mkdtemp(prefix="treadle-bench-", dir=Path(__file__).parent))
    try:
        yield path / "treadle.db"
    finally:
        shutil.rmtree(path)


class Process:
    """A child, and what it said last."""

    def __init__(self, path: Path, *options: str) -> None:
        self.began = time.monotonic()
        self._child = subprocess.Popen(
            [sys.executable, str(CHILD), str(path), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.opened: float = self.hear()["opened"]

    def tell(self, command: str, **given: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([command, given]) + "\n")
        self._child.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"a child ended with code {self._child.wait()}")
        return json.loads(line)

    def ask(self, command: str, **given: Any) -> dict[str, Any]:
        self.tell(command, **given)
        return self.hear()

    def send(self, number: int) -> None:
        os.kill(self._child.pid, number)

    def wait(self) -> None:
        self._child.wait(60)

    def kill(self) -> float:
        """Kill it and give when it was gone."""
        self._child.kill()
        self._child.wait()
        return time.monotonic()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# -- the scenes ------------------------------------------------------------------------------------------------


def recovery(runs: int = 10_000) -> None:
    """Kill a process that walks many runs, and let another one go on."""
    for delay_s in (0.0, 0.05):
        with store() as path:
            first = Process(path, "--hang-at", "1", "--turns", "1")
            first.ask("start", runs=runs)
            first.kill()
            second = Process(path, "--walk", "--turns", "1", "--delay", str(delay_s))
            found = second.ask("until", runs=runs)
            label = f"{runs} runs after kill -9, model of {delay_s * 1000:g} ms"
            say(f"{label}: first goes on, from open", found["first"] - second.opened, "s", 1)
            say(f"{label}: all claimed and going on, from open", found["last"] - second.opened, "s", 30)
            second.kill()


def restart(times: int = 15) -> None:
    """Kill a process with one run, again and again."""
    opened: list[float] = []
    whole: list[float] = []
    with store() as path:
        for _ in range(times):
            first = Process(path, "--hang-at", "1")
            first.ask("start", runs=1)
            first.kill()
            second = Process(path, "--walk")
            found = second.ask("until", runs=1)
            opened.append((found["first"] - second.opened) * 1000)
            whole.append((found["first"] - second.began) * 1000)
            second.ask("close")
            second.wait()
    say(
        "one run after kill -9: first continued step, from open (median)", statistics.median(opened), "ms", 25
    )
    say("  worst of them", max(opened), "ms")
    say("  from the start of the process (median)", statistics.median(whole), "ms")


def cancel(runs: int = 1_000, cancelled: int = 200) -> None:
    """Cancel some of many active runs, in their process and from another one: runs that wait, and runs that hurry."""
    for said, options in (("all waiting", ["--hang-at", "0"]), ("50 ms a call", ["--delay", "0.05"])):
        with store() as path:
            walker = Process(path, "--turns", "1000000", *options)
            ids = walker.ask("start", runs=runs + 2 * cancelled)["ids"]
            other = Process(path)
            names = list(ids)
            first, second = names[::2][:cancelled], names[1::2][:cancelled]
            began = time.monotonic()
            here = walker.ask("cancel", ids={n: ids[n] for n in first}, pause_s=0.01)["times"]
            there = other.ask("cancel", ids={n: ids[n] for n in second}, pause_s=0.01)["times"]
            took = time.monotonic() - began
            dispatched = walker.ask("dispatched")["dispatched"]
            rate = sum(at >= began for *_, at in dispatched) / took
            say(f"{runs} active runs, {said}: dispatches meanwhile", rate, "1/s")
            _say_cancels("in the walking process", here, dispatched)
            _say_cancels("from another process", there, dispatched)
            walker.kill()
            other.kill()


def _say_cancels(
    where: str, times: dict[str, list[float]], dispatched: list[tuple[int, int, str, float]]
) -> None:
    last: dict[str, float] = {}
    for n, _, _, at in dispatched:
        last[str(n)] = max(at, last.get(str(n), 0.0))
    late = [max(0.0, last[n] - accepted) for n, (_, accepted, _) in times.items()]
    seen = [visible - accepted for _, accepted, visible in times.values()]
    asked = [accepted - asked for asked, accepted, _ in times.values()]
    say(f"cancel {where}: last new dispatch after it was accepted, p99", percentile(late, 0.99), "s", 1)
    say("  cancelled and seen to be, after it was accepted, p99", percentile(seen, 0.99), "s", 2)
    say("  accepted, after it was asked for, p99", percentile(asked, 0.99), "s")


def drain(runs: int = 1_000) -> None:
    """End a process with many walks by SIGTERM while another one takes them over."""
    with store() as path:
        first = Process(path, "--delay", "0.05", "--turns", "1000000")
        first.ask("start", runs=runs, effect="once")
        time.sleep(1)
        second = Process(path, "--walk", "--delay", "30", "--turns", "0")
        first.send(signal.SIGTERM)
        ended = first.hear()
        first.wait()
        claimed = second.ask("claimed", runs=runs)["at"]
        found = second.ask("until", runs=runs)
        later = second.ask("dispatched")["dispatched"]
        second.kill()
        calls = Counter((n, i) for n, i, kind, _ in [*ended["dispatched"], *later] if kind == "tool")
        twice = sum(count > 1 for count in calls.values())
        parked, lost = asyncio.run(_parked(path))
        say(f"SIGTERM with {runs} walks: closed after", ended["ended"] - ended["began"], "s", 5)
        say("  runs that were not parked", runs - parked, "", 0)
        say("  calls of a once tool dispatched twice", twice, "", 0)
        say("  calls whose outcome is unknown", lost, "", 0)
        say("  all claimed by another process, after it closed", claimed - ended["ended"], "s", 1)
        say("  all going on there", found["last"] - ended["ended"], "s")


async def _parked(path: Path) -> tuple[int, int]:
    """Count the runs that were parked, and the results that say that nobody knows the outcome."""
    async with Treadle(f"sqlite:///{path}", settings=Settings(), project=path.parent) as treadle:
        parked = unknown = 0
        after = None
        while page := await treadle.store.list(Run, "default", after=after, limit=500, order="asc"):
            after = page[-1].id
            for run in page:
                events = await treadle.store.events("default", run.id, limit=10_000)
                parked += any(e.data.get("parked") for e in events)
                steps = await treadle.store.steps("default", run.id)
                unknown += sum(step.note == "outcome unknown" for step in steps)
        return parked, unknown


def costs() -> None:
    """Measure a claim, a heartbeat and a sweep beside so many active runs, and what a keeper costs."""
    for active in (10, 1_000, 10_000):
        asyncio.run(_costs(active))
    for active in (10, 1_000):
        with store() as path:
            walker = Process(path, "--hang-at", "0")
            walker.ask("start", runs=active)
            say(f"{active} active runs, all waiting: CPU", walker.ask("cpu", seconds=5)["share"] * 100, "%")
            other = Process(path)
            other.tell("write", seconds=6, pause_s=0.01)
            time.sleep(0.5)
            share = walker.ask("cpu", seconds=5)["share"] * 100
            say("  while another process writes 100 times a second: CPU", share, "%")
            other.hear()
            walker.kill()
            other.kill()


async def _costs(active: int) -> None:
    with store() as path:

        def opened(*, walk: bool) -> tuple[Treadle, Workload]:
            workload = Workload(delay_s=0, turns=0, hang_at=0)
            treadle = Treadle(
                f"sqlite:///{path}",
                settings=Settings(),
                project=path.parent,
                tools=[workload.tool()],
                providers={"scripted": workload},
                walk=walk,
            )
            return treadle, workload

        holder, workload = opened(walk=False)
        async with holder:
            await Child(holder, workload).start(active)
            other, _ = opened(walk=True)
            await other.keeper.sweep()
            _say_us(
                f"a sweep beside {active} active runs: CPU", [await _cpu_us(other.recover) for _ in range(15)]
            )
            beats: list[float] = []
            for _ in range(200):
                began = time.process_time()
                holder.executor.lease.beat()
                beats.append((time.process_time() - began) * 1e6)
            _say_us(f"a heartbeat beside {active} active runs: CPU", beats)
            await holder.executor.park(0)
            other.keeper.claim_no_more()
            claims: list[float] = []
            lease = other.executor.lease
            for run in await other.store.list(Run, "default", limit=min(500, active)):

                async def claim(run: Run = run) -> object:
                    return await other.store.claim(
                        "default", run.id, lease.walker, now_ms=run.created_ms, rev=run.rev
                    )

                claims.append(await _cpu_us(claim))
            _say_us(f"a claim beside {active} active runs: CPU", claims)
            await other.close()


async def _cpu_us(work: Callable[[], Any]) -> float:
    began = time.process_time()
    await work()
    return (time.process_time() - began) * 1e6


def _say_us(name: str, values: list[float]) -> None:
    say(name, statistics.median(values), "us")


BENCHES: dict[str, Callable[[], None]] = {
    "restart": restart,
    "recovery": recovery,
    "cancel": cancel,
    "drain": drain,
    "costs": costs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure recovery, cancel and drain.")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which (default: all)")
    names = parser.parse_args().names or list(BENCHES)
    print(f"{'':<68}{'measured':>12}  {'unit':<8}{'target':<10}")
    for name in names:
        BENCHES[name]()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
