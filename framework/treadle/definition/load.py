"""Load documents: text in, records and every problem out.

The stages: YAML to plain data with places, the dialect's adapter, the record, then what records cannot say
(names, references, contradictions). Nothing here runs what a document names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from treadle.definition import dialects
from treadle.definition.composer import MAX_BYTES, compose
from treadle.definition.document import (
    Document,
    Findings,
    Loaded,
    Place,
    Source,
    Tree,
    is_mapping,
    listed,
    short,
    suggest,
)
from treadle.definition.native import read_agent
from treadle.definition.project import read_project
from treadle.definition.prompts import Setting, Texts
from treadle.definition.validation import fields_of
from treadle.errors import ConfigurationError, NotFound, Problem
from treadle.objects.agent import AgentSpec
from treadle.objects.project import ProjectSpec

if TYPE_CHECKING:
    from treadle.definition.links import Entry, Library
    from treadle.definition.workflow import Draft
    from treadle.objects.workflow import WorkflowSpec

__all__ = [
    "PROJECT_FILE",
    "Document",
    "Loaded",
    "Source",
    "check_built",
    "find_document",
    "find_project",
    "load",
    "load_project",
    "load_text",
    "read",
    "split_target",
]

PROJECT_FILE = "treadle.yaml"

_KINDS = ("agent", "project", "workflow")
_KNOWN = frozenset(
    {
        *fields_of(AgentSpec),
        *fields_of(ProjectSpec),
        "state",
        "outputs",
        "agents",
        "start",
        "nodes",
        "on_error",
    }
)
_SEVERITY = {"error": 0, "warning": 1, "note": 2}
_NAME_LINE = re.compile(
    r"^name:[ \t]+(?:'([^'\n]*)'|\"([^\"\n]*)\"|([^\s#'\"][^#\n]*?))[ \t]*(?:#.*)?$", re.MULTILINE
)
_KIND_LINE = re.compile(r"^kind:[ \t]+['\"]?(\w+)", re.MULTILINE)
_SEPARATOR = re.compile(r"^---(?:\s|$)", re.MULTILINE)
_ENDINGS = (".yaml", ".yml")


def read(path: Path, *, root: Path | None = None) -> Source:
    """Give the text of a file.

    Errors: ConfigurationError when it cannot be read, is larger than 1 MiB or is not UTF-8.
    """
    try:
        with path.open("rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError("there is no such file", code="TR001") from error
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"the file cannot be read: {said}", code="TR001") from error
    if len(raw) > MAX_BYTES:
        raise ConfigurationError("the file is larger than 1 MiB", code="TR003")
    try:
        return Source(str(path), raw.decode("utf-8-sig"), root)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"the file is not UTF-8 text: line {line}", code="TR001", hint="save it as UTF-8"
        ) from error


def load(
    paths: Sequence[Path],
    *,
    project: ProjectSpec | None = None,
    root: Path | None = None,
    dialect: str | None = None,
) -> Loaded:
    """Load files: every sound document, and every problem of all of them in order of place.

    When no `project` is given, a project document among the files rules those of its own root. `root` is the
    folder that file references may not leave (default: the project's folder, else the document's own).
    `dialect` decides how documents are read that do not say so themselves.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    for path in dict.fromkeys(paths):
        try:
            sources.append(read(path, root=root))
        except ConfigurationError as error:
            problems.append(
                Problem(code=error.error_code, message=error.message, file=str(path), hint=error.hint)
            )
    return _load(sources, problems, project=project, dialect=dialect)


def load_text(
    text: str,
    *,
    name: str = "<text>",
    project: ProjectSpec | None = None,
    root: Path | None = None,
    dialect: str | None = None,
) -> Loaded:
    """Load one text as `load` loads a file; its file references start at `root` (default: where we are)."""
    source = Source(name, text.removeprefix("\ufeff"), root)
    return _load([source], [], project=project, dialect=dialect)


