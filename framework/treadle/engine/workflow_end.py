"""End a run of a workflow: its child runs first, then its open steps and itself, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from treadle.engine.activation import DISPATCHED, State
from treadle.objects.run import Run, RunError, RunStatus, Usage
from treadle.objects.run_step import Step
from treadle.store.base import Checkpoint

if TYPE_CHECKING:
    from treadle.engine.executor import Executor


async def end_workflow(
    executor: Executor,
    run: Run,
    state: State,
    status: RunStatus,
    *,
    checkpoint: Checkpoint,
    walked_ms: int,
    reason: str | None = None,
    error: RunError | None = None,
    output: Any = None,
) -> Run:
    """End a run of a workflow: its child runs first, then its open steps and itself, in one transaction.

    Errors: LeaseLost when it has moved on.
    """
    if state.open or any(step.child for step in checkpoint.steps):
        await executor.end_children(run)
    now = executor.clock.now_ms()
    written = {s.path: s for s in checkpoint.steps}
    steps = [s for s in checkpoint.steps if not s.is_open]
    opened = [step for _, step in state.open]
    opened += [call for calls in state.recorded.values() for call in calls.values() if call.is_open]
    for step in opened:
        row = written.get(step.path, step)
        note = "outcome unknown: it was under way when the run ended" if row.edge == DISPATCHED else None
        steps.append(
            row.model_copy(
                update={
                    "status": "cancelled",
                    "edge": None,
                    "ended_ms": now,
                    "fence": run.fence,
                    "note": note or row.note,
                }
            )
        )
    usage = Usage(
        prompt_tokens=state.prompt_tokens,
        completion_tokens=state.completion_tokens,
        estimated=state.is_estimated,
    )
    changes: dict[str, Any] = {
        "ended_ms": now,
        "walked_ms": walked_ms,
        "usage": usage,
        "pending": (),
        "wake_ms": None,
        "last_error": error,
        "incomplete_reason": reason if status == "incomplete" else None,
        "output": output,
    }
    committed = await executor.commit(
        run, checkpoint._replace(status=status, changes=changes, steps=steps, now_ms=now)
    )
    return committed.run


def error_of(step: Step) -> RunError:
    """Give the error that failed a run, with the node where it happened."""
    error = step.last_error or RunError(code="server_error", message="it failed")
    return RunError(code=error.code, message=f"{step.node}: {error.message}")
