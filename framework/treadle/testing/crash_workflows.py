"""The workflows that treadle is killed in: what their documents say, what their functions do, and who answers them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from treadle.errors import StateError
from treadle.lifecycle import is_terminal
from treadle.objects.agent import AgentSpec, ModelSpec
from treadle.objects.run import Run
from treadle.objects.tool import FunctionTool
from treadle.objects.workflow import WorkflowSpec
from treadle.providers.base import ModelRequest
from treadle.providers.scripted import ScriptedProvider, ScriptEntry
from treadle.steps.calls import Ctx
from treadle.testing.crash_scenario import WAIT_S, Outcome, Place, Scenario, nothing_more

Function = Callable[..., Any]
Functions = Mapping[str, Function]
Drive = Callable[[Place], Awaitable[None]]
Spec = dict[str, Any]

DOCUMENTS: dict[str, Spec] = {}
"""The document of each scenario, by its name."""
_INNER: dict[str, tuple[Spec, ...]] = {}
"""The documents that the nodes of a scenario's document name, those first that others name."""


def _scenario(
    name: str,
    document: Spec,
    *,
    functions: Callable[[Place], Functions] | None = None,
    setup: Callable[[Place], Mapping[str, Any]] | None = None,
    drive: Drive | None = None,
    holds: Callable[[Outcome], Iterable[str]] = nothing_more,
    inner: Sequence[Spec] = (),
    compares: bool = True,
) -> Scenario:
    """Give the scenario of a document; without `drive` its client only waits for the end."""
    DOCUMENTS[name], _INNER[name] = document, tuple(inner)

    def make(place: Place) -> Mapping[str, Any]:
        options = dict(setup(place)) if setup is not None else {}
        return {**options, "functions": functions(place) if functions is not None else {}}

    def wrong(outcome: Outcome) -> Iterable[str]:
        yield from _tree_wrongs(outcome)
        yield from holds(outcome)

    return Scenario(name=name, setup=make, drive=drive or _drive_to_the_end, holds=wrong, compares=compares)


async def _begin(place: Place, **fields: Any) -> Run:
    """Give the scenario's run, made where there is none; what its document names is applied first."""
    inner, document = _INNER[place.scenario], DOCUMENTS[place.scenario]
    for other in inner:
        await place.treadle.workflows.apply(WorkflowSpec.model_validate(other))
    return await place.workflow_run(WorkflowSpec.model_validate(document), **fields)


async def _drive_to_the_end(place: Place) -> None:
    await place.finish(await _begin(place))


def _tree_wrongs(outcome: Outcome) -> Iterable[str]:
    """Find child runs that outlived the run whose they are, and runs that were made twice for one step."""
    runs = {lived.run.id: lived.run for c in outcome.threads for lived in c.runs}
    for run in runs.values():
        parent = runs.get(run.parent_id or "")
        if run.parent_id is not None and parent is None:
            yield f"{run.id} is a child of {run.parent_id}, which is not there"
        if parent is not None and is_terminal(parent.status) and not is_terminal(run.status):
            yield f"{run.id} is {run.status}, and its parent is {parent.status}"
    waited = Counter(
        step.child for c in outcome.threads for lived in c.runs for step in lived.steps if step.child
    )
    for run in runs.values():
        if run.parent_id is not None and waited[run.id] != 1:
            yield f"{waited[run.id]} steps have the child run {run.id}"


def _root(outcome: Outcome) -> Run:
    return next(lived.run for c in outcome.threads for lived in c.runs if lived.run.parent_id is None)


def _ends(outcome: Outcome, output: Any, status: str = "completed") -> Iterable[str]:
    root = _root(outcome)
    if (root.status, root.output) != (status, output):
        yield f"the run is {root.status} with {root.output}: {root.last_error}; not {status} with {output}"


def _effects_of(outcome: Outcome, what: str) -> Counter[str]:
    """Count, by key, what a receiver was told to do."""
    return Counter(str(note["key"]) for note in outcome.notes if note["what"] == what)


# -- a straight line, with a call that must not be repeated -----------------------------------------------------------

