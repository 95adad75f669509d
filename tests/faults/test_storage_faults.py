"""Storage that fails: every error of the library, at every layer; and real faults, where this machine allows them.

The tier here takes a sample of the places; `python -m treadle.testing.storage --faults` takes all of them.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from functools import partial
from itertools import count

import pytest

from treadle.errors import StoreError
from treadle.objects.run import Run
from treadle.objects.thread import Thread
from treadle.objects.tool import FunctionTool
from treadle.service import Treadle
from treadle.store.check import check
from treadle.store.connection import connect
from treadle.store.sqlite import SqliteStore
from treadle.testing.fakes import FrozenClock, ScriptedProvider
from treadle.testing.storage import Tally, main, try_faults
from treadle.testing.storage_exercise import Exercise
from treadle.testing.storage_faults import ERRORS, LAYERS, Fault, FaultDoor
from treadle.testing.storage_verdict import hold, try_fault
from treadle.testing.store_contract import a_message, a_thread

RETRYABLE = {"busy", "busy-snapshot", "locked", "io", "cannot-open", "no-memory"}


# -- a sample of every error at every layer ------------------------------------------------------------------------

STEPS = {"statement": 71, "commit": 17, "file": 211}
LOCKS = ("busy", "busy-snapshot", "locked")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_client_that_goes_on_loses_nothing_wherever_storage_fails_once(layer, error):
    said = []
    tally = Tally(said.append)
    place = [*ERRORS].index(error)
    step = 5 if layer == "file" and error in LOCKS else STEPS[layer]
    try_faults(tally, layers=[layer], errors=[error], step=step, first=1 + place * step // len(ERRORS))
    assert said == []
    assert tally.tried > 1


@pytest.mark.parametrize("error", ["full", "io", "read-only", "corrupt"])
@pytest.mark.parametrize("layer", ["statement", "file"])
def test_a_client_that_goes_on_loses_nothing_where_storage_fails_for_a_while(layer, error):
    said = []
    tally = Tally(said.append)
    step = 2 * STEPS[layer]
    try_faults(tally, layers=[layer], errors=[error], lasting=True, step=step, first=[*ERRORS].index(error))
    assert said == []
    assert tally.tried > 1


def test_every_statement_of_opening_a_new_store_may_fail(tmp_path):
    """Until one opening is clean: whoever tries again gets a whole store."""
    told = []
    for nth in count(1):
        path = tmp_path / f"{nth}.db"
        door = FaultDoor(Fault(list(ERRORS)[nth % len(ERRORS)], nth))
        try:
            store = SqliteStore(path, opener=door.open)
        except StoreError as e:
            told.append(e)
            store = SqliteStore(path, opener=door.open)
        asyncio.run(store.close())
        assert check(path) == []
        if not door.fired:
            break
    assert len(told) > 10
    assert all(str(tmp_path) in e.message and e.hint for e in told)


def test_a_fault_can_be_named_and_tried_alone(capsys, tmp_path):
    fault = Fault("io", 100, "file", lasting=True)
    assert Fault.parse(str(fault)) == fault
    assert main(["--fault", str(fault), "--fault", "commit:busy:3"]) == 0
    assert "storage faults: 2 cases, violations 0" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no fault"):
        Fault.parse("statement:flood:1")


def test_what_a_client_was_told_and_the_store_does_not_have_is_found(tmp_path):
    """The judge itself: a ledger with more in it than the store is a violation."""
    ledger = asyncio.run(Exercise(tmp_path / "store.db").run())
    assert asyncio.run(hold(ledger)) == []
    ledger.threads[next(iter(ledger.threads))].append("never stored")
    ledger.ended["run_9"] = "completed"
    ledger.payments["two rounds"] += 1
    assert len(asyncio.run(hold(ledger))) == 3


def test_a_store_that_drops_what_it_acknowledged_is_found(tmp_path, monkeypatch):
    """The judge itself: a store that now and then rolls back what it acknowledges is a violation."""
    commits = count(1)

    def careless(self):
        self._cursor.execute("ROLLBACK" if next(commits) % 20 == 0 else "COMMIT")

    monkeypatch.setattr(SqliteStore, "_end", careless)
    monkeypatch.setattr("treadle.testing.storage_exercise.HANG_S", 0.5)
    assert try_fault(Fault("full", 1_000_000), tmp_path).problems


# -- what an error says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS)
async def test_an_error_names_the_file_and_the_way_out_and_the_next_call_succeeds(tmp_path, error):
    door = FaultDoor()
    store = SqliteStore(tmp_path / "store.db", opener=door.open)
    for nth in (1, 2, 3):
        door.seen, door.fault = 0, Fault(error, nth)
        thread = a_thread()
        if nth == 1 and error in ("busy", "busy-snapshot"):
            # Nothing was begun: the lock is waited for.
            await store.insert("default", thread)
            assert door.fired
            continue
        with pytest.raises(StoreError) as failure:
            await store.insert("default", thread)
        assert str(tmp_path / "store.db") in failure.value.message
        assert failure.value.hint
        assert failure.value.retryable is (error in RETRYABLE)
        assert await store.find(Thread, "default", thread.id) == []
        await store.insert("default", thread)
        door.seen, door.fault = 0, Fault(error, 1)
        with pytest.raises(StoreError):
            await store.get(Thread, "default", thread.id)
        assert (await store.get(Thread, "default", thread.id)).id == thread.id
    await store.close()
    assert check(tmp_path / "store.db") == []


@pytest.mark.parametrize("error", ["io", "full", "busy", "corrupt"])
async def test_a_commit_that_is_kept_counts_as_kept_whatever_the_library_says_of_it(tmp_path, error, caplog):
    door = FaultDoor()
    store = SqliteStore(tmp_path / "store.db", opener=door.open)
    door.fault = Fault(error, 1, "commit")
    thread = a_thread()
    await store.insert("default", thread)
    assert door.fired
    assert "a commit is kept" in caplog.text
    await store.insert("default", a_message(thread, "the first"))
    assert [row.seq for row in await store.rows("default", thread.id)] == [1]
    await store.close()


@pytest.mark.parametrize("is_grouped", [False, True])
async def test_what_could_not_be_undone_is_never_read_and_never_kept(tmp_path, is_grouped):
    """Every statement fails, ROLLBACK too, from the middle of a transaction on."""
    door = FaultDoor()
    timer = count().__next__ if is_grouped else None
    options = {"timer": lambda: float(timer())} if timer else {}
    store = SqliteStore(tmp_path / "store.db", opener=door.open, **options)
    thread = a_thread()
    await store.insert("default", thread)
    door.fault = Fault("busy", 5, lasting=True)
    with pytest.raises(StoreError):
        await store.insert("default", a_message(thread, "half"), a_message(thread, "written"))
    with pytest.raises(StoreError):
        await store.rows("default", thread.id)
    door.lift()
    assert await store.rows("default", thread.id) == []
    await store.insert("default", a_message(thread, "whole"))
    assert [row.text for row in await store.rows("default", thread.id)] == ["whole"]
    await store.close()
    assert check(tmp_path / "store.db") == []


# -- runs ----------------------------------------------------------------------------------------------------------


class Shop:
    """A treadle over a store whose storage can be made to fail."""

    def __init__(self, tmp_path, script, *, tools=(), store=SqliteStore):
        self.path = tmp_path / "store.db"
        self.door = FaultDoor()
        self.paid = 0
        self.on_pay = lambda: None
        self.tools = tools
        self.treadle = Treadle(
            store(self.path, opener=self.door.open),
            tools=[self.pay],
            providers={"scripted": ScriptedProvider(script)},
            clock=FrozenClock(),
            project=tmp_path,
        )

    async def pay(self) -> str:
        self.paid += 1
        self.on_pay()
        return "paid"

    def fail(self, error, nth=1, *, lasting=False, layer="statement"):
        self.door.seen, self.door.fault = 0, Fault(error, nth, layer, lasting)

    async def start(self):
        self.agent = await self.treadle.agents.create(
            model="scripted", tools=[FunctionTool(name="pay", runs="server")]
        )
        self.thread = await self.treadle.threads.create(messages=[{"content": "Hello"}])
        return await self.treadle.runs.create(self.thread.id, agent=self.agent)

    async def after_a_while(self, run):
        """Let time pass, and give the run as it is then."""
        for _ in range(3):
            self.treadle.clock.advance(6)
            await self.treadle.recover()
        return await self.treadle.runs.wait(run.id, timeout_s=20)

    async def next_turn(self):
        await self.treadle.messages.create(self.thread.id, content="And now?")
        run = await self.treadle.runs.create(self.thread.id, agent=self.agent)
        return await self.treadle.runs.wait(run.id, timeout_s=20)


PAY = {"calls": [{"name": "pay", "arguments": {}}]}


@pytest.mark.parametrize("error", sorted(RETRYABLE))
async def test_a_walk_writes_a_checkpoint_again_where_storage_failed_for_a_moment(tmp_path, error):
    shop = Shop(tmp_path, [PAY, "done", "next"])
    shop.on_pay = lambda: shop.fail(error)
    run = await shop.start()
    run = await shop.treadle.runs.wait(run.id, timeout_s=20)
    assert (run.status, run.output, shop.door.fired, shop.paid) == ("completed", "done", 1, 1)
    assert (await shop.next_turn()).output == "next"
    await shop.treadle.close()
    assert check(shop.path) == []


async def test_a_run_whose_walk_broke_is_taken_up_again_once_the_store_is_well(tmp_path):
    shop = Shop(tmp_path, [PAY, "done", "next"])
    shop.on_pay = lambda: shop.fail("full", lasting=True)
    run = await shop.start()
    with pytest.raises(StoreError):
        await shop.treadle.runs.wait(run.id, timeout_s=20)
    shop.door.lift()
    assert (await shop.after_a_while(run)).output == "done"
    assert shop.paid == 1
    await shop.treadle.close()
    assert check(shop.path) == []


class Unsure(SqliteStore):
    """A store that keeps a run and then does not know whether it did."""

    async def insert(self, tenant, *records, **options):
        stored = await super().insert(tenant, *records, **options)
        if isinstance(records[-1], Run):
            raise StoreError("nobody answered", retryable=True)
        return stored


async def test_a_run_that_was_accepted_without_an_answer_is_walked_all_the_same(tmp_path):
    shop = Shop(tmp_path, ["done"], store=Unsure)
    with pytest.raises(StoreError, match="nobody answered"):
        await shop.start()
    (run,) = await shop.treadle.runs.list()
    assert run.status == "in_progress"
    assert (await shop.after_a_while(run)).output == "done"
    await shop.treadle.close()


async def test_whichever_statement_of_a_walk_fails_for_a_moment_its_events_count_on(tmp_path):
    """The commit itself, too: what an undone checkpoint counted is forgotten with it."""
    for nth in count(1):
        (folder := tmp_path / str(nth)).mkdir()
        shop = Shop(folder, [PAY, "done", "next"])
        shop.on_pay = partial(shop.fail, "io", nth)
        run = await shop.start()
        run = await shop.treadle.runs.wait(run.id, timeout_s=20)
        shop.door.lift()
        assert (run.status, run.output, shop.paid) == ("completed", "done", 1)
        events = await shop.treadle.store.events("default", run.id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        await shop.treadle.close()
        assert check(shop.path) == []
        if not shop.door.fired:
            break
    assert nth > 10


@pytest.mark.parametrize("error", ["full", "io"])
async def test_everyone_who_waits_is_told_what_broke_a_walk_and_its_run_can_be_resumed(tmp_path, error):
    shop = Shop(tmp_path, [PAY, "done", "next"])
    shop.on_pay = lambda: shop.fail(error, lasting=True, layer="statement")
    run = await shop.start()
    for _ in range(3):
        with pytest.raises(StoreError):
            await shop.treadle.runs.wait(run.id, timeout_s=20)
    shop.door.lift()
    # The walk is over; whoever waits only now is told as well.
    with pytest.raises(StoreError, match=str(shop.path)):
        await shop.treadle.runs.wait(run.id, timeout_s=20)
    await shop.treadle.runs.resume(run.id)
    run = await shop.treadle.runs.wait(run.id, timeout_s=20)
    assert (run.status, run.output) == ("completed", "done")
    # Nobody knows what became of the call whose result could not be kept: it is told, and not made again.
    assert shop.paid == 1
    results = [r.text for r in await shop.treadle.store.rows("default", shop.thread.id) if r.role == "tool"]
    assert "outcome" in results[0]
    assert (await shop.next_turn()).output == "next"
    await shop.treadle.close()
    assert check(shop.path) == []


async def test_a_run_whose_walk_broke_can_be_cancelled_and_the_thread_takes_its_next_turn(tmp_path):
    shop = Shop(tmp_path, [PAY, "next"])
    shop.on_pay = lambda: shop.fail("full", lasting=True)
    run = await shop.start()
    with pytest.raises(StoreError):
        await shop.treadle.runs.wait(run.id, timeout_s=20)
    shop.door.lift()
    await shop.treadle.runs.cancel(run.id)
    assert (await shop.treadle.runs.wait(run.id, timeout_s=20)).status == "cancelled"
    assert (await shop.next_turn()).output == "next"
    await shop.treadle.close()
    assert check(shop.path) == []


async def paid_when_it_broke(folder, nth):
    """Let the storage fail from the Nth statement after the model's reply on; give how often the call was made by then."""
    failures = iter([nth])

    def reply(request):
        if any(row.role == "tool" for row in request.messages):
            return "done"
        for nth in failures:
            shop.fail("full", nth, lasting=True)
        return PAY

    shop = Shop(folder, reply)
    run = await shop.start()
    made = None
    try:
        await shop.treadle.runs.wait(run.id, timeout_s=20)
    except StoreError:
        made = shop.paid
    shop.door.lift()
    if (await shop.treadle.runs.get(run.id)).status == "in_progress":
        await shop.treadle.runs.resume(run.id)
    assert (await shop.treadle.runs.wait(run.id, timeout_s=20)).output == "done"
    assert shop.paid == 1
    await shop.treadle.close()
    assert check(shop.path) == []
    return made


