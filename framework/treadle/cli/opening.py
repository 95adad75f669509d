"""Open treadle for a command: the project of the file that is named, and what the command line says of a run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from treadle.cli.context import PROJECT_FILE, Configuration, Invocation, configure, project_file

if TYPE_CHECKING:
    from treadle.objects.agent import AgentSpec, InputSpec
    from treadle.objects.workflow import WorkflowSpec
    from treadle.service import Treadle

ENDINGS = (".yaml", ".yml")

OPTIONS = (
    "temperature",
    "top_p",
    "reasoning_effort",
    "parallel_tool_calls",
    "tool_choice",
    "max_prompt_tokens",
    "max_completion_tokens",
)
"""What `--option` may set for one run."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command works with: its configuration, and how to write a command that finds the same store."""

    configuration: Configuration
    options: str
    folder: str = ""
    """The option that names the project, where its store is not found from here without it."""
    base_url: str | None = None

    def treadle(self, *, store: str | None = None, walk: bool = False) -> Treadle:
        """Open the store and the project; `store` replaces the configured one, with `walk` every run is walked."""
        import gc

        from treadle.objects.project import Project
        from treadle.service import Treadle

        configuration = self.configuration
        spec, root = configuration.project, configuration.root
        treadle = Treadle(
            store,
            settings=configuration.settings,
            project=root if spec is None else Project(spec, root),
            base_url=self.base_url,
            walk=walk,
        )
        # What was imported stays for good: nothing that runs from here on has it looked through again.
        gc.freeze()
        gc.enable()
        return treadle

    def command(self, rest: str) -> str:
        """Give a treadle command for a hint."""
        return f"treadle {rest}{self.options}{self.folder}"

    def command_on(self, command: str, agent: str) -> str:
        """Give a treadle command on an agent for a hint; a file leads to its own project."""
        return f"treadle {command} {shlex.quote(agent)}{self.options}{'' if is_file(agent) else self.folder}"


def is_file(target: str) -> bool:
    """Tell whether a person means a file, and not a name in the project."""
    path = Path(target.partition("#")[0])
    return path.suffix in ENDINGS or len(path.parts) > 1 or path.is_file()


def opened(invocation: Invocation, target: str | None = None, *, base_url: str | None = None) -> Opened:
    """Work out the configuration of a command; a file's own project is the one that counts for it.

    Errors: those of `configure`.
    """
    here = project_file(invocation)
    there = here
    if invocation.project is None and target is not None and is_file(target):
        from treadle.definition.load import find_project

        there = find_project(Path(target.partition("#")[0]).resolve().parent) or here
    if there is not None and there != here:
        configuration = configure(replace(invocation, project=str(there.parent)))
    else:
        configuration = configure(invocation)
    is_elsewhere = configuration.file != here and configuration.origins["store"] in ("default", PROJECT_FILE)
    return Opened(
        configuration,
        _repeated(
            {"--store": invocation.store, "--tenant": invocation.tenant, "--project": invocation.project}
        ),
        _repeated({"--project": _near(configuration.root)}) if is_elsewhere else "",
        base_url,
    )


def _repeated(given: Mapping[str, str | None]) -> str:
    """Give options as they are written behind a command."""
    return "".join(f" {name} {shlex.quote(value)}" for name, value in given.items() if value is not None)


def _near(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def message_text(text: str | None) -> str | None:
    """Give what is said to the agent: the argument, or what is piped in; None where there is neither.

    Errors: UsageError for bytes that are no text.
    """
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        return None
    try:
        return sys.stdin.read().removesuffix("\n") or None
    except UnicodeDecodeError as e:
        raise click.UsageError(f"what is piped in is not text: {e}") from e


def pairs(values: Sequence[str], option: str) -> list[tuple[str, str]]:
    """Split ``name=value`` texts.

    Errors: BadParameter for one without a name or an equals sign.
    """
    found: list[tuple[str, str]] = []
    for value in values:
        name, equals, rest = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"'{value}' is not name=value", param_hint=option)
        found.append((name.strip(), rest))
    return found


