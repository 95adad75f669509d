"""Functions as tools: found only where the project allows, described by their own signature."""

import enum
import sys
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from treadle.errors import ConfigurationError
from treadle.objects.tool import FunctionTool
from treadle.tools import importing
from treadle.tools.base import Binding, CallContext
from treadle.tools.function import bind, describe

SOURCE = """
import os, subprocess, builtins, functools, pathlib, shutil
from os import path, system, listdir
from shutil import rmtree
from pathlib import Path
from subprocess import run as run_it

def good(x: int) -> int:
    "Do good."
    return x + 1

async def later(x: int) -> int:
    return x

def _private():
    return "private"

evil = os.system
alias = rmtree
partial = functools.partial(rmtree, "/")
wrapped = functools.lru_cache(good)
number = 3
instance = Path("/")
nothing = None

class Box:
    "A box."
    secret = rmtree
    os = os

    def __init__(self, x: int = 0):
        self.x = x

    def method(self):
        return 1

    @staticmethod
    def make(x: int) -> int:
        return x * 2

    @classmethod
    def build(cls):
        return cls()

    class Inner:
        @staticmethod
        def deep() -> str:
            return "deep"

class Sub(Path):
    pass

class Meta(type):
    def __call__(cls):
        return "called"
"""


def resolve(call, binding):
    return importing.resolve(call, root=binding.root, allow_modules=binding.allow_modules)


@pytest.fixture
def binding(tmp_path):
    (tmp_path / "allowed_tools.py").write_text(SOURCE)
    package = tmp_path / "kit"
    package.mkdir()
    (package / "__init__.py").write_text("def top():\n    return 1\n")
    (package / "deeper.py").write_text("from allowed_tools import good\ndef below():\n    return 2\n")
    (tmp_path / "kitchen.py").write_text("def cook():\n    return 3\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('half loaded')\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    before = set(sys.modules)
    yield Binding(tmp_path, ("allowed_tools", "kit", "broken", "leaving", "absent"))
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("allowed_tools", "kit", "kitchen", "broken", "leaving"):
            del sys.modules[name]


FORBIDDEN = [
    "os:system", "os:popen", "os.path:join", "posix:system", "subprocess:run", "subprocess:Popen", "builtins:eval", "builtins:exec",
    "builtins:__import__", "builtins:open", "shutil:rmtree", "importlib:import_module", "sys:exit", "code:interact", "ctypes:CDLL",
    "pickle:loads", "runpy:run_path", "pty:spawn", "socket:socket", "kitchen:cook", "allowed_tools2:good", "allowed:good",
    "treadle.service:run", "treadle.tools.function:resolve",
    "allowed_tools:os.system", "allowed_tools:os.path.join", "allowed_tools:subprocess.run", "allowed_tools:builtins.eval",
    "allowed_tools:evil", "allowed_tools:system", "allowed_tools:listdir", "allowed_tools:alias", "allowed_tools:rmtree",
    "allowed_tools:run_it", "allowed_tools:partial", "allowed_tools:wrapped", "allowed_tools:number", "allowed_tools:instance",
    "allowed_tools:nothing", "allowed_tools:absent", "allowed_tools:os", "allowed_tools:path", "allowed_tools:Path",
    "allowed_tools:Path.unlink", "allowed_tools:instance.unlink", "allowed_tools:instance.parent", "allowed_tools:Sub.unlink",
    "allowed_tools:Box.secret", "allowed_tools:Box.os.system", "allowed_tools:Box.mro", "allowed_tools:Box.__init__",
    "allowed_tools:Box.__subclasses__", "allowed_tools:Box.__class__", "allowed_tools:good.__globals__",
    "allowed_tools:good.__code__.co_code", "allowed_tools:good.__class__", "allowed_tools:__builtins__", "allowed_tools:__builtins__.eval",
    "allowed_tools:__loader__.load_module", "allowed_tools:_private", "allowed_tools:Box._x", "allowed_tools:Box.absent",
    "allowed_tools:Meta.mro", "allowed_tools:functools.reduce",
    "allowed_tools:", ":good", "allowed_tools", "allowed_tools.good", "", ":", "allowed_tools:good:good", "allowed_tools:good.",
    "allowed_tools:.good", ".allowed_tools:good", "allowed_tools.:good", "allowed_tools:good()", "allowed_tools:lambda: 1",
    "allowed_tools:good ", " allowed_tools:good", "allowed_tools:good\n", "allowed-tools:good", "../allowed_tools:good",
    "allowed_tools/..:good", "__main__:run", "_thread:start_new_thread", "kit._x:f", "kit:deeper.os", "allowed_tools\x00:good",
    "ａllowed_tools:good", "broken:f", "leaving:f", "absent:f", "kit.absent:f",
]  # fmt: skip


@pytest.mark.parametrize("call", FORBIDDEN)
def test_what_the_project_does_not_allow_cannot_be_called(binding, call):
    with pytest.raises(ConfigurationError) as failure:
        resolve(call, binding)
    assert failure.value.message


@pytest.mark.parametrize(
    "call",
    ["allowed_tools:good", "allowed_tools:later", "allowed_tools:Box", "allowed_tools:Box.make", "allowed_tools:Box.Inner.deep",
     "kit:top", "kit.deeper:below", "kit.deeper:good"],
)  # fmt: skip
def test_what_it_allows_can(binding, call):
    assert callable(resolve(call, binding))


def test_nothing_is_imported_that_is_not_allowed(binding):
    with pytest.raises(ConfigurationError, match="allow-list"):
        resolve("kitchen:cook", binding)
    assert "kitchen" not in sys.modules
    with pytest.raises(ConfigurationError, match="allow-list"):
        resolve("antigravity:geohash", Binding(binding.root, ()))
    assert "antigravity" not in sys.modules


def test_a_module_that_breaks_says_what_it_raised(binding):
    with pytest.raises(ConfigurationError, match="RuntimeError: half loaded"):
        resolve("broken:f", binding)
    with pytest.raises(ConfigurationError, match="SystemExit"):
        resolve("leaving:f", binding)


def test_a_static_method_and_a_class_are_called(binding):
    assert resolve("allowed_tools:Box.make", binding)(4) == 8
    assert resolve("allowed_tools:Box", binding)(x=4).x == 4


def test_two_projects_may_have_modules_of_one_name(tmp_path):
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "same_tools.py").write_text(f"def who() -> str:\n    return '{name}'\n")
        made.append(resolve("same_tools:who", Binding(folder, ("same_tools",))))
    assert [f() for f in made] == ["one", "two"]
    sys.modules.pop("same_tools", None)


