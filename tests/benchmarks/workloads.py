"""The same work for treadle: a scripted model without latency, a tool that does nothing, 1 KB of text a step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from floor import TEXT

from treadle.objects.agent import Agent, AgentSpec, Limits, ModelSpec
from treadle.objects.message import ToolCall
from treadle.objects.run import Usage
from treadle.objects.tool import FunctionTool
from treadle.providers.base import ModelReply, ModelRequest
from treadle.service import Treadle
from treadle.settings import Settings
from treadle.testing.fakes import ScriptedProvider

USAGE = Usage(prompt_tokens=100, completion_tokens=10)
CALL = ModelReply(
    text=TEXT,
    tool_calls=(ToolCall(id="call_1", name="work", arguments="{}"),),
    usage=USAGE,
    finish_reason="tool_calls",
)
ANSWER = ModelReply(text=TEXT, usage=USAGE)


async def work() -> str:
    """Do nothing, and say 1 KB about it."""
    return TEXT


def work_in_thread() -> str:
    """Do the same in a function that is not async."""
    return TEXT


def script(turns: int) -> Callable[[ModelRequest], ModelReply]:
    """Ask for a tool `turns` times in a row, then answer."""
    asked = 0

    def reply(_: ModelRequest) -> ModelReply:
        nonlocal asked
        if asked < turns:
            asked += 1
            return CALL
        asked = 0
        return ANSWER

    return reply


def open_treadle(
    path: Path, *, durability: str = "normal", provider: Any, tools: tuple[Callable[..., Any], ...] = (work,)
) -> Treadle:
    settings = Settings(durability="full" if durability == "full" else "normal")
    return Treadle(
        f"sqlite:///{path}",
        settings=settings,
        project=path.parent,
        tools=tools,
        providers={"scripted": provider},
    )


async def make_agent(
    treadle: Treadle, *, effect: str = "pure", tool: str = "work", has_tool: bool = True
) -> Agent:
    tools = (FunctionTool(name=tool, runs="server", effect=effect, parameters={"type": "object"}),)
    spec = AgentSpec(
        name="bench",
        model=ModelSpec(id="scripted"),
        tools=tools if has_tool else (),
        limits=Limits(max_steps=100_000, max_tool_calls=100_000),
    )
    return await treadle.agents.create(spec)


async def one_run(treadle: Treadle, agent: Agent) -> None:
    """A new thread, its message and a run of it, accepted in one transaction."""
    run = await treadle.runs.create_and_wait(
        None, agent=agent, additional_messages=[{"role": "user", "content": TEXT}]
    )
    assert run.status == "completed", run.last_error


async def crowd(treadle: Treadle, agent: Agent, runs: int) -> list[float]:
    """Many runs at once; gives each one's seconds."""
    loop = asyncio.get_running_loop()

    async def one() -> float:
        began = loop.time()
        await one_run(treadle, agent)
        return loop.time() - began

    return list(await asyncio.gather(*(one() for _ in range(runs))))


def slow_model(delay_s: float) -> ScriptedProvider:
    return ScriptedProvider(lambda _: ANSWER, delay_s=delay_s)
