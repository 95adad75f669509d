"""What the loader passes around: a source text, the places in it, the problems found, the documents read.

Nothing here knows YAML, pydantic or a dialect. Positions are character offsets into the user's own text and
become lines and columns only when a problem is reported.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeGuard

from treadle.errors import ConfigurationError, DefinitionError, NotFound, Problem, Severity
from treadle.objects.agent import AgentSpec
from treadle.objects.project import ProjectSpec

if TYPE_CHECKING:
    from treadle.objects.workflow import WorkflowSpec

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value sits in a document: mapping keys and list indexes from the root."""

At = Literal["key", "value", "parent"]

_NO_PLACES: Mapping[str | int, Place] = MappingProxyType({})
_NO_STRETCHES: Mapping[str | int, tuple[int, int]] = MappingProxyType({})
_BREAK = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Source:
    """A text with the name that its problems carry.

    Shapes: `path` is shown to people as it is; `root` is the folder that file references may not leave.
    """

    path: str
    text: str
    root: Path | None = None

    @cached_property
    def starts(self) -> list[int]:
        """Give the offset at which each line starts."""
        return [0, *(m.end() for m in _BREAK.finditer(self.text))]

    def position(self, offset: int) -> tuple[int, int]:
        """Give the line and column of an offset, both from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Give one line without its break; empty where there is no such line."""
        if not 1 <= number <= len(self.starts):
            return ""
        start = self.starts[number - 1]
        end = self.starts[number] if number < len(self.starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def problem(
        self,
        code: str,
        message: str,
        *,
        start: int | None,
        end: int | None = None,
        severity: Severity = "error",
        hint: str | None = None,
    ) -> Problem:
        """Tie a finding to a stretch of this text; no `start` ties it to the file as a whole."""
        if start is None:
            return Problem(code=code, message=message, severity=severity, file=self.path, hint=hint)
        start = min(start, len(self.text))
        line, column = self.position(start)
        width = max((end if end is not None else start) - start, 1)
        room = max(len(self.line(line)) - column + 1, 1)
        return Problem(
            code=code,
            message=message,
            severity=severity,
            file=self.path,
            line=line,
            column=column,
            end_column=column + min(width, room),
            hint=hint,
        )


class Place:
    """Where a value stands in the text, with the places of what is inside it.

    Shapes: `children` is by key for a mapping and by index for a list; `keys` gives the stretch of each key.
    `size`, `chars` and `height` count the value with everything below it, aliases expanded.
    """

    __slots__ = ("chars", "children", "end", "height", "keys", "size", "start", "style")

    def __init__(
        self,
        start: int,
        end: int,
        *,
        style: str = "",
        children: Mapping[str | int, Place] = _NO_PLACES,
        keys: Mapping[str | int, tuple[int, int]] = _NO_STRETCHES,
        size: int = 1,
        chars: int = 0,
        height: int = 1,
    ) -> None:
        """Take what the composer counted; a scalar has nothing inside."""
        self.start = start
        self.end = end
        self.style = style
        self.children = children
        self.keys = keys
        self.size = size
        self.chars = chars
        self.height = height


@dataclass(frozen=True, slots=True)
class Tree:
    """One YAML document as plain data, with its place."""

    data: Any
    place: Place


MAX_PROBLEMS = 100
"""Problems of one document that are collected; what comes after them is not looked at closely."""


class Findings:
    """The problems of one document, each tied to the place of a key path.

    Invariant: `moves` maps paths of the data that is checked to paths of the text the user wrote, so that no
    position ever refers to a copy that an adapter made.
    """

    is_built: ClassVar[bool] = False
    """Whether the document was built in Python: there is no text then, and the cases of a switch are JSON already."""

    def __init__(self, source: Source, place: Place, moves: Mapping[KeyPath, KeyPath] | None = None) -> None:
        """Start without problems."""
        self.source = source
        self.place = place
        self.moves: dict[KeyPath, KeyPath] = dict(moves or {})
        self.problems: list[Problem] = []

    @property
    def has_errors(self) -> bool:
        """Tell whether an error (not a warning, not a note) was found."""
        return any(p.severity == "error" for p in self.problems)

    @property
    def is_full(self) -> bool:
        """Tell whether enough was found: a text made of mistakes must not cost more than it is worth."""
        return len(self.problems) >= MAX_PROBLEMS

    def add(
        self,
        code: str,
        message: str,
        path: KeyPath,
        *,
        at: At = "value",
        severity: Severity = "error",
        hint: str | None = None,
    ) -> None:
        """Report a finding at the key, at the value, or at the key that holds the value (`parent`)."""
        start, end = self._stretch(path, at)
        self.problems.append(
            self.source.problem(code, message, start=start, end=end, severity=severity, hint=hint)
        )

    def add_within(
        self,
        code: str,
        message: str,
        path: KeyPath,
        *,
        line: int,
        column: int | None = None,
        name: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Report a finding inside a text value, at a line and column of the text itself.

        Units: both count from 1. Where the text was folded or escaped on its way through YAML, its own lines
        mean nothing in the file; the name that is at fault is then looked up in the stretch of the value.
        """
        place, exact = self.find(self.original(path))
        if not exact:
            self.add(code, message, path, hint=hint)
            return
        start, end = _inside(self.source, place, line, column, name)
        self.problems.append(self.source.problem(code, message, start=start, end=end, hint=hint))

    def original(self, path: KeyPath) -> KeyPath:
        """Give the path in the user's text of a path in the data that is checked."""
        for n in range(len(path), -1, -1):
            old = self.moves.get(path[:n])
            if old is not None:
                return old + path[n:]
        return path

    def where(self, path: KeyPath) -> str:
        """Give a path as the user wrote it."""
        return where(self.original(path))

    def find(self, path: KeyPath) -> tuple[Place, bool]:
        """Give the place of an original path, or the deepest place above it and False."""
        place = self.place
        for item in path:
            below = place.children.get(item)
            if below is None:
                return place, False
            place = below
        return place, True

    def line_of(self, path: KeyPath) -> int:
        """Give the line of a path's key, for messages that point at a second place."""
        return self.source.position(self._stretch(path, "key")[0])[0]

    def line_note(self, path: KeyPath) -> str:
        """Give ` (line 12)`, as it stands behind a name that a message points at; empty where there is no text."""
        return f" (line {self.line_of(path)})"

    def _stretch(self, path: KeyPath, at: At) -> tuple[int, int]:
        place = self.place
        key: tuple[int, int] | None = None
        exact = True
        for item in self.original(path):
            below = place.children.get(item)
            if below is None:
                exact = False
                break
            key = place.keys.get(item)
            place = below
        if key and (at != "value" or not exact or place.start == place.end):
            return key
        if at == "parent" or not exact:
            return place.start, place.start + 1
        is_scalar = place.height == 1 and not place.children
        return place.start, place.end if is_scalar else place.start + 1


def _inside(source: Source, place: Place, line: int, column: int | None, name: str | None) -> tuple[int, int]:
    width = len(name) if name else 1
    if place.style == "|":
        first = source.position(place.start)[0]
        number = first + line
        raw = source.line(number)
        base = source.starts[number - 1] if number <= len(source.starts) else place.start
        indent = _block_indent(source, first, source.position(place.end)[0])
        if column is not None:
            at = base + min(indent + column - 1, len(raw))
            return at, at + width
        found = _word(raw, name) if name else None
        return (base + found, base + found + width) if found is not None else (base + indent, base + len(raw))
    stretch = source.text[place.start : place.end]
    plain_line = "\n" not in stretch and "\\" not in stretch and "''" not in stretch
    if column is not None and plain_line:
        at = place.start + (1 if place.style else 0) + column - 1
        return at, at + width
    found = _word(stretch, name) if name else None
    if found is not None:
        return place.start + found, place.start + found + width
    return place.start, place.end


def _block_indent(source: Source, first: int, last: int) -> int:
    for number in range(first + 1, last + 1):
        text = source.line(number)
        if text.strip():
            return len(text) - len(text.lstrip(" "))
    return 0


def _word(text: str, name: str) -> int | None:
    found = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text)
    return found.start() if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that loaded without an error.

    Shapes: `dialect` is None for the native format; `line` is where the document starts, from 1.
    """

    kind: Literal["agent", "project", "workflow"]
    spec: AgentSpec | ProjectSpec | WorkflowSpec
    name: str | None
    path: str
    root: Path
    dialect: str | None = None
    line: int = 1

    @property
    def agent(self) -> AgentSpec:
        """Give the agent.

        Errors: ConfigurationError when the document declares something else.
        """
        if isinstance(self.spec, AgentSpec):
            return self.spec
        raise ConfigurationError(f"{self.path} declares a {self.kind}, not an agent")

    @property
    def workflow(self) -> WorkflowSpec:
        """Give the workflow.

        Errors: ConfigurationError when the document declares something else.
        """
        from treadle.objects.workflow import WorkflowSpec

        if isinstance(self.spec, WorkflowSpec):
            return self.spec
        raise ConfigurationError(f"{self.path} declares a {self.kind}, not a workflow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of loading: the sound documents, and every problem of every file in order of place.

    Shapes: `links` is by a workflow's path and line; see `uses`. The files that workflows name are loaded with them:
    their problems are among the problems, their documents are not among the documents.
    """

    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]
    sources: Mapping[str, Source]
    links: Mapping[tuple[str, int], Mapping[str, Document]] = field(
        default_factory=dict[tuple[str, int], Mapping[str, "Document"]]
    )

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Give the problems that keep a document from being used."""
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def agents(self) -> tuple[Document, ...]:
        """Give the documents that declare agents."""
        return tuple(d for d in self.documents if d.kind == "agent")

    @property
    def workflows(self) -> tuple[Document, ...]:
        """Give the documents that declare workflows."""
        return tuple(d for d in self.documents if d.kind == "workflow")

    def uses(self, document: Document, kind: Literal["agent", "workflow"]) -> dict[str, Document]:
        """Give the agents or the workflows that a workflow names, by the reference that its nodes write.

        Shapes: what only a store has is not among them. A name of `agents:` is a key as it stands there.
        """
        found = self.links.get((document.path, document.line), {})
        return {key.partition(":")[2]: d for key, d in found.items() if key.startswith(f"{kind}:")}

    def raise_if_bad(self) -> None:
        """Do nothing when there is no error.

        Errors: DefinitionError with all of the errors.
        """
        errors = self.errors
        if errors:
            raise DefinitionError(errors)

    def pick(self, name: str | None = None) -> Document:
        """Give the one agent, or the one of that name.

        Errors: NotFound for an unknown name, ConfigurationError when no name is given and several fit.
        """
        agents = self.agents
        if name is None:
            if len(agents) == 1:
                return agents[0]
            what = (
                f"has {len(agents)} agents: {listed([d.name or '?' for d in agents])}"
                if agents
                else "has no agent"
            )
            files = listed(sorted(self.sources)) or "nothing"
            raise ConfigurationError(f"{files} {what}", hint="name one: FILE#NAME" if agents else None)
        for document in agents:
            if document.name == name:
                return document
        raise NotFound("agent", name, hint=suggest(name, [d.name for d in agents if d.name]))


def is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value of a document is a mapping; the composer lets only text be a key."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Tell whether a value of a document is a list."""
    return isinstance(value, list)


def listed(words: Sequence[str], last: str = "and") -> str:
    """Give words as a sentence lists them: a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Give the known word that was probably meant."""
    from difflib import get_close_matches

    lowered = {k.lower().replace("-", "_"): k for k in reversed(known)}
    found = get_close_matches(_snake(word), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def suggest(word: str, known: Sequence[str]) -> str | None:
    """Give the hint for a word that is not known: what was meant, or else what there is."""
    near = nearest(word, known)
    if near:
        return f"did you mean '{near}'?"
    if known and len(known) <= 12:
        return f"known here: {', '.join(known)}"
    return None


def _snake(word: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", word[:200]).lower().replace("-", "_")


def where(path: KeyPath) -> str:
    """Give a path as people write it: model.options, tools[0].retry; empty for the document itself."""
    out = ""
    for item in path:
        out += f"[{item}]" if isinstance(item, int) else f".{short(item)}" if out else short(item)
    return out


def short(text: str) -> str:
    """Give a text as a message quotes it: one line, and not all of a long one."""
    line = text.split("\n", 1)[0]
    return text if len(text) <= 60 and line == text else f"{line[:60]}…"


def shape(value: object) -> str:
    """Name the kind of a value in plain words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list | tuple) else "a mapping"
