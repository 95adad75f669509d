"""Render problems for people, for programs, for GitHub's annotations and for code scanning (SARIF 2.1.0)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unicodedata import category, combining, east_asian_width
from urllib.parse import quote

from treadle.definition.document import Source
from treadle.errors import Problem

Format: TypeAlias = Literal["text", "json", "github", "sarif"]

WIDEST = 160
"""Columns of a source line that are shown; longer lines are cut around the place."""

_COLOUR = {"error": "31", "warning": "33", "note": "36"}
_SARIF_LEVEL = {"error": "error", "warning": "warning", "note": "note"}
_GITHUB_LEVEL = {"error": "error", "warning": "warning", "note": "notice"}


def render(
    problems: Sequence[Problem], sources: Mapping[str, Source], *, fmt: Format = "text", color: bool = False
) -> str:
    """Give a report of problems; empty text for none, except where the format is a document.

    Shapes: `sources` gives the text behind each problem's `file`, for the excerpts; a problem whose file is not
    there is shown without one. `color` concerns `text` only.
    """
    if fmt == "json":
        return _json(problems)
    if fmt == "sarif":
        return _sarif(problems)
    if fmt == "github":
        return "\n".join(_github(p) for p in problems)
    return "\n\n".join(_text(p, sources, color=color) for p in problems)


def _text(problem: Problem, sources: Mapping[str, Source], *, color: bool) -> str:
    severity = _paint(problem.severity, _COLOUR[problem.severity], color=color)
    if problem.file is None:
        node = f"{problem.node}: " if problem.node else ""
        head = f"{severity}[{problem.code}]: {node}{_safe(problem.message)}"
        return f"{head}\n  {_safe(problem.hint)}" if problem.hint else head
    place = _safe(problem.file) + (f":{problem.line}:{problem.column}" if problem.line else "")
    head = f"{_paint(place, '1', color=color)}  {severity} {problem.code}  {_safe(problem.message)}"
    source = sources.get(problem.file)
    if source is None or problem.line is None or problem.column is None:
        return f"{head}\n  {_safe(problem.hint)}" if problem.hint else head
    return "\n".join([head, *_excerpt(problem, source, problem.line, problem.column, color=color)])


def _excerpt(problem: Problem, source: Source, number: int, column: int, *, color: bool) -> list[str]:
    """Give the line with its carets, and for fields the line above, which says what the field belongs to."""
    width = max(len(str(number)), 5)
    out: list[str] = []
    above = source.line(number - 1)
    if problem.code.startswith("TR1") and above.strip():
        out.append(f"{number - 1:>{width}} | {_safe(above[:WIDEST])}".rstrip())
    line = source.line(number)
    start, end = column - 1, max((problem.end_column or column + 1) - 1, column)
    cut = max(start - WIDEST // 2, 0) if len(line) > WIDEST else 0
    shown = line[cut : cut + WIDEST]
    lead = "…" if cut else ""
    out.append(f"{number:>{width}} | {lead}{_safe(shown)}".rstrip())
    marked = shown[start - cut : end - cut]
    carets = "^" * max(_columns(marked), 1)
    pad = " " * len(lead) + "".join("\t" if c == "\t" else " " * _columns(c) for c in shown[: start - cut])
    hint = f" {_safe(problem.hint)}" if problem.hint else ""
    out.append(f"{'':>{width}} | {pad}{_paint(carets, _COLOUR[problem.severity], color=color)}{hint}")
    return out


def _columns(text: str) -> int:
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _safe(text: str) -> str:
    """Keep a file from speaking to the terminal: control characters become a mark."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c == "\t" or category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else "\ufffd" for c in text
    )


def _paint(text: str, code: str, *, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text


def _json(problems: Sequence[Problem]) -> str:
    rows = [
        {
            "code": p.code,
            "severity": p.severity,
            "message": p.message,
            "hint": p.hint,
            "file": p.file,
            "line": p.line,
            "column": p.column,
            "end_column": p.end_column,
            "node": p.node,
        }
        for p in problems
    ]
    counts = {f"{s}s": sum(p.severity == s for p in problems) for s in ("error", "warning", "note")}
    return json.dumps({"problems": rows, **counts}, ensure_ascii=False, indent=2)


def _github(problem: Problem) -> str:
    fields = {
        "file": problem.file,
        "line": problem.line,
        "col": problem.column,
        "endColumn": problem.end_column,
        "title": problem.code,
    }
    given = ",".join(f"{k}={_property(str(v))}" for k, v in fields.items() if v is not None)
    message = problem.message + (f" ({problem.hint})" if problem.hint else "")
    return f"::{_GITHUB_LEVEL[problem.severity]} {given}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(problems: Sequence[Problem]) -> str:
    from treadle import __version__

    codes = sorted({p.code for p in problems})
    driver = {"name": "treadle", "semanticVersion": __version__, "rules": [{"id": c} for c in codes]}
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(p, codes.index(p.code)) for p in problems],
    }
    document = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(document, ensure_ascii=False, indent=2)


def _result(problem: Problem, index: int) -> dict[str, Any]:
    text = problem.message + (f" ({problem.hint})" if problem.hint else "")
    out: dict[str, Any] = {
        "ruleId": problem.code,
        "ruleIndex": index,
        "level": _SARIF_LEVEL[problem.severity],
        "message": {"text": text},
    }
    if problem.file is not None:
        physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(problem.file)}}
        if problem.line is not None:
            region = {
                "startLine": problem.line,
                "startColumn": problem.column,
                "endColumn": problem.end_column,
            }
            physical["region"] = {k: v for k, v in region.items() if v is not None}
        out["locations"] = [{"physicalLocation": physical}]
    return out


def _uri(path: str) -> str:
    return Path(path).as_uri() if Path(path).is_absolute() else quote(path.replace("\\", "/"))
