"""What an image is by its first bytes, and which data URLs can be sent."""

import base64
import struct
import time

import pytest

from treadle.errors import StateError
from treadle.objects.image import (
    MAX_IMAGE_BYTES,
    check_image,
    images_of,
    name_of_url,
    read_data_url,
    read_head,
)
from treadle.objects.message import ImageFile, ImageFilePart, ImageUrl, ImageUrlPart, Message, TextPart


def png(width=3, height=2):
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
        + struct.pack(">II", width, height)
        + b"\x08\x02\0\0\0"
        + b"\0" * 8
    )


def jpeg(width=3, height=2, *, before=b"\xff\xe0\x00\x04JF", marker=0xC0):
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 11, 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8" + before + frame + b"\xff\xda\x00\x02"


def gif(width=3, height=2, version=b"GIF89a"):
    return version + struct.pack("<HH", width, height) + b"\0\0\0"


def webp(kind, body):
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def lossy(width, height):
    return webp(b"VP8 ", b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", width | 0x4000, height))


def lossless(width, height):
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\0" * 8)


def extended(width, height):
    return webp(b"VP8X", b"\0" * 4 + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3])


FORMS = [
    (png, "image/png"), (jpeg, "image/jpeg"), (gif, "image/gif"), (lossy, "image/webp"), (lossless, "image/webp"),
    (extended, "image/webp"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "media_type"), FORMS)
@pytest.mark.parametrize(("width", "height"), [(3, 2), (1, 1), (640, 480), (16383, 500), (257, 511)])
def test_type_and_size_are_read_from_the_head(make, media_type, width, height):
    assert read_head(make(width, height)) == (media_type, width, height)


def test_a_real_png_and_what_follows_it_are_read():
    real = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    )
    assert read_head(real) == ("image/png", 1, 1)


@pytest.mark.parametrize(
    "content",
    [
        jpeg(before=b"\xff\xe1\x00\x08ExifXX\xff\xdb\x00\x03q"), jpeg(before=b"\xff\xff\xff\xff\xe0\x00\x02"), jpeg(marker=0xC2),
        jpeg(before=b"\xff\xc4\x00\x04\x00\x00"), jpeg(before=b"\xff\xe0\x00\x02" * 100),
    ],
)  # fmt: skip
def test_the_frame_of_a_jpeg_is_found_behind_its_notes(content):
    assert read_head(content) == ("image/jpeg", 3, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x89PNG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"BM" + b"\0" * 60, b"II*\0" + b"\0" * 60, b"%PDF-1.7",
        b"\x00\x00\x00\x1cftypavif" + b"\0" * 30, b"RIFF\0\0\0\0WAVEfmt " + b"\0" * 30, b"GIF90a" + b"\0" * 20, b"\0" * 100, b"<html>",
        b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xda\0\x02" + jpeg()[2:], b"\xff\xd8\xff\xe0\0\x01" + jpeg()[2:], b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIDAT" + b"\1" * 30, webp(b"VP8 ", b"\0" * 10), webp(b"VP8L", b"\0" * 13), webp(b"ALPH", b"\0" * 10),
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5000 + jpeg()[2:],
    ],
)  # fmt: skip
def test_what_is_no_image_that_can_be_sent_is_none(content):
    assert read_head(content) is None
    with pytest.raises(StateError, match="no image that can be sent"):
        check_image(content)


@pytest.mark.parametrize(("make", "media_type"), FORMS)
def test_a_head_that_is_cut_anywhere_is_no_image_and_no_crash(make, media_type):
    whole = make(300, 200)
    for end in range(len(whole)):
        head = read_head(whole[:end])
        assert head is None or head == (media_type, 300, 200)


@pytest.mark.parametrize(
    "content", [b"\xff\xd8" + b"\xff" * 5_000_000, b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1_000_000]
)
def test_a_jpeg_of_nothing_but_markers_takes_no_time(content):
    began = time.perf_counter()
    assert read_head(content) is None
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    "content",
    [png(16_385, 1), png(1, 16_385), png(16_000, 16_000), png(2**32 - 1, 2**32 - 1), extended(2**24, 1)],
)
def test_an_image_with_too_many_pixels_is_refused(content):
    with pytest.raises(StateError, match=r"it has \d+ x \d+ pixels"):
        check_image(content)


@pytest.mark.parametrize("content", [png(0, 5), gif(5, 0), jpeg(0, 0)])
def test_an_image_without_pixels_is_refused(content):
    with pytest.raises(StateError, match="without pixels"):
        check_image(content)


def test_an_image_of_too_many_bytes_is_refused():
    check_image(png() + b"\0" * (MAX_IMAGE_BYTES - len(png())))
    with pytest.raises(StateError, match="larger than 20971520 bytes"):
        check_image(png() + b"\0" * MAX_IMAGE_BYTES)


PNG = base64.b64encode(png()).decode()


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:Image/PNG;Base64,", "data:image/jpg;base64,", "data:image/png;charset=utf-8;base64,"]
)  # fmt: skip
def test_a_data_url_gives_its_image_whichever_type_it_names(head):
    assert read_data_url(head + PNG) == png()


@pytest.mark.parametrize(
    "url",
    [
        "data:", "data:,", f"data:;base64,{PNG}", f"data:text/html;base64,{PNG}", f"data:image/svg+xml;base64,{PNG}",
        f"data:image/bmp;base64,{PNG}", f"data:image/png,{PNG}", f"data:image/png;base64{PNG}", f"data:image/png;base64;{PNG}",
        "data:image/png;base64,", "data:image/png;base64,AA==", "data:image/png;base64,<svg/>", f"data:image/png;base64,{PNG[:-1]}",
        f"data:image/png;base64,{PNG[:8]}\n{PNG[8:]}", f"data:image/png;base64, {PNG}", f"data:image/png;base64,{PNG}%3D",
        f"data:image/png;base64,é{PNG}", "data:image/png;base64,PHN2Zy8+", "data:image/png" + ";a" * 50_000,
        "data:image/png;" + "A" * 500_000,
    ],
)  # fmt: skip
def test_another_data_url_is_refused(url):
    with pytest.raises(StateError):
        read_data_url(url)


def test_a_data_url_that_is_too_large_is_refused_before_it_is_decoded():
    with pytest.raises(StateError, match="larger than"):
        read_data_url("data:image/png;base64," + "A" * (MAX_IMAGE_BYTES * 4 // 3 + 5))


def test_the_images_of_a_message_are_numbered_among_its_parts_and_named_without_secrets():
    message = Message(
        thread_id="thread_1",
        role="user",
        created_ms=0,
        parts=(
            TextPart(text="look"),
            ImageFilePart(image_file=ImageFile(file_id="file_1")),
            ImageUrlPart(image_url=ImageUrl(url="https://example.com/cat.png?sig=secret#x")),
            ImageUrlPart(image_url=ImageUrl(url=f"data:image/png;base64,{PNG}")),
        ),
    )
    assert [(p.number, p.name) for p in images_of(message)] == [
        (2, "file_1"),
        (3, "https://example.com/cat.png"),
        (4, "image/png in a data URL"),
    ]
    assert len(name_of_url("https://example.com/" + "x" * 500)) == 80
