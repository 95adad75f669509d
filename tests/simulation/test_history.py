"""The checks of a simulation's history: they let good ones pass and reject bad ones, each made by hand."""

import math

import pytest

from treadle.objects.message import Message, ToolCall
from treadle.testing.history import (
    Append,
    Dispatch,
    RunView,
    StepView,
    check_appends,
    check_deadline,
    check_dispatches,
    check_move,
    check_numbers,
    check_steps,
    check_threads,
    check_wait,
)
from treadle.testing.simulated_tools import unpaired


def ok(text, began=0.0, ended=1.0, thread="t"):
    return Append(thread, text, "ok", began, ended)


def refused(text):
    return Append("t", text, "refused", 0.0, 1.0)


def unknown(text, thread="t", began=0.0):
    return Append(thread, text, "unknown", began, math.inf)


GOOD_APPENDS = [
    ([ok("a", 0, 1), ok("b", 2, 3)], {"t": ["a", "b"]}),
    ([ok("a", 0, 3), ok("b", 1, 2)], {"t": ["b", "a"]}),
    ([refused("a")], {"t": []}),
    ([unknown("a")], {"t": []}),
    ([unknown("a")], {"t": ["a"]}),
    ([unknown("a", thread="")], {"t": ["a"]}),
    ([unknown("a", began=0), ok("b", 5, 6)], {"t": ["b", "a"]}),
    ([ok("a", thread="t"), ok("b", thread="u")], {"t": ["a"], "u": ["b"]}),
]
BAD_APPENDS = {
    "an accepted one is lost": ([ok("a")], {"t": []}),
    "an accepted one is doubled": ([ok("a")], {"t": ["a", "a"]}),
    "an accepted one is in another thread": ([ok("a")], {"t": [], "u": ["a"]}),
    "an accepted one is in two threads": ([ok("a")], {"t": ["a"], "u": ["a"]}),
    "a refused one is there": ([refused("a")], {"t": ["a"]}),
    "an unknown one is doubled": ([unknown("a")], {"t": ["a", "a"]}),
    "an unknown one is in another thread": ([unknown("a")], {"u": ["a"]}),
    "one of a thread that nobody knows is doubled": ([unknown("a", thread="")], {"t": ["a"], "u": ["a"]}),
    "nobody asked for it": ([], {"t": ["a"]}),
    "two are in the wrong order": ([ok("a", 0, 1), ok("b", 2, 3)], {"t": ["b", "a"]}),
    "a late one is before the first": (
        [ok("a", 0, 1), ok("b", 0, 9), ok("c", 5, 6)],
        {"t": ["b", "c", "a"]},
    ),
    "an unknown one is before what was there": ([ok("a", 0, 1), unknown("b", began=2)], {"t": ["b", "a"]}),
}


@pytest.mark.parametrize(("appends", "threads"), GOOD_APPENDS)
def test_good_appends_pass(appends, threads):
    assert check_appends(appends, threads) == []


@pytest.mark.parametrize(("appends", "threads"), BAD_APPENDS.values(), ids=BAD_APPENDS)
def test_bad_appends_are_found(appends, threads):
    assert len(check_appends(appends, threads)) >= 1


def run(status, rev, fence=1, walker="w", thread=1, in_line=False):
    return RunView("run_1", thread, status, rev, fence, walker, in_line)


