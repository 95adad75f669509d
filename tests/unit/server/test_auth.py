"""Who is let in: by keys of the store, the key of the process, tokens, or with no key on this machine."""

import asyncio
import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from treadle.errors import ConfigurationError
from treadle.ids import secret
from treadle.objects.key import SECRET_CHARS, digest_of, text_of
from treadle.server.auth import Auth, Principal, first_key, is_loopback, refuse_open_bind
from treadle.server.problems import Problem
from treadle.service import Treadle
from treadle.settings import Settings

OF_PROCESS = "open-sesame-open-sesame"
Header = tuple[bytes, bytes]


class Tokens:
    """Knows one token."""

    def tenant_of(self, token: str) -> str | None:
        return "acme" if token == "a-token" else None


@pytest.fixture
async def treadle(tmp_path: Path) -> AsyncIterator[Treadle]:
    async with Treadle(f"sqlite:///{tmp_path}/treadle.db", project=tmp_path) as opened:
        yield opened


def bearer(text: str) -> Header:
    return b"authorization", f"Bearer {text}".encode("latin-1")


def api_key(text: str) -> Header:
    return b"api-key", text.encode("latin-1")


async def answer(auth: Auth, *headers: Header, named: str | None = None) -> str | tuple[int, str, str | None]:
    """Give the tenant that is opened, or what is said instead."""
    try:
        return auth.tenant(await auth.principal(headers), named)
    except Problem as e:
        assert e.headers == {"www-authenticate": "Bearer"}  # noqa: PT017 - every refusal names the scheme
        return e.status, e.message, e.code


MISSING = (
    401,
    "You did not provide an API key. Send it as 'Authorization: Bearer KEY' or as 'api-key: KEY'.",
    "invalid_api_key",
)
WRONG = (401, "Incorrect API key provided: it is unknown, revoked, or of another project.", "invalid_api_key")


async def test_both_headers_open_the_same_and_the_key_s_tenant_holds_where_none_is_named(
    treadle: Treadle,
) -> None:
    auth = Auth(treadle.store, Settings())
    key, text = await treadle.keys.create(tenant="acme")
    for headers in (
        [bearer(text)], [api_key(text)], [bearer(text), api_key(text)], [bearer(text), bearer(text)],
        [(b"authorization", b"bearer " + text.encode())], [(b"authorization", b"BEARER  " + text.encode())],
    ):  # fmt: skip
        assert await auth.principal(headers) == Principal(key.id, "acme")
        assert await answer(auth, *headers) == await answer(auth, *headers, named="acme") == "acme"


async def test_a_key_of_another_tenant_is_told_the_same_whether_that_one_exists_or_not(
    treadle: Treadle,
) -> None:
    auth = Auth(treadle.store, Settings())
    _, text = await treadle.keys.create(tenant="acme")
    await treadle.scoped("full").threads.create()
    _, gone = await treadle.keys.create(tenant="gone")
    await treadle.scoped("gone").keys.revoke((await treadle.store.keys("gone"))[0].id)
    for named in ("full", "empty", "default", "ACME", "acme."):
        assert await answer(auth, bearer(text), named=named) == WRONG
    for named in (None, "gone", "acme"):
        assert await answer(auth, bearer(gone), named=named) == WRONG


async def test_what_is_no_key_opens_nothing(treadle: Treadle) -> None:
    auth = Auth(treadle.store, Settings())
    key, text = await treadle.keys.create()
    other, stranger = await treadle.keys.create(), text_of(treadle.ids.new("key"), secret(SECRET_CHARS))
    assert await answer(auth) == MISSING
    assert await answer(auth, (b"x-api-key", text.encode()), (b"cookie", text.encode())) == MISSING
    wrong = [
        stranger, text_of(key.id, secret(SECRET_CHARS)), text_of(other[0].id, text.rpartition("_")[2]), text[:-1], text + "x",
        text.upper(), key.id, key.digest, "tdl", "tdl_", "sk-anything", "'; DROP TABLE keys; --", "Bearer " + text,
        "\xff" * 20, "\x00" + text, OF_PROCESS,
    ]  # fmt: skip
    for shown in wrong:
        assert await answer(auth, bearer(shown)) == WRONG
        assert await answer(auth, api_key(shown)) == WRONG
    for value in (
        b"",
        b"Bearer",
        b"Bearer ",
        text.encode(),
        b"Basic " + text.encode(),
        b"Bearer " + text.encode() + b" x",
    ):
        assert await answer(auth, (b"authorization", value)) == WRONG
    assert await answer(auth, api_key("")) == WRONG


async def test_two_keys_that_differ_open_nothing_though_each_would(treadle: Treadle) -> None:
    auth = Auth(treadle.store, Settings())
    (_, one), (_, two) = await treadle.keys.create(), await treadle.keys.create()
    for headers in (
        [bearer(one), api_key(two)], [api_key(one), bearer("")], [bearer(one), bearer(two)], [api_key(one), api_key(two)],
        [(b"authorization", b"Basic x"), api_key(one)],
    ):  # fmt: skip
        assert await answer(auth, *headers) == WRONG


