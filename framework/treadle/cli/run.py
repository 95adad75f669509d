"""`treadle run`: one run of an agent or a workflow, shown while it is walked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from treadle.cli import exit as codes
from treadle.cli import lines, walk
from treadle.cli.context import Invocation, command
from treadle.cli.live import Screen
from treadle.cli.opening import (
    Opened,
    conversation_options,
    is_file,
    message_text,
    offered,
    opened,
    read_inputs,
    read_options,
)
from treadle.cli.output import complain, data_json
from treadle.cli.owners import labels_of, live_of
from treadle.cli.signals import Signals
from treadle.errors import ConfigurationError, ThreadBusy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from treadle.cli.owners import Owner
    from treadle.objects.agent import Agent, AgentSpec
    from treadle.objects.event import Event
    from treadle.service import Treadle


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the options of `run` and `chat` say of a run."""

    inputs: tuple[str, ...] = ()
    thread: str | None = None
    continues: bool = False
    on_busy: str | None = None
    model: str | None = None
    system: str | None = None
    tools: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def overrides(self, spec: AgentSpec, *, model: str | None) -> dict[str, Any]:
        """Give the keywords of `runs.create`; `model` is the environment's, for want of one here.

        Errors: UsageError for what does not fit the agent.
        """
        return {
            "inputs": read_inputs(spec, self.inputs),
            "model": self.model or model,
            "instructions": self.system,
            "tools": offered(spec, self.tools),
            "on_busy": self.on_busy,
            **read_options(self.options),
        }


