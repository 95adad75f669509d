"""Images of messages reach the model as contents, wherever they come from; what cannot be had ends no thread."""

import asyncio
import base64
import struct

import pytest

from treadle import wire
from treadle.errors import StateError
from treadle.objects.image import MAX_IMAGE_BYTES
from treadle.objects.project import AllowSpec, Project, ProjectSpec
from treadle.service import images
from treadle.testing.chat_server import ChatServer, Hang, Raw, Reply
from treadle.testing.fakes import FrozenClock, ScriptedProvider
from treadle.testing.web_server import WebServer, redirect


def picture(width=3, height=2, *, pad=0):
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0"
    return head + b"\0" * (8 + pad)


PNG = picture()
DATA = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
PAGE = Raw(PNG, content_type="application/octet-stream", framing="length")


def by_url(url, detail="auto"):
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def by_file(file_id):
    return {"type": "image_file", "image_file": {"file_id": file_id}}


def text(said):
    return {"type": "text", "text": said}


class Gallery:
    """A treadle whose model records what it is asked, with one thread."""

    def __init__(self, treadle, agent, thread_id):
        self.treadle, self.agent, self.thread_id = treadle, agent, thread_id

    async def show(self, *content):
        return await self.treadle.messages.create(self.thread_id, content=list(content))

    async def run(self, **fields):
        return await self.treadle.runs.create_and_wait(self.thread_id, agent=self.agent, **fields)

    @property
    def requests(self):
        return self.treadle.models._given["scripted"].requests

    def sent(self, at=-1):
        """Give the parts of each user message of a request: texts, and contents of images."""
        request = self.requests[at]
        return [
            [
                part.text
                if part.type == "text"
                else request.files[
                    part.image_file.file_id if part.type == "image_file" else part.image_url.url
                ]
                for part in message.content
            ]
            for message in request.messages
            if message.role == "user"
        ]


@pytest.fixture
async def gallery(workshop):
    async def start(
        script=("one", "two", "three", "four"), *, allow=("127.0.0.1",), where="public", tools=(), **spec
    ):
        project = Project(ProjectSpec(allow=AllowSpec(hosts=allow, images=where)), workshop.folder)
        treadle = workshop.open(script, project=project, tools=tools)
        agent = await treadle.agents.create(model=spec.pop("model", "scripted"), tools=tools, **spec)
        return Gallery(treadle, agent, (await treadle.threads.create()).id)

    return start


@pytest.fixture
async def site():
    async with WebServer({"/cat.png": PAGE}) as server:
        yield server


def step(n):
    """Count."""
    return n


THREE_CALLS = [{"calls": [{"name": "step", "arguments": {"n": 1}}]}, {"calls": [{"name": "step", "arguments": {"n": 2}}]}, "done"]  # fmt: skip


# -- what reaches the endpoint


async def test_images_of_every_kind_reach_the_endpoint_as_contents(gallery, site, monkeypatch):
    async with ChatServer([Reply("A cat.")], strict=True) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        shop = await gallery(model="gpt-test")
        file = await shop.treadle.files.create(picture(5, 5), filename="dog.png", purpose="vision")
        await shop.show(
            text("Look."), by_url(DATA), by_url(f"{site.url}/cat.png?token=hush", "low"), by_file(file.id)
        )
        run = await shop.run()
        await shop.treadle.close()
    assert (run.status, run.output) == ("completed", "A cat.")
    content = server.requests[0].messages[-1]["content"]
    assert content == [
        {"type": "text", "text": "Look."},
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(picture(5, 5)).decode()}"},
        },
    ]
    assert b"hush" not in server.requests[0].content
    assert server.objections == []


async def test_the_content_says_what_type_is_sent(gallery, site):
    """A server, a file name and a data URL may all be wrong about it."""
    gif = b"GIF89a\x03\0\x02\0\0\0\0"
    site.pages["/cat.png"] = Raw(gif, content_type="image/png", framing="length")
    shop = await gallery()
    url = f"data:image/jpg;base64,{base64.b64encode(gif).decode()}"
    await shop.show(text("Look."), by_url(f"{site.url}/cat.png"), by_url(url))
    assert (await shop.run()).status == "completed"
    assert shop.sent() == [["Look.", ("image/gif", gif), ("image/gif", gif)]]


async def test_an_image_is_fetched_once_for_all_calls_and_turns(gallery, site):
    shop = await gallery([*THREE_CALLS, "again"], tools=[step])
    await shop.show(text("Look."), by_url(f"{site.url}/cat.png"))
    assert (await shop.run()).status == "completed"
    await shop.show(text("And now?"))
    assert (await shop.run()).status == "completed"
    assert [len(request.files) for request in shop.requests] == [1, 1, 1, 1]
    assert len(site.requests) == 1


