"""Worlds from seeds: whatever happens in them, the promises hold, and each happens again from its seed."""

import asyncio
import json
import logging
import subprocess
import sys

import pytest

from treadle.testing.chance import Chance
from treadle.testing.simulated_loop import Life, SimulatedLoop, SimulationStuck, current_life
from treadle.testing.simulated_world import Weather
from treadle.testing.simulation import main, replay_line, simulate
from treadle.testing.trace import Trace

SEEDS = 60
GROUPS = 6

REPEAT = """
import json, sys
from treadle.testing.simulation import simulate
print(json.dumps([simulate(seed).hash for seed in map(int, sys.argv[1:])]))
"""


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_promise_is_broken_in_the_world_of_a_seed(group):
    for seed in range(1 + group, SEEDS + 1, GROUPS):
        course = simulate(seed)
        assert course.problems == (), f"replay: {replay_line(seed)}"


def test_the_worlds_of_these_seeds_have_what_they_are_for():
    courses = [simulate(seed) for seed in range(1, 13)]
    assert sum(c.runs for c in courses) > 50
    assert sum(c.dispatches for c in courses) > 50
    assert sum(c.kills for c in courses) > 5
    assert sum(c.pauses for c in courses) > 2


def test_a_seed_happens_again_exactly():
    for seed in (3, 4, 7, 18):
        first, second = [], []
        assert simulate(seed, tell=first.append) == simulate(seed, tell=second.append)
        assert first == second
        assert len(first) > 30


def test_a_seed_happens_again_in_another_process_with_other_hashes():
    seeds = ["5", "24"]
    hashes = {
        subprocess.run(
            [sys.executable, "-c", REPEAT, *seeds],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(hashes) == 1
    assert json.loads(hashes.pop()) == [simulate(int(seed)).hash for seed in seeds]


def test_other_seeds_are_other_worlds():
    assert len({simulate(seed).hash for seed in range(1, 6)}) == 5


def test_the_command_prints_what_it_ran(capsys):
    assert main(["--seeds", "2", "--first", "3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seeds 2, steps ")
    assert said.endswith("violations 0\n")
    assert logging.root.manager.disable == logging.NOTSET


def test_a_calm_world_of_one_process_completes_its_runs():
    course = simulate(1, Weather(walkers=1, clients=3, requests=10))
    assert course.problems == ()
    assert course.kills == course.pauses == 0
    assert course.runs > 5


# -- the loop ----------------------------------------------------------------------------------------------------


@pytest.fixture
def loop():
    made = SimulatedLoop(Chance("loop"), Trace())
    yield made
    made.bury([])
    made.close()


def test_time_passes_without_waiting(loop):
    async def sleep_long():
        await asyncio.sleep(86_400)
        return loop.time()

    assert 86_400 <= loop.run_until_complete(sleep_long()) < 86_401


def test_the_order_of_what_is_ready_follows_from_the_seed():
    def order_of(seed):
        loop, said = SimulatedLoop(Chance(seed), Trace()), []

        async def speak(name):
            said.append(name)

        async def speak_all():
            await asyncio.gather(*(speak(n) for n in range(8)))

        loop.run_until_complete(speak_all())
        loop.close()
        return tuple(said)

    assert order_of("a") == order_of("a")
    assert len({order_of(str(n)) for n in range(10)}) > 5


def test_timers_come_in_the_order_of_their_time(loop):
    said = []

    async def speak_late():
        for seconds in (3, 1, 2):
            loop.call_later(seconds, said.append, seconds)
        loop.call_later(1.5, said.append, "never").cancel()
        await asyncio.sleep(5)

    loop.run_until_complete(speak_late())
    assert said == [1, 2, 3]


def test_what_a_life_that_is_over_was_about_to_do_never_happens(loop):
    life, said = Life("victim"), []

    async def work():
        try:
            said.append("began")
            await asyncio.sleep(1)
            said.append("went on")
        finally:
            said.append("cleaned up")

    async def watch():
        loop.start_in(life, work())
        await asyncio.sleep(0.5)
        loop.end(life)
        await asyncio.sleep(10)
        return list(said)

    assert loop.run_until_complete(watch()) == ["began"]


def test_a_paused_life_goes_on_where_it_was_and_does_not_know(loop):
    life, said = Life("sleeper"), []

    async def work():
        for _ in range(3):
            await asyncio.sleep(1)
            said.append(round(loop.time()))

    async def watch():
        task = loop.start_in(life, work())
        await asyncio.sleep(1.5)
        loop.pause(life)
        await asyncio.sleep(60)
        loop.resume(life)
        await task

    loop.run_until_complete(watch())
    assert said == [1, 62, 63]


def test_a_life_has_all_that_is_started_in_it(loop):
    life, found = Life("parent"), []

    async def child():
        found.append(current_life())

    async def parent():
        await asyncio.gather(child(), asyncio.create_task(child()))
        loop.call_soon(lambda: found.append(current_life()))
        await asyncio.sleep(0.1)

    async def start():
        await loop.start_in(life, parent())
        return current_life()

    assert loop.run_until_complete(start()) is None
    assert found == [life, life, life]


def test_a_world_in_which_everything_waits_is_stuck(loop):
    async def wait_for_nothing():
        await loop.create_future()

    with pytest.raises(SimulationStuck, match="everything waits"):
        loop.run_until_complete(wait_for_nothing())


def test_a_world_that_does_not_end_is_stuck():
    loop = SimulatedLoop(Chance("x"), Trace(), most_steps=1000)

    async def turn_forever():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(SimulationStuck, match="no end after 1000 steps"):
        loop.run_until_complete(turn_forever())
    loop.bury([])
    loop.close()


def test_a_thread_is_refused(loop):
    async def ask_for_a_thread():
        await asyncio.to_thread(print)

    with pytest.raises(SimulationStuck, match="thread"):
        loop.run_until_complete(ask_for_a_thread())
