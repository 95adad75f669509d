"""What every store must do for workflows and for forks of threads, as tests: subclass beside `StoreContract`.

class TestMine(StoreContract, WorkflowContract, ForkContract):
    def open(self):
        return MyStore(fresh_database())
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, cast

import pytest

from treadle.errors import Conflict, LeaseLost, NotFound, StateError, ThreadBusy
from treadle.objects.agent import Agent, Budget
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import PendingCall, Question, Run, RunOverrides, Usage
from treadle.objects.run_step import Used
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.objects.workflow import Workflow, WorkflowSpec
from treadle.store.base import Blob, Cached, Checkpoint, Graph, Order, Store
from treadle.testing.chance import Chance
from treadle.testing.store_contract import (
    TENANT,
    Walked,
    a_graph,
    a_message,
    a_run,
    a_step,
    a_thread,
    an_agent,
    fresh,
    on_a_store,
)

ENDED = {"ended_ms": 9, "usage": Usage()}
"""What a run has that has ended."""


def a_workflow(*, name: str | None = None, said: str = "b", tenant: str = TENANT) -> Workflow:
    """Give a workflow whose nodes do not stand in the order of their names; with a name it is one of a document."""
    nodes = {"z": {"type": "set", "set": {"a": said}, "next": "a"}, "a": {"type": "end"}}
    spec = WorkflowSpec.model_validate({"name": name or "flow", "start": "z", "nodes": nodes})
    origin = "file" if name else "api"
    return Workflow(id=fresh("wf"), tenant=tenant, name=name, origin=origin, created_ms=1, spec=spec)


async def a_parent(store: Store) -> tuple[Workflow, Graph, Thread, Run]:
    """Give a run of a workflow that walker w holds, and what it needs."""
    workflow, graph, thread = a_workflow(), a_graph(), a_thread()
    run = a_run(cast("Agent", workflow), thread, graph)
    stored = await store.insert(TENANT, workflow, graph, thread, run, claim_by=Walker("w"))
    return workflow, graph, thread, cast("Run", stored[-1])


async def with_child(store: Store, **fields: Any) -> tuple[Run, Run]:
    """Give a run that is walked and a child of it on a thread of its own, made by a checkpoint and walked as well."""
    workflow, graph, _, run = await a_parent(store)
    own = a_thread()
    child = a_run(cast("Agent", workflow), own, graph, parent_id=run.id, **fields)
    done = await store.commit(Checkpoint(run, inserts=(own, child), insert_by=Walker("w")))
    return done.run, cast("Run", done.inserted[1])


class WorkflowContract:
    """The tests of workflows, their runs and their steps; `open` must be given."""

    def open(self) -> Store:
        """Give a store that is empty and shares nothing with another one."""
        raise NotImplementedError

    # -- objects ---------------------------------------------------------------------------------------------

    @on_a_store
    async def test_a_workflow_is_kept_as_it_is_in_every_version(self, store: Store) -> None:
        """The order of its nodes as well; versions follow one another and never change."""
        first = a_workflow(name="flow")
        await store.insert(TENANT, first)
        second = first.model_copy(update={"version": 2, "spec": a_workflow(name="flow", said="c").spec})
        await store.insert(TENANT, second)
        for version in (2, 4):
            with pytest.raises(Conflict):
                await store.insert(TENANT, second.model_copy(update={"version": version}))
        kept = await store.get(Workflow, TENANT, first.id)
        assert kept == second
        assert list(kept.spec.nodes) == ["z", "a"]
        assert kept.spec.digest == second.spec.digest
        assert await store.get(Workflow, TENANT, first.id, version=1) == first
        assert await store.workflow_named(TENANT, "flow") == second
        assert await store.workflow_named("other", "flow") is None

    @on_a_store
    async def test_workflows_and_agents_do_not_see_each_other(self, store: Store) -> None:
        """They have names, lists, beginnings of ids and deletions of their own."""
        agent, workflow = an_agent(name="clerk"), a_workflow(name="clerk")
        await store.insert(TENANT, agent, workflow)
        with pytest.raises(Conflict):
            await store.insert(TENANT, a_workflow(name="clerk"))
        assert await store.agent_named(TENANT, "clerk") == agent
        assert await store.workflow_named(TENANT, "clerk") == workflow
        assert await store.list(Agent, TENANT) == [agent]
        assert await store.list(Workflow, TENANT) == [workflow]
        assert await store.list(Workflow, TENANT, after=agent.id) == []
        assert await store.find(Workflow, TENANT, "") == [workflow.id]
        assert await store.find(Agent, TENANT, "") == [agent.id]
        for version in (None, 1):
            with pytest.raises(NotFound):
                await store.get(Agent, TENANT, workflow.id, version=version)
            with pytest.raises(NotFound):
                await store.get(Workflow, TENANT, agent.id, version=version)
        with pytest.raises(NotFound):
            await store.delete(TENANT, workflow.model_copy(update={"id": agent.id}), now_ms=9)
        await store.delete(TENANT, workflow, now_ms=9)
        with pytest.raises(NotFound):
            await store.get(Workflow, TENANT, workflow.id)
        assert await store.get(Workflow, TENANT, workflow.id, version=1) == workflow
        assert await store.get(Agent, TENANT, agent.id) == agent
        await store.insert(TENANT, a_workflow(name="clerk"))

    @on_a_store
    async def test_a_result_is_taken_again_until_its_time_is_over(self, store: Store) -> None:
        """The last one under a key stands, for its tenant alone; what is over is forgotten."""
        await store.insert(
            TENANT, Cached("k", '{"a":[1]}', 5), Cached("k", '{"a":[2]}', 9), Cached("l", "1", 50)
        )
        assert await store.cached(TENANT, "k", now_ms=8) == '{"a":[2]}'
        assert await store.cached(TENANT, "k", now_ms=9) is None
        assert await store.cached(TENANT, "m", now_ms=1) is None
        assert await store.cached("other", "k", now_ms=8) is None
        await store.tidy(asked_before_ms=0, now_ms=9)
        assert await store.cached(TENANT, "k", now_ms=8) is None
        assert await store.cached(TENANT, "l", now_ms=9) == "1"

    # -- runs and steps --------------------------------------------------------------------------------------

    @on_a_store
    async def test_every_field_of_a_step_of_a_workflow_is_kept(self, store: Store) -> None:
        """A step comes back as it was, open or ended."""
        _, _, _, run = await a_parent(store)
        question = Question(
            kind="edit", ask="Fit?", form={"type": "object"}, value=[1, {"a": None}], until_ms=7
        )
        open_ = a_step(
            run, 0, path="ask#1", node="ask", kind="wait", status="in_progress", question=question, wake_ms=7
        )
        ended = a_step(
            run, 1, path="call#1", node="call", kind="child_run", edge="else", result={"text": "é", "n": [1, 2.5]},
            writes={"total": None, "list": [1]}, child="run_x", used=Used(steps=3, cost_usd=1.0), key="k", kept="run_y/call#1",
        )  # fmt: skip
        nothing = a_step(run, 2, path="none#1", node="none", kind="function", result=False, writes={})
        done = await store.commit(Checkpoint(run, steps=(open_, ended, nothing)))
        kept = await store.steps(TENANT, run.id)
        assert [s.model_copy(update={"event_seq": None}) for s in kept] == [open_, ended, nothing]
        answered = open_.model_copy(
            update={"status": "completed", "ended_ms": 8, "result": {"by": "me"}, "wake_ms": None}
        )
        await store.commit(Checkpoint(done.run, steps=(answered,)))
        assert (await store.steps(TENANT, run.id))[0].model_copy(update={"event_seq": None}) == answered

    @on_a_store
    async def test_large_results_of_steps_come_back_whole(self, store: Store) -> None:
        """Whatever is large of a step, beside what is not."""
        _, _, _, run = await a_parent(store)
        large, other, small = ["é" * 200_000], {"w": "x" * 2_000_000}, {"a": "y" * 100_000}
        steps = [
            a_step(
                run,
                n,
                path=f"s#{n + 1}",
                node="s",
                kind="function",
                result=result,
                writes=writes,
                child="run_x",
            )
            for n, (result, writes) in enumerate(
                ((large, small), (small, other), (large, other), (small, small))
            )
        ]
        await store.commit(Checkpoint(run, steps=steps))
        kept = await store.steps(TENANT, run.id)
        assert [s.model_copy(update={"event_seq": None}) for s in kept] == steps
        assert len(await store.events(TENANT, run.id)) == 3 + len(steps)

    @on_a_store
    async def test_the_node_of_a_step_is_told_by_its_path(self, store: Store) -> None:
        """Visits, items, rounds and marks are left out."""
        nodes = {
            "tool_call#1/0": "tool_call", "gather#1": "gather", "gather#2/end": "gather", "refine#1/2": "refine",
            "check#1/0": "check", "refine#1[2]/draft#1": "refine/draft", "refine#1[2]/check#1/0": "refine/check",
            "a#1[0]/b#12[3]/c#2/end": "a/b/c", "a#1[0]/b#1[10]/c#2": "a/b/c",
        }  # fmt: skip
        _, _, _, run = await a_parent(store)
        steps = [
            a_step(run, n, path=path, node=node, kind="function")
            for n, (path, node) in enumerate(nodes.items())
        ]
        await store.commit(Checkpoint(run, steps=steps))
        assert {s.path: s.node for s in await store.steps(TENANT, run.id)} == nodes

    @on_a_store
    async def test_what_a_tree_of_runs_waits_for_is_kept(self, store: Store) -> None:
        """The calls of children with their runs, questions of nodes, and what a child may use."""
        _, child = await with_child(store, overrides=RunOverrides(limits=Budget(max_model_calls=3)))
        assert (await store.get(Run, TENANT, child.id)).overrides == child.overrides
        pending = (
            PendingCall(path="ask#1", reply_seq=0, call_index=0, action="answer", until_ms=5),
            PendingCall(path="tool_call#1/0", reply_seq=2, call_index=0, run_id="run_x"),
            PendingCall(
                path="tool_call#1/1", reply_seq=2, call_index=1, action="approval", digest="d", run_id="run_y"
            ),
            PendingCall(path="tool_call#1/2", reply_seq=2, call_index=2),
        )
        changes = {"pending": pending, "wake_ms": 5}
        done = await store.commit(Checkpoint(child, "requires_action", changes=changes))
        assert (await store.get(Run, TENANT, child.id)).pending == pending == done.run.pending

    @on_a_store
    async def test_a_walker_that_died_is_known_for_as_long_as_it_holds_a_child(self, store: Store) -> None:
        """The walk of the parent takes its children one after the other: until then they are the dead one's."""
        run, child = await with_child(store)
        (dead,) = await store.walkers()
        assert await store.bury(dead)
        await store.claim(TENANT, run.id, Walker("x"), now_ms=1)
        await store.tidy(asked_before_ms=0, now_ms=1)
        assert {w.id for w in await store.walkers()} == {dead.id, "x"}
        claimed = await store.claim(TENANT, child.id, Walker("x"), now_ms=1, rev=child.rev)
        assert claimed.run.walker == "x"
        await store.tidy(asked_before_ms=0, now_ms=1)
        assert [w.id for w in await store.walkers()] == ["x"]

    @on_a_store
    async def test_children_are_given_in_the_order_they_were_made(self, store: Store) -> None:
        """Those that have ended among them, and nobody else's."""
        workflow, graph, thread, run = await a_parent(store)
        made = [a_run(cast("Agent", workflow), thread, graph, parent_id=run.id) for _ in range(3)]
        done = await store.commit(Checkpoint(run, inserts=made, insert_by=Walker("w")))
        first = cast("Run", done.inserted[0])
        await store.commit(Checkpoint(first, "completed", changes=ENDED))
        grandchild = a_run(cast("Agent", workflow), thread, graph, parent_id=made[1].id)
        await store.insert(TENANT, grandchild)
        found = await store.children(TENANT, run.id)
        assert [(r.id, r.status) for r in found] == [
            (made[0].id, "completed"), (made[1].id, "in_progress"), (made[2].id, "in_progress"),
        ]  # fmt: skip
        assert [r.id for r in await store.children(TENANT, made[1].id)] == [grandchild.id]
        assert await store.children(TENANT, made[2].id) == []
        for tenant, id_ in (("other", run.id), (TENANT, "run_none")):
            with pytest.raises(NotFound):
                await store.children(tenant, id_)

    @on_a_store
    async def test_what_a_checkpoint_makes_is_kept_with_it(self, store: Store) -> None:
        """Records of every kind, in order, and runs among them are claimed."""
        workflow, graph, thread, run = await a_parent(store)
        own = a_thread()
        child = a_run(cast("Agent", workflow), own, graph, parent_id=run.id)
        digest = hashlib.sha256(b"zero").hexdigest()
        made = (own, a_message(own), child, Cached("k", "1", 9), Blob(digest, b"zero"))
        step = a_step(
            run, 0, path="call#1", node="call", kind="child_run", status="in_progress", child=child.id
        )
        row = a_message(thread, role="assistant", seq=1)
        done = await store.commit(
            Checkpoint(run, steps=(step,), messages=(row,), inserts=made, insert_by=Walker("w"))
        )
        _, message, claimed, *_ = done.inserted
        assert claimed == child.model_copy(
            update={
                "status": "in_progress", "rev": 1, "fence": 1, "walker": "w", "started_ms": 4, "first_seq": 2,
            }
        )  # fmt: skip
        assert await store.get(Run, TENANT, child.id) == claimed
        assert cast("Message", message).id == store.message_id(TENANT, own.id, 1)
        assert len(done.inserted) == len(made)
        assert await store.cached(TENANT, "k", now_ms=1) == "1"
        assert await store.blob(TENANT, digest) == b"zero"
        walked = await store.commit(Checkpoint(cast("Run", claimed), "completed", changes=ENDED))
        assert [e.name for e in walked.events] == ["thread.run.completed"]

    @on_a_store
    async def test_a_checkpoint_that_fails_makes_nothing(self, store: Store) -> None:
        """Afterwards the same can be made, and walked."""
        workflow, graph, thread, run = await a_parent(store)
        own = a_thread()
        child = a_run(cast("Agent", workflow), own, graph, parent_id=run.id)
        orphan = a_run(cast("Agent", workflow), own, graph, parent_id="run_none")
        with pytest.raises(NotFound):
            await store.commit(Checkpoint(run, inserts=(own, child, orphan), insert_by=Walker("w")))
        with pytest.raises(LeaseLost):
            await store.commit(
                Checkpoint(run, inserts=(own, child), also=(Checkpoint(run.model_copy(update={"rev": 7})),))
            )
        with pytest.raises(NotFound):
            await store.get(Thread, TENANT, own.id)
        with pytest.raises(NotFound):
            await store.get(Run, TENANT, child.id)
        other = a_thread()  # It takes the numbers that were given back.
        await store.insert(TENANT, other, a_message(other), a_run(cast("Agent", workflow), other, graph))
        done = await store.commit(Checkpoint(run, inserts=(own, child), insert_by=Walker("w")))
        claimed = cast("Run", done.inserted[1])
        await store.commit(Checkpoint(claimed, messages=(a_message(own, role="assistant", seq=1),)))
        assert await store.length(TENANT, own.id) == 1
        assert await store.length(TENANT, thread.id) == 0

    @on_a_store
    async def test_checkpoints_of_several_runs_are_one_transaction(self, store: Store) -> None:
        """All are written, each by its own fence, or none is."""
        run, child = await with_child(store)
        stale = child.model_copy(update={"fence": 0})
        waiting = a_step(
            run, 0, path="call#1", node="call", kind="child_run", status="in_progress", child=child.id
        )
        with pytest.raises(LeaseLost):
            await store.commit(Checkpoint(run, steps=(waiting,), also=(Checkpoint(stale, "completed"),)))
        assert await store.steps(TENANT, run.id) == []
        begun = await store.commit(Checkpoint(run, steps=(waiting,)))
        ended = waiting.model_copy(update={"status": "completed", "ended_ms": 9, "result": {"text": "done"}})
        done = await store.commit(
            Checkpoint(child, "completed", changes=ENDED, also=(Checkpoint(begun.run, steps=(ended,)),))
        )
        assert (done.run.status, done.also[0].run) == ("completed", begun.run)
        assert [e.name for e in done.also[0].events] == ["thread.run.step.completed"]
        assert [s.status for s in await store.steps(TENANT, run.id)] == ["completed"]
        assert [e.seq for e in await store.events(TENANT, run.id)] == [1, 2, 3, 4]

    @on_a_store
    async def test_many_trees_commit_at_once(self, store: Store) -> None:
        """A checkpoint of several runs that fails spares those beside it."""
        trees = [await with_child(store) for _ in range(8)]
        cps = [
            Checkpoint(
                child, "completed", changes=ENDED,
                also=(Checkpoint(run.model_copy(update={"rev": run.rev + n % 2}), steps=(a_step(run, 0),)),),
            )
            for n, (run, child) in enumerate(trees)
        ]  # fmt: skip
        done = await asyncio.gather(*(store.commit(cp) for cp in cps), return_exceptions=True)
        assert [isinstance(d, LeaseLost) for d in done] == [n % 2 == 1 for n in range(8)]
        for n, (run, child) in enumerate(trees):
            assert (await store.get(Run, TENANT, child.id)).status == ("completed", "in_progress")[n % 2]
            assert len(await store.steps(TENANT, run.id)) == 1 - n % 2

    # -- rest ------------------------------------------------------------------------------------------------

    @on_a_store
    async def test_a_run_rests_until_its_time_and_is_walked_on(self, store: Store) -> None:
        """Nobody holds it; it is due at its time, and who takes it goes on as if nothing had happened."""
        _, _, _, run = await a_parent(store)
        done = await store.commit(Checkpoint(run, releases=True, changes={"wake_ms": 50, "walked_ms": 7}))
        rests = done.run
        assert (rests.status, rests.walker, rests.rev, rests.fence) == (
            "in_progress",
            None,
            run.rev + 1,
            run.fence,
        )
        assert await store.get(Run, TENANT, run.id) == rests
        assert await store.due("x", now_ms=49) == []
        (due,) = await store.due("x", now_ms=50)
        assert (due.id, due.status, due.rev) == (run.id, "in_progress", rests.rev)
        assert (due.is_mine, due.is_left, due.is_over, due.is_late) == (False, False, False, False)
        assert await store.due("x", now_ms=50, walkable=False) == []
        claimed = await store.claim(TENANT, run.id, Walker("v"), now_ms=50, rev=rests.rev)
        assert claimed.run == rests.model_copy(
            update={"walker": "v", "wake_ms": None, "rev": rests.rev + 1, "fence": rests.fence + 1}
        )
        assert [(e.name, e.data) for e in claimed.events] == [("thread.run.in_progress", {})]
        assert await store.due("x", now_ms=99) == []
        with pytest.raises(LeaseLost):
            await store.commit(Checkpoint(rests))
        with pytest.raises(LeaseLost):
            await store.claim(TENANT, run.id, Walker("u"), now_ms=51)

    @on_a_store
    async def test_a_tree_rests_and_wakes_as_one(self, store: Store) -> None:
        """The children rest with their root; they are claimed one by one, and never due by themselves."""
        run, child = await with_child(store)
        done = await store.commit(
            Checkpoint(run, releases=True, changes={"wake_ms": 50}, also=(Checkpoint(child, releases=True),))
        )
        assert [d.id for d in await store.due("x", now_ms=60)] == [run.id]
        assert done.also[0].run.walker is None
        woken = await store.claim(TENANT, run.id, Walker("v"), now_ms=60)
        below = await store.claim(TENANT, child.id, Walker("v"), now_ms=60)
        assert (below.run.status, below.run.walker, below.run.deaths) == ("in_progress", "v", 0)
        await store.commit(
            Checkpoint(
                woken.run,
                "completed",
                changes=ENDED,
                also=(Checkpoint(below.run, "completed", changes=ENDED),),
            )
        )

    @on_a_store
    async def test_a_run_that_rests_is_cancelled(self, store: Store) -> None:
        """Whoever cancels it holds it as little; it is due until somebody has ended it."""
        _, _, _, run = await a_parent(store)
        rests = (await store.commit(Checkpoint(run, releases=True, changes={"wake_ms": 50}))).run
        cancelling = (await store.commit(Checkpoint(rests, "cancelling"))).run
        assert cancelling.walker is None
        (due,) = await store.due("x", now_ms=1, walkable=False)
        assert (due.id, due.status) == (run.id, "cancelling")
        claimed = await store.claim(TENANT, run.id, Walker("v"), now_ms=2)
        assert (claimed.run.status, claimed.run.walker, claimed.events) == ("cancelling", "v", ())
        released = (await store.commit(Checkpoint(claimed.run, releases=True))).run
        assert (released.status, released.walker) == ("cancelling", None)
        await store.commit(Checkpoint(released, "cancelled", changes=ENDED))
        assert await store.due("x", now_ms=99) == []

    @on_a_store
    async def test_a_question_of_a_run_that_rests_is_late(self, store: Store) -> None:
        """A run that asks somebody is late where nobody answers, and is not walked on."""
        _, _, _, run = await a_parent(store)
        await store.commit(Checkpoint(run, "requires_action", changes={"wake_ms": 50}))
        (due,) = await store.due("x", now_ms=50, walkable=False)
        assert (due.status, due.is_late) == ("requires_action", True)
        with pytest.raises(LeaseLost):
            await store.claim(TENANT, run.id, Walker("v"), now_ms=50)

    @on_a_store
    async def test_only_a_run_that_is_walked_can_be_released(self, store: Store) -> None:
        """Everywhere else nobody holds it."""
        _, _, _, run = await a_parent(store)
        for status in ("requires_action", "queued", "completed"):
            with pytest.raises(StateError):
                await store.commit(Checkpoint(run, status, releases=True, changes=ENDED))
        assert await store.get(Run, TENANT, run.id) == run

    # -- threads of child runs -------------------------------------------------------------------------------

    @on_a_store
    async def test_a_thread_is_busy_with_a_child_run(self, store: Store) -> None:
        """Nobody writes between its rows, and nobody deletes it before the whole tree has ended."""
        run, child = await with_child(store)
        own = await store.get(Thread, TENANT, child.thread_id)
        assert await store.active_run(TENANT, own.id) == child.id
        with pytest.raises(ThreadBusy):
            await store.insert(TENANT, a_message(own))
        with pytest.raises(ThreadBusy):
            await store.insert(
                TENANT, child.model_copy(update={"id": fresh("run"), "parent_id": None, "status": "queued"})
            )
        with pytest.raises(ThreadBusy):
            await store.delete(TENANT, own, now_ms=9)
        await store.commit(Checkpoint(child, "completed", changes=ENDED))
        await store.insert(TENANT, a_message(own))
        with pytest.raises(ThreadBusy):
            await store.delete(TENANT, own, now_ms=9)
        await store.commit(Checkpoint(run, "completed", changes=ENDED))
        await store.delete(TENANT, own, now_ms=9)
        assert await store.children(TENANT, run.id) == []

    @on_a_store
    async def test_a_child_run_outlives_the_thread_of_its_parent(self, store: Store) -> None:
        """On a thread of its own it stands for itself then."""
        run, child = await with_child(store)
        for one in (child, run):
            await store.commit(Checkpoint(one, "completed", changes=ENDED))
        await store.delete(TENANT, await store.get(Thread, TENANT, run.thread_id), now_ms=9)
        assert (await store.get(Run, TENANT, child.id)).parent_id is None