def _load(
    sources: Sequence[Source], problems: list[Problem], *, project: ProjectSpec | None, dialect: str | None
) -> Loaded:
    if dialect is not None and dialect not in dialects.NAMES:
        hint = suggest(dialect, list(dialects.NAMES))
        raise ConfigurationError(f"'{dialect}' is not a dialect", hint=hint, code="TR107")
    loading = _Loading(problems, project=project, dialect=dialect)
    loading.take(sources)
    loading.follow()
    every = loading.finish()
    named = {s.path for s in sources}
    documents = [d for d in every if d.path in named]
    _twice(documents, problems)
    order = {s.path: n for n, s in enumerate(sources)}
    documents.sort(key=lambda d: (order[d.path], d.line))
    return Loaded(
        documents=tuple(documents),
        problems=tuple(sorted(dict.fromkeys(problems), key=_place)),
        sources={**loading.texts.sources, **loading.sources},
        links=loading.links,
    )


def check_built(
    documents: Sequence[tuple[str | None, AgentSpec | Draft]],
    *,
    folder: Path,
    project: ProjectSpec | None = None,
) -> list[Problem]:
    """Look at workflows that were built in Python, and at what they name, as at the documents of one file.

    What is wrong with them joins the findings of their drafts; what is wrong with the files that they name is given.

    Shapes: `documents` are what `#NAME` leads to, by name; `folder` is where the paths of files start.
    """
    found = find_project(folder)
    root = found.parent if found else folder
    loading = _Loading([], project=project, dialect=None)
    for name, spec in documents:
        loading.take_built(name, spec, folder=folder, root=root)
    loading.follow()
    return loading.away()


