"""Whatever a model's endpoint does, the run ends as the table says and its thread takes the next turn."""

import asyncio
import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, cast

import pytest
from endpoint_table import (
    GREETING,
    HANG_S,
    HELLO,
    MOST_ARGUMENT_BYTES,
    SWEEPS,
    TLS_ALERT,
    Outcome,
    Row,
    completed,
    lines,
    rows,
)

from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.providers import openai as provider_module
from treadle.providers.base import Endpoint
from treadle.providers.openai import OpenAIProvider
from treadle.testing.chat_server import Call, ChatServer, Hang, Raw, Reply, Turn, error_reply
from treadle.testing.fakes import FrozenClock
from treadle.text import clean

STUCK_S = 30.0
OPENING = Reply(calls=[Call("weather", '{"city": "Bergen"}', id="first")])
TABLE = "model endpoint faults"


class Waits(FrozenClock):
    """A clock whose waits take no time and are counted; after some of them a closed port opens."""

    def __init__(self) -> None:
        super().__init__()
        self.server: ChatServer | None = None
        self.refused = 0
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if self.server is not None and len(self.waits) == self.refused:
            await self.server.listen()
        await super().sleep(seconds)


class Table:
    """A strict endpoint, an agent that talks to it, and what happened."""

    def __init__(self, workshop: Any, row: Row) -> None:
        self.workshop = workshop
        self.row = row
        self.script: deque[Turn] = deque()
        self.ran: list[dict[str, Any]] = []
        self.clock = Waits()
        self.server = ChatServer(answer=self._answer, strict=True)
        self.tools = [self.weather, self.ping]
        self.providers: list[OpenAIProvider] = []

    def _answer(self, _: Any) -> Turn:
        return self.script.popleft() if self.script else error_reply(400, "nobody expected this request")

    async def weather(self, city: str, days: int = 1) -> str:
        """Tell the weather."""
        self.ran.append({"city": city} | ({} if days == 1 else {"days": days}))
        return f"rain in {city}"

    async def ping(self) -> str:
        """Answer."""
        self.ran.append({})
        return "pong"

    def treadle(self, base_url: str) -> Any:
        row = self.row
        endpoint = Endpoint(base_url, timeout_s=row.timeout_s, max_retries=row.max_retries)
        provider = OpenAIProvider(endpoint, clock=self.clock, jitter=lambda: 1.0)
        self.providers.append(provider)
        return self.workshop.open(providers={"openai": provider}, tools=[*self.tools, payroll])

    @contextlib.asynccontextmanager
    async def open(self, base_url: str) -> AsyncGenerator[None]:
        connections = {"default": {"type": "openai", "base_url": base_url}}
        spec = {"model": "gpt-x", "connections": connections, "instructions": "Be brief."}
        try:
            self.main = self.treadle(base_url)
            if any(c.name == "payroll" for t in self.row.turns if isinstance(t, Reply) for c in t.calls):
                await self.main.agents.create(name="clerk", tools=[payroll], **spec)
            self.agent = await self.main.agents.create(
                name="teller", tools=self.tools, **spec, **self.row.spec
            )
            yield
        finally:
            await self.workshop.close()
            for provider in self.providers:
                await provider.close()

    async def turn(self, treadle: Any, thread_id: str, *turns: Turn) -> Run:
        """Let the agent answer once; a run that does not end is stuck."""
        self.script = deque(turns)
        async with asyncio.timeout(STUCK_S):
            return await treadle.runs.create_and_wait(thread_id, agent=self.agent)

    async def thread(self) -> str:
        return (await self.main.threads.create(messages=[{"role": "user", "content": "Hello?"}])).id

    async def rows(self, thread_id: str) -> list[Message]:
        return await self.main.store.rows(self.main.tenant, thread_id, limit=100_000)


async def payroll(who: str) -> str:
    """Pay somebody: a tool that only the other agent has."""
    raise AssertionError(who)


