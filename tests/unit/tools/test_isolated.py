"""Functions in processes of their own: stopped for good, used again, never too many, gone with their owner."""

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from treadle.errors import ConfigurationError
from treadle.objects.message import ToolCall
from treadle.objects.tool import FunctionTool
from treadle.store.base import Statement
from treadle.tools import isolated
from treadle.tools.base import Binding, CallContext
from treadle.tools.function import bind
from treadle.tools.gate import admit, dispatch

CONTEXT = CallContext("run_1", "thread_1", "tdl:key")

SOURCE = """
import contextvars, ctypes, enum, os, re, subprocess, sys, time
from pathlib import Path
from pydantic import BaseModel

user = contextvars.ContextVar("user", default="nobody")
request = contextvars.ContextVar("request", default=None)
calls = 0

class Colour(enum.Enum):
    RED = "red"

class Box(BaseModel):
    size: int
    colour: Colour = Colour.RED

def pid() -> int:
    return os.getpid()

def other_pid() -> int:
    return os.getpid()

def count() -> int:
    global calls
    calls += 1
    return calls

def note(pid_file: str) -> None:
    if not pid_file:
        raise ValueError("this call only starts the process")
    # In one piece: whoever reads it finds a number.
    Path(pid_file + ".part").write_text(str(os.getpid()))
    Path(pid_file + ".part").rename(pid_file)

def loop(pid_file: str) -> str:
    note(pid_file)
    while True:
        pass

def hold_the_lock(pid_file: str) -> str:
    note(pid_file)
    return str(re.match(r"(a|a)*$", "a" * 60 + "b"))

def stubborn(pid_file: str) -> str:
    note(pid_file)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def tidy(pid_file: str) -> str:
    note(pid_file)
    try:
        while True:
            time.sleep(60)
    finally:
        Path(pid_file).with_name("tidied").write_text("yes")

def with_child(pid_file: str) -> str:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pid_file + ".part").write_text(f"{os.getpid()} {child.pid}")
    Path(pid_file + ".part").rename(pid_file)
    child.wait()

def segfault() -> str:
    ctypes.string_at(0)

def leave(status: int) -> str:
    os._exit(status)

def give_up() -> str:
    sys.exit("enough")

def fail(kind: str) -> str:
    errors = {"value": ValueError, "timeout": TimeoutError, "connection": ConnectionResetError}
    raise errors[kind](f"no {kind}")

def unfit(kind: str):
    return {"set": {1}, "object": object(), "nan": float("nan"), "keys": {(1, 2): 3}, "bytes": b"x"}[kind]

def huge() -> str:
    return "x" * (65 * 1024 * 1024)

def echo(value):
    return value

def values() -> dict:
    return {"a": (1, 2.5, None, True), 3: "\\ud800é", "box": []}

def boxed(box: Box) -> Box:
    return Box(size=box.size + 1, colour=box.colour)

def passed(text: str, run: str, thread: str, idempotency_key: str) -> list:
    return [text, run, thread, idempotency_key]

def who() -> list:
    found = [user.get(), request.get()]
    user.set("left behind")
    return found

def write(name: str, tx) -> str:
    tx.execute("INSERT INTO pets VALUES (?, ?, ?)", (name, b"raw", 1.5))
    return name

def talk() -> str:
    print("to standard output")
    os.system("echo from a command")
    return sys.stdin.read()

def later():
    async def inner():
        return 1
    return inner()

async def asynchronous() -> str:
    return ""
"""


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    isolated._end_all()
    assert isolated._live == set()


@pytest.fixture
def project(tmp_path):
    # A module name of its own, since all tests share one process.
    name = f"isolated_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)

    def tool(function, **fields):
        spec = FunctionTool(name=function, call=f"{name}:{function}", isolate=True, **fields)
        return bind(spec, Binding(tmp_path, (name,)))

    tool.module = name
    return tool


