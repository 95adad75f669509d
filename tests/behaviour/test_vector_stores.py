"""Vector stores say honestly what became of their files, expire when nobody uses them, and are fed by messages."""

import asyncio
from pathlib import Path

import pytest

from treadle.errors import Conflict, NotFound, StateError, ThreadBusy
from treadle.objects.project import Project, ProjectSpec, ServeLimits, ServeSpec
from treadle.objects.tool import FunctionTool
from treadle.objects.vector_store import Chunking, FileCounts
from treadle.service.ingestion import AT_ONCE_BYTES
from treadle.service.vector_stores import chunking_of

DAY_S = 86_400
SEARCH = [{"type": "file_search"}]
INTERPRETER = [{"type": "code_interpreter"}]
ASK = FunctionTool(name="ask", runs="client", parameters={"type": "object"})


def limited(folder: Path, **limits: int) -> Project:
    return Project(ProjectSpec(serve=ServeSpec(limits=ServeLimits(**limits))), folder)


async def some_files(treadle, number, content=b"text"):
    return [await treadle.files.create(content, filename=f"{n}.txt") for n in range(number)]


# -- what becomes of files -----------------------------------------------------------------------------------------


async def test_small_files_are_read_before_the_answer(workshop):
    treadle = workshop.open()
    text = await treadle.files.create("Grüße".encode(), filename="a.md")
    pdf = await treadle.files.create(b"%PDF-1.7", filename="b.pdf")
    empty = await treadle.files.create(b"", filename="c.txt")
    store = await treadle.vector_stores.create(
        file_ids=[text.id, pdf.id, empty.id], name="s", metadata={"k": "v"}
    )
    assert store.counts == FileCounts(completed=1, failed=2)
    assert (store.name, store.metadata, store.usage_bytes) == ("s", {"k": "v"}, len("Grüße".encode()))
    links = {link.file_id: link for link in await treadle.vector_stores.files.list(store.id)}
    assert links[text.id].last_error is None
    assert links[pdf.id].last_error.code == "unsupported_file"
    assert "b.pdf" in links[pdf.id].last_error.message
    assert links[empty.id].last_error.code == "invalid_file"
    assert (await treadle.vector_stores.get(store.id)).status(treadle.clock.now_ms()) == "completed"


