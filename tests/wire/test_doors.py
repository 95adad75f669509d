"""Who gets through the doors of a real server: keys, tenants, names, origins, types and paths, route by route."""

import http.client
import itertools
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from treadle.ids import secret
from treadle.objects.key import SECRET_CHARS, text_of
from treadle.objects.project import ServeSpec
from treadle.objects.workflow import WorkflowSpec
from treadle.providers.scripted import ScriptedProvider
from treadle.server import app, sse
from treadle.server.routes import PUBLIC, ROUTES, Route
from treadle.store.connection import connect
from treadle.testing.served import Served, served

FUNCTION = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
HUMAN = {
    "name": "ask", "start": "q", "nodes": {"q": {"type": "human", "kind": "approval", "ask": "Fine?", "next": "end"}},
}  # fmt: skip
FORM = "multipart/form-data; boundary=edge"
UPLOAD = (
    b'--edge\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    b'--edge\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\na secret\r\n--edge--\r\n'
)
NOUNS = {"step_id": "run step", "file_batch_id": "file batch"}
"""Parameters of a path whose noun is not their name."""
WHOLE = [route for route in ROUTES if "{" in route.path]


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def said(self) -> tuple[int, str, str | None]:
        """Give what an error says: its status, its message and its code."""
        return self.status, self.json["error"]["message"], self.json["error"]["code"]


def ask(url: str, method: str, target: str | bytes, body: Any = None, **headers: str | None) -> Answer:
    """Send a request as it is written here, byte for byte, and read the answer.

    Shapes: a body of bytes is the form of an upload, any other one JSON. A header that is None is left out; an
    underscore stands for a dash.
    """
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    host, _, port = url.removeprefix("http://").partition(":")
    fields: dict[str, str | None] = {"host": f"{host}:{port}", "content-length": str(len(content))}
    if content:
        fields["content-type"] = FORM if isinstance(body, bytes) else "application/json"
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = b"".join(f"{n}: {v}\r\n".encode("latin-1") for n, v in fields.items() if v is not None)
    path = target.encode() if isinstance(target, str) else target
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(method.encode() + b" " + path + b" HTTP/1.1\r\n" + head + b"\r\n" + content)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        told = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, told, response.read())
    assert not [name for name in told if name.startswith("access-control-")]
    return answer


