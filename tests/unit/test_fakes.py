"""The fakes do what they are told and nothing else."""

import asyncio

import pytest

from treadle.clock import Clock
from treadle.ids import Ids
from treadle.testing.fakes import CountedIds, FrozenClock


def test_a_frozen_clock_stands_still_until_it_is_moved():
    clock: Clock = (frozen := FrozenClock(1_000))

    assert (clock.now_ms(), clock.monotonic()) == (1_000, 0.0)
    frozen.advance(1.5)
    assert (clock.now_ms(), clock.monotonic()) == (2_500, 1.5)


def test_sleeping_on_a_frozen_clock_takes_no_time_but_moves_it():
    clock = FrozenClock(0)

    asyncio.run(asyncio.wait_for(clock.sleep(86_400), timeout=5))

    assert clock.now_ms() == 86_400_000
    assert clock.monotonic() == 86_400


def test_sleeping_lets_other_tasks_run():
    order = []

    async def other():
        order.append("other")

    async def talk():
        task = asyncio.create_task(other())
        await FrozenClock().sleep(1)
        order.append("sleeper")
        await task

    asyncio.run(talk())
    assert order == ["other", "sleeper"]


def test_the_wall_clock_can_be_turned_back_and_the_other_one_cannot():
    clock = FrozenClock(5_000)
    clock.wall_ms = 1_000

    assert clock.now_ms() == 1_000
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_counted_ids_are_stable_sort_and_count_by_prefix():
    ids: Ids = CountedIds()

    made = [ids.new("run") for _ in range(11)]

    assert made[0] == "run_000000000000000000000001"
    assert made == sorted(made)
    assert ids.new("msg") == "msg_000000000000000000000001"
