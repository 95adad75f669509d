"""What a transactional tool writes is there exactly when its step is: together, or not at all."""

import asyncio
import signal
import subprocess
import sys
import textwrap

import pytest

from treadle.errors import ConfigurationError, StatementError
from treadle.objects.tool import FunctionTool
from treadle.service import Treadle
from treadle.store.base import Checkpoint, Statement
from treadle.store.connection import connect
from treadle.testing.fakes import ScriptedProvider

PETS = "CREATE TABLE IF NOT EXISTS pets (name TEXT PRIMARY KEY ON CONFLICT {}, key TEXT)"


def save(name: str, tx, idempotency_key: str) -> str:
    """Keep a pet."""
    tx.execute(PETS.format("ABORT"))
    tx.execute("INSERT INTO pets VALUES (?, ?)", (name, idempotency_key))
    return f"kept {name}"


def call(tool, /, **arguments):
    return {"name": tool, "arguments": arguments}


def rows(workshop, sql="SELECT name FROM pets ORDER BY name"):
    connection = connect(workshop.path)
    try:
        return [row[0] for row in connection.execute(sql)]
    finally:
        connection.close()


async def test_what_it_writes_is_there_with_its_step(workshop):
    scene = await workshop.start([{"calls": [call("save", name="Rex")]}, "Done."], tools=[save])
    run = await scene.run()
    assert run.status == "completed"
    assert await scene.results() == ["kept Rex"]
    assert rows(workshop) == ["Rex"]
    steps = await scene.treadle.store.steps(run.tenant, run.id)
    assert [s.status for s in steps if s.kind == "tool_call"] == ["completed"]
    assert rows(workshop, "SELECT key FROM pets") == [f"tdl:{run.id}:{steps[1].path}"]


async def test_it_needs_no_intent_since_nothing_happens_before_its_step_is_kept(workshop):
    commits = []
    treadle = workshop.open([{"calls": [call("save", name="Rex")]}, "Done."])
    inner = treadle.store.commit

    async def commit(checkpoint):
        commits.append([(s.kind, s.status) for s in checkpoint.steps])
        return await inner(checkpoint)

    treadle.store.commit = commit
    agent = await treadle.agents.create(model="scripted", tools=[save])
    thread = await treadle.threads.create(messages=[{"role": "user", "content": "Keep Rex"}])
    await treadle.runs.create_and_wait(thread.id, agent=agent)
    assert [("tool_call", "completed")] in commits
    assert ("tool_call", "in_progress") not in [step for steps in commits for step in steps]


@pytest.mark.parametrize("conflict", ["ABORT", "ROLLBACK", "FAIL"])
async def test_what_the_database_refuses_is_told_to_the_model_and_nothing_is_written(workshop, conflict):
    def twice(tx) -> str:
        tx.execute(PETS.format(conflict))
        tx.execute("INSERT INTO pets VALUES ('Tom', '')")
        tx.execute("INSERT INTO pets VALUES ('Tom', '')")
        return "kept both"

    script = [{"calls": [call("twice")]}, {"calls": [call("save", name="Rex")]}, "Done."]
    scene = await workshop.start(script, tools=[twice, save])
    run = await scene.run()
    assert run.status == "completed"
    refused, kept = await scene.results()
    assert "the statement 'INSERT INTO pets VALUES ('Tom', '')' was refused" in refused
    assert "UNIQUE constraint failed: pets.name" in refused
    assert kept == "kept Rex"
    assert rows(workshop) == ["Rex"]
    (step, _) = [s for s in await scene.treadle.store.steps(run.tenant, run.id) if s.kind == "tool_call"]
    assert step.last_error.code == "tool_error"


async def test_one_refused_call_of_several_leaves_the_others_alone(workshop):
    calls = [call("save", name=name) for name in ("Rex", "Tom", "Rex", "Ada", "Tom")]
    scene = await workshop.start([{"calls": calls}, "Done."], tools=[save])
    run = await scene.run()
    assert run.status == "completed"
    results = await scene.results()
    assert sum("UNIQUE constraint" in text for text in results) == 2
    assert rows(workshop) == ["Ada", "Rex", "Tom"]


@pytest.mark.parametrize("conflict", ["ABORT", "ROLLBACK"])
async def test_the_refused_call_of_one_run_leaves_other_runs_alone(workshop, conflict):
    def keep(name: str, tx) -> str:
        tx.execute(PETS.format(conflict))
        tx.execute("INSERT INTO pets VALUES (?, '')", (name,))
        return f"kept {name}"

    def reply(request):
        last = request.messages[-1]
        return {"calls": [call("keep", name=last.plain)]} if last.role == "user" else last.plain

    treadle = workshop.open(ScriptedProvider(reply))
    agent = await treadle.agents.create(model="scripted", tools=[keep])

    async def one(n):
        thread = await treadle.threads.create(messages=[{"role": "user", "content": f"pet {n % 20}"}])
        return await treadle.runs.create_and_wait(thread.id, agent=agent)

    runs = await asyncio.gather(*(one(n) for n in range(40)))
    assert {r.status for r in runs} == {"completed"}
    assert sum("UNIQUE constraint" in r.output for r in runs) == 20
    assert sum(r.output.startswith("kept") for r in runs) == 20
    assert len(rows(workshop)) == 20


async def test_treadles_own_tables_are_out_of_reach(workshop):
    def forget(tx) -> str:
        tx.execute("DELETE FROM messages")
        return "forgotten"

    scene = await workshop.start([{"calls": [call("forget")]}, "Done."], tools=[forget])
    assert (await scene.run()).status == "completed"
    (told,) = await scene.results()
    assert "'messages' is treadle's own" in told
    assert [role for role, _ in await scene.texts()] == ["user", "assistant", "tool", "assistant"]


