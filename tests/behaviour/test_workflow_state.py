"""The state of a workflow, and the texts that read it: reducers, types that every write is held to, conditions, switches."""

import pytest

from treadle.errors import StateError

REDUCE = """
inputs: {first: {}, second: {}}
state: {v: {SPEC}}
start: a
nodes:
  a: {type: set, set: {v: '{{ inputs.first }}'}, next: b}
  b: {type: set, set: {v: '{{ inputs.second }}'}, next: end}
outputs: {v: state.v}
"""


def reduce(spec):
    return REDUCE.replace("SPEC", spec).replace("{first: {}, second: {}}", "{first: {type: [array, object, string, number, boolean, 'null']}, second: {type: [array, object, string, number, boolean, 'null']}}")  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "first", "second", "gives"),
    [
        ("", 1, 2, 2),
        ("reduce: replace", [1], [2], [2]),
        ("type: array, default: [], reduce: append", 1, [2], [1, [2]]),
        ("type: array, reduce: append", 1, 2, [1, 2]),
        ("type: object, default: {a: 1, b: 1}, reduce: merge", {"b": 2}, {"c": 3}, {"a": 1, "b": 2, "c": 3}),
        ("type: object, reduce: merge", {"b": 2}, {"b": 3}, {"b": 3}),
        ("type: number, default: 1, reduce: sum", 2, 3.5, 6.5),
        ("type: number, reduce: sum", 2, 3, 5),
        ("type: number, default: 2, reduce: max", 1, 7, 7),
        ("type: number, reduce: max", 4, 3, 4),
        ("type: number, default: 2, reduce: min", 5, 1, 1),
        ("type: number, reduce: min", 4, 5, 4),
        ("type: array, default: [a], reduce: union", ["b", "a"], ["c", "c", "b"], ["a", "b", "c"]),
        ("type: array, reduce: union", [1, 1, 2], [2, 3], [1, 2, 3]),
        ("type: array, reduce: union", [{"a": 1}, {"a": 1}], [{"a": 1}, [1]], [{"a": 1}, [1]]),
    ],
)
async def test_a_write_joins_what_is_there_as_its_reducer_says(flow, spec, first, second, gives):
    run = await flow(reduce(spec)).run(first=first, second=second)
    assert (run.status, run.output) == ("completed", {"v": gives})


@pytest.mark.parametrize(
    ("spec", "first"),
    [
        ("type: integer", "x"),
        ("type: integer, minimum: 3", 2),
        ("type: array, items: {type: integer}, default: [], reduce: append", "x"),
        ("type: array, items: {type: integer}, default: [], reduce: union", ["x"]),
        ("type: array, default: [], reduce: union", 5),
        ("type: object, default: {}, reduce: merge", [1]),
        ("type: number, default: 0, reduce: sum", "x"),
        ("type: integer, default: 0, maximum: 5, reduce: sum", 6),
        ("type: number, default: 0, reduce: max", "x"),
        ("type: array, default: [], maxItems: 0", [1]),
    ],
)
async def test_a_write_that_does_not_fit_fails_the_node_and_writes_nothing(flow, spec, first):
    it = flow(reduce(spec))
    run = await it.run(first=first, second=1)
    assert (run.status, run.last_error.code) == ("failed", "state_type"), run.output
    assert "state.v" in run.last_error.message
    assert list(await it.steps(run)) == ["a#1"]


async def test_an_error_route_takes_a_write_that_does_not_fit(flow):
    text = reduce("type: integer, default: 7").replace(
        "first }}'}, next: b}", "first }}'}, next: b, on_error: [{on: [state_type], to: b}]}"
    )
    run = await flow(text).run(first="x", second=8)
    assert run.output == {"v": 8}


