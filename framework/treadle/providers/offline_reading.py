"""Words and values: how the offline model reads a message.

Pure functions. A value is found by its form (a number, an address, a date, a code
that fits a pattern), by the words around it and by the name of what it is for; nothing is guessed from
knowledge of the world.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

_MAX_TEXT = 8_000


def word_set(words: str) -> frozenset[str]:
    """Give the words of a text as a set."""
    return frozenset(words.split())


_STOP = word_set(
    "a an the this that these those it its i me my mine you your yours we us our he she they them their his her "
    "is am are was were be been being do does did done have has had will would can could shall should may might "
    "must and or but if then so as than of in on at to for from with without by about into near over under "
    "between during per via what which who whom whose when where why how please thanks thank hello hi hey ok "
    "okay yes no not don't let's get give tell show let want need like know would just also too very more most "
    "some any all each every there here now s t m re ve ll d let us im i'm what's"
)
_LEADS = word_set(
    "find search look send email mail book convert compare delete create make open close check list add remove "
    "cancel order call write read translate schedule remind define calculate compute sum multiply fetch set "
    "update start stop run turn buy pay print draw explain describe summarise summarize say repeat post reply "
    "plan choose pick extract classify say"
)
TEMPORAL = word_set(
    "today tomorrow tonight yesterday now monday tuesday wednesday thursday friday saturday sunday morning "
    "afternoon evening night week weekend month year next last"
)
MONTHS: Final = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_NUMBER_WORDS = {
    w: n
    for n, w in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
}

WORD = r"[^\W_]+(?:['’][^\W_]+)*"
CAMEL = r"(?<=[a-z0-9])(?=[A-Z])"


@cache
def rx(pattern: str) -> re.Pattern[str]:
    """Compile one of this package's own patterns when it is first used: importing compiles none."""
    return re.compile(pattern)


def is_stop(word: str) -> bool:
    """Tell whether a word says nothing about its subject."""
    return word.lower().replace("’", "'") in _STOP


def is_lead(word: str) -> bool:
    """Tell whether a word commands, as the first of a sentence."""
    return word.lower() in _LEADS


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """Give the word without the commonest English endings, so that `converting` and `convert` agree."""
    w = word.lower().replace("’", "'").removesuffix("'s")
    if len(w) > 4 and w.endswith("ies"):
        w = w[:-3] + "y"
    elif len(w) > 4 and w.endswith(("sses", "shes", "ches", "xes")):
        w = w[:-2]
    elif len(w) > 3 and w.endswith("s") and not w.endswith(("ss", "us", "is")):
        w = w[:-1]
    for ending in ("ing", "ed"):
        if len(w) > len(ending) + 3 and w.endswith(ending):
            w = w[: -len(ending)]
            w = w[:-1] if len(w) > 3 and w[-1] == w[-2] and w[-1] not in "ls" else w
            break
    return w[:-1] if len(w) > 3 and w.endswith("e") else w


def split_name(name: str) -> list[str]:
    """Give the words of an identifier: get_weather, getWeather and get-weather are all two words."""
    return [w.lower() for w in rx(WORD).findall(rx(CAMEL).sub(" ", name))]


def stems(text: str) -> list[str]:
    """Give the stems of the words that say something, in order, each once."""
    return list(dict.fromkeys(stem(w) for w in rx(WORD).findall(text[:_MAX_TEXT]) if not is_stop(w)))


def name_stems(name: str) -> list[str]:
    """Give the stems of an identifier's words that say something; all of them where none does."""
    parts = split_name(name)
    return list(dict.fromkeys([stem(w) for w in parts if not is_stop(w)] or [stem(w) for w in parts]))


def is_same_word(a: str, b: str) -> bool:
    """Tell whether two stems are one word: equal, or one begins the other."""
    if a == b:
        return True
    short, long = (a, b) if len(a) <= len(b) else (b, a)
    return len(short) >= 4 and len(long) - len(short) <= 4 and long.startswith(short)


class Item(NamedTuple):
    """A value and where the text has it."""

    value: Any
    start: int
    end: int


class Noun(NamedTuple):
    """A name or a quoted text of the message, with the preposition before it."""

    text: str
    start: int
    end: int
    preposition: str
    kind: str


