"""Each promise of docs/guarantees.md has its limits, its means and a test; its figures come from commands."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.cli import invoke
from treadle.testing import crash, guarantees, simulation, storage

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
PROMISES = {
    title: text.partition("\n## ")[0]
    for title, _, text in (part.partition("\n") for part in PAGE.split("\n### ")[1:])
}
BULLETS = ("- *Not said:* ", "- *Kept by:* ", "- *Tested by:* ")
COMMAND = re.compile(r"^(?:tests/|make |(?:\w+=\S+ )*python |treadle )")
COMMANDS = sorted({code for code in re.findall(r"`([^`\n]+)`", PAGE) if COMMAND.match(code)})


@pytest.mark.parametrize("title", PROMISES)
def test_a_promise_says_what_it_does_not_say_how_it_is_kept_and_what_tests_it(title: str) -> None:
    text = PROMISES[title].strip()
    assert not text.startswith("-"), "a promise begins with what is promised"
    assert [text.count(bullet) for bullet in BULLETS] == [1, 1, 1]
    tested = text.partition(BULLETS[2])[2].splitlines()[0]
    named = re.findall(r"`([^`]+)`", tested)
    assert named
    assert [code for code in named if code not in COMMANDS] == []


def test_the_page_has_its_promises() -> None:
    assert len(PROMISES) > 20
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        word for word in command.split() if not re.match(r"[A-Z_]+=", word) or command.startswith("make")
    ]
    if words[0].startswith("tests/"):
        assert (ROOT / words[0]).exists()
    elif words[0] == "make":
        dry = ["make", "--dry-run", "--always-make", *words[1:]]
        done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif words[0] == "treadle":
        assert invoke([*words[1:], "--help"]) == 0
    else:
        known_to_python(words[1:])
    capsys.readouterr()


def known_to_python(words: list[str]) -> None:
    """Hold the words after `python`: the module or the file is there, and it has the options."""
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
        return
    module, rest = words[1], words[2:]
    assert importlib.util.find_spec(module) is not None
    if module == "pytest":
        assert [w for w in rest if "/" in w and not (ROOT / w).exists()] == []
        return
    options = [word for word in rest if word.startswith("--")]
    if options:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
        )
        assert [option for option in options if option not in done.stdout] == []


CRASHED = """\
      1 s  seed 0  kills 9, double 2, scenarios 1, points 4, missed 0, violations 0  (9 kills/s)