async def test_an_image_is_fetched_again_after_a_while(gallery, site, monkeypatch):
    monkeypatch.setattr(images, "KEPT_S", -1.0)
    shop = await gallery()
    await shop.show(by_url(f"{site.url}/cat.png"))
    await shop.run()
    await shop.show(text("And now?"))
    await shop.run()
    assert len(site.requests) == 2


async def test_a_redirect_is_followed_to_the_image(gallery, site):
    site.pages["/moved"] = redirect("/cat.png")
    shop = await gallery()
    await shop.show(by_url(f"{site.url}/moved"))
    assert (await shop.run()).status == "completed"
    assert shop.sent() == [[("image/png", PNG)]]


async def test_a_server_that_fails_for_a_moment_is_asked_once_more(gallery, site):
    answers = [Raw(b"", status=503, framing="length"), PAGE]
    site.pages["/cat.png"] = lambda _: answers.pop(0)
    shop = await gallery()
    await shop.show(by_url(f"{site.url}/cat.png"))
    assert (await shop.run()).status == "completed"


async def test_a_message_without_images_asks_nobody(gallery, site):
    shop = await gallery()
    await shop.show(text("a"), text("b"))
    assert (await shop.run()).status == "completed"
    assert shop.requests[0].files == {}


async def test_the_offline_model_says_that_there_is_an_image(gallery, site):
    shop = await gallery(model="offline")
    await shop.show(text("What is in the picture?"), by_url(f"{site.url}/cat.png"))
    run = await shop.run()
    assert "I cannot see the image of the message (PNG, 3 x 2 pixels)." in run.output


# -- what a message may not have


@pytest.mark.parametrize(
    "url",
    [
        "", "cat.png", "ftp://example.com/cat.png", "file:///etc/passwd", "javascript:alert(1)", "http://user:pw@example.com/cat.png",
        "http://10.0.0.1/cat.png", "http://[::1]/cat.png", "http://[::ffff:127.0.0.1]/cat.png", "http://2130706433/cat.png",
        "http://169.254.169.254/latest/meta-data/", "http://metadata.google.internal/", "http://example.com:22/cat.png",
        "data:image/png;base64,AA==", "data:image/svg+xml;base64,AA==", "data:image/png;base64,!", "data:text/plain,hi",
        f"data:image/png;base64,{base64.b64encode(picture(20_000, 1)).decode()}",
    ],
)  # fmt: skip
async def test_a_message_with_an_image_that_could_never_be_sent_is_refused(gallery, url):
    shop = await gallery()
    with pytest.raises(StateError, match="part 2 of the content"):
        await shop.show(text("Look."), by_url(url))
    with pytest.raises(StateError, match="part 1 of the content"):
        await shop.treadle.threads.create(messages=[{"role": "user", "content": [by_url(url), text("x")]}])
    assert await shop.treadle.messages.list(shop.thread_id) == []


async def test_a_project_may_allow_no_images_by_address(gallery, site):
    shop = await gallery(where="none")
    for url in (f"{site.url}/cat.png", "https://example.com/cat.png"):
        with pytest.raises(StateError, match="not allowed here") as refused:
            await shop.show(by_url(url))
        assert "upload" in refused.value.hint
    await shop.show(by_url(DATA))
    assert (await shop.run()).status == "completed"


async def test_a_project_may_allow_images_of_named_hosts_only(gallery, site):
    shop = await gallery(where="named")
    with pytest.raises(StateError, match=r"'example\.com' is not named by the operator"):
        await shop.show(by_url("https://example.com/cat.png"))
    await shop.show(by_url(f"{site.url}/cat.png"))
    assert (await shop.run()).status == "completed"


async def test_a_project_that_allows_no_addresses_any_more_fetches_none(gallery, site, workshop):
    shop = await gallery()
    message = await shop.show(by_url(f"{site.url}/cat.png"))
    project = Project(ProjectSpec(allow=AllowSpec(images="none")), workshop.folder)
    strict = workshop.open(["ok"], project=project)
    run = await strict.runs.create_and_wait(shop.thread_id, agent=shop.agent)
    assert (run.status, run.last_error.code) == ("failed", "image")
    assert message.id in run.last_error.message
    assert site.requests == []


# -- what cannot be had