async def test_the_key_of_the_process_opens_its_own_tenant(treadle: Treadle) -> None:
    auth = Auth(treadle.store, Settings(tenant="mine", api_key=OF_PROCESS))
    _, text = await treadle.keys.create(tenant="acme")
    for header in (bearer(OF_PROCESS), api_key(OF_PROCESS)):
        assert await auth.principal([header]) == Principal("TREADLE_API_KEY", "mine")
        assert await answer(auth, header, named="acme") == WRONG
    assert await answer(auth, bearer(OF_PROCESS[:-1])) == WRONG
    assert await answer(auth, bearer(text)) == "acme"


async def test_a_token_of_the_development_identity_opens_its_tenant(treadle: Treadle) -> None:
    auth = Auth(treadle.store, Settings(), tokens=Tokens())
    assert (
        await answer(auth, bearer("a-token")) == await answer(auth, bearer("a-token"), named="acme") == "acme"
    )
    assert await answer(auth, bearer("a-token"), named="default") == WRONG
    assert await answer(auth, bearer("another-token")) == WRONG
    assert await answer(Auth(treadle.store, Settings()), bearer("a-token")) == WRONG


async def test_without_keys_every_tenant_is_open_whatever_is_shown(treadle: Treadle) -> None:
    auth = Auth(treadle.store, Settings(tenant="mine"), no_auth=True)
    assert auth.is_open
    assert not Auth(treadle.store, Settings()).is_open
    for headers in ([], [bearer("anything")], [bearer("a"), api_key("b")], [(b"authorization", b"Basic x")]):
        assert await answer(auth, *headers) == "mine"
        assert await answer(auth, *headers, named="acme") == "acme"
    assert await auth.is_valid(await auth.principal([]))


async def test_revoking_a_key_works_at_once_and_from_another_process(
    treadle: Treadle, tmp_path: Path
) -> None:
    auth = Auth(treadle.store, Settings(api_key=OF_PROCESS), tokens=Tokens())
    key, text = await treadle.keys.create()
    principal = await auth.principal([bearer(text)])
    assert await auth.is_valid(principal)
    async with Treadle(f"sqlite:///{tmp_path}/treadle.db", project=tmp_path) as elsewhere:
        await elsewhere.keys.revoke(key.id)
    assert not await auth.is_valid(principal)
    assert await answer(auth, bearer(text)) == WRONG
    for shown in (OF_PROCESS, "a-token"):
        assert await auth.is_valid(await auth.principal([bearer(shown)]))
    assert not await auth.is_valid(Principal(treadle.ids.new("key"), "default"))


async def test_a_store_that_does_not_answer_keeps_no_stream_open(treadle: Treadle) -> None:
    auth = Auth(treadle.store, Settings())
    _, text = await treadle.keys.create()
    principal = await auth.principal([bearer(text)])
    await treadle.close()
    assert not await auth.is_valid(principal)


async def test_an_unknown_key_costs_the_comparison_of_a_known_one(
    treadle: Treadle, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = Auth(treadle.store, Settings())
    _, text = await treadle.keys.create()
    stranger = text_of(treadle.ids.new("key"), secret(SECRET_CHARS))
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counted(one: str, two: str) -> bool:
        compared.append((len(one), len(two)))
        return compare(one, two)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for shown in (text, stranger, "no-key-at-all"):
        await answer(auth, bearer(shown))
    assert compared == [(64, 64)] * 3


async def test_the_first_start_makes_one_key_of_the_process_s_tenant(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/treadle.db"
    servers = [Treadle(url, project=tmp_path, settings=Settings(tenant="mine")) for _ in range(4)]
    made = await asyncio.gather(*(first_key(server) for server in servers))
    (text,) = [one for one in made if one is not None]
    auth = Auth(servers[0].store, Settings())
    assert await answer(auth, bearer(text)) == "mine"
    (key,) = await servers[0].keys.list()
    assert (key.name, key.digest) == ("first", digest_of(text))
    assert await first_key(servers[0]) is None
    await servers[0].keys.revoke(key.id)
    assert await first_key(servers[0]) is None
    for server in servers:
        await server.close()


async def test_a_process_with_a_key_of_its_own_makes_none(tmp_path: Path) -> None:
    async with Treadle(
        f"sqlite:///{tmp_path}/treadle.db", project=tmp_path, settings=Settings(api_key=OF_PROCESS)
    ) as treadle:
        assert await first_key(treadle) is None
        assert await treadle.keys.list() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_serving_without_keys_is_for_this_machine(host: str) -> None:
    assert is_loopback(host)
    refuse_open_bind(host, no_auth=True)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.0.1", "10.0.0.1", "app.example", "localhost.", "127.1", "localhost.example"]
)  # fmt: skip
def test_serving_others_without_keys_is_refused(host: str) -> None:
    assert not is_loopback(host)
    refuse_open_bind(host, no_auth=False)
    with pytest.raises(ConfigurationError, match="--no-auth") as refused:
        refuse_open_bind(host, no_auth=True)
    assert refused.value.error_code == "TR070"


async def test_no_text_of_a_key_is_told_by_what_is_printed_of_it(treadle: Treadle) -> None:
    key, text = await treadle.keys.create(name="laptop")
    settings = Settings(api_key=OF_PROCESS)
    said = f"{key!r} {key} {settings!r} {Auth(treadle.store, settings)!r} {await Auth(treadle.store, settings).principal([bearer(text)])!r}"
    assert text.rpartition("_")[2] not in said
    assert key.digest not in said
    assert OF_PROCESS not in said
