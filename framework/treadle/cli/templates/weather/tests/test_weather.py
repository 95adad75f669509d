"""Runs without a model: `pytest` in the project's folder."""

import sys
from pathlib import Path

import pytest

import treadle

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT))

from tools import get_weather, to_fahrenheit  # noqa: E402 - the project's folder has to be on the path first


def test_the_weather_of_a_known_city() -> None:
    assert get_weather("paris") == {"celsius": 11, "sky": "rain"}


def test_an_unknown_city_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="Oslo"):
        get_weather("Atlantis")


def test_fahrenheit() -> None:
    assert to_fahrenheit(11) == 51.8
    assert to_fahrenheit(-40) == -40


def test_the_agent_looks_the_weather_up_and_converts_it(tmp_path: Path) -> None:
    """`offline` stands in for a model: it picks the tools by the words of the question."""
    agent, store = PROJECT / "agents" / "weather.agent.yaml", f"sqlite:///{tmp_path}/test.db"
    run = treadle.run(agent, "What's the weather in Paris, in Fahrenheit?", model="offline", store=store)
    assert run.status == "completed"
    assert "51.8" in str(run.output)
