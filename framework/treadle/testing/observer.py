"""Watch a store from outside: after each commit, hold what is there against what was there before.

It reads on a connection of its own, and knows which simulated process wrote last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from treadle.lifecycle import is_terminal
from treadle.store.check import check
from treadle.store.connection import Connection, connect
from treadle.testing.chance import Chance
from treadle.testing.history import RunView, StepView, check_move, check_steps, check_threads, check_wait
from treadle.testing.simulated_loop import Life
from treadle.testing.trace import Trace

_RUNS = "SELECT no, id, thread, status, rev, fence, walker, coalesce(waits, 0) FROM runs ORDER BY no"
_STEPS = (
    "SELECT pos & 4294967295, path, attempt, kind, status, fence, edge FROM steps WHERE pos >= ? AND pos < ?"
)
_ROWS = "SELECT pos, role, run, text FROM messages WHERE pos > ? AND pos < ? ORDER BY pos"
_LAST_ROWS = "SELECT pos >> 32, max(pos) FROM messages GROUP BY pos >> 32"


class Observer:
    """Sees every commit of a simulation."""

    def __init__(
        self, path: Path, chance: Chance, trace: Trace, *, now: Callable[[], float], often: float = 0.02
    ) -> None:
        """Open the file; `often` is the share of commits after which the whole store is checked."""
        self.problems: list[str] = []
        self.commits = 0
        self.runs: dict[int, RunView] = {}
        self.ended_s: dict[str, float] = {}
        self._now = now
        self._steps: dict[int, dict[tuple[str, int], StepView]] = {}
        self._rows: dict[int, tuple[str, str | None]] = {}
        self._last: dict[int, int] = {}
        self._holders: dict[str, Life] = {}
        self._connection: Connection = connect(path)
        self._chance = chance
        self._trace = trace
        self._often = often
        self._version = self._data_version()

    def knows(self, walker: str, life: Life) -> None:
        """Learn which process walks under a name that ends so."""
        self._holders[walker] = life

    def look(self, life: Life | None) -> None:
        """Look whether something was committed, and check it; `life` is the process that ran just now."""
        version = self._data_version()
        if version == self._version:
            return
        self._version = version
        self.commits += 1
        self._check_runs(life)
        if self._chance.happens(self._often):
            self.check_all()

    def check_all(self) -> None:
        """Check every invariant of the store, and that no row changed since it was first seen."""
        self.problems += [f"{p.message} ({p.node})" for p in check(self._connection)]
        for pos, role, _, text in self._connection.execute(_ROWS, (0, (1 << 63) - 1)):
            if self._rows.get(pos, (role, text)) != (role, text):
                self.problems.append(f"row {pos & 0xFFFFFFFF} of thread number {pos >> 32} changed")

    def approvals(self, key: str) -> int:
        """Give how many people let the call with that idempotency key run."""
        _, run, path = key.split(":", 2)
        row = self._connection.execute(
            "SELECT count(DISTINCT s.body ->> '$.decision.by') FROM steps s JOIN runs r ON r.no = s.run"
            " WHERE r.id = ? AND s.path = ? AND s.body ->> '$.decision.verdict' = 'approve'",
            (run, path),
        ).fetchone()
        return 0 if row is None else cast("int", row[0])

    def held_by(self, life: Life) -> list[str]:
        """Give the runs that a process holds, as far as the others know: those of a dead walker are free."""
        living = {name for (name,) in self._connection.execute("SELECT id FROM walkers WHERE NOT dead")}
        return [run.id for run in self.runs.values() if run.walker in living and self._holds(life, None, run)]

    def is_walked_by(self, life: Life, thread_id: str) -> bool:
        """Tell whether a process holds the run of a thread."""
        row = self._connection.execute("SELECT no FROM threads WHERE id = ?", (thread_id,)).fetchone()
        return row is not None and any(
            self._holds(life, None, run) for run in self.runs.values() if run.thread == row[0]
        )

    def left(self) -> list[str]:
        """Give the runs whose turn it is and that no living process holds."""
        return [
            run.id
            for run in self.runs.values()
            if (run.status == "queued" and not run.in_line)
            or (run.walker is not None and not is_terminal(run.status) and not self._is_alive(run.walker))
        ]

    def _is_alive(self, walker: str) -> bool:
        life = self._holders.get(walker.rpartition(":")[2])
        return life is not None and not life.is_over

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    def texts(self) -> dict[str, list[str]]:
        """Give the user's texts in every thread, by its id, in order."""
        found: dict[str, list[str]] = {}
        for thread, text in self._connection.execute(
            "SELECT t.id, m.text FROM threads t LEFT JOIN messages m ON m.pos >> 32 = t.no AND m.role = 'user'"
            " ORDER BY m.pos"
        ):
            found.setdefault(thread, []).extend([] if text is None else [text])
        return found

    def is_dispatched(self, key: str) -> bool:
        """Tell whether a call with that idempotency key stands in the journal as about to be dispatched."""
        _, run, path = key.split(":", 2)
        row = self._connection.execute(
            "SELECT count(*) FROM steps s JOIN runs r ON r.no = s.run WHERE r.id = ? AND s.path = ?"
            " AND (coalesce(s.edge, '') NOT IN ('approval', 'approved', 'client') OR s.status <> 'in_progress')",
            (run, path),
        ).fetchone()
        return row is not None and row[0] > 0

    def take_down(self) -> None:
        """Put what the store holds at the end into the trace, but for what names this machine."""
        for sql in (
            "SELECT id, status, rev, fence FROM runs ORDER BY no",
            "SELECT pos, role, status, text FROM messages ORDER BY pos",
            "SELECT pos, path, attempt, status, edge, message FROM steps ORDER BY pos",
        ):
            for row in self._connection.execute(sql):
                self._trace.note("kept", *row)

    def _data_version(self) -> int:
        return cast("int", self._connection.pragma("data_version"))

    def _check_runs(self, life: Life | None) -> None:
        before, self.runs = (
            self.runs,
            {
                no: RunView(id_, thread, status, rev, fence, walker, bool(in_line))
                for no, id_, thread, status, rev, fence, walker, in_line in self._connection.execute(_RUNS)
            },
        )
        for no, old in before.items():
            if no not in self.runs:
                self.problems.append(f"run {old.id} is gone")
        for no, run in self.runs.items():
            old = before.get(no)
            self.problems += check_move(old, run)
            if old is not None and old != run:
                self._trace.note("run", no, old.status, "->", run.status, "rev", run.rev, "fence", run.fence)
            if is_terminal(run.status):
                self.ended_s.setdefault(run.id, self._now())
            if old is None or not is_terminal(old.status):
                self._check_journal(no, old, run, life)
        self.problems += check_threads(self.runs.values())
        self._check_rows(before, life)

    def _check_journal(self, no: int, old: RunView | None, run: RunView, life: Life | None) -> None:
        seen = self._steps.get(no, {})
        found = [
            StepView(run.id, *row) for row in self._connection.execute(_STEPS, (no << 32, (no + 1) << 32))
        ]
        self.problems += check_steps(seen, found, run)
        self._steps[no] = {(step.run, step.n): step for step in found}
        self.problems += check_wait(run, found)
        if self._holds(life, old, run):
            return
        is_handed_in = old is not None and (old.status != run.status or old.status == "requires_action")
        for step in found:
            before = seen.get((step.run, step.n))
            if before == step or (step.kind == "tool_call" and is_handed_in):
                continue
            self.problems.append(f"run {run.id}: {life and life.name} wrote {step.path} and does not walk it")

    def _check_rows(self, before: dict[int, RunView], life: Life | None) -> None:
        for thread, last in self._connection.execute(_LAST_ROWS).fetchall():
            seen = self._last.get(thread, thread << 32)
            if last < seen:
                self.problems.append(f"thread number {thread} lost rows")
            for pos, role, run_no, text in self._connection.execute(_ROWS, (seen, (thread + 1) << 32)):
                self._rows[pos] = (role, text)
                if role != "assistant" or run_no is None:
                    continue
                run = self.runs[run_no]
                if not self._holds(life, before.get(run_no), run):
                    self.problems.append(
                        f"run {run.id}: {life and life.name} wrote to its thread and does not walk it"
                    )
            self._last[thread] = last

    def _holds(self, life: Life | None, old: RunView | None, run: RunView) -> bool:
        """Tell whether a process was the walker of a run before the commit, or is it after."""
        return any(
            view is not None
            and view.walker is not None
            and self._holders.get(view.walker.rpartition(":")[2]) is life
            for view in (old, run)
        )
