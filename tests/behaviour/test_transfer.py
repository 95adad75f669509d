"""Threads go out of a store and into another one whole: rows, calls, results, files; or not at all."""

import asyncio
import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.errors import ConfigurationError, NotFound, StateError
from treadle.objects.project import Project, ProjectSpec, ServeLimits, ServeSpec
from treadle.objects.thread import Thread
from treadle.objects.tool import FunctionTool
from treadle.service import Treadle
from treadle.store.check import check

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
HEAD = {"treadle": "thread", "version": 1}
ASK = FunctionTool(name="ask", parameters={"type": "object", "properties": {}})


def lines_of(*objects: dict[str, Any]) -> list[str]:
    return [json.dumps(o, ensure_ascii=False) + "\n" for o in objects]


def whole(*rows: dict[str, Any], **head: Any) -> list[str]:
    """Give the lines of a thread with these rows, numbered."""
    numbered = [{"seq": n, "created_at": 1_700_000_000 + n, **row} for n, row in enumerate(rows, 1)]
    return lines_of(HEAD | head, *numbered, {"end": {"rows": len(rows)}})


def user(text: str = "Hello") -> dict[str, Any]:
    return {"role": "user", "text": text}


def asks(*ids: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": i, "name": "f", "arguments": "{}"} for i in ids]}


def result(reply: int, call: int = 0) -> dict[str, Any]:
    return {"role": "tool", "reply": reply, "call": call, "text": "done"}


async def exported(treadle: Treadle, thread: str, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in treadle.threads.export(thread, **options)]


def compared(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give lines without what an import makes anew: ids, the times of threads and files, and the runs."""
    names: dict[str, str] = {}

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: named(v) for k, v in value.items() if k not in ("run_id", "agent_name")}
        if isinstance(value, list):
            return [named(v) for v in value]
        if isinstance(value, str) and value.startswith(("thread_", "file-", "vs_")):
            return names.setdefault(value, f"{value.partition('_')[0][:5]} {len(names)}")
        return value

    found = []
    for line in lines:
        if "treadle" in line:
            line = {k: v for k, v in line.items() if k not in ("id", "created_at")}  # noqa: PLW2901 - the rest stays
        if "file" in line:
            line = {"file": {k: v for k, v in line["file"].items() if k != "created_at"}}  # noqa: PLW2901 - the rest stays
        found.append(named(line))
    return found


# -- round trips -----------------------------------------------------------------------------------------------------

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30
) | st.sampled_from(
    ["👩‍👩‍👧‍👦 e\u0301 \u2028 \u202e", "x" * 300_000, '{"a": "\\u0000"}', "line\nline\r\n", "\\", " "]
)
NOTES = st.dictionaries(st.sampled_from(["a", "b"]), TEXTS, max_size=2)
TIMES = st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)


@st.composite
def said(draw: st.DrawFn, role: str) -> dict[str, Any]:
    """Give a row that says something, or that did until it was deleted."""
    row: dict[str, Any] = {"role": role}
    match draw(st.sampled_from(["text", "parts", "deleted"])):
        case "deleted":
            return row | {"deleted": True}
        case "text":
            row["text"] = draw(TEXTS)
        case _:
            row["parts"] = [
                {"type": "text", "text": draw(TEXTS), "annotations": [{"type": "note", "text": draw(TEXTS)}]},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
            ]
    if notes := draw(NOTES):
        row["metadata"] = notes
    if role == "assistant":
        row["agent_id"] = draw(st.sampled_from(["asst_1", "asst_2"]))
        if draw(st.booleans()):
            row |= {"status": "incomplete", "incomplete_reason": "max_completion_tokens"}
    return row


@st.composite
def threads(draw: st.DrawFn) -> list[str]:
    rows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 6))):
        row = draw(said(draw(st.sampled_from(["user", "assistant"]))))
        if row["role"] == "user":
            rows.append(row)
            continue
        calls = draw(st.integers(0, 3))
        if calls:
            row["tool_calls"] = [{"id": f"c{n}", "name": "f", "arguments": draw(TEXTS)} for n in range(calls)]
        rows.append(row)
        reply = len(rows)
        rows += [
            {"role": "tool", "reply": reply, "call": n, "text": draw(TEXTS)}
            for n in draw(st.permutations(range(calls)))
        ]
    numbered = [{"seq": n, "created_at": draw(TIMES), **row} for n, row in enumerate(rows, 1)]
    notes = draw(NOTES)
    head = HEAD | ({"metadata": notes} if notes else {})
    return lines_of(head, *numbered, {"end": {"rows": len(rows)} if rows else {}})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(lines=threads())
def test_what_is_exported_imported_and_exported_again_is_the_same(lines: list[str]) -> None:
    async def trip() -> None:
        async with Treadle("sqlite://:memory:") as first, Treadle("sqlite://:memory:") as second:
            there = await exported(first, (await first.threads.import_(lines)).id)
            assert compared(there) == compared([json.loads(line) for line in lines])
            again = await exported(second, (await second.threads.import_(lines_of(*there))).id)
            assert compared(again) == compared(there)

    asyncio.run(trip())


async def test_a_thread_of_runs_goes_on_elsewhere_as_if_it_had_been_there(workshop, tmp_path_factory):
    def look() -> str:
        """Look here."""
        return "seen"

    scene = await workshop.start(
        [{"calls": [{"name": "look", "arguments": {}, "id": "b"}]}, "Done."], tools=(look,)
    )
    run = await scene.run()
    treadle = scene.treadle
    await treadle.messages.create(run.thread_id, content="Forget me", metadata={"k": "v"})
    last = (await treadle.messages.list(run.thread_id, limit=1))[0]
    await treadle.messages.delete(last.id)
    lines = [line async for line in treadle.threads.export(run.thread_id)]
    told = [json.loads(line) for line in lines]
    assert [line.get("role") for line in told[1:-1]] == ["user", "assistant", "tool", "assistant", "user"]
    assert told[4]["run_id"] == run.id
    assert told[5] == {"seq": 5, "role": "user", "deleted": True, "created_at": told[5]["created_at"]}

    path = tmp_path_factory.mktemp("elsewhere") / "treadle.db"
    async with Treadle(f"sqlite:///{path}") as other:
        thread = await other.threads.import_(lines)
        rows = await other.store.rows("default", thread.id)
        was = await treadle.store.rows("default", run.thread_id)
        for name in (
            "seq",
            "role",
            "text",
            "parts",
            "tool_calls",
            "reply_seq",
            "call_index",
            "tokens",
            "created_ms",
        ):
            assert [getattr(r, name) for r in rows] == [getattr(r, name) for r in was], name
        made = await other.agents.create(model="offline", instructions="Be short.")
        assert (await other.runs.create_and_wait(thread.id, agent=made)).status == "completed"
    assert check(path) == []


async def test_an_export_of_a_waiting_run_ends_before_the_call_that_waits(workshop):
    scene = await workshop.start(
        [{"calls": [{"name": "ask", "arguments": {}, "id": "a"}]}, "ok"], tools=(ASK,)
    )
    run = await scene.run()
    assert run.status == "requires_action"
    remarks: list[str] = []
    told = await exported(scene.treadle, run.thread_id, tell=remarks.append)
    assert [line.get("role") for line in told] == [None, "user", None]
    assert told[-1] == {"end": {"rows": 1}}
    assert remarks == [
        f"run {run.id} is active: exported are rows 1 to 1; what follows, up to row 2, waits for results"
    ]
    thread = await scene.treadle.threads.import_(lines_of(*told))
    assert await scene.treadle.threads.length(thread.id) == 1
    await scene.treadle.runs.cancel(run.id)


async def test_a_fork_is_exported_with_the_rows_that_it_shares(workshop):
    treadle = workshop.open()
    source = await treadle.threads.create(messages=[{"content": f"text {n}"} for n in range(250)])
    fork = Thread(id=treadle.ids.new("thread"), created_ms=1, forked_from=source.id, forked_at=230)
    await treadle.store.insert("default", fork)
    await treadle.messages.create(fork.id, role="assistant", content="own")
    told = await exported(treadle, fork.id)
    assert [line["text"] for line in told[1:-1]] == [f"text {n}" for n in range(230)] + ["own"]
    assert compared(await exported(treadle, (await treadle.threads.import_(lines_of(*told))).id)) == compared(
        told
    )


# -- files -----------------------------------------------------------------------------------------------------------


async def filled(treadle: Treadle) -> str:
    """Make a thread with an image, an attachment that is searched, and one for code with the same content."""
    image = await treadle.files.create(PNG, filename="dot.png", purpose="vision")
    note = await treadle.files.create(b"snow " * 100_000, filename="note.txt")
    same = await treadle.files.create(b"snow " * 100_000, filename="same.txt")
    thread = await treadle.threads.create(
        messages=[
            {"content": [{"type": "image_file", "image_file": {"file_id": image.id, "detail": "low"}}]},
            {"content": "Read", "attachments": [{"file_id": note.id, "tools": [{"type": "file_search"}]}]},
            {
                "content": "Run",
                "attachments": [{"file_id": same.id, "tools": [{"type": "code_interpreter"}]}],
            },
        ]
    )
    return thread.id


async def test_files_come_along_once_a_content(workshop, tmp_path_factory):
    treadle = workshop.open()
    told = await exported(treadle, await filled(treadle))
    assert told[-1] == {"end": {"rows": 3, "files": 3, "vector_stores": 1}}
    contents = {line["content"] for line in told if "content" in line}
    assert contents == {hashlib.sha256(c).hexdigest() for c in (PNG, b"snow " * 100_000)}
    assert (
        sum(len(base64.b64decode(line["base64"])) for line in told if "content" in line) == len(PNG) + 500_000
    )

    path = tmp_path_factory.mktemp("elsewhere") / "treadle.db"
    async with Treadle(f"sqlite:///{path}") as other:
        imported = await other.threads.take_in(lines_of(*told))
        assert (imported.rows, imported.files, imported.vector_stores, imported.missing) == (3, 3, 1, ())
        await other.ingestion.settled()
        assert imported.thread is not None
        resources = imported.thread.tool_resources
        (store,) = resources["file_search"]["vector_store_ids"]
        assert (await other.vector_stores.get(store)).counts.completed == 1
        (code,) = resources["code_interpreter"]["file_ids"]
        assert await other.files.content(code) == b"snow " * 100_000
        first = (await other.messages.list(imported.thread.id, order="asc"))[0]
        assert await other.files.content(first.parts[0].image_file.file_id) == PNG
        assert compared(await exported(other, imported.thread.id)) == compared(told)
    assert check(path) == []


async def test_without_files_the_references_stay_and_are_told(workshop, tmp_path_factory):
    treadle = workshop.open()
    thread = await filled(treadle)
    told = await exported(treadle, thread, files=False)
    assert all("content" not in line and "file" not in line for line in told)
    here = await treadle.threads.take_in(lines_of(*told))
    assert here.missing == ()
    async with Treadle("sqlite://:memory:") as other:
        there = await other.threads.take_in(lines_of(*told))
        named = (await treadle.threads.get(thread)).tool_resources
        assert set(named["file_search"]["vector_store_ids"]) | set(
            named["code_interpreter"]["file_ids"]
        ) < set(there.missing)
        assert len(there.missing) == 4
        assert there.thread is not None
        assert there.thread.tool_resources == named


async def test_a_file_that_is_gone_is_left_out_and_told(workshop):
    treadle = workshop.open()
    thread = await filled(treadle)
    gone = (await treadle.threads.get(thread)).tool_resources["code_interpreter"]["file_ids"][0]
    await treadle.files.delete(gone)
    imported = await treadle.threads.take_in([line async for line in treadle.threads.export(thread)])
    assert (imported.files, imported.missing) == (2, (gone,))


async def test_a_damaged_content_is_refused_at_its_file_and_leaves_nothing(workshop, tmp_path):
    treadle = workshop.open()
    told = await exported(treadle, await filled(treadle))
    before = sorted(tmp_path.rglob("files/**/*"))
    place = next(n for n, line in enumerate(told) if "content" in line)
    told[place]["base64"] = base64.b64encode(b"x" * len(base64.b64decode(told[place]["base64"]))).decode()
    with pytest.raises(ConfigurationError, match=r"^lines:\d+: expected the content of"):
        await treadle.threads.import_(lines_of(*told))
    assert len(await treadle.threads.list()) == 1
    assert len(await treadle.files.list()) == 3
    assert sorted(tmp_path.rglob("files/**/*")) == before


async def test_no_more_files_come_in_than_the_tenant_may_have(workshop, tmp_path):
    treadle = workshop.open()
    lines = [line async for line in treadle.threads.export(await filled(treadle))]
    limits = ServeLimits(total_file_bytes=1_200_000)
    small = workshop.open(project=Project(ProjectSpec(serve=ServeSpec(limits=limits)), tmp_path))
    with pytest.raises(StateError, match="they would have more than 1200000"):
        await small.threads.import_(lines)
    assert len(await small.threads.list()) == 1


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "line", "expected"),
    [
        (whole(user())[:-1], 2, "expected the line that ends the export"),
        ([*whole(user()), *lines_of(user())], 4, "expected nothing after the line that ends"),
        ([*whole(user(), user())[:2], whole(user())[-1].replace("1", "2")], 3, "expected 2 rows"),
        ([whole(user())[0], '{"seq": 1,\n'], 2, "expected a JSON object"),
        ([whole(user())[0], "[]\n"], 2, "expected a JSON object, not a list"),
        ([whole(user())[0], '{"row": 1}\n'], 2, "expected a line with one of the keys seq, content, file"),
        (whole(user() | {"seq": 2}), 2, "expected the row with seq 1, not 2"),
        (whole(user() | {"role": "system"}), 2, "'role' does not fit: Input should be 'user', 'assistant' or 'tool'"),
        (whole(user() | {"txet": "x"}), 2, "'txet' does not fit"),
        (whole(user() | {"created_at": "now"}), 2, "'created_at' does not fit"),
        (whole({"role": "user"}), 2, "expected a row of the user to say something"),
        (whole(user("a\0b")), 2, "expected text without NUL"),
        (whole(user(), asks("a"), user()), 4, "expected the result of the call 'a' of row 2"),
        (whole(user(), asks("a")), 4, "expected the result of the call 'a' of row 2"),
        (whole(user(), result(1)), 3, "expected a result of a call that waits, and call 0 of row 1 does not"),
        (whole(asks("a"), result(1), result(1)), 4, "expected a result of a call that waits"),
        (whole(asks("a"), result(1, 1)), 3, "expected a result of a call that waits, and call 1 of row 1"),
        (whole(user() | {"tool_calls": asks("a")["tool_calls"]}), 2, "expected calls in rows of the assistant alone"),
        (whole(user() | {"deleted": True}), 2, "expected a deleted row to say nothing"),
        (whole(user() | {"status": "in_progress"}), 2, "'status' does not fit"),
        (whole(user() | {"attachments": [{"file": 1}]}), 2, "expected an attachment to be"),
        (whole({"role": "user", "parts": [{"type": "video"}]}), 2, "'parts.0' does not fit"),
        (lines_of(HEAD, {"content": "0" * 64, "base64": ""}), 2, "expected the content of a file that was told before"),
        (lines_of(HEAD | {"version": 2}), 1, "expected version 1 of the format, not 2: a newer treadle wrote it"),
        (lines_of(HEAD | {"metadata": 3}), 1, "'metadata' does not fit"),
        (["\n"], 1, "expected a thread, and there is nothing"),
        (["hello\n"], 1, "expected an object or a list of messages"),
        (['{"a": 1}\n'], 1, "expected a list of messages"),
    ],
)  # fmt: skip
async def test_a_wrong_line_is_named_and_nothing_is_stored(workshop, lines, line, expected):
    treadle = workshop.open()
    with pytest.raises(ConfigurationError) as caught:
        await treadle.threads.import_(lines, source="chat.jsonl")
    assert caught.value.message.startswith(f"chat.jsonl:{line}: {expected}")
    assert caught.value.error_code == "TR074"
    assert await treadle.threads.list() == []


async def test_an_image_that_could_never_be_sent_is_refused_as_in_a_new_message(workshop):
    treadle = workshop.open()
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
    with pytest.raises(ConfigurationError, match=r"^lines:2: part 1 of the content"):
        await treadle.threads.import_(whole({"role": "user", "parts": [part]}))


async def test_a_dry_run_checks_all_and_stores_nothing(workshop):
    treadle = workshop.open()
    told = await exported(treadle, await filled(treadle))
    imported = await treadle.threads.take_in(lines_of(*told), dry_run=True)
    assert imported == (None, 3, 3, 1, (), 0)
    assert len(await treadle.threads.list()) == 1
    assert len(await treadle.files.list()) == 3
    with pytest.raises(ConfigurationError):
        await treadle.threads.take_in(whole(result(1)), dry_run=True)


async def test_a_thread_belongs_to_the_tenant_that_imports_it(workshop):
    treadle = workshop.open()
    lines = [line async for line in treadle.threads.export(await filled(treadle))]
    other = treadle.scoped("other")
    thread = await other.threads.import_(lines)
    assert [t.id for t in await other.threads.list()] == [thread.id]
    assert len(await other.files.list()) == 3
    with pytest.raises(NotFound):
        await anext(treadle.threads.export(thread.id))


# -- the wire --------------------------------------------------------------------------------------------------------


def message(n: int, role: str = "user", *, at: int | None = None, id_: str | None = None) -> dict[str, Any]:
    return {
        "id": id_ or f"msg_{hashlib.sha256(str(n).encode()).hexdigest()[:24]}",
        "object": "thread.message",
        "created_at": at if at is not None else 1_700_000_000 + n,
        "thread_id": "thread_abc",
        "role": role,
        "content": [{"type": "text", "text": {"value": f"text {n}", "annotations": []}}],
        "assistant_id": None,
        "run_id": None,
        "attachments": [],
        "metadata": {},
    }


def listing(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(messages), "has_more": False, **more}


def placed(n: int) -> str:
    return f"msg_00002BfNC5rk1E000000000{n}"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(listing(message(3), message(2, "assistant"), message(1))),
        json.dumps(listing(message(3), message(2, "assistant"), message(1)), indent=2),
        json.dumps(listing(message(1), message(2, "assistant"), message(3))),
        json.dumps(listing(message(3, at=5), message(2, "assistant", at=5), message(1, at=5))),
        json.dumps(listing(*(message(n, at=5, id_=placed(n)) | {"role": r} for n, r in ((2, "assistant"), (1, "user"), (3, "user"))))),
        json.dumps(listing(message(3, at=6), message(2, "assistant", at=5), message(1, at=5))),
        json.dumps(listing(message(1, at=5), message(2, "assistant", at=5), message(3, at=5), thread={"id": "thread_abc"})),
        json.dumps([message(1, at=5), message(2, "assistant", at=5), message(3, at=5)]),
        json.dumps({"id": "thread_abc", "object": "thread", "messages": [message(1), message(2, "assistant"), message(3)]}),
        "\n".join(json.dumps(m) for m in (message(1), message(2, "assistant"), message(3))),
        json.dumps(listing(message(3), has_more=True)) + "\n" + json.dumps(listing(message(2, "assistant"), message(1))),
    ],
)  # fmt: skip
async def test_lists_of_the_wire_are_read_in_the_order_in_which_they_were_said(workshop, text):
    treadle = workshop.open()
    thread = await treadle.threads.import_(text.splitlines(keepends=True))
    found = await treadle.messages.list(thread.id, order="asc")
    assert [(m.role, m.text) for m in found] == [
        ("user", "text 1"),
        ("assistant", "text 2"),
        ("user", "text 3"),
    ]


async def test_an_exported_wire_document_is_read_as_it_was_written(workshop):
    scene = await workshop.start(["Done."])
    run = await scene.run()
    text = "".join([chunk async for chunk in scene.treadle.threads.export(run.thread_id, format="wire")])
    document = json.loads(text)
    listed = await scene.treadle.messages.list(run.thread_id, order="asc")
    assert [m["id"] for m in document["data"]] == [m.id for m in listed]
    assert (document["first_id"], document["last_id"]) == (listed[0].id, listed[-1].id)
    thread = await scene.treadle.threads.import_([text])
    again = await scene.treadle.messages.list(thread.id, order="asc")
    assert [(m.role, m.content, m.agent_id) for m in again] == [
        (m.role, m.content, m.agent_id) for m in listed
    ]
    empty = await scene.treadle.threads.create(metadata={"k": "v"})
    text = "".join([chunk async for chunk in scene.treadle.threads.export(empty.id, format="wire")])
    assert (await scene.treadle.threads.import_([text])).metadata == {"k": "v"}


async def test_what_a_message_of_the_wire_can_have_is_kept(workshop):
    treadle = workshop.open()
    parts = [
        {"type": "text", "text": {"value": "See", "annotations": [{"type": "file_citation", "text": "x"}]}},
        {"type": "image_file", "image_file": {"file_id": "assistant-1", "detail": "low"}},
        {"type": "refusal", "refusal": "No."},
    ]
    given_ = message(1, "assistant") | {
        "content": parts, "status": "incomplete", "incomplete_details": {"reason": "max_tokens"},
        "assistant_id": "asst_x", "run_id": "run_x", "metadata": {"k": "v"},
    }  # fmt: skip
    empty = message(2, "assistant") | {"content": []}
    imported = await treadle.threads.take_in([json.dumps(listing(empty, given_))])
    assert (imported.rows, imported.left_out, imported.missing) == (1, 1, ("assistant-1",))
    assert imported.thread is not None
    (kept,) = await treadle.messages.list(imported.thread.id)
    assert (kept.status, kept.incomplete_reason, kept.agent_id, kept.metadata) == (
        "incomplete", "max_tokens", "asst_x", {"k": "v"},
    )  # fmt: skip
    assert [p.type for p in kept.parts] == ["text", "image_file", "text"]
    assert kept.plain == "See\nNo."


@pytest.mark.parametrize(
    ("document", "line", "expected"),
    [
        (listing(message(1) | {"role": "tool"}), 4, 'expected the role user or assistant, not "tool"'),
        (listing(message(1), message(2) | {"content": [{"type": "x"}]}), 24, "expected a part of the type text"),
        (listing(message(1) | {"content": None}), 4, "expected 'content' to be a text or a list of parts"),
        (listing(message(1) | {"status": "in_progress"}), 4, "expected a message that is completed or incomplete"),
        (listing(message(1) | {"attachments": 7}), 4, "'attachments' does not fit"),
        (listing(message(1), has_more=True), 26, "expected the thread's last page"),
        (listing("x"), 4, "expected a message, an object"),
    ],
)  # fmt: skip
async def test_a_message_that_does_not_fit_is_named_by_its_line(workshop, document, line, expected):
    treadle = workshop.open()
    with pytest.raises(ConfigurationError) as caught:
        await treadle.threads.import_(
            json.dumps(document, indent=1).splitlines(keepends=True), source="m.json"
        )
    assert caught.value.message.startswith(f"m.json:{line}: {expected}")
    assert await treadle.threads.list() == []


@pytest.mark.parametrize(
    "text", ['{"data": [', '{"data": [{"role": "user"}', '{"data": [],}', "{data: []}", "[1,]", "[" * 100_000]
)
async def test_broken_json_is_refused(workshop, text):
    with pytest.raises(ConfigurationError, match=r"^lines:1: expected"):
        await workshop.open().threads.import_([text])
