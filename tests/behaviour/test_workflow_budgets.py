"""What a run of a workflow may use: limits of the run and of nodes, which child runs draw on together."""

import asyncio

import pytest

from treadle.errors import DefinitionError
from treadle.objects.agent import Budget

PRICES = """
kind: project
models:
  dear: {id: scripted, price: {input: 1000, output: 1000}}
"""


def said(text="Hi", tokens=100):
    """Give a reply that cost so many tokens."""
    return {"text": text, "usage": {"prompt_tokens": tokens - 10, "completion_tokens": 10}}


LOOP = """
LIMITS
state: {n: {type: integer, default: 0, reduce: sum}}
start: turns
nodes:
  turns:
    type: loop
    max_iterations: 50
    until: state.n >= 50
    start: turn
    nodes:
      turn: BODY
      count: {type: set, set: {n: 1}, next: end}
    next: end
outputs: {n: state.n}
"""
TOOL = "{type: tool, tool: work, next: count}"
BOT = "{type: agent, agent: bot, thread: new, message: Hello, next: count}"
PROMPT = "{type: prompt, model: scripted, prompt: Hello, next: count}"


def loop(limits, body):
    return LOOP.replace("LIMITS", limits).replace("BODY", body)


def works():
    calls = []

    def work() -> str:
        calls.append(1)
        return "done"

    return calls, work


async def test_a_run_stops_at_its_most_steps(flow):
    calls, work = works()
    it = flow(loop("limits: {max_steps: 10}", TOOL), work)
    run = await it.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_steps")
    assert len(await it.runs.steps(run.id)) == 10
    assert len(calls) < 6


async def test_a_run_stops_at_its_most_tool_calls(flow):
    calls, work = works()
    run = await flow(loop("limits: {max_tool_calls: 3}", TOOL), work).run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_tool_calls")
    assert len(calls) == 3


@pytest.mark.parametrize("body", [PROMPT, BOT], ids=["prompt", "agent"])
async def test_a_run_stops_at_its_most_tokens(flow, body):
    it = flow(loop("limits: {max_tokens: 300}", body), script=lambda _: said())
    run = await it.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_tokens")
    assert run.usage.total_tokens == 300


@pytest.mark.parametrize("body", [PROMPT, BOT], ids=["prompt", "agent"])
async def test_a_run_stops_at_its_most_model_calls(flow, body):
    it = flow(loop("limits: {max_model_calls: 3}", body), script=lambda _: said())
    run = await it.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_model_calls")
    assert run.usage.total_tokens == 300


@pytest.mark.parametrize("body", [PROMPT, BOT], ids=["prompt", "agent"])
async def test_a_run_stops_at_what_it_may_cost(flow, tmp_path, body):
    (tmp_path / "treadle.yaml").write_text(PRICES)
    text = loop("limits: {max_cost_usd: 0.3}", body).replace("model: scripted", "model: dear")
    it = flow(text, script=lambda _: said())
    it.path.write_text(it.path.read_text().replace("model: scripted", "model: dear"))
    run = await it.run()
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_cost_usd")
    assert run.usage.total_tokens == 300


async def test_what_a_model_without_a_price_costs_cannot_be_bounded(flow):
    it = flow(loop("limits: {max_cost_usd: 0.3}", PROMPT).replace("scripted", "gpt"))
    with pytest.raises(DefinitionError, match="a cost limit needs the price of the model 'gpt'"):
        await it.run()


async def test_a_run_stops_when_it_walked_as_long_as_it_may_and_waiting_does_not_count(flow):
    it = flow(
        """
        limits: {timeout: 10m}
        start: ask
        nodes:
          ask: {type: human, kind: approval, ask: Fine?, next: work}
          work: {type: tool, tool: work, next: again}
          again: {type: tool, tool: work, next: end}
        """,
        work := Passing(),
    )
    work.clock = it.clock
    run = await it.run()
    it.clock.advance(3600)
    await it.runs.answer(run.id, decision="approve")
    run = await it.runs.wait(run.id)
    assert (run.status, work.calls) == ("completed", 2)
    work.seconds = 700
    run = await it.run()
    await it.runs.answer(run.id, decision="approve")
    run = await it.runs.wait(run.id)
    assert (run.status, run.incomplete_reason, work.calls) == ("incomplete", "timeout", 3)


