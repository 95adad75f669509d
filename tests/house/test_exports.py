"""What `import treadle` promises."""

import ast
from pathlib import Path

import pytest

import treadle
import treadle.testing

PACKAGE = Path(treadle.__file__).parent


@pytest.mark.parametrize("name", treadle.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(treadle, name) is not None


@pytest.mark.parametrize("name", treadle.testing.__all__)
def test_what_is_shipped_for_tests_resolves(name: str) -> None:
    assert getattr(treadle.testing, name).__name__ == name


def test_a_name_that_is_not_exported_is_refused_with_the_list_of_those_that_are() -> None:
    with pytest.raises(AttributeError, match="Treadle, TreadleError, run"):
        treadle.Thraed  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert dir(treadle) == sorted(treadle.__all__)


def test_type_checkers_see_the_names_that_are_resolved_at_run_time() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    guarded = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.name: n.module for n in guarded.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert seen == treadle._PUBLIC


def test_the_wheel_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
