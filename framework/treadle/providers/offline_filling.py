"""Values for what wants them: the parameters of a tool, the properties of an output.

What the message offers for each is ranked by how much speaks for it, and dealt out so that no part of the
message serves twice; the results of earlier calls are asked by the names of their keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from treadle.providers.offline_reading import (
    CAMEL,
    JOINT,
    TEMPORAL,
    UNIT,
    WORD,
    Item,
    Noun,
    Quantity,
    Reading,
    is_lead,
    is_same_word,
    is_stop,
    matches,
    name_stems,
    overlaps,
    rx,
    split_name,
    stem,
    stems,
    word_set,
    words_before,
)
from treadle.providers.offline_schema import (
    Json,
    Schema,
    as_list,
    as_mapping,
    fits,
    is_number,
    kind_of,
    pattern_finds,
    resolve,
)

NAMED: Final = 3
"""The text names the value: `order 1007`, `90 days` for older_than_days, a value of an enum, an address."""
PLACED: Final = 2
"""The value stands where such a value stands: `in Paris` for a city, a quoted text."""
GUESSED: Final = 1
"""The value has the right type and nothing else speaks for it."""

_GENERIC = frozenset(
    ("id", "nam", "name", "valu", "number", "cod", "type", "text", "result", "statu", "key", "item")
)
_UUID = r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
_TIME = r"\b([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?\b"
_CODE = r"(?<![\w@])#?(?=[\w-]*\d)[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*(?![\w@])"
_EXPRESSION = r"[(\d][\d\s.+\-*/^%()]{1,200}[\d)]"
_MONEY = frozenset(("eur", "euro", "usd", "dollar", "gbp", "pound"))
_MONEY_WORDS = frozenset(
    ("amount", "pric", "price", "cost", "total", "sum", "fee", "budget", "payment", "refund")
)


class Candidate(NamedTuple):
    """What could be the value of something; several items where the text lists them (`Paris and Oslo`)."""

    tier: int
    items: tuple[Item, ...]


class Slot(NamedTuple):
    """Something that wants a value: a parameter of a tool, or a property of an output."""

    name: str
    schema: dict[str, Any]
    words: list[str]
    described: list[str]
    is_required: bool
    root: Schema
    depth: int = 0


def slots(schema: Schema, root: Schema | None = None, *, depth: int = 0) -> list[Slot]:
    """Give what an object's schema asks for, required properties first."""
    root = schema if root is None else root
    required = as_list(schema.get("required")) or []
    found = [slot(n, part, root, is_required=n in required, depth=depth) for n, part in _properties(schema)]
    return sorted(found, key=lambda s: not s.is_required)


def slot(name: str, schema: object, root: Schema, *, is_required: bool = True, depth: int = 0) -> Slot:
    """Give one thing that wants a value."""
    resolved = resolve(schema, root)
    described = stems(f"{resolved.get('title', '')} {resolved.get('description', '')}")
    return Slot(name, resolved, name_stems(name), described, is_required, root, depth)


def _properties(schema: Schema) -> Iterable[tuple[str, object]]:
    return (as_mapping(schema.get("properties")) or {}).items()


