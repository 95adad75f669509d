"""The OpenAPI document says what the table of routes does, and its page shows all of it without a script."""

import base64
import hashlib
import inspect
import re
from html.parser import HTMLParser
from typing import Any, get_type_hints

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from treadle import __version__, lifecycle
from treadle.server import openapi, pages
from treadle.server.call import Call
from treadle.server.routes import ROUTES, Route
from treadle.server.schemas import EVENTS, PLACE, SCHEMAS, schema_name

DOCUMENT = openapi.document()
OPERATIONS = {
    (method.upper(), path): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
BYTES_OR_EVENTS = ("bytes", "text", "events")


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def nodes(node: Any):
    """Give every mapping within a document."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(inner)


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []
    assert DOCUMENT["info"]["version"] == __version__


def test_every_route_is_documented_and_nothing_else() -> None:
    assert set(OPERATIONS) == {(route.method, route.path) for route in ROUTES}
    assert len(ROUTES) == len(OPERATIONS)


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_a_route_is_documented_in_full(route: Route) -> None:
    operation = OPERATIONS[route.method, route.path]
    assert operation["summary"] == route.summary
    assert [p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"] == re.findall(
        r"\{(\w+)\}", route.path
    )
    assert ("requestBody" in operation) == (route.body is not None or route.multipart)
    assert {"200", "400", "401", "429", "500"} <= set(operation["responses"])
    assert ("text/event-stream" in operation["responses"]["200"]["content"]) == (route.streams != "never")
    assert all(p.get("description") for p in operation.get("parameters", ()))


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_what_a_route_gives_has_a_schema(route: Route) -> None:
    assert route.gives in BYTES_OR_EVENTS or schema_name(route.gives) in SCHEMAS


@pytest.mark.parametrize("route", ROUTES, ids=named)
def test_a_handler_is_typed_and_awaited(route: Route) -> None:
    hints = get_type_hints(route.handler)
    assert inspect.iscoroutinefunction(route.handler)
    assert hints.pop("return", None) is not None
    assert list(hints.values()) == [Call]


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)
    assert {"assistants_create", "runs_create_with_thread", "run_steps_list"} <= set(names)


def test_what_is_told_of_an_operation_is_told_of_one_that_exists() -> None:
    names = {operation["operationId"] for operation in OPERATIONS.values()}
    assert set(openapi.NOTES) <= names
    assert {tag for operation in OPERATIONS.values() for tag in operation["tags"]} <= set(openapi.TAGS)


def test_every_reference_leads_somewhere() -> None:
    wanted = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node.get("$ref"), str)}
    known = {PLACE + name for name in DOCUMENT["components"]["schemas"]}
    known |= {f"#/components/responses/{name}" for name in DOCUMENT["components"]["responses"]}
    assert wanted <= known


def test_links_lead_to_operations_and_fill_their_path() -> None:
    by_name = {o["operationId"]: path for (_, path), o in OPERATIONS.items()}
    links = [link for o in OPERATIONS.values() for link in o["responses"]["200"].get("links", {}).values()]
    assert links
    for link in links:
        assert set(link["parameters"]) == set(re.findall(r"\{(\w+)\}", by_name[link["operationId"]]))


def test_every_schema_is_json_schema_and_every_field_says_what_it_is_for() -> None:
    silent = []
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        for node in nodes(schema):
            fields = node.get("properties", {}) if node.get("type") == "object" else {}
            silent += [
                f"{name}.{field}"
                for field, s in fields.items()
                if "const" not in s and not s.get("description")
            ]
    assert silent == []


@pytest.mark.parametrize(
    ("model", "name", "bounds"),
    [
        ("RunCreate", "max_prompt_tokens", {"minimum": 256}),
        ("RunCreate", "temperature", {"minimum": 0, "maximum": 2}),
        ("TruncationStrategy", "last_messages", {"minimum": 1, "maximum": 100_000}),
        ("ExpiresAfter", "days", {"minimum": 1, "maximum": 365}),
        ("VectorStoreSearch", "max_num_results", {"minimum": 1, "maximum": 50}),
        ("StaticChunking", "chunk_overlap_tokens", {"minimum": 0}),
    ],
)
def test_bounds_of_bodies_are_told(model: str, name: str, bounds: dict[str, int]) -> None:
    field = DOCUMENT["components"]["schemas"][model]["properties"][name]
    assert field | bounds == field


@pytest.mark.parametrize(
    "name", ["assistant", "thread", "message", "run", "run_step", "file", "vector_store", "workflow"]
)
def test_an_object_has_all_its_keys_and_no_other(name: str) -> None:
    schema = SCHEMAS[name]
    of_workflows = ["workflow_id", "workflow", "version", "parent_run_id", "resumes_at", "inputs", "output"]
    more = of_workflows if name == "run" else []
    assert [*schema["required"], *more] == list(schema["properties"])
    assert schema["additionalProperties"] is False


def test_statuses_are_those_of_the_tables() -> None:
    assert set(SCHEMAS["run"]["properties"]["status"]["enum"]) == set(lifecycle.RUN)
    assert set(SCHEMAS["run_step"]["properties"]["status"]["enum"]) == set(lifecycle.STEP)
    assert set(SCHEMAS["message"]["properties"]["status"]["enum"]) == set(lifecycle.MESSAGE)


def test_every_event_of_a_stream_is_told_with_its_schema() -> None:
    told = {
        name: member["properties"]["data"].get("contentSchema")
        for member in SCHEMAS["event"]["anyOf"]
        for name in member["properties"]["event"]["enum"]
    }
    assert told.pop("done") is None
    assert told == {name: {"$ref": PLACE + schema} for name, schema in EVENTS.items()}
    assert {f"thread.run.{status}" for status in lifecycle.RUN} <= set(told)


class Reader(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(found)
        if "id" in found:
            self.ids.append(found["id"] or "")
        if "href" in found:
            self.links.append(found["href"] or "")
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data


@pytest.fixture(scope="module")
def shown() -> tuple[Reader, str]:
    """Give the page, read, and its policy."""
    html, policy = pages.shown()
    reader = Reader()
    reader.feed(html.decode())
    assert reader.open == []
    return reader, policy


def test_the_page_shows_every_operation_and_every_schema(shown: tuple[Reader, str]) -> None:
    page = shown[0]
    assert {operation["operationId"] for operation in OPERATIONS.values()} <= set(page.ids)
    assert {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_links_of_the_page_stay_on_it_or_on_its_server(shown: tuple[Reader, str]) -> None:
    page = shown[0]
    assert set(page.links) - {"data:,", "openapi.json"} <= {f"#{id_}" for id_ in page.ids}


def test_the_page_runs_nothing_and_loads_nothing(shown: tuple[Reader, str]) -> None:
    page, policy = shown
    assert not page.tags & {"script", "iframe", "object", "embed", "img", "form", "base"}
    assert not {
        name for name in page.attributes if name.startswith("on") or name in ("src", "style", "srcset")
    }
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == "'none'"
    assert rules["style-src"] == f"'sha256-{digest}'"
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_texts_of_the_document_are_escaped() -> None:
    document = {**DOCUMENT, "info": {**DOCUMENT["info"], "description": "<script>alert(1)</script> `<b>`"}}
    html = pages.render(document)
    assert "<script" not in html
    assert "<code>&lt;b&gt;</code>" in html