@dataclass
class Tenant:
    """A tenant, a key of its own, and what it has: an id for every parameter of a path."""

    place: Served
    name: str
    key: str
    ids: dict[str, str] = field(default_factory=dict)
    call_id: str = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str | None) -> Answer:
        return ask(self.place.url, method, path, body, **{"authorization": f"Bearer {self.key}"} | headers)

    def made(self, path: str, body: Any) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status == 200, answer
        return answer.json

    def work(self) -> None:
        """Make one of everything; the run waits for its client."""
        assistant = self.made("/assistants", {"model": "scripted", "tools": [FUNCTION], "name": self.name})
        thread = self.made("/threads", {"metadata": {"of": self.name}})
        message = self.made(
            f"/threads/{thread['id']}/messages", {"role": "user", "content": f"a word of {self.name}"}
        )
        run = self.made(f"/threads/{thread['id']}/runs", {"assistant_id": assistant["id"]})
        path = f"/threads/{thread['id']}/runs/{run['id']}"
        until(lambda: self.ask("GET", path).json["status"] == "requires_action")
        action = self.ask("GET", path).json["required_action"]["submit_tool_outputs"]
        (step,) = self.ask("GET", f"{path}/steps").json["data"]
        self.call_id = action["tool_calls"][0]["id"]
        spec = WorkflowSpec.model_validate(HUMAN)
        workflow = self.place.do(self.place.treadle.scoped(self.name).workflows.apply(spec))
        file = self.made("/files", UPLOAD)
        store = self.made("/vector_stores", {"name": self.name})
        batch = self.made(f"/vector_stores/{store['id']}/file_batches", {"file_ids": [file["id"]]})
        path = f"/vector_stores/{store['id']}/file_batches/{batch['id']}"
        until(lambda: self.ask("GET", path).json["status"] == "completed")
        self.ids = {
            "assistant_id": assistant["id"], "thread_id": thread["id"], "message_id": message["id"], "run_id": run["id"],
            "step_id": step["id"], "file_id": file["id"], "vector_store_id": store["id"],
            "file_batch_id": batch["id"], "workflow_id": workflow.id,
        }  # fmt: skip

    def body(self, route: Route, of: "Tenant") -> Any:
        """Give a body that a route takes, in which everything that is named is of a tenant."""
        if route.body is None:
            return UPLOAD if route.multipart else None
        return {
            "MessageCreate": {"role": "user", "content": "stolen"},
            "RunCreate": {"assistant_id": of.ids["assistant_id"]},
            "ThreadRunCreate": {"assistant_id": of.ids["assistant_id"]},
            "SubmitToolOutputs": {"tool_outputs": [{"tool_call_id": of.call_id, "output": "stolen"}]},
            "AnswerCreate": {"decision": "approve"},
            "WorkflowRunCreate": {},
            "AgentCreate": {"model": "scripted"},
            "AgentUpdate": {"instructions": "stolen"},
            "ThreadCreate": {},
            "ThreadUpdate": {"metadata": {"stolen": "yes"}},
            "MetadataUpdate": {"metadata": {"stolen": "yes"}},
            "VectorStoreCreate": {"file_ids": [of.ids["file_id"]]},
            "VectorStoreUpdate": {"name": "stolen"},
            "VectorStoreSearch": {"query": "secret"},
            "VectorStoreFileCreate": {"file_id": of.ids["file_id"]},
            "VectorStoreFileUpdate": {"attributes": {"stolen": "yes"}},
            "FileBatchCreate": {"file_ids": [of.ids["file_id"]]},
        }[route.body.__name__]