_LINE: Spec = {
    "name": "line",
    "state": {"total": {"type": "integer", "default": 0, "reduce": "sum"}, "paid": {"type": "string"}},
    "tools": [
        {"type": "function", "name": "charge", "runs": "server", "effect": "once", "approval": "never"}
    ],
    "start": "begin",
    "nodes": {
        "begin": {"type": "set", "set": {"total": 2}, "next": "price"},
        "price": {
            "type": "code", "call": "shop:price", "effect": "pure", "with": {"count": "{{ state.total }}"},
            "save": {"total": "result"}, "next": "pay",
        },
        "pay": {
            "type": "tool", "tool": "charge", "with": {"amount": "{{ state.total }}"},
            "on_error": [{"on": ["outcome_unknown"], "continue_with": "charged"}],
            "save": {"paid": "result"}, "next": "book",
        },
        "book": {
            "type": "code", "call": "shop:book", "effect": "idempotent", "with": {"amount": "{{ state.total }}"},
            "next": "end",
        },
    },
    "outputs": {"total": "state.total", "paid": "state.paid", "booked": "result_of.book"},
}  # fmt: skip


def _shop(place: Place) -> Functions:
    async def price(count: int) -> int:
        await place.turns("price")
        return count * 10

    async def charge(amount: int) -> str:
        """Charge an amount."""
        await place.turns("charge")
        place.receiver.note("charged", key=f"{amount}")
        return "charged"

    async def book(amount: int, idempotency_key: str) -> int:
        place.receiver.note("booked", key=idempotency_key)
        return amount

    return {"shop:price": price, "charge": charge, "shop:book": book}


def _line_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"total": 22, "paid": "charged", "booked": 22})
    charges = sum(_effects_of(outcome, "charged").values())
    unknown = any("outcome_unknown" in (s.note or "") for s in outcome.threads[0].runs[0].steps)
    if charges > 1 or (charges == 0 and not unknown):
        yield f"there were {charges} charges, and the journal says that the outcome is {'un' * unknown}known"
    if len(_effects_of(outcome, "booked")) != 1:
        yield f"what was booked under one key: {_effects_of(outcome, 'booked')}"


LINE = _scenario("wf_line", _LINE, functions=_shop, holds=_line_holds)


# -- two branches that both must come -------------------------------------------------------------------------------


def _work(id_: str, next_: str | None = "end", **fields: Any) -> Spec:
    """Give a node whose function tells its receiver that it was called, and gives what it was given."""
    node = {"type": "code", "call": "work:do", "effect": "idempotent", "with": {"what": id_}, **fields}
    return node if next_ is None else {**node, "next": next_}


def _worker(place: Place) -> Functions:
    async def do(what: Any, idempotency_key: str) -> Any:
        place.receiver.note("done", key=idempotency_key)
        await place.turns("do", what)
        return what

    async def hang(what: Any) -> Any:
        await asyncio.Event().wait()
        return what

    return {"work:do": do, "work:hang": hang}


def _done(count: int) -> Callable[[Outcome], Iterable[str]]:
    """Hold that so many different things were done, whoever was killed meanwhile."""

    def holds(outcome: Outcome) -> Iterable[str]:
        found = _effects_of(outcome, "done")
        if len(found) != count:
            yield f"{count} things were to be done, and the receiver has {sorted(found)}"

    return holds


_ALL: Spec = {
    "name": "all",
    "state": {
        "seen": {"type": "array", "items": {"type": "string"}, "default": [], "reduce": "append"},
        "most": {"type": "integer", "default": 0, "reduce": "max"},
    },
    "start": "part",
    "nodes": {
        "part": {"type": "parallel", "branches": ["left", "right"], "join": "meet"},
        "left": _work("left", "left_again", save={"seen": "result"}),
        "left_again": _work("left again", "meet", save={"seen": "result", "most": "3"}),
        "right": _work("right", "meet", save={"seen": "result", "most": "7"}),
        "meet": _work("{{ state.seen }}"),
    },
    "outputs": {"seen": "state.seen", "most": "state.most", "met": "result_of.meet"},
}


def _all_holds(outcome: Outcome) -> Iterable[str]:
    seen = ["left", "left again", "right"]
    yield from _ends(outcome, {"seen": seen, "most": 7, "met": seen})
    yield from _done(4)(outcome)


ALL = _scenario("wf_all", _ALL, functions=_worker, holds=_all_holds)


# -- the first branch wins, and the others are cancelled ---------------------------------------------------------------

