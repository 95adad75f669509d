"""The verbs on files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from treadle.errors import ConfigurationError, Conflict, NotFound, Repeated, StateError
from treadle.objects.file import File, FilePurpose
from treadle.retrieval.extract import media_type_of
from treadle.service.requests import request_of
from treadle.store.base import Order
from treadle.store.base_files import Received, Sink
from treadle.text import clean

if TYPE_CHECKING:
    from treadle.service import Treadle

PURPOSES: tuple[str, ...] = get_args(FilePurpose)
LONGEST_NAME = 255
"""Characters of a file's name."""
LEAST_LIFE_S, MOST_LIFE_S = 3600, 2_592_000
"""How long after its creation a file can be made to expire."""
MOST_AT_ONCE = 32 * 1024 * 1024
"""Bytes of a content that is given in one piece, unless more is asked for."""
_PIECE_BYTES = 256 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Upload:
    """A file that arrives: its content piece by piece, and what it is called once that is known."""

    def __init__(self, treadle: Treadle, id_: str, sink: Sink) -> None:
        """Take the composition root, the id that the file will have, and where its content goes."""
        self._treadle = treadle
        self._id = id_
        self._sink = sink
        self._bytes = 0
        self._received: Received | None = None

    async def write(self, piece: bytes) -> None:
        """Take the next piece.

        Errors: StateError for a file that is too large; StoreError.
        """
        self._bytes += len(piece)
        most = self._treadle.project.serve.limits.file_bytes
        if self._bytes > most:
            raise StateError(
                f"The file is too large: a file has at most {most} bytes.", hint="split the file"
            )
        await self._sink.write(piece)

    async def finish(self) -> Received:
        """Tell what came: nothing can be written after it.

        Errors: StoreError.
        """
        if self._received is None:
            self._received = await self._sink.finish()
        return self._received

    async def keep(
        self,
        *,
        filename: str,
        purpose: str = "assistants",
        expires_after_s: int | None = None,
        key: str | None = None,
    ) -> File:
        """Make the file; it is durable when this returns.

        Shapes: only the base name is kept. `key` is the client's own: the same under the same key gives the first file
        again, for a day. Units: `expires_after_s` seconds from now, an hour to 30 days.

        Errors: StateError for another purpose or lifetime, or where all files together would be too large; Conflict
        for a key that stands for something else.
        """
        treadle = self._treadle
        check_purpose(purpose)
        if expires_after_s is not None and not LEAST_LIFE_S <= expires_after_s <= MOST_LIFE_S:
            raise StateError(
                f"a file expires {LEAST_LIFE_S} to {MOST_LIFE_S} seconds after its creation, not {expires_after_s}"
            )
        name, now = base_name(filename), treadle.clock.now_ms()
        received = await self.finish()
        file = File(
            id=self._id,
            tenant=treadle.tenant,
            filename=name,
            purpose=cast("FilePurpose", purpose),
            bytes=received.bytes,
            sha256=received.sha256,
            media_type=media_type_of(received.head),
            created_ms=now,
            expires_ms=None if expires_after_s is None else now + expires_after_s * 1000,
        )
        asked = {"name": name, "purpose": purpose, "sha256": file.sha256, "expires_after": expires_after_s}
        request = request_of(key, "file", asked, now_ms=now)
        new = self._sink.record(file, most_total=treadle.project.serve.limits.total_file_bytes)
        try:
            await treadle.store.insert(treadle.tenant, new, request=request)
        except Repeated as e:
            return await treadle.files.get(e.object_id)
        except (Conflict, StateError):
            raise
        except BaseException:
            # Whether it is kept nobody can say: then the content must stay. What is not kept is swept later.
            self._sink.release()
            raise
        self._sink.release()
        return file