def until(holds: Callable[[], bool], *, seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


class Stage(NamedTuple):
    """A server with two tenants that have one of everything each."""

    place: Served
    store: Path
    acme: Tenant
    other: Tenant
    revoked: str


def waiting(_: Any) -> Any:
    return {"calls": [{"name": "look_up", "arguments": {}}]}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("doors")
    spec = ServeSpec(allow_hosts=("app.example",), allow_origins=("https://app.example",))
    store = folder / "treadle.db"
    with served(
        f"sqlite:///{store}",
        project=folder,
        providers={"scripted": ScriptedProvider(waiting)},
        spec=spec,
        no_auth=False,
    ) as place:
        tenants = [
            Tenant(place, name, place.do(place.treadle.keys.create(tenant=name))[1])
            for name in ("acme", "other")
        ]
        for tenant in tenants:
            tenant.work()
        key, revoked = place.do(place.treadle.keys.create(tenant="acme"))
        place.do(place.treadle.scoped("acme").keys.revoke(key.id))
        yield Stage(place, store, tenants[0], tenants[1], revoked)


def label(route: Route) -> str:
    return f"{route.method} {route.path}"


def filled(route: Route, ids: dict[str, str]) -> str:
    return route.path.format_map(ids)


def parameters(route: Route) -> list[str]:
    return [piece[1:-1] for piece in route.path.split("/") if piece.startswith("{")]


def rows_of(stage: Stage, tenant: str) -> dict[str, list[Any]]:
    """Give every row that the store has of a tenant."""
    # Hazard: another copy of SQLite in this process would let go of the locks of the store's own.
    with closing(connect(stage.store)) as connection:
        found: dict[str, list[Any]] = {}
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            if any(column[1] == "tenant" for column in connection.execute(f'PRAGMA table_info("{table}")')):
                rows = connection.execute(f'SELECT * FROM "{table}" WHERE tenant = ?', (tenant,)).fetchall()
                found[table] = sorted(rows, key=repr)
        return found


# -- keys --------------------------------------------------------------------------------------------------------

MISSING = "You did not provide an API key. Send it as 'Authorization: Bearer KEY' or as 'api-key: KEY'."
WRONG = "Incorrect API key provided: it is unknown, revoked, or of another project."


@pytest.mark.parametrize("route", ROUTES, ids=label)
def test_a_route_answers_a_bad_key_as_every_other_does(stage: Stage, route: Route) -> None:
    place, acme = stage.place, stage.acme
    before = rows_of(stage, "acme")
    stranger = text_of(place.treadle.ids.new("key"), secret(SECRET_CHARS))
    shown: list[tuple[str, dict[str, str]]] = [
        (MISSING, {}), (MISSING, {"x_api_key": acme.key}), (MISSING, {"cookie": f"api-key={acme.key}"}),
        (WRONG, {"authorization": acme.key}), (WRONG, {"authorization": f"Basic {acme.key}"}),
        (WRONG, {"authorization": f"Bearer {acme.key}", "api_key": stage.other.key}),
    ]  # fmt: skip
    for key in (stranger, stage.revoked, acme.key[:-1], acme.key + "x", "null", "undefined"):
        shown += [(WRONG, {"authorization": f"Bearer {key}"}), (WRONG, {"api_key": key})]
    path, body = filled(route, acme.ids), acme.body(route, acme)
    for message, headers in shown:
        answer = ask(place.url, route.method, path, body, **headers)
        assert answer.said == (401, message, "invalid_api_key"), headers
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "retry-after" not in answer.headers
        assert (
            ask(place.url, route.method, f"{path}?api-key={acme.key}&key={acme.key}", body, **headers).status
            == 401
        )
    assert rows_of(stage, "acme") == before


@pytest.mark.parametrize("route", ROUTES, ids=label)
def test_a_route_takes_a_key_in_either_header(stage: Stage, route: Route) -> None:
    acme = stage.acme
    nothing = dict.fromkeys(acme.ids, f"none_{'0' * 24}")
    body = acme.body(route, acme)
    answers = [
        ask(stage.place.url, route.method, filled(route, nothing), body, **headers)
        for headers in (
            {"authorization": f"Bearer {acme.key}"}, {"api_key": acme.key}, {"authorization": f"bearer {acme.key}"},
            {"authorization": f"Bearer {acme.key}", "api_key": acme.key},
        )
    ]  # fmt: skip
    if parameters(route):
        assert {answer.said for answer in answers} == {answers[0].said}
        assert answers[0].status == 404
    else:
        assert {answer.status for answer in answers} == {200}
        assert len({tuple(sorted(answer.json)) for answer in answers}) == 1


@pytest.mark.parametrize("route", ROUTES, ids=label)
@pytest.mark.parametrize("mount", ["", "/v1", "/openai", "/openai/v1"])
def test_a_key_of_one_project_opens_no_other_and_does_not_tell_whether_it_exists(
    stage: Stage, route: Route, mount: str
) -> None:
    place, acme, other = stage.place, stage.acme, stage.other
    before = rows_of(stage, "acme")
    path, body = filled(route, acme.ids), acme.body(route, acme)
    for project in ("acme", "default", "never-heard-of"):
        answer = other.ask(route.method, f"/api/projects/{project}{mount}{path}", body)
        assert answer.said == (401, WRONG, "invalid_api_key")
    assert rows_of(stage, "acme") == before
    assert ask(place.url, route.method, f"/api/projects/acme{mount}{path}", body).said[:2] == (401, MISSING)


@pytest.mark.parametrize(
    "mount", ["", "/v1", "/openai", "/openai/v1", "/api/projects/acme", "/api/projects/acme/openai/v1"]
)
def test_what_is_open_to_everybody_is_written_down(stage: Stage, mount: str) -> None:
    assert {
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/docs",
    } == PUBLIC  # Another one is a decision, made here as well.
    answered = {route.path for route in app.router(stage.place.server).routes} | PUBLIC  # pyright: ignore[reportAttributeAccessIssue] - all of them are routes
    paths = {path.format_map(stage.acme.ids) for path in answered} | {
        "/",
        "/nowhere",
        "/metrics",
        "/threads/",
        "/docs/x",
        "/Docs",
    }
    for method in ("GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "UNHEARD"):
        is_open = {
            path for path in paths if ask(stage.place.url, method, mount + path).status not in (400, 401)
        }
        assert is_open <= PUBLIC
    assert {path for path in paths if ask(stage.place.url, "GET", mount + path).status == 200} == PUBLIC


# -- tenants -----------------------------------------------------------------------------------------------------


def mixed(route: Route, own: dict[str, str], foreign: dict[str, str]) -> Iterator[dict[str, str]]:
    """Give every mixture of own and foreign ids of a path."""
    names = parameters(route)
    for choice in itertools.product([False, True], repeat=len(names)):
        if any(choice):
            yield {
                n: (foreign if is_foreign else own)[n] for n, is_foreign in zip(names, choice, strict=True)
            }


def not_found(name: str, id_: str, *, path: str = "") -> str:
    """Give what is said of a parameter whose object is not there."""
    if name == "file_id" and "/vector_stores" in path:
        return f"No vector store file found with id '{id_}'."
    return f"No {NOUNS.get(name, name.removesuffix('_id').replace('_', ' '))} found with id '{id_}'."


@pytest.mark.parametrize("route", WHOLE, ids=label)
def test_what_another_tenant_has_is_not_there(stage: Stage, route: Route) -> None:
    """Each operation of each route, with ids of another tenant in every place: 404, and nothing of it changes."""
    acme, other = stage.acme, stage.other
    before, own_before = rows_of(stage, "acme"), rows_of(stage, "other")
    asked = 0
    for ids in mixed(route, other.ids, acme.ids):
        for owner in (acme, other):
            answer = other.ask(route.method, filled(route, ids), other.body(route, owner))
            named = [n for place, n in enumerate(parameters(route)) if place or ids[n] == acme.ids[n]]
            said = {not_found(name, ids[name], path=route.path) for name in named}
            if owner is acme and route.body is not None and route.body.__name__ == "RunCreate":
                said.add(not_found("assistant_id", acme.ids["assistant_id"]))
            assert answer.status == 404, (ids, answer)
            assert answer.json["error"] | {"message": ""} == {"message": "", "type": "invalid_request_error", "param": None, "code": None}  # fmt: skip
            assert answer.json["error"]["message"] in said
            asked += 1
    assert asked >= 2
    assert rows_of(stage, "acme") == before
    assert {t: rows for t, rows in rows_of(stage, "other").items() if t != "requests"} == {
        t: rows for t, rows in own_before.items() if t != "requests"
    }


def test_the_matrix_of_tenants_has_an_object_for_every_parameter(stage: Stage) -> None:
    named = {name for route in ROUTES for name in parameters(route)}
    assert named == set(stage.acme.ids) == set(stage.other.ids)
    assert not {*stage.acme.ids.values()} & {*stage.other.ids.values()}
    for route in WHOLE:
        if route.method == "GET" and route.streams == "never":
            assert stage.acme.ask("GET", filled(route, stage.acme.ids)).status == 200, route


def test_a_workflow_of_another_tenant_runs_nowhere(stage: Stage) -> None:
    acme, other = stage.acme, stage.other
    before = rows_of(stage, "acme")
    thread = other.made("/threads", {})["id"]
    said = (404, f"No assistant found with id '{acme.ids['workflow_id']}'.", None)
    for path in (f"/threads/{thread}/runs", "/threads/runs"):
        assert other.ask("POST", path, {"assistant_id": acme.ids["workflow_id"]}).said == said
    own = {"thread_id": acme.ids["thread_id"]}
    answer = other.ask("POST", f"/workflows/{other.ids['workflow_id']}/runs", own)
    assert answer.said == (404, f"No thread found with id '{acme.ids['thread_id']}'.", None)
    assert rows_of(stage, "acme") == before


def test_an_assistant_of_another_tenant_runs_nowhere(stage: Stage) -> None:
    acme, other = stage.acme, stage.other
    said = (404, f"No assistant found with id '{acme.ids['assistant_id']}'.", None)
    body = {"assistant_id": acme.ids["assistant_id"]}
    before = rows_of(stage, "acme")
    thread = other.made("/threads", {})["id"]
    assert other.ask("POST", f"/threads/{thread}/runs", body).said == said
    assert other.ask("POST", f"/threads/{thread}/runs", body | {"stream": True}).said == said
    assert other.ask("POST", "/threads/runs", body | {"stream": True}).said == said
    assert rows_of(stage, "acme") == before


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/vector_stores", {"file_ids": ["{file_id}"]}),
        ("/vector_stores/{own_store}/files", {"file_id": "{file_id}"}),
        ("/vector_stores/{own_store}/file_batches", {"file_ids": ["{file_id}"]}),
        ("/vector_stores/{own_store}/file_batches", {"files": [{"file_id": "{file_id}"}]}),
        ("/threads/{own_thread}/messages", {"role": "user", "content": "x", "attachments": [{"file_id": "{file_id}", "tools": [{"type": "file_search"}]}]}),
        ("/threads/{own_thread}/messages", {"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": "{file_id}"}}]}),
        ("/threads", {"messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "{file_id}", "tools": [{"type": "code_interpreter"}]}]}]}),
        ("/threads", {"tool_resources": {"file_search": {"vector_store_ids": ["{vector_store_id}"]}}}),
        ("/threads", {"tool_resources": {"code_interpreter": {"file_ids": ["{file_id}"]}}}),
        ("/threads/{own_thread}", {"tool_resources": {"file_search": {"vector_store_ids": ["{vector_store_id}"]}}}),
        ("/assistants", {"model": "scripted", "tool_resources": {"file_search": {"vector_store_ids": ["{vector_store_id}"]}}}),
        ("/assistants/{own_assistant}", {"tool_resources": {"code_interpreter": {"file_ids": ["{file_id}"]}}}),
        ("/threads/runs", {"assistant_id": "{own_assistant}", "thread": {"messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "{file_id}", "tools": [{"type": "file_search"}]}]}]}}),
    ],
)  # fmt: skip
def test_what_a_body_names_of_another_tenant_is_as_unknown_as_what_nobody_has(
    stage: Stage, target: str, body: Any
) -> None:
    acme, other = stage.acme, stage.other
    before = rows_of(stage, "acme")
    own = {
        "own_store": other.ids["vector_store_id"],
        "own_thread": other.made("/threads", {})["id"],
        "own_assistant": other.ids["assistant_id"],
    }

    def said(ids: dict[str, str]) -> tuple[int, str]:
        text = re.sub(r"{(\w+)}", lambda found: (own | ids)[found[1]], json.dumps([target, body]))
        answer = other.ask("POST", *json.loads(text))
        told = answer.json["error"]["message"] if answer.status != 200 else ""
        return answer.status, re.sub("|".join(ids.values()), "ID", told)

    foreign = said(acme.ids)
    assert foreign == said(
        {name: f"{id_[:-1]}{'x' if id_[-1] != 'x' else 'y'}" for name, id_ in acme.ids.items()}
    )
    assert foreign[0] in (400, 404)
    assert foreign[1].endswith("found with id 'ID'.")
    assert rows_of(stage, "acme") == before


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if "after" in r.query and r.streams == "never"], ids=label
)
def test_a_list_tells_nothing_of_another_tenant_whatever_stands_behind_it(stage: Stage, route: Route) -> None:
    acme, other = stage.acme, stage.other
    path = filled(route, other.ids)
    for id_ in acme.ids.values():
        stranger = f"{id_[:-1]}{'x' if id_[-1] != 'x' else 'y'}"
        for query in ("after={}", "before={}", "after={}&order=asc", "run_id={}"):
            answer = other.ask("GET", f"{path}?{query.format(id_)}")
            assert answer.status == 200
            assert not any(text in answer.body.decode() for text in (*acme.ids.values(), "a word of acme"))
            assert answer.body == other.ask("GET", f"{path}?{query.format(stranger)}").body


# -- names, origins and types ------------------------------------------------------------------------------------

HOSTS = {
    "{own}": 200, "localhost": 200, "LOCALHOST:1": 200, "[::1]:9": 200, "app.example": 200, "evil.example": 403, "0.0.0.0": 403,
    "0.0.0.0:{port}": 403, "[::]:{port}": 403, "localhost.": 403, "localhost.:{port}": 403, "127.0.0.1.": 403, "127.1": 403,
    "user@localhost": 400, "localhost:": 400, "": 400,
}  # fmt: skip
ORIGINS: dict[str | None, bool] = {
    None: True, "http://{host}": True, "https://app.example": True, "https://{host}": False, "null": False, "http://evil.example": False,
    "http://{host}.evil.example": False, "": False,
}  # fmt: skip
TYPES: dict[str | None, bool] = {
    "application/json": True, "application/json; charset=utf-8": True, "APPLICATION/JSON": True, None: False, "text/plain": False,
    "application/x-www-form-urlencoded": False, "multipart/form-data; boundary=x": False, "text/plain; a=application/json": False,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_a_request_is_let_in_by_its_host_then_its_origin_then_its_type(
    stage: Stage, host: str, origin: str | None
) -> None:
    own = stage.place.url.removeprefix("http://")
    named = host.format(own=own, port=own.partition(":")[2])
    page = None if origin is None else origin.format(host=named.lower())
    for type_, is_json in TYPES.items():
        expected = HOSTS[host]
        if expected == 200:
            is_ours = ORIGINS[origin] or page == "https://app.example"
            expected = 403 if not is_ours else 200 if is_json else 415
        answer = stage.acme.ask("POST", "/v1/threads", {}, host=named, origin=page, content_type=type_)
        assert answer.status == expected, (named, page, type_, answer)
        assert expected == 200 or answer.headers["content-type"] == "application/json"
    for path in (
        "/v1/threads",
        *sorted(PUBLIC),
        f"/threads/{stage.acme.ids['thread_id']}/runs/x/events",
        "/nowhere",
    ):
        status = stage.acme.ask("GET", path, host=named, origin=page).status
        assert status == HOSTS[host] if HOSTS[host] != 200 else status in (200, 404), path


def test_a_request_names_one_host(stage: Stage) -> None:
    assert stage.acme.ask("GET", "/threads", host=None).status == 400
    host = stage.place.url.removeprefix("http://")
    assert stage.acme.ask("GET", "/threads", host=f"{host}\r\nhost: {host}").status == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://{host}/threads", 200),
        ("http://{host}/v1/threads?limit=1", 200),
        ("http://evil.example/threads", 400),
        ("*", 400),
    ],
)
def test_a_whole_address_names_the_host_of_the_header(stage: Stage, target: str, status: int) -> None:
    host = stage.place.url.removeprefix("http://")
    assert stage.acme.ask("GET", target.format(host=host)).status == status


