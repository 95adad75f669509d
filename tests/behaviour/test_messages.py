"""Messages: what is said is kept as it was said, in the order in which it was said."""

import asyncio
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.errors import NotFound, StateError
from treadle.store.sqlite import SqliteStore

TEXTS = [
    "plain", " leading and trailing ", "line\nline\r\nline", "tab\tquote\"'`\\", "Grüße", "日本語テキスト", "عربى", "👩‍👩‍👧‍👦🏳️‍🌈",
    "𝒳𝓎𝓏 𐍈", unicodedata.normalize("NFD", "é ö ñ"), "a\u200bb\u200d", "\u202eright to left", "{{ not_a_template }}",
    "'; DROP TABLE messages; --", "\ufeffbom", "\x01\x1f\x7f", "x" * 300_000, "é" * 200_000, "🙂" * 300_000,
]  # fmt: skip

DOT = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
async def test_a_text_is_kept_as_it_is(workshop, text):
    treadle = workshop.open()
    thread = await treadle.threads.create()
    made = await treadle.messages.create(thread.id, content=text)
    assert (await treadle.messages.get(made.id)).text == text
    await treadle.close()
    again = workshop.open()
    assert [m.text for m in await again.messages.list(thread.id)] == [text]


@pytest.mark.parametrize("content", ["", " \n\t", [], [{"type": "text"}], [{"type": "video"}], [3], "a\x00b", "\ud800",
                                     [{"type": "text", "text": "\udfff"}], [{"type": "image_url", "image_url": {}}]])  # fmt: skip
async def test_content_that_is_none_is_refused(workshop, content):
    treadle = workshop.open()
    thread = await treadle.threads.create()
    with pytest.raises(StateError):
        await treadle.messages.create(thread.id, content=content)
    assert await treadle.messages.list(thread.id) == []


async def test_parts_are_kept_and_one_part_of_text_is_a_text(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create()
    image = await treadle.files.create(b"\x89PNG\r\n\x1a\n", filename="dot.png", purpose="vision")
    one = await treadle.messages.create(thread.id, content=[{"type": "text", "text": "just text"}])
    assert (one.text, one.parts) == ("just text", ())
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": DOT, "detail": "low"}},
        {"type": "image_file", "image_file": {"file_id": image.id}},
    ]
    many = await treadle.messages.create(
        thread.id, content=parts, metadata={"k": 1}, attachments=[{"file_id": image.id}]
    )
    found = await treadle.messages.get(many.id)
    assert found == many
    assert [p.type for p in found.content] == ["text", "image_url", "image_file"]
    assert found.plain == "look"


@pytest.mark.parametrize("role", ["system", "tool", "", "User"])
async def test_only_user_and_assistant_speak(workshop, role):
    treadle = workshop.open()
    thread = await treadle.threads.create()
    with pytest.raises(StateError, match="role"):
        await treadle.messages.create(thread.id, role=role, content="x")


async def test_metadata_is_replaced_and_nothing_else(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create()
    made = await treadle.messages.create(thread.id, content="x", metadata={"a": 1})
    changed = await treadle.messages.update(made.id, metadata={"b": 2})
    assert await treadle.messages.get(made.id) == changed == made.model_copy(update={"metadata": {"b": 2}})
    with pytest.raises(NotFound):
        await treadle.messages.update("msg_none", metadata={})


async def test_the_notes_of_a_models_message_can_be_changed(workshop):
    scene = await workshop.start(
        [{"text": "Let me see", "calls": [{"name": "nothing", "arguments": {}}]}, "ok"]
    )
    await scene.run()
    before = await scene.rows()
    for message in await scene.treadle.messages.list(scene.thread_id):
        await scene.treadle.messages.update(message.id, metadata={"seen": True})
    after = await scene.rows()
    assert [r.model_copy(update={"metadata": {}}) for r in after] == before


async def test_many_appends_at_once_have_one_order_without_gaps(workshop):
    shops = [workshop.open() for _ in range(2)]
    thread = await shops[0].threads.create()
    made = await asyncio.gather(
        *(shops[n % 2].messages.create(thread.id, content=f"{n}") for n in range(100))
    )
    assert sorted(m.seq for m in made) == list(range(1, 101))
    listed = await shops[1].messages.list(thread.id, limit=200, order="asc")
    assert [m.seq for m in listed] == list(range(1, 101))
    assert {m.id: m.text for m in listed} == {m.id: m.text for m in made}


async def test_pages_never_skip_or_repeat_while_others_append(workshop):
    treadle, writer = workshop.open(), workshop.open()
    thread = await treadle.threads.create(messages=[{"content": f"{n}"} for n in range(30)])
    seen, after = [], None
    while page := await treadle.messages.list(thread.id, order="asc", limit=7, after=after):
        seen += [m.seq for m in page]
        after = page[-1].id
        if len(seen) < 60:
            await writer.messages.create(thread.id, content="more")
    assert seen == list(range(1, len(seen) + 1))
    back, after = [], None
    while page := await treadle.messages.list(thread.id, order="desc", limit=7, after=after):
        back += [m.seq for m in page]
        after = page[-1].id
        await writer.messages.create(thread.id, content="more")
    assert back == list(range(len(seen), 0, -1))


async def test_before_bounds_a_page_from_the_other_side(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create(messages=[{"content": f"{n}"} for n in range(10)])
    ids = [m.id for m in await treadle.messages.list(thread.id, order="asc")]

    async def texts(**bounds):
        return [int(m.text) for m in await treadle.messages.list(thread.id, **bounds)]

    assert await texts(order="asc", after=ids[2], before=ids[6]) == [3, 4, 5]
    assert await texts(order="desc", after=ids[6], before=ids[2]) == [5, 4, 3]
    assert await texts(order="asc", before=ids[2]) == [0, 1]
    assert await texts(order="desc", before=ids[7]) == [9, 8]


async def test_a_cursor_of_another_thread_is_refused(workshop):
    treadle = workshop.open()
    one = await treadle.threads.create(messages=[{"content": "x"}])
    two = await treadle.threads.create(messages=[{"content": "y"}])
    (foreign,) = await treadle.messages.list(one.id)
    for cursor in (foreign.id, "msg_" + "0" * 24, "nonsense", ""):
        with pytest.raises(NotFound):
            await treadle.messages.list(two.id, after=cursor)


async def test_a_message_of_another_thread_or_tenant_has_another_id(workshop):
    treadle = workshop.open()
    thread = await treadle.threads.create(messages=[{"content": "x"}])
    (message,) = await treadle.messages.list(thread.id)
    store = SqliteStore(workshop.path)
    assert store.message_id("default", thread.id, 1) == message.id
    ids = {store.message_id("default", thread.id, seq) for seq in range(1, 1000)}
    assert len(ids) == 999
    assert sorted(ids) == [store.message_id("default", thread.id, seq) for seq in range(1, 1000)]
    await store.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
        min_size=1,
        max_size=5,
    )
)
def test_any_texts_round_trip(texts):
    async def talk():
        store = SqliteStore(None)
        from treadle.service import Treadle

        async with Treadle(store) as treadle:
            thread = await treadle.threads.create()
            kept = []
            for text in texts:
                if text.strip():
                    kept.append(text)
                    await treadle.messages.create(thread.id, content=text)
            assert [m.text for m in await treadle.messages.list(thread.id, order="asc")] == kept

    asyncio.run(talk())
