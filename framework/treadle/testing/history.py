"""What a course of events must look like: pure checks over what clients, tools and an observer saw.

Each function gives what is wrong, in words; an empty list says that the promises hold. They know no store and no
clock, so that a history made by hand can be held against them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from treadle.lifecycle import ACTIVE, RUN, is_terminal

Outcome = Literal["ok", "refused", "unknown"]
"""What a client knows of its request: it was done, it was not, or nobody said."""


MOST_MOVES = 2
"""A commit moves a run once, and may claim it."""


class Append(NamedTuple):
    """A request to append a text, which no other request has, to a thread.

    Shapes: `thread` is empty where the request would have made it, and nobody said which it is.
    Units: `began` and `ended` are seconds of one clock; `ended` is infinite where no answer came.
    """

    thread: str
    text: str
    outcome: Outcome
    began: float
    ended: float


class RunView(NamedTuple):
    """A run, as it was seen at one moment."""

    id: str
    thread: int
    status: str
    rev: int
    fence: int
    walker: str | None
    in_line: bool = False


class StepView(NamedTuple):
    """A step, as it was seen at one moment."""

    run: str
    n: int
    path: str
    attempt: int
    kind: str
    status: str
    fence: int
    edge: str | None = None


class Dispatch(NamedTuple):
    """A call that reached its tool: what the receiver saw.

    Shapes: `token` is of the arguments, and no other call of any model reply has it; `key` is the idempotency key.
    `again` says that a person had it made again.
    """

    tool: str
    effect: str
    token: str
    key: str
    again: bool = False


def check_appends(appends: Sequence[Append], threads: Mapping[str, Sequence[str]]) -> list[str]:
    """Hold what clients appended against the texts of the threads, in order."""
    return [*_check_presence(appends, threads), *_check_order(appends, threads)]


def _check_presence(appends: Sequence[Append], threads: Mapping[str, Sequence[str]]) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for thread, texts in threads.items():
        for text in texts:
            places.setdefault(text, []).append(thread)
    for a in appends:
        found = places.pop(a.text, [])
        if a.outcome == "ok" and found != [a.thread]:
            yield f"'{a.text}' was accepted for {a.thread} and stands in {found}"
        if a.outcome == "refused" and found:
            yield f"'{a.text}' was refused and stands in {found}"
        if a.outcome == "unknown" and found not in ([], [a.thread] if a.thread else found[:1]):
            yield f"'{a.text}' was asked for once, for {a.thread}, and stands in {found}"
    for text, found in places.items():
        yield f"'{text}' stands in {found}, and nobody appended it"


def _check_order(appends: Sequence[Append], threads: Mapping[str, Sequence[str]]) -> Iterator[str]:
    asked = {a.text: a for a in appends}
    for thread, texts in threads.items():
        latest: Append | None = None
        for text in texts:
            a = asked.get(text)
            if a is None:
                continue
            if latest is not None and a.ended < latest.began:
                yield f"'{a.text}' was there before '{latest.text}' was asked for, and stands after it in {thread}"
            if latest is None or a.began > latest.began:
                latest = a


def check_move(before: RunView | None, after: RunView) -> list[str]:
    """Hold two views of a run against the table of moves: `after` was seen at the next commit."""
    return [f"run {after.id}: {what}" for what in _moved_wrongly(before, after)]


def _moved_wrongly(before: RunView | None, after: RunView) -> Iterator[str]:
    if before is None:
        if not _is_reachable("queued", after.status, after.rev):
            yield f"first seen as {after.status} with revision {after.rev}"
        return
    if before == after:
        return
    if is_terminal(before.status):
        yield f"changed after it had ended {before.status}: {before} to {after}"
    if after.rev < before.rev:
        yield f"its revision went back from {before.rev} to {after.rev}"
    if after.fence < before.fence:
        yield f"its fence went back from {before.fence} to {after.fence}"
    if after.walker is not None and after.walker != before.walker and after.fence <= before.fence:
        yield f"changed hands from {before.walker} to {after.walker} without a new fence ({after.fence})"
    if after.rev - before.rev > MOST_MOVES:
        yield f"moved {after.rev - before.rev} times in one commit"
    if after.thread != before.thread:
        yield "changed its thread"
    if after.in_line and not before.in_line:
        yield "went back into the line"
    if after.status != before.status and not _is_reachable(
        before.status, after.status, after.rev - before.rev
    ):
        yield f"went from {before.status} to {after.status} in {after.rev - before.rev} moves"


def _is_reachable(before: str, after: str, moves: int) -> bool:
    """Tell whether that many moves lead there; a walker that takes a run over moves it to the status it has."""
    reached = {before}
    for _ in range(moves):
        reached = {to for status in reached for to in RUN[status]} | (reached & {"in_progress", "cancelling"})
    return after in reached


def check_threads(runs: Iterable[RunView]) -> list[str]:
    """Check that no thread has two runs at once that are not in line."""
    active = Counter(r.thread for r in runs if r.status in ACTIVE and not r.in_line)
    return [f"thread number {thread} has {n} active runs" for thread, n in active.items() if n > 1]


def check_steps(
    before: Mapping[tuple[str, int], StepView], after: Iterable[StepView], run: RunView
) -> list[str]:
    """Hold a run's journal against the one seen before: what has ended stays, what is new has the run's fence."""
    found: list[str] = []
    seen = 0
    for step in after:
        old = before.get((step.run, step.n))
        seen += old is not None
        if old is not None and old.status != "in_progress" and old != step:
            found.append(f"run {run.id}: step {old.path} had ended and changed: {old} to {step}")
        if old is not None and (old.path, old.attempt) != (step.path, step.attempt):
            found.append(f"run {run.id}: place {step.n} of the journal was {old.path} and is {step.path}")
        # A step keeps the fence under which it began; a move may be claimed in its own commit.
        fences = (run.fence, run.fence - 1) if old is None else (run.fence, run.fence - 1, old.fence)
        if old != step and step.fence not in fences:
            found.append(f"run {run.id}: step {step.path} has fence {step.fence}, the run {run.fence}")
    if seen < len(before):
        found.append(f"run {run.id}: {len(before) - seen} steps are gone from the journal")
    return found


def check_wait(run: RunView, steps: Iterable[StepView]) -> list[str]:
    """Check that a run which waits for its client waits for what a client can give, and no other one does."""
    waits = [step for step in steps if step.status == "in_progress" and step.edge != "dispatched"]
    if run.status == "requires_action" and not waits:
        return [f"run {run.id} waits for its client, and nothing of it is the client's"]
    if run.status == "requires_action":
        under_way = [s.path for s in steps if s.status == "in_progress" and s.edge == "dispatched"]
        return [f"run {run.id} waits for its client while {path} is under way" for path in under_way]
    return []


def check_dispatches(dispatches: Sequence[Dispatch]) -> list[str]:
    """Check that a `once` call reached its receiver at most once, and that the attempts of one share their key."""
    found: list[str] = []
    for name in ("token", "key"):
        counted = Counter(getattr(d, name) for d in dispatches if d.effect == "once" and not d.again)
        found += [
            f"the once call with {name} {what} was dispatched {n} times"
            for what, n in counted.items()
            if n > 1
        ]
    keys: dict[str, str] = {}
    for d in dispatches:
        if keys.setdefault(d.token, d.key) != d.key:
            found.append(f"call {d.token} was dispatched with the keys {keys[d.token]} and {d.key}")
    return found


def check_deadline(
    run_id: str,
    status: str,
    *,
    asked_s: float,
    accepted_s: float,
    ttl_s: float,
    ended_s: float,
    late_s: float | None,
) -> list[str]:
    """Check that a run expired no earlier than its deadline, and ended no later than `late_s` seconds after it.

    Units: seconds of one clock; the deadline counts from somewhere between `asked_s` and `accepted_s`.
    """
    if status == "expired" and ended_s < asked_s + ttl_s - 0.01:
        return [f"run {run_id} expired {asked_s + ttl_s - ended_s:.3f} s before its time"]
    if late_s is not None and ended_s > accepted_s + ttl_s + late_s:
        return [f"run {run_id} ended {status} {ended_s - accepted_s - ttl_s:.3f} s after its time"]
    return []


def check_numbers(what: str, numbers: Sequence[int], *, after: int = 0) -> list[str]:
    """Check that the events that a reader got count on from a number without gap or repeat."""
    return [
        f"{what}: event {new} came after event {old}"
        for old, new in pairwise([after, *numbers])
        if new != old + 1
    ]
