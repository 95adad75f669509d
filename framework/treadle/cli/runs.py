"""`treadle runs`: what was run, what each step did, and how to go on with a run that waits."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import click

from treadle.cli import approvals, family, flow_lines, lines, walk
from treadle.cli import exit as codes
from treadle.cli.answer_command import answer
from treadle.cli.context import Group, Invocation
from treadle.cli.listing import page, paged, show_table
from treadle.cli.live import Screen, describe
from treadle.cli.opening import Opened, opened, pairs, read_value, walking
from treadle.cli.output import can_ask, complain, data, data_json, note, room, style, width
from treadle.cli.owners import is_workflow, labels_of, live_of, owner_of
from treadle.cli.runs_again import fork, rerun
from treadle.cli.signals import Signals
from treadle.errors import StreamCut

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from treadle.cli.owners import Owner
    from treadle.graph.places import Places
    from treadle.graph.trace import Trace
    from treadle.objects.agent import Agent
    from treadle.objects.event import Event
    from treadle.objects.record import JsonValue
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.service import Treadle

_COLORS = {"completed": "green", "failed": "red", "requires_action": "yellow"}
_LEFT = "walker gone"


@click.group(cls=Group)
def runs() -> None:
    """List, show, tail, approve, answer, submit to, resume, cancel, fork and rerun runs."""


@runs.command(name="list")
@click.option("-t", "thread", metavar="THREAD", help="Only the runs of this thread.")
@click.option("--all", "everything", is_flag=True, help="Also the runs within runs of workflows.")
@paged
@click.pass_obj
def list_(
    invocation: Invocation,
    *,
    thread: str | None,
    everything: bool,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List the runs of the store, the newest first."""
    place = opened(invocation)

    async def found() -> tuple[list[Run], dict[str, Owner], set[str]]:
        async with place.treadle() as treadle:
            thread_id = (await treadle.threads.get(thread)).id if thread else None
            listed = await _listed(treadle, thread_id, limit + 1, after, everything=everything)
            left = await walk.left(treadle, listed)
            owners: dict[tuple[str, int], Owner] = {}
            for one in listed:
                if (one.agent_id, one.agent_version) not in owners:
                    owners[one.agent_id, one.agent_version] = await owner_of(treadle, one)
            if as_json:
                listed = [await treadle.runs.get(r.id) if r.pending else r for r in listed]
            return listed, {r.id: owners[r.agent_id, r.agent_version] for r in listed}, left

    every, owners, left = asyncio.run(found())
    listed, has_more = page(every, limit)
    if as_json:
        from treadle import wire
        from treadle.service.workflow_wire import any_run

        data_json(wire.listing([any_run(r, owners[r.id]) for r in listed], has_more=has_more))
        return
    rows = [_row(r, owners[r.id].name or r.agent_id, is_left=r.id in left) for r in listed]
    head = ("ID", "STATUS", "AGENT", "MODEL", "CREATED", "TIME", "TOKENS", "THREAD")
    show_table(head, rows)
    if left:
        note(f"walker gone: {place.command('runs resume RUN')} goes on from the last step", "dim")
    if has_more:
        note(f"more:  {place.command(f'runs list --after {listed[-1].id}')}", "dim")


async def _listed(
    treadle: Treadle, thread: str | None, count: int, after: str | None, *, everything: bool
) -> list[Run]:
    """Give the newest runs, without those within others unless everything is asked for."""
    found: list[Run] = []
    while len(found) < count:
        part = await treadle.runs.list(thread, limit=count, after=after)
        found += [run for run in part if everything or run.parent_id is None]
        if len(part) < count:
            break
        after = part[-1].id
    return found[:count]


def _row(run: Run, agent: str, *, is_left: bool) -> tuple[str, ...]:
    tokens = str(run.usage.total_tokens) if run.usage else "-"
    created = lines.when(run.created_ms)
    status = (
        f"{run.status} ({_LEFT})" if is_left else f"{run.status} (in line)" if run.in_line else run.status
    )
    model = run.model or "-"
    return run.id, status, agent, model, created, lines.duration(run.walked_ms), tokens, run.thread_id


@runs.command(name="show")
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the run with its steps.")
@click.pass_obj
def show(invocation: Invocation, *, run: str, as_json: bool) -> None:
    """Show what a run did, step by step: by id, a unique beginning of it, or @last."""
    place = opened(invocation)
    asyncio.run(_show_json(place, run) if as_json else _show(place, run))


async def _show_json(place: Opened, name: str) -> None:
    async with place.treadle() as treadle:
        data_json(await _shown(treadle, await treadle.runs.get(name)))


