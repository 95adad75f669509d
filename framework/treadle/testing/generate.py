"""Write the files that come from code, or tell which of them are out of date.

    python -m treadle.testing.generate --check     names what differs and exits with 1
    python -m treadle.testing.generate --write     brings everything up to date

Run it in a clone: the files lie beside the sources. Whatever is generated has one line in `GENERATED`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from treadle import lifecycle
from treadle.definition.schema import Kind, schema
from treadle.store import triggers

ROOT = Path(__file__).parents[3]

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "run": {
        "queued": "Accepted; nobody walks it yet. A walker takes it, or its client cancels it.",
        "in_progress": "A walker holds it, or it waits for a timer or for a run that it started.",
        "requires_action": "It waits for its client: for outputs of client-side functions, or for an approval.",
        "cancelling": "A cancel was accepted; the walker that holds it has not stopped yet.",
        "cancelled": "Ended on request.",
        "completed": "Ended with an answer.",
        "incomplete": "Ended at a limit, which `incomplete_details` names.",
        "failed": "Ended by an error, which `last_error` tells.",
        "expired": "Ended by its deadline.",
    },
    "run step": {
        "in_progress": "Its intent is stored; its effect may have happened.",
        "completed": "Its result is stored and is never computed again.",
        "failed": "It ended with an error.",
        "cancelled": "Its run was cancelled before it ended.",
        "expired": "Its run expired before it ended.",
    },
    "message": {
        "in_progress": "Its text is still arriving.",
        "completed": "It is whole.",
        "incomplete": "Its run ended before it was whole.",
    },
}
"""One sentence per status; a status of the tables without one is an error."""


def lifecycles() -> str:
    """Give the page of the status tables: a diagram and the meaning of each status, per noun."""
    out = [
        "# Lifecycles",
        "",
        "Generated from `framework/treadle/lifecycle.py` by `make format`; edit the tables there.",
        "",
        "A move that is not drawn is refused, by `lifecycle.advance` and again by the store.",
    ]
    for noun, table in lifecycle.TABLES.items():
        out += ["", f"## {noun[0].upper()}{noun[1:]}", "", "```mermaid", "stateDiagram-v2"]
        begins = [lifecycle.START[noun]] if noun in lifecycle.START else list(table)[:1]
        out += [f"    [*] --> {status}" for status in begins]
        out += [f"    {before} --> {after}" for before, after in lifecycle.moves(table)]
        out += [f"    {status} --> [*]" for status in table if not table[status]]
        out += ["```", "", "| status | means |", "|---|---|"]
        out += [f"| `{status}` | {MEANINGS[noun][status]} |" for status in table]
    return "\n".join(out) + "\n"


def published_schema(kind: Kind) -> str:
    """Give the JSON Schema file of a kind of document."""

    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def first_migration() -> str:
    """Give the first migration with its status triggers as the tables say."""
    return triggers.apply((ROOT / "framework/treadle/store/sql/0001_initial.sql").read_text(encoding="utf-8"))


def api_document() -> str:
    """Give the OpenAPI document of the HTTP server."""
    from treadle.server import openapi

    return openapi.text()


GENERATED: Mapping[str, Callable[[], str]] = {
    "docs/lifecycle.md": lifecycles,
    "schemas/agent-1.schema.json": lambda: published_schema("agent"),
    "schemas/project-1.schema.json": lambda: published_schema("project"),
    "schemas/workflow-1.schema.json": lambda: published_schema("workflow"),
    "schemas/openapi.json": api_document,
    "framework/treadle/store/sql/0001_initial.sql": first_migration,
}
"""Path in the clone to the function that gives the file's text."""


def outdated() -> list[str]:
    """List the generated files that are not what the code gives."""
    return [name for name, render in GENERATED.items() if _read(ROOT / name) != render()]


def main(arguments: list[str] | None = None) -> int:
    """Check or write, as the arguments say, and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m treadle.testing.generate",
        description="Bring generated files up to date, or name those that are not.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="name what differs; exit with 1")
    what.add_argument("--write", action="store_true", help="bring everything up to date")
    asked = parser.parse_args(arguments)
    names = outdated()
    if asked.check:
        for name in names:
            print(f"{name} is out of date: make format writes it", file=sys.stderr)  # noqa: T201 - a command's output
        return 1 if names else 0
    for name in names:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GENERATED[name](), encoding="utf-8", newline="\n")
        print(f"wrote {name}")  # noqa: T201 - a command's output
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
