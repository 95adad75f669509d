"""The list of seeded defects: what each breaks, where, and which check has to notice it.

`defects.toml` is the list. A defect is one or more exact edits of the sources; the text that an edit looks for stands
exactly once in its file, or the defect is refused: one that no longer fits the sources would prove nothing.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("defects.toml")

KINDS = {
    "tests/unit": "unit",
    "tests/contract": "contract",
    "tests/behaviour": "behaviour",
    "tests/house": "house",
    "tests/stateful": "stateful",
    "tests/crash": "crash",
    "tests/simulation": "simulation",
    "tests/faults/test_model_endpoint": "endpoint table",
    "tests/faults/test_storage_faults": "storage faults",
    "tests/faults/test_power_loss": "power loss",
    "treadle.testing.crash": "crash",
    "treadle.testing.simulation": "simulation",
    "treadle.testing.storage --images": "power loss",
    "treadle.testing.storage": "storage faults",
}
"""The kind of check, by what its command names; the first that fits counts."""


class RottenError(Exception):
    """A defect does not fit the sources any more."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one file: a text that stands in it once, and what takes its place."""

    file: str
    search: str
    replace: str


@dataclass(frozen=True, slots=True)
class Defect:
    """A deliberate mistake.

    Shapes: `breaks` is one sentence; `check` is the command that has to notice it, without ``python -m``.
    """

    name: str
    breaks: str
    check: str
    edits: tuple[Edit, ...]

    @property
    def kind(self) -> str:
        """Give the kind of check that has to notice it."""
        return next((kind for part, kind in KINDS.items() if part in self.check), "")


def load(path: Path = LIST) -> tuple[Defect, ...]:
    """Read the list.

    Errors: KeyError for a defect that lacks a field.
    """
    found = cast("list[dict[str, Any]]", tomllib.loads(path.read_text(encoding="utf-8"))["defect"])
    return tuple(
        Defect(d["name"], d["breaks"], d["check"], tuple(Edit(**edit) for edit in d["edit"])) for d in found
    )


def apply(defect: Defect, root: Path = ROOT, *, write: bool = True) -> None:
    """Make a defect in the sources below a folder; without `write` only see whether it could be made.

    Errors: RottenError for an edit whose text stands in its file not exactly once, changes nothing, or leaves a
    Python file that cannot be compiled.
    """
    texts: dict[Path, str] = {}
    for edit in defect.edits:
        path = root / edit.file
        text = texts.get(path) or path.read_text(encoding="utf-8")
        found = text.count(edit.search)
        if found != 1 or edit.search == edit.replace:
            raise RottenError(
                f"defect '{defect.name}' looks for a text that {edit.file} has {found} times, not once:\n"
                f"{edit.search}\nrewrite its edit in {LIST.name}, so that it makes the same mistake in today's sources"
            )
        texts[path] = text.replace(edit.search, edit.replace)
    for path, text in texts.items():
        if path.suffix == ".py":
            try:
                compile(text, str(path), "exec")
            except SyntaxError as e:
                raise RottenError(f"defect '{defect.name}' leaves {path} unreadable: {e}") from e
        if write:
            path.write_text(text, encoding="utf-8")
