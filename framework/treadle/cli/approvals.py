"""Ask a person whether a call may run, and do what the person decides."""

from __future__ import annotations

import getpass
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from treadle.cli import family, flow_lines, lines
from treadle.cli.ask import ask
from treadle.cli.output import complain
from treadle.errors import NotFound, StateError

if TYPE_CHECKING:
    from treadle.cli.signals import Signals
    from treadle.objects.event import Event
    from treadle.objects.run import PendingCall, Run
    from treadle.service import Treadle

PROMPT = "    {question} [y]es / [e]dit / [n]o + reason / [l]ater:  "
QUESTIONS = {"approval": "approve?", "unknown": "run it again?"}


@dataclass(frozen=True, slots=True)
class Decided:
    """What a person decided on a call; `arguments` are what the person made of the model's."""

    verdict: Literal["approve", "reject"]
    arguments: str | None = None
    reason: str = ""


def who() -> str:
    """Give the name under which a decision made here is recorded."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A user without a name: containers have them.
        return ""


def show(waiting: Sequence[PendingCall], *, labels: int) -> None:
    """List the calls that wait for a person, also where all else is quiet."""
    for pending in waiting:
        told = flow_lines.question_lines if pending.call is None else lines.approval_lines
        for line in told(pending, labels=labels):
            complain(line, "yellow")


def chosen(run: Run, call: str | None) -> tuple[PendingCall, ...]:
    """Give what a person means: the call of that id, the only one of that tool, the node that asks, or all that wait.

    Errors: StateError when nothing waits for consent, or several calls of the tool do; NotFound.
    """
    asked = [p for p in run.required_answers if p.asks is not None and p.asks.kind == "approval"]
    waiting = (*run.required_approvals, *asked)
    if not waiting:
        open_ = "".join(f"; open: {p.path}, treadle runs answer" for p in run.required_answers)
        raise StateError(
            f"run {run.id} is {run.status}: no call of it waits for a person{open_}",
            status=run.status,
            event="approve",
            run=run,
        )
    if call is None:
        return waiting
    named = [p for p in waiting if call in _names(p)]
    exact = [p for p in named if call in _names(p)[:1]] or named
    ids = ", ".join(f"{p.call.id} ({p.call.name})" if p.call is not None else p.path for p in waiting)
    if not exact:
        raise NotFound("waiting call", call, hint=f"waiting: {ids}")
    if len(exact) > 1:
        raise StateError(
            f"{len(exact)} calls of {call} wait", status=run.status, event="approve", hint=f"name one: {ids}"
        )
    return (exact[0],)


def _names(pending: PendingCall) -> tuple[str, ...]:
    """Give the names of what waits, the one that nothing else has first."""
    if pending.call is not None:
        return pending.call.id, pending.call.name
    node = pending.path.rpartition("#")[0]
    return pending.path, node, node.rpartition("/")[2]


async def ask_all(
    treadle: Treadle, run: Run, *, signals: Signals, labels: int
) -> AsyncGenerator[Event] | None:
    """Ask about each call that waits, and carry the answers out, as `decide` does."""
    return await decide(treadle, run, run.required_approvals, None, signals=signals, labels=labels)


async def decide(
    treadle: Treadle,
    run: Run,
    waiting: Sequence[PendingCall],
    decided: Decided | None,
    *,
    signals: Signals,
    labels: int,
) -> AsyncGenerator[Event] | None:
    """Decide on calls in turn; give the events of the run when it goes on.

    Shapes: without a decision a person is asked about each. None is given while a call still waits: it was left for
    later, or was not meant. A decision goes for all that wait, also where a workflow's run goes on after each of them.

    Errors: KeyboardInterrupt, Terminated; those of `runs.approve`, which a person who is asked is told instead.
    """
    for n, pending in enumerate(waiting, 1):
        if decided is not None:
            _, events = await carry_out(treadle, run, pending, decided)
            if events is not None:
                return _and_the_rest(treadle, run, events, waiting[n:], decided)
            continue
        show([pending], labels=labels)
        answered = await _ask_until_done(treadle, run, pending, signals=signals)
        if answered is None:
            return None
        _, events = answered
        if events is not None:
            return events
    return None


async def _and_the_rest(
    treadle: Treadle,
    run: Run,
    events: AsyncGenerator[Event],
    rest: Sequence[PendingCall],
    decided: Decided,
) -> AsyncGenerator[Event]:
    """Give the events of a run until it rests, and decide then on what else was meant and still waits."""
    async with aclosing(events):
        async for event in events:
            yield event
    for pending in rest:
        now = await treadle.runs.get(run.id)
        if all((p.run_id, p.path) != (pending.run_id, pending.path) for p in now.pending):
            continue
        _, more = await carry_out(treadle, run, pending, decided)
        if more is not None:
            async with aclosing(more):
                async for event in more:
                    yield event


async def _ask_until_done(
    treadle: Treadle, run: Run, pending: PendingCall, *, signals: Signals
) -> tuple[Run, AsyncGenerator[Event] | None] | None:
    """Ask about a call until the answer can be carried out; None where it is left for later.

    Errors: StateError when the call does not wait any more.
    """
    while True:
        answer = ask_one(pending, signals=signals)
        if answer is None:
            return None
        try:
            return await carry_out(treadle, run, pending, answer)
        except StateError as e:
            now = await treadle.runs.get(run.id)
            if all(p.path != pending.path for p in now.pending):
                raise
            complain(f"    {e.message}" + (f"; {e.hint}" if e.hint else ""), "red")


def ask_one(pending: PendingCall, *, signals: Signals) -> Decided | None:
    """Ask about a call; None where it is left for later.

    Errors: KeyboardInterrupt, Terminated.
    """
    if pending.call is None:
        from treadle.cli import questions

        given = questions.ask_one(pending, signals=signals)
        if given is None or given.decision is None:
            return None
        changed = None if given.value is None else json.dumps(given.value)
        return Decided(given.decision, changed, given.comment or "")
    while True:
        said = ask(PROMPT.format(question=QUESTIONS[pending.action]), signals=signals)
        word, _, rest = (said or "later").strip().partition(" ")
        match word.lower():
            case "y" | "yes":
                return Decided("approve")
            case "e" | "edit":
                arguments = _edited(pending.call.arguments, signals=signals)
                if arguments is not None:
                    return Decided("approve", arguments)
            case "n" | "no":
                reason = rest.strip() or ask("    reason (empty: none): ", signals=signals)
                return None if reason is None else Decided("reject", reason=reason)
            case "l" | "later" | "":
                return None
            case _:
                complain("    answer y, e, n or l")


def _edited(arguments: str, *, signals: Signals) -> str | None:
    """Ask for other arguments, beginning with those there are; None where they are to stay as they are."""
    while True:
        said = ask("    arguments: ", signals=signals, begin_with=lines.exactly(arguments))
        if not said:
            return None
        problem = not_an_object(said)
        if problem is None:
            return said
        complain(f"    {problem} (empty: leave them)")
        arguments = said


def not_an_object(text: str) -> str | None:
    """Say why a text is no JSON object; None where it is one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as e:
        return f"that is not JSON: {e}"
    return None if isinstance(found, dict) else "arguments are a JSON object"


async def carry_out(
    treadle: Treadle, run: Run, pending: PendingCall, decided: Decided
) -> tuple[Run, AsyncGenerator[Event] | None]:
    """Write a decision; give the run, and its further events where the decision made it go on.

    Errors: those of `runs.approve` and `runs.reject`.
    """
    if pending.call is None:
        from treadle.cli import questions

        value = None if decided.arguments is None else json.loads(decided.arguments)
        given = questions.Given(decision=decided.verdict, value=value, comment=decided.reason or None)
        events = await questions.carry_out(treadle, run, pending, given)
        return await treadle.runs.get(run.id), events
    marks = await family.marks(treadle, run)
    if decided.verdict == "approve":
        arguments, digest = decided.arguments, pending.digest
        after = await treadle.runs.approve(
            run.id, pending.call.id, arguments=arguments, by=who(), digest=digest
        )
    else:
        after = await treadle.runs.reject(run.id, pending.call.id, reason=decided.reason, by=who())
    if not went_on(run, after):
        return after, None
    return after, family.follow(treadle, run, after=marks)


def went_on(before: Run, after: Run) -> bool:
    """Tell whether a run was walked on after an answer, even where it waits again by now."""
    return after.status != "requires_action" or after.fence != before.fence
