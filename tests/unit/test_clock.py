"""Two clocks with one face: the machine's, and one that moves only when it is told."""

import time

import pytest

from treadle.clock import Clock, SystemClock
from treadle.testing.fakes import FrozenClock


def test_the_system_clock_gives_unix_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    now = SystemClock().now_ms()
    assert before <= now <= time.time_ns() // 1_000_000


def test_the_system_clock_never_runs_backwards() -> None:
    clock = SystemClock()
    seen = [clock.monotonic() for _ in range(1000)]
    assert seen == sorted(seen)


async def test_sleeping_on_the_system_clock_takes_the_time_asked_for() -> None:
    clock = SystemClock()
    start = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - start >= 0.009


async def test_sleeping_on_a_frozen_clock_moves_it_and_takes_no_time(clock: FrozenClock) -> None:
    wall, start = clock.now_ms(), time.monotonic()
    await clock.sleep(3600)
    assert clock.now_ms() - wall == 3_600_000
    assert clock.monotonic() == 3600
    assert time.monotonic() - start < 1


def test_a_frozen_clock_refuses_to_run_backwards(clock: FrozenClock) -> None:
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_both_clocks_have_the_same_face() -> None:
    faces: list[Clock] = [SystemClock(), FrozenClock()]
    assert all(isinstance(face.now_ms(), int) and isinstance(face.monotonic(), float) for face in faces)
