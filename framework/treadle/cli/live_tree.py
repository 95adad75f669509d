"""Show a run of a workflow while it is walked: a line for each step when it ends, below what it stands in."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from treadle.cli import flow_lines, lines
from treadle.cli.family import is_workflow_run
from treadle.cli.live import Screen, step_text
from treadle.cli.output import data, is_quiet, style, width

if TYPE_CHECKING:
    from treadle.graph.places import Places
    from treadle.objects.event import Event
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle

_ENDED = ("completed", "failed", "cancelled", "expired")


class _Scope(NamedTuple):
    """What steps stand in: a frame, an item or a round of it, a child run, a function that calls."""

    key: str
    label: str
    note: str = ""


@dataclass
class _Member:
    """One of the runs that are shown: the workflow's own, or one within it."""

    run: Run
    chain: tuple[_Scope, ...]
    places: Places | None
    steps: dict[int, Step] = field(default_factory=dict[int, "Step"])
    by_seq: dict[int, Step] = field(default_factory=dict[int, "Step"])
    by_path: dict[str, Step] = field(default_factory=dict[str, "Step"])
    known: int = 0

    @property
    def speaks_on(self) -> str:
        return self.run.thread_id

    def learn(self, steps: list[Step]) -> None:
        """Take the rows from the first one on that is not known to have ended."""
        for step in steps:
            self.steps[step.n] = self.by_path[step.path] = step
            if step.event_seq is not None:
                self.by_seq[step.event_seq] = step
        if self.places is not None:
            self.places.learn(steps)
        while (known := self.steps.get(self.known)) is not None and not known.is_open:
            self.known += 1

    def scopes(self, path: str) -> tuple[_Scope, ...]:
        """Give what a step stands in, outermost first."""
        if self.places is None:
            return self.chain
        inner = [s for name in self.places.of(path) if (s := self.scope(name)) is not None]
        return (*self.chain, *inner)

    def scope(self, name: str) -> _Scope | None:
        """Give the scope of a name; None for an item or a round that is one step alone."""
        places = self.places
        assert places is not None
        key = f"{self.run.id} {name}"
        if name.endswith("]"):
            frame = self.by_path.get(name.rpartition("[")[0])
            if frame is not None and places.is_single(frame.node):
                return None
            return _Scope(key, places.lane_label(name))
        step = self.by_path.get(name)
        if step is None:
            return _Scope(key, places.name_of(name))
        said = flow_lines.opened_text(step, places) if step.kind == "frame" else ""
        return _Scope(key, places.label(step), said or flow_lines.child_text(step, places))