class Passing:
    """A tool during which time passes."""

    __name__ = "work"

    def __init__(self):
        self.clock, self.seconds, self.calls = None, 1, 0

    async def __call__(self) -> str:
        self.calls += 1
        self.clock.advance(self.seconds)
        return "done"


async def test_a_node_on_a_cycle_is_entered_as_often_as_it_may(flow):
    calls, work = works()
    text = """
        LIMITS
        start: again
        nodes:
          again: {type: tool, tool: work, VISITS next: [{when: run.id == 'none', to: end}, {to: again}]}
        """
    run = await flow(text.replace("LIMITS", "").replace("VISITS", "max_visits: 4,"), work).run()
    assert (run.status, run.incomplete_reason, len(calls)) == ("incomplete", "max_visits", 4)
    calls.clear()
    run = await flow(text.replace("LIMITS", "limits: {max_visits: 6}").replace("VISITS", ""), work).run()
    assert (run.incomplete_reason, len(calls)) == ("max_visits", 6)
    calls.clear()
    run = await flow(text.replace("LIMITS", "").replace("VISITS", ""), work).run()
    assert (run.incomplete_reason, len(calls)) == ("max_visits", 25)


# -- child runs ---------------------------------------------------------------------------------------------------------

CHILD = """
---
version: 1.0.0
kind: workflow
name: child
CHILDLIMITS
tools: [{type: function, name: work, runs: server, effect: pure}]
start: turns
nodes:
  turns:
    type: loop
    max_iterations: 20
    until: loop.iteration >= 20
    start: turn
    nodes:
      turn: {type: tool, tool: work, next: talk}
      talk: {type: prompt, model: scripted, prompt: Hello, next: end}
    next: end
"""
PARENT = """
LIMITS
start: child
nodes:
  child: {type: workflow, workflow: '#child', thread: new, NODE next: end}
  rescue: {type: end, outputs: {rescued: true}}
"""


def parent(limits="", node="", child=""):
    text = PARENT.replace("LIMITS", limits).replace("NODE", node)
    if "rescue" not in node:
        text = text.replace("  rescue: {type: end, outputs: {rescued: true}}\n", "")
    return text + CHILD.replace("CHILDLIMITS", child)


@pytest.mark.parametrize(
    ("name", "limit", "most"),
    [("max_steps", 12, 12), ("max_tool_calls", 3, 3), ("max_model_calls", 3, 3), ("max_tokens", 300, 3)],
)
async def test_a_child_draws_on_what_its_parent_may_use(flow, name, limit, most):
    calls, work = works()
    run = await flow(parent(f"limits: {{{name}: {limit}}}"), work, script=lambda _: said()).run()
    assert (run.status, run.incomplete_reason) == ("incomplete", name)
    assert len(calls) <= most + 1


@pytest.mark.parametrize(
    ("name", "limit", "most"),
    [("max_steps", 12, 12), ("max_tool_calls", 3, 3), ("max_model_calls", 3, 3), ("max_tokens", 300, 3)],
)
async def test_a_node_may_bound_its_child_and_route_what_that_leads_to(flow, name, limit, most):
    calls, work = works()
    node = f"limits: {{{name}: {limit}}}, on_error: [{{on: [budget], to: rescue}}],"
    it = flow(parent(node=node), work, script=lambda _: said())
    run = await it.run()
    assert (run.status, run.output) == ("completed", {"rescued": True})
    (child,) = await it.children(run)
    assert (child.status, child.incomplete_reason) == ("incomplete", name)
    assert len(calls) <= most + 1


async def test_a_child_has_its_own_limits_as_well(flow):
    calls, work = works()
    it = flow(parent(child="limits: {max_tool_calls: 2}"), work, script=lambda _: said())
    run = await it.run()
    assert (run.status, run.last_error.code) == ("failed", "budget")
    assert "max_tool_calls" in run.last_error.message
    assert len(calls) == 2


async def test_a_run_has_what_its_children_used_as_usage(flow):
    it = flow(loop("limits: {max_model_calls: 200}", BOT).replace("50", "5"), script=lambda _: said())
    run = await it.run()
    assert (run.status, run.usage.prompt_tokens, run.usage.completion_tokens) == ("completed", 450, 50)