async def called(tool, arguments="{}"):
    admitted = admit({tool.spec.name: tool}, ToolCall(id="c", name=tool.spec.name, arguments=arguments))
    return await dispatch(admitted, CONTEXT)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition, within_s=20.0):
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def begun(tool, tmp_path, **options):
    """Start a call that notes its process, and give the task and the numbers of the processes."""
    file = tmp_path / "pid"
    file.unlink(missing_ok=True)
    task = asyncio.create_task(called(tool, f'{{"pid_file": "{file}"}}'), **options)
    await until(file.exists)
    return task, [int(n) for n in file.read_text().split()]


async def test_a_value_comes_back_as_from_a_function_that_runs_here(project):
    assert (await called(project("values"))).text == '{"a": [1, 2.5, null, true], "3": "�é", "box": []}'
    for text in ('"plain"', "3", '{"a": [null]}', "null"):
        outcome = await called(project("echo", parameters={"type": "object"}), f'{{"value": {text}}}')
        assert outcome.text == text.strip('"')


async def test_arguments_and_results_keep_their_declared_types(project):
    outcome = await called(project("boxed"), '{"box": {"size": 3}}')
    assert outcome.text == '{"size": 4, "colour": "red"}'


async def test_what_treadle_supplies_is_supplied(project):
    tool = project("passed", **{"pass": ("run", "thread", "idempotency_key")})
    assert set(tool.definition.parameters["properties"]) == {"text"}
    assert (await called(tool, '{"text": "hi"}')).text == '["hi", "run_1", "thread_1", "tdl:key"]'


async def test_context_variables_of_the_module_cross_and_stay_with_their_call(project):
    tool = project("who")
    module = sys.modules[project.module]
    assert (await called(tool)).text == '["nobody", null]'

    async def as_somebody(name):
        module.user.set(name)
        module.request.set(object())
        return (await called(tool)).text

    context = contextvars.copy_context()
    assert await asyncio.create_task(as_somebody("Ada"), context=context) == '["Ada", null]'
    assert (await called(tool)).text == '["nobody", null]'


async def test_the_statements_of_a_transactional_function_cross(project):
    tool = project("write", effect="transactional")
    outcome = await called(tool, '{"name": "Rex"}')
    assert outcome.text == "Rex"
    assert outcome.statements == (Statement("INSERT INTO pets VALUES (?, ?, ?)", ("Rex", b"raw", 1.5)),)


async def test_a_process_serves_call_after_call_of_its_tool(project):
    tool = project("count")
    assert [(await called(tool)).text for _ in range(5)] == ["1", "2", "3", "4", "5"]
    assert (await called(project("count"))).text == "6"
    assert (await called(project("pid"))).text != (await called(project("other_pid"))).text


async def test_a_failure_is_what_it_would_be_here_and_its_process_goes_on(project):
    tool = project("fail")
    for kind, code, said in (
        ("value", "tool_error", "fail: ValueError: no value"),
        ("connection", "connection", "fail: ConnectionResetError: no connection"),
        ("timeout", "timeout", "fail gave up: it timed out"),
    ):
        outcome = await called(tool, f'{{"kind": "{kind}"}}')
        assert (outcome.code, outcome.message) == (code, said)
    (worker,) = isolated._live
    await called(tool, '{"kind": "value"}')
    assert isolated._live == {worker}


@pytest.mark.parametrize("kind", ["set", "object", "nan", "keys", "bytes"])
async def test_a_result_that_cannot_cross_is_an_error_that_says_so(project, kind):
    outcome = await called(project("unfit"), f'{{"kind": "{kind}"}}')
    assert outcome.code == "tool_error"
    assert "cannot cross as JSON" in outcome.message
    assert (await called(project("unfit"), f'{{"kind": "{kind}"}}')).code == "tool_error"


async def test_a_result_that_is_too_long_to_cross_is_an_error(project):
    outcome = await called(project("huge"))
    assert outcome.code == "tool_error"
    assert "too many to cross" in outcome.message


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("segfault", "{}", "segfault: its process ended before it answered: it was ended by SIGSEGV"),
        ("leave", '{"status": 3}', "leave: its process ended before it answered: it left with status 3"),
        ("leave", '{"status": 0}', "leave: its process ended before it answered: it left with status 0"),
        ("give_up", "{}", "give_up: SystemExit: enough"),
    ],
)
async def test_a_crash_is_an_error_and_the_next_call_has_a_new_process(project, function, arguments, said):
    for _ in range(2):
        outcome = await called(project(function), arguments)
        assert (outcome.code, outcome.message) == ("tool_error", said)
    assert isolated._live == set()