@pytest.mark.parametrize("route", ROUTES, ids=label)
def test_no_page_of_another_origin_may_ask_or_change_anything(stage: Stage, route: Route) -> None:
    acme = stage.acme
    path, body, before = filled(route, acme.ids), acme.body(route, acme), rows_of(stage, "acme")
    for page in ("http://evil.example", "null", "https://app.example"):
        asking = {
            "access_control_request_method": route.method,
            "access_control_request_private_network": "true",
        }
        assert acme.ask("OPTIONS", path, origin=page, **asking).status == 403
        assert acme.ask("OPTIONS", path, **asking).status == 403
        if route.method != "GET" and page != "https://app.example":
            assert acme.ask(route.method, path, body, origin=page).status == 403
            assert acme.ask(route.method, path, origin=page, content_type="text/plain").status == 403
    if route.method == "POST" and not route.multipart:
        for type_ in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = acme.ask("POST", path, body or {}, content_type=type_)
            assert (answer.status, "application/json" in answer.said[1]) == (415, True)
    assert rows_of(stage, "acme") == before


# -- paths -------------------------------------------------------------------------------------------------------

NO_IDS = [
    "..", ".", "...", "-", "_", "~", "CON", "con", "NUL", "aux.txt", "COM1", "LPT1.", "C:", "a:b", "*", "+", ",", ";", "'", "@", "x" * 129, "x" * 5000,
    "%2e%2e", "%2E%2E", "%2e", "..%2f..%2fetc%2fpasswd", "%2f", "%5c", "..%5c", "%00", "a%00b", "%0a", "%0d%0ax:y", "%20", "%25", "%252e%252e", "%ff", "%c0%ae%c0%ae",
    "%e3%80%82%e3%80%82", "%ef%bc%8e", "%e2%80%ae", "%u002e", "%", "%zz", "..;", "a|b", "a\\b", "..\\..", "{}", "<script>", "'; DROP TABLE threads; --",
    "$(id)", "${env:HOME}", "{{7*7}}", "__proto__", "null", "undefined", "0", "-1", "1e999", "true",
]  # fmt: skip


