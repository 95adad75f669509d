"""Place boxes in layers and route the edges between them: geometry alone, no drawing and no graph library.

Theory of operation

1. Edges that close a cycle in a depth-first walk are turned round; what is left is acyclic.
2. A box's layer is its longest distance from a source.
3. An edge with a label, or one that was turned round between neighbouring layers, gets a layer of its own in
   between, so that it has a place where nothing else is.
4. An edge over several layers passes through a narrow place in each one, kept free like a box.
5. Sweeps down and up order each layer by the mean place of its neighbours; further sweeps move the boxes of
   a layer towards their neighbours, as near as their order and their gaps allow (pooled adjacent violators).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

_GAP_X = 28.0
_GAP_LANE = 12.0
_GAP_Y = 30.0
_LANE = 8.0
_LABEL_HEIGHT = 18.0
_MARGIN = 16.0
_PORT_STEP = 18.0
_MAX_BENDS = 6000
"""How many places edges may occupy in layers that they pass; further edges go straight."""


class Link(NamedTuple):
    """An edge between two boxes, by place; `label_width` is 0 where it has no label."""

    source: int
    target: int
    label_width: float = 0.0


class Point(NamedTuple):
    """A point; y grows downwards."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Route:
    """The way of an edge, from its source to its target; vertical at every point.

    Shapes: a self-loop has no points, and `label_at` is where its label begins.
    """

    points: tuple[Point, ...]
    label_at: Point | None
    is_back: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is; `centres` and `routes` in the order of the boxes and links that were given."""

    width: float
    height: float
    centres: tuple[Point, ...]
    routes: tuple[Route, ...]


def back_edges(count: int, links: Sequence[tuple[int, int]]) -> set[int]:
    """Give the places of the edges that close a cycle in a depth-first walk in declared order, loops included."""
    out: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    entered = [False] * count
    for place, (source, target) in enumerate(links):
        out[source].append((place, target))
        entered[target] = entered[target] or source != target
    state = [0] * count
    back: set[int] = set()
    for root in sorted(range(count), key=lambda i: entered[i]):
        if state[root]:
            continue
        state[root] = 1
        trail = [(root, iter(out[root]))]
        while trail:
            node, rest = trail[-1]
            for place, target in rest:
                if state[target] == 1:
                    back.add(place)
                elif not state[target]:
                    state[target] = 1
                    trail.append((target, iter(out[target])))
                    break
            else:
                state[node] = 2
                trail.pop()
    return back


def layers(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Give each node of an acyclic graph its longest distance from a source."""
    return _longest(count, links)[0]


