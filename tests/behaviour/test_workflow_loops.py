"""Loops: until something holds, while something holds, and never more rounds than are allowed."""

import asyncio

import pytest

LOOP = """
inputs: {target: {type: integer, default: 3}, first: {type: integer, default: 0}}
state: {n: {type: integer, default: 0, reduce: sum}, seen: {type: array, default: [], reduce: append}}
start: refine
nodes:
  refine:
    type: loop
    FIELDS
    start: turn
    nodes:
      turn: {type: set, set: {n: 1, seen: '{{ loop.iteration }}'}, next: end}
    next: end
  gone: {type: end, outputs: {n: '{{ state.n }}', rescued: true}}
outputs: {n: state.n, seen: state.seen, iterations: result_of.refine.iterations, exhausted: result_of.refine.exhausted}
"""


def loop(fields):
    text = LOOP.replace("    FIELDS\n", "".join(f"    {line}\n" for line in fields.split("; ")))
    return text if "gone" in fields else "\n".join(x for x in text.splitlines() if "gone" not in x) + "\n"


async def test_a_loop_goes_on_until_something_holds_after_a_round(flow):
    it = flow(loop("until: state.n >= inputs.target; max_iterations: 10"))
    run = await it.run()
    assert run.output == {"n": 3, "seen": [1, 2, 3], "iterations": 3, "exhausted": False}
    run = await it.run(target=0)
    assert run.output["iterations"] == 1, "what is asked after a round is not asked before the first"


async def test_a_loop_goes_on_while_something_holds_before_a_round(flow):
    it = flow(loop("while: state.n < inputs.target; max_iterations: 10"))
    assert (await it.run()).output == {"n": 3, "seen": [1, 2, 3], "iterations": 3, "exhausted": False}
    run = await it.run(target=0)
    assert run.output == {"n": 0, "seen": [], "iterations": 0, "exhausted": False}


@pytest.mark.parametrize("condition", ["until: state.n >= 99", "while: state.n < 99"])
async def test_a_loop_that_is_not_done_after_its_most_rounds_fails_or_goes_on_as_it_says(flow, condition):
    run = await flow(loop(f"{condition}; max_iterations: 4")).run()
    assert (run.status, run.last_error.code) == ("failed", "budget")
    run = await flow(loop(f"{condition}; max_iterations: 4; on_exhausted: continue")).run()
    assert run.output == {"n": 4, "seen": [1, 2, 3, 4], "iterations": 4, "exhausted": True}
    run = await flow(loop(f"{condition}; max_iterations: 4; on_error: [{{on: [budget], to: gone}}]")).run()
    assert run.output == {"n": 4, "rescued": True}


async def test_a_loop_that_is_done_in_its_last_round_is_not_exhausted(flow):
    run = await flow(loop("until: state.n >= 4; max_iterations: 4")).run()
    assert run.output == {"n": 4, "seen": [1, 2, 3, 4], "iterations": 4, "exhausted": False}
    run = await flow(loop("while: state.n < 4; max_iterations: 4")).run()
    assert run.output == {"n": 4, "seen": [1, 2, 3, 4], "iterations": 4, "exhausted": False}


async def test_each_round_has_steps_of_its_own_and_visits_begin_anew_in_each(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}}
        start: refine
        nodes:
          refine:
            type: loop
            until: state.n >= 6
            max_iterations: 5
            start: turn
            nodes:
              turn: {type: set, set: {n: 1}, max_visits: 3, next: [{when: state.n % 3, to: turn}, {to: end}]}
            next: end
        outputs: {n: state.n, iterations: result_of.refine.iterations}
        """
    )
    run = await it.run()
    assert (run.status, run.output) == ("completed", {"n": 6, "iterations": 2})
    assert list(await it.steps(run)) == [
        "refine#1",
        *(f"refine#1[1]/turn#{n}" for n in (1, 2, 3)),
        "refine#1/2",
        *(f"refine#1[2]/turn#{n}" for n in (1, 2, 3)),
        "refine#1/3",
    ]


async def test_a_failed_round_fails_the_loop_and_what_was_written_before_stays(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}}
        start: refine
        nodes:
          refine:
            type: loop
            until: state.n >= 9
            max_iterations: 9
            start: turn
            nodes:
              turn: {type: set, set: {n: 1}, next: [{when: state.n == 3, to: bad}, {to: end}]}
              bad: {type: fail, error: enough, message: 'at {{ state.n }}'}
            on_error: [{on: [enough], to: rescue}]
            next: end
          rescue: {type: end, outputs: {n: '{{ state.n }}', told: rescued}}
        """.replace("enough, message", "model_error, message").replace("on: [enough]", "on: [model_error]")
    )
    run = await it.run()
    assert (run.status, run.output) == ("completed", {"n": 3, "told": "rescued"})
    step = (await it.steps(run))["refine#1/4"]
    assert (step.status, step.last_error.code) == ("failed", "model_error")
    assert "round 3: at 3" in step.last_error.message


