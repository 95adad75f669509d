"""What the weather agent may call: plain functions; their signatures and docstrings are what the model is told."""

from typing import TypedDict


class Weather(TypedDict):
    """The weather of a place, now."""

    celsius: float
    sky: str


WEATHER: dict[str, Weather] = {
    "Lagos": {"celsius": 31, "sky": "sun"},
    "Lima": {"celsius": 19, "sky": "fog"},
    "Oslo": {"celsius": -3, "sky": "snow"},
    "Paris": {"celsius": 11, "sky": "rain"},
    "Tokyo": {"celsius": 17, "sky": "clouds"},
}


def get_weather(city: str) -> Weather:
    """Get the weather in a city.

    Args:
        city: The city's name, such as Paris.
    """
    found = WEATHER.get(city.strip().title())
    if found is None:
        raise ValueError(f"no weather for {city!r}; known cities: {', '.join(WEATHER)}")
    return found


def to_fahrenheit(celsius: float) -> float:
    """Convert a temperature to Fahrenheit.

    Args:
        celsius: The temperature in degrees Celsius.
    """
    return round(celsius * 9 / 5 + 32, 1)
