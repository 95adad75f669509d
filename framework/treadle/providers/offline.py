"""The offline model: a deterministic stand-in that needs no key and no network.

It does not think. It picks tools by word overlap, takes their arguments from the message and from earlier
results, and puts results in words. The same request always gives the same reply.

Rules
1. A tool is a candidate while words of the message that name it are unanswered; the tool whose arguments
   are best founded goes first, alone; the same tool on several subjects goes in one reply.
2. An argument is what the message says, else what a result of this turn has under that name, else a value
   of the right type. Nothing is invented: a required argument that is nowhere is asked for.
3. No call is made twice with the same arguments in a turn, and no tool feeds itself.
4. A short message that only gives values (`and Oslo?`) is read with the words of the last message that
   named a tool.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from treadle.errors import StateError
from treadle.objects.image import is_data_url, read_data_url, read_head, source_of
from treadle.objects.message import ImageFilePart, ImageUrlPart, Message, ToolCall
from treadle.objects.run import Usage
from treadle.providers.base import (
    Emit,
    Endpoint,
    FinishReason,
    ModelReply,
    ModelRequest,
    TextDelta,
    ToolCallDelta,
    ToolDefinition,
)
from treadle.providers.offline_filling import (
    GUESSED,
    NAMED,
    PLACED,
    Candidate,
    Slot,
    adapted,
    fill,
    leaves,
    relation,
    slots,
)
from treadle.providers.offline_phrases import Done, answer, parse_result, wanted_in_words
from treadle.providers.offline_reading import (
    Reading,
    is_elliptic,
    is_opened,
    is_same_word,
    name_stems,
    read,
    rx,
    split_name,
    stems,
)
from treadle.providers.offline_schema import Json, as_list, as_mapping, kind_of
from treadle.providers.offline_shaping import Known, shape
from treadle.providers.offline_talk import Told, sentences, talk

DESCRIPTION: Final = "stand-in: picks tools by word overlap, it does not think"

_MAX_PARALLEL = 16
_MAX_TURN_CALLS = 48
_MAX_EARLIER = 200
_BYTES_PER_TOKEN = 4
_PIECE = r"\s*\S+\s*|\s+"
_BODY = frozenset(("body", "messag", "text", "content", "summary", "note", "comment"))
_LOOKUP_VERBS = frozenset(
    [
        "get",
        "find",
        "look",
        "lookup",
        "search",
        "list",
        "fetch",
        "read",
        "show",
        "query",
        "resolve",
        "geocode",
        "locate",
        "check",
        "which",
        "describe",
    ]
)


class OfflineProvider:
    """Answer from rules alone; it is the model where none is configured."""

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        """Take the endpoint as every provider does; there is nothing in it that this one needs."""
        self._endpoint = endpoint

    async def call(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Decide on the reply and stream it word by word."""
        reply = decide(request)
        for piece in rx(_PIECE).findall(reply.text or ""):
            emit(TextDelta(piece))
        for index, call in enumerate(reply.tool_calls):
            emit(ToolCallDelta(index, call.id, call.name))
            for start in range(0, len(call.arguments), 32):
                emit(ToolCallDelta(index, arguments=call.arguments[start : start + 32]))
        return reply

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def decide(request: ModelRequest) -> ModelReply:
    """Give the reply to a request: a pure function."""
    turn = _turn(request)
    calls, missing = _next_calls(turn)
    if calls:
        first = 1 + max((_call_number(c.id) for m in request.messages for c in m.tool_calls), default=0)
        asked = [
            ToolCall(id=f"call_{first + i}", name=name, arguments=json.dumps(arguments, ensure_ascii=False))
            for i, (name, arguments) in enumerate(calls)
        ]
        return _limited(request, None, asked)
    text = _words(turn, missing)
    if request.output_schema is not None:
        text = json.dumps(shape(request.output_schema, _known(turn, text)), ensure_ascii=False)
    return _limited(request, text, [])


