"""What is generated from code is what the code gives."""

from pathlib import Path

import pytest

from treadle import lifecycle
from treadle.testing import generate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(generate.GENERATED))
def test_a_generated_file_is_what_the_code_gives(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generate.GENERATED[name](), "run make format"


def test_a_file_that_was_edited_by_hand_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "GENERATED", {"docs/lifecycle.md": generate.lifecycles})
    assert generate.main(["--check"]) == 1
    assert "docs/lifecycle.md is out of date" in capsys.readouterr().err
    assert generate.main(["--write"]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "docs/lifecycle.md").write_text("by hand")
    assert generate.main(["--check"]) == 1


def test_the_diagram_draws_every_move_and_no_other() -> None:
    page = generate.lifecycles()
    drawn = {
        tuple(line.strip().split(" --> "))
        for line in page.splitlines()
        if " --> " in line and "[*]" not in line
    }
    assert drawn == {move for table in lifecycle.TABLES.values() for move in lifecycle.moves(table)}


def test_every_status_says_what_it_means() -> None:
    assert {noun: set(table) for noun, table in lifecycle.TABLES.items()} == {
        noun: set(meanings) for noun, meanings in generate.MEANINGS.items()
    }
