"""Turn the edges of a graph into what its nodes say follows them, and back.

An edge is what `next` says in a document. A switch, a parallel node, a timeout and a route of errors say themselves where
they lead; these are edges of the graph too, and cannot be added one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from treadle.definition.document import is_list, is_mapping, suggest
from treadle.definition.flow import DEFAULT, ERROR, TIMEOUT, TIMEOUT_WORDS
from treadle.errors import Problem
from treadle.graph.nodes import END, START, Edge
from treadle.objects.workflow import END_TARGET, NODES, StepNode

_START_WORDS = frozenset({START, "start", "__start__"})
_END_WORDS = frozenset({END, END_TARGET, "__end__"})

Fields = dict[str, Any]
"""A node as its document has it, without `next`."""


def spelled(id_: str) -> str:
    """Give the id of an edge's end, START and END in whatever spelling."""
    return START if id_ in _START_WORDS else END if id_ in _END_WORDS else id_


def target_of(id_: str) -> str:
    """Give the id of what follows as a document writes it."""
    return END_TARGET if spelled(id_) == END else id_


def shown(target: str) -> str:
    """Give what follows as a graph shows it."""
    return END if target == END_TARGET else target


def has_next(fields: Mapping[str, Any]) -> bool:
    """Tell whether a node goes on along edges."""
    kind = fields.get("type")
    return isinstance(kind, str) and kind in NODES and issubclass(NODES[kind], StepNode)


def joined(
    nodes: Mapping[str, Fields], edges: Sequence[Edge]
) -> tuple[str | None, dict[str, Fields], list[Problem]]:
    """Give where the graph starts, its nodes with what follows each, and what is wrong with the edges.

    What is wrong is told once: what follows is then put in so that nothing further comes of it.
    """
    problems = list(_ends(nodes, edges))
    out = {id_: dict(fields) for id_, fields in nodes.items()}
    by_source: dict[str, list[Edge]] = {}
    for edge in dict.fromkeys(edges):
        by_source.setdefault(edge.source, []).append(edge)
    for id_, fields in out.items():
        leaving = by_source.get(id_, [])
        if has_next(fields):
            fields["next"] = _next(id_, leaving, problems)
        else:
            problems.extend(_useless(id_, str(fields.get("type")), edge) for edge in leaving)
    start = _start(by_source.get(START, []), list(nodes), problems)
    return start, out, problems


def _ends(nodes: Mapping[str, Fields], edges: Sequence[Edge]) -> Iterator[Problem]:
    for edge, times in Counter(edges).items():
        if times > 1:
            said = f"the edge {arrow(edge)} is declared {times} times"
            yield Problem(code="TR225", message=said, node=edge.source)
        if edge.target == START:
            said = f"the edge {arrow(edge)} leads back to START"
            yield Problem(code="TR226", message=said, node=edge.source)
        if edge.source == END:
            yield Problem(code="TR226", message=f"the edge {arrow(edge)} leaves END", node=edge.target)
        elif edge.source != START and edge.source not in nodes:
            said = f"the edge {arrow(edge)} names '{edge.source}', which is not a node"
            yield Problem(
                code="TR223", message=said, node=edge.source, hint=suggest(edge.source, list(nodes))
            )


def _start(edges: Sequence[Edge], ids: Sequence[str], problems: list[Problem]) -> str | None:
    for edge in edges:
        if edge.when is not None:
            said = f"the edge {arrow(edge)} has a condition, and nothing is known yet at the start"
            hint = "use add_conditional_edges(START, …), or begin with a switch"
            problems.append(Problem(code="TR232", message=said, node=edge.target, hint=hint))
    if len(edges) > 1:
        targets = ", ".join(e.target for e in edges)
        said = f"{len(edges)} edges leave START, to {targets}; a run goes on along one"
        hint = "begin with a parallel node: add_parallel"
        problems.append(Problem(code="TR228", message=said, node=START, hint=hint))
    if edges:
        return target_of(edges[0].target)
    said = "no edge leaves START, so a run would have nothing to do"
    hint = f"add_edge(START, '{ids[0]}')" if ids else "add a node and an edge from START to it"
    problems.append(Problem(code="TR227", message=said, node=START, hint=hint))
    return ids[0] if ids else None


def _next(id_: str, edges: Sequence[Edge], problems: list[Problem]) -> Any:
    plain = [e for e in edges if e.when is None]
    choices = [e for e in edges if e.when is not None]
    if not edges:
        hint = f"add_edge('{id_}', END), or an edge to another node"
        problems.append(Problem(code="TR221", message=f"nothing follows '{id_}'", node=id_, hint=hint))
    elif len(plain) > 1:
        targets = ", ".join(e.target for e in plain)
        said = f"{len(plain)} edges without a condition leave '{id_}', to {targets}; a run goes on along one"
        hint = "give the others a condition with when=, or walk them at once with add_parallel"
        problems.append(Problem(code="TR228", message=said, node=id_, hint=hint))
    elif not plain:
        said = f"nothing follows '{id_}' where no condition holds"
        hint = f"add an edge from '{id_}' without when"
        problems.append(Problem(code="TR232", message=said, node=id_, hint=hint))
    last = target_of(plain[0].target) if plain else END_TARGET
    if not choices:
        return last
    return [*({"when": e.when, "to": target_of(e.target)} for e in choices), {"to": last}]


def _useless(id_: str, kind: str, edge: Edge) -> Problem:
    hints = {
        "switch": "a switch leads where its cases and its default say",
        "parallel": "lead each branch to the join; what follows the join is an edge of the join",
    }
    what = "which ends the run" if kind in ("end", "fail") else f"which is a {kind}"
    said = f"the edge {arrow(edge)} leaves '{id_}', {what}, and would never be taken"
    return Problem(code="TR230", message=said, node=id_, hint=hints.get(kind, "remove it"))


def arrow(edge: Edge) -> str:
    """Give an edge as a message shows it."""
    return f"{edge.source} -> {edge.target}" + ("" if edge.when is None else f" ('{edge.when}')")


def parted(id_: str, fields: Fields) -> list[Edge]:
    """Take what follows out of a node that a document gave, as edges."""
    following = fields.pop("next", None)
    if isinstance(following, str):
        return [Edge(id_, shown(following))]
    routes = following if is_list(following) else []
    return [Edge(id_, shown(route["to"]), route.get("when")) for route in routes]


def own_edges(id_: str, fields: Mapping[str, Any]) -> Iterator[Edge]:
    """Give the edges that a node itself declares: cases, branches, a timeout, routes of errors."""
    kind = fields.get("type")
    if kind == "switch":
        for literal, target in fields.get("cases", {}).items():
            yield Edge(id_, shown(target), literal)
        if "default" in fields:
            yield Edge(id_, shown(fields["default"]), DEFAULT)
    elif kind == "parallel":
        for target in fields.get("branches", ()):
            yield Edge(id_, target)
    elif kind == "human" and fields.get("on_timeout", "fail") not in TIMEOUT_WORDS:
        yield Edge(id_, shown(fields["on_timeout"]), TIMEOUT)
    routes = fields.get("on_error")
    for route in routes if is_list(routes) else ():
        if is_mapping(route) and isinstance(route.get("to"), str):
            codes = ",".join(route.get("on", ()))
            yield Edge(id_, shown(route["to"]), f"{ERROR}: {codes}" if codes else ERROR)