PAIR = """
limits: {LIMIT}
start: both
nodes:
  both: {type: parallel, branches: [a, b], join: after}
  a: {type: agent, agent: bot, thread: new, message: a, next: a2}
  a2: {type: agent, agent: bot, thread: new, message: a2, next: after}
  b: {type: agent, agent: bot, thread: new, message: b, next: b2}
  b2: {type: agent, agent: bot, thread: new, message: b2, next: after}
  after: {type: end}
"""


@pytest.mark.parametrize(
    ("limit", "name"), [("max_tokens: 250", "max_tokens"), ("max_model_calls: 2", "max_model_calls")]
)
async def test_two_children_at_once_do_not_exceed_together_by_more_than_what_is_under_way(flow, limit, name):
    asked = []

    def reply(request):
        asked.append(request.messages[-1].text)
        return said()

    run = await flow(PAIR.replace("LIMIT", limit), script=reply).run()
    assert (run.status, run.incomplete_reason) == ("incomplete", name)
    assert len(asked) <= 4


async def test_a_child_that_waits_still_counts_with_what_it_has_used(flow):
    asked = []

    def reply(request):
        asked.append(request.messages[-1].text)
        return said(tokens=200)

    it = flow(
        """
        limits: {max_tokens: 500}
        start: both
        nodes:
          both: {type: parallel, branches: [a, b], join: after}
          a: {type: workflow, workflow: '#asks', thread: new, next: after}
          b: {type: human, kind: approval, ask: B?, next: b2}
          b2: {type: prompt, model: scripted, prompt: b2, next: b3}
          b3: {type: prompt, model: scripted, prompt: b3, next: b4}
          b4: {type: prompt, model: scripted, prompt: b4, next: after}
          after: {type: end}
        ---
        version: 1.0.0
        kind: workflow
        name: asks
        start: think
        nodes:
          think: {type: prompt, model: scripted, prompt: think, next: ask}
          ask: {type: human, kind: approval, ask: A?, next: end}
        """,
        script=reply,
    )
    run = await it.run()
    assert run.status == "requires_action"
    await it.runs.answer(run.id, "b", decision="approve")
    run = await it.runs.wait(run.id)
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_tokens")
    assert asked == ["think", "b2", "b3"]


async def test_what_was_used_before_a_process_died_counts_on(flow, until):
    go = asyncio.Event()
    calls = []

    async def work() -> str:
        calls.append(1)
        if len(calls) == 3:
            await go.wait()
        return "done"

    it = flow(parent("limits: {max_tool_calls: 5}"), work, script=lambda _: said())
    run = await it.start()
    await until(lambda: len(calls) == 3)
    await it.die()
    go.set()
    other = await it.reborn(lambda _: said(), walk=True)
    await other.recover()
    run = await other.runs.wait(run.id, timeout_s=10)
    assert (run.status, run.incomplete_reason) == ("incomplete", "max_tool_calls")
    assert len(calls) == 6  # The third was under way when the process died, and was made again.


async def test_a_run_may_be_given_less_than_its_workflow_allows(flow):
    calls, work = works()
    it = flow(loop("limits: {max_tool_calls: 30}", TOOL), work)

    run = await it.treadle.workflows.run(f"{it.path}#flow", limits=Budget(max_tool_calls=2))
    assert (run.incomplete_reason, len(calls)) == ("max_tool_calls", 2)


async def test_a_child_deeper_than_eight_is_refused(flow):
    text = """
        start: down
        nodes:
          down: {type: workflow, workflow: '#w1', thread: new, next: end}
        """
    for n in range(1, 10):
        node = f"{{type: workflow, workflow: '#w{n + 1}', thread: new, next: end}}"
        node = node if n < 9 else "{type: end}"
        text += f"""
        ---
        version: 1.0.0
        kind: workflow
        name: w{n}
        start: down
        nodes:
          down: {node}
        """
    it = flow(text)
    run = await it.run()
    assert run.status == "failed"
    assert "8 is the most" in run.last_error.message
    run = await it.treadle.workflows.run(f"{it.path}#w1")
    assert run.status == "completed"
