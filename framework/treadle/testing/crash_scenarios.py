"""The scenarios that treadle itself is killed in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from treadle.errors import ProviderError
from treadle.objects.event import Event
from treadle.objects.tool import Effect, FunctionTool, Retry
from treadle.providers.base import ModelRequest
from treadle.providers.scripted import ScriptedProvider, ScriptEntry
from treadle.store.connection import connect
from treadle.testing.crash_scenario import Outcome, Place, Scenario
from treadle.testing.crash_workflows import WORKFLOW_SCENARIOS
from treadle.tools.transaction import Transaction

Replies = Callable[[ModelRequest], ScriptEntry]


def _model(replies: Replies) -> dict[str, Any]:
    return {"scripted": ScriptedProvider(replies)}


def _in_turn(*entries: ScriptEntry) -> Replies:
    """Give the reply that follows as many replies as the thread has; it is the same however often it is asked for."""

    def reply(request: ModelRequest) -> ScriptEntry:
        return entries[sum(m.role == "assistant" for m in request.messages)]

    return reply


def _calls(*calls: tuple[str, Mapping[str, Any]]) -> ScriptEntry:
    return {"calls": [{"name": name, "arguments": dict(arguments)} for name, arguments in calls]}


def _tool(name: str, effect: Effect, **fields: Any) -> FunctionTool:
    return FunctionTool(name=name, runs="server", effect=effect, **fields)


_ASK = FunctionTool(name="ask", runs="client", parameters={"type": "object"})


async def _one_turn(place: Place, *tools: FunctionTool, **spec: Any) -> None:
    """Say one thing, and wait for the answer; a client's function answers with what it was asked."""
    agent = await place.agent(model="scripted", tools=tools, **spec)
    thread = await place.thread(place.words("user"))
    run = await place.first_run(thread, agent)
    await place.finish(run, lambda name, arguments: f"{name}: {arguments}")


# -- plain turn --------------------------------------------------------------------------------------------------


def _plain(place: Place) -> Mapping[str, Any]:
    return {"providers": _model(_in_turn(place.words("answer")))}


PLAIN = Scenario(name="plain", setup=_plain, drive=_one_turn)


# -- two rounds of tools -----------------------------------------------------------------------------------------


def _rounds(place: Place) -> Mapping[str, Any]:
    def look(what: str) -> str:
        """Look something up."""
        return what.upper()

    first, second = ({"what": place.words(n)} for n in ("first", "second"))
    replies = _in_turn(_calls(("look", first)), _calls(("look", second)), place.words("answer"))
    return {"tools": [look], "providers": _model(replies)}


async def _drive_rounds(place: Place) -> None:
    await _one_turn(place, _tool("look", "pure"))


ROUNDS = Scenario(name="rounds", setup=_rounds, drive=_drive_rounds)


# -- five calls at once ------------------------------------------------------------------------------------------


def _parallel(place: Place) -> Mapping[str, Any]:
    async def look(what: str) -> str:
        """Look something up."""
        await place.turns("look", what)
        return what.upper()

    async def keep(what: str, idempotency_key: str) -> str:
        """Keep something under a key."""
        place.receiver.note("kept", key=idempotency_key)
        await place.turns("keep", what)
        return f"kept {what}"

    async def charge(what: str) -> str:
        """Charge for something."""
        await place.turns("charge", what)
        place.receiver.note("charged", for_=what)
        return f"charged for {what}"

    names = ["look", "keep", "charge", "look", "charge"]
    first = place.draw(5, "order")
    calls = [(name, {"what": place.words(n)}) for n, name in enumerate(names[first:] + names[:first])]
    return {
        "tools": [look, keep, charge],
        "providers": _model(_in_turn(_calls(*calls), place.words("answer"))),
    }


async def _drive_parallel(place: Place) -> None:
    await _one_turn(place, _tool("look", "pure"), _tool("keep", "idempotent"), _tool("charge", "once"))


PARALLEL = Scenario(name="parallel", setup=_parallel, drive=_drive_parallel)


