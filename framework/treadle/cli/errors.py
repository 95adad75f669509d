"""Say what went wrong, once for all commands: `error[TRnnn]: what`, then the way out."""

from __future__ import annotations

import os
import sys

import click

from treadle.cli import exit as codes
from treadle.cli.output import complain, style, wants_color
from treadle.errors import DefinitionError, TreadleError

USAGE_CODE = "TR070"
"""The command line is wrong."""

CRASH_CODE = "TR000"
"""Treadle itself broke."""


def debugging() -> bool:
    """Tell whether TREADLE_DEBUG asks for stack traces."""
    return os.environ.get("TREADLE_DEBUG", "") not in ("", "0")


def render(code: str, message: str, *, hint: str | None = None) -> None:
    """Write one error to stderr, with its hint indented below it."""
    head = style(f"error[{code}]", "red", "bold", stream=sys.stderr)
    complain(f"{head}: {message}")
    for line in (hint or "").splitlines():
        complain(f"  {line}")


def report(error: TreadleError) -> int:
    """Write an error to stderr and give its exit code."""
    if isinstance(error, DefinitionError) and error.problems:
        _report_problems(error)
    else:
        render(error.error_code, error.message, hint=error.hint)
    return codes.of_error(error)


def report_usage(error: click.ClickException) -> int:
    """Write a mistake on the command line to stderr and give its exit code."""
    message, *more = error.format_message().splitlines()
    message = " ".join([message, *(line.strip() for line in more)]).rstrip(".")
    hint = None
    if isinstance(error, click.UsageError) and error.ctx is not None:
        usage = error.ctx.command.get_usage(error.ctx).removeprefix("Usage: ")
        hint = f"usage: {usage}\nsee:   {error.ctx.command_path} --help"
    render(USAGE_CODE, message, hint=hint)
    return codes.USAGE


def report_crash(error: Exception) -> int:
    """Write a defect of treadle to stderr and give its exit code; the trace stays behind TREADLE_DEBUG."""
    render(
        CRASH_CODE,
        f"treadle broke: {type(error).__name__}: {error}",
        hint="this is a defect; TREADLE_DEBUG=1 shows where it happened",
    )
    return codes.FAILED


def _report_problems(error: DefinitionError) -> None:
    from pathlib import Path

    from treadle.definition.load import read
    from treadle.definition.report import render as render_problems

    files = dict.fromkeys(problem.file for problem in error.problems if problem.file)
    sources = {file: read(Path(file)) for file in files if Path(file).is_file()}
    complain(render_problems(error.problems, sources, color=wants_color(sys.stderr)))
