"""Read the named SQL: every statement that the stores run is in `sql/queries.sql`, under its name."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAMED = re.compile(r"^-- name: (\w+)\n((?:--[^\n]*\n)+)(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)


@cache
def load() -> dict[str, str]:
    """Give the statements by name."""
    text = files("treadle.store").joinpath("sql/queries.sql").read_text(encoding="utf-8")
    return {name: " ".join(body.split()).rstrip(";") for name, _, body in _NAMED.findall(text)}


@cache
def checks() -> tuple[tuple[str, str], ...]:
    """Give the invariants of a store: each in words, with the query that finds what breaks it."""
    text = files("treadle.store").joinpath("sql/check.sql").read_text(encoding="utf-8")
    return tuple(
        (" ".join(line.removeprefix("-- ") for line in said.splitlines()), " ".join(body.split()).rstrip(";"))
        for _, said, body in _NAMED.findall(text)
    )


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """Give the numbered migrations in order."""
    found = [
        (int(entry.name[:4]), entry.read_text(encoding="utf-8"))
        for entry in files("treadle.store").joinpath("sql").iterdir()
        if re.fullmatch(r"\d{4}_\w+\.sql", entry.name)
    ]
    return tuple(sorted(found))
