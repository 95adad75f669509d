"""Fetching an address that somebody supplied: what is called, what comes back, and what ends it."""

import asyncio
import gzip
import logging
import ssl

import anyio
import pytest
import trustme

from treadle.errors import OutboundError, OutboundRefused
from treadle.outbound import fetch
from treadle.testing.chat_server import Hang, Raw, Wire
from treadle.testing.web_server import WebServer, redirect

PAGE = Raw(b"hello", content_type="Text/Plain; charset=utf-8", framing="length")
LOCAL = ("127.0.0.1",)


def resolving(names):
    """Give a resolver that knows these names: each lookup takes the next answer of a name, the last one stays."""
    asked = []

    async def resolve(host, port):
        asked.append(host)
        answers = names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    resolve.asked = asked
    return resolve


async def get(url, **options):
    return await fetch(url, **({"max_bytes": 1000, "timeout_s": 10, "named_hosts": LOCAL} | options))


class Dialled(list[str]):
    """The addresses that connections were made to; all of them lead to a port of 127.0.0.1."""

    port: int


@pytest.fixture
def dialled(monkeypatch):
    """Send every connection to a local server, and give the addresses that were asked for."""
    asked = Dialled()
    connect = anyio.connect_tcp

    async def connect_local(remote_host, remote_port, **options):
        asked.append(f"{remote_host} {remote_port}")
        return await connect(remote_host="127.0.0.1", remote_port=asked.port, **options)

    monkeypatch.setattr(anyio, "connect_tcp", connect_local)
    return asked


async def test_a_page_is_fetched_with_its_type_and_where_it_was_found():
    async with WebServer({"/a": redirect("b?x=1"), "/b": PAGE}) as server:
        found = await get(f"{server.url}/a#top")
    assert (found.content, found.media_type) == (b"hello", "text/plain")
    assert found.url == f"{server.url}/b?x=1"


async def test_nothing_of_this_process_goes_along(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    cookie = {"Set-Cookie": "a=b"}
    first = Raw(b"", status=302, headers={"Location": "/b"} | cookie, framing="length")
    async with WebServer({"/a": first, "/b": PAGE}) as server:
        await get(f"{server.url}/a", accept="image/*")
    sent = server.requests[1].headers
    assert set(sent) == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert (sent["accept"], sent["accept-encoding"]) == ("image/*", "identity")
    assert sent["host"] == f"127.0.0.1:{server.port}"


async def test_a_name_is_resolved_once_and_its_checked_address_is_called(dialled):
    """A name that is public when it is checked and private when it is called is called where it was checked."""
    resolve = resolving({"pictures.example": [["93.184.216.34"], ["127.0.0.1"]]})
    async with WebServer({"/a": PAGE}) as server:
        dialled.port = server.port
        found = await get("http://pictures.example/a", named_hosts=(), resolver=resolve)
    assert found.content == b"hello"
    assert resolve.asked == ["pictures.example"]
    assert dialled == ["93.184.216.34 80"]
    assert server.requests[0].headers["host"] == "pictures.example"


async def test_a_redirect_to_the_same_name_is_resolved_and_checked_anew(dialled):
    resolve = resolving({"pictures.example": [["93.184.216.34"], ["10.0.0.1"]]})
    async with WebServer({"/a": redirect("/b"), "/b": PAGE}) as server:
        dialled.port = server.port
        with pytest.raises(OutboundRefused, match="leads to a private address"):
            await get("http://pictures.example/a", named_hosts=(), resolver=resolve)
    assert dialled == ["93.184.216.34 80"]
    assert [r.path for r in server.requests] == ["/a"]


async def test_a_named_host_that_redirects_to_another_private_one_is_refused(dialled):
    resolve = resolving({"pictures.internal": [["10.0.0.7"]], "database.internal": [["10.0.0.8"]]})
    async with WebServer({"/a": redirect("http://database.internal/")}) as server:
        dialled.port = server.port
        with pytest.raises(OutboundRefused, match=r"'database\.internal' leads to a private address"):
            await get("http://pictures.internal/a", named_hosts=["pictures.internal"], resolver=resolve)
    assert dialled == ["10.0.0.7 80"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"], ["2606:4700::1111", "::ffff:10.0.0.1"], ["169.254.169.254"],
        ["fe80::1%2"], ["64:ff9b::7f00:1"], ["2002:7f00:1::"], ["0.0.0.0"], ["not an address"], ["100.64.0.1"],
    ],
)  # fmt: skip
async def test_a_name_of_which_one_address_is_private_is_not_called(dialled, addresses):
    with pytest.raises(OutboundRefused) as refused:
        await get("http://pictures.example/a", resolver=resolving({"pictures.example": [addresses]}))
    assert "'pictures.example' leads to" in refused.value.message
    assert not any(address in refused.value.message for address in addresses)
    assert dialled == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://[::1]/", "http://0x7f.1/", "http://2130706433/", "http://[::ffff:127.0.0.1]/",
     "http://localhost/", "http://a.localhost/", "http://169.254.169.254/", "http://metadata.google.internal/",
     "ftp://example.com/", "file:///etc/passwd", "http://a:b@example.com/", "http://example.com:22/"],
)  # fmt: skip
async def test_a_private_or_strange_address_is_not_called(dialled, url):
    resolve = resolving({"localhost": [["127.0.0.1"]], "a.localhost": [["127.0.0.1"]]})
    with pytest.raises(OutboundRefused):
        await get(url, named_hosts=(), resolver=resolve)
    assert dialled == []