_MAX_DEPTH = 3
_ORIGIN = frozenset(("from", "origin", "sourc", "start", "departur", "sender"))
_TARGET = frozenset(("to", "destination", "dest", "target", "recipient", "arrival", "receiver"))
_PLACE = frozenset(
    (
        "city",
        "location",
        "place",
        "plac",
        "country",
        "town",
        "region",
        "area",
        "addres",
        "address",
        "station",
        "airport",
    )
)
_TOPIC = frozenset(
    ("topic", "subject", "query", "term", "keyword", "search", "titl", "question", "about", "q")
)
_PERSON = frozenset(
    (
        "nam",
        "name",
        "person",
        "user",
        "customer",
        "who",
        "author",
        "owner",
        "attende",
        "guest",
        "employe",
        "contact",
    )
)
_AFFINITY = (
    (_ORIGIN, ("from",)),
    (_TARGET, ("to", "into")),
    (_PLACE, ("in", "at", "for", "near", "of", "around", "about", "to", "from")),
    (_TOPIC, ("about", "on", "for", "of")),
    (_PERSON, ("for", "by", "with", "to", "of", "from", "about")),
)
_FREE_TEXT = word_set(
    "query text messag content body question q expression prompt not search term keyword input sentenc comment "
    "reason description titl task phras word subject topic formula calculation request summary"
)
_IDENTIFIERS = frozenset(("id", "number", "code", "cod", "key", "ref", "reference", "sku", "no", "ticket"))
_DATES = frozenset(
    ("date", "dat", "day", "when", "deadlin", "due", "birthday", "sinc", "until", "arrival", "departur")
)
_NAME_INTRO = r"(?i)\b(?:my name is|i am|i'm|i’m|call me|this is|named|called)\s+$"


def candidates(want: Slot, reading: Reading, *, tool_words: Sequence[str] = ()) -> list[Candidate]:
    """Give what the message offers for a slot, the best first.

    Shapes: `tool_words` are the stems of the tool's name, which may stand before its object.
    """
    schema = want.schema
    if "const" in schema:
        return [Candidate(NAMED, (Item(schema["const"], 0, 0),))]
    if as_list(schema.get("enum")) is not None:
        return _enum_candidates(want, reading)
    kind = kind_of(schema)
    if kind in {"integer", "number"}:
        found = _number_candidates(want, reading)
    elif kind == "boolean":
        found = _boolean_candidates(want, reading)
    elif kind == "array":
        found = _array_candidates(want, reading, tool_words)
    elif kind == "object":
        found = _object_candidates(want, reading, tool_words)
    elif kind == "string":
        found = _text_candidates(want, reading, tool_words)
    else:
        found = []
    fitting = [Candidate(c.tier, tuple(i for i in c.items if fits(schema, i.value))) for c in found]
    return sorted((c for c in fitting if c.items), key=lambda c: -c.tier)


def _run_of(items: Sequence[Item], text: str) -> list[tuple[Item, ...]]:
    """Split items into the lists that the text makes of them: `a, b and c`; a mere `a, b` is two."""
    runs: list[list[Item]] = []
    has_word = False
    for item in items:
        joint = rx(JOINT).fullmatch(text[runs[-1][-1].end : item.start]) if runs else None
        if joint:
            runs[-1].append(item)
            has_word = has_word or joint[1] != ","
            continue
        runs = _cut_pair(runs, has_word=has_word)
        has_word = False
        runs.append([item])
    return [tuple(r) for r in _cut_pair(runs, has_word=has_word)]


def _cut_pair(runs: list[list[Item]], *, has_word: bool) -> list[list[Item]]:
    if runs and len(runs[-1]) == 2 and not has_word:
        return [*runs[:-1], *([item] for item in runs[-1])]
    return runs


def _enum_candidates(want: Slot, reading: Reading) -> list[Candidate]:
    found: list[Item] = []
    for value in as_list(want.schema.get("enum")) or ():
        if value is None or isinstance(value, bool):
            continue
        phrase = r"[\s_-]+".join(re.escape(w) for w in split_name(str(value))) or re.escape(str(value))
        m = re.search(rf"(?<!\w){phrase}(?:s|es)?(?!\w)", rx(CAMEL).sub(" ", reading.text), re.IGNORECASE)
        if m is None and (m := re.search(rf"(?<!\w){phrase}(?!\w)", reading.text, re.IGNORECASE)) is None:
            continue
        found.append(Item(value, m.start(), m.end()))
    found.sort(key=lambda i: (i.start, -i.end))
    kept: list[Item] = []
    for item in found:
        if not overlaps((item.start, item.end), [(k.start, k.end) for k in kept]):
            kept.append(item)
    return [Candidate(NAMED, run) for run in _run_of(kept, reading.text)]


