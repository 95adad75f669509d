"""The SQLite file: made for its user alone, refused where it is another's, and sound after every failure."""

import asyncio
import hashlib
import os
import stat
import threading
import time

import apsw
import pytest

from treadle.errors import ConfigurationError, Conflict, StoreError, ThreadBusy
from treadle.objects.run import Run
from treadle.objects.thread import Thread
from treadle.store import open_store
from treadle.store.base import Blob, Checkpoint
from treadle.store.check import check
from treadle.store.connection import connect
from treadle.store.migrate import APPLICATION_ID, newest
from treadle.store.sqlite import GATHERED, SLOW_COMMIT_S, SqliteStore, open_url
from treadle.testing.store_contract import Walked, a_graph, a_message, a_run, a_step, a_thread


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def raw(path):
    return apsw.Connection(str(path))


async def filled(path):
    store = SqliteStore(path)
    walked = await Walked.begin(store)
    await store.close()
    return walked


# -- opening -----------------------------------------------------------------------------------------------------


async def test_a_fresh_file_has_the_newest_schema_and_reopens_with_what_was_kept(tmp_path):
    path = tmp_path / "a" / "b" / "store.db"
    walked = await filled(path)
    connection = raw(path)
    assert connection.pragma("user_version") == newest()
    assert connection.pragma("application_id") == APPLICATION_ID
    assert connection.pragma("journal_mode") == "wal"
    connection.close()
    store = SqliteStore(path)
    assert await store.get(Run, "default", walked.run.id) == walked.run
    await store.close()
    assert check(path) == []


async def test_a_newer_schema_is_refused_and_not_touched(tmp_path):
    path = tmp_path / "store.db"
    await filled(path)
    connection = raw(path)
    connection.pragma("user_version", newest() + 1)
    connection.pragma("journal_mode", "delete")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"schema version {newest() + 1}") as failure:
        SqliteStore(path)
    assert "newer treadle" in failure.value.hint
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.db"]


@pytest.mark.parametrize(
    "make",
    [
        "CREATE TABLE songs (name)",
        f"CREATE TABLE songs (name); PRAGMA user_version = {newest()}",
        "PRAGMA application_id = 7",
        "CREATE TABLE songs (name); PRAGMA user_version = 999",
        "PRAGMA user_version = 3",
    ],
)
def test_a_database_of_something_else_is_refused_and_not_touched(tmp_path, make):
    path = tmp_path / "songs.db"
    connection = raw(path)
    connection.execute(make)
    connection.close()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="something else"):
        SqliteStore(path)
    assert path.read_bytes() == before
    assert mode(path) == 0o644
    assert sorted(p.name for p in tmp_path.iterdir()) == ["songs.db"]


@pytest.mark.parametrize(
    "content", [b"just text, longer than a page header " * 50, b"SQLite format 3\x00" + b"\xff" * 4000]
)
def test_a_file_that_is_no_database_is_refused(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(StoreError, match="folder"):
        SqliteStore(tmp_path)


def test_a_path_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot open"):
        SqliteStore(tmp_path / "file" / "store.db")


async def test_an_empty_file_becomes_a_store(tmp_path):
    path = tmp_path / "store.db"
    path.touch()
    await filled(path)
    assert check(path) == []


async def test_many_threads_open_a_fresh_file_at_once(tmp_path):
    path = tmp_path / "store.db"
    barrier = threading.Barrier(8)

    def open_it():
        barrier.wait()
        return SqliteStore(path)

    made: list[object] = []

    def keep():
        try:
            made.append(open_it())
        except BaseException as e:
            made.append(e)

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(m) for m in made] == [SqliteStore] * 8
    for store in made:
        await store.close()
    assert check(path) == []


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///{}/x.db", "x.db"), ("{}/y.db", "y.db"), ("sqlite:///{}/deep/er/z.db", "deep/er/z.db")],
)
async def test_urls_name_files(tmp_path, url, path):
    store = open_store(url.format(tmp_path))
    assert store.status().url == str(tmp_path / path)
    await store.close()
    assert (tmp_path / path).is_file()


