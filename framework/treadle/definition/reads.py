"""What a template or an expression reads: `state.draft`, `result_of.classify.output.severity`, `run['id']`.

Whether such a name exists is said by the document around it; here is only found what is read, and where.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

from treadle.definition import template


class Read(NamedTuple):
    """A name with the keys that are read from it.

    Units: `line` and `column` count from 1 within the source. `is_guarded` tells that the source takes care of a missing
    first key: a `default` stands right behind it, or the source asks whether it `is defined`.
    """

    root: str
    keys: tuple[str, ...]
    text: str
    line: int
    column: int
    is_guarded: bool


Kind = Literal["template", "expression"]

_Words = list[tuple[str, str, int, int]]


def reads(source: str, *, kind: Kind, roots: frozenset[str]) -> list[Read]:
    """Give what a source reads of some names, in the order of their places; a name that it sets itself is left out.

    Shapes: keys are told as far as they are plain, so `state[name]` has none.
    """
    if kind == "template" and not template.is_template(source):
        return []
    from treadle.definition import sandbox

    words = sandbox.words(source, kind)
    own = {text for (_, before, *_), (_, text, *_) in pairwise(words) if before in ("for", "set", "with")}
    found = [_read(words, n) for n, word in enumerate(words) if _is_root(words, n) and word[1] in roots - own]
    asked = {(r.root, *r.keys[:1]) for r, is_asked in found if is_asked and len(r.keys) <= 1}
    return [r._replace(is_guarded=True) if (r.root, *r.keys[:1]) in asked else r for r, _ in found]


def _is_root(words: _Words, n: int) -> bool:
    kind = words[n][0]
    before = words[n - 1][1] if n else ""
    after = words[n + 1][1] if n + 1 < len(words) else ""
    is_keyword = after == "=" and before in ("(", ",")
    return kind == "name" and before not in (".", "|", "is") and not is_keyword


def _read(words: _Words, n: int) -> tuple[Read, bool]:
    """Give a read, and whether it is asked for with `is defined`."""
    _, root, line, column = words[n]
    keys: list[str] = []
    n += 1
    while n + 1 < len(words):
        step = words[n][1]
        kind, text = words[n + 1][:2]
        if step == "." and kind == "name":
            keys.append(text)
            n += 2
        elif step == "[" and kind == "string" and n + 2 < len(words) and words[n + 2][1] == "]":
            keys.append(text[1:-1])
            n += 3
        else:
            break
    ahead = [text for _, text, *_ in words[n : n + 3]]
    is_asked = ahead[:2] == ["is", "defined"] or ahead[:3] == ["is", "not", "defined"]
    is_guarded = len(keys) <= 1 and ahead[:2] in (["|", "default"], ["|", "d"])
    return Read(root, tuple(keys), ".".join((root, *keys)), line, column, is_guarded), is_asked
