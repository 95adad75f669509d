"""Every status times every status: a move is in the table, or it is refused with both names."""

import itertools

import pytest

from treadle import lifecycle
from treadle.errors import StateError

PAIRS = [
    (noun, table, before, after)
    for noun, table in lifecycle.TABLES.items()
    for before, after in itertools.product(table, repeat=2)
]


@pytest.mark.parametrize(("noun", "table", "before", "after"), PAIRS)
def test_a_move_is_made_exactly_when_the_table_has_it(
    noun: str, table: lifecycle.Table, before: str, after: str
) -> None:
    if after in table[before]:
        assert lifecycle.advance(table, before, after, what=noun) == after
        return
    with pytest.raises(StateError) as refused:
        lifecycle.advance(table, before, after, what=noun)
    assert (refused.value.status, refused.value.event) == (before, after)
    assert before in refused.value.message
    assert after in refused.value.message


@pytest.mark.parametrize("table", lifecycle.TABLES.values())
def test_a_move_leads_to_a_status_of_the_same_table(table: lifecycle.Table) -> None:
    assert {after for _, after in lifecycle.moves(table)} <= set(table)


@pytest.mark.parametrize("table", lifecycle.TABLES.values())
def test_no_move_stays_where_it_is(table: lifecycle.Table) -> None:
    assert [m for m in lifecycle.moves(table) if m[0] == m[1]] == []


def test_a_run_that_has_ended_is_never_moved_again() -> None:
    assert {status for status in lifecycle.RUN if lifecycle.is_terminal(status)} == {
        "cancelled",
        "completed",
        "incomplete",
        "failed",
        "expired",
    }
    assert all(not lifecycle.RUN[status] for status in lifecycle.TERMINAL)


def test_cancelling_leads_only_to_cancelled() -> None:
    assert lifecycle.RUN["cancelling"] == {"cancelled"}


def test_every_status_of_a_run_can_be_reached_from_its_start() -> None:
    seen = {lifecycle.START["run"]}
    while more := {after for before in seen for after in lifecycle.RUN[before]} - seen:
        seen |= more
    assert seen == set(lifecycle.RUN)


def test_every_active_run_can_still_end() -> None:
    for status in lifecycle.ACTIVE:
        seen = {status}
        while more := {after for before in seen for after in lifecycle.RUN[before]} - seen:
            seen |= more
        assert seen & lifecycle.TERMINAL


def test_an_unknown_status_is_refused_by_name() -> None:
    with pytest.raises(StateError, match="'sleeping' is not a status of a run"):
        lifecycle.advance(lifecycle.RUN, "sleeping", "queued")


def test_a_refusal_says_what_would_be_possible() -> None:
    with pytest.raises(StateError) as refused:
        lifecycle.advance(lifecycle.RUN, "cancelling", "completed")
    assert refused.value.hint == "possible: cancelled"
    with pytest.raises(StateError) as refused:
        lifecycle.advance(lifecycle.RUN, "failed", "queued")
    assert refused.value.hint == "possible: nothing: it has ended"
