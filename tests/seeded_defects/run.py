"""Make each seeded defect in a copy of the sources, and see which check notices: ``python tests/seeded_defects/run.py``.

First every check runs on an unchanged copy and has to pass there: else a failure would say nothing. Then each defect
is made in a copy of its own, and its check has to find a test that fails or a promise that is broken. A check that
stops in another way (nothing to run, an import that fails, no end) has noticed nothing.

    make defects                                          all of them; 1 where one was not caught
    python tests/seeded_defects/run.py --only NAME        one, with what its check printed
    python tests/seeded_defects/run.py --write            all, and the table into CAUGHT.md

Units: `--limit` seconds for one check.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent))

from seeded import ROOT, Defect, RottenError, apply, load

T = TypeVar("T")
TABLE = Path(__file__).with_name("CAUGHT.md")
COPIED = ("framework", "tests", "pyproject.toml")
MEMORY = Path("/dev/shm")
LIMIT_S = 300.0
HANGS_S = 60.0
"""After this a test hangs: it ends its check, as every test that hangs does, after a longer time."""
WHERE = "import treadle.service; print(treadle.__file__)"

_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/\S+::.+?)(?: - .*)?$", re.MULTILINE)
_BROKEN = re.compile(r"violations [1-9]|^violation$", re.MULTILINE)
_HUNG = re.compile(r"^Timeout \(", re.MULTILINE)

_running: set[subprocess.Popen[str]] = set()
"""What is to be killed where this process is told to end."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check said.

    Shapes: `by` is what failed first, None where nothing did; `why` says in words what the check came to.
    """

    by: str | None
    why: str
    seconds: float
    output: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give 1 where a defect was not caught or a check fails by itself."""
    options = _parser().parse_args(arguments)
    defects = load()
    if options.only:
        known = {defect.name: defect for defect in defects}
        if missing := [name for name in options.only if name not in known]:
            say(f"no defect is called {', '.join(missing)}; there are: {', '.join(known)}")
            return 2
        defects = tuple(known[name] for name in options.only)
    checks = together(defect.check for defect in defects)
    with _sources() as sources:
        _refuse_other_sources(sources)
        say(f"{len({defect.check for defect in defects})} checks on unchanged sources")
        sound = _each(checks, lambda check: judge(check, None, sources, options.limit), options.jobs)
        if not _all_sound(checks, sound):
            return 1
        say(f"all pass; {len(defects)} defects")
        found = _each(defects, lambda defect: _try(defect, sources, options.limit), options.jobs)
    missed = [(d, v) for d, v in zip(defects, found, strict=True) if v.by is None]
    for defect, verdict in missed:
        say(f"\nNOT CAUGHT {defect.name}: {defect.breaks}")
        say(f"its check {verdict.why}: {command(defect.check)}\n{_tail(verdict.output)}")
    if options.only and not missed:
        for verdict in found:
            say(_tail(verdict.output))
    say(f"\ndefects {len(defects)}, caught {len(defects) - len(missed)}, not caught {len(missed)}")
    if options.write and not (options.only or missed):
        TABLE.write_text(table(defects, found), encoding="utf-8")
        say(f"written: {TABLE.relative_to(ROOT)}")
    return 1 if missed else 0


def together(checks: Iterable[str]) -> tuple[str, ...]:
    """Give commands that run every check once, all tests that are named without options by one of them."""
    found = dict.fromkeys(checks)
    tests = [check for check in found if re.fullmatch(r"pytest( tests/\S+)+", check)]
    named = dict.fromkeys(word for check in tests for word in check.split()[1:])
    return (*([" ".join(["pytest", *named])] if named else []), *(c for c in found if c not in tests))


def _each(things: Sequence[T], function: Callable[[T], Verdict], jobs: int) -> list[Verdict]:
    """Call a function for each thing, several at the same time; whoever is told to end kills what it started."""
    signal.signal(signal.SIGTERM, _stop)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(function, things))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(_running):
                _end(process)
            raise


def _stop(number: int, _: object) -> None:
    sys.exit(128 + number)


def _all_sound(checks: Sequence[str], found: Sequence[Verdict]) -> bool:
    """Tell whether every check passes without a defect, and say of the others what they came to."""
    wrong = [
        (check, verdict) for check, verdict in zip(checks, found, strict=True) if verdict.why != "passed"
    ]
    for check, verdict in wrong:
        say(f"\nwithout a defect it {verdict.why}: {command(check)}\n{_tail(verdict.output)}")
    return not wrong


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make each seeded defect and see which check notices.")
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time (2)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this defect; may be repeated")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=f"seconds for a check ({LIMIT_S:g})")
    parser.add_argument("--write", action="store_true", help=f"write the table to {TABLE.name}")
    return parser


def say(line: str) -> None:
    """Print a line of the command's own output."""
    print(line, flush=True)


def command(check: str) -> str:
    """Give a check as a person types it."""
    return f"python -m {check}"


