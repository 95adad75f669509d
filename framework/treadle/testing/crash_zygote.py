"""A process that has everything imported, and makes the processes that are killed by copying itself.

Starting an interpreter costs a hundred times what a run costs; a copy costs next to nothing. The zygote has no threads
and runs no event loop, so that a copy is as good as new. It is told what to do a line of JSON at a time:

    {"scenario": "plain", "seed": 0, "kills": [["commit.model_call#1", "before"]]}

and answers with a line: how many processes were killed, what is wrong, and the points that each process passed.

    python -m treadle.testing.crash_zygote            read jobs, write answers
    python -m treadle.testing.crash_zygote LIFE       be one process, started from nothing: a job's `fresh`
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from treadle.objects.record import Record
from treadle.testing import crash_life
from treadle.testing.crash_points import Point
from treadle.testing.crash_scenario import Scenario
from treadle.testing.crash_scenarios import scenario as built_in
from treadle.testing.crash_verdict import Reading, summary
from treadle.testing.receiver import Note, Receiver

Job = Mapping[str, Any]
Answer = dict[str, Any]

_RAM_DISK = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it, for this user only


# -- scenarios by their names --------------------------------------------------------------------------------------


def load_scenario(name: str) -> Scenario:
    """Give a scenario: one of treadle's own by its name, another as ``path/to/file.py:NAME``.

    Errors: KeyError or AttributeError where there is none; what importing the file raises.
    """
    path, found, attribute = name.rpartition(":")
    if not found:
        return built_in(name)
    file = Path(path).resolve()
    module_name = f"crash_scenario_{file.stem}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None, f"{file} is no Python file"
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        sys.path.insert(0, str(file.parent))
        spec.loader.exec_module(module)
    value = getattr(module, attribute)
    assert isinstance(value, Scenario), f"{name} is a {type(value).__name__}, not a Scenario"
    return value


# -- places ------------------------------------------------------------------------------------------------------


def place_root() -> Path:
    """Give the folder for the places: TREADLE_CRASH_DIR, a RAM disk where there is one, else the temporary folder."""
    given = os.environ.get("TREADLE_CRASH_DIR")
    if given:
        return Path(given)
    return _RAM_DISK if os.access(_RAM_DISK, os.W_OK) else Path(tempfile.gettempdir())


# -- the zygote ------------------------------------------------------------------------------------------------------


class Zygote:
    """Live scenarios in copies of this process."""

    def __init__(self, root: Path) -> None:
        """Take the folder in which the places are made."""
        self._root = root
        self._references: dict[tuple[str, int], tuple[Reading, list[Point]]] = {}
        self._count = 0

    def answer(self, job: Job) -> Answer:
        """Live a scenario with its kills, and say what came of it."""
        name, seed = str(job["scenario"]), int(job["seed"])
        kills = [Point(*kill) for kill in job["kills"]]
        scenario = load_scenario(name)
        reference = self._reference(name, scenario, seed) if kills else None
        return self._lives(
            name, scenario, seed, kills, reference[0] if reference else None, is_fresh=bool(job.get("fresh")),
            is_kept=bool(job.get("keep")),
        )  # fmt: skip

    def _reference(self, name: str, scenario: Scenario, seed: int) -> tuple[Reading, list[Point]]:
        """Live a scenario undisturbed, once for each seed; what a life imports is imported here, for the next ones."""
        known = self._references.get((name, seed))
        if known is None:
            answer = self._lives(name, scenario, seed, [], None)
            if answer["wrongs"]:
                raise AssertionError(f"{name} goes wrong without a kill:\n" + "\n".join(answer["wrongs"]))
            known = answer["reading"], [Point(*p) for p in answer["points"][0]]
            if len(self._references) > 100:
                self._references.clear()
            self._references[name, seed] = known
        return known

    def _lives(
        self,
        name: str,
        scenario: Scenario,
        seed: int,
        kills: list[Point],
        reference: Reading | None,
        *,
        is_fresh: bool = False,
        is_kept: bool = False,
    ) -> Answer:
        self._count += 1
        folder = self._root / f"{self._count}"
        folder.mkdir(mode=0o700)
        killed, found, told, is_missed = 0, list[str](), dict[str, Any](), False
        for number, kill in enumerate([*kills, None], 1):
            life = crash_life.Life(
                scenario=scenario, folder=folder, seed=seed, number=number, kill_at=kill, reference=reference
            )
            status = _start_fresh(name, life) if is_fresh else _copy(life)
            report = crash_life.report_of(folder, number)
            if kill is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                killed += 1
                continue
            if not report.is_file():
                found.append(f"process {number} ended with {status}: {_last_words(folder, number)}")
                break
            told = json.loads(report.read_text())
            found += told["wrongs"]
            is_missed = kill is not None and not found
            break
        notes = _notes(folder)
        self._learn(cast("list[str]", told.get("modules", [])))
        answer: Answer = {
            "killed": killed,
            "wrongs": found,
            "missed": is_missed,
            "reading": told.get("reading", []),
            "points": [_passed(notes, number) for number in range(1, len(kills) + 2)],
            "folder": str(folder),
            "story": summary(notes) if found or is_kept else [],
        }
        if not found and not is_kept:
            shutil.rmtree(folder)
        return answer

    def _learn(self, modules: Iterable[str]) -> None:
        """Import what a life imported, so that the next ones need not."""
        missing = [name for name in modules if name not in sys.modules]
        for name in missing:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        if missing:
            _build_records(Record)
            gc.collect()
            gc.freeze()


def _build_records(cls: type[Record]) -> None:
    """Build what a record is checked with, which otherwise each process does anew at its first use."""
    for record in cls.__subclasses__():
        record.model_rebuild()
        _build_records(record)


def _copy(life: crash_life.Life) -> int:
    """Live in a copy of this process; give how it ended."""
    pid = os.fork()
    if pid == 0:
        _be(life)
    return os.waitpid(pid, 0)[1]


def _be(life: crash_life.Life) -> NoReturn:
    status = 1
    try:
        crash_life.live(life)
        status = 0
    except BaseException:  # noqa: BLE001 - a copy ends here, and never goes on as a second zygote
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _start_fresh(name: str, life: crash_life.Life) -> int:
    """Live in an interpreter that is started from nothing; give how it ended."""
    told = {
        "scenario": name, "folder": str(life.folder), "seed": life.seed, "number": life.number,
        "kill_at": life.kill_at, "reference": life.reference,
    }  # fmt: skip
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "treadle.testing.crash_zygote"]
    ended = subprocess.run(  # noqa: S603 - our own interpreter and module
        [*command, json.dumps(told)], check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    return -ended.returncode if ended.returncode < 0 else ended.returncode << 8


def _last_words(folder: Path, number: int) -> str:
    stuck = folder / f"stuck-{number}.txt"
    return (stuck.read_text() if stuck.is_file() else "") or "it said nothing"


def _notes(folder: Path) -> list[Note]:
    receiver = Receiver(folder / crash_life.LOG)
    try:
        return receiver.notes()
    finally:
        receiver.close()


def _passed(notes: Iterable[Note], life: int) -> list[list[str]]:
    return [[n["name"], n["side"]] for n in notes if n["what"] == "point" and n["life"] == life]


def serve(jobs: IO[str], answers: IO[str], root: Path) -> None:
    """Answer jobs until there are no more."""
    folder = Path(tempfile.mkdtemp(prefix="treadle-crash-", dir=root))
    zygote = Zygote(folder)
    for line in jobs:
        try:
            answer = zygote.answer(json.loads(line))
        except Exception as e:  # noqa: BLE001 - whoever asked is told, whatever it was
            answer = {"failed": f"{type(e).__name__}: {e}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    with contextlib.suppress(OSError):
        folder.rmdir()  # Only where nothing was kept.


def main(arguments: list[str]) -> None:
    """Be a zygote, or one process of a scenario."""
    if arguments:
        told = json.loads(arguments[0])
        kill = told.pop("kill_at")
        told |= {"scenario": load_scenario(told["scenario"]), "folder": Path(told["folder"])}
        crash_life.live(crash_life.Life(kill_at=Point(*kill) if kill else None, **told))
        return
    # Hazard: what a scenario prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers, place_root())


if __name__ == "__main__":
    main(sys.argv[1:])