async def test_the_names_of_this_machine_are_refused_by_the_systems_own_resolver():
    with pytest.raises(OutboundRefused, match="leads to a loopback address"):
        await get("http://localhost/", named_hosts=())


async def test_a_name_that_has_no_address_is_said_to_have_none():
    async def resolve(host, port):
        raise OSError

    for resolver in (resolve, resolving({"nowhere.example": [[]]})):
        with pytest.raises(OutboundError, match=r"'nowhere\.example' is a name without an address") as failed:
            await get("http://nowhere.example/", resolver=resolver)
        assert failed.value.retryable


async def test_the_next_address_of_a_name_is_tried_when_one_cannot_be_reached():
    async with WebServer({"/a": PAGE}) as server:
        resolve = resolving({"pictures.example": [["127.0.0.2", "127.0.0.1"]]})
        found = await get(
            f"http://pictures.example:{server.port}/a", named_hosts=["pictures.example"], resolver=resolve
        )
    assert found.content == b"hello"


async def test_a_host_that_cannot_be_reached_is_named():
    async with WebServer() as server:
        url = f"{server.url}/secret?token=secret"
    with pytest.raises(OutboundError, match=r"^'127\.0\.0\.1' cannot be reached") as failed:
        await get(url)
    assert failed.value.retryable
    assert "secret" not in failed.value.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "http://localhost/", "http://10.0.0.1/", "//10.0.0.1/x", "http://[::1]/", "http://169.254.169.254/latest/", "file:///etc/passwd",
        "http://user:hush@127.0.0.1/", "http://127.0.0.1\\@example.com/", "http://2130706433/", "http://[::1", "gopher://x/",
        "http://127.0.0.1.evil.example/", "http://0x7f.1/",
    ],
)  # fmt: skip
async def test_a_redirect_to_what_may_not_be_called_is_refused(status, location):
    resolve = resolving({"localhost": [["127.0.0.1"]], "127.0.0.1.evil.example": [["127.0.0.1"]]})
    async with WebServer({"/a": redirect(location, status=status)}) as server:
        with pytest.raises(OutboundRefused) as refused:
            await get(f"{server.url}/a", resolver=resolve)
    assert "hush" not in str(refused.value)
    assert len(server.requests) == 1


async def test_a_long_way_of_redirects_to_a_private_address_is_refused_at_its_end():
    async with WebServer({"/1": redirect("/2"), "/2": redirect("/3"), "/3": redirect("http://10.0.0.1/")}) as server:  # fmt: skip
        with pytest.raises(OutboundRefused, match=r"'10\.0\.0\.1' is a private address"):
            await get(f"{server.url}/1")
    assert [r.path for r in server.requests] == ["/1", "/2", "/3"]