_ANY: Spec = {
    "name": "any",
    "state": {"first": {"type": "string", "default": ""}},
    "start": "race",
    "nodes": {
        "race": {"type": "parallel", "branches": ["quick", "slow", "asked"], "join": "meet", "wait_for": "any", "on_branch_error": "continue"},
        "quick": _work("quick", "meet", save={"first": "result"}),
        "slow": {"type": "code", "call": "work:hang", "effect": "once", "with": {"what": 1}, "next": "meet"},
        "asked": {"type": "human", "kind": "approval", "ask": "Wait?", "next": "meet"},
        "meet": _work("met"),
    },
    "outputs": {"first": "state.first"},
}  # fmt: skip


def _any_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"first": "quick"})
    (lived,) = outcome.threads[0].runs
    loose = {s.path: s.status for s in lived.steps if s.node in ("slow", "asked") and s.status == "completed"}
    if loose:
        yield f"branches that lost have come to an end: {loose}"


ANY = _scenario("wf_any", _ANY, functions=_worker, holds=_any_holds, compares=False)


# -- branches within the items of a map --------------------------------------------------------------------------------

_NESTED: Spec = {
    "name": "nested",
    "state": {"sum": {"type": "integer", "default": 0, "reduce": "sum"}},
    "start": "each",
    "nodes": {
        "each": {
            "type": "map", "over": "[1, 2, 3]", "as": "number", "max_concurrency": 2, "start": "part", "collect": "result",
            "nodes": {
                "part": {"type": "parallel", "branches": ["one", "two"], "join": "meet"},
                "one": _work("{{ number }}", "meet", save={"sum": "result"}),
                "two": _work("{{ number * 10 }}", "meet", save={"sum": "result"}),
                "meet": _work("{{ result_of.one + result_of.two }}"),
            },
            "next": "end",
        },
    },
    "outputs": {"sum": "state.sum", "each": "result_of.each.collected"},
}  # fmt: skip


def _nested_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"sum": 66, "each": [11, 22, 33]})
    yield from _done(9)(outcome)


NESTED = _scenario("wf_nested", _NESTED, functions=_worker, holds=_nested_holds)


# -- twenty items, three at a time ----------------------------------------------------------------------------------------

_MAP: Spec = {
    "name": "map",
    "start": "each",
    "nodes": {
        "each": {
            "type": "map", "over": str([*range(20)]), "as": "number", "max_concurrency": 3,
            "node": _work("{{ number }}", None), "next": "end",
        },
    },
    "outputs": {"each": "result_of.each.collected"},
}  # fmt: skip


def _map_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"each": list(range(20))})
    yield from _done(20)(outcome)


MAP = _scenario("wf_map", _MAP, functions=_worker, holds=_map_holds)


# -- items that fail, and are left out -----------------------------------------------------------------------------------


def _picky(place: Place) -> Functions:
    async def do(what: int, idempotency_key: str) -> int:
        place.receiver.note("done", key=idempotency_key)
        await place.turns("do", what)
        if what % 3 == 1:
            raise ValueError(f"not {what}")
        return what

    return {"work:do": do}


_SKIP: Spec = {
    "name": "skip",
    "start": "each",
    "nodes": {
        "each": {
            "type": "map", "over": str([*range(7)]), "as": "number", "max_concurrency": 3, "on_item_error": "skip",
            "tolerate": 3, "node": _work("{{ number }}", None), "next": "end",
        },
    },
    "outputs": {"each": "result_of.each.collected", "failed": "result_of.each.errors|map(attribute='index')|list"},
}  # fmt: skip


def _skip_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"each": [0, 2, 3, 5, 6], "failed": [1, 4]})
    yield from _done(7)(outcome)


SKIP = _scenario("wf_skip", _SKIP, functions=_picky, holds=_skip_holds)


# -- five rounds -------------------------------------------------------------------------------------------------------

_LOOP: Spec = {
    "name": "loop",
    "state": {"n": {"type": "integer", "default": 0, "reduce": "sum"}},
    "start": "again",
    "nodes": {
        "again": {
            "type": "loop", "start": "add", "until": "state.n >= 5", "max_iterations": 9,
            "nodes": {"add": _work("{{ state.n }}", "count"), "count": {"type": "set", "set": {"n": 1}, "next": "end"}},
            "next": "end",
        },
    },
    "outputs": {"n": "state.n", "rounds": "result_of.again.iterations"},
}  # fmt: skip


