"""Requests that are made up from the OpenAPI document are answered as it says, whatever stands in them."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CHECKS
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation

from treadle.objects.project import ServeSpec
from treadle.objects.workflow import WorkflowSpec
from treadle.server import openapi
from treadle.settings import Settings
from treadle.testing.served import Served, served

CONFIG = SchemathesisConfig(
    projects=ProjectsConfig(
        default=ProjectConfig(
            generation=GenerationConfig(with_security_parameters=False, allow_extra_parameters=False)
        )
    )
)
SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi.text()), config=CONFIG)
KEY = "made-up-requests-of-a-test"
AUTH = {"Authorization": f"Bearer {KEY}"}
BOUNDS = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
BEYOND_A_SCHEMA = CHECKS.get_by_names(["positive_data_acceptance"])
"""Rules between fields, and between a request and what is stored, make a 400 of what fits the schema."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


ASKING = {
    "name": "ask",
    "start": "q",
    "nodes": {"q": {"type": "human", "kind": "approval", "ask": "Fine?", "next": "end"}},
}


class World:
    """Something of everything, made when a request needs it, and made anew once one may have changed it."""

    def __init__(self, client: httpx2.Client, place: Served) -> None:
        self.client = client
        self.place = place
        self.ids: dict[str, str] = {}

    def make(self, path: str, **more: Any) -> dict[str, Any]:
        response = self.client.post(path, **more)
        assert response.status_code == 200, response.text
        return response.json()

    def id(self, name: str) -> str:
        if name not in self.ids:
            getattr(self, name.removesuffix("_id"))()
        return self.ids[name]

    def assistant(self) -> None:
        self.ids["assistant_id"] = self.make("/assistants", json={"model": "offline", "tools": [WEATHER]})[
            "id"
        ]

    def thread(self) -> None:
        asked = [{"role": "user", "content": "What is the weather in Paris?"}]
        self.ids["thread_id"] = self.make("/threads", json={"messages": asked})["id"]

    def workflow(self) -> None:
        spec = WorkflowSpec.model_validate(ASKING)
        self.ids["workflow_id"] = self.place.do(self.place.treadle.scoped("default").workflows.apply(spec)).id

    def message(self) -> None:
        listed = self.client.get(f"/threads/{self.id('thread_id')}/messages").json()
        self.ids["message_id"] = listed["data"][0]["id"]

    def run(self) -> None:
        where = f"/threads/{self.id('thread_id')}/runs"
        self.ids["run_id"] = self.make(where, json={"assistant_id": self.id("assistant_id")})["id"]

    def rest(self) -> None:
        """Let the run come to its end, so that its stream has one."""
        self.client.post(f"/threads/{self.id('thread_id')}/runs/{self.id('run_id')}/cancel")

    def step(self) -> None:
        where = f"/threads/{self.id('thread_id')}/runs/{self.id('run_id')}/steps"
        ends = time.monotonic() + 20
        while not (listed := self.client.get(where).json()["data"]):
            assert time.monotonic() < ends
        self.ids["step_id"] = listed[0]["id"]

    def file(self) -> None:
        form = {"files": {"file": ("notes.txt", b"It rains in Paris.")}, "data": {"purpose": "assistants"}}
        self.ids["file_id"] = self.make("/files", **form)["id"]
        self.make(f"/vector_stores/{self.id('vector_store_id')}/files", json={"file_id": self.ids["file_id"]})

    def vector_store(self) -> None:
        self.ids["vector_store_id"] = self.make("/vector_stores", json={})["id"]

    def file_batch(self) -> None:
        where = f"/vector_stores/{self.id('vector_store_id')}/file_batches"
        self.ids["file_batch_id"] = self.make(where, json={"file_ids": [self.id("file_id")]})["id"]

    def aim(self, case: Case) -> None:
        """Let a request that was not made wrong on purpose be about something that is there."""
        if is_right(case, ParameterLocation.PATH):
            names = sorted(case.path_parameters or {}, key=["step_id", "file_batch_id"].count)
            case.path_parameters = {name: self.id(name) for name in names}
            if case.path.endswith("/events"):
                self.rest()
        if is_right(case, ParameterLocation.BODY) and isinstance(case.body, dict):
            case.body = self.aimed(case.body)

    def aimed(self, body: Any) -> Any:
        """Give a body whose ids are of what is there."""
        if isinstance(body, list):
            return [self.aimed(item) for item in body]
        if not isinstance(body, dict):
            return body
        found = {name: self.aimed(value) for name, value in body.items()}
        found |= {name: self.id(name) for name in ("assistant_id", "file_id", "thread_id") if name in body}
        if body.get("file_ids"):
            found["file_ids"] = [self.id("file_id")]
        return found

    def spoil(self, case: Case) -> None:
        """Forget what a request may have changed."""
        if case.method != "GET":
            self.ids.clear()


def is_right(case: Case, place: ParameterLocation) -> bool:
    """Tell whether a part of a request is as the document says."""
    component = case.meta.components.get(place) if case.meta is not None else None
    return component is not None and component.mode.is_positive


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve a store where every run speaks with the offline model."""
    folder = tmp_path_factory.mktemp("served")
    with (
        served(
            f"sqlite:///{folder}/treadle.db",
            project=folder,
            spec=ServeSpec(model="offline"),
            settings=Settings(api_key=KEY, durability="normal"),
            no_auth=False,
        ) as server,
        httpx2.Client(base_url=server.url, headers=AUTH, timeout=30) as client,
    ):
        yield World(client, server)


@SCHEMA.parametrize()
@settings(parent=BOUNDS, max_examples=20)
def test_a_made_up_request_is_answered_as_documented(case: Case, world: World) -> None:
    world.aim(case)
    response = case.call(base_url=str(world.client.base_url), headers=AUTH, timeout=30)
    world.spoil(case)
    case.validate_response(response, excluded_checks=BEYOND_A_SCHEMA, headers=AUTH)


def test_what_was_made_is_there_until_it_is_deleted(world: World) -> None:
    """Follow the links of the document from what was made to what can be asked of it, in any order."""
    url = str(world.client.base_url)

    class Client(SCHEMA.as_state_machine()):
        def before_call(self, case: Case) -> None:
            if isinstance(case.body, dict):
                case.body = world.aimed(case.body)
            if case.path.endswith("/events") and {"thread_id", "run_id"} <= set(case.path_parameters):
                world.client.post(case.formatted_path.removesuffix("events") + "cancel")

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"base_url": url, "headers": AUTH, "timeout": 30}

        def validate_response(
            self, response: Any, case: Case, additional_checks: Any = None, **kwargs: Any
        ) -> None:
            case.validate_response(
                response,
                excluded_checks=BEYOND_A_SCHEMA,
                transport_kwargs={"base_url": url},
                recorder=self.recorder,
                headers=AUTH,
            )

    Client.run(settings=settings(parent=BOUNDS, max_examples=60, stateful_step_count=10))