class _Loading:
    """The documents of the files that were named and of those that they name, while they are read."""

    def __init__(self, problems: list[Problem], *, project: ProjectSpec | None, dialect: str | None) -> None:
        self.problems = problems
        self.texts = Texts()
        self.sources: dict[str, Source] = {}
        self.links: dict[tuple[str, int], Mapping[str, Document]] = {}
        self._project = project
        self._dialect = dialect
        self._projects: dict[Path, ProjectSpec] = {}
        self._read: list[_Read] = []
        self._entries: dict[int, Mapping[str, Entry]] = {}

    def take(self, sources: Sequence[Source]) -> None:
        """Read the documents of files, those of projects first, since they rule the others."""
        trees = [(s, t) for s in sources for t in _compose(s, self.problems)]
        trees.sort(key=lambda pair: not _is_project(pair[1]))
        self.sources |= {s.path: s for s in sources}
        for source, tree in trees:
            rules = self._project or self._projects.get(_setting(source, None).root)
            found = self._document(source, tree, rules)
            self._read.append(found)
            if isinstance(found.spec, ProjectSpec):
                self._projects.setdefault(_setting(source, rules).root, found.spec)

    def _document(self, source: Source, tree: Tree, rules: ProjectSpec | None) -> _Read:
        findings = Findings(source, tree.place)
        broken = _has_error_inside(self.problems, source, tree)
        spec, named = _spec(source, tree, findings, project=rules, dialect=self._dialect, texts=self.texts)
        draft = None if spec is None or isinstance(spec, AgentSpec | ProjectSpec) else spec
        plain = spec if spec is None or isinstance(spec, AgentSpec | ProjectSpec) else spec.spec
        return _Read(
            source=source,
            data=tree.data,
            line=source.position(tree.place.start)[0],
            root=_setting(source, rules).root,
            findings=findings,
            spec=None if broken else plain,
            dialect=named,
            draft=draft,
        )

    def take_built(self, name: str | None, spec: AgentSpec | Draft, *, folder: Path, root: Path) -> None:
        """Take what was built in Python, as a document of one file that lies in `folder`."""
        draft = None if isinstance(spec, AgentSpec) else spec
        source = Source(str(folder / "<built>"), "", root)
        plain = spec if isinstance(spec, AgentSpec) else spec.spec
        kind = "agent" if draft is None else "workflow"
        findings = Findings(source, Place(0, 0)) if draft is None else draft.findings
        self._read.append(
            _Read(
                source=source,
                data={"kind": kind, "name": name},
                line=1,
                root=root,
                findings=findings,
                spec=plain,
                dialect=None,
                draft=draft,
            )
        )

    def away(self) -> list[Problem]:
        """Give the problems of the files that were read for what was built."""
        of_files = (f for f in self._read if not (f.draft and f.findings.is_built))
        return [*self.problems, *(p for f in of_files for p in f.findings.problems)]

    def follow(self) -> None:
        """Read the files that workflows name, and those that these name; look at what workflows mean together."""
        if not any(r.draft for r in self._read):
            return
        from treadle.definition.links import Library, files_of, linked, uses_of
        from treadle.definition.workflow_checks import check_workflow

        library = Library()
        done = 0
        while fresh := self._read[done:]:
            done = len(self._read)
            for found in fresh:
                library.add(found.file, [found.entry()])
            for found in (f for f in fresh if f.draft is not None):
                assert found.draft is not None
                files = [f for f in files_of(found.draft) if f not in library]
                self.take([s for f in files if (s := self._open(f, found, library)) is not None])
        for found in self._read:
            if found.draft is not None and found.spec is not None:
                self._entries[id(found)] = linked(found.draft, found.file, library)
                check_workflow(found.draft, uses_of(self._entries[id(found)]))

    def _open(self, file: Path, by: _Read, library: Library) -> Source | None:
        library.add(file, ())
        shown = str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)
        try:
            return read(Path(shown), root=by.source.root or by.root)
        except ConfigurationError as error:
            self.problems.append(
                Problem(code=error.error_code, message=error.message, file=shown, hint=error.hint)
            )
            return None

    def finish(self) -> list[Document]:
        """Give every sound document."""
        for found in self._read:
            self.problems.extend(found.findings.problems)
        sound = {id(f): d for f in self._read if (d := f.document()) is not None}
        by_spec = {id(d.spec): d for d in sound.values()}
        for found in self._read:
            document = sound.get(id(found))
            if document is not None and id(found) in self._entries:
                named = self._entries[id(found)].items()
                uses = {k: by_spec[id(e.spec)] for k, e in named if id(e.spec) in by_spec}
                self.links[document.path, document.line] = uses
        return list(sound.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """A document that was read; `spec` is None where it has problems."""

    source: Source
    data: Any
    line: int
    root: Path
    findings: Findings
    spec: AgentSpec | ProjectSpec | WorkflowSpec | None
    dialect: str | None
    draft: Draft | None

    def document(self) -> Document | None:
        """Give the document, unless there is an error in it."""
        if self.spec is None or self.findings.has_errors:
            return None
        return Document(
            kind=self.spec.kind,
            spec=self.spec,
            name=self.spec.name,
            path=self.source.path,
            root=self.root,
            dialect=self.dialect,
            line=self.line,
        )

    @property
    def file(self) -> Path:
        """Give the file, whatever name it is shown by."""
        return Path(self.source.path).resolve()

    def entry(self) -> Entry:
        """Give the document as others find it; one with problems still has its name."""
        from treadle.definition.links import Entry

        data = self.data if is_mapping(self.data) else {}
        name, kind = data.get("name"), data.get("kind")
        return Entry(
            kind=kind if kind in ("workflow", "project") else "agent",
            name=name if isinstance(name, str) else None,
            file=self.file,
            spec=None if isinstance(self.spec, ProjectSpec) else self.spec,
            draft=self.draft,
        )


def _place(problem: Problem) -> tuple[object, ...]:
    return (
        problem.file or "",
        problem.line or 0,
        problem.column or 0,
        _SEVERITY[problem.severity],
        problem.code,
        problem.message,
    )


def _compose(source: Source, problems: list[Problem]) -> list[Tree]:
    trees, found = compose(source)
    problems.extend(found)
    kept = [t for t in trees if t.data is not None]
    if not kept and not found:
        problems.append(
            source.problem("TR010", "the file is empty", start=0, hint="begin with: version: 1.0.0")
        )
    return kept


def _is_project(tree: Tree) -> bool:
    return is_mapping(tree.data) and tree.data.get("kind") == "project"


def _has_error_inside(problems: Iterable[Problem], source: Source, tree: Tree) -> bool:
    first, last = source.position(tree.place.start)[0], source.position(tree.place.end)[0]
    return any(
        p.file == source.path and p.severity == "error" and first <= (p.line or first) <= last
        for p in problems
    )


def _setting(source: Source, project: ProjectSpec | None, dialect: str | None = None) -> Setting:
    path = Path(source.path)
    is_file = path.suffix in _ENDINGS or path.is_file()
    folder = path.resolve().parent if is_file else (source.root or Path.cwd())
    root = source.root
    if root is None:
        found = find_project(folder)
        root = found.parent if found else folder
    return Setting(folder=folder, root=root, project=project, dialect=dialect)


def _spec(
    source: Source,
    tree: Tree,
    findings: Findings,
    *,
    project: ProjectSpec | None,
    dialect: str | None,
    texts: Texts,
) -> tuple[AgentSpec | ProjectSpec | Draft | None, str | None]:
    data: Any = tree.data
    if not is_mapping(data):
        findings.add(
            "TR010", "a document must be a mapping", (), at="parent", hint="begin with: version: 1.0.0"
        )
        return None, None
    reading = dialects.recognise(data, findings, wanted=dialect)
    if reading is None:
        return None, None
    if reading.adapt is None:
        return _native(data, findings, _setting(source, project), texts), None
    findings.add("TR202", f"reads as: {reading.title}", (), at="parent", severity="note")
    adapted = reading.adapt(data, findings)
    findings.moves.update(adapted.moves)
    setting = _setting(source, project, reading.name)
    spec = read_agent(adapted.data, findings, setting=setting, texts=texts)
    return spec, reading.name


def _native(
    data: Mapping[str, Any], findings: Findings, setting: Setting, texts: Texts
) -> AgentSpec | ProjectSpec | Draft | None:
    kind = data.get("kind")
    if "kind" not in data and not _KNOWN & set(data):
        said, hint = "this is not a document that treadle knows", "begin with: version: 1.0.0 and kind: agent"
        findings.add("TR105", said, (), at="parent", hint=hint)
        return None
    if "kind" not in data:
        hint = "write kind: agent, project or workflow"
        findings.add("TR101", "missing field 'kind'", (), at="parent", hint=hint)
    elif not isinstance(kind, str):
        findings.add(
            "TR102", "kind must be a string", ("kind",), hint="write kind: agent, project or workflow"
        )
        return None
    if kind in ("agent", "prompt") or "kind" not in data:
        return read_agent(data, findings, setting=setting, texts=texts)
    if kind == "project":
        return read_project(data, findings, setting=setting)
    if kind == "workflow":
        from treadle.definition.workflow import read_workflow

        return read_workflow(data, findings, setting=setting, texts=texts)
    findings.add(
        "TR105", f"'{short(str(kind))}' is not a kind of document", ("kind",), hint=suggest(str(kind), _KINDS)
    )
    return None


def _twice(documents: Sequence[Document], problems: list[Problem]) -> None:
    """Report documents of one kind and name; across files too, since a project is one space of names."""
    seen: dict[tuple[Path, str, str], Document] = {}
    for document in sorted(documents, key=lambda d: (d.path, d.line)):
        if document.name is None:
            continue
        first = seen.setdefault((document.root, document.kind, document.name), document)
        if first is not document:
            problems.append(
                Problem(
                    code="TR211",
                    message=f"two {document.kind}s are called '{document.name}'",
                    file=document.path,
                    line=document.line,
                    column=1,
                    end_column=2,
                    hint=f"the first one is {first.path}:{first.line}",
                )
            )


def find_project(start: Path) -> Path | None:
    """Give the project file of a folder or file: the nearest `treadle.yaml` above it."""
    here = start.resolve()
    for folder in (here, *here.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    return None


def load_project(path: Path) -> tuple[ProjectSpec, Loaded]:
    """Load a project file.

    Errors: DefinitionError with its problems; ConfigurationError when the file declares no project.
    """
    loaded = load([path], root=path.resolve().parent)
    loaded.raise_if_bad()
    for document in loaded.documents:
        if isinstance(document.spec, ProjectSpec):
            return document.spec, loaded
    raise ConfigurationError(f"{path} declares no project", hint="write kind: project")


def split_target(target: str) -> tuple[str, str | None]:
    """Split `FILE#NAME` into the file and the name of the document in it."""
    path, mark, name = target.partition("#")
    return path, name if mark and name else None


def find_document(target: str, *, kind: Literal["agent", "workflow"], project_root: Path) -> Path:
    """Give the file that a path, or the name of an agent or a workflow in the project, stands for.

    Errors: NotFound when there is neither, ConfigurationError when several files declare the name.
    """
    path = Path(split_target(target)[0])
    if path.suffix in _ENDINGS or len(path.parts) > 1 or path.is_file():
        if path.is_file():
            return path
        raise NotFound("file", str(path), hint=_like(path))
    names = _names(project_root, kind)
    found = sorted({f for n, f in names if n == target})
    if len(found) > 1:
        shown = listed([str(f) for f in found])
        raise ConfigurationError(
            f"several files declare {'an agent' if kind == 'agent' else 'a workflow'} '{target}': {shown}",
            hint="give the file instead",
        )
    if found:
        return found[0]
    known = sorted({n for n, _ in names})
    raise NotFound(kind, target, hint=suggest(target, known) or "run in a project's folder, or give a file")


def kinds_of(target: str, *, project_root: Path) -> list[Literal["agent", "workflow"]]:
    """Tell whether a file, or a name in the project, declares an agent, a workflow, or one of each; empty for neither.

    By a look at the lines of files, as `find_document` finds names.
    """
    given, name = split_target(target)
    path = Path(given)
    kinds: tuple[Literal["agent", "workflow"], ...] = ("agent", "workflow")
    if path.suffix in _ENDINGS or len(path.parts) > 1 or path.is_file():
        if not path.is_file():
            return []
        return [k for k in kinds if any(name in (None, found) for found in _named_in(path, k))]
    return [k for k in kinds if any(found == target for found, _ in _names(project_root, k))]


def _like(path: Path) -> str | None:
    try:
        beside = [p.name for p in path.parent.iterdir() if p.suffix in _ENDINGS]
    except OSError:
        return None
    return suggest(path.name, beside)


def _names(root: Path, kind: str) -> list[tuple[str, Path]]:
    """Give the names of agents or workflows in a project by a look at its lines: no file is loaded for this."""
    folders = (root, root / f"{kind}s")
    files = [p for folder in folders for e in _ENDINGS for p in sorted(folder.glob(f"*{e}"))]
    return [(name, f) for f in files if f.name != PROJECT_FILE for name in _named_in(f, kind)]


def _named_in(path: Path, kind: str) -> list[str]:
    try:
        text = read(path).text
    except ConfigurationError:
        return []
    words = ("agent", "prompt") if kind == "agent" else (kind,)
    out: list[str] = []
    for part in _SEPARATOR.split(text):
        said = _KIND_LINE.search(part)
        if said[1].lower() not in words if said else kind != "agent":
            continue
        name = _NAME_LINE.search(part)
        if name:
            out.append(next(g for g in name.groups() if g is not None))
        elif said:
            out.append(path.name.removesuffix(path.suffix).removesuffix(f".{kind}"))
    return out
