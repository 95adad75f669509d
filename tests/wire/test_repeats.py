"""What the SDKs repeat by themselves counts once: the real server, behind a gateway that loses its first answer."""

import contextlib
import json
import socket
import socketserver
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx2
import pytest
from azure.ai.agents import AgentsClient
from azure.core.credentials import AzureKeyCredential
from openai import OpenAI

from treadle.azure import local_client_kwargs
from treadle.objects.project import ServeSpec
from treadle.testing.fakes import ScriptedProvider
from treadle.testing.served import Served, served

Fault = Literal["lost", "cut", "hasty", "503", "504"]
"""What becomes of an answer: it is read whole and thrown away; half of it is handed on; it is not waited for; another
one is given in its place."""


class Message(NamedTuple):
    """A request or an answer, as bytes."""

    head: bytes
    body: bytes
    is_chunked: bool


def read_message(file: Any) -> Message | None:
    """Read a message; one that comes in chunks only as far as its head."""
    lines: list[bytes] = []
    while (line := file.readline()).strip():
        lines.append(line)
    if not lines:
        return None
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(b":") for line in lines[1:])}
    is_chunked = headers.get(b"transfer-encoding") == b"chunked"
    body = b"" if is_chunked else file.read(int(headers.get(b"content-length", b"0")))
    return Message(b"".join(lines) + b"\r\n", body, is_chunked)


class Gateway(socketserver.ThreadingTCPServer):
    """Hands everything on, but for the answers to the first requests that change something."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.upstream = ("127.0.0.1", 0)
        self.faults: deque[Fault] = deque()
        self.on_fault: Callable[[], None] = lambda: None
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def lead_to(self, server: Served) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self.upstream = (host, int(port))

    def fault_of(self, request: Message) -> Fault | None:
        method, path = request.head.split(b" ", 2)[:2]
        if method == b"GET":
            return None
        with self.lock:
            self.sent[path.partition(b"?")[0].decode().rpartition("/")[2]] += 1
            return self.faults.popleft() if self.faults else None


class _Passage(socketserver.StreamRequestHandler):
    server: Gateway

    def handle(self) -> None:
        self.upstream: socket.socket | None = None
        try:
            while (request := read_message(self.rfile)) is not None:
                fault = self.server.fault_of(request)
                with contextlib.suppress(OSError):
                    if not self._pass_on(request, fault):
                        return
        finally:
            self._leave()

    def _pass_on(self, request: Message, fault: Fault | None) -> bool:
        """Hand a request on, and what comes back; tell whether the connection lives on."""
        if self.upstream is None:
            self.upstream = socket.create_connection(self.server.upstream)
            self.answers = self.upstream.makefile("rb")
        self.upstream.sendall(request.head + request.body)
        return self._answer(fault, self.answers)

    def _leave(self) -> None:
        if self.upstream is not None:
            self.answers.close()
            self.upstream.close()
            self.upstream = None

    def _answer(self, fault: Fault | None, answers: Any) -> bool:
        if fault == "hasty":
            return False
        answer = read_message(answers)
        if answer is None:
            return False
        if fault is None:
            self.wfile.write(answer.head + answer.body)
            while answer.is_chunked and (piece := answers.read1()):
                self.wfile.write(piece)
                if piece.endswith(b"0\r\n\r\n"):
                    break
            return True
        self._leave()
        self.server.on_fault()
        if fault == "lost":
            return False
        if fault == "cut":
            self.wfile.write(answer.head + answer.body[: len(answer.body) // 2])
            return False
        self.wfile.write(f"HTTP/1.1 {fault} Gateway\r\ncontent-length: 0\r\n\r\n".encode())
        return True


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Give a gateway that leads nowhere yet."""
    found = Gateway()
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


