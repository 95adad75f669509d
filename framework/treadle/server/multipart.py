"""Read a form with a file, piece by piece: nothing of the file waits in memory for the rest of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from treadle.server.problems import Problem
from treadle.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive

MOST_PARTS = 16
MOST_FIELD_BYTES = 4096
MOST_HEADERS, MOST_HEADER_BYTES = 8, 4096
"""How much one part may say of itself, per part and per line."""
MOST_FORM_BYTES = 256 * 1024
"""What a form has beside the content of its file."""
MOST_DRAINED_BYTES = 32 * 1024 * 1024
"""How much of a refused form is read, so that its client comes to read the answer."""


class FileForm:
    """A form as far as it was read.

    Shapes: `fields` are its texts by name, `filename` what the part of the file says; `has_file` tells whether it
    came.
    """

    def __init__(self, boundary: bytes) -> None:
        """Take what parts the form.

        Errors: Problem for a boundary that none can be.
        """
        # The library is part of the server's extra; only an upload needs it.
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.has_file = False
        self.is_whole = False
        self._broken = FormParserError
        self._options: Callable[[str | bytes | None], tuple[bytes, dict[bytes, bytes]]] = parse_options_header
        self._parts = 0
        self._header: list[bytes] = [b"", b""]
        self._name: str | None = None
        self._text = b""
        self._is_file = False
        self._pieces: list[bytes] = []
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._begin_header,
                    "on_header_field": lambda data, start, end: self._add_to_header(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._add_to_header(1, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": lambda data, start, end: self._add(data[start:end]),
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
                max_header_count=MOST_HEADERS,
                max_header_size=MOST_HEADER_BYTES,
            )
        except FormParserError as e:
            raise _malformed(str(e)) from e

    def feed(self, chunk: bytes) -> list[bytes]:
        """Read on, and give what of the file was in it.

        Errors: Problem for what is no form, or too much of one.
        """
        try:
            self._parser.write(chunk)
        except self._broken as e:
            raise _malformed(str(e)) from e
        pieces, self._pieces = self._pieces, []
        return pieces

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _malformed(f"it has more than {MOST_PARTS} parts")
        self._name, self._text, self._is_file = None, b"", False

    def _begin_header(self) -> None:
        self._header = [b"", b""]

    def _add_to_header(self, place: int, text: bytes) -> None:
        self._header[place] += text

    def _end_header(self) -> None:
        name, value = self._header
        if name.strip().lower() != b"content-disposition":
            return
        options = self._options(value)[1]
        self._name = clean(options.get(b"name", b"").decode("utf-8", "replace"))
        self._is_file = self._name == "file"
        if self._is_file and b"filename" in options:
            # Clients write a quotation mark in a name as HTML forms do.
            self.filename = options[b"filename"].decode("utf-8", "replace").replace("%22", '"')

    def _end_headers(self) -> None:
        if not self._name:
            raise _malformed("a part has no name")
        if self._is_file and self.has_file:
            raise Problem(400, "A request uploads one file, this one has several.", param="file")
        if not self._is_file and self._name in self.fields:
            raise Problem(400, f"'{self._name[:50]}' stands twice in the form.", param=self._name[:50])
        self.has_file = self.has_file or self._is_file

    def _add(self, content: bytes) -> None:
        if self._is_file:
            self._pieces.append(content)
            return
        self._text += content
        if len(self._text) > MOST_FIELD_BYTES:
            name = (self._name or "")[:50]
            raise Problem(400, f"'{name}' is too long: at most {MOST_FIELD_BYTES} bytes.", param=name)

    def _end(self) -> None:
        if not self._is_file and self._name is not None:
            self.fields[self._name] = clean(self._text.decode("utf-8", "replace"))

    def _finish(self) -> None:
        self.is_whole = True


def boundary_of(content_type: str | None) -> bytes:
    """Give what parts the form of a request.

    Errors: Problem for a body that is no form.
    """
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise Problem(400, "A file is uploaded as multipart/form-data, with the fields 'file' and 'purpose'.")
    if not options.get(b"boundary"):
        raise _malformed("its content-type has no boundary")
    return options[b"boundary"]


async def chunks_of(receive: Receive, *, most: int) -> AsyncGenerator[bytes]:
    """Give a body as it comes.

    Errors: Problem for one that is too long, and for a client that went away.
    """
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "The request ended before its body did.")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise too_large(most)
        if chunk:
            yield chunk
        if not message.get("more_body"):
            return


async def drained(receive: Receive, *, is_over: Callable[[], bool]) -> None:
    """Read what is left of a refused body, up to a bound: a client that still writes would not read its answer."""
    size = 0
    while not is_over() and size < MOST_DRAINED_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def too_large(most: int) -> Problem:
    """Say that a file is too large."""
    return Problem(
        413,
        f"The file is too large: a file has at most {most} bytes.",
        param="file",
        headers={"connection": "close"},
    )


def _malformed(why: str) -> Problem:
    return Problem(400, f"The form cannot be read: {why}.")
