"""The patterns among the examples: each is one graph, as a document, in Python and as the drawing of its README."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from treadle import Graph
from treadle.cli import invoke
from treadle.graph.compile import compile_workflow

EXAMPLES = Path(__file__).parents[3] / "examples"
PATTERNS = [
    "12-sequential/order-mail",
    "13-concurrent/read-mail",
    "14-handoff/support",
    "15-group-chat/launch",
    "16-planner/research",
    "17-evaluator/advert",
    "18-approval-loop/announce",
    "19-map-documents/invoices",
]
MERMAID = re.compile(r"^```mermaid\n(.*?)^```", re.MULTILINE | re.DOTALL)


def built(pattern: str) -> Graph:
    """Give the graph that an example builds, as whoever imports it has it."""
    path = EXAMPLES / pattern.partition("/")[0]
    spec = importlib.util.spec_from_file_location(f"graph_of_{path.name[:2]}", path / "graph.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path))
    graph = module.g
    assert isinstance(graph, Graph)
    return graph


def file_of(pattern: str) -> Path:
    return EXAMPLES / f"{pattern}.workflow.yaml"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_built_in_python_is_the_workflow_of_its_document(pattern: str) -> None:
    graph = built(pattern)
    read = Graph.from_yaml(file_of(pattern))
    assert graph.check() == []
    assert graph.spec == read.spec.model_copy(update={"tests": ()})
    assert graph.compile().digest == compile_workflow(read.spec).digest
    assert graph.diff(read).lines() == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_written_as_yaml_is_the_same_again(pattern: str, tmp_path: Path) -> None:
    graph = built(pattern)
    assert graph.name is not None
    again = Graph.from_yaml(graph.to_yaml(), name=graph.name)
    assert again.spec == graph.spec
    assert again.compile().digest == graph.compile().digest


@pytest.mark.parametrize("pattern", [*PATTERNS, "10-incident-triage/triage"])
def test_the_drawing_of_a_readme_is_that_of_its_workflow(pattern: str) -> None:
    page = (EXAMPLES / pattern.partition("/")[0] / "README.md").read_text(encoding="utf-8")
    found = MERMAID.search(page)
    assert found is not None
    assert found[1] == Graph.from_yaml(file_of(pattern)).draw("mermaid")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_tests_of_a_pattern_pass(pattern: str) -> None:
    assert invoke(["test", str(file_of(pattern))]) == 0


def test_every_pattern_has_at_least_two_tests_of_its_own() -> None:
    counts = {pattern: len(Graph.from_yaml(file_of(pattern)).spec.tests) for pattern in PATTERNS}
    assert {pattern: n for pattern, n in counts.items() if n < 2} == {}
