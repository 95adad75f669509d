"""Run what tests the promises, and write what it counted into `docs/guarantees.md`.

    python -m treadle.testing.guarantees                     run the short tiers and print the table
    python -m treadle.testing.guarantees --write             put it into the page as well, row by row
    python -m treadle.testing.guarantees --write --long      the long tiers: hours
    python -m treadle.testing.guarantees --write --only KEY  one tier; the other rows stay as they are

Run it in a clone: the page and the tests lie beside the sources. No figure of the page is written by hand; one that
could not be had says why. It ends with 1 where a promise was broken or a figure is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from treadle.clock import SystemClock
from treadle.store import open_store

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "guarantees.md"
BEGIN = "<!-- figures: written by `make guarantees`, never by hand -->"
END = "<!-- end of the figures -->"
HEAD = ("| tried | how much | violations | command | written |", "|---|---|---|---|---|")
_FOREIGN = ("TREADLE_", "PYTEST_")


class Figure(NamedTuple):
    """What a command counted: how much it tried, in words, and how often a promise was broken."""

    tried: str
    violations: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the clone: its words without the interpreter, and the variables that it is given."""

    words: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        """Give it as a person types it."""
        return " ".join([*(f"{k}={v}" for k, v in self.environ.items()), "python", *self.words])


@dataclass(frozen=True, slots=True)
class Tier:
    """Something that tests promises by the number.

    Shapes: without `short` it runs only with `--long`, or when it is named. `read` takes what the command printed, and
    gives None where the counts are not in it.
    """

    key: str
    name: str
    read: Callable[[str], Figure | None]
    long: Command
    short: Command | None = None


class Row(NamedTuple):
    """A line of the table, and whether it says that all is well."""

    name: str
    text: str
    is_well: bool


# -- what the commands print -----------------------------------------------------------------------------------------


def _spaced(number: str) -> str:
    """Write a number with a space at each thousand."""
    return f"{int(number.replace(' ', '')):_}".replace("_", " ")


def _last(pattern: str, printed: str) -> re.Match[str] | None:
    return next(reversed(list(re.finditer(pattern, printed, re.MULTILINE))), None)


def read_crash(printed: str) -> Figure | None:
    """Read the last total of `treadle.testing.crash`."""
    found = _last(
        r"^kills (\d+), double (\d+), scenarios (\d+), points (\d+), missed (\d+), violations (\d+)$", printed
    )
    if found is None:
        return None
    kills, doubles, scenarios, points, missed, violations = found.groups()
    tried = (
        f"{_spaced(kills)} kills, {_spaced(doubles)} times again during the recovery; {points} points of "
        f"{scenarios} scenarios, {missed} not reached"
    )
    return Figure(tried, int(violations))


def read_images(printed: str) -> Figure | None:
    """Read the count of power-loss images of `treadle.testing.storage`."""
    found = _last(r"^power-loss images: (\d+), violations (\d+)$", printed)
    return None if found is None else Figure(f"{_spaced(found[1])} images", int(found[2]))


def read_faults(printed: str) -> Figure | None:
    """Read the count of storage faults of `treadle.testing.storage`."""
    found = _last(r"^storage faults: (\d+) cases, violations (\d+)$", printed)
    return None if found is None else Figure(f"{_spaced(found[1])} cases", int(found[2]))


def read_endpoint(printed: str) -> Figure | None:
    """Read what the table of endpoint faults says at the end of its session."""
    found = _last(r"^model endpoint faults: (\d+) rows, (\d+) violations \((\d+) runs", printed)
    if found is None:
        return None
    return Figure(f"{found[1]} rows, {_spaced(found[3])} runs and their next turns", int(found[2]))


def read_simulation(printed: str) -> Figure | None:
    """Read the last line of `treadle.testing.simulation`."""
    found = _last(r"^seeds (\d+), (steps .+), violations (\d+)$", printed)
    if found is None:
        return None
    counted = [re.sub(r"^(\D+) ([\d ]+)$", r"\2 \1", part) for part in found[2].split(", ")]
    return Figure(f"{_spaced(found[1])} seeds: {', '.join(counted)}", int(found[3]))


