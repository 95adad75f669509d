"""A process that is killed loses nothing that it said was done."""

import asyncio
import signal
import subprocess
import sys
import textwrap

import pytest

from treadle.service import Treadle
from treadle.store.check import check
from treadle.testing.fakes import ScriptedProvider

PROGRAM = textwrap.dedent("""
    import asyncio, sys
    from treadle.service import Treadle
    from treadle.testing.fakes import ScriptedProvider

    def note(text: str) -> str:
        "Take a note."
        return f"noted {text}"

    def reply(request):
        last = request.messages[-1]
        if last.role == "user":
            return {"calls": [{"name": "note", "arguments": {"text": last.plain}}]}
        return f"{len(request.messages)} messages so far"

    async def main(path, stop_at):
        treadle = Treadle(f"sqlite:///{path}", tools=[note], providers={"scripted": ScriptedProvider(reply)}, project=".")
        agents = await treadle.agents.list()
        agent = agents[0] if agents else await treadle.agents.create(model="scripted", name="a", tools=[note])
        threads = await treadle.threads.list()
        thread = threads[0] if threads else await treadle.threads.create()
        while True:
            turn = sum(m.role == "user" for m in await treadle.messages.list(thread.id, limit=1000))
            await treadle.messages.create(thread.id, content=f"turn {turn}")
            run = await treadle.runs.create_and_wait(thread.id, agent=agent)
            print(turn, run.status, run.output, flush=True)

    asyncio.run(main(*sys.argv[1:]))
""")


@pytest.mark.parametrize("kill_after", [1, 4])
def test_every_turn_that_was_reported_is_there_after_kill_9(tmp_path, kill_after):
    path = tmp_path / "treadle.db"
    reported = []
    for _ in range(2):
        started = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path, "0"], stdout=subprocess.PIPE, text=True, cwd=tmp_path
        )
        lines = [started.stdout.readline().strip() for _ in range(kill_after)]
        started.send_signal(signal.SIGKILL)
        rest = started.stdout.read().splitlines()
        started.wait()
        started.stdout.close()
        reported += [*lines, *rest]
        check_reported(path, reported, tmp_path)
        settle(path, tmp_path)


def check_reported(path, reported, folder):
    """What was printed is stored, and what is stored is whole but for a run that was under way."""
    assert check(path) == []

    async def read():
        async with Treadle(f"sqlite:///{path}", project=folder) as treadle:
            (thread,) = await treadle.threads.list()
            answers, turn = {}, ""
            for message in await treadle.messages.list(thread.id, order="asc", limit=1000):
                turn = message.text if message.role == "user" else turn
                answers[turn] = message.text
            for line in reported:
                number, status, text = line.split(" ", 2)
                assert status == "completed"
                assert answers[f"turn {number}"] == text

    asyncio.run(read())


def settle(path, folder):
    """Cancel the run that the kill interrupted, as a person would who wants to go on."""

    async def cancel():
        async with Treadle(
            f"sqlite:///{path}", providers={"scripted": ScriptedProvider([])}, project=folder
        ) as treadle:
            for run in await treadle.runs.list(limit=1000):
                if run.status == "in_progress":
                    await treadle.runs.cancel(run.id)
                    assert (await treadle.runs.get(run.id)).status == "cancelled"

    asyncio.run(cancel())