kills 24010, double 900, scenarios 15, points 230, missed 0, violations 3
"""

TIMED = f"""\
{"":<68}{"measured":>12}  {"unit":<8}{"target":<10}
{"all: first goes on, from open":<68}{0.42:12.2f}  {"s":<8}{"<= 1":<10}{"met":<8}
{"  worst of them":<68}{7.5:12.2f}  {"ms":<8}{"":<10}{"":<8}
{"  runs that were not parked":<68}{3:12.2f}  {"":<8}{"<= 0":<10}{"MISSED":<8}
load of the machine: 0.1 on 2 cores
"""


# -- the figures -----------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_tier_and_none_that_is_written_by_hand() -> None:
    rows = guarantees.rows_of(PAGE)
    assert list(rows) == [tier.name for tier in guarantees.TIERS]
    assert guarantees.with_rows(PAGE, rows) == PAGE
    for line in rows.values():
        name, tried, violations, command, written = [c.strip() for c in line.strip("| ").split(" | ")] + (
            [""] if line.endswith("| |") else []
        )
        tier = next(tier for tier in guarantees.TIERS if tier.name == name)
        assert command.strip("`") in (str(tier.short), str(tier.long))
        assert re.fullmatch(r"\d{4}-\d\d-\d\d, \d+ s, Python 3\..+ processors", written) or not written
        assert violations == ("unknown" if tried.startswith("not obtained: ") else "0")


@pytest.mark.parametrize(
    ("main", "arguments", "read", "tried"),
    [
        (
            crash.main,
            ["--kills", "1", "--doubles", "1", "--scenario", "plain"],
            guarantees.read_crash,
            "kills",
        ),
        (storage.main, ["--images", "2"], guarantees.read_images, "2 images"),
        (storage.main, ["--fault", "commit:full:1"], guarantees.read_faults, "1 cases"),
        (simulation.main, ["--seeds", "1"], guarantees.read_simulation, "1 seeds: "),
    ],
)
def test_what_a_command_prints_is_read(main, arguments, read, tried, capsys) -> None:
    assert main(arguments) == 0
    figure = read(capsys.readouterr().out)
    assert figure is not None
    assert tried in figure.tried
    assert figure.violations == 0


@pytest.mark.parametrize(
    ("read", "printed", "figure"),
    [
        (
            guarantees.read_crash,
            CRASHED,
            (
                "24 010 kills, 900 times again during the recovery; 230 points of 15 scenarios, 0 not reached",
                3,
            ),
        ),
        (
            guarantees.read_endpoint,
            "....\nmodel endpoint faults: 279 rows, 2 violations (1976 runs and their next turns)\n",
            ("279 rows, 1 976 runs and their next turns", 2),
        ),
        (
            guarantees.read_stateful,
            "\n11 calls, 28100 steps, 60 examples, 217 commits, 3 from in_progress by itself, 37 runs\n.\n1 passed in 5.59s\n",
            ("60 examples, 28 100 steps, 217 commits, 37 runs, 11 calls", 0),
        ),
        (
            guarantees.read_stateful,
            "\n28 steps, 6 examples, 7 commits, 3 runs\n.\n1 failed, 1 passed, 1 warning in 5.59s\n",
            ("6 examples, 28 steps, 7 commits, 3 runs", 1),
        ),
        (
            guarantees.read_grown,
            "\ngrown workflows: 3 runs, 2100 steps\n.\ngrown workflows: 7 deaths, 3 runs\nF  [100%]\n1 failed, 1 passed in 5.59s\n",
            ("3 runs, 2 100 steps; 7 deaths, 3 runs", 1),
        ),
        (guarantees.read_defects, "\ndefects 24, caught 23, not caught 1\n", ("24 defects, 23 caught", 1)),
        (
            guarantees.read_simulation,
            "seed 2: 1 violations; x\nseeds 5, steps 19 863, virtual seconds 116, kills 7, violations 1\n",
            ("5 seeds: 19 863 steps, 116 virtual seconds, 7 kills", 1),
        ),
        (
            guarantees.read_timings,
            TIMED,
            ("all: first goes on, from open 0.42 s (≤ 1); runs that were not parked 3.00 (≤ 0)", 1),
        ),
        *((tier.read, "no tests ran in 0.1s\n", None) for tier in guarantees.TIERS),
    ],
)
def test_counts_are_found_in_what_is_printed(read, printed, figure) -> None:
    assert read(printed) == figure


def tier(code: str, name: str = "crash of a process") -> guarantees.Tier:
    return guarantees.Tier("x", name, guarantees.read_images, guarantees.Command(("-c", code)))


@pytest.mark.parametrize(
    ("code", "cells", "is_well"),
    [
        ("print('power-loss images: 12, violations 0')", "12 images | 0", True),
        ("print('power-loss images: 12, violations 2'); raise SystemExit(1)", "12 images | 2", False),
        ("raise SystemExit('no | such `thing`')", "not obtained: exit code 1: no \\| such 'thing' | unknown", False),
        ("print('power-loss images: 12, violations 0'); raise SystemExit(3)", "not obtained: exit code 3", False),
        ("print('nothing')", "not obtained: exit code 0: nothing | unknown", False),
    ],
)  # fmt: skip
def test_a_figure_that_could_not_be_had_says_why(code: str, cells: str, is_well: bool) -> None:
    row = guarantees.measure(tier(code), is_long=True, where="here")
    assert row.text.startswith(f"| crash of a process | {cells}")
    assert row.is_well is is_well
    assert row.text.endswith(" s, here |")


def test_figures_are_written_row_by_row_and_the_others_stay(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{guarantees.BEGIN}\n{guarantees.END}\nafter\n")
    monkeypatch.setattr(guarantees, "PAGE", page)
    tiers = [
        guarantees.Tier("one", "one", guarantees.read_images, guarantees.Command(("-c", "pass"))),
        guarantees.Tier(
            "two", "two", guarantees.read_images,
            long=guarantees.Command(("-c", "print('power-loss images: 9, violations 0')")),
            short=guarantees.Command(("-c", "print('power-loss images: 2, violations 0')")),
        ),
    ]  # fmt: skip
    monkeypatch.setattr(guarantees, "TIERS", tiers)
    assert guarantees.main(["--write"]) == 0
    rows = guarantees.rows_of(page.read_text())
    assert rows["one"].startswith("| one | not obtained: it has not been run | unknown | ")
    assert rows["two"].startswith("| two | 2 images | 0 | ")
    assert guarantees.main(["--write", "--long", "--only", "two"]) == 0
    assert guarantees.rows_of(page.read_text())["two"].startswith("| two | 9 images | 0 | ")
    assert guarantees.main(["--write", "--only", "one"]) == 1
    found = page.read_text()
    assert "| two | 9 images | 0 | " in found
    assert (found.startswith("before\n"), found.endswith("\nafter\n")) == (True, True)
    assert "Python 3." in capsys.readouterr().out


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="both marks"):
        guarantees.rows_of("no marks")
