"""A process that walks runs for `recovery.py`, and does what is written to it, line by line.

Run n asks its tool again and again: turn i of run n is the call ``work(n, i)``. Every dispatch of a model call or a
tool is kept with its time, on the clock that all processes of the machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from treadle.objects.agent import Agent, AgentSpec, Limits, ModelSpec
from treadle.objects.message import ToolCall
from treadle.objects.run import Usage
from treadle.objects.tool import Effect, FunctionTool
from treadle.providers.base import Emit, ModelReply, ModelRequest
from treadle.service import Treadle
from treadle.settings import Settings

now = time.monotonic
USAGE = Usage(prompt_tokens=100, completion_tokens=10)
PARAMETERS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "i": {"type": "integer"}},
    "required": ["n", "i"],
}


class Workload:
    """A model and a tool that take `delay_s` each; the model waits for ever before turn `hang_at`."""

    def __init__(self, *, delay_s: float, turns: int, hang_at: int | None) -> None:
        self.delay_s = delay_s
        self.turns = turns
        self.hang_at = hang_at
        self.dispatched: list[tuple[int, int, str, float]] = []
        self.seen: set[int] = set()
        self.news = asyncio.Event()

    def note(self, n: int, i: int, kind: str) -> None:
        self.dispatched.append((n, i, kind, now()))
        self.seen.add(n)
        self.news.set()

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        del emit
        last = request.messages[-1]
        n, i = (int(part) for part in (last.text or "").split())
        self.note(n, i, "model")
        if i == self.hang_at:
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay_s)
        if i >= self.turns:
            return ModelReply(text="done", usage=USAGE)
        asked = ToolCall(id=f"call_{i}", name="work", arguments=json.dumps({"n": n, "i": i + 1}))
        return ModelReply(tool_calls=(asked,), usage=USAGE, finish_reason="tool_calls")

    async def close(self) -> None:
        pass

    def tool(self) -> Any:
        async def work(n: int, i: int) -> str:
            self.note(n, i, "tool")
            await asyncio.sleep(self.delay_s)
            return f"{n} {i}"

        return work

    async def until(self, runs: int) -> None:
        """Wait until so many runs were dispatched here."""
        while len(self.seen) < runs:
            self.news.clear()
            await self.news.wait()


class Child:
    """The process: its treadle, its runs by number, and the commands."""

    def __init__(self, treadle: Treadle, workload: Workload) -> None:
        self.treadle = treadle
        self.workload = workload
        self.ids: dict[int, str] = {}

    async def agent(self, effect: Effect) -> Agent:
        tool = FunctionTool(name="work", runs="server", effect=effect, parameters=PARAMETERS)
        spec = AgentSpec(
            name="bench",
            model=ModelSpec(id="scripted"),
            tools=(tool,),
            limits=Limits(max_steps=1_000_000, max_tool_calls=1_000_000),
        )
        return await self.treadle.agents.create(spec)

    async def start(self, runs: int, effect: Effect = "pure") -> dict[str, Any]:
        """Start runs, and wait until each was dispatched or stands where it hangs."""
        agent = await self.agent(effect)

        async def one(n: int) -> None:
            message = {"role": "user", "content": f"{n} 0"}
            run = await self.treadle.runs.create(None, agent=agent, additional_messages=[message])
            self.ids[n] = run.id

        await asyncio.gather(*(one(n) for n in range(runs)))
        hang_at = self.workload.hang_at
        while hang_at and sum(d[1] == hang_at and d[2] == "model" for d in self.workload.dispatched) < runs:
            await asyncio.sleep(0.2)
        await self.workload.until(runs)
        return {"ids": self.ids}

    async def until(self, runs: int) -> dict[str, Any]:
        """Wait until so many runs go on here; give when the first and the last did."""
        await self.workload.until(runs)
        first: dict[int, float] = {}
        for n, _, _, at in self.workload.dispatched:
            first.setdefault(n, at)
        return {"first": min(first.values()), "last": max(first.values()), "runs": len(first)}

    async def claimed(self, runs: int) -> dict[str, Any]:
        """Wait until so many runs are walked here; give when that was seen."""
        while self.treadle.executor.walking < runs:
            await asyncio.sleep(0.005)
        return {"at": now()}

    async def cancel(self, ids: dict[str, str], pause_s: float) -> dict[str, Any]:
        """Cancel runs, one after the other begins; give when each was asked for, accepted and seen cancelled."""
        times: dict[str, tuple[float, float, float]] = {}

        async def one(n: str, run_id: str) -> None:
            asked = now()
            await self.treadle.runs.cancel(run_id)
            accepted = now()
            await self.treadle.runs.wait(run_id)
            times[n] = asked, accepted, now()

        tasks: list[asyncio.Task[None]] = []
        for n, run_id in ids.items():
            tasks.append(asyncio.create_task(one(n, run_id)))
            await asyncio.sleep(pause_s)
        await asyncio.gather(*tasks)
        return {"times": times}

    async def cpu(self, seconds: float) -> dict[str, Any]:
        """Give the share of one core that this process takes for a while."""
        began, wall = time.process_time(), now()
        await asyncio.sleep(seconds)
        return {"share": (time.process_time() - began) / (now() - wall)}

    async def write(self, seconds: float, pause_s: float) -> dict[str, Any]:
        """Write something small again and again."""
        thread = await self.treadle.threads.create()
        end, count = now() + seconds, 0
        while now() < end:
            await self.treadle.threads.update(thread.id, metadata={"n": str(count)})
            count += 1
            await asyncio.sleep(pause_s)
        return {"count": count}

    async def dispatched(self) -> dict[str, Any]:
        """Give every dispatch so far."""
        return {"dispatched": self.workload.dispatched}

    async def close(self) -> dict[str, Any]:
        """Close, as SIGTERM has it done, too."""
        began = now()
        await self.treadle.close()
        return {"began": began, "ended": now(), "dispatched": self.workload.dispatched}


async def serve(child: Child) -> None:
    """Do what the lines say, and answer each with one."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    stopping = asyncio.create_task(stopped.wait())
    while True:
        line = asyncio.create_task(reader.readline())
        await asyncio.wait({line, stopping}, return_when=asyncio.FIRST_COMPLETED)
        asked: tuple[str, dict[str, Any]] = ("close", {})
        if not stopping.done() and line.result():
            asked = json.loads(line.result())
        name, given = asked
        answer = await getattr(child, name)(**given)
        print(json.dumps(answer), flush=True)
        if name == "close":
            line.cancel()
            return


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--walk", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--hang-at", type=int)
    args = parser.parse_args()
    workload = Workload(delay_s=args.delay, turns=args.turns, hang_at=args.hang_at)
    treadle = Treadle(
        f"sqlite:///{args.path}",
        settings=Settings(),
        project=args.path.parent,
        tools=[workload.tool()],
        providers={"scripted": workload},
        walk=args.walk,
    )
    opened = now()
    async with treadle:
        print(json.dumps({"opened": opened}), flush=True)
        await serve(Child(treadle, workload))


if __name__ == "__main__":
    asyncio.run(main())
