"""What stands in for the outside world while a test runs: scripted answers, and what was asked without one.

Rules

1. A list of answers is used up in order, each once; an answer that is no list stands for every call.
2. An answer that nobody asked for fails the test, and so does a call that has none.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from treadle.definition.document import KeyPath, is_list, is_mapping, shape
from treadle.definition.trial import TrialError, TrialMock, TrialModelReply

SHOWN = 200
"""Characters of a value that a message shows."""

_TOOL_FORMS: Final = "{returns: …} or {raises: {type: …, message: …}}"
_NODE_FORMS: Final = "the node's result, {returns: …} or {raises: {type: …, message: …}}"
_HUMAN_FORMS: Final = "an answer such as {decision: approve}"
_REPLY_FORMS: Final = "text, json, call (with arguments) or error"
_HUMAN_KEYS: Final = ("decision", "choice", "value", "comment", "by", "arguments", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """One thing that a test found wrong, tied to its place in the test's entry.

    Shapes: `what` names what was looked at (`status`, `output.total`, `mock.tools.search`); `expected` and `got` are texts to
    show, where there is something to compare. `path` leads from the test's entry to what it concerns.
    """

    what: str
    message: str
    path: KeyPath = ()
    expected: str | None = None
    got: str | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """What a mock answers: a value, or an error."""

    value: Any = None
    error: TrialError | None = None


class _Stock:
    """The answers of one name."""

    def __init__(self, answers: Sequence[Any], *, is_endless: bool) -> None:
        self._left = deque(enumerate(answers))
        self._is_endless = is_endless
        self._is_asked = False

    def take(self) -> Any:
        """Give the next answer.

        Errors: IndexError where none is left.
        """
        self._is_asked = True
        return self._left[0][1] if self._is_endless else self._left.popleft()[1]

    @property
    def has_more(self) -> bool:
        """Tell whether another call would be answered."""
        return bool(self._left)

    @property
    def unused(self) -> list[int]:
        """Give the places of the answers that nobody asked for."""
        if self._is_endless:
            return [] if self._is_asked else [0]
        return [place for place, _ in self._left]


class Mocks:
    """The answers of one run of a test, used up while it goes on.

    Shapes: `flaws` are answers that are none, found before anything ran; `unmocked` says what was called without an answer;
    `called` has the tools that were called, in order, with their arguments.
    """

    def __init__(self, mock: TrialMock | None = None) -> None:
        """Take what the test mocks; nothing where it mocks nothing."""
        mock = mock or TrialMock()
        self.flaws: list[Flaw] = []
        self.unmocked: list[Flaw] = []
        self.called: list[tuple[str, Any]] = []
        self._stocks: dict[tuple[str, str], tuple[_Stock, bool]] = {}
        self._asked = 0
        replies = [self._reply(n, reply) for n, reply in enumerate(mock.model)]
        self._replies = _Stock(replies, is_endless=False)
        self._says_model = bool(mock.model)
        self._keep("tools", mock.tools, _tool_answer, _TOOL_FORMS)
        self._keep("nodes", mock.nodes, _node_answer, _NODE_FORMS)
        self._keep("http", mock.http, _anything, "")
        self._keep("human", mock.human, _human_answer, _HUMAN_FORMS)

    def _reply(self, place: int, reply: TrialModelReply) -> Any:
        try:
            return _script_entry(reply)
        except ValueError as e:
            self.flaws.append(
                Flaw(what=f"mock.model[{place}]", message=str(e), path=("mock", "model", place))
            )
            return ""

    def _keep(self, kind: str, given: Mapping[str, Any], read: Callable[[Any], Any], forms: str) -> None:
        for name, said in given.items():
            answers = said if is_list(said) else [said]
            read_: list[Any] = []
            for place, answer in enumerate(answers):
                path: KeyPath = ("mock", kind, name, place) if is_list(said) else ("mock", kind, name)
                try:
                    read_.append(read(answer))
                except ValueError as e:
                    message = f"{e}; an answer is {forms}"
                    self.flaws.append(Flaw(what=f"mock.{kind}.{name}", message=message, path=path))
            self._stocks[kind, name] = _Stock(read_, is_endless=not is_list(said)), is_list(said)

    # -- answering -------------------------------------------------------------------------------------------

    @property
    def says_model(self) -> bool:
        """Tell whether the test says what models reply."""
        return self._says_model

    def reply(self, asked: str) -> Any:
        """Give the next reply of the model, as an entry of a script; `asked` says in words what it is asked.

        Errors: IndexError where none is left; the test has failed then.
        """
        self._asked += 1
        try:
            return self._replies.take()
        except IndexError:
            message = f"model call {self._asked} has no mock: {asked}"
            self.unmocked.append(Flaw(what="mock.model", message=message, path=("mock", "model")))
            raise

    def tool(self, name: str, arguments: Any) -> Given | None:
        """Give what a tool answers, None where the test does not say; the test has failed then."""
        self.called.append((name, arguments))
        given = self._take("tools", name)
        if given is None:
            self.miss("tools", name, f"tool {name} was called with {shown(arguments)}")
        return given

    def has(self, kind: str, name: str) -> bool:
        """Tell whether a call of that name would be answered now."""
        found = self._stocks.get((kind, name))
        return found is not None and found[0].has_more

    def names(self, kind: str, name: str) -> bool:
        """Tell whether the test mocks that name, be it used up or not."""
        return (kind, name) in self._stocks

    def node(self, name: str) -> Given | None:
        """Give what a node results in, None where the test does not say."""
        return self._take("nodes", name)

    def human(self, name: str) -> Mapping[str, Any] | None:
        """Give what a person answers to a node or to the call of a tool, None where the test does not say."""
        return self._take("human", name)

    def miss(self, kind: str, name: str, happened: str) -> None:
        """Take note of a call that has no answer."""
        why = "its answers are used up" if self.names(kind, name) else f"mock.{kind} has no '{name}'"
        path: KeyPath = ("mock", kind, name) if self.names(kind, name) else ("mock", kind)
        flaw = Flaw(what=f"mock.{kind}.{name}", message=f"{happened}, and {why}", path=path)
        self.unmocked.append(flaw)

    def refuse(self, kind: str, name: str, message: str) -> None:
        """Take note of an answer that cannot be given."""
        flaw = Flaw(what=f"mock.{kind}.{name}", message=message, path=("mock", kind, name))
        if flaw not in self.flaws:
            self.flaws.append(flaw)

    def _take(self, kind: str, name: str) -> Any:
        found = self._stocks.get((kind, name))
        return found[0].take() if found is not None and found[0].has_more else None

    # -- afterwards ------------------------------------------------------------------------------------------

    def unused(self) -> list[Flaw]:
        """Give a flaw for each answer that nobody asked for."""
        found = [
            Flaw(
                what=f"mock.model[{place}]",
                message=f"reply {place + 1} was never asked for: the model was called {_times(self._asked)}",
                path=("mock", "model", place),
            )
            for place in self._replies.unused
        ]
        for (kind, name), (stock, is_listed) in self._stocks.items():
            for place in stock.unused:
                path: KeyPath = ("mock", kind, name, place) if is_listed else ("mock", kind, name)
                what = f"mock.{kind}.{name}" + (f"[{place}]" if is_listed else "")
                found.append(Flaw(what=what, message=f"this mock was never used: {_never(kind)}", path=path))
        return found


def shown(value: Any, most: int = SHOWN) -> str:
    """Give a value as a message shows it: as JSON, and not all of a long one."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _times(number: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(number, f"{number} times")