def _loop_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"n": 5, "rounds": 5})
    yield from _done(5)(outcome)


LOOP = _scenario("wf_loop", _LOOP, functions=_worker, holds=_loop_holds)


# -- a person who answers from another process -------------------------------------------------------------------------

_HUMAN: Spec = {
    "name": "human",
    "state": {"words": {"type": "array", "default": [], "reduce": "append"}},
    "start": "part",
    "nodes": {
        "part": {"type": "parallel", "branches": ["agree", "choose"], "join": "meet"},
        "agree": {
            "type": "human", "kind": "approval", "ask": "Publish?", "save": {"words": "result.decision"},
            "next": [{"when": "result.decision == 'approve'", "to": "publish"}, {"to": "meet"}],
        },
        "publish": _work("published", "meet"),
        "choose": {
            "type": "human", "kind": "choice", "ask": "Which?", "choices": ["red", "blue"],
            "save": {"words": "result.choice"}, "next": "meet",
        },
        "meet": {"type": "message", "text": "{{ state.words|join(', ') }}", "next": "end"},
    },
    "outputs": {"words": "state.words"},
}  # fmt: skip


async def _drive_human(place: Place) -> None:
    run = await place.finish(await _begin(place))
    while run.status == "requires_action":
        async with place.another() as other:
            asked = {p.path.partition("#")[0] for p in run.required_answers}
            with suppress(StateError):
                if "choose" in asked:
                    await other.runs.answer(run.id, "choose", choice="blue", by="ada")
                else:
                    await other.runs.answer(run.id, "agree", decision="approve", by="ada")
            run = await other.runs.wait(run.id, timeout_s=WAIT_S)


def _human_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"words": ["approve", "blue"]})
    yield from _done(1)(outcome)


HUMAN = _scenario("wf_human", _HUMAN, functions=_worker, drive=_drive_human, holds=_human_holds)


# -- a timer -----------------------------------------------------------------------------------------------------------

_TIMER: Spec = {
    "name": "timer",
    "start": "before",
    "nodes": {
        "before": _work("before", "rest"),
        "rest": {"type": "wait", "for": "2h", "next": "after"},
        "after": _work("after"),
    },
    "outputs": {"after": "result_of.after"},
}


async def _drive_timer(place: Place) -> None:
    run = await _begin(place)
    runs = place.treadle.runs
    while not is_terminal(run.status):
        await runs.settle()
        run = await runs.get(run.id)
        if run.wake_ms is not None:
            place.clock.advance(max(0.0, (run.wake_ms - place.clock.now_ms()) / 1000))
            await place.treadle.recover()
        await asyncio.sleep(0)


def _timer_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"after": "after"})
    yield from _done(2)(outcome)
    (lived,) = outcome.threads[0].runs
    waited = next(s for s in lived.steps if s.node == "rest")
    # A step is said to have started when what it waits for is known: a moment later.
    if waited.ended_ms is None or waited.ended_ms - waited.started_ms < (2 * 3600 - 1) * 1000:
        yield "the timer was over before its time"


TIMER = _scenario("wf_timer", _TIMER, functions=_worker, drive=_drive_timer, holds=_timer_holds)


# -- agents as child runs --------------------------------------------------------------------------------------------------


def _agents(place: Place) -> Mapping[str, Any]:
    """Give a model that calls `ask`, then `keep` where there is one, then answers with what it was told last."""

    async def keep(what: str, idempotency_key: str) -> str:
        """Keep something."""
        place.receiver.note("done", key=idempotency_key)
        await place.turns("keep", what)
        return f"kept {what}"

    def reply(request: ModelRequest) -> ScriptEntry:
        said = request.messages
        since = said[max(n for n, m in enumerate(said) if m.role == "user") :]
        turns = sum(m.role == "assistant" for m in since)
        names = [tool.name for tool in request.tools]
        if turns < len(names):
            return {"calls": [{"name": names[turns], "arguments": {"what": since[-1].plain}}]}
        return f"said: {since[-1].plain}"

    return {"tools": [keep], "providers": {"scripted": ScriptedProvider(reply)}}


