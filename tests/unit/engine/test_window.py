"""The window reads as far as it sends, keeps units whole and results in order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.engine.window import CHUNK, Window
from treadle.objects.message import Message, ToolCall
from treadle.store.sqlite import SqliteStore
from treadle.testing.store_contract import a_message, a_thread


def row(seq, role="user", tokens=10, calls=0, reply=None, call=None):
    asked = tuple(ToolCall(id=f"{seq}.{i}", name="f", arguments="{}") for i in range(calls))
    return Message(
        thread_id="t", seq=seq, role=role, text=f"{seq}", tokens=tokens, tool_calls=asked,
        reply_seq=reply, call_index=call, created_ms=0,
    )  # fmt: skip


def a_talk(chooser, units):
    """Make the rows of a random conversation, results in any order."""
    rows = [row(1)]
    for _ in range(units):
        seq = len(rows) + 1
        kind = chooser.random()
        if kind < 0.4:
            rows.append(row(seq, "user", chooser.randrange(1, 60)))
        elif kind < 0.6:
            rows.append(row(seq, "assistant", chooser.randrange(1, 60)))
        else:
            calls = chooser.randrange(1, 5)
            rows.append(row(seq, "assistant", chooser.randrange(1, 60), calls=calls))
            order = chooser.sample(range(calls), calls)
            rows += [
                row(seq + 1 + i, "tool", chooser.randrange(1, 60), reply=seq, call=c)
                for i, c in enumerate(order)
            ]
    return rows


def is_whole(rows):
    waiting = []
    for r in rows:
        if r.role == "tool":
            if not waiting or waiting.pop(0) != (r.reply_seq, r.call_index):
                return False
            continue
        if waiting:
            return False
        waiting = [(r.seq, i) for i in range(len(r.tool_calls))]
    return not waiting


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    units=st.integers(0, 30),
    budgets=st.lists(st.integers(0, 800), min_size=1, max_size=4),
    keep=st.sampled_from([None, None, 1, 3, 10]),
)
def test_whatever_is_dropped_units_stay_whole_and_the_newest_stays(seed, units, budgets, keep):
    rows = a_talk(random.Random(seed), units)
    window = Window(None, rows, next_seq=len(rows) + 1)
    newest = [r.seq for r in rows if r.role != "tool"][-1]
    for budget in budgets:
        sent = window.fit(budget, keep)
        assert is_whole(sent)
        assert newest in {r.seq for r in sent}
        assert len({r.seq for r in sent}) == len(sent)
        starts = [r.seq for r in sent if r.role != "tool"]
        assert starts == sorted(starts)
        tokens = sum(r.tokens for r in sent)
        last_unit = sum(r.tokens for r in sent if r.seq >= newest)
        assert tokens <= budget or tokens == last_unit
        if keep is not None:
            assert len(starts) <= keep
        elif (
            tokens <= budget
            and len(starts) < len([r for r in rows if r.role != "tool"])
            and starts[0] != newest
        ):
            following = [r.seq for r in rows if r.role != "tool" and r.seq > 1][
                -(len(starts) - (starts[0] == 1)) :
            ]
            assert starts in ([1, *following], following)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_that_come_one_by_one_stand_as_rows_that_were_read(seed):
    rows = a_talk(random.Random(seed), 15)
    read = Window(None, rows, next_seq=len(rows) + 1)
    grown = Window(None, rows[:1], next_seq=2)
    for r in rows[1:]:
        grown.append(r)
    assert read.rows == grown.rows
    assert read.next_seq == grown.next_seq == len(rows) + 1


def test_the_first_call_that_ends_last_stands_first():
    window = Window(None, [row(1), row(2, "assistant", calls=2)], next_seq=3)
    window.append(row(3, "tool", reply=2, call=1))
    window.append(row(4, "tool", reply=2, call=0))
    assert [r.call_index for r in window.rows[2:]] == [0, 1]


def test_what_the_model_counted_scales_within_bounds():
    window = Window(None, [row(n, tokens=100) for n in range(1, 11)], next_seq=11)
    assert len(window.fit(1000, None)) == 10
    window.learn(2100, 100)
    assert len(window.fit(1000, None)) == 5
    window.learn(10**9, 0)
    assert len(window.fit(1000, None)) == 2
    window.learn(1, 100)
    window.learn(0, 0)
    assert len(window.fit(1000, None)) == 2


def test_the_first_message_is_kept_until_even_it_is_too_much():
    window = Window(None, [row(1, tokens=50), *(row(n, tokens=100) for n in range(2, 6))], next_seq=6)
    assert [r.seq for r in window.fit(260, None)] == [1, 4, 5]
    assert [r.seq for r in window.fit(150, None)] == [1, 5]
    assert [r.seq for r in window.fit(149, None)] == [5]
    assert [r.seq for r in window.fit(0, None)] == [5]


def test_another_message_is_not_taken_for_the_first_when_that_is_gone():
    window = Window(None, [row(1, tokens=500), row(2, tokens=100), row(3, tokens=100)], next_seq=4)
    assert [r.seq for r in window.fit(150, None)] == [3]
    for seq in (4, 5):
        window.append(row(seq, tokens=60))
    assert [r.seq for r in window.fit(150, None)] == [4, 5]


def test_an_empty_thread_sends_nothing():
    window = Window(None, [], next_seq=1)
    assert window.fit(0, None) == ()
    assert window.fit(100, 3) == ()


class Counting(SqliteStore):
    """A store that notes how many rows it was asked for."""

    def __init__(self):
        super().__init__(None)
        self.read = []

    async def rows(self, *arguments, **bounds):
        found = await super().rows(*arguments, **bounds)
        self.read.append(len(found))
        return found


@pytest.mark.parametrize("count", [100, 1000, 5000])
async def test_a_long_thread_is_read_as_far_as_it_is_sent(count):
    store = Counting()
    thread = a_thread()
    await store.insert("default", thread, *(a_message(thread, f"{n}", tokens=100) for n in range(count)))
    window = await Window.load(store, "default", thread.id, budget_tokens=5000, keep_last=None)
    assert sum(store.read) <= 50 + CHUNK + 1
    assert len(store.read) <= 3
    sent = window.fit(5000, None)
    assert [r.seq for r in sent] == [1, *range(count - 48, count + 1)]
    assert window.next_seq == count + 1
    store.read.clear()
    window = await Window.load(store, "default", thread.id, budget_tokens=5000, keep_last=5)
    assert sum(store.read) <= CHUNK
    assert [r.seq for r in window.fit(5000, 5)] == list(range(count - 4, count + 1))
    await store.close()


@pytest.mark.parametrize("results", range(CHUNK - 3, CHUNK + 4))
async def test_a_tail_never_begins_between_a_call_and_its_results(results):
    store = Counting()
    thread = a_thread()
    asked = tuple(ToolCall(id=f"{i}", name="f", arguments="{}") for i in range(results))
    reply = a_message(thread, role="assistant", tool_calls=asked, tokens=10)
    answers = [a_message(thread, role="tool", reply_seq=3, call_index=i, tokens=10) for i in range(results)]
    opening = [a_message(thread, "first", tokens=10), a_message(thread, "second", tokens=10)]
    await store.insert("default", thread, *opening, reply, *answers)
    window = await Window.load(store, "default", thread.id, budget_tokens=20, keep_last=None)
    assert is_whole(window.rows)
    assert window.rows[0].text == "first"
    await store.close()