def read_stateful(printed: str) -> Figure | None:
    """Read the counts of the state machine; a failing test is a violation."""
    ended = _last(r"^(?:(\d+) failed, )?(?:(\d+) passed).* in ", printed)
    found = _last(r"^\d+ [a-z_ ]+(?:, \d+ [a-z_ ]+)+$", printed)
    if found is None or ended is None:
        return None
    counts = {what: _spaced(number) for number, what in re.findall(r"(\d+) ([a-z_ ]+)", found[0])}
    said = [
        f"{counts[what]} {what}"
        for what in ("examples", "steps", "commits", "runs", "calls")
        if what in counts
    ]
    return Figure(", ".join(said), int(ended[1] or 0)) if said else None


def read_grown(printed: str) -> Figure | None:
    """Read the counts of the workflows that are grown; a failing test is a violation."""
    ended = _last(r"^(?:(\d+) failed, )?(?:(\d+) passed).* in ", printed)
    lines = re.findall(r"^grown workflows: (.+)$", printed, re.MULTILINE)
    if ended is None or not lines:
        return None
    said = "; ".join(re.sub(r"\d+", lambda number: _spaced(number[0]), line) for line in lines)
    return Figure(said, int(ended[1] or 0))


def read_defects(printed: str) -> Figure | None:
    """Read the last line of the seeded defects; one that nothing caught counts as a violation."""
    found = _last(r"^defects (\d+), caught (\d+), not caught (\d+)$", printed)
    return None if found is None else Figure(f"{found[1]} defects, {found[2]} caught", int(found[3]))


def read_timings(printed: str) -> Figure | None:
    """Read the lines of a benchmark that have a target; one that was missed counts as a violation."""
    line = r"^(\S.*?|  \S.*?)\s{2,}([\d.]+)  (\S*)\s+<= ([\d.]+)\s+(met|MISSED)\s*$"
    found = re.findall(line, printed, re.MULTILINE)
    if not found:
        return None
    said = [
        f"{name.strip()} {value} {unit}".rstrip() + f" (≤ {most})" for name, value, unit, most, _ in found
    ]
    return Figure("; ".join(said), sum(met == "MISSED" for *_, met in found))


_CRASH = ("-m", "treadle.testing.crash")
_STORAGE = ("-m", "treadle.testing.storage")
_SIMULATION = ("-m", "treadle.testing.simulation")
_STATEFUL = ("-m", "pytest", "-q", "tests/stateful/test_machine.py")
_GROWN = ("-m", "pytest", "-q", "tests/stateful/test_workflows.py")
_DEFECTS = "tests/seeded_defects/run.py"
_TIMINGS = "tests/benchmarks/recovery.py"

TIERS: Sequence[Tier] = (
    Tier(
        "crash", "crash of a process", read_crash,
        short=Command((*_CRASH, "--kills", "700", "--doubles", "6")),
        long=Command((*_CRASH, "--kills", "24000")),
    ),
    Tier(
        "power", "power loss", read_images,
        short=Command((*_STORAGE, "--images", "1000")),
        long=Command((*_STORAGE, "--images", "50000")),
    ),
    Tier(
        "storage", "storage that fails", read_faults,
        short=Command((*_STORAGE, "--faults", "--step", "25")),
        long=Command((*_STORAGE, "--faults")),
    ),
    Tier(
        "endpoint", "a model's endpoint that fails", read_endpoint,
        short=Command(("-m", "pytest", "-q", "tests/faults/test_model_endpoint.py")),
        long=Command(("-m", "pytest", "-q", "tests/faults/test_model_endpoint.py")),
    ),
    Tier(
        "simulation", "simulated worlds", read_simulation,
        short=Command((*_SIMULATION, "--seeds", "150")),
        long=Command((*_SIMULATION, "--seeds", "10000")),
    ),
    Tier(
        "stateful", "a model of what is stored", read_stateful,
        short=Command(_STATEFUL, {"TREADLE_STATEFUL_EXAMPLES": "40"}),
        long=Command((*_STATEFUL, "-o", "faulthandler_timeout=0"), {"TREADLE_STATEFUL_EXAMPLES": "2000"}),
    ),
    Tier(
        "workflows", "workflows that are grown", read_grown,
        short=Command(_GROWN, {"TREADLE_STATEFUL_EXAMPLES": "120"}),
        long=Command((*_GROWN, "-o", "faulthandler_timeout=0"), {"TREADLE_STATEFUL_EXAMPLES": "2000"}),
    ),
    Tier("defects", "seeded defects", read_defects, long=Command((_DEFECTS,))),
    Tier("timings", "recovery, cancel and drain in time", read_timings, long=Command((_TIMINGS,))),
)  # fmt: skip


