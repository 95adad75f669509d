"""Kill processes at every point at which they can die, start again, and see whether every promise was kept.

    matrix = crash_matrix(SCENARIO)         # every point, before and after, and a sample of double crashes
    matrix.check()                          # AssertionError, with a command for each violation that repeats it

A reference run finds the points. For each of them a process lives the scenario over a fresh store and kills itself
there with SIGKILL; a new process opens the store, takes over what was abandoned, and lets the client go on; then the
threads, the runs, their events, the store, and what tools and models were asked are held against what must be true.
In a double crash the second process is killed as well. SIGKILL leaves what the kernel has: this says nothing about
a loss of power.

    python -m treadle.testing.crash --seconds 60          every scenario of treadle's own, seed after seed
    python -m treadle.testing.crash --scenario my_crash.py:REFUND --kills 1000
    python -m treadle.testing.crash --replay plain:commit.model_call#1:before:0
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any, Self, TypeVar, cast

from treadle.clock import SystemClock
from treadle.testing.crash_points import Point
from treadle.testing.crash_scenario import Place, Scenario
from treadle.testing.crash_scenarios import SCENARIOS

__all__ = ["Matrix", "Place", "Scenario", "Violation", "Zygotes", "crash_matrix", "manifest"]

JOBS = 2

Kills = TypeVar("Kills", bound=tuple[Point, ...])


# -- what is found ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept: where, what, the command that repeats it, and what happened before."""

    replay: str
    wrongs: tuple[str, ...]
    story: tuple[str, ...] = ()
    folder: str = ""

    def __str__(self) -> str:
        """Give all of it, for a person."""
        head = f"python -m treadle.testing.crash --replay '{self.replay}'"
        return "\n".join(
            (head, *(f"  * {wrong}" for wrong in self.wrongs), *self.story, f"  kept in {self.folder}")
        )


@dataclass(frozen=True, slots=True)
class Matrix:
    """What came of the crashes of one scenario with one seed.

    Shapes: `points` are the names in the order in which they are passed; `kills` counts every process that was killed,
    `doubles` the crashes during a recovery among the cycles. `missed` are the cycles in which a process came to its
    end and never to the point where it was to die: nothing in a scenario may depend on time.
    """

    scenario: str
    seed: int
    points: tuple[str, ...]
    kills: int = 0
    doubles: int = 0
    missed: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()

    def check(self) -> None:
        """Make sure that every promise was kept.

        Errors: AssertionError, with each violation.
        """
        if self.violations:
            raise AssertionError(
                f"{len(self.violations)} violations in {self.kills} kills of '{self.scenario}'\n\n"
                + "\n\n".join(map(str, self.violations[:5]))
            )


# -- the processes ------------------------------------------------------------------------------------------------------


