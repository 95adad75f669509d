"""Which requests are repeats of which, and what they are answered."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from treadle.server.problems import Problem
from treadle.server.replay import (
    CUT_S,
    KEPT_S,
    MOST_ANSWER_BYTES,
    REPLAYED,
    Client,
    Replays,
    durable_of,
    key_of,
)
from treadle.testing.fakes import FrozenClock

HERE: Client = ("127.0.0.1", 1)
THERE: Client = ("127.0.0.1", 2)
ELSEWHERE: Client = ("127.0.0.1", 3)


class World:
    """A server that makes an object for every request that it carries out, and clients that ask it."""

    def __init__(self, **options: Any) -> None:
        self.clock = FrozenClock()
        self.repeats: list[str] = []
        self.replays = Replays(self.clock, on_repeat=self.repeats.append, **options)
        self.asked: list[str | None] = []

    def key(
        self, client: Client | None = HERE, *, body: bytes = b"{}", key_id: str = "k", **headers: str
    ) -> Any:
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return key_of("POST", "/threads", headers=sent, tenant="t", key_id=key_id, body=body, client=client)

    def give(
        self, response: Callable[[], Response] | None = None
    ) -> Callable[[str | None], Awaitable[Response]]:
        async def carry_out(durable: str | None) -> Response:
            self.asked.append(durable)
            return response() if response else Response(f"object {len(self.asked)}")

        return carry_out

    async def ask(self, client: Client | None = HERE, *, give: Any = None, **fields: Any) -> Response:
        self.replays.heard(client)
        return await self.replays.answer(self.key(client, **fields), give or self.give())

    async def openai(self, client: Client = HERE, *, retry: int = 0, **fields: Any) -> bytes:
        response = await self.ask(client, x_stainless_retry_count=str(retry), **fields)
        return bytes(response.body)

    async def azure(self, client: Client = HERE, *, id_: str = "one", **fields: Any) -> bytes:
        response = await self.ask(client, x_ms_client_request_id=id_, **fields)
        return bytes(response.body)


@pytest.fixture(params=[False, True], ids=["blind", "seeing"])
def world(request: pytest.FixtureRequest) -> World:
    """Give a world that hears of connections that end, and one that does not."""
    return World(sees_connections=request.param)


# -- what names a request ------------------------------------------------------------------------------------


def test_a_request_without_any_name_is_told_from_no_other() -> None:
    assert World().key() is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_only_reads_is_never_a_repeat(method: str) -> None:
    headers = [
        (b"idempotency-key", b"x"),
        (b"x-ms-client-request-id", b"x"),
        (b"x-stainless-retry-count", b"1"),
    ]
    assert key_of(method, "/threads", headers=headers, tenant="t", key_id="", body=b"", client=HERE) is None


def test_a_name_that_the_client_chose_counts_before_the_ids_of_its_library() -> None:
    world = World()
    kinds = [
        world.key(idempotency_key="a", x_ms_client_request_id="b", x_stainless_retry_count="1").kind,
        world.key(x_ms_client_request_id="b", x_stainless_retry_count="1").kind,
        world.key(x_stainless_retry_count="1").kind,
    ]
    assert kinds == ["idempotency_key", "client_request_id", "retry_count"]


def test_without_guesses_only_a_chosen_name_counts() -> None:
    for name, expected in (
        ("idempotency-key", True),
        ("x-ms-client-request-id", False),
        ("x-stainless-retry-count", False),
    ):
        headers = [(name.encode(), b"1")]
        found = key_of(
            "POST", "/", headers=headers, tenant="", key_id="", body=b"", client=HERE, infers=False
        )
        assert (found is not None) is expected


def test_what_the_store_is_asked_under_tells_nothing_of_what_the_client_sent() -> None:
    world = World()
    keys = [world.key(idempotency_key="canary-secret"), world.key(x_ms_client_request_id="canary-secret")]
    for key in keys:
        assert "canary" not in f"{key}"
        assert len(key.durable) <= 128


def test_the_same_name_under_another_key_or_tenant_is_another_one() -> None:
    world = World()
    assert world.key(idempotency_key="a").durable != world.key(idempotency_key="a", key_id="other").durable
    for tenant in ("t", "u"):
        key_of("POST", "/", headers=[], tenant=tenant, key_id="", body=b"", client=HERE)
    durables = {
        key_of(
            "POST", "/", headers=[(b"idempotency-key", b"a")], tenant=t, key_id="k", body=b"", client=HERE
        ).durable  # pyright: ignore[reportOptionalMemberAccess]
        for t in ("t", "u")
    }
    assert len(durables) == 2


def test_a_body_that_its_handler_reads_becomes_part_of_the_key_unless_the_client_chose_a_name() -> None:
    world = World()
    chosen = world.key(idempotency_key="a", body=b"").durable
    inferred = world.key(x_ms_client_request_id="a", body=b"").durable
    assert durable_of(None, b"x") is None
    assert durable_of(chosen, b"x") == durable_of(chosen, b"y") == chosen
    assert durable_of(inferred, b"x") != durable_of(inferred, b"y")
    assert durable_of(inferred, b"x") == durable_of(inferred, b"x")


# -- Idempotency-Key -----------------------------------------------------------------------------------------


async def test_what_was_asked_under_a_name_is_answered_again_from_any_connection(world: World) -> None:
    first = await world.ask(HERE, idempotency_key="a")
    await world.ask(HERE)
    for client in (HERE, THERE):
        again = await world.ask(client, idempotency_key="a")
        assert again.body == first.body
        assert REPLAYED in again.raw_headers
    assert REPLAYED not in first.raw_headers
    assert world.repeats == ["idempotency_key", "idempotency_key"]


async def test_a_name_that_stands_for_something_else_is_refused(world: World) -> None:
    await world.ask(idempotency_key="secret-name")
    with pytest.raises(Problem) as refused:
        await world.ask(body=b"other", idempotency_key="secret-name")
    assert refused.value.status == 400
    assert "secret-name" not in refused.value.message
    assert len(world.asked) == 1


async def test_a_refusal_under_a_name_is_not_kept(world: World) -> None:
    def refuse() -> Response:
        raise Problem(400, "no")

    with pytest.raises(Problem):
        await world.ask(idempotency_key="a", give=world.give(refuse))
    assert (await world.ask(idempotency_key="a", body=b"corrected")).body == b"object 2"


# -- Azure ---------------------------------------------------------------------------------------------------


async def test_azures_repeat_is_answered_like_the_first(world: World) -> None:
    assert await world.azure(HERE) == await world.azure(THERE) == b"object 1"
    assert world.repeats == ["client_request_id"]


async def test_an_id_that_is_sent_with_everything_tells_contents_apart(world: World) -> None:
    assert await world.azure(HERE, body=b"a") != await world.azure(HERE, body=b"b")


async def test_saying_the_same_twice_under_a_constant_id_counts_twice_once_the_first_answer_arrived(
    world: World,
) -> None:
    said = [await world.azure(HERE) for _ in range(3)]
    assert said == [b"object 1", b"object 2", b"object 3"]
    assert len(set(world.asked)) == 3
    assert await world.azure(THERE) == b"object 3"


async def test_what_was_said_long_ago_under_a_constant_id_is_not_meant_any_more(world: World) -> None:
    await world.azure(HERE)
    world.clock.advance(KEPT_S)
    assert await world.azure(THERE) == b"object 2"
    assert len(set(world.asked)) == 2


async def test_a_repeat_after_the_process_ended_asks_the_store_under_the_same_key() -> None:
    before, after = World(), World()
    for world in (before, after):
        await world.azure(HERE)
        await world.ask(HERE, idempotency_key="a")
    assert before.asked == after.asked


# -- OpenAI --------------------------------------------------------------------------------------------------


async def test_two_first_attempts_always_count_twice(world: World) -> None:
    said = [await world.openai(client) for client in (HERE, HERE, THERE)]
    assert said == [b"object 1", b"object 2", b"object 3"]
    assert not world.repeats


async def test_a_repeat_whose_first_connection_was_closed_is_answered_like_the_first(world: World) -> None:
    await world.openai(HERE)
    world.replays.closed(HERE)
    assert await world.openai(THERE, retry=1) == b"object 1"
    world.replays.closed(THERE)
    assert await world.openai(ELSEWHERE, retry=2) == b"object 1"
    assert world.repeats == ["retry_count", "retry_count"]


async def test_a_repeat_whose_first_answer_arrived_is_somebody_elses(world: World) -> None:
    await world.openai(HERE)
    world.replays.heard(HERE)
    world.replays.closed(HERE)
    assert await world.openai(THERE, retry=1) == b"object 2"


async def test_each_repeat_takes_an_attempt_of_its_own(world: World) -> None:
    for client in (HERE, THERE):
        await world.openai(client)
        world.replays.closed(client)
    said = {await world.openai(("127.0.0.1", port), retry=1) for port in (10, 11)}
    assert said == {b"object 1", b"object 2"}


async def test_where_connections_are_seen_an_open_one_has_lost_nothing() -> None:
    """Else a caller whose first attempt never came here would get what another caller made."""
    world = World(sees_connections=True)
    await world.openai(HERE)
    assert await world.openai(THERE, retry=1) == b"object 2"


async def test_where_connections_are_not_seen_one_that_carried_nothing_since_may_have_lost_its_answer() -> (
    None
):
    world = World(sees_connections=False)
    await world.openai(HERE)
    assert await world.openai(THERE, retry=1) == b"object 1"


async def test_a_repeat_of_something_else_is_none(world: World) -> None:
    await world.openai(HERE, body=b"a")
    world.replays.closed(HERE)
    assert await world.openai(THERE, body=b"b", retry=1) == b"object 2"
    assert await world.openai(THERE, body=b"a", key_id="other", retry=1) == b"object 3"


async def test_a_repeat_comes_within_seconds_of_the_end_of_the_first_connection() -> None:
    for late_s, expected in ((CUT_S, b"object 1"), (CUT_S + 1, b"object 2")):
        world = World(sees_connections=True)
        await world.openai(HERE)
        world.clock.advance(1000)
        world.replays.closed(HERE)
        world.clock.advance(late_s)
        assert await world.openai(THERE, retry=1) == expected


async def test_a_repeat_comes_too_late_after_half_an_hour() -> None:
    for late_s, expected in ((KEPT_S - 1, b"object 1"), (KEPT_S, b"object 2")):
        world = World(sees_connections=False)
        await world.openai(HERE)
        world.clock.advance(late_s)
        assert await world.openai(THERE, retry=1) == expected


async def test_a_connection_that_was_to_end_with_its_answer_has_lost_nothing() -> None:
    world = World(sees_connections=True)
    await world.openai(HERE, connection="close")
    world.replays.closed(HERE)
    assert await world.openai(THERE, retry=1) == b"object 2"


async def test_of_several_that_may_be_lost_the_newest_is_meant(world: World) -> None:
    for client in (HERE, THERE):
        await world.openai(client)
        world.replays.closed(client)
    assert await world.openai(ELSEWHERE, retry=1) == b"object 2"


async def test_a_second_repeat_is_one_of_a_first_repeat(world: World) -> None:
    for client in (HERE, THERE):
        await world.openai(client)
        world.replays.closed(client)
    first = await world.openai(ELSEWHERE, retry=1)
    world.replays.closed(ELSEWHERE)
    assert await world.openai(("127.0.0.1", 9), retry=2) == first == b"object 2"
    assert await world.openai(("127.0.0.1", 10), retry=1) == b"object 1"


async def test_after_a_failure_that_may_have_left_something_the_store_is_asked_under_the_first_key(
    world: World,
) -> None:
    def fail() -> Response:
        raise OSError("after the commit")

    with pytest.raises(OSError, match="commit"):
        await world.openai(HERE, give=world.give(fail))
    await world.openai(HERE, retry=1)
    assert len(world.asked) == 2
    assert len(set(world.asked)) == 1


async def test_a_failed_attempt_is_the_likelier_first_one(world: World) -> None:
    def fail() -> Response:
        raise OSError

    await world.openai(HERE)
    world.replays.closed(HERE)
    with pytest.raises(OSError):
        await world.openai(THERE, give=world.give(fail))
    assert await world.openai(THERE, retry=1) == b"object 3"
    assert world.asked[1] == world.asked[2] != world.asked[0]


# -- attempts that are under way, and answers that are not kept ----------------------------------------------


@pytest.mark.parametrize("name", ["idempotency_key", "x_ms_client_request_id", "x_stainless_retry_count"])
async def test_a_repeat_waits_for_the_attempt_that_is_worked_on(world: World, name: str) -> None:
    going_on = asyncio.Event()

    async def slowly(durable: str | None) -> Response:
        world.asked.append(durable)
        await going_on.wait()
        return Response("slow")

    first = asyncio.create_task(world.ask(HERE, give=slowly, **{name: "0"}))
    await asyncio.sleep(0)
    world.replays.closed(HERE)
    retry = "1" if name == "x_stainless_retry_count" else "0"
    again = asyncio.create_task(world.ask(THERE, **{name: retry}))
    await asyncio.sleep(0)
    assert not again.done()
    going_on.set()
    assert (await first).body == (await again).body == b"slow"
    assert len(world.asked) == 1


async def test_of_those_who_wait_for_an_attempt_that_fails_one_carries_it_out(world: World) -> None:
    going_on = asyncio.Event()

    async def breaks(durable: str | None) -> Response:
        world.asked.append(durable)
        await going_on.wait()
        raise OSError

    first = asyncio.create_task(world.ask(HERE, give=breaks, idempotency_key="a"))
    await asyncio.sleep(0)
    again = [asyncio.create_task(world.ask(("127.0.0.1", port), idempotency_key="a")) for port in range(5, 9)]
    await asyncio.sleep(0)
    going_on.set()
    with pytest.raises(OSError):
        await first
    assert {(await task).body for task in again} == {b"object 2"}
    assert len(world.asked) == 2


async def test_an_attempt_that_is_given_up_by_its_server_does_not_hold_its_repeats(world: World) -> None:
    async def never(durable: str | None) -> Response:
        world.asked.append(durable)
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    first = asyncio.create_task(world.ask(HERE, give=never, idempotency_key="a"))
    await asyncio.sleep(0)
    again = asyncio.create_task(world.ask(THERE, idempotency_key="a"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await again).body == b"object 2"


def _stream() -> Response:
    response = Response(b"", media_type="text/event-stream")
    del response.headers["content-length"]
    return response


@pytest.mark.parametrize(
    "response",
    [
        _stream,
        lambda: StreamingResponse(iter([b"x"])),
        lambda: Response(b"x" * (MOST_ANSWER_BYTES + 1)),
    ],
    ids=["events", "pieces", "long"],
)
async def test_what_is_not_kept_is_carried_out_again_under_the_first_key(world: World, response: Any) -> None:
    for client in (HERE, THERE, ELSEWHERE):
        await world.ask(client, give=world.give(response), idempotency_key="a")
    await world.ask(HERE, give=world.give(response), x_stainless_retry_count="0")
    world.replays.closed(HERE)
    await world.ask(THERE, give=world.give(response), x_stainless_retry_count="1")
    assert len(world.asked) == 5
    assert len(set(world.asked)) == 2


async def test_a_body_that_was_not_read_is_left_to_the_store(world: World) -> None:
    for _ in range(2):
        await world.ask(body=None, idempotency_key="a")
    assert len(world.asked) == 2
    assert len(set(world.asked)) == 1


# -- bounds --------------------------------------------------------------------------------------------------


async def test_only_so_many_attempts_are_remembered_the_newest(world: World) -> None:
    world = World(attempts=3)
    for name in "abcd":
        await world.ask(idempotency_key=name)
    await world.ask(THERE, idempotency_key="d")
    assert len(world.asked) == 4
    await world.ask(THERE, idempotency_key="a")
    assert len(world.asked) == 5


async def test_only_so_many_bytes_of_answers_are_kept_the_newest() -> None:
    world = World(answer_bytes=25)
    long = world.give(lambda: Response(b"0123456789"))
    for name in "abc":
        await world.ask(idempotency_key=name, give=long)
    for name in "cb":
        await world.ask(idempotency_key=name, give=long)
    assert len(world.asked) == 3
    await world.ask(idempotency_key="a", give=long)
    assert len(world.asked) == 4
    assert world.asked[3] == world.asked[0]


async def test_what_is_worked_on_is_not_forgotten_for_its_age() -> None:
    world = World(attempts=1)
    going_on = asyncio.Event()

    async def slowly(durable: str | None) -> Response:
        world.asked.append(durable)
        await going_on.wait()
        return Response("slow")

    first = asyncio.create_task(world.ask(HERE, give=slowly, idempotency_key="a"))
    await asyncio.sleep(0)
    world.clock.advance(KEPT_S * 2)
    for name in "bc":
        await world.ask(THERE, idempotency_key=name)
    again = asyncio.create_task(world.ask(ELSEWHERE, idempotency_key="a"))
    await asyncio.sleep(0)
    going_on.set()
    assert (await first).body == (await again).body == b"slow"


async def test_nothing_is_left_of_attempts_whose_answers_arrived() -> None:
    world = World()
    for n in range(100):
        await world.openai(HERE, body=b"%d" % n)
    await world.ask(HERE)
    kept = [vars(world.replays)[name] for name in ("_all", "_answered", "_named", "_tried", "_on")]
    assert [len(table) for table in kept] == [0] * 5
    assert vars(world.replays)["_bytes"] == 0