class ForkContract:
    """The tests of threads that begin with rows of another one; `open` must be given."""

    def open(self) -> Store:
        """Give a store that is empty and shares nothing with another one."""
        raise NotImplementedError

    @on_a_store
    async def test_a_fork_begins_with_rows_of_its_source_and_goes_on_alone(self, store: Store) -> None:
        """Neither sees what the other one says after it."""
        source = await _talk(store, 5)
        fork = await _fork(store, source, 3)
        assert await store.get(Thread, TENANT, fork.id) == fork
        assert await store.length(TENANT, fork.id) == 3
        (said,) = await store.insert(TENANT, a_message(fork, "mine"))
        assert (cast("Message", said).seq, cast("Message", said).id) == (
            4,
            store.message_id(TENANT, fork.id, 4),
        )
        await store.insert(TENANT, a_message(source, "theirs"))
        assert await _texts(store, fork) == ["0", "1", "2", "mine"]
        assert await _texts(store, source) == ["0", "1", "2", "3", "4", "theirs"]
        assert {m.thread_id for m in await store.rows(TENANT, fork.id)} == {fork.id}
        changed = fork.model_copy(update={"metadata": {"a": 1}, "forked_from": None, "forked_at": 0})
        await store.replace(TENANT, changed)
        kept = await store.get(Thread, TENANT, fork.id)
        assert kept == fork.model_copy(update={"metadata": {"a": 1}})
        assert kept in await store.list(Thread, TENANT)

    @on_a_store
    async def test_forks_of_forks_read_as_if_they_were_copies(self, store: Store) -> None:
        """Rows, lists, single messages and lengths, in both orders, over every page and bound."""
        chance = Chance("forks")
        threads = [await _talk(store, 4)]
        texts = [[str(n) for n in range(4)]]
        for n in range(7):
            of = chance.below(len(threads))
            at = chance.below(len(texts[of]) + 1)
            threads.append(await _fork(store, threads[of], at))
            more = [f"{n}.{m}" for m in range(chance.below(4))]
            await store.insert(TENANT, *(a_message(threads[-1], text) for text in more))
            texts.append([*texts[of][:at], *more])
        for thread, said in zip(threads, texts, strict=True):
            await _reads_as(store, thread, said)

    @on_a_store
    async def test_a_page_is_bounded_by_ids_of_either_thread(self, store: Store) -> None:
        """A message that is shared is known to the fork by the id that its source has for it; others are not."""
        source = await _talk(store, 4)
        fork = await _fork(store, source, 2)
        await store.insert(TENANT, a_message(fork, "mine"))
        theirs = [store.message_id(TENANT, source.id, seq) for seq in (1, 2, 3)]
        after = [
            m.text for m in await store.list(Message, TENANT, parent=fork.id, after=theirs[1], order="asc")
        ]
        before = [m.text for m in await store.list(Message, TENANT, parent=fork.id, after=theirs[1])]
        assert (after, before) == (["mine"], ["0"])
        with pytest.raises(NotFound):
            await store.list(Message, TENANT, parent=fork.id, after=theirs[2])
        with pytest.raises(NotFound):
            await store.list(Message, TENANT, parent=source.id, after=store.message_id(TENANT, fork.id, 3))

    @on_a_store
    async def test_a_run_of_a_fork_begins_after_what_is_shared(self, store: Store) -> None:
        """Its source is not busy with it, and it writes rows of its own."""
        walked = await Walked.begin(store)
        await walked.ask()
        await walked.commit(messages=[walked.result(3)])
        fork = await _fork(store, walked.thread, 3)
        run = a_run(walked.agent, fork, walked.graph)
        stored = await store.insert(TENANT, a_message(fork, "more"), run, claim_by=Walker("w"))
        run = cast("Run", stored[1])
        assert run.first_seq == 5
        call = (ToolCall(id="c", name="f", arguments="{}"),)
        asks = a_message(fork, role="assistant", tool_calls=call, seq=5).model_copy(update={"text": None})
        done = await store.commit(Checkpoint(run, messages=[asks]))
        result = a_message(fork, "r", role="tool", reply_seq=5, call_index=0, seq=6)
        await store.commit(Checkpoint(done.run, messages=[result]))
        assert [m.role for m in await store.rows(TENANT, fork.id)] == [
            "user", "assistant", "tool", "user", "assistant", "tool",
        ]  # fmt: skip
        assert await store.active_run(TENANT, walked.thread.id) == walked.run.id
        assert [r.id for r in await store.list(Run, TENANT, parent=fork.id)] == [run.id]
        assert await store.list(Message, TENANT, parent=fork.id, run=walked.run.id) == []

    @on_a_store
    async def test_a_fork_takes_no_call_from_its_results(self, store: Store) -> None:
        """It can take a next turn; and it begins with what is there."""
        walked = await Walked.begin(store)
        await walked.ask(2)
        await _refuse_forks(store, walked.thread, (2, 3, -1))
        await walked.commit(messages=[walked.result(3, call=1)])
        await _refuse_forks(store, walked.thread, (2, 3, 4))
        await walked.commit(messages=[walked.result(4, call=0)])
        await _refuse_forks(store, walked.thread, (2, 3, 5))
        fork = await _fork(store, walked.thread, 4)
        await _refuse_forks(store, fork, (2, 3, 5))
        assert await store.length(TENANT, (await _fork(store, fork, 1)).id) == 1
        for tenant, source in ((TENANT, "thread_none"), ("other", walked.thread.id)):
            lost = a_thread(tenant=tenant).model_copy(update={"forked_from": source, "forked_at": 1})
            with pytest.raises(NotFound):
                await store.insert(tenant, lost)

    @on_a_store
    async def test_what_is_shared_stays_until_the_last_fork_is_gone(self, store: Store) -> None:
        """Whatever the order in which source and forks are deleted."""
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            source = await _talk(store, 6)
            fork = await _fork(store, source, 4)
            await store.insert(TENANT, a_message(fork, "f"))
            last = await _fork(store, fork, 5)
            await store.insert(TENANT, a_message(last, "l"))
            family = {0: (source, "012345"), 1: (fork, "0123f"), 2: (last, "0123fl")}
            for gone in order:
                thread, _ = family.pop(gone)
                id_ = store.message_id(TENANT, thread.id, 1)
                await store.delete(TENANT, thread, now_ms=9)
                with pytest.raises(NotFound):
                    await store.get(Message, TENANT, id_)
                with pytest.raises(NotFound):
                    await store.rows(TENANT, thread.id)
                for left, texts in family.values():
                    await _reads_as(store, left, list(texts))

    @on_a_store
    async def test_a_fork_of_what_a_fork_shares_does_not_need_it(self, store: Store) -> None:
        """The rows are those of the first thread."""
        source = await _talk(store, 4)
        middle = await _fork(store, source, 4)
        fork = await _fork(store, middle, 2)
        await store.delete(TENANT, middle, now_ms=9)
        await store.insert(TENANT, a_message(fork, "mine"))
        await _reads_as(store, fork, ["0", "1", "mine"])
        assert (await store.get(Thread, TENANT, fork.id)).forked_from == middle.id

    @on_a_store
    async def test_a_message_that_is_shared_has_one_content_and_one_set_of_notes(self, store: Store) -> None:
        """What is removed or noted in one thread is so in all of them."""
        source = await _talk(store, 4)
        fork = await _fork(store, source, 3)
        first, second = [
            await store.get(Message, TENANT, store.message_id(TENANT, fork.id, seq)) for seq in (1, 2)
        ]
        await store.replace(TENANT, first.model_copy(update={"metadata": {"a": 1}, "text": "else"}))
        theirs = await store.get(Message, TENANT, store.message_id(TENANT, source.id, 1))
        assert (theirs.metadata, theirs.text) == ({"a": 1}, "0")
        await store.delete(TENANT, theirs, now_ms=9)
        await store.delete(TENANT, second, now_ms=9)
        for thread, texts in ((source, [None, None, "2", "3"]), (fork, [None, None, "2"])):
            assert [m.text for m in await store.rows(TENANT, thread.id)] == texts
            for seq in (1, 2):
                with pytest.raises(NotFound):
                    await store.get(Message, TENANT, store.message_id(TENANT, thread.id, seq))
        with pytest.raises(NotFound):
            await store.delete(TENANT, second, now_ms=9)
        with pytest.raises(NotFound):
            await store.replace(TENANT, first)

    @on_a_store
    async def test_what_is_shared_cannot_be_removed_during_a_run_of_either(self, store: Store) -> None:
        """Neither through the fork nor through the source."""
        walked = await Walked.begin(store)
        await walked.commit("completed", changes=ENDED)
        fork = await _fork(store, walked.thread, 1)
        shared = await store.get(Message, TENANT, store.message_id(TENANT, fork.id, 1))
        await store.insert(TENANT, a_message(walked.thread), a_run(walked.agent, walked.thread, walked.graph))
        with pytest.raises(ThreadBusy):
            await store.delete(TENANT, shared, now_ms=9)
        own = await store.get(Message, TENANT, store.message_id(TENANT, walked.thread.id, 1))
        with pytest.raises(ThreadBusy):
            await store.delete(TENANT, own, now_ms=9)

    @on_a_store
    async def test_a_message_that_waited_is_shared_like_any_other(self, store: Store) -> None:
        """The id that it was given while it waited is the source's."""
        walked = await Walked.begin(store)
        waits = cast(
            "Message", (await store.insert(TENANT, a_message(walked.thread, "late"), in_line=True))[0]
        )
        await walked.commit("completed", changes=ENDED)
        fork = await _fork(store, walked.thread, 2)
        await _reads_as(store, fork, ["hello", "late"])
        shared = await store.get(Message, TENANT, store.message_id(TENANT, fork.id, 2))
        await store.replace(TENANT, shared.model_copy(update={"metadata": {"b": 2}}))
        kept = await store.get(Message, TENANT, waits.id)
        assert (kept.id, kept.text, kept.metadata) == (waits.id, "late", {"b": 2})
        page = await store.list(Message, TENANT, parent=fork.id, after=waits.id, order="desc")
        assert [m.text for m in page] == ["hello"]


