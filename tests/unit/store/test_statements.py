"""A tool's own statements: what they may reach, and what is left when one is refused."""

import apsw
import pytest

from treadle.errors import StatementError
from treadle.store import statements
from treadle.store.base import Statement
from treadle.store.connection import connect
from treadle.store.migrate import migrate
from treadle.store.queries import load


@pytest.fixture
def connection():
    opened = connect(None)
    migrate(opened, name="test")
    opened.execute("CREATE TABLE pets (id INTEGER PRIMARY KEY, name TEXT UNIQUE, age INTEGER)")
    opened.execute("BEGIN IMMEDIATE")
    yield opened
    opened.close()


def run(connection, *given):
    statements.run(connection, [Statement(*((s, ()) if isinstance(s, str) else s)) for s in given])


def pets(connection):
    return connection.execute("SELECT name, age FROM pets ORDER BY name").fetchall()


def test_statements_run_in_order_with_their_values(connection):
    run(
        connection,
        ("INSERT INTO pets (name, age) VALUES (?, ?)", ("Rex", 3)),
        ("INSERT INTO pets (name, age) VALUES (?, ?), (?, ?)", ("Tom", None, "Ada", 1)),
        ("UPDATE pets SET age = age + 1 WHERE name = ?", ("Rex",)),
        ("DELETE FROM pets WHERE age IS NULL", ()),
    )
    assert pets(connection) == [("Ada", 1), ("Rex", 4)]
    assert connection.in_transaction


def test_a_tool_may_make_tables_and_indexes_of_its_own(connection):
    run(
        connection,
        "CREATE TABLE IF NOT EXISTS toys (id INTEGER PRIMARY KEY AUTOINCREMENT, pet INTEGER REFERENCES pets (id), name TEXT)",
        "CREATE INDEX IF NOT EXISTS toys_of_pet ON toys (pet, lower(name))",
        "CREATE TABLE IF NOT EXISTS toys (id INTEGER)",
        "INSERT INTO toys (name) VALUES ('ball'), ('bone')",
        "CREATE TABLE names AS SELECT upper(name) AS name FROM toys",
        "INSERT INTO names SELECT value FROM json_each('[\"x\"]') WHERE true ON CONFLICT DO NOTHING",
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 3) INSERT INTO names SELECT x FROM n",
        "INSERT INTO toys (name) VALUES ('rope') RETURNING id; -- a comment after it",
    )
    assert connection.execute("SELECT count(*) FROM names").fetchone() == (6,)
    assert connection.execute("SELECT max(id) FROM toys").fetchone() == (3,)


OURS = ["agents", "threads", "messages", "runs", "steps", "events", "blobs", "graphs", "agent_versions"]


@pytest.mark.parametrize("table", OURS)
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM {}",
        "INSERT INTO {} DEFAULT VALUES",
        "UPDATE main.{} SET tenant = 'x'",
        "INSERT INTO pets (name) SELECT tenant FROM {}",
        "INSERT INTO pets (age) SELECT count(*) FROM {}",
        "UPDATE pets SET age = (SELECT 1 FROM {})",
        "CREATE INDEX mine ON {} (tenant)",
        "CREATE TABLE copy AS SELECT * FROM {}",
    ],
)
def test_treadles_tables_are_neither_read_nor_written(connection, table, sql):
    with pytest.raises(StatementError, match=f"'{table}' is treadle's own"):
        run(connection, sql.format(table.upper()))


