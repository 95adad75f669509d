"""Processes that walk workflows are killed, and every promise is kept."""

import json
from collections.abc import Iterator

import pytest

from treadle.definition.load import load
from treadle.testing.crash import Zygotes, crash_matrix
from treadle.testing.crash_workflows import DOCUMENTS, WORKFLOW_SCENARIOS

MOST, DOUBLES = 12, 4
SEED = 1


@pytest.fixture(scope="module")
def zygotes() -> Iterator[Zygotes]:
    with Zygotes() as found:
        yield found


@pytest.mark.parametrize("scenario", WORKFLOW_SCENARIOS, ids=lambda s: s.name)
def test_a_process_that_dies_in_a_workflow_loses_nothing_and_repeats_nothing(scenario, zygotes) -> None:
    """The points are drawn by the seed; `make crash` goes through all of them, seed after seed."""
    matrix = crash_matrix(scenario, seed=SEED, most=MOST, doubles=DOUBLES, zygotes=zygotes)
    matrix.check()
    assert (matrix.missed, matrix.doubles) == ((), DOUBLES)
    assert matrix.kills == MOST + 2 * DOUBLES


@pytest.mark.parametrize("name", [n for n, d in DOCUMENTS.items() if "workflow" not in str(d.get("nodes"))])
def test_the_documents_that_are_walked_are_ones_that_a_person_could_have_written(name, tmp_path) -> None:
    (tmp_path / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [shop, work]}\n"
    )
    path = tmp_path / f"{name}.workflow.yaml"
    path.write_text(json.dumps({"version": "1.0.0", "kind": "workflow", **DOCUMENTS[name]}))
    loaded = load([path], root=tmp_path)
    assert [p.message for p in loaded.problems if p.severity == "error"] == []