def _call_number(id_: str) -> int:
    digits = id_.removeprefix("call_")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0


# The turn


class _Tool(NamedTuple):
    definition: ToolDefinition
    rank: int
    name_words: list[str]
    other_words: list[str]
    slots: list[Slot]

    @property
    def name(self) -> str:
        return self.definition.name

    def weight(self, word: str) -> int:
        """Tell how much a word of the message speaks for this tool."""
        if any(is_same_word(word, w) for w in self.name_words):
            return 3
        return 1 if any(is_same_word(word, w) for w in self.other_words) else 0


class _Turn(NamedTuple):
    request: ModelRequest
    tools: list[_Tool]
    vocabulary: frozenset[str]
    message: Message | None
    reading: Reading
    done: list[Done]
    before: list[Done]
    users: list[str]
    assistants: list[str]


def _turn(request: ModelRequest) -> _Turn:
    rows = request.messages
    place = next((i for i in range(len(rows) - 1, -1, -1) if rows[i].role == "user"), -1)
    tools = [_tool(t, i) for i, t in enumerate(request.tools)]
    vocabulary = frozenset(w for t in tools for w in _vocabulary(t))
    head = rows[: max(place, 0)]
    last = next((i for i in range(len(head) - 1, -1, -1) if head[i].role == "user"), 0)
    message = rows[place] if place >= 0 else None
    return _Turn(
        request,
        tools,
        vocabulary,
        message,
        read(message.plain if message else "", vocabulary),
        _done(rows[place + 1 :]),
        _done(head[last:]),
        _texts(head, "user"),
        _texts(head, "assistant"),
    )


def _texts(rows: Sequence[Message], role: str) -> list[str]:
    newest = islice((m.plain for m in reversed(rows) if m.role == role and m.plain), _MAX_EARLIER)
    return list(newest)[::-1]


def _tool(definition: ToolDefinition, index: int) -> _Tool:
    wanted = slots(definition.parameters)
    words = stems(definition.description)
    for want in wanted:
        words += [*want.words, *want.described]
        words += [w for value in as_list(want.schema.get("enum")) or [] for w in stems(str(value))]
    return _Tool(definition, index, name_stems(definition.name), list(dict.fromkeys(words)), wanted)


def _vocabulary(tool: _Tool) -> Iterable[str]:
    yield from tool.name_words
    for want in tool.slots:
        yield from want.words
        for value in as_list(want.schema.get("enum")) or []:
            yield from stems(str(value))


def _done(rows: Iterable[Message]) -> list[Done]:
    found: list[Done] = []
    calls: Sequence[ToolCall] = ()
    answered = 0
    for row in rows:
        if row.role == "assistant":
            calls, answered = row.tool_calls, 0
        elif row.role == "tool":
            index = row.call_index if row.call_index is not None else answered
            answered += 1
            if index < len(calls):
                value, error = parse_result(row.plain)
                found.append(Done(calls[index].name, _arguments(calls[index].arguments), value, error))
    return found


def _arguments(text: str) -> dict[str, Any]:
    try:
        return as_mapping(json.loads(text)) or {}
    except (ValueError, RecursionError):
        return {}


# Which tool, with which arguments


class _Wish(NamedTuple):
    """A tool that the message seems to ask for."""

    tool: _Tool
    score: int
    coverage: float
    position: int
    is_named: bool


class _Plan(NamedTuple):
    wish: _Wish
    calls: list[dict[str, Any]]
    missing: list[Slot]
    tier: int


