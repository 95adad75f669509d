"""``python -m treadle`` and the console script: both are the command line."""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line and exit with its code.

    Garbage is not collected while a command is imported: what imports make is there to stay. Commands that run
    on turn the collection on again when they have opened what they need.
    """
    gc.disable()
    from treadle.cli import main as cli_main

    cli_main()


if __name__ == "__main__":
    main()
