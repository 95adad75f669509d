"""The check of a store finds every broken promise, and nothing in a store that keeps them."""

import asyncio
import hashlib
import shutil

import apsw
import pytest

from treadle.errors import StoreError
from treadle.objects.message import Message, ToolCall
from treadle.objects.run import Usage
from treadle.objects.thread import Thread
from treadle.objects.vector_store import FileBatch
from treadle.objects.walker import Walker
from treadle.store.base import Blob, Checkpoint
from treadle.store.check import check
from treadle.store.queries import checks
from treadle.store.sqlite import SqliteStore
from treadle.testing.file_contract import a_link, a_vector_store, upload
from treadle.testing.store_contract import Walked, a_message, a_run, a_step, a_thread


async def make(path):
    """Make a store with a run that completed after two tools, and one that waits for its client."""
    store = SqliteStore(path)
    file, vector_store = await upload(store, b"text"), a_vector_store()
    batch = FileBatch(id="vsfb_1", store_id=vector_store.id, created_ms=1)
    link = a_link(vector_store, file, status="completed", batch_id=batch.id)
    await store.insert("default", vector_store, batch, link)
    for is_done in (True, False):
        walked = await Walked.begin(store)
        calls = tuple(ToolCall(id=f"c{i}", name="f", arguments="{}") for i in range(2))
        asked = a_message(walked.thread, role="assistant", tool_calls=calls, seq=2).model_copy(
            update={"text": None}
        )
        await walked.commit(
            messages=[asked], steps=[a_step(walked.run, 0, edge="tool_calls", fan=2, message_seq=2)]
        )
        tool = {"kind": "tool_call", "node": "tool_call", "reply_seq": 2, "tool": "f"}
        steps = [
            a_step(walked.run, 1 + i, path=f"tool_call#1/{i}", call_index=i, status="in_progress", **tool)
            for i in range(2)
        ]
        await walked.commit(steps=steps)
        if not is_done:
            await walked.commit("requires_action")
            break
        whole = b"w" * 2_000_000
        blob = Blob(hashlib.sha256(whole).hexdigest(), whole)
        ended = [
            s.model_copy(update={"status": "completed", "ended_ms": 9, "message_seq": 4 - i})
            for i, s in enumerate(steps)
        ]
        ended[0] = ended[0].model_copy(update={"full_output": blob.digest})
        results = [walked.result(3, call=1), walked.result(4, call=0)]
        await walked.commit(messages=results, steps=ended, blobs=[blob])
        answer = a_message(walked.thread, "x" * 300_000, role="assistant", seq=5)
        steps = [
            a_step(walked.run, 3, path="model_call#2", edge="text"),
            a_step(
                walked.run,
                4,
                path="append_message#1",
                node="append_message",
                kind="append_message",
                message_seq=5,
                said=True,
            ),
        ]
        await walked.commit(
            "completed",
            messages=[answer],
            steps=steps,
            changes={"ended_ms": 9, "usage": Usage(prompt_tokens=1, completion_tokens=1)},
        )
    await make_forks(store, walked)
    await make_child(store, walked)
    await store.close()


async def make_forks(store, walked):
    """Fork the thread of the run that completed, which is number 1, and one that is deleted then."""
    first = (await store.list(Thread, "default", order="asc"))[0]
    fork = a_thread().model_copy(update={"forked_from": first.id, "forked_at": 5})
    source = a_thread()
    last = a_thread().model_copy(update={"forked_from": source.id, "forked_at": 1})
    await store.insert("default", fork, source, a_message(source), a_message(source), last, a_message(last))
    await store.delete("default", source, now_ms=9)


async def make_child(store, walked):
    """Give the run that waits for its client a child with a large result."""
    own = a_thread()
    child = a_run(walked.agent, own, walked.graph, parent_id=walked.run.id)
    stored = await store.insert("default", own, child, claim_by=Walker("w"))
    step = a_step(stored[1], 0, path="sum#1", node="sum", kind="function", result="r" * 300_000)
    await store.commit(Checkpoint(stored[1], steps=(step,)))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):

    folder = tmp_path_factory.mktemp("sound")
    asyncio.run(make(folder / "store.db"))
    connection = apsw.Connection(str(folder / "store.db"))
    connection.pragma("journal_mode", "delete")
    connection.close()
    return folder


