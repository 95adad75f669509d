"""What agents and workflows have in common: the documents that declare them, and the store that keeps them by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from treadle.definition.load import Document, Loaded, find_document, find_project, load, split_target
from treadle.errors import ConfigurationError, NotFound
from treadle.objects.agent import Agent
from treadle.service.ids import one_id

if TYPE_CHECKING:
    from pathlib import Path

    from treadle.objects.workflow import Workflow
    from treadle.service import Treadle

Kind = Literal["agent", "workflow"]
Declared = TypeVar("Declared", Agent, "Workflow")


@dataclass(frozen=True)
class File:
    """A file that somebody named, without problems; `name` is the document that is meant where it may hold several."""

    kind: Kind
    target: str
    path: Path
    loaded: Loaded
    name: str | None

    def meant(self, found: Sequence[Document]) -> list[Document]:
        """Give those of the documents that may be meant; one that stands alone may be another name's in the project."""
        if self.name and (len(found) > 1 or "#" in self.target):
            return [d for d in found if d.name == self.name]
        return list(found)

    def one(self, meant: Sequence[Document], found: Sequence[Document]) -> Document:
        """Give the one document that is meant among those found.

        Errors: NotFound for none; ConfigurationError for several.
        """
        if not meant:
            known = ", ".join(d.name or "?" for d in found) or "none"
            raise NotFound(self.kind, self.target, hint=f"{self.path} declares: {known}")
        if len(meant) > 1:
            names = ", ".join(f"{self.path}#{d.name}" for d in meant)
            raise ConfigurationError(f"{self.path} declares several {self.kind}s", hint=f"name one: {names}")
        return meant[0]


def read(treadle: Treadle, target: str, *, kind: Kind) -> File:
    """Read the file that a path, or the name of an agent or workflow in the project, stands for.

    Errors: DefinitionError with every problem of the file; NotFound; ConfigurationError when the file belongs to another
    project than this treadle's.
    """
    path = find_document(target, kind=kind, project_root=treadle.root)
    project = find_project(path.resolve().parent)
    if project is not None and project.parent != treadle.root:
        raise ConfigurationError(
            f"{path} belongs to the project {project}, and this treadle works in {treadle.root}",
            hint=f"open it there: Treadle(project='{project.parent}')",
        )
    loaded = load([path], project=treadle.project, root=treadle.root if project else None)
    loaded.raise_if_bad()
    name = split_target(target)[1] or (target if str(path) != target else None)
    return File(kind, target, path, loaded, name)


async def stored_as(treadle: Treadle, cls: type[Declared], name: str) -> Declared | None:
    """Give the stored agent or workflow of a name."""
    store = treadle.store
    found = await (store.agent_named if cls is Agent else store.workflow_named)(treadle.tenant, name)
    return cast("Declared | None", found)


async def get(treadle: Treadle, cls: type[Declared], given: str, version: int | None = None) -> Declared:
    """Give an agent or a workflow by its id, a unique beginning of it, or its name.

    Errors: NotFound.
    """
    named = await stored_as(treadle, cls, given)
    if named is not None and version in (None, named.version):
        return named
    id_ = named.id if named is not None else await one_id(treadle, cls, given)
    return await treadle.store.get(cls, treadle.tenant, id_, version=version)


async def applied_or_stored(
    treadle: Treadle, cls: type[Declared], target: str, apply: Callable[[str], Awaitable[Declared]]
) -> Declared:
    """Give what a file or a name in the project declares, brought up to date, or else what the store has of the name.

    Errors: NotFound; those of `apply`.
    """
    try:
        return await apply(target)
    except NotFound:
        stored = await stored_as(treadle, cls, target)
        if stored is None:
            raise
        return stored


async def delete(treadle: Treadle, found: Declared) -> Declared:
    """Remove an agent or a workflow from sight."""
    await treadle.store.delete(treadle.tenant, found, now_ms=treadle.clock.now_ms())
    return found
