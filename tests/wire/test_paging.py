"""Lists, page by page: every list, both orders, every page length, and bounds that are odd."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from openai import OpenAI

pytestmark = pytest.mark.filterwarnings(
    "ignore:The Assistants API is deprecated:DeprecationWarning", "ignore:deprecated:DeprecationWarning"
)
WEATHER = {"type": "function", "function": {"name": "get_weather"}}
ROUNDS = 5
COUNT = 2 * ROUNDS + 1


class Lists:
    """A project of its own with lists of known lengths."""

    def __init__(self, http: httpx2.Client, model: Any) -> None:
        self.http = http
        self.root = "/api/projects/paging"
        post = lambda path, body: http.post(f"{self.root}{path}", json=body).json()
        agents = [post("/assistants", {"model": "scripted", "tools": [WEATHER]})["id"] for _ in range(COUNT)]
        threads = [post("/threads", {})["id"] for _ in range(COUNT)]
        thread = threads[-1]
        messages = [
            post(f"/threads/{thread}/messages", {"role": "user", "content": str(n)})["id"]
            for n in range(COUNT)
        ]
        runs = []
        for _ in range(COUNT - 1):
            model.says("")
            http.post(
                f"{self.root}/threads/{threads[0]}/runs", json={"assistant_id": agents[0], "stream": True}
            )
        ask = {"text": "Let me see.", "calls": [{"name": "get_weather"}]}
        model.says(*[ask] * ROUNDS, "Done.")
        url = f"{self.root}/threads/{threads[0]}/runs"
        http.post(url, json={"assistant_id": agents[0], "stream": True})
        while (run := http.get(url).json()["data"][0])["status"] == "requires_action":
            calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
            outputs = [{"tool_call_id": c["id"], "output": "rain"} for c in calls]
            http.post(
                f"{url}/{run['id']}/submit_tool_outputs", json={"tool_outputs": outputs, "stream": True}
            )
        runs = [r["id"] for r in http.get(url, params={"order": "asc", "limit": 100}).json()["data"]]
        steps = http.get(f"{url}/{run['id']}/steps", params={"order": "asc", "limit": 100}).json()["data"]
        self.ids: dict[str, list[str]] = {
            "/assistants": agents,
            "/threads": threads,
            f"/threads/{thread}/messages": messages,
            f"/threads/{threads[0]}/runs": runs,
            f"/threads/{threads[0]}/runs/{run['id']}/steps": [s["id"] for s in steps],
        }

    def page(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self.http.get(f"{self.root}{path}", params=query)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found.keys() == {"object", "data", "first_id", "last_id", "has_more"}
        assert found["object"] == "list"
        ids = [one["id"] for one in found["data"]]
        assert (found["first_id"], found["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return found

    def pages(self, path: str, bound: str, **query: Any) -> Iterator[list[str]]:
        """Walk on after the last one of each page until one is empty, as Azure's client does."""
        after: dict[str, str] = {}
        while True:
            found = self.page(path, **query, **after)
            yield [one["id"] for one in found["data"]]
            if not found["last_id"]:
                return
            after = {bound: found["last_id"]}


@pytest.fixture(scope="module")
def lists(server: Any, talker: Any) -> Iterator[Lists]:
    talker.forget()
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=20) as client:
        yield Lists(client, talker)


NAMES = ["assistants", "threads", "messages", "runs", "steps"]


@pytest.fixture(params=NAMES)
def listed(request: pytest.FixtureRequest, lists: Lists) -> tuple[str, list[str]]:
    """Give the path of each list, and its ids, oldest first."""
    return list(lists.ids.items())[NAMES.index(request.param)]


def test_every_list_has_what_was_made(listed):
    path, ids = listed
    assert len(ids) == len(set(ids)) == COUNT, path


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, COUNT - 1, COUNT, COUNT + 1, 100])
def test_pages_one_after_the_other_are_the_list(lists, listed, limit, order):
    path, ids = listed
    wanted = ids if order == "asc" else ids[::-1]
    pages = list(lists.pages(path, "after", limit=limit, order=order))
    assert [id_ for page in pages for id_ in page] == wanted
    assert all(len(page) == limit for page in pages[:-2])
    assert pages[-1] == []
    seen = 0
    for page in pages[:-1]:
        seen += len(page)
        after = {"after": wanted[seen - len(page) - 1]} if seen > len(page) else {}
        assert lists.page(path, limit=limit, order=order, **after)["has_more"] is (seen < COUNT)


