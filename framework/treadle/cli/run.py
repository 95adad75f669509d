"""`treadle run`: one run of an agent, shown while it is walked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import exit as codes
from treadle.cli import lines, walk
from treadle.cli.context import Invocation, command
from treadle.cli.live import Live
from treadle.cli.opening import (
    Opened,
    conversation_options,
    message_text,
    offered,
    opened,
    read_inputs,
    read_options,
)
from treadle.cli.output import complain, data_json
from treadle.cli.signals import Signals
from treadle.errors import ThreadBusy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
@click.argument("agent", metavar="AGENT")
@click.argument("text", required=False, metavar="[TEXT]")
@conversation_options
@click.option("--detach", is_flag=True, help="Ctrl-C parks the run instead of cancelling it.")
@click.option("-u", "--usage", is_flag=True, help="Print the tokens, even with -q.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the run as it is at the end.")
@click.option("--jsonl", "as_jsonl", is_flag=True, help="One JSON document per event, the last one 'done'.")
@click.pass_obj
def run(
    invocation: Invocation,
    *,
    agent: str,
    text: str | None,
    base_url: str | None,
    detach: bool,
    usage: bool,
    as_json: bool,
    as_jsonl: bool,
    **wishes: Any,
) -> int:
    """Run AGENT once on TEXT: a file (FILE#NAME where it declares several agents) or a name in the project.

    The answer goes to stdout as it is written, everything else to stderr. TEXT is read from stdin when it is '-'
    or left out. Exits with 0 when the run completed; `treadle --help` lists the other codes.
    """
    if as_json and as_jsonl:
        raise click.UsageError("--json and --jsonl exclude each other")
    wanted = Wishes(**wishes)
    if wanted.thread and wanted.continues:
        raise click.UsageError("-t and -c exclude each other: -c means the newest thread")
    said = message_text(text)
    if said is None and not (wanted.inputs or wanted.thread or wanted.continues):
        raise click.UsageError("there is nothing to say: give a TEXT, or pipe one in")
    place = opened(invocation, agent, base_url=base_url)
    form = "jsonl" if as_jsonl else "json" if as_json else "text"
    signals = Signals()
    shows_usage = usage and invocation.quiet
    return signals.run(
        _run(place, agent, said, wanted, form=form, detach=detach, signals=signals, shows_usage=shows_usage)
    )


async def _run(
    place: Opened,
    name: str,
    text: str | None,
    wanted: Wishes,
    *,
    form: str,
    detach: bool,
    signals: Signals,
    shows_usage: bool,
) -> int:
    async with place.treadle() as treadle:
        agent = await treadle.agents.open(name)
        overrides = wanted.overrides(agent.spec, model=place.configuration.model)
        thread = await given_thread(treadle, wanted)
        sink = _sink(form, treadle, agent)
        events = turn(treadle, agent, text, thread=thread, overrides=overrides)
        walked = await walk.attend(treadle, events, sink, signals=signals, detach=detach, asks=form == "text")
        if form == "json":
            from treadle import wire

            data_json(wire.run(walked.run, agent))
        hints = [
            f"Look again:  {place.command('runs show @last')}",
            f'Ask on:  {place.command_on("run", name)} -c "…"',
        ]
        code = walk.exit_code(walked)
        if form == "text" or walked.signal is not None or walked.run.status == "requires_action":
            code = await walk.report(treadle, walked, command=place.command, name="@last", hints=hints)
        if shows_usage and walked.run.usage is not None:
            complain(lines.usage_text(walked.run.usage))
    return codes.BROKEN_PIPE if isinstance(sink, Live) and sink.is_broken else code


def _sink(form: str, treadle: Treadle, agent: Agent) -> walk.Sink:
    if form == "text":
        return Live(treadle, agent)
    if form == "jsonl":
        from treadle.cli.events import JsonLines

        return JsonLines(treadle, agent)
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
            await _explain_busy(treadle, thread, e)
        raise


async def _explain_busy(treadle: Treadle, thread_id: str, error: ThreadBusy) -> None:
    active = await treadle.store.active_run(treadle.tenant, thread_id)
    if active is None:
        return
    run = await treadle.runs.get(active)
    ways = {"requires_action": "approve" if run.required_approvals else "submit", "queued": "resume"}
    if await walk.left(treadle, [run]):
        ways["in_progress"] = "resume"
    first = f"treadle runs {ways[run.status]} {active}" if run.status in ways else "wait for it"
    error.hint = (
        f"it is {run.status}: {first}, or treadle runs cancel {active}; --on-busy queue waits in line"
    )