async def test_what_branches_write_together_is_held_to_the_type_as_well(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 0, maximum: 10, reduce: sum}}
        start: both
        nodes:
          both: {type: parallel, branches: [a, b], join: after}
          a: {type: set, set: {n: 6}, next: after}
          b: {type: set, set: {n: 6}, next: after}
          after: {type: end}
        outputs: {n: state.n}
        """
    )
    run = await it.run()
    assert (run.status, run.last_error.code) == ("failed", "state_type")
    assert "12, written side by side, does not fit state.n" in run.last_error.message


@pytest.mark.parametrize("route", ["{on: [state_type], to: after}", "{on: [state_type], continue_with: {}}"])
async def test_what_does_not_fit_together_is_not_written_where_the_error_is_routed(flow, route):
    it = flow(
        """
        state: {n: {type: integer, default: 1, maximum: 10, reduce: sum}}
        start: each
        nodes:
          each: {type: map, over: '[6, 7]', node: {type: set, set: {n: '{{ item }}'}}, next: after, on_error: [ROUTE]}
          after: {type: end}
        outputs: {n: state.n}
        """.replace("ROUTE", route)
    )
    assert (await it.run()).output == {"n": 1}


async def test_a_map_goes_on_by_what_its_items_wrote(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}, seen: {type: integer, default: 0}}
        start: each
        nodes:
          each:
            type: map
            over: '[1, 2, 3]'
            node: {type: set, set: {n: '{{ item }}'}}
            save: {seen: state.n}
            next: [{when: state.n == 6, to: good}, {to: bad}]
          good: {type: end, outputs: {seen: '{{ state.seen }}'}}
          bad: {type: fail, error: wrong, message: 'n is {{ state.n }}'}
        """
    )
    run = await it.run()
    assert (run.status, run.output) == ("completed", {"seen": 6})


async def test_a_condition_sees_the_state_after_what_its_node_saved(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}, told: {type: array, default: [], reduce: append}}
        start: a
        nodes:
          a:
            type: tool
            tool: work
            save: {n: result, told: "'n was ' ~ state.n"}
            next: [{when: state.n < 3, to: a}, {when: state.n == 3 and result == 1, to: b}, {to: end}]
          b: {type: set, set: {told: b}, next: end}
        outputs: {n: state.n, told: state.told}
        """,
        work_one,
    )
    assert (await it.run()).output == {"n": 3, "told": ["n was 0", "n was 1", "n was 2", "b"]}


def work_one() -> int:
    return 1


work_one.__name__ = "work"


WENT = ("number", "nothing", "yes", "empty", "letters", "minus", "other")
SWITCH = """
inputs: {v: {type: [array, object, string, number, boolean, 'null']}}
start: choose
nodes:
  choose:
    type: switch
    value: inputs.v
    cases: {0: number, null: nothing, true: 'yes', '': empty, 'ü ö': letters, -1: minus}
    default: other