async def test_a_call_is_made_once_wherever_storage_fails_around_it(tmp_path):
    """Before it is written down as begun it is not made; afterwards it is not made again."""
    made = []
    for nth in range(1, 40, 2):
        folder = tmp_path / str(nth)
        folder.mkdir()
        made.append(await paid_when_it_broke(folder, nth))
    assert {0, 1} <= set(made) <= {0, 1, None}


async def test_a_run_that_is_not_accepted_leaves_its_thread_free(tmp_path):
    shop = Shop(tmp_path, ["first", "second"])
    await shop.start()
    await shop.treadle.runs.settle()
    await shop.treadle.keeper.stop()  # Its sweeps would meet the fault first.
    for nth in count(1):
        await shop.treadle.messages.create(shop.thread.id, content=f"turn {nth}")
        shop.fail("io", nth)
        try:
            run = await shop.treadle.runs.create(shop.thread.id, agent=shop.agent)
        except StoreError:
            assert await shop.treadle.store.active_run("default", shop.thread.id) is None
            continue
        shop.door.lift()
        assert (await shop.treadle.runs.wait(run.id, timeout_s=20)).output == "second"
        break
    assert nth > 3
    await shop.treadle.close()
    assert check(shop.path) == []


# -- real faults ---------------------------------------------------------------------------------------------------


