"""Say what is wrong with what a scenario has left behind: the promises, as functions of the outcome.

Each function gives a sentence for each thing that it finds; none is what is wished for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from treadle.engine.kept_results import NOTE
from treadle.engine.scheduler import fold_all
from treadle.graph.nodes import StepGraph
from treadle.ids import is_workflow_id
from treadle.lifecycle import is_terminal
from treadle.objects.message import Message
from treadle.objects.run_step import Step
from treadle.store.base import Store
from treadle.store.check import check
from treadle.testing.crash_points import fingerprint, step_print
from treadle.testing.crash_scenario import Conversation, Lived, Outcome
from treadle.testing.receiver import Note
from treadle.testing.walk import walk_wrongs

ENDS = frozenset(f"thread.run.{end}" for end in ("cancelled", "completed", "incomplete", "failed", "expired"))
UNKNOWN = "outcome unknown"
SETTLED = (UNKNOWN, "not executed")
"""What the result of a call says that may never have been made."""

Reading = list[dict[str, list[Any]]]
"""Threads as they read, without ids and times: `rows`, and `runs` with status, tokens and journal; JSON."""


_NONE: Sequence[Any] = ()


def reading(outcome: Outcome) -> Reading:
    """Give what can be read in the threads, in an order that does not depend on which parallel call was quicker."""
    own = [c for c in outcome.threads if not _is_childrens(c)]
    others = sorted(map(_read, (c for c in outcome.threads if _is_childrens(c))), key=json.dumps)
    return [*map(_read, own), *others]


def _is_childrens(conversation: Conversation) -> bool:
    """Tell whether a thread was made for child runs: which was made first may depend on which branch was quicker."""
    return bool(conversation.runs) and all(lived.run.parent_id is not None for lived in conversation.runs)


def _read(conversation: Conversation) -> dict[str, list[Any]]:
    runs = [_course(lived) for lived in conversation.runs]
    roots = sum(lived.run.parent_id is None for lived in conversation.runs)
    return {
        "rows": _rows(conversation.rows),
        "runs": runs if roots == len(runs) else sorted(runs, key=json.dumps),
    }


def _rows(rows: Sequence[Message]) -> list[Any]:
    def place(row: Message) -> tuple[int, int]:
        return (row.reply_seq, 1 + (row.call_index or 0)) if row.reply_seq else (row.seq, 0)

    return [
        [row.role, row.status, row.text, [[c.name, c.arguments] for c in row.tool_calls], row.call_index]
        for row in sorted(rows, key=place)
    ]


def _course(lived: Lived) -> list[Any]:
    usage = lived.run.usage
    tokens = [usage.prompt_tokens, usage.completion_tokens] if usage else []
    if not is_workflow_id(lived.run.agent_id):
        steps = sorted([s.path, s.kind, s.status] for s in lived.steps if s.edge != "retry")
        return [lived.run.status, steps, tokens]
    rows = [
        [s.path, s.kind, s.status, s.edge, s.fan, _result(s), lasting(s.writes)]
        for s in lived.steps
        if s.edge != "retry"
    ]
    return [lived.run.status, [lasting(lived.run.output), *sorted(rows, key=json.dumps)], tokens]


def _result(step: Step) -> Any:
    """Give the result of a step as it is in every run: a function's time and its chance are others each time."""
    return None if step.kind == "function" and step.tool in ("now", "random") else lasting(step.result)


_IDS = re.compile(r"\b(run|msg|thread|call|step|wf)_[0-9A-Za-z]{16,}")
_TIMES = ("at", "usage")
"""What a result says that is another one in each run: times, and tokens that depend on ids."""


def lasting(value: Any) -> Any:
    """Give a value without what is another one each time: ids and times."""
    if isinstance(value, str):
        return _IDS.sub(r"\1_", value)
    if isinstance(value, list):
        return [lasting(v) for v in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in cast("dict[str, Any]", value).items() if k not in _TIMES}
    return value


def wrongs(outcome: Outcome, reference: Reading | None) -> Iterator[str]:
    """Give everything that is wrong with an outcome, whatever the scenario."""
    for conversation in outcome.threads:
        for lived in conversation.runs:
            yield from _run(lived, outcome.notes)
            yield from _steps(lived, outcome.notes)
            yield from _effects(lived, conversation.rows, outcome.notes)
        yield from _models(conversation, outcome.notes)
        yield from _kept(conversation, outcome.notes)
    yield from _strays(outcome)
    if reference is not None:
        yield from _differences(outcome, reference)


def left_wrongs(path: Path) -> list[str]:
    """Give what is wrong with what a process left when it was killed, before anybody has looked after it."""
    return [f"what was left: {p.message} ({p.node})" for p in check(path)]