_CLIENTS = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
_WRITER = AgentSpec(
    name="writer",
    model=ModelSpec(id="scripted"),
    tools=(
        FunctionTool(name="ask", runs="client", parameters=_CLIENTS),
        FunctionTool(name="keep", runs="server", effect="idempotent"),
    ),
)
_PLAIN = AgentSpec(name="plain", model=ModelSpec(id="scripted"))


async def _drive_agents(place: Place) -> None:
    """Apply the agents, and answer calls of clients at the run itself, whoever made them."""
    for agent in (_WRITER, _PLAIN):
        await place.treadle.agents.apply(agent)
    await place.finish(await _begin(place), lambda name, arguments: f"{name}: {arguments}")


_AGENT: Spec = {
    "name": "agent",
    "agents": {"writer": "writer"},
    "start": "write",
    "nodes": {
        "write": {"type": "agent", "agent": "writer", "thread": "new", "message": "Write!", "next": "note"},
        "note": _work("{{ result_of.write.text }}"),
    },
    "outputs": {"text": "result_of.write.text"},
}


def _agent_holds(outcome: Outcome) -> Iterable[str]:
    said = {"text": f"said: kept ask: {json.dumps({'what': 'Write!'})}"}
    yield from _ends(outcome, said)
    yield from _done(2)(outcome)


AGENT = _scenario(
    "wf_agent", _AGENT, functions=_worker, setup=_agents, drive=_drive_agents, holds=_agent_holds
)


# -- a workflow within a workflow within a workflow ---------------------------------------------------------------------------

_INMOST: Spec = {
    "name": "inmost",
    "inputs": {"n": {"type": "integer"}},
    "agents": {"writer": "writer"},
    "start": "work",
    "nodes": {
        "work": _work("{{ inputs.n }}", "write"),
        "write": {"type": "agent", "agent": "writer", "thread": "new", "message": "{{ inputs.n }}", "next": "say"},
        "say": {"type": "message", "text": "inmost {{ inputs.n }}", "next": "end"},
    },
    "outputs": {"n": "inputs.n + 1"},
}  # fmt: skip
_MIDDLE: Spec = {
    "name": "middle",
    "inputs": {"n": {"type": "integer"}},
    "start": "work",
    "nodes": {
        "work": _work("{{ inputs.n }}", "deeper"),
        "deeper": {"type": "workflow", "workflow": "inmost", "with": {"n": "{{ inputs.n + 1 }}"}, "next": "end"},
    },
    "outputs": {"n": "result_of.deeper.n"},
}  # fmt: skip
_DEEP: Spec = {
    "name": "deep",
    "start": "deeper",
    "nodes": {
        "deeper": {"type": "workflow", "workflow": "middle", "with": {"n": 1}, "next": "say"},
        "say": {"type": "message", "text": "outmost {{ result_of.deeper.n }}", "next": "end"},
    },
    "outputs": {"n": "result_of.deeper.n"},
}


def _deep_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"n": 3})
    yield from _done(3)(outcome)
    said = [row.text for row in outcome.threads[0].rows]
    if said != ["inmost 2", "outmost 3"]:
        yield f"the thread says {said}"


DEEP = _scenario(
    "wf_deep", _DEEP, functions=_worker, setup=_agents, drive=_drive_agents, holds=_deep_holds,
    inner=(_INMOST, _MIDDLE),
)  # fmt: skip


# -- errors that lead somewhere ---------------------------------------------------------------------------------------------


def _broken(place: Place) -> Functions:
    async def fail(what: str) -> str:
        place.receiver.note("failed", key=what)
        await place.turns("fail", what)
        raise ValueError(what)

    return {**_worker(place), "work:fail": fail}


def _failing(what: str, **fields: Any) -> Spec:
    return {"type": "code", "call": "work:fail", "effect": "pure", "with": {"what": what}, **fields}


_ROUTE: Spec = {
    "name": "route",
    "state": {"told": {"type": "array", "default": [], "reduce": "append"}},
    "start": "first",
    "nodes": {
        "first": _failing("first", on_error=[{"on": ["timeout"], "to": "lost"}, {"on": ["code_error"], "to": "mend"}], next="lost"),
        "mend": _work("mended", "second", save={"told": "result"}),
        "second": _failing(
            "second", on_error=[{"continue_with": {"why": "{{ error.code }}"}}], save={"told": "result.why"}, next="third",
        ),
        "third": _work("third"),
        "lost": {"type": "fail", "error": "lost", "message": "nobody comes here"},
    },
    "outputs": {"told": "state.told", "third": "result_of.third"},
}  # fmt: skip


