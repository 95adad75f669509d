"""The schema keeps its rules whatever writes: each trigger refuses what it is there to refuse."""

import apsw
import pytest

from treadle import lifecycle
from treadle.store.sqlite import SqliteStore
from treadle.testing.store_contract import Walked, a_step

MESSAGE = (
    "INSERT INTO messages (pos, tenant, role, status, listed, reply, call, tokens, run, created_ms, text) "
    "VALUES ((1 << 32) + {}, 'default', '{}', '{}', 1, {}, {}, 1, {}, 1, 'x')"
)
REFUSED = {
    "agent_versions_frozen": "UPDATE agent_versions SET spec = '{}'",
    "messages_gapless": MESSAGE.format(9, "assistant", "completed", "NULL", "NULL", 1),
    "messages_busy": MESSAGE.format(3, "user", "completed", "NULL", "NULL", "NULL"),
    "messages_result": MESSAGE.format(3, "tool", "completed", 2, 1, 1),
    "messages_kept": "DELETE FROM messages WHERE pos = (1 << 32) + 1",
    "messages_birth": MESSAGE.format(3, "assistant", "done", "NULL", "NULL", 1),
    "messages_moves": "UPDATE messages SET status = 'in_progress'",
    "runs_revision": "UPDATE runs SET status = 'requires_action'",
    "runs_whole": "UPDATE runs SET status = 'failed', rev = rev + 1",
    "runs_birth": "INSERT INTO runs (tenant, id, thread, agent_id, agent_version, graph, status, rev, fence, first_seq, "
    "created_ms, walked_ms) VALUES ('default', 'run_x', 99, 'a', 1, 1, 'in_progress', 0, 0, 1, 1, 0)",
    "runs_moves": "UPDATE runs SET status = 'done', rev = rev + 1",
    "steps_frozen": "UPDATE steps SET fence = 7 WHERE n = 0",
    "steps_birth": "INSERT INTO steps (pos, tenant, path, attempt, kind, status, fence, started_ms, said) "
    "VALUES ((1 << 32) + 9, 'default', 'x#1', 1, 'assign', 'done', 1, 1, 0)",
    "steps_moves": "UPDATE steps SET status = 'done' WHERE n = 1",
    "walkers_stay_dead": "UPDATE walkers SET dead = 1; UPDATE walkers SET dead = 0",
    "keys_frozen": "INSERT INTO keys (id, tenant, digest, created_ms, revoked_ms) VALUES ('key_1', 'default', 'x', 1, 2); "
    "UPDATE keys SET revoked_ms = NULL",
    "files_frozen": "INSERT INTO files VALUES ('default', 'file-1', 'n', 'assistants', 1, 'x', 't', 1, NULL); "
    "UPDATE files SET bytes = 2",
    "threads_frozen": "UPDATE threads SET forked_from = 9, forked_at = 1",
    "runs_busy": "UPDATE runs SET parent = 99; INSERT INTO runs (tenant, id, thread, agent_id, agent_version, graph, status, "
    "rev, fence, first_seq, born, created_ms, walked_ms) VALUES ('default', 'run_x', 1, 'a', 1, 1, 'queued', 0, 0, 1, 2, 1, 0)",
    "runs_in_line_wait": "UPDATE runs SET waits = 1; UPDATE runs SET status = 'requires_action', rev = rev + 1",
}
SAID = {
    "agent_versions_frozen": "frozen", "messages_gapless": "gap", "messages_busy": "busy", "messages_result": "unpaired",
    "messages_kept": "gap", "runs_revision": "revision", "runs_whole": "whole", "steps_frozen": "frozen",
    "walkers_stay_dead": "frozen", "keys_frozen": "frozen", "files_frozen": "frozen", "threads_frozen": "frozen",
    "runs_busy": "busy",
}  # fmt: skip


@pytest.fixture
async def connection(tmp_path):
    """Give a raw connection to a store with a walked run that has an open call and an open step."""
    store = SqliteStore(tmp_path / "store.db")
    walked = await Walked.begin(store)
    await walked.ask()
    await walked.commit(steps=[a_step(walked.run, 1, status="in_progress")])
    await store.close()
    opened = apsw.Connection(str(tmp_path / "store.db"))
    yield opened
    opened.close()


