"""Turn YAML text into plain data with the place of every key and value; the only file that knows PyYAML.

Works on the parser's events, in one pass, so that depth, size and aliases are counted before anything is
built. Hazard: never hand unchecked text to `yaml.compose` or `yaml.load`; enough opening brackets crash the
composer of libyaml with the whole process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from treadle.definition.document import MAX_PROBLEMS, Place, Source, Tree, short
from treadle.definition.scalars import ScalarError, checked, plain
from treadle.errors import Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_ALIASES = 1_000
MAX_DOCUMENTS = 1_000
MAX_CHARS = 4 << 20
"""Characters of all values, aliases expanded: a long text may hide behind many aliases."""

DEFAULT_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNPRINTABLE = re.compile(
    "[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_TOKEN = re.compile(r"\S+")
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")
_NEXT_DOCUMENT = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
_UNQUOTED = re.compile(
    r"^(?P<before>\s*(?:- +)*(?:[^\s#'\"{}\[\]&*!|>%@`][^#'\"{}\[\]]*?:[ \t]+)?)(?P<value>\{[{%#].*)$"
)
_LONGEST_LINE = 1_000
_HINTS = (
    ("found character", "quote the value"),
    ("mapping values are not allowed", "indent with the lines above, or quote a value that contains ': '"),
    ("expected key", "indent with the lines above, or quote the value"),
    ("block end", "indent with the lines above, or quote the value"),
    ("'-' indicator", "indent with the lines above"),
    ("expected ','", "close the bracket, or put a comma between the items"),
    ("expected ':'", "write key: value"),
    ("end of stream", "close the quote"),
    ("escape", "in double quotes write a backslash twice, or use single quotes"),
)


class _Stop(Exception):
    """Give the file up."""


def compose(source: Source, *, loader: Any = DEFAULT_LOADER) -> tuple[list[Tree], list[Problem]]:
    """Read every document of a text, and every problem that YAML itself has with it.

    A document that breaks off is left out, the ones after it are read.
    """
    return _Composer(source, loader).run()


class _Composer:
    def __init__(self, source: Source, loader: Any) -> None:
        self.source = source
        self.loader = loader
        self.base = 0
        self.nodes = 0
        self.chars = 0
        self.aliases = 0
        self.problems: list[Problem] = []
        self.anchors: dict[str, tuple[Any, Place]] = {}
        self.open: set[str] = set()
        self.events: Iterator[Any] = iter(())
        self.path: list[str | int] = []

    def run(self) -> tuple[list[Tree], list[Problem]]:
        trees: list[Tree] = []
        try:
            self._check_text()
            while not self._read(trees):
                pass
        except _Stop:
            pass
        return trees, self.problems

    def _add(
        self, code: str, message: str, start: int, end: int | None = None, hint: str | None = None
    ) -> None:
        self.problems.append(self.source.problem(code, message, start=start, end=end, hint=hint))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Stop

    def _stop(self, message: str, start: int | None, hint: str | None = None) -> _Stop:
        self.problems.append(self.source.problem("TR003", message, start=start, hint=hint))
        return _Stop()

    def _check_text(self) -> None:
        text = self.source.text
        if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise self._stop("the file is larger than 1 MiB", None)
        bad = _UNPRINTABLE.search(text)
        if bad:
            what = f"the character U+{ord(bad.group()):04X} is not allowed in YAML"
            hint = "in double quotes write it as an escape, or remove it"
            self.problems.append(self.source.problem("TR009", what, start=bad.start(), hint=hint))
            raise _Stop

    def _read(self, trees: list[Tree]) -> bool:
        """Read documents from `base` on; tell whether the end was reached."""
        begun = self.base
        try:
            self.events = _parse(self.source.text[self.base :], self.loader)
            for event in self.events:
                if isinstance(event, yaml.DocumentStartEvent):
                    begun = self.base + _offset(event.start_mark)
                    if len(trees) >= MAX_DOCUMENTS:
                        raise self._stop(f"the file has more than {MAX_DOCUMENTS:,} documents", begun)
                    trees.append(self._document())
        except yaml.YAMLError as error:
            return self._recover(error, begun)
        return True

    def _document(self) -> Tree:
        self.anchors, self.open, self.path = {}, set(), []
        data, place = self._node(next(self.events), 1)
        next(self.events)
        return Tree(data, place)

    def _recover(self, error: yaml.YAMLError, begun: int) -> bool:
        """Report what YAML says and go on at the next document."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        offset = self.base + mark.index if mark is not None else begun
        self._unreadable(error, min(offset, len(self.source.text)), begun)
        again = _NEXT_DOCUMENT.search(self.source.text, max(offset, begun + 1, self.base + 1))
        if again is None:
            return True
        self.base = again.start()
        return False

    def _unreadable(self, error: yaml.YAMLError, offset: int, begun: int) -> None:
        said = str(getattr(error, "problem", None) or "it is not YAML")
        if "nesting depth" in said:
            # Newer parsers have a limit of their own, and read ahead: theirs may be met before ours.
            self._add("TR003", f"values are nested more than {MAX_DEPTH} deep", offset)
            return
        line = self.source.position(offset)[0]
        for number in (line, line - 1):
            if number < 1 or self.source.starts[number - 1] + len(self.source.line(number)) < begun:
                continue
            found = _UNQUOTED.match(self.source.line(number)[:_LONGEST_LINE])
            if found:
                start = self.source.starts[number - 1] + found.start("value")
                self._unquoted(found["before"].strip(), found["value"].rstrip(), start)
                return
        context = getattr(error, "context", None)
        if "that cannot start any token" in said and self.source.text[offset : offset + 1] == "\t":
            self._add("TR002", "a tab cannot indent YAML", offset, hint="indent with spaces")
            return
        text = f"YAML cannot be read here: {said}" + (f" {context}" if context else "")
        hint = next((h for words, h in _HINTS if words in said), None)
        self._add("TR002", text, offset, hint=hint)

    def _unquoted(self, label: str, value: str, start: int, end: int | None = None) -> None:
        quote = "'" if "'" not in value else '"' if '"' not in value and "\\" not in value else "''"
        quoted = f"{quote}{value}{quote}" if quote != "''" else "'" + value.replace("'", "''") + "'"
        at = self.source.position(start)
        # The start of a longer value was already taken for a whole one: the longer one is what to paste.
        self.problems = [p for p in self.problems if p.code != "TR011" or (p.line, p.column) != at]
        opening = value[:2]
        what = "YAML reads it as a mapping" if opening == "{{" else "YAML cannot read it"
        self._add(
            "TR011",
            f"this value starts with '{opening}' and is not quoted, so {what}",
            start,
            end,
            hint=f"write: {f'{label} ' if label else ''}{quoted}",
        )

    def _node(self, event: Any, depth: int, label: str = "") -> tuple[Any, Place]:
        start = self.base + event.start_mark.index
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, start, depth)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._stop(f"the file has more than {MAX_NODES:,} values, aliases expanded", start)
        if depth > MAX_DEPTH:
            raise self._stop(f"values are nested more than {MAX_DEPTH} deep", start)
        if event.tag is not None:
            self._add(
                "TR005",
                "tags are not allowed",
                start,
                self._token_end(start),
                "remove it; a file is data, not code",
            )
        anchor = event.anchor
        if anchor is not None:
            self.open.add(anchor)
        if isinstance(event, yaml.ScalarEvent):
            data, place = self._scalar(event, start)
        elif isinstance(event, yaml.SequenceStartEvent):
            data, place = self._sequence(start, depth)
        else:
            data, place = self._mapping(event, start, depth, label)
        if anchor is not None:
            self.open.discard(anchor)
            self.anchors[anchor] = (data, place)
        return data, place

    def _token_end(self, start: int) -> int:
        found = _TOKEN.match(self.source.text, start)
        return found.end() if found else start + 1

    def _alias(self, event: Any, start: int, depth: int) -> tuple[Any, Place]:
        end = self.base + event.end_mark.index
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self._stop(f"the file has more than {MAX_ALIASES:,} aliases", start)
        known = self.anchors.get(event.anchor)
        if known is None or event.anchor in self.open:
            self.nodes += 1
            if event.anchor in self.open:
                self._add(
                    "TR007", f"the alias '*{event.anchor}' lies inside the value it stands for", start, end
                )
            else:
                self._add("TR007", f"there is no anchor '&{event.anchor}' before this alias", start, end)
            return None, Place(start, end)
        data, place = known
        self.nodes += place.size
        if self.nodes > MAX_NODES:
            raise self._stop(f"the file has more than {MAX_NODES:,} values, aliases expanded", start)
        self.chars += place.chars
        if self.chars > MAX_CHARS:
            raise self._stop("the values are longer than 4 MiB, aliases expanded", start)
        if depth + place.height - 1 > MAX_DEPTH:
            raise self._stop(f"values are nested more than {MAX_DEPTH} deep, aliases expanded", start)
        return data, Place(
            start,
            end,
            style=place.style,
            children=place.children,
            keys=place.keys,
            size=place.size,
            chars=place.chars,
            height=place.height,
        )

    def _scalar(self, event: Any, start: int) -> tuple[Any, Place]:
        # The two parsers name the plain style differently: '' and None.
        style: str = event.style or ""
        begin = self._value_start(event, start)
        end = self.base + event.end_mark.index
        text: str = event.value
        self.chars += len(text)
        place = Place(begin, end if end > begin >= start else begin, style=style, chars=len(text))
        try:
            return (plain(text) if event.implicit[0] and not style else checked(text)), place
        except ScalarError as bad:
            self._add("TR009", str(bad), start, place.end, "quote it if text is meant" if not style else None)
            return "", place

    def _value_start(self, event: Any, start: int) -> int:
        """Step over the anchor or tag that the parser counts as part of a scalar.

        Where a value is left empty the two parsers disagree about the blanks around it: it stands before them.
        """
        if event.end_mark.index == event.start_mark.index:
            before = self.source.text[max(start - 200, 0) : start]
            return start - (len(before) - len(before.rstrip()))
        if event.anchor is None and event.tag is None:
            return start
        properties = _PROPERTIES.match(self.source.text, start)
        return min(properties.end() if properties else start, self.base + event.end_mark.index)

    def _sequence(self, start: int, depth: int) -> tuple[list[Any], Place]:
        items: list[Any] = []
        children: dict[str | int, Place] = {}
        size, height, chars = 1, 1, 0
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            self.path.append(len(items))
            value, place = self._node(event, depth + 1, "-")
            self.path.pop()
            children[len(items)] = place
            items.append(value)
            size += place.size
            chars += place.chars
            height = max(height, place.height + 1)
        end = self.base + _offset(event.end_mark)
        return items, Place(start, end, children=children, size=size, chars=chars, height=height)

    def _mapping(self, opening: Any, start: int, depth: int, label: str) -> tuple[Any, Place]:
        out: dict[str, Any] = {}
        children: dict[str | int, Place] = {}
        keys: dict[str | int, tuple[int, int]] = {}
        size, height, chars = 1, 1, 0
        braces = False
        before = len(self.problems)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_start = self.base + event.start_mark.index
            if _is_brace(opening, event) and key_start == start + 1:
                braces = True
            key, key_place = self._key(event, key_start, depth)
            value_event = next(self.events)
            self.path.append(key or "")
            value, place = self._node(value_event, depth + 1, f"{key}:" if key else "")
            self.path.pop()
            size += place.size + key_place.size
            chars += place.chars + key_place.chars
            height = max(height, place.height + 1)
            if key is None:
                continue
            if key in out:
                first = self.source.position(keys[key][0])[0]
                said = f"'{short(key)}' is written twice"
                self._add("TR004", said, key_place.start, key_place.end, f"the first one is on line {first}")
                continue
            out[key], children[key], keys[key] = value, place, (key_place.start, key_place.end)
        end = self.base + _offset(event.end_mark)
        if braces:
            del self.problems[before:]
            raw = self.source.text[start:end]
            self._unquoted(label, raw.splitlines()[0] if raw else raw, start, start + 1)
            return raw, Place(start, end, size=size, chars=len(raw))
        return out, Place(start, end, children=children, keys=keys, size=size, chars=chars, height=height)

    def _key(self, event: Any, start: int, depth: int) -> tuple[str | None, Place]:
        """Read a key; None stands for one that cannot be kept."""
        value, place = self._node(event, depth + 1)
        if isinstance(event, yaml.AliasEvent):
            if isinstance(value, str):
                return value, place
            self._add("TR008", "a key must be text", start, place.end)
            return None, place
        if not isinstance(event, yaml.ScalarEvent):
            self._add("TR008", "a key must be text", start, start + 1)
            return None, place
        raw = str(event.value)
        if raw == "<<" and not event.style:
            hint = "YAML 1.2 has none: write the keys out, or share one whole value by an alias"
            self._add("TR006", "merge keys are not allowed", place.start, place.end, hint)
            return None, place
        if not isinstance(value, str) and not (self.path and self.path[-1] == "cases"):
            hint = f"quote it: '{short(raw)}'" if raw else "write the key before the ':'"
            self._add("TR008", "a key must be text", place.start, place.end, hint)
            return None, place
        return raw, place


def _offset(mark: Any) -> int:
    """Give where a mark stands in the text: both parsers mark every event, each with a type of its own."""
    return mark.index


def _parse(text: str, loader: Any) -> Iterator[Any]:
    parse: Any = yaml.parse  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - PyYAML's stubs leave it untyped
    return iter(parse(text, Loader=loader))


def _is_brace(opening: Any, key: Any) -> bool:
    return bool(opening.flow_style) and isinstance(key, yaml.MappingStartEvent) and bool(key.flow_style)