def rows_of(path):
    """Give the columns and the rows of every table of a store's file."""
    connection = connect(path)
    found = {}
    try:
        names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        for (name,) in connection.execute(names).fetchall():
            columns = [row[0] for row in connection.execute(f"SELECT name FROM pragma_table_info('{name}')")]
            listed = ", ".join(f'"{column}"' for column in columns)
            found[name] = columns, connection.execute(f"SELECT {listed} FROM {name}").fetchall()
    finally:
        connection.close()
    return found


class Volume:
    """A small file system of its own."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path))

    def run(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")

    def set(self, options):
        self.run("mount", "-o", f"remount,{options}", str(self.path))


@pytest.fixture
def volume(tmp_path):
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a file system of one's own needs root on Linux")
    made = Volume(tmp_path / "volume")
    yield made
    subprocess.run(["umount", "-l", str(made.path)], check=False, capture_output=True)


async def fill(store, thread):
    """Append until the store refuses; give how many messages it took, and the error."""
    for n in count():
        try:
            await store.insert("default", a_message(thread, f"{n} " + "x" * 20_000))
        except StoreError as e:
            return n, e
    raise AssertionError


async def test_a_full_disk_refuses_by_name_and_takes_more_once_there_is_room(volume):
    path = volume.path / "store.db"
    store = SqliteStore(path)
    thread = a_thread()
    await store.insert("default", thread)
    kept, error = await fill(store, thread)
    assert kept > 3
    assert str(path) in error.message
    assert "full" in error.message
    assert len(await store.rows("default", thread.id, limit=1000)) == kept
    volume.set("size=4m")
    await store.insert("default", a_message(thread, "more"))
    assert len(await store.rows("default", thread.id, limit=1000)) == kept + 1
    await store.close()
    assert check(path) == []


async def test_a_full_disk_stops_a_run_which_goes_on_once_there_is_room(volume):
    path = volume.path / "store.db"
    big, looks = "y" * 400_000, count()
    script = [{"calls": [{"name": "look", "arguments": {}}]}] * 4
    model = ScriptedProvider([*script, "done"])

    def look() -> str:
        return f"{next(looks)} {big}"

    tool = FunctionTool(name="look", runs="server", effect="pure", max_result_chars=1_000_000)
    async with Treadle(
        SqliteStore(path), tools=[look], providers={"scripted": model}, project=volume.path
    ) as treadle:
        agent = await treadle.agents.create(model="scripted", tools=[tool])
        run = await treadle.runs.create(None, agent=agent, additional_messages=[{"content": "Hello"}])
        with pytest.raises(StoreError, match="full"):
            await treadle.runs.wait(run.id, timeout_s=60)
        volume.set("size=64m")
        await treadle.runs.resume(run.id)
        assert (await treadle.runs.wait(run.id, timeout_s=60)).status == "completed"
    assert check(path) == []


async def test_a_disk_that_becomes_read_only_refuses_by_name_and_serves_what_it_has(volume):
    path = volume.path / "store.db"
    store = SqliteStore(path)
    thread = a_thread()
    await store.insert("default", thread, a_message(thread, "kept"))
    await store.close()
    volume.set("ro")
    with pytest.raises(StoreError, match=str(path)) as failure:
        SqliteStore(path)
    assert failure.value.hint
    volume.set("rw")
    store = SqliteStore(path)
    assert [row.text for row in await store.rows("default", thread.id)] == ["kept"]
    await store.close()


async def test_a_file_that_may_not_be_written_is_refused_by_name(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write to every file")
    path = tmp_path / "store.db"
    await SqliteStore(path).close()
    path.chmod(0o400)
    with pytest.raises(StoreError, match="read-only"):
        SqliteStore(path)


TAKEN = {
    "the file is deleted": lambda path: path.unlink(),
    "the file is moved": lambda path: path.rename(path.with_name("elsewhere.db")),
    "the file is replaced": lambda path: (
        shutil.copy(path.with_name("other.db"), path.with_name("new.db"))
        and path.with_name("new.db").rename(path)
    ),
    "the log is deleted": lambda path: path.with_name("store.db-wal").unlink(),
    "file and log are deleted": lambda path: (path.unlink(), path.with_name("store.db-wal").unlink()),
}


@pytest.mark.parametrize("what", TAKEN)
async def test_a_store_whose_file_is_taken_away_acknowledges_nothing_more(tmp_path, what):
    path = tmp_path / "store.db"
    await SqliteStore(path.with_name("other.db")).close()
    seconds = count()
    store = SqliteStore(path, timer=lambda: float(next(seconds)))
    thread = a_thread()
    await store.insert("default", thread, a_message(thread, "kept"))
    TAKEN[what](path)
    for _ in range(2):
        with pytest.raises(StoreError, match="moved, deleted or replaced") as refused:
            await store.insert("default", a_message(thread, "lost"))
        assert "open the store again" in refused.value.hint
    await store.close()
    if path.exists():
        assert check(path) == []
    if what == "the log is deleted":
        store = SqliteStore(path)
        texts = [row.text for row in await store.rows("default", thread.id)]
        await store.close()
        assert texts == ["kept"]


async def test_a_log_that_is_gone_while_nobody_had_the_store_open_costs_the_commits_in_it_and_no_more(
    tmp_path,
):
    """Whatever is left is a whole store of an earlier time."""
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    threads = [a_thread() for _ in range(5)]
    for thread in threads:
        await store.insert("default", thread, a_message(thread, "x"))
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    await store.close()
    store = SqliteStore(copy)
    assert check(copy) == []
    found = {t.id for t in await store.list(Thread, "default", limit=100)}
    await store.close()
    assert found <= {t.id for t in threads}


HOLD = """
    import sys, apsw
    connection = apsw.Connection(sys.argv[1])
    connection.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.readline()
    connection.execute("ROLLBACK")