# -- a function of the client's -----------------------------------------------------------------------------------


def _client(place: Place) -> Mapping[str, Any]:
    calls = [("ask", {"n": n}) for n in range(1 + place.draw(3, "calls"))]
    return {"providers": _model(_in_turn(_calls(*calls), place.words("answer")))}


async def _drive_client(place: Place) -> None:
    await _one_turn(place, _ASK)


CLIENT = Scenario(name="client", setup=_client, drive=_drive_client)


# -- a call that must not be repeated ---------------------------------------------------------------------------------


def _once(place: Place) -> Mapping[str, Any]:
    def charge(amount: int) -> str:
        """Charge an amount."""
        place.receiver.note("charged", amount=amount)
        return f"charged {amount}"

    calls = _calls(("charge", {"amount": 1 + place.draw(100, "amount")}))
    return {"tools": [charge], "providers": _model(_in_turn(calls, place.words("answer")))}


async def _drive_once(place: Place) -> None:
    await _one_turn(place, _tool("charge", "once"))


def _charged_once(outcome: Outcome) -> Iterable[str]:
    count = sum(note["what"] == "charged" for note in outcome.notes)
    (result,) = (row.text or "" for c in outcome.threads for row in c.rows if row.role == "tool")
    if count > 1 or (count == 0 and "unknown" not in result):
        yield f"there were {count} charges, and the result says {result!r}"


ONCE = Scenario(name="once", setup=_once, drive=_drive_once, holds=_charged_once)


# -- a call that a person is asked about when nobody knows what became of it ---------------------------------------------


async def _drive_asked(place: Place) -> None:
    agent = await place.agent(model="scripted", tools=[_tool("charge", "once", on_unknown="ask")])
    thread = await place.thread(place.words("user"))
    run = await place.finish(await place.first_run(thread, agent))
    while run.required_approvals:
        await place.treadle.runs.reject(run.id, reason="let it be", by="ada")
        run = await place.finish(run)


ASKED = Scenario(name="asked", setup=_once, drive=_drive_asked, holds=_charged_once)


# -- calls that a person must agree to -------------------------------------------------------------------------------------


def _approval(place: Place) -> Mapping[str, Any]:
    async def pay(amount: int) -> str:
        """Pay an amount."""
        await place.turns("pay", amount)
        place.receiver.note("paid", amount=amount)
        return f"paid {amount}"

    calls = [("pay", {"amount": n}) for n in range(2 + place.draw(3, "calls"))]
    return {"tools": [pay], "providers": _model(_in_turn(_calls(*calls), place.words("answer")))}


async def _drive_approval(place: Place) -> None:
    runs = place.treadle.runs
    agent = await place.agent(model="scripted", tools=[_tool("pay", "once", approval="always")])
    thread = await place.thread(place.words("user"))
    run = await place.finish(await place.first_run(thread, agent))
    while run.required_approvals:
        pending = run.required_approvals[-1]
        assert pending.call is not None
        amount = int(json.loads(pending.call.arguments)["amount"])
        match _verdict(place, amount):
            case "reject":
                await runs.reject(run.id, pending.call.id, reason="too much", by="ada")
            case "edit":
                await runs.approve(run.id, pending.call.id, arguments={"amount": amount + 100}, by="ada")
            case _:
                await runs.approve(run.id, pending.call.id, by="ada", digest=pending.digest)
        run = await place.finish(run)


def _verdict(place: Place, amount: int) -> str:
    return ("approve", "edit", "reject")[place.draw(3, "verdict", amount)]


def _paid_as_agreed(outcome: Outcome) -> Iterable[str]:
    place = outcome.place
    verdicts = {n: _verdict(place, n) for n in range(2 + place.draw(3, "calls"))}
    agreed = [n + 100 * (verdict == "edit") for n, verdict in verdicts.items() if verdict != "reject"]
    paid = sorted(note["amount"] for note in outcome.notes if note["what"] == "paid")
    unknown = sum(
        "unknown" in (row.text or "") for c in outcome.threads for row in c.rows if row.role == "tool"
    )
    if len(set(paid)) < len(paid) or not set(paid) <= set(agreed) or len(paid) + unknown < len(agreed):
        yield f"{agreed} were agreed to, {paid} were paid, of {unknown} nobody knows"


