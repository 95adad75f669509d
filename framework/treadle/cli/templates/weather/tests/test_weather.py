"""Runs without a model: `pytest` in the project's folder."""

import sys
from pathlib import Path

import pytest

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