def _route_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"told": ["mended", "code_error"], "third": "third"})
    yield from _done(2)(outcome)


ROUTE = _scenario("wf_route", _ROUTE, functions=_broken, holds=_route_holds)


# -- a node that fails at first ------------------------------------------------------------------------------------------

_TRIES = 3


def _down_at_first(place: Place) -> Functions:
    failures = 1 + place.draw(_TRIES - 1, "failures")

    async def fetch(what: str, idempotency_key: str) -> str:
        if len(place.receiver.notes("tool")) <= failures:
            raise ConnectionError("not now")
        place.receiver.note("done", key=idempotency_key)
        return what.upper()

    return {"work:fetch": fetch}


_RETRY: Spec = {
    "name": "retry",
    "start": "fetch",
    "nodes": {
        "fetch": {
            "type": "code", "call": "work:fetch", "effect": "idempotent", "with": {"what": "it"},
            "retry": {"max_attempts": _TRIES, "initial_delay": "2ms", "backoff": 2, "jitter": "none", "on": ["code_error", "connection"]},
            "next": "end",
        },
    },
    "outputs": {"it": "result_of.fetch"},
}  # fmt: skip


def _retry_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"it": "IT"})
    yield from _done(1)(outcome)


RETRY = _scenario("wf_retry", _RETRY, functions=_down_at_first, holds=_retry_holds)


# -- a thread that nodes and agents write to ---------------------------------------------------------------------------------

_THREAD: Spec = {
    "name": "thread",
    "agents": {"plain": "plain"},
    "start": "greet",
    "nodes": {
        "greet": {"type": "message", "role": "user", "text": "Good morning.", "next": "answer"},
        "answer": {"type": "agent", "agent": "plain", "next": "aside"},
        "aside": {"type": "agent", "agent": "plain", "thread": "fork", "message": "And now aside.", "next": "note"},
        "note": {"type": "message", "text": "Noted: {{ result_of.answer.text }}", "next": "again"},
        "again": {"type": "agent", "agent": "plain", "message": "And again.", "next": "end"},
    },
    "outputs": {"aside": "result_of.aside.text", "again": "result_of.again.text"},
}  # fmt: skip


def _thread_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"aside": "said: And now aside.", "again": "said: And again."})
    said = [(row.role, row.text) for row in outcome.threads[0].rows]
    expected = [
        ("user", "Good morning."),
        ("assistant", "said: Good morning."),
        ("assistant", "Noted: said: Good morning."),
        ("user", "And again."),
        ("assistant", "said: And again."),
    ]
    if said != expected:
        yield f"the thread says {said}"


THREAD = _scenario("wf_thread", _THREAD, setup=_agents, drive=_drive_agents, holds=_thread_holds)


# -- a cancel that reaches the child runs -----------------------------------------------------------------------------------

_HANGING: Spec = {
    "name": "hanging",
    "start": "hang",
    "nodes": {
        "hang": {"type": "code", "call": "work:hang", "effect": "once", "with": {"what": 1}, "next": "end"},
    },
}
_CANCEL: Spec = {
    "name": "cancel",
    "start": "part",
    "nodes": {
        "part": {"type": "parallel", "branches": ["inner", "own", "asked"], "join": "meet"},
        "inner": {"type": "workflow", "workflow": "hanging", "thread": "new", "next": "meet"},
        "own": {"type": "code", "call": "work:hang", "effect": "pure", "with": {"what": 2}, "next": "meet"},
        "asked": {"type": "human", "kind": "approval", "ask": "Go on?", "next": "meet"},
        "meet": _work("met"),
    },
}


async def _drive_cancel(place: Place) -> None:
    run = await _begin(place)
    runs = place.treadle.runs
    while not is_terminal(run.status) and run.status != "cancelling":
        open_ = {s.node: s for s in await runs.steps(run.id) if s.is_open}
        child = open_["inner"].child if "inner" in open_ else None
        if child is not None and any(s.is_open for s in await runs.steps(child)):
            with suppress(StateError):
                await runs.cancel(run.id)
        await asyncio.sleep(0)
        run = await runs.get(run.id)
    await place.finish(run)