@pytest.mark.parametrize("function", ["loop", "hold_the_lock", "stubborn"])
async def test_a_timeout_ends_the_process(project, tmp_path, function):
    tool = project(function, timeout="300ms")
    slow = project(function)
    await called(slow, '{"pid_file": ""}')
    task, (pid,) = await begun(tool, tmp_path)
    outcome = await task
    assert (outcome.code, outcome.message) == ("timeout", f"{function} did not answer within 0.3 s")
    assert not is_running(pid)
    assert isolated._live == set()


@pytest.mark.parametrize("function", ["loop", "hold_the_lock", "stubborn", "tidy"])
async def test_a_cancelled_call_is_over_within_a_second_with_its_process(project, tmp_path, function):
    task, (pid,) = await begun(project(function), tmp_path)
    loop = asyncio.get_running_loop()
    asked = loop.time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loop.time() - asked < 1
    assert not is_running(pid)
    assert (tmp_path / "tidied").exists() == (function == "tidy")


async def test_what_the_function_started_ends_with_it(project, tmp_path):
    task, pids = await begun(project("with_child"), tmp_path)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(pids) == 2
    await until(lambda: not any(map(is_running, pids)))


async def test_the_loop_goes_on_while_a_function_holds_its_interpreter(project, tmp_path):
    task, _ = await begun(project("hold_the_lock"), tmp_path)
    turns = 0
    async with asyncio.timeout(1):
        while turns < 100:
            await asyncio.sleep(0)
            turns += 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_fifty_calls_at_once_have_a_bounded_number_of_processes(project, monkeypatch):
    monkeypatch.setattr(isolated, "MOST_WORKERS", 3)
    tool = project("pid")
    outcomes = await asyncio.gather(*(called(tool) for _ in range(50)))
    assert {o.code for o in outcomes} == {None}
    assert len({o.text for o in outcomes}) <= 3
    assert len(isolated._live) <= 3


async def test_a_process_that_rests_makes_room_for_another_tool(project, monkeypatch):
    monkeypatch.setattr(isolated, "MOST_WORKERS", 1)
    first, second = project("pid"), project("other_pid")
    pids = [int((await called(tool)).text) for tool in (first, second, first, second)]
    assert len(set(pids)) == 4
    assert [is_running(pid) for pid in pids] == [False, False, False, True]


async def test_few_processes_are_kept_when_there_is_nothing_to_do(project, monkeypatch):
    monkeypatch.setattr(isolated, "MOST_RESTING", 1)
    await asyncio.gather(*(called(project("pid")) for _ in range(6)))
    await until(lambda: len(isolated._live) == 1)


async def test_a_call_that_waits_for_a_process_can_be_stopped_and_is_never_made(
    project, tmp_path, monkeypatch
):
    monkeypatch.setattr(isolated, "MOST_WORKERS", 1)
    task, (pid,) = await begun(project("loop"), tmp_path)
    file = tmp_path / "never"
    waiting = asyncio.create_task(called(project("tidy"), f'{{"pid_file": "{file}"}}'))
    await asyncio.sleep(0)
    assert (await called(project("pid", timeout="50ms"))).code == "timeout"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert is_running(pid)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await called(project("count"))).text == "1"
    assert not file.exists()


async def test_a_resting_process_that_somebody_killed_is_replaced(project):
    tool = project("pid")
    pid = int((await called(tool)).text)
    os.kill(pid, signal.SIGKILL)
    outcome = await called(tool)
    assert outcome.code is None
    assert int(outcome.text) != pid


async def test_what_hides_that_it_is_asynchronous_is_refused_when_it_is_called(project):
    outcome = await called(project("later"))
    assert "isolate is for functions that are not" in outcome.message


def test_an_async_function_cannot_be_isolated(project):
    with pytest.raises(ConfigurationError, match="its function is async") as caught:
        project("asynchronous")
    assert "cancelled anyway" in caught.value.hint


