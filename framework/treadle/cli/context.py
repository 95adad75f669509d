"""How a command knows its project, its store and its settings.

The order is: flag, TREADLE_* of the environment, `.env` beside the project file, `treadle.yaml` (the nearest
parent folder's), default. `configure` applies it once and remembers where each value came from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import click

from treadle.settings import VARIABLES, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from treadle.objects.project import ProjectSpec

PROJECT_FILE = "treadle.yaml"
DEFAULT_STORE = "sqlite:///.treadle/treadle.db"
ENDPOINT = {"OPENAI_BASE_URL": "base_url", "OPENAI_API_KEY": "api_key"}
"""The variables that make a connection where the project file has none, and its fields."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the options say that every command takes; None where they say nothing."""

    store: str | None = None
    tenant: str | None = None
    project: str | None = None
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a command works with, and where it came from.

    Shapes: `root` is the folder of the project file, else the working folder; `environ` is `.env` with the
    process's environment on top; `origins` maps project, store, tenant, durability, model, lease_s and api_key to a
    flag, a variable, `.env`, a file or `default`, and the names of the variables of `ENDPOINT` to themselves or `.env`.
    """

    root: Path
    file: Path | None
    project: ProjectSpec | None
    environ: Mapping[str, str] = field(repr=False)
    store: str
    tenant: str
    durability: Literal["full", "normal"]
    model: str | None
    lease_s: float
    api_key: str | None = field(repr=False)
    origins: Mapping[str, str]

    @property
    def settings(self) -> Settings:
        """Give the same values as the record that the composition root takes."""
        return Settings(
            store=self.store,
            tenant=self.tenant,
            durability=self.durability,
            model=self.model,
            lease_s=self.lease_s,
            api_key=self.api_key,
        )


def project_file(invocation: Invocation) -> Path | None:
    """Give the project file of the folder that `--project` names, else the nearest one from here upwards."""
    from pathlib import Path

    from treadle.definition.load import find_project

    if invocation.project is None:
        return find_project(Path.cwd())
    named = Path(invocation.project).resolve() / PROJECT_FILE
    return named if named.is_file() else None


def configure(invocation: Invocation, *, environ: Mapping[str, str] | None = None) -> Configuration:
    """Work out the configuration of a command.

    Errors: DefinitionError for a project file with problems; ConfigurationError for a variable's bad value.
    """
    from pathlib import Path

    file = project_file(invocation)
    project = _read_project(file) if file else None
    root = file.parent if file else Path(invocation.project or ".").resolve()

    process = dict(os.environ if environ is None else environ)
    dotenv = _read_dotenv(root)
    merged = {**dotenv, **{name: value for name, value in process.items() if value or name not in dotenv}}
    settings = Settings.from_environment(merged)

    def origin(variable: str, otherwise: str = "default") -> str:
        if process.get(variable):
            return variable
        return ".env" if dotenv.get(variable) else otherwise

    origins = {name.removeprefix("TREADLE_").lower(): origin(name) for name in VARIABLES}
    store = settings.store
    origins |= {name: origin(name) for name in ENDPOINT if merged.get(name)}
    origins["project"] = "--project" if invocation.project else "nearest parent" if file else "default"
    if store is None:
        declared = project is not None and "store" in project.model_fields_set
        store = anchored(project.store if project else DEFAULT_STORE, root)
        origins["store"] = PROJECT_FILE if declared else "default"
    elif origins["store"] == ".env":
        store = anchored(store, root)
    if invocation.store is not None:
        store, origins["store"] = invocation.store, "--store"
    tenant = settings.tenant
    if invocation.tenant is not None:
        tenant, origins["tenant"] = invocation.tenant, "--tenant"
    return Configuration(
        root=root,
        file=file,
        project=project,
        environ=merged,
        store=store,
        tenant=tenant,
        durability=settings.durability,
        model=settings.model,
        lease_s=settings.lease_s,
        api_key=settings.api_key,
        origins=origins,
    )


def anchored(url: str, root: Path) -> str:
    """Give a store's URL with a relative SQLite path made absolute: what a project file names is beside it."""
    prefix = "sqlite:///"
    path = url.removeprefix(prefix)
    if path == url or path.startswith("/"):
        return url
    return f"{prefix}{root / path}"


def file_of(url: str) -> Path | None:
    """Give the file of a store's URL or path; None for a store that is no file."""
    from pathlib import Path

    scheme, found, rest = url.partition("://")
    if not found:
        return Path(url)
    if scheme != "sqlite" or ":memory:" in rest:
        return None
    return Path(rest.removeprefix("/")).expanduser()


def _read_project(file: Path) -> ProjectSpec:
    from treadle.definition.load import load_project

    return load_project(file)[0]


def _read_dotenv(root: Path) -> Mapping[str, str]:
    if not (root / ".env").is_file():
        return {}
    from treadle.definition.references import read_dotenv

    return read_dotenv(root)


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if context.obj is None:
        context.obj = Invocation()
    if value is not None and value is not False:
        context.obj = replace(context.obj, **{str(parameter.name): value})


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """Make the options that stand before or after the name of a command."""

    def option(*names: str, **more: Any) -> click.Option:
        return click.Option(names, callback=_keep, expose_value=False, hidden=hidden, **more)

    folder = click.Path(exists=True, file_okay=False)
    return [
        option("--store", metavar="URL", help="Where everything is kept: sqlite:///PATH or a path."),
        option("--tenant", metavar="NAME", help="Whose objects; 'default' where nothing is said."),
        option(
            "--project",
            type=folder,
            metavar="DIR",
            help="The folder of treadle.yaml; else the nearest parent's.",
        ),
        option("-q", "--quiet", is_flag=True, help="Only data and errors."),
        option("-v", "--verbose", is_flag=True, help="More about what happens, on stderr."),
    ]


class Command(click.Command):
    """A command that also takes the global options, after its name."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Take what click's own command takes."""
        super().__init__(*args, **more)
        self.params.extend(global_options(hidden=True))
        self.epilog = self.epilog or "Options of every command: treadle --help"


class Group(click.Group):
    """A command of commands, each of which takes the global options."""

    command_class = Command


def command(*, name: str | None = None, **more: Any) -> Callable[[Callable[..., int | None]], Command]:
    """Make a command of a function: it gives an exit code, or None for 0."""
    return click.command(name, cls=Command, **more)
