"""The one door to the HTTP library: whoever calls out over HTTP gets its client, or what it asks for, here.

`http_client` is for connections that the operator declared: it ignores the proxy variables of the environment,
follows no redirect, asks for no compression and reads no endless reply; it may call private addresses.

`fetch` is for addresses that a user or a model supplied.

Rules of fetch

1. A name is resolved once, every address that it has is judged, and the connection goes to a judged address. The
   Host header and the name in the certificate stay the URL's.
2. A redirect is a new URL: it is read and judged like the first. At most three are followed, none from https to http.
3. Nothing of this process goes along: no credentials, no cookies, no proxy, no referrer.
4. What comes back is bounded in bytes and in time, all of it together, and is not unpacked.

Importing this module loads the HTTP library, so import it where it is used, not at the head of a module.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import NamedTuple
from urllib.parse import urljoin

import httpx2

from treadle.addresses import Target, check_address, check_target, is_named, literal, read_url
from treadle.errors import OutboundError, OutboundRefused

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 600.0
MAX_CONNECTIONS = 1000
MAX_KEPT_CONNECTIONS = 100
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_REDIRECTS = 3
MAX_ADDRESSES = 4
"""How many addresses of one name are tried."""
FETCH_CONNECT_S = 5.0

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Give the addresses of a name and a port. Errors: OSError where it has none."""


class Fetched(NamedTuple):
    """What an address gave.

    Shapes: `url` is where it was found, after redirects; `media_type` is what the server says of it, in lower
    case and without parameters, and may be wrong.
    """

    url: str
    media_type: str
    content: bytes


class ReplyTooLarge(httpx2.TransportError):
    """The reply is longer than this client reads."""


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends at a limit: silently for the body of an error, whose start says enough, else loudly."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int, *, cut: bool) -> None:
        self._stream = stream
        self._limit = limit
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        async for chunk in self._stream:
            if len(chunk) > left:
                if not self._cut:
                    raise ReplyTooLarge(f"the reply is longer than {self._limit} bytes")
                yield chunk[:left]
                return
            left -= len(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    def __init__(self, max_reply_bytes: int, tls: ssl.SSLContext) -> None:
        limits = httpx2.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_KEPT_CONNECTIONS
        )
        super().__init__(verify=tls, trust_env=False, limits=limits)
        self._max_reply_bytes = max_reply_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        is_error = response.status_code >= 400
        limit = MAX_ERROR_BYTES if is_error else self._max_reply_bytes
        response.stream = _Bounded(response.stream, limit, cut=is_error)
        return response


@functools.cache
def _trusting() -> ssl.SSLContext:
    """Give the context that trusts the system's authorities; reading them takes 35 ms, so it is done once."""
    return httpx2.create_ssl_context(trust_env=False)