async def test_a_relative_url_starts_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await open_store("sqlite:///here.db").close()
    await open_store("there.db").close()
    assert sorted(p.name for p in tmp_path.glob("*.db")) == ["here.db", "there.db"]


async def test_memory_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite://:memory:", "sqlite:///:memory:"):
        store = open_url(url)
        await store.insert("default", a_thread())
        await store.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigurationError, match="mysql"):
        open_store("mysql://x")


async def test_durability_is_as_asked(tmp_path):
    for durability, level in (("full", 2), ("normal", 1)):
        store = SqliteStore(tmp_path / f"{durability}.db", durability=durability)
        assert store._writer.pragma("synchronous") == level
        assert store.status().durability == durability
        await store.close()


# -- permissions and files -----------------------------------------------------------------------------------------


async def test_what_a_store_makes_is_for_its_user_alone(tmp_path):
    old = os.umask(0o022)
    try:
        path = tmp_path / "state" / "store.db"
        store = SqliteStore(path)
        content = os.urandom(2_000_000)
        blob = Blob(hashlib.sha256(content).hexdigest(), content)
        await store.insert("default", blob)
        thread = a_thread()
        await store.insert("default", thread, a_message(thread, "ü" * 800_000))
        files = [p for p in path.parent.rglob("*") if p.is_file()]
        folders = [path.parent, *(p for p in path.parent.rglob("*") if p.is_dir())]
        assert {p.name: mode(p) for p in files} == {p.name: 0o600 for p in files}
        assert {str(p): mode(p) for p in folders} == {str(p): 0o700 for p in folders}
        assert len([p for p in files if "files" in p.parts]) == 2
        before = {p: p.stat().st_ino for p in files}
        await store.insert("default", blob)
        assert {p: p.stat().st_ino for p in files} == before
        assert not list(path.parent.rglob("*.part"))
        await store.close()
        assert check(path) == []
    finally:
        os.umask(old)


async def test_a_store_that_others_could_read_is_taken_away_from_them(tmp_path):
    path = tmp_path / "store.db"
    await filled(path)
    path.chmod(0o666)
    await SqliteStore(path).close()
    assert mode(path) == 0o600


@pytest.mark.parametrize(
    ("size", "in_column", "in_table", "in_file"),
    [(262_144, 1, 0, 0), (262_145, 0, 1, 0), (1_048_576, 0, 1, 0), (1_048_577, 0, 0, 1)],
)
async def test_a_text_is_kept_where_its_size_belongs(tmp_path, size, in_column, in_table, in_file):
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    thread = a_thread()
    await store.insert("default", thread, a_message(thread, "x" * size))
    connection = raw(path)
    assert (
        connection.execute("SELECT count(*) FROM messages WHERE text IS NOT NULL").fetchone()[0] == in_column
    )
    assert connection.execute("SELECT count(*) FROM blobs WHERE body IS NOT NULL").fetchone()[0] == in_table
    assert connection.execute("SELECT count(*) FROM blobs WHERE body IS NULL").fetchone()[0] == in_file
    assert len([p for p in (tmp_path / "files").rglob("*") if p.is_file()]) == in_file
    connection.close()
    assert [len(r.text) for r in await store.rows("default", thread.id)] == [size]
    await store.close()