def test_a_sound_store_has_no_problem(sound):
    assert check(sound / "store.db") == []


BREAKS = {
    "thread_gaps": "UPDATE messages SET pos = pos + 1 WHERE pos = (1 << 32) + 5",
    "groundless_forks": "UPDATE threads SET forked_at = 2 WHERE no = 3",
    "forgotten_sources": "DELETE FROM threads WHERE no = 5",
    "lost_messages": "DELETE FROM threads WHERE no = 1",
    "unanswered_calls": "UPDATE runs SET status = 'failed' WHERE no = 2",
    "unasked_results": "UPDATE messages SET call = 7 WHERE pos = (1 << 32) + 3",
    "doubled_results": "UPDATE messages SET call = 0 WHERE pos = (1 << 32) + 3",
    "miscounted_calls": "UPDATE messages SET open = '01' WHERE pos = (1 << 32) + 2",
    "parted_results": "UPDATE messages SET role = 'user', reply = NULL, call = NULL WHERE pos = (1 << 32) + 3",
    "busy_threads": "DROP INDEX runs_active; UPDATE runs SET thread = 2, status = 'queued' WHERE no = 1",
    "rootless_runs": "DELETE FROM agent_versions",
    "lost_children": "UPDATE runs SET parent = 99 WHERE no = 3",
    "outlived_children": "UPDATE runs SET status = 'cancelled' WHERE no = 2",
    "unfinished_runs": "UPDATE runs SET prompt_tokens = NULL WHERE no = 1",
    "ended_too_early": "UPDATE runs SET ended_ms = 5 WHERE no = 2",
    "doubled_events": "INSERT INTO events VALUES ('default', 1, (SELECT max(event) + 1 FROM steps WHERE run = 1), 'thread.run.completed', NULL, NULL)",
    "event_gaps": "UPDATE steps SET event = event + 1 WHERE run = 1 AND n = (SELECT max(n) FROM steps WHERE run = 1)",
    "lost_steps": "UPDATE steps SET fence = 9 WHERE run = 1 AND n = 0",
    "doubled_steps": "UPDATE steps SET path = 'model_call#1' WHERE run = 1 AND n = 3",
    "misplaced_steps": "UPDATE steps SET message = 3 WHERE run = 1 AND n = 1",
    "foreign_rows": "UPDATE messages SET run = 1 WHERE pos = (2 << 32) + 2",
    "agent_versions": "UPDATE agents SET version = 2",
    "missing_blobs": "DELETE FROM blobs",
    "lines_without_head": "UPDATE runs SET waits = 1, status = 'queued' WHERE no = 2",
    "stranded_messages": "INSERT INTO queue (tenant, thread, after, body) VALUES ('default', 1, 1, '{}')",
    "misplaced_messages": "INSERT INTO queue (tenant, thread, after, pos) VALUES ('default', 1, 1, (1 << 32) + 1)",
    "unknown_walkers": "UPDATE runs SET walker = 'nobody', status = 'in_progress' WHERE no = 2",
    "decided_without_leave": "UPDATE steps SET edge = 'approved' WHERE run = 1 AND n = 0",
    "lost_contents": "UPDATE files SET bytes = 3",
    "lost_vector_store_files": "DELETE FROM vector_stores",
    "miscounted_vector_stores": "UPDATE vector_stores SET completed = 7",
    "miscounted_batches": "UPDATE file_batches SET failed = 7",
}
SAID = dict(zip(BREAKS, (said for said, _ in checks()), strict=True))