def _cancel_holds(outcome: Outcome) -> Iterable[str]:
    statuses = sorted(
        (lived.run.parent_id is not None, lived.run.status) for c in outcome.threads for lived in c.runs
    )
    # A child whose call nobody knows the outcome of has failed, and its parent with it: both are an end.
    ends = ([(False, "cancelled"), (True, "cancelled")], [(False, "cancelled"), (True, "failed")])
    if outcome.place.life == 1 and statuses != ends[0]:
        yield f"the run and its child were to be cancelled: {statuses}"
    elif statuses not in (*ends, [(False, "failed"), (True, "failed")]):
        yield f"the run and its child have ended: {statuses}"
    open_ = [s.path for c in outcome.threads for lived in c.runs for s in lived.steps if s.is_open]
    if open_:
        yield f"steps are open: {open_}"


CANCEL = _scenario(
    "wf_cancel", _CANCEL, functions=_worker, drive=_drive_cancel, holds=_cancel_holds, inner=(_HANGING,),
    compares=False,
)  # fmt: skip


# -- a function that keeps what it does -------------------------------------------------------------------------------------


def _keeping(place: Place) -> Functions:
    async def go(ctx: Ctx) -> Any:
        drawn = await ctx.random()
        kept = [await ctx.call("keep", what=f"{n}") for n in range(2)]
        both = await asyncio.gather(ctx.call("keep", what="left"), ctx.call("keep", what="right"))
        answer = await ctx.ask("How many?", form={"type": "integer"})
        last = await ctx.call("keep", what=str(answer.value))
        return {"is_drawn": 0 <= drawn < 1, "kept": [*kept, *both, last]}

    async def keep(what: str, idempotency_key: str) -> str:
        """Keep something."""
        place.receiver.note("done", key=idempotency_key)
        await place.turns("keep", what)
        return f"kept {what}"

    return {"work:go": go, "keep": keep}


_CALLS: Spec = {
    "name": "calls",
    "tools": [
        {"type": "function", "name": "keep", "runs": "server", "effect": "idempotent", "approval": "never"},
    ],
    "start": "go",
    "nodes": {"go": {"type": "code", "call": "work:go", "next": "end"}},
    "outputs": {"kept": "result_of.go.kept"},
}  # fmt: skip


async def _drive_calls(place: Place) -> None:
    run = await place.finish(await _begin(place))
    while run.status == "requires_action":
        await place.treadle.runs.answer(run.id, value=4)
        run = await place.finish(run)


def _calls_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"kept": [f"kept {n}" for n in (0, 1, "left", "right", 4)]})
    yield from _done(5)(outcome)


CALLS = _scenario("wf_calls", _CALLS, functions=_keeping, drive=_drive_calls, holds=_calls_holds)


# -- a result that is taken again ----------------------------------------------------------------------------------------

_CACHE: Spec = {
    "name": "cache",
    "state": {"n": {"type": "integer", "default": 0, "reduce": "sum"}},
    "start": "again",
    "nodes": {
        "again": {
            "type": "loop", "start": "look", "until": "state.n >= 4", "max_iterations": 9,
            "nodes": {
                "look": _work("{{ state.n % 2 }}", "count", cache={"key": "{{ state.n % 2 }}", "ttl": "1h"}),
                "count": {"type": "set", "set": {"n": 1}, "next": "end"},
            },
            "next": "end",
        },
    },
    "outputs": {"n": "state.n"},
}  # fmt: skip


def _cache_holds(outcome: Outcome) -> Iterable[str]:
    yield from _ends(outcome, {"n": 4})
    yield from _done(2)(outcome)
    (lived,) = outcome.threads[0].runs
    results = [s.result for s in lived.steps if s.node == "again/look"]
    if results != [0, 1, 0, 1]:
        yield f"the rounds gave {results}"


CACHE = _scenario("wf_cache", _CACHE, functions=_worker, holds=_cache_holds)


WORKFLOW_SCENARIOS: Sequence[Scenario] = (
    LINE, ALL, ANY, NESTED, MAP, SKIP, LOOP, HUMAN, TIMER, AGENT, DEEP, ROUTE, RETRY, THREAD, CANCEL, CALLS, CACHE,
)  # fmt: skip
"""All of them."""
