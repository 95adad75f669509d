"""A real HTTP server on 127.0.0.1 for what is fetched in tests: pages, redirects, and every fault of a server.

It answers `GET` with the turns of `treadle.testing.chat_server`, so that the faults are the same:

    async with WebServer({"/cat.png": Raw(picture, content_type="image/png")}) as server:
        await fetch(f"{server.url}/cat.png", …, named_hosts=["127.0.0.1"])
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping

from treadle.testing.chat_server import ChatServer, Raw, Request, Turn


class WebServer(ChatServer):
    """Serve pages by their paths; one that is not there is answered 404."""

    def __init__(
        self,
        pages: Mapping[str, Turn | Callable[[Request], Turn]] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take the pages, or functions that give them, by path; `pages` may be changed while it serves."""
        super().__init__()
        self.pages = dict(pages or {})
        self._tls = tls

    @property
    def url(self) -> str:
        """Give the address of the server, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Take connections, at the port that was served before `refuse`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

    def _turn(self, request: Request) -> Turn:
        page = self.pages.get(request.path)
        if page is None:
            return Raw(b"not here", status=404, content_type="text/plain", framing="length")
        return page(request) if callable(page) else page


def redirect(location: str, *, status: int = 302) -> Raw:
    """Give a turn that redirects."""
    return Raw(
        b"elsewhere",
        status=status,
        content_type="text/plain",
        headers={"Location": location},
        framing="length",
    )