def _number_candidates(want: Slot, reading: Reading) -> list[Candidate]:
    tiers = {q.start: _number_tier(want, q) for q in reading.quantities}
    is_whole = kind_of(want.schema) == "integer"
    items = [
        Item(int(q.value) if is_whole and float(q.value).is_integer() else q.value, q.start, q.end)
        for q in reading.quantities
    ]
    return [Candidate(max(tiers[i.start] for i in run), run) for run in _run_with_units(items, reading)]


def _run_with_units(items: Sequence[Item], reading: Reading) -> list[tuple[Item, ...]]:
    # A unit may stand between a number and the next one: `10 km and 20 km`.
    widened: list[Item] = []
    for item in items:
        m = rx(UNIT).match(reading.text, item.end)
        widened.append(item._replace(end=m.end()) if m and not is_stop(m[1]) else item)
    plain = {i.start: i for i in items}
    return [tuple(plain[i.start] for i in run) for run in _run_of(widened, reading.text)]


def _number_tier(want: Slot, quantity: Quantity) -> int:
    around = [w for w in (*quantity.before, quantity.unit) if w and not is_stop(w)]
    if quantity.unit in _MONEY and any(w in _MONEY_WORDS for w in want.words):
        return NAMED
    if any(is_same_word(a, w) for a in around for w in want.words):
        return NAMED
    return (
        PLACED
        if any(is_same_word(a, w) for a in around for w in want.described if w not in _GENERIC)
        else GUESSED
    )


def _boolean_candidates(want: Slot, reading: Reading) -> list[Candidate]:
    needed = [w for w in want.words if w not in {"includ", "us", "use", "enabl", "is", "has", "with"}]
    found = list(rx(WORD).finditer(reading.text))
    places = [next((i for i, m in enumerate(found) if is_same_word(stem(m.group()), w)), -1) for w in needed]
    if not places or min(places) < 0:
        return []
    first = min(places)
    before = [m.group().lower().replace("’", "'") for m in found[max(0, first - 3) : first]]
    denied = any(w in {"no", "not", "without", "never", "don't", "isn't", "false"} for w in before)
    after = found[max(places) + 1].group().lower() if max(places) + 1 < len(found) else ""
    value = not denied and after not in {"false", "no", "off"}
    return [Candidate(NAMED, (Item(value, found[first].start(), found[max(places)].end()),))]


def _array_candidates(want: Slot, reading: Reading, tool_words: Sequence[str]) -> list[Candidate]:
    items = resolve(want.schema.get("items"), want.root)
    if named := _named_list(want, reading, items):
        return [named]
    inner = want._replace(schema=items, depth=want.depth + 1)
    found = candidates(inner, reading, tool_words=tool_words)
    if kind_of(items) in {"integer", "number"} and found:
        found = [Candidate(found[0].tier, tuple(i for c in found for i in c.items))]
    return [
        Candidate(c.tier, (Item([i.value for i in c.items], c.items[0].start, c.items[-1].end),))
        for c in found
    ]


def _named_list(want: Slot, reading: Reading, items: Schema) -> Candidate | None:
    if kind_of(items) != "string":
        return None
    name = r"[\s_-]+".join(re.escape(w) for w in split_name(want.name))
    m = re.search(rf"\b{name}\s*(?:[:=]|are|is)\s*([^.;\n!?]+)", reading.text, re.IGNORECASE)
    if m is None:
        return None
    parts = [p.strip(" \"'“”[]") for p in re.split(r",|\band\b|\bor\b|;", m[1])]
    return Candidate(NAMED, (Item([p for p in parts if p], m.start(1), m.end(1)),))


