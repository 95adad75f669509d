"""The one door to the HTTP library: whoever calls out over HTTP gets its client here.

A client of this door ignores the proxy variables of the environment, follows no redirect, asks for no
compression and reads no endless reply. It may call private addresses, because its callers are connections
that the operator declared; an address that a user or a model supplied must not come this way.

Importing this module loads the HTTP library, so import it where a client is made, not at the head of a module.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator

import httpx2

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 600.0
MAX_CONNECTIONS = 1000
MAX_KEPT_CONNECTIONS = 100
MAX_REPLY_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024


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


def http_client(*, has_tls: bool = True, max_reply_bytes: int = MAX_REPLY_BYTES) -> httpx2.AsyncClient:
    """Make an HTTP client; its owner closes it.

    A client without TLS, for plain http addresses, trusts no authority: https fails with it.
    Units: connecting may take 10 s and a silence between two bytes 600 s; how long a whole request may take
    is the caller's to bound. `max_reply_bytes` counts bytes as they arrive; an error's body is cut at 64 KiB.
    Errors: ReplyTooLarge while a longer reply is read, and what the library raises.
    """
    tls = _trusting() if has_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx2.AsyncClient(
        transport=_BoundedTransport(max_reply_bytes, tls),
        timeout=httpx2.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
        follow_redirects=False,
        trust_env=False,
        # Hazard: a compressed reply of a few kilobytes can unpack to gigabytes; what is not asked for rarely comes.
        headers={"accept-encoding": "identity"},
    )
