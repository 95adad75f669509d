"""What is looked at before anything else of a request, as a table of what passes and what does not."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from treadle.errors import ConfigurationError
from treadle.objects.project import ServeSpec
from treadle.server import door
from treadle.server.problems import Problem

Header = tuple[bytes, bytes]
GATE = door.gate_of(
    ServeSpec(allow_hosts=("app.example", "2001:db8::7"), allow_origins=("https://App.example/",))
)

SERVED = [
    "localhost", "localhost:8000", "LocalHost:1", "127.0.0.1", "127.0.0.1:65535", "[::1]", "[::1]:8000", "app.example",
    "APP.example:443", "[2001:db8::7]:80",
]  # fmt: skip
NOT_SERVED = [
    "0.0.0.0", "0.0.0.0:8000", "[::]", "[::]:8000", "localhost.", "localhost.:8000", "127.0.0.1.", "127.1", "127.0.0.2",
    "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[0:0:0:0:0:0:0:1]", "evil.example", "localhost.evil.example",
    "evil-localhost", "sub.app.example", "app.example.", "169.254.169.254", "192.168.0.1:8000", "[fe80::1]",
]  # fmt: skip
MALFORMED = [
    "", " ", ":8000", "localhost:", "localhost:80a", "localhost:123456", "user@localhost", "user:pass@localhost:8000",
    "localhost/", "localhost/..", "localhost#", "localhost?x", "localhost,evil.example", "localhost evil.example",
    "local\thost", "[::1", "::1", "[::1%25eth0]", "%6cocalhost", "localhost\x00", "localhost\n", "http://localhost", "löcalhost",
]  # fmt: skip


def headers(**fields: str) -> list[Header]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]


def status_of(call: Callable[[], Any]) -> int:
    try:
        call()
    except Problem as e:
        return 500 if any("access-control" in name for name in e.headers) else e.status
    return 200


def asked(
    method: str = "GET", raw: bytes = b"/threads", *, scheme: str = "http", **fields: str
) -> dict[str, Any]:
    return {
        "method": method, "raw_path": raw, "path": raw.decode("latin-1"), "scheme": scheme, "headers": headers(**fields),
    }  # fmt: skip


@pytest.mark.parametrize("host", SERVED)
def test_a_name_that_is_served_passes_with_any_port(host: str) -> None:
    assert door.check_host(GATE, headers(host=host)) == host.encode()


@pytest.mark.parametrize("host", NOT_SERVED)
def test_nothing_is_served_under_another_name(host: str) -> None:
    assert status_of(lambda: door.check_host(GATE, headers(host=host))) == 403


@pytest.mark.parametrize("host", MALFORMED)
def test_a_malformed_host_is_no_host(host: str) -> None:
    assert status_of(lambda: door.check_host(GATE, headers(host=host))) == 400


def test_a_request_names_one_host() -> None:
    assert status_of(lambda: door.check_host(GATE, [])) == 400
    twice = [*headers(host="localhost"), *headers(host="localhost")]
    assert status_of(lambda: door.check_host(GATE, twice)) == 400


@pytest.mark.parametrize(
    ("bound", "host", "status"),
    [
        ("192.168.0.7", "192.168.0.7:8000", 200), ("server.lan", "server.LAN", 200), ("2001:db8::1", "[2001:db8::1]:8000", 200),
        ("0.0.0.0", "0.0.0.0:8000", 403), ("::", "[::]:8000", 403), ("0.0.0.0", "192.168.0.7", 403), ("::", "localhost", 200),
    ],
)  # fmt: skip
def test_the_bound_address_is_a_name_unless_it_is_every_one(bound: str, host: str, status: int) -> None:
    gate = door.gate_of(ServeSpec(host=bound))
    assert status_of(lambda: door.check_host(gate, headers(host=host))) == status


@pytest.mark.parametrize(
    "spec",
    [
        *({"allow_hosts": (name,)} for name in ("0.0.0.0", "::", "[::]", "*", "*.example", "a:1", "http://a", "a/b", "", "ä")),
        *({"allow_origins": (o,)} for o in ("*", "null", "app.example", "ftp://a", "https://a/b", "https://", "")),
    ],
)  # fmt: skip
def test_a_name_or_an_origin_that_none_can_be_is_refused_at_the_start(spec: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"serve\.allow_"):
        door.gate_of(ServeSpec(**spec))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"http://localhost:8000/threads", 200), (b"HTTP://LOCALHOST:8000/threads?x", 200), (b"http://localhost:8000", 200),
        (b"http://evil.example/threads", 400), (b"http://localhost/threads", 400), (b"http://u@localhost:8000/threads", 400),
        (b"*", 400), (b"", 400), (b"threads", 400), (b"localhost:8000", 400), (b"file:///threads", 400),
    ],
)  # fmt: skip
def test_a_whole_address_names_the_host_of_the_header(raw: bytes, status: int) -> None:
    scope = asked(raw=raw, host="localhost:8000")
    assert status_of(lambda: door.check(GATE, scope)) == status
    if b"/threads" in raw and status == 200:
        assert door.check(GATE, scope) == (None, "/threads")


OWN, ALLOWED = "http://localhost:8000", "https://app.example"
FOREIGN = [
    "null", "", "http://evil.example", "http://localhost", "http://localhost:8001", "https://localhost:8000",
    "http://127.0.0.1:8000", "http://localhost:8000.evil.example", "http://localhost:8000/", "https://app.example:8443",
    "http://app.example", "https://app.example https://evil.example", "file://", "localhost:8000",
]  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "UNHEARD"])
@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_somebody_else_changes_nothing(method: str, origin: str) -> None:
    for scope in (
        asked(method, host="localhost:8000", origin=origin),
        asked(host="localhost:8000", origin=origin),
    ):
        assert status_of(lambda scope=scope: door.check(GATE, scope)) == (
            403 if scope["method"] == method else 200
        )


@pytest.mark.parametrize("origin", [OWN, "HTTP://LOCALHOST:8000", ALLOWED, None])
def test_a_page_of_ours_or_no_page_may_change_something(origin: str | None) -> None:
    fields = {"host": "localhost:8000"} | ({} if origin is None else {"origin": origin})
    assert status_of(lambda: door.check(GATE, asked("POST", **fields))) == 200
    assert status_of(lambda: door.check(GATE, asked("DELETE", **fields))) == 200


def test_two_origins_are_none_of_ours() -> None:
    scope = asked("POST", host="localhost:8000", origin=OWN)
    scope["headers"] += headers(origin=OWN)
    assert status_of(lambda: door.check(GATE, scope)) == 403


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": OWN}, {"origin": ALLOWED}, {"origin": "null"}, {"access_control_request_method": "POST"},
        {"access_control_request_private_network": "true"}, {"access_control_request_local_network": "true"},
        {"access_control_request_headers": "authorization"},
    ],
)  # fmt: skip
def test_no_page_is_permitted_to_ask(fields: dict[str, str]) -> None:
    assert status_of(lambda: door.check(GATE, asked("OPTIONS", host="localhost", **fields))) == 403
    assert status_of(lambda: door.check(GATE, asked("OPTIONS", host="localhost"))) == 200


@pytest.mark.parametrize(
    ("said", "when_empty", "when_full"),
    [
        (None, 200, 415), ("application/json", 200, 200), ("Application/JSON; charset=utf-8", 200, 200),
        ("application/json;charset=utf-8", 200, 200), (" application/json ", 200, 200), ("", 415, 415), ("text/plain", 415, 415),
        ("text/plain; application/json", 415, 415), ("application/json-seq", 415, 415), ("application/jsonp", 415, 415),
        ("text/json", 415, 415), ("application/x-www-form-urlencoded", 415, 415), ("multipart/form-data; boundary=x", 415, 415),
        ("application/json, text/plain", 415, 415), ("json", 415, 415), ("*/*", 415, 415),
    ],
)  # fmt: skip
def test_a_body_says_that_it_is_json(said: str | None, when_empty: int, when_full: int) -> None:
    given = [] if said is None else headers(content_type=said)
    assert status_of(lambda: door.check_json(given, is_empty=True)) == when_empty
    assert status_of(lambda: door.check_json(given, is_empty=False)) == when_full


def test_two_types_are_none() -> None:
    twice = [*headers(content_type="application/json"), *headers(content_type="text/plain")]
    assert status_of(lambda: door.check_json(twice, is_empty=False)) == 415


@pytest.mark.parametrize(
    "rest", ["/threads", "/threads/thread_1/messages", "/files/assistant-1/content", "/"]
)
@pytest.mark.parametrize(
    ("project", "openai", "v1", "slash"),
    [
        (project, openai, v1, slash)
        for project in (None, "acme", "v1", "openai", "A.b_c-9", "x" * 128)
        for openai, v1, slash in itertools.product(("", "/openai"), ("", "/v1"), ("", "/"))
    ],
)
def test_every_mount_leads_to_the_same_path(
    project: str | None, openai: str, v1: str, slash: str, rest: str
) -> None:
    raw = f"{f'/api/projects/{project}' if project else ''}{openai}{v1}{rest.rstrip('/')}{slash}" or "/"
    assert door.mounted(raw.encode()) == (project, rest)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v1x/threads", "/v1x/threads"), (b"/openaiv1/threads", "/openaiv1/threads"), (b"/v1/openai/threads", "/openai/threads"),
        (b"/v1/v1/threads", "/v1/threads"), (b"/api/projects", "/api/projects"), (b"/api/projects/-x/threads", "/api/projects/-x/threads"),
        (b"/v1/api/projects/acme/threads", "/api/projects/acme/threads"), (b"/threads/a..b", "/threads/a..b"), (b"/threads/...", "/threads/..."),
        (b"/api/projects/" + b"x" * 129, "/api/projects/" + "x" * 129),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_mount_is_part_of_the_path(raw: bytes, path: str) -> None:
    assert door.mounted(raw) == (None, path)


HOSTILE = [
    b"threads", b"//", b"//threads", b"/threads//", b"/threads//x", b"/v1//threads", b"/threads/..", b"/threads/../files",
    b"/threads/.", b"/./threads", b"/..", b"/api/projects/..", b"/api/projects/../v1/threads", b"/api/projects/acme/../other/threads",
    b"/api/projects/acme/..", b"/%74hreads", b"/threads/%2e%2e", b"/threads/%2E%2E/files", b"/threads/..%2f", b"/threads/a%2fb", b"/threads/%00",
    b"/threads/\x00", b"/threads/a\x00", b"/threads/a\\b", b"/threads/..\\..", b"/threads/%5c", b"/threads/%252e%252e", b"/threads/%c0%ae%c0%ae",
    b"/threads/%e3%80%82", b"/threads/\xe3\x80\x82", b"/threads/\xff", b"/threads/%ff", b"/threads/%", b"/threads/%zz", b"/threads/a b", b"/threads/a%20b",
    b"/threads/\n", b"/threads\n", b"/threads/a\r\nx: y", b"/threads?x", b"/threads#x", b"/threads/<x>", b"/threads/{x}", b"/threads/a|b", b'/threads/"',
    b"/api/projects/%61cme/threads", b"/api/projects/ac%2fme/threads", b"/api/projects//threads", b"/api//projects/acme", b"/openai/%761/threads",
]  # fmt: skip


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_path_with_tricks_is_no_path(raw: bytes) -> None:
    assert door.mounted(raw) is None
    if raw.startswith(b"/"):
        assert status_of(lambda: door.check(GATE, asked(raw=raw, host="localhost"))) == 404


def test_a_long_path_is_looked_at_once() -> None:
    """Hundreds of thousands of segments that fail at the end: an expression that goes back would not come back."""
    assert door.mounted(b"/a" * 500_000 + b"//") is None
    assert door.mounted(b"/api/projects/a" * 100_000 + b"%") is None
    assert status_of(lambda: door.check_host(GATE, headers(host="a." * 500_000 + "!"))) == 400


@pytest.mark.parametrize("name", ["a", "9", "acme", "A.b_c-9", "CON", "x" * 128])
def test_a_tenant_s_name_is_one_that_a_path_can_have(name: str) -> None:
    assert door.is_tenant(name)
    assert door.mounted(f"/api/projects/{name}/threads".encode()) == (name, "/threads")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "ä", "a%", "x" * 129, "a\x00"]
)
def test_another_name_is_none(name: str) -> None:
    assert not door.is_tenant(name)