async def _talk(store: Store, rows: int) -> Thread:
    thread = a_thread()
    await store.insert(TENANT, thread, *(a_message(thread, str(n)) for n in range(rows)))
    return thread


async def _fork(store: Store, source: Thread, at: int) -> Thread:
    fork = a_thread().model_copy(update={"forked_from": source.id, "forked_at": at})
    assert await store.insert(TENANT, fork) == (fork,)
    return fork


async def _refuse_forks(store: Store, source: Thread, places: Sequence[int]) -> None:
    for at in places:
        with pytest.raises(StateError):
            await _fork(store, source, at)


async def _texts(store: Store, thread: Thread) -> list[str | None]:
    return [m.text for m in await store.rows(TENANT, thread.id)]


async def _reads_as(store: Store, thread: Thread, texts: list[str]) -> None:
    """Hold everything that can be read of a thread against the texts that it has."""
    length = len(texts)
    assert await store.length(TENANT, thread.id) == length
    ids = [store.message_id(TENANT, thread.id, seq) for seq in range(1, length + 1)]
    for seq, (id_, text) in enumerate(zip(ids, texts, strict=True), 1):
        found = await store.get(Message, TENANT, id_)
        assert (found.id, found.text, found.seq, found.thread_id) == (id_, text, seq, thread.id)
    first = [m.text for m in await store.rows(TENANT, thread.id, role="user")]
    assert first == texts[:1]
    for low in range(length + 1):
        for high in range(low + 1, length + 2):
            await _between(store, thread, texts, (low, high))


async def _between(store: Store, thread: Thread, texts: list[str], span: tuple[int, int]) -> None:
    """Read what lies between two rows of a thread, both ways and in pages of several sizes."""
    low, high = span
    lowest, highest = (
        store.message_id(TENANT, thread.id, seq) if 0 < seq <= len(texts) else None for seq in span
    )
    inside = texts[low : high - 1]
    orders: tuple[tuple[Order, list[str], str | None, str | None], ...] = (
        ("asc", inside, lowest, highest),
        ("desc", inside[::-1], highest, lowest),
    )
    for order, said, after, before in orders:
        for limit in (1, 2, 64):
            rows = await store.rows(TENANT, thread.id, after=low, before=high, limit=limit, order=order)
            assert [m.text for m in rows] == said[:limit], (order, span, limit)
            page = await store.list(
                Message, TENANT, parent=thread.id, after=after, before=before, limit=limit, order=order
            )
            assert [m.text for m in page] == said[:limit], (order, span, limit)
            assert [m.id for m in page] == [m.id for m in rows]
