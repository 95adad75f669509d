"""The part of a thread that the model is sent, kept decoded while a run is walked.

A unit is a user row, or an assistant row with the results of its calls: units are kept or dropped whole, so
that a call is never sent without its result. The tail of the thread is read as far as it is sent; the first
user row is kept in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from treadle.objects.message import Message
from treadle.store.base import Store

CHUNK = 64


class Window:
    """The rows that are sent, oldest first.

    Invariant: `rows` is the head (where it was read apart) followed by whole units; results stand in the order
    of their calls, whatever order they ended in.
    """

    def __init__(self, head: Message | None, tail: Sequence[Message], *, next_seq: int) -> None:
        """Take the first user row (None where the tail begins with it) and the tail."""
        self.next_seq = next_seq
        self.rows: list[Message] = [head] if head else []
        self._fixed = 1 if head else 0
        self._is_headless = False
        self._tokens = head.tokens if head else 0
        self._scale = 1.0
        self._sent = 0
        for row in tail:
            self._place(row)

    @classmethod
    async def load(
        cls, store: Store, tenant: str, thread_id: str, *, budget_tokens: int, keep_last: int | None
    ) -> Window:
        """Read the tail of a thread, as far as the budget goes, and the row with which it begins."""
        tail: list[Message] = []
        before: int | None = None
        tokens = units = 0
        while True:
            chunk = await store.rows(tenant, thread_id, before=before, limit=CHUNK, order="desc")
            tail.extend(chunk)
            tokens += sum(r.tokens for r in chunk)
            units += sum(r.role != "tool" for r in chunk)
            before = chunk[-1].seq if chunk else 1
            enough = tokens > budget_tokens or (keep_last is not None and units > keep_last)
            if before <= 1 or len(chunk) < CHUNK or (enough and chunk[-1].role != "tool"):
                break
        tail.reverse()
        head: list[Message] = []
        if before > 1 and keep_last is None:
            head = await store.rows(tenant, thread_id, before=before, limit=1, role="user")
        return cls(head[0] if head else None, tail, next_seq=tail[-1].seq + 1 if tail else 1)

    def append(self, row: Message) -> None:
        """Take a row that was committed."""
        self.next_seq = max(self.next_seq, row.seq + 1)
        self._place(row)

    def _place(self, row: Message) -> None:
        if row.is_deleted and not row.tool_calls:
            return
        rows = self.rows
        at = len(rows)
        if row.role == "tool":
            while at > self._fixed and _comes_after(rows[at - 1], row):
                at -= 1
        rows.insert(at, row)
        self._tokens += row.tokens

    def fit(self, budget_tokens: int, keep_last: int | None) -> Sequence[Message]:
        """Give the rows that fit, dropping the oldest units after the head; the newest unit always stays.

        Units: `budget_tokens` in the model's own tokens; estimates are scaled by what it last reported.
        """
        if keep_last is not None:
            self._keep_last(keep_last)
        while self._tokens * self._scale > budget_tokens:
            if keep_last is None and not self._is_headless and self.rows[0].role == "user":
                self._fixed = 1
            if not self._drop_oldest():
                break
        if self._fixed and self._tokens * self._scale > budget_tokens and len(self.rows) > 1:
            self._tokens -= self.rows.pop(0).tokens
            self._fixed = 0
            self._is_headless = True
        self._sent = self._tokens
        return tuple(self.rows)

    def learn(self, prompt_tokens: int, fixed_tokens: int) -> None:
        """Scale the estimates by what the model counted for the rows that were sent last."""
        if self._sent > 0 and prompt_tokens > fixed_tokens:
            self._scale = min(4.0, max(0.25, (prompt_tokens - fixed_tokens) / self._sent))

    def _keep_last(self, most: int) -> None:
        starts = [i for i, row in enumerate(self.rows) if row.role != "tool"]
        if len(starts) > most:
            cut = starts[-most]
            self._tokens -= sum(r.tokens for r in self.rows[:cut])
            del self.rows[:cut]
        self._fixed = 0

    def _drop_oldest(self) -> bool:
        """Drop the oldest unit after the head; tell whether there was one to drop."""
        rows, first = self.rows, self._fixed
        end = first + 1
        while end < len(rows) and rows[end].role == "tool":
            end += 1
        if end >= len(rows):
            return False
        self._tokens -= sum(r.tokens for r in rows[first:end])
        del rows[first:end]
        return True


def _comes_after(row: Message, result: Message) -> bool:
    """Tell whether a row is the result of a later call of the same reply."""
    return (
        row.role == "tool"
        and row.reply_seq == result.reply_seq
        and (row.call_index or 0) > (result.call_index or 0)
    )
