"""`treadle config`: what a command would work with, and where each value comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from treadle.cli.context import PROJECT_FILE, Configuration, Group, Invocation, configure
from treadle.cli.output import data, data_json

HIDDEN = "***"


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
    """Give name, value and origin of every setting; literal secrets are hidden, references shown as written."""
    yield "project", str(configuration.file) if configuration.file else None, configuration.origins["project"]
    for name in ("store", "tenant", "durability", "model", "lease_s"):
        yield name, getattr(configuration, name), configuration.origins[name]
    yield "api_key", HIDDEN if configuration.api_key else None, configuration.origins["api_key"]
    project = configuration.project
    if project is not None:
        written = project.model_dump(mode="json", by_alias=True, exclude_unset=True)
        for key in ("version", "kind", "store"):
            written.pop(key, None)
        for name, value in _leaves(written, ""):
            yield name, _masked(name, value), PROJECT_FILE
    if project is None or "default" not in project.connections:
        for variable, field in (("OPENAI_BASE_URL", "base_url"), ("OPENAI_API_KEY", "api_key")):
            if configuration.environ.get(variable):
                shown = f"${{env:{variable}}}" if field == "api_key" else configuration.environ[variable]
                yield f"connections.default.{field}", shown, variable


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, below in value.items():  # pyright: ignore[reportUnknownVariableType] - JSON of a record
        yield from _leaves(below, f"{path}.{key}" if path else str(key))  # pyright: ignore[reportUnknownArgumentType] - JSON of a record


def _masked(name: str, value: Any) -> Any:
    is_secret = name.endswith(".api_key") or ".headers." in name
    return HIDDEN if is_secret and "${" not in str(value) else value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "-"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON of a record
    return "-" if value is None else str(value)
