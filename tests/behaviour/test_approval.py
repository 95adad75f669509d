"""A call that asks for a person waits for one, wherever the rule is written, and runs only as the person agreed."""

import asyncio
import json
from dataclasses import replace

import pytest

from treadle.errors import NotFound, StateError
from treadle.objects.message import ToolCall
from treadle.objects.project import Project, ProjectDefaults, ProjectSpec
from treadle.objects.run_step import Decision
from treadle.objects.tool import ApprovalNames, ApprovalWhen, FunctionTool
from treadle.service import Treadle
from treadle.store.base import Checkpoint
from treadle.testing.fakes import FrozenClock, ScriptedProvider
from treadle.tools import approval
from treadle.tools.base import Binding, CallContext
from treadle.tools.function import bind
from treadle.tools.gate import Admitted, dispatch

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("project", "agent", "asks"),
    [
        (None, None, False),
        ("never", None, False),
        ("always", None, True),
        ("always", "never", False),
        (None, "always", True),
        (None, ApprovalNames(always=("send",)), True),
        ("always", ApprovalNames(never=("send",)), False),
        ("always", ApprovalNames(never=("other",)), True),
        (None, ApprovalNames(always=("other",)), False),
    ],
)
async def test_the_nearest_rule_counts(tmp_path, project, agent, asks):
    sent = []

    def send(text: str) -> str:
        """Send a text."""
        sent.append(text)
        return "sent"

    script = [{"calls": [{"name": "send", "arguments": {"text": "hi"}}]}, "Done."]
    spec = ProjectSpec(defaults=ProjectDefaults(approval=project))
    async with Treadle(
        "sqlite://:memory:", project=Project(spec, tmp_path), providers={"scripted": ScriptedProvider(script)}
    ) as treadle:
        made = await treadle.agents.create(model="scripted", tools=[send], approval=agent)
        run = await treadle.runs.create_and_wait(None, agent=made, additional_messages=HELLO)
        assert run.status == ("requires_action" if asks else "completed")
        assert bool(sent) is not asks
        assert [p.call.name for p in run.required_approvals] == (["send"] if asks else [])
        assert run.required_action == ()


ASK = {"when": "args.amount > 10", "message": "Pay {{ args.amount }} to {{ args.to }}?"}


def pay_agent(**fields):
    """Give the tool and its calls: `paid` has what it was called with."""
    paid = []

    def pay(amount: int, to: str) -> str:
        """Pay somebody."""
        paid.append((amount, to))
        return f"paid {amount}"

    tool = FunctionTool(name="pay", runs="server", **({"approval": ASK} | fields))
    return paid, pay, tool


def calls(*arguments):
    return {"calls": [{"name": "pay", "id": f"c{n}", "arguments": a} for n, a in enumerate(arguments)]}


async def waiting(workshop, *arguments, clock=None, **fields):
    """Bring a run to its questions."""
    paid, pay, tool = pay_agent(**fields)
    clock = clock or FrozenClock()
    treadle = workshop.open([calls(*arguments), "Done."], tools=[pay], clock=clock)
    agent = await treadle.agents.create(model="scripted", tools=[tool])
    run = await treadle.runs.create_and_wait(None, agent=agent, additional_messages=HELLO)
    return treadle, run, paid, pay


async def results(treadle, run):
    rows = await treadle.store.rows("default", run.thread_id, limit=100)
    return [r.text for r in rows if r.role == "tool"]


async def test_the_person_sees_the_question_and_the_arguments(workshop):
    _, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    assert run.status == "requires_action"
    (asked,) = run.required_approvals
    assert (asked.question, asked.action) == ("Pay 50 to Ann?", "approval")
    assert json.loads(asked.call.arguments) == {"amount": 50, "to": "Ann"}
    assert paid == []
    assert run.required_action == ()


async def test_a_call_that_the_rule_does_not_cover_runs(workshop):
    _, run, paid, _ = await waiting(workshop, {"amount": 5, "to": "Ann"})
    assert (run.status, paid) == ("completed", [(5, "Ann")])


async def test_an_approved_call_runs_once(workshop):
    treadle, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    await treadle.runs.approve(run.id, by="bea")
    ended = await treadle.runs.wait(run.id)
    assert (ended.status, paid) == ("completed", [(50, "Ann")])
    assert await results(treadle, run) == ["paid 50"]
    step = next(s for s in await treadle.runs.steps(run.id) if s.kind == "tool_call")
    assert (step.decision.verdict, step.decision.by, step.decision.digest) == (
        "approve", "bea", run.required_approvals[0].digest,
    )  # fmt: skip
    with pytest.raises(StateError, match="completed"):
        await treadle.runs.approve(run.id)


async def test_a_rejected_call_does_not_run_and_the_model_is_told_why(workshop):
    treadle, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    await treadle.runs.reject(run.id, reason="too much", by="bea")
    assert (await treadle.runs.wait(run.id)).status == "completed"
    assert paid == []
    assert await results(treadle, run) == ['{"error": "not run: rejected by bea: too much"}']
    step = next(s for s in await treadle.runs.steps(run.id) if s.kind == "tool_call")
    assert (step.last_error.code, step.decision.reason) == ("approval_rejected", "too much")


