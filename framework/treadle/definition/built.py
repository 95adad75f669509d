"""Read a workflow that was built in Python as a document is read; what is wrong carries the node, not a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from treadle.definition.document import At, Findings, KeyPath, Place, Source
from treadle.definition.flow import SINGLE
from treadle.definition.load import find_project
from treadle.definition.prompts import Setting, Texts
from treadle.definition.workflow import Draft, read_workflow
from treadle.errors import Problem, Severity


class BuiltFindings(Findings):
    """The problems of a workflow without a text, each tied to its node."""

    is_built: ClassVar[bool] = True

    def __init__(self) -> None:
        """Start without problems."""
        super().__init__(Source("<built>", ""), Place(0, 0))

    def add(
        self,
        code: str,
        message: str,
        path: KeyPath,
        *,
        at: At = "value",  # noqa: ARG002 - the signature of its base
        severity: Severity = "error",
        hint: str | None = None,
    ) -> None:
        """Report a finding at the node that the path leads into."""
        node = node_of(self.original(path)) or None
        self.problems.append(Problem(code=code, message=message, severity=severity, node=node, hint=hint))

    def add_within(
        self,
        code: str,
        message: str,
        path: KeyPath,
        *,
        line: int,  # noqa: ARG002 - the signature of its base
        column: int | None = None,  # noqa: ARG002 - the signature of its base
        name: str | None = None,  # noqa: ARG002 - the signature of its base
        hint: str | None = None,
    ) -> None:
        """Report a finding inside a text; the field that holds it is named."""
        self.add(code, f"{self.where(path)}: {message}", path, hint=hint)

    def line_of(self, path: KeyPath) -> int:  # noqa: ARG002 - the signature of its base
        """Give 0: there are no lines."""
        return 0

    def line_note(self, path: KeyPath) -> str:  # noqa: ARG002 - the signature of its base
        """Give nothing: there are no lines."""
        return ""


def read_built(data: Mapping[str, Any], *, folder: Path) -> Draft:
    """Read a workflow as its document would declare it, the cases of a switch as JSON texts.

    What is wrong is in the findings of the draft.
    """
    found = find_project(folder)
    setting = Setting(folder=folder, root=found.parent if found else folder)
    return read_workflow(data, BuiltFindings(), setting=setting, texts=Texts())


def node_of(path: KeyPath) -> str:
    """Give the id of the node that a path leads into, behind those of the frames around it; empty for none."""
    ids: list[str] = []
    n = 0
    while n < len(path):
        if path[n] == "nodes" and n + 1 < len(path):
            ids.append(str(path[n + 1]))
            n += 2
        elif path[n] == "node" and ids:
            ids.append(SINGLE)
            n += 1
        else:
            break
    return "/".join(ids)
