"""A form is read whatever way it is cut, and whatever is too much of one is refused."""

import random

import pytest

from treadle.server.multipart import MOST_FIELD_BYTES, MOST_PARTS, FileForm, boundary_of, chunks_of
from treadle.server.problems import Problem

FILE = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nassistants'


def form_of(*parts: bytes, end: bytes = b"--B--\r\n") -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end


def read(body: bytes, cuts: tuple[int, ...] = ()) -> tuple[FileForm, bytes]:
    form, content = FileForm(b"B"), b""
    for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True):
        content += b"".join(form.feed(body[start:end]))
    return form, content


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_parts_come_in_any_order(order):
    parts = (FILE + b"line\r\n--A not the end\r\n", PURPOSE)
    form, content = read(form_of(*(parts[i] for i in order)))
    assert content == b"line\r\n--A not the end\r\n"
    assert (form.fields, form.filename, form.has_file, form.is_whole) == (
        {"purpose": "assistants"},
        "a.txt",
        True,
        True,
    )


def test_a_form_may_be_cut_anywhere():
    body = form_of(PURPOSE, FILE + b"\r\n-\r\n--\r\n--A\r\n" * 3)
    whole = read(body)[1]
    for at in range(len(body)):
        form, content = read(body, (at,))
        assert (content, form.is_whole, form.filename) == (whole, True, "a.txt")
    chance = random.Random(1)
    for _ in range(200):
        cuts = tuple(sorted(chance.sample(range(len(body)), 12)))
        assert read(body, cuts)[1] == whole


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'name="file"', None),
        (b'name="file"; filename=""', ""),
        (b"name=file; filename=plain.txt", "plain.txt"),
        ('name="file"; filename="Grüße 👋.txt"'.encode(), "Grüße 👋.txt"),
        (b'name="file"; filename="with %22marks%22.txt"', 'with "marks".txt'),
        (b'name="file"; filename="../../x"', "../../x"),
        (b'name="file"; filename="\xff\xfe"', "\ufffd\ufffd"),
    ],
)
def test_the_part_of_the_file_may_have_a_name(disposition, name):
    form, content = read(form_of(b"content-disposition: form-data; " + disposition + b"\r\n\r\nx", PURPOSE))
    assert (form.filename, form.has_file, content) == (name, True, b"x")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form_of(*([PURPOSE.replace(b"purpose", b"p%d" % n) for n in range(MOST_PARTS + 1)])), "parts"),
        (form_of(PURPOSE + b"x" * MOST_FIELD_BYTES), "too long"),
        (form_of(PURPOSE, PURPOSE), "twice"),
        (form_of(FILE + b"x", FILE + b"y"), "several"),
        (form_of(b"Content-Type: text/plain\r\n\r\nx"), "no name"),
        (form_of(b"X-Long: " + b"x" * 5000 + b"\r\n" + FILE + b"x"), "cannot be read"),
        (form_of(b"".join(b"X-%d: x\r\n" % n for n in range(20)) + FILE + b"x"), "cannot be read"),
        (b"no form at all", "cannot be read"),
        (b"\x00" * 100, "cannot be read"),
    ],
)
def test_what_is_no_form_or_too_much_of_one_is_refused(body, said):
    with pytest.raises(Problem, match=said) as refused:
        read(body)
    assert refused.value.status == 400


@pytest.mark.parametrize("end", [b"", b"--B", b"--B-"])
def test_a_form_without_its_end_is_not_whole(end):
    assert not read(form_of(PURPOSE, FILE + b"x", end=end))[0].is_whole


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        (None, "multipart/form-data"),
        ("application/json", "multipart/form-data"),
        ("multipart/mixed; boundary=B", "multipart/form-data"),
        ("multipart/form-data", "boundary"),
        ("multipart/form-data; boundary=", "boundary"),
    ],
)
def test_a_body_that_says_it_is_something_else_is_refused(content_type, said):
    with pytest.raises(Problem, match=said):
        boundary_of(content_type)


def test_a_boundary_may_stand_in_quotes():
    assert boundary_of('Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"


def test_a_boundary_that_is_too_long_is_refused():
    with pytest.raises(Problem):
        FileForm(b"B" * 10_000)


async def test_a_body_is_read_up_to_its_bound_and_not_beyond():
    sent = [{"type": "http.request", "body": b"x" * 10, "more_body": True}] * 3

    async def receive():
        return sent.pop()

    with pytest.raises(Problem) as refused:
        _ = [chunk async for chunk in chunks_of(receive, most=25)]
    assert refused.value.status == 413


async def test_a_client_that_goes_away_ends_the_reading():
    sent = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"x", "more_body": True}]

    async def receive():
        return sent.pop()

    with pytest.raises(Problem, match="ended"):
        _ = [chunk async for chunk in chunks_of(receive, most=25)]
