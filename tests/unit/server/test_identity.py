"""The managed identity: whom it gives tokens, of which tenant, for how long."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from treadle.server import identity
from treadle.server.identity import (
    Identity,
    Tokens,
    client_environment,
    environment_lines,
    identity_app,
    identity_endpoint,
)
from treadle.testing.fakes import FrozenClock

SECRET = "the secret of this start"
QUERY = "api-version=2019-08-01&resource=https%3A%2F%2Fai.azure.com"


async def ask(
    tokens: Tokens,
    *,
    method: str = "GET",
    path: str = identity.PATH,
    query: str = QUERY,
    host: str | None = "127.0.0.1:4711",
    client: tuple[str, int] | None = ("127.0.0.1", 50_000),
    secret: str | bytes | None = SECRET,
) -> tuple[int, dict[str, str], Any]:
    """Ask the endpoint of the tenant ada as a server would."""
    headers = [] if host is None else [(b"host", host.encode())]
    if secret is not None:
        headers.append((b"x-identity-header", secret if isinstance(secret, bytes) else secret.encode()))
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": headers,
        "client": client,
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await identity_app(tokens, tenant="ada", secret=SECRET)(scope, receive, send)
    start, body = sent[0], b"".join(message.get("body", b"") for message in sent[1:])
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, json.loads(body)


async def test_who_shows_the_secret_gets_a_token_of_the_tenant_for_an_hour(clock: FrozenClock) -> None:
    tokens = Tokens(clock=clock)
    status, headers, body = await ask(tokens)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert set(body) == {"access_token", "expires_on", "resource", "token_type"}
    assert body["expires_on"] == str(clock.now_ms() // 1000 + 3600)
    assert (body["resource"], body["token_type"]) == ("https://ai.azure.com", "Bearer")
    assert tokens.tenant_of(body["access_token"]) == "ada"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]", "[::1]:8000"])
async def test_it_answers_to_each_name_of_the_loopback(clock: FrozenClock, host: str) -> None:
    assert (await ask(Tokens(clock=clock), host=host))[0] == 200


@pytest.mark.parametrize(
    "resource",
    ["https://ai.azure.com/", "https://ai.azure.com/.default", "https://cognitiveservices.azure.com"],
)
async def test_a_resource_may_be_spelled_as_scopes_are(clock: FrozenClock, resource: str) -> None:
    status, _, body = await ask(Tokens(clock=clock), query=f"resource={resource}")
    assert (status, body["resource"]) == (200, resource)


@pytest.mark.parametrize(
    ("status", "word", "asked"),
    [
        (401, "invalid_identity_header", {"secret": None}),
        (401, "invalid_identity_header", {"secret": ""}),
        (401, "invalid_identity_header", {"secret": SECRET + "x"}),
        (401, "invalid_identity_header", {"secret": b"\xff\xfe"}),
        (403, "forbidden", {"host": None}),
        (403, "forbidden", {"host": "evil.example"}),
        (403, "forbidden", {"host": "localhost.evil.example"}),
        (403, "forbidden", {"host": "localhost@evil.example"}),
        (403, "forbidden", {"host": "0.0.0.0:4711"}),
        (403, "forbidden", {"client": ("192.0.2.7", 1)}),
        (403, "forbidden", {"client": ("a socket", 1)}),
        (403, "forbidden", {"client": None}),
        (404, None, {"path": "/"}),
        (404, None, {"path": "/metadata/identity/oauth2/token"}),
        (405, None, {"method": "POST"}),
        (400, None, {"query": ""}),
        (400, None, {"query": "resource=https%3A%2F%2Fstorage.azure.com"}),
        (400, None, {"query": "resource=https%3A%2F%2Fai.azure.com.evil.example"}),
    ],
)
async def test_everybody_else_gets_no_token_but_the_envelope(
    clock: FrozenClock, status: int, word: str | None, asked: dict[str, Any]
) -> None:
    tokens = Tokens(clock=clock)
    found, headers, body = await ask(tokens, **asked)
    assert found == status
    assert headers["content-type"] == "application/json"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == word
    assert tokens._kept == {}


def test_a_token_ends_after_its_hour_though_the_wall_clock_is_turned(clock: FrozenClock) -> None:
    tokens = Tokens(clock=clock)
    token, expires_on = tokens.issue("ada")
    clock.advance(3599)
    assert expires_on == clock.now_ms() // 1000 + 1
    assert tokens.tenant_of(token) == "ada"
    clock.advance(1)
    clock.wall_ms -= 24 * 3600 * 1000
    assert tokens.tenant_of(token) is None


def test_each_token_opens_its_own_tenant_and_an_invented_one_opens_nothing(clock: FrozenClock) -> None:
    tokens = Tokens(clock=clock)
    ada, bob = tokens.issue("ada")[0], tokens.issue("bob")[0]
    assert (tokens.tenant_of(ada), tokens.tenant_of(bob)) == ("ada", "bob")
    for invented in ("", "ada", ada[:-1], ada + "x", "\udcff"):
        assert tokens.tenant_of(invented) is None


def test_no_token_can_be_read_from_what_is_kept(clock: FrozenClock) -> None:
    tokens = Tokens(clock=clock)
    token, _ = tokens.issue("ada")
    assert token not in repr(vars(tokens))


def test_what_is_kept_has_an_end(clock: FrozenClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MOST_TOKENS", 3)
    tokens = Tokens(clock=clock)
    issued = [tokens.issue("ada")[0] for _ in range(4)]
    assert [tokens.tenant_of(token) for token in issued] == [None, "ada", "ada", "ada"]
    clock.advance(3600)
    tokens.issue("ada")
    assert len(tokens._kept) == 1


async def get(url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Ask over a socket of its own."""
    address, _, rest = url.removeprefix("http://").partition("/")
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET /{rest} HTTP/1.1", f"Host: {address}", "Connection: close"]
    writer.write("\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


async def test_the_endpoint_answers_on_a_port_of_the_loopback_until_it_is_left() -> None:
    tokens = Tokens()
    async with identity_endpoint(tokens, tenant="ada") as found:
        url = f"{found.endpoint}?{QUERY}"
        status, body = await get(url, {"X-IDENTITY-HEADER": found.secret, "X-Forwarded-For": "192.0.2.7"})
        assert status == 200
        assert tokens.tenant_of(json.loads(body)["access_token"]) == "ada"
        assert (await get(url, {"X-IDENTITY-HEADER": "guess"}))[0] == 401
        async with identity_endpoint(tokens, tenant="bob") as other:
            assert other.secret != found.secret
    with pytest.raises(ConnectionRefusedError):
        await get(url, {})


def test_the_lines_for_the_shell_name_everything_that_a_script_reads() -> None:
    variables = client_environment(
        port=8443,
        tenant="a/b c",
        identity=Identity("http://127.0.0.1:4711/msi/token", "s3cret"),
        trusted=Path("/srv/my project/trusted.pem"),
    )
    assert environment_lines(variables) == (
        "export PROJECT_ENDPOINT=https://localhost:8443/api/projects/a%2Fb%20c\n"
        "export IDENTITY_ENDPOINT=http://127.0.0.1:4711/msi/token\n"
        "export IDENTITY_HEADER=s3cret\n"
        "export REQUESTS_CA_BUNDLE='/srv/my project/trusted.pem'\n"
        "export SSL_CERT_FILE='/srv/my project/trusted.pem'\n"
    )
