"""Errors of nodes: attempts, time limits, where a code leads, what goes on in place of it, and what is never done twice."""

import asyncio
import itertools

import pytest

from treadle import START, Graph
from treadle.errors import DefinitionError, ProviderError
from treadle.objects.tool import FunctionTool
from treadle.service import Treadle
from treadle.store.sqlite import SqliteStore

WORK = """
start: work
nodes:
  work: {type: tool, tool: work, FIELDS next: end}
  rescue: {type: end, outputs: {rescued: true}}
outputs: {said: result_of.work}
"""


def working(fields="", head=""):
    text = head + WORK.replace("FIELDS", f"{fields}," if fields else "")
    return text if "rescue" in fields or "rescue" in head else "\n".join(x for x in text.splitlines() if "rescue" not in x) + "\n"  # fmt: skip


def broken() -> str:
    raise ValueError("it broke")


broken.__name__ = "work"


class Counted:
    __name__ = "work"

    def __init__(self, fails=0, error=ValueError):
        self.calls, self.fails, self.error = 0, fails, error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.fails:
            raise self.error("not yet")
        return f"done at {self.calls}"


# -- attempts -----------------------------------------------------------------------------------------------------------


async def test_a_node_is_tried_once_where_it_says_nothing(flow):
    work = Counted(1)
    run = await flow(working(), work).run()
    assert (run.status, run.last_error.code, work.calls) == ("failed", "tool_error", 1)


async def test_a_node_is_tried_as_often_as_it_says(flow):
    work = Counted(2)
    fields = "retry: {max_attempts: 3, initial_delay: 10ms, on: [tool_error]}"
    run = await flow(working(fields), work).run()
    assert (run.status, run.output, work.calls) == ("completed", {"said": "done at 3"}, 3)
    work = Counted(9)
    run = await flow(working(fields), work).run()
    assert (run.status, work.calls) == ("failed", 3)


async def test_a_code_that_is_not_named_is_not_tried_again(flow):
    work = Counted(2)
    run = await flow(working("retry: {max_attempts: 3, on: [timeout]}"), work).run()
    assert (run.status, work.calls) == ("failed", 1)


async def test_defaults_of_the_workflow_hold_for_nodes_that_say_nothing(flow):
    head = "defaults: {retry: {max_attempts: 2, initial_delay: 10ms, on: [tool_error]}}"
    work = Counted(1)
    run = await flow(working(head=head), work).run()
    assert (run.status, work.calls) == ("completed", 2)
    work = Counted(1)
    run = await flow(working("retry: {max_attempts: 1}", head=head), work).run()
    assert (run.status, work.calls) == ("failed", 1)
    work = Counted(1)
    run = await flow(working(head=head), work, declared={"work": {"effect": "once"}}).run()
    assert (run.status, work.calls) == ("failed", 1), "what is made once is not made again by default"


async def test_a_retry_of_what_may_be_made_once_is_an_error_of_the_document(flow):
    fields = "retry: {max_attempts: 3, on: [tool_error]}"
    it = flow(working(fields), Counted(), declared={"work": {"effect": "once"}})
    with pytest.raises(DefinitionError):
        await it.run()


PROMPT = """
start: ask
nodes:
  ask: {type: prompt, model: scripted, prompt: Hello, FIELDS next: end}
  rescue: {type: end, outputs: {rescued: true}}
outputs: {said: result_of.ask.text}
"""


def prompting(fields):
    return PROMPT.replace("FIELDS", f"{fields},")


@pytest.mark.parametrize(
    ("kind", "status", "on", "is_taken"),
    [
        ("http_503", 503, "http_5xx", True),
        ("http_500", 500, "http_500", True),
        ("http_503", 503, "http_500", False),
        ("http_404", 404, "http_4xx", True),
        ("http_404", 404, "http_5xx", False),
        ("rate_limit", 429, "rate_limit", True),
        ("timeout", None, "timeout", True),
        ("connection", None, "connection", True),
        ("content_filter", 400, "content_filter", True),
    ],
)
async def test_an_error_route_takes_the_codes_that_it_names_and_families_of_them(
    flow, kind, status, on, is_taken
):
    error = ProviderError("no", kind=kind, status=status, retryable=False)
    run = await flow(prompting(f"on_error: [{{on: [{on}], to: rescue}}]"), script=[error]).run()
    assert run.status == ("completed" if is_taken else "failed")
    assert (run.output == {"rescued": True}) is is_taken
    if not is_taken:
        assert run.last_error.code == kind


