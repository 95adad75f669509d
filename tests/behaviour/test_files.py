"""Files are kept as they are, found by their tenant alone, and gone when they are deleted, expire or were never whole."""

import asyncio
import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from treadle.errors import ConfigurationError, Conflict, NotFound, StateError, StoreError
from treadle.objects.project import Project, ProjectSpec, ServeLimits, ServeSpec
from treadle.service.files import base_name
from treadle.store.check import check
from treadle.testing.fakes import FrozenClock

LARGE = 3 * 1024 * 1024
DAY_S = 86_400


def limited(folder: Path, **limits: int) -> Project:
    return Project(ProjectSpec(serve=ServeSpec(limits=ServeLimits(**limits))), folder)


def on_disk(folder: Path) -> list[Path]:
    return [path for path in (folder / "files").rglob("*") if path.is_file()]


def age(path: Path, clock: FrozenClock, seconds: float) -> None:
    """Make a file as old as that, by a clock that stands elsewhere than the disk's."""
    then = clock.now_ms() / 1000 - seconds
    os.utime(path, (then, then))


async def pieces(*chunks: bytes):
    for chunk in chunks:
        yield chunk


async def test_a_file_is_kept_with_what_is_known_of_it(workshop, clock):
    treadle = workshop.open(clock=clock)
    made = await treadle.files.create(
        b"hello", filename="notes.txt", purpose="user_data", expires_after_s=3600
    )
    assert await treadle.files.get(made.id) == made
    assert made.id.startswith("file-")
    assert (made.filename, made.purpose, made.bytes, made.media_type) == (
        "notes.txt",
        "user_data",
        5,
        "text/plain",
    )
    assert made.expires_ms == clock.now_ms() + 3_600_000
    assert await treadle.files.content(made.id) == b"hello"


@pytest.mark.parametrize("size", [0, 10, LARGE])
async def test_a_content_comes_whole_in_pieces_or_from_a_file(workshop, tmp_path, size):
    treadle = workshop.open()
    content = os.urandom(size)
    path = tmp_path / "some.bin"
    path.write_bytes(content)
    cut = [content[i : i + 70_000] for i in range(0, size, 70_000)]
    made = [
        await treadle.files.create(path),
        await treadle.files.create(pieces(*cut), filename="some.bin"),
        await treadle.files.create(content, filename="some.bin"),
    ]
    assert len({f.sha256 for f in made}) == 1
    for file in made:
        assert file.filename == "some.bin"
        assert await treadle.files.content(file.id) == content
    assert len(on_disk(tmp_path)) == (3 if size == LARGE else 0)


async def test_the_media_type_is_what_the_content_is_not_what_it_is_called(workshop):
    treadle = workshop.open()
    file = await treadle.files.create(b"\x89PNG\r\n\x1a\n", filename="innocent.txt")
    assert file.media_type == "image/png"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.txt", "a.txt"), ("/etc/passwd", "passwd"), ("..\\..\\x.txt", "x.txt"), ("C:\\a\\b.md", "b.md"),
        ("..", "upload"), (".", "upload"), ("", "upload"), ("a/", "upload"), (" padded ", "padded"),
        ("a\r\nSet-Cookie: x", "aSet-Cookie: x"), ("a\x00b", "a\ufffdb"), ("Grüße 👋.txt", "Grüße 👋.txt"),
        ("n" * 300 + ".txt", "n" * 251 + ".txt"), ("n" * 300, "n" * 255),
    ],
)  # fmt: skip
def test_only_the_base_name_is_kept(given, kept):
    assert base_name(given) == kept


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"purpose": "fun"}, "purpose"),
        ({"expires_after_s": 3599}, "3600"),
        ({"expires_after_s": 2_592_001}, "2592000"),
        ({"filename": None}, "name"),
    ],
)
async def test_fields_that_do_not_fit_are_refused_and_nothing_is_kept(workshop, tmp_path, fields, said):
    treadle = workshop.open()
    with pytest.raises(StateError, match=said):
        await treadle.files.create(bytes(LARGE), **{"filename": "a"} | fields)
    assert await treadle.files.list() == []
    assert on_disk(tmp_path) == []


async def test_a_file_that_is_too_large_is_refused_while_it_arrives(workshop, tmp_path):
    treadle = workshop.open(project=limited(tmp_path, file_bytes=LARGE))
    seen = 0

    async def endless():
        nonlocal seen
        while True:
            seen += 100_000
            yield bytes(100_000)

    with pytest.raises(StateError, match=f"at most {LARGE} bytes"):
        await treadle.files.create(endless(), filename="a")
    assert seen <= LARGE + 100_000
    assert on_disk(tmp_path) == []
    whole = await treadle.files.create(bytes(LARGE), filename="a")
    assert whole.bytes == LARGE