# -- describing ----------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """A place."""

    city: str = Field(description="Where.")
    title: str | None = None


def schema_of(function, **options):
    return describe(function, **options)[1]


def test_a_signature_becomes_a_schema():
    def f(a: str, b: int = 3, c: float | None = None, *, d: bool = False, e: list[int] = [], g: Any = None):  # noqa: B006
        """Do it."""

    description, schema, _ = describe(f)
    assert description == "Do it."
    assert schema == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "integer", "default": 3},
            "c": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            "d": {"type": "boolean", "default": False},
            "e": {"type": "array", "items": {"type": "integer"}, "default": []},
            "g": {"default": None},
        },
        "required": ["a"],
    }


def test_enums_literals_models_and_constraints():
    def f(
        colour: Colour,
        size: Literal["s", "m"],
        place: Place,
        n: Annotated[int, Field(ge=1, le=9)],
        tags: dict[str, int],
    ):
        pass

    schema = schema_of(f)
    assert schema["$defs"]["Colour"] == {"enum": ["red", "blue"], "type": "string"}
    assert schema["properties"]["size"] == {"enum": ["s", "m"], "type": "string"}
    assert schema["$defs"]["Place"]["properties"]["title"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
    }
    assert schema["$defs"]["Place"]["properties"]["city"] == {"type": "string", "description": "Where."}
    assert schema["properties"]["n"] == {"type": "integer", "minimum": 1, "maximum": 9}


@pytest.mark.parametrize(
    "text",
    [
        "Get it.\n\nMore of it.\n\nArgs:\n    city: The city,\n        or its code.\n    days (int): How many.\n\nReturns:\n    A text.\n",
        "Get it.\n\nMore of it.\n\nParameters\n----------\ncity : str\n    The city,\n    or its code.\ndays : int\n    How many.\n",
        "Get it.\n\nMore of it.\n\n:param city: The city,\n    or its code.\n:param int days: How many.\n:returns: A text.\n",
    ],
    ids=["google", "numpy", "rest"],
)
def test_docstrings_of_every_style_say_what_parameters_are(text):
    def f(city: str, days: int = 1) -> str:
        return ""

    f.__doc__ = text
    description, schema, _ = describe(f)
    assert description == "Get it.\n\nMore of it."
    assert schema["properties"]["city"]["description"] == "The city, or its code."
    assert schema["properties"]["days"]["description"] == "How many."