def _object_candidates(want: Slot, reading: Reading, tool_words: Sequence[str]) -> list[Candidate]:
    """Give the objects whose properties the message has; a list in the message makes several."""
    if want.depth > _MAX_DEPTH:
        return []
    inner = slots(want.schema, want.root, depth=want.depth + 1)
    filled = fill(inner, reading, tool_words=tool_words)
    if not filled or any(s.is_required and s.name not in filled for s in inner):
        return []
    first = {name: c.items[0] for name, c in filled.items()}
    start, end = min(i.start for i in first.values()), max(i.end for i in first.values())
    value = {name: i.value for name, i in first.items()}
    objects = [Item(value, start, end)]
    many = next((name for name, c in filled.items() if len(c.items) > 1), None)
    if many is not None:
        objects += [Item(value | {many: i.value}, i.start, i.end) for i in filled[many].items[1:]]
    return [Candidate(min(c.tier for c in filled.values()), tuple(objects))]


def _text_candidates(want: Slot, reading: Reading, tool_words: Sequence[str]) -> list[Candidate]:
    found = [*_formed(want, reading), *_named(want, reading)]
    is_special = _special_form(want) is not None
    if is_special:
        return found
    if isinstance(pattern := want.schema.get("pattern"), str):
        found += _by_pattern(pattern, reading)
    if _any_in(want.words, _IDENTIFIERS):
        found += _identifiers(want, reading)
        return found
    is_free = _any_in(want.words, _FREE_TEXT)
    if is_free:
        found += _free_text(want, reading)
    else:
        found += _placed_nouns(want, reading)
    return found + _object_of_command(reading, tool_words, is_free=is_free)


def _any_in(words: Iterable[str], group: frozenset[str]) -> bool:
    return any(w in group for w in words)


def _special_form(want: Slot) -> str | None:
    """Give the form that a text must have by its format or its name: date, time, email, url or uuid."""
    form = want.schema.get("format")
    if form in {"date", "date-time", "time", "email", "uuid"}:
        return str(form)
    if form in {"uri", "url", "uri-reference", "iri"} or _any_in(
        want.words, frozenset(("url", "uri", "link", "websit"))
    ):
        return "url"
    if _any_in(want.words, frozenset(("email", "mail"))) and not _any_in(want.words, _FREE_TEXT):
        return "email"
    return None


def _formed(want: Slot, reading: Reading) -> list[Candidate]:
    form = _special_form(want)
    if form == "email":
        return [Candidate(NAMED, run) for run in _run_of(reading.emails, reading.text)]
    if form == "url":
        return [Candidate(NAMED, (item,)) for item in reading.urls]
    if form == "uuid":
        return [Candidate(NAMED, (item,)) for item in matches(_UUID, reading.text, ())]
    if form == "time":
        return [
            Candidate(NAMED, (Item(f"{int(m[1]):02d}:{m[2]}:{m[3] or '00'}Z", m.start(), m.end()),))
            for m in rx(_TIME).finditer(reading.text)
        ]
    if form in {"date", "date-time"} or _any_in(want.words, _DATES):
        return _date_candidates(reading, form)
    if _any_in(want.words, _TARGET | _ORIGIN | _PERSON):
        return [Candidate(PLACED, run) for run in _run_of(reading.emails, reading.text)]
    return []


def _date_candidates(reading: Reading, form: str | None) -> list[Candidate]:
    if form == "date-time":
        items = [i._replace(value=_with_zone(i.value)) for i in reading.dates]
    else:
        items = [i._replace(value=i.value[:10]) for i in reading.dates]
    found = [Candidate(NAMED, (i,)) for i in items]
    if form is None:
        words = [
            m
            for m in rx(WORD).finditer(reading.text)
            if m.group().lower() in TEMPORAL - {"next", "last", "now"}
        ]
        found += [Candidate(PLACED, (Item(m.group(), m.start(), m.end()),)) for m in words]
    return found


def _with_zone(text: str) -> str:
    if "T" not in text:
        return f"{text}T00:00:00Z"
    head, _, clock = text.partition("T")
    zone = re.search(r"(?:Z|[+-]\d{2}:\d{2})$", clock)
    clock = clock[: zone.start()] if zone else clock
    return f"{head}T{clock if clock.count(':') == 2 else clock + ':00'}{zone.group() if zone else 'Z'}"


