"""The weather agent from Python: two turns on one thread, the second one streamed."""

import asyncio
from pathlib import Path

from treadle import Treadle

PROJECT = Path(__file__).parents[1] / "01-weather"


async def main() -> None:
    """Ask, wait for the answer, then ask on and print the answer while it is written."""
    async with Treadle("sqlite:///:memory:", project=PROJECT) as treadle:
        agent = await treadle.agents.apply(PROJECT / "weather.agent.yaml")
        thread = await treadle.threads.create()

        await treadle.messages.create(thread.id, role="user", content="What's the weather in Paris?")
        run = await treadle.runs.create_and_wait(thread.id, agent=agent.id)
        print(run.status, "-", run.output)

        await treadle.messages.create(thread.id, role="user", content="and Oslo, in Fahrenheit?")
        async for event in treadle.runs.stream(thread.id, agent=agent.id):
            if event.name == "thread.message.delta":
                print(event.data["text"], end="", flush=True)
        print()


asyncio.run(main())
