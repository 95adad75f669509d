"""The floor of the server: the same HTTP library answers the same number of bytes, and does nothing else.

``floor_app.py PORT``; the path is the number of bytes of the answer: ``POST /1000``.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Read the request's body and answer as many bytes of JSON as its path says."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    content = b'{"x":"%b"}' % (b"x" * (int(scope["path"][1:]) - 8))
    headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off",
        server_header=False, http="httptools", ws="none",
    )  # fmt: skip
