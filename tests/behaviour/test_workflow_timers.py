"""Waiting for a time: no process is held, nothing is lost with a process, and long pauses before a retry are such waits."""

import asyncio

import pytest

from treadle.errors import ProviderError

WAIT = """
start: pause
nodes:
  before: {type: set, set: {n: 1}, next: pause}
  pause: {type: wait, UNTIL, next: after}
  after: {type: set, set: {n: 2}, next: end}
state: {n: {type: integer, default: 0}}
inputs: {at: {type: string, default: ''}}
outputs: {n: state.n, at: result_of.pause.at}
"""


def wait(until):
    return WAIT.replace("UNTIL", until).replace("start: pause", "start: before")


async def rested(it, run, until):
    """Give the run once it rests."""

    async def rests():
        found = await it.runs.get(run.id)
        return found.walker is None and found.status == "in_progress"

    await until(rests)
    return await it.runs.get(run.id)


async def ended(treadle, run):
    async with asyncio.timeout(10):
        return await treadle.runs.wait(run.id)


async def test_a_run_that_waits_for_a_time_is_held_by_nobody_and_knows_when_it_goes_on(flow, until):
    it = flow(wait("for: 2h"))
    run = await rested(it, await it.start(), until)
    assert (run.status, run.walker, run.wake_ms) == ("in_progress", None, it.clock.wall_ms + 7_200_000)
    step = (await it.steps(run))["pause#1"]
    assert (step.is_open, step.wake_ms) == (True, run.wake_ms)


async def test_another_process_goes_on_when_the_time_has_come_and_not_before(flow, until):
    it = flow(wait("for: 2h"))
    run = await rested(it, await it.start(), until)
    at = it.clock.wall_ms // 1000 + 7200
    await it.treadle.close()
    other = it.open(walk=True)
    it.clock.advance(7199)
    assert (await other.recover()).resumed == 0
    it.clock.advance(1)
    await other.recover()
    run = await ended(other, run)
    assert (run.status, run.output) == ("completed", {"n": 2, "at": at})


async def test_a_wait_survives_that_its_process_dies(flow, until):
    it = flow(wait("for: 2h"))
    run = await rested(it, await it.start(), until)
    wake = run.wake_ms
    await it.die()
    await it.reborn(walk=True)
    await it.treadle.recover()
    assert (await it.runs.get(run.id)).wake_ms == wake
    it.clock.advance(7200)
    await it.treadle.recover()
    assert (await ended(it.treadle, run)).output["n"] == 2


async def test_a_wait_goes_until_a_time_that_an_expression_gives(flow, until):
    it = flow(wait("until: inputs.at"))
    run = await rested(it, await it.start(at="2026-01-01T05:00:00+01:00"), until)
    assert run.wake_ms == it.clock.wall_ms + 4 * 3_600_000


async def test_a_time_that_has_come_already_is_no_wait(flow):
    it = flow(wait("until: inputs.at"))
    run = await it.run(at="2020-01-01T00:00:00Z")
    assert (run.status, run.output["n"]) == ("completed", 2)


@pytest.mark.parametrize("at", ["tomorrow", "2026-01-01T05:00:00", ""])
async def test_a_time_that_is_none_fails_the_node(flow, at):
    run = await flow(wait("until: inputs.at")).run(at=at)
    assert (run.status, run.last_error.code) == ("failed", "code_error")


async def test_a_short_wait_does_not_let_the_run_go(flow):
    it = flow(wait("for: 500ms"))
    began = it.clock.wall_ms
    run = await it.run()
    assert (run.status, it.clock.wall_ms - began) == ("completed", 500)


async def test_branches_that_wait_let_the_run_go_at_the_first_of_their_times(flow, until):
    it = flow(
        """
        state: {told: {type: array, default: [], reduce: append}}
        start: all
        nodes:
          all: {type: parallel, branches: [a, b], join: after}
          a: {type: wait, for: 2h, save: {told: "'a'"}, next: after}
          b: {type: wait, for: 1h, save: {told: "'b'"}, next: b2}
          b2: {type: wait, for: 3h, save: {told: "'b2'"}, next: after}
          after: {type: end}
        outputs: {told: state.told}
        """
    )
    began = it.clock.wall_ms
    run = await rested(it, await it.start(), until)
    await it.treadle.close()
    other = it.open(walk=True)
    for hours in (1, 2, 4):
        found = await other.runs.get(run.id)
        assert (found.walker, found.wake_ms) == (None, began + hours * 3_600_000)
        it.clock.wall_ms = found.wake_ms
        await other.recover()
        await until(lambda found=found: _moved(other, found))
    run = await ended(other, run)
    assert run.output == {"told": ["a", "b", "b2"]}


async def _moved(treadle, run):
    now = await treadle.runs.get(run.id)
    return now.walker is None and now.rev > run.rev and now.wake_ms != run.wake_ms


async def test_a_question_and_a_timer_side_by_side_both_go_on(flow, until):
    it = flow(
        """
        start: all
        nodes:
          all: {type: parallel, branches: [a, b], join: after}
          a: {type: wait, for: 2h, next: after}
          b: {type: human, kind: approval, ask: Fine?, next: b2}
          b2: {type: wait, for: 1h, next: after}
          after: {type: end, outputs: {said: '{{ result_of.b.decision }}'}}
        """
    )
    began = it.clock.wall_ms
    run = await it.run()
    assert (run.status, run.walker, run.wake_ms) == ("requires_action", None, began + 7_200_000)
    await it.runs.answer(run.id, decision="approve")
    run = await rested(it, run, until)
    assert run.wake_ms == began + 3_600_000
    await it.treadle.close()
    other = it.open(walk=True)
    it.clock.advance(3600)
    await other.recover()
    await until(lambda: _moved(other, run))
    it.clock.advance(3600)
    await other.recover()
    assert (await ended(other, run)).output == {"said": "approve"}