def _try(defect: Defect, sources: Path, limit_s: float) -> Verdict:
    """Make a defect, run its check, and say at once what it came to."""
    try:
        verdict = judge(defect.check, defect, sources, limit_s)
    except RottenError as e:
        verdict = Verdict(None, f"was not run, for the defect cannot be made: {e}", 0.0, "")
    say(f"{defect.name:<44} {verdict.seconds:5.1f} s  {defect.kind:<15} {verdict.by or 'NOT CAUGHT'}")
    return verdict


def judge(check: str, defect: Defect | None, sources: Path, limit_s: float) -> Verdict:
    """Run a check on a copy of the sources below a folder, with a defect or as they are.

    Errors: RottenError for a defect that cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="treadle-defect-", dir=_memory()) as name:
        root = Path(name) / "sources"
        shutil.copytree(sources, root)
        if defect is not None:
            apply(defect, root)
        temporary = Path(name) / "tmp"
        temporary.mkdir()
        began = time.monotonic()
        code, output = _run([sys.executable, "-m", *_words(check)], root, temporary, limit_s)
        return _verdict(code, output.replace(f"{root}/", ""), time.monotonic() - began)


def _words(check: str) -> list[str]:
    words = shlex.split(check)
    # The first failure is enough; a test that hangs ends itself before its check is given up.
    options = ["-x", "-v", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={HANGS_S:g}"]
    return [*words, *options] if words[0] == "pytest" else words


def _memory() -> Path | None:
    """Give a folder in memory where the machine has one."""
    return MEMORY if os.access(MEMORY, os.W_OK) else None


@contextmanager
def _sources() -> Generator[Path]:
    """Give a copy of what the checks need, as it is now: somebody may go on working on the sources."""
    with tempfile.TemporaryDirectory(prefix="treadle-defects-", dir=_memory()) as name:
        root = Path(name)
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(ROOT / part, root / part)
        yield root


def _refuse_other_sources(root: Path) -> None:
    """Make sure that a copy is what a process imports.

    Errors: RottenError.
    """
    code, output = _run([sys.executable, "-c", WHERE], root, root, 60.0)
    if code != 0 or not Path(output.strip().splitlines()[-1]).is_relative_to(root):
        raise RottenError(f"the changed sources are not what is imported: {output}")


def _run(words: list[str], root: Path, temporary: Path, limit_s: float) -> tuple[int | None, str]:
    """Run a command on a copy; give its exit code, None where it did not end in time, and all that it printed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TREADLE_", "PYTEST_"))}
    environ |= {"PYTHONPATH": str(root / "framework"), "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        words, cwd=root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    _running.add(process)
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return None, process.communicate()[0]
    finally:
        _running.discard(process)
    return process.returncode, output


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a command with everything that it started."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        process.kill()


def _verdict(code: int | None, output: str, seconds: float) -> Verdict:
    if code is None:
        return Verdict(None, "did not end", seconds, output)
    if code == 0:
        return Verdict(None, "passed", seconds, output)
    failed = _FAILED.search(output)
    if code == 1 and failed is not None:
        return Verdict(failed[1], "failed", seconds, output)
    if code == 1 and _BROKEN.search(output):
        return Verdict(_promise(output), "failed", seconds, output)
    if code == 1 and _HUNG.search(output):
        begun = re.findall(r"^(tests/\S+::\S+) *$", output, re.MULTILINE)
        return Verdict(f"{begun[-1]} (it hangs)" if begun else "a test that hangs", "failed", seconds, output)
    return Verdict(None, f"stopped with exit code {code}", seconds, output)


def _promise(output: str) -> str:
    """Give the first broken promise that a command of ours printed."""
    lines = [line.strip() for line in output.splitlines()]
    for line in lines:
        if line.startswith(("* ", "VIOLATION ")):
            return line.removeprefix("* ")
    named = next((i for i, line in enumerate(lines) if re.match(r"seed \d+: \d+ violations", line)), None)
    return lines[named + 1] if named is not None else lines[-1]


def _tail(output: str, lines: int = 40) -> str:
    return "\n".join(f"    {line}" for line in output.splitlines()[-lines:])


def table(defects: Iterable[Defect], verdicts: Iterable[Verdict]) -> str:
    """Give the page that says what caught each defect."""
    rows = list(zip(defects, verdicts, strict=True))
    kinds: dict[str, int] = {}
    for defect, _ in rows:
        kinds[defect.kind] = kinds.get(defect.kind, 0) + 1
    out = [
        "# What catches which defect", "",
        "Written by `python tests/seeded_defects/run.py --write` (`make defects` runs the same, and writes nothing). Each row",
        "is a deliberate mistake, made in a copy of the sources; the check beside it passes without the mistake and fails",
        "with it. The seconds are those of the check, which ends at its first failure.", "",
        f"{len(rows)} defects, all caught: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) + ".", "",
        "| defect | what it breaks | kind | caught by | seconds |", "| --- | --- | --- | --- | ---: |",
    ]  # fmt: skip
    for defect, verdict in rows:
        said = (verdict.by or "").replace("|", "\\|")
        by = f"`{said}`" if "::" in said else f"`{command(defect.check)}`"
        out.append(f"| {defect.name} | {defect.breaks} | {defect.kind} | {by} | {verdict.seconds:.1f} |")
    return "\n".join([*out, ""])


if __name__ == "__main__":
    sys.exit(main())