async def _shown(treadle: Treadle, run: Run) -> dict[str, Any]:
    """Give a run with its steps as JSON, and with the runs within it where it is of a workflow."""
    from treadle import wire
    from treadle.service.workflow_wire import any_run, workflow_step

    owner = await owner_of(treadle, run)
    journal = await treadle.runs.steps(run.id)
    if not is_workflow(owner):
        return any_run(run, owner) | {
            "steps": wire.run_steps(run, journal, await treadle.runs.rows(run, journal))
        }
    within = await treadle.store.children(run.tenant, run.id)
    return any_run(run, owner) | {
        "steps": [workflow_step(run, step) for step in journal],
        "runs": [await _shown(treadle, await treadle.runs.get(child.id)) for child in within],
    }


async def _show(place: Opened, name: str) -> None:
    async with place.treadle() as treadle:
        run = await treadle.runs.get(name)
        owner = await owner_of(treadle, run)
        status = style(run.status, _COLORS.get(run.status, "bold"), stream=sys.stdout)
        if run.incomplete_reason:
            status += f" ({run.incomplete_reason})"
        is_left = bool(await walk.left(treadle, [run]))
        is_resting = run.status == "in_progress" and run.walker is None and run.wake_ms is not None
        if is_left or run.in_line:
            status += f" ({_LEFT if is_left else 'in line'})"
        if is_resting:
            status += f" ({flow_lines.rest_text(run.wake_ms or 0)})"
        data(f"{run.id}  {status}")
        _show_owner(treadle, owner, run)
        data(f"thread  {run.thread_id}")
        if run.parent_id is not None:
            data(f"within  {run.parent_id}")
        data(f"made    {lines.when(run.created_ms)}")
        labels = await labels_of(treadle, owner)
        steps = await _show_steps(treadle, run, labels=labels)
        data(_totals(run, steps, resumed=await _resumed(treadle, run)))
        if run.last_error is not None:
            data(f"error   {lines.one_line(f'{run.last_error.code}: {run.last_error.message}')}")
        _show_waiting(run, labels=labels)
        if run.output is not None:
            data("")
            text = run.output if isinstance(run.output, str) else json.dumps(run.output, ensure_ascii=False)
            data(lines.visible(text) if sys.stdout.isatty() else text)
        if is_left or is_resting or (run.status == "queued" and not run.in_line):
            note(f"Go on:  {place.command(f'runs resume {name}')}", "dim")
        elif run.required_answers:
            from treadle.cli import questions

            for way in questions.commands(run, name):
                note(f"Answer:  {place.command(way)}", "dim")


def _show_owner(treadle: Treadle, owner: Owner, run: Run) -> None:
    """Print what a run is of, with its model or its inputs."""
    if is_workflow(owner):
        data(f"flow    {lines.one_line(owner.name or owner.id)} version {owner.version}")
        if run.inputs:
            given = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in run.inputs.items())
            data(f"inputs  {lines.cut(lines.one_line(given), max(16, room() - 8))}")
        return
    agent = cast("Agent", owner)
    data(f"agent   {lines.one_line(agent.name or agent.id)} version {agent.version}")
    data(f"model   {describe(treadle, agent.spec, run)}")


def _show_waiting(run: Run, *, labels: int) -> None:
    for pending in run.required_approvals:
        for line in lines.approval_lines(pending, labels=labels):
            data(line)
    for pending in run.required_answers:
        for line in flow_lines.question_lines(pending, labels=labels):
            data(line)
    for call in run.required_action:
        given = lines.one_line(call.arguments)
        data(f"waits   for the output of {call.id}: {lines.one_line(call.name)} {given}")


async def _show_steps(treadle: Treadle, run: Run, *, labels: int) -> int:
    """Print a line for each step of the trace, what belongs together one level deeper; give how many steps there are."""
    trace = await treadle.runs.trace(run.id)
    all_places: dict[str, Places] = {}
    listed = trace.tree()
    if trace.graph.is_workflow:
        labels = 1 + max([lines.LABELS, *(len(line.label) + 2 * line.indent for line in listed)])
    for line in listed:
        step, of = line.step, line.trace or trace
        note, tokens = "", ""
        if step is not None:
            left = max(16, room() - labels - 2 * line.indent - 30)
            if of.graph.is_workflow:
                note = _flow_note(step, of, all_places, room=left)
            else:
                note = await _note(treadle, of.run, step, room=left)
        if line.usage is not None:
            tokens = f"{line.usage.prompt_tokens} in / {line.usage.completion_tokens} out"
        cost = "" if line.usd is None else f"${line.usd:.4f}"
        mark = lines.FAILED if step is not None and step.last_error is not None else line.marker
        color = _COLORS.get("failed" if mark == lines.FAILED else line.status, "yellow")
        head = f"{line.label:<{max(1, labels - 2 * line.indent)}}{lines.duration(line.duration_ms):>8}"
        rest = "   ".join(part for part in (f"{tokens:<20}", cost, note) if part)
        shown = style(mark, color, stream=sys.stdout)
        data(f"  {'  ' * line.indent}{shown} {head}   {rest}".rstrip())
    return trace.total


