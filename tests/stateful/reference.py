"""What threads, runs and calls must be: a small model of plain lists and dicts, without I/O.

It is told what was asked of treadle and what a model or a tool answered, and says what must be stored after it. What
treadle does by itself (a sweep, a claim, a deadline) it does not foresee: it is shown what was seen and says whether
a legal move leads there, and makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Text = str | tuple[str, ...]
"""What a row says: exactly that, or one of these somewhere in it."""

Asked = tuple[str, str, Mapping[str, Any]]
"""What was asked for under a key: a noun, the thread, and the rest."""

ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")
MOST_DEATHS = 3


class Tool(NamedTuple):
    """A tool as the model of treadle knows it; `is_wrong` is one that fails before anything runs."""

    name: str
    effect: Literal["pure", "idempotent", "once"] = "once"
    asks: bool = False
    is_client: bool = False
    is_wrong: bool = False
    on_unknown: Literal["tell", "ask", "fail"] = "tell"
    waits_ms: int | None = None


class Seen(NamedTuple):
    """A run as it was seen in the store; `asked` counts the calls that wait for a person."""

    status: str
    in_line: bool
    walker: str | None
    fence: int
    asked: int = 0


@dataclass
class Row:
    """A row of a thread; rows of one `group` were written together, in no promised order."""

    role: str
    text: Text | None
    reply: int | None = None
    call: int | None = None
    group: int = 0
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Call:
    """A call of a reply: `state` is what the journal says of it, `is_live` that somebody is making it now."""

    tool: Tool
    token: str
    index: int
    state: Literal["ready", "dispatched", "approval", "unknown", "approved", "client", "done"] = "ready"
    is_live: bool = False
    until_ms: int | None = None
    edited: str | None = None

    @property
    def id(self) -> str:
        return f"c{self.token}"


@dataclass
class Run:
    id: str
    thread: str
    status: str
    in_line: bool = False
    walker: str | None = None
    fence: int = 0
    expires_ms: int | None = None
    turns: int = 0
    reply: int = 0
    calls: list[Call] = field(default_factory=list)
    held: list[Call] = field(default_factory=list)
    ended_steps: int = 0
    deaths: int = 0
    stalled: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def seen(self) -> Seen:
        asked = len(self.asked) if self.status == "requires_action" else 0
        return Seen(self.status, self.in_line, self.walker, self.fence, asked)

    @property
    def asked(self) -> list[Call]:
        """Give the calls that wait for a person, in order."""
        return [c for c in self.calls if c.state in ("approval", "unknown")]

    @property
    def wanted(self) -> list[Call]:
        """Give the calls that wait for the client, in order, once no person is waited for."""
        return [] if self.asked else [c for c in self.calls if c.state == "client"]


@dataclass
class Thread:
    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: list[Row] = field(default_factory=list)
    line: list[Row | Run] = field(default_factory=list)
    active: str | None = None


class Reference:
    """Every thread and run that there is, and what every key stands for."""

    def __init__(self) -> None:
        self.threads: dict[str, Thread] = {}
        self.runs: dict[str, Run] = {}
        self.keys: dict[str, tuple[Asked, str]] = {}
        self.now_ms = 0
        self._groups = 0

    # -- what a client asks for --------------------------------------------------------------------------------

    def append(self, thread: Thread, row: Row) -> None:
        """Append a message, or put it in line behind the runs of the thread."""
        (thread.rows if thread.active is None else thread.line).append(row)

    def create(self, thread: Thread, run: Run, first: Sequence[Row]) -> None:
        """Keep a run that was accepted; one that its creator holds begins."""
        self.runs[run.id] = run
        for row in first:
            self.append(thread, row)
        if run.in_line:
            thread.line.append(run)
            return
        thread.active = run.id
        self.go(run)

    def delete(self, thread: Thread) -> None:
        """Forget a thread with its runs."""
        del self.threads[thread.id]
        self.runs = {id_: run for id_, run in self.runs.items() if run.thread != thread.id}

    def give_outputs(self, run: Run, outputs: Mapping[str, str], walker: str) -> None:
        """Take the outputs of every call that waits for its client; the run goes on with `walker`."""
        for call in run.wanted:
            self._result(run, call, outputs[call.id])
        self.claim(run, walker)

    def decide(self, run: Run, call: Call, *, approve: bool, edited: str | None, walker: str | None) -> None:
        """Take a person's decision; with the last one the run goes on, or is queued without a `walker`."""
        if approve:
            call.state, call.edited = "approved", edited
        else:
            self._result(run, call, ("not run: rejected", "outcome unknown"))
        if run.asked:
            return
        run.status = "queued"
        if walker is not None:
            self.claim(run, walker)

    # -- what walkers do ---------------------------------------------------------------------------------------

    def claim(self, run: Run, walker: str | None) -> None:
        """Let a walker have a queued run, and go on with it."""
        run.status, run.walker, run.fence = "in_progress", walker, run.fence + 1
        self.go(run)

    def take_over(self, run: Run, walker: str | None) -> None:
        """Let a walker have a run that another one left; the third death at one place ends it."""
        self.drop(run)
        run.walker, run.fence = walker, run.fence + 1
        run.deaths = run.deaths + 1 if run.stalled == run.ended_steps else 1
        run.stalled = run.ended_steps
        if run.deaths >= MOST_DEATHS:
            self.end(run, "failed")
            return
        self.go(run)

    def drop(self, run: Run) -> None:
        """Let go of everything that is not committed."""
        run.held = []
        for call in run.calls:
            call.is_live = False

    def park(self, run: Run) -> None:
        """Give a run back at its last checkpoint."""
        self.drop(run)
        run.status, run.walker = "queued", None

    def go(self, run: Run) -> None:
        """Do what a walker does until a model, a tool or somebody is waited for."""
        while True:
            lost = [c for c in run.calls if c.state == "dispatched" and not c.is_live]
            if lost:
                if self._settle_unknown(run, lost):
                    return
                continue
            todo = [c for c in run.calls if c.state in ("ready", "approved")]
            if not todo and any(c.state != "done" for c in run.calls):
                run.status, run.walker = "requires_action", None
                return
            if self.is_over(run):
                self.end(run, "expired")
                return
            if not todo or self._begin(run, todo):
                return

    def _settle_unknown(self, run: Run, lost: Sequence[Call]) -> bool:
        """Do what the tools of interrupted calls say; tell whether it ended the run."""
        for call in lost:
            if call.tool.on_unknown == "ask":
                call.state, call.until_ms = "unknown", None
            else:
                self._result(run, call, ("outcome unknown",))
        if any(c.tool.on_unknown == "fail" for c in lost):
            self.end(run, "failed")
            return True
        return False

    def _begin(self, run: Run, todo: Sequence[Call]) -> bool:
        """Begin calls; tell whether any is being made now. What needs none is written with the only one that is."""
        made = [c for c in todo if not _is_instant(c)]
        held = [c for c in todo if _is_instant(c)]
        for call in made:
            call.is_live = True
            if call.tool.effect == "once":
                call.state = "dispatched"
        for call in held:
            if call.tool.waits_ms is not None:
                call.until_ms = self.now_ms + call.tool.waits_ms
        if len(made) == 1:
            run.held = held
        else:
            self._write_instant(run, held)
        return bool(made)

    def _write_instant(self, run: Run, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.tool.is_wrong:
                self._result(run, call, ('{"error": ',))
            elif call.tool.asks and call.state == "ready":
                call.state = "approval"
            else:
                call.state = "client"

    def say(self, run: Run, text: str) -> None:
        """Take the model's answer: the run has ended."""
        run.turns += 1
        self._rows(run).append(Row("assistant", text))
        self.end(run, "completed")

    def call(self, run: Run, calls: list[Call]) -> None:
        """Take a model's reply that asks for tools."""
        run.turns += 1
        run.ended_steps += 1
        rows = self._rows(run)
        rows.append(Row("assistant", None))
        run.reply, run.calls = len(rows), calls
        self.go(run)

    def finish_call(self, run: Run, call: Call, text: Text) -> None:
        """Take what a tool gave; with the last one the run goes on."""
        held, run.held = run.held, []
        self._write_instant(run, held)
        self._result(run, call, text)
        if not any(c.is_live for c in run.calls):
            self.go(run)

    def end(self, run: Run, status: str, *, is_cut: bool = False, by_others: bool = False) -> None:
        """End a run: every call that has none gets a result, and the next one in line has its turn."""
        if is_cut:
            self._write_instant(run, [c for c in run.held if c.tool.is_wrong])
        group = self._group()
        for call in run.calls:
            if call.state != "done":
                self._result(run, call, _closing(call, is_cut=is_cut, by_others=by_others), group)
        self.drop(run)
        thread = self.threads[run.thread]
        run.status, run.walker = status, None
        if run.in_line:
            run.in_line = False
            thread.line = [item for item in thread.line if item is not run]
            return
        thread.active = None
        while thread.line:
            item = thread.line.pop(0)
            if isinstance(item, Run):
                item.in_line, thread.active = False, item.id
                return
            thread.rows.append(item)

    # -- what nobody asked for ---------------------------------------------------------------------------------

    def is_over(self, run: Run) -> bool:
        """Tell whether a run's time is over."""
        return run.expires_ms is not None and run.expires_ms <= self.now_ms

    def late(self, run: Run) -> list[Call]:
        """Give the questions of a run that nobody answered in time."""
        if run.status != "requires_action":
            return []
        return [c for c in run.asked if c.until_ms is not None and c.until_ms <= self.now_ms]

    def explain(self, run: Run, seen: Seen, is_gone: Callable[[str], bool]) -> bool:
        """Make a move of somebody who looks after runs, if one leads to what was seen; tell whether it was made."""
        is_left = run.walker is None or is_gone(run.walker)
        if run.status == "cancelling" and seen.status == "cancelled":
            self.end(run, "cancelled", by_others=True)
        elif run.is_active and self.is_over(run) and is_left and seen.status == "expired":
            self.end(run, "expired", by_others=True)
        elif run.status == "queued" and not run.in_line and seen.fence > run.fence:
            self.claim(run, seen.walker)
            return True
        elif run.status == "in_progress" and is_left and seen.fence > run.fence:
            self.take_over(run, seen.walker)
            return True
        elif late := self.late(run):
            for call in late:
                self.decide(run, call, approve=False, edited=None, walker=None)
            return True
        else:
            return False
        # Who ends what another one left takes it first.
        run.fence = seen.fence if seen.fence - run.fence in (0, 1) else run.fence
        return True

    def due(self, is_gone: Callable[[str], bool], *, walks_all: bool) -> Iterator[str]:
        """Give what a sweep must not leave as it is, in words."""
        for run in self.runs.values():
            is_left = run.walker is None or is_gone(run.walker)
            if not run.is_active or (run.in_line and not self.is_over(run)):
                continue
            if is_left and (self.is_over(run) or run.status == "cancelling"):
                yield f"{run.id} is {run.status}, and its time is over or it was to be cancelled"
            elif self.late(run):
                yield f"{run.id} waits for an answer that is late"
            elif walks_all and is_left and run.status in ("queued", "in_progress"):
                yield f"{run.id} is {run.status}, and nobody walks it"

    # -- what must be stored -----------------------------------------------------------------------------------

    def _rows(self, run: Run) -> list[Row]:
        return self.threads[run.thread].rows

    def _group(self) -> int:
        self._groups += 1
        return self._groups

    def _result(self, run: Run, call: Call, text: Text, group: int | None = None) -> None:
        call.state, call.is_live = "done", False
        run.ended_steps += 1
        self._rows(run).append(Row("tool", text, run.reply, call.index, group or self._group()))


def _is_instant(call: Call) -> bool:
    """Tell whether nothing has to be made for a call: it is wrong, or somebody else's turn."""
    return call.tool.is_wrong or (call.tool.asks and call.state == "ready") or call.tool.is_client


def _closing(call: Call, *, is_cut: bool, by_others: bool) -> tuple[str, ...]:
    """Give what the result of a call may say that had none when its run ended."""
    said = ("outcome unknown", "the run expired") if is_cut else ("outcome unknown",)
    if call.state == "dispatched":
        return said
    if call.is_live:
        # Nobody else knows that a call was under way which may be made again.
        return (*said, "not executed") if by_others else said
    return ("not executed",)


def differences(rows: Sequence[Row], stored: Sequence[Row]) -> Iterator[str]:
    """Give where a thread is not what it must be."""
    if len(rows) != len(stored):
        yield f"{len(stored)} rows instead of {len(rows)}"
    for place, (expected, found) in enumerate(zip(_in_order(rows), _grouped(rows, stored), strict=False), 1):
        is_said = expected.text == found.text or (
            isinstance(expected.text, tuple)
            and isinstance(found.text, str)
            and any(word in found.text for word in expected.text)
        )
        alike = (expected.role, expected.reply, expected.call) == (found.role, found.reply, found.call)
        if not is_said or not alike:
            yield f"row {place} is {found} instead of {expected}"


def _in_order(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=_order(rows))


def _grouped(rows: Sequence[Row], stored: Sequence[Row]) -> list[Row]:
    """Give stored rows with those of a group in the order of their calls."""
    groups = [row.group for row in rows] + [0] * len(stored)
    marked = [Row(s.role, s.text, s.reply, s.call, group) for s, group in zip(stored, groups, strict=False)]
    return sorted(marked, key=_order(marked))


def _order(rows: Sequence[Row]) -> Callable[[Row], tuple[int, int]]:
    first: dict[int, int] = {}
    places: dict[int, tuple[int, int]] = {}
    for place, row in enumerate(rows):
        start = first.setdefault(row.group, place) if row.group else place
        places[id(row)] = (start, row.call or 0 if row.group else 0)
    return lambda row: places[id(row)]