async def test_all_files_of_a_tenant_together_have_a_limit(workshop, tmp_path):
    treadle = workshop.open(project=limited(tmp_path, total_file_bytes=LARGE + 10))
    first = await treadle.files.create(bytes(LARGE), filename="a")
    with pytest.raises(StateError, match=f"more than {LARGE + 10}"):
        await treadle.files.create(bytes(11), filename="b")
    assert (await treadle.scoped("other").files.create(bytes(11), filename="b")).bytes == 11
    await treadle.files.delete(first.id)
    await treadle.files.create(bytes(LARGE + 10), filename="c")


async def test_a_file_of_this_machine_that_cannot_be_read_is_named(workshop, tmp_path):
    treadle = workshop.open()
    with pytest.raises(ConfigurationError, match=r"gone\.txt"):
        await treadle.files.create(tmp_path / "gone.txt")
    assert await treadle.files.list() == []


async def test_more_than_was_asked_for_is_not_given(workshop):
    treadle = workshop.open()
    file = await treadle.files.create(bytes(11), filename="a")
    with pytest.raises(StateError, match="11 bytes"):
        await treadle.files.content(file.id, most_bytes=10)
    assert await treadle.files.content(file.id, most_bytes=11) == bytes(11)


async def test_the_same_under_the_same_key_gives_the_first_file(workshop, tmp_path):
    treadle = workshop.open()
    asked = {"filename": "a.txt", "key": "k"}
    first = await treadle.files.create(bytes(LARGE), **asked)
    assert await treadle.files.create(bytes(LARGE), **asked) == first
    with pytest.raises(Conflict):
        await treadle.files.create(bytes(LARGE + 1), **asked)
    assert len(await treadle.files.list()) == 1
    assert len(on_disk(tmp_path)) == 1


async def test_an_expired_file_is_gone_at_once_and_its_content_is_swept(workshop, clock, tmp_path):
    treadle = workshop.open(clock=clock)
    small = await treadle.files.create(b"x", filename="a", expires_after_s=3600)
    large = await treadle.files.create(bytes(LARGE), filename="b", expires_after_s=3600)
    kept = await treadle.files.create(bytes(LARGE), filename="c", expires_after_s=7200)
    clock.advance(3600)
    for gone in (small, large):
        with pytest.raises(NotFound):
            await treadle.files.get(gone.id)
        with pytest.raises(NotFound):
            await treadle.files.delete(gone.id)
        with pytest.raises(NotFound):
            await treadle.files.content(gone.id)
    assert [f.id for f in await treadle.files.list()] == [kept.id]
    assert len(on_disk(tmp_path)) == 2
    await treadle.recover()
    assert [p.name for p in on_disk(tmp_path)] == [kept.id]


async def test_a_deleted_file_leaves_nothing(workshop, tmp_path):
    treadle = workshop.open()
    for content in (b"x", bytes(LARGE)):
        file = await treadle.files.create(content, filename="a")
        assert await treadle.files.delete(file.id) == file
        with pytest.raises(NotFound):
            await treadle.files.get(file.id)
        with pytest.raises(NotFound):
            await treadle.files.delete(file.id)
    assert on_disk(tmp_path) == []


async def test_whoever_reads_a_file_reads_it_to_its_end_though_it_is_deleted(workshop):
    treadle = workshop.open()
    content = os.urandom(LARGE)
    file = await treadle.files.create(content, filename="a")
    async with aclosing(treadle.files.pieces(file)) as read:
        first = await anext(read)
        await treadle.files.delete(file.id)
        assert first + b"".join([piece async for piece in read]) == content
    with pytest.raises(NotFound):
        await anext(treadle.files.pieces(file))


@pytest.mark.parametrize("damage", ["changed", "cut", "lost"])
async def test_a_damaged_content_is_never_given_whole(workshop, tmp_path, damage):
    treadle = workshop.open()
    file = await treadle.files.create(os.urandom(LARGE), filename="a")
    (path,) = on_disk(tmp_path)
    whole = path.read_bytes()
    if damage == "changed":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(whole[:-1])
    else:
        path.unlink()
    given = 0

    async def read_all():
        nonlocal given
        async with aclosing(treadle.files.pieces(file)) as read:
            async for piece in read:
                given += len(piece)

    with pytest.raises(StoreError, match=file.id):
        await read_all()
    assert given < file.bytes
    assert [p.node for p in check(workshop.path)] == [file.id]
    path.write_bytes(whole)


