"""The trace: what a run did, as an acyclic graph of its executed steps, read from the journal.

Rules

1. A step is one node for each attempt; its id is its path, with ``@n`` for the attempts after the first.
2. An edge leads from each step to the steps that it made ready, and from each attempt to the next.
3. A step whose cause belongs to a node that expands was made ready by all steps of that group: a join.
4. Edges go forward in the journal only, whatever its rows say, so the trace has no cycle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


class TraceEdge(NamedTuple):
    """From a step to one that it made ready; `label` is the edge that was taken, or ``retry``."""

    source: str
    target: str
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLine:
    """A step as a row of a listing, in the order of the journal with the steps of a group together.

    Shapes: `indent` counts the groups that the step lies in; `note` says why it failed or waits, or what a
    model call asked for. Units: `duration_ms` is None while the step is open.
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


@dataclass(frozen=True)
class Trace:
    """The executed steps of a run and what made each of them ready."""

    run: Run
    graph: StepGraph
    steps: tuple[Step, ...]
    price: Price | None = None

    @classmethod
    def of(cls, run: Run, graph: StepGraph, steps: Sequence[Step], *, price: Price | None = None) -> Trace:
        """Read the trace of a run from its journal; with a price, every model call has its cost."""
        ordered = sorted(steps, key=lambda step: (step.n, step.attempt))
        return cls(run, graph, tuple({_id(step): step for step in ordered}.values()), price)

    @cached_property
    def step(self) -> dict[str, Step]:
        """Give the steps by their id in the trace, in the order of the journal."""
        return {_id(step): step for step in self.steps}

    @cached_property
    def edges(self) -> tuple[TraceEdge, ...]:
        """Give the edges, ordered by the steps that they lead to."""
        return tuple(self._edges())

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
        `usd` where the trace has a price; edges have `label`; the graph has `run`, `status` and `digest`.
        Units: `started_at` Unix seconds, `duration_s` seconds, `usd` US dollars.
        """
        import networkx as nx

        graph: DiGraph[str] = nx.DiGraph(run=self.run.id, status=self.run.status, digest=self.graph.digest)
        for id_, step in self.step.items():
            graph.add_node(id_, **self._attributes(step))
        for edge in self.edges:
            graph.add_edge(edge.source, edge.target, label=edge.label or "")
        nx.freeze(graph)  # pyright: ignore[reportUnknownMemberType] - unstubbed
        return graph

    def _attributes(self, step: Step) -> dict[str, Any]:
        usage = step.usage or Usage()
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
            "usd": self._usd(step.usage or Usage()),
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
        lines = {(line.path, line.attempt): line for line in self.tree()}
        boxes = (self._box(id_, step, lines[step.path, step.attempt]) for id_, step in self.step.items())
        arrows = (
            Arrow(source=edge.source, target=edge.target, label="retry" if edge.label == "retry" else "")
            for edge in self.edges
        )
        return Drawing(one_line(f"{self.run.id} {self.run.status}"), tuple(boxes), tuple(arrows))

    def _box(self, id_: str, step: Step, line: TraceLine) -> Box:
        lines = [one_line(id_)] if step.tool else []
        lines.append(" · ".join(filter(None, (line.status.replace("_", " "), _time(line.duration_ms)))))
        if cost := _cost(line):
            lines.append(cost)
        if note := _note(step, ()):
            lines.append(note)
        return Box(
            id=id_,
            label=one_line(step.tool or id_),
            lines=tuple(lines),
            shape=SHAPES.get(step.kind, "box"),
            status=line.status,
        )

    def tree(self) -> list[TraceLine]:
        """List the steps for a reader, each group of parallel steps together and one level deeper."""
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
        is_waiting = step.is_open and any(pending.path == step.path for pending in self.run.pending)
        status: Status = "waiting" if is_waiting else step.status
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
        )


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
