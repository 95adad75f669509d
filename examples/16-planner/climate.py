"""What the workers can look up."""

CELSIUS = {"Paris": 11, "Oslo": 6, "Lima": 19}


def get_climate(city: str) -> dict[str, str | int]:
    """Look up the climate of a city: its mean temperature in °C.

    Args:
        city: The name of the city.
    """
    return {"city": city, "celsius": CELSIUS[city]}
