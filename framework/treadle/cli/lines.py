"""The lines that people read: steps, ends of runs, tables. Pure functions from objects to text.

What models, tools and users wrote is made harmless for a terminal here, and cut to the room there is.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from treadle.objects.agent import AgentSpec
    from treadle.objects.message import ToolCall
    from treadle.objects.run import PendingCall, Run, Usage
    from treadle.objects.run_step import Step

WAITING, DONE, FAILED = "◆", "●", "✗"
LABELS = 15
"""The narrowest column of step names: longer tool names widen it."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MIN_NOTE = 16


def visible(text: str) -> str:
    """Give the text with what a terminal would act on replaced; line ends and tabs stay."""
    return _CONTROL.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Give the text on one line, harmless."""
    return visible(" ".join(text.split()))


def cut(text: str, room: int) -> str:
    """Give the text, its end replaced by an ellipsis where there is no room for it."""
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"


def duration(ms: int | None) -> str:
    """Give a length of time for a reader; nothing where it is not known.

    Units: `ms` milliseconds.
    """
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms} ms"
    minutes, rest = divmod(ms / 1000, 60)
    return f"{int(minutes)} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def label_width(spec: AgentSpec | None = None) -> int:
    """Give the width of the column of step names for an agent."""
    names = spec.functions if spec is not None else ()
    return max([LABELS, *map(len, names)]) + 1


def step_line(mark: str, label: str, *, ms: int | None, note: str, labels: int, columns: int) -> str:
    """Give the line of a step: its mark, its name, its time, and what it did as far as there is room."""
    name = label if len(label) < labels else f"{label} "
    head = f"  {mark} {name:<{labels}}{duration(ms):>6}"
    room = max(_MIN_NOTE, columns - len(head) - 3)
    return f"{head}   {cut(note, room)}".rstrip()


def label_of(step: Step) -> str:
    """Give the name of a step for a reader."""
    return one_line(step.tool or step.node.replace("_", " "))


def note_of(step: Step, calls: Sequence[ToolCall], output: str | None, *, room: int) -> str:
    """Give what a step did: the tools that a model asked for, or a call with its result."""
    if step.kind == "tool_call" and calls:
        return call_text(calls[0], output, room=room)
    parts: list[str] = []
    if step.attempt > 1:
        parts.append(f"attempt {step.attempt}")
    if step.last_error is not None:
        parts.append(one_line(f"{step.last_error.code}: {step.last_error.message}"))
    elif step.note:
        parts.append(one_line(step.note))
    if calls:
        counted = {name: sum(c.name == name for c in calls) for name in dict.fromkeys(c.name for c in calls)}
        shown = ", ".join(name if n == 1 else f"{name} ×{n}" for name, n in counted.items())
        parts.append(f"→ {one_line(shown)}")
    return " · ".join(parts)


def decision_text(step: Step) -> str:
    """Say what a person decided on a call; nothing where nobody was asked."""
    decision = step.decision
    if decision is None:
        return ""
    verb = "approved" if decision.verdict == "approve" else "rejected"
    changed = " with other arguments" if decision.arguments is not None else ""
    by = f" by {one_line(decision.by)}" if decision.by else ""
    return f"{verb}{changed}{by}"


def mark_of(step: Step) -> str:
    """Give the mark of a step; a tool whose error went back to the model counts as failed."""
    return FAILED if step.last_error is not None or step.status == "failed" else DONE


def call_text(call: ToolCall, output: str | None, *, room: int) -> str:
    """Give a call as ``city="Paris" → {"sky": "rain"}``, both sides cut to the room there is."""
    given = arguments_text(call.arguments)
    if output is None:
        return cut(given, room)
    result = one_line(output)
    rest = room - 3
    if len(given) + len(result) > rest:
        given = cut(given, max(rest // 2, rest - len(result)))
        result = cut(result, rest - len(given))
    return f"{given} → {result}" if given else f"→ {result}"


def arguments_text(arguments: str) -> str:
    """Give a call's arguments as ``name=value`` pairs, or as they are where they are no object."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return one_line(arguments)
    if not isinstance(found, dict):
        return one_line(arguments)
    pairs = cast("dict[str, object]", found)
    return one_line(
        ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in pairs.items())
    )


def waiting_line(call: ToolCall, *, labels: int, columns: int) -> str:
    """Give the line of a call that its client must answer."""
    head = f"  {WAITING} {one_line(call.name):<{labels}} is yours to run with "
    return head + cut(one_line(call.arguments), max(_MIN_NOTE, columns - len(head)))


def approval_lines(pending: PendingCall, *, labels: int) -> list[str]:
    """Give the lines of a call that waits for a person: nothing of its arguments is cut or left out."""
    call = pending.call
    assert call is not None
    what = "wants to run" if pending.action == "approval" else "was interrupted and may have run"
    found = [f"  {WAITING} {one_line(call.name):<{labels}} {what} with {exactly(call.arguments)}"]
    if pending.question and pending.question != f"{call.name} wants to run":
        found.append(f"    {one_line(pending.question)}")
    if pending.until_ms is not None:
        outcome = "approved" if pending.default == "approve" else "rejected"
        found.append(f"    counts as {outcome} when nobody answers until {when(pending.until_ms)}")
    return found


def exactly(arguments: str) -> str:
    """Give a call's arguments on one line, every character of their values as it is, or a mark where it would act."""
    try:
        found = json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        found = arguments
    return visible(found).replace("\n", "\ufffd").replace("\t", "\ufffd")


def ended_line(run: Run, steps: int) -> str:
    """Give the closing line of a run: how it ended, in what time, with how many steps and tokens."""
    status = run.status if run.incomplete_reason is None else f"{run.status} ({run.incomplete_reason})"
    word = "in" if run.status == "completed" else "after"
    parts = [f"{status} {word} {duration(run.walked_ms)}", plural(steps, "step")]
    if run.usage is not None:
        parts.append(usage_text(run.usage))
    return " · ".join(parts)


def usage_text(usage: Usage) -> str:
    """Give the tokens of a run."""
    mark = " (estimated)" if usage.estimated else ""
    return f"{usage.prompt_tokens} in / {usage.completion_tokens} out tokens{mark}"


def plural(number: int, noun: str) -> str:
    """Give a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def when(ms: int | None) -> str:
    """Give a time of day where we are.

    Units: `ms` Unix milliseconds.
    """
    if ms is None:
        return "-"
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, columns: int) -> list[str]:
    """Give the lines of a table; the last column is cut to the room there is.

    Units: `columns` of the terminal.
    """
    body = [list(head), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in body) for i in range(len(head) - 1)]
    lines: list[str] = []
    for row in body:
        left = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        lines.append((left + cut(row[-1], max(_MIN_NOTE, columns - len(left)))).rstrip())
    return lines


def screen_rows(text: str, columns: int) -> int | None:
    """Give how many rows of a terminal a text takes, or None where that cannot be told for sure.

    Units: `columns` of the terminal.
    """
    if not columns:
        return None
    rows = 0
    for line in text.split("\n"):
        width = 0
        for character in line:
            cells = _cells(character)
            if cells is None:
                return None
            if cells == 2 and (width + 2) // columns > width // columns and (width + 1) % columns == 0:
                width += 1  # A wide character does not start in the last column.
            width += cells
        rows += max(1, -(-width // columns))
    return rows


def _cells(character: str) -> int | None:
    if " " <= character <= "~":
        return 1
    if unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Mn", "Me", "Mc", "So", "Sk"):
        return 1 if character == "°" else None
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