async def test_edited_arguments_are_what_runs_and_the_model_is_told(workshop):
    treadle, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    with pytest.raises(StateError, match="do not fit"):
        await treadle.runs.approve(run.id, arguments={"amount": "much"})
    with pytest.raises(StateError, match="cannot be used"):
        await treadle.runs.approve(run.id, arguments="{")
    await treadle.runs.approve(run.id, arguments={"amount": 20, "to": "Ann"})
    await treadle.runs.wait(run.id)
    assert paid == [(20, "Ann")]
    (told,) = await results(treadle, run)
    assert told.startswith("paid 20\n[a person changed the arguments to {")


async def test_a_consent_counts_only_for_what_was_seen(workshop):
    treadle, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    with pytest.raises(StateError, match="not what was decided on"):
        await treadle.runs.approve(run.id, digest="0" * 64)
    assert paid == []
    await treadle.runs.approve(run.id, digest=run.required_approvals[0].digest)
    await treadle.runs.wait(run.id)
    assert paid == [(50, "Ann")]


async def test_a_tool_that_has_changed_since_is_asked_about_again(workshop):
    """The consent was written; the process that goes on has another tool of that name."""
    treadle, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    step = next(s for s in await treadle.runs.steps(run.id) if s.is_open)
    decision = Decision(verdict="approve", at_ms=1, digest=run.required_approvals[0].digest)
    approved = step.model_copy(update={"edge": "approved", "decision": decision})
    await treadle.store.commit(Checkpoint(run, "queued", {"pending": ()}, steps=[approved]))

    def pay(amount: int, to: str, urgent: bool = False) -> str:
        """Pay somebody, and quickly."""
        paid.append("other")
        return "other"

    second = workshop.open(["Done."], tools=[pay], clock=FrozenClock())
    await second.runs.resume(run.id)
    again = await second.runs.wait(run.id)
    assert (again.status, paid) == ("requires_action", [])
    await second.runs.approve(run.id)
    assert (await second.runs.wait(run.id)).status == "completed"
    assert paid == ["other"]


async def test_several_calls_are_decided_one_by_one(workshop):
    treadle, run, paid, _ = await waiting(
        workshop, {"amount": 50, "to": "Ann"}, {"amount": 1, "to": "Bob"}, {"amount": 60, "to": "Cy"}
    )
    assert paid == [(1, "Bob")]
    assert [p.call.id for p in run.required_approvals] == ["c0", "c2"]
    with pytest.raises(StateError, match="2 calls"):
        await treadle.runs.approve(run.id)
    with pytest.raises(NotFound):
        await treadle.runs.approve(run.id, "c1")
    still = await treadle.runs.reject(run.id, "c2", reason="no")
    assert (still.status, [p.call.id for p in still.required_approvals]) == ("requires_action", ["c0"])
    with pytest.raises(NotFound):
        await treadle.runs.approve(run.id, "c2")
    await treadle.runs.approve(run.id, "c0")
    assert (await treadle.runs.wait(run.id)).status == "completed"
    assert paid == [(1, "Bob"), (50, "Ann")]


async def test_two_people_cannot_both_decide(workshop):
    treadle, run, paid, pay = await waiting(workshop, {"amount": 50, "to": "Ann"})
    other = workshop.open(["Done."], tools=[pay], clock=FrozenClock())
    decided = await asyncio.gather(
        treadle.runs.approve(run.id), other.runs.reject(run.id), return_exceptions=True
    )
    assert sum(isinstance(d, StateError) for d in decided) == 1
    assert (await treadle.runs.wait(run.id)).status == "completed"
    assert len(paid) <= 1


async def test_approvals_come_before_the_outputs_of_a_client(workshop):
    paid, pay, tool = pay_agent()
    ask = FunctionTool(name="ask", runs="client", approval="always")
    script = [
        {"calls": [{"name": "pay", "id": "p", "arguments": {"amount": 50, "to": "Ann"}},
                   {"name": "ask", "id": "q", "arguments": {"what": "why"}}]},
        "Done.",
    ]  # fmt: skip
    treadle = workshop.open(script, tools=[pay])
    agent = await treadle.agents.create(model="scripted", tools=[tool, ask])
    run = await treadle.runs.create_and_wait(None, agent=agent, additional_messages=HELLO)
    assert [p.call.id for p in run.required_approvals] == ["p", "q"]
    with pytest.raises(StateError, match="waits for a decision"):
        await treadle.runs.submit_tool_outputs(run.id, [{"tool_call_id": "q", "output": "x"}])
    await treadle.runs.approve(run.id, "p")
    await treadle.runs.approve(run.id, "q", arguments={"what": "who"})
    run = await treadle.runs.wait(run.id)
    assert [(c.id, c.arguments) for c in run.required_action] == [("q", '{"what": "who"}')]
    await treadle.runs.submit_tool_outputs(run.id, [{"tool_call_id": "q", "output": "x"}])
    assert (await treadle.runs.wait(run.id)).status == "completed"
    assert paid == [(50, "Ann")]