def _flow_note(step: Step, trace: Trace, known: dict[str, Places], *, room: int) -> str:
    """Say what a step of a workflow did, or what it waits for."""
    from treadle.graph.places import Places

    places = known.get(trace.run.id)
    if places is None:
        places = known[trace.run.id] = Places(trace.graph)
        places.learn(trace.steps)
    if step.is_open and step.wake_ms is not None:
        return flow_lines.rest_text(step.wake_ms)
    if step.is_open and step.child is not None:
        return flow_lines.child_text(step, places)
    if step.is_open and step.question is not None:
        return lines.cut(lines.one_line(step.question.ask), room)
    return flow_lines.note_of(step, places, room=room)


async def _note(treadle: Treadle, run: Run, step: Step, *, room: int) -> str:
    detail = await treadle.runs.detail(run, step)
    decided = lines.decision_text(step)
    said = lines.note_of(step, detail.calls, detail.output, room=max(16, room - len(decided) - 3))
    return f"{said} · {decided}" if decided else said


async def _resumed(treadle: Treadle, run: Run) -> str | None:
    """Say how often a run was taken up after its walker was gone, and how much was kept the last time."""
    if run.fence < 2:
        return None
    events = await treadle.store.events(run.tenant, run.id, limit=1_000_000)
    kept = [e.data["kept"] for e in events if e.name == "thread.run.in_progress" and e.data.get("resumed")]
    return f"resumed {len(kept)}×, {lines.plural(kept[-1], 'step')} kept" if kept else None


def _totals(run: Run, steps: int, *, resumed: str | None) -> str:
    parts = [lines.plural(steps, "step"), lines.duration(run.walked_ms)]
    if run.usage is not None:
        parts.append(lines.usage_text(run.usage))
    if resumed is not None:
        parts.append(resumed)
    return "        " + " · ".join(parts)


@runs.command(name="submit")
@click.argument("run", metavar="RUN")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="CALL=TEXT",
    help="The output of a call; TEXT may be @FILE.",
)
@walking
@click.pass_obj
def submit(
    invocation: Invocation, *, run: str, outputs: tuple[str, ...], base_url: str | None, detach: bool
) -> int:
    """Give the outputs of the calls that a run waits for, all of them at once, and go on with it.

    CALL is the id of a call, or the name of its function where only one call of it waits. Without --output a
    terminal is asked.
    """
    place = opened(invocation, base_url=base_url)
    signals = Signals()

    async def go_on() -> int:
        async with place.treadle() as treadle:
            found = await treadle.runs.get(run)
            given = _outputs(found, outputs, signals=signals)
            if given is None:
                note("nothing was submitted")
                return codes.of_run(found.status)
            events = await walk.submitted(treadle, found, given)
            return await _walk(place, treadle, found, events, name=run, signals=signals, detach=detach)

    return signals.run(go_on())


def _outputs(run: Run, given: Sequence[str], *, signals: Signals) -> list[dict[str, str]] | None:
    """Give the outputs as they are submitted, asked for where none is given; None where they are left for later.

    Errors: UsageError where nobody can be asked; KeyboardInterrupt, Terminated.
    """
    if given or run.status != "requires_action":
        names: dict[str, list[str]] = {}
        for call in run.required_action:
            names.setdefault(call.name, []).append(call.id)
        ids = {call.id for call in run.required_action}
        return [
            {
                "tool_call_id": names[key][0] if key not in ids and len(names.get(key, ())) == 1 else key,
                "output": read_value(text),
            }
            for key, text in pairs(given, "--output")
        ]
    if not can_ask():
        wanted = " ".join(f"--output {call.id}=…" for call in run.required_action)
        raise click.UsageError(f"give the outputs: {wanted}")
    for call in run.required_action:
        note(lines.waiting_line(call, labels=lines.LABELS, columns=width()), "yellow")
    return walk.ask_outputs(run.required_action, signals=signals)


