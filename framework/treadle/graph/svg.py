"""Draw boxes and arrows as SVG: dark on light, scaled by its view box, without a font file.

Texts are measured by an estimate that errs on the wide side, since no font is at hand.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from itertools import pairwise

from treadle.graph.drawing import COLOURS, Arrow, Box, Drawing, Shape, one_line
from treadle.graph.layout import Link, Point, Route, lay_out

_FONT = 13.0
_SMALL = 11.0
_INK = "#1f2328"
_FAINT = "#57606a"
_PAPER = "#ffffff"
_LONGEST = 44
_STYLE = (
    'role="img" style="max-width:100%;height:auto"'
    f' font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif" font-size="{_FONT:g}"'
)


def svg(drawing: Drawing) -> str:
    """Give an SVG document of the drawing, with a title and colours that say each box's status."""
    place = {box.id: i for i, box in enumerate(drawing.boxes)}
    arrows = _one_loop_each(drawing.arrows)
    links = [
        Link(place[a.source], place[a.target], _text_width(_cut(a.label), _SMALL) if a.label else 0.0)
        for a in arrows
    ]
    sizes = [_size(box) for box in drawing.boxes]
    layout = lay_out(sizes, links)
    width, height = max(layout.width, 40.0), max(layout.height, 40.0)
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_STYLE}>',
        f"<title>{escape(drawing.title)}</title>",
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
    ]
    for arrow, link, route in zip(arrows, links, layout.routes, strict=True):
        parts.extend(_edge(arrow, route, layout.centres[link.source], sizes[link.source]))
    for box, centre, size in zip(drawing.boxes, layout.centres, sizes, strict=True):
        parts.extend(_box(box, centre, size))
    for arrow, link, route in zip(arrows, links, layout.routes, strict=True):
        if arrow.label and route.label_at:
            parts.append(_label(_cut(arrow.label), route, link.label_width))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _one_loop_each(arrows: tuple[Arrow, ...]) -> list[Arrow]:
    """Join the loops of each box to one with all their labels, since they would lie on each other."""
    kept: dict[object, Arrow] = {}
    for place, arrow in enumerate(arrows):
        key = arrow.source if arrow.source == arrow.target else place
        labels = [kept[key].label, arrow.label] if key in kept else [arrow.label]
        kept[key] = replace(arrow, label=", ".join(filter(None, labels)))
    return list(kept.values())


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _text_width(text: str, size: float) -> float:
    """Estimate, on the generous side, how wide a text is in a common sans-serif font."""
    return size * sum(_char_width(c) for c in text)


def _char_width(char: str) -> float:
    if char in "ijl.,:;'|!()[]It ":
        return 0.36
    if unicodedata.east_asian_width(char) in "WF":
        return 1.05
    if char.isupper() or char in "mwMW@%&#…":
        return 0.86
    return 0.61


_SLANT = 12.0


def _size(box: Box) -> tuple[float, float]:
    text = max(_text_width(_cut(box.label), _FONT), *(_text_width(_cut(t), _SMALL) for t in box.lines), 34.0)
    side = (
        2 * _SLANT if box.shape in {"slant", "hexagon"} else 6.0 if box.shape in {"stack", "frame"} else 0.0
    )
    return text + 24 + side, 16 + _FONT + 3 + (_SMALL + 3) * len(box.lines)


def _box(box: Box, centre: Point, size: tuple[float, float]) -> Iterator[str]:
    fill, line = COLOURS[box.status]
    ink, faint = _INK, _FAINT
    if box.shape == "terminal":
        fill = line = "#424a53"
        ink = faint = _PAPER
    full = " · ".join((box.label, *box.lines))
    yield f'<g stroke="{line}" fill="{fill}"><title>{escape(full)}</title>'
    yield from _outline(box.shape, centre, size)
    first = centre.y - size[1] / 2 + 8 + _FONT * 0.9
    yield _line(_cut(box.label), centre.x, first, f'fill="{ink}" font-weight="600"')
    for i, text in enumerate(box.lines, start=1):
        y = first + 1 + i * (_SMALL + 3)
        yield _line(_cut(text), centre.x, y, f'fill="{faint}" font-size="{_n(_SMALL)}"')
    yield "</g>"


