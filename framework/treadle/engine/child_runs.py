"""What a walk needs to run agents and other workflows as child runs of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from treadle.objects.message import Message
from treadle.objects.run import Run
from treadle.store.base import Stored

if TYPE_CHECKING:
    from treadle.engine.executor import Prepared
    from treadle.steps.node import ChildRequest


class Made(NamedTuple):
    """A child run that is to be kept: the records that come with it, itself last, and what it is walked with."""

    records: tuple[Stored, ...]
    run: Run
    prepared: Prepared
    message: Message | None = None
    """A row for the thread of the parent, where the child shares it."""


class Children(Protocol):
    """What a walk needs to run agents and other workflows."""

    async def make(
        self, parent: Run, request: ChildRequest, *, path: str, attempt: int, limits: Mapping[str, Any]
    ) -> Made:
        """Give a new child run.

        Errors: TreadleError for what cannot be had here.
        """
        ...

    async def prepare(self, run: Run) -> Prepared:
        """Give what a child run is walked with."""
        ...

    async def wake(self, run: Run) -> Run:
        """Let a child run go on that waited for a time which has come."""
        ...

    async def said(self, run: Run) -> tuple[list[Message], bool]:
        """Give what a run said, in order, and whether the last of it is JSON."""
        ...