async def journal_wrongs(outcome: Outcome, store: Store) -> list[str]:
    """Give the journals that no walk of their step graphs could have written, and what the store's own check finds."""
    found: list[str] = []
    for lived in (lived for c in outcome.threads for lived in c.runs):
        graph = StepGraph.load(await store.graph(lived.run.tenant, lived.run.graph))
        try:
            state = fold_all(graph, list(lived.steps))
        except Exception as e:  # noqa: BLE001 - whatever the fold says is what is wrong
            found.append(f"the journal of {lived.run.id} does not fold: {type(e).__name__}: {e}")
            continue
        if lived.run.status == "completed" and not state.is_finished:
            found.append(f"{lived.run.id} is completed, and its journal is not at the end")
        if graph.is_workflow:
            found += [f"{lived.run.id}: {w}" for w in walk_wrongs(graph, lived.steps, lived.run.status)]
    return found


def store_wrongs(outcome: Outcome) -> list[str]:
    """Give what the store's own check finds."""
    return [f"the store: {p.message} ({p.node})" for p in check(outcome.place.folder / "treadle.db")]


def _run(lived: Lived, notes: Sequence[Note]) -> Iterator[str]:
    run = lived.run
    stored = [n for n in notes if n["what"] == "stored" and n.get("run") == run.id]
    if not is_terminal(run.status):
        yield f"{run.id} has not ended: it is {run.status}, walked by {run.walker}"
    seqs = [event.seq for event in lived.events]
    if seqs != list(range(1, len(seqs) + 1)):
        yield f"the events of {run.id} have the numbers {seqs}"
    ends = [event.name for event in lived.events if event.name in ENDS]
    if is_terminal(run.status) and (ends != [f"thread.run.{run.status}"] or lived.events[-1].name != ends[0]):
        yield f"{run.id} is {run.status}, and its events end with {[e.name for e in lived.events][-3:]}"
    for status in (note["status"] for note in stored):
        if status is not None and is_terminal(status) and status != run.status:
            yield f"{run.id} had ended {status}, and is {run.status} now"
        if status == "cancelling" and run.status != "cancelled":
            yield f"a cancel of {run.id} was accepted, and it is {run.status}"
    named = {event.seq: event.name for event in lived.events}
    for seq, name in (event for note in stored for event in note["events"]):
        if named.get(seq) != name:
            yield f"event {seq} of {run.id} was {name}, and is {named.get(seq)} now"


def _steps(lived: Lived, notes: Sequence[Note]) -> Iterator[str]:
    """Find steps that ended in the journal and read otherwise now: nothing that has ended is done again."""
    rows = {(step.path, step.attempt): step for step in lived.steps}
    for note in notes:
        if note["what"] != "stored" or note.get("run") != lived.run.id:
            continue
        for path, attempt, print_ in note["steps"]:
            row = rows.get((path, attempt))
            if row is None or step_print(row) != print_:
                yield f"{path} of {lived.run.id} had ended in attempt {attempt}, and is {row and _told(row)} now"


def _told(step: Step) -> str:
    return f"{step.status} as step {step.n} by '{step.edge}' with {_short([step.result])}"


def _effects(lived: Lived, rows: Sequence[Message], notes: Sequence[Note]) -> Iterator[str]:
    """Hold what the receiver counted against what the effect classes of the tools promise."""
    run = lived.run
    texts = {row.seq: row.text or "" for row in rows}
    calls = [n for n in notes if n["what"] == "tool" and n["run"] == run.id]
    counted = Counter(str(n["key"]) for n in calls)
    begun = {path for n in notes if n["what"] == "begins" and n["run"] == run.id for path in n["paths"]}
    is_workflow = is_workflow_id(run.agent_id)
    for step in (s for s in lived.steps if s.kind in ("tool_call", "function") and s.edge != "retry"):
        count = counted.pop(step.key or f"tdl:{run.id}:{step.path}", 0)
        tool = lived.called_by(step)
        if tool is None and (is_workflow or step.kind != "tool_call"):
            continue
        is_ours = tool is not None and not tool.is_client_side
        effect = tool.effect if tool is not None and is_ours else None
        said = texts.get(step.message_seq or 0, "")
        is_unknown = UNKNOWN in said or (
            step.last_error is not None and step.last_error.code == "outcome_unknown"
        )
        where = f"{step.tool or step.node} at {step.path} of {run.id}"
        if effect == "once" and count > 1:
            yield f"{where} is `once` and was called {count} times"
        is_made = step.last_error is None and step.status == "completed" and step.note != NOTE
        if is_ours and count == 0 and is_made:
            yield f"{where} has a result and was never called: {said[:60]!r}"
        if count == 0 and is_unknown and step.path not in begun:
            yield f"{where} is given up as unknown, and it was never about to be called"
        if effect in ("pure", "idempotent") and is_unknown:
            yield f"{where} is `{effect}` and was given up as unknown instead of being repeated"
    # What a branch did that nothing waited for any more has no step; what must happen once has one before it does.
    may_stray = {str(n["key"]) for n in calls if is_workflow and n["effect"] != "once"}
    for key in counted:
        if key not in may_stray:
            yield f"the receiver was called with {key}, which the journal of {run.id} does not have"
    yield from _repeats(run.id, notes)