def corrupted(sound, tmp_path, sql):
    folder = tmp_path / "broken"
    shutil.copytree(sound, folder)
    connection = apsw.Connection(str(folder / "store.db"))
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(sql)
    assert connection.total_changes()
    connection.close()
    return folder / "store.db"


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("groundless_forks", "DELETE FROM messages WHERE pos = (4 << 32) + 1"),
        ("groundless_forks", "UPDATE threads SET forked_from = 2, forked_at = 2 WHERE no = 5"),
        (
            "forgotten_sources",
            "INSERT INTO threads (no, tenant, id, created_ms) VALUES (4, 'default', 'x', 1)",
        ),
        ("thread_gaps", "UPDATE messages SET pos = pos - 1 WHERE pos = (5 << 32) + 2"),
        ("lost_children", "UPDATE runs SET tenant = 'other' WHERE no = 2"),
        ("ended_too_early", "UPDATE runs SET status = 'in_progress' WHERE no = 2"),
        (
            "missing_blobs",
            "DELETE FROM blobs WHERE digest = (SELECT json_extract(body, '$.blobs.result') FROM steps WHERE run = 3)",
        ),
    ],
)
def test_broken_forks_and_children_are_found_in_other_ways_too(sound, tmp_path, name, sql):
    problems = check(corrupted(sound, tmp_path, sql))
    assert SAID[name] in {p.message.partition(":")[0] for p in problems}


def test_a_run_that_rests_until_a_time_is_sound(sound, tmp_path):
    sql = "UPDATE runs SET status = 'in_progress', wake_ms = 9 WHERE no = 2; UPDATE runs SET walker = NULL WHERE no = 3"
    assert check(corrupted(sound, tmp_path, sql)) == []


@pytest.mark.parametrize("name", BREAKS)
def test_each_broken_promise_is_found_and_named(sound, tmp_path, name):
    problems = check(corrupted(sound, tmp_path, BREAKS[name]))
    assert SAID[name] in {p.message.partition(":")[0] for p in problems}


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE runs SET status = 'done' WHERE no = 1", "a run has one of the known statuses: done"),
        ("UPDATE steps SET status = 'done' WHERE n = 0", "a run step has one of the known statuses: done"),
        ("UPDATE messages SET status = 'done'", "a message has one of the known statuses: done"),
        ("UPDATE graphs SET text = '{}'", "a step graph has the content that its digest names"),
        (
            "UPDATE blobs SET body = x'00' WHERE body IS NOT NULL",
            "a large text has the content that its digest names",
        ),
        ("UPDATE blobs SET bytes = 3", "a large text has the content that its digest names"),
        ("UPDATE file_contents SET body = x'00000000'", "a file has the content that was uploaded"),
        ("DELETE FROM file_contents", "a file has the content that was uploaded"),
    ],
)
def test_what_sql_cannot_say_is_found_too(sound, tmp_path, sql, said):
    assert any(p.message.startswith(said) for p in check(corrupted(sound, tmp_path, sql)))


def test_a_problem_says_where_it_is(sound, tmp_path):
    (problem,) = check(corrupted(sound, tmp_path, BREAKS["ended_too_early"]))
    assert problem.node.startswith("run_")
    assert problem.code == "TR068"
    assert "requires_action" in problem.message


def test_a_lost_file_is_found(sound, tmp_path):
    path = corrupted(sound, tmp_path, "UPDATE threads SET created_ms = 5")
    assert check(path) == []
    shutil.rmtree(path.parent / "files")
    assert [p.message.partition(":")[0] for p in check(path)] == [
        "a large text has the content that its digest names"
    ]


def test_a_damaged_page_is_found_or_the_file_is_refused(sound, tmp_path):
    path = corrupted(sound, tmp_path, "UPDATE threads SET created_ms = 5")
    content = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(content) - 4096, 4096):
        content[at : at + 200] = b"\xff" * 200
    path.write_bytes(content)
    try:
        found = len(check(path))
    except StoreError:
        found = 1
    assert found


def test_a_check_changes_nothing(sound):
    before = (sound / "store.db").read_bytes()
    check(sound / "store.db")
    assert (sound / "store.db").read_bytes() == before


def test_a_store_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="no store"):
        check(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


async def test_an_open_store_in_memory_can_be_checked():
    store = SqliteStore(None)
    walked = await Walked.begin(store)
    assert check(store._writer) == []
    assert isinstance((await store.rows("default", walked.thread.id))[0], Message)
    await store.close()