async def test_every_trigger_is_shown_to_refuse(connection):
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")}
    counting = {"vector_store_files_in", "vector_store_files_out", "vector_store_files_moved"}
    assert found - counting == set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_trigger_refuses_what_it_is_there_for(connection, name):
    with pytest.raises(apsw.ConstraintError, match=f"treadle:{SAID.get(name, 'status')}"):
        connection.execute(REFUSED[name])


FORK = "INSERT INTO threads (no, tenant, id, created_ms, fork_of, forked_from, forked_at) VALUES (9, 'default', 'f', 1, 't', 1, 1); "
SOURCE = "INSERT INTO sources VALUES (8, 'default', 's', 1, 1); "
ROW = "INSERT INTO messages (pos, tenant, role, status, listed, tokens, created_ms) VALUES ((9 << 32) + {}, 'default', 'user', 'completed', 1, 1, 1)"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (FORK + ROW.format(1), "gap"),
        (FORK + ROW.format(3), "gap"),
        (FORK + "DELETE FROM threads WHERE no = 1; DELETE FROM messages WHERE pos = (1 << 32) + 1", "gap"),
        (
            SOURCE + "DELETE FROM threads WHERE no = 1; DELETE FROM messages WHERE pos = (1 << 32) + 1",
            "gap",
        ),
        (
            "UPDATE runs SET parent = 99; " + MESSAGE.format(3, "user", "completed", "NULL", "NULL", "NULL"),
            "busy",
        ),
    ],
)
async def test_forks_and_child_runs_are_guarded_by_the_same_triggers(connection, sql, said):
    with pytest.raises(apsw.ConstraintError, match=f"treadle:{said}"):
        connection.execute(sql)


async def test_a_fork_goes_on_after_what_it_shares_and_its_source_keeps_no_more(connection):
    connection.execute(FORK + ROW.format(2))
    connection.execute("DELETE FROM threads WHERE no = 1; DELETE FROM messages WHERE pos = (1 << 32) + 2")


async def test_a_result_closes_its_call(connection):
    assert connection.execute("SELECT open FROM messages WHERE pos = (1 << 32) + 2").fetchone() == ("1",)
    connection.execute(MESSAGE.format(3, "tool", "completed", 2, 0, 1))
    assert connection.execute("SELECT open FROM messages WHERE pos = (1 << 32) + 2").fetchone() == ("0",)


@pytest.mark.parametrize(
    ("table", "noun", "where"),
    [
        ("runs", lifecycle.RUN, "no = 1"),
        ("steps", lifecycle.STEP, "n = 1"),
        ("messages", lifecycle.MESSAGE, "pos = (1 << 32) + 1"),
    ],
)
async def test_raw_moves_follow_the_tables(connection, table, noun, where):
    """Every pair of statuses, written past everything but the schema."""
    connection.execute("DROP TRIGGER runs_whole; DROP TRIGGER steps_frozen; DROP TRIGGER runs_revision")
    moves = connection.execute(
        "SELECT sql FROM sqlite_schema WHERE name = ?", (f"{table}_moves",)
    ).fetchone()[0]
    for before in noun:
        for after in [*noun, "nonsense"]:
            connection.execute(f"DROP TRIGGER {table}_moves")
            connection.execute(f"UPDATE {table} SET status = ? WHERE {where}", (before,))
            connection.execute(moves)
            is_legal = after in noun[before] or after == before
            try:
                connection.execute(f"UPDATE {table} SET status = ? WHERE {where}", (after,))
            except apsw.ConstraintError:
                assert not is_legal, (before, after)
            else:
                assert is_legal, (before, after)


@pytest.mark.parametrize("change", ["id = 'key_2'", "tenant = 'elsewhere'", "digest = 'y'"])
async def test_a_key_opens_what_it_opened(connection, change):
    connection.execute(
        "INSERT INTO keys (id, tenant, digest, created_ms) VALUES ('key_1', 'default', 'x', 1)"
    )
    with pytest.raises(apsw.ConstraintError, match="treadle:frozen"):
        connection.execute(f"UPDATE keys SET {change}")
    connection.execute("UPDATE keys SET revoked_ms = 2, name = 'old'")