def test_the_newest_come_first_where_nobody_says_otherwise(lists, listed):
    path, ids = listed
    assert [one["id"] for one in lists.page(path)["data"]] == ids[::-1][:20]
    assert lists.page(path, limit="", order="", after="") == lists.page(path)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_bounds_leave_out_what_they_name(lists, listed, order):
    path, ids = listed
    row = ids if order == "asc" else ids[::-1]
    read = lambda **query: [one["id"] for one in lists.page(path, order=order, **query)["data"]]
    assert read(after=row[2]) == row[3:]
    assert read(before=row[4]) == row[:4]
    assert read(after=row[1], before=row[5]) == row[2:5]
    assert read(after=row[5], before=row[1]) == []
    assert read(after=row[-1]) == []
    assert read(before=row[0]) == []
    assert read(after=row[0], limit=2) == row[1:3]


@pytest.mark.parametrize("bound", ["after", "before"])
@pytest.mark.parametrize("unknown", ["asst_" + "0" * 24, "x", "%", "ünknown", "x" * 500])
def test_a_bound_that_names_nothing_ends_the_list(lists, listed, bound, unknown):
    path, _ = listed
    found = lists.page(path, **{bound: unknown})
    assert (found["data"], found["last_id"], found["has_more"]) == ([], None, False)


def test_messages_of_one_run_are_listed_page_by_page(http, model):
    assistant = http.post("/v1/assistants", json={"model": "scripted"}).json()["id"]
    thread = http.post("/v1/threads", json={"messages": [{"role": "user", "content": "Hello"}]}).json()["id"]
    runs = []
    for text in ("One", "Two"):
        model.says(text)
        http.post(f"/v1/threads/{thread}/runs", json={"assistant_id": assistant, "stream": True})
        runs.append(http.get(f"/v1/threads/{thread}/runs").json()["data"][0]["id"])
    for run, text in zip(runs, ("One", "Two"), strict=True):
        found = http.get(f"/v1/threads/{thread}/messages", params={"run_id": run, "limit": 1}).json()
        assert [m["content"][0]["text"]["value"] for m in found["data"]] == [text]
        assert found["has_more"] is False
    nothing = http.get(f"/v1/threads/{thread}/messages", params={"run_id": "run_x"}).json()
    assert (nothing["data"], nothing["last_id"]) == ([], None)


def test_more_than_a_hundred_are_walked_by_both_clients(server, oai, azure, http):
    thread = http.post("/api/projects/wire/threads", json={}).json()["id"]
    texts = [str(n) for n in range(250)]
    for start in range(0, 250, 50):
        messages = [{"role": "user", "content": t} for t in texts[start : start + 50]]
        for message in messages:
            http.post(f"/api/projects/wire/threads/{thread}/messages", json=message)
    found = [m.content[0].text.value for m in azure.messages.list(thread, limit=100, order="asc")]
    assert found == texts
    with OpenAI(base_url=f"{server.url}/api/projects/wire", api_key="any") as client:
        for limit in (7, 100):
            pager = client.beta.threads.messages.list(thread, limit=limit, order="asc")
            assert [m.content[0].text.value for m in pager] == texts


def test_what_is_made_while_a_list_is_walked_moves_no_page(lists, http):
    root = "/api/projects/growing"
    make: Callable[[], str] = lambda: http.post(f"{root}/threads", json={}).json()["id"]
    made = [make() for _ in range(6)]
    first = http.get(f"{root}/threads", params={"limit": 3}).json()
    make()
    http.delete(f"{root}/threads/{made[1]}")
    second = http.get(f"{root}/threads", params={"limit": 3, "after": first["last_id"]}).json()
    assert [t["id"] for t in first["data"] + second["data"]] == [made[5], made[4], made[3], made[2], made[0]]