def _next_calls(turn: _Turn) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[_Tool, list[Slot]]]]:
    """Give the calls of this reply, or what the tools that were asked for still lack."""
    choice = turn.request.tool_choice
    if choice == "none" or not turn.tools or len(turn.done) >= _MAX_TURN_CALLS:
        return [], []
    words, inherited = _topic(turn)
    wishes = _wishes(turn, words)
    if choice not in {"auto", "required"}:
        named = [t for t in turn.tools if t.name == choice]
        wishes = [_Wish(t, 3, 1.0, 0, is_named=True) for t in named if not turn.done]
    elif choice == "required" and not wishes and not turn.done:
        wishes = [_Wish(t, 0, 0.0, 0, is_named=False) for t in turn.tools]
    plans = [_plan(w, turn, inherited, wishes) for w in wishes]
    ready = [p for p in plans if p.calls and not p.missing]
    if not any(w.is_named or w.score > 1 for w in wishes) and choice == "auto":
        ready = [p for p in ready if p.tier >= PLACED and p.wish.tool.slots]
    if not ready:
        ready = _suppliers(plans, turn, inherited)
    if ready:
        best = min(ready, key=_order)
        limit = 1 if turn.request.options.parallel_tool_calls is False else _MAX_PARALLEL
        return [(best.wish.tool.name, arguments) for arguments in best.calls[:limit]], []
    is_forced = choice != "auto" and not turn.done
    lacking = [p for p in plans if p.missing and (p.wish.is_named or is_forced)]
    if any(d.error is not None for d in turn.done):
        return [], []
    lacking.sort(key=_order)
    return [], [(p.wish.tool, p.missing) for p in lacking[:1]]


def _order(plan: _Plan) -> tuple[bool, int, float, int, int]:
    wish = plan.wish
    return plan.tier < PLACED, -wish.score, -wish.coverage, wish.position, wish.tool.rank


def _topic(turn: _Turn) -> tuple[list[str], Reading | None]:
    """Give the words to pick tools by, and the earlier message that a merely elliptic one goes on from."""
    words = turn.reading.words
    named = _named_tools(turn, words)
    # `and Oslo, in Fahrenheit?` goes on although it names a tool: it gives that tool nothing to start from.
    is_whole = bool(named) and (
        not is_opened(turn.reading) or any(_is_served(t, turn.reading) for t in named)
    )
    if is_whole or not is_elliptic(turn.reading):
        return words, None
    for text in reversed(turn.users[-20:]):
        earlier = read(text, turn.vocabulary)
        if _named_tools(turn, earlier.words):
            return [*words, *(w for w in earlier.words if w not in words)], earlier
    return words, None


def _named_tools(turn: _Turn, words: Sequence[str]) -> list[_Tool]:
    return [t for t in turn.tools if any(t.weight(w) >= 3 for w in words)]


def _is_served(tool: _Tool, reading: Reading) -> bool:
    filled = fill(tool.slots, reading, tool_words=tool.name_words)
    return all(s.name in filled for s in tool.slots if s.is_required)


def _wishes(turn: _Turn, words: Sequence[str]) -> list[_Wish]:
    weights = {w: [t.weight(w) for t in turn.tools] for w in words}
    answered = _answered(turn, weights)
    found: list[_Wish] = []
    for tool in turn.tools:
        open_words = [w for w in words if weights[w][tool.rank] and w not in answered]
        is_called = any(d.name == tool.name for d in turn.done)
        if is_called:
            open_words = [w for w in words if weights[w][tool.rank]]
        named = [w for w in open_words if weights[w][tool.rank] >= 3]
        score = sum(weights[w][tool.rank] for w in open_words)
        if not named and not any(w for w in open_words if any(is_same_word(w, d) for d in _described(tool))):
            continue
        coverage = len(named) / len(tool.name_words) if tool.name_words else 0.0
        position = min(words.index(w) for w in open_words)
        found.append(_Wish(tool, score, coverage, position, is_named=bool(named)))
    is_clear = any(w.is_named for w in found)
    return [w for w in found if w.is_named or (not is_clear and not turn.done)]


def _described(tool: _Tool) -> list[str]:
    return stems(tool.definition.description)