def test_a_function_of_the_client_cannot_be_isolated():
    with pytest.raises(ConfigurationError, match="its client runs it"):
        bind(FunctionTool(name="ask", parameters={"type": "object"}, isolate=True), Binding())


def module_level(x: int) -> list:
    """Say where it runs."""
    return [x, os.getpid()]


def registered(function, name=None):
    spec = FunctionTool(name=name or function.__name__, runs="server", isolate=True)
    return bind(spec, Binding(callables={spec.name: function}))


async def test_a_registered_function_of_a_module_is_found_by_its_file():
    outcome = await called(registered(module_level), '{"x": 4}')
    assert outcome.code is None, outcome
    assert outcome.text != f"[4, {os.getpid()}]"
    assert outcome.text.startswith("[4, ")


class Bound:
    def method(self) -> str:
        return ""


def test_a_registered_function_that_no_other_process_finds_is_refused_when_it_is_bound():
    def local() -> str:
        return ""

    def scripted() -> str:
        return ""

    scripted.__module__ = "__main__"
    for function in (local, Bound().method):
        with pytest.raises(ConfigurationError, match=f"'{function.__name__}' cannot be imported as"):
            registered(function)
    with pytest.raises(ConfigurationError, match="defined in the script that runs"):
        registered(scripted)


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from treadle.objects.tool import FunctionTool
from treadle.tools.base import Binding, CallContext
from treadle.tools.function import bind

module, function, arguments = sys.argv[1], sys.argv[2], eval(sys.argv[3])
tool = bind(FunctionTool(name=function, call=f"{module}:{function}", isolate=True), Binding(Path("."), (module,)))

def call():
    return asyncio.run(asyncio.wait_for(tool.invoke(arguments, CallContext("r", "t", "k")), 60))
"""


def program(project, tmp_path, rest, function, arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(rest), project.module, function, repr(arguments)],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("function", ["loop", "hold_the_lock", "stubborn", "with_child"])
async def test_a_process_in_the_middle_of_a_call_ends_when_its_owner_is_killed(project, tmp_path, function):
    file = tmp_path / "pid"
    owner = program(project, tmp_path, "call()", function, {"pid_file": str(file)})
    await until(file.exists)
    pids = [int(n) for n in file.read_text().split()]
    assert all(map(is_running, pids))
    owner.kill()
    owner.communicate()
    await until(lambda: not any(map(is_running, pids)), within_s=5)


async def test_a_resting_process_ends_when_its_owner_is_killed(project, tmp_path):
    owner = program(project, tmp_path, "print(call(), flush=True); sys.stdin.read()", "pid", {})
    pid = int(owner.stdout.readline())
    assert is_running(pid)
    owner.kill()
    owner.communicate()
    await until(lambda: not is_running(pid), within_s=5)


def test_processes_end_with_an_owner_that_ends_by_itself_and_say_nothing(project, tmp_path):
    owner = program(project, tmp_path, "print(call()); print(call())", "pid", {})
    out, err = owner.communicate(timeout=60)
    first, second = out.splitlines()
    assert first == second
    assert (owner.returncode, err) == (0, "")
    assert not is_running(int(first))


def test_what_a_function_prints_goes_to_standard_error_and_it_reads_nothing(project, tmp_path):
    owner = program(project, tmp_path, "print(repr(call()))", "talk", {})
    out, err = owner.communicate(timeout=60)
    assert out == "''\n"
    assert err == "to standard output\nfrom a command\n"


def test_a_fork_of_the_owner_has_processes_of_its_own_and_keeps_none_alive(project, tmp_path):
    rest = """
        first = call()
        ready, wait = os.pipe()
        if os.fork() == 0:
            os.write(wait, f"{call()}".encode())
            os._exit(0)
        os.close(wait)
        theirs = int(os.read(ready, 100))
        os.wait()
        print(first, theirs, call(), flush=True)
    """
    owner = program(project, tmp_path, rest, "pid", {})
    out, err = owner.communicate(timeout=60)
    assert err == ""
    mine, theirs, again = map(int, out.split())
    assert mine == again != theirs
