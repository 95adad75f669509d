"""The table of what each version of a client library gets."""

from pathlib import Path
from typing import Any

import pytest

from treadle.cli.sdk import counts, write_table
from treadle.errors import ConfigurationError


def document(version: str, sdk: str = "openai", **outcomes: str) -> dict[str, Any]:
    """Give results; an outcome of one word is of both ways of calling, ``passed/failed`` of each its own."""
    results: list[dict[str, Any]] = []
    for name, words in outcomes.items():
        both = words.split("/")
        for mode, outcome in zip(("sync", "async"), both * (2 // len(both)), strict=True):
            results.append({"name": name, "mode": mode, "outcome": outcome, "detail": "", "ms": 1})
    return {"sdk": sdk, "version": version, "python": "3.11", "results": results}


def test_a_new_page_gets_a_table_for_each_library(tmp_path: Path) -> None:
    page = tmp_path / "compatibility.md"
    write_table(page, document("1.0.2", create="passed", cancel="passed/failed", delete="absent"))
    write_table(page, document("1.1.0", sdk="azure-ai-agents", create="passed"))
    assert page.read_text() == (
        "# Compatibility\n"
        "\n## openai\n\n"
        "<!-- openai: written by `treadle sdk check --table`, never by hand -->\n\n"
        "| call | 1.0.2 |\n"
        "|---|:-:|\n"
        "| `create` | ✓ |\n"
        "| `cancel` | sync ✓, async ✗ |\n"
        "| `delete` | – |\n"
        "\n<!-- end of openai -->\n"
        "\n## azure-ai-agents\n\n"
        "<!-- azure-ai-agents: written by `treadle sdk check --table`, never by hand -->\n\n"
        "| call | 1.1.0 |\n"
        "|---|:-:|\n"
        "| `create` | ✓ |\n"
        "\n<!-- end of azure-ai-agents -->\n"
    )


def test_another_version_is_a_column_in_its_order_and_the_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "compatibility.md"
    for version in ("1.10.0", "1.2.0b6", "1.2.0", "1.2.0b10"):
        write_table(page, document(version, create="passed"))
    write_table(page, document("1.9", create="failed", cancel="passed"))
    lines = page.read_text().splitlines()
    assert "| call | 1.2.0b6 | 1.2.0b10 | 1.2.0 | 1.9 | 1.10.0 |" in lines
    assert "| `create` | ✓ | ✓ | ✓ | ✗ | ✓ |" in lines
    assert "| `cancel` |  |  |  | ✓ |  |" in lines


def test_writing_the_same_again_changes_nothing_and_a_call_that_went_loses_its_row(tmp_path: Path) -> None:
    page = tmp_path / "compatibility.md"
    page.write_text("# Mine\n\nWords.\n")
    write_table(page, document("1.0", create="passed", cancel="passed"))
    before = page.read_text()
    assert before.startswith("# Mine\n\nWords.\n\n## openai\n")
    write_table(page, document("1.0", create="passed", cancel="passed"))
    assert page.read_text() == before
    write_table(page, document("1.0", create="passed"))
    assert "cancel" not in page.read_text()


def test_a_table_that_lost_its_end_is_not_written_over(tmp_path: Path) -> None:
    page = tmp_path / "compatibility.md"
    write_table(page, document("1.0", create="passed"))
    page.write_text(page.read_text().replace("<!-- end of openai -->\n", "") + "Words.\n")
    with pytest.raises(ConfigurationError, match="end of openai"):
        write_table(page, document("1.0", create="passed"))
    assert page.read_text().endswith("Words.\n")


def test_results_are_counted_by_how_they_came_out() -> None:
    found = counts(document("1.0", create="passed", cancel="passed/failed", delete="absent"))
    assert found == {"passed": 3, "failed": 1, "absent": 2}