APPROVAL = Scenario(name="approval", setup=_approval, drive=_drive_approval, holds=_paid_as_agreed)


# -- a call that its receiver knows again -----------------------------------------------------------------------------


def _idempotent(place: Place) -> Mapping[str, Any]:
    async def book(seat: int, idempotency_key: str) -> str:
        """Book a seat."""
        place.receiver.note("booked", seat=seat, key=idempotency_key)
        return f"booked {seat}"

    seats = [("book", {"seat": seat}) for seat in range(1 + place.draw(3, "seats"))]
    return {"tools": [book], "providers": _model(_in_turn(_calls(*seats), place.words("answer")))}


async def _drive_idempotent(place: Place) -> None:
    await _one_turn(place, _tool("book", "idempotent"))


def _booked_under_one_key(outcome: Outcome) -> Iterable[str]:
    keys: dict[int, set[str]] = {}
    for note in outcome.notes:
        if note["what"] == "booked":
            keys.setdefault(note["seat"], set()).add(note["key"])
    seats = 1 + outcome.place.draw(3, "seats")
    if sorted(keys) != list(range(seats)) or any(len(k) != 1 for k in keys.values()):
        yield f"{seats} seats were asked for, and the receiver has {keys}"
    if len({k for found in keys.values() for k in found}) != seats:
        yield f"two seats were booked under one key: {keys}"


IDEMPOTENT = Scenario(
    name="idempotent", setup=_idempotent, drive=_drive_idempotent, holds=_booked_under_one_key
)


# -- an endpoint and a tool that fail at first ----------------------------------------------------------------------------------

_ATTEMPTS = 3


def _retry(place: Place) -> Mapping[str, Any]:
    # They are down for the first calls that anybody makes, whoever makes them.
    failures = {what: 1 + place.draw(_ATTEMPTS - 1, what) for what in ("model", "tool")}

    async def fetch(what: str) -> str:
        """Fetch something."""
        if len(place.receiver.notes("tool")) <= failures["tool"]:
            raise ConnectionError("not now")
        return what.upper()

    def reply(request: ModelRequest) -> ScriptEntry:
        if len(place.receiver.notes("model")) <= failures["model"]:
            return ProviderError("not now", kind="http_503", status=503, retryable=True)
        return in_turn(request)

    in_turn = _in_turn(_calls(("fetch", {"what": place.words("what")})), place.words("answer"))
    return {"tools": [fetch], "providers": _model(reply)}


async def _drive_retry(place: Place) -> None:
    retry = Retry(max_attempts=_ATTEMPTS, initial_delay="1ms", jitter="none", on=("connection", "http_5xx"))
    await _one_turn(place, _tool("fetch", "idempotent", retry=retry), retry=retry)


RETRY = Scenario(name="retry", setup=_retry, drive=_drive_retry)


# -- a stream that somebody reads -----------------------------------------------------------------------------------


def _streaming(place: Place) -> Mapping[str, Any]:
    def look(what: str) -> str:
        """Look something up."""
        return what.upper()

    replies = _in_turn(_calls(("look", {"what": place.words("look")})), place.words("answer"))
    return {"tools": [look], "providers": _model(replies)}


async def _drive_streaming(place: Place) -> None:
    treadle = place.treadle
    agent = await place.agent(model="scripted", tools=[_tool("look", "pure")])
    thread = await place.thread(place.words("user"))
    found = await treadle.runs.list(thread.id, limit=1)
    if found:
        # A reader goes on after the last event that it had.
        last = max((note["seq"] for note in place.receiver.notes("event")), default=0)
        await _read(place, treadle.runs.follow(found[0].id, after=last))
        return
    said = await _read(place, treadle.runs.stream(thread.id, agent=agent))
    (message,) = await treadle.messages.list(thread.id, limit=1)
    place.receiver.note("read", said=said, is_whole=said == message.plain)


