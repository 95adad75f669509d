"""Every public name of the framework says what it gives."""

import ast
from collections.abc import Iterator
from pathlib import Path

import treadle

PACKAGE = Path(treadle.__file__).parent
TEMPLATES = PACKAGE / "cli" / "templates"
FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if not f.is_relative_to(TEMPLATES)]


def public(body: list[ast.stmt], path: str) -> Iterator[tuple[str, ast.AST]]:
    """Give the public classes, functions and methods below a body."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if is_overload_or_setter(node):
            continue
        yield f"{path}.{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{path}.{node.name}")


def is_overload_or_setter(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
    return bool(names & {"overload", "setter", "override"})


def test_every_module_with_code_says_what_it_is_for() -> None:
    silent = [
        str(f.relative_to(PACKAGE))
        for f in FILES
        if (tree := ast.parse(f.read_text())).body and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_every_public_class_function_and_method_has_a_docstring() -> None:
    silent = [
        name
        for f in FILES
        for name, node in public(
            ast.parse(f.read_text()).body, ".".join(f.relative_to(PACKAGE).with_suffix("").parts)
        )
        if not ast.get_docstring(node)
    ]
    assert silent == []