def _named(want: Slot, reading: Reading) -> list[Candidate]:
    """Give values that follow the slot's own name: `city: Paris`, `order 1007`, `my name is Ada`."""
    text, found = reading.text, list[Candidate]()
    full = r"[\s_-]+".join(re.escape(w) for w in split_name(want.name))
    short = "|".join(
        re.escape(w)
        for w in split_name(want.name)
        if stem(w) not in _GENERIC and not is_stop(w) and len(w) > 2
    )
    names = f"{full}|{short}" if short else full
    for m in re.finditer(
        rf"(?<!\w)(?:{names})(?:\s+(?:id|number|code|no\.?|key))?(\s*[:=#]\s*|\s+(?:is|named|called)\s+|\s+#?)",
        text,
        re.IGNORECASE,
    ):
        item = _value_at(text, m.end(), reading)
        if item is None:
            continue
        has_separator = bool(m[1].strip())
        if has_separator or text[item.start] in "\"“'`" or any(c.isdigit() for c in item.value):
            found.append(Candidate(NAMED, (item,)))
    if _any_in(want.words, frozenset(("nam", "name"))):
        found += [
            Candidate(NAMED, (Item(n.text, n.start, n.end),))
            for n in reading.nouns
            if n.kind == "name" and rx(_NAME_INTRO).search(text[: n.start])
        ]
    return found


def _value_at(text: str, start: int, reading: Reading) -> Item | None:
    for noun in reading.nouns:
        if noun.start == start and noun.kind != "plain":
            return Item(noun.text, noun.start, noun.end)
    m = rx(r"#?([^\s,;!?\"“”]+)").match(text, start)
    if m is None or is_stop(m[1]):
        return None
    value = m[1].rstrip(".:)")
    return Item(value, m.start(), m.start(1) + len(value)) if value else None


def _by_pattern(pattern: str, reading: Reading) -> list[Candidate]:
    as_written = [
        Item(n.text, n.start, n.end)
        for n in reading.nouns
        if n.kind != "plain" and pattern_finds(pattern, n.text)
    ]
    raised: list[Item] = []
    for m in re.finditer(r"[^\s,;!?\"“”()]+", reading.text):
        token = m.group().strip(".:'#")
        if not token or is_stop(token) or is_lead(token) or stem(token) in reading.vocabulary:
            continue
        start = m.start() + m.group().index(token)
        if pattern_finds(pattern, token):
            as_written.append(Item(token, start, start + len(token)))
        elif token.islower() and pattern_finds(pattern, token.upper()):
            raised.append(Item(token.upper(), start, start + len(token)))
    as_written = sorted(dict.fromkeys(as_written), key=lambda i: i.start)
    return [
        *(Candidate(PLACED, run) for run in _run_of(as_written, reading.text)),
        *(Candidate(GUESSED, run) for run in _run_of(raised, reading.text)),
    ]


def _identifiers(want: Slot, reading: Reading) -> list[Candidate]:
    taken = [(i.start, i.end) for i in (*reading.dates, *reading.emails, *reading.urls)]
    items = [
        Item(m.group().lstrip("#"), m.start(), m.end())
        for m in rx(_CODE).finditer(reading.text)
        if not overlaps(m.span(), taken)
    ]
    quoted = [Item(n.text, n.start, n.end) for n in reading.nouns if n.kind == "quoted"]
    found: list[Candidate] = []
    for run in _run_of(items, reading.text):
        before = words_before(reading.text, run[0].start)
        is_near = any(is_same_word(b, w) for b in before for w in want.words)
        has_letter = any(c.isalpha() for c in run[0].value)
        found.append(Candidate(NAMED if is_near else PLACED if has_letter else GUESSED, run))
    return [*found, *(Candidate(PLACED, (i,)) for i in quoted)]