class Quantity(NamedTuple):
    """A number of the message with the words around it."""

    value: float
    start: int
    end: int
    before: tuple[str, ...]
    unit: str


_QUOTED = r"\"([^\"\n]{1,500})\"|“([^”\n]{1,500})”|«([^»\n]{1,500})»|`([^`\n]{1,500})`|(?<!\w)'([^'\n]{1,500})'(?!\w)"
_EMAIL = r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
_URL = r"\b(?:https?|ftp)://[^\s<>\"'”)]{1,500}(?<![.,;:!?])"
_ISO_DATE = r"\b(\d{4})-(\d{2})-(\d{2})(T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:\d{2})?)?\b"
_MONTH = "|".join(m if m == "may" else f"{m[:3]}(?:{m[3:]})?" for m in MONTHS)
_DAY_FIRST = rf"(?i)\b(\d{{1,2}})(?:st|nd|rd|th)?\.?\s+(?:of\s+)?({_MONTH})\.?,?\s+(\d{{4}})\b"
_MONTH_FIRST = rf"(?i)\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b"
_DOTTED = r"\b(\d{1,2})\.(\d{1,2})\.(\d{4})\b"
_NUMBER = r"(?<![\w.,:/#-])([-−+]?)([$€£]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?![\d:/]|[.,]\d|-\d)"
UNIT = r"\s*(°\s?[CFK]?|%|€|\$|£|[^\W\d_]+)"
_PREPOSITIONS = "in|for|of|at|to|from|near|about|on|with|by|into|around"
_BEFORE = rf"(?i)(?:^|\W)({_PREPOSITIONS})(?:\s+(?:the|a|an|my|our|your))?\s+$"
_OPENER = r"(?i)^\W*(?:and|or|also|then|what\s+about|how\s+about|now)(?:\s+(?:the|for|in|at|of|to|about))*\s+"
JOINT = rf"(?i)\s*(,|(?:,\s*)?(?:and|or|plus|as\s+well\s+as|&|\+))\s*(?:also\s+)?(?:(?:{_PREPOSITIONS})\s+)?(?:the\s+)?"
_LINKS = frozenset(("de", "da", "do", "del", "la", "le", "von", "van", "der", "am", "sur", "upon", "du"))
_SYMBOLS = {
    "°c": "celsius",
    "°f": "fahrenheit",
    "°k": "kelvin",
    "%": "percent",
    "€": "eur",
    "$": "usd",
    "£": "gbp",
}
_UNIT_NAMES = {
    "c": "celsius",
    "f": "fahrenheit",
    "km": "kilometer",
    "kg": "kilogram",
    "g": "gram",
    "cm": "centimeter",
    "mm": "millimeter",
    "min": "minute",
    "h": "hour",
    "eur": "euro",
    "usd": "dollar",
    "gbp": "pound",
}


class Reading(NamedTuple):
    """What one message holds, found once; `vocabulary` are stems that name tools, never values."""

    text: str
    vocabulary: frozenset[str]
    nouns: list[Noun]
    quantities: list[Quantity]
    dates: list[Item]
    emails: list[Item]
    urls: list[Item]
    words: list[str]

    @property
    def places(self) -> list[tuple[str, int]]:
        """Give the stem and the place of every word that says something."""
        return [(stem(m.group()), m.start()) for m in rx(WORD).finditer(self.text) if not is_stop(m.group())]


def read(text: str, vocabulary: Iterable[str] = ()) -> Reading:
    """Find the names, numbers, dates and addresses of a message."""
    text = text[:_MAX_TEXT]
    taken: list[tuple[int, int]] = []
    vocabulary = frozenset(vocabulary)
    emails = matches(_EMAIL, text, taken)
    urls = matches(_URL, text, taken)
    taken += [(i.start, i.end) for i in (*emails, *urls)]
    dates = _dates(text)
    taken += [(i.start, i.end) for i in dates]
    quoted = [
        Noun(next(g for g in m.groups() if g), m.start(), m.end(), _preposition(text, m.start()), "quoted")
        for m in rx(_QUOTED).finditer(text)
    ]
    taken += [(n.start, n.end) for n in quoted]
    quantities = _quantities(text, taken)
    nouns = sorted([*quoted, *_names(text, taken, vocabulary)], key=lambda n: n.start)
    nouns += _plain_nouns(text, nouns, taken, vocabulary)
    nouns.sort(key=lambda n: n.start)
    return Reading(text, vocabulary, nouns, quantities, dates, emails, urls, stems(text))