class Files:
    """Create, get, list and delete files, and read them."""

    def __init__(self, treadle: Treadle) -> None:
        """Take the composition root."""
        self._treadle = treadle

    async def create(
        self,
        content: bytes | Path | AsyncIterable[bytes],
        *,
        filename: str | None = None,
        purpose: str = "assistants",
        expires_after_s: int | None = None,
        key: str | None = None,
    ) -> File:
        """Keep a file; it is durable when this returns.

        Shapes: `content` is the whole of it, a file of this machine, or pieces as they come. `key` and the rest are
        those of `Upload.keep`.

        Errors: those of `Upload`; ConfigurationError for a file of this machine that cannot be read.
        """
        if filename is None:
            if not isinstance(content, Path):
                raise StateError("a file needs a name", hint="filename='notes.txt'")
            filename = content.name
        async with self.upload() as upload, aclosing(_pieces(content)) as pieces:
            async for piece in pieces:
                await upload.write(piece)
            return await upload.keep(
                filename=filename, purpose=purpose, expires_after_s=expires_after_s, key=key
            )

    @asynccontextmanager
    async def upload(self) -> AsyncGenerator[Upload]:
        """Give what a file is uploaded with, piece by piece; what is not kept leaves nothing behind."""
        id_ = self._treadle.ids.new("file")
        async with self._treadle.store.files.sink(self._treadle.tenant, id_) as sink:
            yield Upload(self._treadle, id_, sink)

    async def get(self, file_id: str) -> File:
        """Give a file.

        Errors: NotFound, also for one that has expired.
        """
        treadle = self._treadle
        found = await treadle.store.files.get(File, treadle.tenant, file_id)
        if found.is_expired(treadle.clock.now_ms()):
            raise NotFound("file", file_id)
        return found

    async def list(
        self,
        *,
        purpose: str | None = None,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
    ) -> list[File]:
        """Give a page of files, the newest first, of one purpose or of all.

        Errors: StateError for a purpose that no file has.
        """
        treadle = self._treadle
        if purpose is not None:
            check_purpose(purpose)
        return await treadle.store.files.files(
            treadle.tenant,
            now_ms=treadle.clock.now_ms(),
            purpose=purpose,
            limit=limit,
            order=order,
            after=after,
            before=before,
        )

    async def delete(self, file_id: str) -> File:
        """Delete a file with its content, and take it out of every vector store.

        Errors: NotFound.
        """
        found = await self.get(file_id)
        await self._treadle.store.files.delete_file(self._treadle.tenant, found.id)
        return found

    async def content(self, file_id: str, *, most_bytes: int = MOST_AT_ONCE) -> bytes:
        """Give a whole content; its media type is the file's `media_type`.

        Errors: NotFound; StateError for a file with more than `most_bytes`; StoreError for one that is damaged.
        """
        found = await self.get(file_id)
        if found.bytes > most_bytes:
            raise StateError(f"file {file_id} has {found.bytes} bytes; at most {most_bytes} can be used here")
        async with aclosing(self.pieces(found)) as pieces:
            return b"".join([piece async for piece in pieces])

    def pieces(self, file: File) -> AsyncGenerator[bytes]:
        """Give a content piece by piece; the last one comes once all of them are known to be what was kept.

        Errors: NotFound for a file that was deleted; StoreError for one that is damaged.
        """
        return self._treadle.store.files.content(file)


def check_purpose(purpose: str) -> None:
    """Make sure that files have such a purpose.

    Errors: StateError.
    """
    if purpose not in PURPOSES:
        raise StateError(f"'{purpose[:50]}' is not one of {list(PURPOSES)} - 'purpose'")


def base_name(name: str) -> str:
    """Give the last part of a name, whatever system it is of, as one line of text."""
    last = re.split(r"[/\\]", _CONTROL.sub("", clean(name)))[-1].strip()
    if last in ("", ".", ".."):
        return "upload"
    if len(last) <= LONGEST_NAME:
        return last
    stem, dot, ending = last.rpartition(".")
    if not dot or len(ending) > 16:
        return last[:LONGEST_NAME]
    return f"{stem[: LONGEST_NAME - len(ending) - 1]}.{ending}"


async def _pieces(content: bytes | Path | AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, Path):
        try:
            opened = await asyncio.to_thread(content.open, "rb")
            with opened:
                while piece := await asyncio.to_thread(opened.read, _PIECE_BYTES):
                    yield piece
        except OSError as e:
            raise ConfigurationError(f"cannot read {content}: {e.strerror or e}") from e
    else:
        async for piece in content:
            yield piece
