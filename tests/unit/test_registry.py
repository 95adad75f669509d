"""Names become objects through a table, then through entry points, and a wrong name says what is known."""

import sys
from pathlib import Path

import pytest

from treadle import registry
from treadle.errors import ConfigurationError


def test_an_import_string_gives_its_object() -> None:
    assert registry.load("treadle.clock:SystemClock").__name__ == "SystemClock"  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["treadle.clock", "treadle.clock:", ":SystemClock", ""])
def test_another_form_is_refused(target: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        registry.load(target)
    assert refused.value.hint == "write module:attribute"


def test_an_attribute_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'treadle\.clock' has no 'Sundial'"):
        registry.load("treadle.clock:Sundial")


def test_a_name_is_looked_up_in_the_table() -> None:
    assert registry.lookup("tools", {"x": "treadle.ids:kind"}, "x") is registry.load("treadle.ids:kind")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as refused:
        registry.lookup("stores", {"sqlite": "x:y", "memory": "x:z"}, "oracle")
    assert "'oracle' is not one of the known stores" in refused.value.message
    assert refused.value.hint == "known: memory, sqlite"


def test_a_package_adds_a_name_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parrot_extra.py").write_text("class Parrot: pass\n")
    info = tmp_path / "parrot_extra-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-extra\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[treadle.providers]\nparrot = parrot_extra:Parrot\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = registry.lookup("providers", {}, "parrot")
    assert found is sys.modules["parrot_extra"].Parrot
