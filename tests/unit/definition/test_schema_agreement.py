"""The loader and the published schemas agree on good documents and on what is done to them.

Every key of every document of the corpus is doubled, misspelt, deleted, and given values of other types. The schema
cannot see duplicates, references, names, and the text within a template or an expression; in all else both accept or
both refuse, at the same place.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema_rs
import pytest
from jsonschema import Draft7Validator

from treadle.definition.composer import compose
from treadle.definition.load import Source, load_text
from treadle.definition.schema import schema

CORPUS = Path(__file__).parent / "corpus"
DOCUMENTS = sorted(path.name for path in CORPUS.glob("*.yaml"))
SCHEMAS = {kind: schema(kind) for kind in ("agent", "project", "workflow")}
QUICK = {kind: jsonschema_rs.Draft7Validator(SCHEMAS[kind]) for kind in SCHEMAS}
"""The same verdicts sooner, where no place is asked for."""
VALUES = [None, True, 7, 1.5, "text", [], {}, ["text"], {"text": 1}]

UNSEEN = re.compile(r"TR(2\d\d|108|109|110|112|113|115)")
"""Codes of what a schema cannot see: names, references, included files, and text in templates and expressions."""


def data_of(name):
    source = Source(name, (CORPUS / name).read_text())
    [tree], problems = compose(source)
    assert problems == []
    return tree.data


def kind_of(name):
    return name.partition("-")[0]


class Written:
    """A document as YAML text that knows where each key stands."""

    def __init__(self, data, *, doubled=None):
        self.lines = []
        self.places = {}
        self.second = None
        self._doubled = doubled
        self._block(data, (), 0)
        self.text = "\n".join(self.lines) + "\n"

    def _block(self, data, path, depth):
        pad = "  " * depth
        if isinstance(data, list):
            for n, item in enumerate(data):
                below = isinstance(item, (dict, list)) and bool(item)
                self.places[(*path, n)] = (len(self.lines) + 1 + below, len(pad) + 3)
                self._value(f"{pad}-", item, (*path, n), depth)
            return
        for key, value in data.items():
            at = (*path, key)
            for time in range(2 if at == self._doubled else 1):
                if time:
                    self.second = (len(self.lines) + 1, len(pad) + 1)
                self.places.setdefault(at, (len(self.lines) + 1, len(pad) + 1))
                written = key if re.fullmatch(r"[a-z][a-z0-9_-]*", key) else json.dumps(key)
                self._value(f"{pad}{written}:", value, at, depth)

    def _value(self, head, value, path, depth):
        if isinstance(value, (dict, list)) and value:
            self.lines.append(head)
            self._block(value, path, depth + 1)
        else:
            self.lines.append(f"{head} {json.dumps(value, ensure_ascii=False)}")


def keys(data, path=()):
    """Give the path of every key of a document."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*path, key)
            yield from keys(value, (*path, key))
    elif isinstance(data, list):
        for n, value in enumerate(data):
            yield from keys(value, (*path, n))


def changed(data, path, change):
    """Give a copy of the document in which `change(holder, key)` was made at a path."""
    out = copy.deepcopy(data)
    holder = out
    for item in path[:-1]:
        holder = holder[item]
    change(holder, path[-1])
    return out


def rename(holder, key, new):
    items = [(new if k == key else k, v) for k, v in holder.items()]
    holder.clear()
    holder.update(items)


def load(text, kind):
    loaded = load_text(text, root=CORPUS)
    errors = [p for p in loaded.errors if not UNSEEN.fullmatch(p.code)]
    if not loaded.errors:
        assert [d.kind for d in loaded.documents] == [kind]
    return errors


def faults(data, kind):
    return list(Draft7Validator(SCHEMAS[kind]).iter_errors(data))


