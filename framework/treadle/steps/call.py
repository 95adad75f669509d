"""Call a tool, for tool nodes, and a function, for code nodes: through the gate, as every call.

A function may take `ctx` (see `calls`) and `state`, a copy of the state. One that takes the state and gives a mapping
writes it: its keys are keys of the state. One that gives a `Goto` says which node follows. One that takes `ctx` and says no
effect counts as pure: it may begin again, since what must happen once goes through `ctx`.
"""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import replace
from typing import Any, NamedTuple, cast

from treadle.errors import StatementError
from treadle.graph.nodes import Node
from treadle.objects.goto import Goto
from treadle.objects.message import ToolCall
from treadle.objects.run import Answer, Question
from treadle.objects.run_step import Decision
from treadle.objects.tool import FunctionTool
from treadle.steps.base import Intent
from treadle.steps.calls import UNKNOWN, Calls, Ctx, answer_of, rejected, value_of
from treadle.steps.names import fill
from treadle.steps.node import NodeContext, NodeEffects, NodeKind, failed
from treadle.steps.prompt import key_of, time_left_s
from treadle.tools.base import BoundTool, CallContext
from treadle.tools.gate import Admitted, Outcome, Withheld, admit, digest_of, dispatch

_CALLERS = frozenset({"invalid_arguments", "unknown_tool"})
"""Codes of the gate that mean that the node is wrong, not the tool."""


class _Call(NamedTuple):
    """What is called, and the idempotency key of the node's own."""

    admitted: Admitted
    key: str | None


def function_of(node: Node) -> FunctionTool:
    """Give the function of a code node as a tool, which `bind_code` makes ready."""
    params = node.params
    return FunctionTool(
        name=node.id.rpartition("/")[2], call=params["call"], effect=params.get("effect", "once")
    )


# -- before the call ---------------------------------------------------------------------------------------------


def prepare(context: NodeContext) -> Intent | NodeEffects:
    """Let the call in: give the intent, what a person is asked before, or why it cannot be made.

    Errors: DefinitionError for a text that fails.
    """
    tool = _tool(context)
    question = context.begun.question if context.begun is not None else None
    if question is None:
        return _admitted(context, tool, fill(context.params.get("with", {}), context.view), None)
    answer = _answer(context, tool, question)
    if answer is None:
        return NodeEffects(status="in_progress", question=question)
    arguments = question.value if answer.value is None else answer.value
    is_again = question.digest == _digest(context, tool, question.value, again=True)
    if answer.decision != "approve":
        code = "outcome_unknown" if is_again else "approval_rejected"
        return failed(code, rejected(tool.spec.name, answer))
    is_this = is_again or question.digest == _digest(context, tool, question.value)
    digest = _digest(context, tool, arguments) if is_this else question.digest
    decision = Decision(verdict="approve", by=answer.by, at_ms=answer.at * 1000, digest=digest)
    return _admitted(context, tool, arguments, decision)