async def test_a_refused_statement_fails_the_run_of_a_strict_tool(workshop):
    tool = FunctionTool(name="save", runs="server", effect="transactional", on_error="fail")
    script = [{"calls": [call("save", name="Rex"), call("save", name="Rex")]}, "Done."]
    treadle = workshop.open(script, tools=[save])
    agent = await treadle.agents.create(model="scripted", tools=[tool])
    thread = await treadle.threads.create(messages=[{"role": "user", "content": "Keep Rex"}])
    run = await treadle.runs.create_and_wait(thread.id, agent=agent)
    assert run.status == "failed"
    assert run.last_error.code == "tool_error"
    assert "UNIQUE constraint failed" in run.last_error.message
    assert rows(workshop) == ["Rex"]


async def test_a_cancelled_call_writes_nothing(workshop):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx) -> str:
        tx.execute("INSERT INTO pets VALUES ('Rex', '')")
        begun.set()
        await go_on.wait()
        return "kept"

    scene = await workshop.start(
        [{"calls": [call("save", name="Tom")]}, {"calls": [call("slow")]}], tools=[save, slow]
    )
    run = await scene.create()
    async with asyncio.timeout(30):
        await begun.wait()
    await scene.runs.cancel(run.id)
    assert (await scene.runs.wait(run.id)).status == "cancelled"
    go_on.set()
    assert rows(workshop) == ["Tom"]


async def test_a_function_without_tx_cannot_be_transactional(workshop):
    def plain() -> str:
        return ""

    treadle = workshop.open([], tools=[plain])
    tool = FunctionTool(name="plain", runs="server", effect="transactional")
    agent = await treadle.agents.create(model="scripted", tools=[tool])
    thread = await treadle.threads.create(messages=[{"role": "user", "content": "x"}])
    with pytest.raises(ConfigurationError, match="takes no `tx`"):
        await treadle.runs.create_and_wait(thread.id, agent=agent)


async def test_a_document_cannot_make_the_clients_function_transactional(workshop):
    from treadle.errors import DefinitionError

    workshop.folder.joinpath("a.agent.yaml").write_text(
        "version: 1.0.0\nkind: agent\nname: a\nmodel: scripted\ninstructions: x\n"
        "tools:\n  - {type: function, name: f, parameters: {type: object, properties: {}}, effect: transactional}\n"
    )
    with pytest.raises(DefinitionError, match="cannot write with its step"):
        workshop.open([]).agents.read(str(workshop.folder / "a.agent.yaml"))


async def test_a_checkpoint_whose_statement_is_refused_is_not_written(workshop):
    scene = await workshop.start([{"calls": [call("ask")]}, "Done."], tools=[client_tool()])
    run = await scene.run()
    store = scene.treadle.store
    checkpoint = Checkpoint(run, "cancelled", {"ended_ms": 1}, statements=[Statement("DELETE FROM runs")])
    with pytest.raises(StatementError):
        await store.commit(checkpoint)
    assert (await scene.runs.get(run.id)).status == "requires_action"


def client_tool():
    return FunctionTool(name="ask", parameters={"type": "object", "properties": {}})


PROGRAM = textwrap.dedent("""
    import asyncio, os, signal, sys
    from treadle.service import Treadle
    from treadle.testing.fakes import ScriptedProvider

    def save(name: str, tx) -> str:
        "Keep a pet."
        tx.execute("CREATE TABLE IF NOT EXISTS pets (name TEXT)")
        tx.execute("INSERT INTO pets VALUES (?)", (name,))
        return f"kept {name}"

    def reply(request):
        last = request.messages[-1]
        return {"calls": [{"name": "save", "arguments": {"name": "Rex"}}]} if last.role == "user" else "Done."

    async def main(path, moment):
        treadle = Treadle(f"sqlite:///{path}", tools=[save], providers={"scripted": ScriptedProvider(reply)}, project=".")
        commit = treadle.store.commit

        async def dying(checkpoint):
            if checkpoint.statements and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            committed = await commit(checkpoint)
            if checkpoint.statements and moment == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return committed

        treadle.store.commit = dying
        agent = await treadle.agents.create(model="scripted", name="a", tools=[save])
        thread = await treadle.threads.create(messages=[{"role": "user", "content": "Keep Rex"}])
        await treadle.runs.create_and_wait(thread.id, agent=agent)

    asyncio.run(main(*sys.argv[1:]))
""")


def crash(workshop, moment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, workshop.path, moment], cwd=workshop.folder, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("moment", "kept"), [("before", 0), ("after", 1)])
def test_a_crash_leaves_the_row_exactly_with_the_step_and_the_resumed_run_has_one(workshop, moment, kept):
    crash(workshop, moment)
    made = rows(workshop, "SELECT count(*) FROM sqlite_schema WHERE name = 'pets'") == [1]
    assert made == bool(kept)
    assert rows(workshop, "SELECT count(*) FROM steps WHERE kind = 'tool_call'") == [kept]
    called = []

    def save(name: str, tx) -> str:
        called.append(name)
        tx.execute("CREATE TABLE IF NOT EXISTS pets (name TEXT)")
        tx.execute("INSERT INTO pets VALUES (?)", (name,))
        return f"kept {name} again"

    async def resume():
        provider = ScriptedProvider(lambda _: "Done.")
        async with Treadle(
            f"sqlite:///{workshop.path}",
            tools=[save],
            providers={"scripted": provider},
            project=workshop.folder,
        ) as treadle:
            (run,) = await treadle.runs.list()
            return await treadle.runs.wait((await treadle.runs.resume(run.id)).id)

    done = asyncio.run(resume())
    assert (done.status, done.last_error) == ("completed", None)
    assert rows(workshop) == ["Rex"]
    assert called == ["Rex"] * (1 - kept)
