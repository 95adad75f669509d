"""What a drawing shows, whatever it is drawn with: boxes with lines of text, and labelled edges.

Both graphs become a `Drawing` here or in `trace`; every renderer reads nothing else. Texts come from users
and models, so they are made harmless here, once: one line each, without control or formatting characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from treadle.graph.nodes import END, START, Node, StepGraph

Shape = Literal["terminal", "round", "box", "stack", "slant", "hexagon", "frame"]
Status = Literal["completed", "in_progress", "waiting", "failed", "cancelled", "expired"]

SHAPES: dict[str, Shape] = {
    START: "terminal",
    END: "terminal",
    "model_call": "round",
    "tool_call": "box",
    "append_message": "slant",
    "assign": "box",
    "pause": "hexagon",
    "wait": "hexagon",
    "child_run": "frame",
    "function": "box",
    "frame": "frame",
}
"""The shape of each kind; a node that expands is a stack of its shape's boxes."""

COLOURS: dict[Status | None, tuple[str, str]] = {
    None: ("#f6f8fa", "#57606a"),
    "completed": ("#e6f6ea", "#1a7f37"),
    "in_progress": ("#ddf4ff", "#0969da"),
    "waiting": ("#fff4c2", "#9a6700"),
    "failed": ("#ffe5e2", "#cf222e"),
    "cancelled": ("#eaeef2", "#6e7781"),
    "expired": ("#f5e8ff", "#8250df"),
}
"""Fill and line of a box in each status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A node as it is drawn; `within` is the box of the loop or the map around it."""

    id: str
    label: str
    lines: tuple[str, ...] = ()
    shape: Shape = "box"
    status: Status | None = None
    within: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """An edge as it is drawn, between boxes by id."""

    source: str
    target: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes and arrows, in declared order; every arrow's ends are boxes, and ids are unique."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


class Drawable(Protocol):
    """What can say how it is drawn."""

    def drawing(self) -> Drawing:
        """Give the boxes and arrows."""
        ...


def one_line(text: str) -> str:
    """Give the text on one line, with whatever a terminal, a browser or a parser could act on replaced."""
    spaced = " ".join(text.split())
    return spaced if spaced.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in spaced)


def draw_graph(graph: StepGraph) -> Drawing:
    """Give the drawing of a step graph: its nodes with what bounds them, between START and END."""
    touched = {end for edge in graph.edges for end in (edge.source, edge.target)}
    boxes = {node.id: _box(node) for node in graph.nodes}
    first = {START: Box(id=START, label=START, shape="terminal")} if START in touched else {}
    others = sorted(touched - boxes.keys() - {START, END})
    unknown = {id_: Box(id=id_, label=one_line(id_), lines=("not a node",)) for id_ in others}
    last = {END: Box(id=END, label=END, shape="terminal")} if END in touched else {}
    arrows = (Arrow(source=e.source, target=e.target, label=one_line(e.when or "")) for e in graph.edges)
    return Drawing(one_line(graph.name), tuple((first | boxes | unknown | last).values()), tuple(arrows))


def _box(node: Node) -> Box:
    lines: list[str] = []
    told = _told(node)
    if told or node.kind != node.id:
        lines.append(one_line(told or node.kind))
    if node.expands:
        lines.append("one step per item")
    if node.max_visits is not None:
        lines.append(f"at most {node.max_visits} visit{'' if node.max_visits == 1 else 's'}")
    return Box(
        id=node.id,
        label=one_line(node.id),
        lines=tuple(lines),
        shape="stack" if node.expands else SHAPES.get(node.kind, "box"),
        within=node.within if node.within != node.id else None,
    )


def _told(node: Node) -> str:
    """Give what a workflow's node says of itself: its type, and what it works with."""
    params = node.params
    type_ = params.get("type")
    if not isinstance(type_, str):
        return ""
    match type_:
        case "loop":
            return f"loop · at most {params.get('max_iterations')} rounds"
        case "map":
            return f"map over {params.get('over')}"
        case "parallel":
            waits = params.get("wait_for", "all")
            return f"parallel · waits for {waits} of {len(params.get('branches', ()))}"
        case "human":
            return f"human · {params.get('kind')}"
        case "tool":
            tool = params.get("tool")
            named = cast("Mapping[str, object]", tool).get("name") if isinstance(tool, dict) else tool
            return f"tool {named}"
        case "prompt":
            model = params.get("model")
            return (
                f"prompt {cast('Mapping[str, object]', model).get('id')}"
                if isinstance(model, dict)
                else type_
            )
        case _:
            about = params.get(_ABOUT.get(type_, ""), "")
            return f"{type_} {about}".strip()


_ABOUT = {
    "agent": "agent",
    "workflow": "workflow",
    "code": "call",
    "switch": "value",
    "wait": "for",
    "fail": "error",
}
"""The field that says what a node of a type works with."""
