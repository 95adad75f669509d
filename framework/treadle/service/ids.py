"""Find the one object that a person means: a whole id, a unique beginning of it, or ``@last``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from treadle.errors import NotFound
from treadle.objects.agent import Agent
from treadle.objects.run import Run
from treadle.objects.thread import Thread

if TYPE_CHECKING:
    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle

WHOLE = 24
"""Characters after the prefix of an id: shorter texts are looked up as beginnings."""


Findable = TypeVar("Findable", Agent, "Workflow", Thread, Run)


async def one_id(treadle: Treadle, cls: type[Findable], given: str) -> str:
    """Give the id that a text stands for.

    Errors: NotFound when nothing or more than one thing begins like that.
    """
    if treadle.is_exact:
        return given
    noun = cls.__name__.lower()
    if given == "@last":
        newest = await _newest(treadle, cls)
        if newest is None:
            raise NotFound(noun, given, hint=f"there is no {noun} yet")
        return newest
    if len(given.partition("_")[2]) >= WHOLE:
        return given
    found = await treadle.store.find(cls, treadle.tenant, given) if given else []
    if len(found) == 1 or given in found:
        return given if given in found else found[0]
    if found:
        raise NotFound(noun, given, hint=f"several begin like that: {', '.join(found)}")
    raise NotFound(noun, given)


async def _newest(treadle: Treadle, cls: type[Findable]) -> str | None:
    """Give the id of the newest object; a run that is another's child, or a thread of such runs alone, does not count."""
    after: str | None = None
    while True:
        page = await treadle.store.list(cls, treadle.tenant, limit=1 if after is None else 100, after=after)
        for found in page:
            if isinstance(found, Run) and found.parent_id is not None:
                continue
            if isinstance(found, Thread) and await _is_inner(treadle, found):
                continue
            return found.id
        if not page:
            return None
        after = page[-1].id


async def _is_inner(treadle: Treadle, thread: Thread) -> bool:
    """Tell whether a thread is there for child runs only."""
    runs = await treadle.store.list(Run, treadle.tenant, parent=thread.id, limit=100, order="asc")
    return bool(runs) and all(run.parent_id is not None for run in runs)
