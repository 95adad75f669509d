"""`treadle runs fork` and `treadle runs rerun`: go on from a step of an earlier run, as a new one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from treadle.cli import exit as codes
from treadle.cli import family, walk
from treadle.cli.opening import Opened, opened, read_value, walking
from treadle.cli.output import can_ask, data_json, note
from treadle.cli.owners import labels_of, live_of, owner_of
from treadle.cli.run import Silent
from treadle.cli.signals import Signals
from treadle.objects.run import UNCHANGED

if TYPE_CHECKING:
    from treadle.cli.context import Invocation
    from treadle.objects.run import Run
    from treadle.objects.run_step import Step
    from treadle.service import Treadle

Begin = Callable[["Treadle"], Awaitable["Run"]]

_ASKS = "\0"
"""What --edit has without a value."""
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document: the new run at the end.")


@click.command(name="fork")
@click.argument("run", metavar="RUN")
@click.option(
    "--at",
    "at",
    required=True,
    metavar="STEP",
    help="The step's path, or its node where that was visited once.",
)
@click.option(
    "--edit",
    "edit",
    is_flag=False,
    flag_value=_ASKS,
    metavar="[JSON|@FILE]",
    help="Give the step this result instead of executing it; without a value, $EDITOR is opened.",
)
@_json
@walking
@click.pass_obj
def fork(
    invocation: Invocation,
    *,
    run: str,
    at: str,
    edit: str | None,
    base_url: str | None,
    detach: bool,
    as_json: bool,
) -> int:
    """Make a new run that is as RUN was before a step, and executes that step again.

    Everything before the step is kept and not executed. The new run has a thread of its own, which shares the messages up to
    there. `treadle runs show RUN` lists the steps.
    """
    place = opened(invocation, base_url=base_url)
    signals = Signals()

    async def begin(treadle: Treadle) -> Run:
        value = await _edited(treadle, run, at, edit, signals)
        return await treadle.runs.fork(run, at=at, edit=value)

    return signals.run(_show(place, begin, signals=signals, detach=detach, as_json=as_json))


@click.command(name="rerun")
@click.argument("run", metavar="RUN")
@click.option(
    "--from",
    "from_",
    required=True,
    metavar="STEP",
    help="The step's path, or its node where that was visited once.",
)
@click.option("--force", multiple=True, metavar="NODE", help="Execute all visits of this node as well.")
@click.option("-m", "--model", metavar="MODEL", help="Ask this model instead, in all that is executed.")
@_json
@walking
@click.pass_obj
def rerun(
    invocation: Invocation,
    *,
    run: str,
    from_: str,
    force: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    detach: bool,
    as_json: bool,
) -> int:
    """Make a new run that executes a step of RUN again and what came after it; everything else is kept.

    What follows a node that is forced is kept where it sees the same values as before.
    """
    place = opened(invocation, base_url=base_url)
    signals = Signals()

    async def begin(treadle: Treadle) -> Run:
        return await treadle.runs.rerun(run, from_=from_, force=force, model=model)

    return signals.run(_show(place, begin, signals=signals, detach=detach, as_json=as_json))


async def _show(place: Opened, begin: Begin, *, signals: Signals, detach: bool, as_json: bool) -> int:
    """Begin the new run, show it until it comes to rest, and say which steps were executed."""
    async with place.treadle() as treadle:
        made = await begin(treadle)
        owner = await owner_of(treadle, made)
        labels = await labels_of(treadle, owner)
        live = None if as_json else live_of(treadle, owner, labels)
        walked = await walk.attend(
            treadle,
            family.follow(treadle, made),
            live or Silent(),
            signals=signals,
            labels=labels,
            detach=detach,
            asks=not as_json,
        )
        steps = await treadle.runs.steps(made.id)
        if as_json:
            from treadle.service.workflow_wire import any_run

            origin = made.origin.model_dump(mode="json", exclude_defaults=True) if made.origin else None
            told = [{"path": s.path, "status": s.status, "kept": s.kept} for s in steps]
            data_json(any_run(walked.run, owner) | {"origin": origin, "steps": told})
        else:
            _say_what_was_kept(steps)
        hints = [f"Look again:  {place.command(f'runs show {made.id}')}"]
        code = walk.exit_code(walked)
        if not as_json or walked.signal is not None or walked.run.status == "requires_action":
            code = await walk.report(treadle, walked, command=place.command, name=made.id, hints=hints)
        return codes.BROKEN_PIPE if live is not None and live.is_broken else code


def _say_what_was_kept(steps: list[Step]) -> None:
    paths: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for step in steps:
        if step.kind != "frame":
            paths[step.kept is not None][step.path] = None
    for is_kept, word in ((True, "kept"), (False, "executed")):
        note(f"{word:<9} {', '.join(paths[is_kept]) or 'nothing'}", "dim")


async def _edited(treadle: Treadle, run: str, at: str, given: str | None, signals: Signals) -> Any:
    """Give the edited result of a step.

    Errors: UsageError and BadParameter; Abort where the editor was left without a change.
    """
    if given is None:
        return UNCHANGED
    if given == _ASKS:
        if not can_ask():
            raise click.UsageError("no editor can be opened here: give --edit a JSON value, or @FILE")
        before = json.dumps(await _result(treadle, run, at), indent=2, ensure_ascii=False)
        with signals.asking():
            text = click.edit(f"{before}\n", extension=".json", require_save=True)
        if text is None:
            raise click.Abort
    else:
        text = read_value(given)
    try:
        return json.loads(text)
    except ValueError as e:
        hint = f"a text is written in quotes: '{json.dumps(text.strip()[:40], ensure_ascii=False)}'"
        raise click.BadParameter(f"it is not JSON ({e}); {hint}", param_hint="--edit") from e


async def _result(treadle: Treadle, name: str, at: str) -> Any:
    """Give the result that a step has now, None where it has none."""
    run = await treadle.runs.get(name, output=False)
    steps = [s for s in await treadle.runs.steps(run.id) if at in (s.path, s.node)]
    if not steps:
        return None
    if steps[-1].result is not None or steps[-1].kind != "tool_call":
        return steps[-1].result
    return (await treadle.runs.detail(run, steps[-1])).output