async def failing(shop, *content):
    message = await shop.show(*content)
    run = await shop.run()
    assert (run.status, run.last_error.code) == ("failed", "image")
    assert f"part {len(content)} of message {message.id} is an image" in run.last_error.message
    assert wire.last_error(run.last_error)["code"] == "invalid_prompt"
    assert shop.requests == []
    return run.last_error.message


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (Raw(b"<html>", content_type="image/png", framing="length"), "it is no image that can be sent"),
        (Raw(b"", status=404, framing="length"), "'127.0.0.1' answered 404"),
        (Raw(picture(pad=MAX_IMAGE_BYTES), framing="length"), "more than 20971520 bytes"),
        (Raw(picture(16_000, 16_000), framing="length"), "it has 16000 x 16000 pixels"),
        (Raw(PNG, headers={"Content-Encoding": "gzip"}, framing="length"), "packed (gzip)"),
        (redirect("http://10.0.0.1/cat.png"), "'10.0.0.1' is a private address, and is not called"),
        (redirect("http://localhost:8080/"), "'localhost' leads to a loopback address, and is not called"),
        (redirect("http://169.254.169.254/"), "is not called"),
    ],
)
async def test_an_image_of_the_newest_message_that_cannot_be_had_fails_the_run(gallery, site, page, said):
    site.pages["/cat.png"] = page
    shop = await gallery()
    message = await failing(shop, text("Look."), by_url(f"{site.url}/cat.png?token=hush"))
    assert said in message
    assert "hush" not in message
    assert f"({site.url}/cat.png)" in message


async def test_a_name_that_leads_to_this_machine_is_not_called(gallery, site):
    shop = await gallery(allow=())
    message = await failing(shop, by_url("http://localhost:8080/cat.png"))
    assert "'localhost' leads to a loopback address, and is not called" in message


async def test_a_file_that_is_no_image_or_too_large_fails_the_run(gallery):
    shop = await gallery()
    note = await shop.treadle.files.create(b"just text", filename="a.txt")
    assert "it is no image that can be sent" in await failing(shop, by_file(note.id))
    large = await shop.treadle.files.create(picture(pad=MAX_IMAGE_BYTES), filename="a.png")
    assert "20971520" in await failing(shop, by_file(large.id))


async def test_a_file_that_is_gone_before_its_turn_fails_the_run(gallery):
    shop = await gallery()
    file = await shop.treadle.files.create(PNG, filename="a.png", purpose="vision")
    await shop.show(by_file(file.id))
    await shop.treadle.files.delete(file.id)
    run = await shop.run()
    assert (run.status, run.last_error.code) == ("failed", "image")
    assert f"No file found with id '{file.id}'" in run.last_error.message


async def test_files_of_another_tenant_are_not_shown(gallery):
    shop = await gallery()
    other = await shop.treadle.scoped("other").files.create(PNG, filename="a.png", purpose="vision")
    with pytest.raises(StateError, match="No file found"):
        await shop.show(by_file(other.id))
    assert "No file found" in (await shop.treadle.images.load("default", [other.id], [])).missing[other.id]
    assert (await shop.treadle.images.load("other", [other.id], [])).files[other.id] == ("image/png", PNG)


async def test_an_image_that_could_not_be_had_is_a_note_on_later_turns(gallery, site):
    site.pages.clear()
    shop = await gallery()
    url = f"{site.url}/cat.png"
    message = await failing(shop, text("Look."), by_url(url))
    reason = message.rpartition(": ")[2]
    await shop.show(text("Never mind."))
    assert (await shop.run()).status == "completed"
    await shop.show(text("Go on."), by_url(DATA))
    assert (await shop.run()).status == "completed"
    note = f"[image {url} could not be loaded: {reason}]"
    assert shop.sent() == [["Look.", note], ["Never mind."], ["Go on.", ("image/png", PNG)]]
    assert "answered 404" in note


async def test_an_image_that_vanished_after_its_turn_is_a_note(gallery):
    shop = await gallery()
    file = await shop.treadle.files.create(PNG, filename="a.png", purpose="vision")
    await shop.show(by_file(file.id))
    assert (await shop.run()).status == "completed"
    await shop.treadle.files.delete(file.id)
    await shop.show(text("And now?"))
    assert (await shop.run()).status == "completed"
    assert shop.sent() == [
        [f"[image {file.id} could not be loaded: No file found with id '{file.id}'.]"],
        ["And now?"],
    ]


async def test_a_run_on_the_same_message_succeeds_once_the_image_is_there(gallery, site):
    site.pages.clear()
    shop = await gallery()
    await failing(shop, by_url(f"{site.url}/cat.png"))
    site.pages["/cat.png"] = PAGE
    assert (await shop.run()).status == "completed"


