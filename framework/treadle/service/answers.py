"""What answers to a waiting run write: the outputs of a client's functions, and a person's decisions on calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from treadle.errors import NotFound, StateError, ToolOutputsError
from treadle.objects.event import Event
from treadle.objects.message import Message, estimate_tokens
from treadle.objects.run import Answer, PendingCall, Run, RunError
from treadle.objects.run_step import Decision, Step
from treadle.store.base import Blob, Checkpoint
from treadle.store.rows import node_of
from treadle.text import clean, is_sound, utf8_bytes
from treadle.tools.base import BoundTool
from treadle.tools.gate import Outcome, admit, digest, digest_of, failure, shorten

Tools = Mapping[str, BoundTool]


def match_outputs(run: Run, outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give the outputs in the order of the calls that wait for them.

    Errors: StateError unless the run waits for outputs; ToolOutputsError for an id that is wrong, missing or doubled.
    """
    if run.status != "requires_action":
        raise StateError(
            f'Runs in status "{run.status}" do not accept tool outputs.',
            status=run.status,
            event="submit_tool_outputs",
            run=run,
        )
    if run.required_approvals:
        names = ", ".join(p.call.name for p in run.required_approvals if p.call is not None)
        raise StateError(
            f"run {run.id} waits for a decision on {names} before it takes tool outputs",
            status=run.status,
            event="submit_tool_outputs",
            hint="approve or reject first",
            run=run,
        )
    wanted = [p.call.id for p in run.pending if p.call is not None]
    if not wanted:
        nodes = ", ".join(p.path for p in run.required_answers)
        raise StateError(
            f"run {run.id} waits for a person to answer {nodes}: no call of it takes tool outputs",
            status=run.status,
            event="submit_tool_outputs",
            hint="answer it",
            run=run,
        )
    given: dict[str, str] = {}
    for output in outputs:
        id_, text = output.get("tool_call_id"), output.get("output")
        if not isinstance(id_, str) or not isinstance(text, str):
            raise ToolOutputsError(
                "a tool output needs a tool_call_id and an output, both texts",
                status=run.status,
                event="submit",
            )
        if not is_sound(text):
            raise ToolOutputsError(f"the output of {id_} has half a character or a NUL", status=run.status)
        if id_ in given:
            raise ToolOutputsError(f"the output of {id_} is given twice", status=run.status, event="submit")
        given[id_] = text
    if set(given) != set(wanted) or len(wanted) != len(given):
        raise ToolOutputsError(
            f"Expected tool outputs for call_ids {wanted}, got {list(given)}",
            status=run.status,
            event="submit",
            hint="give the outputs of all calls at once",
        )
    return [given[id_] for id_ in wanted]


def told_apart(pending: Sequence[PendingCall]) -> tuple[PendingCall, ...]:
    """Give what a run waits for with ids of which each is of one call: the calls of two child runs may have the same.

    Shapes: such an id has the id of its run behind it.
    """
    counts = Counter(p.call.id for p in pending if p.call is not None)
    told: list[PendingCall] = []
    for one in pending:
        call = one.call
        if call is not None and counts[call.id] > 1:
            one = one.model_copy(update={"call": call.model_copy(update={"id": _apart(one, call.id)})})  # noqa: PLW2901 - a copy
        told.append(one)
    return tuple(told)


def own_id(pending: PendingCall) -> str:
    """Give the id that a call has in the run that made it."""
    assert pending.call is not None
    return pending.call.id.removesuffix(f".{pending.run_id}")


def is_named(pending: PendingCall, call_id: object) -> bool:
    """Tell whether an id is that of a call, with its run's behind it or without."""
    return pending.call is not None and call_id in (pending.call.id, _apart(pending, own_id(pending)))


def _apart(pending: PendingCall, id_: str) -> str:
    return f"{id_}.{pending.run_id}"


