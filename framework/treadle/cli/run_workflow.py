"""`treadle run` of a workflow: its inputs, and what an option of an agent's run means for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import family
from treadle.cli.opening import Opened, message_text, pairs, read_inputs
from treadle.cli.run import Shown, Wishes, explain_busy, given_thread, show_run
from treadle.errors import ThreadBusy

if TYPE_CHECKING:
    from treadle.cli.signals import Signals
    from treadle.objects.event import Event
    from treadle.objects.workflow import Workflow, WorkflowSpec
    from treadle.service import Treadle

_OF_AGENTS = {"system": "-s", "tools": "-T", "options": "--option"}
"""What options change of one agent; a workflow may have several, each with its own."""


def run_workflow(
    place: Opened, target: str, text: str | None, wanted: Wishes, *, shown: Shown, signals: Signals
) -> int:
    """Run a workflow once and give the exit code.

    Errors: UsageError for options of agents, and for a text that the workflow has no use for.
    """
    for field, option in _OF_AGENTS.items():
        if getattr(wanted, field):
            raise click.UsageError(
                f"{option} is for runs of agents; a workflow's agents say theirs in their documents, or take it as an input"
            )
    return signals.run(_run(place, target, text, wanted, shown=shown, signals=signals))


async def _run(
    place: Opened, target: str, text: str | None, wanted: Wishes, *, shown: Shown, signals: Signals
) -> int:
    async with place.treadle() as treadle:
        workflow = await treadle.workflows.open(target)
        inputs = read_inputs(workflow.spec, [*wanted.inputs, *_said(workflow.spec, text, wanted, signals)])
        thread = await given_thread(treadle, wanted)
        fields = {"model": wanted.model or place.configuration.model, "on_busy": wanted.on_busy}
        events = _events(treadle, workflow, inputs, thread, fields)
        hints = [
            f"Look again:  {place.command('runs show @last')}",
            f"Draw it:  {place.command('graph @last')}",
        ]
        return await show_run(place, treadle, workflow, events, shown=shown, signals=signals, hints=hints)


def _said(spec: WorkflowSpec, text: str | None, wanted: Wishes, signals: Signals) -> list[str]:
    """Give the input that a text is, as ``name=value``.

    Errors: UsageError where there is not exactly one required text; Terminated, KeyboardInterrupt.
    """
    name = _only_text(spec)
    if name is None or any(given == name for given, _ in pairs(wanted.inputs, "-i")):
        if text is not None:
            raise click.UsageError(_refusal(spec, name))
        return []
    with signals.asking():
        said = message_text(text)
    return [] if said is None else [f"{name}={'@' if said.startswith('@') else ''}{said}"]


def _only_text(spec: WorkflowSpec) -> str | None:
    """Give the name of the one input that must be given, where that is a text."""
    required = [name for name, declared in spec.inputs.items() if declared.is_required]
    if len(required) != 1:
        return None
    return required[0] if spec.inputs[required[0]].json_schema.get("type") == "string" else None


def _refusal(spec: WorkflowSpec, name: str | None) -> str:
    if name is not None:
        return f"the text and -i {name}=… are the same input: give one of them"
    if not spec.inputs:
        return "the workflow takes no text: it declares no inputs"
    known = " ".join(f"-i {given}=…" for given in spec.inputs)
    return f"a workflow takes inputs, and a text only where one text is all that it needs: {known}"


async def _events(
    treadle: Treadle,
    workflow: Workflow,
    inputs: Mapping[str, Any],
    thread: str | None,
    fields: Mapping[str, Any],
) -> AsyncGenerator[Event]:
    """Start a run and give its events, those of the runs within it among them.

    Errors: those of `workflows.start`; a thread that is busy says what to do about it.
    """
    try:
        run = await treadle.workflows.start(workflow, inputs=inputs, thread=thread, **fields)
    except ThreadBusy as e:
        if thread is not None:
            await explain_busy(treadle, thread, e)
        raise
    async with aclosing(family.follow(treadle, run)) as events:
        async for event in events:
            yield event