async def test_three_redirects_are_followed_and_four_are_not():
    pages = {f"/{i}": redirect(f"/{i + 1}") for i in range(4)} | {"/4": PAGE}
    async with WebServer(pages) as server:
        assert (await get(f"{server.url}/1")).content == b"hello"
        with pytest.raises(OutboundError, match="redirects more than 3 times"):
            await get(f"{server.url}/0")
        assert len(server.requests) == 8


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_host_that_redirects_to_itself_comes_to_an_end(name):
    async with WebServer() as server:
        server.pages["/"] = redirect("/")
        with pytest.raises(OutboundError, match="redirects more than 3 times"):
            await get(f"http://{name}:{server.port}/", named_hosts=["localhost", "127.0.0.1"])


async def test_a_redirect_without_a_place_is_an_error():
    async with WebServer({"/a": Raw(b"", status=302, framing="length")}) as server:
        with pytest.raises(OutboundError, match="redirects to nowhere"):
            await get(f"{server.url}/a")


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 404, 429, 500, 503])
async def test_another_answer_than_200_is_an_error_that_says_so(status):
    page = Raw(b"" if status in (204, 304) else b"x" * 500, status=status, framing="length")
    async with WebServer({"/a": page}) as server:
        with pytest.raises(OutboundError, match=f"answered {status}$") as failed:
            await get(f"{server.url}/a")
    assert failed.value.retryable == (status in (429, 500, 503))
    assert not isinstance(failed.value, OutboundRefused)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_more_bytes_than_allowed_are_not_read(framing):
    async with WebServer({"/a": Raw([b"x" * 500] * 100, framing=framing)}) as server:
        with pytest.raises(OutboundError, match="more than 1000 bytes"):
            await get(f"{server.url}/a")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_as_many_bytes_as_allowed_are_read(framing):
    async with WebServer({"/a": Raw([b"x" * 500] * 2, framing=framing)}) as server:
        assert len((await get(f"{server.url}/a")).content) == 1000


async def test_an_endless_answer_is_cut_off():
    async with WebServer({"/a": Raw([b"x" * 100_000], end="hang")}) as server:
        with pytest.raises(OutboundError, match="more than 1000 bytes"):
            await get(f"{server.url}/a")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "GZIP", "x-unknown"])
async def test_packed_content_is_refused_and_never_unpacked(encoding):
    bomb = gzip.compress(b"\0" * 50_000_000)
    page = Raw(bomb, headers={"Content-Encoding": encoding}, framing="length")
    async with WebServer({"/a": page}) as server:
        with pytest.raises(OutboundError, match="packed"):
            await get(f"{server.url}/a", max_bytes=100_000_000)


async def test_content_that_says_it_is_not_packed_is_taken_as_it_is():
    packed = gzip.compress(b"hello")
    async with WebServer({"/a": Raw(packed, headers={"Content-Encoding": "identity"})}) as server:
        assert (await get(f"{server.url}/a")).content == packed


@pytest.mark.parametrize(
    "turn",
    [
        Hang(),
        Raw([b"x"] * 10_000, delay_s=0.05),
        Raw([b"x"], end="hang"),
        Wire([b"HTTP/1.1 200 OK\r\n"], end="hang"),
        Wire([b"HTTP/1.1 100 Continue\r\n\r\n"] * 3, end="hang"),
    ],
    ids=["no answer", "a byte at a time", "half a body", "half a head", "only interim answers"],
)
async def test_an_answer_that_takes_too_long_ends_in_time(turn):
    began = asyncio.get_running_loop().time()
    async with WebServer({"/a": turn}) as server:
        with pytest.raises(OutboundError, match=r"no whole answer within 0\.3 s") as failed:
            await get(f"{server.url}/a", timeout_s=0.3)
    assert failed.value.retryable
    assert asyncio.get_running_loop().time() - began < 5


async def test_the_time_counts_over_all_hops():
    async with WebServer() as server:
        server.pages |= {"/1": redirect("/2"), "/2": redirect("/3"), "/3": Hang()}
        with pytest.raises(OutboundError, match="no whole answer"):
            await get(f"{server.url}/1", timeout_s=0.3)


