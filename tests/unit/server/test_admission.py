"""Who is let in, and when the others may come again."""

from typing import Any

import pytest

from treadle.errors import RateLimited
from treadle.objects.project import ServeLimits
from treadle.server.admission import Admission, Rate
from treadle.server.problems import problem_of
from treadle.testing.fakes import FrozenClock


class Place:
    """An admission with a clock, a number of runs that are walked, and a list of refusals."""

    def __init__(self, **limits: Any) -> None:
        self.clock = FrozenClock()
        self.walking = 0
        self.refused: list[str] = []
        self.admission = Admission(
            ServeLimits(**limits),
            clock=self.clock,
            walking=lambda: self.walking,
            on_refused=self.refused.append,
        )

    def begins(self, key_id: str = "k") -> bool:
        try:
            with self.admission.run(key_id):
                return True
        except RateLimited:
            return False

    def asks(self, key_id: str = "k") -> bool:
        try:
            self.admission.check_rate(key_id)
        except RateLimited:
            return False
        return True


def test_only_so_many_requests_are_inside_at_once() -> None:
    place = Place(requests=2)
    with place.admission.request():
        with place.admission.request():
            with pytest.raises(RateLimited):
                place.admission.enter()
            assert place.admission.inside == 2
        with place.admission.request():
            pass
    assert place.admission.inside == 0
    assert place.refused == ["requests"]


def test_a_request_that_breaks_leaves_its_place() -> None:
    place = Place(requests=1)
    for _ in range(3):
        with pytest.raises(KeyError), place.admission.request():
            raise KeyError
    assert place.admission.inside == 0


def test_only_so_many_runs_are_under_way_those_that_begin_among_them() -> None:
    place = Place(active_runs=3)
    place.walking = 2
    with place.admission.run("k"):
        assert not place.begins()
    place.walking = 3
    assert not place.begins()
    place.walking = 2
    assert place.begins()
    assert place.refused == ["active_runs"] * 2


def test_a_run_that_could_not_be_made_leaves_its_place() -> None:
    place = Place(active_runs=1)
    with pytest.raises(KeyError), place.admission.run("k"):
        raise KeyError
    assert place.begins()


def test_a_key_has_a_minutes_worth_at_once_and_then_what_comes_back_evenly() -> None:
    place = Place(requests_per_minute=3)
    assert [place.asks() for _ in range(4)] == [True, True, True, False]
    place.clock.advance(19)
    assert not place.asks()
    place.clock.advance(1)
    assert place.asks()
    assert not place.asks()
    place.clock.advance(3600)
    assert [place.asks() for _ in range(4)] == [True, True, True, False]


def test_keys_are_counted_apart_and_runs_apart_from_requests() -> None:
    place = Place(requests_per_minute=1, runs_per_minute=2)
    assert [place.asks("a"), place.asks("b"), place.asks("a")] == [True, True, False]
    assert [place.begins("a") for _ in range(3)] == [True, True, False]
    assert place.begins("b")
    assert place.refused == ["requests_per_minute", "runs_per_minute"]


def test_a_refusal_says_when_another_try_is_worth_it() -> None:
    place = Place(runs_per_minute=2)
    assert place.begins()
    assert place.begins()
    place.clock.advance(7.5)
    with pytest.raises(RateLimited, match="2 per minute") as refused, place.admission.run("k"):
        pass
    problem = problem_of(refused.value)
    assert (problem.status, problem.code) == (429, "rate_limit_exceeded")
    assert problem.response().headers["retry-after"] == "23"
    place.clock.advance(22.5)
    assert place.begins()


def test_who_is_refused_for_crowdedness_is_told_to_wait_a_second() -> None:
    place = Place(requests=1)
    with place.admission.request(), pytest.raises(RateLimited) as refused:
        place.admission.enter()
    assert problem_of(refused.value).response().headers["retry-after"] == "1"


def test_without_limits_of_rate_nobody_waits_and_nothing_is_remembered() -> None:
    rate = Rate(None, clock=FrozenClock())
    assert not any(rate.wait_s("k") for _ in range(1000))
    assert not vars(rate)["_left"]


def test_only_so_many_keys_are_remembered_those_that_asked_last() -> None:
    clock = FrozenClock()
    rate = Rate(1, clock=clock, keys=2)
    for key in "abc":
        assert rate.wait_s(key) == 0
    assert rate.wait_s("c") > 0
    assert rate.wait_s("b") > 0
    assert rate.wait_s("a") == 0
