"""Find what would keep a run from walking a graph to its END.

Every check looks at the whole graph and tells all it finds; problems come in the order of the declaration.

    TR220 no way leads to the node          TR226 a reserved or unusable name
    TR221 no way leads from it to END       TR227 nothing follows START
    TR222 a cycle that nothing bounds       TR228 several edges at once
    TR223 an edge names an unknown node     TR229 a label that leads nowhere
    TR224 a node is declared twice          TR230 a label that is never taken
    TR225 an edge is declared twice         TR231 a node that no step kind can execute as it is
    TR240 an edge leads into or out of a body
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeAlias, cast, get_args

from treadle.errors import Problem
from treadle.graph.nodes import END, START, Edge, Node, StepGraph
from treadle.objects.run_step import StepKind

if TYPE_CHECKING:
    from networkx import DiGraph

    Shape: TypeAlias = DiGraph[str]

# `#`, `/`, `[` and `@` belong to step paths.
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")

_LABELS: Mapping[str, tuple[str, ...]] = {
    START: (),
    "model_call": ("tool_calls", "text"),
    "tool_call": (),
    "append_message": (),
}
"""The labels that steps of a kind take, for the kinds where they are known before a run; a node of a workflow has those
that its document gives it."""


def check(graph: StepGraph) -> list[Problem]:
    """List the problems of a graph; an empty list means that every run of it can end."""
    return [
        *_node_problems(graph),
        *_edge_problems(graph),
        *_label_problems(graph),
        *_shape_problems(graph),
    ]


def _problem(code: str, message: str, *, node: str | None, hint: str | None = None) -> Problem:
    return Problem(code=code, message=message, node=node, hint=hint)


def _did_you_mean(name: str, known: Iterable[str]) -> str | None:
    names = list(known)
    for reserved in (START, END):
        if name.upper() == reserved and name != reserved and reserved in names:
            return f"did you mean {reserved}?"
    close = get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else None


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable()


def _node_problems(graph: StepGraph) -> Iterator[Problem]:
    kinds = get_args(StepKind)
    if not _is_name(graph.name):
        yield _problem(
            "TR226", f"{graph.name!r} cannot be the name of a graph", node=None, hint="give it a name"
        )
    seen: set[str] = set()
    for node in graph.nodes:
        if node.id in seen:
            yield _problem(
                "TR224",
                f"node '{node.id}' is declared twice",
                node=node.id,
                hint="give one of them another id",
            )
        seen.add(node.id)
        if node.id in {START, END}:
            yield _problem(
                "TR226",
                f"'{node.id}' is where a run {'starts' if node.id == START else 'ends'}, not a node",
                node=node.id,
                hint="give the node another id",
            )
        elif not _ID.fullmatch(_own_name(node)):
            yield _problem(
                "TR226",
                f"'{node.id}' cannot be the id of a node",
                node=node.id,
                hint="write a letter, then up to 63 letters, digits, underscores, dots or dashes",
            )
        if node.within is not None and _body_label(graph.node.get(node.within)) is None:
            yield _problem(
                "TR231",
                f"node '{node.id}' lies within '{node.within}', which is no loop and no map",
                node=node.id,
            )
        if node.kind not in kinds:
            yield _problem(
                "TR231",
                f"node '{node.id}' has the unknown kind '{node.kind}'",
                node=node.id,
                hint=_did_you_mean(node.kind, kinds) or f"known: {', '.join(kinds)}",
            )
        if node.max_visits is not None and node.max_visits < 1:
            yield _problem(
                "TR231",
                f"node '{node.id}' may be visited {node.max_visits} times, so no run can pass it",
                node=node.id,
                hint="give a max_visits of 1 or more",
            )
        if reason := _not_json(node):
            yield _problem(
                "TR231",
                f"the params of node '{node.id}' are not JSON: {reason}",
                node=node.id,
                hint="give plain data",
            )


def _own_name(node: Node) -> str:
    """Give the id of a node without the frame around it."""
    return node.id.removeprefix(f"{node.within}/") if node.within is not None else node.id


_BODY_LABELS: Mapping[object, str] = {"loop": "round", "map": "item"}


def _body_label(node: Node | None) -> str | None:
    """Give the label that leads into a node's body; None for a node without one."""
    return _BODY_LABELS.get(node.params.get("type")) if node is not None and node.kind == "frame" else None


