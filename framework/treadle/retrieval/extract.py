"""The text of files: which ones have it in them, and how it is read, piece by piece.

What a file is called says little; its content decides: text is what decodes as UTF-8 (or, with its mark at the
beginning, as UTF-16) and has no NUL in it. Documents that need a parser, and images, are refused in words that say so.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Literal

MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"SQLite format 3\x00", "application/vnd.sqlite3"),
)
"""How files begin that are no text, whatever their name says."""

DOCUMENTS = {
    "pdf": "PDF documents",
    "doc": "Word documents",
    "docx": "Word documents",
    "ppt": "presentations",
    "pptx": "presentations",
    "xls": "spreadsheets",
    "xlsx": "spreadsheets",
    "odt": "documents in Open Document Format",
    "png": "images",
    "jpg": "images",
    "jpeg": "images",
    "gif": "images",
    "webp": "images",
}
"""Endings of names that promise what nothing here can read."""

THREAD_BYTES = 64 * 1024
"""A piece that is larger is decoded on a thread."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NoText(Exception):
    """A file has no text that can be read; `code` is one of those that a vector store's file can fail with."""

    def __init__(self, code: Literal["invalid_file", "unsupported_file"], message: str) -> None:
        """Say why."""
        self.code: Literal["invalid_file", "unsupported_file"] = code
        self.message = message
        super().__init__(message)


def media_type_of(head: bytes) -> str:
    """Give the media type by how a content begins, whatever anybody says of it."""
    for magic, media_type in MAGIC:
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    try:
        text = _decoder(head).decode(head)
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "application/octet-stream" if "\x00" in text else "text/plain"


class TextReader:
    """Reads the text of one file out of its pieces."""

    def __init__(self, filename: str) -> None:
        """Take the file's name.

        Errors: NoText for a name that promises a document or an image.
        """
        kind = DOCUMENTS.get(filename.rpartition(".")[2].lower())
        if kind is not None and "." in filename:
            raise NoText(
                "unsupported_file",
                f"The file {filename} cannot be searched: the text of {kind} cannot be read here. Upload it as text.",
            )
        self._filename = filename
        self._decoder: codecs.IncrementalDecoder | None = None
        self._is_empty = True

    def feed(self, piece: bytes, *, is_last: bool = False) -> str:
        """Give the text of the next piece.

        Errors: NoText for a piece that is none.
        """
        if self._decoder is None:
            if any(piece.startswith(magic) for magic, _ in MAGIC):
                raise self._no_text(f"its content is {media_type_of(piece)}")
            self._decoder = _decoder(piece)
        try:
            text = self._decoder.decode(piece, is_last)
        except UnicodeDecodeError as e:
            raise self._no_text(f"its content is no {e.encoding.upper()} text") from e
        if "\x00" in text:
            raise self._no_text("its content is binary")
        self._is_empty = self._is_empty and not text
        if is_last and self._is_empty:
            raise NoText("invalid_file", f"The file {self._filename} is empty: there is nothing to search.")
        return text

    def _no_text(self, why: str) -> NoText:
        said = f"The file {self._filename} cannot be searched: {why}. Upload it as text."
        return NoText("unsupported_file", said)


def _decoder(head: bytes) -> codecs.IncrementalDecoder:
    encoding = "utf-16" if head.startswith(_UTF16) else "utf-8-sig"
    return codecs.getincrementaldecoder(encoding)()


async def read_text(content: AsyncIterable[bytes], filename: str) -> AsyncGenerator[str]:
    """Give the text of a file, piece by piece; large pieces are decoded off the event loop.

    Errors: NoText, before anything or at the piece that is no text.
    """
    reader = TextReader(filename)
    async for piece in content:
        if len(piece) > THREAD_BYTES:
            yield await asyncio.to_thread(reader.feed, piece)
        else:
            yield reader.feed(piece)
    yield reader.feed(b"", is_last=True)


async def measure(content: AsyncIterable[bytes], filename: str) -> int:
    """Give how many bytes of UTF-8 the text of a file has.

    Errors: NoText.
    """
    return sum([len(text.encode()) async for text in read_text(content, filename)])