async def _read(place: Place, events: AsyncIterator[Event]) -> str:
    """Read a stream to its end, note the numbers of its events, and give the text that it said."""
    said = ""
    async for event in events:
        if event.name == "thread.message.delta":
            said += event.data["text"]
        if event.seq is not None:
            place.receiver.note("event", seq=event.seq, name=event.name)
    return said


def _read_whole(outcome: Outcome) -> Iterable[str]:
    for note in outcome.notes:
        if note["what"] == "read" and not note["is_whole"]:
            yield f"the stream said {note['said']!r}, and the message is another"
    read = [(note["seq"], note["name"]) for note in outcome.notes if note["what"] == "event"]
    kept = [(event.seq, event.name) for c in outcome.threads for lived in c.runs for event in lived.events]
    if read != kept:
        yield f"the events are {kept}, and its reader read {read}"


STREAMING = Scenario(
    name="streaming", setup=_streaming, drive=_drive_streaming, holds=_read_whole, deltas=True
)


# -- a run that its client wants no more ------------------------------------------------------------------------------


_MORE = "Now something else."


def _cancel(place: Place) -> Mapping[str, Any]:
    async def dig(depth: int) -> str:
        """Dig until somebody says stop."""
        await asyncio.Event().wait()
        return f"dug {depth}"

    def reply(request: ModelRequest) -> ScriptEntry:
        if request.messages[-1].plain == _MORE:
            return place.words("answer")
        return _calls(*(("dig", {"depth": len(request.messages) + n}) for n in range(calls)))

    calls = 1 + place.draw(3, "calls")
    return {"tools": [dig], "providers": _model(reply)}


async def _drive_cancel(place: Place) -> None:
    runs = place.treadle.runs
    agent = await place.agent(model="scripted", tools=[_tool("dig", "once")])
    thread = await place.thread(place.words("user"))
    run = await place.first_run(thread, agent)
    while not any(step.is_open for step in await runs.steps(run.id)):
        if (await runs.get(run.id)).status != "in_progress":
            break
        await asyncio.sleep(0)
    if (await runs.get(run.id)).status == "in_progress":
        await runs.cancel(run.id)
    await place.finish(run)
    await place.another_turn(thread, agent, _MORE)


def _is_cancelled(outcome: Outcome) -> Iterable[str]:
    statuses = [lived.run.status for c in outcome.threads for lived in c.runs]
    if statuses != ["cancelled", "completed"]:
        yield f"the first run was to be cancelled and the next to be completed: {statuses}"


CANCEL = Scenario(name="cancel", setup=_cancel, drive=_drive_cancel, holds=_is_cancelled, compares=False)


# -- a run whose client does not come back in time --------------------------------------------------------------------


def _expiry(place: Place) -> Mapping[str, Any]:
    def reply(request: ModelRequest) -> ScriptEntry:
        if request.messages[-1].plain == _MORE:
            return place.words("answer")
        return _calls(("ask", {}), ("ask", {"again": True}))

    return {"providers": _model(reply)}


async def _drive_expiry(place: Place) -> None:
    agent = await place.agent(model="scripted", tools=[_ASK])
    thread = await place.thread(place.words("user"))
    run = await place.finish(await place.first_run(thread, agent, ttl="10m"))
    if run.status == "requires_action":
        place.clock.advance(3600)
        await place.treadle.recover()
        await place.finish(run)
    await place.another_turn(thread, agent, _MORE)


EXPIRY = Scenario(name="expiry", setup=_expiry, drive=_drive_expiry)


# -- a function that writes in its step's own transaction ------------------------------------------------------------------


