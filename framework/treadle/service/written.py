"""Find which rows of its threads the steps of a run of a workflow wrote, the earlier runs that it kept steps of included.

A thread that is a fork has the rows that it shares at the same places, so a place in it is a place in the thread of the
earlier run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

from treadle.engine.history import Past
from treadle.engine.kept_steps import source_of
from treadle.graph.nodes import StepGraph
from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.steps.child import further_thread

if TYPE_CHECKING:
    from treadle.service import Treadle

SHARED = "shared"
"""What nodes call the thread of the run itself."""


class Rows(NamedTuple):
    """The rows of a thread that a step wrote, or only needs: the first is None then.

    Shapes: `thread` is the name that nodes have for the thread. Places count from 1.
    """

    thread: str
    first: int | None
    last: int


def thread_named(run: Run, name: str) -> str:
    """Give the id of the thread that nodes of a run call by a name."""
    return run.thread_id if name == SHARED else further_thread(run.id, name)


async def written(
    treadle: Treadle, run: Run, graph: StepGraph, past: Mapping[str, Past]
) -> dict[str, list[Rows]]:
    """Give the rows that the steps of a run wrote in threads that several of its nodes may use, by the step's path.

    Errors: NotFound where an earlier run is gone.
    """
    reader = _Reader(treadle, run)
    found: dict[str, list[Rows]] = {}
    for path, was in past.items():
        node = graph.node[was.step.node]
        type_ = node.params["type"]
        if type_ == "message":
            seq = await reader.said(was.step)
            name = node.params.get("thread", SHARED)
            found[path] = [Rows(name, seq, seq)] if seq is not None else []
        elif type_ in ("agent", "workflow"):
            name = node.params.get("thread", SHARED)
            rows = [
                await reader.of_child(child, name, has_message=node.params.get("message") is not None)
                for child in await reader.children(was.step)
            ]
            found[path] = [r for r in rows if r is not None]
    return found


class _Reader:
    """Reads each journal of the earlier runs once."""

    def __init__(self, treadle: Treadle, run: Run) -> None:
        self._treadle = treadle
        self._run = run
        self._journals: dict[str, list[Step]] = {}

    async def _journal(self, run_id: str) -> list[Step]:
        if run_id not in self._journals:
            # It is gone where its thread was deleted.
            await self._treadle.store.get(Run, self._run.tenant, run_id)
            self._journals[run_id] = await self._treadle.store.steps(self._run.tenant, run_id)
        return self._journals[run_id]

    async def _executed(self, step: Step) -> list[Step]:
        """Give the attempts of a step, where it was executed: in this run, or in an earlier one; none for an edited result."""
        run_id, path, is_edited = (
            (self._run.id, step.path, False) if step.kept is None else source_of(step.kept)
        )
        if is_edited:
            return []
        return [s for s in await self._journal(run_id) if s.path == path]

    async def said(self, step: Step) -> int | None:
        """Give the place of the row that a message node appended."""
        for one in await self._executed(step):
            if one.message_seq is not None:
                return one.message_seq
            result: object = one.result
            if isinstance(result, dict) and "message_id" in result:
                # It stands in a further thread.
                id_ = cast("dict[str, str]", result)["message_id"]
                return (await self._treadle.store.get(Message, one.tenant, id_)).seq
        return None

    async def children(self, step: Step) -> list[Run]:
        """Give the child runs of a step, one for each attempt."""
        ids = dict.fromkeys(s.child for s in await self._executed(step) if s.child is not None)
        return [await self._treadle.store.get(Run, self._run.tenant, id_) for id_ in ids]

    async def of_child(self, child: Run, name: str, *, has_message: bool) -> Rows | None:
        """Give the rows that a child run and those within it wrote, with the message that it was given."""
        if name == "new":
            return None
        if name == "fork":
            thread = await self._treadle.store.get(Thread, child.tenant, child.thread_id)
            return Rows(SHARED, None, thread.forked_at)
        places = [place for place in await self._places(child) if place >= child.first_seq]
        first = child.first_seq - has_message
        return Rows(name, first, max(places, default=first)) if places or has_message else None

    async def _places(self, run: Run) -> list[int]:
        """Give the places of rows that a run, and the runs within it, wrote in its thread, with the messages that those were given."""
        steps = await self._treadle.store.steps(run.tenant, run.id)
        found = [s.message_seq for s in steps if s.message_seq is not None]
        if any(s.child is not None for s in steps):
            for child in await self._treadle.store.children(run.tenant, run.id):
                if child.thread_id == run.thread_id:
                    found += [child.first_seq - 1, *await self._places(child)]
        return found
