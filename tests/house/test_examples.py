"""Every numbered example runs offline, as its README says, and gives its transcript.

A transcript is the README's console block with what each command writes, stdout and stderr together, and its exit
code where it is not 0. Ids and times are replaced, and whoever decides is called `you`. A command that ends in `&` is a
server: it goes on beside the others once it has said where it serves, and is told to stop in the end.
`python tests/house/test_examples.py` writes them anew.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(folder for folder in EXAMPLES.iterdir() if re.match(r"\d\d-", folder.name))
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"treadle": [sys.executable, "-m", "treadle"], "python": [sys.executable]}
FOREIGN = ("TREADLE_", "OPENAI_", "AZURE_OPENAI_", "COV")
TERMINAL = ("COLUMNS", "FORCE_COLOR", "NO_COLOR")


def commands(folder: Path) -> list[str]:
    """Give the commands of an example's README."""
    block = BLOCK.search((folder / "README.md").read_text(encoding="utf-8"))
    assert block is not None, f"{folder.name}/README.md has a console block"
    return [line.removeprefix("$ ") for line in block[1].splitlines() if line.startswith("$ ")]


def transcript(folder: Path, place: Path) -> str:
    """Run an example in a place of its own, as from the top of the repository, and give what is seen."""
    shutil.copytree(EXAMPLES, place / "examples", ignore=shutil.ignore_patterns(".treadle", "__pycache__"))
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and name not in TERMINAL
    }
    seen = ""
    servers: list[subprocess.Popen[str]] = []
    try:
        for command in commands(folder):
            program, *arguments = shlex.split(command.removesuffix("&"))
            begun = subprocess.Popen(
                [*PROGRAMS[program], *arguments],
                cwd=place,
                env=environ | {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "LOGNAME": "you"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
            said = begun.stdout
            assert said is not None
            if command.endswith("&"):
                servers.append(begun)
                written = ""
                for line in said:
                    written += line
                    if line.startswith("Ctrl-C"):
                        break
            else:
                written = begun.communicate()[0]
            seen += f"$ {command}\n{normal(written).replace(str(place), 'PLACE')}"
            if begun.returncode:
                seen += f"[exit code {begun.returncode}]\n"
    finally:
        for server in servers:
            server.terminate()
            server.communicate()
    return seen


def normal(text: str) -> str:
    """Replace ids and times; a time keeps its column."""
    text = re.sub(r"\b(thread|run|asst|wf|msg|step)_[0-9A-Za-z]{24}\b", r"\1_…", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "DATE TIME", text)
    text = re.sub(r"\b(steps? ·|completed ·|passed in) (\d+ ms|\d+\.\d s)\b", r"\1 N ms", text)
    text = re.sub(r"^(passed .*)  (\d+ ms|\d+\.\d s)$", r"\1  N ms", text, flags=re.MULTILINE)
    text = re.sub(r"(\d+) ms   |(\d+\.\d) s   ", lambda m: "N ms   ".rjust(len(m[0])), text)
    text = re.sub(r" *\b(\d+ ms|\d+\.\d s)$", lambda m: "N ms".rjust(len(m[0])), text, flags=re.MULTILINE)
    return re.sub(r"\b(in|after) (\d+ ms|\d+\.\d s)\b", r"\1 N ms", text)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_gives_its_transcript(folder: Path, tmp_path: Path) -> None:
    expected = (folder / "transcript.txt").read_text(encoding="utf-8")
    assert transcript(folder, tmp_path) == expected


def test_the_examples_are_numbered_without_a_gap() -> None:
    assert [int(folder.name[:2]) for folder in FOLDERS] == list(range(1, len(FOLDERS) + 1))


if __name__ == "__main__":
    for example in FOLDERS:
        with tempfile.TemporaryDirectory() as temporary:
            (example / "transcript.txt").write_text(transcript(example, Path(temporary)), encoding="utf-8")