@pytest.mark.parametrize("route", WHOLE, ids=label)
def test_an_id_that_none_can_be_is_not_found_and_breaks_nothing(stage: Stage, route: Route) -> None:
    acme = stage.acme
    before = rows_of(stage, "acme")
    for name in parameters(route):
        for hostile in NO_IDS:
            path = route.path.format_map(acme.ids | {name: hostile.replace(" ", "+")})
            answer = acme.ask(route.method, path, acme.body(route, acme))
            assert answer.status == 404, (name, hostile, answer)
            assert answer.json["error"]["type"] == "invalid_request_error"
    assert rows_of(stage, "acme") == before


@pytest.mark.parametrize(
    "target",
    [
        b"//threads", b"/threads//", b"/v1//threads", b"/v1/../threads", b"/./threads", b"/threads/.", b"/threads/../assistants", b"/%74hreads",
        b"/api/projects/acme/../other/threads", b"/api/projects/%6fther/threads", b"/api/projects/acme%2f..%2fother/threads", b"/api/projects//threads",
        b"/api/projects/acme%00/threads", b"/docs/../threads", b"/docs/%2e%2e/threads", b"/docs%2f..%2fthreads", b"/docs;/../threads", b"/healthz/..;/threads",
        b"/..%2f..%2f..%2fetc/passwd", b"/threads\\..", b"/threads%3f", b"/threads%23", b"/openai/%2e%2e/threads",
    ],
)  # fmt: skip
def test_a_path_with_tricks_leads_nowhere_with_and_without_a_key(stage: Stage, target: bytes) -> None:
    for headers in ({}, {"authorization": f"Bearer {stage.acme.key}"}):
        for method in ("GET", "POST", "DELETE"):
            answer = ask(stage.place.url, method, target, **headers)
            assert answer.status == 404 or (answer.status == 401 and not headers), (method, answer)
            assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "target",
    [b"/threads/\x00", b"/threads/\xe3\x80\x82", b"/threads/\xff\xfe", b"/threads/a\tb", b"/threads/\x7f"],
)
def test_bytes_that_no_address_has_break_nothing(stage: Stage, target: bytes) -> None:
    assert stage.acme.ask("GET", target).status in (400, 404)  # pyright: ignore[reportArgumentType] - bytes on purpose
    assert stage.acme.ask("GET", "/threads").status == 200