async def test_of_several_routes_the_first_that_names_the_code_is_taken(flow):
    error = ProviderError("no", kind="http_503", status=503, retryable=False)
    routes = "on_error: [{on: [timeout], continue_with: {text: a}}, {on: [http_5xx], continue_with: {text: b}}, {to: rescue}]"
    assert (await flow(prompting(routes), script=[error]).run()).output == {"said": "b"}
    error = ProviderError("no", kind="rate_limit", status=429, retryable=False)
    assert (await flow(prompting(routes), script=[error]).run()).output == {"rescued": True}


async def test_a_route_is_taken_when_the_attempts_are_used_up_and_not_before(flow):
    error = ProviderError("no", kind="http_503", status=503, retryable=True)
    fields = "retry: {max_attempts: 2, initial_delay: 10ms}, on_error: [{to: rescue}]"
    it = flow(prompting(fields), script=[error, "Hi"])
    assert (await it.run()).output == {"said": "Hi"}
    it = flow(prompting(fields), script=[error, error])
    assert (await it.run()).output == {"rescued": True}


async def test_a_value_may_stand_for_the_result_and_sees_the_error(flow):
    it = flow(
        """
        state: {told: {type: array, default: [], reduce: append}}
        start: work
        nodes:
          work:
            type: tool
            tool: work
            save: {told: result.told}
            on_error: [{continue_with: {told: '{{ error.code }} of {{ error.node }}: {{ error.message }}'}}]
            next: [{when: "result.told.startswith('x')", to: end}, {to: after}]
          after: {type: set, set: {told: after}, next: end}
        outputs: {told: state.told, result: result_of.work}
        """.replace("\"result.told.startswith('x')\"", "result.told == 'x'"),
        broken,
    )
    run = await it.run()
    first, second = run.output["told"]
    assert first.startswith("tool_error of work: ")
    assert "it broke" in first
    assert second == "after"
    step = (await it.steps(run))["work#1"]
    assert (step.status, step.last_error.code) == ("completed", "tool_error")


async def test_errors_of_the_whole_workflow_lead_where_it_says(flow):
    head = "on_error: {to: rescue}\n"
    assert (await flow(working(head=head), broken).run()).output == {"rescued": True}
    fields = "on_error: [{on: [timeout], continue_with: 1}]"
    assert (await flow(working(fields, head=head), broken).run()).output == {"rescued": True}
    fields = "on_error: [{on: [tool_error], continue_with: 1}]"
    assert (await flow(working(fields, head=head), broken).run()).output == {"said": 1}


async def test_the_route_of_the_workflow_takes_what_a_frame_fails_with(flow):
    it = flow(
        """
        on_error: {to: rescue}
        start: both
        nodes:
          both: {type: parallel, branches: [a, b], join: after}
          a: {type: tool, tool: work, next: after}
          b: {type: map, over: '[1]', node: {type: tool, tool: work}, next: after}
          after: {type: end}
          rescue: {type: end, outputs: {rescued: true}}
        """,
        broken,
    )
    assert (await it.run()).output == {"rescued": True}


async def test_a_failed_run_names_the_node_and_keeps_what_was_done(flow):
    it = flow(
        """
        start: a
        nodes:
          a: {type: set, set: {n: 1}, next: work}
          work: {type: tool, tool: work, next: end}
        state: {n: {type: integer, default: 0}}
        """,
        broken,
    )
    run = await it.run()
    assert run.last_error.code == "tool_error"
    assert run.last_error.message.startswith("work: ")
    assert {p: s.status for p, s in (await it.steps(run)).items()} == {"a#1": "completed", "work#1": "failed"}


async def test_a_fail_node_ends_the_run_with_its_code_and_message(flow):
    it = flow(
        """
        inputs: {who: string}
        start: work
        nodes:
          work: {type: tool, tool: work, next: end, on_error: [{to: no}]}
          no: {type: fail, error: not_approved, message: 'by {{ inputs.who }}'}
        """,
        broken,
    )
    run = await it.run(who="ada")
    assert (run.status, run.last_error.code) == ("failed", "not_approved")
    assert "by ada" in run.last_error.message


# -- time ---------------------------------------------------------------------------------------------------------------


class Hanging:
    __name__ = "work"

    def __init__(self):
        self.stopped = 0

    async def __call__(self) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped += 1
        return ""


async def test_a_node_that_takes_too_long_fails_and_its_work_is_stopped(flow):
    work = Hanging()
    run = await flow(working("timeout: 30ms, on_error: [{on: [timeout], to: rescue}]"), work).run()
    assert (run.status, run.output, work.stopped) == ("completed", {"rescued": True}, 1)