def test_names_that_mean_something_elsewhere_are_names_like_others():
    def f(
        json: str,
        schema: str,
        copy: str,
        dict: int,  # noqa: A002
        model_id: str,
        model_config: str,
        title: str,
        self_: str,
        validate: str,
        _x: int = 0,
    ):
        return [json, schema, copy, dict, model_id, model_config, title, self_, validate]

    _, schema, convert = describe(f)
    assert list(schema["properties"])[:9] == [
        "json", "schema", "copy", "dict", "model_id", "model_config", "title", "self_", "validate",
    ]  # fmt: skip
    given = dict.fromkeys(list(schema["properties"])[:9], "1") | {"dict": 1}
    assert (convert(given) if convert else given) == given


def test_supplied_parameters_are_hidden_and_filled_in():
    seen = {}

    def f(x: int, run: str, thread: str, idempotency_key: str):
        seen.update(run=run, thread=thread, key=idempotency_key, x=x)

    spec = FunctionTool(name="f", runs="server", **{"pass": ("run", "thread", "idempotency_key")})
    bound = bind(spec, Binding(callables={"f": f}))
    assert list(bound.definition.parameters["properties"]) == ["x"]
    import asyncio

    asyncio.run(bound.invoke({"x": 1}, CallContext("r", "t", "k")))
    assert seen == {"run": "r", "thread": "t", "key": "k", "x": 1}


async def test_arguments_become_the_types_of_the_signature():
    seen = []

    def f(place: Place, colour: Colour = Colour.RED, *, days: int = 2):
        seen.append((place, colour, days))

    bound = bind(FunctionTool(name="f", runs="server"), Binding(callables={"f": f}))
    await bound.invoke({"place": {"city": "Rome"}, "colour": "blue"}, CallContext("r", "t", "k"))
    await bound.invoke({"place": {"city": "Rome"}}, CallContext("r", "t", "k"))
    assert seen == [(Place(city="Rome"), Colour.BLUE, 2), (Place(city="Rome"), Colour.RED, 2)]


async def test_an_own_schema_gives_arguments_as_they_are():
    seen = []

    def f(**anything):
        seen.append(anything)

    own = {"type": "object", "properties": {"x": {"type": "integer"}}}
    with pytest.raises(ConfigurationError, match="anything"):
        bind(FunctionTool(name="f", runs="server"), Binding(callables={"f": f}))
    bound = bind(FunctionTool(name="f", runs="server", parameters=own), Binding(callables={"f": f}))
    assert bound.definition.parameters == own
    await bound.invoke({"x": 1, "y": 2}, CallContext("r", "t", "k"))
    assert seen == [{"x": 1, "y": 2}]


def broken_annotation(x: "Nowhere"):  # noqa: F821
    pass


def strange_type(x: object()):  # type: ignore[valid-type]
    pass


def positional(x, /):
    pass


@pytest.mark.parametrize(
    "function", [broken_annotation, strange_type, positional, lambda *a: 1, lambda **k: 1, dict, print]
)
def test_what_a_model_cannot_call_by_name_is_refused_with_a_reason(function):
    with pytest.raises(ConfigurationError) as failure:
        describe(function)
    assert failure.value.message


def test_a_function_that_is_not_registered_is_named():
    with pytest.raises(ConfigurationError, match="'f'") as failure:
        bind(FunctionTool(name="f", runs="server"), Binding(callables={"g": lambda: 1}))
    assert "registered: g" in failure.value.hint


def test_a_clients_function_is_not_bound_to_code():
    bound = bind(FunctionTool(name="f"), Binding(callables={"f": lambda: 1}))
    assert bound.invoke is None
    assert bound.definition.parameters == {"type": "object", "properties": {}}


async def test_functions_behind_wrappers_are_called_right():
    import functools

    def plain_wrapper(function):
        @functools.wraps(function)
        def call(*arguments, **named):
            return function(*arguments, **named)

        return call

    @plain_wrapper
    async def later(x: int) -> int:
        return x + 1

    class Caller:
        __name__ = "caller"

        async def __call__(self, x: int) -> int:
            return x + 2

    for function, given in ((later, 2), (Caller(), 3)):
        bound = bind(FunctionTool(name="f", runs="server"), Binding(callables={"f": function}))
        assert await bound.invoke({"x": 1}, CallContext("r", "t", "k")) == given


async def test_a_class_is_described_by_how_it_is_made():
    class Box:
        """A box.

        Args:
            size: How large.
        """

        def __init__(self, size: int, label: str = "x") -> None:
            self.size = size

        def model_dump(self, **_):
            return {"size": self.size}

    description, schema, _ = describe(Box)
    assert description == "A box."
    assert schema["properties"]["size"] == {"type": "integer", "description": "How large."}
    bound = bind(FunctionTool(name="Box", runs="server"), Binding(callables={"Box": Box}))
    assert (await bound.invoke({"size": 3}, CallContext("r", "t", "k"))).size == 3
