"""A map over a list: as wide as the list is when the run gets there, a few items at once, results in the order of the list."""

import asyncio

import pytest

MAP = """
inputs: {items: {type: array, default: [a, b, c]}}
start: each
nodes:
  each:
    type: map
    over: inputs.items
    FIELDS
    node: {type: tool, tool: work, with: {item: '{{ item }}'}}
    next: end
outputs: {each: result_of.each}
"""


def mapped(fields=""):
    return MAP.replace("    FIELDS\n", "".join(f"    {line}\n" for line in fields.split("; ") if line))


def work(item: str) -> str:
    if str(item).startswith("bad"):
        raise ValueError(f"no {item}")
    return f"{item}!"


async def test_a_map_is_as_wide_as_its_list_at_run_time_and_keeps_its_order(flow):
    it = flow(mapped(), work)
    run = await it.run(items=["x", "y"])
    assert run.output["each"] == {"collected": ["x!", "y!"], "errors": [], "merged": {}}
    run = await it.run(items=[str(n) for n in range(40)])
    assert run.output["each"]["collected"] == [f"{n}!" for n in range(40)]
    assert [p for p in await it.steps(run) if p.startswith("each#1[39]")] == ["each#1[39]/item#1"]


async def test_an_empty_list_is_done_at_once(flow):
    it = flow(mapped(), work)
    run = await it.run(items=[])
    assert run.output["each"] == {"collected": [], "errors": [], "merged": {}}
    assert list(await it.steps(run)) == ["each#1", "each#1/end"]


async def test_results_stand_in_the_order_of_the_list_whoever_was_first(flow, until):
    gates = {item: asyncio.Event() for item in "abc"}
    ended = []

    async def work(item: str) -> str:
        await gates[item].wait()
        ended.append(item)
        return f"{item}!"

    it = flow(mapped(), work)
    run = await it.start()
    for item in "cba":
        gates[item].set()
        await until(lambda item=item: item in ended)
    run = await it.runs.wait(run.id, timeout_s=10)
    assert (ended, run.output["each"]["collected"]) == (["c", "b", "a"], ["a!", "b!", "c!"])


async def test_a_list_that_is_too_long_fails_the_node_before_anything_is_done(flow):
    calls = []

    def work(item: str) -> str:
        calls.append(item)
        return item

    run = await flow(mapped("max_items: 2"), work).run()
    assert (run.status, run.last_error.code, calls) == ("failed", "budget", [])
    assert "max_items is 2" in run.last_error.message


async def test_what_is_no_list_fails_the_node(flow):
    run = await flow(mapped().replace("over: inputs.items", "over: run.id"), work).run()
    assert (run.status, run.last_error.code) == ("failed", "code_error")


@pytest.mark.parametrize(
    ("fields", "limits", "most"),
    [("max_concurrency: 3", "", 3), ("", "limits: {max_concurrency: 2}", 2), ("", "", 8), ("max_concurrency: 5", "limits: {max_concurrency: 2}", 2)],
)  # fmt: skip
async def test_no_more_items_are_worked_on_at_once_than_is_said(flow, until, fields, limits, most):
    under_way, seen, go = set(), [0], asyncio.Event()

    async def work(item: int) -> int:
        under_way.add(item)
        seen[0] = max(seen[0], len(under_way))
        await go.wait()
        under_way.discard(item)
        return item

    it = flow(limits + mapped(fields), work)
    run = await it.start(items=list(range(20)))
    await until(lambda: len(under_way) == most)
    go.set()
    run = await it.runs.wait(run.id, timeout_s=10)
    assert (seen, run.output["each"]["collected"]) == ([most], list(range(20)))


async def test_a_failed_item_fails_the_map_and_the_others_are_stopped(flow):
    stopped = []

    async def work(item: str) -> str:
        if item == "bad":
            raise ValueError("no")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(item)
        return item

    it = flow(mapped(), work)
    run = await it.run(items=["a", "bad", "b"])
    assert (run.status, run.last_error.code) == ("failed", "tool_error")
    assert "item 1" in run.last_error.message
    assert sorted(stopped) == ["a", "b"]


BAD = ["a", "bad1", "b", "bad2", "c"]


