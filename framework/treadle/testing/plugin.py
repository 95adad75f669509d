"""The pytest plugin: kill your own agents at every point, in a test.

    # pytest -p treadle.testing.plugin
    def test_refunds_survive_a_crash(crash):
        crash(REFUND)

`REFUND` is a `treadle.testing.Scenario`, a variable of the module that defines its client. `crash` takes what
`crash_matrix` takes and fails with each violation and the command that repeats it; it gives the matrix. How many
processes were killed is told at the end of the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest

from treadle.testing.crash import JOBS, Matrix, Zygotes, crash_matrix
from treadle.testing.crash_scenario import Scenario

_matrices = pytest.StashKey[list[Matrix]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("treadle crash tests")
    group.addoption("--crash-seed", type=int, default=0, help="the seed of crash tests (0)")
    group.addoption(
        "--crash-doubles", type=int, default=20, help="crashes during a recovery, for each scenario (20)"
    )
    group.addoption("--crash-jobs", type=int, default=JOBS, help=f"processes at the same time ({JOBS})")


@pytest.fixture(scope="session")
def crash_zygotes(pytestconfig: pytest.Config) -> Iterator[Zygotes]:
    """Give the processes that make those which are killed, one set for all tests."""
    with Zygotes(_number(pytestconfig, "--crash-jobs")) as zygotes:
        yield zygotes


@pytest.fixture
def crash(pytestconfig: pytest.Config, crash_zygotes: Zygotes) -> Callable[[Scenario | str], Matrix]:
    """Give the function that kills a scenario at every point and fails where a promise was not kept."""
    kept = pytestconfig.stash.setdefault(_matrices, [])

    def run(scenario: Scenario | str, *, seed: int | None = None, doubles: int | None = None) -> Matrix:
        matrix = crash_matrix(
            scenario,
            seed=_number(pytestconfig, "--crash-seed") if seed is None else seed,
            doubles=_number(pytestconfig, "--crash-doubles") if doubles is None else doubles,
            zygotes=crash_zygotes,
        )
        kept.append(matrix)
        matrix.check()
        return matrix

    return run


def _number(config: pytest.Config, option: str) -> int:
    return cast("int", config.getoption(option))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell how many processes were killed."""
    matrices = config.stash.get(_matrices, list[Matrix]())
    if matrices:
        points = {(m.scenario, point) for m in matrices for point in m.points}
        terminalreporter.write_line(
            f"crash tests: kills {sum(m.kills for m in matrices)}, double {sum(m.doubles for m in matrices)}, "
            f"scenarios {len({m.scenario for m in matrices})}, points {len(points)}, "
            f"violations {sum(len(m.violations) for m in matrices)}"
        )
