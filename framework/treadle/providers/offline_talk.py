"""What the offline model says where no tool is called: it quotes what it was told, and claims no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from treadle.providers.base import ToolDefinition
from treadle.providers.offline_reading import WORD, is_lead, read, rx, stems

_SENTENCE = r"[^.!?\n]+(?:[.!?](?=\w)[^.!?\n]*)*[.!?]*"
_GREETING = r"(?i)^\W*(?:hello|hi|hey|good (?:morning|afternoon|evening|day)|greetings)\b[^?]{0,40}$"
_THANKS = r"(?i)^\W*(?:thanks|thank you|thx|cheers)\b[^?]{0,60}$"
_HELP = r"(?i)\b(?:what can you do|(?:how )?can you help|who are you|what are you|^\W*help\W*$)"
_ASKS = frozenset(
    [
        "what",
        "what's",
        "who",
        "whose",
        "whom",
        "where",
        "when",
        "why",
        "how",
        "which",
        "is",
        "are",
        "am",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
        "will",
        "would",
        "should",
        "shall",
        "may",
        "have",
        "has",
    ]
)
_OWN_WORDS = (
    "You told me: ",
    "My instructions say: ",
    "I answered before: ",
    "I read ",
    "Noted: ",
    "To call ",
    "Hello. ",
)
"""How the stand-in's own sentences begin, which hold nothing new."""
_MAX_SENTENCES = 400


class Told(NamedTuple):
    """What the conversation has to answer from; each list is oldest first."""

    message: str
    users: Sequence[str]
    assistants: Sequence[str]
    instructions: str
    images: Sequence[str]


class _Quote(NamedTuple):
    opening: str
    sentence: str
    least: float


def sentences(text: str) -> list[str]:
    """Split a text into its sentences."""
    return [s for m in rx(_SENTENCE).finditer(text) if (s := m.group().strip(" \t\r-*#>"))]


def is_question(sentence: str) -> bool:
    """Tell whether a sentence asks."""
    first = rx(WORD).search(sentence)
    return sentence.rstrip().endswith("?") or (first is not None and first.group().lower() in _ASKS)


def _is_command(sentence: str) -> bool:
    words = [w for w in rx(WORD).findall(sentence) if w.lower() not in {"please", "now", "just"}]
    return bool(words) and (is_lead(words[0]) or words[0].lower() in {"tell", "give", "show", "get", "let"})


def talk(told: Told, tools: Sequence[ToolDefinition]) -> str:
    """Answer from the conversation alone."""
    text = told.message.strip()
    seen = _images(told.images)
    if not text:
        return seen or "There is no message to answer."
    if rx(_HELP).search(text):
        return _introduction(tools)
    if rx(_GREETING).search(text):
        return f"Hello. {_introduction(tools)}"
    if rx(_THANKS).search(text):
        return "You are welcome."
    parts = sentences(text)
    asked = [s for s in parts if is_question(s) or _is_command(s)]
    if not asked:
        return " ".join(p for p in (f"Noted: {_quoted(text)}.", seen) if p)
    said = [s for s in parts if s not in asked]
    quote = _recall(asked[-1], told, said)
    if quote is not None:
        return " ".join(p for p in (f"{quote.opening}: {_quoted(quote.sentence)}.", seen) if p)
    return " ".join(p for p in (_nothing(asked[-1], tools), seen) if p)


def _images(images: Sequence[str]) -> str:
    if not images:
        return ""
    what = "image" if len(images) == 1 else f"{len(images)} images"
    known = "; ".join(image for image in images if image)
    return f"I cannot see the {what} of the message{f' ({known})' if known else ''}."


def _introduction(tools: Sequence[ToolDefinition]) -> str:
    what = "I am the offline stand-in: I pick tools by word overlap, I do not think."
    return " ".join(p for p in (what, _abilities(tools)) if p)


def _abilities(tools: Sequence[ToolDefinition]) -> str:
    if not tools:
        return ""
    named = [
        f"{t.name} ({_first_line(t.description)})" if t.description.strip() else t.name for t in tools[:8]
    ]
    more = f" and {len(tools) - 8} more" if len(tools) > 8 else ""
    return f"My tools: {', '.join(named)}{more}."


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0].rstrip(".")
    return line if len(line) <= 80 else line[:79].rstrip() + "…"


def _quoted(text: str) -> str:
    line = " ".join(text.split()).strip(' "“”')
    line = line if len(line) <= 400 else line[:399].rstrip() + "…"
    return f'"{line.rstrip(".")}"' if line.endswith(".") else f'"{line}"'


def _nothing(question: str, tools: Sequence[ToolDefinition]) -> str:
    found = (
        "no tool for it and nothing about it in this conversation"
        if tools
        else "nothing about it in this conversation"
    )
    return " ".join(p for p in (f"I read {_quoted(question)} and found {found}.", _abilities(tools)) if p)


def _recall(question: str, told: Told, said: Sequence[str]) -> _Quote | None:
    """Find the sentence that shares most with the question, rare words counting more; the latest of equals."""
    quotes = [_Quote("My instructions say", s, 0.3) for s in sentences(told.instructions)]
    for opening, texts in (("I answered before", told.assistants), ("You told me", told.users)):
        quotes += [
            _Quote(opening, s, 0.5)
            for t in texts
            if not t.startswith(_OWN_WORDS)
            for s in sentences(t)
            if not is_question(s)
        ]
    quotes += [_Quote("You told me", s, 0.5) for s in said]
    quotes = [
        q
        for q in quotes[-_MAX_SENTENCES:]
        if not _is_command(q.sentence) or q.opening == "My instructions say"
    ]
    words = stems(question)
    names = {w for n in read(question).nouns if n.kind == "name" for w in stems(n.text)}
    vocabularies = [frozenset(stems(q.sentence)) for q in quotes]
    rarity = {w: math.log(1 + len(quotes) / (1 + sum(w in v for v in vocabularies))) for w in words}
    best: tuple[float, _Quote] | None = None
    for quote, vocabulary in zip(quotes, vocabularies, strict=True):
        shared = [w for w in words if w in vocabulary]
        # A question about Lima is not answered with a sentence about Paris.
        if not shared or len(shared) / len(words) < quote.least or not names <= vocabulary:
            continue
        score = sum(rarity[w] for w in shared)
        if best is None or score >= best[0]:
            best = score, quote
    return best[1] if best else None