@runs.command(name="resume")
@click.argument("run", metavar="RUN")
@walking
@click.pass_obj
def resume(invocation: Invocation, *, run: str, base_url: str | None, detach: bool) -> int:
    """Go on with a run from its last step: one that was parked, or whose process is gone."""
    place = opened(invocation, base_url=base_url)
    signals = Signals()

    async def go_on() -> int:
        async with place.treadle() as treadle:
            found = await treadle.runs.get(run)
            events = _resumed_events(treadle, found)
            return await _walk(place, treadle, found, events, name=run, signals=signals, detach=detach)

    return signals.run(go_on())


async def _resumed_events(treadle: Treadle, run: Run) -> AsyncGenerator[Event]:
    """Go on with a run, and give its further events, those of the runs within it among them.

    Errors: those of `runs.resume`.
    """
    marks = await family.marks(treadle, run)
    await treadle.runs.resume(run.id)
    async with aclosing(family.follow(treadle, run, after=marks)) as events:
        async for event in events:
            yield event


async def _walk(
    place: Opened,
    treadle: Treadle,
    run: Run,
    events: AsyncIterator[Event],
    *,
    name: str,
    signals: Signals,
    detach: bool,
) -> int:
    """Show a run that goes on; `name` is what it was called on the command line."""
    owner = await owner_of(treadle, run)
    labels = await labels_of(treadle, owner)
    live = live_of(treadle, owner, labels)
    walked = await walk.attend(treadle, events, live, signals=signals, labels=labels, detach=detach)
    hints = [f"Look again:  {place.command(f'runs show {name}')}"]
    code = await walk.report(treadle, walked, command=place.command, name=name, hints=hints)
    return codes.BROKEN_PIPE if live.is_broken else code


@runs.command(name="approve")
@click.argument("run", metavar="RUN")
@click.argument("call", required=False, metavar="[CALL]")
@click.option("--arguments", metavar="JSON", help="Run it with these instead; JSON may be @FILE.")
@click.option("--reject", is_flag=True, help="Keep it from running.")
@click.option("--reason", metavar="TEXT", help="What the model is told of a rejection.")
@click.option("--yes", is_flag=True, help="Approve without asking.")
@walking
@click.pass_obj
def approve(
    invocation: Invocation,
    *,
    run: str,
    call: str | None,
    arguments: str | None,
    reject: bool,
    reason: str | None,
    yes: bool,
    base_url: str | None,
    detach: bool,
) -> int:
    """Let the calls run that wait for a person, or reject them, and go on with the run.

    CALL is the id of a call, the name of its tool where only one call of it waits, or the node of a workflow that asks for
    consent; without it all of them are meant. Without --yes, --reject or --arguments a terminal is asked about each one.
    """
    if reason is not None and not reject:
        raise click.UsageError("--reason goes with --reject")
    if reject and (yes or arguments is not None):
        raise click.UsageError("--reject excludes --yes and --arguments")
    decided = None
    if reject:
        decided = approvals.Decided("reject", reason=reason or "")
    elif arguments is not None:
        decided = approvals.Decided("approve", _arguments(arguments))
    elif yes:
        decided = approvals.Decided("approve")
    elif not can_ask():
        raise click.UsageError("nobody can be asked here; add --yes, --reject or --arguments")
    place = opened(invocation, base_url=base_url)
    signals = Signals()
    return signals.run(_approve(place, run, call, decided=decided, signals=signals, detach=detach))


def _arguments(given: str) -> str:
    text = read_value(given)
    problem = approvals.not_an_object(text)
    if problem is not None:
        raise click.BadParameter(problem, param_hint="--arguments")
    return text


async def _approve(
    place: Opened,
    name: str,
    call: str | None,
    *,
    decided: approvals.Decided | None,
    signals: Signals,
    detach: bool,
) -> int:
    async with place.treadle() as treadle:
        found = await treadle.runs.get(name)
        waiting = approvals.chosen(found, call)
        if decided is not None and decided.arguments is not None and len(waiting) > 1:
            ids = ", ".join(p.call.id if p.call is not None else p.path for p in waiting)
            raise click.UsageError(f"--arguments are those of one call; name it: {ids}")
        labels = await labels_of(treadle, await owner_of(treadle, found))
        events = await approvals.decide(treadle, found, waiting, decided, signals=signals, labels=labels)
        if events is not None:
            return await _walk(place, treadle, found, events, name=name, signals=signals, detach=detach)
        rest = await treadle.runs.get(found.id)
        return await walk.report(treadle, walk.Walked(rest), command=place.command, name=name)


