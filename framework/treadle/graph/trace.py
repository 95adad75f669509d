"""The trace: what a run did, as an acyclic graph of its executed steps, read from the journal.

Rules

1. A step is one node for each attempt; its id is its path, with ``@n`` for the attempts after the first.
2. An edge leads from each step to the steps that it made ready, and from each attempt to the next.
3. A step whose cause belongs to a node that expands was made ready by all steps of that group: a join.
4. Edges go forward in the journal only, whatever its rows say, so the trace has no cycle; but those to the calls that the
   function of a node made, which lead on to nothing.
5. The trace of a workflow has the traces of its child runs within it; the ids of their steps begin with the id of the
   step that waits for the run, and ``>``. A frame is closed by the last steps of its branches, items or rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.graph.drawing import SHAPES, Arrow, Box, Drawing, Status, one_line
from treadle.graph.nodes import StepGraph
from treadle.graph.tree import MARKS
from treadle.objects.agent import Price
from treadle.objects.run import Run, Usage
from treadle.objects.run_step import Step

if TYPE_CHECKING:
    from networkx import DiGraph

    from treadle.graph.render import Format


WITHIN = ">"
"""What stands between the id of a step and the ids of the steps of its child run."""


class TraceEdge(NamedTuple):
    """From a step to one that it made ready; `label` is the edge that was taken, or ``retry``."""

    source: str
    target: str
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLine:
    """A step as a row of a listing, in the order of the journal with the steps of a group together.

    Shapes: `indent` counts the groups that the step lies in; `note` says why it failed or waits, or what a
    model call asked for. `step` is the row of the journal with its result, None for the line of an item or a round; `trace` is the
    one of the run whose step it is. Units: `duration_ms` is None while the step is open.
    """

    indent: int
    marker: str
    label: str
    path: str
    attempt: int
    status: Status
    duration_ms: int | None = None
    tokens: int | None = None
    usage: Usage | None = None
    usd: float | None = None
    note: str | None = None
    step: Step | None = None
    trace: Trace | None = None


@dataclass(frozen=True)
class Trace:
    """The executed steps of a run and what made each of them ready; `children` are the traces of its child runs by id."""

    run: Run
    graph: StepGraph
    steps: tuple[Step, ...]
    price: Price | None = None
    children: Mapping[str, Trace] = field(default_factory=dict[str, "Trace"])

    @classmethod
    def of(
        cls,
        run: Run,
        graph: StepGraph,
        steps: Sequence[Step],
        *,
        price: Price | None = None,
        children: Mapping[str, Trace] | None = None,
    ) -> Trace:
        """Read the trace of a run from its journal; with a price, every model call has its cost."""
        ordered = sorted(steps, key=lambda step: (step.n, step.attempt))
        return cls(run, graph, tuple({_id(step): step for step in ordered}.values()), price, children or {})

    @cached_property
    def step(self) -> dict[str, Step]:
        """Give the steps by their id in the trace, in the order of the journal."""
        return {_id(step): step for step in self.steps}

    @cached_property
    def edges(self) -> tuple[TraceEdge, ...]:
        """Give the edges, ordered by the steps that they lead to; those of child runs behind them."""
        if not self.graph.is_workflow:
            return tuple(self._edges())
        from treadle.graph.outline import flow_edges

        own = tuple(flow_edges(self.graph, self.step))
        inner = tuple(
            TraceEdge(source if source == id_ else f"{id_}{WITHIN}{source}", f"{id_}{WITHIN}{target}", label)
            for id_, child in self._inner()
            for source, target, label in (
                *(TraceEdge(id_, first) for first in child.firsts),
                *child.edges,
            )
        )
        return own + inner

    @property
    def firsts(self) -> list[str]:
        """Give the ids of the steps that no step of the run made ready."""
        targets = {edge.target for edge in self.edges}
        return [id_ for id_ in self.step if id_ not in targets]

    @cached_property
    def total(self) -> int:
        """Count the steps that were executed or begun, those of child runs included; parts of frames are none."""
        from treadle.graph.outline import counted

        own = counted(self.graph, self.steps) if self.graph.is_workflow else len(self.steps)
        return own + sum(child.total for _, child in self._inner())

    def _inner(self) -> Iterator[tuple[str, Trace]]:
        """Give the traces of child runs with the ids of the steps that wait for them."""
        for id_, step in self.step.items():
            child = self.children.get(step.child or "")
            if child is not None:
                yield id_, child

    def parts(self, prefix: str = "") -> Iterator[tuple[str, str, Step, Trace]]:
        """Give every step with its id, the id of the step around it, and its trace; child runs behind their parents."""
        for id_, step in self.step.items():
            yield f"{prefix}{id_}", prefix.removesuffix(WITHIN), step, self
        for id_, child in self._inner():
            yield from child.parts(f"{prefix}{id_}{WITHIN}")

    def _edges(self) -> Iterator[TraceEdge]:
        latest: dict[str, str] = {}
        groups: dict[str, dict[str, None]] = {}
        for id_, step in self.step.items():
            if step.path in latest:
                yield TraceEdge(latest[step.path], id_, "retry")
            else:
                for path in self._causes(step, groups):
                    if path in latest:
                        yield TraceEdge(latest[path], id_, self.step[latest[path]].edge)
            latest[step.path] = id_
            groups.setdefault(_group(step.path), {})[step.path] = None

    def _causes(self, step: Step, groups: Mapping[str, Mapping[str, None]]) -> list[str]:
        """List the paths that made a step ready; `groups` has the earlier steps of each group."""
        if step.cause is None:
            return []
        group = step.cause if step.cause in groups else _group(step.cause)
        members = groups.get(group)
        if members and group != _group(step.path) and self._expands(group):
            return list(members)
        return [step.cause]

    def _expands(self, group: str) -> bool:
        node = self.graph.node.get(group.rpartition("/")[2].partition("#")[0])
        return node is not None and node.expands

    @cached_property
    def nx(self) -> DiGraph[str]:
        """Give the trace to networkx: a frozen DiGraph, whose `copy()` may be changed.

        Shapes: nodes have `path`, `node`, `kind`, `status`, `attempt`, `started_at`, `duration_s` (absent
        while the step is open), `prompt_tokens`, `completion_tokens`, `tokens`, `tool` where there is one,
        `usd` where the trace has a price; steps of child runs have their `run`, and the step that waited for one counts none of
        its tokens. Edges have `label`; the graph has `run`, `status` and `digest`.
        Units: `started_at` Unix seconds, `duration_s` seconds, `usd` US dollars.
        """
        import networkx as nx

        graph: DiGraph[str] = nx.DiGraph(run=self.run.id, status=self.run.status, digest=self.graph.digest)
        for id_, around, step, trace in self.parts():
            more = {"run": trace.run.id} if around else {}
            graph.add_node(id_, **trace.attributes_of(step), **more)
        for edge in self.edges:
            graph.add_edge(edge.source, edge.target, label=edge.label or "")
        nx.freeze(graph)  # pyright: ignore[reportUnknownMemberType] - unstubbed
        return graph

    def attributes_of(self, step: Step) -> dict[str, Any]:
        """Give what a node of `nx` has."""
        is_around = step.child in self.children
        usage = Usage() if is_around else step.usage or Usage()
        found = {
            "path": step.path,
            "node": step.node,
            "kind": step.kind,
            "status": step.status,
            "attempt": step.attempt,
            "started_at": step.started_ms / 1000,
            "duration_s": None if step.ended_ms is None else (step.ended_ms - step.started_ms) / 1000,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "tokens": usage.total_tokens,
            "tool": step.tool,
            "child": step.child,
            "kept": step.kept,
            "usd": None if is_around else self._usd(usage),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _usd(self, usage: Usage) -> float | None:
        if self.price is None:
            return None
        return (usage.prompt_tokens * self.price.input + usage.completion_tokens * self.price.output) / 1e6

    def draw(self, fmt: Format = "text") -> str:
        """Draw the trace as Mermaid, DOT, SVG or terminal text, with status, time and tokens on each step."""
        from treadle.graph.render import render

        return render(self, fmt)

    def drawing(self) -> Drawing:
        """Give the boxes and arrows: a box for each step, an arrow for each edge."""
        boxes = (trace.box(id_, around, step) for id_, around, step, trace in self.parts())
        # Of an agent, the tools that it called say more than the labels.
        flows = {id_ for id_, _, _, trace in self.parts() if trace.graph.is_workflow}
        arrows = (
            Arrow(
                source=edge.source,
                target=edge.target,
                label=one_line(edge.label or "") if edge.label == "retry" or edge.source in flows else "",
            )
            for edge in self.edges
        )
        return Drawing(one_line(f"{self.run.id} {self.run.status}"), tuple(boxes), tuple(arrows))

    def box(self, id_: str, around: str, step: Step) -> Box:
        """Give the box of a step; `around` is the id of the step whose child run it belongs to."""
        own = _id(step)
        line = self._line(step, ())
        lines = [one_line(own)] if step.tool else []
        lines.append(" · ".join(filter(None, (line.status.replace("_", " "), _time(line.duration_ms)))))
        if cost := _cost(line):
            lines.append(cost)
        if note := _note(step, ()):
            lines.append(note)
        return Box(
            id=id_,
            label=one_line(step.tool or own),
            lines=tuple(lines),
            shape=SHAPES.get(step.kind, "box"),
            status=line.status,
            within=around or self._owner(step),
        )

    def _owner(self, step: Step) -> str | None:
        """Give the function whose call a step is."""
        if not self.graph.is_workflow or step.kind == "frame" or not step.path.rpartition("/")[2].isdigit():
            return None
        owner = _group(step.path)
        return owner if owner in self.step else None

    def tree(self) -> list[TraceLine]:
        """List the steps for a reader, each group of parallel steps together and one level deeper.

        Of a workflow, each frame is one line with its branches, items and rounds below it, and a child run's steps stand
        below the step that waits for it.
        """
        if self.graph.is_workflow:
            from treadle.graph.outline import outline

            return outline(self)
        first: dict[str, int] = {}
        for place, step in enumerate(self.steps):
            first.setdefault(step.path, place)
            first.setdefault(_group(step.path), place)
        asked = self._asked()
        ordered = sorted(self.steps, key=lambda step: self._place(step, first))
        return [self._line(step, () if step.last_error else asked.get(step.path, ())) for step in ordered]

    def _place(self, step: Step, first: Mapping[str, int]) -> tuple[int, int, int, int]:
        group = _group(step.path)
        if group and self._expands(group):
            return first[group], step.call_index or 0, first[step.path], step.attempt
        return first[step.path], 0, 0, step.attempt

    def _asked(self) -> dict[str, tuple[str, ...]]:
        """Give what each step asked for: the tools of the steps that it made ready."""
        asked: dict[str, dict[str, str]] = {}
        for step in self.steps:
            if step.tool and step.cause:
                asked.setdefault(step.cause, {})[step.path] = step.tool
        return {path: tuple(tools.values()) for path, tools in asked.items()}

    def _line(self, step: Step, asked: Sequence[str]) -> TraceLine:
        status = self.status_of(step)
        return TraceLine(
            indent=sum(self._expands(group) for group in _groups(step.path)),
            marker=MARKS[status],
            label=one_line(step.tool or step.node.replace("_", " ")),
            path=step.path,
            attempt=step.attempt,
            status=status,
            duration_ms=None if step.ended_ms is None else step.ended_ms - step.started_ms,
            tokens=step.usage.total_tokens if step.usage else None,
            usage=step.usage,
            usd=self._usd(step.usage) if step.usage else None,
            note=_note(step, asked),
            step=step,
            trace=self,
        )

    def line(self, step: Step, *, label: str, indent: int) -> TraceLine:
        """Give the line of a step under a name."""
        return replace(self._line(step, ()), label=one_line(label), indent=indent)

    def status_of(self, step: Step) -> Status:
        """Give the status of a step; one that is open for somebody to do something waits."""
        own = (None, self.run.id)
        is_waiting = step.is_open and any(
            p.run_id == step.child if step.child is not None and p.run_id is not None
            else p.path == step.path and p.run_id in own
            for p in self.run.pending
        )  # fmt: skip
        if not is_waiting and step.is_open and (child := self.children.get(step.child or "")) is not None:
            is_waiting = child.run.status == "requires_action"
        return "waiting" if is_waiting else step.status


def _id(step: Step) -> str:
    return step.path if step.attempt == 1 else f"{step.path}@{step.attempt}"


def _group(path: str) -> str:
    """Give the path of the group that a step belongs to, empty for a step of the outermost level."""
    return path.rpartition("/")[0]


def _groups(path: str) -> Iterator[str]:
    while path := _group(path):
        yield path


def _note(step: Step, asked: Sequence[str]) -> str | None:
    parts: list[str] = []
    if step.attempt > 1:
        parts.append(f"attempt {step.attempt}")
    if step.kept:
        parts.append("kept")
    if step.last_error is not None:
        parts.append(f"{step.last_error.code}: {step.last_error.message}")
    if step.note:
        parts.append(step.note)
    elif asked:
        parts.append(f"→ {', '.join(asked)}")
    return one_line(" · ".join(parts)) or None


def _time(ms: int | None) -> str:
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms} ms"
    minutes, rest = divmod(ms / 1000, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def _cost(line: TraceLine) -> str:
    parts: list[str] = []
    if line.usage is not None:
        mark = "~" if line.usage.estimated else ""
        parts.append(f"{mark}{line.usage.prompt_tokens} in / {mark}{line.usage.completion_tokens} out")
    if line.usd is not None:
        parts.append(f"${line.usd:.4f}")
    return " · ".join(parts)
