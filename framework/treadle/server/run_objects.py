"""Runs as answers: of assistants and of workflows."""

from __future__ import annotations

from starlette.responses import Response

from treadle import wire
from treadle.ids import is_workflow_id
from treadle.objects.run import Run
from treadle.server import workflow_objects
from treadle.server.call import Call, json_response

POLL_MS = 50
"""What clients that poll are told to wait: this server is near."""


async def run_json(call: Call, run: Run) -> wire.Json:
    """Give a run; one at requires_action must have what it waits for."""
    if is_workflow_id(run.agent_id):
        return workflow_objects.workflow_run(run, await call.server.workflow_of(run))
    return wire.run(run, await call.server.agent_of(run))


async def run_response(call: Call, run: Run) -> Response:
    """Give a run as an answer."""
    return json_response(await run_json(call, run), headers={"openai-poll-after-ms": str(POLL_MS)})