def _never(kind: str) -> str:
    said = {
        "tools": "no tool of that name was called so often",
        "nodes": "no node of that name was entered so often",
        "human": "no node and no tool of that name asked so often",
        "http": "no node of this document speaks HTTP",
    }
    return said[kind]


def _script_entry(reply: TrialModelReply) -> Any:
    """Give a reply as an entry of a script.

    Errors: ValueError for one that says nothing, or two things.
    """
    given = reply.model_fields_set
    if reply.error is not None:
        if len(given) > 1:
            msg = "an error is said alone"
            raise ValueError(msg)
        return {"error": {"kind": reply.error.type, "message": reply.error.message or "the test says no"}}
    if reply.call is None:
        if reply.arguments is not None:
            msg = "arguments need a call"
            raise ValueError(msg)
        if reply.text is not None and "json_" not in given:
            return {"text": reply.text}
        if reply.text is None and "json_" in given:
            return {"json": reply.json_}
        msg = f"a reply says one of {_REPLY_FORMS}"
        raise ValueError(msg)
    if "json_" in given:
        msg = "a reply that calls a tool may say a text besides, and no json"
        raise ValueError(msg)
    call = {"name": reply.call, "arguments": reply.arguments or {}}
    return {"calls": [call], **({"text": reply.text} if reply.text is not None else {})}


def _tool_answer(said: Any) -> Given:
    if is_mapping(said) and set(said) == {"returns"}:
        return Given(said["returns"])
    if is_mapping(said) and set(said) == {"raises"}:
        return Given(error=_error(said["raises"]))
    raise ValueError(_unfit(said))


def _node_answer(said: Any) -> Given:
    if is_mapping(said) and set(said) in ({"returns"}, {"raises"}):
        return _tool_answer(said)
    return Given(said)


def _human_answer(said: Any) -> Mapping[str, Any]:
    if not is_mapping(said) or not said:
        raise ValueError(_unfit(said))
    unknown = [key for key in said if key not in _HUMAN_KEYS]
    if unknown:
        msg = f"an answer has no '{unknown[0]}'; it has {', '.join(_HUMAN_KEYS)}"
        raise ValueError(msg)
    if "timeout" in said and (said["timeout"] is not True or len(said) > 1):
        msg = "timeout: true says that nobody answers, and stands alone"
        raise ValueError(msg)
    return said


def _anything(said: Any) -> Any:
    return said


def _error(said: Any) -> TrialError:
    try:
        return TrialError(type=said) if isinstance(said, str) else TrialError.model_validate(said)
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        msg = f"raises{f'.{place}' if place else ''} does not fit: {first['msg']}"
        raise ValueError(msg) from e


def _unfit(said: Any) -> str:
    keys = f" with {', '.join(said)}" if is_mapping(said) and said else ""
    return f"this is {shape(said)}{keys}"