@functools.cache
def _trusting_nobody() -> ssl.SSLContext:
    """Give the context of what speaks no TLS."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def http_client(*, has_tls: bool = True, max_reply_bytes: int = MAX_REPLY_BYTES) -> httpx2.AsyncClient:
    """Make an HTTP client; its owner closes it.

    A client without TLS, for plain http addresses, trusts no authority: https fails with it.
    Units: connecting may take 10 s and a silence between two bytes 600 s; how long a whole request may take
    is the caller's to bound. `max_reply_bytes` counts bytes as they arrive; an error's body is cut at 64 KiB.
    Errors: ReplyTooLarge while a longer reply is read, and what the library raises.
    """
    tls = _trusting() if has_tls else _trusting_nobody()
    return httpx2.AsyncClient(
        transport=_BoundedTransport(max_reply_bytes, tls),
        timeout=httpx2.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
        follow_redirects=False,
        trust_env=False,
        # Hazard: a compressed reply of a few kilobytes can unpack to gigabytes; what is not asked for rarely comes.
        headers={"accept-encoding": "identity"},
    )


async def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    accept: str = "*/*",
    named_hosts: Collection[str] = (),
    only_named: bool = False,
    resolver: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
) -> Fetched:
    """Get what stands at an address that a user or a model supplied.

    Shapes: `named_hosts` are those that the operator named, as `host` or `host:port`: their private addresses and
    any port of theirs may be called, on every hop for itself; with `only_named` nobody else is called. `resolver`
    replaces the system's, `tls` the system's authorities.
    Units: `timeout_s` seconds for everything, names and redirects included; `max_bytes` of the content.
    Errors: OutboundRefused where it may not be called; OutboundError where it gave nothing that can be used. Both
    name the host of the hop that they are about.
    """
    target = read_url(url)
    limits = _Limits(max_bytes, accept, tuple(named_hosts), only_named, resolver or _resolve, tls)
    at = [target]
    bound = asyncio.timeout(timeout_s)
    try:
        async with bound:
            return await _follow(at, limits)
    except TimeoutError:
        if not bound.expired():
            raise
        reason = f"gave no whole answer within {round(timeout_s, 2):g} s"
        raise OutboundError(at[-1].host, reason, retryable=True) from None


class _Limits(NamedTuple):
    max_bytes: int
    accept: str
    named: Sequence[str]
    only_named: bool
    resolve: Resolve
    tls: ssl.SSLContext | None


async def _follow(at: list[Target], limits: _Limits) -> Fetched:
    """Get the last of the targets, or what it redirects to; every hop is appended."""
    for _ in range(MAX_REDIRECTS + 1):
        found = await _get(at[-1], limits)
        if isinstance(found, Fetched):
            return found
        at.append(found)
    raise OutboundError(at[0].host, f"redirects more than {MAX_REDIRECTS} times")


async def _get(target: Target, limits: _Limits) -> Fetched | Target:
    """Ask one address of a target; give what it has, or where it redirects to.

    An address that cannot be reached leaves the turn to the next one of the name.
    """
    addresses = await _judged(target, limits)
    failed: httpx2.TransportError | None = None
    for address in addresses[:MAX_ADDRESSES]:
        try:
            return await _ask(target, address, limits)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as e:
            failed = e
        except httpx2.TransportError as e:
            raise OutboundError(target.host, f"broke off: {_said(e)}", retryable=True) from e
    raise OutboundError(target.host, f"cannot be reached: {_said(failed)}", retryable=True) from failed


def _said(error: Exception | None) -> str:
    return str(error) or type(error).__name__


async def _judged(target: Target, limits: _Limits) -> Sequence[str]:
    """Give the addresses of a target, all of which may be called."""
    check_target(target, named=limits.named, only_named=limits.only_named)
    if (address := literal(target.host)) is not None:
        return (address,)
    try:
        addresses = await limits.resolve(target.host, target.port)
    except (OSError, UnicodeError) as e:
        raise OutboundError(target.host, "is a name without an address", retryable=True) from e
    if not addresses:
        raise OutboundError(target.host, "is a name without an address", retryable=True)
    may_be_private = is_named(target, limits.named)
    for address in addresses:
        check_address(target.host, address, is_named=may_be_private)
    return addresses


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


async def _ask(target: Target, address: str, limits: _Limits) -> Fetched | Target:
    extensions: dict[str, object] = {"timeout": {"connect": FETCH_CONNECT_S}}
    if literal(target.host) is None:
        extensions["sni_hostname"] = target.host
    request = httpx2.Request(
        "GET",
        httpx2.URL(scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode()),
        headers={
            "host": target.authority, "user-agent": "treadle", "accept": limits.accept, "accept-encoding": "identity",
            "connection": "close",
        },
        extensions=extensions,
    )  # fmt: skip
    # Hazard: a kept connection is found by its address alone, and would carry the next name that has the same one
    # past the check of its certificate. So each hop has a transport of its own, and nothing is kept.
    tls = limits.tls or (_trusting() if target.scheme == "https" else _trusting_nobody())
    async with httpx2.AsyncHTTPTransport(verify=tls, trust_env=False) as transport:
        response = await transport.handle_async_request(request)
        async with contextlib.aclosing(response):
            if response.status_code in (301, 302, 303, 307, 308):
                return _next(target, response.headers.get("location"))
            return await _read(target, response, limits.max_bytes)


def _next(target: Target, location: str | None) -> Target:
    """Give where a redirect leads to."""
    if location is None:
        raise OutboundError(target.host, "redirects to nowhere")
    try:
        found = read_url(urljoin(target.url, location))
    except OutboundRefused as e:
        raise OutboundRefused(target.host, f"redirects to what {e.reason}") from e
    except ValueError as e:
        raise OutboundRefused(target.host, "redirects to what is no URL") from e
    if target.scheme == "https" and found.scheme == "http":
        raise OutboundRefused(found.host, f"is where '{target.host}' redirects to from https to http")
    return found


_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")


async def _read(target: Target, response: httpx2.Response, max_bytes: int) -> Fetched:
    status = response.status_code
    if status != 200:
        raise OutboundError(target.host, f"answered {status}", retryable=status == 429 or status >= 500)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise OutboundError(target.host, f"answered with content that is packed ({encoding[:40]})")
    too_large = OutboundError(target.host, f"answered with more than {max_bytes} bytes")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise too_large
    content = bytearray()
    async for chunk in response.aiter_raw():
        if len(content) + len(chunk) > max_bytes:
            raise too_large
        content += chunk
    said = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    media_type = said if _MEDIA_TYPE.fullmatch(said) else "application/octet-stream"
    return Fetched(target.url, media_type, bytes(content))
