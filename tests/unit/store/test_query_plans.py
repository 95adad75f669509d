"""What runs all the time is found by an index: nothing that a sweep or a step asks grows with what has ended."""

import re

import pytest

from treadle.store.connection import connect
from treadle.store.queries import load, migrations

QUERIES = load()
OF_A_STEP = (
    "head_of_run", "last_event", "last_position", "insert_message", "put_step", "update_run", "claim_run",
    "take_over_run", "ended_steps", "line_of_thread", "queued_messages", "promote_run", "living_walker",
    "rows_asc", "rows_desc", "first_user_row", "steps_of_run", "events_after", "step_events_after", "get_run",
    "number_of_run", "active_run", "last_in_line", "get_request", "children_of_run", "shared_rows",
    "results_at", "run_of_thread", "free_children", "get_result", "forget_results", "delete_thread_messages",
)  # fmt: skip
OF_FILES = (
    "get_file", "get_file_content", "list_files_asc", "list_files_desc", "bytes_of_files", "expired_files",
    "delete_file_links", "get_vector_store", "list_vector_stores_asc", "list_vector_stores_desc",
    "delete_vector_store_files", "delete_vector_store_batches", "put_vector_store_file", "get_vector_store_file",
    "number_of_vector_store_file", "list_vector_store_files_asc", "list_vector_store_files_desc",
    "waiting_vector_store_files", "settle_vector_store_file", "get_file_batch", "cancel_batch_files",
)  # fmt: skip
OF_A_SWEEP = {
    "due_runs": "runs_active",
    "due_in_line": "runs_in_line",
    "forget_walkers": "(runs|children)_active",
}


@pytest.fixture(scope="module")
def connection():
    made = connect(None)
    for _, sql in migrations():
        made.execute(sql)
    yield made
    made.close()


def plan(connection, query):
    sql = QUERIES[query]
    numbered = [int(n) for n in re.findall(r"\?(\d+)", sql)]
    values = (None,) * (max(numbered) if numbered else sql.count("?"))
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()]


@pytest.mark.parametrize("query", [*OF_A_STEP, *OF_FILES])
def test_no_query_of_a_step_or_of_files_reads_a_whole_table(connection, query):
    assert [
        line for line in plan(connection, query) if line.startswith("SCAN") and "CONSTANT" not in line
    ] == []


def test_where_the_rows_of_a_fork_lie_is_found_thread_by_thread(connection):
    lines = [line for line in plan(connection, "parts_of_thread") if line.startswith(("SCAN", "SEARCH"))]
    tables = [line for line in lines if line not in ("SCAN p", "SCAN part")]  # What was found so far.
    assert len(tables) == 3
    assert all("PRIMARY KEY" in line for line in tables), tables


@pytest.mark.parametrize(("query", "index"), OF_A_SWEEP.items())
def test_a_sweep_reads_no_run_that_has_ended(connection, query, index):
    lines = [line for line in plan(connection, query) if re.search(r"\b(r|runs)\b", line)]
    assert lines
    assert all(re.search(f"INDEX {index}", line) for line in lines), lines


@pytest.mark.parametrize("query", ["line_of_thread", "insert_run"])
def test_a_statement_is_not_planned_anew_for_other_values(connection, query):
    asked = []
    # SQLite asks the authorizer whenever it prepares a statement.
    connection.authorizer = lambda *about: asked.append(about) or 0
    try:
        for value in (1, 2):
            before = len(asked)
            values = (value,) * max(int(n) for n in re.findall(r"\?(\d+)", QUERIES[query]))
            connection.execute(QUERIES[query], values).fetchall()
    finally:
        connection.authorizer = None
    assert before > 0
    assert len(asked) == before