def topological(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Order the nodes of an acyclic graph so that every edge goes forward."""
    return _longest(count, links)[1]


def _longest(count: int, links: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    out: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for source, target in links:
        out[source].append(target)
        waits[target] += 1
    depth = [0] * count
    order = [i for i in range(count) if not waits[i]]
    for node in order:
        for target in out[node]:
            depth[target] = max(depth[target], depth[node] + 1)
            waits[target] -= 1
            if not waits[target]:
                order.append(target)
    assert len(order) == count, "the graph has a cycle"
    return depth, order


@dataclass(slots=True)
class _Item:
    """What takes a place in a layer: a box, or the bend of an edge that passes."""

    width: float
    height: float
    layer: int
    up: list[int] = field(default_factory=list[int])
    down: list[int] = field(default_factory=list[int])
    is_bend: bool = False
    room: float = 0.0
    """What of the width is kept free on each side, for loops."""
    x: float = 0.0
    y: float = 0.0
    reach: float = 0.0
    """From the middle of its layer to the layer's border."""

    @property
    def centre(self) -> Point:
        return Point(self.x, self.y)


def lay_out(sizes: Sequence[tuple[float, float]], links: Sequence[Link]) -> Layout:
    """Place boxes of these sizes (width, height), and route the links between them.

    Units: any, such as pixels. Cost: linear in boxes, links and the layers that links pass, up to a limit
    from which on links go straight.
    """
    if not sizes:
        return Layout(2 * _MARGIN, 2 * _MARGIN, (), ())
    pairs = [(link.source, link.target) for link in links]
    back = back_edges(len(sizes), pairs)
    forward = [(b, a) if i in back else (a, b) for i, (a, b) in enumerate(pairs)]
    depth = _spread(
        layers(len(sizes), [ends for ends in forward if ends[0] != ends[1]]), forward, links, back
    )
    loop_room = [0.0] * len(sizes)
    for link in links:
        if link.source == link.target:
            loop_room[link.source] = max(loop_room[link.source], _loop_room(link))
    items = [
        _Item(w + 2 * room, h, d, room=room) for (w, h), d, room in zip(sizes, depth, loop_room, strict=True)
    ]
    chains = _chains(items, forward, links)
    rows = _rows(items)
    _order(items, rows)
    _place(items, rows)
    height = _stack(items, rows)
    left = min(item.x - item.width / 2 for item in items) - _MARGIN
    width = max(item.x + item.width / 2 for item in items) + _MARGIN - left
    for item in items:
        item.x -= left
    centres = tuple(item.centre for item in items[: len(sizes)])
    return Layout(width, height, centres, tuple(_routes(items, chains, links, back)))


def _loop_room(link: Link) -> float:
    return 30.0 + (link.label_width + 6 if link.label_width else 0.0)


def _spread(
    depth: list[int], forward: Sequence[tuple[int, int]], links: Sequence[Link], back: set[int]
) -> list[int]:
    """Open a layer after each one from which an edge needs a place of its own."""
    opened = {
        depth[a]
        for i, (a, b) in enumerate(forward)
        if a != b and (links[i].label_width or (i in back and depth[b] == depth[a] + 1))
    }
    shift: list[int] = []
    extra = 0
    for layer in range(max(depth) + 1):
        shift.append(layer + extra)
        extra += layer in opened
    return [shift[d] for d in depth]


def _chains(items: list[_Item], forward: Sequence[tuple[int, int]], links: Sequence[Link]) -> list[list[int]]:
    """Thread each edge through the layers that it passes, short edges first while places last."""
    chains: list[list[int]] = [[a, b] if a != b else [] for a, b in forward]
    room = _MAX_BENDS
    by_span = sorted(
        range(len(forward)), key=lambda i: items[forward[i][1]].layer - items[forward[i][0]].layer
    )
    for i in by_span:
        a, b = forward[i]
        if a == b:
            continue
        span = range(items[a].layer + 1, items[b].layer)
        if len(span) <= room:
            room -= len(span)
            first = len(items)
            label = links[i].label_width
            items.extend(
                _Item(
                    label + 8 if label and layer == span[0] else _LANE,
                    _LABEL_HEIGHT if label and layer == span[0] else 0.0,
                    layer,
                    is_bend=True,
                )
                for layer in span
            )
            chains[i] = [a, *range(first, len(items)), b]
        for upper, lower in pairwise(chains[i]):
            items[upper].down.append(lower)
            items[lower].up.append(upper)
    return chains


def _rows(items: Sequence[_Item]) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(max(item.layer for item in items) + 1)]
    for i, item in enumerate(items):
        rows[item.layer].append(i)
    return rows


def _order(items: Sequence[_Item], rows: list[list[int]]) -> None:
    """Sweep down and up, ordering each row by the mean place of the neighbours it comes from."""
    place = [0.0] * len(items)

    def settle(row: list[int]) -> None:
        for i, id_ in enumerate(row):
            place[id_] = i / max(len(row) - 1, 1)

    for row in rows:
        settle(row)
    for sweep in range(4):
        is_down = sweep % 2 == 0
        for row in rows if is_down else reversed(rows):
            want = {
                id_: _mean([place[n] for n in (items[id_].up if is_down else items[id_].down)], place[id_])
                for id_ in row
            }
            row.sort(key=want.__getitem__)
            settle(row)


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _place(items: Sequence[_Item], rows: Sequence[Sequence[int]]) -> None:
    """Give each item its x: packed first, then drawn towards its neighbours above, below, and both."""
    for row in rows:
        _pool(items, row, [0.0] * len(row))
    for sides in ("up", "down", "up", "both", "both"):
        for row in reversed(rows) if sides == "down" else rows:
            want = [_wish(items, items[id_], sides) for id_ in row]
            _pool(items, row, want)