@contextlib.asynccontextmanager
async def address_of(row: Row, server: ChatServer) -> AsyncGenerator[str]:
    """Give the address that a row's endpoint has."""
    if row.host not in ("alert", "hang"):
        yield f"{row.scheme}://{row.host}:{server.port}/v1"
        return

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speakers.append(cast("asyncio.Task[None]", asyncio.current_task()))
        await reader.read(1)
        if row.host == "alert":
            writer.write(TLS_ALERT)
        else:
            await left.wait()
        writer.close()

    speakers: list[asyncio.Task[None]] = []
    left = asyncio.Event()
    async with await asyncio.start_server(speak, "127.0.0.1", 0) as other:
        yield f"{row.scheme}://127.0.0.1:{other.sockets[0].getsockname()[1]}/v1"
        left.set()
        await asyncio.gather(*speakers)


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Answer names that end in .invalid here, so that no question leaves the machine."""
    ask, released = socket.getaddrinfo, threading.Event()

    def answer(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not name.endswith(".invalid"):
            return ask(host, *rest, **options)
        if name.startswith("silent"):
            released.wait(STUCK_S)
        if name.startswith("later"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return released


CASES = [
    pytest.param(section, row, is_later, id=f"{section}: {row.name}{', later' if is_later else ''}")
    for section, row in rows()
    for is_later in ((False, True) if row.later else (False,))
]


@pytest.mark.parametrize(("section", "row", "is_later"), CASES)
async def test_the_run_ends_as_the_table_says_and_the_thread_takes_the_next_turn(
    section: str,
    row: Row,
    is_later: bool,
    workshop: Any,
    resolver: threading.Event,
    record_property: Callable[[str, object], None],
) -> None:
    for name, value in (("table", TABLE), ("row", f"{section}: {row.name}"), ("runs", 1)):
        record_property(name, value)
    table = Table(workshop, row)
    before = asyncio.all_tasks()
    async with table.server as server, address_of(row, server) as address, table.open(address):
        thread_id = await table.thread()
        # A row whose endpoint cannot be reached cannot have an opening either: that one is another address's.
        opening = (OPENING,) if is_later and address == server.base_url and not row.refused else ()
        if row.refused:
            await server.refuse()
            table.clock.server, table.clock.refused = server, row.refused
        run = await table.turn(table.main, thread_id, *opening, *row.turns, *closing(row))
        await server.listen()
        resolver.set()
        await holds(table, run, thread_id, len(opening))
        await next_turn(table, thread_id, address)
    assert asyncio.all_tasks() <= before


def closing(row: Row) -> tuple[Turn, ...]:
    """Give the answer that follows results of tools, or one to spare where real time is short."""
    has_calls = row.outcome.ran or row.outcome.kind == "told"
    is_spare = row.timeout_s == HANG_S and row.outcome.kind == "retried"
    return (HELLO,) if has_calls or is_spare else ()


async def holds(table: Table, run: Run, thread_id: str, opened: int) -> None:
    """Hold a run that has ended against its row."""
    row, outcome, server = table.row, table.row.outcome, table.server
    assert server.objections == []
    held = await table.rows(thread_id)
    said = next((r.text for r in reversed(held) if r.role == "assistant" and not r.tool_calls), None)
    match outcome.kind:
        case "completed" | "retried" | "told":
            assert (run.status, run.last_error) == ("completed", None)
            assert said == outcome.text
        case "incomplete":
            assert (run.status, run.incomplete_reason) == ("incomplete", outcome.detail)
            assert (said or "") == outcome.text
        case "failed":
            assert run.status == "failed"
            assert run.last_error is not None
            assert (run.last_error.code, outcome.words in run.last_error.message) == (outcome.detail, True), (
                run.last_error
            )
            assert len(run.last_error.message) < 2000
    if outcome.kind == "retried" and row.timeout_s == HANG_S:
        assert opened + len(row.turns) <= len(server.requests) <= opened + len(row.turns) + 1
    elif outcome.kind == "retried":
        assert len(server.requests) == opened + len(row.turns)
        assert table.script == deque()
    else:
        assert table.script == deque()
    assert table.ran == [{"city": "Bergen"}] * opened + list(outcome.ran)
    if outcome.kind == "told":
        texts = [r.plain for r in held if r.role == "tool"]
        errors = [json.loads(t)["error"] for t in texts if t.startswith('{"error"')]
        assert len(errors) == len([c for r in held for c in r.tool_calls]) - len(table.ran)
        assert outcome.words in errors[0]
        assert all(len(e) < 2000 for e in errors)
        results = [m["content"] for m in server.requests[-1].messages if m["role"] == "tool"]
        assert sorted(results) == sorted(texts)
        steps = await table.main.store.steps(table.main.tenant, run.id)
        assert outcome.detail in [s.last_error.code for s in steps if s.last_error]
    keeps_arguments(row, held[opened * 2 :])


def keeps_arguments(row: Row, held: Sequence[Message]) -> None:
    """The thread keeps what the model wrote, and nothing that it did not write."""
    calls = [c for r in held if r.role == "assistant" for c in r.tool_calls]
    written = row.stored
    if written is None:
        written = [clean(c.arguments) for t in row.turns if isinstance(t, Reply) for c in t.calls]
    if written == ("cut",):
        [call] = calls
        assert 1000 < len(call.arguments) < MOST_ARGUMENT_BYTES
        [turn] = row.turns
        assert isinstance(turn, Reply)
        assert call.arguments[:1000] == turn.calls[0].arguments[:1000]
        return
    if row.stored is not None or (calls and written):
        assert [c.arguments for c in calls] == list(written)


async def next_turn(table: Table, thread_id: str, address: str) -> None:
    """Say something more to an endpoint that can be reached: being strict, it takes the whole history."""
    server, seen = table.server, len(table.server.requests)
    other = table.main if address == server.base_url else table.treadle(server.base_url)
    await other.messages.create(thread_id, role="user", content="And now?")
    run = await table.turn(other, thread_id, Reply("Next."))
    assert (run.status, server.objections) == ("completed", []), run.last_error
    sent = server.requests[seen].messages
    assert sent[-1] == {"role": "user", "content": "And now?"}
    kept = [c.arguments for r in await table.rows(thread_id) for c in r.tool_calls]
    told = [c["function"]["arguments"] for m in sent for c in m.get("tool_calls", ())]
    assert len(told) == len(kept) or "x" * 2**20 in table.row.outcome.text
    for before, after in zip(kept[-len(told) or len(kept) :], told, strict=True):
        assert after == before or json.loads(after) != {} or not before.strip()


SWEPT = [(name, body, outcome) for name, (body, outcome) in SWEEPS.items()]


@pytest.mark.parametrize(("name", "body", "outcome"), SWEPT, ids=[name for name, *_ in SWEPT])
async def test_a_recorded_stream_that_is_cut_at_any_byte_is_whole_or_nothing(
    name: str, body: bytes, outcome: Outcome, workshop: Any, record_property: Callable[[str, object], None]
) -> None:
    for key, value in (("table", TABLE), ("row", f"sweep: {name}"), ("runs", len(body))):
        record_property(key, value)
    row = Row(name, (), outcome, max_retries=1)
    table = Table(workshop, row)
    seen: set[str] = set()
    async with table.server as server, table.open(server.base_url):
        for at in range(len(body)):
            thread_id = await table.thread()
            table.ran.clear()
            before = len(server.requests)
            cut = Raw(body[:at], end="cut")
            run = await table.turn(table.main, thread_id, cut, *closing(row), HELLO)
            attempts = len(server.requests) - before
            if run.status == "completed":
                assert table.ran in ([], list(outcome.ran)), at
                said = [r.text for r in await table.rows(thread_id) if r.role == "assistant" and r.text]
                assert said == [GREETING], at
                seen.add("ran" if table.ran else "completed" if attempts == 1 else "retried")
            else:
                assert (run.status, run.last_error and run.last_error.code, table.ran) == (
                    "failed",
                    "connection",
                    [],
                ), at
                seen.add("failed")
            await table.main.messages.create(thread_id, role="user", content="And now?")
            again = await table.turn(table.main, thread_id, Reply("Next."))
            assert (again.status, server.objections) == ("completed", []), at
    assert seen == {"failed", "retried", "ran" if outcome.ran else "completed"}


async def test_a_reply_that_never_ends_is_left_even_where_nothing_bounds_the_request(
    workshop: Any, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setattr(provider_module, "LONGEST_ATTEMPT_S", 0.1)
    for key, value in (("table", TABLE), ("row", "connection: no timeout, and no end"), ("runs", 1)):
        record_property(key, value)
    row = Row("no end", (), completed(), timeout_s=None, max_retries=0)
    table = Table(workshop, row)
    drip = Raw([b": PROCESSING\n\n"] * 10_000, delay_s=0.005)
    async with table.server as server, table.open(server.base_url):
        for endless in (drip, Hang()):
            thread_id = await table.thread()
            run = await table.turn(table.main, thread_id, endless)
            assert (run.status, run.last_error and run.last_error.code) == ("failed", "timeout")
            await next_turn(table, thread_id, server.base_url)


def test_the_table_has_its_size_and_no_row_twice() -> None:
    names = [f"{section}: {row.name}" for section, row in rows()]
    assert len(names) == len(set(names)) >= 250
    assert len(list(lines())) == len(names) + len(SWEEPS)