def _answer(context: NodeContext, tool: BoundTool, question: Question) -> Answer | None:
    """Give the answer to a question, or what counts as one when nobody gave it in time; None as long as it stands."""
    assert context.begun is not None
    answer = answer_of(context.begun)
    now_ms = context.clock.now_ms()
    if answer is not None or question.until_ms is None or now_ms < question.until_ms:
        return answer
    asked = tool.asks(question.value) if tool.asks is not None else None
    return Answer(decision=asked.default if asked is not None else "reject", by="deadline", at=now_ms // 1000)


def _admitted(
    context: NodeContext, tool: BoundTool, arguments: Any, decision: Decision | None
) -> Intent | NodeEffects:
    if tool.invoke is None:
        said = f"{tool.spec.name} is run by the client, and no client waits for a node"
        return failed(_code(context, "tool_error"), said)
    admitted = admit(
        {tool.spec.name: tool},
        _tool_call(context, tool, arguments),
        run_id=context.run.id,
        path=context.path,
        decision=decision,
    )
    if isinstance(admitted, Outcome):
        return failed(_code(context, admitted.code or "tool_error"), admitted.message or "")
    if isinstance(admitted, Withheld):
        return _withheld(context, admitted)
    return Intent(effect=_effect(tool), admitted=_Call(admitted, key_of(context)))


def _withheld(context: NodeContext, call: Withheld) -> NodeEffects:
    said, timeout_s, _ = call.question
    until_ms = context.clock.now_ms() + int(timeout_s * 1000) if timeout_s is not None else None
    question = Question(
        kind="approval",
        ask=said,
        form=call.tool.definition.parameters,
        value=call.arguments,
        until_ms=until_ms,
        digest=call.digest,
    )
    return NodeEffects(status="in_progress", question=question)


def unsettled(context: NodeContext) -> NodeEffects:
    """Give what is written for a call of which nobody knows whether it was made: the node says who is to tell.

    Errors: DefinitionError for a text that fails.
    """
    if context.params.get("on_unknown") != "ask":
        return failed("outcome_unknown", UNKNOWN)
    tool = _tool(context)
    arguments = _asked_before(context)
    if arguments is None:
        arguments = fill(context.params.get("with", {}), context.view)
    question = Question(
        kind="approval",
        ask=f"It is unknown whether {tool.spec.name} was run: the process stopped meanwhile. Run it again?",
        form=tool.definition.parameters,
        value=arguments,
        digest=_digest(context, tool, arguments, again=True),
    )
    return NodeEffects(status="in_progress", question=question, note="outcome unknown")


def _asked_before(context: NodeContext) -> Any:
    """Give the arguments that a person agreed to, None where nobody was asked."""
    begun = context.begun
    if begun is None or begun.question is None:
        return None
    value = None if begun.result is None else Answer.model_validate(begun.result).value
    return begun.question.value if value is None else value


def refused(context: NodeContext, error: StatementError) -> NodeEffects:
    """Give what is written instead of a call whose statements were refused: its failure, and none of them."""
    return failed(_code(context, "tool_error"), f"{_tool(context).spec.name}: {error.message}")


def _tool(context: NodeContext) -> BoundTool:
    return context.plan.tools[context.node.id]


def _effect(tool: BoundTool) -> Any:
    return "pure" if "ctx" in tool.passed and tool.spec.effect == "once" else tool.spec.effect


def _digest(context: NodeContext, tool: BoundTool, arguments: Any, *, again: bool = False) -> str:
    """Name what a person decides on: this call, or that it is made once more."""
    path = f"{context.path}/again" if again else context.path
    return digest_of(tool, arguments, run_id=context.run.id, path=path)


def _tool_call(context: NodeContext, tool: BoundTool, arguments: Any) -> ToolCall:
    # Nobody answers the calls of nodes by their ids: the path says which it is.
    return ToolCall(id=context.path, name=tool.spec.name, arguments=json.dumps(arguments, ensure_ascii=False))


def _code(context: NodeContext, code: str) -> str:
    """Give a code of the gate as a node has it."""
    if code in _CALLERS:
        code = "tool_error"
    return "code_error" if code == "tool_error" and context.params["type"] == "code" else code


# -- the call ----------------------------------------------------------------------------------------------------


async def perform(context: NodeContext, intent: Intent) -> NodeEffects:
    """Call the tool."""
    call = intent.admitted
    assert isinstance(call, _Call)
    outcome = await dispatch(_bounded(context, call.admitted), _called(context, call))
    if outcome.code is not None:
        return failed(_code(context, outcome.code), outcome.message or "", key=call.key)
    return NodeEffects(result=value_of(outcome), statements=outcome.statements, key=call.key)


def _bounded(context: NodeContext, admitted: Admitted) -> Admitted:
    """Give a call with the time that the node and the run leave it."""
    bounds = [s for s in (admitted.tool.timeout_s, time_left_s(context)) if s is not None]
    return replace(admitted, tool=replace(admitted.tool, timeout_s=min(bounds))) if bounds else admitted


def _called(context: NodeContext, call: _Call) -> CallContext:
    run = context.run
    return CallContext(run.id, run.thread_id, call.key or context.idempotency_key)


class _Function:
    """A function while it is called, and what it said beside its value."""

    def __init__(self, admitted: Admitted, calls: Calls | None) -> None:
        self.calls = calls
        self.to: str | None = None
        self.code: str | None = None
        assert admitted.tool.invoke is not None
        self._invoke = admitted.tool.invoke

    async def invoke(self, arguments: dict[str, Any], called: CallContext) -> Any:
        is_cut_off = True
        try:
            value = await self._invoke(arguments, called)
            is_cut_off = False
        except BaseException as e:
            task = asyncio.current_task()
            is_cut_off = task is not None and task.cancelling() > 0
            if is_cut_off or self.calls is None:
                raise
            if self.calls.must_stop:
                return None
            self.code = self.calls.code_of(e)
            raise
        finally:
            if self.calls is not None:
                await self.calls.settle(cancel=is_cut_off)
        if isinstance(value, Goto):
            self.to, value = value.node, value.result
        return value


async def run(context: NodeContext, intent: Intent) -> NodeEffects:
    """Call the function."""
    call = intent.admitted
    assert isinstance(call, _Call)
    admitted = _bounded(context, call.admitted)
    called, passed = _called(context, call), admitted.tool.passed
    calls: Calls | None = None
    if "ctx" in passed:
        calls = Calls(context)
        seconds = admitted.tool.timeout_s
        deadline = context.clock.now_ms() / 1000 + seconds if seconds is not None else None
        called = replace(called, ctx=Ctx(calls, idempotency_key=called.idempotency_key, deadline=deadline))
    if "state" in passed:
        called = replace(called, state=copy.deepcopy(dict(context.view.state)))
    function = _Function(admitted, calls)
    outcome = await dispatch(replace(admitted, tool=replace(admitted.tool, invoke=function.invoke)), called)
    stopped = None if calls is None else _stopped(calls, key=call.key)
    return stopped or _ended(context, function, outcome, key=call.key)


def _stopped(calls: Calls, *, key: str | None) -> NodeEffects | None:
    """Give what is written for a function that could not go on; None for one that came to its end.

    Errors: whatever kept a call from being kept.
    """
    if calls.lost is not None:
        raise calls.lost
    if calls.changed is not None:
        return failed("code_error", calls.changed, key=key)
    if calls.waits:
        return NodeEffects(status="in_progress", suspends=True, wake_ms=calls.wake_ms, key=key)
    return None


def _ended(context: NodeContext, function: _Function, outcome: Outcome, *, key: str | None) -> NodeEffects:
    if outcome.code is not None:
        return failed(function.code or _code(context, outcome.code), outcome.message or "", key=key)
    value = value_of(outcome)
    writes: dict[str, Any] | None = None
    if "state" in _tool(context).passed and isinstance(value, dict):
        writes = cast("dict[str, Any]", value)
    return NodeEffects(result=value, writes=writes, to=function.to, statements=outcome.statements, key=key)


TOOL = NodeKind(prepare, perform)
CODE = NodeKind(prepare, run)
