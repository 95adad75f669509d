"""What every store must do, as tests: subclass `StoreContract` and say how yours is opened.

    class TestMine(StoreContract):
        def open(self):
            return MyStore(fresh_database())

Each test opens a store of its own, empty, in an event loop of its own; nothing but pytest is needed. What is about
files and vector stores is the `FileContract` of `file_contract`, to be subclassed in the same way.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any, Protocol, TypeVar, cast

import pytest

from treadle import lifecycle
from treadle.errors import Conflict, LeaseLost, NotFound, Repeated, StateError, StoreError, ThreadBusy
from treadle.objects.agent import Agent, AgentSpec, Instructions, ModelSpec, OutputSpec
from treadle.objects.event import Event
from treadle.objects.key import Key, digest_of
from treadle.objects.message import Message, TextPart, ToolCall
from treadle.objects.run import PendingCall, Run, RunError, RunOverrides, Usage
from treadle.objects.run_step import Step
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.store.base import Blob, Checkpoint, Committed, Graph, Order, Request, Store

_S = TypeVar("_S", bound="Opens")
_N = TypeVar("_N", Agent, Thread, Message, Run)

TENANT = "default"
TEXTS = (
    "plain",
    "Grüße",
    "日本語",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "e\u0301 o\u0308",
    "𝒳𐍈",
    "\u202eright",
    "line\nline\ttab",
    "'\"\\{}",
)
"""Texts that a store gives back as they are."""

_number = count(1)


def fresh(prefix: str) -> str:
    """Give an id that no other object of this process has."""
    return f"{prefix}_{next(_number):024d}"


def an_agent(*, name: str | None = None, said: str = "Answer.", tenant: str = TENANT) -> Agent:
    """Give an agent; with a name it is one of a document."""
    spec = AgentSpec(name=name, model=ModelSpec(id="m"), instructions=Instructions(text=said))
    origin = "file" if name else "api"
    return Agent(id=fresh("asst"), tenant=tenant, name=name, origin=origin, created_ms=1, spec=spec)


def a_graph(text: str = '{"name":"g"}') -> Graph:
    """Give a step graph, as the store sees one."""
    return Graph(hashlib.sha256(text.encode()).hexdigest(), text)


def a_thread(*, tenant: str = TENANT) -> Thread:
    """Give a thread."""
    return Thread(id=fresh("thread"), tenant=tenant, created_ms=2, metadata={"k": ["v", 1]})


def a_key(*, name: str | None = None, tenant: str = TENANT) -> Key:
    """Give a key of a secret that nobody knows."""
    id_ = fresh("key")
    return Key(id=id_, tenant=tenant, name=name, digest=digest_of(id_), created_ms=4)


def a_message(thread: Thread, text: str = "hello", **fields: Any) -> Message:
    """Give a user's message, or another row of a thread."""
    known: dict[str, Any] = {
        "tenant": thread.tenant, "thread_id": thread.id, "role": "user", "text": text, "created_ms": 3,
    }  # fmt: skip
    return Message(**known | fields)


def a_run(agent: Agent, thread: Thread, graph: Graph, **fields: Any) -> Run:
    """Give a run that nobody walks yet."""
    known: dict[str, Any] = {
        "id": fresh("run"), "tenant": thread.tenant, "thread_id": thread.id, "agent_id": agent.id,
        "agent_version": agent.version, "graph": graph.digest, "created_ms": 4, "first_seq": 0,
    }  # fmt: skip
    return Run(**known | fields)


def a_step(run: Run, n: int, **fields: Any) -> Step:
    """Give a step of a run's journal."""
    known: dict[str, Any] = {
        "run_id": run.id, "tenant": run.tenant, "n": n, "path": f"model_call#{n + 1}", "node": "model_call",
        "kind": "model_call", "fence": run.fence, "started_ms": 5,
    }  # fmt: skip
    step = Step(**known | fields)
    return step if step.is_open else step.model_copy(update={"ended_ms": 6})


class Walked:
    """A store with a run that is walked: what most tests begin with."""

    def __init__(self, store: Store, agent: Agent, graph: Graph, thread: Thread, run: Run) -> None:
        """Take what was made."""
        self.store, self.agent, self.graph, self.thread, self.run = store, agent, graph, thread, run

    @classmethod
    async def begin(cls, store: Store, *, tenant: str = TENANT) -> Walked:
        """Make an agent, a thread with one message, and a run of it that walker w holds."""
        agent, graph, thread = an_agent(tenant=tenant), a_graph(), a_thread(tenant=tenant)
        run = a_run(agent, thread, graph)
        stored = await store.insert(
            tenant, agent, graph, thread, a_message(thread), run, claim_by=Walker("w")
        )
        return cls(store, agent, graph, thread, cast("Run", stored[-1]))

    async def commit(self, status: str | None = None, **parts: Any) -> Committed:
        """Write a checkpoint, and know the run as it is then."""
        committed = await self.store.commit(Checkpoint(self.run, status, **parts))
        self.run = committed.run
        return committed

    async def ask(self, calls: int = 1, *, seq: int = 2, n: int = 0) -> None:
        """Append an assistant row with so many calls."""
        asked = tuple(ToolCall(id=f"c{i}", name="f", arguments="{}") for i in range(calls))
        row = a_message(self.thread, role="assistant", tool_calls=asked, seq=seq).model_copy(
            update={"text": None}
        )
        await self.commit(
            messages=[row], steps=[a_step(self.run, n, edge="tool_calls", fan=calls, message_seq=seq)]
        )

    def result(self, seq: int, *, reply: int = 2, call: int = 0) -> Message:
        """Give a tool row."""
        return a_message(self.thread, "result", role="tool", reply_seq=reply, call_index=call, seq=seq)

    async def everything(self) -> tuple[object, ...]:
        """Give all that the store holds for the run, to compare."""
        store, tenant = self.store, self.run.tenant
        return (
            await store.get(Run, tenant, self.run.id),
            await store.rows(tenant, self.thread.id, limit=1000),
            await store.steps(tenant, self.run.id),
            await store.events(tenant, self.run.id),
        )


class Opens(Protocol):
    """What opens the store that a suite is about."""

    def open(self) -> Store:
        """Give a store that is empty and shares nothing with another one."""
        ...