async def test_an_error_within_a_round_may_be_routed_there(flow):
    calls = []

    def work() -> int:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("no")
        return len(calls)

    it = flow(
        """
        state: {told: {type: array, default: [], reduce: append}}
        start: refine
        nodes:
          refine:
            type: loop
            until: loop.iteration == 3
            max_iterations: 9
            start: turn
            nodes:
              turn: {type: tool, tool: work, save: {told: result}, next: end, on_error: [{to: note}]}
              note: {type: set, set: {told: failed}, next: end}
            next: end
        outputs: {told: state.told}
        """,
        work,
    )
    assert (await it.run()).output == {"told": [1, "failed", 3]}


async def test_loops_stand_within_loops_and_the_inner_one_tells_its_own_round(flow):
    it = flow(
        """
        state: {told: {type: array, default: [], reduce: append}}
        start: outer
        nodes:
          outer:
            type: loop
            until: loop.iteration == 2
            max_iterations: 3
            start: inner
            nodes:
              inner:
                type: loop
                until: loop.iteration == 2
                max_iterations: 3
                start: turn
                nodes:
                  turn: {type: set, set: {told: '{{ loop.iteration }}'}, next: end}
                next: mark
              mark: {type: set, set: {told: 'outer {{ loop.iteration }}'}, next: end}
            next: end
        outputs: {told: state.told}
        """
    )
    assert (await it.run()).output == {"told": [1, 2, "outer 1", 1, 2, "outer 2"]}


async def test_a_loop_within_a_map_and_branches_within_a_loop(flow):
    it = flow(
        """
        state: {told: {type: array, default: [], reduce: append}}
        start: each
        nodes:
          each:
            type: map
            over: "['a', 'b']"
            start: twice
            nodes:
              twice:
                type: loop
                until: loop.iteration == 2
                max_iterations: 2
                start: split
                nodes:
                  split: {type: parallel, branches: [x, y], join: end_of_round}
                  x: {type: set, set: {told: '{{ item }}x{{ loop.iteration }}'}, next: end_of_round}
                  y: {type: set, set: {told: '{{ item }}y{{ loop.iteration }}'}, next: end_of_round}
                  end_of_round: {type: set, set: {told: '|'}, next: end}
                next: end
            next: end
        outputs: {told: state.told}
        """
    )
    run = await it.run()
    assert run.output["told"] == [
        *["ax1", "ay1", "|", "ax2", "ay2", "|"],
        *["bx1", "by1", "|", "bx2", "by2", "|"],
    ]


async def test_the_last_result_of_a_body_is_seen_by_the_next_round(flow):
    it = flow(
        """
        start: refine
        nodes:
          refine:
            type: loop
            until: result_of.grow.v|length >= 4
            max_iterations: 9
            start: grow
            nodes:
              grow: {type: set, set: {v: "{{ (result_of.grow|default({'v': ''})).v ~ 'x' }}"}, next: end}
            next: end
        state: {v: {type: string, default: ''}}
        outputs: {v: state.v, iterations: result_of.refine.iterations}
        """
    )
    run = await it.run()
    assert run.output == {"v": "xxxx", "iterations": 4}


async def test_a_loop_whose_process_died_goes_on_in_its_round(flow, until):
    calls, go = [], asyncio.Event()

    async def work(n: int) -> int:
        calls.append(n)
        if n == 3:
            await go.wait()
        return 1

    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}}
        start: refine
        nodes:
          refine:
            type: loop
            until: state.n >= 5
            max_iterations: 9
            start: turn
            nodes:
              turn: {type: tool, tool: work, with: {n: '{{ loop.iteration }}'}, save: {n: result}, next: end}
            next: end
        outputs: {n: state.n, iterations: result_of.refine.iterations}
        """,
        work,
    )
    run = await it.start()
    await until(lambda: 3 in calls)
    await it.die()
    go.set()
    other = await it.reborn(walk=True)
    await other.recover()
    run = await other.runs.wait(run.id, timeout_s=10)
    assert run.output == {"n": 5, "iterations": 5}
    assert calls == [1, 2, 3, 3, 4, 5]


async def test_a_condition_that_cannot_be_evaluated_fails_the_loop(flow):
    run = await flow(loop("until: 1 / (state.n - 2) > 5; max_iterations: 9")).run()
    assert (run.status, run.last_error.code) == ("failed", "code_error")
