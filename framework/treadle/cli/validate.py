"""`treadle validate`: every problem of every file at once, in a form for people, editors and CI."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from treadle.cli import exit as codes
from treadle.cli.context import PROJECT_FILE, Invocation, command
from treadle.cli.output import data, note, wants_color
from treadle.errors import ConfigurationError, DefinitionError, Problem

if TYPE_CHECKING:
    from treadle.definition.document import Document, Loaded
    from treadle.objects.project import ProjectSpec
    from treadle.objects.tool import FunctionTool
    from treadle.objects.workflow import WorkflowSpec

DOCUMENTS = ("*.agent.yaml", "*.agent.yml", "*.workflow.yaml", "*.workflow.yml", PROJECT_FILE)
"""What is looked for in a folder; a file that is named outright may be called anything."""

FORMATS = ("text", "json", "github", "sarif")

UNRESOLVED = "TR303"
"""What a document names cannot be found on this machine."""


@command(name="validate")
@click.argument("names", nargs=-1, required=True, metavar="FILES…|DIR", type=click.Path(exists=True))
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--resolve", is_flag=True, help="Also import what `call` names and look up every reference.")
@click.option("--dialect", metavar="NAME", help="Read as this dialect where a document fits several.")
@click.pass_obj
def validate(
    invocation: Invocation,
    *,
    names: tuple[str, ...],
    form: Literal["text", "json", "github", "sarif"],
    resolve: bool,
    dialect: str | None,
) -> int:
    """Check documents and report every problem with its file, line and column.

    The project file of the first document is checked with them. Exits with 3 when there is an error; warnings
    and notes alone exit with 0.
    """
    from treadle.definition.load import load
    from treadle.definition.report import render

    files = list(expand(names))
    project = _project_file(invocation, files[0])
    if project and project.resolve() not in {file.resolve() for file in files}:
        files.insert(0, project)
    loaded = load(files, project=_named_rules(invocation, project), dialect=dialect)
    problems = [*loaded.problems, *(unresolved(loaded) if resolve else ())]
    rendered = render(problems, loaded.sources, fmt=form, color=wants_color(sys.stdout))
    if rendered:
        data(rendered, end="" if rendered.endswith("\n") else "\n")
    note(summary(len(files), [problem.severity for problem in problems]))
    return codes.DEFINITION if any(problem.severity == "error" for problem in problems) else codes.OK


def summary(files: int, severities: Sequence[str]) -> str:
    """Give the closing line: how many files, and how many problems of each severity."""
    counts = Counter(severities)
    found = [_plural(counts[s], s) for s in ("error", "warning", "note") if counts[s]]
    return f"{_plural(files, 'file')}: {', '.join(found) or 'no problems'}"


def unresolved(loaded: Loaded) -> Iterator[Problem]:
    """Give a problem for each callable that cannot be imported and each reference that stands for nothing.

    Hazard: this imports the modules that the documents name, as a run would.
    """
    for document in loaded.documents:
        source = loaded.sources[document.path]
        for text, attempt in (*_references(document), *_callables(document, loaded)):
            try:
                attempt()
            except ConfigurationError as e:
                start = max(source.text.find(text), 0)
                yield source.problem(UNRESOLVED, e.message, start=start, end=start + len(text), hint=e.hint)


def _references(document: Document) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give each text with references, with the call that looks them up."""
    from treadle.definition.references import resolve
    from treadle.objects.agent import AgentSpec
    from treadle.objects.workflow import WorkflowSpec

    spec = document.spec
    if isinstance(spec, WorkflowSpec):
        texts = [text for model in _models(spec) for text in _strings(model)]
    else:
        texts = [
            text for connection in spec.connections.values() for text in _strings(connection.model_dump())
        ]
    if isinstance(spec, AgentSpec):
        texts += [spec.model.id, spec.model.connection or ""]
    for text in dict.fromkeys(texts):
        if "${" in text:
            yield text, partial(resolve, text, environ=os.environ, root=document.root)


def _callables(document: Document, loaded: Loaded) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give what each tool calls, with the call that imports it."""
    from treadle.objects.project import ProjectSpec
    from treadle.tools.base import Binding
    from treadle.tools.function import bind

    allowed = next(
        (d.spec.python.allow_modules for d in loaded.documents if isinstance(d.spec, ProjectSpec)), ()
    )
    binding = Binding(root=document.root, allow_modules=allowed)
    for tool in _functions(document):
        if tool.call:
            yield tool.call, partial(bind, tool, binding)


def _functions(document: Document) -> Iterator[FunctionTool]:
    """Give the functions of an agent, or those of a workflow with its nodes' own."""
    from treadle.definition.flow import below
    from treadle.objects.project import ProjectSpec
    from treadle.objects.tool import FunctionTool
    from treadle.objects.workflow import CodeNode, ToolNode, WorkflowSpec

    spec = document.spec
    if isinstance(spec, ProjectSpec):
        return
    yield from spec.functions.values()
    for top in spec.nodes.values() if isinstance(spec, WorkflowSpec) else ():
        for node in below(top):
            if isinstance(node, ToolNode) and isinstance(node.tool, FunctionTool):
                yield node.tool
            elif isinstance(node, CodeNode):
                yield FunctionTool(name="code", call=node.call)


def _models(spec: WorkflowSpec) -> Iterator[Mapping[str, object]]:
    """Give the models that a workflow's own nodes ask."""
    from treadle.definition.flow import below
    from treadle.objects.workflow import PromptNode

    for top in spec.nodes.values():
        for node in below(top):
            if isinstance(node, PromptNode):
                yield {"id": node.model.id, "connection": node.model.connection}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for below in cast("Mapping[str, object]", value).values():
            yield from _strings(below)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def expand(names: Sequence[str]) -> Iterator[Path]:
    """Give the files that are named, and the documents of the folders that are.

    Errors: UsageError for a folder without a document.
    """
    for name in names:
        path = Path(name)
        if path.is_file():
            yield path
            continue
        found = sorted(
            f for pattern in DOCUMENTS for f in path.rglob(pattern) if not _is_hidden(f.relative_to(path))
        )
        if not found:
            raise click.UsageError(f"{name} holds no document; one is called {' or '.join(DOCUMENTS)}")
        yield from found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _named_rules(invocation: Invocation, file: Path | None) -> ProjectSpec | None:
    """Give the project that `--project` puts above every file's own; None where its file has problems of its own."""
    from treadle.definition.load import load_project

    if invocation.project is None or file is None:
        return None
    try:
        return load_project(file)[0]
    except (DefinitionError, ConfigurationError):
        return None


def _project_file(invocation: Invocation, first: Path) -> Path | None:
    """Give the project file whose rules hold: the named folder's, else the nearest one above the first file."""
    from treadle.definition.load import find_project

    found = find_project(Path(invocation.project) if invocation.project else first.resolve().parent)
    return Path(os.path.relpath(found)) if found else None