GOOD_MOVES = [
    (None, run("queued", 0, 0, None)),
    (None, run("in_progress", 1)),
    (run("queued", 0, 0, None), run("in_progress", 1)),
    (run("in_progress", 1), run("in_progress", 2, 2, "v")),
    (run("in_progress", 1), run("requires_action", 2, 1, None)),
    (run("requires_action", 2, 1, None), run("in_progress", 4, 2)),
    (run("in_progress", 1), run("queued", 2, 1, None)),
    (run("in_progress", 1), run("cancelling", 2)),
    (run("cancelling", 2), run("cancelling", 3, 2, "v")),
    (run("cancelling", 3), run("cancelled", 4, 1, None)),
    (run("in_progress", 1), run("completed", 2, 1, None)),
    (run("queued", 0, 0, None, in_line=True), run("queued", 0, 0, None)),
]
BAD_MOVES = {
    "born in the middle": (None, run("completed", 1, 1, None)),
    "back from its end": (run("completed", 2, 1, None), run("in_progress", 3, 2)),
    "changed after its end": (run("failed", 2, 1, None), run("failed", 3, 1, None)),
    "taken after its end": (run("completed", 2, 1, None), run("completed", 2, 2, "v")),
    "from cancelling to completed": (run("cancelling", 2), run("completed", 3, 1, None)),
    "from cancelling to expired": (run("cancelling", 2), run("expired", 3, 1, None)),
    "a move without a revision": (run("in_progress", 1), run("completed", 1, 1, None)),
    "a revision too many": (run("queued", 0, 0, None), run("failed", 4, 0, None)),
    "a revision that goes back": (run("in_progress", 5), run("in_progress", 4, 2, "v")),
    "a fence that goes back": (run("in_progress", 5, 3), run("requires_action", 6, 2, None)),
    "changed hands under one fence": (run("in_progress", 1), run("in_progress", 2, 1, "v")),
    "moved to another thread": (run("in_progress", 1), run("in_progress", 2, 2, "v", thread=2)),
    "back into the line": (run("queued", 0, 0, None), run("queued", 1, 0, None, in_line=True)),
    "from waiting for a client to completed": (
        run("requires_action", 2, 1, None),
        run("completed", 3, 1, None),
    ),
}


@pytest.mark.parametrize(("before", "after"), GOOD_MOVES)
def test_good_moves_pass(before, after):
    assert check_move(before, after) == []


@pytest.mark.parametrize(("before", "after"), BAD_MOVES.values(), ids=BAD_MOVES)
def test_bad_moves_are_found(before, after):
    assert len(check_move(before, after)) >= 1


def test_two_runs_at_once_on_a_thread_are_found():
    one, two = run("in_progress", 1), run("requires_action", 2)
    assert check_threads([one]) == []
    assert check_threads([one, run("queued", 0, in_line=True)]) == []
    assert check_threads([one, run("completed", 2)]) == []
    assert check_threads([one, run("queued", 0, thread=2)]) == []
    assert check_threads([one, two]) == ["thread number 1 has 2 active runs"]


def step(n, status="completed", fence=1, path=None, edge=None):
    return StepView("run_1", n, path or f"s#{n}", 1, "tool_call", status, fence, edge)


def journal(*steps):
    return {(s.run, s.n): s for s in steps}


GOOD_JOURNALS = [
    ([], [step(0)], run("in_progress", 1)),
    ([step(0, "in_progress")], [step(0)], run("in_progress", 1)),
    ([step(0)], [step(0), step(1, fence=2)], run("in_progress", 3, 2)),
    ([step(0, "in_progress")], [step(0)], run("in_progress", 4, 3)),
    ([], [step(0, fence=1)], run("in_progress", 4, 2)),
]
BAD_JOURNALS = {
    "what had ended changes": ([step(0)], [step(0, "failed")], run("in_progress", 1)),
    "what had ended begins again": ([step(0)], [step(0, "in_progress")], run("in_progress", 1)),
    "a step is gone": ([step(0), step(1)], [step(0)], run("in_progress", 1)),
    "a place is taken": ([step(0, "in_progress")], [step(0, path="x")], run("in_progress", 1)),
    "a fenced-out walker writes": ([step(0)], [step(0), step(1, fence=1)], run("in_progress", 4, 3)),
    "a step is of the future": ([], [step(0, fence=5)], run("in_progress", 1)),
}


@pytest.mark.parametrize(("before", "after", "whole"), GOOD_JOURNALS)
def test_good_journals_pass(before, after, whole):
    assert check_steps(journal(*before), after, whole) == []


@pytest.mark.parametrize(("before", "after", "whole"), BAD_JOURNALS.values(), ids=BAD_JOURNALS)
def test_bad_journals_are_found(before, after, whole):
    assert len(check_steps(journal(*before), after, whole)) >= 1


