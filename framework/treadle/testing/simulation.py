"""Run worlds from seeds and check the promises in each; a seed repeats exactly.

python -m treadle.testing.simulation --seeds 1000
python -m treadle.testing.simulation --first 42 --trace
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from treadle.testing.chance import Chance
from treadle.testing.simulated_loop import SimulatedLoop, SimulationStuck
from treadle.testing.simulated_world import Weather, World, weather
from treadle.testing.trace import Trace

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it; where it is there, files cost no disk


@dataclass(frozen=True, slots=True)
class Course:
    """What became of a seed.

    Units: `virtual_s` seconds that passed in its world.
    """

    seed: int
    hash: str
    problems: tuple[str, ...]
    steps: int
    virtual_s: float
    commits: int
    runs: int
    dispatches: int
    kills: int
    pauses: int


def simulate(seed: int, kind: Weather | None = None, *, tell: Callable[[str], None] | None = None) -> Course:
    """Let the world of a seed happen and give what became of it.

    Shapes: `kind` replaces the weather that the seed draws; `tell` is given each line of its course.
    """
    chance = Chance(str(seed))
    trace = Trace(tell)
    kind = kind or weather(chance.fork("weather"))
    trace.note("seed", seed, kind)
    loop = SimulatedLoop(chance.fork("loop"), trace, order=kind.order)
    problems: list[str] = []
    # Hazard: the collector finalizes what was dropped whenever it runs, and that would be another time each time.
    gc.disable()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        world = World(Path(folder) / "treadle.db", loop, chance, trace, kind)
        try:
            loop.run_until_complete(world.live())
        except SimulationStuck as e:
            problems.append(str(e))
        except Exception as e:  # noqa: BLE001 - whatever breaks the course is a finding of its seed
            problems.append(f"{type(e).__name__}: {e}")
        course = Course(
            seed,
            trace.hash,
            tuple(problems + world.problems()),
            loop.steps,
            loop.time(),
            world.commits,
            world.runs,
            world.dispatches,
            world.kills,
            world.pauses,
        )
        loop.after_step = None
        world.bury()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    gc.enable()
    return course


def replay_line(seed: int) -> str:
    """Give the command that repeats a seed and prints its course."""
    return f"python -m treadle.testing.simulation --first {seed} --seeds 1 --trace"


def main(arguments: list[str] | None = None) -> int:
    """Run seeds, print the counts, and give 1 where a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="treadle.testing.simulation", description="Simulate worlds from seeds."
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    options = parser.parse_args(arguments)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return _carry_out(options)
    finally:
        logging.disable(before)


def _carry_out(options: argparse.Namespace) -> int:
    courses: list[Course] = []
    violations = 0
    for seed in range(options.first, options.first + options.seeds):
        course = simulate(seed, tell=_say if options.trace else None)
        courses.append(course)
        if course.problems:
            violations += len(course.problems)
            _say(f"seed {seed}: {len(course.problems)} violations; {replay_line(seed)}")
            for problem in course.problems[:10]:
                _say(f"  {problem}")
    _say(_counts(courses, violations))
    return 1 if violations else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _counts(courses: list[Course], violations: int) -> str:
    def total(name: str) -> str:
        return f"{round(sum(getattr(course, name) for course in courses)):_}".replace("_", " ")

    parts = [
        f"{name.replace('_s', ' seconds')} {total(name)}"
        for name in ("steps", "virtual_s", "commits", "runs", "dispatches", "kills", "pauses")
    ]
    return f"seeds {len(courses)}, {', '.join(parts)}, violations {violations}"


if __name__ == "__main__":
    sys.exit(main())
