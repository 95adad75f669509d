"""Draw a step graph or a trace as Mermaid, DOT, SVG or terminal text, with no outside service.

One `Drawing`, four renderers: each escapes for its own format; what no format may carry is gone before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

from treadle.errors import ConfigurationError
from treadle.graph.drawing import COLOURS, Drawable, Drawing, Shape, draw_graph
from treadle.graph.nodes import StepGraph
from treadle.graph.svg import svg
from treadle.graph.tree import tree

Format = Literal["mermaid", "dot", "svg", "text"]


def render(view: StepGraph | Drawing | Drawable, fmt: Format = "text", *, ascii_only: bool = False) -> str:
    """Give the drawing of a step graph or a trace as text in that format, ending in a newline.

    Shapes: `ascii_only` keeps terminal text to ASCII; the other formats ignore it.
    Errors: ConfigurationError for a format that does not exist.
    """
    if isinstance(view, StepGraph):
        drawing = draw_graph(view)
    else:
        drawing = view if isinstance(view, Drawing) else view.drawing()
    match fmt:
        case "mermaid":
            return _mermaid(drawing)
        case "dot":
            return _dot(drawing)
        case "svg":
            return svg(drawing)
        case "text":
            return tree(drawing, ascii_only=ascii_only)
        case _:  # pyright: ignore[reportUnnecessaryComparison] - the command line hands on what was typed
            known = ", ".join(get_args(Format))
            raise ConfigurationError(f"'{fmt}' is not a format of drawings", hint=f"known: {known}")


# Mermaid


_MERMAID_SHAPES: Mapping[Shape, tuple[str, str]] = {
    "terminal": ("([", "])"),
    "round": ("(", ")"),
    "box": ("[", "]"),
    "stack": ("[[", "]]"),
    "slant": ("[/", "/]"),
    "hexagon": ("{{", "}}"),
    "frame": ("[[", "]]"),
}
_MERMAID_SPECIAL = re.compile(r"[^\w .,:()=+*/?!%'·→×≤-]")
_MERMAID_WORDS = frozenset(
    {"end", "graph", "flowchart", "subgraph", "style", "class", "classdef", "click", "linkstyle", "default"}
    | {"direction", "call", "href", "interpolate"}
)


def _mermaid(drawing: Drawing) -> str:
    names = _names(drawing)
    out = ["flowchart TB"]
    for box in drawing.boxes:
        left, right = _MERMAID_SHAPES[box.shape]
        label = "<br/>".join(map(_mermaid_text, (box.label, *box.lines)))
        out.append(f'  {names[box.id]}{left}"{label}"{right}')
    for arrow in drawing.arrows:
        label = f'|"{_mermaid_text(arrow.label)}"|' if arrow.label else ""
        out.append(f"  {names[arrow.source]} -->{label} {names[arrow.target]}")
    by_status: dict[str, list[str]] = {}
    for box in drawing.boxes:
        if box.status:
            by_status.setdefault(box.status, []).append(names[box.id])
    for status, (fill, line) in COLOURS.items():
        if status in by_status:
            out.append(f"  classDef {status} fill:{fill},stroke:{line},color:#1f2328")
            out.append(f"  class {','.join(by_status[status])} {status}")
    return "\n".join(out) + "\n"


def _mermaid_text(text: str) -> str:
    """Write every character that Mermaid or its HTML could act on as a numbered entity; never give nothing."""
    return _MERMAID_SPECIAL.sub(lambda m: f"#{ord(m[0])};", text) or " "


def _names(drawing: Drawing) -> dict[str, str]:
    """Give each box a name of ASCII letters, digits and underscores that is nobody else's."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for box in drawing.boxes:
        name = re.sub(r"[^A-Za-z0-9]+", "_", box.id).strip("_") or "node"
        if name[0].isdigit() or (name != "END" and name.lower() in _MERMAID_WORDS):
            name = f"n_{name}"
        names[box.id] = name
        n = 1
        while names[box.id] in taken:
            n += 1
            names[box.id] = f"{name}_{n}"
        taken.add(names[box.id])
    return names


# DOT


_DOT_SHAPES: Mapping[Shape, str] = {
    "terminal": 'shape=box, style="rounded,filled"',
    "round": 'shape=box, style="rounded,filled"',
    "box": 'shape=box, style="filled"',
    "stack": 'shape=box3d, style="filled"',
    "slant": 'shape=parallelogram, style="filled"',
    "hexagon": 'shape=hexagon, style="filled"',
    "frame": 'shape=box, peripheries=2, style="filled"',
}


def _dot(drawing: Drawing) -> str:
    names = _names(drawing)
    out = [
        f"digraph {_dot_text(drawing.title)} {{",
        "  rankdir=TB;",
        '  node [fontname="Helvetica,Arial,sans-serif", fontsize=12, fontcolor="#1f2328"];',
        '  edge [fontname="Helvetica,Arial,sans-serif", fontsize=11, fontcolor="#57606a", color="#57606a"];',
    ]
    for box in drawing.boxes:
        fill, line = COLOURS[box.status]
        label = _dot_text("\n".join((box.label, *box.lines)))
        out.append(
            f'  "{names[box.id]}" [label={label}, {_DOT_SHAPES[box.shape]}, fillcolor="{fill}", color="{line}"];'
        )
    for arrow in drawing.arrows:
        label = f" [label={_dot_text(arrow.label)}]" if arrow.label else ""
        out.append(f'  "{names[arrow.source]}" -> "{names[arrow.target]}"{label};')
    return "\n".join([*out, "}"]) + "\n"


def _dot_text(text: str) -> str:
    r"""Quote a text: `\` starts an escape in labels, `"` ends the string, and `&` starts an HTML entity."""
    quoted = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'