def _answered(turn: _Turn, weights: Mapping[str, Sequence[int]]) -> frozenset[str]:
    """Give the words that the calls of this turn have answered: those that no other tool stands closer to."""
    found: set[str] = set()
    for call in turn.done:
        tool = next((t for t in turn.tools if t.name == call.name), None)
        if tool is None:
            continue
        given = {w for want in tool.slots if want.name in call.arguments for w in want.words}
        for word, by_tool in weights.items():
            own = by_tool[tool.rank]
            if (own and own == max(by_tool)) or (own and any(is_same_word(word, g) for g in given)):
                found.add(word)
    return frozenset(found)


def _plan(wish: _Wish, turn: _Turn, inherited: Reading | None, wishes: Sequence[_Wish]) -> _Plan:
    tool = wish.tool
    said = _from_message(tool, turn, inherited, wishes)
    sure = {name: c for name, c in said.items() if c.tier >= PLACED}
    supplied, tier = _from_results(tool, turn, sure, is_own_words=inherited is None)
    calls: list[dict[str, Any]] = []
    missing: list[Slot] = []
    for given in supplied:
        values: dict[str, list[Json]] = {}
        for want in tool.slots:
            if want.name in sure:
                values[want.name] = [i.value for i in sure[want.name].items]
            elif want.name in given:
                values[want.name] = given[want.name]
            elif want.name in said and _may_guess(want, said[want.name], turn, tool):
                values[want.name] = [i.value for i in said[want.name].items]
                tier = min(tier, GUESSED)
            elif want.is_required:
                missing.append(want)
        calls += _expanded(values)
    calls = _distinct(calls)
    made = [d.arguments for d in turn.done if d.name == tool.name]
    left = [c for c in calls if c not in made]
    # A tool that was called goes on only through what is left of its own list.
    if made and not any(c in made for c in calls):
        left = []
    missing = [] if made else [m for i, m in enumerate(missing) if m not in missing[:i]]
    return _Plan(wish, left, missing, tier)


def _expanded(values: Mapping[str, list[Json]]) -> list[dict[str, Any]]:
    """Give one call per value of the first list, with the first value of every other one."""
    many = next((name for name, found in values.items() if len(found) > 1), None)
    base = {name: found[0] for name, found in values.items()}
    if many is None:
        return [base]
    return [base | {many: value} for value in values[many][:_MAX_PARALLEL]]