def parted(run: Run, outputs: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Give the outputs that a run is given for calls of its child runs, by the id of the run that made the call.

    Errors: ToolOutputsError for an id that is wrong, or where there is none.
    """
    waiting = [p for p in run.pending if p.call is not None and p.action == "output"]
    parts: dict[str, list[dict[str, Any]]] = {}
    for output in outputs:
        id_ = output.get("tool_call_id")
        pending = next((p for p in waiting if is_named(p, id_)), None)
        if pending is None or pending.run_id is None:
            break
        parts.setdefault(pending.run_id, []).append({**output, "tool_call_id": own_id(pending)})
    if not parts or sum(map(len, parts.values())) != len(outputs):
        wanted = [p.call.id for p in waiting if p.call is not None]
        raise ToolOutputsError(
            f"Expected tool outputs for call_ids {wanted}, got {[o.get('tool_call_id') for o in outputs]}",
            status=run.status,
            event="submit",
            hint="give the outputs of all calls of a run at once",
        )
    return parts


def outputs_checkpoint(
    run: Run, texts: Sequence[str], *, steps: Mapping[str, Step], last_seq: int, tools: Tools, now_ms: int
) -> Checkpoint:
    """Give what the outputs of all calls write.

    What a client gives is kept as it is, unless the tool itself says how long a result may be.
    """
    messages: list[Message] = []
    ended: list[Step] = []
    blobs: list[Blob] = []
    for seq, (pending, text) in enumerate(zip(run.pending, texts, strict=True), last_seq + 1):
        assert pending.call is not None
        tool = tools.get(pending.call.name)
        outcome = Outcome(text)
        if tool is not None and "max_result_chars" in tool.spec.model_fields_set:
            outcome = shorten(outcome, tool.spec.max_result_chars)
        if outcome.whole is not None:
            blobs.append(Blob(digest(outcome.whole), outcome.whole.encode()))
        messages.append(_result(run, pending, outcome.text, seq, now_ms))
        ended.append(
            steps[pending.path].model_copy(
                update={
                    "status": "completed",
                    "edge": None,
                    "ended_ms": now_ms,
                    "message_seq": seq,
                    "full_output": digest(outcome.whole) if outcome.whole is not None else None,
                }
            )
        )
    return Checkpoint(
        run,
        "queued",
        {"pending": (), "wake_ms": None},
        messages=messages,
        steps=ended,
        events=[Event(run.id, "thread.run.queued", run.id)],
        blobs=blobs,
        now_ms=now_ms,
    )


def find_pending(run: Run, call_id: str | None) -> PendingCall:
    """Give the call that a person decides on: the one that is named, or the only one.

    Errors: StateError when the run waits for nobody's decision, or for several and none is named; NotFound.
    """
    waiting = run.required_approvals
    if not waiting:
        raise _undecided(run, "decide", f"run {run.id} is {run.status}: no call of it waits for a person")
    ids = [p.call.id for p in waiting if p.call is not None]
    if call_id is None:
        if len(waiting) == 1:
            return waiting[0]
        said = f"{len(waiting)} calls of run {run.id} wait for a person"
        raise _undecided(run, "decide", said, among=", ".join(ids))
    for pending in waiting:
        if is_named(pending, call_id):
            return pending
    raise NotFound("waiting call", call_id, hint=f"waiting: {', '.join(ids)}")


def find_question(run: Run, node: str | None) -> PendingCall:
    """Give the question that somebody answers: that of the node that is named, or the only one.

    Errors: StateError when the run asks nobody, or asks several things and none is named; NotFound.
    """
    waiting = run.required_answers
    if not waiting:
        still = " now: it asks when nothing else of it goes on" if run.status == "in_progress" else ""
        raise _undecided(run, "answer", f"run {run.id} is {run.status}, and asks nothing{still}")
    if node is None:
        if len(waiting) == 1:
            return waiting[0]
        said = f"run {run.id} asks {len(waiting)} questions"
        raise _undecided(run, "answer", said, among=_listed(waiting))
    chosen = [p for p in waiting if node in (p.path, _whole_name(p))] or [
        p for p in waiting if node in _names(p.path)
    ]
    if len(chosen) == 1:
        return chosen[0]
    paths = _listed(chosen or waiting)
    if chosen:
        raise _undecided(run, "answer", f"'{node}' asks {len(chosen)} questions", among=paths)
    raise NotFound("waiting question", node, hint=f"waiting: {paths}")


def _undecided(run: Run, event: str, said: str, *, among: str | None = None) -> StateError:
    """Say that it is not clear what of a run somebody decides on."""
    hint = None if among is None else f"name one: {among}"
    return StateError(said, status=run.status, event=event, hint=hint, run=run)


def _whole_name(pending: PendingCall) -> str:
    """Give the path of a question, with its run before it where that is a child run."""
    return pending.path if pending.run_id is None else f"{pending.run_id}:{pending.path}"


def _listed(waiting: Sequence[PendingCall]) -> str:
    """List questions by their paths; those of several child runs may have the same one."""
    paths = [p.path for p in waiting]
    return ", ".join(p.path if paths.count(p.path) == 1 else _whole_name(p) for p in waiting)


def _names(path: str) -> tuple[str, str]:
    """Give the id of the node of a path, whole and without the frames around it."""
    node = node_of(path)
    return node, node.rpartition("/")[2]


def answer_checkpoint(run: Run, step: Step, answer: Answer, *, now_ms: int) -> Checkpoint:
    """Give what the answer to a question writes; a function that asked has it as the result of its call."""
    given = answer.model_dump(mode="json")
    is_call = step.path.rpartition("/")[2].isdigit()
    changes: dict[str, Any] = (
        {"status": "completed", "edge": None, "ended_ms": now_ms} if is_call else {"edge": "answered"}
    )
    said = {"answered": True, "by": answer.by}
    return Checkpoint(
        run,
        "queued",
        {"pending": (), "wake_ms": None},
        steps=[step.model_copy(update={**changes, "result": given})],
        events=[
            Event(run.id, "thread.run.step.in_progress", step.path, said),
            Event(run.id, "thread.run.queued", run.id),
        ],
        now_ms=now_ms,
    )


def approved(run: Run, pending: PendingCall, tools: Tools, *, arguments: str | None, seen: str | None) -> str:
    """Give the digest that a consent binds to, with the arguments as the person made them.

    Errors: StateError when edited arguments do not fit the tool, or the call is not what the person saw.
    """
    call = pending.call
    assert call is not None
    if seen is not None and seen != pending.digest:
        raise StateError(
            f"call {call.id} of run {run.id} is not what was decided on",
            status=run.status,
            event="approve",
            hint="look at it again",
            run=run,
        )
    if arguments is None:
        assert pending.digest is not None
        return pending.digest
    edited = call.model_copy(update={"arguments": arguments})
    found = admit(tools, edited)
    if isinstance(found, Outcome):
        raise StateError(
            f"the edited arguments cannot be used: {found.message}",
            status=run.status,
            event="approve",
            hint="give JSON that fits the tool's parameters",
            run=run,
        )
    return digest_of(found.tool, found.arguments, run_id=run.id, path=pending.path)


def decision_checkpoint(
    run: Run, pending: PendingCall, decision: Decision, *, step: Step, last_seq: int
) -> Checkpoint:
    """Give what a decision writes: a call that may run goes on when the last one is decided, another gets its result.

    Shapes: the run moves to queued with the last decision, else it keeps waiting.
    """
    now = decision.at_ms
    rest = tuple(p for p in run.pending if p.path != pending.path)
    messages: list[Message] = []
    said: dict[str, Any] = {"decision": decision.verdict, "by": decision.by}
    events: list[Event] = []
    if decision.verdict == "approve":
        step = step.model_copy(update={"edge": "approved", "decision": decision})
        events.append(Event(run.id, "thread.run.step.in_progress", step.path, said))
    else:
        outcome = _refusal(pending, decision)
        messages.append(_result(run, pending, outcome.text, last_seq + 1, now))
        step = step.model_copy(
            update={
                "status": "completed",
                "edge": None,
                "ended_ms": now,
                "message_seq": last_seq + 1,
                "decision": decision,
                "last_error": RunError(code=outcome.code or "", message=outcome.message or ""),
            }
        )
    until = [p.until_ms for p in rest if p.until_ms is not None]
    changes = {"pending": rest, "wake_ms": min(until, default=None)}
    if not rest:
        events.append(Event(run.id, "thread.run.queued", run.id))
    return Checkpoint(
        run,
        "requires_action" if rest else "queued",
        changes,
        messages=messages,
        steps=[step],
        events=events,
        now_ms=now,
    )


def _refusal(pending: PendingCall, decision: Decision) -> Outcome:
    """Give what the model is told of a call that a person did not let run, or knows something about."""
    reason = f": {clean(decision.reason)}" if decision.reason else ""
    if pending.action == "unknown":
        return failure(
            "outcome_unknown", f"outcome unknown: the call was interrupted; it was not repeated{reason}"
        )
    who = f" by {decision.by}" if decision.by else ""
    return failure("approval_rejected", f"not run: rejected{who}{reason}")


def _result(run: Run, pending: PendingCall, text: str, seq: int, now_ms: int) -> Message:
    return Message(
        thread_id=run.thread_id,
        tenant=run.tenant,
        seq=seq,
        role="tool",
        text=text,
        reply_seq=pending.reply_seq,
        call_index=pending.call_index,
        tokens=estimate_tokens(utf8_bytes(text)),
        run_id=run.id,
        created_ms=now_ms,
    )
