"""`treadle init`: a project that is sound, runs its own tests, and overwrites nothing."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from treadle.cli import invoke
from treadle.cli.init import TEMPLATES

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]

TRANSCRIPT = """\
Created weather/
  treadle.yaml                 project settings (SQLite at .treadle/treadle.db)
  agents/weather.agent.yaml    one agent, two tools
  tools.py                     get_weather, to_fahrenheit: plain typed functions
  tests/test_weather.py        runs without a model
Next:  treadle run weather "What's the weather in Paris, in Fahrenheit?"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_in(folder: Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def test_init_says_what_it_made_and_what_to_do_next(capsys: Captured) -> None:
    assert invoke(["init", "weather"]) == 0
    assert capsys.readouterr() == (TRANSCRIPT, "")


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_a_new_project_has_the_listed_files_and_no_problem(
    template: str, folder: Path, capsys: Captured
) -> None:
    assert invoke(["init", "made", "--template", template]) == 0
    visible = {name for name in files_in(folder / "made") if not name.startswith(".treadle/")}
    assert visible == set(TEMPLATES[template].files)
    capsys.readouterr()
    assert invoke(["validate", "made", "--resolve"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "no problems" in err


def test_the_tests_of_a_new_project_pass(folder: Path) -> None:
    assert invoke(["init", "weather"]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder / "weather",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_every_document_names_a_schema_that_is_there_and_that_it_fits(folder: Path) -> None:
    assert invoke(["init", "weather"]) == 0
    for document in (folder / "weather").rglob("*.yaml"):
        first, _, _ = document.read_text().partition("\n")
        path = document.parent / first.removeprefix("# yaml-language-server: $schema=")
        jsonschema.validate(yaml.safe_load(document.read_text()), json.loads(path.read_text()))


def test_the_folder_of_the_store_is_kept_out_of_git(folder: Path) -> None:
    assert invoke(["init", "weather"]) == 0
    assert (folder / "weather/.treadle/.gitignore").read_text() == "*\n"


def test_the_project_is_called_as_its_folder(folder: Path) -> None:
    assert invoke(["init", "my-shop"]) == 0
    assert yaml.safe_load((folder / "my-shop/treadle.yaml").read_text())["name"] == "my-shop"


@pytest.mark.parametrize("name", ["no", "null", "12", "a b", "ä"])
def test_a_folder_with_an_odd_name_still_gives_a_sound_project(
    name: str, folder: Path, capsys: Captured
) -> None:
    assert invoke(["init", name]) == 0
    assert invoke(["validate", name]) == 0
    capsys.readouterr()


def test_without_a_folder_the_project_is_made_here(folder: Path, capsys: Captured) -> None:
    assert invoke(["init"]) == 0
    assert (folder / "agents/weather.agent.yaml").is_file()
    assert capsys.readouterr().out.startswith("Created the project here\n")


def test_nothing_that_exists_is_overwritten_and_nothing_is_written_beside_it(
    folder: Path, capsys: Captured
) -> None:
    (folder / "shop").mkdir()
    (folder / "shop/tools.py").write_text("mine = True\n")
    assert invoke(["init", "shop"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "shop/ already has tools.py; nothing was written" in err
    assert files_in(folder / "shop") == {"tools.py"}
    assert (folder / "shop/tools.py").read_text() == "mine = True\n"


def test_other_files_are_left_alone(folder: Path) -> None:
    (folder / "shop").mkdir()
    (folder / "shop/README.md").write_text("mine\n")
    assert invoke(["init", "shop"]) == 0
    assert (folder / "shop/README.md").read_text() == "mine\n"


def test_the_weather_template_is_the_first_example() -> None:
    """They differ in their first line, which names the schema from where the file lies, and in their folders."""
    example, template = ROOT / "examples/01-weather", ROOT / "framework/treadle/cli/templates/weather"
    assert (example / "tools.py").read_text() == (template / "tools.py").read_text()
    ours, theirs = (
        (template / "agents/weather.agent.yaml").read_text(),
        (example / "weather.agent.yaml").read_text(),
    )
    assert ours.partition("\n")[2] == theirs.partition("\n")[2]