async def test_each_attempt_has_its_own_time(flow):
    work = Hanging()
    fields = "timeout: 20ms, retry: {max_attempts: 3, initial_delay: 1ms, on: [timeout]}"
    run = await flow(working(fields), work).run()
    assert (run.status, run.last_error.code, work.stopped) == ("failed", "timeout", 3)


async def test_a_child_run_that_takes_too_long_is_stopped_by_the_time_limit_of_its_node(flow):
    work = Hanging()
    it = flow(
        """
        start: child
        nodes:
          child: {type: workflow, workflow: '#sub', thread: new, timeout: 30ms, next: end, on_error: [{on: [timeout], to: rescue}]}
          rescue: {type: end, outputs: {rescued: true}}
        ---
        version: 1.0.0
        kind: workflow
        name: sub
        tools: [{type: function, name: work, runs: server, effect: pure}]
        start: work
        nodes:
          work: {type: tool, tool: work, next: end}
        """,
        work,
    )
    run = await asyncio.wait_for(it.run(), 10)
    assert (run.status, run.output, work.stopped) == ("completed", {"rescued": True}, 1)
    (child,) = await it.children(run)
    assert child.status in ("expired", "failed")


async def test_a_child_run_that_waits_longer_than_its_node_allows_is_over(flow):
    it = flow(
        """
        start: child
        nodes:
          child: {type: workflow, workflow: '#asks', thread: new, timeout: 10m, next: end, on_error: [{on: [timeout], to: rescue}]}
          rescue: {type: end, outputs: {rescued: true}}
        ---
        version: 1.0.0
        kind: workflow
        name: asks
        start: ask
        nodes:
          ask: {type: human, kind: approval, ask: Fine?, next: end}
        """
    )
    run = await it.run()
    assert (run.status, run.wake_ms) == ("requires_action", it.clock.wall_ms + 600_000)
    await it.treadle.close()
    it.clock.advance(600)
    other = it.open(walk=True)
    async with asyncio.timeout(10):
        while (run := await other.runs.get(run.id)).status != "completed":
            await other.recover()
    assert run.output == {"rescued": True}
    (child,) = await other.store.children(run.tenant, run.id)
    assert child.status == "expired"


# -- once ---------------------------------------------------------------------------------------------------------------


async def test_the_key_of_a_node_reaches_the_tool_and_is_stored(flow):
    keys = []

    def work(idempotency_key: str) -> str:
        keys.append(idempotency_key)
        return "done"

    it = flow(working("idempotency_key: '{{ run.id }}-pay'"), work, declared={"work": {"effect": "once"}})
    run = await it.run()
    assert (run.status, keys) == ("completed", [f"{run.id}-pay"])
    assert (await it.steps(run))["work#1"].key == f"{run.id}-pay"


async def test_a_tool_is_given_a_key_that_stays_the_same_in_every_attempt(flow):
    keys = []

    def work(idempotency_key: str) -> str:
        keys.append(idempotency_key)
        if len(keys) < 3:
            raise ValueError("no")
        return "done"

    fields = "retry: {max_attempts: 3, initial_delay: 1ms, on: [tool_error]}"
    run = await flow(working(fields), work, declared={"work": {"effect": "idempotent"}}).run()
    assert (run.status, len(keys), len(set(keys))) == ("completed", 3, 1)
    assert run.id in keys[0]


async def dead(flow, fields, until):
    """Let a process die while a call that may be made once is under way."""
    begun, go, calls = asyncio.Event(), asyncio.Event(), []

    async def work() -> str:
        calls.append(1)
        begun.set()
        await go.wait()
        return f"done at {len(calls)}"

    it = flow(working(fields), work, declared={"work": {"effect": "once"}})
    run = await it.start()
    await begun.wait()
    await it.die()
    go.set()
    other = await it.reborn(walk=True)
    await other.recover()
    return it, await other.runs.wait(run.id, timeout_s=10), calls