def _wish(items: Sequence[_Item], item: _Item, sides: str) -> float:
    """Give the mean place of an item's neighbours; a bend follows its own edge's other bends, to be straight."""
    near = [items[n] for n in (*(item.up if sides != "down" else ()), *(item.down if sides != "up" else ()))]
    bends = [n.x for n in near if n.is_bend] if item.is_bend else []
    return _mean(bends or [n.x for n in near], item.x)


def _pool(items: Sequence[_Item], row: Sequence[int], want: Sequence[float]) -> None:
    """Put a row as near to the wanted places as order and gaps allow: least squares, by merging what collides."""
    offsets: list[float] = []
    at = 0.0
    for i, id_ in enumerate(row):
        item = items[id_]
        if i:
            before = items[row[i - 1]]
            gap = _GAP_LANE if item.is_bend or before.is_bend else _GAP_X
            at += (before.width + item.width) / 2 + gap
        offsets.append(at)
    # Each pool is [sum of wishes, count]; its mean is where its members' common origin goes.
    pools: list[tuple[float, int]] = []
    for wish, offset in zip(want, offsets, strict=True):
        total, count = wish - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            more, others = pools.pop()
            total, count = total + more, count + others
        pools.append((total, count))
    origins = [total / count for total, count in pools for _ in range(count)]
    for id_, origin, offset in zip(row, origins, offsets, strict=True):
        items[id_].x = origin + offset


def _stack(items: Sequence[_Item], rows: Sequence[Sequence[int]]) -> float:
    """Give each item its y, layer below layer, and return the height of all."""
    at = _MARGIN
    gap = 0.0
    for row in rows:
        reach = max(items[id_].height for id_ in row) / 2
        for id_ in row:
            items[id_].y, items[id_].reach = at + reach, reach
        gap = _GAP_Y * 0.7 if all(items[id_].is_bend for id_ in row) else _GAP_Y
        at += 2 * reach + gap
    return at - gap + _MARGIN


def _ports(
    items: Sequence[_Item], chains: Sequence[Sequence[int]], *, below: bool
) -> dict[tuple[int, int], float]:
    """Spread the edges at a box's lower (or upper) side, in the order of where they go."""
    at: dict[int, list[int]] = {}
    for i, chain in enumerate(chains):
        if chain:
            at.setdefault(chain[0] if below else chain[-1], []).append(i)
    ports: dict[tuple[int, int], float] = {}
    for id_, edges in at.items():
        item = items[id_]
        edges.sort(key=lambda i: items[chains[i][1] if below else chains[i][-2]].x)
        step = min(_PORT_STEP, (item.width - 2 * item.room) * 0.6 / max(len(edges) - 1, 1))
        for k, i in enumerate(edges):
            ports[id_, i] = item.x + (k - (len(edges) - 1) / 2) * step
    return ports


def _routes(
    items: Sequence[_Item], chains: Sequence[Sequence[int]], links: Sequence[Link], back: set[int]
) -> Iterator[Route]:
    lower, upper = _ports(items, chains, below=True), _ports(items, chains, below=False)
    for i, chain in enumerate(chains):
        if not chain:
            box = items[links[i].source]
            right = box.x + box.width / 2 - box.room
            yield Route((), Point(right + 34, box.y), is_back=True)
            continue
        first, *bends, last = chain
        points = [Point(lower[first, i], items[first].y + items[first].height / 2)]
        for bend in (items[id_] for id_ in bends):
            points += (Point(bend.x, bend.y - bend.reach), Point(bend.x, bend.y + bend.reach))
        points.append(Point(upper[last, i], items[last].y - items[last].height / 2))
        label_at = None
        if links[i].label_width:
            label_at = items[bends[0]].centre if bends else _between(points[0], points[-1])
        is_back = i in back
        yield Route(tuple(reversed(points) if is_back else points), label_at, is_back)


def _between(a: Point, b: Point) -> Point:
    return Point((a.x + b.x) / 2, (a.y + b.y) / 2)