@command(name="run")
@click.argument("target", metavar="AGENT|WORKFLOW")
@click.argument("text", required=False, metavar="[TEXT]")
@conversation_options
@click.option("--detach", is_flag=True, help="Ctrl-C parks the run instead of cancelling it.")
@click.option("-u", "--usage", is_flag=True, help="Print the tokens, even with -q.")
@click.option(
    "--kind", type=click.Choice(["agent", "workflow"]), help="Which one is meant, where both have the name."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the run as it is at the end.")
@click.option("--jsonl", "as_jsonl", is_flag=True, help="One JSON document per event, the last one 'done'.")
@click.pass_obj
def run(
    invocation: Invocation,
    *,
    target: str,
    text: str | None,
    base_url: str | None,
    detach: bool,
    usage: bool,
    kind: Kind | None,
    as_json: bool,
    as_jsonl: bool,
    **wishes: Any,
) -> int:
    """Run AGENT once on TEXT, or WORKFLOW on its inputs: a file (FILE#NAME where it declares several) or a name.

    The answer of an agent goes to stdout as it is written, the outputs of a workflow at its end; everything else to stderr.
    TEXT is read from stdin when it is '-' or left out; a workflow takes it where one text is all that it needs. Exits with 0
    when the run completed; `treadle --help` lists the other codes.
    """
    if as_json and as_jsonl:
        raise click.UsageError("--json and --jsonl exclude each other")
    wanted = Wishes(**wishes)
    if wanted.thread and wanted.continues:
        raise click.UsageError("-t and -c exclude each other: -c means the newest thread")
    place = opened(invocation, target, base_url=base_url)
    form = "jsonl" if as_jsonl else "json" if as_json else "text"
    signals = Signals()
    shown = Shown(form, detach=detach, usage=usage and invocation.quiet)
    if (kind or kind_of(place, target)) == "workflow":
        from treadle.cli.run_workflow import run_workflow

        return run_workflow(place, target, text, wanted, shown=shown, signals=signals)
    said = message_text(text)
    if said is None and not (wanted.inputs or wanted.thread or wanted.continues):
        raise click.UsageError("there is nothing to say: give a TEXT, or pipe one in")
    return signals.run(_run(place, target, said, wanted, shown=shown, signals=signals))


Kind = Literal["agent", "workflow"]


@dataclass(frozen=True, slots=True)
class Shown:
    """How a run is shown: as text, json or jsonl; with its tokens; and whether Ctrl-C parks it."""

    form: str
    detach: bool
    usage: bool


def kind_of(place: Opened, target: str) -> Kind:
    """Tell whether a person means an agent or a workflow.

    Errors: ConfigurationError where both have the name.
    """
    if target.startswith(("asst_", "wf_")):
        return "workflow" if target.startswith("wf_") else "agent"
    from treadle.definition.load import kinds_of

    kinds = kinds_of(target, project_root=place.configuration.root)
    if not kinds and not is_file(target):
        kinds = asyncio.run(_stored_kinds(place, target))
    if is_file(target) and "#" not in target and "workflow" in kinds:
        return "workflow"  # The agents of its file are parts of it.
    if len(kinds) > 1:
        raise ConfigurationError(
            f"an agent and a workflow have the name '{target}'",
            hint="say which: --kind agent, or --kind workflow",
        )
    return "workflow" if kinds == ["workflow"] else "agent"


async def _stored_kinds(place: Opened, name: str) -> list[Kind]:
    """Tell what the store has of a name."""
    async with place.treadle() as treadle:
        agent = await treadle.store.agent_named(treadle.tenant, name)
        workflow = await treadle.store.workflow_named(treadle.tenant, name)
    kinds: list[Kind] = []
    return [*kinds, *(["agent"] if agent else []), *(["workflow"] if workflow else [])]


async def _run(
    place: Opened, name: str, text: str | None, wanted: Wishes, *, shown: Shown, signals: Signals
) -> int:
    async with place.treadle() as treadle:
        agent = await treadle.agents.open(name)
        overrides = wanted.overrides(agent.spec, model=place.configuration.model)
        thread = await given_thread(treadle, wanted)
        events = turn(treadle, agent, text, thread=thread, overrides=overrides)
        hints = [
            f"Look again:  {place.command('runs show @last')}",
            f'Ask on:  {place.command_on("run", name)} -c "…"',
        ]
        return await show_run(place, treadle, agent, events, shown=shown, signals=signals, hints=hints)


async def show_run(
    place: Opened,
    treadle: Treadle,
    owner: Owner,
    events: AsyncIterator[Event],
    *,
    shown: Shown,
    signals: Signals,
    hints: Sequence[str],
) -> int:
    """Show a run until it comes to rest, and give the exit code."""
    form = shown.form
    labels = await labels_of(treadle, owner)
    sink = _sink(form, treadle, owner, labels)
    walked = await walk.attend(
        treadle,
        events,
        sink,
        signals=signals,
        labels=labels,
        detach=shown.detach,
        asks=form == "text",
    )
    if form == "json":
        from treadle.service.workflow_wire import any_run

        data_json(any_run(walked.run, owner))
    code = walk.exit_code(walked)
    if form == "text" or walked.signal is not None or walked.run.status == "requires_action":
        code = await walk.report(treadle, walked, command=place.command, name="@last", hints=hints)
    if shown.usage and walked.run.usage is not None:
        complain(lines.usage_text(walked.run.usage))
    return codes.BROKEN_PIPE if isinstance(sink, Screen) and sink.is_broken else code


def _sink(form: str, treadle: Treadle, owner: Owner, labels: int) -> walk.Sink:
    if form == "text":
        return live_of(treadle, owner, labels)
    if form == "jsonl":
        from treadle.cli.events import JsonLines

        return JsonLines(treadle, owner)
    return Silent()


class Silent:
    """A sink that shows nothing."""

    async def take(self, event: Event) -> None:
        """Let an event pass."""

    async def close(self, run: object) -> None:
        """Let the end pass."""


async def given_thread(treadle: Treadle, wanted: Wishes) -> str | None:
    """Give the thread that the options name, None for a new one.

    Errors: NotFound.
    """
    if wanted.continues:
        return (await treadle.threads.get("@last")).id
    return (await treadle.threads.get(wanted.thread)).id if wanted.thread else None


async def turn(
    treadle: Treadle, agent: Agent, text: str | None, *, thread: str | None, overrides: Mapping[str, Any]
) -> AsyncIterator[Event]:
    """Run an agent on a thread (a new one where none is given) and give the run's events.

    The text is stored in one transaction with the run: a thread that cannot take the run keeps nothing of it.

    Errors: those of `runs.stream`; a thread that is busy says what to do about it.
    """
    said = [{"role": "user", "content": text}] if text is not None else []
    try:
        async for event in treadle.runs.stream(thread, agent=agent, additional_messages=said, **overrides):
            yield event
    except ThreadBusy as e:
        if thread is not None:
            await explain_busy(treadle, thread, e)
        raise


async def explain_busy(treadle: Treadle, thread_id: str, error: ThreadBusy) -> None:
    """Say in an error which run a thread is busy with, and what to do about it."""
    active = await treadle.store.active_run(treadle.tenant, thread_id)
    if active is None:
        return
    run = await treadle.runs.get(active)
    way = "approve" if run.required_approvals else "answer" if run.required_answers else "submit"
    ways = {"requires_action": way, "queued": "resume"}
    if await walk.left(treadle, [run]):
        ways["in_progress"] = "resume"
    first = f"treadle runs {ways[run.status]} {active}" if run.status in ways else "wait for it"
    error.hint = (
        f"it is {run.status}: {first}, or treadle runs cancel {active}; --on-busy queue waits in line"
    )
