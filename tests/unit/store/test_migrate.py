"""What an older treadle kept is read, written on and forked after the upgrade."""

from pathlib import Path

import apsw
import pytest

from treadle.objects.agent import Agent
from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.objects.thread import Thread
from treadle.objects.walker import Walker
from treadle.objects.workflow import Workflow
from treadle.store.base import Checkpoint
from treadle.store.check import check
from treadle.store.migrate import APPLICATION_ID, upgrade
from treadle.store.queries import migrations
from treadle.store.sqlite import SqliteStore
from treadle.testing.store_contract import a_graph, a_message, a_run, a_step, an_agent
from treadle.testing.workflow_contract import ENDED, a_workflow

AGENT = an_agent(name="clerk")
GRAPH = a_graph()
KEPT = f"""
INSERT INTO agents (tenant, id, version, name, origin, created_ms) VALUES ('default', '{AGENT.id}', 1, 'clerk', 'file', 1);
INSERT INTO agent_versions VALUES ('default', '{AGENT.id}', 1, '{AGENT.spec.digest}', 1, '{AGENT.spec.canonical()}');
INSERT INTO graphs VALUES (1, 'default', '{GRAPH.digest}', '{GRAPH.text}');
INSERT INTO threads (no, tenant, id, created_ms, body) VALUES (1, 'default', 'thread_a', 2, '{{"metadata":{{"k":1}}}}');
INSERT INTO messages (pos, tenant, role, status, listed, tokens, created_ms, text)
  VALUES ((1 << 32) + 1, 'default', 'user', 'completed', 1, 1, 3, 'hello');
INSERT INTO runs (no, tenant, id, thread, agent_id, agent_version, graph, status, rev, fence, first_seq, born, created_ms, walked_ms)
  VALUES (1, 'default', 'run_a', 1, '{AGENT.id}', 1, 1, 'queued', 0, 0, 2, 2, 4, 0);
INSERT INTO walkers (id, host, boot, space, pid, beat, until_ms) VALUES ('w', '', '', '', 0, 0, 0);
UPDATE runs SET status = 'in_progress', rev = 1, fence = 1, walker = 'w', started_ms = 4;
INSERT INTO messages (pos, tenant, role, status, listed, open, tokens, run, created_ms, body)
  VALUES ((1 << 32) + 2, 'default', 'assistant', 'completed', 0, '1', 1, 1, 5, '{{"tool_calls":[["c","f","{{}}"]]}}');
INSERT INTO steps (pos, tenant, path, attempt, kind, status, fence, edge, fan, message, started_ms, ended_ms, event, said)
  VALUES ((1 << 32), 'default', 'model_call#1', 1, 'model_call', 'completed', 1, 'tool_calls', 1, 2, 4, 5, 4, 0);
INSERT INTO events VALUES ('default', 1, 3, 'thread.run.in_progress', 'run_a', NULL);
"""
"""A run that asked for one call, as a treadle of the schema's version 4 left it."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Give the file of a treadle of the schema's version 4."""
    path = tmp_path / "store.db"
    connection = apsw.Connection(str(path))
    for number, sql in migrations():
        if number <= 4:
            connection.execute(sql)
    connection.execute(KEPT)
    connection.pragma("user_version", 4)
    connection.pragma("application_id", APPLICATION_ID)
    connection.close()
    return path


def test_what_was_kept_is_sound_after_the_upgrade(old: Path) -> None:
    before, after = upgrade(old)
    assert (before, after) == (4, 5)
    assert check(old) == []


async def test_what_was_kept_is_read_as_it_was(old: Path) -> None:
    store = SqliteStore(old)
    try:
        assert await store.agent_named("default", "clerk") == AGENT
        assert await store.list(Agent, "default") == [AGENT]
        assert await store.list(Workflow, "default") == []
        thread = await store.get(Thread, "default", "thread_a")
        assert thread == Thread(id="thread_a", created_ms=2, metadata={"k": 1})
        assert [m.text for m in await store.list(Message, "default", parent="thread_a")] == ["hello"]
        assert [(s.node, s.edge, s.result) for s in await store.steps("default", "run_a")] == [
            ("model_call", "tool_calls", None)
        ]
        assert await store.children("default", "run_a") == []
    finally:
        await store.close()


async def test_a_run_that_was_left_is_walked_on_and_its_thread_is_forked(old: Path) -> None:
    store = SqliteStore(old)
    try:
        run = (await store.claim("default", "run_a", Walker("w"), now_ms=9)).run
        thread = await store.get(Thread, "default", "thread_a")
        result = a_message(thread, "r", role="tool", reply_seq=2, call_index=0, seq=3)
        step = a_step(
            run, 1, path="tool_call#1/0", node="tool_call", kind="tool_call", reply_seq=2, call_index=0,
            message_seq=3, tool="f",
        )  # fmt: skip
        await store.commit(Checkpoint(run, "completed", changes=ENDED, messages=[result], steps=[step]))
        fork = Thread(id="thread_b", created_ms=9, forked_from="thread_a", forked_at=3)
        workflow = a_workflow(name="clerk")
        await store.insert("default", fork, workflow)
        made = await store.insert(
            "default", a_message(fork, "more"), a_run(AGENT, fork, GRAPH), claim_by=Walker("w")
        )
        assert isinstance(made[1], Run)
        assert made[1].first_seq == 5
        assert [m.text for m in await store.rows("default", "thread_b")] == ["hello", None, "r", "more"]
        assert await store.workflow_named("default", "clerk") == workflow
        assert await store.agent_named("default", "clerk") == AGENT
    finally:
        await store.close()
    assert check(old) == []
