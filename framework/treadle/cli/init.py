"""`treadle init`: a project that runs at once."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from treadle.cli.context import command
from treadle.cli.output import data


@dataclass(frozen=True, slots=True)
class Template:
    """A project to copy: what each file is, in the order they are listed, and what to run first."""

    files: dict[str, str]
    first: str


TEMPLATES = {
    "weather": Template(
        files={
            "treadle.yaml": "project settings (SQLite at .treadle/treadle.db)",
            "agents/weather.agent.yaml": "one agent, two tools",
            "tools.py": "get_weather, to_fahrenheit: plain typed functions",
            "tests/test_weather.py": "runs without a model",
        },
        first='treadle run weather "What\'s the weather in Paris, in Fahrenheit?"',
    ),
    "minimal": Template(
        files={
            "treadle.yaml": "project settings (SQLite at .treadle/treadle.db)",
            "agents/assistant.agent.yaml": "one agent, no tools",
        },
        first='treadle run assistant "Hello"',
    ),
}

_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_YAML_WORDS = {"true", "false", "null"}


@command(name="init")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False))
@click.option("--template", type=click.Choice(sorted(TEMPLATES)), default="weather", show_default=True)
def init(folder: str, template: str) -> None:
    """Make a project in DIR (default: here). Nothing that exists is overwritten."""
    root = Path(folder)
    chosen = TEMPLATES[template]
    taken = [name for name in chosen.files if (root / name).exists()]
    if taken:
        raise click.UsageError(f"{_shown(root)} already has {', '.join(taken)}; nothing was written")
    source = files("treadle.cli").joinpath("templates", template)
    for name in chosen.files:
        _write(root / name, _fitted(source.joinpath(*name.split("/")), template, root))
    _write_schemas(root)
    data(f"Created {_shown(root)}")
    for name, what in chosen.files.items():
        data(f"  {name:<28} {what}")
    data(f"Next:  {chosen.first}")


def _shown(root: Path) -> str:
    return f"{root}/" if str(root) != "." else "the project here"


def _fitted(source: Traversable, template: str, root: Path) -> str:
    """Give a template's text; the project file gets the folder's name where that is a plain word."""
    text = source.read_text(encoding="utf-8")
    name = root.resolve().name
    if source.name == "treadle.yaml" and _PLAIN_NAME.fullmatch(name) and name.lower() not in _YAML_WORDS:
        return text.replace(f"\nname: {template}\n", f"\nname: {name}\n")
    return text


def _write_schemas(root: Path) -> None:
    """Put what the first line of each document names beside the store, for editors; it is not for git."""
    from treadle.definition.schema import schema

    folder = root / ".treadle"
    folder.mkdir(mode=0o700, exist_ok=True)
    _write(folder / ".gitignore", "*\n")
    for kind in ("agent", "project"):
        _write(folder / "schemas" / f"{kind}-1.schema.json", json.dumps(schema(kind), indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