def test_a_once_call_that_is_dispatched_twice_is_found():
    one = Dispatch("charge", "once", "t1", "k1")
    assert check_dispatches([one, one._replace(token="t2", key="k2")]) == []
    assert check_dispatches([one, one]) != []
    assert check_dispatches([one, one._replace(token="t2")]) != []
    assert check_dispatches([one, one._replace(key="k2")]) != []


def test_a_once_call_that_a_person_has_made_again_is_no_second_dispatch():
    one = Dispatch("charge", "once", "t1", "k1")
    assert check_dispatches([one, one._replace(again=True)]) == []
    assert check_dispatches([one, one, one._replace(again=True)]) != []


@pytest.mark.parametrize(
    ("steps", "is_good"),
    [
        ([step(0), step(1, "in_progress", edge="client")], True),
        ([step(0), step(1, "in_progress", edge="approval"), step(2, "in_progress", edge="client")], True),
        ([step(0)], False),
        ([step(0, "in_progress", edge="dispatched")], False),
        ([step(0, "in_progress", edge="client"), step(1, "in_progress", edge="dispatched")], False),
    ],
)
def test_a_run_that_waits_for_its_client_waits_for_what_is_the_clients(steps, is_good):
    assert (check_wait(run("requires_action", 2, 1, None), steps) == []) == is_good
    assert check_wait(run("in_progress", 2), steps) == []


@pytest.mark.parametrize(
    ("status", "ended_s", "late_s", "is_good"),
    [
        ("expired", 15.0, None, True),
        ("expired", 14.0, None, False),
        ("completed", 12.0, 5.0, True),
        ("expired", 18.0, 5.0, True),
        ("expired", 40.0, 5.0, False),
        ("completed", 40.0, 5.0, False),
        ("completed", 40.0, None, True),
    ],
)
def test_a_run_that_ends_too_early_or_too_late_is_found(status, ended_s, late_s, is_good):
    found = check_deadline(
        "run_1", status, asked_s=5.0, accepted_s=6.0, ttl_s=10.0, ended_s=ended_s, late_s=late_s
    )
    assert (found == []) == is_good


def test_attempts_of_an_idempotent_call_need_one_key():
    one = Dispatch("put", "idempotent", "t1", "k1")
    assert check_dispatches([one, one, one]) == []
    assert check_dispatches([one, one._replace(key="k2")]) != []


@pytest.mark.parametrize(
    ("numbers", "after", "is_good"),
    [
        ([], 0, True),
        ([1, 2, 3], 0, True),
        ([4, 5], 3, True),
        ([1, 3], 0, False),
        ([1, 1], 0, False),
        ([2, 1], 0, False),
        ([2], 0, False),
        ([4], 4, False),
    ],
)
def test_gaps_and_repeats_in_a_stream_are_found(numbers, after, is_good):
    assert (check_numbers("a reader", numbers, after=after) == []) == is_good


def row(seq, role="user", calls=0, reply=None, call=None):
    asked = tuple(ToolCall(id=f"c{n}", name="look", arguments="{}") for n in range(calls))
    return Message(
        thread_id="t",
        seq=seq,
        role=role,
        text="x",
        tool_calls=asked,
        reply_seq=reply,
        call_index=call,
        created_ms=0,
    )


ASKED = row(2, "assistant", calls=2)
GIVEN = [row(3, "tool", reply=2, call=0), row(4, "tool", reply=2, call=1)]


def test_a_window_in_which_every_call_has_its_result_passes():
    assert unpaired([row(1), ASKED, *GIVEN, row(5)]) == []
    assert unpaired([]) == []


@pytest.mark.parametrize(
    "window",
    [
        [row(1), ASKED],
        [row(1), ASKED, GIVEN[0]],
        [row(1), ASKED, GIVEN[1], GIVEN[0]],
        [row(1), ASKED, GIVEN[0], row(5), GIVEN[1]],
        [row(1), *GIVEN],
        [ASKED, *GIVEN, GIVEN[0]],
    ],
)
def test_a_window_that_a_strict_endpoint_refuses_is_found(window):
    assert unpaired(window) != []