"""


@pytest.fixture
def another():
    """Give a function that starts a process of its own; whatever is left of them is ended."""
    begun = []

    def start(code, *arguments):
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def test_a_lock_that_another_process_holds_for_long_is_told_and_the_run_goes_on_after_it(
    tmp_path, monkeypatch, another
):
    monkeypatch.setattr("treadle.store.sqlite.BUSY_MS", 20)
    shop = Shop(tmp_path, [PAY, "done"])
    holder = None

    def hold_it():
        nonlocal holder
        holder = another(HOLD, shop.path)
        assert holder.stdout.readline() == "held\n"

    shop.on_pay = hold_it
    run = await shop.start()
    with pytest.raises(StoreError, match="locked") as failure:
        await shop.treadle.runs.wait(run.id, timeout_s=20)
    assert failure.value.retryable
    with pytest.raises(StoreError, match="locked"):
        await shop.treadle.threads.create()
    assert (await shop.treadle.runs.get(run.id)).status == "in_progress"
    holder.stdin.close()
    assert holder.wait(20) == 0
    await shop.treadle.threads.create()
    await shop.treadle.runs.resume(run.id)
    assert (await shop.treadle.runs.wait(run.id, timeout_s=20)).output == "done"
    await shop.treadle.close()
    assert check(shop.path) == []


WALK = """
    import asyncio, sys
    from pathlib import Path
    from treadle.service import Treadle
    from treadle.testing.fakes import ScriptedProvider

    path, number = Path(sys.argv[1]), int(sys.argv[2])

    def pay(what: str) -> str:
        with path.with_name("paid").open("a") as paid:
            paid.write(what + "\\n")
        return "paid"

    def reply(request):
        if any(row.role == "tool" for row in request.messages):
            return "done"
        return {"calls": [{"name": "pay", "arguments": {"what": request.messages[0].text}}]}

    async def walk():
        async with Treadle(
            f"sqlite:///{path}", tools=[pay], providers={"scripted": ScriptedProvider(reply)},
            project=path.parent, walk=True,
        ) as treadle:
            print("walks", flush=True)
            while sum(r.status == "completed" for r in await treadle.runs.list(limit=100)) < number:
                await treadle.store.changed(1)

    asyncio.run(asyncio.wait_for(walk(), 60))
