"""What no source of the framework may contain, read from its syntax trees."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import treadle

PACKAGE = Path(treadle.__file__).parent
TEMPLATES = PACKAGE / "cli" / "templates"
FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if not f.is_relative_to(TEMPLATES)]

CODE_FROM_DATA = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
CLOCKS = {"time", "random", "uuid", "secrets"}
CLOCKS_ALLOWED = {
    "clock.py": "the one place that asks for the time",
    "ids.py": "the one place that makes ids",
    "cli/flow_lines.py": "datetime says whether a time is today's, which is then shown without its date",
    "cli/doctor.py": "perf_counter measures how long an endpoint takes to answer; nothing is stored",
    "providers/openai.py": "jitter spreads the repeats of requests; nothing is stored and a test hands in its own",
    "providers/azure.py": "jitter, as in openai.py",
    "server/logs.py": "time writes times that it was given as people read them",
    "testing/sdk_checks.py": "runs beside the SDKs alone, without treadle; it measures and waits for a server",
    "testing/chance.py": "the seeded randomness of simulations",
    "store/files.py": "monotonic bounds a wait for another process that opens the same new file; nothing is stored",
    "store/sqlite.py": "perf_counter measures commits, to choose how the next ones are written; nothing is stored",
}
"""File to the reason why it may read a clock or make randomness itself."""

EXECUTORS = {"execute", "executemany", "executescript"}
SQL_ALLOWED: dict[tuple[str, str], str] = {
    (
        "testing/power_loss.py",
        """f'SELECT * FROM "{name}"'""",
    ): "the name of a table of the schema, in quotes",
}
"""(file, statement put together from parts) to the reason why no foreign text can reach it."""

NAMELESS = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "core"}

Finder = Callable[[ast.Module], Iterator[str]]


def code_from_data(tree: ast.Module) -> Iterator[str]:
    """Find what turns data into code."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("eval", "exec", "compile")
        ):
            yield node.func.id
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "yaml.load",
            "yaml.unsafe_load",
            "yaml.full_load",
        ):
            yield ast.unparse(node.func)
        yield from (name for name in imported(node) if name in CODE_FROM_DATA)


def clocks(tree: ast.Module) -> Iterator[str]:
    """Find who reads a clock or makes randomness."""
    for node in ast.walk(tree):
        yield from (name for name in imported(node) if name in CLOCKS)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "os.urandom",
            "datetime.now",
            "datetime.utcnow",
            "datetime.today",
            "datetime.datetime.now",
            "datetime.datetime.utcnow",
            "date.today",
        ):
            yield ast.unparse(node)


def built_sql(tree: ast.Module) -> Iterator[str]:
    """Find SQL that is put together where it is executed."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr in EXECUTORS and node.args and is_built(node.args[0]):
            yield ast.unparse(node.args[0])


def is_built(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr | ast.BinOp):
        return True
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("format", "join")
    )


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield node.module.partition(".")[0]


def found_in_framework(finder: Finder) -> set[tuple[str, str]]:
    return {
        (f.relative_to(PACKAGE).as_posix(), found)
        for f in FILES
        for found in finder(ast.parse(f.read_text(encoding="utf-8")))
    }


@pytest.mark.parametrize(
    ("finder", "source"),
    [
        (code_from_data, "eval('1')"),
        (code_from_data, "def f():\n    import pickle"),
        (code_from_data, "from shelve import open"),
        (code_from_data, "yaml.load(text)"),
        (clocks, "import time"),
        (clocks, "from uuid import uuid4"),
        (clocks, "x = datetime.now(UTC)"),
        (clocks, "os.urandom(8)"),
        (built_sql, "cursor.execute(f'SELECT {x}')"),
        (built_sql, "cursor.execute('SELECT ' + x)"),
        (built_sql, "cursor.execute('SELECT %s' % x)"),
        (built_sql, "cursor.executemany('SELECT {}'.format(x), rows)"),
    ],
)
def test_the_finders_find(finder: Finder, source: str) -> None:
    assert list(finder(ast.parse(source)))


def test_nothing_turns_data_into_code() -> None:
    assert found_in_framework(code_from_data) == set()


def test_time_ids_and_randomness_come_from_clock_and_ids() -> None:
    assert {(f, what) for f, what in found_in_framework(clocks) if f not in CLOCKS_ALLOWED} == set()


def test_no_sql_is_put_together_where_it_is_executed() -> None:
    assert found_in_framework(built_sql) - set(SQL_ALLOWED) == set()


def test_no_allowance_is_left_over() -> None:
    assert set(CLOCKS_ALLOWED) - {f for f, _ in found_in_framework(clocks)} == set()
    assert set(SQL_ALLOWED) - found_in_framework(built_sql) == set()


def test_no_file_or_class_is_named_after_nothing() -> None:
    files = {
        f.relative_to(PACKAGE).as_posix()
        for f in FILES
        if set(f.relative_to(PACKAGE).with_suffix("").parts) & NAMELESS
    }
    classes = {
        f"{f.name}:{node.name}"
        for f in FILES
        for node in ast.walk(ast.parse(f.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.lower().endswith(("utils", "helper", "manager"))
    }
    assert files | classes == set()


def test_every_ignored_check_names_its_rule_and_its_reason() -> None:
    bare = [
        f"{f.relative_to(PACKAGE)}:{number}"
        for f in FILES
        for number, line in enumerate(f.read_text(encoding="utf-8").splitlines(), 1)
        for mark in ("# noqa", "# pyright: ignore", "# type: ignore")
        if mark in line and not is_explained(line.partition(mark)[2])
    ]
    assert bare == []


def is_explained(rest: str) -> bool:
    """Tell whether a mark goes on as `: RULE - reason`, `[rule] - reason` or `[rule]  # reason`."""
    rule, separator, reason = rest.partition(" - " if " - " in rest else "#")
    return bool(separator and reason.strip() and rule.strip(":[] "))
