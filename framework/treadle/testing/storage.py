"""Try storage faults and power losses on a SQLite store: the command.

python -m treadle.testing.storage --faults                  every error at every place, until a run is clean
python -m treadle.testing.storage --images 20000 --seed 1   what a power loss could leave, image by image
python -m treadle.testing.storage --fault file:full:40      one fault, as a violation names it
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from treadle.clock import SystemClock
from treadle.testing.chance import Chance
from treadle.testing.power_loss import MODES, Durability
from treadle.testing.storage_exercise import record
from treadle.testing.storage_faults import ERRORS, LAYERS, Fault, Layer
from treadle.testing.storage_verdict import problems_of, try_fault


class Tally:
    """Counts what was tried, and keeps what was wrong."""

    def __init__(self, write: Callable[[str], None] = print) -> None:
        """Take what writes a line for each violation."""
        self.tried = 0
        self.violations = 0
        self._write = write

    def add(self, what: str, problems: Sequence[str]) -> None:
        """Count one case."""
        self.tried += 1
        if problems:
            self.violations += 1
            self._write(f"VIOLATION {what}: {'; '.join(problems)[:2000]}")


def try_faults(
    tally: Tally,
    *,
    layers: Sequence[Layer] = LAYERS,
    errors: Sequence[str] = tuple(ERRORS),
    lasting: bool = False,
    step: int = 1,
    first: int = 1,
) -> None:
    """Try each error at each layer for N = first, first + step …, until a run of the exercise meets no fault."""
    for layer in layers:
        for error in errors:
            for nth in count(first, step):
                with tempfile.TemporaryDirectory(dir=_volume()) as folder:
                    case = try_fault(Fault(error, nth, layer, lasting), Path(folder))
                tally.add(f"{case.fault} at {case.place!r}", case.problems)
                if not case.fired:
                    break


def try_images(tally: Tally, number: int, *, seed: int = 0, each: int = len(MODES)) -> None:
    """Look at that many images of power losses, of as many recordings as it takes; every fourth is of durability normal."""
    for place in count():
        chance = Chance(f"{seed}/{place}")
        durability: Durability = "normal" if place % 4 == 3 else "full"
        with tempfile.TemporaryDirectory(dir=_volume()) as name:
            folder = Path(name)
            power = record(folder / "store.db", seed=chance.number(30), durability=durability)
            for image in power.images(chance, each=each):
                if tally.tried >= number:
                    return
                problems = problems_of(image, power.states, folder, and_go_on=tally.tried % 25 == 24)
                tally.add(f"seed {seed}, recording {place}", problems)


def _volume() -> str | None:
    """Give a folder in memory where the machine has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of its own is made in it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code: 1 where a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m treadle.testing.storage",
        description="Try storage faults and power losses on a store.",
    )
    parser.add_argument(
        "--faults", action="store_true", help="fail every operation in turn, with every error"
    )
    parser.add_argument("--layer", choices=LAYERS, action="append", help="only these layers")
    parser.add_argument("--error", choices=list(ERRORS), action="append", help="only these errors")
    parser.add_argument("--step", type=int, default=1, help="fail every STEP-th operation (default: each)")
    parser.add_argument(
        "--fault", type=Fault.parse, action="append", default=[], help="one fault, as a violation names it"
    )
    parser.add_argument("--images", type=int, default=0, help="how many images of power losses to look at")
    parser.add_argument("--seed", type=int, default=0, help="what the images are drawn by")
    given = parser.parse_args(arguments)
    if not (given.faults or given.images or given.fault):
        parser.error("name --faults, --fault or --images")
    logger = logging.getLogger("treadle")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return int(_carry_out(given))
    finally:
        logger.setLevel(level)


def _carry_out(given: argparse.Namespace) -> bool:
    """Try what was asked for, print the counts, and tell whether a promise was broken."""
    clock, failed = SystemClock(), False
    began = clock.monotonic()
    if given.faults or given.fault:
        tally = Tally()
        for fault in given.fault:
            with tempfile.TemporaryDirectory(dir=_volume()) as folder:
                case = try_fault(fault, Path(folder))
            tally.add(f"{fault} at {case.place!r}", case.problems)
        if given.faults:
            for lasting in (False, True):
                try_faults(
                    tally, layers=given.layer or LAYERS, errors=given.error or tuple(ERRORS), lasting=lasting,
                    step=given.step,
                )  # fmt: skip
        print(f"storage faults: {tally.tried} cases, violations {tally.violations}")  # noqa: T201 - a command
        failed |= bool(tally.violations)
    if given.images:
        tally = Tally()
        try_images(tally, given.images, seed=given.seed)
        print(f"power-loss images: {tally.tried}, violations {tally.violations}")  # noqa: T201 - a command
        failed |= bool(tally.violations)
    print(f"{clock.monotonic() - began:.0f} s")  # noqa: T201 - a command
    return failed


if __name__ == "__main__":
    sys.exit(main())