"""


@pytest.mark.parametrize(
    ("value", "goes"),
    [
        (0, "number"), ("0", "other"), (None, "nothing"), (True, "yes"), (False, "other"), (1, "other"), ("true", "other"),
        ("null", "other"), (0.0, "other"), ([], "other"), ("", "empty"), ("ü ö", "letters"), (-1, "minus"),
    ],
)  # fmt: skip
async def test_a_switch_takes_the_case_that_is_the_same_json(flow, value, goes):
    ends = "".join(f"  {name}: {{type: end, outputs: {{went: '{name}'}}}}\n" for name in WENT)
    run = await flow(SWITCH + ends).run(v=value)
    assert run.output == {"went": goes}


async def test_a_switch_tells_a_number_from_its_text(flow):
    text = SWITCH.replace("cases: {0: number, null", "cases: {'0': text, null") + "".join(
        f"  {name}: {{type: end, outputs: {{went: '{name}'}}}}\n" for name in ("text", *WENT[1:])
    )
    assert (await flow(text).run(v="0")).output == {"went": "text"}
    assert (await flow(text).run(v=0)).output == {"went": "other"}


async def test_now_is_one_time_for_the_whole_run_whoever_walks_it(flow):
    it = flow(
        """
        state: {seen: {type: array, default: [], reduce: append}}
        start: a
        nodes:
          a: {type: set, set: {seen: '{{ now }}'}, next: ask}
          ask: {type: human, kind: approval, ask: Fine?, next: b}
          b: {type: set, set: {seen: '{{ now }}'}, next: end}
        outputs: {seen: state.seen}
        """
    )
    run = await it.run()
    it.clock.advance(3600)
    other = it.open()
    await other.runs.answer(run.id, decision="approve")
    run = await other.runs.wait(run.id)
    first, second = run.output["seen"]
    assert first == second == "2026-01-01T00:00:00+00:00"


async def test_texts_see_the_names_of_the_run(flow):
    it = flow(
        """
        start: ask
        nodes:
          ask: {type: prompt, model: scripted, prompt: Hello, next: a}
          a:
            type: set
            set: {v: '{{ run }}'}
            next: end
        state: {v: {type: object, default: {}}}
        outputs: {v: state.v}
        """,
        script=[{"text": "Hi", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}],
    )
    run = await it.run()
    assert run.output["v"] == {
        "id": run.id,
        "thread_id": run.thread_id,
        "started_at": it.clock.wall_ms // 1000,
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


async def test_a_value_keeps_its_type_and_a_text_around_it_makes_text(flow):
    it = flow(
        """
        inputs: {n: integer}
        start: a
        nodes:
          a: {type: end, outputs: {n: '{{ inputs.n }}', t: 'n={{ inputs.n }}', l: ['{{ inputs.n }}', {deep: '{{ [inputs.n] }}'}], x: 5, s: '123'}}
        """
    )
    assert (await it.run(n=3)).output == {"n": 3, "t": "n=3", "l": [3, {"deep": [3]}], "x": 5, "s": "123"}


async def test_the_last_result_of_a_node_is_what_result_of_gives(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}, told: {type: array, default: [], reduce: append}}
        start: a
        nodes:
          a: {type: set, set: {n: 1}, next: b}
          b:
            type: set
            set: {told: "{{ result_of.a.n * 100 + (result_of.b|default({'told': 0})).told }}"}
            next: [{when: state.n < 3, to: a}, {to: end}]
        outputs: {told: state.told, last: result_of.b.told}
        """
    )
    assert (await it.run()).output == {"told": [100, 200, 300], "last": 300}


async def test_a_text_that_fails_fails_its_node_with_a_code_that_can_be_routed(flow):
    it = flow(
        """
        start: a
        nodes:
          a: {type: set, set: {v: '{{ 1 / inputs.n }}'}, next: end, on_error: [{on: [code_error], to: b}]}
          b: {type: set, set: {v: -1}, next: end}
        inputs: {n: integer}
        state: {v: {type: number, default: 0}}
        outputs: {v: state.v}
        """
    )
    assert (await it.run(n=2)).output == {"v": 0.5}
    assert (await it.run(n=0)).output == {"v": -1}


async def test_outputs_that_cannot_be_given_fail_the_run(flow):
    it = flow("inputs: {n: integer}\nstart: a\nnodes:\n  a: {type: end}\noutputs: {v: 1 / inputs.n}\n")
    run = await it.run(n=0)
    assert (run.status, run.last_error.code) == ("failed", "invalid_output")


async def test_a_body_that_keeps_a_large_state_gives_each_step_the_newest(flow):
    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}, all: {type: array, default: [], reduce: append}}
        start: turns
        nodes:
          turns:
            type: loop
            until: state.n >= 300
            max_iterations: 300
            start: turn
            nodes:
              turn: {type: set, set: {n: 1, all: '{{ state.n }}'}, next: end}
            next: end
        outputs: {n: state.n, all: state.all}
        """
    )
    run = await it.run()
    assert run.output == {"n": 300, "all": list(range(300))}


async def test_a_run_that_is_not_given_what_it_needs_is_refused_and_nothing_is_stored(flow):
    it = flow("inputs: {n: integer}\nstart: a\nnodes:\n  a: {type: end}\n")
    for inputs in ({}, {"n": "x"}, {"n": 1, "more": 2}):
        with pytest.raises(StateError):
            await it.run(**inputs)
    assert await it.runs.list() == []
