"""Every class of the error tree, in one table walk: none is listed by hand, so a new one is tested too."""

import re

import pytest

from treadle import errors
from treadle.errors import DefinitionError, NotFound, Problem, Repeated, StreamCut, TreadleError


def tree(root: type[TreadleError]) -> list[type[TreadleError]]:
    return [root, *(below for child in root.__subclasses__() for below in tree(child))]


OURS = [cls for cls in tree(TreadleError) if cls.__module__ == "treadle.errors"]
NEEDS_ARGUMENTS = {
    NotFound: ("run", "run_1"),
    Repeated: ("run_1",),
    StreamCut: ("run_1", 7),
    DefinitionError: ([Problem(code="TR104", message="unknown field 'x'")],),
}


def make(cls: type[TreadleError]) -> TreadleError:
    return cls(*NEEDS_ARGUMENTS.get(cls, ()))  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", OURS)
def test_an_error_has_a_code_a_status_and_a_message(cls: type[TreadleError]) -> None:
    error = make(cls)
    assert re.fullmatch(r"TR\d{3}", error.error_code)
    assert 400 <= cls.http_status < 600
    assert error.message
    assert str(error) == error.message


@pytest.mark.parametrize("cls", [cls for cls in OURS if cls not in NEEDS_ARGUMENTS])
def test_the_docstring_is_the_default_message(cls: type[TreadleError]) -> None:
    assert cls.__doc__
    assert make(cls).message == cls.__doc__.splitlines()[0]


@pytest.mark.parametrize("cls", OURS)
def test_the_tree_at_the_head_of_the_module_names_the_class(cls: type[TreadleError]) -> None:
    assert re.search(rf"\b{cls.__name__}\b", errors.__doc__ or "")


def test_no_two_branches_share_a_code() -> None:
    codes: dict[str, type[TreadleError]] = {}
    for cls in OURS:
        owner = codes.setdefault(cls.code, cls)
        assert issubclass(cls, owner), f"{cls.__name__} and {owner.__name__} share {cls.code}"


def test_a_definition_error_carries_every_problem_and_the_first_one_s_code() -> None:
    problems = [
        Problem(code="TR104", message="unknown field 'a'", file="x.yaml", line=3, column=1),
        Problem(code="TR011", message="a tab", file="x.yaml", line=9, column=2, hint="use spaces"),
    ]
    error = DefinitionError(problems)
    assert error.error_code == "TR104"
    assert error.message.splitlines() == [
        "x.yaml:3:1  error TR104  unknown field 'a'",
        "x.yaml:9:2  error TR011  a tab (use spaces)",
    ]


def test_not_found_names_what_was_asked_for() -> None:
    assert make(NotFound).message == "No run found with id 'run_1'."


def test_an_error_s_hint_and_code_can_be_given_where_it_is_raised() -> None:
    error = TreadleError("no", hint="ask again", code="TR999")
    assert (error.message, error.hint, error.error_code) == ("no", "ask again", "TR999")
    assert TreadleError.code == "TR000"
