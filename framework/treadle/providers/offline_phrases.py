"""Results of tools put in words, by general rules over their keys and values.

A sentence is the subject (the texts that the call was given) and what came back: a unit that a key names
stands after its number, a key that says nothing more is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from treadle.providers.offline_filling import Slot, leaves, relation, slot
from treadle.providers.offline_reading import is_lead, is_stop, name_stems, split_name
from treadle.providers.offline_schema import Json, as_list, as_mapping, is_number

_LONG = 400
_MAX_ITEMS = 5
_UNITS = {
    "celsius": "°C",
    "fahrenheit": "°F",
    "kelvin": "K",
    "percent": "%",
    "pct": "%",
    "kmh": "km/h",
    "kph": "km/h",
    "mph": "mph",
    "km": "km",
    "mm": "mm",
    "cm": "cm",
    "kg": "kg",
    "hpa": "hPa",
    "ms": "ms",
    "usd": "USD",
    "eur": "EUR",
    "gbp": "GBP",
    "kwh": "kWh",
    "mb": "MB",
    "gb": "GB",
}
_SHORT_UNITS = {"c": "°C", "f": "°F", "k": "K", "m": "m", "g": "g", "s": "s", "h": "h"}
_TIMES = frozenset(
    ("seconds", "minutes", "hours", "days", "weeks", "months", "years", "times", "items", "nights")
)
_READ_VERBS = frozenset(
    (
        "get",
        "fetch",
        "find",
        "lookup",
        "look",
        "up",
        "read",
        "show",
        "query",
        "check",
        "compute",
        "calculate",
        "load",
    )
)
_TOLD = (["body"], ["message"], ["text"], ["content"])
_IDENTITY = frozenset(("id", "number", "no", "code", "key", "ref"))


class Done(NamedTuple):
    """A call of this turn that has its result."""

    name: str
    arguments: dict[str, Any]
    value: Json
    error: str | None


def parse_result(text: str) -> tuple[Json, str | None]:
    """Read a tool's result: the value, and what went wrong where the result says so."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if (mapping := as_mapping(value)) and mapping.get("error") and len(mapping) <= 5:
        return value, _error_text(mapping)
    if isinstance(value, str) and value.lower().startswith("error") and value[5:6] in {":", " ", ""}:
        return value, value[5:].lstrip(": ") or "error"
    return value, None


def _error_text(mapping: Mapping[str, Any]) -> str:
    error = mapping["error"]
    inner = as_mapping(error)
    if inner is None:
        return str(mapping.get("message") or error) if error is True else str(error)
    return str(inner.get("message") or inner.get("type") or json.dumps(inner, ensure_ascii=False))


def answer(done: Sequence[Done]) -> str:
    """Put the results of a turn in words, what follows from a result right after it."""
    parents = [_parents(i, done) for i in range(len(done))]
    said: list[str] = []
    for index in range(len(done)):
        if not parents[index]:
            said += _said(index, done, parents, subject=subject_of(done[index].arguments))
    return " ".join(said)


def _said(index: int, done: Sequence[Done], parents: Sequence[Sequence[int]], *, subject: str) -> list[str]:
    said = [_sentence(done[index], subject, is_derived=bool(parents[index]))]
    for child in range(index + 1, len(done)):
        # A result that rests on several different ones is told once, after the last of them.
        same_tool = len({done[p].name for p in parents[child]}) == 1
        if index in parents[child] and (same_tool or index == parents[child][-1]):
            said += _said(child, done, parents, subject="")
    return said


def _parents(index: int, done: Sequence[Done]) -> list[int]:
    """Give the earlier calls whose results are among this call's arguments."""
    call = done[index]
    wants = [(slot(name, {}, {}), value) for name, value in call.arguments.items()]
    return [
        earlier
        for earlier in range(index)
        if done[earlier].name != call.name
        and done[earlier].error is None
        and any(_comes_from(want, value, done[earlier]) for want, value in wants)
    ]


def _comes_from(want: Slot, value: Json, source: Done) -> bool:
    if isinstance(value, (bool, dict, list)) or value is None or value in source.arguments.values():
        return False
    return any(
        leaf.value == value and relation(want, leaf) > 0
        for leaf in leaves(source.value, name_stems(source.name))
    )


def subject_of(arguments: Mapping[str, Json]) -> str:
    """Give the short texts among a call's arguments, as the subject of a sentence."""
    parts: list[str] = []
    for name, value in arguments.items():
        words = split_name(name)
        if not isinstance(value, str) or not value or len(value) > 60 or words[-1:] in _TOLD:
            continue
        if value.isalpha() or " " in value or not any(w in _IDENTITY for w in words):
            parts.append(value)
        else:
            parts.append(" ".join([*(w for w in words if w not in _IDENTITY), value]).strip())
    return ", ".join(parts)