def on_a_store(
    test: Callable[[_S, Store], Coroutine[Any, Any, None]],
) -> Callable[[_S], None]:
    """Make a test of a coroutine function: it is given an open store, which is closed after it."""

    def run(self: _S) -> None:
        async def talk() -> None:
            store = self.open()
            try:
                await test(self, store)
            finally:
                await store.close()

        asyncio.run(asyncio.wait_for(talk(), timeout=60))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class StoreContract:
    """The tests; `open` must be given."""

    def open(self) -> Store:
        """Give a store that is empty and shares nothing with another one."""
        raise NotImplementedError

    # -- objects ---------------------------------------------------------------------------------------------

    @on_a_store
    async def test_an_agent_is_kept_as_it_is_in_every_version(self, store: Store) -> None:
        """Versions are kept apart, and the newest is the agent."""
        first = an_agent(name="clerk")
        await store.insert(TENANT, first)
        assert await store.get(Agent, TENANT, first.id) == first
        second = first.model_copy(update={"version": 2, "spec": an_agent(name="clerk", said="Else.").spec})
        await store.insert(TENANT, second)
        assert await store.get(Agent, TENANT, first.id) == second
        assert await store.get(Agent, TENANT, first.id, version=1) == first
        assert await store.agent_named(TENANT, "clerk") == second
        assert await store.agent_named(TENANT, "nobody") is None

    @on_a_store
    async def test_a_version_follows_the_one_before_it_and_never_changes(self, store: Store) -> None:
        """Of two writers of a version one wins; a gap is refused."""
        first = an_agent(name="clerk")
        await store.insert(TENANT, first)
        for version in (1, 3):
            with pytest.raises(Conflict):
                await store.insert(TENANT, first.model_copy(update={"version": version}))
        second = first.model_copy(update={"version": 2})
        done = await asyncio.gather(*(store.insert(TENANT, second) for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(d, Conflict) for d in done) == 4
        assert (await store.get(Agent, TENANT, first.id)).version == 2

    @on_a_store
    async def test_a_name_belongs_to_one_agent_of_a_document(self, store: Store) -> None:
        """Names are taken until their agent is deleted; agents of the API share them freely."""
        first = an_agent(name="clerk")
        await store.insert(TENANT, first)
        with pytest.raises(Conflict):
            await store.insert(TENANT, an_agent(name="clerk"))
        await store.insert(TENANT, an_agent().model_copy(update={"name": "clerk"}))
        await store.delete(TENANT, first, now_ms=9)
        await store.insert(TENANT, an_agent(name="clerk"))

    @on_a_store
    async def test_a_deleted_agent_is_out_of_sight_but_its_versions_stay(self, store: Store) -> None:
        """A history names the version that made it."""
        agent = an_agent(name="clerk")
        await store.insert(TENANT, agent)
        await store.delete(TENANT, agent, now_ms=9)
        with pytest.raises(NotFound):
            await store.get(Agent, TENANT, agent.id)
        with pytest.raises(NotFound):
            await store.delete(TENANT, agent, now_ms=9)
        with pytest.raises(Conflict):
            await store.insert(TENANT, agent.model_copy(update={"version": 2}))
        assert await store.agent_named(TENANT, "clerk") is None
        assert await store.list(Agent, TENANT) == []
        assert await store.find(Agent, TENANT, agent.id[:8]) == []
        assert await store.get(Agent, TENANT, agent.id, version=1) == agent

    @on_a_store
    async def test_a_thread_is_kept_and_its_notes_are_replaced(self, store: Store) -> None:
        """Only the notes change."""
        thread = a_thread()
        await store.insert(TENANT, thread)
        assert await store.get(Thread, TENANT, thread.id) == thread
        changed = thread.model_copy(
            update={"metadata": {"a": None}, "tool_resources": {"r": [1]}, "created_ms": 99}
        )
        await store.replace(TENANT, changed)
        assert await store.get(Thread, TENANT, thread.id) == changed.model_copy(update={"created_ms": 2})
        with pytest.raises(Conflict):
            await store.insert(TENANT, thread)

    @on_a_store
    async def test_a_message_gets_its_place_and_its_id(self, store: Store) -> None:
        """Places count from 1; the id is known before the message is kept."""
        thread = a_thread()
        await store.insert(TENANT, thread)
        foreseen = [store.message_id(TENANT, thread.id, seq) for seq in (1, 2, 3)]
        made = [cast("Message", (await store.insert(TENANT, a_message(thread, f"{n}")))[0]) for n in range(3)]
        assert [(m.id, m.seq) for m in made] == list(zip(foreseen, (1, 2, 3), strict=True))
        for message in made:
            assert await store.get(Message, TENANT, message.id) == message.model_copy(
                update={"completed_ms": message.created_ms}
            )
        assert sorted(foreseen) == foreseen
        with pytest.raises(NotFound):
            store.message_id(TENANT, "thread_none", 1)

    @on_a_store
    async def test_every_part_of_a_message_is_kept(self, store: Store) -> None:
        """Parts, calls, attachments, notes and reasons come back as they were."""
        thread = a_thread()
        rich = a_message(
            thread,
            role="assistant",
            parts=(TextPart(text="a", annotations=({"type": "x"},)), TextPart(text="b")),
            tool_calls=(ToolCall(id="c", name="f", arguments='{"x": 1}'),),
            status="incomplete",
            incomplete_reason="max_tokens",
            attachments=({"file_id": "f"},),
            metadata={"deep": {"list": [1, None, "é"]}},
            tokens=7,
        ).model_copy(update={"text": None})
        answered = a_message(thread, role="tool", reply_seq=1, call_index=0)
        stored = await store.insert(TENANT, thread, rich, answered)
        row, _ = await store.rows(TENANT, thread.id)
        assert row == cast("Message", stored[1])
        noted = row.model_copy(update={"metadata": {}})
        await store.replace(TENANT, noted)
        assert (await store.rows(TENANT, thread.id))[0] == noted

    @on_a_store
    async def test_texts_come_back_as_they_are(self, store: Store) -> None:
        """Whatever script, width or combination."""
        thread = a_thread()
        await store.insert(
            TENANT, thread, *(a_message(thread, text, metadata={text: text}) for text in TEXTS)
        )
        rows = await store.rows(TENANT, thread.id)
        assert [(r.text, r.metadata) for r in rows] == [(text, {text: text}) for text in TEXTS]

    @on_a_store
    async def test_what_cannot_be_stored_is_refused_and_spares_its_neighbours(self, store: Store) -> None:
        """Half characters and values that are no JSON: the caller is told, the others are kept."""
        threads = [a_thread() for _ in range(9)]
        await store.insert(TENANT, *threads)
        broken = (a_message(threads[0], "\ud800"), a_message(threads[1], metadata={"x": object()}))
        await Walked.begin(store)
        await Walked.begin(store)  # With two walks commits are gathered.
        good = [a_message(t) for t in threads[2:]]
        done = await asyncio.gather(
            *(store.insert(TENANT, m) for m in (*broken, *good)), return_exceptions=True
        )
        assert [isinstance(d, StateError) for d in done] == [True] * 2 + [False] * 7
        for thread in threads[:2]:
            assert await store.rows(TENANT, thread.id) == []

    @on_a_store
    async def test_large_texts_and_blobs_are_kept_once(self, store: Store) -> None:
        """From a few bytes to some megabytes."""
        thread = a_thread()
        texts = ["é" * n for n in (10, 100_000, 140_000, 700_000)]
        await store.insert(TENANT, thread, *(a_message(thread, text) for text in (*texts, *texts)))
        assert [r.text for r in await store.rows(TENANT, thread.id)] == texts + texts
        for size in (0, 5, 300_000, 2_000_000):
            content = bytes(size)
            blob = Blob(hashlib.sha256(content).hexdigest(), content)
            await store.insert(TENANT, blob)
            await store.insert(TENANT, blob)
            assert await store.blob(TENANT, blob.digest) == content
        with pytest.raises(NotFound):
            await store.blob(TENANT, "0" * 64)

    @on_a_store
    async def test_a_graph_is_kept_by_its_digest(self, store: Store) -> None:
        """Keeping it again is fine."""
        graph = a_graph()
        await store.insert(TENANT, graph, graph)
        await store.insert(TENANT, graph)
        assert await store.graph(TENANT, graph.digest) == graph.text
        with pytest.raises(NotFound):
            await store.graph(TENANT, "0" * 64)

    @on_a_store
    async def test_a_call_is_one_transaction(self, store: Store) -> None:
        """All of its records are kept or none."""
        agent, thread = an_agent(name="clerk"), a_thread()
        await store.insert(TENANT, agent)
        with pytest.raises(Conflict):
            await store.insert(TENANT, thread, a_message(thread), a_graph(), an_agent(name="clerk"))
        with pytest.raises(NotFound):
            await store.get(Thread, TENANT, thread.id)
        with pytest.raises(NotFound):
            await store.graph(TENANT, a_graph().digest)
        await store.insert(TENANT, thread)

    @on_a_store
    async def test_a_key_stands_for_one_request(self, store: Store) -> None:
        """Asked again it gives what it gave, also to who had not seen it yet; anything else is refused, and nothing kept."""
        first, second, foreign = a_thread(), a_thread(), a_thread(tenant="elsewhere")
        request = Request("key", "digest", 1)
        await store.asked(TENANT, request)
        await store.insert(TENANT, first, request=request)
        for ask in (store.asked(TENANT, request), store.insert(TENANT, second, request=request)):
            with pytest.raises(Repeated) as repeated:
                await ask
            assert repeated.value.object_id == first.id
        other = request._replace(digest="another")
        for ask in (store.asked(TENANT, other), store.insert(TENANT, second, request=other)):
            with pytest.raises(Conflict, match="something else") as refused:
                await ask
            assert not isinstance(refused.value, Repeated)
        with pytest.raises(NotFound):
            await store.get(Thread, TENANT, second.id)
        await store.insert("elsewhere", foreign, request=request)

    @on_a_store
    async def test_a_key_stands_for_what_its_request_names(self, store: Store) -> None:
        """Of several records that are made together, the one that was asked for."""
        thread = a_thread()
        request = Request("key", "digest", 1, thread.id)
        await store.insert(TENANT, thread, a_message(thread), request=request)
        with pytest.raises(Repeated) as repeated:
            await store.asked(TENANT, request)
        assert repeated.value.object_id == thread.id

    @on_a_store
    async def test_a_key_of_a_checkpoint_stands_for_its_run(self, store: Store) -> None:
        """It is kept with the checkpoint: sent again it gives the run, though that has moved on; anything else is refused."""
        walked = await Walked.begin(store)
        before = walked.run
        request = Request("key", "digest", 1)
        await walked.commit("requires_action", request=request)
        again = Checkpoint(before, "requires_action", request=request)
        for repeat in (again, Checkpoint(walked.run, request=request)):
            with pytest.raises(Repeated) as repeated:
                await store.commit(repeat)
            assert repeated.value.object_id == walked.run.id
        other = request._replace(digest="another")
        with pytest.raises(Conflict, match="something else") as refused:
            await store.commit(Checkpoint(walked.run, "queued", request=other))
        assert not isinstance(refused.value, Repeated)
        assert (await store.get(Run, TENANT, walked.run.id)).status == "requires_action"

    @on_a_store
    async def test_a_key_of_a_checkpoint_that_is_not_written_stands_for_nothing(self, store: Store) -> None:
        """Whoever was too late may ask again under it."""
        walked = await Walked.begin(store)
        before = walked.run
        request = Request("key", "digest", 1)
        await walked.commit("requires_action")
        with pytest.raises(LeaseLost):
            await store.commit(Checkpoint(before, "requires_action", request=request))
        await store.asked(TENANT, request)
        await walked.commit("queued", request=request)
        with pytest.raises(Repeated):
            await store.asked(TENANT, request)

    @on_a_store
    async def test_a_probe_changes_nothing_that_is_kept(self, store: Store) -> None:
        """A store that can be written to says so, as often as it is asked."""
        walked = await Walked.begin(store)
        last = await store.last_event(TENANT, walked.run.id)
        version = store.status().schema_version
        for _ in range(3):
            await store.probe()
        assert await store.get(Run, TENANT, walked.run.id) == walked.run
        assert await store.last_event(TENANT, walked.run.id) == last
        assert store.status().schema_version == version

    @on_a_store
    async def test_a_store_that_is_closed_fails_the_probe(self, store: Store) -> None:
        """It does not only look at what it was when it was opened."""
        await store.probe()
        await store.close()
        with pytest.raises(StoreError):
            await store.probe()

    # -- keys ------------------------------------------------------------------------------------------------

    @on_a_store
    async def test_a_key_is_found_before_its_tenant_is_known(self, store: Store) -> None:
        """And listed in its own tenant only, the newest first."""
        first, second = a_key(name="first"), a_key()
        foreign = a_key(tenant="elsewhere")
        for key in (first, second, foreign):
            assert await store.add_key(key)
            assert await store.key(key.id) == key
        assert await store.key(fresh("key")) is None
        assert await store.keys(TENANT) == [second, first]
        assert await store.keys("elsewhere") == [foreign]
        assert await store.keys("nowhere") == []
        with pytest.raises(Conflict):
            await store.add_key(first.model_copy(update={"tenant": "elsewhere"}))
        assert await store.key(first.id) == first

    @on_a_store
    async def test_a_key_is_revoked_for_good_by_its_own_tenant(self, store: Store) -> None:
        """The first time counts; it stays in the list, and spares its neighbours."""
        key, other = a_key(), a_key()
        await store.add_key(key)
        await store.add_key(other)
        for tenant, id_ in (("elsewhere", key.id), (TENANT, fresh("key"))):
            with pytest.raises(NotFound):
                await store.revoke_key(tenant, id_, now_ms=7)
        assert not (await store.keys(TENANT))[1].is_revoked
        revoked = key.model_copy(update={"revoked_ms": 7})
        assert await store.revoke_key(TENANT, key.id, now_ms=7) == revoked
        assert await store.revoke_key(TENANT, key.id, now_ms=8) == revoked
        assert await store.key(key.id) == revoked
        assert await store.keys(TENANT) == [other, revoked]

    @on_a_store
    async def test_of_several_first_keys_one_is_kept(self, store: Store) -> None:
        """And none where there ever was one, whoever's it was and whether it was revoked."""
        keys = [a_key(), a_key(tenant="elsewhere"), a_key()]
        kept = await asyncio.gather(*(store.add_key(key, only_first=True) for key in keys))
        assert sorted(kept) == [False, False, True]
        winner = keys[kept.index(True)]
        assert [await store.key(key.id) for key in keys if key is not winner] == [None, None]
        await store.revoke_key(winner.tenant, winner.id, now_ms=7)
        assert not await store.add_key(a_key(), only_first=True)
        assert await store.add_key(a_key())

    # -- lists -----------------------------------------------------------------------------------------------

    @on_a_store
    async def test_pages_go_both_ways_between_two_ids(self, store: Store) -> None:
        """`after` and `before` are exclusive, in the direction of the order."""
        agents, threads = [an_agent() for _ in range(7)], [a_thread() for _ in range(7)]
        graph, talk = a_graph(), a_thread()
        runs = [a_run(agents[0], t, graph) for t in threads]
        stored = await store.insert(
            TENANT, graph, talk, *agents, *threads, *(a_message(talk, f"{n}") for n in range(7)), *runs
        )
        messages = [cast("Message", m).id for m in stored[16:23]]
        await self._pages(store, Agent, [a.id for a in agents])
        await self._pages(store, Thread, [talk.id, *(t.id for t in threads)])
        await self._pages(store, Run, [r.id for r in runs])
        await self._pages(store, Message, messages, parent=talk.id)
        for run, thread in zip(runs, threads, strict=True):
            assert [r.id for r in await store.list(Run, TENANT, parent=thread.id)] == [run.id]

    async def _pages(
        self, store: Store, cls: type[_N], ids: Sequence[str], parent: str | None = None
    ) -> None:
        async def page(
            order: Order, after: str | None = None, before: str | None = None, limit: int = 99
        ) -> list[str]:
            found = await store.list(
                cls, TENANT, parent=parent, order=order, after=after, before=before, limit=limit
            )
            return [record.id for record in found]

        if cls is not Message:
            assert await page("asc", after="asst_" + "0" * 24) == []
            assert await page("desc", before="thread_" + "0" * 24) == []
        down = list(reversed(ids))
        assert await page("asc") == list(ids)
        assert await page("desc") == down
        assert await page("asc", limit=3) == list(ids[:3])
        assert await page("asc", after=ids[1], before=ids[5]) == list(ids[2:5])
        assert await page("desc", after=ids[5], before=ids[1]) == down[len(ids) - 5 : len(ids) - 2]
        assert await page("asc", after=ids[-1]) == []
        assert await page("desc", after=ids[0]) == []
        for order, expected in (("asc", list(ids)), ("desc", down)):
            walked: list[str] = []
            while found := await page(cast("Order", order), after=walked[-1] if walked else None, limit=2):
                walked += found
            assert walked == expected

    @on_a_store
    async def test_rows_are_bounded_by_place(self, store: Store) -> None:
        """Both bounds are exclusive; the first user row is asked for by its role."""
        thread = a_thread()
        greeting = a_message(thread, "welcome", role="assistant")
        await store.insert(TENANT, thread, greeting, *(a_message(thread, f"{n}") for n in range(2, 10)))

        async def seqs(**bounds: Any) -> list[int]:
            return [r.seq for r in await store.rows(TENANT, thread.id, **bounds)]

        assert await seqs() == list(range(1, 10))
        assert await seqs(after=3, before=7) == [4, 5, 6]
        assert await seqs(order="desc", limit=3) == [9, 8, 7]
        assert await seqs(order="desc", before=4) == [3, 2, 1]
        assert await seqs(role="user") == [2]
        assert await seqs(role="user", before=2) == []
        assert await seqs(after=9) == []

    @on_a_store
    async def test_lists_show_what_readers_see(self, store: Store) -> None:
        """Rows of tools, and replies that only ask for tools, are left out."""
        walked = await Walked.begin(store)
        await walked.ask()
        await walked.commit(messages=[walked.result(3)])
        answer = a_message(walked.thread, "answer", role="assistant", seq=4)
        await walked.commit(messages=[answer])
        assert [m.seq for m in await store.list(Message, TENANT, parent=walked.thread.id, order="asc")] == [
            1,
            4,
        ]
        assert [m.seq for m in await store.rows(TENANT, walked.thread.id)] == [1, 2, 3, 4]
        with pytest.raises(NotFound):
            await store.get(Message, TENANT, store.message_id(TENANT, walked.thread.id, 2))

    @on_a_store
    async def test_beginnings_of_ids_are_found(self, store: Store) -> None:
        """At most three, the newest first."""
        threads = [a_thread() for _ in range(5)]
        await store.insert(TENANT, *threads)
        assert await store.find(Thread, TENANT, "thread_") == [t.id for t in reversed(threads)][:3]
        assert await store.find(Thread, TENANT, threads[2].id) == [threads[2].id]
        for nothing in ("run_", "thread_%", "thread_*", "z"):
            assert await store.find(Thread, TENANT, nothing) == []

    # -- runs ------------------------------------------------------------------------------------------------

    @on_a_store
    async def test_a_run_is_claimed_as_it_is_made(self, store: Store) -> None:
        """The insert and the first claim are one transaction."""
        walked = await Walked.begin(store)
        run = await store.get(Run, TENANT, walked.run.id)
        assert run == walked.run
        assert (run.status, run.fence, run.rev, run.walker, run.first_seq, run.started_ms) == (
            "in_progress", 1, 1, "w", 2, 4,
        )  # fmt: skip
        events = await store.events(TENANT, run.id)
        assert [(e.seq, e.name) for e in events] == [
            (1, "thread.run.created"), (2, "thread.run.queued"), (3, "thread.run.in_progress"),
        ]  # fmt: skip

    @on_a_store
    async def test_every_field_of_a_run_is_kept(self, store: Store) -> None:
        """What a run begins with, and what a move adds."""
        agent, graph, thread = an_agent(), a_graph(), a_thread()
        begun = a_run(
            agent, thread, graph, model="m", inputs={"a": [1]}, metadata={"k": "é"}, expires_ms=77,
            overrides=RunOverrides(temperature=0.5, instructions="x", output=OutputSpec(schema={"type": "object"})),
        )  # fmt: skip
        await store.insert(TENANT, agent, graph, thread, begun)
        begun = begun.model_copy(update={"first_seq": 1})
        assert await store.get(Run, TENANT, begun.id) == begun
        changes = {
            "ended_ms": 9, "walked_ms": 8, "usage": Usage(prompt_tokens=1, completion_tokens=2, estimated=True),
            "last_error": RunError(code="c", message="m"), "wake_ms": 5,
        }  # fmt: skip
        committed = await store.commit(Checkpoint(begun, "failed", changes))
        assert await store.get(Run, TENANT, begun.id) == committed.run

    @on_a_store
    async def test_a_queued_run_is_claimed_by_one(self, store: Store) -> None:
        """A claim raises the fence."""
        agent, graph, thread = an_agent(), a_graph(), a_thread()
        run = a_run(agent, thread, graph)
        await store.insert(TENANT, agent, graph, thread, run)
        done = await asyncio.gather(
            *(store.claim(TENANT, run.id, Walker(f"w{n}"), now_ms=7) for n in range(5)),
            return_exceptions=True,
        )
        (won,) = [d for d in done if isinstance(d, Committed)]
        assert sum(isinstance(d, LeaseLost) for d in done) == 4
        assert (won.run.fence, won.run.status, won.run.started_ms) == (1, "in_progress", 7)
        assert [e.name for e in won.events] == ["thread.run.in_progress"]
        with pytest.raises(NotFound):
            await store.claim(TENANT, "run_none", Walker("w"), now_ms=7)

    @on_a_store
    async def test_a_thread_has_one_active_run_and_is_locked(self, store: Store) -> None:
        """Until the run ends; then the next may begin."""
        walked = await Walked.begin(store)
        agent, thread = walked.agent, walked.thread
        assert await store.active_run(TENANT, thread.id) == walked.run.id
        for refused in (a_run(agent, thread, walked.graph), a_message(thread)):
            with pytest.raises(ThreadBusy):
                await store.insert(TENANT, refused)
        with pytest.raises(ThreadBusy):
            await store.delete(TENANT, thread, now_ms=9)
        await walked.commit("completed", changes={"ended_ms": 9, "usage": Usage()})
        assert await store.active_run(TENANT, thread.id) is None
        await store.insert(TENANT, a_message(thread), a_run(agent, thread, walked.graph))

    @on_a_store
    async def test_a_run_needs_what_it_refers_to(self, store: Store) -> None:
        """The agent, in that version and not deleted; the graph; the thread."""
        agent, graph, thread = an_agent(), a_graph(), a_thread()
        await store.insert(TENANT, agent, graph, thread)
        for missing in (
            a_run(an_agent(), thread, graph),
            a_run(agent.model_copy(update={"version": 2}), thread, graph),
            a_run(agent, a_thread(), graph),
            a_run(agent, thread, a_graph("{}")),
        ):
            with pytest.raises(NotFound):
                await store.insert(TENANT, missing)
        await store.delete(TENANT, agent, now_ms=9)
        with pytest.raises(NotFound):
            await store.insert(TENANT, a_run(agent, thread, graph))
        assert await store.list(Run, TENANT) == []

    @on_a_store
    async def test_a_checkpoint_is_one_transaction(self, store: Store) -> None:
        """Steps, rows, events and blobs are there together, with numbers without a gap."""
        walked = await Walked.begin(store)
        row = a_message(walked.thread, "said", role="assistant", seq=2)
        step = a_step(walked.run, 0, message_seq=2, said=True, usage=Usage(prompt_tokens=3, completion_tokens=4),
                      last_error=RunError(code="c", message="m"), note="n", cause="x", edge="text")  # fmt: skip
        blob = Blob(hashlib.sha256(b"whole").hexdigest(), b"whole")
        asked = Event(walked.run.id, "thread.run.extra", walked.run.id, {"a": 1})
        committed = await walked.commit(messages=[row], steps=[step], events=[asked], blobs=[blob])
        events = await store.events(TENANT, walked.run.id)
        assert [e.seq for e in events] == [1, 2, 3, 4, 5, 6]
        assert tuple(events[3:]) == committed.events
        assert [e.name for e in events[3:]] == [
            "thread.message.completed", "thread.run.step.completed", "thread.run.extra",
        ]  # fmt: skip
        assert events[3].object_id == store.message_id(TENANT, walked.thread.id, 2)
        assert events[5].data == {"a": 1}
        assert await store.steps(TENANT, walked.run.id) == [step.model_copy(update={"event_seq": 5})]
        assert await store.blob(TENANT, blob.digest) == b"whole"
        assert await store.events(TENANT, walked.run.id, after=4, limit=1) == [events[4]]

    @on_a_store
    async def test_a_failing_checkpoint_changes_nothing(self, store: Store) -> None:
        """Whichever of its parts fails."""
        walked = await Walked.begin(store)
        await walked.ask()
        before = await walked.everything()
        step = a_step(walked.run, 1)
        broken: list[dict[str, Any]] = [
            {"messages": [walked.result(4)]},
            {"messages": [walked.result(3), walked.result(4)]},
            {"messages": [walked.result(3, call=1)]},
            {"messages": [walked.result(3, reply=1)]},
            {"steps": [a_step(walked.run, 0, path="else")]},
            {"status": "completed"},
            {"status": "cancelled"},
        ]
        for part in broken:
            checkpoint: dict[str, Any] = {"steps": [step], "events": [Event(walked.run.id, "x")]}
            with pytest.raises((Conflict, StateError)):
                await walked.commit(**checkpoint | part)
            assert await walked.everything() == before

    @on_a_store
    async def test_what_a_walker_lets_go_is_free_at_once(self, store: Store) -> None:
        """Somebody else has its run, and its old fence writes nothing any more."""
        walked = await Walked.begin(store)
        with pytest.raises(LeaseLost):
            await store.claim(TENANT, walked.run.id, Walker("next"), now_ms=1)
        await store.retire("w")
        claimed = await store.claim(TENANT, walked.run.id, Walker("next"), now_ms=1)
        assert (claimed.run.walker, claimed.run.fence) == ("next", walked.run.fence + 1)
        with pytest.raises(LeaseLost):
            await walked.commit(steps=[a_step(walked.run, 0)])

    @on_a_store
    async def test_a_failing_checkpoint_spares_what_is_committed_beside_it(self, store: Store) -> None:
        """Nothing of it is kept, although a part of it was written before it failed."""
        walked, *others = [await Walked.begin(store) for _ in range(4)]
        await walked.ask()
        before = await walked.everything()
        broken: dict[str, Any] = {
            "steps": [a_step(walked.run, 1)],
            "messages": [walked.result(3), walked.result(9)],
        }
        done = await asyncio.gather(
            others[0].commit(steps=[a_step(others[0].run, 0)]),
            walked.commit(**broken),
            others[1].commit(steps=[a_step(others[1].run, 0)]),
            walked.commit(**broken),
            others[2].commit(steps=[a_step(others[2].run, 0)]),
            return_exceptions=True,
        )
        assert [isinstance(d, Conflict) for d in done] == [False, True, False, True, False]
        assert await walked.everything() == before
        for other in others:
            assert [s.n for s in await store.steps(TENANT, other.run.id)] == [0]
        await walked.commit(messages=[walked.result(3)], steps=[a_step(walked.run, 1, message_seq=3)])

    @on_a_store
    async def test_whoever_does_not_hold_the_run_changes_nothing(self, store: Store) -> None:
        """A stale fence, status or revision is refused, move or not, and spares what is committed beside it."""
        walked, other = await Walked.begin(store), await Walked.begin(store)
        before = await walked.everything()
        stale = [
            walked.run.model_copy(update=u)
            for u in ({"fence": 0}, {"fence": 2}, {"rev": 0}, {"status": "queued"})
        ]
        step = a_step(walked.run, 0)
        done = await asyncio.gather(
            *(
                store.commit(Checkpoint(run, move, steps=[step]))
                for run in stale
                for move in ("failed", None)
            ),
            store.commit(Checkpoint(other.run, steps=[a_step(other.run, 0)])),
            return_exceptions=True,
        )
        assert [isinstance(d, LeaseLost) for d in done] == [True] * 8 + [False]
        assert await walked.everything() == before
        assert len(await store.steps(TENANT, other.run.id)) == 1

    @on_a_store
    async def test_many_runs_commit_at_once(self, store: Store) -> None:
        """Two hundred walks, a few of them stale, gathered as the store likes."""
        walks = [await Walked.begin(store) for _ in range(200)]

        async def walk(place: int, walked: Walked) -> bool:
            for n in range(3):
                await walked.commit(steps=[a_step(walked.run, n)])
            if place % 20 == 0:
                walked.run = walked.run.model_copy(update={"fence": 9})
            await walked.commit("completed", changes={"ended_ms": 9, "usage": Usage()})
            return True

        done = await asyncio.gather(*(walk(n, w) for n, w in enumerate(walks)), return_exceptions=True)
        assert [isinstance(d, LeaseLost) for d in done] == [n % 20 == 0 for n in range(200)]
        for place, walked in enumerate(walks):
            run = await store.get(Run, TENANT, walked.run.id)
            assert run.status == ("in_progress" if place % 20 == 0 else "completed")
            assert [s.n for s in await store.steps(TENANT, run.id)] == [0, 1, 2]
            events = await store.events(TENANT, run.id)
            assert [e.seq for e in events] == list(range(1, len(events) + 1))

    @on_a_store
    async def test_outputs_and_the_next_claim_are_one_checkpoint(self, store: Store) -> None:
        """A move to queued may claim the run at once."""
        walked = await Walked.begin(store)
        await walked.ask()
        waiting = a_step(walked.run, 1, path="tool_call#1/0", node="tool_call", kind="tool_call", status="in_progress",
                         edge="client", reply_seq=2, call_index=0)  # fmt: skip
        await walked.commit(steps=[waiting])
        pending = (PendingCall(path=waiting.path, reply_seq=2, call_index=0),)
        await walked.commit("requires_action", changes={"pending": pending})
        assert (await store.get(Run, TENANT, walked.run.id)).pending == pending
        assert walked.run.walker is None
        ended = waiting.model_copy(
            update={"status": "completed", "ended_ms": 9, "message_seq": 3, "edge": None}
        )
        await walked.commit(
            "queued",
            changes={"pending": ()},
            messages=[walked.result(3)],
            steps=[ended],
            claim_by=Walker("v"),
            now_ms=9,
        )
        assert await store.get(Run, TENANT, walked.run.id) == walked.run
        assert (walked.run.status, walked.run.fence, walked.run.walker, walked.run.pending) == (
            "in_progress", 2, "v", (),
        )  # fmt: skip
        await walked.commit("completed", changes={"ended_ms": 9, "usage": Usage()})

    @on_a_store
    async def test_notes_of_a_run_and_its_walk_do_not_overwrite_each_other(self, store: Store) -> None:
        """The walker knows the run as it was; the notes are newer."""
        walked = await Walked.begin(store)
        await store.replace(
            TENANT, walked.run.model_copy(update={"metadata": {"new": 1}, "status": "failed"})
        )
        await walked.commit(
            "requires_action", changes={"pending": (PendingCall(path="p", reply_seq=1, call_index=0),)}
        )
        run = await store.get(Run, TENANT, walked.run.id)
        assert (run.metadata, run.status, len(run.pending)) == ({"new": 1}, "requires_action", 1)
        await store.replace(TENANT, walked.run.model_copy(update={"metadata": {}, "pending": ()}))
        run = await store.get(Run, TENANT, walked.run.id)
        assert (run.metadata, len(run.pending)) == ({}, 1)

    @on_a_store
    async def test_nothing_is_replaced_or_deleted_that_is_not_there(self, store: Store) -> None:
        """NotFound, in every case."""
        thread, agent = a_thread(), an_agent()
        message = a_message(thread, id="msg_none")
        for record in (thread, message, a_run(agent, thread, a_graph())):
            with pytest.raises(NotFound):
                await store.replace(TENANT, record)
        for record in (thread, agent):
            with pytest.raises(NotFound):
                await store.delete(TENANT, record, now_ms=9)
        with pytest.raises(NotFound):
            await store.insert(TENANT, message)
        with pytest.raises((NotFound, LeaseLost)):
            await store.commit(Checkpoint(a_run(agent, thread, a_graph())))
        for missing in (
            store.steps(TENANT, "run_none"), store.events(TENANT, "run_none"), store.rows(TENANT, "thread_none"),
            store.active_run(TENANT, "thread_none"), store.list(Run, TENANT, parent="thread_none"),
            store.list(Message, TENANT, parent="thread_none"),
        ):  # fmt: skip
            with pytest.raises(NotFound):
                await missing

    @on_a_store
    async def test_a_deleted_thread_takes_all_with_it_and_its_place_is_not_given_away(
        self, store: Store
    ) -> None:
        """Its rows, runs, steps and events; nothing of them shows up in what is made next."""
        walked = await Walked.begin(store)
        await walked.commit(steps=[a_step(walked.run, 0)])
        await walked.commit("completed", changes={"ended_ms": 9, "usage": Usage()})
        first = store.message_id(TENANT, walked.thread.id, 1)
        await store.delete(TENANT, walked.thread, now_ms=9)
        fresh_thread = a_thread()
        await store.insert(TENANT, fresh_thread, a_message(fresh_thread))
        with pytest.raises(NotFound):
            await store.get(Message, TENANT, first)
        with pytest.raises((NotFound, LeaseLost)):
            await walked.commit(steps=[a_step(walked.run, 1)])
        for missing in (store.steps(TENANT, walked.run.id), store.rows(TENANT, walked.thread.id)):
            with pytest.raises(NotFound):
                await missing
        assert await store.list(Run, TENANT) == []
        assert len(await store.rows(TENANT, fresh_thread.id)) == 1

    # -- statuses and pairing --------------------------------------------------------------------------------

    @on_a_store
    async def test_a_run_moves_only_along_its_table(self, store: Store) -> None:
        """Every status to every other: the table decides."""
        routes = _routes(lifecycle.RUN, "queued")
        for before in lifecycle.RUN:
            for after in lifecycle.RUN:
                if before == after:
                    continue
                agent, graph, thread = an_agent(), a_graph(), a_thread()
                stored = await store.insert(TENANT, agent, graph, thread, a_run(agent, thread, graph))
                walked = Walked(store, agent, graph, thread, cast("Run", stored[-1]))
                for status in routes[before]:
                    await walked.commit(status)
                if after in lifecycle.RUN[before]:
                    await walked.commit(after)
                    assert (await store.get(Run, TENANT, walked.run.id)).status == after
                    continue
                with pytest.raises(StateError):
                    await walked.commit(after)
                assert (await store.get(Run, TENANT, walked.run.id)).status == before

    @on_a_store
    async def test_a_run_begins_queued(self, store: Store) -> None:
        """No other status is a beginning."""
        agent, graph, thread = an_agent(), a_graph(), a_thread()
        await store.insert(TENANT, agent, graph, thread)
        for status in lifecycle.RUN:
            if status != "queued":
                with pytest.raises(StateError):
                    await store.insert(TENANT, a_run(agent, thread, graph, status=status))

    @on_a_store
    async def test_a_step_moves_only_along_its_table_and_stays_as_it_ended(self, store: Store) -> None:
        """Every status to every other."""
        walked = await Walked.begin(store)
        n = 0
        for before in lifecycle.STEP:
            for after in lifecycle.STEP:
                n += 1
                await walked.commit(steps=[a_step(walked.run, n, status=before)])
                if after in lifecycle.STEP[before] or before == after == "in_progress":
                    await walked.commit(steps=[a_step(walked.run, n, status=after)])
                    continue
                with pytest.raises((StateError, Conflict)):
                    await walked.commit(steps=[a_step(walked.run, n, status=after)])

    @on_a_store
    async def test_a_run_ends_with_no_open_step(self, store: Store) -> None:
        """Whatever its end."""
        for status in sorted(lifecycle.TERMINAL):
            walked = await Walked.begin(store)
            opened = a_step(walked.run, 0, status="in_progress")
            await walked.commit(steps=[opened])
            if status == "cancelled":
                await walked.commit("cancelling")
            with pytest.raises(StateError):
                await walked.commit(status)
            await walked.commit(
                status, steps=[a_step(walked.run, 0, status="cancelled")], changes={"ended_ms": 9}
            )

    @on_a_store
    async def test_nothing_is_written_to_a_run_that_has_ended(self, store: Store) -> None:
        """Not even by somebody who knows that it has: its end is its last event."""
        for status in sorted(lifecycle.TERMINAL):
            walked = await Walked.begin(store)
            if status == "cancelled":
                await walked.commit("cancelling")
            await walked.commit(status, changes={"ended_ms": 9})
            before = await store.events(TENANT, walked.run.id)
            for move in (status, None):
                with pytest.raises(StateError):
                    await walked.commit(move, events=[Event(walked.run.id, "thread.run.cancelling")])
            assert await store.events(TENANT, walked.run.id) == before

    @on_a_store
    async def test_a_run_ends_with_no_open_call(self, store: Store) -> None:
        """Each call of a reply has a result; the last may come with the end."""
        for status in sorted(lifecycle.TERMINAL):
            walked = await Walked.begin(store)
            await walked.ask(3)
            await walked.commit(messages=[walked.result(3, call=1)])
            if status == "cancelled":
                await walked.commit("cancelling")
            with pytest.raises(StateError):
                await walked.commit(status)
            with pytest.raises(StateError):
                await walked.commit(status, messages=[walked.result(4, call=0)])
            await walked.commit(status, messages=[walked.result(4, call=0), walked.result(5, call=2)])
            await store.insert(TENANT, a_message(walked.thread))

    @on_a_store
    async def test_a_call_has_one_result(self, store: Store) -> None:
        """A second one is refused, as is one that nobody asked for."""
        walked = await Walked.begin(store)
        await walked.ask(2)
        await walked.commit(messages=[walked.result(3, call=1)])
        for wrong in (
            walked.result(4, call=1),
            walked.result(4, call=2),
            walked.result(4, reply=1),
            walked.result(4, reply=9),
        ):
            with pytest.raises(Conflict):
                await walked.commit(messages=[wrong])
        await walked.commit(messages=[walked.result(4, call=0)])

    @on_a_store
    async def test_the_places_of_a_thread_have_no_gap(self, store: Store) -> None:
        """A place that is taken or too far is refused."""
        walked = await Walked.begin(store)
        for seq in (1, 3, 100):
            with pytest.raises(Conflict):
                await walked.commit(messages=[a_message(walked.thread, role="assistant", seq=seq)])
        await walked.commit(messages=[a_message(walked.thread, role="assistant", seq=2)])

    # -- tenants, waiting, closing ---------------------------------------------------------------------------

    @on_a_store
    async def test_nothing_is_found_from_another_tenant(self, store: Store) -> None:
        """Every call names a tenant; ids of another one are not there."""
        walked = await Walked.begin(store)
        agent = an_agent(name="clerk")
        blob = Blob(hashlib.sha256(b"b").hexdigest(), b"b")
        await store.insert(TENANT, agent, blob)
        before = await walked.everything()
        thread, run, message = walked.thread, walked.run, store.message_id(TENANT, walked.thread.id, 1)
        (row,) = await store.rows(TENANT, thread.id)
        hidden: list[Coroutine[Any, Any, Any]] = [
            store.get(Agent, "other", agent.id), store.get(Agent, "other", agent.id, version=1),
            store.get(Thread, "other", thread.id), store.get(Message, "other", message), store.get(Run, "other", run.id),
            store.list(Message, "other", parent=thread.id), store.list(Run, "other", parent=thread.id),
            store.rows("other", thread.id), store.active_run("other", thread.id), store.steps("other", run.id),
            store.graph("other", walked.graph.digest), store.blob("other", blob.digest), store.events("other", run.id),
            store.replace("other", thread), store.replace("other", row), store.replace("other", run),
            store.delete("other", agent, now_ms=1), store.delete("other", thread, now_ms=1),
            store.claim("other", run.id, Walker("v"), now_ms=1), store.insert("other", a_message(thread)),
            store.insert("other", a_run(walked.agent, thread, walked.graph)),
            store.commit(Checkpoint(run.model_copy(update={"tenant": "other"}), "failed")),
        ]  # fmt: skip
        for call in hidden:
            with pytest.raises((NotFound, LeaseLost)):
                await call
        with pytest.raises(NotFound):
            store.message_id("other", thread.id, 1)
        assert await store.agent_named("other", "clerk") is None
        await self._sees_nothing(store, Agent)
        await self._sees_nothing(store, Thread)
        await self._sees_nothing(store, Run)
        assert await walked.everything() == before
        twin = await Walked.begin(store, tenant="other")
        await store.insert("other", agent.model_copy(update={"tenant": "other"}))
        assert [r.id for r in await store.list(Run, "other")] == [twin.run.id]

    async def _sees_nothing(self, store: Store, cls: type[_N]) -> None:
        assert await store.list(cls, "other") == []
        assert await store.list(cls, "other", after=fresh("run")) == []
        assert await store.find(cls, "other", "") == []

    @on_a_store
    async def test_a_write_wakes_who_waits_for_news(self, store: Store) -> None:
        """And without news the wait is over in time."""
        waiting = asyncio.create_task(store.changed(30))
        await asyncio.sleep(0)
        await store.insert(TENANT, a_thread())
        await asyncio.wait_for(waiting, timeout=5)
        await asyncio.wait_for(store.changed(0.01), timeout=5)

    @on_a_store
    async def test_a_closed_store_says_so(self, store: Store) -> None:
        """Every call but closing it again is refused; nobody who waits is left waiting."""
        walked = await Walked.begin(store)
        writing = [asyncio.create_task(store.insert(TENANT, a_thread())) for _ in range(20)]
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        for task in writing:
            assert len(await task) == 1
        run, thread = walked.run, walked.thread
        refused: list[Coroutine[Any, Any, Any]] = [
            store.insert(TENANT, a_thread()), store.get(Run, TENANT, run.id), store.find(Run, TENANT, "r"),
            store.agent_named(TENANT, "x"), store.list(Thread, TENANT), store.rows(TENANT, thread.id),
            store.active_run(TENANT, thread.id), store.steps(TENANT, run.id), store.graph(TENANT, run.graph),
            store.blob(TENANT, "x"), store.events(TENANT, run.id), store.replace(TENANT, thread),
            store.delete(TENANT, thread, now_ms=1), store.claim(TENANT, run.id, Walker("w"), now_ms=1),
            store.commit(Checkpoint(run)), store.changed(1), store.add_key(a_key()), store.key("x"), store.keys(TENANT),
            store.revoke_key(TENANT, "x", now_ms=1),
        ]  # fmt: skip
        for call in refused:
            with pytest.raises(StoreError, match="closed"):
                await call
        with pytest.raises(StoreError, match="closed"):
            store.status()
        with pytest.raises(StoreError, match="closed"):
            store.message_id(TENANT, thread.id, 1)

    @on_a_store
    async def test_a_store_says_how_it_is(self, store: Store) -> None:
        """Its library, its schema and its durability."""
        status = store.status()
        assert status.library
        assert status.schema_version >= 1
        assert status.writable
        assert status.durability

    @on_a_store
    async def test_what_a_cancelled_caller_asked_for_is_whole_or_absent(self, store: Store) -> None:
        """Cancelling whoever waits for a write leaves no half of it."""
        await Walked.begin(store)
        await Walked.begin(store)
        threads = [a_thread() for _ in range(30)]
        tasks = [asyncio.create_task(store.insert(TENANT, t, a_message(t))) for t in threads]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for place, thread in enumerate(threads):
            if place % 2:
                assert len(await store.rows(TENANT, thread.id)) == 1
                continue
            try:
                rows = await store.rows(TENANT, thread.id)
            except NotFound:
                continue
            assert len(rows) == 1


def _routes(table: lifecycle.Table, begin: str) -> dict[str, list[str]]:
    """Give for every status the moves that lead to it."""
    routes: dict[str, list[str]] = {begin: []}
    todo = [begin]
    while todo:
        here = todo.pop(0)
        for there in sorted(table[here]):
            if there not in routes:
                routes[there] = [*routes[here], there]
                todo.append(there)
    return routes
