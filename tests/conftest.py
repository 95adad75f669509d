"""What every test may ask for; and a clean environment, so that a developer's settings change no test."""

import os
from collections.abc import Iterator

import pytest

from treadle.testing.fakes import CountedIds, FrozenClock

FOREIGN = ("TREADLE_", "OPENAI_", "AZURE_OPENAI_")
TERMINAL = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "CLICOLOR", "CLICOLOR_FORCE", "_TREADLE_COMPLETE")


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Remove our own variables, model keys and terminal wishes for the whole session."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(FOREIGN) or name in TERMINAL:
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def clock() -> FrozenClock:
    """Give a clock that moves only when it is told."""
    return FrozenClock()


@pytest.fixture
def ids() -> CountedIds:
    """Give ids that count up."""
    return CountedIds()
