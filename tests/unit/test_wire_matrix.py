"""The matrix of client libraries: which versions, and how their environments are kept."""

import sys
from pathlib import Path

import pytest

from treadle.testing.wire_matrix import ROWS, Row, checked, environment


def test_the_rows_have_the_fixed_versions_and_the_newest_of_each_line() -> None:
    assert [row.requirements[0] for row in ROWS] == [
        "azure-ai-agents==1.0.2",
        "azure-ai-agents==1.1.0",
        "azure-ai-agents>=1.2.0b1",
        "openai==1.109.1",
        "openai>=2,<3",
        "openai>=3,<4",
    ]
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_an_environment_that_has_what_is_asked_for_is_used_as_it_is(tmp_path: Path) -> None:
    row = Row("a-row", ("some-library==1.0",), "some.checks")
    (tmp_path / row.name).mkdir()
    (tmp_path / row.name / ".installed").write_text("some-library==1.0")
    python = environment(row, tmp_path)
    assert python.is_relative_to(tmp_path / row.name)
    assert environment(row, tmp_path, renew=True) == python
    assert [path.name for path in (tmp_path / row.name).iterdir()] == [".installed"]


def test_checks_that_do_not_run_say_what_the_interpreter_said() -> None:
    row = Row("a-row", (), "treadle.testing.no_such_checks")
    with pytest.raises(RuntimeError, match=r"(?s)a-row gave no results: .*no_such_checks"):
        checked(row, Path(sys.executable), endpoint="http://127.0.0.1:1", key="k")
