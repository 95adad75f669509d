"""What every tool kind must do, as tests: subclass `ToolContract` and give tools of your kind.

    class TestMine(ToolContract):
        def answering(self):
            return bind(MyTool(name="mine", ...), Binding()), {"city": "Paris"}

Each test goes through the gate, as every call does. Nothing but pytest is needed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from treadle.objects.message import ToolCall
from treadle.tools.base import BoundTool, CallContext
from treadle.tools.gate import Admitted, Outcome, admit, dispatch

_T = TypeVar("_T")

CALLER = CallContext("run_contract", "thread_contract", "tdl:run_contract:tool_call#1/0")

SOUND_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

UNSOUND = (
    "null", "[]", '"text"', "3", "{", "{'a': 1}", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}',
    '{"a": 1e999}', "[" * 1000, '{"a": ' + "9" * 400 + "}",
)  # fmt: skip
"""Arguments that no tool may ever see."""


def call(tool: BoundTool, arguments: str) -> ToolCall:
    """Give a call of a tool, as a model writes it."""
    return ToolCall(id="call_1", name=tool.spec.name, arguments=arguments)


def admitted(tool: BoundTool, arguments: dict[str, Any]) -> Admitted:
    """Let a call in that must be let in."""
    found = admit({tool.spec.name: tool}, call(tool, json.dumps(arguments)))
    assert isinstance(found, Admitted), found
    return found


class ToolContract:
    """The tests; `answering` must be given, and what else a kind can do.

    Attributes: `is_client_side` is true for a kind whose outputs the client gives.
    """

    is_client_side = False

    def answering(self) -> tuple[BoundTool, dict[str, Any]]:
        """Give a tool, and arguments that it answers."""
        raise NotImplementedError

    def failing(self) -> tuple[BoundTool, dict[str, Any]] | None:
        """Give a tool, and arguments with which it fails; None for a kind that cannot."""
        return None

    def hanging(self) -> tuple[BoundTool, dict[str, Any]] | None:
        """Give a tool with a short timeout, and arguments with which it does not answer; None where it cannot hang."""
        return None

    def refused_arguments(self) -> list[dict[str, Any]]:
        """Give arguments that do not fit the schema of `answering`."""
        return []

    def test_the_definition_is_what_a_provider_takes(self) -> None:
        """A name that models can say, words, and a schema of an object that is plain JSON."""
        tool, _ = self.answering()
        definition = tool.definition
        assert definition.name == tool.spec.name
        assert 1 <= len(definition.name) <= 64
        assert set(definition.name) <= SOUND_NAME
        assert isinstance(definition.description, str)
        assert json.loads(json.dumps(definition.parameters)) == definition.parameters
        assert definition.parameters.get("type", "object") == "object"

    def test_sound_arguments_are_let_in(self) -> None:
        """And reach the tool as they were decoded."""
        tool, arguments = self.answering()
        assert admitted(tool, arguments).arguments == arguments

    def test_unsound_arguments_never_reach_the_tool(self) -> None:
        """They go back to the model as an error in a line."""
        tool, _ = self.answering()
        for text in UNSOUND:
            outcome = admit({tool.spec.name: tool}, call(tool, text))
            assert isinstance(outcome, Outcome), text
            assert outcome.code == "invalid_arguments"
            assert "error" in json.loads(outcome.text)

    def test_arguments_that_do_not_fit_never_reach_the_tool(self) -> None:
        """The schema is held."""
        tool, _ = self.answering()
        for arguments in self.refused_arguments():
            outcome = admit({tool.spec.name: tool}, call(tool, json.dumps(arguments)))
            assert isinstance(outcome, Outcome), arguments
            assert outcome.code == "invalid_arguments"

    def test_a_clients_tool_is_not_run_here(self) -> None:
        """Its output is the client's to give; any other kind runs here."""
        tool, _ = self.answering()
        assert (tool.invoke is None) == self.is_client_side

    def test_an_answer_is_text_that_can_be_stored(self) -> None:
        """Neither half characters nor NUL, and no code of a failure."""
        if self.is_client_side:
            return
        tool, arguments = self.answering()
        outcome = _run(lambda: dispatch(admitted(tool, arguments), CALLER))
        assert outcome.code is None, outcome
        outcome.text.encode()
        assert "\x00" not in outcome.text

    def test_calls_do_not_disturb_each_other(self) -> None:
        """Many at once give what one gives."""
        if self.is_client_side:
            return
        tool, arguments = self.answering()

        async def many() -> list[Outcome]:
            made = (dispatch(admitted(tool, arguments), CALLER) for _ in range(16))
            return await asyncio.gather(*made)

        outcomes = _run(many)
        assert {o.code for o in outcomes} == {None}

    def test_a_failure_is_an_outcome_in_a_line(self) -> None:
        """No exception, no stack trace."""
        given = self.failing()
        if given is None:
            return
        tool, arguments = given
        outcome = _run(lambda: dispatch(admitted(tool, arguments), CALLER))
        assert outcome.code is not None
        assert outcome.message
        assert "Traceback" not in outcome.text
        assert "\n" not in outcome.message

    def test_a_tool_that_does_not_answer_has_its_time(self) -> None:
        """The timeout is an outcome too."""
        given = self.hanging()
        if given is None:
            return
        tool, arguments = given
        assert _run(lambda: dispatch(admitted(tool, arguments), CALLER)).code == "timeout"

    def test_a_cancelled_call_stops(self) -> None:
        """Cancelling whoever waits ends the wait."""
        given = self.hanging()
        if given is None:
            return
        tool, arguments = given

        async def cancelled() -> bool:
            task = asyncio.create_task(dispatch(admitted(tool, arguments), CALLER))
            await asyncio.sleep(0)
            task.cancel()
            done = await asyncio.gather(task, return_exceptions=True)
            return isinstance(done[0], asyncio.CancelledError)

        assert _run(cancelled)


def _run(talk: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return asyncio.run(asyncio.wait_for(talk(), timeout=30))
