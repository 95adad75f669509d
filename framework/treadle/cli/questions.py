"""Ask people what the nodes of a workflow ask, and hand on what they answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from treadle.cli import family, flow_lines, lines
from treadle.cli.approvals import went_on, who
from treadle.cli.ask import ask
from treadle.cli.opening import read_value
from treadle.cli.output import complain
from treadle.errors import NotFound, StateError

if TYPE_CHECKING:
    from treadle.cli.signals import Signals
    from treadle.objects.event import Event
    from treadle.objects.run import PendingCall, Question, Run
    from treadle.service import Treadle

LATER = "[l]ater"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a person answers."""

    decision: Literal["approve", "reject"] | None = None
    choice: str | None = None
    value: Any = None
    comment: str | None = None
    by: str = ""


def show(waiting: Sequence[PendingCall], *, labels: int) -> None:
    """List questions, also where all else is quiet."""
    for pending in waiting:
        for line in flow_lines.question_lines(pending, labels=labels):
            complain(line, "yellow")


def commands(run: Run, name: str) -> list[str]:
    """Give the commands that answer the questions of a run, without `treadle`.

    Shapes: `name` is what the run is called in them.
    """
    waiting = run.required_answers
    found: list[str] = []
    for pending in waiting:
        node = flow_lines.named(waiting, pending)
        where = (
            f"{name} {node or pending.path}"
            if node or pending.run_id is None
            else f"{pending.run_id} {pending.path}"
        )
        found.append(f"runs answer {where} {flow_lines.answer_options(pending.asks)}")
    return found


def chosen(run: Run, node: str | None, *, command: Callable[[str], str]) -> PendingCall:
    """Give the question that a person means: that of a node, of a step by its path, or the only one.

    Shapes: `command` gives a command of treadle for a hint.

    Errors: StateError when none waits, or several do and the name does not say which; NotFound.
    """
    waiting = run.required_answers
    if not waiting:
        raise StateError(
            f"run {run.id} is {run.status}: no question of it is open",
            status=run.status,
            event="answer",
            run=run,
        )
    if node is None and len(waiting) == 1:
        return waiting[0]
    ways = "; ".join(command(c) for c in commands(run, run.id))
    if node is None:
        raise StateError(
            f"{len(waiting)} questions of run {run.id} are open",
            status=run.status,
            event="answer",
            hint=f"name one: {ways}",
        )
    found = [p for p in waiting if p.path == node] or [p for p in waiting if node in _names(p)]
    if not found:
        raise NotFound("open question", node, hint=f"open: {ways}")
    if len(found) > 1:
        raise StateError(
            f"{len(found)} questions of {node} are open",
            status=run.status,
            event="answer",
            hint=f"name one: {ways}",
        )
    return found[0]


def _names(pending: PendingCall) -> tuple[str, ...]:
    from treadle.store.rows import node_of

    node = node_of(pending.path)
    return node, node.rpartition("/")[2], pending.path.rpartition("#")[0]


async def carry_out(
    treadle: Treadle, run: Run, pending: PendingCall, given: Given
) -> AsyncGenerator[Event] | None:
    """Write an answer; give the further events of the run where it goes on.

    Errors: those of `runs.answer`.
    """
    marks = await family.marks(treadle, run)
    await treadle.runs.answer(
        pending.run_id or run.id,
        pending.path,
        decision=given.decision,
        choice=given.choice,
        value=given.value,
        comment=given.comment,
        by=given.by or who(),
    )
    after = await treadle.runs.get(run.id)
    return family.follow(treadle, run, after=marks) if went_on(run, after) else None


async def ask_all(
    treadle: Treadle, run: Run, *, signals: Signals, labels: int
) -> AsyncGenerator[Event] | None:
    """Ask the open questions in turn, until the run goes on; None where all that are left are for later.

    Errors: KeyboardInterrupt, Terminated; StateError when a question is not open any more.
    """
    for pending in run.required_answers:
        show([pending], labels=labels)
        while (given := ask_one(pending, signals=signals)) is not None:
            try:
                events = await carry_out(treadle, run, pending, given)
            except StateError as e:
                now = await treadle.runs.get(run.id)
                if all((p.path, p.run_id) != (pending.path, pending.run_id) for p in now.required_answers):
                    raise
                complain(f"    {e.message}" + (f"; {e.hint}" if e.hint else ""), "red")
                continue
            if events is not None:
                return events
            break
    return None


def ask_one(pending: PendingCall, *, signals: Signals) -> Given | None:
    """Ask a question; None where it is left for later.

    Errors: KeyboardInterrupt, Terminated.
    """
    asks = pending.asks
    assert asks is not None
    match asks.kind:
        case "approval":
            return _consent(asks, signals)
        case "choice":
            return _choice(asks, signals)
        case "edit":
            return _edit(asks, signals)
        case _:
            return _input(asks, signals)


