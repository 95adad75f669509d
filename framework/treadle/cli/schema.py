"""`treadle schema`: the JSON Schema of a kind of document, for editors and other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from treadle.cli.context import command
from treadle.cli.output import data, note


@command(name="schema")
@click.argument("kind", type=click.Choice(["agent", "workflow", "project"]))
@click.option("-o", "output", metavar="FILE", type=click.Path(dir_okay=False), help="Write to a file.")
def schema(kind: Literal["agent", "workflow", "project"], output: str | None) -> None:
    """Print the JSON Schema (draft-07) of agent or workflow documents, or of the project file."""
    from treadle.definition import schema as schemas

    text = json.dumps(schemas.schema(kind), indent=2)
    if output is None:
        data(text)
        return
    Path(output).write_text(text + "\n", encoding="utf-8")
    note(f"wrote {output}")
