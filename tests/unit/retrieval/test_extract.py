"""Text is what decodes as text, whatever a file is called; everything else is refused in words that say so."""

import pytest

from treadle.retrieval.extract import DOCUMENTS, NoText, TextReader, measure, media_type_of, read_text


async def pieces(*chunks):
    for chunk in chunks:
        yield chunk


async def text_of(*chunks, filename="a.txt"):
    return "".join([text async for text in read_text(pieces(*chunks), filename)])


@pytest.mark.parametrize(
    "name", ["a.c", "a.cs", "a.cpp", "a.html", "a.java", "a.json", "a.md", "a.php", "a.py", "a.rb", "a.tex", "a.css", "a.js", "a.sh", "a.ts", "a.unheard", "a"]
)  # fmt: skip
async def test_text_is_read_under_any_name(name):
    assert await text_of("Grüße 👋".encode(), filename=name) == "Grüße 👋"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_characters_may_be_cut_between_pieces(encoding, size):
    said = "añ日本語👋" * 20
    encoded = said.encode(encoding)
    cut = [encoded[i : i + size] for i in range(0, len(encoded), size)]
    if encoding != "utf-8" and size < 3:
        cut = [encoded[:4], *([encoded[i : i + size] for i in range(4, len(encoded), size)])]
    assert await text_of(*cut) == said


async def test_large_pieces_are_read_as_small_ones_are():
    said = "ü" * 200_000
    assert await text_of(said.encode()) == said
    assert await measure(pieces(said.encode()[:150_001], said.encode()[150_001:]), "a.txt") == 400_000


@pytest.mark.parametrize("ending", DOCUMENTS)
async def test_documents_and_images_are_refused_by_their_ending(ending):
    with pytest.raises(NoText, match="cannot be read here") as refused:
        await text_of(b"plain text", filename=f"report.{ending.upper()}")
    assert refused.value.code == "unsupported_file"


@pytest.mark.parametrize(
    "content",
    [
        b"%PDF-1.7\n",
        b"PK\x03\x04rest",
        b"\x89PNG\r\n\x1a\n",
        b"a\x00b",
        b"caf\xe9",
        b"ok so far \xff",
        b"cut \xc3",
    ],
)
async def test_other_content_is_refused_whatever_it_is_called(content):
    with pytest.raises(NoText) as refused:
        await text_of(content)
    assert refused.value.code == "unsupported_file"
    assert "a.txt" in refused.value.message


@pytest.mark.parametrize("chunks", [(), (b"",), (b"\xef\xbb\xbf",)])
async def test_an_empty_file_has_nothing_to_search(chunks):
    with pytest.raises(NoText, match="empty") as refused:
        await text_of(*chunks)
    assert refused.value.code == "invalid_file"


def test_a_name_that_only_ends_like_a_document_is_no_document():
    assert TextReader("pdf").feed(b"text") == "text"


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a..", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"%PDF-1.4", "application/pdf"),
        (b"PK\x03\x04", "application/zip"),
        (b"plain", "text/plain"),
        (b"", "text/plain"),
        ("cut in the middle ü".encode()[:-1], "text/plain"),
        (b"\x00\x01", "application/octet-stream"),
        (b"\xfe\xed\xfa", "application/octet-stream"),
    ],
)
def test_the_media_type_is_read_off_the_content(head, media_type):
    assert media_type_of(head) == media_type