# -- running ---------------------------------------------------------------------------------------------------------


def environment() -> str:
    """Say what ran it: the versions and the kind of machine, without its name."""
    store = open_store("sqlite://:memory:")
    try:
        library = store.status().library.partition(" (")[0]
    finally:
        asyncio.run(store.close())
    kind = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    return f"Python {platform.python_version()}, {library}, {kind}"


def measure(tier: Tier, *, is_long: bool, where: str) -> Row:
    """Run a tier and give its row of the table."""
    command = tier.long if is_long or tier.short is None else tier.short
    clock = SystemClock()
    day = datetime.fromtimestamp(clock.now_ms() / 1000, UTC).date().isoformat()
    began = clock.monotonic()
    environ = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    done = subprocess.run(  # noqa: S603 - commands of this module
        [sys.executable, *command.words], cwd=ROOT, env=environ | dict(command.environ), check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
    )  # fmt: skip
    said = _said(tier.read(done.stdout), done.returncode, done.stdout)
    written = f"{day}, {clock.monotonic() - began:.0f} s, {where}"
    return Row(
        tier.name, f"| {tier.name} | {said[0]} | {said[1]} | `{command}` | {written} |", said[1] == "0"
    )


def _said(figure: Figure | None, code: int, printed: str) -> tuple[str, str]:
    """Give the two cells of a figure; a command that failed without a violation has given none."""
    if figure is not None and (code == 0 or figure.violations):
        return figure.tried, str(figure.violations)
    last = next(
        (line.strip() for line in reversed(printed.splitlines()) if line.strip()), "nothing was printed"
    )
    return f"not obtained: exit code {code}: {last[:120]}".replace("|", "\\|").replace("`", "'"), "unknown"


# -- the page --------------------------------------------------------------------------------------------------------


def rows_of(page: str) -> dict[str, str]:
    """Give the lines of the page's table by their first cell.

    Errors: ValueError for a page without the marks.
    """
    lines = _parts(page)[1].splitlines()
    found = (line for line in lines if line.startswith("| ") and line not in HEAD)
    return {line.split(" | ")[0].removeprefix("| "): line for line in found}


def with_rows(page: str, rows: Mapping[str, str]) -> str:
    """Give the page with these lines as its table; a tier that was never run says so.

    Errors: ValueError for a page without the marks.
    """
    before, _, after = _parts(page)
    lines = [rows.get(tier.name) or _never(tier) for tier in TIERS]
    return "\n".join([f"{before}{BEGIN}", "", *HEAD, *lines, "", f"{END}{after}"])


def _parts(page: str) -> tuple[str, str, str]:
    before, begins, rest = page.partition(BEGIN)
    block, ends, after = rest.partition(END)
    if not begins or not ends:
        raise ValueError(f"the page has not both marks: {BEGIN} and {END}")
    return before, block, after


def _never(tier: Tier) -> str:
    return f"| {tier.name} | not obtained: it has not been run | unknown | `{tier.short or tier.long}` | |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give 1 where a promise was broken or a figure is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m treadle.testing.guarantees", description="Run what tests the promises, and count."
    )
    parser.add_argument("--write", action="store_true", help="put the figures into docs/guarantees.md")
    parser.add_argument("--long", action="store_true", help="the long tiers: hours")
    parser.add_argument(
        "--only", action="append", choices=[t.key for t in TIERS], help="only this tier; may be repeated"
    )
    given = parser.parse_args(arguments)
    chosen = [t for t in TIERS if (t.key in given.only if given.only else given.long or t.short)]
    where, is_well = environment(), True
    print("\n".join(HEAD), flush=True)  # noqa: T201 - a command's output
    for tier in chosen:
        row = measure(tier, is_long=given.long, where=where)
        print(row.text, flush=True)  # noqa: T201 - a command's output
        is_well &= row.is_well
        if given.write:
            # Row by row: what was counted stays when a later tier is interrupted.
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(with_rows(page, rows_of(page) | {row.name: row.text}), encoding="utf-8")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
