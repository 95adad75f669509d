"""A tool in a process of its own: a cancel and a timeout end it, and its crash is only an error."""

import asyncio
import contextvars
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from treadle import service
from treadle.errors import ConfigurationError, DefinitionError
from treadle.objects.tool import FunctionTool
from treadle.store.connection import connect
from treadle.tools import isolated

tenant = contextvars.ContextVar("tenant", default="nobody")


def where() -> int:
    """Say which process this is."""
    return os.getpid()


def whose() -> str:
    """Say for whom this is."""
    return tenant.get()


def spin(pid_file: str) -> str:
    """Go round and round."""
    Path(pid_file + ".part").write_text(str(os.getpid()))
    Path(pid_file + ".part").rename(pid_file)
    while True:
        pass


def crash() -> str:
    """End the process in the middle."""
    os.abort()


def keep(name: str, idempotency_key: str, tx) -> str:
    """Keep a pet."""
    tx.execute("CREATE TABLE IF NOT EXISTS pets (name TEXT, key TEXT)")
    tx.execute("INSERT INTO pets VALUES (?, ?)", (name, idempotency_key))
    return f"kept {name} in {os.getpid()}"


FUNCTIONS = (where, whose, spin, crash, keep)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    isolated._end_all()
    assert isolated._live == set()


def tool(function, **fields):
    return FunctionTool(name=function.__name__, runs="server", isolate=True, **fields)


def call(name, /, **arguments):
    return {"name": name, "arguments": arguments}


async def start(workshop, script, *tools):
    scene = await workshop.start([], tools=tools)
    await scene.treadle.close()
    scene.treadle = workshop.open(script, tools=FUNCTIONS)
    return scene


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def spinning(file):
    async with asyncio.timeout(30):
        while not file.exists():
            await asyncio.sleep(0.01)
    return int(file.read_text())


async def test_it_runs_in_a_process_of_its_own_which_is_used_again(workshop):
    script = [{"calls": [call("where")]}, {"calls": [call("where")]}, "Done."]
    scene = await start(workshop, script, tool(where))
    assert (await scene.run()).status == "completed"
    first, second = await scene.results()
    assert first == second != str(os.getpid())


async def test_a_function_that_never_ends_is_stopped_by_its_timeout(workshop, tmp_path):
    file = tmp_path / "pid"
    script = [{"calls": [call("spin", pid_file=str(file))]}, {"calls": [call("where")]}, "Done."]
    scene = await start(workshop, script, tool(spin, timeout="3s"), tool(where))
    run = await scene.create()
    pid = await spinning(file)
    assert (await scene.runs.wait(run.id)).status == "completed"
    assert not is_running(pid)
    stopped, _ = await scene.results()
    assert "spin did not answer within 3 s" in stopped


async def test_a_cancel_ends_it_within_a_second(workshop, tmp_path):
    file = tmp_path / "pid"
    scene = await start(workshop, [{"calls": [call("spin", pid_file=str(file))]}], tool(spin))
    run = await scene.create()
    pid = await spinning(file)
    loop = asyncio.get_running_loop()
    asked = loop.time()
    await scene.runs.cancel(run.id)
    assert (await scene.runs.wait(run.id)).status == "cancelled"
    assert not is_running(pid)
    assert loop.time() - asked < 1


async def test_closing_treadle_ends_it(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "GRACE_S", 0.1)
    file = tmp_path / "pid"
    spinner = tool(spin, effect="pure")
    scene = await start(workshop, [{"calls": [call("spin", pid_file=str(file))]}, "Done."], spinner)
    await scene.create()
    pid = await spinning(file)
    await scene.treadle.close()
    assert not is_running(pid)


