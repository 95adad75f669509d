"""``python -m treadle`` and the console script: both are the command line."""

from __future__ import annotations

import gc

COLLECT_AFTER = 50_000
"""Objects between two collections: a command is short, and what its imports make is there to stay."""


def main() -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(COLLECT_AFTER)
    from treadle.cli import main as cli_main

    cli_main()


if __name__ == "__main__":
    main()
