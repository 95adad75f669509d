"""The list of seeded defects fits the sources as they are; `make defects` shows that each is caught."""

import re
from pathlib import Path

import pytest
from seeded import KINDS, ROOT, Defect, Edit, RottenError, apply, load

DEFECTS = load()
LEAST = 24


def name_of(defect: Defect) -> str:
    return defect.name


@pytest.mark.parametrize("defect", DEFECTS, ids=name_of)
def test_a_defect_can_be_made_in_todays_sources(defect: Defect) -> None:
    apply(defect, write=False)


@pytest.mark.parametrize("defect", DEFECTS, ids=name_of)
def test_a_defect_names_a_check_that_is_there(defect: Defect) -> None:
    assert defect.kind in KINDS.values()
    for word in defect.check.split():
        if word.startswith("tests/"):
            path, _, test = word.partition("::")
            assert (ROOT / path).exists()
            assert not test or f"def {test}(" in (ROOT / path).read_text()


def test_defects_are_many_of_several_kinds_and_each_has_a_name_of_its_own() -> None:
    assert len(DEFECTS) >= LEAST
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    assert len({defect.kind for defect in DEFECTS}) >= 6
    for defect in DEFECTS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", defect.name)
        assert defect.breaks.endswith(".")
        assert all(edit.file.startswith("framework/treadle/") for edit in defect.edits)


@pytest.mark.parametrize(
    ("search", "replace"), [("gone", "x"), ("twice", "x"), ("once", "once"), ("once", "if")]
)
def test_a_defect_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, search: str, replace: str
) -> None:
    source = tmp_path / "a.py"
    source.write_text("once = 1\ntwice = twice = 2\n")
    with pytest.raises(RottenError, match="'it'"):
        apply(Defect("it", "It.", "pytest", (Edit("a.py", search, replace),)), tmp_path)
    assert source.read_text() == "once = 1\ntwice = twice = 2\n"