"""


async def test_two_walkers_on_one_file_make_every_call_once(tmp_path, another):
    path, number = tmp_path / "store.db", 12
    async with Treadle(str(path), providers={"scripted": ScriptedProvider(())}, project=tmp_path) as treadle:
        treadle.callables["pay"] = lambda: None
        agent = await treadle.agents.create(model="scripted", tools=[FunctionTool(name="pay", runs="server")])
        walkers = [another(WALK, path, number) for _ in range(2)]
        for walker in walkers:
            assert walker.stdout.readline() == "walks\n"
        for n in range(number):
            run = await treadle.runs.create(None, agent=agent, additional_messages=[{"content": f"bill {n}"}])
            await treadle.executor.park(0)
            assert (await treadle.runs.get(run.id)).id == run.id
        assert [await asyncio.to_thread(walker.wait, 60) for walker in walkers] == [0, 0]
    assert sorted((tmp_path / "paid").read_text().split("\n")[:-1]) == sorted(
        f"bill {n}" for n in range(number)
    )
    assert check(path) == []


# -- bits that turn ------------------------------------------------------------------------------------------------


def test_a_turned_bit_is_found_unless_it_lies_within_a_value_that_no_rule_is_about(tmp_path):
    """A short text has no digest: the store cannot know that a letter of it was another one."""
    asyncio.run(Exercise(tmp_path / "store.db").run())
    sound, before = (tmp_path / "store.db").read_bytes(), rows_of(tmp_path / "store.db")
    chance, path = random.Random(7), tmp_path / "flipped.db"
    outcomes = Counter()
    for _ in range(300):
        content = bytearray(sound)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        for old in tmp_path.glob("flipped.db*"):
            old.unlink()
        path.write_bytes(content)
        try:
            outcomes["found" if check(path) else changed_columns(before, rows_of(path))] += 1
        except (StoreError, UnicodeDecodeError):
            outcomes["found"] += 1
    assert outcomes.pop("found") > 150
    assert outcomes.pop(()) > 10
    # What is left is a value here and there, never a row, an order, a status or whose it is.
    assert all(len(columns) == 1 for columns in outcomes)
    keys = {
        "pos",
        "no",
        "thread",
        "run",
        "tenant",
        "role",
        "status",
        "fence",
        "rev",
        "seq",
        "reply",
        "call",
        "open",
    }
    assert not {column for ((_, column),) in outcomes} & keys


def changed_columns(before, after):
    """Give the table and the column of every value that differs; a row that is gone or new differs in all."""
    changed = set()
    for name, (columns, rows) in before.items():
        _, others = after[name]
        if len(rows) != len(others):
            changed |= {(name, column) for column in columns}
        for row, other in zip(rows, others, strict=False):
            changed |= {(name, c) for c, a, b in zip(columns, row, other, strict=True) if a != b}
    return tuple(sorted(changed))


async def test_a_large_text_of_which_a_bit_has_turned_is_refused(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    thread = a_thread()
    await store.insert(
        "default", thread, a_message(thread, "x" * 300_000), a_message(thread, "y" * 2_000_000)
    )
    connection = connect(tmp_path / "store.db")
    connection.execute(
        "UPDATE blobs SET body = CAST(replace(body, 'xx', 'xy') AS BLOB) WHERE body IS NOT NULL"
    )
    connection.close()
    (file,) = (p for p in (tmp_path / "files").rglob("*") if p.is_file())
    file.write_bytes(b"z" + file.read_bytes()[1:])
    for before in (2, 3):
        with pytest.raises(StoreError, match="not what was kept") as failure:
            await store.rows("default", thread.id, after=before - 2, before=before)
        assert "backup" in failure.value.hint
    await store.close()