class _Zygote:
    """A zygote of our own, in a process beside this one."""

    def __init__(self) -> None:
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "treadle.testing.crash_zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )  # fmt: skip

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Give the answer to a job.

        Errors: RuntimeError when the scenario cannot be lived at all.
        """
        jobs, answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        jobs.write(json.dumps(job) + "\n")
        jobs.flush()
        line = answers.readline()
        if not line:
            raise RuntimeError(f"the process that makes processes is gone: {self._process.wait()}")
        answer = cast("dict[str, Any]", json.loads(line))
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer

    def close(self) -> None:
        cast("IO[str]", self._process.stdin).close()
        self._process.wait()
        cast("IO[str]", self._process.stdout).close()


class Zygotes:
    """Processes that make the processes which are killed: a few, which work at the same time."""

    def __init__(self, jobs: int = JOBS) -> None:
        """Start them."""
        self._all = [_Zygote() for _ in range(jobs)]
        self._free: queue.SimpleQueue[_Zygote] = queue.SimpleQueue()
        for zygote in self._all:
            self._free.put(zygote)
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="treadle-crash")

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Give the answer of whichever is free.

        Errors: RuntimeError when the scenario cannot be lived at all.
        """
        zygote = self._free.get()
        try:
            return zygote.ask(job)
        finally:
            self._free.put(zygote)

    def ask_all(self, jobs: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Give the answers in the order of the jobs."""
        return self._pool.map(self.ask, jobs)

    def __enter__(self) -> Self:
        """Give them."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let them go."""
        self.close()

    def close(self) -> None:
        """Let them go."""
        self._pool.shutdown(cancel_futures=True)
        for zygote in self._all:
            zygote.close()


@contextmanager
def _borrowed(zygotes: Zygotes | None, jobs: int) -> Generator[Zygotes]:
    if zygotes is not None:
        yield zygotes
        return
    with Zygotes(jobs) as own:
        yield own


# -- the matrix -------------------------------------------------------------------------------------------------------------


def name_of(scenario: Scenario | str) -> str:
    """Give the text under which another process finds a scenario: its name, or ``path/to/file.py:NAME``.

    Errors: ValueError for a scenario that is no attribute of a module.
    """
    if isinstance(scenario, str) or scenario in SCENARIOS:
        return scenario if isinstance(scenario, str) else scenario.name
    file = inspect.getsourcefile(scenario.drive)
    module = sys.modules.get(getattr(scenario.drive, "__module__", ""))
    for attribute, value in vars(module).items() if module is not None else ():
        if value is scenario and file is not None:
            return f"{Path(file).resolve()}:{attribute}"
    raise ValueError(
        f"scenario '{scenario.name}' cannot be found by another process: "
        "keep it as a variable of the module that defines its `drive`"
    )


def crash_matrix(
    scenario: Scenario | str,
    *,
    seed: int = 0,
    doubles: int | None = 20,
    most: int | None = None,
    jobs: int = JOBS,
    fresh: bool = False,
    zygotes: Zygotes | None = None,
) -> Matrix:
    """Kill a scenario at every point, before and after it, and give what was found.

    Shapes: `doubles` is how many of the crashes during a recovery are tried, drawn by the seed; None is all of them. With
    `most` no more points than that are tried, drawn by the seed as well.
    `jobs` is how many processes work at the same time, unless `zygotes` that are there already do. With `fresh` every
    process is started from nothing instead of being copied: the same, more slowly.

    Errors: RuntimeError when the scenario goes wrong without any kill; ValueError for a scenario that is no attribute
    of a module.
    """
    name = name_of(scenario)
    with _borrowed(zygotes, jobs) as workers:
        first = workers.ask({"scenario": name, "seed": seed, "kills": []})
        if first["wrongs"]:
            raise RuntimeError(f"'{name}' goes wrong without a kill:\n" + "\n".join(first["wrongs"]))
        passed = [Point(*p) for p in first["points"][0]]
        singles = _sample([(point,) for point in passed], most, f"{name}:{seed}")
        answers = list(workers.ask_all(_job(name, seed, kills, fresh=fresh) for kills in singles))
        recoveries = [
            (first_kill, Point(*again))
            for (first_kill,), answer in zip(singles, answers, strict=True)
            if not answer["wrongs"]
            for again in (answer["points"][1] if not answer["missed"] else ())
        ]
        pairs = _sample(recoveries, doubles, f"{name}:{seed}")
        answers += workers.ask_all(_job(name, seed, kills, fresh=fresh) for kills in pairs)
    cycles = [*singles, *pairs]
    return Matrix(
        name,
        seed,
        tuple(dict.fromkeys(point.name for point in passed)),
        kills=sum(answer["killed"] for answer in answers),
        doubles=sum(answer["killed"] > 1 for answer in answers),
        missed=tuple(
            replay_of(name, seed, kills) for kills, a in zip(cycles, answers, strict=True) if a["missed"]
        ),
        violations=tuple(
            Violation(replay_of(name, seed, kills), tuple(a["wrongs"]), tuple(a["story"]), a["folder"])
            for kills, a in zip(cycles, answers, strict=True)
            if a["wrongs"]
        ),
    )


def _job(
    name: str, seed: int, kills: Sequence[Point], *, fresh: bool = False, keep: bool = False
) -> dict[str, Any]:
    return {"scenario": name, "seed": seed, "kills": kills, "fresh": fresh, "keep": keep}


def _sample(cycles: Sequence[Kills], most: int | None, salt: str) -> Sequence[Kills]:
    """Draw some of the cycles, the same ones for the same salt."""
    if most is None or len(cycles) <= most:
        return cycles

    def lot(cycle: Kills) -> bytes:
        return hashlib.sha256(f"{salt}:{cycle}".encode()).digest()

    return sorted(cycles, key=lot)[:most]


def replay_of(name: str, seed: int, kills: Sequence[Point]) -> str:
    """Give the text that says which processes to kill where."""
    first, *more = kills
    return ":".join((name, first.name, first.side, str(seed), *(part for kill in more for part in kill)))


def read_replay(text: str) -> tuple[str, int, list[Point]]:
    """Read what `replay_of` gives: the scenario, the seed, the kills.

    Errors: ValueError.
    """
    parts = text.split(":")
    name = parts.pop(0)
    if name.endswith(".py") and parts:
        name = f"{name}:{parts.pop(0)}"
    if len(parts) < 3 or len(parts) % 2 == 0 or not parts[2].isdecimal():
        raise ValueError(f"'{text}' is not scenario:point:side:seed")
    seed = int(parts.pop(2))
    sides = parts[1::2]
    if not set(sides) <= {"before", "after"}:
        raise ValueError(f"the sides of '{text}' are before and after")
    return name, seed, [Point(p, cast("Any", s)) for p, s in zip(parts[::2], sides, strict=True)]


def manifest(*, zygotes: Zygotes | None = None) -> str:
    """Give every point of treadle's own scenarios, in the order in which they are passed: a line for each."""
    lines: list[str] = []
    with _borrowed(zygotes, JOBS) as workers:
        jobs = [_job(scenario.name, 0, ()) for scenario in SCENARIOS]
        for scenario, answer in zip(SCENARIOS, workers.ask_all(jobs), strict=True):
            if answer["wrongs"]:
                raise RuntimeError(
                    f"'{scenario.name}' goes wrong without a kill:\n" + "\n".join(answer["wrongs"])
                )
            names = dict.fromkeys(name for name, _ in answer["points"][0])
            lines += [f"{scenario.name} {name}" for name in names]
    return "\n".join(lines) + "\n"


# -- the command ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Totals:
    """What a long run has counted."""

    kills: int = 0
    doubles: int = 0
    points: set[str] = field(default_factory=set[str])
    scenarios: set[str] = field(default_factory=set[str])
    missed: int = 0
    violations: int = 0

    def add(self, matrix: Matrix) -> None:
        """Count what one matrix gave."""
        self.kills += matrix.kills
        self.doubles += matrix.doubles
        self.scenarios.add(matrix.scenario)
        self.points |= {f"{matrix.scenario} {point}" for point in matrix.points}
        self.missed += len(matrix.missed)
        self.violations += len(matrix.violations)

    def __str__(self) -> str:
        """Give the line of the counts."""
        return (
            f"kills {self.kills}, double {self.doubles}, scenarios {len(self.scenarios)}, "
            f"points {len(self.points)}, missed {self.missed}, violations {self.violations}"
        )


def _endure(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Go through the scenarios, seed after seed, until the time is up or enough processes were killed."""
    clock, totals = SystemClock(), _Totals()
    began = clock.monotonic()
    names = options.scenario or [scenario.name for scenario in SCENARIOS]

    def is_over() -> bool:
        by_time = options.seconds is not None and clock.monotonic() - began >= options.seconds
        return by_time or (options.kills is not None and totals.kills >= options.kills)

    with Zygotes(options.jobs) as zygotes:
        for seed in count(options.seed):
            for name in names:
                matrix = crash_matrix(
                    name, seed=seed, doubles=options.doubles, fresh=options.fresh, zygotes=zygotes
                )
                totals.add(matrix)
                for violation in matrix.violations:
                    say(str(violation))
                if is_over():
                    break
            passed = clock.monotonic() - began
            say(f"{passed:7.0f} s  seed {seed}  {totals}  ({totals.kills / passed:.0f} kills/s)")
            if is_over():
                break
    say(str(totals))
    return 1 if totals.violations else 0


def _replay(text: str, say: Callable[[str], None], *, fresh: bool) -> int:
    """Repeat one cycle, and tell what happened in it."""
    name, seed, kills = read_replay(text)
    with Zygotes(1) as zygotes:
        answer = zygotes.ask(_job(name, seed, kills, fresh=fresh, keep=True))
    for line in answer["story"]:
        say(line)
    for wrong in answer["wrongs"]:
        say(f"  * {wrong}")
    say(f"kept in {answer['folder']}")
    say("violation" if answer["wrongs"] else "every promise was kept")
    return 1 if answer["wrongs"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m treadle.testing.crash", description="Kill processes and see what is left."
    )
    parser.add_argument("--seconds", type=float, help="go on for so long")
    parser.add_argument("--kills", type=int, help="go on until so many processes were killed")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"how many at the same time ({JOBS})")
    parser.add_argument(
        "--doubles", type=int, default=60, help="crashes during a recovery, for each scenario and seed (60)"
    )
    parser.add_argument(
        "--scenario", action="append", help="a name, or path/to/file.py:NAME; all of treadle's own without"
    )
    parser.add_argument("--fresh", action="store_true", help="start every process from nothing")
    parser.add_argument("--replay", metavar="SCENARIO:POINT:SIDE:SEED", help="repeat one cycle")
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="write the points of treadle's own scenarios"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give its exit code, 1 for a violation."""
    parser = _parser()
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, flush=True)  # noqa: T201 - the command's own output

    if options.manifest:
        options.manifest.write_text(manifest())
        return 0
    if options.replay:
        return _replay(options.replay, say, fresh=options.fresh)
    if options.seconds is None and options.kills is None:
        parser.error("say how long: --seconds S or --kills N")
    return _endure(options, say)


if __name__ == "__main__":
    sys.exit(main())