async def test_a_call_that_may_be_made_once_is_not_made_again_after_a_crash(flow, until):
    it, run, calls = await dead(flow, "", until)
    assert (run.status, run.last_error.code, len(calls)) == ("failed", "outcome_unknown", 1)
    it, run, calls = await dead(flow, "on_error: [{on: [outcome_unknown], to: rescue}]", until)
    assert (run.status, run.output, len(calls)) == ("completed", {"rescued": True}, 1)
    del it


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_a_person_may_be_asked_whether_it_is_made_again(flow, until, decision):
    it, run, calls = await dead(flow, "on_unknown: ask", until)
    (question,) = run.required_answers
    assert "unknown" in question.asks.ask
    await it.runs.answer(run.id, decision=decision)
    run = await it.runs.wait(run.id, timeout_s=10)
    if decision == "approve":
        assert (run.status, run.output, len(calls)) == ("completed", {"said": "done at 2"}, 2)
    else:
        assert (run.status, run.last_error.code, len(calls)) == ("failed", "outcome_unknown", 1)


# -- cache --------------------------------------------------------------------------------------------------------------

CACHED = """
inputs: {q: string}
start: work
nodes:
  work: {type: tool, tool: work, with: {q: '{{ inputs.q }}'}, cache: {key: '{{ inputs.q }}', ttl: 1h}, next: end}
outputs: {said: result_of.work}
"""


def cached_work():
    calls = []

    def work(q: str) -> str:
        calls.append(q)
        if q == "bad":
            raise ValueError("no")
        return f"{q} {len(calls)}"

    return calls, work


async def test_a_result_is_taken_again_for_the_same_key_as_long_as_it_holds(flow):
    calls, work = cached_work()
    it = flow(CACHED, work)
    assert (await it.run(q="a")).output == {"said": "a 1"}
    run = await it.run(q="a")
    assert (run.output, (await it.steps(run))["work#1"].note) == (
        {"said": "a 1"},
        "kept from an earlier visit",
    )
    assert (await it.run(q="b")).output == {"said": "b 2"}
    other = it.open()
    assert (await other.workflows.run(f"{it.path}#flow", inputs={"q": "a"})).output == {"said": "a 1"}
    it.clock.advance(3601)
    assert (await it.run(q="a")).output == {"said": "a 3"}
    assert calls == ["a", "b", "a"]


async def test_a_failure_is_not_kept(flow):
    calls, work = cached_work()
    it = flow(CACHED, work)
    assert (await it.run(q="bad")).status == "failed"
    assert (await it.run(q="bad")).status == "failed"
    assert calls == ["bad", "bad"]


async def test_another_node_keeps_its_own_results(flow):
    calls, work = cached_work()
    assert (await flow(CACHED, work).run(q="a")).output == {"said": "a 1"}
    changed = CACHED.replace("q: '{{ inputs.q }}'}, cache", "q: '{{ inputs.q|upper }}'}, cache")
    assert (await flow(changed, work).run(q="a")).output == {"said": "A 2"}
    assert calls == ["a", "A"]


async def test_what_is_kept_is_typed_and_saved_as_if_it_was_made(flow):
    calls = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"n": len(calls)}

    it = flow(
        """
        state: {n: {type: integer, default: 0, reduce: sum}}
        start: work
        nodes:
          work:
            type: tool
            tool: work
            cache: {key: all, ttl: 1h}
            save: {n: result.n}
            next: [{when: state.n < 3, to: work}, {to: end}]
        outputs: {n: state.n}
        """,
        work,
    )
    run = await it.run()
    assert (run.output, calls) == ({"n": 3}, [1])


async def test_calls_that_may_be_made_once_are_in_the_journal_before_any_of_them_is_made(tmp_path):
    found = {}

    async def first() -> str:
        found["first"] = await waiting()
        return "a"

    async def second() -> str:
        found["second"] = await waiting()
        return "b"

    async def waiting():
        return {step.path: step.edge for step in await treadle.runs.steps(run.id) if step.is_open}

    graph = Graph(
        "both", tools=[FunctionTool(name=name, runs="server", effect="once") for name in ("first", "second")]
    )
    graph.add_parallel("both", ["a", "b"], join="after")
    graph.add_tool("a", "first")
    graph.add_tool("b", "second")
    graph.add_end("after")
    graph.add_edges_from([(START, "both"), ("a", "after"), ("b", "after")])
    # A disk on which every commit takes long: it is written on a thread, and the loop goes on meanwhile.
    store = SqliteStore(tmp_path / "slow.db", timer=itertools.count().__next__)
    async with Treadle(store, tools=[first, second], project=tmp_path) as treadle:
        await asyncio.gather(*(treadle.threads.create() for _ in range(5)))
        run = await treadle.workflows.start(graph)
        assert (await treadle.runs.wait(run.id)).status == "completed"
    both = {"a#1": "dispatched", "b#1": "dispatched"}
    assert found == {"first": both, "second": both}
