"""Files: uploaded piece by piece, and given back as they were."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import StreamingResponse

from treadle import wire
from treadle.server.call import Call, Page, paged
from treadle.server.multipart import MOST_FORM_BYTES, FileForm, boundary_of, chunks_of, drained, too_large
from treadle.server.problems import Problem
from treadle.server.replay import durable_of

if TYPE_CHECKING:
    from starlette.types import Message

    from treadle.objects.file import File
    from treadle.service.files import Upload

MOST_LISTED = 10_000
"""How long a page of files can be, and is where nobody says: one of the clients asks for one page only."""
_FIELDS = frozenset({"purpose", "filename", "expires_after[anchor]", "expires_after[seconds]"})
_NUMBER = re.compile(r"\d{1,12}\Z", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9 ._()+-]+\Z", re.ASCII)


async def create(call: Call) -> wire.Json:
    """Keep an uploaded file."""
    is_over = False

    async def receive() -> Message:
        nonlocal is_over
        message = await call.receive()
        is_over = message["type"] == "http.disconnect" or not message.get("more_body")
        return message

    try:
        return wire.file(await _received(call, receive))
    except Exception:
        await drained(receive, is_over=lambda: is_over)
        raise


async def _received(call: Call, receive: Any) -> File:
    most = call.server.spec.limits.file_bytes
    length = call.header("content-length")
    if length is not None and length.isdigit() and int(length) > most + MOST_FORM_BYTES:
        raise too_large(most)
    form = FileForm(boundary_of(call.header("content-type")))
    async with (
        call.treadle.files.upload() as upload,
        aclosing(chunks_of(receive, most=most + MOST_FORM_BYTES)) as chunks,
    ):
        size = 0
        async for chunk in chunks:
            for piece in form.feed(chunk):
                size += len(piece)
                if size > most:
                    raise too_large(most)
                await upload.write(piece)
        return await _kept(call, form, upload)


async def _kept(call: Call, form: FileForm, upload: Upload) -> File:
    if not form.is_whole:
        raise Problem(400, "The form ended before its last part did.")
    for name in form.fields.keys() - _FIELDS:
        raise Problem(400, f"Invalid request. Parameter `{name[:50]}` is not supported.", param=name[:50])
    for name, is_there in (("file", form.has_file), ("purpose", "purpose" in form.fields)):
        if not is_there:
            said = f"Missing required parameter: '{name}'."
            raise Problem(400, said, param=name, code="missing_required_parameter")
    fields = form.fields
    received = await upload.finish()
    seen = repr((sorted(fields.items()), form.filename, received.sha256)).encode()
    return await upload.keep(
        # The name in a field of its own is what its client means; that of the part may be a stand-in.
        filename=fields.get("filename") or form.filename or "",
        purpose=fields["purpose"],
        expires_after_s=_lifetime(fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")),
        key=durable_of(call.key, seen),
    )


def _lifetime(anchor: str | None, seconds: str | None) -> int | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise Problem(
            400, "Invalid 'expires_after.anchor': expected 'created_at'.", param="expires_after[anchor]"
        )
    if seconds is None or not _NUMBER.match(seconds):
        raise Problem(
            400, "Invalid 'expires_after.seconds': expected a number.", param="expires_after[seconds]"
        )
    return int(seconds)


async def list_(call: Call) -> wire.Json:
    """Give a page of files, of one purpose where that is named."""
    purpose = call.asked("purpose")

    async def fetch(page: Page) -> list[File]:
        return await call.treadle.files.list(purpose=purpose, **page._asdict())

    return await paged(call.page(most=MOST_LISTED, usual=MOST_LISTED), fetch, wire.file)


async def get(call: Call) -> wire.Json:
    """Give what is known of a file."""
    return wire.file(await call.treadle.files.get(call.id("file_id")))


async def delete(call: Call) -> wire.Json:
    """Delete a file, and take it out of every vector store."""
    found = await call.treadle.files.delete(call.id("file_id"))
    return {"id": found.id, "object": "file", "deleted": True}


async def content(call: Call) -> StreamingResponse:
    """Give a file's content as it was uploaded: to be kept, not to be shown or run."""
    found = await call.treadle.files.get(call.id("file_id"))
    headers = {
        "content-length": str(found.bytes),
        "content-disposition": _disposition(found.filename),
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
    }
    pieces = call.treadle.files.pieces(found)
    return StreamingResponse(await _begun(pieces), 200, headers, "application/octet-stream")


async def _begun(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Read the first piece before the answer begins: a content that cannot be read is an error, not half an answer."""
    first = await anext(pieces, b"")

    async def all_of_them() -> AsyncGenerator[bytes]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return all_of_them()


def _disposition(filename: str) -> str:
    if _PLAIN.match(filename):
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
