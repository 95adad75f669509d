"""`treadle config`: what a command would work with, and where each value comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from treadle.cli.context import ENDPOINT, PROJECT_FILE, Configuration, Group, Invocation, configure
from treadle.cli.errors import debugging
from treadle.cli.output import data, data_json

if TYPE_CHECKING:
    from treadle.objects.project import ProjectSpec

HIDDEN = "***"
_REFERENCE = re.compile(r"\$\{(?:env|secret|file):[^{}]*\}")
_DEFAULT_OF_REFERENCE = re.compile(r"^(\$\{env:[^:{}]*):.*\}$", re.DOTALL)
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]*)@")
_QUERY = re.compile(r"\?[^#]+")
_NO_SETTINGS = ("version", "kind", "store", "extensions")

KeyPath = tuple[str, ...]


@click.group(cls=Group)
def config() -> None:
    """Show the configuration and where it comes from."""


@config.command(name="show")
@click.option("--origin", is_flag=True, help="Also say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def show(invocation: Invocation, *, origin: bool, as_json: bool) -> None:
    """Show every setting: flag, then TREADLE_* variable, then .env, then treadle.yaml, then default."""
    rows = list(rows_of(configure(invocation)))
    if as_json:
        data_json(
            {name: {"value": value, "origin": where} if origin else value for name, value, where in rows}
        )
        return
    names = max(len(name) for name, _, _ in rows)
    values = max(len(_text(value)) for _, value, _ in rows)
    for name, value, where in rows:
        data((f"{name:<{names}}  {_text(value):<{values}}" + (f"  {where}" if origin else "")).rstrip())


def rows_of(configuration: Configuration) -> Iterator[tuple[str, Any, str]]:
    """Give name, value and origin of every setting.

    Shapes: secrets are hidden, references to them are shown as they are written; what the project file says has its line,
    and what it leaves out its default.
    """
    lines = _lines(configuration.file)
    yield "project", str(configuration.file) if configuration.file else None, configuration.origins["project"]
    for name in ("store", "tenant", "durability", "model", "lease_s"):
        origin = configuration.origins[name]
        value = getattr(configuration, name)
        yield (
            name,
            _without_password(value) if isinstance(value, str) else value,
            _at(lines, (name,)) if origin == PROJECT_FILE else origin,
        )
    yield "api_key", HIDDEN if configuration.api_key else None, configuration.origins["api_key"]
    yield "debug", debugging(), "TREADLE_DEBUG" if debugging() else "default"
    yield from _project_rows(configuration.project, lines)
    if configuration.project is None or "default" not in configuration.project.connections:
        for variable, name in ENDPOINT.items():
            value = configuration.environ.get(variable)
            if value:
                shown = f"${{env:{variable}}}" if name == "api_key" else _masked((name,), value)
                yield f"connections.default.{name}", shown, configuration.origins[variable]


def _project_rows(
    project: ProjectSpec | None, lines: Callable[[KeyPath], int | None]
) -> Iterator[tuple[str, Any, str]]:
    """Give what the project file says, and may say: connections and models only where it has some."""
    from treadle.objects.project import ProjectSpec

    spec = ProjectSpec() if project is None else project
    written = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    said = dict(_leaves(written, ()))
    every = spec.model_dump(mode="json", by_alias=True) | {
        key: written.get(key, {}) for key in ("connections", "models")
    }
    for path, value in _leaves({k: v for k, v in every.items() if k not in _NO_SETTINGS}, ()):
        yield ".".join(path), _masked(path, value), _at(lines, path) if path in said else "default"


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, below in cast("dict[str, Any]", value).items():
        yield from _leaves(below, (*path, key))


def _lines(file: Path | None) -> Callable[[KeyPath], int | None]:
    """Give a function that tells on which line of the project file a setting stands."""
    if file is None:
        return lambda _path: None
    from treadle.definition.composer import compose
    from treadle.definition.document import is_mapping
    from treadle.definition.load import read

    source = read(file)
    trees, _ = compose(source)
    # Invariant: the file was loaded before, so that one of its documents is the project.
    tree = next(t for t in trees if is_mapping(t.data) and t.data.get("kind") == "project")

    def line(path: KeyPath) -> int | None:
        place, found = tree.place, None
        for key in path:
            if key not in place.children:
                break
            found = place.keys[key][0] if key in place.keys else found
            place = place.children[key]
        return None if found is None else source.position(found)[0]

    return line


def _at(lines: Callable[[KeyPath], int | None], path: KeyPath) -> str:
    line = lines(path)
    return PROJECT_FILE if line is None else f"{PROJECT_FILE}:{line}"


def _masked(path: KeyPath, value: Any) -> Any:
    """Give a value without what nobody should read over a shoulder."""
    if not isinstance(value, str):
        return value
    if path[-1] == "api_key" or "headers" in path:
        return _references_alone(value)
    return _without_query(_without_password(value)) if path[-1] == "base_url" else value


def _references_alone(text: str) -> str:
    """Give a text with its references, and everything beside them hidden: a default of one as well."""
    parts: list[str] = []
    at = 0
    for found in _REFERENCE.finditer(text):
        parts += [
            HIDDEN if text[at : found.start()] else "",
            _DEFAULT_OF_REFERENCE.sub(rf"\1:{HIDDEN}}}", found[0]),
        ]
        at = found.end()
    parts.append(HIDDEN if text[at:] else "")
    return "".join(parts)


def _without_password(url: str) -> str:
    return _PASSWORD.sub(rf"\1:{HIDDEN}@", url)


def _without_query(url: str) -> str:
    return _QUERY.sub(f"?{HIDDEN}", url)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in cast("list[Any]", value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
