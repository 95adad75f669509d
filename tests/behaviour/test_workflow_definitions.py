"""Definitions change under waiting runs: a run goes on with what it pinned, or is refused, and never half of each."""

import pytest

from treadle.errors import ConfigurationError

ASKS = """
state: {n: {type: integer, default: 0}}
start: ask
nodes:
  ask: {type: human, kind: approval, ask: 'Go on?', next: work}
  work: {type: tool, tool: work, save: {n: result}, next: end}
outputs: {n: state.n}
"""


def work() -> int:
    return 7


async def test_a_run_goes_on_with_the_graph_that_it_pinned(flow):
    it = flow(ASKS, work)
    run = await it.run()
    before = await it.treadle.workflows.get(run.agent_id)
    it.path.write_text(it.path.read_text().replace("save: {n: result}", "save: {n: result + 1}"))
    after = await it.treadle.workflows.apply(it.path)
    assert (after.id, after.version) == (before.id, before.version + 1)
    await it.runs.answer(run.id, decision="approve")
    assert (await it.runs.wait(run.id)).output == {"n": 7}
    fresh = await it.treadle.workflows.run(after)
    await it.runs.answer(fresh.id, decision="approve")
    assert (await it.runs.wait(fresh.id)).output == {"n": 8}


async def test_an_agent_that_changed_meanwhile_answers_as_it_was_pinned(flow):
    text = """
        start: ask
        nodes:
          ask: {type: human, kind: approval, ask: 'Go on?', next: say}
          say: {type: agent, agent: bot, thread: new, message: Hello, next: end}
        outputs: {said: result_of.say.text}
        """
    it = flow(text, script=lambda request: request.instructions)
    run = await it.run()
    it.path.write_text(it.path.read_text().replace("'{{ role }}'", "'Changed. {{ role }}'"))
    await it.treadle.workflows.apply(it.path)
    await it.runs.answer(run.id, decision="approve")
    old = (await it.runs.wait(run.id)).output["said"]
    fresh = await it.treadle.workflows.run(it.path)
    await it.runs.answer(fresh.id, decision="approve")
    new = (await it.runs.wait(fresh.id)).output["said"]
    assert new == f"Changed. {old}"


async def test_an_answer_is_kept_where_the_code_is_gone_and_the_run_is_refused_with_what_is_missing(
    flow, caplog
):
    it = flow(ASKS, work)
    run = await it.run()
    other = it.open(tools=())
    answered = await other.runs.answer(run.id, decision="approve")
    assert answered.status == "queued"
    assert "'work'" in caplog.text
    with pytest.raises(ConfigurationError) as refused:
        await other.runs.resume(run.id)
    assert "'work'" in refused.value.message
    assert (await it.runs.get(run.id)).status == "queued"
    await it.runs.resume(run.id)
    assert (await it.runs.wait(run.id)).output == {"n": 7}


async def test_what_a_change_would_strand_is_told_before_it_is_applied(flow, tmp_path):
    it = flow(ASKS, work)
    run = await it.run()
    changed = tmp_path / "changed.workflow.yaml"
    changed.write_text(
        it.path.read_text()
        .replace("ask: {type: human", "question: {type: human")
        .replace("start: ask", "start: question")
    )
    strands = await it.treadle.workflows.stranded("flow", str(changed))
    assert [(found.id, bool(reasons)) for found, reasons in strands] == [(run.id, True)]
    assert not await it.treadle.workflows.stranded("flow", str(it.path))
    assert "is now question" in "\n".join((await it.treadle.workflows.diff("flow", str(changed))).lines())
