"""The import floors and the one door per library hold."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LINT), "--no-cache", "--no-logo"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={"COLUMNS": "200"},
    )


def test_every_import_contract_is_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        ("graph/intruder.py", "from treadle.store import base", "Floors"),
        ("store/intruder.py", "from treadle.providers import base", "Floors"),
        ("objects/intruder.py", "from treadle import lifecycle", "Floors"),
        ("intruder.py", "", "Floors"),
        ("steps/intruder.py", "def f():\n    import networkx", "networkx"),
        ("service/intruder.py", "import apsw", "apsw"),
        ("definition/intruder.py", "from openai import AsyncOpenAI", "openai"),
    ],
)
def test_an_import_that_breaks_a_contract_is_found(
    tmp_path: Path, module: str, statement: str, broken: str
) -> None:
    """The contracts are checked against a copy in which one more file breaks one of them."""
    import shutil

    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "framework/treadle", tmp_path / "treadle", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "treadle" / module).write_text(statement + "\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout
    assert any("BROKEN" in line and broken in line for line in done.stdout.splitlines()), done.stdout
    assert "intruder" in done.stdout