def matches(pattern: str, text: str, taken: Sequence[tuple[int, int]]) -> list[Item]:
    """Give what a pattern finds outside the spans that are taken."""
    return [
        Item(m.group(), m.start(), m.end())
        for m in rx(pattern).finditer(text)
        if not overlaps(m.span(), taken)
    ]


def overlaps(span: tuple[int, int], taken: Iterable[tuple[int, int]]) -> bool:
    """Tell whether a span touches one of those that are taken."""
    return any(span[0] < end and start < span[1] for start, end in taken)


def _dates(text: str) -> list[Item]:
    if not any(c.isdigit() for c in text):
        return []
    found = [i for m in rx(_ISO_DATE).finditer(text) for i in _date(m, (1, 2, 3), m[4] or "")]
    found += [i for m in rx(_DAY_FIRST).finditer(text) for i in _date(m, (3, 2, 1))]
    found += [i for m in rx(_MONTH_FIRST).finditer(text) for i in _date(m, (3, 1, 2))]
    found += [i for m in rx(_DOTTED).finditer(text) for i in _date(m, (3, 2, 1))]
    return sorted(found, key=lambda i: i.start)


def _month(name: str) -> int:
    return next(n for n, m in enumerate(MONTHS, start=1) if m.startswith(name.lower()[:3]))


def _date(m: re.Match[str], order: tuple[int, int, int], rest: str = "") -> list[Item]:
    """Read a date whose year, month and day are the groups of that order; none where there is no such day."""
    year, month, day = (m[i] for i in order)
    try:
        value = date(int(year), int(month) if month.isdigit() else _month(month), int(day))
    except ValueError:
        return []
    return [Item(value.isoformat() + rest, m.start(), m.end())]


def _quantities(text: str, taken: Sequence[tuple[int, int]]) -> list[Quantity]:
    found: list[Quantity] = []
    for m in rx(_NUMBER).finditer(text):
        if overlaps(m.span(), taken):
            continue
        digits = m[3].replace(",", "")
        value: float = float(digits) if "." in digits else int(digits)
        value = -value if m[1] in {"-", "−"} else value
        found.append(
            Quantity(value, m.start(), m.end(), words_before(text, m.start()), _unit(text, m.end(), m[2]))
        )
    for m in rx(WORD).finditer(text):
        number = _NUMBER_WORDS.get(m.group().lower())
        if number is not None and not overlaps(m.span(), taken):
            found.append(
                Quantity(number, m.start(), m.end(), words_before(text, m.start()), _unit(text, m.end(), ""))
            )
    return sorted(found, key=lambda q: q.start)


def words_before(text: str, end: int) -> tuple[str, ...]:
    """Give the stems of the three words before a place."""
    return tuple(stem(w) for w in rx(WORD).findall(text[max(0, end - 60) : end])[-3:])


def _unit(text: str, start: int, symbol: str) -> str:
    if symbol:
        return _SYMBOLS[symbol]
    m = rx(UNIT).match(text, start)
    if m is None or is_stop(m[1]):
        return ""
    word = m[1].lower().replace(" ", "")
    return _SYMBOLS.get(word) or stem(_UNIT_NAMES.get(word, word))


def _preposition(text: str, start: int) -> str:
    m = rx(_BEFORE).search(text[max(0, start - 24) : start])
    return m[1].lower() if m else ""


def _is_value_word(word: str, vocabulary: frozenset[str]) -> bool:
    return not is_stop(word) and word.lower() not in TEMPORAL and stem(word) not in vocabulary


def _starts_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \t\"“'(")
    return not before or before[-1] in ".!?\n:"