def test_a_slash_at_the_end_is_nothing(stage: Stage) -> None:
    for path in (
        "/threads/",
        "/v1/threads/",
        "/api/projects/acme/threads/",
        "/api/projects/acme/openai/v1/threads/",
    ):
        assert stage.acme.ask("GET", path).json == stage.acme.ask("GET", path.rstrip("/")).json


# -- revocation and streams --------------------------------------------------------------------------------------


class Reading:
    """A stream of events that stays open."""

    def __init__(self, place: Served, path: str, key: str) -> None:
        host, _, port = place.url.removeprefix("http://").partition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=20)
        self.connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
        self.response = self.connection.getresponse()
        assert self.response.status == 200

    def until(self, wanted: bytes) -> None:
        while wanted not in (line := self.response.readline()):
            assert line, "the stream ended"

    def rest(self) -> bytes:
        ends, found = time.monotonic() + 20, b""
        with closing(self.connection), self.response:
            while line := self.response.readline():
                found += line
                assert time.monotonic() < ends, "the stream goes on"
        return found

    def leave(self) -> None:
        self.response.close()
        self.connection.close()


def test_a_stream_whose_key_is_revoked_ends_and_the_others_go_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    place, acme = stage.place, stage.acme
    path = f"/threads/{acme.ids['thread_id']}/runs/{acme.ids['run_id']}/events"
    key, text = place.do(place.treadle.keys.create(tenant="acme"))
    reading, staying = Reading(place, path, text), Reading(place, path, acme.key)
    for one in (reading, staying):
        one.until(b"thread.run.requires_action")
        one.until(b"keepalive")
    place.do(place.treadle.scoped("acme").keys.revoke(key.id))
    last = reading.rest()
    assert last.count(b"event: ") == 1
    assert last.endswith(b"\n\n")
    assert b'event: error\ndata: {"code":"invalid_api_key","message":"' + WRONG.encode() in last
    assert ask(place.url, "GET", path, authorization=f"Bearer {text}").said == (401, WRONG, "invalid_api_key")
    staying.until(b"keepalive")
    staying.until(b"keepalive")
    staying.leave()