async def test_a_crash_is_told_to_the_model_and_the_next_call_works(workshop):
    script = [{"calls": [call("crash")]}, {"calls": [call("where")]}, {"calls": [call("crash")]}, "Done."]
    scene = await start(workshop, script, tool(crash), tool(where))
    assert (await scene.run()).status == "completed"
    first, pid, second = await scene.results()
    assert json.loads(first)["error"] == (
        "crash: its process ended before it answered: it was ended by SIGABRT"
    )
    assert second == first
    assert int(pid) != os.getpid()


async def test_context_variables_and_what_treadle_supplies_are_there(workshop):
    script = [{"calls": [call("whose"), call("keep", name="Rex")]}, "Done."]
    scene = await start(workshop, script, tool(whose), tool(keep, effect="transactional"))
    tenant.set("Ada")
    run = await scene.run()
    assert run.status == "completed"
    results = await scene.results()
    assert "Ada" in results
    connection = connect(workshop.path)
    (row,) = connection.execute("SELECT name, key FROM pets").fetchall()
    connection.close()
    assert row[0] == "Rex"
    assert row[1].startswith(f"tdl:{run.id}:")


async def test_a_function_that_another_process_cannot_import_is_refused_before_the_run(workshop):
    def local() -> str:
        return ""

    scene = await workshop.start([], tools=[FunctionTool(name="local", runs="server", isolate=True)])
    await scene.treadle.close()
    scene.treadle = workshop.open([], tools=[local])
    with pytest.raises(ConfigurationError, match="'local' cannot be imported") as caught:
        await scene.run()
    assert "top of a module" in caught.value.hint


async def test_a_document_isolates_a_function_of_the_project(workshop):
    folder = workshop.folder
    folder.joinpath("treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [isolated_shop]}\n"
    )
    folder.joinpath("isolated_shop.py").write_text(
        "import os\n\ndef where() -> int:\n    'Say where.'\n    return os.getpid()\n"
    )
    folder.joinpath("a.agent.yaml").write_text(
        "version: 1.0.0\nkind: agent\nname: a\nmodel: scripted\ninstructions: x\n"
        "tools:\n  - {type: function, name: where, call: 'isolated_shop:where', isolate: true, effect: pure}\n"
    )
    treadle = workshop.open([{"calls": [call("where")]}, "Done."])
    agent = await treadle.agents.apply(folder / "a.agent.yaml")
    run = await treadle.runs.create_and_wait(
        None, agent=agent, additional_messages=[{"role": "user", "content": "x"}]
    )
    assert run.status == "completed"
    rows = await treadle.store.rows(run.tenant, run.thread_id)
    (result,) = [row.text for row in rows if row.role == "tool"]
    assert int(result) != os.getpid()


async def test_a_document_cannot_isolate_a_function_of_the_client(workshop):
    workshop.folder.joinpath("a.agent.yaml").write_text(
        "version: 1.0.0\nkind: agent\nname: a\nmodel: scripted\ninstructions: x\n"
        "tools:\n  - {type: function, name: f, parameters: {type: object, properties: {}}, isolate: true}\n"
    )
    with pytest.raises(DefinitionError, match="has no process here"):
        workshop.open([]).agents.read(str(workshop.folder / "a.agent.yaml"))


def test_the_output_of_the_command_line_stays_its_own(tmp_path):
    (tmp_path / "treadle.yaml").write_text(
        "version: 1.0.0\nkind: project\npython: {allow_modules: [talking]}\n"
    )
    (tmp_path / "talking.py").write_text(
        "def talk() -> str:\n    'Talk.'\n    print('a word in between')\n    return 'talked'\n"
    )
    (tmp_path / "a.agent.yaml").write_text(
        "version: 1.0.0\nkind: agent\nname: a\ninstructions: x\n"
        "model: {id: scripted, options: {extra: {replies: [{calls: [{name: talk, arguments: {}}]}, Done.]}}}\n"
        "tools:\n  - {type: function, name: talk, call: 'talking:talk', isolate: true}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "treadle", "run", "a.agent.yaml", "x", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a word in between" not in done.stdout
    assert "a word in between" in done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
