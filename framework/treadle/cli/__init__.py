"""The command line: a group that knows its commands by one line each and loads one when it is named.

`treadle --help` and shell completion read the table below; they import no command, and nothing of what the
commands need.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, cast

import click

import treadle
from treadle import registry
from treadle.cli import exit as codes
from treadle.cli.context import Invocation, global_options
from treadle.errors import TreadleError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NAME = "treadle"
COMPLETION_VARIABLE = "_TREADLE_COMPLETE"

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("treadle.cli.init:init", "Make a project that runs at once."),
    "validate": ("treadle.cli.validate:validate", "Find every problem of every file."),
    "test": ("treadle.cli.test:test", "Run the tests that documents bring along."),
    "run": ("treadle.cli.run:run", "Run an agent or a workflow and show every step."),
    "chat": ("treadle.cli.chat:chat", "Talk with an agent on one thread."),
    "graph": ("treadle.cli.graph:graph", "Draw an agent, a workflow, or what a run did."),
    "agents": ("treadle.cli.agents:agents", "List, show, apply and delete agents."),
    "workflows": ("treadle.cli.workflows:workflows", "List, show, apply, compare and delete workflows."),
    "threads": ("treadle.cli.threads:threads", "List, show, export, import and delete threads."),
    "runs": ("treadle.cli.runs:runs", "List, show, tail, answer, resume, fork and cancel runs."),
    "serve": ("treadle.cli.serve:serve", "Serve agents, workflows, threads and runs over HTTP."),
    "keys": ("treadle.cli.keys:keys", "Create, list and revoke the keys of the server."),
    "sdk": ("treadle.cli.sdk:sdk", "Check what client libraries get from a server, call by call."),
    "files": ("treadle.cli.files:files", "List, show, add, get and delete files."),
    "vector-stores": ("treadle.cli.vector_stores:vector_stores", "List, show and delete vector stores."),
    "db": ("treadle.cli.db:db", "Check the store against every promise; upgrade its schema."),
    "schema": ("treadle.cli.schema:schema", "Print the JSON Schema of a kind of document."),
    "config": ("treadle.cli.config:config", "Show the configuration and where it comes from."),
    "doctor": ("treadle.cli.doctor:doctor", "Check this machine and this project; say what to fix."),
    "completion": ("treadle.cli.completion:completion", "Print the completion script of a shell."),
}
"""Name to import string and help line, in the order of `treadle --help`; a new command is one line here."""


class LazyGroup(click.Group):
    """A group that imports a command when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None for a name that is not in the table."""
        entry = COMMANDS.get(cmd_name)
        return cast("click.Command", registry.load(entry[0])) if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name.

        Errors: UsageError with the nearest name for one that is not in the table.
        """
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        ending = f"; did you mean '{near[0]}'?" if near else ""
        raise click.UsageError(f"there is no command '{name}'{ending}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's help lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name or a global option."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=line)
            for name, (_, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


@click.pass_context
def _enter(context: click.Context) -> None:
    if context.obj is None:
        context.obj = Invocation()


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click calls it
    if asked:
        click.echo(f"{NAME} {treadle.__version__}")
        context.exit()


group = LazyGroup(
    NAME,
    callback=_enter,
    params=[
        *global_options(hidden=False),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Print the version.",
        ),
    ],
    help="Durable agents, threads and runs on your own machine.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 bad document or configuration, 4 model endpoint, "
    "5 the run waits for you, 6 not found, 7 expired or at a limit, 130 interrupted, 143 terminated.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    sys.exit(invoke(arguments))


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; every error has been said by then."""
    from treadle.cli import errors

    try:
        result = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except click.exceptions.Exit as e:
        return e.exit_code
    except BrokenPipeError:
        _abandon_stdout()
        return codes.BROKEN_PIPE
    except (click.Abort, KeyboardInterrupt, EOFError):
        click.echo(err=True)
        return codes.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message(), err=True)
        return codes.USAGE
    except click.ClickException as e:
        return errors.report_usage(e)
    except TreadleError as e:
        if errors.debugging():
            raise
        return errors.report(e)
    except Exception as e:
        if errors.debugging():
            raise
        return errors.report_crash(e)
    return result if isinstance(result, int) else codes.OK


def _run(arguments: list[str]) -> object:
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, NAME, COMPLETION_VARIABLE, instruction)
    with group.make_context(NAME, arguments) as context:
        return group.invoke(context)


def _abandon_stdout() -> None:
    # Hazard: the interpreter flushes stdout once more at exit, and would complain about the same pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
