"""``python -m treadle`` and the console script: both are the command line."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from treadle.cli import main as cli_main

    cli_main()


if __name__ == "__main__":
    main()
