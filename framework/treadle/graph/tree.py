"""Draw boxes and arrows as lines of terminal text.

A path of boxes is written one below the other. Where it forks, each branch is indented behind a rail up to
the box where all branches meet again, which goes on at the level of the fork. An arrow to a box that stands
elsewhere is written as a reference: back to one above, or to the one where the branches meet.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from treadle.graph.drawing import Drawing
from treadle.graph.layout import back_edges, topological

MARKS = {
    "completed": "●",
    "in_progress": "◐",
    "waiting": "◆",
    "failed": "✗",
    "cancelled": "○",
    "expired": "◌",
}
_TO_ASCII = str.maketrans(
    {
        "├": "|", "└": "`", "─": "-", "│": "|", "→": "->", "↩": "<-", "↓": "v", "·": "-", "×": "x", "≤": "<=", "…": "...",
        "●": "*", "◐": "~", "◆": "?", "✗": "x", "○": "o", "◌": "!",
    }
)  # fmt: skip


class _Way(NamedTuple):
    """An arrow out of a box: its label, where it goes, and whether it goes back or into what is within the box."""

    label: str
    target: int
    is_back: bool
    is_inner: bool = False


class _Visit(NamedTuple):
    """A box that waits to be written: how its line begins, how the lines below it begin, where to stop.

    `ref` is the arrow of a mere reference to a box that is written elsewhere.
    """

    box: int
    head: str
    below: str
    label: str
    stop: int
    ref: str = ""


class _Row(NamedTuple):
    left: str
    right: str = ""


def tree(drawing: Drawing, *, ascii_only: bool = False) -> str:
    """Give the drawing as lines of text, what each box says about itself in a second column."""
    write = to_ascii if ascii_only else str
    rows = [(write(row.left), write(row.right)) for row in _rows(drawing)]
    width = min(max((_columns(left) for left, right in rows if right), default=0), _WIDEST)
    lines = (f"{left}{' ' * (width - _columns(left))}  {right}" if right else left for left, right in rows)
    return "".join(f"{line}\n" for line in lines)


def to_ascii(text: str) -> str:
    """Write the marks and rails in ASCII, and every other character beyond it as its number."""
    return text.translate(_TO_ASCII).encode("ascii", "backslashreplace").decode("ascii")


_WIDEST = 56


def _columns(text: str) -> int:
    """Count the terminal columns of a text."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _rows(drawing: Drawing) -> Iterator[_Row]:
    place = {box.id: i for i, box in enumerate(drawing.boxes)}
    ends = [(place[a.source], place[a.target]) for a in drawing.arrows]
    back = back_edges(len(place), ends)
    forward = [pair for i, pair in enumerate(ends) if i not in back]
    ways: list[list[_Way]] = [[] for _ in drawing.boxes]
    inner = {i for i, (s, t) in enumerate(ends) if drawing.boxes[t].within == drawing.boxes[s].id}
    for i, (arrow, (source, target)) in enumerate(zip(drawing.arrows, ends, strict=True)):
        ways[source].append(_Way(arrow.label, target, i in back, i in inner))
    order = topological(len(place), forward)
    onwards = [pair for i, pair in enumerate(ends) if i not in back and i not in inner]
    meets = _meeting_places(len(place), onwards, order)
    written: set[int] = set()
    for root in order:
        if root not in written:
            yield from _path(drawing, ways, meets, written, root)


def _path(
    drawing: Drawing, ways: list[list[_Way]], meets: list[int], written: set[int], root: int
) -> Iterator[_Row]:
    """Write a root and all that follows from it and is not written yet; depth-first, on a stack of our own."""
    pending = [_Visit(root, "", "", "", -1)]
    while pending:
        visit = pending.pop()
        box = drawing.boxes[visit.box]
        label = f"{visit.label} " if visit.label else ""
        if visit.ref or visit.box in written:
            yield _Row(f"{visit.head}{label}{visit.ref or '→'} {box.label}")
            continue
        written.add(visit.box)
        mark = f"{MARKS[box.status]} " if box.status else ""
        arrow = "→ " if label else ""
        yield _Row(f"{visit.head}{label}{arrow}{mark}{box.label}", " · ".join(box.lines))
        pending.extend(reversed(list(_next(visit, ways[visit.box], meets[visit.box]))))


def _next(visit: _Visit, ways: list[_Way], meet: int) -> Iterator[_Visit]:
    """List what is written below a box: its branches, then the box where they meet again."""
    below = visit.below
    if len(ways) == 1 and not ways[0].is_back and not ways[0].is_inner:
        if ways[0].target != visit.stop:
            yield _Visit(ways[0].target, below, below, ways[0].label, visit.stop)
        elif ways[0].label:
            yield _Visit(ways[0].target, f"{below}└─ ", below, ways[0].label, visit.stop, "↓")
        return
    branches = [way for way in ways if way.is_back or way.label or way.target != meet]
    for i, way in enumerate(branches):
        is_last = i == len(branches) - 1
        head, inner = (f"{below}└─ ", f"{below}   ") if is_last else (f"{below}├─ ", f"{below}│  ")
        ref = "↩" if way.is_back else "↓" if way.target == meet else ""
        yield _Visit(way.target, head, inner, way.label, meet, ref)
    if meet not in {visit.stop, -1}:
        yield _Visit(meet, below, below, "", visit.stop)


def _meeting_places(count: int, links: list[tuple[int, int]], order: list[int]) -> list[int]:
    """Give each box the first one that every way from it passes (its immediate post-dominator), or -1."""
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in links:
        after[source].append(target)
    meet, depth = [-1] * count, [1] * count
    for box in reversed(order):
        common = after[box][0] if after[box] else -1
        for other in after[box][1:]:
            while common != other:
                if common == -1 or (other != -1 and depth[other] >= depth[common]):
                    other = meet[other]  # noqa: PLW2901 - climbing towards the common ancestor
                else:
                    common = meet[common]
        meet[box] = common
        depth[box] = depth[common] + 1 if common != -1 else 1
    return meet