def _consent(asks: Question, signals: Signals) -> Given | None:
    edit = " / [e]dit" if asks.value is not None else ""
    while True:
        said = ask(f"    approve? [y]es{edit} / [n]o, + comment / {LATER}:  ", signals=signals)
        word, _, rest = (said or "later").strip().partition(" ")
        comment = rest.strip() or None
        match word.lower():
            case "y" | "yes":
                return Given(decision="approve", comment=comment)
            case "e" | "edit" if edit:
                given = _edit(asks, signals)
                if given is not None:
                    return Given(decision="approve", value=given.value, comment=comment)
            case "n" | "no":
                comment = comment or ask("    comment (empty: none): ", signals=signals)
                return None if comment is None else Given(decision="reject", comment=comment or None)
            case "l" | "later" | "":
                return None
            case _:
                complain("    answer y, n or l" if not edit else "    answer y, e, n or l")


def _choice(asks: Question, signals: Signals) -> Given | None:
    while True:
        said = (ask("    choice, by number or text (empty: later):  ", signals=signals) or "").strip()
        if not said:
            return None
        if said in asks.choices:
            return Given(choice=said)
        if said.isdecimal() and 1 <= int(said) <= len(asks.choices):
            return Given(choice=asks.choices[int(said) - 1])
        complain(f"    answer with 1 to {len(asks.choices)}, or one of the choices as it is written")


def _edit(asks: Question, signals: Signals) -> Given | None:
    """Ask for a changed value, beginning with the one there is."""
    is_text = isinstance(asks.value, str) and "\n" not in asks.value
    begin = asks.value if is_text else json.dumps(asks.value, ensure_ascii=False)
    kind = "" if is_text else " as JSON"
    while True:
        said = ask(
            f"    value{kind}, or @FILE (empty: later):  ", signals=signals, begin_with=lines.visible(begin)
        )
        if not said:
            return None
        try:
            return Given(value=value_of(asks, said))
        except click.BadParameter as e:
            complain(f"    {e.message}")
            begin = said


def _input(asks: Question, signals: Signals) -> Given | None:
    form = asks.form or {}
    fields = form.get("properties")
    if form.get("type") == "object" and isinstance(fields, dict) and fields:
        return _form(form, cast("Mapping[str, Any]", fields), signals)
    kind = "" if _takes_text(form) else " as JSON"
    while True:
        said = ask(f"    value{kind}, or @FILE (empty: later):  ", signals=signals)
        if not said:
            return None
        try:
            return Given(value=value_of(asks, said))
        except click.BadParameter as e:
            complain(f"    {e.message}")


def _form(form: Mapping[str, Any], fields: Mapping[str, Any], signals: Signals) -> Given | None:
    """Ask for the fields of a form, one after the other; None where a field that must be is left empty."""
    required = cast("Sequence[str]", form.get("required", ()))
    values: dict[str, Any] = {}
    for name, schema in fields.items():
        told: Mapping[str, Any] = cast("Mapping[str, Any]", schema) if isinstance(schema, dict) else {}
        found = _field(name, told, signals, must=name in required)
        if found is _LEFT:
            return None
        if found is not _OMITTED:
            values[name] = found
    return Given(value=values)


_LEFT, _OMITTED = object(), object()


def _field(name: str, schema: Mapping[str, Any], signals: Signals, *, must: bool) -> Any:
    told = [_told(schema)] if _told(schema) else []
    told.append("empty: later" if must else "may be empty")
    title = schema.get("description") or schema.get("title")
    if isinstance(title, str):
        complain(f"      {lines.one_line(title)}", "dim")
    while True:
        said = ask(f"    {lines.one_line(name)} ({', '.join(told)}):  ", signals=signals)
        if said is None:
            return _LEFT
        if not said:
            return _LEFT if must else _OMITTED
        try:
            return _read(schema, said)
        except click.BadParameter as e:
            complain(f"    {e.message}")


def _told(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return lines.one_line("|".join(str(v) for v in cast("list[Any]", schema["enum"])))
    kind = schema.get("type", "")
    return lines.one_line(kind if isinstance(kind, str) else "|".join(cast("list[str]", kind)))


def value_of(asks: Question | None, text: str) -> Any:
    """Read a value as a person writes it: text where the form takes text, else JSON; ``@file`` is the file's content.

    Errors: BadParameter for what is no JSON, and for a file that cannot be read.
    """
    form = asks.form if asks is not None else None
    if form is None and asks is not None and isinstance(asks.value, str):
        form = {"type": "string"}
    return _read(form or {}, read_value(text))


def _read(schema: Mapping[str, Any], text: str) -> Any:
    if _takes_text(schema):
        if text.startswith('"') and text.endswith('"'):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        if not schema or "enum" in schema:
            return text
        raise click.BadParameter(f"that is not JSON: {e}") from e


def _takes_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string"