RETRY = """
start: work
nodes:
  work:
    type: tool
    tool: work
    retry: {max_attempts: 3, initial_delay: DELAY, backoff: 2, jitter: none, on: [tool_error]}
    next: end
outputs: {said: result_of.work}
"""


class Flaky:
    __name__ = "work"

    def __init__(self, clock, fails):
        self.clock, self.fails, self.times = clock, fails, []

    def __call__(self) -> str:
        self.times.append(self.clock.wall_ms)
        if len(self.times) <= self.fails:
            raise ValueError("not yet")
        return "done"


async def test_short_pauses_before_a_retry_are_waited_for_and_grow(flow):
    work = Flaky(None, 2)
    it = flow(RETRY.replace("DELAY", "500ms"), work)
    work.clock = it.clock
    run = await it.run()
    assert (run.status, run.output) == ("completed", {"said": "done"})
    assert [t - work.times[0] for t in work.times] == [0, 500, 1500]
    rows = [s for s in await it.runs.steps(run.id) if s.path == "work#1"]
    assert [(s.attempt, s.status, s.edge) for s in rows] == [
        (1, "failed", "retry"), (2, "failed", "retry"), (3, "completed", None)
    ]  # fmt: skip


async def test_a_long_pause_before_a_retry_lets_the_run_go(flow, until):
    work = Flaky(None, 1)
    it = flow(RETRY.replace("DELAY", "10s"), work)
    work.clock = it.clock
    run = await rested(it, await it.start(), until)
    assert run.wake_ms == it.clock.wall_ms + 10_000
    assert len(work.times) == 1
    await it.treadle.close()
    other = it.open(walk=True)
    it.clock.advance(9)
    assert (await other.recover()).resumed == 0
    it.clock.advance(1)
    await other.recover()
    run = await ended(other, run)
    assert (run.status, run.output, len(work.times)) == ("completed", {"said": "done"}, 2)
    rows = [(s.path, s.attempt) for s in await other.runs.steps(run.id)]
    assert rows == [("work#1", 1), ("work#1", 2)]


async def test_attempts_are_counted_on_when_the_process_dies_between_them(flow, until):
    work = Flaky(None, 9)
    it = flow(RETRY.replace("DELAY", "10s"), work)
    work.clock = it.clock
    run = await rested(it, await it.start(), until)
    for _ in range(2):
        await it.die()
        await it.reborn(walk=True)
        before = await it.runs.get(run.id)
        await it.treadle.recover()
        await until(lambda before=before: _moved_or_over(it, before))
    run = await ended(it.treadle, run)
    assert (run.status, len(work.times)) == ("failed", 3)


async def _moved_or_over(it, run):
    now = await it.runs.get(run.id)
    return now.status == "failed" or (now.walker is None and now.wake_ms != run.wake_ms)


async def test_a_retry_waits_as_long_as_the_endpoint_asked(flow, until):
    error = ProviderError("slow down", kind="rate_limit", status=429, retryable=True, retry_after_s=90)
    it = flow(
        """
        start: ask
        nodes:
          ask: {type: prompt, model: scripted, prompt: Hello, retry: {max_attempts: 2, on: [rate_limit]}, next: end}
        outputs: {said: result_of.ask.text}
        """,
        script=[error, "Hi"],
    )
    run = await rested(it, await it.start(), until)
    assert run.wake_ms == it.clock.wall_ms + 90_000


async def test_a_wait_in_a_child_run_lets_the_whole_tree_go(flow, until):
    it = flow(
        """
        start: child
        nodes:
          child: {type: workflow, workflow: '#sleeper', thread: new, next: end}
        outputs: {n: result_of.child.n}
        ---
        version: 1.0.0
        kind: workflow
        name: sleeper
        start: pause
        nodes:
          pause: {type: wait, for: 2h, next: after}
          after: {type: set, set: {n: 3}, next: end}
        state: {n: {type: integer, default: 0}}
        outputs: {n: state.n}
        """
    )
    run = await rested(it, await it.start(), until)
    (child,) = await it.children(run)
    assert run.wake_ms == child.wake_ms == it.clock.wall_ms + 7_200_000
    assert child.walker is None
    await it.treadle.close()
    other = it.open(walk=True)
    it.clock.advance(7200)
    await other.recover()
    run = await ended(other, run)
    assert (run.status, run.output) == ("completed", {"n": 3})


async def test_a_loop_that_sleeps_between_its_rounds_goes_on_round_by_round(flow, until):
    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}}
        start: poll
        nodes:
          poll:
            type: loop
            max_iterations: 5
            until: state.n >= 3
            start: look
            nodes:
              look: {type: set, set: {n: 1}, next: [{when: state.n >= 3, to: end}, {to: nap}]}
              nap: {type: wait, for: 1h, next: end}
            next: end
        outputs: {n: state.n, iterations: result_of.poll.iterations}
        """
    )
    run = await rested(it, await it.start(), until)
    await it.treadle.close()
    other = it.open(walk=True)
    for left in (1, 0):
        before = await other.runs.get(run.id)
        it.clock.advance(3600)
        await other.recover()
        if left:
            await until(lambda before=before: _moved(other, before))
    run = await ended(other, run)
    assert run.output == {"n": 3, "iterations": 3}
