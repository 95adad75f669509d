"""Instructions and their files: templates checked against the declared names, includes put in.

What a template includes becomes part of it when the document is loaded, so that a version of an agent holds all
that it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from treadle.definition import references, template
from treadle.definition.document import Findings, KeyPath, Source, is_list, is_mapping
from treadle.errors import ConfigurationError
from treadle.objects.project import ProjectSpec

MAX_INCLUDE_DEPTH = 8
MAX_CHARS = 1 << 18
"""Characters of a template with all that it includes."""

_INCLUDE = re.compile(r"\{%[-+]?\s*include\s+(?:'([^']*)'|\"([^\"]*)\")\s*[-+]?%\}")

_Report: TypeAlias = Callable[[str, int, ConfigurationError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What surrounds a document: its folder, the project's root and rules, and the dialect it came in."""

    folder: Path
    root: Path
    project: ProjectSpec | None = None
    dialect: str | None = None


class Texts:
    """The files that documents took text from, by the path that is shown."""

    def __init__(self) -> None:
        """Start with none."""
        self.sources: dict[str, Source] = {}

    def read(self, relative: str, setting: Setting) -> tuple[Path, Source]:
        """Give a file that a document names.

        Errors: ConfigurationError when it is away, outside the project, too large or not UTF-8.
        """
        path, text = references.read_inside(relative, folder=setting.folder, root=setting.root)
        return path, self._keep(path, text)

    def include(self, name: str, setting: Setting) -> tuple[Path, Source]:
        """Give a file that a template includes: from the project's template folders, else beside the document.

        Errors: ConfigurationError when no folder has it.
        """
        for folder in setting.project.templates if setting.project else ():
            try:
                return self.read(name, replace(setting, folder=setting.root / folder))
            except ConfigurationError:
                continue
        return self.read(name, setting)

    def _keep(self, path: Path, text: str) -> Source:
        try:
            shown = str(path.relative_to(Path.cwd()))
        except ValueError:
            shown = str(path)
        return self.sources.setdefault(shown, Source(shown, text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Reads the templates of one document."""

    names: frozenset[str]
    findings: Findings
    setting: Setting
    texts: Texts
    say: Callable[[template.TemplateProblem], tuple[str, str, str | None]] | None = None
    """Says what a finding means in this document; `said_of` where it is left out."""

    def read(self, text: str, path: KeyPath) -> str:
        """Check a template that stands in the document; give it with its includes put in."""
        problems = template.check(text, names=self.names)
        for p in problems:
            code, said, hint = (self.say or said_of)(p)
            self.findings.add_within(code, said, path, line=p.line, column=p.column, name=p.name, hint=hint)
        if problems or "include" not in text:
            return text

        def report(name: str, line: int, error: ConfigurationError) -> None:
            self.findings.add_within("TR115", error.message, path, line=line, name=name, hint=error.hint)

        return self._put_in(text, (), report)

    def read_file(self, name: str, path: KeyPath) -> str | None:
        """Give the template in a file that the document names, or None after reporting why not."""
        try:
            file, source = self.texts.read(name, self.setting)
        except ConfigurationError as error:
            self.findings.add("TR115", error.message, path, hint=error.hint)
            return None
        beside = replace(self, setting=replace(self.setting, folder=file.parent))
        return beside.whole(source, ())

    def whole(self, source: Source, above: tuple[str, ...]) -> str:
        """Check a template in a file of its own; its problems carry that file's name."""
        problems = template.check(source.text, names=self.names)
        for p in problems:
            code, said, hint = (self.say or said_of)(p)
            self._in_file(source, code, said, line=p.line, column=p.column, name=p.name, hint=hint)
        if problems or "include" not in source.text:
            return source.text

        def report(name: str, line: int, error: ConfigurationError) -> None:
            self._in_file(source, "TR115", error.message, line=line, column=None, name=name, hint=error.hint)

        return self._put_in(source.text, (*above, source.path), report)

    def _put_in(self, text: str, above: tuple[str, ...], report: _Report) -> str:
        wanted = {name for name, _ in template.includes(text)}
        size = len(text)

        def replaced(found: re.Match[str]) -> str:
            nonlocal size
            name: str = found[1] if found[1] is not None else found[2]
            if name not in wanted:
                return found.group()
            try:
                inner = self._included(name, above)
                size += len(inner)
                if size > MAX_CHARS:
                    _refuse("the instructions with all they include are longer than 256 KiB")
            except ConfigurationError as error:
                report(name, text.count("\n", 0, found.start()) + 1, error)
                return found.group()
            return inner

        return _INCLUDE.sub(replaced, text)

    def _included(self, name: str, above: tuple[str, ...]) -> str:
        _, source = self.texts.include(name, self.setting)
        if source.path in above or len(above) >= MAX_INCLUDE_DEPTH:
            _refuse(f"'{name}' includes itself, or lies more than {MAX_INCLUDE_DEPTH} deep")
        return self.whole(source, above)

    def _in_file(
        self,
        source: Source,
        code: str,
        said: str,
        *,
        line: int,
        column: int | None,
        name: str | None,
        hint: str | None,
    ) -> None:
        start = source.starts[min(line, len(source.starts)) - 1]
        at = column - 1 if column is not None else max(source.line(line).find(name), 0) if name else 0
        end = start + at + (len(name) if name else 1)
        self.findings.problems.append(source.problem(code, said, start=start + at, end=end, hint=hint))


def _refuse(said: str) -> None:
    raise ConfigurationError(said)


def said_of(problem: template.TemplateProblem) -> tuple[str, str, str | None]:
    """Give the code, the words and the way out for a finding in a template."""
    if problem.name == "env":
        return "TR108", "prompts cannot read the environment", "declare an input"
    return ("TR210" if problem.name else "TR112"), problem.message, problem.hint


def anchor(value: Any, setting: Setting) -> Any:
    """Give plain data whose file references start at the project's root: a stored agent has no folder."""
    if isinstance(value, str):
        return references.anchored(value, folder=setting.folder, root=setting.root)
    if is_mapping(value):
        return {k: anchor(v, setting) for k, v in value.items()}
    return [anchor(v, setting) for v in value] if is_list(value) else value