def _transactional(place: Place) -> Mapping[str, Any]:
    async def save(name: str, tx: Transaction, idempotency_key: str) -> str:
        """Save a name."""
        await place.turns("save", name)
        tx.execute("CREATE TABLE IF NOT EXISTS saved (name TEXT, key TEXT)")
        tx.execute("INSERT INTO saved VALUES (?, ?)", (name, idempotency_key))
        return f"saved {name}"

    calls = [("save", {"name": f"{n} {place.words(n)}"}) for n in range(1 + place.draw(3, "calls"))]
    return {"tools": [save], "providers": _model(_in_turn(_calls(*calls), place.words("answer")))}


async def _drive_transactional(place: Place) -> None:
    await _one_turn(place, _tool("save", "transactional"))


def _saved_exactly_once(outcome: Outcome) -> Iterable[str]:
    connection = connect(outcome.place.folder / "treadle.db")
    try:
        saved = sorted(str(row[0]) for row in connection.execute("SELECT name FROM saved"))
    finally:
        connection.close()
    asked = [f"{n} {outcome.place.words(n)}" for n in range(1 + outcome.place.draw(3, "calls"))]
    if saved != asked:
        yield f"{asked} were to be saved, and {saved} are"


TRANSACTIONAL = Scenario(
    name="transactional", setup=_transactional, drive=_drive_transactional, holds=_saved_exactly_once
)


# -- runs and messages in line for a busy thread, from a client that sends everything again ----------------------------------


def _queue(place: Place) -> Mapping[str, Any]:
    return {"providers": _model(_in_turn(_calls(("ask", {})), *(place.words(n) for n in range(3))))}


async def _drive_queue(place: Place) -> None:
    treadle = place.treadle
    agent = await place.agent(model="scripted", tools=[_ASK])
    thread = await place.thread(place.words("user"))
    runs = [await treadle.runs.create(thread.id, agent=agent, key="run 0")]
    if (await place.finish(runs[0])).status == "requires_action":
        for n in (1, 2):
            said = {"role": "user", "content": place.words("also", n)}
            await treadle.messages.create(
                thread.id, content=place.words("more", n), key=f"message {n}", on_busy="queue"
            )
            runs.append(
                await treadle.runs.create(
                    thread.id, agent=agent, additional_messages=[said], key=f"run {n}", on_busy="queue"
                )
            )
    else:
        runs = await treadle.runs.list(thread.id, order="asc")
    for run in runs:
        await place.finish(run, lambda name, arguments: f"{name}: {arguments}")


QUEUE = Scenario(name="queue", setup=_queue, drive=_drive_queue)


# -- texts that are kept beside the rows ------------------------------------------------------------------------------------


def _large(place: Place) -> Mapping[str, Any]:
    def read(pages: int) -> str:
        """Read many pages."""
        return f"{place.words('page')}\n" * pages

    replies = _in_turn(_calls(("read", {"pages": 100_000})), place.words("answer"))
    return {"tools": [read], "providers": _model(replies)}


async def _drive_large(place: Place) -> None:
    agent = await place.agent(model="scripted", tools=[_tool("read", "pure")])
    thread = await place.thread(place.words("user") * 40_000)
    await place.finish(await place.first_run(thread, agent))


LARGE = Scenario(name="large", setup=_large, drive=_drive_large)


AGENT_SCENARIOS: Sequence[Scenario] = (
    PLAIN, ROUNDS, PARALLEL, CLIENT, APPROVAL, CANCEL, EXPIRY, RETRY, ONCE, ASKED, IDEMPOTENT, TRANSACTIONAL, STREAMING,
    LARGE, QUEUE,
)  # fmt: skip
"""Those in which an agent is run."""

SCENARIOS: Sequence[Scenario] = (*AGENT_SCENARIOS, *WORKFLOW_SCENARIOS)
"""All of them; `python -m treadle.testing.crash` goes through them."""


def scenario(name: str) -> Scenario:
    """Give a scenario by its name.

    Errors: KeyError, with the names that there are.
    """
    for found in SCENARIOS:
        if found.name == name:
            return found
    raise KeyError(f"there is no scenario '{name}'; there are {', '.join(s.name for s in SCENARIOS)}")