def _sentence(call: Done, subject: str, *, is_derived: bool) -> str:
    if call.error is not None:
        about = f" for {subject}" if subject else ""
        return _ended(f"{call.name} failed{about}: {call.error.removeprefix(f'{call.name}: ')}")
    target = _conversion(call)
    if target:
        measures = [_entry(name, value, 0) for name, value in call.arguments.items() if is_number(value)]
        what = " ".join(p for p in (subject, "" if is_derived else _joined(measures)) if p)
        return _ended(
            f"{what} in {target}: {words_of(call.value)}" if what else f"In {target}: {words_of(call.value)}"
        )
    label = label_of(call.name)
    if _is_bare_done(call.value):
        return _ended(f"{label} ({subject}): done" if subject else f"{label}: done")
    if isinstance(call.value, str) and " " in call.value.strip():
        text = call.value.strip()
        return _ended(text if subject.lower() in text.lower() else f"{_upper(subject)}: {_cut(text)}")
    if as_mapping(call.value) is not None:
        return _ended(
            f"{_upper(subject) if subject else label}: {words_of(call.value, given=call.arguments)}"
        )
    if as_list(call.value) is not None:
        return _ended(
            f"{label} ({subject}): {words_of(call.value)}" if subject else f"{label}: {words_of(call.value)}"
        )
    if subject:
        what = "" if len(split_name(call.name)) == 1 and _is_verb(call.name) else f"{label.lower()} "
        return _ended(f"{_upper(subject)}: {what}{words_of(call.value)}")
    given = [words_of(v) for v in call.arguments.values() if is_number(v)]
    about = f"{' ' if _is_verb(call.name) else ' of '}{_joined(given)}" if given and not is_derived else ""
    return _ended(f"{label}{about}: {words_of(call.value)}")


def _is_verb(name: str) -> bool:
    first = split_name(name)[:1]
    return bool(first) and (is_lead(first[0]) or first[0] in _READ_VERBS)


def _is_bare_done(value: Json) -> bool:
    return value is None or value is True or value in ("", "ok", "OK", "done", {})


def _conversion(call: Done) -> str | None:
    """Give what a converting tool's number is in: Fahrenheit for to_fahrenheit and celsius_to_fahrenheit."""
    words = split_name(call.name)
    if "to" not in words or not is_number(call.value):
        return None
    place = words.index("to")
    given = {w for name in call.arguments for w in split_name(name)}
    target = " ".join(words[place + 1 :])
    if target and (place == 0 or words[0] == "convert" or all(w in given for w in words[:place])):
        return _upper(target)
    return None


def label_of(name: str) -> str:
    """Give a tool's name as words, without the verb of a mere look-up."""
    words = split_name(name)
    while len(words) > 1 and words[0] in _READ_VERBS:
        words = words[1:]
    return _upper(" ".join(words)) if words else name


def words_of(value: Json, *, given: Mapping[str, Json] | None = None, depth: int = 0) -> str:
    """Put a JSON value in words; `given` are the arguments, which the sentence has already."""
    if (mapping := as_mapping(value)) is not None:
        parts = [_entry(k, part, depth) for k, part in mapping.items() if not _is_given(k, part, given or {})]
        return ", ".join(parts) or "nothing more"
    if (items := as_list(value)) is not None:
        return _list(items, depth)
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    return _cut(str(value).strip())


def _is_given(key: str, value: Json, given: Mapping[str, Json]) -> bool:
    return (key in given and given[key] == value) or (isinstance(value, str) and value in given.values())


def _list(items: Sequence[Json], depth: int) -> str:
    if not items:
        return "nothing found"
    shown = [words_of(i, depth=depth + 1) for i in items[:_MAX_ITEMS]]
    more = f" and {len(items) - _MAX_ITEMS} more" if len(items) > _MAX_ITEMS else ""
    if any(isinstance(i, (dict, list)) for i in items):
        return "; ".join(shown) + more
    return ", ".join(shown) + more if more else _joined(shown)


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _entry(key: str, value: Json, depth: int) -> str:
    words = split_name(key)
    label = " ".join(words) or key
    if isinstance(value, bool):
        return label if value else f"not {label}"
    if value is None:
        return f"no {label}"
    if is_number(value):
        return _measure(words, label, words_of(value))
    if isinstance(value, str):
        return (
            value
            if value.isalpha() and value.islower() and not _is_status(words)
            else f"{label} {words_of(value)}"
        )
    if depth > 2:
        return f"{label} {_cut(json.dumps(value, ensure_ascii=False))}"
    inner = words_of(value, depth=depth + 1)
    return f"{label} ({inner})" if isinstance(value, dict) else f"{label}: {inner}"


def _is_status(words: Sequence[str]) -> bool:
    return any(w in {"name", "id", "status", "state", "type", "kind", "currency", "language"} for w in words)


def _measure(words: Sequence[str], label: str, number: str) -> str:
    last = words[-1] if words else ""
    unit = _UNITS.get(last) or (_SHORT_UNITS.get(last) if len(words) > 1 else None)
    if unit:
        return " ".join([*words[:-1], f"{number} {unit}"])
    if words and words[0] in _TIMES:
        return f"{number} {label}"
    if last in _TIMES:
        return " ".join([*words[:-1], number, last])
    return f"{label} {number}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else text[: _LONG - 1].rstrip() + "…"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def wanted_in_words(tool: str, missing: Sequence[Slot]) -> str:
    """Ask for what a tool still needs."""
    asked = [_asked(want) for want in missing]
    return f"To call {tool} I need {_joined(asked)}: please tell me."


def _asked(want: Slot) -> str:
    words = " ".join(w for w in split_name(want.name) if not is_stop(w)) or want.name
    options = as_list(want.schema.get("enum"))
    if options:
        return f"the {words} (one of {', '.join(map(str, options[:8]))})"
    described = want.schema.get("description")
    if isinstance(described, str) and described.strip() and len(described) < 80:
        return f"the {words} ({described.strip().rstrip('.')})"
    return f"the {words}"