def _line(text: str, x: float, y: float, style: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="middle" stroke="none" {style}>{escape(text)}</text>'


def _outline(shape: Shape, centre: Point, size: tuple[float, float]) -> Iterator[str]:
    (width, height), (x, y) = size, (centre.x - size[0] / 2, centre.y - size[1] / 2)

    def rect(inset: float, radius: float, dx: float = 0.0, dy: float = 0.0, less: float = 0.0) -> str:
        return (
            f'<rect x="{_n(x + inset + dx)}" y="{_n(y + inset + dy)}" width="{_n(width - 2 * inset - less)}"'
            f' height="{_n(height - 2 * inset - less)}" rx="{_n(radius)}"/>'
        )

    def polygon(*points: tuple[float, float]) -> str:
        return f'<polygon points="{" ".join(f"{_n(x + px)},{_n(y + py)}" for px, py in points)}"/>'

    match shape:
        case "terminal":
            yield rect(0, height / 2)
        case "round":
            yield rect(0, 12)
        case "stack":
            yield rect(0, 3, dx=5, dy=5, less=5)
            yield rect(0, 3, less=5)
        case "frame":
            yield rect(0, 3)
            yield rect(3, 2)
        case "slant":
            yield polygon((_SLANT, 0), (width, 0), (width - _SLANT, height), (0, height))
        case "hexagon":
            middle = height / 2
            yield polygon(
                (_SLANT, 0),
                (width - _SLANT, 0),
                (width, middle),
                (width - _SLANT, height),
                (_SLANT, height),
                (0, middle),
            )
        case "box":
            yield rect(0, 3)


def _edge(arrow: Arrow, route: Route, centre: Point, size: tuple[float, float]) -> Iterator[str]:
    if route.points:
        way, tip, down = _curve(route.points), route.points[-1], route.points[-1].y > route.points[-2].y
        head = f"l -4 {-8 if down else 8} h 8 z"
    else:
        right, y = centre.x + size[0] / 2, centre.y
        way = f"M {_n(right)} {_n(y - 7)} C {_n(right + 30)} {_n(y - 22)} {_n(right + 30)} {_n(y + 22)} {_n(right)} {_n(y + 7)}"
        tip, head = Point(right, y + 7), "l 8 -1 l -4 8 z"
    full = f"{arrow.source} → {arrow.target}" + (f": {arrow.label}" if arrow.label else "")
    dash = ' stroke-dasharray="5 3"' if route.is_back else ""
    yield f'<g stroke="{_FAINT}" fill="none"><title>{escape(one_line(full))}</title>'
    yield f'<path d="{way}"{dash}/>'
    yield f'<path d="M {_n(tip.x)} {_n(tip.y)} {head}" fill="{_FAINT}"/></g>'


def _curve(points: tuple[Point, ...]) -> str:
    way = [f"M {_n(points[0].x)} {_n(points[0].y)}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x0 - x1) < 0.05:
            way.append(f"V {_n(y1)}")
        else:
            middle = _n((y0 + y1) / 2)
            way.append(f"C {_n(x0)} {middle} {_n(x1)} {middle} {_n(x1)} {_n(y1)}")
    return " ".join(way)


def _label(text: str, route: Route, width: float) -> str:
    assert route.label_at is not None
    x, y = route.label_at.x + (0 if route.points else width / 2), route.label_at.y
    return (
        f'<rect x="{_n(x - width / 2 - 2)}" y="{_n(y - 8)}" width="{_n(width + 4)}" height="16" fill="{_PAPER}"/>'
        + _line(text, x, y + _SMALL * 0.36, f'fill="{_FAINT}" font-size="{_n(_SMALL)}"')
    )
