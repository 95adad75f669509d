"""Every tool kind keeps the contract: functions that run here, in each form, and the client's."""

import asyncio
import threading
from typing import Any

import pytest

from treadle.objects.tool import FunctionTool
from treadle.testing.tool_contract import ToolContract
from treadle.tools import TOOLS
from treadle.tools.base import Binding
from treadle.tools.function import bind

RELEASE = threading.Event()


@pytest.fixture(autouse=True, scope="module")
def let_threads_go():
    yield
    RELEASE.set()


def weather(city: str, days: int = 1) -> dict[str, Any]:
    """Get the weather."""
    return {"city": city, "days": days, "half": "\ud800"}


def fail(city: str) -> str:
    raise ValueError(f"no {city}\nnor anything else")


def hang(city: str) -> str:
    RELEASE.wait(0.05)
    return city


async def weather_later(city: str, days: int = 1) -> dict[str, Any]:
    """Get the weather."""
    await asyncio.sleep(0)
    return weather(city, days)


async def fail_later(city: str) -> str:
    return fail(city)


async def hang_for_ever(city: str) -> str:
    await asyncio.Event().wait()
    return city


def registered(function, **fields):
    spec = FunctionTool(name=function.__name__, runs="server", **fields)
    return bind(spec, Binding(callables={function.__name__: function})), {"city": "Paris"}


class TestFunction(ToolContract):
    def answering(self):
        return registered(weather)

    def failing(self):
        return registered(fail)

    def hanging(self):
        return registered(hang, timeout="10ms")

    def refused_arguments(self):
        return [{}, {"city": 3}, {"city": "x", "more": 1}, {"city": "x", "days": "2"}]


class TestAsyncFunction(TestFunction):
    def answering(self):
        return registered(weather_later)

    def failing(self):
        return registered(fail_later)

    def hanging(self):
        return registered(hang_for_ever, timeout="10ms")


class TestFunctionOfTheProject(TestFunction):
    """The same function, found by its import path."""

    @pytest.fixture(autouse=True)
    def in_a_project(self, tmp_path):
        (tmp_path / "contract_tools.py").write_text(
            "def weather(city: str, days: int = 1) -> dict:\n    'Get the weather.'\n    return {'city': city}\n"
        )
        self.root = tmp_path

    def answering(self):
        spec = FunctionTool(name="weather", call="contract_tools:weather")
        return bind(spec, Binding(self.root, ("contract_tools",))), {"city": "Paris"}


class TestFunctionInItsOwnProcess(TestFunction):
    """The same again, where a call may end a process."""

    @pytest.fixture(autouse=True)
    def in_a_project(self, tmp_path):
        (tmp_path / "contract_processes.py").write_text(
            "def weather(city: str, days: int = 1) -> dict:\n"
            "    'Get the weather.'\n"
            "    return {'city': city, 'days': days, 'half': '\\ud800'}\n\n"
            "def fail(city: str) -> str:\n    raise ValueError(f'no {city}\\nnor anything else')\n\n"
            "def hang(city: str) -> str:\n    while True:\n        pass\n"
        )
        self.root = tmp_path

    def found(self, name, **fields):
        spec = FunctionTool(name=name, call=f"contract_processes:{name}", isolate=True, **fields)
        return bind(spec, Binding(self.root, ("contract_processes",))), {"city": "Paris"}

    def answering(self):
        return self.found("weather")

    def failing(self):
        return self.found("fail")

    def hanging(self):
        return self.found("hang", timeout="10ms")


class TestFunctionOfTheClient(ToolContract):
    is_client_side = True

    def answering(self):
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        return bind(FunctionTool(name="ask", parameters=schema), Binding()), {"city": "Paris"}

    def refused_arguments(self):
        return [{}, {"city": 3}]


def test_every_kind_of_the_table_is_held_to_the_contract():
    assert set(TOOLS) == {"function"}, "add a class above for the new kind"
