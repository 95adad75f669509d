"""The project document: from plain data to a `ProjectSpec`, with every problem on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.definition import references
from treadle.definition.document import Findings, is_mapping, short, suggest
from treadle.definition.native import STAND_INS, check_version
from treadle.definition.prompts import Setting, anchor
from treadle.definition.validation import validate
from treadle.objects.project import ProjectSpec


def read_project(data: Mapping[str, Any], findings: Findings, *, setting: Setting) -> ProjectSpec | None:
    """Give the project that plain data declares, or None after reporting what is wrong."""
    top = {k: v for k, v in data.items() if not k.startswith("x-")}
    extensions = {k: v for k, v in data.items() if k.startswith("x-")}
    check_version(top, findings)
    if "extensions" in top:
        findings.add(
            "TR104",
            "unknown field 'extensions'",
            ("extensions",),
            at="key",
            hint="write a key that begins with x-",
        )
        del top["extensions"]
    references.check(top, findings, folder=setting.folder, root=setting.root)
    spec = validate(ProjectSpec, top, findings)
    _connections(top, findings)
    if spec is None or findings.has_errors:
        return None
    if "${file:" in str(spec.connections):
        top = {k: anchor(v, setting) if k in ("connections", "models") else v for k, v in top.items()}
        spec = validate(ProjectSpec, top, findings) or spec
    return spec.model_copy(update={"extensions": extensions})


def _connections(top: Mapping[str, Any], findings: Findings) -> None:
    models, connections = top.get("models"), top.get("connections")
    known = list(connections) if is_mapping(connections) else []
    for name, entry in models.items() if is_mapping(models) else ():
        model = entry.get("id") if is_mapping(entry) else None
        if not is_mapping(entry) or (isinstance(model, str) and model in STAND_INS):
            continue
        wanted = entry.get("connection")
        if isinstance(wanted, str) and "${" not in wanted and wanted not in ("default", *known):
            said = f"there is no connection '{short(wanted)}'"
            findings.add("TR213", said, ("models", name, "connection"), hint=suggest(wanted, known))
