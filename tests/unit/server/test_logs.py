"""What stands on stderr, and what never does."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from treadle.server.logs import REDACTED, Redactor, RequestLine, configure, told

LINE = RequestLine(
    at_ms=1_767_225_600_123,
    id="req_1",
    method="POST",
    route="/threads/{thread_id}/messages",
    status=200,
    taken_ms=1.23456,
    tenant="default",
    key_id="key_1",
    bytes_out=700,
    client="127.0.0.1",
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, requests = logging.getLogger("treadle"), logging.getLogger("treadle.request")
    before = (root.level, requests.level, list(root.handlers))
    yield
    root.setLevel(before[0])
    requests.setLevel(before[1])
    root.handlers[:] = before[2]


class Terminal(io.StringIO):
    """Text that says that people read it."""

    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_is_one_line_of_json() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)
    told(LINE)
    assert lines(stream) == [
        {
            "time": "2026-01-01T00:00:00.123Z",
            "logger": "treadle.request",
            "request_id": "req_1",
            "method": "POST",
            "route": "/threads/{thread_id}/messages",
            "status": 200,
            "duration_ms": 1.235,
            "tenant": "default",
            "key_id": "key_1",
            "bytes_out": 700,
            "client": "127.0.0.1",
        }
    ]


def test_people_get_a_line_of_text() -> None:
    stream = io.StringIO()
    configure("text", stream=stream)
    told(LINE)
    (line,) = stream.getvalue().splitlines()
    assert "200  POST   /threads/{thread_id}/messages  1.2 ms  700 B  default  key_1  req_1" in line


def test_the_form_follows_who_reads() -> None:
    for stream, first in ((Terminal(), None), (io.StringIO(), "{")):
        configure(stream=stream)
        told(LINE)
        assert (stream.getvalue()[0] == "{") is (first == "{")


def test_without_requests_only_what_goes_wrong_is_logged() -> None:
    stream = io.StringIO()
    configure("none", stream=stream)
    told(LINE)
    logging.getLogger("treadle.server").warning("wrong")
    assert len(stream.getvalue().splitlines()) == 1


def test_configuring_again_replaces_what_was_before() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("json", stream=first)
    configure("json", stream=second)
    told(LINE)
    assert not first.getvalue()
    assert len(lines(second)) == 1


def test_what_other_parts_log_is_json_too_on_one_line() -> None:
    stream = io.StringIO()
    configure("json", stream=stream)
    try:
        _ = {}["gone"]
    except KeyError:
        logging.getLogger("treadle.server").exception("it\nbroke")
    (line,) = lines(stream)
    assert (line["level"], line["message"]) == ("error", "it\nbroke")
    assert "KeyError: 'gone'" in line["error"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("secret", ["sk-canary-1", 'quo"ted\\canary', "ünïcode-canary"])
def test_a_secret_is_replaced_wherever_it_stands(form: Any, secret: str) -> None:
    stream = io.StringIO()
    configure(form, stream=stream, secrets=["other-secret", secret])
    logger = logging.getLogger("treadle.server")
    logger.warning("it is %s, or %s.", secret, secret)
    logger.error("failed", exc_info=OSError(f"refused: {secret}"))
    assert "canary" not in stream.getvalue()
    assert stream.getvalue().count(REDACTED) >= 2
    if form == "json":
        assert len(lines(stream)) == 2


def test_a_secret_that_becomes_known_later_is_replaced_from_then_on() -> None:
    stream = io.StringIO()
    redactor = configure("json", stream=stream)
    redactor.add("late-secret")
    logging.getLogger("treadle.store").warning("late-secret")
    assert lines(stream)[0]["message"] == REDACTED


def test_the_longer_of_two_secrets_is_replaced_whole() -> None:
    redactor = Redactor(["secret", "secret-and-more"])
    assert redactor.clean("secret-and-more, secret") == f"{REDACTED}, {REDACTED}"


def test_texts_too_short_to_be_secrets_are_left_alone() -> None:
    assert Redactor(["", "a", "key"]).clean("a key") == "a key"


def test_what_a_client_sent_is_not_in_the_traceback_of_what_did_not_fit() -> None:
    class Model(BaseModel):
        number: int

    stream = io.StringIO()
    configure("json", stream=stream)
    sent = {"number": "cana" + "ry\ncontent"}
    try:
        Model.model_validate(sent)
    except ValidationError:
        logging.getLogger("treadle.server").exception("failed")
    assert "canary" not in stream.getvalue()
    assert "number" in lines(stream)[0]["error"]
