"""Ids sort by the time they were made and say what they name."""

import re

import pytest

from treadle import ids

FORM = re.compile(r"run_[0-9A-Za-z]{24}")


def test_an_id_is_its_prefix_and_twenty_four_characters() -> None:
    assert FORM.fullmatch(ids.SortableIds().new("run"))


def test_ids_of_one_process_sort_in_the_order_they_were_made() -> None:
    maker = ids.SortableIds()
    made = [maker.new("run") for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_keep_their_order_when_the_clock_stands_still_or_turns_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([5_000, 5_000, 4_000, 6_000])
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(times) * 1_000_000)
    maker = ids.SortableIds()
    made = [maker.new("run") for _ in range(4)]
    assert made == sorted(made)
    assert len(set(made)) == 4


def test_an_id_made_in_a_later_millisecond_sorts_after_one_of_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([1_000, 1_001, 99_999_999, 100_000_000])
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(times) * 1_000_000)
    assert ids.SortableIds().new("run") < ids.SortableIds().new("run")
    assert ids.SortableIds().new("run") < ids.SortableIds().new("run")


def test_two_processes_do_not_make_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids.time, "time_ns", lambda: 7_000_000_000)
    assert len({ids.SortableIds().new("run") for _ in range(1000)}) == 1000


def test_a_derived_id_is_the_same_every_time_and_differs_by_parent_and_path() -> None:
    parent, other = "run_" + "A" * 24, "run_" + "B" * 24
    assert ids.derive("step", parent, "root/model") == ids.derive("step", parent, "root/model")
    derived = {
        ids.derive("step", p, path) for p in (parent, other) for path in ("root/model", "root/model#2")
    }
    assert len(derived) == 4
    assert all(re.fullmatch(r"step_[0-9A-Za-z]{24}", d) for d in derived)


def test_a_derived_id_sorts_with_its_parent() -> None:
    maker = ids.SortableIds()
    parent = maker.new("run")
    assert ids.derive("step", parent, "x").partition("_")[2][:8] == parent.partition("_")[2][:8]


def test_a_derived_id_of_a_short_foreign_parent_still_has_its_form() -> None:
    assert re.fullmatch(r"msg_[0-9A-Za-z]{24}", ids.derive("msg", "x", "y"))


@pytest.mark.parametrize(
    ("id_", "noun"), [("asst_x", "assistant"), ("run_x", "run"), ("step_x", "run step"), ("x", None)]
)
def test_the_prefix_names_the_noun(id_: str, noun: str | None) -> None:
    assert ids.kind(id_) == noun


def test_a_secret_is_that_many_characters_and_never_the_same() -> None:
    made = [ids.secret(43) for _ in range(2_000)]
    assert all(re.fullmatch("[0-9A-Za-z]{43}", one) for one in made)
    assert len(set(made)) == len(made)
    # Every character stands at every place: 2000 draws of 62 miss one at a place with a chance of 10**-12.
    assert all(len({one[place] for one in made}) == 62 for place in range(43))
    assert len(ids.secret(7)) == 7