def _placed_nouns(want: Slot, reading: Reading) -> list[Candidate]:
    wanted = next((preps for group, preps in _AFFINITY if _any_in(want.words, group)), None)
    opposite = {"from": ("to", "into"), "to": ("from",)}.get(wanted[0], ()) if wanted else ()
    by_start = {n.start: n for n in reading.nouns}
    items = [Item(n.text, n.start, n.end) for n in reading.nouns if n.preposition not in opposite]
    found: list[Candidate] = []
    for run in _run_of(items, reading.text):
        noun = by_start[run[0].start]
        near = any(
            is_same_word(b, w) for b in words_before(reading.text, noun.start)[-1:] for w in want.words
        )
        if near:
            tier = NAMED
        elif noun.kind == "quoted" or (noun.preposition and (wanted is None or noun.preposition in wanted)):
            tier = PLACED
        else:
            tier = GUESSED
        if noun.kind == "plain" and tier == PLACED and wanted is None:
            tier = GUESSED
        # Names outrank plain words that stand as well: they are likelier to be what is meant.
        found.append(Candidate(tier, run))
    return sorted(
        found,
        key=lambda c: (
            -c.tier,
            by_start[c.items[0].start].kind == "plain",
            _rank(by_start[c.items[0].start], wanted),
        ),
    )


def _rank(noun: Noun, wanted: Sequence[str] | None) -> int:
    if not wanted or noun.preposition not in wanted:
        return 99
    return wanted.index(noun.preposition)


def _free_text(want: Slot, reading: Reading) -> list[Candidate]:
    text = reading.text
    quoted = [Candidate(NAMED, (Item(n.text, n.start, n.end),)) for n in reading.nouns if n.kind == "quoted"]
    if _any_in(want.words, frozenset(("expression", "formula", "calculation"))):
        sums = [m for m in rx(_EXPRESSION).finditer(text) if re.search(r"[+\-*/^%]", m.group())]
        return [*quoted, *(Candidate(NAMED, (Item(m.group().strip(), m.start(), m.end()),)) for m in sums)]
    if quoted:
        return quoted
    found: list[Candidate] = []
    m = re.search(r":\s+(\S.*)$", text, re.DOTALL)
    if m:
        found.append(Candidate(PLACED, (Item(m[1].strip(), m.start(1), m.end(1)),)))
    if _any_in(want.words, _TOPIC):
        m = re.search(r"\b(?:about|for|on|of)\s+(.+?)[\s.?!]*$", text, re.DOTALL | re.IGNORECASE)
        if m:
            found.append(Candidate(PLACED, (Item(m[1], m.start(1), m.end(1)),)))
    m = re.search(r"\b(?:that|saying)\s+(.+?)[\s?!]*$", text, re.DOTALL | re.IGNORECASE)
    if m and not _any_in(want.words, _TOPIC):
        found.append(Candidate(PLACED, (Item(m[1], m.start(1), m.end(1)),)))
    return found


_POLITE = r"(?i)^\W*(?:(?:please|can you|could you|would you|will you|kindly|now|just)\s+)*"


def _object_of_command(reading: Reading, tool_words: Sequence[str], *, is_free: bool) -> list[Candidate]:
    """Give what a command is about: `define serendipity` where the tool is called define."""
    text = reading.text
    polite = rx(_POLITE).match(text)
    begin = polite.end() if polite else 0
    words = list(rx(WORD).finditer(text, begin))
    is_command = bool(words) and any(is_same_word(stem(words[0].group()), w) for w in tool_words)
    rest = list(words)
    while rest and (
        is_stop(rest[0].group())
        or is_lead(rest[0].group())
        or any(is_same_word(stem(rest[0].group()), w) for w in tool_words)
    ):
        rest.pop(0)
    if not rest:
        return []
    if is_command or (is_free and words and is_lead(words[0].group())):
        value = text[rest[0].start() :].rstrip(" .?!")
        return [Candidate(GUESSED, (Item(value, rest[0].start(), rest[0].start() + len(value)),))]
    if is_free:
        return [Candidate(GUESSED, (Item(text.strip(), begin, len(text)),))]
    return []