def test_every_table_of_the_schema_is_treadles_own():
    tables = connect(None)
    migrate(tables, name="test")
    found = {name for (name,) in tables.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert set(OURS) | {"sqlite_sequence"} <= found <= statements.own_names()


def test_a_statement_that_treadle_has_prepared_itself_is_refused_like_any_other(connection):
    sql = load()["delete_run_steps"]
    connection.execute(sql, (1,))
    with pytest.raises(StatementError, match="'steps' is treadle's own"):
        run(connection, (sql, (1,)))
    connection.execute(sql, (1,))


def test_views_and_triggers_are_no_way_around(connection):
    connection.execute("CREATE VIEW every_run AS SELECT id FROM runs")
    connection.execute("CREATE TRIGGER spy AFTER INSERT ON pets BEGIN DELETE FROM messages; END")
    for sql in ("CREATE TABLE copy AS SELECT * FROM every_run", "INSERT INTO pets (name) VALUES ('Rex')"):
        with pytest.raises(StatementError, match="is treadle's own"):
            run(connection, sql)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("COMMIT", "a transaction of its own"),
        ("ROLLBACK", "a transaction of its own"),
        ("SAVEPOINT x", "a savepoint"),
        ("ATTACH ':memory:' AS other", "another database"),
        ("PRAGMA writable_schema = 1", "a pragma"),
        ("PRAGMA user_version = 7", "a pragma"),
        ("INSERT INTO pets (age) SELECT user_version FROM pragma_user_version", "a pragma"),
        ("CREATE TRIGGER t AFTER INSERT ON pets BEGIN SELECT 1; END", "a trigger"),
        ("CREATE TRIGGER t AFTER INSERT ON runs BEGIN SELECT 1; END", "a trigger"),
        ("CREATE VIEW v AS SELECT 1", "a view"),
        ("CREATE VIRTUAL TABLE v USING fts5(x)", "a virtual table"),
        ("ALTER TABLE pets ADD COLUMN x", "a change of a table"),
        ("DROP TABLE pets", "no statement of a tool may do"),
        ("DROP TABLE runs", "'runs' is treadle's own|no statement of a tool may do"),
        ("VACUUM", "VACUUM|another database"),
        ("ANALYZE", "SQLite's own|no statement of a tool may do"),
        ("REINDEX runs_of_thread", "is treadle's own"),
        ("CREATE TEMP TABLE runs (id)", "reaches the database 'temp'"),
        ("UPDATE sqlite_sequence SET seq = 0", "SQLite's own"),
        ("UPDATE sqlite_schema SET sql = ''", "may not be modified|is treadle's own"),
        ("UPDATE sqlite_dbpage SET data = x'00'", "SQLite's own|no such table"),
        ("INSERT INTO pets (name) VALUES (load_extension('x'))", "loads an extension|no such function"),
        ("SELECT * FROM pets", "it writes nothing"),
        ("EXPLAIN INSERT INTO pets (age) VALUES (1)", "it writes nothing"),
        ("", "it is no statement"),
        ("-- nothing", "it is no statement"),
        ("INSERT INTO pets (age) VALUES (1); INSERT INTO pets (age) VALUES (2)", "more than one statement"),
        ("INSERT INTO pets (age) VALUES (1); COMMIT", "a transaction of its own|more than one"),
        ("INSERT INTO nowhere VALUES (1)", "no such table: nowhere"),
        ("INSRT INTO pets", "syntax error"),
        ("INSERT INTO pets (name) VALUES (?)", "bindings"),
    ],
)
def test_what_a_tool_may_not_do_is_refused_with_its_reason(connection, sql, why):
    with pytest.raises(StatementError, match=why) as caught:
        run(connection, sql)
    assert sql[:20] in caught.value.message
    assert connection.in_transaction


def test_the_place_of_the_refused_statement_is_told(connection):
    insert = "INSERT INTO pets (name) VALUES (?)"
    with pytest.raises(StatementError, match=r"UNIQUE constraint failed: pets\.name") as caught:
        run(connection, (insert, ("Rex",)), (insert, ("Tom",)), (insert, ("Rex",)))
    assert caught.value.index == 2


def test_a_long_statement_is_named_by_its_beginning():
    error = StatementError("INSERT INTO\n  pets " + "x" * 1000, "no")
    assert error.message.startswith("the statement 'INSERT INTO pets xxx")
    assert len(error.message) < 300


def test_nothing_of_the_guard_is_left_behind(connection):
    with pytest.raises(StatementError):
        run(connection, "DELETE FROM runs")
    connection.execute("DELETE FROM runs")
    run(connection, "INSERT INTO pets (age) VALUES (1)")
    connection.execute("DELETE FROM runs")


def test_a_statement_that_does_not_end_is_interrupted(connection, monkeypatch):
    monkeypatch.setattr(statements, "MOST_STEPS", 100_000)
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) INSERT INTO pets (age) SELECT x FROM n WHERE x < 0"
    with pytest.raises(StatementError, match="more than 100000 steps"):
        run(connection, endless)


def test_trouble_of_the_store_is_not_the_statements_fault(tmp_path):
    opened = connect(tmp_path / "small.db")
    opened.execute("CREATE TABLE big (x)")
    opened.pragma("max_page_count", 3)
    opened.execute("BEGIN IMMEDIATE")
    with pytest.raises(apsw.FullError):
        run(opened, ("INSERT INTO big VALUES (zeroblob(100000))", ()))
    opened.close()
