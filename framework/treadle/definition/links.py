"""What a workflow names in other documents: agents and workflows of its own file, of other files, and of a store.

A reference is a file, `FILE#NAME`, `#NAME` for a document of the same file, or a plain name: first of the same file,
else of any file that was loaded with it. What is not in a file is left to the store, where `agents:` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from treadle.definition import references
from treadle.definition.document import listed, short, suggest
from treadle.definition.workflow import Draft
from treadle.definition.workflow_checks import Reference, references_of
from treadle.definition.workflow_names import Uses
from treadle.errors import ConfigurationError
from treadle.objects.agent import AgentSpec
from treadle.objects.workflow import WorkflowSpec

_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A document of a file that was read, sound or not; `spec` is None where it is not."""

    kind: str
    name: str | None
    file: Path
    spec: AgentSpec | WorkflowSpec | None
    draft: Draft | None = None


class Found(NamedTuple):
    """What a reference leads to: an entry, a problem (words and a hint), or neither where only a store can know."""

    entry: Entry | None = None
    problem: tuple[str, str, str | None] | None = None


class Library:
    """The documents of all files that were read."""

    def __init__(self) -> None:
        """Start with none."""
        self._by_file: dict[Path, list[Entry]] = {}

    def add(self, file: Path, entries: Iterable[Entry]) -> None:
        """Take the documents of a file."""
        self._by_file.setdefault(file, []).extend(entries)

    def __contains__(self, file: object) -> bool:
        """Tell whether a file was read."""
        return file in self._by_file

    def find(self, reference: Reference, file: Path, draft: Draft) -> Found:
        """Give what a reference of a workflow in `file` leads to."""
        path, mark, name = reference.text.partition("#")
        if mark and not path:
            return self._one(reference, self._by_file.get(file, ()), name, "this file")
        if mark or is_file(path):
            return self._in_file(reference, path, name, draft)
        beside = [e for e in self._by_file.get(file, ()) if e.kind == reference.kind and e.name == path]
        others = [
            e for f, found in self._by_file.items() if f != file for e in found
            if e.kind == reference.kind and e.name == path
        ]  # fmt: skip
        if beside or others:
            return Found((beside or others)[0])
        if reference.kind == "agent" and (reference.is_declared or path.startswith("asst_")):
            return Found()
        known = [e.name for e in self._by_file.get(file, ()) if e.kind == reference.kind and e.name]
        if draft.spec is not None and reference.kind == "agent":
            known += [n for n in draft.spec.agents if n not in known]
        hint = suggest(path, known) or _hint(reference)
        return Found(problem=("TR216", f"there is no {reference.kind} '{short(path)}'", hint))

    def _in_file(self, reference: Reference, path: str, name: str, draft: Draft) -> Found:
        try:
            file = file_of(reference.text, draft)
        except ConfigurationError as error:
            return Found(problem=("TR115", error.message, error.hint))
        return self._one(reference, self._by_file.get(file, ()), name, path)

    def _one(self, reference: Reference, entries: Sequence[Entry], name: str, where: str) -> Found:
        fitting = [e for e in entries if e.kind == reference.kind]
        chosen = [e for e in fitting if e.name == name] if name else fitting
        if len(chosen) == 1:
            return Found(chosen[0])
        names = [e.name for e in fitting if e.name]
        if chosen:
            said = f"{where} declares several {reference.kind}s: {listed(names)}"
            return Found(problem=("TR216", said, f"name one: {reference.text}#{names[0]}" if names else None))
        what = f" '{short(name)}'" if name else ""
        hint = suggest(name, names) if name else None
        return Found(problem=("TR216", f"{where} declares no {reference.kind}{what}", hint))


def is_file(text: str) -> bool:
    """Tell whether a reference names a file rather than a name."""
    return text.endswith(_ENDINGS) or "/" in text


def file_of(text: str, draft: Draft) -> Path:
    """Give the file that a reference leads to.

    Errors: ConfigurationError when it is not there or lies outside the project.
    """
    path = text.partition("#")[0]
    return references.inside(path, folder=draft.setting.folder, root=draft.setting.root)


def files_of(draft: Draft) -> list[Path]:
    """Give the files that a workflow names and that are there."""
    found: list[Path] = []
    for reference in references_of(draft.spec) if draft.spec is not None else ():
        path = reference.text.partition("#")[0]
        if not path or not ("#" in reference.text or is_file(path)):
            continue
        try:
            found.append(file_of(reference.text, draft))
        except ConfigurationError:
            continue
    return list(dict.fromkeys(found))


def linked(draft: Draft, file: Path, library: Library) -> dict[str, Entry]:
    """Give what each reference of a workflow leads to, by what its nodes write; report those that lead nowhere."""
    out: dict[str, Entry] = {}
    for reference in references_of(draft.spec) if draft.spec is not None else ():
        found = library.find(reference, file, draft)
        if found.problem is not None:
            code, said, hint = found.problem
            draft.findings.add(code, said, reference.path, hint=hint)
        elif found.entry is not None:
            out[f"{reference.kind}:{reference.node}"] = found.entry
            _circle(draft, reference, found.entry, library)
    return out


def uses_of(entries: Mapping[str, Entry]) -> Uses:
    """Give the specs behind references, as the checks take them."""
    agents: dict[str, AgentSpec] = {}
    workflows: dict[str, WorkflowSpec] = {}
    for key, entry in entries.items():
        name = key.partition(":")[2]
        if isinstance(entry.spec, AgentSpec):
            agents[name] = entry.spec
        elif entry.spec is not None:
            workflows[name] = entry.spec
    return Uses(agents=agents, workflows=workflows)


def _circle(draft: Draft, reference: Reference, entry: Entry, library: Library) -> None:
    """Report a workflow that is run, over whatever others, by one that it runs itself."""
    waiting, seen = [entry], {id(entry)}
    while waiting:
        here = waiting.pop()
        if here.draft is draft:
            said = f"this workflow runs itself through '{short(reference.text)}'"
            hint = "a version names the versions that it runs, so none can name itself: write a loop"
            draft.findings.add("TR237", said, reference.path, hint=hint)
            return
        if here.draft is None or here.draft.spec is None:
            continue
        for further in references_of(here.draft.spec):
            next_ = library.find(further, here.file, here.draft).entry if further.kind == "workflow" else None
            if next_ is not None and id(next_) not in seen:
                seen.add(id(next_))
                waiting.append(next_)


def _hint(reference: Reference) -> str:
    if reference.kind == "agent":
        return "declare it under agents:, or name its file"
    return "name its file, or #NAME for one of this file"