CRASHES = """
import asyncio, os, sys
from pathlib import Path
from treadle.service import Treadle

async def main():
    treadle = Treadle(f"sqlite:///{sys.argv[1]}", project=Path(sys.argv[1]).parent)
    async with treadle.files.upload() as upload:
        await upload.write(bytes(int(sys.argv[3])))
        if sys.argv[2] == "finished":
            await upload._sink.finish()
        os._exit(9)

asyncio.run(main())
"""


@pytest.mark.parametrize("how_far", ["arriving", "finished"])
async def test_a_crash_between_content_and_row_leaves_nothing_that_anybody_sees(
    workshop, tmp_path, clock, how_far
):
    crashed = subprocess.run(
        [sys.executable, "-c", CRASHES, str(workshop.path), how_far, str(LARGE)], check=False
    )
    assert crashed.returncode == 9
    (left,) = on_disk(tmp_path)
    treadle = workshop.open(clock=clock)
    assert await treadle.files.list() == []
    assert check(workshop.path) == []
    # A content that is young may be somebody's who is about to commit its row.
    age(left, clock, DAY_S - 3700)
    clock.advance(3600)
    await treadle.recover()
    assert on_disk(tmp_path) == [left]
    clock.advance(3600)
    await treadle.recover()
    assert on_disk(tmp_path) == []


async def test_a_crash_between_row_and_content_of_a_deleted_file_is_swept(workshop, tmp_path, clock):
    treadle = workshop.open(clock=clock)
    file, kept = [await treadle.files.create(bytes(LARGE), filename="a") for _ in range(2)]
    (path,) = [p for p in on_disk(tmp_path) if p.name == file.id]
    content = path.read_bytes()
    await treadle.files.delete(file.id)
    path.write_bytes(content)
    for left in on_disk(tmp_path):
        age(left, clock, 2 * DAY_S)
    clock.advance(3600)
    await treadle.recover()
    assert [p.name for p in on_disk(tmp_path)] == [kept.id]


async def test_a_file_that_takes_days_to_arrive_is_not_swept_by_its_own_process(workshop, tmp_path, clock):
    treadle = workshop.open(clock=clock)
    async with treadle.files.upload() as upload:
        await upload.write(bytes(LARGE))
        (part,) = on_disk(tmp_path)
        age(part, clock, 2 * DAY_S)
        clock.advance(3600)
        await treadle.recover()
        file = await upload.keep(filename="a")
    assert await treadle.files.content(file.id) == bytes(LARGE)


async def test_texts_that_are_kept_by_digest_are_not_swept(workshop, tmp_path, clock):
    treadle = workshop.open(clock=clock)
    thread = await treadle.threads.create(messages=[{"content": "x" * LARGE}])
    for path in on_disk(tmp_path):
        age(path, clock, 2 * DAY_S)
    clock.advance(3600)
    await treadle.recover()
    ((message),) = await treadle.messages.list(thread.id)
    assert message.text == "x" * LARGE


async def test_tenants_have_files_of_their_own(workshop):
    treadle = workshop.open()
    one, two = treadle.scoped("one"), treadle.scoped("two")
    file = await one.files.create(bytes(LARGE), filename="a")
    for refused in (two.files.get(file.id), two.files.content(file.id), two.files.delete(file.id)):
        with pytest.raises(NotFound):
            await refused
    assert await two.files.list() == []
    with pytest.raises(StateError, match=file.id):
        await two.vector_stores.create(file_ids=[file.id])
    thread = await two.threads.create()
    for fields in (
        {"content": "x", "attachments": [{"file_id": file.id, "tools": [{"type": "file_search"}]}]},
        {"content": [{"type": "image_file", "image_file": {"file_id": file.id}}]},
    ):
        with pytest.raises(StateError, match=file.id):
            await two.messages.create(thread.id, **fields)
    assert await one.files.content(file.id) == bytes(LARGE)


async def test_files_in_memory_are_kept_in_memory(tmp_path, monkeypatch):
    from treadle.service import Treadle

    monkeypatch.chdir(tmp_path)
    async with Treadle("sqlite://:memory:") as treadle:
        files = await asyncio.gather(*(treadle.files.create(bytes(LARGE), filename="a") for _ in range(3)))
        assert await treadle.files.content(files[0].id) == bytes(LARGE)
    assert list(tmp_path.iterdir()) == []
