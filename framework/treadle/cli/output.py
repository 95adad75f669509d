"""Where the command line writes: data on stdout, everything else on stderr.

Color and width follow NO_COLOR, FORCE_COLOR, TERM and COLUMNS, and are asked for here alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

_CODES = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "bold": 1, "dim": 2}


def wants_color(stream: TextIO, *, environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether to color what goes to a stream.

    NO_COLOR says no, FORCE_COLOR says yes, TERM=dumb says no, in that order; else a terminal is colored.
    """
    env = os.environ if environ is None else environ
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    if env.get("TERM") == "dumb":
        return False
    return stream.isatty()


def width(*, environ: Mapping[str, str] | None = None) -> int:
    """Give the number of columns to write in: COLUMNS, else the terminal's, else 100."""
    columns = (os.environ if environ is None else environ).get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def room() -> int:
    """Give the number of columns for what is written to stdout: no bound where that is not a terminal."""
    return width() if sys.stdout.isatty() else sys.maxsize


def style(text: str, *styles: str, stream: TextIO) -> str:
    """Give the text in color where the stream takes color, else as it is.

    Shapes: `styles` are red, green, yellow, blue, magenta, cyan, bold, dim.
    """
    if not styles or not wants_color(stream):
        return text
    return f"\x1b[{';'.join(str(_CODES[s]) for s in styles)}m{text}\x1b[0m"


def data(text: str, *, end: str = "\n") -> None:
    """Write what was asked for, to stdout."""
    click.echo(text + end, nl=False, color=True)


def data_json(value: object) -> None:
    """Write one JSON document to stdout."""
    import json

    data(json.dumps(value, ensure_ascii=False, indent=2))


def note(text: str, *styles: str) -> None:
    """Write something about the data, to stderr; `-q` silences it."""
    if not is_quiet():
        click.echo(style(text, *styles, stream=sys.stderr), err=True, color=True)


def detail(text: str) -> None:
    """Write what only `-v` asks for, to stderr."""
    if _flag("verbose"):
        click.echo(style(text, "dim", stream=sys.stderr), err=True, color=True)


def complain(text: str, *styles: str) -> None:
    """Write an error or a warning to stderr, whatever `-q` says."""
    click.echo(style(text, *styles, stream=sys.stderr), err=True, color=True)


def can_ask() -> bool:
    """Tell whether a person is there to answer: stdin and stderr are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def console(stream: TextIO) -> Console:
    """Give a rich console for live lines and tables, with our rules for color and width."""
    from rich.console import Console

    color = wants_color(stream)
    return Console(
        file=stream,
        force_terminal=True if color and stream.isatty() else None,
        no_color=not color,
        width=width(),
        highlight=False,
        markup=False,
    )


def is_quiet() -> bool:
    """Tell whether -q asks for data and errors alone."""
    return _flag("quiet")


def _flag(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return bool(context is not None and getattr(context.obj, name, False))