class LiveTree(Screen):
    """What a person sees of a run of a workflow: header, steps and messages on stderr, the outputs on stdout.

    A workflow without outputs has its messages on stdout, as an agent has its answer.
    """

    def __init__(self, treadle: Treadle, workflow: Workflow, labels: int) -> None:
        """Take the workflow, and the width of the column of step names."""
        has_outputs = bool(workflow.spec.outputs)
        super().__init__(treadle, labels=labels, out=sys.stderr if has_outputs else sys.stdout)
        self._treadle = treadle
        self._workflow = workflow
        self._is_mute = has_outputs and is_quiet()
        self._members: dict[str, _Member] = {}
        self._root: str | None = None
        self._open: tuple[_Scope, ...] = ()
        self._entered: set[str] = set()
        self._speaker: str | None = None
        self._until_ms: int | None = None

    async def take(self, event: Event) -> None:
        """Show what an event says."""
        if self._root is None:
            await self._begin(event.run_id)
        what = event.name.removeprefix("thread.run.step.")
        if event.name == "thread.message.delta":
            await self._hear(event)
        elif what == "in_progress":
            await self._began(event)
        elif what in _ENDED and event.seq is not None:
            self._moving.end(_key(event))
            await self._ended(event)
        elif event.name == "thread.run.in_progress" and event.run_id == self._root:
            self._rest(event)
        self._draw()

    async def close(self, run: Run) -> None:
        """End what is open, list what waits, and give the outputs of a run that completed."""
        self._moving.stop()
        self._answer.abandon()
        self._speaker = None
        self.show_waiting(run)
        if run.status == "completed" and run.output not in (None, {}) and not self.is_broken:
            data(json.dumps(run.output, ensure_ascii=False, indent=2))

    # -- runs ------------------------------------------------------------------------------------------------

    async def _begin(self, run_id: str) -> None:
        self._root = run_id
        run = (await self._member(run_id)).run
        name = lines.one_line(self._workflow.name or self._workflow.id)
        self.say(f"{run.thread_id}  {run.id}  workflow {name} version {run.agent_version}", "dim")
        if run.in_line:
            self.say("  in line: the thread is busy with another run", "yellow")
        self._moving.start(self._draw)

    async def _member(self, run_id: str) -> _Member:
        known = self._members.get(run_id)
        if known is not None:
            return known
        run = await self._treadle.runs.get(run_id, output=False)
        chain: tuple[_Scope, ...] = ()
        if run_id != self._root and run.parent_id is not None:
            chain = await self._chain(run)
        found = _Member(run, chain, await self._places(run))
        self._members[run_id] = found
        return found

    async def _chain(self, run: Run) -> tuple[_Scope, ...]:
        """Give what a child run stands in: the step that waits for it, and what that stands in."""
        parent = await self._member(run.parent_id or "")
        step = next((s for s in parent.by_path.values() if s.child == run.id), None)
        if step is None:
            await self._read(parent, 0)
            step = next((s for s in parent.by_path.values() if s.child == run.id), None)
        if step is None:
            return parent.chain
        scope = parent.scope(step.path)
        return (*parent.scopes(step.path), *([scope] if scope is not None else []))

    async def _places(self, run: Run) -> Places | None:
        if not is_workflow_run(run):
            return None
        from treadle.graph.nodes import StepGraph
        from treadle.graph.places import Places

        return Places(StepGraph.load(await self._treadle.store.graph(run.tenant, run.graph)))

    async def _read(self, member: _Member, first: int) -> None:
        member.learn(await self._treadle.runs.steps(member.run.id, first=first))

    async def _step(self, event: Event) -> tuple[_Member, Step | None]:
        """Give the step that an event is of; the journal is read again only for what it lacked."""
        member = await self._member(event.run_id)
        seq = event.seq or 0
        if seq not in member.by_seq:
            await self._read(member, member.known)
        return member, member.by_seq.get(seq)

    # -- events ----------------------------------------------------------------------------------------------

    async def _hear(self, event: Event) -> None:
        """Write a piece of a message of the run's own thread; where several speak at once, one is heard."""
        if self._is_mute or self._speaker not in (None, event.run_id):
            return
        if not await self._is_on_thread(event.run_id):
            return
        self._speaker = event.run_id
        self._moving.clear()
        self._answer.write(str(event.data["text"]))

    async def _is_on_thread(self, run_id: str) -> bool:
        root = await self._member(self._root or run_id)
        return (await self._member(run_id)).speaks_on == root.speaks_on

    async def _began(self, event: Event) -> None:
        if (
            "waits" in event.data
            or "child" in event.data
            or "answered" in event.data
            or "decision" in event.data
        ):
            return
        member = await self._member(event.run_id)
        path = event.object_id or ""
        if member.places is not None:
            label = member.places.name_of(path)
        else:
            label = str(event.data.get("tool") or str(event.data.get("kind", "")).replace("_", " "))
        self._moving.begin(_key(event), label)

    async def _ended(self, event: Event) -> None:
        member, step = await self._step(event)
        if step is None or step.is_open:
            return
        if member.places is None:
            await self._tell_of_agent(member, step)
        else:
            await self._tell(member, step, member.places)

    async def _tell(self, member: _Member, step: Step, places: Places) -> None:
        part = places.part(step)
        if part == "round":
            return
        chain = member.scopes(step.path)
        if part == "opening":
            scope = member.scope(step.path)
            self._enter((*chain, scope) if scope is not None else chain)
            return
        ms = None if step.ended_ms is None else step.ended_ms - step.started_ms
        if part == "closing":
            opened = member.by_path.get(step.path.rpartition("/")[0])
            ms = step.ended_ms - opened.started_ms if opened is not None and step.ended_ms else ms
            label = places.label(opened or step)
        else:
            label = places.label(step)
        self._enter(chain)
        room = max(16, width() - self._labels - 13)
        said = flow_lines.note_of(step, places, room=room)
        self._line(lines.mark_of(step) if step.status != "cancelled" else "○", label, ms, said, len(chain))
        if step.message_seq is not None and step.kind == "append_message" and member.run.id == self._root:
            await self._print(member, step)

    async def _tell_of_agent(self, member: _Member, step: Step) -> None:
        """Show a step of an agent's run as `treadle run` of the agent does; what it says elsewhere stands in the line."""
        detail = await self._treadle.runs.detail(member.run, step)
        chain = member.scopes(step.path)
        self._enter(chain)
        text = step_text(
            step, detail.calls, detail.output, labels=max(1, self._labels - 2 * len(chain)), indent=len(chain)
        )
        is_here = await self._is_on_thread(member.run.id)
        if detail.text and not is_here:
            text = lines.cut(f'{text}   "{lines.one_line(detail.text)}"', width())
        self._answer.line(text)
        if detail.text is not None and is_here:
            await self._print(member, step)

    async def _print(self, member: _Member, step: Step) -> None:
        """Write a message of the run's own thread whole."""
        if self._is_mute:
            return
        detail = await self._treadle.runs.detail(member.run, step)
        if detail.text is None:
            return
        if self._speaker not in (None, member.run.id):
            self._answer.abandon()
        self._speaker = None
        self._moving.clear()
        self._answer.settle(detail.text)

    def _rest(self, event: Event) -> None:
        until = event.data.get("until")
        if until is not None:
            self.say(f"  {lines.WAITING} {flow_lines.rest_text(int(until) * 1000)}", "yellow")

    # -- lines -----------------------------------------------------------------------------------------------

    def _enter(self, chain: tuple[_Scope, ...]) -> None:
        """Go to what the next line stands in, and say what that is where it was not said just before."""
        same = 0
        for ours, theirs in zip(self._open, chain, strict=False):
            if ours.key != theirs.key:
                break
            same += 1
        for depth in range(same, len(chain)):
            scope = chain[depth]
            # What others came in between of is only named again.
            said = scope.note if scope.key not in self._entered else "…"
            self._entered.add(scope.key)
            self._line(flow_lines.OPENED, scope.label, None, said, depth)
        self._open = chain

    def _line(self, mark: str, label: str, ms: int | None, said: str, indent: int) -> None:
        text = flow_lines.step_line(
            mark, lines.one_line(label), ms=ms, note=said, indent=indent, labels=self._labels, columns=width()
        )
        color = {lines.FAILED: "red", lines.DONE: "green"}.get(mark, "dim")
        self._answer.line(text.replace(mark, style(mark, color, stream=sys.stderr), 1))


def _key(event: Event) -> str:
    return f"{event.run_id} {event.object_id}"
