"""`treadle runs answer`: answer what a node of a workflow asks, and go on with the run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import exit as codes
from treadle.cli import questions, walk
from treadle.cli.context import command
from treadle.cli.opening import opened, walking
from treadle.cli.output import can_ask, note
from treadle.cli.owners import labels_of, live_of, owner_of
from treadle.cli.signals import Signals

if TYPE_CHECKING:
    from treadle.cli.context import Invocation
    from treadle.cli.opening import Opened
    from treadle.objects.run import PendingCall, Run


@command(name="answer")
@click.argument("run", metavar="RUN")
@click.argument("node", required=False, metavar="[NODE]")
@click.option("--approve", is_flag=True, help="Consent.")
@click.option("--reject", is_flag=True, help="Refuse.")
@click.option("--choice", metavar="TEXT", help="One of the choices.")
@click.option("--value", metavar="JSON", help="What fits the form, or the changed value; JSON may be @FILE.")
@click.option("--comment", metavar="TEXT", help="What is noted with the answer.")
@click.option("--by", metavar="NAME", help="Who answers; you, where it is left out.")
@walking
@click.pass_obj
def answer(
    invocation: Invocation,
    *,
    run: str,
    node: str | None,
    approve: bool,
    reject: bool,
    choice: str | None,
    value: str | None,
    comment: str | None,
    by: str | None,
    base_url: str | None,
    detach: bool,
) -> int:
    """Answer what a node of a workflow asks, and go on with the run.

    NODE is the id of the node that asks, or the path of its step; it may be left out where one question is open. Without an
    answer a terminal is asked.
    """
    if approve and reject:
        raise click.UsageError("--approve and --reject exclude each other")
    if choice is not None and (approve or reject):
        raise click.UsageError("--choice answers a choice, --approve and --reject a question for consent")
    given = questions.Given(
        decision="approve" if approve else "reject" if reject else None,
        choice=choice,
        comment=comment,
        by=by or "",
    )
    place = opened(invocation, base_url=base_url)
    signals = Signals()
    return signals.run(_answer(place, run, node, given, value, signals=signals, detach=detach))


async def _answer(
    place: Opened,
    name: str,
    node: str | None,
    given: questions.Given,
    value: str | None,
    *,
    signals: Signals,
    detach: bool,
) -> int:
    async with place.treadle() as treadle:
        run = await treadle.runs.get(name)
        owner = await owner_of(treadle, run)
        labels = await labels_of(treadle, owner)
        found = _given(place, run, node, given, value, signals=signals, labels=labels)
        if found is None:
            note("nothing was answered")
            return codes.of_run(run.status)
        pending, chosen = found
        events = await questions.carry_out(treadle, run, pending, chosen)
        if events is None:
            rest = await treadle.runs.get(run.id)
            return await walk.report(treadle, walk.Walked(rest), command=place.command, name=name)
        live = live_of(treadle, owner, labels)
        walked = await walk.attend(treadle, events, live, signals=signals, labels=labels, detach=detach)
        hints = [f"Look again:  {place.command(f'runs show {name}')}"]
        code = await walk.report(treadle, walked, command=place.command, name=name, hints=hints)
        return codes.BROKEN_PIPE if live.is_broken else code


def _given(
    place: Opened,
    run: Run,
    node: str | None,
    given: questions.Given,
    value: str | None,
    *,
    signals: Signals,
    labels: int,
) -> tuple[PendingCall, questions.Given] | None:
    """Give the question and its answer, asked for where the command line has none; None where it is left for later.

    Errors: StateError, NotFound; UsageError where nobody can be asked; KeyboardInterrupt, Terminated.
    """
    pending = questions.chosen(run, node, command=place.command)
    if given.decision is not None or given.choice is not None or value is not None:
        parsed: Any = None if value is None else questions.value_of(pending.asks, value)
        return pending, replace(given, value=parsed)
    questions.show([pending], labels=labels)
    if not can_ask():
        ways = "; ".join(place.command(way) for way in questions.commands(run, run.id))
        raise click.UsageError(f"nobody can be asked here; give the answer: {ways}")
    asked = questions.ask_one(pending, signals=signals)
    if asked is None:
        return None
    return pending, replace(asked, comment=given.comment or asked.comment, by=given.by)