def test_a_stream_that_is_never_silent_ends_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that calls a tool again and again, without an end; its reader gets no keep-alive."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 1.0)

    def tick() -> str:
        return "tock"

    def again(_: Any) -> Any:
        return {"calls": [{"name": "tick", "arguments": {}}]}

    with served(
        f"sqlite:///{tmp_path}/treadle.db",
        project=tmp_path,
        providers={"scripted": ScriptedProvider(again, delay_s=0.005)},
        no_auth=False,
        tools=[tick],
    ) as place:
        key, text = place.do(place.treadle.keys.create())
        endless = {"max_steps": 1_000_000, "max_tool_calls": 1_000_000}
        agent = place.do(place.treadle.agents.create(model="scripted", tools=[tick], limits=endless))
        thread = place.do(place.treadle.threads.create(messages=[{"role": "user", "content": "Go"}]))
        run = place.do(place.treadle.runs.create(thread.id, agent=agent))
        reading = Reading(place, f"/threads/{thread.id}/runs/{run.id}/events", text)
        reading.until(b"thread.run.step.completed")
        place.do(place.treadle.keys.revoke(key.id))
        last = reading.rest()
        assert b"keepalive" not in last
        assert last.rpartition(b"event: ")[2].startswith(b'error\ndata: {"code":"invalid_api_key"')
        assert place.do(place.treadle.runs.get(run.id)).status == "in_progress"
        place.do(place.treadle.runs.cancel(run.id))