@pytest.mark.parametrize(("default", "ran"), [("reject", []), ("approve", [(50, "Ann")])])
async def test_a_question_that_nobody_answers_is_decided_by_its_rule(workshop, default, ran):
    clock = FrozenClock()
    rule = ASK | {"timeout": "1h", "on_timeout": default}
    treadle, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"}, approval=rule, clock=clock)
    clock.advance(3590)
    assert (await treadle.recover()).decided == 0
    clock.advance(20)
    assert (await treadle.recover()).decided == 1
    assert (await treadle.runs.get(run.id)).status == "queued"
    await treadle.runs.resume(run.id)
    assert (await treadle.runs.wait(run.id)).status == "completed"
    assert paid == ran
    step = next(s for s in await treadle.runs.steps(run.id) if s.kind == "tool_call")
    assert step.decision.by == "deadline"


async def test_a_waiting_run_can_be_cancelled_and_its_thread_goes_on(workshop):
    treadle, run, paid, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    await treadle.runs.cancel(run.id)
    assert (await treadle.runs.get(run.id)).status == "cancelled"
    assert "not executed" in (await results(treadle, run))[0]
    assert paid == []
    with pytest.raises(StateError, match="cancelled"):
        await treadle.runs.approve(run.id)


async def test_a_rule_that_fails_is_no_leave_to_run(workshop):
    rule = {"when": "args.amount.nothing.at.all > 3"}
    _, run, paid, _ = await waiting(workshop, {"amount": 5, "to": "Ann"}, approval=rule)
    assert (run.status, paid) == ("requires_action", [])
    assert "its rule failed" in run.required_approvals[0].question


async def test_nothing_is_dispatched_past_the_gate():
    """A call put together by hand is refused where a person has to be asked."""
    paid, pay, tool = pay_agent()
    bound = replace(
        bind(tool, Binding(callables={"pay": pay})), asks=approval.asks(ApprovalWhen(when="true"), "pay")
    )
    call = ToolCall(id="c", name="pay", arguments="{}")
    with pytest.raises(StateError, match="waits for a person"):
        await dispatch(Admitted(bound, call, {"amount": 1, "to": "x"}), CallContext("r", "t", "k"))
    assert paid == []


async def unknown(workshop, rule):
    """Leave a call in the middle, and open another process that goes on."""
    mine, other = FrozenClock(), FrozenClock()
    begun, made = asyncio.Event(), []

    async def send() -> str:
        made.append(1)
        if len(made) == 1:
            begun.set()
            await asyncio.Event().wait()
        return "sent"

    tool = FunctionTool(name="send", runs="server", on_unknown=rule)
    first = workshop.open(
        [{"calls": [{"name": "send", "id": "c", "arguments": {}}]}], tools=[send], clock=mine
    )
    agent = await first.agents.create(model="scripted", tools=[tool])
    run = await first.runs.create(None, agent=agent, additional_messages=HELLO)
    await begun.wait()
    other.advance(16)
    second = workshop.open(["Done."], tools=[send], clock=other)
    await second.runs.resume(run.id)
    return second, await second.runs.wait(run.id), made


async def test_a_call_of_unknown_outcome_is_told_to_the_model(workshop):
    treadle, run, made = await unknown(workshop, "tell")
    assert (run.status, made) == ("completed", [1])
    assert "outcome unknown" in (await results(treadle, run))[0]


async def test_a_call_of_unknown_outcome_fails_the_run(workshop):
    treadle, run, made = await unknown(workshop, "fail")
    assert (run.status, run.last_error.code, made) == ("failed", "outcome_unknown", [1])
    assert "outcome unknown" in (await results(treadle, run))[0]


async def test_a_person_who_is_asked_may_have_an_interrupted_call_made_again(workshop):
    treadle, run, made = await unknown(workshop, "ask")
    assert (run.status, run.required_approvals[0].action, made) == ("requires_action", "unknown", [1])
    await treadle.runs.approve(run.id)
    assert (await treadle.runs.wait(run.id)).status == "completed"
    assert (made, await results(treadle, run)) == ([1, 1], ["sent"])


async def test_a_person_who_is_asked_may_say_what_became_of_it(workshop):
    treadle, run, made = await unknown(workshop, "ask")
    await treadle.runs.reject(run.id, reason="it was sent at noon")
    assert (await treadle.runs.wait(run.id)).status == "completed"
    assert made == [1]
    assert "it was sent at noon" in (await results(treadle, run))[0]


async def test_a_step_shows_the_arguments_that_ran(workshop):
    treadle, run, _, _ = await waiting(workshop, {"amount": 50, "to": "Ann"})
    await treadle.runs.approve(run.id, arguments={"amount": 20, "to": "Ann"})
    ended = await treadle.runs.wait(run.id)
    step = next(s for s in await treadle.runs.steps(run.id) if s.kind == "tool_call")
    (call,) = (await treadle.runs.detail(ended, step)).calls
    assert json.loads(call.arguments) == {"amount": 20, "to": "Ann"}