async def test_a_large_text_whose_file_is_gone_is_an_error_that_names_it(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    thread = a_thread()
    await store.insert("default", thread, a_message(thread, "x" * 2_000_000))
    (file,) = (p for p in (tmp_path / "files").rglob("*") if p.is_file())
    file.unlink()
    with pytest.raises(StoreError, match=file.name):
        await store.rows("default", thread.id)
    await store.close()
    assert [p.message.partition(":")[0] for p in check(tmp_path / "store.db")] == [
        "a large text has the content that its digest names"
    ]


# -- commits -------------------------------------------------------------------------------------------------------


async def walks(store, number=6):
    return [await Walked.begin(store) for _ in range(number)]


@pytest.mark.parametrize("slow", [False, True])
async def test_when_a_commit_fails_everyone_who_waits_is_told_and_nothing_is_kept(tmp_path, slow):
    store = SqliteStore(tmp_path / "store.db")
    begun = await walks(store)
    if slow:
        store._commit_s = 1e6 * SLOW_COMMIT_S
    before = [await w.everything() for w in begun]
    store._writer.set_commit_hook(lambda: True)
    done = await asyncio.gather(
        *(store.commit(Checkpoint(w.run, steps=[a_step(w.run, 0)])) for w in begun),
        store.insert("default", a_thread()),
        return_exceptions=True,
    )
    store._writer.set_commit_hook(None)
    assert [isinstance(d, (StoreError, Conflict)) for d in done] == [True] * 7
    assert [await w.everything() for w in begun] == before
    await asyncio.gather(*(w.commit(steps=[a_step(w.run, 0)]) for w in begun))
    assert [e.seq for e in await store.events("default", begun[0].run.id)] == [1, 2, 3, 4]
    await store.close()
    assert check(tmp_path / "store.db") == []


async def test_a_failed_commit_of_a_single_walk_is_told_and_undone(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    (walked,) = await walks(store, 1)
    store._writer.set_commit_hook(lambda: True)
    with pytest.raises((StoreError, Conflict)):
        await walked.commit(steps=[a_step(walked.run, 0)])
    with pytest.raises((StoreError, Conflict)):
        await Walked.begin(store)
    store._writer.set_commit_hook(None)
    await walked.commit(steps=[a_step(walked.run, 0)])
    await Walked.begin(store)
    await store.close()
    assert check(tmp_path / "store.db") == []


async def test_a_full_disk_is_an_error_that_says_so_and_leaves_the_store_whole(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    begun = await walks(store, 3)
    pages = store._writer.pragma("page_count")
    store._writer.pragma("max_page_count", pages + 2)
    thread = a_thread()
    done = await asyncio.gather(
        *(store.insert("default", a_thread(), a_message(thread, "x" * 50_000)) for _ in range(3)),
        store.insert("default", thread, *(a_message(thread, "x" * 50_000) for _ in range(4))),
        return_exceptions=True,
    )
    assert all(isinstance(d, Exception) for d in done)
    assert isinstance(done[-1], StoreError)
    assert "full" in done[-1].message
    store._writer.pragma("max_page_count", 1_000_000)
    await asyncio.gather(*(w.commit(steps=[a_step(w.run, 0)]) for w in begun))
    await store.close()
    assert check(tmp_path / "store.db") == []


async def test_a_file_that_another_process_locks_is_an_error_that_can_be_tried_again(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    store._writer.set_busy_timeout(10)
    other = raw(tmp_path / "store.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked") as failure:
        await store.insert("default", a_thread())
    assert failure.value.retryable
    other.execute("COMMIT")
    other.close()
    await store.insert("default", a_thread())
    await store.close()


async def test_reads_do_not_wait_for_a_slow_write(tmp_path):
    """While a group is written on the thread, what is committed can be read."""
    store = SqliteStore(tmp_path / "store.db")
    begun = await walks(store, 2)
    store._commit_s = 1e6 * SLOW_COMMIT_S
    held = threading.Event()
    store._writer.set_commit_hook(lambda: not held.wait(10))
    writing = asyncio.create_task(begun[0].commit(steps=[a_step(begun[0].run, 0)]))
    while not store._writing:
        await asyncio.sleep(0)
    assert (await store.get(Run, "default", begun[0].run.id)).status == "in_progress"
    assert await store.steps("default", begun[0].run.id) == []
    queued = asyncio.create_task(begun[1].commit(steps=[a_step(begun[1].run, 0)]))
    await asyncio.sleep(0)
    assert not writing.done()
    held.set()
    await asyncio.gather(writing, queued)
    assert len(await store.steps("default", begun[1].run.id)) == 1
    await store.close()


def counting(commits):
    """Open connections that note their commits."""

    def opener(path):
        connection = connect(path)

        def trace(_cursor, sql, _values):
            commits.extend([sql] if sql == "COMMIT" else [])
            return True

        connection.exec_trace = trace
        return connection

    return opener


async def test_what_many_clients_write_at_once_is_committed_together(tmp_path):
    commits = []
    store = SqliteStore(tmp_path / "store.db", opener=counting(commits))
    threads = [a_thread() for i in range(100)]
    commits.clear()

    await asyncio.gather(*(store.insert("default", thread) for thread in threads))

    assert len(commits) <= 2
    assert len(await store.list(Thread, "default", limit=100)) == 100
    await store.close()


async def test_one_client_waits_for_nothing_but_its_own_commit(tmp_path):
    commits = []
    # A disk on which no commit takes long, however busy the machine is.
    store = SqliteStore(tmp_path / "store.db", opener=counting(commits), timer=lambda: 0.0)
    turns = 0

    def turn():
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    await asyncio.gather(*(store.insert("default", a_thread()) for i in range(10)))
    for _ in range(GATHERED):
        await asyncio.create_task(store.insert("default", a_thread()))
    commits.clear()
    turn()
    for _ in range(10):
        await store.insert("default", a_thread())

    assert len(commits) == 10
    assert turns == 1
    await store.close()


async def test_a_piece_whose_caller_was_cancelled_is_not_written(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    await walks(store, 2)
    thread = a_thread()
    task = asyncio.create_task(store.insert("default", thread))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    other = a_thread()
    await store.insert("default", other)
    assert [t.id for t in await store.list(Thread, "default", limit=1)] == [other.id]
    assert await store.find(Thread, "default", thread.id) == []
    await store.close()


async def test_another_connections_writes_are_news(tmp_path):
    one, two = SqliteStore(tmp_path / "store.db"), SqliteStore(tmp_path / "store.db")
    waiting = asyncio.create_task(one.changed(30))
    await asyncio.sleep(0)
    await two.insert("default", a_thread())
    await asyncio.wait_for(waiting, 5)
    await one.close()
    await two.close()


async def test_a_failing_graph_of_one_caller_is_not_anothers(tmp_path):
    """Numbers of rows that were undone in a group are not used by its other pieces."""
    store = SqliteStore(tmp_path / "store.db")
    begun = await walks(store, 2)
    one, two = a_graph("{1}"), a_graph("{2}")
    thread = a_thread()
    await store.insert("default", thread)
    failing = a_run(begun[0].agent, begun[0].thread, one)
    fine = a_run(begun[0].agent, thread, two)
    done = await asyncio.gather(
        store.insert("default", one, failing), store.insert("default", two, fine), return_exceptions=True
    )
    assert isinstance(done[0], ThreadBusy)
    assert (await store.get(Run, "default", fine.id)).graph == two.digest
    await store.close()


async def test_texts_with_nul_are_kept_whole_where_they_come_from_within(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    thread = a_thread()
    await store.insert("default", thread, a_message(thread, "a\x00b"))
    assert [r.text for r in await store.rows("default", thread.id)] == ["a\x00b"]
    await store.close()


async def test_a_lock_that_another_process_holds_stops_nothing_but_what_waits_for_it(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    other = apsw.Connection(str(tmp_path / "store.db"))
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.ensure_future(store.insert("default", a_thread()))
    longest, last = 0.0, time.monotonic()
    for _ in range(40):
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert not writing.done()
    assert longest < 0.35
    other.execute("COMMIT")
    other.close()
    (kept,) = await asyncio.wait_for(writing, 15)
    assert (await store.get(Thread, "default", kept.id)).id == kept.id
    await store.close()


async def test_a_probe_is_a_commit_that_others_see(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    other = raw(tmp_path / "store.db")
    before = other.pragma("data_version")
    await store.probe()
    assert other.pragma("data_version") != before
    other.close()
    await store.close()


async def test_a_probe_fails_where_another_version_has_taken_the_file_over(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    other = raw(tmp_path / "store.db")
    for version in (newest() + 1, newest() - 1):
        other.pragma("user_version", version)
        with pytest.raises(StoreError, match=f"schema version {version}"):
            await store.probe()
    other.pragma("user_version", newest())
    await store.probe()
    other.close()
    await store.close()