def _can_be_name(rest: str, vocabulary: frozenset[str]) -> bool:
    """Tell whether a sentence's first word can be a name by what follows: `Paris weather`, `Ada and Bob`."""
    following = rx(WORD).search(rest)
    if following is None or rest[: following.start()].strip():
        return True
    word = following.group()
    return not word[0].islower() or word in {"and", "or", "please"} or stem(word) in vocabulary


def _names(text: str, taken: Sequence[tuple[int, int]], vocabulary: frozenset[str]) -> list[Noun]:
    """Give the runs of capitalised words, without a sentence's first word where that is a plain word."""
    found: list[Noun] = []
    run: list[re.Match[str]] = []

    def close() -> None:
        while run and run[-1].group().lower() in _LINKS:
            run.pop()
        if run:
            start, end = run[0].start(), run[-1].end()
            name = text[start:end].removesuffix("'s").removesuffix("’s")
            found.append(Noun(name, start, start + len(name), _preposition(text, start), "name"))
        run.clear()

    for m in rx(WORD).finditer(text):
        word = m.group()
        if run and text[run[-1].end() : m.start()] not in {" ", "-", ". "}:
            close()
        if run and word in _LINKS:
            run.append(m)
            continue
        is_name = word[0].isupper() and word.lower() not in MONTHS and _is_value_word(word, vocabulary)
        if is_name and not run and _starts_sentence(text, m.start()):
            is_name = not is_lead(word) and _can_be_name(text[m.end() :], vocabulary)
        if not is_name or overlaps(m.span(), taken):
            close()
            continue
        run.append(m)
    close()
    return found


def _plain_nouns(
    text: str, nouns: Sequence[Noun], taken: Sequence[tuple[int, int]], vocabulary: frozenset[str]
) -> list[Noun]:
    """Give the uncapitalised words after a preposition, or of a message that is nothing but such words."""
    spans = [*taken, *((n.start, n.end) for n in nouns)]
    words = list(rx(WORD).finditer(text))
    opener = rx(_OPENER).match(text)
    begin = opener.end() if opener else 0
    is_bare = len([w for w in words if w.start() >= begin]) <= 3 and not any(
        is_stop(w.group()) for w in words if w.start() >= begin
    )
    found: list[Noun] = []
    index = 0
    while index < len(words):
        m = words[index]
        index += 1
        preposition = _preposition(text, m.start())
        joined = found and rx(JOINT).fullmatch(text[found[-1].end : m.start()])
        starts = preposition or joined or (m.start() == begin and (opener or is_bare))
        if not starts or not _is_plain(m, vocabulary, spans):
            continue
        end = m.end()
        while (
            index < len(words)
            and text[end : words[index].start()] == " "
            and _is_plain(words[index], vocabulary, spans)
        ):
            end = words[index].end()
            index += 1
        found.append(
            Noun(text[m.start() : end], m.start(), end, preposition or ("about" if opener else ""), "plain")
        )
    return found


def _is_plain(m: re.Match[str], vocabulary: frozenset[str], spans: Iterable[tuple[int, int]]) -> bool:
    word = m.group()
    return not word[0].isdigit() and _is_value_word(word, vocabulary) and not overlaps(m.span(), spans)


_SPOKEN = word_set(
    "hello hi hey thanks thank my i i'm im am is are was you your we our yes no not name do did does can"
)


def is_opened(reading: Reading) -> bool:
    """Tell whether a message begins as one that goes on: and, also, what about …."""
    return rx(_OPENER).match(reading.text) is not None


def is_elliptic(reading: Reading) -> bool:
    """Tell whether a message only gives values: `and Oslo?`, `in Paris`, `for two people`."""
    spans = [(v.start, v.end) for group in (reading.nouns, reading.quantities, reading.dates) for v in group]
    spans += [(i.start, i.end) for i in (*reading.emails, *reading.urls)]
    words = list(rx(WORD).finditer(reading.text))
    codes = [m for m in words if any(c.isdigit() for c in m.group())]
    if not spans and not codes:
        return False
    if any(m.group().lower() in _SPOKEN for m in words):
        return False
    if is_opened(reading):
        return True
    rest = [m.group() for m in words if m not in codes and not overlaps(m.span(), spans)]
    return all(is_stop(w) or w.lower() in TEMPORAL or stem(w) in reading.vocabulary for w in rest)
