"""Write workflows and agents as native documents, so that loading the text gives equal records.

Texts are quoted where another reader of YAML could take them for something else; texts of several lines are block
scalars; what is short stands on one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from treadle.definition.document import is_list, is_mapping
from treadle.definition.scalars import plain
from treadle.errors import GraphError
from treadle.graph.document import agent_document, workflow_document
from treadle.objects.agent import AgentSpec
from treadle.objects.workflow import NODES, WorkflowSpec

WIDTH = 100
"""Columns that what stands on one line may take."""

_TOP = (
    "version",
    "kind",
    "name",
    "display_name",
    "description",
    "metadata",
    "model",
    "instructions",
    "inputs",
    "state",
    "outputs",
)
_LAST = ("tests",)
_SPREAD = ("inputs", "state")
_WORD = r"[A-Za-z0-9_./()+*<>=|'\[\],!%\"-]"
_BARE = re.compile(
    rf"[A-Za-z_](?:{_WORD}|:(?=[^\s:])| (?=[^\s#]))*|\d+(?:\.\d+)?(?:ms|s|m|h|d)|\d+\.\d+\.\d+"
)
_FLOW_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./]+)*|\d+(?:\.\d+)?(?:ms|s|m|h|d)")
_PATH = re.compile(r"\.{1,2}/[A-Za-z0-9_./-]+")
_OTHER_WORDS = frozenset({"y", "n", "yes", "no", "on", "off"})
"""Words that YAML 1.1 takes for true and false."""

_ESCAPED = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BLOCK = re.compile(
    "(?![ \n])[\n\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*"
)
_TABBED = re.compile(r"^[ ]*\t", re.MULTILINE)
_LONGEST_KEY = 1_000


def documents_text(documents: Sequence[tuple[str, WorkflowSpec | AgentSpec, bool]]) -> str:
    """Give documents as one text; each has the name that stands before it, but for the one that is the first.

    Shapes: the third item tells whether the document keeps the name, or the lack of one, that it has.
    """
    return "---\n".join(_document(name, spec, is_first) for name, spec, is_first in documents)


def _document(name: str, spec: WorkflowSpec | AgentSpec, is_first: bool) -> str:  # noqa: FBT001 - private, one caller
    if isinstance(spec, AgentSpec):
        data = agent_document(spec, name)
        is_workflow = False
    else:
        data = workflow_document(spec) | ({} if is_first else {"name": name})
        is_workflow = True
    whole: dict[str, Any] = {"version": "1.0.0", **data}
    first = [k for k in _TOP if k in whole]
    last = [k for k in _LAST if k in whole]
    if is_workflow:
        last = [*(k for k in ("start", "nodes") if k in whole), *last]
    keys = [*first, *(k for k in whole if k not in first and k not in last), *last]
    lines: list[str] = []
    for key in keys:
        if key == "nodes" and is_workflow and whole[key]:
            lines += ["nodes:", *_nodes(whole[key], 2)]
        else:
            lines += _entry(_key(key), whole[key], 0, may_flow=key not in _SPREAD)
    return "\n".join(lines) + "\n"


def _nodes(nodes: Mapping[str, Any], indent: int) -> Iterator[str]:
    for id_, node in nodes.items():
        yield f"{' ' * indent}{_key(id_)}:"
        yield from _node(node, indent + 2)


def _node(node: Mapping[str, Any], indent: int) -> Iterator[str]:
    known = [f.alias or n for n, f in NODES[node["type"]].model_fields.items()]
    first = ["type", *(k for k in ("name", "description") if k in node)]
    last = [k for k in ("save", "on_error", "next") if k in node]
    middle = [k for k in known if k in node and k not in first and k not in last]
    pad = " " * indent
    for key in [*first, *middle, *last]:
        value = node[key]
        if key == "nodes" and value:
            yield from (f"{pad}nodes:", *_nodes(value, indent + 2))
        elif key == "node":
            yield from (f"{pad}node:", *_node(value, indent + 2))
        elif key == "cases" and value:
            yield from (f"{pad}cases:", *_cases(value, indent + 2))
        else:
            yield from _entry(_key(key), value, indent)


def _cases(cases: Mapping[str, Any], indent: int) -> Iterator[str]:
    seen: dict[str, str] = {}
    for literal, target in cases.items():
        value = json.loads(literal)
        other = seen.setdefault(value if isinstance(value, str) else literal, literal)
        if other != literal:
            said = f"no document can hold a switch with both of the cases {other} and {literal}"
            raise GraphError(said, hint="choose by another value, or run the graph as it is")
        yield f"{' ' * indent}{scalar(value)}: {scalar(target)}"


def _key(key: str) -> str:
    return key if key in _OTHER_WORDS else scalar(key, is_key=True)


def _entry(key: str, value: Any, indent: int, *, may_flow: bool = True) -> Iterator[str]:
    """Give the lines of a key with its value."""
    pad = " " * indent
    head = f"{pad}{key}:"
    if len(key) > _LONGEST_KEY:
        yield f"{pad}? {key}"
        head = f"{pad}:"
    is_inner = is_mapping(value) or is_list(value)
    flow = _flow(value) if is_inner and (may_flow or not value) else None
    if flow is not None and len(head) + len(flow) < WIDTH:
        yield f"{head} {flow}"
    elif is_mapping(value) and value:
        yield head
        for inner, below in value.items():
            yield from _entry(_key(inner), below, indent + 2)
    elif is_list(value) and value:
        yield head
        for item in value:
            yield from _item(item, indent + 2)
    else:
        yield from _scalar_lines(head, value, indent)


def _item(value: Any, indent: int) -> Iterator[str]:
    """Give the lines of an item of a list."""
    pad = " " * indent
    flow = _flow(value) if is_mapping(value) or is_list(value) else None
    if flow is not None and indent + 2 + len(flow) < WIDTH:
        yield f"{pad}- {flow}"
    elif is_mapping(value) and value:
        lines = [line for key, below in value.items() for line in _entry(_key(key), below, indent + 2)]
        yield f"{pad}- {lines[0][indent + 2 :]}"
        yield from lines[1:]
    elif is_list(value) and value:
        lines = [line for below in value for line in _item(below, indent + 2)]
        yield f"{pad}- {lines[0][indent + 2 :]}"
        yield from lines[1:]
    else:
        yield from _scalar_lines(f"{pad}-", value, indent)


def _scalar_lines(head: str, value: Any, indent: int) -> Iterator[str]:
    # A line that begins with a tab could be taken for its indentation.
    is_block = (
        isinstance(value, str) and "\n" in value and _BLOCK.fullmatch(value) and not _TABBED.search(value)
    )
    if not is_block:
        yield f"{head} {_flow(value) if is_mapping(value) or is_list(value) else scalar(value)}"
        return
    body = value.rstrip("\n")
    ends = len(value) - len(body)
    yield f"{head} {('|-', '|', '|+')[min(ends, 2)]}"
    pad = " " * (indent + 2)
    yield from (pad + line if line else "" for line in body.split("\n"))
    yield from ("" for _ in range(ends - 1))


def _flow(value: Any) -> str | None:
    """Give a value on one line; None where it is a text, or holds one, that has no place there."""
    if is_mapping(value):
        parts = [(key, _flow(inner)) for key, inner in value.items()]
        if any(p is None or len(k) > _LONGEST_KEY for k, p in parts):
            return None
        return "{" + ", ".join(f"{_flow_key(k)}: {p}" for k, p in parts) + "}"
    if is_list(value):
        items = [_flow(inner) for inner in value]
        return None if None in items else "[" + ", ".join(str(i) for i in items) + "]"
    if isinstance(value, str) and "\n" in value:
        return None
    return scalar(value, is_flow=True)


def _flow_key(key: str) -> str:
    return key if key in _OTHER_WORDS else scalar(key, is_flow=True)


def scalar(value: Any, *, is_flow: bool = False, is_key: bool = False) -> str:
    """Give a scalar on one line, quoted where it has to be."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _is_bare(value, _FLOW_BARE if is_flow or is_key else _BARE):
        return value
    if _ESCAPED.search(value):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + _ESCAPED.sub(_escape, escaped) + '"'
    return "'" + value.replace("'", "''") + "'"


def _is_bare(text: str, pattern: re.Pattern[str]) -> bool:
    if text.lower() in _OTHER_WORDS or not (pattern.fullmatch(text) or _PATH.fullmatch(text)):
        return False
    return not text.endswith((" ", ":")) and plain(text) == text


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