@runs.command(name="tail")
@click.argument("run", metavar="RUN")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="N", help="Only what comes after event N."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, once the run has ended.")
@click.option("--jsonl", "as_jsonl", is_flag=True, help="One JSON document per event, the last one 'done'.")
@click.pass_obj
def tail(invocation: Invocation, *, run: str, after: int, as_json: bool, as_jsonl: bool) -> int:
    """Follow a run until it ends, whichever process walks it.

    A run that has ended is shown again. Ctrl-C ends the watching, never the run. Exits with the code of the run's end.
    """
    if as_json and as_jsonl:
        raise click.UsageError("--json and --jsonl exclude each other")
    place = opened(invocation)
    form = "jsonl" if as_jsonl else "json" if as_json else "text"
    return Signals().run(_tail(place, run, after=after, form=form))


async def _tail(place: Opened, name: str, *, after: int, form: str) -> int:
    async with place.treadle() as treadle:
        run = await treadle.runs.get(name)
        owner = await owner_of(treadle, run)
        if await walk.left(treadle, [run]):
            note(f"{_LEFT}; go on with it: {place.command(f'runs resume {run.id}')}", "yellow")
        collected: list[JsonValue] = []
        watch = _Watch(treadle, run, owner, after=after, labels=await labels_of(treadle, owner))
        if form != "text":
            from treadle.cli.events import JsonLines, print_line

            put = print_line if form == "jsonl" else collected.append
            watch.sink = events = JsonLines(treadle, owner, put=put)
            await events.skip(run.id, after)
        try:
            await watch.read()
        except asyncio.CancelledError:
            again = place.command(f"runs tail {run.id} --after {watch.seen}")
            complain(f"\nthe run goes on; watch it again: {again}")
            raise
        run = await treadle.runs.get(run.id)
        await watch.sink.close(run)
        walked = walk.Walked(run)
        if form == "json":
            data_json({"object": "list", "data": collected})
        code = walk.exit_code(walked)
        if form == "text":
            code = await walk.report(treadle, walked, command=place.command, name=run.id)
        is_broken = isinstance(watch.sink, Screen) and watch.sink.is_broken
        return codes.BROKEN_PIPE if is_broken else code


class _Watch:
    """Shows the events of a run that is walked elsewhere."""

    def __init__(self, treadle: Treadle, run: Run, owner: Owner, *, after: int, labels: int) -> None:
        self._treadle = treadle
        self._run = run
        self._labels = labels
        self.sink: walk.Sink = live_of(treadle, owner, labels)
        self.seen = after

    async def read(self) -> None:
        """Show what comes until the run has ended."""
        run = self._run
        marks = await self._marks()
        while True:
            following = family.follow(self._treadle, run, after=marks | {run.id: self.seen}, until_rest=False)
            try:
                async with aclosing(following) as events:
                    async for event in events:
                        if event.run_id == run.id:
                            self.seen = event.seq or self.seen
                        await self.sink.take(event)
                        if event.run_id == run.id and event.name == "thread.run.requires_action":
                            await self._show_waiting(run.id)
            except StreamCut:
                continue
            return

    async def _marks(self) -> dict[str, int]:
        """Give the runs within that began before what is shown, and were not over by then: they are shown from their start."""
        if not self.seen or not family.is_workflow_run(self._run):
            return {}
        before = await self._treadle.store.events(self._run.tenant, self._run.id, after=0, limit=self.seen)
        begun = {e.object_id: str(e.data["child"]) for e in before if "child" in e.data}
        over = {e.object_id for e in before if e.name in _OVER}
        return {child: 0 for path, child in begun.items() if path not in over}

    async def _show_waiting(self, run_id: str) -> None:
        if isinstance(self.sink, Screen):
            run = await self._treadle.runs.get(run_id)
            self.sink.show_waiting(run)
            walk.show_waiting(run, labels=self._labels)


_OVER = frozenset(f"thread.run.step.{status}" for status in ("completed", "failed", "cancelled", "expired"))


@runs.command(name="cancel")
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the run.")
@click.pass_obj
def cancel(invocation: Invocation, *, run: str, as_json: bool) -> None:
    """Ask for the end of a run; whoever walks it stops at once."""
    place = opened(invocation)

    async def ask() -> tuple[Run, Owner]:
        async with place.treadle() as treadle:
            found = await treadle.runs.cancel(run)
            return found, await owner_of(treadle, found)

    found, owner = asyncio.run(ask())
    if as_json:
        from treadle.service.workflow_wire import any_run

        data_json(any_run(found, owner))
        return
    note(f"{found.id} {found.status}")


runs.add_command(answer)
runs.add_command(fork)
runs.add_command(rerun)