async def test_a_missing_image_of_an_earlier_turn_is_looked_for_once_in_a_run(gallery, site):
    site.pages.clear()
    shop = await gallery(THREE_CALLS, tools=[step])
    await shop.show(by_url(f"{site.url}/cat.png"))
    await shop.show(text("Count."))
    assert (await shop.run()).status == "completed"
    assert len(shop.requests) == 3
    assert len(site.requests) == 1


# -- bounds


async def test_of_many_images_the_newest_are_sent(gallery, site, monkeypatch):
    monkeypatch.setattr(images, "MAX_CALL_BYTES", 3 * len(PNG) + 10)
    site.pages = {f"/{n}.png": PAGE for n in range(5)}
    shop = await gallery()
    for n in range(5):
        await shop.show(text(str(n)), by_url(f"{site.url}/{n}.png"))
    assert (await shop.run()).status == "completed"
    assert [isinstance(image, str) for _, image in shop.sent()] == [True, True, False, False, False]
    assert "larger than" in shop.sent()[0][1]


async def test_a_message_whose_own_images_are_too_many_fails_its_run(gallery, site, monkeypatch):
    monkeypatch.setattr(images, "MAX_CALL_BYTES", len(PNG) + 10)
    shop = await gallery()
    file = await shop.treadle.files.create(PNG, filename="a.png", purpose="vision")
    assert "larger than" in await failing(shop, by_url(f"{site.url}/cat.png"), by_file(file.id))


async def test_what_is_kept_is_bounded_and_the_tenants_own(site, monkeypatch):
    monkeypatch.setattr(images, "MAX_KEPT_BYTES", 3000)

    async def read_file(tenant, file_id, most_bytes):
        raise NotImplementedError

    site.pages = {f"/{n}.png": PAGE for n in range(3)}
    loader = images.Images(AllowSpec(hosts=("127.0.0.1",)), clock=FrozenClock(), read_file=read_file)
    zero, one, two = (f"{site.url}/{n}.png" for n in range(3))
    for tenant, url in (
        ("a", zero),
        ("a", zero),
        ("b", zero),
        ("b", one),
        ("b", one),
        ("a", zero),
        ("a", two),
    ):
        assert (await loader.load(tenant, [url], [])).files == {url: ("image/png", PNG)}
    assert [r.path for r in site.requests] == ["/0.png", "/0.png", "/1.png", "/0.png", "/2.png"]


# -- time


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_run_that_fetches_can_be_cancelled(gallery, site):
    site.pages["/cat.png"] = Hang()
    shop = await gallery()
    await shop.show(by_url(f"{site.url}/cat.png"))
    run = await shop.treadle.runs.create(shop.thread_id, agent=shop.agent)
    await until(lambda: site.requests)
    await shop.treadle.runs.cancel(run.id)
    ended = await shop.treadle.runs.wait(run.id)
    assert ended.status == "cancelled"
    await until(lambda: site.abandoned)
    assert shop.requests == []


async def test_a_server_that_never_answers_fails_the_run_in_time(gallery, site):
    site.pages["/cat.png"] = Hang()
    shop = await gallery()
    shop.treadle.images.fetch_s = 0.3
    assert "no whole answer within 0.3 s" in await failing(shop, by_url(f"{site.url}/cat.png"))
    assert len(site.requests) == 1


async def test_the_time_of_a_model_call_counts_over_its_images(gallery, site):
    site.pages["/cat.png"] = Hang()
    shop = await gallery(timeout="200ms")
    await shop.show(by_url(f"{site.url}/cat.png"))
    run = await shop.run()
    assert (run.status, run.last_error.code) == ("failed", "timeout")


async def test_the_time_of_a_run_counts_over_its_images(gallery, site):
    site.pages["/cat.png"] = Hang()
    shop = await gallery(limits={"timeout": "300ms"})
    await shop.show(by_url(f"{site.url}/cat.png"))
    run = await shop.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "timeout")


async def test_a_run_that_was_left_while_it_fetched_goes_on_elsewhere(gallery, site, workshop):
    site.pages["/cat.png"] = Hang()
    shop = await gallery()
    await shop.show(by_url(f"{site.url}/cat.png"))
    run = await shop.treadle.runs.create(shop.thread_id, agent=shop.agent)
    await until(lambda: site.requests)
    shop.treadle.executor.lose()
    await shop.treadle.close()
    site.pages["/cat.png"] = PAGE
    again = workshop.open(
        ScriptedProvider(["there"]), project=Project(shop.treadle.project, workshop.folder), walk=True
    )
    async with again:
        assert (await again.runs.wait(run.id)).output == "there"