@pytest.mark.parametrize(
    ("fields", "collected"),
    [
        ("on_item_error: skip", ["a!", "b!", "c!"]),
        ("on_item_error: collect", ["a!", None, "b!", None, "c!"]),
        ("on_item_error: skip; tolerate: 2", ["a!", "b!", "c!"]),
        ("on_item_error: collect; tolerate: 40%", ["a!", None, "b!", None, "c!"]),
    ],
)
async def test_failed_items_are_left_out_or_null_and_told_with_their_places(flow, fields, collected):
    run = await flow(mapped(fields), work).run(items=BAD)
    assert run.status == "completed"
    assert run.output["each"]["collected"] == collected
    assert [(e["index"], e["code"]) for e in run.output["each"]["errors"]] == [
        (1, "tool_error"),
        (3, "tool_error"),
    ]
    assert "no bad2" in run.output["each"]["errors"][1]["message"]


@pytest.mark.parametrize("fields", ["tolerate: 1", "tolerate: 39%", "tolerate: 0"])
@pytest.mark.parametrize("policy", ["skip", "collect"])
async def test_more_failed_items_than_are_tolerated_fail_the_map(flow, fields, policy):
    run = await flow(mapped(f"on_item_error: {policy}; {fields}"), work).run(items=BAD)
    assert (run.status, run.last_error.code) == ("failed", "tool_error")


async def test_an_error_route_takes_a_failed_map(flow):
    text = mapped("on_error: [{on: [tool_error], to: rescue}]").replace(
        "outputs:", "  rescue: {type: end, outputs: {rescued: true}}\noutputs:"
    )
    run = await flow(text, work).run(items=BAD)
    assert (run.status, run.output) == ("completed", {"rescued": True})


async def test_an_error_within_an_item_may_be_routed_there(flow):
    text = mapped().replace(
        "with: {item: '{{ item }}'}}",
        "with: {item: '{{ item }}'}, on_error: [{continue_with: 'not {{ item }}: {{ error.code }}'}]}",
    )
    run = await flow(text, work).run(items=["a", "bad"])
    assert run.output["each"]["collected"] == ["a!", "not bad: tool_error"]


async def test_what_is_collected_may_be_an_expression_and_mappings_are_merged(flow):
    run = await flow(mapped("collect: \"{item: result, 'n': index}\""), work).run(items=["a", "b"])
    each = run.output["each"]
    assert each["collected"] == [{"a": "a!", "n": 0}, {"b": "b!", "n": 1}]
    assert each["merged"] == {"a": "a!", "b": "b!", "n": 1}


async def test_the_item_and_its_place_have_the_names_that_the_map_gives_them(flow):
    it = flow(
        """
        start: each
        nodes:
          each:
            type: map
            over: "['a', 'b']"
            as: letter
            index_as: place
            start: one
            nodes:
              one: {type: set, set: {told: '{{ place }}{{ letter }}'}, next: two}
              two: {type: set, set: {told: '{{ letter }}{{ result_of.one.told }}'}, next: end}
            collect: "result_of.two.told ~ letter ~ place"
            next: end
        state: {told: {type: array, default: [], reduce: append}}
        outputs: {collected: result_of.each.collected, told: state.told}
        """
    )
    run = await it.run()
    assert run.output == {"collected": ["a0aa0", "b1bb1"], "told": ["0a", "a0a", "1b", "b1b"]}


async def test_maps_stand_within_maps_and_see_the_items_of_both(flow):
    it = flow(
        """
        start: rows
        nodes:
          rows:
            type: map
            over: "[[1, 2], [], [3]]"
            as: row
            index_as: y
            start: cells
            nodes:
              cells:
                type: map
                over: row
                as: cell
                index_as: x
                node: {type: tool, tool: work, with: {item: '{{ y }}{{ x }}{{ cell }}'}}
                next: end
            collect: result.collected
            next: end
        outputs: {rows: result_of.rows.collected}
        """,
        work,
    )
    run = await it.run()
    assert run.output == {"rows": [["001!", "012!"], [], ["203!"]]}
    assert "rows#1[2]/cells#1[0]/item#1" in await it.steps(run)


SUB = """
start: each
nodes:
  each:
    type: map
    over: "['a', 'bad', 'c']"
    as: letter
    workflow: '#sub'
    with: {word: '{{ letter }}'}
    on_item_error: skip
    collect: "{letter: result.said}"
    next: end
outputs: {each: result_of.each}
---
version: 1.0.0
kind: workflow
name: sub
inputs: {word: string}
tools: [{type: function, name: work, runs: server, effect: pure}]
start: a
nodes:
  a: {type: tool, tool: work, with: {item: '{{ inputs.word }}'}, next: end}
outputs: {said: result_of.a}
"""


