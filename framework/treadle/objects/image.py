"""Images as messages have them: where one comes from, what it is by its first bytes, and what is no image.

Nothing here decodes a pixel: media type and size are read from the head of the file.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

from treadle.errors import StateError
from treadle.objects.message import ImageFilePart, ImageUrlPart, Message

MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_SIDE_PIXELS = 16_384
MAX_PIXELS = 100_000_000
_MAX_SEGMENTS = 4096
"""How far the frame of a JPEG is looked for: more notes than any camera writes stand before none."""
_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?:;[\w.+=-]+)*;base64,", re.IGNORECASE | re.ASCII)
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
_SHORT = 80


class ImageHead(NamedTuple):
    """What an image says of itself.

    Units: `width` and `height` in pixels.
    """

    media_type: str
    width: int
    height: int


class ImagePlace(NamedTuple):
    """An image part of a message, and where the image comes from.

    Shapes: `number` counts the parts of the message from 1; `source` is the id of a file or a URL, `name` the same
    for people: short, and without a query, which may be a secret.
    """

    number: int
    source: str
    name: str


def images_of(message: Message) -> Iterator[ImagePlace]:
    """Give the images of a message in their order."""
    for number, part in enumerate(message.parts, 1):
        if isinstance(part, ImageFilePart):
            yield ImagePlace(number, source_of(part), source_of(part))
        elif isinstance(part, ImageUrlPart):
            yield ImagePlace(number, source_of(part), name_of_url(source_of(part)))


def source_of(part: ImageFilePart | ImageUrlPart) -> str:
    """Give where an image comes from: the id of a file, or a URL."""
    return part.image_file.file_id if isinstance(part, ImageFilePart) else part.image_url.url


def detail_of(part: ImageFilePart | ImageUrlPart) -> str:
    """Give how closely an image is to be looked at: auto, low or high."""
    return part.image_file.detail if isinstance(part, ImageFilePart) else part.image_url.detail


def is_data_url(url: str) -> bool:
    """Tell whether a URL carries its content along."""
    return url[:5].lower() == "data:"


def name_of_url(url: str) -> str:
    """Give an image's URL for people: short, without content and without a query."""
    if is_data_url(url):
        found = _DATA_URL.match(url)
        return f"{found['type']} in a data URL" if found else "data URL"
    name = re.split(r"[?#]", url, maxsplit=1)[0]
    return name if len(name) <= _SHORT else f"{name[: _SHORT - 1]}…"


def read_data_url(url: str) -> bytes:
    """Give the content of a data URL: an image that can be sent, whichever of the types it says it is.

    Errors: StateError for another form or media type, and for content that is no image or too large.
    """
    found = _DATA_URL.match(url)
    declared = found["type"].lower() if found else ""
    declared = _ALIASES.get(declared, declared)
    if found is None or declared not in MEDIA_TYPES:
        raise StateError(
            f"it is no image in a data URL ({name_of_url(url)})",
            hint="write data:image/png;base64,… (or jpeg, gif, webp)",
        )
    text = url[found.end() :]
    if len(text) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        raise StateError(f"it is larger than {MAX_IMAGE_BYTES} bytes")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise StateError("it is no base64", hint="encode the bytes once, without line breaks") from e
    check_image(content)
    return content


def check_image(content: bytes) -> ImageHead:
    """Give the head of an image that can be sent.

    Errors: StateError for what is no image, for one that is too large, and for one with too many pixels.
    """
    if len(content) > MAX_IMAGE_BYTES:
        raise StateError(f"it is larger than {MAX_IMAGE_BYTES} bytes")
    head = read_head(content)
    if head is None:
        raise StateError("it is no image that can be sent", hint="send a PNG, JPEG, GIF or WebP")
    if not (head.width and head.height):
        raise StateError("it is an image without pixels")
    if max(head.width, head.height) > MAX_SIDE_PIXELS or head.width * head.height > MAX_PIXELS:
        raise StateError(
            f"it has {head.width} x {head.height} pixels",
            hint=f"at most {MAX_SIDE_PIXELS} on a side and {MAX_PIXELS} in all",
        )
    return head


def read_head(content: bytes) -> ImageHead | None:
    """Give media type and size by the first bytes, whatever anybody says of them; None for what is no image.

    Source: PNG (ISO/IEC 15948) section 11.2.2; GIF89a section 18; JPEG (ITU-T T.81) annex B; RFC 9649 for WebP.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return _gif(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _webp(content)
    return None


def _png(content: bytes) -> ImageHead | None:
    if len(content) < 33 or content[8:16] != b"\x00\x00\x00\x0dIHDR":
        return None
    return ImageHead("image/png", int.from_bytes(content[16:20]), int.from_bytes(content[20:24]))


def _gif(content: bytes) -> ImageHead | None:
    if len(content) < 13:
        return None
    return ImageHead(
        "image/gif", int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    )


def _jpeg(content: bytes) -> ImageHead | None:
    """Walk the segments to the frame, which has the size."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if content[at : at + 1] != b"\xff" or at + 4 > len(content):
            return None
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1  # A marker may be filled up with any number of these.
            continue
        length = int.from_bytes(content[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if length < 8 or at + 9 > len(content):
                return None
            height, width = int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
            return ImageHead("image/jpeg", width, height)
        if length < 2 or marker in (0xD9, 0xDA):
            return None
        at += 2 + length
    return None


def _webp(content: bytes) -> ImageHead | None:
    kind, body = content[12:16], content[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        width, height = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    elif kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (
            int.from_bytes(body[6:8], "little") & 0x3FFF,
            int.from_bytes(body[8:10], "little") & 0x3FFF,
        )
    else:
        return None
    return ImageHead("image/webp", width, height)