def is_schema_key(data, path, kind):
    """Tell whether a key is one that the schema names, in a place where it allows no other."""
    misspelt = changed(data, path, lambda holder, key: rename(holder, key, f"{key}{key[-1]}q"))
    return any(
        fault.validator == "additionalProperties" and tuple(fault.absolute_path) == path[:-1]
        for fault in faults(misspelt, kind)
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_good_document_is_good_for_both(name):
    assert load_text((CORPUS / name).read_text(), root=CORPUS).errors == ()
    assert load(Written(data_of(name)).text, kind_of(name)) == []
    assert faults(data_of(name), kind_of(name)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_key_that_is_doubled_is_an_error_at_the_second_one(name):
    data = data_of(name)
    for path in keys(data):
        written = Written(data, doubled=path)
        found = [(p.line, p.column) for p in load_text(written.text, root=CORPUS).errors]
        assert written.second in found, (path, found)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_key_that_is_misspelt_is_an_error_at_it_for_both(name):
    data, kind = data_of(name), kind_of(name)
    tried = 0
    for path in keys(data):
        another_dialect = path == ("version",) and data["kind"] == "prompt"
        if another_dialect or not is_schema_key(data, path, kind):
            continue
        tried += 1
        wrong = f"{path[-1]}{path[-1][-1]}q"
        misspelt = changed(data, path, lambda holder, key, wrong=wrong: rename(holder, key, wrong))
        written = Written(misspelt)
        place = written.places[(*path[:-1], wrong)]
        found = [(p.line, p.column) for p in load(written.text, kind)]
        assert place in found, (path, place, found)
    assert tried


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_key_that_is_deleted_is_an_error_at_its_parent_exactly_where_it_is_required(name):
    data, kind = data_of(name), kind_of(name)
    for path in keys(data):
        without = changed(data, path, lambda holder, key: holder.pop(key))
        written = Written(without) if without else None
        errors = load(written.text if written else "{}", kind)
        found = faults(without, kind)
        assert bool(errors) == bool(found), (path, errors, found)
        missing = [p for p in errors if p.code == "TR101" or "must be a schema of an object" in p.message]
        required = [f for f in found if f.validator == "required" and tuple(f.absolute_path) == path[:-1]]
        assert bool(missing) == bool(required), (path, errors, found)
        if missing:
            parent = written.places.get(path[:-1], (1, 1)) if written else (1, 1)
            assert parent in [(p.line, p.column) for p in missing], (path, missing)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_value_of_another_type_is_refused_by_both_or_by_none(name):
    data, kind = data_of(name), kind_of(name)
    split = []
    for path in keys(data):
        before = data
        for item in path:
            before = before[item]
        for value in VALUES:
            if type(value) is type(before):
                continue
            other = changed(data, path, lambda holder, key, value=value: holder.__setitem__(key, value))
            errors = load(Written(other).text, kind)
            if bool(errors) == QUICK[kind].is_valid(other):
                found = [f.message for f in faults(other, kind)]
                split.append((path, value, [str(e) for e in errors], found))
    assert split == []


def test_the_corpus_uses_every_field_that_the_schemas_publish():
    used = set()
    for name in DOCUMENTS:
        kind = kind_of(name)
        data = data_of(name)
        used |= {(kind, *generic(path)) for path in keys(data)}
    fields = {(kind, *path) for kind in SCHEMAS for path in published(SCHEMAS[kind], kind)}
    missing = {field for field in fields if field not in used}
    assert missing == set()


NAMED = {"connections": ("agent", "project"), "models": ("project",), "nodes": ("workflow",)}
"""Fields that map names of the author's to more fields, by the kinds of document that have them."""


def generic(path):
    """Give a path without the indexes of lists, and with a star for a name that the author chose."""
    words = [item for item in path if isinstance(item, str)]
    return [*words[:1], "*", *words[2:]] if words[0] in NAMED and len(words) > 1 else words


def published(node, kind):
    """Give the paths of the fields of a schema, without what JSON Schemas within the document may hold."""
    for key, inner in node.get("properties", {}).items():
        yield (key,)
        holders = [inner, inner.get("items", {})]
        tools = [d for k, d in SCHEMAS[kind].get("definitions", {}).items() if k.endswith("Tool")]
        holders += tools if key == "tools" and "definitions" in node else []
        for holder in holders:
            yield from ((key, *path) for path in published(holder, kind))
        each = inner.get("additionalProperties")
        if not isinstance(each, dict) or key not in NAMED or kind not in NAMED[key]:
            continue
        definitions = SCHEMAS[kind].get("definitions", {})
        holders = [d for k, d in definitions.items() if k.endswith("Node")] if key == "nodes" else [each]
        if key != "nodes" or "definitions" in node:
            yield from ((key, "*", *path) for holder in holders for path in published(holder, kind))
