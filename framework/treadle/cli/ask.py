"""Ask a person for a line."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

from treadle.cli.output import complain

if TYPE_CHECKING:
    from treadle.cli.signals import Signals


def ask(prompt: str, *, signals: Signals, begin_with: str = "") -> str | None:
    """Ask a person for a line, with line editing; None at the end of input.

    Shapes: `begin_with` is what the line has already, where it can be edited.

    Errors: KeyboardInterrupt, Terminated.
    """
    readline: Any = None
    with contextlib.suppress(ImportError):
        readline = importlib.import_module("readline")  # Also for what it does to input().
    if readline is not None and begin_with:
        readline.set_startup_hook(lambda: readline.insert_text(begin_with))
    try:
        with signals.asking():
            if sys.stdout.isatty():
                return input(prompt)
            sys.stderr.write(prompt)
            sys.stderr.flush()
            return input()
    except EOFError:
        complain("")
        return None
    finally:
        if readline is not None:
            readline.set_startup_hook(None)
