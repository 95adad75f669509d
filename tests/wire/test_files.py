"""Files and vector stores over HTTP: what the official clients do with them, and what nobody may."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from azure.ai.agents import AgentsClient
from azure.ai.agents.aio import AgentsClient as AsyncAgentsClient
from azure.ai.agents.models import CodeInterpreterTool, FilePurpose, FileSearchTool, MessageAttachment
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.policies import AzureKeyCredentialPolicy

from treadle.objects.project import ServeLimits, ServeSpec
from treadle.testing.served import Served, served

# The client's own warnings about its calls: that they go on being served is the point here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The Assistants API is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
]

MOST = 4 * 1024 * 1024
LARGE = bytes(range(256)) * 8192
ASSISTANTS = "assistants"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    spec = ServeSpec(limits=ServeLimits(file_bytes=MOST))
    with served(f"sqlite:///{folder}/treadle.db", project=folder, spec=spec) as found:
        yield found


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as found:
        yield found


def azure_options(server: Served, tenant: str) -> dict[str, Any]:
    credential = AzureKeyCredential("x")
    return {
        "endpoint": f"{server.url}/api/projects/{tenant}",
        "credential": credential,
        "authentication_policy": AzureKeyCredentialPolicy(credential, "api-key"),
    }


@pytest.fixture
def agents(server: Served) -> Iterator[AgentsClient]:
    with AgentsClient(**azure_options(server, "azure")) as found:
        yield found


@pytest.fixture
def raw(server: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"{server.url}/api/projects/raw", trust_env=False) as found:
        yield found


def contents(folder: Path) -> set[Path]:
    return {path for path in (folder / "files").rglob("*") if path.is_file()}


# -- the openai client ---------------------------------------------------------------------------------------------


def test_openai_uploads_reads_lists_and_deletes(client: openai.OpenAI) -> None:
    for content in (b"", b"hello", LARGE):
        file = client.files.create(file=("Grüße.txt", content), purpose=ASSISTANTS)
        assert (file.object, file.bytes, file.filename, file.status) == (
            "file",
            len(content),
            "Grüße.txt",
            "processed",
        )
        assert client.files.wait_for_processing(file.id) == file
        assert client.files.retrieve(file.id) == file
        assert client.files.content(file.id).read() == content
        assert file.id in [f.id for f in client.files.list(purpose=ASSISTANTS)]
        gone = client.files.delete(file.id)
        assert (gone.id, gone.deleted, gone.object) == (file.id, True, "file")
        with pytest.raises(openai.NotFoundError, match=f"No file found with id '{file.id}'"):
            client.files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            client.files.content(file.id)


def test_openai_walks_the_pages_of_files(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="evals").id for n in range(5)]
    assert [f.id for f in client.files.list(purpose="evals", limit=2)] == made[::-1]
    assert [f.id for f in client.files.list(purpose="evals", limit=2, order="asc")] == made
    assert [f.id for f in client.files.list(purpose="evals", after=made[2])] == made[1::-1]


def test_openai_lets_a_file_expire(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=("a.txt", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600


def test_openai_fills_a_vector_store(client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.md", b"# A"), purpose=ASSISTANTS)
    store = client.vector_stores.create(
        name="s",
        file_ids=[file.id],
        expires_after={"anchor": "last_active_at", "days": 3},
        metadata={"k": "v"},
    )
    assert (store.status, store.file_counts.completed, store.usage_bytes) == ("completed", 1, 3)
    assert store.expires_at == store.last_active_at + 3 * 86_400
    failed = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("b.pdf", b"%PDF-1.7"))
    assert failed.status == "failed"
    assert failed.last_error is not None
    assert failed.last_error.code == "unsupported_file"
    again = client.vector_stores.files.create_and_poll(
        file.id,
        vector_store_id=store.id,
        attributes={"n": 1.5, "b": True, "t": "x"},
        chunking_strategy={
            "type": "static",
            "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100},
        },
    )
    assert again.attributes == {"n": 1.5, "b": True, "t": "x"}
    assert again.chunking_strategy.static.max_chunk_size_tokens == 200
    changed = client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes={"z": "y"})
    assert changed.attributes == {"z": "y"}
    page = client.vector_stores.files.content(file.id, vector_store_id=store.id)
    assert [piece.text for piece in page] == ["# A"]
    listed = client.vector_stores.files.list(store.id, filter="completed", limit=1)
    assert [f.id for f in listed] == [file.id]
    assert client.vector_stores.update(store.id, name="t").name == "t"
    assert (
        client.vector_stores.files.delete(file.id, vector_store_id=store.id).object
        == "vector_store.file.deleted"
    )
    assert client.files.retrieve(file.id).id == file.id
    assert client.vector_stores.delete(store.id).object == "vector_store.deleted"
    with pytest.raises(openai.NotFoundError, match="No vector store found"):
        client.vector_stores.retrieve(store.id)


def test_openai_puts_a_batch_into_a_vector_store(client: openai.OpenAI) -> None:
    store = client.vector_stores.create()
    assert store.name == ""
    batch = client.vector_stores.file_batches.upload_and_poll(
        store.id, files=[("a.py", b"x = 1"), ("b.bin", b"\x00")]
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == ("completed", 1, 1)
    files = list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id))
    assert {f.status for f in files} == {"completed", "failed"}
    assert all(f.vector_store_id == store.id for f in files)
    cancelled = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    assert cancelled.status == "completed"


def test_a_search_says_that_it_is_not_there_yet(client: openai.OpenAI) -> None:
    store = client.vector_stores.create()
    with pytest.raises(openai.BadRequestError, match="cannot be searched on this server yet"):
        client.vector_stores.search(store.id, query="x")


def test_a_text_longer_than_a_page_comes_in_pages(client: openai.OpenAI, raw: httpx2.Client) -> None:
    said = "".join(f"{n:07d}\n" for n in range(300_000))
    file = raw.post("/files", files={"file": ("a.txt", said.encode())}, data={"purpose": ASSISTANTS}).json()
    store = raw.post("/vector_stores", json={"file_ids": [file["id"]]}).json()
    page, found = "1", ""
    while page:
        answer = raw.get(
            f"/vector_stores/{store['id']}/files/{file['id']}/content", params={"page": page}
        ).json()
        found += "".join(piece["text"] for piece in answer["data"])
        page = answer["next_page"]
        assert answer["has_more"] == bool(page)
    assert found == said


def test_attachments_feed_the_thread_over_http(client: openai.OpenAI) -> None:
    file = client.files.create(file=("a.txt", b"x"), purpose=ASSISTANTS)
    tools: Any = [{"type": "file_search"}, {"type": "code_interpreter"}]
    thread = client.beta.threads.create(
        messages=[{"role": "user", "content": "x", "attachments": [{"file_id": file.id, "tools": tools}]}]
    )
    assert thread.tool_resources is not None
    assert thread.tool_resources.code_interpreter is not None
    assert thread.tool_resources.code_interpreter.file_ids == [file.id]
    assert thread.tool_resources.file_search is not None
    (store_id,) = thread.tool_resources.file_search.vector_store_ids or ()
    store = client.vector_stores.retrieve(store_id)
    assert store.expires_after is not None
    assert store.expires_after.days == 7
    message = client.beta.threads.messages.list(thread.id).data[0]
    assert message.attachments is not None
    assert message.attachments[0].file_id == file.id
    with pytest.raises(openai.BadRequestError, match="No file found with id 'file-none'"):
        client.beta.threads.messages.create(
            thread.id, role="user", content="x", attachments=[{"file_id": "file-none", "tools": tools}]
        )
    assistant = client.beta.assistants.create(
        model="offline", tool_resources={"file_search": {"vector_stores": [{"file_ids": [file.id]}]}}
    )
    assert assistant.tool_resources is not None
    assert assistant.tool_resources.file_search is not None
    assert len(assistant.tool_resources.file_search.vector_store_ids or ()) == 1


# -- azure's client ------------------------------------------------------------------------------------------------


def test_azure_uploads_reads_lists_and_deletes(agents: AgentsClient, tmp_path: Path) -> None:
    path = tmp_path / "from disk.txt"
    path.write_text("on disk")
    by_path = agents.files.upload_and_poll(file_path=str(path), purpose=FilePurpose.AGENTS)
    assert (by_path.filename, by_path.bytes, by_path.status) == ("from disk.txt", 7, "processed")
    named = agents.files.upload(file=io.BytesIO(b"bytes"), purpose="assistants", filename="some/where.txt")
    assert named.filename == "where.txt"
    nameless = agents.files.upload(file=io.BytesIO(b"bytes"), purpose=FilePurpose.VISION)
    assert nameless.filename
    assert b"".join(agents.files.get_content(by_path.id)) == b"on disk"
    assert {f.id for f in agents.files.list().data} == {by_path.id, named.id, nameless.id}
    assert [f.id for f in agents.files.list(purpose=FilePurpose.VISION).data] == [nameless.id]
    assert agents.files.get(named.id).filename == "where.txt"
    for file in (by_path, named, nameless):
        agents.files.delete(file.id)
    assert agents.files.list().data == []
    with pytest.raises(ResourceNotFoundError):
        agents.files.get(named.id)


def test_azure_fills_a_vector_store(agents: AgentsClient) -> None:
    files = [
        agents.files.upload(file=io.BytesIO(b"x"), purpose="assistants", filename=f"{n}.txt")
        for n in range(3)
    ]
    store = agents.vector_stores.create_and_poll(file_ids=[files[0].id], name="s", polling_interval=0.01)
    assert (store.status, store.file_counts.completed) == ("completed", 1)
    link = agents.vector_store_files.create_and_poll(
        vector_store_id=store.id, file_id=files[1].id, polling_interval=0.01
    )
    assert link.status == "completed"
    batch = agents.vector_store_file_batches.create_and_poll(
        vector_store_id=store.id, file_ids=[f.id for f in files], polling_interval=0.01
    )
    assert (batch.status, batch.file_counts.total) == ("completed", 3)
    in_batch = agents.vector_store_file_batches.list_files(vector_store_id=store.id, batch_id=batch.id)
    assert {f.id for f in in_batch} == {f.id for f in files}
    assert {f.id for f in agents.vector_store_files.list(store.id, limit=2)} == {f.id for f in files}
    assert store.id in {s.id for s in agents.vector_stores.list()}
    assert agents.vector_stores.modify(store.id, name="t").name == "t"
    agents.vector_store_files.delete(store.id, files[0].id)
    agents.vector_stores.delete(store.id)
    with pytest.raises(HttpResponseError):
        agents.vector_stores.get(store.id)


def test_azure_attaches_a_file_to_a_message(agents: AgentsClient) -> None:
    file = agents.files.upload(file=io.BytesIO(b"x"), purpose="assistants", filename="a.txt")
    thread = agents.threads.create()
    tools = [*FileSearchTool().definitions, *CodeInterpreterTool().definitions]
    message = agents.messages.create(
        thread.id, role="user", content="x", attachments=[MessageAttachment(file_id=file.id, tools=tools)]
    )
    assert message.attachments[0].file_id == file.id
    resources = agents.threads.get(thread.id).tool_resources
    assert resources.code_interpreter.file_ids == [file.id]
    assert len(resources.file_search.vector_store_ids) == 1


def test_azures_asynchronous_client_uploads_too(server: Served) -> None:
    async def talk() -> None:
        async with AsyncAgentsClient(**azure_options(server, "azure-async")) as agents:
            file = await agents.files.upload_and_poll(
                file=io.BytesIO(b"bytes"),
                purpose="assistants",
                filename="some/Grüße.txt",
                polling_interval=0.01,
            )
            assert file.filename == "Grüße.txt"
            content = await agents.files.get_content(file.id)
            assert b"".join([piece async for piece in content]) == b"bytes"
            store = await agents.vector_stores.create_and_poll(file_ids=[file.id], polling_interval=0.01)
            assert store.file_counts.completed == 1
            await agents.files.delete(file.id)

    asyncio.run(talk())


# -- what nobody may -----------------------------------------------------------------------------------------------


def upload(raw: httpx2.Client, content: bytes = b"x", **fields: str) -> httpx2.Response:
    return raw.post("/files", files={"file": ("a.txt", content)}, data={"purpose": ASSISTANTS} | fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fun"}, None),
        ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "10"}, None),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_form_that_does_not_fit_is_refused_and_leaves_nothing(
    raw: httpx2.Client, folder: Path, fields: dict[str, str], param: str | None
) -> None:
    before, listed = contents(folder), raw.get("/files").json()
    answer = upload(raw, LARGE, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert raw.get("/files").json() == listed
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("parts", "missing"),
    [({"purpose": (None, ASSISTANTS)}, "file"), ({"file": ("a", b"x")}, "purpose")],
)
def test_a_form_without_one_of_its_parts_is_refused(
    raw: httpx2.Client, parts: dict[str, Any], missing: str
) -> None:
    answer = raw.post("/files", files=parts)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": f"Missing required parameter: '{missing}'.",
        "type": "invalid_request_error",
        "param": missing,
        "code": "missing_required_parameter",
    }


def test_a_body_that_is_no_form_is_refused(raw: httpx2.Client) -> None:
    for content, kind in (
        (b"{}", "application/json"),
        (b"", None),
        (b"--B", "multipart/form-data; boundary=B"),
    ):
        headers = {"content-type": kind} if kind else {}
        answer = raw.post("/files", content=content, headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(raw: httpx2.Client, folder: Path) -> None:
    before = contents(folder)
    assert upload(raw, bytes(MOST)).status_code == 200
    kept = contents(folder)
    assert len(kept - before) == 1
    for size in (MOST + 1, 2 * MOST):
        answer = upload(raw, bytes(size))
        assert answer.status_code == 413
        assert answer.json()["error"]["message"] == f"The file is too large: a file has at most {MOST} bytes."
    assert contents(folder) == kept


def test_a_file_whose_size_is_not_said_is_held_to_the_limit_as_well(raw: httpx2.Client, folder: Path) -> None:
    before = contents(folder)

    def body() -> Iterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(2 * MOST // 65_536):
            yield bytes(65_536)
        yield b"\r\n--B--\r\n"

    answer = raw.post("/files", content=body(), headers={"content-type": "multipart/form-data; boundary=B"})
    assert answer.status_code == 413
    assert contents(folder) == before


def test_a_client_that_goes_away_leaves_nothing(server: Served, folder: Path) -> None:
    before = contents(folder)

    async def talk() -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = (
            "POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=B\r\n"
            "content-length: 3000000\r\n\r\n"
        )
        part = '--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        writer.write(head.encode() + part.encode() + bytes(2_000_000))
        await writer.drain()
        while contents(folder) == before:
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        while contents(folder) != before:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_contents_are_to_be_kept_never_to_be_shown(raw: httpx2.Client) -> None:
    page = b"<script>alert(1)</script>"
    made = raw.post(
        "/files", files={"file": ('a"\n.html', page, "text/html")}, data={"purpose": ASSISTANTS}
    ).json()
    answer = raw.get(f"/files/{made['id']}/content")
    assert answer.content == page
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment;")


def test_a_repeat_of_an_upload_gives_the_first_file(raw: httpx2.Client) -> None:
    headers = {"idempotency-key": "upload-1"}
    parts: dict[str, Any] = {"file": ("a.txt", LARGE)}
    made = [
        raw.post("/files", files=parts, data={"purpose": ASSISTANTS}, headers=headers).json()
        for _ in range(2)
    ]
    assert made[0] == made[1]
    other = raw.post("/files", files={"file": ("b.txt", b"x")}, data={"purpose": ASSISTANTS}, headers=headers)
    assert other.status_code == 400


def test_an_id_that_azures_client_sends_with_everything_hides_no_upload(raw: httpx2.Client) -> None:
    headers = {"x-ms-client-request-id": "one-for-all"}
    made = [
        raw.post(
            "/files", files={"file": ("a.txt", content)}, data={"purpose": ASSISTANTS}, headers=headers
        ).json()
        for content in (b"one", b"two", b"two")
    ]
    assert made[0]["id"] != made[1]["id"] == made[2]["id"]


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "x"])
def test_a_limit_that_is_none_is_refused(raw: httpx2.Client, limit: str) -> None:
    assert raw.get("/files", params={"limit": limit}).status_code == 400
    assert raw.get("/files", params={"purpose": "fun"}).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/vector_stores", {"file_ids": ["../x"]}, "file_ids.0"),
        ("/vector_stores", {"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
        ("/vector_stores", {"configuration": {"data_sources": []}}, "configuration"),
        ("/vector_stores", {"chunking_strategy": {"type": "static"}}, "chunking_strategy"),
        ("/vector_stores/{v}", {"metadata": {"k": 1}}, "metadata.k"),
        ("/vector_stores/{v}/files", {}, "file_id"),
        ("/vector_stores/{v}/files", {"file_id": "x", "attributes": {"k": []}}, None),
        ("/vector_stores/{v}/file_batches", {}, None),
        ("/vector_stores/{v}/file_batches", {"file_ids": ["a"], "files": [{"file_id": "b"}]}, "files"),
        ("/vector_stores/{v}/search", {}, "query"),
    ],
)
def test_bodies_that_do_not_fit_are_refused(
    raw: httpx2.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    store = raw.post("/vector_stores", json={}).json()
    answer = raw.post(path.replace("{v}", store["id"]), json=body)
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


def test_another_tenants_files_are_not_found(server: Served, raw: httpx2.Client) -> None:
    file = upload(raw).json()["id"]
    store = raw.post("/vector_stores", json={"file_ids": [file]}).json()["id"]
    batch = raw.post(f"/vector_stores/{store}/file_batches", json={"file_ids": [file]}).json()["id"]
    with httpx2.Client(base_url=f"{server.url}/api/projects/foreign", trust_env=False) as foreign:
        own = upload(foreign).json()["id"]
        for method, path, body in (
            ("GET", f"/files/{file}", None),
            ("GET", f"/files/{file}/content", None),
            ("DELETE", f"/files/{file}", None),
            ("GET", f"/vector_stores/{store}", None),
            ("POST", f"/vector_stores/{store}", {"name": "x"}),
            ("DELETE", f"/vector_stores/{store}", None),
            ("POST", f"/vector_stores/{store}/search", {"query": "x"}),
            ("POST", f"/vector_stores/{store}/files", {"file_id": own}),
            ("GET", f"/vector_stores/{store}/files", None),
            ("GET", f"/vector_stores/{store}/files/{file}", None),
            ("POST", f"/vector_stores/{store}/files/{file}", {"attributes": {}}),
            ("DELETE", f"/vector_stores/{store}/files/{file}", None),
            ("GET", f"/vector_stores/{store}/files/{file}/content", None),
            ("POST", f"/vector_stores/{store}/file_batches", {"file_ids": [own]}),
            ("GET", f"/vector_stores/{store}/file_batches/{batch}", None),
            ("POST", f"/vector_stores/{store}/file_batches/{batch}/cancel", None),
            ("GET", f"/vector_stores/{store}/file_batches/{batch}/files", None),
        ):
            answer = (
                foreign.request(method, path, json=body)
                if body is not None
                else foreign.request(method, path)
            )
            assert answer.status_code == 404, (method, path, answer.text)
        assert [f["id"] for f in foreign.get("/files").json()["data"]] == [own]
        assert foreign.get("/vector_stores").json()["data"] == []
    assert raw.get(f"/vector_stores/{store}").json()["file_counts"]["total"] == 1
