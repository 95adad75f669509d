"""Time in a test, the judge's marks, and where cassettes lie."""

import asyncio
from pathlib import Path

import pytest

from treadle.service.trial_cassettes import path_of
from treadle.service.trial_judge import score_of
from treadle.service.trial_nodes import completed, names_of, node_of
from treadle.service.trial_time import BEGIN_MS, NumberedIds, StandingClock


async def test_a_wait_moves_the_clock_and_takes_no_time() -> None:
    clock = StandingClock()
    assert clock.now_ms() == BEGIN_MS
    async with asyncio.timeout(5):
        await clock.sleep(3600)
    assert (clock.now_ms(), clock.monotonic()) == (BEGIN_MS + 3_600_000, 3600)


async def test_waits_that_go_on_together_pass_together() -> None:
    clock = StandingClock()
    await asyncio.gather(clock.sleep(10), clock.sleep(30), clock.sleep(-1))
    assert clock.monotonic() == 30


async def test_no_wait_passes_while_something_is_at_work() -> None:
    clock = StandingClock()
    with clock.working():
        waiting = asyncio.create_task(clock.sleep(60))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        assert clock.monotonic() == 0
    await waiting
    assert clock.monotonic() == 60


def test_the_clock_does_not_go_back() -> None:
    clock = StandingClock()
    clock.move_to(BEGIN_MS + 5000)
    clock.move_to(BEGIN_MS)
    assert clock.now_ms() == BEGIN_MS + 5000
    clock.every(1, lambda: pytest.fail("nobody is to be told"))()


def test_ids_count_up_and_each_prefix_for_itself() -> None:
    ids = NumberedIds()
    assert [ids.new("run")[-2:], ids.new("msg")[-2:], ids.new("run")[-2:]] == ["01", "01", "02"]
    assert NumberedIds().new("run") == NumberedIds().new("run")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"score": 0.5, "reason": "so"}', (0.5, "so")),
        ('Here you are:\n{"score": 1}', (1.0, "")),
        ('{"score": true}', None),
        ('{"score": -0.1}', None),
        ('{"score": "1"}', None),
        ("[0.5]", None),
        ("", None),
    ],
)
def test_a_score_is_a_number_from_0_to_1(text: str, found: tuple[float, str] | None) -> None:
    assert score_of(text) == found


def test_a_cassette_lies_beside_its_document_under_the_name_of_the_test() -> None:
    document = Path("agents/desk.agent.yaml")
    folder = Path("agents/desk.agent.yaml.cassettes")
    assert path_of(document, name=None, test="a small refund") == folder / "a-small-refund.json"
    assert path_of(document, name="desk", test="t", nth=2) == folder / "desk.t-2.json"


def test_names_that_look_alike_in_a_file_system_stay_apart() -> None:
    document = Path("d.yaml")
    names = ["a/b", "a b", "a:b", "../../etc", "é", "x" * 300, "x" * 301, ""]
    paths = [path_of(document, name=None, test=name) for name in names]
    assert len(set(paths)) == len(names)
    assert all(p.parent == Path("d.yaml.cassettes") and len(p.name) < 120 for p in paths)


def test_a_node_in_a_body_has_two_names() -> None:
    assert names_of("refine/draft") == ("refine/draft", "draft")
    assert names_of("draft") == ("draft",)
    assert node_of("refine#1[2]/draft#1") == "refine/draft"
    assert node_of("buy#2/0") == "buy"


def test_what_a_test_leaves_out_of_a_result_is_filled_in() -> None:
    assert completed("prompt", {"output": {"a": 1}})["text"] == '{"a": 1}'
    agent = completed("agent", {"text": "Hi"})
    assert (agent["output"], agent["messages"], agent["status"]) == (
        "Hi",
        [{"role": "assistant", "content": "Hi"}],
        "completed",
    )
    assert completed("map", {"collected": [1]}) == {"collected": [1], "errors": [], "merged": {}}
    assert completed("workflow", {"a": 1}) == {"a": 1}
    assert completed("agent", "Hi") == "Hi"
