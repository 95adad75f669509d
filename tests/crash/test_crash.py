"""Processes are killed at every point at which they can die, and every promise is kept."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from treadle.objects.tool import FunctionTool
from treadle.testing.crash import (
    Zygotes,
    crash_matrix,
    main,
    manifest,
    name_of,
    read_replay,
    replay_of,
)  # fmt: skip
from treadle.testing.crash_points import READS, Point
from treadle.testing.crash_scenario import Scenario
from treadle.testing.crash_scenarios import AGENT_SCENARIOS
from treadle.testing.fakes import ScriptedProvider

MANUAL = Path(__file__).parents[2] / "docs" / "crash-tests.md"
MANIFEST = Path(__file__).parent / "manifest.txt"
DOUBLES = 12
SEED = 1


@pytest.fixture(scope="module")
def zygotes() -> Iterator[Zygotes]:
    with Zygotes() as found:
        yield found


@pytest.mark.parametrize("scenario", AGENT_SCENARIOS, ids=lambda s: s.name)
def test_a_process_that_dies_anywhere_loses_nothing_and_repeats_nothing(scenario, zygotes) -> None:
    matrix = crash_matrix(scenario, seed=SEED, doubles=DOUBLES, zygotes=zygotes)
    matrix.check()
    assert (matrix.missed, matrix.doubles) == ((), DOUBLES)
    assert matrix.kills >= len(matrix.points)


def test_the_points_at_which_a_process_can_die_are_those_that_were_reviewed(zygotes) -> None:
    found, known = manifest(zygotes=zygotes).splitlines(), MANIFEST.read_text().splitlines()
    assert found == known, (
        "a point came, went or moved; look at each, then write the list anew: "
        "python -m treadle.testing.crash --manifest tests/crash/manifest.txt"
    )


def test_processes_that_are_started_from_nothing_come_to_the_same_end(zygotes) -> None:
    job = {"scenario": "once", "seed": SEED, "kills": [["dispatch.charge#1", "after"]], "fresh": True}
    answer = zygotes.ask(job)
    assert (answer["killed"], answer["wrongs"]) == (1, [])


# -- the harness notices ---------------------------------------------------------------------------------------------


def setup(place):
    def count(n: int) -> str:
        """Count."""
        place.receiver.note("counted")
        return str(n)

    def reply(request):
        if request.messages[-1].role == "user":
            return {"calls": [{"name": "count", "arguments": {"n": 1}}]}
        return "counted"

    return {"tools": [count], "providers": {"scripted": ScriptedProvider(reply)}}


async def drive(place) -> None:
    agent = await place.agent(
        model="scripted", tools=[FunctionTool(name="count", runs="server", effect="pure")]
    )
    thread = await place.thread("Count!")
    await place.finish(await place.first_run(thread, agent))


def is_counted_once(outcome):
    if sum(n["what"] == "counted" for n in outcome.notes) != 1:
        yield "the count is wrong"


async def drive_without_looking(place) -> None:
    agent = await place.agent(
        model="scripted", tools=[FunctionTool(name="count", runs="server", effect="pure")]
    )
    thread = await place.treadle.threads.create(messages=[{"content": "Count!"}])
    await place.finish(await place.first_run(thread, agent))


async def drive_into_a_wall(place) -> None:
    raise ValueError("the client is broken")


def is_given_up(outcome):
    (run,) = [lived.run for c in outcome.threads for lived in c.runs]
    if outcome.place.life < 4:
        return
    if run.status != "failed" or "died 3 times at tool_call#1/0" not in run.last_error.message:
        yield f"the run is {run.status}: {run.last_error}"


DEADLY = Scenario(name="deadly", setup=setup, drive=drive, holds=is_given_up, compares=False)
COUNTED = Scenario(name="counted", setup=setup, drive=drive, holds=is_counted_once)
FORGETFUL = Scenario(name="forgetful", setup=setup, drive=drive_without_looking)
BROKEN = Scenario(name="broken", setup=setup, drive=drive_into_a_wall)


def test_a_promise_that_is_not_kept_is_told_with_a_command_that_repeats_it(zygotes, capsys) -> None:
    """A `pure` tool is called again after a crash: who needs it to be called once must not say `pure`."""
    matrix = crash_matrix(COUNTED, doubles=0, zygotes=zygotes)
    found = {read_replay(v.replay)[2][0] for v in matrix.violations}
    assert found == {Point("dispatch.count#1", "after"), Point("commit.tool_call#1", "before")}
    with pytest.raises(AssertionError, match="the count is wrong"):
        matrix.check()
    assert main(["--replay", matrix.violations[0].replay]) == 1
    assert "the count is wrong" in capsys.readouterr().out


def test_a_client_that_does_everything_again_is_found(zygotes) -> None:
    matrix = crash_matrix(FORGETFUL, doubles=0, zygotes=zygotes)
    assert any("there are 2 threads, without a crash 1" in v.wrongs[0] for v in matrix.violations)


def test_a_scenario_that_goes_wrong_by_itself_is_refused(zygotes) -> None:
    with pytest.raises(RuntimeError, match="goes wrong without a kill") as refused:
        crash_matrix(BROKEN, zygotes=zygotes)
    assert "the client is broken" in str(refused.value)


def test_a_scenario_that_no_other_process_finds_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be found by another process"):
        name_of(Scenario(name="local", setup=setup, drive=drive))


def test_calls_that_only_read_are_calls_that_a_store_has() -> None:
    from treadle.store.base import Store

    assert [name for name in READS if not hasattr(Store, name)] == []


@pytest.mark.parametrize("name", ["plain", "/somewhere/my_crash.py:REFUND"])
@pytest.mark.parametrize("more", [(), (Point("claim#1", "before"),)])
def test_a_replay_is_read_as_it_was_written(name, more) -> None:
    kills = [Point("commit.2xtool_call+model_call=completed#1", "after"), *more]
    assert read_replay(replay_of(name, 7, kills)) == (name, 7, kills)


def test_a_call_that_kills_its_process_three_times_is_given_up(zygotes) -> None:
    kills = [Point("dispatch.count#1", "before")] * 3
    answer = zygotes.ask({"scenario": name_of(DEADLY), "seed": 0, "kills": kills})
    assert (answer["killed"], answer["wrongs"]) == (3, [])


# -- the plugin -------------------------------------------------------------------------------------------------------


def test_the_plugin_kills_an_agent_of_ones_own_as_the_manual_shows(tmp_path) -> None:
    (block,) = re.findall(r"^```python [^\n]*\n(.*?)^```$", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "test_mine.py").write_text(block)
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "treadle.testing.plugin", "-p", "no:cacheprovider",
            "--crash-doubles", "3", "--crash-jobs", "1", "test_mine.py",
        ],
        cwd=tmp_path, env=os.environ | {"PYTEST_ADDOPTS": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "crash tests: kills" in done.stdout
    assert "double 3, scenarios 1" in done.stdout
    assert "violations 0" in done.stdout
