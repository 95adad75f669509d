"""Let the tests of this folder import the tables beside them, and say at the end how many rows were held."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a line for each table whose rows ran: the rows, and how many of them were violated."""
    tables: dict[str, dict[str, bool]] = {}
    runs: dict[str, int] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if not isinstance(report, pytest.TestReport):
                continue
            said = dict(report.user_properties)
            if "table" not in said:
                continue
            held = tables.setdefault(str(said["table"]), {})
            row = str(said["row"])
            held[row] = held.get(row, True) and not report.failed
            if report.when == "call":
                runs[str(said["table"])] = runs.get(str(said["table"]), 0) + int(str(said.get("runs", 0)))
    for table, held in sorted(tables.items()):
        violations = sum(not is_held for is_held in held.values())
        terminalreporter.write_line(
            f"{table}: {len(held)} rows, {violations} violations ({runs.get(table, 0)} runs and their next turns)"
        )