def _repeats(run_id: str, notes: Sequence[Note]) -> Iterator[str]:
    """Find calls that were made when their result was stored already, or too often in one process."""
    done: set[str] = set()
    made: Counter[tuple[int, str]] = Counter()
    for note in notes:
        if note["what"] == "stored" and note.get("run") == run_id:
            done.update(note["done"])
        if note["what"] == "tool" and note["run"] == run_id:
            key = str(note["key"])
            made[note["life"], key] += 1
            if key.removeprefix(f"tdl:{run_id}:") in done:
                yield f"{note['name']} was called again when its result was stored: {key}"
            if made[note["life"], key] > note["attempts"]:
                yield f"{note['name']} was called {made[note['life'], key]} times in one process: {key}"


def _models(conversation: Conversation, notes: Sequence[Note]) -> Iterator[str]:
    """Find model calls whose reply was stored before they were made: they would be paid for twice."""
    answered: set[int] = set()
    for note in notes:
        if note["what"] == "stored":
            answered |= {
                seq
                for thread, seq, role, _ in note["rows"]
                if role == "assistant" and thread == conversation.thread.id
            }
        if (
            note["what"] == "model"
            and note["thread"] == conversation.thread.id
            and note["seq"] + 1 in answered
        ):
            yield f"the model was asked again what follows row {note['seq']}, which was stored already"


def _kept(conversation: Conversation, notes: Sequence[Note]) -> Iterator[str]:
    """Find rows that the store accepted and that are not there now, or read otherwise."""
    rows = {row.seq: row for row in conversation.rows}
    if sorted(rows) != list(range(1, len(rows) + 1)):
        yield f"the rows of {conversation.thread.id} have the numbers {sorted(rows)}"
    for note in notes:
        if note["what"] != "stored":
            continue
        for thread, seq, role, text in note["rows"]:
            row = rows.get(seq)
            if thread == conversation.thread.id and (
                row is None or row.role != role or fingerprint(row.text) != text
            ):
                yield f"row {seq} of {thread} was accepted as {role}'s, and is {row and (row.role, row.text)} now"


def _strays(outcome: Outcome) -> Iterator[str]:
    """Find calls of runs that no thread has."""
    known = {lived.run.id for c in outcome.threads for lived in c.runs}
    for note in outcome.notes:
        if note["what"] == "tool" and note["run"] not in known:
            yield f"{note['name']} was called for {note['run']}, which is not there"


def _differences(outcome: Outcome, reference: Reading) -> Iterator[str]:
    """Find where the threads read otherwise than without a crash; the result of a `once` call may be unknown."""
    found = reading(outcome)
    if len(found) != len(reference):
        yield f"there are {len(found)} threads, without a crash {len(reference)}"
        return
    once = {
        tool.name
        for conversation in outcome.threads
        for lived in conversation.runs
        for tool in (*lived.tools.values(), *lived.nodes.values())
        if tool.effect == "once" and not tool.is_client_side
    }
    for thread, expected in zip(found, reference, strict=True):
        rows, others = thread["rows"], expected["rows"]
        is_excused = False
        for at, (row, other) in enumerate(zip(rows, others, strict=False)):
            if row == other:
                continue
            if _is_excused(row, other, rows[:at], once):
                is_excused = True
            else:
                yield f"row {at + 1} reads {_short(row)}, without a crash {_short(other)}"
        if len(rows) != len(others):
            yield f"the thread has {len(rows)} rows, without a crash {len(others)}"
        # What a model reads costs what it reads: another result, another count.
        parts = 2 if is_excused else 3
        for run, other in zip_longest(thread["runs"], expected["runs"], fillvalue=_NONE):
            if run[:parts] != other[:parts]:
                yield f"a run went like {_short(run)}, without a crash {_short(other)}"


def _is_excused(
    row: Sequence[Any], other: Sequence[Any], before: Sequence[Sequence[Any]], once: set[str]
) -> bool:
    """Tell whether a row differs only because nobody knows whether its call was made."""
    if row[0] != "tool" or [*row[:2], *row[3:]] != [*other[:2], *other[3:]] or UNKNOWN not in str(row[2]):
        return False
    asked = next(r for r in reversed(before) if r[0] == "assistant")
    return asked[3][row[4]][0] in once


def _short(row: Sequence[Any]) -> str:
    text = repr(list(row))
    return text if len(text) <= 300 else f"{text[:297]}…"


def summary(notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give what happened, a line for each thing, for a person who looks into a violation."""
    lines: list[str] = []
    for note in notes:
        said = ", ".join(f"{k}={v}" for k, v in note.items() if k not in ("what", "life"))
        lines.append(f"  {note['life']}  {note['what']:<7} {said}")
    return lines