CALL = {"calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Shop:
    """A server over a file, and a gateway before it; the server can be started anew."""

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.gateway = gateway
        self.script: list[Any] = ["fine"] * 20
        self.server = self.start()

    def start(self, **serve: Any) -> Served:
        self.server = self._stack.enter_context(
            served(
                f"sqlite:///{self._folder / 'treadle.db'}",
                project=self._folder,
                providers={"scripted": ScriptedProvider(list(self.script))},
                spec=ServeSpec(**serve),
            )
        )
        self.gateway.lead_to(self.server)
        return self.server

    def restart(self) -> None:
        self.close()
        self.start()

    def close(self) -> None:
        self._stack.close()

    def get(self, path: str) -> Any:
        response = httpx2.get(f"{self.server.url}{path}")
        assert response.status_code == 200, response.text
        return response.json()

    def count(self, path: str) -> int:
        return len(self.get(f"{path}?limit=100")["data"])

    def metric(self, series: str) -> float:
        text = httpx2.get(f"{self.server.url}/metrics").text
        found = [line for line in text.splitlines() if line.startswith(f"{series} ")]
        return float(found[0].split()[-1]) if found else 0.0


@pytest.fixture
def shop(tmp_path: Path, gateway: Gateway) -> Iterator[Shop]:
    """Give a server behind the gateway."""
    found = Shop(tmp_path, gateway)
    yield found
    found.close()


class ByOpenAI:
    """The calls that make something, by the openai SDK."""

    faults: tuple[Fault, ...] = ("lost", "cut", "hasty", "503", "504")
    kind = "retry_count"

    def __init__(self, url: str) -> None:
        self.client = OpenAI(base_url=f"{url}/v1", api_key="k")

    def agent(self) -> str:
        return self.client.beta.assistants.create(model="scripted", name="a", tools=[TOOL]).id  # pyright: ignore

    def thread(self) -> str:
        return self.client.beta.threads.create(messages=[{"role": "user", "content": "first"}]).id

    def message(self, thread: str) -> str:
        return self.client.beta.threads.messages.create(thread, role="user", content="more").id

    def run(self, thread: str, agent: str) -> str:
        return self.client.beta.threads.runs.create(thread, assistant_id=agent).id

    def thread_and_run(self, agent: str) -> str:
        return self.client.beta.threads.create_and_run(assistant_id=agent).id

    def submit(self, thread: str, run: str, outputs: list[Any]) -> str:
        return self.client.beta.threads.runs.submit_tool_outputs(
            run, thread_id=thread, tool_outputs=outputs
        ).id

    def delete(self, thread: str) -> bool:
        return self.client.beta.threads.delete(thread).deleted

    def cancel(self, thread: str, run: str) -> str:
        return self.client.beta.threads.runs.cancel(run, thread_id=thread).status

    def streamed(self, thread: str, agent: str) -> list[str]:
        with self.client.beta.threads.runs.stream(thread_id=thread, assistant_id=agent) as stream:
            return [event.event for event in stream]

    def submit_streamed(self, thread: str, run: str, outputs: list[Any]) -> list[str]:
        with self.client.beta.threads.runs.submit_tool_outputs_stream(
            run_id=run, thread_id=thread, tool_outputs=outputs
        ) as stream:
            return [event.event for event in stream]

    def close(self) -> None:
        self.client.close()


class ByAzure:
    """The same by azure-ai-agents."""

    faults: tuple[Fault, ...] = ("503", "504")
    kind = "client_request_id"

    def __init__(self, url: str) -> None:
        self.client: Any = AgentsClient(
            f"{url}/api/projects/default",
            AzureKeyCredential("k"),  # pyright: ignore[reportArgumentType] - it is not asked
            retry_backoff_factor=0,
            **local_client_kwargs("k"),
        )

    def agent(self) -> str:
        return self.client.create_agent(model="scripted", name="a", tools=[TOOL]).id

    def thread(self) -> str:
        return self.client.threads.create(messages=[{"role": "user", "content": "first"}]).id

    def message(self, thread: str) -> str:
        return self.client.messages.create(thread, role="user", content="more").id

    def run(self, thread: str, agent: str) -> str:
        return self.client.runs.create(thread, agent_id=agent).id

    def thread_and_run(self, agent: str) -> str:
        return self.client.create_thread_and_run(agent_id=agent).id

    def submit(self, thread: str, run: str, outputs: list[Any]) -> str:
        return self.client.runs.submit_tool_outputs(thread, run, tool_outputs=outputs).id

    def delete(self, thread: str) -> bool:
        self.client.threads.delete(thread)
        return True

    def cancel(self, thread: str, run: str) -> str:
        return self.client.runs.cancel(thread, run).status

    def streamed(self, thread: str, agent: str) -> list[str]:
        with self.client.runs.stream(thread, agent_id=agent) as stream:
            return [str(name) for name, *_ in stream]

    def close(self) -> None:
        self.client.close()


CLIENTS = {"openai": ByOpenAI, "azure": ByAzure}
CASES = [
    pytest.param(client, fault, id=f"{name}-{fault}")
    for name, client in CLIENTS.items()
    for fault in client.faults
]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    # The waits between attempts, not their number.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.05)


@contextlib.contextmanager
def by(client: Any, shop: Shop) -> Generator[Any]:
    found = client(shop.gateway.url)
    try:
        yield found
    finally:
        found.close()


def until_rest(shop: Shop, thread: str, run: str) -> Any:
    """Wait until a run has ended or waits for its client."""
    shop.server.do(shop.server.treadle.runs.wait(run))
    return shop.get(f"/threads/{thread}/runs/{run}")


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(("client", "fault"), CASES)
def test_one_call_makes_one_object(shop: Shop, client: Any, fault: Fault) -> None:
    with by(client, shop) as sdk:
        for n in range(2):
            shop.gateway.faults.extend([fault] * n)
            agent = sdk.agent()
            shop.gateway.faults.extend([fault] * n)
            thread = sdk.thread()
            shop.gateway.faults.extend([fault] * n)
            message = sdk.message(thread)
            shop.gateway.faults.extend([fault] * n)
            run = sdk.run(thread, agent)
            assert until_rest(shop, thread, run)["status"] == "completed"
            assert not shop.gateway.faults
            assert shop.count("/assistants") == shop.count("/threads") == n + 1
            assert shop.count(f"/threads/{thread}/messages") == 3
            assert shop.get(f"/threads/{thread}/messages/{message}")["content"][0]["text"]["value"] == "more"
            assert [r["id"] for r in shop.get(f"/threads/{thread}/runs")["data"]] == [run]
    assert dict(shop.gateway.sent) == {"assistants": 3, "threads": 3, "messages": 3, "runs": 3}
    assert shop.metric(f'treadle_repeats_total{{kind="{client.kind}"}}') == 4


@pytest.mark.parametrize(("client", "fault"), CASES)
def test_outputs_are_submitted_once(shop: Shop, client: Any, fault: Fault) -> None:
    shop.script[:] = [CALL, "sunny"]
    shop.restart()
    with by(client, shop) as sdk:
        thread, agent = sdk.thread(), sdk.agent()
        run = sdk.run(thread, agent)
        waiting = until_rest(shop, thread, run)
        (call,) = waiting["required_action"]["submit_tool_outputs"]["tool_calls"]
        shop.gateway.faults.append(fault)
        assert sdk.submit(thread, run, [{"tool_call_id": call["id"], "output": "24 degrees"}]) == run
    assert until_rest(shop, thread, run)["status"] == "completed"
    assert shop.gateway.sent["submit_tool_outputs"] == 2


@pytest.mark.parametrize(("client", "fault"), CASES)
def test_a_thread_and_its_run_are_made_once(shop: Shop, client: Any, fault: Fault) -> None:
    with by(client, shop) as sdk:
        agent = sdk.agent()
        shop.gateway.faults.append(fault)
        run = sdk.thread_and_run(agent)
    (thread,) = shop.get("/threads")["data"]
    assert [r["id"] for r in shop.get(f"/threads/{thread['id']}/runs")["data"]] == [run]


@pytest.mark.parametrize(("client", "fault"), CASES)
def test_what_is_deleted_or_cancelled_twice_is_no_error(shop: Shop, client: Any, fault: Fault) -> None:
    shop.script[:] = [CALL]
    shop.restart()
    with by(client, shop) as sdk:
        thread, agent = sdk.thread(), sdk.agent()
        run = sdk.run(thread, agent)
        until_rest(shop, thread, run)
        shop.gateway.faults.append(fault)
        assert sdk.cancel(thread, run) in ("cancelling", "cancelled")
        until_rest(shop, thread, run)
        shop.gateway.faults.append(fault)
        assert sdk.delete(thread)
    assert shop.count("/threads") == 0


@pytest.mark.parametrize(
    ("client", "fault"), [case for case in CASES if case.values[1] not in ("cut", "hasty")]
)
def test_the_repeat_of_a_stream_follows_the_run_that_the_first_began(
    shop: Shop, client: Any, fault: Fault
) -> None:
    with by(client, shop) as sdk:
        thread, agent = sdk.thread(), sdk.agent()
        shop.gateway.faults.append(fault)
        told = sdk.streamed(thread, agent)
    assert told[0] == "thread.run.created"
    assert "thread.message.completed" in told
    assert told[-1] in ("done", "thread.run.completed")
    assert shop.count(f"/threads/{thread}/runs") == 1
    assert shop.gateway.sent["runs"] == 2


def test_the_repeat_of_submitted_outputs_follows_the_run_from_there(shop: Shop) -> None:
    shop.script[:] = [CALL, CALL, "sunny"]
    shop.restart()
    with by(ByOpenAI, shop) as sdk:
        thread, agent = sdk.thread(), sdk.agent()
        run = sdk.run(thread, agent)
        told: list[list[str]] = []
        for fault in (None, "lost"):
            waiting = until_rest(shop, thread, run)
            (call,) = waiting["required_action"]["submit_tool_outputs"]["tool_calls"]
            shop.gateway.faults.extend([fault] if fault else [])
            told.append(
                sdk.submit_streamed(thread, run, [{"tool_call_id": call["id"], "output": "24 degrees"}])
            )
    for events in told:
        assert events[:2] == ["thread.run.step.completed", "thread.run.queued"]
        assert events.count("thread.run.queued") == 1
    assert told[0][-1] == "thread.run.requires_action"
    assert told[1][-1] == "thread.run.completed"
    assert shop.gateway.sent["submit_tool_outputs"] == 3


@pytest.mark.parametrize("what", ["agent", "thread", "message", "run", "submit"])
def test_azures_repeat_counts_once_though_the_server_started_anew_in_between(shop: Shop, what: str) -> None:
    shop.script[:] = [CALL, "sunny"]
    shop.restart()
    with by(ByAzure, shop) as sdk:
        agent, thread = sdk.agent(), sdk.thread()
        waiting: Any = None
        if what == "submit":
            waiting = until_rest(shop, thread, sdk.run(thread, agent))
        shop.script[:] = ["sunny"]
        shop.gateway.on_fault = shop.restart
        shop.gateway.faults.append("503")
        match what:
            case "agent":
                sdk.agent()
            case "thread":
                sdk.thread()
            case "message":
                sdk.message(thread)
            case "run":
                sdk.run(thread, agent)
            case _:
                (call,) = waiting["required_action"]["submit_tool_outputs"]["tool_calls"]
                outputs = [{"tool_call_id": call["id"], "output": "24 degrees"}]
                assert sdk.submit(thread, waiting["id"], outputs) == waiting["id"]
                assert until_rest(shop, thread, waiting["id"])["status"] == "completed"
    assert shop.count("/assistants") == (2 if what == "agent" else 1)
    assert shop.count("/threads") == (2 if what == "thread" else 1)
    if what in ("message", "run"):
        assert shop.count(f"/threads/{thread}/{what}s") == (2 if what == "message" else 1)


def test_azures_repeat_of_an_upload_counts_once_and_the_same_file_uploaded_twice_counts_twice(
    shop: Shop, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    with by(ByAzure, shop) as sdk:
        for n in range(1, 3):
            shop.gateway.faults.append("503")
            sdk.client.files.upload(file_path=str(file), purpose="assistants")
            assert len(shop.get("/files")["data"]) == n
    assert shop.gateway.sent["files"] == 4


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_who_says_a_thing_twice_has_said_it_twice(shop: Shop, client: Any) -> None:
    with by(client, shop) as sdk:
        thread = sdk.thread()
        assert len({sdk.message(thread) for _ in range(3)}) == 3
    assert shop.count(f"/threads/{thread}/messages") == 4


def test_many_callers_who_ask_for_the_same_each_get_their_own_though_answers_are_lost(shop: Shop) -> None:
    shop.gateway.faults.extend(["lost", "cut", "hasty"] * 3)

    with by(ByOpenAI, shop) as sdk, ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: sdk.client.beta.threads.create().id, range(24)))
    assert len(set(made)) == 24
    assert shop.count("/threads") == 24


