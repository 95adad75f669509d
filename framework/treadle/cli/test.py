"""`treadle test`: run the tests that documents bring along, for people and for CI."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle.cli import exit as codes
from treadle.cli.context import Invocation, command, configure
from treadle.cli.output import complain, data_json, note, style
from treadle.cli.signals import Signals
from treadle.cli.validate import expand

if TYPE_CHECKING:
    from treadle.objects.project import ProjectSpec
    from treadle.service.trials import Case, Mode, Verdict

_STYLES = {"passed": "green", "failed": "red", "skipped": "yellow"}


@command(name="test")
@click.argument("names", nargs=-1, required=True, metavar="FILES…|DIR", type=click.Path(exists=True))
@click.option("-k", "words", multiple=True, metavar="NAME", help="Only tests whose name contains this.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only tests with this tag.")
@click.option("--record", is_flag=True, help="Ask the models of live tests once and keep their replies.")
@click.option("--live", is_flag=True, help="Ask the models of live tests, and keep nothing.")
@click.option(
    "--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write JUnit XML."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every test and what it found.")
@click.pass_obj
def test(
    invocation: Invocation,
    *,
    names: tuple[str, ...],
    words: tuple[str, ...],
    tags: tuple[str, ...],
    record: bool,
    live: bool,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Run the `tests:` of documents: offline, with what each test says in the place of models, tools and people.

    A test that says `live: true` asks its model only with --record or --live; else its recorded replies are taken.
    Exits with 1 when a test failed, with 3 when a document is wrong.
    """
    if record and live:
        raise click.UsageError("--record and --live exclude each other: a recording is live, too")
    if junit is not None and not junit.absolute().parent.is_dir():
        raise click.UsageError(f"there is no folder {junit.parent} to write {junit.name} to")
    from treadle.service import trials

    files = list(dict.fromkeys(expand(names)))
    cases = trials.collect(files, project=_named_rules(invocation))
    found = trials.chosen(cases, names=words, tags=tags)
    if not found:
        raise click.UsageError(
            f"none of the {len(cases)} tests is meant" if cases else f"there is no test in {', '.join(names)}"
        )
    mode: Mode = "record" if record else "live" if live else "offline"
    verdicts: list[Verdict] = []
    code = Signals().run(_run(found, mode, verdicts))
    if junit is not None:
        _write(junit, verdicts)
    if as_json:
        data_json(_document(verdicts))
    else:
        _tell(verdicts)
    note(summary(verdicts))
    return code


def _named_rules(invocation: Invocation) -> ProjectSpec | None:
    """Give the project that `--project` puts in the place of every file's own."""
    return configure(invocation).project if invocation.project is not None else None


async def _run(cases: Sequence[Case], mode: Mode, verdicts: list[Verdict]) -> int:
    """Run tests one after the other, each with a line when it is done; what was done is in `verdicts` all the time."""
    from treadle.service import trials

    width = max(len(case.document.path) for case in cases)
    for case in cases:
        verdict = await trials.run(case, mode=mode)
        verdicts.append(verdict)
        note(line(verdict, width))
    return codes.FAILED if any(verdict.status == "failed" for verdict in verdicts) else codes.OK


def line(verdict: Verdict, width: int = 0) -> str:
    """Give the line of a test that is done."""
    from treadle.cli.lines import duration, one_line

    word = style(f"{verdict.status:<7}", _STYLES[verdict.status], stream=sys.stderr)
    told = f"{word}  {verdict.case.document.path:<{width}}  {one_line(verdict.case.name)}"
    if verdict.status == "skipped":
        return f"{told}  ({one_line(verdict.reason)})" if verdict.reason else told
    way = f"  {_WAYS[verdict.way]}" if verdict.way != "scripted" else ""
    return f"{told}  {duration(round(verdict.seconds * 1000))}{way}"


_WAYS = {"replay": "replayed", "record": "recorded", "live": "live"}


def _tell(verdicts: Sequence[Verdict]) -> None:
    """Say what failed, with the place of each thing that was expected."""
    from treadle.cli.lines import one_line

    for verdict in verdicts:
        if verdict.status != "failed":
            continue
        place = ":".join(map(str, (verdict.case.document.path, *verdict.case.position())))
        head = style("FAILED", "red", "bold", stream=sys.stderr)
        complain(f"\n{head} {place}  {one_line(verdict.case.name)}")
        for flaw in verdict.flaws:
            where = ":".join(map(str, (verdict.case.document.path, *verdict.case.position(flaw.path))))
            complain(f"  {where}  {flaw.what}: {one_line(flaw.message)}")
            if flaw.expected is not None:
                complain(f"    expected  {one_line(flaw.expected)}")
                complain(f"    got       {one_line(flaw.got or '')}")


def summary(verdicts: Sequence[Verdict]) -> str:
    """Give the closing line: how many tests passed, failed and were left out, and how long they took."""
    from treadle.cli.lines import duration

    counts = Counter(verdict.status for verdict in verdicts)
    parts = [f"{counts[s]} {s}" for s in ("passed", "failed", "skipped") if counts[s]]
    return f"{', '.join(parts)} in {duration(round(sum(v.seconds for v in verdicts) * 1000))}"


def _document(verdicts: Sequence[Verdict]) -> dict[str, object]:
    from treadle.service import trials

    counts = Counter(verdict.status for verdict in verdicts)
    return {
        "tests": [trials.as_json(verdict) for verdict in verdicts],
        "passed": counts["passed"],
        "failed": counts["failed"],
        "skipped": counts["skipped"],
        "seconds": round(sum(v.seconds for v in verdicts), 3),
    }


def _write(file: Path, verdicts: Sequence[Verdict]) -> None:
    from treadle.service.trial_junit import junit

    try:
        file.write_text(junit(verdicts), encoding="utf-8")
    except OSError as e:
        raise click.UsageError(f"{file} cannot be written: {e.strerror or e}") from e
