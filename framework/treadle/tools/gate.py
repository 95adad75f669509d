"""The one way to a tool: every call, whoever asks, passes here.

Rules

1. Arguments are decoded strictly and held against the tool's schema before anything runs.
2. What a model got wrong goes back to it as an error it can act on; it never ends the run.
3. A call that needs a person or a client is not dispatched; what a person agreed to is this call of this tool
   with these arguments, and nothing else.
4. A tool has the time that it declares, and its result the length.
5. A repeated attempt is made only where the tool's effect allows it, with the same idempotency key.
6. The model sees what went wrong in a line, never a stack trace.
7. What a tool of effect `transactional` writes goes with its result; a call that failed writes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from treadle.errors import StateError, ToolError
from treadle.objects.message import ToolCall
from treadle.objects.record import parse_duration
from treadle.objects.run_step import Decision
from treadle.objects.tool import Retry
from treadle.store.base import Statement
from treadle.text import clean
from treadle.tools import approval
from treadle.tools.approval import Question
from treadle.tools.arguments import ArgumentsError, decode
from treadle.tools.base import BoundTool, CallContext
from treadle.tools.transaction import Transaction

logger = logging.getLogger("treadle.tools")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave: the text for the model, and what it says about the call.

    Shapes: `code` is set where the call failed; `whole` is the full text where `text` is cut. `statements` are
    to be written with the result. `is_json` says that the whole text is the JSON of a value that was no text.
    """

    text: str
    code: str | None = None
    message: str | None = None
    whole: str | None = None
    statements: Sequence[Statement] = ()
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may run: its tool and its arguments, decoded and valid."""

    tool: BoundTool
    call: ToolCall
    arguments: dict[str, Any]
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """A call that waits for a person: what it would be, what the person is asked, and what the answer binds to."""

    tool: BoundTool
    call: ToolCall
    arguments: dict[str, Any]
    question: Question
    digest: str


def failure(code: str, message: str) -> Outcome:
    """Give the outcome of a call that failed, as the model reads it."""
    message = clean(message)
    return Outcome(json.dumps({"error": message}, ensure_ascii=False), code, message)


def admit(
    tools: Mapping[str, BoundTool],
    call: ToolCall,
    *,
    run_id: str = "",
    path: str = "",
    decision: Decision | None = None,
) -> Admitted | Withheld | Outcome:
    """Let a call in, hold it back for a person, or give the error that goes back to the model.

    Shapes: `decision` is what a person decided on it; it counts only for exactly what was decided on.
    """
    tool = tools.get(call.name)
    if tool is None:
        known = ", ".join(sorted(tools)) or "none"
        return failure("unknown_tool", f"there is no tool '{call.name[:80]}'; the tools are: {known}")
    if decision is not None and decision.arguments is not None:
        call = call.model_copy(update={"arguments": decision.arguments})
    try:
        arguments = decode(call.arguments)
    except ArgumentsError as e:
        return failure("invalid_arguments", f"{call.name}: {e}")
    if tool.problems_of is not None:
        problems = tool.problems_of(arguments)
        if problems:
            return failure(
                "invalid_arguments", f"{call.name}: the arguments do not fit: {'; '.join(problems)}"
            )
    if tool.asks is None and decision is None:
        return Admitted(tool, call, arguments)
    binding = digest_of(tool, arguments, run_id=run_id, path=path)
    if decision is not None and decision.verdict == "approve" and decision.digest == binding:
        return Admitted(tool, call, arguments, decision)
    question = tool.asks(arguments) if tool.asks is not None else None
    if decision is not None:
        question = question or Question(f"{call.name} is not what was decided on")
    if question is None:
        return Admitted(tool, call, arguments)
    return Withheld(tool, call, arguments, question, binding)


def digest_of(tool: BoundTool, arguments: Mapping[str, Any], *, run_id: str, path: str) -> str:
    """Name exactly what would run: the tool as it is declared and told to the model, the arguments, the step."""
    told = tool.definition
    declared = tool.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    definition = {
        "spec": declared, "name": told.name, "description": told.description, "parameters": told.parameters,
    }  # fmt: skip
    return approval.digest(definition, arguments, run_id=run_id, path=path)


async def dispatch(admitted: Admitted, context: CallContext) -> Outcome:
    """Run an admitted call to its outcome, once.

    Errors: StateError for a call that needs a person and has none; nothing runs then.
    """
    tool = admitted.tool
    if admitted.decision is None and tool.asks is not None and tool.asks(admitted.arguments) is not None:
        raise StateError(f"tool {tool.spec.name} waits for a person: it cannot be called", event="dispatch")
    outcome = shorten(await _attempt(admitted, context), tool.spec.max_result_chars)
    if admitted.decision is None or admitted.decision.arguments is None:
        return outcome
    changed = f"\n[a person changed the arguments to {admitted.decision.arguments}]"
    return replace(outcome, text=outcome.text + changed)


def wait_s(tool: BoundTool, code: str, attempt: int, *, of: str) -> float | None:
    """Give the wait before a failed call is made again, None where its retry rule or its effect forbids it."""
    retry = tool.spec.retry
    if retry is None or tool.spec.effect == "once" or attempt >= retry.max_attempts:
        return None
    return delay_s(retry, attempt, of=of) if is_repeated(retry, code) else None


def is_repeated(retry: Retry, code: str) -> bool:
    """Tell whether a retry rule covers an error code; `http_5xx` covers `http_503`."""
    return code in retry.on or (code.startswith("http_") and f"{code[:6]}xx" in retry.on)


def delay_s(retry: Retry, attempt: int, *, of: str = "") -> float:
    """Give the wait after that many attempts, in seconds.

    Shapes: `of` names what is repeated: jitter differs from name to name, and is the same each time for one.
    """
    longest = parse_duration(retry.max_delay)
    wait = min(longest, parse_duration(retry.initial_delay) * retry.backoff ** (attempt - 1))
    if retry.jitter == "none":
        return wait
    share = hashlib.blake2b(f"{of}\x00{attempt}".encode(), digest_size=8).digest()
    return wait * int.from_bytes(share, "big") / 2**64


async def _attempt(admitted: Admitted, context: CallContext) -> Outcome:
    if admitted.tool.spec.effect != "transactional":
        return await _call(admitted, context)
    tx = Transaction()
    try:
        outcome = await _call(admitted, replace(context, tx=tx))
    finally:
        # A function that nobody waits for any more finds it closed.
        statements = tx.close()
    return outcome if outcome.code is not None else replace(outcome, statements=statements)


async def _call(admitted: Admitted, context: CallContext) -> Outcome:
    tool = admitted.tool
    assert tool.invoke is not None
    try:
        if tool.timeout_s is None:
            value = await tool.invoke(admitted.arguments, context)
        else:
            async with asyncio.timeout(tool.timeout_s):
                value = await tool.invoke(admitted.arguments, context)
    except TimeoutError:
        if tool.timeout_s is None:
            return failure("timeout", f"{tool.spec.name} gave up: it timed out")
        return failure("timeout", f"{tool.spec.name} did not answer within {tool.timeout_s:g} s")
    except ConnectionError as e:
        return failure("connection", f"{tool.spec.name}: {_words(e)}")
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        return failure("tool_error", f"{tool.spec.name} was cancelled from within")
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except ToolError as e:
        return failure("tool_error", f"{tool.spec.name}: {' '.join(e.message.split())[:500]}")
    except BaseException as e:
        logger.info("tool %s failed", tool.spec.name, exc_info=True)
        return failure("tool_error", f"{tool.spec.name}: {_words(e)}")
    return render(tool.spec.name, value)


def _is_cancelled() -> bool:
    """Tell whether somebody asked this task to stop; a tool may raise CancelledError by itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _words(error: BaseException) -> str:
    """Give an exception in a line, whatever its own text does."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the exception's own __str__ is the tool's code too
        text = ""
    return f"{type(error).__name__}: {' '.join(text.split())[:500]}" if text else type(error).__name__


def render(name: str, value: Any) -> Outcome:
    """Give a tool's value as text: a string as it is, anything else as JSON."""
    if isinstance(value, str):
        return Outcome(clean(value))
    try:
        text = clean(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))
    except Exception as e:  # noqa: BLE001 - a value's own methods may raise anything
        return failure(
            "tool_error", f"{name} gave a {type(value).__name__} that is not JSON: {_words(e)[:200]}"
        )
    return Outcome(text, is_json=True)


def _plain(value: Any) -> Any:
    """Give records as JSON; everything else is what it is."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else value


def shorten(outcome: Outcome, most: int) -> Outcome:
    """Cut a text that is too long, with a mark that says so, and keep the whole beside it."""
    text = outcome.text
    if len(text) <= most:
        return outcome
    mark = f"\n[cut: {most} of {len(text)} characters]"
    return replace(outcome, text=text[: max(0, most - len(mark))] + mark, whole=text)


def digest(text: str) -> str:
    """Give the name under which a whole text is kept."""
    return hashlib.sha256(text.encode()).hexdigest()