def test_a_named_request_counts_once_and_its_name_is_refused_for_another(shop: Shop) -> None:
    headers = {"idempotency-key": "mine"}
    url = f"{shop.server.url}/threads"
    first = httpx2.post(url, json={"metadata": {"a": "1"}}, headers=headers)
    again = httpx2.post(url, json={"metadata": {"a": "1"}}, headers=headers)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    shop.restart()
    url = f"{shop.server.url}/threads"
    assert httpx2.post(url, json={"metadata": {"a": "1"}}, headers=headers).json() == first.json()
    for _ in range(2):
        refused = httpx2.post(url, json={"metadata": {"a": "2"}}, headers=headers)
        assert refused.status_code == 400
        assert refused.headers["x-should-retry"] == "false"
        shop.restart()
        url = f"{shop.server.url}/threads"
    assert shop.count("/threads") == 1


def test_guessing_can_be_turned_off(shop: Shop) -> None:
    shop.close()
    shop.start(deduplicate_retries=False)
    with by(ByOpenAI, shop) as sdk:
        shop.gateway.faults.append("lost")
        sdk.thread()
    headers = {"idempotency-key": "mine"}
    for _ in range(2):
        httpx2.post(f"{shop.server.url}/threads", content=json.dumps({}), headers=headers | JSON)
    assert shop.count("/threads") == 3


JSON = {"content-type": "application/json"}