async def test_a_name_that_takes_too_long_to_resolve_ends_in_time():
    async def resolve(host, port):
        await asyncio.Event().wait()

    with pytest.raises(OutboundError, match=r"'slow\.example' gave no whole answer"):
        await get("http://slow.example/", timeout_s=0.1, resolver=resolve)


async def test_a_fetch_can_be_cancelled():
    async with WebServer({"/a": Hang()}) as server:
        task = asyncio.create_task(get(f"{server.url}/a"))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not server.abandoned:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "turn",
    [
        Wire(b""), Wire(b"", end="reset"), Wire(b"SSH-2.0-OpenSSH_9.6\r\n"), Wire(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        Wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"), Raw([b"abc"], end="cut"),
        Wire(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000), Wire(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        Wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ],
)  # fmt: skip
async def test_a_broken_answer_is_an_error_that_names_the_host(turn):
    async with WebServer({"/a": turn}) as server:
        with pytest.raises(OutboundError, match=r"^'127\.0\.0\.1' ") as failed:
            await get(f"{server.url}/a")
    assert failed.value.retryable


@pytest.mark.parametrize(
    "said", [None, "", "nonsense", "text/html\t<script>", "a/b/c", "image/png; charset=x", "é/x"]
)
async def test_a_media_type_is_one_or_unknown(said):
    async with WebServer({"/a": Raw(b"x", content_type=said)}) as server:
        found = await get(f"{server.url}/a")
    assert found.media_type == ("image/png" if said == "image/png; charset=x" else "application/octet-stream")


@pytest.fixture
def authority():
    """Give a certificate authority of the test's own, and a context that trusts only it."""
    made = trustme.CA()
    trusting = ssl.create_default_context()
    made.configure_trust(trusting)
    return made, trusting


def serving(authority, *names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert(*names).configure_cert(context)
    return context


async def test_the_certificate_is_held_to_the_name_though_the_address_is_called(authority):
    names = []
    tls = serving(authority, "pictures.example")
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    resolve = resolving({"pictures.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]})
    options = {
        "named_hosts": ["pictures.example", "other.example"],
        "resolver": resolve,
        "tls": authority[1],
    }
    async with WebServer({"/a": PAGE}, tls=tls) as server:
        found = await get(f"https://pictures.example:{server.port}/a", **options)
        assert found.content == b"hello"
        assert server.requests[0].headers["host"] == f"pictures.example:{server.port}"
        with pytest.raises(OutboundError, match=r"'other\.example' cannot be reached"):
            await get(f"https://other.example:{server.port}/a", **options)
    assert names == ["pictures.example", "other.example"]
    assert len(server.requests) == 1


async def test_a_certificate_of_an_unknown_authority_is_refused(authority):
    async with WebServer({"/a": PAGE}, tls=serving(authority, "127.0.0.1")) as server:
        with pytest.raises(OutboundError, match="cannot be reached"):
            await get(f"{server.url}/a")
        assert (await get(f"{server.url}/a", tls=authority[1])).content == b"hello"


async def test_a_redirect_from_https_to_http_is_refused(authority):
    async with (
        WebServer({"/b": PAGE}) as plain,
        WebServer({"/a": redirect(f"{plain.url}/b")}, tls=serving(authority, "127.0.0.1")) as safe,
    ):
        with pytest.raises(OutboundRefused, match="from https to http"):
            await get(f"{safe.url}/a", tls=authority[1])
        assert plain.requests == []


async def test_a_redirect_from_http_to_https_is_followed(authority):
    async with (
        WebServer({"/b": PAGE}, tls=serving(authority, "127.0.0.1")) as safe,
        WebServer({"/a": redirect(f"{safe.url}/b")}) as plain,
    ):
        assert (await get(f"{plain.url}/a", tls=authority[1])).content == b"hello"


async def test_no_log_has_the_path_of_what_was_fetched(caplog):
    caplog.set_level(logging.INFO)
    async with WebServer({"/a": PAGE}) as server:
        await get(f"{server.url}/a?token=secret")
    assert "secret" not in caplog.text
