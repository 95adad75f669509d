"""Functions that graphs of these tests name."""

from functools import wraps


def fetch(service: str = "") -> dict[str, str]:
    return {"service": service}


def route(state: object = None) -> str:
    return "good"


def twice(function):
    @wraps(function)
    def inner(*args):
        return function(*args), function(*args)

    return inner


def plain(text: str = "") -> str:
    return text


doubled = twice(plain)


class Desk:
    def answer(self) -> str:
        return "yes"