def _distinct(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [c for i, c in enumerate(calls) if c not in calls[:i]]


def _may_guess(want: Slot, candidate: Candidate, turn: _Turn, tool: _Tool) -> bool:
    """Tell whether a value that only has the right type may be taken: required, and not another tool's number."""
    if not want.is_required:
        return False
    if kind_of(want.schema) not in {"integer", "number"}:
        return True
    used = [v for d in turn.done if d.name != tool.name for v in d.arguments.values()]
    return not any(i.value in used for i in candidate.items)


def _from_message(
    tool: _Tool, turn: _Turn, inherited: Reading | None, wishes: Sequence[_Wish]
) -> dict[str, Candidate]:
    found: dict[str, Candidate] = {}
    clause = _clause(tool, turn, wishes)
    if clause is not None:
        found = {
            n: c for n, c in fill(tool.slots, clause, tool_words=tool.name_words).items() if c.tier >= PLACED
        }
    rest = [s for s in tool.slots if s.name not in found]
    said = fill(rest, turn.reading, tool_words=tool.name_words)
    taken = [i.value for c in found.values() for i in c.items]
    said = {n: c for n, c in said.items() if c.items[0].value not in taken}
    if inherited is None:
        return found | said
    # What an elliptic message gives is meant to be the value, whatever else would speak for it.
    found |= {n: Candidate(max(c.tier, PLACED), c.items) for n, c in said.items()}
    rest = [s for s in rest if s.name not in found]
    older = fill(rest, inherited, tool_words=tool.name_words)
    return found | {n: c for n, c in older.items() if c.tier >= PLACED}


def _clause(tool: _Tool, turn: _Turn, wishes: Sequence[_Wish]) -> Reading | None:
    """Read the part of the message from this tool's word to the next tool's, where several are named."""
    if sum(w.is_named for w in wishes) + len({d.name for d in turn.done}) < 2:
        return None
    text = turn.reading.text
    marks: list[tuple[int, bool]] = []
    for word, start in turn.reading.places:
        weights = [t.weight(word) for t in turn.tools]
        if max(weights) >= 3:
            marks.append((start, weights[tool.rank] >= 3))
    begin = next((start for start, is_own in marks if is_own), None)
    if begin is None:
        return None
    end = next((start for start, is_own in marks if start > begin and not is_own), len(text))
    return read(text[begin:end], turn.vocabulary)


def _from_results(
    tool: _Tool, turn: _Turn, sure: Mapping[str, Candidate], *, is_own_words: bool
) -> tuple[list[dict[str, list[Json]]], int]:
    """Give sets of arguments out of earlier results, one per result that has all that is open, and their tier."""
    wanted = [s for s in tool.slots if s.name not in sure]
    least = min((sure[s.name].tier for s in tool.slots if s.is_required and s.name in sure), default=NAMED)
    if not wanted:
        return [{}], least
    results = turn.done or (turn.before if is_own_words else [])
    sources = [d for d in results if d.error is None and (d.name != tool.name or not turn.done)]
    offers = [_offer(wanted, d) for d in sources]
    required = [s for s in wanted if s.is_required]
    best = {s.name: max((o[s.name][0] for o in offers if s.name in o), default=0) for s in wanted}
    whole = [
        o for o in offers if required and all(s.name in o and o[s.name][0] == best[s.name] for s in required)
    ]
    if whole:
        sets = [{name: values for name, (_, values) in o.items()} for o in whole]
        return sets, min(least, PLACED if turn.done else GUESSED)
    mixed = {n: values for o in offers for n, (tier, values) in o.items() if tier == best[n]}
    told = [
        s for s in required if s.name not in mixed and kind_of(s.schema) == "string" and set(s.words) & _BODY
    ]
    if told and turn.done and (text := adapted(told[0], answer(turn.done))) is not None:
        mixed[told[0].name] = [text]
    return [mixed], least


def _offer(wanted: Sequence[Slot], source: Done) -> dict[str, tuple[int, list[Json]]]:
    found = leaves(source.value, name_stems(source.name), split_name(source.name))
    offer: dict[str, tuple[int, list[Json]]] = {}
    for want in wanted:
        related = [(relation(want, leaf), adapted(want, leaf.value)) for leaf in found]
        tier = max((t for t, value in related if value is not None), default=0)
        # Invariant: what a tool needs not be given is taken from a result only under its very name.
        if tier and (want.is_required or tier == NAMED):
            values = [value for t, value in related if t == tier and value is not None]
            offer[want.name] = tier, _plain_distinct(values)
    return offer


def _plain_distinct(values: Sequence[Json]) -> list[Json]:
    return [v for i, v in enumerate(values) if v not in values[:i]]


def _suppliers(plans: Sequence[_Plan], turn: _Turn, inherited: Reading | None) -> list[_Plan]:
    """Give look-ups that could find what the tools that were asked for lack."""
    for plan in plans:
        if not plan.wish.is_named:
            continue
        lacking = [w for want in plan.missing for w in want.words]
        for depth in range(2):
            found = [
                _plan(_Wish(t, 0, 0.0, 0, is_named=False), turn, inherited, ())
                for t in turn.tools
                if t.name != plan.wish.tool.name
                and not any(d.name == t.name for d in turn.done)
                and split_name(t.name)[:1]
                and split_name(t.name)[0] in _LOOKUP_VERBS
                and any(is_same_word(w, v) for w in lacking for v in [*t.name_words, *_described(t)])
            ]
            ready = [p for p in found if p.calls and not p.missing and p.wish.tool.slots]
            if ready or depth:
                return ready
            lacking = [w for p in found for want in p.missing for w in want.words]
    return []


# The words


def _words(turn: _Turn, missing: Sequence[tuple[_Tool, list[Slot]]]) -> str:
    parts = [answer(turn.done)] if turn.done else []
    parts += [wanted_in_words(tool.name, wanted) for tool, wanted in missing]
    return " ".join(parts) or talk(_told(turn), turn.request.tools)


def _told(turn: _Turn) -> Told:
    parts = turn.message.parts if turn.message else ()
    images = [_image(p, turn.request.files) for p in parts if isinstance(p, (ImageFilePart, ImageUrlPart))]
    return Told(turn.reading.text, turn.users, turn.assistants, turn.request.instructions, images)


def _image(part: ImageFilePart | ImageUrlPart, files: Mapping[str, tuple[str, bytes]]) -> str:
    """Give what the head of an image says; nothing where its content did not come along."""
    source = source_of(part)
    found = files.get(source)
    head = None
    if found is not None:
        head = read_head(found[1])
    elif is_data_url(source):
        with contextlib.suppress(StateError):
            head = read_head(read_data_url(source))
    if head is None:
        return ""
    return f"{head.media_type.removeprefix('image/').upper()}, {head.width} x {head.height} pixels"


def _known(turn: _Turn, text: str) -> Known:
    earlier = [read(t) for t in reversed(turn.users[-8:])]
    spoken = sentences(turn.reading.text)
    return Known(read(turn.reading.text), earlier, turn.done, text, spoken[0] if spoken else "")


# The reply


def _limited(request: ModelRequest, text: str | None, calls: Sequence[ToolCall]) -> ModelReply:
    """Cut the reply where the request says so, and count what was sent and written."""
    finish: FinishReason = "tool_calls" if calls else "stop"
    if text is not None:
        stops = request.options.stop
        for stop in (stops,) if isinstance(stops, str) else stops or ():
            text = text.partition(stop)[0] if stop else text
    limit = request.options.max_output_tokens
    if limit is not None:
        left = limit * _BYTES_PER_TOKEN
        is_cut = _written(text, calls) > left
        text, calls = _cut(text, calls, left) if is_cut else (text, calls)
        finish = "length" if is_cut else finish
    usage = Usage(
        prompt_tokens=_tokens(_sent(request)),
        completion_tokens=_tokens(_written(text, calls)),
        estimated=True,
    )
    return ModelReply(
        text=text, tool_calls=tuple(calls), usage=usage, finish_reason=finish, model=request.model
    )


def _cut(text: str | None, calls: Sequence[ToolCall], left: int) -> tuple[str | None, list[ToolCall]]:
    if text is not None:
        return text.encode(errors="replace")[:left].decode(errors="ignore"), []
    kept: list[ToolCall] = []
    for call in calls:
        left -= _bytes(call.name)
        if left < 0:
            break
        arguments = call.arguments.encode(errors="replace")[:left].decode(errors="ignore")
        kept.append(ToolCall(id=call.id, name=call.name, arguments=arguments))
        left -= _bytes(call.arguments)
        if left <= 0:
            break
    return None, kept


def _written(text: str | None, calls: Iterable[ToolCall]) -> int:
    return _bytes(text or "") + sum(_bytes(c.name) + _bytes(c.arguments) for c in calls)


def _sent(request: ModelRequest) -> int:
    total = _bytes(request.instructions)
    for row in request.messages:
        total += _bytes(row.plain) + _written(None, row.tool_calls)
    for tool in request.tools:
        total += _bytes(tool.name) + _bytes(tool.description) + _bytes(json.dumps(tool.parameters))
    return total


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _tokens(count: int) -> int:
    return -(-count // _BYTES_PER_TOKEN)