def fill(
    wanted: Sequence[Slot],
    reading: Reading,
    *,
    tool_words: Sequence[str] = (),
    used: Sequence[tuple[int, int]] = (),
) -> dict[str, Candidate]:
    """Give each slot its value out of the message; no part of the message serves two slots.

    Shapes: better evidence is dealt out first; a slot that is not required takes no guesses. A candidate of
    several items means one value each, where the slot stands alone for them.
    """
    offers = {s.name: candidates(s, reading, tool_words=tool_words) for s in wanted}
    taken = list(used)
    filled: dict[str, Candidate] = {}
    for tier in (NAMED, PLACED, GUESSED):
        for want in wanted:
            if want.name in filled or (tier == GUESSED and not want.is_required):
                continue
            chosen = _first_free(offers[want.name], tier, taken)
            if chosen is None:
                continue
            if len(chosen.items) > 1 and _has_rival(want, wanted, filled, offers, chosen):
                chosen = Candidate(chosen.tier, chosen.items[:1])
            filled[want.name] = chosen
            taken += [(i.start, i.end) for i in chosen.items]
    return {s.name: filled[s.name] for s in wanted if s.name in filled}


def _first_free(offers: Iterable[Candidate], tier: int, taken: Sequence[tuple[int, int]]) -> Candidate | None:
    for offer in offers:
        free = tuple(i for i in offer.items if not overlaps((i.start, i.end), taken))
        if offer.tier == tier and free:
            return Candidate(tier, free)
    return None


def _has_rival(
    want: Slot,
    wanted: Sequence[Slot],
    filled: Mapping[str, Candidate],
    offers: Mapping[str, Sequence[Candidate]],
    chosen: Candidate,
) -> bool:
    """Tell whether another required slot of the type can only be served from the same list."""
    spans = [(i.start, i.end) for i in chosen.items]
    for other in wanted:
        if (
            other is want
            or other.name in filled
            or not other.is_required
            or kind_of(other.schema) != kind_of(want.schema)
        ):
            continue
        items = [i for c in offers[other.name] for i in c.items]
        if items and all(overlaps((i.start, i.end), spans) for i in items):
            return True
    return False


# Values out of earlier results


class Leaf(NamedTuple):
    """A value in a tool's result: the stems of its key, and those of the tool's name."""

    words: list[str]
    context: list[str]
    value: Json


def leaves(value: Json, words: Sequence[str], context: Sequence[str] = (), depth: int = 0) -> list[Leaf]:
    """Give the values of a result with their keys; a bare result goes by the name of its tool."""
    if depth > 6:
        return []
    if (mapping := as_mapping(value)) is not None:
        inner = [*context, *words]
        return [
            leaf for key, part in mapping.items() for leaf in leaves(part, name_stems(key), inner, depth + 1)
        ]
    found = [Leaf(list(words), list(context), value)]
    for part in (as_list(value) or [])[:16]:
        found += leaves(part, words, context, depth + 1)
    return found


def relation(want: Slot, leaf: Leaf) -> int:
    """Tell how well a result's value suits a slot by its words: NAMED, PLACED or 0."""
    if leaf.words == want.words:
        return NAMED
    telling = [w for w in want.words if w not in _GENERIC]
    if not telling:
        return 0
    around = [*leaf.words, *leaf.context]
    if all(any(is_same_word(w, a) for a in around) for w in want.words) and _any_same(want.words, leaf.words):
        return PLACED
    if (
        leaf.words
        and all(any(is_same_word(a, w) for w in want.words) for a in leaf.words)
        and _any_same(telling, leaf.words)
    ):
        return PLACED
    return 0


def _any_same(left: Iterable[str], right: Sequence[str]) -> bool:
    return any(is_same_word(a, b) for a in left for b in right)


def adapted(want: Slot, value: Json) -> Json | None:
    """Give the value in the slot's type where it fits, else None."""
    if is_number(value) and kind_of(want.schema) == "string":
        value = json.dumps(value)
    if isinstance(value, float) and value.is_integer() and kind_of(want.schema) == "integer":
        value = int(value)
    return value if value is not None and fits(want.schema, value) else None
