"""The lines of runs of workflows: steps with their results and the ways they took, frames, and questions to people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from treadle.cli import lines

if TYPE_CHECKING:
    from treadle.graph.nodes import StepGraph
    from treadle.graph.places import Places
    from treadle.objects.run import PendingCall, Question
    from treadle.objects.run_step import Step

OPENED = "▾"
"""The mark of what is shown in lines of its own below."""
WIDEST = 36
"""The widest column of step names."""
_MIN_NOTE = 16


def label_width(graph: StepGraph, within: Mapping[str, int]) -> int:
    """Give the width of the column of step names for the graph of a workflow, the steps of its agents included.

    Shapes: `within` has what the names of the workflows that nodes run need, by the node's id.
    """
    return min(WIDEST, max(lines.LABELS, room_for(graph, within))) + 1


def room_for(graph: StepGraph, within: Mapping[str, int]) -> int:
    """Give the room that the names of a workflow's steps need; `within` is as for `label_width`."""
    bodies: dict[str, int] = {}
    for node in graph.nodes:
        bodies[node.within or ""] = bodies.get(node.within or "", 0) + 1
    has_branches = any(node.params.get("type") == "parallel" for node in graph.nodes)
    widest = 0
    for node in graph.nodes:
        depth, around = int(has_branches), node.within
        while around is not None:
            depth += 1 if bodies[around] == 1 else 2
            around = graph.node[around].within
        name = len(node.id.rpartition("/")[2])
        if bodies.get(node.within or "") == 1 and node.within is not None:
            name = len(node.within.rpartition("/")[2]) + len(" round 9")
        inner = within.get(node.id, len("append message")) + 2 if node.kind == "child_run" else 0
        widest = max(widest, 2 * depth + max(name, inner))
    return widest


def step_line(
    mark: str, label: str, *, ms: int | None, note: str, indent: int, labels: int, columns: int
) -> str:
    """Give the line of a step that stands within others.

    Shapes: `indent` counts what is around it.
    """
    room = max(1, labels - 2 * indent)
    name = label if len(label) < room else f"{label} "
    head = f"  {'  ' * indent}{mark} {name:<{room}}{lines.duration(ms):>6}"
    left = max(_MIN_NOTE, columns - len(head) - 3)
    return f"{head}   {lines.cut(note, left)}".rstrip()


def note_of(step: Step, places: Places, *, room: int) -> str:
    """Say what a step of a workflow did: its result or error, and where it went on where it had a choice."""
    parts: list[str] = []
    if step.attempt > 1:
        parts.append(f"attempt {step.attempt}")
    if step.kept:
        parts.append("kept")
    if step.last_error is not None:
        parts.append(lines.one_line(f"{step.last_error.code}: {step.last_error.message}"))
    elif (said := _said(step)) is not None:
        parts.append(said)
    if step.note:
        parts.append(lines.one_line(step.note))
    target = places.target(step)
    way = "" if target is None else f"then {target}"
    left = max(_MIN_NOTE, room - len(way) - 3) if way else room
    shown = lines.cut(" · ".join(parts), left)
    return " · ".join(p for p in (shown, way) if p)


def _said(step: Step) -> str | None:
    """Give the result of a step in a line."""
    if step.is_open:
        return None
    result = step.result
    match step.kind:
        case "frame":
            return _frame(result)
        case "pause":
            return answer_text(result)
        case "assign":
            return lines.one_line(", ".join(f"{k}={_json(v)}" for k, v in (step.writes or {}).items()))
        case "wait":
            return None
        case "append_message":
            text = cast("Mapping[str, Any]", result).get("text") if isinstance(result, dict) else None
            return f'"{lines.one_line(str(text))}"' if text else None
        case "child_run" if result == {}:
            return None  # It is of a workflow without outputs.
        case _:
            return None if result is None else f"→ {lines.one_line(_json(_shown(result)))}"


def _shown(result: Any) -> Any:
    """Give what counts of a result: of what a model answered, the answer."""
    if isinstance(result, dict):
        fields = cast("dict[str, Any]", result)
        if "text" in fields and "output" in fields:
            return fields["output"] if fields["output"] is not None else fields["text"]
    return cast("Any", result)


def _frame(result: Any) -> str | None:
    if not isinstance(result, dict):
        return None
    fields = cast("dict[str, Any]", result)
    if "iterations" in fields:
        ended = " (the most there may be)" if fields.get("exhausted") else ""
        return lines.plural(fields["iterations"], "round") + ended
    if "collected" in fields:
        failed = len(fields.get("errors") or ())
        more = f", {failed} failed" if failed else ""
        return lines.plural(len(fields["collected"]), "result") + more
    statuses = [str(v) for v in fields.values()]
    done = statuses.count("completed")
    return f"{done} of {lines.plural(len(statuses), 'branch').replace('branchs', 'branches')}"