async def test_a_map_over_a_workflow_makes_a_child_run_with_a_thread_of_its_own_for_each_item(flow):
    it = flow(SUB, work)
    run = await it.run()
    assert run.output["each"]["merged"] == {"a": "a!", "c": "c!"}
    assert [e["index"] for e in run.output["each"]["errors"]] == [1]
    children = await it.children(run)
    assert [c.status for c in children] == ["completed", "failed", "completed"]
    assert len({c.thread_id for c in (*children, run)}) == 4


async def test_items_write_to_copies_of_the_state_which_are_joined_in_the_order_of_the_list(flow, until):
    gates = {item: asyncio.Event() for item in "abc"}
    ended = []

    async def work(item: str) -> str:
        await gates[item].wait()
        ended.append(item)
        return item

    it = flow(
        """
        state: {told: {type: array, default: [z], reduce: append}, seen: {type: array, default: [], reduce: append}}
        start: each
        nodes:
          each:
            type: map
            over: "['a', 'b', 'c']"
            start: one
            nodes:
              one: {type: tool, tool: work, with: {item: '{{ item }}'}, save: {told: result}, next: two}
              two: {type: set, set: {seen: '{{ state.told|join }}'}, next: end}
            next: end
        outputs: {told: state.told, seen: state.seen}
        """,
        work,
    )
    run = await it.start()
    for item in "cba":
        gates[item].set()
        await until(lambda item=item: item in ended)
    run = await it.runs.wait(run.id, timeout_s=10)
    assert run.output == {"told": ["z", "a", "b", "c"], "seen": ["za", "zb", "zc"]}


async def test_what_failed_items_wrote_is_not_taken(flow):
    it = flow(
        """
        state: {told: {type: array, default: [], reduce: append}}
        start: each
        nodes:
          each:
            type: map
            over: "['a', 'bad']"
            on_item_error: skip
            start: one
            nodes:
              one: {type: set, set: {told: '{{ item }}'}, next: two}
              two: {type: tool, tool: work, with: {item: '{{ item }}'}, next: end}
            next: end
        outputs: {told: state.told}
        """,
        work,
    )
    assert (await it.run()).output == {"told": ["a"]}


async def test_a_fail_node_ends_its_item_only(flow):
    it = flow(
        """
        start: each
        nodes:
          each:
            type: map
            over: "[1, 2, 3]"
            on_item_error: collect
            start: look
            nodes:
              look: {type: switch, value: item, cases: {2: bad}, default: good}
              bad: {type: fail, error: odd_one, message: 'not {{ item }}'}
              good: {type: set, set: {n: '{{ item }}'}, next: end}
            collect: result.n
            next: end
        state: {n: {type: integer, default: 0, reduce: sum}}
        outputs: {each: result_of.each, n: state.n}
        """
    )
    run = await it.run()
    assert run.output["each"]["collected"] == [1, None, 3]
    assert run.output["each"]["errors"] == [{"index": 1, "code": "odd_one", "message": "not 2"}]
    assert run.output["n"] == 4


async def test_items_that_were_done_are_not_done_again_when_the_process_dies(flow, until):
    calls, go = [], asyncio.Event()

    async def work(item: int) -> int:
        calls.append(item)
        if item == 5:
            await go.wait()
        return item * 10

    it = flow(mapped("max_concurrency: 2"), work)
    run = await it.start(items=list(range(12)))

    async def is_far():
        steps = await it.steps(run)
        return sum(not s.is_open for p, s in steps.items() if "/item" in p) >= 11

    await until(is_far)
    before = list(calls)
    await it.die()
    go.set()
    other = await it.reborn(walk=True)
    await other.recover()
    run = await other.runs.wait(run.id, timeout_s=10)
    assert run.output["each"]["collected"] == [n * 10 for n in range(12)]
    assert calls[len(before) :] == [5]


async def test_child_runs_of_items_go_on_when_the_process_dies(flow, until):
    calls, go = [], asyncio.Event()

    async def work(item: str) -> str:
        calls.append(item)
        if item == "c":
            await go.wait()
        if item == "bad":
            raise ValueError("no")
        return f"{item}!"

    it = flow(SUB, work)
    run = await it.start()

    async def is_far():
        children = await it.children(run)
        return [c.status for c in children] == ["completed", "failed", "in_progress"] and "c" in calls

    await until(is_far)
    await it.die()
    go.set()
    other = await it.reborn(walk=True)
    await other.recover()
    run = await other.runs.wait(run.id, timeout_s=10)
    assert run.output["each"]["merged"] == {"a": "a!", "c": "c!"}
    assert sorted(calls) == ["a", "bad", "c", "c"]
    assert len(await it.children(run)) == 3