def read_value(text: str) -> str:
    """Give a value as it is written, ``@file`` as the file's content, ``@@…`` as text that begins with @.

    Errors: BadParameter for a file that cannot be read.
    """
    if text.startswith("@@"):
        return text[1:]
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise click.BadParameter(f"{text[1:]} cannot be read: {e}") from e


def read_inputs(spec: AgentSpec | WorkflowSpec, given: Sequence[str]) -> dict[str, Any]:
    """Give the inputs of a run from ``name=value`` texts, each read by its declared type.

    Errors: BadParameter; what does not fit is told as a mistake on the command line.
    """
    from treadle.engine.plan import check_inputs
    from treadle.errors import StateError

    values: dict[str, Any] = {}
    for name, text in pairs(given, "-i"):
        values[name] = typed(read_value(text), spec.inputs.get(name))
    try:
        return check_inputs(spec.inputs, values, of=f"the {spec.kind}")
    except StateError as e:
        raise click.UsageError(f"{e.message}; {e.hint}" if e.hint else e.message) from e


def typed(text: str, declared: InputSpec | None) -> Any:
    """Read a value by its declared type: text stays text where a string may stand, all else is JSON."""
    schema: Mapping[str, Any] = declared.json_schema if declared is not None else {}
    kind = schema.get("type")
    kinds = cast("list[Any]", kind) if isinstance(kind, list) else [kind]
    if "string" in kinds or text in schema.get("enum", ()):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def read_options(given: Sequence[str]) -> dict[str, Any]:
    """Give what ``--option name=value`` changes for one run.

    Errors: BadParameter for a name that no run can change.
    """
    found: dict[str, Any] = {}
    for name, text in pairs(given, "--option"):
        if name not in OPTIONS:
            raise click.BadParameter(
                f"a run has no '{name}'; it has {', '.join(OPTIONS)}", param_hint="--option"
            )
        found[name] = text if name in ("tool_choice", "reasoning_effort") else typed(text, None)
    return found


def offered(spec: AgentSpec, names: Sequence[str]) -> tuple[Any, ...] | None:
    """Give the agent's tools of these names; None where none is named.

    Errors: BadParameter for a tool that the agent does not have.
    """
    if not names:
        return None
    unknown = [name for name in names if name not in spec.functions]
    if unknown:
        known = ", ".join(spec.functions) or "none"
        raise click.BadParameter(f"the agent has no tool '{unknown[0]}'; it has: {known}", param_hint="-T")
    return tuple(spec.functions[name] for name in dict.fromkeys(names))


def conversation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `run` and `chat` share."""
    for option in reversed(
        [
            click.option(
                "-i", "inputs", multiple=True, metavar="NAME=VALUE", help="An input; VALUE may be @FILE."
            ),
            click.option("-t", "thread", metavar="THREAD", help="Go on in this thread."),
            click.option("-c", "continues", is_flag=True, help="Go on in the newest thread."),
            click.option(
                "--on-busy",
                type=click.Choice(["reject", "queue"]),
                help="What to do while the thread has another run: give up, or wait in line.",
            ),
            click.option("-m", "model", metavar="MODEL", help="Another model than the agent's."),
            click.option("-s", "system", metavar="TEXT", help="Other instructions than the agent's."),
            click.option(
                "-T", "tools", multiple=True, metavar="NAME", help="Offer only this tool of the agent's."
            ),
            click.option(
                "--option", "options", multiple=True, metavar="NAME=VALUE", help="Such as temperature=0.2."
            ),
            click.option("--base-url", metavar="URL", help="The address of the default model endpoint."),
        ]
    ):
        command = option(command)
    return command


def walking(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that goes on with a run."""
    for option in (
        click.option("--base-url", metavar="URL", help="The address of the default model endpoint."),
        click.option("--detach", is_flag=True, help="Ctrl-C parks the run instead of cancelling it."),
    ):
        command = option(command)
    return command