def _not_json(node: Node) -> str | None:
    if not node.params:
        return None
    try:
        json.dumps(node.params, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as e:
        return str(e)
    return None


def _edge_problems(graph: StepGraph) -> Iterator[Problem]:
    known = [START, *graph.node, END]
    ids = set(known)
    for edge in graph.edges:
        for end in (edge.source, edge.target):
            if end not in ids:
                yield _problem(
                    "TR223",
                    f"the edge {_arrow(edge)} names '{end}', which is not a node",
                    node=end,
                    hint=_did_you_mean(end, known),
                )
        if edge.when is not None and not _is_name(edge.when):
            yield _problem(
                "TR226",
                f"{edge.when!r} cannot be the label of an edge",
                node=edge.source,
                hint="write printable characters on one line",
            )
        if _crosses(graph, edge):
            yield _problem(
                "TR240",
                f"the edge {_arrow(edge)} leads from one body to another",
                node=edge.source,
                hint="a body is entered from its frame, and left to it",
            )
        if edge.target == START:
            yield _problem("TR226", f"the edge {_arrow(edge)} leads back to START", node=edge.source)
        if edge.source == END:
            yield _problem("TR226", f"the edge {_arrow(edge)} leaves END", node=edge.target)
    for edge, times in Counter(graph.edges).items():
        if times > 1:
            yield _problem("TR225", f"the edge {_arrow(edge)} is declared {times} times", node=edge.source)
    if START not in graph.out_edges:
        first = graph.nodes[0].id if graph.nodes else None
        hint = f"add_edge(START, '{first}')" if first else "add a node and an edge from START to it"
        yield _problem(
            "TR227", "no edge leaves START, so a run would have nothing to do", node=START, hint=hint
        )


def _crosses(graph: StepGraph, edge: Edge) -> bool:
    source, target = graph.node.get(edge.source), graph.node.get(edge.target)
    within = source.within if source is not None else None
    into = target.within if target is not None else None
    return within != into and not (
        (source is not None and into == source.id and edge.when == _body_label(source))
        or (target is not None and within == target.id)
    )


def _arrow(edge: Edge) -> str:
    return f"{edge.source} -> {edge.target}" + ("" if edge.when is None else f" ('{edge.when}')")


def _label_problems(graph: StepGraph) -> Iterator[Problem]:
    """Compare each node's edges with the labels that its steps take."""
    for source in (START, *graph.node):
        edges = list(dict.fromkeys(graph.out_edges.get(source, ())))
        by_label: dict[str | None, list[str]] = {}
        for edge in edges:
            by_label.setdefault(edge.when, []).append(edge.target)
        is_parallel = source in graph.node and graph.node[source].params.get("type") == "parallel"
        for label, targets in by_label.items():
            if len(targets) > 1 and not (label is None and is_parallel):
                what = "without a label" if label is None else f"with the label '{label}'"
                yield _problem(
                    "TR228",
                    f"{len(targets)} edges {what} leave '{source}', to {', '.join(targets)};"
                    " a run goes on along one",
                    node=source,
                    hint="give each edge its own label with when=",
                )
        choices = [label for label in by_label if label is not None and not _stands_beside(label)]
        if None in by_label and choices:
            others = ", ".join(f"'{label}'" for label in choices)
            yield _problem(
                "TR228",
                f"the edge without a label from '{source}' to '{by_label[None][0]}' would be taken beside {others};"
                " a run goes on along one",
                node=source,
                hint="give it a label of its own with when=",
            )
        entry = _body_label(graph.node.get(source))
        if entry is not None and entry not in by_label:
            yield _problem(
                "TR229",
                f"no edge leaves '{source}' for the label '{entry}', so it has no body",
                node=source,
                hint=f"add_edge('{source}', …, when='{entry}')",
            )
        kind = START if source == START else graph.node[source].kind
        is_told = source in graph.node and "type" in graph.node[source].params
        if edges and kind in _LABELS and not is_told:
            yield from _known_label_problems(source, kind, by_label)


def _stands_beside(label: str) -> bool:
    """Tell whether a label is taken in place of the edge without one: for an error, or when time is up."""
    return label in {"error", "timeout"} or label.startswith("error: ")


def _known_label_problems(
    source: str, kind: str, by_label: Mapping[str | None, list[str]]
) -> Iterator[Problem]:
    labels = _LABELS[kind]
    for label, targets in by_label.items():
        if label is not None and label not in labels:
            takes = f"takes {' or '.join(labels)}" if labels else "takes no label"
            yield _problem(
                "TR230",
                f"the edge from '{source}' to '{targets[0]}' is never taken: {kind} {takes}, not '{label}'",
                node=source,
                hint=_did_you_mean(label, labels) or (None if labels else "leave when= out"),
            )
    if None in by_label:
        return
    for label in labels:
        if label in by_label:
            continue
        yield _problem(
            "TR229",
            f"no edge leaves '{source}' for the label '{label}', which a {kind} may take",
            node=source,
            hint=f"add_edge('{source}', …, when='{label}'), or one edge without a label",
        )


def _shape_problems(graph: StepGraph) -> Iterator[Problem]:
    """Look for nodes that are never reached, nodes that never end, and cycles that never stop."""
    import networkx as nx

    shape: Shape = nx.DiGraph()
    shape.add_nodes_from((START, *graph.node, END))
    place = {id_: i for i, id_ in enumerate(shape)}
    # An end that is no node has been told already; START and END stand in, so that nothing follows from it.
    shape.add_edges_from(
        (e.source if e.source in place else START, e.target if e.target in place else END)
        for e in graph.edges
    )
    if START in graph.out_edges:
        yield from _unreachable(shape)
    yield from _dead_ends(shape, place)
    yield from _endless(shape, place, graph)


def _unreachable(shape: Shape) -> Iterator[Problem]:
    reached = _closure(shape, START)
    for id_ in shape:
        if id_ not in reached and id_ not in {START, END}:
            yield _problem(
                "TR220",
                f"no way leads from START to '{id_}'",
                node=id_,
                hint="add an edge to it, or remove the node",
            )


def _dead_ends(shape: Shape, place: Mapping[str, int]) -> Iterator[Problem]:
    """Tell the nodes where a run would get stuck, once for each place of getting stuck.

    A run that cannot reach END comes to rest in a component that nothing leaves, so these are all there are;
    what only leads into one is named with it.
    """
    lost = set(shape) - _closure(shape, END, backwards=True) - {END, START}
    inner = shape.subgraph(lost)
    for ids in _components(inner, place):
        members = set(ids)
        if any(target not in members for id_ in ids for target in shape.successors(id_)):
            continue
        before = sorted((_closure(inner, ids[0], backwards=True) - members), key=place.__getitem__)
        what = f"'{ids[0]}'" if len(ids) == 1 else f"the cycle of {_list(ids)}"
        also = (
            f", nor from {_list(before)}, which lead{'s' if len(before) == 1 else ''} only there"
            if before
            else ""
        )
        yield _problem(
            "TR221", f"no way leads from {what} to END{also}", node=ids[0], hint="add an edge out of it"
        )


def _endless(shape: Shape, place: Mapping[str, int], graph: StepGraph) -> Iterator[Problem]:
    """Tell the cycles that avoid every node with a bound: they are all that is left without those nodes.

    A frame bounds its rounds or items itself, so that the ways into its body begin no cycle.
    """
    rest = shape.copy()
    rest.remove_edges_from(
        (e.source, e.target)
        for e in graph.edges
        if e.when and e.when == _body_label(graph.node.get(e.source))
    )
    rest = rest.subgraph([id_ for id_, node in graph.node.items() if node.max_visits is None])
    for ids in _components(rest, place):
        if len(ids) > 1 or rest.has_edge(ids[0], ids[0]):
            cycle = _cycle(rest.subgraph(ids), ids[0])
            yield _problem(
                "TR222",
                f"nothing bounds the cycle {' -> '.join([*cycle, cycle[0]])}",
                node=cycle[0],
                hint="give one of its nodes a max_visits",
            )


def _closure(shape: Shape, id_: str, *, backwards: bool = False) -> set[str]:
    """Give the nodes that a way leads to from this one, or from which a way leads to it."""
    import networkx as nx

    if backwards:
        return nx.ancestors(shape, id_)  # pyright: ignore[reportUnknownMemberType] - the stubs leave `source` open
    return nx.descendants(shape, id_)  # pyright: ignore[reportUnknownMemberType] - the stubs leave `source` open


def _components(shape: Shape, place: Mapping[str, int]) -> list[list[str]]:
    import networkx as nx

    found = [sorted(ids, key=place.__getitem__) for ids in nx.strongly_connected_components(shape)]
    return sorted(found, key=lambda ids: place[ids[0]])


def _cycle(shape: Shape, id_: str) -> list[str]:
    import networkx as nx

    found = nx.find_cycle(shape, id_)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - unstubbed
    return [source for source, _ in cast("list[tuple[str, str]]", found)]


def _list(ids: list[str]) -> str:
    shown = ", ".join(f"'{id_}'" for id_ in ids[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"