def opened_text(step: Step, places: Places) -> str:
    """Say how many branches, items or rounds a frame begins, or may have."""
    params = places.graph.node[step.node].params
    match params.get("type"):
        case "loop":
            return f"at most {lines.plural(int(params.get('max_iterations', 0)), 'round')}"
        case "map":
            return lines.plural(step.fan, "item")
        case _:
            return lines.plural(step.fan, "branch").replace("branchs", "branches")


def child_text(step: Step, places: Places) -> str:
    """Name the agent or the workflow that a step runs; nothing for any other step."""
    if step.kind != "child_run":
        return ""
    node = places.graph.node.get(step.node)
    params: Mapping[str, Any] = node.params if node is not None else {}
    what = params.get("agent") or params.get("workflow") or ""
    return lines.one_line(f"{params.get('type', '')} {what}".strip())


def answer_text(result: Any) -> str | None:
    """Say in a line what a person answered."""
    if not isinstance(result, dict):
        return None
    fields = cast("dict[str, Any]", result)
    if fields.get("decision"):
        said = {"approve": "approved", "reject": "rejected"}.get(fields["decision"], str(fields["decision"]))
        if fields.get("value") is not None:
            said += " with changes"
    elif fields.get("choice") is not None:
        said = str(fields["choice"])
    else:
        said = f"→ {_json(fields.get('value'))}"
    if fields.get("by"):
        said += f" by {fields['by']}"
    if fields.get("comment"):
        said += f": {fields['comment']}"
    return lines.one_line(said)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def rest_text(until_ms: int) -> str:
    """Say until when a run rests."""
    from datetime import UTC, datetime

    then = datetime.fromtimestamp(until_ms / 1000, UTC).astimezone()
    is_today = then.date() == datetime.now(UTC).astimezone().date()
    return f"waits until {then:%H:%M:%S}" if is_today else f"waits until {then:%Y-%m-%d %H:%M:%S}"


# -- questions -------------------------------------------------------------------------------------------------


def question_lines(pending: PendingCall, *, labels: int) -> list[str]:
    """Give the lines of a question to a person: nothing of what is asked is left out."""
    asks = pending.asks
    name = lines.one_line(pending.path)
    if asks is None:
        return [f"  {lines.WAITING} {name}"]
    first, *rest = [lines.visible(line) for line in asks.ask.strip().splitlines() or [""]]
    found = [f"  {lines.WAITING} {name:<{labels}} {_WORDS[asks.kind]} {first}"]
    found += [f"    {line}".rstrip() for line in rest]
    if asks.kind == "choice":
        found += [f"      {n}  {lines.one_line(choice)}" for n, choice in enumerate(asks.choices, 1)]
    if asks.value is not None:
        found += _value_lines(asks)
    if asks.assignees:
        found.append(f"    for {lines.one_line(', '.join(asks.assignees))}")
    if asks.until_ms is not None:
        found.append(f"    not open any more after {lines.when(asks.until_ms)}")
    return found


_WORDS = {
    "approval": "asks for consent:",
    "choice": "asks for a choice:",
    "input": "asks:",
    "edit": "asks for changes:",
}


def _value_lines(asks: Question) -> list[str]:
    """Give the value that a person changes or consents to, every character of it, or a mark where it would act."""
    if isinstance(asks.value, str):
        return [f"      {lines.visible(line)}".rstrip() for line in asks.value.splitlines()]
    shown = json.dumps(asks.value, ensure_ascii=False, indent=2)
    return [f"      {lines.visible(line)}" for line in shown.splitlines()]


def answer_options(asks: Question | None) -> str:
    """Give the options of the command that answers a question."""
    match asks.kind if asks is not None else "input":
        case "approval":
            return "--approve|--reject"
        case "choice":
            assert asks is not None
            return f"--choice {'|'.join(_quoted(c) for c in asks.choices)}"
        case _:
            return "--value JSON"


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(lines.one_line(text))


def named(waiting: Sequence[PendingCall], pending: PendingCall) -> str | None:
    """Give the shortest name by which a question is found among those that wait; None where it is asked at its child run."""
    node = pending.path.rpartition("#")[0]
    short = node.rpartition("/")[2]
    same_path = [p for p in waiting if p.path == pending.path]
    if len(same_path) > 1:
        return None
    is_plain = "[" not in short and short.isidentifier()
    same = [p for p in waiting if p.path.rpartition("#")[0].rpartition("/")[2] == short]
    return short if is_plain and len(same) == 1 else pending.path
