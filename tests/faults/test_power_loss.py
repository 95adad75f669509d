"""Power losses: whatever of the unsynced writes reached the disk, what was acknowledged is there and the store is whole.

`python -m treadle.testing.storage --images N --seed S` looks at as many images as wanted.
"""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from treadle.store.base import Blob
from treadle.store.connection import connect
from treadle.store.sqlite import SqliteStore
from treadle.testing.chance import Chance
from treadle.testing.power_loss import MODES, Image, PowerLoss, content_of
from treadle.testing.storage import Tally, main, try_images
from treadle.testing.storage_exercise import Exercise, record
from treadle.testing.storage_verdict import goes_on, problems_of
from treadle.testing.store_contract import a_message, a_thread


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_a_power_loss_and_the_store_is_whole(seed):
    said = []
    tally = Tally(said.append)
    try_images(tally, 600, seed=seed, each=3)
    assert said == []
    assert tally.tried == 600


def test_with_durability_normal_a_power_loss_leaves_a_store_of_an_earlier_time(tmp_path):
    power = record(tmp_path / "store.db", durability="normal")
    images = [*power.images(Chance("1"))]
    assert [p for image in images for p in problems_of(image, power.states, tmp_path)] == []
    assert all(image.least == 0 for image in images)


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_commits_after_a_walker_was_let_go_wait_for_the_disk_as_before(tmp_path, durability, level):
    """Letting go alone need not survive a power loss."""
    store = SqliteStore(tmp_path / "store.db", durability=durability)
    await store.retire("nobody")
    assert store._writer.pragma("synchronous") == level
    await store.close()


def test_every_way_to_lose_power_is_tried_at_every_sync(tmp_path):
    power = record(tmp_path / "store.db")
    images = [*power.images(Chance("1"))]
    assert len(images) == len(MODES) * (power.boundaries + 1)
    assert power.boundaries > 50
    assert {image.how.rpartition(", ")[2] for image in images} == set(MODES)
    assert {name for image in images for name in image.files} == {"", "-journal", "-wal"}
    assert max(image.least for image in images) > 40
    assert (
        len({hashlib.sha256(repr(sorted(image.files.items())).encode()).digest() for image in images}) > 100
    )


def test_the_recording_is_what_the_disk_has(tmp_path):
    """The last image with every write in it is the file itself."""
    power = record(tmp_path / "store.db")
    (last,) = [i for i in [*power.images(Chance("1"))][-len(MODES) :] if i.how.endswith("all")]
    assert last.files[""] == (tmp_path / "store.db").read_bytes()
    assert set(last.files) == {""}
    assert last.least >= len(power.states) - 3


def test_the_same_seed_gives_the_same_images(tmp_path):
    one, two = (record(tmp_path / name, seed=5) for name in ("one.db", "two.db"))
    firsts, seconds = ([*power.images(Chance("9"), each=1)] for power in (one, two))
    assert [image.how for image in firsts] == [image.how for image in seconds]


def test_runs_that_were_under_way_go_on_after_a_power_loss(tmp_path):
    power = record(tmp_path / "store.db", seed=3)
    chance = Chance("3")
    images = [image for image in power.images(chance, each=1) if image.least > 5]
    for image in [chance.pick(images) for _ in range(12)]:
        assert problems_of(image, power.states, tmp_path, and_go_on=True) == []


# -- the judge itself: a store that breaks its promise is found ----------------------------------------------------


def found(power, folder, each=2):
    return [
        p for image in power.images(Chance("1"), each=each) for p in problems_of(image, power.states, folder)
    ]


def test_commits_that_do_not_wait_for_the_disk_are_found_where_they_should_have(tmp_path):
    power = PowerLoss(durability="full")
    asyncio.run(Exercise(tmp_path / "store.db", power.open, durability="normal").run())
    assert any("it holds the state after commit" in problem for problem in found(power, tmp_path))


def test_a_store_that_never_syncs_is_found(tmp_path, monkeypatch):
    """Neither before a commit is acknowledged nor before the log is overwritten: what is left is not even sound."""
    as_it_is = SqliteStore._connect

    def careless(self, **options):
        connection = as_it_is(self, **options)
        connection.inner.pragma("synchronous", "OFF")
        return connection

    power = PowerLoss(durability="full")
    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "_connect", careless)
        asyncio.run(Exercise(tmp_path / "store.db", power.open).run())
    assert power.boundaries < 10
    assert any(
        "it holds" in problem or "it does not open" in problem for problem in found(power, tmp_path, 7)
    )


def test_a_disk_that_lies_about_its_syncs_is_found(tmp_path):
    power = record(tmp_path / "store.db")
    power._log = [entry._replace(mark=0) if entry.kind == "sync" else entry for entry in power._log]
    problems = found(power, tmp_path, 1)
    assert len(problems) > 20


def test_a_thread_that_takes_no_next_turn_is_found(tmp_path):
    asyncio.run(Exercise(tmp_path / "store.db").run())
    assert asyncio.run(goes_on(tmp_path / "store.db")) == []
    connection = connect(tmp_path / "store.db")
    connection.execute(
        "CREATE TRIGGER never BEFORE UPDATE OF status ON runs BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    connection.close()
    power = PowerLoss()
    image = Image({"": (tmp_path / "store.db").read_bytes()}, "a store that ends no run", 0, 0)
    (problem,) = problems_of(image, [content(tmp_path / "store.db"), *power.states], tmp_path, and_go_on=True)
    assert "does not go on" in problem


def content(path):
    connection = connect(path)
    try:
        return content_of(connection)
    finally:
        connection.close()


# -- files and folders ---------------------------------------------------------------------------------------------


async def test_a_large_text_and_the_folders_that_lead_to_it_are_on_the_disk_before_it_is_acknowledged(
    tmp_path, monkeypatch
):
    """What was synced is known by the descriptors that were; a folder's entry is durable once its folder was."""
    synced, sync = [], os.fsync

    def seen(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is no /proc to tell which file a descriptor is of")
    monkeypatch.setattr(os, "fsync", seen)
    path = tmp_path / "state" / "store" / "store.db"
    store = SqliteStore(path)
    assert {tmp_path, tmp_path / "state"} <= set(synced)
    synced.clear()
    content = os.urandom(2_000_000)
    blob = Blob(hashlib.sha256(content).hexdigest(), content)
    thread = a_thread()
    await store.insert("default", thread, blob, a_message(thread, "x"))
    (kept,) = (p for p in path.parent.rglob("*") if p.name == blob.digest)
    assert any(p.name.startswith(blob.digest) and p.suffix == ".part" for p in synced)
    folders = [p for p in kept.parents if path.parent in (p, *p.parents)]
    assert folders[-1] == path.parent
    assert len(folders) == 4
    assert set(folders) <= set(synced)
    assert synced.index(kept.parent) > next(n for n, p in enumerate(synced) if p.suffix == ".part")
    await store.close()


def test_the_command_counts_images_and_violations(capsys):
    assert main(["--images", "20", "--seed", "4"]) == 0
    assert "power-loss images: 20, violations 0" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([])
    assert "--images" in capsys.readouterr().err
