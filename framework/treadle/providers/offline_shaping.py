"""JSON that fits a schema, with what the message and the results of tools have for its keys.

What nothing is known of becomes the schema's default, null where it may be, else the smallest value that
fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from treadle.providers.offline_filling import (
    GUESSED,
    NAMED,
    PLACED,
    Leaf,
    Slot,
    adapted,
    candidates,
    fill,
    leaves,
    relation,
    slot,
    slots,
)
from treadle.providers.offline_phrases import Done
from treadle.providers.offline_reading import Reading, name_stems, rx
from treadle.providers.offline_schema import (
    Json,
    Schema,
    as_list,
    as_mapping,
    as_number,
    bounds,
    fits,
    kind_of,
    pattern_finds,
    resolve,
)

_MAX_DEPTH = 8
_ANSWER_KEYS = frozenset(("reply", "answer", "respons", "messag", "text", "output", "explanation", "content"))
_DIGEST_KEYS = frozenset(
    ("summary", "titl", "subject", "description", "issu", "problem", "question", "request", "topic")
)
_NEUTRAL = ("unknown", "other", "none", "neutral", "unspecified", "general", "n/a")
_SAMPLES = {
    "date": "1970-01-01",
    "date-time": "1970-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "nobody@example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "ipv4": "0.0.0.0",  # noqa: S104 - an example of an address; nothing listens on it
    "ipv6": "::",
    "hostname": "example.com",
    "duration": "PT0S",
}


class Known(NamedTuple):
    """What there is to fill an output with; `earlier` are the older messages, newest first."""

    message: Reading
    earlier: Sequence[Reading]
    done: Sequence[Done]
    answer: str
    digest: str


def shape(schema: Schema, known: Known) -> Json:
    """Give a value that fits the schema."""
    root = resolve(schema, schema)
    found = [
        leaf
        for d in reversed(known.done)
        if d.error is None
        for leaf in leaves(d.value, name_stems(d.name), name_stems(d.name))
    ]
    want = slot("answer", schema, schema)
    if kind_of(root) == "object":
        return _object(want, known, found, 0)
    return _value(want, known, found, 0)


def _object(want: Slot, known: Known, found: Sequence[Leaf], depth: int) -> dict[str, Any]:
    inner = slots(want.schema, want.root)
    values = {s.name: v for s in inner if (v := _from_results(s, found)) is not None}
    open_slots = [s for s in inner if s.name not in values and not _is_prose(s)]
    read: dict[str, Json] = {}
    for name, candidate in fill(open_slots, known.message).items():
        part = next(s for s in open_slots if s.name == name)
        # What was named earlier is worth more than what merely has the type now.
        told = _told(part, known.earlier, NAMED) if candidate.tier == GUESSED else None
        read[name] = candidate.items[0].value if told is None else told
    shaped: dict[str, Any] = {}
    for name in as_mapping(want.schema.get("properties")) or {}:
        part = next(s for s in inner if s.name == name)
        if name in values or name in read:
            shaped[name] = values.get(name, read.get(name))
        elif part.is_required or (_is_prose(part) and depth < _MAX_DEPTH):
            shaped[name] = _value(part, known, found, depth + 1)
    for name in as_list(want.schema.get("required")) or []:
        shaped.setdefault(name, None)
    return shaped


def _is_prose(want: Slot) -> bool:
    return (
        kind_of(want.schema) == "string"
        and not {"enum", "const", "pattern", "format"} & want.schema.keys()
        and any(w in _ANSWER_KEYS or w in _DIGEST_KEYS for w in want.words)
    )


def _value(want: Slot, known: Known, found: Sequence[Leaf], depth: int) -> Json:
    schema = want.schema
    if "const" in schema:
        return schema["const"]
    if depth > _MAX_DEPTH:
        return _sample(schema)
    kind = kind_of(schema)
    if (value := _from_results(want, found)) is not None:
        return value
    if _is_prose(want):
        return _prose(want, known)
    if kind == "object":
        return _object(want, known, found, depth)
    if kind == "array":
        return _array(want, known, found, depth)
    if (value := _from_messages(want, known, is_whole=depth == 0)) is not None:
        return value
    if "default" in schema and fits(schema, schema["default"]):
        return schema["default"]
    return None if schema.get("nullable") else _sample(schema)


def _prose(want: Slot, known: Known) -> str:
    quoted = [c for c in candidates(want, known.message) if c.tier == NAMED and "text" not in want.words]
    is_digest = any(w in _DIGEST_KEYS for w in want.words)
    text = (
        quoted[0].items[0].value if quoted else known.digest if is_digest and not known.done else known.answer
    )
    low, high = int(want.schema.get("minLength", 0)), want.schema.get("maxLength")
    text = text[: int(high)] if high is not None else text
    return text.ljust(low, ".")


def _from_results(want: Slot, found: Sequence[Leaf]) -> Json | None:
    best: tuple[int, Json] | None = None
    for leaf in found:
        tier = relation(want, leaf)
        if tier and (best is None or tier > best[0]) and (value := adapted(want, leaf.value)) is not None:
            best = tier, value
    return best[1] if best else None


def _from_messages(want: Slot, known: Known, *, is_whole: bool) -> Json | None:
    # The properties of an object have had their share of the message; older messages are open to all.
    own = _told(want, [known.message], GUESSED) if is_whole else None
    return _told(want, known.earlier, PLACED) if own is None else own


def _told(want: Slot, readings: Sequence[Reading], least: int) -> Json | None:
    for reading in readings:
        for candidate in candidates(want, reading):
            if candidate.tier >= least:
                return candidate.items[0].value
    return None


def _array(want: Slot, known: Known, found: Sequence[Leaf], depth: int) -> list[Json]:
    schema = want.schema
    tuple_items = as_list(schema.get("prefixItems")) or as_list(schema.get("items"))
    if tuple_items:
        return [_value(slot(want.name, s, want.root), known, found, depth + 1) for s in tuple_items]
    inner = want._replace(schema=resolve(schema.get("items"), want.root))
    listed = [adapted(inner, leaf.value) for leaf in found if relation(want, leaf)]
    items: list[Json] = (
        [i for i in listed if i is not None] if kind_of(inner.schema) not in {"object", "array"} else []
    )
    least_tier = PLACED if depth else GUESSED
    if not items and (read := [c for c in candidates(want, known.message) if c.tier >= least_tier]):
        items = list(as_list(read[0].items[0].value) or [])
    least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
    while len(items) < least:
        is_scalar = kind_of(inner.schema) not in {"object", "array"}
        value = (
            _sample(inner.schema, len(items)) if items and is_scalar else _value(inner, known, [], depth + 1)
        )
        items.append(_other(inner.schema, value, items) if schema.get("uniqueItems") else value)
    if schema.get("uniqueItems"):
        items = [i for n, i in enumerate(items) if i not in items[:n]]
    return items[: int(most)] if most is not None else items


def _other(schema: Schema, value: Json, taken: Sequence[Json]) -> Json:
    """Give the value, or the next one like it that is not taken yet."""
    options = as_list(schema.get("enum"))
    if options:
        return next((o for o in options if o not in taken), value)
    number, step = as_number(value), as_number(schema.get("multipleOf")) or 1
    for more in range(1, 1000):
        if value not in taken:
            break
        if number is None and not isinstance(value, str):
            break
        value = (
            f"{value.rstrip('0123456789')}{more}" if isinstance(value, str) else (number or 0) + more * step
        )
    return value


def _sample(schema: Schema, index: int = 0) -> Json:
    """Give the smallest value that fits a resolved schema."""
    if "const" in schema:
        return schema["const"]
    options = as_list(schema.get("enum"))
    if options:
        neutral = [o for o in options if isinstance(o, str) and o.lower() in _NEUTRAL]
        return neutral[0] if neutral else options[index % len(options)]
    kind = kind_of(schema)
    if kind == "boolean":
        return False
    if kind in {"integer", "number"}:
        return _sample_number(schema, is_whole=kind == "integer")
    if kind == "string":
        return _sample_text(schema)
    if kind == "null":
        return None
    return [] if kind == "array" else {}


def _sample_number(schema: Schema, *, is_whole: bool) -> float:
    step = as_number(schema.get("multipleOf")) or (1 if is_whole else None)
    low, high = bounds(schema)
    value: float = 0
    if low is not None and value < low:
        value = -(-low // step) * step if step else low
    elif high is not None and value > high:
        value = high // step * step if step else high
    return int(value) if is_whole or float(value).is_integer() else value


def _sample_text(schema: Schema) -> str:
    form = schema.get("format")
    if isinstance(form, str) and form in _SAMPLES:
        return _SAMPLES[form]
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and pattern_finds(pattern, "") is not True:
        made = text_for(pattern)
        if made is not None:
            return made
    least = int(schema.get("minLength", 0))
    return "unknown"[: int(schema.get("maxLength", 7))].ljust(least, ".") if least else ""


_PIECE = (
    r"(\\[dwsDWS]|\\.|\[(?:\\.|[^\]\\])+\]|\(\?:|[()|^$.]|[^\\\[\]()|^$.*+?{}])(\*|\+|\?|\{(\d+)(?:,\d*)?\})?"
)


def text_for(pattern: str) -> str | None:
    """Make the shortest text in which a simple pattern is found; None where it is not simple.

    Shapes: literals, classes, groups, alternatives (the first is taken) and counts.
    """
    made, place = _made(pattern, 0)
    return (
        made if made is not None and place == len(pattern) and pattern_finds(pattern, made) is True else None
    )


def _made(pattern: str, place: int) -> tuple[str | None, int]:
    parts: list[str] = []
    is_first = True
    while place < len(pattern):
        m = rx(_PIECE).match(pattern, place)
        if m is None:
            return None, place
        piece, place = m[1], m.end()
        if piece == ")":
            return "".join(parts), m.start(1)
        if piece == "|":
            is_first = False
            continue
        if piece in {"(", "(?:"}:
            if m[2]:
                return None, place
            inner, place = _made(pattern, place)
            if inner is None or place >= len(pattern):
                return None, place
            quantifier = rx(r"\)(\*|\+|\?|\{(\d+)(?:,\d*)?\})?").match(pattern, place)
            if quantifier is None:
                return None, place
            place = quantifier.end()
            made = inner * _count(quantifier[1], quantifier[2])
        else:
            made = _one(piece) * _count(m[2], m[3])
        if is_first:
            parts.append(made)
    return "".join(parts), place


def _count(quantifier: str | None, least: str | None) -> int:
    if quantifier is None or quantifier == "+":
        return 1
    return min(int(least), 64) if least is not None else 0


def _one(piece: str) -> str:
    if piece in {"^", "$"}:
        return ""
    classes = {"\\d": "0", "\\w": "a", "\\s": " ", "\\D": "a", "\\W": "-", "\\S": "a", ".": "a"}
    if piece in classes:
        return classes[piece]
    if not piece.startswith("["):
        return piece.removeprefix("\\")
    body = piece[1:-1]
    if body.startswith("^"):
        return next((c for c in "a0A-_ x" if re.fullmatch(piece, c)), "")
    return classes.get(body[:2], body[1] if body.startswith("\\") and len(body) > 1 else body[0])


def dumps(value: Json) -> str:
    """Write JSON as models do: one line, characters as they are."""
    return json.dumps(value, ensure_ascii=False)
