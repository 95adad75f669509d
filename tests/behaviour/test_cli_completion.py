"""Completion: the scripts are ones that the shells accept, and they complete commands, options and choices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.cli import invoke

Captured = pytest.CaptureFixture[str]
BIN = Path(sys.executable).parent


def completed(words: str, *, position: int) -> list[str]:
    environ = os.environ | {
        "_TREADLE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(position),
    }
    done = subprocess.run(
        [sys.executable, "-m", "treadle"], capture_output=True, text=True, check=False, env=environ
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str, capsys: Captured) -> None:
    assert invoke(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert f"_TREADLE_COMPLETE={shell}_complete" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_its_script(shell: str, capsys: Captured) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert invoke(["completion", shell]) == 0
    script = capsys.readouterr().out
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command_with_the_script() -> None:
    script = (
        'eval "$(treadle completion bash)"\n'
        "COMP_WORDS=(treadle va) COMP_CWORD=1\n"
        "_treadle_completion treadle\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    environ = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environ)
    assert done.stdout.strip() == "validate", done.stderr


def test_commands_options_and_choices_are_completed() -> None:
    assert completed("treadle co", position=1) == ["config", "completion"]
    assert completed("treadle --ten", position=1) == ["--tenant"]
    assert completed("treadle validate --res", position=2) == ["--resolve"]
    assert completed("treadle completion z", position=2) == ["zsh"]
    assert completed("treadle config ", position=2) == ["show"]


def test_another_shell_is_refused_with_the_known_ones(capsys: Captured) -> None:
    assert invoke(["completion", "tcsh"]) == 2
    err = capsys.readouterr().err
    assert all(shell in err for shell in ("bash", "zsh", "fish"))