async def test_large_files_are_read_in_the_background(workshop):
    treadle = workshop.open()
    large = await treadle.files.create(b"word " * (AT_ONCE_BYTES // 5 + 1), filename="a.txt")
    binary = await treadle.files.create(b"word " * AT_ONCE_BYTES + b"\xff", filename="b.txt")
    store = await treadle.vector_stores.create(file_ids=[large.id, binary.id])
    assert store.counts == FileCounts(in_progress=2)
    assert store.status(treadle.clock.now_ms()) == "in_progress"
    await treadle.ingestion.settled()
    store = await treadle.vector_stores.get(store.id)
    assert (store.counts, store.usage_bytes) == (FileCounts(completed=1, failed=1), large.bytes)


async def test_what_a_process_left_unread_is_taken_up_by_whoever_looks(workshop):
    first = workshop.open()
    await first.ingestion.stop()
    large = await first.files.create(bytes(b"x" * (AT_ONCE_BYTES + 1)), filename="a.txt")
    store = await first.vector_stores.create(file_ids=[large.id])
    await first.close()
    second = workshop.open()
    assert (await second.vector_stores.get(store.id)).counts == FileCounts(in_progress=1)
    await second.ingestion.settled()
    assert (await second.vector_stores.get(store.id)).counts == FileCounts(completed=1)


async def test_a_file_that_is_deleted_while_it_waits_is_out_of_the_store(workshop):
    treadle = workshop.open()
    await treadle.ingestion.stop()
    large, other = await some_files(treadle, 2, b"x" * (AT_ONCE_BYTES + 1))
    store = await treadle.vector_stores.create(file_ids=[large.id, other.id])
    await treadle.files.delete(large.id)
    assert (await treadle.vector_stores.get(store.id)).counts == FileCounts(in_progress=1)


async def test_a_content_that_is_damaged_fails_as_the_servers_fault(workshop, tmp_path):
    treadle = workshop.open()
    file = await treadle.files.create(b"x" * 2_000_000, filename="a.txt")
    (path,) = (p for p in (tmp_path / "files").rglob("file-*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"y")
    store = await treadle.vector_stores.create(file_ids=[file.id])
    (link,) = await treadle.vector_stores.files.list(store.id)
    assert link.last_error.code == "server_error"
    path.write_bytes(whole)


async def test_a_file_that_is_put_in_again_is_read_anew(workshop):
    treadle = workshop.open()
    (file,) = await some_files(treadle, 1)
    store = await treadle.vector_stores.create(file_ids=[file.id, file.id])
    assert store.counts.total == 1
    chunking = Chunking(max_tokens=100, overlap_tokens=50)
    link = await treadle.vector_stores.files.add(store.id, file.id, chunking=chunking, attributes={"a": 1})
    assert (link.chunking, link.attributes, link.status) == (chunking, {"a": 1}, "completed")
    assert (await treadle.vector_stores.get(store.id)).counts == FileCounts(completed=1)
    changed = await treadle.vector_stores.files.update(store.id, file.id, attributes={"b": "x"})
    assert await treadle.vector_stores.files.get(store.id, file.id) == changed
    assert changed.attributes == {"b": "x"}


async def test_a_missing_file_is_the_requests_fault_and_nothing_is_made(workshop):
    treadle = workshop.open()
    (file,) = await some_files(treadle, 1)
    store = await treadle.vector_stores.create()
    for refused in (
        treadle.vector_stores.create(file_ids=[file.id, "file-none"]),
        treadle.vector_stores.files.add(store.id, "file-none"),
        treadle.vector_stores.batches.create(store.id, [file.id, "file-none"]),
    ):
        with pytest.raises(StateError, match="No file found with id 'file-none'"):
            await refused
    assert [s.id for s in await treadle.vector_stores.list()] == [store.id]
    assert (await treadle.vector_stores.get(store.id)).counts.total == 0


async def test_taking_a_file_out_leaves_the_file_and_deleting_it_takes_it_out(workshop):
    treadle = workshop.open()
    first, second = await some_files(treadle, 2)
    store = await treadle.vector_stores.create(file_ids=[first.id, second.id])
    await treadle.vector_stores.files.delete(store.id, first.id)
    assert await treadle.files.get(first.id) == first
    with pytest.raises(NotFound):
        await treadle.vector_stores.files.get(store.id, first.id)
    await treadle.files.delete(second.id)
    assert (await treadle.vector_stores.get(store.id)).counts.total == 0


async def test_the_text_of_a_file_is_given_as_it_is_searched(workshop):
    treadle = workshop.open()
    text = await treadle.files.create("Grüße".encode("utf-16"), filename="a.txt")
    image = await treadle.files.create(b"\x89PNG\r\n\x1a\n", filename="b")
    store = await treadle.vector_stores.create(file_ids=[text.id, image.id])
    assert "".join([t async for t in treadle.vector_stores.files.text(store.id, text.id)]) == "Grüße"
    with pytest.raises(StateError, match="image/png"):
        await anext(treadle.vector_stores.files.text(store.id, image.id))


async def test_limits_on_files_hold(workshop, tmp_path):
    treadle = workshop.open(project=limited(tmp_path, vector_store_files=3, batch_files=2))
    files = await some_files(treadle, 4)
    ids = [f.id for f in files]
    with pytest.raises(StateError, match="at most 2"):
        await treadle.vector_stores.create(file_ids=ids[:3])
    store = await treadle.vector_stores.create(file_ids=ids[:2])
    with pytest.raises(StateError, match="at most 3"):
        await treadle.vector_stores.batches.create(store.id, ids[2:])
    await treadle.vector_stores.files.add(store.id, ids[2])
    with pytest.raises(StateError, match="at most 3"):
        await treadle.vector_stores.files.add(store.id, ids[3])


# -- batches -------------------------------------------------------------------------------------------------------


async def test_a_batch_tells_what_became_of_its_files(workshop):
    treadle = workshop.open()
    good, other = await some_files(treadle, 2)
    bad = await treadle.files.create(b"\x00", filename="b")
    store = await treadle.vector_stores.create(file_ids=[other.id])
    batches = treadle.vector_stores.batches
    batch = await batches.create(store.id, [good.id, bad.id], attributes={"of": "batch"})
    assert (batch.status, batch.counts) == ("completed", FileCounts(completed=1, failed=1))
    assert await batches.get(store.id, batch.id) == batch
    links = await treadle.vector_stores.files.list(store.id, batch_id=batch.id, order="asc")
    assert [link.file_id for link in links] == [good.id, bad.id]
    assert all(link.attributes == {"of": "batch"} for link in links)
    assert (await batches.create(store.id, [bad.id])).status == "failed"
    with pytest.raises(StateError, match="needs files"):
        await batches.create(store.id, [])
    elsewhere = await treadle.vector_stores.create()
    with pytest.raises(NotFound):
        await batches.get(elsewhere.id, batch.id)


async def test_files_of_a_batch_may_have_rules_of_their_own(workshop):
    treadle = workshop.open()
    one, two = await some_files(treadle, 2)
    store = await treadle.vector_stores.create()
    own = Chunking(max_tokens=200, overlap_tokens=0)
    of_all = Chunking(max_tokens=300, overlap_tokens=0)
    await treadle.vector_stores.batches.create(
        store.id, files=[(one.id, own, {"a": 1}), (two.id, None, None)], chunking=of_all, attributes={"b": 2}
    )
    links = {link.file_id: link for link in await treadle.vector_stores.files.list(store.id)}
    assert (links[one.id].chunking, links[one.id].attributes) == (own, {"a": 1})
    assert (links[two.id].chunking, links[two.id].attributes) == (of_all, {"b": 2})


async def test_cancelling_a_batch_leaves_unread_what_is_not_read(workshop):
    treadle = workshop.open()
    await treadle.ingestion.stop()
    files = await some_files(treadle, 2, b"x" * (AT_ONCE_BYTES // 2 + 1))
    store = await treadle.vector_stores.create()
    batch = await treadle.vector_stores.batches.create(store.id, [f.id for f in files])
    assert batch.status == "in_progress"
    cancelled = await treadle.vector_stores.batches.cancel(store.id, batch.id)
    assert (cancelled.status, cancelled.counts) == ("cancelled", FileCounts(cancelled=2))
    assert await treadle.vector_stores.batches.cancel(store.id, batch.id) == cancelled


async def test_the_same_under_the_same_key_gives_the_first_one(workshop):
    treadle = workshop.open()
    (file,) = await some_files(treadle, 1)
    first = await treadle.vector_stores.create(name="a", file_ids=[file.id], key="k")
    assert await treadle.vector_stores.create(name="a", file_ids=[file.id], key="k") == first
    with pytest.raises(Conflict):
        await treadle.vector_stores.create(name="b", file_ids=[file.id], key="k")
    batch = await treadle.vector_stores.batches.create(first.id, [file.id], key="b")
    assert await treadle.vector_stores.batches.create(first.id, [file.id], key="b") == batch
    assert len(await treadle.vector_stores.list()) == 1


# -- time ----------------------------------------------------------------------------------------------------------


async def test_a_vector_store_expires_when_nobody_used_it_for_its_days(workshop, clock):
    treadle = workshop.open(clock=clock)
    (file,) = await some_files(treadle, 1)
    store = await treadle.vector_stores.create(expires_days=2)
    assert store.expires_ms == clock.now_ms() + 2 * DAY_S * 1000
    clock.advance(2 * DAY_S - 1)
    await treadle.vector_stores.files.add(store.id, file.id)
    clock.advance(2 * DAY_S - 1)
    assert (await treadle.vector_stores.get(store.id)).status(clock.now_ms()) == "completed"
    clock.advance(1)
    assert (await treadle.vector_stores.get(store.id)).status(clock.now_ms()) == "expired"
    with pytest.raises(StateError, match="expired"):
        await treadle.vector_stores.files.add(store.id, file.id)
    with pytest.raises(StateError, match="expired"):
        await treadle.vector_stores.batches.create(store.id, [file.id])
    kept = await treadle.vector_stores.update(store.id, expires_days=None)
    assert kept.status(clock.now_ms()) == "completed"
    await treadle.vector_stores.files.add(store.id, file.id)


async def test_what_is_not_named_stays_when_a_vector_store_is_changed(workshop):
    treadle = workshop.open()
    store = await treadle.vector_stores.create(name="a", expires_days=3, metadata={"k": "v"})
    changed = await treadle.vector_stores.update(store.id, name="b")
    assert changed == store.model_copy(update={"name": "b"})
    for fields, said in (({"expires_days": 366}, "expires_after.days"), ({"id": "x"}, "id")):
        with pytest.raises(StateError, match=said):
            await treadle.vector_stores.update(store.id, **fields)
    assert await treadle.vector_stores.delete(store.id) == changed
    with pytest.raises(NotFound):
        await treadle.vector_stores.get(store.id)


@pytest.mark.parametrize(
    "numbers",
    [(99, 0), (4097, 0), (100, 51), (800, -1), ("many", 0)],
)
def test_a_chunking_that_does_not_fit_is_refused(numbers):
    given = dict(zip(("max_chunk_size_tokens", "chunk_overlap_tokens"), numbers, strict=True))
    with pytest.raises(StateError, match=r"chunk"):
        chunking_of({"type": "static", "static": given})


def test_a_chunking_is_static_or_auto():
    assert chunking_of(None) is None
    assert chunking_of({"type": "auto"}) is None
    given = {"max_chunk_size_tokens": 4096, "chunk_overlap_tokens": 2048}
    assert chunking_of({"type": "static", "static": given}) == Chunking(max_tokens=4096, overlap_tokens=2048)
    for wrong in ({"type": "other"}, {"type": "static"}, {}):
        with pytest.raises(StateError):
            chunking_of(wrong)


# -- what messages bring along -------------------------------------------------------------------------------------


async def test_an_attachment_for_search_goes_into_the_threads_vector_store(workshop, clock):
    treadle = workshop.open(clock=clock)
    first, second = await some_files(treadle, 2)
    thread = await treadle.threads.create()
    for file in (first, second, first):
        await treadle.messages.create(
            thread.id, content="x", attachments=[{"file_id": file.id, "tools": SEARCH}]
        )
    (store,) = await treadle.vector_stores.list()
    assert (await treadle.threads.get(thread.id)).tool_resources == {
        "file_search": {"vector_store_ids": [store.id]}
    }
    assert store.counts == FileCounts(completed=2)
    assert store.expires_ms == clock.now_ms() + 7 * DAY_S * 1000
    clock.advance(6 * DAY_S)
    await treadle.messages.create(
        thread.id, content="x", attachments=[{"file_id": second.id, "tools": SEARCH}]
    )
    assert (await treadle.vector_stores.get(store.id)).last_active_ms == clock.now_ms()


async def test_an_attachment_for_code_goes_onto_the_threads_list_once(workshop):
    treadle = workshop.open()
    first, second = await some_files(treadle, 2)
    thread = await treadle.threads.create(tool_resources={"code_interpreter": {"file_ids": [first.id]}})
    attachments = [{"file_id": f.id, "tools": INTERPRETER} for f in (second, first)]
    await treadle.messages.create(thread.id, content="x", attachments=attachments)
    found = await treadle.threads.get(thread.id)
    assert found.tool_resources == {"code_interpreter": {"file_ids": [first.id, second.id]}}
    assert await treadle.vector_stores.list() == []


async def test_a_thread_with_first_messages_is_fed_by_them(workshop):
    treadle = workshop.open()
    (file,) = await some_files(treadle, 1)
    message = {"content": "x", "attachments": [{"file_id": file.id, "tools": [*SEARCH, *INTERPRETER]}]}
    thread = await treadle.threads.create(messages=[message])
    (store,) = await treadle.vector_stores.list()
    fed = {"code_interpreter": {"file_ids": [file.id]}, "file_search": {"vector_store_ids": [store.id]}}
    assert thread.tool_resources == fed
    assert await treadle.threads.get(thread.id) == thread


async def test_a_run_whose_messages_have_attachments_feeds_its_thread(workshop):
    scene = await workshop.start(["one", "two"])
    treadle = scene.treadle
    (file,) = await some_files(treadle, 1)
    message = {"content": "x", "attachments": [{"file_id": file.id, "tools": INTERPRETER}]}
    run = await scene.run(additional_messages=[message])
    assert run.status == "completed"
    fed = {"code_interpreter": {"file_ids": [file.id]}}
    assert (await treadle.threads.get(scene.thread_id)).tool_resources == fed
    new = await treadle.runs.create_and_wait(None, agent=scene.agent, additional_messages=[message])
    assert new.status == "completed"
    assert (await treadle.threads.get(new.thread_id)).tool_resources == fed


async def test_messages_that_arrive_at_once_all_feed_the_thread(workshop):
    treadle = workshop.open()
    files = await some_files(treadle, 4)
    thread = await treadle.threads.create()
    await asyncio.gather(
        *(
            treadle.messages.create(
                thread.id, content="x", attachments=[{"file_id": f.id, "tools": [*SEARCH, *INTERPRETER]}]
            )
            for f in files
        )
    )
    (store,) = await treadle.vector_stores.list()
    resources = (await treadle.threads.get(thread.id)).tool_resources
    assert resources["file_search"] == {"vector_store_ids": [store.id]}
    assert sorted(resources["code_interpreter"]["file_ids"]) == sorted(f.id for f in files)
    assert store.counts == FileCounts(completed=4)


async def test_a_refused_message_feeds_nothing(workshop):
    scene = await workshop.start([{"calls": [{"name": "ask", "arguments": {}}]}], tools=[ASK])
    treadle = scene.treadle
    (file,) = await some_files(treadle, 1)
    assert (await scene.run()).status == "requires_action"
    with pytest.raises(ThreadBusy):
        await treadle.messages.create(
            scene.thread_id, content="x", attachments=[{"file_id": file.id, "tools": SEARCH}]
        )
    assert (await treadle.threads.get(scene.thread_id)).tool_resources == {}
    assert await treadle.vector_stores.list() == []


@pytest.mark.parametrize(
    ("attachment", "said"),
    [
        ({"file_id": "file-none", "tools": SEARCH}, "file-none"),
        ({"file_id": "file-none"}, "file-none"),
        ({"tools": SEARCH}, "names its file"),
        ({"file_id": "{id}", "tools": [{"type": "browser"}]}, "browser"),
        ({"file_id": "{id}", "tools": "file_search"}, "list"),
        ({"file_id": "{id}", "data_source": {"uri": "u"}}, "`data_source` is not supported"),
    ],
)
async def test_attachments_that_do_not_fit_are_refused(workshop, attachment, said):
    treadle = workshop.open()
    (file,) = await some_files(treadle, 1)
    if attachment.get("file_id") == "{id}":
        attachment = attachment | {"file_id": file.id}
    thread = await treadle.threads.create()
    with pytest.raises(StateError, match=said):
        await treadle.messages.create(thread.id, content="x", attachments=[attachment])
    assert await treadle.messages.list(thread.id) == []


async def test_code_takes_twenty_files(workshop):
    treadle = workshop.open()
    ids = [f.id for f in await some_files(treadle, 21)]
    thread = await treadle.threads.create(tool_resources={"code_interpreter": {"file_ids": ids[:19]}})
    for id_ in (ids[19], ids[19]):
        await treadle.messages.create(
            thread.id, content="x", attachments=[{"file_id": id_, "tools": INTERPRETER}]
        )
    with pytest.raises(StateError, match="at most 20"):
        await treadle.messages.create(
            thread.id, content="x", attachments=[{"file_id": ids[20], "tools": INTERPRETER}]
        )


async def test_a_thread_whose_vector_store_was_deleted_gets_another_one(workshop):
    treadle = workshop.open()
    (file,) = await some_files(treadle, 1)
    attached = {"content": "x", "attachments": [{"file_id": file.id, "tools": SEARCH}]}
    thread = await treadle.threads.create(messages=[attached])
    (store,) = await treadle.vector_stores.list()
    await treadle.vector_stores.delete(store.id)
    await treadle.messages.create(thread.id, **attached)
    (other,) = await treadle.vector_stores.list()
    assert other.id != store.id
    assert (await treadle.threads.get(thread.id)).tool_resources["file_search"]["vector_store_ids"] == [
        other.id
    ]


# -- resources that are given --------------------------------------------------------------------------------------


async def test_a_vector_store_that_is_described_in_place_is_made(workshop):
    treadle = workshop.open()
    (file,) = await some_files(treadle, 1)
    described = {"file_search": {"vector_stores": [{"file_ids": [file.id], "metadata": {"k": "v"}}]}}
    thread = await treadle.threads.create(tool_resources=described)
    agent = await treadle.agents.create(model="offline", tool_resources=described)
    updated = await treadle.threads.update(thread.id, tool_resources=described)
    stores = {s.id: s for s in await treadle.vector_stores.list()}
    assert len(stores) == 3
    for resources in (thread.tool_resources, agent.spec.tool_resources, updated.tool_resources):
        (id_,) = resources["file_search"]["vector_store_ids"]
        assert stores[id_].metadata == {"k": "v"}
        assert stores[id_].counts == FileCounts(completed=1)
    assert (await treadle.threads.get(thread.id)).tool_resources == updated.tool_resources


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"code_interpreter": {"file_ids": ["file-none"]}}, "file-none"),
        ({"code_interpreter": {"file_ids": [f"file-{n}" for n in range(21)]}}, "at most 20"),
        ({"code_interpreter": {"data_sources": [{}]}}, "`data_sources` is not supported"),
        ({"code_interpreter": []}, "object"),
        ({"file_search": {"vector_store_ids": ["vs_none"]}}, "vs_none"),
        ({"file_search": {"vector_store_ids": ["vs_1", "vs_2"]}}, "one vector store"),
        ({"file_search": {"vector_stores": [{}, {}]}}, "one vector store"),
        ({"file_search": {"vector_stores": [{"file_ids": ["file-none"]}]}}, "file-none"),
        ({"file_search": {"vector_stores": [{"chunking_strategy": {"type": "x"}}]}}, "chunking_strategy"),
        ({"file_search": {"vector_stores": [{"name": "n"}]}}, "`name` is not supported"),
    ],
)
async def test_resources_that_do_not_fit_are_refused_and_nothing_is_made(workshop, resources, said):
    scene = await workshop.start(["one"])
    treadle = scene.treadle
    for refused in (
        treadle.threads.create(tool_resources=resources),
        treadle.threads.update(scene.thread_id, tool_resources=resources),
        treadle.agents.create(model="offline", tool_resources=resources),
        scene.create(tool_resources=resources),
    ):
        with pytest.raises(StateError, match=said):
            await refused
    assert await treadle.vector_stores.list() == []
    assert len(await treadle.threads.list()) == 1
    assert len(await treadle.agents.list()) == 1
    assert await treadle.runs.list() == []


async def test_secrets_for_servers_of_tools_are_not_kept(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create(
        tool_resources={
            "mcp": [{"server_label": "s", "headers": {"Authorization": "secret"}}],
            "file_search": None,
        }
    )
    assert (await treadle.threads.get(thread.id)).tool_resources == {}


async def test_tenants_have_vector_stores_of_their_own(workshop):
    treadle = workshop.open()
    one, two = treadle.scoped("one"), treadle.scoped("two")
    (file,), (foreign,) = await some_files(one, 1), await some_files(two, 1)
    store = await one.vector_stores.create(file_ids=[file.id])
    batch = await one.vector_stores.batches.create(store.id, [file.id])
    stores = two.vector_stores
    for refused in (
        stores.get(store.id), stores.update(store.id, name="x"), stores.delete(store.id),
        stores.files.add(store.id, foreign.id), stores.files.get(store.id, file.id), stores.files.list(store.id),
        stores.files.delete(store.id, file.id), stores.batches.create(store.id, [foreign.id]),
        stores.batches.get(store.id, batch.id), stores.batches.cancel(store.id, batch.id),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await refused
    assert await stores.list() == []
    with pytest.raises(StateError, match=store.id):
        await two.threads.create(tool_resources={"file_search": {"vector_store_ids": [store.id]}})
